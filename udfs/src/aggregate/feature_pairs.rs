//! `feature_pairs(features, min_docs)`: the numbers of the table function `correlate`, for the rows of a group.

use std::ops::RangeInclusive;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::AggregateUDF;
use datafusion::logical_expr::function::AccumulatorArgs;

use super::accumulate::{Aggregation, constant, udaf};
use crate::SharedSource;
use crate::catalog::{FeatureCatalog, FeatureSelection};
use crate::docs::{FunctionDoc, Kind};
use crate::features::{FeatureId, FeaturesView};
use crate::kernels::cancellation::Cancellation;
use crate::kernels::cooccurrence::{PairCounts, blocks};
use crate::kernels::correlation::{Block, Direction, PairRow, RankBy, Ranking, default_min_docs};
use crate::kernels::sums::{GroupState, features_of};
use crate::rows::{Columns, pair_columns};
use crate::scalar::common::Source;
use crate::table::echoes::Echoes;

const NAME: &str = "feature_pairs";

/// Pairs of a group that are returned.
const LIMIT: usize = 1000;

/// Memory for the counts of a block.
const BLOCK_BYTES: usize = 128 << 20;

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Aggregate,
    syntax: "feature_pairs(features [, min_docs])",
    text: "Pairs of features that are together in documents of the group more often than chance: a list of structs with \
           the columns of the table function `correlate` up to `expected`, strongest association first, at most 1,000. Echoes \
           (the same token fires both) and hidden features are left out; pairs that tell the same, or stand at one place, are \
           not. An empty group gives an empty \
           list.",
    arguments: &[
        ("features", "features value"),
        (
            "min_docs",
            "documents that must have a feature for its pairs to be tested; default 0.25 %, at least 5 (a \
                      twentieth, at least 1, of fewer than 100 documents)",
        ),
    ],
    example: "SELECT model, p['label_a'] AS a, p['label_b'] AS b, p['docs_both'] AS both FROM (SELECT model, \
              unnest(feature_pairs(features)) AS p FROM answers GROUP BY model) ORDER BY model, a, b",
};

/// See [`DOC`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FeaturePairs {
    source: Source,
    min_docs: Option<u64>,
}

/// `feature_pairs(features [, min_docs])`.
pub fn feature_pairs_udaf(source: &SharedSource) -> AggregateUDF {
    udaf::<FeaturePairs>(source)
}

impl FeaturePairs {
    /// Features of a group with enough documents, ascending.
    fn eligible(&self, group: &GroupState, selected: &[bool]) -> Vec<FeatureId> {
        let min_docs = self.min_docs.unwrap_or_else(|| default_min_docs(group.n_docs[0])).max(1);
        let enough = |(id, docs): &(FeatureId, u32)| {
            u64::from(*docs) >= min_docs && selected.get(*id as usize).is_some_and(|selected| *selected)
        };
        group.docs().into_iter().filter(enough).map(|(id, _)| id).collect()
    }
}

/// Pairs of `features` in a group; `position_of[features[i]]` is `i`, and `u32::MAX` for others.
fn rank(group: &GroupState, features: &[FeatureId], position_of: &[u32], echoes: &Echoes) -> Vec<PairRow> {
    let position = |id: FeatureId| {
        let position = position_of.get(id as usize).copied().filter(|position| *position != u32::MAX);
        position.map(|position| position as usize)
    };
    let documents = group.kept(position_of, features.len());
    let mut ranking = Ranking::new(Direction::Positive, RankBy::Llr, LIMIT, 0);
    for block in blocks(features.len(), BLOCK_BYTES) {
        let mut counts = PairCounts::new(features.len(), block);
        counts.update(&documents);
        counts.add_documents(group.n_docs[0] - documents.len() as u64, std::iter::empty());
        for (key, sums) in &group.sums {
            let (a, b) = features_of(*key);
            match (position(a), position(b)) {
                (Some(a), Some(b)) if a == b => counts.add_documents(0, std::iter::once((a, sums[0] as u32))),
                (Some(a), Some(b)) => counts.add_pair(a, b, sums[0] as u32),
                _ => {}
            }
        }
        let keep = |a, b| !echoes.contains(a, b);
        let block = Block { counts: &counts, features, split: None, background: None, min_lift: 1.0 };
        ranking.scan(block, &Cancellation::default(), keep);
    }
    ranking.finish()
}

impl Aggregation for FeaturePairs {
    const DOC: FunctionDoc = DOC;
    const N_ARGUMENTS: RangeInclusive<usize> = 1..=2;

