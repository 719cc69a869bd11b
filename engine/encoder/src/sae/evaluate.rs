//! How good a dictionary is, on texts it was not trained on: how well it reconstructs, of what its error is made, how
//! often latents fire, which of them are nearly the same, which miss where a more specific one fires, and how well single
//! latents tell labelled texts apart.
//!
//! Texts are read once. What is kept are sums and counts, of a size that the dictionary sets and not the texts; only of
//! labelled texts, at most [`MAX_LABELLED`], the activations are kept.

mod absorption;
mod concepts;
mod linear_error;
#[cfg(test)]
pub(super) mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::neighbours::Directions;
use super::random::Random;
use super::survey::Survey;
use super::texts::{TextSource, labelled};
use super::{EncodeScratch, Level, Sae, SparseRows};
use crate::error::{Error, ErrorKind, Result};
use crate::options::ReaderOptions;
use crate::progress::Progress;
use crate::reader::{BatchStates, Reader};

pub use absorption::AbsorbedPair;
pub use concepts::Concept;

use absorption::{Absorption, Event, Partners};
use concepts::{Classes, Table, WordTable};
use linear_error::{Moments, MomentsScratch};

/// Labelled texts that are read at most.
const MAX_LABELLED: usize = 20_000;
/// Cosine of decoder directions from which on two latents are nearly the same.
const REDUNDANT: f32 = 0.9;
/// Pairs of either kind that are told.
const MAX_PAIRS: usize = 100;
/// Products for the search of neighbours at most, some minutes; of larger dictionaries a random part of the latents is
/// looked at.
const MAX_PRODUCTS: usize = 2_000_000_000_000;
/// Seed of all draws: the halves, the random samples, the latents that are looked at.
const SEED: u64 = 1;

/// What to evaluate, on what.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// Folder of the dictionary; `None`: the shipped one.
    pub dictionary: Option<PathBuf>,
    /// Text files, as in [`super::TrainOptions::input`].
    pub input: Vec<PathBuf>,
    /// Column (field) with the text.
    pub text_column: String,
    /// Tokens to read; 0: all.
    pub tokens: u64,
    /// Texts with labels, to see how well single latents tell them apart.
    pub labelled: Option<LabelledTexts>,
    /// Threads and cache folder.
    pub reader_options: ReaderOptions,
}

/// A file of texts with a label each.
#[derive(Debug, Clone)]
pub struct LabelledTexts {
    /// Parquet or JSON lines.
    pub file: PathBuf,
    /// Column with the text.
    pub text_column: String,
    /// Column with the label: strings, numbers or truth values.
    pub label_column: String,
}

/// What was found. Shares are from 0 to 1.
#[derive(Debug, Clone)]
pub struct EvalReport {
    /// Name of the dictionary.
    pub name: String,
    /// Name of each latent.
    pub labels: Vec<String>,
    /// What it does with pre-activations.
    pub architecture: &'static str,
    /// Documents read.
    pub n_docs: u64,
    /// Tokens read.
    pub n_tokens: u64,
    /// Samples: tokens, or spans for a span-level dictionary.
    pub n_samples: u64,
    /// Share of variance left unexplained, about the centre of the dictionary; `None` of a transcoder.
    pub fvu: Option<f64>,
    /// Share of the variance of these texts, about their own mean, that is explained (the field's explained variance).
    pub explained_variance: Option<f64>,
    /// Latents that fire on a sample, on average.
    pub l0: f64,
    /// Share of latents that fire on none.
    pub dead_share: f64,
    /// Share of latents that fire on more than 5 % of the samples.
    pub dense_share: f64,
    /// How many latents fire how often, rarest first.
    pub density: Vec<DensityBin>,
    /// Features present in a document: mean, median, 95th percentile, most.
    pub present: [f64; 4],
    /// Share of the squared error that an affine function of the input predicts on documents that it was not fitted on.
    pub error_linear: Option<f64>,
    /// FVU that is left when that is taken away.
    pub fvu_nonlinear: Option<f64>,
    /// R² of the length of the error, predicted likewise.
    pub error_norm_r2: Option<f64>,
    /// Cosine of each latent's direction with its nearest neighbour's: median, 95th percentile, largest.
    pub nearest: [f64; 3],
    /// Share of latents with a neighbour of cosine 0.9 or more.
    pub redundant_share: f64,
    /// Pairs of latents that are each other's nearest, from that cosine on; nearest first, 100 at most.
    pub redundant: Vec<SimilarPair>,
    /// Pairs of a general and a specific latent that were looked at.
    pub absorption_pairs: u64,
    /// Share of the samples on which a specific latent fires and the general one is due, that the general one misses.
    pub absorption_missed: Option<f64>,
    /// Share that the same latents miss on random samples on which they are due.
    pub absorption_missed_otherwise: Option<f64>,
    /// Share of latents that miss more often than not beside at least one specific one.
    pub absorbed_share: Option<f64>,
    /// The pairs in which they do, those with most misses first, 100 at most.
    pub absorbed: Vec<AbsorbedPair>,
    /// What tells labelled texts apart; empty without.
    pub concepts: Vec<Concept>,
    /// What was left out, and why.
    pub skipped: Vec<String>,
    /// Wall-clock seconds of reading and encoding.
    pub seconds: f64,
}

