//! Sources without types, record by record: CSV and TSV, JSON and JSON lines, plain-text files.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::infer::{Cell, Kind};
use super::source::{Format, Input, cannot_read};
use crate::engine::ImportSource;
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::json::with_long_numbers_quoted;

/// One record.
#[derive(Debug)]
pub(super) struct Record {
    /// Number in the source, from 1; records that cannot be read count, too.
    pub(super) row: u64,
    /// Line on which it begins, from 1; 0 if lines mean nothing.
    pub(super) line: u64,
    /// Beside [`Records::columns`]; may be shorter.
    pub(super) cells: Vec<Option<Cell>>,
}

/// Why there is no next record.
pub(super) enum Trouble {
    /// This record cannot be read; the next ones can.
    Record(Error),
    /// This record is never read, whatever the user asked for; the reason is reported.
    LeftOut(String),
    /// Nothing can be read any more.
    Fatal(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Record(error) | Trouble::Fatal(error) => error,
            Trouble::LeftOut(reason) => Self::new(ErrorKind::Data, reason),
        }
    }
}

/// A source of records.
pub(super) trait Records: Send {
    /// Columns met so far; more may come with further records, none goes.
    fn columns(&self) -> &[String];

    /// The next record; `None` at the end.
    fn next(&mut self) -> Result<Option<Record>, Trouble>;
}

type Source = BufReader<Box<dyn Read + Send>>;

/// Longest record, bytes: a file in another format, or with a quote too few, is not read into memory as a whole.
const LONGEST_RECORD: u64 = if cfg!(test) { 1 << 20 } else { 256 << 20 };

/// The way out for JSON that is not one object a line.
const WHOLE_JSON: &str = "if the file is JSON over several lines or one array, name the format json";

/// [`LONGEST_RECORD`] in words.
fn longest() -> String {
    format!("{} MiB", LONGEST_RECORD >> 20)
}

fn data_error(message: String) -> Trouble {
    Trouble::Record(Error::new(ErrorKind::Data, message))
}

/// The message for a text that is not UTF-8: which byte, and the way out.
fn not_utf8(place: &str, bytes: &[u8], error: std::str::Utf8Error) -> Trouble {
    let at = error.valid_up_to();
    let byte = bytes.get(at).copied().unwrap_or_default();
    data_error(format!(
        "{place}: byte {} (0x{byte:02x}) is not valid UTF-8; convert the file (for example iconv -f WINDOWS-1252 -t \
         UTF-8) or set such rows aside",
        at + 1
    ))
}

/// What stands alone on the line that [`Marked`] puts behind a file: neither a separator nor a quote.
const MARK: &[u8] = b".";

/// A file and, behind it, a line with [`MARK`]: a record of its own, unless a quote that is open at the end of the file
/// takes it in. The csv library itself reads an open quote as if it were closed there.
struct Marked<R> {
    inner: R,
    /// What is still to be given of the line at the end, with the line break before it.
    mark: &'static [u8],
    ended: bool,
    /// Bytes given so far.
    given: u64,
}

impl<R: Read> Read for Marked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut n = if self.ended { 0 } else { self.inner.read(buffer)? };
        if n == 0 {
            self.ended = true;
            n = self.mark.read(buffer)?;
        }
        self.given += n as u64;
        Ok(n)
    }
}

/// The limit is set anew for each record.
type CsvReader = csv::Reader<Marked<io::Take<Source>>>;

/// CSV with a header line.
pub(super) struct Csv {
    name: String,
    reader: CsvReader,
    columns: Vec<String>,
    /// Whether lines end with a carriage return and a line feed; the csv library ends a record between the two.
    crlf: bool,
    /// Whether `"` is a character like others.
    plain_quotes: bool,
    record: csv::ByteRecord,
    row: u64,
}

