//! Dictionaries that a corpus gets after its documents: their stored texts are read again, and only the new columns are
//! written. May be killed at any moment and called again.
//!
//! What is encoded goes to files in the database's cache, a thousand documents each; a fragment whose documents are all
//! encoded is committed from them. So a kill costs a thousand documents, and memory is bounded by as many. Until the last
//! fragment is filled, the corpus does not have the dictionary: no answer rests on half of the documents.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float16Type, SchemaRef};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use futures::StreamExt;
use futures::future::BoxFuture;
use saequel_udfs::FeatureId;

use super::conversation::{Conversations, readings};
use super::documents::{Encoded, feature_columns, reader_columns};
use super::import::{blocking, first_ids};
use super::pipeline::{Encode, encode_readings};
use super::sync::WordsSync;
use crate::catalog::{CorpusInfo, ReaderInfo};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result, did_you_mean, io_error};
use crate::progress::Progress;
use crate::sae::{Level, Sae};
use crate::schema;
use crate::store::{AsOf, Gap, Store, WriteGuard};

/// Documents whose features are kept in one file until their fragment is complete.
const PART_ROWS: usize = 1024;

/// How often the progress is told while a part is encoded.
const SHOWN_AFTER: Duration = Duration::from_millis(200);

/// What a backfill did.
#[derive(Debug, Clone, Default)]
pub struct BackfillReport {
    /// Documents that have the features now and did not before.
    pub documents: u64,
    /// Of these, documents that an earlier call had encoded before it was stopped.
    pub resumed: u64,
    /// Documents that could not be encoded; their `_error` says why.
    pub failed: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Engine {
    /// Encodes the documents of a corpus with further dictionaries of the database, all of one reader; may be killed at any
    /// moment and called again. Queries go on meanwhile, other writers wait.
    ///
    /// A dictionary of level document reads the stored embeddings, if they have its width, and else the texts.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Query`] for a dictionary without weights or a corpus without text,
    /// [`ErrorKind::Cancelled`].
    pub fn add_to_corpus<'a>(
        &'a self,
        corpus: &'a str,
        dictionaries: &'a [String],
        progress: Arc<dyn Progress>,
    ) -> BoxFuture<'a, Result<BackfillReport>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let known = self.catalog();
            for name in dictionaries {
                let names = known.features.dictionaries().iter().map(|dictionary| dictionary.name.as_str());
                if !names.clone().any(|other| other == name) {
                    let hint = did_you_mean(name, names);
                    return Err(Error::new(ErrorKind::NotFound, format!("dictionary '{name}' not found{hint}")));
                }
            }
            let guard = store.write(&format!("adding dictionaries to '{corpus}'")).await?;
            let snapshot = store.snapshot(corpus, AsOf::Latest).await?;
            let (engine, names, news) = (self.clone(), dictionaries.to_vec(), progress.clone());
            let (stored, info) = (snapshot.schema(), snapshot.info.clone());
            let (work, reader) = blocking(move || work(&engine, &names, &stored, &info, news.as_ref())).await?;
            if let Some(reader) = reader {
                store.put_reader(&guard, reader).await?;
            }
            let job = store.start_job(&guard, "backfill", corpus).await?;
            let backfill = Backfill { store, guard: &guard, corpus, dictionaries, work, progress };
            let result = Box::pin(backfill.run()).await;
            let (state, detail) = match &result {
                Ok(report) => ("done", format!("{}: {} documents", dictionaries.join(", "), report.documents)),
                Err(error) if error.kind() == ErrorKind::Cancelled => ("interrupted", error.to_string()),
                Err(error) => ("failed", error.to_string()),
            };
            if let Err(error) = store.finish_job(&guard, job, state, &detail).await {
                tracing::warn!("the end of the backfill of '{corpus}' could not be noted: {error}");
            }
            result
        })
    }

    /// Takes dictionaries away from a corpus: their columns go with the next compaction, and older versions keep them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it has no such dictionary, [`ErrorKind::Query`] for its last one.
    pub fn drop_from_corpus<'a>(&'a self, corpus: &'a str, dictionaries: &'a [String]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let guard = store.write(&format!("dropping dictionaries of '{corpus}'")).await?;
            let info = store.snapshot(corpus, AsOf::Latest).await?.info.clone();
            for name in dictionaries {
                if !info.dictionaries.contains(name) {
                    let hint = did_you_mean(name, info.dictionaries.iter().map(String::as_str));
                    let message = format!("corpus '{corpus}' has no dictionary '{name}'{hint}");
                    return Err(Error::new(ErrorKind::NotFound, message));
                }
            }
            if info.dictionaries.iter().all(|name| dictionaries.contains(name)) {
                let message = format!(
                    "corpus '{corpus}' would be left without a dictionary; add another one first, or drop the corpus"
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
            let mut words = WordsSync::open(store, &store.snapshot(corpus, AsOf::Latest).await?).await?;
            // The columns first: a corpus is shown with the dictionaries whose columns it has.
            let fields = dictionaries.iter().flat_map(|name| schema::encoded_fields(name));
            let columns: Vec<String> = fields.map(|field| field.name().clone()).collect();
            store.drop_columns(&guard, corpus, &columns).await?;
            store
                .change(&guard, &["corpora"], |state| {
                    for row in state.corpora.iter_mut().filter(|row| row.name == corpus) {
                        row.dictionaries.retain(|name| !dictionaries.contains(name));
                    }
                    Ok(())
                })
                .await?;
            words.same_documents(&store.snapshot(corpus, AsOf::Latest).await?).await?;
            words.finish().await
        })
    }
}

