//! The table of kernels by level, and the checks that make its entries safe to call.

use super::expand::{self, Shrunk, Tiles};
use super::float;
use super::half;
use super::level::Level;
use super::line::{LINE, Line, lines};
use super::multiversion;
use super::prefetch::prefetch;
use super::q8;
use super::scalar;
use super::view::{Rows, Strided};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::quant::act::{self, ActRowMut, Acts};
use crate::tensor::TensorType;

/// The kernels of one level.
#[derive(Debug)]
pub struct Kernels {
    level: Level,
    /// Needs: a quantized type; `w`, `x` and `y` that fit each other; the level's features.
    linear_int8: unsafe fn(&Rows<'_>, &Acts, &mut Strided<'_>, &mut Scratch),
}

/// Buffers that kernels use between calls; one for each thread. They grow to the largest weight met and stay.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Rows of activations, for whoever prepares them.
    pub block: Vec<Line>,
    /// Dequantized rows of a weight.
    pub(super) rows: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    pub(super) int8: super::int8::Buffers,
}

impl Scratch {
    /// Makes room for weights of type `ty` with `cols` columns against one row of activations: the kernels then
    /// allocate nothing.
    pub fn reserve(&mut self, ty: TensorType, cols: usize) {
        lines::<f32>(&mut self.block, cols);
        self.rows.reserve(float::SIDE * cols);
        #[cfg(target_arch = "x86_64")]
        if ty.is_quantized() {
            self.int8.reserve(ty.row_bytes(cols).unwrap_or(0));
        }
    }
}

static SCALAR: Kernels = Kernels { level: Level::Scalar, linear_int8: scalar::linear_int8 };
#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = Kernels { level: Level::Avx2, linear_int8: avx2::linear_int8 };
#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = Kernels { level: Level::Avx512, linear_int8: avx512::linear_int8::<false> };
#[cfg(target_arch = "x86_64")]
static AMX: Kernels = Kernels { level: Level::Amx, linear_int8: avx512::linear_int8::<true> };

impl Kernels {
    /// The kernels of `level`, or of the highest level of this machine if that is lower.
    pub fn at(level: Level) -> &'static Kernels {
        match level.min(Level::detect()) {
            #[cfg(target_arch = "x86_64")]
            Level::Amx => &AMX,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => &AVX2,
            _ => &SCALAR,
        }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// [`crate::quant::act::quantize`].
    ///
    /// # Panics
    /// If the parts of `out` do not have the sizes that a row of `x.len()` activations asks for.
    pub fn quantize(&self, x: &[f32], out: ActRowMut<'_>) {
        quantize(self.level, x, out);
    }

    /// y\[i\]\[r\] = the Int8 dot of row r of `w` and row i of `x`, as [`crate::quant::dot_int8`].
    ///
    /// # Panics
    /// If `w` is not of a quantized type, or the shapes do not fit: `w` [n, cols], `x` [m, cols], `y` [m, n].
    pub fn linear_int8(&self, w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, scratch: &mut Scratch) {
        assert!(w.ty.is_quantized(), "{} has no Int8 dot", w.ty);
        check_shapes(w, x.rows(), x.cols(), y);
        // SAFETY: the type and the shapes were checked above, and `at` gives no table that this machine has
        // no features for.
        unsafe { (self.linear_int8)(w, x, y, scratch) }
    }

    /// y\[i\]\[r\] = the Float dot of row r of `w` and row i of `x`, as [`crate::quant::dot_float`]. The rows
    /// of `x` lie one after the other.
    ///
    /// # Panics
    /// If the shapes do not fit: `w` [n, cols], `x` [m, cols], `y` [m, n].
    pub fn linear_float(&self, w: &Rows<'_>, x: &[f32], y: &mut Strided<'_>, scratch: &mut Scratch) {
        self.linear_float_before(w, x, y, &[], scratch);
    }

    /// The same while `next`, which is to be read after it, is asked for.
    ///
    /// # Panics
    /// As [`Kernels::linear_float`].
    pub fn linear_float_before(
        &self,
        w: &Rows<'_>,
        x: &[f32],
        y: &mut Strided<'_>,
        next: &[u8],
        scratch: &mut Scratch,
    ) {
        assert!(x.len() == y.rows() * w.cols, "{} activations are not {} rows of {}", x.len(), y.rows(), w.cols);
        check_shapes(w, y.rows(), w.cols, y);
        float::linear(self.level, w, x, y, next, &mut scratch.rows);
    }

