//! `named_argument(name, value)`: what `name => value` in a call of a table function is planned as.
//!
//! It has no value of its own; [`crate::args::Arguments`] takes it apart. It is volatile so that the planner does not
//! try to compute it.

use arrow::datatypes::DataType;
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::args::NAMED_ARGUMENT;

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct NamedArgument {
    signature: Signature,
}

/// `named_argument(name, value)`.
pub fn named_argument_udf() -> ScalarUDF {
    ScalarUDF::from(NamedArgument { signature: Signature::any(2, Volatility::Volatile) })
}

impl ScalarUDFImpl for NamedArgument {
    fn name(&self) -> &str {
        NAMED_ARGUMENT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, value] => Ok(value.clone()),
            _ => plan_err!("{NAMED_ARGUMENT}: expected a name and a value"),
        }
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        plan_err!("{NAMED_ARGUMENT}: only table functions take arguments by name")
    }
}
