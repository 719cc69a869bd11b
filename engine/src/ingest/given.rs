//! Features that were computed elsewhere: columns of the source that hold, for each document, which features are present
//! and how strongly. They become stored columns as they are, and no reader is loaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, Float32Array, ListArray, RecordBatch, UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, UInt32Type};
use half::f16;
use half::slice::HalfFloatSliceExt;
use saequel_udfs::FeatureId;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::documents::feature_columns;
use super::infer::Cell;
use super::read::{Part, open};
use super::records::{Csv, Records};
use super::source::{Input, cannot_open};
use super::typed::Wanted;
use crate::engine::{GivenFeatures, GivenMatrix, ImportOptions, ImportSource};
use crate::error::{Error, ErrorKind, Result};
use crate::labels::printable;
use crate::progress::Progress;
use crate::sae::{LatentInfo, Sae};
use crate::schema;
use crate::store::hex;

/// Source of the label of a feature that nobody has named: its number stands for it.
pub(crate) const UNNAMED: &str = "none";

/// Most features of a dictionary that comes without weights: each is held in memory with its label.
const MAX_WIDTH: u32 = 1 << 22;

/// Whether a column can hold the numbers of features.
pub(super) fn holds_ids(data_type: &DataType) -> bool {
    item(data_type).is_some_and(|item| item.is_integer() || item.is_null())
}

/// Whether a column can hold activations or embeddings.
fn holds_numbers(data_type: &DataType) -> bool {
    item(data_type).is_some_and(|item| item.is_numeric() || item.is_null())
}

fn item(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        _ => None,
    }
}

