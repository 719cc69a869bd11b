//! Rows with types: what every source is turned into before it is read by the model.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;

use super::infer::{Cell, Kind, build, describe, to_text};
use super::records::{Record, Records, Trouble};
use crate::engine::OnBadRow;
use crate::error::{Error, ErrorKind, Result};

/// Rows that are looked at before types are decided.
const SAMPLE_ROWS: u64 = 20_000;
/// The same in bytes.
const SAMPLE_BYTES: usize = 32 << 20;
/// Rows of a chunk: enough for the encoder to sort by length, few enough to stop and resume at.
pub(super) const CHUNK_ROWS: usize = 128;
/// Rows of a chunk that nothing has to be computed for.
pub(super) const PLAIN_CHUNK_ROWS: usize = 8192;
/// Bytes of text and metadata of a chunk, after which it ends.
pub(super) const CHUNK_BYTES: usize = 4 << 20;
/// Rows set aside after which a chunk ends, so that a file in another format is heard of before it is read to its end.
const CHUNK_SET_ASIDE: usize = 1000;

/// Some rows of a source.
pub(super) struct Rows {
    /// The columns, without the key if that is called `doc_id`.
    pub(super) batch: RecordBatch,
    /// Number of each row in the source, from 1.
    pub(super) rows: Vec<u64>,
    /// Text of the key of each row, if there is a key; `None` where it is null or empty.
    pub(super) keys: Option<Vec<Option<String>>>,
}

impl Rows {
    pub(super) fn none() -> Self {
        Self { batch: RecordBatch::new_empty(Arc::new(Schema::empty())), rows: Vec::new(), keys: None }
    }
}

/// What is known of the corpus when a source is read.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Columns that are read as text.
    pub(super) text_columns: Vec<String>,
    /// Column of the key.
    pub(super) key: Option<String>,
    /// Types that columns have already.
    pub(super) known: HashMap<String, DataType>,
}

/// A source of typed rows.
pub(super) trait RowSource: Send {
    /// Columns and types as far as they are known after the first look; `None`: only nulls so far.
    fn columns(&self) -> Vec<(String, Option<DataType>)>;

    /// Says what is wanted; called once, before [`Self::next`].
    fn prepare(&mut self, wanted: Wanted) -> Result<()>;

    /// The next rows, none if all were set aside; `None` at the end. An error takes the place of its chunk: rows before
    /// it that were not yet given are not.
    fn next(&mut self) -> Result<Option<Rows>>;

    /// Takes the places and reasons of rows that were set aside since the last call.
    fn take_set_aside(&mut self) -> Vec<String>;

    /// Rows read so far, those set aside included.
    fn read(&self) -> u64;

    /// The first value of a column as text, of sources whose types are inferred.
    fn first_value(&self, _column: &str) -> Option<String> {
        None
    }

    /// The largest item of a column of lists of whole numbers, if the source says so without being read.
    fn largest_item(&self, _column: &str) -> Option<i64> {
        None
    }
}

/// A source whose types are inferred.
pub(super) struct Inferred {
    name: String,
    records: Box<dyn Records>,
    on_bad_row: OnBadRow,
    /// Old and new names.
    rename: Vec<(String, String)>,
    /// Beside `records.columns()`: new name, and type once decided.
    columns: Vec<(String, Kind)>,
    buffered: VecDeque<Record>,
    ended: bool,
    failed: Option<Error>,
    wanted: Wanted,
    set_aside: Vec<String>,
    read: u64,
}

impl Inferred {
    /// Reads a sample and decides the types of the columns it shows.
    pub(super) fn open(
        name: String,
        records: Box<dyn Records>,
        on_bad_row: OnBadRow,
        rename: Vec<(String, String)>,
    ) -> Result<Self> {
        let mut source = Self {
            name,
            records,
            on_bad_row,
            rename,
            columns: Vec::new(),
            buffered: VecDeque::new(),
            ended: false,
            failed: None,
            wanted: Wanted::default(),
            set_aside: Vec::new(),
            read: 0,
        };
        let mut bytes = 0;
        while bytes < SAMPLE_BYTES && source.read < SAMPLE_ROWS && source.pull(&mut bytes) {}
        if source.buffered.is_empty() {
            if let Some(error) = source.failed.take() {
                return Err(error);
            }
            if source.records.columns().is_empty()
                && let Some(first) = source.set_aside.first()
            {
                let message = format!("none of the first {} rows can be read: {first}", source.read);
                return Err(Error::new(ErrorKind::Data, message));
            }
        }
        source.name_columns()?;
        for record in &source.buffered {
            for (at, cell) in record.cells.iter().enumerate() {
                if let Some(cell) = cell
                    && source.columns[at].1 != Kind::Text
                {
                    let kind = std::mem::replace(&mut source.columns[at].1, Kind::Unknown);
                    source.columns[at].1 = kind.or(Kind::of(cell));
                }
            }
        }
        Ok(source)
    }

