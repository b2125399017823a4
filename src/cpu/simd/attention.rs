//! The two products of attention: query vectors with keys, and weights with values.
//!
//! Both are sums of scaled rows. A block of up to [`VECTORS`] results stays in registers while the rows pass by, so
//! that each row is read once for all of them. A result is one chain of fused additions, in the order of the rows
//! and from zero on, whatever block it falls into: its bits are the same at every level.

use super::Level;
use super::vector::{F16, F32, FloatVector, Source};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// Vectors of a block.
const VECTORS: usize = 4;

/// Sixteen values on a cache line: what vector loads want to start at.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line([f32; 16]);

// SAFETY: all zero bytes are sixteen zeros.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: an array of 64 bytes aligned to 64 has no padding, and every bit pattern is valid.
unsafe impl bytemuck::Pod for Line {}

/// Rows of `cols` values each, one after the other.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    F32 { data: &'a [u8], cols: usize },
    F16 { data: &'a [u8], cols: usize },
}

/// Vectors one after the other, `ld` values apart.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    pub data: &'a [f32],
    pub ld: usize,
}

/// `out[v][p] = Σ_d q[v][d] · keys[d][p]` for p < `count`, and perhaps for some p from there on. Keys stand in columns:
/// `[head_dim, positions]`, q is `[vectors, head_dim]`, and the vectors of `out` are `ld` values apart.
///
/// # Panics
/// If the shapes do not fit.
pub fn scores(level: Level, keys: Matrix<'_>, q: Vectors<'_>, count: usize, out: &mut [f32], ld: usize) {
    let (rows, columns) = keys.shape();
    let vectors = q.data.len() / q.ld;
    assert!(rows <= q.ld && count <= columns, "{rows} x {columns} keys for {} values, {count} positions", q.ld);
    assert!(vectors == 0 || (vectors - 1) * ld + columns <= out.len(), "{} scores", out.len());
    let (q, q_ld, out) = (q.data.as_ptr(), q.ld, out.as_mut_ptr());
    let job = Scores { keys: keys.start(), rows, columns, count, q, q_ld, vectors, out, ld };
    match keys {
        // SAFETY: the shapes were compared above.
        Matrix::F32 { .. } => unsafe { run::<F32, _>(level, job) },
        // SAFETY: as above.
        Matrix::F16 { .. } => unsafe { run::<F16, _>(level, job) },
    }
}

/// `out[v][j] += Σ_p weights[v][p] · values[p][j]` over the positions p < `counts[v]`. Values are `[positions,
/// head_dim]`, and so are the vectors of `out`; `fresh` stands for zeros in it.
///
/// # Panics
/// If the shapes do not fit.
pub fn sums(level: Level, values: Matrix<'_>, weights: Vectors<'_>, counts: &[usize], fresh: bool, out: &mut [f32]) {
    let (rows, columns) = values.shape();
    let (w, ld, vectors) = (weights.data, weights.ld, counts.len());
    assert!(out.len() == vectors * columns, "{} values for {vectors} vectors of {columns}", out.len());
    let fits = |(v, count): (usize, &usize)| *count <= rows && v * ld + count <= w.len();
    assert!(counts.iter().enumerate().all(fits), "{} weights, {rows} positions for {counts:?}", w.len());
    let (start, out) = (values.start(), out.as_mut_ptr());
    let job = Sums { values: start, columns, weights: w.as_ptr(), ld, counts, fresh, out };
    match values {
        // SAFETY: the shapes were compared above.
        Matrix::F32 { .. } => unsafe { run::<F32, _>(level, job) },
        // SAFETY: as above.
        Matrix::F16 { .. } => unsafe { run::<F16, _>(level, job) },
    }
}

impl<'a> Matrix<'a> {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize) {
        match self {
            Self::F32 { data, cols } => (data.len() / (4 * cols), *cols),
            Self::F16 { data, cols } => (data.len() / (2 * cols), *cols),
        }
    }

    fn start(&self) -> *const u8 {
        match self {
            Self::F32 { data, .. } | Self::F16 { data, .. } => data.as_ptr(),
        }
    }
}

