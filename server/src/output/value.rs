//! One value as a person reads it in a table: rounded, on one line, nested values abbreviated.

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::Result;

/// Items of a list that are shown before "…".
const MAX_ITEMS: usize = 4;
/// Characters of a value that are looked at; longer values are cut anyway.
const MAX_CHARS: usize = 400;

/// How a column's numbers are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Probabilities of tests: three significant digits.
    Significant,
    /// So many digits after the point for the whole column, that it lines up.
    Decimals(usize),
}

impl Rounding {
    /// Chooses for a column: `p_value` and `q_value` get significant digits, others four digits in all for the largest
    /// finite value.
    pub fn of(name: &str, values: impl Iterator<Item = f64>) -> Self {
        if matches!(name, "p_value" | "q_value" | "p" | "q") {
            return Self::Significant;
        }
        let largest = values.filter(|value| value.is_finite()).fold(0.0_f64, |largest, value| largest.max(value.abs()));
        let digits_before = if largest >= 10.0 { largest.log10().floor() as usize + 1 } else { 1 };
        Self::Decimals(5_usize.saturating_sub(digits_before).max(1))
    }

    /// One number.
    pub fn number(self, value: f64) -> String {
        if !value.is_finite() {
            return if value.is_nan() {
                "NaN".into()
            } else if value > 0.0 {
                "inf".into()
            } else {
                "-inf".into()
            };
        }
        if value == 0.0 {
            return "0".into();
        }
        match self {
            Self::Significant if value.abs() >= 0.1 => format!("{value:.3}"),
            Self::Significant if value.abs() >= 0.001 => format!("{value:.4}"),
            Self::Significant => format!("{value:.2e}"),
            Self::Decimals(n) if value.abs() < 0.5 * 10_f64.powi(-(n as i32)) => format!("{value:.1e}"),
            Self::Decimals(_) if value.abs() >= 1e15 => format!("{value:.4e}"),
            Self::Decimals(n) => format!("{value:.n$}"),
        }
    }
}

/// The column as doubles, if it holds floating-point numbers.
///
/// # Errors
/// If the cast fails, which it does not for these types.
pub fn as_floats(column: &ArrayRef) -> Result<Option<ArrayRef>> {
    match column.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => Ok(Some(cast(column, &DataType::Float64)?)),
        _ => Ok(None),
    }
}

/// Whether a column of this type is aligned to the right.
pub fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

/// Text of the value at `row`; empty for null.
///
/// # Errors
/// If the type cannot be displayed.
pub fn text(column: &dyn Array, row: usize, rounding: Rounding) -> Result<String> {
    if column.is_null(row) {
        return Ok(String::new());
    }
    Ok(match column.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let one = cast(&column.slice(row, 1), &DataType::Float64)?;
            rounding.number(one.as_primitive::<Float64Type>().value(0))
        }
        DataType::List(_) => list(&column.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(&column.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(_, _) => list(&column.as_fixed_size_list().value(row))?,
        DataType::Struct(_) => structure(column.as_struct(), row)?,
        DataType::Utf8 => one_line(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => one_line(column.as_string::<i64>().value(row)),
        DataType::Utf8View => one_line(column.as_string_view().value(row)),
        _ => one_line(&ArrayFormatter::try_new(column, &FormatOptions::default())?.value(row).try_to_string()?),
    })
}

/// A struct: `12 features` for a features value, its label if it has one, else `name: value` pairs.
fn structure(column: &StructArray, row: usize) -> Result<String> {
    if let (2, Some(ids), Some(_)) =
        (column.num_columns(), column.column_by_name("ids"), column.column_by_name("activations"))
        && let Some(ids) = ids.as_list_opt::<i32>()
    {
        return Ok(if ids.is_null(row) { String::new() } else { format!("{} features", ids.value_length(row)) });
    }
    let short = Rounding::Decimals(3);
    if let Some(label) = column.column_by_name("label") {
        return text(label, row, short);
    }
    let mut parts = Vec::new();
    for (name, values) in column.column_names().iter().zip(column.columns()) {
        parts.push(format!("{name}: {}", text(values, row, short)?));
    }
    Ok(format!("{{{}}}", parts.join(", ")))
}

/// The first items of a list and how many there are.
fn list(items: &ArrayRef) -> Result<String> {
    let short = Rounding::Decimals(3);
    let mut parts = Vec::new();
    for row in 0..items.len().min(MAX_ITEMS) {
        parts.push(text(items, row, short)?);
    }
    let separator = if matches!(items.data_type(), DataType::Struct(_)) { "; " } else { ", " };
    let shown = parts.join(separator);
    Ok(match items.len() {
        n if n > MAX_ITEMS => format!("{shown}{separator}… ({n})"),
        _ => shown,
    })
}

/// Line feeds and other controls would break the table.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_CHARS));
    let mut gap = false;
    for character in text.chars().take(MAX_CHARS) {
        match character {
            '\n' => {
                line.push('↵');
                gap = true;
            }
            character if character.is_control() || character == ' ' => gap = true,
            character => {
                if gap && !line.is_empty() {
                    line.push(' ');
                }
                gap = false;
                line.push(character);
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float32Array, ListArray, StringArray, StructArray, UInt32Array};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    #[test]
    fn numbers_are_rounded_by_column() {
        assert_eq!(Rounding::of("q_value", [0.5].into_iter()), Rounding::Significant);
        assert_eq!(Rounding::of("x", [0.25, f64::NAN].into_iter()), Rounding::Decimals(4));
        assert_eq!(Rounding::of("x", [123.456].into_iter()), Rounding::Decimals(2));
        assert_eq!(Rounding::of("x", [1e9].into_iter()), Rounding::Decimals(1));
        assert_eq!(Rounding::Significant.number(1.23456e-8), "1.23e-8");
        assert_eq!(Rounding::Significant.number(0.04567), "0.0457");
        assert_eq!(Rounding::Decimals(4).number(0.00001), "1.0e-5");
        assert_eq!(Rounding::Decimals(4).number(-0.25), "-0.2500");
        assert_eq!(Rounding::Decimals(4).number(f64::NEG_INFINITY), "-inf");
    }

    #[test]
    fn nested_values_are_abbreviated() {
        let many = ListArray::from_iter_primitive::<Int32Type, _, _>([Some((1..=6).map(Some))]);
        assert_eq!(text(&many, 0, Rounding::Significant).unwrap(), "1, 2, 3, 4, … (6)");
        let labelled = StructArray::from(vec![
            (Arc::new(Field::new("id", DataType::UInt32, false)), Arc::new(UInt32Array::from(vec![7])) as ArrayRef),
            (Arc::new(Field::new("label", DataType::Utf8, false)), Arc::new(StringArray::from(vec!["apology"]))),
        ]);
        assert_eq!(text(&labelled, 0, Rounding::Significant).unwrap(), "apology");
        let plain = StructArray::from(vec![(
            Arc::new(Field::new("score", DataType::Float32, false)),
            Arc::new(Float32Array::from(vec![0.5])) as ArrayRef,
        )]);
        assert_eq!(text(&plain, 0, Rounding::Significant).unwrap(), "{score: 0.500}");
    }

    #[test]
    fn text_stays_on_one_line() {
        let column = StringArray::from(vec![Some("a\n- b\t\u{7}c  d"), None]);
        assert_eq!(text(&column, 0, Rounding::Significant).unwrap(), "a↵ - b c d");
        assert_eq!(text(&column, 1, Rounding::Significant).unwrap(), "");
    }
}
