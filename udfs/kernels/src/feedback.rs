//! What marked documents teach: a logistic regression on features and embedding.
//!
//! The documents marked as right are told from those marked as wrong and, lightly, from a sample of all documents. A
//! document is described by its embedding, less the mean, and by its saturated activations times their inverse document
//! frequency `ln((N + 1) / (n_j + 1/2))`; the two parts are scaled to mean squared lengths of 1 and 1/2 over the sample. A
//! penalty of 1 on the weights keeps few marks from meaning much. The model is linear, so that a document's log-odds are
//! the sum of what each feature and the embedding add: that is what is shown.
//!
//! After two rounds of 10 right and 10 wrong documents it is better than Rocchio's means of embeddings on 108 of 135
//! property queries, worse on 24 (`tests/quality/retrieval.py`). The features add to the embedding where a query is about
//! form or style; about topics the embedding learns the same alone.

use std::collections::HashMap;

use half::f16;

use crate::FeatureId;
use crate::dense::widen;
use crate::logistic::fit;
use crate::random::Random;
use crate::retrieval::saturate;

/// Marked documents of each side that are learned from, at most; of more every so many-th is taken.
pub const MOST_MARKED: usize = 500;
/// Documents of the sample that stand for all others.
const BACKGROUND_DOCS: usize = 100;
/// Weight of all those together, in documents marked as wrong.
const BACKGROUND_WEIGHT: f64 = 0.25;
const PENALTY: f64 = 1.0;
/// Mean squared length of the features beside an embedding of 1: more of it gains on few queries and loses on more.
const FEATURES: f32 = 0.5;
/// Marks at which feedback weighs as much as the embedding's likeness to the query; with ever more it is twice that.
const EVEN_MARKS: f32 = 20.0;

/// A document as it is stored.
#[derive(Debug, Clone, Default)]
pub struct Example {
    /// Present features, ascending.
    pub ids: Vec<FeatureId>,
    /// Their activations.
    pub activations: Vec<f16>,
    /// Embedding; empty if it is not used or not there.
    pub embedding: Vec<f16>,
}

/// A feature as feedback sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gain {
    /// Median of its activations, above 0.
    pub q50: f32,
    /// Its inverse document frequency; 0 for a feature that may not be learned.
    pub idf: f32,
}

/// Log-odds of being right, up to a constant: `sum_j weight_j s_j + direction . embedding`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Learned {
    /// Features with their weights, ascending by id.
    pub features: Vec<(FeatureId, f32)>,
    /// Direction of the embedding; empty if embeddings are not used.
    pub direction: Vec<f32>,
}

impl Learned {
    /// Whether nothing was learned.
    pub fn is_nothing(&self) -> bool {
        self.features.is_empty() && self.direction.iter().all(|value| *value == 0.0)
    }
}

/// `2 n / (n + 20)` for `n` marked documents: what they taught counts more, the more they are.
pub fn feedback_weight(n_marked: usize) -> f32 {
    2.0 * n_marked as f32 / (n_marked as f32 + EVEN_MARKS)
}

/// `ln((N + 1) / (n + 1/2))`.
pub fn gain_idf(n_with: u64, n_docs: u64) -> f32 {
    ((n_docs as f64 + 1.0) / (n_with as f64 + 0.5)).ln().max(0.0) as f32
}

/// Documents that stand for all of the set: the sample of those that are not marked, and the marked ones where these are
/// more. Where nearly all are marked the few others have no mean and no spread to go by.
pub fn all_known<'a>(right: &'a [Example], wrong: &'a [Example], sample: &'a [Example]) -> Vec<&'a Example> {
    let mut known: Vec<&Example> = sample.iter().collect();
    if sample.len() < right.len() + wrong.len() {
        known.extend(right.iter().chain(wrong));
    }
    known
}