    /// Rows of the source: exact if the sample holds all of them, else by the share of the file that it takes.
    pub(super) fn estimated_rows(&self, taken: u64, length: Option<u64>) -> Option<u64> {
        let n = self.buffered.len() as u64;
        if self.ended {
            return Some(n);
        }
        let length = length.filter(|_| taken > 0)?;
        Some((n as f64 * length as f64 / taken as f64) as u64)
    }

    /// Reads one record into the buffer or sets it aside; `false` at the end or if reading failed, which is told later.
    fn pull(&mut self, bytes: &mut usize) -> bool {
        if self.ended {
            return false;
        }
        match self.records.next() {
            Ok(Some(record)) => {
                *bytes += record.cells.iter().flatten().map(size).sum::<usize>();
                self.buffered.push_back(record);
            }
            Ok(None) => self.ended = true,
            Err(Trouble::LeftOut(reason)) => self.set_aside.push(reason),
            Err(Trouble::Record(error)) if self.on_bad_row == OnBadRow::SetAside => {
                self.set_aside.push(error.to_string());
            }
            Err(Trouble::Record(error) | Trouble::Fatal(error)) => {
                self.failed = Some(error);
                self.ended = true;
            }
        }
        self.read += u64::from(!self.ended);
        !self.ended
    }

    /// Gives the columns that came since the last call their new names.
    fn name_columns(&mut self) -> Result<()> {
        for at in self.columns.len()..self.records.columns().len() {
            let old = &self.records.columns()[at];
            let renamed = self.rename.iter().find(|(from, _)| from == old);
            let name = renamed.map_or_else(|| storable_name(old), |(_, to)| to.clone());
            if self.columns.iter().any(|(other, _)| *other == name) {
                let message =
                    format!("{}: two columns are called '{name}'; give one another name with --rename", self.name);
                return Err(Error::new(ErrorKind::Data, message));
            }
            self.columns.push((name, Kind::Unknown));
        }
        Ok(())
    }

    /// The type of a column as it will be stored.
    fn data_type(&self, name: &str, kind: &Kind) -> Option<DataType> {
        if self.wanted.text_columns.iter().any(|column| column == name) {
            return Some(DataType::Utf8);
        }
        self.wanted.known.get(name).cloned().or_else(|| kind.data_type())
    }

    /// Turns records into typed rows; those that do not fit are set aside, or are an error.
    fn convert(&mut self, mut records: Vec<Record>) -> Result<Rows> {
        self.name_columns()?;
        // A column of which only nulls were seen gets its type from the first values.
        for record in &records {
            for (at, cell) in record.cells.iter().enumerate() {
                let (name, kind) = &self.columns[at];
                if let Some(cell) = cell
                    && kind.data_type().is_none()
                    && !self.wanted.known.contains_key(name)
                {
                    self.columns[at].1 = kind.clone().or(Kind::of(cell));
                }
            }
        }
        'again: loop {
            if records.is_empty() {
                return Ok(Rows::none());
            }
            let (mut fields, mut arrays): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
            for (at, (name, kind)) in self.columns.iter().enumerate() {
                if self.wanted.key.as_deref() == Some(crate::schema::DOC_ID) && name == crate::schema::DOC_ID {
                    continue;
                }
                let is_text = self.wanted.text_columns.contains(name);
                // At the end of the source a column of nulls alone is kept as text.
                let Some(data_type) = self.data_type(name, kind).or_else(|| self.ended.then_some(DataType::Utf8))
                else {
                    continue;
                };
                let cells: Vec<Option<&Cell>> =
                    records.iter().map(|record| record.cells.get(at).and_then(Option::as_ref)).collect();
                match build(&cells, &data_type, is_text) {
                    Ok(array) => {
                        fields.push(Field::new(name, data_type, true));
                        arrays.push(array);
                    }
                    Err(misfit) => {
                        let record = &records[misfit.row];
                        let place = match record.line {
                            0 => format!("row {}", record.row),
                            line => format!("line {line}"),
                        };
                        let decided = if self.wanted.known.contains_key(name) {
                            "the column has that type in the corpus".to_owned()
                        } else {
                            format!("all rows before have {}", describe(&data_type))
                        };
                        let message = format!("{}, {place}, column '{name}': {} ({decided})", self.name, misfit.reason);
                        if self.on_bad_row == OnBadRow::SetAside {
                            self.set_aside.push(message);
                            records.remove(misfit.row);
                            continue 'again;
                        }
                        let way_out = "; mend the value, or set such rows aside";
                        return Err(Error::new(ErrorKind::Data, format!("{message}{way_out}")));
                    }
                }
            }
            let key = self.wanted.key.as_ref().and_then(|key| self.columns.iter().position(|(name, _)| name == key));
            let keys = key.map(|at| {
                records
                    .iter()
                    .map(|record| record.cells.get(at)?.as_ref().map(to_text).filter(|t| !t.is_empty()))
                    .collect()
            });
            let keys = if self.wanted.key.is_some() { keys.or_else(|| Some(vec![None; records.len()])) } else { None };
            let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
            let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options);
            let batch = batch.map_err(|error| Error::new(ErrorKind::Internal, "reading rows").with_source(error))?;
            return Ok(Rows { batch, rows: records.iter().map(|record| record.row).collect(), keys });
        }
    }
}

