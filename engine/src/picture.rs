//! What one statement sees: one picture of the catalog and one version of each corpus, however often they are asked for.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::caller::Caller;
use crate::catalog::{Catalog, CorpusInfo};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{AsOf, Snapshot};

/// Shared by the tables and functions of a statement, and by the queries that its functions run.
pub(crate) struct Picture {
    pub(crate) engine: Engine,
    /// What exists for the caller.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) caller: Arc<Caller>,
    snapshots: Mutex<Vec<(String, AsOf, Snapshot)>>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Picture").finish_non_exhaustive()
    }
}

impl Picture {
    /// The catalog as it is now, as far as it exists for the caller.
    pub(crate) fn take(engine: &Engine, caller: &Arc<Caller>) -> Arc<Self> {
        let mut catalog = engine.catalog();
        if caller.readable.is_some() {
            let seen = Arc::make_mut(&mut catalog);
            seen.corpora.retain(|corpus| caller.reads(&corpus.name));
            seen.jobs.retain(|job| caller.reads(&job.subject));
        }
        Arc::new(Self { engine: engine.clone(), catalog, caller: Arc::clone(caller), snapshots: Mutex::default() })
    }

    /// The corpus of this name, if there is one.
    pub(crate) fn corpus(&self, name: &str) -> Option<&Arc<CorpusInfo>> {
        self.catalog.corpora.iter().find(|corpus| corpus.name == name)
    }

    /// Names of all corpora.
    pub(crate) fn corpora(&self) -> impl Iterator<Item = &str> {
        self.catalog.corpora.iter().map(|corpus| corpus.name.as_str())
    }

    /// A version of a corpus: the same one for the whole statement.
    ///
    /// # Errors
    /// As [`crate::store::Store::snapshot`].
    pub(crate) async fn snapshot(&self, corpus: &str, as_of: AsOf) -> Result<Snapshot> {
        let mut snapshots = self.snapshots.lock().await;
        if let Some((_, _, found)) = snapshots.iter().find(|(name, version, _)| name == corpus && *version == as_of) {
            return Ok(found.clone());
        }
        let snapshot = match self.engine.inner.store.snapshot(corpus, as_of).await {
            Ok(snapshot) => snapshot,
            // It was dropped meanwhile. The store's message names others, of which this caller may not know.
            Err(_) if self.caller.readable.is_some() && self.engine.catalog().corpus(corpus).is_none() => {
                return Err(Error::new(ErrorKind::NotFound, format!("corpus '{corpus}' not found")));
            }
            Err(error) => return Err(error),
        };
        snapshots.push((corpus.to_owned(), as_of, snapshot.clone()));
        Ok(snapshot)
    }
}
