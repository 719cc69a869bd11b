//! The passes over a set: counting, scoring, fetching. Memory is that of the counts by feature and of the candidates.

use std::collections::{HashMap, HashSet};

use arrow::array::Array;
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::TryStreamExt;

use super::options::{Options, Signal};
use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, FeaturesView};
use crate::kernels::dense::{dot, normalise, widen};
use crate::kernels::retrieval::{Contribution, FeatureWeight, Scorer, document_length};
use crate::kernels::top_k::{Ranked, TopK};
use crate::table::document_columns::{Embeddings, lacks_column, texts, with_ids};

/// Memory of a candidate, about: its id in a ranking, in the list of its scores and in the fusion.
const CANDIDATE_BYTES: usize = 160;
/// Winners that are asked for by their ids; more come with a reading of the whole set.
const MOST_BY_ID: usize = 10_000;

/// What is known of a marked document.
#[derive(Debug, Clone, Default)]
pub(super) struct Marked {
    pub(super) ids: Vec<FeatureId>,
    pub(super) embedding: Vec<f32>,
}

/// What the first pass counts.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    /// Documents of the set that were encoded.
    pub(super) n_docs: u64,
    /// Documents with each feature, by id.
    pub(super) n_with: Vec<u64>,
    /// Mean length of a document, for BM25 over features.
    pub(super) mean_length: f32,
    /// Documents marked as right.
    pub(super) right: Vec<Marked>,
    /// Documents marked as wrong.
    pub(super) wrong: Vec<Marked>,
}

/// Counts features and collects the marked documents.
pub(super) async fn count(source: &SharedSource, options: &Options, weights: &[FeatureWeight]) -> Result<Statistics> {
    let mut columns = vec![DocumentColumn::Features];
    if options.has_marks() {
        columns.push(DocumentColumn::DocId);
        if options.uses(Signal::Dense) {
            columns.push(DocumentColumn::Embedding);
        }
    }
    let mut statistics = Statistics { n_with: vec![0; weights.len()], ..Statistics::default() };
    let mut total_length = 0.0f64;
    let marked: HashMap<&str, bool> = (options.like.iter().map(|id| (id.as_str(), true)))
        .chain(options.unlike.iter().map(|id| (id.as_str(), false)))
        .collect();
    let mut found: HashSet<String> = HashSet::new();
    let mut stream = source.documents(&options.set, &columns).await?;
    while let Some(batch) = stream.try_next().await? {
        let features = FeaturesView::try_new("retrieve", batch.column(0))?;
        for row in (0..features.len()).filter(|row| !features.is_null(*row)) {
            statistics.n_docs += 1;
            for &id in features.ids(row) {
                if let Some(count) = statistics.n_with.get_mut(id as usize) {
                    *count += 1;
                }
            }
            total_length += f64::from(document_length(weights, features.ids(row), features.activations(row)));
        }
        if marked.is_empty() {
            continue;
        }
        let doc_ids = texts("retrieve", "doc_id", batch.column(1))?;
        let embeddings = batch.columns().get(2).map(|column| Embeddings::try_new("retrieve", column)).transpose()?;
        for (row, doc_id) in doc_ids.iter().enumerate() {
            let Some(doc_id) = doc_id else { continue };
            let Some(&right) = marked.get(doc_id) else { continue };
            if found.insert(doc_id.to_owned()) {
                let mut embedding = Vec::new();
                if let Some(embeddings) = &embeddings {
                    widen(embeddings.row(row), &mut embedding);
                }
                let side = if right { &mut statistics.right } else { &mut statistics.wrong };
                side.push(Marked { ids: features.ids(row).to_vec(), embedding });
            }
        }
    }
    statistics.mean_length = (total_length / statistics.n_docs.max(1) as f64) as f32;
    let missing: Vec<&str> = marked.keys().copied().filter(|id| !found.contains(*id)).collect();
    if let Some(first) = missing.iter().min() {
        let more = if missing.len() > 1 { format!(" (and {} more)", missing.len() - 1) } else { String::new() };
        return exec_err!(
            "retrieve: marked document '{first}'{more} is not in '{}'; 'like' and 'unlike' take doc_ids of the set",
            options.set
        );
    }
    Ok(statistics)
}

/// What the dense signal compares embeddings with.
#[derive(Debug, Clone, Default)]
pub(super) struct DenseQuery {
    /// Direction wanted, of length 1; empty if the signal is not used.
    pub(super) wanted: Vec<f32>,
    /// What `but_not` means beyond the wanted direction, of length 1, or empty.
    pub(super) against: Vec<f32>,
}

impl DenseQuery {
    /// Cosine with what is wanted, less the positive part of the cosine with what is not.
    fn score(&self, embedding: &[f32]) -> f32 {
        dot(&self.wanted, embedding) - dot(&self.against, embedding).max(0.0)
    }
}

/// Rocchio (1971): the query moved towards the mean of the right documents and away from that of the wrong ones.
pub(super) fn rocchio(query: Option<&[f32]>, right: &[Marked], wrong: &[Marked]) -> Vec<f32> {
    let width = query.map(<[f32]>::len).or_else(|| right.first().map(|marked| marked.embedding.len())).unwrap_or(0);
    let mut sum = query.map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
    for (documents, factor) in [(right, 0.75f32), (wrong, -0.15)] {
        for marked in documents {
            let share = factor / documents.len() as f32;
            sum.iter_mut().zip(&marked.embedding).for_each(|(sum, value)| *sum += share * value);
        }
    }
    normalise(&mut sum);
    if sum.iter().all(|&value| value == 0.0) { Vec::new() } else { sum }
}

