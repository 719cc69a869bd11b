//! Files of labels that others made: Neuronpedia's exports, Goodfire's label files, and rows of CSV, TSV, JSON, JSON Lines
//! (also gzipped) or Parquet.
//!
//! | layout | what |
//! |---|---|
//! | `neuronpedia` | explanations, one a line (`explanations/batch-*.jsonl.gz` of its data sets) or as an array: `modelId`, `layer`, `index`, `description`; features as its API gives them: `index`, `explanations` |
//! | `goodfire` | `index_in_sae` and `label`, one a row or under `features`; a file with "goodfire" in its path that maps positions to labels |
//! | `csv`, `tsv`, `json`, `jsonl`, `parquet` | rows with a position (`latent`, `index`, `feature_index`, ...) or an id of the database (`feature_id`), `label` and, if there are any, `description`, `detection`, `score`; in JSON also a map from positions to labels, or a list of them |

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatchReader};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use saequel_engine::ErrorKind;
use saequel_engine::labels::printable;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Failure, Result, io_failure};
use crate::output::Format;

/// What a label is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Id {
    /// A feature of the database.
    Feature(u32),
    /// A position in a dictionary.
    Latent(u32),
}

/// One label as a file has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FileLabel {
    pub(crate) id: Id,
    /// Name of the dictionary, if the row says it.
    pub(crate) dictionary: Option<String>,
    /// On one line; empty if the file has none.
    pub(crate) label: String,
    pub(crate) description: Option<String>,
    pub(crate) detection: Option<f32>,
    pub(crate) score: Option<f32>,
    /// Where the label comes from, if the row says it and this program writes such.
    pub(crate) source: Option<String>,
    pub(crate) evidence_version: Option<u32>,
}

/// The labels of some files.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct LabelFiles {
    pub(crate) labels: Vec<FileLabel>,
    /// Layouts, in order of names.
    pub(crate) formats: BTreeSet<&'static str>,
    /// Model and layer that Neuronpedia's files name.
    pub(crate) sources: BTreeSet<String>,
}

/// A row with the names that the field uses. Whatever else is in it is skipped, such as embeddings and activations.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    index_in_sae: Value,
    feature_id: Value,
    latent: Value,
    index: Value,
    feature_index: Value,
    latent_index: Value,
    feature_idx: Value,
    latent_id: Value,
    feature: Value,
    neuron: Value,
    id: Value,
    label: Value,
    name: Value,
    description: Value,
    explanation: Value,
    explanations: Value,
    labels: Value,
    dictionary: Value,
    detection: Value,
    score: Value,
    label_score: Value,
    label_source: Value,
    evidence_version: Value,
    #[serde(rename = "modelId")]
    model_id: Value,
    layer: Value,
    /// Rows within.
    features: Value,
    vectors: Value,
}

/// Columns in which a position or an id may stand, as messages name them.
const ID_COLUMNS: &str = "feature_id, or latent, index, feature_index, index_in_sae (a position in a dictionary)";

impl LabelFiles {
    /// Reads files, and the files in folders. Of Neuronpedia's rows only those of `layer`, if one is given.
    ///
    /// # Errors
    /// What the disk says; [`ErrorKind::Data`] with the place of what cannot be read.
    pub(crate) fn read(paths: &[PathBuf], layer: Option<&str>) -> Result<Self> {
        let mut files = Self::default();
        for path in files_in(paths)? {
            files.read_file(&path, layer)?;
        }
        if files.sources.len() > 1 {
            let names: Vec<&str> = files.sources.iter().map(String::as_str).collect();
            let message = format!("the files hold labels of several dictionaries: {}", names.join(", "));
            return Err(Failure::new(ErrorKind::Data, message).hint("take those of one with --layer"));
        }
        if files.labels.is_empty() {
            let of = layer.map(|layer| format!(" of layer '{layer}'")).unwrap_or_default();
            return Err(Failure::new(ErrorKind::Data, format!("the files hold no labels{of}")));
        }
        Ok(files)
    }

