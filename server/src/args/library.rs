//! `features`, `sae` and `model`: the commands about what is known beside documents.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use saequel_engine::sae::Level;

use super::{Answer, Rows};

pub(super) const FEATURES_EXAMPLES: &str = "\
Examples:
  saequel features search sorry
  saequel features show 1208 --corpus answers
  saequel features rename 1208 \"says sorry\"
  saequel features export-labels --output labels.csv
  saequel features import-labels labels.csv";

pub(super) const SAE_EXAMPLES: &str = "\
Examples:
  saequel sae train --input texts.parquet --layer 4 --level span --output my-sae
  saequel sae eval my-sae --input other-texts.parquet
  saequel sae import my-sae --db saequel.db
  saequel sae list";

pub(super) const MODEL_EXAMPLES: &str = "\
Examples:
  saequel model list
  saequel model fetch                                      while there is a network
  saequel model verify";

/// `features`
#[derive(Debug, Subcommand)]
pub(crate) enum FeaturesCommand {
    /// Find features by what they mean and by the words they fire on
    Search {
        /// What to look for, in words
        query: String,
        /// Compare words only; needs no model
        #[arg(long)]
        words_only: bool,
        /// Also features that are hidden as uninformative
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        rows: Rows,
        #[command(flatten)]
        answer: Answer,
    },
    /// What is known of one feature, with example documents
    Show {
        /// Number or label
        feature: String,
        /// Corpus of the examples [default: the first one]
        #[arg(long, value_name = "NAME")]
        corpus: Option<String>,
        /// Example documents
        #[arg(long, default_value_t = 5)]
        examples: u64,
        #[command(flatten)]
        answer: Answer,
    },
    /// Give a feature another label
    Rename {
        /// Number or label
        feature: String,
        /// The new label
        label: String,
    },
    /// Write all labels: feature_id, label and what they rest on
    ExportLabels {
        #[command(flatten)]
        answer: Answer,
    },
    /// Take labels from a CSV, TSV or JSONL file with columns feature_id and label
    ImportLabels {
        /// The file
        file: PathBuf,
        /// What is kept as the labels' source
        #[arg(long, default_value = "imported")]
        source: String,
    },
}

/// `sae`
#[derive(Debug, Subcommand)]
pub(crate) enum SaeCommand {
    /// Train a dictionary on texts; a run that was stopped goes on where it was
    Train(TrainArgs),
    /// Measure how well a dictionary reconstructs texts
    Eval(EvalArgs),
    /// List the database's dictionaries
    List {
        #[command(flatten)]
        answer: Answer,
    },
    /// Add a trained dictionary to the database
    Import {
        /// Folder with sae.json, sae.safetensors and features.jsonl
        dir: PathBuf,
    },
    /// Make new labels for a dictionary from texts
    Label(LabelArgs),
}

/// Texts to read.
#[derive(Debug, Args)]
pub(crate) struct Texts {
    /// Files: Parquet, JSONL, or plain text (one document each)
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) input: Vec<PathBuf>,
    /// Column with the text
    #[arg(long, default_value = "text", value_name = "COLUMN")]
    pub(crate) text: String,
}

fn level(text: &str) -> Result<Level, String> {
    match text {
        "token" => Ok(Level::Token),
        "span" => Ok(Level::Span),
        other => Err(format!("level '{other}' not known; expected token or span")),
    }
}

fn hook_point(text: &str) -> Result<(usize, Level), String> {
    let wrong = || format!("hook point '{text}': expected a layer and a level, such as 6:token or 4:span");
    let (layer, of) = text.split_once(':').ok_or_else(wrong)?;
    Ok((layer.parse().map_err(|_| wrong())?, level(of)?))
}

/// `sae train`
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) texts: Texts,
    /// Folder of the finished dictionary
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Folder for hidden states (768 bytes a token) and checkpoints [default: OUTPUT.work]
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// Name of the dictionary [default: from reader, layer, level and width]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Model that reads
    #[arg(long, default_value = saequel_engine::reader::DEFAULT_READER)]
    pub(crate) reader: String,
    /// Layer of the hook point: 0 is the embedding, n the output of block n
    #[arg(long, default_value_t = 4)]
    pub(crate) layer: usize,
    /// What a sample is: token or span (sentence)
    #[arg(long, default_value = "token", value_parser = level)]
    pub(crate) level: Level,
    /// Features
    #[arg(long, default_value_t = 4096)]
    pub(crate) width: usize,
    /// Features that fire on a sample, on average
    #[arg(long, default_value_t = 16)]
    pub(crate) k: usize,
    /// Tokens to read; fewer if the texts end before
    #[arg(long, default_value_t = 4_000_000)]
    pub(crate) tokens: u64,
    /// Keep token-level hidden states of the first so many tokens only; 0: of all
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    pub(crate) token_states: u64,
    /// Further hook points to keep in the same pass, so that other dictionaries can be trained from the same --work folder
    #[arg(long, num_args = 1.., value_name = "LAYER:LEVEL", value_parser = hook_point)]
    pub(crate) also: Vec<(usize, Level)>,
    /// Samples to train on, with repetition; 0: each one twice
    #[arg(long, default_value_t = 0)]
    pub(crate) samples: u64,
    /// Samples in a step
    #[arg(long, default_value_t = 2048)]
    pub(crate) batch: usize,
    /// Step size
    #[arg(long, default_value_t = 2e-3)]
    pub(crate) learning_rate: f32,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Keep no pieces of the texts as examples in the dictionary
    #[arg(long)]
    pub(crate) no_examples: bool,
}

/// `sae eval`
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Folder of the dictionary [default: the shipped one]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) texts: Texts,
    /// Tokens to read; 0: all
    #[arg(long, default_value_t = 0)]
    pub(crate) tokens: u64,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `sae label`
#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// Folder of the dictionary; its features.jsonl is replaced
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) texts: Texts,
    /// Tokens to read; 0: all
    #[arg(long, default_value_t = 0)]
    pub(crate) tokens: u64,
    /// Measure density, quantiles and presence thresholds anew too
    #[arg(long)]
    pub(crate) statistics: bool,
    /// Keep no pieces of the texts as examples
    #[arg(long)]
    pub(crate) no_examples: bool,
}

/// `model`
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// List the models that can read, and whether their weights are here
    List {
        #[command(flatten)]
        answer: Answer,
    },
    /// Fetch a model's weights, so that later commands need no network
    Fetch {
        /// Name
        #[arg(default_value = saequel_engine::reader::DEFAULT_READER)]
        name: String,
    },
    /// Check the weights against their known checksum
    Verify {
        /// Name
        #[arg(default_value = saequel_engine::reader::DEFAULT_READER)]
        name: String,
    },
}
