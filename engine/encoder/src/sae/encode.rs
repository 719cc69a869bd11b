//! From hidden states to sparse activations.

use std::ops::Range;

use super::pursuit::{Taken, largest};
use super::screen::{PackedEncoder, ScreenScratch};
use super::temporal::AttentionScratch;
use super::{Architecture, InputNormalization, Level, Sae};
use crate::error::{Error, ErrorKind, Result};
use crate::reader::packed::Finish;
use crate::reader::simd::{self, MatMul, multiversion};
use crate::reader::{BatchStates, PieceStates, TokenizedText, WindowStates};

/// Rows whose latents are computed densely at once: the dense matrix is never larger than this times the width.
const BLOCK_ROWS: usize = 192;
/// Values of the dense matrix at most (128 MB): of very wide dictionaries fewer rows are computed at once.
const BLOCK_VALUES: usize = 1 << 25;

/// Rows whose latents are computed at once in a dictionary of so many.
pub(super) fn block_rows(width: usize) -> usize {
    (BLOCK_VALUES / width).clamp(16, BLOCK_ROWS)
}

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

    /// Adds a row of activations and latents (ascending).
    pub(super) fn push_found(&mut self, found: &[(f32, u32)]) {
        self.latents.extend(found.iter().map(|&(_, latent)| latent));
        self.activations.extend(found.iter().map(|&(activation, _)| activation));
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
    pub(super) dense: Vec<f32>,
    pub(super) screen: ScreenScratch,
    pub(super) found: Vec<(f32, u32)>,
    reconstruction: Vec<f32>,
    /// What is left of each row: in a pursuit of those of a block, in a temporal dictionary of all that were encoded last.
    pub(super) left: Vec<f32>,
    /// Of a pursuit: what was taken of a row.
    pub(super) taken: Vec<Taken>,
    pub(super) attention: AttentionScratch,
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
    /// Pushes `(activation, latent)` for every `products + bias` above 0 and the latent's threshold.
    fn above_each(products: &[f32], bias: &[f32], thresholds: &[f32], found: &mut Vec<(f32, u32)>) {
        const LANES: usize = 32;
        let (product_chunks, product_rest) = products.as_chunks::<LANES>();
        let (bias_chunks, bias_rest) = bias.as_chunks::<LANES>();
        let (threshold_chunks, threshold_rest) = thresholds.as_chunks::<LANES>();
        let chunks = product_chunks.iter().zip(bias_chunks).zip(threshold_chunks).enumerate();
        for (i, ((products, bias), thresholds)) in chunks {
            let (mut values, mut hits) = ([0.0; LANES], 0);
            for (((value, product), bias), &threshold) in values.iter_mut().zip(products).zip(bias).zip(thresholds) {
                *value = product + bias;
                hits += u32::from(*value > threshold && *value > 0.0);
            }
            if hits > 0 {
                for (j, (&value, &threshold)) in values.iter().zip(thresholds).enumerate() {
                    if value > threshold && value > 0.0 {
                        found.push((value, (i * LANES + j) as u32));
                    }
                }
            }
        }
        let done = product_chunks.len() * LANES;
        for (j, ((product, bias), &threshold)) in product_rest.iter().zip(bias_rest).zip(threshold_rest).enumerate() {
            let value = product + bias;
            if value > threshold && value > 0.0 {
                found.push((value, (done + j) as u32));
            }
        }
    }
}

multiversion! {
    fn subtract(factor: f32, row: &[f32], from: &mut [f32]) {
        simd::axpy(-factor, row, from);
    }
}

