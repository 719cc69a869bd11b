//! JSON Lines (an object a row), JSON (an array of these) and compact JSON (one object: columns with types, rows as arrays,
//! row_count).
//!
//! Integers are written in full (readers that keep numbers as doubles lose digits above 2^53), NaN and infinities as
//! null, timestamps as RFC 3339, binary as hexadecimal text, lists and structs as arrays and objects.

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};

use super::{About, ResultWriter};
use crate::error::Result;

/// Encoders of a batch's columns.
pub(super) fn encoders<'a>(batch: &'a RecordBatch, options: &'a EncoderOptions) -> Result<Vec<NullableEncoder<'a>>> {
    let fields: &'a [FieldRef] = batch.schema_ref().fields();
    let columns = fields.iter().zip(batch.columns());
    Ok(columns.map(|(field, column)| make_encoder(field, column, options)).collect::<Result<_, _>>()?)
}

/// Nulls inside of nested values are written, so that every row has the same shape.
pub(super) fn options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true)
}

/// Appends one value.
pub(super) fn put(encoder: &mut NullableEncoder<'_>, row: usize, out: &mut Vec<u8>) {
    if encoder.is_null(row) {
        out.extend_from_slice(b"null");
    } else {
        encoder.encode(row, out);
    }
}

/// A JSON string literal.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Rows as objects.
#[derive(Default)]
struct Objects {
    /// `"name":` of each column.
    keys: Vec<String>,
}

impl Objects {
    fn of(schema: &Schema) -> Self {
        Self { keys: schema.fields().iter().map(|field| format!("{}:", quoted(field.name()))).collect() }
    }

    /// Writes each row after `before`, which is told the number of rows of this batch that came already.
    fn rows(&self, batch: &RecordBatch, out: &mut Vec<u8>, mut before: impl FnMut(usize, &mut Vec<u8>)) -> Result<()> {
        let options = options();
        let mut encoders = encoders(batch, &options)?;
        for row in 0..batch.num_rows() {
            before(row, out);
            for (column, encoder) in encoders.iter_mut().enumerate() {
                out.push(if column == 0 { b'{' } else { b',' });
                out.extend_from_slice(self.keys[column].as_bytes());
                put(encoder, row, out);
            }
            out.extend_from_slice(if self.keys.is_empty() { b"{}" } else { b"}" });
        }
        Ok(())
    }
}

/// Writes an object a line.
#[derive(Default)]
pub(super) struct JsonLinesWriter(Objects);

impl ResultWriter for JsonLinesWriter {
    fn start(&mut self, schema: &Schema, _out: &mut Vec<u8>) -> Result<()> {
        self.0 = Objects::of(schema);
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        self.0.rows(batch, out, |row, out| {
            if row > 0 {
                out.push(b'\n');
            }
        })?;
        if batch.num_rows() > 0 {
            out.push(b'\n');
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}

/// Writes an array of objects, one a line.
#[derive(Default)]
pub(super) struct JsonWriter {
    objects: Objects,
    any: bool,
}

impl ResultWriter for JsonWriter {
    fn start(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
        self.objects = Objects::of(schema);
        out.push(b'[');
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let any = self.any;
        self.any |= batch.num_rows() > 0;
        self.objects.rows(batch, out, |row, out| out.extend_from_slice(if any || row > 0 { b",\n" } else { b"" }))
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(b"]\n");
        Ok(())
    }
}

/// Writes one object, row by row.
#[derive(Default)]
pub(super) struct CompactWriter {
    about: About,
    n_rows: u64,
}

impl ResultWriter for CompactWriter {
    fn start(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
        out.push(b'{');
        if let Some(query_id) = &self.about.query_id {
            out.extend_from_slice(format!("\"query_id\":{},", quoted(query_id)).as_bytes());
        }
        out.extend_from_slice(b"\"columns\":[");
        for (position, field) in schema.fields().iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            let (name, data_type) = (quoted(field.name()), quoted(&field.data_type().to_string()));
            let column = format!("{{\"name\":{name},\"type\":{data_type},\"nullable\":{}}}", field.is_nullable());
            out.extend_from_slice(column.as_bytes());
        }
        out.extend_from_slice(b"],\"rows\":[");
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let options = options();
        let mut encoders = encoders(batch, &options)?;
        for row in 0..batch.num_rows() {
            out.extend_from_slice(if self.n_rows == 0 { b"\n[" } else { b",\n[" });
            for (column, encoder) in encoders.iter_mut().enumerate() {
                if column > 0 {
                    out.push(b',');
                }
                put(encoder, row, out);
            }
            out.push(b']');
            self.n_rows += 1;
        }
        Ok(())
    }

    fn about(&mut self, about: &About) {
        self.about = about.clone();
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(format!("\n],\"row_count\":{}", self.n_rows).as_bytes());
        if let Some(elapsed_ms) = self.about.elapsed_ms {
            let end = format!(",\"truncated\":{},\"elapsed_ms\":{elapsed_ms:.3}", self.about.truncated);
            out.extend_from_slice(end.as_bytes());
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::output::Format;
    use crate::output::testing::{batch, written};

    #[test]
    fn json_lines_keep_types_and_nulls() {
        let text = String::from_utf8(written(Format::Jsonl, &[batch(), batch()])).unwrap();
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0]["text"], "a \"b\",\n\tc\\");
        assert_eq!(rows[0]["ids"], serde_json::json!([1, 2]));
        assert!(rows[1]["p_value"].is_null() && rows[1].as_object().unwrap().contains_key("ids"));
    }

    #[test]
    fn json_is_an_array_with_or_without_rows() {
        let value: serde_json::Value = serde_json::from_slice(&written(Format::Json, &[batch(), batch()])).unwrap();
        assert_eq!(value.as_array().unwrap().len(), 4);
        assert_eq!((&value[3]["n"], &value[3]["text"]), (&2.into(), &serde_json::Value::Null));
        assert_eq!(written(Format::Json, &[batch().slice(0, 0)]), b"[]\n");
    }

    #[test]
    fn compact_json_is_one_object_with_or_without_rows() {
        let read = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        let value = read(written(Format::JsonCompact, &[batch(), batch()]));
        assert_eq!(value["row_count"], 4);
        assert_eq!(value["columns"][0], serde_json::json!({"name": "n", "type": "Int64", "nullable": false}));
        assert_eq!(value["rows"][3][0], 2);
        assert!(value.get("query_id").is_none() && value.get("truncated").is_none());
        let empty = read(written(Format::JsonCompact, &[batch().slice(0, 0)]));
        assert_eq!((&empty["row_count"], &empty["rows"]), (&0.into(), &serde_json::json!([])));
        let mut writer = crate::output::writer(Format::JsonCompact, Default::default());
        let mut out = Vec::new();
        let about = crate::output::About { query_id: Some("q\"1".into()), truncated: true, elapsed_ms: Some(1.5) };
        writer.about(&about);
        writer.start(&batch().schema(), &mut out).unwrap();
        writer.about(&about);
        writer.finish(&mut out).unwrap();
        let told = read(out);
        assert_eq!((&told["query_id"], &told["truncated"]), (&"q\"1".into(), &true.into()));
    }
}
