//! Texts for training, evaluation and labels: Parquet, JSON lines or plain text, read in turn.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::{Error, ErrorKind, Result};

/// Texts of one file, one at a time.
type Texts = Box<dyn Iterator<Item = Result<String>>>;

/// Texts of several files: `turn` texts of each file, then as many again, until all are read. Files that were shuffled
/// one by one are thus sampled evenly. Empty texts are left out.
pub(crate) struct TextSource {
    files: Vec<Texts>,
    turn: usize,
    next: usize,
}

impl TextSource {
    /// Opens the files. `.parquet` is Parquet, `.jsonl`, `.ndjson` and `.json` are one object a line, all else is one
    /// document a file.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] without a file, [`ErrorKind::NotFound`], [`ErrorKind::Data`] for a file that cannot be read
    /// or lacks the column.
    pub(crate) fn open(paths: &[PathBuf], column: &str, turn: usize) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::new(ErrorKind::Query, "no input: name at least one file of texts"));
        }
        let files = paths.iter().map(|path| open(path, column)).collect::<Result<_>>()?;
        Ok(Self { files, turn, next: 0 })
    }

    /// Texts in memory.
    pub(crate) fn of(texts: Vec<String>, turn: usize) -> Self {
        Self { files: vec![Box::new(texts.into_iter().map(Ok))], turn, next: 0 }
    }

    /// The next texts, all from one file; `None` at the end.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the file and the row.
    pub(crate) fn next_turn(&mut self) -> Result<Option<Vec<String>>> {
        while !self.files.is_empty() {
            self.next %= self.files.len();
            let mut texts = Vec::with_capacity(self.turn);
            let mut ended = false;
            while texts.len() < self.turn {
                match self.files[self.next].next().transpose()? {
                    Some(text) if text.trim().is_empty() => {}
                    Some(text) => texts.push(text),
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            if ended {
                drop(self.files.remove(self.next));
            } else {
                self.next += 1;
            }
            if !texts.is_empty() {
                return Ok(Some(texts));
            }
        }
        Ok(None)
    }
}

fn open(path: &Path, column: &str) -> Result<Texts> {
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, format!("cannot open {shown}")).with_source(error)
    })?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => parquet(file, shown, column),
        Some("jsonl" | "ndjson" | "json") => Ok(json_lines(file, shown, column)),
        _ => {
            let text = std::io::read_to_string(file)
                .map_err(|error| Error::new(ErrorKind::Data, format!("cannot read {shown}")).with_source(error))?;
            Ok(Box::new(std::iter::once(Ok(text))))
        }
    }
}

fn parquet(file: File, shown: String, column: &str) -> Result<Texts> {
    let bad = |shown: &str, error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Data, format!("cannot read {shown} as parquet")).with_source(error)
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| bad(&shown, error.into()))?;
    let fields = builder.schema().fields();
    let Some(index) = fields.iter().position(|field| field.name() == column) else {
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        let message = format!("{shown} has no column '{column}'; it has {}", names.join(", "));
        return Err(Error::new(ErrorKind::Data, message));
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [index]);
    let reader =
        builder.with_projection(mask).with_batch_size(1024).build().map_err(|error| bad(&shown, error.into()))?;
    let column = column.to_owned();
    Ok(Box::new(reader.flat_map(move |batch| -> Vec<Result<String>> {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return vec![Err(bad(&shown, error.into()))],
        };
        let array = batch.column(0);
        let owned = |text: Option<&str>| text.map(|text| Ok(text.to_owned()));
        if let Some(strings) = array.as_string_opt::<i32>() {
            strings.iter().filter_map(owned).collect()
        } else if let Some(strings) = array.as_string_opt::<i64>() {
            strings.iter().filter_map(owned).collect()
        } else if let Some(strings) = array.as_string_view_opt() {
            strings.iter().filter_map(owned).collect()
        } else {
            let message = format!("{shown}: column '{column}' is {}, expected strings", array.data_type());
            vec![Err(Error::new(ErrorKind::Data, message))]
        }
    })))
}

fn json_lines(file: File, shown: String, column: &str) -> Texts {
    let column = column.to_owned();
    let lines = BufReader::new(file).lines().enumerate();
    Box::new(lines.filter_map(move |(i, line)| {
        let place = || format!("{shown} line {}", i + 1);
        let line = match line {
            Ok(line) if line.trim().is_empty() => return None,
            Ok(line) => line,
            Err(error) => {
                return Some(Err(Error::new(ErrorKind::Data, format!("cannot read {}", place())).with_source(error)));
            }
        };
        match serde_json::from_str::<serde_json::Value>(&line) {
            Ok(value) => match value.get(&column) {
                Some(serde_json::Value::String(text)) => Some(Ok(text.clone())),
                Some(serde_json::Value::Null) => None,
                _ => Some(Err(Error::new(ErrorKind::Data, format!("{} has no string '{column}'", place())))),
            },
            Err(error) => Some(Err(Error::new(ErrorKind::Data, format!("{} is not JSON", place())).with_source(error))),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_turn_and_errors_name_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.jsonl"), dir.path().join("b.txt"));
        std::fs::write(&a, "{\"text\": \"one\"}\n\n{\"text\": \" \"}\n{\"text\": \"two\"}\n{\"text\": \"three\"}\n")
            .unwrap();
        std::fs::write(&b, "whole\nfile").unwrap();
        let mut source = TextSource::open(&[a.clone(), b], "text", 2).unwrap();
        let mut turns = Vec::new();
        while let Some(turn) = source.next_turn().unwrap() {
            turns.push(turn);
        }
        assert_eq!(turns, [vec!["one", "two"], vec!["whole\nfile"], vec!["three"]]);
        std::fs::write(&a, "{\"text\": \"one\"}\n{\"other\": 1}\n").unwrap();
        let error = TextSource::open(&[a], "text", 2).unwrap().next_turn().unwrap_err();
        assert!(error.message().contains("a.jsonl line 2 has no string 'text'"), "{error}");
    }
}
