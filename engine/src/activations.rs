//! `<corpus>_activations`: what is present in each document, one row a feature, for tools that know no functions.
//!
//! Exactly what is stored, which is what the analyses count. Conditions on `feature_id` and `label` become membership in the
//! stored lists, and so reach the index; conditions on `doc_id` go to the store as they are.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, ScalarValue, UnnestOptions, exec_err};
use datafusion::error::Result;
use datafusion::functions_nested::expr_fn::array_has;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TableProviderFilterPushDown, TableType, Volatility, cast, lit,
};
use datafusion::physical_plan::ExecutionPlan;
use saequel_udfs::{FeatureCatalog, FeatureId};

use crate::schema::{DOC_ID, activations_column, ids_column};
use crate::store::Snapshot;
use crate::table_provider::StoredTable;

/// Features whose conditions are sent to the index one by one; a longer list is filtered afterwards.
const MAX_INDEXED: usize = 64;

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
    fn dictionary(&self, dictionary: &str, filters: &[Expr]) -> Result<Option<LogicalPlanBuilder>> {
        let snapshot = &self.snapshot.0;
        let (ids, activations) = (ids_column(dictionary), activations_column(dictionary));
        let Some(known) = self.features.dictionaries().iter().find(|known| known.name == dictionary) else {
            return Ok(None);
        };
        // An older version may lack a dictionary that was added later.
        if snapshot.schema().field_with_name(&ids).is_err() {
            return Ok(None);
        }
        let range = known.first_id..known.first_id.saturating_add(known.width);
        let mut plan = StoredTable::scan_plan(&self.corpus, snapshot)?;
        for filter in filters {
            if is_about(filter, DOC_ID) {
                plan = plan.filter(filter.clone())?;
            } else if let Some(wanted) = self.wanted_features(filter) {
                let wanted: Vec<FeatureId> = wanted.into_iter().filter(|id| range.contains(id)).collect();
                if wanted.is_empty() {
                    return Ok(None);
                }
                if wanted.len() <= MAX_INDEXED {
                    let has = |id: FeatureId| array_has(col(&ids), lit(id));
                    if let Some(any) = wanted.iter().copied().map(has).reduce(Expr::or) {
                        plan = plan.filter(any)?;
                    }
                }
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

    /// Features that a filter such as `feature_id = 5` or `label IN ('x', 'y')` leaves; `None` if it says nothing of that
    /// kind.
    fn wanted_features(&self, filter: &Expr) -> Option<BTreeSet<FeatureId>> {
        let of = |expr: &Expr, values: &[&ScalarValue]| -> Option<BTreeSet<FeatureId>> {
            let mut wanted = BTreeSet::new();
            for value in values {
                match name_of(expr)? {
                    "feature_id" => match value.cast_to(&DataType::UInt32) {
                        Ok(ScalarValue::UInt32(Some(id))) => wanted.extend([id]),
                        _ => return None,
                    },
                    "label" => {
                        let label = value.try_as_str().flatten()?;
                        let labelled = self.features.features().iter().filter(|feature| feature.label == label);
                        wanted.extend(labelled.map(|feature| feature.id));
                    }
                    _ => return None,
                }
            }
            Some(wanted)
        };
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
                (expr, Expr::Literal(value, _)) | (Expr::Literal(value, _), expr) => of(expr, &[value]),
                _ => None,
            },
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
                let mut both = self.wanted_features(left)?;
                both.extend(self.wanted_features(right)?);
                Some(both)
            }
            Expr::InList(InList { expr, list, negated: false }) => {
                let values: Option<Vec<&ScalarValue>> = list
                    .iter()
                    .map(|item| if let Expr::Literal(value, _) = item { Some(value) } else { None })
                    .collect();
                of(expr, &values?)
            }
            _ => None,
        }
    }

    fn plan(&self, projection: Option<&Vec<usize>>, filters: &[Expr], limit: Option<usize>) -> Result<LogicalPlan> {
        let filters: Vec<Expr> =
            filters.iter().cloned().map(crate::table_provider::unqualified).collect::<Result<_>>()?;
        let mut union: Option<LogicalPlanBuilder> = None;
        for dictionary in &self.snapshot.0.info.dictionaries {
            if let Some(plan) = self.dictionary(dictionary, &filters)? {
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
        state.create_physical_plan(&self.plan(projection, filters, limit)?).await
    }
}

fn col(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Name of the column that an expression is, casts aside.
fn name_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        Expr::Cast(cast) => name_of(&cast.expr),
        _ => None,
    }
}

/// Whether `filter` reads the column `name` and no other.
fn is_about(filter: &Expr, name: &str) -> bool {
    let columns = filter.column_refs();
    !columns.is_empty() && columns.iter().all(|column| column.name == name)
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
