//! The leaf of our plans over a corpus: fragments in parallel, of each row only what is wanted.
//!
//! [`FragmentScanExec`] is what a scan needs to be told, not a running one: a version of a dataset, stored columns, a filter
//! and how many partitions. A partition is a run of [`Piece`]s, ranges of rows of one fragment; it reads one after the
//! other. With a filter a piece is read twice: first the columns that the filter looks at, then, for rows that it keeps,
//! the others, so that texts and features of other rows are not decoded. Small columns stay decoded for the next scan
//! ([`ColumnCache`]). What an index answers is Lance's own plan (see [`super::Snapshot::scan`]).

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{SlicesIterator, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
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

use super::column_cache::{ColumnCache, PieceKey};
use super::corpus::files_of;

/// Batches of a piece of small columns: few enough that partitions end together, many enough that opening a piece costs
/// nothing. A batch of large ones (texts) is a piece of its own, because a piece is in memory as a whole.
const PIECE_BATCHES: u32 = 4;

/// Pieces of one of several partitions that are read at a time, so that the disk works while the processor decodes.
const PIECES_AHEAD: usize = 2;

/// If less than one row in so many is kept, only the kept rows are read; else all, and the others dropped, because
/// reading many short ranges costs more.
const SPARSE: usize = 8;

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

/// A fragment and its readers, by the columns that they read, opened when they are first wanted.
struct Fragment {
    file: FileFragment,
    readers: Mutex<Vec<(Vec<String>, Arc<FragmentReader>)>>,
}

/// What a scan reads: [`FragmentScanExec::new`].
pub(super) struct ScanOf {
    pub(super) dataset: Arc<Dataset>,
    /// For messages.
    pub(super) corpus: String,
    /// Columns of the result, in that order; at least one.
    pub(super) schema: SchemaRef,
    /// Rows for which it is true; all if there is none.
    pub(super) filter: Option<RowFilter>,
    /// Rows of a batch, at most.
    pub(super) batch_rows: usize,
    /// Where decoded columns are kept; `None` if these are too large.
    pub(super) cache: Option<Arc<ColumnCache>>,
}

/// What all partitions share.
struct Scan {
    of: ScanOf,
    fragments: Vec<Fragment>,
    pieces: Vec<Piece>,
    /// Columns of the result that the filter does not look at.
    others: Vec<String>,
    batch_rows: u32,
    /// Rows that are not deleted.
    n_rows: usize,
    /// Number of this scan in the cache.
    number: u64,
}

/// See the module.
pub(super) struct FragmentScanExec {
    scan: Arc<Scan>,
    n_partitions: usize,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl FragmentScanExec {
    /// A scan in one partition, in the order of insertion.
    pub(super) fn new(of: ScanOf) -> Self {
        let batch_rows = u32::try_from(of.batch_rows.max(1)).unwrap_or(u32::MAX);
        let piece_rows = batch_rows.saturating_mul(if of.cache.is_some() { PIECE_BATCHES } else { 1 });
        let (mut n_rows, mut fragments, mut pieces) = (0, Vec::new(), Vec::new());
        for (fragment, file) in of.dataset.get_fragments().into_iter().enumerate() {
            let n = u32::try_from(file.metadata().physical_rows.unwrap_or_default()).unwrap_or(u32::MAX);
            n_rows += file.fast_logical_rows().unwrap_or(n as usize);
            let part = |start: u32| Piece { fragment, rows: start..start.saturating_add(piece_rows).min(n) };
            pieces.extend((0..n).step_by(piece_rows as usize).map(part));
            fragments.push(Fragment { file, readers: Mutex::default() });
        }
        let of_filter = |name: &str| of.filter.as_ref().is_some_and(|filter| has(&filter.schema, name));
        let others = of.schema.fields().iter().map(|field| field.name());
        let others = others.filter(|name| !of_filter(name)).cloned().collect();
        let number = of.cache.as_ref().map_or(0, |cache| cache.begin_scan());
        Self::with_partitions(Arc::new(Scan { of, fragments, pieces, others, batch_rows, n_rows, number }), 1)
    }

    fn with_partitions(scan: Arc<Scan>, n_partitions: usize) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&scan.of.schema)),
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
        let of = &self.scan.of;
        let names: Vec<&str> = of.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "FragmentScan: corpus={}, projection=[{}]", of.corpus, names.join(", "))?;
        if let Some(filter) = &of.filter {
            write!(f, ", filter={}", filter.predicate)?;
        }
        let (version, n) = (of.dataset.version_id(), self.scan.fragments.len());
        write!(f, ", version={version}, fragments={n}, partitions={}", self.n_partitions)
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

    /// Where the order of rows does not matter, runs of pieces are read at the same time.
    fn repartitioned(&self, target: usize, _config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let n = target.min(self.scan.pieces.len());
        Ok((n > self.n_partitions).then(|| {
            let parts: Arc<dyn ExecutionPlan> = Arc::new(Self::with_partitions(Arc::clone(&self.scan), n));
            parts
        }))
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition >= self.n_partitions {
            return internal_err!("FragmentScanExec has {} partitions, asked for {partition}", self.n_partitions);
        }
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
                    let reading = SpawnedTask::spawn(async move { scan.read(&piece).await });
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
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.scan.of.schema), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.scan.of.schema);
        statistics.num_rows = match (partition.filter(|_| self.n_partitions > 1), &self.scan.of.filter) {
            (None, None) => Precision::Exact(self.scan.n_rows),
            (None, Some(_)) => Precision::Inexact(self.scan.n_rows),
            (Some(_), _) => Precision::Inexact(self.scan.n_rows / self.n_partitions),
        };
        Ok(Arc::new(statistics))
    }
}

