//! SentencePiece's merges as Llama 1 and 2, Mistral 7B and Gemma use them: of all neighbours whose union is a token,
//! those with the best score merge first. Text is not cut into words; a space is the character `▁`.

use super::bytes::byte_token;
use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// Stands for a space in tokens.
pub(super) const SPACE: &str = "▁";

/// What the merges need to know of a vocabulary.
pub(super) struct Spm {
    tokens: HashMap<Box<str>, u32>,
    /// By id.
    scores: Vec<f32>,
    /// The token that each byte is written with where a character has none.
    bytes: Box<[Option<u32>; 256]>,
    /// Bytes of the longest token: longer unions are not looked up.
    longest: usize,
}

/// A piece of the text at hand; neighbours by index, `NONE` at the ends.
struct Link {
    start: u32,
    /// Length in bytes; 0 when it was merged into its left neighbour.
    len: u32,
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// A possible merge. The greatest is the next: by score, then from left to right, which makes the result unique.
struct Merge {
    score: f32,
    left: u32,
    right: u32,
    /// Length in bytes of the union when it was found: either side can only grow, so another sum means a stale entry.
    len: u32,
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Merge {}

impl Spm {
    /// Takes the score of each token, in the order of ids; none: all are alike. `unk` is written for a byte that has no
    /// token.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if there are not as many scores as tokens, or one is NaN.
    pub(super) fn new(ids: &HashMap<&str, u32>, count: usize, scores: &[f32], unk: Option<u32>) -> Result<Self> {
        if !scores.is_empty() && scores.len() != count {
            return Err(Error::Tokenizer(format!("{} scores for {count} tokens", scores.len())));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(Error::Tokenizer(format!("the score of token {id} is NaN")));
        }
        let byte = |byte: usize| {
            let alone = ids.get(&*char::from(byte as u8).encode_utf8(&mut [0; 4])).filter(|_| byte < 128);
            ids.get(&*byte_token(byte as u8)).or(alone).copied().or(unk)
        };
        Ok(Self {
            tokens: ids.iter().map(|(text, id)| ((*text).into(), *id)).collect(),
            // Adding 0 makes -0 equal to 0 for `total_cmp`.
            scores: if scores.is_empty() { vec![0.0; count] } else { scores.iter().map(|s| s + 0.0).collect() },
            bytes: Box::new(std::array::from_fn(byte)),
            longest: ids.keys().map(|text| text.len()).max().unwrap_or(0),
        })
    }

    /// Appends the tokens of `text`, whose spaces are [`SPACE`]. Time O(n log n) in its length, which is below 4 GiB,
    /// for tokens of bounded length.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut links: Vec<Link> = Vec::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            let index = links.len() as u32;
            let len = c.len_utf8() as u32;
            // The first link's predecessor wraps to `NONE`.
            links.push(Link { start: at as u32, len, previous: index.wrapping_sub(1), next: index + 1 });
        }
        let Some(last) = links.last_mut() else { return };
        last.next = NONE;
        let mut queue = BinaryHeap::with_capacity(links.len());
        for left in 1..links.len() as u32 {
            self.propose(text, &links, &mut queue, left - 1, left);
        }
        while let Some(merge) = queue.pop() {
            let (left, right) = (&links[merge.left as usize], &links[merge.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != merge.len {
                continue;
            }
            let (previous, next) = (left.previous, right.next);
            links[merge.right as usize].len = 0;
            let left = &mut links[merge.left as usize];
            left.len = merge.len;
            left.next = next;
            if next != NONE {
                links[next as usize].previous = merge.left;
            }
            self.propose(text, &links, &mut queue, previous, merge.left);
            self.propose(text, &links, &mut queue, merge.left, next);
        }
        for link in links.iter().filter(|link| link.len > 0) {
            let piece = &text[link.start as usize..][..link.len as usize];
            match self.tokens.get(piece) {
                Some(id) => out.push(*id),
                None => out.extend(piece.bytes().filter_map(|byte| self.bytes[byte as usize])),
            }
        }
    }

    fn propose(&self, text: &str, links: &[Link], queue: &mut BinaryHeap<Merge>, left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (&links[left as usize], &links[right as usize]);
        let len = l.len + r.len;
        if len as usize > self.longest {
            return;
        }
        if let Some(id) = self.tokens.get(&text[l.start as usize..][..len as usize]) {
            queue.push(Merge { score: self.scores[*id as usize], left, right, len });
        }
    }
}
