//! Time of a draw, by chain and size of the vocabulary; a grammar's mask too.

use cotvalve::rng::Rng;
use cotvalve::sampler::{Grammars, Sampler, Sampling};
use cotvalve::tokenizer::{Tokenizer, Vocab};
use criterion::{BenchmarkId, Criterion};
use std::hint::black_box;
use std::time::Duration;

/// SmolLM2's size and Llama 3's.
const VOCABULARIES: [usize; 2] = [49_152, 128_256];
/// Tokens that went before.
const TIMELINE: usize = 1024;

fn tokenizer(n: usize) -> Tokenizer {
    // Printable characters, so that a grammar has something to write with; the last token ends a text.
    let tokens: Vec<String> =
        (0..n).map(|i| if i < 94 { char::from(33 + i as u8).to_string() } else { format!("t{i}") }).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let eos = Some(n as u32 - 1);
    Tokenizer::new(&Vocab { model: "gpt2", pre: "gpt-2", tokens: &tokens, eos, ..Vocab::default() }).unwrap()
}

fn chains() -> Vec<(&'static str, Sampling)> {
    let default = Sampling::default;
    let all = Sampling { top_k: 0, ..default() };
    let penalties = Sampling { repeat_penalty: 1.1, dry_multiplier: 0.8, ..default() };
    let mirostat = Sampling { mirostat: 2, ..default() };
    let logprobs = Sampling { logprobs: Some(5), ..default() };
    let mut chains = vec![
        ("greedy", Sampling::greedy()),
        ("default", default()),
        ("default, top-k off", all),
        ("penalties and DRY", penalties),
        ("mirostat", mirostat),
        ("logprobs", logprobs),
    ];
    if cfg!(feature = "grammar") {
        // Never complete, so that a step is the same each time.
        let mut json = default();
        json.set("grammar", "%llguidance {}\nstart: /[a-z0-9]*/ \"END\"").unwrap();
        chains.push(("grammar", json));
    }
    chains
}

fn main() {
    let quick = Criterion::default().sample_size(20);
    let quick = quick.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    let mut c = quick.configure_from_args();
    let mut group = c.benchmark_group("sampling");
    for n in VOCABULARIES {
        let mut rng = Rng::new(1);
        let tokenizer = tokenizer(n);
        let grammars = Grammars::default();
        let logits: Vec<f32> = (0..n).map(|_| 3.0 * rng.normal()).collect();
        let timeline: Vec<u32> = (0..TIMELINE).map(|_| rng.below(500) as u32).collect();
        for (name, sampling) in chains() {
            let mut sampler = Sampler::new(&sampling, &tokenizer, &grammars).unwrap();
            group.bench_function(BenchmarkId::new(name, n), |b| {
                b.iter(|| sampler.next(black_box(&logits), black_box(&timeline)).unwrap());
            });
        }
    }
    group.finish();
    c.final_summary();
}
