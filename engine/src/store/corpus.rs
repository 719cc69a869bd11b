//! Corpora on disk: making, appending, replacing, deleting, dropping, compacting. Each is one commit.

use std::fs;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchIterator};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::logical_expr::Expr;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::transaction::Operation;
use lance::dataset::{
    CommitBuilder, DeleteBuilder, InsertBuilder, MergeInsertBuilder, NewColumnTransform, WhenMatched, WhenNotMatched,
    WriteMode, WriteParams,
};
use lance::datatypes::Field as LanceField;
use lance::table::format::{DataFile, Fragment};
use lance_file::version::LanceFileVersion;

#[cfg(test)]
use super::AsOf;
use super::errors::lance_error;
use super::state::CorpusRow;
use super::table::uri;
use super::{Snapshot, Store, WriteGuard, now_micros};
use crate::error::{Error, ErrorKind, Result, did_you_mean, io_error};
use crate::namespace::ACTIVATIONS_SUFFIX;
use crate::reader::ChatColumns;
use crate::sae::check_name;
use crate::schema;

/// Rows of a fragment after compaction: large enough for fast scans, small enough for encoding again by fragment.
const ROWS_PER_FRAGMENT: usize = 128 * 1024;

/// What a scan holds of a corpus at a time, about; bytes.
pub(super) const BATCH_BYTES: u64 = 16 << 20;
/// Rows of a batch, if they are small.
pub(super) const BATCH_ROWS: u64 = 8192;
/// What a scan has read and not decoded yet, at most; bytes.
pub(super) const IO_BUFFER_BYTES: u64 = 64 << 20;

/// Whole rows that make a batch of [`BATCH_BYTES`], by what is stored in the fragment whose rows are largest. Lance only
/// learns their size from the batches that it has decoded, the first of which may be too large.
pub(super) fn batch_rows(dataset: &Dataset) -> usize {
    let row = dataset.iter_fragments().map(|fragment| {
        let sizes = fragment.files.iter().filter_map(|file| file.file_size_bytes.get());
        let bytes = sizes.map(std::num::NonZero::get).sum::<u64>();
        bytes.div_ceil(fragment.physical_rows.unwrap_or_default().max(1) as u64)
    });
    (BATCH_BYTES / row.max().unwrap_or(1).max(1)).clamp(1, BATCH_ROWS) as usize
}

/// The data files of a fragment that hold a column; of a list only its items are named there.
pub(super) fn files_of<'a>(field: &LanceField, fragment: &'a Fragment) -> Vec<&'a DataFile> {
    fn holds(field: &LanceField, file: &DataFile) -> bool {
        file.fields.contains(&field.id) || field.children.iter().any(|child| holds(child, file))
    }
    fragment.files.iter().filter(|file| holds(field, file)).collect()
}

/// A corpus that is to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewCorpus {
    pub(crate) name: String,
    pub(crate) text_columns: Vec<String>,
    pub(crate) key: Option<String>,
    pub(crate) chat: Option<ChatColumns>,
    /// The user's columns.
    pub(crate) columns: Vec<Field>,
    pub(crate) dictionaries: Vec<String>,
    /// What saequel adds, see [`crate::schema`].
    pub(crate) added: Vec<Field>,
}

/// A commit of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VersionInfo {
    pub(crate) version: u64,
    /// When, microseconds since 1970 UTC.
    pub(crate) micros: i64,
}

pub(super) async fn version_infos(dataset: &Dataset, corpus: &str) -> Result<Vec<VersionInfo>> {
    let versions = dataset.versions().await;
    let versions = versions.map_err(|error| lance_error(&format!("listing versions of corpus '{corpus}'"), &error))?;
    let mut infos: Vec<VersionInfo> = versions
        .into_iter()
        .map(|version| VersionInfo { version: version.version, micros: version.timestamp.timestamp_micros() })
        .collect();
    infos.sort_by_key(|info| info.version);
    Ok(infos)
}

