//! What functions of values give: moments in another time zone, bounds and contents of arrays, sizes.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, StringArray, StringBuilder, TimestampMicrosecondArray, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Duration, NaiveDateTime, Offset, TimeZone};
use datafusion::error::{DataFusionError, Result};

use super::{Call, quoted};
use crate::postgres::settings::zone_of;

/// What `timezone(zone, moment)` gives: the clock of a zone for a moment, a moment for a clock.
pub(super) fn moment_type(arguments: &[DataType]) -> DataType {
    let zone = matches!(arguments.get(1), Some(DataType::Timestamp(_, None))).then(|| "UTC".into());
    DataType::Timestamp(TimeUnit::Microsecond, zone)
}

/// `moment AT TIME ZONE zone`
pub(super) fn timezone(call: &Call<'_>) -> Result<ArrayRef> {
    let Some(moments) = call.arguments.get(1) else {
        let message = "timezone: expected a zone and a timestamp, got one argument; write timezone('UTC', now())";
        return Err(DataFusionError::Plan(message.to_owned()));
    };
    let is_clock = matches!(moments.data_type(), DataType::Timestamp(_, None));
    let zone = (!is_clock).then(|| "UTC".into());
    let moments = cast(moments, &DataType::Timestamp(TimeUnit::Microsecond, zone))?;
    let moments = moments.as_primitive::<TimestampMicrosecondType>();
    let names = call.text(0)?;
    let mut known: Option<(&str, Tz)> = None;
    let mut moved = TimestampMicrosecondArray::builder(moments.len());
    for (name, micros) in names.iter().zip(moments.iter()) {
        let (Some(name), Some(micros)) = (name, micros) else {
            moved.append_null();
            continue;
        };
        let zone = match known {
            Some((last, zone)) if last == name => zone,
            _ => zone_of(&east(name))
                .ok_or_else(|| DataFusionError::Plan(format!("time zone \"{name}\" not recognized")))?,
        };
        known = Some((name, zone));
        let out = || DataFusionError::Execution(format!("timezone: {micros} microseconds are out of range"));
        let clock = DateTime::from_timestamp_micros(micros).ok_or_else(out)?.naive_utc();
        let seconds = if is_clock { -local_offset(zone, clock) } else { offset(zone, clock) };
        moved.append_value(micros.checked_add(seconds * 1_000_000).ok_or_else(out)?);
    }
    let moved = moved.finish();
    Ok(Arc::new(if is_clock { moved.with_timezone("UTC") } else { moved }))
}

/// A number of hours is one to the west here, as POSIX has it, and to the east in `SET TIME ZONE`.
fn east(zone: &str) -> String {
    let hours = |sign: &str| zone.strip_prefix(sign).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    match (hours("+"), hours("-")) {
        (Some(hours), _) => format!("-{hours}"),
        (_, Some(hours)) => format!("+{hours}"),
        _ => zone.to_owned(),
    }
}

/// Seconds that the clock of `zone` is ahead of UTC at a moment.
fn offset(zone: Tz, utc: NaiveDateTime) -> i64 {
    i64::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc())
}

/// The same when the clock shows `clock`; in an hour that is left out, what held before it.
fn local_offset(zone: Tz, clock: NaiveDateTime) -> i64 {
    let at = |clock: NaiveDateTime| zone.offset_from_local_datetime(&clock).latest();
    let found = at(clock).or_else(|| at(clock - Duration::hours(3)));
    found.map_or(0, |offset| i64::from(offset.fix().local_minus_utc()))
}

/// An array without items in the place of a null.
pub(super) fn or_empty(call: &Call<'_>) -> Result<ArrayRef> {
    let Some(array) = call.arguments.first() else { return call.nulls(&super::texts_type()) };
    let DataType::List(item) = array.data_type() else { return Ok(Arc::clone(array)) };
    let lists = array.as_list::<i32>();
    let length = |row: usize| if lists.is_null(row) { 0 } else { lists.value_length(row) };
    let mut places = Vec::new();
    for row in 0..lists.len() {
        let start = lists.value_offsets()[row];
        places.extend((start..start + length(row)).map(i32::cast_unsigned));
    }
    let lengths = (0..lists.len()).map(|row| usize::try_from(length(row)).unwrap_or(0));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let values = take(lists.values(), &UInt32Array::from(places), None)?;
    Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, values, None)?))
}