/// Learns; `gains[id]` of every feature. Documents of the sample that are marked should have been left out of it. Nothing
/// is learned from no marks, from marks of one kind on all documents, or if nothing sets a document apart from others.
pub fn learn(right: &[Example], wrong: &[Example], sample: &[Example], gains: &[Gain]) -> Learned {
    let one_sided = right.is_empty() || wrong.is_empty();
    if right.is_empty() && wrong.is_empty() || one_sided && sample.is_empty() {
        return Learned::default();
    }
    let space = Space::of(&all_known(right, wrong, sample), gains);
    let (right, wrong) = (thinned(right), thinned(wrong));
    let drawn = Random::new(0, 0).sample(sample.len(), BACKGROUND_DOCS);
    let background: Vec<&Example> = drawn.into_iter().map(|at| &sample[at]).collect();
    // All other documents are on the side of which none is marked, else among the wrong ones.
    let (background_is_right, background_weight) = match (right.len(), wrong.len()) {
        (0, n_wrong) => (true, n_wrong as f64),
        (n_right, 0) => (false, n_right as f64),
        (_, n_wrong) => (false, BACKGROUND_WEIGHT * n_wrong as f64),
    };
    let each = background_weight / background.len().max(1) as f64;
    let groups = [(&right, true, 1.0), (&wrong, false, 1.0), (&background, background_is_right, each)];
    let (mut points, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for (examples, target, weight) in groups {
        for example in examples {
            points.push(space.place(example));
            targets.push(target);
            weights.push(weight);
        }
    }
    let n = points.len();
    let mut kernel = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            // The 1 is the intercept's, penalised like the rest.
            kernel[i * n + j] = 1.0 + points[i].times(&points[j]);
            kernel[j * n + i] = kernel[i * n + j];
        }
    }
    let coefficients = fit(&kernel, &targets, &weights, PENALTY);
    let mut by_feature: HashMap<FeatureId, f64> = HashMap::new();
    let mut direction = vec![0.0; space.mean.len()];
    for (point, coefficient) in points.iter().zip(&coefficients) {
        for &(id, value) in &point.features {
            *by_feature.entry(id).or_default() += coefficient * f64::from(value);
        }
        direction.iter_mut().zip(&point.embedding).for_each(|(sum, value)| *sum += coefficient * f64::from(*value));
    }
    let weight =
        |(id, sum): (FeatureId, f64)| (id, (sum * f64::from(gains[id as usize].idf * space.feature_scale)) as f32);
    let mut features: Vec<(FeatureId, f32)> =
        by_feature.into_iter().map(weight).filter(|(_, weight)| *weight != 0.0).collect();
    features.sort_unstable_by_key(|(id, _)| *id);
    let direction = direction.into_iter().map(|value| (value * f64::from(space.embedding_scale)) as f32).collect();
    Learned { features, direction }
}

fn thinned(marked: &[Example]) -> Vec<&Example> {
    marked.iter().step_by(marked.len().div_ceil(MOST_MARKED).max(1)).collect()
}

/// How documents become points.
struct Space<'a> {
    gains: &'a [Gain],
    mean: Vec<f32>,
    embedding_scale: f32,
    feature_scale: f32,
}

/// A document in that space.
struct Point {
    features: Vec<(FeatureId, f32)>,
    embedding: Vec<f32>,
}

impl<'a> Space<'a> {
    fn of(sample: &[&Example], gains: &'a [Gain]) -> Self {
        let mut space = Self { gains, mean: mean_embedding(sample), embedding_scale: 1.0, feature_scale: 1.0 };
        let points: Vec<Point> = sample.iter().map(|example| space.place(example)).collect();
        let scale = |squares: f64| if squares > 1e-12 { (points.len() as f64 / squares).sqrt() as f32 } else { 0.0 };
        let squares = |value: f32| f64::from(value) * f64::from(value);
        let of_features = points.iter().flat_map(|point| &point.features).map(|(_, value)| squares(*value)).sum();
        let of_embeddings = points.iter().flat_map(|point| &point.embedding).copied().map(squares).sum();
        (space.feature_scale, space.embedding_scale) = (scale(of_features) * FEATURES.sqrt(), scale(of_embeddings));
        space
    }

