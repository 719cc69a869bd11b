//! Operations of the general transformer on packed tokens: norms, rotary positions, attention with groups of heads,
//! windows and soft caps, and activations.
//!
//! As in [`super::ops`], each has a kernel for the CPU, which runs on the calling thread, and the same formula in candle's
//! own operations, which serves other devices and is what the tests compare with.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor, bail};

use super::ops::{has_kernels, values};
use super::simd::{self, MatMul, multiversion};

/// Function between the two matrices of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    /// `x * P(N(0, 1) <= x)`.
    Gelu,
    /// The same by the formula with tanh.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + simd::exp(-x))
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // 0.5 * (1 + tanh(u)) is sigmoid(2 u).
    x * sigmoid(1.595_769_1 * (x + 0.044_715 * x * x * x))
}

/// `activation(x)` for `x: [tokens, inner]`, or `activation(gate) * up` for `gate | up: [tokens, 2 * inner]`.
struct Activate {
    activation: Activation,
    gated: bool,
}

/// See [`Activate`]; returns `[tokens, inner]`.
pub(super) fn activate(x: &Tensor, activation: Activation, gated: bool) -> Result<Tensor> {
    if has_kernels(x) {
        return x.apply_op1_no_bwd(&Activate { activation, gated });
    }
    let inner = x.dim(1)? / if gated { 2 } else { 1 };
    let gate = x.narrow(1, 0, inner)?;
    let y = match activation {
        Activation::Gelu => gate.gelu_erf(),
        Activation::GeluTanh => gate.gelu(),
        Activation::QuickGelu => &gate * candle_nn::ops::sigmoid(&(&gate * 1.702)?)?,
        Activation::Silu => gate.silu(),
        Activation::Relu => gate.relu(),
    }?;
    if gated { y * x.narrow(1, inner, inner)? } else { Ok(y) }
}

multiversion! {
    fn activate_rows(x: &[f32], activation: Activation, gated: bool, inner: usize, out: &mut [f32]) {
        let stride = if gated { 2 * inner } else { inner };
        for (out, x) in out.chunks_exact_mut(inner).zip(x.chunks_exact(stride)) {
            let (gate, up) = x.split_at(inner);
            // One loop each, so that the compiler makes vectors of it.
            match activation {
                Activation::Gelu => out.iter_mut().zip(gate).for_each(|(y, &x)| *y = simd::gelu(x)),
                Activation::GeluTanh => out.iter_mut().zip(gate).for_each(|(y, &x)| *y = gelu_tanh(x)),
                Activation::QuickGelu => out.iter_mut().zip(gate).for_each(|(y, &x)| *y = x * sigmoid(1.702 * x)),
                Activation::Silu => out.iter_mut().zip(gate).for_each(|(y, &x)| *y = x * sigmoid(x)),
                Activation::Relu => out.iter_mut().zip(gate).for_each(|(y, &x)| *y = x.max(0.0)),
            }
            if gated {
                out.iter_mut().zip(up).for_each(|(y, &up)| *y *= up);
            }
        }
    }
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, columns) = layout.shape().dims2()?;
        let inner = columns / if self.gated { 2 } else { 1 };
        let mut out = vec![0.0; tokens * inner];
        activate_rows(values("activate", x, layout)?, self.activation, self.gated, inner, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((tokens, inner))))
    }
}

/// How a norm brings a state to unit scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormKind {
    /// Subtracts the mean, divides by the standard deviation.
    Layer,
    /// Divides by the root mean square.
    Rms,
}

/// `norm(x) * gain + shift`; `x: [tokens, width]`, `gain_shift: [2, width]`.
struct Norm {
    kind: NormKind,
    epsilon: f32,
}

/// See [`Norm`].
pub(super) fn norm(x: &Tensor, gain_shift: &Tensor, kind: NormKind, epsilon: f32) -> Result<Tensor> {
    if has_kernels(x) {
        return x.apply_op2_no_bwd(gain_shift, &Norm { kind, epsilon });
    }
    let gain = gain_shift.get(0)?;
    match kind {
        NormKind::Layer => candle_nn::ops::layer_norm_slow(x, &gain, &gain_shift.get(1)?, epsilon),
        NormKind::Rms => candle_nn::ops::rms_norm_slow(x, &gain, epsilon),
    }
}

