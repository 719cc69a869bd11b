//! `retrieve(set, query, ...)`: the documents of a set that have a property said in words, and why.
//!
//! Four rankings, fused by reciprocal rank (`kernels::fusion`): the *dense* embedding; features whose *labels* mean
//! what the query says and features that fire when the query is read, the *latents* (`kernels::retrieval`); and the
//! *words*. Documents marked with `like` and `unlike` move the dense query (Rocchio) and add a fifth ranking,
//! *feedback*, by the features that set them apart.
//!
//! ```sql
//! SELECT rank, doc_id, reasons FROM retrieve('answers', 'politely refuses to answer', k => 3);
//! SELECT * FROM retrieve('answers WHERE model = ''a''', 'apology', but_not => 'refund', like => 'd17,d40');
//! ```
//!
//! Options: `k` (or `limit`, default 10); `signals => 'dense,labels,latents,words'`; `weights => 'dense=1,words=0.3'`;
//! `but_not => 'text'`; `like`, `unlike` (doc_ids, separated by commas or as an array); `n_labels` (features matched
//! by label, default 100). `score` is 1 for a document that is first in every ranking;
//! `docs_searched` is null where the words alone are asked. What the query and `but_not`
//! have in common does not count against a document; documents marked as wrong are not shown, those marked as right are.
//!
//! The set is streamed once to count features (if a ranking needs that) and once to be scored; memory is that of the
//! candidates, not of the set. Documents without features, embedding or text can only be found by what they have. A
//! query without a known feature or word is answered by the other rankings; an empty set gives no rows.

mod options;
mod passes;
mod reasons;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, Float32Array, Float32Builder, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    StructBuilder, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::error::Result;

use self::options::{Options, Signal};
use self::passes::{Candidates, DenseQuery, Statistics, Winner, beyond, count, fetch, rocchio, score};
use self::reasons::{FeatureReason, Found, divide, listed, name, sentence};
use crate::SharedSource;
use crate::catalog::FeatureCatalog;
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::{DocumentColumn, EncodedText};
use crate::features::FeatureId;
use crate::kernels::bm25;
use crate::kernels::fusion::{Fused, fuse, reciprocal_rank};
use crate::kernels::retrieval::{FeatureWeight, Scorer, learn, most_similar, rank_weights};
use crate::kernels::top_k::Ranked;
use crate::kernels::words::words;
use crate::table::exec::{Computation, ComputedTable, Request, blocking};

/// A label whose cosine to the query is lower says something else.
const LABEL_FLOOR: f32 = 0.25;
/// Candidates that each ranking hands to the fusion, at least.
const LEAST_DEPTH: usize = 1_000;

static FEATURE_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("feature_id", DataType::UInt32, true),
        Field::new("label", DataType::Utf8, true),
        Field::new("strength", DataType::Float32, true),
        Field::new("contribution", DataType::Float32, true),
    ])
});

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let item = Field::new("item", DataType::Struct(FEATURE_FIELDS.clone()), true);
    let mut fields = vec![
        Field::new("rank", DataType::Int64, false),
        Field::new("doc_id", DataType::Utf8, false),
        Field::new("score", DataType::Float32, false),
        Field::new("reasons", DataType::Utf8, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("features", DataType::List(Arc::new(item)), true),
    ];
    for signal in Signal::ALL {
        fields.push(Field::new(format!("{}_rank", signal.name()), DataType::Int64, true));
        fields.push(Field::new(format!("{}_score", signal.name()), DataType::Float32, true));
    }
    fields.push(Field::new("docs_searched", DataType::Int64, true));
    Arc::new(Schema::new(fields))
});

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: "retrieve",
    kind: Kind::Table,
    syntax: "retrieve(set, query [, k => ...] [, like => ...] [, unlike => ...] [, but_not => ...])",
    text: "The documents of a set that have a property said in words, best first, and why. Four rankings are fused by \
           reciprocal rank: the embedding (`dense`), features whose labels mean what the query says (`labels`), features \
           that fire when the query is read (`latents`), and the words (`words`). Documents marked with `like` and `unlike` \
           move the embedding and add a fifth ranking, `feedback`, by the features that set them apart; the query may then \
           be left out. `score` is 1 for a document that is first in every ranking. In `reasons` the number beside a \
           feature is its activation over its 90th percentile; `features` has the same as a list, `<ranking>_rank` and \
           `<ranking>_score` what each ranking said. Documents marked as wrong are not shown. An empty set gives no rows.",
    arguments: &[
        ("set", "corpus, corpus with a filter, or query"),
        ("query", "what to look for, in words"),
        ("k (or limit)", "hits; default 10"),
        ("like, unlike", "doc_ids of the set that are right or wrong, separated by commas or as an array"),
        ("but_not", "what is not wanted, in words; what it shares with the query does not count against a document"),
        ("signals", "rankings to use, separated by commas; default all. `words` alone needs no reader"),
        ("weights", "e.g. `'dense=1, words=0.3'`; default 1 for dense, 0.5 for feedback, 0.15 for the others"),
        ("n_labels", "features that are matched by their labels, at most; default 100"),
    ],
    example: "SELECT rank, doc_id, reasons, text FROM retrieve('answers', 'sorry', k => 2)",
};

