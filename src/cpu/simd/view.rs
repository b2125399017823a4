//! Views of weights and outputs: what a kernel reads and where it writes.

use crate::tensor::TensorType;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Contiguous rows of a weight: `data.len()` is a whole number of rows of `cols` values of type `ty`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub ty: TensorType,
    pub data: &'a [u8],
    pub cols: usize,
}

impl<'a> Rows<'a> {
    /// Bytes of a row.
    ///
    /// # Panics
    /// If `cols` is zero or not a whole number of blocks, or `data` not a whole number of rows.
    pub fn row_bytes(&self) -> usize {
        let bytes = self.ty.row_bytes(self.cols).filter(|&bytes| bytes > 0 && self.data.len().is_multiple_of(bytes));
        bytes.unwrap_or_else(|| panic!("{} bytes are not rows of {} {} values", self.data.len(), self.cols, self.ty))
    }

    /// How many rows there are.
    ///
    /// # Panics
    /// As [`Rows::row_bytes`].
    pub fn rows(&self) -> usize {
        self.data.len() / self.row_bytes()
    }

    /// Row `r`.
    pub fn row(&self, r: usize) -> &'a [u8] {
        let bytes = self.row_bytes();
        &self.data[r * bytes..][..bytes]
    }

    /// The rows `range`: a thread's share.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let bytes = self.row_bytes();
        Self { data: &self.data[range.start * bytes..range.end * bytes], ..*self }
    }
}

/// A matrix of outputs to be written: `rows` rows of `cols` values, row i starting `i · ld` values after the
/// first. It owns those values exclusively and no others, so that threads can write views of disjoint columns
/// of one buffer at the same time.
#[derive(Debug)]
pub struct Strided<'a> {
    start: *mut f32,
    rows: usize,
    cols: usize,
    ld: usize,
    values: PhantomData<&'a mut f32>,
}

// SAFETY: a view is the only way to its values for as long as it lives, like the `&mut` it came from.
unsafe impl Send for Strided<'_> {}
// SAFETY: a shared view gives access to nothing but its shape.
unsafe impl Sync for Strided<'_> {}

impl<'a> Strided<'a> {
    /// A view of `rows` rows of `ld` values each, one after the other in `data`.
    ///
    /// # Panics
    /// If `data` is not exactly `rows · ld` values.
    pub fn new(data: &'a mut [f32], rows: usize, ld: usize) -> Self {
        assert!(rows.checked_mul(ld) == Some(data.len()), "{} values are not {rows} rows of {ld}", data.len());
        Self { start: data.as_mut_ptr(), rows, cols: ld, ld, values: PhantomData }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The distance of two rows, in values.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn ld(&self) -> usize {
        self.ld
    }

    /// The first value of the first row. Valid for `i · ld + j` where i < `rows` and j < `cols`.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.start
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: the row lies inside the buffer this view was made from, its values belong to this view
        // alone, and the borrow of the view keeps them so.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.ld), self.cols) }
    }

    /// The columns `range` of all rows.
    ///
    /// # Panics
    /// If the range reaches past the last column.
    pub fn columns(&mut self, range: Range<usize>) -> Strided<'_> {
        self.part(range)
    }

    /// The columns before `col`, and those from it on, to be written independently.
    ///
    /// # Panics
    /// If `col` is past the last column.
    pub fn split_at(mut self, col: usize) -> (Strided<'a>, Strided<'a>) {
        let end = self.cols;
        (self.part(0..col), self.part(col..end))
    }

    /// Makes the columns, `width` at a time, available to threads that hold a shared reference.
    ///
    /// # Panics
    /// If `width` is zero or there would be more than [`Columns::MAX_PARTS`] parts.
    pub fn share(&mut self, width: usize) -> Columns<'_> {
        let parts = self.cols.div_ceil(width);
        assert!(parts <= Columns::MAX_PARTS, "{parts} parts of {width} columns");
        let end = self.cols;
        Columns { view: self.part(0..end), width, taken: Default::default() }
    }

    /// The columns `range` for the whole lifetime. Private, since two calls may overlap: every caller above
    /// gives up this view, borrows it, or hands out each part once.
    fn part(&mut self, range: Range<usize>) -> Strided<'a> {
        assert!(range.start <= range.end && range.end <= self.cols, "columns {range:?} of {}", self.cols);
        // A view without rows may have no values at all to point into.
        let offset = if self.rows == 0 { 0 } else { range.start };
        // SAFETY: `offset` is at most the length of the first row, which lies inside the buffer.
        let start = unsafe { self.start.add(offset) };
        Self { start, cols: range.len(), ..*self }
    }
}

