//! Text to tokens and back: byte-level BPE with the vocabulary of a GGUF file, token for token as llama.cpp.

mod bpe;
mod bytes;
mod decode;
mod special;
mod split;

pub use decode::Decoder;

use crate::error::{Error, Result};
use bpe::{Bpe, Scratch};
use bytes::ALPHABET;
use special::{Kind, Part, Special};
use split::Splitter;
use std::borrow::Cow;
use std::collections::HashMap;

/// Most tokens that may be special; each costs a search over every text encoded.
const SPECIALS_MAX: usize = 1 << 15;
/// Longest text that is encoded, in bytes; positions in it are 32-bit.
const TEXT_BYTES_MAX: usize = 1 << 30;

/// A vocabulary as a model file describes it (`tokenizer.ggml.*`).
#[derive(Clone, Debug, Default)]
pub struct Vocab<'a> {
    /// `model`: the kind of vocabulary; `gpt2` is byte-level BPE.
    pub model: &'a str,
    /// `pre`: how text is cut into words before BPE.
    pub pre: &'a str,
    /// Text of each token; a token's id is its index.
    pub tokens: &'a [&'a str],
    /// Type of each token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Empty: all normal.
    pub token_types: &'a [i32],
    /// BPE merges `left right`, best first.
    pub merges: &'a [&'a str],
    /// First token of a text.
    pub bos: Option<u32>,
    /// Last token of a text.
    pub eos: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    /// End of a message.
    pub eom: Option<u32>,
    /// Stands for what the vocabulary can not write.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// A text starts with `bos`.
    pub add_bos: bool,
    /// A text ends with `eos`.
    pub add_eos: bool,
}

/// Turns text into token ids and ids into bytes.
pub struct Tokenizer {
    bpe: Bpe,
    splitter: Splitter,
    /// The bytes of all tokens, one after the other; token `i` has `starts[i]..starts[i + 1]`.
    bytes: Vec<u8>,
    starts: Vec<u32>,
    /// Longest first.
    specials: Vec<Special>,
    control: Vec<u32>,
    ends: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    add_bos: bool,
    add_eos: bool,
}

impl Tokenizer {
    /// Builds the tokenizer of `vocab`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the kind of vocabulary or pre-tokenizer is not supported, two tokens have the same
    /// text, a list has the wrong length, a merge is no pair, or a named token does not exist.
    pub fn new(vocab: &Vocab<'_>) -> Result<Self> {
        if vocab.model != "gpt2" {
            return Err(refused(format!("vocabularies of kind {:?} are not supported", vocab.model)));
        }
        let splitter = Splitter::named(vocab.pre)?;
        let mut kinds = kinds(vocab)?;
        let ids = ids(vocab.tokens)?;
        let mut ends = special::correct(&ids, &mut kinds);
        ends.extend([vocab.eos, vocab.eot, vocab.eom].into_iter().flatten());
        ends.sort_unstable();
        ends.dedup();
        check_named(vocab)?;
        let (bytes, starts) = token_bytes(vocab.tokens, &kinds)?;
        let control = (0..).zip(&kinds).filter(|(_, kind)| kind.cut() == Some(false)).map(|(id, _)| id).collect();
        Ok(Self {
            bpe: Bpe::new(&ids, vocab.tokens.len(), vocab.merges)?,
            splitter,
            bytes,
            starts,
            specials: specials(vocab.tokens, &kinds)?,
            control,
            ends,
            bos: vocab.bos,
            eos: vocab.eos,
            unk: vocab.unk,
            pad: vocab.pad,
            add_bos: vocab.add_bos,
            add_eos: vocab.add_eos,
        })
    }

