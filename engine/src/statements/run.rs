//! What saequel's own statements do. Each gives a small table.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{Field, Float32Type, Int64Type, Schema};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::sql::sqlparser::ast;
use futures::future::BoxFuture;
use saequel_udfs::{Feature, FeatureId, FeatureRef, Level};

use super::{Import, Statement, parse};
use crate::caller::Caller;
use crate::engine::{Engine, ImportOptions, ImportReport, ImportSource};
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::ingest::files_below;
use crate::namespace::Viewer;
use crate::picture::Picture;
use crate::progress::Silent;
use crate::schema::{DOC_ID, sql};
use crate::session;
use crate::store::AsOf;
use crate::table_provider::shown_column;

/// Documents that `DESCRIBE FEATURE` shows of each corpus.
const EXAMPLES: usize = 3;
/// Characters of an example.
const EXAMPLE_CHARS: usize = 240;

impl Engine {
    /// Runs any statement but a query.
    pub(crate) fn run_own<'a>(
        &'a self,
        statement: Statement,
        caller: &'a Arc<Caller>,
    ) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
        Box::pin(async move {
            self.known_to(caller, &statement)?;
            // Who writes, and where, is told to those alone who may know of every corpus.
            let limited = caller.readable.is_some();
            let name = statement.name();
            let ran = self.run_known(statement, caller).await;
            ran.map_err(|error| match error.kind() {
                ErrorKind::Io if limited && error.message().starts_with("another writer is at work") => Error::new(
                    ErrorKind::Io,
                    format!("{name}: another writer is at work on this database; try again in a moment"),
                ),
                _ => error,
            })
        })
    }

    fn run_known<'a>(
        &'a self,
        statement: Statement,
        caller: &'a Arc<Caller>,
    ) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
        Box::pin(async move {
            match statement {
                Statement::Query(_) => Err(Error::new(ErrorKind::Internal, "a query is no statement of saequel's own")),
                Statement::Import(import) => self.run_import(import).await,
                Statement::Delete { corpus, condition } => {
                    let deleted = self.delete_as(caller, &corpus, &condition.to_string()).await?;
                    table(vec![("corpus", strings([corpus])), ("deleted", counts([deleted]))])
                }
                Statement::DropCorpus { name, if_exists } => match self.drop_corpus(&name).await {
                    Err(error) if if_exists && error.kind() == ErrorKind::NotFound => {
                        said(format!("there is no corpus {name}"))
                    }
                    dropped => dropped.and_then(|()| said(format!("corpus {name} dropped"))),
                },
                Statement::CreateConcept { name, replace, members } => {
                    self.create_concept(&name, replace, &members).await
                }
                Statement::DropConcept { name, if_exists } => match self.drop_concept(&name).await {
                    Err(error) if if_exists && error.kind() == ErrorKind::NotFound => {
                        said(format!("there is no concept {name}"))
                    }
                    dropped => dropped.and_then(|()| said(format!("concept {name} dropped"))),
                },
                Statement::AlterCorpus { corpus, add: true, dictionaries } => {
                    let report = self.add_to_corpus(&corpus, &dictionaries, Arc::new(Silent)).await?;
                    said(format!("{}: {} documents encoded with {}", corpus, report.documents, dictionaries.join(", ")))
                }
                Statement::AlterCorpus { corpus, add: false, dictionaries } => {
                    self.drop_from_corpus(&corpus, &dictionaries).await?;
                    said(format!("{corpus}: {} dropped", dictionaries.join(", ")))
                }
                Statement::DropDictionary { name, if_exists } => match self.drop_dictionary(&name).await {
                    Err(error) if if_exists && error.kind() == ErrorKind::NotFound => {
                        said(format!("there is no dictionary {name}"))
                    }
                    dropped => dropped.and_then(|()| said(format!("dictionary {name} dropped"))),
                },
                Statement::RenameFeature { feature, label } => self.run_rename(&feature, &label).await,
                Statement::Compact { corpus, keep_versions_secs } => {
                    said(self.compact(&corpus, keep_versions_secs).await?)
                }
                Statement::Describe { name, statement } => self.describe_table(&name, *statement, caller).await,
                Statement::DescribeFeature { feature } => self.describe_feature(&feature, caller).await,
            }
        })
    }

    /// Refuses to change a corpus that does not exist for the caller, in words that name no other.
    fn known_to(&self, caller: &Caller, statement: &Statement) -> Result<()> {
        let (corpus, may_miss) = match statement {
            Statement::Delete { corpus, .. }
            | Statement::Compact { corpus, .. }
            | Statement::AlterCorpus { corpus, .. } => (corpus, false),
            Statement::DropCorpus { name, if_exists } => (name, *if_exists),
            _ => return Ok(()),
        };
        let known = caller.reads(corpus) && self.catalog().corpus(corpus).is_some();
        if known || may_miss || (caller.readable.is_none() && caller.writable.is_none()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("{}: corpus '{corpus}' not found", statement.name())))
    }

    async fn run_import(&self, import: Import) -> Result<SendableRecordBatchStream> {
        let exists = self.catalog().corpora.iter().any(|corpus| corpus.name == import.corpus);
        if import.create && exists {
            if import.if_not_exists {
                let snapshot = self.inner.store.snapshot(&import.corpus, AsOf::Latest).await?;
                let total = snapshot.count().await?;
                return imported(&import.corpus, &ImportReport { total, ..ImportReport::default() });
            }
            let message = format!(
                "corpus '{0}' exists already; add documents with IMPORT INTO {0} FROM ..., or DROP CORPUS {0} first",
                import.corpus
            );
            return Err(Error::new(ErrorKind::Exists, message));
        }
        let file = self.import_path(&import.file)?;
        let mut features = import.features;
        if let Some(labels) = features.as_mut().and_then(|features| features.labels.as_mut()) {
            *labels = self.import_path(&labels.to_string_lossy())?;
        }
        let options = ImportOptions {
            format: import.format,
            text_columns: import.text_columns,
            chat: import.chat,
            key: import.key,
            dictionaries: import.dictionaries,
            features,
            rename: import.rename,
            on_conflict: import.on_conflict,
            on_bad_row: import.on_bad_row,
            limit: import.limit,
            ..ImportOptions::new(ImportSource::Path(file), import.corpus.clone())
        };
        let report = self.import(options, Arc::new(Silent)).await?;
        imported(&import.corpus, &report)
    }

    /// What an import of `name` reads: where folders are restricted, what was allowed, wherever a link leads later.
    fn import_path(&self, name: &str) -> Result<PathBuf> {
        let real = files::allowed_path(name, self.options(), self.dir())?;
        if self.options().allowed_dirs.is_none() {
            return Ok(PathBuf::from(name));
        }
        for inside in if real.is_dir() { files_below(&real)? } else { Vec::new() } {
            files::allowed_path(&inside.to_string_lossy(), self.options(), self.dir())?;
        }
        Ok(real)
    }

    async fn create_concept(
        &self,
        name: &str,
        replace: bool,
        members: &[(String, f32)],
    ) -> Result<SendableRecordBatchStream> {
        let catalog = self.catalog();
        let known = &catalog.features;
        if !replace && known.concepts().iter().any(|concept| concept.name == name) {
            let message = format!("concept '{name}' exists already; use CREATE OR REPLACE CONCEPT");
            return Err(Error::new(ErrorKind::Exists, message));
        }
        // A member may be a label that several features share, or another concept: its features are taken.
        let mut weights: Vec<(FeatureId, f32)> = Vec::new();
        for (member, weight) in members {
            let features = match known.resolve("CREATE CONCEPT", member).map_err(Error::from)? {
                FeatureRef::Feature(id) => vec![(id, 1.0)],
                FeatureRef::Concept(features) => features,
            };
            for (id, inner) in features {
                match weights.iter_mut().find(|(other, _)| *other == id) {
                    Some((_, existing)) => *existing = weight * inner,
                    None => weights.push((id, weight * inner)),
                }
            }
        }
        self.put_concept(name, &weights).await?;
        table(vec![
            ("concept", strings(weights.iter().map(|_| name))),
            ("feature_id", Arc::new(UInt32Array::from_iter_values(weights.iter().map(|(id, _)| *id)))),
            ("label", strings(weights.iter().map(|(id, _)| known.label(*id)))),
            ("weight", Arc::new(Float64Array::from_iter_values(weights.iter().map(|(_, weight)| f64::from(*weight))))),
        ])
    }

    async fn run_rename(&self, feature: &str, label: &str) -> Result<SendableRecordBatchStream> {
        if label.trim().is_empty() {
            return Err(Error::new(ErrorKind::Query, "ALTER FEATURE: the new label is empty"));
        }
        let catalog = self.catalog();
        let id = match catalog.features.resolve("ALTER FEATURE", feature).map_err(Error::from)? {
            FeatureRef::Feature(id) => id,
            FeatureRef::Concept(members) => {
                let ids: Vec<String> = members.iter().map(|(id, _)| id.to_string()).collect();
                let message =
                    format!("ALTER FEATURE: '{feature}' stands for several features, name one of {}", ids.join(", "));
                return Err(Error::new(ErrorKind::Query, message));
            }
        };
        let old = catalog.features.label(id).to_owned();
        self.rename_feature(id, label).await?;
        table(vec![
            ("feature_id", Arc::new(UInt32Array::from(vec![id]))),
            ("label", strings([label])),
            ("was", strings([old.as_str()])),
        ])
    }

    /// Columns of a corpus with what each is for; of another table, what DataFusion says of it.
    async fn describe_table(
        &self,
        name: &str,
        statement: ast::Statement,
        caller: &Arc<Caller>,
    ) -> Result<SendableRecordBatchStream> {
        let picture = Picture::take(self, caller);
        let session = session::session(&picture, Viewer::Person)?;
        let Some(info) = picture.corpus(name).cloned() else {
            let no_parameters = ParamValues::List(Vec::new());
            let frame = session::plan(&picture, &session, statement, &no_parameters).await?;
            return frame.execute_stream().await.map_err(Error::from);
        };
        // Opening it now makes a message of ours if it cannot be opened.
        picture.snapshot(name, AsOf::Latest).await?;
        let schema = session.table_provider(datafusion::sql::TableReference::bare(name)).await?.schema();
        let use_of = |column: &str| -> String {
            let dictionary = |what: &str| {
                let mut named = info.dictionaries.iter().enumerate();
                named.find(|(i, dictionary)| shown_column(what, *i, dictionary) == column).map(|(_, found)| found)
            };
            if info.text_columns.iter().any(|text| text == column) {
                "text: is read".to_owned()
            } else if let Some(chat) = &info.chat
                && let Some((role, _)) = chat.columns.iter().find(|(_, other)| other == column)
            {
                format!("what the {role} says: is read around the text")
            } else if column == DOC_ID {
                match &info.key {
                    Some(key) => format!("identity, from {key}"),
                    None => "identity, from source and row".to_owned(),
                }
            } else if info.key.as_deref() == Some(column) {
                "key".to_owned()
            } else if column == sql::FEATURES {
                format!("features of {}", info.dictionaries.join(", "))
            } else if let Some(found) = dictionary(sql::FVU) {
                format!("share of variance that {found} leaves unexplained")
            } else if let Some(found) = dictionary(sql::EXPLAINED) {
                format!("share of the text that features of {found} name")
            } else if column == sql::N_TOKENS {
                "tokens read".to_owned()
            } else if column == sql::N_SPANS {
                "sentences".to_owned()
            } else {
                "metadata".to_owned()
            }
        };
        let fields = schema.fields();
        table(vec![
            ("column_name", strings(fields.iter().map(|field| field.name().as_str()))),
            ("data_type", strings(fields.iter().map(|field| field.data_type().to_string()))),
            ("use", strings(fields.iter().map(|field| use_of(field.name())))),
        ])
    }

    /// What is known of a feature or concept, and where it is strongest, as properties and values.
    async fn describe_feature(&self, name: &str, caller: &Arc<Caller>) -> Result<SendableRecordBatchStream> {
        let picture = Picture::take(self, caller);
        let known = &picture.catalog.features;
        let mut rows: Vec<(String, String)> = Vec::new();
        match known.resolve("DESCRIBE FEATURE", name).map_err(Error::from)? {
            FeatureRef::Feature(id) => self.feature_rows(&picture, id, &mut rows).await?,
            FeatureRef::Concept(members) => {
                rows.push(("name".into(), name.to_owned()));
                for (id, weight) in members {
                    rows.push(("member".into(), format!("{id} '{}', weight {weight}", known.label(id))));
                }
            }
        }
        let (properties, values): (Vec<String>, Vec<String>) = rows.into_iter().unzip();
        table(vec![("property", strings(properties)), ("value", strings(values))])
    }

    async fn feature_rows(
        &self,
        picture: &Arc<Picture>,
        id: FeatureId,
        rows: &mut Vec<(String, String)>,
    ) -> Result<()> {
        let known = &picture.catalog.features;
        let Some(feature) = known.feature(id) else {
            return Err(Error::new(ErrorKind::NotFound, format!("feature {id} not found")));
        };
        let Feature { label, label_source, label_score, density, max_activation, q50, q90, hidden, .. } = feature;
        let mut row = |property: &str, value: String| rows.push((property.to_owned(), value));
        row("feature_id", id.to_string());
        row("label", label.clone());
        if !feature.description.is_empty() {
            row("description", feature.description.clone());
        }
        row("label_source", label_source.clone());
        if let Some(score) = label_score {
            row("label_score", format!("{score:.3}"));
        }
        let dictionary = known.dictionaries().get(feature.dictionary);
        if let Some(dictionary) = dictionary {
            row("dictionary", dictionary.name.clone());
            if !dictionary.reader.is_empty() {
                row("reader", format!("{}, layer {}", dictionary.reader, dictionary.layer));
            }
            let provenance = self.inner.store.provenance(&dictionary.name);
            if !provenance.is_empty() {
                row("provenance", provenance);
            }
        }
        row("level", known.level(id).map_or("", Level::as_str).to_owned());
        row("density", format!("{density:.6}"));
        row("max_activation", format!("{max_activation:.3}"));
        row("q50", format!("{q50:.3}"));
        row("q90", format!("{q90:.3}"));
        let detail = picture.catalog.feature_detail(id);
        if let Some(detection) = detail.and_then(|detail| detail.detection) {
            row("detection", format!("{detection:.3}"));
        }
        if let Some(detail) = detail {
            row("presence_threshold", format!("{:.3}", detail.presence_threshold));
        }
        let because = detail.and_then(|detail| detail.hidden_because.as_deref());
        row("hidden", because.map_or_else(|| hidden.to_string(), |because| format!("{hidden}: {because}")));
        row("top_tokens", feature.top_tokens.join(", "));
        row("top_words", feature.top_words.join(", "));
        for example in detail.map_or(&[][..], |detail| &detail.examples) {
            row("example of training", example.clone());
        }
        for corpus in &picture.catalog.corpora {
            if !dictionary.is_some_and(|dictionary| corpus.dictionaries.contains(&dictionary.name)) {
                continue;
            }
            let table = quoted(&format!("{}{}", corpus.name, crate::namespace::ACTIVATIONS_SUFFIX));
            let count = format!("SELECT count(*) FROM {table} WHERE feature_id = $1");
            let batches = internal(picture, &count, vec![id.into()]).await?;
            let n_docs = batches
                .first()
                .and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>())
                .and_then(|counts| counts.iter().next().flatten())
                .unwrap_or(0);
            let total = picture.snapshot(&corpus.name, AsOf::Latest).await?.count().await?;
            rows.push((format!("documents in {}", corpus.name), format!("{n_docs} of {total}")));
            let strongest = format!(
                "SELECT doc_id, activation FROM {table} WHERE feature_id = $1 ORDER BY activation DESC, doc_id LIMIT {EXAMPLES}"
            );
            let mut examples: Vec<(String, f32)> = Vec::new();
            for batch in internal(picture, &strongest, vec![id.into()]).await? {
                let docs = batch.column(0).as_string_opt::<i32>();
                let activations = batch.column(1).as_primitive_opt::<Float32Type>();
                let (Some(docs), Some(activations)) = (docs, activations) else { continue };
                examples.extend(docs.iter().flatten().map(str::to_owned).zip(activations.iter().flatten()));
            }
            // The texts of these alone are read, by the index of `doc_id`.
            let mut texts: HashMap<String, String> = HashMap::new();
            if !examples.is_empty() {
                let places: Vec<String> = (1..=examples.len()).map(|place| format!("${place}")).collect();
                let query = format!(
                    "SELECT doc_id, _text FROM {} WHERE doc_id IN ({})",
                    quoted(&corpus.name),
                    places.join(", ")
                );
                let wanted = examples.iter().map(|(doc, _)| doc.as_str().into()).collect();
                for batch in internal(picture, &query, wanted).await? {
                    let (docs, read) = (batch.column(0).as_string_opt::<i32>(), batch.column(1).as_string_opt::<i32>());
                    let (Some(docs), Some(read)) = (docs, read) else { continue };
                    let rows = docs.iter().flatten().zip(read.iter());
                    texts.extend(rows.map(|(doc, text)| (doc.to_owned(), excerpt(text.unwrap_or_default()))));
                }
            }
            for (doc, activation) in examples {
                let text = texts.get(&doc).map_or("", String::as_str);
                rows.push((format!("example of {}", corpus.name), format!("{doc} ({activation:.3}): {text}")));
            }
        }
        Ok(())
    }
}

