//! Documents that show a finding, with marks where its features fire.
//!
//! A function makes [`Examples`] of its findings (the ids of one feature, or of the features of a pair), shows it documents
//! in [`Examples::update`], and gets the excerpts from [`Examples::read`], which alone reads texts and alone is slow.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, StringArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::plan_err;
use datafusion::error::Result;
use futures::TryStreamExt;
use half::f16;

use crate::SharedSource;
use crate::args::Argument;
use crate::catalog::FeatureCatalog;
use crate::feature_source::{DocumentColumn, Said, TokenFeatures};
use crate::features::FeatureId;
use crate::kernels::top_k::TopK;
use crate::scalar::conversation::messages;
use crate::scalar::highlight::{fires, mark};
use crate::table::document_columns::{lacks_column, texts, with_ids};
use crate::table::exec::{Request, blocking};

/// Rows that get examples.
pub(crate) const EXAMPLE_ROWS: usize = 50;

/// Examples that a row can have at most.
const MOST_EXAMPLES: usize = 20;

/// Words of an excerpt before the first mark.
const WORDS_BEFORE: usize = 12;

/// Words of an excerpt from the first mark on.
const WORDS_AFTER: usize = 24;

/// How many examples of a row are asked for.
///
/// # Errors
/// If they are too many, or no number.
pub(crate) fn n_examples(function: &str, argument: &Argument) -> Result<usize> {
    match argument.count_or(0)? {
        n if n > MOST_EXAMPLES => plan_err!("{function}: 'examples' can be at most {MOST_EXAMPLES}, got {n}"),
        n => Ok(n),
    }
}

/// A document that shows a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Example {
    pub(crate) doc_id: String,
    /// Excerpt around the first mark, in one line.
    pub(crate) text: String,
}

/// The documents in which all features of a finding are strongest.
#[derive(Debug)]
pub(crate) struct Examples {
    findings: Vec<Vec<FeatureId>>,
    /// Findings by their first feature.
    of_first: HashMap<FeatureId, Vec<usize>>,
    /// What a strong activation of each feature of each finding is.
    strong: Vec<Vec<f32>>,
    best: Vec<TopK<(usize, String)>>,
    n_seen: u64,
}

impl Examples {
    /// Looks for `n` documents for each finding.
    pub(crate) fn new(catalog: &FeatureCatalog, findings: Vec<Vec<FeatureId>>, n: usize) -> Self {
        let mut of_first: HashMap<FeatureId, Vec<usize>> = HashMap::new();
        for (at, first) in findings.iter().enumerate().filter_map(|(at, ids)| Some((at, ids.first()?))) {
            of_first.entry(*first).or_default().push(at);
        }
        let strong = |id: &FeatureId| catalog.feature(*id).map_or(1.0, |feature| feature.q90.max(f32::MIN_POSITIVE));
        Self {
            strong: findings.iter().map(|ids| ids.iter().map(strong).collect()).collect(),
            best: findings.iter().map(|_| TopK::new(n)).collect(),
            of_first,
            findings,
            n_seen: 0,
        }
    }

    /// Sees a document of the `set`-th set. Its score for a finding is the least of the features' activations, each as a
    /// share of what is strong for the feature.
    pub(crate) fn update(&mut self, set: usize, doc_id: &str, ids: &[FeatureId], activations: &[f16]) {
        self.n_seen += 1;
        for at in ids.iter().filter_map(|id| self.of_first.get(id)).flatten() {
            let part = |(id, strong): (&FeatureId, &f32)| {
                let position = ids.binary_search(id).ok()?;
                Some(activations.get(position)?.to_f32() / strong)
            };
            let parts = self.findings[*at].iter().zip(&self.strong[*at]).map(part);
            let least = parts.reduce(|x, y| Some(x?.min(y?))).flatten();
            if let Some(score) = least {
                self.best[*at].offer(score, self.n_seen, || (set, doc_id.to_string()));
            }
        }
    }

