//! How many documents are expected to have both of two features, if these are independent within strata of documents.
//!
//! Texts about one topic share hundreds of features, and every two of them come together more often than chance would
//! have it over all texts. Within a topic they need not: with `n_k` documents in stratum `k`, of which `a_k` have the
//! first feature and `b_k` the second, `sum a_k b_k / n_k` are expected to have both (Mantel and Haenszel 1959).

use crate::features::FeatureId;

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
        Background { rows, n_strata: strata.len() }
    }
}

/// What is expected of pairs.
#[derive(Debug)]
pub struct Background {
    /// Row-major, features x strata: documents with the feature over the root of the stratum's size.
    rows: Vec<f64>,
    n_strata: usize,
}

impl Background {
    /// Memory of the background of `n_features`.
    pub fn bytes(n_strata: usize, n_features: usize) -> usize {
        n_strata * n_features * size_of::<f64>()
    }

    /// Documents expected to have the features at both positions.
    pub fn expected(&self, a: usize, b: usize) -> f64 {
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
}
