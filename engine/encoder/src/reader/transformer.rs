//! One transformer for all families: packed windows in, states at hook points out.

use std::sync::OnceLock;

use candle_core::{Device, Result, Tensor, bail};

use super::families::{Architecture, Inner, Order, Qkv};
use super::hook::{Hook, Site};
use super::layers::{Attention, Heads, NormKind, Rotation, activate, attend, norm, prepare};
use super::ops::{Dense, add_norm};
use super::weights::Weights;
use crate::options::Precision;

/// `[out, in]` and `[out]`; the bias is zero where the model has none.
type Linear = (Tensor, Tensor);

struct Block {
    before_attention: Option<Tensor>,
    qkv: Dense,
    query_key_norms: Option<Tensor>,
    attention: Dense,
    after_attention: Option<Tensor>,
    before_mlp: Option<Tensor>,
    inner: Dense,
    outer: Dense,
    after_mlp: Option<Tensor>,
}

/// A model whose blocks are taken from the checkpoint when they are first run.
pub(super) struct Transformer {
    architecture: Architecture,
    weights: Weights,
    /// What stands before all names in this checkpoint.
    prefix: &'static str,
    inner: usize,
    gated: bool,
    positions: Option<Tensor>,
    /// The embedding of the first segment type.
    types: Option<Tensor>,
    embedding_norm: Option<Tensor>,
    final_norm: Option<Tensor>,
    /// Attention's bias by distance: row-major `[heads, 2 * n - 1]`, see [`Attention::bias`].
    distances: Option<Vec<f32>>,
    blocks: Vec<OnceLock<Block>>,
    device: Device,
    precision: Precision,
}

