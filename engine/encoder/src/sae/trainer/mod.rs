//! One step of training, on slices.
//!
//! All architectures share the data, the step sizes, the treatment of dead latents and the checkpoint; they differ in which
//! latents of a batch take part and in what the loss is, which is a [`Rule`].
//!
//! Those with an encoder minimise the mean squared error of `x ~ a D + d`, where `a` are the activations `x E^T + e` that
//! the rule keeps. Latents that are never kept learn from an auxiliary loss (Gao et al. 2024, arXiv:2406.04093): the
//! strongest `k` of them rebuild what the others leave unexplained. The encoder is a dense matrix product; everything
//! behind it touches only what was kept. Gradients are summed latent by latent and go straight into Adam, so no gradient
//! matrix is ever held.

mod adam;
mod jump;
mod nested;
mod pursuit;
mod select;

use adam::{AdamStep, RowMut, update_latent};
use select::{Selection, fire, keep_strongest};

use super::Weights;
use super::random::Random;
use crate::error::Result;
use crate::reader::parallel;
use crate::reader::simd::{self, MatMul, multiversion};

pub(super) use adam::Moments;
pub(super) use nested::default_ends;

/// Decay of the running threshold.
const THRESHOLD_DECAY: f32 = 0.99;
/// A latent that was kept by none of so many batches is dead.
const DEAD_STEPS: u64 = 100;
/// Rows of a batch from which dead latents learn.
const AUXILIARY_ROWS: usize = 512;
/// Rows that a thread encodes at once.
const BLOCK_ROWS: usize = 256;

/// What an architecture does with a batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rule {
    /// The `k * rows` strongest of the whole batch.
    BatchTopK,
    /// The `k` strongest of each row; by magnitude if `signed`.
    TopK { signed: bool },
    /// As `BatchTopK`, but each prefix of the dictionary that ends at one of these latents rebuilds the rows by itself.
    Matryoshka { ends: Vec<usize> },
    /// Those above a threshold of their own, which is learned.
    JumpRelu,
    /// One after the other, each from what is left; no encoder.
    MatchingPursuit,
    /// The same, over rows of the data: a row of which more than `tolerance` of its square is left becomes a latent.
    Itda { tolerance: f32 },
}

/// Parameters and the state of the optimiser; everything that a checkpoint holds.
#[derive(Debug, Clone)]
pub(super) struct Trainer {
    pub(super) rule: Rule,
    pub(super) width: usize,
    pub(super) inputs: usize,
    k: usize,
    threads: usize,
    /// Row-major `[width, inputs]`, each with Adam's two moments; empty if the rule has no encoder.
    pub(super) encoder: Moments,
    pub(super) encoder_bias: Moments,
    /// Row-major `[width, inputs]`, rows of length 1.
    pub(super) decoder: Moments,
    pub(super) decoder_bias: Moments,
    /// Logarithm of each latent's threshold for [`Rule::JumpRelu`]; else empty.
    pub(super) log_thresholds: Moments,
    /// Running mean of the weakest activation that a batch kept: the threshold for use.
    pub(super) threshold: f32,
    /// Steps done.
    pub(super) step: u64,
    /// Step at which each latent was last kept.
    pub(super) last_kept: Vec<u64>,
    /// Products of all pairs of decoder rows while they hold, else empty; no part of a checkpoint.
    gram: Vec<f32>,
}

/// What a step saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepReport {
    /// Fraction of variance unexplained in the batch, before the update.
    pub(super) fvu: f64,
    /// Latents per row.
    pub(super) l0: f64,
}

/// An activation that was kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    row: u32,
    latent: u32,
    activation: f32,
    /// Half the derivative of the squared error by the activation.
    gradient: f32,
}

impl Kept {
    fn new(row: u32, latent: u32, activation: f32) -> Self {
        Self { row, latent, activation, gradient: 0.0 }
    }
}

/// What a batch leaves to learn from.
struct Backward {
    /// What took part, by rows, with gradients.
    kept: Vec<Kept>,
    /// `[n, inputs]`, reconstruction minus row; for nested dictionaries see [`nested`].
    errors: Vec<f32>,
    /// Squared error of the whole reconstruction.
    error_sum: f64,
}

