//! Which latents can fire on a row, found in whole numbers of 8 bits before anything is multiplied in `f32`.
//!
//! Of thousands of latents some dozen fire. Rows `x` and encoder rows `w` are scaled and rounded, `X = S x + d` and
//! `W = T w + e`; AVX2 multiplies whole numbers of 8 bits more than twice as fast as `f32`. By Cauchy and Schwarz `X W`
//! differs from `S T (x w)` by at most `|d| |T w| + |X| |e|`, whose four lengths are known. A latent whose `X W`, raised
//! by this bound and by that of the errors of `f32`, stays below its threshold does not fire. The others, about three
//! times as many as fire, are computed in `f32` with the additions of [`Packed`] in their order: the same bits as without
//! the screen.

use super::{Architecture, EncodeScratch, Sae, SparseRows};
use crate::options::Precision;
use crate::reader::packed::{self, Packed};
use crate::reader::simd::{self, multiversion};

/// Columns of a panel.
const COLUMNS: usize = 16;
/// Inputs whose products are summed in 16 bits, in two lanes.
const GROUP: usize = 16;
/// Numbers of a row lie between -63 and 63 and are stored with this added, because one factor has no sign.
const OFFSET: i32 = 64;
/// Row values are scaled to this at most, before rounding.
const LARGEST: f32 = 62.9;
/// Encoder values likewise.
const LARGEST_WEIGHT: f32 = 126.9;
/// What the weights of one sign of a lane add up to at most before rounding, which adds 4: 127 * 258 fits into 16 bits.
const LANE: f32 = 254.0;
/// Of no more inputs a sum of products fits into 32 bits, the part of the offset included.
const MAX_INPUTS: usize = 1 << 16;
/// Very small rows are scaled by no more, so that thresholds times both scales stay numbers.
const MAX_SCALE: f32 = 1e18;
/// Rows that are longer could leave the range of `f32` where their product is small.
const MAX_NORM: f32 = 1e15;
/// What lengths are multiplied by, for the errors of their own sums.
const MARGIN: f32 = 1.001;
/// Rows that are screened first, to see whether it pays.
const SAMPLE: usize = 6;
/// It does not pay if more than one in so many latents remains.
const REMAINING: usize = 20;

/// The encoder of a dictionary, ready to multiply.
#[derive(Debug, Clone)]
pub(crate) struct PackedEncoder {
    pub(super) dense: Packed,
    /// `None` where any latent may fire, or where the order of additions is not ours.
    pub(super) screen: Option<Screen>,
}

#[cfg(test)]
impl PackedEncoder {
    /// The same, always dense.
    pub(crate) fn without_screen(&self) -> Self {
        Self { dense: self.dense.clone(), screen: None }
    }
}

/// Encoder rows in 8 bits.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    inputs: usize,
    latents: usize,
    /// Per panel of 16 latents `[inputs / 4, 16, 4]`, filled with zeros.
    panels: Vec<i8>,
    /// Per latent and zero where there is none: the sum of its weights times minus [`OFFSET`].
    starts: Vec<i32>,
    /// Threshold less bias, times the latent's scale; infinite where there is none.
    thresholds: Vec<f32>,
    /// Length of the scaled weights, and of what was rounded off them.
    lengths: Vec<f32>,
    errors: Vec<f32>,
    /// Error of a sum of products in `f32`, as a share of the product of the lengths.
    of_f32: f32,
    /// Error of the comparison itself.
    slack: f32,
}

/// What screening needs between calls, so that it allocates nothing.
#[derive(Debug, Default)]
pub(super) struct ScreenScratch {
    row: Vec<f32>,
    rows: Vec<u8>,
    scales: Vec<Scaled>,
    /// Per panel and row, a bit a latent.
    masks: Vec<u16>,
    /// Rows and latents that may fire on them, panel after panel, so that a panel's weights are read together.
    pairs: Vec<(u32, u32)>,
    products: Vec<f32>,
    /// The same by row: latents and products, and where each row's end.
    latents: Vec<(u32, f32)>,
    ends: Vec<usize>,
}

/// What is known of a rounded row.
#[derive(Debug, Clone, Copy, Default)]
struct Scaled {
    scale: f32,
    /// At least the length of the rounded row, of what was rounded off, and of the scaled row.
    length: f32,
    error: f32,
    exact: f32,
}

