//! A vocabulary as a file describes it, and what is checked of it.

use super::bytes::{ALPHABET, hex_byte};
use super::special::{Kind, Special, Strip};
use super::spm::SPACE;
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Most tokens that may be special; each costs a search over every text encoded.
pub(super) const SPECIALS_MAX: usize = 1 << 15;

/// A vocabulary as a model file describes it (`tokenizer.ggml.*`).
#[derive(Clone, Debug, Default)]
pub struct Vocab<'a> {
    /// `model`: the kind of vocabulary. `gpt2` is byte-level BPE, `gemma4` BPE of characters, `llama` SentencePiece.
    pub model: &'a str,
    /// `pre`: how text is cut into words before BPE. Empty: `default`.
    pub pre: &'a str,
    /// `general.name`: llama.cpp knows by it in which models a special token takes the white space beside it.
    pub name: &'a str,
    /// Text of each token; a token's id is its index.
    pub tokens: &'a [&'a str],
    /// Type of each token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Empty: all normal.
    pub token_types: &'a [i32],
    /// BPE merges `left right`, best first.
    pub merges: &'a [&'a str],
    /// SentencePiece's score of each token; the best merges first. Empty: all alike.
    pub scores: &'a [f32],
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
    /// Padding, start of a repository and start of a file in code models: they end a generation.
    pub file_ends: [Option<u32>; 3],
    /// A text starts with `bos`; `None`: as is usual for the kind of vocabulary.
    pub add_bos: Option<bool>,
    /// A text ends with `eos`.
    pub add_eos: bool,
    /// SentencePiece: a text starts with a space, and so does what follows a special token; `None`: yes.
    pub add_space_prefix: Option<bool>,
}

pub(super) fn refused(what: String) -> Error {
    Error::Tokenizer(what)
}

pub(super) fn kinds(vocab: &Vocab<'_>) -> Result<Vec<Kind>> {
    let (tokens, types) = (vocab.tokens.len(), vocab.token_types.len());
    match types {
        0 => Ok(vec![Kind::Normal; tokens]),
        _ if types == tokens => Ok(vocab.token_types.iter().map(|id| Kind::from_id(*id)).collect()),
        _ => Err(refused(format!("{types} token types for {tokens} tokens"))),
    }
}

/// Ids by text. Empty texts name no token: nothing could ever be written with them.
pub(super) fn ids<'a>(tokens: &[&'a str]) -> Result<HashMap<&'a str, u32>> {
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

pub(super) fn check_named(vocab: &Vocab<'_>) -> Result<()> {
    let named = [
        ("bos", vocab.bos),
        ("eos", vocab.eos),
        ("eot", vocab.eot),
        ("eom", vocab.eom),
        ("unk", vocab.unk),
        ("pad", vocab.pad),
        ("fim_pad", vocab.file_ends[0]),
        ("fim_rep", vocab.file_ends[1]),
        ("fim_sep", vocab.file_ends[2]),
    ];
    for (name, id) in named {
        if let Some(id) = id.filter(|id| *id as usize >= vocab.tokens.len()) {
            return Err(refused(format!("{name} token {id} is out of range: there are {}", vocab.tokens.len())));
        }
    }
    for (name, add, id) in [("bos", vocab.add_bos == Some(true), vocab.bos), ("eos", vocab.add_eos, vocab.eos)] {
        if add && id.is_none() {
            return Err(refused(format!("texts are to have a {name} token, and none is named")));
        }
    }
    Ok(())
}

/// How normal tokens are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// In the byte alphabet.
    Bytes,
    /// As text, with `▁` for a space.
    Text,
}

/// The bytes of all tokens, one after the other, and where each starts; last, where the last one ends.
pub(super) fn token_bytes(tokens: &[&str], kinds: &[Kind], spelling: Spelling) -> Result<(Vec<u8>, Vec<u32>)> {
    let mut bytes = Vec::with_capacity(tokens.iter().map(|t| t.len()).sum());
    let mut starts = Vec::with_capacity(tokens.len() + 1);
    starts.push(0);
    for (token, kind) in tokens.iter().zip(kinds) {
        match kind {
            Kind::Normal if spelling == Spelling::Bytes => ALPHABET.decode_into(token, &mut bytes),
            Kind::Normal => bytes.extend_from_slice(token.replace(SPACE, " ").as_bytes()),
            Kind::Control | Kind::UserDefined | Kind::Unknown => bytes.extend_from_slice(token.as_bytes()),
            Kind::Byte => bytes.push(
                hex_byte(token)
                    .ok_or_else(|| refused(format!("the byte token {token:?} is not of the form <0x0A>")))?,
            ),
            Kind::Unused => {}
        }
        starts.push(u32::try_from(bytes.len()).map_err(|_| refused("4 GiB of token texts".into()))?);
    }
    Ok((bytes, starts))
}

/// The special tokens, longest first.
pub(super) fn specials(vocab: &Vocab<'_>, kinds: &[Kind]) -> Result<Vec<Special>> {
    let mut specials = Vec::new();
    for ((token, kind), id) in vocab.tokens.iter().zip(kinds).zip(0..) {
        if let Some(always) = kind.cut().filter(|_| !token.is_empty()) {
            let strip = Strip::of(token, vocab.pre, vocab.name);
            specials.push(Special { id, text: (*token).into(), always, strip });
        }
    }
    if specials.len() > SPECIALS_MAX {
        return Err(refused(format!("{} special tokens; {SPECIALS_MAX} are supported", specials.len())));
    }
    specials.sort_by_key(|s| std::cmp::Reverse(s.text.len()));
    Ok(specials)
}
