//! A conversation: what was said, and the session that keeps its cache.

use super::screen::{Counts, View};
use super::timeline::Timeline;
use cotvalve::chat::{Message, Part, ThoughtSplitter};
use cotvalve::engine::{Event, Session, Stop};
use cotvalve::error::{Error, Result};
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The model ended it, or a stop text came.
    Complete,
    /// Ctrl-C.
    Stopped,
    /// The limit on its tokens, or a full context.
    Limit,
}

/// One message of a conversation, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    pub role: String,
    pub content: String,
    /// What the model thought before it said that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thought: String,
    /// Of an answer only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

impl Turn {
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.into(), content: content.into(), thought: String::new(), end: None }
    }

    /// As a template takes it.
    fn message(&self) -> Message {
        if self.role == "assistant" {
            Message::assistant(&*self.thought, &*self.content)
        } else {
            Message::new(&*self.role, &*self.content)
        }
    }

    fn add(&mut self, part: Part, text: &str) {
        match part {
            Part::Thought => self.thought.push_str(text),
            Part::Answer => self.content.push_str(text),
        }
    }
}

/// What the last answer took.
#[derive(Clone, Debug)]
pub struct Report {
    pub counts: Counts,
    pub end: End,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// How many of them were in the cache.
    pub cached: usize,
    /// Tokens that the cache held before.
    pub held: usize,
    /// To the first token.
    pub first: Duration,
    /// From there to the last.
    pub rest: Duration,
    pub seed: u64,
    /// The context had no room for more.
    pub full: bool,
}

impl Report {
    /// Tokens a second after the first.
    pub fn rate(&self) -> f64 {
        self.counts.total().saturating_sub(1) as f64 / self.rest.as_secs_f64().max(1e-9)
    }
}

/// A conversation and its timeline.
pub struct Conversation {
    pub session: Session,
    pub turns: Vec<Turn>,
    pub timeline: Timeline,
    /// How often the last question was answered before.
    attempt: u64,
    pub report: Option<Report>,
}

impl Conversation {
    pub fn new(session: Session, system: Option<&str>) -> Self {
        let (turns, timeline) = (Vec::new(), Timeline::default());
        let mut conversation = Self { session, turns, timeline, attempt: 0, report: None };
        conversation.set_system(system);
        conversation
    }

    /// The system message.
    pub fn system(&self) -> Option<&str> {
        self.turns.first().filter(|turn| turn.role == "system").map(|turn| &*turn.content)
    }

    /// Gives the conversation another system message, or none.
    pub fn set_system(&mut self, text: Option<&str>) {
        let there = usize::from(self.system().is_some());
        self.turns.splice(..there, text.map(|text| Turn::new("system", text)));
    }

    /// Forgets what was said, but for the system message. The cache may still serve the next conversation.
    pub fn reset(&mut self) {
        self.turns.truncate(usize::from(self.system().is_some()));
        self.attempt = 0;
        self.report = None;
    }

    /// Puts another conversation in the place of this one.
    pub fn replace(&mut self, turns: Vec<Turn>, timeline: Timeline) {
        self.turns = turns;
        self.timeline = timeline;
        self.attempt = 0;
        self.report = None;
    }

    /// The last question, if it was answered.
    pub fn question(&self) -> Option<&str> {
        let [.., question, answer] = &self.turns[..] else { return None };
        (question.role == "user" && answer.role == "assistant").then_some(&*question.content)
    }

    /// The last thought.
    pub fn thought(&self) -> Option<&str> {
        self.turns.iter().rev().map(|turn| &*turn.thought).find(|thought| !thought.is_empty())
    }

    /// Answers a message. An answer that failed with nothing said leaves the conversation as it was.
    ///
    /// # Errors
    /// Those of the template, the tokenizer and the session.
    pub fn ask(&mut self, question: &str, how: &Ask<'_>, view: &mut View) -> Result<()> {
        self.attempt = 0;
        self.turns.push(Turn::new("user", question));
        let answered = self.answer(how, view);
        if self.turns.last().is_some_and(|turn| turn.role == "user") {
            self.turns.pop();
        }
        answered
    }

