//! Record batches in, bytes of one format out. The command line and HTTP write with the same code.

mod columnar;
mod json;
mod markdown;
mod separated;
pub mod sink;
pub mod table;
pub mod value;

use std::path::Path;
use std::str::FromStr;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use crate::error::{Failure, Result};

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for people; numbers are rounded and long text is cut.
    Table,
    /// Comma-separated with a header; nested values as JSON.
    Csv,
    /// Tab-separated with a header; tab, line feed, carriage return and backslash as \t, \n, \r, \\.
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// A JSON array of one object a row.
    Json,
    /// One JSON object: columns with types, rows as arrays, row_count.
    #[value(name = "json_compact")]
    JsonCompact,
    /// A table in GitHub's Markdown, every value in full.
    Markdown,
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow IPC: a stream, or the file format with `--output FILE.arrow`.
    Arrow,
}

impl Format {
    /// Every format, in the order of the help.
    pub const ALL: [Format; 9] = [
        Format::Table,
        Format::Csv,
        Format::Tsv,
        Format::Jsonl,
        Format::Json,
        Format::JsonCompact,
        Format::Markdown,
        Format::Parquet,
        Format::Arrow,
    ];

    /// The names of all formats.
    pub fn names() -> String {
        Format::ALL.map(Format::as_str).join(", ")
    }

    /// Name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Jsonl => "jsonl",
            Format::Json => "json",
            Format::JsonCompact => "json_compact",
            Format::Markdown => "markdown",
            Format::Parquet => "parquet",
            Format::Arrow => "arrow",
        }
    }

    /// Media type for HTTP.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Table => "text/plain; charset=utf-8",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Tsv => "text/tab-separated-values; charset=utf-8",
            Format::Jsonl => "application/x-ndjson",
            Format::Json => "application/json",
            Format::JsonCompact => "application/vnd.saequel.sql.v1+json",
            Format::Markdown => "text/markdown; charset=utf-8",
            Format::Parquet => "application/vnd.apache.parquet",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// Whether a terminal cannot show it.
    pub fn is_binary(self) -> bool {
        matches!(self, Format::Parquet | Format::Arrow)
    }

    /// The format that a file name asks for.
    pub fn of_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "csv" => Format::Csv,
            "tsv" | "tab" => Format::Tsv,
            "jsonl" | "ndjson" => Format::Jsonl,
            "json" => Format::Json,
            "md" | "markdown" => Format::Markdown,
            "parquet" | "pq" => Format::Parquet,
            "arrow" | "arrows" | "ipc" | "feather" => Format::Arrow,
            "txt" => Format::Table,
            _ => return None,
        })
    }
}

impl FromStr for Format {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self> {
        let wanted = name.trim().to_ascii_lowercase();
        let wanted = match wanted.as_str() {
            "ndjson" => "jsonl",
            "text" | "pretty" => "table",
            "json-compact" => "json_compact",
            "md" => "markdown",
            other => other,
        };
        Format::ALL
            .into_iter()
            .find(|format| format.as_str() == wanted)
            .ok_or_else(|| Failure::usage(format!("unknown format '{name}'; expected one of {}", Format::names())))
    }
}

/// What is known of a result besides its columns and rows; [`Format::JsonCompact`] says it.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Id of the query.
    pub query_id: Option<String>,
    /// Whether rows were left out because of a limit; told before [`ResultWriter::finish`].
    pub truncated: bool,
    /// Time until then; told before [`ResultWriter::finish`].
    pub elapsed_ms: Option<f64>,
}

/// Writes one result. Calls come in the order `start`, any number of `batch`, `finish`; each appends to `out` what is
/// ready, so that memory stays bounded by one batch (Parquet: one row group; table: the rows that decide the widths).
pub trait ResultWriter: Send {
    /// Begins a result with these columns.
    ///
    /// # Errors
    /// If the format cannot hold a column's type.
    fn start(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<()>;

    /// Writes rows.
    ///
    /// # Errors
    /// If a value cannot be written.
    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()>;

    /// Takes what is known of the result, before [`Self::start`] and again before [`Self::finish`]; most formats have no
    /// place for it.
    fn about(&mut self, about: &About) {
        let _ = about;
    }

    /// Ends the result.
    ///
    /// # Errors
    /// If the end cannot be written.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()>;
}

/// The writer of a format. `layout` is used by [`Format::Table`] alone.
pub fn writer(format: Format, layout: table::Layout) -> Box<dyn ResultWriter> {
    match format {
        Format::Table => Box::new(table::TableWriter::new(layout)),
        Format::Csv => Box::new(separated::SeparatedWriter::csv()),
        Format::Tsv => Box::new(separated::SeparatedWriter::tsv()),
        Format::Jsonl => Box::new(json::JsonLinesWriter::default()),
        Format::Json => Box::new(json::JsonWriter::default()),
        Format::JsonCompact => Box::new(json::CompactWriter::default()),
        Format::Markdown => Box::new(markdown::MarkdownWriter),
        Format::Parquet => Box::new(columnar::ParquetWriter::default()),
        Format::Arrow => Box::new(columnar::ArrowStreamWriter::default()),
    }
}

/// The writer of the Arrow IPC file format, which is what a `.arrow` file holds.
pub fn arrow_file_writer() -> Box<dyn ResultWriter> {
    Box::new(columnar::ArrowFileWriter::default())
}

#[cfg(test)]
pub(crate) mod testing {
    //! Small results that several formats' tests share.

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray, UInt32Builder};

    use super::{Format, table::Layout, writer};

    /// Two rows: number, text with every awkward character, list, p-value, all null in the second but the number.
    pub(crate) fn batch() -> RecordBatch {
        let mut list = ListBuilder::new(UInt32Builder::new());
        list.append_value([Some(1), Some(2)]);
        list.append_null();
        RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            ("text", Arc::new(StringArray::from(vec![Some("a \"b\",\n\tc\\"), None]))),
            ("ids", Arc::new(list.finish())),
            ("p_value", Arc::new(Float64Array::from(vec![Some(0.000123456), None]))),
        ])
        .unwrap()
    }

    /// What a format writes for `batches` of one schema.
    pub(crate) fn written(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
        let mut writer = writer(format, Layout::default());
        let mut out = Vec::new();
        writer.start(&batches[0].schema(), &mut out).unwrap();
        for batch in batches {
            writer.batch(batch, &mut out).unwrap();
        }
        writer.finish(&mut out).unwrap();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_extensions() {
        for format in Format::ALL {
            assert_eq!(format.as_str().parse::<Format>().unwrap(), format);
        }
        assert_eq!("NDJSON".parse::<Format>().unwrap(), Format::Jsonl);
        assert_eq!("json-compact".parse::<Format>().unwrap(), Format::JsonCompact);
        assert!("xml".parse::<Format>().unwrap_err().to_string().contains("jsonl"));
        assert_eq!(Format::of_path(Path::new("a/b.PARQUET")), Some(Format::Parquet));
        assert_eq!(Format::of_path(Path::new("b.xyz")), None);
    }
}
