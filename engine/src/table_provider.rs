//! A corpus as a table.
//!
//! [`StoredTable`] is the dataset as it is stored: it takes projections, limits and the filters that the store evaluates
//! exactly. [`CorpusView`] is what SQL shows of it: a logical view that makes one `features` value of each pair of stored
//! columns. Because it is a view, DataFusion's own rules push filters through it, and [`FeatureFields`] takes the value apart
//! again where only one half is needed, so that counting ids never reads activations and
//! `has_feature(features, 5)` becomes `array_has(_ids_x, 5)`, which the store's index answers.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, Fields, SchemaRef, UInt32Type};
use async_trait::async_trait;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue, exec_err, plan_err};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::functions_nested::expr_fn::array_has;
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TableProviderFilterPushDown, TableType, Volatility, lit,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::sql::TableReference;
use saequel_udfs::features::{ACTIVATIONS_TYPE, FEATURES_TYPE, IDS_TYPE};
use saequel_udfs::scalar::conversation::conversation_udf;

use crate::join_features::{JOIN_IDS, join_features};

use crate::namespace::{STORED, Viewer};
use crate::schema::{CONVERSATION, DOC_ID, EMBEDDING, N_SPANS, N_TOKENS, TEXT};
use crate::schema::{activations_column, explained_column, fvu_column, ids_column, is_added, sql};
use crate::store::Snapshot;

/// One version of a corpus as it is stored.
pub(crate) struct StoredTable {
    snapshot: Snapshot,
    schema: SchemaRef,
}

impl std::fmt::Debug for StoredTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredTable").field("corpus", &self.snapshot.info.name).finish_non_exhaustive()
    }
}

impl StoredTable {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let schema = snapshot.schema();
        Self { snapshot, schema }
    }

    /// A plan that scans it, under its name in schema `stored`.
    pub(crate) fn scan_plan(name: &str, snapshot: &Snapshot) -> Result<LogicalPlanBuilder> {
        let source = provider_as_source(Arc::new(Self::new(snapshot.clone())));
        LogicalPlanBuilder::scan(TableReference::partial(STORED, name), source, None)
    }
}

#[async_trait]
impl TableProvider for StoredTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let supports = |filter: &&Expr| -> Result<TableProviderFilterPushDown> {
            Ok(if is_exact(&stored_form((*filter).clone())?) {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Unsupported
            })
        };
        filters.iter().map(supports).collect()
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filters = filters.iter().cloned().map(stored_form).collect::<Result<Vec<_>>>()?;
        let names: Vec<String> = match projection {
            Some(columns) => columns.iter().map(|&column| self.schema.field(column).name().clone()).collect(),
            None => self.schema.fields().iter().map(|field| field.name().clone()).collect(),
        };
        if !names.is_empty() {
            return Ok(self.snapshot.scan(&names, &filters, limit).await?);
        }
        // Only the number of rows is wanted: read the smallest column and drop it.
        let narrow = if self.schema.field_with_name(N_TOKENS).is_ok() { N_TOKENS } else { DOC_ID };
        let plan = self.snapshot.scan(&[narrow.to_owned()], &filters, limit).await?;
        Ok(Arc::new(ProjectionExec::try_new(Vec::<ProjectionExpr>::new(), plan)?))
    }
}

/// `filter` over stored columns only, without table names; lists of ids are compared in their own type, so that an index
/// on them can be used.
pub(crate) fn stored_form(filter: Expr) -> Result<Expr> {
    let bare = |expr: Expr| -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::new_unqualified(column.name))),
            other => match field_of_features(&other) {
                Some(part) => Transformed::yes(part),
                None => Transformed::no(other),
            },
        })
    };
    let bare = filter.transform_up(bare)?.data;
    Ok(among_each(bare)?.data.transform_up(own_type)?.data)
}

/// `expr` with bare column names.
pub(crate) fn unqualified(expr: Expr) -> Result<Expr> {
    let bare = |expr: Expr| {
        Ok(match expr {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::new_unqualified(column.name))),
            other => Transformed::no(other),
        })
    };
    Ok(expr.transform_up(bare)?.data)
}

