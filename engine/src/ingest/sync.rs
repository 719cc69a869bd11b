//! Keeps the word index of a corpus in step with its dataset.
//!
//! The dataset is committed first, then the index with the dataset's version as payload. If the process dies in between,
//! the next writer finds an index that covers an older version and adds what changed since. An index with another number
//! of documents than the corpus is mended by reading all of them.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use super::documents::texts;
use super::import::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::schema;
use crate::store::{Snapshot, Store};
use crate::words::{Words, WordsWriter};

/// Lance's column of the version in which a row was last written.
const ROW_VERSION: &str = "_row_last_updated_at_version";

/// What is done with the writer on a thread that may block.
type Work = Box<dyn FnOnce(&mut WordsWriter) -> Result<()> + Send>;

/// The word index of a corpus, open for writing.
pub(crate) struct WordsSync {
    /// Taken while a thread that may block works with it.
    writer: Option<WordsWriter>,
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
        if snapshot.info.text_columns.is_empty() {
            return Ok(Self { writer: None, text_columns: Vec::new(), filled: false });
        }
        let (dir, count, version) = (store.words_dir(&snapshot.info.name), snapshot.count().await?, snapshot.version());
        let (words, covered, found, writer) = blocking(move || {
            let words = Words::open_or_create(&dir)?;
            let (covered, found, writer) = (words.covers()?, words.count()?, words.writer()?);
            Ok((Arc::new(words), covered, found, writer))
        })
        .await?;
        let text_columns = snapshot.info.text_columns.clone();
        let mut sync = Self { writer: Some(writer), text_columns, filled: found > 0 };
        if (covered == version && found == count) || (count == 0 && found == 0) {
            return Ok(sync);
        }
        tracing::info!("words of '{}' cover version {covered} of {version}", snapshot.info.name);
        // An index that is as new as the corpus and still wrong was damaged, or the corpus came from a backup.
        let all = covered == 0 || covered >= version;
        let since = if all { Vec::new() } else { vec![col(ROW_VERSION).gt(lit(covered))] };
        sync.catch_up(snapshot, &since).await?;
        sync.filled = true;
        if words.count()? != count {
            // Documents were deleted: those that the corpus does not have go.
            let mut stored = HashSet::new();
            snapshot
                .read(&[schema::DOC_ID.to_owned()], &[], |batch| {
                    stored.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
                    Ok(())
                })
                .await?;
            let words = words.clone();
            let delete = move |writer: &mut WordsWriter| {
                words.doc_ids()?.iter().filter(|id| !stored.contains(*id)).for_each(|id| writer.delete(id));
                writer.commit(version)
            };
            sync.work(Box::new(delete)).await?;
        }
        if !all && words.count()? != count {
            // Documents are missing that the index said it covers.
            sync.catch_up(snapshot, &[]).await?;
        }
        Ok(sync)
    }

    /// Adds documents (or replaces them) that `snapshot` is the first version to have.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the next writer then catches up.
    pub(crate) async fn add(&mut self, batches: Vec<RecordBatch>, snapshot: &Snapshot) -> Result<()> {
        let (put, version) = (self.put(batches), snapshot.version());
        self.filled = true;
        self.work(Box::new(move |writer| put(writer).and_then(|()| writer.commit(version)))).await
    }

    /// Deletes documents that `snapshot` is the first version not to have.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the next writer then catches up.
    pub(crate) async fn delete(&mut self, doc_ids: Vec<String>, snapshot: &Snapshot) -> Result<()> {
        let version = snapshot.version();
        let delete = move |writer: &mut WordsWriter| {
            doc_ids.iter().for_each(|id| writer.delete(id));
            writer.commit(version)
        };
        self.work(Box::new(delete)).await
    }

    /// Notes that `snapshot` has the same documents as the version before (after a compaction).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub(crate) async fn same_documents(&mut self, snapshot: &Snapshot) -> Result<()> {
        let version = snapshot.version();
        self.work(Box::new(move |writer| writer.commit(version))).await
    }

    /// Waits until segments that are being merged are merged.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub(crate) async fn finish(self) -> Result<()> {
        match self.writer {
            Some(writer) => blocking(move || writer.finish()).await,
            None => Ok(()),
        }
    }

    /// Adds (or replaces) the documents of `snapshot` that satisfy `filters`.
    async fn catch_up(&mut self, snapshot: &Snapshot, filters: &[Expr]) -> Result<()> {
        let mut columns = vec![schema::DOC_ID.to_owned()];
        columns.extend(self.text_columns.iter().cloned());
        let plan = snapshot.scan(&columns, filters, None).await?;
        let mut batches = execute_stream(plan, Arc::new(TaskContext::default()))?;
        while let Some(batch) = batches.try_next().await? {
            let put = self.put(vec![batch]);
            self.work(put).await?;
        }
        self.same_documents(snapshot).await
    }

    /// The work of adding (or replacing) documents.
    fn put(&self, batches: Vec<RecordBatch>) -> Work {
        let (text_columns, filled) = (self.text_columns.clone(), self.filled);
        Box::new(move |writer| {
            for batch in &batches {
                let ids = batch.column_by_name(schema::DOC_ID).and_then(|column| column.as_string_opt::<i32>());
                let Some(ids) = ids else { continue };
                for (doc_id, text) in ids.iter().zip(texts(batch, &text_columns)) {
                    let doc_id = doc_id.unwrap_or_default();
                    if filled {
                        writer.delete(doc_id);
                    }
                    writer.add(doc_id, text.as_deref().unwrap_or_default())?;
                }
            }
            Ok(())
        })
    }

    /// Works with the writer off the async threads: adding waits for the indexing thread, a commit for the disk.
    async fn work(&mut self, work: Work) -> Result<()> {
        if self.text_columns.is_empty() {
            return Ok(()); // A corpus without texts has no words.
        }
        let lost = || Error::new(ErrorKind::Internal, "the word index was given up when a thread of it ended");
        let mut writer = self.writer.take().ok_or_else(lost)?;
        let (writer, result) = blocking(move || {
            let result = work(&mut writer);
            Ok((writer, result))
        })
        .await?;
        self.writer = Some(writer);
        result
    }
}
