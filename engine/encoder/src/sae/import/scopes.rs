//! Dictionaries of model makers and large labs: Gemma Scope 1 and 2, Llama Scope, Qwen Scope, Goodfire, DeepSeek-R1.
//!
//! Layouts: `sae_lens/loading/pretrained_sae_loaders.py` of decoderesearch/SAELens, whose loaders name the files, tensors and
//! shapes of each; Goodfire's also in `interp_embed/saes/utils.py` of the package interp-embed. Which model and hook point a
//! dictionary belongs to is in the names of repository and folder.

use super::found::{Fields, Found, Place, json, precision, refused};
use super::tensors::Tensors;
use crate::error::Result;
use crate::sae::{Architecture, InputNormalization, Output};

/// Gemma Scope 1: `params.npz` in `layer_L/width_N/average_l0_X` of `gemma-scope-<size>-<pt|it>-<res|mlp|att|transcoders>`.
pub(super) fn gemma_scope_1(place: &Place) -> Result<Option<Found>> {
    let Some(path) = place.weights("params.npz").or_else(|| place.only(&[".npz"])) else { return Ok(None) };
    let tensors = Tensors::open(&path)?;
    let [encoder, decoder] = [tensors.any(&["W_enc", "w_enc"])?, tensors.any(&["W_dec", "w_dec"])?];
    let (inputs, width) = tensors.matrix_shape(encoder)?;
    let outputs = tensors.matrix_shape(decoder)?.1;
    let mut found = Found::new("Gemma Scope", Architecture::JumpRelu, width, inputs);
    found.weights.encoder = tensors.transposed(encoder, [inputs, width])?;
    found.weights.decoder = tensors.get(decoder, &[width, outputs])?;
    found.weights.encoder_bias = tensors.get("b_enc", &[width])?;
    found.weights.thresholds = tensors.get("threshold", &[width])?;
    found.set_decoder_bias(tensors.get("b_dec", &[outputs])?, false);
    found.precision = precision(&tensors, encoder);
    let address = place.address.clone();
    let sizes = ["2b-it", "9b-it", "27b-it", "2b", "9b", "27b"];
    found.model = address
        .contains("gemma-scope")
        .then(|| sizes.iter().find(|size| address.contains(*size)))
        .flatten()
        .map(|size| format!("google/gemma-2-{size}"));
    let layer = place.number("layer_");
    let (at, after) = (format!("blocks.{}.", layer.unwrap_or(0)), |site: &str| address.contains(site));
    found.hook = if after("embedding") {
        // Trained on embeddings before Gemma's factor; the residual stream has it.
        let factor = 1.0 / (inputs as f32).sqrt();
        found.weights.decoder_bias.iter_mut().for_each(|value| *value *= factor);
        found.normalization = InputNormalization::Scale { factor };
        Some("blocks.0.hook_resid_pre".to_owned())
    } else if layer.is_none() {
        None
    } else if after("transcoder") {
        found.output = Some(Output { hook: format!("{at}hook_mlp_out"), width: outputs });
        found.notes.push(
            "TransformerLens takes its input before the norm's weights are multiplied, this program behind them; compare \
             its activations before you rely on them"
                .to_owned(),
        );
        Some(format!("{at}ln2.hook_normalized"))
    } else if after("-res") {
        Some(format!("{at}hook_resid_post"))
    } else if after("-mlp") {
        Some(format!("{at}hook_mlp_out"))
    } else if after("-att") {
        Some(format!("{at}attn.hook_z"))
    } else {
        None
    };
    if found.output.is_none() && outputs != inputs {
        return Err(tensors.damaged(format!("it reads {inputs} values and rebuilds {outputs}")));
    }
    found.k = place.number("average_l0_").unwrap_or(0);
    Ok(Some(found))
}