    /// Excerpts for each finding, best first; `None` for those whose documents have no text.
    ///
    /// # Errors
    /// What the source gives.
    pub(crate) async fn read(
        self,
        function: &'static str,
        source: &SharedSource,
        sets: &[String],
        request: &Request,
    ) -> Result<Vec<Option<Vec<Example>>>> {
        let hits: Vec<Vec<(usize, String)>> = self
            .best
            .into_iter()
            .map(|best| best.into_sorted().into_iter().map(|ranked| ranked.item).collect())
            .collect();
        let memory = request.memory(function);
        let mut documents: HashMap<(usize, String), Text> = HashMap::new();
        for (at, set) in sets.iter().enumerate() {
            let wanted: BTreeSet<&str> =
                hits.iter().flatten().filter(|(set, _)| *set == at).map(|(_, doc_id)| doc_id.as_str()).collect();
            if wanted.is_empty() {
                continue;
            }
            let doc_ids: Vec<String> = wanted.iter().map(|doc_id| (*doc_id).to_string()).collect();
            // Asking for these documents alone is an optimisation: whatever is wrong with it, the set itself is still there.
            let mut found = match with_ids(set, &doc_ids) {
                Some(few) => read_texts(function, source, &few, &wanted).await.unwrap_or_default(),
                None => HashMap::new(),
            };
            if found.is_empty() {
                found = match read_texts(function, source, set, &wanted).await {
                    Err(error) if lacks_column(&error) => HashMap::new(),
                    found => found?,
                };
            }
            memory.try_grow(found.values().map(Text::bytes).sum())?;
            documents.extend(found.into_iter().map(|(doc_id, text)| ((at, doc_id), text)));
        }
        let (source, findings) = (SharedSource::clone(source), self.findings);
        blocking(function, move |cancellation| {
            let mut shown: Vec<Option<Vec<Example>>> = hits.iter().map(|hits| hits.is_empty().then(Vec::new)).collect();
            // Each text is read once, whatever the number of findings that it shows.
            let mut excerpts: HashMap<(usize, &str), Vec<(usize, String)>> = HashMap::new();
            for ((set, doc_id), text) in &documents {
                if cancellation.is_cancelled() {
                    return Ok(shown);
                }
                let shows = |at: &usize| hits[*at].iter().any(|hit| hit.0 == *set && hit.1 == *doc_id);
                let here: Vec<usize> = (0..findings.len()).filter(shows).collect();
                let mut features: Vec<FeatureId> = here.iter().flat_map(|at| findings[*at].iter().copied()).collect();
                features.sort_unstable();
                features.dedup();
                let tokens = source.token_features(&text.text, &text.said, &features)?;
                for at in here {
                    let excerpt = excerpt(&text.text, &tokens, &findings[at]);
                    excerpts.entry((*set, doc_id.as_str())).or_default().push((at, excerpt));
                }
            }
            for (at, hits) in hits.iter().enumerate() {
                for (set, doc_id) in hits {
                    let of_document = excerpts.get(&(*set, doc_id.as_str())).into_iter().flatten();
                    if let Some((_, text)) = of_document.into_iter().find(|(finding, _)| *finding == at) {
                        let example = Example { doc_id: doc_id.clone(), text: text.clone() };
                        shown[at].get_or_insert_default().push(example);
                    }
                }
            }
            Ok(shown)
        })
        .await
    }
}

/// A document's text, and the conversation in which it is read, if there is one.
struct Text {
    text: String,
    said: Vec<Said>,
}

impl Text {
    fn bytes(&self) -> usize {
        self.text.len() + self.said.iter().map(|said| said.role.len() + said.content.len()).sum::<usize>()
    }
}

async fn read_texts(
    function: &str,
    source: &SharedSource,
    set: &str,
    wanted: &BTreeSet<&str>,
) -> Result<HashMap<String, Text>> {
    let mut found = HashMap::new();
    let columns = [DocumentColumn::DocId, DocumentColumn::Text, DocumentColumn::Conversation];
    let mut stream = source.documents(set, &columns).await?;
    while found.len() < wanted.len()
        && let Some(batch) = stream.try_next().await?
    {
        let (doc_ids, bodies) =
            (texts(function, "doc_id", batch.column(0))?, texts(function, "text", batch.column(1))?);
        for (row, (doc_id, text)) in doc_ids.iter().zip(&bodies).enumerate() {
            if let (Some(doc_id), Some(text)) = (doc_id, text)
                && wanted.contains(doc_id)
            {
                let text = || Text { text: text.to_string(), said: messages(batch.column(2), row) };
                found.entry(doc_id.to_string()).or_insert_with(text);
            }
        }
    }
    Ok(found)
}

