//! The command line: what can be said, and the help that teaches it.

mod label;
mod library;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use saequel_engine::reader::ChatColumns;
use saequel_engine::sae::Level;

pub(crate) use label::LabelFeaturesArgs;
pub(crate) use library::{
    CompareArgs, DetectArgs, EvalArgs, EvidenceArgs, FeaturesCommand, ImportLabelsArgs, LabelArgs, ModelCommand,
    SaeCommand, SaeImportArgs, TrainArgs,
};

use crate::config::Given;
use crate::error::{EXIT_CODES_HELP, Failure};
use crate::gate::Scope;
use crate::output::Format;

/// The folder that is used unless another is named.
pub(crate) const DEFAULT_DB: &str = "saequel.db";

const EXAMPLES: &str = "\
Examples:
  saequel demo                                                     see what it is for
  saequel import answers.jsonl --corpus answers --text output --key doc_id
  saequel diff \"answers WHERE model='a'\" \"answers WHERE model='b'\" --paired-by prompt_id
  saequel correlate answers
  saequel cluster answers --about \"bullet points, numbered steps, headings\" --k 8
  saequel retrieve answers \"politely refuses to answer\" --k 20
  saequel sql \"SELECT model, avg(activation(features, 'apology')) FROM answers GROUP BY model\"
  saequel sql                                                      interactive shell";

/// A database whose rows are documents and whose columns are meanings.
///
/// It opens a folder, reads texts with a language model, and keeps which features of a sparse autoencoder each document
/// shows. Then it answers what sets two groups of texts apart, which properties go together, how texts fall into groups,
/// and which texts have a property; all in SQL.
#[derive(Debug, Parser)]
#[command(name = "saequel", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES_HELP}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Folder of the database [default: ./saequel.db]
    #[arg(long, global = true, value_name = "DIR", env = "SAEQUEL_DB")]
    pub(crate) db: Option<PathBuf>,
    /// Threads for reading and queries [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = parse_positive, hide_short_help = true)]
    #[arg(env = "SAEQUEL_THREADS")]
    pub(crate) threads: Option<usize>,
    /// Memory for queries, e.g. 512MiB or 4GiB; larger sorts and joins spill to disk [default: 2GiB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_bytes, hide_short_help = true)]
    #[arg(env = "SAEQUEL_MEMORY")]
    pub(crate) memory: Option<usize>,
    /// Numbers in which readers and dictionaries multiply: f32, or bf16, which is faster on processors that have it and
    /// changes a few features near their thresholds [default: f32]
    #[arg(long, global = true, value_name = "f32|bf16", value_parser = parse_precision, hide_short_help = true)]
    #[arg(env = "SAEQUEL_PRECISION")]
    pub(crate) precision: Option<saequel_engine::Precision>,
    /// No progress on standard error; warnings stay
    #[arg(long, short, global = true, hide_short_help = true)]
    pub(crate) quiet: bool,
}

/// Options of commands that answer.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Answer {
    /// Format of the answer [default: by the name of --output, else table; csv for exports]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Write to this file, which appears when it is complete; `-` is standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print the SQL that is run on standard error
    #[arg(long)]
    pub(crate) show_sql: bool,
}

