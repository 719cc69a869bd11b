//! What a dictionary does with its pre-activations, and what happens to hidden states before.

use serde::{Deserialize, Serialize};

/// How pre-activations `p = y E^T + e` of a row become activations. Equal activations: the lower latent goes first wherever
/// a number of latents is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Architecture {
    /// Those above one threshold fire, the strongest `cap` of a row at most: BatchTopK in use (Bussmann et al. 2024,
    /// arXiv:2412.06410), and what `sae train` makes by default.
    BatchTopk {
        /// A latent fires above this.
        threshold: f32,
        /// Latents that fire on a row at most; `None`: any number.
        cap: Option<usize>,
    },
    /// Those above 0 fire.
    Relu,
    /// Those above 0 and above a threshold of their own fire (Rajamanoharan et al. 2024, arXiv:2407.14435).
    JumpRelu,
    /// A latent with `p > 0` fires as `max(0, p' r + b)`, where `p'` is `p` without its bias (arXiv:2404.16014).
    Gated,
    /// The strongest `k` of a row fire, if above 0 (Gao et al. 2024, arXiv:2406.04093).
    TopK {
        /// Latents of a row.
        k: usize,
    },
    /// The strongest of each of `k` groups of adjacent latents fires, if above 0.
    GroupMax {
        /// Groups.
        k: usize,
    },
    /// The `k` of a row with the largest `|p|` fire, of either sign (arXiv:2510.00404).
    AbsTopK {
        /// Latents of a row.
        k: usize,
    },
    /// Matching pursuit (arXiv:2506.03093): the decoder row that fits what is left of `y` best is taken off it, again and
    /// again; there is no encoder.
    MatchingPursuit {
        /// Steps at most.
        max_iterations: usize,
        /// What is left is small enough when shorter than this; 0: never.
        residual_threshold: f32,
        /// Whether to stop at a step that takes a latent for the second time.
        stop_on_duplicate: bool,
    },
    /// Inference-time decomposition (ITDA, arXiv:2505.17769): matching pursuit of exactly `k` steps with both signs, over
    /// atoms that are hidden states themselves.
    Itda {
        /// Steps.
        k: usize,
    },
    /// Attention over the tokens before predicts a part of a state, which is taken off; of what is left latents above 0
    /// fire (Lubana et al. 2025, arXiv:2511.01836).
    Temporal {
        /// Layers of attention, one after the other.
        layers: usize,
        /// Heads of each.
        heads: usize,
        /// Width of the queries and keys of all heads of a layer.
        keys: usize,
        /// Latents that fire on a row at most; `None`: any number.
        k: Option<usize>,
        /// Whether the decoder is the encoder too.
        tied: bool,
    },
}

impl Architecture {
    /// Whether activations have both signs. Each latent is then two features: `i` where it is positive, and `latents + i`
    /// where it is negative, with the length of its activation. What is stored is thus always positive.
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::AbsTopK { .. } | Self::Itda { .. })
    }

    /// Whether the decoder is the encoder too.
    pub const fn is_tied(self) -> bool {
        matches!(self, Self::MatchingPursuit { .. } | Self::Itda { .. } | Self::Temporal { tied: true, .. })
    }

    /// Whether the features of a token depend on the tokens before it, not on its own state alone.
    pub const fn reads_sequences(self) -> bool {
        matches!(self, Self::Temporal { .. })
    }

    /// Its name in the field's writing.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BatchTopk { .. } => "BatchTopK",
            Self::Relu => "ReLU",
            Self::JumpRelu => "JumpReLU",
            Self::Gated => "Gated",
            Self::TopK { .. } => "TopK",
            Self::GroupMax { .. } => "GroupMax",
            Self::AbsTopK { .. } => "AbsTopK",
            Self::MatchingPursuit { .. } => "matching pursuit",
            Self::Itda { .. } => "ITDA",
            Self::Temporal { .. } => "temporal",
        }
    }

    /// Its name with its numbers, for people.
    pub fn describe(self) -> String {
        let name = self.name();
        match self {
            Self::BatchTopk { threshold, cap: Some(cap) } => format!("{name}, threshold {threshold}, {cap} at most"),
            Self::BatchTopk { threshold, cap: None } => format!("{name}, threshold {threshold}"),
            Self::TopK { k } | Self::GroupMax { k } | Self::AbsTopK { k } => format!("{name}, k {k}"),
            Self::Itda { k } => format!("{name}, {k} steps"),
            Self::MatchingPursuit { max_iterations, residual_threshold, .. } => {
                format!("{name}, {max_iterations} steps at most, until {residual_threshold} is left")
            }
            Self::Temporal { layers, heads, k, .. } => {
                let most = k.map_or(String::new(), |k| format!(", k {k}"));
                format!("{name}{most}, attention of {heads} heads in {layers} layers")
            }
            Self::Relu | Self::JumpRelu | Self::Gated => name.to_owned(),
        }
    }

    /// Features that fire on a row at most; `None`: any number.
    pub const fn cap(self) -> Option<usize> {
        match self {
            Self::BatchTopk { cap, .. } | Self::Temporal { k: cap, .. } => cap,
            Self::TopK { k } | Self::GroupMax { k } | Self::AbsTopK { k } | Self::Itda { k } => Some(k),
            Self::MatchingPursuit { max_iterations, .. } => Some(max_iterations),
            Self::Relu | Self::JumpRelu | Self::Gated => None,
        }
    }
}

