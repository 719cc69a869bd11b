//! Analyzer rule: after `unnest`, the keys of a group are no longer unique.
//!
//! DataFusion 54 lets the result of UNNEST keep the functional dependencies of its input, so that in
//! `SELECT model, unnest(feature_frequency(features)) AS f ... GROUP BY model` it takes `model` for unique. It then drops
//! the second key of `ORDER BY model, f['docs']`, drops `DISTINCT`, and makes of a later `GROUP BY model` a
//! `GROUP BY model, f`. Until that is mended there, this rule takes such added columns out of GROUP BY (unless they are
//! used), and passes the keys through a function that the planner does not see through.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::builder::add_group_by_exprs_from_dependencies;
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

/// See the module.
#[derive(Debug)]
pub struct UnnestedKeys {
    repeated: Arc<ScalarUDF>,
}

impl Default for UnnestedKeys {
    fn default() -> Self {
        let signature = Signature::any(1, Volatility::Immutable);
        Self { repeated: Arc::new(ScalarUDF::from(Repeated { signature })) }
    }
}

impl AnalyzerRule for UnnestedKeys {
    fn name(&self) -> &str {
        "unnested_keys"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let plan = plan
            .transform_down_with_subqueries(|node| {
                let LogicalPlan::Projection(projection) = &node else { return Ok(Transformed::no(node)) };
                let mut used = used_by(&projection.expr);
                match without_added_columns(&projection.input, &mut used)? {
                    Some(input) => Ok(Transformed::yes(node.with_new_exprs(node.expressions(), vec![input])?)),
                    None => Ok(Transformed::no(node)),
                }
            })?
            .data;
        let mut changed = false;
        let rewritten = plan.transform_up_with_subqueries(|node| {
            if let LogicalPlan::Unnest(unnest) = &node
                && let Some(input) = self.forget_keys(&unnest.input)?
            {
                changed = true;
                return Ok(Transformed::yes(node.with_new_exprs(Vec::new(), vec![input])?));
            }
            // What is above has copied the dependencies.
            if changed { Ok(Transformed::yes(node.recompute_schema()?)) } else { Ok(Transformed::no(node)) }
        })?;
        Ok(rewritten.data)
    }
}

fn used_by<'a>(exprs: impl IntoIterator<Item = &'a Expr>) -> HashSet<Column> {
    exprs.into_iter().flat_map(|expr| expr.column_refs().into_iter().cloned().collect::<Vec<_>>()).collect()
}

/// Takes the columns out of GROUP BY that the planner added because it took a key for unique, and that nobody uses.
/// `node` is what a SELECT list is computed from; `None` if nothing changes.
fn without_added_columns(node: &LogicalPlan, used: &mut HashSet<Column>) -> Result<Option<LogicalPlan>> {
    match node {
        LogicalPlan::Filter(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
            used.extend(used_by(&node.expressions()));
            match without_added_columns(node.inputs()[0], used)? {
                Some(input) => node.with_new_exprs(node.expressions(), vec![input]).map(Some),
                None => Ok(None),
            }
        }
        LogicalPlan::Aggregate(aggregate) if is_unnested(&aggregate.input) => {
            let groups = &aggregate.group_expr;
            let is_given = |n_given: &usize| {
                let given = groups[..*n_given].to_vec();
                add_group_by_exprs_from_dependencies(given, aggregate.input.schema()).is_ok_and(|all| all == *groups)
            };
            let n_given = (0..groups.len()).find(is_given).unwrap_or(groups.len());
            let is_used = |expr: &Expr| expr.try_as_col().is_none_or(|column| used.contains(column));
            let (given, added) = groups.split_at(n_given);
            let kept: Vec<Expr> = given.iter().chain(added.iter().filter(|expr| is_used(expr))).cloned().collect();
            if kept.len() == groups.len() {
                return Ok(None);
            }
            let aggregate = Aggregate::try_new(Arc::clone(&aggregate.input), kept, aggregate.aggr_expr.clone())?;
            Ok(Some(LogicalPlan::Aggregate(aggregate)))
        }
        _ => Ok(None),
    }
}

/// Whether rows come out of UNNEST, with nothing between that would make keys unique again.
fn is_unnested(node: &LogicalPlan) -> bool {
    match node {
        LogicalPlan::Unnest(_) => true,
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => false,
        node => node.inputs().into_iter().any(is_unnested),
    }
}

impl UnnestedKeys {
    /// The same rows from a plan that promises no unique key; `None` if it promises none already.
    fn forget_keys(&self, input: &LogicalPlan) -> Result<Option<LogicalPlan>> {
        let schema = input.schema();
        let keys: Vec<usize> =
            schema.functional_dependencies().iter().flat_map(|key| key.source_indices.clone()).collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let columns = schema.iter().enumerate().map(|(position, (relation, field))| {
            let column = Expr::Column(Column::new(relation.cloned(), field.name()));
            if !keys.contains(&position) {
                return column;
            }
            self.repeated.call(vec![column]).alias_qualified(relation.cloned(), field.name())
        });
        LogicalPlanBuilder::from(input.clone()).project(columns.collect::<Vec<_>>())?.build().map(Some)
    }
}

/// `repeated_key(value)`: the value.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Repeated {
    signature: Signature,
}

impl ScalarUDFImpl for Repeated {
    fn name(&self) -> &str {
        "repeated_key"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args[0].clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells};

    const UNNESTED: &str =
        "(SELECT model, unnest(feature_frequency(features)) AS f FROM answers WHERE model <> 'x' GROUP BY model)";

    #[tokio::test]
    async fn later_sort_keys_count() {
        let sql = format!("SELECT model, f['label'] AS label FROM {UNNESTED} ORDER BY model, label DESC");
        let rows = cells(&answers(), sql).await.unwrap();
        assert_eq!(rows.len(), 5);
        assert!(rows.windows(2).all(|pair| (&pair[0][0], &pair[1][1]) < (&pair[1][0], &pair[0][1])), "{rows:?}");
    }

    #[tokio::test]
    async fn later_groups_and_distinct_count() {
        let source = answers();
        let sql = format!("SELECT DISTINCT model FROM {UNNESTED} ORDER BY model");
        assert_eq!(cells(&source, sql).await.unwrap(), [["a"], ["b"]]);
        let sql = format!("SELECT model, f['label'] = 'hedge', count(*) FROM {UNNESTED} GROUP BY 1, 2 ORDER BY 1, 2");
        let rows = cells(&source, sql).await.unwrap();
        assert_eq!(rows, [["a", "false", "2"], ["a", "true", "1"], ["b", "false", "1"], ["b", "true", "1"]]);
        let sql = format!("SELECT model, count(*) AS n FROM {UNNESTED} GROUP BY model HAVING count(*) > 2 ORDER BY n");
        assert_eq!(cells(&source, sql).await.unwrap(), [["a", "3"]]);
        let sql = format!("SELECT model, f FROM {UNNESTED} GROUP BY model, f");
        assert_eq!(cells(&source, sql).await.unwrap().len(), 5, "columns of GROUP BY that are used stay");
        let sql = format!("SELECT count(*) FROM {UNNESTED} u JOIN answers USING (model)");
        assert!(cells(&source, sql).await.is_ok());
        let sql = format!(
            "SELECT model FROM {UNNESTED} WHERE model = 'a' AND f['label'] IN (SELECT f['label'] FROM {UNNESTED})"
        );
        assert_eq!(cells(&source, sql).await.unwrap(), [["a"], ["a"], ["a"]]);
    }
}
