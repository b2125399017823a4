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
        let mut bench = Bench { session: &mut session, rng: Rng::new(1), vocab };
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|source| Error::Io { path: "standard input".into(), source })?;
            let request = line.split_once(' ').and_then(|(kind, n)| Some((kind, n.trim().parse::<usize>().ok()?)));
            match request {
                Some(("pp", n)) if n > 0 => super::print(&format!("{}\n", bench.prefill(n)?))?,
                Some(("tg", n)) if n > 0 => super::print(&format!("{}\n", bench.decode(n)?))?,
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

/// Makes prompts that share nothing with those before, so that none finds its pages in the cache.
struct Bench<'a> {
    session: &'a mut Session,
    rng: Rng,
    vocab: usize,
}

impl Bench<'_> {
    fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.rng.below(self.vocab) as u32).collect()
    }

    fn prefill(&mut self, n: usize) -> Result<f64> {
        let prompt = self.tokens(n);
        let started = Instant::now();
        self.session.prompt(&prompt)?;
        self.session.extend(&[])?;
        Ok(n as f64 / started.elapsed().as_secs_f64())
    }

    fn decode(&mut self, n: usize) -> Result<f64> {
        let tokens = self.tokens(n);
        let started = Instant::now();
        self.session.prompt(&tokens[..1])?;
        self.session.extend(&tokens[1..])?;
        Ok(n as f64 / started.elapsed().as_secs_f64())
    }
}
