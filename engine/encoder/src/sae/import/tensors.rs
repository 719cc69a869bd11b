//! Weight files of other tools: safetensors, NumPy's npz, PyTorch's pt. Values are read one tensor at a time, as `f32`.
//!
//! A pt file is a zip of a pickle, which is read but never executed, and of the values. Layouts: `torch/_utils.py` and
//! `torch/serialization.py` of pytorch/pytorch, `numpy/lib/format.py` of numpy/numpy.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack};
use half::{bf16, f16};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

/// Type of the values in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    F16,
    Bf16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    Bool,
}

impl Type {
    fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
        }
        match self {
            Self::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::I8 => each(bytes, |b: [u8; 1]| f32::from(b[0] as i8)),
            Self::I16 => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
            Self::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
            Self::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
            Self::U8 | Self::Bool => each(bytes, |b: [u8; 1]| f32::from(b[0])),
        }
    }
}

/// Where a tensor's values are, and how they lie there.
#[derive(Debug, Clone)]
struct Entry {
    kind: Type,
    shape: Vec<usize>,
    /// In elements; C order if empty.
    strides: Vec<usize>,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// Bytes of the file.
    Bytes { start: u64, length: usize },
    /// Member of the zip, and the elements of it that come before.
    Member { name: String, skip_bytes: usize },
}

/// A weight file whose tensors can be read by name.
#[derive(Debug)]
pub(super) struct Tensors {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    /// What a pt file holds beside tensors, by the same dotted names.
    pub(super) values: Value,
}

