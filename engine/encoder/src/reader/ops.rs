//! Fused operations on packed tokens: matrix product with bias and GELU, attention within windows, addition with layer
//! norm.
//!
//! Each has a kernel for the CPU, which runs on the calling thread, and the same formula in candle's own operations,
//! which serves other devices and is what the tests compare with.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, DType, Layout, Result, Shape, Storage, Tensor, bail};

use super::packed::{Finish, Packed};
use super::simd::{self, MatMul, multiversion};
use crate::options::Precision;

/// Whether the kernels for the CPU serve `x`.
pub(super) fn has_kernels(x: &Tensor) -> bool {
    // What other devices run is tested on the CPU.
    #[cfg(test)]
    if tests::AS_ON_A_DEVICE.get() {
        return false;
    }
    x.device().is_cpu()
}

/// Contiguous `f32` values of a CPU storage.
pub(super) fn values<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("{op}: expected a contiguous tensor, got strides {:?}", layout.stride()),
    }
}

/// A linear layer: `x W^T + b`, or its GELU, for `x: [tokens, in]`; `weight: [out, in]`, `bias: [out]`.
///
/// On the CPU the weights are packed once, in the precision asked for. On other devices candle multiplies in `f32`, of
/// bf16 after rounding both factors.
pub(super) enum Dense {
    Packed { weights: Packed, bias: Vec<f32> },
    Tensors { weight: Tensor, bias: Tensor, precision: Precision },
}

/// `x` as it is multiplied in a precision.
fn rounded(x: &Tensor, precision: Precision) -> Result<Tensor> {
    match precision {
        Precision::F32 => Ok(x.clone()),
        Precision::Bf16 => x.to_dtype(DType::BF16)?.to_dtype(DType::F32),
    }
}

impl Dense {
    pub(super) fn new(weight: &Tensor, bias: &Tensor, precision: Precision) -> Result<Self> {
        if !has_kernels(weight) {
            return Ok(Self::Tensors { weight: rounded(weight, precision)?, bias: bias.clone(), precision });
        }
        let (outputs, inputs) = weight.dims2()?;
        let bias = bias.to_vec1()?;
        if bias.len() != outputs {
            bail!("linear: weight is [{outputs}, {inputs}] but bias is [{}]", bias.len());
        }
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("linear: expected weights on the CPU") };
        let weights = Packed::new(values("linear", storage, layout)?, outputs, inputs, precision);
        Ok(Self::Packed { weights, bias })
    }

    pub(super) fn forward(&self, x: &Tensor, gelu: bool) -> Result<Tensor> {
        match self {
            Self::Packed { weights, bias } => x.apply_op1_no_bwd(&PackedLinear { weights, bias, gelu }),
            Self::Tensors { weight, bias, precision } => {
                let y = rounded(x, *precision)?.matmul(&weight.t()?)?.broadcast_add(bias)?;
                if gelu { y.gelu_erf() } else { Ok(y) }
            }
        }
    }
}

/// See [`Dense`].
struct PackedLinear<'a> {
    weights: &'a Packed,
    bias: &'a [f32],
    gelu: bool,
}

impl CustomOp1 for PackedLinear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, inputs) = layout.shape().dims2()?;
        if inputs != self.weights.k() {
            bail!("linear: x is [{tokens}, {inputs}] but weight is [{}, {}]", self.weights.n(), self.weights.k());
        }
        let finish = if self.gelu { Finish::BiasGelu(self.bias) } else { Finish::Bias(self.bias) };
        let out = self.weights.apply(values("linear", x, layout)?, finish);
        Ok((CpuStorage::F32(out), Shape::from((tokens, self.weights.n()))))
    }
}

/// Self-attention of packed windows: `qkv: [tokens, 3 * width]`, the windows' lengths sum to `tokens`.
struct Attention<'a> {
    lengths: &'a [usize],
    n_heads: usize,
}

