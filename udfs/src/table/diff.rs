//! `diff(a, b, ...)`: which features set two sets of documents apart.
//!
//! ```sql
//! SELECT label, frequency_a, frequency_b, also_in_words
//! FROM diff('answers WHERE model = ''a''', 'answers WHERE model = ''b''') LIMIT 3;
//! ```
//!
//! The statistics are in [`crate::kernels::diff`]; here sets are read, pairs matched and words looked up.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::exec_err;
use datafusion::error::Result;
use futures::TryStreamExt;

use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureSelection};
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, IdsView};
use crate::kernels::cooccurrence::{Documents, PairCounts};
use crate::kernels::counting::{FeatureCounts, PairedCounts};
use crate::kernels::diff::{DiffRow, default_min_docs, diff, diff_paired};
use crate::kernels::duplicates::same_as;
use crate::kernels::statistics::normal_quantile_two_sided;
use crate::kernels::words::{Candidates, LEAST_SHARE, TermCounts};
use crate::rows::{Columns, diff_columns};
use crate::table::document_columns::{lacks_column, texts};
use crate::table::exec::{Computation, ComputedTable, Request, blocking};
use crate::table::pairing::{Matched, match_pairs};

const NAME: &str = "diff";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Table,
    syntax: "diff(a, b [, option => value ...])",
    text: "Which features set two sets of documents apart. One row per feature: `docs_a`, `docs_b` (documents that have \
           it), `frequency_a`, `frequency_b`, `difference` (a - b) with its confidence interval `ci_low`, `ci_high` (Newcombe's \
           score interval), `odds_ratio` (0.5 added to each cell; of pairs, to both counts of those that differ), two-sided \
           `p_value` (Fisher's exact test where an expected count is below 5, else chi-squared; with `paired_by` McNemar's \
           exact test), `q_value` (Benjamini-Hochberg over all features tested), `also_in_words` (the word or pair of words \
           that shows at least 0.8 of the same difference in the same documents, phi at least 0.5, with its two frequencies; \
           null if there is none; looked up for the first 200 rows in up to 20,000 documents a side), `n_a`, `n_b` (documents \
           compared), `n_left_out` (documents that were never encoded or have no partner) and `same_as` (the id of a feature \
           above that is in nearly the same documents, phi at least 0.8 within the sides; null if there is none; looked up \
           for the first 200 rows). Rows with q below 0.05 come first, then the larger difference. Documents that are in both \
           sets count on both sides, which hides differences; leave them out with WHERE.",
    arguments: &[
        ("a, b", "corpus, corpus with a filter (`answers WHERE model = 'x'`), or query"),
        ("paired_by", "column that says which document of a belongs to which of b; unique in each set"),
        (
            "min_docs",
            "documents (a and b together) that must have a feature for it to be tested; default 5, fewer if there \
                      are fewer than 100 documents",
        ),
        ("include_hidden", "test also features that are hidden; default false"),
        ("dictionary", "only features of this dictionary"),
        ("level", "only `token`, `span` or `document` features; default `all`"),
        ("confidence", "of the interval; default 0.95"),
        ("words", "whether to look for words; default: where the sets have texts"),
        ("fold", "leave out rows that are the same as one above; default false"),
        ("limit", "rows at most; default all"),
    ],
    example: "SELECT label, frequency_a, frequency_b, round(q_value, 6) AS q_value, also_in_words FROM diff('answers WHERE \
              model = ''a''', 'answers WHERE model = ''b''', paired_by => 'prompt_id')",
};

/// Rows for which words and repetitions are looked up: the first ones.
const TOP_ROWS: usize = 200;

/// Documents of each side whose words are looked at; spread evenly if there are more.
const WORD_DOCUMENTS: u64 = 20_000;

/// The table function.
#[derive(Debug)]
pub struct Diff {
    source: SharedSource,
}

/// `diff(a, b, ...)` over `source`.
pub fn diff_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(Diff { source: Arc::clone(source) })
}

