//! The two products of attention: query vectors with keys, and weights with values.
//!
//! Both are sums of scaled rows. A block of up to [`VECTORS`] results stays in registers while the rows pass by, so
//! that each row is read once for all of them. A result is one chain of fused additions, in the order of the rows
//! and from zero on, whatever block it falls into: its bits are the same at every level.

use super::vector::{F16, F32, FloatVector, Source};
use super::{LINE, Level};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// Vectors of a block.
const VECTORS: usize = 4;

/// The types that are read as they lie.
#[derive(Clone, Copy, Debug)]
pub enum Float {
    F32,
    F16,
}

/// Rows of `cols` values each, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub ty: Float,
    pub data: &'a [u8],
    pub cols: usize,
    /// What will be read next: it is asked for, line by line, while this is read.
    pub next: Option<&'a [u8]>,
}

/// Vectors one after the other, `ld` values apart.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    pub data: &'a [f32],
    pub ld: usize,
}

/// `out[v][p] = Σ_d q[v][d] · keys[d][p]` for p < `counts[v]`, and perhaps for some p from there on. Keys stand in
/// columns: `[head_dim, positions]`, q is `[vectors, head_dim]`, and the vectors of `out` are `ld` values apart.
///
/// # Panics
/// If the shapes do not fit.
pub fn scores(level: Level, keys: Matrix<'_>, q: Vectors<'_>, counts: &[usize], out: &mut [f32], ld: usize) {
    let (rows, columns) = keys.shape();
    let fits = |(v, count): (usize, &usize)| *count <= columns && v * ld + columns <= out.len();
    assert!(counts.iter().enumerate().all(fits), "{} scores, {columns} positions for {counts:?}", out.len());
    assert!(rows <= q.ld && counts.len() * q.ld <= q.data.len(), "{} values for {counts:?}", q.data.len());
    let (data, q, q_ld, out) = (keys.data.as_ptr(), q.data.as_ptr(), q.ld, out.as_mut_ptr());
    let job = Scores { keys: data, ahead: keys.ahead(), rows, columns, q, q_ld, counts, out, ld };
    match keys.ty {
        // SAFETY: the shapes were compared above.
        Float::F32 => unsafe { run::<F32, _>(level, job) },
        // SAFETY: as above.
        Float::F16 => unsafe { run::<F16, _>(level, job) },
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
    let (data, ahead, out) = (values.data.as_ptr(), values.ahead(), out.as_mut_ptr());
    let job = Sums { values: data, ahead, columns, weights: w.as_ptr(), ld, counts, fresh, out };
    match values.ty {
        // SAFETY: the shapes were compared above.
        Float::F32 => unsafe { run::<F32, _>(level, job) },
        // SAFETY: as above.
        Float::F16 => unsafe { run::<F16, _>(level, job) },
    }
}

impl Matrix<'_> {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize) {
        let size = match self.ty {
            Float::F32 => F32::BYTES,
            Float::F16 => F16::BYTES,
        };
        (self.data.len() / (size * self.cols), self.cols)
    }

    /// Bytes from here to what will be read next.
    fn ahead(&self) -> usize {
        self.next.map_or(0, |next| next.as_ptr().addr().wrapping_sub(self.data.as_ptr().addr()))
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
    match level.vectors() {
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

/// Vector `w` of lanes of a row at `p`; what lies `ahead` bytes further is asked for, unless that is zero.
///
/// # Safety
/// There are so many values, and the machine has the instructions of `V`.
#[inline(always)]
unsafe fn row<V: FloatVector, S: Source>(p: *const u8, w: usize, ahead: usize) -> V {
    let bytes = V::LANES * S::BYTES;
    // SAFETY: as the caller vouches; any address may be asked for.
    unsafe {
        let p = p.add(w * bytes);
        if (w * bytes).is_multiple_of(LINE) && ahead != 0 {
            V::prefetch(p.wrapping_add(ahead));
        }
        S::load::<V>(p)
    }
}

/// See [`scores`].
#[derive(Clone, Copy)]
struct Scores<'a> {
    keys: *const u8,
    ahead: usize,
    rows: usize,
    columns: usize,
    q: *const f32,
    q_ld: usize,
    counts: &'a [usize],
    out: *mut f32,
    ld: usize,
}

impl Job for Scores<'_> {
    #[inline(always)]
    unsafe fn run<V: FloatVector, S: Source, const W: usize>(self) {
        // SAFETY: as the caller vouches; the blocks below ask for vectors that there are.
        for (i, counts) in self.counts.chunks(VECTORS).enumerate() {
            let (v, most) = (i * VECTORS, counts.iter().copied().fold(0, usize::max));
            unsafe {
                match counts.len() {
                    1 => self.vectors::<V, S, 1, W>(v, most),
                    2 => self.vectors::<V, S, 2, W>(v, most),
                    3 => self.vectors::<V, S, 3, W>(v, most),
                    _ => self.vectors::<V, S, VECTORS, W>(v, most),
                }
            }
        }
    }
}

impl Scores<'_> {
    /// The first `count` positions of the `N` vectors from `v` on.
    ///
    /// # Safety
    /// As [`Job::run`]; there are so many vectors and columns.
    #[inline(always)]
    unsafe fn vectors<V: FloatVector, S: Source, const N: usize, const W: usize>(&self, v: usize, count: usize) {
        let whole = count.next_multiple_of(V::LANES).min(self.columns);
        let mut p = 0;
        // SAFETY: every block lies inside the columns.
        unsafe {
            while p + W * V::LANES <= whole {
                self.block::<V, S, N, W>(v, p);
                p += W * V::LANES;
            }
            while p + V::LANES <= whole {
                self.block::<V, S, N, 1>(v, p);
                p += V::LANES;
            }
            while p < count {
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
                    *keys = row::<V, S>(key, w, self.ahead);
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
    ahead: usize,
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
                    *values = row::<V, S>(value, w, self.ahead);
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
        let ty = if ty == TensorType::F16 { Float::F16 } else { Float::F32 };
        Matrix { ty, data, cols, next: Some(data) }
    }

    /// Positions of each vector: `most`, and fewer for the first.
    fn counts(vectors: usize, most: usize) -> Vec<usize> {
        (0..vectors).map(|v| (most.saturating_sub(vectors / 2) + v / 2).min(most)).collect()
    }

    const SHAPES: [[usize; 4]; 6] =
        [[1, 64, 64, 64], [3, 64, 64, 33], [9, 80, 64, 17], [4, 96, 7, 5], [7, 20, 70, 70], [6, 128, 64, 1]];

    #[test]
    fn scores_are_chains_of_fused_additions_at_every_level() {
        let mut rng = Rng::new(1);
        for ty in [TensorType::F32, TensorType::F16] {
            for [vectors, head_dim, columns, most] in SHAPES {
                let counts = counts(vectors, most);
                let (keys, wide) = matrix(&mut rng, ty, head_dim, columns);
                let (q_ld, ld) = (head_dim + 3, columns + 9);
                let q: Vec<f32> = (0..vectors * q_ld).map(|_| rng.normal()).collect();
                for level in Level::ALL {
                    let mut out = vec![0.0; vectors * ld];
                    let q = Vectors { data: &q, ld: q_ld };
                    scores(level, view(ty, &keys, columns), q, &counts, &mut out, ld);
                    for (v, p) in (0..vectors).flat_map(|v| (0..counts[v]).map(move |p| (v, p))) {
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
                let counts = counts(vectors, most);
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
