//! `correlate(set, ...)`: which features come together in documents more often than chance.
//!
//! The statistics are in [`crate::kernels::correlation`], the counting in [`crate::kernels::cooccurrence`]; here
//! documents are read, once to find the features with enough documents, and once per block of rows to count pairs.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryLimit, MemoryReservation};
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::control::groups_of_columns;
use super::document_columns::{self, lacks_column};
use super::echoes::Echoes;
use super::examples::{EXAMPLE_ROWS, Example, Examples, examples_column, n_examples};
use super::pair_words::pair_words;
use super::places::{self, Nearness};
use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureSelection, Level};
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::{DocumentColumn, LabelEmbeddings, Said};
use crate::features::{FeatureId, FeaturesView, IdsView};
use crate::kernels::background::{Background, StratumCounts};
use crate::kernels::cooccurrence::{Documents, FeatureLists, PairCounts, block_bytes, blocks};
use crate::kernels::correlation::{Block, Direction, PairRow, RankBy, Ranking, default_min_docs};
use crate::kernels::counting::FeatureCounts;
use crate::kernels::findings::{Presence, told_before};
use crate::rows::{Columns, pair_columns};
use crate::scalar::conversation::messages;
use crate::table::exec::{Computation, ComputedTable, Request, blocking};
use crate::table::pairing::match_pairs;
use crate::table::topics::{Grouped, topics};

