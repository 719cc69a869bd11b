//! A dictionary on disk: `sae.json` (what it is), `sae.safetensors` (weights), `features.jsonl` (what is known of each
//! latent).
//!
//! Version 1 of the layout is what `sae train` wrote before other architectures were known: one threshold, a cap, centred
//! states, half precision. Version 2 says the architecture and the normalisation. Both are read; 2 is written.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::level::Level;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{Architecture, InputNormalization, LatentInfo, Precision, Sae, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::reader::Hook;

const JSON: &str = "sae.json";
const TENSORS: &str = "sae.safetensors";
const FEATURES: &str = "features.jsonl";

/// Version of the layout of the three files.
const FORMAT: u32 = 2;

/// A dictionary that is built in: its name and its three files.
type Shipped = (&'static str, &'static [u8], &'static [u8], &'static [u8]);

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$((
            $name,
            include_bytes!(concat!("../../dictionaries/", $name, "/sae.json")),
            include_bytes!(concat!("../../dictionaries/", $name, "/sae.safetensors")),
            include_bytes!(concat!("../../dictionaries/", $name, "/features.jsonl")),
        )),+]
    };
}

/// See [`Sae::shipped`].
const SHIPPED: &[Shipped] = shipped!["minilm-l4-token-4096", "minilm-l4-span-2048"];

/// The dictionary that commands take if none is named.
pub const DEFAULT: &str = SHIPPED[0].0;

/// Whether a file of a folder belongs to the dictionary in it.
pub fn is_file_of_dictionary(name: &std::ffi::OsStr) -> bool {
    [JSON, TENSORS, FEATURES].iter().any(|own| name == *own)
}

/// Whether a dictionary of this name is built in.
pub(super) fn is_shipped(name: &str) -> bool {
    SHIPPED.iter().any(|(shipped, ..)| *shipped == name)
}

/// What `sae.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Version of the layout.
    pub(crate) format: u32,
    /// Name of the dictionary.
    pub(crate) name: String,
    /// Name of the reader.
    pub(crate) reader: String,
    /// Where in the reader it reads.
    pub(crate) hook: Hook,
    /// What it reads.
    pub(crate) level: Level,
    /// Latents: rows of the weights.
    pub(crate) width: usize,
    /// Width of a hidden state.
    pub(crate) input_width: usize,
    /// Of a transcoder, what it rebuilds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<Output>,
    /// Latents that fire on a row, on average in training; 0: not known.
    pub(crate) k: usize,
    /// From pre-activations to activations.
    pub(crate) architecture: Architecture,
    /// From hidden states to what is encoded.
    pub(crate) normalization: InputNormalization,
    /// Sizes of nested dictionaries (Matryoshka), ascending, the last one the width; empty if it is not nested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) prefixes: Vec<usize>,
    /// How encoder and decoder are written.
    #[serde(default)]
    pub(crate) precision: Precision,
    /// What kinds of things its features stand for, for users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) sees: String,
    /// What they cannot tell, for users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) misses: String,
    /// How it was trained.
    #[serde(default)]
    pub(crate) training: serde_json::Value,
    /// Where it was imported from.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub(crate) source: serde_json::Value,
}

/// What a transcoder rebuilds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Output {
    /// Its hook point, as its source calls it.
    pub(crate) hook: String,
    /// Width of it.
    pub(crate) width: usize,
}

/// `sae.json` of version 1.
#[derive(Deserialize)]
struct SpecV1 {
    name: String,
    reader: String,
    layer: usize,
    level: Level,
    width: usize,
    input_width: usize,
    k: usize,
    cap: usize,
    threshold: f32,
    scale: f32,
    unit: bool,
    #[serde(default)]
    sees: String,
    #[serde(default)]
    misses: String,
    training: serde_json::Value,
}

impl From<SpecV1> for Spec {
    fn from(old: SpecV1) -> Self {
        Self {
            format: FORMAT,
            name: old.name,
            reader: old.reader,
            hook: Hook::residual(old.layer),
            level: old.level,
            width: old.width,
            input_width: old.input_width,
            output: None,
            k: old.k,
            architecture: Architecture::BatchTopk { threshold: old.threshold, cap: Some(old.cap) },
            normalization: InputNormalization::Centred { scale: old.scale, unit: old.unit },
            prefixes: Vec::new(),
            precision: Precision::F16,
            sees: old.sees,
            misses: old.misses,
            training: old.training,
            source: serde_json::Value::Null,
        }
    }
}

impl Spec {
    /// Version of the layout that is written.
    pub(crate) const FORMAT: u32 = FORMAT;

