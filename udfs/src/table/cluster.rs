//! `cluster(set, about, ...)` and `cluster_summary(set, about, ...)`: groups of documents that share features.
//!
//! `about` says which features count: ids, labels and concepts, or key phrases, which stand for the features whose
//! labels are most like them and for those that fire on them; without it all visible features do. Documents are grouped
//! by spherical k-means on idf-weighted saturated activations, projected on their 20 (all features: 50) leading
//! directions and fitted on at most 50,000 documents drawn from the seed. With phrases there stand beside that, each with
//! equal weight, where their embeddings (of at most 20,000) lie along the directions that tell, over all documents, where
//! features place a document, and along the 20 directions in which the labels that the phrases stand for differ most:
//! features see words and sentences, the embedding the whole, and along such axes only what was asked for.
//!
//! `method => 'jaccard-spectral'` is spectral clustering on the Jaccard similarity of the documents' present features
//! (arXiv 2512.10092, section 4.3), for at most 3,000 documents. `view => 'dense'` groups the embeddings: plain topics.
//!
//! ```sql
//! SELECT cluster_name, count(*) FROM cluster('answers', 'bullet points, numbered steps, headings', k => 6) GROUP BY 1;
//! SELECT name, size, stability FROM cluster_summary('answers', 'bullet points, numbered steps, headings', k => 6);
//! ```
//!
//! `cluster` gives one row a document, in the order of the set, `cluster_summary` one a group, largest first; both do
//! the same computation, so that equal arguments (and data) give equal groups. A document that has no selected feature, or
//! none that others share (the projection keeps less than a twentieth of it), and whose embedding does not lie as far along
//! the axis as nine in ten of the others, or that lies between two groups (membership below 0.05), is in group -1,
//! `unclear`. Number of groups (if `k` is not given), stability and membership are defined in
//! `kernels::clustering`; `k` may come out smaller where there are fewer different documents. Options: `k`,
//! `seed` (default 0), `method => 'auto' | 'jaccard-spectral' | 'kmeans'`,
//! `view => 'features' | 'dense' | 'both'`, `n_features`, `include_hidden`, `dictionary`, `level`.

mod describe;
mod options;
mod passes;
mod words;

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, Float32Array, Float64Array, Float64Builder, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder, StructBuilder, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use tokio::sync::OnceCell;

use self::describe::{Group, describe};
use self::options::{Options, Selected, select};
use self::passes::{Medians, Model, Placed, fit, place_all};
use self::words::top_words;
use crate::SharedSource;
use crate::catalog::FeatureCatalog;
use crate::docs::{FunctionDoc, Kind};
use crate::table::exec::{Computation, ComputedTable, Request};

/// Name of the group of documents that belong to none.
const UNCLEAR: &str = "unclear";

static DOCUMENT_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("doc_id", DataType::Utf8, false),
        Field::new("cluster_id", DataType::Int64, false),
        Field::new("cluster_name", DataType::Utf8, false),
        Field::new("membership", DataType::Float32, false),
    ]))
});

static FEATURE_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("feature_id", DataType::UInt32, true),
        Field::new("label", DataType::Utf8, true),
        Field::new("frequency_in", DataType::Float64, true),
        Field::new("frequency_out", DataType::Float64, true),
        Field::new("difference", DataType::Float64, true),
        Field::new("lift", DataType::Float64, true),
    ])
});

static SUMMARY_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let features = Field::new("item", DataType::Struct(FEATURE_FIELDS.clone()), true);
    let texts = Field::new("item", DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        Field::new("cluster_id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("size", DataType::Int64, false),
        Field::new("share", DataType::Float64, false),
        Field::new("stability", DataType::Float64, true),
        Field::new("top_features", DataType::List(Arc::new(features)), false),
        Field::new("central_doc_ids", DataType::List(Arc::new(texts.clone())), false),
        Field::new("top_words", DataType::List(Arc::new(texts)), false),
    ]))
});

