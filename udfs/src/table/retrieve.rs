//! `retrieve(set, query, ...)`: the documents of a set that have a property said in words, and why; and
//! `learned_features(set, ...)`: what marked documents teach.
//!
//! Scores of several kinds are standardised and added (`kernels::fusion`): the *dense* embedding; features whose *labels*
//! mean what the query says and, if asked for, features that fire when the query is read, the *latents*
//! (`kernels::retrieval`); the *words*, relative to the best hit. The weight of the labels follows from how far the
//! embedding's best documents stand out, and how far its scores fall into two groups. The query's embedding is moved towards the first hits (pseudo-relevance feedback:
//! Rocchio 1971, Lavrenko and Croft 2001). Documents marked with `like` and `unlike` move it further and add a signal,
//! *feedback*, of the features that set them apart: both are one logistic regression (`kernels::feedback`).
//!
//! ```sql
//! SELECT rank, doc_id, reasons FROM retrieve('answers', 'politely refuses to answer', k => 3);
//! SELECT * FROM retrieve('answers WHERE model = ''a''', 'apology', but_not => 'refund', like => 'd17,d40');
//! SELECT label, weight, docs_like, docs_unlike FROM learned_features('answers', like => 'd17,d40', unlike => 'd3');
//! ```
//!
//! `score` is 1 for a document that is best by every signal and 0 for one that is last by all. `docs_searched` is null
//! where the words alone are asked. What the query and `but_not` have in common does not count against a document;
//! documents marked as wrong are not shown, those marked as right are.
//!
//! The set is streamed once to count features and to draw a sample, of which standard deviations are taken, and once to be
//! scored; memory is that of the candidates and the sample, not of the set. Documents without features, embedding or text
//! can only be found by what they have. A query without a known feature or word is answered by the other signals; a
//! set without documents is an error, unless words or features alone are asked.

mod by_features;
mod learned;
mod options;
mod passes;
mod reasons;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, Float32Array, Float32Builder, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    StructBuilder, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::exec_err;
use datafusion::error::Result;

pub use self::learned::{LEARNED_DOC, learned_features_udtf};
use self::options::{Options, Signal};
use self::passes::{
    Candidate, Candidates, DenseQuery, Early, Fusion, Look, Marks, N_SIGNALS, Statistics, Winner, beyond, fetch, score,
    survey,
};
use self::reasons::{FeatureReason, Found, divide, listed, name, sentence};
use crate::catalog::{Feature, FeatureCatalog, FeatureSelection};
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::{DocumentColumn, EncodedText, LabelEmbeddings};
use crate::features::FeatureId;
use crate::kernels::bm25;
use crate::kernels::cancellation::Cancellation;
use crate::kernels::dense::{dot, normalise, widen};
use crate::kernels::feedback::{Gain, Learned, all_known, feedback_weight, gain_idf, learn, mean_embedding};
use crate::kernels::fusion::{Scale, TAIL_DOCS, label_weight, separation};
use crate::kernels::retrieval::{FeatureScores, FeatureWeight, Scorer, most_similar, rank_weights};
use crate::kernels::words::{stem, words};
use crate::table::exec::{Computation, ComputedTable, Request, blocking};
use crate::{SharedSource, WordHit};