    /// Width of what is rebuilt.
    pub(crate) fn output_width(&self) -> usize {
        self.output.as_ref().map_or(self.input_width, |output| output.width)
    }

    /// Reads `sae.json` of any version.
    fn read(json: &[u8]) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let spec = match version.format {
            1 => serde_json::from_slice::<SpecV1>(json).map(Self::from),
            2 => serde_json::from_slice::<Self>(json),
            other => return Err(format!("format {other} is unknown, expected 1 to {FORMAT}; update saequel")),
        };
        let spec = spec.map_err(|error| error.to_string())?;
        match spec.wrong() {
            Some(what) => Err(what),
            None => Ok(spec),
        }
    }

    /// What is out of range, if anything is.
    pub(crate) fn wrong(&self) -> Option<String> {
        let finite = |value: f32| value.is_finite();
        let numbers = match self.architecture {
            Architecture::BatchTopk { threshold, cap } => finite(threshold) && cap != Some(0),
            Architecture::TopK { k } | Architecture::AbsTopK { k } => (1..=self.width).contains(&k),
            Architecture::Itda { k } => k > 0,
            Architecture::GroupMax { k } => k > 0 && self.width.is_multiple_of(k),
            Architecture::MatchingPursuit { max_iterations, residual_threshold, .. } => {
                max_iterations > 0 && finite(residual_threshold)
            }
            Architecture::Temporal { layers, heads, keys, k, .. } => {
                let split = |n: usize| n > 0 && heads > 0 && n.is_multiple_of(heads);
                layers > 0 && split(keys) && split(self.width) && k != Some(0)
            }
            Architecture::Relu | Architecture::JumpRelu | Architecture::Gated => true,
        };
        let normalized = match self.normalization {
            InputNormalization::Centred { scale: factor, .. }
            | InputNormalization::Standardised { scale: factor }
            | InputNormalization::Scale { factor }
            | InputNormalization::RowCentred { factor } => finite(factor) && factor > 0.0,
            _ => true,
        };
        let nested = self.prefixes.is_sorted_by(|a, b| a < b)
            && self.prefixes.iter().all(|&size| size > 0)
            && self.prefixes.last().is_none_or(|&size| size == self.width);
        if self.width == 0 || self.input_width == 0 || self.output_width() == 0 || self.width > u32::MAX as usize / 2 {
            Some("width is out of range".to_owned())
        } else if !numbers {
            Some(format!(
                "architecture {}: a number is out of range for width {}; expected counts from 1 to the width, and thresholds \
                 that are numbers",
                self.architecture.name(),
                self.width
            ))
        } else if !normalized {
            Some("normalization: the factor is out of range; expected a number above 0".to_owned())
        } else if !nested {
            Some(format!("prefixes {:?}: expected sizes that grow up to width {}", self.prefixes, self.width))
        } else if self.architecture.reads_sequences() && self.level != Level::Token {
            Some(format!("{}: expected level token, got {}", self.architecture.name(), self.level.as_str()))
        } else if (self.architecture.is_tied() || self.architecture.reads_sequences()) && self.output.is_some() {
            Some(format!("{} cannot rebuild another hook point than it reads", self.architecture.name()))
        } else {
            None
        }
    }
}

/// Writes a file under another name and then gives it its own.
///
/// # Errors
/// [`ErrorKind::Io`] naming the file.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| Error::new(ErrorKind::Io, format!("cannot write {}", path.display())).with_source(error))
}

impl Sae {
    /// The dictionaries that are built into the program, the one that commands take by default first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] if the build is damaged.
    pub fn shipped() -> Result<Vec<Self>> {
        SHIPPED
            .iter()
            .map(|&(name, json, tensors, features)| {
                Self::from_files(&format!("built-in dictionary {name}"), json, tensors, features)
            })
            .collect()
    }

