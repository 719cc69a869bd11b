//! The catalog's content as one value, and its way to and from the tables of layout version 3.
//!
//! | table | rows | columns |
//! |---|---|---|
//! | `meta` | one per key | `key`, `value`: `schema_version`, `generation`, `written_by`, `table:<name>`, the version of each other table, and `chat:<corpus>`, the conversation in which its texts are read, if they are read in one |
//! | `corpora` | one per corpus | `name`, `text_columns`, `key`, `dictionaries`, `created_micros` |
//! | `readers` | one per reader | `name`, `n_layers`, `width`, `context`, `sha256` |
//! | `saes` | one per dictionary | `name`, `reader`, `layer`, `level`, `first_id`, `width`, `sha256`, `added_micros`, `provenance` (JSON) |
//! | `features` | one per feature | `id`, `label`, `label_source`, `label_score`, `description`, `detection`, `evidence_version`, `density`, `max_activation`, `presence_threshold`, `q50`, `q90`, `hidden`, `top_tokens`, `top_words`, `examples` |
//! | `concepts` | one per member | `name`, `feature_id`, `weight` |
//! | `jobs` | one per job | `id`, `kind`, `subject`, `state`, `detail`, `started_micros`, `finished_micros` |
//!
//! A change writes the tables it touches and then `meta`, whose commit is the moment of the change: readers open each
//! table at the version that `meta` names, so that they see all of a change or nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::Array;
use arrow::array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{Float32Type, Int64Type, UInt32Type, UInt64Type};
use saequel_udfs::{Concept, Dictionary, Feature, FeatureCatalog, Level};

use super::table::{Table, batch, optional, string_lists};
use crate::catalog::{FeatureDetail, JobInfo, ReaderInfo};
use crate::error::{Error, ErrorKind, Result};
use crate::reader::ChatColumns;

/// A corpus as the catalog stores it; its columns are in its dataset.
#[derive(Debug, Clone)]
pub(crate) struct CorpusRow {
    pub(crate) name: String,
    pub(crate) text_columns: Vec<String>,
    pub(crate) key: Option<String>,
    /// Kept in `meta`.
    pub(crate) chat: Option<ChatColumns>,
    pub(crate) dictionaries: Vec<String>,
    pub(crate) created_micros: i64,
}

/// A dictionary as the catalog stores it.
#[derive(Debug, Clone)]
pub(crate) struct SaeRow {
    pub(crate) dictionary: Dictionary,
    /// SHA-256 over the files of the artifact, hexadecimal; empty if there is no copy of it in the folder.
    pub(crate) sha256: String,
    pub(crate) added_micros: i64,
    /// Where it comes from, as JSON; empty if nothing is known beyond the artifact.
    pub(crate) provenance: String,
}

/// A feature with what only a detailed view shows.
#[derive(Debug, Clone)]
pub(crate) struct FeatureRow {
    pub(crate) feature: Feature,
    pub(crate) detail: FeatureDetail,
}

/// All of the catalog.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) corpora: Vec<CorpusRow>,
    pub(crate) readers: Vec<ReaderInfo>,
    pub(crate) saes: Vec<SaeRow>,
    pub(crate) features: Vec<FeatureRow>,
    pub(crate) concepts: Vec<Concept>,
    /// Newest first.
    pub(crate) jobs: Vec<JobInfo>,
}

/// Names of the tables beside `meta`.
pub(super) const TABLES: [&str; 6] = ["corpora", "readers", "saes", "features", "concepts", "jobs"];

/// Begins the keys of `meta` under which conversations of corpora stand.
const CHAT: &str = "chat:";

/// Jobs that are remembered.
pub(super) const JOBS_KEPT: usize = 1000;

