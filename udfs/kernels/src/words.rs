//! Which word shows the same difference as a feature.
//!
//! Two passes over the texts of both sides: [`TermCounts`] counts in how many documents each word and each pair of
//! neighbouring words is, [`Candidates`] then counts how often those that differ enough are in the same documents as the
//! features in question. Memory is bounded: at most [`MAX_TERMS`] terms are counted at a time (lossy counting, Manku
//! and Motwani 2002: rare terms are forgotten first) and at most [`MAX_CANDIDATES`] are looked at in the second pass.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hasher};

use rayon::prelude::*;

use crate::FeatureId;
use crate::statistics::phi;

/// Terms that are counted at a time.
pub const MAX_TERMS: usize = 1 << 20;

/// Terms that the second pass looks at.
pub const MAX_CANDIDATES: usize = 4096;

/// Frequent terms that the second pass looks at.
pub const MAX_FREQUENT: usize = 1 << 15;

/// A word must show at least this share of the feature's difference, with the same sign.
pub const LEAST_SHARE: f64 = 0.8;

/// A word and a feature must be in the same documents: the correlation phi of their presence is at least this.
pub const LEAST_PHI: f64 = 0.5;

/// Longer words (in bytes) are no words; they only cost memory.
const MAX_WORD_BYTES: usize = 48;

type HashKey = BuildHasherDefault<Identity>;

/// Hasher of keys that are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

fn hash(word: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(word)
}

fn join(first: u64, second: u64) -> u64 {
    first.rotate_left(23).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ second
}

/// Words of a text in lower case: runs of letters and digits.
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// The stem of a lower-case English word, which its inflections share; as the word index has it.
pub fn stem(word: &str) -> String {
    frostem::Stemmer::new(frostem::Algorithm::English).stem(word).into_owned()
}

/// Visits the terms of a lower-case text: words (letters and digits, with inner apostrophes), pairs of words with
/// nothing but blanks between them, and single symbols. The second word is given for a pair.
fn for_each_term<'a>(text: &'a str, mut visit: impl FnMut(u64, &'a str, Option<&'a str>)) {
    let is_word = |c: char| c.is_alphanumeric() || c == '\'' || c == '’';
    let mut previous: Option<(u64, &str)> = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if is_word(c) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = rest[..length].trim_matches(|c| c == '\'' || c == '’');
            rest = &rest[length..];
            if word.is_empty() || word.len() > MAX_WORD_BYTES {
                previous = None;
                continue;
            }
            let key = hash(word);
            visit(key, word, None);
            if let Some((before, first)) = previous {
                visit(join(before, key), first, Some(word));
            }
            previous = Some((key, word));
        } else {
            let (symbol, after) = rest.split_at(c.len_utf8());
            rest = after;
            if !c.is_whitespace() {
                visit(hash(symbol), symbol, None);
                previous = None;
            } else if c == '\n' {
                previous = None;
            }
        }
    }
}

/// In how many documents of A (0) and B (1) each term is.
#[derive(Debug)]
pub struct TermCounts {
    docs: HashMap<u64, [u32; 2], HashKey>,
    n_docs: [u32; 2],
    max_terms: usize,
    forgotten: u32,
}

impl Default for TermCounts {
    fn default() -> Self {
        Self::with_max_terms(MAX_TERMS)
    }
}

impl TermCounts {
    fn with_max_terms(max_terms: usize) -> Self {
        Self { docs: HashMap::default(), n_docs: [0; 2], max_terms, forgotten: 0 }
    }