/// User documentation of `cluster`.
pub const DOC: FunctionDoc = FunctionDoc {
    name: "cluster",
    kind: Kind::Table,
    syntax: "cluster(set [, about] [, k => ...])",
    text: "Groups documents that share features, one row a document, in the order of the set. `about` narrows the features: \
           ids, labels and concepts, or key phrases: words that documents on the axis have, separated by commas (`'bullet \
           points, numbered steps, headings'`) or as a list, whose items may hold commas. Of a question (`'which emotion is expressed'`) what it asks for counts \
           (`emotion`). A phrase stands for the features whose labels are most like it and, beside others, for the five \
           that fire on it most strongly; EXPLAIN lists them. A label alone is taken as a phrase, an id or a \
           concept is not. Hidden features are never found by meaning: with `include_hidden` those that fire on a phrase \
           beside others count, and those named. Documents are grouped by spherical k-means on weighted \
           activations and, with phrases and if they have embeddings, on where these lie along two axes: the directions that tell, \
           over all documents, where features place a document (ridge regression), and those in which the labels of the \
           features differ. For plain topics embeddings are better: `view => 'dense'`, which needs documents with an \
           embedding. `membership` is 1 at the centre of the group and 0 halfway to the next. A \
           document without a selected feature, or with hardly any that others share, is in group -1, `unclear`, unless its \
           embedding lies as far along the former axis as nine in ten of the others; so is one with a membership below 0.05. \
           Groups are numbered by size and named by the features that set them apart. Equal arguments give equal groups.",
    arguments: &[
        ("set", "corpus, corpus with a filter, or query"),
        ("about", "what the groups shall be about, in key phrases; default everything"),
        (
            "k",
            "groups; default: of the up to three numbers from 2 to 12 where the similarity's eigenvalues drop most, the one \
             with the most stable groups; 1 if even those have a mean stability below 0.6",
        ),
        ("seed", "of the starts and samples; default 0"),
        (
            "method",
            "`'kmeans'`, `'jaccard-spectral'` (similarity of the sets of features; at most 3,000 documents and 50 groups), or \
             `'auto'`, which is `'kmeans'`; default `'auto'`",
        ),
        (
            "view",
            "`'features'`; `'dense'` to group embeddings (plain topics); `'both'` for features and, along what the phrases \
             of `about` name, embeddings; default `'auto'`: `'both'` with such phrases where there are embeddings and the \
             method is k-means, else `'features'`",
        ),
        (
            "n_features",
            "features that the phrases of `about` stand for by their labels, together; default 200 for one phrase, 100 for each \
             of several",
        ),
        (
            "include_hidden, dictionary, level",
            "which features; see `diff`. In `about` they hold for labels and phrases (a label of no such feature is taken as a \
             phrase), not for ids and concepts",
        ),
    ],
    example: "SELECT cluster_id, cluster_name, count(*) AS docs FROM cluster('answers', 'apology, list', k => 2) \
              GROUP BY 1, 2 ORDER BY 1",
};

/// User documentation of `cluster_summary`.
pub const SUMMARY_DOC: FunctionDoc = FunctionDoc {
    name: "cluster_summary",
    kind: Kind::Table,
    syntax: "cluster_summary(set [, about] [, k => ...])",
    text: "The groups that `cluster` finds with the same arguments, one row a group, largest first, the unclear documents \
           last. `stability` tells how far a group can be relied on: documents are drawn and grouped anew ten times, and \
           the mean overlap (Jaccard) of the group with the best new one is given; above 0.75 a group is stable, below 0.5 \
           it dissolves; of a single document, and of one group of all, it is null. `top_features` are the features that set it apart, clearest first, with their frequency in the \
           group and in all other documents, and their ratio `lift`, of counts that half a document is added to (`frequency_out`, `difference` and `lift` are null where one group holds all \
           documents; then the most frequent features are listed); `top_words` are the words and pairs of words that set it apart, at least \
           three standard errors from chance (counted in up to 20,000 documents).",
    arguments: &[("all arguments", "as for `cluster`")],
    example: "SELECT cluster_id, name, size, stability, central_doc_ids[1] AS example FROM cluster_summary('answers', \
              'apology, list', k => 2)",
};

/// The table functions `cluster` and `cluster_summary`.
#[derive(Debug)]
struct Cluster {
    source: SharedSource,
    summary: bool,
}

/// `cluster(set, about, ...)` over `source`.
pub fn cluster_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(Cluster { source: Arc::clone(source), summary: false })
}

/// `cluster_summary(set, about, ...)` over `source`.
pub fn cluster_summary_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(Cluster { source: Arc::clone(source), summary: true })
}

impl TableFunctionImpl for Cluster {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let function = if self.summary { "cluster_summary" } else { "cluster" };
        let options = Options::parse(function, args.exprs())?;
        Ok(ComputedTable::provider(ClusterCall {
            source: Arc::clone(&self.source),
            summary: self.summary,
            options,
            selected: OnceCell::new(),
        }))
    }
}

#[derive(Debug)]
struct ClusterCall {
    source: SharedSource,
    summary: bool,
    options: Options,
    /// What it is about, once that was looked up.
    selected: OnceCell<Selected>,
}

impl ClusterCall {
    async fn selected(&self) -> Result<&Selected> {
        self.selected.get_or_try_init(|| select(&self.source, &self.options)).await
    }
}

impl fmt::Display for ClusterCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)?;
        self.selected.get().map_or(Ok(()), |selected| write!(f, ", {selected}"))
    }
}

