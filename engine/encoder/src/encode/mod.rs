//! Texts in, dense embedding and sparse features of every dictionary out, in one pass of the reader.

mod document;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;

use crate::level::Level;

use crate::error::{Error, ErrorKind, Result};
use crate::reader::{BatchStates, Hook, Passage, Reader, TokenizedText, Wanted};
use crate::sae::{EncodeScratch, PackedEncoder, Sae, SparseRows};

/// Sparse features of one document for one dictionary.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SparseFeatures {
    /// Latents (0 to width - 1, *not* yet the database's feature ids), ascending.
    pub latents: Vec<u32>,
    /// Their activations, max-pooled; unitless, positive. Only latents that reach their presence threshold, and of those
    /// the [`max_features`] with the largest activations, hidden ones last.
    pub activations: Vec<f16>,
    /// Fraction of variance that the dictionary leaves unexplained on this document; NaN without a token.
    pub fvu: f32,
    /// Share of the tokens (spans) that these features name: on which one of them, not hidden, is the strongest feature
    /// that users are shown. NaN without a token.
    pub explained: f32,
}

/// One document as it will be stored.
#[derive(Debug, Clone, Default)]
pub struct EncodedDocument {
    /// Mean of the last hidden states over tokens and the reader's special tokens, L2-normalised, as
    /// sentence-transformers computes it. A text without a token has that of the special tokens alone.
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

/// Features of one dictionary that are kept for a document at most: a text of 365 tokens has about 900 on its tokens, of
/// which most are faint, and 120 on its sentences.
pub const fn max_features(level: Level) -> usize {
    match level {
        Level::Token => 128,
        Level::Span | Level::Document => 100,
    }
}

/// A reader with the dictionaries that hang on it. Cheap to clone; one per set of dictionaries.
#[derive(Clone)]
pub struct Encoder {
    reader: Arc<Reader>,
    saes: Vec<Arc<Sae>>,
    /// The encoders' weights of each; `None` where there are none.
    packed: Vec<Option<Arc<PackedEncoder>>>,
    /// What is read, ascending; the last is that of the embedding.
    wanted: Vec<Wanted>,
    /// See [`Self::tokens_read`].
    n_read: Arc<AtomicU64>,
}

/// What one piece of a text gives.
struct EncodedPiece {
    /// Sum of the last hidden states, special tokens included, and their number.
    state_sum: Vec<f32>,
    n_states: usize,
    dictionaries: Vec<EncodedPieceFeatures>,
}

/// What one piece of a text gives for one dictionary; nothing for one that reads the embedding.
#[derive(Default)]
struct EncodedPieceFeatures {
    /// Latents and their largest activations, those that reach the presence threshold.
    maxima: Vec<(u32, f32)>,
    /// For each row the strongest latent that is present and not hidden; [`NONE`] without one.
    strongest: Vec<u32>,
    /// Squared error of the reconstruction and squared length, summed over the rows.
    residual: f64,
    total: f64,
}

/// No latent.
const NONE: u32 = u32::MAX;

/// What a thread keeps between batches.
#[derive(Default)]
struct Scratch {
    encode: EncodeScratch,
    sparse: SparseRows,
    rows: Vec<f32>,
    maxima: Vec<f32>,
    touched: Vec<u32>,
}

impl Encoder {
    /// Joins a reader with SAEs over its hook points.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`] if an SAE was trained on another reader, layer count or width.
    pub fn new(reader: Arc<Reader>, saes: Vec<Arc<Sae>>) -> Result<Self> {
        for sae in &saes {
            let wrong = |what: String| Err(Error::new(ErrorKind::Query, format!("dictionary '{}' {what}", sae.name())));
            if sae.reader() != reader.name() {
                return wrong(format!("belongs to reader '{}', not to '{}'", sae.reader(), reader.name()));
            }
            let width =
                reader.hook_width(sae.hook()).map_err(|error| error.context(format!("dictionary '{}'", sae.name())))?;
            if sae.input_width() != width {
                return wrong(format!(
                    "reads {} values at {}, but reader '{}' has {width} there",
                    sae.input_width(),
                    sae.hook(),
                    reader.name()
                ));
            }
            let embedding = reader.embedding_hook(&[]);
            if sae.level() == Level::Document && ![embedding, Hook::FINAL].contains(&sae.hook()) {
                return wrong(format!(
                    "is of level document and reads {}; the reader's embedding of a document is of {embedding}",
                    sae.hook()
                ));
            }
        }
        let hooks: Vec<Hook> = saes.iter().map(|sae| sae.hook()).collect();
        let embedding = Wanted::states(reader.embedding_hook(&hooks));
        let wanted = Wanted::joined(saes.iter().map(|sae| sae.wanted()).chain([embedding]));
        let packed = saes.iter().map(|sae| sae.pack(reader.precision()).map(Arc::new)).collect();
        Ok(Self { reader, saes, packed, wanted, n_read: Arc::default() })
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
        let passages: Vec<Passage<'_>> = texts.iter().map(|text| Passage::from(*text)).collect();
        self.encode_passages(&passages)
    }

