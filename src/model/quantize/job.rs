//! The rewriting of a model in other types.

use super::codec::Codec;
use super::importance::Importance;
use super::pieces::{PIECE_VALUES, in_parallel};
use super::plan::{Facts, PlanOptions, Planned, Shape, plan, walk_order};
use crate::error::{Error, Result};
use crate::gguf::write::{Data, PartFile, Writer};
use crate::gguf::{Gguf, TensorInfo, Value};
use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// `general.quantization_version`: of the block formats, as llama.cpp counts them.
const QUANTIZATION_VERSION: u32 = 2;
/// Bytes of a tensor that stays as it is which are written at once.
const COPY_BYTES: usize = 1 << 22;

/// How a model is quantized.
#[derive(Debug)]
pub struct QuantizeOptions<'a> {
    /// Types; whether there is an importance matrix and how layers are counted is set by the fields here.
    pub plan: PlanOptions,
    pub importance: Option<&'a Importance>,
    /// Whether quantized tensors may change their type, at a loss.
    pub allow_requantize: bool,
    /// As many files as the model has, each with the tensors that it has there.
    pub keep_split: bool,
    /// Metadata that the model gets beside its own.
    pub overrides: Vec<(String, Value)>,
    pub threads: usize,
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    pub info: &'a TensorInfo,
    pub planned: Planned,
    /// Its size in the file that is written.
    pub bytes: usize,
}

impl Item<'_> {
    /// Whether its bytes stay what they are.
    pub fn is_copied(&self) -> bool {
        self.planned.ty == self.info.ty
    }
}

/// Sizes of all tensors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub values: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Tensors whose rows are no whole blocks of the type they were to get.
    pub fallbacks: usize,
}

/// A model that is going to be quantized.
#[derive(Debug)]
pub struct Job<'a> {
    gguf: &'a Gguf,
    options: QuantizeOptions<'a>,
    /// In the order in which they are written.
    items: Vec<Item<'a>>,
}

/// Hears of bytes read of an item, of how many, and says whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(&Item<'_>, usize) -> bool;

impl<'a> Job<'a> {
    /// Chooses the types of all tensors.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the metadata lacks what the choice depends on, and those of [`plan`].
    pub fn new(gguf: &'a Gguf, mut options: QuantizeOptions<'a>) -> Result<Self> {
        if options.threads == 0 {
            return Err(Error::argument("threads", "must be at least 1"));
        }
        options.importance = options.importance.filter(|importance| !importance.is_empty());
        options.plan.importance = options.importance.is_some();
        options.plan.as_listed = options.keep_split;
        let mut infos: Vec<&TensorInfo> = gguf.tensors().iter().collect();
        if options.keep_split {
            infos.sort_by_key(|info| (info.shard, info.offset));
        } else {
            infos.sort_by_key(|info| walk_order(&info.name));
        }
        let shapes: Vec<Shape<'_>> =
            infos.iter().map(|info| Shape { name: &info.name, dims: &info.dims, ty: info.ty }).collect();
        let planned = plan(&Facts::read(gguf)?, &shapes, &options.plan)?;
        let item = |(info, planned): (&'a TensorInfo, Planned)| {
            let bytes = planned.ty.tensor_bytes(&info.dims);
            let bytes = bytes.map_err(|reason| Error::argument("type", format!("{} {reason}", info.name)))?;
            Ok(Item { info, planned, bytes })
        };
        let items = infos.into_iter().zip(planned).map(item).collect::<Result<_>>()?;
        Ok(Self { gguf, options, items })
    }

    /// All tensors, in the order in which they are written.
    pub fn items(&self) -> &[Item<'a>] {
        &self.items
    }

    /// Sizes of all tensors together.
    pub fn sizes(&self) -> Sizes {
        self.items.iter().fold(Sizes::default(), |sum, item| Sizes {
            values: sum.values + item.info.values() as u64,
            bytes_before: sum.bytes_before + item.info.data.len() as u64,
            bytes_after: sum.bytes_after + item.bytes as u64,
            fallbacks: sum.fallbacks + usize::from(item.planned.instead_of.is_some()),
        })
    }