impl Store {
    /// Makes an empty corpus and notes it in the catalog.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`], [`ErrorKind::Query`] for a name that cannot be, [`ErrorKind::NotFound`] for an unknown
    /// dictionary.
    pub(crate) async fn create_corpus(&self, guard: &WriteGuard, new: NewCorpus) -> Result<()> {
        check_name("corpus", &new.name, 63, None)?;
        if let Some(short) = new.name.strip_suffix(ACTIVATIONS_SUFFIX) {
            let message = format!(
                "'{}' cannot be the name of a corpus: it is the view of the features of a corpus '{short}'; choose a name \
                 that does not end in {ACTIVATIONS_SUFFIX}",
                new.name
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        if !crate::statements::set::is_set_name(&new.name) {
            let message = format!(
                "'{0}' cannot be the name of a corpus: SQL has a meaning of its own for that word; choose another, for \
                 example 'my_{0}'",
                new.name
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        if self.catalog().corpus(&new.name).is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("corpus '{}' exists already", new.name)));
        }
        let catalog = self.catalog();
        let known: Vec<&str> = catalog.features.dictionaries().iter().map(|d| d.name.as_str()).collect();
        for dictionary in &new.dictionaries {
            if !known.contains(&dictionary.as_str()) {
                let hint = did_you_mean(dictionary, known.iter().copied());
                return Err(Error::new(ErrorKind::NotFound, format!("dictionary '{dictionary}' not found{hint}")));
            }
        }
        let what = format!("making corpus '{}'", new.name);
        let path = self.corpus_dir(&new.name);
        // A folder that the catalog does not know is what an interrupted creation or removal left.
        for left in [&path, &self.words_dir(&new.name)] {
            if left.exists() {
                fs::remove_dir_all(left).map_err(|error| io_error("cannot replace", left, error))?;
            }
        }
        let mut fields = vec![Field::new(schema::DOC_ID, DataType::Utf8, false)];
        fields.extend(new.columns.iter().cloned());
        fields.extend(new.added);
        let arrow = Arc::new(Schema::new(fields));
        let empty = RecordBatchIterator::new([Ok(RecordBatch::new_empty(arrow.clone()))], arrow);
        let params = WriteParams { mode: WriteMode::Create, ..self.write_params() };
        let dataset = Dataset::write(empty, &uri(&path)?, Some(params)).await;
        let dataset = dataset.map_err(|error| lance_error(&what, &error))?;
        let row = CorpusRow {
            name: new.name,
            text_columns: new.text_columns,
            key: new.key,
            chat: new.chat,
            dictionaries: new.dictionaries,
            created_micros: now_micros(),
        };
        self.keep(&row, &dataset);
        self.change(guard, &["corpora"], |state| {
            state.corpora.push(row);
            Ok(())
        })
        .await
    }

    /// Whether a corpus is there that never had a document: its first import failed, or stored none. One whose documents
    /// were deleted is not meant, since its earlier versions have them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) async fn is_unfilled(&self, corpus: &str) -> Result<bool> {
        self.refresh().await?;
        if self.catalog().corpus(corpus).is_none() {
            return Ok(false);
        }
        let dataset = self.latest(&self.corpus_row(corpus)?).await?;
        Ok(dataset.manifest().max_fragment_id.is_none())
    }

    fn write_params(&self) -> WriteParams {
        WriteParams {
            data_storage_version: Some(LanceFileVersion::V2_2),
            enable_stable_row_ids: true,
            session: Some(self.inner.session.clone()),
            // A commit is small, and its rows stay in one file.
            max_rows_per_file: ROWS_PER_FRAGMENT,
            ..WriteParams::default()
        }
    }

