//! The CUDA backend: the driver alone, opened at run time; kernels compiled beforehand (`kernels/README.md`).
//!
//! Weights of types without kernels are refused by [`Linear::fan`], heads of other sizes by [`Backend::attend`].
//!
//! # Launches
//! A projection takes two launches with and without a valve, one more for each further quantization type among the
//! fan's weights: the input is normed or gated and quantized, then one matvec does all weights of a type and the
//! shrink. The expand is part of what reads the outputs. Up to 8 rows share each read of the weights; more rows read
//! them once for every 8.
//!
//! # Determinism
//! The bits of a row depend on that row alone, not on the other rows or their number: sums have a fixed order, and
//! there are no float atomics. They differ from the CPU backend's, whose sums have another order.

mod args;
mod attend;
mod bundle;
mod cache;
mod device;
mod graph;
mod matmul;
mod project;
mod shares;
mod step;
mod weights;

pub use cache::Cache;
pub use device::Device;
pub use weights::{Delta, Fan};

use crate::backend::{Backend, Batch, CacheSpec, Heads, Input, Linear, Owed, PageId, Rope, Term};
use crate::error::{Error, Result};
use crate::quant;
use crate::tensor::Tensor;
use attend::Attention;
use cudarc::driver::{CudaSlice, PinnedHostSlice, result};
use graph::Graphs;
use project::Acts;
use step::Step;

/// The kernels of one .cu file.
struct KernelFile {
    file: &'static str,
    names: &'static [&'static str],
}

const EXPAND_NAMES: [&str; 8] =
    ["residual_r1", "residual_r2", "residual_r4", "residual_r8", "settle_r1", "settle_r2", "settle_r4", "settle_r8"];

const KERNELS: [KernelFile; 10] = [
    KernelFile { file: "attend", names: &attend::ATTEND_NAMES },
    KernelFile {
        file: "attend_many",
        names: &["attend_many_d64", "attend_many_d80", "attend_many_d96", "attend_many_d128", "attend_many_d256"],
    },
    KernelFile { file: "embed", names: &["embed_q8_0", "embed_q4_0", "embed_q4_1"] },
    KernelFile { file: "expand", names: &EXPAND_NAMES },
    KernelFile { file: "matmul", names: &matmul::MATMUL_NAMES },
    KernelFile { file: "matvec", names: &project::MATVEC_NAMES },
    KernelFile {
        file: "quantize",
        names: &["quantize_rows", "quantize_gated_r1", "quantize_gated_r2", "quantize_gated_r4", "quantize_gated_r8"],
    },
    KernelFile { file: "rope", names: &["rope_store_r1", "rope_store_r2", "rope_store_r4", "rope_store_r8"] },
    KernelFile { file: "rows", names: &["gather_rows"] },
    KernelFile { file: "shrink_many", names: &["shrink_many"] },
];

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
        let readback = device.pinned_for_reading(READBACK)?;
        Ok(Self { device, step, acts, attention, graphs: Graphs::new(), readback, launches: 0 })
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
        let prepared = self.prepare(&x, fan, delta.is_some())?;
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
        let failed = |e| self.device.error(format_args!("copying {n} values back"), e);
        let host = &mut self.readback.as_mut_slice().map_err(failed)?[..n];
        let (from, stream) = (self.device.address(&src.data), self.device.stream());
        stream.context().bind_to_thread().map_err(failed)?;
        // SAFETY: `from` has n values, as was checked, and `host` is written by no one else until the wait below.
        unsafe { result::memcpy_dtoh_async(host, from, stream.cu_stream()) }.map_err(failed)?;
        self.device.synchronize()?;
        dst.copy_from_slice(host);
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
        self.residual(Some(h), y, owed, self.step.rows())
    }

    fn settle_outputs(&mut self, y: &mut Buf, owed: Owed<'_, Self>) -> Result<()> {
        // Of many rows nothing is owed.
        if self.many() { Ok(()) } else { self.residual(None, y, Some(owed), self.step.outputs()) }
    }
}
