//! Adam (Kingma and Ba 2015) on slices, latent by latent.

use crate::reader::simd::{self, multiversion};

use super::Kept;

/// Decay of Adam's first and second moments.
pub(super) const BETAS: (f32, f32) = (0.9, 0.999);

/// Parameters with Adam's moments.
#[derive(Debug, Clone)]
pub(in crate::sae) struct Moments {
    pub(in crate::sae) value: Vec<f32>,
    pub(in crate::sae) first: Vec<f32>,
    pub(in crate::sae) second: Vec<f32>,
}

impl Moments {
    pub(super) fn new(value: Vec<f32>) -> Self {
        Self { first: vec![0.0; value.len()], second: vec![0.0; value.len()], value }
    }

    /// Row `i` of a matrix with `width` columns.
    pub(super) fn set_row(&mut self, i: usize, row: &[f32]) {
        let range = i * row.len()..(i + 1) * row.len();
        self.value[range.clone()].copy_from_slice(row);
        self.first[range.clone()].fill(0.0);
        self.second[range].fill(0.0);
    }
}

/// Adam's step sizes, corrected for the first steps.
#[derive(Clone, Copy)]
pub(super) struct AdamStep {
    rate: f32,
    correction: f32,
}

impl AdamStep {
    pub(super) fn new(rate: f32, step: u64) -> Self {
        let step = step.min(1_000_000) as i32;
        Self { rate: rate / (1.0 - BETAS.0.powi(step)), correction: 1.0 / (1.0 - BETAS.1.powi(step)) }
    }

    /// The same with `factor` times the step size.
    pub(super) fn times(self, factor: f32) -> Self {
        Self { rate: self.rate * factor, ..self }
    }

    #[inline(always)]
    fn apply(self, gradient: &[f32], value: &mut [f32], first: &mut [f32], second: &mut [f32]) {
        for (((gradient, value), first), second) in gradient.iter().zip(value).zip(first).zip(second) {
            *first = BETAS.0 * *first + (1.0 - BETAS.0) * gradient;
            *second = BETAS.1 * *second + (1.0 - BETAS.1) * gradient * gradient;
            *value -= self.rate * *first / ((*second * self.correction).sqrt() + 1e-8);
        }
    }

    /// One step of a whole parameter.
    pub(super) fn step(self, gradient: &[f32], parameter: &mut Moments) {
        self.apply(gradient, &mut parameter.value, &mut parameter.first, &mut parameter.second);
    }

    /// One step of a row whose length is fixed at 1: only the part of the gradient that turns it matters.
    #[inline(always)]
    fn turn(self, gradient: &mut [f32], row: RowMut<'_>) {
        let along = simd::dot(gradient, row.value);
        simd::axpy(-along, row.value, gradient);
        self.apply(gradient, row.value, row.first, row.second);
        let inverse = 1.0 / simd::dot(row.value, row.value).sqrt().max(1e-12);
        for value in row.value.iter_mut() {
            *value *= inverse;
        }
    }
}

/// One latent's row of a parameter with its moments.
pub(super) struct RowMut<'a> {
    pub(super) value: &'a mut [f32],
    pub(super) first: &'a mut [f32],
    pub(super) second: &'a mut [f32],
}

multiversion! {
    /// Updates one latent from the rows that kept it; returns the gradient of its bias.
    pub(super) fn update_latent(
        kept: &[Kept],
        batch: &[f32],
        errors: &[f32],
        scale: f32,
        adam: AdamStep,
        encoder: RowMut<'_>,
        decoder: RowMut<'_>,
        scratch: &mut (Vec<f32>, Vec<f32>),
    ) -> f32 {
        let inputs = encoder.value.len();
        let (encoder_gradient, decoder_gradient) = (&mut scratch.0, &mut scratch.1);
        encoder_gradient.clear();
        encoder_gradient.resize(inputs, 0.0);
        decoder_gradient.clear();
        decoder_gradient.resize(inputs, 0.0);
        let mut bias_gradient = 0.0;
        let rows = batch.len() / inputs;
        for kept in kept {
            // Rows behind the last are those of other losses: the same inputs, other errors.
            let from = kept.row as usize % rows * inputs;
            simd::axpy(kept.gradient * scale, &batch[from..from + inputs], encoder_gradient);
            let from = kept.row as usize * inputs;
            simd::axpy(kept.activation * scale, &errors[from..from + inputs], decoder_gradient);
            bias_gradient += kept.gradient * scale;
        }
        adam.apply(encoder_gradient, encoder.value, encoder.first, encoder.second);
        adam.turn(decoder_gradient, decoder);
        bias_gradient
    }
}

multiversion! {
    /// Updates the rows of length 1 of a matrix by the rows of a gradient, which are spoilt.
    pub(super) fn turn_rows(
        gradient: &mut [f32],
        inputs: usize,
        adam: AdamStep,
        value: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let rows = gradient
            .chunks_exact_mut(inputs)
            .zip(value.chunks_exact_mut(inputs))
            .zip(first.chunks_exact_mut(inputs))
            .zip(second.chunks_exact_mut(inputs));
        for (((gradient, value), first), second) in rows {
            adam.turn(gradient, RowMut { value, first, second });
        }
    }
}
