//! Values as PostgreSQL writes them, in text and in binary.
//!
//! Not `arrow-pg`: it panics on large and on fixed-size lists, sends nulls of intervals as values, knows decimals of 28
//! digits only, and writes nested values as anonymous records, which no client reads.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::*;
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Offset, Timelike};
use pgwire::api::Type;

use super::error::{Result, Trouble};
use super::types::{Column, shown_as};

/// Days from 1970-01-01 to PostgreSQL's first day, 2000-01-01.
pub(super) const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
pub(super) const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;
/// Days from the first of January of the year 1 to 1970-01-01.
const DAYS_CE: i32 = 719_163;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs.
    Binary,
}

impl Format {
    /// The code of the protocol.
    pub(super) fn code(self) -> i16 {
        i16::from(self == Format::Binary)
    }
}

/// The columns of a batch without dictionaries and views of lists, which the writers below do not know.
pub(super) fn plain(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let plain_type = |data_type: &DataType| match data_type {
        DataType::Dictionary(_, values) => Some(values.as_ref().clone()),
        DataType::RunEndEncoded(_, values) => Some(values.data_type().clone()),
        DataType::ListView(item) | DataType::LargeListView(item) => Some(DataType::List(item.clone())),
        _ => None,
    };
    if batch.schema().fields().iter().all(|field| plain_type(field.data_type()).is_none()) {
        return Ok(batch);
    }
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let data_type = plain_type(field.data_type()).unwrap_or_else(|| field.data_type().clone());
        columns.push(cast(column, &data_type)?);
        fields.push(field.as_ref().clone().with_data_type(data_type).with_nullable(true));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Appends a value behind its length; -1 stands for null.
pub(super) fn sized(out: &mut BytesMut, value: impl FnOnce(&mut BytesMut) -> Result<bool>) -> Result<()> {
    let at = out.len();
    out.put_i32(-1);
    if value(out)? {
        let length = i32::try_from(out.len() - at - 4)
            .map_err(|_| Trouble::new("54000", "a value is larger than the protocol can carry"))?;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// Reads the values of a batch.
pub(super) struct Cells<'a> {
    cells: Vec<Cell<'a>>,
    zone: Tz,
    scratch: Vec<u8>,
}

struct Cell<'a> {
    array: &'a dyn Array,
    json: Option<NullableEncoder<'a>>,
    is_oid: bool,
}

impl<'a> Cells<'a> {
    /// `batch` is one that [`plain`] gave.
    pub(super) fn new(
        batch: &'a RecordBatch,
        columns: &[Column],
        options: &'a EncoderOptions,
        zone: Tz,
    ) -> Result<Self> {
        let fields: &'a [FieldRef] = batch.schema_ref().fields();
        let mut cells = Vec::with_capacity(columns.len());
        for ((field, array), column) in fields.iter().zip(batch.columns()).zip(columns) {
            let json = match column.shown {
                Type::JSON => Some(make_encoder(field, array, options).map_err(|_| {
                    let message = format!("column '{}' of type {} cannot be shown", column.name, field.data_type());
                    Trouble::new("0A000", message).hint("name its parts in the statement, or leave the column out")
                })?),
                _ => None,
            };
            cells.push(Cell { array: array.as_ref(), json, is_oid: column.shown == Type::OID });
        }
        Ok(Self { cells, zone, scratch: Vec::new() })
    }

    /// Appends one value; `false` for null, which is nothing.
    pub(super) fn put(&mut self, column: usize, row: usize, format: Format, out: &mut BytesMut) -> Result<bool> {
        let cell = &mut self.cells[column];
        if cell.array.data_type() == &DataType::Null || cell.array.is_null(row) {
            return Ok(false);
        }
        if let Some(json) = &mut cell.json {
            self.scratch.clear();
            json.encode(row, &mut self.scratch);
            out.put_slice(&self.scratch);
            return Ok(true);
        }
        match format {
            Format::Text if cell.is_oid => {
                let _ = write!(out, "{}", cell.array.as_primitive::<Int32Type>().value(row).cast_unsigned());
            }
            Format::Text => text(cell.array, row, self.zone, out)?,
            Format::Binary => binary(cell.array, row, out)?,
        }
        Ok(true)
    }
}

/// Nulls inside of nested values are written, so that every value has the same shape.
pub(super) fn json_options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true)
}

