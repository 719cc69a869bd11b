//! In how many documents each pair of features is, counted directly.
//!
//! Counts are rows of the upper triangle. Documents are laid out once, one after the other, each closed by a mark, and for
//! each feature it is noted where its documents go on. A row is then counted by one thread that walks to these places and
//! reads up to the mark, which keeps the row in its cache; the places ahead are fetched before they are needed, without
//! which two thirds of the time would be waiting for memory.
//!
//! Tried on 200,000 documents with 61 of 16,384 features (375 million pairs; processor time): this 0.9 s, without fetching
//! ahead 2.1 s, positions of 32 bits 1.2 s. Ordering features by frequency, in either direction, changes nothing beyond
//! noise. Bitmaps win where more than about 1 % of the documents have both features, which in such data are a few dozen
//! pairs.

use std::ops::Range;

use rayon::prelude::*;

use crate::FeatureId;

/// How many places ahead the next documents are fetched.
const AHEAD: usize = 8;

/// Features of documents, one list after the other.
#[derive(Debug, Clone)]
pub struct FeatureLists {
    ids: Vec<FeatureId>,
    /// Where each document starts; one more than there are documents.
    starts: Vec<usize>,
}

impl Default for FeatureLists {
    fn default() -> Self {
        Self { ids: Vec::new(), starts: vec![0] }
    }
}

impl FeatureLists {
    /// Adds a document; ids ascending.
    pub fn push(&mut self, ids: impl IntoIterator<Item = FeatureId>) {
        self.ids.extend(ids);
        self.starts.push(self.ids.len());
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Features in all documents together.
    pub fn n_present(&self) -> usize {
        self.ids.len()
    }

    /// Memory that `n_present` features in `n_docs` documents take.
    pub fn bytes(n_present: usize, n_docs: usize) -> usize {
        n_present * size_of::<FeatureId>() + n_docs * size_of::<usize>()
    }

    /// Features of the documents of a range.
    pub fn range(&self, docs: Range<usize>) -> impl Iterator<Item = &[FeatureId]> + Clone {
        self.starts[docs.start..=docs.end].windows(2).map(|ends| &self.ids[ends[0]..ends[1]])
    }

    /// See [`Documents::new`].
    pub fn documents(&self, position_of: &[u32], n_features: usize) -> Documents {
        Documents::new(self.range(0..self.len()), position_of, n_features)
    }
}

/// Documents as lists of positions (small numbers in place of feature ids), and for each position where its documents go on.
#[derive(Debug, Clone)]
pub struct Documents {
    layout: Layout,
    n_docs: usize,
}

/// Positions take 16 bits where they fit: fewer bytes to fetch.
#[derive(Debug, Clone)]
enum Layout {
    Narrow(Lists<u16>),
    Wide(Lists<u32>),
}

/// A number that stands for a feature; the largest of its type closes a document.
trait Position: Copy + PartialEq + Send + Sync {
    const END: Self;
    fn new(position: u32) -> Self;
    fn get(self) -> usize;
}

impl Position for u16 {
    const END: Self = Self::MAX;
    fn new(position: u32) -> Self {
        position as Self
    }
    fn get(self) -> usize {
        usize::from(self)
    }
}

impl Position for u32 {
    const END: Self = Self::MAX;
    fn new(position: u32) -> Self {
        position
    }
    fn get(self) -> usize {
        self as usize
    }
}

#[derive(Debug, Clone)]
struct Lists<P> {
    /// Positions of one document after the other, ascending, each closed by the mark.
    positions: Vec<P>,
    /// By feature, where in `positions` each of its documents goes on.
    places: Vec<u32>,
    /// Where the places of each feature start; one more than there are features.
    starts: Vec<usize>,
}

impl<P: Position> Lists<P> {
    fn new<'a>(
        documents: impl Iterator<Item = &'a [FeatureId]> + Clone,
        position_of: &[u32],
        n_features: usize,
    ) -> Self {
        let known = |id: &FeatureId| position_of.get(*id as usize).copied().filter(|position| *position != u32::MAX);
        let (mut starts, mut n_docs) = (vec![0usize; n_features + 1], 0);
        for ids in documents.clone() {
            n_docs += 1;
            ids.iter().filter_map(known).for_each(|position| starts[position as usize + 1] += 1);
        }
        for position in 0..n_features {
            starts[position + 1] += starts[position];
        }
        let mut next = starts.clone();
        let mut places = vec![0u32; starts[n_features]];
        let mut positions = Vec::with_capacity(starts[n_features] + n_docs);
        for ids in documents {
            for position in ids.iter().filter_map(known) {
                positions.push(P::new(position));
                let slot = &mut next[position as usize];
                places[*slot] = positions.len() as u32;
                *slot += 1;
            }
            positions.push(P::END);
        }
        Self { positions, places, starts }
    }

