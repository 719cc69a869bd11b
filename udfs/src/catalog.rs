//! What is known of dictionaries, features and concepts: an immutable snapshot that functions look names up in.

use std::collections::HashMap;

use datafusion::common::plan_err;
use datafusion::error::Result;

use crate::SharedSource;
use crate::args::{Arguments, did_you_mean};
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
    /// One sentence that says more; empty if there is none.
    pub description: String,
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

impl Feature {
    /// Median and 90th percentile of the activations, both above 0. Imported features may come without statistics: the
    /// strongest activation, or 1, stands for an unknown 90th percentile, and half of it for an unknown median.
    pub fn scales(&self) -> (f32, f32) {
        let known = |value: &f32| *value > 0.0 && value.is_finite();
        let q90 = [self.q90, self.max_activation].into_iter().find(known).unwrap_or(1.0);
        (if known(&self.q50) { self.q50 } else { 0.5 * q90 }, q90)
    }
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
        let name = name.trim();
        if let Ok(id) = name.parse::<FeatureId>() {
            return match self.feature(id) {
                Some(_) => Ok(FeatureRef::Feature(id)),
                None if self.features.is_empty() => plan_err!("{function}: feature {id} not found; there are none"),
                None => plan_err!("{function}: feature {id} not found; ids are below {}", self.id_bound()),
            };
        }
        match self.named(name) {
            Some(found) => Ok(found),
            None => plan_err!("{function}: feature '{name}' not found{}", self.hint(name)),
        }
    }

    /// The same for a name that is written as text: one that is a concept's name or a label is that, also if it looks
    /// like an id (`'9'` where a feature is labelled 9).
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_text(&self, function: &str, name: &str) -> Result<FeatureRef> {
        self.named(name.trim()).map_or_else(|| self.resolve(function, name), Ok)
    }

    /// The concept of this name, or the features with this label.
    fn named(&self, name: &str) -> Option<FeatureRef> {
        if let Some(concept) = self.concepts.iter().find(|concept| concept.name.eq_ignore_ascii_case(name)) {
            return Some(FeatureRef::Concept(concept.members.clone()));
        }
        match self.by_label.get(&name.to_lowercase())?.as_slice() {
            [id] => Some(FeatureRef::Feature(*id)),
            ids => Some(FeatureRef::Concept(ids.iter().map(|id| (*id, 1.0)).collect())),
        }
    }

    /// Near names; failing that, labels of features that have `name` among their words.
    fn hint(&self, name: &str) -> String {
        let visible = self.features.iter().filter(|feature| !feature.hidden);
        let labels = visible.clone().map(|feature| feature.label.as_str()).filter(|label| !label.is_empty());
        let hint = did_you_mean(name, self.concepts.iter().map(|concept| concept.name.as_str()).chain(labels));
        if !hint.is_empty() {
            return hint;
        }
        let has_word = |feature: &&Feature| {
            let mut words = feature.top_words.iter().chain(&feature.top_tokens);
            words.any(|word| word.trim().eq_ignore_ascii_case(name))
        };
        let labels: Vec<String> = visible.filter(has_word).take(3).map(|f| format!("'{}'", f.label)).collect();
        if labels.is_empty() {
            return "; list them with SELECT feature_id, label FROM saequel.features".to_string();
        }
        format!("; it is a word of {}", labels.join(", "))
    }

    /// Which ids a selection keeps: `selected[id]`, of length [`Self::id_bound`].
    ///
    /// # Errors
    /// A plan error naming `function` if the dictionary does not exist, with the nearest name.
    pub fn select(&self, function: &str, selection: &FeatureSelection) -> Result<Vec<bool>> {
        if let Some(name) = &selection.dictionary
            && !self.dictionaries.iter().any(|dictionary| dictionary.name == *name)
        {
            let hint = did_you_mean(name, self.dictionaries.iter().map(|dictionary| dictionary.name.as_str()));
            return plan_err!("{function}: dictionary '{name}' not found{hint}");
        }
        let preferred = selection.preferred.filter(|_| selection.dictionary.is_none());
        let preferred = preferred.filter(|level| self.dictionaries.iter().any(|known| known.level == *level));
        // What of a document was read as a whole is no token's business: it is looked at beside the preferred level.
        let fits = |level: Level| match (selection.level, preferred) {
            (Some(wanted), _) => level == wanted,
            (None, Some(preferred)) => level == preferred || level == Level::Document,
            (None, None) => true,
        };
        let mut selected = vec![false; self.id_bound()];
        for feature in &self.features {
            let dictionary = &self.dictionaries[feature.dictionary];
            let keep = (selection.include_hidden || !feature.hidden)
                && selection.dictionary.as_ref().is_none_or(|name| dictionary.name == *name)
                && fits(dictionary.level);
            if let Some(slot) = selected.get_mut(feature.id as usize) {
                *slot = keep;
            }
        }
        Ok(selected)
    }

    /// Takes features out of a selection whose dictionary has not read all documents of `sets`: that one of them has no such
    /// feature says nothing.
    ///
    /// # Errors
    /// If none of the selected features is left, with the dictionaries of each set.
    pub(crate) async fn restrict(
        &self,
        function: &str,
        selected: &mut [bool],
        source: &SharedSource,
        sets: &[String],
    ) -> Result<()> {
        let had_some = selected.contains(&true);
        let read = self.keep_read(selected, source, sets).await?;
        if !had_some || selected.contains(&true) {
            return Ok(());
        }
        let told = read.iter().map(|(set, names)| format!("'{set}' was read with {}", and_list(names)));
        plan_err!(
            "{function}: no selected dictionary has read all documents: {}; `saequel sae add` reads a corpus with another \
             dictionary",
            told.collect::<Vec<_>>().join(", ")
        )
    }

    /// Narrows a selection to the features of dictionaries that all documents of `sets` were read with, be it to none, and
    /// gives the dictionaries of each set of which they are known.
    pub(crate) async fn keep_read<'a>(
        &self,
        selected: &mut [bool],
        source: &SharedSource,
        sets: &'a [String],
    ) -> Result<Vec<(&'a String, Vec<String>)>> {
        let mut read = Vec::new();
        for set in sets {
            read.extend(source.dictionaries_of_set(set).await?.map(|names| (set, names)));
        }
        for (id, selected) in (0..).zip(selected.iter_mut()).filter(|(_, selected)| **selected) {
            let dictionary = self.feature(id).and_then(|feature| self.dictionaries.get(feature.dictionary));
            *selected = dictionary.is_some_and(|known| read.iter().all(|(_, names)| names.contains(&known.name)));
        }
        Ok(read)
    }
}

