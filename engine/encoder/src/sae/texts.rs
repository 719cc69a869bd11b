//! Texts for training, evaluation and labels: Parquet, JSON lines or plain text, read in turn.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::{Error, ErrorKind, Result};

/// Rows of one file, one at a time: the texts of the columns that were asked for. `None` for a null.
type Rows = Box<dyn Iterator<Item = Result<Vec<Option<String>>>>>;

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
    /// document a file; tables of other kinds and packed files are refused.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] without a file, [`ErrorKind::NotFound`], [`ErrorKind::Data`] for a file that cannot be read
    /// or lacks the column.
    pub(crate) fn open(paths: &[PathBuf], column: &str, turn: usize) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::new(ErrorKind::Query, "no input: name at least one file of texts"));
        }
        let texts = |path: &PathBuf| -> Result<Texts> {
            let texts = |row: Result<Vec<Option<String>>>| row.map(|row| row.into_iter().flatten().next()).transpose();
            Ok(Box::new(open(path, &[column])?.filter_map(texts)))
        };
        let files = paths.iter().map(texts).collect::<Result<_>>()?;
        Ok(Self { files, turn, next: 0 })
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

/// Texts with a label each, from one file of rows: Parquet or JSON lines. Rows without text or label are left out; numbers
/// and truth values are labels as they are written.
///
/// # Errors
/// As [`TextSource::open`]; [`ErrorKind::Data`] for a plain text, which has no columns.
pub(crate) fn labelled(path: &Path, text: &str, label: &str) -> Result<impl Iterator<Item = Result<(String, String)>>> {
    if !is_parquet(path) && !is_json_lines(path) {
        let message = format!(
            "{}: expected a file with columns '{text}' and '{label}', Parquet (.parquet) or JSON lines (.jsonl)",
            path.display()
        );
        return Err(Error::new(ErrorKind::Data, message));
    }
    let rows = open(path, &[text, label])?;
    Ok(rows.filter_map(|row| {
        let pair = |row: Vec<Option<String>>| {
            let mut row = row.into_iter();
            let (text, label) = (row.next()??, row.next()??);
            (!text.trim().is_empty()).then_some((text, label))
        };
        row.map(pair).transpose()
    }))
}

fn has_extension(path: &Path, any: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| any.contains(&extension.to_lowercase().as_str()))
}

fn is_parquet(path: &Path) -> bool {
    has_extension(path, &["parquet"])
}

fn is_json_lines(path: &Path) -> bool {
    has_extension(path, &["jsonl", "ndjson", "json"])
}

/// Files that hold no text as they are, though some could be read as one.
const NO_TEXT: &[&str] = &[
    "csv", "tsv", "psv", "arrow", "feather", "avro", "orc", "xls", "xlsx", "sqlite", "db", "gz", "bz2", "xz", "zst",
    "lz4", "zip", "7z", "tar", "tgz", "pdf", "docx",
];

/// Refuses a file whose name says that it is neither rows that are read here nor a plain text.
fn check_kind(path: &Path) -> Result<()> {
    if !has_extension(path, NO_TEXT) {
        return Ok(());
    }
    let shown = path.display();
    let way_out = if has_extension(path, &["csv", "tsv"]) {
        format!("; `saequel sql \"SELECT * FROM '{shown}'\" --output texts.parquet` makes one of it")
    } else if has_extension(path, &["gz", "bz2", "xz", "zst", "lz4", "zip", "7z", "tar", "tgz"]) {
        "; unpack it first".to_owned()
    } else {
        String::new()
    };
    let message = format!(
        "{shown}: expected Parquet (.parquet), JSON lines (.jsonl, .ndjson, .json) or a plain text, one document a \
         file{way_out}"
    );
    Err(Error::new(ErrorKind::Data, message))
}

/// Opens a file for the texts of `columns`, of which the first holds texts and the others may hold other scalars.
fn open(path: &Path, columns: &[&str]) -> Result<Rows> {
    check_kind(path)?;
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, format!("cannot open {shown}")).with_source(error)
    })?;
    let columns: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
    if is_parquet(path) {
        parquet(file, shown, &columns)
    } else if is_json_lines(path) {
        Ok(json_lines(file, shown, columns))
    } else {
        let text = std::io::read_to_string(file).map_err(|error| {
            Error::new(ErrorKind::Data, format!("cannot read {shown} as a plain text")).with_source(error)
        })?;
        Ok(Box::new(std::iter::once(Ok(vec![Some(text)]))))
    }
}

fn parquet(file: File, shown: String, columns: &[String]) -> Result<Rows> {
    let bad = |shown: &str, error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Data, format!("cannot read {shown} as parquet")).with_source(error)
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| bad(&shown, error.into()))?;
    let fields = builder.schema().fields();
    let mut roots = Vec::with_capacity(columns.len());
    for column in columns {
        let Some(index) = fields.iter().position(|field| field.name() == column) else {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            let message = format!("{shown} has no column '{column}'; it has {}", names.join(", "));
            return Err(Error::new(ErrorKind::Data, message));
        };
        roots.push(index);
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
    let reader =
        builder.with_projection(mask).with_batch_size(1024).build().map_err(|error| bad(&shown, error.into()))?;
    let columns = columns.to_vec();
    Ok(Box::new(reader.flat_map(move |batch| -> Vec<Result<Vec<Option<String>>>> {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return vec![Err(bad(&shown, error.into()))],
        };
        // By name: a projection keeps the order of the file.
        let texts = columns.iter().enumerate().map(|(i, column)| {
            let array = batch.column_by_name(column)?;
            strings(array, i > 0)
        });
        let Some(texts) = texts.collect::<Option<Vec<_>>>() else {
            let types = columns.iter().filter_map(|column| Some((column, batch.column_by_name(column)?.data_type())));
            let types: Vec<String> = types.map(|(column, of)| format!("'{column}' is {of}")).collect();
            let message = format!("{shown}: column {}, expected strings", types.join(", "));
            return vec![Err(Error::new(ErrorKind::Data, message))];
        };
        let row = |i: usize| texts.iter().map(|texts| texts[i].clone()).collect();
        (0..batch.num_rows()).map(|i| Ok(row(i))).collect()
    })))
}

