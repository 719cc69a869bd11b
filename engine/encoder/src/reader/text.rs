//! Texts as tokens: tokenizing without limit, cutting into windows of the reader's context, and into sentences.

use std::borrow::Cow;
use std::ops::Range;

use tokenizers::Tokenizer;

use crate::error::{Error, ErrorKind, Result};

/// Tokens that two neighbouring windows of a long text share.
pub(super) const OVERLAP: usize = 32;
/// Windows of one text that are read together; longer texts are read in several pieces, so that memory stays bounded.
pub(super) const WINDOWS_PER_PIECE: usize = 8;
/// Bytes of text that are tokenized at once; longer texts are cut at white space.
const TOKENIZE_BYTES: usize = 64 << 10;
/// Tokens of a sentence: shorter ones are joined to the next, longer ones cut.
const SENTENCE_TOKENS: std::ops::RangeInclusive<usize> = 4..=40;

/// A word piece and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Number in the reader's vocabulary.
    pub id: u32,
    /// First byte in the text.
    pub start: u32,
    /// End in bytes, exclusive.
    pub end: u32,
    /// Whether a word begins here, as opposed to going on.
    pub begins_word: bool,
}

/// A text as it is read: alone, or within a longer one (a conversation) of which only the text's own tokens count.
/// Places of tokens and sentences are places in the text, however it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage<'a> {
    text: Cow<'a, str>,
    within: Option<Within>,
}

/// What a text is read within.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Within {
    whole: String,
    /// Where the parts of the text stand in it, ascending.
    parts: Vec<Part>,
}

/// A part of a text that stands in a longer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// First byte in the whole.
    pub(super) at: usize,
    /// Bytes of the text.
    pub(super) text: Range<usize>,
}

impl<'a> From<&'a str> for Passage<'a> {
    fn from(text: &'a str) -> Self {
        Self { text: Cow::Borrowed(text), within: None }
    }
}

impl From<String> for Passage<'_> {
    fn from(text: String) -> Self {
        Self { text: Cow::Owned(text), within: None }
    }
}

impl<'a> Passage<'a> {
    /// `text` within `whole`, which holds the same bytes at `parts`, ascending.
    pub(super) fn within(text: impl Into<Cow<'a, str>>, whole: String, parts: Vec<Part>) -> Self {
        Self { text: text.into(), within: Some(Within { whole, parts }) }
    }

    /// Where the parts of the text stand in what is read around them.
    #[cfg(test)]
    pub(super) fn parts(&self) -> &[Part] {
        self.within.as_ref().map_or(&[], |within| &within.parts)
    }

    /// The text whose tokens count.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is read: the text with all around it.
    pub fn whole(&self) -> &str {
        self.within.as_ref().map_or(&self.text, |within| &within.whole)
    }
}

/// A text ready to be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenizedText {
    /// All tokens of the text, special ones excluded.
    pub(crate) tokens: Vec<Token>,
    /// What is read together, in order; never empty.
    pub(crate) pieces: Vec<Piece>,
    /// What is read of a text within another; otherwise the tokens are.
    within: Option<ReadTokens>,
}

/// Tokens that are read, of which only some are the text's own.
#[derive(Debug, Clone)]
struct ReadTokens {
    ids: Vec<u32>,
    /// Positions of those that are, ascending.
    own: Vec<Range<usize>>,
}

impl TokenizedText {
    /// Numbers of the tokens at `positions` of what is read.
    pub(super) fn ids(&self, positions: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        let (within, alone) = match &self.within {
            Some(within) => (&within.ids[positions], &[][..]),
            None => (&[][..], &self.tokens[positions]),
        };
        within.iter().copied().chain(alone.iter().map(|token| token.id))
    }

    /// Those `positions` of what is read that are tokens of the text.
    pub(super) fn own(&self, positions: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let (all, own) = match &self.within {
            Some(within) => (None, &within.own[..]),
            None => (Some(positions.clone()), &[][..]),
        };
        let cut = move |own: &Range<usize>| own.start.max(positions.start)..own.end.min(positions.end);
        all.into_iter().chain(own.iter().map(cut).filter(|own| !own.is_empty()))
    }

    /// Number of sentences.
    pub(crate) fn n_spans(&self) -> usize {
        self.pieces.iter().map(|piece| piece.spans.len()).sum()
    }
}

/// A run of windows of one text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Piece {
    pub(crate) windows: Vec<Window>,
    /// Tokens that the windows own together.
    pub(crate) tokens: Range<usize>,
    /// Sentences of those tokens, without gaps: ranges of tokens of the text. None crosses the end of a piece.
    pub(crate) spans: Vec<Range<usize>>,
}

/// What the reader sees at once, as positions in what is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// Tokens that are read.
    pub(crate) read: Range<usize>,
    /// Those of them whose hidden states count if they are the text's own; each token is owned by exactly one window.
    pub(crate) own: Range<usize>,
}