impl Csv {
    /// `tabs`: fields are separated by tabs; otherwise by the one of `,` `;` `|` and tab that the header has most of.
    ///
    /// In TSV a quote is a character like others, unless the first field of the header is quoted.
    pub(super) fn open(mut input: Input, tabs: bool) -> Result<Self> {
        input.skip_byte_order_mark()?;
        let first = input.first_bytes()?;
        let delimiter = if tabs { b'\t' } else { delimiter(first) };
        let crlf = first.split(|byte| *byte == b'\n').next().is_some_and(|line| line.ends_with(b"\r"));
        let field = first.split(|byte| b"\t\r\n".contains(byte)).next().unwrap_or_default();
        let plain_quotes = tabs && !(field.len() > 1 && field.starts_with(b"\"") && field.ends_with(b"\""));
        let mut builder = csv::ReaderBuilder::new();
        builder.delimiter(delimiter).flexible(true).quoting(!plain_quotes);
        let name = input.name;
        let mark: &[u8] = if crlf { b"\r\n." } else { b"\n." };
        let source = Marked { inner: input.reader.take(LONGEST_RECORD), mark, ended: false, given: 0 };
        let mut reader = builder.from_reader(source);
        let mut header = reader.byte_headers().map_err(|error| csv_error(&name, error))?.clone();
        check_length(&name, 1, &reader)?;
        if is_mark(&name, &reader, &header)? {
            header.clear();
        }
        let mut columns = Vec::with_capacity(header.len());
        for (at, field) in header.iter().enumerate() {
            let field = std::str::from_utf8(field)
                .map_err(|error| Error::from(not_utf8(&format!("{name}, header"), field, error)))?;
            let field = field.trim();
            let column = if field.is_empty() { format!("column_{}", at + 1) } else { field.to_owned() };
            if columns.contains(&column) {
                let message =
                    format!("{name}, header: two columns are called '{column}'; rename one of them in the file");
                return Err(Error::new(ErrorKind::Data, message));
            }
            columns.push(column);
        }
        Ok(Self { name, reader, columns, crlf, plain_quotes, record: csv::ByteRecord::new(), row: 0 })
    }

    /// Line on which the record that was read last begins, from 1: empty lines may have come before it.
    fn line(&self) -> u64 {
        let ended_by_line_feed = !self.crlf && !ends_with_file(&self.reader);
        let own = line_feeds(self.record.as_slice()) + u64::from(ended_by_line_feed);
        self.reader.position().line().saturating_sub(own).max(1)
    }
}

fn line_feeds(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Whether the record that was read last took all that there is, the line behind the file included.
fn ends_with_file(reader: &CsvReader) -> bool {
    let source = reader.get_ref();
    source.ended && source.mark.is_empty() && reader.position().byte() == source.given
}

/// Whether `record`, which was read last, is the line behind the file.
///
/// # Errors
/// [`ErrorKind::Data`] if a quote that is not closed took that line in, and with it all lines from where it was opened.
fn is_mark(name: &str, reader: &CsvReader, record: &csv::ByteRecord) -> Result<bool> {
    if !ends_with_file(reader) {
        return Ok(false);
    }
    if record.len() == 1 && record.as_slice() == MARK {
        return Ok(true);
    }
    let open = record.iter().next_back().unwrap_or_default();
    let line = reader.position().line() - line_feeds(open);
    let message = format!(
        "{name}, line {line}: the quote that opens a value here is never closed; close it, write a quote that belongs to \
         the text twice (\"\") inside a quoted value, or get the rest of the file if it was cut off"
    );
    Err(Error::new(ErrorKind::Data, message))
}

/// The separator that the first line has most of, outside quotes.
pub(crate) fn delimiter(first: &[u8]) -> u8 {
    let mut quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0), (b'|', 0)];
    for byte in first {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => break,
            byte if !quoted => counts.iter_mut().filter(|(separator, _)| separator == byte).for_each(|(_, n)| *n += 1),
            _ => {}
        }
    }
    // The first of equals: a comma unless something else is more frequent.
    counts.iter().rev().max_by_key(|(_, n)| *n).map_or(b',', |(separator, _)| *separator)
}