/// Refuses columns that are not there or cannot hold features or embeddings. `columns` are those of the source `name`.
pub(super) fn check_columns(
    name: &str,
    options: &ImportOptions,
    columns: &[(String, Option<DataType>)],
    hint: impl Fn(&str) -> String,
) -> Result<()> {
    let given = options.features.as_ref();
    let checks: [(_, Option<&str>, fn(&DataType) -> bool, &str); 3] = [
        ("features", given.map(|given| given.ids.as_str()), holds_ids, "a list of whole numbers"),
        ("activations", given.and_then(|given| given.activations.as_deref()), holds_numbers, "a list of numbers"),
        ("embeddings", options.embedding.as_deref(), holds_numbers, "a list of numbers"),
    ];
    for (what, column, fits, expected) in checks {
        let Some(column) = column else { continue };
        match columns.iter().find(|(other, _)| other == column) {
            None => {
                let message = format!("{name}: there is no column '{column}' for the {what}{}", hint(column));
                return Err(Error::new(ErrorKind::Data, message));
            }
            Some((_, Some(data_type))) if !fits(data_type) => {
                let message = format!(
                    "{name}: column '{column}' cannot hold {what}: expected {expected} for each document, got {data_type}"
                );
                return Err(Error::new(ErrorKind::Data, message));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// What a source has ready for each document.
#[derive(Default)]
pub(super) struct Given {
    pub(super) features: Option<GivenColumns>,
    pub(super) embedding: Option<GivenEmbedding>,
}

impl Given {
    /// Whether a column of the source is taken for it.
    pub(super) fn takes(&self, column: &str) -> bool {
        self.features.as_ref().is_some_and(|given| given.options.takes(column))
            || self.embedding.as_ref().is_some_and(|given| given.column == column)
    }

    /// The stored columns for the documents of `batch`, whose numbers in the source are `rows`.
    pub(super) fn convert(&self, source: &str, batch: &RecordBatch, rows: &[u64]) -> Result<Converted> {
        let mut all = Converted { columns: Vec::new(), bad: BTreeMap::new() };
        for part in [
            self.features.as_ref().map(|given| given.convert(source, batch, rows)),
            self.embedding.as_ref().map(|given| given.convert(source, batch, rows)),
        ] {
            let part = part.transpose()?;
            for (at, reason) in part.into_iter().flat_map(|part| {
                all.columns.extend(part.columns);
                part.bad
            }) {
                all.bad.entry(at).or_insert(reason);
            }
        }
        Ok(all)
    }
}

/// Embeddings that were computed elsewhere, and the dictionaries that read them.
pub(super) struct GivenEmbedding {
    pub(super) column: String,
    /// Values of an embedding.
    pub(super) width: usize,
    /// Dictionaries of level document with their first feature ids.
    pub(super) saes: Vec<(Arc<Sae>, FeatureId)>,
}

impl GivenEmbedding {
    fn convert(&self, source: &str, batch: &RecordBatch, rows: &[u64]) -> Result<Converted> {
        let lists = batch.column_by_name(&self.column).and_then(as_lists);
        let values = lists.as_ref().and_then(|lists| numbers_f32(lists.values()).ok());
        let (Some(lists), Some(values)) = (lists, values) else {
            let message = format!("{source}: column '{}' holds no lists of numbers", self.column);
            return Err(Error::new(ErrorKind::Data, message));
        };
        let mut bad = BTreeMap::new();
        let mut all = Vec::with_capacity(rows.len() * self.width);
        let mut valid = Vec::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            let (from, to) = range(&lists, at);
            let embedding = &values.values()[from..to];
            let found = match embedding {
                _ if lists.is_null(at) => Err(None),
                _ if embedding.len() != self.width => {
                    Err(Some(format!("the embedding has {} values, expected {}", embedding.len(), self.width)))
                }
                _ if !embedding.iter().all(|value| value.is_finite()) => {
                    Err(Some("the embedding has values that are no numbers".to_owned()))
                }
                _ => Ok(()),
            };
            valid.push(found.is_ok());
            match found {
                Ok(()) => all.extend_from_slice(embedding),
                Err(reason) => {
                    all.resize(all.len() + self.width, 0.0);
                    if let Some(reason) = reason {
                        bad.insert(at, format!("{source}, row {row}: {reason}"));
                    }
                }
            }
        }
        let mut columns = vec![(schema::EMBEDDING.to_owned(), stored_embeddings(&all, self.width, &valid)?)];
        for (sae, first_id) in &self.saes {
            let encoded = sae.encode_embeddings(&all)?;
            let encoded: Vec<_> =
                encoded.into_iter().zip(&valid).map(|(found, valid)| valid.then_some(found)).collect();
            columns.extend(feature_columns(sae.name(), *first_id, encoded.iter().map(Option::as_ref)));
        }
        Ok(Converted { columns, bad })
    }
}

/// Embeddings of length 1 in half precision, as they are stored; null where not `valid`.
fn stored_embeddings(values: &[f32], width: usize, valid: &[bool]) -> Result<ArrayRef> {
    let mut halves = Vec::with_capacity(values.len());
    for row in values.chunks_exact(width.max(1)) {
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
        halves.extend(row.iter().map(|value| f16::from_f32(value / length)));
    }
    let item = Arc::new(Field::new("item", DataType::Float16, true));
    let nulls = NullBuffer::from(valid.to_vec());
    FixedSizeListArray::try_new(item, width as i32, Arc::new(Float16Array::from(halves)), Some(nulls))
        .map(|lists| Arc::new(lists) as ArrayRef)
        .map_err(|error| Error::new(ErrorKind::Internal, "storing embeddings").with_source(error))
}

/// How the columns of a source become stored ones.
#[derive(Debug, Clone)]
pub(super) struct GivenColumns {
    pub(super) options: GivenFeatures,
    /// Name of the dictionary.
    pub(super) dictionary: String,
    pub(super) first_id: FeatureId,
    pub(super) width: u32,
}

/// Stored columns of some documents, and the rows that have none because what they hold cannot be.
pub(super) struct Converted {
    pub(super) columns: Vec<(String, ArrayRef)>,
    /// Place and reason, by position.
    pub(super) bad: BTreeMap<usize, String>,
}

impl GivenColumns {
    /// The stored columns for the documents of `batch`, whose numbers in the source are `rows`.
    fn convert(&self, source: &str, batch: &RecordBatch, rows: &[u64]) -> Result<Converted> {
        let lists = |column: &str, what: &str| -> Result<ListArray> {
            let array = batch.column_by_name(column).ok_or_else(|| {
                Error::new(ErrorKind::Data, format!("{source}: rows without the column '{column}' for the {what}"))
            })?;
            as_lists(array).ok_or_else(|| {
                let message = format!(
                    "{source}: column '{column}' cannot hold {what}: expected a list of numbers for each document, got {}",
                    array.data_type()
                );
                Error::new(ErrorKind::Data, message)
            })
        };
        let ids = lists(&self.options.ids, "features")?;
        let numbers = whole_numbers(ids.values());
        let activations = match &self.options.activations {
            Some(column) => Some(lists(column, "activations")?),
            None => None,
        };
        let strengths = activations.as_ref().map(|lists| numbers_f32(lists.values())).transpose();
        let (Some(numbers), Ok(strengths)) = (numbers, strengths) else {
            let message = format!("{source}: the features are no numbers, got {}", ids.data_type());
            return Err(Error::new(ErrorKind::Data, message));
        };
        let mut made = Lists::with_capacity(rows.len(), numbers.len());
        let mut bad = BTreeMap::new();
        let mut strong: Vec<f32> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let null = ids.is_null(at) || activations.as_ref().is_some_and(|lists| lists.is_null(at));
            let (from, to) = range(&ids, at);
            let strengths = match (&strengths, &activations) {
                (Some(values), Some(lists)) => {
                    let (from, to) = range(lists, at);
                    Some(&values.values()[from..to])
                }
                _ => None,
            };
            if null {
                made.end(false);
                continue;
            }
            let nulls = (from..to).any(|at| numbers.is_null(at));
            let found = match strengths {
                _ if nulls => Err("a feature is null".to_owned()),
                Some(values) if values.len() != to - from => {
                    Err(format!("{} features have {} activations", to - from, values.len()))
                }
                Some(values) => self.document(&numbers.values()[from..to], values, &mut made),
                None => {
                    strong.resize(to - from, 1.0);
                    self.document(&numbers.values()[from..to], &strong, &mut made)
                }
            };
            match found {
                Ok(()) => made.end(true),
                Err(reason) => {
                    made.end(false);
                    bad.insert(at, format!("{source}, row {row}: {reason}"));
                }
            }
        }
        let (ids, activations) = made.finish()?;
        let columns = vec![
            (schema::ids_column(&self.dictionary), ids),
            (schema::activations_column(&self.dictionary), activations),
        ];
        Ok(Converted { columns, bad })
    }

    /// Adds a document's features, ascending; of a feature that stands twice the stronger counts.
    fn document(&self, latents: &[i64], activations: &[f32], made: &mut Lists) -> Result<(), String> {
        let width = i64::from(self.width);
        let threshold = self.options.threshold;
        if let Some(latent) = latents.iter().find(|latent| !(0..width).contains(*latent)) {
            return Err(format!(
                "there is no feature {latent} in dictionary '{}': it has {width}, numbered 0 to {}",
                self.dictionary,
                width - 1
            ));
        }
        if let Some(at) = activations.iter().position(|value| !value.is_finite()) {
            return Err(format!("the activation of feature {} is {}", latents[at], activations[at]));
        }
        let ascending = latents.windows(2).all(|pair| pair[0] < pair[1]);
        if ascending && activations.iter().all(|value| value.abs() > threshold) {
            made.ids.extend(latents.iter().map(|latent| self.first_id + *latent as u32));
            made.activations.extend_from_slice(activations);
            return Ok(());
        }
        let mut pairs: Vec<(i64, f32)> = latents
            .iter()
            .copied()
            .zip(activations.iter().copied())
            .filter(|(_, value)| value.abs() > threshold)
            .collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.abs().total_cmp(&a.1.abs())));
        pairs.dedup_by_key(|(latent, _)| *latent);
        made.ids.extend(pairs.iter().map(|(latent, _)| self.first_id + *latent as u32));
        made.activations.extend(pairs.iter().map(|(_, value)| *value));
        Ok(())
    }
}

