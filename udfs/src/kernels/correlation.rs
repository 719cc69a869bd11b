//! Which pairs of features are together more (or less) often than chance, from their counts.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::features::FeatureId;
use crate::kernels::cancellation::Cancellation;
use crate::kernels::cooccurrence::PairCounts;
use crate::kernels::statistics::{
    benjamini_hochberg, chi_squared_1_p, fisher_greater, fisher_less, fisher_two_sided, log_likelihood_ratio, npmi,
    smallest_expected,
};

/// How many of the smallest p values are kept for the false discovery rate. With more tests than this the q values of
/// the pairs beyond are upper bounds.
const KEPT_P: usize = 1 << 20;

/// G² whose p is below about 0.0001.
const FAR_TAIL_LLR: f64 = 14.0;

/// Which associations are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Together more often than chance; p is one-sided.
    Positive,
    /// Together less often than chance; p is one-sided.
    Negative,
    /// Either; p is two-sided.
    Both,
}

/// Two features and how they are associated.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// The features: the smaller id first, or those of the two sets.
    pub features: (FeatureId, FeatureId),
    /// Documents that have both.
    pub docs_both: u64,
    /// Documents that have the first, and the second.
    pub docs: (u64, u64),
    /// Documents in all.
    pub n: u64,
    /// Log-likelihood ratio G².
    pub llr: f64,
    /// p of independence: by G², or by Fisher's exact test where an expected count is below 5 (below 20 if p is small).
    pub p_value: f64,
    /// Benjamini-Hochberg q over all pairs with enough documents.
    pub q_value: f64,
}

impl PairRow {
    /// Normalised pointwise mutual information.
    pub fn npmi(&self) -> f64 {
        npmi(self.docs_both, self.docs.0, self.docs.1, self.n)
    }

    /// Share of the documents with the second feature that have the first.
    pub fn p_a_given_b(&self) -> f64 {
        self.docs_both as f64 / self.docs.1 as f64
    }

    /// Share of the documents with the first feature that have the second.
    pub fn p_b_given_a(&self) -> f64 {
        self.docs_both as f64 / self.docs.0 as f64
    }
}

impl Eq for PairRow {}

impl PartialOrd for PairRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The greater row is the better one: larger G², then smaller ids.
impl Ord for PairRow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.llr.total_cmp(&other.llr).then_with(|| other.features.cmp(&self.features))
    }
}

/// Smallest number of documents with a feature for its pairs to be tested, if the user gives none: 0.5 % of the
/// documents, but at least 5 (or a twentieth of the documents if there are fewer than 100).
pub fn default_min_docs(n_docs: u64) -> u64 {
    crate::kernels::diff::default_min_docs(n_docs).max(n_docs / 200)
}

/// The best pairs so far. Blocks of counts are scanned one after the other.
#[derive(Debug)]
pub struct Ranking {
    direction: Direction,
    limit: usize,
    min_both: u64,
    found: Found,
}

#[derive(Debug, Default)]
struct Found {
    best: BinaryHeap<Reverse<PairRow>>,
    p_values: Vec<f64>,
    n_tests: u64,
}

impl Found {
    fn offer(&mut self, row: PairRow, limit: usize) {
        self.best.push(Reverse(row));
        if self.best.len() > limit {
            self.best.pop();
        }
    }

    fn keep_p(&mut self, p: f64) {
        self.p_values.push(p);
        if self.p_values.len() >= 2 * KEPT_P {
            self.trim();
        }
    }

    fn trim(&mut self) {
        if self.p_values.len() > KEPT_P {
            self.p_values.select_nth_unstable_by(KEPT_P, f64::total_cmp);
            self.p_values.truncate(KEPT_P);
        }
    }

    fn merge(mut self, other: Self, limit: usize) -> Self {
        for Reverse(row) in other.best {
            self.offer(row, limit);
        }
        self.p_values.extend(other.p_values);
        self.trim();
        self.n_tests += other.n_tests;
        self
    }
}

impl Ranking {
    /// For the `limit` best pairs of those that are together in at least `min_both` documents.
    pub fn new(direction: Direction, limit: usize, min_both: u64) -> Self {
        Self { direction, limit, min_both, found: Found::default() }
    }

