//! Columns that are filled, or dropped, after documents were written.
//!
//! A column is added empty (only the manifest changes) and then filled fragment by fragment: a data file of just these
//! columns is written beside the others and takes effect in one commit (`DataReplacement`). Text and metadata are not
//! written again, rows keep their ids, and readers of older versions see what they saw.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use datafusion::logical_expr::{Expr, col};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{Operation, Transaction};

use super::corpus::{batch_rows, files_of};
use super::errors::lance_error;
use super::{Snapshot, Store, WriteGuard};
use crate::error::{Error, ErrorKind, Result};
use crate::schema;

/// Lance's column of row ids; null in a deleted row.
const ROW_ID: &str = "_rowid";

/// A fragment with documents that lack features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) fragment: u64,
    /// Rows as they lie in its files, deleted ones included.
    pub(crate) rows: usize,
    /// Rows that are documents.
    pub(crate) documents: usize,
    /// Columns of what a reader finds beside features (embedding, numbers of tokens and sentences) that it lacks.
    pub(crate) lacks: Vec<String>,
}

impl Store {
    /// The fragments in which a document lacks the features of one of `dictionaries`, whose columns exist; if their
    /// texts are `read`, also those in which a document lacks all else that a reader finds.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) async fn gaps(&self, corpus: &str, dictionaries: &[String], read: bool) -> Result<Vec<Gap>> {
        let row = self.corpus_row(corpus)?;
        let dataset = self.latest(&row).await?;
        let failed = |error| lance_error(&format!("looking for gaps in corpus '{corpus}'"), &error);
        let mut gaps = Vec::new();
        let has_field = |column: &str| dataset.schema().field(column).is_some();
        for fragment in dataset.get_fragments() {
            let has = |column: &str| {
                let field = dataset.schema().field(column);
                field.is_none_or(|field| !files_of(field, fragment.metadata()).is_empty())
            };
            let mut lacks = dictionaries.iter().any(|name| !has(&schema::ids_column(name)));
            if !lacks {
                let empty = dictionaries.iter().map(|name| col(schema::ids_column(name)).is_null()).reduce(Expr::or);
                if let Some(empty) = empty {
                    let unread = match dataset.schema().field(schema::ERROR) {
                        Some(_) => empty.and(col(schema::ERROR).is_null()),
                        None => empty,
                    };
                    let mut scanner = fragment.scan();
                    scanner.filter_expr(unread);
                    lacks = scanner.count_rows().await.map_err(failed)? > 0;
                }
            }
            if lacks || (read && has_unread(&fragment).await.map_err(failed)?) {
                let mut missing = Vec::new();
                for column in [schema::EMBEDDING, schema::N_TOKENS, schema::N_SPANS] {
                    if !has(column) || (has_field(column) && has_empty(&fragment, column).await.map_err(failed)?) {
                        missing.push(column.to_owned());
                    }
                }
                gaps.push(Gap {
                    fragment: fragment.id() as u64,
                    rows: fragment.physical_rows().await.map_err(failed)?,
                    documents: fragment.count_rows(None).await.map_err(failed)?,
                    lacks: missing,
                });
            }
        }
        Ok(gaps)
    }

    /// Streams `columns` of a fragment from row `from` on, rows as they lie in its files; beside each batch which of its
    /// rows are documents and not deleted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the fragment is gone.
    pub(crate) async fn read_fragment(
        &self,
        corpus: &str,
        fragment: u64,
        columns: &[String],
        from: usize,
    ) -> Result<BoxStream<'static, Result<(RecordBatch, Vec<bool>)>>> {
        let row = self.corpus_row(corpus)?;
        let dataset = self.latest(&row).await?;
        let what = format!("reading corpus '{corpus}'");
        let failed = |error| lance_error(&what, &error);
        let found = fragment_of(&dataset, corpus, fragment)?;
        let mut scanner = found.scan();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        scanner.project(&columns).map_err(failed)?;
        scanner.with_row_id().include_deleted_rows().scan_in_order(true).batch_size(batch_rows(&dataset));
        let stream = scanner.try_into_stream().await.map_err(failed)?;
        let mut skip = from;
        let split = move |batch: RecordBatch| {
            let skipped = skip.min(batch.num_rows());
            skip -= skipped;
            let batch = batch.slice(skipped, batch.num_rows() - skipped);
            let alive = match batch.column_by_name(ROW_ID) {
                Some(ids) => (0..batch.num_rows()).map(|row| ids.is_valid(row)).collect(),
                None => vec![true; batch.num_rows()],
            };
            (batch, alive)
        };
        let what = what.clone();
        Ok(stream.map_err(move |error| lance_error(&what, &error)).map_ok(split).boxed())
    }

    /// Replaces `columns` of a fragment by what `batches` gives, which must be as many rows as lie in its files; returns the
    /// snapshot with them. Columns that the fragment has files of already come in a commit of their own, before those that it
    /// lacks, because Lance replaces either the one or the other.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if the rows are others; then nothing is changed.
    pub(crate) fn replace_columns<'a>(
        &'a self,
        _guard: &'a WriteGuard,
        corpus: &'a str,
        fragment: u64,
        columns: &'a [String],
        batches: impl Fn() -> BoxStream<'static, Result<RecordBatch>> + Send + 'a,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        Box::pin(async move {
            let row = self.corpus_row(corpus)?;
            let mut dataset = self.latest(&row).await?;
            let what = format!("writing columns of corpus '{corpus}'");
            let failed = |error| lance_error(&what, &error);
            let before = fragment_of(&dataset, corpus, fragment)?;
            let is_stored = |column: &&String| {
                let field = dataset.schema().field(column);
                field.is_some_and(|field| !files_of(field, before.metadata()).is_empty())
            };
            let (stored, lacking): (Vec<&String>, Vec<&String>) = columns.iter().partition(is_stored);
            for names in [stored, lacking].into_iter().filter(|names| !names.is_empty()) {
                let found = fragment_of(&dataset, corpus, fragment)?;
                let schema = dataset.schema().project(&names).map_err(failed)?;
                let places: Vec<usize> =
                    names.iter().filter_map(|name| columns.iter().position(|c| c == *name)).collect();
                let batches = batches().map(move |batch| {
                    let batch = batch.map_err(|error| lance::Error::io(error.to_string()))?;
                    batch.project(&places).map_err(|error| lance::Error::io(error.to_string()))
                });
                let replacement = found.write_columns(batches, &schema).await.map_err(failed)?;
                let operation = Operation::DataReplacement { replacements: vec![replacement] };
                let transaction = Transaction::new(dataset.version_id(), operation, None);
                dataset = CommitBuilder::new(Arc::new(dataset)).execute(transaction).await.map_err(failed)?;
            }
            self.keep(&row, &dataset);
            Ok(Snapshot::new(row, dataset, &self.inner.columns))
        })
    }

    /// Drops those of `columns` that exist; only the manifest changes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) async fn drop_columns(&self, _guard: &WriteGuard, corpus: &str, columns: &[String]) -> Result<()> {
        let row = self.corpus_row(corpus)?;
        let mut dataset = self.latest(&row).await?;
        let there: Vec<&str> =
            columns.iter().map(String::as_str).filter(|name| dataset.schema().field(name).is_some()).collect();
        if there.is_empty() {
            return Ok(());
        }
        let dropped = dataset.drop_columns(&there).await;
        dropped.map_err(|error| lance_error(&format!("dropping columns of corpus '{corpus}'"), &error))?;
        self.keep(&row, &dataset);
        self.publish(self.picture()).await;
        Ok(())
    }
}

