//! What functions reach of the database: sets of documents, the reader, the words.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ParamValues};
use datafusion::dataframe::DataFrame;
use datafusion::error::Result as DFResult;
use datafusion::functions::core::expr_ext::FieldAccessor;
use datafusion::logical_expr::{Expr, LogicalPlan, cast, lit, when};
use datafusion::physical_plan::{ExecutionPlanProperties, SendableRecordBatchStream};
use saequel_udfs::features::FEATURES_TYPE;
use saequel_udfs::scalar::conversation::no_conversation;
use saequel_udfs::{
    DocumentColumn, EncodedText, FeatureCatalog, FeatureHit, FeatureId, FeatureSource, LabelEmbeddings, Said,
    TokenFeatures, WordHit,
};

use crate::caller::Caller;
use crate::catalog::CorpusInfo;
use crate::encoder::{EncodedDocument, EncodedToken, Encoder};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result, did_you_mean};
use crate::join_features::{JOIN_FEATURES, JOIN_IDS};
use crate::namespace::Viewer;
use crate::picture::Picture;
use crate::progress::Silent;
use crate::reader::Message;
use crate::schema::{CONVERSATION, DOC_ID, EMBEDDING, TEXT, sql};
use crate::session;
use crate::statements::set::{DocumentSet, is_in};

/// [`FeatureSource`] over one picture of the database.
#[derive(Debug)]
pub(crate) struct EngineSource {
    pub(crate) picture: Arc<Picture>,
}

impl EngineSource {
    pub(crate) fn new(picture: Arc<Picture>) -> Self {
        Self { picture }
    }

    /// The first reader with its dictionaries, or that of the named ones, and the first feature id of each.
    fn encoder(&self, dictionaries: &[String]) -> Result<(Encoder, Vec<FeatureId>)> {
        let encoder = self.picture.engine.encoder(dictionaries, &Silent)?;
        let known = self.picture.catalog.features.dictionaries();
        let first_ids = encoder
            .saes()
            .iter()
            .map(|sae| {
                known.iter().find(|dictionary| dictionary.name == sae.name()).map(|found| found.first_id).ok_or_else(
                    || Error::new(ErrorKind::Internal, format!("dictionary '{}' is not in the catalog", sae.name())),
                )
            })
            .collect::<Result<_>>()?;
        Ok((encoder, first_ids))
    }

    /// The dictionaries of features, those with weights, by reader.
    fn dictionaries_of(&self, features: &[FeatureId]) -> BTreeMap<String, Vec<String>> {
        let catalog = &self.picture.catalog.features;
        let store = &self.picture.engine.inner.store;
        let mut by_reader: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for feature in features.iter().filter_map(|id| catalog.feature(*id)) {
            let Some(dictionary) = catalog.dictionaries().get(feature.dictionary) else { continue };
            let names = by_reader.entry(dictionary.reader.clone()).or_default();
            if !names.contains(&dictionary.name) && store.sae_sha256(&dictionary.name).is_some() {
                names.push(dictionary.name.clone());
            }
        }
        by_reader.retain(|_, names| !names.is_empty());
        by_reader
    }

    /// Features of dictionaries of one reader, token by token.
    fn tokens(&self, text: &str, conversation: &[Said], dictionaries: &[String]) -> Result<Vec<TokenFeatures>> {
        let (encoder, first_ids) = self.encoder(dictionaries)?;
        let tokens = if conversation.is_empty() {
            encoder.tokens(text)?
        } else {
            let reader = encoder.reader();
            let template = reader.chat_template().ok_or_else(|| {
                let message = format!(
                    "reader '{}' has no chat template, so it cannot read a text in its conversation; leave the conversation \
                     away",
                    reader.name()
                );
                Error::new(ErrorKind::Query, message)
            })?;
            let message = |said: &Said| Message { role: said.role.clone(), content: said.content.clone() };
            let messages: Vec<Message> = conversation.iter().map(message).collect();
            encoder.tokens_of(&template.passage(text, &messages)?)?
        };
        let token = |token: EncodedToken| {
            let of = |(latents, first): (&Vec<(u32, f32)>, &FeatureId)| {
                latents.iter().map(|&(latent, value)| (first + latent, value)).collect::<Vec<_>>()
            };
            let mut features: Vec<(FeatureId, f32)> = token.latents.iter().zip(&first_ids).flat_map(of).collect();
            features.sort_unstable_by_key(|(id, _)| *id);
            TokenFeatures { start: token.start, end: token.end, features }
        };
        Ok(tokens.into_iter().map(token).collect())
    }