/// The table function `retrieve`.
#[derive(Debug)]
struct Retrieve {
    source: SharedSource,
}

/// `retrieve(set, query, ...)` over `source`.
pub fn retrieve_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(Retrieve { source: Arc::clone(source) })
}

impl TableFunctionImpl for Retrieve {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let options = Options::parse(args.exprs())?;
        Ok(ComputedTable::provider(RetrieveCall { source: Arc::clone(&self.source), options }))
    }
}

#[derive(Debug)]
struct RetrieveCall {
    source: SharedSource,
    options: Options,
}

impl fmt::Display for RetrieveCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

/// What the reader makes of the words of the call.
#[derive(Debug, Default)]
struct Understood {
    query: Option<EncodedText>,
    against: Option<EncodedText>,
    /// Features by label, with weights.
    labels: Vec<(FeatureId, f32)>,
    labels_against: Vec<(FeatureId, f32)>,
}

/// One ranking, best first.
struct Ranking {
    signal: Signal,
    weight: f32,
    doc_ids: Vec<String>,
    scores: HashMap<String, f32>,
}

#[async_trait]
impl Computation for RetrieveCall {
    fn name(&self) -> &'static str {
        "retrieve"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    async fn run(&self, request: Request) -> Result<Vec<RecordBatch>> {
        let options = &self.options;
        let k = request.limit.map_or(options.k, |limit| limit.min(options.k));
        let depth = LEAST_DEPTH.max(k.saturating_mul(10));
        let catalog = self.source.catalog();
        let understood = self.understand().await?;

        let mut weights = base_weights(&catalog);
        let statistics = if options.uses(Signal::Latents) || options.has_marks() {
            count(&self.source, options, &weights).await?
        } else {
            Statistics::default()
        };
        set_weights(&mut weights, &understood, &statistics, options, &catalog);
        let scorer = Scorer { weights, mean_length: statistics.mean_length };
        let dense = dense_query(options, &understood, &statistics);

        let memory = request.memory("retrieve");
        let candidates = if options.signals.iter().any(|(signal, _)| *signal != Signal::Words) {
            score(&self.source, options, &dense, &scorer, depth, &memory).await?
        } else {
            Candidates::default()
        };
        let n_docs = candidates.n_docs;
        let depth = n_docs.map_or(depth, |n_docs| depth.min(n_docs as usize));
        let rankings = self.rankings(candidates, depth).await?;
        let lists: Vec<(f32, Vec<String>)> =
            rankings.iter().map(|ranking| (ranking.weight, ranking.doc_ids.clone())).collect();
        let mut hits = fuse(&lists);
        hits.truncate(k);

        let (reasons, text, features) = (request.wants(3), request.wants(4), request.wants(5));
        let mut wanted = Vec::new();
        wanted.extend(text.then_some(DocumentColumn::Text));
        wanted.extend((reasons || features).then_some(DocumentColumn::Features));
        let winners = if wanted.is_empty() {
            HashMap::new()
        } else {
            let doc_ids: Vec<String> = hits.iter().map(|hit| hit.doc_id.clone()).collect();
            fetch(&self.source, options, &scorer, &doc_ids, &wanted, &memory).await?
        };
        Ok(vec![result(&hits, &rankings, &winners, &catalog, n_docs)?])
    }
}