    /// A dictionary by the name of one that is built in, or by its folder.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn open(name_or_dir: &Path) -> Result<Self> {
        match SHIPPED.iter().find(|(name, ..)| Path::new(name) == name_or_dir && !name_or_dir.exists()) {
            Some(&(name, json, tensors, features)) => Self::from_files(name, json, tensors, features),
            None => Self::load(name_or_dir),
        }
    }

    /// Whether a folder holds a finished dictionary.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(JSON).is_file()
    }

    /// The hook point of the dictionary in a folder, without its weights.
    ///
    /// # Errors
    /// As [`Self::load`] for `sae.json`.
    pub fn hook_in(dir: &Path) -> Result<Hook> {
        let path = dir.join(JSON);
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Io, format!("cannot read dictionary file {}", path.display())).with_source(error)
        };
        let damaged = |message: String| Error::new(ErrorKind::Corrupt, format!("{}: {message}", path.display()));
        Ok(Spec::read(&fs::read(&path).map_err(failed)?).map_err(damaged)?.hook)
    }

    /// Loads an artifact folder (`sae.json`, `sae.safetensors`, `features.jsonl`).
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], or [`crate::ErrorKind::Corrupt`] naming the file, the tensor and the shapes.
    pub fn load(dir: &Path) -> Result<Self> {
        let read = |file: &str| {
            let path = dir.join(file);
            fs::read(&path).map_err(|error| {
                let kind =
                    if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
                Error::new(kind, format!("cannot read dictionary file {}", path.display())).with_source(error)
            })
        };
        if !dir.exists() {
            let names: Vec<&str> = SHIPPED.iter().map(|(name, ..)| *name).collect();
            let message = format!(
                "dictionary '{}' not found: there is no such folder, and built in are {}",
                dir.display(),
                names.join(" and ")
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        if dir.is_dir() && !dir.join(JSON).exists() {
            let dir = dir.display();
            let message = format!(
                "{dir} holds no dictionary of this program: it has no {JSON}; `saequel sae import {dir}` reads those of other \
                 tools"
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Self::from_files(&dir.display().to_string(), &read(JSON)?, &read(TENSORS)?, &read(FEATURES)?)
    }

    fn from_files(shown: &str, json: &[u8], tensors: &[u8], features: &[u8]) -> Result<Self> {
        let damaged =
            |file: &str, message: String| Error::new(ErrorKind::Corrupt, format!("{shown}/{file}: {message}"));
        let spec = Spec::read(json).map_err(|message| damaged(JSON, message))?;
        let cut = |error| damaged(TENSORS, format!("{error}; the file is damaged or cut off: put it there again"));
        let tensors = SafeTensors::deserialize(tensors).map_err(cut)?;
        let tensor = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let tensor = tensors.tensor(name).map_err(|error| damaged(TENSORS, format!("{name}: {error}")))?;
            if tensor.shape() != shape {
                let message = format!("{name}: expected shape {shape:?}, got {:?}", tensor.shape());
                return Err(damaged(TENSORS, message));
            }
            let values: Vec<f32> = match tensor.dtype() {
                Dtype::F16 => {
                    tensor.data().as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
                }
                Dtype::F32 => tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Dtype::BF16 => {
                    tensor.data().as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
                }
                other => return Err(damaged(TENSORS, format!("{name}: expected F16, BF16 or F32, got {other:?}"))),
            };
            match values.iter().find(|value| !value.is_finite()) {
                Some(value) => Err(damaged(TENSORS, format!("{name}: holds {value}"))),
                None => Ok(values),
            }
        };
        let latents = std::str::from_utf8(features)
            .map_err(|error| damaged(FEATURES, error.to_string()))?
            .lines()
            .enumerate()
            .map(|(i, line)| {
                serde_json::from_str(line).map_err(|error| damaged(FEATURES, format!("line {}: {error}", i + 1)))
            })
            .collect::<Result<Vec<LatentInfo>>>()?;
        let mut weights = Weights::default();
        for Part { name, shape, of_mut, .. } in parts(&spec) {
            // A shift is there if the source applies its decoder bias to the input.
            if name != SHIFT || tensors.tensor(SHIFT).is_ok() {
                *of_mut(&mut weights) = tensor(name, &shape)?;
            }
        }
        if let Some(value) = weights.deviation.iter().find(|&&value| value <= 0.0) {
            return Err(damaged(TENSORS, format!("deviation: holds {value}, expected numbers above 0")));
        }
        let sae = Self::of(spec, weights, Vec::new());
        sae.with_latents(latents).map_err(|error| damaged(FEATURES, error.message().to_owned()))
    }

    /// Writes the artifact folder, each file at once (temporary name, then rename).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|error| {
            Error::new(ErrorKind::Io, format!("cannot make folder {}", dir.display())).with_source(error)
        })?;
        let internal = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Internal, format!("cannot write dictionary '{}'", self.name())).with_source(error)
        };
        let tensors: Vec<_> = parts(&self.spec)
            .into_iter()
            .filter(|part| !(part.of)(&self.weights).is_empty())
            .map(|Part { name, shape, of, .. }| {
                let precision = if shape.len() == 2 { self.spec.precision } else { Precision::F32 };
                // Of signed activations the decoder has a second half, which is not written.
                let n = shape.iter().product();
                let (dtype, bytes) = bytes(precision, &of(&self.weights)[..n]);
                (name, dtype, shape, bytes)
            })
            .collect();
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| internal(error.into()))?;
        let tensors = safetensors::serialize(views, None).map_err(|error| internal(error.into()))?;
        let mut features = Vec::new();
        for latent in &self.latents {
            serde_json::to_writer(&mut features, latent).map_err(|error| internal(error.into()))?;
            features.push(b'\n');
        }
        let mut json = serde_json::to_vec_pretty(&self.spec).map_err(|error| internal(error.into()))?;
        json.push(b'\n');
        write_file(&dir.join(TENSORS), &tensors)?;
        write_file(&dir.join(FEATURES), &features)?;
        write_file(&dir.join(JSON), &json)
    }

    /// A dictionary of these weights, nothing known of its latents yet.
    pub(crate) fn new(spec: Spec, weights: Weights) -> Self {
        let features = if spec.architecture.is_signed() { 2 * spec.width } else { spec.width };
        let latents = (0..features as u32).map(|latent| LatentInfo { latent, ..LatentInfo::default() }).collect();
        Self::of(spec, weights, latents)
    }

    fn of(spec: Spec, mut weights: Weights, latents: Vec<LatentInfo>) -> Self {
        if spec.architecture.is_signed() {
            weights.decoder.extend_from_within(..);
            let half = weights.decoder.len() / 2;
            weights.decoder[half..].iter_mut().for_each(|value| *value = -*value);
        }
        if spec.normalization.is_centred() || weights.shift.iter().all(|&value| value == 0.0) {
            weights.shift.clear();
        }
        Self { spec, weights, latents, gram: Arc::default() }
    }
}

