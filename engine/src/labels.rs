//! Names for features without a language model: from the tokens, word groups and documents on which they are strongest.

use std::path::PathBuf;

use crate::error::Result;
use crate::options::EngineOptions;
use crate::progress::Progress;
use crate::sae::LatentInfo;

/// What to label, from which texts.
#[derive(Debug, Clone)]
pub struct LabelOptions {
    /// Folder of the dictionary; `None`: the shipped one.
    pub dictionary: Option<PathBuf>,
    /// Text files, as in [`crate::sae::TrainOptions::input`].
    pub input: Vec<PathBuf>,
    /// Column (field) with the text.
    pub text_column: String,
    /// Tokens to read; 0: all.
    pub tokens: u64,
    /// Whether to keep short pieces of the texts as examples.
    pub examples: bool,
    /// Whether statistics (density, quantiles, presence threshold, hidden) are measured anew too.
    pub statistics: bool,
    /// Threads and cache folder.
    pub engine: EngineOptions,
}

/// Reads the input and returns what is known of each latent, with labels made from these texts.
///
/// # Errors
/// As [`crate::sae::Sae::load`], [`crate::Reader::load`]; [`crate::ErrorKind::Data`] for an input without text.
pub fn label(options: &LabelOptions, progress: &dyn Progress) -> Result<Vec<LatentInfo>> {
    let _ = (options, progress);
    todo!("owner of sae")
}
