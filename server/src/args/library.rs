//! `features`, `sae` and `model`: the commands about what is known beside documents.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use saequel_engine::evidence::MIDDLE;
use saequel_engine::reader::Hook;
use saequel_engine::sae::{Level, TrainMethod};

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
  saequel sae eval my-sae --input other-texts.parquet --labels reviews.parquet --label stars
  saequel sae compare my-sae minilm-l4-token-4096 --input other-texts.parquet
  saequel features evidence --dictionary my-sae --work my-sae.work --output evidence.jsonl
  saequel sae detect my-sae --evidence evidence.jsonl --write
  saequel sae import my-sae --db saequel.db
  saequel sae import gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82 --output gemma-sae
  saequel sae show gemma-sae
  saequel sae list";

const SAE_IMPORT_HELP: &str = "\
A dictionary of another tool is read as its files say, checked, and linked to its reader and hook point:
  SAELens, sparsify, latentsae, dictionary_learning, HypotheSAEs, ITDA, Gemma Scope 1 and 2, Llama Scope, Qwen Scope,
  Goodfire, DeepSeek-R1
What does not fit together is refused. A folder of this program (sae.json) is taken as it is.

Examples:
  saequel sae import my-sae                                                 add it to the database
  saequel sae import downloads/layers.6 --reader pythia-70m --output pythia-sae
  saequel sae import gpt2-small-res-jb/blocks.8.hook_resid_pre --output gpt2-sae
  saequel sae import EleutherAI/sae-pythia-70m-32k/layers.3 --output pythia-sae";

pub(super) const MODEL_EXAMPLES: &str = "\
Examples:
  saequel model list
  saequel model fetch                                      while there is a network
  saequel model verify";

const TRAIN_HELP: &str = "\
A dictionary is trained on hidden states: --reader reads the texts once and keeps them in --work, from which any number of
dictionaries (other widths, architectures, seeds) can then be trained. A run that was stopped goes on from its checkpoint.

Architectures:
  batchtopk         of a batch, the strongest k x samples features fire; in use, those above one threshold. Start here
  topk              the strongest k of each sample
  matryoshka        batchtopk whose first features rebuild the samples by themselves: general ones first, details later
  jumprelu          each feature has a threshold of its own, which is learned
  abstopk           the k strongest of either sign: a direction and its opposite share weights; 2 x width features
  matching-pursuit  no encoder: k times the feature that says most of what is left. Less error, slower to train and to read
  itda              samples become features where those so far leave more than --tolerance unexplained. Nothing is
                    learned: done at once, with more error; k steps, either sign, 2 x width features
--k is an average for batchtopk, matryoshka and jumprelu, and a limit for the others.

Examples:
  saequel sae train --input texts.parquet --output my-sae
  saequel sae train --input texts.parquet --output my-span-sae --level span --width 2048
  saequel sae train --input texts.parquet --output nested --architecture matryoshka --prefixes 128 512 4096
  saequel sae train --input texts.parquet --output quick --architecture itda --width 2048 --tokens 500000";

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

const IMPORT_LABELS_HELP: &str = "\
A row has feature_id (an id of the database) or a position in a dictionary (latent, index, feature_index, index_in_sae), and
label or description; also detection and score, from 0 to 1. JSON may also map positions to labels. Rows with no such
feature, second labels of a feature (the first counts) and empty ones are counted and named.

Examples:
  saequel features import-labels labels.csv
  saequel features import-labels explanations/ --dictionary gemma-scope-l20        a folder of batch-*.jsonl.gz
  saequel features import-labels labels.json --sae my-sae";

const EVAL_HELP: &str = "\
As a table, one row a measure, with what it says; every other format gives one row of all measures, with lists of the
pairs and classes. What is measured, and how, is in docs/dictionary.md.

Examples:
  saequel sae eval my-sae --input texts.parquet
  saequel sae eval my-sae --input texts.parquet --tokens 200000 --format json
  saequel sae eval minilm-l4-span-2048 --input news.parquet --labels news.parquet --label topic";

const COMPARE_HELP: &str = "\
One row a feature of the first dictionary, with the nearest of the second: by the cosine of decoder directions if both
read states of one reader and width, else by the Jaccard index of what they fire on. Dictionaries of one reader and level
are counted on each token (or sentence), others on documents.

