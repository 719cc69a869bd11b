//! A [`FeatureSource`] over record batches in memory, with a reader that knows single words.
//!
//! It needs no model and no disk: what a word means is a function given at construction. Tests of functions use it,
//! and a program can use it to run the analyses on features that it computed itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, RwLock};

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use datafusion::common::{exec_err, plan_err};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::{SessionConfig, SessionContext, ident};
use futures::TryStreamExt;
use half::f16;

use crate::SharedSource;
use crate::args::did_you_mean;
use crate::catalog::{Concept, Dictionary, Feature, FeatureCatalog, Level};
use crate::feature_source::{
    DocumentColumn, EncodedText, FeatureSource, LabelEmbeddings, Said, TokenFeatures, WordHit,
};
use crate::features::{FeatureId, FeaturesBuilder};
use crate::scalar::conversation::no_conversation;

/// Length of the embeddings it makes.
pub const EMBEDDING_WIDTH: usize = 64;

type WordRule = dyn Fn(&str) -> Vec<(FeatureId, f32)> + Send + Sync;

/// Documents, features and a word-by-word reader in memory. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct MemorySource {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Arc<FeatureCatalog>,
    rule: Box<WordRule>,
    corpora: RwLock<BTreeMap<String, Arc<MemTable>>>,
}

impl fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let corpora = self.inner.corpora.read().map(|corpora| corpora.keys().cloned().collect::<Vec<_>>());
        f.debug_struct("MemorySource").field("corpora", &corpora.unwrap_or_default()).finish_non_exhaustive()
    }
}

impl MemorySource {
    /// A source without documents. `rule` says which features fire on a word (lower case), and how strongly.
    pub fn new(catalog: FeatureCatalog, rule: impl Fn(&str) -> Vec<(FeatureId, f32)> + Send + Sync + 'static) -> Self {
        let inner = Inner { catalog: Arc::new(catalog), rule: Box::new(rule), corpora: RwLock::default() };
        Self { inner: Arc::new(inner) }
    }

    /// A source with one feature per label, ids from 0, that fires with activation 1 on each of its words.
    pub fn with_words(features: &[(&str, &[&str])], concepts: Vec<Concept>) -> Self {
        let dictionary = Dictionary {
            name: "words".to_string(),
            reader: "words".to_string(),
            layer: 0,
            level: Level::Token,
            first_id: 0,
            width: features.len() as u32,
        };
        let mut by_word: HashMap<String, Vec<(FeatureId, f32)>> = HashMap::new();
        let mut rows = Vec::with_capacity(features.len());
        for (id, (label, words)) in (0..).zip(features) {
            for word in *words {
                by_word.entry(word.to_lowercase()).or_default().push((id, 1.0));
            }
            rows.push(Feature {
                id,
                dictionary: 0,
                label: (*label).to_string(),
                description: String::new(),
                label_source: "words".to_string(),
                label_score: None,
                density: 0.01,
                max_activation: 1.0,
                q50: 1.0,
                q90: 1.0,
                hidden: false,
                top_tokens: words.iter().map(|word| (*word).to_string()).collect(),
                top_words: words.iter().map(|word| (*word).to_string()).collect(),
            });
        }
        let catalog = FeatureCatalog::new(vec![dictionary], rows, concepts);
        Self::new(catalog, move |word| by_word.get(word).cloned().unwrap_or_default())
    }

    /// Adds (or replaces) a corpus of batches, which hold at least `doc_id` (`Utf8`) and, for what needs them,
    /// `features`, `text`, `embedding`, `n_tokens`.
    ///
    /// # Errors
    /// If there is no batch, or their schemas differ.
    pub fn put_batches(&self, name: &str, batches: Vec<RecordBatch>) -> Result<()> {
        let Some(first) = batches.first() else { return plan_err!("corpus '{name}' needs at least one batch") };
        let table = MemTable::try_new(first.schema(), vec![batches])?;
        match self.inner.corpora.write() {
            Ok(mut corpora) => corpora.insert(name.to_string(), Arc::new(table)),
            Err(_) => return exec_err!("the source was left in disorder by a panic"),
        };
        Ok(())
    }

