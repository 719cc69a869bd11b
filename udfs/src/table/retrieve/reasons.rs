//! Why a document was found: its score divided among features and other signals, in numbers and in words.

use crate::catalog::FeatureCatalog;
use crate::features::FeatureId;
use crate::kernels::retrieval::{Contribution, FeatureScores};

/// Features that the sentence names, of each kind.
const MOST_NAMED: usize = 4;
/// Features that the list holds.
const MOST_LISTED: usize = 10;

/// One feature's part in a hit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FeatureReason {
    pub(super) id: FeatureId,
    /// Activation over its 90th percentile.
    pub(super) strength: f32,
    /// Part of the document's score, in its unit; negative for what `but_not` or feedback held against it.
    pub(super) contribution: f32,
    /// The same before what every document has of the signal is taken off: says in which order reasons are told.
    weight: f32,
    /// Whether most of it, in its own direction, was learned from marked documents.
    pub(super) learned: bool,
}

/// What found the document beside features.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) words: bool,
    /// Score by the embedding.
    pub(super) dense: Option<f32>,
    /// Whether marks taught nothing.
    pub(super) learned_nothing: bool,
}

/// What each feature adds to the document's score, the largest parts first, what counted against the document last.
/// `per_sum` is what one unit of each sum counts, `shares` which share of the document's sum is beyond what every document
/// has.
pub(super) fn divide(
    per_sum: FeatureScores,
    shares: FeatureScores,
    contributions: &[Contribution],
) -> Vec<FeatureReason> {
    let reason = |contribution: &Contribution| {
        let Contribution { id, strength, parts } = *contribution;
        let (labels, latents) = (parts.labels * per_sum.labels, parts.latents * per_sum.latents);
        let learned = parts.learned * per_sum.learned;
        let weight = labels + latents + learned;
        let contribution = labels * shares.labels + latents * shares.latents + learned * shares.learned;
        FeatureReason { id, strength, contribution, weight, learned: learned * weight.signum() > 0.5 * weight.abs() }
    };
    let mut reasons: Vec<FeatureReason> =
        contributions.iter().map(reason).filter(|reason| reason.weight != 0.0).collect();
    reasons.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id)));
    reasons
}

/// Features with their strengths and parts of a sum, the largest parts first.
pub(super) fn weighed(parts: impl Iterator<Item = (FeatureId, f32, f32)>) -> Vec<FeatureReason> {
    let reason =
        |(id, strength, part)| FeatureReason { id, strength, contribution: part, weight: part, learned: false };
    let mut reasons: Vec<FeatureReason> = parts.map(reason).collect();
    reasons.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id)));
    reasons
}

/// The reasons as a sentence, e.g. `apology (1.8), regret (0.9); learned: please (1.2); words; dense 0.61`.
///
/// The number beside a feature is its strength: 1 is as strong as in the strongest tenth of documents that have it.
pub(super) fn sentence(reasons: &[FeatureReason], found: Found, catalog: &FeatureCatalog) -> String {
    let mut parts = Vec::new();
    type Reasons<'a> = dyn Iterator<Item = &'a FeatureReason> + 'a;
    let named_from = |reasons: &mut Reasons<'_>, wanted: &dyn Fn(&FeatureReason) -> bool| {
        let mut labels: Vec<String> = Vec::new();
        let mut texts: Vec<String> = Vec::new();
        for reason in reasons.filter(|reason| wanted(reason)) {
            let label = name(catalog, reason.id);
            if texts.len() < MOST_NAMED && visible(catalog, reason.id) && !labels.contains(&label.to_lowercase()) {
                texts.push(format!("{label} ({:.1})", reason.strength));
                labels.push(label.to_lowercase());
            }
        }
        texts.join(", ")
    };
    let named = |wanted: &dyn Fn(&FeatureReason) -> bool| named_from(&mut reasons.iter(), wanted);
    let meant = named(&|reason| reason.weight > 0.0 && !reason.learned);
    let learned = named(&|reason| reason.weight > 0.0 && reason.learned);
    let against = named_from(&mut reasons.iter().rev(), &|reason| reason.weight < 0.0);
    if !meant.is_empty() {
        parts.push(meant);
    }
    if !learned.is_empty() {
        parts.push(format!("learned: {learned}"));
    }
    if found.words {
        parts.push("words".to_owned());
    }
    if let Some(dense) = found.dense {
        parts.push(format!("dense {dense:.2}"));
    }
    if found.learned_nothing {
        parts.push("learned: nothing".to_owned());
    }
    if !against.is_empty() {
        parts.push(format!("against: {against}"));
    }
    parts.join("; ")
}

