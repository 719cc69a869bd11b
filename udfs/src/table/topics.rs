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
const SAMPLE: usize = 10_000;
/// Documents of a topic on the mean, in small sets. Of pairs planted into 1 % of 5,000 answers most come out with 150
/// topics; coarser ones leave more to explain, finer ones are the planted documents themselves.
const DOCS_PER_TOPIC: usize = 33;
/// Most topics.
const MOST_TOPICS: usize = 150;
const EFFORT: Effort = Effort { starts: 1, rounds: 10, tolerance: 1e-3 };

/// Topic of each document.
#[derive(Debug)]
pub(crate) struct Topics {
    /// By position in the set.
    pub(crate) of: Vec<u16>,
    /// Number of topics; the last one is for documents without an embedding.
    pub(crate) n: usize,
}

/// Groups the documents of `set`: spherical k-means of the embeddings of at most 10,000 documents, from a fixed seed.
///
/// # Errors
/// If the set has no embeddings, or memory does not suffice.
pub(crate) async fn topics(
    function: &'static str,
    source: &SharedSource,
    set: &str,
    request: &Request,
) -> Result<Topics> {
    let memory = request.memory(function);
    let mut random = Random::new(0, 0x70_71C5);
    let mut sample = Rows::default();
    let mut seen = 0u64;
    let mut stream = source.documents(set, &[DocumentColumn::Embedding]).await?;
    let mut buffer = Vec::new();
    while let Some(batch) = stream.try_next().await? {
        let embeddings = Embeddings::try_new(function, batch.column(0))?;
        sample.width = embeddings.width().max(1);
        memory.try_grow(batch.num_rows() * size_of::<u16>())?;
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
    let fit = move |cancellation: &_| Ok(spherical_kmeans(&sample, k, EFFORT, 0, cancellation).centroids);
    let centroids = Arc::new(blocking(function, fit).await?);
    let n = centroids.len() + 1;
    let mut of = Vec::new();
    let mut stream = source.documents(set, &[DocumentColumn::Embedding]).await?;
    while let Some(batch) = stream.try_next().await? {
        let embeddings = Embeddings::try_new(function, batch.column(0))?;
        let (n_rows, centroids) = (batch.num_rows(), Arc::clone(&centroids));
        let place = move |_: &_| {
            let topic = |row| {
                let mut values = Vec::new();
                widen(embeddings.row(row), &mut values);
                nearest(&values, &centroids).map_or(n - 1, |(topic, _, _)| topic) as u16
            };
            Ok((0..n_rows).into_par_iter().map(topic).collect::<Vec<u16>>())
        };
        of.extend(blocking(function, place).await?);
    }
    Ok(Topics { of, n })
}
