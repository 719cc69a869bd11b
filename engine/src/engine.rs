//! The engine: opens a folder, imports documents, answers SQL.
//!
//! The struct and its opening are here; what it can do is written where it belongs: `ingest` (import, delete, compact),
//! `session` (sql), `catalog` (labels, concepts, dictionaries).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use saequel_udfs::Dictionary;

use crate::catalog::Catalog;
use crate::encoder::Encoder;
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::options::EngineOptions;
use crate::progress::Progress;
use crate::reader::{ChatColumns, Reader};
use crate::sae::Sae;
use crate::session::SqlState;
use crate::store::{Store, folder_sha256};

/// An open database. Cheap to clone; clones share everything.
///
/// The futures of its methods are boxed: a program that awaits them need not compile again what Lance and DataFusion do
/// underneath.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones share.
pub(crate) struct Inner {
    pub(crate) options: EngineOptions,
    pub(crate) store: Store,
    /// Readers and dictionaries are loaded when the first text must be read: plain SQL never needs them.
    pub(crate) loaded: Mutex<Loaded>,
    pub(crate) sql: SqlState,
}

/// Readers and dictionaries in memory, by name.
#[derive(Default)]
pub(crate) struct Loaded {
    readers: HashMap<String, Arc<Reader>>,
    saes: HashMap<String, Arc<Sae>>,
}

/// The reader of a database that has no dictionary.
const DEFAULT_READER: &str = "all-MiniLM-L6-v2";

