//! Scores of a document's features against what is looked for.
//!
//! Three sums over the present features of a document, each with its own weights:
//! - *labels* (arXiv 2512.10092, section 4.4): features whose label means what the query says;
//!   `sum_i w_i s_i(d) / sum_i w_i` with `w_i = exp(-(r_i / k) / T)` for the feature of rank `r_i` of `k`.
//! - *latents* (arXiv 2605.29384): features that fire when the query itself is read, by [`crate::bm25`].
//! - *learned*: features that set documents marked as right apart from the others, by [`crate::feedback`];
//!   `sum_j w_j s_j(d)`, a part of the log-odds of being right.
//!
//! `s(d) = a / (a + q50)` saturates an activation `a`: half at the feature's median. The *strength* that is shown is
//! `a / q90`: 1 is as strong as in the strongest tenth of documents with the feature.

use half::f16;

use crate::FeatureId;
use crate::bm25;
use crate::dense::dot;

/// Temperature of the paper: its best mean over six corpora.
pub const TEMPERATURE: f32 = 0.2;

/// Weights of one feature; those for hits are zero or more, those against are what `but_not` adds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FeatureWeight {
    /// Of the match between label and query.
    pub labels: f32,
    /// Of the match between label and what is not wanted.
    pub labels_against: f32,
    /// Of the query's own features, idf included.
    pub latents: f32,
    /// Of the own features of what is not wanted, idf included.
    pub latents_against: f32,
    /// Learned from marked documents; negative for features of the wrong ones.
    pub learned: f32,
    /// Median of the feature's activations, above 0.
    pub q50: f32,
    /// 90th percentile of the same, above 0.
    pub q90: f32,
}

/// The three sums of a document; 0 where nothing matches.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FeatureScores {
    /// By labels.
    pub labels: f32,
    /// By the query's own features.
    pub latents: f32,
    /// By learned features.
    pub learned: f32,
}

/// What one feature adds to a document's sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contribution {
    /// The feature.
    pub id: FeatureId,
    /// Its activation over its 90th percentile, unitless.
    pub strength: f32,
    /// Its parts of the three sums.
    pub parts: FeatureScores,
}

/// Weights of all features, by id, and what BM25 needs.
#[derive(Debug, Clone)]
pub struct Scorer {
    /// One a feature id.
    pub weights: Vec<FeatureWeight>,
    /// Mean of [`document_length`] over the documents.
    pub mean_length: f32,
}

impl Scorer {
    /// The three sums of a document.
    pub fn score(&self, ids: &[FeatureId], activations: &[f16]) -> FeatureScores {
        let length = document_length(&self.weights, ids, activations);
        let mut sums = FeatureScores::default();
        for (&id, activation) in ids.iter().zip(activations) {
            if let Some(weight) = self.weights.get(id as usize) {
                let parts = self.parts(weight, activation.to_f32(), length);
                sums.labels += parts.labels;
                sums.latents += parts.latents;
                sums.learned += parts.learned;
            }
        }
        sums
    }

    /// The features that add to, or take from, a document's sums; others are left out.
    pub fn contributions(&self, ids: &[FeatureId], activations: &[f16]) -> Vec<Contribution> {
        let length = document_length(&self.weights, ids, activations);
        let of_feature = |(&id, activation): (&FeatureId, &f16)| {
            let weight = self.weights.get(id as usize)?;
            let activation = activation.to_f32();
            let parts = self.parts(weight, activation, length);
            let any = parts != FeatureScores::default();
            any.then(|| Contribution { id, strength: activation / weight.q90, parts })
        };
        ids.iter().zip(activations).filter_map(of_feature).collect()
    }

    fn parts(&self, weight: &FeatureWeight, activation: f32, length: f32) -> FeatureScores {
        let mut parts = FeatureScores::default();
        let label = weight.labels - weight.labels_against;
        if label != 0.0 || weight.learned != 0.0 {
            let saturated = saturate(activation, weight.q50);
            parts.labels = label * saturated;
            parts.learned = weight.learned * saturated;
        }
        let latent = weight.latents - weight.latents_against;
        if latent != 0.0 {
            let tf = bm25::term_weight(activation, weight.q90);
            parts.latents = latent * bm25::term_score(tf, length, self.mean_length);
        }
        parts
    }
}