multiversion! {
    /// Scales a row and rounds it in place; `None` of a row that is too large or no number. The largest value becomes
    /// `largest` unless `most` is a smaller scale.
    fn quantize(row: &mut [f32], largest: f32, most: f32) -> Option<Scaled> {
        // 1.5 * 2^23: adding it leaves a whole number, the nearest.
        const ROUND: f32 = 12_582_912.0;
        let norm = simd::dot(row, row).sqrt();
        if norm.is_nan() || norm > MAX_NORM {
            return None;
        }
        let scale = (largest / simd::max_abs(row)).min(most).min(MAX_SCALE);
        let mut error = [0.0f32; 16];
        let round = |value: &mut f32, error: &mut f32| {
            let scaled = *value * scale;
            *value = (scaled + ROUND) - ROUND;
            *error += (*value - scaled) * (*value - scaled);
        };
        let (chunks, rest) = row.as_chunks_mut::<16>();
        for chunk in chunks {
            for (value, error) in chunk.iter_mut().zip(&mut error) {
                round(value, error);
            }
        }
        for (value, error) in rest.iter_mut().zip(&mut error) {
            round(value, error);
        }
        // The scaled values were rounded too, to 8e-6 of them.
        let of_scaling = 1e-5 * (row.len() as f32).sqrt();
        Some(Scaled {
            scale,
            length: simd::dot(row, row).sqrt() * MARGIN,
            error: error.iter().sum::<f32>().sqrt() * MARGIN + of_scaling,
            exact: norm * scale * MARGIN,
        })
    }
}

multiversion! {
    fn store(row: &[f32], out: &mut [u8]) {
        for (out, value) in out.iter_mut().zip(row) {
            *out = (*value as i32 + OFFSET) as u8;
        }
    }
}

/// Largest sum of the weights of one sign in a lane.
fn largest_lane(weights: &[f32]) -> f32 {
    let mut largest = 0.0f32;
    for group in weights.chunks(GROUP) {
        let mut lanes = [[0.0f32; 2]; 2];
        for (at, &weight) in group.iter().enumerate() {
            lanes[at / 2 % 2][usize::from(weight < 0.0)] += weight.abs();
        }
        largest = lanes.as_flattened().iter().fold(largest, |largest, &sum| largest.max(sum));
    }
    largest
}

impl Screen {
    /// For the weights that were packed as `dense`, of latents that fire only if product and bias exceed `least`. `None`
    /// unless products run in order, which takes AVX2, and of weights that are out of range.
    fn new(dense: &Packed, weights: &[f32], bias: &[f32], least: impl Fn(usize) -> f32) -> Option<Self> {
        let (latents, inputs) = (dense.n(), dense.k());
        if !dense.is_in_order() || inputs == 0 || inputs > MAX_INPUTS {
            return None;
        }
        let depth = inputs.next_multiple_of(GROUP);
        let columns = latents.next_multiple_of(COLUMNS);
        let (mut panels, mut starts) = (vec![0; columns * depth], vec![0; columns]);
        let mut thresholds = vec![f32::INFINITY; columns];
        let (mut lengths, mut errors) = (vec![0.0; columns], vec![0.0; columns]);
        for (latent, weights) in weights.chunks_exact(inputs).enumerate() {
            let mut row = weights.to_vec();
            let scaled = quantize(&mut row, LARGEST_WEIGHT, LANE / largest_lane(weights))?;
            let panel = &mut panels[latent / COLUMNS * COLUMNS * depth..];
            for (at, &weight) in row.iter().enumerate() {
                panel[(at / 4 * COLUMNS + latent % COLUMNS) * 4 + at % 4] = weight as i8;
                starts[latent] -= OFFSET * weight as i32;
            }
            let distance = f64::from(least(latent)) - f64::from(bias[latent]);
            thresholds[latent] = (distance * f64::from(scaled.scale)) as f32;
            (lengths[latent], errors[latent]) = (scaled.exact, scaled.error);
        }
        // A sum of products in any order; one part in 50 for what is of second order.
        let of_f32 = 1.02 * (inputs as f32 * 1.01 + 4.0) * 2f32.powi(-24);
        // The comparison has the errors of some operations with numbers of up to twice the largest product.
        let slack = inputs as f32 * 8_128.0 * 2f32.powi(-19);
        Some(Self { inputs, latents, panels, starts, thresholds, lengths, errors, of_f32, slack })
    }

