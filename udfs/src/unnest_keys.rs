//! Analyzer rule: after `unnest`, the keys of a group are no longer unique.
//!
//! DataFusion 54 lets the result of UNNEST keep the functional dependencies of its input, so that in
//! `SELECT model, unnest(feature_frequency(features)) ... GROUP BY model` it takes `model` for unique, and drops the
//! second key of `ORDER BY model, docs`, the second column of a later `GROUP BY model, label`, and `DISTINCT`. Until
//! that is mended there, this rule passes the keys through a function that the planner does not see through.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
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
        assert!(rows.windows(2).all(|pair| (&pair[0][0], &pair[1][1]) < (&pair[1][0], &pair[0][1])), "{rows:?}");
        let sql = "SELECT model, unnest(feature_frequency(features)) AS f FROM answers GROUP BY model ORDER BY model, f['label']";
        let rows = cells(&answers(), sql).await;
        assert!(rows.is_ok() || rows.unwrap_err().to_string().contains("f"), "either sorted or refused");
    }

    #[tokio::test]
    async fn later_groups_and_distinct_count() {
        let source = answers();
        let sql = format!("SELECT DISTINCT model FROM {UNNESTED} ORDER BY model");
        assert_eq!(cells(&source, sql).await.unwrap(), [["a"], ["b"]]);
        let sql = format!("SELECT model, f['label'] = 'hedge', count(*) FROM {UNNESTED} GROUP BY 1, 2 ORDER BY 1, 2");
        let rows = cells(&source, sql).await.unwrap();
        assert_eq!(rows[0][..2], ["a", "false"]);
        assert_eq!(rows[1], ["a", "true", "1"]);
        assert_eq!(rows.len(), 4);
        let sql = format!("SELECT count(*) FROM {UNNESTED} u JOIN answers USING (model)");
        assert!(cells(&source, sql).await.is_ok());
        let sql = format!(
            "SELECT model FROM {UNNESTED} WHERE model = 'a' AND f['label'] IN (SELECT f['label'] FROM {UNNESTED})"
        );
        assert!(cells(&source, sql).await.unwrap().iter().all(|row| row == &["a"]));
    }
}