multiversion! {
    fn normalize(x: &[f32], kind: NormKind, gain: &[f32], shift: &[f32], epsilon: f32, out: &mut [f32]) {
        let width = gain.len();
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let mean = if kind == NormKind::Layer { simd::sum(x) / width as f32 } else { 0.0 };
            for (value, x) in out.iter_mut().zip(x) {
                *value = x - mean;
            }
            let factor = 1.0 / (simd::dot(out, out) / width as f32 + epsilon).sqrt();
            for ((value, gain), shift) in out.iter_mut().zip(gain).zip(shift) {
                *value = *value * factor * gain + shift;
            }
        }
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gain_shift: &CpuStorage,
        gain_shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = x_layout.shape().dims2()?;
        let x = values("norm", x, x_layout)?;
        let gain_shift = values("norm", gain_shift, gain_shift_layout)?;
        if gain_shift.len() != 2 * width {
            bail!("norm: states of {width} values, but {} of gain and shift", gain_shift.len());
        }
        let (gain, shift) = gain_shift.split_at(width);
        let mut out = vec![0.0; x.len()];
        normalize(x, self.kind, gain, shift, self.epsilon, &mut out);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

/// How queries, keys and values lie beside each other in a row: `n_heads` queries, then `n_kv_heads` keys, then as many
/// values, of `head` numbers each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head: usize,
}

impl Heads {
    /// Width of a row.
    pub(super) fn row(self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head
    }
}

/// Cosines and sines of rotary positions (Su et al. 2021, arXiv:2104.09864), `[positions, n / 2]` of `n` rotated numbers.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Half the numbers of a head that are rotated; the others stay.
    half: usize,
    /// Whether neighbours are rotated together, instead of numbers half the rotated part apart.
    interleaved: bool,
}

impl Rotation {
    /// For positions `0..n`; `frequencies` are radians a position, `factor` multiplies what is rotated.
    pub(super) fn new(n: usize, frequencies: &[f32], factor: f32, interleaved: bool) -> Self {
        let angles = || (0..n).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        Self {
            cos: angles().map(|angle| angle.cos() * factor).collect(),
            sin: angles().map(|angle| angle.sin() * factor).collect(),
            half: frequencies.len(),
            interleaved,
        }
    }
}

/// Norm of each head's query and key, then rotation by position.
struct Prepare<'a> {
    lengths: &'a [usize],
    heads: Heads,
    rotation: Option<&'a Rotation>,
    epsilon: f32,
}

/// See [`Prepare`]; `qkv: [tokens, row]` of packed windows, `gains: [2, head]` those of queries and keys, if they are
/// normalised (by root mean square).
pub(super) fn prepare(
    qkv: &Tensor,
    gains: Option<&Tensor>,
    epsilon: f32,
    lengths: &[usize],
    heads: Heads,
    rotation: Option<&Rotation>,
) -> Result<Tensor> {
    if has_kernels(qkv) {
        let op = Prepare { lengths, heads, rotation, epsilon };
        return match gains {
            Some(gains) => qkv.apply_op2_no_bwd(gains, &op),
            None if rotation.is_some() => qkv.apply_op1_no_bwd(&op),
            None => Ok(qkv.clone()),
        };
    }
    prepare_by_part(qkv, gains, epsilon, lengths, heads, rotation)
}

/// The same in candle's operations.
fn prepare_by_part(
    qkv: &Tensor,
    gains: Option<&Tensor>,
    epsilon: f32,
    lengths: &[usize],
    heads: Heads,
    rotation: Option<&Rotation>,
) -> Result<Tensor> {
    let Heads { n_heads, n_kv_heads, head } = heads;
    let (tokens, row) = qkv.dims2()?;
    let part = |i: usize, from: usize, n: usize| -> Result<Tensor> {
        let mut x = qkv.narrow(1, from * head, n * head)?.reshape((tokens, n, head))?.contiguous()?;
        if let Some(gains) = gains {
            x = candle_nn::ops::rms_norm_slow(&x, &gains.get(i)?, epsilon)?;
        }
        let Some(rotation) = rotation else { return x.reshape((tokens, n * head)) };
        let half = rotation.half;
        let table = |values: &[f32]| -> Result<Tensor> {
            let rows: Vec<f32> = lengths.iter().flat_map(|&n| values[..n * half].iter().copied()).collect();
            Tensor::from_vec(rows, (tokens, 1, half), qkv.device())
        };
        let (cos, sin) = (table(&rotation.cos)?, table(&rotation.sin)?);
        let turned = x.narrow(2, 0, 2 * half)?;
        let (a, b) = if rotation.interleaved {
            let pairs = turned.reshape((tokens, n, half, 2))?;
            (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
        } else {
            (turned.narrow(2, 0, half)?, turned.narrow(2, half, half)?)
        };
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let turned = if rotation.interleaved {
            Tensor::stack(&[&first, &second], 3)?.reshape((tokens, n, 2 * half))?
        } else {
            Tensor::cat(&[&first, &second], 2)?
        };
        let rest = x.narrow(2, 2 * half, head - 2 * half)?;
        Tensor::cat(&[&turned, &rest], 2)?.reshape((tokens, n * head))
    };
    let (queries, keys) = (part(0, 0, n_heads)?, part(1, n_heads, n_kv_heads)?);
    let values_at = (n_heads + n_kv_heads) * head;
    Tensor::cat(&[&queries, &keys, &qkv.narrow(1, values_at, row - values_at)?], 1)
}

multiversion! {
    /// Rotates one head in place.
    fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], interleaved: bool) {
        let half = cos.len();
        if interleaved {
            for ((pair, cos), sin) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                let [a, b] = *pair;
                *pair = [a * cos - b * sin, b * cos + a * sin];
            }
        } else {
            let (first, second) = x.split_at_mut(half);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let (x, y) = (*a, *b);
                *a = x * cos - y * sin;
                *b = y * cos + x * sin;
            }
        }
    }
}

