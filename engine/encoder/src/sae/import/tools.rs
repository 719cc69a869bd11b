//! Dictionaries of training tools: EleutherAI's sparsify, latentsae, dictionary_learning, HypotheSAEs, ITDA.
//!
//! Layouts and arithmetic: `sparsify/{sparse_coder,fused_encoder,config}.py` of EleutherAI/sparsify (package eai-sparsify
//! 1.3.3); `latentsae/sae.py` and `latentsae/utils/config.py` of enjalot/latent-sae (latentsae 0.2.0);
//! `dictionary_learning/{dictionary,utils}.py` and `trainers/*.py` of saprmarks/dictionary_learning (0.1.0);
//! `hypothesaes/sae.py` of rmovva/HypotheSAEs (2.0.1); `train.py` of davidkaczer/itda.

use serde_json::Value;

use super::found::{Fields, Found, Place, json, precision, refused, yaml};
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::level::Level;
use crate::sae::{Architecture, InputNormalization, Output};

/// sparsify and latentsae: `cfg.json` and `sae.safetensors` (`encoder.weight [latents, d_in]`, `W_dec [latents, d_in]`) in a
/// folder that is named after the hook point.
pub(super) fn sparsify(place: &Place) -> Result<Option<Found>> {
    let (Some(config), Some(path)) = (place.has("cfg.json"), place.weights("sae.safetensors")) else { return Ok(None) };
    let (config, tensors) = (json(&config)?, Tensors::open(&path)?);
    // latentsae has a type, and keeps embeddings of whole texts apart.
    let kind = config.text("sae_type").map(str::to_owned);
    let format = if kind.is_some() { "latentsae" } else { "sparsify" };
    if let Some(kind @ ("gated" | "lista" | "cosine")) = kind.as_deref() {
        let why = format!("its architecture '{kind}' is its own (a gate of a sigmoid, inhibition, or cosines)");
        return Err(refused(format, &why));
    }
    let (width, inputs) = tensors.matrix_shape("encoder.weight")?;
    if let Some(said) = config.integer("d_in").filter(|&said| said != inputs) {
        return Err(tensors.damaged(format!("cfg.json says d_in {said}, but the weights have {inputs}")));
    }
    let k = config.integer("k").filter(|&k| k > 0 && k <= width);
    let need_k = || k.ok_or_else(|| tensors.damaged(format!("cfg.json: expected k, 1 to {width}")));
    let signed = config.flag("signed").unwrap_or(false);
    let architecture = match (kind.as_deref(), config.text("activation")) {
        (Some("jumprelu"), _) => Architecture::JumpRelu,
        (Some("abstopk"), _) => Architecture::AbsTopK { k: need_k()? },
        (Some("batchtopk"), _) => {
            Architecture::BatchTopk { threshold: tensors.number("batchtopk_threshold")?.max(0.0), cap: Some(need_k()?) }
        }
        (Some("matryoshka"), _) => {
            let ks = config.text("matryoshka_ks").and_then(|ks| ks.split(',').next_back()?.trim().parse().ok());
            Architecture::TopK { k: ks.map_or_else(need_k, Ok)? }
        }
        (Some("topk"), _) | (None, None | Some("topk")) if !signed => Architecture::TopK { k: need_k()? },
        (None, None | Some("topk")) => Architecture::AbsTopK { k: need_k()? },
        (None, Some("groupmax")) if width.is_multiple_of(need_k()?) => Architecture::GroupMax { k: need_k()? },
        (kind, activation) => {
            let other = kind.or(activation).unwrap_or("groupmax");
            return Err(refused(
                format,
                &format!("its activation '{other}' is not known, or does not fit {width} latents"),
            ));
        }
    };
    let mut found = Found::new(format, architecture, width, inputs);
    found.weights.encoder = tensors.get("encoder.weight", &[width, inputs])?;
    found.weights.encoder_bias = tensors.maybe("encoder.bias", &[width])?.unwrap_or_else(|| vec![0.0; width]);
    let outputs = tensors.matrix_shape("W_dec")?.1;
    found.weights.decoder = tensors.get("W_dec", &[width, outputs])?;
    let bias = tensors.maybe("b_dec", &[outputs])?.unwrap_or_else(|| vec![0.0; outputs]);
    let transcode = config.flag("transcode").unwrap_or(false);
    found.set_decoder_bias(bias, !transcode);
    if config.flag("mean_center") == Some(true) {
        let mean = tensors.get("input_mean", &[inputs])?;
        found.weights.shift.iter_mut().zip(mean).for_each(|(shift, mean)| *shift += mean);
    }
    if architecture == Architecture::JumpRelu {
        found.weights.thresholds = tensors.get("log_threshold", &[width])?.into_iter().map(f32::exp).collect();
        found
            .notes
            .push("the source keeps the 512 strongest latents of a row at most; here all that fire count".to_owned());
    }
    found.precision = precision(&tensors, "encoder.weight");
    let skip = tensors.names().into_iter().any(|name| name.starts_with("W_skip"));
    if transcode || skip {
        let hook = if transcode { "the output of the module whose input it reads" } else { "with a skip connection" };
        found.output = Some(Output { hook: hook.to_owned(), width: outputs });
    }
    let sizes = config.text("matryoshka_sizes").unwrap_or_default();
    found.prefixes = sizes.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let folder = place.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if kind.is_some() {
        found.level = Level::Document;
        found.notes.push("it was trained on embeddings of chunks of text, not on hidden states".to_owned());
    } else {
        found.hook = module(folder, transcode);
        let parent = place.dir.parent().and_then(|parent| json(&parent.join("config.json")).ok());
        found.model = parent.and_then(|config| config.text("model").map(str::to_owned));
    }
    found.k = k.unwrap_or(0);
    found.config = config;
    Ok(Some(found))
}