/// The columns of a matrix in parts of equal width, the last one perhaps narrower. Each part can be taken
/// once, by any thread.
#[derive(Debug)]
pub struct Columns<'a> {
    view: Strided<'a>,
    width: usize,
    /// A bit a part: whether it has been taken.
    taken: [AtomicU64; Columns::MAX_PARTS / 64],
}

impl<'a> Columns<'a> {
    /// The most parts that can be shared out.
    pub const MAX_PARTS: usize = 1024;

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.view.cols.div_ceil(self.width)
    }

    /// The columns of part `i`; also the rows of the weight that belong to it.
    pub fn range(&self, i: usize) -> Range<usize> {
        let start = (i * self.width).min(self.view.cols);
        start..(start + self.width).min(self.view.cols)
    }

    /// Part `i`, or `None` if it has been taken before.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn take(&self, i: usize) -> Option<Strided<'a>> {
        assert!(i < self.parts(), "part {i} of {}", self.parts());
        let bit = 1 << (i % 64);
        if self.taken[i / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return None;
        }
        let range = self.range(i);
        // SAFETY: the offset is inside the first row if there is one. The parts do not overlap and the bit
        // above lets each of them out once, so that no two views share a value.
        let start = unsafe { self.view.start.add(if self.view.rows == 0 { 0 } else { range.start }) };
        Some(Strided { start, cols: range.len(), ..self.view })
    }
}

/// A matrix that threads fill cell by cell and then read: cells of `height` rows, the last perhaps lower, between the
/// columns `cuts`. Each cell is lent once, and the matrix is read when all have come back.
#[derive(Debug)]
pub struct Grid<'a> {
    view: Strided<'a>,
    height: usize,
    cuts: &'a [usize],
    lent: AtomicUsize,
    done: AtomicUsize,
}

impl<'a> Grid<'a> {
    /// Cells of `data`, `rows` rows of `ld` values one after the other.
    ///
    /// # Panics
    /// If `data` has another size, `height` is zero, or `cuts` does not ascend or goes past `ld`.
    pub fn new(data: &'a mut [f32], rows: usize, ld: usize, height: usize, cuts: &'a [usize]) -> Self {
        assert!(height > 0 && cuts.is_sorted() && cuts.iter().all(|cut| *cut <= ld), "cuts {cuts:?} of {ld} columns");
        let view = Strided::new(data, rows, ld);
        Self { view, height, cuts, lent: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    fn cells(&self) -> usize {
        self.view.rows.div_ceil(self.height) * self.cuts.len().saturating_sub(1)
    }

    /// The next cell to be filled, `None` when all have been lent.
    pub fn take(&self) -> Option<Cell<'_>> {
        let i = self.lent.fetch_add(1, Ordering::Relaxed);
        if i >= self.cells() {
            return None;
        }
        let (i, j) = (i / (self.cuts.len() - 1), i % (self.cuts.len() - 1));
        let rows = i * self.height..((i + 1) * self.height).min(self.view.rows);
        let columns = self.cuts[j]..self.cuts[j + 1];
        // SAFETY: the first row of the cell exists, and its columns are at most `ld`. Cells do not overlap, since
        // the cuts ascend, and the counter lets each of them out once.
        let start = unsafe { self.view.start.add(rows.start * self.view.ld + columns.start) };
        let view = Strided { start, rows: rows.len(), cols: columns.len(), ld: self.view.ld, values: PhantomData };
        Some(Cell { view, rows, columns, done: &self.done })
    }

    /// All values, row by row, once every cell has come back.
    pub fn values(&self) -> Option<&[f32]> {
        // Acquire, so that what was written before a cell came back is seen.
        if self.done.load(Ordering::Acquire) < self.cells() {
            return None;
        }
        // SAFETY: the view spans the whole buffer, and no cell is lent any more or ever again.
        Some(unsafe { std::slice::from_raw_parts(self.view.start, self.view.rows * self.view.ld) })
    }
}

/// A cell that one thread fills; it comes back when it is dropped.
#[derive(Debug)]
pub struct Cell<'g> {
    view: Strided<'g>,
    rows: Range<usize>,
    columns: Range<usize>,
    done: &'g AtomicUsize,
}

