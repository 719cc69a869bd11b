//! `activation(features, feature)`: how strongly a document holds a feature, `max over tokens`, 0 where it is absent.

use std::sync::Arc;

use arrow::array::Float32Array;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::common::{Names, Source, check_count, check_features, check_name, resolve_constant};
use crate::SharedSource;
use crate::docs::{FunctionDoc, Kind};
use crate::features::FeaturesView;

const NAME: &str = "activation";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Scalar,
    syntax: "activation(features, feature)",
    text: "How strongly a document holds a feature: its largest activation over the tokens, 0 where the feature is \
           absent. For a concept it is the weighted maximum of its members, and 0 where one with a negative weight is \
           present. Null where the document was never encoded.",
    arguments: &[
        ("features", "features value: a corpus's column `features`, or `encode(text)`"),
        ("feature", "id, label or concept; a constant or a column"),
    ],
    example: "SELECT model, avg(activation(features, 'apology')) AS apology FROM answers GROUP BY model ORDER BY model",
};

/// See [`DOC`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Activation {
    source: Source,
    signature: Signature,
}

/// `activation(features, feature)`.
pub fn activation_udf(source: &SharedSource) -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Stable);
    ScalarUDF::from(Activation { source: Source(Arc::clone(source)), signature })
}

impl ScalarUDFImpl for Activation {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(NAME, DOC.syntax, types.len(), 2..=2)?;
        Ok(vec![check_features(NAME, "features", &types[0])?, check_name(NAME, "feature", &types[1])?])
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float32)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        if let Some(Some(name)) = args.scalar_arguments.get(1) {
            resolve_constant(NAME, &self.source.0.catalog(), name)?;
        }
        Ok(Arc::new(Field::new(NAME, DataType::Float32, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let names = Names::resolve(NAME, &self.source.0.catalog(), &args.args[1])?;
        let features = FeaturesView::try_new(NAME, &args.args[0].to_array(args.number_rows)?)?;
        let activation = |row: usize| {
            let members = names.get(row).filter(|_| !features.is_null(row))?;
            Some(members.activation(features.ids(row), features.activations(row)))
        };
        let values: Float32Array = (0..features.len()).map(activation).collect();
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells, error};

    #[tokio::test]
    async fn ids_labels_concepts_and_columns_name_features() {
        let source = answers();
        let sql = "SELECT activation(features, 'apology'), activation(features, 0), activation(features, 'polite'), \
                   activation(features, 'list') FROM answers WHERE prompt_id = 'p0' ORDER BY model";
        let rows = cells(&source, sql).await.unwrap();
        assert_eq!(rows, [["1.0", "1.0", "1.0", "0.0"], ["0.0", "0.0", "0.0", "1.0"]]);
        let sql = "SELECT name, sum(activation(features, name)) FROM answers, (VALUES ('hedge'), ('list'), (NULL)) AS t(name) \
                   GROUP BY name ORDER BY name";
        assert_eq!(cells(&source, sql).await.unwrap(), [["hedge", "40.0"], ["list", "30.0"], ["", ""]]);
        let sql =
            "SELECT activation(encode('so sorry, first of all'), 'polite'), activation(encode('sorry'), 'polite')";
        assert_eq!(cells(&source, sql).await.unwrap(), [["0.0", "1.0"]]);
    }

    #[tokio::test]
    async fn a_document_that_was_never_encoded_gives_null() {
        let source = answers();
        source.put_texts("gaps", &[Some("sorry"), None, Some("")], vec![]).unwrap();
        let rows = cells(&source, "SELECT activation(features, 'apology') FROM gaps").await.unwrap();
        assert_eq!(rows, [["1.0"], [""], ["0.0"]]);
        assert!(cells(&source, "SELECT activation(features, 0) FROM gaps WHERE false").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn mistakes_are_explained_at_planning() {
        let source = answers();
        let say = async |call: &str| error(&source, format!("EXPLAIN SELECT {call} FROM answers")).await;
        let message = say("activation(features, 'apolgy')").await;
        assert!(message.contains("activation: feature 'apolgy' not found; did you mean 'apology'?"), "{message}");
        assert!(say("activation(text, 'apology')").await.contains("expected a features value as 'features'"));
        assert!(say("activation(features)").await.contains("expected activation(features, feature), got 1 arguments"));
        assert!(say("activation(features, true)").await.contains("expected the id, label or concept"));
        assert!(say("activation(features, 44)").await.contains("feature 44 not found"));
    }
}
