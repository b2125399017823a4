//! `valve chat` in a terminal: a pty, and an emulator that keeps its screen.

#![cfg(unix)]

mod basics;
mod display;
mod keeping;

use super::Folder;
use crate::support::gguf_fixture::{vocabulary, with_metadata};
use cotvalve::gguf::Strings;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// No test waits for time to pass, but for what must come to the screen; a machine may be slow.
const DEADLINE: Duration = Duration::from_secs(60);
/// So many that nothing scrolls away.
const ROWS: u16 = 200;
const COLUMNS: u16 = 100;
const CLOSE: &str = "</think>";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const UP: &str = "\x1b[A";
const LEFT: &str = "\x1b[D";

/// Titles that the program set.
#[derive(Default)]
struct Titles(Vec<String>);

impl vt100::Callbacks for Titles {
    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        self.0.push(String::from_utf8_lossy(title).into_owned());
    }
}

/// The tiny model's folder, with a vocabulary that shows: what would be a control character or a part of one is a
/// word, and one is the tag that ends a thought. With `template`, the model has that one.
fn readable(template: Option<&str>) -> Folder {
    let folder = Folder::new();
    let specials = vocabulary().iter().position(|token| token == "!").unwrap() - usize::from(b'!');
    let words = |(id, token): (usize, String)| match id.checked_sub(specials).and_then(|id| u8::try_from(id).ok()) {
        Some(0) => CLOSE.into(),
        Some(byte) if byte != b'\n' && !(b' '..=b'~').contains(&byte) => format!("Ġw{byte}"),
        _ => token,
    };
    let tokens = vocabulary().into_iter().enumerate().map(words).collect::<Strings>();
    let mut changes = vec![("tokenizer.ggml.tokens", tokens.into())];
    changes.extend(template.map(|template| ("tokenizer.chat_template", template.into())));
    let bytes = std::fs::read(folder.path("model.gguf")).unwrap();
    folder.write("model.gguf", with_metadata(bytes, &changes));
    folder
}

/// A program in a terminal.
struct Terminal {
    master: Box<dyn MasterPty + Send>,
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    output: Receiver<Vec<u8>>,
    parser: vt100::Parser<Titles>,
    /// All that the program wrote.
    bytes: Vec<u8>,
}

impl Terminal {
    /// `valve chat` on the folder's model, greedy, at most 16 tokens an answer, unless `args` say otherwise. Returns
    /// when it waits for input.
    fn chat(folder: &Folder, args: &[&str]) -> Self {
        Self::chat_in(folder, args, &[])
    }

    /// The same, with more in its environment.
    fn chat_in(folder: &Folder, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_valve"));
        command.args(["chat", "-m", &folder.path("model.gguf"), "-t", "1"]);
        for (flag, value) in [("--temp", "0"), ("-n", "16")] {
            if !args.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command.args(args);
        command.env_remove("NO_COLOR");
        command.env("TERM", "xterm-256color");
        command.env("XDG_STATE_HOME", folder.path("state"));
        environment.iter().for_each(|(name, value)| command.env(name, value));
        let size = PtySize { rows: ROWS, cols: COLUMNS, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).unwrap();
        let child = pair.slave.spawn_command(command).unwrap();
        // So that the program's is the only one, and its end is heard.
        drop(pair.slave);
        let (sender, output) = channel();
        let mut reader = pair.master.try_clone_reader().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let keys = pair.master.take_writer().unwrap();
        let [rows, columns] = [ROWS, COLUMNS].map(|n| NonZeroU16::new(n).unwrap());
        let parser = vt100::Parser::new_with_callbacks(rows, columns, 0, Titles::default());
        let mut terminal = Self { master: pair.master, child, keys, output, parser, bytes: Vec::new() };
        terminal.wait("the prompt", Self::is_ready);
        terminal
    }

    /// What the screen shows.
    fn screen(&self) -> String {
        self.parser.screen().contents()
    }

    /// The row of the cursor.
    fn row(&self) -> u16 {
        self.parser.screen().cursor_position().0
    }

    /// What stands in the cursor's row.
    fn line(&self) -> String {
        self.parser.screen().rows(0, COLUMNS).nth(self.row().into()).unwrap()
    }

    /// Whether the prompt waits with nothing typed.
    fn is_ready(&self) -> bool {
        self.line().trim_end() == ">" && self.parser.screen().cursor_position().1 == 2
    }

    /// Reads what the program writes until `done`.
    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            let left = DEADLINE.saturating_sub(started.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => {
                    self.parser.process(&bytes);
                    self.bytes.extend(bytes);
                }
                Err(why) => panic!("{what} did not come ({why}); the screen:\n{}", self.screen()),
            }
        }
    }

    fn wait_for(&mut self, text: &str) {
        self.wait(&format!("{text:?}"), |terminal| terminal.screen().contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Types `text` and waits until it stands after the prompt.
    fn write(&mut self, text: &str) {
        self.press(text);
        self.wait(&format!("the echo of {text:?}"), |terminal| terminal.line().trim_end().ends_with(text.trim_end()));
    }

    /// Presses Enter and waits for the next prompt. Returns what was shown in between.
    fn enter(&mut self) -> Vec<String> {
        let row = self.row();
        self.press("\r");
        self.wait("the next prompt", |terminal| terminal.row() > row && terminal.is_ready());
        let rows = self.parser.screen().rows(0, COLUMNS).collect::<Vec<_>>();
        rows[usize::from(row) + 1..usize::from(self.row())].to_vec()
    }

    /// Types a line, enters it, and returns what was shown.
    fn say(&mut self, text: &str) -> Vec<String> {
        self.write(text);
        self.enter()
    }

    /// The program's exit code.
    fn end(&mut self) -> u32 {
        let started = Instant::now();
        loop {
            // A program that writes to a full pty does not end.
            while let Ok(bytes) = self.output.try_recv() {
                self.parser.process(&bytes);
                self.bytes.extend(bytes);
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.exit_code();
            }
            assert!(started.elapsed() < DEADLINE, "the program did not end; the screen:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The answer in what was shown: all before the status line.
fn answer(shown: &[String]) -> String {
    let end = shown.iter().position(|line| line.contains("tokens/s · α")).unwrap_or_else(|| panic!("{shown:?}"));
    shown[..end].join("\n")
}

/// The rows that a terminal shows of a text.
fn on_screen(text: &str) -> String {
    let [rows, columns] = [ROWS, COLUMNS].map(|n| NonZeroU16::new(n).unwrap());
    let mut parser = vt100::Parser::new(rows, columns, 0);
    parser.process(text.trim().replace('\n', "\r\n").as_bytes());
    let rows: Vec<String> = parser.screen().rows(0, COLUMNS).collect();
    rows.join("\n").trim_end().to_owned()
}

/// The conversation as `/save` writes it.
fn saved(terminal: &mut Terminal, folder: &Folder) -> serde_json::Value {
    let file = folder.path("saved.json");
    terminal.say(&format!("/save {file}"));
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}
