//! Sets of characters that pre-tokenizers name.

use super::class::{Class, ranges};
use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// Whether a character, whose class is given, is in the set.
pub(super) type Set = fn(char, Class) -> bool;

pub(super) fn letter(_: char, class: Class) -> bool {
    class == Class::Letter
}

/// `[\p{L}\p{M}]`
pub(super) fn letter_or_mark(_: char, class: Class) -> bool {
    matches!(class, Class::Letter | Class::Mark)
}

pub(super) fn number(_: char, class: Class) -> bool {
    class == Class::Number
}

pub(super) fn ascii_digit(c: char, _: Class) -> bool {
    c.is_ascii_digit()
}

pub(super) fn punctuation(_: char, class: Class) -> bool {
    class == Class::Punctuation
}

pub(super) fn space(_: char, class: Class) -> bool {
    class == Class::Space
}

pub(super) fn ascii_space(c: char, _: Class) -> bool {
    c == ' '
}

pub(super) fn line_feed(c: char, _: Class) -> bool {
    c == '\n'
}

pub(super) fn not_line_feed(c: char, _: Class) -> bool {
    c != '\n'
}

pub(super) fn line_break(c: char, _: Class) -> bool {
    matches!(c, '\r' | '\n')
}

/// `[^\s\p{L}\p{N}]`
pub(super) fn other(_: char, class: Class) -> bool {
    !matches!(class, Class::Space | Class::Letter | Class::Number)
}

/// `[^\s\p{L}\p{M}\p{N}]`
pub(super) fn other_than_mark(c: char, class: Class) -> bool {
    other(c, class) && class != Class::Mark
}

/// `[\p{P}\p{S}]`
pub(super) fn punctuation_or_symbol(_: char, class: Class) -> bool {
    matches!(class, Class::Punctuation | Class::Symbol)
}

/// `[^\r\n\p{L}\p{N}]`
pub(super) fn lead(c: char, class: Class) -> bool {
    !matches!(class, Class::Letter | Class::Number) && !matches!(c, '\r' | '\n')
}

/// `[^\r\n\p{L}\p{P}\p{S}]`
pub(super) fn lead_in_text(c: char, class: Class) -> bool {
    !matches!(class, Class::Letter | Class::Punctuation | Class::Symbol) && !matches!(c, '\r' | '\n')
}

/// `[\p{P}$+<=>^~|]`
pub(super) fn falls_apart(c: char, class: Class) -> bool {
    class == Class::Punctuation || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
}

/// The same with a backtick.
pub(super) fn falls_apart_in_falcon(c: char, class: Class) -> bool {
    falls_apart(c, class) || c == '`'
}

/// What DeepSeek takes for Chinese and Korean, with all from Samaritan on.
pub(super) fn east_asian(c: char, class: Class) -> bool {
    class != Class::Space && matches!(c, '\u{800}'..='\u{9FA5}' | '\u{AC00}'..='\u{D7FF}')
}

/// Ideographs and kana.
pub(super) fn ideograph_or_kana(c: char, _: Class) -> bool {
    matches!(c, '\u{4E00}'..='\u{9FA5}' | '\u{3040}'..='\u{30FF}')
}

/// `[가-힣ㄱ-ㆎ]`
pub(super) fn hangul(c: char, _: Class) -> bool {
    matches!(c, '\u{AC00}'..='\u{D7A3}' | '\u{3131}'..='\u{318E}')
}

/// `[ㄅ-ㄯ]`
pub(super) fn bopomofo(c: char, _: Class) -> bool {
    matches!(c, '\u{3105}'..='\u{312F}')
}

/// Punctuation of Chinese texts in Youtu.
pub(super) fn chinese_punctuation(c: char, _: Class) -> bool {
    matches!(c, '！' | '…' | '“' | '”' | '‘' | '’' | '—' | '：' | '；' | '，')
        || matches!(c, '\u{3001}'..='\u{303F}' | '\u{FE30}'..='\u{FE4F}')
}

/// Scripts that AFMoE cuts out. The range from U+8C48 is llama.cpp's: its list was normalized on the way.
pub(super) fn script_without_spaces(c: char, _: Class) -> bool {
    matches!(c, '\u{E40}'..='\u{EFF}' | '\u{1000}'..='\u{109F}' | '\u{1100}'..='\u{11FF}' | '\u{1780}'..='\u{17FF}')
        || matches!(c, '\u{2F00}'..='\u{2FDF}' | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}')
        || matches!(c, '\u{4E00}'..='\u{FAFF}' | '\u{FF65}'..='\u{FF9F}')
}

/// Ideographs as Kimi K2 knows them.
pub(super) fn han(c: char, _: Class) -> bool {
    matches!(c, '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}')
        || matches!(c, '\u{20000}'..='\u{2A6DF}' | '\u{2A700}'..='\u{2EBEF}' | '\u{2F800}'..='\u{2FA1F}')
}

pub(super) fn letter_but_not_han(c: char, class: Class) -> bool {
    class == Class::Letter && !han(c, class)
}

/// What BLOOM's words may hold: all but white space, brackets, the bar and the commas and full stops of many scripts.
pub(super) fn unstopped(c: char, class: Class) -> bool {
    class != Class::Space
        && !matches!(c, '(' | ')' | '|' | '.' | ',' | '!' | '?' | '…' | '。' | '，' | '、' | '।' | '۔' | '،')
}

/// Punctuation of DeepSeek LLM, which counts ASCII letters in: `[!-/:-~！-／：-～‘-‟　-。]`.
pub(super) fn deepseek_punctuation(c: char, _: Class) -> bool {
    matches!(c, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '\u{2018}'..='\u{201F}' | '\u{3001}'..='\u{3002}')
}

/// Letters of DeepSeek LLM: those that have a case, but for a few blocks.
pub(super) fn deepseek_letter(c: char, class: Class) -> bool {
    static CASED: OnceLock<Vec<RangeInclusive<usize>>> = OnceLock::new();
    let cased = CASED.get_or_init(|| {
        ranges(concat!(
            r"[[\p{Lu}\p{Ll}\p{Lt}]&&\p{age=15.1}--[\x{560}-\x{588}\x{10C7}-\x{10FF}\x{1C80}-\x{1C88}\x{2D00}-\x{2D2D}",
            r"\x{A790}-\x{A7FF}\x{AB30}-\x{AB6F}\x{10570}-\x{105BF}\x{16E40}-\x{16E7F}\x{1D400}-\x{1DFFF}]]",
        ))
    });
    let at = cased.partition_point(|range| *range.end() < c as usize);
    class == Class::Letter && cased.get(at).is_some_and(|range| range.contains(&(c as usize)))
}