/// Some words around the first token on which a feature fires, with marks, in one line.
fn excerpt(text: &str, tokens: &[TokenFeatures], features: &[FeatureId]) -> String {
    let is_place = |token: &&TokenFeatures| text.get(token.start..token.end).is_some();
    let first = tokens.iter().filter(is_place).find(|token| fires(token, features)).map_or(0, |token| token.start);
    let words = |part: &str| -> Vec<(usize, usize)> {
        let mut ends = Vec::new();
        let mut from = 0;
        for word in part.split_inclusive(char::is_whitespace) {
            if !word.trim().is_empty() {
                ends.push((from, from + word.trim_end().len()));
            }
            from += word.len();
        }
        ends
    };
    let before = words(&text[..first]);
    let start = before.len().checked_sub(WORDS_BEFORE + 1).map_or(0, |at| before[at + 1].0);
    let after = words(&text[first..]);
    let end = after.get(WORDS_AFTER).map_or(text.len(), |_| first + after[WORDS_AFTER - 1].1);
    let inside: Vec<TokenFeatures> = tokens
        .iter()
        .filter(|token| token.start >= start && token.end <= end)
        .map(|token| TokenFeatures { start: token.start - start, end: token.end - start, ..token.clone() })
        .collect();
    let marked = mark(&text[start..end], &inside, features);
    let line: Vec<&str> = marked.split_whitespace().collect();
    let (cut_before, cut_after) = (if start > 0 { "…" } else { "" }, if end < text.len() { "…" } else { "" });
    format!("{cut_before}{}{cut_after}", line.join(" "))
}

/// Fields of an example.
fn fields() -> Fields {
    Fields::from(vec![Field::new("doc_id", DataType::Utf8, false), Field::new("text", DataType::Utf8, false)])
}

/// Column of lists of examples, `List<Struct<doc_id, text>>`.
///
/// # Errors
/// None in practice: the parts fit.
pub(crate) fn examples_column<'a>(rows: impl Iterator<Item = Option<&'a [Example]>>) -> Result<ListArray> {
    let rows: Vec<Option<&[Example]>> = rows.collect();
    let all: Vec<&Example> = rows.iter().flatten().copied().flatten().collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(all.iter().map(|example| &example.doc_id))),
        Arc::new(StringArray::from_iter_values(all.iter().map(|example| &example.text))),
    ];
    let item = Arc::new(Field::new_list_field(DataType::Struct(fields()), true));
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.map_or(0, <[Example]>::len)));
    let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
    Ok(ListArray::try_new(item, offsets, Arc::new(StructArray::try_new(fields(), columns, None)?), Some(nulls))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are the words of a text; those among `firing` fire feature 3.
    fn tokens(text: &str, firing: &[&str]) -> Vec<TokenFeatures> {
        let mut tokens = Vec::new();
        for word in text.split_whitespace() {
            let start = word.as_ptr() as usize - text.as_ptr() as usize;
            let features = if firing.contains(&word) { vec![(3, 1.0)] } else { vec![] };
            tokens.push(TokenFeatures { start, end: start + word.len(), features });
        }
        tokens
    }

    #[test]
    fn an_excerpt_is_around_the_first_mark() {
        let short = "so sorry, dear «friend»\n of mine";
        assert_eq!(excerpt(short, &tokens(short, &["sorry,"]), &[3]), "so «sorry,» dear «friend» of mine");
        assert_eq!(excerpt(short, &tokens(short, &[]), &[3]), "so sorry, dear «friend» of mine");
        let long = (0..60).map(|n| format!("é{n}")).collect::<Vec<_>>().join(" ");
        let cut = excerpt(&long, &tokens(&long, &["é30", "é31", "é50", "é58"]), &[3]);
        let words: Vec<&str> = cut.split(' ').collect();
        assert_eq!((words[0], words[12], words[13], words.len()), ("…é18", "«é30»", "«é31»", 36));
        assert_eq!((words[32], words[35]), ("«é50»", "é53…"));
        assert_eq!(excerpt("", &[], &[3]), "");
    }

    #[test]
    fn the_strongest_documents_with_all_features_are_kept() {
        let catalog = FeatureCatalog::default();
        let mut examples = Examples::new(&catalog, vec![vec![3], vec![3, 5]], 2);
        let half = |values: &[f32]| values.iter().map(|value| f16::from_f32(*value)).collect::<Vec<_>>();
        examples.update(0, "weak", &[3, 5], &half(&[0.5, 2.0]));
        examples.update(0, "strong", &[3], &half(&[2.0]));
        examples.update(1, "both", &[3, 5], &half(&[1.0, 0.75]));
        let best: Vec<Vec<(usize, String)>> = examples
            .best
            .into_iter()
            .map(|best| best.into_sorted().into_iter().map(|ranked| ranked.item).collect())
            .collect();
        let hit = |set: usize, doc_id: &str| (set, doc_id.to_string());
        assert_eq!(best, [[hit(0, "strong"), hit(1, "both")], [hit(1, "both"), hit(0, "weak")]]);
    }
}
