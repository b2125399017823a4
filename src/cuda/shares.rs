//! Which kernel of attention takes which rows.
//!
//! A sequence with many rows in a step goes in tiles to attend_many.cu, all other rows to attend.cu. Which of the two a
//! row meets hangs on its own sequence alone, since their sums differ in their last bits.

use crate::backend::Batch;
use std::ops::Range;

/// Rows of one sequence from which on tiles are taken, by prediction: a warp of attend_many.cu computes 16 at a time.
const MANY: usize = 24;
/// Most rows of a tile.
const TILE: usize = 64;
/// Words of a tile: first row, rows, 0, 0.
pub(super) const TILE_WORDS: usize = 4;

/// The rows of a step, shared out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    /// Those with the most positions first: they take longest.
    pub tiles: Vec<[u32; TILE_WORDS]>,
    /// Rows for attend.cu, in runs of neighbours.
    pub runs: Vec<Range<usize>>,
}

impl Shares {
    /// All rows of a batch.
    pub fn all(&mut self, batch: &Batch<'_>) {
        self.clear();
        for span in batch.spans {
            self.add(span.rows.start as usize, span.rows.len(), true);
        }
        self.sort(|row| batch.positions[row]);
    }

    /// The outputs' rows, as a batch of their own: tiles where a sequence has all of its rows there.
    pub fn outputs(&mut self, batch: &Batch<'_>) {
        self.clear();
        let mut first = 0;
        for span in batch.spans {
            let wanted = batch.outputs[first..].iter().take_while(|row| **row < span.rows.end).count();
            self.add(first, wanted, wanted == span.rows.len());
            first += wanted;
        }
        self.sort(|row| batch.positions[batch.outputs[row] as usize]);
    }

    fn clear(&mut self) {
        self.tiles.clear();
        self.runs.clear();
    }

    fn add(&mut self, first: usize, rows: usize, neighbours: bool) {
        let end = first + rows;
        if neighbours && rows >= MANY {
            let tile = |start: usize| [start as u32, TILE.min(end - start) as u32, 0, 0];
            self.tiles.extend((first..end).step_by(TILE).map(tile));
        } else if rows > 0 {
            match self.runs.last_mut().filter(|run| run.end == first) {
                Some(run) => run.end = end,
                None => self.runs.push(first..end),
            }
        }
    }

    fn sort(&mut self, position: impl Fn(usize) -> u32) {
        self.tiles.sort_by_key(|tile| std::cmp::Reverse(position(tile[0] as usize)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Span;

    #[test]
    fn a_long_sequence_goes_in_tiles_and_the_short_ones_in_runs() {
        let rows = [1, 3, 70, 2, 24];
        let (mut spans, mut positions, mut first) = (Vec::new(), Vec::new(), 0);
        for (n, start) in rows.into_iter().zip([9, 0, 5, 7, 900]) {
            spans.push(Span { rows: first..first + n, table: 0..1 });
            positions.extend(start..start + n);
            first += n;
        }
        let ids: Vec<u32> = (0..first).collect();
        let outputs: Vec<u32> = [0, 2, 3, 40, 74].into_iter().chain(76..100).collect();
        let batch = Batch {
            tokens: &ids,
            positions: &positions,
            spans: &spans,
            pages: &[0],
            openings: &[],
            slots: 0,
            outputs: &outputs,
        };
        let mut shares = Shares::default();
        shares.all(&batch);
        assert_eq!(shares.tiles, [[76, 24, 0, 0], [68, 6, 0, 0], [4, 64, 0, 0]], "late positions first");
        assert_eq!(shares.runs, [0..4, 74..76]);
        shares.outputs(&batch);
        let first = 0..5;
        assert_eq!((shares.tiles, shares.runs), (vec![[5, 24, 0, 0]], vec![first]));
    }
}
