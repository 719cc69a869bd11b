//! One version of one corpus, and scans of it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::conjunction;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use lance::Dataset;
use lance::dataset::fragment::FileFragment;

use super::column_cache::ColumnCache;
use super::corpus::{BATCH_BYTES, BATCH_ROWS, IO_BUFFER_BYTES, batch_rows, files_of, version_infos};
use super::errors::lance_error;
use super::scan::{FragmentScanExec, RowFilter, ScanOf};
use super::state::{CorpusRow, SaeRow};
use crate::catalog::CorpusInfo;
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::schema;

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
    pub(super) dataset: Arc<Dataset>,
    schema: SchemaRef,
    cache: Arc<ColumnCache>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({} @ {})", self.info.name, self.version())
    }
}

/// The user's own columns of a corpus.
pub(super) fn user_columns(dataset: &Dataset) -> SchemaRef {
    let stored = Schema::from(dataset.schema());
    let ours = |name: &str| name == schema::DOC_ID || schema::is_added(name);
    Arc::new(Schema::new(stored.fields().iter().filter(|field| !ours(field.name())).cloned().collect::<Vec<_>>()))
}

impl Snapshot {
    /// `saes` are the dictionaries that the database has today.
    pub(super) async fn open(
        mut row: CorpusRow,
        latest: Dataset,
        as_of: AsOf,
        saes: &[SaeRow],
        cache: &Arc<ColumnCache>,
    ) -> Result<Self> {
        let number = match as_of {
            AsOf::Latest => None,
            AsOf::Version(number) => Some(number),
            AsOf::Micros(micros) => {
                let versions = version_infos(&latest, &row.name).await?;
                let found = versions.iter().rev().find(|version| version.micros <= micros);
                Some(found.ok_or_else(|| no_version(&row.name, "that time", &versions))?.version)
            }
        };
        let dataset = match number {
            Some(number) if number != latest.version_id() => match latest.checkout_version(number).await {
                Ok(dataset) => {
                    row.dictionaries = read_with(&row, &dataset, saes)?;
                    dataset
                }
                Err(_) => {
                    let versions = version_infos(&latest, &row.name).await?;
                    return Err(no_version(&row.name, &format!("version {number}"), &versions));
                }
            },
            _ => latest,
        };
        Ok(Self::new(row, dataset, cache))
    }

    pub(super) fn new(row: CorpusRow, dataset: Dataset, cache: &Arc<ColumnCache>) -> Self {
        let stored = Schema::from(dataset.schema());
        // A dictionary may have been added after this version was written.
        let has = |name: &String| stored.column_with_name(&schema::ids_column(name)).is_some();
        let info = CorpusInfo {
            columns: user_columns(&dataset),
            name: row.name,
            text_columns: row.text_columns,
            key: row.key,
            chat: row.chat,
            intact: true,
            dictionaries: row.dictionaries.into_iter().filter(has).collect(),
            created_micros: row.created_micros,
        };
        let fields: Vec<_> =
            stored.fields().iter().map(|field| field.as_ref().clone().with_metadata([].into())).collect();
        Self {
            info: Arc::new(info),
            schema: Arc::new(Schema::new(fields)),
            dataset: Arc::new(dataset),
            cache: Arc::clone(cache),
        }
    }

    /// Stored schema: `doc_id`, the user's columns, the added columns (see [`crate::schema`]).
    pub(crate) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Version number.
    pub(crate) fn version(&self) -> u64 {
        self.dataset.version_id()
    }

    /// Documents, by a count that the dataset keeps.
    pub(crate) async fn count(&self) -> Result<u64> {
        let count = self.dataset.count_rows(None).await;
        count.map(|count| count as u64).map_err(|error| self.failed("counting", error))
    }

