//! Keeps the word index of a corpus in step with its dataset.
//!
//! The dataset is committed first, then the index with the dataset's version as payload. If the process dies in between,
//! the next writer finds an index that covers an older version and adds what changed since. An index with another number
//! of documents than the corpus is mended by reading all of them.

use std::collections::HashSet;

use arrow::array::{AsArray, RecordBatch};
use datafusion::logical_expr::{col, lit};

use super::documents::texts;
use crate::error::Result;
use crate::schema;
use crate::store::{Snapshot, Store};
use crate::words::{Words, WordsWriter};

/// Lance's column of the version in which a row was last written.
const ROW_VERSION: &str = "_row_last_updated_at_version";

/// The word index of a corpus, open for writing.
pub(crate) struct WordsSync {
    writer: WordsWriter,
    text_columns: Vec<String>,
    /// Whether documents may be in the index already.
    filled: bool,
}

impl WordsSync {
    /// Opens the index of a corpus or makes it, and brings it up to `snapshot`, which must be the newest.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub(crate) async fn open(store: &Store, snapshot: &Snapshot) -> Result<Self> {
        let words = Words::open_or_create(&store.words_dir(&snapshot.info.name))?;
        let covered = words.covers()?;
        let count = snapshot.count().await?;
        let writer = words.writer()?;
        let filled = words.count()? > 0;
        let mut sync = Self { writer, text_columns: snapshot.info.text_columns.clone(), filled };
        if (covered == snapshot.version() && words.count()? == count) || (count == 0 && !filled) {
            return Ok(sync);
        }
        tracing::info!("words of '{}' cover version {covered} of {}", snapshot.info.name, snapshot.version());
        let mut columns = vec![schema::DOC_ID.to_owned()];
        columns.extend(sync.text_columns.iter().cloned());
        // An index that is as new as the corpus and still wrong was damaged, or the corpus came from a backup.
        let all = covered == 0 || covered >= snapshot.version();
        let since = if all { Vec::new() } else { vec![col(ROW_VERSION).gt(lit(covered))] };
        snapshot.read(&columns, &since, |batch| sync.put(&batch)).await?;
        sync.writer.commit(snapshot.version())?;
        if words.count()? != count {
            // Documents were deleted: those that the corpus does not have go.
            let mut stored = HashSet::new();
            snapshot
                .read(&columns[..1], &[], |batch| {
                    stored.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
                    Ok(())
                })
                .await?;
            for doc_id in words.doc_ids()? {
                if !stored.contains(&doc_id) {
                    sync.writer.delete(&doc_id);
                }
            }
            sync.writer.commit(snapshot.version())?;
        }
        if !all && words.count()? != count {
            // Documents are missing that the index said it covers.
            sync.filled = true;
            snapshot.read(&columns, &[], |batch| sync.put(&batch)).await?;
            sync.writer.commit(snapshot.version())?;
        }
        sync.filled = true;
        Ok(sync)
    }

    /// Adds documents (or replaces them) that `snapshot` is the first version to have.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the next writer then catches up.
    pub(crate) async fn add(&mut self, batches: &[RecordBatch], snapshot: &Snapshot) -> Result<()> {
        for batch in batches {
            self.put(batch)?;
        }
        self.filled = true;
        self.writer.commit(snapshot.version())
    }

    /// Deletes documents that `snapshot` is the first version not to have.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the next writer then catches up.
    pub(crate) fn delete(&mut self, doc_ids: &[String], snapshot: &Snapshot) -> Result<()> {
        for doc_id in doc_ids {
            self.writer.delete(doc_id);
        }
        self.writer.commit(snapshot.version())
    }

    /// Notes that `snapshot` has the same documents as the version before (after a compaction).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub(crate) fn same_documents(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.writer.commit(snapshot.version())
    }

    /// Waits until segments that are being merged are merged.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub(crate) fn finish(self) -> Result<()> {
        self.writer.finish()
    }

    fn put(&self, batch: &RecordBatch) -> Result<()> {
        let Some(ids) = batch.column_by_name(schema::DOC_ID).and_then(|column| column.as_string_opt::<i32>()) else {
            return Ok(());
        };
        for (doc_id, text) in ids.iter().zip(texts(batch, &self.text_columns)) {
            let doc_id = doc_id.unwrap_or_default();
            if self.filled {
                self.writer.delete(doc_id);
            }
            self.writer.add(doc_id, text.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }
}
