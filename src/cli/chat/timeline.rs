//! The text that a session's tokens stand for, so that a prompt that goes on from it keeps them.

use cotvalve::error::Result;
use cotvalve::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// Text and tokens of a timeline, and the places where one is known to be the other.
///
/// An answer read back as text need not give the tokens that it was drawn as, and the cache holds those. So a
/// prompt whose text begins with the timeline's up to a mark takes the timeline's tokens up to there.
#[derive(Debug, Default)]
pub struct Timeline {
    text: String,
    tokens: Vec<u32>,
    /// (bytes of text, tokens), ascending: ends of prompts and of answers.
    marks: Vec<(usize, usize)>,
}

/// What of a timeline is kept in a file; a tokenizer gives the rest.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    tokens: Vec<u32>,
    /// How many tokens come before each mark.
    marks: Vec<usize>,
}

impl Timeline {
    pub fn keep(&self) -> Kept {
        Kept { tokens: self.tokens.clone(), marks: self.marks.iter().map(|(_, tokens)| *tokens).collect() }
    }

    /// The timeline of a file. One of another vocabulary says nothing: its tokens have another text, or none.
    pub fn of(kept: Kept, tokenizer: &Tokenizer) -> Self {
        let mut timeline = Self { text: String::new(), tokens: kept.tokens, marks: Vec::new() };
        for mark in kept.marks {
            let from = timeline.marks.last().map_or(0, |(_, tokens)| *tokens);
            let part = timeline.tokens.get(from..mark).filter(|part| !part.is_empty());
            let Some(text) = part.and_then(|part| tokenizer.decode(part).ok()) else { return Self::default() };
            timeline.text.push_str(&text);
            timeline.mark_at(mark);
        }
        timeline
    }

    /// The tokens of `prompt`, which become the timeline.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`]; the timeline is then as it was.
    pub fn prompt(&mut self, prompt: &str, tokenizer: &Tokenizer) -> Result<&[u32]> {
        let agree = |(bytes, _): &(usize, usize)| prompt.starts_with(&self.text[..*bytes]);
        let kept = self.marks.iter().take_while(|mark| agree(mark)).count();
        match self.marks[..kept].last() {
            Some((bytes, tokens)) => {
                let rest = tokenizer.encode(&prompt[*bytes..], true, false)?;
                self.tokens.truncate(*tokens);
                self.tokens.extend(rest);
            }
            None => self.tokens = tokenizer.encode(prompt, true, true)?,
        }
        self.text.replace_range(.., prompt);
        self.marks.truncate(kept);
        self.mark();
        Ok(&self.tokens)
    }

    /// What the session's timeline has become by an answer, complete or not.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](cotvalve::error::Error) for a token outside the vocabulary.
    pub fn answered(&mut self, tokens: Vec<u32>, tokenizer: &Tokenizer) -> Result<()> {
        let Some(drawn) = tokens.strip_prefix(&self.tokens[..]) else {
            // The session has moved on by itself.
            self.clear();
            return Ok(());
        };
        // Of a character that was stopped in the middle the answer has nothing: a prompt with that answer does
        // not go on from here.
        self.text.push_str(&tokenizer.decode(drawn)?);
        self.tokens = tokens;
        self.mark();
        Ok(())
    }

    fn mark(&mut self) {
        self.mark_at(self.tokens.len());
    }

    fn mark_at(&mut self, tokens: usize) {
        let mark = (self.text.len(), tokens);
        if self.marks.last() != Some(&mark) {
            self.marks.push(mark);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
