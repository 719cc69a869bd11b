//! Sparse autoencoders: the artifact, encoding, training and evaluation.

mod evaluate;
mod train;

use std::path::Path;

use crate::error::Result;

pub use evaluate::{EvalOptions, EvalReport, evaluate};
pub use train::{TrainOptions, TrainReport, train};

/// A trained sparse autoencoder over one hook point of one reader.
pub struct Sae {}

/// What is known of one latent, beside the weights (file `features.jsonl` of the artifact).
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct LatentInfo {
    /// Position, 0 to width - 1.
    pub latent: u32,
    /// Short readable name; unique within the dictionary where possible.
    pub label: String,
    /// `words`, `user`, `imported`, ...
    pub label_source: String,
    /// How well the label predicts the feature, if measured.
    pub label_score: Option<f32>,
    /// Share of training tokens (or spans) on which it fires.
    pub density: f32,
    /// Strongest activation in training.
    pub max_activation: f32,
    /// Activation from which it counts as present in a document.
    pub presence_threshold: f32,
    /// Median of non-zero document activations.
    pub q50: f32,
    /// 90th percentile of the same.
    pub q90: f32,
    /// Hidden from users unless they ask, and why (`dense`, `sub-word`, `dead`, ...).
    pub hidden: Option<String>,
    /// Strongest tokens, best first.
    pub top_tokens: Vec<String>,
    /// Words that set its documents apart, best first.
    pub top_words: Vec<String>,
    /// Short text windows around its strongest tokens, the token in «guillemets».
    pub examples: Vec<String>,
}

impl Sae {
    /// The dictionary that is shipped with saequel, embedded in the program.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] if the build is damaged.
    pub fn embedded_default() -> Result<Self> {
        todo!("owner of sae")
    }

    /// Loads an artifact folder (`sae.json`, `sae.safetensors`, `features.jsonl`).
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], or [`crate::ErrorKind::Corrupt`] naming the file, the tensor and the shapes.
    pub fn load(dir: &Path) -> Result<Self> {
        let _ = dir;
        todo!("owner of sae")
    }

    /// Writes the artifact folder, each file at once (temporary name, then rename).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        let _ = dir;
        todo!("owner of sae")
    }

    /// Name of the dictionary, e.g. `minilm-l4-token-4096`.
    pub fn name(&self) -> &str {
        todo!("owner of sae")
    }

    /// Name of the reader it belongs to.
    pub fn reader(&self) -> &str {
        todo!("owner of sae")
    }

    /// Layer of the hook point: 0 is the embedding, n the output of the n-th block.
    pub fn layer(&self) -> usize {
        todo!("owner of sae")
    }

    /// Token, span or document.
    pub fn level(&self) -> saequel_udfs::Level {
        todo!("owner of sae")
    }

    /// Number of latents.
    pub fn width(&self) -> usize {
        todo!("owner of sae")
    }

    /// What is known of each latent, in order.
    pub fn latents(&self) -> &[LatentInfo] {
        todo!("owner of sae")
    }

    /// The same weights with other descriptions, one a latent and in order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`] if their number is not the width.
    pub fn with_latents(self, latents: Vec<LatentInfo>) -> Result<Self> {
        let _ = latents;
        todo!("owner of sae")
    }
}
