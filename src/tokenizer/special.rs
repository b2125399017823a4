//! Special tokens: which they are, where they stand in a text, and which end a generation.
//!
//! GGUF files often forget to mark the tokens that end a turn, so llama.cpp knows them by their text; the lists
//! below are its conventions.

use std::collections::HashMap;
use std::ops::Range;

/// Tokens that end a generation in any vocabulary that has them.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Tokens of fill-in-the-middle training that end a generation: padding, and the start of another file or repository.
const FILE_ENDS: [&str; 11] = [
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Tokens of fill-in-the-middle prompts: control tokens, whatever the file says.
const FILLS: [&str; 24] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// Harmony's structure: part of the text that a parser reads, so never hidden.
const STRUCTURE: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// What a token is (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// The kind of type id `id`; ids of no meaning are taken as unused, as llama.cpp does.
    pub(super) fn from_id(id: i32) -> Self {
        match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }

    /// Whether the token is cut out of a text whole: `Some(true)` always, `Some(false)` when special tokens are
    /// to be parsed.
    pub(super) fn cut(self) -> Option<bool> {
        match self {
            Self::UserDefined => Some(true),
            Self::Control | Self::Unknown => Some(false),
            Self::Normal | Self::Unused | Self::Byte => None,
        }
    }
}

/// Corrects `kinds` (by id) for tokens whose text is known better than the file says, and returns the ids of those
/// that end a generation.
pub(super) fn correct(ids: &HashMap<&str, u32>, kinds: &mut [Kind]) -> Vec<u32> {
    let mut set = |texts: &[&str], kind: Kind| -> Vec<u32> {
        let found: Vec<u32> = texts.iter().filter_map(|text| ids.get(text).copied()).collect();
        found.iter().for_each(|id| kinds[*id as usize] = kind);
        found
    };
    set(&FILLS, Kind::Control);
    let mut ends = set(&ENDS, Kind::Control);
    ends.extend(set(&FILE_ENDS, Kind::Control));
    set(&STRUCTURE, Kind::UserDefined);
    let has = |text| ids.contains_key(text);
    let calls = has("<|call|>") || has("<|calls|>");
    // Formats in which one turn has several messages: there `<|end|>` ends a message only.
    if calls && (has("<|flush|>") || (has("<|call|>") && has("<|return|>"))) {
        let removed = set(&["<|end|>"], Kind::UserDefined);
        ends.retain(|id| !removed.contains(id));
    }
    if has("<|tool_response>") {
        let removed = set(&["</s>"], Kind::Normal);
        ends.retain(|id| !removed.contains(id));
    }
    ends
}

/// White space that a special token takes with it, which is then in no token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Strip {
    before: bool,
    after: bool,
}

impl Strip {
    /// What a special token takes in the vocabularies of which llama.cpp knows that they do: files do not say it.
    pub(super) fn of(token: &str, pre: &str, name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let has = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if has(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"]) {
            Self { before: token == "<mask>", after: false }
        } else if has(&name, &["phi-3", "phi3"]) {
            Self { before: false, after: !matches!(token, "<unk>" | "<s>" | "<|endoftext|>") }
        } else {
            Self { before: token == "[MASK]" && has(&name, &["modern-bert"]), after: false }
        }
    }
}

/// A special token as `cut` looks for it.
pub(super) struct Special {
    pub(super) id: u32,
    pub(super) text: Box<str>,
    /// Cut out even when special tokens are not to be parsed.
    pub(super) always: bool,
    pub(super) strip: Strip,
}

/// A stretch of text, which is not empty, or a token cut out of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(Range<usize>),
    Token(u32),
}

/// Which pairs of bytes stand in a text side by side.
struct Pairs(Vec<u64>);

impl Pairs {
    fn of(text: &str) -> Self {
        let mut pairs = vec![0; 1024];
        for pair in text.as_bytes().windows(2) {
            pairs[pair[0] as usize * 4 + pair[1] as usize / 64] |= 1 << (pair[1] % 64);
        }
        Self(pairs)
    }

