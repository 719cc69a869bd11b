//! Temporal dictionaries (Lubana et al. 2025, arXiv:2511.01836): what the tokens before say of a token's state is taken off
//! it first, and features stand for the rest.
//!
//! With encoder `E`, decoder `D` and `c = 1 / (4 inputs)`, the code of a state of which `r` is left is `z = max(0, c r E^T)`.
//! In each layer of attention a token `t` looks at the codes of the tokens before it and at a code of zeros:
//! `m = sum of a_s V z_s + v` where `a` is the softmax of `q_t . K z_s / sqrt(keys of a head)` and `q_t = Q z_t + q`. What
//! they predict is `p = max(0, O m + o)`, which rebuilds `d = p D`; the part of the state along it is taken off,
//! `r -= (d . r) / |d|^2 d`. The code of what is left after the last layer is what features are made of.
//!
//! Biases of keys would add the same to all scores of a token, and so change nothing; the code of zeros then scores 0. As
//! shares sum to 1, the bias of the values is added to their mixture, to which the code of zeros adds nothing else.
//!
//! Codes are dense, so they are never all there: a block of rows is encoded, predicted and left behind by its keys and
//! values, which are kept as long as tokens of the same window follow.

use std::ops::Range;

use super::encode::{EncodeScratch, SparseRows, block_rows, keep_strongest};
use super::{Architecture, Sae};
use crate::reader::WindowStates;
use crate::reader::simd::{self, MatMul, multiversion};

/// Added to the length of what is predicted, which may be 0.
const EPSILON: f32 = 1e-6;

/// What attention needs between calls.
#[derive(Debug, Default)]
pub(super) struct AttentionScratch {
    /// Of the rows of a block.
    queries: Vec<f32>,
    mixed: Vec<f32>,
    predicted: Vec<f32>,
    /// Of the rows of a block and those before it in the same window.
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
}

multiversion! {
    fn add_to_rows(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            simd::axpy(1.0, bias, row);
        }
    }
}

multiversion! {
    fn add_and_rectify(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (value, bias) in row.iter_mut().zip(bias) {
                *value = (*value + bias).max(0.0);
            }
        }
    }
}

multiversion! {
    fn rectify(values: &mut [f32]) {
        for value in values.iter_mut() {
            *value = value.max(0.0);
        }
    }
}

multiversion! {
    /// Makes scores of the first `seen` tokens their shares, beside a score of 0; the others have none.
    fn shares(scores: &mut [f32], seen: usize) {
        let (scores, others) = scores.split_at_mut(seen);
        others.fill(0.0);
        let most = simd::max(scores).max(0.0);
        for score in scores.iter_mut() {
            *score = simd::exp(*score - most);
        }
        let total = simd::sum(scores) + simd::exp(-most);
        for score in scores.iter_mut() {
            *score /= total;
        }
    }
}

multiversion! {
    /// Takes the part of `row` along `predicted` off it.
    fn take_off(row: &mut [f32], predicted: &[f32]) {
        let length = simd::dot(predicted, predicted).sqrt() + EPSILON;
        simd::axpy(-simd::dot(predicted, row) / (length * length), predicted, row);
    }
}

/// The part of a layer in a matrix or vector of all layers.
fn of_layer(all: &[f32], layer: usize, n: usize) -> &[f32] {
    &all[layer * n..(layer + 1) * n]
}

/// Sizes of a layer.
#[derive(Debug, Clone, Copy)]
struct Attention {
    heads: usize,
    /// Of all heads.
    keys: usize,
    values: usize,
}

impl Attention {
    /// Mixes values for the `rows` of a block that are of one window: each sees those before it. `queries` and `mixed` begin
    /// with the first of the rows, `keys` and `values` with the first of the window.
    fn mix(self, rows: Range<usize>, at: AttentionRows<'_>, scores: &mut Vec<f32>) {
        let AttentionRows { queries, keys, values, mixed } = at;
        let (n, before) = (rows.len(), rows.end - 1);
        if before == 0 {
            // The first token of a window sees nothing.
            mixed[..self.values].fill(0.0);
            return;
        }
        let (key, value) = (self.keys / self.heads, self.values / self.heads);
        scores.resize(n * before, 0.0);
        for head in 0..self.heads {
            let products = MatMul {
                a_stride: self.keys,
                b_stride: self.keys,
                scale: 1.0 / (key as f32).sqrt(),
                ..MatMul::linear(n, before, key)
            };
            products.run(&queries[head * key..], &keys[head * key..], scores);
            for (scores, seen) in scores.chunks_exact_mut(before).zip(rows.clone()) {
                shares(scores, seen);
            }
            let mixture = MatMul {
                b_stride: self.values,
                out_stride: self.values,
                transposed: false,
                ..MatMul::linear(n, value, before)
            };
            mixture.run(scores, &values[head * value..], &mut mixed[head * value..]);
        }
    }
}

/// See [`Attention::mix`].
struct AttentionRows<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    mixed: &'a mut [f32],
}