/// A product, written once for all levels and types.
trait Job: Copy {
    /// # Safety
    /// The job's shapes were checked, and the machine has the instructions of `V`. `W` vectors of lanes make the width
    /// of a block.
    unsafe fn run<V: FloatVector, S: Source, const W: usize>(self);
}

/// Runs a job at a level.
///
/// # Safety
/// The job's shapes were checked.
unsafe fn run<S: Source, J: Job>(level: Level, job: J) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<S: Source, J: Job>(job: J) {
        // SAFETY: as the caller vouches. Eight sums, two of a row and a factor fit sixteen registers.
        unsafe { job.run::<__m256, S, 2>() }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn avx512<S: Source, J: Job>(job: J) {
        // SAFETY: as the caller vouches. Sixteen sums, four of a row and a factor fit 32 registers.
        unsafe { job.run::<__m512, S, 4>() }
    }
    match level.min(Level::detect()) {
        // SAFETY: as the caller vouches; this machine has the features of the level, as `detect` found.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::<S, J>(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::<S, J>(job) },
        // SAFETY: as above; single values need no features.
        _ => unsafe { job.run::<f32, S, 1>() },
    }
}

/// See [`scores`].
#[derive(Clone, Copy)]
struct Scores {
    keys: *const u8,
    rows: usize,
    columns: usize,
    count: usize,
    q: *const f32,
    q_ld: usize,
    vectors: usize,
    out: *mut f32,
    ld: usize,
}

impl Job for Scores {
    #[inline(always)]
    unsafe fn run<V: FloatVector, S: Source, const W: usize>(self) {
        // SAFETY: as the caller vouches; the blocks below ask for vectors that there are.
        let mut v = 0;
        while v < self.vectors {
            unsafe {
                match self.vectors - v {
                    1 => self.vectors::<V, S, 1, W>(v),
                    2 => self.vectors::<V, S, 2, W>(v),
                    3 => self.vectors::<V, S, 3, W>(v),
                    _ => self.vectors::<V, S, VECTORS, W>(v),
                }
            }
            v += VECTORS;
        }
    }
}

impl Scores {
    /// All positions of the `N` vectors from `v` on.
    ///
    /// # Safety
    /// As [`Job::run`]; there are so many vectors.
    #[inline(always)]
    unsafe fn vectors<V: FloatVector, S: Source, const N: usize, const W: usize>(&self, v: usize) {
        let whole = self.count.next_multiple_of(V::LANES);
        let mut p = 0;
        // SAFETY: every block lies inside the columns.
        unsafe {
            while p + W * V::LANES <= whole.min(self.columns) {
                self.block::<V, S, N, W>(v, p);
                p += W * V::LANES;
            }
            while p + V::LANES <= whole.min(self.columns) {
                self.block::<V, S, N, 1>(v, p);
                p += V::LANES;
            }
            while p < self.count {
                self.block::<f32, S, N, 1>(v, p);
                p += 1;
            }
        }
    }

    /// `W` vectors of lanes of positions from `p` on, against the `N` vectors from `v` on.
    ///
    /// # Safety
    /// As [`Job::run`]; there are so many vectors and columns.
    #[inline(always)]
    unsafe fn block<V: FloatVector, S: Source, const N: usize, const W: usize>(&self, v: usize, p: usize) {
        // SAFETY: as the caller vouches, every row has `W · LANES` columns from `p` on, every vector of q has a value
        // for every row, and the vectors of `out` have room for all columns.
        unsafe {
            let mut sums = [[V::splat(0.0); W]; N];
            let q = self.q.add(v * self.q_ld);
            let mut key = self.keys.add(p * S::BYTES);
            for d in 0..self.rows {
                let mut keys = [V::splat(0.0); W];
                for (w, keys) in keys.iter_mut().enumerate() {
                    *keys = S::load::<V>(key.add(w * V::LANES * S::BYTES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let q = V::splat(*q.add(i * self.q_ld + d));
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = q.fma(key, *sum);
                    }
                }
                key = key.wrapping_add(self.columns * S::BYTES);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (w, sum) in sums.iter().enumerate() {
                    sum.store(self.out.add((v + i) * self.ld + p + w * V::LANES));
                }
            }
        }
    }
}

/// See [`sums`].
#[derive(Clone, Copy)]
struct Sums<'a> {
    values: *const u8,
    columns: usize,
    weights: *const f32,
    ld: usize,
    counts: &'a [usize],
    fresh: bool,
    out: *mut f32,
}

