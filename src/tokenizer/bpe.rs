//! Byte-pair encoding: the merge loop.
//!
//! A symbol is a string that merging can produce. Symbols below the vocabulary's size are its tokens; the others
//! are strings that the merge list names and the vocabulary lacks, which a sound file has none of.

use super::bytes::ALPHABET;
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What byte-pair encoding needs to know of a vocabulary.
pub(super) struct Bpe {
    /// The number of tokens.
    tokens: u32,
    /// The symbol of each byte.
    bytes: [u32; 256],
    /// Pair of symbols to its rank: the pair that stands first in the merge list merges first.
    ranks: HashMap<(u32, u32), u32>,
    /// By rank, the symbol that the pair becomes.
    merged: Vec<u32>,
    /// By symbol less `tokens`: the tokens that are emitted for a symbol that is none.
    spelled: Vec<Box<[u32]>>,
}

/// A symbol of the word at hand; neighbours by index, `NONE` at the ends.
struct Link {
    symbol: u32,
    previous: u32,
    next: u32,
    /// Length in bytes; 0 when it was merged into its left neighbour.
    len: u32,
}

const NONE: u32 = u32::MAX;

/// A possible merge. Ordered by rank, then from left to right, which makes the result unique.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Merge {
    rank: u32,
    left: u32,
    right: u32,
    /// Length in bytes of the pair when it was found: either side can only grow, so another sum means a stale entry.
    len: u32,
}

/// Buffers of the merge loop, kept from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    links: Vec<Link>,
    queue: BinaryHeap<Reverse<Merge>>,
}

/// Symbols by their text, while the merge list is read.
struct Symbols<'a> {
    tokens: &'a HashMap<&'a str, u32>,
    count: usize,
    absent: HashMap<Box<str>, u32>,
    spelled: Vec<Box<[u32]>>,
}

impl Symbols<'_> {
    fn id(&mut self, text: &str) -> Result<u32> {
        if let Some(id) = self.tokens.get(text).or_else(|| self.absent.get(text)) {
            return Ok(*id);
        }
        let id = u32::try_from(self.count + self.spelled.len())
            .ok()
            .filter(|id| *id < NONE)
            .ok_or_else(|| Error::Tokenizer("too many merges".into()))?;
        // As llama.cpp does: a symbol that is no token is spelled in tokens of one byte, and what has none is left out.
        let ascii = text.as_bytes().iter().filter(|b| b.is_ascii());
        let spelled = ascii.filter_map(|b| self.tokens.get(&*char::from(*b).encode_utf8(&mut [0; 4])));
        self.spelled.push(spelled.copied().collect());
        self.absent.insert(text.into(), id);
        Ok(id)
    }
}

impl Bpe {
    /// Reads the merge list, each item `left right`, best first. `tokens` maps texts to ids below `count`.
    pub(super) fn new(tokens: &HashMap<&str, u32>, count: usize, merges: &[&str]) -> Result<Self> {
        let mut symbols = Symbols { tokens, count, absent: HashMap::new(), spelled: Vec::new() };
        let mut bytes = [0; 256];
        for (byte, symbol) in (0..=255).zip(&mut bytes) {
            *symbol = symbols.id(ALPHABET.char(byte).encode_utf8(&mut [0; 4]))?;
        }
        let mut ranks = HashMap::with_capacity(merges.len());
        let mut merged = Vec::with_capacity(merges.len());
        let mut text = String::new();
        for merge in merges {
            // The first character may itself be a space.
            let second = merge.char_indices().nth(1).map_or(merge.len(), |(at, _)| at);
            let Some(space) = merge[second..].find(' ').map(|at| second + at) else {
                return Err(Error::Tokenizer(format!("merge {} ({merge:?}) names no pair", merged.len())));
            };
            let (left, right) = (&merge[..space], &merge[space + 1..]);
            let pair = (symbols.id(left)?, symbols.id(right)?);
            text.clear();
            text.push_str(left);
            text.push_str(right);
            let rank = u32::try_from(merged.len()).map_err(|_| Error::Tokenizer("too many merges".into()))?;
            merged.push(symbols.id(&text)?);
            ranks.entry(pair).or_insert(rank);
        }
        let tokens = u32::try_from(count).map_err(|_| Error::Tokenizer("too many tokens".into()))?;
        Ok(Self { tokens, bytes, ranks, merged, spelled: symbols.spelled })
    }

    /// Appends the tokens of one word. Time O(n log n) in its length, which is below 4 GiB.
    pub(super) fn encode_word(&self, word: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { links, queue } = scratch;
        links.clear();
        queue.clear();
        let count = word.len() as u32;
        for (at, byte) in (0..count).zip(word.bytes()) {
            let next = if at + 1 == count { NONE } else { at + 1 };
            // The first link's predecessor wraps to `NONE`.
            links.push(Link { symbol: self.bytes[byte as usize], previous: at.wrapping_sub(1), next, len: 1 });
        }
        for left in 1..count {
            self.propose(links, queue, left - 1, left);
        }
        while let Some(Reverse(merge)) = queue.pop() {
            let (left, right) = (&links[merge.left as usize], &links[merge.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != merge.len {
                continue;
            }
            let (previous, next) = (left.previous, right.next);
            links[merge.right as usize].len = 0;
            let left = &mut links[merge.left as usize];
            left.symbol = self.merged[merge.rank as usize];
            left.len = merge.len;
            left.next = next;
            if next != NONE {
                links[next as usize].previous = merge.left;
            }
            self.propose(links, queue, previous, merge.left);
            self.propose(links, queue, merge.left, next);
        }
        for link in links.iter().filter(|link| link.len > 0) {
            match link.symbol.checked_sub(self.tokens) {
                None => out.push(link.symbol),
                Some(absent) => out.extend_from_slice(&self.spelled[absent as usize]),
            }
        }
    }

    fn propose(&self, links: &[Link], queue: &mut BinaryHeap<Reverse<Merge>>, left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (&links[left as usize], &links[right as usize]);
        if let Some(&rank) = self.ranks.get(&(l.symbol, r.symbol)) {
            queue.push(Reverse(Merge { rank, left, right, len: l.len + r.len }));
        }
    }
}