impl TableFunctionImpl for Diff {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let mut args = Arguments::parse(NAME, args.exprs())?;
        let sets = [args.positional("a").required_text()?, args.positional("b").required_text()?];
        let call = DiffCall {
            source: Arc::clone(&self.source),
            sets,
            paired_by: args.named("paired_by").text()?,
            min_docs: args.named("min_docs").count()?,
            selection: FeatureSelection::from_args(&mut args)?,
            confidence: args.named("confidence").number_between(0.5, 0.999_999, 0.95)?,
            words: match args.named("words") {
                words if words.is_given() => Some(words.flag_or(true)?),
                _ => None,
            },
            fold: args.named("fold").flag_or(false)?,
            limit: args.named("limit").count()?,
        };
        args.finish()?;
        call.source.catalog().select(NAME, &call.selection)?;
        Ok(ComputedTable::provider(call))
    }
}

#[derive(Debug)]
struct DiffCall {
    source: SharedSource,
    sets: [String; 2],
    paired_by: Option<String>,
    min_docs: Option<usize>,
    selection: FeatureSelection,
    confidence: f64,
    /// `None`: where the sets have texts.
    words: Option<bool>,
    /// Whether to leave out rows that repeat one above.
    fold: bool,
    limit: Option<usize>,
}

impl fmt::Display for DiffCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}('{}', '{}'", self.sets[0], self.sets[1])?;
        if let Some(column) = &self.paired_by {
            write!(f, ", paired_by => '{column}'")?;
        }
        f.write_str(")")
    }
}

/// What was counted.
struct Counted {
    rows: Vec<DiffRow>,
    n_docs: [u64; 2],
    n_left_out: u64,
    /// Of a paired comparison: keys that are in both sets.
    matched: Option<Matched>,
}

impl DiffCall {
    async fn count(&self, request: &Request, selected: Vec<bool>) -> Result<Counted> {
        let z = normal_quantile_two_sided(self.confidence);
        let id_bound = selected.len();
        let ids: Vec<FeatureId> = (0..).zip(selected).filter(|(_, selected)| *selected).map(|(id, _)| id).collect();
        let min_docs = |n_docs: u64| self.min_docs.map_or_else(|| default_min_docs(n_docs), |min_docs| min_docs as u64);
        if let Some(column) = &self.paired_by {
            let mut counts = PairedCounts::new(id_bound);
            let visit = |a: &[FeatureId], b: &[FeatureId]| {
                counts.update(a, b);
                Ok(())
            };
            let matched = match_pairs(NAME, &self.source, &self.sets, column, request, visit).await?;
            let n_pairs = counts.a.n_docs;
            let n_left_out = matched.n_left_out;
            let min_docs = min_docs(2 * n_pairs);
            let rows = blocking(NAME, move |_| Ok(diff_paired(&counts, &ids, min_docs, z))).await?;
            return Ok(Counted { rows, n_docs: [n_pairs; 2], n_left_out, matched: Some(matched) });
        }
        let (a, out_a) = self.count_set(&self.sets[0], id_bound, request).await?;
        let (b, out_b) = self.count_set(&self.sets[1], id_bound, request).await?;
        let n_docs = [a.n_docs, b.n_docs];
        let min_docs = min_docs(a.n_docs + b.n_docs);
        let rows = blocking(NAME, move |_| Ok(diff(&a, &b, &ids, min_docs, z))).await?;
        Ok(Counted { rows, n_docs, n_left_out: out_a + out_b, matched: None })
    }

    /// Counts the features of a set, and the documents that were never encoded.
    async fn count_set(&self, set: &str, id_bound: usize, request: &Request) -> Result<(FeatureCounts, u64)> {
        let mut counts = FeatureCounts::new(id_bound);
        let mut n_left_out = 0;
        // A document that a join repeats is one observation, not several.
        let (mut seen, hasher, memory) = (HashSet::new(), RandomState::new(), request.memory(NAME));
        let mut stream = match self.source.documents(set, &[DocumentColumn::Ids, DocumentColumn::DocId]).await {
            Err(error) if lacks_column(&error) => self.source.documents(set, &[DocumentColumn::Ids]).await?,
            stream => stream?,
        };
        while let Some(batch) = stream.try_next().await? {
            let ids = IdsView::try_new(NAME, batch.column(0))?;
            for row in 0..ids.len() {
                if ids.is_null(row) { n_left_out += 1 } else { counts.update(ids.ids(row)) }
            }
            let Some(doc_ids) = batch.columns().get(1) else { continue };
            memory.try_grow(batch.num_rows() * 2 * size_of::<u64>())?;
            let doc_ids = texts(NAME, "doc_id", doc_ids)?;
            if let Some(doc_id) = doc_ids.iter().flatten().find(|doc_id| !seen.insert(hasher.hash_one(doc_id))) {
                return exec_err!(
                    "{NAME}: document '{doc_id}' comes twice in set '{set}'; add DISTINCT, or put WHERE doc_id IN (...) \
                     in place of a join"
                );
            }
        }
        if counts.n_docs == 0 {
            return match n_left_out {
                0 => exec_err!("{NAME}: set '{set}' has no documents"),
                n => exec_err!("{NAME}: none of the {n} documents of set '{set}' has features"),
            };
        }
        Ok((counts, n_left_out))
    }