/// Gemma Scope 2: `params.safetensors` with lower-case names, and `config.json`.
pub(super) fn gemma_scope_2(place: &Place) -> Result<Option<Found>> {
    let Some(path) = place.weights("params.safetensors") else { return Ok(None) };
    let tensors = Tensors::open(&path)?;
    let config = place.has("config.json").map(|path| json(&path)).transpose()?.unwrap_or_default();
    if tensors.shape("w_dec")?.len() == 3 {
        return Err(refused("Gemma Scope 2", "a cross-layer transcoder rebuilds several layers at once"));
    }
    let (inputs, width) = tensors.matrix_shape("w_enc")?;
    let outputs = tensors.matrix_shape("w_dec")?.1;
    let mut found = Found::new("Gemma Scope 2", Architecture::JumpRelu, width, inputs);
    found.weights.encoder = tensors.transposed("w_enc", [inputs, width])?;
    found.weights.decoder = tensors.get("w_dec", &[width, outputs])?;
    found.weights.encoder_bias = tensors.get("b_enc", &[width])?;
    found.weights.thresholds = tensors.get("threshold", &[width])?;
    found.set_decoder_bias(tensors.get("b_dec", &[outputs])?, false);
    found.precision = precision(&tensors, "w_enc");
    let address = &place.address;
    let layer = place.number("layer_");
    let at = |site: &str| layer.map(|layer| format!("blocks.{layer}.{site}"));
    let transcoder = address.contains("transcoder") || address.contains("clt");
    found.hook = if transcoder {
        // Behind the norm before the MLP, as `hf_hook_point_in` says: SAELens calls it hook_mlp_in.
        at("ln2.hook_normalized")
    } else if address.contains("resid_post") {
        at("hook_resid_post")
    } else if address.contains("attn_out") {
        at("attn.hook_z")
    } else if address.contains("mlp_out") {
        at("hook_mlp_out")
    } else {
        config.text("hf_hook_point_in").map(str::to_owned)
    };
    if transcoder || tensors.has("affine_skip_connection") {
        let hook = at("hook_mlp_out").or_else(|| config.text("hf_hook_point_out").map(str::to_owned));
        found.output = Some(Output { hook: hook.unwrap_or_else(|| "not said".to_owned()), width: outputs });
    } else if outputs != inputs {
        return Err(tensors.damaged(format!("it reads {inputs} values and rebuilds {outputs}")));
    }
    let said = config.text("model_name").map(|name| name.replace("-v3", "-3"));
    let inferred = || {
        let from = &address[address.find("gemma-scope-2-")? + "gemma-scope-2-".len()..];
        Some(format!("gemma-3-{}", from.split(['/', '\\']).next()?))
    };
    found.model = said.or_else(inferred).map(|name| {
        let name = name.strip_prefix("google/").unwrap_or(&name).to_owned();
        // The hub calls the smallest base model without the ending of the others.
        format!("google/{}", if name.contains("270m") { name.replace("-pt", "") } else { name })
    });
    found.config = config;
    Ok(Some(found))
}

/// Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`; states are scaled so that their average length is
/// the square root of the width.
pub(super) fn llama_scope(place: &Place) -> Result<Option<Found>> {
    let Some(config) = place.has("hyperparams.json") else { return Ok(None) };
    let Some(path) = place.weights("checkpoints/final.safetensors").or_else(|| place.weights("final.safetensors"))
    else {
        return Ok(None);
    };
    let (config, tensors) = (json(&config)?, Tensors::open(&path)?);
    let (width, inputs) = tensors.matrix_shape("encoder.weight")?;
    let outputs = tensors.matrix_shape("decoder.weight")?.0;
    let norm = config.get("dataset_average_activation_norm").and_then(|norm| norm.float("in"));
    let Some((norm, threshold)) = norm.filter(|norm| *norm > 0.0).zip(config.float("jump_relu_threshold")) else {
        let what = "hyperparams.json has no dataset_average_activation_norm.in or no jump_relu_threshold";
        return Err(refused("Llama Scope", what));
    };
    let factor = (inputs as f32).sqrt() / norm;
    let mut found = Found::new("Llama Scope", Architecture::JumpRelu, width, inputs);
    found.normalization = InputNormalization::Scale { factor };
    found.weights.encoder = tensors.get("encoder.weight", &[width, inputs])?;
    found.weights.decoder = tensors.transposed("decoder.weight", [outputs, width])?;
    found.weights.encoder_bias = tensors.get("encoder.bias", &[width])?;
    // The threshold is in units of unscaled states.
    found.weights.thresholds = vec![threshold * factor; width];
    found.set_decoder_bias(tensors.get("decoder.bias", &[outputs])?, false);
    found.precision = precision(&tensors, "encoder.weight");
    found.model = Some("meta-llama/Llama-3.1-8B".to_owned());
    found.hook = config.text("hook_point_in").map(str::to_owned);
    let out = config.text("hook_point_out").map(str::to_owned);
    if out.is_some() && out != found.hook || outputs != inputs {
        found.output = Some(Output { hook: out.unwrap_or_else(|| "not said".to_owned()), width: outputs });
    }
    found.config = config;
    Ok(Some(found))
}

