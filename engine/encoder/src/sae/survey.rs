//! What a dictionary does on many texts: how well it reconstructs them, how often and how strongly each latent fires, and
//! on what. Labels, thresholds and evaluations are made from this.

use std::collections::HashMap;
use std::ops::Range;

use crate::level::Level;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::harvest::{DOCS_PER_UNIT, Harvest, Hook, Unit, UnitText, span_means};
use super::texts::TextSource;
use super::{EncodeScratch, Sae, SparseRows};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::reader::{BatchStates, Reader, parallel};

/// Strongest documents that are remembered for a latent.
pub(crate) const EXAMPLES: usize = 48;
/// Samples from which the level of strong activations is taken before anything else is collected.
const FIRST_SAMPLES: usize = 400_000;
/// Words of which counts are kept; later ones are taken together.
const MAX_WORDS: usize = 400_000;
/// Pairs of latent and word; beyond this, those seen once are forgotten.
const MAX_PAIRS: usize = 6_000_000;
/// Words on either side of the strongest one that an example shows.
const CONTEXT_WORDS: usize = 12;

/// Counts of positive values in bins of 6 % width.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    bins: Vec<u32>,
    n: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: vec![0; Self::BINS], n: 0 }
    }
}

impl Histogram {
    const BINS: usize = 192;
    const PER_OCTAVE: f32 = 12.0;
    const LOWEST_OCTAVE: f32 = -10.0;

    fn add(&mut self, value: f32) {
        let bin = (value.log2() - Self::LOWEST_OCTAVE) * Self::PER_OCTAVE;
        self.bins[(bin.max(0.0) as usize).min(Self::BINS - 1)] += 1;
        self.n += 1;
    }

    /// Number of values.
    pub(crate) fn n(&self) -> u64 {
        self.n
    }

    /// Value below which the share `q` of the values lies, to the width of a bin; 0 if there is none.
    pub(crate) fn quantile(&self, q: f64) -> f32 {
        let mut left = q * self.n as f64;
        for (bin, &count) in self.bins.iter().enumerate() {
            left -= f64::from(count);
            if left <= 0.0 && count > 0 {
                let within = 1.0 + left / f64::from(count);
                return ((bin as f32 + within as f32) / Self::PER_OCTAVE + Self::LOWEST_OCTAVE).exp2();
            }
        }
        0.0
    }
}

/// A place where a latent fires strongly.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) activation: f32,
    /// Text around it.
    pub(crate) text: String,
    /// Lower-case words of `text`.
    pub(crate) words: Vec<String>,
    /// Position in `words` of the word that fires; for a span, of all its words.
    pub(crate) peak: Range<usize>,
    /// The firing token (or span) in `text`, in bytes.
    pub(crate) token: Range<usize>,
    /// Whether the token is only a part of its word.
    pub(crate) is_piece: bool,
}

/// Where in the text strong activations stand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Places {
    /// Strong activations in all.
    pub(crate) n: u32,
    /// On the first word of a line (list marks count as words).
    pub(crate) line_start: u32,
    /// On the first word of the text.
    pub(crate) text_start: u32,
    /// On the last token of the text.
    pub(crate) text_end: u32,
    /// On a part of a word.
    pub(crate) piece: u32,
}

/// What was seen of one latent.
#[derive(Debug, Clone, Default)]
pub(crate) struct LatentSurvey {
    /// Samples on which it fires.
    pub(crate) fires: u64,
    /// Strongest activation.
    pub(crate) max: f32,
    /// All activations of the first samples.
    samples: Histogram,
    /// Largest activation of each document in which it fires.
    pub(crate) documents: Histogram,
    /// From this on, an activation is strong.
    strong: f32,
    /// Sum of strong activations.
    pub(crate) strong_sum: f64,
    pub(crate) places: Places,
    /// Strongest first, one a document.
    pub(crate) examples: Vec<Example>,
}

/// Strong activations of a latent on a word.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OnWord {
    pub(crate) sum: f32,
    pub(crate) n: u32,
}

