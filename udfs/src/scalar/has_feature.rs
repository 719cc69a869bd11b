//! `has_feature(features, feature)`: whether a feature is present, as a filter that an index can answer.
//!
//! With a constant feature the call is rewritten to `array_has(features['ids'], id)` or `array_has_any(...)`, which is
//! what the table provider hands to the index of the ids. The literals have the type of the stored ids, `UInt32`: with
//! another type the index would silently not be used.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_nested::expr_fn::{array_has, array_has_any};
use datafusion::logical_expr::{Expr, ScalarUDF, lit, not};

use super::common::{Members, Names, OfFeature, check_features, udf_of_feature};
use crate::SharedSource;
use crate::docs::{FunctionDoc, Kind};
use crate::features::{FeatureId, FeaturesView};

const NAME: &str = "has_feature";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Scalar,
    syntax: "has_feature(features, feature)",
    text: "Whether a feature is present in a document. A concept is present where a member with a positive weight is \
           and none with a negative weight is. In WHERE with a constant feature it is answered by the index. Null where \
           the document was never encoded.",
    arguments: &[
        ("features", "features value: a corpus's column `features`, or `encode(text)`"),
        ("feature", "id, label or concept; a constant or a column"),
    ],
    example: "SELECT count(*) AS polite_answers FROM answers WHERE has_feature(features, 'polite')",
};

/// See [`DOC`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct HasFeature;

/// `has_feature(features, feature)`.
pub fn has_feature_udf(source: &SharedSource) -> ScalarUDF {
    udf_of_feature::<HasFeature>(source)
}

/// That a list of ids (`UInt32`) has any of some features, as an index on it can answer.
pub fn any_of(ids: &Expr, features: &[FeatureId]) -> Expr {
    match features {
        [] => lit(false),
        [id] => array_has(ids.clone(), lit(*id)),
        several => {
            let values: Vec<ScalarValue> = several.iter().map(|id| ScalarValue::UInt32(Some(*id))).collect();
            let list = ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::UInt32));
            array_has_any(ids.clone(), lit(list))
        }
    }
}

/// The filter that says the same as `members` are present in a document with the list `ids`.
fn filter(ids: &Expr, members: &Members) -> Expr {
    let positive: Vec<FeatureId> = members.positive.iter().map(|(id, _)| *id).collect();
    match members.negative.as_slice() {
        [] => any_of(ids, &positive),
        negative => any_of(ids, &positive).and(not(any_of(ids, negative))),
    }
}

impl OfFeature for HasFeature {
    const DOC: FunctionDoc = DOC;
    const RESULT: DataType = DataType::Boolean;

    fn coerce_first(data_type: &DataType) -> Result<DataType> {
        check_features(NAME, "features", data_type)
    }

    fn compute(_source: &SharedSource, first: &ArrayRef, names: &Names, _third: Option<&ArrayRef>) -> Result<ArrayRef> {
        let features = FeaturesView::try_new(NAME, first)?;
        let present = |row: usize| {
            let members = names.get(row).filter(|_| !features.is_null(row))?;
            Some(members.present(features.ids(row)))
        };
        Ok(Arc::new((0..features.len()).map(present).collect::<BooleanArray>()))
    }

    fn simplify(features: &Expr, members: Option<&Members>) -> Option<Expr> {
        Some(match members {
            Some(members) => filter(&get_field(features.clone(), "ids"), members),
            None => lit(ScalarValue::Boolean(None)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow::datatypes::SchemaRef;
    use async_trait::async_trait;
    use datafusion::catalog::{Session, TableProvider};
    use datafusion::logical_expr::{TableProviderFilterPushDown, TableType};
    use datafusion::physical_plan::ExecutionPlan;

    use super::*;
    use crate::test_support::{answers, cells, error};
    use crate::{Concept, MemorySource};

    /// A table that takes every filter and tells which it got.
    #[derive(Debug)]
    struct Taking(Arc<dyn TableProvider>, Mutex<Vec<String>>);

    #[async_trait]
    impl TableProvider for Taking {
        fn schema(&self) -> SchemaRef {
            self.0.schema()
        }

        fn table_type(&self) -> TableType {
            TableType::Base
        }

        fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
            Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
        }

        async fn scan(
            &self,
            state: &dyn Session,
            projection: Option<&Vec<usize>>,
            filters: &[Expr],
            limit: Option<usize>,
        ) -> Result<Arc<dyn ExecutionPlan>> {
            *self.1.lock().unwrap() = filters.iter().map(ToString::to_string).collect();
            self.0.scan(state, projection, &[], limit).await
        }
    }

    /// The filters that reach the table provider, and the rows that come back.
    async fn pushed(source: &MemorySource, name: &str) -> (Vec<String>, usize) {
        let session = source.session().unwrap();
        let table = session.deregister_table("t").unwrap().unwrap();
        let table = Arc::new(Taking(table, Mutex::default()));
        session.register_table("t", Arc::clone(&table) as _).unwrap();
        let sql = format!("SELECT doc_id FROM t WHERE has_feature(features, '{name}')");
        let rows = session.sql(&sql).await.unwrap().count().await.unwrap();
        let filters = table.1.lock().unwrap().clone();
        (filters, rows)
    }

    #[tokio::test]
    async fn constants_become_filters_on_ids_that_reach_the_table() {
        let features: &[(&str, &[&str])] = &[("refusal", &["cannot"]), ("refusal", &["unable"]), ("other", &["x"])];
        let concept = Concept { name: "gentle".to_string(), members: vec![(2, 1.0), (0, -1.0), (1, -0.5)] };
        let source = MemorySource::with_words(features, vec![concept]);
        source.put_texts("t", &[Some("cannot x"), Some("unable"), Some("x"), None], vec![]).unwrap();
        let ids = "get_field(features, Utf8(\"ids\"))";
        assert_eq!(pushed(&source, "other").await, (vec![format!("array_has({ids}, UInt32(2))")], 2));
        assert_eq!(pushed(&source, "Refusal").await, (vec![format!("array_has_any({ids}, List([0, 1]))")], 2));
        let both = vec![format!("array_has({ids}, UInt32(2))"), format!("NOT array_has_any({ids}, List([0, 1]))")];
        assert_eq!(pushed(&source, "gentle").await, (both, 1));
    }

    #[tokio::test]
    async fn constant_and_column_say_the_same() {
        let source = answers();
        source.put_texts("gaps", &[Some("sorry"), None, Some("sorry first"), Some("")], vec![]).unwrap();
        for name in ["apology", "polite", "list", "2"] {
            let constant = cells(&source, format!("SELECT has_feature(features, '{name}') FROM gaps")).await.unwrap();
            let column = format!("SELECT has_feature(features, name) FROM gaps, (VALUES ('{name}')) AS t(name)");
            assert_eq!(cells(&source, column).await.unwrap(), constant, "{name}");
        }
        let polite = cells(&source, "SELECT has_feature(features, 'polite') FROM gaps").await.unwrap();
        assert_eq!(polite, [["true"], [""], ["false"], ["false"]]);
    }

    #[tokio::test]
    async fn unknown_features_are_found_at_planning() {
        let message = error(&answers(), "SELECT * FROM answers WHERE has_feature(features, 'hegde')").await;
        assert!(message.contains("has_feature: feature 'hegde' not found; did you mean 'hedge'?"), "{message}");
    }
}
