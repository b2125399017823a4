//! What kind of character a character is, as pre-tokenizers ask.

use regex_syntax::hir::{Class as HirClass, HirKind};
use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// Unicode's general categories as far as pre-tokenizers tell them apart. White space is none of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Controls, format characters, private use, unassigned.
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\p{M}`
    Mark,
    /// `\p{P}`
    Punctuation,
    /// `\p{S}`
    Symbol,
    /// `\s`
    Space,
}

/// The class of every character, by blocks of 256, of which most are alike.
pub(super) struct Classes {
    /// By the character's number / 256: which of `blocks`.
    index: Vec<u8>,
    blocks: Vec<[Class; BLOCK]>,
}

const BLOCK: usize = 256;

impl Classes {
    /// Unicode 15.1, the version of llama.cpp's tables: token ids must not depend on the compiler's.
    pub(super) fn get() -> &'static Self {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(|| {
            let mut all = vec![Class::Other; char::MAX as usize + 1];
            for (name, class) in [
                ("L", Class::Letter),
                ("N", Class::Number),
                ("M", Class::Mark),
                ("P", Class::Punctuation),
                ("S", Class::Symbol),
            ] {
                for range in ranges(&format!(r"[\p{{{name}}}&&\p{{age=15.1}}]")) {
                    all[range].fill(class);
                }
            }
            for c in ('\0'..='\u{3000}').filter(|c| c.is_whitespace()) {
                all[c as usize] = Class::Space;
            }
            Self::fold(&all)
        })
    }

    fn fold(all: &[Class]) -> Self {
        let mut classes = Self { index: Vec::with_capacity(all.len() / BLOCK), blocks: Vec::new() };
        for block in all.chunks_exact(BLOCK) {
            let at = classes.blocks.iter().position(|known| known == block).unwrap_or_else(|| {
                classes.blocks.push(std::array::from_fn(|i| block[i]));
                classes.blocks.len() - 1
            });
            classes.index.push(u8::try_from(at).expect("Unicode 15.1 has fewer than 256 kinds of block"));
        }
        classes
    }

    pub(super) fn of(&self, c: char) -> Class {
        let code = c as usize;
        self.blocks[self.index[code / BLOCK] as usize][code % BLOCK]
    }

    /// The first character of `text` and its class.
    pub(super) fn first(&self, text: &str) -> Option<(char, Class)> {
        text.chars().next().map(|c| (c, self.of(c)))
    }

    /// The length in bytes of the longest start of `text` whose characters all pass `test`.
    pub(super) fn run(&self, text: &str, mut test: impl FnMut(char, Class) -> bool) -> usize {
        text.char_indices().find(|&(_, c)| !test(c, self.of(c))).map_or(text.len(), |(at, _)| at)
    }
}

/// The characters of a class in `regex-syntax`'s notation, by number, ascending.
pub(super) fn ranges(class: &str) -> Vec<RangeInclusive<usize>> {
    let hir = regex_syntax::parse(class).expect("a constant expression");
    match hir.kind() {
        HirKind::Class(HirClass::Unicode(class)) => {
            class.iter().map(|r| r.start() as usize..=r.end() as usize).collect()
        }
        kind => unreachable!("a constant class of many characters, not {kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class() {
        let classes = Classes::get();
        for (text, class) in [
            ("aZµªʰՙ猫", Class::Letter),
            ("0٣½Ⅷ²", Class::Number),
            ("\u{301}\u{94D}\u{20E3}", Class::Mark),
            ("!_«、", Class::Punctuation),
            ("$+~€🎉", Class::Symbol),
            (" \t\n\u{B}\u{85}\u{A0}\u{1680}\u{2028}\u{3000}", Class::Space),
            ("\0\u{1C}\u{7F}\u{AD}\u{200B}\u{FEFF}\u{E000}\u{10FFFF}", Class::Other),
        ] {
            for c in text.chars() {
                assert_eq!(classes.of(c), class, "{c:?}");
            }
        }
    }

    #[test]
    fn unicode_is_that_of_version_15_1() {
        let classes = Classes::get();
        // U+2EBF0 came with 15.1; U+10D4A (Garay) and U+1E5F1 (an Ol Onal digit) with 16.0.
        assert_eq!(classes.of('\u{2EBF0}'), Class::Letter);
        assert_eq!(classes.of('\u{10D4A}'), Class::Other);
        assert_eq!(classes.of('\u{1E5F1}'), Class::Other);
    }
}