impl Engine {
    /// Opens the database in folder `dir`; makes it if it does not exist (unless `options.read_only`).
    ///
    /// An older layout is migrated first. A catalog that was written by a newer saequel is refused.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if read-only and missing, [`crate::ErrorKind::Corrupt`] if the folder holds
    /// something else or is damaged, [`crate::ErrorKind::Io`].
    pub fn open(dir: impl AsRef<Path>, options: EngineOptions) -> BoxFuture<'static, Result<Self>> {
        Self::open_folder(dir.as_ref().to_owned(), options)
    }

    fn open_folder(dir: PathBuf, options: EngineOptions) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let store = Store::open(&dir, &options, || Ok(Sae::shipped()?)).await?;
            Ok(Self::over(store, options))
        })
    }

    /// An engine over a store that is open.
    pub(crate) fn over(store: Store, options: EngineOptions) -> Self {
        Self { inner: Arc::new(Inner { options, store, loaded: Mutex::default(), sql: SqlState::default() }) }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.inner.store.dir()
    }

    /// The options it was opened with.
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// The catalog as it was last seen; later changes make a new picture.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.inner.store.catalog()
    }

    /// Sees what other processes have changed in the catalog. Every statement begins with it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`], [`crate::ErrorKind::Io`].
    pub fn refresh(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.inner.store.refresh().await })
    }

    /// The reader with the named dictionaries; loads weights on first use. None named means those of the first reader
    /// (that of the first dictionary with weights): texts cannot be encoded with dictionaries whose features were
    /// computed elsewhere, and one pass reads with one reader.
    ///
    /// # Errors
    /// As [`Reader::load`]; [`crate::ErrorKind::NotFound`] for an unknown dictionary, with the nearest name.
    pub fn encoder(&self, dictionaries: &[String], progress: &dyn Progress) -> Result<Encoder> {
        let catalog = self.catalog();
        let known = catalog.features.dictionaries();
        let wanted: Vec<&Dictionary> = if dictionaries.is_empty() {
            let store = &self.inner.store;
            let with_weights: Vec<_> = known.iter().filter(|found| store.sae_sha256(&found.name).is_some()).collect();
            if let (Some(first), true) = (known.first(), with_weights.is_empty()) {
                return Err(no_weights(&first.name));
            }
            let reader = with_weights.first().map(|first| first.reader.as_str());
            with_weights.into_iter().filter(|other| Some(other.reader.as_str()) == reader).collect()
        } else {
            let find = |name: &String| {
                known.iter().find(|dictionary| dictionary.name == *name).ok_or_else(|| {
                    let hint = did_you_mean(name, known.iter().map(|dictionary| dictionary.name.as_str()));
                    Error::new(ErrorKind::NotFound, format!("dictionary '{name}' not found{hint}"))
                })
            };
            dictionaries.iter().map(find).collect::<Result<_>>()?
        };
        let reader = wanted.first().map_or(DEFAULT_READER, |dictionary| dictionary.reader.as_str());
        if let Some(other) = wanted.iter().find(|dictionary| dictionary.reader != reader) {
            let message = format!(
                "dictionary '{}' belongs to the reader '{}' and '{}' to '{reader}': one pass reads with one reader, name \
                 dictionaries of one of them (--sae)",
                other.name, other.reader, wanted[0].name
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        // Held while loading, so that two callers do not load the same weights twice.
        let mut loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // What is known to have no weights says so before a reader is loaded for nothing.
        if let Some(without) = wanted.iter().find(|found| self.inner.store.sae_sha256(&found.name).is_none()) {
            return Err(no_weights(&without.name));
        }
        let reader = self.reader_of(&mut loaded, reader, progress)?;
        let mut saes = Vec::with_capacity(wanted.len());
        for dictionary in wanted {
            saes.push(self.sae_of(&mut loaded, &dictionary.name)?);
        }
        drop(loaded);
        Ok(Encoder::new(reader, saes)?)
    }

    /// The reader that reads labels and questions: that of the first dictionary with weights, else the default one.
    ///
    /// # Errors
    /// As [`Reader::load`].
    pub fn first_reader(&self, progress: &dyn Progress) -> Result<Arc<Reader>> {
        let name = self.first_reader_name();
        let mut loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.reader_of(&mut loaded, &name, progress)
    }

    /// Of the named dictionaries, or of all with weights if none is named: those of the first one's reader, and the
    /// others.
    pub(crate) fn by_first_reader(&self, names: &[String]) -> (Vec<String>, Vec<String>) {
        let catalog = self.catalog();
        let known = catalog.features.dictionaries();
        let reader_of = |name: &String| known.iter().find(|found| found.name == *name).map(|found| &found.reader);
        let with_weights = |name: &String| self.inner.store.sae_sha256(name).is_some();
        let names: Vec<String> = match names {
            [] => known.iter().map(|found| found.name.clone()).filter(with_weights).collect(),
            _ => names.to_vec(),
        };
        let first = names.first().and_then(reader_of);
        names.iter().cloned().partition(|name| reader_of(name) == first)
    }

    /// Name of [`Self::first_reader`].
    pub(crate) fn first_reader_name(&self) -> String {
        let catalog = self.catalog();
        let mut known = catalog.features.dictionaries().iter();
        let first = known.find(|dictionary| self.inner.store.sae_sha256(&dictionary.name).is_some());
        first.map_or(DEFAULT_READER, |dictionary| dictionary.reader.as_str()).to_owned()
    }

    fn reader_of(&self, loaded: &mut Loaded, name: &str, progress: &dyn Progress) -> Result<Arc<Reader>> {
        if let Some(reader) = loaded.readers.get(name) {
            return Ok(reader.clone());
        }
        let made = Arc::new(Reader::load(name, &self.inner.options.reader(), progress)?);
        loaded.readers.insert(name.to_owned(), made.clone());
        Ok(made)
    }

    /// A dictionary's artifact; loaded on first use.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] with the nearest name, [`crate::ErrorKind::Query`] if it has no weights.
    pub fn sae(&self, name: &str) -> Result<Arc<Sae>> {
        let catalog = self.catalog();
        let known = catalog.features.dictionaries();
        if !known.iter().any(|dictionary| dictionary.name == name) {
            let hint = did_you_mean(name, known.iter().map(|dictionary| dictionary.name.as_str()));
            return Err(Error::new(ErrorKind::NotFound, format!("dictionary '{name}' not found{hint}")));
        }
        let mut loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.sae_of(&mut loaded, name)
    }

    /// Whether the database has this dictionary under its name; `false` also if none has the name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Exists`] if another one has it, with other weights or none.
    pub fn has_dictionary(&self, sae: &Sae) -> Result<bool> {
        let name = sae.name();
        if !self.catalog().features.dictionaries().iter().any(|dictionary| dictionary.name == name) {
            return Ok(false);
        }
        let has_weights = self.inner.store.sae_sha256(name).is_some();
        if has_weights && self.sae(name)?.is_same_as(sae) {
            return Ok(true);
        }
        let with = if has_weights { "with other weights" } else { "without weights" };
        Err(Error::new(ErrorKind::Exists, format!("dictionary '{name}' exists already, {with}")))
    }

    /// Lets go of a dictionary that was removed.
    pub(crate) fn forget_sae(&self, name: &str) {
        self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner).saes.remove(name);
    }

    fn sae_of(&self, loaded: &mut Loaded, name: &str) -> Result<Arc<Sae>> {
        if let Some(sae) = loaded.saes.get(name) {
            return Ok(sae.clone());
        }
        let made = Arc::new(self.load_sae(name)?);
        loaded.saes.insert(name.to_owned(), made.clone());
        Ok(made)
    }

    /// Loads the folder's copy of a dictionary and checks it against the catalog's checksum.
    fn load_sae(&self, dictionary: &str) -> Result<Sae> {
        let store = &self.inner.store;
        let folder = store.sae_dir(dictionary);
        let Some(expected) = store.sae_sha256(dictionary) else {
            return Err(no_weights(dictionary));
        };
        let found = folder_sha256(&folder)?;
        if found != expected {
            let message = format!(
                "the weights of dictionary '{dictionary}' in {} are damaged: their SHA-256 is {found}, expected \
                 {expected}; put the files of a backup there, or of another database with this dictionary",
                folder.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(Sae::load(&folder)?)
    }
}

/// The error for a text that would have to be encoded with features that were computed elsewhere.
fn no_weights(dictionary: &str) -> Error {
    let message = format!(
        "dictionary '{dictionary}' has no weights: its features were computed elsewhere, so no text can be encoded with it \
         here; import documents with their features (--features), or add its weights with `saequel sae import`"
    );
    Error::new(ErrorKind::Query, message)
}

/// Where documents come from.
#[derive(Debug, Clone)]
pub enum ImportSource {
    /// A file, or a folder of plain-text files.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

/// What happens to a document whose key is in the corpus already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Keep the stored one. Importing the same file again thus resumes.
    #[default]
    Skip,
    /// Replace the stored one.
    Update,
    /// Stop with an error before anything of the batch is written.
    Fail,
}

/// What happens to a row that cannot be read (broken line, wrong UTF-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadRow {
    /// Stop with an error that names file, line and reason; what was committed before stays.
    #[default]
    Fail,
    /// Leave it out, report it, go on.
    SetAside,
}

/// Features that were computed elsewhere, as columns of the documents that an import reads.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenFeatures {
    /// Column with the features of each document: a list of whole numbers, 0 to width - 1, in any order.
    pub ids: String,
    /// Column with their activations: a list of numbers beside them. `None`: only presence is known, and every one is 1.
    pub activations: Option<String>,
    /// Name of the dictionary that the features belong to; it is made if there is none. Default: the corpus's name.
    /// Corpora that share a dictionary share its ids, and can be compared.
    pub dictionary: Option<String>,
    /// Number of features of a new dictionary; default: one more than the largest that the source names.
    pub width: Option<u32>,
    /// Names of a new dictionary's features: JSON lines, CSV or TSV with `latent`, `label` and perhaps `description`.
    pub labels: Option<PathBuf>,
    /// What the features are activations of; default: documents.
    pub level: crate::sae::Level,
    /// What computed them, in the user's words; kept as provenance.
    pub tool: Option<String>,
    /// Features whose activation is not stronger than this (in absolute value) are not present; default 0.
    pub threshold: f32,
}