    /// Plans a scan of the stored columns `projection` (in that order), of rows that satisfy all `filters` (expressions
    /// over stored columns, evaluated exactly, through an index where one fits), at most `limit` rows.
    ///
    /// The rows come in the order of their insertion. `projection` may be empty: batches then have rows but no columns.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] for a column that does not exist or a filter that cannot be evaluated.
    pub(crate) async fn scan(
        &self,
        projection: &[String],
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        for name in projection {
            if self.schema.column_with_name(name).is_none() && !name.starts_with("_row") {
                let names = self.schema.fields().iter().map(|field| field.name().as_str());
                let message =
                    format!("corpus '{}' has no column '{name}'{}", self.info.name, did_you_mean(name, names));
                return Err(Error::new(ErrorKind::Query, message));
            }
        }
        let is_stored = |name: &str| self.schema.column_with_name(name).is_some();
        let looked_at = filters.iter().flat_map(Expr::column_refs).map(|column| column.name.as_str());
        // Row addresses and versions are what only Lance's own scan knows.
        let readable = projection.iter().map(String::as_str).chain(looked_at).all(is_stored);
        if filters.is_empty() && limit.is_none() && readable && !projection.is_empty() {
            return Ok(Arc::new(self.fragment_scan(projection, None)?));
        }
        let mut scanner = self.dataset.scan();
        let failed = |error| self.failed("scanning", error);
        // Lance plans no scan of nothing: the identity is read (it is small) and dropped.
        let columns: Vec<&str> =
            if projection.is_empty() { vec![schema::DOC_ID] } else { projection.iter().map(String::as_str).collect() };
        scanner.project(&columns).map_err(failed)?;
        scanner.batch_size_bytes(BATCH_BYTES).io_buffer_size(IO_BUFFER_BYTES);
        let filter = conjunction(filters.iter().cloned());
        let filtered = filter.iter().flat_map(Expr::column_refs).map(|column| column.name.as_str());
        if let Some(rows) = self.text_batch_rows(filtered.chain(columns.iter().copied())) {
            scanner.batch_size(rows);
        }
        if let Some(filter) = filter.clone() {
            scanner.filter_expr(filter);
        }
        if let Some(limit) = limit {
            scanner.limit(Some(i64::try_from(limit).unwrap_or(i64::MAX)), None).map_err(failed)?;
        }
        let plan = scanner.create_plan().await.map_err(failed)?;
        if let Some(filter) = filter.filter(|_| limit.is_none() && readable && !projection.is_empty())
            && !asks_index(&plan)
        {
            return Ok(Arc::new(self.fragment_scan(projection, Some(filter))?));
        }
        let schema = plan.schema();
        let in_order = schema.fields().len() == projection.len()
            && schema.fields().iter().zip(projection).all(|(field, name)| field.name() == name);
        if in_order {
            return Ok(plan);
        }
        let mut expressions: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::with_capacity(projection.len());
        for name in projection {
            let column = Column::new_with_schema(name, &schema).map_err(|error| self.planned_wrongly(error))?;
            expressions.push((Arc::new(column), name.clone()));
        }
        Ok(Arc::new(ProjectionExec::try_new(expressions, plan).map_err(|error| self.planned_wrongly(error))?))
    }

    /// Rows of a batch that holds one of the text columns, if one of `columns` is.
    fn text_batch_rows<'a>(&self, mut columns: impl Iterator<Item = &'a str>) -> Option<usize> {
        let is_text = |name: &str| self.info.text_columns.iter().any(|text| text == name);
        columns.any(is_text).then(|| batch_rows(&self.dataset))
    }

    /// A scan without Lance's planner: no index, no limit, at least one column.
    fn fragment_scan(&self, projection: &[String], filter: Option<Expr>) -> Result<FragmentScanExec> {
        let columns_of = |names: &[&str]| -> Result<Vec<usize>> {
            let position = |name: &&str| self.schema.index_of(name).map_err(|error| self.planned_wrongly(error.into()));
            names.iter().map(position).collect()
        };
        let names: Vec<&str> = projection.iter().map(String::as_str).collect();
        let columns = self.schema.project(&columns_of(&names)?).map_err(|error| self.planned_wrongly(error.into()))?;
        let mut looked_at: Vec<&str> = Vec::new();
        let filter = match &filter {
            Some(filter) => {
                looked_at.extend(filter.column_refs().into_iter().map(|column| column.name.as_str()));
                looked_at.sort_unstable();
                Some(self.row_filter(filter, &columns_of(&looked_at)?).map_err(|error| self.planned_wrongly(error))?)
            }
            None => None,
        };
        let is_large = |name: &&str| *name == schema::EMBEDDING;
        let text_rows = self.text_batch_rows(names.iter().copied().chain(looked_at));
        Ok(FragmentScanExec::new(ScanOf {
            dataset: Arc::clone(&self.dataset),
            corpus: self.info.name.clone(),
            schema: Arc::new(columns),
            filter,
            batch_rows: text_rows.unwrap_or(BATCH_ROWS as usize),
            cache: (text_rows.is_none() && !names.iter().any(is_large)).then(|| Arc::clone(&self.cache)),
        }))
    }

    /// `filter` ready to be evaluated on the stored columns at these positions.
    pub(super) fn row_filter(&self, filter: &Expr, columns: &[usize]) -> datafusion::error::Result<RowFilter> {
        let schema = Arc::new(self.schema.project(columns)?);
        let known = DFSchema::try_from(Arc::clone(&schema))?;
        let typed = ExprSimplifier::new(SimplifyContext::default()).coerce(filter.clone(), &known)?;
        let predicate = create_physical_expr(&typed, &known, &ExecutionProps::new())?;
        Ok(RowFilter { predicate, schema })
    }

    /// Streams what [`Self::scan`] plans, in batches of at most a few thousand rows and of bounded size.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub(crate) async fn read(
        &self,
        projection: &[String],
        filters: &[Expr],
        mut each: impl FnMut(RecordBatch) -> Result<()> + Send,
    ) -> Result<()> {
        self.read_each(projection, filters, &mut each).await
    }

    /// The part of [`Self::read`] that is compiled once.
    fn read_each<'a>(
        &'a self,
        projection: &'a [String],
        filters: &'a [Expr],
        each: &'a mut (dyn FnMut(RecordBatch) -> Result<()> + Send),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let plan = self.scan(projection, filters, None).await?;
            let context = Arc::new(datafusion::execution::TaskContext::default());
            let mut stream =
                datafusion::physical_plan::execute_stream(plan, context).map_err(|error| self.read_failed(error))?;
            while let Some(batch) = stream.try_next().await.map_err(|error| self.read_failed(error))? {
                each(batch)?;
            }
            Ok(())
        })
    }

    fn planned_wrongly(&self, error: datafusion::error::DataFusionError) -> Error {
        Error::new(ErrorKind::Internal, format!("scanning corpus '{}'", self.info.name)).with_source(error)
    }

    fn read_failed(&self, error: datafusion::error::DataFusionError) -> Error {
        let error = Error::from(error);
        // Stored values are not a user's data that can be mended: what is wrong with them is damage.
        let kind = match error.kind() {
            ErrorKind::Data | ErrorKind::Internal => ErrorKind::Corrupt,
            other => other,
        };
        Error::new(kind, format!("reading corpus '{}': {error}", self.info.name))
    }

    pub(super) fn failed(&self, what: &str, error: lance::Error) -> Error {
        lance_error(&format!("{what} corpus '{}'", self.info.name), &error)
    }
}

