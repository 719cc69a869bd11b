//! Embeddings of the labels by the reader itself, which match what a user says to features.
//!
//! Computed on first use and kept: in memory per picture of the catalog, and beside the readers' weights per label as it is
//! read, so that renaming a feature costs one label, and a second process or database none. The file is a cache: a damaged
//! one is made again.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, AsArray, FixedSizeListArray, Float16Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float16Type, Schema};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use half::f16;
use saequel_udfs::{Feature, FeatureCatalog, LabelEmbeddings};

use crate::encoder::Encoder;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::given::UNNAMED;
use crate::picture::Picture;
use crate::progress::Silent;

/// Labels that are read at once.
const BATCH: usize = 512;

/// The last embeddings and the catalog that they belong to.
#[derive(Debug, Default)]
pub(crate) struct LabelCache(Mutex<Option<(Arc<FeatureCatalog>, Arc<LabelEmbeddings>)>>);

/// Embeddings of the labels of all visible features of a picture. Blocks; the second caller waits for the first.
///
/// # Errors
/// As [`crate::Reader::load`].
pub(crate) fn of(picture: &Picture) -> Result<Arc<LabelEmbeddings>> {
    let engine = &picture.engine;
    let features = &picture.catalog.features;
    let mut last = engine.inner.sql.labels.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((catalog, embeddings)) = last.as_ref()
        && Arc::ptr_eq(catalog, features)
    {
        return Ok(Arc::clone(embeddings));
    }
    let reader = engine.first_reader_name();
    let weights = picture.catalog.readers.iter().find(|known| known.name == reader);
    let file =
        cache_file(&engine.options().cache_dir, &reader, weights.map_or("unknown", |reader| reader.sha256.as_str()));
    let mut known = read(&file).unwrap_or_default();

    let named = |feature: &&Feature| !feature.label.is_empty() && feature.label_source != UNNAMED;
    let visible = features.features().iter().filter(|feature| !feature.hidden).filter(named);
    let visible: Vec<(u32, String)> = visible.map(|feature| (feature.id, spoken(feature))).collect();
    let mut missing: Vec<&str> =
        visible.iter().map(|(_, label)| label.as_str()).filter(|label| !known.contains_key(*label)).collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        let encoder = Encoder::new(engine.first_reader(&Silent)?, Vec::new())?;
        for batch in missing.chunks(BATCH) {
            for (label, document) in batch.iter().zip(encoder.encode(batch)?) {
                known.insert((*label).to_owned(), document.embedding);
            }
        }
        // Without the file the next process computes again; the answer is the same.
        if let Err(error) = write(&file, &known) {
            tracing::warn!("cannot keep the embeddings of labels: {error}");
        }
    }

    let width = known.values().next().map_or(0, Vec::len);
    let mut embeddings = LabelEmbeddings { ids: Vec::new(), values: Vec::new(), width };
    for (id, label) in &visible {
        if let Some(values) = known.get(label).filter(|values| values.len() == width) {
            embeddings.ids.push(*id);
            embeddings.values.extend(values.iter().map(|value| value.to_f32()));
        }
    }
    let embeddings = Arc::new(embeddings);
    *last = Some((Arc::clone(features), Arc::clone(&embeddings)));
    Ok(embeddings)
}

/// A label and its description as they are read.
fn spoken(feature: &Feature) -> String {
    match feature.description.trim() {
        "" => spoken_label(feature),
        description => format!("{}. {description}", spoken_label(feature)),
    }
}

/// A label as it is read. Marks and numbers by themselves mean next to nothing to the reader, so they are spelt out where
/// the feature fires on one.
fn spoken_label(feature: &Feature) -> String {
    const LINE_START: &str = "(line start)";
    let on_mark = feature.top_tokens.first().is_some_and(|token| !token.chars().any(char::is_alphabetic));
    let at_line_start = feature.label.contains(LINE_START);
    if !on_mark && !at_line_start {
        return feature.label.clone();
    }
    let label = feature.label.replace(LINE_START, "");
    let mut words: Vec<&str> = label.split_whitespace().map(spelt_out).collect();
    words.dedup();
    let words = words.join(" ");
    if at_line_start { format!("list item at the start of a line: {words}") } else { words }
}

fn spelt_out(word: &str) -> &str {
    match word.trim_matches(['(', ')', ',', '.']) {
        "-" | "*" | "•" => "bullet point",
        "?" => "question mark",
        "!" => "exclamation mark",
        ":" => "colon",
        number if !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()) => "number",
        _ => word,
    }
}

