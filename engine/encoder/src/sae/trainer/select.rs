//! Which latents of a batch take part: the rules in which the architectures differ.

use super::super::encode::above;
use super::{BLOCK_ROWS, Kept, Rule, Trainer};
use crate::error::Result;
use crate::reader::parallel;
use crate::reader::simd::{MatMul, multiversion};

/// Latents of a batch, by blocks of rows: those whose activation reaches `weakest` take part.
pub(super) struct Selection {
    pub(super) blocks: Vec<Vec<Kept>>,
    pub(super) weakest: f32,
    /// Weakest activation that was kept, for the running threshold; infinite if there is none.
    pub(super) threshold: f32,
}

multiversion! {
    /// Pushes `(activation, latent)` for every `|products + bias| > threshold`.
    fn beyond(products: &[f32], bias: &[f32], threshold: f32, found: &mut Vec<(f32, u32)>) {
        const LANES: usize = 32;
        let (product_chunks, product_rest) = products.as_chunks::<LANES>();
        let (bias_chunks, bias_rest) = bias.as_chunks::<LANES>();
        for (i, (products, bias)) in product_chunks.iter().zip(bias_chunks).enumerate() {
            let mut values = [0.0f32; LANES];
            for ((value, product), bias) in values.iter_mut().zip(products).zip(bias) {
                *value = product + bias;
            }
            let hits: u32 = values.iter().map(|&value| u32::from(value.abs() > threshold)).sum();
            if hits > 0 {
                for (j, &value) in values.iter().enumerate() {
                    if value.abs() > threshold {
                        found.push((value, (i * LANES + j) as u32));
                    }
                }
            }
        }
        let done = product_chunks.len() * LANES;
        for (j, (product, bias)) in product_rest.iter().zip(bias_rest).enumerate() {
            if (product + bias).abs() > threshold {
                found.push((product + bias, (done + j) as u32));
            }
        }
    }
}

/// Pushes `(activation, latent)` for every latent whose activation, or its magnitude if `signed`, is above `floor`.
pub(super) fn fire(products: &[f32], bias: &[f32], floor: f32, signed: bool, found: &mut Vec<(f32, u32)>) {
    if signed { beyond(products, bias, floor, found) } else { above(products, bias, floor, found) }
}

/// Leaves the `k` strongest, in no order.
pub(super) fn keep_strongest(k: usize, found: &mut Vec<(f32, u32)>) {
    if found.len() > k {
        found.select_nth_unstable_by(k, |a, b| b.0.abs().total_cmp(&a.0.abs()));
        found.truncate(k);
    }
}

impl Trainer {
    /// Latents of `batch` by the rule of the architecture.
    pub(super) fn select(&self, batch: &[f32]) -> Result<Selection> {
        match &self.rule {
            Rule::TopK { signed } => self.select_by_row(batch, *signed),
            Rule::JumpRelu => {
                Ok(Selection { blocks: self.jumps(batch)?, weakest: f32::NEG_INFINITY, threshold: f32::INFINITY })
            }
            _ => self.select_by_batch(batch),
        }
    }

    /// BatchTopK (Bussmann et al. 2024, arXiv:2412.06410): the `k * n` strongest of all `n` rows.
    fn select_by_batch(&self, batch: &[f32]) -> Result<Selection> {
        let wanted = self.k * (batch.len() / self.inputs);
        // Most of what a batch keeps lies above its predecessors' threshold; if too little does, take all.
        let mut blocks = self.candidates(batch, self.threshold * 0.7)?;
        if blocks.iter().map(Vec::len).sum::<usize>() < wanted {
            blocks = self.candidates(batch, 0.0)?;
        }
        let mut activations: Vec<f32> = blocks.iter().flatten().map(|kept| kept.activation).collect();
        let weakest = if activations.len() > wanted {
            *activations.select_nth_unstable_by(wanted - 1, |a, b| b.total_cmp(a)).1
        } else {
            activations.iter().copied().fold(f32::INFINITY, f32::min)
        };
        Ok(Selection { blocks, weakest, threshold: weakest })
    }

    /// TopK (Gao et al. 2024, arXiv:2406.04093) and, `signed`, AbsTopK (Zhu et al. 2025, arXiv:2510.00404): the `k`
    /// strongest of each row.
    fn select_by_row(&self, batch: &[f32], signed: bool) -> Result<Selection> {
        let (k, floor) = (self.k, self.threshold * 0.5);
        let blocks = self.by_row(batch, |products, row, found, kept| {
            found.clear();
            fire(products, &self.encoder_bias.value, floor, signed, found);
            if found.len() < k && floor > 0.0 {
                found.clear();
                fire(products, &self.encoder_bias.value, 0.0, signed, found);
            }
            keep_strongest(k, found);
            found.sort_unstable_by_key(|&(_, latent)| latent);
            kept.extend(found.iter().map(|&(activation, latent)| Kept::new(row, latent, activation)));
        })?;
        // The mean over rows of the weakest that each kept: where the next batch begins to look.
        let (mut sum, mut n) = (0.0f64, 0u32);
        for kept in blocks.iter().flat_map(|block| block.chunk_by(|a, b| a.row == b.row)) {
            sum += f64::from(kept.iter().map(|kept| kept.activation.abs()).fold(f32::INFINITY, f32::min));
            n += 1;
        }
        let threshold = if n == 0 { f32::INFINITY } else { (sum / f64::from(n)) as f32 };
        Ok(Selection { blocks, weakest: f32::NEG_INFINITY, threshold })
    }

    /// Latents that fire on `batch` in use, that is, without a look at the other rows.
    pub(super) fn in_use(&self, batch: &[f32]) -> Result<Vec<Vec<Kept>>> {
        match &self.rule {
            Rule::TopK { .. } | Rule::JumpRelu => Ok(self.select(batch)?.blocks),
            _ => self.candidates(batch, self.threshold),
        }
    }

    /// Activations above `threshold`, by blocks of rows.
    pub(super) fn candidates(&self, batch: &[f32], threshold: f32) -> Result<Vec<Vec<Kept>>> {
        self.by_row(batch, |products, row, found, kept| {
            found.clear();
            above(products, &self.encoder_bias.value, threshold, found);
            kept.extend(found.iter().map(|&(activation, latent)| Kept::new(row, latent, activation)));
        })
    }

    /// Multiplies `batch` by the encoder, by blocks of rows, and gives the products of each row to `visit`, which keeps what
    /// it wants.
    pub(super) fn by_row(
        &self,
        batch: &[f32],
        visit: impl Fn(&[f32], u32, &mut Vec<(f32, u32)>, &mut Vec<Kept>) + Sync,
    ) -> Result<Vec<Vec<Kept>>> {
        let (width, inputs) = (self.width, self.inputs);
        let blocks: Vec<&[f32]> = batch.chunks(BLOCK_ROWS * inputs).collect();
        parallel(blocks.len(), self.threads, |(dense, found): &mut (Vec<f32>, Vec<(f32, u32)>), i| {
            let n = blocks[i].len() / inputs;
            dense.resize(BLOCK_ROWS * width, 0.0);
            MatMul::linear(n, width, inputs).run(blocks[i], &self.encoder.value, dense);
            let mut kept = Vec::new();
            for (j, products) in dense.chunks_exact(width).take(n).enumerate() {
                visit(products, (i * BLOCK_ROWS + j) as u32, found, &mut kept);
            }
            Ok(kept)
        })
    }
}