/// Windows of at most `capacity` tokens over `n` tokens, [`OVERLAP`] tokens shared, each half of the overlap owned by the
/// window that sees more around it. One window, empty, if there is no token.
pub(super) fn windows(n: usize, capacity: usize) -> Vec<Window> {
    let stride = capacity - OVERLAP;
    let mut windows = Vec::new();
    let mut start = 0;
    loop {
        let last = start + capacity >= n;
        let own_start = if start == 0 { 0 } else { start + OVERLAP / 2 };
        let own_end = if last { n } else { start + stride + OVERLAP / 2 };
        windows.push(Window { read: start..(start + capacity).min(n), own: own_start..own_end });
        if last {
            return windows;
        }
        start += stride;
    }
}

/// Whether a sentence can end behind `token`: with `.`, `!`, `?` (also full-width) before white space or a closing
/// quote, or with a line break after it.
fn ends_sentence(text: &str, token: Token, next: Token) -> bool {
    let (Some(word), Some(between)) =
        (text.get(token.start as usize..token.end as usize), text.get(token.end as usize..next.start as usize))
    else {
        return false;
    };
    if between.contains('\n') || word.contains('\n') || word.ends_with(['。', '！', '？']) {
        return true;
    }
    let closes = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '”' | '’' | '»' | '*');
    word.ends_with(['.', '!', '?'])
        && (!between.is_empty() || text[next.start as usize..].chars().next().is_some_and(closes))
}

/// Sentences of `own`, a range of `tokens`: see [`SENTENCE_TOKENS`].
fn sentences(text: &str, tokens: &[Token], own: Range<usize>) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut start = own.start;
    for i in own.clone() {
        let last = i + 1 == own.end;
        if !last && (i + 1 - start < *SENTENCE_TOKENS.start() || !ends_sentence(text, tokens[i], tokens[i + 1])) {
            continue;
        }
        let length = i + 1 - start;
        match spans.last_mut() {
            // What is left at the end is too short for a sentence of its own.
            Some(previous)
                if length < *SENTENCE_TOKENS.start() && previous.len() + length <= *SENTENCE_TOKENS.end() =>
            {
                previous.end = i + 1;
            }
            _ => {
                let parts = length.div_ceil(*SENTENCE_TOKENS.end());
                spans.extend((0..parts).map(|p| start + length * p / parts..start + length * (p + 1) / parts));
            }
        }
        start = i + 1;
    }
    spans
}

/// Tokenizes a text and cuts it into pieces of windows with `capacity` tokens each. Of a text within another only those
/// windows are left that have tokens of its own.
///
/// # Errors
/// [`ErrorKind::Internal`] if the tokenizer fails, which it does for no text.
pub(crate) fn tokenize(tokenizer: &Tokenizer, passage: &Passage<'_>, capacity: usize) -> Result<TokenizedText> {
    let read = all_tokens(tokenizer, passage.whole())?;
    let n_read = read.len();
    let mut text = TokenizedText::default();
    match &passage.within {
        None => text.tokens = read,
        Some(Within { parts, .. }) => {
            let mut own: Vec<Range<usize>> = Vec::new();
            for (at, token) in read.iter().enumerate() {
                let Some(token) = parts.iter().find_map(|part| part.token(*token)) else { continue };
                text.tokens.push(token);
                match own.last_mut() {
                    Some(last) if last.end == at => last.end += 1,
                    _ => own.push(at..at + 1),
                }
            }
            text.within = Some(ReadTokens { ids: read.iter().map(|token| token.id).collect(), own });
        }
    }
    let mut windows = windows(n_read, capacity);
    if text.within.is_some() {
        windows.retain(|window| text.own(window.own.clone()).next().is_some());
        if windows.is_empty() {
            windows.push(Window { read: 0..0, own: 0..0 });
        }
    }
    let mut done = 0;
    let piece = |windows: &[Window]| {
        let n: usize = windows.iter().flat_map(|window| text.own(window.own.clone())).map(|own| own.len()).sum();
        let own = done..done + n;
        done = own.end;
        let spans = sentences(&passage.text, &text.tokens, own.clone());
        Piece { windows: windows.to_vec(), spans, tokens: own }
    };
    let pieces = windows.chunks(WINDOWS_PER_PIECE).map(piece).collect();
    text.pieces = pieces;
    Ok(text)
}

impl Part {
    /// A token of the whole as one of the text: with its place there, cut where it reaches beyond this part. `None` if
    /// it shows nothing of it.
    fn token(&self, token: Token) -> Option<Token> {
        let (at, end) = (self.at as u32, (self.at + self.text.len()) as u32);
        let begins = token.start >= at;
        (token.start < end && (begins || token.end > at)).then(|| {
            let place = |byte: u32| byte.clamp(at, end) - at + self.text.start as u32;
            Token { start: place(token.start), end: place(token.end), ..token }
        })
    }
}

