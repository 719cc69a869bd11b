//! How a table function's work becomes a table that a query can read.
//!
//! A function implements [`Computation`]: a known schema and one async call that gives the rows. [`ComputedTable`] makes
//! a `TableProvider` of it. The work starts when the first row is asked for, runs once per execution in one partition,
//! and stops when the query is dropped: between two awaits of the async part, and in [`blocking`] sections wherever the
//! work looks at its [`Cancellation`].

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, exec_err, internal_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::kernels::cancellation::Cancellation;

/// The work of one call of a table function. `Display` is what EXPLAIN shows: the call with its arguments.
#[async_trait]
pub trait Computation: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Name of the function, for messages.
    fn name(&self) -> &'static str;

    /// Columns of the result, all of them.
    fn schema(&self) -> SchemaRef;

    /// Finds out, when the query is planned, what `Display` shall show beyond the arguments.
    ///
    /// # Errors
    /// As [`Self::run`].
    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Computes the rows, in the function's documented order.
    ///
    /// Batches have all columns of [`Self::schema`]; a nullable column that `request` does not want may be all null.
    /// More rows than `request.limit` are cut off. Long arithmetic belongs in [`blocking`].
    ///
    /// # Errors
    /// What the data or the source give; a message begins with the function's name.
    async fn run(&self, request: Request) -> Result<Vec<RecordBatch>>;
}

/// A text as a literal of SQL, as EXPLAIN shows arguments.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Literals with commas between them.
pub(crate) fn quoted_list<T: AsRef<str>>(texts: &[T]) -> String {
    texts.iter().map(|text| quoted(text.as_ref())).collect::<Vec<_>>().join(", ")
}

/// What a query wants of a [`Computation`].
#[derive(Debug, Clone)]
pub struct Request {
    /// Positions of the wanted columns in the schema; `None` means all.
    pub projection: Option<Vec<usize>>,
    /// Rows that are enough: the first ones.
    pub limit: Option<usize>,
    /// Memory pool, session options.
    pub context: Arc<TaskContext>,
}

impl Request {
    /// Whether the column at `position` of the schema is wanted.
    pub fn wants(&self, position: usize) -> bool {
        self.projection.as_ref().is_none_or(|wanted| wanted.contains(&position))
    }

    /// Registers a user of the query's memory pool. Grow it with `try_grow` before allocating; freed on drop.
    pub fn memory(&self, name: &str) -> MemoryReservation {
        MemoryConsumer::new(name).register(self.context.memory_pool())
    }
}

/// Sets the flag when the future that waits for the work is dropped.
struct CancelOnDrop(Cancellation);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs CPU-bound work (which may use rayon) on a thread of its own, so that the runtime goes on. Work that takes long
/// ends early when it is cancelled; what it returns then is dropped.
///
/// # Errors
/// What `work` gives; an internal error that names `function` if it panics.
pub async fn blocking<T, F>(function: &'static str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Cancellation) -> Result<T> + Send + 'static,
{
    let guard = CancelOnDrop(Cancellation::default());
    let cancellation = guard.0.clone();
    let result = match SpawnedTask::spawn_blocking(move || work(&cancellation)).join().await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            let payload = error.into_panic();
            let said = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_string())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_string());
            internal_err!("{function}: computation panicked: {said}")
        }
        Err(_) => exec_err!("{function}: the runtime is shutting down"),
    };
    drop(guard);
    result
}

/// Reads streams at the same time, each on a task of its own, and gives what each of them adds up to: `update` takes the
/// batches of a stream in turn, beginning with `start`. Short arithmetic on a batch is done where the batch was decoded,
/// while it is in the processor's cache.
///
/// # Errors
/// What a stream or `update` gives; the other tasks then end.
pub async fn fold_parts<T, F>(
    function: &'static str,
    parts: Vec<SendableRecordBatchStream>,
    start: T,
    update: F,
) -> Result<Vec<T>>
where
    T: Clone + Send + 'static,
    F: Fn(&mut T, &RecordBatch) -> Result<()> + Clone + Send + 'static,
{
    let tasks: Vec<SpawnedTask<Result<T>>> = parts
        .into_iter()
        .map(|mut part| {
            let (mut sum, update) = (start.clone(), update.clone());
            SpawnedTask::spawn(async move {
                while let Some(batch) = part.try_next().await? {
                    update(&mut sum, &batch)?;
                }
                Ok(sum)
            })
        })
        .collect();
    let mut sums = Vec::with_capacity(tasks.len());
    for task in tasks {
        match task.join_unwind().await {
            Ok(sum) => sums.push(sum?),
            Err(_) => return exec_err!("{function}: the runtime is shutting down"),
        }
    }
    Ok(sums)
}

/// Result of a table function as a table.
#[derive(Debug)]
pub struct ComputedTable {
    computation: Arc<dyn Computation>,
}

impl ComputedTable {
    /// Table of what `computation` gives, ready to be returned by `TableFunctionImpl::call_with_args`.
    pub fn provider(computation: impl Computation) -> Arc<dyn TableProvider> {
        Arc::new(Self { computation: Arc::new(computation) })
    }
}

#[async_trait]
impl TableProvider for ComputedTable {
    fn schema(&self) -> SchemaRef {
        self.computation.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.computation.prepare().await?;
        Ok(Arc::new(ComputeExec::try_new(Arc::clone(&self.computation), projection.cloned(), limit)?))
    }
}

