//! Temporal dictionaries: `D [latents, d_in]`, `b`, `E [d_in, latents]` if it is not the decoder, and layers of attention
//! `attn_layers.N` (`q_target`, `k_ctx`, `v_ctx`, `c_proj`) beside `conf.yaml`; SAELens has the same layers.
//!
//! Layout and arithmetic: `sae/{saeTemporal,utils}.py` of eslubana/temporalSAEs; `sae_lens/saes/temporal_sae.py` and
//! `get_temporal_sae_config_from_hf` of decoderesearch/SAELens, which reads the folders of canrager/temporalSAEs on the hub.

use serde_json::Value;

use super::found::{Fields, Found, Place, precision, refused, yaml};
use super::tensors::Tensors;
use crate::error::{Error, ErrorKind, Result};
use crate::sae::{Architecture, AttentionWeights, InputNormalization};

const NAME: &str = "temporalSAEs";

/// Reads a folder of temporalSAEs; `None` if it is of another format. `scale`: what the user says that states are multiplied
/// by, which these files say themselves.
///
/// # Errors
/// As [`super::import`].
pub(super) fn read(place: &Place, scale: Option<f32>) -> Result<Option<Found>> {
    let (Some(path), Some(weights)) = (place.has("conf.yaml"), place.weights("latest_ckpt.safetensors")) else {
        return Ok(None);
    };
    let (config, tensors) = (yaml(&path)?, Tensors::open(&weights)?);
    let none = Value::Null;
    let (sae, model) = (config.get("sae").unwrap_or(&none), config.get("llm").unwrap_or(&none));
    let (width, inputs) = tensors.matrix_shape("D")?;
    if let Some(said) = model.integer("dimin").filter(|&said| said != inputs) {
        return Err(tensors.damaged(format!("conf.yaml: dimin is {said}, but the weights have {inputs}")));
    }
    let Some(factor) = sae.float("scaling_factor") else {
        return Err(tensors.damaged("conf.yaml: expected scaling_factor in sae".to_owned()));
    };
    if scale.is_some() {
        let message = format!("--input-scale does not go with this dictionary: conf.yaml says scaling_factor {factor}");
        return Err(Error::new(ErrorKind::Query, message));
    }
    let architecture = architecture(NAME, sae, &tensors, width)?;
    let mut found = Found::new(NAME, architecture, width, inputs);
    if !architecture.is_tied() {
        found.weights.encoder = tensors.transposed("E", [inputs, width])?;
    }
    found.weights.decoder = tensors.get("D", &[width, inputs])?;
    found.weights.attention = attention(architecture, &tensors, width)?;
    // Some keep it as a matrix of one row.
    let bias = match tensors.shape("b")? {
        [1, _] => tensors.get("b", &[1, inputs])?,
        _ => tensors.get("b", &[inputs])?,
    };
    found.set_decoder_bias(bias, true);
    found.normalization = InputNormalization::Scale { factor };
    found.precision = precision(&tensors, "D");
    found.model = model.text("model_hf_name").map(str::to_owned);
    found.hook = place.number("layer_").map(|layer| format!("blocks.{layer}.hook_resid_post"));
    found.config = config;
    Ok(Some(found))
}

/// The architecture as a configuration of either source says it, `d_in` of its decoder being `width` latents wide.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if a number is missing or does not fit; [`ErrorKind::Query`] if what fires is chosen in a way that
/// is not known, or the attention has more than its source.
pub(super) fn architecture(format: &str, config: &Value, tensors: &Tensors, width: usize) -> Result<Architecture> {
    let number = |key: &str| {
        config
            .integer(key)
            .filter(|&n| n > 0)
            .ok_or_else(|| tensors.damaged(format!("its configuration: expected a number above 0 for {key}")))
    };
    let k = match config.text("sae_diff_type").unwrap_or("topk") {
        "relu" => None,
        "topk" if config.get("kval_topk").is_none_or(Value::is_null) => None,
        "topk" => Some(number("kval_topk")?),
        other => {
            let why = format!("sae_diff_type '{other}' is not known; known are relu and topk");
            return Err(refused(format, &why));
        }
    };
    let (layers, heads) = (number("n_attn_layers")?, number("n_heads")?);
    let tied = config.flag("tied_weights").unwrap_or(true);
    let (keys, _) = tensors.matrix_shape("attn_layers.0.q_target.weight")?;
    if !width.is_multiple_of(heads) || !keys.is_multiple_of(heads) {
        return Err(tensors.damaged(format!("{heads} heads do not divide {width} latents and {keys} keys")));
    }
    let parts =
        || ["q_target", "k_ctx", "v_ctx", "c_proj"].into_iter().flat_map(|part| [(part, "weight"), (part, "bias")]);
    let expected = |name: &str| {
        (0..layers).any(|layer| parts().any(|(part, kind)| name == format!("attn_layers.{layer}.{part}.{kind}")))
    };
    if let Some(other) = tensors.names().into_iter().find(|name| name.starts_with("attn_layers.") && !expected(name)) {
        return Err(refused(format, &format!("its attention has {other}, which is not known here")));
    }
    Ok(Architecture::Temporal { layers, heads, keys, k, tied })
}

/// The layers of attention.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if a tensor is missing, of another shape or not finite.
pub(super) fn attention(architecture: Architecture, tensors: &Tensors, width: usize) -> Result<AttentionWeights> {
    let mut all = AttentionWeights::default();
    let Architecture::Temporal { layers, keys, .. } = architecture else { return Ok(all) };
    for layer in 0..layers {
        let get = |name: &str, shape: &[usize]| tensors.get(&format!("attn_layers.{layer}.{name}"), shape);
        all.query.extend(get("q_target.weight", &[keys, width])?);
        all.query_bias.extend(get("q_target.bias", &[keys])?);
        all.key.extend(get("k_ctx.weight", &[keys, width])?);
        all.value.extend(get("v_ctx.weight", &[width, width])?);
        all.value_bias.extend(get("v_ctx.bias", &[width])?);
        all.output.extend(get("c_proj.weight", &[width, width])?);
        all.output_bias.extend(get("c_proj.bias", &[width])?);
    }
    Ok(all)
}