/// See [`Attention`]; returns `[tokens, width]`.
pub(super) fn attention(qkv: &Tensor, lengths: &[usize], n_heads: usize) -> Result<Tensor> {
    if has_kernels(qkv) {
        return qkv.apply_op1_no_bwd(&Attention { lengths, n_heads });
    }
    attention_by_window(qkv, lengths, n_heads)
}

/// The same in candle's operations, one window at a time.
fn attention_by_window(qkv: &Tensor, lengths: &[usize], n_heads: usize) -> Result<Tensor> {
    let width = qkv.dim(1)? / 3;
    let head = width / n_heads;
    let mut outputs = Vec::with_capacity(lengths.len());
    let mut start = 0;
    for &length in lengths {
        let part = |i: usize| {
            let part = qkv.narrow(0, start, length)?.narrow(1, i * width, width)?;
            part.reshape((length, n_heads, head))?.transpose(0, 1)?.contiguous()
        };
        let scores = (part(0)?.matmul(&part(1)?.t()?)? * (1.0 / (head as f64).sqrt()))?;
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
        outputs.push(weights.matmul(&part(2)?)?.transpose(0, 1)?.reshape((length, width))?);
        start += length;
    }
    Tensor::cat(&outputs, 0)
}

multiversion! {
    /// Replaces each row of `scores` by `exp(row - max)` and writes 1 / (its sum) to `inverse_sums`.
    fn exponentiate(scores: &mut [f32], length: usize, inverse_sums: &mut [f32]) {
        for (row, inverse) in scores.chunks_exact_mut(length).zip(inverse_sums) {
            let max = simd::max(row);
            for value in row.iter_mut() {
                *value = simd::exp(*value - max);
            }
            *inverse = 1.0 / simd::sum(row);
        }
    }
}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width3) = layout.shape().dims2()?;
        let width = width3 / 3;
        let head = width / self.n_heads;
        if self.lengths.iter().sum::<usize>() != tokens {
            bail!("attention: windows of {} tokens in all, but {tokens} given", self.lengths.iter().sum::<usize>());
        }
        let qkv = values("attention", qkv, layout)?;
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let mut scores = vec![0.0; longest * longest];
        let mut inverse_sums = vec![0.0; longest];
        let mut out = vec![0.0; tokens * width];
        let scale = 1.0 / (head as f32).sqrt();
        let mut start = 0;
        for &length in self.lengths {
            let scores = &mut scores[..length * length];
            let inverse_sums = &mut inverse_sums[..length];
            for h in 0..self.n_heads {
                let at = |part: usize| &qkv[start * width3 + part * width + h * head..];
                let product = MatMul {
                    m: length,
                    n: length,
                    k: head,
                    a_stride: width3,
                    b_stride: width3,
                    out_stride: length,
                    transposed: true,
                    scale,
                };
                product.run(at(0), at(1), scores);
                exponentiate(scores, length, inverse_sums);
                let out = &mut out[start * width + h * head..];
                MatMul {
                    n: head,
                    k: length,
                    a_stride: length,
                    out_stride: width,
                    transposed: false,
                    scale: 1.0,
                    ..product
                }
                .run(scores, at(2), out);
                for (row, inverse) in out.chunks_mut(width).zip(inverse_sums.iter()) {
                    for value in &mut row[..head] {
                        *value *= inverse;
                    }
                }
            }
            start += length;
        }
        Ok((CpuStorage::F32(out), Shape::from((tokens, width))))
    }
}

/// `layer_norm(x + residual) * gain + shift`; `gain_shift: [2, width]`.
struct AddNorm {
    epsilon: f32,
}

/// See [`AddNorm`].
pub(super) fn add_norm(x: &Tensor, residual: &Tensor, gain_shift: &Tensor, epsilon: f32) -> Result<Tensor> {
    if has_kernels(x) {
        return x.apply_op3_no_bwd(residual, gain_shift, &AddNorm { epsilon });
    }
    candle_nn::ops::layer_norm_slow(&(x + residual)?, &gain_shift.get(0)?, &gain_shift.get(1)?, epsilon)
}

