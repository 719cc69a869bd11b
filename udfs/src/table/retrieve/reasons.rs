//! Why a document was found: its score divided among features and other signals, in numbers and in words.

use std::collections::HashMap;

use super::options::Signal;
use crate::catalog::FeatureCatalog;
use crate::features::FeatureId;
use crate::kernels::retrieval::Contribution;

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
    /// Whether most of it was learned from marked documents.
    pub(super) learned: bool,
}

/// A signal that found the document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) signal: Signal,
    /// The signal's part of the document's score.
    pub(super) part: f32,
    /// The signal's own score.
    pub(super) score: f32,
}

/// Divides the parts of the signals that rest on features among these, in proportion to what each added there; the
/// largest parts first, what counted against the document last.
///
/// A signal may have missed the document because of what counted against it: `missed` says what a first place there
/// would have been worth, and that is what such features took away.
pub(super) fn divide(found: &[Found], missed: &[(Signal, f32)], contributions: &[Contribution]) -> Vec<FeatureReason> {
    let part_of = |signal: Signal, contribution: &Contribution| match signal {
        Signal::Labels => contribution.parts.labels,
        Signal::Latents => contribution.parts.latents,
        Signal::Feedback => contribution.parts.learned,
        Signal::Dense | Signal::Words => 0.0,
    };
    let mut reasons: HashMap<FeatureId, (FeatureReason, f32)> = HashMap::new();
    let mut add = |signal: Signal, contribution: &Contribution, share: f32| {
        let Contribution { id, strength, .. } = *contribution;
        let reason = FeatureReason { id, strength, contribution: 0.0, learned: false };
        let (reason, learned) = reasons.entry(id).or_insert((reason, 0.0));
        reason.contribution += share;
        if signal == Signal::Feedback {
            *learned += share;
        }
    };
    for Found { signal, part, .. } in found {
        let total: f32 = contributions.iter().map(|contribution| part_of(*signal, contribution).max(0.0)).sum();
        if total > 0.0 {
            contributions.iter().for_each(|one| add(*signal, one, part * part_of(*signal, one) / total));
        }
    }
    for (signal, part) in missed {
        let total: f32 = contributions.iter().map(|contribution| part_of(*signal, contribution).min(0.0)).sum();
        if total < 0.0 {
            contributions.iter().for_each(|one| add(*signal, one, -part * part_of(*signal, one).min(0.0) / total));
        }
    }
    let mut reasons: Vec<FeatureReason> = reasons
        .into_values()
        .filter(|(reason, _)| reason.contribution != 0.0)
        .map(|(reason, learned)| FeatureReason { learned: learned > 0.5 * reason.contribution, ..reason })
        .collect();
    reasons.sort_by(|a, b| b.contribution.total_cmp(&a.contribution).then(a.id.cmp(&b.id)));
    reasons
}

/// The reasons as a sentence, e.g. `apology (1.8), regret (0.9); learned: please (1.2); words; dense 0.61`.
///
/// The number beside a feature is its strength: 1 is as strong as in the strongest tenth of documents that have it.
pub(super) fn sentence(reasons: &[FeatureReason], found: &[Found], catalog: &FeatureCatalog) -> String {
    let mut parts = Vec::new();
    let named = |wanted: &dyn Fn(&FeatureReason) -> bool| {
        let mut labels: Vec<String> = Vec::new();
        let mut texts: Vec<String> = Vec::new();
        for reason in reasons.iter().filter(|reason| wanted(reason)) {
            let label = name(catalog, reason.id);
            if texts.len() < MOST_NAMED && visible(catalog, reason.id) && !labels.contains(&label.to_lowercase()) {
                texts.push(format!("{label} ({:.1})", reason.strength));
                labels.push(label.to_lowercase());
            }
        }
        texts.join(", ")
    };
    let meant = named(&|reason| reason.contribution > 0.0 && !reason.learned);
    let learned = named(&|reason| reason.contribution > 0.0 && reason.learned);
    let against = named(&|reason| reason.contribution < 0.0);
    if !meant.is_empty() {
        parts.push(meant);
    }
    if !learned.is_empty() {
        parts.push(format!("learned: {learned}"));
    }
    if found.iter().any(|found| found.signal == Signal::Words) {
        parts.push("words".to_owned());
    }
    if let Some(dense) = found.iter().find(|found| found.signal == Signal::Dense) {
        parts.push(format!("dense {:.2}", dense.score));
    }
    if !against.is_empty() {
        parts.push(format!("against: {against}"));
    }
    parts.join("; ")
}

/// The reasons that the list shows: the strongest for, then the strongest against.
pub(super) fn listed(reasons: &[FeatureReason]) -> Vec<FeatureReason> {
    let (for_it, against): (Vec<&FeatureReason>, Vec<&FeatureReason>) =
        reasons.iter().partition(|reason| reason.contribution > 0.0);
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
    use crate::kernels::retrieval::FeatureScores;

    fn contribution(id: FeatureId, strength: f32, labels: f32, latents: f32, learned: f32) -> Contribution {
        Contribution { id, strength, parts: FeatureScores { labels, latents, learned } }
    }

    #[test]
    fn parts_add_up_and_read_well() {
        let source =
            MemorySource::with_words(&[("apology", &[]), ("regret", &[]), ("please", &[]), ("refund", &[])], vec![]);
        let found = [
            Found { signal: Signal::Dense, part: 0.4, score: 0.613 },
            Found { signal: Signal::Labels, part: 0.3, score: 1.0 },
            Found { signal: Signal::Feedback, part: 0.2, score: 1.0 },
            Found { signal: Signal::Words, part: 0.1, score: 7.0 },
        ];
        let contributions = [
            contribution(0, 1.8, 2.0, 9.0, 0.0),
            contribution(1, 0.94, 1.0, 0.0, 0.0),
            contribution(2, 1.2, 0.0, 0.0, 0.5),
            contribution(3, 0.7, -0.3, 0.0, 0.0),
        ];
        let reasons = divide(&found, &[], &contributions);
        let positive: f32 = reasons.iter().map(|reason| reason.contribution.max(0.0)).sum();
        assert!((positive - 0.5).abs() < 1e-6, "latents did not find it and add nothing: {reasons:?}");
        assert_eq!(
            sentence(&reasons, &found, &source.catalog()),
            "apology (1.8), regret (0.9); learned: please (1.2); words; dense 0.61; against: refund (0.7)"
        );
        let missed = divide(&[], &[(Signal::Labels, 0.3), (Signal::Latents, 0.2)], &contributions[2..]);
        assert_eq!(missed.iter().map(|reason| (reason.id, reason.contribution)).collect::<Vec<_>>(), [(3, -0.3)]);
        assert_eq!(listed(&reasons).last().map(|reason| reason.id), Some(3));
        assert_eq!(sentence(&[], &[], &source.catalog()), "");
    }
}
