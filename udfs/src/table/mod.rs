//! Table functions, one a file, and [`exec`]: how their work becomes a table.

pub mod correlate;
pub mod diff;
pub mod echoes;
pub mod exec;
pub mod pairing;

use std::sync::Arc;

use datafusion::catalog::TableFunctionImpl;

use crate::SharedSource;

/// All table functions with their names.
pub fn functions(source: &SharedSource) -> Vec<(&'static str, Arc<dyn TableFunctionImpl>)> {
    vec![("diff", diff::diff_udtf(source)), ("correlate", correlate::correlate_udtf(source))]
}
