//! `valve bench-serve`: speed on request, so that a script can take turns between this engine and another.
//!
//! Reads one request a line from standard input and answers each with tokens a second:
//!
//! ```text
//! pp N                one prompt of N tokens from an empty cache
//! tg N [OPTIONS]      N single-token steps
//! limits BYTES        of the machine: bytes/s read from a set of that size, int8 operations/s
//! quit
//! ```
//!
//! The options of `tg` are `depth=D`, for D tokens in the cache before the clock starts, `batch=B`, for B sequences
//! that step together (all their tokens count), and one of `alpha=X`, which `pp` takes too, `turn=X`, an α that differs
//! at every token, and `mixed=X`, one α for each sequence; the last two stay between X and 2·X. Without any of the
//! three the valves are closed.

use super::options::{Loaded, ModelArgs};
use clap::Args;
use cotvalve::cpu::limits::{int8_peak, read_bandwidth};
use cotvalve::engine::Session;
use cotvalve::error::{Error, Result};
use cotvalve::rng::Rng;
use cotvalve::valve::{Dial, Scope};
use std::io::BufRead;
use std::time::Instant;

#[derive(Args)]
pub struct BenchServe {
    #[command(flatten)]
    model: ModelArgs,
    /// Sequences that `batch=` may ask for
    #[arg(long, value_name = "N", default_value_t = 1)]
    parallel: usize,
}

impl BenchServe {
    pub fn run(self) -> Result<()> {
        let loaded = self.model.load_for(self.model.context, self.parallel)?;
        let vocab = loaded.engine.model().config().vocab;
        let mut bench = Bench { loaded: &loaded, parallel: self.parallel, rng: Rng::new(1), vocab };
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|source| Error::Io { path: "standard input".into(), source })?;
            if line.trim() == "quit" {
                break;
            }
            let answer = match line.trim().strip_prefix("limits ") {
                Some(bytes) => limits(self.model.threads, bytes)?,
                None => bench.measure(&Request::parse(&line)?)?.to_string(),
            };
            super::print(&(answer + "\n"))?;
        }
        Ok(())
    }
}

/// Bytes a second that `threads` threads read from a set of `bytes` bytes, and int8 operations a second that they do.
fn limits(threads: usize, bytes: &str) -> Result<String> {
    let set = bytes.parse().map_err(|_| Error::Argument { name: "limits", reason: format!("{bytes:?} is no size") })?;
    Ok(format!("{} {}", read_bandwidth(threads, set), int8_peak(threads)))
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
struct Request {
    prefill: bool,
    tokens: usize,
    depth: usize,
    batch: usize,
    opening: Opening,
}

/// How the valves stand while a request is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Opening {
    Constant(f32),
    /// Another α at every token.
    Turned(f32),
    /// Another α in every sequence.
    Mixed(f32),
}

/// Values of α that [`Opening::Turned`] goes through.
const TURNS: usize = 16;

impl Opening {
    /// α of sequence `row` of `rows` at its token `token`.
    fn at(self, token: usize, row: usize, rows: usize) -> f32 {
        match self {
            Self::Constant(alpha) => alpha,
            Self::Turned(alpha) => alpha * (1.0 + (token % TURNS) as f32 / TURNS as f32),
            Self::Mixed(alpha) => alpha * (1.0 + row as f32 / rows as f32),
        }
    }
}

impl Request {
    /// # Errors
    /// [`Error::Argument`] quoting what is no request.
    fn parse(line: &str) -> Result<Self> {
        let wrong = || Error::Argument {
            name: "request",
            reason: format!("{line:?} is not pp N, tg N, limits BYTES or quit, or its options are wrong"),
        };
        let mut words = line.split_whitespace();
        let prefill = match words.next() {
            Some("pp") => true,
            Some("tg") => false,
            _ => return Err(wrong()),
        };
        let tokens = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or_else(wrong)?;
        let mut request = Self { prefill, tokens, depth: 0, batch: 1, opening: Opening::Constant(0.0) };
        for (name, value) in words.map(|word| word.split_once('=').unwrap_or((word, ""))) {
            let number = || value.parse::<usize>().map_err(|_| wrong());
            let alpha = || value.parse::<f32>().map_err(|_| wrong());
            match name {
                "depth" => request.depth = number()?,
                "batch" => request.batch = number()?,
                "alpha" => request.opening = Opening::Constant(alpha()?),
                "turn" => request.opening = Opening::Turned(alpha()?),
                "mixed" => request.opening = Opening::Mixed(alpha()?),
                _ => return Err(wrong()),
            }
        }
        let constant = matches!(request.opening, Opening::Constant(_));
        let alone = request.depth == 0 && request.batch == 1 && constant;
        let together = request.batch == 1 || (request.depth == 0 && !matches!(request.opening, Opening::Turned(_)));
        if request.batch == 0 || (prefill && !alone) || !together {
            return Err(wrong());
        }
        Ok(request)
    }
}

