//! `correlate(set, ...)`: which features come together in documents more often than chance.
//!
//! The statistics are in [`crate::kernels::correlation`], the counting in [`crate::kernels::cooccurrence`]; here
//! documents are read, once to find the features with enough documents, and once per block of rows to count pairs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::document_columns::{self, lacks_column};
use super::echoes::Echoes;
use super::pair_words::pair_words;
use super::places::{self, Nearness};
use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureSelection, Level};
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::{DocumentColumn, LabelEmbeddings};
use crate::features::{FeatureId, IdsView};
use crate::kernels::background::{Background, StratumCounts};
use crate::kernels::cooccurrence::{Documents, PairCounts, block_bytes, blocks};
use crate::kernels::correlation::{Block, Direction, PairRow, Ranking, default_min_docs};
use crate::kernels::counting::FeatureCounts;
use crate::kernels::findings::{Presence, told_before};
use crate::rows::{Columns, pair_columns};
use crate::table::exec::{Computation, ComputedTable, Request, blocking};
use crate::table::pairing::match_pairs;
use crate::table::topics::{Topics, topics};

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
           there are none; looked up for the first 50 rows in up to 20,000 documents). Ranked by `llr`. Pairs that the same token fires (half of the five \
           strongest tokens are shared), and pairs whose `same_place` is 0.5 or more, are left out. With `control` and \
           `min_lift` the p value is an upper bound: by the log-likelihood ratio against what is expected within topics, times \
           the lift, or where few are expected by the binomial tail.",
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
            "`'topic'`: what is expected is summed over up to 200 topics (k-means of the stored embeddings, 25 documents \
                     each on the mean, or more), so that features of one topic are no finding (Mantel and Haenszel 1959); \
                     of five such groupings the one counts that expects least but one. `'none'`: over all documents. Default \
                     `'none'`, with `unexpected` `'topic'`",
        ),
        (
            "min_lift",
            "how many times as often as expected (or as seldom) a pair must be together; the null hypothesis is that it is \
                      not; default 1, with `unexpected` 2: what is not known of the documents makes many pairs up to twice as \
                      frequent",
        ),
        (
            "min_docs",
            "documents that must have a feature for its pairs to be tested; default 0.5 %, at least 5 (a \
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

/// First rows for which words are looked up.
const WORDED_ROWS: usize = 50;

/// From this share of documents on, a pair stands at one place.
const SAME_PLACE_SHARE: f64 = 0.5;

/// What is not known of documents (their source, form, length) makes many pairs up to twice as frequent as their topics
/// explain; only a larger lift is unexpected.
const UNEXPECTED_LIFT: f64 = 2.0;

/// Pairs that are returned if the user says nothing.
const DEFAULT_LIMIT: usize = 1000;

/// Memory for the counts of a block; 8,000 features fit into one.
const BLOCK_BYTES: usize = 128 << 20;

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
            control: match args.named("control") {
                control if !control.is_given() => None,
                control => match control.choice_or(&["topic", "none"], "none")? {
                    "topic" => Some(Control::Topic),
                    _ => Some(Control::None),
                },
            },
            min_lift: match args.named("min_lift") {
                min_lift if min_lift.is_given() => Some(min_lift.number_between(1.0, 1e6, 1.0)?),
                _ => None,
            },
            fold: args.named("fold").flag_or(true)?,
            selection: FeatureSelection::from_args_preferring(&mut args, Level::Span)?,
            limit: args.named("limit").count_or(DEFAULT_LIMIT)?,
            block_bytes: BLOCK_BYTES,
        };
        args.finish()?;
        if call.control == Some(Control::Topic) && call.across.is_some() {
            return plan_err!("{NAME}: 'control' holds topics within one set and cannot be used with 'with'");
        }
        call.source.catalog().select(NAME, &call.selection)?;
        Ok(ComputedTable::provider(call))
    }
}

/// What is held constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    None,
    Topic,
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
    limit: usize,
    block_bytes: usize,
}