const NAME: &str = "correlate";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Table,
    syntax: "correlate(set [, option => value ...])",
    text: "Which features come together in documents more often than chance. One row per finding: `docs_both`, `npmi` \
           (normalised pointwise mutual information over all documents, -1 to 1), `p_a_given_b`, `p_b_given_a`, `p_value` \
           (one-sided; Fisher's exact test where an expected count is below 5, or below 20 far out in the tail, else by the \
           log-likelihood ratio), `q_value` (Benjamini-Hochberg over all pairs of features with enough documents), `llr` \
           (log-likelihood ratio G²), `docs_a`, `docs_b`, `n`, `expected` (documents that would have both if the features \
           were independent), `label_similarity` (cosine of the two labels by the reader; null if one is hidden, or if the \
           reader is not there), `same_place` (share of up to three documents in which both fire most strongly on the same or \
           on neighbouring tokens; looked up for the first 200 pairs of token features, in up to 60 documents in all), `n_members` (pairs among the first 500 that \
           tell the same, this one included) and `also_in_words` (two words, or pairs of neighbouring words, that are in the \
           documents of the two features, phi at least 0.5, and come together with at least 0.8 of the same `llr`; null if \
           there are none; looked up for the first 50 rows in up to 20,000 documents). Ranked by `llr` unless `rank_by` says \
           otherwise. Pairs that the same token fires (half of the five \
           strongest tokens are shared), and pairs whose `same_place` is 0.5 or more, are left out. With `control` or \
           `min_lift` p is by the log-likelihood ratio against what is expected within the strata, times the lift, or where few \
           are expected by the binomial tail. It is an approximation, as a rule too large, because it takes the strata for \
           known and leaves out that counts vary less within them; `'topic'` takes one of the smaller of five expectations, \
           which makes it smaller again.",
    arguments: &[
        ("set", "corpus, corpus with a filter, or query"),
        (
            "with, paired_by",
            "correlate across two sets instead: feature_a of a document of `set` with feature_b of its partner \
                             in the set `with`, which has the same value in column `paired_by` (prompt and response)",
        ),
        (
            "unexpected",
            "keep pairs whose labels are less alike than this (cosine by the reader, -1 to 1), and that topics do not \
                        explain: `control` is then `'topic'` and `min_lift` 2 unless they are given; default: all pairs",
        ),
        (
            "control",
            "a column to hold constant, such as `n_tokens`, or several: `['n_tokens', 'model']`. What is expected is summed over \
                     strata in which they are the same, so that what they explain is no finding (Mantel and Haenszel 1959): the \
                     values of texts and truth values, and ranges of numbers, dates and times (of 32 documents or more, at most \
                     200). Documents without a value are a stratum of their own. `'topic'`, which stands alone: up to 200 topics \
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
                  in the same documents (Jaccard at least 0.5); the strongest is shown; default true, for the first 500 pairs",
        ),
        ("echoes", "keep pairs that the same token, or neighbouring tokens, fire; default false"),
        (
            "include_hidden, dictionary, level",
            "which features; see `diff`. By default those of sentences (span), if the database has any, since the \
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

/// First rows of token features whose documents are read for where they fire.
const PLACED_ROWS: usize = 200;

/// Column of the words that show the same.
const WORDS: &str = "also_in_words";

/// Column of documents that show the pair.
const EXAMPLES: &str = "examples";

/// First rows for which words are looked up.
const WORDED_ROWS: usize = 50;

/// From this share of documents on, a pair stands at one place.
const SAME_PLACE_SHARE: f64 = 0.5;

/// What is not known of documents (their source, form, length) makes many pairs up to twice as frequent as their topics
/// explain; only a larger lift is unexpected.
const UNEXPECTED_LIFT: f64 = 2.0;

/// Pairs that are returned if the user says nothing.
const DEFAULT_LIMIT: usize = 1000;

/// Memory for the counts of a block where documents are read again for each; 8,000 features fit into one.
const BLOCK_BYTES: usize = 128 << 20;

/// Memory for the counts of a block where documents are held: its rows stay in the cache until they are ranked.
const HELD_BLOCK_BYTES: usize = 4 << 20;

/// Memory for documents that are held, if the query has as much; beyond it they are read again for each block.
const HELD_BYTES: usize = 1 << 30;

/// Documents that are counted at a time.
const BATCH_DOCUMENTS: usize = 16_384;

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
        write!(f, "{NAME}('{}'", self.set)?;
        if let Some((set, column)) = &self.across {
            write!(f, ", with => '{set}', paired_by => '{column}'")?;
        }
        match &self.control {
            Some(Control::Columns(columns)) => write!(f, ", control => ['{}']", columns.join("', '"))?,
            Some(Control::Topic) => f.write_str(", control => 'topic'")?,
            Some(Control::None) | None => {}
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

/// Documents that were read once and are kept. Of pairs the second documents' ids are shifted by the id bound.
#[derive(Debug)]
struct Held {
    lists: FeatureLists,
    memory: MemoryReservation,
}

impl Held {
    fn new(memory: MemoryReservation) -> Self {
        Self { lists: FeatureLists::default(), memory }
    }

    /// Keeps documents, if there is memory for them.
    fn push<'a>(&mut self, documents: impl Iterator<Item = &'a [FeatureId]> + Clone) -> Result<()> {
        let (n_present, n_docs) =
            documents.clone().fold((0, 0), |(present, docs), ids| (present + ids.len(), docs + 1));
        self.memory.try_grow(FeatureLists::bytes(n_present, n_docs))?;
        documents.for_each(|ids| self.lists.push(ids.iter().copied()));
        Ok(())
    }
}

/// Reads documents batch by batch: those of a set, or those that are held.
struct Reading<'a> {
    stream: Option<SendableRecordBatchStream>,
    held: Option<&'a Held>,
    at: usize,
}

impl Reading<'_> {
    /// Visits the next documents, `None` for one that was never encoded; false at the end.
    async fn next(&mut self, mut visit: impl FnMut(Option<&[FeatureId]>)) -> Result<bool> {
        if let Some(held) = self.held {
            let end = (self.at + BATCH_DOCUMENTS).min(held.lists.len());
            held.lists.range(self.at..end).for_each(|ids| visit(Some(ids)));
            let more = end > self.at;
            self.at = end;
            return Ok(more);
        }
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let Some(batch) = stream.try_next().await? else { return Ok(false) };
        let ids = IdsView::try_new(NAME, batch.column(0))?;
        (0..ids.len()).for_each(|row| visit((!ids.is_null(row)).then(|| ids.ids(row))));
        Ok(true)
    }
}

