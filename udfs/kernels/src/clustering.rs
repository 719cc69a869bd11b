//! Groups documents, chooses how many groups there are, and says how far each can be relied on.
//!
//! *Number*: of the widest gaps between eigenvalues of the scaled similarity (`spectral::widest_gaps`, over 2 to 12, on at
//! most 1,000 documents) that whose groups are most stable on the mean; 1 if that is below 0.6.
//! *Stability*: ten times four fifths of the documents (at most 1,000 where every pair is compared, 3,000 otherwise)
//! are drawn and grouped anew from another start; a group's stability is the mean of its best Jaccard overlap with a
//! new group (Hennig 2007, "Cluster-wise assessment of cluster stability": above 0.75 is stable, below 0.5 dissolved).
//! A group of one document, or of all, is found again whatever it is worth: its stability is not known.
//! *Membership*: `1 - d1 / d2` of the distances to the nearest and the next centre (the simplified silhouette of
//! Hruschka 2006): 1 at the centre, 0 halfway between two.

use rayon::prelude::*;

use crate::agreement::best_overlaps;
use crate::cancellation::Cancellation;
use crate::kmeans::{Effort, KMeans, Rows, nearest, spherical_kmeans};
use crate::random::Random;
use crate::spectral::{Affinity, embed, widest_gaps};

/// Most groups that are chosen without being asked for.
pub const MOST_CHOSEN: usize = 12;
/// A document whose membership is lower lies between groups: it is *unclear*.
pub const CLEAR_MEMBERSHIP: f32 = 0.05;
/// Groups that are less stable on the mean are not there (Hennig 2007: below 0.6 they should not be trusted).
const LEAST_STABILITY: f64 = 0.6;
/// Times that the documents are grouped anew.
pub const RESAMPLES: usize = 10;

const CHOICE_SAMPLE: usize = 1_000;
const AFFINITY_RESAMPLE: usize = 1_000;
const ROWS_RESAMPLE: usize = 3_000;
/// Rows to which the full effort is given; larger sets have less to gain from it.
const FULL_EFFORT_ROWS: usize = 5_000;

/// Effort for groups that are only compared.
const RESAMPLE_EFFORT: Effort = Effort { starts: 3, rounds: 50, tolerance: 1e-4 };

/// What is grouped.
#[derive(Debug, Clone)]
pub enum Points {
    /// A similarity of every pair: spectral clustering.
    Affinity(Affinity),
    /// Vectors of length 1, or 0 where a document says nothing: spherical k-means.
    Rows(Rows),
}

impl Points {
    /// Number of documents.
    pub fn len(&self) -> usize {
        match self {
            Points::Affinity(affinity) => affinity.len(),
            Points::Rows(rows) => rows.len(),
        }
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn select(&self, positions: &[usize]) -> Self {
        match self {
            Points::Affinity(affinity) => Points::Affinity(affinity.select(positions)),
            Points::Rows(rows) => Points::Rows(rows.select(positions)),
        }
    }

    /// Groups into at most `k`; of each document the position in the space of the centroids comes along.
    fn group(&self, k: usize, effort: Effort, seed: u64, cancellation: &Cancellation) -> (KMeans, Option<Rows>) {
        match self {
            Points::Affinity(affinity) => {
                if k == 1 {
                    // The leading eigenvector has both signs where the documents fall into parts that share nothing.
                    let rows = affinity.one_group();
                    return (spherical_kmeans(&rows, k, effort, seed, cancellation), Some(rows));
                }
                let rows = embed(&affinity.leading_eigenpairs(k, seed, cancellation), k, affinity.len());
                (spherical_kmeans(&rows, k, effort, seed, cancellation), Some(rows))
            }
            Points::Rows(rows) => (spherical_kmeans(rows, k, effort, seed, cancellation), None),
        }
    }

    fn resample_size(&self) -> usize {
        let most = match self {
            Points::Affinity(_) => AFFINITY_RESAMPLE,
            Points::Rows(_) => ROWS_RESAMPLE,
        };
        (self.len() * 4 / 5).min(most)
    }
}

/// Where a document belongs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Its group.
    pub cluster: usize,
    /// How clearly, 0 to 1.
    pub membership: f32,
    /// Cosine to the group's centre, -1 to 1: the larger, the more central.
    pub centrality: f32,
}

/// Groups of documents.
#[derive(Debug, Clone)]
pub struct Clustering {
    /// Place of each document; none if it says nothing or lies between groups.
    pub places: Vec<Option<Place>>,
    /// Centres of length 1; for [`Points::Rows`] others can be placed by them.
    pub centroids: Rows,
    /// Stability of each group, 0 to 1; none if there are too few documents to draw from, of a group of one document, and
    /// if there is one group only.
    pub stability: Vec<Option<f64>>,
}

