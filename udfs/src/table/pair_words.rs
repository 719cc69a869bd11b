//! Which pair of words shows the same as a pair of features.
//!
//! For each feature the word (or pair of neighbouring words) that is most in the same documents is looked for; if both
//! features have one, and the two words come together nearly as clearly as the features do, words alone would have shown
//! the finding.

use std::sync::Arc;

use arrow::array::{Array, StringArray};
use datafusion::common::Result;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;
use rayon::prelude::*;

use super::document_columns::{lacks_column, texts};
use super::exec::blocking;
use crate::SharedSource;
use crate::catalog::FeatureCatalog;
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, IdsView};
use crate::kernels::statistics::log_likelihood_ratio;
use crate::kernels::words::{TermCounts, TermIndex};

/// Documents whose words are looked at; spread evenly if there are more.
const WORD_DOCUMENTS: u64 = 20_000;

/// Words must be in this share of the documents.
const LEAST_FREQUENCY: f64 = 0.002;

/// Words show a pair if their G² is at least this share of that of the features.
const LEAST_SHARE: f64 = 0.8;

/// Texts of some documents with their features.
struct Batch {
    texts: StringArray,
    ids: IdsView,
    rows: Vec<usize>,
}

impl Batch {
    fn iter(&self) -> impl Iterator<Item = (&str, &[FeatureId])> {
        self.rows.iter().map(|row| (self.texts.value(*row), self.ids.ids(*row)))
    }
}

/// Every so many documents of a set.
struct Sample {
    function: &'static str,
    stream: SendableRecordBatchStream,
    stride: u64,
    seen: u64,
}

impl Sample {
    async fn next(&mut self) -> Result<Option<Batch>> {
        let Some(batch) = self.stream.try_next().await? else { return Ok(None) };
        let texts = texts(self.function, "text", batch.column(0))?;
        let ids = IdsView::try_new(self.function, batch.column(1))?;
        let mut rows = Vec::new();
        for row in (0..ids.len()).filter(|row| !ids.is_null(*row)) {
            if self.seen.is_multiple_of(self.stride) && texts.is_valid(row) {
                rows.push(row);
            }
            self.seen += 1;
        }
        Ok(Some(Batch { texts, ids, rows }))
    }
}

/// How often something is in documents: the first, the second, both.
type Counts = [u64; 3];

fn add(mut x: Counts, y: Counts) -> Counts {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    x
}

fn count(first: bool, second: bool) -> Counts {
    [u64::from(first), u64::from(second), u64::from(first && second)]
}

/// G², negative if both come together less often than chance.
fn signed_llr([first, second, both]: Counts, n: u64) -> f64 {
    let llr = log_likelihood_ratio(both, first, second, n);
    if both as f64 * n as f64 >= first as f64 * second as f64 { llr } else { -llr }
}