impl Sae {
    /// Encodes the normalised rows of windows of tokens, which are all rows in order. Leaves in `scratch.left` what attention
    /// left of each.
    pub(super) fn encode_sequences(
        &self,
        rows: &[f32],
        windows: &[WindowStates<'_>],
        scratch: &mut EncodeScratch,
        out: &mut SparseRows,
    ) {
        let Architecture::Temporal { layers, heads, keys, k, .. } = self.architecture() else { return };
        let (width, inputs) = (self.spec.width, self.input_width());
        scratch.left.clear();
        let mut sequences = Vec::with_capacity(windows.len());
        for WindowStates { lead, rows: own } in windows {
            let from = scratch.left.len();
            scratch.left.extend_from_slice(lead);
            self.normalize(&mut scratch.left[from..]);
            scratch.left.extend_from_slice(&rows[own.start * inputs..own.end * inputs]);
            sequences.push(from / inputs..scratch.left.len() / inputs);
        }
        for layer in 0..layers {
            self.take_off_predicted(layer, Attention { heads, keys, values: width }, &sequences, scratch);
        }
        // What leads a window is not encoded.
        let mut kept = 0;
        for (sequence, window) in sequences.iter().zip(windows) {
            let own = (sequence.end - window.rows.len()) * inputs..sequence.end * inputs;
            kept += own.len();
            scratch.left.copy_within(own.clone(), kept - own.len());
        }
        scratch.left.truncate(kept);
        let EncodeScratch { dense, left, found, .. } = scratch;
        for block in left.chunks(block_rows(width) * inputs) {
            self.codes(block, dense);
            for codes in dense.chunks_exact(width) {
                found.clear();
                found.extend(codes.iter().copied().zip(0..).filter(|&(code, _)| code > 0.0));
                keep_strongest(found, k.unwrap_or(usize::MAX));
                out.push_found(found);
            }
        }
    }

    /// Codes of what is left of rows.
    fn codes(&self, left: &[f32], codes: &mut Vec<f32>) {
        let (width, inputs, weights) = (self.spec.width, self.input_width(), &self.weights);
        let encoder = if self.architecture().is_tied() { &weights.decoder } else { &weights.encoder };
        let n = left.len() / inputs;
        codes.resize(n * width, 0.0);
        let scale = 1.0 / (4.0 * inputs as f32);
        MatMul { scale, ..MatMul::linear(n, width, inputs) }.run(left, encoder, codes);
        rectify(codes);
    }

    /// Takes what a layer predicts off what is left of the rows; those of each sequence follow one another without gaps.
    fn take_off_predicted(
        &self,
        layer: usize,
        attention: Attention,
        sequences: &[Range<usize>],
        scratch: &mut EncodeScratch,
    ) {
        let (width, inputs, n_keys) = (self.spec.width, self.input_width(), attention.keys);
        let weights = &self.weights.attention;
        let query = of_layer(&weights.query, layer, n_keys * width);
        let query_bias = of_layer(&weights.query_bias, layer, n_keys);
        let key = of_layer(&weights.key, layer, n_keys * width);
        let value = of_layer(&weights.value, layer, width * width);
        let value_bias = of_layer(&weights.value_bias, layer, width);
        let output = of_layer(&weights.output, layer, width * width);
        let output_bias = of_layer(&weights.output_bias, layer, width);

        let EncodeScratch { dense, left, attention: between, .. } = scratch;
        let AttentionScratch { queries, mixed, predicted, keys, values, scores } = between;
        keys.clear();
        values.clear();
        // The row with which keys and values begin, and the sequences that are not over.
        let (mut kept, mut open) = (0, sequences);
        let (n_rows, block) = (left.len() / inputs, block_rows(width));
        for start in (0..n_rows).step_by(block) {
            let end = (start + block).min(n_rows);
            let n = end - start;
            while open.first().is_some_and(|sequence| sequence.end <= start) {
                open = &open[1..];
            }
            let first = open.first().map_or(start, |sequence| sequence.start.min(start));
            keys.drain(..(first - kept) * n_keys);
            values.drain(..(first - kept) * width);
            kept = first;

            let rows = &mut left[start * inputs..end * inputs];
            self.codes(rows, dense);
            queries.resize(n * n_keys, 0.0);
            MatMul::linear(n, n_keys, width).run(dense, query, queries);
            add_to_rows(queries, query_bias);
            let at = keys.len();
            keys.resize(at + n * n_keys, 0.0);
            MatMul::linear(n, n_keys, width).run(dense, key, &mut keys[at..]);
            let at = values.len();
            values.resize(at + n * width, 0.0);
            MatMul::linear(n, width, width).run(dense, value, &mut values[at..]);

            mixed.resize(n * width, 0.0);
            for sequence in open.iter().take_while(|sequence| sequence.start < end) {
                let own = sequence.start.max(start)..sequence.end.min(end);
                if own.is_empty() {
                    continue;
                }
                let at = AttentionRows {
                    queries: &queries[(own.start - start) * n_keys..],
                    keys: &keys[(sequence.start - kept) * n_keys..],
                    values: &values[(sequence.start - kept) * width..],
                    mixed: &mut mixed[(own.start - start) * width..],
                };
                attention.mix(own.start - sequence.start..own.end - sequence.start, at, scores);
            }
            add_to_rows(mixed, value_bias);
            MatMul::linear(n, width, width).run(mixed, output, dense);
            add_and_rectify(dense, output_bias);
            predicted.resize(n * inputs, 0.0);
            MatMul { b_stride: inputs, transposed: false, ..MatMul::linear(n, inputs, width) }.run(
                dense,
                &self.weights.decoder,
                predicted,
            );
            for (row, predicted) in rows.chunks_exact_mut(inputs).zip(predicted.chunks_exact(inputs)) {
                take_off(row, predicted);
            }
        }
    }
}

#[cfg(test)]
#[path = "temporal_tests.rs"]
mod tests;
