//! Spectral clustering of small sets (Ng, Jordan, Weiss 2001) on a similarity of every pair of documents.
//!
//! The similarity is Jaccard, `|A and B| / |A or B|`, of the sets of present features (arXiv 2512.10092, section 4.3),
//! or the cosine of vectors. It is scaled to `D^-1/2 S D^-1/2` without the diagonal; the rows of the leading
//! eigenvectors, scaled to length 1, are what k-means groups.

use rayon::prelude::*;

use crate::cancellation::Cancellation;
use crate::cooccurrence::{FeatureLists, PairCounts};
use crate::dense::{dot, normalise};
use crate::eigen::{Eigenpairs, leading_eigenpairs};
use crate::kmeans::Rows;

/// Restarts of the eigensolver: with the gaps of real similarities two or three are used.
const RESTARTS: usize = 8;

/// Symmetric similarity of `n` documents, `n x n`, zero on the diagonal.
#[derive(Debug, Clone)]
pub struct Affinity {
    values: Vec<f32>,
    n: usize,
}

impl Affinity {
    /// Jaccard similarity of sets given as ascending positions below `n_features`; 0 if either is empty.
    ///
    /// What two sets share is counted as pairs of features are (see [`crate::cooccurrence`]), with sets and features
    /// changing places: work for what is shared, not for every pair.
    pub fn jaccard(sets: &[Vec<u32>], n_features: usize) -> Self {
        let n = sets.len();
        let mut having = FeatureLists::default();
        let mut sets_with: Vec<Vec<u32>> = vec![Vec::new(); n_features];
        for (row, set) in (0..).zip(sets) {
            set.iter().for_each(|feature| sets_with[*feature as usize].push(row));
        }
        sets_with.into_iter().for_each(|rows| having.push(rows));
        let position_of: Vec<u32> = (0..n as u32).collect();
        let mut shared = PairCounts::new(n, 0..n);
        shared.update(&having.documents(&position_of, n));
        Self::from_pairs(n, |i, j| {
            let both = shared.both(i.min(j), i.max(j));
            let either = sets[i].len() + sets[j].len() - both as usize;
            if both == 0 { 0.0 } else { both as f32 / either as f32 }
        })
    }

    /// Cosine of rows of length 1, negative ones as 0.
    pub fn cosine(rows: &Rows) -> Self {
        Self::from_pairs(rows.len(), |i, j| dot(rows.row(i), rows.row(j)).clamp(0.0, 1.0))
    }

    fn from_pairs(n: usize, similarity: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let mut values = vec![0.0f32; n * n];
        if n > 0 {
            values.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
                row.iter_mut().enumerate().for_each(|(j, value)| *value = if i == j { 0.0 } else { similarity(i, j) });
            });
        }
        Self { values, n }
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Similarity of two documents.
    pub fn similarity(&self, i: usize, j: usize) -> f32 {
        self.values[i * self.n + j]
    }

    /// The similarities among the documents at these positions.
    pub fn select(&self, positions: &[usize]) -> Self {
        let values =
            positions.par_iter().flat_map_iter(|&i| positions.iter().map(move |&j| self.similarity(i, j))).collect();
        Self { values, n: positions.len() }
    }

    /// Positions of the documents if all are one group: the same place, and none for a document that resembles no other.
    pub fn one_group(&self) -> Rows {
        let resembles = |row: &[f32]| if row.iter().any(|similarity| *similarity > 0.0) { 1.0 } else { 0.0 };
        Rows { values: self.values.chunks(self.n.max(1)).map(resembles).collect(), width: 1 }
    }

    /// The `count` leading eigenpairs of the scaled similarity, eigenvalues from 1 downwards, among the documents that
    /// resemble another: fewer pairs if there are fewer such documents, and zeros in every vector for the others.
    pub fn leading_eigenpairs(&self, count: usize, seed: u64, cancellation: &Cancellation) -> Eigenpairs {
        let n = self.n;
        let degrees: Vec<f32> = self.values.par_chunks(n.max(1)).map(|row| row.iter().sum::<f32>()).collect();
        // The others are left out: of what a random start gives them, a solver that stops early leaves some.
        let connected: Vec<usize> = (0..n).filter(|&i| degrees[i] > 0.0).collect();
        let scale: Vec<f32> = connected.iter().map(|&i| degrees[i].sqrt().recip()).collect();
        let mut pairs = leading_eigenpairs(connected.len(), count, RESTARTS, seed, cancellation, |x, width, y| {
            let scaled: Vec<f32> = x
                .chunks_exact(width)
                .zip(&scale)
                .flat_map(|(row, factor)| row.iter().map(move |v| v * factor))
                .collect();
            y.par_chunks_mut(width).enumerate().for_each(|(at, sum)| {
                sum.fill(0.0);
                for (&other, row) in connected.iter().zip(scaled.chunks_exact(width)) {
                    let similarity = self.similarity(connected[at], other);
                    if similarity != 0.0 {
                        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += similarity * value);
                    }
                }
                sum.iter_mut().for_each(|sum| *sum *= scale[at]);
            });
        });
        for vector in &mut pairs.vectors {
            let mut whole = vec![0.0f32; n];
            connected.iter().zip(vector.iter()).for_each(|(&i, &value)| whole[i] = value);
            *vector = whole;
        }
        pairs
    }
}

