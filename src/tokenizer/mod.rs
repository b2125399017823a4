//! Text to tokens and back with the vocabulary of a GGUF file, token for token as llama.cpp: byte-level BPE, BPE of
//! characters as Gemma 4 has it, and SentencePiece.

mod bpe;
mod bytes;
mod class;
mod decode;
mod rules;
mod sets;
mod special;
mod split;
mod spm;
mod vocab;
mod words;

pub use bytes::byte_letter;
pub use decode::Decoder;
pub use vocab::Vocab;

use crate::error::{Error, Result};
use bpe::{Bpe, Scratch};
use rules::Rule;
use special::{Part, Special};
use spm::Spm;
use std::borrow::Cow;
use vocab::{Spelling, refused};

/// Longest text that is encoded, in bytes; positions in it are 32-bit, also with three bytes for each space.
const TEXT_BYTES_MAX: usize = 1 << 30;

/// Turns text into token ids and ids into bytes.
pub struct Tokenizer {
    encoder: Encoder,
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

/// How text between special tokens becomes tokens.
enum Encoder {
    Bpe {
        bpe: Bpe,
        rule: &'static Rule,
    },
    Spm {
        spm: Spm,
        /// A space is put before a text, and before what follows a special token.
        prefix: bool,
    },
}

impl Tokenizer {
    /// Builds the tokenizer of `vocab`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the kind of vocabulary or pre-tokenizer is not supported, two tokens have the same
    /// text, a list has the wrong length, a merge is no pair, a score is NaN, or a named token does not exist.
    pub fn new(vocab: &Vocab<'_>) -> Result<Self> {
        let vocab = &Vocab { pre: pre(vocab)?, ..vocab.clone() };
        let mut kinds = vocab::kinds(vocab)?;
        let ids = vocab::ids(vocab.tokens)?;
        let mut ends = special::correct(&ids, &mut kinds);
        ends.extend([vocab.eos, vocab.eot, vocab.eom].into_iter().chain(vocab.file_ends).flatten());
        ends.sort_unstable();
        ends.dedup();
        vocab::check_named(vocab)?;
        let control = (0..).zip(&kinds).filter(|(_, kind)| kind.cut() == Some(false)).map(|(id, _)| id).collect();
        let (encoder, spelling, add_bos) = match vocab.model {
            "llama" => {
                let spm = Spm::new(&ids, vocab.tokens.len(), vocab.scores, vocab.unk)?;
                (Encoder::Spm { spm, prefix: vocab.add_space_prefix.unwrap_or(true) }, Spelling::Text, true)
            }
            _ => {
                let rule = Rule::named(vocab.pre)?;
                let bpe = Bpe::new(&ids, vocab.tokens.len(), vocab.merges, rule)?;
                let spelling = if rule.plain { Spelling::Text } else { Spelling::Bytes };
                (Encoder::Bpe { bpe, rule }, spelling, rule.add_bos)
            }
        };
        let (bytes, starts) = vocab::token_bytes(vocab.tokens, &kinds, spelling)?;
        Ok(Self {
            encoder,
            bytes,
            starts,
            specials: vocab::specials(vocab, &kinds)?,
            control,
            ends,
            bos: vocab.bos,
            eos: vocab.eos,
            unk: vocab.unk,
            pad: vocab.pad,
            add_bos: vocab.add_bos.unwrap_or(add_bos),
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
        if add_special {
            out.extend(self.added().0);
        }
        let mut after_special = true;
        for part in special::cut(text, &self.specials, parse_special) {
            after_special = match part {
                Part::Token(id) => {
                    out.push(id);
                    true
                }
                Part::Text(range) => {
                    self.encode_text(&text[range], after_special, &mut scratch, &mut out);
                    false
                }
            };
        }
        if add_special {
            out.extend(self.added().1);
        }
        Ok(out)
    }

    /// Appends the tokens of a text without special tokens.
    fn encode_text(&self, text: &str, after_special: bool, scratch: &mut Scratch, out: &mut Vec<u32>) {
        match &self.encoder {
            Encoder::Bpe { bpe, rule } => {
                let text = if rule.plain { Cow::Owned(text.replace(' ', spm::SPACE)) } else { Cow::Borrowed(text) };
                split::split(rule.passes, &text, &mut |word| bpe.encode_word(word, scratch, out));
            }
            Encoder::Spm { spm, prefix } => {
                let prefix = if *prefix && after_special { spm::SPACE } else { "" };
                spm.encode(&[prefix, &text.replace(' ', spm::SPACE)].concat(), out);
            }
        }
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

    /// The text of `ids`, with U+FFFD for what is not valid UTF-8: what [`Self::encode`] has made comes back, but for
    /// bytes that it has left out. For text as it comes, see [`Self::decoder`].
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if there is no such token.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::new();
        for id in ids {
            bytes.extend_from_slice(self.token_bytes(*id)?);
        }
        let added = ids.first().is_some_and(|_| self.adds_space()) && bytes.starts_with(b" ");
        Ok(String::from_utf8_lossy(&bytes[usize::from(added)..]).into_owned())
    }

    /// A decoder of a text from its start: it drops the space that [`Self::encode`] puts there. What continues a text,
    /// as an answer does, is decoded by [`Decoder::new`].
    pub fn decoder(&self) -> Decoder {
        if self.adds_space() { Decoder::dropping_space() } else { Decoder::new() }
    }

    fn adds_space(&self) -> bool {
        matches!(self.encoder, Encoder::Spm { prefix: true, .. })
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

    /// The tokens that [`Tokenizer::encode`] puts before and after a text where it is asked to add them.
    pub fn added(&self) -> (Option<u32>, Option<u32>) {
        (self.bos.filter(|_| self.add_bos), self.eos.filter(|_| self.add_eos))
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

/// The pre-tokenizer of a vocabulary whose kind is supported.
fn pre<'a>(vocab: &Vocab<'a>) -> Result<&'a str> {
    let full = match vocab.model {
        "gpt2" if vocab.pre.is_empty() => return Ok("default"),
        "gpt2" | "llama" => return Ok(vocab.pre),
        "gemma4" => return Ok("gemma4"),
        "bert" => " (WordPiece)",
        "t5" => " (Unigram)",
        "plamo2" => " (PLaMo 2)",
        _ => "",
    };
    Err(refused(format!("vocabularies of kind {:?}{full} are not supported", vocab.model)))
}

#[cfg(test)]
mod tests;
