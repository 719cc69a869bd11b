//! From hidden states to sparse activations.

use super::Sae;
use crate::options::Precision;
use crate::reader::packed::{Finish, Packed};
use crate::reader::simd::{self, MatMul, multiversion};

/// Rows whose latents are computed densely at once: the dense matrix is never larger than this times the width.
const BLOCK_ROWS: usize = 192;

/// Sparse activations of several rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct SparseRows {
    /// Where each row begins in the other two, and the end of the last: one more than there are rows.
    offsets: Vec<usize>,
    latents: Vec<u32>,
    activations: Vec<f32>,
}

impl SparseRows {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Latents of row `i`, ascending, and their activations.
    pub(crate) fn row(&self, i: usize) -> (&[u32], &[f32]) {
        let range = self.offsets[i]..self.offsets[i + 1];
        (&self.latents[range.clone()], &self.activations[range])
    }

    /// Adds rows `range` of `other`.
    pub(crate) fn extend(&mut self, other: &Self, range: std::ops::Range<usize>) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        for i in range {
            let (latents, activations) = other.row(i);
            self.latents.extend_from_slice(latents);
            self.activations.extend_from_slice(activations);
            self.offsets.push(self.latents.len());
        }
    }

    /// Adds a row of latents (ascending) and activations.
    #[cfg(test)]
    pub(crate) fn push(&mut self, row: &[(u32, f32)]) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.latents.extend(row.iter().map(|&(latent, _)| latent));
        self.activations.extend(row.iter().map(|&(_, activation)| activation));
        self.offsets.push(self.latents.len());
    }

    fn clear(&mut self) {
        self.offsets.clear();
        self.offsets.push(0);
        self.latents.clear();
        self.activations.clear();
    }
}

/// What encoding needs between calls, so that it allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct EncodeScratch {
    dense: Vec<f32>,
    found: Vec<(f32, u32)>,
    reconstruction: Vec<f32>,
}

multiversion! {
    /// Pushes `(activation, latent)` for every `products + bias > threshold`.
    pub(super) fn above(products: &[f32], bias: &[f32], threshold: f32, found: &mut Vec<(f32, u32)>) {
        const LANES: usize = 32;
        let (product_chunks, product_rest) = products.as_chunks::<LANES>();
        let (bias_chunks, bias_rest) = bias.as_chunks::<LANES>();
        for (i, (products, bias)) in product_chunks.iter().zip(bias_chunks).enumerate() {
            let mut values = [0.0; LANES];
            for ((value, product), bias) in values.iter_mut().zip(products).zip(bias) {
                *value = product + bias;
            }
            let hits: u32 = values.iter().map(|&value| u32::from(value > threshold)).sum();
            if hits > 0 {
                for (j, &value) in values.iter().enumerate() {
                    if value > threshold {
                        found.push((value, (i * LANES + j) as u32));
                    }
                }
            }
        }
        let done = product_chunks.len() * LANES;
        for (j, (product, bias)) in product_rest.iter().zip(bias_rest).enumerate() {
            if product + bias > threshold {
                found.push((product + bias, (done + j) as u32));
            }
        }
    }
}

multiversion! {
    fn center_and_scale(rows: &mut [f32], mean: &[f32], scale: f32, unit: bool) {
        for row in rows.chunks_exact_mut(mean.len()) {
            for (value, mean) in row.iter_mut().zip(mean) {
                *value -= mean;
            }
            let factor = if unit { scale / simd::dot(row, row).sqrt().max(1e-12) } else { scale };
            for value in row.iter_mut() {
                *value *= factor;
            }
        }
    }
}

/// Centres rows on `mean`, makes them of length 1 if `unit`, and multiplies them by `scale`.
pub(super) fn normalize(rows: &mut [f32], mean: &[f32], scale: f32, unit: bool) {
    center_and_scale(rows, mean, scale, unit);
}

