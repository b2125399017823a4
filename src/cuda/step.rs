//! A step's rows on the device: all of them in one copy, so that a step uploads once.

use super::Device;
use super::args::Rows;
use super::shares::{Shares, TILE_WORDS};
use crate::backend::{Batch, PageId};
use crate::error::{Error, Result};
use cudarc::driver::{CudaSlice, PinnedHostSlice};
use std::ops::Range;

/// Words a step has room for at first; more rows, slots or pages make it grow.
const WORDS: usize = 4096;
/// Most rows of a batch: the second side of a launch.
const MAX_ROWS: usize = 65_535;

/// Where the parts of some rows lie, in words from the start of the step.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    rows: usize,
    positions: usize,
    tables: usize,
    openings: usize,
    /// Of [`Shares::tiles`]; set once all else is placed.
    tiles: usize,
}

impl Layout {
    fn new(start: usize, rows: usize) -> Self {
        Self { rows, positions: start, tables: start + rows, openings: start + 2 * rows, tiles: 0 }
    }

    fn end(&self, slots: usize) -> usize {
        self.openings + self.rows * slots
    }
}

/// `[tokens, positions, tables, openings, outputs, pages]`, 4 bytes each; where only some rows are outputs, also
/// positions, tables and openings of those alone, before the pages. Tiles of attention come last.
pub(super) struct Step {
    host: PinnedHostSlice<u32>,
    device: CudaSlice<u32>,
    /// Of all rows, and of the outputs' alone as a batch of their own.
    layouts: [Layout; 2],
    shares: [Shares; 2],
    /// Which of the two the verbs compute.
    now: usize,
    outputs: usize,
    pages: usize,
    slots: usize,
    bounds: Bounds,
}

/// Places in [`Step::layouts`] and [`Step::shares`].
const ALL: usize = 0;
const KEPT: usize = 1;

/// What of a step the device's memory must hold.
#[derive(Default)]
struct Bounds {
    /// One more than the highest token and page.
    tokens: usize,
    pages: usize,
    /// Most positions of a sequence, and for each sequence also the pages of its table.
    context: usize,
    tables: Vec<(usize, usize)>,
}

impl Step {
    pub fn new(device: &Device) -> Result<Self> {
        Self::of(device, WORDS)
    }

    fn of(device: &Device, words: usize) -> Result<Self> {
        Ok(Self {
            host: device.pinned(words)?,
            device: device.zeros(words)?,
            layouts: Default::default(),
            shares: Default::default(),
            now: ALL,
            outputs: 0,
            pages: 0,
            slots: 0,
            bounds: Bounds::default(),
        })
    }

    /// Takes in a batch. Returns whether the step moved to other memory.
    pub fn fill(&mut self, device: &Device, batch: &Batch<'_>) -> Result<bool> {
        check(batch)?;
        let words = self.place(batch);
        let moved = words > self.host.len();
        if moved {
            let words = words.next_power_of_two();
            (self.host, self.device) = (device.pinned(words)?, device.zeros(words)?);
        }
        let host = self.host.as_mut_slice().map_err(|e| device.error("waiting for the last step's copy", e))?;
        let rows = batch.tokens.len();
        host[..rows].copy_from_slice(batch.tokens);
        host[self.outputs..][..batch.outputs.len()].copy_from_slice(batch.outputs);
        host[self.pages..][..batch.pages.len()].copy_from_slice(batch.pages);
        write(host, &self.layouts[ALL], batch, 0..rows as u32);
        if self.layouts[KEPT].rows < rows {
            write(host, &self.layouts[KEPT], batch, batch.outputs.iter().copied());
        }
        for (layout, shares) in self.layouts.iter().zip(&self.shares) {
            let tiles = shares.tiles.as_flattened();
            host[layout.tiles..][..tiles.len()].copy_from_slice(tiles);
        }
        self.bounds.set(batch);
        // All of it, whatever this step fills: the copy of a pinned slice does not wait for its end.
        let copied = device.stream().memcpy_htod(&self.host, &mut self.device);
        copied.map_err(|e| device.error(format_args!("copying a step of {rows} rows"), e))?;
        Ok(moved)
    }

    /// Gives every part of a batch its place. Returns the words of all.
    fn place(&mut self, batch: &Batch<'_>) -> usize {
        let (rows, slots, outputs) = (batch.tokens.len(), batch.slots, batch.outputs.len());
        self.shares[ALL].all(batch);
        self.shares[KEPT].outputs(batch);
        let mut all = Layout::new(rows, rows);
        self.outputs = all.end(slots);
        let mut kept = if outputs == rows { all } else { Layout::new(self.outputs + outputs, outputs) };
        self.pages = kept.end(slots).max(self.outputs + outputs);
        // Read 16 bytes at a time.
        all.tiles = (self.pages + batch.pages.len()).next_multiple_of(TILE_WORDS);
        let [of_all, of_kept] = [ALL, KEPT].map(|i| self.shares[i].tiles.as_flattened().len());
        kept.tiles = all.tiles + of_all;
        (self.layouts, self.now, self.slots) = ([all, kept], ALL, slots);
        kept.tiles + of_kept
    }

    /// Rows that verbs compute.
    pub fn rows(&self) -> usize {
        self.layouts[self.now].rows
    }

    /// Rows of the whole batch.
    pub fn batch_rows(&self) -> usize {
        self.layouts[ALL].rows
    }

