//! A source file with its comments and strings told apart from its code, and its functions found.

/// What a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Rust,
    /// C, C++ and CUDA.
    Cpp,
}

/// A file, three times in the same layout: as it is, its code alone, its comments alone. What belongs to the
/// other two is spaces, byte for byte, so that an offset means the same place in all.
pub struct Source {
    pub path: String,
    pub text: String,
    pub code: String,
    pub comments: String,
    pub language: Language,
}

/// A function: its name, its first line (from 1) and how many lines it has.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

/// A part of a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let rust = path.ends_with(".rs");
        let language = if rust { Language::Rust } else { Language::Cpp };
        let kinds = kinds(text.as_bytes(), language);
        let only = |kind: Kind| {
            let bytes = text.bytes().zip(&kinds).map(|(b, k)| if *k == kind || b == b'\n' { b } else { b' ' });
            String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
        };
        let (code, comments) = (only(Kind::Code), only(Kind::Comment));
        Self { path: path.into(), text: text.into(), code, comments, language }
    }

    /// The line, from 1, of byte `at`.
    pub fn line(&self, at: usize) -> usize {
        1 + self.code.as_bytes()[..at].iter().filter(|b| **b == b'\n').count()
    }

    /// Where `word` stands in the code as a word of its own.
    pub fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, word)
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function> {
        match self.language {
            Language::Rust => self.rust_functions(),
            Language::Cpp => self.cpp_functions(),
        }
    }

    /// `fn name … { … }`, in macro bodies too.
    fn rust_functions(&self) -> Vec<Function> {
        let code = self.code.as_bytes();
        let mut found = Vec::new();
        for at in self.words("fn") {
            let name: String = self.code[at + 2..].trim_start().chars().take_while(|c| is_name(*c)).collect();
            let Some(open) = self.body(at).filter(|_| !name.is_empty()) else { continue };
            let end = closing(code, open);
            found.push(Function { name, line: self.line(at), lines: self.line(end) - self.line(at) + 1 });
        }
        found
    }

    /// Where the body of the function at `at` opens: the first brace outside parentheses and brackets, unless
    /// a semicolon comes before it.
    fn body(&self, at: usize) -> Option<usize> {
        let mut depth = 0;
        for (i, b) in self.code.bytes().enumerate().skip(at) {
            match b {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                b'{' if depth == 0 => return Some(i),
                b';' if depth == 0 => return None,
                _ if depth < 0 => return None,
                _ => {}
            }
        }
        None
    }

    /// A brace after a parameter list, outside other functions, opens one. Good enough for a length.
    fn cpp_functions(&self) -> Vec<Function> {
        let code = self.code.as_bytes();
        let mut found = Vec::new();
        let mut i = 0;
        while i < code.len() {
            let head = || self.code[..i].trim_end().trim_end_matches(" const").trim_end_matches(" noexcept");
            if code[i] == b'{' && head().ends_with(')') {
                let (line, end) = (self.line(i), closing(code, i));
                let name = head().rsplit('\n').next().unwrap_or_default().trim().to_owned();
                found.push(Function { name, line, lines: self.line(end) - line + 1 });
                i = end;
            }
            i += 1;
        }
        found
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Where `word` stands in `text` with no letter, digit or underscore beside it.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !part(text[..*at].chars().next_back()) && !part(text[at + word.len()..].chars().next()))
}

/// Where the brace that opens at `open` closes; the last byte if it does not.
pub fn closing(code: &[u8], open: usize) -> usize {
    let mut depth = 0;
    for (i, b) in code.iter().enumerate().skip(open) {
        match b {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return i;
        }
    }
    code.len() - 1
}

/// What each byte is.
fn kinds(text: &[u8], language: Language) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; text.len()];
    let mut i = 0;
    while i < text.len() {
        let before = if i == 0 { b' ' } else { text[i - 1] };
        let (kind, end) = match (&text[i..], language) {
            ([b'/', b'/', ..], _) => (Kind::Comment, find(text, i, b"\n")),
            ([b'/', b'*', ..], _) => (Kind::Comment, block_comment(text, i, language)),
            ([b'"', ..], _) => (Kind::Literal, quoted(text, i, b'"')),
            ([b'r', b'"' | b'#', ..], Language::Rust) if !is_word(before) || b"bc".contains(&before) => {
                raw_string(text, i)
            }
            ([b'\'', ..], Language::Rust) => (Kind::Literal, character(text, i)),
            ([b'\'', ..], Language::Cpp) if !before.is_ascii_hexdigit() => (Kind::Literal, quoted(text, i, b'\'')),
            _ => (Kind::Code, i + 1),
        };
        kinds[i..end].fill(kind);
        i = end;
    }
    kinds
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// Behind the next `what`, or the end.
fn find(text: &[u8], from: usize, what: &[u8]) -> usize {
    let at = text[from..].windows(what.len()).position(|w| w == what);
    at.map_or(text.len(), |at| from + at + what.len())
}

fn block_comment(text: &[u8], start: usize, language: Language) -> usize {
    if language == Language::Cpp {
        return find(text, start + 2, b"*/");
    }
    let (mut depth, mut i) = (0, start);
    while i < text.len() {
        match &text[i..] {
            [b'/', b'*', ..] => (depth, i) = (depth + 1, i + 2),
            [b'*', b'/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

/// Behind the end of a literal with escapes.
fn quoted(text: &[u8], start: usize, quote: u8) -> usize {
    let mut i = start + 1;
    while i < text.len() && text[i] != quote {
        i += if text[i] == b'\\' { 2 } else { 1 };
    }
    text.len().min(i + 1)
}

/// `r"…"`, `r#"…"#` and on; `r#name` is code.
fn raw_string(text: &[u8], start: usize) -> (Kind, usize) {
    let hashes = text[start + 1..].iter().take_while(|b| **b == b'#').count();
    if text.get(start + 1 + hashes) != Some(&b'"') {
        return (Kind::Code, start + 1);
    }
    let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
    (Kind::Literal, find(text, start + hashes + 2, &end))
}

/// A character literal, or the quote of a lifetime or a label.
fn character(text: &[u8], start: usize) -> usize {
    let rest = String::from_utf8_lossy(&text[start + 1..text.len().min(start + 6)]);
    let first = rest.chars().next().unwrap_or(' ');
    let closed = rest[first.len_utf8()..].starts_with('\'');
    if first == '\\' || closed { quoted(text, start, b'\'') } else { start + 1 }
}
