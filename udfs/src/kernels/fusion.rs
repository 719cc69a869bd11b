//! Reciprocal rank fusion (Cormack, Clarke, Buettcher 2009): `score(d) = sum over signals of w_s / (60 + rank_s(d))`.
//!
//! Ranks, not scores, are added, because a cosine, a BM25 score and a sum of activations have no common unit.

use std::collections::HashMap;

/// Damping of the first ranks, from the paper.
pub const RANK_OFFSET: f32 = 60.0;

/// What a rank is worth; `rank` counts from 1.
pub fn reciprocal_rank(weight: f32, rank: usize) -> f32 {
    weight / (RANK_OFFSET + rank as f32)
}

/// A fused document.
#[derive(Debug, Clone, PartialEq)]
pub struct Fused {
    /// Identity of the document.
    pub doc_id: String,
    /// Sum of the parts below; larger is better.
    pub score: f32,
    /// For each signal the rank there, counted from 1, if the signal found the document.
    pub ranks: Vec<Option<usize>>,
}

/// Fuses ranked lists of document ids, best first; of an id that a list repeats the first place counts.
///
/// `signals` are pairs of weight and list. The result is best first; ties are broken by the best single rank, then by
/// the id, so that it never depends on chance.
pub fn fuse(signals: &[(f32, Vec<String>)]) -> Vec<Fused> {
    let mut ranks: HashMap<&str, Vec<Option<usize>>> = HashMap::new();
    for (signal, (_, list)) in signals.iter().enumerate() {
        let mut rank = 0;
        for doc_id in list {
            let entry = ranks.entry(doc_id).or_insert_with(|| vec![None; signals.len()]);
            if entry[signal].is_none() {
                rank += 1;
                entry[signal] = Some(rank);
            }
        }
    }
    let mut fused: Vec<Fused> = ranks
        .into_iter()
        .map(|(doc_id, ranks)| {
            let parts =
                ranks.iter().zip(signals).filter_map(|(rank, (weight, _))| Some(reciprocal_rank(*weight, (*rank)?)));
            Fused { doc_id: doc_id.to_owned(), score: parts.sum(), ranks }
        })
        .collect();
    let best_rank = |fused: &Fused| fused.ranks.iter().flatten().min().copied();
    fused.sort_by(|a, b| {
        b.score.total_cmp(&a.score).then_with(|| best_rank(a).cmp(&best_rank(b))).then_with(|| a.doc_id.cmp(&b.doc_id))
    });
    fused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ids: &str) -> Vec<String> {
        ids.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn agreement_beats_one_first_place() {
        let fused = fuse(&[(1.0, list("a b c")), (1.0, list("b d")), (0.5, list("b"))]);
        assert_eq!(fused.iter().map(|f| f.doc_id.as_str()).collect::<Vec<_>>(), ["b", "a", "d", "c"]);
        assert_eq!(fused[0].ranks, [Some(2), Some(1), Some(1)]);
        assert!((fused[0].score - (1.0 / 62.0 + 1.0 / 61.0 + 0.5 / 61.0)).abs() < 1e-7);
        assert_eq!(fused[2].ranks, [None, Some(2), None]);
    }

    #[test]
    fn repeats_count_once_and_do_not_use_up_ranks() {
        let fused = fuse(&[(1.0, list("a a b"))]);
        assert_eq!(fused[1].ranks, [Some(2)]);
        assert!(fuse(&[(1.0, vec![])]).is_empty());
    }
}
