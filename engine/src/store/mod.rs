//! The one module that names Lance: the folder, the datasets, commits, versions and indexes.
//!
//! ```text
//! <database>/
//!   lock                      who writes (see `lock`)
//!   catalog/<table>.lance     small tables (see `state`)
//!   corpora/<name>.lance      one dataset a corpus (see `corpus`)
//!   words/<name>/             tantivy index of the words (see `crate::words`)
//!   saes/<name>/              artifact of a dictionary
//!   cache/, tmp/              what can be made again: postings of features (see `postings`), what queries spill
//! ```
//!
//! Any number of processes may read while one writes. Readers see whole commits: the catalog's through `meta`, a
//! corpus's through the version of its dataset.

mod backfill;
mod catalog;
mod column_cache;
mod corpus;
mod errors;
mod folder;
mod index;
mod lock;
mod postings;
mod scan;
mod snapshot;
mod state;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::session::Session;

pub(crate) use backfill::Gap;
pub(crate) use catalog::{NewDictionary, folder_sha256, hex};
pub(crate) use corpus::NewCorpus;
pub(crate) use errors::from_lance;
pub(crate) use lock::WriteGuard;
pub(crate) use snapshot::{AsOf, Snapshot};
pub(crate) use state::{CorpusRow, FeatureRow};

use crate::catalog::{Catalog, CorpusInfo};
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::options::EngineOptions;
use crate::sae::Sae;
use column_cache::ColumnCache;
use errors::lance_error;
use folder::Picture;
use lock::WriteLock;
use postings::PostingsCache;
use table::{TableDir, uri};

/// Budget of Lance's index cache, bytes.
const INDEX_CACHE_BYTES: usize = 256 << 20;
/// Budget of Lance's cache of manifests and file footers, bytes.
const METADATA_CACHE_BYTES: usize = 128 << 20;

/// Decoded columns may take so large a part of what queries may hold, beside it.
const COLUMN_CACHE_SHARE: usize = 4;

/// A database folder. Cheap to clone; clones share everything.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    read_only: bool,
    session: Arc<Session>,
    tables: TableDir,
    lock: WriteLock,
    picture: RwLock<Arc<Picture>>,
    /// Open datasets by corpus name, with the creation time that tells a corpus from an earlier one of its name.
    datasets: Mutex<HashMap<String, (i64, Dataset)>>,
    postings: PostingsCache,
    /// Columns that were decoded already.
    columns: Arc<ColumnCache>,
}

