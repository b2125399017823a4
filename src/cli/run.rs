//! `valve run`: one prompt, one answer. The answer alone goes to standard output.

use super::options::{Loaded, ModelArgs};
use super::sampling::SamplingArgs;
use clap::Args;
use cotvalve::chat::Message;
use cotvalve::engine::{Session, Stop, Valve};
use cotvalve::error::{Error, Result};
use cotvalve::model::Model;
use cotvalve::sampler::Logprobs;
use cotvalve::valve::Part;
use serde_json::{Value, json};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Prompt; without -p and -f it is read from standard input
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// File that holds the prompt
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// System message
    #[arg(long = "system-prompt", visible_alias = "sys", value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Take the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// Print one JSON object when done: text, ids, counts, timings, openings
    #[arg(long)]
    json: bool,
}

/// What a run did, for `--json`.
struct Answer {
    text: String,
    ids: Vec<u32>,
    /// One for each id, if they were asked for.
    logprobs: Vec<Logprobs>,
    stop: &'static str,
    /// The one that was used, though none may have been given.
    seed: u64,
    cached: usize,
    prompt: Duration,
    generation: Duration,
}

impl Run {
    pub fn run(self) -> Result<()> {
        let started = Instant::now();
        let text = self.text()?;
        let loaded = self.model.load()?;
        let load = started.elapsed();
        let model = loaded.engine.model();
        let prompt = if self.raw {
            model.tokenizer().encode(&text, true, true)?
        } else {
            let system = self.system.iter().map(|text| Message::new("system", text));
            let messages: Vec<Message> = system.chain([Message::new("user", &text)]).collect();
            model.tokenizer().encode(&model.render_chat(&messages)?, true, true)?
        };
        let mut session = loaded.session()?;
        let answer = self.generate(&mut session, &prompt, loaded.longest())?;
        if self.json {
            super::print(&format!("{:#}\n", report(&answer, &prompt, &loaded, &session, load)))?;
        }
        Ok(())
    }

    fn text(&self) -> Result<String> {
        if let Some(prompt) = &self.prompt {
            return Ok(prompt.clone());
        }
        let io = |path: &str, source| Error::Io { path: path.into(), source };
        match &self.file {
            Some(path) => std::fs::read_to_string(path).map_err(|e| io(&path.to_string_lossy(), e)),
            None => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(|e| io("standard input", e))?;
                Ok(text)
            }
        }
    }

    fn generate(&self, session: &mut Session, prompt: &[u32], longest: usize) -> Result<Answer> {
        let cancel = session.cancel_handle();
        super::on_interrupt(move || cancel.cancel());
        let started = Instant::now();
        let cached = session.prompt(prompt)?;
        let limit = self.sampling.limit(prompt.len(), longest)?;
        let sampling = self.sampling.sampling();
        let mut answer = Answer {
            text: String::new(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            stop: "limit",
            seed: sampling.seed,
            cached,
            prompt: Duration::ZERO,
            generation: Duration::ZERO,
        };
        for event in session.generate(&sampling, limit)? {
            if answer.ids.is_empty() {
                answer.prompt = started.elapsed();
            }
            let event = match event {
                Err(Error::Cancelled) => {
                    answer.stop = "cancelled";
                    break;
                }
                event => event?,
            };
            answer.ids.push(event.token);
            answer.logprobs.extend(event.logprobs);
            match event.stop {
                Some(Stop::End) => answer.stop = "end",
                Some(Stop::Text) => answer.stop = "text",
                Some(Stop::Limit) | None => {}
            }
            if !self.json {
                super::print(&event.text)?;
            }
            answer.text.push_str(&event.text);
        }
        answer.generation = started.elapsed() - answer.prompt;
        if !self.json {
            super::print("\n")?;
        }
        Ok(answer)
    }
}

fn report(answer: &Answer, prompt: &[u32], loaded: &Loaded, session: &Session, load: Duration) -> Value {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let rate = |n: usize, d: Duration| if d.is_zero() { 0.0 } else { n as f64 / d.as_secs_f64() };
    let computed = prompt.len() - answer.cached;
    let steps = answer.ids.len().saturating_sub(1);
    let openings = loaded.valves.iter().map(|valve| openings(valve, session));
    let mut report = json!({
        "text": answer.text,
        "ids": answer.ids,
        "stop": answer.stop,
        "model": loaded.engine.model().path().display().to_string(),
        "seed": answer.seed,
        "counts": { "prompt": prompt.len(), "cached": answer.cached, "generated": answer.ids.len() },
        "timings": {
            "load_ms": ms(load),
            "prompt_ms": ms(answer.prompt),
            "prompt_per_second": rate(computed, answer.prompt),
            "predicted_ms": ms(answer.generation),
            "predicted_per_second": rate(steps, answer.generation),
        },
        "openings": openings.collect::<Vec<_>>(),
    });
    if !answer.logprobs.is_empty() {
        report["logprobs"] = logprobs(answer, loaded.engine.model());
    }
    report
}

/// OpenAI's and llama-server's shape, without the bytes: the drawn token and the likeliest, each with the logarithm
/// of its probability.
fn logprobs(answer: &Answer, model: &Model) -> Value {
    let entry = |id: u32, logprob: f32| {
        // JSON has no −∞; OpenAI's API writes this number for it.
        let logprob = super::inspect::float(logprob.max(-9999.0));
        json!({ "id": id, "token": model.tokenizer().piece(id).unwrap_or_default(), "logprob": logprob })
    };
    let tokens = answer.ids.iter().zip(&answer.logprobs).map(|(id, logprobs)| {
        let mut drawn = entry(*id, logprobs.token);
        drawn["top_logprobs"] = logprobs.top.iter().map(|(id, logprob)| entry(*id, *logprob)).collect();
        drawn
    });
    tokens.collect()
}

/// What a valve had: `used` by all of it, or where dials differ `parts` with what each used.
fn openings(valve: &Valve, session: &Session) -> Value {
    let file = valve.adapter().path().display().to_string();
    let parts = valve.adapter().parts().iter().map(|part| (part, session.openings_of(valve, *part)));
    let parts: Vec<_> = parts.collect();
    if parts.iter().all(|(_, used)| *used == parts[0].1) {
        return json!({ "valve": file, "used": runs(&parts[0].1) });
    }
    let part = |(part, used): &(&Part, Vec<f32>)| {
        let group = part.group.to_string();
        json!({ "layer": part.layer, "group": group, "used": runs(used) })
    };
    json!({ "valve": file, "parts": parts.iter().map(part).collect::<Vec<_>>() })
}

/// `[{"alpha": α, "tokens": n}, ...]`: how long each opening held, in order.
fn runs(openings: &[f32]) -> Vec<Value> {
    let chunks = openings.chunk_by(|a, b| a == b);
    chunks.map(|run| json!({ "alpha": super::inspect::float(run[0]), "tokens": run.len() })).collect()
}