fn unknown(data_type: &DataType) -> Trouble {
    Trouble::new("0A000", format!("values of type {data_type} cannot be shown")).hint("cast the column to another type")
}

fn out_of_range(what: &str) -> Trouble {
    Trouble::new("22008", format!("a {what} is out of range"))
}

/// The items of a list.
fn items(array: &dyn Array, row: usize) -> Option<ArrayRef> {
    Some(match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().value(row),
        DataType::LargeList(_) => array.as_list::<i64>().value(row),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(row),
        _ => return None,
    })
}

/// Microseconds since 1970.
fn micros(array: &dyn Array, unit: TimeUnit, row: usize) -> Result<i64> {
    let scaled = |value: i64, by: i64| value.checked_mul(by).ok_or_else(|| out_of_range("timestamp"));
    match unit {
        TimeUnit::Second => scaled(array.as_primitive::<TimestampSecondType>().value(row), 1_000_000),
        TimeUnit::Millisecond => scaled(array.as_primitive::<TimestampMillisecondType>().value(row), 1000),
        TimeUnit::Microsecond => Ok(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        TimeUnit::Nanosecond => Ok(array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1000)),
    }
}

/// Microseconds since midnight.
fn time_of_day(array: &dyn Array, row: usize) -> i64 {
    match array.data_type() {
        DataType::Time32(TimeUnit::Second) => {
            i64::from(array.as_primitive::<Time32SecondType>().value(row)) * 1_000_000
        }
        DataType::Time32(_) => i64::from(array.as_primitive::<Time32MillisecondType>().value(row)) * 1000,
        DataType::Time64(TimeUnit::Microsecond) => array.as_primitive::<Time64MicrosecondType>().value(row),
        _ => array.as_primitive::<Time64NanosecondType>().value(row) / 1000,
    }
}

/// Days since 1970.
fn days(array: &dyn Array, row: usize) -> Result<i32> {
    match array.data_type() {
        DataType::Date32 => Ok(array.as_primitive::<Date32Type>().value(row)),
        _ => i32::try_from(array.as_primitive::<Date64Type>().value(row).div_euclid(86_400_000))
            .map_err(|_| out_of_range("date")),
    }
}

/// Months, days and microseconds.
fn interval(array: &dyn Array, row: usize) -> Result<(i32, i32, i64)> {
    let scaled = |value: i64, by: i64| Ok((0, 0, value.checked_mul(by).ok_or_else(|| out_of_range("interval"))?));
    match array.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => {
            Ok((array.as_primitive::<IntervalYearMonthType>().value(row), 0, 0))
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let value = array.as_primitive::<IntervalDayTimeType>().value(row);
            Ok((0, value.days, i64::from(value.milliseconds) * 1000))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            Ok((value.months, value.days, value.nanoseconds / 1000))
        }
        DataType::Duration(TimeUnit::Second) => {
            scaled(array.as_primitive::<DurationSecondType>().value(row), 1_000_000)
        }
        DataType::Duration(TimeUnit::Millisecond) => {
            scaled(array.as_primitive::<DurationMillisecondType>().value(row), 1000)
        }
        DataType::Duration(TimeUnit::Microsecond) => {
            scaled(array.as_primitive::<DurationMicrosecondType>().value(row), 1)
        }
        DataType::Duration(_) => Ok((0, 0, array.as_primitive::<DurationNanosecondType>().value(row) / 1000)),
        other => Err(unknown(other)),
    }
}

/// A decimal with its point; `None` for other types.
fn decimal(array: &dyn Array, row: usize) -> Option<String> {
    Some(match array.data_type() {
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Decimal32(..) => array.as_primitive::<Decimal32Type>().value_as_string(row),
        DataType::Decimal64(..) => array.as_primitive::<Decimal64Type>().value_as_string(row),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row),
        _ => return None,
    })
}

fn utf8(array: &dyn Array, row: usize) -> Option<&str> {
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row),
        DataType::Utf8View => array.as_string_view().value(row),
        _ => return None,
    })
}

fn bytes(array: &dyn Array, row: usize) -> Option<&[u8]> {
    Some(match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().value(row),
        DataType::LargeBinary => array.as_binary::<i64>().value(row),
        DataType::BinaryView => array.as_binary_view().value(row),
        DataType::FixedSizeBinary(_) => array.as_fixed_size_binary().value(row),
        _ => return None,
    })
}