impl Answer {
    /// The file that the answer goes to; `None` is standard output.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.output.as_deref().filter(|path| *path != Path::new("-"))
    }

    /// The format that is asked for, by option or by the file's name; `otherwise` on standard output.
    ///
    /// # Errors
    /// If the file's name does not tell the format.
    pub(crate) fn format_or(&self, otherwise: Format) -> Result<Format, Failure> {
        match (self.format, self.file()) {
            (Some(format), _) => Ok(format),
            (None, None) => Ok(otherwise),
            (None, Some(path)) => Format::of_path(path).ok_or_else(|| {
                Failure::usage(format!("cannot tell a format from '{}'", path.display()))
                    .hint(format!("name it with --format: {}", Format::names()))
            }),
        }
    }

    /// The same with a format in which nothing is lost: CSV if none is asked for.
    ///
    /// # Errors
    /// If the file's name does not tell the format, or asks for a table.
    pub(crate) fn lossless(self) -> Result<Self, Failure> {
        let format = self.format_or(Format::Csv)?;
        if let (Format::Table, None, Some(path)) = (format, self.format, self.file()) {
            let message = format!("a table, which '{}' asks for, rounds numbers and cuts long text", path.display());
            return Err(Failure::usage(message).hint("--format csv writes everything, --format table a table"));
        }
        Ok(Self { format: Some(format), ..self })
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read documents from a file, a folder of text files, or standard input
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(ImportArgs),
    /// Run SQL, or open the interactive shell
    #[command(after_help = SQL_EXAMPLES)]
    Sql(SqlArgs),
    /// What sets two sets of documents apart
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(DiffArgs),
    /// Which features go together more often than chance
    #[command(after_help = CORRELATE_EXAMPLES)]
    Correlate(CorrelateArgs),
    /// How documents fall into groups
    #[command(after_help = CLUSTER_EXAMPLES)]
    Cluster(ClusterArgs),
    /// Which documents have a property
    #[command(after_help = RETRIEVE_EXAMPLES)]
    Retrieve(RetrieveArgs),
    /// Search, show and name features
    #[command(subcommand, after_help = library::FEATURES_EXAMPLES)]
    Features(FeaturesCommand),
    /// Name features with a language model that you run or pay for
    #[command(long_about = label::LABEL_ABOUT, after_help = label::LABEL_EXAMPLES)]
    Label(LabelFeaturesArgs),
    /// Train, evaluate and add sparse autoencoders
    #[command(subcommand, after_help = library::SAE_EXAMPLES)]
    Sae(SaeCommand),
    /// The models that read texts
    #[command(subcommand, after_help = library::MODEL_EXAMPLES)]
    Model(ModelCommand),
    /// Write a corpus or the result of a query to a file
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Join small files, bring indexes up to date, remove old versions
    #[command(after_help = COMPACT_EXAMPLES)]
    Compact(CompactArgs),
    /// Look at everything that can go wrong; exit code 3 if something has
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Answer SQL over HTTP, the PostgreSQL wire, Flight SQL and MCP (read-only and for this machine, unless told otherwise)
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Answer an agent over standard input and output (model context protocol, read-only)
    #[command(after_help = MCP_EXAMPLES)]
    Mcp(McpArgs),
    /// Make, list and revoke the tokens that let people and programs in
    #[command(subcommand, after_help = TOKEN_EXAMPLES)]
    Token(TokenCommand),
    /// Import two imaginary assistants' answers and ask the four questions
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
}

const IMPORT_EXAMPLES: &str = "\
Reads CSV, TSV, JSON, JSONL, Parquet, Arrow and folders of text files, also compressed (gz, bz2, xz, zst).
Run it again after an interruption: with --key, or with the same file, no row is lost and none comes twice.

Examples:
  saequel import answers.jsonl --corpus answers --text output --key doc_id
  saequel import reviews.csv.gz --corpus reviews --text title --text body --limit 1000
  saequel import notes/ --corpus notes
  saequel import chats.jsonl --corpus chats --chat user=prompt,assistant=answer --sae gemma-it-l12
  zcat big.jsonl.gz | saequel import - --corpus big --text text --key id --file-format jsonl
  saequel import c.parquet --corpus c --features ids --activations acts    features that were computed elsewhere";

const SQL_EXAMPLES: &str = "\
Examples:
  saequel sql                                             interactive shell; \\help inside
  saequel sql \"SHOW CORPORA\"
  saequel sql \"SELECT * FROM answers_activations LIMIT 10\" --format csv
  saequel sql \"SELECT doc_id, highlight(text, 'apology') FROM answers WHERE has_feature(features, 'apology')\"
  saequel sql < report.sql > report.txt";

const DIFF_EXAMPLES: &str = "\
A and B are a corpus, a corpus with a filter, or a query. difference = frequency in A - frequency in B.
Features that say the same are one row: the column members has the others.

Examples:
  saequel diff \"answers WHERE model='a'\" \"answers WHERE model='b'\"
  saequel diff \"answers WHERE model='a'\" \"answers WHERE model='b'\" --paired-by prompt_id --limit 10
  saequel diff \"answers WHERE model='a'\" \"answers WHERE model='b'\" --control n_tokens --examples 2
  saequel diff answers --by model --limit 5
  saequel diff new_model --others model_a --others model_b
  saequel diff reviews --target rating
  saequel diff new_reviews old_reviews --no-fold --output changes.csv";