/// Makes prompts that share nothing with those before, so that none finds its pages in the cache.
struct Bench<'a> {
    loaded: &'a Loaded,
    parallel: usize,
    rng: Rng,
    vocab: usize,
}

impl Bench<'_> {
    /// Tokens a second.
    fn measure(&mut self, request: &Request) -> Result<f64> {
        if request.batch > self.parallel {
            let reason = format!("{} sequences, but --parallel is {}", request.batch, self.parallel);
            return Err(Error::Argument { name: "batch", reason });
        }
        match request {
            Request { prefill: true, .. } => self.prefill(request),
            Request { batch: 1, .. } => self.decode(request),
            _ => self.decode_together(request),
        }
    }

    fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.rng.below(self.vocab) as u32).collect()
    }

    /// Opens every valve of `session` to `alpha`.
    fn open(&self, session: &mut Session, alpha: f32) -> Result<()> {
        let mut valves = self.loaded.valves.iter();
        valves.try_for_each(|valve| session.set(valve, Dial::constant(alpha)?, Scope::All))
    }

    fn prefill(&mut self, request: &Request) -> Result<f64> {
        let prompt = self.tokens(request.tokens);
        let mut session = self.loaded.session()?;
        self.open(&mut session, request.opening.at(0, 0, 1))?;
        let started = Instant::now();
        session.prompt(&prompt)?;
        session.extend(&[])?;
        Ok(prompt.len() as f64 / started.elapsed().as_secs_f64())
    }

    fn decode(&mut self, request: &Request) -> Result<f64> {
        let tokens = self.tokens(request.depth + request.tokens);
        let (before, tokens) = tokens.split_at(request.depth);
        let mut session = self.loaded.session()?;
        self.open(&mut session, request.opening.at(0, 0, 1))?;
        if !before.is_empty() {
            session.prompt(before)?;
            session.extend(&[])?;
        }
        let started = Instant::now();
        let mut rest = tokens;
        if before.is_empty() {
            session.prompt(&tokens[..1])?;
            session.extend(&[])?;
            rest = &tokens[1..];
        }
        if let Opening::Turned(_) = request.opening {
            for (i, token) in rest.iter().enumerate() {
                self.open(&mut session, request.opening.at(i + 1, 0, 1))?;
                session.extend(&[*token])?;
            }
        } else {
            session.extend(rest)?;
        }
        Ok(tokens.len() as f64 / started.elapsed().as_secs_f64())
    }

    /// Every sequence is given its tokens, as llama-batched-bench does.
    fn decode_together(&mut self, request: &Request) -> Result<f64> {
        let mut sessions = Vec::with_capacity(request.batch);
        let mut tokens = Vec::with_capacity(request.batch);
        for row in 0..request.batch {
            let mut session = self.loaded.session()?;
            self.open(&mut session, request.opening.at(0, row, request.batch))?;
            session.prompt(&self.tokens(1))?;
            sessions.push(session);
            tokens.push(self.tokens(request.tokens - 1));
        }
        let started = Instant::now();
        self.loaded.engine.extend(sessions.iter_mut().zip(tokens.iter().map(Vec::as_slice)))?;
        Ok((request.tokens * request.batch) as f64 / started.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let request = Request::parse("tg 64 batch=8 mixed=0.5").unwrap();
        let expected = Request { prefill: false, tokens: 64, depth: 0, batch: 8, opening: Opening::Mixed(0.5) };
        assert_eq!(request, expected);
        assert_eq!(Request::parse("pp 512 alpha=-1").unwrap().opening, Opening::Constant(-1.0));
        assert_eq!(Request::parse("tg 8 depth=4096").unwrap().depth, 4096);
    }

    #[test]
    fn what_is_no_request_is_quoted() {
        let wrong = ["", "pp", "pp 0", "tg x", "rt 3", "tg 8 batch=0", "tg 8 alpha=", "tg 8 beta=1", "pp 8 batch=2"];
        let odd = ["tg 8 batch=2 depth=4", "tg 8 batch=2 turn=1", "pp 8 turn=1"];
        for line in wrong.into_iter().chain(odd) {
            let error = Request::parse(line).unwrap_err().to_string();
            assert!(error.contains(&format!("{line:?}")), "{error}");
        }
    }

    #[test]
    fn openings_stay_within_their_range() {
        let turned: Vec<f32> = (0..3).map(|token| Opening::Turned(0.5).at(token, 0, 1)).collect();
        assert_eq!(turned, [0.5, 0.53125, 0.5625]);
        assert_eq!(Opening::Mixed(0.5).at(9, 4, 8), 0.75);
    }
}
