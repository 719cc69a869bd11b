//! Training a BatchTopK sparse autoencoder: harvest once, train, describe, save.

use std::path::PathBuf;

use saequel_udfs::Level;

use crate::error::Result;
use crate::options::EngineOptions;
use crate::progress::Progress;

/// What to train, on what, and how. `TrainOptions::new` has the defaults of the shipped dictionary.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Text files: Parquet, JSONL, or plain text (one document each). Read in turn, a batch of each.
    pub input: Vec<PathBuf>,
    /// Column (field) with the text; default `text`.
    pub text_column: String,
    /// Reader; default `all-MiniLM-L6-v2`.
    pub reader: String,
    /// Layer of the hook point: 0 is the embedding, n the output of block n; default 4.
    pub layer: usize,
    /// Token (default) or span; see [`Level`].
    pub level: Level,
    /// Further hook points to harvest in the same pass, so that other dictionaries can be trained from `work_dir`.
    pub also_harvest: Vec<(usize, Level)>,
    /// Name of the dictionary; default `<reader>-l<layer>-<level>-<width>`, e.g. `minilm-l4-token-4096`.
    pub name: Option<String>,
    /// Latents; default 4,096.
    pub width: usize,
    /// Latents that may fire on a token, on average in training and at most in use; default 16.
    pub k: usize,
    /// Tokens to read; default 4,000,000. Fewer if the input ends before.
    pub tokens: u64,
    /// Samples (tokens or spans) to train on, with repetition; default 0: each harvested one twice.
    pub samples: u64,
    /// Samples in a step; default 2,048.
    pub batch: usize,
    /// Adam's step size; default 2e-3.
    pub learning_rate: f32,
    /// Seed of every random choice; default 1.
    pub seed: u64,
    /// Folder for hidden states (2 x width bytes a token) and checkpoints. A run that was stopped goes on from there.
    pub work_dir: PathBuf,
    /// Folder of the finished dictionary.
    pub output: PathBuf,
    /// Whether to keep short pieces of the training texts in the dictionary as examples; default true.
    pub examples: bool,
    /// Threads and cache folder.
    pub engine: EngineOptions,
}

impl TrainOptions {
    /// The defaults for training on `input`, working in `work_dir`, writing to `output`.
    pub fn new(input: Vec<PathBuf>, work_dir: impl Into<PathBuf>, output: impl Into<PathBuf>) -> Self {
        Self {
            input,
            text_column: "text".to_owned(),
            reader: crate::reader::DEFAULT_READER.to_owned(),
            layer: 4,
            level: Level::Token,
            also_harvest: Vec::new(),
            name: None,
            width: 4096,
            k: 16,
            tokens: 4_000_000,
            samples: 0,
            batch: 2048,
            learning_rate: 2e-3,
            seed: 1,
            work_dir: work_dir.into(),
            output: output.into(),
            examples: true,
            engine: EngineOptions::default(),
        }
    }
}

/// How a training went.
#[derive(Debug, Clone)]
pub struct TrainReport {
    /// Name of the dictionary.
    pub name: String,
    /// Tokens that the reader read for it.
    pub n_tokens: u64,
    /// Samples trained on, with repetition.
    pub n_samples: u64,
    /// Share of variance left unexplained on the harvested samples, with the learned threshold and the cap.
    pub fvu: f64,
    /// Latents that fire on a sample, on average, likewise.
    pub l0: f64,
    /// Share of latents that never fire on the harvested samples.
    pub dead_share: f64,
    /// Wall-clock seconds, harvest included.
    pub seconds: f64,
}

/// Trains a dictionary and writes it to `options.output`, labels included.
///
/// BatchTopK (Bussmann et al. 2024, arXiv:2412.06410): of a batch's latents the `k * batch` strongest fire. Resumes from
/// `options.work_dir` where an earlier run with the same options stopped.
///
/// # Errors
/// As [`crate::Reader::load`]; [`crate::ErrorKind::Query`] for an option out of range, [`crate::ErrorKind::Data`] for an
/// input without text, [`crate::ErrorKind::Cancelled`] after a checkpoint if `progress` says so.
pub fn train(options: &TrainOptions, progress: &dyn Progress) -> Result<TrainReport> {
    let _ = (options, progress);
    todo!("owner of sae")
}
