//! The passes over a set: counting, scoring, fetching. Memory is that of the counts by feature and of the candidates.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, RecordBatch};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::TryStreamExt;
use half::f16;

use super::options::{Options, Signal};
use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, FeaturesView};
use crate::kernels::dense::{dot, normalise, widen};
use crate::kernels::feedback::Example;
use crate::kernels::fusion::{Moments, Scale};
use crate::kernels::random::Random;
use crate::kernels::retrieval::{Contribution, Scorer, document_length};
use crate::kernels::top_k::TopK;
use crate::table::document_columns::{Embeddings, lacks_column, texts, with_ids};

/// Memory of a candidate, about: its id and its scores.
const CANDIDATE_BYTES: usize = 160;
/// Memory of a place in the ranking of one signal.
const RANK_BYTES: usize = 48;
/// Documents that standard deviations are taken from, and that stand for those that are not marked.
const SAMPLE_DOCS: usize = 1_000;
/// Documents among which the first hits are looked for, of each of two signals.
const EARLY_DOCS: usize = 100;
/// Signals, and where the embedding is among them.
pub(super) const N_SIGNALS: usize = Signal::ALL.len();
const DENSE: usize = Signal::Dense as usize;
/// Winners that are asked for by their ids; more come with a reading of the whole set.
const MOST_BY_ID: usize = 10_000;

/// A document of the first pass that may be among the first hits.
#[derive(Debug, Clone)]
pub(super) struct Early {
    pub(super) doc_id: String,
    pub(super) dense: f32,
    pub(super) labels: f32,
    pub(super) embedding: Vec<f16>,
}

/// What the first pass finds out.
#[derive(Debug)]
pub(super) struct Statistics {
    /// Documents of the set.
    pub(super) n_rows: u64,
    /// Those that the query's embedding was compared with: not marked as wrong, with an embedding.
    pub(super) n_compared: u64,
    /// Documents of the set that were encoded.
    pub(super) n_docs: u64,
    /// Documents with each feature, by id.
    pub(super) n_with: Vec<u64>,
    /// Mean length of a document, for BM25 over features.
    pub(super) mean_length: f32,
    /// Documents marked as right.
    pub(super) right: Vec<Example>,
    /// Documents marked as wrong.
    pub(super) wrong: Vec<Example>,
    /// Some of the other documents, evenly drawn.
    pub(super) sample: Vec<Example>,
    /// Of the cosines with the query, and of the sums of labels.
    pub(super) scales: [Scale; 2],
    /// The best by the embedding, best first, and the best by labels; a document may be among both.
    pub(super) early: [Vec<Early>; 2],
}