/// Refuses a record at whose limit reading stopped.
fn check_length(name: &str, line: u64, reader: &CsvReader) -> Result<()> {
    if reader.get_ref().inner.limit() > 0 {
        return Ok(());
    }
    let message =
        format!("{name}, line {line}: the record that begins here has more than {}; is a quote missing?", longest());
    Err(Error::new(ErrorKind::Data, message))
}

fn csv_error(name: &str, error: csv::Error) -> Error {
    let place = error.position().map_or(String::new(), |position| format!(", line {}", position.line()));
    match error.into_kind() {
        csv::ErrorKind::Io(error) => cannot_read(&format!("{name}{place}"), error),
        other => Error::new(ErrorKind::Data, format!("{name}{place}: {other:?}")),
    }
}

impl Records for Csv {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn next(&mut self) -> Result<Option<Record>, Trouble> {
        self.reader.get_mut().inner.set_limit(LONGEST_RECORD);
        let more = self.reader.read_byte_record(&mut self.record).map_err(|error| csv_error(&self.name, error))?;
        let line = self.line();
        check_length(&self.name, line, &self.reader)?;
        if !more || is_mark(&self.name, &self.reader, &self.record)? {
            return Ok(None);
        }
        self.row += 1;
        if self.record.len() != self.columns.len() {
            let hint = if self.plain_quotes {
                "is a separator missing? if fields are in quotes, name the format csv"
            } else {
                "is a quote or a separator missing?"
            };
            return Err(data_error(format!(
                "{}, line {line}: expected {} fields as in the header, got {}; {hint}",
                self.name,
                self.columns.len(),
                self.record.len()
            )));
        }
        let mut cells = Vec::with_capacity(self.columns.len());
        for (at, field) in self.record.iter().enumerate() {
            let text = std::str::from_utf8(field).map_err(|error| {
                not_utf8(&format!("{}, line {line}, column '{}'", self.name, self.columns[at]), field, error)
            })?;
            cells.push(Some(Cell::Raw(text.to_owned())));
        }
        Ok(Some(Record { row: self.row, line, cells }))
    }
}

/// Places of the columns of a CSV file that have numbers with leading zeros, or longer than 64 bits, in the first `rows`
/// records; none where it cannot be read.
pub(crate) fn columns_of_digits(path: &Path, rows: usize) -> BTreeSet<usize> {
    let is_tsv = Format::by_name(path) == Some(Format::Tsv);
    let opened = Input::open(&ImportSource::Path(path.to_owned())).and_then(|input| Csv::open(input, is_tsv));
    let Ok(mut file) = opened else { return BTreeSet::new() };
    let is_exact = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && Kind::of(&Cell::Raw(text.to_owned())) == Kind::Text
    };
    let mut found = BTreeSet::new();
    for _ in 0..rows {
        let Ok(Some(record)) = file.next() else { break };
        for (at, cell) in record.cells.iter().enumerate() {
            if matches!(cell, Some(Cell::Raw(text)) if is_exact(text)) {
                found.insert(at);
            }
        }
    }
    found
}

/// Columns of objects, in the order of their first appearance.
#[derive(Default)]
struct Columns {
    names: Vec<String>,
    positions: HashMap<String, usize>,
}

impl Columns {
    fn cells(&mut self, object: serde_json::Map<String, Value>) -> Vec<Option<Cell>> {
        let mut cells: Vec<Option<Cell>> = Vec::with_capacity(self.names.len());
        cells.resize_with(self.names.len(), || None);
        for (name, value) in object {
            let at = match self.positions.get(&name) {
                Some(at) => *at,
                None => {
                    self.positions.insert(name.clone(), self.names.len());
                    self.names.push(name);
                    cells.push(None);
                    cells.len() - 1
                }
            };
            cells[at] = Some(Cell::Json(value));
        }
        cells
    }
}

/// Objects: one a line, or (`whole`) one after the other or in an array, over any number of lines.
pub(super) struct Json {
    name: String,
    reader: Source,
    whole: bool,
    columns: Columns,
    row: u64,
    line: u64,
    array: Array,
    buffer: Vec<u8>,
}

/// Where a reader of whole JSON stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Array {
    Unknown,
    No,
    Inside,
    Ended,
}

