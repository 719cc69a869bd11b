//! What a feature does, shown by examples: what a person or a language model reads before giving it a name, and on what
//! a name is then tested.

use serde::{Deserialize, Serialize};

use crate::level::Level;

/// Version of the way contexts are chosen and cut; kept with every label that rests on them.
pub const EVIDENCE_VERSION: u32 = 1;

/// One line of the evidence file (JSON Lines).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureEvidence {
    /// [`EVIDENCE_VERSION`] of the program that wrote it.
    pub version: u32,
    /// Dictionary.
    pub dictionary: String,
    /// Position in the dictionary, 0 to width - 1.
    pub latent: u32,
    /// Id in the database; absent where the evidence was made without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_id: Option<u32>,
    /// Token or span.
    pub level: Level,
    /// Present label.
    pub label: String,
    /// Why it is hidden from users unless they ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    /// Share of tokens (spans) on which it fires.
    pub density: f32,
    /// Documents in which it fires, of those that were read.
    pub n_documents: u64,
    /// Strongest activation; unitless, as all activations.
    pub max_activation: f32,
    /// Median of its document maxima.
    pub q50: f32,
    /// 90th percentile of the same.
    pub q90: f32,
    /// Activation from which it counts as present in a document.
    pub presence_threshold: f32,
    /// Words on which it is strong (span level: words that set its spans apart), best first.
    pub words: Vec<WordEvidence>,
    /// Strongest first within each band, at most one a document.
    pub contexts: Vec<Context>,
}

/// A word and the part of a feature that it explains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordEvidence {
    /// Lower case.
    pub word: String,
    /// Share of the feature's strong activations that falls on it (span level: of its strong spans that hold it).
    pub share: f32,
    /// Share of all samples with this word on which the feature is strong.
    pub precision: f32,
}

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// Where in the feature's range it lies.
    pub band: Band,
    /// Whether it may be read to find a name, or only be used to test one.
    pub split: Split,
    /// Activation there; 0 for [`Band::Contrast`].
    pub activation: f32,
    /// Text around it, the token (span) in «guillemets», line breaks as spaces.
    pub text: String,
}

/// Where in a feature's range a context lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Band {
    /// Among the strongest that were seen.
    Strongest,
    /// Present, drawn at random.
    Middle,
    /// It fires, but below the presence threshold.
    Weak,
    /// It does not fire, though the text is like those where it does.
    Contrast,
    /// It does not fire; drawn at random from all texts. Only for testing.
    Other,
}

/// What a context may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For finding a name.
    Label,
    /// For testing it; whoever names the feature does not see it.
    Test,
}