/// A label whose cosine to the query is lower says something else.
const LABEL_FLOOR: f32 = 0.25;
/// Labels of hidden features that are read at once.
const LABELS_AT_ONCE: usize = 512;
/// Hits of each signal whose rank there is known, at least.
const LEAST_DEPTH: usize = 1_000;
/// How far the query moves towards its first hits: length of the step, the query having 1.
const EXPANSION: f32 = 0.5;
/// First hits are this share of the documents with an embedding at most, one in so many: of few the first ten say nothing.
const EXPANDED_SHARE: u64 = 20;

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
    syntax: "retrieve(set, query [, k => ...] [, like => ...] [, unlike => ...] [, but_not => ...]), \
             retrieve(set, features => ... [, k => ...])",
    text: "The documents of a set that have a property said in words, best first, and why. Scores of several kinds are \
           divided by their standard deviation over the documents, weighed and added: the cosine of the embeddings \
           (`dense`), features whose labels mean what the query says (`labels`), and the words (`words`, BM25, relative to \
           the best hit); if asked for also features that fire when the query is read (`latents`, BM25 over features). \
           Labels weigh `1.5 / r^3`, at most 1, where the first ten documents by the embedding stand out `r` times as far, in \
           standard deviations, as of a normal distribution, times `1 / s^16`, at most 1, where `s` is the share of the \
           variance of its cosines that is between two groups, in units of what one in a hundred normal samples reaches: where the embedding finds \
           a group, rare or frequent, as of topics, it decides; where it does not, as of forms and styles, labels do. The embedding of the query is moved half its length towards the mean of the \
           first ten hits (pseudo-relevance feedback).\n\n\
           Documents marked with `like` and `unlike` are told from each other, and lightly from a sample of all documents, by \
           a logistic regression on features and embedding: it moves the embedding of the query further and adds the \
           signal `feedback`, the log-odds of the features. Its weight grows with the number `n` of marked documents, `2 n / (n + 20)`; \
           the query may then be left out. `learned_features` lists what was learned. Documents marked as wrong are not shown. \
           Where more documents are marked than not, the marked ones are among those that stand for all. Marks that teach nothing \
           (all documents are right, or none has features) leave the query alone, and `reasons` says `learned: nothing`.\n\n\
           `score` is 1 for a document that is best by every signal and 0 for one that is last by all. In `reasons` the number \
           beside a feature is its activation over its 90th percentile, that beside `dense` the cosine with the moved query; \
           `features` has the same as a list, the ten features that add most and the five that take most, with each one's part of \
           the score: what it adds beyond what every document has of its signal. All parts of a document together are no more \
           than its score; those against it are negative. A document without an embedding counts like the lowest by `dense`. \
           Without `dense` only documents are listed that one of the signals found, also if they are fewer than `k`. \
           `<signal>_rank` and `<signal>_score` are \
           what each signal said; ranks beyond the first thousand, or ten times `k`, are null. A set without documents is an error.\n\n\
           With `features` in place of a query, `score` is the sum of the activations of these features, each times its weight; \
           documents that have none of them are not found. Of a corpus, whole or with a filter, the sums are found by postings, \
           which are made at the first such call and kept beside the corpus; other sets are read. \
           The result is the same to the last digit or two of a score; equal scores are in the order of documents.",
    arguments: &[
        ("set", "corpus, corpus with a filter, or query"),
        ("query", "what to look for, in words"),
        (
            "features",
            "what to look for, as features with weights: `'12:0.5, apology:1'` or an array of such items; ids, labels or concepts \
             (their members with their weights), weight 1 where none is given, below 0 for what is not wanted",
        ),
        ("k (or limit)", "hits; default 10"),
        ("like, unlike", "doc_ids of the set that are right or wrong, separated by commas or as an array"),
        (
            "but_not",
            "what is not wanted, in words; what it shares with the query, in any inflection of a word, does not count against a \
             document. By words it counts against the first thousand documents, or ten times `k`, that have most of it, and takes \
             only from what a document has by the query's own words",
        ),
        (
            "signals",
            "signals to use, separated by commas; default `dense, labels, words`. `words` alone needs no reader",
        ),
        (
            "weights",
            "what one standard deviation of a signal (of words the best hit) counts, e.g. `'dense=1, words=0.3'`; default 1, \
             labels by the query, latents 0.1. Without a query only what was learned counts, and nothing is weighed: just \
             `dense=0` may be given, which leaves embeddings out",
        ),
        ("n_labels", "features that are matched by their labels, at most; default 100"),
        (
            "expand",
            "first hits that the embedding of the query is moved towards; default 10, at most 100 and a twentieth of the \
             documents with an embedding, 0 for none",
        ),
        (
            "include_hidden, dictionary, level",
            "which features labels and feedback may use; see `diff`. Hidden features are not found by the meaning of their \
             labels, but for `include_hidden`: then these are read at every call, which takes seconds",
        ),
    ],
    example: "SELECT rank, doc_id, reasons, text FROM retrieve('answers', 'apology', k => 2)",
};

