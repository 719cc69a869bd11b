//! Analyzer rule: a filter such as `activation(features, f) > 0.5` also says `has_feature(features, f)`, because an
//! activation is 0 where the feature is absent. The index answers the second, so the first is computed for few documents.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, Filter, LogicalPlan, Operator, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;
use saequel_udfs::SharedSource;
use saequel_udfs::scalar::activation;
use saequel_udfs::scalar::has_feature::has_feature_udf;

/// See the module.
#[derive(Debug)]
pub(crate) struct ActivationFilter {
    has_feature: Arc<ScalarUDF>,
}

impl ActivationFilter {
    pub(crate) fn new(source: &SharedSource) -> Self {
        Self { has_feature: Arc::new(has_feature_udf(source)) }
    }

    /// `filter` with what its conditions on activations imply.
    fn extended(&self, filter: Filter) -> Result<Transformed<LogicalPlan>> {
        let has_feature = |args: &[Expr]| {
            Expr::ScalarFunction(ScalarFunction { func: Arc::clone(&self.has_feature), args: args.to_vec() })
        };
        let conditions = split_conjunction(&filter.predicate);
        let implied = conditions.into_iter().filter_map(where_present).map(has_feature).reduce(Expr::and);
        Ok(match implied {
            Some(implied) => {
                let predicate = implied.and(filter.predicate);
                Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?))
            }
            None => Transformed::no(LogicalPlan::Filter(filter)),
        })
    }
}

impl AnalyzerRule for ActivationFilter {
    fn name(&self) -> &'static str {
        "activation_filter"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let extended = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Filter(filter) => self.extended(filter),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(extended.data)
    }
}

/// Arguments of `activation` in a condition that no document without the feature satisfies.
fn where_present(condition: &Expr) -> Option<&[Expr]> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (args, op, bound) = match arguments(left) {
                Some(args) => (args, *op, right),
                None => (arguments(right)?, op.swap()?, left),
            };
            let implied = match op {
                Operator::Gt => constant(bound)? >= 0.0,
                Operator::GtEq | Operator::Eq => constant(bound)? > 0.0,
                _ => false,
            };
            implied.then_some(args)
        }
        Expr::Between(between) if !between.negated => {
            let args = arguments(&between.expr)?;
            (constant(&between.low)? > 0.0).then_some(args)
        }
        _ => None,
    }
}

/// Arguments of `activation(<column>, ...)`, casts aside.
fn arguments(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Cast(Cast { expr, .. }) => arguments(expr),
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == activation::DOC.name => {
            matches!(args.first(), Some(Expr::Column(_))).then_some(args)
        }
        _ => None,
    }
}

/// A constant number, casts aside.
fn constant(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Cast(Cast { expr, .. }) => constant(expr),
        Expr::Literal(value, _) => match value.cast_to(&DataType::Float64).ok()? {
            datafusion::common::ScalarValue::Float64(number) => number,
            _ => None,
        },
        _ => None,
    }
}
