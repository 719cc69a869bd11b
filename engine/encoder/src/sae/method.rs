//! What can be trained.

use std::fmt;
use std::str::FromStr;

use super::trainer::{Rule, default_ends};
use super::{Architecture, TrainOptions};
use crate::error::{Error, ErrorKind, Result};

/// How a dictionary is trained; [`Architecture`] is how the result is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrainMethod {
    /// The strongest latents of a whole batch, one threshold in use (Bussmann et al. 2024, arXiv:2412.06410). The default.
    #[default]
    BatchTopK,
    /// The `k` strongest latents of each sample (Gao et al. 2024, arXiv:2406.04093).
    TopK,
    /// BatchTopK whose first latents rebuild the samples by themselves (Bussmann et al. 2025, arXiv:2503.17547).
    Matryoshka,
    /// A learned threshold for each latent (Rajamanoharan et al. 2024, arXiv:2407.14435).
    JumpRelu,
    /// The `k` latents of each sample with the largest activations of either sign (Zhu et al. 2025, arXiv:2510.00404).
    AbsTopK,
    /// Matching pursuit of `k` steps, no encoder (Costa et al. 2025, arXiv:2506.03093).
    MatchingPursuit,
    /// Samples as latents, read by matching pursuit; nothing is learned (Leask et al. 2025, arXiv:2505.17769).
    Itda,
}

impl TrainMethod {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::BatchTopK,
        Self::TopK,
        Self::Matryoshka,
        Self::JumpRelu,
        Self::AbsTopK,
        Self::MatchingPursuit,
        Self::Itda,
    ];

    /// As it is written in commands.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BatchTopK => "batchtopk",
            Self::TopK => "topk",
            Self::Matryoshka => "matryoshka",
            Self::JumpRelu => "jumprelu",
            Self::AbsTopK => "abstopk",
            Self::MatchingPursuit => "matching-pursuit",
            Self::Itda => "itda",
        }
    }

    /// Its name in the field's writing.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BatchTopK => "BatchTopK",
            Self::TopK => "TopK",
            Self::Matryoshka => "Matryoshka BatchTopK",
            Self::JumpRelu => "JumpReLU",
            Self::AbsTopK => "AbsTopK",
            Self::MatchingPursuit => "matching pursuit",
            Self::Itda => "ITDA",
        }
    }

    /// Whether it holds the products of all pairs of latents.
    pub(super) const fn is_pursuit(self) -> bool {
        matches!(self, Self::MatchingPursuit | Self::Itda)
    }

    /// What the trainer does.
    pub(super) fn rule(self, options: &TrainOptions) -> Rule {
        match self {
            Self::BatchTopK => Rule::BatchTopK,
            Self::TopK => Rule::TopK { signed: false },
            Self::AbsTopK => Rule::TopK { signed: true },
            Self::Matryoshka if options.prefixes.is_empty() => Rule::Matryoshka { ends: default_ends(options.width) },
            Self::Matryoshka => Rule::Matryoshka { ends: options.prefixes.clone() },
            Self::JumpRelu => Rule::JumpRelu,
            Self::MatchingPursuit => Rule::MatchingPursuit,
            Self::Itda => Rule::Itda { tolerance: options.tolerance.unwrap_or(TrainOptions::TOLERANCE) },
        }
    }

    /// How the result is used: `threshold` is the running one, `cap` the most latents of a row where there is a threshold.
    pub(super) fn architecture(self, k: usize, threshold: f32, cap: usize) -> Architecture {
        match self {
            Self::BatchTopK | Self::Matryoshka => Architecture::BatchTopk { threshold, cap: Some(cap) },
            Self::TopK => Architecture::TopK { k },
            Self::AbsTopK => Architecture::AbsTopK { k },
            Self::JumpRelu => Architecture::JumpRelu,
            Self::MatchingPursuit => {
                Architecture::MatchingPursuit { max_iterations: k, residual_threshold: 0.0, stop_on_duplicate: false }
            }
            Self::Itda => Architecture::Itda { k },
        }
    }
}

impl fmt::Display for TrainMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TrainMethod {
    type Err = Error;

    /// Reads a name, whatever its case and its hyphens; `mp` is matching pursuit.
    fn from_str(text: &str) -> Result<Self> {
        let plain = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
        let wanted = plain(text);
        if wanted == "mp" || wanted == "mpsae" {
            return Ok(Self::MatchingPursuit);
        }
        Self::ALL.into_iter().find(|method| plain(method.as_str()) == wanted).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            Error::new(ErrorKind::Query, format!("architecture '{text}' cannot be trained; expected one of {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        for method in TrainMethod::ALL {
            assert_eq!(method.as_str().parse::<TrainMethod>().unwrap(), method);
        }
        assert_eq!("JumpReLU".parse::<TrainMethod>().unwrap(), TrainMethod::JumpRelu);
        assert_eq!("top_k".parse::<TrainMethod>().unwrap(), TrainMethod::TopK);
        assert_eq!("MP".parse::<TrainMethod>().unwrap(), TrainMethod::MatchingPursuit);
        let error = "gated".parse::<TrainMethod>().unwrap_err();
        assert!(error.message().contains("batchtopk, topk"), "{error}");
    }
}
