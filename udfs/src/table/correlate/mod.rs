//! `correlate(set, ...)`: which features come together in documents more often than chance.
//!
//! The statistics are in [`crate::kernels::correlation`], the counting in [`crate::kernels::cooccurrence`]; here
//! documents are read, once to find the features with enough documents, and once per block of rows to count pairs
//! (`reading`), and pairs are ranked and told (`ranking`).

mod ranking;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;

use self::ranking::Finding;
use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureSelection, Level};
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::LabelEmbeddings;
use crate::features::FeatureId;
use crate::kernels::correlation::{Direction, PairRow, RankBy};
use crate::rows::{Columns, pair_columns};
use crate::table::control::groups_of_columns;
use crate::table::document_columns::lacks_column;
use crate::table::examples::{Example, examples_column, n_examples};
use crate::table::exec::{Computation, ComputedTable, Request, blocking, quoted, quoted_list};
use crate::table::topics::{Grouped, topics};

const NAME: &str = "correlate";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Table,
    syntax: "correlate(set [, option => value ...])",
    text: "Which features come together in documents more often than chance. One row per finding: `docs_both`, `npmi` \
           (normalised pointwise mutual information over all documents, -1 to 1), `p_a_given_b`, `p_b_given_a`, `p_value` \
           (one-sided, by Fisher's exact test; see below with `control` or `min_lift`), `q_value` (Benjamini-Hochberg over all pairs of features with enough documents), `llr` \
           (log-likelihood ratio G²), `docs_a`, `docs_b`, `n`, `expected` (documents that would have both if the features \
           were independent), `label_similarity` (cosine of the two labels by the reader; null if one is hidden, or if the \
           reader is not there), `same_place` (share of up to three documents in which both fire most strongly on the same or \
           on neighbouring tokens; looked up for the first 200 pairs of token features, in up to 60 documents in all), `n_members` (pairs among the first 500 that \
           tell the same, this one included) and `also_in_words` (two words, or pairs of neighbouring words, that are in the \
           documents of the two features, phi at least 0.5, and come together with at least 0.8 of the same `llr`; null if \
           there are none; looked up for the first 200 rows in up to 20,000 documents; with `with` the first is of a document of `set`, the second of its partner). Ranked by `llr` unless `rank_by` says \
           otherwise. Pairs that the same token fires (half of the five \
           strongest tokens are shared), and pairs whose `same_place` is 0.5 or more, are left out. With `control` or \
           `min_lift` p is by Fisher's test of what is expected within the strata, times the lift, or where few \
           are expected by the binomial tail. It is an approximation, as a rule too large, because it takes the strata for \
           known and leaves out that counts vary less within them; `'topic'` takes one of the smaller of five expectations, \
           which makes it smaller again.",
    arguments: &[
        ("set", "corpus, corpus with a filter, or query"),
        (
            "with, paired_by",
            "correlate across two sets instead: feature_a of a document of `set` with feature_b of its partner \
                             in the set `with`, which has the same value in column `paired_by` (prompt and response). A feature with itself is an echo, too: see `echoes`",
        ),
        (
            "unexpected",
            "keep pairs whose labels are less alike than this (cosine by the reader, -1 to 1), and that topics do not \
                        explain: `control` is then `'topic'` (of sets with embeddings, that is with the column `_embedding`; not with `with`) \
                        and `min_lift` 2 unless they are given; default: all pairs",
        ),
        (
            "control",
            "a column to hold constant, such as `n_tokens`, or several: `['n_tokens', 'model']`. What is expected is summed over \
                     strata in which they are the same, so that what they explain is no finding (Mantel and Haenszel 1959): the \
                     values of texts and truth values, and ranges of numbers, dates and times (as many as the documents fill, at most \
                     200). Documents without a value of a column are held together by the others. `'topic'`, which stands alone: up to 200 topics \
                     (k-means of the stored embeddings, 25 documents each on the mean, or more); of five such groupings the one \
                     counts that expects least but one. `'none'`: over all documents. Default `'none'`, with `unexpected` \
                     `'topic'`; a column of one of these two names needs another (`SELECT ..., topic AS subject ...`)",
        ),
        (
            "min_lift",
            "how many times as often as expected (or as seldom) a pair must be together; the null hypothesis is that it is \
                      not; default 1, with `unexpected` 2: what is not known of the documents makes many pairs up to twice as \
                      frequent",
        ),
        (
            "min_docs",
            "documents that must have a feature for its pairs to be tested; default 0.25 %, at least 5 (a \
                      twentieth, at least 1, of fewer than 100 documents)",
        ),
        (
            "min_both",
            "documents that must have both features for the pair to be returned; default 0. All pairs are tested and \
                      counted in `q_value`",
        ),
        ("direction", "`positive` (default), `negative` (together less often than chance) or `both` (p two-sided)"),
        (
            "fold",
            "one row for pairs that tell the same: their features correlate one to one (phi at least 0.3), or they are together \
                  in the same documents (phi at least 0.3 as well); the strongest is shown; default true, for the first 500 pairs",
        ),
        ("echoes", "keep pairs that the same token, or neighbouring tokens, fire; default false"),
        (
            "include_hidden, dictionary, level",
            "which features; see `diff`. By default those of sentences (span), if the documents have any, and of whole documents, since the \
                    pairs of words that stand together are known; `level => 'all'` takes all",
        ),
        (
            "examples",
            "so many documents that show both features of the row most strongly (the weaker one counts), up to 20, as \
             `examples`: a list of `doc_id` and `text`, an excerpt with « and » around what shows them; for the first 50 rows; \
             reads the texts again; not with `with`; default 0",
        ),
        (
            "rank_by",
            "`llr` (default: the surest pairs first) or `npmi` (the closest; give `min_both` with it, since of rare features all \
             pairs are close)",
        ),
        ("limit", "rows at most; default 1000"),
    ],
    example: "SELECT label_a, label_b, docs_both, round(npmi, 3) AS npmi, round(p_value, 3) AS p_value FROM \
              correlate('answers', direction => 'both')",
};

