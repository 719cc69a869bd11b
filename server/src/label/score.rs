//! How good a name is: whether a model that knows nothing but the name finds what the feature finds.
//!
//! - *Detection*: in which of these texts is it? Half of them have the feature, half were drawn from all texts.
//! - *Fuzzing*: in which of these texts is the mark on it? Half of the marks are where the feature is, half on another
//!   part of the same text.
//!
//! Both (Paulo et al. 2024, arXiv 2410.13928) use contexts that whoever gave the name has not seen, and give the balanced
//! accuracy: the mean of the shares of right answers among those that should be chosen and those that should not. 1 is
//! perfect, 0.5 is chance.

use std::ops::Range;

use saequel_engine::evidence::{Band, FeatureEvidence, Split};
use serde::{Deserialize, Serialize};

use super::client::Message;
use super::prompt;
use super::random::Random;

/// Texts of each kind that are asked about, at most.
const MOST: usize = 10;
/// With fewer of each kind there is no score.
const LEAST: usize = 3;

/// A way to judge a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Score {
    /// Which of these texts show what the label says?
    Detection,
    /// In which of these texts is the mark on what the label says?
    Fuzzing,
}

/// A score and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// 0 to 1; 0.5 is chance.
    pub(crate) balanced_accuracy: f32,
    /// Texts that were judged.
    pub(crate) n: usize,
}

/// Texts to judge.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sheet {
    /// In the order in which they are asked about.
    pub(crate) texts: Vec<String>,
    /// Which of them should be chosen.
    truth: Vec<bool>,
}

impl Score {
    /// What is asked about a feature; `None` if there are not enough contexts. The same `seed` gives the same sheet.
    pub(crate) fn sheet(self, evidence: &FeatureEvidence, seed: u64) -> Option<Sheet> {
        let mut random = Random::new(seed, u64::from(evidence.latent) * 2 + self as u64);
        let with_bands = |bands: &[Band]| -> Vec<&str> {
            let wanted = evidence.contexts.iter().filter(|c| c.split == Split::Test && bands.contains(&c.band));
            wanted.map(|context| context.text.as_str()).collect()
        };
        let mut active = with_bands(&[Band::Strongest, Band::Middle]);
        random.shuffle(&mut active);
        let (right, wrong) = match self {
            Score::Detection => {
                let mut others = with_bands(&[Band::Other]);
                random.shuffle(&mut others);
                (active.into_iter().map(unmarked).collect(), others.into_iter().map(unmarked).collect())
            }
            Score::Fuzzing => marks(&active, &mut random),
        };
        sheet(right, wrong, &mut random)
    }

    /// The request that asks `label` about a sheet.
    pub(crate) fn request(self, label: &str, sheet: &Sheet) -> Vec<Message> {
        match self {
            Score::Detection => prompt::detection(label, &sheet.texts),
            Score::Fuzzing => prompt::fuzzing(label, &sheet.texts),
        }
    }
}

impl Sheet {
    /// The score of an answer that chose these numbers, counted from 1.
    pub(crate) fn score(&self, chosen: &[usize]) -> Measured {
        let right_share = |of: bool| {
            let asked = (1..).zip(&self.truth).filter(|(_, truth)| **truth == of);
            let n = asked.clone().count().max(1);
            asked.filter(|(number, _)| chosen.contains(number) == of).count() as f32 / n as f32
        };
        Measured { balanced_accuracy: (right_share(true) + right_share(false)) / 2.0, n: self.truth.len() }
    }
}

/// As many right as wrong ones, mixed.
fn sheet(right: Vec<String>, wrong: Vec<String>, random: &mut Random) -> Option<Sheet> {
    let n = right.len().min(wrong.len()).min(MOST);
    if n < LEAST {
        return None;
    }
    let right = right.into_iter().take(n).map(|text| (text, true));
    let mut all: Vec<(String, bool)> = right.chain(wrong.into_iter().take(n).map(|text| (text, false))).collect();
    random.shuffle(&mut all);
    let (texts, truth) = all.into_iter().unzip();
    Some(Sheet { texts, truth })
}

/// Texts whose marks are right, and others whose marks were moved. A text without one clear mark is left out.
fn marks(texts: &[&str], random: &mut Random) -> (Vec<String>, Vec<String>) {
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for text in texts.iter().filter_map(|text| Marked::of(text)) {
        let moved = if wrong.len() < right.len() { text.moved(random) } else { None };
        match moved {
            Some(moved) => wrong.push(moved.to_string()),
            None => right.push(text.to_string()),
        }
    }
    (right, wrong)
}

/// A text without its marks.
fn unmarked(text: &str) -> String {
    text.replace(['«', '»'], "")
}

/// A text and the part of it that is marked.
struct Marked {
    text: String,
    mark: Range<usize>,
}

impl Marked {
    /// Reads a text that has exactly one mark.
    fn of(text: &str) -> Option<Self> {
        let (before, rest) = text.split_once('«')?;
        let (mark, after) = rest.split_once('»')?;
        if [before, mark, after].iter().any(|part| part.contains(['«', '»'])) || mark.is_empty() {
            return None;
        }
        Some(Self { text: [before, mark, after].concat(), mark: before.len()..before.len() + mark.len() })
    }