/// Everything that was seen.
pub(crate) struct Survey {
    level: Level,
    pub(crate) n_docs: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_samples: u64,
    residual: f64,
    total: f64,
    n_active: u64,
    pub(crate) latents: Vec<LatentSurvey>,
    words: HashMap<String, u32>,
    /// Samples with the word (tokens that begin it; spans that hold it).
    pub(crate) word_counts: Vec<u64>,
    /// By latent and word.
    pairs: HashMap<(u32, u32), OnWord>,
    /// Features present in each document, by the dictionary's thresholds.
    pub(crate) present: Vec<u32>,
    /// First documents, held back until the level of strong activations is known.
    waiting: Vec<EncodedText>,
    waiting_samples: usize,
    /// Per document: largest activation so far and its sample.
    maxima: Vec<(f32, u32)>,
}

/// A text with the activations of its samples (tokens or spans).
struct EncodedText {
    text: UnitText,
    rows: SparseRows,
}

/// Rows of one block, and how well they are reconstructed.
type Encoded = (SparseRows, f64, f64);

fn encode(sae: &Sae, rows: &mut [f32], scratch: &mut EncodeScratch) -> Encoded {
    let mut sparse = SparseRows::default();
    sae.normalize(rows);
    sae.encode_rows(rows, scratch, &mut sparse);
    let n = sparse.len();
    let (residual, total) = sae.unexplained(rows, &sparse, 0..n, scratch);
    (sparse, residual, total)
}

impl Survey {
    fn new(sae: &Sae) -> Self {
        Self {
            level: sae.level(),
            n_docs: 0,
            n_tokens: 0,
            n_samples: 0,
            residual: 0.0,
            total: 0.0,
            n_active: 0,
            latents: vec![LatentSurvey::default(); sae.width()],
            words: HashMap::new(),
            word_counts: Vec::new(),
            pairs: HashMap::new(),
            present: Vec::new(),
            waiting: Vec::new(),
            waiting_samples: 0,
            maxima: vec![(0.0, 0); sae.width()],
        }
    }

