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

#[cfg(test)]
mod tests {
    use crate::error::Result;
    use crate::tokenizer::{Tokenizer, Vocab};
    use std::time::{Duration, Instant};

    /// Three special tokens, all 256 bytes, and pieces with their scores.
    struct Small {
        tokens: Vec<String>,
        types: Vec<i32>,
        scores: Vec<f32>,
    }

    impl Small {
        fn new(pieces: &[(&str, f32)]) -> Self {
            let specials = ["<unk>", "<s>", "</s>"].map(String::from);
            let bytes = (0..=255u8).map(super::byte_token);
            let pieces_text = pieces.iter().map(|(text, _)| text.to_string());
            let tokens: Vec<String> = specials.into_iter().chain(bytes).chain(pieces_text).collect();
            let kind = |at: usize| [2, 3, 3].get(at).copied().unwrap_or(if at < 259 { 6 } else { 1 });
            let types = (0..tokens.len()).map(kind).collect();
            let scores = vec![0.0; 259].into_iter().chain(pieces.iter().map(|(_, score)| *score)).collect();
            Self { tokens, types, scores }
        }

        fn build(&self, change: impl FnOnce(&mut Vocab<'_>)) -> Result<Tokenizer> {
            let tokens: Vec<&str> = self.tokens.iter().map(|t| &**t).collect();
            let mut vocab = Vocab {
                model: "llama",
                tokens: &tokens,
                token_types: &self.types,
                scores: &self.scores,
                bos: Some(1),
                eos: Some(2),
                unk: Some(0),
                ..Vocab::default()
            };
            change(&mut vocab);
            Tokenizer::new(&vocab)
        }
    }

    const PIECES: [(&str, f32); 12] = [
        ("▁", -1.0),
        ("a", -2.0),
        ("b", -3.0),
        ("c", -4.0),
        ("bc", -5.0),
        ("ab", -6.0),
        ("▁a", -7.0),
        ("abc", -8.0),
        ("▁▁", -9.0),
        ("aa", -10.0),
        ("é", -11.0),
        ("▁é", -12.0),
    ];

    fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let ids = tokenizer.encode(text, true, false).unwrap();
        ids.iter().map(|id| tokenizer.piece(*id).unwrap().into_owned()).collect()
    }

    #[test]
    fn the_best_score_merges_first_then_the_leftmost() {
        let tokenizer = Small::new(&PIECES).build(|_| ()).unwrap();
        assert_eq!(pieces(&tokenizer, "abc"), [" a", "bc"], "bc before ab, and then ▁a before abc");
        assert_eq!(pieces(&tokenizer, "aaa"), [" a", "aa"]);
        assert_eq!(pieces(&tokenizer, "baaa"), [" ", "b", "aa", "a"]);
        assert_eq!(pieces(&tokenizer, "é"), [" é"]);
        assert_eq!(tokenizer.encode("", true, false).unwrap(), [0u32; 0]);
    }

    #[test]
    fn a_character_without_token_is_written_in_bytes() {
        let tokenizer = Small::new(&PIECES).build(|v| v.add_space_prefix = Some(false)).unwrap();
        let ids = tokenizer.encode("猫a", true, false).unwrap();
        assert_eq!(ids[..3], [3 + 0xE7, 3 + 0x8C, 3 + 0xAB]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "猫a");
    }

    /// The space before a text comes and goes; a stream drops it where the whole does.
    #[test]
    fn texts_come_back_without_the_space_before_them() {
        let small = Small::new(&PIECES);
        for prefix in [true, false] {
            let tokenizer = small.build(|v| v.add_space_prefix = Some(prefix)).unwrap();
            for text in ["a", " a", "  ab", "abc é\n", " ", "\u{2581}a", "猫", ""] {
                let ids = tokenizer.encode(text, false, false).unwrap();
                let back = text.replace('\u{2581}', " ");
                assert_eq!(tokenizer.decode(&ids).unwrap(), back);
                let mut decoder = tokenizer.decoder();
                let streamed: String = ids.iter().map(|id| decoder.push(tokenizer.token_bytes(*id).unwrap())).collect();
                assert_eq!(streamed + &decoder.flush(), back);
            }
        }
    }

    #[test]
    fn what_follows_a_special_token_gets_a_space_too() {
        let tokenizer = Small::new(&PIECES).build(|_| ()).unwrap();
        assert_eq!(pieces(&tokenizer, "a</s>a"), [" a", "</s>", " a"]);
        assert_eq!(tokenizer.encode("a", false, true).unwrap(), [1, 265], "bos unless the file says no");
    }

    /// Phi-3's special tokens take the white space behind them, but for those of Llama 2.
    #[test]
    fn white_space_behind_special_tokens() {
        let small = Small::new(&PIECES);
        let tokenizer = small.build(|v| v.name = "Phi3 mini").unwrap();
        assert_eq!(pieces(&tokenizer, "</s> \n a"), ["</s>", " a"]);
        assert_eq!(pieces(&tokenizer, "<s> a"), ["<s>", " ", " a"]);
        assert_eq!(pieces(&tokenizer, "</s> "), ["</s>"]);
    }

    #[test]
    fn bad_scores_are_refused_by_name() {
        let mut small = Small::new(&PIECES);
        let refusal = |small: &Small| small.build(|_| ()).err().map(|e| e.to_string()).unwrap_or_default();
        small.scores[260] = f32::NAN;
        assert!(refusal(&small).contains("score of token 260 is NaN"), "{}", refusal(&small));
        small.scores.pop();
        assert!(refusal(&small).contains("270 scores for 271 tokens"), "{}", refusal(&small));
        small.scores.clear();
        assert_eq!(refusal(&small), "", "without scores the leftmost merges first");
    }

    #[test]
    fn bytes_without_tokens_are_unknown() {
        let tokens = ["<unk>", "a", "b"];
        let vocab = Vocab { model: "llama", tokens: &tokens, add_space_prefix: Some(false), ..Vocab::default() };
        let known = Tokenizer::new(&Vocab { unk: Some(0), ..vocab.clone() }).unwrap();
        assert_eq!(known.encode("aéb", true, false).unwrap(), [1, 0, 0, 2]);
        assert_eq!(Tokenizer::new(&vocab).unwrap().encode("aéb", true, false).unwrap(), [1, 2]);
    }

    /// A text is one word here: a merge loop that looks at every pair after each merge would take hours.
    #[test]
    fn long_texts_take_no_quadratic_time() {
        let mut texts: Vec<String> = (1..18).map(|power| "a".repeat(1 << power)).collect();
        texts.extend(["b".into(), "▁".into(), "▁b".into(), "▁▁".into(), "bb".into(), "bbb".into()]);
        let pieces: Vec<(&str, f32)> = texts.iter().map(|text| (&**text, text.len() as f32)).collect();
        let tokenizer = Small::new(&pieces).build(|_| ()).unwrap();
        for unit in ["a", "b", " ", "é", "ab", " b"] {
            let text = unit.repeat(1_000_000 / unit.len());
            let start = Instant::now();
            let ids = tokenizer.encode(&text, true, false).unwrap();
            let time = start.elapsed();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            assert!(time < Duration::from_secs(10), "{unit:?}: {time:?}");
        }
    }
}
