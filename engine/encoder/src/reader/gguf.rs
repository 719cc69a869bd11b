//! What the metadata of a GGUF file say: the `config.json` of the same model, and other names of its tensors.

use candle_core::quantized::gguf_file;
use serde_json::{Map, Value};

use super::families::{Architecture, Inner, Names, Qkv, of_config};
use crate::error::{Error, ErrorKind, Result};

/// Names of tensors in GGUF files, which are the same for all families.
const GGUF: Names = Names {
    prefixes: &[""],
    words: "token_embd",
    positions: Some("position_embd"),
    types: Some("token_types"),
    embedding_norm: Some("token_embd_norm"),
    distances: None,
    block: "blk.{}.",
    before_attention: Some("attn_norm"),
    qkv: Qkv::Apart(["attn_q", "attn_k", "attn_v"]),
    query_key_norms: Some(["attn_q_norm", "attn_k_norm"]),
    attention: "attn_output",
    after_attention: None,
    before_mlp: Some("ffn_norm"),
    inner: Inner::Gated(["ffn_gate", "ffn_up"]),
    outer: "ffn_down",
    after_mlp: None,
    final_norm: Some("output_norm"),
    transposed: false,
    lenient: true,
};

/// Reads the metadata of a GGUF file by writing them as the `config.json` of the same model.
///
/// # Errors
/// As [`of_config`]; [`ErrorKind::Data`] for an architecture that is not known.
pub(super) fn architecture(content: &gguf_file::Content) -> Result<Architecture> {
    let wrong = |what: String| Error::new(ErrorKind::Data, format!("GGUF metadata: {what}"));
    let text = |key: &str| content.metadata.get(key).and_then(|value| value.to_string().ok());
    let kind = text("general.architecture").ok_or_else(|| wrong("general.architecture is missing".to_owned()))?;
    let number = |key: &str| {
        let value = content.metadata.get(&format!("{kind}.{key}"))?;
        let float = value.to_f32().map(f64::from).or_else(|_| value.to_f64()).ok();
        float.or_else(|| value.to_u64().ok().map(|n| n as f64))
    };
    let (family, renamed): (&str, &[(&str, &str)]) = match kind.as_str() {
        "llama" | "qwen2" | "qwen3" | "gemma" | "gemma2" | "phi3" => (kind, &[]),
        "gemma3" => ("gemma3_text", &[]),
        "phi2" => ("phi", &[]),
        "gpt2" => {
            let renamed = &[
                ("n_embd", "embedding_length"),
                ("n_head", "attention.head_count"),
                ("n_layer", "block_count"),
                ("n_positions", "context_length"),
                ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
            ];
            ("gpt2", renamed)
        }
        "gptneox" => ("gpt_neox", &[("rotary_emb_base", "rope.freq_base")]),
        other => {
            let known = "gemma, gemma2, gemma3, gpt2, gptneox, llama, phi2, phi3, qwen2, qwen3";
            return Err(wrong(format!("architecture '{other}' is unknown; there are: {known}")));
        }
    };
    let mut config = Map::new();
    config.insert("model_type".to_owned(), family.into());
    let usual = [
        ("hidden_size", "embedding_length"),
        ("num_attention_heads", "attention.head_count"),
        ("num_key_value_heads", "attention.head_count_kv"),
        ("num_hidden_layers", "block_count"),
        ("head_dim", "attention.key_length"),
        ("max_position_embeddings", "context_length"),
        ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        ("layer_norm_eps", "attention.layer_norm_epsilon"),
        ("rope_theta", "rope.freq_base"),
        ("rope_local_base_freq", "rope.freq_base_swa"),
        ("sliding_window", "attention.sliding_window"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
    ];
    for (ours, theirs) in usual.iter().chain(renamed) {
        if let Some(value) = number(theirs) {
            let value = if value.fract() == 0.0 && value < 1e15 { (value as u64).into() } else { value.into() };
            config.insert((*ours).to_owned(), value);
        }
    }
    if let (Some(turned), Some(head)) = (number("rope.dimension_count"), config.get("head_dim").and_then(Value::as_f64))
    {
        config.insert("partial_rotary_factor".to_owned(), (turned / head).into());
    } else if let (Some(turned), Some(width), Some(heads)) =
        (number("rope.dimension_count"), number("embedding_length"), number("attention.head_count"))
    {
        let share = Value::from(turned * heads / width);
        config.insert("partial_rotary_factor".to_owned(), share.clone());
        config.insert("rotary_pct".to_owned(), share);
    }
    if family == "gemma2" || family == "gemma3_text" {
        // Not kept in the file: the head's width, but for the largest models, which use the width over the heads.
        let large = matches!((family, number("block_count")), ("gemma2", Some(46.0)) | ("gemma3_text", Some(62.0)));
        let scalar = match (number("embedding_length"), number("attention.head_count"), number("attention.key_length"))
        {
            (Some(width), Some(heads), _) if large => width / heads,
            (_, _, Some(head)) => head,
            _ => 256.0,
        };
        config.insert("query_pre_attn_scalar".to_owned(), scalar.into());
    }
    if let Some(parallel) = content.metadata.get("gptneox.use_parallel_residual").and_then(|value| value.to_bool().ok())
    {
        config.insert("use_parallel_residual".to_owned(), parallel.into());
    }
    match (text(&format!("{kind}.rope.scaling.type")).map(String::as_str), number("rope.scaling.factor")) {
        (Some("linear"), Some(factor)) => {
            let scaling = serde_json::json!({"rope_type": "linear", "factor": factor});
            config.insert("rope_scaling".to_owned(), scaling);
        }
        (None | Some("none"), _) => {}
        (Some(other), _) => {
            return Err(wrong(format!("rope scaling '{other}' is not supported; take the safetensors of the model")));
        }
    }
    let mut architecture = of_config(&Value::Object(config))?;
    let own = architecture.names;
    architecture.names = Names {
        before_mlp: own.before_mlp.and(GGUF.before_mlp),
        after_attention: own.after_attention.map(|_| "post_attention_norm"),
        after_mlp: own.after_mlp.map(|_| "post_ffw_norm"),
        qkv: match own.qkv {
            Qkv::Apart(_) if content.tensor_infos.contains_key("blk.0.attn_qkv.weight") => Qkv::Joined("attn_qkv"),
            Qkv::Apart(_) => GGUF.qkv,
            _ => Qkv::Joined("attn_qkv"),
        },
        inner: match own.inner {
            Inner::Gated(_) => GGUF.inner,
            Inner::GatedJoined(_) => Inner::GatedJoined("ffn_up"),
            Inner::Plain(_) => Inner::Plain("ffn_up"),
        },
        ..GGUF
    };
    // Files store Gemma's gains with the 1 added, and Llama's queries and keys with rotated pairs side by side.
    architecture.gain_offset = 0.0;
    if kind == "llama" {
        architecture.rotary.iter_mut().for_each(|rotary| rotary.interleaved = true);
    }
    Ok(architecture)
}
