//! An import: opens the source, makes the corpus if need be, and commits what the pipeline brings.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use saequel_encoder::Precision;
use saequel_udfs::FeatureId;

use super::conversation::Conversations;
use super::documents::{Encoded, encoded_columns, stored_batch};
use super::given::{Given, GivenColumns, GivenEmbedding, found_embedding_width, found_width, latents, provenance};
use super::matrix;
use super::pipeline::{Chunk, Encode, Message, Reading, Seen, start};
use super::read::{Opened, Part, Roles, first_columns, is_matrix, open, parts, roles};
use super::sync::WordsSync;
use crate::catalog::{CorpusInfo, ReaderInfo};
use crate::engine::{GivenFeatures, GivenMatrix, ImportOptions, ImportReport, ImportSource, OnConflict};
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::progress::Progress;
use crate::sae::Sae;
use crate::schema;
use crate::store::{AsOf, NewCorpus, NewDictionary, Snapshot, Store, WriteGuard};

/// Documents after which a commit is made.
const COMMIT_DOCS: usize = 4096;
/// The same where nothing is computed for them: a whole fragment.
const PLAIN_COMMIT_DOCS: usize = 128 << 10;
/// Time after which a commit is made: what a kill costs at most.
const COMMIT_AFTER: Duration = Duration::from_secs(30);
/// Bytes after which a commit is made.
const COMMIT_BYTES: usize = 64 << 20;
/// Places of rows set aside that a report names.
const SET_ASIDE_NAMED: usize = 1000;
/// Documents that could not be read of which a warning tells.
const UNREAD_NAMED: usize = 20;
/// Fragments from which on they are joined after an import, if they have fewer rows than [`FRAGMENT_ROWS`] in the mean.
const MANY_FRAGMENTS: u64 = 32;
/// See [`MANY_FRAGMENTS`].
const FRAGMENT_ROWS: u64 = 16 << 10;

/// What the corpus is encoded with.
pub(super) struct Encoding {
    pub(super) encoder: Arc<dyn Encode>,
    /// Width of the embedding.
    pub(super) width: usize,
    pub(super) dictionaries: Vec<String>,
    /// The reader, to be noted in the catalog.
    pub(super) reader: Option<ReaderInfo>,
}

/// Gives the encoder for the dictionaries of a corpus (empty: those of a new one); may load it, even from the network.
pub(super) type Encodings = Box<dyn FnOnce(&[String]) -> Result<Encoding> + Send>;

/// Gives a dictionary's artifact by name.
pub(super) type Saes<'a> = &'a (dyn Fn(&str) -> Result<Arc<Sae>> + Send + Sync);