    /// Rows whose logits are wanted.
    pub fn outputs(&self) -> usize {
        self.layouts[KEPT].rows
    }

    /// Columns of the openings.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Most positions of a sequence.
    pub fn context(&self) -> usize {
        self.bounds.context
    }

    /// All rows count again.
    pub fn rewind(&mut self) {
        self.now = ALL;
    }

    /// From here on the outputs' rows are all there are.
    pub fn keep_outputs(&mut self) {
        self.now = KEPT;
    }

    /// How attention's kernels share the rows, and where its tiles lie.
    pub fn shares(&self, device: &Device) -> (&Shares, u64) {
        (&self.shares[self.now], self.at(device, self.layouts[self.now].tiles))
    }

    /// Whether some rows go to attention in tiles.
    pub fn has_tiles(&self) -> bool {
        self.shares.iter().any(|shares| !shares.tiles.is_empty())
    }

    fn at(&self, device: &Device, word: usize) -> u64 {
        device.address(&self.device) + (word * size_of::<u32>()) as u64
    }

    /// `[rows, slots]`
    pub fn openings(&self, device: &Device) -> u64 {
        self.at(device, self.layouts[self.now].openings)
    }

    /// `[outputs]`: their rows; `None` where all rows are.
    pub fn output_rows(&self, device: &Device) -> Option<u64> {
        (self.rows() != self.outputs()).then(|| self.at(device, self.outputs))
    }

    pub fn args(&self, device: &Device) -> Rows {
        let (layout, at) = (&self.layouts[self.now], |word| self.at(device, word));
        Rows { tokens: at(0), positions: at(layout.positions), tables: at(layout.tables), pages: at(self.pages) }
    }

    /// That every token has a row in a table of `vocab`.
    pub fn check_tokens(&self, vocab: usize) -> Result<()> {
        if self.bounds.tokens <= vocab {
            return Ok(());
        }
        Err(Error::argument("batch", format!("token {} of a vocabulary of {vocab}", self.bounds.tokens - 1)))
    }

    /// That every page is one of `pages`, and that each table covers its sequence.
    pub fn check_pages(&self, pages: usize, page_len: usize) -> Result<()> {
        if self.bounds.pages > pages {
            return Err(Error::argument("batch", format!("page {} of {pages}", self.bounds.pages - 1)));
        }
        match self.bounds.tables.iter().find(|(context, table)| context.div_ceil(page_len) > *table) {
            Some((context, table)) => {
                Err(Error::argument("batch", format!("{context} positions in {table} pages of {page_len}")))
            }
            None => Ok(()),
        }
    }
}

impl Bounds {
    fn set(&mut self, batch: &Batch<'_>) {
        let past = |values: &[u32]| values.iter().max().map_or(0, |m| *m as usize + 1);
        self.tokens = past(batch.tokens);
        self.pages = past(batch.pages);
        self.context = past(batch.positions);
        self.tables.clear();
        self.tables.extend(batch.spans.iter().map(|span| {
            let Range { start, end } = span.rows;
            (past(&batch.positions[start as usize..end as usize]), span.table.len())
        }));
    }
}

/// The parts of `rows` of the batch, which `layout` places.
fn write(host: &mut [u32], layout: &Layout, batch: &Batch<'_>, rows: impl Iterator<Item = u32> + Clone) {
    let slots = batch.slots;
    for (i, row) in rows.clone().enumerate() {
        host[layout.positions + i] = batch.positions[row as usize];
        let openings = &batch.openings[row as usize * slots..][..slots];
        let to = &mut host[layout.openings + i * slots..][..slots];
        to.iter_mut().zip(openings).for_each(|(to, opening)| *to = opening.to_bits());
    }
    let mut spans = batch.spans.iter().peekable();
    for (i, row) in rows.enumerate() {
        while spans.next_if(|span| row >= span.rows.end).is_some() {}
        host[layout.tables + i] = spans.peek().map_or(0, |span| span.table.start);
    }
}

/// Every relation between a batch's parts that the kernels take on trust.
fn check(batch: &Batch<'_>) -> Result<()> {
    let bad = |what: String| Err(Error::argument("batch", what));
    let (rows, slots, given) = (batch.tokens.len(), batch.slots, batch.openings.len());
    if rows == 0 || rows > MAX_ROWS || batch.positions.len() != rows {
        return bad(format!("{rows} rows with {} positions, of at most {MAX_ROWS}", batch.positions.len()));
    }
    if rows.checked_mul(slots) != Some(given) {
        return bad(format!("{rows} rows, {slots} slots and {given} openings"));
    }
    if let Some(row) = batch.outputs.iter().find(|r| **r as usize >= rows) {
        return bad(format!("output row {row} of {rows} rows"));
    }
    if batch.outputs.windows(2).any(|pair| pair[0] >= pair[1]) {
        return bad("its outputs do not ascend".into());
    }
    let mut next = 0;
    for span in batch.spans {
        let pages: PageId = span.table.end;
        if span.rows.start != next || span.rows.end <= next || pages as usize > batch.pages.len() {
            return bad(format!("rows {:?} with pages {:?} do not follow", span.rows, span.table));
        }
        next = span.rows.end;
    }
    if next as usize != rows { bad(format!("its sequences have {next} of {rows} rows")) } else { Ok(()) }
}