    /// Counts texts of side `side` (0 or 1).
    pub fn update(&mut self, side: usize, texts: &[&str]) {
        let terms = |text: &&str| {
            let mut keys = Vec::new();
            for_each_term(&text.to_lowercase(), |key, _, _| keys.push(key));
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        for texts in texts.chunks(512) {
            let documents: Vec<Vec<u64>> = texts.par_iter().map(terms).collect();
            self.n_docs[side] += documents.len() as u32;
            for key in documents.iter().flatten() {
                self.docs.entry(*key).or_default()[side] += 1;
            }
            while self.docs.len() > self.max_terms {
                self.forgotten += 1;
                self.docs.retain(|_, docs| docs[0] + docs[1] > self.forgotten);
            }
        }
    }

    /// The terms whose frequencies differ by at least `least`, largest difference first.
    pub fn candidates(self, least: f64, features: &[FeatureId]) -> Candidates {
        let n = self.n_docs.map(|n| f64::from(n.max(1)));
        let mut differing: Vec<(u64, [u32; 2], f64)> = self
            .docs
            .into_iter()
            .map(|(key, docs)| (key, docs, f64::from(docs[0]) / n[0] - f64::from(docs[1]) / n[1]))
            .filter(|(_, _, difference)| difference.abs() >= least)
            .collect();
        differing.sort_by(|x, y| y.2.abs().total_cmp(&x.2.abs()).then_with(|| x.0.cmp(&y.0)));
        differing.truncate(MAX_CANDIDATES);
        let terms = differing.into_iter().map(|(key, docs, _)| (key, docs));
        Candidates::new(terms, features, self.n_docs)
    }

    /// The terms that at least `least` documents have, the most frequent of them.
    pub fn frequent(self, least: u32, features: &[FeatureId]) -> Candidates {
        let mut frequent: Vec<(u64, [u32; 2])> =
            self.docs.into_iter().filter(|(_, docs)| docs[0] + docs[1] >= least).collect();
        frequent.sort_by_key(|(key, docs)| (std::cmp::Reverse(docs[0] + docs[1]), *key));
        frequent.truncate(MAX_FREQUENT);
        Candidates::new(frequent.into_iter(), features, self.n_docs)
    }
}

#[derive(Debug)]
struct Term {
    docs: [u32; 2],
    text: String,
}

/// How often terms and features are in the same documents.
#[derive(Debug)]
pub struct Candidates {
    index: HashMap<u64, u32, HashKey>,
    terms: Vec<Term>,
    features: HashMap<FeatureId, usize>,
    feature_docs: Vec<u32>,
    /// Row-major, features x terms.
    together: Vec<u32>,
    n_docs: [u32; 2],
}

impl Candidates {
    fn new(terms: impl Iterator<Item = (u64, [u32; 2])>, features: &[FeatureId], n_docs: [u32; 2]) -> Self {
        let (keys, terms): (Vec<u64>, Vec<Term>) =
            terms.map(|(key, docs)| (key, Term { docs, text: String::new() })).unzip();
        Self {
            index: keys.into_iter().zip(0..).collect(),
            together: vec![0; terms.len() * features.len()],
            terms,
            features: features.iter().copied().zip(0..).collect(),
            feature_docs: vec![0; features.len()],
            n_docs,
        }
    }

    /// Counts documents, the same ones as in the first pass: each text with the ids of its features.
    pub fn update(&mut self, documents: &[(&str, &[FeatureId])]) {
        let found = |(text, ids): &(&str, &[FeatureId])| {
            let text = text.to_lowercase();
            let (mut terms, mut seen): (Vec<(u32, String)>, HashSet<u32>) = Default::default();
            for_each_term(&text, |key, first, second| {
                if let Some(term) = self.index.get(&key)
                    && seen.insert(*term)
                {
                    let name = if self.terms[*term as usize].text.is_empty() {
                        second.map_or_else(|| first.to_string(), |second| format!("{first} {second}"))
                    } else {
                        String::new()
                    };
                    terms.push((*term, name));
                }
            });
            let features: Vec<usize> = ids.iter().filter_map(|id| self.features.get(id).copied()).collect();
            (terms, features)
        };
        let found: Vec<_> = documents.par_iter().map(found).collect();
        for (terms, features) in found {
            for feature in features {
                self.feature_docs[feature] += 1;
                let row = &mut self.together[feature * self.terms.len()..][..self.terms.len()];
                for (term, _) in &terms {
                    row[*term as usize] += 1;
                }
            }
            for (term, name) in terms {
                let term = &mut self.terms[term as usize];
                if term.text.is_empty() {
                    term.text = name;
                }
            }
        }
    }