    fn read_file(&mut self, path: &Path, layer: Option<&str>) -> Result<()> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| io_failure(&shown, &error))?;
        if bytes.starts_with(b"PAR1") {
            let file = File { shown, name: inner_name(path), is_goodfire: names_goodfire(path) };
            return self.read_parquet(&file, bytes, layer);
        }
        let mut text = Vec::new();
        let plain: &[u8] = if bytes.starts_with(&[0x1f, 0x8b]) {
            flate2::read::MultiGzDecoder::new(bytes.as_slice())
                .read_to_end(&mut text)
                .map_err(|error| Failure::new(ErrorKind::Data, format!("{shown}: damaged gzip: {error}")))?;
            &text
        } else {
            &bytes
        };
        let text = std::str::from_utf8(plain)
            .map_err(|error| Failure::new(ErrorKind::Data, format!("{shown} is no text in UTF-8: {error}")))?;
        let text = text.trim_start_matches('\u{feff}');
        let file = File { shown, name: inner_name(path), is_goodfire: names_goodfire(path) };
        match text.trim_start().chars().next() {
            None => Ok(()),
            Some('[' | '{') => self.read_json(&file, text, layer),
            _ => self.read_columns(&file, text, layer),
        }
    }

    fn read_json(&mut self, file: &File, text: &str, layer: Option<&str>) -> Result<()> {
        let is_lines = Format::of_path(&file.name) == Some(Format::Jsonl);
        if text.trim_start().starts_with('[') {
            if let Ok(labels) = serde_json::from_str::<Vec<Option<String>>>(text) {
                let labels = (0..).zip(labels).filter_map(|(latent, label)| Some((latent, label?)));
                self.labels.extend(labels.map(|(latent, label)| FileLabel::new(Id::Latent(latent), &label)));
                self.formats.insert(file.layout("json"));
                return Ok(());
            }
            let rows: Vec<Row> = serde_json::from_str(text).map_err(|error| file.at_line(error.line(), "", &error))?;
            return self.take_rows(file, rows.into_iter(), layer, "json");
        }
        if !is_lines && let Ok(row) = serde_json::from_str::<Row>(text) {
            if row.has_id() || row.rows().is_some() {
                return self.take_rows(file, std::iter::once(row), layer, "json");
            }
            return self.read_map(file, text);
        }
        let mut number = 0;
        for line in text.lines() {
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            let row: Row = serde_json::from_str(line).map_err(|error| file.at_line(number, "not JSON: ", &error))?;
            self.take(file, row, layer, "jsonl", &|| format!("line {number}"))?;
        }
        Ok(())
    }

    /// A map from positions to labels, or to rows.
    fn read_map(&mut self, file: &File, text: &str) -> Result<()> {
        let map: serde_json::Map<String, Value> =
            serde_json::from_str(text).map_err(|error| file.at_line(error.line(), "", &error))?;
        for (key, value) in map {
            let Ok(latent) = key.trim().parse() else {
                let wrong = format!("expected rows with {ID_COLUMNS}, or a map from positions to labels; got '{key}'");
                return Err(file.wrong(&wrong));
            };
            match value {
                Value::Null => {}
                Value::String(label) => self.labels.push(FileLabel::new(Id::Latent(latent), &label)),
                row => {
                    let row: Row = serde_json::from_value(row)
                        .map_err(|error| file.wrong(&format!("at position {latent}: {error}")))?;
                    let place = || format!("position {latent}");
                    self.labels.push(file.label(&row, Id::Latent(latent), &place)?);
                }
            }
        }
        self.formats.insert(file.layout("json"));
        Ok(())
    }

    /// CSV or TSV with a header.
    fn read_columns(&mut self, file: &File, text: &str, layer: Option<&str>) -> Result<()> {
        let header = text.lines().next().unwrap_or_default();
        let is_tsv = Format::of_path(&file.name) == Some(Format::Tsv) || header.contains('\t') && !header.contains(',');
        let (delimiter, format) = if is_tsv { (b'\t', "tsv") } else { (b',', "csv") };
        check_quotes(file, text, delimiter)?;
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
        let header = reader.headers().map_err(|error| file.at_line(1, "", &error))?.clone();
        let names: Vec<String> = header.iter().map(|name| name.trim().to_lowercase()).collect();
        check_columns(file, &names)?;
        for record in reader.records() {
            let record = record.map_err(|error| {
                let line = error.position().map_or(0, csv::Position::line);
                file.at_line(line as usize, "", &error)
            })?;
            let line = record.position().map_or(0, csv::Position::line);
            let row = row_of(names.iter().map(String::as_str).zip(&record));
            self.take(file, row, layer, format, &|| format!("line {line}"))?;
        }
        Ok(())
    }

    /// Parquet; columns of lists and the like are passed over.
    fn read_parquet(&mut self, file: &File, bytes: Vec<u8>, layer: Option<&str>) -> Result<()> {
        let damaged = |error: &dyn std::fmt::Display| file.wrong(&format!("damaged Parquet: {error}"));
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes));
        let reader = builder.and_then(|builder| builder.build()).map_err(|error| damaged(&error))?;
        let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().to_lowercase()).collect();
        check_columns(file, &names)?;
        let mut number = 0;
        for batch in reader {
            let batch = batch.map_err(|error| damaged(&error))?;
            let mut columns = Vec::with_capacity(names.len());
            for (name, column) in
                names.iter().zip(batch.columns()).filter(|(_, column)| !column.data_type().is_nested())
            {
                columns.push((name.as_str(), cast(column, &DataType::Utf8).map_err(|error| damaged(&error))?));
            }
            for i in 0..batch.num_rows() {
                number += 1;
                let cells = columns.iter().filter(|(_, column)| column.is_valid(i));
                let row = row_of(cells.map(|(name, column)| (*name, column.as_string::<i32>().value(i))));
                self.take(file, row, layer, "parquet", &|| format!("row {number}"))?;
            }
        }
        Ok(())
    }

    fn take_rows(
        &mut self,
        file: &File,
        rows: impl Iterator<Item = Row>,
        layer: Option<&str>,
        format: &'static str,
    ) -> Result<()> {
        for (row, number) in rows.zip(1..) {
            self.take(file, row, layer, format, &|| format!("entry {number}"))?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        file: &File,
        row: Row,
        layer: Option<&str>,
        format: &'static str,
        place: &dyn Fn() -> String,
    ) -> Result<()> {
        if let Some(rows) = row.rows() {
            let rows: Vec<Row> =
                serde_json::from_value(rows).map_err(|error| file.wrong(&format!("{}: {error}", place())))?;
            return self.take_rows(file, rows.into_iter(), layer, format);
        }
        let is_neuronpedia = row.model_id.is_string() || row.explanations.is_array();
        let of_layer = text(&row.layer);
        if is_neuronpedia && layer.is_some() && of_layer.as_deref() != layer {
            return Ok(());
        }
        let id = row.id().ok_or_else(|| file.wrong(&format!("{}: expected {ID_COLUMNS}", place())))?;
        let id = id.map_err(|(column, value)| {
            file.wrong(&format!("{}: expected a number as {column}, got {value}", place()))
        })?;
        let format = match () {
            () if is_neuronpedia => "neuronpedia",
            () if !row.index_in_sae.is_null() => "goodfire",
            () => file.layout(format),
        };
        self.formats.insert(format);
        if is_neuronpedia {
            let model = text(&row.model_id).unwrap_or_default();
            self.sources.insert(format!("{model} {}", of_layer.unwrap_or_default()).trim().to_owned());
        }
        self.labels.push(file.label(&row, id, place)?);
        Ok(())
    }
}

