//! SAELens: `cfg.json` and `sae_weights.safetensors` (`W_enc [d_in, d_sae]`, `W_dec [d_sae, d_out]`, `b_enc`, `b_dec`), and
//! `sparsity.safetensors` (log10 of densities) if there is one.
//!
//! Layout and arithmetic: `sae_lens/saes/*.py` and `sae_lens/loading/pretrained_sae_loaders.py` of decoderesearch/SAELens,
//! version 6; configurations of versions before 6.0 are read as its `handle_pre_6_0_config` does.

use serde_json::Value;

use super::found::{Fields, Found, Place, json, precision, refused};
use super::temporal;
use super::tensors::Tensors;
use crate::error::{Error, ErrorKind, Result};
use crate::sae::{Architecture, InputNormalization, Output};

const NAME: &str = "SAELens";

/// Reads the folder; `None` if it is of another format. `scale`: the factor of inputs, where the source leaves it out.
///
/// # Errors
/// As [`super::import`].
pub(super) fn read(place: &Place, scale: Option<f32>) -> Result<Option<Found>> {
    let Some(weights) = place.weights("sae_weights.safetensors") else { return Ok(None) };
    let Some(cfg_path) = place.has("cfg.json") else {
        // Llama Scope R1 names its weights alike.
        if place.has("config.json").is_some() {
            return Ok(None);
        }
        return Err(refused(NAME, "its cfg.json is missing; put it beside sae_weights.safetensors"));
    };
    let cfg = Config(json(&cfg_path)?);
    let tensors = Tensors::open(&weights)?;
    let architecture_name = cfg.architecture();
    if let Some(head) =
        cfg.meta("hook_head_index").or_else(|| cfg.meta("hook_point_head_index")).and_then(Value::as_u64)
    {
        return Err(refused(NAME, &format!("it reads head {head} alone; hook points have all heads of a block")));
    }
    let matching = architecture_name == "matching_pursuit";
    let temporal = architecture_name == "temporal";
    let decoder_shape = tensors.matrix_shape("W_dec")?;
    let (width, outputs) = decoder_shape;
    let inputs = if matching || temporal { outputs } else { tensors.matrix_shape("W_enc")?.0 };
    for (key, found) in [("d_sae", width), ("d_in", inputs)] {
        if let Some(said) = cfg.0.integer(key).filter(|&said| said != found) {
            return Err(
                tensors.damaged(format!("{}: {key} is {said}, but the weights have {found}", cfg_path.display()))
            );
        }
    }
    let k = cfg
        .0
        .integer(if temporal { "kval_topk" } else { "k" })
        .or_else(|| cfg.0.get("activation_fn_kwargs")?.integer("k"));
    let need_k = || {
        k.filter(|&k| k > 0 && k <= width).ok_or_else(|| {
            let message = format!("{}: expected k, 1 to {width}, for {architecture_name}", cfg_path.display());
            Error::new(ErrorKind::Corrupt, message)
        })
    };
    let transcoder = architecture_name.contains("transcoder");
    let architecture = match architecture_name {
        "standard" | "transcoder" | "skip_transcoder" => Architecture::Relu,
        "gated" => Architecture::Gated,
        "jumprelu" | "jumprelu_transcoder" | "jumprelu_skip_transcoder" => Architecture::JumpRelu,
        "topk" => Architecture::TopK { k: need_k()? },
        "abstopk" => Architecture::AbsTopK { k: need_k()? },
        // Training checkpoints; what SAELens saves for use is JumpReLU.
        "batchtopk" | "matryoshka_batchtopk" if tensors.has("topk_threshold") => {
            Architecture::BatchTopk { threshold: tensors.number("topk_threshold")?.max(0.0), cap: None }
        }
        "batchtopk" | "matryoshka_batchtopk" => Architecture::JumpRelu,
        "matching_pursuit" => Architecture::MatchingPursuit {
            max_iterations: cfg.0.integer("max_iterations").unwrap_or(inputs),
            residual_threshold: cfg.0.float("residual_threshold").unwrap_or(1e-2),
            stop_on_duplicate: cfg.0.flag("stop_on_duplicate_support").unwrap_or(true),
        },
        "temporal" => temporal::architecture(NAME, &cfg.0, &tensors, width)?,
        other => {
            let known = "standard, gated, jumprelu, topk, abstopk, batchtopk, matryoshka_batchtopk, matching_pursuit, temporal, \
                         transcoder, skip_transcoder, jumprelu_transcoder, jumprelu_skip_transcoder";
            return Err(refused(NAME, &format!("architecture '{other}' is not known; known are {known}")));
        }
    };
    let mut found = Found::new(NAME, architecture, width, inputs);
    let weights = &mut found.weights;
    if !architecture.is_tied() {
        weights.encoder = tensors.transposed("W_enc", [inputs, width])?;
    }
    weights.decoder = tensors.get("W_dec", &[width, outputs])?;
    match architecture {
        Architecture::Gated => {
            weights.encoder_bias = tensors.get("b_gate", &[width])?;
            weights.magnitude = tensors.get("r_mag", &[width])?.into_iter().map(f32::exp).collect();
            weights.magnitude_bias = tensors.get("b_mag", &[width])?;
        }
        Architecture::Temporal { .. } => weights.attention = temporal::attention(architecture, &tensors, width)?,
        _ if matching => {}
        _ => weights.encoder_bias = tensors.get("b_enc", &[width])?,
    }
    if architecture == Architecture::JumpRelu {
        weights.thresholds = match tensors.maybe("log_threshold", &[width])? {
            Some(logarithms) => logarithms.into_iter().map(f32::exp).collect(),
            None => tensors.get("threshold", &[width])?,
        };
    }
    found.precision = precision(&tensors, "W_dec");
    let bias = tensors.get("b_dec", &[outputs])?;
    let to_input = !transcoder && cfg.0.flag("apply_b_dec_to_input").unwrap_or(true);
    if architecture.is_tied() && !to_input {
        // The sources add it to the output only if they take it off the input.
        found.set_decoder_bias(vec![0.0; outputs], false);
    } else {
        found.set_decoder_bias(bias, to_input);
    }
    if tensors.has("scaling_factor") && tensors.read("scaling_factor")?.iter().any(|x| (x - 1.0).abs() > 1e-5) {
        return Err(refused(NAME, "it has finetuned scaling factors, which SAELens itself has given up in version 6"));
    }
    if cfg.0.flag("rescale_acts_by_decoder_norm").unwrap_or(false) {
        found.fold_decoder_norms();
    }
    let normalization = match cfg.0.get("normalize_activations") {
        Some(Value::Bool(true)) => "expected_average_only_in",
        Some(Value::String(kind)) => kind.as_str(),
        _ => "none",
    };
    found.normalization = match (normalization, scale) {
        ("none", None) => InputNormalization::None,
        ("constant_norm_rescale", None) => InputNormalization::RowNorm,
        ("layer_norm", None) => InputNormalization::LayerNorm,
        ("constant_scalar_rescale", None) if temporal => {
            InputNormalization::Scale { factor: cfg.0.float("activation_normalization_factor").unwrap_or(1.0) }
        }
        ("none" | "expected_average_only_in", Some(factor)) => InputNormalization::Scale { factor },
        ("expected_average_only_in" | "covariance_whitening", None) => {
            found.notes.push(format!(
                "its configuration asks for {normalization}, whose statistics are not in the folder; weights are taken as \
                 they are, as SAELens does{}",
                if normalization == "covariance_whitening" { "" } else { " (give --input-scale if they are not folded)" }
            ));
            InputNormalization::None
        }
        (other, Some(_)) => {
            let why = format!("--input-scale does not go with normalize_activations '{other}'");
            return Err(Error::new(ErrorKind::Query, why));
        }
        (other, None) => return Err(refused(NAME, &format!("normalize_activations '{other}' is not known"))),
    };
    if transcoder || tensors.has("W_skip") {
        let hook = cfg.meta("hook_name_out").and_then(Value::as_str).unwrap_or("not said").to_owned();
        found.output = Some(Output { hook, width: outputs });
    } else if outputs != inputs {
        return Err(tensors.damaged(format!("it reads {inputs} values and rebuilds {outputs}, but is no transcoder")));
    }
    found.prefixes = cfg.prefixes();
    if found.prefixes.last().is_some_and(|&last| last != width) {
        found.prefixes.push(width);
    }
    found.model = cfg.meta("model_name").and_then(Value::as_str).map(str::to_owned);
    found.hook = cfg
        .meta("hook_name")
        .or_else(|| cfg.meta("hook_point"))
        .and_then(Value::as_str)
        .or_else(|| cfg.meta("hf_hook_name").and_then(Value::as_str))
        .map(str::to_owned);
    found.k = k.unwrap_or(0);
    if cfg.meta("prepend_bos").and_then(Value::as_bool) == Some(true) {
        found.notes.push("it was trained on texts that begin with the model's BOS token".to_owned());
    }
    if let Some(path) = place.has("sparsity.safetensors") {
        let sparsity = Tensors::open(&path)?;
        let logarithms = sparsity.get("sparsity", &[width])?;
        found.densities = logarithms.into_iter().map(|log| 10f32.powf(log).clamp(0.0, 1.0)).collect();
    }
    found.config = cfg.0;
    Ok(Some(found))
}

struct Config(Value);

impl Config {
    /// What version 6 keeps under `metadata`, and earlier ones beside the rest.
    fn meta(&self, key: &str) -> Option<&Value> {
        let there = |value: &&Value| !value.is_null();
        self.0.get("metadata").and_then(|meta| meta.get(key)).filter(there).or_else(|| self.0.get(key).filter(there))
    }

    fn architecture(&self) -> &str {
        let activation = self.0.text("activation_fn").or_else(|| self.0.text("activation_fn_str"));
        match self.0.text("architecture") {
            // Before version 6 TopK was an activation function of the standard architecture.
            None | Some("standard") if activation == Some("topk") => "topk",
            None => "standard",
            Some(name) => name,
        }
    }

    fn prefixes(&self) -> Vec<usize> {
        let direct = self.0.integers("matryoshka_widths");
        if !direct.is_empty() {
            return direct;
        }
        let details = self.meta("training_architecture_details");
        details.map(|details| details.integers("matryoshka_widths")).unwrap_or_default()
    }
}