/// The dictionaries that an older version was read with, in the order in which the corpus had got them, so that a version
/// answers as it did before one of them was taken away. One that was being added, and had not come to all parts of the
/// corpus that others had, is none of them.
///
/// # Errors
/// [`ErrorKind::NotFound`] if the database has one of them no more: its features have no names, and their numbers may be
/// those of others by now.
fn read_with(row: &CorpusRow, old: &Dataset, saes: &[SaeRow]) -> Result<Vec<String>> {
    let ids = schema::ids_column("");
    let stored = Schema::from(old.schema());
    let written = old.version().timestamp.timestamp_micros();
    let mut names = Vec::new();
    let there: Vec<&str> = stored.fields().iter().filter_map(|field| field.name().strip_prefix(&ids)).collect();
    let fragments = old.get_fragments();
    let has = |name: &str, fragment: &FileFragment| {
        let field = old.schema().field(&schema::ids_column(name));
        field.is_some_and(|field| !files_of(field, fragment.metadata()).is_empty())
    };
    for &name in &there {
        let is_everywhere =
            |fragment: &FileFragment| has(name, fragment) || !there.iter().any(|other| has(other, fragment));
        if !fragments.iter().all(is_everywhere) {
            continue;
        }
        // One of the same name that came later is another.
        if !saes.iter().any(|sae| sae.dictionary.name == name && sae.added_micros <= written) {
            let message = format!(
                "version {} of corpus '{}' was read with dictionary '{name}', which was removed from the database since; \
                 take a later version, which does not have it",
                old.version_id(),
                row.name
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Whether a plan of Lance's asks an index which rows there are.
fn asks_index(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.name().contains("Index") || plan.children().into_iter().any(asks_index)
}

fn no_version(corpus: &str, wanted: &str, versions: &[super::corpus::VersionInfo]) -> Error {
    let there = match (versions.first(), versions.last()) {
        (Some(first), Some(last)) => {
            let time = |micros: i64| {
                chrono::DateTime::from_timestamp_micros(micros).map_or_else(String::new, |time| time.to_rfc3339())
            };
            format!(
                "the versions kept are {} ({}) to {} ({})",
                first.version,
                time(first.micros),
                last.version,
                time(last.micros)
            )
        }
        _ => "it has no version".to_owned(),
    };
    Error::new(ErrorKind::NotFound, format!("corpus '{corpus}' has no commit of {wanted}; {there}"))
}
