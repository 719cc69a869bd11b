//! What sets two sets of documents apart: one row per feature, from counts alone.

use std::cmp::Ordering;

use crate::features::FeatureId;
use crate::kernels::counting::{FeatureCounts, PairedCounts};
use crate::kernels::statistics::{
    benjamini_hochberg, mcnemar_p, newcombe, newcombe_paired, odds_ratio, odds_ratio_paired, two_proportions_p,
};

/// Rows with a q value below this come first: they are called significant.
pub const SIGNIFICANT_Q: f64 = 0.05;

/// One feature compared between A and B.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffRow {
    /// The feature.
    pub feature_id: FeatureId,
    /// Documents of A that have it.
    pub docs_a: u64,
    /// Documents of B that have it.
    pub docs_b: u64,
    /// Share of A.
    pub frequency_a: f64,
    /// Share of B.
    pub frequency_b: f64,
    /// `frequency_a - frequency_b`.
    pub difference: f64,
    /// Confidence interval of the difference.
    pub ci: (f64, f64),
    /// Odds ratio with 0.5 added to each cell; of pairs, to both counts of those that differ.
    pub odds_ratio: f64,
    /// Two-sided p that the difference is chance.
    pub p_value: f64,
    /// Benjamini-Hochberg q over all features that were tested.
    pub q_value: f64,
}

/// Smallest number of documents (A and B together) with a feature for it to be tested, if the user gives none: 5, or
/// a twentieth of the documents if there are fewer than 100. Rarer features could not come out significant and would
/// only make the correction for many tests harder.
pub fn default_min_docs(n_docs: u64) -> u64 {
    (n_docs / 20).clamp(1, 5)
}

/// Compares two independent sets; `z` is the normal quantile of the intervals.
///
/// Tested are those of the features `ids` that at least `min_docs` documents have. Empty if a set is empty.
pub fn diff(a: &FeatureCounts, b: &FeatureCounts, ids: &[FeatureId], min_docs: u64, z: f64) -> Vec<DiffRow> {
    let (n_a, n_b) = (a.n_docs, b.n_docs);
    compare(a, b, ids, min_docs, |_, docs_a, docs_b| Comparison {
        ci: newcombe(docs_a, n_a, docs_b, n_b, z),
        odds_ratio: odds_ratio(docs_a, n_a, docs_b, n_b),
        p_value: two_proportions_p(docs_a, n_a, docs_b, n_b),
    })
}

/// Compares the two sides of matched pairs.
pub fn diff_paired(counts: &PairedCounts, ids: &[FeatureId], min_docs: u64, z: f64) -> Vec<DiffRow> {
    let n = counts.a.n_docs;
    compare(&counts.a, &counts.b, ids, min_docs, |id, docs_a, docs_b| {
        let both = counts.both.get(id as usize).copied().map_or(0, u64::from);
        let (only_a, only_b) = (docs_a - both, docs_b - both);
        Comparison {
            ci: newcombe_paired(both, only_a, only_b, n, z),
            odds_ratio: odds_ratio_paired(only_a, only_b),
            p_value: mcnemar_p(only_a, only_b),
        }
    })
}

struct Comparison {
    ci: (f64, f64),
    odds_ratio: f64,
    p_value: f64,
}

