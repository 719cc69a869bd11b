//! What the documents of a set are about, roughly: groups of their stored embeddings.

use std::sync::Arc;

use datafusion::error::Result;
use futures::TryStreamExt;
use rayon::prelude::*;

use super::document_columns::Embeddings;
use super::exec::{Request, blocking};
use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::kernels::cancellation::Cancellation;
use crate::kernels::dense::{dot, normalise, widen};
use crate::kernels::kmeans::{Effort, Rows, nearest, spherical_kmeans};
use crate::kernels::random::Random;

/// Documents that the topics are fitted on; the others are placed by the centres.
const SAMPLE: usize = 3_000;
/// Times that the documents are grouped, each in another random projection of the embeddings, which costs less than the
/// whole and keeps angles well enough (Johnson and Lindenstrauss 1984).
const GROUPINGS: u64 = 5;
/// Dimensions of a projection.
const WIDTH: usize = 64;
/// Documents of a topic on the mean, in small sets. Of pairs planted into 1 % of 5,000 answers most come out with 150 to
/// 200 topics; coarser ones leave more to explain, finer ones are the planted documents themselves.
const DOCS_PER_TOPIC: usize = 25;
/// Most topics.
const MOST_TOPICS: usize = 200;
const EFFORT: Effort = Effort { starts: 1, rounds: 6, tolerance: 1e-3 };

/// One way to group the documents of a set.
#[derive(Debug)]
pub(crate) struct Grouped {
    /// The group of each, by position in the set.
    pub(crate) of: Vec<u16>,
    /// Number of groups; the last one is for documents that cannot be grouped (those without an embedding).
    pub(crate) n: usize,
}

/// What places documents.
#[derive(Debug)]
struct Grouping {
    projection: Rows,
    centroids: Rows,
}

impl Grouping {
    fn fit(sample: &Rows, k: usize, seed: u64, cancellation: &Cancellation) -> Self {
        let mut random = Random::new(seed, 0x9E0);
        let values = (0..WIDTH * sample.width).map(|_| random.normal() as f32).collect();
        let mut fitted = Self { projection: Rows { values, width: sample.width }, centroids: Rows::default() };
        let values = (0..sample.len()).into_par_iter().flat_map_iter(|row| fitted.project(sample.row(row))).collect();
        let rows = Rows { values, width: WIDTH };
        fitted.centroids = spherical_kmeans(&rows, k, EFFORT, seed, cancellation).centroids;
        fitted
    }

    fn project(&self, embedding: &[f32]) -> Vec<f32> {
        let row = |row| dot(self.projection.row(row), embedding);
        let mut projected: Vec<f32> = (0..self.projection.len()).map(row).collect();
        normalise(&mut projected);
        projected
    }

    /// Topic of a document; the last number if it has no embedding.
    fn place(&self, embedding: &[f32]) -> u16 {
        nearest(&self.project(embedding), &self.centroids).map_or(self.centroids.len(), |(topic, _, _)| topic) as u16
    }
}

/// Groups the documents of `set`, several times from fixed seeds: spherical k-means of projections of the embeddings of at
/// most 3,000 documents. Nothing if no document has an embedding.
///
/// # Errors
/// If the set has no column of embeddings, or memory does not suffice.
pub(crate) async fn topics(
    function: &'static str,
    source: &SharedSource,
    set: &str,
    request: &Request,
) -> Result<Vec<Grouped>> {
    let memory = request.memory(function);
    let mut random = Random::new(0, 0x70_71C5);
    let mut sample = Rows::default();
    let mut seen = 0u64;
    let mut stream = source.documents(set, &[DocumentColumn::Embedding]).await?;
    let mut buffer = Vec::new();
    while let Some(batch) = stream.try_next().await? {
        let embeddings = Embeddings::try_new(function, batch.column(0))?;
        sample.width = embeddings.width().max(1);
        memory.try_grow(GROUPINGS as usize * batch.num_rows() * size_of::<u16>())?;
        for row in 0..batch.num_rows() {
            widen(embeddings.row(row), &mut buffer);
            if normalise(&mut buffer) == 0.0 {
                continue;
            }
            // A reservoir (Vitter's algorithm R).
            let slot = if seen < SAMPLE as u64 { seen } else { random.below(seen + 1) } as usize;
            seen += 1;
            if slot >= SAMPLE {
                continue;
            }
            if slot == sample.len() {
                memory.try_grow(sample.width * size_of::<f32>())?;
                sample.values.extend_from_slice(&buffer);
            } else {
                sample.values[slot * sample.width..][..sample.width].copy_from_slice(&buffer);
            }
        }
    }
    if seen == 0 {
        return Ok(Vec::new());
    }
    let k = (seen as usize / DOCS_PER_TOPIC).clamp(1, MOST_TOPICS);
    let fit = move |cancellation: &_| {
        Ok((0..GROUPINGS).map(|seed| Grouping::fit(&sample, k, seed, cancellation)).collect::<Vec<_>>())
    };
    let fitted = Arc::new(blocking(function, fit).await?);
    let topics = |grouping: &Grouping| Grouped { of: Vec::new(), n: grouping.centroids.len() + 1 };
    let mut found: Vec<Grouped> = fitted.iter().map(topics).collect();
    let mut stream = source.documents(set, &[DocumentColumn::Embedding]).await?;
    while let Some(batch) = stream.try_next().await? {
        let embeddings = Embeddings::try_new(function, batch.column(0))?;
        let (n_rows, fitted) = (batch.num_rows(), Arc::clone(&fitted));
        let place = move |_: &_| {
            let topics = |row| {
                let mut values = Vec::new();
                widen(embeddings.row(row), &mut values);
                fitted.iter().map(|grouping| grouping.place(&values)).collect()
            };
            Ok((0..n_rows).into_par_iter().map(topics).collect::<Vec<Vec<u16>>>())
        };
        for topics in blocking(function, place).await? {
            found.iter_mut().zip(topics).for_each(|(found, topic)| found.of.push(topic));
        }
    }
    Ok(found)
}