/// Appends a value that is not null as text.
fn text(array: &dyn Array, row: usize, zone: Tz, out: &mut BytesMut) -> Result<()> {
    macro_rules! number {
        ($type:ty) => {{
            let _ = write!(out, "{}", array.as_primitive::<$type>().value(row)); // into memory
        }};
    }
    if let Some(value) = utf8(array, row) {
        out.put_slice(value.as_bytes());
        return Ok(());
    }
    match array.data_type() {
        DataType::Boolean => out.put_u8(if array.as_boolean().value(row) { b't' } else { b'f' }),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::Float16 => {
            let value = array.as_primitive::<Float16Type>().value(row).to_f32();
            float(f64::from(value), &format!("{value:e}"), &format!("{value}"), 6, out);
        }
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            float(f64::from(value), &format!("{value:e}"), &format!("{value}"), 6, out);
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            float(value, &format!("{value:e}"), &format!("{value}"), 15, out);
        }
        DataType::Date32 | DataType::Date64 => {
            let date = days(array, row)?.checked_add(DAYS_CE).and_then(NaiveDate::from_num_days_from_ce_opt);
            let date = date.ok_or_else(|| out_of_range("date"))?;
            put_date(date, out);
            put_era(date, out);
        }
        DataType::Time32(_) | DataType::Time64(_) => put_time(time_of_day(array, row), out),
        DataType::Timestamp(unit, with_zone) => {
            let moment = DateTime::from_timestamp_micros(micros(array, *unit, row)?);
            let moment = moment.ok_or_else(|| out_of_range("timestamp"))?;
            if with_zone.is_none() {
                put_moment(moment.naive_utc(), out);
                put_era(moment.date_naive(), out);
            } else {
                let local = moment.with_timezone(&zone);
                put_moment(local.naive_local(), out);
                put_offset(local.offset().fix().local_minus_utc(), out);
                put_era(local.date_naive(), out);
            }
        }
        DataType::Interval(_) | DataType::Duration(_) => {
            let (months, days, micros) = interval(array, row)?;
            put_interval(months, days, micros, out);
        }
        other => {
            if let Some(value) = decimal(array, row) {
                out.put_slice(value.as_bytes());
            } else if let Some(value) = bytes(array, row) {
                out.put_slice(b"\\x");
                for byte in value {
                    let _ = write!(out, "{byte:02x}");
                }
            } else if let Some(items) = items(array, row) {
                put_array(&items, zone, out)?;
            } else {
                return Err(unknown(other));
            }
        }
    }
    Ok(())
}

/// A float as PostgreSQL writes it: as short as it can be read back, with an exponent where it has more than `digits` digits.
fn float(value: f64, scientific: &str, plain: &str, digits: i32, out: &mut BytesMut) {
    if value.is_nan() {
        return out.put_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.put_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..digits).contains(&exponent) {
        out.put_slice(plain.as_bytes());
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    }
}

fn put_date(date: NaiveDate, out: &mut BytesMut) {
    // There is no year 0: before the year 1 comes 1 BC.
    let year = if date.year() > 0 { date.year() } else { 1 - date.year() };
    let _ = write!(out, "{year:04}-{:02}-{:02}", date.month(), date.day());
}

fn put_era(date: NaiveDate, out: &mut BytesMut) {
    if date.year() <= 0 {
        out.put_slice(b" BC");
    }
}

fn put_fraction(micros: u64, out: &mut BytesMut) {
    if micros > 0 {
        let digits = format!("{micros:06}");
        let _ = write!(out, ".{}", digits.trim_end_matches('0'));
    }
}

fn put_time(micros: i64, out: &mut BytesMut) {
    let seconds = micros / 1_000_000;
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    put_fraction(micros.unsigned_abs() % 1_000_000, out);
}

fn put_moment(moment: NaiveDateTime, out: &mut BytesMut) {
    put_date(moment.date(), out);
    out.put_u8(b' ');
    let time: NaiveTime = moment.time();
    put_time(i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond() / 1000), out);
}