impl State {
    /// The table `name` as a batch.
    pub(super) fn to_batch(&self, name: &str) -> Result<RecordBatch> {
        match name {
            "corpora" => batch(vec![
                ("name", strings(self.corpora.iter().map(|c| c.name.as_str()))),
                ("text_columns", string_lists(self.corpora.iter().map(|c| c.text_columns.as_slice()))),
                ("key", Arc::new(self.corpora.iter().map(|c| c.key.as_deref()).collect::<StringArray>())),
                ("dictionaries", string_lists(self.corpora.iter().map(|c| c.dictionaries.as_slice()))),
                ("created_micros", int64s(self.corpora.iter().map(|c| Some(c.created_micros)))),
            ]),
            "readers" => batch(vec![
                ("name", strings(self.readers.iter().map(|r| r.name.as_str()))),
                ("n_layers", uint32s(self.readers.iter().map(|r| r.n_layers))),
                ("width", uint32s(self.readers.iter().map(|r| r.width))),
                ("context", uint32s(self.readers.iter().map(|r| r.context))),
                ("sha256", strings(self.readers.iter().map(|r| r.sha256.as_str()))),
            ]),
            "saes" => batch(vec![
                ("name", strings(self.saes.iter().map(|s| s.dictionary.name.as_str()))),
                ("reader", strings(self.saes.iter().map(|s| s.dictionary.reader.as_str()))),
                ("layer", uint32s(self.saes.iter().map(|s| s.dictionary.layer as u32))),
                ("level", strings(self.saes.iter().map(|s| s.dictionary.level.as_str()))),
                ("first_id", uint32s(self.saes.iter().map(|s| s.dictionary.first_id))),
                ("width", uint32s(self.saes.iter().map(|s| s.dictionary.width))),
                ("sha256", strings(self.saes.iter().map(|s| s.sha256.as_str()))),
                ("added_micros", int64s(self.saes.iter().map(|s| Some(s.added_micros)))),
                ("provenance", strings(self.saes.iter().map(|s| s.provenance.as_str()))),
            ]),
            "features" => self.features_batch(),
            "concepts" => {
                let members =
                    || self.concepts.iter().flat_map(|c| c.members.iter().map(move |member| (&c.name, member)));
                batch(vec![
                    ("name", strings(members().map(|(name, _)| name.as_str()))),
                    ("feature_id", uint32s(members().map(|(_, (id, _))| *id))),
                    ("weight", float32s(members().map(|(_, (_, weight))| Some(*weight)))),
                ])
            }
            "jobs" => batch(vec![
                ("id", Arc::new(UInt64Array::from_iter_values(self.jobs.iter().map(|j| j.id)))),
                ("kind", strings(self.jobs.iter().map(|j| j.kind.as_str()))),
                ("subject", strings(self.jobs.iter().map(|j| j.subject.as_str()))),
                ("state", strings(self.jobs.iter().map(|j| j.state.as_str()))),
                ("detail", strings(self.jobs.iter().map(|j| j.detail.as_str()))),
                ("started_micros", int64s(self.jobs.iter().map(|j| Some(j.started_micros)))),
                ("finished_micros", int64s(self.jobs.iter().map(|j| j.finished_micros))),
            ]),
            other => Err(Error::new(ErrorKind::Internal, format!("there is no catalog table '{other}'"))),
        }
    }

    fn features_batch(&self) -> Result<RecordBatch> {
        let rows = || self.features.iter().map(|row| &row.feature);
        let details = || self.features.iter().map(|row| &row.detail);
        batch(vec![
            ("id", uint32s(rows().map(|f| f.id))),
            ("label", strings(rows().map(|f| f.label.as_str()))),
            ("label_source", strings(rows().map(|f| f.label_source.as_str()))),
            ("label_score", float32s(rows().map(|f| f.label_score))),
            ("description", strings(rows().map(|f| f.description.as_str()))),
            ("detection", float32s(details().map(|d| d.detection))),
            ("evidence_version", Arc::new(details().map(|d| d.evidence_version).collect::<UInt32Array>())),
            ("density", float32s(rows().map(|f| Some(f.density)))),
            ("max_activation", float32s(rows().map(|f| Some(f.max_activation)))),
            ("presence_threshold", float32s(details().map(|d| Some(d.presence_threshold)))),
            ("q50", float32s(rows().map(|f| Some(f.q50)))),
            ("q90", float32s(rows().map(|f| Some(f.q90)))),
            ("hidden", Arc::new(details().map(|d| d.hidden_because.as_deref()).collect::<StringArray>())),
            ("top_tokens", string_lists(rows().map(|f| f.top_tokens.as_slice()))),
            ("top_words", string_lists(rows().map(|f| f.top_words.as_slice()))),
            ("examples", string_lists(details().map(|d| d.examples.as_slice()))),
        ])
    }

