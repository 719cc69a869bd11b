//! Hook points: where in a transformer hidden states are taken, and what the field calls them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// What is taken at a block, in the order in which a block computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// The residual stream that enters the block; of an encoder that normalises after each block, its hidden state.
    Residual,
    /// Weighted values of all heads, concatenated, before the output projection.
    Heads,
    /// What attention adds to the residual stream: behind the output projection and, where there is one, the norm after it.
    Attention,
    /// The residual stream between attention and MLP. Blocks that run both side by side have none.
    Middle,
    /// What the MLP reads: behind the norm before it.
    MlpIn,
    /// What the MLP adds to the residual stream: behind the norm after it, where there is one.
    Mlp,
    /// Behind the norm after the last block; a model without such a norm gives the last residual.
    Final,
}

impl Site {
    fn name(self) -> &'static str {
        match self {
            Self::Residual => "residual",
            Self::Heads => "heads",
            Self::Attention => "attention",
            Self::Middle => "middle",
            Self::MlpIn => "mlp-in",
            Self::Mlp => "mlp",
            Self::Final => "final",
        }
    }
}

/// A hook point. Hooks are ordered by depth: of two hooks of a model, the smaller one is computed first.
///
/// It is written as one of our names (`residual.4`, `heads.3`, `attention.3`, `middle.3`, `mlp-in.3`, `mlp.3`, `final`),
/// where residual 0 is the embedding and residual n the output of the n-th block, and the others count blocks from 0. It
/// is read from those, from a bare number (a residual), from TransformerLens names, and from paths of modules in PyTorch
/// models (`model.layers.3.mlp`), whose output is meant.
///
/// ```
/// use saequel_encoder::reader::Hook;
/// let hook: Hook = "blocks.3.hook_resid_post".parse().unwrap();
/// assert_eq!(hook, Hook::residual(4));
/// assert_eq!(hook.to_string(), "residual.4");
/// assert_eq!(hook.transformer_lens(), "blocks.3.hook_resid_post");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hook {
    /// Block counted from 0; of a residual, the block that it enters.
    block: usize,
    site: Site,
}

impl Hook {
    /// Behind the last norm.
    pub const FINAL: Self = Self { block: usize::MAX, site: Site::Final };

    /// The residual stream after `n_blocks` blocks; 0 is the embedding.
    pub const fn residual(n_blocks: usize) -> Self {
        Self { block: n_blocks, site: Site::Residual }
    }

    /// `site` of the block with number `block`, counted from 0. [`Site::Final`] belongs to no block.
    pub const fn new(site: Site, block: usize) -> Self {
        match site {
            Site::Final => Self::FINAL,
            site => Self { block, site },
        }
    }

    /// What is taken.
    pub const fn site(self) -> Site {
        self.site
    }

    /// The block, counted from 0; of a residual, the number of blocks before it; `None` behind the last norm.
    pub const fn block(self) -> Option<usize> {
        match self.site {
            Site::Final => None,
            _ => Some(self.block),
        }
    }

    /// Blocks of a model of `n_layers` that must be run, the last one at least in part.
    pub(crate) fn n_blocks(self, n_layers: usize) -> usize {
        match self.site {
            Site::Residual => self.block,
            Site::Final => n_layers,
            _ => self.block + 1,
        }
    }

    /// The layer that a user would name: n after the n-th block, and for what is inside of a block the number of the block
    /// counted from 1. What is behind the last norm has the largest number there is.
    pub const fn layer(self) -> usize {
        match self.site {
            Site::Residual | Site::Final => self.block,
            _ => self.block + 1,
        }
    }

    /// Name in TransformerLens.
    pub fn transformer_lens(self) -> String {
        let block = self.block;
        match self.site {
            Site::Residual if block > 0 => format!("blocks.{}.hook_resid_post", block - 1),
            Site::Residual => "blocks.0.hook_resid_pre".to_owned(),
            Site::Heads => format!("blocks.{block}.attn.hook_z"),
            Site::Attention => format!("blocks.{block}.hook_attn_out"),
            Site::Middle => format!("blocks.{block}.hook_resid_mid"),
            Site::MlpIn => format!("blocks.{block}.ln2.hook_normalized"),
            Site::Mlp => format!("blocks.{block}.hook_mlp_out"),
            Site::Final => "ln_final.hook_normalized".to_owned(),
        }
    }