fn put_offset(seconds: i32, out: &mut BytesMut) {
    let sign = if seconds < 0 { '-' } else { '+' };
    let seconds = seconds.abs();
    let _ = write!(out, "{sign}{:02}", seconds / 3600);
    if seconds % 3600 != 0 {
        let _ = write!(out, ":{:02}", seconds / 60 % 60);
    }
    if seconds % 60 != 0 {
        let _ = write!(out, ":{:02}", seconds % 60);
    }
}

/// `1 year 2 mons -3 days +04:05:06.7`
fn put_interval(months: i32, days: i32, micros: i64, out: &mut BytesMut) {
    let start = out.len();
    let mut was_negative = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value != 0 {
            let space = if out.len() > start { " " } else { "" };
            let plus = if was_negative && value > 0 { "+" } else { "" };
            let _ = write!(out, "{space}{plus}{value} {unit}{}", if value == 1 { "" } else { "s" });
            was_negative = value < 0;
        }
    }
    if micros != 0 || out.len() == start {
        let space = if out.len() > start { " " } else { "" };
        let sign = if micros < 0 {
            "-"
        } else if was_negative {
            "+"
        } else {
            ""
        };
        let all = micros.unsigned_abs();
        let seconds = all / 1_000_000;
        let _ = write!(out, "{space}{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        put_fraction(all % 1_000_000, out);
    }
}

/// `{1,NULL,"a b"}`
fn put_array(items: &ArrayRef, zone: Tz, out: &mut BytesMut) -> Result<()> {
    out.put_u8(b'{');
    let mut item = BytesMut::new();
    for row in 0..items.len() {
        if row > 0 {
            out.put_u8(b',');
        }
        if items.data_type() == &DataType::Null || items.is_null(row) {
            out.put_slice(b"NULL");
            continue;
        }
        item.clear();
        text(items, row, zone, &mut item)?;
        let needs_quotes = item.is_empty()
            || item.eq_ignore_ascii_case(b"null")
            || item.iter().any(|byte| b"{}\",\\".contains(byte) || byte.is_ascii_whitespace() || *byte == 0x0b);
        if needs_quotes {
            out.put_u8(b'"');
            for byte in &item {
                if matches!(byte, b'"' | b'\\') {
                    out.put_u8(b'\\');
                }
                out.put_u8(*byte);
            }
            out.put_u8(b'"');
        } else {
            out.put_slice(&item);
        }
    }
    out.put_u8(b'}');
    Ok(())
}

