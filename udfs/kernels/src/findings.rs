//! Which pairs of a ranking are one finding told twice.
//!
//! A dictionary has several features for much of what texts do, so that a ranking of pairs tells the same in many
//! variants. Two pairs are the same finding if the features of one say much the same as those of the other, one each,
//! or if both are together in much the same documents.

use std::collections::HashMap;

use crate::statistics::phi;

/// Features whose presence correlates at least this much (phi) say much the same, and pairs whose documents do are
/// together in much the same documents.
const ALIKE_PHI: f64 = 0.3;

/// Which documents have which of some features, a bit each.
#[derive(Debug)]
pub struct Presence {
    /// Row-major, features x documents in words of 64 bits.
    bits: Vec<u64>,
    width: usize,
    n_docs: usize,
}

impl Presence {
    /// Nothing is present yet.
    pub fn new(n_features: usize, n_docs: usize) -> Self {
        let width = n_docs.div_ceil(64);
        Self { bits: vec![0; n_features * width], width, n_docs }
    }

    /// Memory of the bits.
    pub fn bytes(n_features: usize, n_docs: usize) -> usize {
        n_features * n_docs.div_ceil(64) * size_of::<u64>()
    }

    /// The document has the feature; documents beyond those that were announced are passed over.
    pub fn add(&mut self, feature: usize, document: usize) {
        if document < self.n_docs {
            self.bits[feature * self.width + document / 64] |= 1 << (document % 64);
        }
    }

    fn row(&self, feature: usize) -> &[u64] {
        &self.bits[feature * self.width..][..self.width]
    }

    /// Documents that have both features, ascending.
    pub fn documents(&self, a: usize, b: usize) -> impl Iterator<Item = usize> + '_ {
        let words = self.row(a).iter().zip(self.row(b)).enumerate();
        words.flat_map(|(at, (x, y))| {
            let mut left = x & y;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(at * 64 + bit)
            })
        })
    }

    fn phi(&self, a: usize, b: usize) -> f64 {
        let (first, second) = (self.row(a), self.row(b));
        phi(common(first, second), size(first), size(second), self.n_docs as u64)
    }
}

fn size(bits: &[u64]) -> u64 {
    bits.iter().map(|word| u64::from(word.count_ones())).sum()
}

fn common(x: &[u64], y: &[u64]) -> u64 {
    x.iter().zip(y).map(|(x, y)| u64::from((x & y).count_ones())).sum()
}

/// For each pair, best first, the first pair above that is the same finding and not itself told before. `is_more` says
/// whether a pair is together more often than expected; one that is less often does not tell the same.
pub fn told_before(
    pairs: &[(usize, usize)],
    is_more: impl Fn(usize) -> bool,
    presence: &Presence,
) -> Vec<Option<usize>> {
    let together: Vec<Vec<u64>> = pairs
        .iter()
        .map(|(a, b)| presence.row(*a).iter().zip(presence.row(*b)).map(|(x, y)| x & y).collect())
        .collect();
    let mut known: HashMap<(usize, usize), bool> = HashMap::new();
    let mut alike = |a: usize, b: usize| {
        a == b || *known.entry((a.min(b), a.max(b))).or_insert_with(|| presence.phi(a, b) >= ALIKE_PHI)
    };
    let sizes: Vec<u64> = together.iter().map(|bits| size(bits)).collect();
    let same_documents = |x: usize, y: usize| {
        let both = common(&together[x], &together[y]);
        phi(both, sizes[x], sizes[y], presence.n_docs as u64) >= ALIKE_PHI
    };
    let mut told: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (rank, &(a, b)) in pairs.iter().enumerate() {
        let is_same = |above: &usize| {
            let (c, d) = pairs[*above];
            told[*above].is_none()
                && is_more(*above) == is_more(rank)
                && (alike(a, c) && alike(b, d) || alike(a, d) && alike(b, c) || same_documents(rank, *above))
        };
        let above = (0..rank).find(is_same);
        told.push(above);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_of_a_pair_are_one_finding() {
        // 0 and 1 say much the same; 2 goes with both; 3 and 4 with each other, in documents of their own; 5 is with 0 in
        // a few documents only.
        let mut presence = Presence::new(6, 200);
        for row in 0..200 {
            let has = [
                row < 40,
                (5..45).contains(&row),
                (2..42).contains(&row),
                (100..130).contains(&row),
                (100..130).contains(&row),
                row < 6 || row > 150,
            ];
            has.iter().enumerate().filter(|(_, has)| **has).for_each(|(feature, _)| presence.add(feature, row));
        }
        presence.add(0, 200);
        assert_eq!(presence.documents(0, 5).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(presence.documents(1, 3).count(), 0);
        let pairs = [(0, 2), (1, 2), (3, 4), (0, 5), (0, 1)];
        // (0, 1) is where (0, 2) is.
        assert_eq!(told_before(&pairs, |_| true, &presence), [None, Some(0), None, None, Some(0)]);
        assert_eq!(told_before(&[(2, 1), (0, 2)], |_| true, &presence), [None, Some(0)], "either way round");
        assert!(told_before(&[], |_| true, &presence).is_empty());
    }

    #[test]
    fn features_that_are_alike_make_one_finding_of_different_documents() {
        // 1 and 2 overlap by half: phi is about .4, and the documents with 0 overlap by a third.
        let mut presence = Presence::new(3, 1000);
        for row in 0..1000 {
            let has = [row < 100, row < 60, (30..90).contains(&row)];
            has.iter().enumerate().filter(|(_, has)| **has).for_each(|(feature, _)| presence.add(feature, row));
        }
        assert_eq!(told_before(&[(0, 1), (0, 2)], |_| true, &presence), [None, Some(0)]);
        assert_eq!(told_before(&[(0, 1), (0, 2)], |pair| pair == 0, &presence), [None, None], "the other way");
    }
}