/// Whether a document that could be read has nothing in a column that its reader fills. An import after a backfill that
/// was stopped stores such nulls, so that the fragment has a file of the column.
async fn has_empty(fragment: &FileFragment, column: &str) -> lance::Result<bool> {
    let fields = fragment.schema();
    let mut empty = col(column).is_null();
    if fields.field(schema::ERROR).is_some() {
        empty = empty.and(col(schema::ERROR).is_null());
    }
    // An embedding without a number of tokens was given: it is not to be written over for the sake of others.
    if column == schema::EMBEDDING && fields.field(schema::N_TOKENS).is_some() {
        let given = col(schema::EMBEDDING).is_not_null().and(col(schema::N_TOKENS).is_null());
        if count(fragment, given).await? > 0 {
            return Ok(false);
        }
    }
    Ok(count(fragment, empty).await? > 0)
}

/// Whether a document has neither embedding nor number of tokens, and nothing says why: earlier programs left documents
/// so that were imported between two runs of a backfill.
async fn has_unread(fragment: &FileFragment) -> lance::Result<bool> {
    let fields = fragment.schema();
    if [schema::EMBEDDING, schema::N_TOKENS].iter().any(|column| fields.field(column).is_none()) {
        return Ok(false);
    }
    let mut unread = col(schema::EMBEDDING).is_null().and(col(schema::N_TOKENS).is_null());
    if fields.field(schema::ERROR).is_some() {
        unread = unread.and(col(schema::ERROR).is_null());
    }
    Ok(count(fragment, unread).await? > 0)
}

async fn count(fragment: &FileFragment, filter: Expr) -> lance::Result<u64> {
    let mut scanner = fragment.scan();
    scanner.filter_expr(filter);
    scanner.count_rows().await
}

fn fragment_of(dataset: &Dataset, corpus: &str, fragment: u64) -> Result<FileFragment> {
    dataset.get_fragment(fragment as usize).ok_or_else(|| {
        let message = format!("corpus '{corpus}' has no fragment {fragment} any more; run the same command again");
        Error::new(ErrorKind::NotFound, message)
    })
}
