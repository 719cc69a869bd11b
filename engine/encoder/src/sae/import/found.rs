//! What an importer hands over: a dictionary of another tool, not yet linked to a reader.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::{Architecture, InputNormalization, Output, Precision, Weights};
use super::tensors::{Tensors, Type};
use crate::error::{Error, ErrorKind, Result};
use crate::level::Level;

/// A dictionary as its source describes it.
#[derive(Debug)]
pub(super) struct Found {
    /// Name of the format.
    pub(super) format: &'static str,
    pub(super) architecture: Architecture,
    pub(super) normalization: InputNormalization,
    pub(super) weights: Weights,
    pub(super) precision: Precision,
    /// Latents.
    pub(super) width: usize,
    pub(super) input_width: usize,
    pub(super) output: Option<Output>,
    /// Latents that fire on a row on average, if the source says; else 0.
    pub(super) k: usize,
    pub(super) prefixes: Vec<usize>,
    pub(super) level: Level,
    /// The model, as the source calls it.
    pub(super) model: Option<String>,
    /// The hook point, as the source calls it.
    pub(super) hook: Option<String>,
    /// Share of tokens on which each latent fires.
    pub(super) densities: Vec<f32>,
    /// What a user should know, a sentence each.
    pub(super) notes: Vec<String>,
    /// The source's own description.
    pub(super) config: Value,
}

impl Found {
    /// A token-level dictionary without normalisation.
    pub(super) fn new(format: &'static str, architecture: Architecture, width: usize, input_width: usize) -> Self {
        Self {
            format,
            architecture,
            normalization: InputNormalization::None,
            weights: Weights::default(),
            precision: Precision::F32,
            width,
            input_width,
            output: None,
            k: architecture.cap().unwrap_or(0),
            prefixes: Vec::new(),
            level: Level::Token,
            model: None,
            hook: None,
            densities: Vec::new(),
            notes: Vec::new(),
            config: Value::Null,
        }
    }

    /// Puts the decoder bias where the source applies it: to the input too (`apply_b_dec_to_input`), or to the output only.
    pub(super) fn set_decoder_bias(&mut self, bias: Vec<f32>, to_input: bool) {
        if to_input {
            self.weights.decoder_bias = vec![0.0; bias.len()];
            self.weights.shift = bias;
        } else {
            self.weights.decoder_bias = bias;
        }
    }

    /// Multiplies what each latent reads by the length of its decoder row and brings that row to length 1: activations
    /// are then lengths of contributions, and those that are ranked are ranked by it.
    pub(super) fn fold_decoder_norms(&mut self) {
        let output_width = self.output.as_ref().map_or(self.input_width, |output| output.width);
        let rows = self.weights.decoder.chunks_exact_mut(output_width);
        let encoder = self.weights.encoder.chunks_exact_mut(self.input_width);
        for ((row, encoder), bias) in rows.zip(encoder).zip(&mut self.weights.encoder_bias) {
            let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-8) as f32;
            row.iter_mut().for_each(|x| *x /= length);
            encoder.iter_mut().for_each(|x| *x *= length);
            *bias *= length;
        }
        self.precision = Precision::F32;
    }
}

/// How weights of a file are kept.
pub(super) fn precision(tensors: &Tensors, name: &str) -> Precision {
    match tensors.kind(name) {
        Some(Type::F16) => Precision::F16,
        Some(Type::Bf16) => Precision::Bf16,
        _ => Precision::F32,
    }
}

/// A folder or a file to look at, with what is known of it beside.
#[derive(Debug)]
pub(super) struct Place {
    /// The folder.
    pub(super) dir: PathBuf,
    /// The file in it that was named, if one was.
    pub(super) file: Option<PathBuf>,
    /// What tells about it beside its contents: repository and path in it, or the path of the folder.
    pub(super) address: String,
}

impl Place {
    /// A file of the folder, if it is there.
    pub(super) fn has(&self, name: &str) -> Option<PathBuf> {
        let path = self.dir.join(name);
        path.is_file().then_some(path)
    }

