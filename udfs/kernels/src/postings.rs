//! The documents with the largest weighted sums of activations, by postings and exactly.
//!
//! Documents lie in chunks of at most 65,536, numbered from 0 within a chunk, so that a number takes 16 bits. The postings
//! of a feature in a chunk are one list of 16-bit words: the largest activation of each block of 128 postings, the
//! documents (ascending), their activations (`f16`, as they are stored, so that sums are exact):
//!
//! ```text
//! maxima: ceil(n / 128) | documents: n | activations: n
//! ```
//!
//! A search goes through a chunk in windows of 4,096 documents. The largest activations of the blocks that a window touches
//! bound what each feature can add there; features that cannot bring a document among the best, even all together, are
//! looked up only for documents that others bring near (MaxScore: Turtle and Flood 1995; by blocks and windows: Ding and
//! Suel 2011, "Faster top-k document retrieval using block-max indexes"). What a feature adds is summed in one order,
//! whatever is passed over, so that pruning does not change a digit.

use half::f16;

use crate::FeatureId;
use crate::top_k::{Ranked, TopK};

/// Documents of a chunk, at most.
pub const CHUNK_DOCS: usize = 1 << 16;

/// Postings of a block.
const BLOCK: usize = 128;

/// Documents of a window; their sums stay in the nearest cache.
const WINDOW: usize = 4096;

/// What rounding can add to a sum of many thousand activations, relative to the sum of what they can be.
const ROUNDING: f64 = 1e-12;

/// 16-bit words of a list of `n` postings.
fn words(n: usize) -> usize {
    n.div_ceil(BLOCK) + 2 * n
}

/// Postings of a list of so many words; the inverse of [`words`].
fn postings(words: usize) -> usize {
    words * BLOCK / (2 * BLOCK + 1)
}

/// Postings of a chunk of documents in the making.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    ids: Vec<FeatureId>,
    activations: Vec<f16>,
    /// Where each document ends.
    ends: Vec<u32>,
}

/// Postings of a chunk of documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    /// Documents.
    pub n_docs: usize,
    /// Where the list of each feature starts in `lists`; one more than there are features.
    pub starts: Vec<u32>,
    /// Largest activation of each feature; 0 for one that no document has.
    pub largest: Vec<f16>,
    /// The lists, one after the other.
    pub lists: Vec<u16>,
}

impl ChunkBuilder {
    /// Adds a document; ids ascending, as long as activations. What is not above 0 is left out.
    pub fn push(&mut self, ids: &[FeatureId], activations: &[f16]) {
        for (id, activation) in ids.iter().zip(activations) {
            if *activation > f16::ZERO {
                self.ids.push(*id);
                self.activations.push(*activation);
            }
        }
        self.ends.push(self.ids.len() as u32);
    }

    /// Documents so far.
    pub fn n_docs(&self) -> usize {
        self.ends.len()
    }

    /// Memory of a chunk in the making and of what becomes of it, where its documents have `n_present` features.
    pub fn bytes(n_present: usize, n_features: usize) -> usize {
        n_present * (size_of::<FeatureId>() + 3 * size_of::<f16>()) + n_features * 4 * size_of::<u32>()
    }

    /// Features in all documents together.
    pub fn n_present(&self) -> usize {
        self.ids.len()
    }

    /// The postings of features below `n_features`; others are left out. The builder is empty afterwards.
    pub fn finish(&mut self, n_features: usize) -> Chunk {
        let mut counts = vec![0usize; n_features];
        for id in &self.ids {
            if let Some(count) = counts.get_mut(*id as usize) {
                *count += 1;
            }
        }
        let mut starts = Vec::with_capacity(n_features + 1);
        let mut end = 0;
        starts.push(0u32);
        for count in &counts {
            end += words(*count);
            starts.push(end as u32);
        }
        let mut chunk =
            Chunk { n_docs: self.ends.len(), starts, largest: vec![f16::ZERO; n_features], lists: vec![0; end] };
        let mut filled = vec![0usize; n_features];
        let mut at = 0;
        for (doc, end) in self.ends.iter().enumerate() {
            for (id, activation) in self.ids[at..*end as usize].iter().zip(&self.activations[at..*end as usize]) {
                let id = *id as usize;
                let Some(&n) = counts.get(id) else { continue };
                let (posting, blocks) = (filled[id], n.div_ceil(BLOCK));
                let list = &mut chunk.lists[chunk.starts[id] as usize..];
                list[blocks + posting] = doc as u16;
                list[blocks + n + posting] = activation.to_bits();
                // Of numbers above 0 the larger has the larger bits.
                list[posting / BLOCK] = list[posting / BLOCK].max(activation.to_bits());
                if *activation > chunk.largest[id] {
                    chunk.largest[id] = *activation;
                }
                filled[id] += 1;
            }
            at = *end as usize;
        }
        *self = Self::default();
        chunk
    }
}

