//! The launches of a projection and of the residual add; the kernels' heads give their shapes and grids.

use super::args::{self, Expand, MAX_PARTS, Part, Shrink};
use super::weights::Weight;
use super::{BLOCK, Buf, Cuda, Delta, Device, Fan, int};
use crate::backend::{Input, Owed};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
use cudarc::driver::CudaSlice;

/// Warps in a block of matvec.cu; each makes one tile of outputs.
const MATVEC_WARPS: usize = 4;
const MATVEC_THREADS: u32 = 128;
const QUANTIZE_THREADS: u32 = 256;
const RESIDUAL_THREADS: u32 = 64;
/// Warps that each multiprocessor should find in a matvec before a warp takes several outputs.
const WARPS_PER_MULTIPROCESSOR: usize = 16;

/// Rows and outputs a warp, of each matvec kernel; a row count's variants by ascending outputs.
const VARIANTS: [(usize, usize); 7] = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 2), (8, 2)];

/// The files of matvec kernels, and the weight types of each.
pub(super) const MATVECS: [(&str, &[TensorType]); 4] = [
    ("matvec", &[TensorType::Q8_0, TensorType::Q4_0, TensorType::Q4_1]),
    ("matvec_k", &[TensorType::Q2K, TensorType::Q3K, TensorType::Q4K, TensorType::Q5K, TensorType::Q6K]),
    ("matvec_more", &[TensorType::Q5_0, TensorType::Q5_1, TensorType::Iq4Nl, TensorType::Iq4Xs, TensorType::Mxfp4]),
    ("matvec_float", &[TensorType::F16, TensorType::BF16, TensorType::F32]),
];

/// The weight types that a fan may hold.
pub(super) fn types() -> impl Iterator<Item = TensorType> {
    MATVECS.iter().flat_map(|(_, types)| types.iter().copied())
}

fn matvec_name(ty: TensorType, (rows, outs): (usize, usize)) -> String {
    format!("matvec_{ty}_r{rows}_o{outs}")
}

/// The kernels of a file for `types`.
pub(super) fn matvec_names(types: &[TensorType]) -> Vec<String> {
    types.iter().flat_map(|ty| VARIANTS.map(|variant| matvec_name(*ty, variant))).collect()
}

/// The rows that kernels for `rows` rows take at a time.
pub(super) fn row_tile(rows: usize) -> usize {
    match rows {
        1 | 2 => rows,
        3 | 4 => 4,
        _ => 8,
    }
}

/// The variant for `rows` rows of a launch with `n_out` outputs: as many outputs a warp as leave every
/// multiprocessor enough warps to hide the memory's latency.
fn pick(rows: usize, n_out: usize, multiprocessors: usize) -> usize {
    let tile = row_tile(rows);
    let of_tile = || (0..VARIANTS.len()).filter(|v| VARIANTS[*v].0 == tile);
    let enough = |v: &usize| n_out / VARIANTS[*v].1 >= WARPS_PER_MULTIPROCESSOR * multiprocessors;
    of_tile().rfind(enough).or_else(|| of_tile().next()).unwrap_or(0)
}

/// Quantized activations, and the values before, on the device.
pub(super) struct Acts {
    quants: CudaSlice<i8>,
    scales: CudaSlice<f32>,
    sums: CudaSlice<i32>,
    floats: CudaSlice<f32>,
    capacity: usize,
    /// The buffer whose rows are here, by its address: attention leaves its result so.
    pub of: Option<u64>,
}

impl Acts {
    pub(super) fn new(device: &Device) -> Result<Self> {
        Self::of(device, BLOCK)
    }

    fn of(device: &Device, values: usize) -> Result<Self> {
        let blocks = values / BLOCK;
        Ok(Self {
            quants: device.zeros(values)?,
            scales: device.zeros(blocks)?,
            sums: device.zeros(blocks)?,
            floats: device.zeros(values)?,
            capacity: values,
            of: None,
        })
    }