/// `array_has(CAST(ids AS List<Int64>), 5)`, which an integer literal is coerced to, as `array_has(ids, 5)`; so for lists.
fn own_type(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(ScalarFunction { func, mut args }) = expr else { return Ok(Transformed::no(expr)) };
    if let [Expr::Cast(Cast { expr: list, .. }), Expr::Literal(value, metadata)] = args.as_slice()
        && matches!(list.as_ref(), Expr::Column(column) if column.name.starts_with(&ids_column("")))
        && let Some(own) = in_own_type(func.name(), value)
    {
        args = vec![list.as_ref().clone(), Expr::Literal(own, metadata.clone())];
        return Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args })));
    }
    Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })))
}

/// What a function on a stored list of ids looks for, in the type of the ids; `None` if it has no such value.
fn in_own_type(function: &str, value: &ScalarValue) -> Option<ScalarValue> {
    match function {
        "array_has" if value.data_type().is_integer() => {
            value.cast_to(&DataType::UInt32).ok().filter(|id| !id.is_null())
        }
        // 6150.7 is no id, and a cast would make one of it.
        "array_has_any" | "array_has_all" if !is_list_of_integers(&value.data_type()) => None,
        "array_has_any" | "array_has_all" => match value.cast_to(&IDS_TYPE).ok()? {
            // Nulls and no value at all are left to DataFusion.
            ScalarValue::List(list)
                if list.is_valid(0) && !list.values().is_empty() && list.values().null_count() == 0 =>
            {
                Some(ScalarValue::List(list))
            }
            _ => None,
        },
        _ => None,
    }
}

fn is_list_of_integers(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type().is_integer()
        }
        _ => false,
    }
}

/// Whether the store evaluates `filter` exactly and cheaply: comparisons, `IN`, `BETWEEN`, `LIKE`, `IS NULL` and
/// membership in a list, of stored columns and constants, joined by `AND`, `OR` and `NOT`.
fn is_exact(filter: &Expr) -> bool {
    match filter {
        Expr::Column(_) | Expr::Literal(..) => true,
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And | Operator::Or => is_exact(left) && is_exact(right),
            Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                is_operand(left) && is_operand(right)
            }
            _ => false,
        },
        Expr::Not(inner) => is_exact(inner),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => is_operand(inner),
        Expr::InList(InList { expr, list, .. }) => {
            is_operand(expr) && list.iter().all(|item| matches!(item, Expr::Literal(..)))
        }
        Expr::Between(between) => is_operand(&between.expr) && is_operand(&between.low) && is_operand(&between.high),
        Expr::Like(like) => {
            !like.case_insensitive
                && like.escape_char.is_none()
                && is_operand(&like.expr)
                && matches!(like.pattern.as_ref(), Expr::Literal(..))
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            matches!(func.name(), "array_has" | "array_has_any" | "array_has_all")
                && matches!(&args[..], [Expr::Column(_), Expr::Literal(..)])
        }
        _ => false,
    }
}

fn is_operand(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) | Expr::Literal(..) => true,
        Expr::Cast(Cast { expr, .. }) => matches!(expr.as_ref(), Expr::Column(_)),
        _ => false,
    }
}

/// A corpus as SQL shows it.
#[derive(Debug)]
pub(crate) struct CorpusView(ViewTable);

impl CorpusView {
    /// `name` is what the query calls it, with its version.
    pub(crate) fn try_new(name: &str, snapshot: Snapshot, viewer: Viewer) -> Result<Self> {
        let schema = snapshot.schema();
        let info = &snapshot.info;
        let stored = |name: &str| schema.field_with_name(name).is_ok().then(|| col(name));
        let mut exprs = Vec::new();
        for field in schema.fields() {
            if !is_added(field.name()) {
                exprs.push(col(field.name()));
            }
        }
        for (column, shown) in [(N_TOKENS, sql::N_TOKENS), (N_SPANS, sql::N_SPANS)] {
            exprs.extend(stored(column).map(|column| column.alias(shown)));
        }
        let mut pairs = Vec::new();
        for (i, dictionary) in info.dictionaries.iter().enumerate() {
            for (column, shown) in [(fvu_column(dictionary), sql::FVU), (explained_column(dictionary), sql::EXPLAINED)]
            {
                exprs.extend(stored(&column).map(|column| column.alias(shown_column(shown, i, dictionary))));
            }
            // An older version may lack a dictionary that was added later.
            if let (Some(ids), Some(activations)) =
                (stored(&ids_column(dictionary)), stored(&activations_column(dictionary)))
            {
                pairs.extend([ids, activations]);
            }
        }
        if !pairs.is_empty() {
            exprs.push(FEATURES_OF.call(pairs).alias(sql::FEATURES));
        }
        if viewer == Viewer::Function {
            exprs.extend(stored(EMBEDDING));
            exprs.push(joined_text(&schema, &info.text_columns)?.alias(TEXT));
            if let Some(chat) = &info.chat {
                let mut said = Vec::with_capacity(2 * chat.columns.len());
                for (role, column) in &chat.columns {
                    said.extend([lit(role.as_str()), text_column(&schema, column)?]);
                }
                exprs.push(CONVERSATION_OF.call(said).alias(CONVERSATION));
            }
        }
        let plan = StoredTable::scan_plan(name, &snapshot)?.project(exprs)?.build()?;
        Ok(Self(ViewTable::new(plan, None)))
    }
}