/// Llama Scope R1 distillation: `config.json`, and `sae_weights.safetensors` with logarithms of thresholds.
pub(super) fn llama_scope_r1(place: &Place, scale: Option<f32>) -> Result<Option<Found>> {
    let (Some(config), Some(path)) = (place.has("config.json"), place.weights("sae_weights.safetensors")) else {
        return Ok(None);
    };
    let tensors = Tensors::open(&path)?;
    if !tensors.has("log_jumprelu_threshold") {
        return Ok(None);
    }
    let config = json(&config)?;
    let (width, inputs) = tensors.matrix_shape("encoder.weight")?;
    let mut found = Found::new("Llama Scope R1", Architecture::JumpRelu, width, inputs);
    found.weights.encoder = tensors.get("encoder.weight", &[width, inputs])?;
    found.weights.decoder = tensors.transposed("decoder.weight", [inputs, width])?;
    found.weights.encoder_bias = tensors.get("encoder.bias", &[width])?;
    let logarithms = tensors.get("log_jumprelu_threshold", &[width])?;
    found.weights.thresholds = logarithms.into_iter().map(f32::exp).collect();
    found.set_decoder_bias(tensors.get("decoder.bias", &[inputs])?, false);
    found.precision = precision(&tensors, "encoder.weight");
    match scale {
        Some(factor) => found.normalization = InputNormalization::Scale { factor },
        None => found.notes.push(
            "its states were scaled to an average length, which the folder does not say; give --input-scale (SAELens's \
             norm_scaling_factor), or import it by its release name"
                .to_owned(),
        ),
    }
    found.model = Some("meta-llama/Llama-3.1-8B".to_owned());
    found.hook = config.text("hook_point_in").map(str::to_owned);
    found.config = config;
    Ok(Some(found))
}

/// Files with nothing beside them: Qwen Scope (`layerN.sae.pt`), Goodfire, DeepSeek-R1 (qresearch), and the transcoders of
/// circuit-tracer (`layer_N.safetensors`).
pub(super) fn bare_file(place: &Place) -> Result<Option<Found>> {
    let Some(path) = place.only(&[".pt", ".pth", ".safetensors"]) else { return Ok(None) };
    let tensors = Tensors::open(&path)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if tensors.has("encoder_linear.weight") {
        return goodfire(place, &tensors, &name).map(Some);
    }
    if name.ends_with(".sae.pt") && tensors.has("W_enc") {
        return qwen_scope(place, &tensors).map(Some);
    }
    let attention = path.with_file_name(format!("{}_cfg.json", name.strip_suffix(".pt").unwrap_or(&name)));
    if tensors.has("W_enc") && attention.is_file() {
        return attention_output(&tensors, &attention).map(Some);
    }
    let names = tensors.names();
    if names == ["decoder.bias", "decoder.weight", "encoder.bias", "encoder.weight"] {
        return deepseek_r1(place, &tensors).map(Some);
    }
    if name.ends_with(".safetensors") && ["W_enc", "W_dec", "b_enc", "b_dec"].iter().all(|name| tensors.has(name)) {
        return circuit_tracer(place, &tensors).map(Some);
    }
    Ok(None)
}

fn goodfire(place: &Place, tensors: &Tensors, file: &str) -> Result<Found> {
    let (width, inputs) = tensors.matrix_shape("encoder_linear.weight")?;
    let mut found = Found::new("Goodfire", Architecture::Relu, width, inputs);
    found.weights.encoder = tensors.get("encoder_linear.weight", &[width, inputs])?;
    found.weights.decoder = tensors.transposed("decoder_linear.weight", [inputs, width])?;
    found.weights.encoder_bias = tensors.get("encoder_linear.bias", &[width])?;
    found.set_decoder_bias(tensors.get("decoder_linear.bias", &[inputs])?, false);
    found.precision = precision(tensors, "encoder_linear.weight");
    // E.g. Llama-3.3-70B-Instruct-SAE-l50.pt
    let stem = file.split('.').take(file.split('.').count() - 1).collect::<Vec<_>>().join(".");
    found.model = stem.split_once("-SAE-").map(|(model, _)| format!("meta-llama/{model}"));
    found.hook = place.number("-SAE-l").map(|layer| format!("blocks.{layer}.hook_resid_post"));
    Ok(found)
}

