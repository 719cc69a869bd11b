//! Sparse rows, and their projection on the directions of largest spread (latent semantic analysis).

use rayon::prelude::*;

use crate::cancellation::Cancellation;
use crate::dense::normalise;
use crate::eigen::leading_eigenpairs;
use crate::kmeans::Rows;

/// Rows of a partial sum; fixed, so that the number of threads does not change the result.
const BLOCK: usize = 4096;
/// Share of a row's length that its projection must keep: what is left of a row across all directions is rounding.
const LEAST_KEPT: f32 = 0.05;

/// Rows of `(column, value)`, one a document, columns ascending.
#[derive(Debug, Clone)]
pub struct SparseRows {
    offsets: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
    n_columns: usize,
}

impl SparseRows {
    /// No rows yet; columns are below `n_columns`.
    pub fn new(n_columns: usize) -> Self {
        Self { offsets: vec![0], columns: Vec::new(), values: Vec::new(), n_columns }
    }

    /// Adds a row, scaled to length 1; zeros for one that is shorter than 1e-12 or not finite.
    pub fn push_normalised(&mut self, row: &[(u32, f32)]) {
        let length = row.iter().map(|(_, value)| value * value).sum::<f32>().sqrt();
        let factor = if length.is_finite() && length > 1e-12 { length.recip() } else { 0.0 };
        for &(column, value) in row {
            self.columns.push(column);
            self.values.push(if factor == 0.0 { 0.0 } else { value * factor });
        }
        self.offsets.push(self.columns.len());
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entries(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let range = self.offsets[row]..self.offsets[row + 1];
        self.columns[range.clone()].iter().map(|&column| column as usize).zip(self.values[range].iter().copied())
    }
}

/// A linear map from sparse rows to `width` dimensions.
#[derive(Debug, Clone)]
pub struct Projection {
    /// Row-major `n_columns x width`.
    columns: Vec<f32>,
    width: usize,
}

impl Projection {
    /// The `width` leading right singular vectors of `rows`; fewer if the rows span less.
    pub fn fit(rows: &SparseRows, width: usize, seed: u64, cancellation: &Cancellation) -> Self {
        let n_columns = rows.n_columns;
        let pairs = leading_eigenpairs(n_columns, width.min(rows.len()), 2, seed, cancellation, |x, width, y| {
            gram_product(rows, x, width, y);
        });
        let largest = pairs.values.first().copied().unwrap_or(0.0);
        let kept = pairs.values.iter().take_while(|&&value| value > 1e-6 * largest).count();
        let mut columns = vec![0.0f32; n_columns * kept];
        for (direction, vector) in pairs.vectors.iter().take(kept).enumerate() {
            vector.iter().enumerate().for_each(|(column, &value)| columns[column * kept + direction] = value);
        }
        Self { columns, width: kept }
    }

    /// Number of dimensions.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Position of a row of any length, scaled to length 1; zeros for an empty row, and for one of which the directions keep
    /// less than a twentieth: it has next to nothing in common with what they stand for.
    pub fn apply(&self, row: impl Iterator<Item = (usize, f32)>) -> Vec<f32> {
        let mut position = vec![0.0f32; self.width];
        let mut squares = 0.0f32;
        for (column, value) in row {
            squares += value * value;
            let direction = &self.columns[column * self.width..(column + 1) * self.width];
            position.iter_mut().zip(direction).for_each(|(sum, part)| *sum += value * part);
        }
        if normalise(&mut position) < LEAST_KEPT * squares.sqrt() {
            position.fill(0.0);
        }
        position
    }

