//! Parsing of one GGUF file from bytes that nobody vouches for.
//!
//! Every count and length is compared with the bytes that remain before anything is allocated or read.
//! Source of the layout: the GGUF specification, versions 2 and 3, little endian.

use super::{Array, DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MAX_DIMS, MAX_KEY_BYTES, MAX_NAME_BYTES};
use super::{MIN_ALIGNMENT, StoredType, Strings, TensorInfo, Value, quoted};
use crate::error::{Error, Result};
use crate::map::Bytes;
use std::collections::HashSet;
use std::path::Path;

/// Fewest bytes of a metadata entry: length, one byte of key, type, one byte of value.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor's description: length, no name, dimension count, one dimension, type, offset.
const MIN_INFO_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// What one file says.
pub(super) struct Part {
    pub version: u32,
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<TensorInfo>,
}

/// Parses one file; `shard` is its number, from 0, and goes into the tensors.
pub(super) fn part(path: &Path, bytes: &Bytes, shard: usize) -> Result<Part> {
    let mut cursor = Cursor { path, bytes, at: 0 };
    let version = header(&mut cursor)?;
    let n_tensors = cursor.count("the number of tensors", MIN_INFO_BYTES)?;
    let n_entries = cursor.count("the number of metadata entries", MIN_ENTRY_BYTES)?;
    let metadata = entries(&mut cursor, n_entries)?;
    let alignment = alignment(path, &metadata)?;
    let described = tensor_infos(&mut cursor, n_tensors)?;
    let data = cursor.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    let mut tensors = Vec::with_capacity(described.len());
    for info in described {
        tensors.push(info.locate(path, bytes, data, alignment, shard)?);
    }
    Ok(Part { version, metadata, tensors })
}

/// Reads magic and version; returns the version, 2 or 3.
fn header(cursor: &mut Cursor) -> Result<u32> {
    let magic = cursor.take(4, "the magic bytes")?;
    if magic != MAGIC {
        return Err(cursor.malformed("is not a GGUF file: it does not start with the bytes \"GGUF\""));
    }
    let version = cursor.u32("the version")?;
    let unsupported = |what: String| Err(Error::unsupported(cursor.path, what));
    match version {
        2 | 3 => Ok(version),
        1 => unsupported("GGUF version 1; convert the file to version 3".into()),
        v if v & 0xffff == 0 && v != 0 => unsupported(format!("big-endian GGUF (version {})", v.swap_bytes())),
        v => unsupported(format!("GGUF version {v}; versions 2 and 3 are")),
    }
}

fn entries(cursor: &mut Cursor, n: usize) -> Result<Vec<(String, Value)>> {
    let mut metadata = Vec::new();
    let mut seen = HashSet::new();
    for i in 0..n {
        let key = cursor.name(&format!("metadata key {i}"), MAX_KEY_BYTES)?;
        if key.is_empty() {
            return Err(cursor.malformed(format!("metadata key {i} is empty")));
        }
        if !seen.insert(key) {
            return Err(cursor.malformed(format!("key {} occurs twice", quoted(key))));
        }
        metadata.push((key.to_owned(), value(cursor, key)?));
    }
    Ok(metadata)
}

fn value(cursor: &mut Cursor, key: &str) -> Result<Value> {
    Ok(match cursor.u32(key)? {
        0 => cursor.number::<u8>(key)?.into(),
        1 => cursor.number::<i8>(key)?.into(),
        2 => cursor.number::<u16>(key)?.into(),
        3 => cursor.number::<i16>(key)?.into(),
        4 => cursor.number::<u32>(key)?.into(),
        5 => cursor.number::<i32>(key)?.into(),
        6 => cursor.number::<f32>(key)?.into(),
        7 => {
            let byte = cursor.number::<u8>(key)?;
            boolean(byte).ok_or_else(|| cursor.malformed(format!("key {}: {byte} is not a bool", quoted(key))))?.into()
        }
        8 => {
            let text = std::str::from_utf8(cursor.prefixed(key)?);
            text.map_err(|_| cursor.malformed(format!("key {} is not valid UTF-8", quoted(key))))?.into()
        }
        9 => array(cursor, key)?.into(),
        10 => cursor.number::<u64>(key)?.into(),
        11 => cursor.number::<i64>(key)?.into(),
        12 => cursor.number::<f64>(key)?.into(),
        id => return Err(cursor.malformed(format!("key {} has the unknown type {id}", quoted(key)))),
    })
}

