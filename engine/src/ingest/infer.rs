//! Types of columns whose source has none (CSV, JSON), and their values as Arrow arrays.
//!
//! A column's type is the narrowest that fits all values of the rows looked at:
//! whole number (`Int64`) < number (`Float64`) < text; date (`Date32`) < timestamp (microseconds, with or without UTC) <
//! text; `true`/`false`; list of one of them; nested objects and mixed lists stay JSON text. Numbers with leading zeros
//! (`007`) and whole numbers beyond 64 bits are text, so that no digit is lost. An empty CSV field is null, except in
//! columns that are read as text.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Float64Builder, Int64Builder, ListArray, StringBuilder,
    TimestampMicrosecondBuilder, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use chrono::Utc;
use serde_json::Value;

/// A value as the source has it.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    /// A CSV field.
    Raw(String),
    /// A JSON value.
    Json(Value),
}

/// What fits the values seen so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// None seen but null.
    Unknown,
    Bool,
    Int,
    Float,
    Date,
    Timestamp {
        utc: bool,
    },
    Text,
    List(Box<Kind>),
}

impl Kind {
    pub(super) fn of(cell: &Cell) -> Self {
        match cell {
            Cell::Raw(text) => Self::of_text(text),
            Cell::Json(value) => Self::of_json(value),
        }
    }

    fn of_text(text: &str) -> Self {
        match text {
            "" => Self::Unknown,
            "true" | "false" | "True" | "False" | "TRUE" | "FALSE" => Self::Bool,
            _ if parse_int(text).is_some() => Self::Int,
            _ if parse_float(text).is_some() => Self::Float,
            _ => Self::of_time(text),
        }
    }

    fn of_json(value: &Value) -> Self {
        match value {
            Value::Null => Self::Unknown,
            Value::Bool(_) => Self::Bool,
            Value::Number(number) if number.as_i64().is_some() => Self::Int,
            Value::Number(number) if number.as_u64().is_some() => Self::Text,
            Value::Number(_) => Self::Float,
            Value::String(text) => Self::of_time(text),
            Value::Array(items) => {
                let item = items.iter().map(Self::of_json).fold(Self::Unknown, Self::or);
                match item {
                    // Times in lists, lists in lists and mixtures are not worth a type of their own.
                    Self::List(_) => Self::Text,
                    _ if items.iter().any(Value::is_object) => Self::Text,
                    Self::Date | Self::Timestamp { .. } => Self::List(Box::new(Self::Text)),
                    item => Self::List(Box::new(item)),
                }
            }
            Value::Object(_) => Self::Text,
        }
    }

    fn of_time(text: &str) -> Self {
        let bytes = text.as_bytes();
        let digits = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
        let dated =
            bytes.len() >= 10 && digits(0..4) && bytes[4] == b'-' && digits(5..7) && bytes[7] == b'-' && digits(8..10);
        if !dated || bytes.len() > 40 || parse_time(text).is_none() {
            return Self::Text;
        }
        if bytes.len() == 10 {
            return Self::Date;
        }
        let time = &bytes[10..];
        Self::Timestamp {
            utc: time.ends_with(b"Z") || time.ends_with(b"z") || time.contains(&b'+') || time.contains(&b'-'),
        }
    }

    /// The narrowest kind that holds both.
    pub(super) fn or(self, other: Self) -> Self {
        use Kind::{Date, Float, Int, List, Text, Timestamp, Unknown};
        match (self, other) {
            (Unknown, kind) | (kind, Unknown) => kind,
            (a, b) if a == b => a,
            (Int, Float) | (Float, Int) => Float,
            (Date, Timestamp { utc }) | (Timestamp { utc }, Date) => Timestamp { utc },
            (List(a), List(b)) => match a.or(*b) {
                List(_) => Text,
                item => List(Box::new(item)),
            },
            _ => Text,
        }
    }

    /// The stored type; `None` while unknown.
    pub(super) fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Unknown => return None,
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Timestamp { utc: true } => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Timestamp { utc: false } => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Text => DataType::Utf8,
            Self::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type()?, true))),
        })
    }
}

fn parse_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn parse_float(text: &str) -> Option<f64> {
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(number, "NaN" | "nan" | "inf" | "Infinity") {
        return text.parse().ok();
    }
    let bytes = number.as_bytes();
    let leading_zero = bytes.len() > 1 && bytes[0] == b'0' && bytes[1].is_ascii_digit();
    // Digits alone are a whole number that is too long for 64 bits (an identifier): it stays text.
    let only_digits = bytes.iter().all(u8::is_ascii_digit);
    if leading_zero || only_digits || !bytes.iter().all(|b| b.is_ascii_digit() || b".eE+-".contains(b)) {
        return None;
    }
    text.parse().ok()
}

