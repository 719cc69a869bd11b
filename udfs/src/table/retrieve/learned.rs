//! `learned_features(set, like => ..., unlike => ...)`: what marked documents teach.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;

use super::options::{contradiction, ids};
use super::passes::{DenseQuery, Look, Marks, Statistics, survey};
use super::{TAUGHT_NOTHING, base_weights, learn_from};
use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureSelection};
use crate::docs::{FunctionDoc, Kind};
use crate::features::FeatureId;
use crate::kernels::feedback::Example;
use crate::kernels::retrieval::Scorer;
use crate::rows::Columns;
use crate::table::document_columns::lacks_column;
use crate::table::exec::{Computation, ComputedTable, Request, blocking, quoted, quoted_list};

const NAME: &str = "learned_features";

/// User documentation.
pub const LEARNED_DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Table,
    syntax: "learned_features(set, like => ... [, unlike => ...])",
    text: "What `retrieve`, by its default signals, learns from documents marked as right and wrong: every feature of a marked \
           document, the largest weights of either sign first. `weight` is what the feature adds, at full strength, to the \
           log-odds of being right: above 0 it speaks for a document, below 0 against. `docs_like` and `docs_unlike` are the \
           marked documents that have it, `docs` all of the set. The weights are those of a logistic regression on features \
           and, where there are any, embeddings, with a penalty: features that always come together share theirs. Marks of one \
           kind on all documents teach nothing, which is an error.",
    arguments: &[
        ("set", "corpus, corpus with a filter, or query"),
        (
            "like, unlike",
            "doc_ids of the set that are right or wrong, separated by commas or as an array; one of the two",
        ),
        ("include_hidden, dictionary, level", "which features; see `diff`"),
    ],
    example: "SELECT label, docs_like, docs_unlike, docs FROM learned_features('answers', like => 'd2', unlike => 'd1') LIMIT 2",
};

/// The table function `learned_features`.
#[derive(Debug)]
struct LearnedFeatures {
    source: SharedSource,
}

/// `learned_features(set, like => ..., unlike => ...)` over `source`.
pub fn learned_features_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(LearnedFeatures { source: Arc::clone(source) })
}

impl TableFunctionImpl for LearnedFeatures {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let call = LearnedCall::parse(&self.source, args.exprs())?;
        Ok(ComputedTable::provider(call))
    }
}

#[derive(Debug)]
struct LearnedCall {
    source: SharedSource,
    set: String,
    like: Vec<String>,
    unlike: Vec<String>,
    selection: FeatureSelection,
}

impl LearnedCall {
    fn parse(source: &SharedSource, exprs: &[Expr]) -> Result<Self> {
        let mut args = Arguments::parse(NAME, exprs)?;
        let set = args.positional("set").required_text()?;
        let like = ids(&args.named("like"))?;
        let unlike = ids(&args.named("unlike"))?;
        let selection = FeatureSelection::from_args(&mut args)?;
        args.finish()?;
        if like.is_empty() && unlike.is_empty() {
            return plan_err!(
                "{NAME}: nothing to learn from; mark documents with like => 'id1,id2' or unlike => 'id3'"
            );
        }
        contradiction(NAME, &like, &unlike)?;
        source.catalog().select(NAME, &selection)?;
        Ok(Self { source: Arc::clone(source), set, like, unlike, selection })
    }
}

impl fmt::Display for LearnedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (like, unlike) = (quoted_list(&self.like), quoted_list(&self.unlike));
        write!(f, "{NAME}({}, like => [{like}], unlike => [{unlike}])", quoted(&self.set))
    }
}

/// A feature with its weight and the numbers of marked documents and of all that have it.
#[derive(Debug, Clone)]
struct Row {
    id: FeatureId,
    weight: f32,
    docs_like: u64,
    docs_unlike: u64,
    docs: u64,
}

fn columns(catalog: &FeatureCatalog, rows: &[Row]) -> Columns {
    let mut columns = Columns::default();
    columns.features(("feature_id", "label"), catalog, rows.iter().map(|row| row.id));
    columns.levels(catalog, rows.iter().map(|row| row.id));
    columns.numbers("weight", rows.iter().map(|row| f64::from(row.weight)));
    columns.counts("docs_like", rows.iter().map(|row| row.docs_like));
    columns.counts("docs_unlike", rows.iter().map(|row| row.docs_unlike));
    columns.counts("docs", rows.iter().map(|row| row.docs));
    columns
}

fn rows(statistics: &Statistics, catalog: &FeatureCatalog, selected: &[bool]) -> Result<Vec<Row>> {
    let having = |examples: &[Example], id: FeatureId| {
        examples.iter().filter(|example| example.ids.binary_search(&id).is_ok()).count() as u64
    };
    let row = |(id, weight): (FeatureId, f32)| Row {
        id,
        weight,
        docs_like: having(&statistics.right, id),
        docs_unlike: having(&statistics.wrong, id),
        docs: statistics.n_with.get(id as usize).copied().unwrap_or(0),
    };
    let learned = learn_from(statistics, catalog, selected);
    if learned.is_nothing() {
        return exec_err!("{NAME}: {TAUGHT_NOTHING}");
    }
    let mut rows: Vec<Row> = learned.features.into_iter().map(row).collect();
    rows.retain(|row| row.docs_like + row.docs_unlike > 0);
    rows.sort_by(|a, b| b.weight.abs().total_cmp(&a.weight.abs()).then(a.id.cmp(&b.id)));
    Ok(rows)
}

#[async_trait]
impl Computation for LearnedCall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> SchemaRef {
        columns(&FeatureCatalog::default(), &[]).schema()
    }

    async fn run(&self, request: Request) -> Result<Vec<RecordBatch>> {
        let catalog = self.source.catalog();
        let selected = catalog.select(NAME, &self.selection)?;
        let memory = request.memory(NAME);
        let scorer = Scorer { weights: base_weights(&catalog), mean_length: 0.0 };
        let dense = DenseQuery::default();
        let marks = Marks { like: &self.like, unlike: &self.unlike };
        let look = Look { scorer: &scorer, dense: &dense, with_features: true, with_embeddings: true };
        let statistics = match survey(NAME, &self.source, &self.set, marks, look, &memory).await {
            // Features that were computed elsewhere come without embeddings, and teach alone.
            Err(error) if lacks_column(&error) => {
                let look = Look { with_embeddings: false, ..look };
                survey(NAME, &self.source, &self.set, marks, look, &memory).await?
            }
            statistics => statistics?,
        };
        let of = Arc::clone(&catalog);
        let rows = blocking(NAME, move |_| rows(&statistics, &of, &selected)).await?;
        Ok(vec![columns(&catalog, &rows).into_batch()?])
    }
}
