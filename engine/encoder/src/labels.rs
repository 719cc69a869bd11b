//! Names for features without a language model: from the words, word groups and documents on which they are strongest.
//!
//! A feature that fires on few words is called by them (`sorry, apologize`); one that fires on a common word or mark in
//! a certain place, by the words around it (`let me know`) or by the place (`- (line start)`). What the name rests on is
//! kept beside it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::level::Level;

use crate::error::Result;
use crate::options::ReaderOptions;
use crate::progress::Progress;
use crate::reader::Reader;
use crate::sae::context::{Example, WordSet};
use crate::sae::survey::{LatentSurvey, OnWord, Survey};
use crate::sae::texts::TextSource;
use crate::sae::{LatentInfo, Sae};

/// A label (or a description) on one line, of characters that can be seen. Names of tokens hold what the tokens hold:
/// line breaks and tabs that stand in quotes, or alone, are written `\n` and `\t`; others are white space between
/// words.
pub fn printable(label: &str) -> String {
    let is_quote = |c: char| matches!(c, '"' | '\'' | '`' | '\u{2018}'..='\u{201f}' | '«' | '»' | '‹' | '›');
    let escaped = |text: &str| -> String {
        text.chars().filter(|c| c.is_control()).map(|c| c.escape_default().to_string()).collect()
    };
    let mut rest = label.trim();
    if rest.is_empty() {
        return escaped(label);
    }
    let mut shown = String::with_capacity(rest.len());
    while let Some(first) = rest.chars().next() {
        let blank = rest.len() - rest.trim_start().len();
        let (this, behind) = rest.split_at(blank.max(first.len_utf8()));
        let named = shown.ends_with(is_quote) || behind.starts_with(is_quote);
        match (blank > 0, first.is_control()) {
            (true, _) if named && this.contains(char::is_control) => shown.push_str(&escaped(this)),
            (true, _) => shown.push(' '),
            (false, true) => shown.extend(first.escape_default()),
            (false, false) => shown.push(first),
        }
        rest = behind;
    }
    shown
}

/// What to label, from which texts.
#[derive(Debug, Clone)]
pub struct LabelOptions {
    /// Folder of the dictionary; `None`: the shipped one.
    pub dictionary: Option<PathBuf>,
    /// Text files, as in [`crate::sae::TrainOptions::input`].
    pub input: Vec<PathBuf>,
    /// Column (field) with the text.
    pub text_column: String,
    /// Tokens to read; 0: all.
    pub tokens: u64,
    /// Whether to keep short pieces of the texts as examples.
    pub examples: bool,
    /// Whether statistics (density, quantiles, presence threshold, hidden) are measured anew too.
    pub statistics: bool,
    /// Threads and cache folder.
    pub reader_options: ReaderOptions,
}

/// A latent that fires on more than this share of the samples is hidden as `dense`.
pub(crate) const DENSE: f64 = 0.05;
/// Documents in which a latent must fire to be worth a name; with fewer it is hidden as `rare`.
const MIN_DOCUMENTS: u64 = 8;
/// A token feature is present in a document only where it contributes this much to a token, whose length is 1 on average.
const PRESENCE_FLOOR: f32 = 0.15;
/// A span feature is present where it contributes this much to a sentence, whose length is 1. Few fire on a sentence, and
/// their valley would leave less than one.
const SPAN_PRESENCE: f32 = 0.1;
/// Words in more than this share of the samples say nothing about where a latent fires.
const COMMON: f64 = 0.004;
/// Longest name, in characters.
const LABEL_CHARS: usize = 48;
/// Words in a name.
const LABEL_WORDS: usize = 3;
/// Examples that are kept.
const KEPT_EXAMPLES: usize = 3;

