//! Importance matrices: how much the activations weigh that meet each column of a weight, as llama-imatrix measures it.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, MAGIC};
use crate::map::Bytes;
use crate::tensor::TensorType;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of a GGUF file's tensors end so: sums of squared activations, and how many rows they are of.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The importance of the columns of a model's weights: the mean square of the activations they meet.
#[derive(Debug)]
pub struct Importance {
    path: PathBuf,
    /// `[columns]` of a weight, or `[experts, columns]`, by its name; finite, not negative.
    entries: BTreeMap<String, Vec<f32>>,
    /// What was read to measure it.
    datasets: Vec<String>,
    /// In how many chunks.
    chunks: u32,
}

impl Importance {
    /// Reads a file of llama-imatrix: GGUF, or its older form without a header.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for a damaged file, an empty one, values that are not finite or below 0, and
    /// sums without counts.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::map(path)?;
        let read = if bytes.starts_with(&MAGIC) { Self::read(path, bytes)? } else { Self::read_legacy(path, &bytes)? };
        if read.entries.is_empty() {
            return Err(Error::malformed(path, "has no importances"));
        }
        for (name, values) in &read.entries {
            if let Some(value) = values.iter().find(|v| !v.is_finite() || **v < 0.0) {
                return Err(Error::malformed(path, format!("the importance of a column of {name} is {value}")));
            }
        }
        Ok(read)
    }

    fn read(path: &Path, bytes: Bytes) -> Result<Self> {
        let gguf = Gguf::parse(path, bytes)?;
        let datasets = gguf.require("imatrix.datasets", Gguf::strings)?.iter().map(str::to_owned).collect();
        let chunks = gguf.require("imatrix.chunk_count", Gguf::u32)?;
        gguf.require("imatrix.chunk_size", Gguf::u32)?;
        let mut entries = BTreeMap::new();
        for info in gguf.tensors() {
            if let Some(name) = info.name.strip_suffix(SUMS) {
                let counts = floats(&gguf, &format!("{name}{COUNTS}"))?;
                entries.insert(name.to_owned(), means(path, name, floats(&gguf, &info.name)?, &counts)?);
            } else if let Some(name) = info.name.strip_suffix(COUNTS) {
                floats(&gguf, &format!("{name}{SUMS}"))?;
            }
        }
        Ok(Self { path: path.to_owned(), entries, datasets, chunks })
    }

    fn read_legacy(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut legacy = Legacy { path, rest: bytes };
        let count = legacy.length("entries")?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let name = legacy.text("name")?;
            let calls = legacy.integer("calls")?;
            let values = legacy.length("values")?;
            let values = legacy.take(values.saturating_mul(4), "values")?;
            let mut values: Vec<f32> = values.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if calls > 0 {
                values.iter_mut().for_each(|v| *v /= calls as f32);
            }
            entries.insert(name, values);
        }
        // The rest is not in every file.
        let chunks = legacy.integer("chunks").ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let datasets = legacy.text("data set").into_iter().collect();
        Ok(Self { path: path.to_owned(), entries, datasets, chunks })
    }

    /// Keeps the entries whose names have one of `include` in them, if there is any, and none of `exclude`.
    pub fn retain(&mut self, include: &[String], exclude: &[String]) {
        let has = |name: &str, parts: &[String]| parts.iter().any(|part| name.contains(part.as_str()));
        self.entries.retain(|name, _| (include.is_empty() || has(name, include)) && !has(name, exclude));
    }

    /// Number of weights with an importance.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was read to measure it, as the file says.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// In how many chunks, 0 where the file does not say.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The importance of a weight of this name and shape (fastest first), `[experts, columns]`; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::Malformed`] for one of another shape; but the embedding's, whose columns meet no activations, counts as
    /// none then.
    pub fn of(&self, name: &str, dims: &[usize]) -> Result<Option<&[f32]>> {
        let Some(values) = self.entries.get(name) else { return Ok(None) };
        let experts = dims.get(2).copied().unwrap_or(1);
        if dims[0].checked_mul(experts) == Some(values.len()) {
            return Ok(Some(values));
        }
        if name == "token_embd.weight" {
            return Ok(None);
        }
        let (given, cols) = (values.len(), dims[0]);
        let what = format!("has {given} importances for {name}, which has {cols} columns and {experts} experts");
        Err(Error::malformed(&self.path, what))
    }
}

/// The values of a tensor, which must be there, and F32.
fn floats(gguf: &Gguf, name: &str) -> Result<Vec<f32>> {
    let missing = || Error::malformed(gguf.path(), format!("the tensor {name} is missing or no f32"));
    let info = gguf.info(name).filter(|info| info.ty.id == TensorType::F32 as u32).ok_or_else(missing)?;
    Ok(info.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// Sums over counts, an expert each; an expert that met nothing has all columns alike.
fn means(path: &Path, name: &str, mut sums: Vec<f32>, counts: &[f32]) -> Result<Vec<f32>> {
    if !sums.len().is_multiple_of(counts.len()) {
        let what = format!("{} sums of {name} do not belong to {} counts", sums.len(), counts.len());
        return Err(Error::malformed(path, what));
    }
    let cols = sums.len() / counts.len();
    for (sums, count) in sums.chunks_exact_mut(cols).zip(counts.iter().map(|count| count.round())) {
        if count > 0.0 {
            sums.iter_mut().for_each(|v| *v /= count);
        } else {
            sums.fill(1.0);
        }
    }
    Ok(sums)
}

/// What is left of a file of the older form.
struct Legacy<'a> {
    path: &'a Path,
    rest: &'a [u8],
}

impl<'a> Legacy<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let short = || Error::malformed(self.path, format!("is no importance matrix: its {what} are cut short"));
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn integer(&mut self, what: &str) -> Result<i32> {
        self.take(4, what).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A number of things, at least one.
    fn length(&mut self, what: &str) -> Result<usize> {
        let n = self.integer(what)?;
        let bad = || Error::malformed(self.path, format!("is no importance matrix: {n} {what}"));
        usize::try_from(n).ok().filter(|n| *n > 0).ok_or_else(bad)
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let length = self.length(what)?;
        Ok(String::from_utf8_lossy(self.take(length, what)?).into_owned())
    }
}
