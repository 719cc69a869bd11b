//! `<corpus>_activations`: what is present in each document, one row a feature, for tools that know no functions.
//!
//! Exactly what is stored, which is what the analyses count. Conditions on `feature_id`, `label` and `level` are evaluated
//! on the catalog and become membership in the stored lists, which the index answers; conditions on `doc_id` go to the
//! store as they are.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, RecordBatch, StringArray, StringBuilder, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DFSchema, ScalarValue, UnnestOptions, exec_err};
use datafusion::error::Result;
use datafusion::functions_nested::expr_fn::array_has_any;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TableProviderFilterPushDown, TableType, Volatility, cast, lit,
};
use datafusion::physical_plan::ExecutionPlan;
use saequel_udfs::{Dictionary, FeatureCatalog};

use crate::schema::{DOC_ID, activations_column, ids_column};
use crate::store::Snapshot;
use crate::table_provider::StoredTable;

/// A condition that a larger part of the features satisfies than one in so many leaves nearly all documents: it is not sent
/// to the index.
const MIN_SELECTIVITY: usize = 4;
/// Columns that a feature alone decides, as the catalog knows them.
const OF_FEATURE: [&str; 3] = ["feature_id", "label", "level"];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("doc_id", DataType::Utf8, true),
        Field::new("feature_id", DataType::UInt32, true),
        Field::new("label", DataType::Utf8, true),
        Field::new("level", DataType::Utf8, true),
        Field::new("activation", DataType::Float32, true),
    ]))
});

/// The long view of one version of a corpus.
#[derive(Debug)]
pub(crate) struct ActivationsTable {
    corpus: String,
    snapshot: SnapshotOf,
    features: Arc<FeatureCatalog>,
}

struct SnapshotOf(Snapshot);

impl std::fmt::Debug for SnapshotOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "version {}", self.0.version())
    }
}

impl ActivationsTable {
    pub(crate) fn new(corpus: &str, snapshot: Snapshot, features: Arc<FeatureCatalog>) -> Self {
        Self { corpus: corpus.to_owned(), snapshot: SnapshotOf(snapshot), features }
    }

    /// Plan of one dictionary's rows; `None` if the conditions leave none of it.
    fn dictionary(
        &self,
        dictionary: &str,
        filters: &[Expr],
        state: &dyn Session,
    ) -> Result<Option<LogicalPlanBuilder>> {
        let snapshot = &self.snapshot.0;
        let (ids, activations) = (ids_column(dictionary), activations_column(dictionary));
        let Some(known) = self.features.dictionaries().iter().find(|known| known.name == dictionary) else {
            return Ok(None);
        };
        // An older version may lack a dictionary that was added later.
        if snapshot.schema().field_with_name(&ids).is_err() {
            return Ok(None);
        }
        let mut plan = StoredTable::scan_plan(&self.corpus, snapshot)?;
        for filter in filters.iter().filter(|filter| is_about(filter, &[DOC_ID])) {
            plan = plan.filter(filter.clone())?;
        }
        if let Some(wanted) = self.wanted_features(known, filters, state)? {
            if wanted.is_empty() {
                return Ok(None);
            }
            if wanted.len() <= known.width as usize / MIN_SELECTIVITY {
                let list = ScalarValue::List(ScalarValue::new_list_nullable(&wanted, &DataType::UInt32));
                plan = plan.filter(array_has_any(col(&ids), lit(list)))?;
            }
        }
        let level = lit(known.level.as_str());
        let label = label_of(&self.features).call(vec![col("feature_id")]);
        let plan = plan
            .project(vec![col(DOC_ID), col(&ids).alias("feature_id"), col(&activations).alias("activation")])?
            .unnest_columns_with_options(
                vec![Column::new_unqualified("feature_id"), Column::new_unqualified("activation")],
                UnnestOptions::new().with_preserve_nulls(false),
            )?
            .project(vec![
                col(DOC_ID).alias("doc_id"),
                col("feature_id"),
                label.alias("label"),
                level.alias("level"),
                cast(col("activation"), DataType::Float32).alias("activation"),
            ])?;
        Ok(Some(plan))
    }

