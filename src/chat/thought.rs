//! The thought in front of an answer: the tags around it, and where a text stands between them.

use super::message::ThoughtHabit;
use crate::tokenizer::Tokenizer;

/// Which of the two a piece of text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Thought,
    Answer,
}

/// What a model writes around its thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThoughtTags {
    open: &'static str,
    close: &'static str,
    /// Markup between thought and answer that belongs to neither.
    marks: &'static [&'static str],
}

const fn tags(open: &'static str, close: &'static str, marks: &'static [&'static str]) -> ThoughtTags {
    ThoughtTags { open, close, marks }
}

/// The tags known, with what shows in the source of a template that has them; the first that shows counts.
/// No tag or mark starts another of its row.
const KNOWN: [(&str, ThoughtTags); 15] = [
    (
        "<|channel|>analysis",
        tags("<|channel|>analysis<|message|>", "<|end|>", &["<|start|>assistant", "<|channel|>final<|message|>"]),
    ),
    ("<|channel>thought", tags("<|channel>thought\n", "<channel|>", &[])),
    ("assistant<|think|>", tags("<|think|>", "<|end|>", &["<|begin|>assistant", "<|content|>"])),
    (
        "open_tag('think'",
        tags("<|open|>think<|sep|>", "<|close|>think<|sep|>", &["<|open|>response<|sep|>", "<|close|>response<|sep|>"]),
    ),
    ("<|START_THINKING|>", tags("<|START_THINKING|>", "<|END_THINKING|>", &["<|START_RESPONSE|>", "<|END_RESPONSE|>"])),
    ("<|inner_prefix|>", tags("<|inner_prefix|>", "<|inner_suffix|>", &[])),
    ("[THINK]", tags("[THINK]", "[/THINK]", &[])),
    ("<seed:think>", tags("<seed:think>", "</seed:think>", &[])),
    ("<mm:think>", tags("<mm:think>", "</mm:think>", &[])),
    ("◁think▷", tags("◁think▷", "◁/think▷", &[])),
    ("<think>", tags("<think>", "</think>", &[])),
    ("</think>", tags("<think>", "</think>", &[])),
    ("<thinking>", tags("<thinking>", "</thinking>", &[])),
    ("<thought>", tags("<thought>", "</thought>", &[])),
    ("<reasoning>", tags("<reasoning>", "</reasoning>", &[])),
];

impl ThoughtTags {
    /// The tags that a template's source speaks of; `None` if it knows no thought.
    pub fn of(template_source: &str) -> Option<Self> {
        KNOWN.iter().find(|(sign, _)| template_source.contains(sign)).map(|(_, tags)| tags.clone())
    }

    /// What opens a thought.
    pub fn open(&self) -> &str {
        self.open
    }

    /// What closes it.
    pub fn close(&self) -> &str {
        self.close
    }

    /// Whether a prompt ends in an opened thought, but for white space: the model then starts inside.
    pub fn opened_by(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.open.trim_end())
    }

    /// The same of a prompt's tokens, given their bytes: which of them completes the tag.
    pub fn opened_by_tokens<'a>(
        &self,
        tokens: impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator,
    ) -> Option<usize> {
        let tag = self.open.trim_end().as_bytes();
        // The tag's bytes that no token was found for yet.
        let mut left = tag.len();
        let mut completes = None;
        for (index, bytes) in tokens.enumerate().rev() {
            for byte in bytes.iter().rev() {
                if left == tag.len() && byte.is_ascii_whitespace() {
                    continue;
                }
                if *byte != tag[left - 1] {
                    return None;
                }
                completes = completes.or(Some(index));
                left -= 1;
                if left == 0 {
                    return completes;
                }
            }
        }
        None
    }

    /// Where a template of this source looks for earlier thoughts.
    pub(super) fn habit(tags: Option<&Self>, source: &str) -> ThoughtHabit {
        ThoughtHabit::of(source, tags.map(|tags| (tags.open, tags.close)))
    }
}

/// Where a text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but white space was said: a thought may open.
    Fresh,
    Thought,
    /// An answer has begun; a tag in it is text.
    Answer,
}

/// A byte, and whether it is of a control token, whose text is seen only as part of a tag.
type Byte = (u8, bool);

/// Follows a text byte by byte from tag to tag. It asks for memory only when it is made.
///
/// A thought opens where nothing but white space stands before its tag, so that an answer may speak of tags.
#[derive(Clone, Debug)]
pub struct ThoughtScanner {
    tags: ThoughtTags,
    place: Place,
    /// What may still become a tag or mark.
    held: Vec<Byte>,
}

/// A tag that a token was found to complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThoughtTag {
    Open,
    Close,
}

impl ThoughtScanner {
    /// At the start of an answer; `opened` if the prompt has opened the thought.
    pub fn new(tags: ThoughtTags, opened: bool) -> Self {
        let longest = tags.marks.iter().chain([&tags.open, &tags.close]).map(|tag| tag.len()).max();
        let held = Vec::with_capacity(longest.unwrap_or(0));
        Self { tags, place: if opened { Place::Thought } else { Place::Fresh }, held }
    }

    /// Takes up at another answer.
    pub fn restart(&mut self, opened: bool) {
        self.held.clear();
        self.place = if opened { Place::Thought } else { Place::Fresh };
    }

    pub fn tags(&self) -> &ThoughtTags {
        &self.tags
    }

    /// Takes the bytes of a token; returns what they completed, the last of it. `control` as
    /// [`Tokenizer::is_control`] says.
    pub fn push(&mut self, bytes: &[u8], control: bool) -> Option<ThoughtTag> {
        let mut turn = None;
        for byte in bytes {
            turn = self.take((*byte, control), &mut |_, _| {}).or(turn);
        }
        turn
    }