/// Counts features, draws a sample, collects the marked documents and the best ones as far as they are known.
///
/// # Errors
/// Also if a marked document is not in the set.
pub(super) async fn survey(
    function: &str,
    source: &SharedSource,
    set: &str,
    marks: Marks<'_>,
    look: Look<'_>,
    memory: &MemoryReservation,
) -> Result<Statistics> {
    let Marks { like, unlike } = marks;
    let mut columns = vec![DocumentColumn::DocId];
    columns.extend(look.with_features.then_some(DocumentColumn::Features));
    columns.extend(look.with_embeddings.then_some(DocumentColumn::Embedding));
    let n_ids = look.scorer.weights.len();
    memory.try_grow(n_ids * size_of::<u64>())?;
    if !look.dense.wanted.is_empty() {
        memory.try_grow(2 * EARLY_DOCS * (CANDIDATE_BYTES + look.dense.wanted.len() * size_of::<f16>()))?;
    }
    let mut statistics = Statistics {
        n_rows: 0,
        n_compared: 0,
        n_docs: 0,
        n_with: vec![0; n_ids],
        mean_length: 0.0,
        right: Vec::new(),
        wrong: Vec::new(),
        sample: Vec::new(),
        scales: [Moments::default().scale(); 2],
        early: [Vec::new(), Vec::new()],
    };
    let mut moments = [Moments::default(); 2];
    let mut total_length = 0.0f64;
    let marked: HashMap<&str, bool> =
        like.iter().map(|id| (id.as_str(), true)).chain(unlike.iter().map(|id| (id.as_str(), false))).collect();
    let mut found: HashSet<String> = HashSet::new();
    let (mut random, mut n_drawn) = (Random::new(0, 1), 0u64);
    let mut best: [TopK<Early>; 2] = std::array::from_fn(|_| TopK::new(EARLY_DOCS));
    let mut buffer = Vec::new();
    let mut stream = source.documents(set, &columns).await?;
    while let Some(batch) = stream.try_next().await? {
        let doc_ids = texts(function, "doc_id", batch.column(0))?;
        let features = look.with_features.then(|| FeaturesView::try_new(function, batch.column(1))).transpose()?;
        let features = features.as_ref();
        let embeddings = embeddings_of(function, set, &batch, look.dense)?;
        for row in 0..batch.num_rows() {
            statistics.n_rows += 1;
            let embedding = embeddings.as_ref().map_or(&[][..], |embeddings| embeddings.row(row));
            let ids = features.map_or(&[][..], |features| features.ids(row));
            let activations = features.map_or(&[][..], |features| features.activations(row));
            let encoded = features.is_some_and(|features| !features.is_null(row));
            if encoded {
                statistics.n_docs += 1;
                for &id in ids {
                    if let Some(count) = statistics.n_with.get_mut(id as usize) {
                        *count += 1;
                    }
                }
                total_length += f64::from(document_length(&look.scorer.weights, ids, activations));
            }
            let example =
                || Example { ids: ids.to_vec(), activations: activations.to_vec(), embedding: embedding.to_vec() };
            let doc_id = if doc_ids.is_null(row) { "" } else { doc_ids.value(row) };
            if let Some(&right) = marked.get(doc_id) {
                if found.insert(doc_id.to_owned()) {
                    memory.try_grow(example_bytes(ids.len(), embedding.len()))?;
                    let side = if right { &mut statistics.right } else { &mut statistics.wrong };
                    side.push(example());
                }
                if !right {
                    continue;
                }
            } else if encoded || !embedding.is_empty() {
                // Reservoir sampling (Vitter 1985, algorithm R).
                n_drawn += 1;
                if statistics.sample.len() < SAMPLE_DOCS {
                    memory.try_grow(example_bytes(ids.len(), embedding.len()))?;
                    statistics.sample.push(example());
                } else {
                    let at = random.below(n_drawn) as usize;
                    if let Some(slot) = statistics.sample.get_mut(at) {
                        *slot = example();
                    }
                }
            }
            let labels = look.scorer.score(ids, activations).labels;
            moments[1].add(labels);
            if !look.dense.wanted.is_empty() && widen_known(embedding, &mut buffer) {
                let dense = look.dense.score(&buffer);
                statistics.n_compared += 1;
                moments[0].add(dense);
                let early = || Early { doc_id: doc_id.to_owned(), dense, labels, embedding: embedding.to_vec() };
                best[0].offer(dense, statistics.n_rows, early);
                if labels > 0.0 {
                    best[1].offer(labels, statistics.n_rows, early);
                }
            }
        }
    }
    statistics.scales = moments.map(Moments::scale);
    statistics.mean_length = (total_length / statistics.n_docs.max(1) as f64) as f32;
    statistics.early = best.map(|best| best.into_sorted().into_iter().map(|ranked| ranked.item).collect());
    let missing: Vec<&str> = marked.keys().copied().filter(|id| !found.contains(*id)).collect();
    if let Some(first) = missing.iter().min() {
        let more = if missing.len() > 1 { format!(" (and {} more)", missing.len() - 1) } else { String::new() };
        return exec_err!(
            "{function}: marked document '{first}'{more} is not in '{set}'; 'like' and 'unlike' take doc_ids of the set"
        );
    }
    Ok(statistics)
}