multiversion! {
    fn normalize_sum(x: &[f32], residual: &[f32], gain: &[f32], shift: &[f32], epsilon: f32, out: &mut [f32]) {
        let width = gain.len();
        let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(residual.chunks_exact(width));
        for ((out, x), residual) in rows {
            for ((out, x), residual) in out.iter_mut().zip(x).zip(residual) {
                *out = x + residual;
            }
            let mean = simd::sum(out) / width as f32;
            for value in out.iter_mut() {
                *value -= mean;
            }
            let factor = 1.0 / (simd::dot(out, out) / width as f32 + epsilon).sqrt();
            for ((value, gain), shift) in out.iter_mut().zip(gain).zip(shift) {
                *value = *value * factor * gain + shift;
            }
        }
    }
}

impl CustomOp3 for AddNorm {
    fn name(&self) -> &'static str {
        "add_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        gain_shift: &CpuStorage,
        gain_shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = x_layout.shape().dims2()?;
        let x = values("add_norm", x, x_layout)?;
        let residual = values("add_norm", residual, residual_layout)?;
        let gain_shift = values("add_norm", gain_shift, gain_shift_layout)?;
        if x.len() != residual.len() || gain_shift.len() != 2 * width {
            bail!("add_norm: {} values, {} to add, {} of gain and shift", x.len(), residual.len(), gain_shift.len());
        }
        let (gain, shift) = gain_shift.split_at(width);
        let mut out = vec![0.0; x.len()];
        normalize_sum(x, residual, gain, shift, self.epsilon, &mut out);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::reader::tests::{distance, random};

    thread_local! {
        /// Whether this thread takes candle's operations on the CPU too.
        pub(super) static AS_ON_A_DEVICE: Cell<bool> = const { Cell::new(false) };
    }

    /// What `work` gives with the operations that other devices run.
    pub(in crate::reader) fn as_on_a_device<T>(work: impl FnOnce() -> T) -> T {
        AS_ON_A_DEVICE.set(true);
        let result = work();
        AS_ON_A_DEVICE.set(false);
        result
    }

    #[test]
    fn linear_agrees_with_candle() {
        let (x, weight, bias) = (random(37, 48), random(24, 48), random(1, 24).get(0).unwrap());
        let want = x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        let dense = Dense::new(&weight, &bias, Precision::F32).unwrap();
        assert!(distance(&dense.forward(&x, false).unwrap(), &want) < 1e-4);
        assert!(distance(&dense.forward(&x, true).unwrap(), &want.gelu_erf().unwrap()) < 1e-4);
        assert!(dense.forward(&random(3, 47), false).is_err());
    }

    #[test]
    fn other_devices_round_to_bf16_as_the_kernels_do() {
        let (x, weight, bias) = (random(37, 48), random(24, 48), random(1, 24).get(0).unwrap());
        let product = || Dense::new(&weight, &bias, Precision::Bf16).unwrap().forward(&x, true).unwrap();
        let want = product();
        let got = as_on_a_device(product);
        assert!(distance(&got, &want) < 1e-4);
        let exact = Dense::new(&weight, &bias, Precision::F32).unwrap().forward(&x, true).unwrap();
        assert!(distance(&got, &exact) > 1e-3);
    }

    #[test]
    fn attention_of_packed_windows_agrees_with_candle() {
        let lengths = [5, 1, 17, 40];
        let qkv = random(63, 3 * 24);
        let want = attention_by_window(&qkv, &lengths, 3).unwrap();
        assert!(distance(&attention(&qkv, &lengths, 3).unwrap(), &want) < 1e-5);
        assert!(attention(&qkv, &[5, 1], 3).is_err());
    }

    #[test]
    fn add_norm_agrees_with_candle() {
        let (x, residual, gain_shift) = (random(9, 40), random(9, 40), random(2, 40));
        let sum = (&x + &residual).unwrap();
        let want =
            candle_nn::ops::layer_norm_slow(&sum, &gain_shift.get(0).unwrap(), &gain_shift.get(1).unwrap(), 1e-12);
        assert!(distance(&add_norm(&x, &residual, &gain_shift, 1e-12).unwrap(), &want.unwrap()) < 1e-5);
    }
}
