//! Small catalog tables as Lance datasets that are written as a whole, and typed access to their columns.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchIterator, StringArray};
use arrow::datatypes::ArrowPrimitiveType;
use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::{WriteMode, WriteParams};
use lance::session::Session;
use lance_file::version::LanceFileVersion;

use super::errors::lance_error;
use crate::error::{Error, ErrorKind, Result};

/// The folder `catalog/` with its tables.
#[derive(Clone)]
pub(super) struct TableDir {
    dir: PathBuf,
    session: Arc<Session>,
}

impl TableDir {
    pub(super) fn new(dir: PathBuf, session: Arc<Session>) -> Self {
        Self { dir, session }
    }

    pub(super) fn path(&self, table: &str) -> PathBuf {
        self.dir.join(format!("{table}.lance"))
    }

    /// Opens a table, at a version or at its newest; `None` if it does not exist.
    pub(super) async fn open(&self, table: &str, version: Option<u64>) -> Result<Option<Dataset>> {
        let path = self.path(table);
        if !has_version(&path) {
            return Ok(None);
        }
        let mut builder = DatasetBuilder::from_uri(uri(&path)?).with_session(self.session.clone());
        if let Some(version) = version {
            builder = builder.with_version(version);
        }
        let dataset =
            builder.load().await.map_err(|error| lance_error(&format!("opening {}", path.display()), &error))?;
        Ok(Some(dataset))
    }

    /// Reads a table as one batch, at a version or at its newest; `None` if it does not exist.
    pub(super) async fn read(&self, table: &str, version: Option<u64>) -> Result<Option<Table>> {
        let Some(dataset) = self.open(table, version).await? else { return Ok(None) };
        let batch = dataset.scan().try_into_batch().await;
        let batch = batch.map_err(|error| lance_error(&format!("reading {}", self.path(table).display()), &error))?;
        Ok(Some(Table { name: table.to_owned(), batch }))
    }

    /// Whether a table exists.
    pub(super) fn has(&self, table: &str) -> bool {
        has_version(&self.path(table))
    }

    /// Replaces a table's content by `batch` in one commit; returns the table at the new version.
    pub(super) async fn write(&self, table: &str, batch: RecordBatch) -> Result<Dataset> {
        let path = self.path(table);
        let params = WriteParams {
            mode: if has_version(&path) { WriteMode::Overwrite } else { WriteMode::Create },
            data_storage_version: Some(LanceFileVersion::V2_2),
            session: Some(self.session.clone()),
            ..WriteParams::default()
        };
        let schema = batch.schema();
        let reader = RecordBatchIterator::new([Ok(batch)], schema);
        let dataset = Dataset::write(reader, &uri(&path)?, Some(params)).await;
        dataset.map_err(|error| lance_error(&format!("writing {}", path.display()), &error))
    }

    /// Removes versions of a table that are older than `keep`, but not version `named` and later ones: the newest may be
    /// what a change left that was interrupted before its commit.
    pub(super) async fn forget_versions(&self, table: &str, named: u64, keep: chrono::TimeDelta) -> Result<()> {
        let Some(dataset) = self.open(table, Some(named)).await? else { return Ok(()) };
        let removed = dataset.cleanup_old_versions(keep, None, None).await;
        removed.map(drop).map_err(|error| lance_error(&format!("cleaning {}", self.path(table).display()), &error))
    }
}

/// Whether a dataset's folder holds a commit. The folder of the commits alone may be what the first one left that was
/// interrupted.
fn has_version(dataset: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dataset.join("_versions")) else { return false };
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "manifest"))
}

/// A path as Lance wants it.
pub(super) fn uri(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(ErrorKind::Query, format!("the path {} is not valid UTF-8: choose another folder", path.display()))
    })
}

/// A catalog table in memory.
pub(super) struct Table {
    name: String,
    pub(super) batch: RecordBatch,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    fn column(&self, name: &str) -> Result<&ArrayRef> {
        self.batch.column_by_name(name).ok_or_else(|| self.damaged(name, "it is missing"))
    }

    fn damaged(&self, column: &str, what: &str) -> Error {
        let message = format!(
            "catalog table '{}', column '{column}': {what}; the catalog is damaged, restore the folder from a backup",
            self.name
        );
        Error::new(ErrorKind::Corrupt, message)
    }

    /// A column of texts.
    pub(super) fn strings(&self, name: &str) -> Result<&StringArray> {
        let column = self.column(name)?;
        column
            .as_string_opt::<i32>()
            .ok_or_else(|| self.damaged(name, &format!("expected text, got {}", column.data_type())))
    }

    /// A column of numbers.
    pub(super) fn numbers<T: ArrowPrimitiveType>(&self, name: &str) -> Result<&arrow::array::PrimitiveArray<T>> {
        let column = self.column(name)?;
        column
            .as_primitive_opt::<T>()
            .ok_or_else(|| self.damaged(name, &format!("expected {}, got {}", T::DATA_TYPE, column.data_type())))
    }

    /// Row `row` of a column of lists of texts; nulls are left out.
    pub(super) fn string_list(&self, name: &str, row: usize) -> Result<Vec<String>> {
        let column = self.column(name)?;
        let wrong = || self.damaged(name, &format!("expected a list of texts, got {}", column.data_type()));
        let lists: &ListArray = column.as_list_opt().ok_or_else(wrong)?;
        if lists.is_null(row) {
            return Ok(Vec::new());
        }
        let values = lists.value(row);
        let values = values.as_string_opt::<i32>().ok_or_else(wrong)?;
        Ok(values.iter().flatten().map(str::to_owned).collect())
    }
}

/// A text that may be null.
pub(super) fn optional(array: &StringArray, row: usize) -> Option<String> {
    array.is_valid(row).then(|| array.value(row).to_owned())
}

/// Builds a `List<Utf8>` column.
pub(super) fn string_lists<'a>(rows: impl Iterator<Item = &'a [String]>) -> ArrayRef {
    let mut builder = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
    for row in rows {
        for value in row {
            builder.values().append_value(value);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

/// Joins named columns to a batch; every column may hold nulls.
///
/// # Errors
/// [`ErrorKind::Internal`] if the lengths differ.
pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .map_err(|error| Error::new(ErrorKind::Internal, "building a catalog table").with_source(error))
}
