//! `valve bench-serve`: speed on request, so that a script can take turns between this engine and another.
//!
//! Reads `pp N` (one prompt of N tokens), `tg N` (N single-token steps from an empty cache) or `quit` from
//! standard input and answers each with tokens a second.

use super::options::ModelArgs;
use clap::Args;
use cotvalve::engine::Session;
use cotvalve::error::{Error, Result};
use cotvalve::rng::Rng;
use std::io::BufRead;
use std::time::Instant;

#[derive(Args)]
pub struct BenchServe {
    #[command(flatten)]
    model: ModelArgs,
}

impl BenchServe {
    pub fn run(self) -> Result<()> {
        let loaded = self.model.load()?;
        let mut session = loaded.session()?;
        let vocab = loaded.engine.model().config().vocab;
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|source| Error::Io { path: "standard input".into(), source })?;
            let request = line.split_once(' ').and_then(|(kind, n)| Some((kind, n.trim().parse::<usize>().ok()?)));
            match request {
                Some(("pp", n)) if n > 0 => super::print(&format!("{}\n", prefill(&mut session, vocab, n)?))?,
                Some(("tg", n)) if n > 0 => super::print(&format!("{}\n", decode(&mut session, vocab, n)?))?,
                _ if line.trim() == "quit" => break,
                _ => {
                    return Err(Error::Argument {
                        name: "request",
                        reason: format!("{line:?} is not pp N, tg N or quit"),
                    });
                }
            }
        }
        Ok(())
    }
}

fn tokens(vocab: usize, n: usize) -> Vec<u32> {
    let mut rng = Rng::new(1);
    (0..n).map(|_| rng.below(vocab) as u32).collect()
}

/// Empties the cache: a prompt that shares nothing with what `tokens` makes.
fn forget(session: &mut Session) -> Result<()> {
    session.prompt(&[0])?;
    Ok(())
}

fn prefill(session: &mut Session, vocab: usize, n: usize) -> Result<f64> {
    forget(session)?;
    let prompt = tokens(vocab, n);
    let started = Instant::now();
    session.prompt(&prompt)?;
    session.extend(&[])?;
    Ok(n as f64 / started.elapsed().as_secs_f64())
}

fn decode(session: &mut Session, vocab: usize, n: usize) -> Result<f64> {
    forget(session)?;
    let tokens = tokens(vocab, n);
    let started = Instant::now();
    session.prompt(&tokens[..1])?;
    session.extend(&tokens[1..])?;
    Ok(n as f64 / started.elapsed().as_secs_f64())
}