Examples:
  saequel sae compare seed-1 seed-2
  saequel sae compare my-sae minilm-l4-token-4096 --input texts.parquet --summary --format json";

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
    /// Write all labels: feature_id, dictionary and position (latent), label, description, detection and what they rest on
    ExportLabels {
        #[command(flatten)]
        answer: Answer,
    },
    /// Take labels from files: Neuronpedia's exports, Goodfire's files, CSV, TSV, JSON, JSONL or Parquet
    #[command(after_help = IMPORT_LABELS_HELP)]
    ImportLabels(ImportLabelsArgs),
}

/// `features import-labels`
#[derive(Debug, Args)]
pub(crate) struct ImportLabelsArgs {
    /// Files, also gzipped (but Parquet), or folders of them
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Only rows of this dictionary of the database, and those that name none [default: of the one that rows name, or the only one]
    #[arg(long, value_name = "NAME")]
    pub(crate) dictionary: Option<String>,
    /// Put them into features.jsonl of this dictionary's folder, not into the database
    #[arg(long, value_name = "DIR", conflicts_with = "dictionary")]
    pub(crate) sae: Option<PathBuf>,
    /// Of Neuronpedia's files only the labels of this layer, as it names it (20-gemmascope-res-16k)
    #[arg(long, value_name = "LAYER")]
    pub(crate) layer: Option<String>,
    /// What is kept as the labels' source [default: what rows of an export say, else imported:FORMAT]
    #[arg(long)]
    pub(crate) source: Option<String>,
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
    #[command(after_help = TRAIN_HELP)]
    Train(TrainArgs),
    /// Measure how good a dictionary is: reconstruction, what its error is made of, redundancy, absorption, classes
    #[command(after_help = EVAL_HELP)]
    Eval(EvalArgs),
    /// Which features of one dictionary are in another, by direction and by what they fire on
    #[command(after_help = COMPARE_HELP)]
    Compare(CompareArgs),
    /// List the database's dictionaries
    List {
        #[command(flatten)]
        answer: Answer,
    },
    /// Add a dictionary to the database: one trained here, or one of another tool
    #[command(after_help = SAE_IMPORT_HELP)]
    Import(SaeImportArgs),
    /// What a dictionary is: its reader, hook point, architecture
    Show {
        /// Its folder, or the name of one that is built in
        dir: PathBuf,
        #[command(flatten)]
        answer: Answer,
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

/// `sae import`
#[derive(Debug, Args)]
pub(crate) struct SaeImportArgs {
    /// Folder, file, release/id of SAELens, or owner/repository/path on the model hub
    pub(crate) source: String,
    /// The reader it was trained on [default: what its files say]
    #[arg(long)]
    pub(crate) reader: Option<String>,
    /// Where in the reader it reads, such as blocks.12.hook_resid_post or mlp.4 [default: what its files say]
    #[arg(long)]
    pub(crate) hook: Option<Hook>,
    /// token, span or document [default: what it was trained on]
    #[arg(long, value_parser = any_level)]
    pub(crate) level: Option<Level>,
    /// Name of the dictionary [default: that of a folder of this program, else made of reader, hook point, level and width]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Factor of hidden states, where the source leaves it out
    #[arg(long, value_name = "FACTOR")]
    pub(crate) input_scale: Option<f32>,
    /// The reader is the model that the source names, under another name
    #[arg(long)]
    pub(crate) same_model: bool,
    /// Write the dictionary to this folder instead of adding it to the database
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Replace a dictionary that is in the folder of --output
    #[arg(long, requires = "output")]
    pub(crate) overwrite: bool,
}

fn any_level(text: &str) -> Result<Level, String> {
    if text == "document" { Ok(Level::Document) } else { level(text) }
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

fn hook_point(text: &str) -> Result<(Hook, Level), String> {
    let (hook, of) = text.rsplit_once(':').ok_or_else(|| {
        format!("hook point '{text}': expected a layer or hook and a level, such as 6:token or mlp.4:span")
    })?;
    Ok((hook.parse().map_err(|error: saequel_engine::EncoderError| error.to_string())?, level(of)?))
}

fn method(text: &str) -> Result<TrainMethod, String> {
    text.parse().map_err(|error: saequel_engine::EncoderError| error.message().to_owned())
}

/// `sae train`
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) texts: Texts,
    /// Folder of the finished dictionary
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Replace the dictionary that OUTPUT holds already
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Folder for hidden states (768 bytes a token) and checkpoints [default: OUTPUT.work]
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// Name of the dictionary [default: from reader, layer, level and width]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Go on from this dictionary (a folder, or the name of one that is built in), to fit it to your texts: its features keep
    /// their numbers, and their names where their directions stay; what it reads, and its sizes, are its own
    #[arg(long, value_name = "DICTIONARY", conflicts_with_all =
        ["reader", "layer", "hook", "level", "architecture", "prefixes", "tolerance", "width", "k"])]
    pub(crate) from: Option<PathBuf>,
    /// Model that reads
    #[arg(long, default_value = saequel_engine::reader::DEFAULT_READER)]
    pub(crate) reader: String,
    /// Layer of the hook point: 0 is the embedding, n the output of block n
    #[arg(long, default_value_t = 4)]
    pub(crate) layer: usize,
    /// Hook point, if not the residual stream at --layer: heads.3, attention.3, mlp.3 (blocks count from 0), or a
    /// TransformerLens name such as blocks.3.attn.hook_z
    #[arg(long, value_name = "HOOK", conflicts_with = "layer")]
    pub(crate) hook: Option<Hook>,
    /// What a sample is: token or span (sentence)
    #[arg(long, default_value = "token", value_parser = level)]
    pub(crate) level: Level,
    /// How features compete: see below
    #[arg(long, default_value_t, value_name = "NAME", value_parser = method)]
    pub(crate) architecture: TrainMethod,
    /// Of matryoshka: sizes of the nested dictionaries, the last one the width [default: 1/32, 3/32, 7/32, 15/32, 1]
    #[arg(long, num_args = 1.., value_name = "FEATURES")]
    pub(crate) prefixes: Vec<usize>,
    /// Of itda: share of a sample that may stay unexplained before it becomes a feature [default: 0.4]
    #[arg(long, value_name = "SHARE")]
    pub(crate) tolerance: Option<f32>,
    /// Features; of itda, at most
    #[arg(long, default_value_t = 4096)]
    pub(crate) width: usize,
    /// Features that fire on a sample
    #[arg(long, default_value_t = 16)]
    pub(crate) k: usize,
    /// Tokens to read; fewer if the texts end before
    #[arg(long, default_value_t = 4_000_000)]
    pub(crate) tokens: u64,
    /// Keep token-level hidden states of the first so many tokens only; 0: of all
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    pub(crate) token_states: u64,
    /// Further hook points to keep in the same pass, so that other dictionaries can be trained from the same --work folder
    #[arg(long, num_args = 1.., value_name = "HOOK:LEVEL", value_parser = hook_point)]
    pub(crate) also: Vec<(Hook, Level)>,
    /// Samples to train on, with repetition; 0: each one twice (itda: until all features are used)
    #[arg(long, default_value_t = 0)]
    pub(crate) samples: u64,
    /// Samples in a step
    #[arg(long, default_value_t = 2048)]
    pub(crate) batch: usize,
    /// Step size [default: 0.002; with --from 0.0003, so that features stay what they are]
    #[arg(long)]
    pub(crate) learning_rate: Option<f32>,
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
    /// Texts with labels (Parquet or JSONL), to see how well single features tell the classes apart, beside single words
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// Column of that file with the label
    #[arg(long, default_value = "label", value_name = "COLUMN", requires = "labels")]
    pub(crate) label: String,
    /// Column of that file with the text [default: as --text]
    #[arg(long, value_name = "COLUMN", requires = "labels")]
    pub(crate) labels_text: Option<String>,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `sae compare`
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Folder, or name of a dictionary that is built in
    pub(crate) a: PathBuf,
    /// The other one
    pub(crate) b: PathBuf,
    /// Texts to compare on what they fire: Parquet, JSONL, or plain text [default: none, by direction only]
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub(crate) input: Vec<PathBuf>,
    /// Column with the text
    #[arg(long, default_value = "text", value_name = "COLUMN")]
    pub(crate) text: String,
    /// Tokens to read; 0: all
    #[arg(long, default_value_t = 200_000)]
    pub(crate) tokens: u64,
    /// Only what they have in common, one row
    #[arg(long)]
    pub(crate) summary: bool,
    #[command(flatten)]
    pub(crate) rows: Rows,
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
        /// Known name, or owner/name on the model hub
        #[arg(default_value = saequel_engine::reader::DEFAULT_READER)]
        name: String,
        /// Accept the model's terms of use without being asked
        #[arg(long)]
        accept_terms: bool,
    },
    /// Check the weights against their known checksum
    Verify {
        /// Name
        #[arg(default_value = saequel_engine::reader::DEFAULT_READER)]
        name: String,
    },
}