impl Tensors {
    /// Opens a file by its ending.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Io`], [`ErrorKind::Corrupt`] naming the file and what was expected.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let (entries, values) = match ending {
            "safetensors" => (safetensors(path)?, Value::Null),
            "npz" => (npz(path)?, Value::Null),
            "pt" | "pth" | "bin" => pt(path)?,
            _ => {
                let message = format!("{}: expected a safetensors, npz, pt or pth file", path.display());
                return Err(Error::new(ErrorKind::Data, message));
            }
        };
        Ok(Self { path: path.to_owned(), entries, values })
    }

    /// Names, sorted.
    pub(super) fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The first of these names that there is.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] with the names that there are.
    pub(super) fn any(&self, names: &[&'static str]) -> Result<&'static str> {
        names.iter().copied().find(|name| self.has(name)).ok_or_else(|| {
            let expected = names.join(" or ");
            self.damaged(format!("it has no tensor {expected}; there are: {}", self.names().join(", ")))
        })
    }

    /// Type of a tensor's values.
    pub(super) fn kind(&self, name: &str) -> Option<Type> {
        self.entries.get(name).map(|entry| entry.kind)
    }

    /// Shape of a tensor.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if there is none of this name.
    pub(super) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.shape)
    }

    /// Rows and columns of a matrix.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is none.
    pub(super) fn matrix_shape(&self, name: &str) -> Result<(usize, usize)> {
        match *self.shape(name)? {
            [rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
            ref other => Err(self.damaged(format!("{name}: expected a matrix, got shape {other:?}"))),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries
            .get(name)
            .ok_or_else(|| self.damaged(format!("it has no tensor {name}; there are: {}", self.names().join(", "))))
    }

    /// An error about this file.
    pub(super) fn damaged(&self, message: String) -> Error {
        damaged(&self.path, message)
    }

    /// Values of a tensor of this shape, in C order, all finite.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if there is none, its shape is another, or it holds NaN or infinity.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            return Err(self.damaged(format!("{name}: expected shape {shape:?}, got {:?}", entry.shape)));
        }
        self.read(name)
    }

    /// The same, if there is such a tensor.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) fn maybe(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        self.has(name).then(|| self.get(name, shape)).transpose()
    }

    /// Values of a tensor of any shape, in C order.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) fn read(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let values = self.values_of(entry)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.damaged(format!("{name}: value {at} is {}", values[at]))),
            None => Ok(values),
        }
    }

    /// The only value of a tensor.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) fn number(&self, name: &str) -> Result<f32> {
        match self.read(name)?[..] {
            [value] => Ok(value),
            ref other => Err(self.damaged(format!("{name}: expected one number, got {}", other.len()))),
        }
    }

    /// A matrix of this shape with rows and columns exchanged.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) fn transposed(&self, name: &str, [rows, columns]: [usize; 2]) -> Result<Vec<f32>> {
        Ok(transpose(&self.get(name, &[rows, columns])?, rows, columns))
    }

    fn values_of(&self, entry: &Entry) -> Result<Vec<f32>> {
        let n: usize = entry.shape.iter().product();
        let extent = if entry.strides.is_empty() || n == 0 {
            n
        } else {
            1 + entry.shape.iter().zip(&entry.strides).map(|(size, stride)| (size - 1) * stride).sum::<usize>()
        };
        let too_large = || self.damaged("a tensor is larger than the file".to_owned());
        let size = extent.checked_mul(entry.kind.size()).ok_or_else(too_large)?;
        let failed = |error: std::io::Error| self.damaged("it is cut off".to_owned()).with_source(error);
        let file = || {
            File::open(&self.path).map_err(|error| {
                Error::new(ErrorKind::Io, format!("cannot open {}", self.path.display())).with_source(error)
            })
        };
        let bytes = match &entry.place {
            Place::Bytes { start, length } => {
                if *length != size {
                    return Err(self.damaged("a tensor has another length than its shape".to_owned()));
                }
                let mut file = file()?;
                file.seek(SeekFrom::Start(*start)).map_err(failed)?;
                read_exactly(&mut file, size).map_err(failed)?
            }
            Place::Member { name, skip_bytes } => {
                let mut zip = open_zip(&self.path)?;
                let mut member = zip
                    .by_name(name)
                    .map_err(|error| self.damaged(format!("{name} cannot be read")).with_source(error))?;
                if (member.size() as usize) < skip_bytes.saturating_add(size) {
                    return Err(too_large());
                }
                std::io::copy(&mut member.by_ref().take(*skip_bytes as u64), &mut std::io::sink()).map_err(failed)?;
                read_exactly(&mut member, size).map_err(failed)?
            }
        };
        let values = entry.kind.decode(&bytes);
        if entry.strides.is_empty() || is_c_order(&entry.shape, &entry.strides) {
            return Ok(values);
        }
        let mut out = Vec::with_capacity(n);
        let mut index = vec![0usize; entry.shape.len()];
        for _ in 0..n {
            out.push(values[index.iter().zip(&entry.strides).map(|(i, stride)| i * stride).sum::<usize>()]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < entry.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(out)
    }
}

/// A row-major matrix with rows and columns exchanged.
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row_tile in (0..rows).step_by(TILE) {
        for column_tile in (0..columns).step_by(TILE) {
            for row in row_tile..(row_tile + TILE).min(rows) {
                for column in column_tile..(column_tile + TILE).min(columns) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

fn is_c_order(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let right = size == 1 || stride == expected;
        expected *= size;
        right
    })
}

fn read_exactly(from: &mut impl Read, n: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(n as u64).read_to_end(&mut bytes)?;
    if bytes.len() < n { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

fn damaged(path: &Path, message: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{}: {message}", path.display()))
}

fn open_zip(path: &Path) -> Result<zip::ZipArchive<BufReader<File>>> {
    let file = File::open(path).map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, format!("cannot open {}", path.display())).with_source(error)
    })?;
    zip::ZipArchive::new(BufReader::new(file)).map_err(|error| {
        let what = "it is not a zip archive, which npz files are and pt files that PyTorch 1.6 or later wrote; save it again \
                    with torch.save, or as safetensors";
        damaged(path, what.to_owned()).with_source(error)
    })
}

fn safetensors(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => return damaged(path, "it is empty or cut off".to_owned()),
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("cannot read {}", path.display())).with_source(error)
    };
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut head = [0; 8];
    file.read_exact(&mut head).map_err(failed)?;
    let length = u64::from_le_bytes(head);
    if length > size.saturating_sub(8) {
        return Err(damaged(path, "its header is longer than the file".to_owned()));
    }
    let header = read_exactly(&mut file, length as usize).map_err(failed)?;
    let header: BTreeMap<String, Value> =
        serde_json::from_slice(&header).map_err(|error| damaged(path, error.to_string()))?;
    let mut entries = BTreeMap::new();
    for (name, info) in header {
        if name == "__metadata__" {
            continue;
        }
        let wrong = || damaged(path, format!("{name}: its header entry is damaged"));
        let numbers = |key: &str| -> Option<Vec<usize>> {
            info.get(key)?.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize)).collect()
        };
        let shape = numbers("shape").ok_or_else(wrong)?;
        let [start, end] = numbers("data_offsets").ok_or_else(wrong)?[..] else { return Err(wrong()) };
        let kind = match info.get("dtype").and_then(Value::as_str) {
            Some("F16") => Type::F16,
            Some("BF16") => Type::Bf16,
            Some("F32") => Type::F32,
            Some("F64") => Type::F64,
            Some("I8") => Type::I8,
            Some("I16") => Type::I16,
            Some("I32") => Type::I32,
            Some("I64") => Type::I64,
            Some("U8") => Type::U8,
            Some("BOOL") => Type::Bool,
            other => {
                let other = other.unwrap_or("nothing");
                return Err(damaged(path, format!("{name}: expected F16, BF16, F32 or F64, got {other}")));
            }
        };
        let length = end.checked_sub(start).ok_or_else(wrong)?;
        let place = Place::Bytes { start: 8 + length_of(head) + start as u64, length };
        entries.insert(name, Entry { kind, shape, strides: Vec::new(), place });
    }
    Ok(entries)
}