/// Reads the input and returns what is known of each latent, with labels made from these texts.
///
/// # Errors
/// As [`crate::sae::Sae::load`], [`crate::Reader::load`]; [`crate::ErrorKind::Data`] for an input without text.
pub fn label(options: &LabelOptions, progress: &dyn Progress) -> Result<Vec<LatentInfo>> {
    let sae = Sae::open(options.dictionary.as_deref().unwrap_or(Path::new(crate::sae::DEFAULT)))?;
    let reader = Reader::load(sae.reader(), &options.reader_options, progress)?;
    let mut source = TextSource::open(&options.input, &options.text_column, Survey::TURN)?;
    let survey = Survey::of_texts(&sae, &reader, &mut source, options.tokens, progress)?;
    let mut latents = describe(&survey, &sae, options.examples);
    for (new, old) in latents.iter_mut().zip(sae.latents()) {
        // A feature that these texts do not show keeps the name it had.
        if new.hidden.as_deref().is_some_and(|why| why == "dead" || why == "rare") && !old.label.is_empty() {
            *new = old.clone();
        } else if !options.statistics {
            let LatentInfo { density, max_activation, presence_threshold, q50, q90, .. } = *old;
            *new = LatentInfo { density, max_activation, presence_threshold, q50, q90, ..std::mem::take(new) };
            new.hidden.clone_from(&old.hidden);
        }
    }
    distinguish(&mut latents, |_| false);
    Ok(latents)
}

/// Statistics, thresholds, names and evidence for every latent of `sae`, from what the survey saw.
pub(crate) fn describe(survey: &Survey, sae: &Sae, keep_examples: bool) -> Vec<LatentInfo> {
    let words = survey.words_by_latent();
    let mut latents: Vec<LatentInfo> = survey
        .latents
        .iter()
        .zip(&words)
        .zip(0..)
        .map(|((latent, words), i)| {
            let namer = Namer::new(survey, latent, words, sae.level());
            let density = latent.fires as f64 / survey.n_samples.max(1) as f64;
            let name = namer.name();
            let hidden = if latent.fires == 0 {
                Some("dead")
            } else if density > DENSE {
                Some("dense")
            } else if latent.documents.n() < MIN_DOCUMENTS {
                Some("rare")
            } else if is_template(&latent.examples) {
                Some("template")
            } else {
                name.hidden
            };
            let round = |x: f32| (x * 1e4).round() / 1e4;
            LatentInfo {
                latent: i,
                label: name.label,
                description: String::new(),
                label_source: "words".to_owned(),
                label_score: name.score.map(|score| (score * 100.0).round() / 100.0),
                detection: None,
                evidence_version: None,
                density: density as f32,
                max_activation: round(latent.max),
                presence_threshold: match sae.level() {
                    Level::Token => round(latent.documents.valley().max(PRESENCE_FLOOR)),
                    Level::Span | Level::Document => SPAN_PRESENCE,
                },
                q50: round(latent.documents.quantile(0.5)),
                q90: round(latent.documents.quantile(0.9)),
                hidden: hidden.map(str::to_owned),
                top_tokens: namer.top_words().into_iter().take(8).map(|top| top.word.to_owned()).collect(),
                top_words: namer.context_words().into_iter().take(8).map(|(word, _)| word).collect(),
                examples: latent
                    .examples
                    .iter()
                    .take(if keep_examples { KEPT_EXAMPLES } else { 0 })
                    .map(Example::marked)
                    .collect(),
            }
        })
        .collect();
    distinguish(&mut latents, |_| false);
    latents
}

/// Whether most of the strongest documents are nearly the same: the feature knows one text by heart (a template, a
/// licence, a signature), and no property of texts.
pub(crate) fn is_template(examples: &[Example]) -> bool {
    let mut different: Vec<WordSet> = Vec::new();
    for words in examples.iter().map(Example::word_set) {
        if !different.iter().any(|other| other.is_nearly(&words)) {
            different.push(words);
        }
    }
    examples.len() as u64 >= MIN_DOCUMENTS && 2 * different.len() < examples.len()
}

