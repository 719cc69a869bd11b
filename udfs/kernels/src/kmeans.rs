//! Spherical k-means: rows of length 1 are grouped by cosine (Dhillon and Modha 2001), started by k-means++
//! (Arthur and Vassilvitskii 2007) from a seed.
//!
//! Rows of zeros belong to no cluster. Sums are taken in blocks of fixed size and in order, so the number of threads
//! does not change the result.

use rayon::prelude::*;

use crate::cancellation::Cancellation;
use crate::dense::{dot, normalise};
use crate::random::Random;

/// Rows of a partial sum.
const BLOCK: usize = 1024;

/// A matrix of `f32` rows.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Row-major values.
    pub values: Vec<f32>,
    /// Length of a row, at least 1 unless there is no row.
    pub width: usize,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        if self.width == 0 { 0 } else { self.values.len() / self.width }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `row`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// The rows at these positions.
    pub fn select(&self, positions: &[usize]) -> Self {
        let values = positions.iter().flat_map(|&position| self.row(position).iter().copied()).collect();
        Self { values, width: self.width }
    }
}

/// How much work k-means may do.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Seeded starts, of which the best result is taken.
    pub starts: usize,
    /// Rounds per start, at most.
    pub rounds: usize,
    /// A start ends when a round improves the objective by a smaller share; 0 goes on until no row moves.
    pub tolerance: f64,
}

/// A clustering of rows.
#[derive(Debug, Clone)]
pub struct KMeans {
    /// Centroids of length 1, one a cluster; no cluster is empty.
    pub centroids: Rows,
    /// Cluster of each row; none for a row of zeros.
    pub assignment: Vec<Option<usize>>,
    /// Sum over the rows of the cosine to their centroid; larger is better.
    pub objective: f64,
}

/// Groups `rows`, each of length 1 or 0, into at most `k` clusters; the best of some seeded starts.
///
/// Fewer than `k` clusters come out if there are fewer different rows. No rows, or only zeros, give no cluster.
pub fn spherical_kmeans(rows: &Rows, k: usize, effort: Effort, seed: u64, cancellation: &Cancellation) -> KMeans {
    let clear: Vec<usize> = (0..rows.len()).filter(|&row| rows.row(row).iter().any(|&value| value != 0.0)).collect();
    let mut best: Option<KMeans> = None;
    for start in 0..effort.starts.max(1) {
        let mut random = Random::new(seed, start as u64);
        let candidate = one_start(rows, &clear, k, effort, &mut random, cancellation);
        if best.as_ref().is_none_or(|best| candidate.objective > best.objective * (1.0 + 1e-9)) {
            best = Some(candidate);
        }
        if cancellation.is_cancelled() {
            break;
        }
    }
    best.unwrap_or(KMeans { centroids: Rows::default(), assignment: vec![None; rows.len()], objective: 0.0 })
}

/// The nearest and the second nearest centroid of a row: `(cluster, cosine, next cosine)`; none for a row of zeros or
/// without centroids. With one centroid the next cosine is -1, the farthest there is.
pub fn nearest(row: &[f32], centroids: &Rows) -> Option<(usize, f32, f32)> {
    if row.iter().all(|&value| value == 0.0) {
        return None;
    }
    let mut best: Option<(usize, f32, f32)> = None;
    for cluster in 0..centroids.len() {
        let cosine = dot(row, centroids.row(cluster)).clamp(-1.0, 1.0);
        best = Some(match best {
            None => (cluster, cosine, -1.0),
            Some((_, first, _)) if cosine > first => (cluster, cosine, first),
            Some((winner, first, second)) => (winner, first, second.max(cosine)),
        });
    }
    best
}