/// Positions of the documents in the space of the first `k` eigenvectors, each of length 1; zeros for a document that
/// resembles no other. Eigenvectors without a positive eigenvalue are left out: they are the same for any grouping.
pub fn embed(pairs: &Eigenpairs, k: usize, n: usize) -> Rows {
    let width = pairs.values.iter().take(k.min(pairs.vectors.len())).take_while(|&&value| value > 1e-3).count();
    let mut rows = Rows { values: vec![0.0; n * width], width };
    for (column, vector) in pairs.vectors.iter().take(width).enumerate() {
        vector.iter().enumerate().for_each(|(row, &value)| rows.values[row * width + column] = value);
    }
    if width > 0 {
        rows.values.chunks_exact_mut(width).for_each(|row| {
            // Rounding must not be blown up to length 1.
            if dot(row, row) < 1e-12 {
                row.fill(0.0);
            }
            normalise(row);
        });
    }
    rows
}

/// The numbers of clusters that descending `eigenvalues` suggest: the `k` from 2 up to `largest` with the widest gaps
/// between eigenvalue `k` and the next (von Luxburg 2007, section 8.3), widest first, of equal gaps the smallest `k`. At
/// most three, whose gaps are at least half as wide as the widest.
///
/// Empty if there are fewer than three eigenvalues, or no gap at all.
pub fn widest_gaps(eigenvalues: &[f32], largest: usize) -> Vec<usize> {
    let gaps = (2..eigenvalues.len().min(largest + 1)).map(|k| (k, eigenvalues[k - 1] - eigenvalues[k]));
    let mut gaps: Vec<(usize, f32)> = gaps.filter(|gap| gap.1 > 1e-6).collect();
    gaps.sort_by(|a, b| b.1.total_cmp(&a.1));
    let widest = gaps.first().map_or(0.0, |gap| gap.1);
    gaps.into_iter().filter(|gap| gap.1 >= 0.5 * widest).take(3).map(|gap| gap.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::adjusted_rand_index;
    use crate::kmeans::{Effort, spherical_kmeans};
    use crate::random::Random;

    const THOROUGH: Effort = Effort { starts: 10, rounds: 100, tolerance: 0.0 };

    /// `k` groups, each preferring its own 10 of `10 k` features, plus features at random.
    pub(super) fn planted(n: usize, k: usize, noise: u64, seed: u64) -> (Vec<Vec<u32>>, Vec<Option<usize>>) {
        let mut random = Random::new(seed, 1);
        let mut sets = Vec::new();
        for i in 0..n {
            let mut set: Vec<u32> = (0..10).filter(|_| random.unit() < 0.6).map(|f| (i % k * 10 + f) as u32).collect();
            set.extend((0..noise).map(|_| random.below(10 * k as u64) as u32));
            set.sort_unstable();
            set.dedup();
            sets.push(set);
        }
        (sets, (0..n).map(|i| Some(i % k)).collect())
    }

    #[test]
    fn jaccard_equals_set_arithmetic() {
        let (sets, _) = planted(60, 7, 5, 3);
        let affinity = Affinity::jaccard(&sets, 70);
        for i in 0..60 {
            for j in 0..60 {
                let both = sets[i].iter().filter(|feature| sets[j].contains(feature)).count();
                let either = sets[i].len() + sets[j].len() - both;
                let expected = if i == j || either == 0 { 0.0 } else { both as f32 / either as f32 };
                assert!((affinity.similarity(i, j) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn recovers_planted_groups_and_their_number() {
        for k in [2, 3, 5, 8] {
            let (sets, truth) = planted(400, k, 4, k as u64);
            let affinity = Affinity::jaccard(&sets, 10 * k);
            let pairs = affinity.leading_eigenpairs(13, 1, &Cancellation::default());
            assert!((pairs.values[0] - 1.0).abs() < 1e-3, "{:?}", pairs.values);
            assert_eq!(widest_gaps(&pairs.values, 12).first(), Some(&k), "{:?}", pairs.values);
            let found = spherical_kmeans(&embed(&pairs, k, 400), k, THOROUGH, 1, &Cancellation::default());
            let ari = adjusted_rand_index(&found.assignment, &truth);
            assert!(ari > 0.9, "k = {k}: ARI {ari}");
        }
    }

    #[test]
    fn isolated_and_identical_documents() {
        let sets = vec![vec![0, 1], vec![0, 1], vec![0, 1], vec![], vec![5]];
        let affinity = Affinity::jaccard(&sets, 6);
        let pairs = affinity.leading_eigenpairs(4, 1, &Cancellation::default());
        let rows = embed(&pairs, 1, 5);
        assert!(rows.row(3).iter().chain(rows.row(4)).all(|&value| value == 0.0), "{rows:?}");
        assert!((rows.row(0)[0].abs() - 1.0).abs() < 1e-5);
        assert!(widest_gaps(&[1.0, 1.0], 12).is_empty() && widest_gaps(&[], 12).is_empty());
    }

    #[test]
    fn documents_without_features_are_in_no_group_where_the_solver_stops_early() {
        let (mut sets, _) = planted(200, 4, 6, 5);
        sets.iter_mut().skip(7).step_by(10).for_each(Vec::clear);
        let pairs = Affinity::jaccard(&sets, 40).leading_eigenpairs(4, 1, &Cancellation::default());
        let rows = embed(&pairs, 4, 200);
        let found = spherical_kmeans(&rows, 4, THOROUGH, 1, &Cancellation::default());
        for (row, set) in sets.iter().enumerate() {
            assert_eq!(rows.row(row).iter().all(|&value| value == 0.0), set.is_empty(), "{row}: {:?}", rows.row(row));
            assert_eq!(found.assignment[row].is_none(), set.is_empty(), "{row}");
        }
    }

    #[test]
    fn only_wide_gaps_suggest_a_number() {
        assert_eq!(widest_gaps(&[1.0, 0.9, 0.8, 0.3, 0.2], 12), [3]);
        assert_eq!(widest_gaps(&[1.0, 0.9, 0.5, 0.2, 0.1], 12), [2, 3]);
        assert_eq!(widest_gaps(&[1.0, 0.9, 0.8, 0.3, 0.2], 2), [2]);
        assert_eq!(widest_gaps(&[1.0, 0.75, 0.5, 0.25, 0.0, -0.25], 12), [2, 3, 4], "of equal gaps the first three");
        assert_eq!(widest_gaps(&[1.0, 1.0, 1.0, 0.0], 12), [3]);
    }

    #[test]
    fn a_part_of_the_similarity_is_the_similarity_of_the_part() {
        let (sets, _) = planted(30, 3, 2, 8);
        let part = [3, 9, 20];
        let chosen: Vec<Vec<u32>> = part.iter().map(|&i| sets[i].clone()).collect();
        let (whole, own) = (Affinity::jaccard(&sets, 30).select(&part), Affinity::jaccard(&chosen, 30));
        assert_eq!(whole.values, own.values);
    }
}
