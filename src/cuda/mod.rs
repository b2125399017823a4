//! The CUDA backend: the driver alone, opened at run time; kernels compiled beforehand (`kernels/README.md`).
//!
//! Weights whose rows are no whole blocks of 32 are refused by [`Linear::fan`], heads of other sizes by
//! [`Backend::attend`].
//!
//! # Launches
//! A projection of up to 8 rows takes two launches with and without a valve, one more for each further type among
//! the fan's weights: the input is normed or gated and quantized, then one matvec does all weights of a type and the
//! shrink. The expand is part of what reads the outputs. A projection of more rows is a matmul on tensor cores that
//! does the expand too; a valve adds it a launch for the shrink. Steps that come again are kept as graphs.
//!
//! # Determinism
//! The bits of a row depend on that row alone, on whether its batch has more than 8 rows, and on whether its sequence
//! has 24 rows or more in the batch, which choose the kernels: sums have a fixed order, and there are no float atomics.
//! They differ from the CPU backend's, whose sums have another order.

mod args;
mod attend;
mod bundle;
mod cache;
mod device;
mod graph;
mod likeliest;
mod matmul;
mod planes;
mod project;
mod shares;
mod staging;
mod step;
mod weights;

pub use cache::Cache;
pub use device::Device;
pub use weights::{Delta, Fan};

use crate::backend::{Backend, Batch, CacheSpec, Heads, Input, Likely, Linear, Owed, PageId, Rope, Term};
use crate::error::{Error, Result};
use crate::quant;
use crate::tensor::Tensor;
use attend::Attention;
use cudarc::driver::{CudaSlice, PinnedHostSlice};
use graph::Graphs;
use likeliest::Likeliest;
use project::Acts;
use step::Step;

/// The kernels of every .cu file: the file's name and theirs.
fn kernels() -> Vec<(&'static str, Vec<String>)> {
    let by_rows = |names: &[&str]| -> Vec<String> {
        names.iter().flat_map(|name| [1, 2, 4, 8].map(|rows| format!("{name}_r{rows}"))).collect()
    };
    let mut quantize = by_rows(&["quantize_gated"]);
    quantize.push("quantize_rows".into());
    let mut files = vec![
        ("attend", attend::attend_names()),
        ("attend_many", attend::HEAD_DIMS.map(|dim| format!("attend_many_d{dim}")).to_vec()),
        ("embed", project::types().map(|ty| format!("embed_{ty}")).collect()),
        ("likeliest", likeliest::likeliest_names()),
        ("shrink_many", vec!["shrink_many".into()]),
        ("expand", by_rows(&["residual", "settle"])),
        ("quantize", quantize),
        ("rope", by_rows(&["rope_store"])),
        ("rows", vec!["gather_rows".into()]),
    ];
    files.extend(matmul::MATMULS.map(|(file, types)| (file, matmul::matmul_names(types))));
    files.extend(project::MATVECS.map(|(file, types)| (file, project::matvec_names(types))));
    files
}

/// Activations `[rows, cols]` on the device.
pub struct Buf {
    data: CudaSlice<f32>,
    rows: usize,
    cols: usize,
}

/// A weight vector on the device.
pub struct Vector {
    data: CudaSlice<f32>,
    len: usize,
}

/// Values in a quantization block.
const BLOCK: usize = 32;
/// Most rows of a step that is kept as a graph: steps of more are seldom alike, and long beside their launches.
const MAX_GRAPH_ROWS: usize = 64;

/// Values that can be copied back at first; more make it grow.
const READBACK: usize = 1 << 17;

fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A backend on one CUDA device.
pub struct Cuda {
    device: Device,
    step: Step,
    acts: Acts,
    attention: Attention,
    graphs: Graphs,
    likeliest: Likeliest,
    /// What is copied back passes here.
    readback: PinnedHostSlice<f32>,
    launches: u64,
}

impl Cuda {
    /// Opens device `ordinal`; 0 is the first.
    ///
    /// # Errors
    /// Those of [`Device::open`].
    pub fn open(ordinal: usize) -> Result<Self> {
        let device = Device::open(ordinal)?;
        let (step, acts, attention) = (Step::new(&device)?, Acts::new(&device)?, Attention::new(&device)?);
        let (likeliest, readback) = (Likeliest::new(&device)?, device.pinned_for_reading(READBACK)?);
        Ok(Self { device, step, acts, attention, graphs: Graphs::new(), likeliest, readback, launches: 0 })
    }

    /// The device below.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Kernels launched so far.
    pub fn launches(&self) -> u64 {
        self.launches
    }
}

impl Linear for Cuda {
    type Buf = Buf;
    type Vector = Vector;
    type Fan = Fan;
    type Delta = Delta;

    fn buf(&self, rows: usize, cols: usize) -> Result<Buf> {
        let n = rows.checked_mul(cols).filter(|_| cols <= i32::MAX as usize);
        let n = n.ok_or_else(|| Error::argument("buf", format!("{rows} rows of {cols} do not fit")))?;
        Ok(Buf { data: self.device.zeros(n)?, rows, cols })
    }

    fn shape(&self, buf: &mut Buf, cols: usize) {
        buf.cols = cols;
    }