fn one_start(
    rows: &Rows,
    clear: &[usize],
    k: usize,
    effort: Effort,
    random: &mut Random,
    cancellation: &Cancellation,
) -> KMeans {
    let mut centroids = plus_plus(rows, clear, k, random, cancellation);
    let mut assignment: Vec<Option<usize>> = vec![None; rows.len()];
    let mut objective = 0.0f64;
    for round in 0..effort.rounds.max(1) {
        let found: Vec<(usize, f32)> = clear
            .par_iter()
            .map(|&row| nearest(rows.row(row), &centroids).map_or((0, 0.0), |(cluster, cosine, _)| (cluster, cosine)))
            .collect();
        let mut changed = false;
        for (&row, &(cluster, _)) in clear.iter().zip(&found) {
            changed |= assignment[row] != Some(cluster);
            assignment[row] = Some(cluster);
        }
        let before = objective;
        objective = found.iter().map(|&(_, cosine)| f64::from(cosine)).sum();
        if cancellation.is_cancelled()
            || !changed
            || (round > 0 && objective - before < effort.tolerance * objective.abs())
        {
            break;
        }
        update(rows, clear, &found, &mut centroids);
    }
    drop_empty(&mut centroids, &mut assignment);
    KMeans { centroids, assignment, objective }
}

/// Sets every centroid to the direction of the sum of its rows. An empty cluster takes the row that is worst served.
fn update(rows: &Rows, clear: &[usize], found: &[(usize, f32)], centroids: &mut Rows) {
    let (k, width) = (centroids.len(), rows.width);
    let partial: Vec<(Vec<f32>, Vec<usize>)> = clear
        .par_chunks(BLOCK)
        .zip(found.par_chunks(BLOCK))
        .map(|(rows_of_block, found)| {
            let (mut sums, mut sizes) = (vec![0.0f32; k * width], vec![0usize; k]);
            for (&row, &(cluster, _)) in rows_of_block.iter().zip(found) {
                let sum = &mut sums[cluster * width..(cluster + 1) * width];
                sum.iter_mut().zip(rows.row(row)).for_each(|(sum, value)| *sum += value);
                sizes[cluster] += 1;
            }
            (sums, sizes)
        })
        .collect();
    let mut sizes = vec![0usize; k];
    centroids.values.fill(0.0);
    for (sums, block_sizes) in partial {
        centroids.values.iter_mut().zip(sums).for_each(|(sum, value)| *sum += value);
        sizes.iter_mut().zip(block_sizes).for_each(|(size, more)| *size += more);
    }
    let mut worst: Vec<usize> = Vec::new();
    if sizes.contains(&0) {
        worst = (0..clear.len()).collect();
        worst.sort_by(|&a, &b| found[a].1.total_cmp(&found[b].1).then(a.cmp(&b)));
    }
    let mut worst = worst.into_iter();
    for cluster in 0..k {
        let centroid = &mut centroids.values[cluster * width..(cluster + 1) * width];
        if sizes[cluster] == 0
            && let Some(row) = worst.next()
        {
            centroid.copy_from_slice(rows.row(clear[row]));
        }
        normalise(centroid);
    }
}

/// Starting centroids: each next one is a row drawn in proportion to its squared distance from those chosen. Stops
/// early when every row is a centroid already.
fn plus_plus(rows: &Rows, clear: &[usize], k: usize, random: &mut Random, cancellation: &Cancellation) -> Rows {
    let mut centroids = Rows { values: Vec::new(), width: rows.width };
    if clear.is_empty() || k == 0 {
        return centroids;
    }
    let mut distances = vec![f64::INFINITY; clear.len()];
    let mut chosen = random.below(clear.len() as u64) as usize;
    loop {
        let centroid = rows.row(clear[chosen]);
        centroids.values.extend_from_slice(centroid);
        if centroids.len() == k || cancellation.is_cancelled() {
            return centroids;
        }
        distances.par_iter_mut().zip(clear).for_each(|(distance, &row)| {
            let next = f64::from(2.0 - 2.0 * dot(rows.row(row), centroid));
            // Below this it is rounding: the same direction.
            *distance = distance.min(if next < 1e-5 { 0.0 } else { next });
        });
        let total: f64 = distances.iter().sum();
        if total <= 0.0 {
            return centroids;
        }
        let mut left = random.unit() * total;
        chosen = distances
            .iter()
            .position(|&distance| {
                left -= distance;
                left < 0.0
            })
            .or_else(|| distances.iter().rposition(|&distance| distance > 0.0))
            .unwrap_or(0);
    }
}

