//! The pool of pages, and the index of those that are known.

use super::{Block, Entry, PAGE_LEN};
use crate::backend::PageId;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// The pages of a cache, handed out to sequences and shared between them.
///
/// A sequence's *table* lists the pages it holds, in the order of its positions.
#[derive(Debug)]
pub struct Pages {
    pages: Vec<Page>,
    free: Vec<PageId>,
    /// Known pages that nobody holds.
    idle: usize,
    /// Pages that are known, by the hash of parent and content.
    index: HashMap<u64, PageId>,
    hasher: RandomState,
    /// Counts releases.
    clock: u64,
}

#[derive(Debug)]
struct Page {
    /// Tables that hold it.
    holders: u32,
    known: Option<Known>,
    /// What it is known by; of no meaning unless it is known.
    block: Block,
    /// When it was last let go.
    released: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    hash: u64,
    /// The page before it; none for the first of a prefix.
    parent: Option<PageId>,
}

/// Pages of an engine's cache, by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// All pages, of 64 positions each.
    pub pages: usize,
    /// Held by sessions.
    pub held: usize,
    /// Held by more than one.
    pub shared: usize,
    /// Held by nobody, and kept for a prompt that starts like the one they were computed for.
    pub cached: usize,
    /// Of no use at present.
    pub free: usize,
}

/// What is left of a table that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Positions that stay: those asked for, or those of whole pages where there was no page for a copy.
    pub kept: usize,
    /// A page whose content must be copied to the table's last, before either is used.
    pub copy: Option<(PageId, PageId)>,
}

impl Pages {
    /// `total` free pages.
    pub fn new(total: usize) -> Self {
        let page = || Page { holders: 0, known: None, block: [Entry::default(); PAGE_LEN], released: 0 };
        Self {
            pages: std::iter::repeat_with(page).take(total).collect(),
            free: (0..total as PageId).rev().collect(),
            idle: 0,
            // Twice what it will hold: it is then tidied up in place and never grows in mid-answer.
            index: HashMap::with_capacity(2 * total),
            hasher: RandomState::new(),
            clock: 0,
        }
    }

    /// Pages that hold `positions` positions.
    pub fn needed(positions: usize) -> usize {
        positions.div_ceil(PAGE_LEN)
    }

    /// Gives `table` the pages that `positions` positions need; those it has stay.
    ///
    /// # Errors
    /// [`Error::CacheFull`] when too few pages can be had; `table` is then unchanged.
    pub fn grow(&mut self, table: &mut Vec<PageId>, positions: usize) -> Result<()> {
        let missing = Self::needed(positions).saturating_sub(table.len());
        let room = self.free.len() + self.idle;
        if missing > room {
            return Err(Error::CacheFull { needed: missing * PAGE_LEN, free: room * PAGE_LEN });
        }
        table.extend((0..missing).filter_map(|_| self.take()));
        Ok(())
    }

    /// Pages that `table` could have, if it gave back what it holds.
    pub fn room(&self, table: &[PageId]) -> usize {
        let alone = table.iter().filter(|page| self.pages[**page as usize].holders == 1).count();
        self.free.len() + self.idle + alone
    }

    /// Lets go of the pages of `table` from page `keep` on.
    pub fn shrink(&mut self, table: &mut Vec<PageId>, keep: usize) {
        let keep = keep.min(table.len());
        table.drain(keep..).rev().for_each(|page| self.release(page));
    }

    /// Cuts `table` to `positions` positions so that the next may be written.
    pub fn cut(&mut self, table: &mut Vec<PageId>, positions: usize) -> Cut {
        self.shrink(table, Self::needed(positions));
        let whole = Cut { kept: positions, copy: None };
        let Some(last) = table.last().copied().filter(|_| !positions.is_multiple_of(PAGE_LEN)) else { return whole };
        if self.is_writable(last) {
            return whole;
        }
        table.pop();
        self.release(last);
        match self.take() {
            Some(own) => {
                table.push(own);
                // Where it was the last that could be had, its content is already in place.
                Cut { copy: (own != last).then_some((last, own)), ..whole }
            }
            None => Cut { kept: table.len() * PAGE_LEN, copy: None },
        }
    }

    /// Whether one sequence alone holds `page` and nobody can find it.
    pub fn is_writable(&self, page: PageId) -> bool {
        let page = &self.pages[page as usize];
        page.holders == 1 && page.known.is_none()
    }

    /// The known pages that `blocks` lead to, from the start of a prefix on.
    pub fn find(&self, blocks: impl IntoIterator<Item = Block>) -> Vec<PageId> {
        let mut found: Vec<PageId> = Vec::new();
        for block in blocks {
            let Some(page) = self.look_up(found.last().copied(), &block) else { break };
            found.push(page);
        }
        found
    }

    /// Makes `found`, which [`Pages::find`] gave, the pages of `table`.
    pub fn adopt(&mut self, table: &mut Vec<PageId>, found: &[PageId]) {
        // Held before the others are let go: some may be the same.
        found.iter().for_each(|page| self.hold(*page));
        self.shrink(table, 0);
        table.extend_from_slice(found);
    }

