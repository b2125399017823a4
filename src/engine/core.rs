//! The step: plan rows, run them, commit what came out.

use super::prefix::publish;
use super::sequence::Sequence;
use super::session::Overflow;
use super::thoughts::Thoughts;
use crate::backend::{Batch, PageId, Precision, Span};
use crate::error::{Error, Result};
use crate::kv::{Fingerprints, PAGE_LEN, Pages};
use crate::model::{Logits, Stage};
use crate::tensor::TensorType;
use crate::valve::{Adapter, Part, Setting};
use std::ops::Range;
use std::sync::Arc;

/// Names a sequence of an engine.
pub(super) type SequenceId = usize;

/// All that the sessions of an engine share.
pub(super) struct Core {
    pub(super) stage: Box<dyn Stage>,
    pub(super) pages: Pages,
    pub(super) prints: Fingerprints,
    pub(super) sequences: Vec<Option<Sequence>>,
    adapters: Vec<Arc<Adapter>>,
    /// What each column of the openings turns.
    slots: Vec<SlotKey>,
    plan: Plan,
    logits: Logits,
    /// Which single row is planned first: another at every step, so that none waits for ever.
    first: usize,
    /// None if the model's chat template knows no thought.
    pub(super) thoughts: Option<Thoughts>,
    pub limits: Limits,
}

/// What a slot turns, known by what it does: two slots of one key act alike at one opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotKey {
    /// [`Adapter::content_hash`]
    pub adapter: [u8; 32],
    pub part: Part,
}

/// Sizes fixed when the engine is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tokens of one sequence.
    pub context: usize,
    /// Rows of a step.
    pub rows: usize,
    /// Rows of a step whose logits may be wanted.
    pub outputs: usize,
    pub vocab: usize,
    pub kv_type: TensorType,
    pub precision: Precision,
}

/// Rows of one sequence whose logits a step computed.
pub(super) struct Scored {
    /// Of the sequence, among those asked for.
    pub index: usize,
    pub positions: Range<usize>,
}

/// A step's rows, in buffers that are used again.
#[derive(Default)]
struct Plan {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    openings: Vec<f32>,
    /// Room to propose openings in.
    alphas: Vec<f32>,
    spans: Vec<Span>,
    /// The sequence of each span.
    owners: Vec<SequenceId>,
    pages: Vec<PageId>,
    outputs: Vec<u32>,
}

impl Plan {
    fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.openings.clear();
        self.spans.clear();
        self.owners.clear();
        self.pages.clear();
        self.outputs.clear();
    }

    /// Adds the next `rows` pending rows of a sequence.
    fn push(&mut self, id: SequenceId, s: &Sequence, rows: usize) {
        let first = self.tokens.len() as u32;
        let table = self.pages.len() as u32;
        for position in s.computed..s.computed + rows {
            self.tokens.push(s.tokens[position]);
            self.positions.push(position as u32);
            s.propose(position, &mut self.alphas, &mut self.openings);
        }
        self.pages.extend_from_slice(&s.pages);
        self.spans.push(Span { rows: first..self.tokens.len() as u32, table: table..self.pages.len() as u32 });
        self.owners.push(id);
    }

    /// Counts `rows` of the plan as computed in their sequence.
    fn record(&self, s: &mut Sequence, rows: Range<usize>, slots: usize) {
        rows.clone().for_each(|row| s.used.push(&self.openings[row * slots..][..slots]));
        s.computed += rows.len();
    }

    fn batch(&self, slots: usize) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            positions: &self.positions,
            spans: &self.spans,
            pages: &self.pages,
            openings: &self.openings,
            slots,
            outputs: &self.outputs,
        }
    }
}

impl Core {
    pub fn new(stage: Box<dyn Stage>, pages: usize, limits: Limits, thoughts: Option<Thoughts>) -> Self {
        // Tables grow while sequences are decoded, which allocates nothing.
        let plan = Plan { pages: Vec::with_capacity(pages), ..Plan::default() };
        let (pages, prints) = (Pages::new(pages), Fingerprints::default());
        let (sequences, adapters, slots, logits) = (Vec::new(), Vec::new(), Vec::new(), Logits::every());
        Self { stage, pages, prints, sequences, adapters, slots, plan, logits, first: 0, thoughts, limits }
    }

    /// Attaches an adapter and returns its index and its first slot. What is computed stays, with the added slots
    /// closed.
    pub fn attach(&mut self, adapter: Arc<Adapter>) -> Result<(usize, usize)> {
        let mut adapters = self.adapters.clone();
        adapters.push(adapter.clone());
        self.stage.attach(&adapters)?;
        self.adapters = adapters;
        self.sequences.iter_mut().flatten().for_each(|s| s.add_adapter(&adapter));
        let first = self.slots.len();
        for part in adapter.parts() {
            let key = SlotKey { adapter: *adapter.content_hash(), part: *part };
            self.slots.push(key);
            let first_alike = self.slots.iter().position(|slot| *slot == key);
            self.prints.add_slot(first_alike.unwrap_or_default() as u64);
        }
        Ok((self.adapters.len() - 1, first))
    }