    /// For each of the first rows, the word that shows the same.
    async fn words(&self, counted: &Counted, n_rows: usize) -> Result<Vec<Option<String>>> {
        let top: Vec<(u32, f64)> = counted.rows[..n_rows].iter().map(|row| (row.feature_id, row.difference)).collect();
        let least = top.iter().map(|(_, difference)| difference.abs()).fold(f64::INFINITY, f64::min);
        if top.is_empty() || self.words == Some(false) {
            return Ok(vec![None; n_rows]);
        }
        let mut terms = TermCounts::default();
        for side in 0..2 {
            let mut sample = match self.sample(counted, side).await {
                Ok(sample) => sample,
                // A set without texts has no words; that matters only to those who asked for them.
                Err(error) if self.words.is_none() && lacks_column(&error) => return Ok(vec![None; n_rows]),
                Err(error) => return Err(error),
            };
            while let Some(documents) = sample.next().await? {
                terms = blocking(NAME, move |_| {
                    let texts: Vec<&str> = documents.iter().map(|(text, _)| text).collect();
                    terms.update(side, &texts);
                    Ok(terms)
                })
                .await?;
            }
        }
        let features: Vec<u32> = top.iter().map(|(id, _)| *id).collect();
        let mut candidates: Candidates =
            blocking(NAME, move |_| Ok(terms.candidates((LEAST_SHARE * least).max(1e-9), &features))).await?;
        for side in 0..2 {
            let mut sample = self.sample(counted, side).await?;
            while let Some(documents) = sample.next().await? {
                candidates = blocking(NAME, move |_| {
                    candidates.update(&documents.iter().collect::<Vec<_>>());
                    Ok(candidates)
                })
                .await?;
            }
        }
        let catalog = self.source.catalog();
        let word_of = |(id, difference): &(u32, f64)| {
            let is_telling = |term: &str| {
                let known = |word: &String| word.trim().eq_ignore_ascii_case(term);
                catalog
                    .feature(*id)
                    .is_some_and(|feature| feature.top_words.iter().any(known) || feature.top_tokens.iter().any(known))
            };
            candidates.best(*id, *difference, is_telling).map(|word| word.to_string())
        };
        Ok(top.iter().map(word_of).collect())
    }

    /// For each of the first rows, the feature above that says the same.
    async fn same_as(&self, counted: &Counted, id_bound: usize) -> Result<Vec<Option<FeatureId>>> {
        let top = &counted.rows[..counted.rows.len().min(TOP_ROWS)];
        // Positions must ascend with ids; ranks are put back below.
        let mut ids: Vec<FeatureId> = top.iter().map(|row| row.feature_id).collect();
        ids.sort_unstable();
        let mut position_of = vec![u32::MAX; id_bound];
        for (position, id) in (0..).zip(&ids) {
            position_of[*id as usize] = position;
        }
        let mut columns = vec![DocumentColumn::Ids];
        columns.extend(self.paired_by.clone().map(DocumentColumn::Named));
        let mut sides = Vec::new();
        for set in &self.sets {
            let mut counts = PairCounts::new(ids.len(), 0..ids.len());
            let mut stream = self.source.documents(set, &columns).await?;
            while let Some(batch) = stream.try_next().await? {
                let list = IdsView::try_new(NAME, batch.column(0))?;
                let mut documents = Documents::default();
                for row in compared(&list, batch.columns().get(1), counted.matched.as_ref())? {
                    documents.push(list.ids(row), &position_of);
                }
                counts.update(&documents);
            }
            sides.push(counts);
        }
        let ranks: Vec<usize> = top.iter().map(|row| position_of[row.feature_id as usize] as usize).collect();
        Ok(same_as(&sides, &ranks).into_iter().map(|above| above.map(|rank| top[rank].feature_id)).collect())
    }