    /// Removes a corpus with its word index and what waits for it in the cache. Snapshots that are still open fail
    /// from now on.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub(crate) async fn drop_corpus(&self, guard: &WriteGuard, corpus: &str) -> Result<()> {
        let row = self.corpus_row(corpus)?;
        self.change(guard, &["corpora"], |state| {
            state.corpora.retain(|other| other.name != row.name);
            Ok(())
        })
        .await?;
        self.forget(corpus);
        self.forget_postings(corpus);
        let waiting = self.backfill_dir(corpus, row.created_micros);
        for folder in [self.corpus_dir(corpus), self.words_dir(corpus), waiting] {
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(|error| io_error("cannot remove", &folder, error))?;
            }
        }
        Ok(())
    }

    /// Adds columns of nulls; only the manifest changes.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] if a column exists.
    pub(crate) async fn add_columns(&self, _guard: &WriteGuard, corpus: &str, fields: Vec<Field>) -> Result<()> {
        let row = self.corpus_row(corpus)?;
        let mut dataset = self.latest(&row).await?;
        let fields: Vec<Field> = fields.into_iter().map(|field| field.with_nullable(true)).collect();
        let transform = NewColumnTransform::AllNulls(Arc::new(Schema::new(fields)));
        let added = dataset.add_columns(transform, None, None).await;
        added.map_err(|error| lance_error(&format!("adding columns to corpus '{corpus}'"), &error))?;
        self.keep(&row, &dataset);
        self.publish(self.picture()).await;
        Ok(())
    }

    /// Appends documents in one commit; returns the snapshot with them. Columns that `batches` lack become null.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; then nothing is changed.
    pub(crate) async fn append(
        &self,
        _guard: &WriteGuard,
        corpus: &str,
        batches: Vec<RecordBatch>,
    ) -> Result<Snapshot> {
        let row = self.corpus_row(corpus)?;
        let dataset = self.latest(&row).await?;
        let params = WriteParams { mode: WriteMode::Append, ..self.write_params() };
        let dataset = InsertBuilder::new(Arc::new(dataset)).with_params(&params).execute(batches).await;
        let dataset = dataset.map_err(|error| lance_error(&format!("writing corpus '{corpus}'"), &error))?;
        self.keep(&row, &dataset);
        Ok(Snapshot::new(row, dataset, &self.inner.columns))
    }

    /// Appends documents and replaces those whose `doc_id` is there already, in one commit; no `doc_id` may be twice in
    /// `batches`, which must have every stored column. Returns the snapshot, documents added and documents replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; then nothing is changed.
    pub(crate) async fn upsert(
        &self,
        _guard: &WriteGuard,
        corpus: &str,
        batches: Vec<RecordBatch>,
    ) -> Result<(Snapshot, u64, u64)> {
        let row = self.corpus_row(corpus)?;
        let dataset = Arc::new(self.latest(&row).await?);
        let failed = |error| lance_error(&format!("writing corpus '{corpus}'"), &error);
        let mut builder =
            MergeInsertBuilder::try_new(dataset.clone(), vec![schema::DOC_ID.to_owned()]).map_err(failed)?;
        builder.when_matched(WhenMatched::UpdateAll).when_not_matched(WhenNotMatched::InsertAll);
        let job = builder.try_build().map_err(failed)?;
        let merged = Box::pin(job.execute_uncommitted_batches(batches)).await.map_err(failed)?;
        let (mut transaction, stats) = (merged.transaction, merged.stats);
        // A replaced document would keep its row id, under which indexes still have its former values. The commit gives
        // ids to rows that have none, and what indexes say of the former ids is of deleted rows.
        let Operation::Update { new_fragments, .. } = &mut transaction.operation else {
            let message = format!("writing corpus '{corpus}': Lance made no update of it");
            return Err(Error::new(ErrorKind::Internal, message));
        };
        if new_fragments.iter().any(Fragment::has_spilled_row_lineage) {
            let message = format!("writing corpus '{corpus}': Lance wrote row ids into a file");
            return Err(Error::new(ErrorKind::Internal, message));
        }
        new_fragments.iter_mut().for_each(|fragment| fragment.row_id_meta = None);
        let mut commit = CommitBuilder::new(dataset);
        if let Some(affected) = merged.affected_rows {
            commit = commit.with_affected_rows(affected);
        }
        let dataset = commit.execute(transaction).await.map_err(failed)?;
        self.keep(&row, &dataset);
        Ok((Snapshot::new(row, dataset, &self.inner.columns), stats.num_inserted_rows, stats.num_updated_rows))
    }

    /// Deletes the documents that satisfy `condition` in one commit; returns the snapshot and how many.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] for a condition that cannot be evaluated.
    pub(crate) async fn delete(&self, _guard: &WriteGuard, corpus: &str, condition: Expr) -> Result<(Snapshot, u64)> {
        let row = self.corpus_row(corpus)?;
        let dataset = self.latest(&row).await?;
        let result = DeleteBuilder::from_expr(Arc::new(dataset), condition).execute().await;
        let result = result.map_err(|error| lance_error(&format!("deleting from corpus '{corpus}'"), &error))?;
        self.keep(&row, &result.new_dataset);
        Ok((Snapshot::new(row, (*result.new_dataset).clone(), &self.inner.columns), result.num_deleted_rows))
    }

    /// Versions of a corpus, ascending.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    #[cfg(test)]
    pub(crate) async fn versions(&self, corpus: &str) -> Result<Vec<VersionInfo>> {
        let snapshot = self.snapshot(corpus, AsOf::Latest).await?;
        version_infos(&snapshot.dataset, corpus).await
    }

    /// Joins small fragments and drops deleted rows; returns a summary.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; then nothing is changed.
    pub(crate) async fn join_fragments(&self, _guard: &WriteGuard, corpus: &str) -> Result<String> {
        let row = self.corpus_row(corpus)?;
        let mut dataset = self.latest(&row).await?;
        let options = CompactionOptions {
            target_rows_per_fragment: ROWS_PER_FRAGMENT,
            materialize_deletions_threshold: 0.0,
            batch_size: Some(batch_rows(&dataset)),
            io_buffer_size: Some(IO_BUFFER_BYTES),
            ..CompactionOptions::default()
        };
        let metrics = compact_files(&mut dataset, options, None).await;
        let metrics = metrics.map_err(|error| lance_error(&format!("compacting corpus '{corpus}'"), &error))?;
        self.keep(&row, &dataset);
        Ok(format!("{} fragments joined to {}", metrics.fragments_removed, metrics.fragments_added))
    }

    /// Removes versions older than `keep_secs` seconds with what only they need; returns a summary.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) async fn forget_versions(&self, _guard: &WriteGuard, corpus: &str, keep_secs: u64) -> Result<String> {
        let row = self.corpus_row(corpus)?;
        let dataset = self.latest(&row).await?;
        let seconds = i64::try_from(keep_secs).unwrap_or(i64::MAX / 1000);
        let keep = chrono::TimeDelta::try_seconds(seconds).unwrap_or(chrono::TimeDelta::MAX);
        // Nobody else writes while we hold the lock, so a file that no version names is a dead writer's and may go.
        let removed = dataset.cleanup_old_versions(keep, Some(true), None).await;
        let removed = removed.map_err(|error| lance_error(&format!("removing old versions of '{corpus}'"), &error))?;
        Ok(format!("{} old versions removed, {} bytes freed", removed.old_versions, removed.bytes_removed))
    }
}