/// Runs an import. `encoding` is asked for when the source has been found readable.
pub(super) async fn import(
    store: &Store,
    options: ImportOptions,
    progress: Arc<dyn Progress>,
    encoding: Encodings,
    saes: Saes<'_>,
) -> Result<ImportReport> {
    let begin = Instant::now();
    let mut options = options;
    let a_matrix = matches!(&options.source, ImportSource::Path(path) if is_matrix(path, options.format.as_deref()));
    if a_matrix && options.features.is_none() {
        options.features = Some(GivenFeatures::new(""));
    }
    let guard = store.write(&format!("import into '{}'", options.corpus)).await?;
    // What a first import that failed left has no say in the next one.
    let unfilled = store.is_unfilled(&options.corpus).await?;
    let existing = store.catalog().corpus(&options.corpus).filter(|_| !unfilled).cloned();
    if let Some(corpus) = existing.as_deref() {
        check_dictionaries(store, corpus, &options.dictionaries)?;
        options.key = options.key.or_else(|| corpus.key.clone());
    }
    let options = with_matrix(options)?;
    // What the options and the first rows show to be wrong is said before anything is written or loaded.
    let (first, parts, roles) = {
        let (options, existing) = (options.clone(), existing.clone());
        blocking(move || {
            let parts = parts(&options)?;
            let first = parts.first().ok_or_else(|| Error::new(ErrorKind::Data, "there is nothing to import"))?;
            let opened = open(first, &options)?;
            let roles = roles(&opened, &options, existing.as_deref())?;
            Ok((opened, parts, roles))
        })
        .await?
    };
    if !first.left_out.is_empty() {
        progress.warn(&format!("left out, since saequel makes them itself: {}", first.left_out.join(", ")));
    }
    if let Some(corpus) = existing.as_deref().filter(|_| options.features.is_none() && options.embedding.is_none()) {
        let schema = store.snapshot(&corpus.name, AsOf::Latest).await?.schema();
        if schema.field_with_name(schema::N_TOKENS).is_err() {
            let message = format!(
                "the features of corpus '{}' were computed elsewhere, and so must be those of new documents: name the \
                 column that has them (--features)",
                corpus.name
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
    }
    let encoding = match texts_are_read_with(&options, existing.as_deref())? {
        Some(wanted) => Some(blocking(move || encoding(&wanted)).await?),
        None => None,
    };
    let chat = match (&roles.chat, &encoding) {
        (Some(columns), Some(encoding)) => {
            Some(Conversations::new(columns, &roles.text_columns, encoding.encoder.as_ref())?)
        }
        _ => None,
    };
    let mut given = Given::default();
    if let Some(features) = &options.features {
        let made = GivenImport { options: &options, given: features, parts: &parts };
        given.features = Some(made.columns(store, &guard, &progress).await?);
    }
    if let Some(column) = &options.embedding {
        given.embedding = Some(given_embedding(store, &options, existing.as_deref(), &parts, column, saes).await?);
    }
    if existing.is_none() {
        if unfilled {
            store.drop_corpus(&guard, &options.corpus).await?;
        }
        let mut added = Vec::new();
        let mut dictionaries = Vec::new();
        if let Some(encoding) = &encoding {
            added.extend(schema::reader_fields(encoding.width));
            added.extend(encoding.dictionaries.iter().flat_map(|name| schema::encoded_fields(name)));
            dictionaries.extend(encoding.dictionaries.iter().cloned());
        }
        if let Some(given) = &given.embedding {
            added.push(schema::embedding_field(given.width));
            added.extend(given.saes.iter().flat_map(|(sae, _)| schema::encoded_fields(sae.name())));
            dictionaries.extend(given.saes.iter().map(|(sae, _)| sae.name().to_owned()));
        }
        if let Some(given) = &given.features {
            added.extend(schema::feature_fields(&given.dictionary));
            dictionaries.push(given.dictionary.clone());
        }
        let new = NewCorpus {
            name: options.corpus.clone(),
            text_columns: roles.text_columns.clone(),
            key: roles.key.clone(),
            chat: roles.chat.clone(),
            columns: first_columns(&first, &roles, &options),
            dictionaries,
            added,
        };
        store.create_corpus(&guard, new).await?;
    }
    if let Some(reader) = encoding.as_ref().and_then(|encoding| encoding.reader.clone()) {
        store.put_reader(&guard, reader).await?;
    }
    let others = parts.into_iter().skip(1).collect();
    let job = store.start_job(&guard, "import", &options.corpus).await?;
    let corpus = options.corpus.clone();
    let precision = encoding.as_ref().map_or(Precision::F32, |encoding| encoding.encoder.precision());
    // Boxed: the future is large, and so is the type that the compiler has to look through.
    let source = Source { first, others, roles, given, chat };
    let result = Box::pin(run(store, &guard, options, progress, encoding, source, begin)).await;
    let (state, detail) = match &result {
        Ok(report) if precision == Precision::F32 => ("done", summary(report)),
        // Said with the job, so that a corpus of which parts were encoded in other numbers can be told.
        Ok(report) => ("done", format!("{}, in {}", summary(report), precision.name())),
        Err(error) if error.kind() == ErrorKind::Cancelled => ("interrupted", error.to_string()),
        Err(error) => ("failed", error.to_string()),
    };
    if let Err(error) = store.finish_job(&guard, job, state, &detail).await {
        tracing::warn!("the end of the import into '{corpus}' could not be noted: {error}");
    }
    result
}

/// A report in a line.
fn summary(report: &ImportReport) -> String {
    let mut parts = vec![format!("{} documents added", report.written)];
    for (n, what) in [(report.updated, "replaced"), (report.skipped, "there already")] {
        if n > 0 {
            parts.push(format!("{n} {what}"));
        }
    }
    if report.n_set_aside > 0 {
        parts.push(format!("{} rows set aside", report.n_set_aside));
    }
    if report.n_unread > 0 {
        parts.push(format!("{} documents that could not be read", report.n_unread));
    }
    parts.join(", ")
}

/// Refuses dictionaries that an existing corpus does not have.
fn check_dictionaries(store: &Store, corpus: &CorpusInfo, asked: &[String]) -> Result<()> {
    let Some(name) = asked.iter().find(|name| !corpus.dictionaries.contains(name)) else { return Ok(()) };
    let catalog = store.catalog();
    let mut known = catalog.features.dictionaries().iter().map(|dictionary| dictionary.name.as_str());
    if !known.clone().any(|other| other == name) {
        let hint = did_you_mean(name, known.by_ref());
        return Err(Error::new(ErrorKind::NotFound, format!("dictionary '{name}' not found{hint}")));
    }
    let has = corpus.dictionaries.join(", ");
    let message = format!(
        "corpus '{0}' has the dictionaries {has}, not '{name}': import without it, and add it to all documents with \
         `saequel sae add {0} {name}` or ALTER CORPUS {0} ADD DICTIONARY '{name}'",
        corpus.name
    );
    Err(Error::new(ErrorKind::Query, message))
}

/// The options with the columns that a matrix beside the source has.
fn with_matrix(mut options: ImportOptions) -> Result<ImportOptions> {
    let taken = |option: &str| {
        let message = format!("a matrix has the {option} of all documents; leave the name of their column away");
        Err(Error::new(ErrorKind::Query, message))
    };
    if let Some(given) = options.features.as_ref().filter(|given| !given.threshold.is_finite()) {
        let message = format!("threshold: expected a number, got {}", given.threshold);
        return Err(Error::new(ErrorKind::Query, message));
    }
    match &options.matrix {
        Some(_) if matches!(&options.source, ImportSource::Path(path) if path.is_dir()) => {
            let message = "a matrix belongs to one file of documents, row by row, not to a folder";
            return Err(Error::new(ErrorKind::Query, message));
        }
        Some(GivenMatrix::Embeddings(_)) if options.embedding.is_some() => return taken("embeddings"),
        Some(GivenMatrix::Embeddings(_)) => options.embedding = Some(matrix::EMBEDDING.to_owned()),
        Some(GivenMatrix::Features(_)) => {
            let given = options.features.get_or_insert_with(|| GivenFeatures::new(""));
            if !given.ids.is_empty() || given.activations.is_some() {
                return taken("features");
            }
            given.ids = matrix::FEATURES.to_owned();
            given.activations = Some(matrix::ACTIVATIONS.to_owned());
        }
        None => {
            // A source that is a matrix itself.
            if let Some(given) = options.features.as_mut().filter(|given| given.ids.is_empty()) {
                given.ids = matrix::FEATURES.to_owned();
                given.activations = Some(matrix::ACTIVATIONS.to_owned());
            }
        }
    }
    Ok(options)
}

/// The dictionaries with which the texts are encoded, none named for all of the database; `None` if nothing is read.
fn texts_are_read_with(options: &ImportOptions, existing: Option<&CorpusInfo>) -> Result<Option<Vec<String>>> {
    if options.embedding.is_some() {
        return Ok(None);
    }
    Ok(match (existing, &options.features) {
        (Some(corpus), None) => Some(corpus.dictionaries.clone()),
        (None, None) => Some(options.dictionaries.clone()),
        (None, Some(_)) => (!options.dictionaries.is_empty()).then(|| options.dictionaries.clone()),
        (Some(corpus), Some(given)) => {
            let name = given.dictionary.as_ref().unwrap_or(&options.corpus);
            let others: Vec<String> = corpus.dictionaries.iter().filter(|other| *other != name).cloned().collect();
            if others.len() == corpus.dictionaries.len() {
                let message = format!(
                    "corpus '{}' has no features of a dictionary '{name}', but of: {}; name one of them (--dictionary), or \
                     import into another corpus",
                    corpus.name,
                    corpus.dictionaries.join(", ")
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
            (!others.is_empty()).then_some(others)
        }
    })
}

/// Embeddings that were computed elsewhere, with the dictionaries of level document that the user or the corpus names.
async fn given_embedding(
    store: &Store,
    options: &ImportOptions,
    existing: Option<&CorpusInfo>,
    parts: &[Part],
    column: &str,
    saes: Saes<'_>,
) -> Result<GivenEmbedding> {
    let features = options.features.as_ref().map(|given| given.dictionary.as_ref().unwrap_or(&options.corpus));
    let names = existing.map_or(&options.dictionaries, |corpus| &corpus.dictionaries);
    let names: Vec<String> = names.iter().filter(|name| Some(*name) != features).cloned().collect();
    let loaded = names.iter().map(|name| saes(name)).collect::<Result<Vec<_>>>()?;
    let stored = match existing {
        Some(corpus) => {
            let schema = store.snapshot(&corpus.name, AsOf::Latest).await?.schema();
            match schema.field_with_name(schema::EMBEDDING).map(|field| field.data_type()) {
                Ok(DataType::FixedSizeList(_, width)) => Some(*width as usize),
                _ => None,
            }
        }
        None => None,
    };
    let width = match stored.or_else(|| loaded.first().map(|sae| sae.input_width())) {
        Some(width) => width,
        None => {
            let (options, part, column) = (options.clone(), parts[0].clone(), column.to_owned());
            blocking(move || found_embedding_width(&part, &options, &column)).await?
        }
    };
    if let Some(other) = loaded.iter().find(|sae| sae.input_width() != width) {
        let message = format!(
            "dictionary '{}' reads embeddings of {} values, those of the corpus have {width}",
            other.name(),
            other.input_width()
        );
        return Err(Error::new(ErrorKind::Query, message));
    }
    if let Some(other) = loaded.iter().find(|sae| sae.level() != crate::sae::Level::Document) {
        let message = format!(
            "dictionary '{}' is of level {}: it reads the hidden states of texts, not their embeddings; name one of level \
             document (--sae)",
            other.name(),
            other.level().as_str()
        );
        return Err(Error::new(ErrorKind::Query, message));
    }
    let first = first_ids(store, &names)?;
    Ok(GivenEmbedding { column: column.to_owned(), width, saes: loaded.into_iter().zip(first).collect() })
}

/// Features that were computed elsewhere, on their way to a dictionary of their own.
struct GivenImport<'a> {
    options: &'a ImportOptions,
    given: &'a GivenFeatures,
    parts: &'a [Part],
}

impl GivenImport<'_> {
    /// The dictionary, made if there is none, and how columns become its features.
    async fn columns(&self, store: &Store, guard: &WriteGuard, progress: &Arc<dyn Progress>) -> Result<GivenColumns> {
        let name = self.given.dictionary.clone().unwrap_or_else(|| self.options.corpus.clone());
        let known = store.catalog().features.dictionaries().iter().find(|known| known.name == name).cloned();
        let (first_id, width) = match known {
            Some(known) => {
                if let Some(width) = self.given.width.filter(|width| *width != known.width) {
                    let message = format!(
                        "dictionary '{name}' has {} features already, not {width}: leave the width away, or name another dictionary",
                        known.width
                    );
                    return Err(Error::new(ErrorKind::Query, message));
                }
                (known.first_id, known.width)
            }
            None => {
                let (options, given, parts, progress) =
                    (self.options.clone(), self.given.clone(), self.parts.to_vec(), progress.clone());
                let (width, latents, provenance) = blocking(move || {
                    let width = match given.width {
                        Some(width) => width,
                        None => found_width(&parts, &options, &given.ids, progress.as_ref())?,
                    };
                    let latents = latents(width, given.labels.as_deref())?;
                    Ok((width, latents, provenance(&parts, &options, &given)?.to_string()))
                })
                .await?;
                let level = NewDictionary::level(self.given.level);
                let reader = String::new();
                let new = NewDictionary {
                    name: name.clone(),
                    reader,
                    layer: 0,
                    level,
                    width,
                    latents,
                    sae: None,
                    provenance,
                };
                (store.add_dictionary(guard, &new).await?, width)
            }
        };
        Ok(GivenColumns { options: self.given.clone(), dictionary: name, first_id, width })
    }
}

/// What is read.
struct Source {
    first: Opened,
    others: Vec<Part>,
    roles: Roles,
    given: Given,
    chat: Option<Conversations>,
}

async fn run(
    store: &Store,
    guard: &WriteGuard,
    options: ImportOptions,
    progress: Arc<dyn Progress>,
    encoding: Option<Encoding>,
    Source { first, others, roles, given, chat }: Source,
    begin: Instant,
) -> Result<ImportReport> {
    let snapshot = store.snapshot(&options.corpus, AsOf::Latest).await?;
    let mut words = WordsSync::open(store, &snapshot).await?;
    let mut seen = Seen::new();
    let id = [schema::DOC_ID.to_owned()];
    snapshot
        .read(&id, &[], |batch| {
            for doc_id in batch.column(0).as_string::<i32>().iter().flatten() {
                seen.insert(doc_id);
            }
            Ok(())
        })
        .await?;
    let total =
        if others.is_empty() { first.total.map(|n| options.limit.map_or(n, |limit| n.min(limit))) } else { None };
    progress.stage(&format!("import into '{}'", options.corpus), total, "documents");
    let on_conflict = options.on_conflict;
    let encodes = encoding.is_some();
    let (encoder, dictionaries) = encoding.map(|made| (made.encoder, made.dictionaries)).unzip();
    let dictionaries: Vec<String> = dictionaries.unwrap_or_default();
    let commit_docs = if encodes { COMMIT_DOCS } else { PLAIN_COMMIT_DOCS };
    let mut writer = Writer {
        store,
        guard,
        corpus: options.corpus.clone(),
        commit_docs: if options.batch_docs > 0 { options.batch_docs } else { commit_docs },
        first_ids: first_ids(store, &dictionaries)?,
        dictionaries,
        encodes,
        schema: snapshot.schema(),
        snapshot: snapshot.clone(),
        pending: Vec::new(),
        pending_docs: 0,
        pending_bytes: 0,
        pending_since: Instant::now(),
        replaces: false,
        report: ImportReport::default(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let corpus = snapshot.info.clone();
    let known = corpus.columns.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
    let given_dictionary = given.features.as_ref().map(|given| given.dictionary.clone());
    let reading = Reading { options, first, others, roles, corpus, known, seen, given, encodes, chat };
    let mut messages = start(reading, encoder.clone(), stop.clone())?;
    let detail = |writer: &Writer<'_>| {
        let report = &writer.report;
        let seconds = begin.elapsed().as_secs_f64().max(1e-3);
        let rate = |n: u64| (n as f64 / seconds).round();
        let documents = rate(report.written + report.updated + writer.pending_docs as u64);
        // Those of texts that are being read, too.
        let n_tokens = encoder.as_ref().map_or(0, |encoder| encoder.tokens_read()).max(report.n_tokens);
        match n_tokens {
            0 => format!("{documents} documents/s"),
            n => format!("{documents} documents/s, {} tokens/s, {n} tokens", rate(n)),
        }
    };
    loop {
        if progress.cancelled() {
            stop.store(true, Ordering::Relaxed);
            writer.commit(&mut words).await?;
            let done = writer.report.written + writer.report.updated;
            let message =
                format!("stopped on request; {done} documents are stored, the same import goes on from there");
            return Err(Error::new(ErrorKind::Cancelled, message));
        }
        // Waiting is interrupted so that a commit is made in time, a request to stop is heard, and a long text shows
        // how far it is read.
        let message = match tokio::time::timeout(Duration::from_millis(200), messages.recv()).await {
            Err(_) => {
                writer.commit_if_due(&mut words).await?;
                progress.update(writer.report.read, &detail(&writer));
                continue;
            }
            Ok(message) => message,
        };
        match message {
            Some(Message::Chunk(chunk, encoded)) => {
                let room = SET_ASIDE_NAMED.saturating_sub(writer.report.set_aside.len());
                for place in chunk.set_aside.iter().take(room) {
                    progress.warn(&format!("set aside: {place}"));
                }
                let room = UNREAD_NAMED.saturating_sub(writer.report.n_unread as usize);
                let unread =
                    chunk.doc_ids.iter().zip(&encoded).filter_map(|(id, found)| Some((id, found.as_ref().err()?)));
                for (doc_id, reason) in unread.take(room) {
                    progress.warn(&format!("document '{doc_id}' could not be read and has no features: {reason}"));
                }
                writer.take(chunk, encoded).await?;
                writer.commit_if_due(&mut words).await?;
                progress.update(writer.report.read, &detail(&writer));
            }
            Some(Message::End) => break,
            Some(Message::Failed(error)) => {
                stop.store(true, Ordering::Relaxed);
                // With "fail" a batch is written as a whole or not at all.
                if on_conflict != OnConflict::Fail {
                    writer.commit(&mut words).await?;
                }
                return Err(error);
            }
            None => return Err(Error::new(ErrorKind::Internal, "a thread of the import ended without a word")),
        }
    }
    writer.commit(&mut words).await?;
    writer.join_fragments(progress.as_ref()).await?;
    let mut report = writer.report;
    progress.update(report.read, "building indexes");
    store.index(guard, &snapshot.info.name).await?;
    let finished = store.snapshot(&snapshot.info.name, AsOf::Latest).await?;
    // A dictionary with weights brings statistics of its own.
    let measured = given_dictionary.filter(|name| store.sae_sha256(name).is_none());
    if let Some(dictionary) = measured.filter(|_| report.written + report.updated > 0) {
        progress.update(report.read, "measuring features");
        super::statistics::measure(store, guard, &finished, &dictionary).await?;
    }
    // Indexes make a version of their own; the words cover it as well, and searches may use them.
    words.same_documents(&finished).await?;
    words.finish().await?;
    report.total = finished.count().await?;
    report.seconds = begin.elapsed().as_secs_f64();
    progress.finish(&summary(&report));
    Ok(report)
}

pub(super) fn first_ids(store: &Store, dictionaries: &[String]) -> Result<Vec<FeatureId>> {
    let catalog = store.catalog();
    let known = catalog.features.dictionaries();
    dictionaries
        .iter()
        .map(|name| {
            known
                .iter()
                .find(|dictionary| dictionary.name == *name)
                .map(|dictionary| dictionary.first_id)
                .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("dictionary '{name}' is not in the catalog")))
        })
        .collect()
}

/// Runs blocking work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "a thread ended unexpectedly").with_source(error)))
}