    /// Makes page `at` of `table` known by `block`; the pages before it must be known. Where another page is known
    /// by the same, that one takes its place in the table. Returns whether the table's page is known after.
    pub fn publish(&mut self, table: &mut [PageId], at: usize, block: &Block) -> bool {
        let (page, parent) = (table[at], at.checked_sub(1).map(|before| table[before]));
        if parent.is_some_and(|parent| self.pages[parent as usize].known.is_none()) {
            return false;
        }
        if let Some(twin) = self.look_up(parent, block) {
            if twin != page {
                self.hold(twin);
                self.release(page);
                table[at] = twin;
            }
            return true;
        }
        let hash = self.hash(parent, block);
        if self.index.contains_key(&hash) || !self.is_writable(page) {
            return false;
        }
        self.index.insert(hash, page);
        let known = &mut self.pages[page as usize];
        (known.known, known.block) = (Some(Known { hash, parent }), *block);
        true
    }

    /// How many pages are held, kept and free.
    pub fn usage(&self) -> CacheUse {
        let held = |least| self.pages.iter().filter(|page| page.holders >= least).count();
        CacheUse { pages: self.pages.len(), held: held(1), shared: held(2), cached: self.idle, free: self.free.len() }
    }

    fn hash(&self, parent: Option<PageId>, block: &Block) -> u64 {
        self.hasher.hash_one((parent, block))
    }

    /// The page known by `block` after `parent`.
    fn look_up(&self, parent: Option<PageId>, block: &Block) -> Option<PageId> {
        let id = *self.index.get(&self.hash(parent, block))?;
        let page = &self.pages[id as usize];
        (page.known.is_some_and(|known| known.parent == parent) && page.block == *block).then_some(id)
    }

    fn hold(&mut self, id: PageId) {
        let page = &mut self.pages[id as usize];
        self.idle -= usize::from(page.holders == 0);
        page.holders += 1;
    }

    fn release(&mut self, id: PageId) {
        let page = &mut self.pages[id as usize];
        page.holders -= 1;
        if page.holders > 0 {
            return;
        }
        if page.known.is_none() {
            self.free.push(id);
            return;
        }
        self.clock += 1;
        page.released = self.clock;
        self.idle += 1;
    }

    /// A page for one sequence: a free one, or the one that has been idle longest. To look at all of them costs
    /// nothing beside the 64 rows that the page is for.
    fn take(&mut self) -> Option<PageId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.forget_oldest()?,
        };
        self.pages[id as usize].holders = 1;
        Some(id)
    }

    /// Takes the page that was let go first out of the index.
    fn forget_oldest(&mut self) -> Option<PageId> {
        let idle = self.pages.iter().enumerate().filter(|(_, page)| page.holders == 0 && page.known.is_some());
        let (at, _) = idle.min_by_key(|(_, page)| page.released)?;
        if let Some(known) = self.pages[at].known.take() {
            self.index.remove(&known.hash);
        }
        self.idle -= 1;
        Some(at as PageId)
    }

    /// Checks the books against the tables of all sequences; says what is wrong.
    pub fn audit<'a>(&self, tables: impl IntoIterator<Item = &'a [PageId]>) -> std::result::Result<(), String> {
        let mut holders = vec![0; self.pages.len()];
        for table in tables {
            for (at, id) in table.iter().enumerate() {
                holders[*id as usize] += 1;
                let before = at.checked_sub(1).map(|before| table[before]);
                if self.pages[*id as usize].known.is_some_and(|known| known.parent != before) {
                    return Err(format!("page {id} stands after another page than it is known for"));
                }
            }
        }
        let mut free = vec![0; self.pages.len()];
        self.free.iter().for_each(|id| free[*id as usize] += 1);
        for (id, (page, (held, free))) in self.pages.iter().zip(holders.iter().zip(&free)).enumerate() {
            if page.holders != *held {
                return Err(format!("page {id} is held {held} times and counted {}", page.holders));
            }
            if (*free > 0) != (*held == 0 && page.known.is_none()) || *free > 1 {
                return Err(format!("page {id} is free {free} times, held {held} times, known: {:?}", page.known));
            }
            if *held > 1 && page.known.is_none() {
                return Err(format!("page {id} is shared and not known"));
            }
            self.audit_known(id as PageId, page)?;
        }
        let idle = self.pages.iter().filter(|page| page.holders == 0 && page.known.is_some()).count();
        let known = self.pages.iter().filter(|page| page.known.is_some()).count();
        if (idle, known) != (self.idle, self.index.len()) {
            return Err(format!("{idle} idle of {} counted, {known} known of {}", self.idle, self.index.len()));
        }
        Ok(())
    }

    fn audit_known(&self, id: PageId, page: &Page) -> std::result::Result<(), String> {
        let Some(known) = page.known else { return Ok(()) };
        if self.look_up(known.parent, &page.block) != Some(id) {
            return Err(format!("page {id} is known and not found"));
        }
        let Some(parent) = known.parent.map(|parent| &self.pages[parent as usize]) else { return Ok(()) };
        let older = page.holders > 0 || parent.holders > 0 || page.released < parent.released;
        if parent.known.is_none() || parent.holders < page.holders || !older {
            return Err(format!("page {id} outlives the page before it"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
