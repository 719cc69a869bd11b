//! In how many documents each feature is present.

use crate::FeatureId;

/// Document counts of one set of documents. Ids that are not selected, or not below the bound, are not counted.
#[derive(Debug, Clone, Default)]
pub struct FeatureCounts {
    /// Documents seen.
    pub n_docs: u64,
    /// Documents that have the feature, by id.
    pub docs: Vec<u32>,
}

impl FeatureCounts {
    /// Nothing counted yet, for ids below `id_bound`.
    pub fn new(id_bound: usize) -> Self {
        Self { n_docs: 0, docs: vec![0; id_bound] }
    }

    /// Counts a document with these features, each at most once.
    pub fn update(&mut self, ids: &[FeatureId]) {
        self.n_docs += 1;
        for id in ids {
            if let Some(docs) = self.docs.get_mut(*id as usize) {
                *docs += 1;
            }
        }
    }

    /// Adds what was counted of other documents.
    pub fn merge(&mut self, other: &Self) {
        self.n_docs += other.n_docs;
        self.docs.iter_mut().zip(&other.docs).for_each(|(sum, more)| *sum += more);
    }

    /// Documents that have feature `id`.
    pub fn docs(&self, id: FeatureId) -> u64 {
        self.docs.get(id as usize).copied().map_or(0, u64::from)
    }
}

/// In how many of some pairs of documents a feature is present in both.
#[derive(Debug, Clone, Default)]
pub struct PairedCounts {
    /// The first documents of the pairs.
    pub a: FeatureCounts,
    /// The second ones.
    pub b: FeatureCounts,
    /// Pairs with the feature in both, by id.
    pub both: Vec<u32>,
}

impl PairedCounts {
    /// Nothing counted yet, for ids below `id_bound`.
    pub fn new(id_bound: usize) -> Self {
        let counts = FeatureCounts::new(id_bound);
        Self { a: counts.clone(), b: counts, both: vec![0; id_bound] }
    }

    /// Counts a pair; both lists ascending.
    pub fn update(&mut self, a: &[FeatureId], b: &[FeatureId]) {
        self.a.update(a);
        self.b.update(b);
        let (mut i, mut j) = (0, 0);
        while i < a.len() && j < b.len() {
            match a[i].cmp(&b[j]) {
                std::cmp::Ordering::Less => i += 1,
                std::cmp::Ordering::Greater => j += 1,
                std::cmp::Ordering::Equal => {
                    if let Some(both) = self.both.get_mut(a[i] as usize) {
                        *both += 1;
                    }
                    i += 1;
                    j += 1;
                }
            }
        }
    }
}

/// Stands for no group in a list of groups by document.
pub const NO_GROUP: u16 = u16::MAX;

/// Puts the documents whose bit is set in `words` (64 documents each, the first in the lowest bit) into `group`; those that
/// are in another already go to `again`, with their number.
pub fn assign(group_of: &mut [u16], group: u16, words: &[u64], again: &mut Vec<(usize, u16)>) {
    for (at, (places, word)) in group_of.chunks_mut(64).zip(words).enumerate() {
        for (bit, place) in places.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 1) {
            match *place {
                NO_GROUP => *place = group,
                _ => again.push((64 * at + bit, group)),
            }
        }
    }
}

/// Document counts of several groups of documents, each by stratum.
#[derive(Debug, Clone, Default)]
pub struct GroupCounts {
    /// Group by group, the strata of each.
    cells: Vec<FeatureCounts>,
    n_strata: usize,
}

impl GroupCounts {
    /// Nothing counted yet, for ids below `id_bound`.
    pub fn new(id_bound: usize, n_groups: usize, n_strata: usize) -> Self {
        Self { cells: vec![FeatureCounts::new(id_bound); n_groups * n_strata], n_strata }
    }

    /// Memory of the counts.
    pub fn bytes(id_bound: usize, n_groups: usize, n_strata: usize) -> usize {
        n_groups * n_strata * (id_bound * size_of::<u32>() + size_of::<FeatureCounts>())
    }

    /// Counts a document of `group` in `stratum`.
    pub fn update(&mut self, group: usize, stratum: usize, ids: &[FeatureId]) {
        self.cells[group * self.n_strata + stratum].update(ids);
    }