    /// Memory that a ranking of at most `n_pairs` pairs takes: each thread keeps its own rows and p values.
    pub fn bytes(limit: usize, n_pairs: usize) -> usize {
        let parts = rayon::current_num_threads() + 1;
        let kept = |most: usize| most.saturating_mul(parts).min(n_pairs.saturating_mul(2));
        kept(limit) * size_of::<PairRow>() + kept(2 * KEPT_P) * size_of::<f64>()
    }

    /// Tests all pairs of a block; `features[position]` is the id. Pairs that `keep` refuses are tested but not ranked;
    /// it is asked only about pairs that would be among the best.
    ///
    /// With `split`, positions from there on are features of other documents (those paired with the first ones), and
    /// only pairs of one before and one after it are tested.
    pub fn scan(
        &mut self,
        counts: &PairCounts,
        features: &[FeatureId],
        split: Option<usize>,
        cancellation: &Cancellation,
        keep: impl Fn(FeatureId, FeatureId) -> bool + Sync,
    ) {
        // Rows of the triangle get shorter: every thread takes its share of the long ones.
        let n_parts = rayon::current_num_threads();
        let found = (0..n_parts)
            .into_par_iter()
            .map(|part| {
                let mut found = Found::default();
                for (a, row) in counts.rows().skip(part).step_by(n_parts) {
                    if split.is_some_and(|split| a >= split) || cancellation.is_cancelled() {
                        break;
                    }
                    let first = split.unwrap_or(0).max(a + 1);
                    for (b, both) in (first..).zip(&row[first - a - 1..]) {
                        self.test(&mut found, counts, (a, b), u64::from(*both), features, &keep);
                    }
                }
                found
            })
            .reduce(Found::default, |x, y| x.merge(y, self.limit));
        self.found = std::mem::take(&mut self.found).merge(found, self.limit);
    }

    fn test(
        &self,
        found: &mut Found,
        counts: &PairCounts,
        (a, b): (usize, usize),
        docs_both: u64,
        features: &[FeatureId],
        keep: impl Fn(FeatureId, FeatureId) -> bool,
    ) {
        let (n, docs) = (counts.n_docs(), (u64::from(counts.docs()[a]), u64::from(counts.docs()[b])));
        found.n_tests += 1;
        let expected = docs.0 as f64 * docs.1 as f64 / n.max(1) as f64;
        let wanted = match self.direction {
            Direction::Positive => docs_both as f64 > expected,
            Direction::Negative => (docs_both as f64) < expected,
            Direction::Both => true,
        };
        if !wanted {
            // Its one-sided p is about a half or more: it bears on no q below one half.
            return;
        }
        let llr = log_likelihood_ratio(docs_both, docs.0, docs.1, n);
        let p_value = p_value(self.direction, llr, docs_both, docs.0, docs.1, n);
        found.keep_p(p_value);
        let features = (features[a], features[b]);
        let row = PairRow { features, docs_both, docs, n, llr, p_value, q_value: 1.0 };
        let full = found.best.len() >= self.limit;
        if self.limit > 0
            && docs_both >= self.min_both
            && !(full && found.best.peek().is_some_and(|Reverse(least)| row < *least))
            && keep(features.0, features.1)
        {
            found.offer(row, self.limit);
        }
    }

    /// The best pairs, best first, with their q values.
    pub fn finish(self) -> Vec<PairRow> {
        let Found { best, mut p_values, n_tests } = self.found;
        p_values.sort_by(f64::total_cmp);
        let q_values = benjamini_hochberg(&p_values, n_tests);
        let mut rows: Vec<PairRow> = best.into_iter().map(|Reverse(row)| row).collect();
        rows.sort_by(|x, y| y.cmp(x));
        for row in &mut rows {
            let rank = p_values.partition_point(|p| *p < row.p_value);
            row.q_value = match q_values.get(rank) {
                Some(q) => *q,
                None => (row.p_value * n_tests as f64 / (rank + 1) as f64).min(1.0),
            };
        }
        rows
    }
}