fn parse_time(text: &str) -> Option<chrono::DateTime<Utc>> {
    string_to_datetime(&Utc, text).ok()
}

/// A value that does not fit its column.
pub(super) struct Misfit {
    /// Row in the column.
    pub(super) row: usize,
    /// What was expected and what came.
    pub(super) reason: String,
}

/// Builds a column of `data_type` from cells; `None` is null. `keep_empty`: an empty CSV field is an empty text.
///
/// # Errors
/// The first value that does not fit.
pub(super) fn build(cells: &[Option<&Cell>], data_type: &DataType, keep_empty: bool) -> Result<ArrayRef, Misfit> {
    macro_rules! fill {
        ($builder:expr, $parse:expr) => {{
            let mut builder = $builder;
            for (row, cell) in cells.iter().enumerate() {
                match cell {
                    None | Some(Cell::Json(Value::Null)) => builder.append_null(),
                    Some(Cell::Raw(text)) if text.is_empty() => builder.append_null(),
                    Some(cell) => match $parse(cell) {
                        Some(value) => builder.append_value(value),
                        None => return Err(misfit(row, Some(cell), data_type)),
                    },
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Ok(match data_type {
        DataType::Boolean => fill!(BooleanBuilder::with_capacity(cells.len()), to_bool),
        DataType::Int64 => fill!(Int64Builder::with_capacity(cells.len()), to_int),
        DataType::Float64 => fill!(Float64Builder::with_capacity(cells.len()), to_float),
        DataType::Date32 => fill!(Date32Builder::with_capacity(cells.len()), |cell| {
            let time = to_time(cell).filter(|time| time.timestamp().rem_euclid(86_400) == 0)?;
            i32::try_from(time.timestamp().div_euclid(86_400)).ok()
        }),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let builder = TimestampMicrosecondBuilder::with_capacity(cells.len()).with_timezone_opt(zone.clone());
            fill!(builder, |cell| to_time(cell).map(|time| time.timestamp_micros()))
        }
        DataType::Utf8 => {
            let mut builder = StringBuilder::new();
            for cell in cells {
                match cell {
                    None | Some(Cell::Json(Value::Null)) => builder.append_null(),
                    Some(Cell::Raw(text)) if text.is_empty() && !keep_empty => builder.append_null(),
                    Some(cell) => builder.append_value(to_text(cell)),
                }
            }
            Arc::new(builder.finish())
        }
        DataType::List(item) => build_lists(cells, item, data_type)?,
        // A column that came with another type from a typed file: through text, as Arrow reads it.
        other => {
            let texts = build(cells, &DataType::Utf8, false)?;
            let options = arrow::compute::CastOptions { safe: true, ..Default::default() };
            // No value fits a type that text cannot be cast to.
            let array = arrow::compute::cast_with_options(&texts, other, &options)
                .unwrap_or_else(|_| new_null_array(other, cells.len()));
            match (0..cells.len()).find(|row| array.is_null(*row) && texts.is_valid(*row)) {
                Some(row) => return Err(misfit(row, cells[row], data_type)),
                None => array,
            }
        }
    })
}

/// A column of lists: the items of all as one column, and where each list ends.
fn build_lists(cells: &[Option<&Cell>], item: &FieldRef, list: &DataType) -> Result<ArrayRef, Misfit> {
    let (mut items, mut rows, mut lengths, mut valid) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, cell) in cells.iter().enumerate() {
        let values = match cell {
            None | Some(Cell::Json(Value::Null)) => None,
            Some(Cell::Raw(text)) if text.is_empty() => None,
            Some(Cell::Json(Value::Array(values))) => Some(values),
            cell => return Err(misfit(row, *cell, list)),
        };
        valid.push(values.is_some());
        let values = values.map_or(&[][..], Vec::as_slice);
        lengths.push(values.len());
        items.extend(values.iter().cloned().map(Cell::Json));
        rows.resize(items.len(), row);
    }
    let items: Vec<Option<&Cell>> = items.iter().map(Some).collect();
    let values = build(&items, item.data_type(), true);
    let values = values.map_err(|wrong| misfit(rows[wrong.row], items[wrong.row], list))?;
    let nulls = Some(NullBuffer::from(valid));
    let made = ListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), values, nulls);
    made.map(|lists| Arc::new(lists) as ArrayRef).map_err(|error| Misfit { row: 0, reason: error.to_string() })
}

fn to_bool(cell: &Cell) -> Option<bool> {
    match cell {
        Cell::Raw(text) => text.to_lowercase().parse().ok(),
        Cell::Json(value) => value.as_bool(),
    }
}

fn to_int(cell: &Cell) -> Option<i64> {
    match cell {
        Cell::Raw(text) => parse_int(text),
        Cell::Json(value) => value.as_i64(),
    }
}

fn to_float(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Raw(text) => parse_int(text).map(|number| number as f64).or_else(|| parse_float(text)),
        // A whole number that was kept as text; here all of the column are rounded.
        Cell::Json(Value::String(text)) if is_long(text) => text.parse().ok(),
        Cell::Json(value) => value.as_f64(),
    }
}

