//! Pages of the key/value cache: who holds which. The keys and values themselves live in the backend.

use crate::backend::PageId;
use crate::error::{Error, Result};

/// Positions in a page.
pub const PAGE_LEN: usize = 64;

/// The pages of a cache, handed out to sequences.
#[derive(Debug)]
pub struct Pages {
    free: Vec<PageId>,
}

impl Pages {
    /// `total` free pages.
    pub fn new(total: usize) -> Self {
        Self { free: (0..total as PageId).rev().collect() }
    }

    /// Pages that hold `positions` positions.
    pub fn needed(positions: usize) -> usize {
        positions.div_ceil(PAGE_LEN)
    }

    /// Gives `table` the pages that `positions` positions need; those it has stay.
    ///
    /// # Errors
    /// [`Error::ContextFull`] when too few pages are free; `table` is then unchanged.
    pub fn grow(&mut self, table: &mut Vec<PageId>, positions: usize) -> Result<()> {
        let missing = Self::needed(positions).saturating_sub(table.len());
        if missing > self.free.len() {
            let capacity = (table.len() + self.free.len()) * PAGE_LEN;
            return Err(Error::ContextFull { needed: positions, capacity });
        }
        table.extend(self.free.drain(self.free.len() - missing..).rev());
        Ok(())
    }

    /// Takes back the pages of `table` beyond those that `positions` positions need.
    pub fn shrink(&mut self, table: &mut Vec<PageId>, positions: usize) {
        let keep = Self::needed(positions).min(table.len());
        self.free.extend(table.drain(keep..).rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back() {
        let mut pages = Pages::new(4);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        pages.grow(&mut a, PAGE_LEN + 1).unwrap();
        pages.grow(&mut b, 1).unwrap();
        assert_eq!((a.len(), b.len(), pages.free.len()), (2, 1, 1));
        let refused = pages.grow(&mut b, 3 * PAGE_LEN);
        assert!(matches!(refused, Err(Error::ContextFull { needed, capacity }) if needed == 192 && capacity == 128));
        assert_eq!(b.len(), 1);
        pages.shrink(&mut a, PAGE_LEN);
        pages.shrink(&mut b, 0);
        assert_eq!((a.len(), b.len(), pages.free.len()), (1, 0, 3));
        pages.grow(&mut b, 3 * PAGE_LEN).unwrap();
        let mut held: Vec<PageId> = a.iter().chain(&b).copied().collect();
        held.sort_unstable();
        assert_eq!(held, [0, 1, 2, 3]);
    }
}