impl Scan {
    fn failed(&self, error: lance::Error) -> DataFusionError {
        DataFusionError::from(error).context(format!("reading corpus '{}'", self.of.corpus))
    }

    async fn reader(&self, fragment: usize, names: &[String]) -> Result<Arc<FragmentReader>> {
        let fragment = &self.fragments[fragment];
        let lock = || fragment.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reader)) = lock().iter().find(|(columns, _)| columns == names) {
            return Ok(Arc::clone(reader));
        }
        let schema = self.of.dataset.schema().project(names).map_err(|error| self.failed(error))?;
        let reader = fragment.file.open(&schema, FragReadConfig::default()).await;
        let reader = Arc::new(reader.map_err(|error| self.failed(error))?);
        lock().push((names.to_vec(), Arc::clone(&reader)));
        Ok(reader)
    }

    /// Rows of a piece that the filter keeps.
    async fn read(&self, piece: &Piece) -> Result<Vec<RecordBatch>> {
        match &self.of.filter {
            Some(filter) => self.read_filtered(piece, filter).await,
            None => self.columns(piece, &self.of.schema).await,
        }
    }

    /// Where a column of a piece is kept; `None` if it is not to be.
    fn key(&self, piece: &Piece, name: &str) -> Option<PieceKey> {
        self.of.cache.as_ref()?;
        let fragment = self.fragments[piece.fragment].file.metadata();
        // An overlay changes what a file says.
        if !fragment.overlays.is_empty() {
            return None;
        }
        let field = self.of.dataset.schema().field(name)?;
        let [file] = files_of(field, fragment)[..] else { return None };
        let deletions = fragment.deletion_file.as_ref().map(|file| (file.id, file.read_version));
        let (file, rows) = (Arc::from(file.path.as_str()), piece.rows.clone());
        Some(PieceKey { file, deletions, field: field.id, rows, batch_rows: self.batch_rows })
    }

    /// The columns `schema` of a piece, deleted rows left out, in batches.
    async fn columns(&self, piece: &Piece, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let names = schema.fields().iter().map(|field| field.name());
        let keys: Vec<Option<PieceKey>> = names.map(|name| self.key(piece, name)).collect();
        let find = |key: &Option<PieceKey>| self.of.cache.as_ref()?.get(key.as_ref()?, self.number);
        let mut columns: Vec<Option<Arc<[ArrayRef]>>> = keys.iter().map(find).collect();
        let missing: Vec<usize> = (0..columns.len()).filter(|at| columns[*at].is_none()).collect();
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(|at| schema.field(*at).name().clone()).collect();
            let reader = self.reader(piece.fragment, &names).await?;
            let reading = reader.take_range(piece.rows.clone(), self.batch_rows).await;
            let reading = reading.map_err(|error| self.failed(error))?.buffered(1).try_collect::<Vec<_>>();
            let batches = reading.await.map_err(|error| self.failed(error))?;
            for at in missing {
                let name = schema.field(at).name();
                let parts = batches.iter().filter(|batch| batch.num_rows() > 0).map(|batch| named(batch, name));
                let parts: Arc<[ArrayRef]> = parts.collect::<Result<Vec<_>>>()?.into();
                if let (Some(cache), Some(key)) = (&self.of.cache, &keys[at]) {
                    cache.put(key.clone(), Arc::clone(&parts), self.number);
                }
                columns[at] = Some(parts);
            }
        }
        let columns: Vec<Arc<[ArrayRef]>> = columns.into_iter().flatten().collect();
        let n_parts = columns.first().map_or(0, |parts| parts.len());
        let batch = |part: usize| {
            let parts = columns.iter().map(|parts| Arc::clone(&parts[part])).collect();
            Ok(RecordBatch::try_new(Arc::clone(schema), parts)?)
        };
        (0..n_parts).map(batch).collect()
    }

    async fn read_filtered(&self, piece: &Piece, filter_of: &RowFilter) -> Result<Vec<RecordBatch>> {
        let looked_at = match filter_of.schema.fields().is_empty() {
            false => self.columns(piece, &filter_of.schema).await?,
            // A condition on nothing, which the optimizer left.
            true => {
                let options = |batch: &RecordBatch| RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let all = self.columns(piece, &self.of.schema).await?;
                let schema = &filter_of.schema;
                let empty = |batch| RecordBatch::try_new_with_options(Arc::clone(schema), Vec::new(), &options(batch));
                all.iter().map(empty).collect::<std::result::Result<Vec<_>, _>>()?
            }
        };
        let mut masks = Vec::with_capacity(looked_at.len());
        for batch in &looked_at {
            let mask = filter_of.predicate.evaluate(batch)?.into_array(batch.num_rows())?;
            let Some(mask) = mask.as_boolean_opt() else {
                return internal_err!("the filter {} gives no truth values", filter_of.predicate);
            };
            masks.push(if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() });
        }
        let n_rows: usize = masks.iter().map(BooleanArray::len).sum();
        let n_kept: usize = masks.iter().map(BooleanArray::true_count).sum();
        if n_kept == 0 {
            return Ok(Vec::new());
        }
        if self.others.is_empty() {
            let kept = looked_at.iter().zip(&masks).map(|(batch, mask)| self.shaped(batch, &[], mask));
            return kept.collect();
        }
        let others: Vec<usize> = (0..self.of.schema.fields().len())
            .filter(|at| self.others.contains(self.of.schema.field(*at).name()))
            .collect();
        let others = Arc::new(self.of.schema.project(&others)?);
        let whole = self.fragments[piece.fragment].file.metadata().deletion_file.is_none();
        if whole && n_kept * SPARSE < n_rows && !self.is_kept(piece, &others) {
            return self.read_some(piece, &looked_at, &masks, &others).await;
        }
        let rest = self.columns(piece, &others).await?;
        if rest.len() != looked_at.len() {
            return internal_err!("reading corpus '{}': columns differ in their batches", self.of.corpus);
        }
        let kept = looked_at.iter().zip(&rest).zip(&masks).filter(|(_, mask)| mask.true_count() > 0);
        kept.map(|((seen, rest), mask)| self.shaped(seen, std::slice::from_ref(rest), mask)).collect()
    }

    fn is_kept(&self, piece: &Piece, schema: &Schema) -> bool {
        let kept = |name: &str| {
            let key = self.key(piece, name)?;
            self.of.cache.as_ref()?.get(&key, self.number)
        };
        schema.fields().iter().all(|field| kept(field.name()).is_some())
    }

    /// The rows of a piece without deleted rows for which `masks` are true; only these are read of the columns `others`.
    async fn read_some(
        &self,
        piece: &Piece,
        looked_at: &[RecordBatch],
        masks: &[BooleanArray],
        others: &SchemaRef,
    ) -> Result<Vec<RecordBatch>> {
        let (mut ranges, mut start) = (Vec::new(), u64::from(piece.rows.start));
        for mask in masks {
            let runs = SlicesIterator::new(mask);
            ranges.extend(runs.map(|(from, to)| start + from as u64..start + to as u64));
            start += mask.len() as u64;
        }
        let names: Vec<String> = others.fields().iter().map(|field| field.name().clone()).collect();
        let reader = self.reader(piece.fragment, &names).await?;
        let reading = reader.read_ranges(ranges.into(), self.batch_rows).await;
        let reading = reading.map_err(|error| self.failed(error))?.buffered(1).try_collect::<Vec<_>>();
        let rest = reading.await.map_err(|error| self.failed(error))?;
        let seen = looked_at.iter().zip(masks).map(|(batch, mask)| filter_record_batch(batch, mask));
        let seen = seen.collect::<std::result::Result<Vec<_>, _>>()?;
        let Some(first) = seen.first() else { return Ok(Vec::new()) };
        let seen = arrow::compute::concat_batches(&first.schema(), &seen)?;
        let mut start = 0;
        let mut batches = Vec::with_capacity(rest.len());
        for batch in rest.iter().filter(|batch| batch.num_rows() > 0) {
            if start + batch.num_rows() > seen.num_rows() {
                return internal_err!("reading corpus '{}': more rows than the filter keeps", self.of.corpus);
            }
            let beside = seen.slice(start, batch.num_rows());
            start += batch.num_rows();
            batches.push(self.joined(&[&beside, batch])?);
        }
        if start != seen.num_rows() {
            return internal_err!("reading corpus '{}': fewer rows than the filter keeps", self.of.corpus);
        }
        Ok(batches)
    }

    /// The rows of a batch, whose other columns are in `rest`, for which `mask` is true, with the columns of the result.
    fn shaped(&self, seen: &RecordBatch, rest: &[RecordBatch], mask: &BooleanArray) -> Result<RecordBatch> {
        let parts: Vec<&RecordBatch> = std::iter::once(seen).chain(rest).collect();
        let batch = self.joined(&parts)?;
        Ok(if mask.true_count() == mask.len() { batch } else { filter_record_batch(&batch, mask)? })
    }

    /// The columns of the result, each from that of `parts` which has it.
    fn joined(&self, parts: &[&RecordBatch]) -> Result<RecordBatch> {
        let column = |name: &str| match parts.iter().find_map(|part| part.column_by_name(name)) {
            Some(column) => Ok(Arc::clone(column)),
            None => internal_err!("the column '{name}' was not read"),
        };
        let columns = self.of.schema.fields().iter().map(|field| column(field.name()));
        Ok(RecordBatch::try_new(Arc::clone(&self.of.schema), columns.collect::<Result<_>>()?)?)
    }
}

