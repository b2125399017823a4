//! What the machine can do at most, measured once and kept in the user's cache folder.

use super::machine;
use crate::cli::fetch::cache_folder;
use cotvalve::cpu::limits::{int8_peak, read_bandwidth};
use cotvalve::cpu::simd::Level;
use cotvalve::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Set sizes are rounded up to so many bytes, so that models of one size share a measurement.
const SET_STEP: usize = 16 << 20;
/// Beyond this no cache holds any of it, and more only takes memory.
const SET_MAX: usize = 1 << 30;

/// What the measurements of an entry hold for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Key {
    cpu: String,
    threads: usize,
    simd: String,
    set_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    key: Key,
    /// Bytes a second.
    read_bandwidth: f64,
    /// Operations a second.
    int8_peak: f64,
}

/// The limits of this machine.
pub struct Limits {
    cpu: String,
    simd: &'static str,
    /// None where there is no cache folder.
    path: Option<PathBuf>,
    /// What can be used.
    entries: Vec<Entry>,
    /// What is in the file and to be measured again.
    stale: Vec<Entry>,
}

impl Limits {
    /// The limits measured before, or with `again` none of them.
    ///
    /// # Errors
    /// [`Error::Argument`] if the SIMD level that the environment asks for has no such name.
    pub fn open(again: bool) -> Result<Self> {
        Self::open_at(cache_folder().map(|folder| folder.join("limits.json")), again)
    }

    fn open_at(path: Option<PathBuf>, again: bool) -> Result<Self> {
        // A file that cannot be read is measured again, and written over.
        let text = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let kept: Vec<Entry> = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let (entries, stale) = if again { (Vec::new(), kept) } else { (kept, Vec::new()) };
        Ok(Self { cpu: machine::cpu_name(), simd: Level::from_env()?.name(), path, entries, stale })
    }

    /// Bytes a second that `threads` threads read of a set of `bytes` bytes, and int8 operations a second that they
    /// do; measured and kept if they are not known.
    pub fn at(&mut self, threads: usize, bytes: usize) -> (f64, f64) {
        let set_bytes = bytes.next_multiple_of(SET_STEP).clamp(SET_STEP, SET_MAX);
        let key = Key { cpu: self.cpu.clone(), threads, simd: self.simd.into(), set_bytes };
        if let Some(known) = self.entries.iter().find(|entry| entry.key == key) {
            return (known.read_bandwidth, known.int8_peak);
        }
        // The second depends on no set.
        let alike = |entry: &&Entry| Key { set_bytes, ..entry.key.clone() } == key;
        let int8_peak =
            self.entries.iter().find(alike).map_or_else(|| int8_peak(threads).round(), |entry| entry.int8_peak);
        let read_bandwidth = read_bandwidth(threads, set_bytes).round();
        self.stale.retain(|entry| entry.key != key);
        self.entries.push(Entry { key, read_bandwidth, int8_peak });
        if let Some(path) = &self.path
            && let Err(error) = self.write(path)
        {
            eprintln!("valve: the limits of this machine are not kept: {error}");
        }
        (read_bandwidth, int8_peak)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let io = |source| Error::Io { path: path.into(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let entries: Vec<&Entry> = self.stale.iter().chain(&self.entries).collect();
        let text = serde_json::to_string_pretty(&entries).map_err(|error| io(error.into()))?;
        // Of two programs that write at once, one wins with a whole file.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        std::fs::write(&part, text + "\n").and_then(|()| std::fs::rename(&part, path)).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_measured_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/limits.json");
        let open = |again| Limits::open_at(Some(path.clone()), again).unwrap();
        let (bandwidth, peak) = open(false).at(1, 1);
        assert!(bandwidth > 0.0 && peak > 0.0);
        // A figure that no measurement gives shows where an answer comes from.
        let mut kept: Vec<Entry> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!((kept.len(), kept[0].read_bandwidth, kept[0].key.set_bytes), (1, bandwidth, SET_STEP));
        kept[0].read_bandwidth = 1.0;
        kept[0].int8_peak = 2.0;
        std::fs::write(&path, serde_json::to_string(&kept).unwrap()).unwrap();
        assert_eq!(open(false).at(1, 5), (1.0, 2.0));
        assert_eq!(open(false).at(1, SET_STEP + 1).1, 2.0, "the peak is that of another set");
        let again = open(true).at(1, 1);
        assert!(again.0 > 2.0 && again.1 > 2.0);
        assert_eq!(open(false).at(1, 1), again);
        assert_eq!(open(false).entries.len(), 2, "what was not measured again is kept");
    }

    #[test]
    fn a_file_of_something_else_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.json");
        std::fs::write(&path, "{").unwrap();
        let measured = Limits::open_at(Some(path.clone()), false).unwrap().at(1, 1);
        assert_eq!(Limits::open_at(Some(path), false).unwrap().at(1, 1), measured);
    }
}