/// `a / (a + q50)`: 0 to 1, half at the median; 1 for an infinite activation, 0 for one that is not a number.
pub fn saturate(activation: f32, q50: f32) -> f32 {
    if activation > 0.0 { 1.0 / (1.0 + q50 / activation) } else { 0.0 }
}

/// Length of a document as BM25 over features sees it: the sum of its term weights.
pub fn document_length(weights: &[FeatureWeight], ids: &[FeatureId], activations: &[f16]) -> f32 {
    let weight = |(&id, activation): (&FeatureId, &f16)| {
        weights.get(id as usize).map_or(0.0, |weight| bm25::term_weight(activation.to_f32(), weight.q90))
    };
    ids.iter().zip(activations).map(weight).sum()
}

/// The `count` rows of `values` (row-major, `width` each, length 1) most similar to `query`, best first, with their
/// cosine, leaving out those below `floor`; ties by position.
pub fn most_similar(query: &[f32], values: &[f32], width: usize, count: usize, floor: f32) -> Vec<(usize, f32)> {
    if width == 0 || query.len() != width {
        return Vec::new();
    }
    let mut found: Vec<(usize, f32)> = values
        .chunks_exact(width)
        .map(|row| dot(query, row))
        .enumerate()
        .filter(|(_, cosine)| *cosine >= floor && cosine.is_finite())
        .collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    found.truncate(count);
    found
}

/// Weights `exp(-(r / k) / T)` of `k` ranks, `r` from 0, scaled to a sum of 1.
pub fn rank_weights(k: usize) -> Vec<f32> {
    let raw: Vec<f32> = (0..k).map(|rank| (-(rank as f32 / k as f32) / TEMPERATURE).exp()).collect();
    let sum: f32 = raw.iter().sum();
    raw.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight() -> FeatureWeight {
        FeatureWeight { q50: 1.0, q90: 2.0, ..FeatureWeight::default() }
    }

    #[test]
    fn sums_are_the_formulas_and_contributions_add_up() {
        let mut weights = vec![weight(); 4];
        weights[1].labels = 0.75;
        weights[2].labels_against = 0.25;
        weights[1].latents = 2.0;
        weights[3].learned = -0.5;
        let scorer = Scorer { weights, mean_length: 3.0 };
        let (ids, activations) = ([1, 2, 3, 9], [2.0, 1.0, 3.0, 1.0].map(f16::from_f32));
        let scores = scorer.score(&ids, &activations);
        assert!((scores.labels - (0.75 * 2.0 / 3.0 - 0.25 * 0.5)).abs() < 1e-6);
        assert!((scores.learned + 0.5 * 0.75).abs() < 1e-6);
        let length = 1.0 + 0.5f32.sqrt() + 1.5f32.sqrt();
        assert!((document_length(&scorer.weights, &ids, &activations) - length).abs() < 1e-5);
        assert!((scores.latents - 2.0 * bm25::term_score(1.0, length, 3.0)).abs() < 1e-5);
        let parts = scorer.contributions(&ids, &activations);
        assert_eq!(parts.iter().map(|part| part.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert!((parts.iter().map(|part| part.parts.labels).sum::<f32>() - scores.labels).abs() < 1e-6);
        assert!((parts[0].strength - 1.0).abs() < 1e-6);
    }

    #[test]
    fn saturation_is_half_at_the_median_and_always_finite() {
        let saturated = [0.0, -1.0, f32::NAN, 2.0, f32::INFINITY].map(|activation| saturate(activation, 2.0));
        assert_eq!(saturated, [0.0, 0.0, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn rank_weights_fall_by_the_temperature() {
        let weights = rank_weights(20);
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!((weights[4] / weights[0] - (-1.0f32).exp()).abs() < 1e-5);
        assert!(rank_weights(0).is_empty());
    }

    #[test]
    fn most_similar_is_sorted_cut_and_floored() {
        let values = [1.0, 0.0, 0.6, 0.8, 0.0, 1.0, 0.8, 0.6];
        assert_eq!(most_similar(&[1.0, 0.0], &values, 2, 3, 0.5).iter().map(|f| f.0).collect::<Vec<_>>(), [0, 3, 1]);
        assert_eq!(most_similar(&[1.0, 0.0], &values, 2, 9, 0.9).len(), 1);
        assert!(most_similar(&[1.0], &values, 2, 9, 0.0).is_empty());
    }
}
