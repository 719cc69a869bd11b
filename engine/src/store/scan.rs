//! The leaf of our plans over a corpus: fragments in parallel, of each row only what is wanted.
//!
//! [`FragmentScanExec`] is what a scan needs to be told, not a running one: a version of a dataset, stored columns, a filter
//! and how many partitions. A partition is a run of [`Piece`]s, ranges of rows of one fragment; it reads one after the
//! other. With a filter a piece is read twice: first the columns that the filter looks at, then, for rows that it keeps,
//! the others, so that texts and features of other rows are not decoded. What an index answers is Lance's own plan (see
//! [`super::Snapshot::scan`]).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{SlicesIterator, concat, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::common::stats::Precision;
use datafusion::common::{Statistics, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::fragment::{FileFragment, FragReadConfig, FragmentReader};
use tokio::sync::OnceCell;

/// Rows of a piece, at most: few enough that partitions end together, many enough that opening a piece costs nothing.
const PIECE_ROWS: u32 = 32 * 1024;

/// Pieces of one of several partitions that are read at a time, so that the disk works while the processor decodes.
const PIECES_AHEAD: usize = 2;

/// If less than one row in so many is kept, only the kept rows are read; else all, and the others dropped, because
/// reading many short ranges costs more.
const SPARSE: usize = 8;

/// Lance's column of a row's place: fragment in the upper, position in the lower 32 bits.
const ROW_ADDRESS: &str = "_rowaddr";

/// Rows of a fragment, deleted ones included.
#[derive(Debug, Clone)]
struct Piece {
    fragment: usize,
    rows: Range<u32>,
}

/// A condition and the stored columns that it looks at.
#[derive(Debug, Clone)]
pub(super) struct RowFilter {
    /// Over the columns `schema`.
    pub(super) predicate: Arc<dyn PhysicalExpr>,
    pub(super) schema: SchemaRef,
}

/// Readers of a fragment, opened when its first piece is read.
struct Fragment {
    file: FileFragment,
    readers: OnceCell<Readers>,
}

struct Readers {
    /// Of the filter's columns and the rows' places.
    filter: Option<FragmentReader>,
    /// Of the columns that the filter does not look at; `None` if there are none.
    others: Option<FragmentReader>,
}

/// What all partitions share.
struct Scan {
    dataset: Arc<Dataset>,
    corpus: String,
    fragments: Vec<Fragment>,
    pieces: Vec<Piece>,
    schema: SchemaRef,
    filter: Option<RowFilter>,
    /// Names of the columns that are read after the filter.
    others: Vec<String>,
    batch_rows: u32,
    /// Rows that are not deleted.
    n_rows: usize,
}

/// See the module.
pub(crate) struct FragmentScanExec {
    scan: Arc<Scan>,
    n_partitions: usize,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl FragmentScanExec {
    /// Scan of the columns `schema` (stored types, in that order; at least one) of rows for which `filter` is true, in the
    /// order of their insertion, in one partition. Batches have at most `batch_rows` rows.
    pub(super) fn new(
        dataset: &Arc<Dataset>,
        corpus: &str,
        schema: SchemaRef,
        filter: Option<RowFilter>,
        batch_rows: usize,
    ) -> Self {
        let files = dataset.get_fragments();
        let mut pieces = Vec::new();
        let batch_rows = u32::try_from(batch_rows.max(1)).unwrap_or(u32::MAX);
        let piece_rows = PIECE_ROWS.min(batch_rows.saturating_mul(4)) as usize;
        let (mut n_rows, mut fragments) = (0, Vec::with_capacity(files.len()));
        for (fragment, file) in files.into_iter().enumerate() {
            let n = file.metadata().physical_rows.unwrap_or_default();
            n_rows += n - file.fast_num_deletions().unwrap_or_default().min(n);
            let part = |start: usize| Piece { fragment, rows: start as u32..(start + piece_rows).min(n) as u32 };
            pieces.extend((0..n).step_by(piece_rows).map(part));
            fragments.push(Fragment { file, readers: OnceCell::new() });
        }
        let of_filter =
            |name: &str| filter.as_ref().is_some_and(|filter| filter.schema.column_with_name(name).is_some());
        let names = schema.fields().iter().map(|field| field.name());
        let others = names.filter(|name| !of_filter(name)).cloned().collect();
        let scan = Scan {
            dataset: Arc::clone(dataset),
            corpus: corpus.to_owned(),
            fragments,
            pieces,
            schema,
            filter,
            others,
            batch_rows,
            n_rows,
        };
        Self::with_partitions(Arc::new(scan), 1)
    }

    fn with_partitions(scan: Arc<Scan>, n_partitions: usize) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&scan.schema)),
            Partitioning::UnknownPartitioning(n_partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { scan, n_partitions, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl fmt::Debug for FragmentScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as(DisplayFormatType::Default, f)
    }
}

impl DisplayAs for FragmentScanExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.scan.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "FragmentScan: corpus={}, projection=[{}]", self.scan.corpus, names.join(", "))?;
        if let Some(filter) = &self.scan.filter {
            write!(f, ", filter={}", filter.predicate)?;
        }
        write!(f, ", version={}, fragments={}", self.scan.dataset.version_id(), self.scan.fragments.len())
    }
}

