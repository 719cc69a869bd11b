//! Scalar functions, one a file.

pub mod named_argument;

use datafusion::logical_expr::ScalarUDF;

use crate::SharedSource;

/// All scalar functions.
pub fn functions(source: &SharedSource) -> Vec<ScalarUDF> {
    let _ = source;
    vec![named_argument::named_argument_udf()]
}
