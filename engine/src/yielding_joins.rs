//! Joins that compute for long give other queries their turn, and end when they are cancelled.
//!
//! DataFusion's own rule makes leaves and exchanges yield. A nested loop join asks its inputs only once in billions of
//! pairs, so it must yield at its output. One that gives hardly any rows still computes for the buffered side times
//! one batch at a time.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;

/// The rule.
#[derive(Debug)]
pub(crate) struct YieldingJoins;

impl PhysicalOptimizerRule for YieldingJoins {
    fn name(&self) -> &'static str {
        "YieldingJoins"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrapped = plan.transform_up(|node| {
            if !matches!(node.name(), "NestedLoopJoinExec" | "CrossJoinExec") {
                return Ok(Transformed::no(node));
            }
            let node: Arc<dyn ExecutionPlan> = Arc::new(CooperativeExec::new(node));
            Ok(Transformed::yes(node))
        });
        Ok(wrapped?.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn a_join_of_every_pair_yields_at_its_output() {
        let series = "generate_series(1, 10)";
        let sql = format!("SELECT count(*) FROM {series} a, {series} b WHERE (a.value * b.value) % 7 = 3");
        let frame = SessionContext::new().sql(&sql).await.unwrap();
        let plan = frame.create_physical_plan().await.unwrap();
        let wrapped = YieldingJoins.optimize(plan, &ConfigOptions::new()).unwrap();
        let text = displayable(wrapped.as_ref()).indent(false).to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let join = lines.iter().position(|line| line.starts_with("NestedLoopJoinExec")).unwrap();
        assert_eq!(lines[join - 1], "CooperativeExec", "{text}");
    }
}