impl Chunk {
    /// Words of the list of a feature.
    pub fn list(&self, id: FeatureId) -> &[u16] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(start), Some(end)) => &self.lists[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

/// The postings of a feature in a chunk.
#[derive(Debug, Clone, Copy)]
struct List<'a> {
    maxima: &'a [u16],
    docs: &'a [u16],
    activations: &'a [u16],
}

impl<'a> List<'a> {
    fn new(list: &'a [u16]) -> Self {
        let n = postings(list.len());
        let (maxima, rest) = list.split_at(n.div_ceil(BLOCK).min(list.len()));
        let (docs, activations) = rest.split_at(n.min(rest.len()));
        Self { maxima, docs, activations: &activations[..docs.len().min(activations.len())] }
    }
}

/// An activation above 0 from its bits; infinity counts as 65,536.
fn widen(bits: u16) -> f64 {
    // The exponents of the two formats differ by 112; multiplying sets that right, for subnormal numbers too.
    f64::from(f32::from_bits(u32::from(bits) << 13) * f32::from_bits(0x7780_0000))
}

/// One feature that is looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// What an activation counts; below 0 for what is not wanted.
    pub weight: f32,
    /// No document has a larger activation.
    pub largest: f32,
}

/// A search for the documents with the largest sums.
#[derive(Debug)]
pub struct Search {
    terms: Vec<Term>,
    /// Terms in the order in which they are summed: those that can add most first.
    order: Vec<usize>,
    best: TopK<()>,
    /// Lower scores are not among the best.
    to_beat: f32,
    sums: Vec<f64>,
    touched: [u64; WINDOW / 64],
    /// What rounding can have taken from a bound.
    slack: f64,
    n_scored: u64,
}

/// Where a list is read.
#[derive(Debug, Clone, Copy)]
struct Cursor<'a> {
    list: List<'a>,
    weight: f64,
    /// First posting of the window, and of the next one.
    at: usize,
    end: usize,
    /// The most that it can add to a document of the window.
    bound: f64,
}

impl Search {
    /// For the `k` documents with the largest sums of `weight x activation` of `terms`. Documents that have none of the
    /// features are not found.
    pub fn new(terms: &[Term], k: usize) -> Self {
        let bound = |term: &Term| f64::from(term.weight) * f64::from(term.largest.min(65_536.0));
        let mut order: Vec<usize> = (0..terms.len()).collect();
        order.sort_by(|a, b| bound(&terms[*b]).total_cmp(&bound(&terms[*a])).then(a.cmp(b)));
        Self {
            slack: ROUNDING * terms.iter().map(|term| bound(term).abs()).sum::<f64>(),
            terms: terms.to_vec(),
            order,
            best: TopK::new(k),
            to_beat: f32::NEG_INFINITY,
            sums: vec![0.0; WINDOW],
            touched: [0; WINDOW / 64],
            n_scored: 0,
        }
    }

    /// Whether a document of which no more is known than this bound can no longer be found. Equal scores can, since an
    /// earlier document may come later.
    fn is_beaten(&self, bound: f64) -> bool {
        ((bound + self.slack) as f32) < self.to_beat
    }

    /// Whether documents can be among the best where no activation of a term is above that of `largest`.
    pub fn can_find(&self, largest: impl Iterator<Item = f32>) -> bool {
        let bounds = self.terms.iter().zip(largest).map(|(term, largest)| f64::from(term.weight.max(0.0) * largest));
        !self.is_beaten(bounds.sum())
    }

