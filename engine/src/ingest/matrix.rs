//! Matrices of NumPy and SciPy: one row a document, one column a feature (or a value of an embedding).
//!
//! `.npz` of `scipy.sparse.save_npz` (compressed sparse rows), `.npz` with one dense array, and `.npy`. They hold no other
//! columns, so a matrix may stand beside a source of documents (`--matrix`), row for row. All are read once from front to
//! back; a sparse one through three readers of its parts at a time, so that nothing larger than a chunk is in memory.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, ListArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use zip::{CompressionMethod, ZipArchive};

use super::source::cannot_open;
use super::typed::{CHUNK_BYTES, PLAIN_CHUNK_ROWS, RowSource, Rows, Wanted};
use crate::error::{Error, ErrorKind, Result};

/// Column of a matrix's features: a name that no stored column has, since a dot is not storable.
pub(crate) const FEATURES: &str = "matrix.features";
/// Column of their activations.
pub(crate) const ACTIVATIONS: &str = "matrix.activations";
/// Column of the rows of a dense matrix that holds embeddings.
pub(crate) const EMBEDDING: &str = "matrix.embedding";

/// Bytes that a header may take: those of real files take 64 to 200.
const LONGEST_HEADER: usize = 64 << 10;

/// Columns that a matrix may have: no dictionary has more features, and a row must fit into memory.
const MOST_COLUMNS: u32 = 1 << 24;
/// Values of a chunk, at most: some rows are much longer than others.
const MOST_VALUES: usize = 1 << 26;

/// What a number is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dtype {
    kind: u8,
    size: usize,
    big_endian: bool,
}

impl Dtype {
    fn parse(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let order = bytes.next()?;
        let kind = bytes.next()?;
        let size: usize = text.get(2..)?.parse().ok()?;
        let known = match kind {
            b'f' => matches!(size, 2 | 4 | 8),
            b'i' | b'u' => matches!(size, 1 | 2 | 4 | 8),
            b'b' => size == 1,
            b'S' => size <= 16,
            b'U' => size <= 16,
            _ => false,
        };
        known.then_some(Self { kind, size: if kind == b'U' { 4 * size } else { size }, big_endian: order == b'>' })
    }

    fn is_number(self) -> bool {
        matches!(self.kind, b'f' | b'i' | b'u' | b'b')
    }

    /// The value of `bytes`, which are as many as it is large.
    fn value(self, bytes: &[u8]) -> f64 {
        let mut ordered = [0_u8; 8];
        let ordered = &mut ordered[..self.size.min(8)];
        ordered.copy_from_slice(bytes);
        if self.big_endian {
            ordered.reverse();
        }
        let mut wide = [0_u8; 8];
        wide[..ordered.len()].copy_from_slice(ordered);
        let unsigned = u64::from_le_bytes(wide);
        match (self.kind, self.size) {
            (b'f', 2) => half::f16::from_bits(unsigned as u16).to_f64(),
            (b'f', 4) => f64::from(f32::from_bits(unsigned as u32)),
            (b'f', _) => f64::from_bits(unsigned),
            (b'i', 1) => f64::from(unsigned as u8 as i8),
            (b'i', 2) => f64::from(unsigned as u16 as i16),
            (b'i', 4) => f64::from(unsigned as u32 as i32),
            (b'i', _) => unsigned as i64 as f64,
            _ => unsigned as f64,
        }
    }
}

/// An array that is read from front to back.
struct Array {
    /// File and part, for messages.
    name: String,
    reader: Box<dyn Read + Send>,
    dtype: Dtype,
    shape: Vec<u64>,
    fortran: bool,
    buffer: Vec<u8>,
}

