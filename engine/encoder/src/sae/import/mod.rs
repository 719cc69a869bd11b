//! Dictionaries of other tools: what a folder, a file or a released name holds is detected, read, checked, and linked to a
//! reader and a hook point. Each format's module says where its layout was found.

mod found;
mod hub;
mod registry;
mod saelens;
mod scopes;
mod temporal;
mod tensors;
#[cfg(test)]
mod tests;
mod tools;

use std::path::Path;

use serde_json::Value;

use self::found::{Found, Place};
use self::registry::Released;
use super::random::Random;
use super::survey::{Encoded, Scratch, encode, encode_pieces};
use super::{EncodeScratch, InputNormalization, LatentInfo, Precision, Sae, Spec};
use crate::error::{Error, ErrorKind, Result};
use crate::level::Level;
use crate::options::ReaderOptions;
use crate::progress::Progress;
use crate::reader::{BatchStates, Hook, Reader, on_hub};

/// What to import, and what its source does not say.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// A folder, a file, a release of SAELens with an id (`gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82`), or
    /// `owner/repository/path` on the model hub.
    pub source: String,
    /// The reader; default: what the source says.
    pub reader: Option<String>,
    /// The hook point; default: what the source says.
    pub hook: Option<Hook>,
    /// Token, span or document; default: what the source was trained on.
    pub level: Option<Level>,
    /// Name of the dictionary; default: made of reader, hook point, level and width.
    pub name: Option<String>,
    /// Factor of hidden states, where the source leaves it out (SAELens's `norm_scaling_factor`).
    pub input_scale: Option<f32>,
    /// The reader is the model that the source names, though under another name.
    pub same_model: bool,
    /// Threads and cache folder.
    pub reader_options: ReaderOptions,
}

/// What was found, and how it was checked.
#[derive(Debug, Clone)]
pub struct ImportReport {
    /// Name of the dictionary.
    pub name: String,
    /// The format, e.g. `SAELens`.
    pub format: &'static str,
    /// Where it was read: a folder, or repository and path.
    pub source: String,
    /// E.g. `TopK, k 32`.
    pub architecture: String,
    /// Features: latents, or latents and signs.
    pub n_features: usize,
    /// Width of the hidden states it reads.
    pub input_width: usize,
    /// The reader.
    pub reader: String,
    /// The model, as the source calls it.
    pub model: Option<String>,
    /// The hook point.
    pub hook: Hook,
    /// The hook point it rebuilds, of a transcoder, and its width.
    pub output: Option<(String, usize)>,
    /// Token, span or document.
    pub level: Level,
    /// What happens to hidden states first.
    pub normalization: String,
    /// How encoder and decoder are kept.
    pub precision: Precision,
    /// What it was tried on.
    pub check: ImportCheck,
    /// What a user should know, a sentence each.
    pub notes: Vec<String>,
}

/// A trial of an imported dictionary.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportCheck {
    /// Whether the states were the reader's, of a few sentences; otherwise they were random.
    pub real: bool,
    /// Rows encoded.
    pub n_rows: usize,
    /// Features that fired on a row, on average.
    pub l0: f64,
    /// Share of variance left unexplained; NaN of random states and of transcoders.
    pub fvu: f64,
}

/// Sentences for the trial: some of several kinds, so that a dictionary has something to tell apart.
const SENTENCES: &[&str] = &[
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "In 1969 two people walked on the Moon for the first time.",
    "I am sorry to hear that; please let me know if I can help.",
    "def area(radius): return 3.14159 * radius ** 2",
    "The committee rejected the proposal because its costs were not known.",
    "Add two eggs and a cup of sugar, then stir until the dough is smooth.",
    "Interest rates rose again, and shares of banks fell by three percent.",
    "Why does water expand when it freezes, while most liquids shrink?",
    "She closed the door quietly, afraid of waking the children.",
    "The patient was given 20 mg of the drug twice a day for a week.",
];