/// Lists of ids and activations that are being made.
struct Lists {
    ids: Vec<u32>,
    activations: Vec<f32>,
    lengths: Vec<usize>,
    valid: Vec<bool>,
    /// Values before the current document.
    done: usize,
}

impl Lists {
    fn with_capacity(rows: usize, values: usize) -> Self {
        Self {
            ids: Vec::with_capacity(values),
            activations: Vec::with_capacity(values),
            lengths: Vec::with_capacity(rows),
            valid: Vec::with_capacity(rows),
            done: 0,
        }
    }

    /// Ends a document.
    fn end(&mut self, valid: bool) {
        self.lengths.push(self.ids.len() - self.done);
        self.done = self.ids.len();
        self.valid.push(valid);
    }

    fn finish(self) -> Result<(ArrayRef, ArrayRef)> {
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let nulls = NullBuffer::from(self.valid);
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        let mut halves = vec![f16::ZERO; self.activations.len()];
        halves.convert_from_f32_slice(&self.activations);
        for (half, value) in halves.iter_mut().zip(&self.activations) {
            // What is present stays above 0, and what is too large for 16 bits stays a number.
            if half.is_infinite() {
                *half = if *value > 0.0 { f16::MAX } else { f16::MIN };
            } else if *half == f16::ZERO {
                let smallest = f16::from_bits(1);
                *half = if *value > 0.0 { smallest } else { -smallest };
            }
        }
        let list = |item: DataType, values: ArrayRef| {
            ListArray::try_new(Arc::new(Field::new("item", item, true)), offsets.clone(), values, nulls.clone())
                .map(|lists| Arc::new(lists) as ArrayRef)
                .map_err(|error| Error::new(ErrorKind::Internal, "storing features").with_source(error))
        };
        let ids = list(DataType::UInt32, Arc::new(UInt32Array::from(self.ids)))?;
        Ok((ids, list(DataType::Float16, Arc::new(Float16Array::from(halves)))?))
    }
}