impl Prepare<'_> {
    fn run(&self, qkv: &CpuStorage, layout: &Layout, gains: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let (tokens, row) = layout.shape().dims2()?;
        let Heads { n_heads, n_kv_heads, head } = self.heads;
        if row != self.heads.row() || self.lengths.iter().sum::<usize>() != tokens {
            bail!("prepare: [{tokens}, {row}] given, windows of {:?} and {:?} expected", self.lengths, self.heads);
        }
        let mut out = values("prepare", qkv, layout)?.to_vec();
        let zeros = vec![0.0; head];
        let mut buffer = vec![0.0; head];
        let positions = self.lengths.iter().flat_map(|&length| 0..length);
        for (row, position) in out.chunks_exact_mut(row).zip(positions) {
            for (i, x) in row.chunks_exact_mut(head).take(n_heads + n_kv_heads).enumerate() {
                if let Some(gains) = gains {
                    let gain = if i < n_heads { &gains[..head] } else { &gains[head..] };
                    normalize(x, NormKind::Rms, gain, &zeros, self.epsilon, &mut buffer);
                    x.copy_from_slice(&buffer);
                }
                if let Some(rotation) = self.rotation {
                    let at = position * rotation.half..(position + 1) * rotation.half;
                    let turned = &mut x[..2 * rotation.half];
                    rotate(turned, &rotation.cos[at.clone()], &rotation.sin[at], rotation.interleaved);
                }
            }
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

impl CustomOp1 for Prepare<'_> {
    fn name(&self) -> &'static str {
        "prepare"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(qkv, layout, None)
    }
}

impl CustomOp2 for Prepare<'_> {
    fn name(&self) -> &'static str {
        "prepare"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        layout: &Layout,
        gains: &CpuStorage,
        gains_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(qkv, layout, Some(values("prepare", gains, gains_layout)?))
    }
}

/// What a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// Whether only itself and what comes before.
    pub(super) causal: bool,
    /// Tokens to either side, itself not counted; all if `None`.
    pub(super) reach: Option<usize>,
}

impl Sight {
    /// Positions that the token at `position` of a window of `length` tokens sees.
    fn of(self, position: usize, length: usize) -> Range<usize> {
        let start = self.reach.map_or(0, |reach| position.saturating_sub(reach));
        let end = if self.causal { position + 1 } else { self.reach.map_or(length, |reach| position + reach + 1) };
        start..end.min(length)
    }
}

/// Attention of packed windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention<'a> {
    /// Lengths of the windows; their sum is the number of tokens.
    pub(super) lengths: &'a [usize],
    pub(super) heads: Heads,
    pub(super) sight: Sight,
    /// Factor of the scores.
    pub(super) scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub(super) cap: Option<f32>,
    /// Added to the scores: row-major `[n_heads, 2 * n - 1]`, the value for a key `d` positions behind the query
    /// at `n - 1 + d`.
    pub(super) bias: Option<&'a [f32]>,
}

/// Attention on `qkv: [tokens, row]`; returns the heads' weighted values, `[tokens, n_heads * head]`.
pub(super) fn attend(qkv: &Tensor, attention: Attention<'_>) -> Result<Tensor> {
    if has_kernels(qkv) { qkv.apply_op1_no_bwd(&attention) } else { attention.by_window(qkv) }
}

/// Queries whose scores are computed at once where tokens do not see all others.
const QUERIES: usize = 64;