/// For each pair of features of `set`, the pair of words that shows the same; `n_docs` documents have features. Nothing
/// for a set without texts.
///
/// # Errors
/// If the documents cannot be read.
pub(super) async fn pair_words(
    function: &'static str,
    source: &SharedSource,
    set: &str,
    pairs: Vec<(FeatureId, FeatureId)>,
    n_docs: u64,
) -> Result<Vec<Option<String>>> {
    let sample = async || {
        let stream = source.documents(set, &[DocumentColumn::Text, DocumentColumn::Ids]).await?;
        Ok(Sample { function, stream, stride: n_docs.div_ceil(WORD_DOCUMENTS).max(1), seen: 0 })
    };
    let n_pairs = pairs.len();
    let mut reading = match sample().await {
        Ok(reading) => reading,
        Err(error) if lacks_column(&error) => return Ok(vec![None; n_pairs]),
        Err(error) => return Err(error),
    };
    let mut terms = TermCounts::default();
    let mut n_read = 0u64;
    while let Some(batch) = reading.next().await? {
        n_read += batch.rows.len() as u64;
        terms = blocking(function, move |_| {
            terms.update(0, &batch.iter().map(|(text, _)| text).collect::<Vec<_>>());
            Ok(terms)
        })
        .await?;
    }
    let mut features: Vec<FeatureId> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    features.sort_unstable();
    features.dedup();
    let least = ((n_read as f64 * LEAST_FREQUENCY) as u32).max(3);
    let ids = features.clone();
    let mut candidates = blocking(function, move |_| Ok(terms.frequent(least, &ids))).await?;
    let mut reading = sample().await?;
    while let Some(batch) = reading.next().await? {
        candidates = blocking(function, move |_| {
            candidates.update(&batch.iter().collect::<Vec<_>>());
            Ok(candidates)
        })
        .await?;
    }
    let catalog = source.catalog();
    let words: Vec<Option<String>> = features
        .iter()
        .map(|id| candidates.nearest(*id, |term| is_telling(&catalog, *id, term)).map(|word| word.term))
        .collect();
    let word_of = |id: FeatureId| features.binary_search(&id).ok().and_then(|position| words[position].clone());
    let worded: Vec<Option<(String, String)>> =
        pairs.iter().map(|(a, b)| word_of(*a).zip(word_of(*b)).filter(|(x, y)| !share_a_word(x, y))).collect();
    if worded.iter().all(Option::is_none) {
        return Ok(vec![None; n_pairs]);
    }
    let mut terms: Vec<String> = worded.iter().flatten().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    terms.sort_unstable();
    terms.dedup();
    let place = |term: &String| terms.binary_search(term).ok();
    let places: Vec<Option<(usize, usize)>> =
        worded.iter().map(|words| words.as_ref().and_then(|(a, b)| place(a).zip(place(b)))).collect();
    let looked = Arc::new((TermIndex::new(&terms), places, pairs));
    let mut counts = vec![([0; 3], [0; 3]); n_pairs];
    let mut reading = sample().await?;
    while let Some(batch) = reading.next().await? {
        let looked = Arc::clone(&looked);
        let more = blocking(function, move |_| {
            let (index, places, pairs) = &*looked;
            let nothing = || vec![([0; 3], [0; 3]); pairs.len()];
            let document = |mut sums: Vec<(Counts, Counts)>, (text, ids): (&str, &[FeatureId])| {
                let found = index.find(text);
                let has = |term: usize| found.binary_search(&term).is_ok();
                let fires = |id: FeatureId| ids.binary_search(&id).is_ok();
                for ((sums, place), (a, b)) in sums.iter_mut().zip(places).zip(pairs) {
                    if let Some((first, second)) = place {
                        sums.0 = add(sums.0, count(fires(*a), fires(*b)));
                        sums.1 = add(sums.1, count(has(*first), has(*second)));
                    }
                }
                sums
            };
            let merge = |mut x: Vec<(Counts, Counts)>, y: Vec<(Counts, Counts)>| {
                x.iter_mut().zip(y).for_each(|(x, y)| *x = (add(x.0, y.0), add(x.1, y.1)));
                x
            };
            let documents: Vec<(&str, &[FeatureId])> = batch.iter().collect();
            Ok(documents.into_par_iter().fold(nothing, document).reduce(nothing, merge))
        })
        .await?;
        counts.iter_mut().zip(more).for_each(|(x, y)| *x = (add(x.0, y.0), add(x.1, y.1)));
    }
    let shown = |(words, (features, terms)): (Option<(String, String)>, (Counts, Counts))| {
        let (own, of_words) = (signed_llr(features, n_read), signed_llr(terms, n_read));
        let (first, second) = words?;
        (own * of_words > 0.0 && of_words.abs() >= LEAST_SHARE * own.abs())
            .then(|| format!("\"{first}\" + \"{second}\""))
    };
    Ok(worded.into_iter().zip(counts).map(shown).collect())
}

/// Whether two terms have a word in common: then they come together by themselves.
fn share_a_word(first: &str, second: &str) -> bool {
    first.split(' ').any(|word| second.split(' ').any(|other| other == word))
}

/// Whether a term is known to belong to a feature.
fn is_telling(catalog: &FeatureCatalog, id: FeatureId, term: &str) -> bool {
    let known = |word: &String| word.trim().eq_ignore_ascii_case(term);
    catalog
        .feature(id)
        .is_some_and(|feature| feature.top_words.iter().any(known) || feature.top_tokens.iter().any(known))
}