/// Bounds of an array in its first dimension.
pub(super) fn bounds(call: &Call<'_>, of: fn(i64) -> Option<i64>) -> Result<ArrayRef> {
    let Some(array) = call.arguments.first() else { return call.nulls(&DataType::Int64) };
    let dimension = call.number(1)?;
    let lists = match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().clone(),
        DataType::Null => return call.nulls(&DataType::Int64),
        _ => return call.nulls(&DataType::Int64),
    };
    let length = |row: usize| {
        let first = dimension.is_empty() || (dimension.is_valid(row) && dimension.value(row) == 1);
        if lists.is_null(row) || !first { None } else { of(i64::from(lists.value_length(row))) }
    };
    Ok(Arc::new((0..lists.len()).map(length).collect::<Int64Array>()))
}

/// `format('%s of %I', 1, 'Table')`: values as text (`%s`), as a name (`%I`), as a literal (`%L`).
pub(super) fn format(call: &Call<'_>) -> Result<ArrayRef> {
    let texts: Vec<StringArray> = (0..call.arguments.len()).map(|at| call.text(at)).collect::<Result<_>>()?;
    let Some((formats, values)) = texts.split_first() else { return call.same_text(None) };
    let mut made = StringBuilder::new();
    for row in 0..formats.len() {
        if formats.is_null(row) {
            made.append_null();
            continue;
        }
        let (mut text, mut values) = (String::new(), values.iter());
        let mut letters = formats.value(row).chars();
        while let Some(letter) = letters.next() {
            let kind = match letter {
                '%' => letters.next(),
                other => {
                    text.push(other);
                    continue;
                }
            };
            if kind == Some('%') {
                text.push('%');
                continue;
            }
            let wrong = |what: &str| DataFusionError::Plan(format!("format: {what} in '{}'", formats.value(row)));
            let value = values.next().ok_or_else(|| wrong("too few arguments for what stands"))?;
            let value = value.is_valid(row).then(|| value.value(row));
            match (kind, value) {
                (Some('s'), value) => text.push_str(value.unwrap_or_default()),
                (Some('I'), Some(value)) => text.push_str(&quoted(value)),
                (Some('L'), Some(value)) => text.push_str(&format!("'{}'", value.replace('\'', "''"))),
                (Some('L'), None) => text.push_str("NULL"),
                (Some('I'), None) => return Err(wrong("a null for %I")),
                _ => return Err(wrong("expected %s, %I, %L or %% after each %")),
            }
        }
        made.append_value(text);
    }
    Ok(Arc::new(made.finish()))
}

/// `10 kB`
pub(super) fn size_pretty(call: &Call<'_>) -> Result<ArrayRef> {
    call.texts_of(0, |bytes| {
        let mut size = bytes;
        for unit in ["bytes", "kB", "MB", "GB"] {
            if size.abs() < 10_240 {
                return Some(format!("{size} {unit}"));
            }
            size /= 1024;
        }
        Some(format!("{size} TB"))
    })
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn clocks_of_a_zone() {
        let zone = Tz::from_str("Europe/Berlin").unwrap();
        let at = |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
        assert_eq!((offset(zone, at("2024-01-01 00:30")), offset(zone, at("2024-07-01 00:30"))), (3600, 7200));
        assert_eq!(local_offset(zone, at("2024-07-01 00:30")), 7200);
        // The hour that summer leaves out, and the one that autumn has twice.
        assert_eq!(local_offset(zone, at("2024-03-31 02:30")), 3600);
        assert_eq!(local_offset(zone, at("2024-10-27 02:30")), 3600);
        assert_eq!(["+02", "-3.5", "UTC", "+x"].map(east), ["-02", "+3.5", "UTC", "+x"]);
    }
}
