//! `COPY ... TO STDOUT`: rows as text, CSV or PostgreSQL's binary format.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::error::{Result, Trouble};
use super::types::Column;
use super::value::{Cells, Format, sized};
use crate::sql_text::identifier;

/// What the binary format begins with: a signature, flags, and the length of what might follow them.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What is copied, as ranges of the statement's text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// The query in parentheses.
    Query(Range<usize>),
    /// A table, and those of its columns that are wanted.
    Table { table: Range<usize>, columns: Vec<String> },
}

/// How rows are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Text,
    Csv,
    Binary,
}

/// A `COPY`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Copy {
    source: Source,
    layout: Layout,
    header: bool,
    delimiter: Option<u8>,
    null: Option<String>,
    quote: Option<u8>,
    escape: Option<u8>,
    force_quote: bool,
}

impl Copy {
    /// With every default.
    pub(super) fn new(source: Source) -> Self {
        let (delimiter, null, quote, escape) = (None, None, None, None);
        Self { source, layout: Layout::Text, header: false, delimiter, null, quote, escape, force_quote: false }
    }

    /// The query that gives the rows; `sql` is the statement that was read.
    pub(super) fn statement(&self, sql: &str) -> String {
        match &self.source {
            Source::Query(range) => sql[range.clone()].to_owned(),
            Source::Table { table, columns } if columns.is_empty() => format!("SELECT * FROM {}", &sql[table.clone()]),
            Source::Table { table, columns } => {
                let columns: Vec<String> = columns.iter().map(|name| identifier(name)).collect();
                format!("SELECT {} FROM {}", columns.join(", "), &sql[table.clone()])
            }
        }
    }

    /// Where in the statement the query begins.
    pub(super) fn start(&self) -> usize {
        match &self.source {
            Source::Query(range) => range.start,
            Source::Table { table, .. } => table.start,
        }
    }

    /// Sets an option.
    ///
    /// # Errors
    /// For one that is unknown, or that cannot have this value.
    pub(super) fn option(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let bad = |expected: &str| {
            let got = value.unwrap_or("nothing");
            Trouble::new("22023", format!("COPY: {name}: expected {expected}, got '{got}'"))
        };
        let byte = || match value.map(str::as_bytes) {
            Some([byte]) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(Some(*byte)),
            _ => Err(bad("one ASCII character")),
        };
        match name {
            "format" => {
                self.layout = match value.map(str::to_lowercase).as_deref() {
                    Some("text") => Layout::Text,
                    Some("csv") => Layout::Csv,
                    Some("binary") => Layout::Binary,
                    _ => return Err(bad("text, csv or binary")),
                };
            }
            "header" => {
                self.header = match value.map(str::to_lowercase).as_deref() {
                    None | Some("true" | "on" | "1") => true,
                    Some("false" | "off" | "0") => false,
                    _ => return Err(bad("true or false")),
                };
            }
            "delimiter" => self.delimiter = byte()?,
            "quote" => self.quote = byte()?,
            "escape" => self.escape = byte()?,
            "null" => self.null = Some(value.unwrap_or_default().to_owned()),
            "force_quote" => self.force_quote = true,
            "encoding" => {
                if !matches!(value.map(str::to_lowercase).as_deref(), Some("utf8" | "utf-8" | "unicode")) {
                    return Err(bad("UTF8"));
                }
            }
            _ => return Err(Trouble::new("42601", format!("COPY: unknown option '{name}'"))),
        }
        Ok(())
    }

    /// Looks at all options together.
    ///
    /// # Errors
    /// For those that do not go together.
    pub(super) fn check(&self) -> Result<()> {
        let of_csv = self.quote.is_some() || self.escape.is_some() || self.force_quote;
        if of_csv && self.layout != Layout::Csv {
            return Err(Trouble::new("0A000", "COPY: QUOTE, ESCAPE and FORCE_QUOTE belong to FORMAT csv"));
        }
        if self.layout == Layout::Binary && (self.header || self.delimiter.is_some() || self.null.is_some()) {
            return Err(Trouble::new("0A000", "COPY: FORMAT binary takes no HEADER, DELIMITER and NULL"));
        }
        Ok(())
    }

