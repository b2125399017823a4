//! Byte-pair encoding: the merge loop.
//!
//! A symbol is a string that merging can produce. Symbols below the vocabulary's size are its tokens; the others
//! are strings that the merge list names and the vocabulary lacks, which a sound file has none of.

use super::bytes::{ALPHABET, byte_token};
use super::rules::Rule;
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

/// What byte-pair encoding needs to know of a vocabulary.
pub(super) struct Bpe {
    /// The number of tokens.
    tokens: u32,
    start: Start,
    /// By text, the tokens that a whole word can be; empty where merges decide alone.
    words: HashMap<Box<[u8]>, u32>,
    /// Pair of symbols to its rank: the pair that stands first in the merge list merges first.
    ranks: HashMap<u64, u32, PairHash>,
    /// By rank, the symbol that the pair becomes.
    merged: Vec<u32>,
    /// By symbol less `tokens`: the tokens that are emitted for a symbol that is none.
    spelled: Vec<Box<[u32]>>,
}

/// The symbols that merging starts from.
enum Start {
    /// Bytes, written in the byte alphabet: the symbol of each.
    Bytes(Box<[u32; 256]>),
    /// Characters, and the tokens of bytes for those that no token or merge has.
    Chars { symbols: HashMap<char, u32>, bytes: Box<[Option<u32>; 256]> },
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
/// A character that no token or merge has: nothing merges with it.
const STRANGER: u32 = NONE - 1;

/// A possible merge. Ordered by rank, then from left to right, which makes the result unique.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Merge {
    /// The rank, and in the lower half the left one's place.
    order: u64,
    right: u32,
    /// Length in bytes of the pair when it was found: either side can only grow, so another sum means a stale entry.
    len: u32,
}

impl Merge {
    fn rank(&self) -> usize {
        (self.order >> 32) as usize
    }

    fn left(&self) -> u32 {
        self.order as u32
    }
}

/// Two numbers as one, which sorts by the first.
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) << 32 | u64::from(second)
}

/// Hashes pairs: the merge loop does little but look them up, and the standard hash takes most of its time. The key is
/// drawn anew for each vocabulary, so that no file can be made to collide.
#[derive(Clone)]
struct PairHash {
    key: u64,
}

impl PairHash {
    fn new() -> Self {
        Self { key: RandomState::new().hash_one(0) | 1 }
    }
}

impl BuildHasher for PairHash {
    type Hasher = PairHasher;

    fn build_hasher(&self) -> PairHasher {
        PairHasher { key: self.key, hash: self.key }
    }
}

/// Folds the 128-bit product of what it is given and the key.
struct PairHasher {
    key: u64,
    hash: u64,
}

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.hash ^ value) * u128::from(self.key.rotate_left(32) | 1);
        self.hash = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.hash
    }
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
    plain: bool,
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
            .filter(|id| *id < STRANGER)
            .ok_or_else(|| Error::Tokenizer("too many merges".into()))?;
        // As llama.cpp does: a symbol that is no token is spelled in tokens of one byte, and what has none is left out.
        let spelled = text.bytes().filter_map(|byte| match self.plain {
            true => self.byte_token(byte),
            false => byte.is_ascii().then(|| self.tokens.get(&*char::from(byte).encode_utf8(&mut [0; 4])).copied())?,
        });
        self.spelled.push(spelled.collect());
        self.absent.insert(text.into(), id);
        Ok(id)
    }

    fn byte_token(&self, byte: u8) -> Option<u32> {
        self.tokens.get(&*byte_token(byte)).copied()
    }

    /// The symbols that words start from, once all merges have been read.
    fn start(&mut self) -> Result<Start> {
        if self.plain {
            let texts = self.tokens.iter().map(|(text, id)| (*text, *id));
            let absent = self.absent.iter().map(|(text, id)| (&**text, *id));
            let single = |(text, id): (&str, u32)| {
                let mut chars = text.chars();
                chars.next().filter(|_| chars.next().is_none()).map(|c| (c, id))
            };
            let symbols = texts.chain(absent).filter_map(single).collect();
            let bytes = std::array::from_fn(|byte| self.byte_token(byte as u8));
            return Ok(Start::Chars { symbols, bytes: Box::new(bytes) });
        }
        let mut bytes = Box::new([0; 256]);
        for (byte, symbol) in (0..=255).zip(bytes.iter_mut()) {
            *symbol = self.id(ALPHABET.char(byte).encode_utf8(&mut [0; 4]))?;
        }
        Ok(Start::Bytes(bytes))
    }
}

