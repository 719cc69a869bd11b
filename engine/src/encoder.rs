//! Texts in, dense embedding and sparse features of every dictionary out, in one pass of the reader.

use std::sync::Arc;

use half::f16;

use crate::error::Result;
use crate::reader::Reader;
use crate::sae::Sae;

/// Sparse features of one document for one dictionary.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SparseFeatures {
    /// Latents (0 to width - 1, *not* yet the database's feature ids), ascending.
    pub latents: Vec<u32>,
    /// Their activations, max-pooled; unitless, positive.
    pub activations: Vec<f16>,
    /// Fraction of variance that the dictionary leaves unexplained on this document; NaN without a token.
    pub fvu: f32,
}

/// One document as it will be stored.
#[derive(Debug, Clone, Default)]
pub struct EncodedDocument {
    /// Mean of the last hidden states over tokens, L2-normalised; all zero without a token.
    pub embedding: Vec<f16>,
    /// One entry per dictionary, in the encoder's order.
    pub features: Vec<SparseFeatures>,
    /// Tokens read, special tokens excluded, overlaps counted once.
    pub n_tokens: u32,
    /// Sentences.
    pub n_spans: u32,
}

/// A token with the latents that fire on it, per dictionary.
#[derive(Debug, Clone)]
pub struct EncodedToken {
    /// First byte in the text.
    pub start: usize,
    /// End in bytes, exclusive.
    pub end: usize,
    /// Per dictionary: latents and activations, ascending by latent.
    pub latents: Vec<Vec<(u32, f32)>>,
}

/// A reader with the dictionaries that hang on it. Cheap to clone; one per set of dictionaries.
#[derive(Clone)]
pub struct Encoder {
    reader: Arc<Reader>,
    saes: Vec<Arc<Sae>>,
}

impl Encoder {
    /// Joins a reader with SAEs over its hook points.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`] if an SAE was trained on another reader, layer count or width.
    pub fn new(reader: Arc<Reader>, saes: Vec<Arc<Sae>>) -> Result<Self> {
        Ok(Self { reader, saes })
    }

    /// The reader.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// The dictionaries, in the order of [`EncodedDocument::features`].
    pub fn saes(&self) -> &[Arc<Sae>] {
        &self.saes
    }

    /// Encodes a batch of texts, on all cores, with memory bounded by the windows in flight, not by the batch.
    ///
    /// The result is in the order of `texts`. Never fails because of a text: empty, huge, binary and non-English texts
    /// are normal. The same text gives the same result in every batch to float tolerance.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] only.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedDocument>> {
        let _ = texts;
        todo!("owner of encoder")
    }

    /// Encodes one text token by token, for highlighting; presence rules of the document are *not* applied.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn tokens(&self, text: &str) -> Result<Vec<EncodedToken>> {
        let _ = text;
        todo!("owner of encoder")
    }
}
