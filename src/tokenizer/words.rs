//! The expressions that cut text since cl100k: one shape with a dozen variants, matched in linear time.
//!
//! The shape, its alternatives in the order in which they are tried:
//!
//! | part | in Llama 3 |
//! |---|---|
//! | a run of a script | none |
//! | a contraction | `'s\|'t\|'re\|'ve\|'m\|'ll\|'d` in either case |
//! | one character and letters | `[^\r\n\p{L}\p{N}]?\p{L}+` |
//! | digits | `\p{N}{1,3}` |
//! | a space and what is neither letter nor digit | ` ?[^\s\p{L}\p{N}]+[\r\n]*` |
//! | lines | `\s*[\r\n]+` |
//! | white space, whose last character goes to the next word | `\s+(?!\S)\|\s+` |
//!
//! What none of them matches stays together as a word.

use super::class::{Class, Classes};
use super::sets::{self, Set};

/// A variant of the shape. Fields that say "none" leave the alternative out.
#[derive(Clone, Copy)]
pub(super) struct Words {
    /// Runs of a set that come before all else.
    pub(super) script: Option<Set>,
    pub(super) contraction: Contraction,
    /// An ASCII punctuation character takes ASCII letters with it: `[!-/:-@\[-`{-~][A-Za-z]+`.
    pub(super) tagged: bool,
    /// What may stand before letters.
    pub(super) lead: Set,
    pub(super) letters: Letters,
    /// Most digits of a word; 0: none.
    pub(super) digits: usize,
    /// What is neither letter nor digit.
    pub(super) other: Set,
    pub(super) tail: Tail,
    pub(super) lines: Lines,
    /// Long white space is cut into halves of 512, in Jais 2.
    pub(super) halves: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contraction {
    None,
    /// A word of its own.
    Alone,
    /// Part of the word it ends.
    Suffix,
}

#[derive(Clone, Copy)]
pub(super) enum Letters {
    /// A run of a set.
    Run(Set),
    /// Upper case before lower, of a set: `U*W+|U+W*`, U being what is not `a-z` and W what is not `A-Z`.
    Cased(Set),
    /// Letters with their marks, and single spaces between letters: `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`.
    Phrase,
}

/// What follows punctuation.
#[derive(Clone, Copy)]
pub(super) enum Tail {
    None,
    /// `[\r\n]*`
    Lines,
    /// `[\r\n/]*`
    LinesAndSlashes,
    /// `[\r\n/]?`
    One,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// White space up to the last line break in it: `\s*[\r\n]+`.
    Together,
    /// Each line break: `[\r\n]`.
    Single,
}

/// Llama 3's words.
pub(super) const LLAMA3: Words = Words {
    script: None,
    contraction: Contraction::Alone,
    tagged: false,
    lead: sets::lead,
    letters: Letters::Run(sets::letter),
    digits: 3,
    other: sets::other,
    tail: Tail::Lines,
    lines: Lines::Together,
    halves: false,
};

fn is_line_break(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// The length of a contraction at the start of `text`, or 0.
fn contraction(text: &str) -> usize {
    let [b'\'', rest @ ..] = text.as_bytes() else { return 0 };
    let lower = |at: usize| rest.get(at).map(u8::to_ascii_lowercase);
    match (lower(0), lower(1)) {
        (Some(b's' | b't' | b'm' | b'd'), _) => 2,
        (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => 3,
        _ => 0,
    }
}

impl Words {
    /// Calls `word` for each word of `text`.
    pub(super) fn cut<'t>(&self, classes: &Classes, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        let mut rest = text;
        // What no alternative has matched since the last word.
        let mut gap = 0;
        while let Some(c) = rest[gap..].chars().next() {
            let len = self.word(classes, &rest[gap..]);
            if len == 0 {
                gap += c.len_utf8();
                continue;
            }
            if gap > 0 {
                word(&rest[..gap]);
                rest = &rest[gap..];
                gap = 0;
            }
            let (mut head, tail) = rest.split_at(len);
            if self.halves && c.is_whitespace() && head.chars().all(|c| c.is_whitespace() && !is_line_break(c)) {
                head = halve(head, word);
            }
            if !head.is_empty() {
                word(head);
            }
            rest = tail;
        }
        if gap > 0 {
            word(rest);
        }
    }

    /// The length in bytes of the first word of `rest`, which is not empty; 0 if no alternative matches.
    fn word(&self, classes: &Classes, rest: &str) -> usize {
        let Some((first, class)) = classes.first(rest) else { return 0 };
        let script = self.script.map_or(0, |set| classes.run(rest, set));
        let tagged = if self.tagged { tagged(rest) } else { 0 };
        let alone = if self.contraction == Contraction::Alone { contraction(rest) } else { 0 };
        // No character starts more than one of the three.
        if script + tagged + alone > 0 {
            return script + tagged + alone;
        }
        let lead = if (self.lead)(first, class) { first.len_utf8() } else { 0 };
        let letters = self.letters.word(classes, rest, lead);
        if letters > 0 {
            let suffix = if self.contraction == Contraction::Suffix { contraction(&rest[letters..]) } else { 0 };
            return letters + suffix;
        }
        if class == Class::Number && self.digits > 0 {
            let digits = rest.char_indices().take(self.digits).find(|&(_, c)| classes.of(c) != Class::Number);
            return digits.map_or_else(|| nth(rest, self.digits), |(at, _)| at);
        }
        let space = usize::from(first == ' ');
        let other = classes.run(&rest[space..], self.other);
        if other > 0 {
            return space + other + self.tail.len(&rest[space + other..]);
        }
        if class == Class::Space { self.space(classes, rest) } else { 0 }
    }

    /// The first word of `rest`, which starts with white space that belongs to no word.
    fn space(&self, classes: &Classes, rest: &str) -> usize {
        if self.lines == Lines::Single && rest.starts_with(is_line_break) {
            return 1;
        }
        let spaces = classes.run(rest, |_, class| class == Class::Space);
        if self.lines == Lines::Together
            && let Some(last) = rest[..spaces].rfind(is_line_break)
        {
            return last + 1;
        }
        trailing(rest, spaces)
    }
}

/// How much of the white space at the start of `rest`, `spaces` bytes, is a word: all but its last character, which
/// goes to the word that follows, if one does.
pub(super) fn trailing(rest: &str, spaces: usize) -> usize {
    let last = rest[..spaces].chars().next_back().map_or(0, char::len_utf8);
    if spaces < rest.len() && last < spaces { spaces - last } else { spaces }
}

/// The byte at which character `n` of `text` starts, or its length.
fn nth(text: &str, n: usize) -> usize {
    text.char_indices().nth(n).map_or(text.len(), |(at, _)| at)
}

/// The length of an ASCII punctuation character and the ASCII letters after it, or 0 without either.
fn tagged(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let letters = bytes[1..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
    if bytes[0].is_ascii_punctuation() && letters > 0 { 1 + letters } else { 0 }
}

/// Emits white space in pieces of 512 characters, 256 and so on to 2; returns what is left: one character or none.
fn halve<'t>(mut spaces: &'t str, word: &mut dyn FnMut(&'t str)) -> &'t str {
    let mut count = spaces.chars().count();
    for half in [512, 256, 128, 64, 32, 16, 8, 4, 2] {
        while count >= half {
            let (head, tail) = spaces.split_at(nth(spaces, half));
            word(head);
            (spaces, count) = (tail, count - half);
        }
    }
    spaces
}

impl Letters {
    /// The length of a word of letters at the start of `rest`, of which `lead` bytes may stand before letters.
    fn word(self, classes: &Classes, rest: &str, lead: usize) -> usize {
        let after_lead = |run: &dyn Fn(&str) -> usize| {
            let starts: &[usize] = if lead > 0 { &[lead, 0] } else { &[0] };
            starts.iter().find_map(|&at| Some(run(&rest[at..])).filter(|len| *len > 0).map(|len| at + len))
        };
        let found = match self {
            Self::Run(set) => after_lead(&|text| classes.run(text, set)),
            Self::Cased(set) => after_lead(&|text| lower_last(classes, text, set))
                .or_else(|| after_lead(&|text| upper_first(classes, text, set))),
            Self::Phrase => after_lead(&|text| phrase(classes, text)),
        };
        found.unwrap_or(0)
    }
}

/// `U*W+`: letters that end in one that is not `A-Z`.
fn lower_last(classes: &Classes, text: &str, set: Set) -> usize {
    let upper = classes.run(text, |c, class| set(c, class) && !c.is_ascii_lowercase());
    let lower = classes.run(&text[upper..], |c, class| set(c, class) && !c.is_ascii_uppercase());
    if lower > 0 {
        return upper + lower;
    }
    // The last of the run that is in both sets is the one that W gets.
    text[..upper].char_indices().rfind(|(_, c)| !c.is_ascii_uppercase()).map_or(0, |(at, c)| at + c.len_utf8())
}

/// `U+W*` where [`lower_last`] has found nothing: then no W follows.
fn upper_first(classes: &Classes, text: &str, set: Set) -> usize {
    classes.run(text, |c, class| set(c, class) && !c.is_ascii_lowercase())
}

fn phrase(classes: &Classes, text: &str) -> usize {
    let is_letter = |text: &str| classes.first(text).is_some_and(|(_, class)| class == Class::Letter);
    if !is_letter(text) {
        return 0;
    }
    let mut len = 0;
    loop {
        len += classes.run(&text[len..], |_, class| matches!(class, Class::Letter | Class::Mark));
        match text[len..].strip_prefix(' ') {
            Some(next) if is_letter(next) => len += 1,
            _ => return len,
        }
    }
}

impl Tail {
    /// How much of `rest` follows punctuation.
    fn len(self, rest: &str) -> usize {
        let run = |set: &[char]| rest.len() - rest.trim_start_matches(set).len();
        match self {
            Self::None => 0,
            Self::Lines => run(&['\r', '\n']),
            Self::LinesAndSlashes => run(&['\r', '\n', '/']),
            Self::One => usize::from(rest.starts_with(['\r', '\n', '/'])),
        }
    }
}