/// What brings a hidden state `x` into the dictionary's space. Weights that say `shift` have it subtracted afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum InputNormalization {
    /// Nothing.
    None,
    /// `(x - mean) * scale`, of length `scale` if `unit`: what `sae train` makes of encoders.
    Centred {
        /// Factor.
        scale: f32,
        /// Whether centred states are brought to length 1 first.
        unit: bool,
    },
    /// `(x / r - mean) / deviation * scale`, where `r` is the root of the mean square of the row: what `sae train` makes of
    /// a decoder's residual stream, of which a few dimensions hold most of the variance.
    Standardised {
        /// Factor.
        scale: f32,
    },
    /// `x * factor`; the factor makes the average length the square root of the width, as a rule.
    Scale {
        /// Factor.
        factor: f32,
    },
    /// Each row is brought to the length that is the square root of the width.
    RowNorm,
    /// Each row is centred on its own mean and multiplied: what a model gives whose weights that write to the residual
    /// stream are centred (TransformerLens's `center_writing_weights`).
    RowCentred {
        /// Factor.
        factor: f32,
    },
    /// Each row is centred on its own mean and divided by its standard deviation (of a sample) and 1e-5.
    LayerNorm,
}

impl InputNormalization {
    /// Whether a mean is subtracted, so that 0 is the state that tells nothing.
    pub(crate) const fn is_centred(self) -> bool {
        matches!(self, Self::Centred { .. } | Self::Standardised { .. })
    }

    /// Its description for people.
    pub fn describe(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Centred { scale, unit: false } => format!("mean subtracted, times {scale}"),
            Self::Centred { scale, unit: true } => format!("mean subtracted, length {scale}"),
            Self::Standardised { scale } => {
                format!("each row to length sqrt(width), mean subtracted, divided by deviations, times {scale}")
            }
            Self::Scale { factor } => format!("times {factor}"),
            Self::RowNorm => "each row to length sqrt(width)".to_owned(),
            Self::RowCentred { factor } => format!("mean of each row subtracted, times {factor}"),
            Self::LayerNorm => "each row to mean 0, deviation 1".to_owned(),
        }
    }
}

/// How weights are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Half precision.
    #[default]
    F16,
    /// Brain floating point.
    Bf16,
    /// Single precision.
    F32,
}

/// The weights of a dictionary: what a training or an import hands over. A vector that the architecture does not need is
/// empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Weights {
    /// Row-major `[latents, input width]`; empty if the decoder is the encoder.
    pub(crate) encoder: Vec<f32>,
    /// `[latents]`; of Gated the bias of the gate; empty if there is none (matching pursuit).
    pub(crate) encoder_bias: Vec<f32>,
    /// Row-major `[latents, output width]`. In a [`super::Sae`] of signed activations a second half follows: the first
    /// with the other sign.
    pub(crate) decoder: Vec<f32>,
    /// `[output width]`: what is rebuilt without any latent, in the dictionary's space.
    pub(crate) decoder_bias: Vec<f32>,
    /// `[input width]`, of [`InputNormalization::Centred`] and [`InputNormalization::Standardised`].
    pub(crate) mean: Vec<f32>,
    /// `[input width]`, above 0, of [`InputNormalization::Standardised`].
    pub(crate) deviation: Vec<f32>,
    /// `[input width]`: subtracted from normalised states (a decoder bias that is applied to the input).
    pub(crate) shift: Vec<f32>,
    /// `[latents]`, of JumpReLU.
    pub(crate) thresholds: Vec<f32>,
    /// `[latents]`, of Gated: factor of the magnitude.
    pub(crate) magnitude: Vec<f32>,
    /// `[latents]`, of Gated: bias of the magnitude.
    pub(crate) magnitude_bias: Vec<f32>,
    /// Of temporal dictionaries.
    pub(crate) attention: AttentionWeights,
}

/// The attention of a temporal dictionary, the layers of each matrix one below the other. The biases of keys are left out:
/// they add the same to all that a query is compared with, which changes no share.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AttentionWeights {
    /// Row-major `[layers * keys, latents]`, and `[layers * keys]`.
    pub(crate) query: Vec<f32>,
    pub(crate) query_bias: Vec<f32>,
    /// Row-major `[layers * keys, latents]`.
    pub(crate) key: Vec<f32>,
    /// Row-major `[layers * latents, latents]`, and `[layers * latents]`.
    pub(crate) value: Vec<f32>,
    pub(crate) value_bias: Vec<f32>,
    /// The same of what becomes of the values of all heads.
    pub(crate) output: Vec<f32>,
    pub(crate) output_bias: Vec<f32>,
}
