//! The `valve` program's subcommands, one file each.

pub mod inspect;

use clap::{Parser, Subcommand};
use cotvalve::error::Result;

/// Run language models with a valve on how long they think.
#[derive(Parser)]
#[command(name = "valve", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List what a model or adapter file holds.
    Inspect(inspect::Inspect),
}

impl Cli {
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Inspect(inspect) => inspect.run(),
        }
    }
}