impl RetrieveCall {
    /// Reads the query and `but_not`, and finds the features whose labels mean the same.
    async fn understand(&self) -> Result<Understood> {
        let options = self.options.clone();
        let needed = [Signal::Dense, Signal::Labels, Signal::Latents].iter().any(|signal| options.uses(*signal));
        if !needed || (options.query.is_none() && options.but_not.is_none()) {
            return Ok(Understood::default());
        }
        let source = Arc::clone(&self.source);
        blocking("retrieve", move |_| {
            let texts: Vec<&str> =
                [&options.query, &options.but_not].into_iter().flatten().map(String::as_str).collect();
            let mut encoded = source.encode(&texts)?.into_iter();
            let query = options.query.as_ref().and_then(|_| encoded.next());
            let against = options.but_not.as_ref().and_then(|_| encoded.next());
            let mut understood = Understood { query, against, ..Understood::default() };
            if options.uses(Signal::Labels) {
                let labels = source.label_embeddings()?;
                let matched = |text: &Option<EncodedText>| -> Vec<(FeatureId, f32)> {
                    let Some(text) = text else { return Vec::new() };
                    let rows =
                        most_similar(&text.embedding, &labels.values, labels.width, options.n_labels, LABEL_FLOOR);
                    rows.iter()
                        .zip(rank_weights(rows.len()))
                        .map(|((row, _), weight)| (labels.ids[*row], weight))
                        .collect()
                };
                understood.labels = matched(&understood.query);
                understood.labels_against = matched(&understood.against);
            }
            Ok(understood)
        })
        .await
    }

    /// All rankings that are used, the one by words included.
    async fn rankings(&self, candidates: Candidates, depth: usize) -> Result<Vec<Ranking>> {
        let options = &self.options;
        let Candidates { dense, labels, latents, learned, .. } = candidates;
        let (mut dense, mut labels, mut latents, mut learned) =
            (Some(dense), Some(labels), Some(latents), Some(learned));
        let mut rankings = Vec::new();
        for &(signal, weight) in &options.signals {
            let ranked = match signal {
                Signal::Dense => dense.take().unwrap_or_default(),
                Signal::Labels => labels.take().unwrap_or_default(),
                Signal::Latents => latents.take().unwrap_or_default(),
                Signal::Feedback => learned.take().unwrap_or_default(),
                Signal::Words => self.words(depth).await?,
            };
            let scores = ranked.iter().rev().map(|hit| (hit.item.clone(), hit.score)).collect();
            let doc_ids = ranked.into_iter().map(|hit| hit.item).collect();
            rankings.push(Ranking { signal, weight, doc_ids, scores });
        }
        Ok(rankings)
    }

    /// Hits by words: BM25 of the query's words, less, each relative to its best hit, that of words of `but_not` that
    /// the query does not have.
    async fn words(&self, depth: usize) -> Result<Vec<Ranked<String>>> {
        let options = &self.options;
        let Some(query) = &options.query else { return Ok(Vec::new()) };
        let mut hits = self.source.search_words(&options.set, query, depth).await?;
        let wanted: Vec<String> = words(query).collect();
        let against: Vec<String> =
            words(options.but_not.as_deref().unwrap_or_default()).filter(|word| !wanted.contains(word)).collect();
        if !against.is_empty() && !hits.is_empty() {
            let bad = self.source.search_words(&options.set, &against.join(" "), depth).await?;
            let (best, worst) = (hits[0].score, bad.first().map_or(1.0, |hit| hit.score));
            let bad: HashMap<&str, f32> =
                bad.iter().map(|hit| (hit.doc_id.as_str(), hit.score / worst * best)).collect();
            for hit in &mut hits {
                hit.score -= bad.get(hit.doc_id.as_str()).copied().unwrap_or(0.0);
            }
            hits.retain(|hit| hit.score > 0.0);
            hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.doc_id.cmp(&b.doc_id)));
        }
        hits.retain(|hit| !options.unlike.contains(&hit.doc_id));
        let ranked = |(position, hit): (usize, crate::WordHit)| Ranked {
            score: hit.score,
            position: position as u64,
            item: hit.doc_id,
        };
        Ok(hits.into_iter().enumerate().map(ranked).collect())
    }
}

