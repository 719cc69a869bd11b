//! Names for features from a language model, over any OpenAI-compatible chat endpoint.
//!
//! [`work`] takes one feature after another, a few at a time: it asks for a name ([`prompt`]), reads what comes back
//! ([`answer`]), and has the name judged where that is wanted ([`score`]). Every answer goes through [`cache`], so that
//! none is paid for twice; every request through [`send`], which keeps [`limits`] and [`cost`] and tries again where that
//! can help; [`client`] alone knows the wire. [`target`] knows which features there are and where names go. [`files`] reads
//! names that others made.

pub(crate) mod answer;
pub(crate) mod cache;
pub(crate) mod client;
pub(crate) mod cost;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod prompt;
mod random;
pub(crate) mod score;
pub(crate) mod send;
pub(crate) mod target;
pub(crate) mod work;

#[cfg(test)]
pub(crate) mod testing {
    //! Evidence for tests.

    use saequel_engine::evidence::{Band, Context, EVIDENCE_VERSION, FeatureEvidence, Split, WordEvidence};
    use saequel_engine::sae::Level;

    /// A context with activation 0.8.
    pub(crate) fn context(band: Band, split: Split, text: &str) -> Context {
        Context { band, split, activation: 0.8, text: text.to_owned() }
    }

    /// A token feature that is strong on one word.
    pub(crate) fn evidence(word: &str) -> FeatureEvidence {
        FeatureEvidence {
            version: EVIDENCE_VERSION,
            dictionary: "d".to_owned(),
            latent: 7,
            feature_id: Some(7),
            level: Level::Token,
            label: word.to_owned(),
            hidden: None,
            density: 0.002,
            n_documents: 12,
            max_activation: 1.0,
            q50: 0.4,
            q90: 0.8,
            presence_threshold: 0.2,
            words: vec![WordEvidence { word: word.to_owned(), share: 0.6, precision: 0.9 }],
            contexts: vec![
                context(Band::Strongest, Split::Label, &format!("I am «{word}» for the delay")),
                context(Band::Strongest, Split::Label, &format!("so «{word}» about that")),
                context(Band::Middle, Split::Label, &format!("they were «{word}» to hear it")),
                context(Band::Contrast, Split::Label, "Nothing of that kind here"),
            ],
        }
    }
}