multiversion! {
    /// Reconstruction error of one row into `error`, and the derivatives by its activations; returns the squared length
    /// of the error.
    fn backward_row(row: &[f32], bias: &[f32], decoder: &[f32], kept: &mut [Kept], error: &mut [f32]) -> f32 {
        let inputs = row.len();
        for ((error, bias), x) in error.iter_mut().zip(bias).zip(row) {
            *error = bias - x;
        }
        for kept in kept.iter() {
            let from = kept.latent as usize * inputs;
            simd::axpy(kept.activation, &decoder[from..from + inputs], error);
        }
        for kept in kept.iter_mut() {
            let from = kept.latent as usize * inputs;
            kept.gradient = simd::dot(&decoder[from..from + inputs], error);
        }
        simd::dot(error, error)
    }
}

multiversion! {
    fn squared_length(row: &[f32]) -> f32 {
        simd::dot(row, row)
    }
}

fn normalized(row: &[f32]) -> impl Iterator<Item = f32> + '_ {
    let inverse = 1.0 / row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    row.iter().map(move |x| x * inverse)
}

impl Trainer {
    /// Starts from `width` random rows of `samples` (normalised, `[n, inputs]`): each becomes the direction of a latent, in
    /// the decoder and in the encoder. Latents are thus alive from the first step.
    ///
    /// # Errors
    /// None of its own.
    pub(super) fn new(
        rule: Rule,
        samples: &[f32],
        inputs: usize,
        width: usize,
        k: usize,
        seed: u64,
        threads: usize,
    ) -> Result<Self> {
        let mut random = Random::new(seed, 0x1217);
        let mut rows: Vec<usize> = (0..samples.len() / inputs).collect();
        random.shuffle(&mut rows);
        let directions: Vec<f32> = (0..width)
            .flat_map(|i| {
                let row = rows[i % rows.len()];
                normalized(&samples[row * inputs..(row + 1) * inputs])
            })
            .collect();
        let n_thresholds = if rule == Rule::JumpRelu { width } else { 0 };
        let mut trainer = Self {
            rule,
            width,
            inputs,
            k,
            threads,
            encoder: Moments::new(Vec::new()),
            encoder_bias: Moments::new(Vec::new()),
            decoder: Moments::new(directions),
            decoder_bias: Moments::new(vec![0.0; inputs]),
            log_thresholds: Moments::new(vec![0.0; n_thresholds]),
            threshold: 0.0,
            step: 0,
            last_kept: vec![0; width],
            gram: Vec::new(),
        };
        if trainer.has_encoder() {
            trainer.encoder = Moments::new(trainer.decoder.value.clone());
            trainer.encoder_bias = Moments::new(vec![0.0; width]);
            let samples = &samples[..samples.len().min(1024 * inputs)];
            trainer.fit_encoder_scale(samples);
            if trainer.rule == Rule::JumpRelu {
                trainer.start_thresholds(samples)?;
            }
        } else if let Rule::Itda { .. } = trainer.rule {
            trainer.decoder.value.fill(0.0);
        }
        Ok(trainer)
    }

    /// Starts from the weights of a finished dictionary (decoder rows of length 1), Adam's moments at 0.
    pub(super) fn going_on(rule: Rule, weights: &Weights, threshold: f32, k: usize, threads: usize) -> Self {
        let (width, inputs) = (weights.encoder_bias.len(), weights.mean.len());
        Self {
            rule,
            width,
            inputs,
            k,
            threads,
            encoder: Moments::new(weights.encoder.clone()),
            encoder_bias: Moments::new(weights.encoder_bias.clone()),
            decoder: Moments::new(weights.decoder.clone()),
            decoder_bias: Moments::new(weights.decoder_bias.clone()),
            log_thresholds: Moments::new(weights.thresholds.iter().map(|x| x.max(1e-6).ln()).collect()),
            threshold,
            step: 0,
            last_kept: vec![0; width],
            gram: Vec::new(),
        }
    }

    fn has_encoder(&self) -> bool {
        !matches!(self.rule, Rule::MatchingPursuit | Rule::Itda { .. })
    }

    fn signed(&self) -> bool {
        matches!(self.rule, Rule::TopK { signed: true } | Rule::Itda { .. })
    }

