//! What a dictionary does on many texts: how well it reconstructs them, how often and how strongly each latent fires, and
//! on what. Labels, thresholds and evaluations are made from this.

use std::collections::HashMap;
use std::ops::Range;

use crate::level::Level;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::context::{EncodedText, Example, Excerpt, Words};
use super::harvest::{DOCS_PER_UNIT, Harvest, Tap, Unit, UnitText};
use super::random::Random;
use super::texts::TextSource;
use super::{EncodeScratch, Sae, SparseRows};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::reader::{BatchStates, Passage, Reader, TokenizedText, parallel};

/// Strongest documents that are remembered for a latent.
pub(crate) const EXAMPLES: usize = 48;
/// Samples from which the level of strong activations is taken before anything else is collected.
const FIRST_SAMPLES: usize = 400_000;
/// Words of which counts are kept; later ones are taken together.
const MAX_WORDS: usize = 400_000;
/// Pairs of latent and word; beyond this, those seen once are forgotten.
const MAX_PAIRS: usize = 6_000_000;
/// Documents of a random sample in which a latent fires below its presence threshold. With [`EXAMPLES`] and 32 in which it
/// is present that is 30 KB a latent: 0.5 GB for 16,384.
const WEAK: usize = 12;
/// Documents drawn for each one that is wanted where a latent is present: near-duplicates among them are left out.
const DRAWN_FOR_MIDDLE: f32 = 2.5;
/// Documents of which a random excerpt is kept: 60 MB with 16 latents a token.
const EXCERPTS: usize = 4096;

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

impl Histogram {
    /// The value that splits the values into a faint and a strong group with the least variance within the groups (Otsu
    /// 1979); 0 if there is none. With two modes it is the valley between them, with one long tail it cuts off the tail.
    pub(crate) fn valley(&self) -> f32 {
        let center = |bin: usize| f64::from(((bin as f32 + 0.5) / Self::PER_OCTAVE + Self::LOWEST_OCTAVE).exp2());
        let weighted = |range: Range<usize>| {
            range.fold((0.0, 0.0), |(n, sum), bin| {
                let count = f64::from(self.bins[bin]);
                (n + count, sum + count * center(bin))
            })
        };
        let (n, sum) = weighted(0..Self::BINS);
        let (mut best, mut at) = (-1.0, 0);
        let (mut below, mut below_sum) = (0.0, 0.0);
        for bin in 0..Self::BINS {
            let between = if below > 0.0 && below < n {
                below * (n - below) * (below_sum / below - (sum - below_sum) / (n - below)).powi(2)
            } else {
                0.0
            };
            if self.bins[bin] > 0 && between > best {
                (best, at) = (between, bin);
            }
            let (count, of_bin) = weighted(bin..bin + 1);
            (below, below_sum) = (below + count, below_sum + of_bin);
        }
        if n == 0.0 { 0.0 } else { (at as f32 / Self::PER_OCTAVE + Self::LOWEST_OCTAVE).exp2() }
    }
}

/// A random sample of at most a given number of things: those with the smallest keys, where keys are random numbers. It
/// depends on the keys alone, not on the order in which things come.
#[derive(Debug, Clone)]
pub(crate) struct Sample<T>(Vec<(u64, T)>);

impl<T> Default for Sample<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Sample<T> {
    /// Makes a thing and takes it into the sample of `n`, if its key is small enough.
    fn offer(&mut self, n: usize, key: u64, make: impl FnOnce() -> Option<T>) {
        if (self.0.len() < n || self.0.last().is_some_and(|(largest, _)| key < *largest))
            && let Some(thing) = make()
        {
            self.0.insert(self.0.partition_point(|(other, _)| *other < key), (key, thing));
            self.0.truncate(n);
        }
    }

    /// The things, in random order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, thing)| thing)
    }
}

/// Random samples that are drawn beside the strongest examples.
struct Sampling {
    seed: u64,
    /// Documents in which a latent is present, for each.
    middle: usize,
    excerpts: Sample<Excerpt>,
}

impl Sampling {
    /// Random numbers for one document and one purpose (a latent, or something beyond all latents).
    fn random(&self, document: u32, purpose: u32) -> Random {
        Random::new(self.seed, u64::from(document) << 32 | u64::from(purpose))
    }
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
    /// Random documents in which it is present, the strongest place of each; only with [`Survey::sampling`].
    pub(crate) middle: Sample<Example>,
    /// Likewise, of documents in which it fires, but below its presence threshold.
    pub(crate) weak: Sample<Example>,
}

/// Strong activations of a latent on a word.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OnWord {
    pub(crate) sum: f32,
    /// Occurrences of the word with one, each once however many of its tokens have one.
    pub(crate) n: u32,
    /// The last of them: its document, counted from 1, and its place there.
    last: (u32, u32),
}

