//! BERT encoder (Devlin et al. 2019, arXiv:1810.04805) that gives the hidden states after every block.

use candle_core::{Device, Result, Tensor};
use serde::Deserialize;

use super::hook::{Hook, Site};
use super::ops::{Dense, add_norm, attention};
use super::weights::Weights;
use crate::options::Precision;

/// What `config.json` says of a BERT.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) vocab_size: usize,
    pub(super) max_position_embeddings: usize,
    pub(super) type_vocab_size: usize,
    pub(super) layer_norm_eps: f32,
    pub(super) hidden_act: String,
}

impl Config {
    /// The configuration of a BERT with learned positions and exact GELU; `None` of any other model.
    pub(super) fn of(config: &serde_json::Value) -> Option<Self> {
        let plain = config["position_embedding_type"].as_str().is_none_or(|kind| kind == "absolute");
        if config["model_type"] != "bert" || config["hidden_act"] != "gelu" || !plain {
            return None;
        }
        serde_json::from_value(config.clone()).ok()
    }
}

struct Block {
    qkv: Dense,
    attended: Dense,
    attended_norm: Tensor,
    inner: Dense,
    outer: Dense,
    outer_norm: Tensor,
}

/// Embeddings of the vocabulary, of which a batch takes its rows.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// The model; all tensors `f32`, the weights of linear layers packed.
pub(super) struct Bert {
    config: Config,
    weights: Weights,
    /// Position plus the embedding of the first segment type.
    positions: Tensor,
    norm: Tensor,
    blocks: Vec<Block>,
    device: Device,
}

impl Bert {
    /// Takes the weights out of a checkpoint.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, naming both.
    pub(super) fn load(config: Config, weights: Weights, device: Device, precision: Precision) -> Result<Self> {
        if config.hidden_act != "gelu" {
            candle_core::bail!("hidden_act is '{}', expected 'gelu'", config.hidden_act);
        }
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let has_shape = |name: &str, shape: &[usize]| match weights.shape(name) {
            Some(found) if found == shape => Ok(()),
            Some(found) => candle_core::bail!("tensor {name} is {found:?}, expected {shape:?}"),
            None => candle_core::bail!("tensor {name} {shape:?} is missing"),
        };
        let get = |name: &str, shape: &[usize]| {
            has_shape(name, shape)?;
            weights.tensor(name)?.to_device(&device)
        };
        let linear = |name: &str, inputs: usize, outputs: usize| -> Result<(Tensor, Tensor)> {
            Ok((get(&format!("{name}.weight"), &[outputs, inputs])?, get(&format!("{name}.bias"), &[outputs])?))
        };
        let dense = |name: &str, inputs: usize, outputs: usize| {
            let (weight, bias) = linear(name, inputs, outputs)?;
            Dense::new(&weight, &bias, precision)
        };
        let norm = |name: &str| {
            let (gain, shift) = (format!("{name}.weight"), format!("{name}.bias"));
            Tensor::stack(&[get(&gain, &[width])?, get(&shift, &[width])?], 0)
        };
        has_shape(WORDS, &[config.vocab_size, width])?;
        let types = get("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, width])?;
        let positions = get("embeddings.position_embeddings.weight", &[config.max_position_embeddings, width])?;
        let block = |i: usize| {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let parts =
                ["query", "key", "value"].map(|part| linear(&name(&format!("attention.self.{part}")), width, width));
            let [query, key, value] = parts;
            let (query, key, value) = (query?, key?, value?);
            Ok(Block {
                qkv: Dense::new(
                    &Tensor::cat(&[&query.0, &key.0, &value.0], 0)?,
                    &Tensor::cat(&[&query.1, &key.1, &value.1], 0)?,
                    precision,
                )?,
                attended: dense(&name("attention.output.dense"), width, width)?,
                attended_norm: norm(&name("attention.output.LayerNorm"))?,
                inner: dense(&name("intermediate.dense"), width, inner)?,
                outer: dense(&name("output.dense"), inner, width)?,
                outer_norm: norm(&name("output.LayerNorm"))?,
            })
        };
        Ok(Self {
            positions: positions.broadcast_add(&types.get(0)?)?,
            norm: norm("embeddings.LayerNorm")?,
            blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_>>()?,
            weights,
            device,
            config,
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Hidden states of packed windows at the hooks `wanted` (ascending), each `[ids.len(), width]`. `lengths` are the
    /// windows' lengths; nothing is padded and no window sees another. What lies behind the last wanted hook is not run.
    pub(super) fn forward(&self, ids: &[u32], lengths: &[usize], wanted: &[Hook]) -> Result<Vec<Tensor>> {
        let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let words = self.weights.rows(WORDS, ids)?;
        let positions = Tensor::new(positions.as_slice(), &self.device)?;
        let epsilon = self.config.layer_norm_eps;
        let mut x = add_norm(
            &Tensor::from_vec(words, (ids.len(), self.config.hidden_size), &self.device)?,
            &self.positions.index_select(&positions, 0)?,
            &self.norm,
            epsilon,
        )?;
        let mut states = Vec::with_capacity(wanted.len());
        // Takes `x` if it is wanted; says whether it was the last that is.
        let mut take = |hook: Hook, x: &Tensor| {
            if wanted.contains(&hook) {
                states.push(x.clone());
            }
            states.len() == wanted.len()
        };
        let mut done = take(Hook::residual(0), &x);
        for (i, block) in self.blocks.iter().enumerate() {
            if done {
                return Ok(states);
            }
            let qkv = block.qkv.forward(&x, false)?;
            let attended = attention(&qkv, lengths, self.config.num_attention_heads)?;
            if take(Hook::new(Site::Heads, i), &attended) {
                return Ok(states);
            }
            let attended = block.attended.forward(&attended, false)?;
            take(Hook::new(Site::Attention, i), &attended);
            x = add_norm(&attended, &x, &block.attended_norm, epsilon)?;
            take(Hook::new(Site::Middle, i), &x);
            if take(Hook::new(Site::MlpIn, i), &x) {
                return Ok(states);
            }
            let inner = block.inner.forward(&x, true)?;
            let outer = block.outer.forward(&inner, false)?;
            take(Hook::new(Site::Mlp, i), &outer);
            x = add_norm(&outer, &x, &block.outer_norm, epsilon)?;
            done = take(Hook::residual(i + 1), &x);
        }
        take(Hook::FINAL, &x);
        Ok(states)
    }
}