    /// The format of values.
    pub(super) fn format(&self) -> Format {
        if self.layout == Layout::Binary { Format::Binary } else { Format::Text }
    }

    fn delimiter(&self) -> u8 {
        self.delimiter.unwrap_or(if self.layout == Layout::Csv { b',' } else { b'\t' })
    }

    /// Appends what comes before the rows.
    pub(super) fn begin(&self, columns: &[Column], out: &mut BytesMut) {
        if self.layout == Layout::Binary {
            out.put_slice(BINARY_HEADER);
        } else if self.header {
            for (i, column) in columns.iter().enumerate() {
                if i > 0 {
                    out.put_u8(self.delimiter());
                }
                self.value(column.name.as_bytes(), out);
            }
            out.put_u8(b'\n');
        }
    }

    /// Appends a row.
    ///
    /// # Errors
    /// For values that cannot be written.
    pub(super) fn row(&self, cells: &mut Cells<'_>, n: usize, row: usize, out: &mut BytesMut) -> Result<()> {
        if self.layout == Layout::Binary {
            out.put_i16(i16::try_from(n).unwrap_or(i16::MAX));
            for column in 0..n {
                sized(out, |out| cells.put(column, row, Format::Binary, out))?;
            }
            return Ok(());
        }
        let null = self.null.as_deref().unwrap_or(if self.layout == Layout::Csv { "" } else { "\\N" });
        let mut value = BytesMut::new();
        for column in 0..n {
            if column > 0 {
                out.put_u8(self.delimiter());
            }
            value.clear();
            if cells.put(column, row, Format::Text, &mut value)? {
                self.value(&value, out);
            } else {
                out.put_slice(null.as_bytes());
            }
        }
        out.put_u8(b'\n');
        Ok(())
    }

    /// Appends what comes after the rows.
    pub(super) fn end(&self, out: &mut BytesMut) {
        if self.layout == Layout::Binary {
            out.put_i16(-1);
        }
    }

    fn value(&self, value: &[u8], out: &mut BytesMut) {
        let delimiter = self.delimiter();
        if self.layout == Layout::Text {
            for byte in value {
                let escaped = match byte {
                    b'\n' => b'n',
                    b'\r' => b'r',
                    b'\t' => b't',
                    0x08 => b'b',
                    0x0b => b'v',
                    0x0c => b'f',
                    b'\\' => b'\\',
                    byte if *byte == delimiter => delimiter,
                    byte => {
                        out.put_u8(*byte);
                        continue;
                    }
                };
                out.put_slice(&[b'\\', escaped]);
            }
            return;
        }
        let quote = self.quote.unwrap_or(b'"');
        let escape = self.escape.unwrap_or(quote);
        let is_null = value == self.null.as_deref().unwrap_or("").as_bytes();
        let is_special = |byte: &u8| [delimiter, quote, b'\n', b'\r'].contains(byte);
        if self.force_quote || is_null || value == b"\\." || value.iter().any(is_special) {
            out.put_u8(quote);
            for byte in value {
                if *byte == quote || *byte == escape {
                    out.put_u8(escape);
                }
                out.put_u8(*byte);
            }
            out.put_u8(quote);
        } else {
            out.put_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(copy: &Copy, value: &str) -> String {
        let mut out = BytesMut::new();
        copy.value(value.as_bytes(), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn values_are_escaped_or_quoted() {
        let mut copy = Copy::new(Source::Query(0..0));
        assert_eq!(written(&copy, "a\tb\nc\\"), "a\\tb\\nc\\\\");
        copy.option("format", Some("csv")).unwrap();
        let expected = [("a,b", "\"a,b\""), ("say \"x\"", "\"say \"\"x\"\"\""), ("", "\"\""), ("plain", "plain")];
        for (value, csv) in expected {
            assert_eq!(written(&copy, value), csv);
        }
        copy.option("delimiter", Some(";")).unwrap();
        assert_eq!((written(&copy, "a,b").as_str(), written(&copy, "a;b").as_str()), ("a,b", "\"a;b\""));
        assert!(copy.option("delimiter", Some("ab")).is_err() && copy.option("freeze", None).is_err());
        copy.option("format", Some("binary")).unwrap();
        assert!(copy.check().is_err());
    }
}