impl Bpe {
    /// Reads the merge list, each item `left right`, best first. `tokens` maps texts to ids below `count`.
    pub(super) fn new(tokens: &HashMap<&str, u32>, count: usize, merges: &[&str], rule: &Rule) -> Result<Self> {
        let mut symbols = Symbols { tokens, count, plain: rule.plain, absent: HashMap::new(), spelled: Vec::new() };
        let mut ranks = HashMap::with_capacity_and_hasher(merges.len(), PairHash::new());
        let mut merged = Vec::with_capacity(merges.len());
        let mut text = String::new();
        for merge in merges {
            // The first character may itself be a space.
            let second = merge.char_indices().nth(1).map_or(merge.len(), |(at, _)| at);
            let Some(space) = merge[second..].find(' ').map(|at| second + at) else {
                return Err(Error::Tokenizer(format!("merge {} ({merge:?}) names no pair", merged.len())));
            };
            let (left, right) = (&merge[..space], &merge[space + 1..]);
            let pair = pair(symbols.id(left)?, symbols.id(right)?);
            text.clear();
            text.push_str(left);
            text.push_str(right);
            let rank = u32::try_from(merged.len()).map_err(|_| Error::Tokenizer("too many merges".into()))?;
            merged.push(symbols.id(&text)?);
            ranks.entry(pair).or_insert(rank);
        }
        let start = symbols.start()?;
        let words = match (rule.whole_words, rule.plain) {
            (true, _) => tokens.iter().filter_map(|(text, id)| Some((ALPHABET.decode(text)?.into(), *id))).collect(),
            // Gemma has tokens for several line feeds, and no merges that lead to them.
            (false, true) => {
                let feeds = tokens.iter().filter(|(text, _)| text.bytes().all(|byte| byte == b'\n'));
                feeds.map(|(text, id)| (text.as_bytes().into(), *id)).collect()
            }
            (false, false) => HashMap::new(),
        };
        let tokens = u32::try_from(count).map_err(|_| Error::Tokenizer("too many tokens".into()))?;
        Ok(Self { tokens, start, words, ranks, merged, spelled: symbols.spelled })
    }

    /// Makes `links` of the word's symbols.
    fn link(&self, word: &str, links: &mut Vec<Link>) {
        let mut push = |symbol: u32, len: usize| {
            let at = links.len() as u32;
            // The first link's predecessor wraps to `NONE`.
            links.push(Link { symbol, previous: at.wrapping_sub(1), next: at + 1, len: len as u32 });
        };
        match &self.start {
            Start::Bytes(bytes) => word.bytes().for_each(|byte| push(bytes[byte as usize], 1)),
            Start::Chars { symbols, .. } => {
                word.chars().for_each(|c| push(symbols.get(&c).copied().unwrap_or(STRANGER), c.len_utf8()));
            }
        }
        if let Some(last) = links.last_mut() {
            last.next = NONE;
        }
    }

    /// Appends the tokens of one word. Time O(n log n) in its length, which is below 4 GiB.
    pub(super) fn encode_word(&self, word: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if let Some(whole) = (!self.words.is_empty()).then(|| self.words.get(word.as_bytes())).flatten() {
            out.push(*whole);
            return;
        }
        let Scratch { links, queue } = scratch;
        links.clear();
        queue.clear();
        self.link(word, links);
        for left in 1..links.len() as u32 {
            self.propose(links, queue, left - 1, left);
        }
        while let Some(Reverse(merge)) = queue.pop() {
            let (left, right) = (&links[merge.left() as usize], &links[merge.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != merge.len {
                continue;
            }
            let (previous, next) = (left.previous, right.next);
            links[merge.right as usize].len = 0;
            let left = &mut links[merge.left() as usize];
            left.symbol = self.merged[merge.rank()];
            left.len = merge.len;
            left.next = next;
            if next != NONE {
                links[next as usize].previous = merge.left();
            }
            self.propose(links, queue, previous, merge.left());
            self.propose(links, queue, merge.left(), next);
        }
        self.emit(word, links, out);
    }

    fn emit(&self, word: &str, links: &[Link], out: &mut Vec<u32>) {
        let mut end = 0;
        for link in links.iter().filter(|link| link.len > 0) {
            end += link.len as usize;
            match (link.symbol, &self.start) {
                (STRANGER, Start::Chars { bytes, .. }) => {
                    let text = &word.as_bytes()[end - link.len as usize..end];
                    out.extend(text.iter().filter_map(|byte| bytes[*byte as usize]));
                }
                (symbol, _) if symbol < self.tokens => out.push(symbol),
                (symbol, _) => out.extend_from_slice(&self.spelled[(symbol - self.tokens) as usize]),
            }
        }
    }

    fn propose(&self, links: &[Link], queue: &mut BinaryHeap<Reverse<Merge>>, left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (&links[left as usize], &links[right as usize]);
        if let Some(&rank) = self.ranks.get(&pair(l.symbol, r.symbol)) {
            queue.push(Reverse(Merge { order: pair(rank, left), right, len: l.len + r.len }));
        }
    }
}