/// Refuses a table without ids or labels.
fn check_columns(file: &File, names: &[String]) -> Result<()> {
    let probe: Row = row_of(names.iter().map(|name| (name.as_str(), "0")));
    if probe.has_id() && probe.label_and_description().0.is_some() {
        return Ok(());
    }
    let wrong = format!("expected columns {ID_COLUMNS}, and label or description; there are {}", names.join(", "));
    Err(file.at_line(1, &wrong, &""))
}

/// Refuses a quote that is open at the end of the text. The csv library reads it as if it were closed there; of a line
/// behind the text it makes a record, unless the open quote takes that line in.
fn check_quotes(file: &File, text: &str, delimiter: u8) -> Result<()> {
    let mut builder = csv::ReaderBuilder::new();
    builder.delimiter(delimiter).has_headers(false).flexible(true);
    let mut reader = builder.from_reader(text.as_bytes().chain(b"\n.".as_slice()));
    let last = reader.byte_records().map_while(std::result::Result::ok).last().unwrap_or_default();
    if last.len() == 1 && last.as_slice() == b"." {
        return Ok(());
    }
    let open = last.iter().next_back().unwrap_or_default();
    let breaks = open.iter().filter(|byte| **byte == b'\n').count();
    let line = (reader.position().line() as usize).saturating_sub(breaks);
    let what = "the quote that opens a value here is never closed; close it, or write a quote that belongs to the text \
                twice (\"\") inside a quoted value";
    Err(file.at_line(line, what, &""))
}