impl Json {
    pub(super) fn open(mut input: Input, whole: bool) -> Result<Self> {
        input.skip_byte_order_mark()?;
        Ok(Self {
            name: input.name,
            reader: input.reader,
            whole,
            columns: Columns::default(),
            row: 0,
            line: 1,
            array: Array::Unknown,
            buffer: Vec::new(),
        })
    }

    /// Reads the next non-empty line into the buffer; returns its number, or `None` at the end.
    fn next_line(&mut self) -> Result<Option<u64>, Trouble> {
        loop {
            self.buffer.clear();
            let n = self.reader.by_ref().take(LONGEST_RECORD + 1).read_until(b'\n', &mut self.buffer);
            let n = n.map_err(|error| cannot_read(&format!("{}, line {}", self.name, self.line), error))?;
            if n == 0 {
                return Ok(None);
            }
            if n as u64 > LONGEST_RECORD {
                return Err(self.fatal(self.line, &format!("it has more than {}; {WHOLE_JSON}", longest())));
            }
            let line = self.line;
            self.line += 1;
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// Reads the next object into the buffer; returns the line it begins on, or `None` at the end.
    fn next_object(&mut self) -> Result<Option<u64>, Trouble> {
        self.buffer.clear();
        let (mut depth, mut quoted, mut escaped, mut begins) = (0_u64, false, false, self.line);
        loop {
            let bytes = self.reader.fill_buf();
            let bytes = bytes.map_err(|error| cannot_read(&format!("{}, line {}", self.name, self.line), error))?;
            if bytes.is_empty() {
                return match self.array {
                    _ if depth > 0 => {
                        Err(self.fatal(begins, "the object that begins here does not end: the file is cut off"))
                    }
                    Array::Inside => Err(self.fatal(self.line, "the array does not end: the file is cut off")),
                    _ => Ok(None),
                };
            }
            let mut used = 0;
            let mut found = false;
            let mut wrong = None;
            for &byte in bytes {
                used += 1;
                if byte == b'\n' {
                    self.line += 1;
                }
                if depth == 0 {
                    match (byte, self.array) {
                        (b' ' | b'\t' | b'\r' | b'\n', _) => {}
                        (b'[', Array::Unknown) => self.array = Array::Inside,
                        (b',', Array::Inside) => {}
                        (b']', Array::Inside) => self.array = Array::Ended,
                        (b'{', Array::Unknown | Array::No | Array::Inside) => {
                            if self.array == Array::Unknown {
                                self.array = Array::No;
                            }
                            (depth, begins) = (1, self.line);
                            self.buffer.push(byte);
                        }
                        _ => {
                            wrong = Some(byte);
                            break;
                        }
                    }
                    continue;
                }
                self.buffer.push(byte);
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b'{' | b'[' if !quoted => depth += 1,
                    b'}' | b']' if !quoted => {
                        depth -= 1;
                        if depth == 0 {
                            found = true;
                            break;
                        }
                    }
                    _ => {}
                }
            }
            self.reader.consume(used);
            if self.buffer.len() as u64 > LONGEST_RECORD {
                let what = format!("the object that begins here has more than {}; is a quote missing?", longest());
                return Err(self.fatal(begins, &what));
            }
            if let Some(byte) = wrong {
                let what = format!("expected an object, that is '{{', got '{}'", char::from(byte).escape_default());
                return Err(self.fatal(self.line, &what));
            }
            if found {
                return Ok(Some(begins));
            }
        }
    }

    fn fatal(&self, line: u64, what: &str) -> Trouble {
        Trouble::Fatal(Error::new(ErrorKind::Data, format!("{}, line {line}: {what}", self.name)))
    }
}

impl Records for Json {
    fn columns(&self) -> &[String] {
        &self.columns.names
    }

