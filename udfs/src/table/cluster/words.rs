//! Words that set groups apart, beside their features.

use datafusion::error::Result;
use futures::TryStreamExt;

use super::options::Options;
use super::passes::Placed;
use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::kernels::log_odds::{Counts, log_odds};
use crate::kernels::words::{Candidates, TermCounts};
use crate::table::document_columns::{lacks_column, texts};
use crate::table::exec::blocking;

/// Documents whose words are counted; spread evenly if there are more.
const WORD_DOCUMENTS: usize = 20_000;
/// Words listed of each group.
const N_WORDS: usize = 10;
/// Documents that must have a word, at least.
const LEAST_DOCS: u32 = 3;
/// Pseudo-documents that shrink both sides of a comparison.
const PRIOR_DOCS: f64 = 2.0;
/// Standard errors from chance below which a word does not tell a group.
const LEAST_Z: f64 = 3.0;

/// Texts and groups of every so many documents.
struct Reading {
    stream: datafusion::physical_plan::SendableRecordBatchStream,
    position: usize,
    stride: usize,
}

impl Reading {
    async fn next(&mut self, function: &str, groups: &[u16]) -> Result<Option<Vec<(String, u32)>>> {
        let Some(batch) = self.stream.try_next().await? else { return Ok(None) };
        let column = texts(function, "text", batch.column(0))?;
        let mut documents = Vec::new();
        for text in &column {
            let is_drawn = self.position.is_multiple_of(self.stride);
            if let (true, Some(text), Some(group)) = (is_drawn, text, groups.get(self.position)) {
                documents.push((text.to_owned(), u32::from(*group)));
            }
            self.position += 1;
        }
        Ok(Some(documents))
    }
}

/// For each group, the last one being the unclear documents, the words and pairs of words that are clearly more frequent
/// in it than outside, those that tell most first. Nothing for a set without texts.
pub(super) async fn top_words(source: &SharedSource, options: &Options, placed: &Placed) -> Result<Vec<Vec<String>>> {
    let (function, n_groups) = (options.function, placed.sizes.len());
    let read = async || {
        let stream = source.documents(&options.set, &[DocumentColumn::Text]).await?;
        Ok(Reading { stream, position: 0, stride: placed.groups.len().div_ceil(WORD_DOCUMENTS).max(1) })
    };
    let mut reading = match read().await {
        Ok(reading) => reading,
        Err(error) if lacks_column(&error) => return Ok(vec![Vec::new(); n_groups]),
        Err(error) => return Err(error),
    };
    let mut terms = TermCounts::default();
    let mut sizes = vec![0u32; n_groups];
    while let Some(documents) = reading.next(function, &placed.groups).await? {
        documents.iter().for_each(|(_, group)| sizes[*group as usize] += 1);
        terms = blocking(function, move |_| {
            terms.update(0, &documents.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>());
            Ok(terms)
        })
        .await?;
    }
    let groups: Vec<u32> = (0..n_groups as u32).collect();
    let mut candidates = blocking(function, move |_| Ok(terms.frequent(LEAST_DOCS, &groups))).await?;
    let mut reading = read().await?;
    while let Some(documents) = reading.next(function, &placed.groups).await? {
        candidates = blocking(function, move |_| {
            let with_group = |document: &'_ (String, u32)| (document.0.clone(), [document.1]);
            let documents: Vec<(String, [u32; 1])> = documents.iter().map(with_group).collect();
            let views: Vec<(&str, &[u32])> =
                documents.iter().map(|(text, group)| (text.as_str(), group.as_slice())).collect();
            candidates.update(&views);
            Ok(candidates)
        })
        .await?;
    }
    Ok((0..n_groups).map(|group| telling(&candidates, group, &sizes)).collect())
}

fn telling(candidates: &Candidates, group: usize, sizes: &[u32]) -> Vec<String> {
    let (n_inside, total) = (f64::from(sizes[group]), f64::from(sizes.iter().sum::<u32>()));
    let n_outside = total - n_inside;
    let mut found: Vec<(f64, &str)> = Vec::new();
    for (term, inside, docs) in candidates.together(group as u32) {
        // A term that was forgotten for a while has been counted too low.
        let (inside, outside) = (f64::from(inside), f64::from(docs.saturating_sub(inside)));
        let background = (inside + outside + 0.5) / (total + 1.0);
        let counts = Counts { inside, n_inside, outside, n_outside, background };
        if inside > 0.0 && log_odds(counts, PRIOR_DOCS).z >= LEAST_Z {
            let lift = (inside + 0.5) / (n_inside + 1.0) / ((outside + 0.5) / (n_outside + 1.0));
            found.push((inside / n_inside * lift.ln(), term));
        }
    }
    found.sort_by(|x, y| y.0.total_cmp(&x.0).then_with(|| x.1.cmp(y.1)));
    found.into_iter().take(N_WORDS).map(|(_, term)| term.to_owned()).collect()
}