    /// The number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.starts.len() - 1
    }

    /// The token ids of `text`.
    ///
    /// With `parse_special`, control tokens written in `text` become themselves; without, they are plain text, as
    /// text from a user must be. User-defined tokens are always recognized. With `add_special`, the file's first and
    /// last tokens are added where it asks for them. A byte that the vocabulary has no token for is left out, as in
    /// llama.cpp. Time O(n log n) in the length of the text.
    ///
    /// # Errors
    /// [`Error::Argument`] if `text` is longer than 1 GiB.
    pub fn encode(&self, text: &str, parse_special: bool, add_special: bool) -> Result<Vec<u32>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::argument("text", format!("{} bytes; {TEXT_BYTES_MAX} can be encoded", text.len())));
        }
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        let mut scratch = Scratch::default();
        if add_special && self.add_bos {
            out.extend(self.bos);
        }
        for part in special::cut(text, &self.specials, parse_special) {
            match part {
                Part::Token(id) => out.push(id),
                Part::Text(range) => {
                    self.splitter.split(&text[range], |word| self.bpe.encode_word(word, &mut scratch, &mut out));
                }
            }
        }
        if add_special && self.add_eos {
            out.extend(self.eos);
        }
        Ok(out)
    }

    /// The bytes that token `id` stands for; not always whole characters. A control token stands for its text, an
    /// unused one for nothing.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8]> {
        let at = id as usize;
        match (self.starts.get(at), self.starts.get(at.wrapping_add(1))) {
            (Some(start), Some(end)) => Ok(&self.bytes[*start as usize..*end as usize]),
            _ => Err(refused(format!("token {id} is out of range: there are {}", self.vocab_size()))),
        }
    }

    /// Token `id` for display: like [`Self::token_bytes`], with U+FFFD for parts of characters.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if there is no such token.
    pub fn piece(&self, id: u32) -> Result<Cow<'_, str>> {
        self.token_bytes(id).map(String::from_utf8_lossy)
    }

    /// The text of `ids`, with U+FFFD for what is not valid UTF-8. For text as it comes, see [`Decoder`].
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if there is no such token.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::new();
        for id in ids {
            bytes.extend_from_slice(self.token_bytes(*id)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether token `id` ends a generation: the file's ends of text, turn and message, and tokens that are known to
    /// by their text, such as `<|im_end|>`.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// Whether token `id` steers the model and is no part of its text.
    pub fn is_control(&self, id: u32) -> bool {
        self.control.binary_search(&id).is_ok()
    }

    /// First token of a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Last token of a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Stands for what the vocabulary can not write.
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// Padding.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }
}

fn refused(what: String) -> Error {
    Error::Tokenizer(what)
}

fn kinds(vocab: &Vocab<'_>) -> Result<Vec<Kind>> {
    let (tokens, types) = (vocab.tokens.len(), vocab.token_types.len());
    match types {
        0 => Ok(vec![Kind::Normal; tokens]),
        _ if types == tokens => Ok(vocab.token_types.iter().map(|id| Kind::from_id(*id)).collect()),
        _ => Err(refused(format!("{types} token types for {tokens} tokens"))),
    }
}

/// Ids by text. Empty texts name no token: nothing could ever be written with them.
fn ids<'a>(tokens: &[&'a str]) -> Result<HashMap<&'a str, u32>> {
    if tokens.is_empty() || tokens.len() > i32::MAX as usize {
        return Err(refused(format!("{} tokens", tokens.len())));
    }
    let mut ids = HashMap::with_capacity(tokens.len());
    for (token, id) in tokens.iter().zip(0u32..) {
        if let Some(first) = (!token.is_empty()).then(|| ids.insert(*token, id)).flatten() {
            return Err(refused(format!("tokens {first} and {id} are both {token:?}")));
        }
    }
    Ok(ids)
}

fn check_named(vocab: &Vocab<'_>) -> Result<()> {
    let named = [
        ("bos", vocab.bos),
        ("eos", vocab.eos),
        ("eot", vocab.eot),
        ("eom", vocab.eom),
        ("unk", vocab.unk),
        ("pad", vocab.pad),
    ];
    for (name, id) in named {
        if let Some(id) = id.filter(|id| *id as usize >= vocab.tokens.len()) {
            return Err(refused(format!("{name} token {id} is out of range: there are {}", vocab.tokens.len())));
        }
    }
    for (name, add, id) in [("bos", vocab.add_bos, vocab.bos), ("eos", vocab.add_eos, vocab.eos)] {
        if add && id.is_none() {
            return Err(refused(format!("texts are to have a {name} token, and none is named")));
        }
    }
    Ok(())
}

fn token_bytes(tokens: &[&str], kinds: &[Kind]) -> Result<(Vec<u8>, Vec<u32>)> {
    let mut bytes = Vec::with_capacity(tokens.iter().map(|t| t.len()).sum());
    let mut starts = Vec::with_capacity(tokens.len() + 1);
    starts.push(0);
    for (token, kind) in tokens.iter().zip(kinds) {
        match kind {
            Kind::Normal => ALPHABET.decode_into(token, &mut bytes),
            Kind::Control | Kind::UserDefined | Kind::Unknown => bytes.extend_from_slice(token.as_bytes()),
            Kind::Byte => bytes.push(hex_byte(token)?),
            Kind::Unused => {}
        }
        starts.push(u32::try_from(bytes.len()).map_err(|_| refused("4 GiB of token texts".into()))?);
    }
    Ok((bytes, starts))
}

/// The byte of a byte token, `<0x0A>`.
fn hex_byte(token: &str) -> Result<u8> {
    let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|t| t.len() == 2);
    digits
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .ok_or_else(|| refused(format!("the byte token {token:?} is not of the form <0x0A>")))
}

fn specials(tokens: &[&str], kinds: &[Kind]) -> Result<Vec<Special>> {
    let mut specials = Vec::new();
    for ((token, kind), id) in tokens.iter().zip(kinds).zip(0..) {
        if let Some(always) = kind.cut().filter(|_| !token.is_empty()) {
            specials.push(Special { id, text: (*token).into(), always });
        }
    }
    if specials.len() > SPECIALS_MAX {
        return Err(refused(format!("{} special tokens; {SPECIALS_MAX} are supported", specials.len())));
    }
    specials.sort_by_key(|s| std::cmp::Reverse(s.text.len()));
    Ok(specials)
}

#[cfg(test)]
mod tests;