/// Documents marked as right and as wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks<'a> {
    pub(super) like: &'a [String],
    pub(super) unlike: &'a [String],
}

/// What the first pass looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) scorer: &'a Scorer,
    pub(super) dense: &'a DenseQuery,
    pub(super) with_features: bool,
    pub(super) with_embeddings: bool,
}

fn example_bytes(n_features: usize, width: usize) -> usize {
    size_of::<Example>() + n_features * (size_of::<FeatureId>() + size_of::<f16>()) + width * size_of::<f16>()
}

/// Widens an embedding; false if there is none.
fn widen_known(embedding: &[f16], buffer: &mut Vec<f32>) -> bool {
    widen(embedding, buffer);
    buffer.iter().any(|&value| value != 0.0)
}

/// Embeddings of a batch, its last column, if the reader's are of the same length.
fn embeddings_of(function: &str, set: &str, batch: &RecordBatch, query: &DenseQuery) -> Result<Option<Embeddings>> {
    let Some(column) = batch.column_by_name("embedding") else { return Ok(None) };
    let embeddings = Embeddings::try_new(function, column)?;
    if !query.wanted.is_empty() && embeddings.width() != query.wanted.len() {
        return exec_err!(
            "{function}: documents of '{set}' have embeddings of {} numbers, the reader gives {}; was another reader used \
             when they were imported? signals => 'labels,latents,words' works without embeddings",
            embeddings.width(),
            query.wanted.len()
        );
    }
    Ok(Some(embeddings))
}

/// What the dense signal compares embeddings with.
#[derive(Debug, Clone, Default)]
pub(super) struct DenseQuery {
    /// Direction wanted, of length 1; empty if the signal is not used.
    pub(super) wanted: Vec<f32>,
    /// What `but_not` means beyond the wanted direction, of length 1, or empty.
    pub(super) against: Vec<f32>,
    /// What the latter counts beside the former.
    pub(super) against_weight: f32,
}

impl DenseQuery {
    /// Cosine with what is wanted, less the positive part of the cosine with what is not.
    pub(super) fn score(&self, embedding: &[f32]) -> f32 {
        dot(&self.wanted, embedding) - self.against_weight * dot(&self.against, embedding).max(0.0)
    }

    /// The scores of those examples that have an embedding.
    pub(super) fn scores<'a>(&'a self, examples: &'a [&'a Example]) -> impl Iterator<Item = f32> + 'a {
        let mut buffer = Vec::new();
        examples
            .iter()
            .filter_map(move |example| widen_known(&example.embedding, &mut buffer).then(|| self.score(&buffer)))
    }
}

/// The part of `against` that `wanted` does not share, of length 1; empty if there is none.
pub(super) fn beyond(wanted: &[f32], against: &[f32]) -> Vec<f32> {
    let shared = dot(wanted, against).max(0.0);
    let mut rest: Vec<f32> = against.to_vec();
    rest.iter_mut().zip(wanted).for_each(|(rest, wanted)| *rest -= shared * wanted);
    if normalise(&mut rest) < 0.1 { Vec::new() } else { rest }
}

/// What each signal says of a document, in the order of [`Signal::ALL`]; none where it says nothing.
pub(super) type Scores = [Option<f32>; N_SIGNALS];

/// A document that may be a hit.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) doc_id: String,
    pub(super) position: u64,
    /// Sum of the scores, weighed; those that say nothing are 0.
    pub(super) fused: f32,
    pub(super) scores: Scores,
}

/// What counts how much.
#[derive(Debug, Clone, Default)]
pub(super) struct Fusion {
    /// What one unit of each signal counts, in the order of [`Signal::ALL`].
    pub(super) units: [f32; N_SIGNALS],
    pub(super) dense: DenseQuery,
    /// What counts as the score by the embedding of a document that has none: the lowest that is usual.
    pub(super) unknown: f32,
    /// Rank and score by words of the documents that have them.
    pub(super) words: HashMap<String, (usize, f32)>,
    /// Whether documents were marked and taught nothing.
    pub(super) learned_nothing: bool,
}