/// `fvu`, `fvu_<dictionary>`; likewise `explained`.
pub(crate) fn shown_column(what: &str, position: usize, dictionary: &str) -> String {
    if position == 0 { what.to_owned() } else { format!("{what}_{}", dictionary.replace('-', "_")) }
}

/// The text columns, those that are not null, joined by a blank line; null where all are.
fn joined_text(schema: &SchemaRef, columns: &[String]) -> Result<Expr> {
    let mut texts = Vec::new();
    for name in columns {
        texts.push(text_column(schema, name)?);
    }
    match texts.as_slice() {
        [] => Ok(lit(ScalarValue::Utf8(None))),
        [only] => Ok(only.clone()),
        several => {
            let joined = datafusion::functions::string::expr_fn::concat_ws(lit("\n\n"), several.to_vec());
            let any = several.iter().cloned().map(Expr::is_not_null).reduce(Expr::or);
            match any {
                Some(any) => datafusion::logical_expr::when(any, joined).end(),
                None => Ok(joined),
            }
        }
    }
}

/// A column as text.
fn text_column(schema: &SchemaRef, name: &str) -> Result<Expr> {
    Ok(match schema.field_with_name(name)?.data_type() {
        DataType::Utf8 => col(name),
        _ => datafusion::logical_expr::cast(col(name), DataType::Utf8),
    })
}

/// See [`saequel_udfs::scalar::conversation`].
static CONVERSATION_OF: LazyLock<ScalarUDF> = LazyLock::new(conversation_udf);

/// A column by its exact name.
fn col(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

#[async_trait]
impl TableProvider for CorpusView {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        self.0.get_logical_plan()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.0.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.scan(state, projection, filters, limit).await
    }
}

/// `features_of(ids, activations, ids, activations, ...)`: one `features` value of the columns of one or several dictionaries;
/// null where every list of ids is null.
pub(crate) static FEATURES_OF: LazyLock<ScalarUDF> = LazyLock::new(|| ScalarUDF::new_from_impl(FeaturesOf::new()));

#[derive(Debug, PartialEq, Eq, Hash)]
struct FeaturesOf(Signature);

impl FeaturesOf {
    fn new() -> Self {
        Self(Signature::variadic_any(Volatility::Immutable))
    }
}

impl ScalarUDFImpl for FeaturesOf {
    fn name(&self) -> &'static str {
        "features_of"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let is_pair = |pair: &[DataType]| pair[0] == *IDS_TYPE && pair[1] == *ACTIVATIONS_TYPE;
        match types.as_chunks::<2>() {
            ([_, ..], []) if types.chunks(2).all(is_pair) => Ok(FEATURES_TYPE.clone()),
            _ => plan_err!("features_of: expected lists of ids and activations in turn, got {types:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let DataType::Struct(fields) = &*FEATURES_TYPE else { return exec_err!("features_of: no struct") };
        let dictionaries = arrays.chunks_exact(2).map(|pair| {
            let features = StructArray::try_new(Fields::clone(fields), pair.to_vec(), pair[0].nulls().cloned())?;
            Ok(Arc::new(features) as ArrayRef)
        });
        let dictionaries = dictionaries.collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array(match dictionaries.as_slice() {
            [only] => Arc::clone(only),
            several => join_features(several)?,
        }))
    }
}

