//! The catalog on disk: which corpora, readers, dictionaries, features, concepts and jobs there are.
//!
//! Small Lance tables under `catalog/`; [`Catalog`] is the in-memory picture that is loaded on opening and replaced as a
//! whole after each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::future::BoxFuture;
use saequel_udfs::{Concept, FeatureCatalog, FeatureId};

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result, did_you_mean, io_error};
use crate::labels::printable;
use crate::reader::ChatColumns;
use crate::store::{FeatureRow, NewDictionary};

/// A corpus as the catalog knows it.
#[derive(Debug, Clone)]
pub struct CorpusInfo {
    /// Name: lower-case letters, digits, `_`, beginning with a letter.
    pub name: String,
    /// Columns that are read, in order.
    pub text_columns: Vec<String>,
    /// The conversation in which they are read, if they are read in one.
    pub chat: Option<ChatColumns>,
    /// Column that identifies a document; `doc_id` is made from it, if `None` from source, row number and content.
    pub key: Option<String>,
    /// The user's own columns with their types (text and metadata), without what saequel adds.
    pub columns: SchemaRef,
    /// Whether its data could be opened when the catalog was read; what cannot be is listed, and in no list of tables.
    pub intact: bool,
    /// Names of the dictionaries it is encoded with, in column order; the first one's column is `features`.
    pub dictionaries: Vec<String>,
    /// When it was made, microseconds since 1970 UTC.
    pub created_micros: i64,
}

/// A reader as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderInfo {
    /// Name, e.g. `all-MiniLM-L6-v2`.
    pub name: String,
    /// Blocks.
    pub n_layers: u32,
    /// Width of a hidden state.
    pub width: u32,
    /// Tokens of a window, special ones included.
    pub context: u32,
    /// SHA-256 of the weights.
    pub sha256: String,
}

impl ReaderInfo {
    /// What the catalog keeps of a reader.
    pub(crate) fn of(reader: &crate::reader::Reader) -> Self {
        Self {
            name: reader.name().to_owned(),
            n_layers: reader.n_layers() as u32,
            width: reader.width() as u32,
            context: reader.context() as u32,
            sha256: reader.sha256().to_owned(),
        }
    }
}

/// A job (import, label, compact, ...) and how it went.
#[derive(Debug, Clone)]
pub struct JobInfo {
    /// Number.
    pub id: u64,
    /// `import`, `compact`, ...
    pub kind: String,
    /// Corpus or dictionary.
    pub subject: String,
    /// `running`, `done`, `failed`, `interrupted`.
    pub state: String,
    /// Rows written, skipped, set aside.
    pub detail: String,
    /// Start, microseconds since 1970 UTC.
    pub started_micros: i64,
    /// End, if it ended.
    pub finished_micros: Option<i64>,
}

/// What only a detailed view of a feature shows.
#[derive(Debug, Clone, Default)]
pub struct FeatureDetail {
    /// How well label and description tell its contexts from others (AUROC, 0.5 is chance), if measured.
    pub detection: Option<f32>,
    /// Version of the contexts that the label or its detection rests on, if any.
    pub evidence_version: Option<u32>,
    /// Activation from which it counts as present in a document.
    pub presence_threshold: f32,
    /// Why it is hidden from users unless they ask (`dense`, `sub-word`, `template`, `dead`, ...).
    pub hidden_because: Option<String>,
    /// Short text windows around its strongest tokens, the token in «guillemets».
    pub examples: Vec<String>,
}

/// A label for a feature, to be taken over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewLabel {
    /// Feature.
    pub feature_id: FeatureId,
    /// Short readable name, not empty.
    pub label: String,
    /// One sentence that says more; `None` keeps the one that is there.
    pub description: Option<String>,
    /// How well both tell the feature's contexts from others, if measured. What was measured for another label goes.
    pub detection: Option<f32>,
    /// How well the label predicts the feature, if measured: [`saequel_udfs::Feature::label_score`].
    pub score: Option<f32>,
    /// Version of the contexts that it rests on, if any.
    pub evidence_version: Option<u32>,
    /// Where it comes from; default: what is said of all.
    pub source: Option<String>,
}

impl NewLabel {
    /// A label alone.
    pub fn new(feature_id: FeatureId, label: impl Into<String>) -> Self {
        Self { feature_id, label: label.into(), ..Self::default() }
    }
}

/// Immutable picture of the catalog.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// By name.
    pub corpora: Vec<Arc<CorpusInfo>>,
    /// By name.
    pub readers: Vec<ReaderInfo>,
    /// Dictionaries, features and concepts.
    pub features: Arc<FeatureCatalog>,
    /// Beside [`FeatureCatalog::features`], in the same order: what only a detailed view shows.
    pub feature_details: Arc<Vec<FeatureDetail>>,
    /// Newest first.
    pub jobs: Vec<JobInfo>,
}

impl Catalog {
    /// The corpus of that name.
    pub fn corpus(&self, name: &str) -> Option<&Arc<CorpusInfo>> {
        self.corpora.iter().find(|corpus| corpus.name == name)
    }