    /// Finds the latents that may fire on each row; `false` if the rows are better computed densely.
    fn find(&self, rows: &[f32], scratch: &mut ScreenScratch) -> bool {
        let (n, depth, panels) =
            (rows.len() / self.inputs, self.inputs.next_multiple_of(GROUP), self.thresholds.len() / COLUMNS);
        let ScreenScratch { row: scaled, rows: whole, scales, masks, pairs, .. } = scratch;
        whole.clear();
        whole.resize(n * depth, 0);
        scales.clear();
        for (row, out) in rows.chunks_exact(self.inputs).zip(whole.chunks_exact_mut(depth)) {
            scaled.clear();
            scaled.extend_from_slice(row);
            let Some(mut scale) = quantize(scaled, LARGEST, MAX_SCALE) else { return false };
            store(scaled, out);
            scale.error += self.of_f32 * scale.exact;
            scales.push(scale);
        }
        pairs.clear();
        for range in [0..SAMPLE.min(n), SAMPLE.min(n)..n] {
            masks.clear();
            masks.resize(range.len() * panels, 0);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a screen is made only where products run in order, with AVX2 and FMA; `whole` and `scales` have n
            // rows, `masks` was just made for those of the range.
            unsafe {
                let rows = &whole[range.start * depth..range.end * depth];
                x86::screen(rows.as_ptr(), &scales[range.clone()], self, masks.as_mut_ptr());
            }
            for (panel, masks) in masks.chunks_exact(range.len().max(1)).enumerate() {
                for (&mask, row) in masks.iter().zip(range.start as u32..) {
                    let mut mask = mask;
                    while mask != 0 {
                        pairs.push((row, (panel * COLUMNS) as u32 + mask.trailing_zeros()));
                        mask &= mask - 1;
                    }
                }
            }
            if pairs.len() > range.end * (self.latents / REMAINING) {
                return false;
            }
        }
        true
    }
}

impl ScreenScratch {
    /// Sorts products by row; within a row latents ascend as panels do.
    fn by_row(&mut self, n: usize) {
        self.ends.clear();
        self.ends.resize(n + 1, 0);
        for &(row, _) in &self.pairs {
            self.ends[row as usize + 1] += 1;
        }
        for i in 0..n {
            self.ends[i + 1] += self.ends[i];
        }
        self.latents.clear();
        self.latents.resize(self.pairs.len(), (0, 0.0));
        // Each row's begin moves to its end.
        for (&(row, latent), &product) in self.pairs.iter().zip(&self.products) {
            let at = &mut self.ends[row as usize];
            self.latents[*at] = (latent, product);
            *at += 1;
        }
        self.ends.truncate(n);
    }
}

impl Sae {
    /// The encoder's weights, for [`Sae::encode_windows`]; `None` of an architecture that has none, or is temporal.
    pub(crate) fn pack(&self, precision: Precision) -> Option<PackedEncoder> {
        if self.architecture().is_tied() || self.architecture().reads_sequences() {
            return None;
        }
        let (weights, thresholds) = (&self.weights, &self.weights.thresholds);
        let dense = Packed::new(&weights.encoder, self.spec.width, self.input_width(), precision);
        let screen = |least: &dyn Fn(usize) -> f32| Screen::new(&dense, &weights.encoder, &weights.encoder_bias, least);
        let screen = match self.architecture() {
            Architecture::BatchTopk { threshold, .. } => screen(&|_| threshold),
            Architecture::JumpRelu => screen(&|latent| thresholds[latent].max(0.0)),
            Architecture::Relu | Architecture::Gated => screen(&|_| 0.0),
            _ => None,
        };
        Some(PackedEncoder { dense, screen })
    }

    /// Adds the activations of a block of rows, computing only latents that may fire; `false` and nothing added if it is
    /// better done densely.
    pub(super) fn encode_screened(
        &self,
        screen: &Screen,
        rows: &[f32],
        scratch: &mut EncodeScratch,
        out: &mut SparseRows,
    ) -> bool {
        if !screen.find(rows, &mut scratch.screen) {
            return false;
        }
        let (screened, found) = (&mut scratch.screen, &mut scratch.found);
        let inputs = self.input_width();
        packed::products_in_order(rows, &self.weights.encoder, inputs, &screened.pairs, &mut screened.products);
        screened.by_row(rows.len() / inputs);
        let mut from = 0;
        for &end in &screened.ends {
            let latents = screened.latents[std::mem::replace(&mut from, end)..end].iter();
            found.clear();
            found.extend(latents.filter_map(|&(latent, product)| {
                self.activation(latent as usize, product).map(|activation| (activation, latent))
            }));
            if let Some(cap) = self.architecture().cap() {
                super::encode::keep_strongest(found, cap);
            }
            out.push_found(found);
        }
        true
    }

