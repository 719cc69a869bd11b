//! A dictionary on disk: `sae.json` (what it is), `sae.safetensors` (weights), `features.jsonl` (what is known of each
//! latent).

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::level::Level;
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{LatentInfo, Sae};
use crate::error::{Error, ErrorKind, Result};

const JSON: &str = "sae.json";
const TENSORS: &str = "sae.safetensors";
const FEATURES: &str = "features.jsonl";

/// Version of the layout of the three files.
const FORMAT: u32 = 1;

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

/// What `sae.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Version of the layout.
    pub(crate) format: u32,
    /// Name of the dictionary.
    pub(crate) name: String,
    /// Name of the reader.
    pub(crate) reader: String,
    /// Layer of the hook point.
    pub(crate) layer: usize,
    /// The hook point; absent: the residual stream of `layer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hook: Option<crate::reader::Hook>,
    /// What it reads.
    pub(crate) level: Level,
    /// Latents.
    pub(crate) width: usize,
    /// Width of a hidden state.
    pub(crate) input_width: usize,
    /// Latents that fire on a row, on average in training.
    pub(crate) k: usize,
    /// Latents that fire on a row at most.
    pub(crate) cap: usize,
    /// A latent fires above this.
    pub(crate) threshold: f32,
    /// Factor of the centred states.
    pub(crate) scale: f32,
    /// Whether centred states are brought to length 1.
    pub(crate) unit: bool,
    /// What kinds of things its features stand for, for users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) sees: String,
    /// What they cannot tell, for users.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) misses: String,
    /// How it was trained.
    pub(crate) training: serde_json::Value,
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
        Self::from_files(&dir.display().to_string(), &read(JSON)?, &read(TENSORS)?, &read(FEATURES)?)
    }

    fn from_files(shown: &str, json: &[u8], tensors: &[u8], features: &[u8]) -> Result<Self> {
        let damaged =
            |file: &str, message: String| Error::new(ErrorKind::Corrupt, format!("{shown}/{file}: {message}"));
        let spec: Spec = serde_json::from_slice(json).map_err(|error| damaged(JSON, error.to_string()))?;
        if spec.format != FORMAT {
            return Err(damaged(JSON, format!("format {} is unknown, expected {FORMAT}; update saequel", spec.format)));
        }
        if !(spec.threshold.is_finite() && spec.scale.is_finite()) || spec.width == 0 || spec.input_width == 0 {
            return Err(damaged(JSON, "width, threshold or scale is out of range".to_owned()));
        }
        let tensors = SafeTensors::deserialize(tensors).map_err(|error| damaged(TENSORS, error.to_string()))?;
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
                other => return Err(damaged(TENSORS, format!("{name}: expected F16 or F32, got {other:?}"))),
            };
            match values.iter().find(|value| !value.is_finite()) {
                Some(value) => Err(damaged(TENSORS, format!("{name}: holds {value}"))),
                None => Ok(values),
            }
        };
        let (width, inputs) = (spec.width, spec.input_width);
        let latents = std::str::from_utf8(features)
            .map_err(|error| damaged(FEATURES, error.to_string()))?
            .lines()
            .enumerate()
            .map(|(i, line)| {
                serde_json::from_str(line).map_err(|error| damaged(FEATURES, format!("line {}: {error}", i + 1)))
            })
            .collect::<Result<Vec<LatentInfo>>>()?;
        let sae = Self {
            encoder: tensor("encoder.weight", &[width, inputs])?,
            encoder_bias: tensor("encoder.bias", &[width])?,
            decoder: tensor("decoder.weight", &[width, inputs])?,
            decoder_bias: tensor("decoder.bias", &[inputs])?,
            mean: tensor("mean", &[inputs])?,
            spec,
            latents: Vec::new(),
        };
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
        let (width, inputs) = (self.width(), self.input_width());
        let halves = |values: &[f32]| values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect::<Vec<u8>>();
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let tensors = [
            ("encoder.weight", Dtype::F16, vec![width, inputs], halves(&self.encoder)),
            ("encoder.bias", Dtype::F32, vec![width], floats(&self.encoder_bias)),
            ("decoder.weight", Dtype::F16, vec![width, inputs], halves(&self.decoder)),
            ("decoder.bias", Dtype::F32, vec![inputs], floats(&self.decoder_bias)),
            ("mean", Dtype::F32, vec![inputs], floats(&self.mean)),
        ];
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
    pub(crate) fn new(spec: Spec, [encoder, encoder_bias, decoder, decoder_bias, mean]: [Vec<f32>; 5]) -> Self {
        let latents = (0..spec.width as u32).map(|latent| LatentInfo { latent, ..LatentInfo::default() }).collect();
        Self { spec, encoder, encoder_bias, decoder, decoder_bias, mean, latents }
    }
}
