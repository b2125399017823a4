//! The tokens that may still be drawn.

use crate::backend::Likely;
use std::cmp::Ordering;

/// How many are sorted first where it is not known how many will be needed.
const FIRST_BLOCK: usize = 256;
/// Logits that are looked at together.
const CHUNK: usize = 32;

/// A token that may still be drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub token: u32,
    /// Never NaN, −∞ or ∞.
    pub logit: f32,
    /// Its probability among the candidates, as of the last [`Candidates::softmax`].
    pub p: f32,
    /// What a stage may sort by; lower is better.
    pub score: f32,
}

/// An order of candidates.
type Order = fn(&Candidate, &Candidate) -> Ordering;

/// Falling logits; equal ones by rising id.
fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Rising scores; equal ones by falling logit.
fn by_score(a: &Candidate, b: &Candidate) -> Ordering {
    a.score.total_cmp(&b.score).then_with(|| by_logit(a, b))
}

/// The tokens that may still be drawn, most likely first if `sorted`.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub list: Vec<Candidate>,
    sorted: bool,
}

impl Candidates {
    /// None yet, with room for the `k` most likely of `tokens`, or for all if `k` is 0.
    pub fn with_room(k: usize, tokens: usize) -> Self {
        Self { list: Vec::with_capacity(full(k).saturating_add(CHUNK).min(tokens)), sorted: false }
    }

    /// Takes the tokens whose logit is `floor` or above; of them the `k` most likely, sorted, unless `k` is 0.
    /// What is NaN or −∞ is impossible; ∞ counts as the largest number.
    pub fn collect(&mut self, logits: &[f32], floor: f32, k: usize) {
        self.list.clear();
        self.sorted = false;
        let full = full(k);
        let mut floor = floor.max(f32::MIN);
        for (start, chunk) in (0..).step_by(CHUNK).zip(logits.chunks(CHUNK)) {
            if !chunk.iter().fold(false, |any, logit| any | (*logit >= floor)) {
                continue;
            }
            for (token, logit) in (start..).zip(chunk).filter(|(_, logit)| **logit >= floor) {
                // Adding 0 makes one zero of two.
                let logit = logit.min(f32::MAX) + 0.0;
                self.list.push(Candidate { token, logit, p: 0.0, score: 0.0 });
            }
            if self.list.len() >= full {
                self.keep_best(k);
                // An equal logit of a later token would lose.
                floor = self.list[k - 1].logit.next_up();
            }
        }
        if k > 0 {
            self.keep_best(k);
            self.sort();
        }
    }

    /// Takes tokens that are in order.
    pub fn take(&mut self, likeliest: &[Likely]) {
        self.list.clear();
        let candidate = |likely: &Likely| Candidate { token: likely.token, logit: likely.logit, p: 0.0, score: 0.0 };
        self.list.extend(likeliest.iter().map(candidate));
        self.sorted = true;
    }

    /// Keeps the `n` most likely.
    pub fn keep_best(&mut self, n: usize) {
        if n < self.list.len() {
            if !self.sorted && n > 0 {
                self.list.select_nth_unstable_by(n - 1, by_logit);
            }
            self.list.truncate(n);
        }
    }

    pub fn sort(&mut self) {
        if !self.sorted {
            self.list.sort_unstable_by(by_logit);
            self.sorted = true;
        }
    }

    /// The highest logit; none without candidates.
    pub fn best(&self) -> Option<f32> {
        let logits = self.list.iter().map(|c| c.logit);
        if self.sorted { logits.take(1).next() } else { logits.reduce(f32::max) }
    }

    /// Sets `p` of every candidate.
    pub fn softmax(&mut self) {
        let Some(best) = self.best() else { return };
        let mut total = 0.0;
        for c in &mut self.list {
            c.p = (c.logit - best).exp();
            total += f64::from(c.p);
        }
        self.list.iter_mut().for_each(|c| c.p = (f64::from(c.p) / total) as f32);
    }

    /// −Σ p ln p, in nats, of the last softmax.
    pub fn entropy(&self) -> f32 {
        let terms = self.list.iter().filter(|c| c.p > 0.0).map(|c| f64::from(c.p) * f64::from(c.p).ln());
        -terms.sum::<f64>() as f32
    }

    /// Keeps the most likely up to the first for which `last(index, candidate)` holds.
    pub fn keep_until(&mut self, last: impl FnMut(usize, &Candidate) -> bool) {
        let sorted = self.sorted;
        keep_until(&mut self.list, (!sorted).then_some(by_logit as Order), last);
        self.sorted = true;
    }

    /// Keeps those with the lowest scores up to the first for which `last(index, candidate)` holds.
    pub fn keep_until_by_score(&mut self, last: impl FnMut(usize, &Candidate) -> bool) {
        keep_until(&mut self.list, Some(by_score), last);
        self.sorted = false;
    }

    /// Keeps those for which `keep` holds, in their order.
    pub fn retain(&mut self, keep: impl FnMut(&Candidate) -> bool) {
        self.list.retain(keep);
    }
}

/// Entries at which the list is cut to the `k` most likely. Two in three go at once, so that a token costs little
/// more than its comparison.
fn full(k: usize) -> usize {
    if k == 0 { usize::MAX } else { k.saturating_mul(3).max(FIRST_BLOCK) }
}

/// Brings `list` into `order`, no further than needed, and cuts it behind the first for which `last` holds.
fn keep_until(list: &mut Vec<Candidate>, order: Option<Order>, mut last: impl FnMut(usize, &Candidate) -> bool) {
    let (mut done, mut block) = (0, FIRST_BLOCK);
    while done < list.len() {
        let size = block.min(list.len() - done);
        if let Some(order) = order {
            let rest = &mut list[done..];
            if size < rest.len() {
                rest.select_nth_unstable_by(size - 1, order);
            }
            rest[..size].sort_unstable_by(order);
        }
        for i in done..done + size {
            if last(i, &list[i]) {
                list.truncate(i + 1);
                return;
            }
        }
        (done, block) = (done + size, block * 4);
    }
}
