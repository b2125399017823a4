//! Memory-mapped files, and views into them that keep the mapping alive.

use crate::error::{Error, Result};
use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// Where the bytes of a file live.
enum Map {
    File(memmap2::Mmap),
    /// Files made in memory: tests, fuzzing, tensors converted at load.
    Owned(Box<[u8]>),
}

impl Map {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::File(m) => m,
            Self::Owned(b) => b,
        }
    }
}

/// A shared, immutable view of bytes. Cloning and slicing copy nothing.
#[derive(Clone)]
pub struct Bytes {
    map: Arc<Map>,
    range: Range<usize>,
}

impl Bytes {
    /// Maps `path` for reading.
    ///
    /// The file must not be shortened while mapped: a read beyond its new end raises SIGBUS, which no
    /// library can turn into an error. Replace model files by rename, as this library's own writer does.
    pub fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        if !meta.is_file() {
            return Err(Error::malformed(path, "is not a regular file"));
        }
        if meta.len() == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the mapping is read-only and private; the one hazard, a file cut short by another
        // process, is documented above and cannot be excluded by any check here.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let len = map.len();
        Ok(Self { map: Arc::new(Map::File(map)), range: 0..len })
    }

    /// The part `range` of this view, or `None` if it reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { map: self.map.clone(), range: start..self.range.start + range.end })
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { map: Arc::new(Map::Owned(bytes.into_boxed_slice())), range: 0..len }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map.bytes()[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes)", self.len())
    }
}