/// What features are made of.
#[derive(Clone)]
pub(super) enum Work {
    /// Texts, by a reader with the dictionaries, in their conversations if the corpus has some.
    Texts { encoder: Arc<dyn Encode>, width: usize, chat: Option<Conversations> },
    /// Stored embeddings.
    Embeddings(Vec<Arc<Sae>>),
}

/// Decides what the dictionaries read, and loads them.
fn work(
    engine: &Engine,
    dictionaries: &[String],
    stored: &SchemaRef,
    corpus: &CorpusInfo,
    progress: &dyn Progress,
) -> Result<(Work, Option<ReaderInfo>)> {
    let saes = dictionaries.iter().map(|name| engine.sae(name)).collect::<Result<Vec<_>>>()?;
    let stored_width = match stored.field_with_name(schema::EMBEDDING).map(|field| field.data_type()) {
        Ok(DataType::FixedSizeList(_, width)) => Some(*width as usize),
        _ => None,
    };
    let from_embedding = |sae: &Arc<Sae>| sae.level() == Level::Document && stored_width == Some(sae.input_width());
    if saes.iter().all(from_embedding) {
        return Ok((Work::Embeddings(saes), None));
    }
    if corpus.text_columns.is_empty() {
        let message = format!(
            "the corpus has no text that dictionary '{}' could be encoded from; its features were computed elsewhere",
            dictionaries.join("', '")
        );
        return Err(Error::new(ErrorKind::Query, message));
    }
    let encoder = engine.encoder(dictionaries, progress)?;
    let info = ReaderInfo::of(encoder.reader());
    let width = encoder.reader().width();
    let chat = corpus.chat.as_ref().map(|columns| Conversations::new(columns, &corpus.text_columns, &encoder));
    Ok((Work::Texts { encoder: Arc::new(encoder), width, chat: chat.transpose()? }, Some(info)))
}

/// A backfill of one corpus.
pub(super) struct Backfill<'a> {
    pub(super) store: &'a Store,
    pub(super) guard: &'a WriteGuard,
    pub(super) corpus: &'a str,
    pub(super) dictionaries: &'a [String],
    pub(super) work: Work,
    pub(super) progress: Arc<dyn Progress>,
}