    /// Encodes texts and adds (or replaces) them as a corpus with `doc_id` (`d0`, `d1`, ...), `text`, the given
    /// further columns, `features`, `embedding` and `n_tokens`. A null text gives null features.
    ///
    /// # Errors
    /// If a column has another length.
    pub fn put_texts(&self, name: &str, texts: &[Option<&str>], columns: Vec<(&str, ArrayRef)>) -> Result<()> {
        let mut features = FeaturesBuilder::default();
        let mut embeddings = Vec::with_capacity(texts.len() * EMBEDDING_WIDTH);
        for text in texts {
            let encoded = self.encode_one(text.unwrap_or_default());
            match text {
                Some(_) => features.append(encoded.ids.iter().copied().zip(encoded.activations)),
                None => features.append_null(),
            }
            embeddings.extend(encoded.embedding.iter().map(|value| f16::from_f32(*value)));
        }
        let item = Arc::new(Field::new("item", DataType::Float16, true));
        let embeddings = Arc::new(Float16Array::from(embeddings));
        let embeddings = FixedSizeListArray::try_new(item, EMBEDDING_WIDTH as i32, embeddings, None)?;
        let ids = StringArray::from_iter_values((0..texts.len()).map(|row| format!("d{row}")));
        let n_tokens = texts.iter().map(|text| text.map(|text| words(text).count() as u32));

        let mut table: Vec<(&str, ArrayRef)> =
            vec![("doc_id", Arc::new(ids)), ("text", Arc::new(StringArray::from(texts.to_vec())))];
        table.extend(columns);
        table.push(("features", Arc::new(features.finish())));
        table.push(("embedding", Arc::new(embeddings)));
        table.push(("n_tokens", Arc::new(n_tokens.collect::<UInt32Array>())));
        let fields: Vec<Field> =
            table.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
        let arrays = table.into_iter().map(|(_, column)| column).collect();
        self.put_batches(name, vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?])
    }

    /// A session with every function of saequel and the corpora as tables.
    ///
    /// # Errors
    /// As [`crate::register_all`].
    pub fn session(&self) -> Result<SessionContext> {
        // One partition keeps the order of rows, which the laws of `FeatureSource` ask for.
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let source: SharedSource = Arc::new(self.clone());
        crate::register_all(&session, &source)?;
        match self.inner.corpora.read() {
            Ok(corpora) => {
                for (name, table) in corpora.iter() {
                    session.register_table(name.as_str(), Arc::clone(table) as _)?;
                }
            }
            Err(_) => return exec_err!("the source was left in disorder by a panic"),
        }
        Ok(session)
    }

    fn encode_one(&self, text: &str) -> EncodedText {
        let mut strongest: BTreeMap<FeatureId, f32> = BTreeMap::new();
        let mut embedding = vec![0.0f32; EMBEDDING_WIDTH];
        for (_, word) in words(text) {
            let word = word.to_lowercase();
            for (id, activation) in (self.inner.rule)(&word) {
                let entry = strongest.entry(id).or_insert(activation);
                *entry = entry.max(activation);
            }
            let mut hasher = DefaultHasher::new();
            word.hash(&mut hasher);
            embedding[(hasher.finish() % EMBEDDING_WIDTH as u64) as usize] += 1.0;
        }
        let norm = embedding.iter().map(|value| value * value).sum::<f32>().sqrt();
        if norm > 0.0 {
            embedding.iter_mut().for_each(|value| *value /= norm);
        }
        let (ids, activations) = strongest.into_iter().unzip();
        EncodedText { ids, activations, embedding }
    }
}

/// Words of a text and where they start: runs of letters and digits.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text[from..].find(char::is_alphanumeric)?;
        let length = text[start..].find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len() - start);
        from = start + length;
        Some((start, &text[start..from]))
    })
}

