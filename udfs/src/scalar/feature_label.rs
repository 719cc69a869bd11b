//! `feature_label(id)`: the label of a feature.

use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::common::{Source, check_count};
use crate::SharedSource;
use crate::docs::{FunctionDoc, Kind};

const NAME: &str = "feature_label";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Scalar,
    syntax: "feature_label(id)",
    text: "The label of a feature; null if there is no feature with this id.",
    arguments: &[("id", "whole number; a column or a constant")],
    example: "SELECT feature_label(1) AS one, feature_label(1000000) AS none",
};

/// See [`DOC`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct FeatureLabel {
    source: Source,
    signature: Signature,
}

/// `feature_label(id)`.
pub fn feature_label_udf(source: &SharedSource) -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Stable);
    ScalarUDF::from(FeatureLabel { source: Source(Arc::clone(source)), signature })
}

impl ScalarUDFImpl for FeatureLabel {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(NAME, DOC.syntax, types.len(), 1..=1)?;
        if !types[0].is_integer() && types[0] != DataType::Null {
            return plan_err!("{NAME}: expected the id of a feature, got {}", types[0]);
        }
        Ok(vec![DataType::Int64])
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let catalog = self.source.0.catalog();
        let ids = args.args[0].to_array(args.number_rows)?;
        let Some(ids) = ids.as_primitive_opt::<Int64Type>() else { return internal_err!("{NAME}: id was not coerced") };
        let label = |id: Option<i64>| {
            let feature = u32::try_from(id?).ok().and_then(|id| catalog.feature(id))?;
            Some(feature.label.as_str())
        };
        let labels: StringArray = ids.iter().map(label).collect();
        Ok(ColumnarValue::Array(Arc::new(labels)))
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells, error};

    #[tokio::test]
    async fn gives_labels_or_null() {
        let source = answers();
        let sql = "SELECT feature_label(1), feature_label(77), feature_label(-1), feature_label(NULL)";
        assert_eq!(cells(&source, sql).await.unwrap(), [["list", "", "", ""]]);
        assert!(
            error(&source, "SELECT feature_label('list')").await.contains("expected the id of a feature, got Utf8")
        );
    }
}