impl GivenFeatures {
    /// Features in the column `ids`, with every default.
    pub fn new(ids: impl Into<String>) -> Self {
        Self {
            ids: ids.into(),
            activations: None,
            dictionary: None,
            width: None,
            labels: None,
            level: crate::sae::Level::Document,
            tool: None,
            threshold: 0.0,
        }
    }

    /// Whether a column of the source is one of these.
    pub(crate) fn takes(&self, column: &str) -> bool {
        column == self.ids || self.activations.as_deref() == Some(column)
    }
}

/// A matrix of NumPy or SciPy (`.npz`, `.npy`) whose row i belongs to the i-th document of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenMatrix {
    /// One column a feature: `scipy.sparse.save_npz` of compressed sparse rows, or a dense array.
    Features(PathBuf),
    /// Each row is the embedding of a document, for the dense view and for dictionaries of level document.
    Embeddings(PathBuf),
}

/// An import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Where from.
    pub source: ImportSource,
    /// What messages call the source, where its path is nobody's business; default: the path.
    pub shown_as: Option<String>,
    /// `csv`, `tsv`, `json`, `jsonl`, `parquet`, `arrow`, `text`; default: by name and first bytes.
    pub format: Option<String>,
    /// Corpus to write to; made if it does not exist.
    pub corpus: String,
    /// Columns to read, in order; default for a new corpus: the only string column, or `text`.
    pub text_columns: Vec<String>,
    /// Columns of the conversation in which a new corpus's texts are read, with who says each: the text columns
    /// (default: the last of these) and what was said around them. Only the texts' own tokens count.
    pub chat: Option<ChatColumns>,
    /// Column that identifies a document; default for a new corpus: none (source, row number and content do).
    pub key: Option<String>,
    /// Dictionaries for a new corpus; default: those in the catalog of its first reader, see [`Engine::encoder`].
    pub dictionaries: Vec<String>,
    /// Features that were computed elsewhere. A new corpus with them is read by no reader, unless `dictionaries` are named.
    pub features: Option<GivenFeatures>,
    /// Column with an embedding of each document that was computed elsewhere: a list of numbers, all of one length. It is
    /// the dense view of a new corpus, and what `dictionaries`, all of level document, are encoded from.
    pub embedding: Option<String>,
    /// Features or embeddings in a file of their own, beside the source.
    pub matrix: Option<GivenMatrix>,
    /// Columns to rename, old and new name.
    pub rename: Vec<(String, String)>,
    /// See [`OnConflict`].
    pub on_conflict: OnConflict,
    /// See [`OnBadRow`].
    pub on_bad_row: OnBadRow,
    /// Documents in a commit; 0: chosen by size (default).
    pub batch_docs: usize,
    /// Stop after so many documents of the source.
    pub limit: Option<u64>,
}