    /// [`Self::encode`] of texts that may be read within conversations: what stands around a text is read with it, in
    /// the reader's windows, and only the text's own tokens give features, embedding and counts.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_passages(&self, passages: &[Passage<'_>]) -> Result<Vec<EncodedDocument>> {
        let tokenized = self.reader.tokenize_passages(passages)?;
        let pieces = self.reader.read(&tokenized, &self.wanted, |scratch: &mut Scratch, batch: &BatchStates| {
            let encoded = self.encode_batch(&tokenized, batch, scratch);
            let n: usize = batch.pieces.iter().map(|piece| piece.rows.len()).sum();
            self.n_read.fetch_add(n as u64, Ordering::Relaxed);
            Ok(encoded)
        })?;
        Ok(tokenized.iter().zip(pieces).map(|(text, pieces)| self.join(text, pieces)).collect())
    }

    /// Tokens of the texts that were encoded so far, by this encoder and its clones. The number grows while a text is
    /// read: of a long one nothing else is known until its end.
    pub fn tokens_read(&self) -> u64 {
        self.n_read.load(Ordering::Relaxed)
    }

    fn encode_batch(&self, texts: &[TokenizedText], batch: &BatchStates, scratch: &mut Scratch) -> Vec<EncodedPiece> {
        let width = self.reader.width();
        let last = &batch.layers[batch.layers.len() - 1];
        let mut encoded: Vec<EncodedPiece> = batch
            .pieces
            .iter()
            .map(|piece| {
                let mut state_sum = piece.special_sum.clone();
                for row in last[piece.rows.start * width..piece.rows.end * width].chunks_exact(width) {
                    state_sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
                EncodedPiece { state_sum, n_states: piece.n_special + piece.rows.len(), dictionaries: Vec::new() }
            })
            .collect();
        for (sae, packed) in self.saes.iter().zip(&self.packed) {
            if sae.level() == Level::Document {
                encoded.iter_mut().for_each(|piece| piece.dictionaries.push(EncodedPieceFeatures::default()));
                continue;
            }
            let ranges = self.encode_rows(sae, packed.as_deref(), texts, batch, scratch);
            for (encoded, range) in encoded.iter_mut().zip(ranges) {
                let (maxima, strongest) = pool(sae, range.clone(), scratch);
                let (residual, total) = sae.unexplained(&scratch.rows, &scratch.sparse, range, &mut scratch.encode);
                encoded.dictionaries.push(EncodedPieceFeatures { maxima, strongest, residual, total });
            }
        }
        encoded
    }

    /// Leaves the normalised rows of a dictionary and their activations in `scratch`; returns each piece's rows.
    fn encode_rows(
        &self,
        sae: &Sae,
        packed: Option<&PackedEncoder>,
        texts: &[TokenizedText],
        batch: &BatchStates,
        scratch: &mut Scratch,
    ) -> Vec<std::ops::Range<usize>> {
        let hook = self.wanted.iter().position(|wanted| wanted.hook() == sae.hook()).unwrap_or(0);
        let Scratch { encode, sparse, rows, .. } = scratch;
        let ranges = sae.gather(texts, batch, hook, rows);
        sae.encode_windows(packed, rows, &batch.windows(hook, sae.input_width()), encode, sparse);
        ranges
    }

    /// Joins the pieces of one text.
    fn join(&self, text: &TokenizedText, pieces: Vec<EncodedPiece>) -> EncodedDocument {
        let mut embedding = vec![0.0f32; self.reader.width()];
        for piece in &pieces {
            embedding.iter_mut().zip(&piece.state_sum).for_each(|(sum, value)| *sum += value);
        }
        let n = pieces.iter().map(|piece| piece.n_states).sum::<usize>().max(1) as f32;
        let length = embedding.iter().map(|value| (value / n).powi(2)).sum::<f32>().sqrt().max(1e-12);
        embedding.iter_mut().for_each(|value| *value /= n * length);
        let features = self.saes.iter().enumerate().map(|(i, sae)| {
            if sae.level() == Level::Document {
                let encoded = sae.encode_embeddings(&embedding).ok();
                return encoded.and_then(|mut rows| rows.pop()).unwrap_or_default();
            }
            let (mut residual, mut total) = (0.0, 0.0);
            let mut maxima: Vec<(u32, f32)> = Vec::new();
            for piece in &pieces {
                let piece = &piece.dictionaries[i];
                residual += piece.residual;
                total += piece.total;
                maxima.extend_from_slice(&piece.maxima);
            }
            let mut features = SparseFeatures::of(sae, maxima);
            let rows = || pieces.iter().flat_map(|piece| &piece.dictionaries[i].strongest);
            let named = rows().filter(|latent| features.latents.binary_search(latent).is_ok()).count();
            // 0 / 0 is NaN.
            features.explained = named as f32 / rows().count() as f32;
            features.fvu = if total > 0.0 { (residual / total) as f32 } else { f32::NAN };
            features
        });
        let features = features.collect();
        EncodedDocument {
            embedding: embedding.into_iter().map(f16::from_f32).collect(),
            features,
            n_tokens: text.tokens.len() as u32,
            n_spans: text.n_spans() as u32,
        }
    }

    /// Encodes one text token by token, for highlighting; presence rules of the document are *not* applied.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn tokens(&self, text: &str) -> Result<Vec<EncodedToken>> {
        self.tokens_of(&Passage::from(text))
    }