impl fmt::Display for CorrelateCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}('{}'", self.set)?;
        if let Some((set, column)) = &self.across {
            write!(f, ", with => '{set}', paired_by => '{column}'")?;
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

/// Documents that were read once and are kept: pairs, whose second documents' ids are shifted by the id bound.
#[derive(Debug)]
struct Held {
    ids: Vec<FeatureId>,
    starts: Vec<usize>,
    _memory: MemoryReservation,
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
            let end = (self.at + BATCH_DOCUMENTS).min(held.starts.len() - 1);
            (self.at..end).for_each(|row| visit(Some(&held.ids[held.starts[row]..held.starts[row + 1]])));
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
        let memory = request.memory(NAME);
        let (mut ids, mut starts) = (Vec::new(), vec![0]);
        let shift = id_bound as FeatureId;
        let visit = |a: &[FeatureId], b: &[FeatureId]| {
            memory.try_grow((a.len() + b.len()) * size_of::<FeatureId>() + size_of::<usize>())?;
            // An id that no feature has would be taken for one of the other set.
            let known = |ids: &[FeatureId]| ids.partition_point(|id| *id < shift);
            ids.extend_from_slice(&a[..known(a)]);
            ids.extend(b[..known(b)].iter().map(|id| id + shift));
            starts.push(ids.len());
            Ok(())
        };
        let sets = [self.set.clone(), with.clone()];
        match_pairs(NAME, &self.source, &sets, column, request, visit).await?;
        Ok(Some(Held { ids, starts, _memory: memory }))
    }

    /// The lift that must be exceeded: what the user says, and 2 where the unexpected is looked for.
    fn min_lift(&self) -> f64 {
        self.min_lift.unwrap_or(if self.unexpected.is_some() { UNEXPECTED_LIFT } else { 1.0 })
    }

    /// What is held constant: what the user says, and topics where the unexpected is looked for and embeddings are there.
    async fn topics(&self, request: &Request) -> Result<Vec<Topics>> {
        let control = match (self.control, self.unexpected, &self.across) {
            (Some(control), ..) => control,
            (None, Some(_), None) => Control::Topic,
            _ => Control::None,
        };
        if control == Control::None {
            return Ok(Vec::new());
        }
        match topics(NAME, &self.source, &self.set, request).await {
            Err(error) if self.control.is_none() && lacks_column(&error) => Ok(Vec::new()),
            found => found,
        }
    }

    /// The features with enough documents, ascending, and what is expected of their pairs within topics.
    async fn eligible(
        &self,
        selected: &[bool],
        held: Option<&Held>,
        topics: &[Topics],
        memory: &MemoryReservation,
    ) -> Result<(Vec<FeatureId>, Option<Background>)> {
        let mut counts = FeatureCounts::new(selected.len());
        let n_topics = topics.iter().map(|topics| topics.n).sum();
        memory.try_grow(StratumCounts::bytes(n_topics, selected.len()))?;
        let mut by_topic: Vec<StratumCounts> =
            topics.iter().map(|topics| StratumCounts::new(topics.n, selected.len())).collect();
        let (mut n_null, mut position) = (0u64, 0);
        let mut reading = self.read(held).await?;
        let mut visit = |ids: Option<&[FeatureId]>| {
            match ids {
                Some(ids) => counts.update(ids),
                None => n_null += 1,
            }
            for (counts, topics) in by_topic.iter_mut().zip(topics) {
                if let (Some(ids), Some(topic)) = (ids, topics.of.get(position)) {
                    counts.update(usize::from(*topic), ids);
                }
            }
            position += 1;
        };
        while reading.next(&mut visit).await? {}
        if counts.n_docs == 0 {
            return match n_null {
                0 => exec_err!("{NAME}: set '{}' has no documents", self.set),
                n => exec_err!("{NAME}: none of the {n} documents of set '{}' has features", self.set),
            };
        }
        let min_docs = self.min_docs.map_or_else(|| default_min_docs(counts.n_docs), |min_docs| min_docs as u64).max(1);
        let enough = |(id, selected): &(FeatureId, &bool)| **selected && counts.docs(*id) >= min_docs;
        let features: Vec<FeatureId> = (0..).zip(selected).filter(enough).map(|(id, _)| id).collect();
        memory.try_grow(Background::bytes(n_topics, features.len()))?;
        let backgrounds: Vec<Background> = by_topic.iter().map(|counts| counts.background(&features)).collect();
        let background = (!backgrounds.is_empty()).then(|| Background::join(backgrounds));
        Ok((features, background))
    }

    async fn count_block(
        &self,
        held: Option<&Held>,
        n_features: usize,
        block: std::ops::Range<usize>,
        position_of: &[u32],
    ) -> Result<PairCounts> {
        let mut counts = PairCounts::new(n_features, block);
        let mut documents = Documents::default();
        let mut reading = self.read(held).await?;
        loop {
            let more = reading.next(|ids| ids.into_iter().for_each(|ids| documents.push(ids, position_of))).await?;
            if documents.len() >= BATCH_DOCUMENTS || !more {
                let full = std::mem::take(&mut documents);
                counts = blocking(NAME, move |_| {
                    counts.update(&full);
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
        let held = self.hold(id_bound, request).await?;
        if held.is_some() {
            selected.extend_from_within(..);
        }
        let topics = self.topics(request).await?;
        let background_memory = request.memory(NAME);
        let (shifted, background) = self.eligible(&selected, held.as_ref(), &topics, &background_memory).await?;
        let background = background.map(Arc::new);
        let mut position_of = vec![u32::MAX; selected.len()];
        for (position, id) in (0..).zip(&shifted) {
            position_of[*id as usize] = position;
        }
        let split = held.as_ref().map(|_| shifted.partition_point(|id| (*id as usize) < id_bound));
        let features: Arc<Vec<FeatureId>> =
            Arc::new(shifted.iter().map(|id| id % id_bound.max(1) as FeatureId).collect());
        let echoes = Arc::new(if self.echoes { Echoes::default() } else { Echoes::new(catalog, &features) });
        let mut ranking = Ranking::new(self.direction, limit, self.min_both);
        let memory = request.memory(NAME);
        let n_pairs = features.len() * features.len().saturating_sub(1) / 2;
        for block in blocks(features.len(), self.block_bytes) {
            memory.try_resize(Ranking::bytes(limit, n_pairs) + block_bytes(features.len(), &block))?;
            let counts = self.count_block(held.as_ref(), features.len(), block, &position_of).await?;
            let (features, echoes, similarity) = (Arc::clone(&features), Arc::clone(&echoes), similarity.cloned());
            let background = background.clone();
            let min_lift = self.min_lift();
            let least_alike = self.unexpected.unwrap_or(f64::INFINITY);
            ranking = blocking(NAME, move |cancellation| {
                let (counts, features) = (&counts, features.as_slice());
                let block = Block { counts, features, split, background: background.as_deref(), min_lift };
                ranking.scan(block, cancellation, |a, b| {
                    let alike = similarity.as_ref().and_then(|similarity| similarity.between(a, b));
                    !echoes.contains(a, b) && alike.is_none_or(|alike| alike < least_alike)
                });
                Ok(ranking)
            })
            .await?;
        }
        let rows = blocking(NAME, move |_| Ok(ranking.finish())).await?;
        Ok(Ranked { rows, held, id_bound })
    }

    /// Which documents have the features of some pairs, and the positions of these features.
    async fn presence(
        &self,
        ranked: &Ranked,
        n_rows: usize,
        memory: &MemoryReservation,
    ) -> Result<(Presence, Vec<(usize, usize)>)> {
        let shift = if ranked.held.is_some() { ranked.id_bound as FeatureId } else { 0 };
        let of_row = |row: &PairRow| (row.features.0, row.features.1 + shift);
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

    /// In which share of some documents each pair's features fire at the same place; `None` where nothing can be read.
    async fn same_place(
        &self,
        features: &[(FeatureId, FeatureId)],
        pairs: &[(usize, usize)],
        presence: &Presence,
    ) -> Result<Vec<Option<f64>>> {
        let mut chosen = places::choose(pairs, presence).into_iter().peekable();
        let mut texts: Vec<(String, Vec<usize>)> = Vec::new();
        if chosen.peek().is_some() {
            let mut stream = match self.source.documents(&self.set, &[DocumentColumn::Ids, DocumentColumn::Text]).await
            {
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
                        texts.push((column.value(row).to_owned(), pairs));
                    }
                    document += 1;
                }
            }
        }
        let (source, features) = (Arc::clone(&self.source), features.to_vec());
        let looked = blocking(NAME, move |cancellation| {
            let mut nearness = Nearness::new(features.len());
            for (text, pairs) in texts {
                if cancellation.is_cancelled() {
                    break;
                }
                let tokens = source.token_features(&text)?;
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
    id_bound: usize,
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
    similarity: Option<&LabelSimilarity>,
) -> Columns {
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
    columns
}

#[async_trait]
impl Computation for CorrelateCall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> SchemaRef {
        columns(&FeatureCatalog::default(), Vec::new(), Vec::new(), None).schema()
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
        Ok(vec![columns(&catalog, findings, words, similarity.as_deref()).into_batch()?])
    }
}

#[cfg(test)]
mod tests {
    use datafusion::error::DataFusionError;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;
    use crate::MemorySource;
    use crate::test_support::{answers, cells, error};

    /// 200 documents: "tea" and "milk" mostly together, "sugar" by chance, "teas" an echo of "tea", "war" never with tea.
    fn drinks() -> MemorySource {
        let features: &[(&str, &[&str])] = &[
            ("tea", &["tea"]),
            ("milk", &["milk"]),
            ("sugar", &["sugar"]),
            ("teas", &["teas"]),
            ("war", &["war"]),
            ("milk jug", &["jug"]),
        ];
        let source = MemorySource::with_words(features, vec![]);
        let texts: Vec<String> = (0..200)
            .map(|row| {
                let mut text = String::from("a");
                if row % 4 == 0 {
                    text.push_str(" tea teas")
                }
                if row % 4 == 0 && row % 40 != 0 || row % 50 == 1 {
                    text.push_str(" milk jug")
                }
                if row % 5 == 0 {
                    text.push_str(" sugar")
                }
                if row % 4 == 2 {
                    text.push_str(" war")
                }
                text
            })
            .collect();
        source.put_texts("notes", &texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>(), vec![]).unwrap();
        source
    }

    #[tokio::test]
    async fn finds_pairs_and_drops_echoes() {
        let source = drinks();
        let columns = "label_a, label_b, docs_both, docs_a, docs_b, n, q_value < 0.001";
        let rows =
            cells(&source, format!("SELECT {columns} FROM correlate('notes') WHERE q_value < 0.05")).await.unwrap();
        assert_eq!(rows, [["tea", "milk", "45", "50", "49", "200", "true"]], "the others are echoes or tell the same");
        let told = "SELECT n_members, same_place, also_in_words, round(expected, 2) FROM correlate('notes') LIMIT 1";
        assert_eq!(cells(&source, told).await.unwrap(), [["3", "0.0", "\"tea\" + \"milk\"", "12.25"]]);
        let near = "SELECT label_a, label_b, same_place FROM correlate('notes', named_argument('echoes', true), \
                    named_argument('fold', false)) ORDER BY label_a, label_b LIMIT 2";
        assert_eq!(cells(&source, near).await.unwrap(), [["milk", "milk jug", "1.0"], ["milk", "teas", "1.0"]]);
        let with = "SELECT label_b FROM correlate('notes', named_argument('echoes', true)) LIMIT 1";
        assert_eq!(cells(&source, with).await.unwrap(), [["teas"]]);
    }

    #[tokio::test]
    async fn keeps_the_unexpected_if_asked() {
        let source = drinks();
        let sql = "SELECT label_a, label_b, label_similarity FROM correlate('notes', named_argument('unexpected', 0.5), \
                   named_argument('control', 'none'), named_argument('limit', 1))";
        assert_eq!(cells(&source, sql).await.unwrap(), [["tea", "milk", "0.0"]]);
        let sql = "SELECT label_b, label_similarity FROM correlate('notes') LIMIT 1";
        assert_eq!(cells(&source, sql).await.unwrap(), [["milk", "0.0"]]);
        let sql = "SELECT min(docs_both) FROM correlate('notes', named_argument('min_both', 49), \
                   named_argument('echoes', true), named_argument('fold', false))";
        assert_eq!(cells(&source, sql).await.unwrap(), [["49"]]);
    }

    #[tokio::test]
    async fn negative_associations_and_support() {
        let source = drinks();
        let sql =
            "SELECT label_a, label_b, npmi FROM correlate('notes', named_argument('direction', 'negative')) LIMIT 1";
        assert_eq!(cells(&source, sql).await.unwrap(), [["tea", "war", "-1.0"]]);
        let sql = "SELECT label_a, label_b FROM correlate('notes', named_argument('min_docs', 50))";
        assert_eq!(cells(&source, sql).await.unwrap(), [] as [[&str; 2]; 0], "only echoes and rivals have so many");
        let sql = "SELECT count(*) FROM correlate('answers', named_argument('level', 'span'))";
        assert_eq!(cells(&answers(), sql).await.unwrap(), [["0"]]);
        let message = error(&source, "SELECT * FROM correlate('notes WHERE false')").await;
        assert!(message.contains("correlate: set 'notes WHERE false' has no documents"), "{message}");
        let message = error(&source, "SELECT * FROM correlate('notes', named_argument('direction', 'postive'))").await;
        assert!(message.contains("'direction' cannot be 'postive'; did you mean 'positive'?"), "{message}");
    }

    #[tokio::test]
    async fn correlates_prompts_with_responses() {
        let features: &[(&str, &[&str])] = &[("code", &["python"]), ("list", &["first"]), ("poem", &["rose"])];
        let source = MemorySource::with_words(features, vec![]);
        let keys: arrow::array::ArrayRef = Arc::new((0..60).collect::<arrow::array::Int64Array>());
        let prompts: Vec<Option<&str>> =
            (0..60).map(|row| Some(if row % 3 == 0 { "python" } else { "rose" })).collect();
        let responses: Vec<Option<&str>> =
            (0..60).map(|row| Some(if row % 3 == 0 { "first python" } else { "so" })).collect();
        source.put_texts("prompts", &prompts, vec![("id", Arc::clone(&keys))]).unwrap();
        source.put_texts("responses", &responses, vec![("id", keys)]).unwrap();
        let call = |more: &str| {
            format!(
                "SELECT label_a, label_b, docs_both, docs_a, docs_b, n FROM correlate('prompts', named_argument('with', \
                 'responses WHERE id > 2'), named_argument('paired_by', 'id'){more})"
            )
        };
        let rows = cells(&source, call("")).await.unwrap();
        assert_eq!(rows, [["code", "list", "19", "19", "19", "57"]], "code with code is an echo");
        let rows =
            cells(&source, call(", named_argument('echoes', true), named_argument('fold', false)")).await.unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0], ["code", "code", "19", "19", "19", "57"]);
        // Ids that no feature has are passed over.
        let strangers = "SELECT id, named_struct(''ids'', arrow_cast([0, 3, 4, 9], ''List(UInt32)''), ''activations'', \
                         arrow_cast([1, 1, 1, 1], ''List(Float16)'')) AS features FROM prompts";
        let sql = format!(
            "SELECT label_a, label_b, docs_a FROM correlate('{strangers}', named_argument('with', 'responses'), \
             named_argument('paired_by', 'id'), named_argument('direction', 'both'))"
        );
        assert_eq!(cells(&source, sql).await.unwrap(), [["code", "list", "60"]]);
        let message = error(&source, "SELECT * FROM correlate('prompts', named_argument('with', 'responses'))").await;
        assert!(message.contains("correlate: 'with' needs 'paired_by'"), "{message}");
    }

    #[tokio::test]
    async fn the_ranking_is_taken_from_the_memory_of_the_query() {
        let words: Vec<String> = (0..500).map(|i| format!("w{i}")).collect();
        let lists: Vec<[&str; 1]> = words.iter().map(|word| [word.as_str()]).collect();
        let features: Vec<(&str, &[&str])> =
            words.iter().map(String::as_str).zip(lists.iter().map(|l| &l[..])).collect();
        let source = MemorySource::with_words(&features, vec![]);
        source.put_texts("notes", &[Some(words.join(" ").as_str())], vec![]).unwrap();
        let with_limit = async |limit: usize| {
            let runtime = RuntimeEnvBuilder::new().with_memory_limit(6 << 20, 1.0).build_arc().unwrap();
            let session = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
            crate::register_all(&session, &(Arc::new(source.clone()) as SharedSource)).unwrap();
            let sql = format!(
                "SELECT docs_both FROM correlate('notes', named_argument('min_docs', 1), \
                 named_argument('direction', 'both'), named_argument('echoes', true), named_argument('fold', false), \
                 named_argument('limit', {limit}))"
            );
            session.sql(&sql).await.unwrap().collect().await
        };
        assert_eq!(with_limit(1000).await.unwrap()[0].num_rows(), 1000);
        let error = with_limit(100_000_000).await.unwrap_err();
        assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
    }

    #[tokio::test]
    async fn topics_explain_their_pairs() {
        // Embeddings are a topic and noise. "oven" and "flour" belong to one topic, by chance within it; "pirate" and
        // "hola" are together in a few documents of both.
        let features: &[(&str, &[&str])] =
            &[("oven", &["oven"]), ("flour", &["flour"]), ("pirate", &["pirate"]), ("hola", &["hola"])];
        let source = MemorySource::with_words(features, vec![]);
        let mut random = crate::kernels::random::Random::new(1, 0);
        let mut features = crate::features::FeaturesBuilder::default();
        let mut embeddings = Vec::new();
        for row in 0..800 {
            let topic = row % 2;
            let has =
                [topic == 0 && row / 2 % 2 == 0, topic == 0 && row / 4 % 2 == 0, row / 8 % 10 == 0, row / 8 % 10 == 0];
            features.append((0..).zip(has).filter(|(_, has)| *has).map(|(id, _)| (id, 1.0)));
            let mut embedding = [[4.0, 0.0], [0.0, 4.0]][topic].to_vec();
            embedding.extend((0..6).map(|_| random.normal()));
            embeddings.extend(embedding.into_iter().map(half::f16::from_f64));
        }
        let item = Arc::new(arrow::datatypes::Field::new("item", arrow::datatypes::DataType::Float16, true));
        let values = Arc::new(arrow::array::Float16Array::from(embeddings));
        let embeddings = arrow::array::FixedSizeListArray::try_new(item, 8, values, None).unwrap();
        let ids: Vec<String> = (0..800).map(|row| format!("d{row}")).collect();
        let columns: Vec<(&str, arrow::array::ArrayRef)> = vec![
            ("doc_id", Arc::new(StringArray::from(ids))),
            ("features", Arc::new(features.finish())),
            ("embedding", Arc::new(embeddings)),
        ];
        source.put_batches("notes", vec![RecordBatch::try_from_iter(columns).unwrap()]).unwrap();
        let found = async |options: &str| {
            let sql = format!("SELECT label_a, label_b FROM correlate('notes'{options}) WHERE q_value < 0.05");
            cells(&source, sql).await.unwrap()
        };
        assert_eq!(found("").await, [["pirate", "hola"], ["oven", "flour"]]);
        for option in ["control', 'topic'", "unexpected', 1"] {
            let within = found(&format!(", named_argument('{option})")).await;
            assert!(within[0] == ["pirate", "hola"] && !within.contains(&vec!["oven".into(), "flour".into()]));
        }
        let message = error(
            &source,
            "SELECT * FROM correlate('notes', named_argument('control', 'topic'), named_argument('with', 'notes'), \
             named_argument('paired_by', 'doc_id'))",
        );
        assert!(message.await.contains("correlate: 'control' holds topics within one set"));
        let message = error(&source, "SELECT * FROM correlate('notes', named_argument('min_lift', 0.5))").await;
        assert!(message.contains("'min_lift'"), "{message}");
    }

    /// All pairs of 16,384 features over 100,000 documents of 160 features, with 512 MB for the query.
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "takes minutes; says how many with: cargo test -p saequel-udfs --lib all_pairs -- --ignored --nocapture"]
    async fn all_pairs_of_a_large_dictionary_fit_into_memory() {
        const N_FEATURES: usize = 16_384;
        const N_DOCS: usize = 100_000;
        let labels: Vec<String> = (0..N_FEATURES).map(|id| format!("f{id}")).collect();
        let lists: Vec<[&str; 1]> = labels.iter().map(|label| [label.as_str()]).collect();
        let features: Vec<(&str, &[&str])> =
            labels.iter().map(String::as_str).zip(lists.iter().map(|list| &list[..])).collect();
        let source = MemorySource::with_words(&features, vec![]);
        let mut random = crate::kernels::random::Random::new(1, 0);
        let mut batches = Vec::new();
        for start in (0..N_DOCS).step_by(10_000) {
            let mut features = crate::features::FeaturesBuilder::default();
            for row in start..start + 10_000 {
                let mut ids: Vec<u32> =
                    (0..160).map(|_| (random.unit().powf(1.5) * N_FEATURES as f64) as u32).collect();
                // One pair that is together in 1 % of the documents.
                if row % 100 == 0 {
                    ids.extend([5_000, 11_000]);
                }
                ids.sort_unstable();
                ids.dedup();
                features.append(ids.into_iter().map(|id| (id, 1.0)));
            }
            let ids: Vec<String> = (start..start + 10_000).map(|row| format!("d{row}")).collect();
            let columns: Vec<(&str, arrow::array::ArrayRef)> =
                vec![("doc_id", Arc::new(StringArray::from(ids))), ("features", Arc::new(features.finish()))];
            batches.push(RecordBatch::try_from_iter(columns).unwrap());
        }
        source.put_batches("large", batches).unwrap();
        let peak = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown").to_owned()
        };
        let before = peak();
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(512 << 20, 1.0).build_arc().unwrap();
        let session = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(1), runtime);
        crate::register_all(&session, &(Arc::new(source) as SharedSource)).unwrap();
        let started = std::time::Instant::now();
        let sql = "SELECT feature_a, feature_b, docs_both FROM correlate('large', named_argument('min_docs', 1)) \
                   WHERE q_value < 0.01";
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        let found = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        eprintln!("{:.0} s, {before} before, {} after\n{found}", started.elapsed().as_secs_f64(), peak());
        assert!(found.contains("| 5000      | 11000     |"), "{found}");
    }

    #[tokio::test]
    async fn blocks_of_rows_give_the_same() {
        let source: SharedSource = Arc::new(drinks());
        let call = |block_bytes| CorrelateCall {
            source: Arc::clone(&source),
            set: "notes".to_string(),
            across: None,
            min_docs: None,
            min_both: 0,
            direction: Direction::Both,
            echoes: true,
            unexpected: None,
            control: None,
            min_lift: None,
            fold: false,
            selection: FeatureSelection::default(),
            limit: 100,
            block_bytes,
        };
        let request = Request { projection: None, limit: None, context: Arc::default() };
        let whole = call(BLOCK_BYTES).run(request.clone()).await.unwrap();
        assert_eq!(whole[0].num_rows(), 15);
        assert_eq!(call(50).run(request).await.unwrap(), whole);
    }
}