    /// The same text with the mark on other words, as many as now if they are to be had, at least half of them; not on
    /// the same word in another place. `None` if there are none.
    fn moved(&self, random: &mut Random) -> Option<Self> {
        let words = words(&self.text);
        let inside = |word: &&Range<usize>| word.start < self.mark.end && word.end > self.mark.start;
        let n = words.iter().filter(inside).count().max(1);
        let marked = self.text[self.mark.clone()].trim();
        // What touches the mark may be the rest of its word.
        let before: Vec<&Range<usize>> = words.iter().filter(|word| word.end < self.mark.start).collect();
        let after: Vec<&Range<usize>> = words.iter().filter(|word| word.start > self.mark.end).collect();
        let places = |n: usize| {
            let runs = before.windows(n).chain(after.windows(n)).map(|run| run[0].start..run[n - 1].end);
            runs.filter(|place| !self.text[place.clone()].eq_ignore_ascii_case(marked)).collect::<Vec<_>>()
        };
        let longest = (n.div_ceil(2)..=n).rev().map(places).find(|places| !places.is_empty())?;
        let mark = longest[random.below(longest.len())].clone();
        Some(Self { text: self.text.clone(), mark })
    }
}

impl std::fmt::Display for Marked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { text, mark } = self;
        write!(f, "{}«{}»{}", &text[..mark.start], &text[mark.clone()], &text[mark.end..])
    }
}

/// Where the words of a text are.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for (at, c) in text.char_indices().filter(|(_, c)| c.is_alphanumeric()) {
        match words.last_mut().filter(|word| word.end == at) {
            Some(word) => word.end = at + c.len_utf8(),
            None => words.push(at..at + c.len_utf8()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::testing::{context, evidence};

    fn with_tests(n: usize) -> FeatureEvidence {
        let mut evidence = evidence("sorry");
        for i in 0..n {
            evidence.contexts.push(context(
                Band::Strongest,
                Split::Test,
                &format!("active{i} I am «sorry» about this"),
            ));
            evidence.contexts.push(context(Band::Other, Split::Test, &format!("other{i} about that")));
        }
        evidence
    }

    #[test]
    fn detection_asks_about_unseen_texts_without_marks() {
        let evidence = with_tests(30);
        let sheet = Score::Detection.sheet(&evidence, 1).unwrap();
        assert_eq!((sheet.texts.len(), sheet.truth.iter().filter(|t| **t).count()), (20, 10));
        for (text, truth) in sheet.texts.iter().zip(&sheet.truth) {
            assert!(!text.contains(['«', '»']) && text.starts_with(if *truth { "active" } else { "other" }), "{text}");
        }
        assert_eq!(Score::Detection.sheet(&evidence, 1), Some(sheet.clone()));
        assert_ne!(Score::Detection.sheet(&evidence, 2), Some(sheet));
        assert_eq!(Score::Detection.sheet(&with_tests(2), 1), None);
    }

    #[test]
    fn fuzzing_moves_half_of_the_marks() {
        let sheet = Score::Fuzzing.sheet(&with_tests(12), 1).unwrap();
        assert_eq!((sheet.texts.len(), sheet.truth.iter().filter(|t| **t).count()), (12, 6));
        for (text, truth) in sheet.texts.iter().zip(&sheet.truth) {
            assert!(text.contains("«sorry»") == *truth && text.matches('«').count() == 1, "{text}");
        }
        assert_eq!(Score::Fuzzing.sheet(&with_tests(5), 1), None);
    }

    #[test]
    fn a_mark_moves_to_as_many_other_words() {
        let moved = |text: &str, seed: u64| Some(Marked::of(text)?.moved(&mut Random::new(seed, 0))?.to_string());
        for seed in 0..20 {
            let word = moved("sorry, apolog«ize» for Sorry «", seed);
            assert_eq!(word, None, "two marks");
            let word = moved("well, apolog«ize» now", seed).unwrap();
            assert!(word == "«well», apologize now" || word == "well, apologize «now»", "{word}");
            assert_eq!(moved("Sorry «sorry» too", seed).unwrap(), "Sorry sorry «too»");
            let span = moved("One two three. «Four five six.» Seven eight nine ten.", seed).unwrap();
            let (_, mark) = span.split_once('«').unwrap();
            assert_eq!(mark.split_once('»').unwrap().0.split_whitespace().count(), 3, "{span}");
            assert_eq!(moved("Ten two. «Four five six.»", seed).unwrap(), "«Ten two». Four five six.");
        }
        assert_eq!(moved("«all of it»", 1), None);
        assert_eq!(moved("sorry «sorry»", 1), None);
        assert!(Marked::of("no mark").is_none() && Marked::of("»x«").is_none() && Marked::of("«»").is_none());
    }

    #[test]
    fn accuracy_is_balanced() {
        let sheet = Sheet { texts: vec![String::new(); 4], truth: vec![true, false, false, false] };
        for (chosen, expected) in [(vec![1], 1.0), (vec![], 0.5), (vec![1, 2, 3, 4], 0.5), (vec![2, 3, 4], 0.0)] {
            assert_eq!(sheet.score(&chosen), Measured { balanced_accuracy: expected, n: 4 }, "{chosen:?}");
        }
        assert!((sheet.score(&[1, 2]).balanced_accuracy - 5.0 / 6.0).abs() < 1e-6);
    }
}
