//! Cutting text into words before BPE, as the vocabulary was trained: merges never cross a word.
//!
//! A rule is a list of passes. Each pass cuts every piece that the passes before it have made, and sees no further
//! than that piece. All passes take linear time on any text.

use super::class::{Class, Classes};
use super::sets::{self, Set};
use super::words::{Words, trailing};

/// One way of cutting a piece.
pub(super) enum Pass {
    /// GPT-2's expression: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2,
    /// The later shape of that expression.
    Words(Words),
    /// Cuts out runs of at most `most` characters of a set, each with one character of `lead` before it if there is
    /// one; what lies between stays together.
    Run { lead: Option<Set>, of: Set, most: usize },
    /// Cuts out runs of each of several sets that have no character in common.
    Runs(&'static [Set]),
    /// Cuts out each three ASCII digits in a row, from the left.
    Triples,
    /// Cuts off white space at the end: `\s+$`.
    Trailing,
    /// Cuts digits into threes, counted from the right; the text before them stays with the first ones.
    Thousands { of: Set, with_text: bool },
}

/// Calls `word` for each word of `text`, in order; together they are the whole text, and none is empty.
pub(super) fn split<'t>(passes: &[Pass], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    if !text.is_empty() {
        cut(Classes::get(), passes, text, word);
    }
}

fn cut<'t>(classes: &Classes, passes: &[Pass], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    match passes {
        [] => word(text),
        [last] => last.cut(classes, text, word),
        [pass, rest @ ..] => pass.cut(classes, text, &mut |piece| cut(classes, rest, piece, word)),
    }
}

impl Pass {
    /// A run with nothing before it.
    pub(super) const fn run(of: Set) -> Self {
        Self::Run { lead: None, of, most: usize::MAX }
    }

    /// Each character of a set alone.
    pub(super) const fn each(of: Set) -> Self {
        Self::Run { lead: None, of, most: 1 }
    }

    /// A run with at most one character of `lead` before it.
    pub(super) const fn led(lead: Set, of: Set) -> Self {
        Self::Run { lead: Some(lead), of, most: usize::MAX }
    }

    fn cut<'t>(&self, classes: &Classes, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
        match self {
            Self::Gpt2 => {
                let mut rest = text;
                while !rest.is_empty() {
                    let (head, tail) = rest.split_at(gpt2_word(classes, rest));
                    piece(head);
                    rest = tail;
                }
            }
            Self::Words(words) => words.cut(classes, text, piece),
            Self::Run { lead, of, most } => search(text, |rest| led_run(classes, rest, *lead, *of, *most), piece),
            Self::Runs(sets) => search(
                text,
                |rest| sets.iter().map(|set| classes.run(rest, set)).find(|len| *len > 0).unwrap_or(0),
                piece,
            ),
            Self::Triples => search(text, triple, piece),
            Self::Trailing => {
                let (head, tail) = text.split_at(text.trim_end().len());
                [head, tail].into_iter().filter(|part| !part.is_empty()).for_each(piece);
            }
            Self::Thousands { of, with_text } => thousands(classes, text, *of, *with_text, piece),
        }
    }
}

/// Cuts out what `find` matches (it gives a length, 0 for no match) at the first place where it does, and goes on
/// behind it.
fn search<'t>(text: &'t str, find: impl Fn(&str) -> usize, piece: &mut dyn FnMut(&'t str)) {
    let (mut rest, mut gap) = (text, 0);
    while let Some(c) = rest[gap..].chars().next() {
        let len = find(&rest[gap..]);
        if len == 0 {
            gap += c.len_utf8();
            continue;
        }
        if gap > 0 {
            piece(&rest[..gap]);
        }
        piece(&rest[gap..gap + len]);
        (rest, gap) = (&rest[gap + len..], 0);
    }
    if gap > 0 {
        piece(rest);
    }
}

fn led_run(classes: &Classes, rest: &str, lead: Option<Set>, of: Set, most: usize) -> usize {
    let Some((first, class)) = classes.first(rest) else { return 0 };
    let run = |text: &str| {
        let mut left = most;
        classes.run(text, |c, class| {
            let within = left > 0 && of(c, class);
            left = left.saturating_sub(1);
            within
        })
    };
    if lead.is_some_and(|lead| lead(first, class)) {
        let len = run(&rest[first.len_utf8()..]);
        if len > 0 {
            return first.len_utf8() + len;
        }
    }
    if of(first, class) { run(rest) } else { 0 }
}

