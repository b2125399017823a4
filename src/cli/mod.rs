//! The `valve` program, one file a subcommand.

mod fetch;
pub mod pull;
pub mod tokenize;
