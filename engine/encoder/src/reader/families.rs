//! What a model's `config.json` says it computes, and what its tensors are called. The forward pass knows no family: all
//! that sets them apart is described here, as data.

use serde_json::{Map, Value};

use super::layers::{Activation, NormKind, Sight};
use crate::error::{Error, ErrorKind, Result};

/// How a block joins attention, MLP and norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `x += attention(norm(x)); x += mlp(norm(x))`, each behind a further norm where there is one (Gemma 2 and 3).
    Before,
    /// `x += attention(norm(x)) + mlp(norm(x))` (Pythia, Phi).
    Parallel,
    /// `x = norm(x + attention(x)); x = norm(x + mlp(x))` (BERT).
    After,
}

/// Rotary positions of some blocks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rotary {
    /// Radians a position of each pair of numbers.
    pub(super) frequencies: Vec<f32>,
    /// Multiplies what is rotated.
    pub(super) factor: f32,
    /// Whether neighbours are rotated together.
    pub(super) interleaved: bool,
}

/// What sets a block apart from others of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockKind {
    pub(super) sight: Sight,
    /// Position in [`Architecture::rotary`].
    pub(super) rotary: Option<usize>,
}

/// How queries, keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qkv {
    /// Three matrices.
    Apart([&'static str; 3]),
    /// One matrix, all queries first.
    Joined(&'static str),
    /// The same, stored `[in, out]` (GPT-2).
    JoinedTransposed(&'static str),
    /// One matrix, query, key and value of each head together (GPT-NeoX).
    ByHead(&'static str),
}

/// How the first matrix or matrices of an MLP are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inner {
    /// One matrix.
    Plain(&'static str),
    /// Gate and what it multiplies, in two matrices.
    Gated([&'static str; 2]),
    /// The same in one matrix, the gate first.
    GatedJoined(&'static str),
}

/// Names of tensors, without `.weight` and `.bias`. Whether there is a bias, the checkpoint says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// What may stand before all names, tried in turn.
    pub(super) prefixes: &'static [&'static str],
    pub(super) words: &'static str,
    pub(super) positions: Option<&'static str>,
    pub(super) types: Option<&'static str>,
    pub(super) embedding_norm: Option<&'static str>,
    /// Bias of attention by distance (T5's buckets).
    pub(super) distances: Option<&'static str>,
    /// Block `{}`; the names below stand behind it.
    pub(super) block: &'static str,
    pub(super) before_attention: Option<&'static str>,
    pub(super) qkv: Qkv,
    pub(super) query_key_norms: Option<[&'static str; 2]>,
    pub(super) attention: &'static str,
    pub(super) after_attention: Option<&'static str>,
    pub(super) before_mlp: Option<&'static str>,
    pub(super) inner: Inner,
    pub(super) outer: &'static str,
    pub(super) after_mlp: Option<&'static str>,
    pub(super) final_norm: Option<&'static str>,
    /// Whether all matrices of blocks are stored `[in, out]`.
    pub(super) transposed: bool,
    /// Whether the checkpoint also says which norms and embeddings there are.
    pub(super) lenient: bool,
}

/// What a model computes.
#[derive(Debug, Clone)]
pub(super) struct Architecture {
    /// What the configuration calls it, e.g. `gemma3_text`.
    pub(super) family: String,
    pub(super) width: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head: usize,
    /// Positions that the model was made for.
    pub(super) max_positions: usize,
    pub(super) norm: NormKind,
    pub(super) epsilon: f32,
    /// Added to the gains of norms (Gemma stores them as differences from 1).
    pub(super) gain_offset: f32,
    pub(super) order: Order,
    pub(super) activation: Activation,
    /// Factor of attention scores.
    pub(super) scale: f32,
    /// Soft cap of attention scores.
    pub(super) cap: Option<f32>,
    /// Factor of the embedding.
    pub(super) embedding_scale: f32,
    /// Learned positions begin at this row.
    pub(super) first_position: usize,
    pub(super) blocks: Vec<BlockKind>,
    pub(super) rotary: Vec<Rotary>,
    pub(super) names: Names,
}

impl Architecture {
    /// Whether a token sees only what comes before it.
    pub(super) fn causal(&self) -> bool {
        self.blocks.iter().any(|block| block.sight.causal)
    }
}

/// Model types that are known, for messages.
const KNOWN: &str = "bert, camembert, distilbert, gemma, gemma2, gemma3, gpt2, gpt_neox, llama, mistral, modernbert, mpnet, \
                     nomic_bert, phi, phi3, qwen2, qwen3, roberta, xlm-roberta";

const DECODER: Names = Names {
    prefixes: &["model.", "", "language_model.model.", "model.language_model."],
    words: "embed_tokens",
    positions: None,
    types: None,
    embedding_norm: None,
    distances: None,
    block: "layers.{}.",
    before_attention: Some("input_layernorm"),
    qkv: Qkv::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    query_key_norms: None,
    attention: "self_attn.o_proj",
    after_attention: None,
    before_mlp: Some("post_attention_layernorm"),
    inner: Inner::Gated(["mlp.gate_proj", "mlp.up_proj"]),
    outer: "mlp.down_proj",
    after_mlp: None,
    final_norm: Some("norm"),
    transposed: false,
    lenient: false,
};

const ENCODER: Names = Names {
    prefixes: &["", "bert.", "roberta.", "model."],
    words: "embeddings.word_embeddings",
    positions: Some("embeddings.position_embeddings"),
    types: Some("embeddings.token_type_embeddings"),
    embedding_norm: Some("embeddings.LayerNorm"),
    distances: None,
    block: "encoder.layer.{}.",
    before_attention: None,
    qkv: Qkv::Apart(["attention.self.query", "attention.self.key", "attention.self.value"]),
    query_key_norms: None,
    attention: "attention.output.dense",
    after_attention: Some("attention.output.LayerNorm"),
    before_mlp: None,
    inner: Inner::Plain("intermediate.dense"),
    outer: "output.dense",
    after_mlp: Some("output.LayerNorm"),
    final_norm: None,
    transposed: false,
    lenient: false,
};

/// A configuration that is being read.
struct Config<'a> {
    family: &'a str,
    values: &'a Map<String, Value>,
}

impl Config<'_> {
    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Data, format!("config.json of a {} model: {what}", self.family))
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(format!("{key}: expected a number, got {value}"))),
        }
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.optional_number(key)?.ok_or_else(|| self.wrong(format!("{key} is missing")))
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        match self.optional_number(key)? {
            None => Ok(None),
            Some(number) if number >= 0.0 && number.fract() == 0.0 && number < 1e9 => Ok(Some(number as usize)),
            Some(number) => Err(self.wrong(format!("{key}: expected a count, got {number}"))),
        }
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.optional_count(key)?.ok_or_else(|| self.wrong(format!("{key} is missing")))
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Refuses a setting that changes what is computed and that is not known here.
    fn refuse(&self, key: &str, usual: bool) -> Result<()> {
        if self.flag(key, usual) == usual {
            return Ok(());
        }
        Err(self.wrong(format!("{key} = {}: not supported", !usual)))
    }

    fn activation(&self, key: &str, default: &str) -> Result<Activation> {
        let name = self.text(key).unwrap_or(default);
        match name {
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            "silu" | "swish" | "swiglu" => Ok(Activation::Silu),
            "relu" => Ok(Activation::Relu),
            other => Err(self.wrong(format!(
                "{key} '{other}': expected gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, silu, swiglu or relu"
            ))),
        }
    }

    /// Kinds of the blocks: `sliding` ones see `window` tokens to the left (to either side if not causal), the others all.
    fn kinds(
        &self,
        n_layers: usize,
        causal: bool,
        window: Option<usize>,
        sliding: impl Fn(usize) -> bool,
    ) -> Vec<BlockKind> {
        let listed = self.get("layer_types").and_then(Value::as_array);
        let kind = |i: usize| {
            let sliding = match listed.and_then(|types| types.get(i)).and_then(Value::as_str) {
                Some(kind) => kind == "sliding_attention",
                None => sliding(i),
            };
            BlockKind { sight: Sight { causal, reach: window.filter(|_| sliding) }, rotary: None }
        };
        (0..n_layers).map(kind).collect()
    }

    /// Rotary positions over `rotated` numbers of a head. `theta` is used unless the configuration has another under
    /// `key`; `kind` is the kind of block that they are for, where a configuration has several.
    fn rotary(&self, rotated: usize, key: &str, theta: f64, kind: Option<&str>) -> Result<Rotary> {
        let mut parameters =
            self.get("rope_parameters").or_else(|| self.get("rope_scaling")).and_then(Value::as_object);
        if let (Some(kinds), Some(kind)) = (parameters, kind)
            && kinds.values().any(Value::is_object)
        {
            parameters = kinds.get(kind).and_then(Value::as_object);
        }
        let own = parameters.and_then(|p| p.get("rope_theta")).and_then(Value::as_f64);
        let theta = own.or(self.optional_number(key)?).unwrap_or(theta);
        let plain: Vec<f64> = (0..rotated / 2).map(|i| theta.powf(-2.0 * i as f64 / rotated as f64)).collect();
        let mut rotary = Scaling { config: self, parameters, rotated, theta }.apply(plain)?;
        rotary.interleaved = false;
        Ok(rotary)
    }
}

/// Changes of rotary frequencies for contexts longer than those of the first training (`rope_scaling`).
struct Scaling<'a> {
    config: &'a Config<'a>,
    parameters: Option<&'a Map<String, Value>>,
    rotated: usize,
    theta: f64,
}