/// Makes equal names differ, as far as the evidence goes: by the words around, then by number. Those of `kept` latents
/// stay as they are.
pub(crate) fn distinguish(latents: &mut [LatentInfo], kept: impl Fn(usize) -> bool) {
    let mut by_label: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, latent) in latents.iter().enumerate() {
        by_label.entry(latent.label.clone()).or_default().push(i);
    }
    let mut taken: HashSet<String> = by_label.keys().cloned().collect();
    let mut groups: Vec<Vec<usize>> = by_label.into_values().filter(|group| group.len() > 1).collect();
    groups.sort_unstable();
    for mut group in groups {
        // The most frequent one keeps the plain name, if it must not stay another's.
        group.sort_by(|&a, &b| {
            kept(b).cmp(&kept(a)).then(latents[b].density.total_cmp(&latents[a].density)).then(a.cmp(&b))
        });
        for &i in group[1..].iter().filter(|i| !kept(**i)) {
            let latent = &latents[i];
            let base = latent.label.clone();
            let extra = latent.top_tokens.iter().skip(LABEL_WORDS).chain(&latent.top_words);
            let by_words = extra.filter(|word| !base.contains(word.as_str())).map(|word| format!("{base} ({word})"));
            let by_number = (2..).map(|n| format!("{base} #{n}"));
            if let Some(label) = by_words.take(8).chain(by_number).find(|label| !taken.contains(label)) {
                taken.insert(label.clone());
                latents[i].label = label;
            }
        }
    }
}

/// Whether a word can stand in a name by itself: it has a letter or digit.
fn is_word(word: &str) -> bool {
    word.chars().any(char::is_alphanumeric)
}

/// Whether two words are forms of one: `apologize`, `apologies`.
fn same_stem(a: &str, b: &str) -> bool {
    let common = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.chars().count(), b.chars().count());
    common >= 3 && common + 3 >= a.max(b) && common + if common == 3 { 1 } else { 2 } >= a.min(b)
}

/// Words as they would be written: no space around marks that take none.
fn join_words(words: &[String]) -> String {
    let mut text = String::new();
    for word in words {
        let closes = |c: char| ",.;:?!)]}%'’-/".contains(c);
        let opens = |c: char| "([{'’-/#@$".contains(c);
        let tight = text.is_empty() || text.ends_with(opens) || word.starts_with(closes);
        if !tight {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

/// A name and what is thought of it.
struct Name {
    label: String,
    score: Option<f32>,
    /// Why users do not want to see it, if so.
    hidden: Option<&'static str>,
}

/// Names one latent.
pub(crate) struct Namer<'a> {
    survey: &'a Survey,
    latent: &'a LatentSurvey,
    /// Words on which it is strong, by sum of activations.
    words: &'a [(&'a str, OnWord)],
    level: Level,
    /// Words of each of its examples.
    examples: Vec<Vec<String>>,
}

/// A word that may stand in a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) word: &'a str,
    /// Share of the strong activations that are on it.
    pub(crate) share: f64,
    /// Its occurrences with a strong activation.
    pub(crate) n: u32,
}