/// The file for a reader: by its name, and the checksum of its weights, which another reader of this name has not.
fn cache_file(cache: &Path, reader: &str, sha256: &str) -> PathBuf {
    let name: String = reader.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let checksum: String = sha256.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
    cache.join("labels").join(format!("{name}-{checksum}.arrow"))
}

/// Embeddings by label; `None` if there is no readable file.
fn read(file: &Path) -> Option<HashMap<String, Vec<f16>>> {
    let mut known = HashMap::new();
    for batch in FileReader::try_new(File::open(file).ok()?, None).ok()? {
        let batch = batch.ok()?;
        let labels = batch.column_by_name("label")?.as_string_opt::<i32>()?;
        let embeddings = batch.column_by_name("embedding")?.as_fixed_size_list_opt()?;
        let values = embeddings.values().as_primitive_opt::<Float16Type>()?;
        let width = usize::try_from(embeddings.value_length()).ok()?;
        for (row, label) in labels.iter().enumerate() {
            known.insert(label?.to_owned(), values.values().get(row * width..(row + 1) * width)?.to_vec());
        }
    }
    Some(known)
}

/// Writes the file at once: under another name, then renamed.
fn write(file: &Path, known: &HashMap<String, Vec<f16>>) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::new(ErrorKind::Io, format!("{}: {error}", file.display()));
    let mut rows: Vec<(&String, &Vec<f16>)> = known.iter().collect();
    rows.sort_unstable_by_key(|(label, _)| *label);
    let width = rows.first().map_or(0, |(_, values)| values.len());
    rows.retain(|(_, values)| values.len() == width);
    let labels = StringArray::from_iter_values(rows.iter().map(|(label, _)| label.as_str()));
    let item = Arc::new(Field::new("item", DataType::Float16, true));
    let values = Float16Array::from_iter_values(rows.iter().flat_map(|(_, values)| values.iter().copied()));
    let width = i32::try_from(width).map_err(|error| failed(&error))?;
    let embeddings =
        FixedSizeListArray::try_new(item, width, Arc::new(values), None).map_err(|error| failed(&error))?;
    let schema = Arc::new(Schema::new(vec![
        Field::new("label", DataType::Utf8, false),
        Field::new("embedding", embeddings.data_type().clone(), false),
    ]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(labels), Arc::new(embeddings)])
        .map_err(|error| failed(&error))?;

    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    let temporary = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
    let mut writer = FileWriter::try_new(temporary, &schema).map_err(|error| failed(&error))?;
    writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| failed(&error))?;
    let temporary = writer.into_inner().map_err(|error| failed(&error))?;
    temporary.persist(file).map_err(|error| failed(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_numbers_are_spelt_out() {
        let described = |label: &str, token: &str, description: &str| {
            spoken(&Feature {
                id: 0,
                dictionary: 0,
                label: label.to_owned(),
                description: description.to_owned(),
                label_source: "words".to_owned(),
                label_score: None,
                density: 0.0,
                max_activation: 0.0,
                q50: 0.0,
                q90: 0.0,
                hidden: false,
                top_tokens: vec![token.to_owned()],
                top_words: vec![],
            })
        };
        let spoken = |label: &str, token: &str| described(label, token, "");
        assert_eq!(described("thanks", "thanks", " Says thank you. "), "thanks. Says thank you.");
        assert_eq!(described("!", "!", "Marks a cheer."), "exclamation mark. Marks a cheer.");
        assert_eq!(spoken("- (line start)", "-"), "list item at the start of a line: bullet point");
        assert_eq!(spoken("* (•)", "*"), "bullet point");
        assert_eq!(spoken("2, 3, 1 (4)", "2"), "number");
        assert_eq!(spoken("? near what", "?"), "question mark near what");
        assert_eq!(spoken("-year-old", "-"), "-year-old");
        assert_eq!(spoken("numbered, 1", "numbered"), "numbered, 1", "it fires on a word");
    }

    #[test]
    fn the_file_keeps_labels() {
        let folder = tempfile::tempdir().unwrap();
        let file = cache_file(folder.path(), "a/b", "0123");
        assert!(read(&file).is_none());
        let vector = |value: f32| vec![f16::from_f32(value), f16::from_f32(-value)];
        let known = HashMap::from([("apology".to_owned(), vector(1.0)), ("list".to_owned(), vector(0.5))]);
        write(&file, &known).unwrap();
        assert_eq!(read(&file).unwrap(), known);
        std::fs::write(&file, "damaged").unwrap();
        assert!(read(&file).is_none());
    }
}