    /// Features of a dictionary that satisfy all conditions on features; `None` if there are no such conditions.
    fn wanted_features(
        &self,
        dictionary: &Dictionary,
        filters: &[Expr],
        state: &dyn Session,
    ) -> Result<Option<Vec<ScalarValue>>> {
        let conditions = filters.iter().filter(|filter| is_about(filter, &OF_FEATURE)).cloned();
        let Some(condition) = conditions.reduce(Expr::and) else { return Ok(None) };
        let ids = dictionary.first_id..dictionary.first_id.saturating_add(dictionary.width);
        let schema = Arc::new(SCHEMA.project(&[1, 2, 3])?);
        let labels = ids.clone().map(|id| Some(self.features.label(id)));
        let features = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(UInt32Array::from_iter_values(ids.clone())),
                Arc::new(labels.collect::<StringArray>()),
                Arc::new(ids.clone().map(|_| Some(dictionary.level.as_str())).collect::<StringArray>()),
            ],
        )?;
        let condition = state.create_physical_expr(condition, &DFSchema::try_from(schema)?)?;
        let satisfied = condition.evaluate(&features).and_then(|found| found.into_array(features.num_rows()));
        // A feature that the condition fails on may be in no document.
        let Ok(satisfied) = satisfied else { return Ok(None) };
        let satisfied = satisfied.as_boolean();
        let wanted = ids.enumerate().filter(|(row, _)| satisfied.is_valid(*row) && satisfied.value(*row));
        Ok(Some(wanted.map(|(_, id)| ScalarValue::UInt32(Some(id))).collect()))
    }

    fn plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<LogicalPlan> {
        let filters: Vec<Expr> =
            filters.iter().cloned().map(crate::table_provider::unqualified).collect::<Result<_>>()?;
        let mut union: Option<LogicalPlanBuilder> = None;
        for dictionary in &self.snapshot.0.info.dictionaries {
            if let Some(plan) = self.dictionary(dictionary, &filters, state)? {
                union = Some(match union {
                    Some(union) => union.union(plan.build()?)?,
                    None => plan,
                });
            }
        }
        let mut plan = match union {
            Some(plan) => plan,
            None => {
                let schema = datafusion::common::DFSchema::try_from(SCHEMA.as_ref().clone())?;
                let empty =
                    datafusion::logical_expr::EmptyRelation { produce_one_row: false, schema: Arc::new(schema) };
                LogicalPlanBuilder::from(LogicalPlan::EmptyRelation(empty))
            }
        };
        if let Some(all) = filters.into_iter().reduce(Expr::and) {
            plan = plan.filter(all)?;
        }
        if let Some(columns) = projection {
            plan = plan.project(columns.iter().map(|&column| col(SCHEMA.field(column).name())))?;
        }
        if limit.is_some() {
            plan = plan.limit(0, limit)?;
        }
        plan.build()
    }
}

#[async_trait]
impl TableProvider for ActivationsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // All are applied again above the scan that they narrow.
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        state.create_physical_plan(&self.plan(state, projection, filters, limit)?).await
    }
}

fn col(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Whether `filter` reads some of the columns `names` and no other.
fn is_about(filter: &Expr, names: &[&str]) -> bool {
    let columns = filter.column_refs();
    !columns.is_empty() && columns.iter().all(|column| names.contains(&column.name.as_str()))
}

/// `label_of(feature_id)`, over one picture of the catalog.
fn label_of(features: &Arc<FeatureCatalog>) -> ScalarUDF {
    let signature = Signature::exact(vec![DataType::UInt32], Volatility::Immutable);
    ScalarUDF::new_from_impl(LabelOf { features: Arc::clone(features), signature })
}

#[derive(Debug)]
struct LabelOf {
    features: Arc<FeatureCatalog>,
    signature: Signature,
}

impl PartialEq for LabelOf {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.features, &other.features)
    }
}

impl Eq for LabelOf {}

impl std::hash::Hash for LabelOf {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.features).hash(state);
    }
}

impl ScalarUDFImpl for LabelOf {
    fn name(&self) -> &'static str {
        "label_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(ids) = arrays.first().and_then(|array| array.as_primitive_opt::<UInt32Type>()) else {
            return exec_err!("label_of: expected feature ids");
        };
        let mut labels = StringBuilder::with_capacity(ids.len(), ids.len() * 16);
        for id in ids {
            labels.append_option(id.map(|id| self.features.label(id)));
        }
        Ok(ColumnarValue::Array(Arc::new(labels.finish())))
    }
}