#[async_trait]
impl Computation for ClusterCall {
    fn name(&self) -> &'static str {
        self.options.function
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(if self.summary { &SUMMARY_SCHEMA } else { &DOCUMENT_SCHEMA })
    }

    async fn prepare(&self) -> Result<()> {
        self.selected().await.map(|_| ())
    }

    async fn run(&self, request: Request) -> Result<Vec<RecordBatch>> {
        let (source, options) = (&self.source, &self.options);
        let catalog = source.catalog();
        let selected = self.selected().await?;
        let medians = medians(&catalog);
        let model = fit(source, options, selected, &medians, &request).await?;
        let placed = place_all(source, options, selected, &medians, &model, !self.summary, &request).await?;
        let groups = describe(&placed, selected, &catalog);
        if !self.summary {
            return Ok(vec![document_batch(placed, &groups)?]);
        }
        let wanted = SUMMARY_SCHEMA.index_of("top_words").is_ok_and(|position| request.wants(position));
        let words = if wanted { top_words(source, options, &placed).await? } else { Vec::new() };
        Ok(vec![summary_batch(&placed, &groups, &model, &words)?])
    }
}

/// Medians of activations by feature id.
fn medians(catalog: &FeatureCatalog) -> Medians {
    let mut medians = vec![1.0f32; catalog.id_bound()];
    for feature in catalog.features() {
        if let Some(median) = medians.get_mut(feature.id as usize) {
            *median = feature.scales().0;
        }
    }
    Arc::new(medians)
}

fn document_batch(placed: Placed, groups: &[Group]) -> Result<RecordBatch> {
    let mut shown: Vec<(i64, &str)> = vec![(-1, UNCLEAR); placed.sizes.len()];
    for (number, group) in (0..).zip(groups) {
        shown[group.cluster] = (number, &group.name);
    }
    let unclear = placed.sizes.len() - 1;
    let group_of =
        |place: &Option<crate::kernels::clustering::Place>| shown[place.map_or(unclear, |place| place.cluster)];
    let memberships = placed.places.iter().map(|place| place.map_or(0.0, |place| place.membership));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(&placed.doc_ids)),
        Arc::new(Int64Array::from_iter_values(placed.places.iter().map(|place| group_of(place).0))),
        Arc::new(StringArray::from_iter_values(placed.places.iter().map(|place| group_of(place).1))),
        Arc::new(Float32Array::from_iter_values(memberships)),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&DOCUMENT_SCHEMA), columns)?)
}

fn summary_batch(placed: &Placed, groups: &[Group], model: &Model, words: &[Vec<String>]) -> Result<RecordBatch> {
    let total: u64 = placed.sizes.iter().sum();
    let n_unclear = placed.sizes.last().copied().unwrap_or(0);
    let unclear = Group {
        cluster: placed.sizes.len().saturating_sub(1),
        name: UNCLEAR.to_owned(),
        size: n_unclear,
        features: Vec::new(),
    };
    let rows: Vec<(i64, &Group)> = (0..).zip(groups).chain((n_unclear > 0).then_some((-1, &unclear))).collect();
    let mut features = ListBuilder::new(StructBuilder::from_fields(FEATURE_FIELDS.clone(), rows.len()))
        .with_field(Field::new("item", DataType::Struct(FEATURE_FIELDS.clone()), true));
    let (mut central, mut told) = (ListBuilder::new(StringBuilder::new()), ListBuilder::new(StringBuilder::new()));
    let missing = || internal_datafusion_err!("cluster_summary: field of the feature list is missing");
    for (_, group) in &rows {
        for feature in &group.features {
            let row = features.values();
            row.field_builder::<UInt32Builder>(0).ok_or_else(missing)?.append_value(feature.id);
            row.field_builder::<StringBuilder>(1).ok_or_else(missing)?.append_value(&feature.label);
            let outside = feature.frequency_out;
            let difference = outside.map(|outside| feature.frequency_in - outside);
            let numbers = [Some(feature.frequency_in), outside, difference, feature.lift()];
            for (field, number) in (2..).zip(numbers) {
                row.field_builder::<Float64Builder>(field).ok_or_else(missing)?.append_option(number);
            }
            row.append(true);
        }
        features.append(true);
        for doc_id in placed.central.get(group.cluster).into_iter().flatten() {
            central.values().append_value(doc_id);
        }
        central.append(true);
        for word in words.get(group.cluster).into_iter().flatten() {
            told.values().append_value(word);
        }
        told.append(true);
    }
    let stability = |group: &Group| model.stability.get(group.cluster).copied().flatten();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|(number, _)| *number).collect::<Int64Array>()),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, group)| &group.name))),
        Arc::new(rows.iter().map(|(_, group)| group.size as i64).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(_, group)| group.size as f64 / total as f64).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|(_, group)| stability(group)).collect::<Float64Array>()),
        Arc::new(features.finish()),
        Arc::new(central.finish()),
        Arc::new(told.finish()),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SUMMARY_SCHEMA), columns)?)
}

#[cfg(test)]
mod tests;
