//! Activations quantized to 8 bits, the right-hand side of an Int8 dot.
//!
//! A block of 32 values x becomes `d = max|x| / 127` and `q = round(x · 127/max|x|)`, ties to even, so that
//! x ≈ d·q with q in −127..=127. The value −128 never occurs: AVX2's `maddubs(|w|, sign(x, w))` relies on it.

/// Values in an activation block.
pub const BLOCK: usize = 32;

/// Rows of quantized activations, one allocation each for quants, scales and sums.
#[derive(Clone, Debug, Default)]
pub struct Acts {
    rows: usize,
    cols: usize,
    quants: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

/// One row: `quants.len() = 32 · scales.len()`, `sums[b]` = the sum of the quants of block b.
#[derive(Clone, Copy, Debug)]
pub struct ActRow<'a> {
    pub quants: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [i32],
}

/// One row, to be written.
#[derive(Debug)]
pub struct ActRowMut<'a> {
    pub quants: &'a mut [i8],
    pub scales: &'a mut [f32],
    pub sums: &'a mut [i32],
}

impl Acts {
    /// Room for `rows` rows of `cols` values; `cols` is a multiple of [`BLOCK`].
    pub fn new(rows: usize, cols: usize) -> Self {
        let mut acts = Self::default();
        acts.resize(rows, cols);
        acts
    }

    /// Changes the shape, keeping the allocations when they suffice. The contents are then unspecified.
    ///
    /// # Panics
    /// If `cols` is not a multiple of [`BLOCK`].
    pub fn resize(&mut self, rows: usize, cols: usize) {
        assert!(cols.is_multiple_of(BLOCK), "{cols} activations are not whole blocks of {BLOCK}");
        (self.rows, self.cols) = (rows, cols);
        self.quants.resize(rows * cols, 0);
        self.scales.resize(rows * cols / BLOCK, 0.0);
        self.sums.resize(rows * cols / BLOCK, 0);
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> ActRow<'_> {
        let blocks = self.cols / BLOCK;
        ActRow {
            quants: &self.quants[i * self.cols..][..self.cols],
            scales: &self.scales[i * blocks..][..blocks],
            sums: &self.sums[i * blocks..][..blocks],
        }
    }

    /// Every row in turn, to be written; the items are disjoint, so threads may share them out.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = ActRowMut<'_>> {
        let blocks = self.cols / BLOCK;
        let quants = self.quants.chunks_exact_mut(self.cols);
        let scales = self.scales.chunks_exact_mut(blocks);
        let sums = self.sums.chunks_exact_mut(blocks);
        quants.zip(scales).zip(sums).map(|((quants, scales), sums)| ActRowMut { quants, scales, sums })
    }
}