    /// Turns the adapter `index` in the sequence `id`.
    pub fn turn(&mut self, id: SequenceId, index: usize, setting: Setting) {
        let adapter = self.adapters[index].clone();
        self.sequence(id).turn(index, adapter.parts(), setting);
    }

    /// Whether a sequence can be known to think.
    pub fn knows_thoughts(&self) -> bool {
        self.thoughts.is_some()
    }

    pub fn adapters(&self) -> &[Arc<Adapter>] {
        &self.adapters
    }

    pub fn open(&mut self) -> SequenceId {
        let mut sequence = Sequence::new(&self.adapters, self.limits.context);
        sequence.scanner = self.thoughts.as_ref().map(Thoughts::scanner);
        let free = self.sequences.iter().position(Option::is_none);
        let id = free.unwrap_or(self.sequences.len());
        if free.is_none() {
            self.sequences.push(None);
        }
        self.sequences[id] = Some(sequence);
        id
    }

    pub fn close(&mut self, id: SequenceId) {
        if let Some(mut sequence) = self.sequences[id].take() {
            self.pages.shrink(&mut sequence.pages, 0);
        }
    }

    /// A session's own sequence: there from `open` to `close`.
    pub fn sequence(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences[id].as_mut().expect("a session outlived its sequence")
    }

    pub(super) fn check_token(&self, token: u32) -> Result<()> {
        let vocab = self.limits.vocab;
        if (token as usize) < vocab {
            return Ok(());
        }
        Err(Error::argument("prompt", format!("token {token} is not in the vocabulary of {vocab}")))
    }

    /// Adds a token that was not drawn.
    pub fn append(&mut self, id: SequenceId, token: u32) -> Result<()> {
        self.check_token(token)?;
        let context = self.limits.context;
        let sequence = self.sequence(id);
        if sequence.tokens.len() >= context && sequence.overflow == Overflow::Fail {
            return Err(Error::ContextFull { needed: sequence.tokens.len() + 1, capacity: context });
        }
        sequence.tokens.push(token);
        if let Some(thoughts) = &self.thoughts {
            thoughts.drawn(self.sequences[id].as_mut().expect("a session outlived its sequence"));
        }
        Ok(())
    }

    /// Computes all pending rows of `members`, then adds the tokens of each one a step, and draws nothing.
    pub fn extend(&mut self, members: &[(SequenceId, &[u32])]) -> Result<()> {
        self.finish(members)?;
        let steps = members.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
        for step in 0..steps {
            for (id, tokens) in members {
                if let Some(token) = tokens.get(step) {
                    self.append(*id, *token)?;
                }
            }
            self.finish(members)?;
        }
        Ok(())
    }

    /// Computes all pending rows of `members` in shared steps and draws nothing. The error is that of the first
    /// that has one.
    fn finish(&mut self, members: &[(SequenceId, &[u32])]) -> Result<()> {
        for (id, _) in members {
            let sequence = self.sequence(*id);
            sequence.forget();
            sequence.sampler = None;
            sequence.wanted = sequence.pending() > 0;
        }
        while members.iter().any(|(id, _)| self.sequence(*id).wanted) {
            self.step()?;
        }
        let failed = members.iter().find_map(|(id, _)| self.sequence(*id).failed.take());
        failed.map_or(Ok(()), Err)
    }

    /// Runs one step for every sequence that waits for a token: single rows first, then prompts, as many rows
    /// as fit. Sequences whose last row came out get their next token. One that is cancelled or has no room left
    /// fails alone, and is out of the step.
    ///
    /// # Errors
    /// A device's, which is that of every sequence in the step: none of them waits any more.
    pub fn step(&mut self) -> Result<()> {
        self.plan.clear();
        self.shift_full();
        let mut room = self.limits.rows;
        let (count, first) = (self.sequences.len(), self.first);
        self.first = (first + 1) % count.max(1);
        for prompts in [false, true] {
            // A prompt that has begun goes on before others take the pages it will need.
            let first = if prompts { 0 } else { first };
            for id in (first..count).chain(0..first) {
                let Some(s) = self.sequences[id].as_mut().filter(|s| s.wanted && (s.pending() > 1) == prompts) else {
                    continue;
                };
                if self.plan.outputs.len() == self.limits.outputs {
                    break;
                }
                let rows = s.pending().min(room);
                if rows == 0 {
                    continue;
                }
                let ready = if s.cancel.take() {
                    Err(Error::Cancelled)
                } else {
                    room_for(&self.limits, &mut self.pages, s, rows)
                };
                if let Err(error) = ready {
                    s.fail(error);
                    continue;
                }
                self.plan.push(id, s, rows);
                room -= rows;
                if rows == s.pending() {
                    self.plan.outputs.push(self.plan.tokens.len() as u32 - 1);
                }
            }
        }
        if self.plan.owners.is_empty() {
            return Ok(());
        }
        // A step that fails, or panics, is not tried again unasked.
        self.plan.owners.iter().for_each(|id| self.sequences[*id].iter_mut().for_each(|s| s.wanted = false));
        self.run(self.enough())?;
        self.commit();
        Ok(())
    }