impl Backfill<'_> {
    pub(super) async fn run(&self) -> Result<BackfillReport> {
        let begin = Instant::now();
        let Self { store, guard, corpus, dictionaries, .. } = self;
        self.add_columns().await?;
        let gaps = store.gaps(corpus, dictionaries, matches!(self.work, Work::Texts { .. })).await?;
        let snapshot = store.snapshot(corpus, AsOf::Latest).await?;
        let mut words = WordsSync::open(store, &snapshot).await?;
        let folder = self.folder(snapshot.info.created_micros);
        let total: u64 = gaps.iter().map(|gap| gap.documents as u64).sum();
        self.progress.stage(&format!("add {} to '{corpus}'", dictionaries.join(", ")), Some(total), "documents");
        let mut report = BackfillReport::default();
        for gap in &gaps {
            let columns = self.columns_of(gap, &snapshot.schema());
            let parts = self.encode(gap, &columns, &folder, &mut report, begin).await?;
            let batches = || futures::stream::iter(parts.clone()).map(|part| read_part(&part)).boxed();
            let filled = store.replace_columns(guard, corpus, gap.fragment, &columns, batches).await?;
            // Documents are the same ones: the words need not be read again for the new version.
            words.same_documents(&filled).await?;
            for part in parts {
                let _ = fs::remove_file(part);
            }
        }
        self.progress.update(report.documents, "building indexes");
        store
            .change(guard, &["corpora"], |state| {
                for row in state.corpora.iter_mut().filter(|row| row.name == *corpus) {
                    for name in *dictionaries {
                        if !row.dictionaries.contains(name) {
                            row.dictionaries.push(name.clone());
                        }
                    }
                }
                Ok(())
            })
            .await?;
        store.index(guard, corpus).await?;
        words.same_documents(&store.snapshot(corpus, AsOf::Latest).await?).await?;
        words.finish().await?;
        let _ = fs::remove_dir_all(&folder);
        report.seconds = begin.elapsed().as_secs_f64();
        self.progress.finish(&format!("{} documents encoded", report.documents));
        Ok(report)
    }

    /// Adds the columns that are not there yet, empty.
    async fn add_columns(&self) -> Result<()> {
        let stored = self.store.snapshot(self.corpus, AsOf::Latest).await?.schema();
        let mut fields: Vec<_> = self.dictionaries.iter().flat_map(|name| schema::encoded_fields(name)).collect();
        if let Work::Texts { width, .. } = self.work {
            fields.extend(schema::reader_fields(width));
        }
        fields.retain(|field| stored.field_with_name(field.name()).is_err());
        if fields.is_empty() { Ok(()) } else { self.store.add_columns(self.guard, self.corpus, fields).await }
    }

    /// Columns that are written for a fragment.
    fn columns_of(&self, gap: &Gap, stored: &SchemaRef) -> Vec<String> {
        let fields = self.dictionaries.iter().flat_map(|name| schema::encoded_fields(name));
        let mut columns: Vec<String> = fields.map(|field| field.name().clone()).collect();
        if let Work::Texts { width, .. } = self.work {
            // An embedding that was given stays, if it is of another reader.
            let fits = |column: &&String| *column != schema::EMBEDDING || embedding_width(stored) == Some(width);
            columns.extend(gap.lacks.iter().filter(fits).cloned());
            columns.push(schema::ERROR.to_owned());
        }
        columns
    }

    /// Where encoded documents wait: by the corpus, which may be made anew, and by what the dictionaries are.
    fn folder(&self, created_micros: i64) -> PathBuf {
        let of = |name: &String| {
            let sha256 = self.store.sae_sha256(name).unwrap_or_default();
            format!("{name}-{}", sha256.chars().take(12).collect::<String>())
        };
        let names: Vec<String> = self.dictionaries.iter().map(of).collect();
        self.store.backfill_dir(self.corpus, created_micros).join(names.join("+"))
    }

    /// Encodes the documents of a fragment into files, those that are there already left as they are; returns the files.
    async fn encode(
        &self,
        gap: &Gap,
        columns: &[String],
        folder: &Path,
        report: &mut BackfillReport,
        begin: Instant,
    ) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(folder).map_err(|error| io_error("cannot make the folder", folder, error))?;
        let file = |from: usize| folder.join(format!("{}-{from}.arrow", gap.fragment));
        let (mut parts, mut done) = (Vec::new(), 0);
        while done < gap.rows
            && let Some(part) = complete_part(&file(done), columns)
        {
            parts.push(file(done));
            done += part.rows;
            report.documents += part.documents;
            report.resumed += part.documents;
            report.failed += part.failed;
        }
        let snapshot = self.store.snapshot(self.corpus, AsOf::Latest).await?;
        let text_columns = snapshot.info.text_columns.clone();
        let first_ids = first_ids(self.store, self.dictionaries)?;
        let mut read = match self.work {
            Work::Texts { .. } => [text_columns.as_slice(), &[schema::ERROR.to_owned()]].concat(),
            Work::Embeddings(_) => vec![schema::EMBEDDING.to_owned()],
        };
        if let Work::Texts { chat: Some(chat), .. } = &self.work {
            read.extend(chat.columns().filter(|column| !text_columns.contains(column)).cloned());
        }
        let mut batches = self.store.read_fragment(self.corpus, gap.fragment, &read, done).await?;
        while let Some(batch) = batches.next().await {
            let (batch, alive) = batch?;
            for from in (0..batch.num_rows()).step_by(PART_ROWS) {
                if self.progress.cancelled() {
                    let message = format!(
                        "stopped on request; {} documents are encoded, the same command goes on from there",
                        report.documents
                    );
                    return Err(Error::new(ErrorKind::Cancelled, message));
                }
                let n = PART_ROWS.min(batch.num_rows() - from);
                let (some, alive) = (batch.slice(from, n), alive[from..from + n].to_vec());
                let part = Part {
                    batch: some,
                    alive,
                    text_columns: text_columns.clone(),
                    dictionaries: self.dictionaries.to_vec(),
                    first_ids: first_ids.clone(),
                    columns: columns.to_vec(),
                    place: format!("corpus '{}', fragment {}", self.corpus, gap.fragment),
                };
                let (work, path, stored) = (self.work.clone(), file(done), snapshot.schema());
                let mut making = std::pin::pin!(blocking(move || {
                    let encoded = part.encode(&work, &stored)?;
                    write_part(&path, &encoded)?;
                    let (documents, failed) = part.counts(&encoded);
                    Ok((path, documents, failed))
                }));
                let made = loop {
                    // A part of long texts shows how far it is read.
                    match tokio::time::timeout(SHOWN_AFTER, &mut making).await {
                        Err(_) => self.progress.update(report.documents, &self.rates(report, begin)),
                        Ok(made) => break made?,
                    }
                };
                parts.push(made.0);
                done += n;
                report.documents += made.1;
                report.failed += made.2;
                self.progress.update(report.documents, &self.rates(report, begin));
            }
        }
        if done != gap.rows {
            let message =
                format!("corpus '{}', fragment {}: expected {} rows, read {done}", self.corpus, gap.fragment, gap.rows);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(parts)
    }

    /// What the progress tells beside the number of documents.
    fn rates(&self, report: &BackfillReport, begin: Instant) -> String {
        let rate = |n: u64| n as f64 / begin.elapsed().as_secs_f64().max(1e-3);
        let documents = format!("{:.0} documents/s", rate(report.documents - report.resumed));
        match &self.work {
            Work::Texts { encoder, .. } => {
                let n_tokens = encoder.tokens_read();
                format!("{documents}, {:.0} tokens/s, {n_tokens} tokens", rate(n_tokens))
            }
            Work::Embeddings(_) => documents,
        }
    }
}

