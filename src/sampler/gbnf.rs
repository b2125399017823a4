//! llama.cpp's grammar format, GBNF, as a Lark grammar for llguidance.
//!
//! GBNF describes characters, and llguidance reads lexemes, each as long as it can be. So every character becomes a
//! lexeme of its own, which leaves nothing to choose; where no rule needs itself, the whole grammar becomes one
//! lexeme, which is faster.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// Deepest nesting of groups.
const DEPTH_MAX: usize = 100;
/// Most repetitions that a count may ask for.
const COUNT_MAX: u32 = 10_000;

/// Alternatives of sequences.
type Choice = Vec<Vec<Item>>;

/// What stands in a sequence, and how often.
struct Item {
    what: What,
    least: u32,
    /// None: without end.
    most: Option<u32>,
}

enum What {
    /// Characters of a string, or ranges of a class.
    Text(Vec<char>),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    Any,
    Rule(String),
    Group(Choice),
}

/// The Lark grammar that describes the same texts as the GBNF grammar `text`.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let rules = Parser { rest: text, text }.rules()?;
    let named: HashMap<&str, &Choice> = rules.iter().map(|(name, choice)| (name.as_str(), choice)).collect();
    if !named.contains_key("root") {
        return Err("there is no rule \"root\"".into());
    }
    let mut used = HashSet::new();
    rules.iter().for_each(|(_, choice)| names(choice, &mut used));
    if let Some(unknown) = used.iter().find(|name| !named.contains_key(**name)) {
        return Err(format!("there is no rule {unknown:?}"));
    }
    // Names of lexemes are in capitals, names of rules are not.
    let letter = if recursive(&rules) { 'r' } else { 'R' };
    let ids: HashMap<&str, String> =
        rules.iter().enumerate().map(|(i, (name, _))| (name.as_str(), format!("{letter}{i}"))).collect();
    let mut out = format!("start: {}\n", ids["root"]);
    for (name, choice) in &rules {
        let _ = write!(out, "{}: ", ids[name.as_str()]);
        write_choice(&mut out, choice, &ids);
        out.push('\n');
    }
    Ok(out)
}

/// The rules that a choice names.
fn names<'a>(choice: &'a Choice, found: &mut HashSet<&'a str>) {
    for item in choice.iter().flatten() {
        match &item.what {
            What::Rule(name) => drop(found.insert(name)),
            What::Group(choice) => names(choice, found),
            _ => {}
        }
    }
}

/// Whether some rule needs itself: then not all can be done, each after those that it names.
fn recursive(rules: &[(String, Choice)]) -> bool {
    let mut users: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (name, choice) in rules {
        let mut named = HashSet::new();
        names(choice, &mut named);
        open.insert(name, named.len());
        named.into_iter().for_each(|other| users.entry(other).or_default().push(name));
    }
    let mut ready: Vec<&str> = open.iter().filter(|(_, left)| **left == 0).map(|(name, _)| *name).collect();
    let mut done = 0;
    while let Some(name) = ready.pop() {
        done += 1;
        for user in users.get(name).into_iter().flatten() {
            let left = open.entry(user).or_default();
            *left -= 1;
            if *left == 0 {
                ready.push(user);
            }
        }
    }
    done < rules.len()
}

fn write_choice(out: &mut String, choice: &Choice, ids: &HashMap<&str, String>) {
    for (i, sequence) in choice.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { " | " });
        if sequence.is_empty() {
            out.push_str("\"\"");
        }
        for (i, item) in sequence.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { " " });
            write_item(out, item, ids);
        }
    }
}

fn write_item(out: &mut String, item: &Item, ids: &HashMap<&str, String>) {
    let character = |c: &char| format!("/\\x{{{:X}}}/", u32::from(*c));
    let range = |(a, b): &(char, char)| format!("\\x{{{:X}}}-\\x{{{:X}}}", u32::from(*a), u32::from(*b));
    match &item.what {
        What::Text(text) if text.is_empty() => out.push_str("\"\""),
        What::Text(text) => {
            let characters: Vec<String> = text.iter().map(character).collect();
            let _ = write!(out, "({})", characters.join(" "));
        }
        What::Class { negated, ranges } => {
            let ranges: String = ranges.iter().map(range).collect();
            let _ = write!(out, "/[{}{ranges}]/", if *negated { "^" } else { "" });
        }
        What::Any => out.push_str("/[\\x{0}-\\x{10FFFF}]/"),
        What::Rule(name) => out.push_str(&ids[name.as_str()]),
        What::Group(choice) => {
            out.push('(');
            write_choice(out, choice, ids);
            out.push(')');
        }
    }
    match (item.least, item.most) {
        (1, Some(1)) => {}
        (0, Some(1)) => out.push('?'),
        (0, None) => out.push('*'),
        (1, None) => out.push('+'),
        (least, None) => drop(write!(out, "{{{least},}}")),
        (least, Some(most)) => drop(write!(out, "{{{least},{most}}}")),
    }
}

