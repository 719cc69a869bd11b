//! How much of what a dictionary leaves out is an affine function of what it reads ("dark matter": Engels, Riggs and
//! Tegmark 2024, arXiv:2410.14670).
//!
//! With input `y` and error `e` (what is left when the reconstruction is taken away), ridge regression of `e` on `y` in
//! closed form, fitted on one half of the documents and measured on the other, and the other way round. Of the rows
//! nothing is kept but sums of products, from which both the fit and its error on unseen rows follow exactly.

use crate::error::Result;
use crate::reader::parallel;
use crate::reader::simd::{MatMul, multiversion};

/// Widest input that is regressed on: 0.3 GB of products for each half at 4,096.
pub(super) const MAX_INPUTS: usize = 4096;
/// Rows that are multiplied in single precision before the sums go on in double.
const BLOCK_ROWS: usize = 512;
/// Ridge, in units of the mean variance of an input.
const RIDGE: f64 = 1e-4;
/// Samples in each half for every input, below which a regression learns so much chance that the share comes out clearly
/// too small: with `n` samples an input it predicts about `1 / n` of what is not linear wrongly on top.
const SAMPLES_AN_INPUT: f64 = 10.0;

/// Sums over the rows of one half.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    inputs: usize,
    outputs: usize,
    n: f64,
    /// Row-major `[1 + inputs, 1 + inputs + outputs + 1]`: products of `(1, y)` and `(1, y, e, |e|)`, summed.
    products: Vec<f64>,
    /// Sum of `|e|²`.
    squares: f64,
}

/// What the products of a few rows need.
#[derive(Debug, Default)]
pub(super) struct MomentsScratch {
    left: Vec<f32>,
    right: Vec<f32>,
    products: Vec<f32>,
}

/// What a regression finds on documents that it was not fitted on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LinearShare {
    /// Share of the squared error that an affine function of the input predicts. Slightly below 0 where there is nothing
    /// to predict.
    pub(super) error: f64,
    /// R² of the length of the error.
    pub(super) norm: f64,
}

impl Moments {
    pub(super) fn new(inputs: usize, outputs: usize) -> Self {
        let products = vec![0.0; (1 + inputs) * (2 + inputs + outputs)];
        Self { inputs, outputs, n: 0.0, products, squares: 0.0 }
    }

    /// Takes in rows: their inputs `[rows, inputs]` and what the dictionary leaves of them `[rows, outputs]`.
    pub(super) fn add(&mut self, inputs: &[f32], errors: &[f32], scratch: &mut MomentsScratch) {
        let (p, q) = (self.inputs, self.outputs);
        let (height, width) = (1 + p, 2 + p + q);
        let MomentsScratch { left, right, products } = scratch;
        for (inputs, errors) in inputs.chunks(BLOCK_ROWS * p).zip(errors.chunks(BLOCK_ROWS * q)) {
            let n = inputs.len() / p;
            left.resize(height * n, 0.0);
            right.clear();
            left[..n].fill(1.0);
            for (i, (input, error)) in inputs.chunks_exact(p).zip(errors.chunks_exact(q)).enumerate() {
                input.iter().enumerate().for_each(|(j, &value)| left[(1 + j) * n + i] = value);
                let square = error.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
                self.squares += square;
                right.push(1.0);
                right.extend_from_slice(input);
                right.extend_from_slice(error);
                right.push(square.sqrt() as f32);
            }
            products.resize(height * width, 0.0);
            let product = MatMul {
                m: height,
                n: width,
                k: n,
                a_stride: n,
                b_stride: width,
                out_stride: width,
                transposed: false,
                scale: 1.0,
            };
            product.run(left, right, products);
            self.products.iter_mut().zip(&*products).for_each(|(sum, &value)| *sum += f64::from(value));
            self.n += n as f64;
        }
    }

    /// Adds what another thread summed.
    pub(super) fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.squares += other.squares;
        self.products.iter_mut().zip(&other.products).for_each(|(sum, value)| *sum += value);
    }

    /// Forgets all rows.
    pub(super) fn clear(&mut self) {
        self.n = 0.0;
        self.squares = 0.0;
        self.products.fill(0.0);
    }

    /// Whether there are no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.n == 0.0
    }

    /// Sum of the product of element `i` of `(1, y)` and element `j` of `(1, y, e, |e|)`.
    fn at(&self, i: usize, j: usize) -> f64 {
        self.products[i * (2 + self.inputs + self.outputs) + j]
    }

    /// Squared length of the mean input, times the number of rows: what is to be taken from the sum of squared lengths to
    /// have it about the mean.
    pub(super) fn squared_mean(&self, other: &Self) -> f64 {
        let sums = (1..=self.inputs).map(|j| self.at(0, j) + other.at(0, j));
        sums.map(|sum| sum * sum).sum::<f64>() / (self.n + other.n).max(1.0)
    }
}