    /// The first tensor that takes an importance and has none.
    pub fn without_importance(&self) -> Option<&Item<'a>> {
        self.items.iter().find(|item| {
            let given = self.options.importance.is_some_and(|all| all.of(&item.info.name, &item.info.dims).is_ok());
            item.planned.needs_importance && !item.is_copied() && !given
        })
    }

    /// The files that [`Job::write`] makes for `out`: itself, or `out-00001-of-0000N.gguf` where the split is kept.
    pub fn files(&self, out: &Path) -> Vec<PathBuf> {
        if !self.options.keep_split {
            return vec![out.to_owned()];
        }
        let count = self.gguf.shards().len();
        let stem = out.file_name().unwrap_or_default().to_string_lossy();
        let stem = stem.strip_suffix(".gguf").unwrap_or(&stem);
        (1..=count).map(|number| out.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"))).collect()
    }

    /// Writes the model, a piece of a tensor at a time, to files under other names, which are changed when all are
    /// done.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the tensor: for a quantized one that would change its type where that is not
    /// allowed, a type that takes an importance which is missing, one that this build cannot read or write, values that
    /// it cannot hold, and files that are the model's own; [`Error::Malformed`] for importances of another shape;
    /// [`Error::Io`]; [`Error::Cancelled`]. What is there stays as it was then.
    pub fn write(&self, out: &Path, progress: Progress<'_>) -> Result<()> {
        let files = self.files(out);
        let parts = self.items.iter().map(|item| self.rewrite(item)).collect::<Result<Vec<_>>>()?;
        files.iter().try_for_each(|file| self.check_apart(file))?;
        let progress = RefCell::new(progress);
        let mut written = Vec::with_capacity(files.len());
        for (shard, file) in files.iter().enumerate() {
            let mut writer = self.writer(shard, files.len())?;
            for (item, rewrite) in self.items.iter().zip(&parts) {
                if files.len() == 1 || item.info.shard == shard {
                    let pieces = Pieces { item, rewrite: rewrite.as_ref(), job: self, done: 0, progress: &progress };
                    let data = Data::Chunks(Box::new(pieces));
                    writer.tensor(&item.info.name, item.planned.ty.id, &item.info.dims, data)?;
                }
            }
            let mut part = PartFile::create(file)?;
            writer.write_to(file, &mut part.out)?;
            written.push(part);
        }
        written.into_iter().try_for_each(PartFile::finish)
    }

    /// Refuses to write over a file of the model.
    fn check_apart(&self, out: &Path) -> Result<()> {
        let Ok(real) = out.canonicalize() else { return Ok(()) };
        if self.gguf.shards().iter().any(|shard| shard.path.canonicalize().is_ok_and(|path| path == real)) {
            return Err(Error::argument("output", format!("{} is the model that is read", out.display())));
        }
        Ok(())
    }

    /// What turns the rows of an item into those of its type; `None` where they stay.
    fn rewrite(&self, item: &Item<'a>) -> Result<Option<Rewrite<'_>>> {
        let Item { info, planned, .. } = *item;
        if item.is_copied() {
            return Ok(None);
        }
        let refused = |reason: String| Error::argument("type", format!("{}: {reason}", info.name));
        if info.ty.block_len > 1 && !self.options.allow_requantize {
            let (from, to) = (info.ty, planned.ty);
            return Err(refused(format!("it is quantized as {from} already; --allow-requantize makes it {to}")));
        }
        let importance = match self.options.importance {
            Some(importance) => importance.of(&info.name, &info.dims)?,
            None => None,
        };
        if planned.needs_importance && importance.is_none() {
            return Err(refused(format!("{} is of no use without an importance matrix (--imatrix)", planned.ty)));
        }
        let reader = Codec::reading(info.ty)?;
        Ok(Some(Rewrite { info, reader, writer: Codec::writing(planned.ty)?, bytes: item.bytes, importance }))
    }

    /// A writer with the metadata of one of the files.
    fn writer<'w>(&self, shard: usize, count: usize) -> Result<Writer<'w>> {
        let mut writer = Writer::new();
        if shard == 0 {
            self.set_metadata(&mut writer)?;
        }
        if count > 1 {
            let narrow = |n: usize| u16::try_from(n).map_err(|_| Error::argument("keep-split", format!("{n} files")));
            writer.set("split.no", narrow(shard)?)?;
            writer.set("split.count", narrow(count)?)?;
            writer.set("split.tensors.count", self.items.len() as i32)?;
        }
        Ok(writer)
    }

    /// The model's own metadata, then what llama-quantize writes after it, in its order.
    fn set_metadata(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.set_all(self.gguf)?;
        let copied = self.gguf.u32("general.file_type")?;
        let file_type = if self.options.plan.copy { copied } else { Some(self.options.plan.file_type.id()) };
        let mut last = vec![("general.quantization_version", Value::U32(QUANTIZATION_VERSION))];
        last.extend(file_type.map(|id| ("general.file_type", Value::U32(id))));
        last.extend(self.options.overrides.iter().map(|(key, value)| (key.as_str(), value.clone())));
        if let Some(importance) = self.options.importance {
            last.push(("quantize.imatrix.file", importance.path().to_string_lossy().into_owned().into()));
            last.extend(importance.datasets().first().map(|set| ("quantize.imatrix.dataset", set.clone().into())));
            last.push(("quantize.imatrix.entries_count", (importance.len() as u32).into()));
            if importance.chunks() > 0 {
                last.push(("quantize.imatrix.chunks_count", importance.chunks().into()));
            }
        }
        last.into_iter().try_for_each(|(key, value)| {
            writer.remove(key);
            writer.set(key, value)
        })
    }
}

/// The rows of a tensor in another type.
struct Rewrite<'a> {
    info: &'a TensorInfo,
    reader: Codec,
    writer: Codec,
    /// Of all rows together.
    bytes: usize,
    /// `[experts, columns]`
    importance: Option<&'a [f32]>,
}

