//! `highlight(text, feature [, conversation])`: the text with «marks» around the tokens on which a feature fires.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{internal_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ScalarUDF;

use super::common::{Names, OfFeature, off_runtime, udf_of_feature};
use super::conversation::{self, CONVERSATION_TYPE, messages};
use crate::SharedSource;
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::TokenFeatures;
use crate::features::FeatureId;

const NAME: &str = "highlight";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Scalar,
    syntax: "highlight(text, feature [, conversation])",
    text: "The text with « and » around the tokens on which the feature (or a positive member of the concept) fires; \
           neighbouring tokens share their marks. The text is read again, so restrict the rows first. It is read alone, or \
           in a conversation of which the last message is the text. Null for null.",
    arguments: &[
        ("text", "text; a column or a constant"),
        ("feature", "id, label or concept; a constant or a column"),
        ("conversation", "what was said up to the text and with it, as `conversation(role, text, ...)` gives it"),
    ],
    example: "SELECT highlight(text, 'apology') AS marked FROM answers WHERE has_feature(features, 'apology') \
              ORDER BY doc_id LIMIT 1",
};

/// See [`DOC`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Highlight;

/// `highlight(text, feature [, conversation])`.
pub fn highlight_udf(source: &SharedSource) -> ScalarUDF {
    udf_of_feature::<Highlight>(source)
}

/// Puts marks around the tokens on which one of the features fires. Marks join where tokens touch.
pub(crate) fn mark(text: &str, tokens: &[TokenFeatures], features: &[FeatureId]) -> String {
    let mut marked = String::with_capacity(text.len() + 16);
    let mut done = 0;
    let mut open = false;
    for token in tokens {
        let fires = fires(token, features);
        let (Some(_), Some(_)) = (text.get(done..token.start), text.get(token.start..token.end)) else { continue };
        if open && (!fires || token.start > done) {
            marked.push('»');
            open = false;
        }
        marked.push_str(&text[done..token.start]);
        if fires && !open {
            marked.push('«');
            open = true;
        }
        marked.push_str(&text[token.start..token.end]);
        done = token.end;
    }
    if open {
        marked.push('»');
    }
    marked.push_str(&text[done..]);
    marked
}

/// Whether one of the features fires on a token.
pub(crate) fn fires(token: &TokenFeatures, features: &[FeatureId]) -> bool {
    features.iter().any(|id| token.features.binary_search_by_key(id, |(id, _)| *id).is_ok())
}

impl OfFeature for Highlight {
    const DOC: FunctionDoc = DOC;
    const RESULT: DataType = DataType::Utf8;

    fn coerce_first(data_type: &DataType) -> Result<DataType> {
        if !data_type.is_string() && *data_type != DataType::Null {
            return plan_err!("{NAME}: expected a text, got {data_type}");
        }
        Ok(DataType::Utf8)
    }

    fn third() -> Option<(DataType, &'static str)> {
        Some((CONVERSATION_TYPE.clone(), conversation::DOC.syntax))
    }

    fn compute(source: &SharedSource, first: &ArrayRef, names: &Names, third: Option<&ArrayRef>) -> Result<ArrayRef> {
        let Some(texts) = first.as_string_opt::<i32>() else { return internal_err!("{NAME}: text was not coerced") };
        let mut marked = StringBuilder::new();
        off_runtime(|| {
            (0..texts.len()).try_for_each(|row| {
                match names.get(row).filter(|_| texts.is_valid(row)) {
                    Some(members) => {
                        let text = texts.value(row);
                        let positive: Vec<FeatureId> = members.positive.iter().map(|(id, _)| *id).collect();
                        let said = third.map(|third| messages(third, row)).unwrap_or_default();
                        marked.append_value(mark(text, &source.token_features(text, &said, &positive)?, &positive));
                    }
                    None => marked.append_null(),
                }
                Ok::<_, DataFusionError>(())
            })
        })?;
        Ok(Arc::new(marked.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{answers, cells};

    #[test]
    fn touching_tokens_share_their_marks() {
        let token = |start, end, fires: bool| TokenFeatures {
            start,
            end,
            features: if fires { vec![(3, 1.0)] } else { vec![] },
        };
        let text = "apolo-gise, é ok";
        let tokens =
            [token(0, 5, true), token(5, 6, true), token(6, 10, true), token(12, 14, true), token(15, 17, false)];
        assert_eq!(mark(text, &tokens, &[3]), "«apolo-gise», «é» ok");
        assert_eq!(mark(text, &[], &[3]), text);
        let broken = [token(0, 13, true), token(90, 99, true), token(4, 2, true)];
        assert_eq!(mark(text, &broken, &[3]), text, "places that are none are passed over");
    }

    #[tokio::test]
    async fn marks_rows_of_a_query() {
        let sql = "SELECT highlight('Sorry, so sorry', 'apology'), highlight(NULL, 'apology'), highlight('none', 0)";
        assert_eq!(cells(&answers(), sql).await.unwrap(), [["«Sorry», so «sorry»", "", "none"]]);
    }
}