/// What reads only a part of a `features` value, as an expression over the stored columns: its ids, its activations where
/// there is one dictionary, and whether it is null.
fn field_of_features(expr: &Expr) -> Option<Expr> {
    let ids = |columns: &[Expr]| columns.iter().step_by(2).cloned().collect::<Vec<_>>();
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "get_field" => {
            let [value, Expr::Literal(field, _)] = args.as_slice() else { return None };
            let columns = columns_of_features(value)?;
            match (field.try_as_str().flatten()?, columns) {
                ("ids", [ids, _]) => Some(ids.clone()),
                ("ids", several) => Some(JOIN_IDS.call(ids(several))),
                ("activations", [_, activations]) => Some(activations.clone()),
                _ => None,
            }
        }
        Expr::IsNull(value) => ids(columns_of_features(value)?).into_iter().map(Expr::is_null).reduce(Expr::and),
        Expr::IsNotNull(value) => ids(columns_of_features(value)?).into_iter().map(Expr::is_not_null).reduce(Expr::or),
        _ => None,
    }
}

/// `filter` with [`among_joined`] in the place of what it stands for, where that keeps the same rows: below `AND` and
/// `OR` alone, for which null and false are the same. Elsewhere (`NOT`, `IS FALSE`, a column of a result) they are not,
/// and a document that lacks the ids of one dictionary would get null instead of false.
fn among_each(filter: Expr) -> Result<Transformed<Expr>> {
    filter.transform_down(|expr| {
        if matches!(&expr, Expr::BinaryExpr(BinaryExpr { op: Operator::And | Operator::Or, .. })) {
            return Ok(Transformed::no(expr));
        }
        Ok(match among_joined(&expr) {
            Some(among) => Transformed::new(among, true, TreeNodeRecursion::Jump),
            None => Transformed::new(expr, false, TreeNodeRecursion::Jump),
        })
    })
}

/// Whether ids are among the joined ids of several dictionaries: among those of one of them, each of which has an index.
/// Null instead of false where the ids of one dictionary are null.
fn among_joined(expr: &Expr) -> Option<Expr> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let [list, Expr::Literal(value, _)] = args.as_slice() else { return None };
    let joined = match list {
        Expr::Cast(Cast { expr, .. }) => expr.as_ref(),
        joined => joined,
    };
    let Expr::ScalarFunction(ScalarFunction { func: join, args: lists }) = joined else { return None };
    if join.name() != JOIN_IDS.name() {
        return None;
    }
    let own = in_own_type(func.name(), value)?;
    let in_one_of = |call: &dyn Fn(Expr) -> Expr| lists.iter().cloned().map(call).reduce(Expr::or);
    match (func.name(), own) {
        ("array_has_all", ScalarValue::List(ids)) => {
            let ids = ids.values().as_primitive_opt::<UInt32Type>()?;
            ids.values()
                .iter()
                .map(|id| in_one_of(&|list| array_has(list, lit(*id))))
                .collect::<Option<Vec<_>>>()?
                .into_iter()
                .reduce(Expr::and)
        }
        (_, own) => in_one_of(&|list| func.call(vec![list, Expr::Literal(own.clone(), None)])),
    }
}

/// The arguments of a call of `features_of`.
fn columns_of_features(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.inner().is::<FeaturesOf>() => Some(args),
        _ => None,
    }
}

/// Optimizer rule: takes a `features` value apart where only its ids or activations are read.
#[derive(Debug)]
pub(crate) struct FeatureFields;

impl OptimizerRule for FeatureFields {
    fn name(&self) -> &'static str {
        "feature_fields"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let names = NamePreserver::new(&plan);
        let is_filter = matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::TableScan(_));
        let rewritten = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let rewritten = expr.transform_up(|expr| {
                Ok(match field_of_features(&expr) {
                    Some(part) => Transformed::yes(part),
                    None => Transformed::no(expr),
                })
            })?;
            let rewritten = if is_filter { rewritten.transform_data(among_each)? } else { rewritten };
            Ok(if rewritten.transformed { rewritten.update_data(|expr| name.restore(expr)) } else { rewritten })
        })?;
        if rewritten.transformed { rewritten.map_data(LogicalPlan::recompute_schema) } else { Ok(rewritten) }
    }
}