fn range(lists: &ListArray, row: usize) -> (usize, usize) {
    let offsets = lists.value_offsets();
    (offsets[row] as usize, offsets[row + 1] as usize)
}

/// Lists of any kind as lists; `None` for what is none.
fn as_lists(array: &ArrayRef) -> Option<ListArray> {
    if let Some(lists) = array.as_list_opt::<i32>() {
        return Some(lists.clone());
    }
    let item = item(array.data_type())?;
    let to = DataType::List(Arc::new(Field::new("item", item.clone(), true)));
    let cast = cast_with_options(array, &to, &CastOptions::default()).ok()?;
    cast.as_list_opt::<i32>().cloned()
}

/// Whole numbers of any type; what does not fit becomes null. `None` if they are no numbers.
fn whole_numbers(values: &ArrayRef) -> Option<arrow::array::Int64Array> {
    if let Some(values) = values.as_primitive_opt::<UInt32Type>() {
        let numbers = values.values().iter().map(|value| i64::from(*value)).collect();
        return Some(arrow::array::Int64Array::new(numbers, values.nulls().cloned()));
    }
    let cast = cast_with_options(values, &DataType::Int64, &CastOptions { safe: true, ..Default::default() }).ok()?;
    cast.as_primitive_opt::<Int64Type>().cloned()
}

/// Numbers of any type; null becomes not a number.
fn numbers_f32(values: &ArrayRef) -> Result<Float32Array> {
    let wrong = |error| Error::new(ErrorKind::Data, "activations").with_source(error);
    let cast = cast_with_options(values, &DataType::Float32, &CastOptions { safe: true, ..Default::default() });
    let cast = cast.map_err(wrong)?.as_primitive::<Float32Type>().clone();
    if cast.null_count() == 0 {
        return Ok(cast);
    }
    Ok(Float32Array::from_iter_values(cast.iter().map(|value| value.unwrap_or(f32::NAN))))
}

/// Adds what a document's features are to the hash that identifies a row.
pub(super) fn hash_lists(hash: &mut Sha256, array: &ArrayRef, row: usize) {
    let Some(lists) = array.as_list_opt::<i32>() else { return };
    if lists.is_null(row) {
        return;
    }
    let values = lists.value(row).to_data();
    for buffer in values.buffers() {
        let size = values.data_type().primitive_width().unwrap_or(1);
        let (from, to) = (values.offset() * size, (values.offset() + values.len()) * size);
        hash.update(buffer.as_slice().get(from..to).unwrap_or_default());
    }
}