    /// The values of `src`, of type `ty`, in f32.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn widen(&self, ty: TensorType, src: &[u8], dst: &mut [f32]) {
        match ty {
            TensorType::F16 => half::widen(self.level, src, dst),
            _ => {
                assert!(ty.row_bytes(dst.len()) == Some(src.len()), "{} bytes of {ty} for {}", src.len(), dst.len());
                float::dequantize(self.level, ty, src, dst);
            }
        }
    }

    /// The values of Q8_0 rows that stand as columns, `[values, columns]` in f32. Block by block, `page` holds the
    /// scales of all columns, then value by value the quants of all columns.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn widen_columns(&self, page: &[u8], columns: usize, out: &mut [f32]) {
        let bytes = TensorType::Q8_0.row_bytes(out.len()).filter(|_| out.len().is_multiple_of(columns));
        assert!(bytes == Some(page.len()), "{} bytes are not {} values in {columns} columns", page.len(), out.len());
        q8::widen_columns(self.level, page, columns, out);
    }

    /// Stores f32 values as `ty`, as [`crate::quant::encode`].
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn narrow(&self, ty: TensorType, src: &[f32], dst: &mut [u8]) {
        match ty {
            TensorType::F16 => half::narrow(self.level, src, dst),
            TensorType::Q8_0 => {
                assert!(ty.row_bytes(src.len()) == Some(dst.len()), "{} bytes of {ty} for {}", dst.len(), src.len());
                q8::narrow(self.level, src, dst);
            }
            _ => crate::quant::encode(ty, src, dst),
        }
    }

    /// y\[o\] = fma(u\[j\], b\[j\]\[first + o\], y\[o\]) for j ascending: adds B·u, where `b` holds B transposed,
    /// [rank, n_out], and `y` the outputs from `first` on.
    ///
    /// # Panics
    /// If `b` is not `u.len()` rows, of F32, F16 or BF16, of at least `first + y.len()` values.
    pub fn expand(&self, y: &mut [f32], b: &Rows<'_>, first: usize, u: &[f32]) {
        assert!(!b.ty.is_quantized(), "{} cannot be expanded", b.ty);
        assert!(b.rows() == u.len(), "{} rows for a rank of {}", b.rows(), u.len());
        assert!(first.checked_add(y.len()).is_some_and(|end| end <= b.cols), "outputs past the {} of B", b.cols);
        match b.ty {
            TensorType::F16 => half::expand(self.level, y, b, first, u),
            _ => float::expand(self.level, y, b, first, u),
        }
    }

    /// Asks for `bytes` to come nearer than memory.
    pub fn prefetch(&self, bytes: &[u8]) {
        for line in bytes.chunks(LINE) {
            prefetch(line.as_ptr());
        }
    }

    /// y\[i\]\[o\] = fma(u\[i\]\[j\], B\[first + o\]\[j\], y\[i\]\[o\]) for j ascending, in the rows `rows` alone.
    ///
    /// # Panics
    /// If `first` is inside a tile, `b` has no tiles for all of y's columns, its type is quantized, or its rank, or
    /// `rows`, is not that of `u`.
    pub fn expand_rows(&self, y: &mut Strided<'_>, rows: &[usize], b: &Tiles<'_>, first: usize, u: &Shrunk<'_>) {
        assert!(!b.ty.is_quantized(), "{} cannot be expanded", b.ty);
        assert!(b.rank == u.rank, "u of {} columns for a rank of {}", u.rank, b.rank);
        #[cfg(target_arch = "x86_64")]
        if expand::rows(self.level, y, rows, b, first, u) {
            return;
        }
        expand::rows_scalar(y, rows, b, first, u);
    }
}

multiversion! {
    fn quantize(x: &[f32], out: ActRowMut<'_>) {
        act::quantize_row(x, out)
    }
}

/// Panics unless `w` [n, cols], x [m, cols] and `y` [m, n] fit each other.
fn check_shapes(w: &Rows<'_>, m: usize, cols: usize, y: &Strided<'_>) {
    assert!(w.cols == cols, "a weight of {} columns against activations of {cols}", w.cols);
    assert!((y.rows(), y.cols()) == (m, w.rows()), "outputs [{}, {}] for [{m}, {}]", y.rows(), y.cols(), w.rows());
}
