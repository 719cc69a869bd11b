//! Bytes of a source: a file or standard input, decompressed on the way, and what its first bytes say it is.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::engine::ImportSource;
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::store::hex;

/// Bytes that are looked at to tell compression and format.
const SNIFF: usize = 64 << 10;

/// What a source holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Tsv,
    /// One value, an array of values, or values one after the other, over any number of lines.
    Json,
    JsonLines,
    Parquet,
    Arrow,
    /// A matrix of NumPy or SciPy.
    Matrix,
    /// One document a file.
    Text,
}

impl Format {
    pub(super) fn parse(name: &str) -> Result<Self> {
        Ok(match name.to_lowercase().as_str() {
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "json" => Self::Json,
            "jsonl" | "ndjson" => Self::JsonLines,
            "parquet" => Self::Parquet,
            "arrow" | "ipc" | "feather" => Self::Arrow,
            "text" | "txt" => Self::Text,
            "npz" | "npy" => Self::Matrix,
            other => {
                let message = format!(
                    "unknown format '{other}'; there are: csv, tsv, json, jsonl, parquet, arrow, npz, npy, text"
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
        })
    }

    /// By the ending of the name, endings of compressed files left out.
    pub(super) fn by_name(path: &Path) -> Option<Self> {
        let name = path.file_name().and_then(OsStr::to_str)?.to_lowercase();
        let endings = [".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd"];
        let name = endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" | "pq" => Some(Self::Parquet),
            "arrow" | "arrows" | "ipc" | "feather" => Some(Self::Arrow),
            "npz" | "npy" => Some(Self::Matrix),
            "txt" | "text" | "md" | "markdown" | "rst" | "html" | "htm" | "log" => Some(Self::Text),
            _ => None,
        }
    }

    /// By the first bytes; `None` if they could be anything.
    pub(super) fn by_content(first: &[u8]) -> Option<Self> {
        if first.starts_with(b"PAR1") {
            return Some(Self::Parquet);
        }
        if first.starts_with(b"\x93NUMPY") {
            return Some(Self::Matrix);
        }
        // An Arrow stream begins with the continuation marker and the length of the schema message.
        if first.starts_with(b"ARROW1") || first.starts_with(&[0xff, 0xff, 0xff, 0xff]) {
            return Some(Self::Arrow);
        }
        let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
        match text.first()? {
            b'[' => Some(Self::Json),
            b'{' => {
                let end = text.iter().position(|byte| *byte == b'\n');
                let line = &text[..end.unwrap_or(text.len())];
                let whole = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
                Some(if whole { Self::JsonLines } else { Self::Json })
            }
            _ => {
                let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let has = |byte| line.contains(&byte);
                (text.contains(&b'\n') && (has(b',') || has(b';') || has(b'\t'))).then_some(if has(b'\t') {
                    Self::Tsv
                } else {
                    Self::Csv
                })
            }
        }
    }
}

/// An open source.
pub(super) struct Input {
    /// For messages: the path as the user gave it, or `standard input`.
    pub(super) name: String,
    /// Its path, if it is a file that is not compressed, so that it can be opened again and read at any place.
    pub(super) plain_file: Option<PathBuf>,
    /// Decompressed bytes.
    pub(super) reader: BufReader<Box<dyn Read + Send>>,
    /// Bytes taken from the file so far, compressed as they are there.
    pub(super) taken: Arc<AtomicU64>,
    /// Length of the file, if known.
    pub(super) length: Option<u64>,
    /// Stands for the source in `doc_id`s: 12 hexadecimal digits.
    pub(super) hash: String,
}

impl Input {
    /// Opens a source.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Denied`], [`ErrorKind::Io`].
    pub(super) fn open(source: &ImportSource) -> Result<Self> {
        let taken = Arc::new(AtomicU64::new(0));
        let (name, raw, length, path): (String, Box<dyn Read + Send>, _, _) = match source {
            ImportSource::Path(path) => {
                let file = File::open(path).map_err(|error| cannot_open(path, error))?;
                let length = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
                (path.display().to_string(), Box::new(file), length, Some(path.clone()))
            }
            ImportSource::Stdin => ("standard input".to_owned(), Box::new(io::stdin()), None, None),
        };
        let counting = Counting { inner: raw, taken: taken.clone() };
        let (first, raw) = peek(counting).map_err(|error| cannot_read(&name, error))?;
        let hash = match &path {
            // The same file by another relative path is the same source.
            Some(path) => {
                let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
                short_hash(whole.as_os_str().as_encoded_bytes())
            }
            // Standard input has no name; the same beginning is taken for the same source, so that it can be resumed.
            None => short_hash(&first),
        };
        let compressed = Compression::of(&first);
        let reader: Box<dyn Read + Send> = match compressed {
            None => raw,
            Some(Compression::Gzip) => Box::new(flate2::read::MultiGzDecoder::new(raw)),
            Some(Compression::Bzip2) => Box::new(bzip2::read::MultiBzDecoder::new(raw)),
            Some(Compression::Xz) => Box::new(liblzma::read::XzDecoder::new_multi_decoder(raw)),
            Some(Compression::Zstd) => {
                Box::new(zstd::stream::read::Decoder::new(raw).map_err(|error| cannot_read(&name, error))?)
            }
        };
        let plain_file = path.filter(|_| compressed.is_none() && length.is_some());
        Ok(Self { name, plain_file, reader: BufReader::with_capacity(SNIFF, reader), taken, length, hash })
    }

