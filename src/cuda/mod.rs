//! The CUDA backend: the driver alone, opened at run time; kernels compiled beforehand (`kernels/README.md`).
//!
//! It does [`Linear`]: memory, and projections of q8_0, q4_0 and q4_1 weights with every [`Input`]; and the residual
//! [`Cuda::add`]. Weights of other types are refused by [`Linear::fan`]. Attention, embedding and the cache are not
//! part of it yet, so it is not a `Backend`.
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
mod bundle;
mod device;
mod project;
mod weights;

pub use device::Device;
pub use weights::{Delta, Fan};

use crate::backend::{Batch, Input, Linear, Owed, Term};
use crate::error::{Error, Result};
use crate::quant;
use crate::tensor::Tensor;
use cudarc::driver::{CudaSlice, PinnedHostSlice};
use project::Acts;

/// The kernels of one .cu file.
struct KernelFile {
    file: &'static str,
    names: &'static [&'static str],
}

const KERNELS: [KernelFile; 3] = [
    KernelFile { file: "expand", names: &["residual_r1", "residual_r2", "residual_r4", "residual_r8"] },
    KernelFile { file: "matvec", names: &project::MATVEC_NAMES },
    KernelFile {
        file: "quantize",
        names: &["quantize_rows", "quantize_gated_r1", "quantize_gated_r2", "quantize_gated_r4", "quantize_gated_r8"],
    },
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

/// A step's rows, in one copy: `[openings, outputs]`, 4 bytes each.
struct Step {
    host: PinnedHostSlice<u32>,
    device: CudaSlice<u32>,
    rows: usize,
    slots: usize,
    outputs: usize,
}

impl Step {
    fn new(device: &Device, words: usize) -> Result<Self> {
        // SAFETY: the memory is written below, before anything reads it.
        let host = unsafe { device.context().alloc_pinned::<u32>(words) };
        let mut host = host.map_err(|e| device.error(format_args!("pinning {words} words"), e))?;
        let start = host.as_mut_ptr().map_err(|e| device.error("pinning memory", e))?;
        // SAFETY: `words` words from `start` are this allocation.
        unsafe { start.write_bytes(0, words) };
        Ok(Self { host, device: device.zeros(words)?, rows: 0, slots: 0, outputs: 0 })
    }

    /// Bytes of the openings, which stand before the outputs.
    fn openings_bytes(&self) -> u64 {
        (self.rows * self.slots * size_of::<f32>()) as u64
    }
}

/// Words a step has room for at first; more rows or slots make it grow.
const STEP_WORDS: usize = 4096;
/// Most rows of a batch: the second side of a launch.
const MAX_ROWS: usize = 65_535;

/// A backend on one CUDA device.
pub struct Cuda {
    device: Device,
    step: Step,
    acts: Acts,
    launches: u64,
}

impl Cuda {
    /// Opens device `ordinal`; 0 is the first.
    ///
    /// # Errors
    /// Those of [`Device::open`].
    pub fn open(ordinal: usize) -> Result<Self> {
        let device = Device::open(ordinal)?;
        let step = Step::new(&device, STEP_WORDS)?;
        let acts = Acts::new(&device)?;
        Ok(Self { device, step, acts, launches: 0 })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Kernels launched so far.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// `h += y`, with what y (output 0) owes; h and y `[rows, cols]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the shapes do not fit each other and the step; [`Error::Device`] if the launch fails.
    pub fn add(&mut self, h: &mut Buf, y: &Buf, owed: Option<Owed<'_, Self>>) -> Result<()> {
        self.residual(h, y, owed)
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
        let (rows, slots) = (batch.tokens.len(), batch.slots);
        if rows == 0 || rows > MAX_ROWS || rows.checked_mul(slots) != Some(batch.openings.len()) {
            let given = batch.openings.len();
            return Err(Error::argument("batch", format!("{rows} rows, {slots} slots and {given} openings")));
        }
        if let Some(row) = batch.outputs.iter().find(|r| **r as usize >= rows) {
            return Err(Error::argument("batch", format!("output row {row} of {rows} rows")));
        }
        let words = batch.openings.len() + batch.outputs.len();
        if words > self.step.host.len() {
            self.step = Step::new(&self.device, words.next_power_of_two())?;
        }
        let Self { device, step, .. } = self;
        (step.rows, step.slots, step.outputs) = (rows, slots, batch.outputs.len());
        let host = step.host.as_mut_slice().map_err(|e| device.error("waiting for the last step's copy", e))?;
        let values = batch.openings.iter().map(|o| o.to_bits()).chain(batch.outputs.iter().copied());
        host.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        let copied = device.stream().memcpy_htod(&step.host, &mut step.device);
        copied.map_err(|e| device.error(format_args!("copying a step of {rows} rows"), e))
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
        self.multiply(ys, u, &prepared, fan, delta)
    }

    fn download(&mut self, src: &Buf, dst: &mut [f32]) -> Result<()> {
        let from = src.data.try_slice(..dst.len()).filter(|_| dst.len() <= src.rows * src.cols);
        let from = from.ok_or_else(|| Error::argument("dst", format!("{} values of a smaller buffer", dst.len())))?;
        if dst.is_empty() {
            return Ok(());
        }
        let copied = self.device.stream().memcpy_dtoh(&from, dst);
        copied.map_err(|e| self.device.error(format_args!("copying {} values back", dst.len()), e))?;
        self.device.synchronize()
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