    /// Takes the content of a table.
    pub(super) fn take_table(&mut self, name: &str, table: &Table) -> Result<()> {
        match name {
            "corpora" => self.corpora = corpora(table)?,
            "readers" => self.readers = readers(table)?,
            "saes" => self.saes = saes(table)?,
            "features" => self.features = features(table)?,
            "concepts" => self.concepts = concepts(table)?,
            "jobs" => self.jobs = jobs(table)?,
            other => return Err(Error::new(ErrorKind::Internal, format!("there is no catalog table '{other}'"))),
        }
        Ok(())
    }

    /// Notes in `meta` how corpora are read in conversations. There and not in their table, so that the layout is the
    /// same for programs that know nothing of it.
    pub(super) fn put_chats(&self, meta: &mut BTreeMap<String, String>) {
        meta.retain(|key, _| !key.starts_with(CHAT));
        let chats = self.corpora.iter().filter_map(|corpus| Some((&corpus.name, corpus.chat.as_ref()?)));
        meta.extend(chats.map(|(name, chat)| (format!("{CHAT}{name}"), chat.to_string())));
    }

    /// Takes what [`Self::put_chats`] noted.
    pub(super) fn take_chats(&mut self, meta: &BTreeMap<String, String>) -> Result<()> {
        for corpus in &mut self.corpora {
            let chat = meta.get(&format!("{CHAT}{}", corpus.name)).map(|text| text.parse()).transpose();
            corpus.chat = chat.map_err(|error: saequel_encoder::Error| {
                let message = format!("catalog table 'meta', corpus '{}': {}", corpus.name, error.message());
                Error::new(ErrorKind::Corrupt, message)
            })?;
        }
        Ok(())
    }

    /// What functions look names up in. Features of a dictionary that is not there are left out.
    pub(super) fn feature_catalog(&self) -> (FeatureCatalog, Vec<FeatureDetail>) {
        let mut saes: Vec<&SaeRow> = self.saes.iter().collect();
        saes.sort_by_key(|sae| sae.dictionary.first_id);
        let mut rows: Vec<&FeatureRow> = self.features.iter().collect();
        rows.sort_by_key(|row| row.feature.id);
        let (mut features, mut details) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for row in rows {
            let id = row.feature.id;
            let dictionary = saes.partition_point(|sae| sae.dictionary.first_id <= id).checked_sub(1);
            let Some(dictionary) = dictionary else { continue };
            if id - saes[dictionary].dictionary.first_id >= saes[dictionary].dictionary.width {
                continue;
            }
            features.push(Feature { dictionary, ..row.feature.clone() });
            details.push(row.detail.clone());
        }
        let dictionaries = saes.into_iter().map(|sae| sae.dictionary.clone()).collect();
        (FeatureCatalog::new(dictionaries, features, self.concepts.clone()), details)
    }
}

fn corpora(table: &Table) -> Result<Vec<CorpusRow>> {
    let (name, key) = (table.strings("name")?, table.strings("key")?);
    let created = table.numbers::<Int64Type>("created_micros")?;
    let row = |row| {
        Ok(CorpusRow {
            name: name.value(row).to_owned(),
            text_columns: table.string_list("text_columns", row)?,
            key: optional(key, row),
            chat: None,
            dictionaries: table.string_list("dictionaries", row)?,
            created_micros: created.value(row),
        })
    };
    (0..table.len()).map(row).collect()
}

fn readers(table: &Table) -> Result<Vec<ReaderInfo>> {
    let (name, sha256) = (table.strings("name")?, table.strings("sha256")?);
    let n_layers = table.numbers::<UInt32Type>("n_layers")?;
    let width = table.numbers::<UInt32Type>("width")?;
    let context = table.numbers::<UInt32Type>("context")?;
    let row = |row| ReaderInfo {
        name: name.value(row).to_owned(),
        n_layers: n_layers.value(row),
        width: width.value(row),
        context: context.value(row),
        sha256: sha256.value(row).to_owned(),
    };
    Ok((0..table.len()).map(row).collect())
}