    /// The documents of one side whose words are looked at.
    async fn sample<'a>(&self, counted: &'a Counted, side: usize) -> Result<Sample<'a>> {
        let mut columns = vec![DocumentColumn::Text, DocumentColumn::Ids];
        columns.extend(self.paired_by.clone().map(DocumentColumn::Named));
        let stream = self.source.documents(&self.sets[side], &columns).await?;
        let stride = counted.n_docs[side].div_ceil(WORD_DOCUMENTS).max(1);
        Ok(Sample { stream, matched: counted.matched.as_ref(), stride, seen: 0 })
    }
}

/// Rows of a batch that are compared: those that were encoded and, of pairs, have a partner.
fn compared(ids: &IdsView, keys: Option<&ArrayRef>, matched: Option<&Matched>) -> Result<Vec<usize>> {
    let encoded = (0..ids.len()).filter(|row| !ids.is_null(*row));
    let (Some(keys), Some(matched)) = (keys, matched) else { return Ok(encoded.collect()) };
    let keys = cast(keys, &DataType::Utf8)?;
    let keys = keys.as_string::<i32>();
    Ok(encoded.filter(|row| keys.is_valid(*row) && matched.contains(keys.value(*row))).collect())
}

struct Sample<'a> {
    stream: datafusion::physical_plan::SendableRecordBatchStream,
    matched: Option<&'a Matched>,
    stride: u64,
    seen: u64,
}

/// Texts of some documents with their features.
struct TextBatch {
    texts: StringArray,
    ids: IdsView,
    rows: Vec<usize>,
}

impl TextBatch {
    fn iter(&self) -> impl Iterator<Item = (&str, &[u32])> {
        self.rows.iter().map(|row| (self.texts.value(*row), self.ids.ids(*row)))
    }
}

impl Sample<'_> {
    async fn next(&mut self) -> Result<Option<TextBatch>> {
        let Some(batch) = self.stream.try_next().await? else { return Ok(None) };
        let texts = cast(batch.column(0), &DataType::Utf8)?.as_string::<i32>().clone();
        let ids = IdsView::try_new(NAME, batch.column(1))?;
        let mut rows = Vec::new();
        for row in compared(&ids, batch.columns().get(2), self.matched)? {
            if self.seen.is_multiple_of(self.stride) && texts.is_valid(row) {
                rows.push(row);
            }
            self.seen += 1;
        }
        Ok(Some(TextBatch { texts, ids, rows }))
    }
}

fn columns(
    catalog: &FeatureCatalog,
    counted: &Counted,
    mut words: Vec<Option<String>>,
    mut same_as: Vec<Option<FeatureId>>,
) -> Columns {
    let n_rows = counted.rows.len();
    let mut columns = diff_columns(catalog, &counted.rows);
    words.resize(n_rows, None);
    same_as.resize(n_rows, None);
    columns.push("also_in_words", StringArray::from(words), true);
    columns.counts("n_a", std::iter::repeat_n(counted.n_docs[0], n_rows));
    columns.counts("n_b", std::iter::repeat_n(counted.n_docs[1], n_rows));
    columns.counts("n_left_out", std::iter::repeat_n(counted.n_left_out, n_rows));
    columns.push("same_as", UInt32Array::from(same_as), true);
    columns
}

