//! Scalar functions, one a file.

pub mod activation;
pub(crate) mod common;
pub mod conversation;
pub mod encode;
pub mod feature_label;
pub mod feature_similarity;
pub mod has_feature;
pub mod highlight;
pub mod named_argument;
pub mod top_features;

use datafusion::logical_expr::ScalarUDF;

use crate::SharedSource;
use crate::docs::FunctionDoc;

/// Documentation of all scalar functions that users call, in the order in which they are explained.
pub const DOCS: &[FunctionDoc] = &[
    activation::DOC,
    has_feature::DOC,
    top_features::DOC,
    feature_similarity::DOC,
    encode::DOC,
    highlight::DOC,
    conversation::DOC,
    feature_label::DOC,
];

/// All scalar functions.
pub fn functions(source: &SharedSource) -> Vec<ScalarUDF> {
    vec![
        activation::activation_udf(source),
        has_feature::has_feature_udf(source),
        top_features::top_features_udf(source),
        feature_similarity::feature_similarity_udf(),
        encode::encode_udf(source),
        highlight::highlight_udf(source),
        conversation::conversation_udf(),
        feature_label::feature_label_udf(source),
        named_argument::named_argument_udf(),
    ]
}