fn length_of(head: [u8; 8]) -> u64 {
    u64::from_le_bytes(head)
}

fn npz(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let mut zip = open_zip(path)?;
    let mut entries = BTreeMap::new();
    for i in 0..zip.len() {
        let mut member = zip.by_index(i).map_err(|error| damaged(path, format!("member {i}")).with_source(error))?;
        let member_name = member.name().to_owned();
        let Some(name) = member_name.strip_suffix(".npy") else { continue };
        let wrong = |what: &str| damaged(path, format!("{name}: {what}"));
        let mut head = [0; 8];
        member.read_exact(&mut head).map_err(|_| wrong("it is cut off"))?;
        if &head[..6] != b"\x93NUMPY" {
            return Err(wrong("it is not a NumPy array"));
        }
        let size = if head[6] == 1 { 2 } else { 4 };
        let length = read_exactly(&mut member, size).map_err(|_| wrong("it is cut off"))?;
        let length = length.iter().rev().fold(0usize, |length, &byte| length << 8 | usize::from(byte));
        let header = read_exactly(&mut member, length).map_err(|_| wrong("it is cut off"))?;
        let header = String::from_utf8_lossy(&header).into_owned();
        let (kind, fortran, shape) = npy_header(&header).map_err(|what| wrong(&what))?;
        let strides = if fortran {
            shape.iter().scan(1, |stride, &size| Some(std::mem::replace(stride, *stride * size))).collect()
        } else {
            Vec::new()
        };
        let place = Place::Member { name: member_name.clone(), skip_bytes: 8 + size + length };
        entries.insert(name.to_owned(), Entry { kind, shape, strides, place });
    }
    Ok(entries)
}

/// Type, order and shape in the header of an npy file: a Python dictionary such as
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn npy_header(header: &str) -> std::result::Result<(Type, bool, Vec<usize>), String> {
    let after = |key: &str| {
        let quoted = format!("'{key}':");
        header.split_once(&quoted).map(|(_, rest)| rest.trim_start()).ok_or_else(|| format!("its header has no {key}"))
    };
    let descr = after("descr")?.trim_start_matches('\'').split('\'').next().unwrap_or_default().to_owned();
    let kind = match descr.trim_start_matches(['<', '|', '=']) {
        "f2" => Type::F16,
        "f4" => Type::F32,
        "f8" => Type::F64,
        "i1" => Type::I8,
        "i2" => Type::I16,
        "i4" => Type::I32,
        "i8" => Type::I64,
        "u1" => Type::U8,
        "b1" => Type::Bool,
        _ => return Err(format!("expected values of type f2, f4 or f8, got {descr}")),
    };
    let fortran = after("fortran_order")?.starts_with("True");
    let shape = after("shape")?;
    let shape = shape.trim_start_matches('(').split(')').next().unwrap_or_default();
    let sizes = shape.split(',').map(str::trim).filter(|part| !part.is_empty());
    let shape = sizes.map(str::parse).collect::<std::result::Result<Vec<usize>, _>>();
    Ok((kind, fortran, shape.map_err(|_| "its shape is damaged".to_owned())?))
}

fn pt(path: &Path) -> Result<(BTreeMap<String, Entry>, Value)> {
    let mut zip = open_zip(path)?;
    let pickle = zip.file_names().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl")).map(str::to_owned);
    let Some(pickle) = pickle else {
        return Err(damaged(path, "it holds no data.pkl, which torch.save writes".to_owned()));
    };
    let folder = pickle.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let member = zip.by_name(&pickle).map_err(|error| damaged(path, pickle.clone()).with_source(error))?;
    let mut stack = Stack::empty();
    let object = stack
        .read_loop(&mut BufReader::new(member))
        .and_then(|()| stack.finalize())
        .map_err(|error| damaged(path, format!("its pickle holds more than tensors and numbers ({error})")))?;
    let mut entries = BTreeMap::new();
    let values = walk("", object, &folder, &mut entries).map_err(|what| damaged(path, what))?;
    Ok((entries, values))
}

