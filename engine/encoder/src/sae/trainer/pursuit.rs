//! Dictionaries without an encoder, read by matching pursuit (Mallat and Zhang 1993): the decoder row that says most of what
//! is left is taken, `c_t = d_t r_{t-1}`, `r_t = r_{t-1} - c_t d_t`, `k` times.
//!
//! MP-SAE (Costa et al. 2025, arXiv:2506.03093) learns the rows by descent through the unrolled pursuit, which row is taken
//! being fixed: of the loss `|r_k|^2` with `g_k = 2 r_k`, row `d_t` gets `-(g_t d_t) r_{t-1} - c_t g_t`, and
//! `g_{t-1} = g_t - (g_t d_t) d_t`. Only rows with `c_t > 0` are taken.
//!
//! ITDA (Leask et al. 2025, arXiv:2505.17769) learns nothing: samples that the pursuit over the rows so far leaves too much
//! of become rows themselves. Rows are taken with either sign.
//!
//! A pursuit needs the products of all rows with what is left. These are computed once for the sample and then kept up to
//! date with the products of the rows among themselves (`gram`, `width^2` numbers), which makes a step `inputs` times
//! cheaper.

use super::adam::{AdamStep, turn_rows};
use super::{StepReport, Trainer, squared_length};
use crate::error::Result;
use crate::reader::parallel;
use crate::reader::simd::{self, MatMul, multiversion};

/// Rows that a thread pursues at once.
const BLOCK_ROWS: usize = 64;
/// Rows of which gradients are held at once.
const GROUP_ROWS: usize = 512;
/// Latents whose products a thread computes at once.
const GRAM_ROWS: usize = 128;

/// A step of a pursuit.
#[derive(Debug, Clone, Copy)]
struct Taken {
    latent: u32,
    amount: f32,
}

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

/// Largest number of a slice, or largest magnitude if `signed`, and the first place of it; 0 where there is none above 0.
#[inline(always)]
fn most(values: &[f32], signed: bool) -> (usize, f32) {
    const LANES: usize = 32;
    let strength = |value: f32| if signed { value.abs() } else { value };
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            let value = strength(value);
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let most = lanes.iter().chain(rest).fold(0.0f32, |most, &value| most.max(strength(value)));
    let at = chunks.iter().position(|chunk| {
        let hits: u32 = chunk.iter().map(|&value| u32::from(strength(value) == most)).sum();
        hits > 0
    });
    let start = at.unwrap_or(chunks.len()) * LANES;
    let within = values[start..].iter().position(|&value| strength(value) == most);
    (start + within.unwrap_or(0), most)
}

multiversion! {
    /// Pursues a row by its products with all latents, which become those with what is left.
    fn pursue(products: &mut [f32], gram: &[f32], stride: usize, k: usize, signed: bool, taken: &mut Vec<Taken>) {
        let n = products.len();
        for _ in 0..k {
            let (latent, strength) = most(products, signed);
            if strength <= 1e-6 {
                break;
            }
            let amount = products[latent];
            simd::axpy(-amount, &gram[latent * stride..latent * stride + n], products);
            taken.push(Taken { latent: latent as u32, amount });
        }
    }
}

multiversion! {
    /// Takes the rows off what is left.
    fn subtract(taken: &[Taken], decoder: &[f32], residual: &mut [f32]) {
        for step in taken {
            let from = step.latent as usize * residual.len();
            simd::axpy(-step.amount, &decoder[from..from + residual.len()], residual);
        }
    }
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
    fn measure_gram(&mut self, n: usize) -> Result<()> {
        let (width, inputs) = (self.width, self.inputs);
        let rows = &self.decoder.value[..n * inputs];
        let blocks: Vec<&[f32]> = rows.chunks(GRAM_ROWS * inputs).collect();
        let products = parallel(blocks.len(), self.threads, |(): &mut (), i| {
            let m = blocks[i].len() / inputs;
            let mut products = vec![0.0; m * n];
            MatMul::linear(m, n, inputs).run(blocks[i], rows, &mut products);
            Ok(products)
        })?;
        self.gram.clear();
        self.gram.resize(width * width, 0.0);
        let products = products.iter().flat_map(|block| block.chunks_exact(n));
        for (row, products) in self.gram.chunks_exact_mut(width).zip(products) {
            row[..n].copy_from_slice(products);
        }
        Ok(())
    }

    /// Pursues `rows` over the first `n` latents, whose [`Self::gram`] is known; gradients are those of `scale` times the
    /// squared error, none for 0.
    fn pursue_rows(&self, rows: &[f32], n: usize, scale: f32) -> Result<Vec<Pursued>> {
        let (width, inputs, signed) = (self.width, self.inputs, self.signed());
        let decoder = &self.decoder.value;
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
                    pursue(products, &self.gram, width, self.k, signed, &mut found.taken);
                }
                let taken = &found.taken[from..];
                subtract(taken, decoder, residual);
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
    pub(super) fn measure_products(&mut self) -> Result<()> {
        self.measure_gram(self.width)
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
        self.measure_gram(self.width)?;
        let found = self.pursue_rows(batch, self.width, 0.0)?;
        Ok(found.iter().flat_map(|block| &block.residuals).map(|x| -x).collect())
    }

    /// A step of MP-SAE.
    pub(super) fn step_by_pursuit(&mut self, batch: &[f32], rate: f32) -> Result<StepReport> {
        let (width, inputs) = (self.width, self.inputs);
        let n = batch.len() / inputs;
        self.measure_gram(width)?;
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
            self.measure_gram(n_atoms)?;
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