    /// Searches a chunk. `lists` are the words of each term's list, `first` is the place of the chunk's first document among
    /// all, by which equal scores are ordered, and bit `d` of `allowed` says whether document `d` may be found.
    pub fn chunk(&mut self, lists: &[&[u16]], n_docs: usize, first: u64, allowed: Option<&[u64]>) {
        let mut cursors: Vec<Cursor> = (self.order.iter())
            .map(|term| Cursor {
                list: List::new(lists.get(*term).copied().unwrap_or_default()),
                weight: f64::from(self.terms[*term].weight),
                at: 0,
                end: 0,
                bound: 0.0,
            })
            .collect();
        for start in (0..n_docs).step_by(WINDOW) {
            self.window(&mut cursors, start, first, allowed);
        }
    }

    fn window(&mut self, cursors: &mut [Cursor], start: usize, first: u64, allowed: Option<&[u64]>) {
        let last = (start + WINDOW - 1) as u64;
        for cursor in cursors.iter_mut() {
            cursor.at = cursor.end;
            let rest = &cursor.list.docs[cursor.at..];
            cursor.end += skip(rest, last);
            cursor.bound = 0.0;
            if cursor.end > cursor.at && cursor.weight > 0.0 {
                let blocks = &cursor.list.maxima[cursor.at / BLOCK..=(cursor.end - 1) / BLOCK];
                cursor.bound = cursor.weight * widen(blocks.iter().copied().max().unwrap_or(0));
            }
        }
        // Terms from `n_leading` on cannot bring a document among the best by themselves.
        let mut n_leading = cursors.len();
        let mut rest = 0.0;
        while n_leading > 0 && self.is_beaten(rest + cursors[n_leading - 1].bound) {
            n_leading -= 1;
            rest += cursors[n_leading].bound;
        }
        let (leading, others) = cursors.split_at_mut(n_leading);
        let mut any = false;
        for cursor in leading.iter().filter(|cursor| cursor.end > cursor.at) {
            any = true;
            let list = cursor.list;
            let docs = &list.docs[cursor.at..cursor.end];
            for (doc, activation) in docs.iter().zip(&list.activations[cursor.at..cursor.end]) {
                let at = usize::from(*doc) % WINDOW;
                self.sums[at] += cursor.weight * widen(*activation);
                self.touched[at / 64] |= 1 << (at % 64);
            }
        }
        if !any {
            return;
        }
        for word in 0..self.touched.len() {
            let mut touched = std::mem::take(&mut self.touched[word]);
            let may = allowed.map_or(u64::MAX, |allowed| allowed.get(start / 64 + word).copied().unwrap_or(0));
            while touched != 0 {
                let bit = touched.trailing_zeros() as usize;
                touched &= touched - 1;
                let at = word * 64 + bit;
                let sum = std::mem::take(&mut self.sums[at]);
                if may >> bit & 1 == 1 && !self.is_beaten(sum + rest) {
                    self.complete(others, (start + at) as u16, sum, rest, first);
                }
            }
        }
    }

    /// Adds the terms that were left out, as long as the document can be found, and offers it.
    fn complete(&mut self, others: &mut [Cursor], doc: u16, mut sum: f64, mut rest: f64, first: u64) {
        for cursor in others {
            if self.is_beaten(sum + rest) {
                return;
            }
            rest -= cursor.bound;
            let list = cursor.list;
            // Documents are completed in ascending order: what was passed is not needed again.
            cursor.at += list.docs[cursor.at..cursor.end].partition_point(|other| *other < doc);
            if cursor.at < cursor.end && list.docs[cursor.at] == doc {
                sum += cursor.weight * widen(list.activations[cursor.at]);
            }
        }
        self.offer(sum, first + u64::from(doc));
    }

    /// Offers a document with its whole sum; whether it is among the best so far.
    fn offer(&mut self, sum: f64, place: u64) -> bool {
        let mut kept = false;
        self.n_scored += 1;
        self.best.offer(sum as f32, place, || kept = true);
        self.to_beat = self.best.to_beat().unwrap_or(f32::NEG_INFINITY);
        kept
    }