    /// Room for `values` values. Returns whether memory moved.
    pub(super) fn reserve(&mut self, device: &Device, values: usize) -> Result<bool> {
        let moves = values > self.capacity;
        if moves {
            *self = Self::of(device, values.next_power_of_two())?;
        }
        Ok(moves)
    }

    /// Where they are, with the values before if `keep`.
    pub(super) fn args(&self, d: &Device, keep: bool) -> args::Quantized {
        args::Quantized {
            quants: d.address(&self.quants),
            scales: d.address(&self.scales),
            sums: d.address(&self.sums),
            floats: if keep { d.address(&self.floats) } else { 0 },
        }
    }
}

/// A fan's input, on the device.
pub(super) struct Prepared {
    pub rows: usize,
    /// The f32 activations, for a shrink and for float weights.
    x: u64,
    /// The batch row of each row, or 0 where they are the same.
    row_map: u64,
}

impl Cuda {
    /// The rows of `x`, which reads the outputs' rows alone if it is [`Input::NormedOutputs`].
    fn rows_of(&self, x: &Input<'_, Self>) -> usize {
        if let Input::NormedOutputs { .. } = x { self.step.outputs() } else { self.step.rows() }
    }

    /// Every shape that the kernels take on trust.
    pub(super) fn check(
        &self,
        ys: &[&mut Buf],
        u: &Buf,
        x: &Input<'_, Self>,
        fan: &Fan,
        delta: Option<&Delta>,
    ) -> Result<()> {
        let (rows, n_in, batch) = (self.rows_of(x), fan.n_in, self.step.rows());
        let holds = |buf: &Buf, rows: usize, cols: usize| buf.rows >= rows && buf.cols == cols;
        let fits = match x {
            Input::Raw(x) => holds(x, rows, n_in),
            Input::Normed { x, weight, .. } | Input::NormedOutputs { x, weight, .. } => {
                holds(x, batch, n_in) && weight.len == n_in
            }
            Input::Gated { gate, up, .. } => holds(gate, rows, n_in) && holds(up, rows, n_in),
        };
        if !fits || rows == 0 {
            return Err(Error::argument("x", format!("it is not {rows} rows of {n_in}")));
        }
        if ys.len() != fan.weights.len() || !ys.iter().zip(&fan.weights).all(|(y, w)| holds(y, rows, w.n_out)) {
            return Err(Error::argument("ys", format!("they are not {rows} rows of each of the fan's outputs")));
        }
        let Some(delta) = delta else { return Ok(()) };
        let meets = |(w, e): (&Weight, _)| Option::is_none_or(e, |e: &super::weights::Expansion| e.n_out == w.n_out);
        let outputs_meet = fan.weights.iter().zip(delta.expansions.iter().map(Option::as_ref)).all(meets);
        if delta.n_in != n_in || delta.expansions.len() > fan.weights.len() || !outputs_meet {
            return Err(Error::argument("delta", "its terms do not fit the fan"));
        }
        if delta.slots > self.step.slots() || u.rows < rows || u.cols < delta.rank {
            let (ranks, slots) = (delta.rank, delta.slots);
            return Err(Error::argument("u", format!("{ranks} ranks in {slots} slots do not fit it and the batch")));
        }
        Ok(())
    }

    /// What a consumer of output `output` adds to it, checked against the rows and columns of y.
    pub(super) fn expand(&self, owed: Option<Owed<'_, Self>>, output: usize, rows: usize, n: usize) -> Result<Expand> {
        self.terms(owed.filter(|_| !self.many()), output, rows, n)
    }

    /// The expand of output `output`, checked in the same way.
    pub(super) fn terms(&self, owed: Option<Owed<'_, Self>>, output: usize, rows: usize, n: usize) -> Result<Expand> {
        let Some(owed) = owed else { return Ok(Expand::default()) };
        let Some(Some(e)) = owed.delta.expansions.get(output) else { return Ok(Expand::default()) };
        if e.n_out != n || owed.u.rows < rows || owed.u.cols < owed.delta.rank {
            return Err(Error::argument("owed", format!("its output {output} is not {rows} rows of {n}")));
        }
        Ok(Expand {
            b: self.device.address(&e.b),
            columns: self.device.address(&e.columns),
            u: self.device.address(&owed.u.data),
            rank: int(e.rank),
            u_stride: int(owed.u.cols),
            b_is_f32: e.b_is_f32.into(),
            unused: 0,
        })
    }

