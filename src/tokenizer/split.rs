//! Cutting text into words before BPE, as the vocabulary was trained: merges never cross a word.

use crate::error::{Error, Result};
use regex_syntax::hir::{Class as HirClass, HirKind};
use std::sync::OnceLock;

/// How a vocabulary's text was cut (`tokenizer.ggml.pre`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Splitter {
    /// GPT-2's expression: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2,
    /// Each `\p{N}` on its own, then GPT-2's expression on what lies between.
    Digits,
}

impl Splitter {
    /// The splitter that `pre` names.
    pub(super) fn named(pre: &str) -> Result<Self> {
        match pre {
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => Ok(Self::Digits),
            "gpt-2" => Ok(Self::Gpt2),
            _ => Err(Error::Tokenizer(format!("the pre-tokenizer {pre:?} is not supported"))),
        }
    }

    /// Calls `word` for each word of `text`, in order; together they are the whole text.
    pub(super) fn split<'t>(self, text: &'t str, mut word: impl FnMut(&'t str)) {
        let classes = Classes::get();
        match self {
            Self::Gpt2 => gpt2(classes, text, &mut word),
            Self::Digits => {
                let mut from = 0;
                for (at, c) in text.char_indices() {
                    if classes.of(c) == Class::Number {
                        gpt2(classes, &text[from..at], &mut word);
                        from = at + c.len_utf8();
                        word(&text[at..from]);
                    }
                }
                gpt2(classes, &text[from..], &mut word);
            }
        }
    }
}

fn gpt2<'t>(classes: &Classes, text: &'t str, word: &mut impl FnMut(&'t str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(gpt2_word(classes, rest));
        word(head);
        rest = tail;
    }
}

/// The length in bytes of the first word of `rest`, which is not empty.
fn gpt2_word(classes: &Classes, rest: &str) -> usize {
    for suffix in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        if rest.starts_with(suffix) {
            return suffix.len();
        }
    }
    let body = rest.strip_prefix(' ').unwrap_or(rest);
    if let Some(class) = body.chars().next().map(|c| classes.of(c))
        && class != Class::Space
    {
        return rest.len() - body.len() + run(classes, body, class);
    }
    // A run of white space leaves its last character to the word that follows, if one does.
    let spaces = run(classes, rest, Class::Space);
    let last = rest[..spaces].chars().next_back().map_or(0, char::len_utf8);
    if spaces < rest.len() && last < spaces { spaces - last } else { spaces }
}

/// The length in bytes of the longest start of `text` whose characters are all of `class`.
fn run(classes: &Classes, text: &str, class: Class) -> usize {
    text.char_indices().find(|&(_, c)| classes.of(c) != class).map_or(text.len(), |(at, _)| at)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

/// Which characters are letters and numbers, as sorted, inclusive ranges.
struct Classes {
    letters: Vec<(char, char)>,
    numbers: Vec<(char, char)>,
    ascii: [Class; 128],
}

impl Classes {
    /// Unicode 15.1, the version of llama.cpp's tables: token ids must not depend on the compiler's.
    fn get() -> &'static Self {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(|| {
            let mut classes = Self {
                letters: ranges(r"[\p{L}&&\p{age=15.1}]"),
                numbers: ranges(r"[\p{N}&&\p{age=15.1}]"),
                ascii: [Class::Other; 128],
            };
            for byte in 0..128u8 {
                classes.ascii[byte as usize] = classes.look_up(char::from(byte));
            }
            classes
        })
    }

    fn of(&self, c: char) -> Class {
        match self.ascii.get(c as usize) {
            Some(class) => *class,
            None => self.look_up(c),
        }
    }

    fn look_up(&self, c: char) -> Class {
        if holds(&self.letters, c) {
            Class::Letter
        } else if holds(&self.numbers, c) {
            Class::Number
        } else if c.is_whitespace() {
            Class::Space
        } else {
            Class::Other
        }
    }
}

fn holds(ranges: &[(char, char)], c: char) -> bool {
    let at = ranges.partition_point(|&(_, last)| last < c);
    ranges.get(at).is_some_and(|&(first, _)| first <= c)
}

fn ranges(class: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(class).expect("a constant expression");
    match hir.kind() {
        HirKind::Class(HirClass::Unicode(class)) => class.iter().map(|r| (r.start(), r.end())).collect(),
        kind => unreachable!("a constant class of many characters, not {kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(splitter: Splitter, text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        splitter.split(text, |w| words.push(w));
        assert_eq!(words.concat(), text, "no byte may be lost");
        assert!(words.iter().all(|w| !w.is_empty()));
        words
    }

    #[test]
    fn gpt2_words() {
        let gpt2 = |text| words(Splitter::Gpt2, text);
        assert_eq!(gpt2("Hello world"), ["Hello", " world"]);
        assert_eq!(gpt2("it's they'll 'tis"), ["it", "'s", " they", "'ll", " '", "tis"]);
        assert_eq!(gpt2("a  b"), ["a", " ", " b"]);
        assert_eq!(gpt2("a \n b"), ["a", " \n", " b"]);
        assert_eq!(gpt2("a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(gpt2("a   "), ["a", "   "]);
        assert_eq!(gpt2("x=12345;"), ["x", "=", "12345", ";"]);
        assert_eq!(gpt2("日本 ٣٤!?"), ["日本", " ٣٤", "!?"]);
        assert_eq!(gpt2("e\u{301}a"), ["e", "\u{301}", "a"]);
        assert_eq!(gpt2("'S 'x"), ["'", "S", " '", "x"]);
        assert_eq!(gpt2(""), [""; 0]);
        assert_eq!(gpt2(" "), [" "]);
    }

    #[test]
    fn digits_stand_alone() {
        let digits = |text| words(Splitter::Digits, text);
        assert_eq!(digits("in 2024"), ["in", " ", "2", "0", "2", "4"]);
        assert_eq!(digits("a  1 b"), ["a", "  ", "1", " b"]);
        assert_eq!(digits("٣½Ⅷ²"), ["٣", "½", "Ⅷ", "²"]);
    }

    #[test]
    fn unicode_is_that_of_version_15_1() {
        let classes = Classes::get();
        // U+2EBF0 came with 15.1; U+10D4A (Garay) and U+1E5F1 (an Ol Onal digit) with 16.0.
        assert_eq!(classes.of('\u{2EBF0}'), Class::Letter);
        assert_eq!(classes.of('\u{10D4A}'), Class::Other);
        assert_eq!(classes.of('\u{1E5F1}'), Class::Other);
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = Splitter::named("martian").unwrap_err().to_string();
        assert!(error.contains("martian"), "{error}");
    }
}
