//! `top_features(features, k)`: the strongest features of a document, by activation over the feature's 90th percentile.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, ListArray, StringArray, StructArray, UInt32Array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use datafusion::common::{exec_err, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::common::{Source, check_count, check_features};
use crate::SharedSource;
use crate::docs::{FunctionDoc, Kind};
use crate::features::FeaturesView;
use crate::rows::list_of;

const NAME: &str = "top_features";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Scalar,
    syntax: "top_features(features, k [, include_hidden])",
    text: "The k strongest features of a document as a list of structs `feature_id`, `label`, `activation`, strongest \
           first. Strength is the activation divided by the feature's 90th percentile over documents, so that features \
           with large numbers do not crowd out the others. Hidden features are left out unless `include_hidden` is \
           true. Null where the document was never encoded.",
    arguments: &[
        ("features", "features value"),
        ("k", "how many at most"),
        ("include_hidden", "truth value; default false"),
    ],
    example: "SELECT doc_id, unnest(top_features(features, 2)) AS feature FROM answers WHERE prompt_id = 'p0' ORDER BY doc_id",
};

/// See [`DOC`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TopFeatures {
    source: Source,
    signature: Signature,
}

/// `top_features(features, k [, include_hidden])`.
pub fn top_features_udf(source: &SharedSource) -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Stable);
    ScalarUDF::from(TopFeatures { source: Source(Arc::clone(source)), signature })
}

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("feature_id", DataType::UInt32, false),
        Field::new("label", DataType::Utf8, false),
        Field::new("activation", DataType::Float32, false),
    ])
}

impl ScalarUDFImpl for TopFeatures {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(NAME, DOC.syntax, types.len(), 2..=3)?;
        if !types[1].is_integer() {
            return plan_err!("{NAME}: expected a whole number as 'k', got {}", types[1]);
        }
        let mut coerced = vec![check_features(NAME, "features", &types[0])?, DataType::Int64];
        if let Some(flag) = types.get(2) {
            if *flag != DataType::Boolean {
                return plan_err!("{NAME}: expected true or false as 'include_hidden', got {flag}");
            }
            coerced.push(DataType::Boolean);
        }
        Ok(coerced)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(list_of(fields()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let catalog = self.source.0.catalog();
        let features = FeaturesView::try_new(NAME, &args.args[0].to_array(args.number_rows)?)?;
        let k = args.args[1].to_array(args.number_rows)?;
        let Some(k) = k.as_primitive_opt::<Int64Type>() else { return internal_err!("{NAME}: k was not coerced") };
        let hidden = match args.args.get(2) {
            Some(flag) => Some(flag.to_array(args.number_rows)?),
            None => None,
        };
        let hidden = hidden.as_ref().and_then(|flag| flag.as_boolean_opt());

        let (mut ids, mut labels, mut activations) = (Vec::new(), Vec::new(), Vec::new());
        let (mut lengths, mut valid) = (Vec::new(), Vec::new());
        for row in 0..features.len() {
            valid.push(!features.is_null(row) && k.is_valid(row));
            let wanted = match valid[row] {
                true => usize::try_from(k.value(row)),
                false => Ok(0),
            };
            let Ok(wanted) = wanted else { return exec_err!("{NAME}: k cannot be negative, got {}", k.value(row)) };
            let include_hidden = hidden.is_some_and(|flag| flag.is_valid(row) && flag.value(row));
            let mut strongest: Vec<(f32, u32, f32)> = Vec::new();
            for (id, activation) in features.ids(row).iter().zip(features.activations(row)) {
                let Some(feature) = catalog.feature(*id).filter(|feature| include_hidden || !feature.hidden) else {
                    continue;
                };
                let activation = activation.to_f32();
                strongest.push((activation / feature.scales().1, *id, activation));
            }
            strongest.sort_by(|x, y| y.0.total_cmp(&x.0).then_with(|| x.1.cmp(&y.1)));
            strongest.truncate(wanted);
            lengths.push(strongest.len());
            for (_, id, activation) in strongest {
                ids.push(id);
                labels.push(catalog.label(id));
                activations.push(activation);
            }
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(ids)),
            Arc::new(StringArray::from(labels)),
            Arc::new(Float32Array::from(activations)),
        ];
        let item = Arc::new(Field::new_list_field(DataType::Struct(fields()), true));
        let structs = Arc::new(StructArray::try_new(fields(), columns, None)?);
        let offsets = OffsetBuffer::from_lengths(lengths);
        let lists = ListArray::try_new(item, offsets, structs, Some(NullBuffer::from(valid)))?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{RecordBatch, StructArray};
    use arrow::datatypes::{Field, Schema};

    use crate::test_support::{answers, cells, error};
    use crate::{Dictionary, Feature, FeatureCatalog, FeaturesBuilder, Level, MemorySource};

    fn source() -> MemorySource {
        let dictionary = |name: &str, first_id| Dictionary {
            name: name.to_string(),
            reader: "r".to_string(),
            layer: 1,
            level: Level::Token,
            first_id,
            width: 2,
        };
        let feature = |id: u32, dictionary, q90, hidden| Feature {
            id,
            dictionary,
            label: format!("f{id}"),
            description: String::new(),
            label_source: String::new(),
            label_score: None,
            density: 0.0,
            max_activation: 0.0,
            q50: 0.0,
            q90,
            hidden,
            top_tokens: vec![],
            top_words: vec![],
        };
        let features = vec![
            feature(0, 0, 10.0, false),
            feature(1, 0, 1.0, false),
            feature(2, 1, 1.0, true),
            feature(3, 1, 0.0, false),
        ];
        let catalog = FeatureCatalog::new(vec![dictionary("x", 0), dictionary("y", 2)], features, vec![]);
        let source = MemorySource::new(catalog, |_| vec![]);
        let mut column = FeaturesBuilder::default();
        column.append([(0, 5.0), (1, 2.0), (2, 9.0), (3, 0.25), (99, 50.0)]);
        column.append_null();
        column.append([]);
        let column: StructArray = column.finish();
        let schema = Schema::new(vec![Field::new("features", crate::features::FEATURES_TYPE.clone(), true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column)]).unwrap();
        source.put_batches("t", vec![batch]).unwrap();
        source
    }

    #[tokio::test]
    async fn strongest_relative_to_the_feature_come_first() {
        let source = source();
        let rows = cells(&source, "SELECT top_features(features, 2) FROM t").await.unwrap();
        let first = "[{feature_id: 1, label: f1, activation: 2.0}, {feature_id: 0, label: f0, activation: 5.0}]";
        assert_eq!(rows, [[first], [""], ["[]"]]);
        let all = "SELECT array_length(top_features(features, 9)), array_length(top_features(features, 9, true)) FROM t LIMIT 1";
        assert_eq!(cells(&source, all).await.unwrap(), [["3", "4"]]);
    }

    #[tokio::test]
    async fn can_be_unnested_and_says_what_is_wrong() {
        let source = answers();
        let sql = "SELECT t['label'], count(*) FROM (SELECT unnest(top_features(features, 5)) AS t FROM answers) GROUP BY 1 ORDER BY 1";
        assert_eq!(
            cells(&source, sql).await.unwrap(),
            [["apology", "30"], ["hedge", "40"], ["list", "30"], ["thanks", "15"]]
        );
        assert!(
            error(&source, "SELECT top_features(features, -1) FROM answers")
                .await
                .contains("k cannot be negative, got -1")
        );
        assert!(
            error(&source, "SELECT top_features(features, 'x') FROM answers")
                .await
                .contains("a whole number as 'k', got Utf8")
        );
    }
}