/// Column of the likeness of labels.
const SIMILARITY: &str = "label_similarity";

/// Column of how often the features of a pair fire at the same place.
const SAME_PLACE: &str = "same_place";

/// First rows that are looked through for pairs that tell the same.
const FOLDED_ROWS: usize = 500;

/// Column of the words that show the same.
const WORDS: &str = "also_in_words";

/// Column of documents that show the pair.
const EXAMPLES: &str = "examples";

/// What is not known of documents (their source, form, length) makes many pairs up to twice as frequent as their topics
/// explain; only a larger lift is unexpected.
const UNEXPECTED_LIFT: f64 = 2.0;

/// Pairs that are returned if the user says nothing.
const DEFAULT_LIMIT: usize = 1000;

/// Memory for the counts of a block where documents are read again for each; 8,000 features fit into one.
const BLOCK_BYTES: usize = 128 << 20;

/// Memory for documents that are held, if the query has as much; beyond it they are read again for each block.
const HELD_BYTES: usize = 1 << 30;

/// The table function.
#[derive(Debug)]
pub struct Correlate {
    source: SharedSource,
}

/// `correlate(set, ...)` over `source`.
pub fn correlate_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(Correlate { source: Arc::clone(source) })
}

impl TableFunctionImpl for Correlate {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let mut args = Arguments::parse(NAME, args.exprs())?;
        let call = CorrelateCall {
            source: Arc::clone(&self.source),
            set: args.positional("set").required_text()?,
            across: match (args.named("with").text()?, args.named("paired_by").text()?) {
                (Some(set), Some(column)) => Some((set, column)),
                (None, None) => None,
                (Some(_), None) => {
                    return plan_err!("{NAME}: 'with' needs 'paired_by', the column that both sets have");
                }
                (None, Some(_)) => return plan_err!("{NAME}: 'paired_by' needs 'with', the set to pair with"),
            },
            min_docs: args.named("min_docs").count()?,
            min_both: args.named("min_both").count_or(0)? as u64,
            direction: match args.named("direction").choice_or(&["positive", "negative", "both"], "positive")? {
                "negative" => Direction::Negative,
                "both" => Direction::Both,
                _ => Direction::Positive,
            },
            echoes: args.named("echoes").flag_or(false)?,
            unexpected: match args.named("unexpected") {
                unexpected if unexpected.is_given() => Some(unexpected.number_between(-1.0, 1.0, 1.0)?),
                _ => None,
            },
            control: Control::parse(args.named("control").texts()?)?,
            min_lift: match args.named("min_lift") {
                min_lift if min_lift.is_given() => Some(min_lift.number_between(1.0, 1e6, 1.0)?),
                _ => None,
            },
            fold: args.named("fold").flag_or(true)?,
            selection: FeatureSelection::from_args_preferring(&mut args, Level::Span)?,
            examples: n_examples(NAME, &args.named("examples"))?,
            rank_by: match args.named("rank_by").choice_or(&["llr", "npmi"], "llr")? {
                "npmi" => RankBy::Npmi,
                _ => RankBy::Llr,
            },
            limit: args.named("limit").count_or(DEFAULT_LIMIT)?,
            block_bytes: BLOCK_BYTES,
            held_bytes: HELD_BYTES,
        };
        args.finish()?;
        if call.across.is_some() && call.control.as_ref().is_some_and(|control| *control != Control::None) {
            return plan_err!(
                "{NAME}: 'control' holds constant what documents of one set have and cannot be used with 'with'"
            );
        }
        if call.across.is_some() && call.examples > 0 {
            return plan_err!(
                "{NAME}: 'examples' shows documents that have both features and cannot be used with 'with'"
            );
        }
        call.source.catalog().select(NAME, &call.selection)?;
        Ok(ComputedTable::provider(call))
    }
}