    /// What only a detailed view of a feature shows.
    pub fn feature_detail(&self, id: FeatureId) -> Option<&FeatureDetail> {
        let at = self.features.features().binary_search_by_key(&id, |feature| feature.id).ok()?;
        self.feature_details.get(at)
    }
}

/// A health check of [`Engine::doctor`].
#[derive(Debug, Clone)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found and, if it is not well, the way out.
    pub detail: String,
}

/// Characters of a label that a user gives, at most.
const LABEL_CHARS: usize = 200;

impl Engine {
    /// Gives a feature another label (kept with source `user`).
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`]; [`crate::ErrorKind::Query`] for a label of several lines or more than 200
    /// characters, a number, or the name of a concept.
    pub fn rename_feature<'a>(&'a self, id: u32, label: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let n_chars = label.chars().count();
            let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
            let is_concept = |name: &str| {
                let catalog = self.catalog();
                catalog.features.concepts().iter().any(|concept| concept.name.eq_ignore_ascii_case(name))
            };
            let wrong = if label.trim().chars().any(breaks) {
                "is not on one line".to_owned()
            } else if label.trim().parse::<u32>().is_ok() {
                "is a number, by which the feature of that number is found".to_owned()
            } else if is_concept(label.trim()) {
                format!("is the name of the concept '{}', by which the concept is found", label.trim())
            } else if n_chars > LABEL_CHARS {
                format!("has {n_chars} characters, expected {LABEL_CHARS} at most")
            } else {
                return self.import_labels(&[NewLabel::new(id, label)], "user").await.map(drop);
            };
            Err(Error::new(ErrorKind::Query, format!("the label of feature {id} {wrong}")))
        })
    }

    /// Takes labels for many features at once; returns how many changed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if an id does not exist, [`crate::ErrorKind::Query`] for an empty label or a score
    /// that is not between 0 and 1; then nothing is changed.
    pub fn import_labels<'a>(&'a self, labels: &'a [NewLabel], source: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let guard = store.write("changing labels").await?;
            let wanted: BTreeMap<u32, &NewLabel> = labels.iter().map(|label| (label.feature_id, label)).collect();
            for (id, new) in &wanted {
                if printable(&new.label).is_empty() {
                    return Err(Error::new(ErrorKind::Query, format!("the label of feature {id} is empty")));
                }
                for (name, score) in [("detection", new.detection), ("score", new.score)] {
                    if let Some(score) = score.filter(|score| !(0.0..=1.0).contains(score)) {
                        let message = format!("the {name} of feature {id} is {score}, expected a number from 0 to 1");
                        return Err(Error::new(ErrorKind::Query, message));
                    }
                }
            }
            let catalog = store.catalog();
            require_features(&catalog, wanted.keys().copied())?;
            store
                .change(&guard, &["features"], |state| {
                    let mut changed = 0;
                    for row in &mut state.features {
                        if let Some(new) = wanted.get(&row.feature.id) {
                            changed += u64::from(take_label(row, new, source));
                        }
                    }
                    Ok(changed)
                })
                .await
        })
    }

    /// Makes or replaces a concept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for a feature that does not exist; [`crate::ErrorKind::Query`] for a name that is a
    /// number or, of a new concept, a feature's label.
    pub fn put_concept<'a>(&'a self, name: &'a str, members: &'a [(u32, f32)]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let name = name.trim();
            if name.is_empty() || name.parse::<u32>().is_ok() {
                let message = format!("'{name}' cannot be the name of a concept: a number means a feature; use a word");
                return Err(Error::new(ErrorKind::Query, message));
            }
            if !members.iter().any(|(_, weight)| *weight > 0.0) || members.iter().any(|(_, weight)| !weight.is_finite())
            {
                let message =
                    format!("concept '{name}' needs at least one feature with a positive weight, all weights finite");
                return Err(Error::new(ErrorKind::Query, message));
            }
            let guard = store.write("changing a concept").await?;
            check_is_no_label(&store.catalog(), name)?;
            require_features(&store.catalog(), members.iter().map(|(id, _)| *id))?;
            let concept = Concept { name: name.to_owned(), members: members.to_vec() };
            store
                .change(&guard, &["concepts"], |state| {
                    state.concepts.retain(|other| other.name != concept.name);
                    state.concepts.push(concept);
                    state.concepts.sort_by(|a, b| a.name.cmp(&b.name));
                    Ok(())
                })
                .await
        })
    }

    /// Removes a concept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`].
    pub fn drop_concept<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let guard = store.write("dropping a concept").await?;
            store
                .change(&guard, &["concepts"], |state| {
                    let before = state.concepts.len();
                    state.concepts.retain(|concept| concept.name != name);
                    if state.concepts.len() == before {
                        let hint = did_you_mean(name, state.concepts.iter().map(|concept| concept.name.as_str()));
                        return Err(Error::new(ErrorKind::NotFound, format!("concept '{name}' not found{hint}")));
                    }
                    Ok(())
                })
                .await
        })
    }

    /// Adds a trained SAE to the database as a dictionary; returns its first feature id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Exists`] if another dictionary has its name.
    pub fn add_dictionary<'a>(&'a self, sae: &'a crate::sae::Sae) -> BoxFuture<'a, Result<u32>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let guard = store.write("adding a dictionary").await?;
            store.add_dictionary(&guard, &NewDictionary::of(sae)).await
        })
    }
}

