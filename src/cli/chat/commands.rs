//! What begins with a slash.

use super::conversation::{Conversation, Report};
use super::{Talk, saved, settings, valves};
use cotvalve::error::{Error, Result};
use cotvalve::sampler::{Field, Sampling};
use std::ops::ControlFlow;
use std::path::Path;

/// Every command: name, what follows it, what it does.
const COMMANDS: [(&str, &str, &str); 15] = [
    (
        "alpha",
        "X",
        "turn the valves: 0 is the base model, 1 the valve as trained; TOKEN=ALPHA,... makes steps,\n\
        FROM..TO@TOKENS a line. attn X, mlp X, layers 0-9:X and NAME X turn parts, or one valve by its name",
    ),
    (
        "scope",
        "S",
        "which tokens the valves act on: all, generation (the answers only), or think (their thoughts only)",
    ),
    ("valves", "", "what is attached, and how it stands"),
    ("system", "TEXT", "the system message; /system - takes it away"),
    ("reset", "", "forget the conversation, but for the system message"),
    ("regen", "", "another answer to the last question"),
    ("edit", "TEXT", "put TEXT in the place of the last question; without TEXT, edit it"),
    ("thought", "", "the last thought"),
    ("fold", "on|off", "show a thought as one line that counts its tokens"),
    ("set", "NAME VALUE", "how tokens are drawn: /set temp 0.7; /set alone lists all"),
    ("stats", "", "tokens and speed of the last answer, and what the context holds"),
    ("save", "FILE", "keep the conversation, its dial and its sampling"),
    ("load", "FILE", "go on with a conversation that was saved"),
    ("help", "", "this list"),
    ("exit", "", "leave; so do Ctrl-D, and Ctrl-C twice. Ctrl-C stops an answer"),
];

const ENTRY_HELP: &str = "\
A line that ends with \\ goes on in the next; \"\"\" begins and ends a message of several lines, slashes and all.";

/// What may follow `typed`, the part of a command before the word that is being typed.
pub fn words_after(typed: &str) -> Vec<String> {
    let own = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
    match typed {
        "" => COMMANDS.iter().map(|(name, _, _)| format!("/{name}")).collect(),
        "/scope " => settings::scopes().map(|(name, _)| name).collect(),
        "/fold " => own(&["on", "off"]),
        "/set " => Sampling::fields().iter().map(|field| field.name.to_owned()).collect(),
        _ => Vec::new(),
    }
}

impl Talk<'_> {
    /// Does what a line says after its slash. Errors are said, and end nothing.
    pub(super) fn command(&mut self, line: &str) -> ControlFlow<()> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        self.editing = false;
        if ["exit", "quit", "bye"].contains(&name) {
            return ControlFlow::Break(());
        }
        match self.obey(name, rest) {
            Ok(said) if said.is_empty() => {}
            Ok(said) => self.screen.say(&said),
            Err(error) => self.screen.complain(&error.to_string()),
        }
        ControlFlow::Continue(())
    }

    /// Does it, and returns what to say.
    fn obey(&mut self, name: &str, rest: &str) -> Result<String> {
        let Self { loaded, conversation, sampling, .. } = self;
        match (name, rest) {
            ("alpha", text) => {
                if !text.is_empty() {
                    let scope = loaded.scope;
                    settings::turn(loaded, &mut conversation.session, Some(text), scope)?;
                }
                return Ok(format!("alpha {}", settings::openings(loaded)));
            }
            ("scope", text) => {
                if !text.is_empty() {
                    settings::turn(loaded, &mut conversation.session, None, settings::parse_scope(text)?)?;
                }
                return Ok(format!("scope {}", settings::scope(loaded.scope)));
            }
            ("valves", _) => return valves::describe(loaded),
            ("system", "") => return Ok(conversation.system().map_or("no system message".into(), str::to_owned)),
            ("system", text) => conversation.set_system(Some(text).filter(|text| *text != "-")),
            ("reset", _) => conversation.reset(),
            ("regen", _) => self.answer(|conversation, ask, view| conversation.ask_again(None, ask, view)),
            ("edit", "") => {
                conversation.question().ok_or_else(|| argument("edit", "nothing was answered yet"))?;
                self.editing = true;
            }
            ("edit", text) => self.answer(|conversation, ask, view| conversation.ask_again(Some(text), ask, view)),
            ("thought", _) => return Ok(conversation.thought().unwrap_or("no thought yet").to_owned()),
            ("fold", text) => {
                self.fold = on_or_off(text, self.fold)?;
                return Ok(format!("fold {}", if self.fold { "on" } else { "off" }));
            }
            ("set", "") => {
                let line = |field: &Field| format!("{} {}\n", field.name, field.get(sampling));
                return Ok(Sampling::fields().iter().map(line).collect::<String>().trim_end().to_owned());
            }
            ("set", text) => settings::set_field(sampling, text)?,
            ("stats", _) => return Ok(self.stats()),
            ("save" | "load", "") => return Err(argument("file", "its name is missing")),
            ("save", file) => return saved::save(self, Path::new(file)),
            ("load", file) => return saved::load(self, Path::new(file)),
            ("help", _) => return Ok(help()),
            (other, _) => return Err(argument("command", &format!("there is no /{other}; /help lists them"))),
        }
        Ok(String::new())
    }

    fn stats(&self) -> String {
        let Conversation { session, turns, report, .. } = &self.conversation;
        let Some(report) = report else { return "no answer yet".into() };
        let pages = self.loaded.engine.cache_use();
        format!(
            "{}\ncontext {} of {} tokens, {} messages; cache {} of {} pages; alpha {}, scope {}; seed {}",
            of_answer(report),
            session.tokens().len(),
            self.loaded.engine.context(),
            turns.len(),
            pages.held + pages.cached,
            pages.pages,
            settings::openings(&self.loaded),
            settings::scope(self.loaded.scope),
            report.seed,
        )
    }
}

fn of_answer(report: &Report) -> String {
    let Report { counts, prompt, cached, held, .. } = report;
    let thought = if counts.thought > 0 { format!(" ({} of them thought)", counts.thought) } else { String::new() };
    let mut text = format!(
        "{} tokens{thought}, {:.1} a second; prompt {prompt} tokens, {cached} from the cache, {:.0} ms",
        counts.total(),
        report.rate(),
        report.first.as_secs_f64() * 1e3,
    );
    // The token drawn last is never in the cache, and the last of a prompt is computed for its logits.
    if cached + 2 < *held && *cached + 1 < *prompt {
        text += &format!("\nof {held} tokens before, the others read differently in this prompt or had another alpha");
    }
    text
}

fn help() -> String {
    let usage = |(name, rest, _): &(&str, &str, &str)| format!("/{name} {rest}").trim_end().len();
    let width = COMMANDS.iter().map(usage).max().unwrap_or(0);
    let indent = format!("\n{:width$}  ", "");
    let line = |(name, rest, what): &(&str, &str, &str)| {
        format!("{:width$}  {}\n", format!("/{name} {rest}"), what.replace('\n', &indent))
    };
    COMMANDS.iter().map(line).collect::<String>() + ENTRY_HELP
}

fn on_or_off(text: &str, before: bool) -> Result<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        "" => Ok(!before),
        _ => Err(argument("fold", "on or off")),
    }
}

fn argument(name: &'static str, reason: &str) -> Error {
    Error::Argument { name, reason: reason.into() }
}