impl<'a> Namer<'a> {
    /// `words` are those of [`Survey::words_by_latent`].
    pub(crate) fn new(
        survey: &'a Survey,
        latent: &'a LatentSurvey,
        words: &'a [(&'a str, OnWord)],
        level: Level,
    ) -> Self {
        Self { survey, latent, words, level, examples: latent.examples.iter().map(Example::words).collect() }
    }

    fn candidates(&self) -> impl Iterator<Item = Candidate<'a>> {
        let total = self.latent.strong_sum.max(1e-9);
        self.words.iter().take(200).filter(|(word, _)| !word.is_empty()).map(move |&(word, on)| Candidate {
            word,
            share: f64::from(on.sum) / total,
            n: on.n,
        })
    }

    /// How much a word says about the latent: its share of the strong activations, the more the rarer it is elsewhere.
    fn weight(&self, candidate: &Candidate<'_>) -> f64 {
        let background = self.survey.word_count(candidate.word) as f64 / self.survey.n_samples.max(1) as f64;
        let lift = candidate.share / background.max(1e-7);
        match self.level {
            Level::Token => candidate.share * (1.0 + lift).ln(),
            // All words of a sentence are seen: those that are everywhere must count for nothing.
            _ => candidate.share * lift.max(1.0).ln(),
        }
    }

    /// At most 16 words of the latent, best first, one of each stem.
    pub(crate) fn top_words(&self) -> Vec<Candidate<'a>> {
        let mut candidates: Vec<Candidate<'_>> =
            self.candidates().filter(|c| c.n >= 2 || self.latent.places.n < 8).collect();
        candidates.sort_by(|a, b| self.weight(b).total_cmp(&self.weight(a)).then(a.word.cmp(b.word)));
        let mut chosen: Vec<Candidate<'_>> = Vec::new();
        for candidate in candidates {
            if !chosen.iter().any(|other| same_stem(other.word, candidate.word)) {
                chosen.push(candidate);
            }
            if chosen.len() == 16 {
                break;
            }
        }
        chosen
    }

    fn name(&self) -> Name {
        let places = self.latent.places;
        if places.n == 0 {
            return Name { label: "never fires".to_owned(), score: None, hidden: None };
        }
        let mut candidates: Vec<Candidate<'_>> = self.candidates().collect();
        candidates.sort_by(|a, b| self.weight(b).total_cmp(&self.weight(a)).then(a.word.cmp(b.word)));
        let best = candidates.first().map_or(0.0, |best| self.weight(best));
        let mut chosen: Vec<&Candidate<'_>> = Vec::new();
        for candidate in candidates.iter().take(16) {
            let enough = self.weight(candidate) >= 0.15 * best && candidate.n >= 2 || chosen.is_empty();
            if enough && !chosen.iter().any(|other| same_stem(other.word, candidate.word)) {
                chosen.push(candidate);
            }
            if chosen.len() == LABEL_WORDS {
                break;
            }
        }
        // All forms of the chosen words count for how much they cover and how surely they tell.
        let covering = candidates
            .iter()
            .filter(|c| chosen.iter().any(|other| same_stem(other.word, c.word) || other.word == c.word));
        let (mut coverage, mut strong, mut seen) = (0.0, 0.0, 0.0);
        for candidate in covering {
            coverage += candidate.share;
            strong += f64::from(candidate.n);
            seen += self.survey.word_count(candidate.word) as f64;
        }
        let precision = strong / f64::max(seen, 1.0);
        let coverage = coverage.min(1.0);
        let score = Some((2.0 * precision * coverage / (precision + coverage).max(1e-9)) as f32);
        let lexical = chosen.iter().any(|candidate| is_word(candidate.word));
        let separator = if lexical { ", " } else { " " };
        let words = || chosen.iter().map(|candidate| candidate.word).collect::<Vec<_>>().join(separator);

        let piece_share = f64::from(places.piece) / f64::from(places.n);
        if self.level == Level::Token && piece_share > 0.6 && coverage < 0.25 {
            return Name { label: self.piece_label(), score: None, hidden: Some("sub-word") };
        }
        if self.level != Level::Token || (lexical && coverage >= 0.2 && precision >= 0.04) {
            return Name { label: clip(&words()), score, hidden: None };
        }
        if let Some((phrases, share)) = self.phrases() {
            return Name { label: clip(&phrases), score: Some(share), hidden: None };
        }
        let mut label = words();
        let mut hidden = None;
        if let Some(place) = self.place() {
            label = format!("{label} ({place})");
        } else {
            let frequent = |count: u32| count as usize * 10 >= self.latent.examples.len() * 3;
            let context = self.context_words().into_iter().filter(|(_, count)| frequent(*count));
            let context: Vec<String> = context.take(2).map(|(word, _)| word).collect();
            if context.is_empty() {
                // A list mark or a bracket says something by itself; a full stop or a common word does not.
                let mark = chosen.first().map(|first| first.word).filter(|word| !is_word(word));
                hidden = mark.is_none_or(|mark| matches!(mark, "." | ",")).then_some("unclear");
            } else {
                label = format!("{label} near {}", context.join(", "));
            }
        }
        Name { label: clip(&label), score, hidden }
    }

    /// Where it stands, if it stands there nearly always.
    fn place(&self) -> Option<&'static str> {
        let places = self.latent.places;
        let mostly = |n: u32| f64::from(n) >= 0.6 * f64::from(places.n);
        if mostly(places.text_start) {
            Some("text start")
        } else if mostly(places.text_end) {
            Some("text end")
        } else if mostly(places.line_start) {
            Some("line start")
        } else {
            None
        }
    }

    /// Word groups of two to four words, at or beside the firing word, that a good part of the examples share.
    fn phrases(&self) -> Option<(String, f32)> {
        let examples = &self.latent.examples;
        if examples.len() < 8 {
            return None;
        }
        let mut counts: HashMap<&[String], u32> = HashMap::new();
        for (example, words) in examples.iter().zip(&self.examples) {
            let mut seen: HashSet<&[String]> = HashSet::new();
            for n in 2..=4 {
                let from = example.peak.start.saturating_sub(n);
                let to = (example.peak.end + 1).min(words.len().saturating_sub(n - 1));
                for start in from..to {
                    seen.insert(&words[start..start + n]);
                }
            }
            seen.into_iter().for_each(|gram| *counts.entry(gram).or_default() += 1);
        }
        let n_words = self.survey.n_tokens.max(1) as f64;
        let mut scored: Vec<(f64, &[String], f64)> = counts
            .into_iter()
            .filter(|(gram, count)| {
                *count >= 4 && gram.iter().filter(|word| is_word(word)).count() >= 2
                    || *count >= 8 && gram.iter().any(|word| is_word(word))
            })
            .map(|(gram, count)| {
                let share = f64::from(count) / examples.len() as f64;
                // Were the words independent, the group would follow the rarest of them this often by chance.
                let frequencies = gram.iter().map(|word| (self.survey.word_count(word) as f64 / n_words).min(1.0));
                let chance: f64 = frequencies.map(f64::ln).sum::<f64>() / gram.len() as f64;
                (share * (share.ln() - chance).max(0.0) * (gram.len() as f64).sqrt(), gram, share)
            })
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let &(_, best, share) = scored.first()?;
        if share < 0.2 {
            return None;
        }
        let mut label = join_words(best);
        let mut covered = share;
        // A second group, if it is not a part or a neighbour of the first.
        let other =
            scored.iter().find(|(_, gram, share)| *share >= 0.15 && gram.iter().all(|word| !best.contains(word)));
        if let Some((_, gram, share)) = other {
            label = format!("{label}, {}", join_words(gram));
            covered = (covered + share).min(1.0);
        }
        Some((label, covered as f32))
    }

    /// Words in the neighbourhood of the strongest activations that are rare elsewhere, with the number of examples.
    fn context_words(&self) -> Vec<(String, u32)> {
        let examples = &self.latent.examples;
        let mut counts: HashMap<&str, u32> = HashMap::new();
        let mut length = 0;
        for (example, words) in examples.iter().zip(&self.examples) {
            let around = words.iter().enumerate();
            let outside = |i: usize| self.level != Level::Token || !example.peak.contains(&i);
            let around: HashSet<&str> =
                around.filter(|&(i, word)| outside(i) && is_word(word)).map(|(_, word)| word.as_str()).collect();
            length += words.len();
            around.into_iter().for_each(|word| *counts.entry(word).or_default() += 1);
        }
        let n = examples.len().max(1) as f64;
        let mean_length = length as f64 / n;
        let total = if self.level == Level::Token { self.survey.n_tokens } else { self.survey.n_samples }.max(1) as f64;
        let span_words = if self.level == Level::Token { mean_length } else { 3.0 };
        let mut scored: Vec<(f64, &str, u32)> = counts
            .into_iter()
            .filter(|&(word, count)| count >= 3 && word.chars().count() > 1)
            .filter(|&(word, _)| self.survey.word_count(word) as f64 <= COMMON * total)
            .map(|(word, count)| {
                let expected = n * (1.0 - (-(self.survey.word_count(word) as f64) / total * span_words).exp());
                let log_odds = ((f64::from(count) + 0.5) / (expected + 0.5)).ln();
                (log_odds * f64::from(count).sqrt(), word, count)
            })
            .filter(|(score, ..)| *score > 1.5)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let mut chosen: Vec<(String, u32)> = Vec::new();
        for (_, word, count) in scored {
            if !chosen.iter().any(|(other, _)| same_stem(other, word)) {
                chosen.push((word.to_owned(), count));
            }
        }
        chosen
    }

    /// The word pieces on which it fires, with dots where the words go on.
    fn piece_label(&self) -> String {
        let mut counts: HashMap<String, (f32, u32)> = HashMap::new();
        for example in &self.latent.examples {
            let piece = example.text.get(example.token.clone()).unwrap_or_default().to_lowercase();
            let word_at = |at: usize| example.text.as_bytes().get(at).is_some_and(u8::is_ascii_alphanumeric);
            let before = if example.is_piece && example.token.start > 0 && word_at(example.token.start - 1) {
                "…"
            } else {
                ""
            };
            let after = if example.is_piece && word_at(example.token.end) { "…" } else { "" };
            let count = counts.entry(format!("{before}{piece}{after}")).or_default();
            count.0 += example.activation;
            count.1 += 1;
        }
        let mut pieces: Vec<(String, (f32, u32))> = counts.into_iter().collect();
        pieces.sort_by(|a, b| b.1.0.total_cmp(&a.1.0).then(a.0.cmp(&b.0)));
        let pieces: Vec<&str> = pieces.iter().take(LABEL_WORDS).map(|(piece, _)| piece.as_str()).collect();
        clip(&pieces.join(", "))
    }
}

