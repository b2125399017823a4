//! What llama.cpp makes of the 2,400 hard lines, and how a tokenizer of ours compares. See tests/data/tokenizer.

use cotvalve::tokenizer::{Decoder, Tokenizer};
use serde::Deserialize;
use std::fmt::Write;

/// llama.cpp's answers for one vocabulary, maybe under another pre-tokenizer than the file's.
#[derive(Deserialize)]
pub struct Case {
    pub vocab: String,
    pub pre: Option<String>,
    /// Which vector of hashes: ids without special tokens parsed.
    plain: usize,
    /// Ids with them.
    special: usize,
    /// The text of the latter.
    text: usize,
    tokens: usize,
    ends: Vec<u32>,
    /// Hash of the ids of all tokens that are no part of a text: control tokens and the unknown one.
    control: u32,
    /// Hash of length and bytes of each token's text.
    pieces: u32,
    /// The ids of `a` with the first and last tokens that the file asks for.
    added: Vec<u32>,
}

#[derive(Deserialize)]
struct Facts {
    lines: usize,
    vectors: usize,
}

#[derive(Deserialize)]
struct Index {
    facts: Facts,
    cases: Vec<Case>,
}

/// The lines, and llama.cpp's answers.
pub struct Peer {
    pub lines: Vec<String>,
    pub cases: Vec<Case>,
    hashes: Vec<u32>,
}

/// Whether the texts of ids are compared, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Texts {
    Equal,
    /// llama.cpp takes spaces before punctuation out of them, which a stream of tokens can not know in time.
    Cleaned,
}

impl Peer {
    pub fn read() -> Self {
        let text = include_str!("../data/tokenizer/lines.jsonl");
        let lines: Vec<String> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let index: Index = serde_json::from_str(include_str!("../data/tokenizer/ids.json")).unwrap();
        let words = include_bytes!("../data/tokenizer/ids.bin").chunks_exact(4);
        let hashes: Vec<u32> = words.map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(lines.len(), index.facts.lines);
        assert_eq!(hashes.len(), index.facts.lines * index.facts.vectors);
        Self { lines, cases: index.cases, hashes }
    }

    fn vector(&self, index: usize) -> &[u32] {
        &self.hashes[index * self.lines.len()..][..self.lines.len()]
    }

    /// Adds a row to `table`, and what differs to `problems`.
    pub fn compare(&self, case: &Case, tokenizer: &Tokenizer, texts: Texts, table: &mut String) -> Vec<String> {
        let name = format!("{} {}", case.vocab, case.pre.as_deref().unwrap_or(""));
        let mut problems = Vec::new();
        let (plain, special, back) = (self.vector(case.plain), self.vector(case.special), self.vector(case.text));
        let mut equal = 0;
        for (at, line) in self.lines.iter().enumerate() {
            let plain_ids = tokenizer.encode(line, false, false).unwrap();
            let ids = tokenizer.encode(line, true, false).unwrap();
            let mut is = vec![("plain", hash_ids(&plain_ids) == plain[at]), ("special", hash_ids(&ids) == special[at])];
            let (text, streamed) = decode(tokenizer, &ids);
            is.push(("streamed", String::from_utf8_lossy(&text) == streamed));
            if texts == Texts::Equal {
                is.push(("text", hash_bytes(&text) == back[at]));
            }
            equal += usize::from(is.iter().all(|(_, equal)| *equal));
            let unlike = is.iter().filter(|(_, equal)| !equal);
            problems.extend(unlike.map(|(what, _)| format!("{name}: line {}, {what}: {line:?}", at + 1)));
        }
        writeln!(
            table,
            "| {:14} | {:23} | {equal} of {} |",
            case.vocab,
            case.pre.as_deref().unwrap_or(""),
            self.lines.len()
        )
        .unwrap();
        let mut fact = |what: &str, equal: bool| {
            if !equal {
                problems.insert(0, format!("{name}: {what} differ"));
            }
        };
        fact("ends", (0..case.tokens as u32).filter(|id| tokenizer.is_end(*id)).eq(case.ends.iter().copied()));
        fact("control tokens", hash_control(tokenizer) == case.control);
        // Command R has tokens outside the byte alphabet, of which llama.cpp makes `[UNK_BYTE_0x...]`.
        fact("texts of tokens", case.vocab == "command-r" || hash_pieces(tokenizer) == case.pieces);
        fact("added tokens", tokenizer.encode("a", true, true).unwrap() == case.added);
        fact("numbers of tokens", tokenizer.vocab_size() == case.tokens);
        problems
    }
}

/// The bytes of `ids` and their text as a stream gives it.
fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> (Vec<u8>, String) {
    let mut decoder: Decoder = tokenizer.decoder();
    let mut bytes: Vec<u8> = Vec::new();
    let mut streamed = String::new();
    for id in ids {
        let piece = tokenizer.token_bytes(*id).unwrap();
        streamed += &decoder.push(piece);
        bytes.extend(piece);
    }
    streamed += &decoder.flush();
    assert_eq!(streamed, tokenizer.decode(ids).unwrap());
    let dropped = String::from_utf8_lossy(&bytes).len() - streamed.len();
    (bytes.split_off(dropped), streamed)
}

fn hash_bytes(bytes: &[u8]) -> u32 {
    extend(OFFSET, bytes)
}

pub fn hash_ids(ids: &[u32]) -> u32 {
    ids.iter().fold(OFFSET, |state, id| extend(state, &id.to_le_bytes()))
}

fn hash_control(tokenizer: &Tokenizer) -> u32 {
    let ids: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.is_control(*id)).collect();
    hash_ids(&ids)
}

fn hash_pieces(tokenizer: &Tokenizer) -> u32 {
    (0..tokenizer.vocab_size() as u32).fold(OFFSET, |state, id| {
        let piece = tokenizer.token_bytes(id).unwrap();
        extend(extend(state, &(piece.len() as u32).to_le_bytes()), piece)
    })
}

const OFFSET: u32 = 2_166_136_261;

/// FNV-1a.
fn extend(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| (state ^ u32::from(*byte)).wrapping_mul(16_777_619))
}
