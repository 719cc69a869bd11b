//! Which pair of words shows the same as a pair of features.
//!
//! For each feature the word (or pair of neighbouring words) that is most in the same documents is looked for; if both
//! features have one, and the two words come together nearly as clearly as the features do, words alone would have shown
//! the finding. Across two sets, the word of the first feature is looked for in the texts of the first set, that of the second
//! in those of the other.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};
use datafusion::common::Result;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;
use rayon::prelude::*;

use super::document_columns::{lacks_column, texts};
use super::exec::blocking;
use super::pairing::keys;
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
    /// Further columns.
    more: Vec<ArrayRef>,
}

impl Batch {
    fn iter(&self) -> impl Iterator<Item = (usize, &str, &[FeatureId])> {
        self.rows.iter().map(|row| (*row, self.texts.value(*row), self.ids.ids(*row)))
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
        Ok(Some(Batch { texts, ids, rows, more: batch.columns()[2..].to_vec() }))
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

/// A second set, and the column by which its documents are paired with those of the first.
pub(super) type Across<'a> = Option<(&'a str, &'a str)>;

/// For each pair of features of `set` (or one of `set` and one of the set across), the pair of words that shows the same;
/// `n_docs` documents (or pairs of documents) have features. Nothing for a set without texts.
///
/// # Errors
/// If the documents cannot be read.
pub(super) async fn pair_words(
    function: &'static str,
    source: &SharedSource,
    set: &str,
    across: Across<'_>,
    pairs: Vec<(FeatureId, FeatureId)>,
    n_docs: u64,
) -> Result<Vec<Option<String>>> {
    let n_pairs = pairs.len();
    let reading = Reading { function, source, stride: n_docs.div_ceil(WORD_DOCUMENTS).max(1) };
    let (first, second): (Vec<FeatureId>, Vec<FeatureId>) = pairs.iter().copied().unzip();
    let words = match across {
        None => {
            reading.words(set, &[first.clone(), second.clone()].concat()).await?.map(|words| (words.clone(), words))
        }
        Some((other, _)) => reading.words(set, &first).await?.zip(reading.words(other, &second).await?),
    };
    let Some((of_first, of_second)) = words else { return Ok(vec![None; n_pairs]) };
    let worded: Vec<Option<(String, String)>> = (pairs.iter())
        .map(|(a, b)| of_first.get(a).cloned().zip(of_second.get(b).cloned()))
        .map(|words| words.filter(|(x, y)| across.is_some() || !share_a_word(x, y)))
        .collect();
    if worded.iter().all(Option::is_none) {
        return Ok(vec![None; n_pairs]);
    }
    let looked = [0, 1].map(|side| {
        let term =
            |words: &Option<(String, String)>| words.as_ref().map(|(x, y)| if side == 0 { x } else { y }.clone());
        Looked::new(worded.iter().map(term).collect(), if side == 0 { first.clone() } else { second.clone() })
    });
    let (counts, n) = match across {
        None => reading.count(set, looked).await?,
        Some((other, column)) => reading.count_across([set, other], column, looked).await?,
    };
    let shown = |(words, (features, terms)): (Option<(String, String)>, (Counts, Counts))| {
        let (own, of_words) = (signed_llr(features, n), signed_llr(terms, n));
        let (first, second) = words?;
        (own * of_words > 0.0 && of_words.abs() >= LEAST_SHARE * own.abs())
            .then(|| format!("\"{first}\" + \"{second}\""))
    };
    Ok(worded.into_iter().zip(counts).map(shown).collect())
}

/// One side of pairs that are looked at in texts: for each its term, if it has one, and its feature.
struct Looked {
    index: TermIndex,
    places: Vec<Option<usize>>,
    features: Vec<FeatureId>,
}

impl Looked {
    fn new(terms: Vec<Option<String>>, features: Vec<FeatureId>) -> Self {
        let mut known: Vec<String> = terms.iter().flatten().cloned().collect();
        known.sort_unstable();
        known.dedup();
        let places = terms.iter().map(|term| known.binary_search(term.as_ref()?).ok()).collect();
        Self { index: TermIndex::new(&known), places, features }
    }

    /// For each pair that has a term whether the document has its feature, and the term.
    fn seen(&self, text: &str, ids: &[FeatureId]) -> Vec<(bool, bool)> {
        let found = self.index.find(text);
        let seen = |(place, id): (&Option<usize>, &FeatureId)| match place {
            Some(term) => (ids.binary_search(id).is_ok(), found.binary_search(term).is_ok()),
            None => (false, false),
        };
        self.places.iter().zip(&self.features).map(seen).collect()
    }
}

/// Adds a document, or a pair of them, to the counts.
fn tally(sums: &mut [(Counts, Counts)], first: &[(bool, bool)], second: &[(bool, bool)]) {
    for (sums, (a, b)) in sums.iter_mut().zip(first.iter().zip(second)) {
        *sums = (add(sums.0, count(a.0, b.0)), add(sums.1, count(a.1, b.1)));
    }
}

/// Reads every so many documents of sets.
struct Reading<'a> {
    function: &'static str,
    source: &'a SharedSource,
    stride: u64,
}

impl Reading<'_> {
    async fn sample(&self, set: &str, stride: u64, more: &[DocumentColumn]) -> Result<Sample> {
        let columns: Vec<DocumentColumn> =
            [DocumentColumn::Text, DocumentColumn::Ids].into_iter().chain(more.iter().cloned()).collect();
        let stream = self.source.documents(set, &columns).await?;
        Ok(Sample { function: self.function, stream, stride, seen: 0 })
    }