    /// The documents of a set with `columns`, in that order.
    pub(crate) async fn frame(&self, set: &str, columns: &[DocumentColumn]) -> Result<DataFrame> {
        let named = |error: Error| error.context(format!("set '{}'", abridged(set)));
        let parsed = DocumentSet::parse(set).map_err(named)?;
        let frame = self.columns_of(parsed, columns).await.map_err(named)?;
        if is_volatile(frame.logical_plan()) {
            let message = "a function reads it several times, and it has other documents each time, by random() or the like; \
                           take a sample that stays, for instance with ORDER BY md5(doc_id) LIMIT 1000";
            return Err(named(Error::new(ErrorKind::Query, message)));
        }
        Ok(frame)
    }

    /// See [`FeatureSource::dictionaries_of_set`].
    async fn read_with(&self, set: &str) -> Result<Option<Vec<String>>> {
        let corpora = &self.picture.catalog.corpora;
        if corpora.windows(2).all(|two| two[0].dictionaries == two[1].dictionaries) {
            return Ok(None);
        }
        let session = session::session(&self.picture, Viewer::Function)?;
        // What is wrong with a set is told where it is read.
        let Ok(parsed) = DocumentSet::parse(set) else { return Ok(None) };
        let no_parameters = ParamValues::List(Vec::new());
        let Ok(frame) = session::plan(&self.picture, &session, parsed.into_statement(), &no_parameters).await else {
            return Ok(None);
        };
        let (mut read, mut has_union): (Vec<&[String]>, _) = (Vec::new(), false);
        let visited = frame.logical_plan().apply(|node| {
            match node {
                LogicalPlan::TableScan(scan) => {
                    let named = |corpus: &&Arc<CorpusInfo>| corpus.name == scan.table_name.table();
                    read.extend(corpora.iter().find(named).map(|corpus| corpus.dictionaries.as_slice()));
                }
                LogicalPlan::Union(_) => has_union = true,
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        });
        visited.map_err(Error::from)?;
        // Of several corpora that are joined the features may be either's.
        let Some((first, others)) = read.split_first().filter(|(_, others)| others.is_empty() || has_union) else {
            return Ok(None);
        };
        Ok(Some(first.iter().filter(|name| others.iter().all(|own| own.contains(name))).cloned().collect()))
    }

    /// See [`FeatureSource::parts`].
    async fn parts_of(
        &self,
        sets: &[String],
        columns: &[DocumentColumn],
    ) -> Result<Option<Vec<SendableRecordBatchStream>>> {
        // What is wrong with a set is told by the way that reads them one by one.
        let Ok(parsed) = sets.iter().map(|set| DocumentSet::parse(set)).collect::<Result<Vec<_>>>() else {
            return Ok(None);
        };
        let Some(statement) = DocumentSet::together(&parsed) else { return Ok(None) };
        let session = session::session(&self.picture, Viewer::Function)?;
        let threads = self.picture.engine.options().threads.max(1);
        session.state_ref().write().config_mut().options_mut().execution.target_partitions = threads;
        let no_parameters = ParamValues::List(Vec::new());
        let Ok(frame) = session::plan(&self.picture, &session, statement, &no_parameters).await else {
            return Ok(None);
        };
        if is_volatile(frame.logical_plan()) {
            return Ok(None);
        }
        let wanted = columns.iter().map(|column| expression(&frame, column)).collect::<Result<Vec<_>>>();
        let Ok(mut wanted) = wanted else { return Ok(None) };
        wanted.extend((0..sets.len()).map(|set| Expr::Column(Column::new_unqualified(is_in(set)))));
        let Ok(frame) = frame.select(wanted) else { return Ok(None) };
        let context = Arc::new(frame.task_ctx());
        // Conditions that share a part may be more than DataFusion's rules can name.
        let Ok(plan) = frame.create_physical_plan().await else { return Ok(None) };
        let n_parts = plan.output_partitioning().partition_count();
        let parts = (0..n_parts).map(|part| plan.execute(part, Arc::clone(&context)));
        Ok(Some(parts.collect::<DFResult<Vec<_>>>().map_err(Error::from)?))
    }

    /// The documents of a set that was read already.
    pub(crate) async fn columns_of(&self, set: DocumentSet, columns: &[DocumentColumn]) -> Result<DataFrame> {
        let session = session::session(&self.picture, Viewer::Function)?;
        let no_parameters = ParamValues::List(Vec::new());
        let frame = session::plan(&self.picture, &session, set.into_statement(), &no_parameters).await?;
        let exprs = columns.iter().map(|column| expression(&frame, column)).collect::<Result<Vec<_>>>()?;
        frame.select(exprs).map_err(Error::from)
    }
}

impl Engine {
    /// `doc_id` of every document of a corpus that satisfies a SQL condition, which may use functions, features, concepts
    /// and subqueries.
    ///
    /// # Errors
    /// [`ErrorKind::Query`], [`ErrorKind::NotFound`].
    pub(crate) async fn matching_documents(
        &self,
        caller: &Arc<Caller>,
        corpus: &str,
        condition: &str,
    ) -> Result<Vec<String>> {
        let set = DocumentSet::with_condition(corpus, condition)?;
        let frame = EngineSource::new(Picture::take(self, caller)).columns_of(set, &[DocumentColumn::DocId]).await?;
        let mut ids = Vec::new();
        for batch in frame.collect().await.map_err(Error::from)? {
            if let Some(column) = batch.column(0).as_string_opt::<i32>() {
                ids.extend(column.iter().flatten().map(str::to_owned));
            }
        }
        Ok(ids)
    }
}

/// Whether a plan may give different rows each time it is run, so that a condition evaluated twice may disagree.
fn is_volatile(plan: &LogicalPlan) -> bool {
    let volatile = plan.exists(|node| Ok(node.expressions().iter().any(Expr::is_volatile)));
    volatile.unwrap_or(true)
}

/// The start of a set's text, for messages.
fn abridged(set: &str) -> String {
    let start: String = set.chars().take(80).collect();
    if start.len() < set.len() { start + "..." } else { start }
}

/// How `frame` gives a column that functions ask for.
fn expression(frame: &DataFrame, column: &DocumentColumn) -> Result<Expr> {
    let find = |name: &str| -> Option<(Expr, DataType)> {
        let schema = frame.schema();
        let (qualifier, field) = schema.iter().find(|(_, field)| field.name() == name)?;
        Some((Expr::Column(Column::new(qualifier.cloned(), field.name())), field.data_type().clone()))
    };
    let needed = |names: &[&str], what: &str| {
        names.iter().find_map(|name| find(name)).ok_or_else(|| {
            let message = format!(
                "the result has no column {}, which {what}; select it, or * of a corpus",
                names.iter().map(|name| format!("'{}'", name.trim_start_matches('_'))).collect::<Vec<_>>().join(" or "),
            );
            Error::new(ErrorKind::Query, message)
        })
    };
    let typed =
        |(expr, found): (Expr, DataType), wanted: DataType| if found == wanted { expr } else { cast(expr, wanted) };
    let features = || -> Result<Vec<Expr>> {
        let mut names: Vec<&str> = Vec::new();
        for field in frame.schema().fields() {
            if *field.data_type() == *FEATURES_TYPE && !names.contains(&field.name().as_str()) {
                names.push(field.name());
            }
        }
        // A corpus's own column holds all its dictionaries; a query may have made others.
        if names.contains(&sql::FEATURES) {
            names = vec![sql::FEATURES];
        }
        if names.is_empty() {
            needed(&[sql::FEATURES], "tells which features each document has")?;
        }
        Ok(names.into_iter().filter_map(find).map(|(expr, _)| expr).collect())
    };
    Ok(match column {
        DocumentColumn::DocId => typed(needed(&[DOC_ID], "tells documents apart")?, DataType::Utf8).alias("doc_id"),
        DocumentColumn::Text => typed(needed(&[TEXT, "text"], "holds what was read")?, DataType::Utf8).alias("text"),
        DocumentColumn::Conversation => {
            find(CONVERSATION).map_or_else(no_conversation, |(expr, _)| expr).alias("conversation")
        }
        DocumentColumn::Ids => {
            let ids: Vec<Expr> = features()?.into_iter().map(|value| value.field("ids")).collect();
            match ids.as_slice() {
                [only] => only.clone(),
                _ => JOIN_IDS.call(ids),
            }
            .alias("ids")
        }
        DocumentColumn::Features => {
            let values = features()?;
            match values.as_slice() {
                [only] => only.clone(),
                _ => JOIN_FEATURES.call(values),
            }
            .alias("features")
        }
        DocumentColumn::Embedding => {
            let Some((embedding, _)) = find(EMBEDDING).or_else(|| find("embedding")) else {
                let message = "these documents have no embedding, the dense view of what they mean: select _embedding of a \
                               corpus; if their features were computed elsewhere, only what rests on features and words \
                               works (of retrieve signals => 'labels,words')";
                return Err(Error::new(ErrorKind::Query, message));
            };
            // Corpora of before have one for texts without a token: that of the special tokens, near to many queries.
            match find(sql::N_TOKENS) {
                Some((n_tokens, kind)) if kind.is_integer() => {
                    let has_tokens = n_tokens.eq(lit(0u32)).is_not_true();
                    when(has_tokens, embedding).end().map_err(Error::from)?
                }
                _ => embedding,
            }
            .alias("embedding")
        }
        DocumentColumn::TokenCount => {
            typed(needed(&[sql::N_TOKENS], "is the length of each document")?, DataType::UInt32).alias("n_tokens")
        }
        DocumentColumn::Named(name) => {
            let lower = name.to_lowercase();
            let Some((expr, _)) = find(name).or_else(|| find(&lower)) else {
                let schema = frame.schema();
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let names = names.filter(|name| ![TEXT, CONVERSATION, EMBEDDING].contains(name));
                let message = format!("column '{name}' not found{}", did_you_mean(name, names));
                return Err(Error::new(ErrorKind::Query, message));
            };
            expr.alias(name)
        }
    })
}

#[async_trait]
impl FeatureSource for EngineSource {
    fn catalog(&self) -> Arc<FeatureCatalog> {
        Arc::clone(&self.picture.catalog.features)
    }

