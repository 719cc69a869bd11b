//! Sparse autoencoders: the artifact, encoding, training and evaluation.
//!
//! A dictionary reads a hidden state `x` of the reader. With `y = (x - mean) * scale` (span level: brought to length 1
//! first) its latents are `a = y E^T + e`, of which those above one learned threshold fire, at most `cap` on a row, and
//! `y` is rebuilt as `a D + d`. Decoder rows have length 1, so an activation is the length of what a latent contributes.

mod artifact;
mod checkpoint;
pub(crate) mod context;
pub(crate) mod encode;
mod evaluate;
pub(crate) mod harvest;
mod neighbours;
pub(crate) mod random;
mod samples;
pub(crate) mod survey;
pub(crate) mod texts;
mod train;
mod trainer;

pub use crate::Level;
use crate::error::{Error, ErrorKind, Result};

pub use artifact::DEFAULT;
pub(crate) use artifact::{Spec, write_file};
pub(crate) use encode::{EncodeScratch, SparseRows};
pub use evaluate::{EvalOptions, EvalReport, evaluate};
pub use train::{TrainOptions, TrainReport, train};

/// A trained sparse autoencoder over one hook point of one reader.
#[derive(Debug, Clone)]
pub struct Sae {
    spec: Spec,
    /// Row-major `[width, input width]`.
    encoder: Vec<f32>,
    encoder_bias: Vec<f32>,
    /// Row-major `[width, input width]`, rows of length 1.
    decoder: Vec<f32>,
    decoder_bias: Vec<f32>,
    mean: Vec<f32>,
    latents: Vec<LatentInfo>,
}

/// What is known of one latent, beside the weights (file `features.jsonl` of the artifact).
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LatentInfo {
    /// Position, 0 to width - 1.
    pub latent: u32,
    /// Short readable name; unique within the dictionary where possible.
    pub label: String,
    /// One sentence that says more; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `words`, `user`, `imported`, ...
    pub label_source: String,
    /// How well the label predicts the feature, if measured.
    pub label_score: Option<f32>,
    /// How well label and description tell its contexts from others: see [`crate::detection`]; absent if not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<f32>,
    /// [`crate::evidence::EVIDENCE_VERSION`] of the contexts that the label or its detection rests on, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_version: Option<u32>,
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
    /// Hidden from users unless they ask, and why (`dense`, `sub-word`, `template`, `dead`, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    /// Strongest tokens, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_tokens: Vec<String>,
    /// Words that set its documents apart, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_words: Vec<String>,
    /// Short text windows around its strongest tokens, the token in «guillemets».
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

impl Sae {
    /// Name of the dictionary, e.g. `minilm-l4-token-4096`.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Name of the reader it belongs to.
    pub fn reader(&self) -> &str {
        &self.spec.reader
    }

    /// Layer of the hook point: 0 is the embedding, n the n-th block or its output.
    pub fn layer(&self) -> usize {
        self.spec.layer
    }

    /// Where in the reader its states are taken.
    pub fn hook(&self) -> crate::reader::Hook {
        self.spec.hook.unwrap_or(crate::reader::Hook::residual(self.spec.layer))
    }

    /// Token, span or document.
    pub fn level(&self) -> crate::Level {
        self.spec.level
    }

    /// What kinds of things its features stand for, in a sentence for users; empty if nobody wrote it (`sees` of
    /// `sae.json`).
    pub fn sees(&self) -> &str {
        &self.spec.sees
    }

    /// What its features cannot tell, likewise (`misses`).
    pub fn misses(&self) -> &str {
        &self.spec.misses
    }

    /// Number of latents.
    pub fn width(&self) -> usize {
        self.encoder_bias.len()
    }

    /// Width of the hidden states that it reads.
    pub fn input_width(&self) -> usize {
        self.mean.len()
    }

    /// What is known of each latent, in order.
    pub fn latents(&self) -> &[LatentInfo] {
        &self.latents
    }

    /// The same weights with other descriptions, one a latent and in order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`] if their number is not the width.
    pub fn with_latents(mut self, latents: Vec<LatentInfo>) -> Result<Self> {
        if latents.len() != self.width() || latents.iter().zip(0..).any(|(info, i)| info.latent != i) {
            let message = format!(
                "dictionary '{}': expected descriptions of latents 0 to {} in order, got {}",
                self.name(),
                self.width() - 1,
                latents.len()
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        self.latents = latents;
        Ok(self)
    }
}