    fn part(&self) -> Part {
        if self.place == Place::Thought { Part::Thought } else { Part::Answer }
    }

    /// Takes one byte, and gives `each` those that are certain to be text.
    fn take(&mut self, byte: Byte, each: &mut impl FnMut(Part, u8)) -> Option<ThoughtTag> {
        self.held.push(byte);
        while !self.held.is_empty() {
            let mut possible = self.possible().filter(|(tag, _)| starts_with(tag.as_bytes(), &self.held)).peekable();
            if possible.peek().is_none() {
                self.release(each);
                continue;
            }
            let (_, place) = possible.find(|(tag, _)| tag.len() == self.held.len())?;
            let turn = match (self.place, place) {
                (Place::Thought, _) => Some(ThoughtTag::Close),
                (_, Place::Thought) => Some(ThoughtTag::Open),
                _ => None,
            };
            self.held.clear();
            self.place = place;
            return turn;
        }
        None
    }

    /// The tags and marks that count here, and where they lead.
    fn possible(&self) -> impl Iterator<Item = (&'static str, Place)> + use<> {
        let place = self.place;
        let close = (place == Place::Thought).then_some((self.tags.close, Place::Fresh));
        let open = (place == Place::Fresh).then_some((self.tags.open, Place::Thought));
        let marks = if place == Place::Thought { &[] } else { self.tags.marks };
        close.into_iter().chain(open).chain(marks.iter().map(|mark| (*mark, Place::Fresh)))
    }

    /// Lets go of the first byte held: it is text.
    fn release(&mut self, each: &mut impl FnMut(Part, u8)) {
        let (byte, control) = self.held.remove(0);
        if control {
            return;
        }
        if self.place == Place::Fresh && !byte.is_ascii_whitespace() {
            self.place = Place::Answer;
        }
        each(self.part(), byte);
    }
}

fn starts_with(tag: &[u8], held: &[Byte]) -> bool {
    held.len() <= tag.len() && tag.iter().zip(held).all(|(tag, (byte, _))| tag == byte)
}

/// Splits an answer, as it comes in pieces, into what was thought and what is said.
///
/// The pieces it gives, joined, are the text without its tags, however the text was cut. It holds back only what may
/// still become a tag. A thought that is never closed is all thought.
#[derive(Clone, Debug)]
pub struct ThoughtSplitter {
    /// None splits nothing: all is answer.
    scanner: Option<ThoughtScanner>,
    text: Vec<u8>,
}

impl ThoughtSplitter {
    /// For the answer to a rendered prompt; without tags all of it is answer.
    pub fn new(tags: Option<&ThoughtTags>, prompt: &str) -> Self {
        let scanner = tags.map(|tags| ThoughtScanner::new(tags.clone(), tags.opened_by(prompt)));
        Self { scanner, text: Vec::new() }
    }

    /// Takes a generated token and the text that is certain with it (an event's), and gives `each` what is certain.
    /// A control token's text is taken from the vocabulary: some models write their tags with control tokens.
    pub fn token(&mut self, tokenizer: &Tokenizer, token: u32, text: &str, each: &mut impl FnMut(Part, &str)) {
        self.push(text, each);
        if tokenizer.is_control(token) && !tokenizer.is_end(token) {
            self.feed(tokenizer.token_bytes(token).unwrap_or_default(), true, each);
        }
    }

    /// Takes the next piece of text, and gives `each` what is certain.
    pub fn push(&mut self, text: &str, each: &mut impl FnMut(Part, &str)) {
        self.feed(text.as_bytes(), false, each);
    }

    /// What was held back, when nothing follows.
    pub fn finish(&mut self, each: &mut impl FnMut(Part, &str)) {
        let Some(scanner) = &mut self.scanner else { return };
        let mut run = Run { part: scanner.part(), text: &mut self.text };
        while !scanner.held.is_empty() {
            scanner.release(&mut |part, byte| run.add(part, byte, each));
        }
        run.end(each);
    }

    /// Where the text stands.
    pub fn part(&self) -> Part {
        self.scanner.as_ref().map_or(Part::Answer, ThoughtScanner::part)
    }

    fn feed(&mut self, bytes: &[u8], control: bool, each: &mut impl FnMut(Part, &str)) {
        let mut run = Run { part: Part::Answer, text: &mut self.text };
        for byte in bytes {
            match &mut self.scanner {
                Some(scanner) => drop(scanner.take((*byte, control), &mut |part, byte| run.add(part, byte, each))),
                None => run.add(Part::Answer, *byte, each),
            }
        }
        run.end(each);
    }
}

/// Bytes of one part, gathered.
struct Run<'a> {
    part: Part,
    text: &'a mut Vec<u8>,
}

impl Run<'_> {
    fn add(&mut self, part: Part, byte: u8, each: &mut impl FnMut(Part, &str)) {
        if part != self.part {
            self.end(each);
            self.part = part;
        }
        self.text.push(byte);
    }

    /// Hands the bytes out. They are whole characters: a tag, and so what is held, starts with one.
    fn end(&mut self, each: &mut impl FnMut(Part, &str)) {
        if !self.text.is_empty() {
            each(self.part, &String::from_utf8_lossy(self.text));
            self.text.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the scanner would take the shorter for the longer.
    #[test]
    fn no_tag_or_mark_starts_another() {
        for (_, known) in KNOWN {
            let all: Vec<&str> = known.marks.iter().copied().chain([known.open, known.close]).collect();
            for (i, a) in all.iter().enumerate() {
                assert!(!a.is_empty() && all.iter().enumerate().all(|(j, b)| i == j || !b.starts_with(a)), "{a}");
            }
        }
    }
}
