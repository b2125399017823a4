//! Writing GGUF files (version 3, little endian).

pub use super::chunks::ChunkWriter;
use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, Gguf, MAGIC, MAX_ALIGNMENT, MAX_KEY_BYTES};
use super::{MAX_NAME_BYTES, MIN_ALIGNMENT, StoredType, Value, check_alignment, quoted};
use crate::error::{Error, Result};
use crate::map::Bytes;
use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Collects metadata and tensors, then writes them. Tensors are written in the order they were added, each
/// at a multiple of the alignment: 32 bytes, or what the metadata key `general.alignment` says.
#[derive(Default)]
pub struct Writer<'a> {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Entry<'a>>,
    names: HashSet<String>,
}

struct Entry<'a> {
    name: String,
    ty: &'static StoredType,
    dims: Vec<usize>,
    bytes: usize,
    data: Data<'a>,
}

/// Where the bytes of a tensor come from.
pub enum Data<'a> {
    /// From memory, lent or owned.
    Memory(Cow<'a, [u8]>),
    /// From a mapped file.
    Mapped(Bytes),
    /// Made piece by piece while the file is written, so that they are never in memory together.
    Chunks(Box<dyn Iterator<Item = Result<Vec<u8>>> + 'a>),
}

impl<'a> From<&'a [u8]> for Data<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Memory(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Data<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(Cow::Owned(bytes))
    }
}

impl From<Bytes> for Data<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Mapped(bytes)
    }
}