    async fn documents(&self, set: &str, columns: &[DocumentColumn]) -> DFResult<SendableRecordBatchStream> {
        self.frame(set, columns).await?.execute_stream().await
    }

    async fn dictionaries_of_set(&self, set: &str) -> DFResult<Option<Vec<String>>> {
        Ok(self.read_with(set).await?)
    }

    async fn parts(
        &self,
        sets: &[String],
        columns: &[DocumentColumn],
    ) -> DFResult<Option<Vec<SendableRecordBatchStream>>> {
        Ok(self.parts_of(sets, columns).await?)
    }

    async fn search_words(&self, set: &str, query: &str, limit: usize) -> DFResult<Vec<WordHit>> {
        Ok(self.search(set, query, limit).await?)
    }

    async fn top_documents(
        &self,
        set: &str,
        query: &[(FeatureId, f32)],
        k: usize,
    ) -> DFResult<Option<Vec<FeatureHit>>> {
        Ok(self.top_by_postings(set, query, k).await?)
    }

    fn encode(&self, texts: &[&str]) -> DFResult<Vec<EncodedText>> {
        let (encoder, first_ids) = self.encoder(&[])?;
        let documents = encoder.encode(texts).map_err(Error::from)?;
        Ok(documents.into_iter().map(|document| encoded_text(document, &first_ids)).collect())
    }