impl Job for Sums<'_> {
    #[inline(always)]
    unsafe fn run<V: FloatVector, S: Source, const W: usize>(self) {
        // SAFETY: as the caller vouches; the blocks below ask for vectors that there are, and for positions they have.
        for (i, counts) in self.counts.chunks(VECTORS).enumerate() {
            let (v, common) = (i * VECTORS, counts.iter().copied().fold(usize::MAX, usize::min));
            unsafe {
                match counts.len() {
                    1 => self.vectors::<V, S, 1, W>(v, [0, common], self.fresh),
                    2 => self.vectors::<V, S, 2, W>(v, [0, common], self.fresh),
                    3 => self.vectors::<V, S, 3, W>(v, [0, common], self.fresh),
                    _ => self.vectors::<V, S, VECTORS, W>(v, [0, common], self.fresh),
                }
            }
            for (j, &count) in counts.iter().enumerate() {
                if count > common {
                    // SAFETY: see above.
                    unsafe { self.vectors::<V, S, 1, W>(v + j, [common, count], false) }
                }
            }
        }
    }
}

impl Sums<'_> {
    /// All values of the `N` vectors from `v` on, summed over the positions of `range`.
    ///
    /// # Safety
    /// As [`Job::run`]; there are so many vectors, and each has those positions.
    #[inline(always)]
    unsafe fn vectors<V: FloatVector, S: Source, const N: usize, const W: usize>(
        &self,
        v: usize,
        range: [usize; 2],
        fresh: bool,
    ) {
        let mut j = 0;
        // SAFETY: every block lies inside the columns.
        unsafe {
            while j + W * V::LANES <= self.columns {
                self.block::<V, S, N, W>(v, j, range, fresh);
                j += W * V::LANES;
            }
            while j + V::LANES <= self.columns {
                self.block::<V, S, N, 1>(v, j, range, fresh);
                j += V::LANES;
            }
            while j < self.columns {
                self.block::<f32, S, N, 1>(v, j, range, fresh);
                j += 1;
            }
        }
    }

    /// `W` vectors of lanes of values from `j` on.
    ///
    /// # Safety
    /// As [`Sums::vectors`]; there are so many columns.
    #[inline(always)]
    unsafe fn block<V: FloatVector, S: Source, const N: usize, const W: usize>(
        &self,
        v: usize,
        j: usize,
        [from, to]: [usize; 2],
        fresh: bool,
    ) {
        // SAFETY: as the caller vouches, the rows `from..to` exist and have `W · LANES` columns from `j` on, as the
        // vectors of `out` do, and every vector has weights for those rows.
        unsafe {
            let mut sums = [[V::splat(0.0); W]; N];
            let out = self.out.add(v * self.columns + j);
            if !fresh {
                for (i, sums) in sums.iter_mut().enumerate() {
                    for (w, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(out.add(i * self.columns + w * V::LANES));
                    }
                }
            }
            let weights = self.weights.add(v * self.ld);
            let mut value = self.values.add((from * self.columns + j) * S::BYTES);
            for p in from..to {
                let mut values = [V::splat(0.0); W];
                for (w, values) in values.iter_mut().enumerate() {
                    *values = S::load::<V>(value.add(w * V::LANES * S::BYTES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let weight = V::splat(*weights.add(i * self.ld + p));
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = weight.fma(value, *sum);
                    }
                }
                value = value.wrapping_add(self.columns * S::BYTES);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (w, sum) in sums.iter().enumerate() {
                    sum.store(out.add(i * self.columns + w * V::LANES));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant;
    use crate::rng::Rng;
    use crate::tensor::TensorType;

    /// A matrix in its type and in f32.
    fn matrix(rng: &mut Rng, ty: TensorType, rows: usize, cols: usize) -> (Vec<u8>, Vec<f32>) {
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal()).collect();
        let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap()];
        quant::encode(ty, &values, &mut bytes);
        let mut wide = vec![0.0; values.len()];
        quant::dequantize(ty, &bytes, &mut wide);
        (bytes, wide)
    }

    fn view(ty: TensorType, data: &[u8], cols: usize) -> Matrix<'_> {
        if ty == TensorType::F16 { Matrix::F16 { data, cols } } else { Matrix::F32 { data, cols } }
    }

    const SHAPES: [[usize; 4]; 6] =
        [[1, 64, 64, 64], [3, 64, 64, 33], [9, 80, 64, 17], [4, 96, 7, 5], [7, 20, 70, 70], [6, 128, 64, 1]];

    #[test]
    fn scores_are_chains_of_fused_additions_at_every_level() {
        let mut rng = Rng::new(1);
        for ty in [TensorType::F32, TensorType::F16] {
            for [vectors, head_dim, columns, count] in SHAPES {
                let (keys, wide) = matrix(&mut rng, ty, head_dim, columns);
                let (q_ld, ld) = (head_dim + 3, columns + 9);
                let q: Vec<f32> = (0..vectors * q_ld).map(|_| rng.normal()).collect();
                for level in Level::ALL {
                    let mut out = vec![0.0; vectors * ld];
                    let q = Vectors { data: &q, ld: q_ld };
                    scores(level, view(ty, &keys, columns), q, count, &mut out, ld);
                    for (v, p) in (0..vectors).flat_map(|v| (0..count).map(move |p| (v, p))) {
                        let product = |s: f32, d: usize| q.data[v * q_ld + d].mul_add(wide[d * columns + p], s);
                        let truth = (0..head_dim).fold(0.0, product);
                        assert_eq!(out[v * ld + p].to_bits(), truth.to_bits(), "{ty} at {}, {v} {p}", level.name());
                    }
                }
            }
        }
    }

    #[test]
    fn sums_are_chains_of_fused_additions_over_a_vectors_own_positions_at_every_level() {
        let mut rng = Rng::new(2);
        for ty in [TensorType::F32, TensorType::F16] {
            for [vectors, head_dim, rows, most] in SHAPES {
                let (values, wide) = matrix(&mut rng, ty, rows, head_dim);
                let ld = rows + 5;
                let weights: Vec<f32> = (0..vectors * ld).map(|_| rng.normal()).collect();
                let counts: Vec<usize> = (0..vectors).map(|v| most.saturating_sub(vectors / 2) + v / 2).collect();
                let counts: Vec<usize> = counts.into_iter().map(|count| count.min(most)).collect();
                let start: Vec<f32> = (0..vectors * head_dim).map(|_| rng.normal()).collect();
                for (level, fresh) in Level::ALL.into_iter().flat_map(|level| [(level, true), (level, false)]) {
                    let mut out = start.clone();
                    let weights = Vectors { data: &weights, ld };
                    sums(level, view(ty, &values, head_dim), weights, &counts, fresh, &mut out);
                    for (i, sum) in out.iter().enumerate() {
                        let (v, j) = (i / head_dim, i % head_dim);
                        let from = if fresh { 0.0 } else { start[i] };
                        let product = |s: f32, p: usize| weights.data[v * ld + p].mul_add(wide[p * head_dim + j], s);
                        let truth = (0..counts[v]).fold(from, product);
                        assert_eq!(sum.to_bits(), truth.to_bits(), "{ty} at {}, {v} {j}", level.name());
                    }
                }
            }
        }
    }
}
