//! `feature_centroid(features)`: the mean document of a group.

use std::ops::RangeInclusive;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::AggregateUDF;
use datafusion::logical_expr::function::AccumulatorArgs;

use super::accumulate::{Aggregation, udaf};
use crate::SharedSource;
use crate::catalog::FeatureCatalog;
use crate::docs::{FunctionDoc, Kind};
use crate::features::{FeatureId, FeaturesView};
use crate::kernels::sums::{GroupState, features_of};
use crate::rows::Columns;
use crate::scalar::common::Source;

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: "feature_centroid",
    kind: Kind::Aggregate,
    syntax: "feature_centroid(features)",
    text: "The mean document of the group: a list of structs `feature_id`, `label`, `activation` (mean over all documents \
           that were encoded, 0 where the feature is absent) and `docs`, strongest first. Hidden features are left out. An \
           empty group gives an empty list.",
    arguments: &[("features", "features value")],
    example: "SELECT model, feature_centroid(features)[1] AS strongest FROM answers GROUP BY model ORDER BY model",
};

/// See [`DOC`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FeatureCentroid {
    source: Source,
}

/// `feature_centroid(features)`.
pub fn feature_centroid_udaf(source: &SharedSource) -> AggregateUDF {
    udaf::<FeatureCentroid>(source)
}

fn columns(catalog: &FeatureCatalog, rows: &[(FeatureId, f64, u64)]) -> Columns {
    let mut columns = Columns::default();
    columns.features(("feature_id", "label"), catalog, rows.iter().map(|row| row.0));
    columns.numbers("activation", rows.iter().map(|row| row.1));
    columns.counts("docs", rows.iter().map(|row| row.2));
    columns
}

impl Aggregation for FeatureCentroid {
    const DOC: FunctionDoc = DOC;
    const N_ARGUMENTS: RangeInclusive<usize> = 1..=1;

    fn coerce(others: &[DataType]) -> Result<Vec<DataType>> {
        Ok(others.to_vec())
    }

    fn columns() -> Columns {
        columns(&FeatureCatalog::default(), &[])
    }

    fn new(source: Source, _args: &AccumulatorArgs) -> Result<Self> {
        Ok(Self { source })
    }

    fn update(&self, state: &mut GroupState, features: &FeaturesView, _values: &[ArrayRef], row: usize) {
        state.n_docs[0] += 1;
        for (id, activation) in features.ids(row).iter().zip(features.activations(row)) {
            state.add(*id, [activation.to_f64(), 1.0]);
        }
    }

    fn finish(&self, groups: &[GroupState]) -> Result<ArrayRef> {
        let catalog = self.source.0.catalog();
        let (mut rows, mut lengths) = (Vec::new(), Vec::new());
        for group in groups {
            let mut means: Vec<(FeatureId, f64, u64)> = group
                .sums
                .iter()
                .map(|(key, sums)| (features_of(*key).0, sums[0] / group.n_docs[0] as f64, sums[1] as u64))
                .filter(|(id, _, _)| catalog.feature(*id).is_some_and(|feature| !feature.hidden))
                .collect();
            means.sort_by(|x, y| y.1.total_cmp(&x.1).then_with(|| x.0.cmp(&y.0)));
            lengths.push(means.len());
            rows.append(&mut means);
        }
        columns(&catalog, &rows).into_lists(&lengths)
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells};

    #[tokio::test]
    async fn means_count_absence_as_zero_and_leave_out_what_was_never_encoded() {
        let source = answers();
        source.put_texts("few", &[Some("sorry"), Some("sorry perhaps"), Some(""), None], vec![]).unwrap();
        let sql = "SELECT feature_centroid(features) FROM few";
        let expected = "[{feature_id: 0, label: apology, activation: 0.6666666666666666, docs: 2}, {feature_id: 2, label: hedge, \
                        activation: 0.3333333333333333, docs: 1}]";
        assert_eq!(cells(&source, sql).await.unwrap(), [[expected]]);
        assert_eq!(cells(&source, "SELECT feature_centroid(features) FROM few WHERE false").await.unwrap(), [["[]"]]);
    }
}