/// About how much memory a value takes, in bytes.
fn size(cell: &Cell) -> usize {
    match cell {
        Cell::Raw(text) => text.len(),
        Cell::Json(value) => json_size(value),
    }
}

fn json_size(value: &Value) -> usize {
    let inside = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(json_size).sum(),
        Value::Object(object) => object.iter().map(|(name, value)| name.len() + json_size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inside
}

/// A name that can be stored: Lance takes a dot for a path into a struct.
pub(super) fn storable_name(name: &str) -> String {
    name.replace('.', "_")
}

impl RowSource for Inferred {
    fn columns(&self) -> Vec<(String, Option<DataType>)> {
        self.columns.iter().map(|(name, kind)| (name.clone(), kind.data_type())).collect()
    }

    fn prepare(&mut self, wanted: Wanted) -> Result<()> {
        self.wanted = wanted;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Rows>> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < CHUNK_ROWS && bytes < CHUNK_BYTES && self.set_aside.len() < CHUNK_SET_ASIDE {
            if self.buffered.is_empty() && !self.pull(&mut 0) {
                break;
            }
            let Some(record) = self.buffered.pop_front() else { continue };
            bytes += record.cells.iter().flatten().map(size).sum::<usize>();
            records.push(record);
        }
        if records.is_empty() && self.buffered.is_empty() && self.ended {
            return self.failed.take().map_or(Ok(None), Err);
        }
        self.convert(records).map(Some)
    }

    fn take_set_aside(&mut self) -> Vec<String> {
        std::mem::take(&mut self.set_aside)
    }

    fn read(&self) -> u64 {
        self.read - self.buffered.len() as u64
    }

    fn first_value(&self, column: &str) -> Option<String> {
        let at = self.columns.iter().position(|(name, _)| name == column)?;
        let mut cells = self.buffered.iter().filter_map(|record| record.cells.get(at)?.as_ref());
        cells.find(|cell| Kind::of(cell) != Kind::Unknown).map(to_text)
    }
}

/// A source without some of its columns.
pub(super) struct Without {
    pub(super) rows: Box<dyn RowSource>,
    pub(super) left_out: Vec<String>,
}

impl Without {
    fn keeps(&self, column: &str) -> bool {
        !self.left_out.iter().any(|name| name == column)
    }
}

impl RowSource for Without {
    fn columns(&self) -> Vec<(String, Option<DataType>)> {
        self.rows.columns().into_iter().filter(|(name, _)| self.keeps(name)).collect()
    }

    fn prepare(&mut self, wanted: Wanted) -> Result<()> {
        self.rows.prepare(wanted)
    }

    fn next(&mut self) -> Result<Option<Rows>> {
        let Some(mut rows) = self.rows.next()? else { return Ok(None) };
        let fields = rows.batch.schema();
        let kept: Vec<usize> = (0..fields.fields().len()).filter(|at| self.keeps(fields.field(*at).name())).collect();
        let batch = rows.batch.project(&kept);
        rows.batch = batch.map_err(|error| Error::new(ErrorKind::Internal, "reading rows").with_source(error))?;
        Ok(Some(rows))
    }

    fn take_set_aside(&mut self) -> Vec<String> {
        self.rows.take_set_aside()
    }

    fn read(&self) -> u64 {
        self.rows.read()
    }

    fn first_value(&self, column: &str) -> Option<String> {
        self.rows.first_value(column)
    }

    fn largest_item(&self, column: &str) -> Option<i64> {
        self.rows.largest_item(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_count_with_all_their_items() {
        let array = Cell::Json(Value::Array(vec![Value::from("abc"); 1000]));
        assert!(size(&array) >= 1000 * (size_of::<Value>() + 3));
    }
}