impl ImportOptions {
    /// Import of `source` into `corpus` with every default.
    pub fn new(source: ImportSource, corpus: impl Into<String>) -> Self {
        Self {
            source,
            shown_as: None,
            format: None,
            corpus: corpus.into(),
            text_columns: Vec::new(),
            chat: None,
            key: None,
            dictionaries: Vec::new(),
            features: None,
            embedding: None,
            matrix: None,
            rename: Vec::new(),
            on_conflict: OnConflict::default(),
            on_bad_row: OnBadRow::default(),
            batch_docs: 0,
            limit: None,
        }
    }
}

impl ImportOptions {
    /// Whether a column of the source is not the user's to keep: features or an embedding.
    pub(crate) fn takes(&self, column: &str) -> bool {
        self.features.as_ref().is_some_and(|given| given.takes(column)) || self.embedding.as_deref() == Some(column)
    }

    /// Whether the texts of a new corpus go to no reader: what they mean was computed elsewhere.
    pub(crate) fn reads_nothing(&self) -> bool {
        self.embedding.is_some() || (self.features.is_some() && self.dictionaries.is_empty())
    }
}

/// What an import did.
#[derive(Debug, Clone, Default)]
pub struct ImportReport {
    /// Rows that the source gave.
    pub read: u64,
    /// Documents added.
    pub written: u64,
    /// Documents replaced.
    pub updated: u64,
    /// Documents that were there already.
    pub skipped: u64,
    /// Rows set aside.
    pub n_set_aside: u64,
    /// Their places and reasons (the first thousand).
    pub set_aside: Vec<String>,
    /// Documents that are stored without features because they could not be read; their `_error` says why.
    pub n_unread: u64,
    /// Tokens read.
    pub n_tokens: u64,
    /// Documents in the corpus afterwards.
    pub total: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}