impl Array {
    /// Reads the header (NumPy's format 1 to 3).
    fn open(name: String, mut reader: Box<dyn Read + Send>) -> Result<Self> {
        let no_array = |what: &str| Error::new(ErrorKind::Data, format!("{name}: not an array of NumPy: {what}"));
        let ended = |error: io::Error| no_array("it ends too early").with_source(error);
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(ended)?;
        if &start[..6] != b"\x93NUMPY" {
            return Err(no_array("it begins with other bytes"));
        }
        let mut length = [0; 4];
        let length_bytes = if start[6] == 1 { 2 } else { 4 };
        reader.read_exact(&mut length[..length_bytes]).map_err(ended)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST_HEADER {
            return Err(no_array("its header is too long"));
        }
        let mut header = vec![0; length];
        reader.read_exact(&mut header).map_err(ended)?;
        let header = String::from_utf8_lossy(&header).into_owned();
        let field = |key: &str| -> Option<&str> {
            let from = header.find(&format!("'{key}':"))? + key.len() + 3;
            Some(header[from..].trim_start())
        };
        let described = field("descr").and_then(|text| text.strip_prefix('\'')?.split('\'').next());
        let dtype = described.and_then(Dtype::parse).ok_or_else(|| {
            no_array(&format!("its values are {}, expected numbers", described.unwrap_or("structured")))
        })?;
        let shape = field("shape").and_then(|text| text.strip_prefix('(')?.split(')').next());
        let shape =
            shape.map(|text| text.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse).collect());
        let Some(Ok(shape)) = shape else { return Err(no_array("its shape cannot be read")) };
        let fortran = field("fortran_order").is_some_and(|text| text.starts_with("True"));
        Ok(Self { name, reader, dtype, shape, fortran, buffer: Vec::new() })
    }

    fn len(&self) -> u64 {
        self.shape.iter().fold(1, |all, n| all.saturating_mul(*n))
    }

    /// The bytes of the next `n` values.
    fn bytes(&mut self, n: usize) -> Result<&[u8]> {
        self.buffer.resize(n * self.dtype.size, 0);
        self.reader.read_exact(&mut self.buffer).map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::UnexpectedEof => "it ends too early: was its writing or download interrupted?",
                _ => "its compressed data is damaged",
            };
            Error::new(ErrorKind::Data, format!("{}: {what}", self.name)).with_source(error)
        })?;
        Ok(&self.buffer)
    }

    /// The next `n` values as 32-bit floats.
    fn floats(&mut self, n: usize, values: &mut Vec<f32>) -> Result<()> {
        let dtype = self.dtype;
        let bytes = self.bytes(n)?;
        if dtype == (Dtype { kind: b'f', size: 4, big_endian: false }) {
            values.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        } else {
            values.extend(bytes.chunks_exact(dtype.size).map(|bytes| dtype.value(bytes) as f32));
        }
        Ok(())
    }

    /// The next `n` values as whole numbers.
    fn whole(&mut self, n: usize) -> Result<Vec<u64>> {
        let (dtype, name) = (self.dtype, self.name.clone());
        let bytes = self.bytes(n)?;
        bytes
            .chunks_exact(dtype.size)
            .map(|bytes| match dtype.value(bytes) {
                value if value >= 0.0 && value.fract() == 0.0 => Ok(value as u64),
                value => {
                    Err(Error::new(ErrorKind::Data, format!("{name}: expected whole numbers from 0, got {value}")))
                }
            })
            .collect()
    }

    /// All of it as text: SciPy keeps the kind of a matrix so.
    fn text(&mut self) -> Result<String> {
        let dtype = self.dtype;
        let bytes = self.bytes(1)?;
        let letters = if dtype.kind == b'U' { bytes.iter().step_by(4) } else { bytes.iter().step_by(1) };
        Ok(letters.filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect())
    }
}

/// Checks what is read against the checksum that the archive has of it.
struct Checked<R> {
    inner: R,
    crc: flate2::Crc,
    expected: u32,
    /// Bytes that are still to come.
    left: u64,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.crc.update(&buffer[..n]);
        self.left = self.left.saturating_sub(n as u64);
        if self.left == 0 && self.crc.sum() != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum is another"));
        }
        Ok(n)
    }
}

