//! How many documents are expected to have both of two features, if these are independent within strata of documents.
//!
//! Texts about one topic share hundreds of features, and every two of them come together more often than chance would
//! have it over all texts. Within a topic they need not: with `n_k` documents in stratum `k`, of which `a_k` have the
//! first feature and `b_k` the second, `sum a_k b_k / n_k` are expected to have both (Mantel and Haenszel 1959).

use crate::FeatureId;

/// Documents with each feature, by stratum.
#[derive(Debug)]
pub struct StratumCounts {
    n_docs: Vec<u32>,
    /// Row-major, strata x ids.
    docs: Vec<u32>,
    id_bound: usize,
}

impl StratumCounts {
    /// Nothing counted yet.
    pub fn new(n_strata: usize, id_bound: usize) -> Self {
        Self { n_docs: vec![0; n_strata], docs: vec![0; n_strata * id_bound], id_bound }
    }

    /// Memory of the counts.
    pub fn bytes(n_strata: usize, id_bound: usize) -> usize {
        n_strata * (id_bound + 1) * size_of::<u32>()
    }

    /// Counts a document; ids that no feature has are passed over.
    pub fn update(&mut self, stratum: usize, ids: &[FeatureId]) {
        self.n_docs[stratum] += 1;
        let row = &mut self.docs[stratum * self.id_bound..][..self.id_bound];
        for id in ids {
            if let Some(docs) = row.get_mut(*id as usize) {
                *docs += 1;
            }
        }
    }

    /// What is expected of pairs of `features`, by position.
    pub fn background(&self, features: &[FeatureId]) -> Background {
        let strata: Vec<usize> = (0..self.n_docs.len()).filter(|stratum| self.n_docs[*stratum] > 0).collect();
        let scaled = |id: &FeatureId, stratum: &usize| {
            let docs = self.docs[stratum * self.id_bound + *id as usize];
            f64::from(docs) / f64::from(self.n_docs[*stratum]).sqrt()
        };
        let rows = features.iter().flat_map(|id| strata.iter().map(move |stratum| scaled(id, stratum))).collect();
        Background { groupings: vec![Grouping { rows, n_strata: strata.len() }] }
    }
}

/// What is expected of pairs.
#[derive(Debug)]
pub struct Background {
    groupings: Vec<Grouping>,
}

#[derive(Debug)]
struct Grouping {
    /// Row-major, features x strata: documents with the feature over the root of the stratum's size.
    rows: Vec<f64>,
    n_strata: usize,
}

impl Background {
    /// Of several ways to group the same documents: of what they expect, the smallest but one counts (the smallest of
    /// fewer than three). A grouping can happen to have a stratum of just those documents that have a pair, which it then
    /// explains away; several hardly do.
    pub fn join(backgrounds: Vec<Self>) -> Self {
        Self { groupings: backgrounds.into_iter().flat_map(|background| background.groupings).collect() }
    }

    /// Memory of the background of `n_features` in one grouping.
    pub fn bytes(n_strata: usize, n_features: usize) -> usize {
        n_strata * n_features * size_of::<f64>()
    }

    /// Documents expected to have the features at both positions.
    pub fn expected(&self, a: usize, b: usize) -> f64 {
        let (mut least, mut next) = (f64::INFINITY, f64::INFINITY);
        for grouping in &self.groupings {
            let expected = grouping.expected(a, b);
            next = next.min(least.max(expected));
            least = least.min(expected);
        }
        if self.groupings.len() < 3 { least } else { next }
    }
}

impl Grouping {
    fn expected(&self, a: usize, b: usize) -> f64 {
        let row = |position: usize| &self.rows[position * self.n_strata..][..self.n_strata];
        let mut lanes = [0.0; 4];
        let (a, b) = (row(a).chunks_exact(4), row(b).chunks_exact(4));
        let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
        for (x, y) in a.zip(b) {
            for lane in 0..4 {
                lanes[lane] += x[lane] * y[lane];
            }
        }
        lanes.iter().sum::<f64>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn expects_the_sum_over_strata(rows in vec((0usize..6, btree_set(0u32..5, 0..5)), 1..60)) {
            let mut counts = StratumCounts::new(6, 4);
            let rows: Vec<(usize, Vec<u32>)> = rows.into_iter().map(|(k, ids)| (k, ids.into_iter().collect())).collect();
            rows.iter().for_each(|(stratum, ids)| counts.update(*stratum, ids));
            let background = counts.background(&[0, 2, 3]);
            for (a, first) in [0u32, 2, 3].into_iter().enumerate() {
                for (b, second) in [0u32, 2, 3].into_iter().enumerate() {
                    let expected: f64 = (0..6).map(|stratum| {
                        let own: Vec<&Vec<u32>> = rows.iter().filter(|row| row.0 == stratum).map(|row| &row.1).collect();
                        let with = |id: u32| own.iter().filter(|ids| ids.contains(&id)).count() as f64;
                        with(first) * with(second) / own.len().max(1) as f64
                    }).sum();
                    prop_assert!((background.expected(a, b) - expected).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn of_several_groupings_the_smallest_but_one_counts() {
        // Two features in the same 4 of 16 documents: expected 1 without strata, 4 if they are a stratum.
        let grouped = |stratum_of: &dyn Fn(usize) -> usize| {
            let mut counts = StratumCounts::new(2, 2);
            (0..16).for_each(|row| counts.update(stratum_of(row), if row < 4 { &[0, 1] } else { &[] }));
            counts.background(&[0, 1])
        };
        let (together, apart, half) =
            (|| grouped(&|row| usize::from(row < 4)), || grouped(&|_| 0), || grouped(&|row| row / 8));
        let expected = |groupings: Vec<Background>| Background::join(groupings).expected(0, 1);
        assert_eq!(expected(vec![together()]), 4.0);
        assert_eq!(expected(vec![together(), apart()]), 1.0);
        assert!((expected(vec![together(), apart(), half()]) - 2.0).abs() < 1e-9);
        assert_eq!(expected(vec![half(), together(), apart(), apart()]), 1.0);
    }
}