    /// Says what is wrong if a model of `n_layers` blocks does not have this hook point.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] naming the blocks that there are.
    pub(crate) fn check(self, reader: &str, n_layers: usize) -> Result<()> {
        let (last, what) = match self.site {
            Site::Final => return Ok(()),
            Site::Residual => (n_layers, "residuals"),
            _ => (n_layers.saturating_sub(1), "blocks"),
        };
        if self.block <= last {
            return Ok(());
        }
        let message = format!("hook point {self}: reader '{reader}' has {what} 0 to {last}");
        Err(Error::new(ErrorKind::Query, message))
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.site {
            Site::Final => f.pad("final"),
            site => f.pad(&format!("{}.{}", site.name(), self.block)),
        }
    }
}

/// Names of TransformerLens behind `blocks.L.`; the second value is what is added to the block's number.
const TRANSFORMER_LENS: &[(&str, Site, usize)] = &[
    ("hook_resid_pre", Site::Residual, 0),
    ("hook_resid_post", Site::Residual, 1),
    // Of BERT in TransformerLens: behind the block's last norm, as our residual is.
    ("hook_normalized_resid_post", Site::Residual, 1),
    ("hook_resid_mid", Site::Middle, 0),
    // TransformerLens takes it before the norm, where it is a copy of the residual stream.
    ("hook_mlp_in", Site::Middle, 0),
    ("attn.hook_z", Site::Heads, 0),
    ("hook_attn_out", Site::Attention, 0),
    ("ln1_post.hook_normalized", Site::Attention, 0),
    ("ln2.hook_normalized", Site::MlpIn, 0),
    ("mlp.hook_in", Site::MlpIn, 0),
    ("hook_mlp_out", Site::Mlp, 0),
    ("mlp.hook_out", Site::Mlp, 0),
    ("ln2_post.hook_normalized", Site::Mlp, 0),
];

/// Submodules of a block in PyTorch models.
const MODULES: &[(&str, Site, usize)] = &[
    ("", Site::Residual, 1),
    ("mlp", Site::Mlp, 0),
    ("attn", Site::Attention, 0),
    ("self_attn", Site::Attention, 0),
    ("attention", Site::Attention, 0),
];

impl FromStr for Hook {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = text.trim();
        if let Ok(layer) = name.parse() {
            return Ok(Self::residual(layer));
        }
        if matches!(name, "final" | "ln_final.hook_normalized") {
            return Ok(Self::FINAL);
        }
        let found = |table: &[(&str, Site, usize)], block: usize, rest: &str| {
            let &(_, site, add) = table.iter().find(|(name, ..)| *name == rest)?;
            Some(Self { block: block.checked_add(add)?, site })
        };
        let own = name.split_once('.').and_then(|(site, block)| {
            let sites = [Site::Residual, Site::Heads, Site::Attention, Site::Middle, Site::MlpIn, Site::Mlp];
            Some(Self { site: sites.into_iter().find(|known| known.name() == site)?, block: block.parse().ok()? })
        });
        let parsed = own.or_else(|| {
            let rest = name.strip_prefix("blocks.")?;
            let (block, rest) = rest.split_once('.').unwrap_or((rest, ""));
            found(TRANSFORMER_LENS, block.parse().ok()?, rest)
        });
        let parsed = parsed.or_else(|| {
            let parts: Vec<&str> = name.split('.').collect();
            let at = parts.iter().position(|part| matches!(*part, "layers" | "layer" | "h"))?;
            found(MODULES, parts.get(at + 1)?.parse().ok()?, &parts[at + 2..].join("."))
        });
        parsed.ok_or_else(|| {
            let message = format!(
                "hook point '{text}' not found; expected residual.N (0 is the embedding, N the output of block N), heads.N, \
                 attention.N, middle.N, mlp-in.N, mlp.N (blocks from 0), final, or a TransformerLens name such as \
                 blocks.3.hook_resid_post or blocks.3.attn.hook_z"
            );
            Error::new(ErrorKind::Query, message)
        })
    }
}

