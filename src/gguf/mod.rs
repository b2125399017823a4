//! The GGUF container: reading and writing it. Knows no model.
//!
//! [`Gguf`] maps a file (or all shards of a split one), checks everything it says, and gives metadata and
//! tensors; tensor bytes are not copied. [`write::Writer`] makes files. Source of the format: the GGUF
//! specification, versions 2 and 3, little endian.

mod chunks;
mod get;
mod read;
mod shards;
mod types;
mod value;
pub mod write;

pub use types::StoredType;
pub use value::{Array, Strings, Value, ValueType};

use crate::error::{Error, Result};
use crate::map::Bytes;
use crate::tensor::{Tensor, TensorType};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The bytes every GGUF file starts with.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Most dimensions of a tensor.
pub const MAX_DIMS: usize = 4;
/// Most bytes of a metadata key.
pub const MAX_KEY_BYTES: usize = 65_535;
/// Most bytes of a tensor's name.
pub const MAX_NAME_BYTES: usize = 64;
/// Alignment of tensors in a file that does not set `general.alignment`.
pub const DEFAULT_ALIGNMENT: usize = 32;
/// The specification wants a multiple of 8, which also keeps every element type aligned in memory.
pub const MIN_ALIGNMENT: usize = 8;
/// The largest page size in use; no file has a reason to ask for more.
pub const MAX_ALIGNMENT: usize = 65_536;

const ALIGNMENT_KEY: &str = "general.alignment";

/// A tensor as the file describes it. `data` is a view into the file, not a copy.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    /// Any type of the format, also those this engine does not compute with.
    pub ty: &'static StoredType,
    /// 1 to 4 dimensions, fastest first, all at least 1; `dims[0]` is a whole number of blocks.
    pub dims: Vec<usize>,
    /// Where the data starts, from the start of the file's data section.
    pub offset: u64,
    /// Which shard the tensor lies in, from 0.
    pub shard: usize,
    /// `ty.tensor_bytes(&dims)` bytes.
    pub data: Bytes,
}

impl TensorInfo {
    /// Number of values: the product of the dimensions.
    pub fn values(&self) -> usize {
        self.dims.iter().product()
    }
}

/// An opened GGUF file. Cheap to keep: metadata is in memory, tensors stay in the mapped file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    version: u32,
    metadata: Vec<(String, Value)>,
    /// Place of each key in `metadata`.
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    /// Place of each name in `tensors`.
    names: HashMap<String, usize>,
    shards: Vec<Shard>,
}

/// One file of a model: there are several only where a model is split.
#[derive(Clone, Debug)]
pub struct Shard {
    pub path: PathBuf,
    /// The whole file.
    pub bytes: Bytes,
}

impl Gguf {
    /// Opens the file at `path`; if it is the first of several shards (`NAME-00001-of-0000N.gguf`), all.
    ///
    /// The metadata is then the first shard's. See [`Bytes::map`] for what must not happen to the files
    /// while they are open.
    ///
    /// # Errors
    ///
    /// `Io` if a file or shard cannot be read, `Malformed` if one is damaged or the shards do not belong
    /// together, `Unsupported` for other versions of the format and for a shard other than the first.
    pub fn open(path: &Path) -> Result<Self> {
        shards::open(path)
    }

    /// Parses a whole file in memory; `path` is only for messages. Errors are those of [`Gguf::open`].
    pub fn parse(path: &Path, bytes: Bytes) -> Result<Self> {
        let gguf = Self::single(path, bytes)?;
        match gguf.u32(shards::COUNT_KEY)? {
            Some(n) if n > 1 => Err(Error::unsupported(path, format!("one shard of {n} without the others"))),
            _ => Ok(gguf),
        }
    }

    /// One file, whether or not it is a shard.
    fn single(path: &Path, bytes: Bytes) -> Result<Self> {
        let read::Part { version, metadata, tensors } = read::part(path, &bytes, 0)?;
        let keys = metadata.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
        let names = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let shards = vec![Shard { path: path.to_owned(), bytes }];
        Ok(Self { path: path.to_owned(), version, metadata, keys, tensors, names, shards })
    }

    /// The file, for messages; of a split model, the first shard.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensors in the (first) file, in bytes.
    pub fn alignment(&self) -> usize {
        self.get(ALIGNMENT_KEY).and_then(check_alignment).unwrap_or(DEFAULT_ALIGNMENT)
    }

    /// All metadata in the order of the file.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// Sets `key` to `value` in what was read, not in the file: a user may know better than the file.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.keys.get(key) {
            Some(&at) => self.metadata[at].1 = value,
            None => {
                self.keys.insert(key.to_owned(), self.metadata.len());
                self.metadata.push((key.to_owned(), value));
            }
        }
    }

    /// All tensors, shard by shard in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensors of one shard, in the order of its file: for rewriting a model shard by shard.
    pub fn shard_tensors(&self, shard: usize) -> &[TensorInfo] {
        let start = self.tensors.partition_point(|t| t.shard < shard);
        let end = self.tensors.partition_point(|t| t.shard <= shard);
        &self.tensors[start..end]
    }

    /// The files, at least one.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Checks that no file was cut short since it was opened; reading from one that was raises SIGBUS.
    pub fn check_lengths(&self) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.bytes.check_length(&shard.path))
    }

    /// The tensor called `name`, of any type.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor called `name`, to compute with; `None` if the file has none.
    ///
    /// Its bytes are aligned to at least [`MIN_ALIGNMENT`] in memory, unless this file was parsed from a
    /// view that starts at an odd place.
    ///
    /// # Errors
    ///
    /// `Unsupported` if this engine does not compute with the tensor's type.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(info) = self.info(name) else { return Ok(None) };
        let ty = TensorType::from_id(info.ty.id).ok_or_else(|| {
            let path = &self.shards[info.shard].path;
            Error::unsupported(path, format!("tensor {} has the type {}", quoted(name), info.ty))
        })?;
        Ok(Some(Tensor { name: info.name.clone(), ty, dims: info.dims.clone(), data: info.data.clone() }))
    }
}

/// The alignment that `general.alignment` asks for, or `None` if it is out of its range.
fn check_alignment(value: &Value) -> Option<usize> {
    let n = value.integer().and_then(|n| usize::try_from(n).ok())?;
    (n.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&n)).then_some(n)
}

/// A name out of a file as a message can show it: quoted, control characters escaped, not too long.
fn quoted(name: &str) -> String {
    const MOST: usize = 80;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}