const CORRELATE_EXAMPLES: &str = "\
Examples:
  saequel correlate answers
  saequel correlate \"answers WHERE model='a'\" --min-docs 20 --format jsonl
  saequel correlate prompts --with answers --paired-by prompt_id";

const CLUSTER_EXAMPLES: &str = "\
Examples:
  saequel cluster answers --k 8                            one row per cluster
  saequel cluster answers --about \"bullet points, numbered steps, headings\" --k 5
  saequel cluster answers --k 8 --documents -o groups.csv  one row per document";

const RETRIEVE_EXAMPLES: &str = "\
Examples:
  saequel retrieve answers \"politely refuses to answer\"
  saequel retrieve \"answers WHERE model='a'\" \"gives numbers\" --k 20 --but-not \"recipes\"
  saequel retrieve answers \"apologises\" --like a-17,a-40 --unlike a-3
  saequel retrieve answers \"apologises\" --like a-17,a-40 --unlike a-3 --learned";

const EXPORT_EXAMPLES: &str = "\
Examples:
  saequel export answers --output answers.parquet
  saequel export \"SELECT doc_id, topic FROM answers\" --output topics.csv
  saequel export answers_activations --output activations.parquet";

const COMPACT_EXAMPLES: &str = "\
Examples:
  saequel compact
  saequel compact answers --keep-days 0                    no version but the newest";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  saequel doctor
  saequel doctor --db old.db --format jsonl";

const DEMO_EXAMPLES: &str = "\
Examples:
  saequel demo
  saequel demo --dir /tmp/demo.db --rows 5
  saequel demo --discard                                   leave nothing behind";

const SERVE_EXAMPLES: &str = "\
Each option is also an environment variable (--max-queries is SAEQUEL_MAX_QUERIES) and a key of the
file of settings (max_queries = 8); an option beats the environment, which beats the file.
SAEQUEL_LOG takes a finer filter for the log. SIGTERM stops when running queries have ended, SIGHUP
opens the audit log anew and reads the certificate again. docs/serving.md says more.

Examples:
  saequel serve --db saequel.db
  curl -s localhost:5434/v1/sql -d \"SHOW CORPORA\"
  curl -s 'localhost:5434/v1/sql?format=csv' -d \"SELECT * FROM answers LIMIT 3\"
  curl -s localhost:5434/v1/sql -H 'content-type: application/json' \\
       -d '{\"sql\": \"SELECT * FROM retrieve($1, $2)\", \"params\": [\"answers\", \"apologises\"]}'
  saequel serve --listen 0.0.0.0:5434 --tls-cert cert.pem --tls-key key.pem     needs a token first
  saequel serve --print-config > serve.toml && saequel serve --config serve.toml";

const MCP_EXAMPLES: &str = "\
An agent starts this command itself; docs/mcp.md says how it is added to one. `saequel serve` has the same at /mcp.

Examples:
  saequel mcp --db /data/saequel.db
  claude mcp add saequel -- saequel mcp --db /data/saequel.db";