fn drop_empty(centroids: &mut Rows, assignment: &mut [Option<usize>]) {
    let mut used = vec![false; centroids.len()];
    assignment.iter().flatten().for_each(|&cluster| used[cluster] = true);
    let kept: Vec<usize> = (0..used.len()).filter(|&cluster| used[cluster]).collect();
    if kept.len() < used.len() {
        let mut renamed = vec![0; used.len()];
        kept.iter().enumerate().for_each(|(new, &old)| renamed[old] = new);
        assignment.iter_mut().flatten().for_each(|cluster| *cluster = renamed[*cluster]);
        *centroids = centroids.select(&kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::adjusted_rand_index;

    const THOROUGH: Effort = Effort { starts: 5, rounds: 200, tolerance: 0.0 };

    fn planted(n: usize, k: usize, width: usize, noise: f64, seed: u64) -> (Rows, Vec<Option<usize>>) {
        let mut random = Random::new(seed, 9);
        let centres: Vec<Vec<f64>> = (0..k).map(|_| (0..width).map(|_| random.normal()).collect()).collect();
        let mut rows = Rows { values: Vec::new(), width };
        let mut truth = Vec::new();
        for i in 0..n {
            let mut row: Vec<f32> = centres[i % k].iter().map(|c| (c + noise * random.normal()) as f32).collect();
            normalise(&mut row);
            rows.values.extend(row);
            truth.push(Some(i % k));
        }
        (rows, truth)
    }

    #[test]
    fn recovers_planted_groups_and_repeats_itself() {
        let (rows, truth) = planted(3_000, 6, 20, 0.4, 1);
        let found = spherical_kmeans(&rows, 6, THOROUGH, 42, &Cancellation::default());
        assert!(adjusted_rand_index(&found.assignment, &truth) > 0.98);
        let again = spherical_kmeans(&rows, 6, THOROUGH, 42, &Cancellation::default());
        assert_eq!(found.assignment, again.assignment);
        assert_eq!(found.centroids.values, again.centroids.values);
        let one_thread = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .map(|pool| pool.install(|| spherical_kmeans(&rows, 6, THOROUGH, 42, &Cancellation::default())));
        assert_eq!(one_thread.map(|found| found.centroids.values).ok(), Some(found.centroids.values));
    }

    #[test]
    fn no_better_single_move_is_left() {
        let (rows, _) = planted(300, 4, 8, 0.8, 2);
        let found = spherical_kmeans(&rows, 4, THOROUGH, 1, &Cancellation::default());
        for row in 0..rows.len() {
            let slow = (0..found.centroids.len()).max_by(|&a, &b| {
                dot(rows.row(row), found.centroids.row(a)).total_cmp(&dot(rows.row(row), found.centroids.row(b)))
            });
            assert_eq!(found.assignment[row], slow);
        }
    }

    #[test]
    fn little_effort_loses_little() {
        let (rows, _) = planted(2_000, 8, 16, 1.0, 3);
        let hasty =
            spherical_kmeans(&rows, 8, Effort { starts: 5, rounds: 200, tolerance: 1e-3 }, 1, &Cancellation::default());
        let thorough = spherical_kmeans(&rows, 8, THOROUGH, 1, &Cancellation::default());
        assert!(hasty.objective <= thorough.objective && hasty.objective > 0.99 * thorough.objective);
    }

    #[test]
    fn fewer_different_rows_than_clusters() {
        let rows = Rows { values: [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]].concat(), width: 2 };
        let found = spherical_kmeans(&rows, 5, THOROUGH, 1, &Cancellation::default());
        assert_eq!(found.centroids.len(), 2);
        assert_eq!(found.assignment[0], found.assignment[1]);
        assert_ne!(found.assignment[0], found.assignment[2]);
        assert_eq!(found.assignment[3], None);
        let nothing = spherical_kmeans(&Rows::default(), 3, THOROUGH, 1, &Cancellation::default());
        assert!(nothing.centroids.is_empty() && nothing.assignment.is_empty());
        assert_eq!(nearest(&[0.0, 0.0], &rows), None);
        assert_eq!(nearest(&[1.0, 0.0], &Rows { values: vec![1.0, 0.0], width: 2 }), Some((0, 1.0, -1.0)));
    }
}
