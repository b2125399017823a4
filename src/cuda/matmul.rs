//! Projections of many rows: the shrink, then a matmul that adds the expand itself, so that nothing is owed.

use super::args::{self, MAX_PARTS, MatmulPart, Shrink};
use super::project::{MATVECS, Prepared};
use super::weights::Fan;
use super::{Buf, Cuda, Delta, int};
use crate::backend::Owed;
use crate::error::Result;
use crate::tensor::TensorType;

/// Most rows of a batch whose projections are matvecs.
const FEW: usize = 8;
const THREADS: u32 = 128;
/// Outputs of a tile.
const TILE_OUTS: usize = 64;
/// Rows and columns of a block of shrink_many.cu.
const SHRINK_ROWS: usize = 4;
const SHRINK_COLUMNS: usize = 16;
/// The largest tile's blocks on a multiprocessor.
const BLOCKS: usize = 3;

/// The files of matmul.cuh and their weight types; those of matvec_float.cu have none.
pub(super) const MATMULS: [(&str, &[TensorType]); 3] =
    [("matmul", MATVECS[0].1), ("matmul_k", MATVECS[1].1), ("matmul_more", MATVECS[2].1)];
/// Rows of a tile.
const TILES: [usize; 3] = [32, 64, 128];

fn matmul_name(ty: TensorType, rows: usize) -> String {
    format!("matmul_{ty}_r{rows}")
}

/// The kernels of a file for `types`.
pub(super) fn matmul_names(types: &[TensorType]) -> Vec<String> {
    types.iter().flat_map(|ty| TILES.map(|rows| matmul_name(*ty, rows))).collect()
}

/// Rows of a tile: the least that hold all, but the most only where every multiprocessor is full of such tiles.
fn tile_rows(rows: usize, out_tiles: usize, multiprocessors: usize) -> usize {
    match rows {
        0..=32 => 32,
        65.. if rows.div_ceil(128) * out_tiles >= BLOCKS * multiprocessors => 128,
        _ => 64,
    }
}

impl Cuda {
    /// Whether the step's projections are matmuls. The whole batch decides, so that a row's logits are the same
    /// whatever other rows' are wanted.
    pub(super) fn many(&self) -> bool {
        self.step.batch_rows() > FEW
    }

    /// The shrink of all rows, then one launch for each type among the fan's weights. Floats are multiplied by
    /// matvec.cuh, and settled.
    pub(super) fn multiply_many(
        &mut self,
        ys: &mut [&mut Buf],
        u: &mut Buf,
        x: &Prepared,
        fan: &Fan,
        delta: Option<&Delta>,
    ) -> Result<()> {
        if let Some(delta) = delta {
            self.shrink_many(u, x, delta)?;
        }
        let owed = delta.map(|delta| Owed { u: &*u, delta });
        for ty in MATMULS.iter().flat_map(|(_, types)| types.iter().copied()) {
            let mut parts = [MatmulPart::default(); MAX_PARTS];
            let of_type = fan.weights.iter().zip(ys.iter()).enumerate().filter(|(_, (w, _))| w.ty == ty);
            for (part, (output, (w, y))) in parts.iter_mut().zip(of_type) {
                *part = MatmulPart {
                    quants: self.device.address(&w.quants),
                    high: self.device.address(&w.high),
                    scales: self.device.address(&w.scales),
                    y: self.device.address(&y.data),
                    expand: self.terms(owed, output, x.rows, w.n_out)?,
                    n_out: int(w.n_out),
                    tiles: int(w.n_out.div_ceil(TILE_OUTS)),
                };
            }
            let tiles: i64 = parts.iter().map(|p| i64::from(p.tiles)).sum();
            if tiles > 0 {
                self.matmul(ty, parts, tiles as usize, x, fan.n_in)?;
            }
        }
        let (_, floats) = MATVECS[3];
        for ty in floats.iter().copied() {
            if !fan.weights.iter().any(|w| w.ty == ty) {
                continue;
            }
            self.matvec(ty, ys, x, fan, Shrink::default())?;
            for (output, (_, y)) in fan.weights.iter().zip(ys.iter()).enumerate().filter(|(_, (w, _))| w.ty == ty) {
                let expand = self.terms(owed, output, x.rows, y.cols)?;
                if expand.rank > 0 {
                    self.residual(None, y, expand, x.rows)?;
                }
            }
        }
        Ok(())
    }

    fn matmul(
        &mut self,
        ty: TensorType,
        parts: [MatmulPart; MAX_PARTS],
        tiles: usize,
        x: &Prepared,
        n_in: usize,
    ) -> Result<()> {
        let d = &self.device;
        let acts = self.acts.args(d, false);
        let (x_quants, x_scales, x_sums) = (acts.quants, acts.scales, acts.sums);
        let args = args::Matmul { parts, x_quants, x_scales, x_sums, n_in: int(n_in), rows: int(x.rows) };
        let tile = tile_rows(x.rows, tiles, d.multiprocessors());
        let kernel = matmul_name(ty, tile);
        let shape = format_args!("[{tiles} tiles x {n_in}], {} rows", x.rows);
        // SAFETY: the kernel takes this struct; `check` saw that every y holds its rows and every B its outputs,
        // `terms` that u holds their columns, and the fan's planes are as long as its shapes say.
        unsafe { d.launch(&kernel, (x.rows.div_ceil(tile), tiles), THREADS, &args, shape) }?;
        self.launches += 1;
        Ok(())
    }

    fn shrink_many(&mut self, u: &mut Buf, x: &Prepared, delta: &Delta) -> Result<()> {
        if delta.rank == 0 {
            return Ok(());
        }
        let args = args::ShrinkMany { shrink: self.shrink(u, x, delta), n_in: int(delta.n_in), rows: int(x.rows) };
        let grid = (delta.rank.div_ceil(SHRINK_COLUMNS), x.rows.div_ceil(SHRINK_ROWS));
        let shape = format_args!("[{} x {}], {} rows", delta.rank, delta.n_in, x.rows);
        // SAFETY: shrink_many takes this struct; `check` saw that u and the step's openings hold the delta's columns
        // and slots, and that x is rows of its n_in.
        unsafe { self.device.launch("shrink_many", grid, THREADS, &args, shape) }?;
        self.launches += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_large_only_where_the_device_is_full_of_them() {
        assert_eq!([9, 32, 33, 64].map(|rows| tile_rows(rows, 2004, 132)), [32, 32, 64, 64]);
        assert_eq!([64, 96, 448].map(|tiles| tile_rows(512, tiles, 132)), [64, 64, 128]);
    }
}
