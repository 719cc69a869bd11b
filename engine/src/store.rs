//! The one module that names Lance: the folder, the datasets, commits, versions and indexes.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

use crate::catalog::{Catalog, CorpusInfo};
use crate::error::Result;
use crate::options::EngineOptions;

/// A database folder.
pub(crate) struct Store {}

/// Which version of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AsOf {
    /// The newest commit.
    #[default]
    Latest,
    /// A version number.
    Version(u64),
    /// The newest commit not after this moment, microseconds since 1970 UTC.
    Micros(i64),
}

/// One version of one corpus: immutable, cheap to clone.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) info: Arc<CorpusInfo>,
}

impl Store {
    pub(crate) async fn open(dir: &Path, options: &EngineOptions) -> Result<Self> {
        let _ = (dir, options);
        todo!("owner of store")
    }

    pub(crate) fn dir(&self) -> &Path {
        todo!("owner of store")
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        todo!("owner of store")
    }

    /// Opens a version of a corpus. The newest one sees every commit made before the call, by this process or another.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] with the nearest name, or with the versions there are.
    pub(crate) async fn snapshot(&self, corpus: &str, as_of: AsOf) -> Result<Snapshot> {
        let _ = (corpus, as_of);
        todo!("owner of store")
    }
}

impl Snapshot {
    /// Stored schema: `doc_id`, the user's columns, the added columns (see [`crate::schema`]).
    pub(crate) fn schema(&self) -> SchemaRef {
        todo!("owner of store")
    }

    /// Version number.
    pub(crate) fn version(&self) -> u64 {
        todo!("owner of store")
    }

    /// Documents, by a count that the dataset keeps.
    pub(crate) async fn count(&self) -> Result<u64> {
        todo!("owner of store")
    }

    /// Plans a scan of the stored columns `projection` (in that order), of rows that satisfy all `filters` (expressions
    /// over stored columns, evaluated exactly, through an index where one fits), at most `limit` rows.
    pub(crate) async fn scan(
        &self,
        projection: &[String],
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let _ = (projection, filters, limit);
        todo!("owner of store")
    }
}
