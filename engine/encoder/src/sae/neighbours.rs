//! Latents that stand for nearly the same.

use super::Sae;
use crate::reader::simd::MatMul;

/// Latents that are compared with all others at once.
const BLOCK_ROWS: usize = 256;

impl Sae {
    /// For each of `latents` the `n` others whose decoder rows point most nearly the same way, nearest first.
    pub(crate) fn neighbours(&self, latents: &[u32], n: usize) -> Vec<Vec<u32>> {
        let (width, inputs, decoder) = (self.width(), self.output_width(), self.decoder());
        let (mut rows, mut cosines) = (Vec::new(), vec![0.0; BLOCK_ROWS * width]);
        // Rows of other sources' dictionaries have other lengths than 1.
        let lengths: Vec<f32> =
            decoder.chunks_exact(inputs).map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt()).collect();
        let other_lengths = lengths.iter().any(|length| (length - 1.0).abs() > 0.01);
        let mut neighbours = Vec::with_capacity(latents.len());
        for block in latents.chunks(BLOCK_ROWS) {
            rows.clear();
            for &latent in block {
                rows.extend_from_slice(&decoder[latent as usize * inputs..(latent as usize + 1) * inputs]);
            }
            let cosines = &mut cosines[..block.len() * width];
            MatMul::linear(block.len(), width, inputs).run(&rows, decoder, cosines);
            if other_lengths {
                for cosines in cosines.chunks_exact_mut(width) {
                    cosines.iter_mut().zip(&lengths).for_each(|(cosine, length)| *cosine /= length.max(1e-12));
                }
            }
            for (&latent, cosines) in block.iter().zip(cosines.chunks_exact(width)) {
                let mut others: Vec<u32> = (0..width as u32).filter(|&other| other != latent).collect();
                let nearer = |a: &u32, b: &u32| cosines[*b as usize].total_cmp(&cosines[*a as usize]).then(a.cmp(b));
                if others.len() > n {
                    others.select_nth_unstable_by(n, nearer);
                    others.truncate(n);
                }
                others.sort_unstable_by(nearer);
                neighbours.push(others);
            }
        }
        neighbours
    }
}