impl ExecutionPlan for FragmentScanExec {
    fn name(&self) -> &str {
        "FragmentScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("FragmentScanExec has no children") }
    }

    fn repartitioned(&self, target: usize, _config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let n = target.min(self.scan.n_rows.div_ceil(PIECE_ROWS as usize)).min(self.scan.pieces.len());
        Ok((n > self.n_partitions).then(|| {
            let parts: Arc<dyn ExecutionPlan> = Arc::new(Self::with_partitions(Arc::clone(&self.scan), n));
            parts
        }))
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let n = self.scan.pieces.len();
        let range = partition * n / self.n_partitions..(partition + 1) * n / self.n_partitions;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let scan = Arc::clone(&self.scan);
        let pieces: Vec<Piece> = scan.pieces[range].to_vec();
        let alone = self.n_partitions == 1;
        let read = move |piece: Piece| {
            let (scan, metrics) = (Arc::clone(&scan), metrics.clone());
            async move {
                let batches = if alone {
                    // One consumer, but all cores decode for it.
                    let reading =
                        datafusion::common::runtime::SpawnedTask::spawn(async move { scan.read(&piece).await });
                    reading.join_unwind().await.map_err(|error| DataFusionError::External(Box::new(error)))??
                } else {
                    scan.read(&piece).await?
                };
                metrics.record_output(batches.iter().map(RecordBatch::num_rows).sum());
                Ok::<_, DataFusionError>(stream::iter(batches.into_iter().map(Ok)))
            }
        };
        let workers = tokio::runtime::Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        let ahead = if alone { workers.max(PIECES_AHEAD) } else { PIECES_AHEAD };
        let batches = stream::iter(pieces).map(read).buffered(ahead).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.scan.schema), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.scan.schema);
        statistics.num_rows = match (partition.filter(|_| self.n_partitions > 1), &self.scan.filter) {
            (None, None) => Precision::Exact(self.scan.n_rows),
            (_, _) => Precision::Inexact(self.scan.n_rows / self.n_partitions),
        };
        Ok(Arc::new(statistics))
    }
}

impl Scan {
    fn failed(&self, error: lance::Error) -> DataFusionError {
        DataFusionError::from(error).context(format!("reading corpus '{}'", self.corpus))
    }

    async fn readers(&self, fragment: usize) -> Result<&Readers> {
        let fragment = &self.fragments[fragment];
        let open = |names: Vec<&str>, with_place: bool| async move {
            let schema = self.dataset.schema().project(&names)?;
            fragment.file.open(&schema, FragReadConfig::default().with_row_address(with_place)).await
        };
        let opened = fragment.readers.get_or_try_init(|| async {
            let filter = match &self.filter {
                Some(filter) => {
                    let names = filter.schema.fields().iter().map(|field| field.name().as_str()).collect();
                    Some(open(names, true).await?)
                }
                None => None,
            };
            let others = match self.others.is_empty() {
                true => None,
                false => Some(open(self.others.iter().map(String::as_str).collect(), false).await?),
            };
            Ok::<_, lance::Error>(Readers { filter, others })
        });
        opened.await.map_err(|error| self.failed(error))
    }

    /// Rows of a piece that the filter keeps.
    async fn read(&self, piece: &Piece) -> Result<Vec<RecordBatch>> {
        let readers = self.readers(piece.fragment).await?;
        match (&self.filter, &readers.filter) {
            (Some(filter), Some(reader)) => self.read_filtered(piece, filter, reader, readers.others.as_ref()).await,
            _ => match &readers.others {
                Some(reader) => {
                    let batches = self.batches(reader, piece.rows.clone()).await?;
                    batches.into_iter().map(|batch| self.shaped(&batch)).collect()
                }
                None => internal_err!("FragmentScanExec without columns"),
            },
        }
    }