    /// Multiplies the encoder by the factor with which the first reconstruction is best. Without it the k strongest of
    /// thousands of similar directions would together overshoot many times.
    fn fit_encoder_scale(&mut self, samples: &[f32]) {
        let (width, inputs) = (self.width, self.inputs);
        let (mut along, mut length) = (0.0f64, 0.0f64);
        let mut products = vec![0.0; width];
        let mut order: Vec<u32> = (0..width as u32).collect();
        let mut sum = vec![0.0; inputs];
        let signed = self.signed();
        let strength = |product: f32| if signed { product.abs() } else { product };
        for row in samples.chunks_exact(inputs) {
            MatMul::linear(1, width, inputs).run(row, &self.encoder.value, &mut products);
            order.select_nth_unstable_by(self.k - 1, |a, b| {
                strength(products[*b as usize]).total_cmp(&strength(products[*a as usize]))
            });
            sum.fill(0.0);
            for &latent in &order[..self.k] {
                let from = latent as usize * inputs;
                let product = products[latent as usize];
                let activation = if signed { product } else { product.max(0.0) };
                simd::axpy(activation, &self.decoder.value[from..from + inputs], &mut sum);
            }
            along += f64::from(simd::dot(&sum, row));
            length += f64::from(simd::dot(&sum, &sum));
        }
        let factor = (along / length.max(1e-12)) as f32;
        self.encoder.value.iter_mut().for_each(|value| *value *= factor);
    }