    fn next(&mut self) -> Result<Option<Record>, Trouble> {
        let Some(line) = (if self.whole { self.next_object()? } else { self.next_line()? }) else { return Ok(None) };
        self.row += 1;
        let bytes = self.buffer.trim_ascii_end();
        if let Err(error) = std::str::from_utf8(bytes) {
            return Err(not_utf8(&format!("{}, line {line}", self.name), bytes, error));
        }
        match serde_json::from_slice::<Value>(&with_long_numbers_quoted(bytes)) {
            Ok(Value::Object(object)) => Ok(Some(Record { row: self.row, line, cells: self.columns.cells(object) })),
            Ok(other) => {
                let kind = match other {
                    Value::Array(_) => "an array",
                    Value::String(_) => "a string",
                    Value::Null => "null",
                    _ => "a number or boolean",
                };
                let hint = if self.whole { String::new() } else { format!("; {WHOLE_JSON}") };
                Err(data_error(format!("{}, line {line}: expected an object, got {kind}{hint}", self.name)))
            }
            Err(error) => {
                let line = line + error.line() as u64 - 1;
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default();
                // A line that ends too early is a broken line or the first of several.
                let hint = if !self.whole && error.is_eof() { format!("; {WHOLE_JSON}") } else { String::new() };
                Err(data_error(format!(
                    "{}, line {line}, column {}: broken JSON: {what}; mend the line or set such rows aside{hint}",
                    self.name,
                    error.column()
                )))
            }
        }
    }
}

/// Plain-text files, one document each: `path` (relative to the folder, `/` between its parts) and `text`.
pub(super) struct TextFiles {
    root: PathBuf,
    files: VecDeque<PathBuf>,
    stdin: bool,
    columns: Vec<String>,
    row: u64,
}

/// Bytes of a file in which a zero tells that it is no text.
const LOOKED_AT: usize = 8 << 10;

impl TextFiles {
    pub(super) fn open(source: &ImportSource) -> Result<Self> {
        let columns = vec!["path".to_owned(), "text".to_owned()];
        let (root, files, stdin) = match source {
            ImportSource::Stdin => (PathBuf::new(), VecDeque::new(), true),
            ImportSource::Path(path) if path.is_dir() => (path.clone(), files_below(path)?.into(), false),
            ImportSource::Path(path) => {
                (path.parent().map(Path::to_owned).unwrap_or_default(), VecDeque::from([path.clone()]), false)
            }
        };
        Ok(Self { root, files, stdin, columns, row: 0 })
    }
}

/// All files below a folder by path; names that begin with a dot are left out, symbolic links to folders not followed.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |error| io_error("cannot read the folder", &folder, error);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() || entry.path().is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

impl Records for TextFiles {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn next(&mut self) -> Result<Option<Record>, Trouble> {
        let (source, path) = match self.files.pop_front() {
            Some(path) => {
                let relative = path.strip_prefix(&self.root).unwrap_or(&path);
                let parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                (ImportSource::Path(path.clone()), Some(parts.join("/")))
            }
            None if std::mem::take(&mut self.stdin) => (ImportSource::Stdin, None),
            None => return Ok(None),
        };
        self.row += 1;
        let mut input = Input::open(&source).map_err(Trouble::Record)?;
        // First the mark: UTF-16 has zero bytes, too.
        input.skip_byte_order_mark().map_err(Trouble::Record)?;
        if input.first_bytes().map_err(Trouble::Record)?.iter().take(LOOKED_AT).any(|byte| *byte == 0) {
            return Err(Trouble::LeftOut(format!("{}: not a text file (it has zero bytes)", input.name)));
        }
        let mut bytes = Vec::new();
        let read = input.reader.by_ref().take(LONGEST_RECORD + 1).read_to_end(&mut bytes);
        read.map_err(|error| Trouble::Record(cannot_read(&input.name, error)))?;
        if bytes.len() as u64 > LONGEST_RECORD {
            return Err(data_error(format!("{}: the text has more than {}; split it", input.name, longest())));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            not_utf8(&format!("{}, line {line}", input.name), error.as_bytes(), error.utf8_error())
        })?;
        let path = path.unwrap_or_else(|| format!("stdin-{}", input.hash));
        Ok(Some(Record { row: self.row, line: 0, cells: vec![Some(Cell::Raw(path)), Some(Cell::Raw(text))] }))
    }
}