fn saes(table: &Table) -> Result<Vec<SaeRow>> {
    let (name, reader) = (table.strings("name")?, table.strings("reader")?);
    let (level, sha256) = (table.strings("level")?, table.strings("sha256")?);
    let layer = table.numbers::<UInt32Type>("layer")?;
    let first_id = table.numbers::<UInt32Type>("first_id")?;
    let width = table.numbers::<UInt32Type>("width")?;
    let added = table.numbers::<Int64Type>("added_micros")?;
    let provenance = table.strings("provenance")?;
    let row = |row: usize| {
        let level = match level.value(row) {
            "token" => Level::Token,
            "span" => Level::Span,
            "document" => Level::Document,
            other => {
                let message =
                    format!("catalog table 'saes': unknown level '{other}'; expected token, span or document");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        };
        let dictionary = Dictionary {
            name: name.value(row).to_owned(),
            reader: reader.value(row).to_owned(),
            layer: layer.value(row) as usize,
            level,
            first_id: first_id.value(row),
            width: width.value(row),
        };
        let provenance = provenance.value(row).to_owned();
        Ok(SaeRow { dictionary, sha256: sha256.value(row).to_owned(), added_micros: added.value(row), provenance })
    };
    (0..table.len()).map(row).collect()
}

fn features(table: &Table) -> Result<Vec<FeatureRow>> {
    let id = table.numbers::<UInt32Type>("id")?;
    let (label, source, hidden) = (table.strings("label")?, table.strings("label_source")?, table.strings("hidden")?);
    let score = table.numbers::<Float32Type>("label_score")?;
    let (description, detection) = (table.strings("description")?, table.numbers::<Float32Type>("detection")?);
    let evidence_version = table.numbers::<UInt32Type>("evidence_version")?;
    let density = table.numbers::<Float32Type>("density")?;
    let max_activation = table.numbers::<Float32Type>("max_activation")?;
    let threshold = table.numbers::<Float32Type>("presence_threshold")?;
    let (q50, q90) = (table.numbers::<Float32Type>("q50")?, table.numbers::<Float32Type>("q90")?);
    let row = |row: usize| {
        let feature = Feature {
            id: id.value(row),
            dictionary: 0,
            label: label.value(row).to_owned(),
            label_source: source.value(row).to_owned(),
            description: description.value(row).to_owned(),
            label_score: score.is_valid(row).then(|| score.value(row)),
            density: density.value(row),
            max_activation: max_activation.value(row),
            q50: q50.value(row),
            q90: q90.value(row),
            hidden: hidden.is_valid(row),
            top_tokens: table.string_list("top_tokens", row)?,
            top_words: table.string_list("top_words", row)?,
        };
        let detail = FeatureDetail {
            detection: detection.is_valid(row).then(|| detection.value(row)),
            evidence_version: evidence_version.is_valid(row).then(|| evidence_version.value(row)),
            presence_threshold: threshold.value(row),
            hidden_because: optional(hidden, row),
            examples: table.string_list("examples", row)?,
        };
        Ok(FeatureRow { feature, detail })
    };
    (0..table.len()).map(row).collect()
}

fn concepts(table: &Table) -> Result<Vec<Concept>> {
    let name = table.strings("name")?;
    let id = table.numbers::<UInt32Type>("feature_id")?;
    let weight = table.numbers::<Float32Type>("weight")?;
    let mut concepts: Vec<Concept> = Vec::new();
    for row in 0..table.len() {
        let member = (id.value(row), weight.value(row));
        match concepts.iter_mut().find(|concept| concept.name == name.value(row)) {
            Some(concept) => concept.members.push(member),
            None => concepts.push(Concept { name: name.value(row).to_owned(), members: vec![member] }),
        }
    }
    Ok(concepts)
}

fn jobs(table: &Table) -> Result<Vec<JobInfo>> {
    let id = table.numbers::<UInt64Type>("id")?;
    let (kind, subject) = (table.strings("kind")?, table.strings("subject")?);
    let (state, detail) = (table.strings("state")?, table.strings("detail")?);
    let started = table.numbers::<Int64Type>("started_micros")?;
    let finished = table.numbers::<Int64Type>("finished_micros")?;
    let row = |row: usize| JobInfo {
        id: id.value(row),
        kind: kind.value(row).to_owned(),
        subject: subject.value(row).to_owned(),
        state: state.value(row).to_owned(),
        detail: detail.value(row).to_owned(),
        started_micros: started.value(row),
        finished_micros: finished.is_valid(row).then(|| finished.value(row)),
    };
    Ok((0..table.len()).map(row).collect())
}

fn strings<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from(values.collect::<Vec<_>>()))
}

fn uint32s(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from(values.collect::<Vec<_>>()))
}

fn int64s(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from(values.collect::<Vec<_>>()))
}

fn float32s(values: impl Iterator<Item = Option<f32>>) -> ArrayRef {
    Arc::new(Float32Array::from(values.collect::<Vec<_>>()))
}
