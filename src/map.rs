//! Memory-mapped files, and views into them that keep the mapping alive.

use crate::error::{Error, Result};
use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// Where the bytes of a file live.
enum Map {
    /// The file stays open so that its present length can be asked for.
    File { map: memmap2::Mmap, file: File },
    /// Files made in memory: tests, fuzzing, tensors converted at load. Aligned as a mapping is, so that
    /// a tensor that is aligned in its file is aligned here too.
    Owned(Box<[Line]>),
}

/// A cache line of bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: all zero bytes are a valid array of bytes.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: an array of 64 bytes aligned to 64 has no padding, and every bit pattern is valid.
unsafe impl bytemuck::Pod for Line {}

impl Map {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::File { map, .. } => map,
            Self::Owned(lines) => bytemuck::cast_slice(lines),
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
    /// [`Bytes::check_length`] tells whether that has happened.
    pub fn map(path: &Path) -> Result<Self> {
        // Asked before opening: to open a named pipe waits for a writer.
        let is_file = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.is_file();
        if !is_file {
            return Err(Error::malformed(path, "is not a regular file"));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        if meta.len() == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: the mapping is read-only and private; the one hazard, a file cut short by another
        // process, is documented above and cannot be excluded by any check here.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        ask_for_huge_pages(&map);
        let len = map.len();
        Ok(Self { map: Arc::new(Map::File { map, file }), range: 0..len })
    }

    /// Checks that the file behind this view still has the bytes that were mapped; `path` is for the message.
    pub fn check_length(&self, path: &Path) -> Result<()> {
        let Map::File { map, file } = &*self.map else { return Ok(()) };
        let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if len < map.len() as u64 {
            return Err(Error::malformed(path, format!("was cut from {} to {len} bytes while in use", map.len())));
        }
        Ok(())
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

/// Has what is not in the page cache yet read in huge pages, which are mapped whole: a step that reads all weights
/// through small ones waits for address translations. A system that has none, or refuses, costs speed alone.
fn ask_for_huge_pages(map: &memmap2::Mmap) {
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = map;
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        let mut lines = vec![Line([0; 64]); len.div_ceil(64)];
        bytemuck::cast_slice_mut(&mut lines)[..len].copy_from_slice(&bytes);
        Self { map: Arc::new(Map::Owned(lines.into_boxed_slice())), range: 0..len }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stay_inside_their_view() {
        let all = Bytes::from((0..100).collect::<Vec<u8>>());
        let part = all.slice(10..20).unwrap();
        assert_eq!(&part[..], (10..20).collect::<Vec<u8>>());
        assert_eq!(&part.slice(3..5).unwrap()[..], [13, 14]);
        assert!(part.slice(10..10).unwrap().is_empty());
        assert!(part.slice(5..11).is_none());
        assert!(part.slice(11..11).is_none());
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = part.slice(5..4);
        assert!(reversed.is_none());
    }

    #[test]
    fn owned_bytes_are_aligned() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let bytes = Bytes::from(vec![7; len]);
            assert_eq!(bytes.len(), len);
            assert!(bytes.iter().all(|&b| b == 7));
            assert!(bytes.as_ptr().addr().is_multiple_of(64));
        }
    }

    #[test]
    fn a_file_cut_short_after_mapping_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1; 100]).unwrap();
        let bytes = Bytes::map(file.path()).unwrap();
        assert!(bytes.check_length(file.path()).is_ok());
        file.as_file().set_len(99).unwrap();
        let error = bytes.check_length(file.path()).unwrap_err().to_string();
        assert!(error.contains("was cut from 100 to 99 bytes"), "{error}");
    }

    #[test]
    fn only_regular_files_are_mapped() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Bytes::map(folder.path()), Err(Error::Malformed { .. })));
        assert!(matches!(Bytes::map(&folder.path().join("none")), Err(Error::Io { .. })));
        let empty = folder.path().join("empty");
        std::fs::write(&empty, []).unwrap();
        assert!(Bytes::map(&empty).unwrap().is_empty());
    }
}