impl Cell<'_> {
    /// Where in the matrix it stands.
    pub fn place(&self) -> (Range<usize>, Range<usize>) {
        (self.rows.clone(), self.columns.clone())
    }
}

impl<'g> Deref for Cell<'g> {
    type Target = Strided<'g>;

    fn deref(&self) -> &Strided<'g> {
        &self.view
    }
}

impl<'g> DerefMut for Cell<'g> {
    fn deref_mut(&mut self) -> &mut Strided<'g> {
        &mut self.view
    }
}

impl Drop for Cell<'_> {
    fn drop(&mut self) {
        self.done.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_write_disjoint_columns_of_one_buffer() {
        let (rows, ld) = (3, 10);
        let mut data = vec![0.0; rows * ld];
        let mut view = Strided::new(&mut data, rows, ld);
        let shared = view.share(4);
        std::thread::scope(|scope| {
            for i in 0..shared.parts() {
                let shared = &shared;
                scope.spawn(move || {
                    let mut part = shared.take(i).unwrap();
                    for r in 0..part.rows() {
                        for (c, v) in shared.range(i).zip(part.row_mut(r)) {
                            *v = (100 * r + c) as f32;
                        }
                    }
                });
            }
        });
        assert!((0..shared.parts()).all(|i| shared.take(i).is_none()), "a part is lent once");
        for (i, v) in data.iter().enumerate() {
            assert_eq!(*v, (100 * (i / ld) + i % ld) as f32);
        }
    }

    #[test]
    fn a_grid_is_read_when_every_cell_has_come_back() {
        let (rows, ld) = (5, 7);
        let mut data = vec![0.0; rows * ld];
        let grid = Grid::new(&mut data, rows, ld, 2, &[0, 3, 3, 6]);
        let held = grid.take().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(mut cell) = grid.take() {
                        let (rows, columns) = cell.place();
                        for (i, r) in rows.enumerate() {
                            let values = columns.clone().zip(cell.row_mut(i));
                            values.for_each(|(c, v)| *v = (100 * r + c) as f32);
                        }
                    }
                });
            }
        });
        assert!(grid.values().is_none(), "one is still lent");
        assert_eq!(held.place(), (0..2, 0..3));
        drop(held);
        for (i, v) in grid.values().unwrap().iter().enumerate() {
            let (r, c) = (i / ld, i % ld);
            let filled = c < 6 && (r >= 2 || c >= 3);
            assert_eq!(*v, if filled { (100 * r + c) as f32 } else { 0.0 });
        }
    }

    #[test]
    #[should_panic(expected = "cuts [0, 8] of 7 columns")]
    fn cuts_past_the_end_are_refused() {
        Grid::new(&mut [0.0; 7], 1, 7, 1, &[0, 8]);
    }

    #[test]
    fn columns_and_split_at_cut_where_asked() {
        let mut data = [0.0; 12];
        let mut view = Strided::new(&mut data, 2, 6);
        view.columns(1..3).row_mut(1).fill(1.0);
        let (mut left, mut right) = view.split_at(5);
        left.row_mut(0).fill(2.0);
        right.row_mut(1).fill(3.0);
        assert_eq!(data, [2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 3.0]);
    }

    #[test]
    #[should_panic(expected = "12 values are not 2 rows of 5")]
    fn a_buffer_of_another_size_is_refused() {
        Strided::new(&mut [0.0; 12], 2, 5);
    }

    #[test]
    #[should_panic(expected = "columns 5..7 of 6")]
    fn columns_past_the_end_are_refused() {
        Strided::new(&mut [0.0; 12], 2, 6).columns(5..7);
    }

    #[test]
    fn rows_slice_like_the_weight_they_are() {
        let data: Vec<u8> = (0..5 * 36).map(|i| i as u8).collect();
        let rows = Rows { ty: TensorType::Q4_0, data: &data, cols: 64 };
        assert_eq!((rows.rows(), rows.row(2)), (5, &data[72..108]));
        assert_eq!((rows.slice(1..4).rows(), rows.slice(1..4).row(0)), (3, &data[36..72]));
    }
}
