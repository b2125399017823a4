//! DRY ("don't repeat yourself"): a penalty on tokens that go on with a repetition, growing with its length.

use super::settings::Sampling;
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use std::collections::HashMap;

/// Tokens that a breaker may go on for after the one it starts in.
const TAIL_MAX: usize = 20;
/// Room that is set aside at once; more is taken when it is first needed.
const ROOM: usize = 4096;
/// Logarithm of the largest f32.
const F32_MAX_LN: f32 = 88.722_84;

/// The penalty of one sequence.
#[derive(Debug)]
pub(super) struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: usize,
    last_n: usize,
    /// By token, what must follow it for a breaker to be complete; nothing where it holds all of one.
    breakers: HashMap<u32, Vec<Vec<u32>>>,
    /// By distance from the end, how long a repetition of the end stops there.
    lengths: Vec<u32>,
    /// Tokens that go on with a repetition, and its length.
    next: Vec<(u32, u32)>,
}

impl Dry {
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn new(sampling: &Sampling, tokenizer: &Tokenizer) -> Result<Self> {
        let mut breakers = HashMap::new();
        sampling.dry_breakers.iter().try_for_each(|text| add_breaker(text, tokenizer, &mut breakers))?;
        let room = sampling.dry_last_n.min(ROOM);
        Ok(Self {
            multiplier: sampling.dry_multiplier,
            base: sampling.dry_base,
            allowed_length: sampling.dry_allowed_length,
            last_n: sampling.dry_last_n,
            breakers,
            lengths: Vec::with_capacity(room),
            next: Vec::with_capacity(room),
        })
    }

    /// Lowers the logits of tokens that would go on with a repetition of the end of `timeline`, by
    /// multiplier · base^(length − allowed length).
    pub fn apply(&mut self, logits: &mut [f32], timeline: &[u32]) {
        let tokens = &timeline[timeline.len().saturating_sub(self.last_n)..];
        let limit = self.since_breaker(tokens);
        if tokens.len() <= self.allowed_length || limit < self.allowed_length {
            return;
        }
        self.measure(tokens);
        self.next.clear();
        for back in 1..tokens.len() {
            let length = (self.lengths[back] as usize).min(limit);
            if length >= self.allowed_length {
                self.next.push((tokens[tokens.len() - back], length as u32));
            }
        }
        self.next.sort_unstable();
        let exponent_max = if self.base > 1.000_001 { (F32_MAX_LN / self.base.ln()) as usize } else { usize::MAX };
        for run in self.next.chunk_by(|a, b| a.0 == b.0) {
            let (token, length) = run[run.len() - 1];
            let breaks = self.breakers.get(&token).is_some_and(|tails| tails.iter().any(Vec::is_empty));
            if let Some(logit) = logits.get_mut(token as usize).filter(|_| !breaks) {
                let exponent = (length as usize - self.allowed_length).min(exponent_max);
                *logit -= self.multiplier * self.base.powi(exponent as i32);
            }
        }
    }

    /// The number of tokens after the last breaker; all without one.
    fn since_breaker(&self, tokens: &[u32]) -> usize {
        for (after, token) in tokens.iter().rev().enumerate() {
            let rest = &tokens[tokens.len() - after..];
            let tails = self.breakers.get(token).into_iter().flatten();
            let longest = tails.filter(|tail| rest.starts_with(tail)).map(Vec::len).max();
            if let Some(longest) = longest {
                return after - longest;
            }
        }
        tokens.len()
    }

    /// Sets `lengths[back]` to the number of tokens in which `tokens` without its last `back`, and `tokens` itself,
    /// end alike: the Z-algorithm from behind, in time linear in the number of tokens.
    fn measure(&mut self, tokens: &[u32]) {
        let n = tokens.len();
        let from_end = |i: usize| tokens[n - 1 - i];
        self.lengths.clear();
        self.lengths.resize(n, 0);
        let (mut left, mut right) = (0, 0);
        for back in 1..n {
            let known = if back < right { (self.lengths[back - left] as usize).min(right - back) } else { 0 };
            let mut length = known;
            while back + length < n && from_end(length) == from_end(back + length) {
                length += 1;
            }
            self.lengths[back] = length as u32;
            if back + length > right {
                (left, right) = (back, back + length);
            }
        }
    }
}

