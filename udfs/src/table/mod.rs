//! Table functions, one a file, and [`exec`]: how their work becomes a table.

pub mod cluster;
pub mod diff;
mod document_columns;
pub mod exec;
pub mod pairing;
pub mod retrieve;
pub mod search_features;

use std::sync::Arc;

use datafusion::catalog::TableFunctionImpl;

use crate::SharedSource;

/// All table functions with their names.
pub fn functions(source: &SharedSource) -> Vec<(&'static str, Arc<dyn TableFunctionImpl>)> {
    vec![
        ("cluster", cluster::cluster_udtf(source)),
        ("cluster_summary", cluster::cluster_summary_udtf(source)),
        ("diff", diff::diff_udtf(source)),
        ("retrieve", retrieve::retrieve_udtf(source)),
        ("search_features", search_features::search_features_udtf(source)),
    ]
}
