//! The program from end to end, on a tiny model with random weights.

#![cfg(feature = "cli")]

#[path = "cli/adapters.rs"]
mod adapters;
#[path = "cli/alpha.rs"]
mod alpha;
#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/chat.rs"]
mod chat;
#[path = "cli/files.rs"]
mod files;
#[path = "cli/interrupt.rs"]
mod interrupt;
#[path = "cli/quantize.rs"]
mod quantize;
#[path = "cli/run.rs"]
mod run;
#[path = "cli/sampling.rs"]
mod sampling;
mod support;
#[path = "cli/terminal/mod.rs"]
mod terminal;

use cotvalve::tensor::TensorType;
use std::ffi::OsStr;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use support::gguf_fixture::{LAYERS, tiny_adapter, tiny_llama};
use tempfile::TempDir;

/// A folder with the tiny model and two adapters on all its projections.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        let targets: Vec<_> = (0..LAYERS).flat_map(|l| parts.map(|part| format!("blk.{l}.{part}.weight"))).collect();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        folder.write("model.gguf", tiny_llama(3, TensorType::F16));
        folder.write("a.gguf", tiny_adapter(4, 4, TensorType::F16, &targets));
        folder.write("b.gguf", tiny_adapter(5, 4, TensorType::F16, &targets));
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// `valve SUBCOMMAND -m MODEL -t 1 ARGS`, with nothing to read.
    fn command(&self, subcommand: &str, args: &[&str]) -> Command {
        let model = self.path("model.gguf");
        let mut command = valve(&[subcommand, "-m", &model]);
        if subcommand != "tokenize" {
            command.args(["-t", "1"]);
        }
        command.args(args);
        command
    }

    /// What it prints; it must succeed.
    fn stdout(&self, subcommand: &str, args: &[&str]) -> String {
        succeed(self.command(subcommand, args).output().unwrap()).0
    }

    /// `valve run` without chance, 16 tokens.
    fn greedy(&self, args: &[&str]) -> String {
        self.stdout("run", &[&["--temp", "0", "-n", "16", "-p", "the hint"], args].concat())
    }
}

fn valve(args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valve"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts the program with pipes on all three sides.
fn piped(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).spawn().unwrap()
}

/// Runs the program to its end with `input` to read.
fn feed(command: Command, input: &str) -> Output {
    let mut child = piped(command);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Standard output and standard error of a program that succeeded.
fn succeed(output: Output) -> (String, String) {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}: {stderr}", output.status);
    (String::from_utf8(output.stdout).unwrap(), stderr)
}