fn array(cursor: &mut Cursor, key: &str) -> Result<Array> {
    Ok(match cursor.u32(key)? {
        0 => Array::U8(cursor.numbers(key)?),
        1 => Array::I8(cursor.numbers(key)?),
        2 => Array::U16(cursor.numbers(key)?),
        3 => Array::I16(cursor.numbers(key)?),
        4 => Array::U32(cursor.numbers(key)?),
        5 => Array::I32(cursor.numbers(key)?),
        6 => Array::F32(cursor.numbers(key)?),
        7 => {
            let bytes = cursor.numbers::<u8>(key)?;
            let bools: Option<Vec<bool>> = bytes.into_iter().map(boolean).collect();
            Array::Bool(bools.ok_or_else(|| cursor.malformed(format!("key {}: an item is not a bool", quoted(key))))?)
        }
        8 => Array::Str(strings(cursor, key)?),
        9 => return Err(Error::unsupported(cursor.path, format!("key {} is an array of arrays", quoted(key)))),
        10 => Array::U64(cursor.numbers(key)?),
        11 => Array::I64(cursor.numbers(key)?),
        12 => Array::F64(cursor.numbers(key)?),
        id => return Err(cursor.malformed(format!("key {} is an array of the unknown type {id}", quoted(key)))),
    })
}

fn strings(cursor: &mut Cursor, key: &str) -> Result<Strings> {
    let n = cursor.count(key, 8)?;
    let mut ends = Vec::with_capacity(n);
    let mut text = Vec::new();
    for _ in 0..n {
        text.extend_from_slice(cursor.prefixed(key)?);
        ends.push(text.len());
    }
    Strings::cut(text, ends)
        .map_err(|i| cursor.malformed(format!("key {}: string {i} is not valid UTF-8", quoted(key))))
}

fn boolean(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn alignment(path: &Path, metadata: &[(String, Value)]) -> Result<usize> {
    let Some((key, value)) = metadata.iter().find(|(key, _)| key == super::ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    super::check_alignment(value).ok_or_else(|| {
        let wanted = format!("a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
        Error::malformed(path, format!("{key} is {value}, not {wanted}"))
    })
}

/// A tensor as its description says, before its place in the file is checked.
struct Described {
    name: String,
    ty: &'static StoredType,
    dims: Vec<usize>,
    bytes: usize,
    offset: u64,
}

impl Described {
    /// Checks where the tensor lies in the data section, which starts at `data`, and cuts its bytes out.
    fn locate(self, path: &Path, file: &Bytes, data: usize, alignment: usize, shard: usize) -> Result<TensorInfo> {
        let Self { name, ty, dims, bytes, offset } = self;
        let malformed = |what: String| Error::malformed(path, format!("tensor {} {what}", quoted(&name)));
        if !offset.is_multiple_of(alignment as u64) {
            return Err(malformed(format!("is at offset {offset}, not a multiple of the alignment {alignment}")));
        }
        let start = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(data));
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?));
        let Some(data) = range.and_then(|range| file.slice(range)) else {
            let have = file.len().saturating_sub(data);
            return Err(malformed(format!("has {bytes} bytes at offset {offset}; the data section has {have}")));
        };
        Ok(TensorInfo { name, ty, dims, offset, shard, data })
    }
}