impl Scaling<'_> {
    fn number(&self, key: &str) -> Option<f64> {
        self.parameters?.get(key)?.as_f64()
    }

    fn needed(&self, key: &str) -> Result<f64> {
        self.number(key).ok_or_else(|| self.config.wrong(format!("rope scaling needs {key}")))
    }

    /// Positions of the first training.
    fn original(&self) -> Result<f64> {
        match self.number("original_max_position_embeddings") {
            Some(n) => Ok(n),
            None => match self.config.optional_number("original_max_position_embeddings")? {
                Some(n) => Ok(n),
                None => self.config.number("max_position_embeddings"),
            },
        }
    }

    fn apply(&self, plain: Vec<f64>) -> Result<Rotary> {
        let kind = |key: &str| self.parameters.and_then(|p| p.get(key)).and_then(Value::as_str);
        let (frequencies, factor) = match kind("rope_type").or_else(|| kind("type")).unwrap_or("default") {
            // Dynamic scaling sets in beyond the context of the first training, which windows do not leave.
            "default" | "mrope" | "dynamic" => (plain, 1.0),
            "linear" => {
                let factor = self.needed("factor")?;
                (plain.iter().map(|f| f / factor).collect(), 1.0)
            }
            "llama3" => (self.llama3(plain)?, 1.0),
            "yarn" => self.yarn(plain)?,
            "longrope" | "su" => self.longrope(plain)?,
            other => {
                let message =
                    format!("rope scaling '{other}': expected default, linear, dynamic, llama3, yarn or longrope");
                return Err(self.config.wrong(message));
            }
        };
        let frequencies = frequencies.iter().map(|&f| f as f32).collect();
        Ok(Rotary { frequencies, factor: factor as f32, interleaved: false })
    }

    /// Llama 3.1: slow frequencies are divided, fast ones stay, those between are mixed.
    fn llama3(&self, plain: Vec<f64>) -> Result<Vec<f64>> {
        let factor = self.needed("factor")?;
        let (low, high) = (self.needed("low_freq_factor")?, self.needed("high_freq_factor")?);
        let original = self.original()?;
        let scaled = plain.iter().map(|&f| {
            let turns = original * f / std::f64::consts::TAU;
            let mix = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - mix) * f / factor + mix * f
        });
        Ok(scaled.collect())
    }

    /// YaRN (Peng et al. 2023, arXiv:2309.00071).
    fn yarn(&self, plain: Vec<f64>) -> Result<(Vec<f64>, f64)> {
        let factor = self.needed("factor")?;
        let original = self.original()?;
        let (fast, slow) = (self.number("beta_fast").unwrap_or(32.0), self.number("beta_slow").unwrap_or(1.0));
        let at = |turns: f64| {
            self.rotated as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (at(fast), at(slow));
        if self.parameters.and_then(|p| p.get("truncate")).and_then(Value::as_bool).unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(self.rotated as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let scaled = plain.iter().enumerate().map(|(i, &f)| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / factor * ramp + f * (1.0 - ramp)
        });
        let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
        let attention = match (self.number("attention_factor"), self.number("mscale"), self.number("mscale_all_dim")) {
            (Some(factor), ..) => factor,
            (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => mscale(factor, m) / mscale(factor, all),
            _ => mscale(factor, 1.0),
        };
        Ok((scaled.collect(), attention))
    }

    /// LongRoPE of Phi 3: windows are shorter than the first training's context, so the short factors hold.
    fn longrope(&self, plain: Vec<f64>) -> Result<(Vec<f64>, f64)> {
        let factors = self.parameters.and_then(|p| p.get("short_factor")).and_then(Value::as_array);
        let factors: Option<Vec<f64>> = factors.map(|list| list.iter().filter_map(Value::as_f64).collect());
        let factors = factors
            .filter(|factors| factors.len() == plain.len())
            .ok_or_else(|| self.config.wrong(format!("rope scaling needs short_factor, a list of {}", plain.len())))?;
        let original = self.original()?;
        let factor = match self.number("factor") {
            Some(factor) => factor,
            None => self.config.number("max_position_embeddings")? / original,
        };
        let attention = match self.number("attention_factor").or(self.number("short_mscale")) {
            Some(attention) => attention,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        Ok((plain.iter().zip(&factors).map(|(f, factor)| f / factor).collect(), attention))
    }
}

/// Reads `config.json`.
///
/// # Errors
/// [`ErrorKind::Data`] naming what is missing, or the model types that are known.
pub(super) fn of_config(config: &Value) -> Result<Architecture> {
    let no_object = || Error::new(ErrorKind::Data, "config.json: expected an object");
    let mut values = config.as_object().ok_or_else(no_object)?;
    let mut family = values.get("model_type").and_then(Value::as_str).unwrap_or_default();
    // Models that also see images keep the part that reads under `text_config`.
    if let Some(text) = values.get("text_config").and_then(Value::as_object) {
        values = text;
        family = text.get("model_type").and_then(Value::as_str).unwrap_or(family);
    }
    let c = Config { family, values };
    match family {
        "llama" | "mistral" | "qwen2" | "qwen3" | "gemma" | "gemma2" | "gemma3" | "gemma3_text" | "phi3" | "phi" => {
            decoder(&c)
        }
        "gpt2" => gpt2(&c),
        "gpt_neox" => gpt_neox(&c),
        "bert" | "roberta" | "xlm-roberta" | "camembert" | "mpnet" => bert(&c),
        "distilbert" => distilbert(&c),
        "modernbert" => modernbert(&c),
        "nomic_bert" => nomic_bert(&c),
        "" => Err(Error::new(ErrorKind::Data, format!("config.json has no model_type; expected one of {KNOWN}"))),
        other => Err(Error::new(
            ErrorKind::Data,
            format!("config.json: model_type '{other}' is unknown; there are: {KNOWN}"),
        )),
    }
}

/// Llama and all that descend from it.
fn decoder(c: &Config<'_>) -> Result<Architecture> {
    let gemma = c.family.starts_with("gemma");
    let (width, n_heads, n_layers) =
        (c.count("hidden_size")?, c.count("num_attention_heads")?, c.count("num_hidden_layers")?);
    let head = match c.optional_count("head_dim")? {
        Some(head) => head,
        None if gemma => 256,
        None => width / n_heads.max(1),
    };
    let rotated =
        (c.number_or("partial_rotary_factor", if c.family == "phi" { 0.5 } else { 1.0 })? * head as f64) as usize;
    let rotated = match c.get("rope_parameters").and_then(|p| p.get("partial_rotary_factor")).and_then(Value::as_f64) {
        Some(share) => (share * head as f64) as usize,
        None => rotated,
    };
    let window = c.optional_count("sliding_window")?;
    let sliding_pattern = c.optional_count("sliding_window_pattern")?.unwrap_or(6).max(1);
    let full_first = c.optional_count("max_window_layers")?.unwrap_or(0);
    let sliding = |i: usize| match c.family {
        "mistral" | "phi3" => true,
        "qwen2" | "qwen3" => i >= full_first,
        "gemma2" => i.is_multiple_of(2),
        "gemma3" | "gemma3_text" => !(i + 1).is_multiple_of(sliding_pattern),
        _ => false,
    };
    let windowed = match c.family {
        "qwen2" | "qwen3" => c.flag("use_sliding_window", false),
        _ => true,
    };
    // A window of n tokens counts the token itself.
    let window = window.filter(|&n| n > 0 && windowed).map(|n| n - 1);
    let mut blocks = c.kinds(n_layers, true, window, sliding);
    let theta = if c.family == "gemma3" || c.family == "gemma3_text" { 1e6 } else { 1e4 };
    let mut rotary = vec![c.rotary(rotated, "rope_theta", theta, Some("full_attention"))?];
    blocks.iter_mut().for_each(|block| block.rotary = Some(0));
    if c.family.starts_with("gemma3") {
        let local = match c.get("rope_parameters") {
            Some(_) => c.rotary(rotated, "rope_local_base_freq", 1e4, Some("sliding_attention"))?,
            // Before there were parameters for each kind of block, only the global ones were scaled.
            None => {
                let mut values = c.values.clone();
                values.remove("rope_scaling");
                Config { family: c.family, values: &values }.rotary(rotated, "rope_local_base_freq", 1e4, None)?
            }
        };
        rotary.push(local);
        blocks.iter_mut().filter(|block| block.sight.reach.is_some()).for_each(|block| block.rotary = Some(1));
    }
    let mut names = DECODER;
    match c.family {
        "gemma2" | "gemma3" | "gemma3_text" => {
            names.after_attention = Some("post_attention_layernorm");
            names.before_mlp = Some("pre_feedforward_layernorm");
            names.after_mlp = Some("post_feedforward_layernorm");
        }
        "phi3" => {
            names.qkv = Qkv::Joined("self_attn.qkv_proj");
            names.inner = Inner::GatedJoined("mlp.gate_up_proj");
        }
        "phi" => {
            c.refuse("qk_layernorm", false)?;
            names.attention = "self_attn.dense";
            names.before_mlp = None;
            names.inner = Inner::Plain("mlp.fc1");
            names.outer = "mlp.fc2";
            names.final_norm = Some("final_layernorm");
        }
        _ => {}
    }
    if matches!(c.family, "qwen3" | "gemma3" | "gemma3_text") {
        names.query_key_norms = Some(["self_attn.q_norm", "self_attn.k_norm"]);
    }
    if c.flag("use_bidirectional_attention", false) {
        blocks.iter_mut().for_each(|block| block.sight.causal = false);
    }
    let activation = match c.family {
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => match c.get("hidden_activation") {
            Some(_) => c.activation("hidden_activation", "gelu_pytorch_tanh")?,
            // The first Gemma's configuration says gelu and means the formula with tanh.
            None => Activation::GeluTanh,
        },
        "phi" => c.activation("hidden_act", "gelu_new")?,
        _ => c.activation("hidden_act", "silu")?,
    };
    let scale = match c.family {
        "gemma2" | "gemma3" | "gemma3_text" => c.number_or("query_pre_attn_scalar", 256.0)?,
        _ => head as f64,
    };
    let phi = c.family == "phi";
    Ok(Architecture {
        family: c.family.to_owned(),
        width,
        n_heads,
        n_kv_heads: c.optional_count("num_key_value_heads")?.unwrap_or(n_heads),
        head,
        max_positions: c.optional_count("max_position_embeddings")?.unwrap_or(2048),
        norm: if phi { NormKind::Layer } else { NormKind::Rms },
        epsilon: if phi { c.number_or("layer_norm_eps", 1e-5)? } else { c.number_or("rms_norm_eps", 1e-6)? } as f32,
        gain_offset: if gemma { 1.0 } else { 0.0 },
        order: if phi { Order::Parallel } else { Order::Before },
        activation,
        scale: (1.0 / scale.sqrt()) as f32,
        cap: c.optional_number("attn_logit_softcapping")?.filter(|_| c.family != "gemma").map(|cap| cap as f32),
        embedding_scale: if gemma { (width as f64).sqrt() as f32 } else { 1.0 },
        first_position: 0,
        blocks,
        rotary,
        names,
    })
}

fn gpt2(c: &Config<'_>) -> Result<Architecture> {
    c.refuse("scale_attn_weights", true)?;
    c.refuse("scale_attn_by_inverse_layer_idx", false)?;
    let (width, n_heads, n_layers) = (c.count("n_embd")?, c.count("n_head")?, c.count("n_layer")?);
    let head = width / n_heads.max(1);
    let names = Names {
        prefixes: &["transformer.", ""],
        words: "wte",
        positions: Some("wpe"),
        block: "h.{}.",
        before_attention: Some("ln_1"),
        qkv: Qkv::JoinedTransposed("attn.c_attn"),
        attention: "attn.c_proj",
        before_mlp: Some("ln_2"),
        inner: Inner::Plain("mlp.c_fc"),
        outer: "mlp.c_proj",
        final_norm: Some("ln_f"),
        transposed: true,
        ..DECODER
    };
    Ok(Architecture {
        max_positions: c.count("n_positions")?,
        activation: c.activation("activation_function", "gelu_new")?,
        ..layer_normed(c, width, n_heads, head, c.number_or("layer_norm_epsilon", 1e-5)?, n_layers, true, names)
    })
}

fn gpt_neox(c: &Config<'_>) -> Result<Architecture> {
    let (width, n_heads, n_layers) =
        (c.count("hidden_size")?, c.count("num_attention_heads")?, c.count("num_hidden_layers")?);
    let head = width / n_heads.max(1);
    let mut share = c.number_or("rotary_pct", 0.25)?;
    if let Some(own) = c.get("rope_parameters").and_then(|p| p.get("partial_rotary_factor")).and_then(Value::as_f64) {
        share = own;
    }
    let names = Names {
        prefixes: &["gpt_neox.", ""],
        words: "embed_in",
        qkv: Qkv::ByHead("attention.query_key_value"),
        attention: "attention.dense",
        inner: Inner::Plain("mlp.dense_h_to_4h"),
        outer: "mlp.dense_4h_to_h",
        final_norm: Some("final_layer_norm"),
        ..DECODER
    };
    let rotary = c.rotary((share * head as f64) as usize, "rotary_emb_base", 1e4, None)?;
    let mut architecture = Architecture {
        max_positions: c.count("max_position_embeddings")?,
        order: if c.flag("use_parallel_residual", true) { Order::Parallel } else { Order::Before },
        activation: c.activation("hidden_act", "gelu")?,
        rotary: vec![rotary],
        ..layer_normed(c, width, n_heads, head, c.number_or("layer_norm_eps", 1e-5)?, n_layers, true, names)
    };
    architecture.blocks.iter_mut().for_each(|block| block.rotary = Some(0));
    Ok(architecture)
}

/// What GPT-2, GPT-NeoX and the BERT family have in common; the rest is that of GPT-2 (`causal`) or BERT.
#[expect(clippy::too_many_arguments, reason = "the numbers every configuration has, under names of its own")]
fn layer_normed(
    c: &Config<'_>,
    width: usize,
    n_heads: usize,
    head: usize,
    epsilon: f64,
    n_layers: usize,
    causal: bool,
    names: Names,
) -> Architecture {
    Architecture {
        family: c.family.to_owned(),
        width,
        n_heads,
        n_kv_heads: n_heads,
        head,
        max_positions: 512,
        norm: NormKind::Layer,
        epsilon: epsilon as f32,
        gain_offset: 0.0,
        order: if causal { Order::Before } else { Order::After },
        activation: Activation::Gelu,
        scale: 1.0 / (head as f32).sqrt(),
        cap: None,
        embedding_scale: 1.0,
        first_position: 0,
        blocks: c.kinds(n_layers, causal, None, |_| false),
        rotary: Vec::new(),
        names,
    }
}

/// BERT, RoBERTa, XLM-R, CamemBERT and MPNet.
fn bert(c: &Config<'_>) -> Result<Architecture> {
    if let Some(kind) = c.text("position_embedding_type").filter(|&kind| kind != "absolute") {
        return Err(c.wrong(format!("position_embedding_type '{kind}': expected 'absolute'")));
    }
    let (width, n_heads, n_layers) =
        (c.count("hidden_size")?, c.count("num_attention_heads")?, c.count("num_hidden_layers")?);
    let names = match c.family {
        "mpnet" => Names {
            prefixes: &["", "mpnet."],
            types: None,
            distances: Some("encoder.relative_attention_bias"),
            qkv: Qkv::Apart(["attention.attn.q", "attention.attn.k", "attention.attn.v"]),
            attention: "attention.attn.o",
            after_attention: Some("attention.LayerNorm"),
            ..ENCODER
        },
        _ => ENCODER,
    };
    // RoBERTa counts positions from behind the padding token's number.
    let first_position = match c.family {
        "bert" => 0,
        _ => c.optional_count("pad_token_id")?.unwrap_or(1) + 1,
    };
    let n_positions = c.count("max_position_embeddings")?;
    Ok(Architecture {
        max_positions: n_positions.saturating_sub(first_position),
        activation: c.activation("hidden_act", "gelu")?,
        first_position,
        ..layer_normed(
            c,
            width,
            n_heads,
            width / n_heads.max(1),
            c.number_or("layer_norm_eps", 1e-12)?,
            n_layers,
            false,
            names,
        )
    })
}

fn distilbert(c: &Config<'_>) -> Result<Architecture> {
    let (width, n_heads, n_layers) = (c.count("dim")?, c.count("n_heads")?, c.count("n_layers")?);
    let names = Names {
        prefixes: &["", "distilbert."],
        types: None,
        block: "transformer.layer.{}.",
        qkv: Qkv::Apart(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
        attention: "attention.out_lin",
        after_attention: Some("sa_layer_norm"),
        inner: Inner::Plain("ffn.lin1"),
        outer: "ffn.lin2",
        after_mlp: Some("output_layer_norm"),
        ..ENCODER
    };
    Ok(Architecture {
        max_positions: c.count("max_position_embeddings")?,
        activation: c.activation("activation", "gelu")?,
        ..layer_normed(c, width, n_heads, width / n_heads.max(1), 1e-12, n_layers, false, names)
    })
}

fn modernbert(c: &Config<'_>) -> Result<Architecture> {
    let (width, n_heads, n_layers) =
        (c.count("hidden_size")?, c.count("num_attention_heads")?, c.count("num_hidden_layers")?);
    let head = width / n_heads.max(1);
    let every = c.optional_count("global_attn_every_n_layers")?.unwrap_or(3).max(1);
    // The window counts both sides.
    let window = c.optional_count("local_attention")?.map(|n| n / 2);
    let mut blocks = c.kinds(n_layers, false, window, |i| !i.is_multiple_of(every));
    let global = c.rotary(head, "global_rope_theta", 160_000.0, Some("full_attention"))?;
    let local = c.rotary(head, "local_rope_theta", 10_000.0, Some("sliding_attention"))?;
    for block in &mut blocks {
        block.rotary = Some(usize::from(block.sight.reach.is_some()));
    }
    let names = Names {
        prefixes: &["model.", ""],
        words: "embeddings.tok_embeddings",
        positions: None,
        types: None,
        embedding_norm: Some("embeddings.norm"),
        block: "layers.{}.",
        before_attention: Some("attn_norm"),
        qkv: Qkv::Joined("attn.Wqkv"),
        attention: "attn.Wo",
        after_attention: None,
        before_mlp: Some("mlp_norm"),
        inner: Inner::GatedJoined("mlp.Wi"),
        outer: "mlp.Wo",
        after_mlp: None,
        final_norm: Some("final_norm"),
        ..ENCODER
    };
    Ok(Architecture {
        max_positions: c.optional_count("max_position_embeddings")?.unwrap_or(8192),
        order: Order::Before,
        activation: c.activation("hidden_activation", "gelu")?,
        blocks,
        rotary: vec![global, local],
        ..layer_normed(c, width, n_heads, head, c.number_or("norm_eps", 1e-5)?, n_layers, false, names)
    })
}

fn nomic_bert(c: &Config<'_>) -> Result<Architecture> {
    c.refuse("prenorm", false)?;
    let either = |ours: &str, theirs: &str| match c.optional_count(ours)? {
        Some(n) => Ok(n),
        None => c.count(theirs),
    };
    let width = either("n_embd", "hidden_size")?;
    let n_heads = either("n_head", "num_attention_heads")?;
    let n_layers = either("n_layer", "num_hidden_layers")?;
    let head = width / n_heads.max(1);
    let rotated = (c.number_or("rotary_emb_fraction", 1.0)? * head as f64) as usize;
    let mut rotary = c.rotary(rotated, "rotary_emb_base", 10_000.0, None)?;
    rotary.interleaved = c.flag("rotary_emb_interleaved", false);
    let gated = c.text("activation_function").is_none_or(|name| matches!(name, "swiglu" | "geglu" | "glu"));
    let activation = match c.text("activation_function") {
        Some("geglu") => Activation::Gelu,
        _ => c.activation("activation_function", "swiglu")?,
    };
    let names = Names {
        prefixes: &["", "bert."],
        positions: None,
        embedding_norm: Some("emb_ln"),
        block: "encoder.layers.{}.",
        qkv: Qkv::Joined("attn.Wqkv"),
        attention: "attn.out_proj",
        after_attention: Some("norm1"),
        inner: if gated { Inner::Gated(["mlp.fc12", "mlp.fc11"]) } else { Inner::Plain("mlp.fc1") },
        outer: "mlp.fc2",
        after_mlp: Some("norm2"),
        ..ENCODER
    };
    let epsilon = match c.optional_number("layer_norm_epsilon")? {
        Some(epsilon) => epsilon,
        None => c.number_or("layer_norm_eps", 1e-12)?,
    };
    let mut architecture = Architecture {
        max_positions: either("n_positions", "max_position_embeddings")?,
        activation,
        rotary: vec![rotary],
        ..layer_normed(c, width, n_heads, head, epsilon, n_layers, false, names)
    };
    architecture.blocks.iter_mut().for_each(|block| block.rotary = Some(0));
    Ok(architecture)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn llama(changes: Value) -> Result<Architecture> {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
            "max_position_embeddings": 64,
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        of_config(&config)
    }

    #[test]
    fn what_is_not_known_is_refused_not_ignored() {
        for (changes, part) in [
            (json!({"model_type": "mamba"}), "model_type 'mamba' is unknown; there are: bert"),
            (json!({"rope_scaling": {"rope_type": "spiral"}}), "rope scaling 'spiral': expected default"),
            (json!({"rope_scaling": {"type": "linear"}}), "rope scaling needs factor"),
            (json!({"hidden_act": "tanh"}), "hidden_act 'tanh': expected gelu"),
            (json!({"hidden_size": null}), "hidden_size is missing"),
            (json!({"hidden_size": "wide"}), "hidden_size: expected a number, got \"wide\""),
            (json!({"num_hidden_layers": 2.5}), "num_hidden_layers: expected a count, got 2.5"),
        ] {
            let error = llama(changes).unwrap_err();
            assert!(error.message().contains(part), "{error}");
        }
        let gpt2 = json!({
            "model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 8,
            "scale_attn_by_inverse_layer_idx": true,
        });
        assert!(of_config(&gpt2).unwrap_err().message().contains("scale_attn_by_inverse_layer_idx = true"));
    }

    #[test]
    fn old_and_new_ways_to_write_rotary_settings_are_the_same() {
        let old = llama(json!({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}})).unwrap();
        let new =
            llama(json!({"rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0}})).unwrap();
        assert_eq!(old.rotary, new.rotary);
        assert_eq!(old.rotary[0].frequencies[0], 0.25);
        let gemma = |changes: Value| {
            let mut all = json!({"model_type": "gemma3_text", "sliding_window": 16, "head_dim": 8});
            all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            llama(all).unwrap()
        };
        let old = gemma(json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 2}));
        let new = gemma(json!({
            "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
            "layer_types": ["sliding_attention", "full_attention"],
        }));
        assert_eq!((&old.rotary, &old.blocks), (&new.rotary, &new.blocks));
        assert_eq!(old.blocks.iter().map(|block| block.sight.reach).collect::<Vec<_>>(), [Some(15), None]);
        assert!(old.rotary[0].frequencies[1] < old.rotary[1].frequencies[1]);
    }
}