    /// Surveys the hidden states of a harvest.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Cancelled`].
    pub(crate) fn of_harvest(
        sae: &Sae,
        harvest: &Harvest,
        hook: Hook,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        const ROWS: usize = 1024;
        let mut survey = Self::new(sae);
        let width = sae.input_width();
        progress.stage("surveying features", Some(harvest.n_tokens), "tokens");
        for path in &harvest.units {
            if progress.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "stopped while surveying features"));
            }
            let unit = Unit::open(path)?;
            if unit.n_samples(hook) == 0 {
                continue;
            }
            let states = unit.states(hook)?;
            let blocks: Vec<&[f16]> = states.chunks(ROWS * width).collect();
            let encoded = parallel(blocks.len(), threads, |(rows, scratch): &mut (Vec<f32>, EncodeScratch), i| {
                rows.resize(blocks[i].len(), 0.0);
                blocks[i].convert_to_f32_slice(rows);
                Ok(encode(sae, rows, scratch))
            })?;
            let mut all = SparseRows::default();
            for (rows, residual, total) in &encoded {
                all.extend(rows, 0..rows.len());
                survey.residual += residual;
                survey.total += total;
            }
            let mut from = 0;
            for text in unit.texts()? {
                let n = if survey.level == Level::Token { text.tokens.len() } else { text.span_ends.len() };
                let mut rows = SparseRows::default();
                rows.extend(&all, from..from + n);
                from += n;
                survey.push(sae, EncodedText { text, rows });
            }
            progress.update(survey.n_tokens, "");
        }
        survey.finish(sae);
        progress.finish(&format!("FVU {:.3}, L0 {:.1}", survey.fvu(), survey.l0()));
        Ok(survey)
    }

    /// Surveys texts that the reader reads now; at most `tokens` tokens unless that is 0.
    ///
    /// # Errors
    /// Those of the source; [`ErrorKind::Data`] without a text; [`ErrorKind::Cancelled`].
    pub(crate) fn of_texts(
        sae: &Sae,
        reader: &Reader,
        source: &mut TextSource,
        tokens: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut survey = Self::new(sae);
        let width = reader.width();
        progress.stage("reading texts", (tokens > 0).then_some(tokens), "tokens");
        while tokens == 0 || survey.n_tokens < tokens {
            let Some(texts) = source.next_turn()? else { break };
            if progress.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "stopped while reading texts"));
            }
            let views: Vec<&str> = texts.iter().map(String::as_str).collect();
            let tokenized = reader.tokenize(&views)?;
            let pieces =
                reader.read(&tokenized, &[sae.layer()], |scratch: &mut EncodeScratch, batch: &BatchStates| {
                    let encoded = batch.pieces.iter().map(|piece| {
                        let states = &batch.layers[0][piece.rows.start * width..piece.rows.end * width];
                        let mut rows = Vec::new();
                        if sae.level() == Level::Token {
                            rows.extend_from_slice(states);
                        } else {
                            span_means(&tokenized[piece.doc], piece.piece, states, width, &mut rows);
                        }
                        encode(sae, &mut rows, scratch)
                    });
                    Ok(encoded.collect::<Vec<_>>())
                })?;
            for ((text, tokenized), pieces) in texts.into_iter().zip(tokenized).zip(pieces) {
                let mut rows = SparseRows::default();
                for (piece, residual, total) in &pieces {
                    rows.extend(piece, 0..piece.len());
                    survey.residual += residual;
                    survey.total += total;
                }
                let spans = tokenized.pieces.iter().flat_map(|piece| &piece.spans);
                let span_ends = spans.map(|span| span.end).collect();
                survey.push(sae, EncodedText { text: UnitText { text, tokens: tokenized.tokens, span_ends }, rows });
            }
            progress.update(survey.n_tokens, "");
        }
        survey.finish(sae);
        progress.finish(&format!("FVU {:.3}, L0 {:.1}", survey.fvu(), survey.l0()));
        if survey.n_samples == 0 {
            return Err(Error::new(ErrorKind::Data, "the input holds no text"));
        }
        Ok(survey)
    }

    /// Texts in one turn of a source.
    pub(crate) const TURN: usize = DOCS_PER_UNIT;

    /// Fraction of variance unexplained.
    pub(crate) fn fvu(&self) -> f64 {
        self.residual / self.total.max(1e-30)
    }

    /// Latents that fire on a sample, on average.
    pub(crate) fn l0(&self) -> f64 {
        self.n_active as f64 / self.n_samples.max(1) as f64
    }

    /// Share of latents that never fire.
    pub(crate) fn dead_share(&self) -> f64 {
        self.latents.iter().filter(|latent| latent.fires == 0).count() as f64 / self.latents.len() as f64
    }

    /// Share of latents that fire on more than `density` of the samples.
    pub(crate) fn dense_share(&self, density: f64) -> f64 {
        let limit = density * self.n_samples as f64;
        self.latents.iter().filter(|latent| latent.fires as f64 > limit).count() as f64 / self.latents.len() as f64
    }

    /// How often `word` occurs, and in which share of the samples.
    pub(crate) fn word_count(&self, word: &str) -> u64 {
        self.words.get(word).map_or(0, |&id| self.word_counts[id as usize])
    }

    /// Words on which each latent is strong, largest sum of activations first.
    pub(crate) fn words_by_latent(&self) -> Vec<Vec<(&str, OnWord)>> {
        let mut names = vec![""; self.word_counts.len()];
        for (word, &id) in &self.words {
            names[id as usize] = word;
        }
        let mut by_latent = vec![Vec::new(); self.latents.len()];
        for (&(latent, word), &on) in &self.pairs {
            by_latent[latent as usize].push((names[word as usize], on));
        }
        for words in &mut by_latent {
            words.sort_unstable_by(|a, b| b.1.sum.total_cmp(&a.1.sum).then(a.0.cmp(b.0)));
        }
        by_latent
    }

    fn push(&mut self, sae: &Sae, text: EncodedText) {
        self.n_docs += 1;
        self.n_tokens += text.text.tokens.len() as u64;
        self.n_samples += text.rows.len() as u64;
        if self.waiting_samples >= FIRST_SAMPLES {
            self.add(sae, &text);
            return;
        }
        for i in 0..text.rows.len() {
            let (latents, activations) = text.rows.row(i);
            for (&latent, &activation) in latents.iter().zip(activations) {
                self.latents[latent as usize].samples.add(activation);
            }
        }
        self.waiting_samples += text.rows.len();
        self.waiting.push(text);
        if self.waiting_samples >= FIRST_SAMPLES {
            self.finish(sae);
        }
    }

    /// Sets the level of strong activations, and takes in what waited for it.
    fn finish(&mut self, sae: &Sae) {
        for latent in &mut self.latents {
            if latent.strong == 0.0 {
                // Less a bin, so that a single value is strong.
                latent.strong = latent.samples.quantile(0.5) / 1.06;
            }
        }
        for text in std::mem::take(&mut self.waiting) {
            self.add(sae, &text);
        }
    }

    fn word_id(&mut self, word: &str) -> u32 {
        if let Some(&id) = self.words.get(word) {
            return id;
        }
        let (key, id) = if self.words.len() < MAX_WORDS { (word, self.word_counts.len()) } else { ("", 0) };
        if id == self.word_counts.len() {
            self.word_counts.push(0);
            self.words.insert(key.to_owned(), id as u32);
        }
        id as u32
    }

    fn add(&mut self, sae: &Sae, encoded: &EncodedText) {
        let text = Words::of(&encoded.text);
        let ids: Vec<u32> = (0..text.len()).map(|i| text.lower(i)).map(|word| self.word_id(&word)).collect();
        // Words of each sample: the word that a token belongs to, or all words of a span, each once.
        let mut samples: Vec<(Range<usize>, Vec<u32>)> = Vec::with_capacity(encoded.rows.len());
        if self.level == Level::Token {
            for (token, &word) in text.word_of_token.iter().enumerate() {
                samples.push((token..token + 1, vec![ids[word]]));
            }
            ids.iter().for_each(|&id| self.word_counts[id as usize] += 1);
        } else {
            let mut from = 0;
            for &end in &encoded.text.span_ends {
                let mut words: Vec<u32> = text.word_of_token[from..end].iter().map(|&word| ids[word]).collect();
                words.sort_unstable();
                words.dedup();
                words.iter().for_each(|&id| self.word_counts[id as usize] += 1);
                samples.push((from..end, words));
                from = end;
            }
        }
        let mut touched: Vec<u32> = Vec::new();
        for (i, (tokens, words)) in samples.iter().enumerate().take(encoded.rows.len()) {
            let (latents, activations) = encoded.rows.row(i);
            self.n_active += latents.len() as u64;
            for (&latent, &activation) in latents.iter().zip(activations) {
                let survey = &mut self.latents[latent as usize];
                survey.fires += 1;
                survey.max = survey.max.max(activation);
                let max = &mut self.maxima[latent as usize];
                if max.0 == 0.0 {
                    touched.push(latent);
                }
                if activation > max.0 {
                    *max = (activation, i as u32);
                }
                if activation < survey.strong {
                    continue;
                }
                survey.strong_sum += f64::from(activation);
                let places = &mut survey.places;
                let word = text.word_of_token[tokens.start];
                places.n += 1;
                places.line_start += u32::from(text.starts_line(word));
                places.text_start += u32::from(word == 0);
                places.text_end += u32::from(tokens.end == encoded.text.tokens.len());
                places.piece += u32::from(tokens.len() == 1 && text.tokens_of_word(word).len() > 1);
                for &word in words {
                    let on = self.pairs.entry((latent, word)).or_default();
                    on.sum += activation;
                    on.n += 1;
                }
            }
        }
        if self.pairs.len() > MAX_PAIRS {
            self.pairs.retain(|_, on| on.n > 1);
        }
        let mut present = 0;
        for latent in touched {
            let (max, sample) = std::mem::take(&mut self.maxima[latent as usize]);
            let info = &sae.latents()[latent as usize];
            present += u32::from(max >= info.presence_threshold);
            let survey = &mut self.latents[latent as usize];
            survey.documents.add(max);
            let weakest = survey.examples.last().map_or(0.0, |example| example.activation);
            if survey.examples.len() < EXAMPLES || max > weakest {
                let example = text.example(max, &samples[sample as usize].0);
                let at = survey.examples.partition_point(|other| other.activation >= max);
                survey.examples.insert(at, example);
                survey.examples.truncate(EXAMPLES);
            }
        }
        self.present.push(present.min(crate::encode::max_features(sae.level()) as u32));
    }
}