/// Regresses each half on the other.
///
/// `None` if there are too few rows, or no error.
///
/// # Errors
/// None of its own.
pub(super) fn linear_share(halves: &[Moments; 2], threads: usize) -> Result<Option<LinearShare>> {
    let [a, b] = halves;
    let least = SAMPLES_AN_INPUT * a.inputs as f64;
    if a.n < least || b.n < least || a.squares + b.squares <= 0.0 {
        return Ok(None);
    }
    let (Some(on_b), Some(on_a)) = (unpredicted(a, b, threads)?, unpredicted(b, a, threads)?) else { return Ok(None) };
    // Variance of the length about the mean of the half it is measured on.
    let norm = 1 + a.inputs + a.outputs;
    let variance = |half: &Moments| half.squares - half.at(0, norm).powi(2) / half.n;
    Ok(Some(LinearShare {
        error: 1.0 - (on_a.0 + on_b.0) / (a.squares + b.squares),
        norm: 1.0 - (on_a.1 + on_b.1) / (variance(a) + variance(b)).max(1e-30),
    }))
}

/// Squared error of the prediction of `test`'s errors, and of their lengths, by a regression on `train`.
fn unpredicted(train: &Moments, test: &Moments, threads: usize) -> Result<Option<(f64, f64)>> {
    let (p, q) = (train.inputs, train.outputs + 1);
    let mean: Vec<f64> = (0..1 + p + q).map(|j| train.at(0, j) / train.n).collect();
    let mut factor = vec![0.0; p * p];
    for i in 0..p {
        for j in 0..=i {
            factor[i * p + j] = train.at(1 + i, 1 + j) - train.n * mean[1 + i] * mean[1 + j];
        }
    }
    let ridge = RIDGE * (0..p).map(|i| factor[i * p + i]).sum::<f64>() / p as f64;
    (0..p).for_each(|i| factor[i * p + i] += ridge);
    if !cholesky(&mut factor, p) {
        return Ok(None);
    }
    let mut transposed = vec![0.0; p * p];
    let mut inputs = vec![0.0; p * p];
    for i in 0..p {
        for j in 0..p {
            transposed[j * p + i] = factor[i * p + j];
            inputs[i * p + j] = centred(test, &mean, 1 + i, 1 + j);
        }
    }
    // Per column of (e, |e|): v'v - 2 w'(y'v) + w'(y'y)w, all about the means of `train`.
    let of_column = parallel(q, threads, |weights: &mut Vec<f64>, column| {
        let j = 1 + p + column;
        weights.clear();
        weights.extend((0..p).map(|i| train.at(1 + i, j) - train.n * mean[1 + i] * mean[j]));
        solve(&factor, &transposed, weights);
        let with_errors: f64 = (0..p).map(|i| weights[i] * centred(test, &mean, 1 + i, j)).sum();
        let with_inputs: f64 = (0..p).map(|i| weights[i] * dot(&inputs[i * p..(i + 1) * p], weights)).sum();
        Ok(with_inputs - 2.0 * with_errors)
    })?;
    let own = |j: usize| test.n * mean[j] * mean[j] - 2.0 * mean[j] * test.at(0, j);
    let errors = 1 + p..p + q;
    let error = test.squares + errors.map(own).sum::<f64>() + of_column[..q - 1].iter().sum::<f64>();
    let norm = test.squares + own(p + q) + of_column[q - 1];
    Ok(Some((error.max(0.0), norm.max(0.0))))
}

/// Sum over `test` of the product of two elements, less the means of another half.
fn centred(test: &Moments, mean: &[f64], i: usize, j: usize) -> f64 {
    test.at(i, j) - mean[i] * test.at(0, j) - mean[j] * test.at(0, i) + test.n * mean[i] * mean[j]
}

multiversion! {
    fn dot(a: &[f64], b: &[f64]) -> f64 {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        let mut sums = [0.0; 8];
        for (a, b) in a.iter().zip(b) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
        sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
    }
}