/// Reads GBNF.
struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Parser<'_> {
    fn fail<T>(&self, what: impl std::fmt::Display) -> Result<T, String> {
        let line = 1 + self.text[..self.text.len() - self.rest.len()].matches('\n').count();
        Err(format!("line {line}: {what}"))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Skips blanks and comments, and ends of lines too if `lines`.
    fn skip(&mut self, lines: bool) {
        loop {
            self.rest = self.rest.trim_start_matches(|c| c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r'));
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.trim_start_matches(|c| c != '\n' && c != '\r');
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if name.is_empty() {
            return self.fail("a name of a rule is missing");
        }
        self.rest = rest;
        Ok(name.into())
    }

    fn rules(mut self) -> Result<Vec<(String, Choice)>, String> {
        let mut rules = Vec::new();
        let mut known = HashSet::new();
        self.skip(true);
        while !self.rest.is_empty() {
            let name = self.name()?;
            self.skip(false);
            if !self.take("::=") {
                return self.fail(format!("::= is missing after {name}"));
            }
            self.skip(true);
            let choice = self.choice(0)?;
            if !self.rest.is_empty() && !self.rest.starts_with(['\n', '\r']) {
                return self.fail(format!("{:?} does not belong here", self.peek().unwrap_or_default()));
            }
            if !known.insert(name.clone()) {
                return self.fail(format!("there are two rules {name:?}"));
            }
            rules.push((name, choice));
            self.skip(true);
        }
        Ok(rules)
    }

    fn choice(&mut self, depth: usize) -> Result<Choice, String> {
        if depth > DEPTH_MAX {
            return self.fail(format!("groups nest deeper than {DEPTH_MAX}"));
        }
        let mut choice = vec![self.sequence(depth)?];
        while self.take("|") {
            self.skip(true);
            choice.push(self.sequence(depth)?);
        }
        Ok(choice)
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        while let Some(what) = self.what(depth)? {
            let (least, most) = self.counts()?;
            items.push(Item { what, least, most });
            self.skip(depth > 0);
        }
        Ok(items)
    }

    fn what(&mut self, depth: usize) -> Result<Option<What>, String> {
        let what = match self.peek() {
            Some('"') => self.string()?,
            Some('[') => self.class()?,
            Some('(') => {
                self.take("(");
                self.skip(true);
                let choice = self.choice(depth + 1)?;
                if !self.take(")") {
                    return self.fail(") is missing");
                }
                What::Group(choice)
            }
            Some('.') => {
                self.take(".");
                What::Any
            }
            Some('<' | '!') => return self.fail("tokens can not be named"),
            Some(c) if c.is_ascii_alphanumeric() => What::Rule(self.name()?),
            _ => return Ok(None),
        };
        Ok(Some(what))
    }

    fn string(&mut self) -> Result<What, String> {
        self.take("\"");
        let mut text = Vec::new();
        while !self.take("\"") {
            text.push(self.character()?);
        }
        Ok(What::Text(text))
    }

    fn class(&mut self) -> Result<What, String> {
        self.take("[");
        let negated = self.take("^");
        let mut ranges = Vec::new();
        while !self.take("]") {
            let first = self.character()?;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = if is_range {
                self.take("-");
                self.character()?
            } else {
                first
            };
            if last < first {
                return self.fail(format!("the range {first:?}-{last:?} is empty"));
            }
            ranges.push((first, last));
        }
        match ranges.is_empty() {
            true if negated => Ok(What::Any),
            true => self.fail("a class is empty"),
            false => Ok(What::Class { negated, ranges }),
        }
    }

    /// One character, escaped or not.
    fn character(&mut self) -> Result<char, String> {
        let Some(c) = self.peek() else { return self.fail("a string or class has no end") };
        self.rest = &self.rest[c.len_utf8()..];
        if c != '\\' {
            return Ok(c);
        }
        let Some(escaped) = self.peek() else { return self.fail("an escape has no end") };
        self.rest = &self.rest[escaped.len_utf8()..];
        match escaped {
            'x' => self.hex(2),
            'u' => self.hex(4),
            'U' => self.hex(8),
            't' => Ok('\t'),
            'r' => Ok('\r'),
            'n' => Ok('\n'),
            '\\' | '"' | '[' | ']' | '-' | '^' => Ok(escaped),
            other => self.fail(format!("\\{other} is no escape")),
        }
    }

    fn hex(&mut self, digits: usize) -> Result<char, String> {
        let code = self.rest.get(..digits).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(c) = code.and_then(|text| u32::from_str_radix(text, 16).ok()).and_then(char::from_u32) else {
            return self.fail(format!("{digits} hexadecimal digits of a character are missing"));
        };
        self.rest = &self.rest[digits..];
        Ok(c)
    }

    /// How often the item before may occur.
    fn counts(&mut self) -> Result<(u32, Option<u32>), String> {
        self.skip(false);
        let counts = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.braces(),
            _ => return Ok((1, Some(1))),
        };
        self.rest = &self.rest[1..];
        Ok(counts)
    }

    fn braces(&mut self) -> Result<(u32, Option<u32>), String> {
        let Some((inside, rest)) = self.rest[1..].split_once('}') else { return self.fail("} is missing") };
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n <= COUNT_MAX);
        let counts = match (number(least), most.trim()) {
            (Some(least), "") => Some((least, None)),
            (Some(least), most) => number(most).filter(|most| *most >= least).map(|most| (least, Some(most))),
            _ => None,
        };
        let Some(counts) = counts else {
            return self.fail(format!("{{{inside}}} is no count up to {COUNT_MAX}"));
        };
        self.rest = rest;
        Ok(counts)
    }
}