/// The hook point that sparsify means by the name of a module: `layers.5` is its output, `layers.5.mlp` too; a transcoder
/// reads the module's input.
fn module(folder: &str, transcode: bool) -> Option<String> {
    if folder.ends_with("embed_tokens") {
        return Some("blocks.0.hook_resid_pre".to_owned());
    }
    let folder = folder.replace("layers_", "layers.").replace("h_", "h.");
    let at = folder.find("layers.").map(|at| at + 7).or_else(|| folder.find("h.").map(|at| at + 2))?;
    let rest = &folder[at..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let layer: usize = rest[..end].parse().ok()?;
    match (rest[end..].trim_start_matches('.'), transcode) {
        ("", false) => Some(format!("blocks.{layer}.hook_resid_post")),
        ("mlp", false) => Some(format!("blocks.{layer}.hook_mlp_out")),
        ("mlp", true) => Some(format!("blocks.{layer}.mlp.hook_in")),
        ("attention" | "attn" | "self_attn", false) => Some(format!("blocks.{layer}.hook_attn_out")),
        _ => None,
    }
}

/// dictionary_learning: `ae.pt` and `config.json`.
pub(super) fn dictionary_learning(place: &Place) -> Result<Option<Found>> {
    let Some(path) = place.weights("ae.pt") else { return Ok(None) };
    let tensors = Tensors::open(&path)?;
    let config = place.has("config.json").map(|path| json(&path)).transpose()?.unwrap_or_default();
    let none = Value::Null;
    let trainer = config.get("trainer").unwrap_or(&none);
    let class = match trainer.text("dict_class") {
        Some(class) => class,
        None if tensors.has("gate_bias") => "GatedAutoEncoder",
        None if tensors.has("group_sizes") => "MatryoshkaBatchTopKSAE",
        None if tensors.has("W_enc") && tensors.has("threshold") => "JumpReluAutoEncoder",
        None if tensors.has("bias") => "AutoEncoder",
        None if tensors.has("decoder.bias") => "AutoEncoderNew",
        None => {
            let why =
                "config.json is missing, and its weights may be of TopK or of BatchTopK; put config.json beside ae.pt";
            return Err(refused("dictionary_learning", why));
        }
    };
    let stored_as_parameters = tensors.has("W_enc");
    let (width, inputs) = if stored_as_parameters {
        let (inputs, width) = tensors.matrix_shape("W_enc")?;
        (width, inputs)
    } else {
        tensors.matrix_shape("encoder.weight")?
    };
    let k = || match trainer.integer("k") {
        Some(k) => Ok(k),
        None => Ok::<usize, Error>(tensors.number("k")?.max(0.0) as usize),
    };
    // A threshold below 0 was never learned; every positive latent fires then, as in the source.
    let threshold = || Ok::<f32, Error>(tensors.number("threshold")?.max(0.0));
    let architecture = match class {
        "AutoEncoder" | "AutoEncoderNew" => Architecture::Relu,
        "GatedAutoEncoder" => Architecture::Gated,
        "JumpReluAutoEncoder" => Architecture::JumpRelu,
        "AutoEncoderTopK" => Architecture::TopK { k: k()? },
        "BatchTopKSAE" | "MatryoshkaBatchTopKSAE" => Architecture::BatchTopk { threshold: threshold()?, cap: None },
        other => {
            let known = "AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, AutoEncoderTopK, \
                         BatchTopKSAE, MatryoshkaBatchTopKSAE";
            return Err(refused(
                "dictionary_learning",
                &format!("dict_class '{other}' is not known; known are {known}"),
            ));
        }
    };
    let mut found = Found::new("dictionary_learning", architecture, width, inputs);
    if stored_as_parameters {
        found.weights.encoder = tensors.transposed("W_enc", [inputs, width])?;
        found.weights.decoder = tensors.get("W_dec", &[width, inputs])?;
    } else {
        found.weights.encoder = tensors.get("encoder.weight", &[width, inputs])?;
        found.weights.decoder = tensors.transposed("decoder.weight", [inputs, width])?;
    }
    found.precision = precision(&tensors, if stored_as_parameters { "W_enc" } else { "encoder.weight" });
    if architecture == Architecture::Gated {
        found.weights.encoder_bias = tensors.get("gate_bias", &[width])?;
        found.weights.magnitude = tensors.get("r_mag", &[width])?.into_iter().map(f32::exp).collect();
        found.weights.magnitude_bias = tensors.get("mag_bias", &[width])?;
    } else {
        found.weights.encoder_bias = tensors.get(tensors.any(&["encoder.bias", "b_enc"])?, &[width])?;
    }
    if architecture == Architecture::JumpRelu {
        found.weights.thresholds = match tensors.shape("threshold")? {
            [] => vec![tensors.number("threshold")?; width],
            _ => tensors.get("threshold", &[width])?,
        };
    }
    let bias = tensors.get(tensors.any(&["b_dec", "bias", "decoder_bias", "decoder.bias"])?, &[inputs])?;
    found.set_decoder_bias(bias, !matches!(class, "JumpReluAutoEncoder" | "AutoEncoderNew"));
    let lengths = |decoder: &[f32]| {
        decoder.chunks_exact(inputs).any(|row| (row.iter().map(|x| x * x).sum::<f32>().sqrt() - 1.0).abs() > 1e-5)
    };
    if class == "AutoEncoder" && lengths(&found.weights.decoder) {
        found.fold_decoder_norms();
        found
            .notes
            .push("its decoder was brought to rows of length 1, as dictionary_learning does on loading".to_owned());
    }
    if tensors.has("group_sizes") {
        let sizes = tensors.read("group_sizes")?;
        found.prefixes = sizes
            .iter()
            .scan(0, |sum, &size| {
                Some({
                    *sum += size as usize;
                    *sum
                })
            })
            .collect();
    }
    found.k = trainer.integer("k").unwrap_or(found.k);
    found.model = trainer.text("lm_name").map(str::to_owned);
    let submodule = trainer.text("submodule_name").unwrap_or_default();
    found.hook = trainer.integer("layer").map(|layer| match submodule {
        name if name.contains("att") => format!("blocks.{layer}.hook_attn_out"),
        name if name.contains("mlp") => format!("blocks.{layer}.hook_mlp_out"),
        _ => format!("blocks.{layer}.hook_resid_post"),
    });
    found.config = config;
    Ok(Some(found))
}

/// HypotheSAEs: a pt file of `config` and `state_dict`, over embeddings of texts.
pub(super) fn hypothesaes(place: &Place) -> Result<Option<Found>> {
    let Some(path) = place.only(&[".pt", ".pth"]) else { return Ok(None) };
    let tensors = Tensors::open(&path)?;
    if !(tensors.has("neuron_bias") && tensors.has("input_bias")) {
        return Ok(None);
    }
    let none = Value::Null;
    let config = tensors.values.get("config").unwrap_or(&none).clone();
    let (width, inputs) = tensors.matrix_shape("encoder.weight")?;
    let architecture = if config.flag("use_batch_topk").unwrap_or(false) {
        Architecture::BatchTopk { threshold: tensors.number("threshold")?.max(0.0), cap: None }
    } else {
        let k = config.integer("k_active_neurons").filter(|&k| k > 0 && k <= width);
        let k = k.ok_or_else(|| tensors.damaged(format!("config: expected k_active_neurons, 1 to {width}")))?;
        Architecture::TopK { k }
    };
    let mut found = Found::new("HypotheSAEs", architecture, width, inputs);
    found.weights.encoder = tensors.get("encoder.weight", &[width, inputs])?;
    found.weights.decoder = tensors.transposed("decoder.weight", [inputs, width])?;
    found.weights.encoder_bias = tensors.get("neuron_bias", &[width])?;
    found.set_decoder_bias(tensors.get("input_bias", &[inputs])?, true);
    found.precision = precision(&tensors, "encoder.weight");
    found.prefixes = config.integers("prefix_lengths");
    found.k = config.integer("k_active_neurons").unwrap_or(0);
    found.level = Level::Document;
    found.notes.push("it was trained on embeddings of whole texts, whose model the file does not name".to_owned());
    found.config = config;
    Ok(Some(found))
}

/// ITDA: `atoms.pt` (a matrix of atoms) and `metadata.yaml`.
pub(super) fn itda(place: &Place) -> Result<Option<Found>> {
    let (Some(path), Some(metadata)) = (place.weights("atoms.pt"), place.has("metadata.yaml")) else { return Ok(None) };
    let tensors = Tensors::open(&path)?;
    let config = yaml(&metadata)?;
    let (width, inputs) = tensors.matrix_shape("tensor")?;
    let k = config.integer("k").unwrap_or(40);
    let mut found = Found::new("ITDA", Architecture::Itda { k }, width, inputs);
    found.weights.decoder = tensors.get("tensor", &[width, inputs])?;
    found.set_decoder_bias(vec![0.0; inputs], false);
    found.precision = precision(&tensors, "tensor");
    found.normalization = InputNormalization::None;
    found.model = config.text("lm_name").map(str::to_owned);
    found.hook = config.integer("layer").map(|layer| format!("blocks.{layer}.hook_resid_post"));
    found.config = config;
    Ok(Some(found))
}
