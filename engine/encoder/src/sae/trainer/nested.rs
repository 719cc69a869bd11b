//! Matryoshka (Bussmann et al. 2025, arXiv:2503.17547, section 3): nested dictionaries, of which each rebuilds the rows
//! without the latents behind it.
//!
//! The loss is the mean over the prefixes `m` of `|x - (a[..m] D[..m] + d)|^2` (the paper takes the sum), so that the first
//! latents have to say the most. A latent in the prefixes `g, g + 1, ...` learns from the sum of their errors: these sums
//! are what [`Backward::errors`] holds, the rows for `g = 0` first, then those for `g = 1`, and so on.

use super::{BLOCK_ROWS, Backward, Kept, Trainer};
use crate::error::Result;
use crate::reader::parallel;
use crate::reader::simd::{self, multiversion};

/// Where the nested dictionaries end by default, in 32nds of the width: the shares of the paper.
const ENDS: [usize; 5] = [1, 3, 7, 15, 32];

/// The nested dictionaries of the paper for a dictionary of `width` latents.
pub(in crate::sae) fn default_ends(width: usize) -> Vec<usize> {
    let mut ends: Vec<usize> = ENDS.iter().map(|share| share * width / 32).filter(|&end| end > 0).collect();
    ends.dedup();
    ends
}

multiversion! {
    /// Sums of the errors of the prefixes from each one on, divided by the number of prefixes, into `errors`
    /// (`[prefixes, inputs]`), and the derivatives by the activations of `kept`, which ascend by latent; returns the squared
    /// error of the last prefix.
    fn backward_prefixes(
        row: &[f32],
        bias: &[f32],
        decoder: &[f32],
        ends: &[usize],
        kept: &mut [Kept],
        errors: &mut [f32],
    ) -> f32 {
        let inputs = row.len();
        let at = |latent: u32| latent as usize * inputs..(latent as usize + 1) * inputs;
        let mut from = 0;
        for (g, &end) in ends.iter().enumerate() {
            let (before, error) = errors.split_at_mut(g * inputs);
            let error = &mut error[..inputs];
            if g == 0 {
                for ((error, bias), x) in error.iter_mut().zip(bias).zip(row) {
                    *error = bias - x;
                }
            } else {
                error.copy_from_slice(&before[(g - 1) * inputs..]);
            }
            let to = from + kept[from..].partition_point(|kept| (kept.latent as usize) < end);
            for kept in &kept[from..to] {
                simd::axpy(kept.activation, &decoder[at(kept.latent)], error);
            }
            from = to;
        }
        let last = &errors[(ends.len() - 1) * inputs..];
        let squared = simd::dot(last, last);
        let share = 1.0 / ends.len() as f32;
        errors.iter_mut().for_each(|error| *error *= share);
        for g in (1..ends.len()).rev() {
            let (before, later) = errors.split_at_mut(g * inputs);
            simd::axpy(1.0, &later[..inputs], &mut before[(g - 1) * inputs..]);
        }
        for kept in kept.iter_mut() {
            let g = ends.partition_point(|&end| end <= kept.latent as usize);
            kept.gradient = simd::dot(&decoder[at(kept.latent)], &errors[g * inputs..(g + 1) * inputs]);
        }
        squared
    }
}

impl Trainer {
    /// As [`Trainer::backward`], for nested dictionaries that end at `ends`.
    pub(super) fn backward_nested(
        &self,
        batch: &[f32],
        blocks: &[Vec<Kept>],
        weakest: f32,
        ends: &[usize],
    ) -> Result<Backward> {
        let (inputs, n) = (self.inputs, batch.len() / self.inputs);
        let results = parallel(blocks.len(), self.threads, |row_errors: &mut Vec<f32>, i| {
            let rows = &batch[i * BLOCK_ROWS * inputs..((i + 1) * BLOCK_ROWS * inputs).min(batch.len())];
            let mut kept: Vec<Kept> = blocks[i].iter().copied().filter(|kept| kept.activation >= weakest).collect();
            // By prefix, as in the whole.
            let mut errors = vec![0.0; ends.len() * rows.len()];
            row_errors.resize(ends.len() * inputs, 0.0);
            let (mut from, mut error_sum) = (0, 0.0);
            for (j, row) in rows.chunks_exact(inputs).enumerate() {
                let index = (i * BLOCK_ROWS + j) as u32;
                let to = from + kept[from..].partition_point(|kept| kept.row <= index);
                let (bias, decoder) = (&self.decoder_bias.value, &self.decoder.value);
                let squared = backward_prefixes(row, bias, decoder, ends, &mut kept[from..to], row_errors);
                error_sum += f64::from(squared);
                for (g, error) in row_errors.chunks_exact(inputs).enumerate() {
                    let at = g * rows.len() + j * inputs;
                    errors[at..at + inputs].copy_from_slice(error);
                }
                from = to;
            }
            for kept in &mut kept {
                let g = ends.partition_point(|&end| end <= kept.latent as usize);
                kept.row += (g * n) as u32;
            }
            Ok((kept, errors, error_sum))
        })?;
        let mut backward = Backward { kept: Vec::new(), errors: vec![0.0; ends.len() * batch.len()], error_sum: 0.0 };
        let mut at = 0;
        for (kept, errors, error_sum) in results {
            backward.kept.extend(kept);
            backward.error_sum += error_sum;
            let size = errors.len() / ends.len();
            for (g, errors) in errors.chunks_exact(size).enumerate() {
                let from = g * batch.len() + at;
                backward.errors[from..from + size].copy_from_slice(errors);
            }
            at += size;
        }
        Ok(backward)
    }
}