/// A file that is being read.
struct File {
    shown: String,
    /// Without `.gz`.
    name: PathBuf,
    is_goodfire: bool,
}

impl File {
    fn wrong(&self, what: &str) -> Failure {
        Failure::new(ErrorKind::Data, format!("{}, {what}", self.shown))
    }

    fn at_line(&self, line: usize, what: &str, error: &dyn std::fmt::Display) -> Failure {
        Failure::new(ErrorKind::Data, format!("{}, line {line}: {what}{error}", self.shown))
    }

    fn layout(&self, format: &'static str) -> &'static str {
        if self.is_goodfire { "goodfire" } else { format }
    }

    fn label(&self, row: &Row, id: Id, place: &dyn Fn() -> String) -> Result<FileLabel> {
        let number = |value: &Value, name: &str| match value {
            Value::Null => Ok(None),
            Value::String(text) if text.trim().is_empty() => Ok(None),
            value => number(value).map(|number| Some(number as f32)).ok_or_else(|| {
                self.wrong(&format!("{}: expected a number as {name}, got '{}'", place(), shown(value)))
            }),
        };
        let (label, description) = row.label_and_description();
        Ok(FileLabel {
            dictionary: text(&row.dictionary),
            description,
            source: text(&row.label_source).filter(|source| is_source(source)),
            evidence_version: self::number(&row.evidence_version).map(|version| version as u32),
            detection: match number(&row.detection, "detection")? {
                Some(detection) if !(0.0..=1.0).contains(&detection) => {
                    let message = format!("{}: expected a detection from 0 to 1, got {detection}", place());
                    return Err(self.wrong(&message));
                }
                detection => detection,
            },
            // Measures of others come on any scale; only what can be a share is taken.
            score: match &row.label_score {
                Value::Null => number(&row.score, "score").ok().flatten(),
                score => number(score, "label_score")?,
            },
            ..FileLabel::new(id, &label.unwrap_or_default())
        })
    }
}

/// Whether this program writes a source like that.
fn is_source(source: &str) -> bool {
    matches!(source, "user" | "words" | "read" | "none")
        || source.starts_with("llm:")
        || source.starts_with("imported:")
}

impl FileLabel {
    fn new(id: Id, label: &str) -> Self {
        let label = printable(label);
        Self {
            id,
            dictionary: None,
            label,
            description: None,
            detection: None,
            score: None,
            source: None,
            evidence_version: None,
        }
    }
}

impl Row {
    /// Columns with a position or an id, the surest first: Goodfire's `feature_id` is no number.
    fn ids(&self) -> [(&'static str, &Value); 11] {
        [
            ("index_in_sae", &self.index_in_sae),
            ("feature_id", &self.feature_id),
            ("latent", &self.latent),
            ("index", &self.index),
            ("feature_index", &self.feature_index),
            ("latent_index", &self.latent_index),
            ("feature_idx", &self.feature_idx),
            ("latent_id", &self.latent_id),
            ("feature", &self.feature),
            ("neuron", &self.neuron),
            ("id", &self.id),
        ]
    }

    fn has_id(&self) -> bool {
        self.ids().iter().any(|(_, value)| !is_empty(value))
    }

    /// The position or id; the column and what stands in it if that is no number.
    fn id(&self) -> Option<std::result::Result<Id, (&'static str, String)>> {
        let ids = self.ids();
        // Ids are of one database; a place in a dictionary is the same everywhere.
        let placed = [("latent", &self.latent)];
        let is_placed = !is_empty(&self.latent) && text(&self.dictionary).is_some();
        let ids = if is_placed { placed.as_slice() } else { ids.as_slice() };
        let &(column, value) = ids.iter().find(|(_, value)| !is_empty(value))?;
        let id = number(value).filter(|id| id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(id));
        Some(match id.map(|id| id as u32) {
            Some(id) if column == "feature_id" => Ok(Id::Feature(id)),
            Some(id) => Ok(Id::Latent(id)),
            None => Err((column, format!("'{}'", shown(value)))),
        })
    }

    /// A label, and a description beside it. What says only one thing says the label.
    fn label_and_description(&self) -> (Option<String>, Option<String>) {
        let explained = || self.explanations.as_array()?.iter().find_map(|of| text(of.get("description")?));
        let first = || self.labels.as_array()?.iter().find_map(text);
        let label = text(&self.label).or_else(|| text(&self.name)).or_else(first);
        let description = text(&self.description).or_else(|| text(&self.explanation)).or_else(explained);
        match label {
            // An empty description says that there is none; a missing one says nothing.
            Some(label) => (Some(label), description.or_else(|| self.description.is_string().then(String::new))),
            None => (description, None),
        }
    }

    /// Rows within this one, if it is only a frame around them.
    fn rows(&self) -> Option<Value> {
        [&self.features, &self.vectors].into_iter().find(|rows| rows.is_array()).cloned()
    }
}

fn row_of<'a>(cells: impl Iterator<Item = (&'a str, &'a str)>) -> Row {
    let cells: serde_json::Map<String, Value> =
        cells.map(|(name, cell)| (if name == "modelid" { "modelId" } else { name }.to_owned(), cell.into())).collect();
    // Texts fit every field.
    serde_json::from_value(Value::Object(cells)).unwrap_or_default()
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// A text that is not empty, on one line; also a number.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(printable(text)).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The files, and those in folders whose names say that they may hold labels, in order of their names and numbers.
fn files_in(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = |error: std::io::Error| io_failure(path.display(), &error);
        let mut own = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let formats = [Format::Csv, Format::Tsv, Format::Json, Format::Jsonl, Format::Parquet];
            if file.is_file() && Format::of_path(&inner_name(&file)).is_some_and(|format| formats.contains(&format)) {
                own.push(file);
            }
        }
        if own.is_empty() {
            let message =
                format!("{} holds no file of labels (csv, tsv, json, jsonl, also .gz; parquet)", path.display());
            return Err(Failure::new(ErrorKind::Data, message));
        }
        // `batch-2` before `batch-10`.
        own.sort_by_key(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            (digits.len(), digits, name)
        });
        files.extend(own);
    }
    Ok(files)
}

