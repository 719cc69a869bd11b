//! `features`, `sae` and `model`: the commands about what is known beside documents.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use saequel_engine::evidence::MIDDLE;
use saequel_engine::sae::Level;

use super::{Answer, Rows};

pub(super) const FEATURES_EXAMPLES: &str = "\
Examples:
  saequel features search sorry
  saequel features show 3691 --corpus answers
  saequel features rename 3691 \"says sorry\"
  saequel features evidence 3691 --corpus answers --format table
  saequel features export-labels --output labels.csv
  saequel features import-labels labels.csv";

pub(super) const SAE_EXAMPLES: &str = "\
Examples:
  saequel sae train --input texts.parquet --layer 4 --level span --output my-sae
  saequel sae eval my-sae --input other-texts.parquet
  saequel features evidence --dictionary my-sae --work my-sae.work --output evidence.jsonl
  saequel sae detect my-sae --evidence evidence.jsonl --write
  saequel sae import my-sae --db saequel.db
  saequel sae list";

pub(super) const MODEL_EXAMPLES: &str = "\
Examples:
  saequel model list
  saequel model fetch                                      while there is a network
  saequel model verify";

const EVIDENCE_EXAMPLES: &str = "\
Contexts come from one of three places: files (--input), a corpus (--corpus), or the hidden states that a training left
(--work), which need no reading. A feature's contexts are of different documents, its token (or sentence) in «guillemets»:
  strongest  among the strongest that were seen        contrast  it does not fire, though the text is similar
  middle     present, drawn at random                  other     it does not fire; random, only for testing
  weak       it fires, but too faintly to be present
Contexts for finding a label (split label) and for testing it (split test) are kept apart.

Examples:
  saequel features evidence 3691 --corpus answers --format table
  saequel features evidence --input texts.parquet --tokens 2000000 --output evidence.jsonl
  saequel features evidence 17 --dictionary my-sae --work my-sae.work";

const ADD_HELP: &str = "\
The stored texts are read again, and only the new columns are written. Queries go on meanwhile and do not see the dictionary
until the last document has it; other writers wait. After an interruption the same command goes on where it was.

Examples:
  saequel sae add answers minilm-l4-span-4096
  saequel sae add answers ./my-sae
  saequel sae remove my-sae --corpus answers";

const DETECT_HELP: &str = "\
Label and description are compared with test contexts by the reader's embedding. The score (AUROC) is the probability that
a context in which the feature is present is nearer to the label than a random other one: 0.5 is chance, 1 is perfect.

Examples:
  saequel sae detect my-sae --evidence evidence.jsonl
  saequel sae detect my-sae --evidence evidence.jsonl --write     keep the scores in features.jsonl";

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
    /// Show what features do: contexts in which they fire, and others, to find labels and to test them
    #[command(after_help = EVIDENCE_EXAMPLES)]
    Evidence(EvidenceArgs),
    /// Write all labels: feature_id, label, description, detection and what they rest on
    ExportLabels {
        #[command(flatten)]
        answer: Answer,
    },
    /// Take labels from a CSV, TSV or JSONL file with columns feature_id and label, and description and detection if there
    /// are any
    ImportLabels {
        /// The file
        file: PathBuf,
        /// What is kept as the labels' source
        #[arg(long, default_value = "imported")]
        source: String,
    },
}

/// `features evidence`
#[derive(Debug, Default, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["input", "corpus", "work"]))]
pub(crate) struct EvidenceArgs {
    /// Numbers or labels [default: all that are not hidden]
    #[arg(value_name = "FEATURE")]
    pub(crate) features: Vec<String>,
    /// Name of a dictionary of the database, or a folder [default: the features', else the corpus's, else the shipped one]
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) dictionary: Option<String>,
    /// Read files: Parquet, JSONL, or plain text (one document each)
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub(crate) input: Vec<PathBuf>,
    /// Column of the files with the text
    #[arg(long, default_value = "text", value_name = "COLUMN")]
    pub(crate) text: String,
    /// Read the stored texts of a corpus, the first ones first
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus: Option<String>,
    /// Use the hidden states in this folder, the --work of `sae train`
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// Tokens to read; 0: all
    #[arg(long, default_value_t = 4_000_000)]
    pub(crate) tokens: u64,
    /// Also features that are hidden as uninformative
    #[arg(long)]
    pub(crate) hidden: bool,
    /// Contexts of the band `middle`, drawn at random where a feature is present; some 30 show from which activation on it
    /// is one thing
    #[arg(long, default_value_t = MIDDLE, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) middle: u16,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// jsonl: one feature a line, for programs; table: for people
    #[arg(long, default_value = "jsonl", value_parser = ["jsonl", "table"])]
    pub(crate) format: String,
    /// Write to this file, which appears when it is complete [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
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
    /// Encode the documents of a corpus with a further dictionary; a run that was stopped goes on where it was
    #[command(after_help = ADD_HELP)]
    Add {
        /// Corpus
        corpus: String,
        /// Dictionaries of the database, or folders of trained ones, which are added to it first; several of one model are
        /// computed in one pass
        #[arg(required = true, value_name = "NAME|DIR")]
        dictionaries: Vec<String>,
    },
    /// Take a dictionary away from a corpus, or with --everywhere out of the database
    Remove {
        /// Dictionary
        name: String,
        /// The corpus that shall no longer have it
        #[arg(long, value_name = "NAME", required_unless_present = "everywhere", conflicts_with = "everywhere")]
        corpus: Option<String>,
        /// Remove it from the database; no corpus may have it any more
        #[arg(long)]
        everywhere: bool,
    },
    /// Make new labels for a dictionary from texts
    Label(LabelArgs),
    /// Measure how well a dictionary's labels tell where its features fire
    #[command(after_help = DETECT_HELP)]
    Detect(DetectArgs),
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

/// `sae detect`
#[derive(Debug, Args)]
pub(crate) struct DetectArgs {
    /// Folder of the dictionary
    pub(crate) dir: PathBuf,
    /// Contexts to test on, from `saequel features evidence`
    #[arg(long, value_name = "FILE")]
    pub(crate) evidence: PathBuf,
    /// Keep the scores in the dictionary's features.jsonl
    #[arg(long)]
    pub(crate) write: bool,
    #[command(flatten)]
    pub(crate) answer: Answer,
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
