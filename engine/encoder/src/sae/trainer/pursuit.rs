//! Training of dictionaries that are read by [matching pursuit](crate::sae::pursuit).
//!
//! MP-SAE (Costa et al. 2025, arXiv:2506.03093) learns the rows by descent through the unrolled pursuit, which row is taken
//! being fixed: of the loss `|r_k|^2` with `g_k = 2 r_k`, row `d_t` gets `-(g_t d_t) r_{t-1} - c_t g_t`, and
//! `g_{t-1} = g_t - (g_t d_t) d_t`. Only rows with `c_t > 0` are taken.
//!
//! ITDA (Leask et al. 2025, arXiv:2505.17769) learns nothing: samples that the pursuit over the rows so far leaves too much
//! of become rows themselves. Rows are taken with either sign.

use super::adam::{AdamStep, turn_rows};
use super::{StepReport, Trainer, squared_length};
use crate::error::Result;
use crate::reader::parallel;
use crate::reader::simd::{self, MatMul, multiversion};
use crate::sae::pursuit::{Pursuit, Taken, gram, pursue};

/// Rows that a thread pursues at once.
const BLOCK_ROWS: usize = 64;
/// Rows of which gradients are held at once.
const GROUP_ROWS: usize = 512;
/// A row that says no more than this is not taken.
const LEAST_AMOUNT: f32 = 1e-6;

/// What the pursuits of a block of rows found.
struct Pursued {
    taken: Vec<Taken>,
    /// A gradient for each of `taken`, if wanted.
    gradients: Vec<f32>,
    /// What is left of each row.
    residuals: Vec<f32>,
    /// Different latents of all rows together.
    n_latents: usize,
}

multiversion! {
    /// Adds to `gradients` the derivative of `scale` times the squared length of `residual` by each decoder row taken.
    fn backward_pursuit(
        taken: &[Taken],
        decoder: &[f32],
        residual: &[f32],
        scale: f32,
        scratch: &mut (Vec<f32>, Vec<f32>),
        gradients: &mut Vec<f32>,
    ) {
        let inputs = residual.len();
        // What was left before each step, and the derivative by it, from the last step to the first.
        let (left, by_left) = (&mut scratch.0, &mut scratch.1);
        left.clear();
        left.extend_from_slice(residual);
        by_left.clear();
        by_left.extend(residual.iter().map(|x| 2.0 * scale * x));
        let start = gradients.len();
        gradients.resize(start + taken.len() * inputs, 0.0);
        for (step, gradient) in taken.iter().zip(gradients[start..].chunks_exact_mut(inputs)).rev() {
            let from = step.latent as usize * inputs;
            let row = &decoder[from..from + inputs];
            let along = simd::dot(by_left, row);
            simd::axpy(step.amount, row, left);
            simd::axpy(-along, left, gradient);
            simd::axpy(-step.amount, by_left, gradient);
            simd::axpy(-along, row, by_left);
        }
    }
}

multiversion! {
    /// Adds the gradients of latents in `range` to `sums`, whose first row is that of `range.start`.
    fn add_gradients(found: &[Pursued], range: std::ops::Range<usize>, inputs: usize, sums: &mut [f32]) {
        for block in found {
            for (step, gradient) in block.taken.iter().zip(block.gradients.chunks_exact(inputs)) {
                if range.contains(&(step.latent as usize)) {
                    let from = (step.latent as usize - range.start) * inputs;
                    simd::axpy(1.0, gradient, &mut sums[from..from + inputs]);
                }
            }
        }
    }
}

impl Trainer {
    /// Rows of the decoder that are in use: those of ITDA come one by one.
    pub(in crate::sae) fn n_atoms(&self) -> usize {
        let is_used = |row: &[f32]| row.iter().any(|&value| value != 0.0);
        self.decoder.value.chunks_exact(self.inputs).take_while(|row| is_used(row)).count()
    }

    /// Lets products of decoder rows be measured anew, because the rows are others.
    pub(in crate::sae) fn forget_products(&mut self) {
        self.gram.clear();
    }

    /// Products of the first `n` decoder rows among themselves, `[n, width]`.
    fn measure_gram(&mut self, n: usize) {
        let rows = &self.decoder.value[..n * self.inputs];
        self.gram = gram(rows, self.inputs, self.width, self.threads);
    }

    /// Pursues `rows` over the first `n` latents, whose [`Self::gram`] is known; gradients are those of `scale` times the
    /// squared error, none for 0.
    fn pursue_rows(&self, rows: &[f32], n: usize, scale: f32) -> Result<Vec<Pursued>> {
        let (width, inputs, decoder) = (self.width, self.inputs, &self.decoder.value);
        let pursuit = Pursuit {
            decoder,
            steps: self.k,
            signed: self.signed(),
            least_amount: LEAST_AMOUNT,
            least_left: 0.0,
            stop_on_duplicate: false,
        };
        let blocks: Vec<&[f32]> = rows.chunks(BLOCK_ROWS * inputs).collect();
        parallel(blocks.len(), self.threads, |(dense, scratch): &mut (Vec<f32>, (Vec<f32>, Vec<f32>)), i| {
            let m = blocks[i].len() / inputs;
            dense.resize(m * n, 0.0);
            MatMul::linear(m, n, inputs).run(blocks[i], decoder, dense);
            let mut found =
                Pursued { taken: Vec::new(), gradients: Vec::new(), residuals: blocks[i].to_vec(), n_latents: 0 };
            for (j, residual) in found.residuals.chunks_exact_mut(inputs).enumerate() {
                let from = found.taken.len();
                if n > 0 {
                    let products = &mut dense[j * n..(j + 1) * n];
                    pursue(&pursuit, &self.gram, width, products, residual, &mut found.taken);
                }
                let taken = &found.taken[from..];
                if scale > 0.0 {
                    backward_pursuit(taken, decoder, residual, scale, scratch, &mut found.gradients);
                }
                let is_first =
                    |(t, step): &(usize, &Taken)| taken[..*t].iter().all(|other| other.latent != step.latent);
                found.n_latents += taken.iter().enumerate().filter(is_first).count();
            }
            Ok(found)
        })
    }