    /// A weight file of the folder: as [`Self::has`], but nothing else than the file that was named, if one was.
    pub(super) fn weights(&self, name: &str) -> Option<PathBuf> {
        let path = self.has(name)?;
        self.file.as_ref().is_none_or(|file| *file == path).then_some(path)
    }

    /// The named file if its name ends like that, else the only such file of the folder.
    pub(super) fn only(&self, endings: &[&str]) -> Option<PathBuf> {
        let right = |path: &Path| path.to_str().is_some_and(|path| endings.iter().any(|ending| path.ends_with(ending)));
        if let Some(file) = &self.file {
            return right(file).then(|| file.clone());
        }
        let mut found = std::fs::read_dir(&self.dir)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file() && right(path));
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// The number behind `before` in the address, e.g. 12 of `layer_12`; the last such.
    pub(super) fn number(&self, before: &str) -> Option<usize> {
        self.address.rmatch_indices(before).find_map(|(at, _)| {
            let rest = &self.address[at + before.len()..];
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
    }
}

/// Reads a JSON file.
///
/// # Errors
/// [`ErrorKind::Io`], [`ErrorKind::Corrupt`] naming the file.
pub(super) fn json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path)
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("{} is not JSON", path.display())).with_source(error))
}

/// Reads the part of YAML in which tools write their settings: a key and a value a line, nested by indentation. Lists are
/// passed over.
///
/// # Errors
/// [`ErrorKind::Io`] naming the file.
pub(super) fn yaml(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error))?;
    let mut root = serde_json::Map::new();
    // Keys of the maps around a line, and how far they are indented.
    let mut around: Vec<(usize, String)> = Vec::new();
    'lines: for line in text.lines() {
        let content = line.trim();
        let Some((key, value)) = content.split_once(':').filter(|_| !content.starts_with(['#', '-'])) else { continue };
        let indent = line.len() - line.trim_start().len();
        around.retain(|(of, _)| *of < indent);
        let mut map = &mut root;
        for (_, key) in &around {
            let inner = map.entry(key.as_str()).or_insert_with(|| Value::Object(serde_json::Map::new()));
            let Some(inner) = inner.as_object_mut() else { continue 'lines };
            map = inner;
        }
        let key = key.trim().trim_matches(['\'', '"']).to_owned();
        let value = scalar(value.trim());
        if value == Value::String(String::new()) {
            map.insert(key.clone(), Value::Object(serde_json::Map::new()));
            around.push((indent, key));
        } else {
            map.insert(key, value);
        }
    }
    Ok(Value::Object(root))
}

/// A number, truth value, null or text of a YAML file; a comment behind it is left out.
fn scalar(value: &str) -> Value {
    for quote in ['\'', '"'] {
        if let Some((text, _)) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return Value::from(text);
        }
    }
    let value = if value.starts_with('#') { "" } else { value.split(" #").next().unwrap_or(value).trim_end() };
    match value {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "Null" | "~" => Value::Null,
        value => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
    }
}

/// A dictionary that is understood but cannot be used, and why.
pub(super) fn refused(format: &str, why: &str) -> Error {
    Error::new(ErrorKind::Query, format!("this is a dictionary of {format}, which cannot be imported: {why}"))
}

/// Fields of a configuration.
pub(super) trait Fields {
    fn text(&self, key: &str) -> Option<&str>;
    fn integer(&self, key: &str) -> Option<usize>;
    fn float(&self, key: &str) -> Option<f32>;
    fn flag(&self, key: &str) -> Option<bool>;
    fn integers(&self, key: &str) -> Vec<usize>;
}

impl Fields for Value {
    fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    fn integer(&self, key: &str) -> Option<usize> {
        let value = self.get(key)?;
        // Python writes some counts as 100.0.
        value
            .as_u64()
            .or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as u64))
            .map(|n| n as usize)
    }

    fn float(&self, key: &str) -> Option<f32> {
        self.get(key)?.as_f64().map(|x| x as f32)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    fn integers(&self, key: &str) -> Vec<usize> {
        let items = self.get(key).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(|n| n.as_u64().map(|n| n as usize)).collect()
    }
}
