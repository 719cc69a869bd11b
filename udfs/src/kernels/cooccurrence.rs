//! In how many documents each pair of features is, counted directly.
//!
//! Counts are rows of the upper triangle. For a batch of documents the postings of each feature are made first (which
//! documents have it, and what follows it there); then each row is counted by one thread, which keeps it in its cache.
//! Large dictionaries are counted in blocks of rows, with a pass over the documents each, so that memory is bounded.

use std::ops::Range;

use rayon::prelude::*;

/// Documents as lists of positions: small numbers in place of feature ids.
#[derive(Debug, Clone)]
pub struct Documents {
    positions: Vec<u32>,
    /// Where each document starts; one more than there are documents.
    starts: Vec<usize>,
}

impl Default for Documents {
    fn default() -> Self {
        Self { positions: Vec::new(), starts: vec![0] }
    }
}

impl Documents {
    /// Adds a document; `position_of[id]` is `u32::MAX` for features that are not looked at. `ids` ascending, and
    /// positions in the order of ids.
    pub fn push(&mut self, ids: &[u32], position_of: &[u32]) {
        let known = |id: &u32| position_of.get(*id as usize).copied().filter(|position| *position != u32::MAX);
        self.positions.extend(ids.iter().filter_map(known));
        self.starts.push(self.positions.len());
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of each document.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        self.starts.windows(2).map(|ends| &self.positions[ends[0]..ends[1]])
    }
}

/// Pair counts of a block of rows: in how many documents feature `a` of the block is together with each `b > a`.
#[derive(Debug, Clone)]
pub struct PairCounts {
    first: usize,
    rows: Vec<Vec<u32>>,
    /// Documents that have each feature (of all, not of the block only).
    docs: Vec<u32>,
    /// Documents counted.
    n_docs: u64,
}

impl PairCounts {
    /// Nothing counted yet, for rows `block` of `n_features` features.
    pub fn new(n_features: usize, block: Range<usize>) -> Self {
        let rows = block.clone().map(|a| vec![0; n_features - a - 1]).collect();
        Self { first: block.start, rows, docs: vec![0; n_features], n_docs: 0 }
    }

    /// Counts documents.
    pub fn update(&mut self, documents: &Documents) {
        self.n_docs += documents.len() as u64;
        for position in &documents.positions {
            self.docs[*position as usize] += 1;
        }
        let block = self.first..self.first + self.rows.len();
        // Postings by counting sort: for each row, where the rest of each of its documents is.
        let mut starts = vec![0usize; self.rows.len() + 1];
        for position in &documents.positions {
            if block.contains(&(*position as usize)) {
                starts[*position as usize - self.first + 1] += 1;
            }
        }
        for row in 0..self.rows.len() {
            starts[row + 1] += starts[row];
        }
        let mut next = starts.clone();
        let mut postings = vec![0..0; starts[self.rows.len()]];
        for ends in documents.starts.windows(2) {
            for at in ends[0]..ends[1] {
                let position = documents.positions[at] as usize;
                if block.contains(&position) {
                    let slot = &mut next[position - self.first];
                    postings[*slot] = at + 1..ends[1];
                    *slot += 1;
                }
            }
        }
        self.rows.par_iter_mut().enumerate().for_each(|(row, counts)| {
            let before = (self.first + row + 1) as u32;
            for rest in &postings[starts[row]..starts[row + 1]] {
                for other in &documents.positions[rest.clone()] {
                    counts[(*other - before) as usize] += 1;
                }
            }
        });
    }

    /// Adds documents that were counted elsewhere: how many there are, and how many of them have each feature.
    pub fn add_documents(&mut self, n_docs: u64, docs: impl Iterator<Item = (usize, u32)>) {
        self.n_docs += n_docs;
        for (position, more) in docs {
            self.docs[position] += more;
        }
    }