/// The arrays of an `.npz`.
struct Archive<'a> {
    path: &'a Path,
    zip: ZipArchive<BufReader<File>>,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| cannot_open(path, error))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            let message = format!(
                "{}: not a complete .npz file ({error}); was its writing or download interrupted?",
                path.display()
            );
            Error::new(ErrorKind::Data, message)
        })?;
        Ok(Self { path, zip })
    }

    fn names(&self) -> Vec<String> {
        self.zip.file_names().map(|name| name.strip_suffix(".npy").unwrap_or(name).to_owned()).collect()
    }

    /// Opens an array with a file handle of its own.
    fn array(&mut self, name: &str) -> Result<Array> {
        let shown = format!("{}, array '{name}'", self.path.display());
        let wrong = |what: String| Error::new(ErrorKind::Data, format!("{shown}: {what}"));
        let index = self.zip.index_for_name(&format!("{name}.npy")).or_else(|| self.zip.index_for_name(name));
        let Some(index) = index else {
            let there = self.names().join(", ");
            return Err(Error::new(
                ErrorKind::Data,
                format!("{}: no array '{name}'; there are: {there}", self.path.display()),
            ));
        };
        let entry = self.zip.by_index_raw(index).map_err(|error| wrong(error.to_string()))?;
        let start = entry.data_start().ok_or_else(|| wrong("it cannot be found in the archive".to_owned()))?;
        let (method, size, expected) = (entry.compression(), entry.compressed_size(), entry.crc32());
        let left = entry.size();
        drop(entry);
        let mut file = File::open(self.path).map_err(|error| cannot_open(self.path, error))?;
        file.seek(SeekFrom::Start(start)).map_err(|error| cannot_open(self.path, error))?;
        let raw = BufReader::with_capacity(256 << 10, file.take(size));
        let inner: Box<dyn Read + Send> = match method {
            CompressionMethod::Stored => Box::new(raw),
            CompressionMethod::Deflated => Box::new(flate2::read::DeflateDecoder::new(raw)),
            other => return Err(wrong(format!("it is compressed by {other}; expected none or deflate"))),
        };
        let inner = Checked { inner, crc: flate2::Crc::new(), expected, left };
        Array::open(shown, Box::new(BufReader::with_capacity(256 << 10, inner)))
    }
}

/// A matrix that is read row by row.
pub(super) struct Matrix {
    name: String,
    n_rows: u64,
    n_columns: u32,
    read: u64,
    values: Values,
}

enum Values {
    Dense(Array),
    Sparse { pointers: Array, indices: Array, data: Array, last: u64 },
}

