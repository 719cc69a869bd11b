//! From rows of a source to committed documents: read, encode, write, one bounded batch at a time.

use std::sync::Arc;

use crate::engine::{Engine, ImportOptions, ImportReport};
use crate::error::Result;
use crate::progress::Progress;

impl Engine {
    /// Imports documents; may be killed at any moment and called again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] naming file, line and column of what cannot be read. What was committed stays.
    pub async fn import(&self, options: ImportOptions, progress: Arc<dyn Progress>) -> Result<ImportReport> {
        let _ = (options, progress);
        todo!("owner of ingest")
    }

    /// Deletes the documents that satisfy a SQL condition; returns how many.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`], [`crate::ErrorKind::NotFound`].
    pub async fn delete(&self, corpus: &str, condition: &str) -> Result<u64> {
        let _ = (corpus, condition);
        todo!("owner of ingest")
    }

    /// Removes a corpus with its indexes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`].
    pub async fn drop_corpus(&self, corpus: &str) -> Result<()> {
        let _ = corpus;
        todo!("owner of ingest")
    }

    /// Joins small fragments, brings indexes up to date, removes versions older than `keep_versions_secs`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Io`].
    pub async fn compact(&self, corpus: &str, keep_versions_secs: u64) -> Result<String> {
        let _ = (corpus, keep_versions_secs);
        todo!("owner of ingest")
    }
}
