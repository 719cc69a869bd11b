//! Aligned columns for people.
//!
//! The first rows decide the widths; the rest streams with them. Where the terminal is too narrow, text columns shrink
//! first, then the least telling columns are left out and named below the table.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Schema};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::ResultWriter;
use super::value::{self, Rounding};
use crate::error::Result;

/// Rows that decide the widths.
const SAMPLE_ROWS: usize = 500;
/// Columns between two columns.
const GAP: usize = 2;
/// To this a text column may shrink before columns are left out.
const NARROWEST_TEXT: usize = 16;
/// A text column in a result without a total width.
const WIDEST_TEXT: usize = 60;
/// Columns that are left out first, in this order.
const LESSER_COLUMNS: [&str; 18] = [
    "odds_ratio",
    "log_odds",
    "ci_low",
    "ci_high",
    "level",
    "p_value",
    "feature_a",
    "feature_b",
    "p_a_given_b",
    "p_b_given_a",
    "docs_a",
    "docs_b",
    "n_spans",
    "fvu",
    "explained",
    "n_tokens",
    "members",
    "also_in_words",
];

/// Room that there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Layout {
    /// Columns of the terminal; `None` where nothing limits the line.
    pub width: Option<usize>,
}

/// Writes a table.
pub struct TableWriter {
    layout: Layout,
    waiting: Vec<RecordBatch>,
    n_waiting: usize,
    columns: Option<Vec<Column>>,
    names: Vec<String>,
    hidden: Vec<String>,
}

/// A column that is shown.
#[derive(Debug, Clone)]
struct Column {
    index: usize,
    name: String,
    right: bool,
    rounding: Rounding,
    width: usize,
}

impl TableWriter {
    /// A table that fits `layout`.
    pub fn new(layout: Layout) -> Self {
        Self { layout, waiting: Vec::new(), n_waiting: 0, columns: None, names: Vec::new(), hidden: Vec::new() }
    }

    /// Decides the widths by the rows that wait, writes the header and these rows.
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let (columns, hidden) = arrange(&waiting, &self.names, self.layout)?;
        self.hidden = hidden;
        let header: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        line(&columns, &header, out);
        let rule: Vec<String> = columns.iter().map(|column| "─".repeat(column.width)).collect();
        line(&columns, &rule, out);
        for batch in &waiting {
            rows(&columns, batch, out)?;
        }
        self.columns = Some(columns);
        Ok(())
    }
}

impl ResultWriter for TableWriter {
    fn start(&mut self, schema: &Schema, _out: &mut Vec<u8>) -> Result<()> {
        self.names = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        match &self.columns {
            Some(columns) => rows(columns, batch, out),
            None => {
                self.n_waiting += batch.num_rows();
                self.waiting.push(batch.clone());
                if self.n_waiting < SAMPLE_ROWS { Ok(()) } else { self.begin(out) }
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.columns.is_none() {
            self.begin(out)?;
        }
        if !self.hidden.is_empty() {
            let names = self.hidden.join(", ");
            out.extend_from_slice(format!("(not shown for lack of room: {names})\n").as_bytes());
        }
        Ok(())
    }
}

/// Which columns are shown and how wide; and the names of the others.
fn arrange(sample: &[RecordBatch], names: &[String], layout: Layout) -> Result<(Vec<Column>, Vec<String>)> {
    let mut columns = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let mut column = Column {
            index,
            name: name.clone(),
            right: false,
            rounding: Rounding::Significant,
            width: name.width().max(1),
        };
        let mut numbers = Vec::new();
        for batch in sample {
            column.right = value::is_number(batch.column(index).data_type());
            if let Some(floats) = value::as_floats(batch.column(index))? {
                numbers.extend(floats.as_primitive::<Float64Type>().iter().flatten());
            }
        }
        column.rounding = Rounding::of(name, numbers.into_iter());
        for batch in sample {
            for row in 0..batch.num_rows() {
                let text = value::text(batch.column(index), row, column.rounding)?;
                column.width = column.width.max(text.width());
            }
        }
        if layout.width.is_none() && !column.right {
            column.width = column.width.min(WIDEST_TEXT.max(name.width()));
        }
        columns.push(column);
    }
    let mut hidden = Vec::new();
    if let Some(width) = layout.width {
        while columns.len() > 1 && total(&columns, NARROWEST_TEXT) > width {
            let last = columns.len() - 1;
            let lesser = LESSER_COLUMNS.iter().find_map(|name| columns.iter().position(|column| column.name == *name));
            hidden.push(columns.remove(lesser.unwrap_or(last)).name);
        }
        shrink(&mut columns, width);
    }
    Ok((columns, hidden))
}

/// Width of a line if text columns are at most `cap` wide.
fn total(columns: &[Column], cap: usize) -> usize {
    let widths = columns.iter().map(|column| if column.right { column.width } else { column.width.min(cap) });
    widths.sum::<usize>() + GAP * columns.len().saturating_sub(1)
}

/// Narrows text columns, the widest first, until a line fits.
fn shrink(columns: &mut [Column], width: usize) {
    let widest = columns.iter().map(|column| column.width).max().unwrap_or(0);
    let cap = (1..=widest).rev().find(|cap| total(columns, *cap) <= width).unwrap_or(NARROWEST_TEXT);
    for column in columns.iter_mut().filter(|column| !column.right) {
        column.width = column.width.min(cap);
    }
}

/// Writes rows.
fn rows(columns: &[Column], batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    for row in 0..batch.num_rows() {
        let mut cells = Vec::with_capacity(columns.len());
        for column in columns {
            cells.push(value::text(batch.column(column.index), row, column.rounding)?);
        }
        line(columns, &cells, out);
    }
    Ok(())
}

/// Writes one line.
fn line(columns: &[Column], cells: &[String], out: &mut Vec<u8>) {
    let mut text = String::new();
    for (column, cell) in columns.iter().zip(cells) {
        if !text.is_empty() {
            text.push_str(&" ".repeat(GAP));
        }
        // A number is never cut: a wrong number is worse than a crooked line.
        let cell = if column.right { cell.clone() } else { cut(cell, column.width) };
        let padding = " ".repeat(column.width.saturating_sub(cell.width()));
        match column.right {
            true => text.extend([padding.as_str(), &cell]),
            false => text.extend([cell.as_str(), &padding]),
        }
    }
    out.extend_from_slice(text.trim_end().as_bytes());
    out.push(b'\n');
}

/// Cuts `text` to `width` columns of a terminal; what is cut ends in "…".
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for character in text.chars() {
        let wide = character.width().unwrap_or(0);
        if used + wide + 1 > width {
            break;
        }
        used += wide;
        kept.push(character);
    }
    kept.truncate(kept.trim_end().len());
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