/// Tokens of `text`, special ones excluded.
fn all_tokens(tokenizer: &Tokenizer, text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::with_capacity(text.len() / 4);
    let mut start = 0;
    while start < text.len() {
        let part = &text[start..cut(text, start)];
        let encoding = tokenizer
            .encode(part, false)
            .map_err(|error| Error::new(ErrorKind::Internal, "the tokenizer failed").with_source(error))?;
        let mut previous_word = None;
        let words = encoding.get_word_ids();
        for ((&id, &(from, to)), &word) in encoding.get_ids().iter().zip(encoding.get_offsets()).zip(words) {
            // Decoders' tokens hold the space before a word.
            let shown = part.get(from..to).unwrap_or_default();
            let spaces = shown.len() - shown.trim_start().len();
            let blank = spaces == shown.len();
            let (from, to) = if blank { (from, to) } else { (from + spaces, from + shown.trim_end().len()) };
            let spaced = part[..from].chars().next_back().is_none_or(char::is_whitespace);
            tokens.push(Token {
                id,
                start: (start + from) as u32,
                end: (start + to) as u32,
                begins_word: word.is_none() || word != previous_word || spaced,
            });
            previous_word = word;
        }
        start += part.len();
    }
    Ok(tokens)
}

/// Where the part that begins at `start` ends: at the last white space within [`TOKENIZE_BYTES`], so that no word is cut.
fn cut(text: &str, start: usize) -> usize {
    if text.len() - start <= TOKENIZE_BYTES {
        return text.len();
    }
    let end = text.floor_char_boundary(start + TOKENIZE_BYTES);
    text[start..end].rfind(char::is_whitespace).filter(|&at| at > 0).map_or(end, |at| start + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_own_each_token_once() {
        for n in [0, 1, 253, 254, 255, 256, 475, 476, 477, 1000, 5000] {
            let windows = windows(n, 254);
            let mut next = 0;
            for window in &windows {
                assert!(window.read.len() <= 254);
                assert_eq!(window.own.start, next, "{n} tokens");
                assert!(window.read.start <= window.own.start && window.own.end <= window.read.end);
                next = window.own.end;
            }
            assert_eq!(next, n);
            assert_eq!(windows.len() == 1, n <= 254);
        }
    }

    #[test]
    fn tokens_of_a_part_have_their_place_in_the_text() {
        let part = Part { at: 10, text: 3..8 };
        let token = |start, end| Token { id: 1, start, end, begins_word: true };
        let place = |start, end| part.token(token(start, end)).map(|token| (token.start, token.end));
        assert_eq!(place(10, 12), Some((3, 5)));
        assert_eq!(place(14, 15), Some((7, 8)));
        // What reaches beyond the part is cut; what only touches it is none of it.
        assert_eq!((place(8, 11), place(13, 19)), (Some((3, 4)), Some((6, 8))));
        assert_eq!((place(8, 10), place(15, 17), place(15, 15)), (None, None, None));
        assert_eq!(place(12, 12), Some((5, 5)), "a token without a letter");
    }

    /// Word-level tokens with spaces between.
    fn by_space(text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        for (start, part) in text.match_indices(|c: char| !c.is_whitespace()) {
            match tokens.last_mut() {
                Some(Token { end, .. }) if *end as usize == start && !".!?".contains(part) => *end += part.len() as u32,
                _ => tokens.push(Token {
                    id: 0,
                    start: start as u32,
                    end: (start + part.len()) as u32,
                    begins_word: true,
                }),
            }
        }
        tokens
    }

    fn spans_of(text: &str) -> Vec<&str> {
        let tokens = by_space(text);
        let spans = sentences(text, &tokens, 0..tokens.len());
        spans.iter().map(|s| &text[tokens[s.start].start as usize..tokens[s.end - 1].end as usize]).collect()
    }

    #[test]
    fn sentences_end_at_marks_and_lines() {
        assert_eq!(spans_of("I am very sorry. Is that all right?"), ["I am very sorry.", "Is that all right?"]);
        assert_eq!(
            spans_of("one two three four\nfive six seven eight"),
            ["one two three four", "five six seven eight"]
        );
        // Three tokens are too few: joined to the next, or to the one before at the end.
        assert_eq!(spans_of("Oh no! I am very sorry. Bye."), ["Oh no! I am very sorry. Bye."]);
        assert_eq!(spans_of("Sure!"), ["Sure!"]);
        assert_eq!(spans_of(""), [""; 0]);
        // A hundred tokens without a mark: three parts of nearly equal length.
        let long = "w ".repeat(100);
        let tokens = by_space(&long);
        let lengths: Vec<usize> = sentences(&long, &tokens, 0..100).iter().map(|s| s.len()).collect();
        assert_eq!(lengths, [33, 33, 34]);
    }

    #[test]
    fn long_texts_are_cut_between_words() {
        let text = "word ".repeat(40_000);
        let end = cut(&text, 0);
        assert!(end <= TOKENIZE_BYTES && text[end..].starts_with(' '));
        let solid = "é".repeat(80_000);
        assert!(solid.is_char_boundary(cut(&solid, 0)));
    }
}
