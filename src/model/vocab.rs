//! The tokenizer of a model file.

use crate::error::Result;
use crate::gguf::{Array, Gguf, Value};
use crate::tokenizer::{Tokenizer, Vocab};
use std::borrow::Cow;

const PREFIX: &str = "tokenizer.ggml";

fn key(name: &str) -> String {
    format!("{PREFIX}.{name}")
}

/// Builds the tokenizer that the keys `tokenizer.ggml.*` describe. The file need not hold a model.
///
/// # Errors
/// `Malformed` for missing keys, `Tokenizer` for a vocabulary this engine does not read.
pub fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    let id = |name: &str| gguf.u32(&key(&format!("{name}_token_id")));
    let model = gguf.require(&key("model"), Gguf::str)?;
    let pre = gguf.str(&key("pre"))?.unwrap_or_default();
    let tokens: Vec<&str> = gguf.require(&key("tokens"), Gguf::strings)?.iter().collect();
    let merges = match gguf.strings(&key("merges"))? {
        Some(merges) => merges.iter().collect(),
        None if matches!(model, "gpt2" | "gemma4") && pre != "kimi-k2" => {
            gguf.require(&key("merges"), Gguf::strings)?.iter().collect()
        }
        None => Vec::new(),
    };
    // SentencePiece files may leave these three out.
    let usual = |id: u32| Some(id).filter(|id| model == "llama" && (*id as usize) < tokens.len());
    Tokenizer::new(&Vocab {
        model,
        pre,
        name: gguf.str("general.name")?.unwrap_or_default(),
        tokens: &tokens,
        token_types: &gguf.i32s(&key("token_type"))?.unwrap_or_default(),
        merges: &merges,
        scores: &scores(gguf)?,
        bos: id("bos")?.or(usual(1)),
        eos: id("eos")?.or(usual(2)),
        eot: id("eot")?,
        eom: id("eom")?,
        unk: id("unknown")?.or(usual(0)),
        pad: id("padding")?,
        file_ends: [id("fim_pad")?, id("fim_rep")?, id("fim_sep")?],
        add_bos: gguf.bool(&key("add_bos_token"))?,
        add_eos: gguf.bool(&key("add_eos_token"))?.unwrap_or(false),
        add_space_prefix: gguf.bool(&key("add_space_prefix"))?,
    })
}

/// The scores of the tokens, which a file may also give as integers.
fn scores(gguf: &Gguf) -> Result<Cow<'_, [f32]>> {
    let key = key("scores");
    if let Some(Value::Array(Array::I32(scores))) = gguf.get(&key) {
        return Ok(scores.iter().map(|score| *score as f32).collect());
    }
    Ok(gguf.f32s(&key)?.unwrap_or_default())
}