impl<'a> Writer<'a> {
    /// A writer with no metadata and no tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata key; a key that is already set keeps its place and gets the new value.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        let value = value.into();
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let reason = format!("{} has {} bytes, 1 to {MAX_KEY_BYTES} are possible", quoted(key), key.len());
            return Err(Error::argument("metadata key", reason));
        }
        if key == ALIGNMENT_KEY && check_alignment(&value).is_none() {
            let reason = format!("{value} is not a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
            return Err(Error::argument(ALIGNMENT_KEY, reason));
        }
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        Ok(())
    }

    /// Takes a metadata key out, if it is there.
    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|(k, _)| k != key);
    }

    /// Sets all metadata of `from`, except what says how that model was split into files.
    pub fn set_all(&mut self, from: &Gguf) -> Result<()> {
        let kept = from.metadata().iter().filter(|(key, _)| !key.starts_with("split."));
        kept.cloned().try_for_each(|(key, value)| self.set(&key, value))
    }

    /// Adds a tensor of shape `dims` (fastest first) and type `type_id`; `data` holds its bytes as stored.
    ///
    /// # Errors
    ///
    /// `Argument` for a name that is taken, empty or of 64 bytes or more (ggml's limit, which is one less
    /// than what this library reads), an unknown type, a shape the type cannot have, or a wrong number of bytes.
    pub fn tensor(&mut self, name: &str, type_id: u32, dims: &[usize], data: impl Into<Data<'a>>) -> Result<()> {
        let refused = |reason: String| Error::argument("tensor", format!("{}: {reason}", quoted(name)));
        if name.is_empty() || name.len() >= MAX_NAME_BYTES {
            return Err(refused(format!(
                "the name has {} bytes, 1 to {} are possible",
                name.len(),
                MAX_NAME_BYTES - 1
            )));
        }
        let ty = StoredType::from_id(type_id).ok_or_else(|| refused(format!("unknown type {type_id}")))?;
        let bytes = ty.tensor_bytes(dims).map_err(refused)?;
        let data = data.into();
        let given = match &data {
            Data::Memory(memory) => memory.len(),
            Data::Mapped(mapped) => mapped.len(),
            Data::Chunks(_) => bytes,
        };
        if given != bytes {
            return Err(refused(format!("{given} bytes were given, {bytes} are needed")));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(refused("there is already a tensor of this name".into()));
        }
        self.tensors.push(Entry { name: name.to_owned(), ty, dims: dims.to_vec(), bytes, data });
        Ok(())
    }

    /// Writes the file at `path`.
    ///
    /// It is written under a temporary name (`.part` at its end) in the same folder, synced, and renamed: so
    /// `path` has its old content or all of the new. On an error the temporary file is removed; after a
    /// killed process it stays and can be deleted.
    pub fn write(self, path: &Path) -> Result<()> {
        let mut part = PartFile::create(path)?;
        self.write_to(path, &mut part.out)?;
        part.finish()
    }

    /// The file in memory.
    pub fn to_bytes(self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.write_to(Path::new("memory"), &mut out)?;
        Ok(out)
    }

    /// Writes the file to `out`; `path` is for messages.
    pub fn write_to(self, path: &Path, out: &mut dyn Write) -> Result<()> {
        let io = |e| Error::io(path, e);
        let alignment =
            self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY).and_then(|(_, value)| check_alignment(value));
        let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT);
        let mut header = self.header(alignment)?;
        header.resize(header.len().next_multiple_of(alignment), 0);
        out.write_all(&header).map_err(io)?;
        let padding = vec![0; alignment];
        for entry in self.tensors {
            let bytes = entry.bytes;
            entry.write(path, out)?;
            out.write_all(&padding[..bytes.next_multiple_of(alignment) - bytes]).map_err(io)?;
        }
        Ok(())
    }

    /// Everything before the tensors' data, without the padding after it.
    fn header(&self, alignment: usize) -> Result<Vec<u8>> {
        let mut out = MAGIC.to_vec();
        put(&mut out, 3_u32.to_le_bytes());
        put_len(&mut out, self.tensors.len());
        put_len(&mut out, self.metadata.len());
        for (key, value) in &self.metadata {
            put_str(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0_usize;
        for Entry { name, ty, dims, bytes, .. } in &self.tensors {
            put_str(&mut out, name);
            put(&mut out, (dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|&d| put_len(&mut out, d));
            put(&mut out, ty.id.to_le_bytes());
            put_len(&mut out, offset);
            let next = bytes.checked_next_multiple_of(alignment).and_then(|n| offset.checked_add(n));
            offset = next.ok_or_else(|| Error::argument("tensor", "all tensors together overflow"))?;
        }
        Ok(out)
    }
}

impl Entry<'_> {
    fn write(self, path: &Path, out: &mut dyn Write) -> Result<()> {
        let io = |e| Error::io(path, e);
        let Self { name, bytes, .. } = self;
        let wrong = |given| {
            Error::argument("tensor", format!("{}: {given} bytes were given, {bytes} are needed", quoted(&name)))
        };
        match self.data {
            Data::Memory(memory) => out.write_all(&memory).map_err(io),
            Data::Mapped(mapped) => out.write_all(&mapped).map_err(io),
            Data::Chunks(chunks) => {
                let mut given = 0_usize;
                for chunk in chunks {
                    let chunk = chunk?;
                    given = given.saturating_add(chunk.len());
                    if given > bytes {
                        return Err(wrong(given));
                    }
                    out.write_all(&chunk).map_err(io)?;
                }
                if given == bytes { Ok(()) } else { Err(wrong(given)) }
            }
        }
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    put(out, (len as u64).to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    put(out, (value.ty() as u32).to_le_bytes());
    match value {
        Value::U8(v) => put(out, v.to_le_bytes()),
        Value::I8(v) => put(out, v.to_le_bytes()),
        Value::U16(v) => put(out, v.to_le_bytes()),
        Value::I16(v) => put(out, v.to_le_bytes()),
        Value::U32(v) => put(out, v.to_le_bytes()),
        Value::I32(v) => put(out, v.to_le_bytes()),
        Value::F32(v) => put(out, v.to_le_bytes()),
        Value::Bool(v) => put(out, [u8::from(*v)]),
        Value::Str(v) => put_str(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => put(out, v.to_le_bytes()),
        Value::I64(v) => put(out, v.to_le_bytes()),
        Value::F64(v) => put(out, v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    put(out, (array.item_ty() as u32).to_le_bytes());
    put_len(out, array.len());
    match array {
        Array::U8(items) => out.extend_from_slice(items),
        Array::I8(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
        Array::U16(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
        Array::I16(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
        Array::U32(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
        Array::I32(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
        Array::F32(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
        Array::Bool(items) => out.extend(items.iter().map(|&v| u8::from(v))),
        Array::Str(items) => items.iter().for_each(|v| put_str(out, v)),
        Array::U64(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
        Array::I64(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
        Array::F64(items) => items.iter().for_each(|v| put(out, v.to_le_bytes())),
    }
}

/// A file under a temporary name beside its final one; removed when dropped unfinished.
pub(crate) struct PartFile {
    part: PathBuf,
    path: PathBuf,
    pub out: ChunkWriter<File>,
    finished: bool,
}

impl PartFile {
    /// Starts the file that will be `path`.
    pub fn create(path: &Path) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let Some(name) = path.file_name() else {
            return Err(Error::argument("path", format!("{} does not name a file", path.display())));
        };
        // Process and counter keep two writers of the same file apart.
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut part = OsString::from(name);
        part.push(format!(".{}-{unique}.part", std::process::id()));
        let part = path.with_file_name(part);
        let file = OpenOptions::new().write(true).create_new(true).open(&part).map_err(|e| Error::io(&part, e))?;
        let out = ChunkWriter::new(file, 0);
        Ok(Self { part, path: path.to_owned(), out, finished: false })
    }

    /// Syncs it and gives it its final name.
    pub fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io(&self.part, e))?;
        self.out.get_ref().sync_all().map_err(|e| Error::io(&self.part, e))?;
        fs::rename(&self.part, &self.path).map_err(|e| Error::io(&self.path, e))?;
        self.finished = true;
        sync_folder(&self.path)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.finished {
            // The error that got us here is the one to report.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Makes the rename itself durable. Only Unix can open a folder for that.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io(folder, e))?;
    }
    Ok(())
}