/// `import`
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// File, folder of text files, or `-` for standard input
    #[arg(value_name = "FILE|DIR|-")]
    pub(crate) source: PathBuf,
    /// Corpus to write to; made if it does not exist
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus: String,
    /// Column to read; several times for several columns [default: the only text column, or `text`]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) text: Vec<String>,
    /// Read the text in the conversation in which it was said, by the reader's chat template: who says which column, in
    /// order. Only the tokens of --text count, which is the last column unless said otherwise. Remembered with the
    /// corpus
    #[arg(long, value_name = "ROLE=COLUMN,...", value_parser = parse_chat)]
    pub(crate) chat: Option<ChatColumns>,
    /// Column that identifies a document [default: place in the source]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) key: Option<String>,
    /// csv, tsv, json, jsonl, parquet, arrow or text [default: by name and first bytes]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) file_format: Option<String>,
    /// What happens to a document whose key is there already
    #[arg(long, value_enum, default_value = "skip")]
    pub(crate) on_conflict: Conflict,
    /// Leave out rows that cannot be read and report them, instead of stopping
    #[arg(long)]
    pub(crate) set_aside: bool,
    /// Stop after so many rows of the source
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Give a column another name; several times for several columns
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_rename)]
    pub(crate) rename: Vec<(String, String)>,
    /// Dictionary for a new corpus; several times for several [default: those of the database's first reader]
    #[arg(long, value_name = "NAME")]
    pub(crate) sae: Vec<String>,
    /// Column with features that were computed elsewhere: for each document a list of their numbers, from 0. No model reads
    /// the documents then, unless --sae is given too
    #[arg(long, value_name = "COLUMN", conflicts_with = "feature_matrix")]
    pub(crate) features: Option<String>,
    /// The same as a matrix of NumPy or SciPy (.npz of scipy.sparse.save_npz, .npy), row for row beside FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) feature_matrix: Option<PathBuf>,
    /// Column with an embedding of each document that was computed elsewhere; --sae names the dictionary of level document
    /// that reads it
    #[arg(long, value_name = "COLUMN", conflicts_with = "embedding_matrix")]
    pub(crate) embedding: Option<String>,
    /// The same as a matrix, row for row beside FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) embedding_matrix: Option<PathBuf>,
    /// Column with the activations beside the features [default: every one is 1]
    #[arg(long, value_name = "COLUMN", requires = "features")]
    pub(crate) activations: Option<String>,
    /// Dictionary that the features belong to; made if there is none, and shared by corpora that are to be compared
    /// [default: the corpus's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) dictionary: Option<String>,
    /// Number of features of the dictionary [default: one more than the largest in the file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) width: Option<u32>,
    /// Names of the features: JSON lines, CSV or TSV with latent, label and perhaps description
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// What the features are activations of
    #[arg(long, value_name = "LEVEL", default_value = "document", value_parser = any_level)]
    pub(crate) level: Level,
    /// What computed the features, kept as their provenance
    #[arg(long, value_name = "TEXT")]
    pub(crate) made_by: Option<String>,
    /// Features with a weaker activation than this, or as weak a one, are not present
    #[arg(long, value_name = "X", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) threshold: f32,
    /// Documents in a commit [default: chosen by their size]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) batch_docs: usize,
}

fn any_level(text: &str) -> Result<Level, String> {
    match text {
        "token" => Ok(Level::Token),
        "span" => Ok(Level::Span),
        "document" => Ok(Level::Document),
        other => Err(format!("level '{other}' not known; expected token, span or document")),
    }
}

/// What happens to a document whose key is in the corpus already.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Conflict {
    /// Keep the stored one
    Skip,
    /// Replace the stored one
    Update,
    /// Stop
    Fail,
}

/// `sql`
#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// Statements, separated by semicolons [default: standard input, or the shell if that is a terminal]
    pub(crate) statement: Option<String>,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `diff`
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// First set
    pub(crate) a: String,
    /// Second set
    #[arg(required_unless_present_any = ["by", "others", "target"])]
    pub(crate) b: Option<String>,
    /// Column that pairs documents of A and B (the same prompt, patient, day)
    #[arg(long, value_name = "COLUMN")]
    pub(crate) paired_by: Option<String>,
    /// Column to hold constant, such as n_tokens, the length; can be given several times
    #[arg(long, value_name = "COLUMN")]
    pub(crate) control: Vec<String>,
    /// In place of B: column of A, each of whose values is compared with the others
    #[arg(long, value_name = "COLUMN")]
    pub(crate) by: Option<String>,
    /// In place of B: set with which A is compared; can be given several times
    #[arg(long, value_name = "SET")]
    pub(crate) others: Vec<String>,
    /// With --by and --others: rest (all others together) or max (the one that has the feature most often)
    #[arg(long, value_name = "REST_OR_MAX")]
    pub(crate) against: Option<String>,
    /// In place of B: column of A with numbers or dates, with which features are correlated
    #[arg(long, value_name = "COLUMN")]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Only features in at least so many documents of all sides together
    #[arg(long, value_name = "N")]
    pub(crate) min_docs: Option<u64>,
    /// Of the interval of the difference, e.g. 0.99 [default: 0.95]
    #[arg(long, value_name = "SHARE")]
    pub(crate) confidence: Option<f64>,
    /// Show so many documents of each side for a feature, with marks where it is
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<u64>,
    /// Do not look for words that show the same
    #[arg(long)]
    pub(crate) no_words: bool,
    /// One row a feature, even if it says the same as one above
    #[arg(long)]
    pub(crate) no_fold: bool,
    #[command(flatten)]
    pub(crate) rows: Rows,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// Which features.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Only features of this level: token, span or document
    #[arg(long)]
    pub(crate) level: Option<String>,
    /// Only features of this dictionary
    #[arg(long, value_name = "NAME")]
    pub(crate) dictionary: Option<String>,
    /// Also features that are hidden as uninformative
    #[arg(long)]
    pub(crate) include_hidden: bool,
}