fn tensor_infos(cursor: &mut Cursor, n: usize) -> Result<Vec<Described>> {
    let path = cursor.path;
    let mut infos = Vec::new();
    let mut seen = HashSet::new();
    for i in 0..n {
        let name = cursor.name(&format!("the name of tensor {i}"), MAX_NAME_BYTES)?;
        if !seen.insert(name) {
            return Err(cursor.malformed(format!("tensor {} occurs twice", quoted(name))));
        }
        let n_dims = cursor.u32(name)? as usize;
        let malformed = |what: String| Error::malformed(path, format!("tensor {} {what}", quoted(name)));
        if n_dims == 0 || n_dims > MAX_DIMS {
            return Err(malformed(format!("has {n_dims} dimensions, 1 to {MAX_DIMS} are possible")));
        }
        let mut dims = Vec::with_capacity(n_dims);
        for _ in 0..n_dims {
            let dim = cursor.number::<u64>(name)?;
            dims.push(usize::try_from(dim).map_err(|_| malformed(format!("has the dimension {dim}")))?);
        }
        let id = cursor.u32(name)?;
        let ty = StoredType::from_id(id).ok_or_else(|| malformed(format!("has the unknown type {id}")))?;
        let bytes = ty.tensor_bytes(&dims).map_err(malformed)?;
        let offset = cursor.number::<u64>(name)?;
        infos.push(Described { name: name.to_owned(), ty, dims, bytes, offset });
    }
    Ok(infos)
}

/// A reading position that cannot leave its bytes. `what` says what was being read when they ran out.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::malformed(self.path, what)
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let Some(taken) = self.bytes[self.at..].get(..n) else { return Err(self.ended(n, what)) };
        self.at += n;
        Ok(taken)
    }

    /// Apart from `take`, so that the path on which nothing is wrong stays short enough to inline.
    #[cold]
    fn ended(&self, n: usize, what: &str) -> Error {
        let (what, have, at) = (quoted(what), self.remaining(), self.at);
        self.malformed(format!("ends inside {what}: {n} bytes wanted at byte {at}, {have} left"))
    }

    fn number<N: Number>(&mut self, what: &str) -> Result<N> {
        Ok(N::from_le(self.take(N::BYTES, what)?))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.number(what)
    }

    /// Reads the number of items that follow, each of at least `item_bytes`, which must fit what remains.
    #[inline]
    fn count(&mut self, what: &str, item_bytes: usize) -> Result<usize> {
        let n = self.number::<u64>(what)?;
        let most = self.remaining() / item_bytes;
        match usize::try_from(n) {
            Ok(n) if n <= most => Ok(n),
            _ => Err(self.too_many(n, most, what)),
        }
    }

    #[cold]
    fn too_many(&self, n: u64, most: usize, what: &str) -> Error {
        self.malformed(format!("{}: the count {n} is too large, at most {most} fit", quoted(what)))
    }

    fn numbers<N: Number>(&mut self, what: &str) -> Result<Vec<N>> {
        let n = self.count(what, N::BYTES)?;
        // No overflow: `count` has checked that so many bytes remain.
        Ok(self.take(n * N::BYTES, what)?.chunks_exact(N::BYTES).map(N::from_le).collect())
    }

    /// Reads a length and so many bytes.
    fn prefixed(&mut self, what: &str) -> Result<&'a [u8]> {
        let len = self.count(what, 1)?;
        self.take(len, what)
    }

    fn name(&mut self, what: &str, most: usize) -> Result<&'a str> {
        let bytes = self.prefixed(what)?;
        if bytes.len() > most {
            return Err(self.malformed(format!("{what} has {} bytes, at most {most} are possible", bytes.len())));
        }
        std::str::from_utf8(bytes).map_err(|_| self.malformed(format!("{what} is not valid UTF-8")))
    }
}

/// A number of a fixed size in the file.
trait Number: Sized {
    const BYTES: usize;
    /// `bytes` has the length `BYTES`.
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($ty:ty),*) => { $(
        impl Number for $ty {
            const BYTES: usize = size_of::<$ty>();

            fn from_le(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$ty>()];
                own.copy_from_slice(bytes);
                <$ty>::from_le_bytes(own)
            }
        }
    )* };
}
number!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);
