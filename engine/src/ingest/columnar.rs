//! Sources with types: Parquet, and Arrow's file and stream formats.

use std::collections::{BTreeMap, HashMap};
use std::io::BufReader;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringBuilder, UInt64Array,
};
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;

use super::source::Input;
use super::typed::{CHUNK_BYTES, CHUNK_ROWS, PLAIN_CHUNK_ROWS, RowSource, Rows, Wanted, storable_name};
use crate::engine::{ImportOptions, OnBadRow};
use crate::error::{Error, ErrorKind, Result, did_you_mean};

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Rows of a typed file.
pub(super) struct Columnar {
    name: String,
    /// Names as they will be stored, with the types that Lance can hold.
    schema: SchemaRef,
    batches: Batches,
    /// The batch that is being handed out, from which row on, and how many rows at once.
    current: Option<(RecordBatch, usize, usize)>,
    wanted: Wanted,
    on_bad_row: OnBadRow,
    set_aside: Vec<String>,
    read: u64,
    /// Rows of the file, if it says so.
    pub(super) total: Option<u64>,
    /// Rows of a chunk, at most.
    chunk_rows: usize,
    /// Largest items of columns of lists of whole numbers, by name, where the file says so.
    largest: HashMap<String, i64>,
}

impl Columnar {
    /// Opens a Parquet file; one that is compressed or comes from standard input is copied to a temporary file first.
    pub(super) fn parquet(input: Input, options: &ImportOptions) -> Result<Self> {
        let name = input.name.clone();
        let builder = ParquetRecordBatchReaderBuilder::try_new(input.into_file()?).map_err(|error| {
            let message = format!(
                "{name}: not a complete Parquet file ({error}); was its writing or download interrupted? write it again"
            );
            Error::new(ErrorKind::Data, message)
        })?;
        let total = u64::try_from(builder.metadata().file_metadata().num_rows()).ok();
        let schema = builder.schema().clone();
        let groups = builder.metadata().row_groups().iter();
        let row_bytes = groups.map(|group| group.total_byte_size() / group.num_rows().max(1)).max().unwrap_or(0);
        let batch_rows = rows_at_once(usize::try_from(row_bytes).unwrap_or(0), chunk_rows(options));
        let largest = largest_items(builder.metadata());
        let reader = builder.with_batch_size(batch_rows).build();
        let reader = reader.map_err(|error| damaged(&name, 0, &error.to_string()))?;
        let mut opened = Self::new(name, &schema, Box::new(reader), options, total)?;
        for (field, stored) in schema.fields().iter().zip(opened.schema.fields()) {
            if let Some(most) = largest.get(field.name()) {
                opened.largest.insert(stored.name().clone(), *most);
            }
        }
        Ok(opened)
    }

    /// Opens Arrow data, in the file or the stream format.
    pub(super) fn arrow(mut input: Input, options: &ImportOptions) -> Result<Self> {
        let name = input.name.clone();
        let incomplete = |error: ArrowError| {
            let message = format!(
                "{name}: not complete Arrow data ({error}); was its writing or download interrupted? write it again"
            );
            Error::new(ErrorKind::Data, message)
        };
        let (schema, batches): (SchemaRef, Batches) = if input.first_bytes()?.starts_with(b"ARROW1") {
            let reader = FileReader::try_new(BufReader::new(input.into_file()?), None).map_err(incomplete)?;
            (reader.schema(), Box::new(reader))
        } else {
            let reader = StreamReader::try_new(input.reader, None).map_err(incomplete)?;
            (reader.schema(), Box::new(reader))
        };
        Self::new(name, &schema, batches, options, None)
    }