impl Engine {
    /// Removes a dictionary that no corpus has, with its weights, features and labels.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`]; [`crate::ErrorKind::Query`] if a corpus or a concept needs it.
    pub fn drop_dictionary<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let guard = store.write("dropping a dictionary").await?;
            let catalog = store.catalog();
            let known = catalog.features.dictionaries();
            let Some(dictionary) = known.iter().find(|dictionary| dictionary.name == name) else {
                let hint = did_you_mean(name, known.iter().map(|dictionary| dictionary.name.as_str()));
                return Err(Error::new(ErrorKind::NotFound, format!("dictionary '{name}' not found{hint}")));
            };
            let users: Vec<&str> = catalog
                .corpora
                .iter()
                .filter(|corpus| corpus.dictionaries.iter().any(|other| other == name))
                .map(|corpus| corpus.name.as_str())
                .collect();
            if let Some(first) = users.first() {
                let message = format!(
                    "dictionary '{name}' is in use by: {}; take it away first (ALTER CORPUS {first} DROP DICTIONARY \
                     '{name}'), or drop the corpus",
                    users.join(", ")
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
            let ids = dictionary.first_id..dictionary.first_id + dictionary.width;
            let mut concepts = catalog.features.concepts().iter();
            if let Some(concept) = concepts.find(|concept| concept.members.iter().any(|(id, _)| ids.contains(id))) {
                let message = format!(
                    "concept '{}' has features of dictionary '{name}'; drop it first (DROP CONCEPT)",
                    concept.name
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
            store
                .change(&guard, &["saes", "features"], |state| {
                    state.saes.retain(|sae| sae.dictionary.name != name);
                    state.features.retain(|row| !ids.contains(&row.feature.id));
                    Ok(())
                })
                .await?;
            let folder = store.sae_dir(name);
            if folder.exists() {
                std::fs::remove_dir_all(&folder).map_err(|error| io_error("cannot remove", &folder, error))?;
            }
            self.forget_sae(name);
            Ok(())
        })
    }
}

/// Gives a feature a label; whether anything changed.
fn take_label(row: &mut FeatureRow, new: &NewLabel, source: &str) -> bool {
    let (feature, detail) = (&mut row.feature, &mut row.detail);
    let label = printable(&new.label);
    let description = new.description.as_deref().map_or(feature.description.as_str(), str::trim);
    let source = new.source.as_deref().unwrap_or(source);
    let same_name = feature.label == label && feature.label_source == source && feature.description == description;
    let measured = (new.detection, new.evidence_version);
    let same_score = new.score.is_none() || new.score == feature.label_score;
    let same_evidence = new.evidence_version.is_none() || new.evidence_version == detail.evidence_version;
    if same_name && same_score && (measured == (None, None) || new.detection == detail.detection && same_evidence) {
        return false;
    }
    if !same_name {
        feature.description = description.to_owned();
        feature.label = label;
        feature.label_source = source.to_owned();
        feature.label_score = None;
        (detail.detection, detail.evidence_version) = (None, None);
    }
    feature.label_score = new.score.or(feature.label_score);
    if measured != (None, None) {
        (detail.detection, detail.evidence_version) = measured;
    }
    true
}

/// Refuses the label of a feature as the name of a new concept: queries that mean the feature would get the concept.
fn check_is_no_label(catalog: &Catalog, name: &str) -> Result<()> {
    let (features, lower) = (&catalog.features, name.to_lowercase());
    let is_known = features.concepts().iter().any(|concept| concept.name == name);
    match features.features().iter().find(|feature| feature.label.to_lowercase() == lower) {
        Some(feature) if !is_known => {
            let message = format!(
                "'{name}' cannot be the name of a concept: it is the label of feature {0}, which queries would no longer \
                 find by it; give the concept another name, or the feature another label (ALTER FEATURE {0} RENAME TO \
                 '...')",
                feature.id
            );
            Err(Error::new(ErrorKind::Query, message))
        }
        _ => Ok(()),
    }
}

fn require_features(catalog: &Catalog, ids: impl Iterator<Item = FeatureId>) -> Result<()> {
    for id in ids {
        if catalog.features.feature(id).is_none() {
            let bound = catalog.features.id_bound();
            let message = match bound.checked_sub(1) {
                Some(last) => format!("feature {id} not found; the database has features 0 to {last}"),
                None => format!("feature {id} not found; the database has no dictionary yet"),
            };
            return Err(Error::new(ErrorKind::NotFound, message));
        }
    }
    Ok(())
}