/// Tensor of a decoder bias that is applied to the input.
const SHIFT: &str = "input.shift";

/// A tensor of a dictionary: name, shape, and where its values are.
struct Part {
    name: &'static str,
    shape: Vec<usize>,
    of: fn(&Weights) -> &Vec<f32>,
    of_mut: fn(&mut Weights) -> &mut Vec<f32>,
}

/// The tensors of a dictionary.
fn parts(spec: &Spec) -> Vec<Part> {
    macro_rules! part {
        ($name:expr, $shape:expr, $($field:ident).+) => {
            Part { name: $name, shape: $shape.to_vec(), of: |w| &w.$($field).+, of_mut: |w| &mut w.$($field).+ }
        };
    }
    let (width, inputs, outputs) = (spec.width, spec.input_width, spec.output_width());
    let mut parts = Vec::new();
    if !spec.architecture.is_tied() {
        parts.push(part!("encoder.weight", [width, inputs], encoder));
        if !spec.architecture.reads_sequences() {
            parts.push(part!("encoder.bias", [width], encoder_bias));
        }
    }
    parts.push(part!("decoder.weight", [width, outputs], decoder));
    parts.push(part!("decoder.bias", [outputs], decoder_bias));
    parts.push(if spec.normalization.is_centred() {
        part!("mean", [inputs], mean)
    } else {
        part!(SHIFT, [inputs], shift)
    });
    if matches!(spec.normalization, InputNormalization::Standardised { .. }) {
        parts.push(part!("deviation", [inputs], deviation));
    }
    match spec.architecture {
        Architecture::JumpRelu => parts.push(part!("threshold", [width], thresholds)),
        Architecture::Gated => {
            parts.push(part!("magnitude.scale", [width], magnitude));
            parts.push(part!("magnitude.bias", [width], magnitude_bias));
        }
        Architecture::Temporal { layers, keys, .. } => {
            let (keys, values) = (layers * keys, layers * width);
            parts.push(part!("attention.query.weight", [keys, width], attention.query));
            parts.push(part!("attention.query.bias", [keys], attention.query_bias));
            parts.push(part!("attention.key.weight", [keys, width], attention.key));
            parts.push(part!("attention.value.weight", [values, width], attention.value));
            parts.push(part!("attention.value.bias", [values], attention.value_bias));
            parts.push(part!("attention.output.weight", [values, width], attention.output));
            parts.push(part!("attention.output.bias", [values], attention.output_bias));
        }
        _ => {}
    }
    parts
}

fn bytes(precision: Precision, values: &[f32]) -> (Dtype, Vec<u8>) {
    match precision {
        Precision::F16 => (Dtype::F16, values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
        Precision::Bf16 => (Dtype::BF16, values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()),
        Precision::F32 => (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}