/// Physical operator that runs a [`Computation`].
#[derive(Debug)]
pub struct ComputeExec {
    computation: Arc<dyn Computation>,
    projection: Option<Vec<usize>>,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl ComputeExec {
    /// Operator over the columns `projection` and the first `limit` rows of the computation.
    ///
    /// # Errors
    /// If a position is outside the schema.
    pub fn try_new(
        computation: Arc<dyn Computation>,
        projection: Option<Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Self> {
        let schema = match &projection {
            Some(columns) => Arc::new(computation.schema().project(columns)?),
            None => computation.schema(),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self { computation, projection, limit, properties: Arc::new(properties) })
    }
}

impl DisplayAs for ComputeExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ComputeExec: {}", self.computation)?;
        if let Some(limit) = self.limit {
            write!(f, ", first {limit} rows")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for ComputeExec {
    fn name(&self) -> &str {
        "ComputeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("ComputeExec has no children") }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("ComputeExec has one partition, asked for {partition}");
        }
        let computation = Arc::clone(&self.computation);
        let (projection, limit) = (self.projection.clone(), self.limit);
        let batch_rows = context.session_config().batch_size().max(1);
        let rows = async move {
            let request = Request { projection: projection.clone(), limit, context };
            let batches = computation.run(request).await?;
            let batches = shape(batches, projection.as_deref(), limit, batch_rows)?;
            Ok::<_, DataFusionError>(stream::iter(batches.into_iter().map(Ok)))
        };
        let rows = stream::once(rows).try_flatten().boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// Keeps the wanted columns and rows, in batches of at most `batch_rows`.
fn shape(
    batches: Vec<RecordBatch>,
    projection: Option<&[usize]>,
    limit: Option<usize>,
    batch_rows: usize,
) -> Result<Vec<RecordBatch>> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut shaped = Vec::new();
    for batch in batches {
        let batch = match projection {
            Some(columns) => batch.project(columns)?,
            None => batch,
        };
        let n_rows = batch.num_rows().min(left);
        left -= n_rows;
        for start in (0..n_rows).step_by(batch_rows) {
            shaped.push(batch.slice(start, batch_rows.min(n_rows - start)));
        }
    }
    Ok(shaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int32Array};
    use arrow::datatypes::{DataType, Field, Int32Type, Schema};
    use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl};
    use datafusion::prelude::SessionContext;
    use std::time::Duration;

    /// Counts from 0 to `n - 1`; column `twice` is null where not wanted.
    #[derive(Debug)]
    struct Count {
        n: i32,
    }

    impl fmt::Display for Count {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "count({})", self.n)
        }
    }

    #[async_trait]
    impl Computation for Count {
        fn name(&self) -> &'static str {
            "count"
        }

        fn schema(&self) -> SchemaRef {
            let field = |name| Field::new(name, DataType::Int32, true);
            Arc::new(Schema::new(vec![field("i"), field("twice")]))
        }

        async fn run(&self, request: Request) -> Result<Vec<RecordBatch>> {
            let n = self.n;
            if n < 0 {
                return blocking("count", |_| -> Result<_> { panic!("n is negative") }).await;
            }
            let wants_twice = request.wants(1);
            let columns: Vec<Arc<dyn arrow::array::Array>> = blocking("count", move |_| {
                let i = Int32Array::from_iter_values(0..n);
                let twice: Int32Array = (0..n).map(|i| wants_twice.then_some(2 * i)).collect();
                Ok(vec![Arc::new(i) as _, Arc::new(twice) as _])
            })
            .await?;
            Ok(vec![RecordBatch::try_new(self.schema(), columns)?])
        }
    }

    #[derive(Debug)]
    struct CountFunction;

    impl TableFunctionImpl for CountFunction {
        fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
            match args.exprs() {
                [Expr::Literal(value, _)] => {
                    let n: i64 = value.clone().try_into()?;
                    Ok(ComputedTable::provider(Count { n: n as i32 }))
                }
                _ => datafusion::common::plan_err!("count: expected a number"),
            }
        }
    }

    async fn query(sql: &str) -> Result<Vec<RecordBatch>> {
        let session = SessionContext::new();
        session.register_udtf("count_to", Arc::new(CountFunction));
        session.sql(sql).await?.collect().await
    }

    #[tokio::test]
    async fn projects_limits_and_cuts_into_batches() {
        let batches = query("SELECT twice, i FROM count_to(20000)").await.unwrap();
        assert!(batches.len() > 1 && batches.iter().all(|batch| batch.num_rows() <= 8192));
        let first = batches[0].column(0).as_primitive::<Int32Type>();
        assert_eq!(first.values()[..3], [0, 2, 4]);

        let batches = query("SELECT i FROM count_to(20000) LIMIT 3").await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
        let batches = query("SELECT count(*) FROM count_to(5)").await.unwrap();
        assert_eq!(batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0), 5);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_that_names_the_function() {
        let error = query("SELECT * FROM count_to(-1)").await.unwrap_err().to_string();
        assert!(error.contains("count: computation panicked: n is negative"), "{error}");
    }

    #[tokio::test]
    async fn dropping_the_query_cancels_blocking_work() {
        let (started, on_start) = std::sync::mpsc::channel();
        let (ended, on_end) = std::sync::mpsc::channel();
        let work = tokio::spawn(blocking("wait", move |cancellation| {
            started.send(()).unwrap();
            while !cancellation.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            ended.send(()).unwrap();
            Ok(())
        }));
        tokio::task::spawn_blocking(move || on_start.recv_timeout(Duration::from_secs(10))).await.unwrap().unwrap();
        work.abort();
        tokio::task::spawn_blocking(move || on_end.recv_timeout(Duration::from_secs(10))).await.unwrap().unwrap();
    }
}
