//! `correlate(set, ...)`: which features come together in documents more often than chance.
//!
//! The statistics are in [`crate::kernels::correlation`], the counting in [`crate::kernels::cooccurrence`]; here
//! documents are read, once to find the features with enough documents, and once per block of rows to count pairs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::echoes::Echoes;
use crate::SharedSource;
use crate::args::Arguments;
use crate::catalog::{FeatureCatalog, FeatureSelection, Level};
use crate::docs::{FunctionDoc, Kind};
use crate::feature_source::{DocumentColumn, LabelEmbeddings};
use crate::features::{FeatureId, IdsView};
use crate::kernels::cooccurrence::{Documents, PairCounts, block_bytes, blocks};
use crate::kernels::correlation::{Direction, PairRow, Ranking, default_min_docs};
use crate::kernels::counting::FeatureCounts;
use crate::rows::{Columns, pair_columns};
use crate::table::exec::{Computation, ComputedTable, Request, blocking};
use crate::table::pairing::match_pairs;

const NAME: &str = "correlate";

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: NAME,
    kind: Kind::Table,
    syntax: "correlate(set [, option => value ...])",
    text: "Which features come together in documents more often than chance. One row per pair: `docs_both`, `npmi` \
           (normalised pointwise mutual information, -1 to 1), `p_a_given_b`, `p_b_given_a`, `p_value` (one-sided; Fisher's \
           exact test where an expected count is below 5, or below 20 far out in the tail, else by the log-likelihood \
           ratio), `q_value` (Benjamini-Hochberg over all pairs of features with enough documents), `llr` (log-likelihood \
           ratio G²), `docs_a`, `docs_b`, `n` and `label_similarity` (cosine of the two labels by the reader; null if one is \
           hidden, or if the reader is not there). Ranked by `llr`. Pairs that the same token fires (half of the five \
           strongest tokens are shared) are left out.",
    arguments: &[
        ("set", "corpus, corpus with a filter, or query"),
        (
            "with, paired_by",
            "correlate across two sets instead: feature_a of a document of `set` with feature_b of its partner \
                             in the set `with`, which has the same value in column `paired_by` (prompt and response)",
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
            "unexpected",
            "keep pairs whose labels are less alike than this (cosine by the reader, -1 to 1); default: all",
        ),
        ("echoes", "keep pairs that the same token fires; default false"),
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
            selection: FeatureSelection::from_args_preferring(&mut args, Level::Span)?,
            limit: args.named("limit").count_or(DEFAULT_LIMIT)?,
            block_bytes: BLOCK_BYTES,
        };
        args.finish()?;
        call.source.catalog().select(NAME, &call.selection)?;
        Ok(ComputedTable::provider(call))
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

    /// The features with enough documents, ascending.
    async fn eligible(&self, selected: &[bool], held: Option<&Held>) -> Result<Vec<FeatureId>> {
        let mut counts = FeatureCounts::new(selected.len());
        let mut n_null = 0u64;
        let mut reading = self.read(held).await?;
        let mut visit = |ids: Option<&[FeatureId]>| match ids {
            Some(ids) => counts.update(ids),
            None => n_null += 1,
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
        Ok((0..).zip(selected).filter(enough).map(|(id, _)| id).collect())
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
        request: &Request,
    ) -> Result<Vec<PairRow>> {
        let mut selected = catalog.select(NAME, &self.selection)?;
        let id_bound = selected.len();
        let held = self.hold(id_bound, request).await?;
        if held.is_some() {
            selected.extend_from_within(..);
        }
        let shifted = self.eligible(&selected, held.as_ref()).await?;
        let mut position_of = vec![u32::MAX; selected.len()];
        for (position, id) in (0..).zip(&shifted) {
            position_of[*id as usize] = position;
        }
        let split = held.as_ref().map(|_| shifted.partition_point(|id| (*id as usize) < id_bound));
        let features: Arc<Vec<FeatureId>> =
            Arc::new(shifted.iter().map(|id| id % id_bound.max(1) as FeatureId).collect());
        let echoes = Arc::new(if self.echoes { Echoes::default() } else { Echoes::new(catalog, &features) });
        let limit = self.limit.min(request.limit.unwrap_or(usize::MAX));
        let mut ranking = Ranking::new(self.direction, limit, self.min_both);
        let memory = request.memory(NAME);
        let n_pairs = features.len() * features.len().saturating_sub(1) / 2;
        for block in blocks(features.len(), self.block_bytes) {
            memory.try_resize(Ranking::bytes(limit, n_pairs) + block_bytes(features.len(), &block))?;
            let counts = self.count_block(held.as_ref(), features.len(), block, &position_of).await?;
            let (features, echoes, similarity) = (Arc::clone(&features), Arc::clone(&echoes), similarity.cloned());
            let least_alike = self.unexpected.unwrap_or(f64::INFINITY);
            ranking = blocking(NAME, move |cancellation| {
                ranking.scan(&counts, &features, split, cancellation, |a, b| {
                    let alike = similarity.as_ref().and_then(|similarity| similarity.between(a, b));
                    !echoes.contains(a, b) && alike.is_none_or(|alike| alike < least_alike)
                });
                Ok(ranking)
            })
            .await?;
        }
        blocking(NAME, move |_| Ok(ranking.finish())).await
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

fn columns(catalog: &FeatureCatalog, rows: &[PairRow], similarity: Option<&LabelSimilarity>) -> Columns {
    let mut columns = pair_columns(catalog, rows);
    let alike = |row: &PairRow| similarity.and_then(|similarity| similarity.between(row.features.0, row.features.1));
    columns.push(SIMILARITY, rows.iter().map(alike).collect::<Float64Array>(), true);
    columns
}

#[async_trait]
impl Computation for CorrelateCall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> SchemaRef {
        columns(&FeatureCatalog::default(), &[], None).schema()
    }

    async fn run(&self, request: Request) -> Result<Vec<RecordBatch>> {
        let catalog = self.source.catalog();
        let similarity = self.similarity(&request).await?;
        let rows = self.pairs(&catalog, similarity.as_ref(), &request).await?;
        Ok(vec![columns(&catalog, &rows, similarity.as_deref()).into_batch()?])
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
        assert_eq!(rows[0], ["milk", "milk jug", "49", "49", "49", "200", "true"]);
        assert_eq!(rows[1], ["tea", "milk", "45", "50", "49", "200", "true"]);
        assert_eq!(rows.len(), 5, "(tea, teas) is an echo: {rows:?}");
        let with = "SELECT label_b FROM correlate('notes', named_argument('echoes', true)) LIMIT 1";
        assert_eq!(cells(&source, with).await.unwrap(), [["teas"]]);
    }

    #[tokio::test]
    async fn keeps_the_unexpected_if_asked() {
        let source = drinks();
        let sql = "SELECT label_a, label_b, label_similarity FROM correlate('notes', named_argument('unexpected', 0.5), \
                   named_argument('limit', 1))";
        assert_eq!(cells(&source, sql).await.unwrap(), [["tea", "milk", "0.0"]]);
        let sql = "SELECT label_b, round(label_similarity, 3) FROM correlate('notes') LIMIT 2";
        assert_eq!(cells(&source, sql).await.unwrap(), [["milk jug", "0.707"], ["milk", "0.0"]]);
        let sql = "SELECT min(docs_both) FROM correlate('notes', named_argument('min_both', 49))";
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
        let rows = cells(&source, call(", named_argument('echoes', true)")).await.unwrap();
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
                 named_argument('direction', 'both'), named_argument('limit', {limit}))"
            );
            session.sql(&sql).await.unwrap().collect().await
        };
        assert_eq!(with_limit(1000).await.unwrap()[0].num_rows(), 1000);
        let error = with_limit(100_000_000).await.unwrap_err();
        assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
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