    /// Offers a document that is in no chunk, and says whether it is among the best so far. `term_ids` are the features of
    /// the terms; `ids` ascend.
    pub fn document(&mut self, term_ids: &[FeatureId], ids: &[FeatureId], activations: &[f16], position: u64) -> bool {
        let (mut sum, mut found) = (0.0, false);
        for term in &self.order {
            if let Ok(at) = ids.binary_search(&term_ids[*term])
                && activations[at] > f16::ZERO
            {
                found = true;
                sum += f64::from(self.terms[*term].weight) * widen(activations[at].to_bits());
            }
        }
        found && self.offer(sum, position)
    }

    /// Documents whose whole sum was computed.
    pub fn n_scored(&self) -> u64 {
        self.n_scored
    }

    /// The best documents by their places, best first; equal scores in the order of places.
    pub fn finish(self) -> Vec<(u64, f32)> {
        let place = |ranked: Ranked<()>| (ranked.position, ranked.score);
        self.best.into_sorted().into_iter().map(place).collect()
    }
}

/// How many of `docs`, ascending, are no more than `last`; fast where few are.
fn skip(docs: &[u16], last: u64) -> usize {
    let mut step = 16;
    while docs.get(step).is_some_and(|doc| u64::from(*doc) <= last) {
        step *= 4;
    }
    docs[..docs.len().min(step + 1)].partition_point(|doc| u64::from(*doc) <= last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    type Document = Vec<(FeatureId, f16)>;

    fn chunk(documents: &[Document], n_features: usize) -> Chunk {
        let mut builder = ChunkBuilder::default();
        for document in documents {
            let (ids, activations): (Vec<_>, Vec<_>) = document.iter().copied().unzip();
            builder.push(&ids, &activations);
        }
        builder.finish(n_features)
    }

    fn terms(query: &[(FeatureId, f32)], chunks: &[Chunk]) -> Vec<Term> {
        let largest =
            |id: FeatureId| chunks.iter().map(|chunk| chunk.largest[id as usize].to_f32()).fold(0.0, f32::max);
        query.iter().map(|(id, weight)| Term { weight: *weight, largest: largest(*id) }).collect()
    }

    /// Every document's sum, in the order of [`Search`].
    fn naive(query: &[(FeatureId, f32)], terms: &[Term], documents: &[Document], k: usize) -> Vec<(u64, f32)> {
        let mut order: Vec<usize> = (0..query.len()).collect();
        let bound = |term: &usize| f64::from(terms[*term].weight) * f64::from(terms[*term].largest);
        order.sort_by(|a, b| bound(b).total_cmp(&bound(a)).then(a.cmp(b)));
        let mut all: Vec<(u64, f32)> = Vec::new();
        for (place, document) in documents.iter().enumerate() {
            let mut sum = None;
            for term in &order {
                if let Some((_, activation)) = document.iter().find(|(id, _)| *id == query[*term].0) {
                    *sum.get_or_insert(0.0) += f64::from(query[*term].1) * activation.to_f64();
                }
            }
            all.extend(sum.map(|sum| (place as u64, sum as f32)));
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(k);
        all
    }

    fn search(
        query: &[(FeatureId, f32)],
        chunks: &[Chunk],
        k: usize,
        allowed: Option<&[u64]>,
    ) -> (Vec<(u64, f32)>, u64) {
        let mut search = Search::new(&terms(query, chunks), k);
        let mut first = 0;
        for chunk in chunks {
            let lists: Vec<&[u16]> = query.iter().map(|(id, _)| chunk.list(*id)).collect();
            search.chunk(&lists, chunk.n_docs, first, allowed);
            first += chunk.n_docs as u64;
        }
        let n_scored = search.n_scored();
        (search.finish(), n_scored)
    }

    #[test]
    fn words_and_postings_are_inverse() {
        assert!((0..200_000).all(|n| postings(words(n)) == n));
    }

    #[test]
    fn widening_is_exact() {
        for bits in 0..0x7C00u16 {
            assert_eq!(widen(bits), f16::from_bits(bits).to_f64(), "{bits}");
        }
        assert_eq!(widen(f16::INFINITY.to_bits()), 65_536.0);
    }

    proptest! {
        #[test]
        fn the_best_are_those_of_all_sums(
            documents in vec(btree_map(0u32..8, 0u16..6, 0..6), 0..300),
            query in btree_map(0u32..9, -2i8..5, 0..6),
            k in 0usize..12,
            cut in 0usize..300,
        ) {
            // Few different activations and weights: many ties.
            let documents: Vec<Document> = documents
                .into_iter()
                .map(|row| row.into_iter().map(|(id, value)| (id, f16::from_f32(f32::from(value) / 4.0))).collect())
                .collect();
            let present = |document: &Document| document.iter().copied().filter(|(_, value)| *value > f16::ZERO).collect();
            let kept: Vec<Document> = documents.iter().map(present).collect();
            let query: Vec<(u32, f32)> = query.into_iter().map(|(id, weight)| (id, f32::from(weight) / 2.0)).collect();
            let (before, after) = documents.split_at(cut.min(documents.len()));
            let chunks = [chunk(before, 9), chunk(after, 9)];
            let terms = terms(&query, &chunks);
            let expected = naive(&query, &terms, &kept, k);
            prop_assert_eq!(search(&query, &chunks, k, None).0, expected.clone());
            // Documents that are in no chunk, in any order.
            let ids: Vec<u32> = query.iter().map(|(id, _)| *id).collect();
            let mut scan = Search::new(&terms, k);
            for (place, document) in documents.iter().enumerate().rev() {
                let (document_ids, activations): (Vec<_>, Vec<_>) = document.iter().copied().unzip();
                scan.document(&ids, &document_ids, &activations, place as u64);
            }
            prop_assert_eq!(scan.finish(), expected);
        }
    }

    /// 20,000 documents: two features in most of them, others rare; activations have a long tail.
    fn large(seed: u64) -> Vec<Document> {
        let mut random = Random::new(seed, 0x905);
        let one = |random: &mut Random, id: u32, share: f64| {
            (random.unit() < share).then(|| (id, f16::from_f64(-(1.0 - random.unit()).ln() + 0.01)))
        };
        (0..20_000)
            .map(|_| (0..12u32).filter_map(|id| one(&mut random, id, if id < 2 { 0.7 } else { 0.02 })).collect())
            .collect()
    }

    #[test]
    fn most_documents_of_frequent_features_are_passed_over_and_no_digit_changes() {
        let documents = large(1);
        let chunks = [chunk(&documents[..15_000], 12), chunk(&documents[15_000..], 12)];
        let query = [(0, 0.3), (1, 0.2), (4, 1.5), (7, 0.9), (9, 1.1)];
        let (found, n_scored) = search(&query, &chunks, 50, None);
        assert_eq!(found, naive(&query, &terms(&query, &chunks), &documents, 50));
        assert!(n_scored < 4_000, "{n_scored} of 20,000 documents were scored");
    }

    #[test]
    fn only_allowed_documents_are_found() {
        let documents = large(2);
        let chunk = chunk(&documents, 12);
        let mut allowed = vec![0u64; 20_000usize.div_ceil(64)];
        (0..20_000).filter(|doc| doc % 3 == 0).for_each(|doc| allowed[doc / 64] |= 1 << (doc % 64));
        let query = [(0, 1.0), (3, 2.0), (5, -1.0)];
        let (found, _) = search(&query, std::slice::from_ref(&chunk), 30, Some(&allowed));
        let some: Vec<Document> = (documents.iter().enumerate())
            .map(|(place, document)| if place % 3 == 0 { document.clone() } else { Vec::new() })
            .collect();
        assert_eq!(found, naive(&query, &terms(&query, &[chunk]), &some, 30));
    }

    #[test]
    fn chunks_may_be_full() {
        let documents: Vec<Document> =
            (0..CHUNK_DOCS).map(|place| vec![(1, f16::from_f32(1.0 + (place % 1000) as f32 / 1024.0))]).collect();
        let chunk = chunk(&documents, 3);
        let (found, _) = search(&[(1, 2.0)], std::slice::from_ref(&chunk), 66, None);
        assert_eq!(found.len(), 66);
        assert_eq!((found[0].0, found[64].0, found[65].0), (999, 64_999, 998), "65,999 does not exist");
    }
}