    /// [`Self::tokens`] of a text that may be read within a conversation; places are places in the text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn tokens_of(&self, passage: &Passage<'_>) -> Result<Vec<EncodedToken>> {
        let tokenized = self.reader.tokenize_passages(std::slice::from_ref(passage))?;
        let pieces = self.reader.read(&tokenized, &self.wanted, |scratch: &mut Scratch, batch: &BatchStates| {
            let mut pieces: Vec<Vec<Vec<Vec<(u32, f32)>>>> = batch.pieces.iter().map(|_| Vec::new()).collect();
            for (sae, packed) in self.saes.iter().zip(&self.packed) {
                if sae.level() == Level::Document {
                    // No token has a part in it of its own.
                    pieces.iter_mut().zip(&batch.pieces).for_each(|(out, piece)| {
                        out.push(vec![Vec::new(); piece.rows.len()]);
                    });
                    continue;
                }
                let ranges = self.encode_rows(sae, packed.as_deref(), &tokenized, batch, scratch);
                for ((piece, range), out) in batch.pieces.iter().zip(ranges).zip(&mut pieces) {
                    let row = |i: usize| {
                        let (latents, activations) = scratch.sparse.row(range.start + i);
                        latents.iter().copied().zip(activations.iter().copied()).collect::<Vec<_>>()
                    };
                    out.push(match sae.level() {
                        Level::Token => (0..range.len()).map(row).collect(),
                        _ => {
                            let spans = &tokenized[piece.doc].pieces[piece.piece].spans;
                            spans.iter().enumerate().flat_map(|(i, span)| vec![row(i); span.len()]).collect()
                        }
                    });
                }
            }
            Ok(pieces)
        })?;
        let mut tokens: Vec<EncodedToken> = Vec::new();
        for text in &tokenized {
            tokens.extend(text.tokens.iter().map(|token| EncodedToken {
                start: token.start as usize,
                end: token.end as usize,
                latents: Vec::with_capacity(self.saes.len()),
            }));
        }
        let mut from = 0;
        for piece in pieces.into_iter().flatten() {
            let mut n = 0;
            for dictionary in piece {
                n = dictionary.len();
                for (token, latents) in tokens[from..].iter_mut().zip(dictionary) {
                    token.latents.push(latents);
                }
            }
            from += n;
        }
        Ok(tokens)
    }
}

/// Largest activation of each latent over the rows `range`, of latents that reach their presence threshold; and of each row
/// the strongest of those that are not hidden.
fn pool(sae: &Sae, range: std::ops::Range<usize>, scratch: &mut Scratch) -> (Vec<(u32, f32)>, Vec<u32>) {
    let Scratch { sparse, maxima, touched, .. } = scratch;
    maxima.resize(maxima.len().max(sae.width()), 0.0);
    touched.clear();
    let mut strongest = Vec::with_capacity(range.len());
    for i in range {
        let (latents, activations) = sparse.row(i);
        let mut best = (0.0, NONE);
        for (&latent, &activation) in latents.iter().zip(activations) {
            let info = &sae.latents()[latent as usize];
            if activation < info.presence_threshold {
                continue;
            }
            let max = &mut maxima[latent as usize];
            if *max == 0.0 {
                touched.push(latent);
            }
            *max = max.max(activation);
            if activation > best.0 && info.hidden.is_none() {
                best = (activation, latent);
            }
        }
        strongest.push(best.1);
    }
    let pooled = touched.iter().map(|&latent| (latent, std::mem::take(&mut maxima[latent as usize])));
    (pooled.collect(), strongest)
}

impl SparseFeatures {
    /// Joins pooled latents (some may come several times), keeps the strongest, and sorts.
    fn of(sae: &Sae, mut maxima: Vec<(u32, f32)>) -> Self {
        maxima.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
        maxima.dedup_by_key(|&mut (latent, _)| latent);
        let most = max_features(sae.level());
        if maxima.len() > most {
            // Features that users do not want to see make room first.
            let shown = |latent: u32| sae.latents()[latent as usize].hidden.is_none();
            maxima.select_nth_unstable_by(most, |a, b| {
                shown(b.0).cmp(&shown(a.0)).then(b.1.total_cmp(&a.1)).then(a.0.cmp(&b.0))
            });
            maxima.truncate(most);
            maxima.sort_unstable_by_key(|&(latent, _)| latent);
        }
        // Finite and positive in half precision too.
        let half = |max: f32| f16::from_f32(max.min(f16::MAX.to_f32())).max(f16::MIN_POSITIVE_SUBNORMAL);
        Self {
            latents: maxima.iter().map(|&(latent, _)| latent).collect(),
            activations: maxima.iter().map(|&(_, max)| half(max)).collect(),
            fvu: f32::NAN,
            explained: f32::NAN,
        }
    }
}

#[cfg(test)]
mod conversation_tests;
#[cfg(test)]
mod tests;