fn has(schema: &Schema, name: &str) -> bool {
    schema.column_with_name(name).is_some()
}

fn named(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    match batch.column_by_name(name) {
        Some(column) => Ok(Arc::clone(column)),
        None => internal_err!("the column '{name}' was not read"),
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::functions_nested::expr_fn::array_has;
    use datafusion::logical_expr::{Expr, col, lit};
    use datafusion::physical_plan::collect_partitioned;

    use super::super::testing::{Doc, batch, corpus, dictionary, open};
    use super::super::{AsOf, Snapshot};
    use super::*;

    fn docs(from: usize, to: usize) -> Vec<Doc> {
        let doc = |n: usize| Doc {
            id: Box::leak(format!("d{n:03}").into_boxed_str()),
            text: if n.is_multiple_of(3) { "three" } else { "none" },
            model: ["x", "y", "z"][n % 3],
            features: (0..4)
                .filter(|id| (n + *id as usize).is_multiple_of(2 + *id as usize))
                .map(|id| (id, 1.5))
                .collect(),
        };
        (from..to).map(doc).collect()
    }

    const COLUMNS: [&str; 4] = ["_ids_first", "doc_id", "model", "_error"];

    /// Rows of our scan, part by part.
    async fn ours(
        snapshot: &Snapshot,
        filter: Option<&Expr>,
        batch_rows: usize,
        parts: usize,
        cache: Option<&Arc<ColumnCache>>,
    ) -> Vec<String> {
        let position = |name: &str| snapshot.schema().index_of(name).unwrap();
        let filter = filter.map(|filter| {
            let columns: Vec<usize> = filter.column_refs().iter().map(|column| position(&column.name)).collect();
            snapshot.row_filter(filter, &columns).unwrap()
        });
        let of = ScanOf {
            dataset: Arc::clone(&snapshot.dataset),
            corpus: "c".to_owned(),
            schema: Arc::new(snapshot.schema().project(&COLUMNS.map(position)).unwrap()),
            filter,
            batch_rows,
            cache: cache.cloned(),
        };
        let scan = Arc::new(FragmentScanExec::new(of));
        let plan: Arc<dyn ExecutionPlan> =
            scan.repartitioned(parts, &ConfigOptions::default()).unwrap().unwrap_or(scan as Arc<dyn ExecutionPlan>);
        let parts = collect_partitioned(plan, Arc::default()).await.unwrap();
        let batches: Vec<RecordBatch> = parts.into_iter().flatten().collect();
        assert!(batches.iter().all(|batch| batch.num_rows() <= batch_rows));
        let rows = pretty_format_batches(&batches).unwrap().to_string();
        rows.lines()
            .filter(|line| line.contains(" d"))
            .map(str::to_owned)
            .filter(|line| !line.contains("doc_id"))
            .collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn gives_what_lances_own_scan_gives() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let guard = store.write("test").await.unwrap();
        store.add_dictionary(&guard, &dictionary("first", &["a", "b", "c", "d"])).await.unwrap();
        drop(guard);
        corpus(&store, "c", "first", &docs(0, 70)).await;
        let guard = store.write("test").await.unwrap();
        let schema = store.snapshot("c", AsOf::Latest).await.unwrap().schema();
        store.append(&guard, "c", vec![batch(&schema, "first", &docs(70, 75))]).await.unwrap();
        store.append(&guard, "c", vec![batch(&schema, "first", &docs(75, 130))]).await.unwrap();
        let whole = store.snapshot("c", AsOf::Latest).await.unwrap();
        store.delete(&guard, "c", col("doc_id").between(lit("d080"), lit("d099"))).await.unwrap();
        let cut = store.snapshot("c", AsOf::Latest).await.unwrap();
        let filters = [
            None,
            Some(col("model").eq(lit("x"))),
            Some(col("doc_id").eq(lit("d101"))),
            Some(col("doc_id").eq(lit("d011")).or(col("doc_id").eq(lit("d110")))),
            Some(col("_error").is_null().and(col("text").eq(lit("three")))),
            Some(array_has(col("_ids_first"), lit(datafusion::scalar::ScalarValue::UInt32(Some(2))))),
            Some(col("model").eq(lit("w"))),
            Some(lit(true)),
        ];
        let cache = Arc::new(ColumnCache::new(1 << 20));
        for (snapshot, n) in [(&whole, 130), (&cut, 110)] {
            for filter in &filters {
                let mut scanner = snapshot.dataset.scan();
                scanner.project(&COLUMNS).unwrap();
                if let Some(filter) = filter {
                    scanner.filter_expr(filter.clone());
                }
                let expected = scanner.try_into_batch().await.unwrap();
                assert!(filter.is_some() || expected.num_rows() == n);
                let expected = pretty_format_batches(&[expected]).unwrap().to_string();
                let cells = |rows: &[String]| -> Vec<Vec<String>> {
                    let cells = |row: &String| row.split('|').map(|cell| cell.trim().to_owned()).collect();
                    rows.iter().map(cells).collect()
                };
                let lines = expected.lines().filter(|line| line.contains(" d") && !line.contains("doc_id"));
                let mut expected = cells(&lines.map(str::to_owned).collect::<Vec<_>>());
                for (batch_rows, parts) in [(3, 1), (3, 4), (8192, 1), (1, 2)] {
                    for cache in [None, Some(&cache), Some(&cache)] {
                        let mut found = cells(&ours(snapshot, filter.as_ref(), batch_rows, parts, cache).await);
                        if parts > 1 {
                            found.sort();
                            expected.sort_by(|x, y| x.cmp(y));
                        } else {
                            // In the order of insertion.
                            expected.sort_by(|x, y| x[2].cmp(&y[2]));
                        }
                        assert_eq!(found, expected, "{filter:?}, batches of {batch_rows}, {parts} parts");
                    }
                }
            }
        }
        let other = Arc::new(ColumnCache::new(1 << 20));
        ours(&whole, None, 8192, 1, Some(&other)).await;
        assert_eq!(other.len(), 3 * COLUMNS.len(), "each column of three fragments, lists as well");
    }
}
