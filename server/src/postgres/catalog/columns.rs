//! Tables written as text: `oid int, relname text, indkey shorts` and rows of cells.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Int16Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
    RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::error::Result;
use datafusion_pg_catalog::pg_catalog::oid_field::OID_ALIAS_KEY;

/// One value.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    /// No value.
    Null,
    /// A string.
    Text(String),
    /// A number; also microseconds since 1970.
    Int(i64),
    /// Yes or no.
    Bool(bool),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i32> for Cell {
    fn from(number: i32) -> Self {
        Self::Int(i64::from(number))
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Columns by name; those that a row leaves out are null.
pub(super) type Row = Vec<(&'static str, Cell)>;

/// Type of a word of [`schema`].
fn data_type(word: &str) -> DataType {
    let list = |of| DataType::List(Arc::new(Field::new("item", of, true)));
    match word {
        "int" | "oid" => DataType::Int32,
        "short" => DataType::Int16,
        "long" => DataType::Int64,
        "real" => DataType::Float32,
        "bool" => DataType::Boolean,
        "time" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "texts" => list(DataType::Utf8),
        "ints" => list(DataType::Int32),
        "shorts" => list(DataType::Int16),
        _ => DataType::Utf8,
    }
}

/// Columns of `name type, name type, ...`; types are `text`, `int`, `oid`, `short`, `long`, `real`, `bool`, `time`, and the lists
/// `texts`, `ints`, `shorts`.
pub(super) fn schema(columns: &str) -> SchemaRef {
    let fields = columns.split(',').filter_map(|column| {
        let (name, word) = column.trim().split_once(' ')?;
        let field = Field::new(name, data_type(word.trim()), true);
        // The wire shows columns that are marked so as `oid`.
        let mark = || HashMap::from([(OID_ALIAS_KEY.to_owned(), "oid".to_owned())]);
        Some(if word.trim() == "oid" { field.with_metadata(mark()) } else { field })
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Rows as a batch of `schema`.
pub(super) fn batch(schema: &SchemaRef, rows: Vec<Row>) -> Result<RecordBatch> {
    let n_rows = rows.len();
    let mut by_name: HashMap<&'static str, Vec<Cell>> = HashMap::new();
    for (i, row) in rows.into_iter().enumerate() {
        for (name, cell) in row {
            let cells = by_name.entry(name).or_default();
            cells.resize(i, Cell::Null);
            cells.push(cell);
        }
    }
    let mut arrays = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let mut cells = by_name.remove(field.name().as_str()).unwrap_or_default();
        cells.resize(n_rows, Cell::Null);
        arrays.push(array(field.data_type(), cells));
    }
    debug_assert!(by_name.is_empty(), "columns that no table has: {:?}", by_name.keys());
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?)
}

fn array(data_type: &DataType, cells: Vec<Cell>) -> ArrayRef {
    let number = |cell: &Cell| if let Cell::Int(number) = cell { Some(*number) } else { None };
    macro_rules! numbers {
        ($builder:expr, $convert:expr) => {{
            let mut builder = $builder;
            for cell in &cells {
                builder.append_option(number(cell).map($convert));
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    match data_type {
        DataType::Utf8 => {
            let mut builder = StringBuilder::new();
            for cell in cells {
                match cell {
                    Cell::Null => builder.append_null(),
                    Cell::Text(text) => builder.append_value(text),
                    Cell::Int(number) => builder.append_value(number.to_string()),
                    Cell::Bool(flag) => builder.append_value(if flag { "t" } else { "f" }),
                }
            }
            Arc::new(builder.finish())
        }
        DataType::Boolean => {
            let mut builder = BooleanBuilder::new();
            for cell in cells {
                builder.append_option(if let Cell::Bool(flag) = cell { Some(flag) } else { None });
            }
            Arc::new(builder.finish())
        }
        DataType::Int16 => numbers!(Int16Builder::new(), |n| i16::try_from(n).unwrap_or(-1)),
        DataType::Int32 => numbers!(Int32Builder::new(), |n| i32::try_from(n).unwrap_or(-1)),
        DataType::Int64 => numbers!(Int64Builder::new(), |n| n),
        #[expect(clippy::cast_precision_loss, reason = "estimates of rows")]
        DataType::Float32 => numbers!(Float32Builder::new(), |n| n as f32),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
            let mut builder = TimestampMicrosecondBuilder::new().with_timezone(Arc::clone(zone));
            for cell in &cells {
                builder.append_option(number(cell));
            }
            Arc::new(builder.finish())
        }
        DataType::List(item) if item.data_type() == &DataType::Utf8 => {
            let mut builder = ListBuilder::new(StringBuilder::new());
            for cell in cells {
                // Written with spaces between the items: `read write`.
                if let Cell::Text(text) = cell {
                    text.split(' ').for_each(|item| builder.values().append_value(item));
                    builder.append(true);
                } else {
                    builder.append(false);
                }
            }
            Arc::new(builder.finish())
        }
        other => new_null_array(other, cells.len()),
    }
}

/// A table of one batch.
pub(super) fn table(batch: RecordBatch) -> Result<Arc<dyn TableProvider>> {
    Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
}