/// Keeps the `n` strongest, lower latents first among equal ones, so that the choice does not depend on the order; leaves
/// them ascending by latent.
pub(super) fn keep_strongest(found: &mut Vec<(f32, u32)>, n: usize) {
    if found.len() > n {
        found.select_nth_unstable_by(n, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(n);
        found.sort_unstable_by_key(|&(_, latent)| latent);
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

multiversion! {
    /// Brings rows to the length that is the square root of their width, centres them on `mean`, and divides them by
    /// `deviation` and multiplies by `scale`.
    fn standardise(rows: &mut [f32], mean: &[f32], deviation: &[f32], scale: f32) {
        for row in rows.chunks_exact_mut(mean.len()) {
            let factor = (row.len() as f32).sqrt() / simd::dot(row, row).sqrt().max(1e-30);
            for ((value, mean), deviation) in row.iter_mut().zip(mean).zip(deviation) {
                *value = (*value * factor - mean) / deviation * scale;
            }
        }
    }
}

/// Normalises rows on a mean, as one of the two [`InputNormalization::is_centred`] says.
pub(super) fn normalize(rows: &mut [f32], how: InputNormalization, mean: &[f32], deviation: &[f32]) {
    match how {
        InputNormalization::Centred { scale, unit } => center_and_scale(rows, mean, scale, unit),
        InputNormalization::Standardised { scale } => standardise(rows, mean, deviation, scale),
        _ => {}
    }
}

multiversion! {
    /// Brings each row to the length that is the square root of its width.
    pub(super) fn to_row_norm(rows: &mut [f32], inputs: usize) {
        for row in rows.chunks_exact_mut(inputs) {
            let factor = (inputs as f32).sqrt() / simd::dot(row, row).sqrt().max(1e-30);
            for value in row.iter_mut() {
                *value *= factor;
            }
        }
    }
}

multiversion! {
    /// Centres each row on its mean and multiplies it.
    fn center_rows(rows: &mut [f32], inputs: usize, factor: f32) {
        for row in rows.chunks_exact_mut(inputs) {
            let mean = simd::sum(row) / inputs as f32;
            for value in row.iter_mut() {
                *value = (*value - mean) * factor;
            }
        }
    }
}

multiversion! {
    /// Centres each row on its mean and divides it by its standard deviation (of a sample) and 1e-5.
    fn layer_norm(rows: &mut [f32], inputs: usize) {
        for row in rows.chunks_exact_mut(inputs) {
            let mean = simd::sum(row) / inputs as f32;
            for value in row.iter_mut() {
                *value -= mean;
            }
            let deviation = (simd::dot(row, row) / (inputs as f32 - 1.0).max(1.0)).sqrt();
            let divisor = deviation + 1e-5;
            for value in row.iter_mut() {
                *value /= divisor;
            }
        }
    }
}

multiversion! {
    fn subtract_from_rows(rows: &mut [f32], shift: &[f32]) {
        for row in rows.chunks_exact_mut(shift.len()) {
            for (value, shift) in row.iter_mut().zip(shift) {
                *value -= shift;
            }
        }
    }
}

multiversion! {
    fn multiply(rows: &mut [f32], factor: f32) {
        for value in rows.iter_mut() {
            *value *= factor;
        }
    }
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
        match self.spec.normalization {
            how @ (InputNormalization::Centred { .. } | InputNormalization::Standardised { .. }) => {
                normalize(rows, how, &self.weights.mean, &self.weights.deviation);
                return;
            }
            InputNormalization::None => {}
            InputNormalization::Scale { factor } => multiply(rows, factor),
            InputNormalization::RowCentred { factor } => center_rows(rows, self.input_width(), factor),
            InputNormalization::RowNorm => to_row_norm(rows, self.input_width()),
            InputNormalization::LayerNorm => layer_norm(rows, self.input_width()),
        }
        if !self.weights.shift.is_empty() {
            subtract_from_rows(rows, &self.weights.shift);
        }
    }

    /// Leaves what the dictionary reads of a batch in `rows`, states as they are or means of spans, normalised; returns the
    /// rows of each piece. `hook`: position of the dictionary's hook point among those of the batch.
    pub(crate) fn gather(
        &self,
        texts: &[TokenizedText],
        batch: &BatchStates,
        hook: usize,
        rows: &mut Vec<f32>,
    ) -> Vec<Range<usize>> {
        let (width, states) = (self.input_width(), &batch.layers[hook]);
        rows.clear();
        let of_piece = |piece: &PieceStates| {
            if self.level() == Level::Token {
                return piece.rows.clone();
            }
            let from = rows.len() / width;
            let states = &states[piece.rows.start * width..piece.rows.end * width];
            super::harvest::span_means(&texts[piece.doc], piece.piece, states, width, rows);
            from..rows.len() / width
        };
        let pieces = batch.pieces.iter().map(of_piece).collect();
        if self.level() == Level::Token {
            rows.extend_from_slice(states);
        }
        self.normalize(rows);
        pieces
    }

    /// Sparse activations of normalised rows, as the [`Architecture`] says; ascending by feature, all positive. `windows` are
    /// looked at only if it reads sequences, and are then all rows in order. With weights that were packed before
    /// ([`Self::pack`]), in their precision.
    pub(crate) fn encode_windows(
        &self,
        packed: Option<&PackedEncoder>,
        rows: &[f32],
        windows: &[WindowStates<'_>],
        scratch: &mut EncodeScratch,
        out: &mut SparseRows,
    ) {
        out.clear();
        if self.architecture().reads_sequences() {
            self.encode_sequences(rows, windows, scratch, out);
        } else {
            self.encode_alone(packed, rows, scratch, out);
        }
    }

    /// The same of rows that are one window.
    pub(crate) fn encode_rows(&self, rows: &[f32], scratch: &mut EncodeScratch, out: &mut SparseRows) {
        let window = WindowStates { lead: &[], rows: 0..rows.len() / self.input_width() };
        self.encode_windows(None, rows, &[window], scratch, out);
    }

    /// Adds the activations of rows that do not depend on one another.
    fn encode_alone(
        &self,
        packed: Option<&PackedEncoder>,
        rows: &[f32],
        scratch: &mut EncodeScratch,
        out: &mut SparseRows,
    ) {
        let (width, inputs, weights) = (self.spec.width, self.input_width(), &self.weights);
        for block in rows.chunks(block_rows(width) * inputs) {
            let n = block.len() / inputs;
            if self.architecture().is_tied() {
                self.pursue(block, scratch, out);
                continue;
            }
            let screen = packed.and_then(|packed| packed.screen.as_ref());
            if screen.is_some_and(|screen| self.encode_screened(screen, block, scratch, out)) {
                continue;
            }
            match packed {
                Some(packed) => packed.dense.apply_to(block, Finish::Product, &mut scratch.dense),
                None => {
                    scratch.dense.resize(n * width, 0.0);
                    MatMul::linear(n, width, inputs).run(block, &weights.encoder, &mut scratch.dense);
                }
            }
            for products in scratch.dense.chunks_exact_mut(width) {
                let (found, bias) = (&mut scratch.found, &weights.encoder_bias);
                found.clear();
                match self.architecture() {
                    Architecture::BatchTopk { threshold, cap } => {
                        above(products, bias, threshold, found);
                        keep_strongest(found, cap.unwrap_or(usize::MAX));
                    }
                    Architecture::Relu => above(products, bias, 0.0, found),
                    Architecture::JumpRelu => above_each(products, bias, &weights.thresholds, found),
                    Architecture::Gated => {
                        above(products, bias, 0.0, found);
                        found.retain_mut(|(activation, latent)| {
                            let latent = *latent as usize;
                            *activation = products[latent] * weights.magnitude[latent] + weights.magnitude_bias[latent];
                            *activation > 0.0
                        });
                    }
                    Architecture::TopK { k } => {
                        above(products, bias, 0.0, found);
                        keep_strongest(found, k);
                    }
                    Architecture::GroupMax { k } => {
                        products.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
                        for (i, group) in products.chunks_exact(width / k).enumerate() {
                            if let Some((at, value)) = largest(group) {
                                found.push((value, (i * (width / k) + at) as u32));
                            }
                        }
                    }
                    Architecture::AbsTopK { k } => {
                        products.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
                        found.extend(products.iter().zip(0..).map(|(value, latent)| (value.abs(), latent)));
                        keep_strongest(found, k);
                        found.retain(|&(amount, _)| amount > 0.0);
                        for (_, feature) in found.iter_mut() {
                            if products[*feature as usize] < 0.0 {
                                *feature += width as u32;
                            }
                        }
                        found.sort_unstable_by_key(|&(_, feature)| feature);
                    }
                    Architecture::MatchingPursuit { .. }
                    | Architecture::Itda { .. }
                    | Architecture::Temporal { .. } => {}
                }
                out.push_found(found);
            }
        }
    }

    /// Sparse activations of hidden states as the reader gives them (row-major `[rows, input width]`): for each row its
    /// features and activations, ascending by feature, all positive. If the dictionary reads sequences
    /// ([`Architecture::reads_sequences`]), the rows are one, from its first token on.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] if the length is no multiple of the input width.
    pub fn encode_states(&self, states: &[f32]) -> Result<Vec<Vec<(u32, f32)>>> {
        if !states.len().is_multiple_of(self.input_width()) {
            let message = format!(
                "dictionary '{}' reads rows of {} values, got {} values in all",
                self.name(),
                self.input_width(),
                states.len()
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        let (mut rows, mut sparse) = (states.to_vec(), SparseRows::default());
        self.normalize(&mut rows);
        self.encode_rows(&rows, &mut EncodeScratch::default(), &mut sparse);
        let row = |i| {
            let (features, activations) = sparse.row(i);
            features.iter().copied().zip(activations.iter().copied()).collect()
        };
        Ok((0..sparse.len()).map(row).collect())
    }

    /// What features rebuild: a normalised hidden state (of a transcoder, what it rebuilds; of a temporal dictionary, without
    /// what the tokens before predict), `[output width]`.
    pub fn rebuild(&self, features: &[(u32, f32)]) -> Vec<f32> {
        let outputs = self.output_width();
        let mut state = self.weights.decoder_bias.clone();
        for &(feature, activation) in features {
            let from = feature as usize * outputs;
            subtract(-activation, &self.decoder()[from..from + outputs], &mut state);
        }
        // What was taken off the input is part of the state.
        state.iter_mut().zip(&self.weights.shift).for_each(|(value, shift)| *value += shift);
        state
    }

    /// What features are to rebuild of the normalised row `i`: all of it, unless attention has taken off what the tokens
    /// before predict. `scratch`: that with which the rows were encoded.
    fn left_to_features<'a>(&self, rows: &'a [f32], i: usize, scratch: &'a EncodeScratch) -> &'a [f32] {
        let rows = if self.architecture().reads_sequences() { &scratch.left } else { rows };
        &rows[i * self.input_width()..(i + 1) * self.input_width()]
    }

    /// Leaves the reconstruction of the normalised row `i`, less the row, in `error`; returns its squared length. Not of a
    /// transcoder. `scratch`: that with which the rows were encoded.
    pub(crate) fn error(
        &self,
        rows: &[f32],
        sparse: &SparseRows,
        i: usize,
        scratch: &EncodeScratch,
        error: &mut Vec<f32>,
    ) -> f32 {
        let (latents, activations) = sparse.row(i);
        let row = self.left_to_features(rows, i, scratch);
        squared_residual(row, &self.weights.decoder_bias, self.decoder(), latents, activations, error)
    }

    /// Squared error of the reconstruction of normalised rows `range`, and their squared distance from what is rebuilt
    /// without any latent (from 0 if states were centred): their quotient is the fraction of variance unexplained. 0 and 0
    /// of a transcoder, which rebuilds other states. `scratch`: that with which the rows were encoded.
    pub(crate) fn unexplained(
        &self,
        rows: &[f32],
        sparse: &SparseRows,
        range: std::ops::Range<usize>,
        scratch: &mut EncodeScratch,
    ) -> (f64, f64) {
        let (inputs, bias, decoder) = (self.input_width(), &self.weights.decoder_bias, self.decoder());
        let (mut residual, mut total) = (0.0, 0.0);
        if self.is_transcoder() {
            return (residual, total);
        }
        let centred = self.spec.normalization.is_centred();
        let mut reconstruction = std::mem::take(&mut scratch.reconstruction);
        for i in range {
            let row = &rows[i * inputs..(i + 1) * inputs];
            let reconstruction = &mut reconstruction;
            residual += f64::from(self.error(rows, sparse, i, scratch, reconstruction));
            total += f64::from(if centred {
                squared_length(row)
            } else {
                squared_residual(row, bias, decoder, &[], &[], reconstruction)
            });
        }
        scratch.reconstruction = reconstruction;
        (residual, total)
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