impl OnWord {
    fn add(&mut self, activation: f32, occurrence: (u32, u32)) {
        self.sum += activation;
        self.n += u32::from(self.last != occurrence);
        self.last = occurrence;
    }
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
    sampling: Option<Sampling>,
}

/// Rows of one block (piece), and how well they are reconstructed: see [`Sae::unexplained`].
pub(super) type Encoded = (SparseRows, f64, f64);

/// What a thread keeps between batches: rows, and what they are encoded with and into.
pub(super) type Scratch = (Vec<f32>, EncodeScratch, SparseRows);

/// Encodes the pieces of a batch that was read at the dictionary's hook point alone.
pub(super) fn encode_pieces(
    sae: &Sae,
    texts: &[TokenizedText],
    batch: &BatchStates,
    (rows, scratch, sparse): &mut Scratch,
) -> Vec<Encoded> {
    let pieces = sae.gather(texts, batch, 0, rows);
    sae.encode_windows(None, rows, &batch.windows(0, sae.input_width()), scratch, sparse);
    let encoded = pieces.into_iter().map(|range| {
        let mut own = SparseRows::default();
        own.extend(sparse, range.clone());
        let (residual, total) = sae.unexplained(rows, sparse, range, scratch);
        (own, residual, total)
    });
    encoded.collect()
}