fn embedding_width(stored: &SchemaRef) -> Option<usize> {
    match stored.field_with_name(schema::EMBEDDING).map(|field| field.data_type()) {
        Ok(DataType::FixedSizeList(_, width)) => Some(*width as usize),
        _ => None,
    }
}

/// Some rows of a fragment.
struct Part {
    batch: RecordBatch,
    /// Which of them are documents.
    alive: Vec<bool>,
    text_columns: Vec<String>,
    dictionaries: Vec<String>,
    first_ids: Vec<FeatureId>,
    columns: Vec<String>,
    place: String,
}

impl Part {
    /// The columns that are to be stored, for every row; null in deleted ones.
    fn encode(&self, work: &Work, stored: &SchemaRef) -> Result<RecordBatch> {
        let mut made = match work {
            Work::Texts { encoder, width, chat } => self.encode_texts(encoder.as_ref(), *width, chat.as_ref())?,
            Work::Embeddings(saes) => self.encode_embeddings(saes)?,
        };
        let arrays = self.columns.iter().map(|name| {
            let at = made.iter().position(|(other, _)| other == name);
            let at = at.ok_or_else(|| Error::new(ErrorKind::Internal, format!("column '{name}' was not made")))?;
            let field = stored
                .field_with_name(name)
                .map_err(|_| Error::new(ErrorKind::Internal, format!("the corpus has lost its column '{name}'")))?;
            Ok((field.clone(), made.swap_remove(at).1))
        });
        let (fields, arrays): (Vec<_>, Vec<_>) = arrays.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), arrays)
            .map_err(|error| Error::new(ErrorKind::Internal, "columns do not fit the corpus").with_source(error))
    }

    fn encode_texts(
        &self,
        encoder: &dyn Encode,
        width: usize,
        chat: Option<&Conversations>,
    ) -> Result<Vec<(String, ArrayRef)>> {
        let found = readings(&self.batch, &self.text_columns, chat).into_iter().zip(&self.alive);
        let alive: Vec<_> = found.filter(|(_, alive)| **alive).map(|(reading, _)| reading).collect();
        let mut encoded = encode_readings(&alive, &self.place, encoder)?.into_iter();
        let gone = || Err("deleted".to_owned());
        let rows: Vec<Encoded> =
            self.alive.iter().map(|alive| if *alive { encoded.next().unwrap_or_else(gone) } else { gone() }).collect();
        let mut made = reader_columns(width, &rows)?;
        // What could not be read once is said, also if another dictionary can be encoded.
        let before = self.batch.column_by_name(schema::ERROR).and_then(|column| column.as_string_opt::<i32>());
        let errors: StringArray = rows
            .iter()
            .zip(&self.alive)
            .enumerate()
            .map(|(row, (document, alive))| {
                let new = document.as_ref().err().filter(|_| *alive).map(String::as_str);
                new.or_else(|| before.filter(|before| before.is_valid(row)).map(|before| before.value(row)))
            })
            .collect();
        made.retain(|(name, _)| name != schema::ERROR);
        made.push((schema::ERROR.to_owned(), Arc::new(errors)));
        for (at, (name, first_id)) in self.dictionaries.iter().zip(&self.first_ids).enumerate() {
            let features = rows.iter().map(|document| document.as_ref().ok().and_then(|found| found.features.get(at)));
            made.extend(feature_columns(name, *first_id, features));
        }
        Ok(made)
    }

    fn encode_embeddings(&self, saes: &[Arc<Sae>]) -> Result<Vec<(String, ArrayRef)>> {
        let wrong = || Error::new(ErrorKind::Internal, "the corpus has no embeddings");
        let stored: &FixedSizeListArray = self
            .batch
            .column_by_name(schema::EMBEDDING)
            .and_then(|column| column.as_fixed_size_list_opt())
            .ok_or_else(wrong)?;
        let width = stored.value_length() as usize;
        let mut rows = Vec::with_capacity(stored.len() * width);
        let valid: Vec<bool> = (0..stored.len()).map(|row| self.alive[row] && stored.is_valid(row)).collect();
        for (row, valid) in valid.iter().enumerate() {
            if *valid {
                let values = stored.value(row);
                rows.extend(values.as_primitive::<Float16Type>().values().iter().map(|value| value.to_f32()));
            } else {
                rows.resize(rows.len() + width, 0.0);
            }
        }
        let mut made = Vec::new();
        for (sae, first_id) in saes.iter().zip(&self.first_ids) {
            let encoded = sae.encode_embeddings(&rows)?;
            let features = encoded.iter().zip(&valid).map(|(found, valid)| valid.then_some(found));
            made.extend(feature_columns(sae.name(), *first_id, features));
        }
        Ok(made)
    }

    /// Documents, and those of them without features.
    fn counts(&self, encoded: &RecordBatch) -> (u64, u64) {
        let documents = self.alive.iter().filter(|alive| **alive).count() as u64;
        let first = encoded.column(0);
        let failed = self.alive.iter().enumerate().filter(|(row, alive)| **alive && first.is_null(*row)).count();
        (documents, failed as u64)
    }
}