/// The reasons that the list shows: the strongest for, then the strongest against.
pub(super) fn listed(reasons: &[FeatureReason]) -> Vec<FeatureReason> {
    let (for_it, against): (Vec<&FeatureReason>, Vec<&FeatureReason>) =
        reasons.iter().partition(|reason| reason.weight > 0.0);
    let against = against.into_iter().rev().take(MOST_LISTED / 2);
    for_it.into_iter().take(MOST_LISTED).chain(against).cloned().collect()
}

/// Label of a feature, or its number where it has none.
pub(super) fn name(catalog: &FeatureCatalog, id: FeatureId) -> String {
    match catalog.label(id) {
        "" => format!("feature {id}"),
        label => label.to_owned(),
    }
}

fn visible(catalog: &FeatureCatalog, id: FeatureId) -> bool {
    catalog.feature(id).is_some_and(|feature| !feature.hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemorySource;
    use crate::feature_source::FeatureSource;

    fn contribution(id: FeatureId, strength: f32, labels: f32, latents: f32, learned: f32) -> Contribution {
        Contribution { id, strength, parts: FeatureScores { labels, latents, learned } }
    }

    #[test]
    fn parts_add_up_and_read_well() {
        let source =
            MemorySource::with_words(&[("apology", &[]), ("regret", &[]), ("please", &[]), ("refund", &[])], vec![]);
        let per_sum = FeatureScores { labels: 0.1, latents: 0.0, learned: 0.4 };
        let contributions = [
            contribution(0, 1.8, 2.0, 9.0, 0.0),
            contribution(1, 0.94, 1.0, 0.0, 0.0),
            contribution(2, 1.2, 0.0, 0.0, 0.5),
            contribution(3, 0.7, -0.3, 0.0, 0.0),
        ];
        let whole = FeatureScores { labels: 1.0, latents: 1.0, learned: 1.0 };
        let reasons = divide(per_sum, whole, &contributions);
        let sum: f32 = reasons.iter().map(|reason| reason.contribution).sum();
        assert!((sum - (0.1 * (2.0 + 1.0 - 0.3) + 0.4 * 0.5)).abs() < 1e-6, "{reasons:?}");
        let found = Found { words: true, dense: Some(0.613), learned_nothing: false };
        assert_eq!(
            sentence(&reasons, found, &source.catalog()),
            "apology (1.8), regret (0.9); learned: please (1.2); words; dense 0.61; against: refund (0.7)"
        );
        assert!(divide(FeatureScores::default(), whole, &contributions).is_empty(), "what counts nothing is no reason");
        let half = divide(per_sum, FeatureScores { labels: 0.5, ..whole }, &contributions);
        assert_eq!(half.iter().map(|reason| reason.id).collect::<Vec<_>>(), [0, 2, 1, 3], "told in the same order");
        assert!((half[0].contribution - 0.1).abs() < 1e-6 && (half[1].contribution - 0.2).abs() < 1e-6, "{half:?}");
        let nothing = Found { learned_nothing: true, ..Found::default() };
        assert_eq!(sentence(&[], nothing, &source.catalog()), "learned: nothing");
        assert_eq!(listed(&reasons).last().map(|reason| reason.id), Some(3));
        assert_eq!(sentence(&[], Found::default(), &source.catalog()), "");
    }

    #[test]
    fn what_was_learned_against_is_not_told_as_learned_for() {
        let source = MemorySource::with_words(&[("apology", &[]), ("refund", &[])], vec![]);
        let whole = FeatureScores { labels: 1.0, latents: 1.0, learned: 1.0 };
        let contributions = [contribution(0, 1.0, 0.5, 0.0, -0.3), contribution(1, 1.0, 0.2, 0.0, 0.3)];
        let reasons = divide(whole, whole, &contributions);
        assert_eq!(
            sentence(&reasons, Found::default(), &source.catalog()),
            "apology (1.0); learned: refund (1.0)",
            "{reasons:?}"
        );
    }
}