/// Encodes rows that are one block; of a dictionary that reads sequences, one window.
pub(super) fn encode(sae: &Sae, rows: &mut [f32], scratch: &mut EncodeScratch) -> Encoded {
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
            sampling: None,
        }
    }

    /// A survey that also draws random samples: for each latent of documents by how strongly it fires there, and excerpts
    /// of all texts. `middle`: how many different documents are wanted in which it is present. The same seed draws the same.
    pub(crate) fn sampling(sae: &Sae, seed: u64, middle: usize) -> Self {
        let middle = (middle as f32 * DRAWN_FOR_MIDDLE) as usize;
        Self { sampling: Some(Sampling { seed, middle, excerpts: Sample::default() }), ..Self::new(sae) }
    }

    /// Surveys the hidden states of a harvest.
    ///
    /// # Errors
    /// As [`Self::read_harvest`].
    pub(crate) fn of_harvest(
        sae: &Sae,
        harvest: &Harvest,
        hook: Tap,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        Self::new(sae).read_harvest(sae, harvest, hook, threads, progress)
    }

    /// Surveys texts that the reader reads now; at most `tokens` tokens unless that is 0.
    ///
    /// # Errors
    /// As [`Self::read_texts`].
    pub(crate) fn of_texts(
        sae: &Sae,
        reader: &Reader,
        source: &mut TextSource,
        tokens: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        Self::new(sae).read_texts(sae, reader, source, tokens, progress)
    }

    /// Takes in the hidden states of a harvest.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] if the dictionary reads sequences, [`ErrorKind::Corrupt`], [`ErrorKind::Cancelled`].
    pub(crate) fn read_harvest(
        mut self,
        sae: &Sae,
        harvest: &Harvest,
        hook: Tap,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        const ROWS: usize = 1024;
        if sae.architecture().reads_sequences() {
            let message = format!(
                "dictionary '{}' reads the tokens of a text one after the other, and a harvest does not keep where the reader's \
                 windows begin; give it the texts instead",
                sae.name()
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        let survey = &mut self;
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
        Ok(self)
    }

    /// Takes in texts that the reader reads now; at most `tokens` tokens unless that is 0.
    ///
    /// # Errors
    /// Those of the source; [`ErrorKind::Data`] without a text; [`ErrorKind::Cancelled`].
    pub(crate) fn read_texts(
        self,
        sae: &Sae,
        reader: &Reader,
        source: &mut TextSource,
        tokens: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut next = || {
            let texts = source.next_turn()?;
            Ok(texts.map(|texts| texts.into_iter().map(Passage::from).collect()))
        };
        self.read_passages(sae, reader, &mut next, tokens, progress)
    }

    /// [`Self::read_texts`] of what `next` gives, turn by turn, until it gives nothing.
    ///
    /// # Errors
    /// As [`Self::read_texts`], and those of `next`.
    pub(crate) fn read_passages(
        mut self,
        sae: &Sae,
        reader: &Reader,
        next: &mut dyn FnMut() -> Result<Option<Vec<Passage<'static>>>>,
        tokens: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let survey = &mut self;
        progress.stage("reading texts", (tokens > 0).then_some(tokens), "tokens");
        while tokens == 0 || survey.n_tokens < tokens {
            let Some(texts) = next()? else { break };
            if progress.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "stopped while reading texts"));
            }
            let tokenized = reader.tokenize_passages(&texts)?;
            let pieces = reader.read(&tokenized, &[sae.wanted()], |scratch: &mut Scratch, batch: &BatchStates| {
                Ok(encode_pieces(sae, &tokenized, batch, scratch))
            })?;
            for ((passage, tokenized), pieces) in texts.into_iter().zip(tokenized).zip(pieces) {
                let text = passage.text().to_owned();
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
        Ok(self)
    }

    /// Texts in one turn of a source.
    pub(crate) const TURN: usize = DOCS_PER_UNIT;

    /// Fraction of variance unexplained; NaN of a transcoder, which rebuilds other states.
    pub(crate) fn fvu(&self) -> f64 {
        self.residual / self.total
    }

    /// Latents that fire on a sample, on average.
    pub(crate) fn l0(&self) -> f64 {
        self.n_active as f64 / self.n_samples.max(1) as f64
    }

    /// Share of latents that never fire.
    pub(crate) fn dead_share(&self) -> f64 {
        self.latents.iter().filter(|latent| latent.fires == 0).count() as f64 / self.latents.len() as f64
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

    /// Random excerpts of all texts, in random order; none unless the survey is [`Self::sampling`].
    pub(crate) fn excerpts(&self) -> impl Iterator<Item = &Excerpt> {
        self.sampling.iter().flat_map(|sampling| sampling.excerpts.iter())
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
        let samples = encoded.samples(self.level);
        // Words of each sample: the word that a token belongs to, or all words of a span, each once.
        let mut words_of_sample: Vec<Vec<u32>> = Vec::with_capacity(samples.len());
        if self.level == Level::Token {
            words_of_sample.extend(text.word_of_token.iter().map(|&word| vec![ids[word]]));
            ids.iter().for_each(|&id| self.word_counts[id as usize] += 1);
        } else {
            for sample in &samples {
                let mut words: Vec<u32> = text.word_of_token[sample.clone()].iter().map(|&word| ids[word]).collect();
                words.sort_unstable();
                words.dedup();
                words.iter().for_each(|&id| self.word_counts[id as usize] += 1);
                words_of_sample.push(words);
            }
        }
        let document = self.present.len() as u32;
        let mut touched: Vec<u32> = Vec::new();
        for (i, (tokens, words)) in samples.iter().zip(&words_of_sample).enumerate().take(encoded.rows.len()) {
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
                // Words are counted by occurrence; of spans each span that holds one is an occurrence.
                let place = if self.level == Level::Token { word } else { i };
                for &word in words {
                    self.pairs.entry((latent, word)).or_default().add(activation, (document + 1, place as u32));
                }
            }
        }
        if self.pairs.len() > MAX_PAIRS {
            self.pairs.retain(|_, on| on.n > 1);
        }
        let mut n_present = 0;
        for latent in touched {
            let (max, sample) = std::mem::take(&mut self.maxima[latent as usize]);
            let is_present = max >= sae.latents()[latent as usize].presence_threshold;
            n_present += u32::from(is_present);
            let survey = &mut self.latents[latent as usize];
            survey.documents.add(max);
            let example = || text.example(document, max, &samples[sample as usize]);
            let weakest = survey.examples.last().map_or(0.0, |example| example.activation);
            if (survey.examples.len() < EXAMPLES || max > weakest)
                && let Some(example) = example()
            {
                let at = survey.examples.partition_point(|other| other.activation >= max);
                survey.examples.insert(at, example);
                survey.examples.truncate(EXAMPLES);
            }
            if let Some(sampling) = &self.sampling {
                let key = sampling.random(document, latent).next();
                let (sample, n) =
                    if is_present { (&mut survey.middle, sampling.middle) } else { (&mut survey.weak, WEAK) };
                sample.offer(n, key, example);
            }
        }
        self.present.push(n_present.min(crate::encode::max_features(sae.level()) as u32));
        if let Some(sampling) = &mut self.sampling
            && !samples.is_empty()
        {
            let mut random = sampling.random(document, u32::MAX);
            let (key, drawn) = (random.next(), random.below(samples.len()));
            sampling.excerpts.offer(EXCERPTS, key, || Excerpt::cut(document, encoded, &samples, drawn));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_depends_on_the_keys_alone() {
        let keys: Vec<u64> = (0..100).map(|i| Random::new(1, i).next()).collect();
        let (mut forward, mut backward) = (Sample::default(), Sample::default());
        keys.iter().for_each(|&key| forward.offer(10, key, || Some(key)));
        keys.iter().rev().for_each(|&key| backward.offer(10, key, || Some(key)));
        let mut smallest = keys.clone();
        smallest.sort_unstable();
        assert!(forward.iter().eq(&smallest[..10]) && backward.iter().eq(&smallest[..10]));
        forward.offer(10, 0, || None);
        assert_eq!(forward.iter().count(), 10);
    }

    #[test]
    fn pieces_of_a_word_are_one_occurrence_of_it() {
        let mut on = OnWord::default();
        for occurrence in [(1, 0), (1, 0), (1, 3), (2, 3)] {
            on.add(0.5, occurrence);
        }
        assert_eq!((on.n, on.sum), (3, 2.0));
    }

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
