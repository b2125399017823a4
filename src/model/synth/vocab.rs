//! A byte-level vocabulary of any size, made by rule.
//!
//! After the special tokens and the 256 bytes come strings of two, three and four letters, in the order in which
//! English uses letters; each is a merge of two tokens before it. So any text can be written, English takes about a
//! token for two to three letters, and no two tokens are alike.

use crate::error::{Error, Result};
use crate::gguf::Strings;
use crate::gguf::write::Writer;
use crate::tokenizer::byte_letter;

/// The special tokens, of ChatML.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const UNKNOWN: u32 = 0;
const START: u32 = 1;
const END: u32 = 2;

/// Letters, the most frequent first; 26.
const LETTERS: &str = "etaoinshrdlucmfwypvbgkjqxz";
/// The byte alphabet's letter for a space, which only starts a token.
const SPACE: &str = "Ġ";

const CHATML: &str = concat!(
    "{% for message in messages %}",
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}",
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
);

/// Token types of GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Sets the keys `tokenizer.*` of a vocabulary of `size` tokens.
///
/// # Errors
/// [`Error::Argument`] where the rule makes fewer tokens, and for fewer than the bytes.
pub(super) fn set(writer: &mut Writer<'_>, size: usize) -> Result<()> {
    let fixed = SPECIAL.len() + 256;
    let pairs =
        size.checked_sub(fixed).map(|count| (count, merges(count))).filter(|(count, pairs)| pairs.len() == *count);
    let Some((_, pairs)) = pairs else {
        let most = fixed + merges(usize::MAX).len();
        return Err(Error::argument("vocabulary", format!("{size} tokens; {fixed} to {most} are possible")));
    };
    let special = SPECIAL.iter().map(|token| (*token).to_owned());
    let bytes = (0..=255).map(|byte| byte_letter(byte).to_string());
    let tokens: Vec<String> = special.chain(bytes).chain(pairs.iter().map(|(a, b)| format!("{a}{b}"))).collect();
    let types: Vec<i32> = (0..size).map(|i| if i < SPECIAL.len() { CONTROL } else { NORMAL }).collect();
    writer.set("tokenizer.ggml.model", "gpt2")?;
    writer.set("tokenizer.ggml.pre", "smollm")?;
    writer.set("tokenizer.ggml.tokens", tokens.iter().collect::<Strings>())?;
    writer.set("tokenizer.ggml.token_type", types)?;
    writer.set("tokenizer.ggml.merges", pairs.iter().map(|(a, b)| format!("{a} {b}")).collect::<Strings>())?;
    writer.set("tokenizer.ggml.bos_token_id", START)?;
    writer.set("tokenizer.ggml.eos_token_id", END)?;
    writer.set("tokenizer.ggml.unknown_token_id", UNKNOWN)?;
    writer.set("tokenizer.ggml.padding_token_id", END)?;
    writer.set("tokenizer.ggml.add_bos_token", false)?;
    writer.set("tokenizer.chat_template", CHATML)
}

/// The first `count` pairs in the order in which they merge: two letters, then a third after two, then two after two.
fn merges(count: usize) -> Vec<(String, String)> {
    let letters = || LETTERS.split("").filter(|letter| !letter.is_empty());
    let firsts = [SPACE].into_iter().chain(letters());
    let twos: Vec<(&str, &str)> = firsts.flat_map(|a| letters().map(move |b| (a, b))).collect();
    let joined: Vec<String> = twos.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let thirds = joined.iter().flat_map(|two| letters().map(move |c| (&**two, c)));
    let inner = || joined[LETTERS.len()..].iter();
    let fourths = joined.iter().flat_map(|two| inner().map(move |next| (&**two, &**next)));
    let all = twos.iter().copied().chain(thirds).chain(fourths);
    all.take(count).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn merges_join_earlier_strings_and_no_two_make_the_same() {
        let pairs = merges(usize::MAX);
        let mut known: HashSet<String> = (0..=255).map(|byte| byte_letter(byte).to_string()).collect();
        for (a, b) in &pairs {
            assert!(known.contains(a) && known.contains(b) && known.insert(format!("{a}{b}")), "{a} {b}");
        }
        assert_eq!(pairs[..2], [(SPACE.to_owned(), "e".to_owned()), (SPACE.to_owned(), "t".to_owned())]);
    }

    #[test]
    fn sizes_that_the_rule_cannot_make_are_refused() {
        for size in [0, 258, 1_000_000] {
            let error = set(&mut Writer::new(), size).unwrap_err().to_string();
            assert!(error.starts_with(&format!("vocabulary: {size} tokens; 259 to 493765 are possible")), "{error}");
        }
    }
}
