//! How well a name tells where a feature fires, measured without a language model.
//!
//! Label and description are embedded as a query, the test contexts of the feature's evidence as documents, both by the
//! reader itself, as documents are. The score is the probability that a context in which the feature is present lies
//! nearer to the query than one in which it is not (AUROC): 0.5 is chance, 1 is perfect. This is the embedding score of
//! Paulo et al. 2024 (arXiv:2410.13928). It favours names that say in words what the contexts are about; a name for how
//! something is said gets less than it deserves.

use half::f16;

use crate::encode::Encoder;
use crate::error::{Error, ErrorKind, Result};
use crate::evidence::{Band, Context, FeatureEvidence, Split};
use crate::level::Level;
use crate::progress::Progress;

/// Features whose contexts are embedded at once.
const BATCH: usize = 32;
/// Words on either side of a token that are embedded with it. The whole context says more about the text than about the
/// token: on the shipped dictionary it scores the labels lower (median 0.83, this 0.90), wrong labels the same (0.5).
const WINDOW_WORDS: usize = 4;

/// What was measured for one name.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Detection {
    /// AUROC of contexts in which the feature is present against random others; `None` if there are none of either.
    pub auroc: Option<f32>,
    /// AUROC against contexts that are like its own but in which it does not fire: much harder.
    pub contrast: Option<f32>,
    /// Contexts in which it is present.
    pub n_present: usize,
    /// Random others.
    pub n_other: usize,
}

/// Embedded test contexts of a feature, to score any number of names against.
#[derive(Debug, Clone, Default)]
pub struct TestContexts {
    present: Vec<Vec<f16>>,
    other: Vec<Vec<f16>>,
    contrast: Vec<Vec<f16>>,
}

impl TestContexts {
    /// Embeds the test contexts of each feature, in order.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn embed(encoder: &Encoder, evidence: &[FeatureEvidence]) -> Result<Vec<Self>> {
        let tested = evidence.iter().enumerate().flat_map(|(feature, evidence)| {
            let contexts = evidence.contexts.iter().filter(|context| context.split == Split::Test);
            contexts.map(move |context| (feature, context.band, embedded(context, evidence.level)))
        });
        let tested: Vec<(usize, Band, String)> = tested.collect();
        let texts: Vec<&str> = tested.iter().map(|(.., text)| text.as_str()).collect();
        let mut features = vec![Self::default(); evidence.len()];
        for ((feature, band, _), document) in tested.iter().zip(encoder.encode(&texts)?) {
            let feature = &mut features[*feature];
            match band {
                Band::Strongest | Band::Middle => feature.present.push(document.embedding),
                Band::Other => feature.other.push(document.embedding),
                Band::Contrast => feature.contrast.push(document.embedding),
                Band::Weak => {}
            }
        }
        Ok(features)
    }

    /// Scores a name by its embedding.
    pub fn score(&self, query: &[f16]) -> Detection {
        let cosines = |contexts: &[Vec<f16>]| -> Vec<f32> {
            let cosine = |context: &Vec<f16>| context.iter().zip(query).map(|(a, b)| a.to_f32() * b.to_f32()).sum();
            contexts.iter().map(cosine).collect()
        };
        let present = cosines(&self.present);
        Detection {
            auroc: auroc(&present, &cosines(&self.other)),
            contrast: auroc(&present, &cosines(&self.contrast)),
            n_present: self.present.len(),
            n_other: self.other.len(),
        }
    }
}

/// What is embedded for a context: for a span all of it, for a token the words near it.
fn embedded(context: &Context, level: Level) -> String {
    let text = &context.text;
    let (Some(open), Some(close), Level::Token) = (text.find('«'), text.rfind('»'), level) else {
        return text.replace(['«', '»'], "");
    };
    let (before, after) = (&text[..open], &text[close..]);
    let start = before.rmatch_indices(' ').nth(WINDOW_WORDS).map_or(0, |(space, _)| space + 1);
    let end = after.match_indices(' ').nth(WINDOW_WORDS).map_or(after.len(), |(space, _)| space);
    text[start..close + end].replace(['«', '»'], "")
}

/// What is embedded for a name.
pub fn query(label: &str, description: &str) -> String {
    match description.trim() {
        "" => label.to_owned(),
        description => format!("{label}. {description}"),
    }
}

