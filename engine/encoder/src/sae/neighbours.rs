//! Latents that stand for nearly the same: whose decoder rows point nearly the same way.

use std::ops::Range;

use super::Sae;
use crate::error::Result;
use crate::reader::parallel;
use crate::reader::simd::{self, MatMul};

/// Latents that are compared with all others at once.
const BLOCK_ROWS: usize = 256;
/// Latents against which they are compared at once: 256 x 8,192 cosines are 8 MB a thread.
const BLOCK_COLUMNS: usize = 8192;

/// Decoder rows brought to length 1; one that is zero stays so, and has cosine 0 with all others.
pub(super) struct Directions {
    rows: Vec<f32>,
    width: usize,
    /// What the lengths were.
    lengths: Vec<f32>,
}

impl Directions {
    /// Directions of all latents of a dictionary.
    pub(super) fn of(sae: &Sae) -> Self {
        Self::new(sae.decoder().to_vec(), sae.output_width())
    }

    fn new(mut rows: Vec<f32>, width: usize) -> Self {
        let mut lengths = Vec::with_capacity(rows.len() / width);
        for row in rows.chunks_exact_mut(width) {
            let length = simd::dot(row, row).sqrt();
            if length > 0.0 {
                row.iter_mut().for_each(|value| *value /= length);
            }
            lengths.push(length);
        }
        Self { rows, width, lengths }
    }

    /// Number of directions.
    pub(super) fn len(&self) -> usize {
        self.rows.len() / self.width
    }

    /// Direction of latent `i`.
    pub(super) fn row(&self, i: u32) -> &[f32] {
        &self.rows[i as usize * self.width..(i as usize + 1) * self.width]
    }

    /// Length of what an activation of 1 of latent `i` adds.
    pub(super) fn length(&self, i: u32) -> f32 {
        self.lengths[i as usize]
    }

    /// For each of `latents` the `n` directions of `others` that have the largest cosine with it, largest first, and these
    /// cosines. A latent is not its own neighbour where `others` are the same dictionary. Both must be of the same width.
    ///
    /// # Errors
    /// None of its own.
    pub(super) fn nearest(
        &self,
        latents: &[u32],
        others: &Self,
        n: usize,
        threads: usize,
    ) -> Result<Vec<Vec<(u32, f32)>>> {
        let same = std::ptr::eq(self, others);
        let blocks: Vec<&[u32]> = latents.chunks(BLOCK_ROWS).collect();
        let found = parallel(blocks.len(), threads, |(rows, cosines): &mut (Vec<f32>, Vec<f32>), i| {
            rows.clear();
            blocks[i].iter().for_each(|&latent| rows.extend_from_slice(self.row(latent)));
            let mut nearest = vec![Vec::new(); blocks[i].len()];
            for first in (0..others.len()).step_by(BLOCK_COLUMNS) {
                let columns = first..(first + BLOCK_COLUMNS).min(others.len());
                cosines.resize(blocks[i].len() * columns.len(), 0.0);
                let part = &others.rows[columns.start * self.width..columns.end * self.width];
                MatMul::linear(blocks[i].len(), columns.len(), self.width).run(rows, part, cosines);
                let by_latent = cosines.chunks_exact(columns.len()).zip(blocks[i]).zip(&mut nearest);
                for ((cosines, &latent), nearest) in by_latent {
                    keep_nearest(nearest, cosines, columns.clone(), same.then_some(latent), n);
                }
            }
            Ok(nearest)
        })?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// Adds those of `columns` to `nearest` that belong there.
fn keep_nearest(nearest: &mut Vec<(u32, f32)>, cosines: &[f32], columns: Range<usize>, itself: Option<u32>, n: usize) {
    for (column, &cosine) in columns.zip(cosines) {
        let column = column as u32;
        let full = nearest.len() >= n;
        if Some(column) == itself || (full && nearest.last().is_none_or(|&(_, least)| cosine <= least)) {
            continue;
        }
        // Columns come in ascending order: of equal ones the first stays in front.
        nearest.insert(nearest.partition_point(|&(_, other)| other >= cosine), (column, cosine));
        nearest.truncate(n);
    }
}

impl Sae {
    /// For each of `latents` the `n` others whose decoder rows point most nearly the same way, nearest first.
    ///
    /// # Errors
    /// As [`Directions::nearest`].
    pub(crate) fn neighbours(&self, latents: &[u32], n: usize, threads: usize) -> Result<Vec<Vec<u32>>> {
        let directions = Directions::of(self);
        let nearest = directions.nearest(latents, &directions, n, threads)?;
        Ok(nearest.into_iter().map(|nearest| nearest.into_iter().map(|(latent, _)| latent).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_are_found_in_order_and_lengths_do_not_count() {
        let a = Directions::new(vec![2.0, 0.0, 0.0, 3.0, 1.0, 1.0, 0.0, 0.0], 2);
        let nearest = a.nearest(&[0, 2, 3], &a, 2, 2).unwrap();
        let half = 0.5f32.sqrt();
        assert_eq!(nearest[0].iter().map(|&(latent, _)| latent).collect::<Vec<_>>(), [2, 1]);
        assert!((nearest[0][0].1 - half).abs() < 1e-6 && nearest[0][1].1.abs() < 1e-6);
        // Equally near: the lower latent first. The zero row is near to none.
        assert_eq!(nearest[1].iter().map(|&(latent, _)| latent).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(nearest[2], [(0, 0.0), (1, 0.0)]);
        let b = Directions::new(vec![-1.0, 0.0, 5.0, 0.1], 2);
        let partners = a.nearest(&[0], &b, 1, 1).unwrap();
        assert_eq!(partners[0][0].0, 1);
    }
}