impl Serialize for Hook {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hook {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Layer(usize),
            Name(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Layer(layer) => Ok(Self::residual(layer)),
            Written::Name(name) => name.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(name: &str) -> Hook {
        name.parse().unwrap()
    }

    #[test]
    fn names_of_the_field_mean_the_same() {
        for (names, expected) in [
            (&["4", "residual.4", "blocks.3.hook_resid_post", "blocks.4.hook_resid_pre", "layers.3"][..], "residual.4"),
            (&["gpt_neox.layers.3", "model.layers.3", "transformer.h.3", "encoder.layer.3"], "residual.4"),
            (&["0", "blocks.0.hook_resid_pre"], "residual.0"),
            (&["heads.2", "blocks.2.attn.hook_z"], "heads.2"),
            (&["blocks.2.hook_attn_out", "layers.2.self_attn", "h.2.attn"], "attention.2"),
            (&["blocks.2.hook_resid_mid", "blocks.2.hook_mlp_in"], "middle.2"),
            (&["blocks.2.ln2.hook_normalized", "blocks.2.mlp.hook_in"], "mlp-in.2"),
            (&["blocks.2.hook_mlp_out", "model.layers.2.mlp"], "mlp.2"),
            (&["ln_final.hook_normalized"], "final"),
        ] {
            for name in names {
                assert_eq!(hook(name).to_string(), expected, "{name}");
                assert_eq!(hook(&hook(name).transformer_lens()), hook(expected), "{name}");
                assert_eq!(hook(&hook(name).to_string()), hook(expected), "{name}");
            }
        }
    }

    #[test]
    fn unknown_names_are_refused_with_those_there_are() {
        for name in
            ["", "residual", "residual.x", "-1", "blocks.2.hook_q", "blocks.x.hook_mlp_out", "layers", "layers.2.norm"]
        {
            let error = name.parse::<Hook>().unwrap_err();
            assert!(error.message().contains(&format!("hook point '{name}' not found")), "{error}");
            assert!(error.message().contains("blocks.3.attn.hook_z"), "{error}");
        }
    }

    #[test]
    fn hooks_are_ordered_by_depth() {
        let names = [
            "residual.0",
            "heads.0",
            "attention.0",
            "middle.0",
            "mlp-in.0",
            "mlp.0",
            "residual.1",
            "heads.1",
            "residual.2",
            "final",
        ];
        let hooks: Vec<Hook> = names.map(hook).to_vec();
        assert!(hooks.is_sorted() && hooks.windows(2).all(|two| two[0] != two[1]));
        let blocks: Vec<usize> = hooks.iter().map(|hook| hook.n_blocks(12)).collect();
        assert_eq!(blocks, [0, 1, 1, 1, 1, 1, 1, 2, 2, 12]);
    }

    #[test]
    fn depth_is_checked_against_the_model() {
        assert!(hook("residual.6").check("r", 6).is_ok() && hook("mlp.5").check("r", 6).is_ok());
        let error = hook("mlp.6").check("r", 6).unwrap_err();
        assert_eq!(error.message(), "hook point mlp.6: reader 'r' has blocks 0 to 5");
        assert!(hook("7").check("r", 6).unwrap_err().message().contains("residuals 0 to 6"));
        assert!(Hook::FINAL.check("r", 6).is_ok());
    }

    #[test]
    fn json_is_a_name_or_a_layer() {
        assert_eq!(serde_json::to_string(&Hook::residual(4)).unwrap(), "\"residual.4\"");
        let read = |json: &str| serde_json::from_str::<Hook>(json);
        assert_eq!(read("4").unwrap(), Hook::residual(4));
        assert_eq!(read("\"blocks.2.attn.hook_z\"").unwrap(), Hook::new(Site::Heads, 2));
        assert!(read("\"nowhere\"").unwrap_err().to_string().contains("hook point 'nowhere'"));
    }
}