impl CorrelateCall {
    async fn read<'a>(&self, held: Option<&'a Held>) -> Result<Reading<'a>> {
        let stream = match held {
            Some(_) => None,
            None => Some(self.source.documents(&self.set, &[DocumentColumn::Ids]).await?),
        };
        Ok(Reading { stream, held, at: 0 })
    }

    /// Reads and keeps the pairs of a correlation across two sets.
    async fn hold(&self, id_bound: usize, request: &Request) -> Result<Option<Held>> {
        let Some((with, column)) = &self.across else { return Ok(None) };
        let mut held = Held::new(request.memory(NAME));
        let shift = id_bound as FeatureId;
        let mut pair = Vec::new();
        let visit = |a: &[FeatureId], b: &[FeatureId]| {
            // An id that no feature has would be taken for one of the other set.
            let known = |ids: &[FeatureId]| ids.partition_point(|id| *id < shift);
            pair.clear();
            pair.extend_from_slice(&a[..known(a)]);
            pair.extend(b[..known(b)].iter().map(|id| id + shift));
            held.push(std::iter::once(pair.as_slice()))
        };
        let sets = [self.set.clone(), with.clone()];
        match_pairs(NAME, &self.source, &sets, column, request, visit).await?;
        Ok(Some(held))
    }

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

    /// The features with enough documents, ascending, and what is expected of their pairs within strata. Documents are held,
    /// if there is memory for it.
    async fn eligible(
        &self,
        selected: &[bool],
        held: &mut Option<Held>,
        groupings: &[Grouped],
        memory: &MemoryReservation,
        request: &Request,
    ) -> Result<(Vec<FeatureId>, Option<Background>)> {
        let mut counts = FeatureCounts::new(selected.len());
        let n_strata = groupings.iter().map(|grouping| grouping.n).sum();
        memory.try_grow(StratumCounts::bytes(n_strata, selected.len()))?;
        let mut by_stratum: Vec<StratumCounts> =
            groupings.iter().map(|grouping| StratumCounts::new(grouping.n, selected.len())).collect();
        let (mut n_null, mut position) = (0u64, 0);
        let mut holding = held.is_none().then(|| Held::new(request.memory(NAME)));
        // Laid out they take half as much again, and the ranking needs its share.
        let most = match request.context.memory_pool().memory_limit() {
            MemoryLimit::Finite(limit) => self.held_bytes.min(limit / 4),
            _ => self.held_bytes,
        };
        let mut reading = self.read(held.as_ref()).await?;
        loop {
            let mut batch = FeatureLists::default();
            let visit = |ids: Option<&[FeatureId]>| {
                match ids {
                    Some(ids) => counts.update(ids),
                    None => n_null += 1,
                }
                for (counts, grouping) in by_stratum.iter_mut().zip(groupings) {
                    if let (Some(ids), Some(stratum)) = (ids, grouping.of.get(position)) {
                        counts.update(usize::from(*stratum), ids);
                    }
                }
                if let (Some(ids), Some(_)) = (ids, &holding) {
                    batch.push(ids.iter().copied());
                }
                position += 1;
            };
            if !reading.next(visit).await? {
                break;
            }
            holding = holding.and_then(|mut holding| {
                let pushed = holding.push(batch.range(0..batch.len()));
                (pushed.is_ok() && holding.memory.size() <= most).then_some(holding)
            });
        }
        if holding.is_some() {
            *held = holding;
        }
        if counts.n_docs == 0 {
            return match n_null {
                0 => exec_err!("{NAME}: set '{}' has no documents", self.set),
                n => exec_err!("{NAME}: none of the {n} documents of set '{}' has features", self.set),
            };
        }
        let min_docs = self.min_docs.map_or_else(|| default_min_docs(counts.n_docs), |min_docs| min_docs as u64).max(1);
        let enough = |(id, selected): &(FeatureId, &bool)| **selected && counts.docs(*id) >= min_docs;
        let features: Vec<FeatureId> = (0..).zip(selected).filter(enough).map(|(id, _)| id).collect();
        memory.try_grow(Background::bytes(n_strata, features.len()))?;
        let backgrounds: Vec<Background> = by_stratum.iter().map(|counts| counts.background(&features)).collect();
        let background = (!backgrounds.is_empty()).then(|| Background::join(backgrounds));
        Ok((features, background))
    }

    /// Documents laid out for counting; `None` if they are not held, or if there is no memory for it.
    async fn lay_out(
        &self,
        held: &mut Option<Held>,
        position_of: &Arc<Vec<u32>>,
        n_features: usize,
        memory: &MemoryReservation,
    ) -> Result<Option<Documents>> {
        let Some(documents) = held.take() else { return Ok(None) };
        let (n_present, n_docs) = (documents.lists.n_present(), documents.lists.len());
        if n_present + n_docs > Documents::MOST
            || memory.try_grow(Documents::bytes(n_present, n_docs, n_features)).is_err()
        {
            *held = Some(documents);
            return Ok(None);
        }
        let position_of = Arc::clone(position_of);
        let (documents, laid) = blocking(NAME, move |_| {
            let laid = documents.lists.documents(&position_of, n_features);
            Ok((documents, laid))
        })
        .await?;
        *held = Some(documents);
        Ok(Some(laid))
    }

    /// Counts a block by reading the documents.
    async fn count_block(
        &self,
        held: Option<&Held>,
        n_features: usize,
        block: std::ops::Range<usize>,
        position_of: &Arc<Vec<u32>>,
    ) -> Result<PairCounts> {
        let mut counts = PairCounts::new(n_features, block);
        let mut lists = FeatureLists::default();
        let mut reading = self.read(held).await?;
        loop {
            let more = reading.next(|ids| ids.into_iter().for_each(|ids| lists.push(ids.iter().copied()))).await?;
            if lists.len() >= BATCH_DOCUMENTS || !more {
                let (full, position_of) = (std::mem::take(&mut lists), Arc::clone(position_of));
                counts = blocking(NAME, move |_| {
                    counts.update(&full.documents(&position_of, n_features));
                    Ok(counts)
                })
                .await?;
            }
            if !more {
                return Ok(counts);
            }
        }
    }

    async fn pairs(
        &self,
        catalog: &Arc<FeatureCatalog>,
        similarity: Option<&Arc<LabelSimilarity>>,
        limit: usize,
        request: &Request,
    ) -> Result<Ranked> {
        let mut selected = catalog.select(NAME, &self.selection)?;
        let id_bound = selected.len();
        let mut held = self.hold(id_bound, request).await?;
        let is_across = held.is_some();
        if is_across {
            selected.extend_from_within(..);
        }
        let groupings = self.strata(request).await?;
        let background_memory = request.memory(NAME);
        let (shifted, background) =
            self.eligible(&selected, &mut held, &groupings, &background_memory, request).await?;
        let background = background.map(Arc::new);
        let mut position_of = vec![u32::MAX; selected.len()];
        for (position, id) in (0..).zip(&shifted) {
            position_of[*id as usize] = position;
        }
        let position_of = Arc::new(position_of);
        let split = is_across.then(|| shifted.partition_point(|id| (*id as usize) < id_bound));
        let features: Arc<Vec<FeatureId>> =
            Arc::new(shifted.iter().map(|id| id % id_bound.max(1) as FeatureId).collect());
        let echoes = Arc::new(if self.echoes { Echoes::default() } else { Echoes::new(catalog, &features) });
        let mut ranking = Ranking::new(self.direction, self.rank_by, limit, self.min_both);
        let (memory, laid_memory) = (request.memory(NAME), request.memory(NAME));
        let laid = self.lay_out(&mut held, &position_of, features.len(), &laid_memory).await?.map(Arc::new);
        let n_docs = laid.as_ref().map_or(u32::MAX as usize, |laid| laid.len());
        let n_pairs = features.len() * features.len().saturating_sub(1) / 2;
        let most = if laid.is_some() { HELD_BLOCK_BYTES.min(self.block_bytes) } else { self.block_bytes };
        for block in blocks(features.len(), most) {
            memory.try_resize(Ranking::bytes(limit, n_pairs, n_docs) + block_bytes(features.len(), &block))?;
            let read = match laid {
                Some(_) => None,
                None => Some(self.count_block(held.as_ref(), features.len(), block.clone(), &position_of).await?),
            };
            let (features, echoes, similarity) = (Arc::clone(&features), Arc::clone(&echoes), similarity.cloned());
            let (background, laid) = (background.clone(), laid.clone());
            let min_lift = self.min_lift();
            let least_alike = self.unexpected.unwrap_or(f64::INFINITY);
            ranking = blocking(NAME, move |cancellation| {
                let features = features.as_slice();
                let mut counts = read.unwrap_or_else(|| PairCounts::new(features.len(), block));
                if let Some(laid) = laid {
                    counts.update(&laid);
                }
                let block = Block { counts: &counts, features, split, background: background.as_deref(), min_lift };
                ranking.scan(block, cancellation, |a, b| {
                    let alike = similarity.as_ref().and_then(|similarity| similarity.between(a, b));
                    !echoes.contains(a, b) && alike.is_none_or(|alike| alike < least_alike)
                });
                Ok(ranking)
            })
            .await?;
        }
        drop((laid, laid_memory));
        let rows = blocking(NAME, move |_| Ok(ranking.finish())).await?;
        Ok(Ranked { rows, held, id_shift: if is_across { id_bound as FeatureId } else { 0 } })
    }

    /// Which documents have the features of some pairs, and the positions of these features.
    async fn presence(
        &self,
        ranked: &Ranked,
        n_rows: usize,
        memory: &MemoryReservation,
    ) -> Result<(Presence, Vec<(usize, usize)>)> {
        let of_row = |row: &PairRow| (row.features.0, row.features.1 + ranked.id_shift);
        let rows = &ranked.rows[..n_rows];
        let mut ids: Vec<FeatureId> = rows.iter().map(of_row).flat_map(|(a, b)| [a, b]).collect();
        ids.sort_unstable();
        ids.dedup();
        let position = |id: FeatureId| ids.binary_search(&id).ok();
        let n_docs = rows.first().map_or(0, |row| row.n as usize);
        // Beside the features, each pair has bits of its own while pairs are compared.
        memory.try_grow(Presence::bytes(ids.len() + n_rows, n_docs))?;
        let mut presence = Presence::new(ids.len(), n_docs);
        let mut document = 0;
        let mut reading = self.read(ranked.held.as_ref()).await?;
        let mut visit = |found: Option<&[FeatureId]>| {
            let Some(found) = found else { return };
            found.iter().filter_map(|id| position(*id)).for_each(|feature| presence.add(feature, document));
            document += 1;
        };
        while reading.next(&mut visit).await? {}
        let pairs = rows.iter().map(of_row).filter_map(|(a, b)| position(a).zip(position(b))).collect();
        Ok((presence, pairs))
    }

    /// The rows as findings: each told once, and those that stand at one place left out.
    async fn findings(
        &self,
        mut ranked: Ranked,
        catalog: &FeatureCatalog,
        limit: usize,
        request: &Request,
    ) -> Result<Vec<Finding>> {
        let looks = self.across.is_none() && (!self.echoes || self.wants(request, SAME_PLACE));
        let n_rows = ranked.rows.len().min(FOLDED_ROWS);
        let mut findings: Vec<Finding> = Vec::new();
        if n_rows > 0 && (self.fold || looks) {
            let memory = request.memory(NAME);
            let (presence, pairs) = self.presence(&ranked, n_rows, &memory).await?;
            findings = ranked.rows.drain(..n_rows).map(Finding::new).collect();
            let mut pairs = pairs;
            if looks {
                let is_token = |id: FeatureId| catalog.level(id) == Some(Level::Token);
                let of_tokens = |row: &usize| {
                    let features = findings[*row].row.features;
                    is_token(features.0) && is_token(features.1)
                };
                let rows: Vec<usize> = (0..n_rows).filter(of_tokens).take(PLACED_ROWS).collect();
                let features: Vec<_> = rows.iter().map(|row| findings[*row].row.features).collect();
                let positions: Vec<_> = rows.iter().map(|row| pairs[*row]).collect();
                let shares = self.same_place(&features, &positions, &presence).await?;
                rows.into_iter().zip(shares).for_each(|(row, share)| findings[row].same_place = share);
                if !self.echoes {
                    let apart = |finding: &Finding| finding.same_place.is_none_or(|share| share < SAME_PLACE_SHARE);
                    pairs = pairs.into_iter().zip(&findings).filter(|(_, x)| apart(x)).map(|(pair, _)| pair).collect();
                    findings.retain(apart);
                }
            }
            if self.fold {
                let told = blocking(NAME, move |_| Ok(told_before(&pairs, &presence))).await?;
                let mut place_of = vec![0; findings.len()];
                let mut folded: Vec<Finding> = Vec::new();
                for (rank, (finding, above)) in findings.into_iter().zip(told).enumerate() {
                    match above {
                        Some(above) => folded[place_of[above]].n_members += 1,
                        None => {
                            place_of[rank] = folded.len();
                            folded.push(finding);
                        }
                    }
                }
                findings = folded;
            }
        }
        findings.extend(ranked.rows.into_iter().map(Finding::new));
        findings.truncate(limit);
        Ok(findings)
    }

    /// For the first rows, the pair of words that shows the same.
    async fn words(&self, findings: &[Finding], request: &Request) -> Result<Vec<Option<String>>> {
        let Some(first) = findings.first().filter(|_| self.across.is_none() && self.wants(request, WORDS)) else {
            return Ok(Vec::new());
        };
        let pairs = findings.iter().take(WORDED_ROWS).map(|finding| finding.row.features).collect();
        pair_words(NAME, &self.source, &self.set, pairs, first.row.n).await
    }

    /// For the first rows, documents that show both features; nothing where the set has no ids or texts.
    async fn examples(
        &self,
        findings: &[Finding],
        catalog: &FeatureCatalog,
        request: &Request,
    ) -> Result<Vec<Option<Vec<Example>>>> {
        if self.examples == 0 || findings.is_empty() || !self.wants(request, EXAMPLES) {
            return Ok(Vec::new());
        }
        let features = |finding: &Finding| vec![finding.row.features.0, finding.row.features.1];
        let pairs = findings.iter().take(EXAMPLE_ROWS).map(features).collect();
        let mut found = Examples::new(catalog, pairs, self.examples);
        let mut stream =
            match self.source.documents(&self.set, &[DocumentColumn::Features, DocumentColumn::DocId]).await {
                Err(error) if lacks_column(&error) => return Ok(Vec::new()),
                stream => stream?,
            };
        while let Some(batch) = stream.try_next().await? {
            let features = FeaturesView::try_new(NAME, batch.column(0))?;
            let doc_ids = document_columns::texts(NAME, "doc_id", batch.column(1))?;
            for row in (0..batch.num_rows()).filter(|row| doc_ids.is_valid(*row)) {
                found.update(0, doc_ids.value(row), features.ids(row), features.activations(row));
            }
        }
        found.read(NAME, &self.source, std::slice::from_ref(&self.set), request).await
    }

    /// In which share of some documents each pair's features fire at the same place; `None` where nothing can be read.
    async fn same_place(
        &self,
        features: &[(FeatureId, FeatureId)],
        pairs: &[(usize, usize)],
        presence: &Presence,
    ) -> Result<Vec<Option<f64>>> {
        let mut chosen = places::choose(pairs, presence).into_iter().peekable();
        let mut texts: Vec<(String, Vec<Said>, Vec<usize>)> = Vec::new();
        if chosen.peek().is_some() {
            let columns = [DocumentColumn::Ids, DocumentColumn::Text, DocumentColumn::Conversation];
            let mut stream = match self.source.documents(&self.set, &columns).await {
                Ok(stream) => stream,
                Err(error) if lacks_column(&error) => return Ok(vec![None; pairs.len()]),
                Err(error) => return Err(error),
            };
            let mut document = 0;
            while chosen.peek().is_some()
                && let Some(batch) = stream.try_next().await?
            {
                let ids = IdsView::try_new(NAME, batch.column(0))?;
                let column = document_columns::texts(NAME, "text", batch.column(1))?;
                for row in (0..ids.len()).filter(|row| !ids.is_null(*row)) {
                    if let Some((_, pairs)) = chosen.next_if(|(wanted, _)| *wanted == document)
                        && column.is_valid(row)
                        && places::is_short(column.value(row))
                    {
                        texts.push((column.value(row).to_owned(), messages(batch.column(2), row), pairs));
                    }
                    document += 1;
                }
            }
        }
        let (source, features) = (Arc::clone(&self.source), features.to_vec());
        let looked = blocking(NAME, move |cancellation| {
            let mut nearness = Nearness::new(features.len());
            for (text, said, pairs) in texts {
                if cancellation.is_cancelled() {
                    break;
                }
                let looked_at: Vec<FeatureId> =
                    pairs.iter().flat_map(|&pair| [features[pair].0, features[pair].1]).collect();
                let tokens = source.token_features(&text, &said, &looked_at)?;
                for pair in pairs {
                    let (a, b) = features[pair];
                    if let Some(is_near) = places::is_near(&tokens, a, b) {
                        nearness.add(pair, is_near);
                    }
                }
            }
            Ok((0..features.len()).map(|pair| nearness.share(pair)).collect())
        });
        // Without the reader nothing can be looked at; the pairs are found all the same.
        Ok(looked.await.unwrap_or_else(|_| vec![None; pairs.len()]))
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

/// Pairs as they were ranked.
struct Ranked {
    rows: Vec<PairRow>,
    held: Option<Held>,
    /// What was added to ids of the second of two sets.
    id_shift: FeatureId,
}

/// A pair with what was found out about it.
#[derive(Debug)]
struct Finding {
    row: PairRow,
    /// Pairs that tell the same, this one included.
    n_members: u64,
    same_place: Option<f64>,
}

impl Finding {
    fn new(row: PairRow) -> Self {
        Self { row, n_members: 1, same_place: None }
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