#[async_trait]
impl Computation for DiffCall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> SchemaRef {
        let nothing = Counted { rows: Vec::new(), n_docs: [0; 2], n_left_out: 0, matched: None };
        columns(&FeatureCatalog::default(), &nothing, Vec::new(), Vec::new()).schema()
    }

    async fn run(&self, request: Request) -> Result<Vec<RecordBatch>> {
        let catalog = self.source.catalog();
        let selected = catalog.select(NAME, &self.selection)?;
        let id_bound = selected.len();
        let mut counted = self.count(&request, selected).await?;
        let wants = |name: &str| self.schema().index_of(name).is_ok_and(|position| request.wants(position));
        let limit = self.limit.unwrap_or(usize::MAX).min(request.limit.unwrap_or(usize::MAX));
        if !self.fold {
            counted.rows.truncate(limit);
        }
        let mut same_as = match self.fold || wants("same_as") {
            true => self.same_as(&counted, id_bound).await?,
            false => Vec::new(),
        };
        if self.fold {
            let repeats: HashSet<FeatureId> = counted
                .rows
                .iter()
                .zip(&same_as)
                .filter(|(_, same)| same.is_some())
                .map(|(row, _)| row.feature_id)
                .collect();
            counted.rows.retain(|row| !repeats.contains(&row.feature_id));
            counted.rows.truncate(limit);
            same_as.clear();
        }
        let n_words = if wants("also_in_words") { counted.rows.len().min(TOP_ROWS) } else { 0 };
        let words = self.words(&counted, n_words).await?;
        Ok(vec![columns(&catalog, &counted, words, same_as).into_batch()?])
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells, columns, error};

    const A: &str = "'answers WHERE model = ''a'''";
    const B: &str = "'answers WHERE model = ''b'''";

    #[tokio::test]
    async fn compares_two_sets() {
        let sql =
            format!("SELECT label, docs_a, docs_b, difference, q_value < 0.05, also_in_words, n_a FROM diff({A}, {B})");
        let rows = cells(&answers(), sql).await.unwrap();
        assert_eq!(rows[0], ["apology", "30", "0", "0.5", "true", "\"sorry\" 0.50 vs 0.00", "60"]);
        assert_eq!(rows[1], ["list", "0", "30", "-0.5", "true", "\"second\" 0.00 vs 0.50", "60"]);
        assert_eq!(rows[2], ["thanks", "15", "0", "0.25", "true", "\"thank\" 0.25 vs 0.00", "60"]);
        assert_eq!(rows[3], ["hedge", "20", "20", "0.0", "false", "", "60"]);
        assert_eq!(rows.len(), 4, "nothing has the rare feature");
    }

    #[tokio::test]
    async fn has_the_columns_of_the_contract() {
        let names = columns(&answers(), format!("SELECT * FROM diff({A}, {B})")).await;
        let contract = "feature_id label level docs_a docs_b frequency_a frequency_b difference ci_low ci_high odds_ratio \
                        p_value q_value also_in_words n_a n_b n_left_out same_as";
        assert_eq!(names, contract);
    }

    #[tokio::test]
    async fn pairs_are_matched_by_a_key() {
        let source = answers();
        let sql = format!(
            "SELECT label, docs_a, docs_b, n_a, n_b, n_left_out, also_in_words FROM diff({A}, 'answers WHERE model = ''b'' \
             AND prompt_id <> ''p0''', named_argument('paired_by', 'prompt_id'))"
        );
        let rows = cells(&source, sql).await.unwrap();
        assert_eq!(rows[0], ["apology", "29", "0", "59", "59", "1", "\"sorry\" 0.49 vs 0.00"]);

        let options = "named_argument('paired_by', 'prompt_id')";
        let twice = error(&source, format!("SELECT * FROM diff('answers', {B}, {options})")).await;
        assert!(twice.contains("diff: 'p0' comes twice in column 'prompt_id' of set 'answers'"), "{twice}");
        let none =
            format!("SELECT * FROM diff({A}, 'answers WHERE model = ''b''', named_argument('paired_by', 'doc_id'))");
        assert!(error(&source, none).await.contains("no value of column 'doc_id' is in both"));
    }

    #[tokio::test]
    async fn the_same_set_twice_shows_nothing() {
        let source = answers();
        let columns = "label, difference, p_value, ci_low < 0 AND ci_high > 0";
        let rows = cells(&source, format!("SELECT {columns} FROM diff({A}, {A}) ORDER BY label")).await.unwrap();
        let same = |label| [label, "0.0", "1.0", "true"];
        assert_eq!(rows, ["apology", "hedge", "thanks"].map(same));
    }

    #[tokio::test]
    async fn a_document_counts_once() {
        let source = answers();
        let sql = "SELECT * FROM diff('SELECT a.doc_id, a.features FROM answers a JOIN answers b USING (prompt_id)', 'answers')";
        let message = error(&source, sql).await;
        assert!(message.contains("comes twice in set 'SELECT a.doc_id"), "{message}");
        assert!(message.contains("add DISTINCT"), "{message}");
    }

    #[tokio::test]
    async fn queries_without_texts_and_options_work() {
        let source = answers();
        let query = "'SELECT features FROM answers WHERE model = ''a'''";
        let rows =
            cells(&source, format!("SELECT label, also_in_words FROM diff({query}, {B}, named_argument('limit', 1))"));
        assert_eq!(rows.await.unwrap(), [["apology", ""]]);
        let asked = format!("SELECT * FROM diff({query}, {B}, named_argument('words', true))");
        let message = error(&source, &asked).await;
        assert!(message.contains("No field named answers.text"), "{message}");
        let rows = cells(&source, format!("SELECT label FROM diff({A}, {B}, named_argument('min_docs', 31))"));
        assert_eq!(rows.await.unwrap(), [["hedge"]]);
    }

    #[tokio::test]
    async fn repetitions_are_marked_or_folded() {
        let features: &[(&str, &[&str])] = &[("regret", &["regret"]), ("list", &["first"]), ("apology", &["sorry"])];
        let source = crate::MemorySource::with_words(features, vec![]);
        let text = |row: usize| match row {
            0..30 => "sorry regret",
            30..50 => "first",
            50..55 => "sorry",
            _ => "none",
        };
        let a: Vec<Option<&str>> = (0..60).map(|row| Some(text(row))).collect();
        let b: Vec<Option<&str>> = (0..60).map(|row| Some(text(row + 58))).collect();
        source.put_texts("a", &a, vec![]).unwrap();
        source.put_texts("b", &b, vec![]).unwrap();
        let rows = cells(&source, "SELECT label, same_as FROM diff('a', 'b')").await.unwrap();
        assert_eq!(rows, [["apology", ""], ["regret", "2"], ["list", ""]]);
        let sql = "SELECT label, same_as FROM diff('a', 'b', named_argument('fold', true)) LIMIT 2";
        assert_eq!(cells(&source, sql).await.unwrap(), [["apology", ""], ["list", ""]]);
    }

    #[tokio::test]
    async fn repetitions_of_pairs_are_found_within_the_pairs() {
        let source = crate::MemorySource::with_words(&[("regret", &["regret"]), ("apology", &["sorry"])], vec![]);
        // Documents 60 to 199 of a have no partner; there the features part ways.
        let text = |row: usize| match row {
            0..30 => "sorry regret",
            30..60 => "none",
            _ => "sorry",
        };
        let a: Vec<Option<&str>> = (0..200).map(|row| Some(text(row))).collect();
        let keys = |n: i64| -> arrow::array::ArrayRef {
            std::sync::Arc::new(arrow::array::Int64Array::from_iter_values(0..n))
        };
        source.put_texts("a", &a, vec![("key", keys(200))]).unwrap();
        source.put_texts("b", &[Some("none"); 60], vec![("key", keys(60))]).unwrap();
        let sql = "SELECT label, same_as, n_a FROM diff('a', 'b', named_argument('paired_by', 'key'))";
        assert_eq!(cells(&source, sql).await.unwrap(), [["regret", "", "60"], ["apology", "0", "60"]]);
    }

    #[tokio::test]
    async fn mistakes_are_explained() {
        let source = answers();
        let say = async |arguments: &str| error(&source, format!("SELECT * FROM diff({arguments})")).await;
        assert!(say(A).await.contains("diff: argument 'b' is missing"));
        assert!(say("'answer', 'answers'").await.contains("corpus 'answer' not found; did you mean 'answers'?"));
        assert!(
            say("'answers WHERE model = ''c''', 'answers'")
                .await
                .contains("diff: set 'answers WHERE model = 'c'' has no documents")
        );
        assert!(say(&format!("{A}, {B}, named_argument('pared_by', 'x')")).await.contains("did you mean 'paired_by'?"));
        assert!(
            say(&format!("{A}, {B}, named_argument('dictionary', 'x')")).await.contains("dictionary 'x' not found")
        );
    }
}