impl Store {
    /// Opens the folder, or makes it; `defaults` gives the dictionaries of a new database.
    ///
    /// # Errors
    /// See [`crate::Engine::open`].
    pub(crate) async fn open(
        dir: &Path,
        options: &EngineOptions,
        defaults: impl FnOnce() -> Result<Vec<Sae>>,
    ) -> Result<Self> {
        let dir = std::path::absolute(dir).map_err(|error| crate::error::io_error("opening", dir, error))?;
        let registry = Arc::new(lance::io::ObjectStoreRegistry::default());
        let session = Arc::new(Session::new(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES, registry));
        let tables = TableDir::new(dir.join("catalog"), session.clone());
        let lock = WriteLock::new(&dir);
        let picture = folder::open(&dir, options.read_only, &tables, &lock, defaults).await?;
        let inner = Inner {
            dir,
            read_only: options.read_only,
            session,
            tables,
            lock,
            picture: RwLock::new(Arc::new(picture)),
            datasets: Mutex::default(),
            postings: PostingsCache::default(),
            columns: Arc::new(ColumnCache::new(options.memory_limit_bytes / COLUMN_CACHE_SHARE)),
        };
        let store = Self { inner: Arc::new(inner) };
        store.publish(store.picture()).await;
        Ok(store)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    pub(crate) fn read_only(&self) -> bool {
        self.inner.read_only
    }

    /// Folder of a corpus's word index.
    pub(crate) fn words_dir(&self, corpus: &str) -> PathBuf {
        self.inner.dir.join("words").join(corpus)
    }

    /// Folder of a dictionary's artifact.
    pub(crate) fn sae_dir(&self, dictionary: &str) -> PathBuf {
        self.inner.dir.join("saes").join(dictionary)
    }

    /// Folder in which what a dictionary that comes later finds in a corpus waits until its fragment is committed.
    pub(crate) fn backfill_dir(&self, corpus: &str, created_micros: i64) -> PathBuf {
        self.inner.dir.join("cache").join("backfill").join(format!("{corpus}-{created_micros}"))
    }

    fn corpus_dir(&self, corpus: &str) -> PathBuf {
        self.inner.dir.join("corpora").join(format!("{corpus}.lance"))
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.picture().catalog.clone()
    }

    fn picture(&self) -> Arc<Picture> {
        self.inner.picture.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The right to write; `purpose` is what another process that wants it is told.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] if the database is open read-only, [`ErrorKind::Io`] if another process writes.
    pub(crate) async fn write(&self, purpose: &str) -> Result<WriteGuard> {
        self.deny_if_read_only(purpose)?;
        let guard = self.inner.lock.acquire(purpose).await?;
        self.refresh().await?;
        Ok(guard)
    }

    /// Which process writes now, if one does.
    pub(crate) fn writer(&self) -> Option<String> {
        self.inner.lock.holder()
    }

    fn deny_if_read_only(&self, purpose: &str) -> Result<()> {
        if self.inner.read_only {
            let message = format!("{purpose}: the database {} is open read-only", self.inner.dir.display());
            return Err(Error::new(ErrorKind::Denied, message));
        }
        Ok(())
    }

    /// Opens a version of a corpus. The newest one sees every commit made before the call, by this process or another.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with the nearest name, or with the versions there are.
    pub(crate) async fn snapshot(&self, corpus: &str, as_of: AsOf) -> Result<Snapshot> {
        self.refresh().await?;
        let row = self.corpus_row(corpus)?;
        let dataset = self.latest(&row).await?;
        let picture = self.picture();
        Snapshot::open(row, dataset, as_of, &picture.state.saes, &self.inner.columns).await
    }

    fn corpus_row(&self, corpus: &str) -> Result<CorpusRow> {
        let picture = self.picture();
        picture.state.corpora.iter().find(|row| row.name == corpus).cloned().ok_or_else(|| {
            let names = picture.state.corpora.iter().map(|row| row.name.as_str());
            let hint = did_you_mean(corpus, names);
            let hint = if hint.is_empty() { "; the database has none yet: import one first".to_owned() } else { hint };
            Error::new(ErrorKind::NotFound, format!("corpus '{corpus}' not found{hint}"))
        })
    }

    /// The dataset of a corpus at its newest version.
    async fn latest(&self, row: &CorpusRow) -> Result<Dataset> {
        let what = format!("opening corpus '{}'", row.name);
        let cached = {
            let datasets = self.inner.datasets.lock().unwrap_or_else(PoisonError::into_inner);
            datasets.get(&row.name).filter(|(created, _)| *created == row.created_micros).map(|(_, d)| d.clone())
        };
        let dataset = match cached {
            Some(mut dataset) => {
                dataset.checkout_latest().await.map_err(|error| lance_error(&what, &error))?;
                dataset
            }
            None => {
                let builder = DatasetBuilder::from_uri(uri(&self.corpus_dir(&row.name))?);
                let builder = builder.with_session(self.inner.session.clone());
                builder.load().await.map_err(|error| lance_error(&what, &error))?
            }
        };
        self.keep(row, &dataset);
        Ok(dataset)
    }

    /// Remembers an open dataset.
    fn keep(&self, row: &CorpusRow, dataset: &Dataset) {
        let mut datasets = self.inner.datasets.lock().unwrap_or_else(PoisonError::into_inner);
        datasets.insert(row.name.clone(), (row.created_micros, dataset.clone()));
    }

    fn forget(&self, corpus: &str) {
        self.inner.datasets.lock().unwrap_or_else(PoisonError::into_inner).remove(corpus);
    }

    /// Loads the catalog again if another process changed it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) async fn refresh(&self) -> Result<()> {
        let picture = self.picture();
        if !picture.is_stale().await? {
            return Ok(());
        }
        let newer = folder::load(&self.inner.dir, &self.inner.tables, Some(&picture)).await?;
        self.publish(Arc::new(newer)).await;
        Ok(())
    }

    /// Makes `picture` the one that everybody sees, with the columns of each corpus filled in.
    async fn publish(&self, picture: Arc<Picture>) {
        let mut corpora = Vec::with_capacity(picture.state.corpora.len());
        for row in &picture.state.corpora {
            let opened = self.latest(row).await;
            let intact = opened.is_ok();
            let columns = match opened {
                Ok(dataset) => snapshot::user_columns(&dataset),
                Err(error) => {
                    // The others stay usable; `doctor` and every use of this one say what is wrong.
                    tracing::warn!("corpus '{}' cannot be opened: {error}", row.name);
                    Arc::new(arrow::datatypes::Schema::empty())
                }
            };
            corpora.push(Arc::new(CorpusInfo {
                name: row.name.clone(),
                text_columns: row.text_columns.clone(),
                key: row.key.clone(),
                chat: row.chat.clone(),
                columns,
                intact,
                dictionaries: row.dictionaries.clone(),
                created_micros: row.created_micros,
            }));
        }
        corpora.sort_by(|a, b| a.name.cmp(&b.name));
        let catalog = Catalog { corpora, ..(*picture.catalog).clone() };
        let mut picture = (*picture).clone();
        picture.catalog = Arc::new(catalog);
        let mut current = self.inner.picture.write().unwrap_or_else(PoisonError::into_inner);
        // Two refreshes may end in either order: an older picture must not replace a newer one.
        if picture.generation() >= current.generation() {
            *current = Arc::new(picture);
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

/// Microseconds since 1970 UTC.
pub(crate) fn now_micros() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