/// A text's words, put together from its tokens.
struct Words<'a> {
    text: &'a UnitText,
    /// First token of each word.
    first_token: Vec<usize>,
    /// Word of each token.
    word_of_token: Vec<usize>,
}

impl<'a> Words<'a> {
    fn of(text: &'a UnitText) -> Self {
        let (mut first_token, mut word_of_token) = (Vec::new(), Vec::with_capacity(text.tokens.len()));
        for (i, token) in text.tokens.iter().enumerate() {
            if token.begins_word || i == 0 {
                first_token.push(i);
            }
            word_of_token.push(first_token.len() - 1);
        }
        Self { text, first_token, word_of_token }
    }

    fn len(&self) -> usize {
        self.first_token.len()
    }

    fn tokens_of_word(&self, word: usize) -> Range<usize> {
        self.first_token[word]..self.first_token.get(word + 1).copied().unwrap_or(self.text.tokens.len())
    }

    /// Where words `range` stand in the text, in bytes.
    fn bytes(&self, range: Range<usize>) -> Range<usize> {
        let start = self.text.tokens[self.first_token[range.start]].start as usize;
        let last = self.tokens_of_word(range.end - 1).end - 1;
        start..self.text.tokens[last].end as usize
    }

    fn lower(&self, word: usize) -> String {
        self.text.text.get(self.bytes(word..word + 1)).unwrap_or_default().to_lowercase()
    }