/// What is held constant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Control {
    None,
    Topic,
    Columns(Vec<String>),
}

impl Control {
    /// What the user said; `None` for nothing.
    fn parse(names: Vec<String>) -> Result<Option<Self>> {
        let mut columns: Vec<String> = Vec::new();
        for name in names {
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
        let is = |column: &String, word: &str| column.eq_ignore_ascii_case(word);
        let word = columns.iter().find(|column| is(column, "topic") || is(column, "none"));
        match (word, columns.len()) {
            (_, 0) => Ok(None),
            (None, _) => Ok(Some(Self::Columns(columns))),
            (Some(word), 1) if is(word, "topic") => Ok(Some(Self::Topic)),
            (Some(_), 1) => Ok(Some(Self::None)),
            (Some(word), _) => plan_err!(
                "{NAME}: 'control' cannot combine '{word}' with columns; a column of that name needs another one: SELECT ..., \
                 {word} AS subject ..."
            ),
        }
    }
}

#[derive(Debug)]
struct CorrelateCall {
    source: SharedSource,
    set: String,
    /// Set whose documents are paired with those of `set`, and the column that pairs them.
    across: Option<(String, String)>,
    min_docs: Option<usize>,
    /// Return only pairs that are together in so many documents.
    min_both: u64,
    direction: Direction,
    /// Whether to return pairs that the same token fires.
    echoes: bool,
    /// Return only pairs whose labels are less alike than this.
    unexpected: Option<f64>,
    /// What is held constant; `None` if the user did not say.
    control: Option<Control>,
    /// How often pairs must be together, as a multiple of what is expected; `None` if the user did not say.
    min_lift: Option<f64>,
    /// Whether pairs that tell the same become one row.
    fold: bool,
    selection: FeatureSelection,
    /// Documents that are shown for a row.
    examples: usize,
    /// What the first pairs are first by.
    rank_by: RankBy,
    limit: usize,
    block_bytes: usize,
    held_bytes: usize,
}

impl fmt::Display for CorrelateCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}({}", quoted(&self.set))?;
        if let Some((set, column)) = &self.across {
            write!(f, ", with => {}, paired_by => {}", quoted(set), quoted(column))?;
        }
        match &self.control {
            Some(Control::Columns(columns)) => write!(f, ", control => [{}]", quoted_list(columns))?,
            Some(Control::Topic) => f.write_str(", control => 'topic'")?,
            Some(Control::None) | None => {}
        }
        if let Some(least_alike) = self.unexpected {
            write!(f, ", unexpected => {least_alike}")?;
        }
        if self.min_lift() != 1.0 {
            write!(f, ", min_lift => {}", self.min_lift())?;
        }
        f.write_str(")")
    }
}

/// Likeness of labels by the reader's own embeddings.
#[derive(Debug)]
pub(crate) struct LabelSimilarity {
    embeddings: Arc<LabelEmbeddings>,
    rows: HashMap<FeatureId, usize>,
}

impl LabelSimilarity {
    pub(crate) fn new(embeddings: Arc<LabelEmbeddings>) -> Self {
        let rows = embeddings.ids.iter().copied().zip(0..).collect();
        Self { embeddings, rows }
    }

    pub(crate) fn row(&self, id: FeatureId) -> Option<&[f32]> {
        let (row, width) = (*self.rows.get(&id)?, self.embeddings.width);
        self.embeddings.values.get(row * width..(row + 1) * width)
    }

    /// Cosine of the labels of two features; `None` if one has no embedding (hidden).
    pub(crate) fn between(&self, a: FeatureId, b: FeatureId) -> Option<f64> {
        let (a, b) = (self.row(a)?, self.row(b)?);
        Some(a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum())
    }
}

