//! A model with an adapter in its weights.

use super::load::{Adapter, Pair};
use super::recode;
use crate::error::{Error, Result};
use crate::gguf::write::{Data, Writer};
use crate::gguf::{Gguf, TensorInfo};
use crate::model::quantize::{FileType, PIECE_VALUES, in_parallel};
use crate::quant;
use crate::tensor::{Tensor, TensorType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// What a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Tensors that were written with deltas in them.
    pub merged: usize,
    /// Tensors whose bytes are the base's.
    pub copied: usize,
}

/// How a merged model is made.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// Type of the tensors that get a delta; all others stay as they are.
    pub ty: TensorType,
    pub threads: usize,
}

/// Writes `base` with `W + Σ α · s · B·A` in place of every weight W that an adapter touches, computed in f64. An
/// adapter at α = 0 touches nothing. All metadata is kept, but for `general.file_type`, which follows the type. The
/// file is written piece by piece, under another name that is changed at the end.
///
/// `progress` hears the fraction done and returns whether to go on.
///
/// # Errors
/// [`Error::Argument`] for an α that is not finite, a type whose blocks do not divide the rows of a weight, and values
/// out of its range; [`Error::Unsupported`] for a touched weight of a type without a kernel; [`Error::Io`];
/// [`Error::Cancelled`]. `out` is then as it was.
pub fn merge(
    base: &Gguf,
    adapters: &[(Adapter, f32)],
    options: MergeOptions,
    out: &Path,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<Merged> {
    if let Some((_, alpha)) = adapters.iter().find(|(_, alpha)| !alpha.is_finite()) {
        return Err(Error::argument("alpha", format!("{alpha} is not a finite number")));
    }
    if options.threads == 0 {
        return Err(Error::argument("threads", "must be at least 1"));
    }
    let mut touching: HashMap<String, Vec<(&Pair, f32)>> = HashMap::new();
    for (adapter, alpha) in adapters.iter().filter(|(_, alpha)| *alpha != 0.0) {
        let pairs = adapter.pairs().iter();
        pairs.for_each(|pair| touching.entry(pair.site.name()).or_default().push((pair, *alpha)));
    }
    let touched = base.tensors().iter().filter(|info| touching.contains_key(&info.name));
    let meter = Meter(RefCell::new((0, touched.map(TensorInfo::values).sum(), progress)));
    let mut writer = Writer::new();
    writer.set_all(base)?;
    let mut done = Merged { merged: 0, copied: 0 };
    for info in base.tensors() {
        let Some(pairs) = touching.remove(&info.name) else {
            writer.tensor(&info.name, info.ty.id, &info.dims, info.data.clone())?;
            done.copied += 1;
            continue;
        };
        let weight = base.tensor(&info.name)?.expect("it was listed");
        let pieces = Pieces { weight, pairs, terms: None, options, row: 0, meter: &meter };
        writer.tensor(&info.name, options.ty as u32, &info.dims, Data::Chunks(Box::new(pieces)))?;
        done.merged += 1;
    }
    if let Some(missing) = touching.keys().next() {
        return Err(Error::argument("adapter", format!("{} has no tensor {missing}", base.path().display())));
    }
    if done.merged > 0 {
        writer.set("general.file_type", FileType::uniform(options.ty).id())?;
    }
    writer.write(out)?;
    Ok(done)
}

/// Values done, values in all, and who wants to know.
struct Meter<'a>(RefCell<(usize, usize, Progress<'a>)>);

type Progress<'a> = &'a mut dyn FnMut(f32) -> bool;

impl Meter<'_> {
    fn add(&self, values: usize) -> Result<()> {
        let (done, total, progress) = &mut *self.0.borrow_mut();
        *done += values;
        if progress(*done as f32 / *total as f32) { Ok(()) } else { Err(Error::Cancelled) }
    }
}

/// One term on a weight.
struct Term {
    /// α · s
    scale: f64,
    /// `[rank, n_in]`
    a: Vec<f32>,
    /// `[n_out, rank]`
    b: Vec<f32>,
    rank: usize,
}

impl Term {
    fn of((pair, alpha): (&Pair, f32)) -> Self {
        let scale = f64::from(alpha) * f64::from(pair.scale);
        Self { scale, a: quant::to_f32(&pair.a), b: quant::to_f32(&pair.b), rank: pair.b.cols() }
    }
}

/// `W + Σ α · s · B·A` over rows of W.
struct Sum<'a> {
    weight: &'a Tensor,
    terms: &'a [Term],
    ty: TensorType,
}

impl Sum<'_> {
    /// The bytes of some rows.
    fn rows(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let (cols, row_bytes) = (self.weight.cols(), self.weight.row_bytes());
        let (mut row, mut sum) = (vec![0.0_f32; cols], vec![0.0_f64; cols]);
        let mut bytes = Vec::with_capacity(rows.len() * self.ty.row_bytes(cols).unwrap_or_default());
        for index in rows {
            quant::dequantize(self.weight.ty, &self.weight.data[index * row_bytes..][..row_bytes], &mut row);
            sum.iter_mut().zip(&row).for_each(|(s, w)| *s = f64::from(*w));
            for term in self.terms {
                let b = &term.b[index * term.rank..][..term.rank];
                for (b, a) in b.iter().zip(term.a.chunks_exact(cols)) {
                    let factor = term.scale * f64::from(*b);
                    sum.iter_mut().zip(a).for_each(|(s, a)| *s += factor * f64::from(*a));
                }
            }
            row.iter_mut().zip(&sum).for_each(|(w, s)| *w = *s as f32);
            bytes.extend(recode::encode(&self.weight.name, self.ty, &row)?);
        }
        Ok(bytes)
    }
}

/// The bytes of a merged weight, some rows at a time.
struct Pieces<'a> {
    weight: Tensor,
    pairs: Vec<(&'a Pair, f32)>,
    /// Read when the first piece is wanted: the matrices of all weights together can be large.
    terms: Option<Vec<Term>>,
    options: MergeOptions,
    /// The next row.
    row: usize,
    meter: &'a Meter<'a>,
}

impl Iterator for Pieces<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        let (rows, cols) = (self.weight.rows(), self.weight.cols());
        if self.row == rows {
            return None;
        }
        let terms = self.terms.get_or_insert_with(|| self.pairs.iter().copied().map(Term::of).collect());
        let sum = &Sum { weight: &self.weight, terms, ty: self.options.ty };
        let each = (PIECE_VALUES / cols).max(1);
        let (start, end) = (self.row, rows.min(self.row + each * self.options.threads));
        self.row = end;
        let bytes = in_parallel(start..end, each, |rows| sum.rows(rows));
        Some(bytes.and_then(|bytes| self.meter.add((end - start) * cols).map(|()| bytes)))
    }
}