    /// Whether there is a line break (or nothing) before the word.
    fn starts_line(&self, word: usize) -> bool {
        if word == 0 {
            return true;
        }
        let before = self.text.tokens[self.first_token[word] - 1].end as usize;
        let start = self.text.tokens[self.first_token[word]].start as usize;
        self.text.text.get(before..start).is_some_and(|between| between.contains('\n'))
    }

    fn example(&self, activation: f32, tokens: &Range<usize>) -> Example {
        let peak = self.word_of_token[tokens.start]..self.word_of_token[tokens.end - 1] + 1;
        let words = peak.start.saturating_sub(CONTEXT_WORDS)..(peak.end + CONTEXT_WORDS).min(self.len());
        let bytes = self.bytes(words.clone());
        let start = self.text.tokens[tokens.start].start as usize - bytes.start;
        let end = self.text.tokens[tokens.end - 1].end as usize - bytes.start;
        Example {
            activation,
            text: self.text.text.get(bytes).unwrap_or_default().to_owned(),
            words: words.clone().map(|word| self.lower(word)).collect(),
            peak: peak.start - words.start..peak.end - words.start,
            token: start..end,
            is_piece: tokens.len() == 1 && self.tokens_of_word(peak.start).len() > 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_histogram() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0.0);
        (1..=1000).for_each(|i| histogram.add(i as f32 / 1000.0));
        for (q, want) in [(0.1, 0.1), (0.5, 0.5), (0.9, 0.9), (1.0, 1.0)] {
            let got = histogram.quantile(q);
            assert!((got / want - 1.0).abs() < 0.07, "quantile {q}: {got}");
        }
        histogram.add(1e-9);
        histogram.add(1e9);
        assert_eq!(histogram.n(), 1002);
    }
}