    /// The first decompressed bytes, without taking them.
    pub(super) fn first_bytes(&mut self) -> Result<&[u8]> {
        let name = &self.name;
        self.reader.fill_buf().map_err(|error| cannot_read(name, error))
    }

    /// Takes a byte-order mark, if there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for text that is not UTF-8 but UTF-16.
    pub(super) fn skip_byte_order_mark(&mut self) -> Result<()> {
        let first = self.first_bytes()?;
        let mark = first.starts_with(b"\xef\xbb\xbf");
        if first.starts_with(b"\xff\xfe") || first.starts_with(b"\xfe\xff") {
            let message = format!(
                "{}: the text is UTF-16; convert it to UTF-8 first, for example with iconv -f UTF-16 -t UTF-8",
                self.name
            );
            return Err(Error::new(ErrorKind::Data, message));
        }
        if mark {
            self.reader.consume(3);
        }
        Ok(())
    }

    /// A file that can be read at any place: the source itself, or a temporary copy of what it decompresses to.
    pub(super) fn into_file(mut self) -> Result<File> {
        if let Some(path) = &self.plain_file {
            return File::open(path).map_err(|error| cannot_open(path, error));
        }
        let mut file = tempfile::tempfile()
            .map_err(|error| io_error("cannot make a temporary file in", &std::env::temp_dir(), error))?;
        io::copy(&mut self.reader, &mut file)
            .and_then(|_| file.flush())
            .and_then(|()| io::Seek::rewind(&mut file))
            .map_err(|error| {
                if crate::error::is_full_disk(&error) {
                    crate::error::disk_full(&format!("a temporary copy in {}", std::env::temp_dir().display()))
                } else {
                    cannot_read(&self.name, error)
                }
            })?;
        Ok(file)
    }
}

/// The first bytes of a file, decompressed if need be.
///
/// # Errors
/// As [`Input::open`].
pub(crate) fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut input = Input::open(&ImportSource::Path(path.to_owned()))?;
    Ok(input.first_bytes()?.to_vec())
}

/// The error for a source that cannot be opened.
pub(super) fn cannot_open(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            let near = path
                .parent()
                .and_then(|dir| std::fs::read_dir(if dir.as_os_str().is_empty() { Path::new(".") } else { dir }).ok());
            let names: Vec<String> = near
                .map(|entries| entries.flatten().map(|entry| entry.file_name().display().to_string()).collect())
                .unwrap_or_default();
            let wanted = path.file_name().map(|name| name.display().to_string()).unwrap_or_default();
            let hint = crate::error::did_you_mean(&wanted, names.iter().map(String::as_str));
            let hint = if hint.contains("did you mean") { hint } else { String::new() };
            Error::new(ErrorKind::NotFound, format!("file not found: {}{hint}", path.display()))
        }
        _ => io_error("cannot open", path, error),
    }
}

/// The error for a source that stops giving bytes.
pub(super) fn cannot_read(name: &str, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    let (kind, hint) = match error.kind() {
        UnexpectedEof => (ErrorKind::Data, "; the file ends too early: was its writing or download interrupted?"),
        InvalidData | InvalidInput | Other => (ErrorKind::Data, "; the compressed data is damaged"),
        io::ErrorKind::IsADirectory => (ErrorKind::Query, "; it is a folder"),
        _ => (ErrorKind::Io, ""),
    };
    Error::new(kind, format!("cannot read {name}{hint}")).with_source(error)
}

fn short_hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..6])
}

/// Reads the first bytes and gives them back with a reader that begins with them.
fn peek(mut reader: impl Read + Send + 'static) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut first = Vec::with_capacity(SNIFF);
    reader.by_ref().take(SNIFF as u64).read_to_end(&mut first)?;
    Ok((first.clone(), Box::new(io::Cursor::new(first).chain(reader))))
}

/// Compression, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Counts what goes through.
struct Counting<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.taken.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_name_and_content() {
        assert_eq!(Format::by_name(Path::new("a/b.JSONL.gz")), Some(Format::JsonLines));
        assert_eq!(Format::by_name(Path::new("b.tsv.zst")), Some(Format::Tsv));
        assert_eq!(Format::by_name(Path::new("b")), None);
        assert_eq!(Format::by_content(b"PAR1...."), Some(Format::Parquet));
        assert_eq!(Format::by_content(b"{\"a\": 1}\n{\"a\": 2}\n"), Some(Format::JsonLines));
        assert_eq!(Format::by_content(b"{\n \"a\": 1}\n"), Some(Format::Json));
        assert_eq!(Format::by_content(b" [1, 2]"), Some(Format::Json));
        assert_eq!(Format::by_content(b"a,b\n1,2\n"), Some(Format::Csv));
        assert_eq!(Format::by_content(b"a\tb\n1\t2\n"), Some(Format::Tsv));
        assert_eq!(Format::by_content(b"just words"), None);
    }

    #[test]
    fn a_missing_file_offers_its_neighbour() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("answers.jsonl"), "").unwrap();
        let error = Input::open(&ImportSource::Path(dir.path().join("answer.jsonl"))).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().ends_with("did you mean 'answers.jsonl'?"), "{error}");
    }
}
