//! `similar_features(feature, k, ...)`: features that mean about the same, or that are in the same documents.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::exec_err;
use datafusion::error::Result;
use futures::TryStreamExt;

use super::correlate::LabelSimilarity;
use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureSelection};
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, IdsView};
use crate::kernels::counting::FeatureCounts;
use crate::rows::Columns;
use crate::scalar::common::Members;
use crate::table::exec::{Computation, ComputedTable, Request, blocking, quoted};

const NAME: &str = "similar_features";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Table,
    syntax: "similar_features(feature [, k] [, set => ...])",
    text: "The k features most like a feature or concept, most alike first. Without `set` likeness is the cosine of the \
           labels' embeddings by the reader. With `set` it is that of the documents: the Jaccard index of the documents \
           that have the one and the other, and `docs`, `docs_both` are filled.",
    arguments: &[
        ("feature", "id, label or concept"),
        ("k", "how many; default 10"),
        ("set", "corpus, corpus with a filter, or query; default none: by labels"),
        ("include_hidden, dictionary, level", "which features; see `diff`"),
    ],
    example: "SELECT label, similarity, docs, docs_both FROM similar_features('apology', 2, set => 'answers')",
};

/// The table function.
#[derive(Debug)]
pub struct SimilarFeatures {
    source: SharedSource,
}

/// `similar_features(feature, k, ...)` over `source`.
pub fn similar_features_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(SimilarFeatures { source: Arc::clone(source) })
}

impl TableFunctionImpl for SimilarFeatures {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let mut args = Arguments::parse(NAME, args.exprs())?;
        let feature = args.positional("feature").required_name()?;
        let k = args.positional("k").count_or(10)?;
        let set = args.named("set").text()?;
        let selection = FeatureSelection::from_args(&mut args)?;
        args.finish()?;
        let catalog = self.source.catalog();
        let members = Members::of(NAME, &catalog, &feature)?;
        catalog.select(NAME, &selection)?;
        Ok(ComputedTable::provider(SimilarCall {
            source: Arc::clone(&self.source),
            feature: feature.to_string(),
            members,
            k,
            set,
            selection,
        }))
    }
}

#[derive(Debug)]
struct SimilarCall {
    source: SharedSource,
    feature: String,
    members: Members,
    k: usize,
    set: Option<String>,
    selection: FeatureSelection,
}

impl fmt::Display for SimilarCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}({}, {})", quoted(&self.feature), self.k)
    }
}

#[derive(Debug, Clone)]
struct Similar {
    id: FeatureId,
    similarity: f64,
    /// Documents that have it, and that have both.
    docs: Option<(u64, u64)>,
}

fn columns(catalog: &FeatureCatalog, rows: &[Similar]) -> Columns {
    let mut columns = Columns::default();
    columns.features(("feature_id", "label"), catalog, rows.iter().map(|row| row.id));
    columns.levels(catalog, rows.iter().map(|row| row.id));
    columns.numbers("similarity", rows.iter().map(|row| row.similarity));
    let docs = |pick: fn((u64, u64)) -> u64| -> Int64Array {
        rows.iter().map(|row| row.docs.map(|docs| pick(docs) as i64)).collect()
    };
    columns.push("docs", docs(|docs| docs.0), true);
    columns.push("docs_both", docs(|docs| docs.1), true);
    columns
}

impl SimilarCall {
    fn is_member(&self, id: FeatureId) -> bool {
        self.members.positive.iter().any(|(member, _)| *member == id) || self.members.negative.contains(&id)
    }