/// The part of `against` that `wanted` does not share, of length 1; empty if there is none.
pub(super) fn beyond(wanted: &[f32], against: &[f32]) -> Vec<f32> {
    let shared = dot(wanted, against).max(0.0);
    let mut rest: Vec<f32> = against.to_vec();
    rest.iter_mut().zip(wanted).for_each(|(rest, wanted)| *rest -= shared * wanted);
    if normalise(&mut rest) < 0.1 { Vec::new() } else { rest }
}

/// Best documents of each streaming signal, best first, and how many documents were looked at.
#[derive(Default)]
pub(super) struct Candidates {
    pub(super) dense: Vec<Ranked<String>>,
    pub(super) labels: Vec<Ranked<String>>,
    pub(super) latents: Vec<Ranked<String>>,
    pub(super) learned: Vec<Ranked<String>>,
    pub(super) n_docs: Option<u64>,
}

/// Scores every document of the set, keeping the `depth` best of each signal. Documents marked as wrong are left out.
pub(super) async fn score(
    source: &SharedSource,
    options: &Options,
    dense: &DenseQuery,
    scorer: &Scorer,
    depth: usize,
    memory: &MemoryReservation,
) -> Result<Candidates> {
    let with_dense = !dense.wanted.is_empty();
    let with_features = [Signal::Labels, Signal::Latents, Signal::Feedback].iter().any(|signal| options.uses(*signal));
    let mut columns = vec![DocumentColumn::DocId];
    columns.extend(with_features.then_some(DocumentColumn::Features));
    columns.extend(with_dense.then_some(DocumentColumn::Embedding));
    let mut best: [TopK<String>; 4] = std::array::from_fn(|_| TopK::new(depth));
    let (mut position, mut buffer) = (0u64, Vec::new());
    let mut stream = source.documents(&options.set, &columns).await?;
    while let Some(batch) = stream.try_next().await? {
        let doc_ids = texts("retrieve", "doc_id", batch.column(0))?;
        let features = with_features.then(|| FeaturesView::try_new("retrieve", batch.column(1))).transpose()?;
        let embeddings =
            with_dense.then(|| Embeddings::try_new("retrieve", batch.column(batch.num_columns() - 1))).transpose()?;
        if let Some(embeddings) = &embeddings
            && embeddings.width() != dense.wanted.len()
        {
            return exec_err!(
                "retrieve: documents of '{}' have embeddings of {} numbers, the reader gives {}; was another reader used \
                 when they were imported? signals => 'labels,latents,words' works without embeddings",
                options.set,
                embeddings.width(),
                dense.wanted.len()
            );
        }
        for row in 0..batch.num_rows() {
            position += 1;
            if doc_ids.is_null(row) || options.unlike.iter().any(|id| id == doc_ids.value(row)) {
                continue;
            }
            let doc_id = || doc_ids.value(row).to_owned();
            if let Some(embeddings) = &embeddings
                && !embeddings.row(row).is_empty()
            {
                widen(embeddings.row(row), &mut buffer);
                if buffer.iter().any(|&value| value != 0.0) {
                    best[0].offer(dense.score(&buffer), position, doc_id);
                }
            }
            if let Some(features) = &features {
                let scores = scorer.score(features.ids(row), features.activations(row));
                for (best, score) in best[1..].iter_mut().zip([scores.labels, scores.latents, scores.learned]) {
                    if score > 0.0 {
                        best.offer(score, position, doc_id);
                    }
                }
            }
        }
        memory.try_resize(best.iter().map(TopK::len).sum::<usize>() * CANDIDATE_BYTES)?;
    }
    let [dense, labels, latents, learned] = best.map(TopK::into_sorted);
    Ok(Candidates { dense, labels, latents, learned, n_docs: Some(position) })
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
    fn rocchio_moves_towards_the_right_ones() {
        let marked = |embedding: [f32; 2]| Marked { ids: vec![], embedding: embedding.to_vec() };
        let moved = rocchio(Some(&[1.0, 0.0]), &[marked([0.0, 1.0])], &[]);
        assert!((moved[1] / moved[0] - 0.75).abs() < 1e-6);
        let alone = rocchio(None, &[marked([0.0, 1.0])], &[marked([1.0, 0.0])]);
        assert!(alone[0] < 0.0 && alone[1] > 0.9);
        assert!(rocchio(None, &[], &[]).is_empty());
    }

    #[test]
    fn only_what_the_query_does_not_share_counts_against() {
        let rest = beyond(&[1.0, 0.0], &[0.6, 0.8]);
        assert!(rest[0].abs() < 1e-6 && (rest[1] - 1.0).abs() < 1e-6);
        assert!(beyond(&[1.0, 0.0], &[1.0, 0.0]).is_empty());
        assert_eq!(beyond(&[], &[0.0, 1.0]), [0.0, 1.0]);
    }
}
