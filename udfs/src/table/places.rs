//! Where the two features of a pair fire: pairs that come together because they stand at the same place.

use std::collections::HashMap;

use crate::feature_source::TokenFeatures;
use crate::features::FeatureId;
use crate::kernels::findings::Presence;

/// Documents of a pair that are looked at.
const DOCS_PER_PAIR: usize = 3;

/// First documents of a pair among which they are chosen, so that reading can stop early.
const CANDIDATES_PER_PAIR: usize = 20;

/// Documents that are read for all pairs.
const MOST_DOCS: usize = 60;

/// Longer texts (in bytes) cost too much to read.
const MOST_BYTES: usize = 8_000;

/// Documents to look at, ascending, few that hold many of the pairs (greedy cover, the first of equals), each with the
/// pairs to look for.
pub(super) fn choose(pairs: &[(usize, usize)], presence: &Presence) -> Vec<(usize, Vec<usize>)> {
    let mut holds: HashMap<usize, Vec<usize>> = HashMap::new();
    for (pair, &(a, b)) in pairs.iter().enumerate() {
        for document in presence.documents(a, b).take(CANDIDATES_PER_PAIR) {
            holds.entry(document).or_default().push(pair);
        }
    }
    let mut looked = vec![0; pairs.len()];
    let mut chosen = Vec::new();
    while chosen.len() < MOST_DOCS {
        let open = |pairs: &Vec<usize>| pairs.iter().filter(|pair| looked[**pair] < DOCS_PER_PAIR).count();
        let best = holds.iter().map(|(document, pairs)| (open(pairs), std::cmp::Reverse(*document))).max();
        let Some((1.., std::cmp::Reverse(document))) = best else { break };
        let pairs = holds.remove(&document).unwrap_or_default();
        pairs.iter().for_each(|pair| looked[*pair] += 1);
        chosen.push((document, pairs));
    }
    chosen.sort_unstable_by_key(|(document, _)| *document);
    chosen
}

/// Whether a text is worth its cost.
pub(super) fn is_short(text: &str) -> bool {
    text.len() <= MOST_BYTES
}

/// Whether the strongest places of both features are the same token or neighbours; `None` if one fires nowhere.
pub(super) fn is_near(tokens: &[TokenFeatures], a: FeatureId, b: FeatureId) -> Option<bool> {
    let strongest = |id: FeatureId| {
        let fires = tokens.iter().enumerate().filter_map(|(at, token)| {
            let found = token.features.binary_search_by_key(&id, |(id, _)| *id).ok()?;
            Some((at, token.features[found].1))
        });
        fires.fold(None, |best: Option<(usize, f32)>, (at, value)| match best {
            Some((_, most)) if most >= value => best,
            _ => Some((at, value)),
        })
    };
    let ((a, _), (b, _)) = (strongest(a)?, strongest(b)?);
    Some(a.abs_diff(b) <= 1)
}

/// How many documents of each pair were looked at, and in how many its features are near.
#[derive(Debug)]
pub(super) struct Nearness {
    seen: Vec<(u32, u32)>,
}

impl Nearness {
    pub(super) fn new(n_pairs: usize) -> Self {
        Self { seen: vec![(0, 0); n_pairs] }
    }

    pub(super) fn add(&mut self, pair: usize, is_near: bool) {
        self.seen[pair].0 += 1;
        self.seen[pair].1 += u32::from(is_near);
    }

    /// Share of the documents in which the features are near.
    pub(super) fn share(&self, pair: usize) -> Option<f64> {
        let (seen, near) = self.seen[pair];
        (seen > 0).then(|| f64::from(near) / f64::from(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_documents_cover_the_pairs() {
        let mut presence = Presence::new(4, 100);
        for row in 0..100 {
            // (0, 1) are everywhere in the second half, (2, 3) in documents 70 to 79.
            let has = [row >= 50, row >= 50, (70..80).contains(&row), (70..80).contains(&row)];
            has.iter().enumerate().filter(|(_, has)| **has).for_each(|(feature, _)| presence.add(feature, row));
        }
        let chosen = choose(&[(0, 1), (2, 3)], &presence);
        // Those with both would do, but the first 20 documents of (0, 1) end before them.
        let documents: Vec<usize> = chosen.iter().map(|(document, _)| *document).collect();
        assert_eq!(documents, [50, 51, 52, 70, 71, 72]);
        assert_eq!((chosen[0].1.as_slice(), chosen[5].1.as_slice()), ([0].as_slice(), [1].as_slice()));
        assert!(choose(&[], &presence).is_empty());
    }

    #[test]
    fn neighbours_are_near() {
        let token = |features: &[(u32, f32)]| TokenFeatures { start: 0, end: 0, features: features.to_vec() };
        let tokens = [token(&[(1, 0.2), (3, 1.0)]), token(&[(2, 1.0)]), token(&[]), token(&[(1, 0.9)])];
        assert_eq!(is_near(&tokens, 2, 3), Some(true));
        assert_eq!(is_near(&tokens, 1, 2), Some(false), "1 is strongest at the end");
        assert_eq!(is_near(&tokens, 1, 1), Some(true));
        assert_eq!(is_near(&tokens, 1, 9), None);
        let mut nearness = Nearness::new(2);
        nearness.add(0, true);
        nearness.add(0, false);
        assert_eq!((nearness.share(0), nearness.share(1)), (Some(0.5), None));
    }
}