    /// All columns of a reader for a range of rows, deleted ones left out.
    async fn batches(&self, reader: &FragmentReader, rows: Range<u32>) -> Result<Vec<RecordBatch>> {
        let reading = reader.take_range(rows, self.batch_rows).await.map_err(|error| self.failed(error))?;
        reading.buffered(1).try_collect().await.map_err(|error| self.failed(error))
    }

    async fn read_filtered(
        &self,
        piece: &Piece,
        filter: &RowFilter,
        reader: &FragmentReader,
        others: Option<&FragmentReader>,
    ) -> Result<Vec<RecordBatch>> {
        let looked_at = self.batches(reader, piece.rows.clone()).await?;
        let mut masks = Vec::with_capacity(looked_at.len());
        for batch in &looked_at {
            let columns = filter.schema.fields().iter().map(|field| named(batch, field.name()));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&filter.schema), columns, &options)?;
            let mask = filter.predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
            let Some(mask) = mask.as_boolean_opt() else {
                return internal_err!("the filter {} gives no truth values", filter.predicate);
            };
            masks.push(if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() });
        }
        let n_rows: usize = masks.iter().map(BooleanArray::len).sum();
        let n_kept: usize = masks.iter().map(BooleanArray::true_count).sum();
        if n_kept == 0 {
            return Ok(Vec::new());
        }
        let all = n_kept == n_rows;
        let Some(others) = others else {
            let kept =
                looked_at.iter().zip(&masks).map(|(batch, mask)| self.shaped(&filter_record_batch(batch, mask)?));
            return kept.collect();
        };
        // The other columns, in as many batches as come.
        let rest = if n_kept * SPARSE < n_rows {
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for (batch, mask) in looked_at.iter().zip(&masks) {
                let places = named(batch, ROW_ADDRESS)?;
                let places = places.as_primitive::<UInt64Type>();
                for (start, end) in SlicesIterator::new(mask) {
                    runs(&mut ranges, places, start..end);
                }
            }
            let reading =
                others.read_ranges(ranges.into(), self.batch_rows).await.map_err(|error| self.failed(error))?;
            reading.buffered(1).try_collect::<Vec<_>>().await.map_err(|error| self.failed(error))?
        } else {
            let batches = self.batches(others, piece.rows.clone()).await?;
            if all {
                batches
            } else {
                let masks: Vec<&dyn Array> = masks.iter().map(|mask| mask as &dyn Array).collect();
                let mask = concat(&masks)?;
                let (mask, mut start) = (mask.as_boolean(), 0);
                let kept = batches.iter().map(|batch| {
                    let mask = mask.slice(start, batch.num_rows());
                    start += batch.num_rows();
                    filter_record_batch(batch, &mask)
                });
                kept.collect::<Result<_, _>>()?
            }
        };
        // Filter columns that are wanted too, as one array each, cut like the others.
        let mut seen: Vec<(&str, ArrayRef)> = Vec::new();
        for field in self.schema.fields().iter().filter(|field| filter.schema.column_with_name(field.name()).is_some())
        {
            let parts = looked_at.iter().zip(&masks).map(|(batch, mask)| {
                let column = named(batch, field.name())?;
                Ok(if all { column } else { arrow::compute::filter(&column, mask)? })
            });
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            seen.push((field.name(), concat(&parts)?));
        }
        let mut start = 0;
        let mut batches = Vec::with_capacity(rest.len());
        for batch in rest.iter().filter(|batch| batch.num_rows() > 0) {
            let columns =
                self.schema.fields().iter().map(|field| match seen.iter().find(|(name, _)| name == field.name()) {
                    Some((_, column)) => Ok(column.slice(start, batch.num_rows())),
                    None => named(batch, field.name()),
                });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            start += batch.num_rows();
            batches.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        }
        if start != n_kept {
            return internal_err!("reading corpus '{}': {start} rows where the filter keeps {n_kept}", self.corpus);
        }
        Ok(batches)
    }

    /// The wanted columns of `batch`, in order.
    fn shaped(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().map(|field| named(batch, field.name()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_>>()?)?)
    }
}

/// Adds the places `rows` of a fragment to ranges that ascend.
fn runs(ranges: &mut Vec<Range<u64>>, places: &UInt64Array, rows: Range<usize>) {
    for place in &places.values()[rows] {
        let row = place & u64::from(u32::MAX);
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
}

fn named(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    match batch.column_by_name(name) {
        Some(column) => Ok(Arc::clone(column)),
        None => internal_err!("the column '{name}' was not read"),
    }
}