    /// Adds the documents that have `row` and each later position; `counts[0]` is that of `row + 1`.
    fn count(&self, row: usize, counts: &mut [u32]) {
        let places = &self.places[self.starts[row]..self.starts[row + 1]];
        for (at, place) in places.iter().enumerate() {
            if let Some(ahead) = places.get(at + AHEAD) {
                prefetch(&self.positions[*ahead as usize]);
            }
            for other in &self.positions[*place as usize..] {
                if *other == P::END {
                    break;
                }
                counts[other.get() - row - 1] += 1;
            }
        }
    }

    fn docs(&self, position: usize) -> u32 {
        (self.starts[position + 1] - self.starts[position]) as u32
    }
}

/// Asks for the memory at `value`, without waiting for it.
#[inline(always)]
fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint that reads nothing; every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

impl Documents {
    /// Most features and documents together that one layout can hold.
    pub const MOST: usize = u32::MAX as usize;

    /// Lays documents out. `position_of[id]` is below `n_features`, or `u32::MAX` for features that are not looked at; ids of
    /// a document ascend, and positions in the order of ids. Features and documents together must be no more than
    /// [`Self::MOST`].
    pub fn new<'a>(
        documents: impl Iterator<Item = &'a [FeatureId]> + Clone,
        position_of: &[u32],
        n_features: usize,
    ) -> Self {
        let n_docs = documents.clone().count();
        let layout = if n_features < usize::from(u16::MAX) {
            Layout::Narrow(Lists::new(documents, position_of, n_features))
        } else {
            Layout::Wide(Lists::new(documents, position_of, n_features))
        };
        Self { layout, n_docs }
    }

    /// Memory of a layout, at most, where documents have `n_present` features in all.
    pub fn bytes(n_present: usize, n_docs: usize, n_features: usize) -> usize {
        let position = if n_features < usize::from(u16::MAX) { size_of::<u16>() } else { size_of::<u32>() };
        (n_present + n_docs) * position + n_present * size_of::<u32>() + 2 * (n_features + 1) * size_of::<usize>()
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.n_docs
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n_docs == 0
    }

    /// Documents that have the feature at a position.
    fn docs(&self, position: usize) -> u32 {
        match &self.layout {
            Layout::Narrow(lists) => lists.docs(position),
            Layout::Wide(lists) => lists.docs(position),
        }
    }

    fn count(&self, row: usize, counts: &mut [u32]) {
        match &self.layout {
            Layout::Narrow(lists) => lists.count(row, counts),
            Layout::Wide(lists) => lists.count(row, counts),
        }
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
        self.docs.iter_mut().enumerate().for_each(|(position, docs)| *docs += documents.docs(position));
        let first = self.first;
        self.rows.par_iter_mut().enumerate().for_each(|(row, counts)| documents.count(first + row, counts));
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
            let lists: Vec<Vec<u32>> = rows.iter().map(|ids| ids.iter().copied().collect()).collect();
            let (before, after) = lists.split_at(cut.min(lists.len()));
            let lay = |lists: &[Vec<u32>]| {
                let mut features = FeatureLists::default();
                lists.iter().for_each(|ids| features.push(ids.iter().copied()));
                features.documents(&position_of, known.len())
            };
            let batches = [lay(before), lay(after)];
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

    #[test]
    fn wide_positions_count_the_same() {
        let rows = [vec![0u32, 2, 5], vec![2, 5], vec![], vec![5], vec![0, 5]];
        let position_of: Vec<u32> = (0..6).collect();
        let documents = Documents::new(rows.iter().map(Vec::as_slice), &position_of, 6);
        let wide = Lists::<u32>::new(rows.iter().map(Vec::as_slice), &position_of, 6);
        let wide = Documents { layout: Layout::Wide(wide), n_docs: rows.len() };
        let pairs = |documents: &Documents| {
            let mut counts = PairCounts::new(6, 0..6);
            counts.update(documents);
            counts.pairs().collect::<Vec<_>>()
        };
        assert_eq!(pairs(&documents), [(0, 2, 1), (0, 5, 2), (2, 5, 2)]);
        assert_eq!(pairs(&wide), pairs(&documents));
    }
}