/// How many rows.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Rows {
    /// Rows to return; 0 is all [default: 20 as a table, all in other formats]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// `correlate`
#[derive(Debug, Args)]
pub(crate) struct CorrelateArgs {
    /// Set of documents
    pub(crate) set: String,
    /// Pair features of SET with those of this set, whose documents have the same value in the column --paired-by
    #[arg(long, value_name = "SET", requires = "paired_by")]
    pub(crate) with: Option<String>,
    /// Column that pairs documents of SET and --with (prompt and answer)
    #[arg(long, value_name = "COLUMN", requires = "with")]
    pub(crate) paired_by: Option<String>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Only features that are in at least so many documents [default: 0.25 % of them, at least 5]
    #[arg(long, value_name = "N")]
    pub(crate) min_docs: Option<u64>,
    /// Only pairs that are together in at least so many documents
    #[arg(long, value_name = "N")]
    pub(crate) min_both: Option<u64>,
    /// Pairs that come together more often than chance, less often, or both
    #[arg(long, value_parser = ["positive", "negative", "both"])]
    pub(crate) direction: Option<String>,
    /// Which pairs come first: the surest (llr), or those bound most closely (npmi) [default: llr]
    #[arg(long, value_parser = ["llr", "npmi"])]
    pub(crate) rank_by: Option<String>,
    /// Only pairs whose labels are less alike than this (-1 to 1), and that topics do not explain: the unexpected ones
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    pub(crate) unexpected: Option<f64>,
    /// Column to hold constant, such as n_tokens, several times for several; or topic, or none [default: none; topic with
    /// --unexpected]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) control: Vec<String>,
    /// How many times as often as expected a pair must be together [default: 1; 2 with --unexpected]
    #[arg(long, value_name = "TIMES")]
    pub(crate) min_lift: Option<f64>,
    /// Also pairs that fire on the same or on neighbouring tokens
    #[arg(long)]
    pub(crate) echoes: bool,
    /// Documents that show both features of a row, up to 20
    #[arg(long, value_name = "N", conflicts_with = "with")]
    pub(crate) examples: Option<u64>,
    /// A row for each pair, also for those that tell the same as one above
    #[arg(long)]
    pub(crate) no_fold: bool,
    #[command(flatten)]
    pub(crate) rows: Rows,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `cluster`
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Set of documents
    pub(crate) set: String,
    /// Group by what these words name (key phrases with commas: "bullet points, numbered steps") instead of by everything
    #[arg(long, value_name = "WORDS")]
    pub(crate) about: Option<String>,
    /// Features that the phrases of --about stand for by their labels, together
    #[arg(long, value_name = "N")]
    pub(crate) n_features: Option<u64>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Number of clusters
    #[arg(long)]
    pub(crate) k: Option<u64>,
    /// Seed of random choices
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// What documents are compared by: features, embeddings (dense, for plain topics), or both, which with --about is the
    /// default: features, and embeddings along what the phrases name
    #[arg(long, value_parser = ["auto", "features", "dense", "both"])]
    pub(crate) view: Option<String>,
    /// How they are grouped; auto is kmeans
    #[arg(long, value_parser = ["auto", "jaccard-spectral", "kmeans"])]
    pub(crate) method: Option<String>,
    /// One row per cluster (default)
    #[arg(long, conflicts_with = "documents")]
    pub(crate) summary: bool,
    /// One row per document
    #[arg(long)]
    pub(crate) documents: bool,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `retrieve`
#[derive(Debug, Args)]
pub(crate) struct RetrieveArgs {
    /// Set of documents
    pub(crate) set: String,
    /// The property, in words
    #[arg(required_unless_present_any = ["like", "features"])]
    pub(crate) query: Option<String>,
    /// Documents to return
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) k: u64,
    /// In place of QUERY, features to look for, by id, label or concept, with weights: "apology:1, 12:0.5"
    #[arg(long, value_name = "FEATURE[:WEIGHT],...")]
    #[arg(conflicts_with_all = ["query", "but_not", "like", "unlike", "signals", "weights", "n_labels", "expand"])]
    pub(crate) features: Option<String>,
    /// Push documents down that have this property
    #[arg(long, value_name = "WORDS")]
    pub(crate) but_not: Option<String>,
    /// doc_ids of documents that are right, separated by commas, beside QUERY or in place of it
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub(crate) like: Vec<String>,
    /// doc_ids of documents that are wrong, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub(crate) unlike: Vec<String>,
    /// Signals to use, separated by commas: dense, labels, latents, words [default: dense,labels,words]
    #[arg(long, value_name = "NAMES")]
    pub(crate) signals: Option<String>,
    /// What each signal counts, e.g. dense=1,words=0.3 [default: 1, labels by the query]
    #[arg(long, value_name = "NAME=NUMBER,...")]
    pub(crate) weights: Option<String>,
    /// Features that are matched by their labels, at most [default: 100]
    #[arg(long, value_name = "N")]
    pub(crate) n_labels: Option<u64>,
    /// First hits that the query is moved towards; 0 for none [default: 10]
    #[arg(long, value_name = "N")]
    pub(crate) expand: Option<u64>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Also each signal's rank and score, and the features behind the reasons
    #[arg(long)]
    pub(crate) explain: bool,
    /// In place of documents, the features that --like and --unlike teach; QUERY and its options have no part in that
    #[arg(long, conflicts_with_all = ["explain", "features", "but_not", "signals", "weights", "n_labels", "expand"])]
    pub(crate) learned: bool,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `export`
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Corpus (or table), or a query
    #[arg(value_name = "CORPUS|SQL")]
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `compact`
#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    /// Corpus [default: all]
    pub(crate) corpus: Option<String>,
    /// Keep versions that are younger than so many days, for AS OF
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    pub(crate) keep_days: u64,
}