    fn coerce(others: &[DataType]) -> Result<Vec<DataType>> {
        match others.first() {
            Some(min_docs) if !min_docs.is_integer() && *min_docs != DataType::Null => {
                plan_err!("{NAME}: expected a whole number as 'min_docs', got {min_docs}")
            }
            _ => Ok(vec![DataType::Int64; others.len()]),
        }
    }

    fn columns() -> Columns {
        pair_columns(&FeatureCatalog::default(), &[])
    }

    fn new(source: Source, args: &AccumulatorArgs) -> Result<Self> {
        let min_docs = match constant(NAME, "min_docs", args, 1)? {
            Some(ScalarValue::Int64(Some(min_docs))) => match u64::try_from(*min_docs) {
                Ok(min_docs) => Some(min_docs),
                Err(_) => return plan_err!("{NAME}: min_docs cannot be negative, got {min_docs}"),
            },
            _ => None,
        };
        Ok(Self { source, min_docs })
    }

    fn update(&self, state: &mut GroupState, features: &FeaturesView, _values: &[ArrayRef], row: usize) {
        state.keep(features.ids(row));
    }

    fn finish(&self, groups: &[GroupState]) -> Result<ArrayRef> {
        let catalog = self.source.0.catalog();
        let selected = catalog.select(NAME, &FeatureSelection::default())?;
        let eligible: Vec<Vec<FeatureId>> = groups.iter().map(|group| self.eligible(group, &selected)).collect();
        let mut all = eligible.concat();
        all.sort_unstable();
        all.dedup();
        let echoes = Echoes::new(&catalog, &all);
        let mut position_of = vec![u32::MAX; selected.len()];
        let (mut rows, mut lengths) = (Vec::new(), Vec::new());
        for (group, features) in groups.iter().zip(&eligible) {
            (0..).zip(features).for_each(|(position, id)| position_of[*id as usize] = position);
            let mut ranked = rank(group, features, &position_of, &echoes);
            features.iter().for_each(|id| position_of[*id as usize] = u32::MAX);
            lengths.push(ranked.len());
            rows.append(&mut ranked);
        }
        pair_columns(&catalog, &rows).into_lists(&lengths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{answers, cells, error};
    use arrow::array::{Array, AsArray};

    #[tokio::test]
    async fn says_what_the_table_function_says() {
        let source = answers();
        let columns =
            "label_a, label_b, docs_both, npmi, p_a_given_b, p_b_given_a, p_value, q_value, llr, docs_a, docs_b, n";
        let fields: Vec<String> = columns.split(", ").map(|name| format!("p['{name}']")).collect();
        let aggregate =
            format!("SELECT {} FROM (SELECT unnest(feature_pairs(features)) AS p FROM answers)", fields.join(", "));
        let table =
            cells(&source, format!("SELECT {columns} FROM correlate('answers', named_argument('fold', false))"))
                .await
                .unwrap();
        assert_eq!(cells(&source, aggregate).await.unwrap(), table);
    }

    #[tokio::test]
    async fn groups_without_pairs_give_empty_lists() {
        let source = answers();
        let sql = "SELECT feature_pairs(features), feature_pairs(features, 1) FROM answers WHERE prompt_id = 'p1' AND model = 'a'";
        assert_eq!(cells(&source, sql).await.unwrap(), [["[]", "[]"]]);
        assert_eq!(cells(&source, "SELECT feature_pairs(features) FROM answers WHERE false").await.unwrap(), [["[]"]]);
        assert!(
            error(&source, "SELECT feature_pairs(features, -1) FROM answers")
                .await
                .contains("min_docs cannot be negative")
        );
        assert!(
            error(&source, "SELECT feature_pairs(features, 'x') FROM answers")
                .await
                .contains("a whole number as 'min_docs'")
        );
    }

    #[test]
    fn counted_and_kept_documents_give_the_same() {
        let source = Source(std::sync::Arc::new(answers()));
        let mut kept = GroupState::default();
        for row in 0..100u32 {
            let ids: Vec<u32> = (0..4).filter(|id| row % (id + 2) == 0).collect();
            kept.keep(&ids);
        }
        let mut counted = kept.clone();
        counted.count_kept();
        counted.keep(&[0, 3]);
        kept.keep(&[0, 3]);
        let pairs = FeaturePairs { source, min_docs: Some(1) };
        let rows = pairs.finish(&[kept, GroupState::default(), counted]).unwrap();
        let rows = rows.as_list::<i32>();
        assert!(!rows.value(0).is_empty() && rows.value(1).is_empty());
        assert_eq!(rows.value(0).as_ref(), rows.value(2).as_ref());
    }
}