    /// Positions of all rows.
    pub fn apply_all(&self, rows: &SparseRows) -> Rows {
        let values = (0..rows.len()).into_par_iter().flat_map_iter(|row| self.apply(rows.entries(row))).collect();
        Rows { values, width: self.width }
    }
}

/// `y = A^T A x` for the matrix of rows, without forming it.
fn gram_product(rows: &SparseRows, x: &[f32], width: usize, y: &mut [f32]) {
    let starts: Vec<usize> = (0..rows.len()).step_by(BLOCK).collect();
    y.fill(0.0);
    // A few blocks at a time, because each has a partial sum as large as `y`.
    for group in starts.chunks(rayon::current_num_threads().max(1)) {
        let partial: Vec<Vec<f32>> = group
            .par_iter()
            .map(|&start| {
                let (mut sums, mut image) = (vec![0.0f32; y.len()], vec![0.0f32; width]);
                for row in start..(start + BLOCK).min(rows.len()) {
                    image.fill(0.0);
                    for (column, value) in rows.entries(row) {
                        let from = &x[column * width..(column + 1) * width];
                        image.iter_mut().zip(from).for_each(|(sum, part)| *sum += value * part);
                    }
                    for (column, value) in rows.entries(row) {
                        let to = &mut sums[column * width..(column + 1) * width];
                        to.iter_mut().zip(&image).for_each(|(sum, part)| *sum += value * part);
                    }
                }
                sums
            })
            .collect();
        for sums in partial {
            y.iter_mut().zip(sums).for_each(|(sum, part)| *sum += part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::adjusted_rand_index;
    use crate::kmeans::{Effort, spherical_kmeans};
    use crate::random::Random;

    const THOROUGH: Effort = Effort { starts: 10, rounds: 100, tolerance: 0.0 };

    fn planted(n: usize, k: usize, seed: u64) -> SparseRows {
        let mut random = Random::new(seed, 2);
        let mut rows = SparseRows::new(k * 12);
        for i in 0..n {
            let mut row: Vec<(u32, f32)> = (0..12)
                .filter_map(|f| (random.unit() < 0.4).then(|| ((i % k * 12 + f) as u32, 0.5 + random.unit() as f32)))
                .collect();
            row.extend((0..4).map(|_| (random.below(k as u64 * 12) as u32, 0.4)));
            row.sort_by_key(|entry| entry.0);
            row.dedup_by_key(|entry| entry.0);
            rows.push_normalised(&row);
        }
        rows
    }

    #[test]
    fn projection_keeps_the_planted_groups() {
        let rows = planted(9_000, 5, 1);
        let projection = Projection::fit(&rows, 10, 1, &Cancellation::default());
        assert_eq!(projection.width(), 10);
        let found = spherical_kmeans(&projection.apply_all(&rows), 5, THOROUGH, 1, &Cancellation::default());
        let truth: Vec<Option<usize>> = (0..9_000).map(|i| Some(i % 5)).collect();
        assert!(adjusted_rand_index(&found.assignment, &truth) > 0.9);
        let one_thread = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .map(|pool| pool.install(|| Projection::fit(&rows, 10, 1, &Cancellation::default()).columns));
        assert_eq!(one_thread.ok(), Some(projection.columns));
    }

    #[test]
    fn gram_product_equals_two_dense_products() {
        let rows = planted(50, 3, 2);
        let x: Vec<f32> = (0..36 * 2).map(|i| (i as f32).sin()).collect();
        let mut y = vec![0.0; 36 * 2];
        gram_product(&rows, &x, 2, &mut y);
        let mut expected = vec![0.0f64; 36 * 2];
        for row in 0..50 {
            for (a, va) in rows.entries(row) {
                for (b, vb) in rows.entries(row) {
                    for c in 0..2 {
                        expected[a * 2 + c] += f64::from(va * vb * x[b * 2 + c]);
                    }
                }
            }
        }
        assert!(y.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4));
    }

    #[test]
    fn identical_empty_and_missing_rows() {
        let mut rows = SparseRows::new(8);
        for _ in 0..5 {
            rows.push_normalised(&[(1, 2.0), (3, 1.0)]);
        }
        rows.push_normalised(&[]);
        rows.push_normalised(&[(1, f32::INFINITY), (2, 1.0)]);
        let projection = Projection::fit(&rows, 4, 1, &Cancellation::default());
        assert_eq!(projection.width(), 1);
        let positions = projection.apply_all(&rows);
        assert!((positions.row(0)[0].abs() - 1.0).abs() < 1e-5);
        assert_eq!((positions.row(5), positions.row(6)), ([0.0].as_slice(), [0.0].as_slice()));
        assert_eq!(Projection::fit(&SparseRows::new(8), 4, 1, &Cancellation::default()).width(), 0);
    }

    #[test]
    fn a_row_across_all_directions_has_no_position() {
        let mut rows = planted(400, 5, 3);
        rows.n_columns += 1;
        rows.push_normalised(&[(60, 1.0)]);
        let projection = Projection::fit(&rows, 5, 1, &Cancellation::default());
        assert_eq!(projection.width(), 5);
        let positions = projection.apply_all(&rows);
        assert_eq!(positions.row(400), [0.0; 5]);
        assert_eq!(projection.apply([(60, 70.0)].into_iter()), [0.0; 5]);
        for row in 0..400 {
            let length = positions.row(row).iter().map(|value| value * value).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-5, "{row}: {length}");
            let larger = projection.apply(rows.entries(row).map(|(column, value)| (column, 70.0 * value)));
            assert!(larger.iter().zip(positions.row(row)).all(|(a, b)| (a - b).abs() < 1e-5), "{row}");
        }
    }
}