/// What a complete file holds.
struct Found {
    rows: usize,
    documents: u64,
    failed: u64,
}

/// A file that was written to its end and holds `columns`; one that was not is written again.
fn complete_part(path: &Path, columns: &[String]) -> Option<Found> {
    let reader = FileReader::try_new(fs::File::open(path).ok()?, None).ok()?;
    let schema = reader.schema();
    if schema.fields().iter().map(|field| field.name()).ne(columns) {
        return None;
    }
    let mut found = Found { rows: 0, documents: 0, failed: 0 };
    for batch in reader {
        let batch = batch.ok()?;
        let with = (batch.num_rows() - batch.column(0).null_count()) as u64;
        let errors = batch.column_by_name(schema::ERROR).map_or(0, |errors| errors.len() - errors.null_count()) as u64;
        found.rows += batch.num_rows();
        found.documents += with + errors;
        found.failed += errors;
    }
    Some(found)
}

/// Writes a file at once: under another name, then renamed.
fn write_part(path: &Path, batch: &RecordBatch) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::new(ErrorKind::Io, format!("{}: {error}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary =
        tempfile::NamedTempFile::new_in(folder).map_err(|error| io_error("cannot write in", folder, error))?;
    let mut writer = FileWriter::try_new(temporary, &batch.schema()).map_err(|error| failed(&error))?;
    writer.write(batch).and_then(|()| writer.finish()).map_err(|error| failed(&error))?;
    let temporary = writer.into_inner().map_err(|error| failed(&error))?;
    temporary.persist(path).map_err(|error| io_error("cannot write", path, error.error))?;
    Ok(())
}

fn read_part(path: &Path) -> Result<RecordBatch> {
    let failed = |error: &dyn std::fmt::Display| Error::new(ErrorKind::Io, format!("{}: {error}", path.display()));
    let file = fs::File::open(path).map_err(|error| io_error("cannot open", path, error))?;
    let mut reader = FileReader::try_new(file, None).map_err(|error| failed(&error))?;
    reader.next().ok_or_else(|| failed(&"it is empty"))?.map_err(|error| failed(&error))
}