    /// The term that shows the difference of `feature` best: of those with the same sign and [`LEAST_SHARE`] of its
    /// size, the one that is most in the same documents; none below [`LEAST_PHI`]. Of equally good ones a term that
    /// `is_telling` is taken, then a word rather than a pair, then the longest.
    pub fn best(&self, feature: FeatureId, difference: f64, is_telling: impl Fn(&str) -> bool) -> Option<WordMatch> {
        self.best_of(feature, is_telling, |frequency| {
            let shown = frequency[0] - frequency[1];
            shown * difference > 0.0 && shown.abs() >= LEAST_SHARE * difference.abs()
        })
    }

    /// The term that is most in the documents of `feature`; none below [`LEAST_PHI`]. Of equally good ones as in
    /// [`Self::best`].
    pub fn nearest(&self, feature: FeatureId, is_telling: impl Fn(&str) -> bool) -> Option<WordMatch> {
        self.best_of(feature, is_telling, |_| true)
    }

    /// All terms with the documents that have the term and `feature`, and those that have the term.
    pub fn together(&self, feature: FeatureId) -> impl Iterator<Item = (&str, u32, u32)> {
        let row = self.features.get(&feature).map(|position| &self.together[position * self.terms.len()..]);
        self.terms
            .iter()
            .zip(row.unwrap_or_default())
            .map(|(term, together)| (term.text.as_str(), *together, term.docs[0] + term.docs[1]))
    }

    fn best_of(
        &self,
        feature: FeatureId,
        is_telling: impl Fn(&str) -> bool,
        keep: impl Fn([f64; 2]) -> bool,
    ) -> Option<WordMatch> {
        let position = *self.features.get(&feature)?;
        let row = &self.together[position * self.terms.len()..][..self.terms.len()];
        let n = self.n_docs.map(|n| f64::from(n.max(1)));
        let total = u64::from(self.n_docs[0] + self.n_docs[1]);
        let feature_docs = u64::from(self.feature_docs[position]);
        let rank = |term: &str| {
            (is_telling(term), !term.contains(' '), term.chars().count(), std::cmp::Reverse(term.to_string()))
        };
        let mut best: Option<WordMatch> = None;
        for (term, together) in self.terms.iter().zip(row) {
            let frequency = [f64::from(term.docs[0]) / n[0], f64::from(term.docs[1]) / n[1]];
            if !keep(frequency) {
                continue;
            }
            let docs = u64::from(term.docs[0] + term.docs[1]);
            let phi = phi(u64::from(*together), feature_docs, docs, total);
            let better = best.as_ref().is_none_or(|best| {
                phi > best.phi + 1e-12 || phi > best.phi - 1e-12 && rank(&term.text) > rank(&best.term)
            });
            if phi >= LEAST_PHI && better {
                best = Some(WordMatch { term: term.text.clone(), frequency, phi });
            }
        }
        best
    }
}

/// Some terms, to be found in texts.
#[derive(Debug)]
pub struct TermIndex {
    index: HashMap<u64, usize, HashKey>,
}

impl TermIndex {
    /// Of these terms, which are as [`WordMatch::term`] gives them.
    pub fn new(terms: &[String]) -> Self {
        let key = |term: &String| {
            // The whole term is visited last.
            let mut last = 0;
            for_each_term(term, |key, _, _| last = key);
            last
        };
        Self { index: terms.iter().map(key).zip(0..).collect() }
    }