/// Scales of all features by id, without any weight yet.
fn base_weights(catalog: &FeatureCatalog) -> Vec<FeatureWeight> {
    let unscaled = FeatureWeight { q50: 1.0, q90: 1.0, ..FeatureWeight::default() };
    let mut weights = vec![unscaled; catalog.id_bound()];
    for feature in catalog.features() {
        if let Some(weight) = weights.get_mut(feature.id as usize) {
            (weight.q50, weight.q90) = feature.scales();
        }
    }
    weights
}

fn set_weights(
    weights: &mut [FeatureWeight],
    understood: &Understood,
    statistics: &Statistics,
    options: &Options,
    catalog: &FeatureCatalog,
) {
    let latents_of = |text: &Option<EncodedText>| match text {
        Some(text) if options.uses(Signal::Latents) => latent_weights(weights, text, statistics),
        _ => Vec::new(),
    };
    let (latents, latents_against) = (latents_of(&understood.query), latents_of(&understood.against));
    let mut set = |entries: Vec<(FeatureId, f32)>, write: fn(&mut FeatureWeight, f32)| {
        for (id, value) in entries {
            if let Some(weight) = weights.get_mut(id as usize) {
                write(weight, value);
            }
        }
    };
    // What the query itself asks for never counts against a document.
    set(understood.labels.clone(), |weight, value| weight.labels = value);
    set(understood.labels_against.clone(), |weight, value| {
        weight.labels_against = if weight.labels == 0.0 { value } else { 0.0 };
    });
    set(latents, |weight, value| weight.latents = value);
    set(latents_against, |weight, value| {
        weight.latents_against = if weight.latents == 0.0 { value } else { 0.0 };
    });
    if options.uses(Signal::Feedback) {
        let ids = |marked: &[passes::Marked]| marked.iter().map(|marked| marked.ids.clone()).collect::<Vec<_>>();
        let usable = |id: FeatureId| catalog.feature(id).is_some_and(|feature| !feature.hidden);
        let (right, wrong) = (ids(&statistics.right), ids(&statistics.wrong));
        set(learn(&right, &wrong, &statistics.n_with, statistics.n_docs, usable), |weight, value| {
            weight.learned = value
        });
    }
}

/// `w_j(q) idf_j`, scaled to a sum of 1 so that a query and what is to be avoided weigh the same.
fn latent_weights(weights: &[FeatureWeight], text: &EncodedText, statistics: &Statistics) -> Vec<(FeatureId, f32)> {
    let weight = |(&id, &activation): (&FeatureId, &f32)| {
        let own = weights.get(id as usize)?;
        let idf = bm25::idf(*statistics.n_with.get(id as usize)?, statistics.n_docs);
        Some((id, bm25::term_weight(activation, own.q90) * idf))
    };
    let mut found: Vec<(FeatureId, f32)> = text.ids.iter().zip(&text.activations).filter_map(weight).collect();
    let total: f32 = found.iter().map(|(_, weight)| weight).sum();
    found.retain(|(_, weight)| *weight > 0.0);
    found.iter_mut().for_each(|(_, weight)| *weight /= total);
    found
}