    /// Whether the text can hold `part`.
    fn may_hold(&self, part: &str) -> bool {
        match part.as_bytes() {
            [a, b, ..] => self.0[*a as usize * 4 + *b as usize / 64] & 1 << (b % 64) != 0,
            _ => true,
        }
    }
}

/// Cuts `text` at its special tokens. `specials` come longest first, and each takes all its places, from left to
/// right, before the next is looked for.
pub(super) fn cut(text: &str, specials: &[Special], parse: bool) -> Vec<Part> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut parts = vec![Part::Text(0..text.len())];
    let pairs = Pairs::of(text);
    for special in specials.iter().filter(|s| (parse || s.always) && pairs.may_hold(&s.text)) {
        // Most texts hold few of the tokens: one search over the whole saves walking the parts.
        if text.contains(&*special.text) {
            parts = parts.into_iter().flat_map(|part| cut_part(text, part, special)).collect();
        }
    }
    parts
}

fn cut_part(text: &str, part: Part, special: &Special) -> Vec<Part> {
    let Part::Text(mut range) = part else { return vec![part] };
    let mut parts = Vec::new();
    while let Some(at) = text[range.clone()].find(&*special.text) {
        let before = &text[range.start..range.start + at];
        let kept = if special.strip.before { before.trim_end_matches(is_c_space).len() } else { at };
        if kept > 0 {
            parts.push(Part::Text(range.start..range.start + kept));
        }
        parts.push(Part::Token(special.id));
        range.start += at + special.text.len();
        if special.strip.after {
            range.start = range.end - text[range.clone()].trim_start_matches(is_c_space).len();
        }
    }
    if !range.is_empty() {
        parts.push(Part::Text(range));
    }
    parts
}

/// White space as C's `isspace` has it.
fn is_c_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn special(id: u32, text: &str, always: bool) -> Special {
        Special { id, text: text.into(), always, strip: Strip::default() }
    }

    #[test]
    fn the_longest_token_takes_its_places_first() {
        let specials = [special(7, "bcde", false), special(8, "abc", false)];
        assert_eq!(cut("abcde", &specials, true), [Part::Text(0..1), Part::Token(7)]);
        assert_eq!(cut("abcabc", &specials, true), [Part::Token(8), Part::Token(8)]);
    }

    #[test]
    fn control_tokens_are_text_unless_parsed() {
        let specials = [special(7, "<s>", false), special(8, "TAB", true)];
        assert_eq!(cut("<s>TAB", &specials, false), [Part::Text(0..3), Part::Token(8)]);
        assert_eq!(cut("", &specials, true), []);
    }

    fn ends(texts: &[&str]) -> (Vec<u32>, Vec<Kind>) {
        let ids = texts.iter().zip(0..).map(|(text, id)| (*text, id)).collect();
        let mut kinds = vec![Kind::Normal; texts.len()];
        let ends = correct(&ids, &mut kinds);
        (ends, kinds)
    }

    #[test]
    fn well_known_ends_become_control_tokens() {
        let (ends, kinds) = ends(&["a", "<|im_end|>", "<reponame>", "<|channel|>", "<fim_prefix>"]);
        assert_eq!(ends, [1, 2]);
        assert_eq!(kinds, [Kind::Normal, Kind::Control, Kind::Control, Kind::UserDefined, Kind::Control]);
    }

    #[test]
    fn end_of_a_message_is_not_the_end_of_a_turn() {
        assert_eq!(ends(&["<|end|>", "<|return|>"]).0, [0, 1]);
        assert_eq!(ends(&["<|end|>", "<|return|>", "<|call|>"]).0, [1, 2]);
        assert_eq!(ends(&["<|end|>", "<|flush|>", "<|calls|>"]).0, [1, 2]);
        assert_eq!(ends(&["</s>", "<|tool_response>"]).0, [1]);
    }
}