/// The best documents, best first, and what is needed to compare them.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) hits: Vec<Candidate>,
    /// Ranks in each signal that streams, by position.
    pub(super) ranks: [HashMap<u64, usize>; N_SIGNALS],
    /// Smallest and largest score of each signal.
    pub(super) bounds: [(f32, f32); N_SIGNALS],
    /// Documents that were looked at; none if the words alone were asked.
    pub(super) n_docs: Option<u64>,
}

/// Scores every document of the set, keeping the `k` best and the first `depth` of each signal. Documents marked as wrong
/// are left out.
pub(super) async fn score(
    source: &SharedSource,
    options: &Options,
    fusion: &Fusion,
    scorer: &Scorer,
    (k, depth): (usize, usize),
    memory: &MemoryReservation,
) -> Result<Candidates> {
    let with_dense = !fusion.dense.wanted.is_empty();
    let with_features = options.uses_features();
    let mut columns = vec![DocumentColumn::DocId];
    columns.extend(with_features.then_some(DocumentColumn::Features));
    columns.extend(with_dense.then_some(DocumentColumn::Embedding));
    let mut best: TopK<Candidate> = TopK::new(k);
    let mut firsts: [TopK<()>; N_SIGNALS] = std::array::from_fn(|_| TopK::new(depth));
    let mut bounds = [(f32::INFINITY, f32::NEG_INFINITY); N_SIGNALS];
    let (mut position, mut buffer) = (0u64, Vec::new());
    let unlike: HashSet<&str> = options.unlike.iter().map(String::as_str).collect();
    let held = memory.size() + fusion.words.len() * CANDIDATE_BYTES;
    let mut stream = source.documents(&options.set, &columns).await?;
    while let Some(batch) = stream.try_next().await? {
        let doc_ids = texts("retrieve", "doc_id", batch.column(0))?;
        let features = with_features.then(|| FeaturesView::try_new("retrieve", batch.column(1))).transpose()?;
        let embeddings = embeddings_of("retrieve", &options.set, &batch, &fusion.dense)?;
        for row in 0..batch.num_rows() {
            position += 1;
            if doc_ids.is_null(row) || unlike.contains(doc_ids.value(row)) {
                continue;
            }
            let doc_id = doc_ids.value(row);
            let known = embeddings.as_ref().is_some_and(|embeddings| widen_known(embeddings.row(row), &mut buffer));
            let sums = features.as_ref().map(|features| scorer.score(features.ids(row), features.activations(row)));
            let sums = sums.unwrap_or_default();
            let all = [
                if known { fusion.dense.score(&buffer) } else { fusion.unknown },
                sums.labels,
                sums.latents,
                fusion.words.get(doc_id).map_or(0.0, |(_, score)| *score),
                sums.learned,
            ];
            let used = |at: usize| fusion.units[at] != 0.0;
            let mut found = false;
            for (at, &value) in all.iter().enumerate().filter(|(at, _)| used(*at)) {
                bounds[at] = (bounds[at].0.min(value), bounds[at].1.max(value));
                // By embeddings only what has one is found, whatever counts for the others.
                let finds = if at == DENSE { known } else { value > 0.0 };
                if finds {
                    found = true;
                    firsts[at].offer(value, position, || ());
                }
            }
            if found {
                let fused: f32 = all.iter().zip(&fusion.units).map(|(value, unit)| value * unit).sum();
                let said = |at: usize| used(at) && if at == DENSE { known } else { all[at] != 0.0 };
                let candidate = || Candidate {
                    doc_id: doc_id.to_owned(),
                    position,
                    fused,
                    scores: std::array::from_fn(|at| said(at).then_some(all[at])),
                };
                best.offer(fused, position, candidate);
            }
        }
        let n_firsts: usize = firsts.iter().map(TopK::len).sum();
        memory.try_resize(held + best.len() * CANDIDATE_BYTES + n_firsts * RANK_BYTES)?;
    }
    let ranks = firsts.map(|first| {
        first.into_sorted().iter().enumerate().map(|(rank, ranked)| (ranked.position, rank + 1)).collect()
    });
    let hits = best.into_sorted().into_iter().map(|ranked| ranked.item).collect();
    Ok(Candidates { hits, ranks, bounds, n_docs: Some(position) })
}