    /// Norms or gates the input and quantizes it, if that is not done yet; `keep` the f32 values too, for a shrink or
    /// for float weights.
    pub(super) fn prepare(&mut self, x: &Input<'_, Self>, fan: &Fan, keep: bool) -> Result<Prepared> {
        let (rows, n) = (self.rows_of(x), fan.n_in);
        if let Input::Raw(x) = x
            && self.acts.of == Some(self.device.address(&x.data))
        {
            return Ok(Prepared { rows, x: self.device.address(&x.data), row_map: 0 });
        }
        self.acts.of = None;
        if self.acts.reserve(&self.device, rows * n)? {
            self.graphs.clear();
        }
        let d = &self.device;
        let (out, floats) = (self.acts.args(d, keep), d.address(&self.acts.floats));
        let outputs = self.step.output_rows(d).unwrap_or(0);
        let grid = n.div_ceil(QUANTIZE_THREADS as usize);
        let shape = format_args!("[{rows} x {n}]");
        let simple = |x: &Buf, weight: u64, row_map: u64, eps: f32, out: args::Quantized| {
            let args = args::Quantize { x: d.address(&x.data), weight, row_map, out, n: int(n), eps };
            // SAFETY: quantize_rows takes this struct; `check` saw that x holds the rows and the weight n values, and
            // `acts` has room for rows * n.
            unsafe { d.launch("quantize_rows", (grid, rows), QUANTIZE_THREADS, &args, shape) }
        };
        let mut prepared = Prepared { rows, x: floats, row_map: 0 };
        match x {
            Input::Raw(x) => {
                prepared.x = d.address(&x.data);
                simple(x, 0, 0, 0.0, args::Quantized { floats: 0, ..out })?;
            }
            Input::Normed { x, weight, eps } => simple(x, d.address(&weight.data), 0, *eps, out)?,
            Input::NormedOutputs { x, weight, eps } => {
                prepared.row_map = outputs;
                simple(x, d.address(&weight.data), outputs, *eps, out)?;
            }
            Input::Gated { gate, up, owed } => {
                let (gate_expand, up_expand) = (self.expand(*owed, 0, rows, n)?, self.expand(*owed, 1, rows, n)?);
                let (gate, up) = (d.address(&gate.data), d.address(&up.data));
                let args = args::Gated { gate, up, gate_expand, up_expand, out, n: int(n), rows: int(rows) };
                let tile = row_tile(rows);
                let kernel = format!("quantize_gated_r{tile}");
                // SAFETY: quantize_gated_rR takes this struct; `check` and `expand` saw the shapes, and `acts` has
                // room for rows * n.
                unsafe { d.launch(&kernel, (grid, rows.div_ceil(tile)), QUANTIZE_THREADS, &args, shape) }?;
            }
        }
        self.launches += 1;
        Ok(prepared)
    }

    pub(super) fn shrink(&self, u: &Buf, x: &Prepared, delta: &Delta) -> Shrink {
        let d = &self.device;
        Shrink {
            a: d.address(&delta.a),
            x: x.x,
            openings: self.step.openings(d),
            row_map: x.row_map,
            scale: d.address(&delta.scale),
            slot: d.address(&delta.slot),
            u: d.address(&u.data),
            rank: int(delta.rank),
            slots: int(self.step.slots()),
            u_stride: int(u.cols),
            a_is_f32: delta.a_is_f32.into(),
        }
    }

    /// One launch for each type among the fan's weights; the first one does the shrink.
    pub(super) fn multiply(
        &mut self,
        ys: &mut [&mut Buf],
        u: &mut Buf,
        x: &Prepared,
        fan: &Fan,
        delta: Option<&Delta>,
    ) -> Result<()> {
        let mut shrink = delta.map_or_else(Shrink::default, |delta| self.shrink(u, x, delta));
        for ty in types() {
            if fan.weights.iter().any(|w| w.ty == ty) {
                self.matvec(ty, ys, x, fan, std::mem::take(&mut shrink))?;
            }
        }
        Ok(())
    }

