//! `activation(features, feature)`: how strongly a document holds a feature, `max over tokens`, 0 where it is absent.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array};
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::ScalarUDF;

use super::common::{Names, OfFeature, check_features, udf_of_feature};
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
struct Activation;

/// `activation(features, feature)`.
pub fn activation_udf(source: &SharedSource) -> ScalarUDF {
    udf_of_feature::<Activation>(source)
}

impl OfFeature for Activation {
    const DOC: FunctionDoc = DOC;
    const RESULT: DataType = DataType::Float32;

    fn coerce_first(data_type: &DataType) -> Result<DataType> {
        check_features(NAME, "features", data_type)
    }

    fn compute(_source: &SharedSource, first: &ArrayRef, names: &Names, _third: Option<&ArrayRef>) -> Result<ArrayRef> {
        let features = FeaturesView::try_new(NAME, first)?;
        let activation = |row: usize| {
            let members = names.get(row).filter(|_| !features.is_null(row))?;
            Some(members.activation(features.ids(row), features.activations(row)))
        };
        Ok(Arc::new((0..features.len()).map(activation).collect::<Float32Array>()))
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
