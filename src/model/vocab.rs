//! The tokenizer of a model file.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::tokenizer::{Tokenizer, Vocab};

const PREFIX: &str = "tokenizer.ggml";

/// Builds the tokenizer from the keys `tokenizer.ggml.*`.
///
/// # Errors
/// [`Error::Malformed`] for missing keys, [`Error::Tokenizer`] for a vocabulary this engine does not read or
/// whose size is not the model's.
pub(super) fn tokenizer(gguf: &Gguf, vocab_size: usize) -> Result<Tokenizer> {
    let key = |name: &str| format!("{PREFIX}.{name}");
    let id = |name: &str| gguf.u32(&key(&format!("{name}_token_id")));
    let flag = |name: &str| Ok::<_, Error>(gguf.bool(&key(name))?.unwrap_or(false));
    let tokens: Vec<&str> = gguf.require(&key("tokens"), Gguf::strings)?.iter().collect();
    if tokens.len() != vocab_size {
        let what = format!("{PREFIX}.tokens: {} tokens for {vocab_size} embeddings", tokens.len());
        return Err(Error::malformed(gguf.path(), what));
    }
    let merges: Vec<&str> = gguf.strings(&key("merges"))?.map_or_else(Vec::new, |m| m.iter().collect());
    let token_types = gguf.i32s(&key("token_type"))?.unwrap_or_default();
    Tokenizer::new(&Vocab {
        model: gguf.require(&key("model"), Gguf::str)?,
        pre: gguf.str(&key("pre"))?.unwrap_or("default"),
        tokens: &tokens,
        token_types: &token_types,
        merges: &merges,
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        eom: id("eom")?,
        unk: id("unknown")?,
        pad: id("padding")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
    })
}