    /// The fan's weights of type `ty`, and a shrink.
    pub(super) fn matvec(
        &mut self,
        ty: TensorType,
        ys: &[&mut Buf],
        x: &Prepared,
        fan: &Fan,
        shrink: Shrink,
    ) -> Result<()> {
        let d = &self.device;
        let of_type = || fan.weights.iter().zip(ys.iter()).filter(|(w, _)| w.ty == ty);
        let n_out: usize = of_type().map(|(w, _)| w.n_out).sum();
        let variant = VARIANTS[pick(x.rows, n_out, d.multiprocessors())];
        let (tile, outs) = variant;
        let mut parts = [Part::default(); MAX_PARTS];
        for (part, (w, y)) in parts.iter_mut().zip(of_type()) {
            *part = Part {
                quants: d.address(&w.quants),
                high: d.address(&w.high),
                scales: d.address(&w.scales),
                y: d.address(&y.data),
                n_out: int(w.n_out),
                blocks: int(w.n_out.div_ceil(MATVEC_WARPS * outs)),
            };
        }
        let blocks: i64 = parts.iter().map(|p| i64::from(p.blocks)).sum::<i64>() + i64::from(shrink.rank);
        let activations = args::Quantized { floats: x.x, ..self.acts.args(d, false) };
        let args = args::Matvec { parts, x: activations, shrink, n_in: int(fan.n_in), rows: int(x.rows) };
        let grid = (blocks as usize, x.rows.div_ceil(tile));
        let shape = format_args!("[{n_out} x {}], {} rows, rank {}", fan.n_in, x.rows, shrink.rank);
        // SAFETY: the kernel takes this struct; `check` saw that every y holds its rows, that u and the step's
        // openings hold the delta's columns and slots, and the fan's planes are as long as its shapes say.
        unsafe { d.launch(&matvec_name(ty, variant), grid, MATVEC_THREADS, &args, shape) }?;
        self.launches += 1;
        Ok(())
    }

    /// `h += y + B u` or, without h, `y += B u`, on `rows` rows.
    pub(super) fn residual(&mut self, h: Option<&mut Buf>, y: &Buf, expand: Expand, rows: usize) -> Result<()> {
        let n = y.cols;
        if y.rows < rows || h.as_ref().is_some_and(|h| h.rows < rows || h.cols != n) || n == 0 || rows == 0 {
            return Err(Error::argument("y", format!("h and y are not {rows} rows of {n}")));
        }
        let tile = row_tile(rows);
        let kernel = format!("{}_r{tile}", if h.is_some() { "residual" } else { "settle" });
        let y = self.device.address(&y.data);
        let (h, y) = h.map_or((y, 0), |h| (self.device.address(&h.data), y));
        let args = args::Residual { h, y, expand, n: int(n), rows: int(rows) };
        let grid = (n.div_ceil(RESIDUAL_THREADS as usize), rows.div_ceil(tile));
        // SAFETY: residual_rR and settle_rR take this struct; the shapes were checked above and by `expand`.
        unsafe { self.device.launch(&kernel, grid, RESIDUAL_THREADS, &args, format_args!("[{rows} x {n}]")) }?;
        self.launches += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_covers_its_rows_and_keeps_the_device_busy() {
        let picked = |rows, n_out| VARIANTS[pick(rows, n_out, 132)];
        assert_eq!(picked(1, 576), (1, 1));
        assert_eq!(picked(1, 4096), (1, 1));
        assert_eq!(picked(1, 4224), (1, 2));
        assert_eq!(picked(1, 128_256), (1, 4));
        assert_eq!([2, 3, 4, 5, 8, 9, 512].map(|rows| picked(rows, 576).0), [2, 4, 4, 8, 8, 8, 8]);
    }
}
