//! State of one group of documents: sums by feature, or by pair of features. Merging states in any order gives the same.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::FeatureId;
use crate::cooccurrence::{Documents, PairCounts, blocks};

/// Features in documents that are kept until their pairs are counted.
const KEPT_FEATURES: usize = 8 << 20;

/// Memory for pair counts while they are made.
const BLOCK_BYTES: usize = 64 << 20;

/// Multiplies by an odd constant (Fibonacci hashing), which spreads small keys well enough and is fast.
#[derive(Debug, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, key: u64) {
        let spread = (self.0 ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ (spread >> 32);
    }
}

/// Two numbers per key.
pub type Sums = HashMap<u64, [f64; 2], BuildHasherDefault<KeyHasher>>;

/// Sums over the documents of a group. Counts are exact up to 2^53.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupState {
    /// Documents of either kind (target and others; the second is 0 where there is one kind only).
    pub n_docs: [u64; 2],
    /// Sums by [`key`].
    pub sums: Sums,
    /// Features of documents whose pairs are not counted yet, one document after the other.
    pub kept_ids: Vec<FeatureId>,
    /// Features of each of those documents.
    pub kept_lengths: Vec<u32>,
}

/// Key of a pair of features, or of a feature with itself.
pub fn key(a: FeatureId, b: FeatureId) -> u64 {
    u64::from(a) << 32 | u64::from(b)
}

/// The features of a key.
pub fn features_of(key: u64) -> (FeatureId, FeatureId) {
    ((key >> 32) as FeatureId, key as FeatureId)
}

impl GroupState {
    /// Adds to the sums of a feature.
    pub fn add(&mut self, id: FeatureId, more: [f64; 2]) {
        let sums = self.sums.entry(key(id, id)).or_default();
        sums[0] += more[0];
        sums[1] += more[1];
    }

    /// Adds a document whose pairs are to be counted; ids ascending.
    pub fn keep(&mut self, ids: &[FeatureId]) {
        self.n_docs[0] += 1;
        self.kept_ids.extend_from_slice(ids);
        self.kept_lengths.push(ids.len() as u32);
        if self.kept_ids.len() > KEPT_FEATURES {
            self.count_kept();
        }
    }

    /// Adds the sums and documents of another state.
    pub fn merge(&mut self, other: &Self) {
        self.n_docs[0] += other.n_docs[0];
        self.n_docs[1] += other.n_docs[1];
        for (key, more) in &other.sums {
            let sums = self.sums.entry(*key).or_default();
            sums[0] += more[0];
            sums[1] += more[1];
        }
        self.kept_ids.extend_from_slice(&other.kept_ids);
        self.kept_lengths.extend_from_slice(&other.kept_lengths);
        if self.kept_ids.len() > KEPT_FEATURES {
            self.count_kept();
        }
    }

    /// Kept documents, with features that have a position below `n_features`.
    pub fn kept(&self, position_of: &[u32], n_features: usize) -> Documents {
        let mut rest = self.kept_ids.as_slice();
        let lists = self.kept_lengths.iter().map(move |length| {
            let (ids, after) = rest.split_at((*length as usize).min(rest.len()));
            rest = after;
            ids
        });
        Documents::new(lists, position_of, n_features)
    }

    /// Documents that have each feature: kept ones and counted ones; ids ascending.
    pub fn docs(&self) -> Vec<(FeatureId, u32)> {
        let mut docs: HashMap<FeatureId, u32> = HashMap::new();
        for (a, count) in self.sums.iter().filter(|(key, _)| features_of(**key).0 == features_of(**key).1) {
            docs.insert(features_of(*a).0, count[0] as u32);
        }
        for id in &self.kept_ids {
            *docs.entry(*id).or_default() += 1;
        }
        let mut docs: Vec<_> = docs.into_iter().collect();
        docs.sort_unstable();
        docs
    }

    /// Turns the kept documents into counts of pairs.
    pub fn count_kept(&mut self) {
        let mut ids = self.kept_ids.clone();
        ids.sort_unstable();
        ids.dedup();
        let mut position_of = vec![u32::MAX; ids.last().map_or(0, |id| *id as usize + 1)];
        for (position, id) in (0..).zip(&ids) {
            position_of[*id as usize] = position;
        }
        let documents = self.kept(&position_of, ids.len());
        self.kept_ids = Vec::new();
        self.kept_lengths = Vec::new();
        for block in blocks(ids.len(), BLOCK_BYTES) {
            let mut counts = PairCounts::new(ids.len(), block);
            counts.update(&documents);
            for (a, b, both) in counts.pairs() {
                self.sums.entry(key(ids[a], ids[b])).or_default()[0] += f64::from(both);
            }
            for (position, docs) in counts.docs().iter().enumerate().filter(|(position, _)| counts.has_row(*position)) {
                self.add(ids[position], [f64::from(*docs), 0.0]);
            }
        }
    }

    /// Memory it holds, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.sums.capacity() * size_of::<(u64, [f64; 2], u8)>()
            + (self.kept_ids.capacity() + self.kept_lengths.capacity()) * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pairs_are_the_same_however_documents_are_split(rows in vec((btree_set(0u32..9, 0..7), 0usize..3), 0..25)) {
            let mut parts = vec![GroupState::default(); 3];
            for (ids, part) in &rows {
                parts[*part].keep(&ids.iter().copied().collect::<Vec<_>>());
            }
            parts[1].count_kept();
            let mut whole = GroupState::default();
            parts.iter().for_each(|part| whole.merge(part));
            let docs: Vec<(u32, u32)> = (0..9)
                .map(|id| (id, rows.iter().filter(|(ids, _)| ids.contains(&id)).count() as u32))
                .filter(|(_, docs)| *docs > 0)
                .collect();
            prop_assert_eq!(whole.docs(), docs);
            whole.count_kept();
            prop_assert_eq!(whole.n_docs, [rows.len() as u64, 0]);
            for a in 0..9u32 {
                for b in a..9 {
                    let both = rows.iter().filter(|(ids, _)| ids.contains(&a) && ids.contains(&b)).count();
                    prop_assert_eq!(whole.sums.get(&key(a, b)).map_or(0.0, |sums| sums[0]), both as f64);
                }
            }
        }
    }
}