    /// Whether a sequence waits for a token.
    pub fn any_wanted(&self) -> bool {
        self.sequences.iter().flatten().any(|s| s.wanted)
    }

    /// How many of the likeliest tokens are enough for all that draw after the planned step; 0 if every logit is
    /// wanted.
    fn enough(&self) -> usize {
        let planned = self.plan.spans.iter().zip(&self.plan.owners);
        let sequences = planned.filter_map(|(span, id)| Some((span, self.sequences[*id].as_ref()?)));
        let mut drawing = sequences.filter(|(span, s)| span.rows.len() == s.pending());
        let most = drawing.try_fold(0, |most, (_, s)| Some(most.max(s.sampler.as_ref()?.enough()?)));
        most.unwrap_or(0)
    }

    /// Runs the planned step, of which the `enough` likeliest tokens are wanted, or every logit if that is 0.
    fn run(&mut self, enough: usize) -> Result<()> {
        self.logits.enough = enough;
        self.stage.step(&self.plan.batch(self.slots.len()), &mut self.logits)
    }

    /// Records the rows as computed and draws tokens for the sequences that are complete.
    fn commit(&mut self) {
        let Logits { all, likeliest, enough } = &self.logits;
        let (mut all, mut likeliest) = (all.chunks_exact(self.limits.vocab), likeliest.chunks_exact((*enough).max(1)));
        for (span, id) in self.plan.spans.iter().zip(&self.plan.owners) {
            let Some(s) = self.sequences[*id].as_mut() else { continue };
            self.plan.record(s, span.rows.start as usize..span.rows.end as usize, self.slots.len());
            publish(s, &mut self.pages, &mut self.prints);
            s.wanted = s.pending() > 0;
            if s.wanted {
                continue;
            }
            if let Some(sampler) = s.sampler.as_mut() {
                let drawn = match (likeliest.next(), all.next()) {
                    (Some(likeliest), _) => Ok(sampler.next_of(likeliest)),
                    (None, Some(logits)) => sampler.next(logits, &s.tokens),
                    (None, None) => continue,
                };
                match drawn {
                    Ok(drawn) => {
                        s.tokens.push(drawn.token);
                        s.mailbox.push_back(drawn);
                        if let Some(thoughts) = &self.thoughts {
                            thoughts.drawn(s);
                        }
                    }
                    Err(error) => s.fail(error),
                }
            }
        }
    }

    /// Computes pending rows of `ids`, as many as one step takes, and puts the logits of those at the positions from
    /// `from` on into `logits`, `[rows, vocab]`. Returns the rows by sequence, in the order of `logits`; `None` if
    /// nothing is pending. The bits do not depend on how many rows go at once.
    pub fn score(&mut self, ids: &[SequenceId], from: usize, logits: &mut Vec<f32>) -> Result<Option<Vec<Scored>>> {
        logits.clear();
        self.plan.clear();
        let (mut scored, mut room) = (Vec::new(), self.limits.rows);
        for (index, id) in ids.iter().enumerate() {
            let s = self.sequences[*id].as_mut().expect("a session outlived its sequence");
            let (position, wanted) = (s.computed, self.limits.outputs - self.plan.outputs.len());
            let before = from.saturating_sub(position);
            let rows = s.pending().min(room).min(before.saturating_add(wanted));
            if rows == 0 {
                continue;
            }
            room_for(&self.limits, &mut self.pages, s, rows)?;
            let first = self.plan.tokens.len();
            self.plan.push(*id, s, rows);
            room -= rows;
            if rows > before {
                self.plan.outputs.extend((first + before..first + rows).map(|row| row as u32));
                scored.push(Scored { index, positions: position + before..position + rows });
            }
        }
        if self.plan.owners.is_empty() {
            return Ok(None);
        }
        self.run(0)?;
        for (span, id) in self.plan.spans.iter().zip(&self.plan.owners) {
            let s = self.sequences[*id].as_mut().expect("a session outlived its sequence");
            self.plan.record(s, span.rows.start as usize..span.rows.end as usize, self.slots.len());
            publish(s, &mut self.pages, &mut self.prints);
        }
        std::mem::swap(&mut self.logits.all, logits);
        Ok(Some(scored))
    }
}

/// Pages for the next `rows` rows of a sequence.
fn room_for(limits: &Limits, pages: &mut Pages, s: &mut Sequence, rows: usize) -> Result<()> {
    let needed = s.computed + rows;
    if needed > limits.context {
        return Err(Error::ContextFull { needed, capacity: limits.context });
    }
    pages.grow(&mut s.pages, needed)?;
    let written = &s.pages[s.computed / PAGE_LEN..Pages::needed(needed)];
    debug_assert!(written.iter().all(|page| pages.is_writable(*page)), "a page that others may read is not written");
    Ok(())
}