    /// Positions of the terms that are in a text, ascending.
    pub fn find(&self, text: &str) -> Vec<usize> {
        let mut found = Vec::new();
        for_each_term(&text.to_lowercase(), |key, _, _| found.extend(self.index.get(&key).copied()));
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// A word, or a pair of words, that shows about the same difference.
#[derive(Debug, Clone, PartialEq)]
pub struct WordMatch {
    /// The word or the pair, lower case.
    pub term: String,
    /// Share of the documents of A and of B that have it.
    pub frequency: [f64; 2],
    /// Correlation with the feature.
    pub phi: f64,
}

impl fmt::Display for WordMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" {:.2} vs {:.2}", self.term, self.frequency[0], self.frequency[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        for_each_term(text, |_, first, second| {
            terms.push(second.map_or_else(|| first.to_string(), |second| format!("{first} {second}")));
        });
        terms
    }

    #[test]
    fn inflections_share_a_stem() {
        assert_eq!([stem("apologies"), stem("refunded")], [stem("apology"), stem("refund")]);
        assert_ne!(stem("apology"), stem("refund"));
    }

    #[test]
    fn terms_are_words_pairs_and_symbols() {
        assert_eq!(terms("i don't. ok 'so'"), ["i", "don't", "i don't", ".", "ok", "so", "ok so"]);
        assert_eq!(terms("a\nb — 你好"), ["a", "b", "—", "你好"]);
        assert!(terms(&"x".repeat(100)).is_empty() && terms("").is_empty() && terms("'").is_empty());
    }

    #[test]
    fn terms_are_found_again() {
        let index = TermIndex::new(&["tea".to_string(), "green tea".to_string(), "!".to_string(), "don't".to_string()]);
        assert_eq!(index.find("Green tea, don't!"), [0, 1, 2, 3]);
        assert_eq!(index.find("teas. Green"), [] as [usize; 0]);
    }

    #[test]
    fn the_nearest_term_needs_no_difference() {
        let mut terms = TermCounts::default();
        let texts: Vec<String> =
            (0..40).map(|row| format!("word{} {}", row, if row % 4 == 0 { "tea" } else { "so" })).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        terms.update(0, &texts);
        let mut candidates = terms.frequent(2, &[7, 8]);
        let ids: Vec<&[FeatureId]> = (0..40).map(|row| if row % 4 == 0 { [7].as_slice() } else { &[] }).collect();
        candidates.update(&texts.iter().copied().zip(ids).collect::<Vec<_>>());
        assert_eq!(candidates.nearest(7, |_| false).map(|word| (word.term, word.phi)), Some(("tea".to_string(), 1.0)));
        assert_eq!(candidates.nearest(8, |_| false), None);
        let mut counts: Vec<_> = candidates.together(7).collect();
        counts.sort_unstable();
        assert_eq!(counts, [("so", 0, 30), ("tea", 10, 10)]);
        assert_eq!(candidates.together(9).count(), 0);
    }

    #[test]
    fn the_word_behind_a_feature_is_found() {
        // Feature 7 fires on apologies: "sorry" and "apologise". A apologises in 9 of 20, B in 1.
        let text = |apologises: bool, row: usize| {
            let said = if !apologises {
                "here you are"
            } else if row % 5 == 0 {
                "i apologise"
            } else {
                "so sorry about that"
            };
            format!("Well, {said}! the {row}")
        };
        let a: Vec<(String, bool)> = (0..20).map(|row| (text(row < 9, row), row < 9)).collect();
        let b: Vec<(String, bool)> = (0..20).map(|row| (text(row < 1, row + 1), row < 1)).collect();
        let mut counts = TermCounts::default();
        for (side, documents) in [&a, &b].into_iter().enumerate() {
            counts.update(side, &documents.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>());
        }
        let mut candidates = counts.candidates(0.1, &[7, 8]);
        for documents in [&a, &b] {
            let rows: Vec<(&str, &[u32])> =
                documents.iter().map(|(text, has)| (text.as_str(), if *has { &[7][..] } else { &[] })).collect();
            candidates.update(&rows);
        }
        // "sorry" is in 7 of 20 of A and in 1 of 20 of B: 0.30 of the feature's 0.40 is too little.
        let best = |feature, difference| candidates.best(feature, difference, |_| false);
        assert_eq!(best(7, 0.4), None);
        assert_eq!(best(7, 0.35).unwrap().to_string(), "\"about\" 0.35 vs 0.05", "longest of equally good words");
        let telling = candidates.best(7, 0.35, |term| term == "sorry").unwrap();
        assert_eq!(telling.to_string(), "\"sorry\" 0.35 vs 0.05");
        assert_eq!(best(7, -0.35), None, "other direction");
        assert_eq!(best(8, 0.35), None, "not in the same documents");
        assert_eq!(best(9, 0.35), None, "not asked for");
    }

    #[test]
    fn memory_is_bounded_and_frequent_terms_survive() {
        let mut counts = TermCounts::with_max_terms(1000);
        for row in 0..1200u32 {
            counts.update((row % 2) as usize, &[format!("w{row} v{row} common").as_str()]);
        }
        assert!(counts.docs.len() <= 1000 && counts.forgotten > 0);
        assert_eq!(counts.docs[&hash("common")], [600, 600]);
    }
}
