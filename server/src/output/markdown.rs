//! A table in GitHub's Markdown: what a chat, a wiki or a language model reads. Values are written in full.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::util::display::FormatOptions;

use super::separated::Column;
use super::{ResultWriter, json, value};
use crate::error::Result;

/// Writes one row a line.
pub(super) struct MarkdownWriter;

/// A cell cannot hold a line feed or a bar; what Markdown or a browser would take for markup is escaped.
fn cell(text: &str, out: &mut Vec<u8>) {
    for character in text.trim().chars() {
        match character {
            '|' | '\\' | '*' | '_' | '`' | '[' | ']' => {
                out.push(b'\\');
                out.push(character as u8);
            }
            '<' => out.extend_from_slice(b"&lt;"),
            '&' => out.extend_from_slice(b"&amp;"),
            '\n' => out.extend_from_slice(b"<br>"),
            character if character.is_control() => out.push(b' '),
            character => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

impl ResultWriter for MarkdownWriter {
    fn start(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
        if schema.fields().is_empty() {
            return Ok(());
        }
        for field in schema.fields() {
            out.extend_from_slice(b"| ");
            cell(field.name(), out);
            out.push(b' ');
        }
        out.extend_from_slice(b"|\n");
        for field in schema.fields() {
            out.extend_from_slice(if value::is_number(field.data_type()) { b"|---:" } else { b"|---" });
        }
        out.extend_from_slice(b"|\n");
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        if batch.num_columns() == 0 {
            return Ok(());
        }
        let (display, options) = (FormatOptions::default(), json::options());
        let mut columns = Column::all(batch, &display, &options)?;
        for row in 0..batch.num_rows() {
            for column in &mut columns {
                out.extend_from_slice(b"| ");
                cell(&column.text(row)?.unwrap_or_default(), out);
                out.push(b' ');
            }
            out.extend_from_slice(b"|\n");
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};

    use crate::output::Format;
    use crate::output::testing::{batch, written};

    #[test]
    fn a_row_stays_a_line() {
        let text = String::from_utf8(written(Format::Markdown, &[batch()])).unwrap();
        let expected = "| n | text | ids | p\\_value |\n|---:|---|---|---:|\n\
                        | 1 | a \"b\",<br> c\\\\ | \\[1,2\\] | 0.000123456 |\n| 2 |  |  |  |\n";
        assert_eq!(text, expected);
        let awkward: ArrayRef = Arc::new(StringArray::from(vec!["a|b <script> **x** & `y`"]));
        let batch = RecordBatch::try_from_iter([("x", awkward)]).unwrap();
        let text = String::from_utf8(written(Format::Markdown, &[batch])).unwrap();
        assert!(text.ends_with("| a\\|b &lt;script> \\*\\*x\\*\\* &amp; \\`y\\` |\n"), "{text}");
    }
}