/// `doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `serve`
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// File of settings [default: saequel.toml in the database folder, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the settings in force as such a file, with where each comes from, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// No PostgreSQL wire, as --postgres off
    #[arg(long, conflicts_with = "postgres", help_heading = "Doors")]
    pub(crate) no_postgres: bool,
    #[command(flatten)]
    pub(crate) given: Given,
}

/// `mcp`
#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    /// Seconds that a query may take, at most a day
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Folder whose files statements may read; several times for several [default: none]
    #[arg(long, value_name = "DIR")]
    pub(crate) allow_dir: Vec<PathBuf>,
}

/// `token`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, this once
    Create(TokenCreateArgs),
    /// Show names, scopes, corpora and dates
    List(TokenListArgs),
    /// Take a token away; a running server refuses it at once
    Revoke(TokenRevokeArgs),
}

const TOKEN_EXAMPLES: &str = "\
Tokens lie in tokens.json in the database folder, as hashes. Once there is one, nobody comes in without.

Examples:
  saequel token create ci                                       read everything
  saequel token create dashboard --corpus reviews --days 90     read one corpus, for 90 days
  saequel token create loader --scope write --corpus reviews    also import into it
  saequel token list
  saequel token revoke ci";

/// `token create`
#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    /// Its name: in logs, and the user name of PostgreSQL's clients
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What it may do
    #[arg(long, value_enum, default_value = "read")]
    pub(crate) scope: Scope,
    /// Corpus that it may see; several times for several [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus: Vec<String>,
    /// Days until it ends [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: Option<u32>,
    /// File of the tokens [default: tokens.json in the database folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
}

/// `token list`
#[derive(Debug, Args)]
pub(crate) struct TokenListArgs {
    /// File of the tokens [default: tokens.json in the database folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// `token revoke`
#[derive(Debug, Args)]
pub(crate) struct TokenRevokeArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// File of the tokens [default: tokens.json in the database folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
}

