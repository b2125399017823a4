//! What is typed, or comes through a pipe.

use super::commands;
use super::screen::Screen;
use cotvalve::error::{Error, Result};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::Configurer;
use rustyline::error::{ReadlineError, Signal};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::ffi::OsString;
use std::io::{BufRead, ErrorKind};
use std::path::PathBuf;

const PROMPT: &str = "> ";
const BLOCK: &str = "\"\"\"";
/// Entries of the history file.
const HISTORY_MAX: usize = 2000;

/// One thing that was entered.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// A message or a command.
    Line(String),
    /// A message in `"""`, as it is.
    Block(String),
    /// Ctrl-C at the prompt.
    Interrupt,
    /// Ctrl-D, or the end of a pipe.
    End,
}

/// Reads entries: with an editor where a terminal is at both ends, else plain lines.
pub struct Input {
    editor: Option<Editor<Assistant, FileHistory>>,
    history: Option<PathBuf>,
}

impl Input {
    /// `keep`: the history goes to the user's state folder. Trouble with that is said, and ends nothing.
    pub fn new(screen: &Screen, keep: bool) -> Self {
        let mut input = Self { editor: None, history: None };
        if !screen.is_terminal() {
            return input;
        }
        match editor() {
            Ok(editor) => input.editor = Some(editor),
            Err(error) => screen.complain(&format!("no line editing: {error}")),
        }
        if let Some(editor) = input.editor.as_mut().filter(|_| keep)
            && let Some(path) = history_path()
        {
            let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            let loaded = made.map_err(ReadlineError::Io).and_then(|()| match editor.load_history(&path) {
                Err(ReadlineError::Io(e)) if e.kind() == ErrorKind::NotFound => Ok(()),
                loaded => loaded,
            });
            match loaded {
                Ok(()) => input.history = Some(path),
                Err(error) => screen.complain(&format!("no history: {}: {error}", path.display())),
            }
        }
        input
    }

    /// The next entry. `initial` stands in the editor to begin with.
    ///
    /// # Errors
    /// [`Error::Io`] if the input cannot be read.
    pub fn read(&mut self, initial: &str) -> Result<Entry> {
        let Some(editor) = &mut self.editor else { return read_plain(&mut std::io::stdin().lock()) };
        let text = match editor.readline_with_initial(PROMPT, (initial, "")) {
            Ok(text) => text,
            Err(ReadlineError::Eof) => return Ok(Entry::End),
            Err(ReadlineError::Interrupted | ReadlineError::Signal(Signal::Interrupt)) => return Ok(Entry::Interrupt),
            // A resize while a multi-line entry is drawn: the editor starts the entry again.
            Err(ReadlineError::Signal(_)) => return Ok(Entry::Line(String::new())),
            Err(error) => return Err(failed(error)),
        };
        if !text.trim().is_empty() {
            // A history that cannot be written is no reason to stop; it is kept in memory.
            let added = editor.add_history_entry(text.as_str()).unwrap_or(false);
            if let Some(path) = self.history.as_ref().filter(|_| added) {
                editor.append_history(path).ok();
            }
        }
        Ok(entry(&text))
    }
}

fn failed(error: ReadlineError) -> Error {
    let source = match error {
        ReadlineError::Io(source) => source,
        other => std::io::Error::other(other),
    };
    Error::Io { path: "standard input".into(), source }
}

fn editor() -> rustyline::Result<Editor<Assistant, FileHistory>> {
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(false).build();
    let mut editor = Editor::with_config(config)?;
    editor.set_max_history_size(HISTORY_MAX)?;
    editor.set_history_ignore_space(true);
    editor.set_helper(Some(Assistant(FilenameCompleter::new())));
    Ok(editor)
}

/// `cotvalve/history` in the state folder: $XDG_STATE_HOME, else ~/.local/state, or %LOCALAPPDATA%.
fn history_path() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v: &OsString| !v.is_empty()).map(PathBuf::from);
    let home = || folder("HOME").map(|home| home.join(".local/state"));
    let state = folder("XDG_STATE_HOME").or_else(|| folder("LOCALAPPDATA")).or_else(home)?;
    Some(state.join("cotvalve/history"))
}

/// Lines until the entry is complete.
fn read_plain(lines: &mut impl BufRead) -> Result<Entry> {
    let mut text = String::new();
    loop {
        let read = lines.read_line(&mut text).map_err(|e| failed(ReadlineError::Io(e)))?;
        if read == 0 && text.is_empty() {
            return Ok(Entry::End);
        }
        let line = text.trim_end_matches(['\r', '\n']);
        if read == 0 || !incomplete(line) {
            return Ok(entry(line));
        }
    }
}

/// Whether more lines belong to `text`: a block is open, or the last line ends with a backslash.
fn incomplete(text: &str) -> bool {
    match text.trim_start().strip_prefix(BLOCK) {
        Some(rest) => !rest.contains(BLOCK),
        None => text.ends_with('\\'),
    }
}

/// The entry that a complete text stands for.
fn entry(text: &str) -> Entry {
    if let Some(rest) = text.trim_start().strip_prefix(BLOCK) {
        let inside = rest.rfind(BLOCK).map_or(rest, |end| &rest[..end]);
        return Entry::Block(inside.trim_matches(['\r', '\n']).to_owned());
    }
    Entry::Line(text.replace("\\\r\n", "\n").replace("\\\n", "\n").trim().to_owned())
}

/// What the editor asks while a line is typed.
struct Assistant(FilenameCompleter);

impl Helper for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let open = incomplete(context.input());
        Ok(if open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        if ["/save ", "/load "].iter().any(|command| line.starts_with(command)) {
            return self.0.complete_path(line, at);
        }
        let typed = &line[..at];
        let start = typed.rfind(' ').map_or(0, |space| space + 1);
        let words = commands::words_after(&typed[..start]);
        let fitting = words.into_iter().filter(|word| word.starts_with(&typed[start..]));
        let pair = |word: String| Pair { display: word.clone(), replacement: word + " " };
        Ok((start, fitting.map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Entry> {
        let mut lines = text.as_bytes();
        let mut entries = Vec::new();
        loop {
            match read_plain(&mut lines).unwrap() {
                Entry::End => return entries,
                entry => entries.push(entry),
            }
        }
    }

    #[test]
    fn plain_lines_are_entries() {
        let line = |text: &str| Entry::Line(text.into());
        assert_eq!(all("one\n\n two \r\nthree"), [line("one"), line(""), line("two"), line("three")]);
        assert_eq!(all(""), []);
    }

    #[test]
    fn a_backslash_and_a_block_hold_several_lines() {
        let line = |text: &str| Entry::Line(text.into());
        let block = |text: &str| Entry::Block(text.into());
        assert_eq!(all("one\\\ntwo\\\r\nthree\nfour\n"), [line("one\ntwo\nthree"), line("four")]);
        assert_eq!(all("\"\"\"/one\n  two\\\n\n\"\"\"\nthree\n"), [block("/one\n  two\\"), line("three")]);
        assert_eq!(all("\"\"\"one\"\"\"\n"), [block("one")]);
        // An end of the pipe closes what is open.
        assert_eq!(all("\"\"\"one\ntwo"), [block("one\ntwo")]);
        assert_eq!(all("one\\"), [line("one\\")]);
    }
}