impl Transformer {
    /// Finds the weights of `architecture` in a checkpoint and checks their shapes.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, naming it and both shapes.
    pub(super) fn load(
        mut architecture: Architecture,
        weights: Weights,
        device: Device,
        precision: Precision,
    ) -> Result<Self> {
        let names = architecture.names;
        let Architecture { width, n_heads, n_kv_heads, head, .. } = architecture;
        if n_heads == 0 || n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) || head == 0 {
            bail!("{n_heads} heads of {head} numbers with {n_kv_heads} keys and values");
        }
        if architecture.rotary.iter().any(|rotary| 2 * rotary.frequencies.len() > head) {
            bail!("rotary positions of more numbers than a head's {head}");
        }
        let there = |prefix: &str| weights.shape(&format!("{prefix}{}.weight", names.words)).is_some();
        let Some(prefix) = names.prefixes.iter().copied().find(|prefix| there(prefix)) else {
            bail!("no tensor {}.weight, the embedding of a {} model", names.words, architecture.family);
        };
        // Llama 3.1 and Phi 3 in GGUF: what divides the frequencies is a tensor.
        for name in ["rope_freqs.weight", "rope_factors_short.weight"] {
            if weights.shape(name).is_some() {
                let factors = weights.tensor(name)?.to_vec1::<f32>()?;
                for rotary in &mut architecture.rotary {
                    rotary.frequencies.iter_mut().zip(&factors).for_each(|(frequency, factor)| *frequency /= factor);
                }
            }
        }
        let n_blocks = architecture.blocks.len();
        let mut model = Self {
            prefix,
            inner: 0,
            gated: !matches!(names.inner, Inner::Plain(_)),
            positions: None,
            types: None,
            embedding_norm: None,
            final_norm: None,
            distances: None,
            blocks: (0..n_blocks).map(|_| OnceLock::new()).collect(),
            device,
            precision,
            architecture,
            weights,
        };
        model.expect(&format!("{}.weight", names.words), &[None, Some(width)])?;
        let optional = |name: &str| names.lenient && !model.has(name);
        let table = |name: Option<&'static str>| -> Result<Option<Tensor>> {
            let Some(name) = name.filter(|name| !optional(name)) else { return Ok(None) };
            model.expect(&format!("{name}.weight"), &[None, Some(width)])?;
            Ok(Some(model.raw(&format!("{name}.weight"))?.to_device(&model.device)?))
        };
        let whole_norm = |name: Option<&'static str>| match name.filter(|name| !optional(name)) {
            Some(name) => model.norm(name).map(Some),
            None => Ok(None),
        };
        let positions = table(names.positions)?;
        let types = table(names.types)?.map(|types| types.get(0)).transpose()?;
        let embedding_norm = whole_norm(names.embedding_norm)?;
        let final_norm = whole_norm(names.final_norm)?;
        let distances = names.distances.map(|name| model.distances(name)).transpose()?;
        if let Some(positions) = &positions {
            let n = positions.dim(0)?.saturating_sub(model.architecture.first_position);
            model.architecture.max_positions = model.architecture.max_positions.min(n);
        }
        (model.positions, model.types, model.embedding_norm, model.final_norm) =
            (positions, types, embedding_norm, final_norm);
        model.distances = distances;
        model.inner = model.inner_width()?;
        for i in 0..n_blocks {
            model.check_block(i)?;
        }
        Ok(model)
    }

    pub(super) fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    fn heads(&self) -> Heads {
        let Architecture { n_heads, n_kv_heads, head, .. } = self.architecture;
        Heads { n_heads, n_kv_heads, head }
    }

    /// Width of the states at a hook point that the model has.
    pub(super) fn hook_width(&self, hook: Hook) -> usize {
        match hook.site() {
            Site::Heads => self.architecture.n_heads * self.architecture.head,
            _ => self.architecture.width,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.weights.shape(&format!("{}{name}.weight", self.prefix)).is_some()
    }

    fn raw(&self, name: &str) -> Result<Tensor> {
        self.weights.tensor(&format!("{}{name}", self.prefix))
    }

    /// Checks the shape of a tensor; `None` stands for any number.
    fn expect(&self, name: &str, shape: &[Option<usize>]) -> Result<Vec<usize>> {
        let full = format!("{}{name}", self.prefix);
        let Some(found) = self.weights.shape(&full) else { bail!("tensor {full} is missing") };
        let fits =
            found.len() == shape.len() && found.iter().zip(shape).all(|(n, want)| want.is_none_or(|want| *n == want));
        if fits {
            return Ok(found);
        }
        let wanted: Vec<String> = shape.iter().map(|n| n.map_or("any".to_owned(), |n| n.to_string())).collect();
        bail!("tensor {full} has shape {found:?}, expected [{}]", wanted.join(", "))
    }

    fn name(&self, block: usize, name: &str) -> String {
        format!("{}{name}", self.architecture.names.block.replace("{}", &block.to_string()))
    }

    /// Gain and shift of a norm, `[2, width]`.
    fn norm(&self, name: &str) -> Result<Tensor> {
        let width = self.architecture.width;
        self.expect(&format!("{name}.weight"), &[Some(width)])?;
        let gain = (self.raw(&format!("{name}.weight"))? + f64::from(self.architecture.gain_offset))?;
        let bias = format!("{name}.bias");
        let shift = match self.weights.shape(&format!("{}{bias}", self.prefix)) {
            Some(_) => {
                self.expect(&bias, &[Some(width)])?;
                self.raw(&bias)?
            }
            None => gain.zeros_like()?,
        };
        Tensor::stack(&[&gain, &shift], 0)?.to_device(&self.device)
    }

    /// MPNet's bias by distance (Raffel et al. 2020, arXiv:1910.10683: 32 buckets, logarithmic from distance 8 to 128).
    fn distances(&self, name: &str) -> Result<Vec<f32>> {
        let (n, n_heads) = (self.architecture.max_positions, self.architecture.n_heads);
        let shape = self.expect(&format!("{name}.weight"), &[None, Some(n_heads)])?;
        let buckets = self.raw(&format!("{name}.weight"))?.to_vec2::<f32>()?;
        let half = shape[0] / 2;
        let exact = half / 2;
        let bucket = |distance: isize| {
            let far = distance.unsigned_abs();
            let bucket = if far < exact {
                far
            } else {
                let log = (far as f32 / exact as f32).ln() / (128.0 / exact as f32).ln();
                (exact + (log * (half - exact) as f32) as usize).min(half - 1)
            };
            bucket + if distance > 0 { half } else { 0 }
        };
        let all = || (1 - n as isize)..n as isize;
        Ok((0..n_heads).flat_map(|h| all().map(|d| buckets[bucket(d)][h]).collect::<Vec<_>>()).collect())
    }

    /// Inputs of the last matrix of an MLP.
    fn inner_width(&self) -> Result<usize> {
        let name = format!("{}.weight", self.name(0, self.architecture.names.outer));
        if self.blocks.is_empty() {
            bail!("the model has no block");
        }
        let width = Some(self.architecture.width);
        match self.architecture.names.transposed {
            true => Ok(self.expect(&name, &[None, width])?[0]),
            false => Ok(self.expect(&name, &[width, None])?[1]),
        }
    }

    /// Names and output widths of the matrices that a block's first projection is joined of, and of its MLP's.
    fn joined(&self) -> (Vec<(&'static str, usize)>, Vec<(&'static str, usize)>) {
        let heads = self.heads();
        let (q, kv) = (heads.n_heads * heads.head, heads.n_kv_heads * heads.head);
        let qkv = match self.architecture.names.qkv {
            Qkv::Apart([query, key, value]) => vec![(query, q), (key, kv), (value, kv)],
            Qkv::Joined(name) | Qkv::JoinedTransposed(name) | Qkv::ByHead(name) => vec![(name, q + 2 * kv)],
        };
        let inner = match self.architecture.names.inner {
            Inner::Plain(name) => vec![(name, self.inner)],
            Inner::Gated([gate, up]) => vec![(gate, self.inner), (up, self.inner)],
            Inner::GatedJoined(name) => vec![(name, 2 * self.inner)],
        };
        (qkv, inner)
    }

    fn check_block(&self, i: usize) -> Result<()> {
        let names = self.architecture.names;
        let width = self.architecture.width;
        let check = |name: &str, inputs: usize, outputs: usize| {
            let shape = if names.transposed { [inputs, outputs] } else { [outputs, inputs] };
            self.expect(&format!("{}.weight", self.name(i, name)), &shape.map(Some)).map(drop)
        };
        let (qkv, inner) = self.joined();
        for (name, outputs) in qkv.into_iter().chain(inner) {
            check(name, width, outputs)?;
        }
        check(names.attention, self.architecture.n_heads * self.architecture.head, width)?;
        check(names.outer, self.inner, width)
    }

    /// One matrix with its bias, or several joined.
    fn linear(&self, block: usize, parts: &[(&str, usize)]) -> Result<Linear> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for &(name, outputs) in parts {
            let name = self.name(block, name);
            let weight = self.raw(&format!("{name}.weight"))?;
            weights.push(if self.architecture.names.transposed { weight.t()?.contiguous()? } else { weight });
            let bias = format!("{name}.bias");
            biases.push(match self.weights.shape(&format!("{}{bias}", self.prefix)) {
                Some(_) => {
                    self.expect(&bias, &[Some(outputs)])?;
                    self.raw(&bias)?
                }
                None => Tensor::zeros(outputs, candle_core::DType::F32, &Device::Cpu)?,
            });
        }
        Ok((Tensor::cat(&weights, 0)?.to_device(&self.device)?, Tensor::cat(&biases, 0)?.to_device(&self.device)?))
    }

    fn load_block(&self, i: usize) -> Result<Block> {
        let names = self.architecture.names;
        let norm = |name: Option<&str>| match name.map(|name| self.name(i, name)) {
            // ModernBERT has no norm before its first block.
            Some(name) if i == 0 && names.block == "layers.{}." && name.ends_with("attn_norm") && !self.has(&name) => {
                Ok(None)
            }
            Some(name) => self.norm(&name).map(Some),
            None => Ok(None),
        };
        let (qkv, inner) = self.joined();
        let mut qkv = self.linear(i, &qkv)?;
        if let Qkv::ByHead(_) = names.qkv {
            qkv = (self.by_head(&qkv.0)?, self.by_head(&qkv.1)?);
        }
        let query_key_norms = match names.query_key_norms {
            Some([query, key]) if !(names.lenient && !self.has(&self.name(i, query))) => {
                let gain = |name: &str| -> Result<Tensor> {
                    let name = format!("{}.weight", self.name(i, name));
                    self.expect(&name, &[Some(self.architecture.head)])?;
                    self.raw(&name)? + f64::from(self.architecture.gain_offset)
                };
                Some(Tensor::stack(&[gain(query)?, gain(key)?], 0)?.to_device(&self.device)?)
            }
            _ => None,
        };
        let dense = |(weight, bias): Linear| Dense::new(&weight, &bias, self.precision);
        Ok(Block {
            before_attention: norm(names.before_attention)?,
            qkv: dense(qkv)?,
            query_key_norms,
            attention: dense(self.linear(i, &[(names.attention, self.architecture.width)])?)?,
            after_attention: norm(names.after_attention)?,
            before_mlp: norm(names.before_mlp)?,
            inner: dense(self.linear(i, &inner)?)?,
            outer: dense(self.linear(i, &[(names.outer, self.architecture.width)])?)?,
            after_mlp: norm(names.after_mlp)?,
        })
    }

    /// Rows in the order head, (query, key, value) brought to the order (query, key, value), head.
    fn by_head(&self, x: &Tensor) -> Result<Tensor> {
        let Heads { n_heads, head, .. } = self.heads();
        let shape = x.dims().to_vec();
        let x = x.reshape((n_heads, 3, head, x.elem_count() / (n_heads * 3 * head)))?;
        x.transpose(0, 1)?.contiguous()?.reshape(shape)
    }

    fn block(&self, i: usize) -> Result<&Block> {
        if let Some(block) = self.blocks[i].get() {
            return Ok(block);
        }
        // Two threads may load it at once; one of the two stays.
        let block = self.load_block(i)?;
        Ok(self.blocks[i].get_or_init(|| block))
    }

    /// Says what is wrong with a hook point that the model does not have, though it has the block.
    pub(super) fn missing(&self, hook: Hook) -> Option<&'static str> {
        let parallel = self.architecture.order == Order::Parallel;
        (hook.site() == Site::Middle && parallel)
            .then_some("its blocks run attention and MLP side by side, so there is no residual stream between them")
    }

    fn embed(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor> {
        let a = &self.architecture;
        let words = self.weights.rows(&format!("{}{}.weight", self.prefix, a.names.words), ids)?;
        let mut x = Tensor::from_vec(words, (ids.len(), a.width), &self.device)?;
        if a.embedding_scale != 1.0 {
            x = (x * f64::from(a.embedding_scale))?;
        }
        if let Some(positions) = &self.positions {
            let rows: Vec<u32> =
                lengths.iter().flat_map(|&n| 0..n).map(|position| (a.first_position + position) as u32).collect();
            x = (x + positions.index_select(&Tensor::new(rows.as_slice(), &self.device)?, 0)?)?;
        }
        if let Some(types) = &self.types {
            x = x.broadcast_add(types)?;
        }
        match &self.embedding_norm {
            Some(gain_shift) => norm(&x, gain_shift, a.norm, a.epsilon),
            None => Ok(x),
        }
    }

    /// States of packed windows at the hooks `wanted` (ascending), each `[ids.len(), width of the hook]`. `lengths` are the
    /// windows' lengths; nothing is padded and no window sees another. What lies behind the last wanted hook is not run.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, a window is longer than the model's positions, or a tensor cannot be read.
    pub(super) fn forward(&self, ids: &[u32], lengths: &[usize], wanted: &[Hook]) -> Result<Vec<Tensor>> {
        let a = &self.architecture;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if (self.positions.is_some() || self.distances.is_some()) && longest > a.max_positions {
            bail!("a window of {longest} tokens, but the model has {} positions", a.max_positions);
        }
        let rotations: Vec<Rotation> = a
            .rotary
            .iter()
            .map(|rotary| Rotation::new(longest, &rotary.frequencies, rotary.factor, rotary.interleaved))
            .collect();
        // The part of the table of distances that windows of this length use.
        let bias: Option<Vec<f32>> = self.distances.as_ref().map(|all| {
            let n = all.len() / a.n_heads;
            let middle = n / 2;
            all.chunks_exact(n).flat_map(|of_head| &of_head[middle + 1 - longest..middle + longest]).copied().collect()
        });
        let heads = self.heads();
        let norm = |x: &Tensor, gain_shift: &Option<Tensor>| match gain_shift {
            Some(gain_shift) => norm(x, gain_shift, a.norm, a.epsilon),
            None => Ok(x.clone()),
        };
        let mut states = Vec::with_capacity(wanted.len());
        // Takes `x` if it is wanted; says whether it was the last that is.
        let mut take = |hook: Hook, x: &Tensor| {
            if wanted.contains(&hook) {
                states.push(x.clone());
            }
            states.len() == wanted.len()
        };
        let mut x = self.embed(ids, lengths)?;
        let mut done = take(Hook::residual(0), &x);
        for (i, kind) in a.blocks.iter().enumerate() {
            if done {
                return Ok(states);
            }
            let block = self.block(i)?;
            let read = norm(&x, &block.before_attention)?;
            let qkv = block.qkv.forward(&read, false)?;
            let rotation = kind.rotary.map(|at| &rotations[at]);
            let qkv = prepare(&qkv, block.query_key_norms.as_ref(), a.epsilon, lengths, heads, rotation)?;
            let bias = bias.as_deref();
            let attention = Attention { lengths, heads, sight: kind.sight, scale: a.scale, cap: a.cap, bias };
            let attended = attend(&qkv, attention)?;
            if take(Hook::new(Site::Heads, i), &attended) {
                return Ok(states);
            }
            let mut attended = block.attention.forward(&attended, false)?;
            let mlp_in = match (a.order, &block.after_attention) {
                (Order::After, Some(gain_shift)) => {
                    take(Hook::new(Site::Attention, i), &attended);
                    x = self.add_norm(&attended, &x, gain_shift)?;
                    take(Hook::new(Site::Middle, i), &x);
                    x.clone()
                }
                (Order::Parallel, _) => {
                    take(Hook::new(Site::Attention, i), &attended);
                    match &block.before_mlp {
                        Some(_) => norm(&x, &block.before_mlp)?,
                        None => read,
                    }
                }
                _ => {
                    attended = norm(&attended, &block.after_attention)?;
                    take(Hook::new(Site::Attention, i), &attended);
                    x = (x + &attended)?;
                    take(Hook::new(Site::Middle, i), &x);
                    norm(&x, &block.before_mlp)?
                }
            };
            if take(Hook::new(Site::MlpIn, i), &mlp_in) {
                return Ok(states);
            }
            let inner = block.inner.forward(&mlp_in, false)?;
            let inner = activate(&inner, a.activation, self.gated)?;
            let mut outer = block.outer.forward(&inner, false)?;
            x = match (a.order, &block.after_mlp) {
                (Order::After, Some(gain_shift)) => {
                    take(Hook::new(Site::Mlp, i), &outer);
                    self.add_norm(&outer, &x, gain_shift)?
                }
                (order, after) => {
                    outer = norm(&outer, after)?;
                    take(Hook::new(Site::Mlp, i), &outer);
                    if order == Order::Parallel {
                        x = (x + &attended)?;
                    }
                    (x + &outer)?
                }
            };
            done = take(Hook::residual(i + 1), &x);
        }
        if !done {
            take(Hook::FINAL, &norm(&x, &self.final_norm)?);
        }
        Ok(states)
    }

    fn add_norm(&self, x: &Tensor, residual: &Tensor, gain_shift: &Tensor) -> Result<Tensor> {
        let a = &self.architecture;
        match a.norm {
            NormKind::Layer => add_norm(x, residual, gain_shift, a.epsilon),
            NormKind::Rms => norm(&(x + residual)?, gain_shift, a.norm, a.epsilon),
        }
    }
}
