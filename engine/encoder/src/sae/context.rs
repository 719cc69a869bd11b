//! Places in texts: a token or sentence with the words around it, and stretches of text with all that fires on them.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use super::SparseRows;
use super::harvest::UnitText;
use crate::level::Level;
use crate::reader::Token;

/// Words on either side of the firing one that a context shows.
const CONTEXT_WORDS: usize = 12;
/// Longest context, in bytes: words can be long (links, encoded data), and contexts are kept by the hundred thousand.
const CONTEXT_BYTES: usize = 1000;
/// Tokens of an excerpt: most of an ordinary text.
const EXCERPT_TOKENS: usize = 96;
/// Longest excerpt, in bytes.
const EXCERPT_BYTES: usize = 4000;
/// Two contexts are nearly the same if they share more than this part of the larger one's words.
const SAME: f64 = 0.7;

/// A text with the activations of its samples (tokens or spans).
pub(super) struct EncodedText {
    pub(super) text: UnitText,
    pub(super) rows: SparseRows,
}

impl EncodedText {
    /// Tokens of each sample.
    pub(super) fn samples(&self, level: Level) -> Vec<Range<usize>> {
        if level == Level::Token {
            return (0..self.text.tokens.len()).map(|token| token..token + 1).collect();
        }
        let starts = std::iter::once(0).chain(self.text.span_ends.iter().copied());
        starts.zip(&self.text.span_ends).map(|(start, &end)| start..end).collect()
    }
}

/// A place in a text with the words around it.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    /// Number of the document, in the order in which they were read.
    pub(crate) document: u32,
    /// How strongly the latent fires there.
    pub(crate) activation: f32,
    /// Text around it, at most [`CONTEXT_BYTES`].
    pub(crate) text: Box<str>,
    /// Where the words of `text` stand, in bytes.
    words: Box<[(u16, u16)]>,
    /// Position among the words of the one that fires; for a span, of all its words.
    pub(crate) peak: Range<usize>,
    /// The firing token (or span) in `text`, in bytes.
    pub(crate) token: Range<usize>,
    /// Whether the token is only a part of its word.
    pub(crate) is_piece: bool,
}

impl Example {
    /// Words of the text, in lower case.
    pub(crate) fn words(&self) -> Vec<String> {
        let word = |&(start, end): &(u16, u16)| self.text.get(start.into()..end.into()).unwrap_or_default();
        self.words.iter().map(word).map(str::to_lowercase).collect()
    }

    /// The text on one line, the token (span) in «guillemets».
    pub(crate) fn marked(&self) -> String {
        let Range { start, end } = self.token;
        let plain = |text: &str| text.replace(['«', '»'], "\"");
        let [before, token, after] = [&self.text[..start], &self.text[start..end], &self.text[end..]].map(plain);
        format!("{before}«{token}»{after}").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The set of its words, to compare it with others.
    pub(crate) fn word_set(&self) -> WordSet {
        let hash = |word: String| {
            let mut hasher = DefaultHasher::new();
            word.hash(&mut hasher);
            hasher.finish()
        };
        let mut words: Vec<u64> = self.words().into_iter().map(hash).collect();
        words.sort_unstable();
        words.dedup();
        WordSet(words)
    }
}

/// Hashes of the words of a context, ascending.
#[derive(Debug, Clone)]
pub(crate) struct WordSet(Vec<u64>);

impl WordSet {
    /// Whether two contexts are nearly the same: see [`SAME`].
    pub(crate) fn is_nearly(&self, other: &Self) -> bool {
        let shared = self.0.iter().filter(|word| other.0.binary_search(word).is_ok()).count();
        shared as f64 > SAME * self.0.len().max(other.0.len()) as f64
    }
}

/// A text's words, put together from its tokens.
pub(super) struct Words<'a> {
    text: &'a UnitText,
    /// First token of each word.
    first_token: Vec<usize>,
    /// Word of each token.
    pub(super) word_of_token: Vec<usize>,
}

impl<'a> Words<'a> {
    pub(super) fn of(text: &'a UnitText) -> Self {
        let (mut first_token, mut word_of_token) = (Vec::new(), Vec::with_capacity(text.tokens.len()));
        for (i, token) in text.tokens.iter().enumerate() {
            if token.begins_word || i == 0 {
                first_token.push(i);
            }
            word_of_token.push(first_token.len() - 1);
        }
        Self { text, first_token, word_of_token }
    }

    pub(super) fn len(&self) -> usize {
        self.first_token.len()
    }

    pub(super) fn tokens_of_word(&self, word: usize) -> Range<usize> {
        self.first_token[word]..self.first_token.get(word + 1).copied().unwrap_or(self.text.tokens.len())
    }

    /// Where words `range` stand in the text, in bytes.
    fn bytes(&self, range: Range<usize>) -> Range<usize> {
        let start = self.text.tokens[self.first_token[range.start]].start as usize;
        let last = self.tokens_of_word(range.end - 1).end - 1;
        start..self.text.tokens[last].end as usize
    }

