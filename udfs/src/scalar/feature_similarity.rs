//! `feature_similarity(a, b, measure)`: how alike two documents are in their features. See [`crate::kernels::similarity`].

use std::sync::Arc;

use arrow::array::Float64Array;
use arrow::datatypes::DataType;
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::common::{check_count, check_features};
use crate::args::{constant, did_you_mean};
use crate::docs::{FunctionDoc, Kind};
use crate::features::FeaturesView;
use crate::kernels::similarity::{MEASURES, Measure};

const NAME: &str = "feature_similarity";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Scalar,
    syntax: "feature_similarity(a, b [, measure])",
    text: "How alike two features values are. `cosine` and `dot` use activations, `jaccard` (shared over all) and \
           `overlap` (shared over the smaller) only which features are present. 0 where one has no features, null where \
           one was never encoded.",
    arguments: &[
        ("a, b", "features values"),
        ("measure", "`cosine` (default), `jaccard`, `dot` or `overlap`; a constant"),
    ],
    example: "SELECT doc_id, feature_similarity(features, encode('sorry, perhaps'), 'jaccard') AS likeness FROM answers \
              ORDER BY likeness DESC, doc_id LIMIT 3",
};

/// See [`DOC`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct FeatureSimilarity {
    signature: Signature,
}

/// `feature_similarity(a, b [, measure])`.
pub fn feature_similarity_udf() -> ScalarUDF {
    ScalarUDF::from(FeatureSimilarity { signature: Signature::user_defined(Volatility::Immutable) })
}

impl ScalarUDFImpl for FeatureSimilarity {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(NAME, DOC.syntax, types.len(), 2..=3)?;
        let mut coerced = vec![check_features(NAME, "a", &types[0])?, check_features(NAME, "b", &types[1])?];
        coerced.extend(types.get(2).map(|_| DataType::Utf8));
        Ok(coerced)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let measure = match args.args.get(2) {
            None => Measure::Cosine,
            Some(value) => match constant(NAME, "measure", value)?.try_as_str().flatten() {
                None => Measure::Cosine,
                Some(name) => match Measure::parse(name) {
                    Some(measure) => measure,
                    None => {
                        let hint = did_you_mean(name, MEASURES);
                        return plan_err!(
                            "{NAME}: unknown measure '{name}'{hint}; expected one of {}",
                            MEASURES.join(", ")
                        );
                    }
                },
            },
        };
        let a = FeaturesView::try_new(NAME, &args.args[0].to_array(args.number_rows)?)?;
        let b = FeaturesView::try_new(NAME, &args.args[1].to_array(args.number_rows)?)?;
        let likeness = |row: usize| {
            let side = |view: &'_ FeaturesView| !view.is_null(row);
            (side(&a) && side(&b))
                .then(|| measure.between((a.ids(row), a.activations(row)), (b.ids(row), b.activations(row))))
        };
        let values: Float64Array = (0..a.len()).map(likeness).collect();
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells, error};

    #[tokio::test]
    async fn compares_values_and_explains_mistakes() {
        let source = answers();
        let of = async |measure: &str| {
            let sql =
                format!("SELECT feature_similarity(encode('sorry perhaps'), encode('sorry first second'){measure})");
            cells(&source, sql).await.unwrap()
        };
        assert_eq!(of(", 'jaccard'").await, [["0.3333333333333333"]]);
        assert_eq!(of(", 'dot'").await, [["1.0"]]);
        assert_eq!(of(", 'Overlap'").await, [["0.5"]]);
        assert_eq!(of("").await, of(", 'cosine'").await);
        let null =
            "SELECT feature_similarity(encode(NULL), encode('sorry')), feature_similarity(encode(''), encode('sorry'))";
        assert_eq!(cells(&source, null).await.unwrap(), [["", "0.0"]]);
        let wrong = error(&source, "SELECT feature_similarity(features, features, 'cosin') FROM answers").await;
        assert!(wrong.contains("unknown measure 'cosin'; did you mean 'cosine'?"), "{wrong}");
    }
}