/// Appends a value that is not null in binary.
fn binary(array: &dyn Array, row: usize, out: &mut BytesMut) -> Result<()> {
    if let Some(value) = utf8(array, row) {
        out.put_slice(value.as_bytes());
        return Ok(());
    }
    match array.data_type() {
        DataType::Boolean => out.put_u8(array.as_boolean().value(row).into()),
        DataType::Int8 => out.put_i16(array.as_primitive::<Int8Type>().value(row).into()),
        DataType::UInt8 => out.put_i16(array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::Int16 => out.put_i16(array.as_primitive::<Int16Type>().value(row)),
        DataType::UInt16 => out.put_i32(array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::Int32 => out.put_i32(array.as_primitive::<Int32Type>().value(row)),
        DataType::UInt32 => out.put_i64(array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::Int64 => out.put_i64(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float16 => out.put_f32(array.as_primitive::<Float16Type>().value(row).to_f32()),
        DataType::Float32 => out.put_f32(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => out.put_f64(array.as_primitive::<Float64Type>().value(row)),
        DataType::Date32 | DataType::Date64 => {
            out.put_i32(days(array, row)?.checked_sub(EPOCH_DAYS).ok_or_else(|| out_of_range("date"))?);
        }
        DataType::Time32(_) | DataType::Time64(_) => out.put_i64(time_of_day(array, row)),
        DataType::Timestamp(unit, _) => {
            let micros = micros(array, *unit, row)?;
            out.put_i64(micros.checked_sub(EPOCH_MICROS).ok_or_else(|| out_of_range("timestamp"))?);
        }
        DataType::Interval(_) | DataType::Duration(_) => {
            let (months, days, micros) = interval(array, row)?;
            out.put_i64(micros);
            out.put_i32(days);
            out.put_i32(months);
        }
        other => {
            if let Some(value) = decimal(array, row) {
                put_numeric(&value, out);
            } else if let Some(value) = bytes(array, row) {
                out.put_slice(value);
            } else if let Some(items) = items(array, row) {
                let has_null = items.data_type() == &DataType::Null || items.null_count() > 0;
                out.put_i32(i32::from(!items.is_empty())); // dimensions
                out.put_i32(i32::from(has_null));
                out.put_u32(shown_as(items.data_type()).oid());
                if !items.is_empty() {
                    out.put_i32(i32::try_from(items.len()).unwrap_or(i32::MAX));
                    out.put_i32(1); // the first item's number
                }
                for item in 0..items.len() {
                    sized(out, |out| {
                        if items.data_type() == &DataType::Null || items.is_null(item) {
                            return Ok(false);
                        }
                        binary(&items, item, out).map(|()| true)
                    })?;
                }
            } else {
                return Err(unknown(other));
            }
        }
    }
    Ok(())
}

/// A decimal as groups of four digits.
fn put_numeric(decimal: &str, out: &mut BytesMut) {
    let (is_negative, digits) = match decimal.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, decimal),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.trim_start_matches('0');
    let padded = format!(
        "{}{whole}{fraction}{}",
        "0".repeat((4 - whole.len() % 4) % 4),
        "0".repeat((4 - fraction.len() % 4) % 4)
    );
    let groups: Vec<i16> = padded
        .as_bytes()
        .chunks(4)
        .map(|group| group.iter().fold(0, |n, digit| n * 10 + i16::from(digit - b'0')))
        .collect();
    let first = groups.iter().position(|group| *group != 0).unwrap_or(groups.len());
    let last = groups.iter().rposition(|group| *group != 0).map_or(first, |last| last + 1);
    let n_whole = whole.len().div_ceil(4);
    let kept = &groups[first..last];
    let as_int16 = |n: usize| i16::try_from(n).unwrap_or(i16::MAX);
    out.put_i16(as_int16(kept.len()));
    out.put_i16(if kept.is_empty() { 0 } else { as_int16(n_whole) - as_int16(first) - 1 }); // weight of the first group
    out.put_i16(if is_negative && !kept.is_empty() { 0x4000 } else { 0 });
    out.put_i16(as_int16(fraction.len()));
    for group in kept {
        out.put_i16(*group);
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use arrow::array::*;

    use super::*;

    fn as_text(array: &dyn Array, row: usize) -> String {
        let mut out = BytesMut::new();
        text(array, row, Tz::from_str("+05:30").unwrap(), &mut out).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn as_binary(array: &dyn Array, row: usize) -> Vec<u8> {
        let mut out = BytesMut::new();
        binary(array, row, &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn floats_are_written_as_postgresql_does() {
        let values = [
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e15, "1e+15"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e300, "1e+300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        let array = Float64Array::from_iter_values(values.iter().map(|(value, _)| *value));
        for (row, (_, expected)) in values.iter().enumerate() {
            assert_eq!(as_text(&array, row), *expected);
        }
        let singles = Float32Array::from(vec![0.1, 1e6, 123_456.0]);
        assert_eq!((as_text(&singles, 0), as_text(&singles, 1)), ("0.1".to_owned(), "1e+06".to_owned()));
        assert_eq!(as_text(&singles, 2), "123456");
    }

    #[test]
    fn moments() {
        let dates = Date32Array::from(vec![0, 10_957, -719_163, 2_932_897]);
        let texts: Vec<String> = (0..4).map(|row| as_text(&dates, row)).collect();
        assert_eq!(texts, ["1970-01-01", "2000-01-01", "0001-12-31 BC", "10000-01-01"]);
        assert_eq!(as_binary(&dates, 1), [0; 4]);
        let moments = TimestampNanosecondArray::from(vec![946_684_800_500_000_000, -1]);
        assert_eq!(as_text(&moments, 0), "2000-01-01 00:00:00.5");
        assert_eq!(as_binary(&moments, 0), 500_000_i64.to_be_bytes());
        assert_eq!(as_text(&moments, 1), "1969-12-31 23:59:59.999999");
        let zoned = TimestampSecondArray::from(vec![946_684_800]).with_timezone("Europe/Berlin");
        assert_eq!(as_text(&zoned, 0), "2000-01-01 05:30:00+05:30");
        let times = Time64NanosecondArray::from(vec![3_723_000_001_000]);
        assert_eq!(as_text(&times, 0), "01:02:03.000001");
    }

    #[test]
    fn intervals() {
        let values = [(14, -3, 14_706_700_000_000), (0, 0, 0), (-1, 2, -1_000_000_000), (0, 1, 0)];
        let array = IntervalMonthDayNanoArray::from_iter_values(
            values.map(|(months, days, nanos)| IntervalMonthDayNano::new(months, days, nanos)),
        );
        let texts: Vec<String> = (0..4).map(|row| as_text(&array, row)).collect();
        assert_eq!(texts, ["1 year 2 mons -3 days +04:05:06.7", "00:00:00", "-1 mons +2 days -00:00:01", "1 day"]);
        assert_eq!(as_binary(&array, 3), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn numbers_of_any_size() {
        let numeric = |decimal: &str| {
            let mut out = BytesMut::new();
            put_numeric(decimal, &mut out);
            out.chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect::<Vec<_>>()
        };
        assert_eq!(numeric("0"), [0, 0, 0, 0]);
        assert_eq!(numeric("0.00"), [0, 0, 0, 2]);
        assert_eq!(numeric("-12345.678"), [3, 1, 0x4000, 3, 1, 2345, 6780]);
        assert_eq!(numeric("0.00001234"), [1, -2, 0, 8, 1234]);
        assert_eq!(numeric("10000"), [1, 1, 0, 0, 1]);
        assert_eq!(numeric("18446744073709551615"), [5, 4, 0, 0, 1844, 6744, 737, 955, 1615]);
        let decimals = Decimal128Array::from(vec![-5, 12_345]).with_precision_and_scale(38, 3).unwrap();
        assert_eq!((as_text(&decimals, 0), as_text(&decimals, 1)), ("-0.005".to_owned(), "12.345".to_owned()));
    }

    #[test]
    fn arrays() {
        let mut words = ListBuilder::new(StringBuilder::new());
        words.append_value([Some("a"), Some("b c"), None, Some(""), Some("null"), Some("\"\\")]);
        words.append_value(Vec::<Option<&str>>::new());
        let words = words.finish();
        assert_eq!(as_text(&words, 0), r#"{a,"b c",NULL,"","null","\"\\"}"#);
        assert_eq!(as_text(&words, 1), "{}");
        assert_eq!(as_binary(&words, 1), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25]);
        let fixed = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>([Some([Some(1.0), None])], 2);
        assert_eq!(as_text(&fixed, 0), "{1,NULL}");
        let expected = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 2, 188, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0x3f, 0x80, 0, 0];
        assert_eq!(as_binary(&fixed, 0)[..28], expected);
        assert_eq!(as_binary(&fixed, 0)[28..], [0xff; 4]);
        let large = LargeListArray::from_iter_primitive::<UInt32Type, _, _>([Some([Some(7)])]);
        assert_eq!(as_text(&large, 0), "{7}");
    }

    #[test]
    fn nested_values_are_json_in_both_formats() {
        let ids = ListArray::from_iter_primitive::<UInt32Type, _, _>([Some([Some(7)]), None]);
        let features = StructArray::from(vec![(
            Arc::new(Field::new("ids", ids.data_type().clone(), true)),
            Arc::new(ids) as ArrayRef,
        )]);
        let schema = Schema::new(vec![
            Field::new("features", features.data_type().clone(), true),
            Field::new("kind", DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)), true),
        ]);
        let kinds: DictionaryArray<Int8Type> = [Some("x"), None].into_iter().collect();
        let columns = super::super::types::columns(&schema);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(features), Arc::new(kinds)]).unwrap();
        let batch = plain(batch).unwrap();
        let options = json_options();
        let mut cells = Cells::new(&batch, &columns, &options, Tz::from_str("UTC").unwrap()).unwrap();
        let mut out = BytesMut::new();
        assert!(cells.put(0, 0, Format::Binary, &mut out).unwrap());
        assert!(cells.put(0, 1, Format::Text, &mut out).unwrap());
        assert!(cells.put(1, 0, Format::Text, &mut out).unwrap() && !cells.put(1, 1, Format::Text, &mut out).unwrap());
        assert_eq!(&out[..], b"{\"ids\":[7]}{\"ids\":null}x");
    }
}
