//! CSV (RFC 4180, lines end with a line feed) and TSV (the same with tabs). The header of TSV is in quotes, which tells an
//! import that quotes mean something in the file.

use arrow::array::{Array, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Schema};
use arrow::json::writer::{EncoderOptions, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::ResultWriter;
use super::json;
use crate::error::Result;

/// Writes delimited lines with a header. Null is the empty field, the empty text is `""`.
pub(super) struct SeparatedWriter {
    tabs: bool,
}

impl SeparatedWriter {
    pub(super) fn csv() -> Self {
        Self { tabs: false }
    }

    pub(super) fn tsv() -> Self {
        Self { tabs: true }
    }

    fn field(&self, text: &str, out: &mut Vec<u8>) {
        let separator = self.separator();
        if text.is_empty() || text.bytes().any(|byte| byte == separator || matches!(byte, b'"' | b'\n' | b'\r')) {
            quoted(text, out);
        } else {
            out.extend_from_slice(text.as_bytes());
        }
    }

    fn separator(&self) -> u8 {
        if self.tabs { b'\t' } else { b',' }
    }
}

fn quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

/// One column of a batch, ready to be written as text in full.
pub(super) enum Column<'a> {
    Plain(ArrayFormatter<'a>, Option<NullBuffer>),
    /// Lists and structs, as JSON.
    Nested(arrow::json::writer::NullableEncoder<'a>),
}

impl<'a> Column<'a> {
    /// The columns of a batch.
    pub(super) fn all(
        batch: &'a RecordBatch,
        display: &FormatOptions<'a>,
        options: &'a EncoderOptions,
    ) -> Result<Vec<Self>> {
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            columns.push(match is_nested(array.data_type()) {
                true => Column::Nested(make_encoder(field, array, options)?),
                // Logical: columns of type null, and dictionaries, keep their nulls elsewhere.
                false => Column::Plain(ArrayFormatter::try_new(array, display)?, array.logical_nulls()),
            });
        }
        Ok(columns)
    }

    /// Text of a value; nothing for null.
    pub(super) fn text(&mut self, row: usize) -> Result<Option<String>> {
        Ok(match self {
            Column::Plain(formatter, nulls) if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) => {
                Some(formatter.value(row).try_to_string()?)
            }
            Column::Nested(encoder) if !encoder.is_null(row) => {
                let mut cell = Vec::new();
                encoder.encode(row, &mut cell);
                Some(String::from_utf8_lossy(&cell).into_owned())
            }
            Column::Plain(..) | Column::Nested(_) => None,
        })
    }
}

impl ResultWriter for SeparatedWriter {
    fn start(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
        for (position, field) in schema.fields().iter().enumerate() {
            if position > 0 {
                out.push(self.separator());
            }
            match self.tabs {
                true => quoted(field.name(), out),
                false => self.field(field.name(), out),
            }
        }
        out.push(b'\n');
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let (display, options) = (FormatOptions::default(), json::options());
        let mut columns = Column::all(batch, &display, &options)?;
        for row in 0..batch.num_rows() {
            for (position, column) in columns.iter_mut().enumerate() {
                if position > 0 {
                    out.push(self.separator());
                }
                if let Some(text) = column.text(row)? {
                    self.field(&text, out);
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}

/// Whether values are lists, structs or maps.
pub(super) fn is_nested(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_nested(value),
        other => other.is_nested(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;
    use crate::output::Format;
    use crate::output::testing::{batch, written};

    #[test]
    fn csv_quotes_what_needs_it_and_keeps_full_precision() {
        let text = String::from_utf8(written(Format::Csv, &[batch()])).unwrap();
        assert_eq!(text, "n,text,ids,p_value\n1,\"a \"\"b\"\",\n\tc\\\",\"[1,2]\",0.000123456\n2,,,\n");
    }

    #[test]
    fn tsv_is_csv_with_tabs_and_a_quoted_header() {
        let text = String::from_utf8(written(Format::Tsv, &[batch()])).unwrap();
        let expected =
            "\"n\"\t\"text\"\t\"ids\"\t\"p_value\"\n1\t\"a \"\"b\"\",\n\tc\\\"\t[1,2]\t0.000123456\n2\t\t\t\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn empty_text_differs_from_null_in_csv() {
        let column: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None]));
        let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
        assert_eq!(written(Format::Tsv, &[batch.clone()]), b"\"a\"\n\"\"\n\n");
        assert_eq!(written(Format::Csv, &[batch]), b"a\n\"\"\n\n");
    }

    #[test]
    fn a_null_without_a_type_is_the_empty_field() {
        let (text, null): (ArrayRef, ArrayRef) =
            (Arc::new(StringArray::from(vec!["x"])), Arc::new(arrow::array::NullArray::new(1)));
        let batch = RecordBatch::try_from_iter([("a", text), ("n", null)]).unwrap();
        assert_eq!(written(Format::Csv, &[batch]), b"a,n\nx,\n");
    }
}