    fn new(
        name: String,
        schema: &Schema,
        batches: Batches,
        options: &ImportOptions,
        total: Option<u64>,
    ) -> Result<Self> {
        let mut fields: Vec<Field> = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let renamed = options.rename.iter().find(|(from, _)| from == field.name());
            let stored = renamed.map_or_else(|| storable_name(field.name()), |(_, to)| to.clone());
            if fields.iter().any(|other| *other.name() == stored) {
                let how = if options.shown_as.is_some() { "" } else { " with --rename" };
                let message = format!("{name}: two columns are called '{stored}'; give one another name{how}");
                return Err(Error::new(ErrorKind::Data, message));
            }
            fields.push(Field::new(stored, storable_type(field.data_type()), true));
        }
        let schema = Arc::new(Schema::new(fields));
        let (wanted, on_bad_row, set_aside) = (Wanted::default(), options.on_bad_row, Vec::new());
        let (chunk_rows, largest) = (chunk_rows(options), HashMap::new());
        Ok(Self {
            name,
            schema,
            batches,
            current: None,
            wanted,
            on_bad_row,
            set_aside,
            read: 0,
            total,
            chunk_rows,
            largest,
        })
    }

    fn convert(&mut self, batch: &RecordBatch) -> Result<Rows> {
        let first = self.read + 1;
        let mut lost = BTreeMap::new();
        let (mut fields, mut arrays): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        let mut keys = None;
        for (field, array) in self.schema.fields().iter().zip(batch.columns()) {
            let name = field.name();
            if self.wanted.key.as_ref() == Some(name) {
                let texts = self.cast(name, array, &DataType::Utf8, first, &mut lost)?;
                let texts = texts.as_string::<i32>();
                keys = Some(texts.iter().map(|text| text.filter(|t| !t.is_empty()).map(str::to_owned)).collect());
                if name == crate::schema::DOC_ID {
                    continue;
                }
            }
            let is_text = self.wanted.text_columns.contains(name);
            let known = self.wanted.known.get(name).cloned();
            let data_type = if is_text { DataType::Utf8 } else { known.unwrap_or_else(|| field.data_type().clone()) };
            arrays.push(self.cast(name, array, &data_type, first, &mut lost)?);
            fields.push(Field::new(name, data_type, true));
        }
        let keys = if self.wanted.key.is_some() { keys.or_else(|| Some(vec![None; batch.num_rows()])) } else { None };
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let converted = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options);
        let converted =
            converted.map_err(|error| Error::new(ErrorKind::Internal, "reading rows").with_source(error))?;
        let rows = (first..first + batch.num_rows() as u64).collect();
        self.without(Rows { batch: converted, rows, keys }, lost)
    }

    /// Sets the rows aside that lost a value, or fails with the first.
    fn without(&mut self, mut rows: Rows, lost: BTreeMap<usize, String>) -> Result<Rows> {
        let kept: Vec<bool> = (0..rows.rows.len()).map(|row| !lost.contains_key(&row)).collect();
        for message in lost.into_values() {
            if self.on_bad_row == OnBadRow::Fail {
                return Err(Error::new(ErrorKind::Data, message));
            }
            self.set_aside.push(message);
        }
        if kept.iter().all(|kept| *kept) {
            return Ok(rows);
        }
        fn retain<T>(values: &mut Vec<T>, kept: &[bool]) {
            let mut kept = kept.iter();
            values.retain(|_| kept.next().is_none_or(|kept| *kept));
        }
        retain(&mut rows.rows, &kept);
        rows.keys.iter_mut().for_each(|keys| retain(keys, &kept));
        rows.batch = filter_record_batch(&rows.batch, &BooleanArray::from(kept))
            .map_err(|error| Error::new(ErrorKind::Internal, "setting rows aside").with_source(error))?;
        Ok(rows)
    }

    /// Casts a column; rows whose value does not fit go to `lost` with the reason.
    fn cast(
        &self,
        column: &str,
        array: &ArrayRef,
        to: &DataType,
        first: u64,
        lost: &mut BTreeMap<usize, String>,
    ) -> Result<ArrayRef> {
        if array.data_type() == to {
            return Ok(array.clone());
        }
        let options = CastOptions { safe: true, format_options: FormatOptions::default() };
        if let Ok(cast) = cast_with_options(array, to, &options) {
            if cast.null_count() > array.logical_null_count() {
                let values = ArrayFormatter::try_new(array, &options.format_options);
                for row in (0..array.len()).filter(|row| cast.is_null(*row) && array.is_valid(*row)) {
                    let value = values.as_ref().map_or(String::new(), |values| values.value(row).to_string());
                    let message = format!(
                        "{}, row {}, column '{column}': expected {to} (the column's type in the corpus), got '{value}'",
                        self.name,
                        first + row as u64
                    );
                    lost.entry(row).or_insert(message);
                }
            }
            return Ok(cast);
        }
        // Types that Arrow casts to nothing (maps, unions, intervals) are kept as the text that Arrow prints.
        if *to != DataType::Utf8 {
            let message = format!(
                "{}, column '{column}': its type {} does not fit {to}, which it has in the corpus; give it another name \
                 with --rename",
                self.name,
                array.data_type()
            );
            return Err(Error::new(ErrorKind::Data, message));
        }
        let failed = |error: ArrowError| damaged(&self.name, first, &error.to_string());
        let options = FormatOptions::default();
        let values = ArrayFormatter::try_new(array, &options).map_err(failed)?;
        let mut texts = StringBuilder::new();
        for row in 0..array.len() {
            if array.is_null(row) {
                texts.append_null();
            } else {
                texts.append_value(values.value(row).to_string());
            }
        }
        Ok(Arc::new(texts.finish()))
    }
}