    pub(super) fn lower(&self, word: usize) -> String {
        self.text.text.get(self.bytes(word..word + 1)).unwrap_or_default().to_lowercase()
    }

    /// Whether there is a line break (or nothing) before the word.
    pub(super) fn starts_line(&self, word: usize) -> bool {
        if word == 0 {
            return true;
        }
        let before = self.text.tokens[self.first_token[word] - 1].end as usize;
        let start = self.text.tokens[self.first_token[word]].start as usize;
        self.text.text.get(before..start).is_some_and(|between| between.contains('\n'))
    }

    /// The words of `tokens`, and these with those around them, as a context shows them; `None` if the words by
    /// themselves are too long for one.
    fn window(&self, tokens: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
        let peak = self.word_of_token[tokens.start]..self.word_of_token[tokens.end - 1] + 1;
        let mut words = peak.start.saturating_sub(CONTEXT_WORDS)..(peak.end + CONTEXT_WORDS).min(self.len());
        while self.bytes(words.clone()).len() > CONTEXT_BYTES && words != peak {
            // From the end that is farther away.
            if peak.start - words.start > words.end - peak.end {
                words.start += 1;
            } else {
                words.end -= 1;
            }
        }
        (self.bytes(words.clone()).len() <= CONTEXT_BYTES).then_some((peak, words))
    }

    /// The context of `tokens`; `None` if it would be too long, or cuts a character in two.
    pub(super) fn example(&self, document: u32, activation: f32, tokens: &Range<usize>) -> Option<Example> {
        let (peak, words) = self.window(tokens)?;
        let bytes = self.bytes(words.clone());
        let text = self.text.text.get(bytes.clone())?;
        let within = |at: u32| (at as usize).checked_sub(bytes.start).filter(|&at| text.is_char_boundary(at));
        let start = within(self.text.tokens[tokens.start].start)?;
        let end = within(self.text.tokens[tokens.end - 1].end)?;
        let short = |word: Range<usize>| ((word.start - bytes.start) as u16, (word.end - bytes.start) as u16);
        Some(Example {
            document,
            activation,
            text: text.into(),
            words: words.clone().map(|word| short(self.bytes(word..word + 1))).collect(),
            peak: peak.start - words.start..peak.end - words.start,
            token: start..end,
            is_piece: tokens.len() == 1 && self.tokens_of_word(peak.start).len() > 1,
        })
    }
}

/// A stretch of a text that was drawn at random, with all that fires on it.
pub(crate) struct Excerpt {
    document: u32,
    text: UnitText,
    rows: SparseRows,
    /// Tokens of each sample.
    samples: Vec<Range<usize>>,
    /// The sample around which it was cut.
    drawn: usize,
}

impl Excerpt {
    /// Cuts at most [`EXCERPT_TOKENS`] tokens beside sample `drawn` out of a text; `None` if they are too long.
    pub(super) fn cut(document: u32, from: &EncodedText, samples: &[Range<usize>], drawn: usize) -> Option<Self> {
        let tokens = &from.text.tokens;
        let begins_word = |sample: usize| tokens[samples[sample].start].begins_word;
        let reach = EXCERPT_TOKENS / 2;
        let mut first = samples.partition_point(|sample| sample.end + reach <= samples[drawn].start);
        let mut end = samples.partition_point(|sample| sample.start < samples[drawn].end + reach);
        while first < drawn && !begins_word(first) {
            first += 1;
        }
        while end > drawn + 1 && end < samples.len() && !begins_word(end) {
            end -= 1;
        }
        let own = samples[first].start..samples[end - 1].end;
        let bytes = tokens[own.start].start..tokens[own.end - 1].end;
        if bytes.len() > EXCERPT_BYTES {
            return None;
        }
        let shifted =
            |token: &Token| Token { start: token.start - bytes.start, end: token.end - bytes.start, ..*token };
        let text = UnitText {
            text: from.text.text.get(bytes.start as usize..bytes.end as usize)?.to_owned(),
            tokens: tokens[own.clone()].iter().map(shifted).collect(),
            span_ends: Vec::new(),
        };
        let mut rows = SparseRows::default();
        rows.extend(&from.rows, first..end);
        let samples = samples[first..end].iter().map(|sample| sample.start - own.start..sample.end - own.start);
        Some(Self { document, text, rows, samples: samples.collect(), drawn: drawn - first })
    }

    /// All that fires: sample, latent, activation.
    pub(crate) fn activations(&self) -> impl Iterator<Item = (usize, u32, f32)> {
        (0..self.rows.len()).flat_map(|sample| {
            let (latents, activations) = self.rows.row(sample);
            latents.iter().zip(activations).map(move |(&latent, &activation)| (sample, latent, activation))
        })
    }

