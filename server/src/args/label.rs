//! `label`: names for features from a language model.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use crate::label::score::Score;
use crate::label::target::Only;

pub(super) const LABEL_EXAMPLES: &str = "\
Pieces of your texts go to the endpoint: the contexts in the evidence. With a model on this machine they stay here.
Nothing is sent before you have seen how much it will be, and agreed. Every answer is kept: a run that was stopped goes
on where it was, and the same question is never paid for twice. docs/labels.md has more.

Examples:
  saequel label --corpus answers --endpoint http://localhost:11434/v1 --model qwen3:8b --dry-run
  saequel features evidence --corpus answers --output evidence.jsonl    collects once what the next ones read
  saequel label --evidence evidence.jsonl --endpoint http://localhost:11434/v1 --model qwen3:8b --dry-run
  saequel label 3691 2033 --evidence evidence.jsonl --endpoint http://localhost:8080/v1 --model local --yes
  saequel label --evidence evidence.jsonl --endpoint https://api.openai.com/v1 --api-key-env OPENAI_API_KEY \\
      --model gpt-4.1-mini --price-in 0.40 --price-out 1.60 --max-cost 2
  saequel label --only shown --evidence evidence.jsonl --endpoint http://localhost:8080/v1 --model local \\
      --score detection,fuzzing --output labels.csv            look at names and scores first, then
  saequel features import-labels labels.csv --source llm:local take them";

pub(super) const LABEL_ABOUT: &str = "\
Name features with a language model that you run or pay for, over any OpenAI-compatible chat endpoint: llama.cpp, Ollama,
vLLM, LM Studio, or a hosted one.

The model reads where a feature is strongest, where it is faint, and similar places where it is not active, and gives a
name of at most eight words and a sentence that describes it. A feature for which it finds none keeps the name that it
has. Names that a person gave are not touched unless you call the feature by its number or name.";

/// `label`
#[derive(Debug, Args)]
pub(crate) struct LabelFeaturesArgs {
    /// Numbers or labels of features [default: what --only says]
    pub(crate) feature: Vec<String>,
    /// What each feature does, with examples: what `saequel features evidence` wrote
    #[arg(long, value_name = "FILE", required_unless_present = "corpus", conflicts_with = "corpus")]
    #[arg(help_heading = "What is named")]
    pub(crate) evidence: Option<PathBuf>,
    /// Collect that now, from the stored texts of this corpus
    #[arg(long, value_name = "NAME", help_heading = "What is named")]
    pub(crate) corpus: Option<String>,
    /// Tokens of the corpus to read; 0: all
    #[arg(long, value_name = "N", default_value_t = 4_000_000, help_heading = "What is named")]
    pub(crate) tokens: u64,
    /// Features to name: those shown that have only a name made from words, all shown, or hidden ones too
    #[arg(long, value_enum, default_value = "unlabelled", hide_possible_values = true)]
    #[arg(value_name = "unlabelled|shown|all", help_heading = "What is named")]
    pub(crate) only: Only,
    /// Only features of this dictionary
    #[arg(long, value_name = "NAME", help_heading = "What is named")]
    pub(crate) dictionary: Option<String>,
    /// Put names into this dictionary's folder instead of the database
    #[arg(long, value_name = "DIR", help_heading = "What is named")]
    pub(crate) sae: Option<PathBuf>,
    /// Put names into this file only, with descriptions and scores: .jsonl, .csv, .parquet, ...; `-` is standard output
    #[arg(long, short, value_name = "FILE", help_heading = "What is named")]
    pub(crate) output: Option<PathBuf>,
    /// Also judge each name, by asking the model to find the feature's texts by it; twice as many requests for one score
    #[arg(long, value_enum, value_delimiter = ',', hide_possible_values = true)]
    #[arg(value_name = "detection,fuzzing", help_heading = "What is named")]
    pub(crate) score: Vec<Score>,
    /// Give no names: judge, by --score, those that the features have; to compare them, or with another model as judge
    #[arg(long, requires = "score", help_heading = "What is named")]
    pub(crate) judge: bool,
    /// Seed of every choice of texts
    #[arg(long, default_value_t = 1, help_heading = "What is named")]
    pub(crate) seed: u64,
    /// Base URL, such as http://localhost:11434/v1
    #[arg(long, value_name = "URL", help_heading = "Endpoint")]
    pub(crate) endpoint: String,
    /// Model, as the endpoint calls it
    #[arg(long, value_name = "NAME", help_heading = "Endpoint")]
    pub(crate) model: String,
    /// Environment variable with the key; no key is sent unless you name its place
    #[arg(long, value_name = "VARIABLE", conflicts_with = "api_key_file", help_heading = "Endpoint")]
    pub(crate) api_key_env: Option<String>,
    /// File with the key
    #[arg(long, value_name = "FILE", help_heading = "Endpoint")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Endpoint")]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(crate) concurrency: usize,
    /// Requests in a minute, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Endpoint")]
    pub(crate) rpm: Option<u32>,
    /// Tokens in a minute, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Endpoint")]
    pub(crate) tpm: Option<u32>,
    /// Tokens of an answer, at most; a model that thinks aloud needs more
    #[arg(long, value_name = "N", default_value_t = 400, help_heading = "Endpoint")]
    #[arg(value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) max_tokens: u32,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 180, help_heading = "Endpoint")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// USD for a million tokens of requests
    #[arg(long, value_name = "USD", value_parser = parse_usd, requires = "price_out", help_heading = "Cost")]
    pub(crate) price_in: Option<f64>,
    /// USD for a million tokens of answers
    #[arg(long, value_name = "USD", value_parser = parse_usd, requires = "price_in", help_heading = "Cost")]
    pub(crate) price_out: Option<f64>,
    /// End before more than this is spent
    #[arg(long, value_name = "USD", value_parser = parse_usd, requires = "price_in", help_heading = "Cost")]
    pub(crate) max_cost: Option<f64>,
    /// Say what it will take and show one request; send nothing
    #[arg(long, help_heading = "Cost")]
    pub(crate) dry_run: bool,
    /// Do not ask before sending
    #[arg(long, short, help_heading = "Cost")]
    pub(crate) yes: bool,
    /// Folder of kept answers [default: labels in $SAEQUEL_CACHE, else ~/.cache/saequel]
    #[arg(long, value_name = "DIR", help_heading = "Cost")]
    pub(crate) cache: Option<PathBuf>,
}

fn parse_usd(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|usd: &f64| usd.is_finite() && *usd >= 0.0).ok_or_else(|| "expected an amount".to_owned())
}