impl CorrelateCall {
    /// The lift that must be exceeded: what the user says, and 2 where the unexpected is looked for.
    fn min_lift(&self) -> f64 {
        self.min_lift.unwrap_or(if self.unexpected.is_some() { UNEXPECTED_LIFT } else { 1.0 })
    }

    /// What is held constant: what the user says, and topics where the unexpected is looked for and embeddings are there.
    async fn strata(&self, request: &Request) -> Result<Vec<Grouped>> {
        let control = match (&self.control, self.unexpected, &self.across) {
            (Some(control), ..) => control,
            (None, Some(_), None) => &Control::Topic,
            _ => &Control::None,
        };
        match control {
            Control::None => Ok(Vec::new()),
            Control::Columns(columns) => {
                Ok(vec![groups_of_columns(NAME, &self.source, &self.set, columns, request).await?])
            }
            Control::Topic => match topics(NAME, &self.source, &self.set, request).await {
                Err(error) if self.control.is_none() && lacks_column(&error) => Ok(Vec::new()),
                Ok(found) if found.is_empty() && self.control.is_some() => exec_err!(
                    "{NAME}: no document of set '{}' has an embedding, of which 'control' => 'topic' makes topics; leave it out, \
                     or hold a column constant",
                    self.set
                ),
                found => found,
            },
        }
    }

    /// How alike labels are. The reader must be there for `unexpected`; for the column alone it is no reason to fail.
    async fn similarity(&self, request: &Request) -> Result<Option<Arc<LabelSimilarity>>> {
        if self.unexpected.is_none() && !self.wants(request, SIMILARITY) {
            return Ok(None);
        }
        let source = Arc::clone(&self.source);
        match blocking(NAME, move |_| source.label_embeddings()).await {
            Ok(embeddings) => Ok(Some(Arc::new(LabelSimilarity::new(embeddings)))),
            Err(_) if self.unexpected.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn wants(&self, request: &Request, column: &str) -> bool {
        self.schema().index_of(column).is_ok_and(|position| request.wants(position))
    }
}

fn columns(
    catalog: &FeatureCatalog,
    findings: Vec<Finding>,
    mut words: Vec<Option<String>>,
    mut examples: Option<Vec<Option<Vec<Example>>>>,
    similarity: Option<&LabelSimilarity>,
) -> Result<Columns> {
    let same_place: Float64Array = findings.iter().map(|finding| finding.same_place).collect();
    let n_members: Vec<u64> = findings.iter().map(|finding| finding.n_members).collect();
    let rows: Vec<PairRow> = findings.into_iter().map(|finding| finding.row).collect();
    let mut columns = pair_columns(catalog, &rows);
    let alike = |row: &PairRow| similarity.and_then(|similarity| similarity.between(row.features.0, row.features.1));
    columns.push(SIMILARITY, rows.iter().map(alike).collect::<Float64Array>(), true);
    columns.push(SAME_PLACE, same_place, true);
    columns.counts("n_members", n_members.into_iter());
    words.resize(rows.len(), None);
    columns.push(WORDS, StringArray::from(words), true);
    if let Some(examples) = &mut examples {
        examples.resize(rows.len(), None);
        columns.push(EXAMPLES, examples_column(examples.iter().map(Option::as_deref))?, true);
    }
    Ok(columns)
}

#[async_trait]
impl Computation for CorrelateCall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> SchemaRef {
        let examples = (self.examples > 0).then(Vec::new);
        columns(&FeatureCatalog::default(), Vec::new(), Vec::new(), examples, None).unwrap_or_default().schema()
    }

    async fn run(&self, request: Request) -> Result<Vec<RecordBatch>> {
        let catalog = self.source.catalog();
        let similarity = self.similarity(&request).await?;
        let limit = self.limit.min(request.limit.unwrap_or(usize::MAX));
        // Rows that are left out below are replaced by later ones.
        let spare = if limit > 0 && (self.fold || !self.echoes) { FOLDED_ROWS } else { 0 };
        let ranked = self.pairs(&catalog, similarity.as_ref(), limit.saturating_add(spare), &request).await?;
        let findings = self.findings(ranked, &catalog, limit, &request).await?;
        let words = self.words(&findings, &request).await?;
        let examples = self.examples(&findings, &catalog, &request).await?;
        let examples = (self.examples > 0).then_some(examples);
        Ok(vec![columns(&catalog, findings, words, examples, similarity.as_deref())?.into_batch()?])
    }
}