fn compare(
    a: &FeatureCounts,
    b: &FeatureCounts,
    ids: &[FeatureId],
    min_docs: u64,
    test: impl Fn(FeatureId, u64, u64) -> Comparison,
) -> Vec<DiffRow> {
    if a.n_docs == 0 || b.n_docs == 0 {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for &id in ids {
        let (docs_a, docs_b) = (a.docs(id), b.docs(id));
        if docs_a + docs_b < min_docs.max(1) {
            continue;
        }
        let (frequency_a, frequency_b) = (docs_a as f64 / a.n_docs as f64, docs_b as f64 / b.n_docs as f64);
        let Comparison { ci, odds_ratio, p_value } = test(id, docs_a, docs_b);
        let difference = frequency_a - frequency_b;
        let row = DiffRow {
            feature_id: id,
            docs_a,
            docs_b,
            frequency_a,
            frequency_b,
            difference,
            ci,
            odds_ratio,
            p_value,
            q_value: p_value,
        };
        rows.push(row);
    }
    let p: Vec<f64> = rows.iter().map(|row| row.p_value).collect();
    for (row, q) in rows.iter_mut().zip(benjamini_hochberg(&p, p.len() as u64)) {
        row.q_value = q;
    }
    rows.sort_by(order);
    rows
}

/// Significant rows first, then the larger difference, whatever its sign; ties by q, then by id.
pub fn order(x: &DiffRow, y: &DiffRow) -> Ordering {
    let rank = |row: &DiffRow| u8::from(row.q_value >= SIGNIFICANT_Q);
    rank(x)
        .cmp(&rank(y))
        .then_with(|| y.difference.abs().total_cmp(&x.difference.abs()))
        .then_with(|| x.q_value.total_cmp(&y.q_value))
        .then_with(|| x.feature_id.cmp(&y.feature_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const Z95: f64 = 1.959_963_984_540_054;

    fn counts(n_docs: u64, docs: &[u32]) -> FeatureCounts {
        FeatureCounts { n_docs, docs: docs.to_vec() }
    }

    #[test]
    fn significant_rows_come_first_by_size() {
        // Feature 2 differs most but rests on two documents; 1 differs more than 0.
        let (a, b) = (counts(200, &[100, 120, 2, 50]), counts(4, &[0, 0, 2, 1]));
        let rows = diff(&a, &b, &[0, 1, 2, 3], 1, Z95);
        assert_eq!(rows.iter().map(|row| row.feature_id).collect::<Vec<_>>(), [2, 1, 0, 3]);
        let (a, b) = (counts(200, &[100, 120, 2, 50]), counts(200, &[10, 20, 2, 51]));
        let rows = diff(&a, &b, &[0, 1, 2, 3], 1, Z95);
        assert_eq!(rows.iter().map(|row| row.feature_id).collect::<Vec<_>>(), [1, 0, 3, 2]);
        assert!(rows[0].ci.0 > 0.3 && rows[0].ci.1 < 0.6 && rows[0].odds_ratio > 10.0);
    }

    #[test]
    fn random_halves_of_one_set_do_not_differ() {
        // 2,000 documents, 300 features from frequent to rare, fifty ways to split: the share of splits in which
        // anything comes out significant must stay near the 5 % that q < 0.05 allows.
        let mut state = 0x2545_F491_4F6C_DD1Du64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let documents: Vec<Vec<u32>> = (0..2000)
            .map(|_| (0..300u32).filter(|id| random() % 1000 < u64::from(500 / (id / 10 + 1))).collect())
            .collect();
        let ids: Vec<u32> = (0..300).collect();
        let mut splits = 0;
        let mut p_values = Vec::new();
        for _ in 0..50 {
            let mut halves = [FeatureCounts::new(300), FeatureCounts::new(300)];
            documents.iter().for_each(|ids| halves[(random() % 2) as usize].update(ids));
            let rows = diff(&halves[0], &halves[1], &ids, 5, Z95);
            splits += usize::from(rows.iter().any(|row| row.q_value < SIGNIFICANT_Q));
            p_values.extend(rows.iter().map(|row| row.p_value));
        }
        assert!(splits <= 6, "{splits} of 50 splits");
        let small = p_values.iter().filter(|p| **p < 0.05).count() as f64 / p_values.len() as f64;
        assert!((0.02..0.06).contains(&small), "{small} of p are below 0.05");
    }

    #[test]
    fn an_empty_side_gives_nothing() {
        assert!(diff(&counts(0, &[0]), &counts(5, &[5]), &[0], 1, Z95).is_empty());
        assert!(diff(&FeatureCounts::default(), &FeatureCounts::default(), &[], 1, Z95).is_empty());
    }

    #[test]
    fn pairs_see_what_margins_hide() {
        // 30 of 100 pairs switch in one direction and none in the other.
        let mut paired = PairedCounts::new(1);
        for pair in 0..100 {
            let (a, b): (&[u32], &[u32]) = if pair < 30 {
                (&[0], &[])
            } else if pair < 60 {
                (&[0], &[0])
            } else {
                (&[], &[])
            };
            paired.update(a, b);
        }
        let rows = diff_paired(&paired, &[0], 1, Z95);
        assert_eq!((rows[0].docs_a, rows[0].docs_b), (60, 30));
        assert!((rows[0].p_value - 2.0 * 0.5f64.powi(30)).abs() < 1e-20);
        assert!((rows[0].odds_ratio - 61.0).abs() < 1e-12);
        let unpaired = diff(&paired.a, &paired.b, &[0], 1, Z95);
        assert!(unpaired[0].p_value > rows[0].p_value);
        assert!(unpaired[0].ci.0 < rows[0].ci.0, "pairing narrows the interval");
    }

    #[test]
    fn rare_and_unselected_features_are_not_tested() {
        let (a, b) = (counts(50, &[4, 30, 30]), counts(50, &[0, 10, 10]));
        let rows = diff(&a, &b, &[0, 1], default_min_docs(100), Z95);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].q_value, rows[0].p_value, "one test needs no correction");
        assert_eq!((default_min_docs(6), default_min_docs(60), default_min_docs(10_000)), (1, 3, 5));
    }
}