/// A set as SQL: a query stays, a corpus name or `corpus WHERE ...` becomes `SELECT * FROM ...`.
fn set_to_sql(set: &str) -> String {
    let first = set.trim_start().split(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    let is_query = ["", "select", "with", "values", "from"].contains(&first.to_lowercase().as_str());
    if is_query { set.to_string() } else { format!("SELECT * FROM {set}") }
}

#[async_trait]
impl FeatureSource for MemorySource {
    fn catalog(&self) -> Arc<FeatureCatalog> {
        Arc::clone(&self.inner.catalog)
    }

    async fn documents(&self, set: &str, columns: &[DocumentColumn]) -> Result<SendableRecordBatchStream> {
        let session = self.session()?;
        let name = set.split_whitespace().next().unwrap_or_default();
        let sql = set_to_sql(set);
        if sql != set && !session.table_exist(name)? {
            let names: Vec<String> = match self.inner.corpora.read() {
                Ok(corpora) => corpora.keys().cloned().collect(),
                Err(_) => Vec::new(),
            };
            let hint = did_you_mean(name, names.iter().map(String::as_str));
            return plan_err!("corpus '{name}' not found{hint}");
        }
        let documents = session.sql(&sql).await?;
        let exprs: Vec<Expr> = columns
            .iter()
            .map(|column| match column {
                DocumentColumn::DocId => ident("doc_id"),
                DocumentColumn::Text => ident("text"),
                DocumentColumn::Conversation => no_conversation().alias("conversation"),
                DocumentColumn::Ids => get_field(ident("features"), "ids").alias("ids"),
                DocumentColumn::Features => ident("features"),
                DocumentColumn::Embedding => ident("embedding"),
                DocumentColumn::TokenCount => ident("n_tokens"),
                DocumentColumn::Named(name) => ident(name),
            })
            .collect();
        documents.select(exprs)?.execute_stream().await
    }

    async fn search_words(&self, set: &str, query: &str, limit: usize) -> Result<Vec<WordHit>> {
        let stream = self.documents(set, &[DocumentColumn::DocId, DocumentColumn::Text]).await?;
        let batches: Vec<RecordBatch> = stream.try_collect().await?;
        let mut documents: Vec<(String, HashMap<String, usize>, usize)> = Vec::new();
        for batch in &batches {
            let ids = arrow::compute::cast(batch.column(0), &DataType::Utf8)?;
            let texts = arrow::compute::cast(batch.column(1), &DataType::Utf8)?;
            for (id, text) in ids.as_string::<i32>().iter().zip(texts.as_string::<i32>()) {
                let mut counts = HashMap::new();
                for (_, word) in words(text.unwrap_or_default()) {
                    *counts.entry(word.to_lowercase()).or_insert(0) += 1;
                }
                let length = counts.values().sum();
                documents.push((id.unwrap_or_default().to_string(), counts, length));
            }
        }
        let mut terms: Vec<String> = words(query).map(|(_, word)| word.to_lowercase()).collect();
        terms.sort();
        terms.dedup();
        Ok(bm25(&documents, &terms, limit))
    }

    fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedText>> {
        Ok(texts.iter().map(|text| self.encode_one(text)).collect())
    }

    fn token_features(
        &self,
        text: &str,
        _conversation: &[Said],
        _features: &[FeatureId],
    ) -> Result<Vec<TokenFeatures>> {
        let token = |(start, word): (usize, &str)| {
            let mut features = (self.inner.rule)(&word.to_lowercase());
            features.sort_by_key(|(id, _)| *id);
            TokenFeatures { start, end: start + word.len(), features }
        };
        Ok(words(text).map(token).collect())
    }

    fn label_embeddings(&self) -> Result<Arc<LabelEmbeddings>> {
        let visible = self.inner.catalog.features().iter().filter(|feature| !feature.hidden);
        let (mut ids, mut values) = (Vec::new(), Vec::new());
        for feature in visible {
            ids.push(feature.id);
            values.extend(self.encode_one(&feature.label).embedding);
        }
        Ok(Arc::new(LabelEmbeddings { ids, values, width: EMBEDDING_WIDTH }))
    }
}

/// Okapi BM25 (Robertson and Zaragoza 2009) with k1 = 1.2, b = 0.75 and an idf that is never negative.
fn bm25(documents: &[(String, HashMap<String, usize>, usize)], terms: &[String], limit: usize) -> Vec<WordHit> {
    let n = documents.len() as f32;
    let mean_length = documents.iter().map(|(_, _, length)| *length as f32).sum::<f32>() / n.max(1.0);
    let idf = terms.iter().map(|term| {
        let docs = documents.iter().filter(|(_, counts, _)| counts.contains_key(term)).count() as f32;
        (1.0 + (n - docs + 0.5) / (docs + 0.5)).ln()
    });
    let weighted: Vec<(&String, f32)> = terms.iter().zip(idf).collect();
    let mut hits: Vec<WordHit> = documents
        .iter()
        .filter_map(|(doc_id, counts, length)| {
            let norm = 1.2 * (0.25 + 0.75 * *length as f32 / mean_length.max(1.0));
            let score: f32 = weighted
                .iter()
                .map(|(term, idf)| {
                    let tf = counts.get(*term).copied().unwrap_or(0) as f32;
                    idf * tf * 2.2 / (tf + norm)
                })
                .sum();
            (score > 0.0).then(|| WordHit { doc_id: doc_id.clone(), score })
        })
        .collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.doc_id.cmp(&b.doc_id)));
    hits.truncate(limit);
    hits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::FeaturesView;
    use arrow::array::Int32Array;

    fn source() -> MemorySource {
        let source = MemorySource::with_words(&[("apology", &["sorry", "apologise"]), ("list", &["first"])], vec![]);
        let texts = [Some("Sorry, so sorry!"), Some("First: apologise"), None, Some("")];
        let side: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 2, 2]));
        source.put_texts("answers", &texts, vec![("side", side)]).unwrap();
        source
    }

    async fn ids(set: &str) -> Result<Vec<Vec<u32>>> {
        let columns = [DocumentColumn::Features, DocumentColumn::Ids];
        let batches: Vec<RecordBatch> = source().documents(set, &columns).await?.try_collect().await?;
        let mut rows = Vec::new();
        for batch in batches {
            let view = FeaturesView::try_new("test", batch.column(0))?;
            rows.extend((0..view.len()).map(|row| view.ids(row).to_vec()));
        }
        Ok(rows)
    }

    #[tokio::test]
    async fn a_set_is_a_corpus_a_filtered_corpus_or_a_query() {
        assert_eq!(ids("answers").await.unwrap(), [vec![0], vec![0, 1], vec![], vec![]]);
        assert_eq!(ids("answers WHERE side = 2 AND text <> ''").await.unwrap(), [[0, 1]]);
        assert_eq!(ids("SELECT features FROM answers WHERE side = 1").await.unwrap(), [[0]]);
        let message = ids("answer").await.unwrap_err().strip_backtrace();
        assert!(message.contains("corpus 'answer' not found; did you mean 'answers'?"), "{message}");
    }

    #[tokio::test]
    async fn words_are_ranked_by_bm25() {
        let hits = source().search_words("answers", "sorry apologise", 10).await.unwrap();
        assert_eq!(hits.iter().map(|hit| hit.doc_id.as_str()).collect::<Vec<_>>(), ["d0", "d1"]);
    }

    #[test]
    fn tokens_carry_their_place() {
        let tokens = source().token_features("Oh, sorry", &[], &[]).unwrap();
        assert_eq!((tokens[1].start, tokens[1].end, tokens[1].features.as_slice()), (4, 9, [(0, 1.0)].as_slice()));
    }
}
