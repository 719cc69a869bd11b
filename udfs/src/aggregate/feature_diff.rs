//! `feature_diff(features, in_target)`: the numbers of the table function `diff`, for the rows of a group.

use std::ops::RangeInclusive;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::AggregateUDF;
use datafusion::logical_expr::function::AccumulatorArgs;

use super::accumulate::{Aggregation, udaf};
use crate::SharedSource;
use crate::catalog::{FeatureCatalog, FeatureSelection};
use crate::docs::{FunctionDoc, Kind};
use crate::features::{FeatureId, FeaturesView};
use crate::kernels::counting::FeatureCounts;
use crate::kernels::diff::{DiffRow, default_min_docs, diff};
use crate::kernels::statistics::normal_quantile_two_sided;
use crate::kernels::sums::{GroupState, features_of, key};
use crate::rows::{Columns, diff_columns};
use crate::scalar::common::Source;

const NAME: &str = "feature_diff";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Aggregate,
    syntax: "feature_diff(features, in_target)",
    text: "Compares the documents of the group for which `in_target` is true (A) with those for which it is false (B): a \
           list of structs with the columns of the table function `diff` from `feature_id` to `q_value`, then `n_a` and \
           `n_b`, in the same order and with the same numbers. Rows where either argument is null are left out; if one \
           side is empty the list is.",
    arguments: &[("features", "features value"), ("in_target", "truth value, such as `model = 'a'`")],
    example: "SELECT d['label'] AS label, d['difference'] AS difference, d['q_value'] < 0.05 AS significant FROM \
              (SELECT unnest(feature_diff(features, model = 'a')) AS d FROM answers)",
};

/// See [`DOC`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FeatureDiff {
    source: Source,
}

/// `feature_diff(features, in_target)`.
pub fn feature_diff_udaf(source: &SharedSource) -> AggregateUDF {
    udaf::<FeatureDiff>(source)
}

fn columns(catalog: &FeatureCatalog, rows: &[DiffRow], n_docs: &[[u64; 2]]) -> Columns {
    let mut columns = diff_columns(catalog, rows);
    columns.counts("n_a", n_docs.iter().map(|n| n[0]));
    columns.counts("n_b", n_docs.iter().map(|n| n[1]));
    columns
}

impl Aggregation for FeatureDiff {
    const DOC: FunctionDoc = DOC;
    const N_ARGUMENTS: RangeInclusive<usize> = 2..=2;

    fn coerce(others: &[DataType]) -> Result<Vec<DataType>> {
        match others {
            [DataType::Boolean | DataType::Null] => Ok(vec![DataType::Boolean]),
            other => plan_err!(
                "{NAME}: expected true or false as 'in_target', such as model = 'a', got {}",
                other.iter().map(ToString::to_string).collect::<String>()
            ),
        }
    }

    fn columns() -> Columns {
        columns(&FeatureCatalog::default(), &[], &[])
    }

    fn new(source: Source, _args: &AccumulatorArgs) -> Result<Self> {
        Ok(Self { source })
    }

    fn update(&self, state: &mut GroupState, features: &FeaturesView, values: &[ArrayRef], row: usize) {
        let Some(in_target) = values[1].as_boolean_opt().filter(|side| side.is_valid(row)) else { return };
        let (side, more) = if in_target.value(row) { (0, [1.0, 0.0]) } else { (1, [0.0, 1.0]) };
        state.n_docs[side] += 1;
        features.ids(row).iter().for_each(|id| state.add(*id, more));
    }

    fn finish(&self, groups: &[GroupState]) -> Result<ArrayRef> {
        let catalog = self.source.0.catalog();
        let selected = catalog.select(NAME, &FeatureSelection::default())?;
        let z = normal_quantile_two_sided(0.95);
        let mut sides = [FeatureCounts::new(selected.len()), FeatureCounts::new(selected.len())];
        let (mut rows, mut lengths, mut n_docs) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            let is_selected = |id: &FeatureId| selected.get(*id as usize).copied().unwrap_or(false);
            let mut ids: Vec<FeatureId> =
                group.sums.keys().map(|key| features_of(*key).0).filter(is_selected).collect();
            ids.sort_unstable();
            for (side, counts) in sides.iter_mut().enumerate() {
                counts.n_docs = group.n_docs[side];
                // Counts of other features may be left of the group before; they are not looked at.
                ids.iter().for_each(|id| counts.docs[*id as usize] = group.sums[&key(*id, *id)][side] as u32);
            }
            let min_docs = default_min_docs(sides[0].n_docs + sides[1].n_docs);
            let mut group_rows = diff(&sides[0], &sides[1], &ids, min_docs, z);
            lengths.push(group_rows.len());
            n_docs.extend(std::iter::repeat_n(group.n_docs, group_rows.len()));
            rows.append(&mut group_rows);
        }
        columns(&catalog, &rows, &n_docs).into_lists(&lengths)
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells, error};

    #[tokio::test]
    async fn says_what_the_table_function_says() {
        let source = answers();
        let columns = "feature_id, label, level, docs_a, docs_b, difference, ci_low, ci_high, odds_ratio, p_value, q_value, n_a, n_b";
        let table = format!("SELECT {columns} FROM diff('answers WHERE model = ''a''', 'answers WHERE model = ''b''')");
        let fields: Vec<String> = columns.split(", ").map(|name| format!("d['{name}']")).collect();
        let aggregate = format!(
            "SELECT {} FROM (SELECT unnest(feature_diff(features, model = 'a')) AS d FROM answers)",
            fields.join(", ")
        );
        assert_eq!(cells(&source, aggregate).await.unwrap(), cells(&source, table).await.unwrap());
    }

    #[tokio::test]
    async fn one_sided_and_null_groups_give_empty_lists() {
        let source = answers();
        let sql = "SELECT feature_diff(features, true), feature_diff(features, NULL) FROM answers";
        assert_eq!(cells(&source, sql).await.unwrap(), [["[]", "[]"]]);
        let sql = "SELECT model, feature_diff(features, model = 'a') FROM answers GROUP BY model ORDER BY model";
        assert_eq!(cells(&source, sql).await.unwrap(), [["a", "[]"], ["b", "[]"]]);
        assert!(
            error(&source, "SELECT feature_diff(features, model) FROM answers")
                .await
                .contains("expected true or false as 'in_target'")
        );
    }
}