/// Collects the tensors of an unpickled object under dotted names, and returns the rest as JSON. A `state_dict` in a
/// dictionary is left out of the names; a file that is one tensor calls it `tensor`.
fn walk(
    name: &str,
    object: Object,
    folder: &str,
    entries: &mut BTreeMap<String, Entry>,
) -> std::result::Result<Value, String> {
    Ok(match object {
        Object::Int(n) => n.into(),
        Object::Long(n) => n.into(),
        Object::Float(x) => serde_json::Number::from_f64(x).map_or(Value::Null, Value::Number),
        Object::Unicode(text) => text.into(),
        Object::Bool(b) => b.into(),
        Object::List(items) | Object::Tuple(items) => {
            let items = items.into_iter().enumerate();
            Value::Array(
                items
                    .map(|(i, item)| walk(&format!("{name}.{i}"), item, folder, entries))
                    .collect::<std::result::Result<_, _>>()?,
            )
        }
        Object::Dict(pairs) => {
            let mut map = serde_json::Map::new();
            for (key, value) in pairs {
                let Object::Unicode(key) = key else { continue };
                let inner = match (name, key.as_str()) {
                    ("", "state_dict" | "model_state_dict") => String::new(),
                    ("", key) => key.to_owned(),
                    (name, key) => format!("{name}.{key}"),
                };
                let value = walk(&inner, value, folder, entries)?;
                if !value.is_null() {
                    map.insert(key, value);
                }
            }
            Value::Object(map)
        }
        Object::Build { callable, .. } => walk(name, *callable, folder, entries)?,
        Object::Reduce { callable, args } => {
            if let Some(entry) = tensor(*callable, *args, folder)? {
                entries.insert(if name.is_empty() { "tensor".to_owned() } else { name.to_owned() }, entry);
            }
            Value::Null
        }
        _ => Value::Null,
    })
}

/// A tensor that PyTorch's pickle rebuilds; `None` if the call makes something else.
fn tensor(callable: Object, args: Object, folder: &str) -> std::result::Result<Option<Entry>, String> {
    let (Object::Class { module_name, class_name }, Object::Tuple(mut args)) = (callable, args) else {
        return Ok(None);
    };
    match (module_name.as_str(), class_name.as_str()) {
        ("torch._utils", "_rebuild_parameter") if !args.is_empty() => match args.swap_remove(0) {
            Object::Reduce { callable, args } => tensor(*callable, *args, folder),
            _ => Ok(None),
        },
        ("torch._tensor", "_rebuild_from_type_v2") if args.len() > 2 => {
            let inner = args.swap_remove(2);
            tensor(args.swap_remove(0), inner, folder)
        }
        ("torch._utils", "_rebuild_tensor_v2") if args.len() >= 4 => {
            let sizes = |object: &Object| match object {
                Object::Tuple(items) => items
                    .iter()
                    .map(|item| item.clone().int_or_long().ok().and_then(|n| usize::try_from(n).ok()))
                    .collect::<Option<Vec<usize>>>(),
                _ => None,
            };
            let wrong = || "a tensor's description is damaged".to_owned();
            let (shape, strides) = (sizes(&args[2]).ok_or_else(wrong)?, sizes(&args[3]).ok_or_else(wrong)?);
            let skip = args[1].clone().int_or_long().ok().and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
            let Object::PersistentLoad(storage) = args.swap_remove(0) else { return Err(wrong()) };
            let Object::Tuple(storage) = *storage else { return Err(wrong()) };
            let (Some(Object::Class { class_name, .. }), Some(Object::Unicode(key))) = (storage.get(1), storage.get(2))
            else {
                return Err(wrong());
            };
            let kind = match class_name.as_str() {
                "FloatStorage" => Type::F32,
                "DoubleStorage" => Type::F64,
                "HalfStorage" => Type::F16,
                "BFloat16Storage" => Type::Bf16,
                "CharStorage" => Type::I8,
                "ShortStorage" => Type::I16,
                "IntStorage" => Type::I32,
                "LongStorage" => Type::I64,
                "ByteStorage" => Type::U8,
                "BoolStorage" => Type::Bool,
                other => {
                    return Err(format!("expected values of type float16, bfloat16, float32 or float64, got {other}"));
                }
            };
            if shape.len() != strides.len() {
                return Err(wrong());
            }
            let place = Place::Member { name: format!("{folder}data/{key}"), skip_bytes: skip * kind.size() };
            Ok(Some(Entry { kind, shape, strides, place }))
        }
        _ => Ok(None),
    }
}