/// The number of features that a source names: one more than the largest. Asks the file's own statistics first, and reads
/// the column where it has none.
pub(super) fn found_width(parts: &[Part], options: &ImportOptions, ids: &str, progress: &dyn Progress) -> Result<u32> {
    let mut largest: Option<i64> = None;
    for part in parts {
        if matches!(part.source, ImportSource::Stdin) {
            let message = "standard input can be read once only: say how many features there are (--width)";
            return Err(Error::new(ErrorKind::Query, message));
        }
        let mut opened = open(part, options)?;
        if let Some(most) = opened.rows.largest_item(ids) {
            if most >= i64::from(MAX_WIDTH) {
                return Err(too_large(&opened.name, ids, most));
            }
            // A matrix without columns has none.
            largest = largest.max(Some(most).filter(|most| *most >= 0));
            continue;
        }
        progress.stage("counting features", opened.total, "documents");
        opened.rows.prepare(Wanted::default())?;
        while let Some(rows) = opened.rows.next()? {
            if progress.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "stopped on request; nothing was written yet"));
            }
            let Some(lists) = rows.batch.column_by_name(ids).and_then(as_lists) else { continue };
            let Some(numbers) = whole_numbers(lists.values()) else { continue };
            let most = arrow::compute::max(&numbers);
            if let Some(most) = most.filter(|most| *most >= i64::from(MAX_WIDTH)) {
                let large = |at: usize| numbers.is_valid(at) && numbers.value(at) == most;
                let at = (0..lists.len()).find(|at| {
                    let (from, to) = range(&lists, *at);
                    (from..to).any(large)
                });
                let row = at.and_then(|at| rows.rows.get(at));
                let place = row.map_or_else(|| opened.name.clone(), |row| format!("{}, row {row}", opened.name));
                return Err(too_large(&place, ids, most));
            }
            largest = largest.max(most);
            progress.update(opened.rows.read(), "");
        }
    }
    match largest.map(|most| u32::try_from(most + 1)) {
        Some(Ok(width)) if width > 0 => Ok(width),
        Some(_) => {
            let message = format!(
                "column '{ids}' names feature {}; expected numbers from 0 up to the width of the dictionary",
                largest.unwrap_or_default()
            );
            Err(Error::new(ErrorKind::Data, message))
        }
        None => {
            let message = format!("column '{ids}' names no feature at all; say how many there are (--width)");
            Err(Error::new(ErrorKind::Data, message))
        }
    }
}

/// Refuses a feature that is so large that the dictionary would not fit into memory.
fn too_large(place: &str, ids: &str, feature: i64) -> Error {
    let message = format!(
        "{place}: column '{ids}' names feature {feature}, more than can be numbered; expected numbers from 0 to {}",
        MAX_WIDTH - 1
    );
    Error::new(ErrorKind::Data, message)
}

/// The number of values of the embeddings that a source has, by the first of them.
pub(super) fn found_embedding_width(part: &Part, options: &ImportOptions, column: &str) -> Result<usize> {
    if matches!(part.source, ImportSource::Stdin) {
        let message = "standard input can be read once only: name the dictionary that reads the embeddings (--sae)";
        return Err(Error::new(ErrorKind::Query, message));
    }
    let mut opened = open(part, options)?;
    opened.rows.prepare(Wanted::default())?;
    while let Some(rows) = opened.rows.next()? {
        let Some(lists) = rows.batch.column_by_name(column).and_then(as_lists) else { continue };
        if let Some(first) = (0..lists.len()).find(|row| lists.is_valid(*row) && lists.value_length(*row) > 0) {
            return Ok(lists.value_length(first) as usize);
        }
    }
    let message = format!("{}: column '{column}' has no embedding at all", opened.name);
    Err(Error::new(ErrorKind::Data, message))
}

/// What is known of each feature of a dictionary that comes without weights: labels, where a file has some.
///
/// The file is JSON lines (such as the `features.jsonl` of an artifact), CSV or TSV, with `latent` (or `feature`, `index`,
/// `id`) and `label`, and `description` if there is one.
pub(super) fn latents(width: u32, labels: Option<&Path>) -> Result<Vec<LatentInfo>> {
    if width > MAX_WIDTH {
        let message = format!("a width of {width} is more than a dictionary can have; expected at most {MAX_WIDTH}");
        return Err(Error::new(ErrorKind::Query, message));
    }
    let mut latents: Vec<LatentInfo> = (0..width).map(unnamed).collect();
    let Some(path) = labels else { return Ok(latents) };
    for (line, row) in label_rows(path)? {
        let wrong = |what: String| Error::new(ErrorKind::Data, format!("{}, line {line}: {what}", path.display()));
        let number = ["latent", "feature", "index", "id", "feature_id"].iter().find_map(|name| row.get(*name));
        let number = number.and_then(|value| match value {
            Value::String(text) => text.trim().parse::<u64>().ok(),
            value => value.as_u64(),
        });
        let number = number.ok_or_else(|| wrong("expected the number of a feature in 'latent'".to_owned()))?;
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(printable).unwrap_or_default();
        let Some(latent) = usize::try_from(number).ok().and_then(|number| latents.get_mut(number)) else {
            return Err(wrong(format!("feature {number} does not exist: there are {width}, numbered from 0")));
        };
        if let Ok(whole) = serde_json::from_value::<LatentInfo>(Value::Object(row.clone())) {
            *latent = LatentInfo { label: printable(&whole.label), ..whole };
            continue;
        }
        let label = text("label");
        if !label.is_empty() {
            latent.label = label;
            latent.label_source = "imported".to_owned();
        }
        latent.description = text("description");
    }
    Ok(latents)
}