    use super::*;
    use crate::output::testing::batch;

    fn table(batches: &[RecordBatch], width: Option<usize>) -> String {
        let mut writer = TableWriter::new(Layout { width });
        let mut out = Vec::new();
        writer.start(&batches[0].schema(), &mut out).unwrap();
        for batch in batches {
            writer.batch(batch, &mut out).unwrap();
        }
        writer.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up() {
        let expected = "\
n  text        ids    p_value
─  ──────────  ────  ────────
1  a \"b\",↵ c\\  1, 2  1.23e-4
2
";
        let got = table(&[batch()], None);
        assert_eq!(got.lines().count(), 4, "{got}");
        for (got, expected) in got.lines().zip(expected.lines()) {
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            if !expected.starts_with('─') {
                assert_eq!(words(got), words(expected), "{got}");
            }
        }
        let widths: Vec<usize> = got.lines().take(3).map(UnicodeWidthStr::width).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{got}");
    }

    #[test]
    fn a_narrow_terminal_shrinks_text_then_leaves_columns_out() {
        let long = "word ".repeat(100);
        let batch = RecordBatch::try_from_iter([
            ("label", Arc::new(StringArray::from(vec![long.as_str()])) as ArrayRef),
            ("difference", Arc::new(Float64Array::from(vec![0.25]))),
            ("odds_ratio", Arc::new(Float64Array::from(vec![2.0]))),
            ("docs_a", Arc::new(Int64Array::from(vec![123_456_789]))),
        ])
        .unwrap();
        let wide = table(std::slice::from_ref(&batch), Some(100));
        assert!(wide.lines().all(|line| line.width() <= 100), "{wide}");
        assert!(wide.contains("odds_ratio") && wide.contains('…'), "{wide}");
        let narrow = table(&[batch], Some(42));
        assert!(narrow.lines().take(3).all(|line| line.width() <= 42), "{narrow}");
        assert!(narrow.contains("(not shown for lack of room: odds_ratio)"), "{narrow}");
        assert!(narrow.contains("123456789"), "{narrow}");
    }

    #[test]
    fn a_long_result_streams() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..400));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let mut writer = TableWriter::new(Layout::default());
        let mut out = Vec::new();
        writer.start(&batch.schema(), &mut out).unwrap();
        writer.batch(&batch, &mut out).unwrap();
        assert!(out.is_empty());
        writer.batch(&batch, &mut out).unwrap();
        let after_sample = out.len();
        assert!(after_sample > 0);
        writer.batch(&batch, &mut out).unwrap();
        assert!(out.len() > after_sample && writer.waiting.is_empty());
    }

    #[test]
    fn wide_characters_count_double() {
        assert_eq!(cut("日本語テキスト", 7), "日本語…");
        assert_eq!(cut("short", 7), "short");
        assert_eq!(cut("a longer text", 9), "a longer…");
    }
}