/// Runs one of our own queries over `picture`.
async fn internal(picture: &Arc<Picture>, query: &str, parameters: Vec<ScalarValue>) -> Result<Vec<RecordBatch>> {
    let Statement::Query(statement) = parse(query)? else {
        return Err(Error::new(ErrorKind::Internal, format!("not a query: {query}")));
    };
    let session = session::session(picture, Viewer::Function)?;
    session::plan(picture, &session, *statement, &ParamValues::from(parameters))
        .await?
        .collect()
        .await
        .map_err(Error::from)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The start of a text, on one line.
fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(EXAMPLE_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn strings<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> ArrayRef {
    let values: Vec<String> = values.into_iter().map(|value| value.as_ref().to_owned()).collect();
    Arc::new(StringArray::from(values))
}

fn counts(values: impl IntoIterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(values))
}

/// What an import did, as a table.
fn imported(corpus: &str, report: &ImportReport) -> Result<SendableRecordBatchStream> {
    table(vec![
        ("corpus", strings([corpus])),
        ("read", counts([report.read])),
        ("written", counts([report.written])),
        ("updated", counts([report.updated])),
        ("skipped", counts([report.skipped])),
        ("set_aside", counts([report.n_set_aside])),
        ("tokens", counts([report.n_tokens])),
        ("documents", counts([report.total])),
        ("seconds", Arc::new(Float64Array::from(vec![report.seconds]))),
    ])
}

/// A one-row table with what was done.
fn said(message: impl Into<String>) -> Result<SendableRecordBatchStream> {
    table(vec![("result", strings([message.into()]))])
}

fn table(columns: Vec<(&str, ArrayRef)>) -> Result<SendableRecordBatchStream> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)
        .map_err(|error| Error::new(ErrorKind::Internal, "result of a statement").with_source(error))?;
    Ok(Box::pin(MemoryStream::try_new(vec![batch], schema, None)?))
}
