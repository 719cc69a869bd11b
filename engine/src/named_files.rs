//! What goes wrong while a file after `FROM` is read says in which file.
//!
//! DataFusion's readers know a line at most. It is the last rule: the others look for DataFusion's own sources.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::ObjectStore;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use futures::{FutureExt, StreamExt, TryStreamExt};

use crate::error::Error;

/// The rule.
#[derive(Debug)]
pub(crate) struct NamedFiles;

impl PhysicalOptimizerRule for NamedFiles {
    fn name(&self) -> &'static str {
        "NamedFiles"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let named = plan.transform_up(|node| {
            let scan = node
                .downcast_ref::<DataSourceExec>()
                .and_then(|source| source.data_source().downcast_ref::<FileScanConfig>())
                // Parquet is not read by openers; that a file does not fit is seen before its rows are read.
                .filter(|scan| scan.file_source.file_type() != "parquet")
                .cloned();
            let Some(mut scan) = scan else { return Ok(Transformed::no(node)) };
            scan.file_source = Arc::new(Named(Arc::clone(&scan.file_source)));
            let node: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(scan);
            Ok(Transformed::yes(node))
        });
        Ok(named?.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A source of files whose errors name the file.
struct Named(Arc<dyn FileSource>);

impl FileSource for Named {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        Ok(Arc::new(NamedOpener(self.0.create_file_opener(store, scan, partition)?)))
    }

    fn table_schema(&self) -> &TableSchema {
        self.0.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self(self.0.with_batch_size(batch_size)))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.0.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.0.metrics()
    }

    fn file_type(&self) -> &str {
        self.0.file_type()
    }

    fn fmt_extra(&self, form: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_extra(form, f)
    }
}

struct NamedOpener(Arc<dyn FileOpener>);

impl FileOpener for NamedOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        // The name alone: where a file lies on this machine is no business of those who may ask.
        let name = file.object_meta.location.filename().unwrap_or_default().to_owned();
        let named = move |error: DataFusionError| {
            DataFusionError::from(Error::from(error).context(format_args!("in '{name}'")))
        };
        let opening = self.0.open(file).map_err(&named)?;
        Ok(async move {
            let batches = opening.await.map_err(&named)?;
            Ok(batches.map_err(named).boxed())
        }
        .boxed())
    }
}