fn p_value(direction: Direction, llr: f64, both: u64, docs_a: u64, docs_b: u64, n: u64) -> f64 {
    // Far out in the tail the approximation needs more than Cochran's 5 documents.
    let least = if llr > FAR_TAIL_LLR { 20.0 } else { 5.0 };
    let exact = smallest_expected(docs_a, docs_b, n) < least;
    match direction {
        Direction::Positive if exact => fisher_greater(both, docs_a, docs_b, n),
        Direction::Negative if exact => fisher_less(both, docs_a, docs_b, n),
        Direction::Both if exact => fisher_two_sided(both, docs_a, docs_b, n),
        Direction::Positive | Direction::Negative => chi_squared_1_p(llr) / 2.0,
        Direction::Both => chi_squared_1_p(llr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cooccurrence::{Documents, blocks};
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    fn rank(rows: &[Vec<u32>], n_features: usize, direction: Direction, limit: usize, budget: usize) -> Vec<PairRow> {
        let position_of: Vec<u32> = (0..n_features as u32).collect();
        let features: Vec<u32> = (0..n_features as u32).map(|position| position * 10).collect();
        let mut documents = Documents::default();
        rows.iter().for_each(|ids| documents.push(ids, &position_of));
        let mut ranking = Ranking::new(direction, limit, 0);
        for block in blocks(n_features, budget) {
            let mut counts = PairCounts::new(n_features, block);
            counts.update(&documents);
            ranking.scan(&counts, &features, None, &Cancellation::default(), |a, b| (a, b) != (0, 20));
        }
        ranking.finish()
    }

    proptest! {
        #[test]
        fn ranks_all_pairs_and_corrects_over_them(rows in vec(btree_set(0u32..7, 0..6), 1..60), limit in 0usize..30, budget in 1usize..400) {
            let rows: Vec<Vec<u32>> = rows.into_iter().map(|ids| ids.into_iter().collect()).collect();
            let n = rows.len() as u64;
            let count = |keep: &dyn Fn(&Vec<u32>) -> bool| rows.iter().filter(|ids| keep(ids)).count() as u64;
            let mut expected = Vec::new();
            for a in 0..7u32 {
                for b in a + 1..7 {
                    let (first, second) = (count(&|ids| ids.contains(&a)), count(&|ids| ids.contains(&b)));
                    let both = count(&|ids| ids.contains(&a) && ids.contains(&b));
                    let llr = log_likelihood_ratio(both, first, second, n);
                    let p = p_value(Direction::Both, llr, both, first, second, n);
                    expected.push(((a * 10, b * 10), both, llr, p));
                }
            }
            let p: Vec<f64> = expected.iter().map(|row| row.3).collect();
            let q = benjamini_hochberg(&p, p.len() as u64);
            let mut expected: Vec<_> = expected.into_iter().zip(q).filter(|(row, _)| row.0 != (0, 20)).collect();
            expected.sort_by(|x, y| y.0.2.total_cmp(&x.0.2).then_with(|| x.0.0.cmp(&y.0.0)));
            expected.truncate(limit);
            let got = rank(&rows, 7, Direction::Both, limit, budget);
            prop_assert_eq!(got.len(), expected.len());
            for (got, ((features, both, llr, p), q)) in got.iter().zip(expected) {
                prop_assert_eq!((got.features, got.docs_both, got.llr, got.p_value), (features, both, llr, p));
                prop_assert!((got.q_value - q).abs() < 1e-12, "{} {}", got.q_value, q);
            }
        }
    }

    #[test]
    fn directions_part_the_pairs() {
        // 0 and 1 always together, 2 never with them, 3 everywhere.
        let rows: Vec<Vec<u32>> = (0..40).map(|row| if row % 2 == 0 { vec![0, 1, 3] } else { vec![2, 3] }).collect();
        let features =
            |direction| rank(&rows, 4, direction, 9, 1000).into_iter().map(|row| row.features).collect::<Vec<_>>();
        assert_eq!(features(Direction::Positive), [(0, 10)]);
        assert_eq!(features(Direction::Negative), [(10, 20)], "(0, 20) is refused");
        let best = &rank(&rows, 4, Direction::Positive, 1, 1000)[0];
        assert_eq!((best.npmi(), best.p_a_given_b(), best.p_b_given_a()), (1.0, 1.0, 1.0));
        assert!(best.q_value > best.p_value && best.q_value < 1e-7, "6 pairs were tested");
    }
}
