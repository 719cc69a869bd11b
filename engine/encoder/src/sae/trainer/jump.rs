//! JumpReLU (Rajamanoharan et al. 2024, arXiv:2407.14435): each latent has a threshold of its own, learned with
//! straight-through estimators.
//!
//! `a_i = z_i H(z_i - t_i)` (equation 4). The loss is the squared error plus a penalty on L0 (equations 9 and 10), here
//! `PENALTY * (L0 / k - 1)^2`, which aims at `k` instead of at 0. `H` has no useful derivative, so that of a rectangle `w`
//! wide stands in for it (equations 11 and 12): `da/dt = -(t / w) R((z - t) / w)` and `dH/dt = -(1 / w) R((z - t) / w)`,
//! where `R` is 1 between -1/2 and 1/2. All other parameters learn through what was above its threshold, exactly. It is the
//! logarithm of a threshold that is learned, so that it stays positive.

use super::super::encode::above;
use super::adam::AdamStep;
use super::{Kept, Trainer};
use crate::error::Result;

/// Width of the rectangle in multiples of the first threshold. The paper's 0.001 (about 1/50) is for 500,000 steps; a
/// training of some thousand has to learn from more samples a step.
const BANDWIDTH: f32 = 0.5;
/// Weight of the squared deviation of L0 from `k`, relative to it.
const PENALTY: f32 = 4.0;
/// Step size of the logarithms, in multiples of the others'.
const RATE: f32 = 5.0;

/// What the loss adds for firing `l0` latents on a row instead of `k`.
#[cfg(test)]
pub(super) fn penalty(l0: f64, k: f64) -> f64 {
    f64::from(PENALTY) * (l0 / k - 1.0).powi(2)
}

impl Trainer {
    /// Gives all latents the threshold with which `k` fire on a row of `samples`.
    pub(super) fn start_thresholds(&mut self, samples: &[f32]) -> Result<()> {
        let wanted = self.k * (samples.len() / self.inputs);
        let blocks = self.candidates(samples, 0.0)?;
        let mut activations: Vec<f32> = blocks.iter().flatten().map(|kept| kept.activation).collect();
        let threshold = if activations.len() > wanted {
            *activations.select_nth_unstable_by(wanted, |a, b| b.total_cmp(a)).1
        } else {
            activations.iter().copied().fold(f32::INFINITY, f32::min)
        };
        self.threshold = if threshold.is_finite() { threshold.max(1e-6) } else { 1e-3 };
        self.log_thresholds.value.fill(self.threshold.ln());
        Ok(())
    }

    /// Threshold of each latent; none unless the rule is [`super::Rule::JumpRelu`].
    pub(in crate::sae) fn thresholds(&self) -> Vec<f32> {
        self.log_thresholds.value.iter().map(|log| log.exp()).collect()
    }

    pub(super) fn bandwidth(&self) -> f32 {
        // The first threshold: this architecture has no running one.
        self.threshold * BANDWIDTH
    }

    /// Latents above their threshold, and those not far below it, whose activation is 0.
    pub(super) fn jumps(&self, batch: &[f32]) -> Result<Vec<Vec<Kept>>> {
        let half = self.bandwidth() / 2.0;
        let thresholds = self.thresholds();
        let shifted: Vec<f32> =
            self.encoder_bias.value.iter().zip(&thresholds).map(|(bias, threshold)| bias - threshold + half).collect();
        self.by_row(batch, |products, row, found, kept| {
            found.clear();
            above(products, &shifted, 0.0, found);
            kept.extend(found.iter().map(|&(over, latent)| {
                let activation = if over > half { over - half + thresholds[latent as usize] } else { 0.0 };
                Kept::new(row, latent, activation)
            }));
        })
    }

    /// Learns the thresholds from what came near them, and leaves in `kept` what was above.
    pub(super) fn update_thresholds(&mut self, kept: &mut Vec<Kept>, n: usize, adam: AdamStep) {
        let gradient = self.threshold_gradient(kept, n);
        kept.retain(|kept| kept.activation > 0.0);
        adam.times(RATE).step(&gradient, &mut self.log_thresholds);
    }

    /// Derivative of the loss by the logarithm of each threshold, for `n` rows.
    fn threshold_gradient(&self, kept: &[Kept], n: usize) -> Vec<f32> {
        let (width, thresholds) = (self.bandwidth(), self.thresholds());
        let n = n as f32;
        let l0 = kept.iter().filter(|kept| kept.activation > 0.0).count() as f32 / n;
        let excess = PENALTY * 2.0 * (l0 / self.k as f32 - 1.0) / self.k as f32;
        let mut gradient = vec![0.0; self.width];
        for kept in kept {
            let threshold = thresholds[kept.latent as usize];
            if kept.activation - threshold < width / 2.0 {
                let by_threshold = -(2.0 * kept.gradient * threshold + excess) / (width * n);
                gradient[kept.latent as usize] += threshold * by_threshold;
            }
        }
        gradient
    }
}