multiversion! {
    /// Squared distance of `row` from `bias + sum(activation * decoder row)`, which is left in `reconstruction`.
    fn squared_residual(
        row: &[f32],
        bias: &[f32],
        decoder: &[f32],
        latents: &[u32],
        activations: &[f32],
        reconstruction: &mut Vec<f32>,
    ) -> f32 {
        reconstruction.clear();
        reconstruction.extend_from_slice(bias);
        for (&latent, &activation) in latents.iter().zip(activations) {
            let from = latent as usize * row.len();
            simd::axpy(activation, &decoder[from..from + row.len()], reconstruction);
        }
        simd::axpy(-1.0, row, reconstruction);
        simd::dot(reconstruction, reconstruction)
    }
}

multiversion! {
    fn squared_length(row: &[f32]) -> f32 {
        simd::dot(row, row)
    }
}

impl Sae {
    /// Brings hidden states (`[rows, input width]`) into the dictionary's space, in place.
    pub(crate) fn normalize(&self, rows: &mut [f32]) {
        normalize(rows, &self.mean, self.spec.scale, self.spec.unit);
    }

    /// Sparse activations of normalised rows: those above the learned threshold, and of these the strongest
    /// [`Sae::cap`] of each row.
    pub(crate) fn encode_rows(&self, rows: &[f32], scratch: &mut EncodeScratch, out: &mut SparseRows) {
        self.encode_rows_with(None, rows, scratch, out);
    }

    /// The encoder's weights, for [`Self::encode_rows_with`].
    pub(crate) fn pack(&self, precision: Precision) -> Packed {
        Packed::new(&self.encoder, self.width(), self.mean.len(), precision)
    }

    /// The same with weights that were packed before, in their precision.
    pub(crate) fn encode_rows_with(
        &self,
        packed: Option<&Packed>,
        rows: &[f32],
        scratch: &mut EncodeScratch,
        out: &mut SparseRows,
    ) {
        let (width, inputs) = (self.width(), self.mean.len());
        out.clear();
        for block in rows.chunks(BLOCK_ROWS * inputs) {
            let n = block.len() / inputs;
            match packed {
                Some(packed) => packed.apply_to(block, Finish::Product, &mut scratch.dense),
                None => {
                    scratch.dense.resize(n * width, 0.0);
                    MatMul::linear(n, width, inputs).run(block, &self.encoder, &mut scratch.dense);
                }
            }
            for products in scratch.dense.chunks_exact(width) {
                let found = &mut scratch.found;
                found.clear();
                above(products, &self.encoder_bias, self.spec.threshold, found);
                if found.len() > self.spec.cap {
                    // Equal activations: the lower latent first, so that the choice does not depend on the order.
                    found.select_nth_unstable_by(self.spec.cap, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                    found.truncate(self.spec.cap);
                    found.sort_unstable_by_key(|&(_, latent)| latent);
                }
                out.latents.extend(found.iter().map(|&(_, latent)| latent));
                out.activations.extend(found.iter().map(|&(activation, _)| activation));
                out.offsets.push(out.latents.len());
            }
        }
    }

    /// Squared error of the reconstruction of normalised rows `range`, and their squared length: their quotient is the
    /// fraction of variance unexplained.
    pub(crate) fn unexplained(
        &self,
        rows: &[f32],
        sparse: &SparseRows,
        range: std::ops::Range<usize>,
        scratch: &mut EncodeScratch,
    ) -> (f64, f64) {
        let inputs = self.mean.len();
        let (mut residual, mut total) = (0.0, 0.0);
        for i in range {
            let row = &rows[i * inputs..(i + 1) * inputs];
            let (latents, activations) = sparse.row(i);
            let reconstruction = &mut scratch.reconstruction;
            let error = squared_residual(row, &self.decoder_bias, &self.decoder, latents, activations, reconstruction);
            residual += f64::from(error);
            total += f64::from(squared_length(row));
        }
        (residual, total)
    }
}
