//! A few leading eigenpairs of a large symmetric matrix that is only known by its products.
//!
//! Block Krylov iteration with full re-orthogonalisation, Rayleigh-Ritz and restarts (Musco and Musco 2015 for the
//! randomised block start; Saad, Numerical Methods for Large Eigenvalue Problems, chapter 6). A block rather than a
//! single vector, because separate clusters make the leading eigenvalue a multiple one, of which a single vector
//! would find one copy.

use crate::cancellation::Cancellation;
use crate::dense::{dot, normalise};
use crate::random::Random;

/// Vectors beyond those asked for: they take the slow directions.
const GUARD: usize = 4;
/// Products with the matrix per restart.
const DEPTH: usize = 5;
/// Residual, relative to the largest eigenvalue, at which a pair is good enough.
const TOLERANCE: f32 = 1e-4;

/// Leading eigenpairs.
#[derive(Debug, Clone)]
pub struct Eigenpairs {
    /// Eigenvalues, descending; as many as there are vectors.
    pub values: Vec<f32>,
    /// One vector of length 1 per eigenvalue, in order; the sign is arbitrary but reproducible.
    pub vectors: Vec<Vec<f32>>,
}

/// The `count` algebraically largest eigenpairs of a symmetric `n x n` matrix; fewer if `n` is smaller.
///
/// `product(x, width, y)` writes the matrix times `x` into `y`; both are `n x width`, row-major. At most `restarts`
/// cycles of 5 products of width `count + 4` are spent; what has not converged to a relative residual of 1e-4 by then
/// is returned as it is. The same `seed` gives the same result if `product` always gives the same result.
pub fn leading_eigenpairs(
    n: usize,
    count: usize,
    restarts: usize,
    seed: u64,
    cancellation: &Cancellation,
    product: impl Fn(&[f32], usize, &mut [f32]),
) -> Eigenpairs {
    let count = count.min(n);
    let width = (count + GUARD).min(n);
    let mut random = Random::new(seed, 0xE16E);
    let mut block: Vec<Vec<f32>> = (0..width).map(|_| (0..n).map(|_| random.normal() as f32).collect()).collect();
    let mut result = Eigenpairs { values: Vec::new(), vectors: Vec::new() };
    for _ in 0..restarts.max(1) {
        let (basis, images) = krylov_basis(n, &block, cancellation, &product);
        if basis.is_empty() {
            return result;
        }
        let size = basis.len();
        let mut projected = vec![0.0f64; size * size];
        for i in 0..size {
            for j in 0..=i {
                // The matrix is symmetric; averaging keeps the projection so in spite of rounding.
                let value = 0.5 * f64::from(dot(&basis[i], &images[j]) + dot(&basis[j], &images[i]));
                projected[i * size + j] = value;
                projected[j * size + i] = value;
            }
        }
        let (values, rotations) = jacobi(projected, size, cancellation);
        let kept = width.min(size);
        let combine = |columns: &[Vec<f32>], pair: usize| {
            let mut vector = vec![0.0f32; n];
            for (row, column) in columns.iter().enumerate() {
                let factor = rotations[row * size + pair] as f32;
                vector.iter_mut().zip(column).for_each(|(sum, value)| *sum += factor * value);
            }
            vector
        };
        block = (0..kept).map(|pair| combine(&basis, pair)).collect();
        let scale = values.first().map_or(0.0, |value| value.abs() as f32).max(f32::MIN_POSITIVE);
        let converged = (0..count.min(kept)).all(|pair| {
            let image = combine(&images, pair);
            let residual =
                image.iter().zip(&block[pair]).map(|(a, x)| (a - values[pair] as f32 * x).powi(2)).sum::<f32>();
            residual.sqrt() <= TOLERANCE * scale
        });
        result.values = values[..count.min(kept)].iter().map(|&value| value as f32).collect();
        if converged || cancellation.is_cancelled() {
            break;
        }
    }
    block.truncate(result.values.len());
    block.iter_mut().for_each(|vector| {
        normalise(vector);
    });
    result.vectors = block;
    result
}

/// Orthonormal basis of the Krylov space of `start`, and its image under the matrix, column by column.
fn krylov_basis(
    n: usize,
    start: &[Vec<f32>],
    cancellation: &Cancellation,
    product: &impl Fn(&[f32], usize, &mut [f32]),
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let (mut basis, mut images): (Vec<Vec<f32>>, Vec<Vec<f32>>) = (Vec::new(), Vec::new());
    let mut candidates = start.to_vec();
    for _ in 0..DEPTH {
        if cancellation.is_cancelled() {
            break;
        }
        let first = basis.len();
        for mut candidate in candidates.drain(..) {
            if basis.len() == n {
                break;
            }
            if orthogonalise(&mut candidate, &basis) {
                basis.push(candidate);
            }
        }
        let fresh = &basis[first..];
        let width = fresh.len();
        if width == 0 {
            break;
        }
        let mut input = vec![0.0f32; n * width];
        for (column, vector) in fresh.iter().enumerate() {
            for (row, &value) in vector.iter().enumerate() {
                input[row * width + column] = value;
            }
        }
        let mut output = vec![0.0f32; n * width];
        product(&input, width, &mut output);
        for column in 0..width {
            let image: Vec<f32> = (0..n).map(|row| output[row * width + column]).collect();
            candidates.push(image.clone());
            images.push(image);
        }
    }
    (basis, images)
}