/// Texts of a column; with `scalars` also numbers and truth values. `None` if it holds something else.
fn strings(array: &ArrayRef, scalars: bool) -> Option<Vec<Option<String>>> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    if let Some(strings) = array.as_string_opt::<i32>() {
        return Some(strings.iter().map(owned).collect());
    }
    if let Some(strings) = array.as_string_opt::<i64>() {
        return Some(strings.iter().map(owned).collect());
    }
    if let Some(strings) = array.as_string_view_opt() {
        return Some(strings.iter().map(owned).collect());
    }
    let of = array.data_type();
    let is_scalar = of.is_numeric() || matches!(of, DataType::Boolean | DataType::Dictionary(..));
    let cast = if scalars && is_scalar { cast(array, &DataType::Utf8).ok() } else { None }?;
    Some(cast.as_string_opt::<i32>()?.iter().map(owned).collect())
}

fn json_lines(file: File, shown: String, columns: Vec<String>) -> Rows {
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
        let value = match serde_json::from_str::<serde_json::Value>(&line) {
            Ok(value) => value,
            Err(error) => {
                let message = format!("{} is not JSON; expected JSON lines, one object a line", place());
                return Some(Err(Error::new(ErrorKind::Data, message).with_source(error)));
            }
        };
        if !value.is_object() {
            let message = format!("{} is no object; expected JSON lines, one object a line", place());
            return Some(Err(Error::new(ErrorKind::Data, message)));
        }
        let texts = columns.iter().enumerate().map(|(i, column)| match value.get(column) {
            Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
            Some(serde_json::Value::Null) => Ok(None),
            Some(scalar @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) if i > 0 => {
                Ok(Some(scalar.to_string()))
            }
            _ => Err(Error::new(ErrorKind::Data, format!("{} has no string '{column}'", place()))),
        });
        Some(texts.collect())
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

    #[test]
    fn what_is_no_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = TextSource::open(&[path], "text", 2).and_then(|mut source| source.next_turn()).unwrap_err();
            assert!(error.kind() == ErrorKind::Data && error.message().contains(name), "{error}");
            error.message().to_owned()
        };
        for name in ["a.csv", "a.TSV", "a.jsonl.gz"] {
            let said = refused(name, b"id,text\n1,one\n");
            assert!(said.contains("expected Parquet (.parquet), JSON lines (.jsonl"), "{said}");
        }
        assert!(refused("a.csv", b"text\none\n").contains("--output texts.parquet"));
        assert!(refused("a.txt.gz", &[0x1f, 0x8b, 8]).contains("unpack it first"));
        let said = refused("a.json", b"[{\"text\": \"one\"}]");
        assert!(said.contains("line 1 is no object; expected JSON lines, one object a line"), "{said}");
        // The case of a name tells nothing.
        let path = dir.path().join("A.JSONL");
        std::fs::write(&path, b"{\"text\": \"one\"}\n").unwrap();
        assert_eq!(TextSource::open(&[path], "text", 2).unwrap().next_turn().unwrap().unwrap(), ["one"]);
    }

    #[test]
    fn labels_come_with_texts_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let lines = [
            "{\"text\": \"one\", \"class\": \"x\"}",
            "{\"class\": 3, \"text\": \"two\"}",
            "{\"text\": \" \", \"class\": \"x\"}",
            "{\"text\": \"three\", \"class\": null}",
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let read: Vec<(String, String)> = labelled(&path, "text", "class").unwrap().map(Result::unwrap).collect();
        let pair = |text: &str, label: &str| (text.to_owned(), label.to_owned());
        assert_eq!(read, [pair("one", "x"), pair("two", "3")]);
        let error = labelled(&dir.path().join("a.txt"), "text", "class").err().unwrap();
        assert!(error.message().contains("expected a file with columns 'text' and 'class'"), "{error}");

        // A Parquet file whose columns stand in the other order.
        let path = dir.path().join("a.parquet");
        let batch = arrow::array::RecordBatch::try_from_iter([
            ("class", std::sync::Arc::new(arrow::array::Int64Array::from(vec![Some(1), None, Some(2)])) as ArrayRef),
            ("text", std::sync::Arc::new(arrow::array::StringArray::from(vec!["one", "two", "three"])) as ArrayRef),
        ])
        .unwrap();
        let file = File::create(&path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let read: Vec<(String, String)> = labelled(&path, "text", "class").unwrap().map(Result::unwrap).collect();
        assert_eq!(read, [pair("one", "1"), pair("three", "2")]);
        let error = labelled(&path, "text", "kind").err().unwrap();
        assert!(error.message().contains("no column 'kind'; it has class, text"), "{error}");
        let error = TextSource::open(&[path], "class", 2).unwrap().next_turn().unwrap_err();
        assert!(error.message().contains("column 'class' is Int64, expected strings"), "{error}");
    }
}