impl Matrix {
    /// Opens a `.npz` or `.npy` file.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Data`] for what is no matrix of numbers, row by row.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let mut first = [0; 6];
        let mut file = File::open(path).map_err(|error| cannot_open(path, error))?;
        let _ = file.read_exact(&mut first);
        if &first == b"\x93NUMPY" {
            file.rewind().map_err(|error| cannot_open(path, error))?;
            let array = Array::open(name.clone(), Box::new(BufReader::with_capacity(256 << 10, file)))?;
            return Self::dense(name, array);
        }
        let mut archive = Archive::open(path)?;
        let names = archive.names();
        if !names.iter().any(|name| name == "format") {
            return match names.as_slice() {
                [only] => Self::dense(name, archive.array(only)?),
                several => {
                    let message = format!(
                        "{name}: expected a sparse matrix of scipy.sparse.save_npz, or one array; there are {}: {}",
                        several.len(),
                        several.join(", ")
                    );
                    Err(Error::new(ErrorKind::Data, message))
                }
            };
        }
        let format = archive.array("format")?.text()?;
        if format != "csr" {
            let message = format!(
                "{name}: the matrix is stored as {format}; documents are read row by row, so save it as compressed sparse \
                 rows: scipy.sparse.save_npz(file, matrix.tocsr())"
            );
            return Err(Error::new(ErrorKind::Data, message));
        }
        let shape = archive.array("shape")?.whole(2)?;
        let pointers = archive.array("indptr")?;
        let (indices, data) = (archive.array("indices")?, archive.array("data")?);
        let numbers = pointers.dtype.is_number() && indices.dtype.is_number() && data.dtype.is_number();
        let fits = numbers && pointers.len() == shape[0].saturating_add(1) && indices.len() == data.len();
        let n_columns = u32::try_from(shape[1]).ok().filter(|n| fits && *n <= MOST_COLUMNS).ok_or_else(|| {
            let message = format!(
                "{name}: the parts of the matrix of {} rows and {} columns do not fit together; save it again",
                shape[0], shape[1]
            );
            Error::new(ErrorKind::Data, message)
        })?;
        let values = Values::Sparse { pointers, indices, data, last: 0 };
        let mut matrix = Self { name, n_rows: shape[0], n_columns, read: 0, values };
        if let Values::Sparse { pointers, last, .. } = &mut matrix.values {
            *last = pointers.whole(1)?[0];
        }
        Ok(matrix)
    }

    fn dense(name: String, array: Array) -> Result<Self> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Data, format!("{name}: {what}")));
        let &[n_rows, n_columns] = array.shape.as_slice() else {
            return wrong(format!("expected a matrix, one row a document, got an array of shape {:?}", array.shape));
        };
        if !array.dtype.is_number() {
            return wrong("expected numbers".to_owned());
        }
        if array.fortran && n_rows > 1 && n_columns > 1 {
            return wrong("it is stored column by column; save it with numpy.ascontiguousarray(matrix)".to_owned());
        }
        let Some(n_columns) = u32::try_from(n_columns).ok().filter(|n| *n <= MOST_COLUMNS) else {
            return wrong(format!("{n_columns} columns are too many"));
        };
        Ok(Self { name, n_rows, n_columns, read: 0, values: Values::Dense(array) })
    }

    /// Rows that make a chunk, about.
    fn rows_at_once(&self, dense: bool) -> usize {
        let row = match &self.values {
            Values::Sparse { data, .. } if !dense => 8 * (data.len() / self.n_rows.max(1)) as usize,
            _ => 4 * self.n_columns as usize,
        };
        (CHUNK_BYTES / row.max(1)).clamp(1, PLAIN_CHUNK_ROWS)
    }

    fn left(&self) -> u64 {
        self.n_rows - self.read
    }

    /// The next `n` rows as lists of the columns that are not 0, and their values.
    fn next_sparse(&mut self, n: usize) -> Result<(ArrayRef, ArrayRef)> {
        let n = n.min(self.left() as usize);
        let (mut ids, mut activations, mut lengths) = (Vec::new(), Vec::new(), Vec::with_capacity(n));
        match &mut self.values {
            Values::Dense(array) => {
                let mut row = Vec::new();
                for _ in 0..n {
                    row.clear();
                    array.floats(self.n_columns as usize, &mut row)?;
                    let before = ids.len();
                    for (column, value) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                        ids.push(column as u32);
                        activations.push(*value);
                    }
                    lengths.push(ids.len() - before);
                }
            }
            Values::Sparse { pointers, indices, data, last } => {
                for pointer in pointers.whole(n)? {
                    let length = pointer.checked_sub(*last).filter(|_| pointer <= data.len());
                    let Some(length) = length.filter(|length| *length <= u64::from(self.n_columns)) else {
                        let message = format!(
                            "{}: the rows of the matrix do not fit together; save it again, after matrix.sum_duplicates()",
                            self.name
                        );
                        return Err(Error::new(ErrorKind::Data, message));
                    };
                    lengths.push(length as usize);
                    *last = pointer;
                }
                let total = lengths.iter().sum();
                if total > MOST_VALUES {
                    let message = format!("{}: {n} rows have {total} values, too many for a sparse matrix", self.name);
                    return Err(Error::new(ErrorKind::Data, message));
                }
                data.floats(total, &mut activations)?;
                ids.extend(indices.whole(total)?.into_iter().map(|id| u32::try_from(id).unwrap_or(u32::MAX)));
            }
        }
        self.read += n as u64;
        let offsets = OffsetBuffer::from_lengths(lengths);
        let list = |item: DataType, values: ArrayRef| {
            ListArray::try_new(Arc::new(Field::new("item", item, true)), offsets.clone(), values, None)
                .map(|lists| Arc::new(lists) as ArrayRef)
                .map_err(|error| Error::new(ErrorKind::Internal, "reading a matrix").with_source(error))
        };
        let ids = list(DataType::UInt32, Arc::new(UInt32Array::from(ids)))?;
        Ok((ids, list(DataType::Float32, Arc::new(Float32Array::from(activations)))?))
    }

    /// The next `n` rows as lists of all their values.
    fn next_dense(&mut self, n: usize) -> Result<ArrayRef> {
        let n = n.min(self.left() as usize);
        let width = self.n_columns as usize;
        let mut values = Vec::with_capacity(n * width);
        match &mut self.values {
            Values::Dense(array) => array.floats(n * width, &mut values)?,
            Values::Sparse { .. } => {
                let message = format!("{}: embeddings are a dense matrix, this one is sparse", self.name);
                return Err(Error::new(ErrorKind::Data, message));
            }
        }
        self.read += n as u64;
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(width, n));
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        ListArray::try_new(item, offsets, Arc::new(Float32Array::from(values)), None)
            .map(|lists| Arc::new(lists) as ArrayRef)
            .map_err(|error| Error::new(ErrorKind::Internal, "reading a matrix").with_source(error))
    }
}

/// A matrix as rows of a source, alone or beside the documents that its rows belong to.
pub(super) struct MatrixRows {
    matrix: Matrix,
    /// Whether its rows are embeddings.
    embeds: bool,
    documents: Option<Box<dyn RowSource>>,
    documents_name: String,
}

impl MatrixRows {
    pub(super) fn new(
        matrix: Matrix,
        embeds: bool,
        documents: Option<Box<dyn RowSource>>,
        documents_name: &str,
    ) -> Self {
        Self { matrix, embeds, documents, documents_name: documents_name.to_owned() }
    }