fn unnamed(latent: u32) -> LatentInfo {
    LatentInfo {
        latent,
        label: format!("latent {latent}"),
        description: String::new(),
        label_source: UNNAMED.to_owned(),
        label_score: None,
        detection: None,
        evidence_version: None,
        density: 0.0,
        max_activation: 0.0,
        presence_threshold: 0.0,
        q50: 0.0,
        q90: 0.0,
        hidden: None,
        top_tokens: Vec::new(),
        top_words: Vec::new(),
        examples: Vec::new(),
    }
}

/// Rows of a file of labels with their lines.
fn label_rows(path: &Path) -> Result<Vec<(u64, Map<String, Value>)>> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    if matches!(ending.as_str(), "csv" | "tsv") {
        // Tabs are told by the header; a value may be quoted in TSV, too.
        let mut records = Csv::open(Input::open(&ImportSource::Path(path.to_owned()))?, false)?;
        let names: Vec<String> = records.columns().iter().map(|name| name.to_lowercase()).collect();
        let mut rows = Vec::new();
        while let Some(record) = records.next()? {
            let cell = |(name, cell): (&String, Option<Cell>)| match cell? {
                Cell::Raw(text) => Some((name.clone(), Value::from(text))),
                Cell::Json(value) => Some((name.clone(), value)),
            };
            rows.push((record.line, names.iter().zip(record.cells).filter_map(cell).collect()));
        }
        return Ok(rows);
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot_open(path, error))?;
    let wrong = |line: u64, error: &dyn std::fmt::Display| {
        let message =
            format!("{}, line {line}: {error}; expected JSON lines, CSV or TSV with latent and label", path.display());
        Error::new(ErrorKind::Data, message)
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| match serde_json::from_str::<Value>(line) {
            Ok(Value::Object(row)) => Ok((at as u64 + 1, row)),
            Ok(_) => Err(wrong(at as u64 + 1, &"not an object")),
            Err(error) => Err(wrong(at as u64 + 1, &error)),
        })
        .collect()
}

/// Where features come from, as JSON: what `saequel.saes` shows as provenance.
///
/// The file is named with its size and SHA-256, so that it can be told years later from another of its name.
pub(super) fn provenance(parts: &[Part], options: &ImportOptions, given: &GivenFeatures) -> Result<Value> {
    let mut files = Vec::new();
    for part in parts {
        let ImportSource::Path(path) = &part.source else {
            files.push(json!({"file": "standard input"}));
            continue;
        };
        files.push(file_facts(path)?);
    }
    let mut facts = json!({"computed": "elsewhere", "files": files, "features": given.ids});
    if let Some(activations) = &given.activations {
        facts["activations"] = json!(activations);
    }
    if let Some(tool) = &given.tool {
        facts["tool"] = json!(tool);
    }
    if given.threshold > 0.0 {
        facts["threshold"] = json!(given.threshold);
    }
    if let Some(labels) = &given.labels {
        facts["labels"] = file_facts(labels)?;
    }
    if let Some(GivenMatrix::Features(path)) = &options.matrix {
        facts["matrix"] = file_facts(path)?;
    }
    facts["width"] = json!(if given.width.is_some() { "given" } else { "found" });
    Ok(facts)
}

fn file_facts(path: &Path) -> Result<Value> {
    use std::io::Read;

    let failed = |error| cannot_open(path, error);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0_u64, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).map_err(failed)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
    // The name alone: where a file lies on this machine is no business of those who may ask.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(json!({"file": name, "bytes": bytes, "sha256": hex(&hash.finalize())}))
}
