//! Table functions, one a file, and [`exec`]: how their work becomes a table.

pub mod cluster;
mod control;
pub mod correlate;
pub mod diff;
mod document_columns;
pub mod echoes;
mod examples;
pub mod exec;
mod once;
mod pair_words;
pub mod pairing;
mod places;
pub mod retrieve;
pub mod search_features;
pub mod similar_features;
mod topics;

use std::sync::Arc;

use datafusion::catalog::TableFunctionImpl;

use crate::SharedSource;
use crate::docs::FunctionDoc;

/// Documentation of all table functions, in the order in which they are explained.
pub const DOCS: &[FunctionDoc] = &[
    diff::DOC,
    correlate::DOC,
    cluster::DOC,
    cluster::SUMMARY_DOC,
    retrieve::DOC,
    retrieve::LEARNED_DOC,
    search_features::DOC,
    similar_features::DOC,
];

/// All table functions with their names.
pub fn functions(source: &SharedSource) -> Vec<(&'static str, Arc<dyn TableFunctionImpl>)> {
    vec![
        ("diff", diff::diff_udtf(source)),
        ("correlate", correlate::correlate_udtf(source)),
        ("cluster", cluster::cluster_udtf(source)),
        ("cluster_summary", cluster::cluster_summary_udtf(source)),
        ("retrieve", retrieve::retrieve_udtf(source)),
        ("learned_features", retrieve::learned_features_udtf(source)),
        ("search_features", search_features::search_features_udtf(source)),
        ("similar_features", similar_features::similar_features_udtf(source)),
    ]
}
