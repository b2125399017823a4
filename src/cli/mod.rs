//! The `valve` program, a thin layer over the library.

mod alpha;
mod bench;
mod bench_serve;
mod chat;
mod convert;
mod dial;
mod fetch;
mod inspect;
mod logits;
mod merge;
mod options;
mod override_kv;
mod perplexity;
mod pull;
mod quantize;
mod run;
mod sampling;
mod synth;
mod tokenize;

use clap::{Parser, Subcommand};
use cotvalve::error::{Error, Result};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs GGUF models with a valve that sets how long they think.
#[derive(Parser)]
#[command(name = "valve", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer one prompt
    Run(run::Run),
    /// Talk with a model
    Chat(chat::Chat),
    /// Fetch a model
    Pull(pull::Pull),
    /// Show what a GGUF file holds
    Inspect(inspect::Inspect),
    /// Make a GGUF adapter of a PEFT folder, or the reverse
    Convert(convert::Convert),
    /// Write a model with adapters in its weights
    Merge(merge::Merge),
    /// Write a model in fewer bits
    Quantize(quantize::Quantize),
    /// Show the tokens of a text
    Tokenize(tokenize::Tokenize),
    /// Write the logits of a text
    Logits(logits::Logits),
    Bench(bench::Bench),
    /// Measure how well a model predicts a text, and how far it is from another
    Perplexity(perplexity::Perplexity),
    /// Write a model of random weights, to measure with
    Synth(synth::Synth),
    /// Measure speed on request, line by line
    #[command(hide = true)]
    BenchServe(bench_serve::BenchServe),
}

impl Cli {
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Run(command) => command.run(),
            Command::Chat(command) => command.run(),
            Command::Pull(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Convert(command) => command.run(),
            Command::Merge(command) => command.run(),
            Command::Quantize(command) => command.run(),
            Command::Tokenize(command) => command.run(),
            Command::Logits(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Perplexity(command) => command.run(),
            Command::Synth(command) => command.run(),
            Command::BenchServe(command) => command.run(),
        }
    }
}

/// llama.cpp's long names with one dash, as its users type them.
const ONE_DASH: [&str; 6] = ["-ctk", "-ctv", "-sys", "-hf", "-ngl", "-jf"];
/// llama-bench's, which elsewhere may be a short flag with its value.
const BENCH_ONE_DASH: [&str; 4] = ["-pg", "-ub", "-fa", "-oe"];

/// The program's arguments, with those names given the dash that the parser wants.
pub fn arguments() -> impl Iterator<Item = std::ffi::OsString> {
    let bench = std::env::args_os().nth(1).is_some_and(|subcommand| subcommand == "bench");
    std::env::args_os().map(move |arg| match arg.to_str() {
        Some(text) if ONE_DASH.contains(&text) || bench && BENCH_ONE_DASH.contains(&text) => format!("-{text}").into(),
        _ => arg,
    })
}

/// Writes answer text to standard output at once. A reader that has gone away ends the program quietly.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|source| Error::Io { path: "standard output".into(), source }),
    }
}

/// Whether the program waits for input, so that Ctrl-C leaves it.
static IDLE: AtomicBool = AtomicBool::new(false);

fn set_idle(idle: bool) {
    IDLE.store(idle, Ordering::SeqCst);
}

/// Calls `stop` on Ctrl-C while an answer is under way; between answers Ctrl-C ends the program.
fn on_interrupt(stop: impl Fn() + Send + 'static) {
    let handler = move || {
        if IDLE.load(Ordering::SeqCst) {
            eprintln!();
            std::process::exit(130);
        }
        stop();
    };
    // Without the handler Ctrl-C ends the program, which is no reason not to run.
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("valve: Ctrl-C will end the program: {error}");
    }
}