    pub(super) fn total(&self) -> u64 {
        self.matrix.n_rows
    }

    /// The columns of the next `n` rows.
    fn matrix_columns(&mut self, n: usize) -> Result<Vec<(Field, ArrayRef)>> {
        let column = |name: &str, array: ArrayRef| (Field::new(name, array.data_type().clone(), true), array);
        Ok(if self.embeds {
            vec![column(EMBEDDING, self.matrix.next_dense(n)?)]
        } else {
            let (ids, activations) = self.matrix.next_sparse(n)?;
            vec![column(FEATURES, ids), column(ACTIVATIONS, activations)]
        })
    }

    fn mismatch(&self, documents: &str) -> Error {
        let message = format!(
            "{}: it has {} rows and {} has {documents}: they belong together row by row, so there must be as many of each",
            self.matrix.name, self.matrix.n_rows, self.documents_name
        );
        Error::new(ErrorKind::Data, message)
    }

    /// Reads over rows whose documents were set aside.
    fn skip(&mut self, mut n: u64) -> Result<()> {
        while n > 0 {
            let some = n.min(self.matrix.rows_at_once(self.embeds) as u64);
            self.matrix_columns(some as usize)?;
            n -= some;
        }
        Ok(())
    }
}

impl RowSource for MatrixRows {
    fn columns(&self) -> Vec<(String, Option<DataType>)> {
        let list = |item: DataType| Some(DataType::List(Arc::new(Field::new("item", item, true))));
        let mut columns = self.documents.as_ref().map(|documents| documents.columns()).unwrap_or_default();
        if self.embeds {
            columns.push((EMBEDDING.to_owned(), list(DataType::Float32)));
        } else {
            columns.push((FEATURES.to_owned(), list(DataType::UInt32)));
            columns.push((ACTIVATIONS.to_owned(), list(DataType::Float32)));
        }
        columns
    }

    fn prepare(&mut self, wanted: Wanted) -> Result<()> {
        self.documents.as_mut().map_or(Ok(()), |documents| documents.prepare(wanted))
    }

    fn next(&mut self) -> Result<Option<Rows>> {
        let mut rows = match &mut self.documents {
            None if self.matrix.left() == 0 => return Ok(None),
            None => {
                let n = self.matrix.rows_at_once(self.embeds).min(self.matrix.left() as usize);
                let first = self.matrix.read + 1;
                Rows { rows: (first..first + n as u64).collect(), ..Rows::none() }
            }
            Some(documents) => match documents.next()? {
                Some(rows) => rows,
                None if documents.read() != self.matrix.n_rows => {
                    let there = documents.read();
                    return Err(self.mismatch(&there.to_string()));
                }
                None => return Ok(None),
            },
        };
        let schema = rows.batch.schema();
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut arrays = rows.batch.columns().to_vec();
        // Rows of the source come in order, some of them missing: runs without a gap are read at once.
        let mut parts: Vec<Vec<(Field, ArrayRef)>> = Vec::new();
        for run in rows.rows.chunk_by(|a, b| a + 1 == *b) {
            let position = run[0] - 1;
            if run[run.len() - 1] > self.matrix.n_rows {
                return Err(self.mismatch("more"));
            }
            self.skip(position - self.matrix.read)?;
            parts.push(self.matrix_columns(run.len())?);
        }
        if parts.is_empty() {
            parts.push(self.matrix_columns(0)?);
        }
        for at in 0..parts[0].len() {
            let columns: Vec<&dyn arrow::array::Array> = parts.iter().map(|part| part[at].1.as_ref()).collect();
            let joined = arrow::compute::concat(&columns);
            arrays
                .push(joined.map_err(|error| Error::new(ErrorKind::Internal, "reading a matrix").with_source(error))?);
            fields.push(parts[0][at].0.clone());
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.rows.len()));
        rows.batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
            .map_err(|error| Error::new(ErrorKind::Internal, "reading a matrix").with_source(error))?;
        Ok(Some(rows))
    }

    fn take_set_aside(&mut self) -> Vec<String> {
        self.documents.as_mut().map(|documents| documents.take_set_aside()).unwrap_or_default()
    }

    fn read(&self) -> u64 {
        self.documents.as_ref().map_or(self.matrix.read, |documents| documents.read())
    }

    fn largest_item(&self, column: &str) -> Option<i64> {
        match column {
            FEATURES => Some(i64::from(self.matrix.n_columns) - 1),
            other => self.documents.as_ref()?.largest_item(other),
        }
    }
}