/// Adds the tokens that hold `text` or in whose end it starts, these with the tokens of its rest.
fn add_breaker(text: &str, tokenizer: &Tokenizer, breakers: &mut HashMap<u32, Vec<Vec<u32>>>) -> Result<()> {
    let wanted = text.as_bytes();
    for token in 0..tokenizer.vocab_size() as u32 {
        let bytes = tokenizer.token_bytes(token)?;
        let mut add = |tail: Vec<u32>| {
            let tails = breakers.entry(token).or_default();
            if !tails.contains(&tail) {
                tails.push(tail);
            }
        };
        if bytes.windows(wanted.len()).any(|part| part == wanted) {
            add(Vec::new());
            continue;
        }
        for start in bytes.len().saturating_sub(wanted.len() - 1)..bytes.len() {
            let Some(rest) = wanted.strip_prefix(&bytes[start..]) else { continue };
            // A rest that starts inside a character is no text.
            let Ok(rest) = std::str::from_utf8(rest) else { continue };
            let mut tail = tokenizer.encode(rest, false, false)?;
            tail.truncate(TAIL_MAX);
            add(tail);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn dry(allowed_length: usize, last_n: usize, breakers: &[(u32, &[u32])]) -> Dry {
        let mut map: HashMap<u32, Vec<Vec<u32>>> = HashMap::new();
        breakers.iter().for_each(|(head, tail)| map.entry(*head).or_default().push(tail.to_vec()));
        let (lengths, next) = (Vec::new(), Vec::new());
        Dry { multiplier: 0.5, base: 1.75, allowed_length, last_n, breakers: map, lengths, next }
    }

    /// What a token is penalized by, found by trying every length at every place.
    fn slow(dry: &Dry, tokens: &[u32], token: u32) -> f32 {
        let tokens = &tokens[tokens.len().saturating_sub(dry.last_n)..];
        let n = tokens.len();
        let broken = (0..n).rev().find_map(|i| {
            let tails = dry.breakers.get(&tokens[i])?;
            tails.iter().filter(|tail| tokens[i + 1..].starts_with(tail)).map(|tail| n - 1 - i - tail.len()).min()
        });
        let limit = broken.unwrap_or(n);
        let alone = dry.breakers.get(&token).is_some_and(|tails| tails.contains(&vec![]));
        if n <= dry.allowed_length || limit < dry.allowed_length || alone {
            return 0.0;
        }
        let mut longest = None;
        for place in (1..n).filter(|i| tokens[*i] == token) {
            let length = (0..=place.min(limit)).rev().find(|l| tokens[place - l..place] == tokens[n - l..]).unwrap();
            longest = longest.max(Some(length).filter(|l| *l >= dry.allowed_length));
        }
        longest.map_or(0.0, |l| dry.multiplier * dry.base.powi((l - dry.allowed_length) as i32))
    }

    #[test]
    fn penalties_are_those_of_every_length_at_every_place() {
        let mut rng = Rng::new(5);
        let mut found = 0;
        for round in 0..3000 {
            let kinds = 2 + rng.below(4);
            let tokens: Vec<u32> = (0..rng.below(40)).map(|_| rng.below(kinds) as u32).collect();
            let breakers: [(u32, &[u32]); 3] = [(0, &[]), (1, &[2, 0]), (1, &[2])];
            let breakers = &breakers[rng.below(4)..];
            let mut dry = dry(rng.below(4), 1 + rng.below(45), breakers);
            let mut logits = [0.0; 6];
            dry.apply(&mut logits, &tokens);
            for (token, logit) in (0..).zip(logits) {
                let truth = slow(&dry, &tokens, token);
                assert!((logit + truth).abs() <= truth * 1e-6, "{round}: {token} of {tokens:?}: {logit} {truth}");
                found += usize::from(truth > 0.0);
            }
        }
        assert!(found > 1000, "{found}");
    }

    #[test]
    fn long_repetitions_overflow_nothing() {
        let mut dry = dry(1, 4096, &[]);
        let mut logits = [0.0; 2];
        dry.apply(&mut logits, &[1; 4096]);
        assert!(logits[1].is_finite() && logits[1] < -1e30, "{logits:?}");
    }
}