impl Rewrite<'_> {
    fn rows(&self) -> usize {
        self.info.values() / self.info.dims[0]
    }

    /// The bytes of some rows.
    fn encode(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let (cols, count) = (self.info.dims[0], self.rows());
        let (from, to) = (self.info.data.len() / count, self.bytes / count);
        let (each, experts) = (self.info.dims.get(1).unwrap_or(&1), self.info.dims.get(2).unwrap_or(&1));
        let mut values = vec![0.0; cols];
        let mut bytes = vec![0; rows.len() * to];
        for (row, out) in rows.zip(bytes.chunks_exact_mut(to)) {
            self.reader.decode(&self.info.data[row * from..][..from], &mut values)?;
            let importance = self.importance.map(|all| &all[row / each % experts * cols..][..cols]);
            self.writer.encode(&self.info.name, &values, importance, out)?;
        }
        Ok(bytes)
    }
}

/// The bytes of a tensor, some at a time.
struct Pieces<'a, 'p> {
    item: &'a Item<'a>,
    /// `None` where its bytes stay.
    rewrite: Option<&'a Rewrite<'a>>,
    job: &'a Job<'a>,
    /// Rows or bytes written.
    done: usize,
    progress: &'a RefCell<Progress<'p>>,
}

impl Pieces<'_, '_> {
    /// The next bytes, and how many were read for them.
    fn make(&mut self) -> Result<(Vec<u8>, usize)> {
        let data = &self.item.info.data;
        let start = self.done;
        let Some(rewrite) = self.rewrite else {
            self.done = data.len().min(start + COPY_BYTES);
            return Ok((data[start..self.done].to_vec(), self.done));
        };
        let each = (PIECE_VALUES / self.item.info.dims[0]).max(1);
        self.done = rewrite.rows().min(start + each * self.job.options.threads);
        let bytes = in_parallel(start..self.done, each, |rows| rewrite.encode(rows))?;
        Ok((bytes, data.len() / rewrite.rows() * self.done))
    }
}

impl Iterator for Pieces<'_, '_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        if self.done == self.rewrite.map_or(self.item.info.data.len(), Rewrite::rows) {
            return None;
        }
        Some(self.make().and_then(|(bytes, read)| {
            if (self.progress.borrow_mut())(self.item, read) { Ok(bytes) } else { Err(Error::Cancelled) }
        }))
    }
}