/// Collects chunks and commits them.
struct Writer<'a> {
    store: &'a Store,
    guard: &'a WriteGuard,
    corpus: String,
    commit_docs: usize,
    /// Dictionaries of the encoder, and their first ids.
    dictionaries: Vec<String>,
    first_ids: Vec<FeatureId>,
    encodes: bool,
    /// Stored schema of the corpus.
    schema: SchemaRef,
    snapshot: Snapshot,
    pending: Vec<RecordBatch>,
    pending_docs: usize,
    pending_bytes: usize,
    pending_since: Instant,
    /// Whether a pending document replaces another.
    replaces: bool,
    report: ImportReport,
}

impl Writer<'_> {
    async fn take(&mut self, chunk: Chunk, encoded: Vec<Encoded>) -> Result<()> {
        let report = &mut self.report;
        report.read += chunk.read;
        report.skipped += chunk.skipped;
        report.n_set_aside += chunk.set_aside.len() as u64;
        let room = SET_ASIDE_NAMED.saturating_sub(report.set_aside.len());
        report.set_aside.extend(chunk.set_aside.into_iter().take(room));
        if chunk.doc_ids.is_empty() {
            return Ok(());
        }
        report.n_unread += encoded.iter().filter(|document| document.is_err()).count() as u64;
        report.n_tokens += encoded.iter().flatten().map(|document| u64::from(document.n_tokens)).sum::<u64>();
        self.add_new_columns(&chunk.columns.schema()).await?;
        let mut found = chunk.given;
        if self.encodes {
            found.extend(encoded_columns(&self.schema, &encoded, &self.dictionaries, &self.first_ids)?);
        }
        let stored = stored_batch(&self.schema, &chunk.columns, &chunk.doc_ids, found)?;
        if self.pending.is_empty() {
            self.pending_since = Instant::now();
        }
        self.pending_docs += stored.num_rows();
        self.pending_bytes += stored.get_array_memory_size();
        self.replaces |= chunk.replaces;
        self.pending.push(stored);
        Ok(())
    }

    /// Columns that the corpus does not have yet: nulls in all documents before.
    async fn add_new_columns(&mut self, columns: &SchemaRef) -> Result<()> {
        let new: Vec<Field> = columns
            .fields()
            .iter()
            .filter(|field| self.schema.field_with_name(field.name()).is_err())
            .map(|field| field.as_ref().clone())
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        self.store.add_columns(self.guard, &self.corpus, new).await?;
        self.snapshot = self.store.snapshot(&self.corpus, AsOf::Latest).await?;
        self.schema = self.snapshot.schema();
        // What waits has the columns of before: it is brought to the new ones.
        for batch in &mut self.pending {
            let n = batch.num_rows();
            let column = |field: &Arc<Field>| {
                let null = || arrow::array::new_null_array(field.data_type(), n);
                batch.column_by_name(field.name()).cloned().unwrap_or_else(null)
            };
            let arrays = self.schema.fields().iter().map(column).collect();
            *batch = RecordBatch::try_new(self.schema.clone(), arrays)
                .map_err(|error| Error::new(ErrorKind::Internal, "adding columns").with_source(error))?;
        }
        Ok(())
    }

    async fn commit_if_due(&mut self, words: &mut WordsSync) -> Result<()> {
        let due = self.pending_docs >= self.commit_docs
            || self.pending_bytes >= COMMIT_BYTES
            || self.pending_since.elapsed() >= COMMIT_AFTER;
        if due && !self.pending.is_empty() { self.commit(words).await } else { Ok(()) }
    }

    async fn commit(&mut self, words: &mut WordsSync) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut batches = std::mem::take(&mut self.pending);
        let n = std::mem::take(&mut self.pending_docs) as u64;
        self.pending_bytes = 0;
        if std::mem::take(&mut self.replaces) {
            let (batch, dropped) = newest_of_each(&self.schema, &batches)?;
            batches = vec![batch.clone()];
            let (snapshot, inserted, updated) = self.store.upsert(self.guard, &self.corpus, vec![batch]).await?;
            self.snapshot = snapshot;
            self.report.written += inserted;
            self.report.updated += updated + dropped;
        } else {
            self.snapshot = self.store.append(self.guard, &self.corpus, batches.clone()).await?;
            self.report.written += n;
        }
        words.add(batches, &self.snapshot).await
    }

    /// Joins the fragments that many small commits leave: every scan opens each of them.
    async fn join_fragments(&mut self, progress: &dyn Progress) -> Result<()> {
        let fragments = self.snapshot.indexes().await?.first().map_or(0, |index| index.fragments as u64);
        if fragments <= MANY_FRAGMENTS || self.snapshot.count().await? / fragments >= FRAGMENT_ROWS {
            return Ok(());
        }
        progress.update(self.report.read, "joining fragments");
        // All documents are stored: an import does not fail because they could lie closer together.
        if let Err(error) = self.store.join_fragments(self.guard, &self.corpus).await {
            progress.warn(&format!("small fragments were not joined, compacting does it later: {error}"));
        }
        Ok(())
    }
}

/// Joins batches to one that has each document once, as it came last; and how many were dropped for that.
fn newest_of_each(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(RecordBatch, u64)> {
    let failed = |error| Error::new(ErrorKind::Internal, "joining documents").with_source(error);
    let all = concat_batches(schema, batches).map_err(failed)?;
    let ids = all.column_by_name(schema::DOC_ID).map(|column| column.as_string::<i32>());
    let Some(ids) = ids else { return Ok((all, 0)) };
    let mut last: HashMap<&str, usize> = HashMap::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        last.insert(id.unwrap_or_default(), row);
    }
    if last.len() == all.num_rows() {
        return Ok((all, 0));
    }
    let mut rows: Vec<u64> = last.into_values().map(|row| row as u64).collect();
    rows.sort_unstable();
    let dropped = all.num_rows() - rows.len();
    let newest = take_record_batch(&all, &UInt64Array::from(rows)).map_err(failed)?;
    Ok((newest, dropped as u64))
}