/// Names for a message.
fn and_list(names: &[String]) -> String {
    if names.is_empty() { "none that is shared".to_owned() } else { names.join(" and ") }
}

/// Which features an analysis looks at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeatureSelection {
    /// Also those that users do not want to see unless they ask.
    pub include_hidden: bool,
    /// Only those of this dictionary.
    pub dictionary: Option<String>,
    /// Only those of dictionaries of this level.
    pub level: Option<Level>,
    /// The level that is taken, beside that of documents, where neither dictionary nor level is given and there is a
    /// dictionary of it.
    pub preferred: Option<Level>,
}

impl FeatureSelection {
    /// Reads the options `include_hidden` (default false), `dictionary` and `level` (default: all).
    ///
    /// # Errors
    /// If one is of the wrong type.
    pub fn from_args(args: &mut Arguments) -> Result<Self> {
        Self::read(args, None)
    }

    /// As [`Self::from_args`] for a function that looks at one level unless told otherwise (`level => 'all'`).
    ///
    /// # Errors
    /// If an option is of the wrong type.
    pub fn from_args_preferring(args: &mut Arguments, preferred: Level) -> Result<Self> {
        Self::read(args, Some(preferred))
    }

    fn read(args: &mut Arguments, preferred: Option<Level>) -> Result<Self> {
        let include_hidden = args.named("include_hidden").flag_or(false)?;
        let dictionary = args.named("dictionary").text()?;
        let (level, preferred) = match args.named("level").choice_or(&["token", "span", "document", "all"], "")? {
            "token" => (Some(Level::Token), None),
            "span" => (Some(Level::Span), None),
            "document" => (Some(Level::Document), None),
            "all" => (None, None),
            _ => (None, preferred),
        };
        Ok(Self { include_hidden, dictionary, level, preferred })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::MemorySource;
    use crate::feature_source::FeatureSource;

    fn catalog() -> Arc<FeatureCatalog> {
        let concept = Concept { name: "polite".to_string(), members: vec![(0, 1.0), (2, -1.0)] };
        let features: &[(&str, &[&str])] =
            &[("apology", &["sorry"]), ("Numbered list", &["first"]), ("insult", &[]), ("hedge", &[]), ("Hedge", &[])];
        MemorySource::with_words(features, vec![concept]).catalog()
    }

    #[test]
    fn names_are_ids_concepts_or_labels() {
        let catalog = catalog();
        let resolve = |name: &str| catalog.resolve("activation", name).unwrap();
        assert_eq!(resolve("1"), FeatureRef::Feature(1));
        assert_eq!(resolve("Polite"), FeatureRef::Concept(vec![(0, 1.0), (2, -1.0)]));
        assert_eq!(resolve("numbered LIST"), FeatureRef::Feature(1));
        assert_eq!(resolve("hedge"), FeatureRef::Concept(vec![(3, 1.0), (4, 1.0)]));
    }

    #[test]
    fn a_text_that_looks_like_an_id_is_a_label_first() {
        let features: &[(&str, &[&str])] = &[("zero", &[]), ("0", &[]), ("2", &[]), ("2", &[])];
        let catalog = MemorySource::with_words(features, vec![]).catalog();
        let text = |name: &str| catalog.resolve_text("activation", name).unwrap();
        assert_eq!(text(" 0"), FeatureRef::Feature(1));
        assert_eq!(text("2"), FeatureRef::Concept(vec![(2, 1.0), (3, 1.0)]));
        assert_eq!(text("3"), FeatureRef::Feature(3), "no label is so");
        assert_eq!(catalog.resolve("activation", "0").unwrap(), FeatureRef::Feature(0));
    }

    #[test]
    fn unknown_names_give_hints() {
        let catalog = catalog();
        let message = |name: &str| catalog.resolve("activation", name).unwrap_err().strip_backtrace();
        assert!(message("apolgy").contains("activation: feature 'apolgy' not found; did you mean 'apology'?"));
        assert!(message("sorry").contains("feature 'sorry' not found; it is a word of 'apology'"));
        assert!(message("99").contains("feature 99 not found; ids are below 5"));
        assert!(message("zzz").contains("SELECT feature_id, label FROM saequel.features"));
    }

    #[test]
    fn selections_filter_by_level_and_dictionary() {
        let catalog = catalog();
        let select = |selection: FeatureSelection| catalog.select("diff", &selection);
        assert_eq!(select(FeatureSelection::default()).unwrap(), [true; 5]);
        let span = FeatureSelection { level: Some(Level::Span), ..Default::default() };
        assert_eq!(select(span).unwrap(), [false; 5]);
        let wrong = FeatureSelection { dictionary: Some("word".to_string()), ..Default::default() };
        let message = select(wrong).unwrap_err().strip_backtrace();
        assert!(message.contains("diff: dictionary 'word' not found; did you mean 'words'?"), "{message}");
    }
}