fn dense_query(options: &Options, understood: &Understood, statistics: &Statistics) -> DenseQuery {
    if !options.uses(Signal::Dense) {
        return DenseQuery::default();
    }
    let query = understood.query.as_ref().map(|query| query.embedding.as_slice());
    let wanted = rocchio(query, &statistics.right, &statistics.wrong);
    let against = understood.against.as_ref().map(|against| beyond(query.unwrap_or(&wanted), &against.embedding));
    DenseQuery { wanted, against: against.unwrap_or_default() }
}

fn result(
    hits: &[Fused],
    rankings: &[Ranking],
    winners: &HashMap<String, Winner>,
    catalog: &FeatureCatalog,
    n_docs: Option<u64>,
) -> Result<RecordBatch> {
    let most: f32 = rankings.iter().map(|ranking| reciprocal_rank(ranking.weight, 1)).sum();
    let mut features = ListBuilder::new(StructBuilder::from_fields(FEATURE_FIELDS.clone(), hits.len()))
        .with_field(Field::new("item", DataType::Struct(FEATURE_FIELDS.clone()), true));
    let (mut sentences, mut texts) = (StringBuilder::new(), StringBuilder::new());
    for hit in hits {
        let found: Vec<Found> = rankings
            .iter()
            .zip(&hit.ranks)
            .filter_map(|(ranking, rank)| {
                let part = reciprocal_rank(ranking.weight, (*rank)?) / most;
                Some(Found { signal: ranking.signal, part, score: *ranking.scores.get(&hit.doc_id)? })
            })
            .collect();
        let missed: Vec<(Signal, f32)> = rankings
            .iter()
            .zip(&hit.ranks)
            .filter(|(_, rank)| rank.is_none())
            .map(|(ranking, _)| (ranking.signal, reciprocal_rank(ranking.weight, 1) / most))
            .collect();
        let winner = winners.get(&hit.doc_id);
        let divided = divide(&found, &missed, winner.map_or(&[], |winner| &winner.contributions));
        sentences.append_value(sentence(&divided, &found, catalog));
        texts.append_option(winner.and_then(|winner| winner.text.as_deref()));
        append_features(&mut features, &listed(&divided), catalog)?;
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new((1..=hits.len() as i64).collect::<Int64Array>()),
        Arc::new(hits.iter().map(|hit| Some(hit.doc_id.as_str())).collect::<StringArray>()),
        Arc::new(hits.iter().map(|hit| Some(hit.score / most)).collect::<Float32Array>()),
        Arc::new(sentences.finish()),
        Arc::new(texts.finish()),
        Arc::new(features.finish()),
    ];
    for signal in Signal::ALL {
        let ranking = rankings.iter().enumerate().find(|(_, ranking)| ranking.signal == signal);
        let rank = |hit: &Fused| ranking.and_then(|(position, _)| Some(hit.ranks[position]? as i64));
        let own_score = |hit: &Fused| ranking.and_then(|(_, ranking)| ranking.scores.get(&hit.doc_id).copied());
        columns.push(Arc::new(hits.iter().map(rank).collect::<Int64Array>()));
        columns.push(Arc::new(hits.iter().map(own_score).collect::<Float32Array>()));
    }
    columns.push(Arc::new(Int64Array::from(vec![n_docs.map(|n| n as i64); hits.len()])));
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}

fn append_features(
    features: &mut ListBuilder<StructBuilder>,
    reasons: &[FeatureReason],
    catalog: &FeatureCatalog,
) -> Result<()> {
    let missing = || datafusion::common::internal_datafusion_err!("retrieve: field of the feature list is missing");
    for reason in reasons {
        let row = features.values();
        row.field_builder::<UInt32Builder>(0).ok_or_else(missing)?.append_value(reason.id);
        row.field_builder::<StringBuilder>(1).ok_or_else(missing)?.append_value(name(catalog, reason.id));
        row.field_builder::<Float32Builder>(2).ok_or_else(missing)?.append_value(reason.strength);
        row.field_builder::<Float32Builder>(3).ok_or_else(missing)?.append_value(reason.contribution);
        row.append(true);
    }
    features.append(true);
    Ok(())
}

#[cfg(test)]
mod tests;