impl Clustering {
    /// Number of groups.
    pub fn len(&self) -> usize {
        self.centroids.len()
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a row of length 1 belongs among `centroids`; none for a row of zeros or one between two groups.
pub fn place(row: &[f32], centroids: &Rows) -> Option<Place> {
    let (cluster, first, second) = nearest(row, centroids)?;
    let distance = |cosine: f32| (2.0 - 2.0 * cosine).max(0.0).sqrt();
    let membership = if distance(second) > 0.0 { 1.0 - distance(first) / distance(second) } else { 0.0 };
    (membership >= CLEAR_MEMBERSHIP).then_some(Place { cluster, membership, centrality: first })
}

/// The number of groups that the documents suggest, 1 to [`MOST_CHOSEN`].
pub fn choose_k(points: &Points, seed: u64, cancellation: &Cancellation) -> usize {
    let sample = points.select(&Random::new(seed, 0xC401).sample(points.len(), CHOICE_SAMPLE));
    let pairs = match &sample {
        Points::Affinity(affinity) => affinity.leading_eigenpairs(MOST_CHOSEN + 1, seed, cancellation),
        Points::Rows(rows) => Affinity::cosine(rows).leading_eigenpairs(MOST_CHOSEN + 1, seed, cancellation),
    };
    let mean_stability = |k: usize| {
        let (groups, _) = sample.group(k, RESAMPLE_EFFORT, seed, cancellation);
        // What is not known speaks for no number of groups.
        let all = stability(&sample, &groups, k, seed, cancellation);
        all.iter().flatten().sum::<f64>() / all.len().max(1) as f64
    };
    let suggested = widest_gaps(&pairs.values, MOST_CHOSEN).into_iter();
    let stable = suggested.map(|k| (k, mean_stability(k))).filter(|(_, mean)| *mean >= LEAST_STABILITY);
    stable.fold((1, 0.0), |best, next| if next.1 > best.1 { next } else { best }).0
}

/// Groups the documents into `k`, or as many as [`choose_k`] says. Fewer come out if there are fewer different
/// documents. The same seed gives the same groups.
pub fn cluster(points: &Points, k: Option<usize>, seed: u64, cancellation: &Cancellation) -> Clustering {
    let k = k.unwrap_or_else(|| choose_k(points, seed, cancellation));
    let effort = if points.len() > FULL_EFFORT_ROWS {
        Effort { starts: 4, rounds: 50, tolerance: 1e-4 }
    } else {
        Effort { starts: 10, rounds: 100, tolerance: 1e-5 }
    };
    let (groups, own_rows) = points.group(k, effort, seed, cancellation);
    let rows = match (&own_rows, points) {
        (Some(rows), _) | (None, Points::Rows(rows)) => rows,
        (None, Points::Affinity(_)) => &Rows::default(),
    };
    let places = (0..rows.len()).into_par_iter().map(|row| place(rows.row(row), &groups.centroids)).collect();
    let stability = stability(points, &groups, k, seed, cancellation);
    Clustering { places, centroids: groups.centroids, stability }
}

fn stability(
    points: &Points,
    reference: &KMeans,
    k: usize,
    seed: u64,
    cancellation: &Cancellation,
) -> Vec<Option<f64>> {
    let n_groups = reference.centroids.len();
    let size = points.resample_size();
    if size < 2 || n_groups < 2 {
        return vec![None; n_groups];
    }
    let mut sizes = vec![0usize; n_groups];
    reference.assignment.iter().flatten().for_each(|&group| sizes[group] += 1);
    let overlaps: Vec<Vec<Option<f64>>> = (1..=RESAMPLES as u64)
        .into_par_iter()
        .map(|draw| {
            let chosen = Random::new(seed, 0x57AB + draw).sample(points.len(), size);
            let (again, _) = points.select(&chosen).group(k, RESAMPLE_EFFORT, seed.wrapping_add(draw), cancellation);
            let expected: Vec<Option<usize>> = chosen.iter().map(|&row| reference.assignment[row]).collect();
            best_overlaps(&expected, &again.assignment, n_groups)
        })
        .collect();
    (0..n_groups)
        .map(|group| {
            let known: Vec<f64> = overlaps.iter().filter_map(|overlaps| overlaps[group]).collect();
            (!known.is_empty() && sizes[group] > 1).then(|| known.iter().sum::<f64>() / known.len() as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::adjusted_rand_index;
    use crate::dense::normalise;

    /// `k` groups around random directions.
    fn planted(n: usize, k: usize, noise: f64) -> (Rows, Vec<Option<usize>>) {
        let mut random = Random::new(11, 0);
        let centres: Vec<Vec<f64>> = (0..k).map(|_| (0..16).map(|_| random.normal()).collect()).collect();
        let mut rows = Rows { values: Vec::new(), width: 16 };
        for i in 0..n {
            let mut row: Vec<f32> = centres[i % k].iter().map(|c| (c + noise * random.normal()) as f32).collect();
            normalise(&mut row);
            rows.values.extend(row);
        }
        (rows, (0..n).map(|i| Some(i % k)).collect())
    }

    fn groups(clustering: &Clustering) -> Vec<Option<usize>> {
        clustering.places.iter().map(|place| place.map(|place| place.cluster)).collect()
    }

    #[test]
    fn finds_number_and_members_both_ways_and_knows_they_are_stable() {
        let (rows, truth) = planted(1_200, 4, 0.3);
        for points in [Points::Affinity(Affinity::cosine(&rows)), Points::Rows(rows.clone())] {
            let found = cluster(&points, None, 5, &Cancellation::default());
            assert_eq!(found.len(), 4);
            assert!(adjusted_rand_index(&groups(&found), &truth) > 0.97);
            assert!(
                found.stability.iter().all(|stability| stability.is_some_and(|s| s > 0.9)),
                "{:?}",
                found.stability
            );
            let again = cluster(&points, None, 5, &Cancellation::default());
            assert_eq!((found.places, found.stability), (again.places, again.stability));
        }
    }

    #[test]
    fn groups_that_are_not_there_are_not_stable() {
        let mut random = Random::new(3, 3);
        let mut rows = Rows { values: Vec::new(), width: 16 };
        for _ in 0..600 {
            let mut row: Vec<f32> = (0..16).map(|_| random.normal() as f32).collect();
            normalise(&mut row);
            rows.values.extend(row);
        }
        let points = Points::Rows(rows);
        assert_eq!(choose_k(&points, 1, &Cancellation::default()), 1);
        let found = cluster(&points, Some(6), 1, &Cancellation::default());
        let mean = found.stability.iter().flatten().sum::<f64>() / found.len() as f64;
        assert!(mean < 0.5, "{:?}", found.stability);
        assert!(found.places.iter().filter(|place| place.is_none()).count() > 30);
    }

    #[test]
    fn single_documents_and_one_group_of_all_have_no_stability() {
        let unit = |at: usize| (0..16).map(move |i| f32::from(u8::from(i == at)));
        let rows = Rows { values: (0..6).flat_map(unit).collect(), width: 16 };
        let points = Points::Rows(rows);
        let found = cluster(&points, Some(6), 1, &Cancellation::default());
        assert_eq!(found.stability, [None; 6]);
        // Six documents that share nothing are no six groups.
        assert_eq!(choose_k(&points, 1, &Cancellation::default()), 1);
        let (rows, _) = planted(60, 2, 0.3);
        let points = Points::Rows(rows);
        assert_eq!(cluster(&points, Some(1), 1, &Cancellation::default()).stability, [None]);
        assert!(cluster(&points, Some(2), 1, &Cancellation::default()).stability.iter().all(Option::is_some));
    }

    #[test]
    fn a_cancelled_clustering_ends_soon() {
        let (rows, _) = planted(1_500, 30, 1.0);
        let cancelled = Cancellation::default();
        cancelled.cancel();
        for (points, k) in [(Points::Affinity(Affinity::cosine(&rows)), None), (Points::Rows(rows.clone()), Some(300))]
        {
            let seconds = |cancellation: &Cancellation| {
                let start = std::time::Instant::now();
                cluster(&points, k, 1, cancellation);
                start.elapsed().as_secs_f64()
            };
            let (whole, cut) = (seconds(&Cancellation::default()), seconds(&cancelled));
            assert!(cut < 0.2 * whole, "{cut} of {whole} seconds");
        }
    }

    #[test]
    fn identical_few_and_no_documents() {
        let same = Rows { values: [1.0, 0.0].repeat(20), width: 2 };
        for points in [Points::Rows(same.clone()), Points::Affinity(Affinity::cosine(&same))] {
            for k in [None, Some(3)] {
                let found = cluster(&points, k, 1, &Cancellation::default());
                assert_eq!(found.len(), 1, "{points:?} {k:?}");
                assert!(found.places.iter().all(|place| place.is_some_and(|place| place.membership > 0.99)));
            }
        }
        for n in [0, 1, 2] {
            let few = Rows { values: [1.0, 0.0, 0.0, 1.0][..2 * n].to_vec(), width: 2 };
            assert_eq!(cluster(&Points::Rows(few.clone()), Some(9), 1, &Cancellation::default()).len(), n);
            assert!(cluster(&Points::Affinity(Affinity::cosine(&few)), None, 1, &Cancellation::default()).len() <= 1);
        }
    }
}