    #[cfg(test)]
    pub(super) fn measure_products(&mut self) {
        self.measure_gram(self.width);
    }

    /// Latents that each row takes, in order.
    #[cfg(test)]
    pub(super) fn pursuits(&self, rows: &[f32]) -> Result<Vec<Vec<usize>>> {
        rows.chunks_exact(self.inputs)
            .map(|row| {
                let found = self.pursue_rows(row, self.width, 0.0)?;
                Ok(found[0].taken.iter().map(|step| step.latent as usize).collect())
            })
            .collect()
    }

    /// Reconstruction minus row, `[n, inputs]`.
    pub(super) fn errors_of_pursuit(&mut self, batch: &[f32]) -> Result<Vec<f32>> {
        self.measure_gram(self.width);
        let found = self.pursue_rows(batch, self.width, 0.0)?;
        Ok(found.iter().flat_map(|block| &block.residuals).map(|x| -x).collect())
    }

    /// A step of MP-SAE.
    pub(super) fn step_by_pursuit(&mut self, batch: &[f32], rate: f32) -> Result<StepReport> {
        let (width, inputs) = (self.width, self.inputs);
        let n = batch.len() / inputs;
        self.measure_gram(width);
        self.step += 1;
        let share = width.div_ceil(self.threads);
        let mut gradient = vec![0.0; width * inputs];
        let (mut error_sum, mut n_latents) = (0.0, 0);
        for rows in batch.chunks(GROUP_ROWS * inputs) {
            let found = self.pursue_rows(rows, width, 1.0 / n as f32)?;
            std::thread::scope(|scope| {
                for (part, sums) in gradient.chunks_mut(share * inputs).enumerate() {
                    let range = part * share..part * share + sums.len() / inputs;
                    let found = &found;
                    scope.spawn(move || add_gradients(found, range, inputs, sums));
                }
            });
            for block in &found {
                error_sum += f64::from(squared_length(&block.residuals));
                n_latents += block.n_latents;
                for step in &block.taken {
                    self.last_kept[step.latent as usize] = self.step;
                }
            }
        }
        let adam = AdamStep::new(rate, self.step);
        std::thread::scope(|scope| {
            let parts = gradient
                .chunks_mut(share * inputs)
                .zip(self.decoder.value.chunks_mut(share * inputs))
                .zip(self.decoder.first.chunks_mut(share * inputs))
                .zip(self.decoder.second.chunks_mut(share * inputs));
            for (((gradient, value), first), second) in parts {
                scope.spawn(move || turn_rows(gradient, inputs, adam, value, first, second));
            }
        });
        let total = f64::from(squared_length(batch));
        Ok(StepReport { fvu: error_sum / total.max(1e-30), l0: n_latents as f64 / n as f64 })
    }

    /// A step of ITDA: rows of which more than `tolerance` of the square is left become latents, until all are used.
    pub(super) fn grow(&mut self, batch: &[f32], tolerance: f32) -> Result<StepReport> {
        let (width, inputs) = (self.width, self.inputs);
        let mut n_atoms = self.n_atoms();
        if self.gram.is_empty() {
            self.measure_gram(n_atoms);
        }
        self.step += 1;
        let (mut error_sum, mut n_latents) = (0.0, 0);
        for rows in batch.chunks(GROUP_ROWS * inputs) {
            let n_before = n_atoms;
            let found = self.pursue_rows(rows, n_before, 0.0)?;
            let residuals = found.iter().flat_map(|block| block.residuals.chunks_exact(inputs));
            for (row, residual) in rows.chunks_exact(inputs).zip(residuals) {
                let (length, left) = (squared_length(row), squared_length(residual));
                error_sum += f64::from(left);
                if left <= tolerance * length || length <= 1e-12 || n_atoms == width {
                    continue;
                }
                // Latents that came meanwhile may know it.
                if n_atoms > n_before {
                    let again = self.pursue_rows(row, n_atoms, 0.0)?;
                    if squared_length(&again[0].residuals) <= tolerance * length {
                        continue;
                    }
                }
                self.add_atom(n_atoms, row);
                n_atoms += 1;
            }
            n_latents += found.iter().map(|block| block.n_latents).sum::<usize>();
            for step in found.iter().flat_map(|block| &block.taken) {
                self.last_kept[step.latent as usize] = self.step;
            }
        }
        let total = f64::from(squared_length(batch));
        let n = (batch.len() / inputs) as f64;
        Ok(StepReport { fvu: error_sum / total.max(1e-30), l0: n_latents as f64 / n })
    }

    /// Makes the direction of `row` latent `at`, the first that is not in use.
    fn add_atom(&mut self, at: usize, row: &[f32]) {
        let (width, inputs) = (self.width, self.inputs);
        let atom: Vec<f32> = super::normalized(row).collect();
        self.decoder.value[at * inputs..(at + 1) * inputs].copy_from_slice(&atom);
        let mut products = vec![0.0; at + 1];
        MatMul::linear(1, at + 1, inputs).run(&atom, &self.decoder.value, &mut products);
        for (other, &product) in products.iter().enumerate() {
            self.gram[at * width + other] = product;
            self.gram[other * width + at] = product;
        }
        self.last_kept[at] = self.step;
    }
}
