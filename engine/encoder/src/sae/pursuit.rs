//! Matching pursuit (Mallat and Zhang 1993): the decoder row that says most of what is left is taken, `c_t = d_t r_{t-1}`,
//! `r_t = r_{t-1} - c_t d_t`, again and again. It is how dictionaries without an encoder are read and trained.
//!
//! A step needs the products of all rows with what is left. These are computed once and then kept up to date with the
//! products of the rows among themselves ([`gram`], `width^2` numbers), which makes a step `inputs` times cheaper. Which row
//! is taken rests on them; how much of it is computed from what is left, so that no error adds up.

use std::sync::{Mutex, PoisonError};

use super::encode::{EncodeScratch, SparseRows};
use super::{Architecture, Sae};
use crate::reader::simd::{self, MatMul, multiversion};

/// Latents whose products a thread computes at once.
const GRAM_ROWS: usize = 128;
/// Wider dictionaries are read without the products of their rows, which would take more than 256 MB.
const MOST_LATENTS: usize = 8192;

/// A step of a pursuit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) latent: u32,
    pub(super) amount: f32,
}

/// What is pursued, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pursuit<'a> {
    /// Row-major `[latents, inputs]`.
    pub(super) decoder: &'a [f32],
    /// Steps at most.
    pub(super) steps: usize,
    /// Whether rows are taken with either sign.
    pub(super) signed: bool,
    /// A row that says no more than this is not taken.
    pub(super) least_amount: f32,
    /// What is left is small enough when shorter than this; 0: never.
    pub(super) least_left: f32,
    /// Whether a latent that is taken for the second time is the last.
    pub(super) stop_on_duplicate: bool,
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
    /// Place and value of the largest number above 0, the first of equal ones.
    pub(super) fn largest(values: &[f32]) -> Option<(usize, f32)> {
        Some(most(values, false)).filter(|&(_, value)| value > 0.0)
    }
}

/// Takes the row of which `products` says that it says most of `left`; whether there may be another step.
#[inline(always)]
fn step(pursuit: &Pursuit, products: &[f32], left: &mut [f32], taken: &mut Vec<Taken>) -> bool {
    let (at, strength) = most(products, pursuit.signed);
    if strength <= pursuit.least_amount {
        return false;
    }
    let row = &pursuit.decoder[at * left.len()..(at + 1) * left.len()];
    let amount = simd::dot(left, row);
    // The products may be a little off.
    if amount == 0.0 || amount < 0.0 && !pursuit.signed {
        return false;
    }
    simd::axpy(-amount, row, left);
    let latent = at as u32;
    let is_last = pursuit.stop_on_duplicate && taken.iter().any(|step| step.latent == latent)
        || pursuit.least_left > 0.0 && simd::dot(left, left).sqrt() < pursuit.least_left;
    taken.push(Taken { latent, amount });
    !is_last
}

multiversion! {
    /// [`step`] by itself.
    fn take(pursuit: &Pursuit, products: &[f32], left: &mut [f32], taken: &mut Vec<Taken>) -> bool {
        step(pursuit, products, left, taken)
    }
}

multiversion! {
    /// Pursues a row, of which `left` is left, by its products with all latents; rows of `gram` are `stride` long. Steps are
    /// added to `taken`, which is empty where it matters whether a latent is taken twice.
    pub(super) fn pursue(
        pursuit: &Pursuit,
        gram: &[f32],
        stride: usize,
        products: &mut [f32],
        left: &mut [f32],
        taken: &mut Vec<Taken>,
    ) {
        for more in (0..pursuit.steps).rev() {
            if !step(pursuit, products, left, taken) || more == 0 {
                return;
            }
            if let Some(step) = taken.last() {
                let from = step.latent as usize * stride;
                simd::axpy(-step.amount, &gram[from..from + products.len()], products);
            }
        }
    }
}

/// Products of the rows of a decoder among themselves, `[width, width]`; zeros where it has fewer than `width` rows.
pub(super) fn gram(decoder: &[f32], inputs: usize, width: usize, threads: usize) -> Vec<f32> {
    let n = decoder.len() / inputs;
    let mut gram = vec![0.0; width * width];
    let blocks = Mutex::new(decoder.chunks(GRAM_ROWS * inputs).zip(gram.chunks_mut(GRAM_ROWS * width)));
    let multiply = || {
        let next = || blocks.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((rows, products)) = next() {
            let product = MatMul { out_stride: width, ..MatMul::linear(rows.len() / inputs, n, inputs) };
            product.run(rows, decoder, products);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(multiply);
        }
        multiply();
    });
    gram
}