    /// What a latent that is screened fires with, if it does.
    fn activation(&self, latent: usize, product: f32) -> Option<f32> {
        let weights = &self.weights;
        let value = product + weights.encoder_bias[latent];
        match self.architecture() {
            Architecture::BatchTopk { threshold, .. } => (value > threshold).then_some(value),
            Architecture::JumpRelu => (value > weights.thresholds[latent] && value > 0.0).then_some(value),
            Architecture::Gated => {
                let magnitude = product * weights.magnitude[latent] + weights.magnitude_bias[latent];
                (value > 0.0 && magnitude > 0.0).then_some(magnitude)
            }
            _ => (value > 0.0).then_some(value),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{COLUMNS, GROUP, Scaled, Screen};

    /// Rows of a tile.
    const TILE: usize = 6;
    /// Inputs of a number of 32 bits, and how many such are summed in 16 bits.
    const QUAD: usize = 4;
    const QUADS: usize = GROUP / QUAD;

    /// Marks the latents that may fire on rows `[scales.len(), inputs]` (filled to whole groups).
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; `rows` points at that many values, `masks` at room for one a panel and row.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn screen(rows: *const u8, scales: &[Scaled], screen: &Screen, masks: *mut u16) {
        let (depth, panels) = (screen.inputs.next_multiple_of(GROUP), screen.thresholds.len() / COLUMNS);
        let n = scales.len();
        for panel in 0..panels {
            for (tile, scales) in scales.chunks(TILE).enumerate() {
                // SAFETY: the panel exists, and the rows of the tile.
                unsafe {
                    let (rows, out) = (rows.add(tile * TILE * depth), masks.add(panel * n + tile * TILE));
                    match scales.len() {
                        1 => tile_of::<1>(rows, scales, screen, panel, out),
                        2 => tile_of::<2>(rows, scales, screen, panel, out),
                        3 => tile_of::<3>(rows, scales, screen, panel, out),
                        4 => tile_of::<4>(rows, scales, screen, panel, out),
                        5 => tile_of::<5>(rows, scales, screen, panel, out),
                        _ => tile_of::<TILE>(rows, scales, screen, panel, out),
                    }
                }
            }
        }
    }

    /// R rows by 16 latents.
    ///
    /// # Safety
    /// As [`screen`]; there are R rows and scales.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile_of<const R: usize>(
        rows: *const u8,
        scales: &[Scaled],
        screen: &Screen,
        panel: usize,
        out: *mut u16,
    ) {
        let depth = screen.inputs.next_multiple_of(GROUP);
        let ones = _mm256_set1_epi16(1);
        // SAFETY: promised by the caller; a panel has 4 * COLUMNS values a quad, and one of each other kind a column.
        unsafe {
            let starts = screen.starts.as_ptr().add(panel * COLUMNS);
            let mut sums = [[_mm256_loadu_si256(starts.cast()), _mm256_loadu_si256(starts.add(8).cast())]; R];
            let weights = screen.panels.as_ptr().add(panel * depth * COLUMNS);
            for group in (0..depth).step_by(GROUP) {
                let mut parts = [[_mm256_setzero_si256(); 2]; R];
                for quad in 0..QUADS {
                    let at = group + quad * QUAD;
                    let left = _mm256_loadu_si256(weights.add(at * COLUMNS).cast());
                    let right = _mm256_loadu_si256(weights.add(at * COLUMNS + 32).cast());
                    for (i, parts) in parts.iter_mut().enumerate() {
                        let values = rows.add(i * depth + at).cast::<i32>().read_unaligned();
                        let values = _mm256_set1_epi32(values);
                        parts[0] = _mm256_add_epi16(parts[0], _mm256_maddubs_epi16(values, left));
                        parts[1] = _mm256_add_epi16(parts[1], _mm256_maddubs_epi16(values, right));
                    }
                }
                for (sums, parts) in sums.iter_mut().zip(&parts) {
                    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(parts[0], ones));
                    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(parts[1], ones));
                }
            }
            let of = |values: &[f32], half: usize| _mm256_loadu_ps(values.as_ptr().add(panel * COLUMNS + half * 8));
            for (i, (sums, row)) in sums.into_iter().zip(scales).enumerate() {
                let mask = |half: usize| {
                    let least = _mm256_set1_ps(-screen.slack);
                    let least = _mm256_fnmadd_ps(_mm256_set1_ps(row.length), of(&screen.errors, half), least);
                    let least = _mm256_fnmadd_ps(_mm256_set1_ps(row.error), of(&screen.lengths, half), least);
                    let least = _mm256_fmadd_ps(_mm256_set1_ps(row.scale), of(&screen.thresholds, half), least);
                    let sum = _mm256_cvtepi32_ps(sums[half]);
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(sum, least)) as u16
                };
                *out.add(i) = mask(0) | mask(1) << 8;
            }
        }
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