    /// Answers the last question again, or what is put in its place. The answer that was there stays if nothing
    /// comes of it.
    ///
    /// # Errors
    /// As [`Self::ask`]; [`Error::Argument`] if there is no question.
    pub fn ask_again(&mut self, edited: Option<&str>, how: &Ask<'_>, view: &mut View) -> Result<()> {
        let Some(question) = self.question().map(|question| edited.unwrap_or(question).to_owned()) else {
            return Err(Error::Argument { name: "question", reason: "nothing was answered yet".into() });
        };
        let attempt = if edited.is_some() { 0 } else { self.attempt + 1 };
        let before = self.turns.split_off(self.turns.len() - 2);
        self.turns.push(Turn::new("user", &question));
        self.attempt = attempt;
        let answered = self.answer(how, view);
        if self.turns.last().is_some_and(|turn| turn.role == "user") {
            self.turns.pop();
            self.turns.extend(before);
        }
        answered
    }

    /// Adds an answer to the messages, unless it is empty.
    fn answer(&mut self, how: &Ask<'_>, view: &mut View) -> Result<()> {
        let mut turn = Turn::new("assistant", "");
        let answered = self.generate(how, view, &mut turn);
        if !turn.content.is_empty() || !turn.thought.is_empty() {
            // One that failed in the middle was stopped, too.
            turn.end.get_or_insert(End::Stopped);
            self.turns.push(turn);
        }
        answered
    }

    fn generate(&mut self, how: &Ask<'_>, view: &mut View, turn: &mut Turn) -> Result<()> {
        let started = Instant::now();
        let tokenizer = how.model.tokenizer();
        let messages: Vec<_> = self.turns.iter().map(Turn::message).collect();
        let rendered = how.model.render_chat(&messages)?;
        let held = self.session.tokens().len();
        let prompt = self.timeline.prompt(&rendered, tokenizer)?;
        let (prompt, cached) = (prompt.len(), self.session.prompt(prompt)?);
        let limit = (how.limit)(prompt)?;
        let sampling = Sampling { seed: how.sampling.seed.wrapping_add(self.attempt), ..how.sampling.clone() };
        let splitter = ThoughtSplitter::new(how.model.thought_tags().as_ref(), &rendered);
        let mut answer = Answer { splitter, turn, view };
        let (mut first, mut stop, mut failed) = (None, None, None);
        for event in self.session.generate(&sampling, limit)? {
            match event {
                Ok(event) => {
                    first.get_or_insert_with(Instant::now);
                    stop = event.stop;
                    answer.hear(&event, tokenizer)?;
                }
                Err(error) => failed = Some(error),
            }
        }
        let end = match (stop, &failed) {
            (_, Some(_)) => End::Stopped,
            (Some(Stop::Limit) | None, _) => End::Limit,
            _ => End::Complete,
        };
        answer.finish(end)?;
        self.timeline.answered(self.session.tokens(), tokenizer)?;
        let first = first.unwrap_or_else(Instant::now);
        let counts = view.counts();
        self.report = Some(Report {
            counts,
            end,
            prompt,
            cached,
            held,
            first: first - started,
            rest: first.elapsed(),
            seed: sampling.seed,
            full: end == End::Limit && prompt + counts.total() >= how.longest,
        });
        failed.filter(|error| !matches!(error, Error::Cancelled)).map_or(Ok(()), Err)
    }
}

/// An answer while it comes: split, shown, and kept.
struct Answer<'a> {
    splitter: ThoughtSplitter,
    turn: &'a mut Turn,
    view: &'a mut View,
}

impl Answer<'_> {
    fn hear(&mut self, event: &Event, tokenizer: &Tokenizer) -> Result<()> {
        let Self { splitter, turn, view } = self;
        let (before, mut shown) = (splitter.part(), Ok(()));
        splitter.token(tokenizer, event.token, &event.text, &mut |part, text| {
            turn.add(part, text);
            if shown.is_ok() {
                shown = view.piece(part, text);
            }
        });
        shown?;
        // The tags are the thought's.
        view.token(if before == Part::Thought { before } else { splitter.part() })
    }

    fn finish(self, end: End) -> Result<()> {
        let Self { mut splitter, turn, view } = self;
        let mut shown = Ok(());
        splitter.finish(&mut |part, text| {
            turn.add(part, text);
            if shown.is_ok() {
                shown = view.piece(part, text);
            }
        });
        shown?;
        turn.end = Some(end);
        if !turn.thought.is_empty() {
            // What stands between the tags and the words is the template's affair.
            turn.thought = turn.thought.trim().to_owned();
            turn.content = turn.content.trim_start().to_owned();
        }
        view.finish()
    }
}

/// How an answer is made.
pub struct Ask<'a> {
    pub model: &'a Model,
    pub sampling: &'a Sampling,
    /// Tokens that the timeline can come to have.
    pub longest: usize,
    /// Most tokens after a prompt of so many.
    pub limit: &'a dyn Fn(usize) -> Result<usize>,
}