/// What to do about marks from which nothing can be learned.
const TAUGHT_NOTHING: &str = "the marked documents teach nothing: no feature or embedding sets them apart from other documents; \
                              mark some as right and some as wrong, or leave some unmarked";

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
        let catalog = self.source.catalog();
        catalog.select("retrieve", &options.selection)?;
        by_features::resolve(&catalog, &options.features)?;
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
        let depth = LEAST_DEPTH.max(options.k.saturating_mul(10));
        let catalog = self.source.catalog();
        if !options.features.is_empty() {
            let query = by_features::resolve(&catalog, &options.features)?;
            return Ok(vec![by_features::run(&self.source, options, &query, k, &request).await?]);
        }
        let memory = request.memory("retrieve");

        let mut scorer = Scorer { weights: base_weights(&catalog), mean_length: 0.0 };
        let (candidates, fusion) = if options.signals.iter().all(|(signal, _)| *signal == Signal::Words) {
            let hits = self.words(depth).await?;
            if hits.is_empty() {
                by_features::refuse_empty(&self.source, &options.set).await?;
            }
            words_alone(hits, k)
        } else {
            let mut read = vec![true; catalog.id_bound()];
            catalog.keep_read(&mut read, &self.source, std::slice::from_ref(&options.set)).await?;
            let understood = self.understand(select(&catalog, &options.selection, &read)?).await?;
            set_labels(&mut scorer.weights, &understood);
            let dense = dense_query(options, &understood);
            let marks = Marks { like: &options.like, unlike: &options.unlike };
            let look = Look {
                scorer: &scorer,
                dense: &dense,
                with_features: options.uses_features(),
                with_embeddings: options.uses(Signal::Dense),
            };
            let statistics = survey("retrieve", &self.source, &options.set, marks, look, &memory).await?;
            if statistics.n_rows == 0 {
                return exec_err!("retrieve: set '{}' has no documents", options.set);
            }
            let depth = depth.min(statistics.n_rows as usize);
            let words = if options.uses(Signal::Words) { self.words(depth).await? } else { Vec::new() };
            let plan =
                Plan { options: options.clone(), catalog: Arc::clone(&catalog), read, understood, statistics, dense };
            let planned = blocking("retrieve", move |_| plan.make(scorer, words)).await?;
            scorer = planned.0;
            let k = k.min(depth);
            (score(&self.source, options, &planned.1, &scorer, (k, depth), &memory).await?, planned.1)
        };

        let (reasons, text, features) = (request.wants(3), request.wants(4), request.wants(5));
        let mut wanted = Vec::new();
        wanted.extend(text.then_some(DocumentColumn::Text));
        wanted.extend(((reasons || features) && options.uses_features()).then_some(DocumentColumn::Features));
        let winners = if wanted.is_empty() {
            HashMap::new()
        } else {
            let doc_ids: Vec<String> = candidates.hits.iter().map(|hit| hit.doc_id.clone()).collect();
            fetch(&self.source, options, &scorer, &doc_ids, &wanted, &memory).await?
        };
        Ok(vec![result(&candidates, &fusion, &winners, &catalog)?])
    }
}

impl RetrieveCall {
    /// Reads the query and `but_not`, and finds the features whose labels mean the same.
    async fn understand(&self, selected: Vec<bool>) -> Result<Understood> {
        let options = self.options.clone();
        let needed = [Signal::Dense, Signal::Labels, Signal::Latents].iter().any(|signal| options.uses(*signal));
        if !needed || (options.query.is_none() && options.but_not.is_none()) {
            return Ok(Understood::default());
        }
        let source = Arc::clone(&self.source);
        blocking("retrieve", move |cancellation| {
            let texts: Vec<&str> =
                [&options.query, &options.but_not].into_iter().flatten().map(String::as_str).collect();
            let mut encoded = source.encode(&texts)?.into_iter();
            let query = options.query.as_ref().and_then(|_| encoded.next());
            let against = options.but_not.as_ref().and_then(|_| encoded.next());
            let mut understood = Understood { query, against, ..Understood::default() };
            if options.uses(Signal::Labels) {
                let mut labels = source.label_embeddings()?;
                if options.selection.include_hidden {
                    labels = with_hidden(&labels, &source, &selected, cancellation)?;
                }
                let is_selected = |id: &FeatureId| selected.get(*id as usize).copied().unwrap_or(false);
                let matched = |text: &Option<EncodedText>| -> Vec<(FeatureId, f32)> {
                    let Some(text) = text else { return Vec::new() };
                    let rows =
                        most_similar(&text.embedding, &labels.values, labels.width, labels.ids.len(), LABEL_FLOOR);
                    let ids = rows.into_iter().map(|(row, _)| labels.ids[row]);
                    let ids: Vec<FeatureId> = ids.filter(is_selected).take(options.n_labels).collect();
                    let weights = rank_weights(ids.len());
                    ids.into_iter().zip(weights).collect()
                };
                understood.labels = matched(&understood.query);
                understood.labels_against = matched(&understood.against);
            }
            Ok(understood)
        })
        .await
    }

