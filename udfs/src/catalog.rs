//! What is known of dictionaries, features and concepts: an immutable snapshot that functions look names up in.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::error::Result;

use crate::features::FeatureId;

/// What a dictionary's features are activations of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// The hidden state of a token; pooled to the document by maximum.
    Token,
    /// The mean hidden state of a sentence; pooled likewise.
    Span,
    /// The mean hidden state of the document.
    Document,
}

impl Level {
    /// `token`, `span` or `document`.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Token => "token",
            Level::Span => "span",
            Level::Document => "document",
        }
    }
}

/// A trained SAE as the database knows it.
#[derive(Debug, Clone)]
pub struct Dictionary {
    /// Name, e.g. `minilm-l4-token-4096`.
    pub name: String,
    /// Name of the reader that it belongs to.
    pub reader: String,
    /// Layer of the hook point, counted from 1 (after the first block); 0 is the embedding.
    pub layer: usize,
    /// What it reads.
    pub level: Level,
    /// Id of its first feature; the others follow without a gap.
    pub first_id: FeatureId,
    /// Number of features.
    pub width: u32,
}

/// One feature and what is known of it.
#[derive(Debug, Clone)]
pub struct Feature {
    /// Id, unique in the database.
    pub id: FeatureId,
    /// Position in [`FeatureCatalog::dictionaries`].
    pub dictionary: usize,
    /// Short readable name.
    pub label: String,
    /// Where the label comes from: `words`, `user`, `imported`, ...
    pub label_source: String,
    /// How well the label predicts the feature, 0 to 1, if measured.
    pub label_score: Option<f32>,
    /// Share of training tokens (spans) on which it fires.
    pub density: f32,
    /// Strongest activation seen in training.
    pub max_activation: f32,
    /// Median of its non-zero activations per document of the training corpus.
    pub q50: f32,
    /// 90th percentile of the same.
    pub q90: f32,
    /// Whether users do not want to see it unless they ask (fires everywhere, sub-word debris, ...).
    pub hidden: bool,
    /// Tokens on which it is strongest, best first.
    pub top_tokens: Vec<String>,
    /// Words that set its documents apart, best first.
    pub top_words: Vec<String>,
}

/// A name that a user gave to a combination of features.
#[derive(Debug, Clone)]
pub struct Concept {
    /// Name, unique.
    pub name: String,
    /// Features and their weights; the concept's activation is the weighted maximum, and it is present where any
    /// member with a positive weight is and none with a negative weight is.
    pub members: Vec<(FeatureId, f32)>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum FeatureRef {
    /// One feature.
    Feature(FeatureId),
    /// A concept: features with weights.
    Concept(Vec<(FeatureId, f32)>),
}

/// Snapshot of dictionaries, features and concepts.
#[derive(Debug, Default)]
pub struct FeatureCatalog {
    dictionaries: Vec<Dictionary>,
    features: Vec<Feature>,
    concepts: Vec<Concept>,
    by_label: HashMap<String, Vec<FeatureId>>,
}

impl FeatureCatalog {
    /// Builds the snapshot; `features` in any order.
    pub fn new(dictionaries: Vec<Dictionary>, mut features: Vec<Feature>, concepts: Vec<Concept>) -> Self {
        features.sort_by_key(|feature| feature.id);
        let mut by_label: HashMap<String, Vec<FeatureId>> = HashMap::new();
        for feature in &features {
            by_label.entry(feature.label.to_lowercase()).or_default().push(feature.id);
        }
        Self { dictionaries, features, concepts, by_label }
    }

    /// All dictionaries, by ascending first id.
    pub fn dictionaries(&self) -> &[Dictionary] {
        &self.dictionaries
    }

    /// All features, by ascending id.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// All concepts.
    pub fn concepts(&self) -> &[Concept] {
        &self.concepts
    }

    /// The feature with this id.
    pub fn feature(&self, id: FeatureId) -> Option<&Feature> {
        self.features.binary_search_by_key(&id, |feature| feature.id).ok().map(|position| &self.features[position])
    }

    /// Label of a feature; the empty string if there is no such feature.
    pub fn label(&self, id: FeatureId) -> &str {
        self.feature(id).map_or("", |feature| feature.label.as_str())
    }

    /// Level of the dictionary that a feature belongs to.
    pub fn level(&self, id: FeatureId) -> Option<Level> {
        self.feature(id).map(|feature| self.dictionaries[feature.dictionary].level)
    }

    /// One more than the largest feature id: the length of an array indexed by id.
    pub fn id_bound(&self) -> usize {
        self.dictionaries.iter().map(|d| d.first_id as usize + d.width as usize).max().unwrap_or(0)
    }

    /// Finds what a user calls a feature: a number is an id, otherwise a concept's name, otherwise a label (ignoring
    /// case; several features with that label are taken together).
    ///
    /// # Errors
    /// A plan error naming `function`, the name, and the nearest names there are.
    pub fn resolve(&self, function: &str, name: &str) -> Result<FeatureRef> {
        let _ = (function, name, &self.by_label);
        todo!("owner of udfs")
    }
}

/// Shared snapshot.
pub type SharedCatalog = Arc<FeatureCatalog>;