    /// The word that is most in the documents of each feature, if there is one; `None` for a set without texts.
    async fn words(&self, set: &str, features: &[FeatureId]) -> Result<Option<HashMap<FeatureId, String>>> {
        let mut reading = match self.sample(set, self.stride, &[]).await {
            Ok(reading) => reading,
            Err(error) if lacks_column(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut terms = TermCounts::default();
        let mut n_read = 0u64;
        while let Some(batch) = reading.next().await? {
            n_read += batch.rows.len() as u64;
            terms = blocking(self.function, move |_| {
                terms.update(0, &batch.iter().map(|(_, text, _)| text).collect::<Vec<_>>());
                Ok(terms)
            })
            .await?;
        }
        let mut features = features.to_vec();
        features.sort_unstable();
        features.dedup();
        let least = ((n_read as f64 * LEAST_FREQUENCY) as u32).max(3);
        let ids = features.clone();
        let mut candidates = blocking(self.function, move |_| Ok(terms.frequent(least, &ids))).await?;
        let mut reading = self.sample(set, self.stride, &[]).await?;
        while let Some(batch) = reading.next().await? {
            candidates = blocking(self.function, move |_| {
                candidates.update(&batch.iter().map(|(_, text, ids)| (text, ids)).collect::<Vec<_>>());
                Ok(candidates)
            })
            .await?;
        }
        let catalog = self.source.catalog();
        let word = |id: FeatureId| {
            let nearest = candidates.nearest(id, |term| is_telling(&catalog, id, term))?;
            Some((id, nearest.term))
        };
        Ok(Some(features.into_iter().filter_map(word).collect()))
    }

    /// In how many documents of a set the features, and the terms, of each pair are; and how many were looked at.
    async fn count(&self, set: &str, looked: [Looked; 2]) -> Result<(Vec<(Counts, Counts)>, u64)> {
        let (looked, mut n) = (Arc::new(looked), 0u64);
        let mut counts = vec![([0; 3], [0; 3]); looked[0].features.len()];
        let mut reading = self.sample(set, self.stride, &[]).await?;
        while let Some(batch) = reading.next().await? {
            let looked = Arc::clone(&looked);
            n += batch.rows.len() as u64;
            let more = blocking(self.function, move |_| {
                let nothing = || vec![([0; 3], [0; 3]); looked[0].features.len()];
                let document = |mut sums: Vec<(Counts, Counts)>, (_, text, ids): (usize, &str, &[FeatureId])| {
                    tally(&mut sums, &looked[0].seen(text, ids), &looked[1].seen(text, ids));
                    sums
                };
                Ok(batch.iter().collect::<Vec<_>>().into_par_iter().fold(nothing, document).reduce(nothing, merge))
            })
            .await?;
            counts = merge(counts, more);
        }
        Ok((counts, n))
    }

    /// The same of pairs of documents that have one value in `column`.
    async fn count_across(
        &self,
        sets: [&str; 2],
        column: &str,
        looked: [Looked; 2],
    ) -> Result<(Vec<(Counts, Counts)>, u64)> {
        let key = [DocumentColumn::Named(column.to_owned())];
        let mut partners: HashMap<String, Vec<(bool, bool)>> = HashMap::new();
        let mut reading = self.sample(sets[0], self.stride, &key).await?;
        while let Some(batch) = reading.next().await? {
            let keys = keys(self.function, column, &batch.more[0])?;
            let known = batch.iter().filter(|(row, ..)| keys.is_valid(*row));
            partners.extend(known.map(|(row, text, ids)| (keys.value(row).to_owned(), looked[0].seen(text, ids))));
        }
        let mut counts = vec![([0; 3], [0; 3]); looked[0].features.len()];
        let mut n = 0;
        let mut reading = self.sample(sets[1], 1, &key).await?;
        while let Some(batch) = reading.next().await? {
            let keys = keys(self.function, column, &batch.more[0])?;
            for (row, text, ids) in batch.iter().filter(|(row, ..)| keys.is_valid(*row)) {
                if let Some(partner) = partners.get(keys.value(row)) {
                    n += 1;
                    tally(&mut counts, partner, &looked[1].seen(text, ids));
                }
            }
        }
        Ok((counts, n))
    }
}

fn merge(mut x: Vec<(Counts, Counts)>, y: Vec<(Counts, Counts)>) -> Vec<(Counts, Counts)> {
    x.iter_mut().zip(y).for_each(|(x, y)| *x = (add(x.0, y.0), add(x.1, y.1)));
    x
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