    /// Hits by words: BM25 of the query's words, less, each relative to its best hit, that of words of `but_not` that
    /// the query does not have in any inflection.
    async fn words(&self, depth: usize) -> Result<Vec<WordHit>> {
        let options = &self.options;
        let Some(query) = &options.query else { return Ok(Vec::new()) };
        let mut hits = self.source.search_words(&options.set, query, depth).await?;
        let wanted: HashSet<String> = words(query).map(|word| stem(&word)).collect();
        let against = words(options.but_not.as_deref().unwrap_or_default());
        let against: Vec<String> = against.filter(|word| !wanted.contains(&stem(word))).collect();
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
        Ok(hits)
    }
}

/// The embeddings of labels with those of hidden features that are selected, which nobody keeps: they are read now.
fn with_hidden(
    visible: &LabelEmbeddings,
    source: &SharedSource,
    selected: &[bool],
    cancellation: &Cancellation,
) -> Result<Arc<LabelEmbeddings>> {
    let catalog = source.catalog();
    let is_selected = |id: FeatureId| selected.get(id as usize).copied().unwrap_or(false);
    let hidden = catalog.features().iter().filter(|feature| feature.hidden && is_selected(feature.id));
    let spoken = |feature: &Feature| match (feature.label.trim(), feature.description.trim()) {
        ("", _) => None,
        (label, "") => Some((feature.id, label.to_owned())),
        (label, description) => Some((feature.id, format!("{label}. {description}"))),
    };
    let hidden: Vec<(FeatureId, String)> = hidden.filter_map(spoken).collect();
    let LabelEmbeddings { ids, values, width } = visible;
    let mut all = LabelEmbeddings { ids: ids.clone(), values: values.clone(), width: *width };
    for batch in hidden.chunks(LABELS_AT_ONCE) {
        if cancellation.is_cancelled() {
            break;
        }
        let texts: Vec<&str> = batch.iter().map(|(_, label)| label.as_str()).collect();
        for ((id, _), mut encoded) in batch.iter().zip(source.encode(&texts)?) {
            normalise(&mut encoded.embedding);
            if all.ids.is_empty() {
                all.width = encoded.embedding.len();
            }
            if encoded.embedding.len() == all.width {
                all.ids.push(*id);
                all.values.append(&mut encoded.embedding);
            }
        }
    }
    Ok(Arc::new(all))
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

/// Weights of the features whose labels match. What the query itself asks for never counts against a document.
fn set_labels(weights: &mut [FeatureWeight], understood: &Understood) {
    set(weights, &understood.labels, |weight, value| weight.labels = value);
    set(weights, &understood.labels_against, |weight, value| {
        weight.labels_against = if weight.labels == 0.0 { value } else { 0.0 };
    });
}

fn set(weights: &mut [FeatureWeight], entries: &[(FeatureId, f32)], write: impl Fn(&mut FeatureWeight, f32)) {
    for &(id, value) in entries {
        if let Some(weight) = weights.get_mut(id as usize) {
            write(weight, value);
        }
    }
}

/// `w_j(q) idf_j`, scaled to a sum of 1 so that a query and what is to be avoided weigh the same.
fn latent_weights(
    weights: &[FeatureWeight],
    text: &EncodedText,
    statistics: &Statistics,
    selected: &[bool],
) -> Vec<(FeatureId, f32)> {
    let weight = |(&id, &activation): (&FeatureId, &f32)| {
        selected.get(id as usize).filter(|selected| **selected)?;
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

fn dense_query(options: &Options, understood: &Understood) -> DenseQuery {
    let unit = |text: &EncodedText| {
        let mut direction = text.embedding.clone();
        if normalise(&mut direction) > 0.0 { direction } else { Vec::new() }
    };
    if !options.uses(Signal::Dense) {
        return DenseQuery::default();
    }
    let wanted = understood.query.as_ref().map(unit).unwrap_or_default();
    let against = understood.against.as_ref().map(|against| beyond(&wanted, &unit(against))).unwrap_or_default();
    DenseQuery { wanted, against, against_weight: 1.0 }
}

/// What is learned of features from documents marked as right and wrong.
fn learn_from(statistics: &Statistics, catalog: &FeatureCatalog, selected: &[bool]) -> Learned {
    let mut gains = vec![Gain::default(); statistics.n_with.len()];
    for feature in catalog.features() {
        let id = feature.id as usize;
        if let (Some(gain), Some(&n_with), Some(true)) =
            (gains.get_mut(id), statistics.n_with.get(id), selected.get(id))
        {
            *gain = Gain { q50: feature.scales().0, idf: gain_idf(n_with, statistics.n_docs) };
        }
    }
    learn(&statistics.right, &statistics.wrong, &statistics.sample, &gains)
}

/// All that the second pass is planned from.
struct Plan {
    options: Options,
    catalog: Arc<FeatureCatalog>,
    /// Features of dictionaries that the set was read with.
    read: Vec<bool>,
    understood: Understood,
    statistics: Statistics,
    dense: DenseQuery,
}

/// The features of `selection` of dictionaries that the set was read with.
fn select(catalog: &FeatureCatalog, selection: &FeatureSelection, read: &[bool]) -> Result<Vec<bool>> {
    let mut selected = catalog.select("retrieve", selection)?;
    selected.iter_mut().zip(read).for_each(|(selected, read)| *selected &= *read);
    Ok(selected)
}

impl Plan {
    /// Weights of features, and what each signal counts.
    fn make(self, mut scorer: Scorer, words: Vec<WordHit>) -> Result<(Scorer, Fusion)> {
        let Self { options, catalog, read, understood, statistics, mut dense } = self;
        scorer.mean_length = statistics.mean_length;
        if options.uses(Signal::Latents) {
            let everything = FeatureSelection { include_hidden: true, ..options.selection.clone() };
            let selected = select(&catalog, &everything, &read)?;
            let latents = |text: &Option<EncodedText>| {
                text.as_ref()
                    .map(|text| latent_weights(&scorer.weights, text, &statistics, &selected))
                    .unwrap_or_default()
            };
            let (latents, against) = (latents(&understood.query), latents(&understood.against));
            set(&mut scorer.weights, &latents, |weight, value| weight.latents = value);
            set(&mut scorer.weights, &against, |weight, value| {
                weight.latents_against = if weight.latents == 0.0 { value } else { 0.0 };
            });
        }
        let known = all_known(&statistics.right, &statistics.wrong, &statistics.sample);
        let sums = |scorer: &Scorer, part: fn(FeatureScores) -> f32| -> Vec<f32> {
            known.iter().map(|example| part(scorer.score(&example.ids, &example.activations))).collect()
        };
        let first: Vec<f32> = statistics.early[0].iter().take(TAIL_DOCS).map(|early| early.dense).collect();
        let [dense_scale, labels_scale] = statistics.scales;
        let of_labels = if options.adaptive {
            label_weight(dense_scale.tail(&first), separation(dense.scores(&known)), statistics.n_compared)
        } else {
            options.weight(Signal::Labels)
        };
        let best_word = words.first().map_or(1.0, |hit| hit.score);
        let words = words.into_iter().enumerate().map(|(rank, hit)| (hit.doc_id, (rank + 1, hit.score)));
        let mut fusion = Fusion { words: words.collect(), ..Fusion::default() };
        let unit = |units: &mut [f32; N_SIGNALS], signal: Signal, value: f32| {
            units[signal as usize] = if options.uses(signal) { value } else { 0.0 };
        };
        let units = &mut fusion.units;
        unit(units, Signal::Labels, labels_scale.unit(of_labels));
        unit(units, Signal::Words, options.weight(Signal::Words) / best_word);
        if options.uses(Signal::Latents) {
            let scale = Scale::of(sums(&scorer, |scores| scores.latents));
            unit(units, Signal::Latents, scale.unit(options.weight(Signal::Latents)));
        }
        if !dense.wanted.is_empty() {
            let weight = options.weight(Signal::Dense);
            let n_first = options.expand.min((statistics.n_compared / EXPANDED_SHARE) as usize);
            if n_first > 0 {
                unit(units, Signal::Dense, dense_scale.unit(weight));
                dense.wanted = expanded(&dense.wanted, &fusion, &statistics, n_first);
            }
            let scale = Scale::of(dense.scores(&known));
            unit(&mut fusion.units, Signal::Dense, scale.unit(weight));
        }
        if options.uses(Signal::Feedback) {
            let selected = select(&catalog, &options.selection, &read)?;
            let learned = learn_from(&statistics, &catalog, &selected);
            fusion.learned_nothing = learned.is_nothing();
            if fusion.learned_nothing && options.query.is_none() {
                return exec_err!("retrieve: {TAUGHT_NOTHING}, or give a query");
            }
            let Learned { features, direction } = learned;
            set(&mut scorer.weights, &features, |weight, value| weight.learned = value);
            let mut log_odds = sums(&scorer, |scores| scores.learned);
            let mut buffer = Vec::new();
            for (sum, example) in log_odds.iter_mut().zip(&known) {
                widen(&example.embedding, &mut buffer);
                *sum += dot(&direction, &buffer);
            }
            let n_marked = statistics.right.len() + statistics.wrong.len();
            let weight = options.weight(Signal::Feedback) * feedback_weight(n_marked);
            let per_log_odds = Scale::of(log_odds).unit(weight);
            unit(&mut fusion.units, Signal::Feedback, per_log_odds);
            move_by(&mut dense, &mut fusion.units[Signal::Dense as usize], &direction, per_log_odds);
        }
        if !dense.wanted.is_empty() {
            let finite = dense.scores(&known).filter(|score| score.is_finite());
            fusion.unknown = finite.reduce(f32::min).unwrap_or(0.0);
        }
        fusion.dense = dense;
        Ok((scorer, fusion))
    }
}

/// Adds a learned direction to a query that counts `unit`: the two are one direction then, and `unit` what it counts.
fn move_by(dense: &mut DenseQuery, unit: &mut f32, direction: &[f32], per_log_odds: f32) {
    if direction.is_empty() {
        return;
    }
    let mut moved: Vec<f32> = direction.iter().map(|value| value * per_log_odds).collect();
    moved.iter_mut().zip(&dense.wanted).for_each(|(moved, wanted)| *moved += *unit * wanted);
    let length = normalise(&mut moved);
    if length > 0.0 && length.is_finite() {
        dense.against_weight *= *unit / length;
        (dense.wanted, *unit) = (moved, length);
    }
}

/// The query moved towards the first hits, as far as they are known before the set is scored: among the best by embedding
/// and by labels.
fn expanded(wanted: &[f32], fusion: &Fusion, statistics: &Statistics, n_first: usize) -> Vec<f32> {
    let units = &fusion.units;
    let fused = |early: &Early| {
        let words = fusion.words.get(&early.doc_id).map_or(0.0, |(_, score)| *score);
        early.dense * units[Signal::Dense as usize]
            + early.labels * units[Signal::Labels as usize]
            + words * units[Signal::Words as usize]
    };
    let mut first: Vec<(f32, &Early)> = statistics.early.iter().flatten().map(|early| (fused(early), early)).collect();
    first.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.doc_id.cmp(&b.1.doc_id)));
    first.dedup_by(|a, b| a.1.doc_id == b.1.doc_id);
    first.truncate(n_first);
    let mut step = vec![0.0; wanted.len()];
    let mut buffer = Vec::new();
    for (_, early) in &first {
        widen(&early.embedding, &mut buffer);
        step.iter_mut().zip(&buffer).for_each(|(sum, value)| *sum += value / first.len() as f32);
    }
    let mean = mean_embedding(&all_known(&statistics.right, &statistics.wrong, &statistics.sample));
    step.iter_mut().zip(&mean).for_each(|(step, mean)| *step -= mean);
    normalise(&mut step);
    let mut moved: Vec<f32> = wanted.iter().zip(&step).map(|(wanted, step)| wanted + EXPANSION * step).collect();
    normalise(&mut moved);
    moved
}

/// Hits of the words alone.
fn words_alone(hits: Vec<WordHit>, k: usize) -> (Candidates, Fusion) {
    let mut fusion = Fusion::default();
    let mut candidates = Candidates::default();
    let words = Signal::Words as usize;
    let best = hits.first().map_or(1.0, |hit| hit.score);
    (fusion.units[words], candidates.bounds[words]) = (1.0 / best, (0.0, best));
    for (rank, hit) in hits.into_iter().enumerate().take(k) {
        let mut scores = [None; N_SIGNALS];
        scores[words] = Some(hit.score);
        let (doc_id, fused) = (hit.doc_id.clone(), hit.score / best);
        candidates.hits.push(Candidate { doc_id, position: rank as u64, fused, scores });
        fusion.words.entry(hit.doc_id).or_insert((rank + 1, hit.score));
    }
    (candidates, fusion)
}

fn result(
    candidates: &Candidates,
    fusion: &Fusion,
    winners: &HashMap<String, Winner>,
    catalog: &FeatureCatalog,
) -> Result<RecordBatch> {
    let Candidates { hits, ranks, bounds, n_docs } = candidates;
    let span = |low: &dyn Fn(usize) -> f32| -> f32 {
        let part = |at: usize| fusion.units[at] * (bounds[at].1 - low(at));
        (0..N_SIGNALS).filter(|at| fusion.units[*at] != 0.0).map(part).sum()
    };
    // Where all are the same, they are the best.
    let differ = span(&|at| bounds[at].0) > 0.0;
    // What is the same everywhere is counted from 0, or from itself if it is below: no part makes up for that.
    let low = |at: usize| if differ { bounds[at].0 } else { bounds[at].0.min(0.0) };
    let most = span(&low);
    let per_unit = |signal: Signal| if most > 0.0 { fusion.units[signal as usize] / most } else { 0.0 };
    let per_sum = FeatureScores {
        labels: per_unit(Signal::Labels),
        latents: per_unit(Signal::Latents),
        learned: per_unit(Signal::Feedback),
    };
    let least: f32 = (0..N_SIGNALS).filter(|at| fusion.units[*at] != 0.0).map(|at| fusion.units[at] * low(at)).sum();
    let score = |hit: &Candidate| if most > 0.0 { ((hit.fused - least) / most).clamp(0.0, 1.0) } else { 1.0 };
    // What every document has of a signal is no part of a score, which counts from the lowest.
    let share =
        |hit: &Candidate, signal: Signal| match (hit.scores[signal as usize].unwrap_or(0.0), low(signal as usize)) {
            (value, low) if value > 0.0 && low > 0.0 => ((value - low) / value).max(0.0),
            _ => 1.0,
        };
    let mut features = ListBuilder::new(StructBuilder::from_fields(FEATURE_FIELDS.clone(), hits.len()))
        .with_field(Field::new("item", DataType::Struct(FEATURE_FIELDS.clone()), true));
    let n_bytes: usize = winners.values().filter_map(|winner| winner.text.as_deref()).map(str::len).sum();
    if n_bytes > i32::MAX as usize {
        return exec_err!("retrieve: the texts are more than 2 GiB; ask for a smaller k, or without 'text'");
    }
    let (mut sentences, mut texts) = (StringBuilder::new(), StringBuilder::new());
    for hit in hits {
        let winner = winners.get(&hit.doc_id);
        let shares = FeatureScores {
            labels: share(hit, Signal::Labels),
            latents: share(hit, Signal::Latents),
            learned: share(hit, Signal::Feedback),
        };
        let divided = divide(per_sum, shares, winner.map_or(&[], |winner| &winner.contributions));
        let found = Found {
            words: hit.scores[Signal::Words as usize].is_some(),
            dense: hit.scores[Signal::Dense as usize],
            learned_nothing: fusion.learned_nothing,
        };
        sentences.append_value(sentence(&divided, found, catalog));
        texts.append_option(winner.and_then(|winner| winner.text.as_deref()));
        append_features(&mut features, &listed(&divided), catalog)?;
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new((1..=hits.len() as i64).collect::<Int64Array>()),
        Arc::new(hits.iter().map(|hit| Some(hit.doc_id.as_str())).collect::<StringArray>()),
        Arc::new(hits.iter().map(|hit| Some(score(hit))).collect::<Float32Array>()),
        Arc::new(sentences.finish()),
        Arc::new(texts.finish()),
        Arc::new(features.finish()),
    ];
    for signal in Signal::ALL {
        let rank = |hit: &Candidate| match signal {
            Signal::Words => fusion.words.get(&hit.doc_id).map(|(rank, _)| *rank as i64),
            signal => ranks[signal as usize].get(&hit.position).map(|rank| *rank as i64),
        };
        columns.push(Arc::new(hits.iter().map(rank).collect::<Int64Array>()));
        columns.push(Arc::new(hits.iter().map(|hit| hit.scores[signal as usize]).collect::<Float32Array>()));
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