/// `demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder of the demo's database, whatever --db says [default: ./saequel-demo.db]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Remove the database at the end instead of keeping it to play with
    #[arg(long, conflicts_with = "keep")]
    pub(crate) discard: bool,
    /// Keep the database (default)
    #[arg(long, hide = true)]
    pub(crate) keep: bool,
    /// Rows of each answer
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) rows: u64,
}

fn parse_precision(text: &str) -> Result<saequel_engine::Precision, String> {
    text.parse().map_err(|error: saequel_engine::EncoderError| error.message().to_owned())
}

fn parse_positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number above 0".to_owned())
}

/// Bytes: a number, alone or with KiB, MiB, GiB, TiB (KB, MB, GB, TB are powers of 1,000).
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("expected a size such as 512MiB or 4GiB, got '{text}'");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: f64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(wrong()),
    };
    let bytes = number * unit;
    if bytes >= 1.0 && bytes < 1e18 { Ok(bytes as usize) } else { Err(wrong()) }
}

fn parse_chat(text: &str) -> Result<ChatColumns, String> {
    text.parse().map_err(|error: saequel_engine::EncoderError| error.message().to_owned())
}

fn parse_rename(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err(format!("expected OLD=NEW, got '{text}'")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("1.5g"), Ok(3 << 29));
        assert_eq!(parse_bytes("10kb"), Ok(10_000));
        assert!(parse_bytes("many").is_err() && parse_bytes("0").is_err() && parse_bytes("5 parsecs").is_err());
    }

    #[test]
    fn options_are_read_where_people_write_them() {
        let cli =
            Cli::try_parse_from(["saequel", "retrieve", "answers", "sorry", "--like", "a,b", "--db", "x"]).unwrap();
        assert_eq!(cli.global.db.as_deref(), Some(std::path::Path::new("x")));
        let Command::Retrieve(args) = cli.command else { panic!("retrieve") };
        assert_eq!((args.like, args.k), (vec!["a".to_owned(), "b".to_owned()], 10));
        assert!(Cli::try_parse_from(["saequel", "import", "a.csv", "--corpus", "a", "--rename", "x"]).is_err());
        assert!(Cli::try_parse_from(["saequel", "serve", "--listen", "localhost"]).is_err());
        assert!(Cli::try_parse_from(["saequel", "correlate", "a", "--with", "b"]).is_err());
    }

    #[test]
    fn limits_of_the_server_have_limits() {
        for (option, good, bad) in [
            ("--timeout", ["1", "86400"], ["0", "18446744073709551615"]),
            ("--max-queries", ["1", "10000"], ["0", "9999999999999999999"]),
        ] {
            let is_ok = |value: &str| Cli::try_parse_from(["saequel", "serve", option, value]).is_ok();
            assert!(good.into_iter().all(is_ok) && !bad.into_iter().any(is_ok), "{option}");
        }
    }

    #[test]
    fn the_format_is_asked_for_or_told_by_the_file() {
        let answer =
            |format, output: Option<&str>| Answer { format, output: output.map(PathBuf::from), show_sql: false };
        assert_eq!(answer(None, None).format_or(Format::Table).unwrap(), Format::Table);
        assert_eq!(answer(None, Some("a.parquet")).format_or(Format::Table).unwrap(), Format::Parquet);
        assert_eq!(answer(Some(Format::Csv), Some("a.csv.gz")).format_or(Format::Table).unwrap(), Format::Csv);
        let failure = answer(None, Some("a.csv.gz")).format_or(Format::Table).unwrap_err().to_string();
        assert!(failure.contains("cannot tell a format from 'a.csv.gz'") && failure.contains("--format"), "{failure}");
        for output in [None, Some("-")] {
            assert_eq!(answer(None, output).lossless().unwrap().format, Some(Format::Csv));
        }
        assert_eq!(answer(Some(Format::Table), Some("a.txt")).lossless().unwrap().format, Some(Format::Table));
        assert!(answer(None, Some("a.txt")).lossless().unwrap_err().to_string().contains("cuts long text"));
    }
}
