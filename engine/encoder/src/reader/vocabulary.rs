//! The tokenizer that a GGUF file describes in its metadata.

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

use crate::error::{Error, ErrorKind, Result};

/// Kinds of token in `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Data, format!("GGUF metadata: {what}"))
}

fn list<'a>(content: &'a Content, key: &str) -> Result<&'a [Value]> {
    let value = content.metadata.get(key).ok_or_else(|| wrong(format!("{key} is missing")))?;
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(wrong(format!("{key}: expected a list"))),
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::I32(n) => Some(i64::from(*n)),
        Value::U32(n) => Some(i64::from(*n)),
        other => other.to_u64().ok().and_then(|n| i64::try_from(n).ok()),
    }
}

/// A token that the metadata name, e.g. `bos`.
pub(super) fn special(content: &Content, name: &str) -> Option<u32> {
    let value = content.metadata.get(&format!("tokenizer.ggml.{name}_token_id"))?;
    whole(value).and_then(|id| u32::try_from(id).ok())
}

/// Whether the metadata say that `name` (`bos`, `eos`) is added to each text; `None` if they do not say.
pub(super) fn adds(content: &Content, name: &str) -> Option<bool> {
    content.metadata.get(&format!("tokenizer.ggml.add_{name}_token"))?.to_bool().ok()
}

/// Builds it: byte-level BPE (`gpt2`) or BPE with scores, as SentencePiece makes it (`llama`).
///
/// # Errors
/// [`ErrorKind::Data`] naming the entry that is missing or the model that is unknown.
pub(super) fn of_gguf(content: &Content) -> Result<Tokenizer> {
    let model = content.metadata.get("tokenizer.ggml.model").and_then(|value| value.to_string().ok());
    match model.map(String::as_str) {
        Some("gpt2") => Tokenizer::from_gguf(content).map_err(|error| wrong("the tokenizer").with_source(error)),
        Some("llama") => sentence_piece(content),
        other => Err(wrong(format!(
            "tokenizer.ggml.model is {}, expected gpt2 or llama; take the model as safetensors with its tokenizer.json",
            other.unwrap_or("missing")
        ))),
    }
}

fn sentence_piece(content: &Content) -> Result<Tokenizer> {
    let failed = |error: tokenizers::Error| wrong("the tokenizer").with_source(error);
    let tokens: Vec<&str> = list(content, "tokenizer.ggml.tokens")?
        .iter()
        .map(|value| value.to_string().map(String::as_str))
        .collect::<candle_core::Result<_>>()
        .map_err(|error| wrong("tokenizer.ggml.tokens").with_source(error))?;
    let scores: Vec<f32> = list(content, "tokenizer.ggml.scores")?
        .iter()
        .map(Value::to_f32)
        .collect::<candle_core::Result<_>>()
        .map_err(|error| wrong("tokenizer.ggml.scores").with_source(error))?;
    let kinds: Vec<i64> = list(content, "tokenizer.ggml.token_type")?.iter().filter_map(whole).collect();
    if scores.len() != tokens.len() || kinds.len() != tokens.len() {
        return Err(wrong(format!("{} tokens, {} scores, {} kinds", tokens.len(), scores.len(), kinds.len())));
    }
    let vocab: Vocab = tokens.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), id)).collect();
    // A piece with a high score is merged early, out of each pair of pieces that it can be made of.
    let mut merges: Vec<(f32, usize, usize, &str)> = Vec::new();
    for (&token, &score) in tokens.iter().zip(&scores) {
        for (cut, _) in token.char_indices().skip(1) {
            if vocab.contains_key(&token[..cut]) && vocab.contains_key(&token[cut..]) {
                merges.push((score, cut, token.len() - cut, token));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    let merges: Merges =
        merges.into_iter().map(|(_, cut, _, token)| (token[..cut].to_owned(), token[cut..].to_owned())).collect();
    let unknown = special(content, "unknown").and_then(|id| tokens.get(id as usize)).copied().unwrap_or("<unk>");
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(unknown.to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(failed)?;
    let mut tokenizer = Tokenizer::new(bpe);
    let spaces: NormalizerWrapper = Replace::new(" ", "▁").map_err(failed)?.into();
    let add_space = content.metadata.get("tokenizer.ggml.add_space_prefix").and_then(|value| value.to_bool().ok());
    let normalizer = match add_space.unwrap_or(true) {
        true => Sequence::new(vec![Prepend::new("▁".to_owned()).into(), spaces]).into(),
        false => spaces,
    };
    tokenizer.with_normalizer(Some(normalizer)).map_err(failed)?;
    let added = |kind: i64| {
        let of_kind = tokens.iter().zip(&kinds).filter(move |(token, k)| **k == kind && !token.is_empty());
        of_kind.map(move |(token, _)| AddedToken::from(*token, kind == CONTROL).normalized(false)).collect::<Vec<_>>()
    };
    tokenizer.add_special_tokens(added(CONTROL)).map_err(failed)?;
    tokenizer.add_tokens(added(USER_DEFINED)).map_err(failed)?;
    Ok(tokenizer)
}
