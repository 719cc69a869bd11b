//! `encode(text)`: the features of any text, as the reader and the dictionaries see it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result;
use datafusion::functions::encoding;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::common::{Source, check_count, off_runtime};
use crate::SharedSource;
use crate::docs::{FunctionDoc, Kind};
use crate::features::{FEATURES_TYPE, FeaturesBuilder};

const NAME: &str = "encode";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Scalar,
    syntax: "encode(text)",
    text: "Features of any text, with all dictionaries, as import would store them. Loads the reader on first use. \
           Null for null; a text without a token has no features. (`encode(binary, format)` is DataFusion's function \
           of that name: with two arguments it gives hexadecimal or base64.)",
    arguments: &[("text", "text; a constant or a column")],
    example: "SELECT top_features(encode('Sorry, perhaps later'), 5) AS found",
};

/// See [`DOC`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Encode {
    source: Source,
    signature: Signature,
}

/// `encode(text)`.
pub fn encode_udf(source: &SharedSource) -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Stable);
    ScalarUDF::from(Encode { source: Source(Arc::clone(source)), signature })
}

/// DataFusion's `encode(binary, format)`, which goes on under the same name.
fn binary_encode() -> Arc<ScalarUDF> {
    encoding::encode()
}

impl ScalarUDFImpl for Encode {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if let [_, _] = types {
            return Ok(vec![DataType::Binary, DataType::Utf8]);
        }
        check_count(NAME, DOC.syntax, types.len(), 1..=1)?;
        match &types[0] {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Ok(vec![DataType::Utf8]),
            DataType::Dictionary(_, value) if value.is_string() => Ok(vec![DataType::Utf8]),
            other => plan_err!("{NAME}: expected a text, got {other}"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, _] => binary_encode().return_type(types),
            _ => Ok(FEATURES_TYPE.clone()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.args.len() == 2 {
            return binary_encode().invoke_with_args(args);
        }
        let (texts, constant) = match &args.args[0] {
            ColumnarValue::Scalar(text) => (text.to_array()?, true),
            ColumnarValue::Array(texts) => (Arc::clone(texts), false),
        };
        let Some(texts) = texts.as_string_opt::<i32>() else {
            return internal_err!("{NAME}: text was not coerced, got {}", texts.data_type());
        };
        // Each distinct text is read once.
        let mut position: HashMap<&str, usize> = HashMap::new();
        let mut distinct: Vec<&str> = Vec::new();
        for text in texts.iter().flatten() {
            position.entry(text).or_insert_with(|| {
                distinct.push(text);
                distinct.len() - 1
            });
        }
        let encoded = if distinct.is_empty() { Vec::new() } else { off_runtime(|| self.source.0.encode(&distinct))? };
        if encoded.len() != distinct.len() {
            return internal_err!("{NAME}: {} texts went in, {} came out", distinct.len(), encoded.len());
        }
        let mut features = FeaturesBuilder::default();
        for text in texts {
            match text.and_then(|text| position.get(text)) {
                Some(row) => {
                    let encoded = &encoded[*row];
                    features.append(encoded.ids.iter().copied().zip(encoded.activations.iter().copied()));
                }
                None => features.append_null(),
            }
        }
        let features = features.finish();
        if constant {
            return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&features, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(features)))
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells, error};

    #[tokio::test]
    async fn texts_are_encoded_as_stored() {
        let source = answers();
        let sql = "SELECT count(*) FROM answers WHERE encode(text) = features";
        assert_eq!(cells(&source, sql).await.unwrap(), [["120"]]);
        assert_eq!(
            cells(&source, "SELECT encode('') IS NULL, encode(NULL) IS NULL").await.unwrap(),
            [["false", "true"]]
        );
        assert!(error(&source, "SELECT encode(1)").await.contains("encode: expected a text, got Int64"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn works_on_every_runtime() {
        let sql = "SELECT count(*) FROM answers WHERE has_feature(encode(text), 'apology')";
        assert_eq!(cells(&answers(), sql).await.unwrap(), [["30"]]);
    }

    #[tokio::test]
    async fn binary_encoding_goes_on() {
        assert_eq!(cells(&answers(), "SELECT encode('saequel', 'hex')").await.unwrap(), [["7361657175656c"]]);
    }
}
