//! Sparse autoencoders: the artifact, encoding, training and evaluation.
//!
//! A dictionary reads a hidden state `x` of the reader. Of one that `sae train` makes by default, with
//! `y = (x - mean) * scale` (span level: brought to length 1 first) the latents are `a = y E^T + e`, of which those above one
//! learned threshold fire, at most `cap` on a row, and `y` is rebuilt as `a D + d`. Decoder rows have length 1, so an
//! activation is the length of what a latent contributes. [`Architecture`] and [`InputNormalization`] say what else there is.

mod architecture;
mod artifact;
mod checkpoint;
mod compare;
pub(crate) mod context;
pub(crate) mod encode;
mod evaluate;
pub(crate) mod harvest;
mod import;
mod method;
mod name;
mod neighbours;
mod pursuit;
pub(crate) mod random;
mod samples;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod screen;
mod start;
pub(crate) mod survey;
mod temporal;
pub(crate) mod texts;
mod train;
mod trainer;

use std::sync::{Arc, OnceLock};

pub use crate::Level;
use crate::error::{Error, ErrorKind, Result};

pub use architecture::{Architecture, InputNormalization, Precision};
pub(crate) use architecture::{AttentionWeights, Weights};
pub use artifact::{DEFAULT, is_file_of_dictionary};
pub(crate) use artifact::{Output, Spec, write_file};
pub use compare::{
    CompareOptions, CompareReport, ComparedPair, LEAST_SAMPLES, SAME_DIRECTION, SAME_SAMPLES, Shared, compare,
};
pub(crate) use encode::{EncodeScratch, SparseRows};
pub use evaluate::{AbsorbedPair, Concept, DensityBin, EvalOptions, EvalReport, LabelledTexts, SimilarPair, evaluate};
pub use import::{ImportCheck, ImportOptions, ImportReport, import};
pub use method::TrainMethod;
pub use name::{check_dictionary_name, check_name};
pub(crate) use screen::PackedEncoder;
pub use train::{TrainOptions, TrainReport, train};

/// A trained sparse autoencoder over one hook point of one reader.
#[derive(Debug, Clone)]
pub struct Sae {
    spec: Spec,
    weights: Weights,
    latents: Vec<LatentInfo>,
    /// Products of all pairs of decoder rows, computed when a pursuit first needs them.
    gram: Arc<OnceLock<Vec<f32>>>,
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
    /// Whether `other` makes the same features of the same states, whatever they are called.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.spec, &other.spec);
        a.reader == b.reader
            && (a.hook, a.level, a.architecture, a.normalization) == (b.hook, b.level, b.architecture, b.normalization)
            && self.weights == other.weights
    }

    /// The dictionary under another name.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] for a name that cannot be.
    pub fn with_name(mut self, name: &str) -> Result<Self> {
        check_dictionary_name(name)?;
        name.clone_into(&mut self.spec.name);
        Ok(self)
    }

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
        self.spec.hook.layer()
    }

    /// Where in the reader its states are taken.
    pub fn hook(&self) -> crate::reader::Hook {
        self.spec.hook
    }

    /// What it reads there: whole windows, or tokens whatever is before them.
    pub(crate) fn wanted(&self) -> crate::reader::Wanted {
        use crate::reader::Wanted;
        if self.architecture().reads_sequences() { Wanted::windows(self.hook()) } else { Wanted::states(self.hook()) }
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

    /// Number of features: of latents, or of latents and signs (see [`Architecture::is_signed`]).
    pub fn width(&self) -> usize {
        if self.architecture().is_signed() { 2 * self.spec.width } else { self.spec.width }
    }

    /// Width of the hidden states that it reads.
    pub fn input_width(&self) -> usize {
        self.spec.input_width
    }

    /// What it does with pre-activations.
    pub fn architecture(&self) -> Architecture {
        self.spec.architecture
    }

    /// What it does with hidden states first.
    pub fn normalization(&self) -> InputNormalization {
        self.spec.normalization
    }

    /// How its weights are written.
    pub fn precision(&self) -> Precision {
        self.spec.precision
    }

    /// Whether it rebuilds another hook point than it reads (a transcoder). How well it does cannot be told from the states
    /// that it reads.
    pub fn is_transcoder(&self) -> bool {
        self.spec.output.is_some()
    }

    /// Sizes of nested dictionaries (Matryoshka), ascending; empty if it is not nested.
    pub fn prefixes(&self) -> &[usize] {
        &self.spec.prefixes
    }

    /// Row-major `[width, output width]`: what one unit of each feature adds to the reconstruction.
    pub(crate) fn decoder(&self) -> &[f32] {
        &self.weights.decoder
    }

    /// Width of what it rebuilds: of the hidden states, unless it is a transcoder.
    pub fn output_width(&self) -> usize {
        self.spec.output_width()
    }

    /// What happens to hidden states first, for people.
    pub fn describe_normalization(&self) -> String {
        let bias = if self.weights.shift.is_empty() { "" } else { ", decoder bias subtracted" };
        format!("{}{bias}", self.normalization().describe())
    }

    /// What there is to say of it, for people: names and values.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let spec = &self.spec;
        let mut facts = vec![
            ("name", spec.name.clone()),
            ("reader", spec.reader.clone()),
            ("hook", spec.hook.to_string()),
            ("level", spec.level.as_str().to_owned()),
            ("features", self.width().to_string()),
            ("input width", spec.input_width.to_string()),
            ("architecture", spec.architecture.describe()),
            ("normalization", self.describe_normalization()),
            ("precision", format!("{:?}", spec.precision).to_lowercase()),
        ];
        if spec.k > 0 {
            facts.push(("k", spec.k.to_string()));
        }
        if spec.architecture.is_signed() {
            let n = spec.width;
            facts.push(("signs", format!("0 to {}: latents above 0; {n} to {}: latents below 0", n - 1, 2 * n - 1)));
        }
        if let Some(output) = &spec.output {
            facts.push(("rebuilds", format!("{} ({} values)", output.hook, output.width)));
        }
        if !spec.prefixes.is_empty() {
            facts.push(("nested sizes", spec.prefixes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")));
        }
        let source = |key: &str| spec.source.get(key).and_then(serde_json::Value::as_str);
        if let (Some(format), Some(from)) = (source("format"), source("from")) {
            facts.push(("imported", format!("{format}, {from}")));
        }
        let labelled =
            self.latents.iter().filter(|latent| !matches!(latent.label_source.as_str(), "" | "none")).count();
        facts.push(("labelled", format!("{labelled} of {}", self.latents.len())));
        facts
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