impl Sae {
    /// How the architecture says that rows are pursued; `None` of one that has an encoder.
    pub(super) fn pursuit(&self) -> Option<Pursuit<'_>> {
        let (steps, least_left, stop_on_duplicate, signed) = match self.architecture() {
            Architecture::MatchingPursuit { max_iterations, residual_threshold, stop_on_duplicate } => {
                (max_iterations, residual_threshold, stop_on_duplicate, false)
            }
            Architecture::Itda { k } => (k, 0.0, false, true),
            _ => return None,
        };
        // Behind the rows lie those of the other sign.
        let decoder = &self.weights.decoder[..self.spec.width * self.input_width()];
        Some(Pursuit { decoder, steps, signed, least_amount: 0.0, least_left, stop_on_duplicate })
    }

    /// Adds the activations of a block of rows by matching pursuit.
    pub(super) fn pursue(&self, rows: &[f32], scratch: &mut EncodeScratch, out: &mut SparseRows) {
        let Some(pursuit) = self.pursuit() else { return };
        scratch.left.clear();
        scratch.left.extend_from_slice(rows);
        if self.spec.width <= MOST_LATENTS {
            self.pursue_by_gram(&pursuit, scratch, out);
        } else {
            self.pursue_densely(&pursuit, scratch, out);
        }
    }

    fn pursue_by_gram(&self, pursuit: &Pursuit, scratch: &mut EncodeScratch, out: &mut SparseRows) {
        let (width, inputs) = (self.spec.width, self.input_width());
        let EncodeScratch { dense, left, taken, found, .. } = scratch;
        let gram = self.gram.get_or_init(|| gram(pursuit.decoder, inputs, width, 1));
        dense.resize(left.len() / inputs * width, 0.0);
        MatMul::linear(left.len() / inputs, width, inputs).run(left, pursuit.decoder, dense);
        for (products, left) in dense.chunks_exact_mut(width).zip(left.chunks_exact_mut(inputs)) {
            taken.clear();
            pursue(pursuit, gram, width, products, left, taken);
            activations(taken, width, found);
            out.push_found(found);
        }
    }

    /// The same, with all products computed anew at each step.
    pub(super) fn pursue_densely(&self, pursuit: &Pursuit, scratch: &mut EncodeScratch, out: &mut SparseRows) {
        let (width, inputs) = (self.spec.width, self.input_width());
        let EncodeScratch { dense, left, found, .. } = scratch;
        let mut taken: Vec<Vec<Taken>> = vec![Vec::new(); left.len() / inputs];
        // Row of each residual; rows that are done leave, so that the product gets smaller.
        let mut active: Vec<usize> = (0..taken.len()).collect();
        for _ in 0..pursuit.steps {
            dense.resize(active.len() * width, 0.0);
            MatMul::linear(active.len(), width, inputs).run(left, pursuit.decoder, dense);
            let mut kept = 0;
            for (i, products) in dense.chunks_exact(width).enumerate() {
                if take(pursuit, products, &mut left[i * inputs..(i + 1) * inputs], &mut taken[active[i]]) {
                    left.copy_within(i * inputs..(i + 1) * inputs, kept * inputs);
                    active[kept] = active[i];
                    kept += 1;
                }
            }
            active.truncate(kept);
            left.truncate(kept * inputs);
        }
        for taken in &taken {
            activations(taken, width, found);
            out.push_found(found);
        }
    }
}

/// Features of what was taken, ascending: a latent that was taken twice is one, one below 0 is another.
fn activations(taken: &[Taken], width: usize, found: &mut Vec<(f32, u32)>) {
    found.clear();
    found.extend(taken.iter().map(|step| (step.amount, step.latent)));
    found.sort_by_key(|&(_, latent)| latent);
    found.dedup_by(|again, first| {
        let same = again.1 == first.1;
        if same {
            first.0 += again.0;
        }
        same
    });
    found.retain(|&(amount, _)| amount != 0.0);
    for (amount, latent) in found.iter_mut().filter(|(amount, _)| *amount < 0.0) {
        (*amount, *latent) = (-*amount, *latent + width as u32);
    }
    found.sort_unstable_by_key(|&(_, feature)| feature);
}
