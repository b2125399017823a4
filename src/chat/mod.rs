//! The chat template of a model file: messages to the prompt the model was trained on.
//!
//! A template is a program (Jinja) that comes with a model from anywhere, so it runs with no access to files, on a
//! budget of work that also bounds memory, and on a thread of its own, whose stack is deep enough for any source.

mod clock;
mod guard;
mod json;
mod message;
mod program;
mod python;
mod source;
mod thought;

pub use clock::utc_now;
pub use message::{Message, RenderOptions, ToolCall};
pub use thought::{Part, ThoughtScanner, ThoughtSplitter, ThoughtTag, ThoughtTags};

use crate::error::{Error, Result};
use message::ThoughtHabit;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, State, Value};
use program::Program;
use serde_json::Value as Json;

/// Longest template, in bytes. Real ones are below a third of this.
const SOURCE_BYTES_MAX: usize = 128 << 10;
/// Stack for parsing and rendering what these limits let through, and for each unit of fuel, which may nest values
/// that are then let go of one inside the other. Only what is touched is used.
const STACK_BYTES: usize = 64 << 20;
const STACK_BYTES_A_FUEL: usize = 128;
/// Depth of macros, recursive loops and blocks.
const RECURSION_MAX: usize = 256;
/// Work for a render, in units of minijinja's fuel: an instruction, or 64 bytes created or read.
const FUEL: u64 = 250_000;
/// More of it for each message, for each two of them (some templates look back from every message), and for so many
/// bytes of messages; and the most that this makes.
const FUEL_A_MESSAGE: u64 = 500;
const FUEL_A_PAIR: u64 = 8;
const BYTES_A_FUEL: u64 = 4;
const FUEL_MAX: u64 = 8_000_000;
/// Longest prompt, in bytes, besides what the messages take; these may appear this many times.
const OUTPUT_BYTES: usize = 1 << 20;
const OUTPUT_COPIES: usize = 4;

const NAME: &str = "chat";

/// A parsed chat template (`tokenizer.chat_template`), in the dialect of Hugging Face transformers: `trim_blocks`,
/// `lstrip_blocks`, Python's methods of strings, lists and dictionaries, `raise_exception`, `strftime_now` (in UTC)
/// and a `tojson` that escapes nothing for HTML.
pub struct Template {
    environment: Environment<'static>,
    /// Compiled anew for each render, which takes less than a millisecond.
    source: String,
    bos_text: String,
    eos_text: String,
    tags: Option<ThoughtTags>,
    habit: ThoughtHabit,
}

impl Template {
    /// Parses `source`; `bos_text` and `eos_text` become its `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Template`] with the line if `source` is no template, is nested too deeply, or is longer than 128 KiB.
    pub fn new(source: &str, bos_text: &str, eos_text: &str) -> Result<Self> {
        if source.len() > SOURCE_BYTES_MAX {
            let what = format!("it has {} bytes; {SOURCE_BYTES_MAX} are supported", source.len());
            return Err(Error::Template(what));
        }
        let (environment, prepared) = with_deep_stack(0, || {
            let environment = environment()?;
            let source = source::prepare(source)?;
            Program::new(&source)?;
            Ok((environment, source))
        })?;
        let tags = ThoughtTags::of(source);
        let habit = ThoughtTags::habit(tags.as_ref(), source);
        Ok(Self { environment, source: prepared, bos_text: bos_text.into(), eos_text: eos_text.into(), tags, habit })
    }

    /// What the model writes around its thought; `None` if the template knows no thought.
    pub fn thought_tags(&self) -> Option<&ThoughtTags> {
        self.tags.as_ref()
    }

    /// The prompt of a conversation. With `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// Those of [`Self::render_with`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, &RenderOptions { add_generation_prompt, ..RenderOptions::default() })
    }

    /// The prompt of a conversation with tools and variables.
    ///
    /// # Errors
    /// [`Error::Template`] with cause and line if the template refuses the messages (`raise_exception`), fails, or
    /// exceeds its budget of work, depth or output.
    pub fn render_with(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        self.render_json(messages.iter().map(|m| m.json(&self.habit)).collect(), options)
    }

    /// The same, of messages as JSON objects.
    fn render_json(&self, messages: Vec<Json>, options: &RenderOptions) -> Result<String> {
        let count = messages.len() as u64;
        let context = Json::Object(options.context(messages, &self.bos_text, &self.eos_text));
        let bytes = context.to_string().len();
        let mut environment = self.environment.clone();
        let pairs = count.saturating_mul(count) / 2;
        let fuel = FUEL + FUEL_A_MESSAGE * count + FUEL_A_PAIR.saturating_mul(pairs) + bytes as u64 / BYTES_A_FUEL;
        let fuel = fuel.min(FUEL_MAX);
        environment.set_fuel(Some(fuel));
        let now = options.now.unwrap_or_else(clock::now);
        environment.add_function("strftime_now", move |format: &str| clock::strftime(format, now));
        let limit = OUTPUT_BYTES + OUTPUT_COPIES * bytes;
        with_deep_stack(fuel as usize, || {
            let text = Program::new(&self.source)?.run(&environment, json::value(&context))?;
            if text.len() > limit {
                let what = format!("the prompt exceeds {limit} bytes");
                return Err(minijinja::Error::new(minijinja::ErrorKind::WriteFailure, what));
            }
            Ok(text)
        })
    }

    /// The text that a conversation gains by the messages after the first `known`: what a cache that holds the
    /// rendering of these (without generation prompt) still has to process. `None` if the template rewrites earlier
    /// turns (some drop past thoughts), so that the whole prompt is a new one.
    ///
    /// # Errors
    /// As [`Self::render`]; [`Error::Argument`] if there are fewer than `known` messages.
    pub fn appended(&self, messages: &[Message], known: usize, add_generation_prompt: bool) -> Result<Option<String>> {
        let Some(first) = messages.get(..known) else {
            return Err(Error::argument("known", format!("{known} of {} messages", messages.len())));
        };
        let whole = self.render(messages, add_generation_prompt)?;
        let before = if known == 0 { String::new() } else { self.render(first, false)? };
        Ok(whole.strip_prefix(&before).map(str::to_owned))
    }
}

/// The dialect and its limits. There is no loader: a template can name no other.
fn environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_recursion_limit(RECURSION_MAX);
    guard::install(&mut environment);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |state: &State, why: &Value| {
        guard::weigh(state, why)?;
        Err::<Value, _>(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, python::text(why)))
    });
    Ok(environment)
}

fn syntax() -> std::result::Result<SyntaxConfig, minijinja::Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// Runs `work` on a thread with stack for so much fuel, and names the line of its error.
fn with_deep_stack<T: Send>(
    fuel: usize,
    work: impl FnOnce() -> std::result::Result<T, minijinja::Error> + Send,
) -> Result<T> {
    let done = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat-template".into())
            .stack_size(STACK_BYTES + STACK_BYTES_A_FUEL * fuel);
        match thread.spawn_scoped(scope, || work().map_err(|error| describe(&error))) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err("it made the template engine panic".into())),
            Err(error) => Err(format!("no thread to run it on: {error}")),
        }
    });
    done.map_err(Error::Template)
}

fn describe(error: &minijinja::Error) -> String {
    let mut text = error.line().map_or(String::new(), |line| format!("line {line}: "));
    text += &error.kind().to_string();
    if let Some(detail) = error.detail() {
        text += ": ";
        text += detail;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