    fn vector(&self, weight: &Tensor) -> Result<Vector> {
        if weight.ty.is_quantized() || weight.rows() != 1 {
            let what = format!("{}: {:?} of {}, not one row of floats", weight.name, weight.dims, weight.ty);
            return Err(Error::argument("vector", what));
        }
        let mut values = vec![0.0; weight.cols()];
        quant::dequantize(weight.ty, &weight.data, &mut values);
        Ok(Vector { data: self.device.copy(&values)?, len: values.len() })
    }

    fn fan(&self, weights: &[&Tensor]) -> Result<Fan> {
        Fan::new(&self.device, weights)
    }

    fn delta(&self, terms: &[Term<'_>]) -> Result<Delta> {
        Delta::new(&self.device, terms)
    }

    fn begin(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.abandon();
        self.acts.of = None;
        if self.step.fill(&self.device, batch)? {
            self.graphs.clear();
        }
        Ok(())
    }

    fn project(
        &mut self,
        ys: &mut [&mut Buf],
        u: &mut Buf,
        x: Input<'_, Self>,
        fan: &Fan,
        delta: Option<&Delta>,
    ) -> Result<()> {
        self.check(ys, u, &x, fan, delta)?;
        let keep = delta.is_some() || fan.weights.iter().any(|w| !w.ty.is_quantized());
        let prepared = self.prepare(&x, fan, keep)?;
        match self.many() {
            true => self.multiply_many(ys, u, &prepared, fan, delta),
            false => self.multiply(ys, u, &prepared, fan, delta),
        }
    }

    fn download(&mut self, src: &Buf, dst: &mut [f32]) -> Result<()> {
        let n = dst.len();
        if n > src.data.len() || n > src.rows * src.cols {
            return Err(Error::argument("dst", format!("{n} values of a smaller buffer")));
        }
        if n == 0 {
            return Ok(());
        }
        if n > self.readback.len() {
            self.readback = self.device.pinned_for_reading(n.next_power_of_two())?;
        }
        let from = self.device.address(&src.data);
        // SAFETY: `from` has n values, as was checked.
        dst.copy_from_slice(unsafe { self.device.read_back(from, &mut self.readback, n) }?);
        Ok(())
    }

    fn upload(&mut self, dst: &mut Buf, src: &[f32]) -> Result<()> {
        let fits = src.len() <= dst.rows * dst.cols;
        let to = dst.data.try_slice_mut(..src.len()).filter(|_| fits);
        let mut to = to.ok_or_else(|| Error::argument("src", format!("{} values for a smaller buffer", src.len())))?;
        if src.is_empty() {
            return Ok(());
        }
        let copied = self.device.stream().memcpy_htod(src, &mut to);
        copied.map_err(|e| self.device.error(format_args!("copying {} values in", src.len()), e))?;
        self.device.synchronize()
    }
}

impl Backend for Cuda {
    type Cache = Cache;

    fn cache(&self, spec: &CacheSpec) -> Result<Cache> {
        Cache::new(&self.device, spec)
    }

    fn copy_page(&mut self, cache: &mut Cache, from: PageId, to: PageId) -> Result<()> {
        cache.copy_page(&self.device, from, to)
    }

    fn read_page(&mut self, cache: &Cache, page: PageId, out: &mut [u8]) -> Result<()> {
        cache.read_page(&self.device, page, out)
    }

    fn write_page(&mut self, cache: &mut Cache, page: PageId, data: &[u8]) -> Result<()> {
        cache.write_page(&self.device, page, data)
    }

    fn replay(&mut self, version: u64) -> Result<bool> {
        self.replay_step(version)
    }

    fn finish(&mut self) -> Result<bool> {
        self.finish_step()
    }

    fn embed(&mut self, h: &mut Buf, table: &Fan) -> Result<()> {
        self.embed_rows(h, table)
    }

    fn rope_store(
        &mut self,
        qkv: [&mut Buf; 3],
        owed: Option<Owed<'_, Self>>,
        cache: &mut Cache,
        layer: usize,
        rope: &Rope,
        heads: &Heads,
    ) -> Result<()> {
        self.rope_store_rows(qkv, owed, (cache, layer), rope, heads)
    }

    fn keep_outputs(&mut self, bufs: [&mut Buf; 2]) -> Result<()> {
        self.gather(bufs)
    }

    fn attend(&mut self, y: &mut Buf, q: &Buf, cache: &Cache, layer: usize, heads: &Heads) -> Result<()> {
        self.attend_rows(y, q, cache, layer, heads)
    }

    fn add(&mut self, h: &mut Buf, y: &Buf, owed: Option<Owed<'_, Self>>) -> Result<()> {
        let rows = self.step.rows();
        let expand = self.expand(owed, 0, rows, y.cols)?;
        self.residual(Some(h), y, expand, rows)
    }

    fn likeliest(&mut self, logits: &Buf, k: usize, out: &mut Vec<Likely>) -> Result<bool> {
        self.likeliest_rows(logits, k, out)
    }

    fn settle_outputs(&mut self, y: &mut Buf, owed: Owed<'_, Self>) -> Result<()> {
        let rows = self.step.outputs();
        let expand = self.expand(Some(owed), 0, rows, y.cols)?;
        if expand.rank == 0 { Ok(()) } else { self.residual(None, y, expand, rows) }
    }
}