/// Shortens a name at a comma or space.
fn clip(label: &str) -> String {
    if label.chars().count() <= LABEL_CHARS {
        return label.to_owned();
    }
    let cut: String = label.chars().take(LABEL_CHARS).collect();
    match cut.rfind([',', ' ']) {
        Some(at) if at > 0 => cut[..at].trim_end_matches([',', ' ']).to_owned(),
        _ => format!("{cut}…"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_word_are_one() {
        for (a, b) in [("apologize", "apologies"), ("sorry", "sorry"), ("list", "lists"), ("happy", "happily")] {
            assert!(same_stem(a, b), "{a} {b}");
        }
        for (a, b) in [("take", "taking"), ("run", "runs")] {
            assert!(same_stem(a, b), "{a} {b}");
        }
        for (a, b) in [("sorry", "apologize"), ("car", "care less"), ("the", "they're"), ("i", "in"), ("not", "now")] {
            assert!(!same_stem(a, b), "{a} {b}");
        }
    }

    #[test]
    fn equal_names_are_told_apart() {
        let latent = |latent: u32, words: &[&str]| LatentInfo {
            latent,
            label: "bank".to_owned(),
            density: 0.1 / (latent + 1) as f32,
            top_words: words.iter().map(|word| (*word).to_owned()).collect(),
            ..LatentInfo::default()
        };
        let mut latents = vec![latent(0, &["money"]), latent(1, &["river"]), latent(2, &["river"]), latent(3, &[])];
        let labels = |latents: &[LatentInfo]| latents.iter().map(|one| one.label.clone()).collect::<Vec<_>>();
        let mut again = latents.clone();
        distinguish(&mut latents, |_| false);
        assert_eq!(labels(&latents), ["bank", "bank (river)", "bank #2", "bank #3"]);
        distinguish(&mut again, |i| i >= 2);
        assert_eq!(labels(&again), ["bank (money)", "bank (river)", "bank", "bank"], "what was read stays");
    }

    #[test]
    fn word_groups_are_written_as_text() {
        let words = ["don", "'", "t", "worry", ",", "(", "be", ")"].map(str::to_owned);
        assert_eq!(join_words(&words), "don't worry, (be)");
    }

    #[test]
    fn long_names_end_at_a_word() {
        assert_eq!(clip("short"), "short");
        let long = clip("one two three four five six seven eight nine ten eleven");
        assert!(long.len() <= LABEL_CHARS && long.ends_with("nine"), "{long}");
        assert_eq!(clip(&"x".repeat(100)).chars().count(), LABEL_CHARS + 1);
    }
}