/// The file's name without `.gz`.
fn inner_name(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == "gz") { path.with_extension("") } else { path.to_owned() }
}

fn names_goodfire(path: &Path) -> bool {
    path.to_string_lossy().to_lowercase().contains("goodfire")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read_all(files: &[(&str, &str)], layer: Option<&str>) -> Result<LabelFiles> {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if name.ends_with(".gz") {
                let mut encoder =
                    flate2::write::GzEncoder::new(std::fs::File::create(&path).unwrap(), flate2::Compression::fast());
                encoder.write_all(content.as_bytes()).unwrap();
                encoder.finish().unwrap();
            } else {
                std::fs::write(&path, content).unwrap();
            }
            paths.push(path);
        }
        LabelFiles::read(&paths, layer)
    }

    fn read(name: &str, content: &str) -> Result<LabelFiles> {
        read_all(&[(name, content)], None)
    }

    fn labels(name: &str, content: &str) -> Vec<(Id, String)> {
        read(name, content).unwrap().labels.into_iter().map(|label| (label.id, label.label)).collect()
    }

    fn formats(name: &str, content: &str) -> Vec<&'static str> {
        read(name, content).unwrap().formats.into_iter().collect()
    }

    fn latent(latent: u32, label: &str) -> (Id, String) {
        (Id::Latent(latent), label.to_owned())
    }

    #[test]
    fn parquet_is_read_as_it_was_exported() {
        use arrow::array::{ArrayRef, Float32Array, ListArray, RecordBatch, StringArray, UInt32Array};
        let words = ListArray::from_iter_primitive::<arrow::datatypes::UInt32Type, _, _>([Some(vec![Some(1)]), None]);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("feature_id", std::sync::Arc::new(UInt32Array::from(vec![7, 8])) as ArrayRef, false),
            ("label", std::sync::Arc::new(StringArray::from(vec!["a", "b"])), false),
            ("label_source", std::sync::Arc::new(StringArray::from(vec!["user", "of my own"])), false),
            ("label_score", std::sync::Arc::new(Float32Array::from(vec![Some(0.77), None])), true),
            ("evidence_version", std::sync::Arc::new(UInt32Array::from(vec![Some(1), None])), true),
            ("top_words", std::sync::Arc::new(words), true),
        ])
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        for place in [&path, &folder.path().to_owned()] {
            let files = LabelFiles::read(std::slice::from_ref(place), None).unwrap();
            let [first, second] = &files.labels[..] else { panic!("{files:?}") };
            assert_eq!((first.id, first.label.as_str(), first.score), (Id::Feature(7), "a", Some(0.77)));
            assert_eq!((first.source.as_deref(), first.evidence_version), (Some("user"), Some(1)));
            assert_eq!((second.id, &second.source, second.score), (Id::Feature(8), &None, None));
            assert!(files.formats.contains("parquet"));
        }
        std::fs::write(&path, b"PAR1 and no more").unwrap();
        let failure = LabelFiles::read(&[path], None).unwrap_err();
        assert!(failure.wire().exit == 3 && failure.line().contains("a.parquet, damaged Parquet"), "{failure}");
    }

    #[test]
    fn rows_of_columns_are_read() {
        let feature = |id: u32, label: &str| (Id::Feature(id), label.to_owned());
        let expected = [feature(7, "says sorry, twice"), feature(8, "b")];
        assert_eq!(labels("a.csv", "label,feature_id\n\"says sorry, twice\",7\nb,8\n"), expected);
        assert_eq!(labels("a.tsv", "feature_id\tlabel\n7\tsays sorry, twice\n8\tb\n"), expected);
        let lines = "{\"feature_id\": 7, \"label\": \"says sorry, twice\"}\n\n{\"feature_id\": 8, \"label\": \"b\"}\n";
        assert_eq!((labels("a.jsonl", lines), labels("a.json", lines)), (expected.to_vec(), expected.to_vec()));
        assert_eq!(labels("a.csv", "Feature_Index,Label\n3,c\n"), [latent(3, "c")]);
        assert_eq!(labels("a.csv", "index,description\n3,only described\n"), [latent(3, "only described")]);
        assert_eq!((formats("a.csv", "latent,label\n1,a\n"), formats("a.jsonl", lines)), (vec!["csv"], vec!["jsonl"]));

        let more = "detection,feature_id,label,description,score\n0.9,7,a,\"Says a, b.\",0.5\n,8,b,,high\n";
        let [first, second] = &read("a.csv", more).unwrap().labels[..] else { panic!() };
        let found = (first.description.as_deref(), first.detection, first.score);
        assert_eq!(found, (Some("Says a, b."), Some(0.9), Some(0.5)));
        assert_eq!((second.description.as_deref(), second.detection, second.score), (Some(""), None, None));
        // What `saequel label --output` writes: an id of the database if there is one, else dictionary and position.
        let line =
            "{\"feature_id\": null, \"dictionary\": \"mine\", \"latent\": 5, \"label\": \"a\", \"label_score\": 0.7}";
        let [own] = &read("a.jsonl", line).unwrap().labels[..] else { panic!() };
        assert_eq!((own.id, own.dictionary.as_deref(), own.score), (Id::Latent(5), Some("mine"), Some(0.7)));
    }

    const EXPLANATION: &str = "{\"id\": \"x\", \"modelId\": \"gemma-2-2b\", \"layer\": \"20-res-16k\", \"index\": \"4691\", \
                               \"description\": \" LaTeX formatting\\nelements\", \"explanationModelName\": \"m\", \
                               \"embedding\": [0.1, 0.2], \"typeName\": \"t\"}";

    #[test]
    fn neuronpedia_exports_are_read() {
        let expected = [latent(4691, "LaTeX formatting elements")];
        assert_eq!(labels("batch-0.jsonl", EXPLANATION), expected);
        assert_eq!(labels("batch-0.jsonl.gz", EXPLANATION), expected);
        assert_eq!(labels("a.json", &format!("[{EXPLANATION}]")), expected);
        let files = read("batch-0.jsonl", EXPLANATION).unwrap();
        assert!(files.formats.contains("neuronpedia") && files.sources.contains("gemma-2-2b 20-res-16k"));
        let feature = "{\"modelId\": \"gpt2-small\", \"layer\": \"6-res-jb\", \"index\": \"204\", \"pos_str\": [\"a\"], \
                       \"activations\": [{\"tokens\": [\"a\"]}], \"explanations\": [{\"description\": \"\"}, \
                       {\"description\": \"time phrases\", \"explanationModelName\": \"m\"}]}";
        assert_eq!(labels("204.json", feature), [latent(204, "time phrases")]);
        let other = EXPLANATION.replace("20-res-16k", "21-res-16k").replace("4691", "5");
        let both = format!("{EXPLANATION}\n{other}\n");
        let failure = read("a.jsonl", &both).unwrap_err();
        assert!(failure.line().contains("gemma-2-2b 20-res-16k, gemma-2-2b 21-res-16k"), "{failure}");
        let one = read_all(&[("a.jsonl", &both)], Some("21-res-16k")).unwrap();
        assert_eq!(one.labels[0].id, Id::Latent(5));
        assert!(read_all(&[("a.jsonl", &both)], Some("3")).unwrap_err().line().contains("no labels of layer '3'"));
    }

    #[test]
    fn labels_of_tokens_that_cannot_be_seen_can_be_read() {
        let row = |index: u32, description: &str| {
            format!(
                "{{\"modelId\": \"m\", \"layer\": \"1\", \"index\": \"{index}\", \"description\": \"{description}\"}}\n"
            )
        };
        let rows = [
            row(1, " the token \\\"\\n\\n\\\" before a\\nlist "),
            row(2, "\\n\\t"),
            row(3, "code after '\\t'"),
            row(4, "a \\u0007 bell"),
            row(5, "  "),
        ];
        let expected = [
            latent(1, "the token \"\\n\\n\" before a list"),
            latent(2, "\\n\\t"),
            latent(3, "code after '\\t'"),
            latent(4, "a \\u{7} bell"),
            latent(5, ""),
        ];
        assert_eq!(labels("batch-0.jsonl", &rows.concat()), expected);
    }

    #[test]
    fn a_folder_of_batches_is_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for (number, index) in [(10, "3"), (2, "2"), (1, "1")] {
            let path = folder.path().join(format!("batch-{number}.jsonl"));
            std::fs::write(path, EXPLANATION.replace("4691", index)).unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "nothing").unwrap();
        let read = LabelFiles::read(&[folder.path().to_owned()], None).unwrap();
        assert_eq!(read.labels.iter().map(|label| label.id).collect::<Vec<_>>(), [1, 2, 3].map(Id::Latent));
        let empty = tempfile::tempdir().unwrap();
        let failure = LabelFiles::read(&[empty.path().to_owned()], None).unwrap_err();
        assert!(failure.line().contains("holds no file of labels"), "{failure}");
    }

    #[test]
    fn goodfire_files_and_maps_are_read() {
        let map = "{\"0\": \"The assistant declines\", \"12\": \"Dates\", \"13\": null}";
        let expected = [latent(0, "The assistant declines"), latent(12, "Dates")];
        assert_eq!(labels("labels.json", map), expected);
        assert_eq!((formats("labels.json", map), formats("goodfire/l19.json", map)), (vec!["json"], vec!["goodfire"]));
        let group = "{\"features\": [{\"uuid\": \"0-1\", \"feature_id\": \"0-1\", \"label\": \"Dates\", \"index_in_sae\": 12, \
                     \"max_activation_strength\": 3.5}]}";
        assert_eq!(
            (labels("group.json", group), formats("group.json", group)),
            (vec![latent(12, "Dates")], vec!["goodfire"])
        );
        let vectors =
            "[{\"metadata\": {}, \"vectors\": [{\"index\": 12, \"labels\": [\"Dates\"], \"split\": \"train\"}]}]";
        assert_eq!(labels("a.json", vectors), [latent(12, "Dates")]);
        assert_eq!(labels("a.json", "[\"a\", null, \"c\"]"), [latent(0, "a"), latent(2, "c")]);
        let described = "{\"3\": {\"label\": \"a\", \"description\": \"Says a.\"}}";
        assert_eq!(read("a.json", described).unwrap().labels[0].description.as_deref(), Some("Says a."));
    }

    #[test]
    fn mistakes_are_placed() {
        let line = |name: &str, content: &str| read(name, content).unwrap_err().line();
        let failure = read("a.csv", "feature_id,label\n1,a\nx,b\n").unwrap_err();
        assert!(failure.line().contains("a.csv, line 3: expected a number as feature_id, got 'x'"), "{failure}");
        assert_eq!(failure.wire().exit, 3);
        let wrong = line("a.csv", "feature_id,label,detection\n1,a,good\n");
        assert!(wrong.contains("line 2: expected a number as detection, got 'good'"), "{wrong}");
        assert!(line("a.csv", "number,label\n1,a\n").contains("there are number, label"));
        assert!(line("a.csv", "feature_id\n1\n").contains("and label or description; there are feature_id"));
        assert!(line("a.jsonl", "{\n").contains("line 1: not JSON"));
        assert!(line("a.jsonl", "{\"label\": \"a\"}").contains("line 1: expected feature_id"));
        assert!(
            line("a.json", "[{\"index\": -1, \"label\": \"a\"}]")
                .contains("entry 1: expected a number as index, got '-1'")
        );
        assert!(line("a.json", "{\"layers\": 3}").contains("a map from positions to labels; got 'layers'"));
        assert!(line("a.csv", "").contains("hold no labels"));
    }

    #[test]
    fn a_quote_that_is_never_closed_is_placed() {
        for (name, content, expected) in [
            ("a.csv", "latent,label\n1,a\n2,\"b\n3,c\n4,d\n", 3),
            ("a.csv", "latent,label\n1,\"a\nb\"\n2,\"c\n3,d", 4),
            ("a.csv", "latent,label\r\n1,a\r\n2,\"b\r\n3,c\r\n", 3),
            ("a.csv", "latent,label\n1,a\n2,\"", 3),
            ("a.csv", "latent,label\n1,\"a\"\"\n", 2),
            ("a.csv", "latent,\"label\n1,a\n", 1),
            ("a.tsv", "latent\tlabel\n1\t\"a\n2\tb\n", 2),
        ] {
            let said = read(name, content).unwrap_err().line();
            let expected = format!("{name}, line {expected}: the quote that opens a value here is never closed");
            assert!(said.contains(&expected), "{content:?}: {said}");
        }
        let closed = "latent,label\n1,\"a \"\"b\"\"\"\n2,5\" long\n3,\"c\nd\"";
        assert_eq!(labels("a.csv", closed), [latent(1, "a \"b\""), latent(2, "5\" long"), latent(3, "c d")]);
        assert_eq!(labels("a.csv", "latent,label\r\n1,.\r\n2,a\r\n\r\n"), [latent(1, "."), latent(2, "a")]);
    }
}
