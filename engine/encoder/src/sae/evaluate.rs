//! How well a dictionary reconstructs texts it was not trained on.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Sae;
use super::survey::Survey;
use super::texts::TextSource;
use crate::error::Result;
use crate::options::ReaderOptions;
use crate::progress::Progress;
use crate::reader::Reader;

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
    /// Threads and cache folder.
    pub reader_options: ReaderOptions,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct EvalReport {
    /// Name of the dictionary.
    pub name: String,
    /// Documents read.
    pub n_docs: u64,
    /// Tokens read.
    pub n_tokens: u64,
    /// Samples: tokens, or spans for a span-level dictionary.
    pub n_samples: u64,
    /// Share of variance left unexplained.
    pub fvu: f64,
    /// Latents that fire on a sample, on average.
    pub l0: f64,
    /// Share of latents that fire on none.
    pub dead_share: f64,
    /// Share of latents that fire on more than 5 % of the samples.
    pub dense_share: f64,
    /// Features present in a document: mean, median, 95th percentile, most.
    pub present: [f64; 4],
    /// Wall-clock seconds of reading and encoding.
    pub seconds: f64,
}

/// Reads the input, encodes it, and measures.
///
/// # Errors
/// As [`super::Sae::load`], [`crate::Reader::load`]; [`crate::ErrorKind::Data`] for an input without text.
pub fn evaluate(options: &EvalOptions, progress: &dyn Progress) -> Result<EvalReport> {
    let started = Instant::now();
    let sae = Sae::open(options.dictionary.as_deref().unwrap_or(Path::new(crate::sae::DEFAULT)))?;
    let reader = Reader::load(sae.reader(), &options.reader_options, progress)?;
    let mut source = TextSource::open(&options.input, &options.text_column, Survey::TURN)?;
    let survey = Survey::of_texts(&sae, &reader, &mut source, options.tokens, progress)?;
    let mut present = survey.present.clone();
    present.sort_unstable();
    let at = |share: f64| f64::from(present[((present.len() - 1) as f64 * share).round() as usize]);
    let mean = present.iter().map(|&n| f64::from(n)).sum::<f64>() / present.len() as f64;
    Ok(EvalReport {
        name: sae.name().to_owned(),
        n_docs: survey.n_docs,
        n_tokens: survey.n_tokens,
        n_samples: survey.n_samples,
        fvu: survey.fvu(),
        l0: survey.l0(),
        dead_share: survey.dead_share(),
        dense_share: survey.dense_share(crate::labels::DENSE),
        present: [mean, at(0.5), at(0.95), at(1.0)],
        seconds: started.elapsed().as_secs_f64(),
    })
}