    /// Its words in lower case, each with what is marked if it is the point of a context: itself, or the span it is in.
    pub(crate) fn words(&self, level: Level) -> Vec<(String, Range<usize>)> {
        let words = Words::of(&self.text);
        let place = |word: usize| {
            let tokens = words.tokens_of_word(word);
            match level {
                Level::Token => tokens,
                _ => self.sample(self.samples.partition_point(|sample| sample.end <= tokens.start)),
            }
        };
        (0..words.len()).map(|word| (words.lower(word), place(word))).collect()
    }

    /// Tokens of a sample.
    pub(crate) fn sample(&self, sample: usize) -> Range<usize> {
        self.samples[sample].clone()
    }

    /// The sample around which it was cut, as tokens.
    pub(crate) fn drawn(&self) -> Range<usize> {
        self.sample(self.drawn)
    }

    /// The context of `tokens`, if `latent` fires nowhere in it.
    pub(crate) fn without(&self, latent: u32, tokens: &Range<usize>) -> Option<Example> {
        let words = Words::of(&self.text);
        let (_, window) = words.window(tokens)?;
        let seen = words.tokens_of_word(window.start).start..words.tokens_of_word(window.end - 1).end;
        let first = self.samples.partition_point(|sample| sample.end <= seen.start);
        let end = self.samples.partition_point(|sample| sample.start < seen.end);
        let fires = (first..end).any(|sample| self.rows.row(sample).0.binary_search(&latent).is_ok());
        if fires { None } else { words.example(self.document, 0.0, tokens) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text whose tokens are its words, each a sample on which the latent of its position fires.
    fn encoded(text: &str) -> EncodedText {
        let mut tokens = Vec::new();
        let mut rows = SparseRows::default();
        for word in text.split_whitespace() {
            let start = (word.as_ptr() as usize - text.as_ptr() as usize) as u32;
            let latent = tokens.len() as u32;
            tokens.push(Token { id: 0, start, end: start + word.len() as u32, begins_word: true });
            rows.push(&[(latent, 1.0)]);
        }
        let n = tokens.len();
        EncodedText { text: UnitText { text: text.to_owned(), tokens, span_ends: vec![n / 2, n] }, rows }
    }

    #[test]
    fn a_context_marks_its_token_on_one_line() {
        let text = encoded("I am\nso very «sorry» for\tthat.");
        let words = Words::of(&text.text);
        let example = words.example(7, 0.5, &(3..4)).unwrap();
        assert_eq!(example.marked(), "I am so «very» \"sorry\" for that.");
        assert_eq!((example.document, example.peak.clone(), example.is_piece), (7, 3..4, false));
        assert_eq!(example.words()[..3], ["i", "am", "so"]);
        let long = "word ".repeat(40);
        let text = encoded(&long);
        let example = Words::of(&text.text).example(0, 1.0, &(20..21)).unwrap();
        assert_eq!(example.words().len(), 2 * CONTEXT_WORDS + 1);
        let text = encoded(&format!("a {} b", "x".repeat(3000)));
        let words = Words::of(&text.text);
        assert!(words.example(0, 1.0, &(1..2)).is_none());
        assert_eq!(words.example(0, 1.0, &(0..1)).unwrap().marked(), "«a»");
    }

    #[test]
    fn contexts_that_share_most_words_are_nearly_the_same() {
        let set = |text: &str| {
            let text = encoded(text);
            Words::of(&text.text).example(0, 1.0, &(0..1)).unwrap().word_set()
        };
        assert!(set("Dear Ann we thank you for your order").is_nearly(&set("Dear Bob we thank you for your order")));
        assert!(!set("Dear Ann we thank you for it").is_nearly(&set("Dear Bob they thank us for that")));
        assert!(!set("thank you").is_nearly(&set("thank you very much for this")));
    }

    #[test]
    fn an_excerpt_knows_what_fires_around_a_place() {
        let words: Vec<String> = (0..300).map(|i| format!("w{i}")).collect();
        let text = encoded(&words.join(" "));
        let samples = text.samples(Level::Token);
        let excerpt = Excerpt::cut(3, &text, &samples, 150).unwrap();
        assert_eq!(excerpt.samples.len(), EXCERPT_TOKENS + 1);
        assert_eq!(excerpt.words(Level::Token)[excerpt.drawn().start].0, "w150");
        // Latent i fires on word i only.
        assert!(excerpt.without(150, &excerpt.drawn()).is_none());
        assert!(excerpt.without(150 + CONTEXT_WORDS as u32, &excerpt.drawn()).is_none());
        let silent = excerpt.without(151 + CONTEXT_WORDS as u32, &excerpt.drawn()).unwrap();
        assert_eq!((silent.document, silent.activation), (3, 0.0));
        assert!(silent.marked().contains("w149 «w150» w151"));
        assert_eq!(excerpt.activations().find(|&(_, latent, _)| latent == 150).unwrap().0, excerpt.drawn().start);
        let spans = text.samples(Level::Span);
        assert_eq!(spans, [0..150, 150..300]);
    }
}
