//! Splitting a thought from the answer after it.

/// Which of the two a piece of text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Thought,
    Answer,
}

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Splits text that comes in pieces.
pub struct Splitter {
    inside: bool,
    held: String,
}

impl Splitter {
    /// For an answer to `prompt` from a model with this chat template; without tags all is answer.
    pub fn new(prompt: &str) -> Self {
        Self { inside: prompt.trim_end().ends_with(OPEN), held: String::new() }
    }

    /// Takes the next piece, and gives `each` what is certain.
    pub fn push(&mut self, text: &str, each: &mut impl FnMut(Part, &str)) {
        self.held.push_str(text);
        loop {
            let (tag, part) = if self.inside { (CLOSE, Part::Thought) } else { (OPEN, Part::Answer) };
            let Some(at) = self.held.find(tag) else {
                let sure = (0..=self.held.len())
                    .find(|i| self.held.is_char_boundary(*i) && tag.starts_with(&self.held[*i..]))
                    .unwrap_or(self.held.len());
                if sure > 0 {
                    each(part, &self.held[..sure]);
                    self.held.drain(..sure);
                }
                return;
            };
            if at > 0 {
                each(part, &self.held[..at]);
            }
            self.held.drain(..at + tag.len());
            self.inside = !self.inside;
        }
    }

    /// What was held back, when nothing follows.
    pub fn finish(&mut self, each: &mut impl FnMut(Part, &str)) {
        let part = self.part();
        if !self.held.is_empty() {
            each(part, &std::mem::take(&mut self.held));
        }
    }

    /// Where the text stands.
    pub fn part(&self) -> Part {
        if self.inside { Part::Thought } else { Part::Answer }
    }
}