fn triple(rest: &str) -> usize {
    match rest.as_bytes() {
        [a, b, c, ..] if [a, b, c].iter().all(|byte| byte.is_ascii_digit()) => 3,
        _ => 0,
    }
}

/// Cuts runs of `of` so that each piece but the first of a run has three of them.
fn thousands<'t>(classes: &Classes, text: &'t str, of: Set, with_text: bool, piece: &mut dyn FnMut(&'t str)) {
    let (mut start, mut at) = (0, 0);
    let mut cut = |end: usize| {
        if end > start {
            piece(&text[start..end]);
            start = end;
        }
    };
    while let Some((c, class)) = classes.first(&text[at..]) {
        if !of(c, class) {
            at += c.len_utf8();
            continue;
        }
        let run = &text[at..at + classes.run(&text[at..], of)];
        let count = run.chars().count();
        for (index, (offset, _)) in run.char_indices().enumerate() {
            if (count - index).is_multiple_of(3) && (index > 0 || !with_text) {
                cut(at + offset);
            }
        }
        at += run.len();
        if with_text {
            cut(at);
        }
    }
    cut(text.len());
}

/// The length in bytes of the first word of `rest`, which is not empty.
fn gpt2_word(classes: &Classes, rest: &str) -> usize {
    for suffix in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        if rest.starts_with(suffix) {
            return suffix.len();
        }
    }
    let body = rest.strip_prefix(' ').unwrap_or(rest);
    let set: Set = match classes.first(body) {
        Some((_, Class::Letter)) => sets::letter,
        Some((_, Class::Number)) => sets::number,
        Some((_, Class::Space)) | None => return trailing(rest, classes.run(rest, |_, class| class == Class::Space)),
        Some(_) => sets::other,
    };
    rest.len() - body.len() + classes.run(body, set)
}

#[cfg(test)]
mod tests {
    use super::super::rules::Rule;

    /// The words of `text` under the rule of a pre-tokenizer.
    fn words<'t>(pre: &str, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        super::split(Rule::named(pre).unwrap().passes, text, &mut |w| words.push(w));
        assert_eq!(words.concat(), text, "no byte may be lost");
        assert!(words.iter().all(|w| !w.is_empty()));
        words
    }

    #[test]
    fn gpt2_words() {
        let gpt2 = |text| words("gpt-2", text);
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
        let digits = |text| words("smollm", text);
        assert_eq!(digits("in 2024"), ["in", " ", "2", "0", "2", "4"]);
        assert_eq!(digits("a  1 b"), ["a", "  ", "1", " b"]);
        assert_eq!(digits("٣½Ⅷ²"), ["٣", "½", "Ⅷ", "²"]);
    }

    #[test]
    fn llama3_words() {
        let llama3 = |text| words("llama-bpe", text);
        assert_eq!(llama3("It'S 12345!\r\n\n x"), ["It", "'S", " ", "123", "45", "!\r\n\n", " x"]);
        assert_eq!(llama3("a \n \n  b"), ["a", " \n \n", " ", " b"]);
        assert_eq!(llama3("e\u{301}a\t(b"), ["e", "\u{301}a", "\t", "(b"]);
        assert_eq!(words("qwen2", "a12"), ["a", "1", "2"]);
        assert_eq!(words("qwen35", "e\u{301}a"), ["e\u{301}a"]);
    }

    /// Upper case begins a word; llama.cpp holds all letters beyond ASCII to be of both cases.
    #[test]
    fn words_by_case() {
        assert_eq!(words("gpt-4o", "camelCaseHTTPServer's"), ["camel", "Case", "HTTPServer's"]);
        assert_eq!(words("gpt-4o", "ABéCD élan"), ["ABé", "CD", " élan"]);
        assert_eq!(words("tekken", "it's a/b\n/c"), ["it", "'s", " a", "/b", "\n", "/c"]);
        assert_eq!(words("gpt-4o", "x //\n/"), ["x", " //\n/"]);
    }

    #[test]
    fn digits_in_threes() {
        assert_eq!(words("superbpe", "1234567 12"), ["1", "234", "567", " ", "12"]);
        assert_eq!(words("afmoe", "1234567"), ["1", "234", "567"]);
        assert_eq!(words("falcon", "x12345"), ["x", "123", "45"]);
    }

    #[test]
    fn long_white_space_is_halved() {
        let lens: Vec<usize> = words("jais-2", &" ".repeat(780)).iter().map(|w| w.len()).collect();
        assert_eq!(lens, [512, 256, 8, 4]);
    }
}
