//! DataFusion's rules that read fields of structs as near to the scan as they can, kept away from plans with UNION.
//!
//! In DataFusion 54.1 they take the projection off a branch of a UNION ALL, whose columns are then matched by their places
//! in the branch's table: wrong columns without a word, or a panic.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule};

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// A rule that leaves plans with a UNION, or with a query that refers to itself, as they are.
#[derive(Debug)]
struct OutsideUnions(Rule);

/// DataFusion's rules, in its order.
pub(crate) fn rules() -> Vec<Rule> {
    let guarded = |rule: Rule| match rule.name() {
        "extract_leaf_expressions" | "push_down_leaf_projections" => Arc::new(OutsideUnions(rule)),
        _ => rule,
    };
    Optimizer::new().rules.into_iter().map(guarded).collect()
}

fn has_union(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found = matches!(node, LogicalPlan::Union(_) | LogicalPlan::RecursiveQuery(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

impl OptimizerRule for OutsideUnions {
    fn name(&self) -> &str {
        self.0.name()
    }

    /// None, so that it sees the whole plan.
    fn apply_order(&self) -> Option<ApplyOrder> {
        None
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if has_union(&plan)? {
            return Ok(Transformed::no(plan));
        }
        match self.0.apply_order() {
            Some(ApplyOrder::TopDown) => plan.transform_down_with_subqueries(|node| self.0.rewrite(node, config)),
            Some(ApplyOrder::BottomUp) => plan.transform_up_with_subqueries(|node| self.0.rewrite(node, config)),
            None => self.0.rewrite(plan, config),
        }
    }
}
