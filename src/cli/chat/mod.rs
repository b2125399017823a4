//! `valve chat`: a conversation in the terminal.

mod commands;
mod conversation;
mod input;
mod saved;
mod screen;
mod settings;
mod timeline;
mod valves;

use super::options::{Loaded, ModelArgs};
use super::sampling::SamplingArgs;
use clap::Args;
use conversation::{Ask, Conversation, End};
use cotvalve::error::{Error, Result};
use cotvalve::sampler::Sampling;
use input::{Entry, Input};
use screen::{Screen, View};

#[derive(Args)]
pub struct Chat {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// System message
    #[arg(long = "system-prompt", visible_alias = "sys", value_name = "TEXT")]
    system: Option<String>,
    /// Show a thought as one line that counts its tokens
    #[arg(long)]
    fold: bool,
    /// Keep no history of what is typed
    #[arg(long)]
    no_history: bool,
}

/// What to do about a full context.
const FULL: &str = "/reset starts over, and with --context-shift the oldest would be forgotten";

/// All that a command may turn.
struct Talk<'a> {
    args: &'a Chat,
    loaded: Loaded,
    conversation: Conversation,
    sampling: Sampling,
    screen: Screen,
    fold: bool,
    /// The last question stands in the editor, and what comes of it takes its place.
    editing: bool,
}

impl Chat {
    pub fn run(self) -> Result<()> {
        let loaded = self.model.load()?;
        let screen = Screen::new();
        let mut input = Input::new(&screen, !self.no_history);
        let conversation = Conversation::new(loaded.session()?, self.system.as_deref());
        let cancel = conversation.session.cancel_handle();
        let stop = cancel.clone();
        super::on_interrupt(move || stop.cancel());
        let (sampling, fold, args) = (self.sampling.sampling(), self.fold, &self);
        let mut talk = Talk { args, loaded, conversation, sampling, screen, fold, editing: false };
        let name = talk.loaded.engine.model().path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        screen.say(&format!("{name} · alpha {} · /help", settings::openings(&talk.loaded)));
        let mut interrupted = false;
        loop {
            // One that came too late for the last answer is not meant for the next.
            cancel.clear();
            let initial = talk.conversation.question().filter(|_| talk.editing).unwrap_or_default().to_owned();
            super::set_idle(true);
            let entry = input.read(&initial)?;
            super::set_idle(false);
            let again = std::mem::replace(&mut interrupted, entry == Entry::Interrupt);
            match entry {
                Entry::End => return Ok(()),
                Entry::Interrupt if again => return Ok(()),
                Entry::Interrupt => {
                    talk.editing = false;
                    screen.say("Ctrl-C once more leaves");
                }
                Entry::Block(text) => talk.hear(&text),
                Entry::Line(line) => match line.strip_prefix('/') {
                    None => talk.hear(&line),
                    Some(command) => {
                        if talk.command(command).is_break() {
                            return Ok(());
                        }
                    }
                },
            }
        }
    }
}

impl Talk<'_> {
    /// Answers a message; whatever goes wrong, the conversation goes on.
    fn hear(&mut self, text: &str) {
        if std::mem::take(&mut self.editing) {
            self.answer(|conversation, ask, view| conversation.ask_again(Some(text), ask, view));
        } else if !text.is_empty() {
            self.answer(|conversation, ask, view| conversation.ask(text, ask, view));
        }
    }

    fn answer(&mut self, generate: impl FnOnce(&mut Conversation, &Ask<'_>, &mut View) -> Result<()>) {
        let longest = self.loaded.longest();
        let ask = Ask {
            model: self.loaded.engine.model(),
            sampling: &self.sampling,
            longest,
            limit: &|prompt| self.args.sampling.limit(prompt, longest),
        };
        let openings = settings::openings(&self.loaded);
        let mut view = View::new(self.screen, self.fold, openings.clone());
        match generate(&mut self.conversation, &ask, &mut view) {
            Ok(()) => {}
            Err(error @ Error::ContextFull { .. }) => {
                return self.screen.complain(&format!("{error}; {FULL}"));
            }
            Err(error) => return self.screen.complain(&error.to_string()),
        }
        let Some(report) = &self.conversation.report else { return };
        if report.full {
            self.screen.complain(&format!("the context of {longest} tokens is full; {FULL}"));
        }
        let stopped = if report.end == End::Stopped { "stopped · " } else { "" };
        let counts = report.counts;
        let thought = if counts.thought > 0 { format!("thought {}, ", counts.thought) } else { String::new() };
        let (answered, rate, cached) = (counts.answer, report.rate(), report.cached);
        let line = format!(
            "{stopped}{thought}answered {answered} tokens · {rate:.1} tokens/s · α {openings} · {cached} cached"
        );
        self.screen.aside(&line);
    }
}
