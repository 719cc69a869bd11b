//! The one trait through which functions reach stored documents, the reader and the word index.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::Result;
use datafusion::physical_plan::SendableRecordBatchStream;

use crate::catalog::FeatureCatalog;
use crate::features::FeatureId;

/// A column that a table function needs of a set of documents. The stream's columns come in the order asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentColumn {
    /// `doc_id`, `Utf8`, never null.
    DocId,
    /// `text`, `Utf8`: the text columns joined by a blank line; null where all are null.
    Text,
    /// `conversation`, [`crate::scalar::conversation::CONVERSATION_TYPE`]: what is read around the text and with it;
    /// null where it is read alone.
    Conversation,
    /// `ids`, `List<UInt32>`: ids of the present features of all dictionaries, ascending. The cheap way to count.
    Ids,
    /// `features`, [`crate::features::FEATURES_TYPE`]: ids and activations of all dictionaries, ascending by id.
    Features,
    /// `embedding`, `FixedSizeList<Float16>`: mean of the reader's last hidden states, L2-normalised.
    Embedding,
    /// `n_tokens`, `UInt32`.
    TokenCount,
    /// A column of the set, by name, in its own type.
    Named(String),
}

/// One text as the encoder sees it.
#[derive(Debug, Clone, Default)]
pub struct EncodedText {
    /// Ids of the present features of all dictionaries, ascending.
    pub ids: Vec<FeatureId>,
    /// Their activations.
    pub activations: Vec<f32>,
    /// Mean of the last hidden states, L2-normalised; all zero for a text without a token.
    pub embedding: Vec<f32>,
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Who speaks: `user`, `assistant`, ...
    pub role: String,
    /// What is said.
    pub content: String,
}

/// One token of a text with the features that fire on it.
#[derive(Debug, Clone)]
pub struct TokenFeatures {
    /// Where the token starts in the text, in bytes.
    pub start: usize,
    /// Where it ends, in bytes, exclusive.
    pub end: usize,
    /// Features that fire on it and their activations, ascending by id (a span-level feature fires on all its tokens).
    pub features: Vec<(FeatureId, f32)>,
}

/// One hit of a keyword search.
#[derive(Debug, Clone)]
pub struct WordHit {
    /// Identity of the document.
    pub doc_id: String,
    /// BM25 score, unitless, larger is better.
    pub score: f32,
}

/// One hit of a search by features.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureHit {
    /// Identity of the document.
    pub doc_id: String,
    /// Weighted sum of its activations.
    pub score: f32,
}

/// Embeddings of the labels of all visible features by the reader itself.
#[derive(Debug)]
pub struct LabelEmbeddings {
    /// Feature of each row, ascending.
    pub ids: Vec<FeatureId>,
    /// Row-major `ids.len() x width`, each row L2-normalised.
    pub values: Vec<f32>,
    /// Length of a row.
    pub width: usize,
}

/// Where functions get documents, features and encodings from.
///
/// Laws: two calls of [`Self::documents`] with the same arguments see the same rows in the same order while nothing is
/// written; `ids` and `features` of a row hold the same ids; [`Self::encode`] of a stored text gives the stored ids.
#[async_trait]
pub trait FeatureSource: Debug + Send + Sync + 'static {
    /// What is known of features at this moment.
    fn catalog(&self) -> Arc<FeatureCatalog>;

    /// Streams a set of documents. `set` is a corpus name, a corpus with a filter (`answers WHERE model = 'a'`), or any
    /// query whose result has the columns that are asked for.
    ///
    /// # Errors
    /// If the set cannot be parsed, does not exist (with the nearest name), or lacks a column.
    async fn documents(&self, set: &str, columns: &[DocumentColumn]) -> Result<SendableRecordBatchStream>;

    /// Streams several sets together, for work that needs no order: each document that is in any of `sets` comes once, in one
    /// of the streams, which are meant to be read at the same time. Batches have `columns` and then a column of truth
    /// values a set, never null: whether the document is in it. A document may come that is in none. Ids are as they are
    /// stored, so that nobody need look whether they ascend.
    ///
    /// `None` if the sets cannot be read so; then [`Self::documents`] gives them, or says what is wrong with them.
    ///
    /// # Errors
    /// If reading cannot begin.
    async fn parts(
        &self,
        sets: &[String],
        columns: &[DocumentColumn],
    ) -> Result<Option<Vec<SendableRecordBatchStream>>> {
        let _ = (sets, columns);
        Ok(None)
    }

    /// Ranks the documents of `set` by BM25 of their words against `query`; at most `limit`, best first.
    ///
    /// # Errors
    /// As [`Self::documents`].
    async fn search_words(&self, set: &str, query: &str, limit: usize) -> Result<Vec<WordHit>>;

    /// The `k` documents of `set` with the largest sums of `weight x activation` over `query` (ids ascending), best first, of
    /// equal scores the earlier document first; documents that have none of the features are not found. `None` if it can
    /// only be known by reading the documents.
    ///
    /// # Errors
    /// As [`Self::documents`].
    async fn top_documents(
        &self,
        _set: &str,
        _query: &[(FeatureId, f32)],
        _k: usize,
    ) -> Result<Option<Vec<FeatureHit>>> {
        Ok(None)
    }

    /// Names of the dictionaries with which all documents of `set` were read; `None` if all corpora were read with the
    /// same ones, or if it cannot be told.
    ///
    /// # Errors
    /// As [`Self::documents`].
    async fn dictionaries_of_set(&self, _set: &str) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Reads and encodes texts with all dictionaries; one result per text, in order. Blocks; uses all cores.
    ///
    /// # Errors
    /// If the reader's weights cannot be had.
    fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedText>>;

    /// Which of `features` fire on each token of `text`, for highlighting; others may be among them. It is read in the
    /// `conversation` of which it is the last message (or the last ones, joined by a blank line), alone if there is
    /// none. Of features of which no text can be read none fires.
    ///
    /// # Errors
    /// As [`Self::encode`]; if the text is not in the conversation, or the reader has none.
    fn token_features(&self, text: &str, conversation: &[Said], features: &[FeatureId]) -> Result<Vec<TokenFeatures>>;

    /// Embeddings of the labels, computed on first use and kept. Blocks.
    ///
    /// # Errors
    /// As [`Self::encode`].
    fn label_embeddings(&self) -> Result<Arc<LabelEmbeddings>>;
}
