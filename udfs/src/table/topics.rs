//! What the documents of a set are about, roughly: groups of their stored embeddings.

use std::sync::Arc;

use datafusion::error::Result;
use futures::TryStreamExt;
use rayon::prelude::*;

use super::document_columns::Embeddings;
use super::exec::{Request, blocking};
use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::kernels::dense::{normalise, widen};
use crate::kernels::kmeans::{Effort, Rows, nearest, spherical_kmeans};
use crate::kernels::random::Random;

/// Documents that the topics are fitted on; the others are placed by the centres.
const SAMPLE: usize = 5_000;
/// Times that the documents are grouped, from different starts.
const GROUPINGS: u64 = 5;
/// Documents of a topic on the mean, in small sets. Of pairs planted into 1 % of 5,000 answers most come out with 150
/// topics; coarser ones leave more to explain, finer ones are the planted documents themselves.
const DOCS_PER_TOPIC: usize = 33;
/// Most topics.
const MOST_TOPICS: usize = 150;
const EFFORT: Effort = Effort { starts: 1, rounds: 10, tolerance: 1e-3 };

/// One way to group the documents: the topic of each.
#[derive(Debug)]
pub(crate) struct Topics {
    /// By position in the set.
    pub(crate) of: Vec<u16>,
    /// Number of topics; the last one is for documents without an embedding.
    pub(crate) n: usize,
}

/// Groups the documents of `set`: spherical k-means of the embeddings of at most 5,000 documents, several times from fixed
/// seeds.
///
/// # Errors
/// If the set has no embeddings, or memory does not suffice.
pub(crate) async fn topics(
    function: &'static str,
    source: &SharedSource,
    set: &str,
    request: &Request,
) -> Result<Vec<Topics>> {
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
        for row in (0..batch.num_rows()).filter(|row| !embeddings.row(*row).is_empty()) {
            // A reservoir (Vitter's algorithm R).
            let slot = if seen < SAMPLE as u64 { seen } else { random.below(seen + 1) } as usize;
            seen += 1;
            if slot >= SAMPLE {
                continue;
            }
            widen(embeddings.row(row), &mut buffer);
            normalise(&mut buffer);
            if slot == sample.len() {
                memory.try_grow(sample.width * size_of::<f32>())?;
                sample.values.extend_from_slice(&buffer);
            } else {
                sample.values[slot * sample.width..][..sample.width].copy_from_slice(&buffer);
            }
        }
    }
    let k = (seen as usize / DOCS_PER_TOPIC).clamp(1, MOST_TOPICS);
    let fit = move |cancellation: &_| {
        let fit = |seed| spherical_kmeans(&sample, k, EFFORT, seed, cancellation).centroids;
        Ok((0..GROUPINGS).map(fit).collect::<Vec<Rows>>())
    };
    let fitted = Arc::new(blocking(function, fit).await?);
    let mut found: Vec<Topics> =
        fitted.iter().map(|centroids| Topics { of: Vec::new(), n: centroids.len() + 1 }).collect();
    let mut stream = source.documents(set, &[DocumentColumn::Embedding]).await?;
    while let Some(batch) = stream.try_next().await? {
        let embeddings = Embeddings::try_new(function, batch.column(0))?;
        let (n_rows, fitted) = (batch.num_rows(), Arc::clone(&fitted));
        let place = move |_: &_| {
            let topics = |row| {
                let mut values = Vec::new();
                widen(embeddings.row(row), &mut values);
                fitted.iter().map(move |centroids| {
                    nearest(&values, centroids).map_or(centroids.len(), |(topic, _, _)| topic) as u16
                })
            };
            Ok((0..n_rows).into_par_iter().map(|row| topics(row).collect()).collect::<Vec<Vec<u16>>>())
        };
        for topics in blocking(function, place).await? {
            found.iter_mut().zip(topics).for_each(|(found, topic)| found.of.push(topic));
        }
    }
    Ok(found)
}