/// Removes the part of `vector` that lies in the space of `basis` (twice is enough), and scales the rest to length 1;
/// false if nothing but rounding is left.
fn orthogonalise(vector: &mut [f32], basis: &[Vec<f32>]) -> bool {
    if normalise(vector) <= 1e-12 {
        return false;
    }
    for _ in 0..2 {
        for other in basis {
            let overlap = dot(vector, other);
            vector.iter_mut().zip(other).for_each(|(value, direction)| *value -= overlap * direction);
        }
        if normalise(vector) < 1e-5 {
            return false;
        }
    }
    true
}

/// All eigenvalues, descending, and eigenvectors (columns, row-major) of a small symmetric matrix by cyclic Jacobi
/// rotations (Golub and Van Loan, 8.5).
fn jacobi(mut matrix: Vec<f64>, n: usize, cancellation: &Cancellation) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0f64; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let total: f64 = matrix.iter().map(|value| value * value).sum();
    for _ in 0..60 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| matrix[i * n + j].powi(2)).sum();
        if off <= 1e-22 * total || total == 0.0 || cancellation.is_cancelled() {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = matrix[p * n + q];
                if apq.abs() < 1e-300 {
                    continue;
                }
                let theta = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (a, b) = (matrix[k * n + p], matrix[k * n + q]);
                    matrix[k * n + p] = c * a - s * b;
                    matrix[k * n + q] = s * a + c * b;
                }
                for k in 0..n {
                    let (a, b) = (matrix[p * n + k], matrix[q * n + k]);
                    matrix[p * n + k] = c * a - s * b;
                    matrix[q * n + k] = s * a + c * b;
                }
                for k in 0..n {
                    let (a, b) = (vectors[k * n + p], vectors[k * n + q]);
                    vectors[k * n + p] = c * a - s * b;
                    vectors[k * n + q] = s * a + c * b;
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| matrix[b * n + b].total_cmp(&matrix[a * n + a]));
    let values = order.iter().map(|&i| matrix[i * n + i]).collect();
    let mut sorted = vec![0.0f64; n * n];
    for (column, &from) in order.iter().enumerate() {
        (0..n).for_each(|row| sorted[row * n + column] = vectors[row * n + from]);
    }
    (values, sorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense_product(matrix: &[f32], n: usize) -> impl Fn(&[f32], usize, &mut [f32]) {
        move |x, width, y| {
            y.fill(0.0);
            for i in 0..n {
                for j in 0..n {
                    for c in 0..width {
                        y[i * width + c] += matrix[i * n + j] * x[j * width + c];
                    }
                }
            }
        }
    }

    fn random_symmetric(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, 0);
        let mut matrix = vec![0.0f32; n * n];
        for i in 0..n {
            for j in 0..=i {
                let value = random.normal() as f32;
                matrix[i * n + j] = value;
                matrix[j * n + i] = value;
            }
        }
        matrix
    }

    #[test]
    fn agrees_with_full_jacobi() {
        let n = 60;
        let matrix = random_symmetric(n, 5);
        let (reference, _) = jacobi(matrix.iter().map(|&v| f64::from(v)).collect(), n, &Cancellation::default());
        let pairs = leading_eigenpairs(n, 6, 30, 1, &Cancellation::default(), dense_product(&matrix, n));
        for (value, expected) in pairs.values.iter().zip(&reference) {
            assert!((f64::from(*value) - expected).abs() < 1e-2, "{value} {expected}");
        }
        for (value, vector) in pairs.values.iter().zip(&pairs.vectors) {
            let mut image = vec![0.0; n];
            dense_product(&matrix, n)(vector, 1, &mut image);
            let residual = image.iter().zip(vector).map(|(a, x)| (a - value * x).powi(2)).sum::<f32>().sqrt();
            assert!(residual < 5e-3, "{residual}");
        }
    }

    #[test]
    fn finds_every_copy_of_a_multiple_eigenvalue() {
        // Four separate blocks of ones, scaled: eigenvalue 1 four times, 0 otherwise.
        let n = 80;
        let mut matrix = vec![0.0f32; n * n];
        for i in 0..n {
            for j in 0..n {
                if i / 20 == j / 20 {
                    matrix[i * n + j] = 1.0 / 20.0;
                }
            }
        }
        let pairs = leading_eigenpairs(n, 6, 10, 3, &Cancellation::default(), dense_product(&matrix, n));
        for (i, value) in pairs.values.iter().enumerate() {
            let expected = if i < 4 { 1.0 } else { 0.0 };
            assert!((value - expected).abs() < 1e-3, "{:?}", pairs.values);
        }
    }

    #[test]
    fn tiny_and_zero_matrices_are_no_problem() {
        assert!(leading_eigenpairs(0, 3, 3, 1, &Cancellation::default(), |_, _, _| {}).values.is_empty());
        let one = leading_eigenpairs(1, 3, 3, 1, &Cancellation::default(), |x, _, y| y.copy_from_slice(x));
        assert_eq!(one.values.len(), 1);
        assert!((one.values[0] - 1.0).abs() < 1e-5);
        let zero = leading_eigenpairs(9, 2, 3, 1, &Cancellation::default(), |_, _, y| y.fill(0.0));
        assert!(zero.values.iter().all(|value| value.abs() < 1e-6));
    }
}