/// What the result shows of a winner.
#[derive(Debug, Clone, Default)]
pub(super) struct Winner {
    pub(super) text: Option<String>,
    pub(super) contributions: Vec<Contribution>,
}

/// Reads the text and the features of the winners, as far as they are wanted, by id.
pub(super) async fn fetch(
    source: &SharedSource,
    options: &Options,
    scorer: &Scorer,
    doc_ids: &[String],
    wanted: &[DocumentColumn],
    memory: &MemoryReservation,
) -> Result<HashMap<String, Winner>> {
    let mut winners: HashMap<String, Winner> = HashMap::with_capacity(doc_ids.len());
    if doc_ids.is_empty() {
        return Ok(winners);
    }
    let columns = [&[DocumentColumn::DocId][..], wanted].concat();
    let names: HashSet<&str> = doc_ids.iter().map(String::as_str).collect();
    // Asking for these documents alone is an optimisation: whatever is wrong with it, the set itself is still there.
    if doc_ids.len() <= MOST_BY_ID
        && let Some(few) = with_ids(&options.set, doc_ids)
    {
        let _ = read_winners(source, &few, &columns, scorer, &names, &mut winners, memory).await;
    }
    if winners.len() < names.len() {
        read_winners(source, &options.set, &columns, scorer, &names, &mut winners, memory).await?;
    }
    Ok(winners)
}

async fn read_winners(
    source: &SharedSource,
    set: &str,
    columns: &[DocumentColumn],
    scorer: &Scorer,
    wanted: &HashSet<&str>,
    winners: &mut HashMap<String, Winner>,
    memory: &MemoryReservation,
) -> Result<()> {
    let mut stream = match source.documents(set, columns).await {
        // A set without texts can be searched by the other signals.
        Err(error) if lacks_column(&error) && columns.contains(&DocumentColumn::Text) => {
            let others: Vec<DocumentColumn> =
                columns.iter().filter(|column| **column != DocumentColumn::Text).cloned().collect();
            source.documents(set, &others).await?
        }
        stream => stream?,
    };
    while winners.len() < wanted.len()
        && let Some(batch) = stream.try_next().await?
    {
        let doc_ids = texts("retrieve", "doc_id", batch.column(0))?;
        let bodies = batch.column_by_name("text").map(|column| texts("retrieve", "text", column)).transpose()?;
        let features =
            batch.column_by_name("features").map(|column| FeaturesView::try_new("retrieve", column)).transpose()?;
        for (row, doc_id) in doc_ids.iter().enumerate() {
            if let Some(doc_id) = doc_id
                && wanted.contains(doc_id)
                && !winners.contains_key(doc_id)
            {
                let text =
                    bodies.as_ref().filter(|bodies| bodies.is_valid(row)).map(|bodies| bodies.value(row).to_owned());
                let contributions = features
                    .as_ref()
                    .map(|features| scorer.contributions(features.ids(row), features.activations(row)))
                    .unwrap_or_default();
                let n_bytes = text.as_ref().map_or(0, String::len) + contributions.len() * size_of::<Contribution>();
                memory.try_grow(n_bytes)?;
                winners.insert(doc_id.to_owned(), Winner { text, contributions });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_query_does_not_share_counts_against() {
        let rest = beyond(&[1.0, 0.0], &[0.6, 0.8]);
        assert!(rest[0].abs() < 1e-6 && (rest[1] - 1.0).abs() < 1e-6);
        assert!(beyond(&[1.0, 0.0], &[1.0, 0.0]).is_empty());
        assert_eq!(beyond(&[], &[0.0, 1.0]), [0.0, 1.0]);
    }
}