/// Attention SAEs of ckkissane: `W_enc`, `W_dec`, `b_enc`, `b_dec` in a pt file, and `<name>_cfg.json`.
fn attention_output(tensors: &Tensors, config: &std::path::Path) -> Result<Found> {
    let config = json(config)?;
    let (inputs, width) = tensors.matrix_shape("W_enc")?;
    let mut found = Found::new("attention SAE", Architecture::Relu, width, inputs);
    found.weights.encoder = tensors.transposed("W_enc", [inputs, width])?;
    found.weights.decoder = tensors.get("W_dec", &[width, inputs])?;
    found.weights.encoder_bias = tensors.get("b_enc", &[width])?;
    found.set_decoder_bias(tensors.get("b_dec", &[inputs])?, true);
    found.precision = precision(tensors, "W_enc");
    found.model = Some("gpt2-small".to_owned());
    found.hook = config.text("act_name").map(str::to_owned);
    found.config = config;
    Ok(found)
}

fn qwen_scope(place: &Place, tensors: &Tensors) -> Result<Found> {
    let (width, inputs) = tensors.matrix_shape("W_enc")?;
    let Some(k) = place.number("L0_").filter(|&k| k > 0 && k <= width) else {
        let why =
            "how many latents fire stands only in the repository's name (…-L0_50); keep the folder under that name";
        return Err(refused("Qwen Scope", why));
    };
    let mut found = Found::new("Qwen Scope", Architecture::TopK { k }, width, inputs);
    found.weights.encoder = tensors.get("W_enc", &[width, inputs])?;
    found.weights.decoder = tensors.transposed("W_dec", [inputs, width])?;
    found.weights.encoder_bias = tensors.get("b_enc", &[width])?;
    found.set_decoder_bias(tensors.get("b_dec", &[inputs])?, false);
    found.precision = precision(tensors, "W_enc");
    let named = place.address.split_once("SAE-Res-").and_then(|(_, rest)| rest.split_once("-W"));
    found.model = named.map(|(model, _)| format!("Qwen/{model}"));
    found.hook = place.number("layer").map(|layer| format!("blocks.{layer}.hook_resid_post"));
    Ok(found)
}

fn deepseek_r1(place: &Place, tensors: &Tensors) -> Result<Found> {
    let (width, inputs) = tensors.matrix_shape("encoder.weight")?;
    let mut found = Found::new("DeepSeek-R1", Architecture::Relu, width, inputs);
    found.weights.encoder = tensors.get("encoder.weight", &[width, inputs])?;
    found.weights.decoder = tensors.transposed("decoder.weight", [inputs, width])?;
    found.weights.encoder_bias = tensors.get("encoder.bias", &[width])?;
    found.set_decoder_bias(tensors.get("decoder.bias", &[inputs])?, false);
    found.precision = precision(tensors, "encoder.weight");
    if place.address.contains("DeepSeek-R1-Distill-Llama-8B") {
        found.model = Some("deepseek-ai/DeepSeek-R1-Distill-Llama-8B".to_owned());
    }
    found.hook = place.number("SAE-l").map(|layer| format!("blocks.{layer}.hook_resid_post"));
    Ok(found)
}

fn circuit_tracer(place: &Place, tensors: &Tensors) -> Result<Found> {
    let (width, inputs) = tensors.matrix_shape("W_enc")?;
    let outputs = tensors.matrix_shape("W_dec")?.1;
    let architecture = if tensors.has("threshold") { Architecture::JumpRelu } else { Architecture::Relu };
    let mut found = Found::new("transcoder", architecture, width, inputs);
    found.weights.encoder = tensors.get("W_enc", &[width, inputs])?;
    found.weights.decoder = tensors.get("W_dec", &[width, outputs])?;
    found.weights.encoder_bias = tensors.get("b_enc", &[width])?;
    found.weights.thresholds = tensors.maybe("threshold", &[width])?.unwrap_or_default();
    found.set_decoder_bias(tensors.get("b_dec", &[outputs])?, false);
    found.precision = precision(tensors, "W_enc");
    let layer = place.number("layer_");
    found.hook = layer.map(|layer| format!("blocks.{layer}.mlp.hook_in"));
    let hook = layer.map_or("not said".to_owned(), |layer| format!("blocks.{layer}.hook_mlp_out"));
    found.output = Some(Output { hook, width: outputs });
    Ok(found)
}