    fn place(&self, example: &Example) -> Point {
        let value = |(&id, activation): (&FeatureId, &f16)| {
            let gain = self.gains.get(id as usize)?;
            let value = saturate(activation.to_f32(), gain.q50) * gain.idf * self.feature_scale;
            (value > 0.0).then_some((id, value))
        };
        let features = example.ids.iter().zip(&example.activations).filter_map(value).collect();
        let mut embedding = Vec::new();
        if example.embedding.len() == self.mean.len() {
            widen(&example.embedding, &mut embedding);
            embedding
                .iter_mut()
                .zip(&self.mean)
                .for_each(|(value, mean)| *value = (*value - mean) * self.embedding_scale);
        }
        Point { features, embedding }
    }
}

impl Point {
    fn times(&self, other: &Self) -> f64 {
        let dense: f64 = self.embedding.iter().zip(&other.embedding).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let (mut sparse, mut at) = (0.0, 0);
        for &(id, value) in &self.features {
            while other.features.get(at).is_some_and(|(other, _)| *other < id) {
                at += 1;
            }
            if let Some(&(other, other_value)) = other.features.get(at)
                && other == id
            {
                sparse += f64::from(value) * f64::from(other_value);
            }
        }
        dense + sparse
    }
}

/// Mean of the embeddings; empty if there are none.
pub fn mean_embedding(sample: &[&Example]) -> Vec<f32> {
    let width = sample.iter().map(|example| example.embedding.len()).max().unwrap_or(0);
    let with: Vec<&&Example> = sample.iter().filter(|example| example.embedding.len() == width).collect();
    let mut mean = vec![0.0f32; width];
    for example in &with {
        mean.iter_mut().zip(&example.embedding).for_each(|(sum, value)| *sum += value.to_f32());
    }
    mean.iter_mut().for_each(|sum| *sum /= with.len().max(1) as f32);
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[FeatureId], embedding: &[f32]) -> Example {
        Example {
            ids: ids.to_vec(),
            activations: vec![f16::ONE; ids.len()],
            embedding: embedding.iter().map(|value| f16::from_f32(*value)).collect(),
        }
    }

    /// Features 0 to 4; 4 may not be learned.
    fn gains() -> Vec<Gain> {
        (0..5).map(|id| Gain { q50: 1.0, idf: if id == 4 { 0.0 } else { 2.0 } }).collect()
    }

    fn sample() -> Vec<Example> {
        (0..40).map(|i| example(&[i % 4, 4], &[0.0, if i % 2 == 0 { 1.0 } else { -1.0 }])).collect()
    }

    fn weight(learned: &Learned, id: FeatureId) -> f32 {
        learned.features.iter().find(|(other, _)| *other == id).map_or(0.0, |(_, weight)| *weight)
    }

    #[test]
    fn learns_what_sets_the_two_sides_apart() {
        let right = [example(&[1, 2, 4], &[0.0, 1.0]), example(&[1, 2, 4], &[0.0, 1.0])];
        let wrong = [example(&[2, 3], &[0.0, -1.0]), example(&[2, 3], &[0.0, -1.0])];
        let learned = learn(&right, &wrong, &sample(), &gains());
        assert!(weight(&learned, 1) > 0.1 && weight(&learned, 3) < -0.1, "{learned:?}");
        assert!(weight(&learned, 2).abs() < weight(&learned, 1) / 2.0, "what both have: {learned:?}");
        assert_eq!(weight(&learned, 4), 0.0);
        assert!(learned.direction[0] == 0.0 && learned.direction[1] > 0.1, "{learned:?}");
        assert!(learned.features.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_feature_of_more_right_documents_weighs_more() {
        let right = [example(&[1, 2], &[]), example(&[1], &[])];
        let wrong = [example(&[3], &[])];
        let sample: Vec<Example> = (0..40).map(|i| example(&[i % 4, 4], &[])).collect();
        let learned = learn(&right, &wrong, &sample, &gains());
        assert!(learned.direction.is_empty());
        let (one, two) = (weight(&learned, 1), weight(&learned, 2));
        assert!(one > two && two > 0.0, "{learned:?}");
    }

    /// Log-odds of ten documents, less those of the last, from tests/quality/reference.py (numpy).
    #[test]
    fn log_odds_are_those_of_another_implementation() {
        let documents: [(&[(FeatureId, f32)], [f32; 2], f32); 10] = [
            (&[(0, 1.0), (1, 2.0)], [0.5, 0.25], 0.782_723_2),
            (&[(0, 3.0)], [0.75, 0.0], 1.134_312_4),
            (&[(1, 1.0), (2, 1.5)], [-0.5, 0.25], -1.108_804_7),
            (&[(2, 2.0), (3, 0.5)], [-0.25, -0.75], -1.348_674_8),
            (&[(0, 0.5)], [0.25, 0.5], 0.419_636_4),
            (&[(1, 1.0), (3, 2.0)], [0.0, -0.5], -0.721_138),
            (&[(2, 1.0)], [-0.75, 0.25], -1.451_525),
            (&[(3, 4.0)], [0.5, -0.25], 0.056_133_8),
            (&[(1, 0.25)], [0.0, 0.75], 0.004_588_1),
            (&[], [0.25, 0.0], 0.0),
        ];
        let examples: Vec<Example> = documents
            .iter()
            .map(|(features, embedding, _)| Example {
                ids: features.iter().map(|(id, _)| *id).collect(),
                activations: features.iter().map(|(_, activation)| f16::from_f32(*activation)).collect(),
                embedding: embedding.iter().map(|value| f16::from_f32(*value)).collect(),
            })
            .collect();
        let gains: Vec<Gain> = [(1.0, 3), (0.5, 4), (2.0, 3), (1.0, 3)]
            .map(|(q50, n_with)| Gain { q50, idf: gain_idf(n_with, 10) })
            .to_vec();
        let learned = learn(&examples[..2], &examples[2..4], &examples[4..], &gains);
        let log_odds = |example: &Example| -> f32 {
            let pairs = example.ids.iter().zip(&example.activations);
            let features = pairs
                .map(|(id, activation)| weight(&learned, *id) * saturate(activation.to_f32(), gains[*id as usize].q50));
            let embedding = example.embedding.iter().zip(&learned.direction).map(|(a, b)| a.to_f32() * b);
            features.sum::<f32>() + embedding.sum::<f32>()
        };
        for (example, (_, _, expected)) in examples.iter().zip(documents) {
            let found = log_odds(example) - log_odds(&examples[9]);
            assert!((found - expected).abs() < 2e-5, "{found} for {expected}");
        }
    }

    #[test]
    fn one_side_alone_is_set_apart_from_all_documents() {
        let marked = [example(&[1], &[0.0, 1.0])];
        let liked = learn(&marked, &[], &sample(), &gains());
        let disliked = learn(&[], &marked, &sample(), &gains());
        assert!(weight(&liked, 1) > 0.0 && weight(&disliked, 1) < 0.0);
        assert!((weight(&liked, 1) + weight(&disliked, 1)).abs() < 1e-4);
        assert_eq!(learn(&[], &[], &sample(), &gains()), Learned::default());
        assert!(learn(&marked, &[], &[], &gains()).features.is_empty(), "nothing to compare with");
    }

    #[test]
    fn nearly_all_documents_may_be_marked() {
        // Of 21 documents one is not marked, and it has neither features nor embedding: no spread to go by.
        let right = vec![example(&[1], &[0.0, 1.0]); 10];
        let wrong = vec![example(&[3], &[0.0, -1.0]); 10];
        for rest in [vec![Example::default()], Vec::new()] {
            let learned = learn(&right, &wrong, &rest, &gains());
            assert!(weight(&learned, 1) > 0.1 && weight(&learned, 3) < -0.1, "{learned:?}");
            assert!(learned.direction[1] > 0.1, "{learned:?}");
        }
        assert!(learn(&right, &[], &[], &gains()).is_nothing(), "all are right: nothing tells them apart");
    }

    #[test]
    fn more_marks_weigh_more() {
        assert_eq!([0, 20, 60].map(feedback_weight), [0.0, 1.0, 1.5]);
        let many = vec![example(&[1], &[]); 2 * MOST_MARKED + 1];
        assert_eq!(thinned(&many).len(), many.len().div_ceil(3));
    }
}