    /// Whether it has all that it can learn.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.rule, Rule::Itda { .. }) && self.n_atoms() == self.width
    }

    /// Learns from `batch` (normalised rows) with step size `rate`.
    ///
    /// # Errors
    /// None of its own.
    pub(super) fn step(&mut self, batch: &[f32], rate: f32) -> Result<StepReport> {
        match self.rule {
            Rule::MatchingPursuit => self.step_by_pursuit(batch, rate),
            Rule::Itda { tolerance } => self.grow(batch, tolerance),
            _ => self.step_by_encoder(batch, rate),
        }
    }

    fn step_by_encoder(&mut self, batch: &[f32], rate: f32) -> Result<StepReport> {
        let (width, inputs) = (self.width, self.inputs);
        let n = batch.len() / inputs;
        let Selection { blocks, weakest, threshold } = self.select(batch)?;
        if threshold.is_finite() {
            let decay = if self.step == 0 { 0.0 } else { THRESHOLD_DECAY };
            self.threshold = decay * self.threshold + (1.0 - decay) * threshold;
        }
        self.step += 1;
        let adam = AdamStep::new(rate, self.step);

        let Backward { mut kept, mut errors, error_sum } = match &self.rule {
            Rule::Matryoshka { ends } => self.backward_nested(batch, &blocks, weakest, ends)?,
            _ => self.backward(batch, &blocks, weakest)?,
        };
        if self.rule == Rule::JumpRelu {
            self.update_thresholds(&mut kept, n, adam);
        }
        let total: f64 = batch.iter().map(|x| f64::from(x * x)).sum();
        let report = StepReport { fvu: error_sum / total.max(1e-30), l0: kept.len() as f64 / n as f64 };

        for kept in &kept {
            self.last_kept[kept.latent as usize] = self.step;
        }
        self.auxiliary(batch, &mut errors, &mut kept);

        // Order by latent (counting sort), then update latent by latent.
        let mut offsets = vec![0usize; width + 1];
        for kept in &kept {
            offsets[kept.latent as usize + 1] += 1;
        }
        for latent in 0..width {
            offsets[latent + 1] += offsets[latent];
        }
        let mut next = offsets.clone();
        let mut by_latent = vec![Kept::new(0, 0, 0.0); kept.len()];
        for kept in kept {
            let at = &mut next[kept.latent as usize];
            by_latent[*at] = kept;
            *at += 1;
        }
        self.update(&by_latent, &offsets, batch, &errors, adam);
        Ok(report)
    }

    /// Errors and gradients through the decoder, by blocks of rows, of the latents that reach `weakest`.
    fn backward(&self, batch: &[f32], blocks: &[Vec<Kept>], weakest: f32) -> Result<Backward> {
        let inputs = self.inputs;
        let results = parallel(blocks.len(), self.threads, |(): &mut (), i| {
            let rows = &batch[i * BLOCK_ROWS * inputs..((i + 1) * BLOCK_ROWS * inputs).min(batch.len())];
            let mut kept: Vec<Kept> = blocks[i].iter().copied().filter(|kept| kept.activation >= weakest).collect();
            let mut errors = vec![0.0; rows.len()];
            let (mut from, mut error_sum) = (0, 0.0);
            for (j, (row, error)) in rows.chunks_exact(inputs).zip(errors.chunks_exact_mut(inputs)).enumerate() {
                let index = (i * BLOCK_ROWS + j) as u32;
                let to = from + kept[from..].partition_point(|kept| kept.row <= index);
                error_sum += f64::from(backward_row(
                    row,
                    &self.decoder_bias.value,
                    &self.decoder.value,
                    &mut kept[from..to],
                    error,
                ));
                from = to;
            }
            Ok((kept, errors, error_sum))
        })?;
        let kept = Vec::with_capacity(results.iter().map(|(kept, ..)| kept.len()).sum());
        let mut backward = Backward { kept, errors: Vec::with_capacity(batch.len()), error_sum: 0.0 };
        for (kept, errors, error_sum) in results {
            backward.kept.extend(kept);
            backward.errors.extend(errors);
            backward.error_sum += error_sum;
        }
        Ok(backward)
    }

    /// Lets dead latents rebuild the `errors` of the first rows: their activations are added to `kept`, and what is then
    /// left of them to `errors`, a row each.
    fn auxiliary(&self, batch: &[f32], errors: &mut Vec<f32>, kept: &mut Vec<Kept>) {
        let inputs = self.inputs;
        let dead = self.dead(DEAD_STEPS);
        if dead.is_empty() {
            return;
        }
        let n = batch.len() / inputs;
        let rows = n.min(AUXILIARY_ROWS);
        // Of nested dictionaries the last errors are those of all latents, divided by the number of prefixes.
        let prefixes = errors.len() / batch.len();
        let behind = prefixes * n;
        let gather = |from: &[f32]| -> Vec<f32> {
            dead.iter().flat_map(|&latent| &from[latent * inputs..(latent + 1) * inputs]).copied().collect()
        };
        let encoder = gather(&self.encoder.value);
        let bias: Vec<f32> = dead.iter().map(|&latent| self.encoder_bias.value[latent]).collect();
        let mut products = vec![0.0; rows * dead.len()];
        MatMul::linear(rows, dead.len(), inputs).run(batch, &encoder, &mut products);
        let mut found = Vec::new();
        let zero = vec![0.0; inputs];
        for (i, products) in products.chunks_exact(dead.len()).enumerate() {
            found.clear();
            fire(products, &bias, 0.0, self.signed(), &mut found);
            keep_strongest(self.k, &mut found);
            let mut of_row: Vec<Kept> = found
                .iter()
                .map(|&(activation, at)| Kept::new((behind + i) as u32, dead[at as usize] as u32, activation))
                .collect();
            // What is missing is the opposite of the error.
            let error = &errors[(behind - n + i) * inputs..(behind - n + i + 1) * inputs];
            let missing: Vec<f32> = error.iter().map(|x| -x * prefixes as f32).collect();
            let from = errors.len();
            errors.resize(from + inputs, 0.0);
            backward_row(&missing, &zero, &self.decoder.value, &mut of_row, &mut errors[from..]);
            kept.extend(of_row);
        }
    }

    /// Adam on all parameters, from gradients summed latent by latent. Latents without a gradient move on with their
    /// momentum, as in dense Adam.
    fn update(&mut self, by_latent: &[Kept], offsets: &[usize], batch: &[f32], errors: &[f32], adam: AdamStep) {
        let inputs = self.inputs;
        let n = batch.len() / inputs;
        let scale = 2.0 / n as f32;
        let share = self.width.div_ceil(self.threads);
        let mut bias_gradients = vec![0.0; self.width];
        std::thread::scope(|scope| {
            let parts = self
                .encoder
                .value
                .chunks_mut(share * inputs)
                .zip(self.encoder.first.chunks_mut(share * inputs))
                .zip(self.encoder.second.chunks_mut(share * inputs))
                .zip(self.decoder.value.chunks_mut(share * inputs))
                .zip(self.decoder.first.chunks_mut(share * inputs))
                .zip(self.decoder.second.chunks_mut(share * inputs))
                .zip(bias_gradients.chunks_mut(share))
                .enumerate();
            for (part, ((((((ev, ef), es), dv), df), ds), bias_gradients)) in parts {
                let work = move || {
                    let mut scratch = (Vec::new(), Vec::new());
                    for (i, bias_gradient) in bias_gradients.iter_mut().enumerate() {
                        let latent = part * share + i;
                        let at = i * inputs..(i + 1) * inputs;
                        let encoder = RowMut {
                            value: &mut ev[at.clone()],
                            first: &mut ef[at.clone()],
                            second: &mut es[at.clone()],
                        };
                        let decoder =
                            RowMut { value: &mut dv[at.clone()], first: &mut df[at.clone()], second: &mut ds[at] };
                        let kept = &by_latent[offsets[latent]..offsets[latent + 1]];
                        *bias_gradient =
                            update_latent(kept, batch, errors, scale, adam, encoder, decoder, &mut scratch);
                    }
                };
                scope.spawn(work);
            }
        });
        adam.step(&bias_gradients, &mut self.encoder_bias);
        let mut gradient = vec![0.0; inputs];
        for error in errors.chunks_exact(inputs).take(n) {
            simd::axpy(scale, error, &mut gradient);
        }
        adam.step(&gradient, &mut self.decoder_bias);
    }

    /// Latents that were kept by none of the last `steps` batches.
    pub(super) fn dead(&self, steps: u64) -> Vec<usize> {
        (0..self.width).filter(|&latent| self.last_kept[latent] + steps < self.step).collect()
    }

    /// Reconstruction minus row, for each row of `batch` as the dictionary is used, `[n, inputs]`.
    fn errors_in_use(&mut self, batch: &[f32]) -> Result<Vec<f32>> {
        if !self.has_encoder() {
            return self.errors_of_pursuit(batch);
        }
        let inputs = self.inputs;
        let mut kept: Vec<Kept> = self.in_use(batch)?.into_iter().flatten().collect();
        let mut errors = vec![0.0; batch.len()];
        let mut from = 0;
        for (i, (row, error)) in batch.chunks_exact(inputs).zip(errors.chunks_exact_mut(inputs)).enumerate() {
            let to = from + kept[from..].partition_point(|kept| kept.row as usize <= i);
            backward_row(row, &self.decoder_bias.value, &self.decoder.value, &mut kept[from..to], error);
            from = to;
        }
        Ok(errors)
    }

    /// Gives each of the `dead` latents the direction of what the others leave unexplained on a random row of `batch`, rows
    /// chosen in proportion to the squared error (Bricken et al. 2023, neuron resampling).
    ///
    /// # Errors
    /// None of its own.
    pub(super) fn revive(&mut self, dead: &[usize], batch: &[f32], seed: u64) -> Result<()> {
        if dead.is_empty() || matches!(self.rule, Rule::Itda { .. }) {
            return Ok(());
        }
        let (inputs, n) = (self.inputs, batch.len() / self.inputs);
        let errors = self.errors_in_use(batch)?;
        let mut sum = 0.0;
        let weights: Vec<f64> = errors
            .chunks_exact(inputs)
            .map(|error| {
                sum += f64::from(squared_length(error));
                sum
            })
            .collect();
        let mut random = Random::new(seed, self.step);
        for &latent in dead {
            let at = random.below(1 << 30) as f64 / f64::from(1 << 30) * sum;
            let row = weights.partition_point(|&weight| weight <= at).min(n - 1);
            // The error is reconstruction minus row: its opposite is what is missing.
            let missing: Vec<f32> = normalized(&errors[row * inputs..(row + 1) * inputs]).map(|x| -x).collect();
            self.decoder.set_row(latent, &missing);
            if self.has_encoder() {
                self.encoder.set_row(latent, &missing);
                self.encoder_bias.set_row(latent, &[0.0]);
            }
            if self.rule == Rule::JumpRelu {
                self.log_thresholds.set_row(latent, &[self.threshold.ln()]);
            }
            self.last_kept[latent] = self.step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