multiversion! {
    /// Replaces the part `seen` of a row of scores by `exp(score - max)`, the rest by 0; returns 1 / (the sum).
    fn weigh(row: &mut [f32], start: usize, end: usize, cap: f32) -> f32 {
        row[..start].fill(0.0);
        row[end..].fill(0.0);
        let seen = &mut row[start..end];
        if cap > 0.0 {
            let inverse = 1.0 / cap;
            for value in seen.iter_mut() {
                *value = cap * tanh(*value * inverse);
            }
        }
        let max = simd::max(seen);
        for value in seen.iter_mut() {
            *value = simd::exp(*value - max);
        }
        1.0 / simd::sum(seen)
    }
}

impl Attention<'_> {
    fn bias_of(&self, head: usize) -> Option<(&[f32], usize)> {
        let bias = self.bias?;
        let n = bias.len() / self.heads.n_heads;
        Some((&bias[head * n..(head + 1) * n], n / 2))
    }

    /// The same in candle's operations, one window at a time.
    fn by_window(&self, qkv: &Tensor) -> Result<Tensor> {
        let Heads { n_heads, n_kv_heads, head } = self.heads;
        let mut outputs = Vec::with_capacity(self.lengths.len());
        let mut start = 0;
        for &length in self.lengths {
            let part = |from: usize, n: usize| -> Result<Tensor> {
                let part = qkv.narrow(0, start, length)?.narrow(1, from * head, n * head)?;
                let part = part.reshape((length, n, head))?.transpose(0, 1)?.contiguous()?;
                let repeat = n_heads / n;
                part.unsqueeze(1)?.broadcast_as((n, repeat, length, head))?.reshape((n_heads, length, head))
            };
            let (q, k, v) = (part(0, n_heads)?, part(n_heads, n_kv_heads)?, part(n_heads + n_kv_heads, n_kv_heads)?);
            let mut scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(self.scale))?;
            if let Some(cap) = self.cap {
                scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
            }
            // Without a bias all heads see the same.
            let n_masks = if self.bias.is_some() { n_heads } else { 1 };
            let mut mask = vec![f32::NEG_INFINITY; n_masks * length * length];
            for h in 0..n_masks {
                for i in 0..length {
                    for j in self.sight.of(i, length) {
                        let bias = self.bias_of(h).map_or(0.0, |(bias, middle)| bias[middle + j - i]);
                        mask[(h * length + i) * length + j] = bias;
                    }
                }
            }
            let mask = Tensor::from_vec(mask, (n_masks, length, length), qkv.device())?;
            let scores = scores.broadcast_add(&mask)?;
            let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
            outputs.push(weights.matmul(&v)?.transpose(0, 1)?.reshape((length, n_heads * head))?);
            start += length;
        }
        Tensor::cat(&outputs, 0)
    }
}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, row) = layout.shape().dims2()?;
        let Heads { n_heads, n_kv_heads, head } = self.heads;
        if row != self.heads.row() || self.lengths.iter().sum::<usize>() != tokens {
            bail!("attend: [{tokens}, {row}] given, windows of {:?} and {:?} expected", self.lengths, self.heads);
        }
        let qkv = values("attend", qkv, layout)?;
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let all = !self.sight.causal && self.sight.reach.is_none();
        let queries = if all { longest } else { QUERIES.min(longest) };
        let mut scores = vec![0.0; queries * longest];
        let width = n_heads * head;
        let mut out = vec![0.0; tokens * width];
        let mut inverse_sums = vec![0.0; queries];
        let mut start = 0;
        for &length in self.lengths {
            for h in 0..n_heads {
                let kv = h / (n_heads / n_kv_heads);
                for first in (0..length).step_by(queries.max(1)) {
                    let last = (first + queries).min(length) - 1;
                    // What any of these queries sees; the ranges move to the right together.
                    let seen = self.sight.of(first, length).start..self.sight.of(last, length).end;
                    let (m, n) = (last + 1 - first, seen.len());
                    let scores = &mut scores[..m * n];
                    let at = |token: usize, column: usize| &qkv[(start + token) * row + column * head..];
                    let product = MatMul {
                        m,
                        n,
                        k: head,
                        a_stride: row,
                        b_stride: row,
                        out_stride: n,
                        transposed: true,
                        scale: self.scale,
                    };
                    product.run(at(first, h), at(seen.start, n_heads + kv), scores);
                    for (i, row) in scores.chunks_exact_mut(n).enumerate() {
                        let position = first + i;
                        let own = self.sight.of(position, length);
                        if let Some((bias, middle)) = self.bias_of(h) {
                            let bias = &bias[middle + seen.start - position..];
                            row.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
                        }
                        let (from, to) = (own.start - seen.start, own.end - seen.start);
                        inverse_sums[i] = weigh(row, from, to, self.cap.unwrap_or(0.0));
                    }
                    let out = &mut out[(start + first) * width + h * head..];
                    MatMul { n: head, k: n, a_stride: n, out_stride: width, transposed: false, scale: 1.0, ..product }
                        .run(scores, at(seen.start, n_heads + n_kv_heads + kv), out);
                    for (row, inverse) in out.chunks_mut(width).zip(&inverse_sums[..m]) {
                        row[..head].iter_mut().for_each(|value| *value *= inverse);
                    }
                }
            }
            start += length;
        }
        Ok((CpuStorage::F32(out), Shape::from((tokens, width))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::tests::{distance, random};

    #[test]
    fn activations_agree_with_candle() {
        let x = random(7, 40);
        let (gate, up) = (x.narrow(1, 0, 20).unwrap(), x.narrow(1, 20, 20).unwrap());
        for (activation, want) in [
            (Activation::Gelu, gate.gelu_erf().unwrap()),
            (Activation::GeluTanh, gate.gelu().unwrap()),
            (Activation::Silu, gate.silu().unwrap()),
            (Activation::Relu, gate.relu().unwrap()),
        ] {
            let got = activate(&gate.contiguous().unwrap(), activation, false).unwrap();
            assert!(distance(&got, &want) < 2e-6, "{activation:?}");
            let got = activate(&x, activation, true).unwrap();
            assert!(distance(&got, &(want * &up).unwrap()) < 1e-5, "{activation:?}");
        }
    }

    #[test]
    fn norms_agree_with_candle() {
        let (x, gain_shift) = (random(5, 24), random(2, 24));
        let (gain, shift) = (gain_shift.get(0).unwrap(), gain_shift.get(1).unwrap());
        let want = candle_nn::ops::layer_norm_slow(&x, &gain, &shift, 1e-5).unwrap();
        assert!(distance(&norm(&x, &gain_shift, NormKind::Layer, 1e-5).unwrap(), &want) < 1e-5);
        let rms = Tensor::stack(&[gain.clone(), gain.zeros_like().unwrap()], 0).unwrap();
        let want = candle_nn::ops::rms_norm_slow(&x, &gain, 1e-5).unwrap();
        assert!(distance(&norm(&x, &rms, NormKind::Rms, 1e-5).unwrap(), &want) < 1e-5);
        assert!(norm(&x, &random(2, 12), NormKind::Rms, 1e-5).is_err());
    }

    #[test]
    fn preparing_queries_and_keys_agrees_with_candle() {
        let heads = Heads { n_heads: 4, n_kv_heads: 2, head: 16 };
        let lengths = [5, 1, 9];
        let (qkv, gains) = (random(15, heads.row()), random(2, 16));
        for interleaved in [false, true] {
            let rotation = Rotation::new(9, &[1.0, 0.3, 0.1, 0.01], 1.5, interleaved);
            for gains in [None, Some(&gains)] {
                let got = prepare(&qkv, gains, 1e-6, &lengths, heads, Some(&rotation)).unwrap();
                let want = prepare_by_part(&qkv, gains, 1e-6, &lengths, heads, Some(&rotation)).unwrap();
                assert!(distance(&got, &want) < 1e-5, "interleaved {interleaved}");
                assert!(distance(&got, &qkv) > 0.1);
            }
        }
    }

    #[test]
    fn attention_of_packed_windows_agrees_with_candle() {
        let heads = Heads { n_heads: 4, n_kv_heads: 2, head: 8 };
        let lengths = [5, 1, 150, 40];
        let qkv = random(196, heads.row());
        let bias = random(4, 2 * 150 - 1).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for causal in [false, true] {
            for reach in [None, Some(3), Some(70)] {
                for (cap, bias) in [(None, None), (Some(2.0), None), (None, Some(&bias[..]))] {
                    let sight = Sight { causal, reach };
                    let attention = Attention { lengths: &lengths, heads, sight, scale: 0.4, cap, bias };
                    let want = attention.by_window(&qkv).unwrap();
                    let apart = distance(&attend(&qkv, attention).unwrap(), &want);
                    assert!(apart < 1e-5, "{attention:?}: {apart}");
                }
            }
        }
        let short = Attention {
            lengths: &[5],
            heads,
            sight: Sight { causal: true, reach: None },
            scale: 1.0,
            cap: None,
            bias: None,
        };
        assert!(attend(&qkv, short).is_err());
    }
}
