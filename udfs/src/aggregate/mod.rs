//! Aggregates, one a file, each giving a list of structs; and `accumulate`: what they share.

pub(crate) mod accumulate;
pub mod feature_centroid;
pub mod feature_diff;
pub mod feature_frequency;
pub mod feature_pairs;

use datafusion::logical_expr::AggregateUDF;

use crate::SharedSource;
use crate::docs::FunctionDoc;

/// Documentation of all aggregates, in the order in which they are explained.
pub const DOCS: &[FunctionDoc] =
    &[feature_frequency::DOC, feature_diff::DOC, feature_pairs::DOC, feature_centroid::DOC];

/// All aggregates.
pub fn functions(source: &SharedSource) -> Vec<AggregateUDF> {
    vec![
        feature_frequency::feature_frequency_udaf(source),
        feature_diff::feature_diff_udaf(source),
        feature_pairs::feature_pairs_udaf(source),
        feature_centroid::feature_centroid_udaf(source),
    ]
}