    /// By the mean direction of the members' labels, negative ones turned round.
    async fn by_label(&self, catalog: &FeatureCatalog, selected: &[bool]) -> Result<Vec<Similar>> {
        let source = Arc::clone(&self.source);
        let labels = LabelSimilarity::new(blocking(NAME, move |_| source.label_embeddings()).await?);
        let mut wanted: Vec<f64> = Vec::new();
        let positive = self.members.positive.iter().map(|(id, weight)| (*id, f64::from(*weight)));
        for (id, weight) in positive.chain(self.members.negative.iter().map(|id| (*id, -1.0))) {
            let Some(row) = labels.row(id) else { continue };
            wanted.resize(row.len(), 0.0);
            wanted.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * f64::from(*value));
        }
        let norm = wanted.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm == 0.0 {
            return exec_err!(
                "{NAME}: the label of '{}' has no embedding (hidden features have none); compare by documents with \
                 set => 'a corpus'",
                self.feature
            );
        }
        let similarity = |row: &[f32]| row.iter().zip(&wanted).map(|(x, y)| f64::from(*x) * y).sum::<f64>() / norm;
        Ok(catalog
            .features()
            .iter()
            .map(|feature| feature.id)
            .filter(|id| selected[*id as usize] && !self.is_member(*id))
            .filter_map(|id| Some(Similar { id, similarity: similarity(labels.row(id)?), docs: None }))
            .collect())
    }

    async fn by_documents(&self, set: &str, selected: &[bool]) -> Result<Vec<Similar>> {
        let mut all = FeatureCounts::new(selected.len());
        let mut with = FeatureCounts::new(selected.len());
        let mut stream = self.source.documents(set, &[DocumentColumn::Ids]).await?;
        while let Some(batch) = stream.try_next().await? {
            let ids = IdsView::try_new(NAME, batch.column(0))?;
            for row in (0..ids.len()).filter(|row| !ids.is_null(*row)) {
                all.update(ids.ids(row));
                if self.members.present(ids.ids(row)) {
                    with.update(ids.ids(row));
                }
            }
        }
        if with.n_docs == 0 {
            return exec_err!("{NAME}: '{}' is in none of the {} documents of set '{set}'", self.feature, all.n_docs);
        }
        let similar = |id: FeatureId| {
            let (docs, both) = (all.docs(id), with.docs(id));
            let similarity = both as f64 / (docs + with.n_docs - both) as f64;
            Similar { id, similarity, docs: Some((docs, both)) }
        };
        let wanted =
            (0..).zip(selected).filter(|(id, selected)| **selected && all.docs(*id) > 0 && !self.is_member(*id));
        Ok(wanted.map(|(id, _)| similar(id)).collect())
    }
}

#[async_trait]
impl Computation for SimilarCall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> SchemaRef {
        columns(&FeatureCatalog::default(), &[]).schema()
    }

    async fn run(&self, _request: Request) -> Result<Vec<RecordBatch>> {
        let catalog = self.source.catalog();
        let selected = catalog.select(NAME, &self.selection)?;
        let mut rows = match &self.set {
            Some(set) => self.by_documents(set, &selected).await?,
            None => self.by_label(&catalog, &selected).await?,
        };
        rows.sort_by(|x, y| y.similarity.total_cmp(&x.similarity).then_with(|| x.id.cmp(&y.id)));
        rows.truncate(self.k);
        Ok(vec![columns(&catalog, &rows).into_batch()?])
    }
}

#[cfg(test)]
mod tests {
    use crate::MemorySource;
    use crate::catalog::Concept;
    use crate::test_support::{answers, cells, error};

    #[tokio::test]
    async fn by_label_and_by_documents() {
        let features: &[(&str, &[&str])] =
            &[("green tea", &["tea"]), ("black tea", &["assam"]), ("tea cup", &["cup"]), ("war", &["war"])];
        let concept = Concept { name: "teas".to_string(), members: vec![(0, 1.0), (1, 1.0)] };
        let source = MemorySource::with_words(features, vec![concept]);
        source.put_texts("t", &[Some("tea war"), Some("tea war cup"), Some("assam"), None], vec![]).unwrap();
        let rows = cells(&source, "SELECT label, similarity > 0.49, docs FROM similar_features('green tea', 2)")
            .await
            .unwrap();
        assert_eq!(rows, [["black tea", "true", ""], ["tea cup", "true", ""]]);
        let rows = cells(&source, "SELECT label FROM similar_features('teas')").await.unwrap();
        assert_eq!(rows, [["tea cup"], ["war"]], "members are left out");
        let sql = "SELECT label, similarity, docs, docs_both FROM similar_features(0, 9, named_argument('set', 't'))";
        let rows = cells(&source, sql).await.unwrap();
        assert_eq!(rows, [["war", "1.0", "2", "2"], ["tea cup", "0.5", "1", "1"], ["black tea", "0.0", "1", "0"]]);
    }

    #[tokio::test]
    async fn mistakes_are_explained() {
        let source = answers();
        let message = error(&source, "SELECT * FROM similar_features('apolgy')").await;
        assert!(message.contains("similar_features: feature 'apolgy' not found; did you mean 'apology'?"), "{message}");
        let message = error(&source, "SELECT * FROM similar_features('rare', named_argument('set', 'answers'))").await;
        assert!(message.contains("'rare' is in none of the 120 documents of set 'answers'"), "{message}");
    }
}