/// How many latents fire on how large a share of the samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DensityBin {
    /// Least share of the samples; 0 in the first bin, whose latents fire on none.
    pub from: f64,
    /// Share that is not reached any more; 0 in the first bin.
    pub to: f64,
    /// Latents.
    pub n_latents: u64,
}

/// Two latents that point nearly the same way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimilarPair {
    /// The lower latent.
    pub a: u32,
    /// The higher one.
    pub b: u32,
    /// Cosine of their decoder directions.
    pub cosine: f32,
}

/// Reads the input, encodes it, and measures.
///
/// # Errors
/// As [`super::Sae::load`], [`crate::Reader::load`]; [`ErrorKind::Data`] for an input without text;
/// [`ErrorKind::Cancelled`].
pub fn evaluate(options: &EvalOptions, progress: &dyn Progress) -> Result<EvalReport> {
    let started = Instant::now();
    let sae = Sae::open(options.dictionary.as_deref().unwrap_or(Path::new(crate::sae::DEFAULT)))?;
    let reader = Reader::load(sae.reader(), &options.reader_options, progress)?;
    check_hook(&sae, &reader)?;
    let mut source = TextSource::open(&options.input, &options.text_column, Survey::TURN)?;
    let gauge = Gauge::new(&sae, options.reader_options.threads)?;
    let mut tally = Tally::new(&gauge);
    progress.stage("reading texts", (options.tokens > 0).then_some(options.tokens), "tokens");
    while options.tokens == 0 || tally.n_tokens < options.tokens {
        let Some(texts) = source.next_turn()? else { break };
        stop_if(progress.cancelled())?;
        let views: Vec<&str> = texts.iter().map(String::as_str).collect();
        let tokenized = reader.tokenize(&views)?;
        let first = tally.n_docs;
        let documents = reader.read(&tokenized, &[sae.wanted()], |scratch: &mut Scratch, batch: &BatchStates| {
            let Scratch { encode, sparse, rows, .. } = scratch;
            let pieces = sae.gather(&tokenized, batch, 0, rows);
            sae.encode_windows(None, rows, &batch.windows(0, sae.input_width()), encode, sparse);
            let numbered = batch.pieces.iter().zip(pieces).map(|(piece, rows)| (first + piece.doc as u64, rows));
            Ok(gauge.look(&numbered.collect::<Vec<_>>(), scratch))
        })?;
        for (text, seen) in tokenized.iter().zip(&documents) {
            tally.take(&sae, text.tokens.len() as u64, seen);
        }
        progress.update(tally.n_tokens, "");
    }
    progress.finish(&tally.summary());
    if tally.n_samples == 0 {
        return Err(Error::new(ErrorKind::Data, "the input holds no text"));
    }
    let mut report = tally.report(&gauge, options.reader_options.threads)?;
    if let Some(texts) = &options.labelled {
        report.concepts = separate(&sae, &reader, texts, options.reader_options.threads, progress)?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Says what is wrong if the dictionary cannot read what the reader gives.
///
/// # Errors
/// [`ErrorKind::Query`] naming both.
pub(super) fn check_hook(sae: &Sae, reader: &Reader) -> Result<()> {
    let width = reader.hook_width(sae.hook())?;
    let wrong = |what: String| Err(Error::new(ErrorKind::Query, format!("dictionary '{}' {what}", sae.name())));
    if width != sae.input_width() {
        let (hook, expected) = (sae.hook(), sae.input_width());
        return wrong(format!("reads {expected} values at {hook}, but reader '{}' has {width} there", reader.name()));
    }
    if sae.level() == Level::Document {
        return wrong("is of level document, which cannot be encoded yet; use token or span".to_owned());
    }
    Ok(())
}

pub(super) fn stop_if(cancelled: bool) -> Result<()> {
    if cancelled { Err(Error::new(ErrorKind::Cancelled, "stopped while reading texts")) } else { Ok(()) }
}

/// What is looked at on every sample, by all threads.
struct Gauge<'a> {
    sae: &'a Sae,
    /// Nearest neighbours of the latents that are looked at; empty for the others.
    nearest: Vec<Vec<(u32, f32)>>,
    /// `None` where it makes no sense.
    partners: Option<Partners>,
    /// Of both halves of the documents; `None` likewise.
    moments: Option<Mutex<[Moments; 2]>>,
    skipped: Vec<String>,
}

/// What a thread keeps between batches.
#[derive(Default)]
struct Scratch {
    encode: EncodeScratch,
    sparse: SparseRows,
    rows: Vec<f32>,
    error: Vec<f32>,
    /// Inputs and errors of the rows of each half.
    halves: [[Vec<f32>; 2]; 2],
    products: MomentsScratch,
    moments: Option<Moments>,
}

/// What was seen of one piece of a document.
#[derive(Default)]
struct Seen {
    sparse: SparseRows,
    residual: f64,
    total: f64,
    squares: f64,
    events: Vec<Event>,
}

impl<'a> Gauge<'a> {
    fn new(sae: &'a Sae, threads: usize) -> Result<Self> {
        let mut skipped = Vec::new();
        let directions = Directions::of(sae);
        let most = (MAX_PRODUCTS / (sae.width() * sae.output_width())).clamp(1, sae.width());
        let mut latents: Vec<u32> = (0..sae.width() as u32).collect();
        if most < latents.len() {
            Random::new(SEED, u64::MAX).shuffle(&mut latents);
            latents.truncate(most);
            latents.sort_unstable();
            skipped.push(format!("neighbours: looked for those of {most} of {} latents, drawn at random", sae.width()));
        }
        let mut nearest = vec![Vec::new(); sae.width()];
        for (&latent, found) in
            latents.iter().zip(directions.nearest(&latents, &directions, absorption::PARTNERS, threads)?)
        {
            nearest[latent as usize] = found;
        }
        let transcoder = sae.is_transcoder();
        if transcoder {
            let why = "it rebuilds another hook point than it reads (a transcoder)";
            skipped.push(format!("FVU, error, absorption: {why}"));
        }
        let wide = sae.input_width() > linear_error::MAX_INPUTS;
        if wide && !transcoder {
            let (width, most) = (sae.input_width(), linear_error::MAX_INPUTS);
            skipped.push(format!(
                "error: hidden states of width {width} are too wide to be regressed on (at most {most})"
            ));
        }
        let moments = || Moments::new(sae.input_width(), sae.output_width());
        Ok(Self {
            sae,
            partners: (!transcoder).then(|| Partners::new(directions, &nearest)),
            moments: (!transcoder && !wide).then(|| Mutex::new([moments(), moments()])),
            nearest,
            skipped,
        })
    }

    /// Looks at the rows in `scratch`, which were encoded with it. `pieces`: number of the document, and its rows.
    fn look(&self, pieces: &[(u64, Range<usize>)], scratch: &mut Scratch) -> Vec<Seen> {
        let width = self.sae.input_width();
        let Scratch { encode, sparse, rows, error, halves, .. } = scratch;
        halves.iter_mut().flatten().for_each(Vec::clear);
        let mut seen = Vec::with_capacity(pieces.len());
        for (document, range) in pieces {
            let mut piece = Seen::default();
            piece.sparse.extend(sparse, range.clone());
            (piece.residual, piece.total) = self.sae.unexplained(rows, sparse, range.clone(), encode);
            let half = usize::from(Random::new(SEED, *document).next() & 1 == 1);
            for (i, row) in range.clone().zip(rows[range.start * width..range.end * width].chunks_exact(width)) {
                let (latents, activations) = sparse.row(i);
                if self.partners.is_none() {
                    continue; // of a transcoder there is no error to look at
                }
                self.sae.error(rows, sparse, i, encode, error);
                // The row less its reconstruction.
                error.iter_mut().for_each(|value| *value = -*value);
                if self.moments.is_some() {
                    let [inputs, errors] = &mut halves[half];
                    inputs.extend_from_slice(row);
                    errors.extend_from_slice(error);
                    piece.squares += row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
                }
                if let Some(partners) = &self.partners {
                    let number = (i - range.start) as u64;
                    let draw = Random::new(SEED ^ document.rotate_left(32), number).next();
                    let drawn = draw.is_multiple_of(absorption::DRAWN as u64);
                    partners.look(drawn, error, latents, activations, &mut piece.events);
                }
            }
            seen.push(piece);
        }
        if let Some(moments) = &self.moments {
            let Scratch { halves, products, moments: own, .. } = scratch;
            let own = own.get_or_insert_with(|| Moments::new(width, self.sae.output_width()));
            for (half, [inputs, errors]) in halves.iter().enumerate() {
                own.clear();
                own.add(inputs, errors, products);
                if !own.is_empty() {
                    moments.lock().unwrap_or_else(PoisonError::into_inner)[half].merge(own);
                }
            }
        }
        seen
    }
}

/// What was counted over all documents.
struct Tally {
    n_docs: u64,
    n_tokens: u64,
    n_samples: u64,
    n_active: u64,
    residual: f64,
    total: f64,
    squares: f64,
    fires: Vec<u64>,
    absorption: Option<Absorption>,
    /// Documents with so many features present.
    present: Vec<u64>,
    /// Largest activation of each latent in the present document.
    maxima: Vec<f32>,
    touched: Vec<u32>,
}

impl Tally {
    fn new(gauge: &Gauge<'_>) -> Self {
        let width = gauge.sae.width();
        Self {
            n_docs: 0,
            n_tokens: 0,
            n_samples: 0,
            n_active: 0,
            residual: 0.0,
            total: 0.0,
            squares: 0.0,
            fires: vec![0; width],
            absorption: gauge.partners.as_ref().map(Absorption::new),
            present: vec![0; crate::encode::max_features(gauge.sae.level()) + 1],
            maxima: vec![0.0; width],
            touched: Vec::new(),
        }
    }

    /// Takes in a document, seen in pieces.
    fn take(&mut self, sae: &Sae, n_tokens: u64, pieces: &[Seen]) {
        self.n_docs += 1;
        self.n_tokens += n_tokens;
        for piece in pieces {
            self.n_samples += piece.sparse.len() as u64;
            self.residual += piece.residual;
            self.total += piece.total;
            self.squares += piece.squares;
            if let Some(absorption) = &mut self.absorption {
                absorption.take(&piece.events);
            }
            for i in 0..piece.sparse.len() {
                let (latents, activations) = piece.sparse.row(i);
                self.n_active += latents.len() as u64;
                for (&latent, &activation) in latents.iter().zip(activations) {
                    self.fires[latent as usize] += 1;
                    let max = &mut self.maxima[latent as usize];
                    if *max == 0.0 {
                        self.touched.push(latent);
                    }
                    *max = max.max(activation);
                }
            }
        }
        let mut n_present = 0;
        for latent in self.touched.drain(..) {
            let max = std::mem::take(&mut self.maxima[latent as usize]);
            n_present += usize::from(max >= sae.latents()[latent as usize].presence_threshold);
        }
        let most = self.present.len() - 1;
        self.present[n_present.min(most)] += 1;
    }

    fn l0(&self) -> f64 {
        self.n_active as f64 / self.n_samples.max(1) as f64
    }

    fn fvu(&self) -> Option<f64> {
        (self.total > 0.0).then(|| self.residual / self.total)
    }

    fn summary(&self) -> String {
        match self.fvu() {
            Some(fvu) => format!("FVU {fvu:.3}, L0 {:.1}", self.l0()),
            None => format!("L0 {:.1}", self.l0()),
        }
    }

    /// Number of features present in a document: mean, median, 95th percentile, most.
    fn present(&self) -> [f64; 4] {
        let n = self.n_docs.max(1);
        let at = |share: f64| {
            let wanted = ((n - 1) as f64 * share).round() as u64;
            let mut passed = 0;
            let place = self.present.iter().position(|&count| {
                passed += count;
                passed > wanted
            });
            place.unwrap_or(0) as f64
        };
        let sum: f64 = self.present.iter().enumerate().map(|(features, &docs)| features as f64 * docs as f64).sum();
        [sum / n as f64, at(0.5), at(0.95), at(1.0)]
    }

    /// Latents by decades of their density.
    fn density(&self) -> Vec<DensityBin> {
        let dead = self.fires.iter().filter(|&&fires| fires == 0).count() as u64;
        let mut bins = vec![DensityBin { from: 0.0, to: 0.0, n_latents: dead }];
        // One sample in all is the rarest there is.
        let rarest = (1.0 / self.n_samples.max(1) as f64).log10().floor() as i32;
        for decade in rarest..0 {
            let (from, to) = (10f64.powi(decade), 10f64.powi(decade + 1));
            let within = |&&fires: &&u64| {
                let density = fires as f64 / self.n_samples as f64;
                fires > 0 && density >= from && (density < to || decade == -1)
            };
            bins.push(DensityBin { from, to, n_latents: self.fires.iter().filter(within).count() as u64 });
        }
        bins
    }

    fn report(&self, gauge: &Gauge<'_>, threads: usize) -> Result<EvalReport> {
        let sae = gauge.sae;
        let width = sae.width() as f64;
        let share = |n: usize| n as f64 / width;
        let mut skipped = gauge.skipped.clone();
        let fvu = self.fvu();
        let (mut linear, mut explained) = (None, None);
        if let Some(moments) = &gauge.moments {
            let halves = moments.lock().unwrap_or_else(PoisonError::into_inner);
            linear = linear_error::linear_share(&halves, threads)?;
            if linear.is_none() {
                skipped.push(format!(
                    "error: {} samples are too few for a regression on {} inputs (or there is no error)",
                    self.n_samples,
                    sae.input_width()
                ));
            }
            let variance = self.squares - halves[0].squared_mean(&halves[1]);
            explained = (variance > 0.0).then(|| 1.0 - self.residual / variance);
        }
        let absorption = self.absorption.as_ref().zip(gauge.partners.as_ref());
        let mut absorption = absorption.map(|(absorption, partners)| absorption.found(partners)).unwrap_or_default();
        let mut absorbed: Vec<u32> = absorption.pairs.iter().map(|pair| pair.general).collect();
        absorbed.sort_unstable();
        absorbed.dedup();
        absorption.pairs.truncate(MAX_PAIRS);
        let (nearest, redundant_share, redundant) = redundancy(&gauge.nearest);
        let limit = crate::labels::DENSE * self.n_samples as f64;
        Ok(EvalReport {
            name: sae.name().to_owned(),
            labels: sae.latents().iter().map(|latent| latent.label.clone()).collect(),
            architecture: sae.architecture().name(),
            n_docs: self.n_docs,
            n_tokens: self.n_tokens,
            n_samples: self.n_samples,
            fvu,
            explained_variance: explained,
            l0: self.l0(),
            dead_share: share(self.fires.iter().filter(|&&fires| fires == 0).count()),
            dense_share: share(self.fires.iter().filter(|&&fires| fires as f64 > limit).count()),
            density: self.density(),
            present: self.present(),
            error_linear: linear.map(|linear| linear.error),
            fvu_nonlinear: fvu.zip(linear).map(|(fvu, linear)| fvu * (1.0 - linear.error)),
            error_norm_r2: linear.map(|linear| linear.norm),
            nearest,
            redundant_share,
            redundant,
            absorption_pairs: absorption.n_judged as u64,
            absorption_missed: absorption.missed_share,
            absorption_missed_otherwise: absorption.missed_otherwise,
            absorbed_share: gauge.partners.is_some().then(|| share(absorbed.len())),
            absorbed: absorption.pairs,
            concepts: Vec::new(),
            skipped,
            seconds: 0.0,
        })
    }
}

/// Cosine with the nearest neighbour (median, 95th percentile, largest), share of latents that have one from [`REDUNDANT`]
/// on, and those pairs of which each is the other's nearest.
fn redundancy(nearest: &[Vec<(u32, f32)>]) -> ([f64; 3], f64, Vec<SimilarPair>) {
    let first = |latent: usize| nearest[latent].first().copied();
    let mut cosines: Vec<f32> = (0..nearest.len()).filter_map(|latent| Some(first(latent)?.1)).collect();
    cosines.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| {
        let place = (cosines.len().saturating_sub(1) as f64 * share).round() as usize;
        cosines.get(place).map_or(0.0, |&cosine| f64::from(cosine))
    };
    let n_redundant = cosines.iter().filter(|&&cosine| cosine >= REDUNDANT).count();
    let mut pairs: Vec<SimilarPair> = Vec::new();
    for a in 0..nearest.len() as u32 {
        let Some((b, cosine)) = first(a as usize).filter(|&(_, cosine)| cosine >= REDUNDANT) else { continue };
        // Where `b` was not looked at, the pair counts from `a`'s side.
        let mutual = first(b as usize).is_none_or(|(back, other)| back == a || other == cosine);
        if mutual && (a < b || first(b as usize).is_none()) {
            pairs.push(SimilarPair { a: a.min(b), b: a.max(b), cosine });
        }
    }
    pairs.sort_by(|x, y| y.cosine.total_cmp(&x.cosine).then((x.a, x.b).cmp(&(y.a, y.b))));
    pairs.truncate(MAX_PAIRS);
    ([at(0.5), at(0.95), at(1.0)], n_redundant as f64 / cosines.len().max(1) as f64, pairs)
}

/// How well single latents tell labelled texts apart, by their largest activation in a text.
fn separate(
    sae: &Sae,
    reader: &Reader,
    texts: &LabelledTexts,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Concept>> {
    let LabelledTexts { file, text_column, label_column } = texts;
    let mut rows = labelled(file, text_column, label_column)?;
    let (mut classes, mut features, mut words) = (Classes::default(), Table::new(sae.width()), WordTable::default());
    progress.stage("reading labelled texts", None, "texts");
    loop {
        stop_if(progress.cancelled())?;
        let left = (MAX_LABELLED - classes.len()).min(Survey::TURN);
        let turn: Vec<(String, String)> = rows.by_ref().take(left).collect::<Result<_>>()?;
        if turn.is_empty() {
            break;
        }
        let views: Vec<&str> = turn.iter().map(|(text, _)| text.as_str()).collect();
        for ((text, label), maxima) in turn.iter().zip(document_maxima(sae, reader, &views)?) {
            let document = classes.push(label, SEED);
            features.push(document, maxima.into_iter());
            words.push(document, text);
        }
        progress.update(classes.len() as u64, "");
    }
    if rows.next().is_some() {
        progress.warn(&format!("only the first {MAX_LABELLED} labelled texts of {} are used", file.display()));
    }
    let found = concepts::concepts(&classes, &features, &words, threads)?;
    if found.is_empty() {
        let message = format!(
            "{}: no value of '{label_column}' stands beside {} texts or more in both halves of {} texts",
            file.display(),
            concepts::LEAST,
            classes.len()
        );
        return Err(Error::new(ErrorKind::Data, message));
    }
    progress.finish(&format!("{} classes in {} texts", found.len(), classes.len()));
    Ok(found)
}

/// Largest activation of each latent that fires, for each text; presence thresholds are not applied.
fn document_maxima(sae: &Sae, reader: &Reader, texts: &[&str]) -> Result<Vec<Vec<(u32, f32)>>> {
    let tokenized = reader.tokenize(texts)?;
    let pieces = reader.read(&tokenized, &[sae.wanted()], |scratch: &mut Scratch, batch: &BatchStates| {
        let Scratch { encode, sparse, rows, .. } = scratch;
        let pieces = sae.gather(&tokenized, batch, 0, rows);
        sae.encode_windows(None, rows, &batch.windows(0, sae.input_width()), encode, sparse);
        let row = |i: usize| sparse.row(i).0.iter().copied().zip(sparse.row(i).1.iter().copied());
        Ok(pieces.into_iter().map(|rows| strongest(rows.flat_map(row).collect())).collect())
    })?;
    Ok(pieces.into_iter().map(|pieces| strongest(pieces.concat())).collect())
}

/// The largest activation of each latent, ascending by latent.
fn strongest(mut found: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    found.dedup_by_key(|&mut (latent, _)| latent);
    found
}