/// Scores one name for one feature. For several names of a feature, [`TestContexts`] embeds its contexts once.
///
/// # Errors
/// As [`Encoder::encode`].
pub fn detect(encoder: &Encoder, label: &str, description: &str, evidence: &FeatureEvidence) -> Result<Detection> {
    let contexts = TestContexts::embed(encoder, std::slice::from_ref(evidence))?;
    let queries = encoder.encode(&[&query(label, description)])?;
    Ok(contexts[0].score(&queries[0].embedding))
}

/// Scores label and description (`names`) of each feature in `evidence`.
///
/// # Errors
/// [`ErrorKind::Query`] if there are not as many names as features; [`ErrorKind::Cancelled`]; as [`Encoder::encode`].
pub fn detect_all(
    encoder: &Encoder,
    names: &[(&str, &str)],
    evidence: &[FeatureEvidence],
    progress: &dyn Progress,
) -> Result<Vec<Detection>> {
    if names.len() != evidence.len() {
        let message = format!("expected a name for each of {} features, got {}", evidence.len(), names.len());
        return Err(Error::new(ErrorKind::Query, message));
    }
    progress.stage("scoring labels", Some(evidence.len() as u64), "features");
    let mut scores = Vec::with_capacity(evidence.len());
    for (names, evidence) in names.chunks(BATCH).zip(evidence.chunks(BATCH)) {
        if progress.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped while scoring labels"));
        }
        let queries: Vec<String> = names.iter().map(|(label, description)| query(label, description)).collect();
        let queries = encoder.encode(&queries.iter().map(String::as_str).collect::<Vec<_>>())?;
        let contexts = TestContexts::embed(encoder, evidence)?;
        scores.extend(contexts.iter().zip(&queries).map(|(contexts, query)| contexts.score(&query.embedding)));
        progress.update(scores.len() as u64, "");
    }
    progress.finish(&format!("{} features", scores.len()));
    Ok(scores)
}

/// Probability that one of `positives` is larger than one of `negatives`, equal ones counting half; `None` if either is
/// empty.
pub fn auroc(positives: &[f32], negatives: &[f32]) -> Option<f32> {
    let wins = positives.iter().flat_map(|positive| {
        negatives.iter().map(move |negative| match positive.total_cmp(negative) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        })
    });
    let n = positives.len() * negatives.len();
    (n > 0).then(|| wins.sum::<f32>() / n as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_counts_pairs_and_half_of_the_ties() {
        assert_eq!(auroc(&[0.9, 0.8], &[0.1, 0.2]), Some(1.0));
        assert_eq!(auroc(&[0.1], &[0.5, 0.9]), Some(0.0));
        assert_eq!(auroc(&[0.5, 0.5], &[0.5]), Some(0.5));
        // Of six pairs, 0.7 wins three, 0.4 wins one and ties one: (3 + 1 + 0.5) / 6.
        assert_eq!(auroc(&[0.7, 0.4], &[0.6, 0.4, 0.1]), Some(0.75));
        assert_eq!((auroc(&[], &[0.5]), auroc(&[0.5], &[])), (None, None));
    }

    #[test]
    fn a_token_is_embedded_with_the_words_near_it() {
        let context =
            |text: &str| Context { band: Band::Strongest, split: Split::Test, activation: 1.0, text: text.to_owned() };
        let text = context("a b c d e un«believ»able f g h i j");
        assert_eq!(embedded(&text, Level::Token), "b c d e unbelievable f g h i");
        assert_eq!(embedded(&text, Level::Span), "a b c d e unbelievable f g h i j");
        assert_eq!(embedded(&context("«sorry»"), Level::Token), "sorry");
        assert_eq!(embedded(&context("so «sorry» for that"), Level::Token), "so sorry for that");
    }

    #[test]
    fn a_name_is_scored_by_cosine() {
        let vector = |values: [f32; 2]| values.map(f16::from_f32).to_vec();
        let contexts = TestContexts {
            present: vec![vector([1.0, 0.0]), vector([0.8, 0.6])],
            other: vec![vector([0.0, 1.0]), vector([-1.0, 0.0])],
            contrast: vec![vector([0.96, 0.28])],
        };
        let found = contexts.score(&vector([1.0, 0.0]));
        assert_eq!(found, Detection { auroc: Some(1.0), contrast: Some(0.5), n_present: 2, n_other: 2 });
        assert_eq!(contexts.score(&vector([-1.0, 0.0])).auroc, Some(0.0));
        assert_eq!(TestContexts::default().score(&vector([1.0, 0.0])).auroc, None);
        assert_eq!((query("thanks", " "), query("thanks", "Says so.")), ("thanks".into(), "thanks. Says so.".into()));
    }
}
