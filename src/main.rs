//! The `valve` program.

mod cli;

use clap::{Parser, Subcommand};
use cotvalve::error::{Error, Result};
use cotvalve::gguf::Gguf;
use cotvalve::tokenizer::{Tokenizer, Vocab};
use std::path::PathBuf;
use std::process::ExitCode;

/// A GGUF inference engine whose low-rank valve sets how long a model thinks.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Pull(cli::pull::Pull),
    Tokenize(cli::tokenize::Tokenize),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Verb::Pull(pull) => pull.run(),
        Verb::Tokenize(tokenize) => tokenizer(tokenize.model.as_deref()).and_then(|t| tokenize.run(&t)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("valve: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The tokenizer of a model: a path, or a name that can be pulled.
fn tokenizer(model: Option<&str>) -> Result<Tokenizer> {
    let model = model.unwrap_or("smollm2");
    let path = match PathBuf::from(model) {
        path if path.exists() => path,
        _ => cli::pull::ensure(model, false)?.path,
    };
    let file = Gguf::open(&path)?;
    let strings = |key| Ok::<Vec<&str>, Error>(file.strings(key)?.map(|s| s.iter().collect()).unwrap_or_default());
    Tokenizer::new(&Vocab {
        model: file.require("tokenizer.ggml.model", Gguf::str)?,
        pre: file.str("tokenizer.ggml.pre")?.unwrap_or_default(),
        tokens: &strings("tokenizer.ggml.tokens")?,
        token_types: &file.i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
        merges: &strings("tokenizer.ggml.merges")?,
        bos: file.u32("tokenizer.ggml.bos_token_id")?,
        eos: file.u32("tokenizer.ggml.eos_token_id")?,
        ..Vocab::default()
    })
}