/// Reads a dictionary of another tool, checks it, and links it to a reader and a hook point. What comes back can be saved
/// with [`Sae::save`].
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is nothing of this name; [`ErrorKind::Data`] if the format is not known;
/// [`ErrorKind::Corrupt`] if tensors are missing, of another shape, or not finite; [`ErrorKind::Query`] with the reason and
/// the way out if reader, hook point and dictionary do not go together, or if its architecture cannot be encoded here.
pub fn import(options: &ImportOptions, progress: &dyn Progress) -> Result<(Sae, ImportReport)> {
    let (place, released) = locate(options, progress)?;
    let mut found = detect(&place, options, released.as_ref())?;
    if let Some(released) = &released {
        adjust(&mut found, released, options)?;
    }
    let mut reader = reader_name(options, &found)?;
    let mut hook = hook_point(options, &found)?;
    let level = options.level.unwrap_or(found.level);
    if found.architecture.reads_sequences() && level != Level::Token {
        let message = format!(
            "a temporal dictionary reads the tokens of a text one after the other, so it cannot be of level {}; \
             leave --level out",
            level.as_str()
        );
        return Err(Error::new(ErrorKind::Query, message));
    }
    let loaded = match at_hand(&reader, &options.reader_options.cache_dir) {
        true => Some(Reader::load(&reader, &options.reader_options, progress)?),
        false => None,
    };
    if let Some(loaded) = &loaded {
        // Of a folder, its absolute path.
        reader = loaded.name().to_owned();
        if level == Level::Document && options.hook.is_none() && found.hook.is_none() {
            hook = loaded.embedding_hook(&[]);
        }
    }
    if let Some(loaded) = &loaded {
        let width = loaded.hook_width(hook).map_err(|error| error.context("the dictionary does not fit the reader"))?;
        if width != found.input_width {
            let said =
                found.model.as_deref().map_or(String::new(), |model| format!("; its source says it reads '{model}'"));
            let message = format!(
                "the dictionary reads {} values, but reader '{reader}' has {width} at {hook}{said}; name its own reader with \
                 --reader, or another hook point with --hook",
                found.input_width
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
    }
    let mut notes = std::mem::take(&mut found.notes);
    if loaded.is_none() {
        let why = match loadable(&reader, &options.reader_options.cache_dir) {
            true => "is not in the cache",
            false => "is not one that this program can load",
        };
        notes.push(format!("reader '{reader}' {why}, so width and hook point could not be compared with it"));
    }
    if found.architecture.reads_sequences() {
        notes.push(
            "its features stand for what the tokens before do not predict: those that the reader sees in the same window, the \
             first special token included"
                .to_owned(),
        );
    }
    if found.architecture.is_signed() {
        notes.push(format!(
            "its activations have both signs: features 0 to {} are latents where they are positive, {} to {} where they are \
             negative",
            found.width - 1,
            found.width,
            2 * found.width - 1
        ));
    }
    let name = match &options.name {
        Some(name) => name.clone(),
        None => default_name(&reader, hook, level, found.width),
    };
    let (format, model, densities) = (found.format, found.model.clone(), std::mem::take(&mut found.densities));
    let spec = Spec {
        format: Spec::FORMAT,
        name,
        reader,
        hook,
        level,
        width: found.width,
        input_width: found.input_width,
        output: found.output,
        k: found.k,
        architecture: found.architecture,
        normalization: found.normalization,
        prefixes: found.prefixes,
        precision: found.precision,
        sees: String::new(),
        misses: String::new(),
        training: Value::Null,
        source: serde_json::json!({ "format": format, "from": place.address, "config": found.config }),
    };
    if let Some(what) = spec.wrong() {
        return Err(Error::new(ErrorKind::Corrupt, format!("{}: {what}", place.address)));
    }
    let width = spec.width;
    let sae = Sae::new(spec, found.weights);
    let describe = |latent: u32| LatentInfo {
        latent,
        label: match latent as usize {
            latent if latent < width => format!("latent {latent}"),
            latent => format!("latent {}, negative", latent - width),
        },
        label_source: "none".to_owned(),
        density: densities.get(latent as usize).copied().unwrap_or(0.0),
        ..LatentInfo::default()
    };
    let latents = (0..sae.width() as u32).map(describe).collect();
    let sae = sae.with_latents(latents)?;
    let check = check(&sae, loaded.as_ref())?;
    if check.real && check.fvu > 1.0 {
        notes.push(format!(
            "it rebuilds the reader's states worse than their mean would (FVU {:.2}): the hook point, the normalisation or the \
             reader may be wrong",
            check.fvu
        ));
    }
    if check.l0 == 0.0 {
        notes.push(format!(
            "no feature fired on {}",
            if check.real { "ten sentences: the hook point or the reader may be wrong" } else { "random states" }
        ));
    }
    let report = ImportReport {
        name: sae.name().to_owned(),
        format,
        source: place.address,
        architecture: sae.architecture().describe(),
        n_features: sae.width(),
        input_width: sae.input_width(),
        reader: sae.reader().to_owned(),
        model,
        hook,
        output: sae.spec.output.as_ref().map(|output| (output.hook.clone(), output.width)),
        level,
        normalization: sae.describe_normalization(),
        precision: sae.spec.precision,
        check,
        notes,
    };
    Ok((sae, report))
}

/// Finds the files: on this machine, else on the hub.
fn locate(options: &ImportOptions, progress: &dyn Progress) -> Result<(Place, Option<Released>)> {
    let path = Path::new(&options.source);
    if path.exists() {
        let path = std::path::absolute(path).map_err(|error| {
            Error::new(ErrorKind::Io, format!("cannot look at {}", path.display())).with_source(error)
        })?;
        let address = path.display().to_string();
        let place = match path.is_dir() {
            true => Place { dir: path, file: None, address },
            false => Place { dir: path.parent().unwrap_or(Path::new("/")).to_owned(), file: Some(path), address },
        };
        return Ok((place, None));
    }
    let Some(released) = registry::find(&options.source)? else {
        let message = format!(
            "'{}' not found: it is no folder or file here, no release of SAELens (release/id), and no repository on the model \
             hub (owner/repository/path)",
            options.source
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    let fetched = hub::fetch(&released, &options.reader_options.cache_dir, progress);
    let place = fetched.map_err(|error| match registry::resembling(&options.source)[..] {
        [] => error,
        ref near => error.context(format!(
            "'{}' is of no release of SAELens (did you mean {}?), so it was looked for as a repository",
            options.source,
            near.join(" or ")
        )),
    })?;
    Ok((place, Some(released)))
}

/// Reads the files in the format that they are in.
fn detect(place: &Place, options: &ImportOptions, released: Option<&Released>) -> Result<Found> {
    let scale = options.input_scale.or(released.and_then(|released| released.scale));
    if scale.is_some_and(|scale| !(scale.is_finite() && scale > 0.0)) {
        return Err(Error::new(ErrorKind::Query, "input scale: expected a number above 0"));
    }
    let formats: [&dyn Fn(&Place) -> Result<Option<Found>>; 11] = [
        &|place: &Place| saelens::read(place, scale),
        &tools::sparsify,
        &scopes::llama_scope,
        &|place: &Place| scopes::llama_scope_r1(place, scale),
        &scopes::gemma_scope_1,
        &scopes::gemma_scope_2,
        &tools::dictionary_learning,
        &tools::itda,
        &|place: &Place| temporal::read(place, scale),
        &tools::hypothesaes,
        &scopes::bare_file,
    ];
    for format in formats {
        if let Some(mut found) = format(place)? {
            match (scale, found.normalization) {
                (None, _) | (_, InputNormalization::Scale { .. }) => {}
                (Some(factor), InputNormalization::None) => found.normalization = InputNormalization::Scale { factor },
                (Some(_), other) => {
                    let message = format!("--input-scale does not go with this dictionary: {}", other.describe());
                    return Err(Error::new(ErrorKind::Query, message));
                }
            }
            return Ok(found);
        }
    }
    if place.has("sae.json").is_some() {
        let message = format!("{} is a dictionary of this program already; use it as it is", place.address);
        return Err(Error::new(ErrorKind::Query, message));
    }
    let message = format!(
        "{} holds no dictionary of a known format; expected cfg.json with sae_weights.safetensors (SAELens) or sae.safetensors \
         (sparsify, latentsae), params.npz or params.safetensors (Gemma Scope), hyperparams.json (Llama Scope), ae.pt \
         (dictionary_learning), atoms.pt (ITDA), conf.yaml with latest_ckpt.safetensors \
         (temporalSAEs), or one weight file of Qwen Scope, Goodfire, DeepSeek-R1 or HypotheSAEs",
        place.address
    );
    Err(Error::new(ErrorKind::Data, message))
}

/// What a release knows that its files do not say.
fn adjust(found: &mut Found, released: &Released, options: &ImportOptions) -> Result<()> {
    if !released.model.is_empty() {
        found.model = Some(released.model.clone());
    }
    if released.normalization == Some("constant_norm_rescale") {
        found.normalization = InputNormalization::RowNorm;
    }
    if released.centred {
        found.normalization = match found.normalization {
            InputNormalization::None => InputNormalization::RowCentred { factor: 1.0 },
            InputNormalization::Scale { factor } => InputNormalization::RowCentred { factor },
            other => {
                let message = format!("{}: centred weights do not go with: {}", options.source, other.describe());
                return Err(Error::new(ErrorKind::Internal, message));
            }
        };
        found.notes.push(
            "it was trained on a model whose writing weights were centred; the mean of each state is subtracted, which gives \
             the same states"
                .to_owned(),
        );
    }
    Ok(())
}

/// The part of a model's name that tells it from others, e.g. `gpt2` of `openai-community/gpt2` and of `gpt2-small`.
fn plain_model(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name).to_lowercase();
    match name.strip_prefix("gpt2").map(|rest| rest.trim_start_matches('-')) {
        Some("small" | "") => "gpt2".to_owned(),
        _ => name.strip_suffix("-hf").unwrap_or(&name).to_owned(),
    }
}

/// Whether a reader of this name can be loaded: a known one, a folder or file, or a model on the hub.
fn loadable(name: &str, cache: &Path) -> bool {
    Reader::check(name, cache).is_ok() || Path::new(name).exists() || on_hub(name)
}

/// Whether it can be loaded without a network.
fn at_hand(name: &str, cache: &Path) -> bool {
    let fetched = || cache.join("readers").join(name.replace('/', "--")).join(".complete").exists();
    match Reader::check(name, cache) {
        Ok(cached) => cached.trouble().is_none(),
        Err(_) => Path::new(name).exists() || on_hub(name) && fetched(),
    }
}

/// Names under which TransformerLens has models, and their owners on the hub.
const OWNERS: &[(&str, &str)] =
    &[("gpt2", "openai-community"), ("gemma-", "google"), ("pythia-", "EleutherAI"), ("Qwen", "Qwen")];

/// The reader's name: what the user says, else the model that the source names.
fn reader_name(options: &ImportOptions, found: &Found) -> Result<String> {
    match (&options.reader, &found.model) {
        // Of a folder the name says nothing; its states are compared.
        (Some(reader), Some(model))
            if !options.same_model && plain_model(reader) != plain_model(model) && !Path::new(reader).exists() =>
        {
            let message = format!(
                "the dictionary was trained on '{model}', not on '{reader}': its features mean nothing there; leave --reader \
                 out, or say --same-model if '{reader}' is that model under another name"
            );
            Err(Error::new(ErrorKind::Query, message))
        }
        (Some(reader), _) => Ok(reader.clone()),
        (None, Some(model)) => {
            let short = model.rsplit('/').next().unwrap_or(model);
            if Reader::check(short, &options.reader_options.cache_dir).is_ok() {
                return Ok(short.to_owned());
            }
            let owner = OWNERS.iter().find(|(start, _)| !model.contains('/') && model.starts_with(start));
            Ok(match (model.as_str(), owner) {
                ("gpt2-small", _) => "openai-community/gpt2".to_owned(),
                ("mistral-7b", _) => "mistralai/Mistral-7B-v0.1".to_owned(),
                (model, Some((_, owner))) => format!("{owner}/{model}"),
                (model, None) => model.to_owned(),
            })
        }
        (None, None) => {
            let message = format!(
                "this dictionary of {} does not say which model it was trained on; name its reader with --reader",
                found.format
            );
            Err(Error::new(ErrorKind::Query, message))
        }
    }
}

fn hook_point(options: &ImportOptions, found: &Found) -> Result<Hook> {
    if let Some(hook) = options.hook {
        return match &found.hook {
            // A name that is not known here may be said in another way.
            Some(name) if name.parse::<Hook>().is_ok_and(|own| own != hook) => {
                let message = format!(
                    "the dictionary was trained at '{name}', not at {hook} ({}): its features mean nothing there; leave --hook \
                     out, or correct the source's files if they name a wrong place",
                    hook.transformer_lens()
                );
                Err(Error::new(ErrorKind::Query, message))
            }
            _ => Ok(hook),
        };
    }
    match &found.hook {
        Some(name) => {
            name.parse().map_err(|error: Error| error.context("its source names a hook point that is not known"))
        }
        None if found.level == Level::Document => Ok(Hook::FINAL),
        None => {
            let message = format!(
                "this dictionary of {} does not say where in the model it reads; name the hook point with --hook, such as \
                 blocks.12.hook_resid_post",
                found.format
            );
            Err(Error::new(ErrorKind::Query, message))
        }
    }
}

/// E.g. `gpt2-l8-token-24576`: names of dictionaries are lower-case letters, digits, `-` and `_`, a letter first.
fn default_name(reader: &str, hook: Hook, level: Level, width: usize) -> String {
    let point = hook.to_string().replace("residual.", "l").replace('.', "");
    let model = plain_model(reader);
    let start = if model.starts_with(|c: char| c.is_ascii_lowercase()) { "" } else { "sae-" };
    let name = format!("{start}{model}-{point}-{}-{width}", level.as_str());
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

/// Encodes what there is to encode: the reader's states of [`SENTENCES`], else random ones.
fn check(sae: &Sae, reader: Option<&Reader>) -> Result<ImportCheck> {
    const RANDOM_ROWS: usize = 64;
    let real = reader.filter(|_| sae.level() != Level::Document);
    let encoded: Vec<Encoded> = match real {
        Some(reader) => {
            let tokenized = reader.tokenize(SENTENCES)?;
            let encoded = reader.read(&tokenized, &[sae.wanted()], |scratch: &mut Scratch, batch: &BatchStates| {
                Ok(encode_pieces(sae, &tokenized, batch, scratch))
            })?;
            encoded.into_iter().flatten().collect()
        }
        None => {
            let mut random = Random::new(1, 0x5ae);
            let mut rows: Vec<f32> = (0..RANDOM_ROWS * sae.input_width()).map(|_| normal(&mut random)).collect();
            vec![encode(sae, &mut rows, &mut EncodeScratch::default())]
        }
    };
    let (mut n_rows, mut n_active, mut residual, mut total) = (0, 0, 0.0, 0.0);
    for (sparse, of_residual, of_total) in &encoded {
        n_rows += sparse.len();
        residual += of_residual;
        total += of_total;
        for i in 0..sparse.len() {
            let (features, activations) = sparse.row(i);
            n_active += features.len();
            if let Some(wrong) = activations.iter().find(|activation| !(activation.is_finite() && **activation > 0.0)) {
                let message =
                    format!("dictionary '{}' gives an activation of {wrong}; its weights are damaged", sae.name());
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
    }
    let fvu = if real.is_some() && total > 0.0 { residual / total } else { f64::NAN };
    Ok(ImportCheck { real: real.is_some(), n_rows, l0: n_active as f64 / n_rows.max(1) as f64, fvu })
}

/// A number of the normal distribution, nearly: the sum of twelve uniform ones.
fn normal(random: &mut Random) -> f32 {
    (0..12).map(|_| random.below(1 << 24) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
}
