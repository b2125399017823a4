//! `valve chat`: a conversation in the terminal.

use super::options::{Loaded, ModelArgs};
use super::sampling::SamplingArgs;
use clap::Args;
use cotvalve::chat::Message;
use cotvalve::engine::{Session, Stop};
use cotvalve::error::{Error, Result};
use cotvalve::model::Model;
use std::io::{BufRead, IsTerminal};
use std::time::Instant;

#[derive(Args)]
pub struct Chat {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// System message
    #[arg(long = "system-prompt", visible_alias = "sys", value_name = "TEXT")]
    system: Option<String>,
}

const HELP: &str = "\
/alpha X   turn the valves: 0 is the base model, 1 the valve as trained; TOKEN=ALPHA,... makes steps,
           FROM..TO@TOKENS a line. attn X, mlp X, layers 0-9:X and NAME X turn parts, or one valve by its name
/reset     forget the conversation
/stats     tokens and speed of the last answer
/help      this list
/exit      leave; so does Ctrl-D. Ctrl-C stops an answer";

/// A conversation and its timeline.
struct Conversation {
    session: Session,
    messages: Vec<Message>,
    /// The text that the session's timeline stands for; empty if it does not end where a turn does.
    text: String,
    stats: String,
}

impl Chat {
    pub fn run(self) -> Result<()> {
        let mut loaded = self.model.load()?;
        let (text, stats) = (String::new(), "no answer yet".into());
        let mut conversation = Conversation { session: loaded.session()?, messages: Vec::new(), text, stats };
        conversation.reset(&self);
        let cancel = conversation.session.cancel_handle();
        let stop = cancel.clone();
        super::on_interrupt(move || stop.cancel());
        eprintln!("{} · alpha {} · /help", loaded.engine.model().path().display(), describe(&loaded));
        let mut lines = std::io::stdin().lock().lines();
        loop {
            if std::io::stdin().is_terminal() {
                eprint!("> ");
            }
            // One that came too late for the last answer is not meant for the next.
            cancel.clear();
            super::set_idle(true);
            let Some(line) = lines.next() else { return Ok(()) };
            super::set_idle(false);
            let line = line.map_err(|source| Error::Io { path: "standard input".into(), source })?;
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let Some(command) = line.strip_prefix('/') else {
                if let Err(error) = self.answer(line, &mut conversation, &loaded) {
                    eprintln!("valve: {error}");
                }
                continue;
            };
            match command.split_once(' ').unwrap_or((command, "")) {
                ("exit" | "quit" | "bye", _) => return Ok(()),
                ("help", _) => eprintln!("{HELP}"),
                ("reset", _) => conversation.reset(&self),
                ("stats", _) => eprintln!("{}", conversation.stats),
                ("alpha", "") => eprintln!("alpha {}", describe(&loaded)),
                ("alpha", value) => match loaded.set_alpha(value) {
                    Ok(()) => {
                        loaded.turn(&mut conversation.session)?;
                        eprintln!("alpha {}", describe(&loaded));
                    }
                    Err(error) => eprintln!("valve: {error}"),
                },
                (other, _) => eprintln!("valve: no command /{other}; /help lists them"),
            }
        }
    }

    /// Answers one message; a failed or empty answer leaves the conversation as it was.
    fn answer(&self, text: &str, conversation: &mut Conversation, loaded: &Loaded) -> Result<()> {
        conversation.messages.push(Message::new("user", text));
        let answer = self.generate(conversation, loaded);
        match &answer {
            Ok(answer) if !answer.is_empty() => conversation.messages.push(Message::new("assistant", answer)),
            _ => drop(conversation.messages.pop()),
        }
        answer.map(|_| ())
    }

    fn generate(&self, conversation: &mut Conversation, loaded: &Loaded) -> Result<String> {
        let started = Instant::now();
        let model = loaded.engine.model();
        let rendered = model.render_chat(&conversation.messages)?;
        let prompt = conversation.encode(&rendered, model)?;
        conversation.text.clear();
        let cached = conversation.session.prompt(&prompt)?;
        let limit = self.sampling.limit(prompt.len(), loaded.longest())?;
        let (mut answer, mut tokens, mut first) = (String::new(), 0, None);
        let (mut stop, mut last) = (None, 0);
        for event in conversation.session.generate(&self.sampling.sampling(), limit)? {
            let event = match event {
                Err(Error::Cancelled) => break,
                event => event?,
            };
            first.get_or_insert_with(Instant::now);
            tokens += 1;
            super::print(&event.text)?;
            answer.push_str(&event.text);
            (stop, last) = (event.stop, event.token);
        }
        super::print("\n")?;
        if stop == Some(Stop::End) {
            conversation.text = format!("{rendered}{answer}{}", model.tokenizer().piece(last)?);
        }
        if stop == Some(Stop::Limit) && tokens == loaded.engine.context() - prompt.len() {
            eprintln!("valve: the context of {} tokens is full; /reset starts over", loaded.engine.context());
        }
        let first = first.unwrap_or(started);
        let rate = tokens.saturating_sub(1) as f64 / first.elapsed().as_secs_f64().max(1e-9);
        conversation.stats = format!(
            "{tokens} tokens, {rate:.1} a second; prompt {} tokens, {cached} from the cache, {:.0} ms",
            prompt.len(),
            (first - started).as_secs_f64() * 1e3,
        );
        Ok(answer)
    }
}

impl Conversation {
    /// The tokens of `rendered`. Where it goes on from the text of the timeline, the timeline's own tokens are
    /// kept: an answer read back as text need not give the tokens it was drawn as, and the cache holds those.
    fn encode(&self, rendered: &str, model: &Model) -> Result<Vec<u32>> {
        match rendered.strip_prefix(&self.text).filter(|_| !self.text.is_empty()) {
            Some(rest) => {
                let mut tokens = self.session.tokens();
                tokens.extend(model.tokenizer().encode(rest, true, false)?);
                Ok(tokens)
            }
            None => model.tokenizer().encode(rendered, true, true),
        }
    }

    fn reset(&mut self, chat: &Chat) {
        self.messages.clear();
        self.text.clear();
        self.messages.extend(chat.system.iter().map(|text| Message::new("system", text)));
    }
}

fn describe(loaded: &Loaded) -> String {
    if loaded.valves.is_empty() { "- (no valve attached)".into() } else { loaded.alpha() }
}