    /// Adds documents that have the features at positions `a < b`; ignored if `a` is not of this block.
    pub fn add_pair(&mut self, a: usize, b: usize, both: u32) {
        if let Some(row) = a.checked_sub(self.first).and_then(|row| self.rows.get_mut(row)) {
            row[b - a - 1] += both;
        }
    }

    /// Documents counted.
    pub fn n_docs(&self) -> u64 {
        self.n_docs
    }

    /// Documents that have the feature at each position.
    pub fn docs(&self) -> &[u32] {
        &self.docs
    }

    /// Documents that have the features at both positions, `a < b`; 0 if `a` is not of this block.
    pub fn both(&self, a: usize, b: usize) -> u32 {
        let row = a.checked_sub(self.first).and_then(|row| self.rows.get(row));
        row.and_then(|row| row.get(b - a - 1)).copied().unwrap_or(0)
    }

    /// Whether the row of the feature at this position is of this block.
    pub fn has_row(&self, position: usize) -> bool {
        (self.first..self.first + self.rows.len()).contains(&position)
    }

    /// All pairs of the block that are together somewhere, with their counts.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize, u32)> {
        (self.first..)
            .zip(&self.rows)
            .flat_map(|(a, row)| (a + 1..).zip(row).filter(|(_, both)| **both > 0).map(move |(b, both)| (a, b, *both)))
    }

    /// Rows of the block: position of the feature, and its counts with each later one.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (usize, &[u32])> {
        self.rows.iter().enumerate().map(|(row, counts)| (self.first + row, counts.as_slice()))
    }
}

/// Splits the rows of the triangle into blocks of at most `max_bytes` each (or one row).
pub fn blocks(n_features: usize, max_bytes: usize) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for row in 0..n_features {
        let row_bytes = block_bytes(n_features, &(row..row + 1));
        if row > start && bytes + row_bytes > max_bytes {
            blocks.push(start..row);
            (start, bytes) = (row, 0);
        }
        bytes += row_bytes;
    }
    if start < n_features {
        blocks.push(start..n_features);
    }
    blocks
}

/// Memory of a block's counts.
pub fn block_bytes(n_features: usize, block: &Range<usize>) -> usize {
    block.clone().map(|row| (n_features - row - 1) * size_of::<u32>() + size_of::<Vec<u32>>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_are_those_of_sets(rows in vec(btree_set(0u32..15, 0..10), 0..30), budget in 1usize..600, cut in 0usize..30) {
            // Ids 3 and 7 are not looked at; the others get positions in order.
            let mut position_of = vec![u32::MAX; 14];
            let known: Vec<u32> = (0..14).filter(|id| ![3, 7].contains(id)).collect();
            for (position, id) in known.iter().enumerate() {
                position_of[*id as usize] = position as u32;
            }
            let mut batches = [Documents::default(), Documents::default()];
            for (row, ids) in rows.iter().enumerate() {
                batches[usize::from(row < cut)].push(&ids.iter().copied().collect::<Vec<_>>(), &position_of);
            }
            let blocks = blocks(known.len(), budget);
            prop_assert_eq!(blocks.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..known.len()).collect::<Vec<_>>());
            for block in blocks {
                prop_assert!(block.len() == 1 || block_bytes(known.len(), &block) <= budget);
                let mut counts = PairCounts::new(known.len(), block);
                batches.iter().for_each(|documents| counts.update(documents));
                prop_assert_eq!(counts.n_docs(), rows.len() as u64);
                for (a, row) in counts.rows().collect::<Vec<_>>() {
                    let with_a = rows.iter().filter(|ids| ids.contains(&known[a])).count();
                    prop_assert_eq!(counts.docs()[a] as usize, with_a);
                    for (b, count) in (a + 1..).zip(row) {
                        let both = rows.iter().filter(|ids| ids.contains(&known[a]) && ids.contains(&known[b])).count();
                        prop_assert_eq!(*count as usize, both);
                    }
                }
            }
        }
    }
}