/// Rows of which a chunk is made, each of about `row_bytes`.
fn rows_at_once(row_bytes: usize, at_most: usize) -> usize {
    (CHUNK_BYTES / row_bytes.max(1)).clamp(1, at_most)
}

/// Few documents make a chunk that the encoder works on for a while, many one that is only stored.
fn chunk_rows(options: &ImportOptions) -> usize {
    if options.reads_nothing() { PLAIN_CHUNK_ROWS } else { CHUNK_ROWS }
}

/// The largest items of columns of lists of whole numbers, by name, as far as every row group has statistics.
fn largest_items(metadata: &ParquetMetaData) -> HashMap<String, i64> {
    let mut largest: HashMap<String, Option<i64>> = HashMap::new();
    for group in metadata.row_groups() {
        for column in group.columns() {
            let [root, _, _] = column.column_path().parts() else { continue };
            // A number that is negative as it is stored may be a large one without sign.
            let most = match column.statistics() {
                Some(Statistics::Int32(found)) => found.max_opt().map(|most| i64::from(*most)),
                Some(Statistics::Int64(found)) => found.max_opt().copied(),
                _ => None,
            };
            let most = most.filter(|most| *most >= 0);
            let so_far = largest.entry(root.clone()).or_insert(Some(0));
            *so_far = so_far.zip(most).map(|(a, b)| a.max(b));
        }
    }
    largest.into_iter().filter_map(|(name, most)| Some((name, most?))).collect()
}

fn damaged(name: &str, row: u64, what: &str) -> Error {
    Error::new(ErrorKind::Data, format!("{name}: damaged after row {row} ({what}); write the file again"))
}

/// The type in which a column is stored: nearly always its own. Views and dictionaries become plain, list items are
/// called `item`, what Lance cannot hold becomes text.
fn storable_type(data_type: &DataType) -> DataType {
    let item = |field: &Field| Arc::new(Field::new("item", storable_type(field.data_type()), true));
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => storable_type(values),
        DataType::RunEndEncoded(_, values) => storable_type(values.data_type()),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field) => DataType::List(item(field)),
        DataType::FixedSizeList(field, n) => DataType::FixedSizeList(item(field), *n),
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name(), storable_type(field.data_type()), true)).collect(),
        ),
        DataType::Map(..) | DataType::Union(..) | DataType::Interval(_) => DataType::Utf8,
        other => other.clone(),
    }
}

