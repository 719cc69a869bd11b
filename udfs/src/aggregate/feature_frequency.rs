//! `feature_frequency(features)`: in how many documents of a group each feature is.

use std::ops::RangeInclusive;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::AggregateUDF;
use datafusion::logical_expr::function::AccumulatorArgs;

use super::accumulate::{Aggregation, constant, udaf};
use crate::SharedSource;
use crate::catalog::FeatureCatalog;
use crate::docs::{FunctionDoc, Kind};
use crate::features::{FeatureId, FeaturesView};
use crate::kernels::sums::{GroupState, features_of};
use crate::rows::Columns;
use crate::scalar::common::Source;

const NAME: &str = "feature_frequency";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Aggregate,
    syntax: "feature_frequency(features [, include_hidden])",
    text: "In how many documents of the group each feature is: a list of structs `feature_id`, `label`, `docs`, \
           `frequency` (share of the documents that were encoded), most frequent first. An empty group gives an empty \
           list.",
    arguments: &[("features", "features value"), ("include_hidden", "truth value; default false")],
    example: "SELECT model, unnest(feature_frequency(features)) AS feature FROM answers GROUP BY model ORDER BY model",
};

/// See [`DOC`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FeatureFrequency {
    source: Source,
    include_hidden: bool,
}

/// `feature_frequency(features [, include_hidden])`.
pub fn feature_frequency_udaf(source: &SharedSource) -> AggregateUDF {
    udaf::<FeatureFrequency>(source)
}

fn columns(catalog: &FeatureCatalog, rows: &[(FeatureId, u64, f64)]) -> Columns {
    let mut columns = Columns::default();
    columns.features(("feature_id", "label"), catalog, rows.iter().map(|row| row.0));
    columns.counts("docs", rows.iter().map(|row| row.1));
    columns.numbers("frequency", rows.iter().map(|row| row.2));
    columns
}

impl Aggregation for FeatureFrequency {
    const DOC: FunctionDoc = DOC;
    const N_ARGUMENTS: RangeInclusive<usize> = 1..=2;

    fn coerce(others: &[DataType]) -> Result<Vec<DataType>> {
        match others.first() {
            Some(flag) if *flag != DataType::Boolean => {
                plan_err!("{NAME}: expected true or false as 'include_hidden', got {flag}")
            }
            _ => Ok(others.to_vec()),
        }
    }

    fn columns() -> Columns {
        columns(&FeatureCatalog::default(), &[])
    }

    fn new(source: Source, args: &AccumulatorArgs) -> Result<Self> {
        let include_hidden = constant(NAME, "include_hidden", args, 1)? == Some(&ScalarValue::Boolean(Some(true)));
        Ok(Self { source, include_hidden })
    }

    fn update(&self, state: &mut GroupState, features: &FeaturesView, _values: &[ArrayRef], row: usize) {
        state.n_docs[0] += 1;
        features.ids(row).iter().for_each(|id| state.add(*id, [1.0, 0.0]));
    }

    fn finish(&self, groups: &[GroupState]) -> Result<ArrayRef> {
        let catalog = self.source.0.catalog();
        let (mut rows, mut lengths) = (Vec::new(), Vec::new());
        for group in groups {
            let shown =
                |id: FeatureId| catalog.feature(id).is_some_and(|feature| self.include_hidden || !feature.hidden);
            let mut counts: Vec<(FeatureId, u64, f64)> = group
                .sums
                .iter()
                .map(|(key, sums)| (features_of(*key).0, sums[0] as u64, sums[0] / group.n_docs[0] as f64))
                .filter(|(id, _, _)| shown(*id))
                .collect();
            counts.sort_by(|x, y| y.1.cmp(&x.1).then_with(|| x.0.cmp(&y.0)));
            lengths.push(counts.len());
            rows.append(&mut counts);
        }
        columns(&catalog, &rows).into_lists(&lengths)
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells, error};

    #[tokio::test]
    async fn counts_by_group_with_where_and_filter() {
        let source = answers();
        let sql = "SELECT model, f['label'], f['docs'], f['frequency'] FROM (SELECT model, unnest(feature_frequency(features)) \
                   AS f FROM answers WHERE prompt_id <> 'p0' GROUP BY model) ORDER BY model";
        let rows = cells(&source, sql).await.unwrap();
        assert_eq!(rows[0], ["a", "apology", "29", "0.4915254237288136"]);
        assert_eq!(rows[1][..3], ["a", "hedge", "19"]);
        assert_eq!(rows[2][..3], ["a", "thanks", "14"]);
        assert_eq!(rows[3][..3], ["b", "list", "29"]);
        assert_eq!(rows[4][..3], ["b", "hedge", "19"]);
        let sql = "SELECT feature_frequency(features) FILTER (WHERE model = 'b') = feature_frequency(features) FROM answers \
                   WHERE model = 'b'";
        assert_eq!(cells(&source, sql).await.unwrap(), [["true"]]);
    }

    #[tokio::test]
    async fn empty_and_null_groups_give_empty_lists() {
        let source = answers();
        source.put_texts("gaps", &[None, Some("sorry"), None, Some("")], vec![]).unwrap();
        let sql = "SELECT doc_id, feature_frequency(features) FROM gaps GROUP BY doc_id ORDER BY doc_id";
        let one = "[{feature_id: 0, label: apology, docs: 1, frequency: 1.0}]";
        assert_eq!(cells(&source, sql).await.unwrap(), [["d0", "[]"], ["d1", one], ["d2", "[]"], ["d3", "[]"]]);
        let none = "SELECT feature_frequency(features) FROM gaps WHERE false";
        assert_eq!(cells(&source, none).await.unwrap(), [["[]"]]);
        let message = error(&source, "SELECT feature_frequency(text) FROM answers").await;
        assert!(message.contains("feature_frequency: expected a features value"), "{message}");
    }

    #[tokio::test]
    async fn partitions_are_merged() {
        let source = answers();
        let session = source.session().unwrap();
        let many = datafusion::prelude::SessionConfig::new()
            .with_target_partitions(4)
            .with_batch_size(7)
            .with_create_default_catalog_and_schema(false);
        let state =
            datafusion::execution::SessionStateBuilder::new_from_existing(session.state()).with_config(many).build();
        let parallel = datafusion::prelude::SessionContext::new_with_state(state);
        for sql in [
            "SELECT model, feature_frequency(features) FROM answers GROUP BY model ORDER BY model",
            "SELECT prompt_id, feature_pairs(features, 1), feature_centroid(features) FROM answers GROUP BY 1 ORDER BY 1",
            "SELECT feature_diff(features, model = 'a') FROM answers",
        ] {
            let one = session.sql(sql).await.unwrap().collect().await.unwrap();
            let plan = parallel.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
            let drawn = datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
            assert!(drawn.contains("mode=Partial") && drawn.contains("RoundRobin"), "{drawn}");
            let merged = datafusion::physical_plan::collect(plan, parallel.task_ctx()).await.unwrap();
            let merged = arrow::compute::concat_batches(&merged[0].schema(), &merged).unwrap();
            let one = arrow::compute::concat_batches(&one[0].schema(), &one).unwrap();
            assert_eq!(one, merged, "{sql}");
        }
    }
}