    fn token_features(
        &self,
        text: &str,
        conversation: &[Said],
        features: &[FeatureId],
    ) -> DFResult<Vec<TokenFeatures>> {
        let by_reader = self.dictionaries_of(features);
        let mut tokens = Vec::new();
        for names in by_reader.values() {
            tokens.extend(self.tokens(text, conversation, names)?);
        }
        if by_reader.len() > 1 {
            // Readers cut a text differently: a token that shows nothing must not stand before one that does.
            let fires = |token: &TokenFeatures| token.features.iter().any(|(id, _)| features.contains(id));
            tokens.retain(fires);
            tokens.sort_by_key(|token| (token.start, token.end));
        }
        Ok(tokens)
    }

    fn label_embeddings(&self) -> DFResult<Arc<LabelEmbeddings>> {
        Ok(crate::label_embeddings::of(&self.picture)?)
    }
}

/// All dictionaries of a document joined, with the database's ids.
fn encoded_text(document: EncodedDocument, first_ids: &[FeatureId]) -> EncodedText {
    let mut pairs: Vec<(FeatureId, f32)> = document
        .features
        .iter()
        .zip(first_ids)
        .flat_map(|(features, first)| {
            features
                .latents
                .iter()
                .zip(&features.activations)
                .map(move |(latent, value)| (first + latent, value.to_f32()))
        })
        .collect();
    pairs.sort_unstable_by_key(|(id, _)| *id);
    let (ids, activations) = pairs.into_iter().unzip();
    EncodedText { ids, activations, embedding: document.embedding.iter().map(|value| value.to_f32()).collect() }
}