impl RowSource for Columnar {
    fn columns(&self) -> Vec<(String, Option<DataType>)> {
        self.schema.fields().iter().map(|field| (field.name().clone(), Some(field.data_type().clone()))).collect()
    }

    fn prepare(&mut self, wanted: Wanted) -> Result<()> {
        for name in wanted.text_columns.iter() {
            let Ok(field) = self.schema.field_with_name(name) else { continue };
            if matches!(
                field.data_type(),
                DataType::List(_) | DataType::Struct(_) | DataType::Binary | DataType::LargeBinary
            ) {
                let texts = self.schema.fields().iter().filter(|f| *f.data_type() == DataType::Utf8);
                let hint = did_you_mean(name, texts.map(|f| f.name().as_str()));
                let message = format!(
                    "{}: column '{name}' is {}, which cannot be read as text{hint}",
                    self.name,
                    field.data_type()
                );
                return Err(Error::new(ErrorKind::Data, message));
            }
        }
        self.wanted = wanted;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Rows>> {
        loop {
            if let Some((batch, from, at_once)) = self.current.take() {
                let n = at_once.min(batch.num_rows() - from);
                // Copied, since a slice keeps the whole batch in memory and counts as large.
                let numbers = UInt64Array::from_iter_values(from as u64..(from + n) as u64);
                let some = match n == batch.num_rows() {
                    true => batch.clone(),
                    false => take_record_batch(&batch, &numbers).unwrap_or_else(|_| batch.slice(from, n)),
                };
                let rows = self.convert(&some)?;
                self.read += n as u64;
                if from + n < batch.num_rows() {
                    self.current = Some((batch, from + n, at_once));
                }
                return Ok(Some(rows));
            }
            match self.batches.next() {
                None => return Ok(None),
                Some(Err(error)) => return Err(damaged(&self.name, self.read, &error.to_string())),
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => {
                    let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
                    let bytes: usize = sizes.map(|size| size.unwrap_or(0)).sum();
                    let at_once = rows_at_once(bytes / batch.num_rows(), self.chunk_rows);
                    self.current = Some((batch, 0, at_once));
                }
            }
        }
    }

    fn take_set_aside(&mut self) -> Vec<String> {
        std::mem::take(&mut self.set_aside)
    }

    fn read(&self) -> u64 {
        self.read
    }

    fn largest_item(&self, column: &str) -> Option<i64> {
        self.largest.get(column).copied()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;
    use crate::engine::ImportSource;

    /// Rows of each chunk of an Arrow file with one batch, with the bytes that its columns hold in memory.
    fn chunks(columns: Vec<(&str, ArrayRef)>) -> Vec<(usize, usize)> {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = arrow::ipc::writer::FileWriter::try_new(file.as_file_mut(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let options = ImportOptions::new(ImportSource::Path(file.path().to_owned()), "c");
        let mut rows = Columnar::arrow(Input::open(&options.source).unwrap(), &options).unwrap();
        let mut chunks = Vec::new();
        while let Some(some) = rows.next().unwrap() {
            chunks.push((some.rows.len(), some.batch.get_array_memory_size()));
        }
        chunks
    }

    #[test]
    fn a_chunk_of_a_large_batch_counts_and_keeps_only_its_own_rows() {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..1024).map(|_| "x".repeat(1024))));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>((0..1024).map(|_| Some([Some(1); 256])));
        let chunks = chunks(vec![("text", texts), ("list", Arc::new(lists))]);
        assert_eq!(chunks.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(), [128; 8]);
        assert!(chunks.iter().all(|(_, bytes)| *bytes < 2 * 128 * 2048), "{chunks:?}");
    }

    #[test]
    fn chunks_of_long_texts_have_few_rows() {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..10).map(|_| "x".repeat(1 << 20))));
        assert_eq!(chunks(vec![("text", texts)]).iter().map(|(rows, _)| *rows).collect::<Vec<_>>(), [3, 3, 3, 1]);
    }
}