    /// Counts documents of the first stratum that lie one behind the other: document `i` is in `group_of[i]`, or in none
    /// ([`NO_GROUP`]), and has the features `ids[offsets[i]..offsets[i + 1]]`.
    pub fn update_all(&mut self, group_of: &[u16], offsets: &[i32], ids: &[FeatureId]) {
        for (group, ends) in group_of.iter().zip(offsets.windows(2)).filter(|(group, _)| **group != NO_GROUP) {
            let own = ids.get(ends[0] as usize..ends[1] as usize).unwrap_or_default();
            self.update(usize::from(*group), 0, own);
        }
    }

    /// Adds what was counted of other documents of the same groups and strata.
    pub fn merge(&mut self, other: &Self) {
        self.cells.iter_mut().zip(&other.cells).for_each(|(sum, more)| sum.merge(more));
    }

    /// Number of groups.
    pub fn n_groups(&self) -> usize {
        self.cells.len() / self.n_strata.max(1)
    }

    /// Counts of a group by stratum.
    pub fn group(&self, group: usize) -> &[FeatureCounts] {
        &self.cells[group * self.n_strata..][..self.n_strata]
    }

    /// Counts of all groups together by stratum.
    pub fn total(&self) -> Vec<FeatureCounts> {
        let mut total = self.group(0).to_vec();
        for group in 1..self.n_groups() {
            total.iter_mut().zip(self.group(group)).for_each(|(sum, more)| sum.merge(more));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_are_those_of_sets(pairs in vec((btree_set(0u32..12, 0..8), btree_set(0u32..12, 0..8)), 0..20)) {
            let mut paired = PairedCounts::new(10);
            let mut few = FeatureCounts::new(3);
            for (a, b) in &pairs {
                let (a, b): (Vec<u32>, Vec<u32>) = (a.iter().copied().collect(), b.iter().copied().collect());
                paired.update(&a, &b);
                few.update(&a);
            }
            for id in 0..10u32 {
                let with = |keep: &dyn Fn(&(std::collections::BTreeSet<u32>, std::collections::BTreeSet<u32>)) -> bool| {
                    pairs.iter().filter(|pair| keep(pair)).count() as u64
                };
                prop_assert_eq!(paired.a.docs(id), with(&|(a, _)| a.contains(&id)));
                prop_assert_eq!(paired.b.docs(id), with(&|(_, b)| b.contains(&id)));
                prop_assert_eq!(u64::from(paired.both[id as usize]), with(&|(a, b)| a.contains(&id) && b.contains(&id)));
            }
            let documents: Vec<Vec<u32>> = pairs.iter().map(|(a, _)| a.iter().copied().collect()).collect();
            let (first, second) = documents.split_at(pairs.len() / 3);
            let mut parts = [first, second].map(|part| {
                let mut counts = FeatureCounts::new(10);
                part.iter().for_each(|ids| counts.update(ids));
                counts
            });
            let (sum, more) = parts.split_at_mut(1);
            sum[0].merge(&more[0]);
            prop_assert_eq!((sum[0].n_docs, &sum[0].docs), (paired.a.n_docs, &paired.a.docs));
            // The documents at even places are in group 0, those at places of three in group 1, some in both or none.
            let is_in = |group: usize, at: usize| at.is_multiple_of(group + 2);
            let (mut group_of, mut again) = (vec![NO_GROUP; documents.len()], Vec::new());
            for group in 0..2 {
                let word = |at: usize| {
                    (0..64).filter(|bit| is_in(group, 64 * at + bit)).map(|bit| 1u64 << bit).sum::<u64>()
                };
                let words: Vec<u64> = (0..documents.len().div_ceil(64)).map(word).collect();
                assign(&mut group_of, group as u16, &words, &mut again);
            }
            let ends = documents.iter().scan(0, |end, ids| { *end += ids.len() as i32; Some(*end) });
            let offsets: Vec<i32> = std::iter::once(0).chain(ends).collect();
            let mut counts = GroupCounts::new(10, 2, 1);
            counts.update_all(&group_of, &offsets, &documents.concat());
            again.iter().for_each(|(at, group)| counts.update(usize::from(*group), 0, &documents[*at]));
            for group in 0..2 {
                let mut expected = FeatureCounts::new(10);
                documents.iter().enumerate().filter(|(at, _)| is_in(group, *at)).for_each(|(_, ids)| expected.update(ids));
                let found = &counts.group(group)[0];
                prop_assert_eq!((found.n_docs, &found.docs), (expected.n_docs, &expected.docs));
            }
            prop_assert_eq!(few.n_docs, pairs.len() as u64);
            prop_assert!((0..3u32).all(|id| few.docs(id) == paired.a.docs(id)) && few.docs(3) == 0);
        }
    }
}
