//! What is shown, and how: styles and live counts on a terminal, the answers alone in a pipe.

use cotvalve::chat::Part;
use cotvalve::error::Result;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shortest time between two live counts.
const LIVE: Duration = Duration::from_millis(100);

/// Where the conversation is shown.
#[derive(Clone, Copy)]
pub struct Screen {
    /// A terminal is at both ends.
    terminal: bool,
    /// It understands more than lines of text.
    control: bool,
    /// And styles are wanted.
    styles: bool,
}

impl Screen {
    /// As the process was started. $NO_COLOR and TERM=dumb are respected.
    pub fn new() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let control = terminal && set("TERM").is_none_or(|term| term != "dumb");
        Self { terminal, control, styles: control && set("NO_COLOR").is_none() }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Says something that is no answer, on standard error. That nobody reads it ends nothing.
    pub fn say(&self, text: &str) {
        writeln!(std::io::stderr(), "{text}").ok();
    }

    /// Says that something went wrong.
    pub fn complain(&self, what: &str) {
        self.say(&format!("valve: {what}"));
    }

    /// An aside, for a terminal only.
    pub fn aside(&self, text: &str) {
        if self.terminal {
            let styled = std::io::stderr().is_terminal();
            self.say(&if styled { self.dim(text) } else { text.into() });
        }
    }

    fn dim<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.styles { format!("\x1b[2m{text}\x1b[22m").into() } else { text.into() }
    }
}

/// Tokens of a thought and of the answer after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub thought: usize,
    pub answer: usize,
}

impl Counts {
    pub fn total(self) -> usize {
        self.thought + self.answer
    }
}

/// An answer while it comes.
///
/// The live counts stand in the terminal's title, where they are in nobody's way: no line of the text is drawn
/// over, whatever its width and wherever it wraps, and what is copied is the text alone.
pub struct View {
    screen: Screen,
    fold: bool,
    /// Shown in the title with the counts.
    alpha: String,
    counts: Counts,
    first: Option<Instant>,
    shown: Option<Instant>,
    titled: bool,
    /// What the last text on the screen was part of.
    last: Option<Part>,
    /// White space that is shown if more of the same part follows.
    space: String,
}

impl View {
    pub fn new(screen: Screen, fold: bool, alpha: String) -> Self {
        let (counts, space) = (Counts::default(), String::new());
        Self { screen, fold, alpha, counts, first: None, shown: None, titled: false, last: None, space }
    }

    /// One more token, of this part.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn token(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Thought => self.counts.thought += 1,
            Part::Answer => self.counts.answer += 1,
        }
        let now = Instant::now();
        self.first.get_or_insert(now);
        if !self.screen.control || self.shown.is_some_and(|shown| now - shown < LIVE) {
            return Ok(());
        }
        self.shown = Some(now);
        let live = format!("{} tokens{}", self.counts.total(), self.rate());
        if !self.titled {
            self.titled = true;
            // Keeps the title that was there.
            print("\x1b[22;2t")?;
        }
        print(&format!("\x1b]2;valve · {live} · α {}\x07", self.alpha))?;
        if self.fold && part == Part::Thought {
            self.last = Some(Part::Thought);
            print(&format!("\r{}\x1b[K", self.screen.dim(&format!("thinking… {live}"))))?;
        }
        Ok(())
    }

    fn rate(&self) -> String {
        let seconds = self.first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let steps = self.counts.total().saturating_sub(1);
        if steps == 0 { String::new() } else { format!(" · {:.1} tokens/s", steps as f64 / seconds.max(1e-9)) }
    }

    /// A piece of text.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn piece(&mut self, part: Part, text: &str) -> Result<()> {
        if !self.screen.terminal {
            // A pipe carries the answer and nothing else.
            return if part == Part::Answer { print(text) } else { Ok(()) };
        }
        if part == Part::Thought && self.fold {
            return Ok(());
        }
        let mut text = std::mem::take(&mut self.space) + text;
        if self.last != Some(part) {
            text.drain(..text.len() - text.trim_start().len());
        }
        if part == Part::Thought {
            self.space = text.split_off(text.trim_end().len());
        }
        if text.is_empty() {
            return Ok(());
        }
        if self.last != Some(part) {
            self.turn_to(part)?;
        }
        let text = harmless(&text);
        print(&if part == Part::Thought { self.screen.dim(&text) } else { text })
    }

    /// Ends the part on the screen, so that the next can begin.
    fn turn_to(&mut self, part: Part) -> Result<()> {
        if self.last == Some(Part::Thought) {
            self.end_thought()?;
        }
        self.last = Some(part);
        // Without styles a thought needs a name.
        if part == Part::Thought && !self.screen.styles { print("▾ thought\n") } else { Ok(()) }
    }

    fn end_thought(&mut self) -> Result<()> {
        self.space.clear();
        if !self.fold {
            return print("\n\n");
        }
        let line = format!("▸ thought {} tokens", self.counts.thought);
        let (start, end) = if self.screen.control { ("\r", "\x1b[K\n") } else { ("", "\n") };
        print(&format!("{start}{}{end}", self.screen.dim(&line)))
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn finish(&mut self) -> Result<()> {
        let hidden = self.fold && self.counts.thought > 0 && self.last.is_none_or(|last| last == Part::Thought);
        if self.screen.terminal && hidden {
            self.end_thought()?;
        } else {
            print("\n")?;
        }
        if self.titled { print("\x1b[23;2t") } else { Ok(()) }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }
}

fn print(text: &str) -> Result<()> {
    super::super::print(text)
}

/// The text without characters that command a terminal.
fn harmless(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(commands) { text.replace(commands, "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_does_not_command_the_terminal() {
        assert_eq!(harmless("one\n\ttwo α"), "one\n\ttwo α");
        assert_eq!(harmless("a\x1b[2Jb\rc\u{9b}d"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
    }
}