fn is_long(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.len() >= 19 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn to_time(cell: &Cell) -> Option<chrono::DateTime<Utc>> {
    match cell {
        Cell::Raw(text) | Cell::Json(Value::String(text)) => parse_time(text),
        Cell::Json(_) => None,
    }
}

/// A value as text: strings as they are, everything else as JSON.
pub(super) fn to_text(cell: &Cell) -> String {
    match cell {
        Cell::Raw(text) | Cell::Json(Value::String(text)) => text.clone(),
        Cell::Json(value) => value.to_string(),
    }
}

fn misfit(row: usize, cell: Option<&Cell>, expected: &DataType) -> Misfit {
    let mut value = cell.map(to_text).unwrap_or_default();
    if value.chars().count() > 60 {
        value = value.chars().take(60).chain(['…']).collect();
    }
    Misfit { row, reason: format!("expected {}, got '{value}'", describe(expected)) }
}

/// A type in words.
pub(super) fn describe(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "true or false".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => "a whole number".to_owned(),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "a number".to_owned(),
        DataType::Date32 | DataType::Date64 => "a date (2024-12-31)".to_owned(),
        DataType::Timestamp(..) => "a timestamp (2024-12-31T23:59:59Z)".to_owned(),
        DataType::Utf8 => "text".to_owned(),
        DataType::List(item) => format!("a list, each item {}", describe(item.data_type())),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(texts: &[&str]) -> Kind {
        texts.iter().map(|text| Kind::of_text(text)).fold(Kind::Unknown, Kind::or)
    }

    #[test]
    fn the_narrowest_kind_is_found() {
        assert_eq!(kind(&["1", "", "-20"]), Kind::Int);
        assert_eq!(kind(&["1", "2.5", "1e3", "NaN"]), Kind::Float);
        assert_eq!(kind(&["1", "x"]), Kind::Text);
        assert_eq!(kind(&["007", "008"]), Kind::Text);
        assert_eq!(kind(&["18446744073709551615"]), Kind::Text);
        assert_eq!(kind(&["true", "False"]), Kind::Bool);
        assert_eq!(kind(&["2024-01-31"]), Kind::Date);
        assert_eq!(kind(&["2024-13-31"]), Kind::Text);
        assert_eq!(kind(&["2024-01-31", "2024-01-31 10:00:00"]), Kind::Timestamp { utc: false });
        assert_eq!(kind(&["2024-01-31T10:00:00Z", "2024-01-31T10:00:00.5+02:00"]), Kind::Timestamp { utc: true });
        assert_eq!(kind(&["", ""]), Kind::Unknown);
        let json = |text: &str| Kind::of_json(&serde_json::from_str(text).unwrap());
        assert_eq!(json("[1, 2.5, null]"), Kind::List(Box::new(Kind::Float)));
        assert_eq!(json("[1, \"a\"]"), Kind::List(Box::new(Kind::Text)));
        assert_eq!(json("[{\"a\": 1}]"), Kind::Text);
        assert_eq!(json("{\"a\": 1}"), Kind::Text);
        assert_eq!(json("\"2024-01-31T10:00:00Z\""), Kind::Timestamp { utc: true });
    }

    #[test]
    fn values_keep_their_meaning_and_misfits_are_named() {
        use arrow::array::{Array, AsArray};
        use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
        let cells: Vec<Cell> = ["1", "", "2.5"].iter().map(|t| Cell::Raw((*t).to_owned())).collect();
        let cells: Vec<Option<&Cell>> = cells.iter().map(Some).collect();
        let array = build(&cells, &DataType::Float64, false).ok().unwrap();
        assert_eq!(array.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(1.0), None, Some(2.5)]);
        let misfit = build(&cells, &DataType::Int64, false).err().unwrap();
        assert_eq!((misfit.row, misfit.reason.as_str()), (2, "expected a whole number, got '2.5'"));
        let texts = build(&cells, &DataType::Utf8, true).ok().unwrap();
        assert_eq!((texts.null_count(), texts.as_string::<i32>().value(1)), (0, ""));
        let time = Cell::Raw("1970-01-01T02:00:00+02:00".to_owned());
        let array =
            build(&[Some(&time)], &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false).ok().unwrap();
        assert_eq!(array.as_primitive::<TimestampMicrosecondType>().value(0), 0);
    }
}