/// Replaces the lower triangle of a symmetric matrix `[n, n]` by its Cholesky factor; whether it is positive definite.
fn cholesky(matrix: &mut [f64], n: usize) -> bool {
    for i in 0..n {
        let (above, rest) = matrix.split_at_mut(i * n);
        let row = &mut rest[..n];
        for j in 0..i {
            let other = &above[j * n..j * n + j];
            row[j] = (row[j] - dot(&row[..j], other)) / above[j * n + j];
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        if pivot.is_nan() || pivot <= 0.0 {
            return false;
        }
        row[i] = pivot.sqrt();
        row[i + 1..].fill(0.0);
    }
    true
}

/// Solves `L L' x = b` in place, given `L` and its transpose, row-major.
fn solve(factor: &[f64], transposed: &[f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        let row = &factor[i * n..(i + 1) * n];
        b[i] = (b[i] - dot(&row[..i], &b[..i])) / row[i];
    }
    for i in (0..n).rev() {
        let row = &transposed[i * n..(i + 1) * n];
        b[i] = (b[i] - dot(&row[i + 1..], &b[i + 1..])) / row[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::random::Random;

    /// Values from -0.5 to 0.5.
    fn uniform(random: &mut Random) -> f32 {
        random.below(1 << 24) as f32 / (1 << 24) as f32 - 0.5
    }

    /// Rows whose error is `linear` times an affine function of the input and otherwise noise, both of equal variance.
    fn planted(n: usize, linear: f32, seed: u64) -> Moments {
        const P: usize = 12;
        let mut random = Random::new(seed, 0);
        let (mut inputs, mut errors) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let row: Vec<f32> = (0..P).map(|_| uniform(&mut random) + 0.3).collect();
            for j in 0..P {
                // The neighbour's value, about its mean, and noise of the same variance.
                let predictable = row[(j + 1) % P] - 0.3;
                errors.push(linear.sqrt() * predictable + (1.0 - linear).sqrt() * uniform(&mut random));
            }
            inputs.extend(row);
        }
        let mut moments = Moments::new(P, P);
        let mut scratch = MomentsScratch::default();
        // In two calls, as threads do.
        let half = n / 2 * P;
        moments.add(&inputs[..half], &errors[..half], &mut scratch);
        let mut other = Moments::new(P, P);
        other.add(&inputs[half..], &errors[half..], &mut scratch);
        moments.merge(&other);
        moments
    }

    #[test]
    fn the_planted_linear_share_of_the_error_is_found() {
        for planted_share in [0.0, 0.3, 0.9, 1.0] {
            let halves = [planted(3000, planted_share, 1), planted(3000, planted_share, 2)];
            let found = linear_share(&halves, 2).unwrap().unwrap();
            assert!((found.error - f64::from(planted_share)).abs() < 0.02, "{planted_share}: {found:?}");
        }
    }

    #[test]
    fn chance_in_few_rows_is_not_taken_for_structure() {
        // With 12 inputs and 130 rows a regression explains a tenth of pure noise on the rows it was fitted on.
        let halves = [planted(130, 0.0, 3), planted(130, 0.0, 4)];
        let found = linear_share(&halves, 1).unwrap().unwrap();
        assert!((-0.3..0.02).contains(&found.error), "{found:?}");
        let too_few = [planted(100, 0.0, 3), planted(130, 0.0, 4)];
        assert_eq!(linear_share(&too_few, 1).unwrap(), None);
    }

    #[test]
    fn the_length_of_the_error_is_predicted_where_it_follows_the_input() {
        let mut halves = [Moments::new(2, 1), Moments::new(2, 1)];
        let mut random = Random::new(5, 0);
        for half in &mut halves {
            let inputs: Vec<f32> = (0..2000).map(|_| uniform(&mut random) + 1.0).collect();
            // A random sign: the error itself cannot be told, its length can.
            let sign = |random: &mut Random| if random.below(2) == 0 { 1.0 } else { -1.0 };
            let errors: Vec<f32> = inputs.chunks_exact(2).map(|row| row[0] * sign(&mut random)).collect();
            half.add(&inputs, &errors, &mut MomentsScratch::default());
        }
        let found = linear_share(&halves, 1).unwrap().unwrap();
        assert!(found.norm > 0.999 && found.error.abs() < 0.05, "{found:?}");
    }
}
