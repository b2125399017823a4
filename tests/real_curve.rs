//! Chain length against α on problems the bundled valve was not trained on.
//!
//! Needs the real model: `COTVALVE_TEST_MODEL=/path/to/SmolLM2-135M-Instruct.Q4_1.gguf`. Run with `--nocapture`
//! for the table.

use cotvalve::chat::Message;
use cotvalve::engine::{Engine, EngineOptions, Generation, Session};
use cotvalve::model::Model;
use cotvalve::sampler::Sampling;
use cotvalve::valve::{Dial, Scope};
use std::path::Path;

/// α, mean tokens, accuracy in percent: measured with llama.cpp on the same file, problems and settings
/// (models/README.md).
const MEASURED: [(f32, f64, f64); 5] =
    [(0.0, 220.6, 54.0), (0.25, 159.0, 41.0), (0.5, 93.3, 47.0), (0.75, 38.1, 30.0), (1.0, 35.5, 30.0)];
const LIMIT: usize = 400;
const TOGETHER: usize = 16;

struct Problem {
    prompt: Vec<u32>,
    answer: i64,
}

fn problems(model: &Model) -> Vec<Problem> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/problems/problems.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let problem = |line: &str| {
        let fields: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = model.render_chat(&[Message::new("user", fields["question"].as_str().unwrap())]).unwrap();
        let prompt = model.tokenizer().encode(&text, true, true).unwrap();
        Problem { prompt, answer: fields["answer"].as_i64().unwrap() }
    };
    lines.lines().map(problem).collect()
}

/// The number after the last "The answer is".
fn answer(text: &str) -> Option<i64> {
    let (_, tail) = text.rsplit_once("The answer is ")?;
    let digits: String = tail.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
    digits.parse().ok()
}

/// Answers problems side by side; (tokens, right) of each.
fn solve(engine: &Engine, sessions: &mut [Session], problems: &[Problem]) -> Vec<(usize, bool)> {
    let mut generations: Vec<Generation> = Vec::new();
    for (session, problem) in sessions.iter_mut().zip(problems) {
        session.prompt(&problem.prompt).unwrap();
        generations.push(session.generate(&Sampling::greedy(), LIMIT).unwrap());
    }
    let mut texts = vec![(String::new(), 0); generations.len()];
    loop {
        engine.advance(generations.iter_mut()).unwrap();
        let mut live = false;
        for (generation, (text, tokens)) in generations.iter_mut().zip(&mut texts) {
            let Some(event) = generation.next() else { continue };
            let event = event.unwrap();
            live = true;
            *tokens += 1;
            text.push_str(&event.text);
        }
        if !live {
            break;
        }
    }
    texts.iter().zip(problems).map(|((text, n), p)| (*n, answer(text) == Some(p.answer))).collect()
}

#[test]
fn chains_shorten_as_the_valve_opens() {
    let Some(path) = std::env::var_os("COTVALVE_TEST_MODEL") else {
        eprintln!("skipped: COTVALVE_TEST_MODEL is not set");
        return;
    };
    let model = Model::open(path).unwrap();
    let options = EngineOptions { context: 768, sessions: TOGETHER, ..EngineOptions::default() };
    let engine = Engine::new(model.clone(), &options).unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let reasoner = engine.attach(models.join("smollm2-reasoner.gguf")).unwrap();
    let valve = engine.attach(models.join("smollm2-valve-mix.gguf")).unwrap();
    let mut sessions: Vec<Session> = (0..TOGETHER).map(|_| engine.session()).collect();
    let problems = problems(&model);
    println!("| α | tokens (10th / 50th / 90th percentile) | accuracy | llama.cpp |");
    for (alpha, mean_there, accuracy_there) in MEASURED {
        for session in &mut sessions {
            session.set(&reasoner, Dial::constant(1.0).unwrap(), Scope::All).unwrap();
            session.set(&valve, Dial::constant(alpha).unwrap(), Scope::All).unwrap();
        }
        let chunks = problems.chunks(TOGETHER);
        let mut results: Vec<(usize, bool)> = chunks.flat_map(|p| solve(&engine, &mut sessions, p)).collect();
        results.sort_unstable();
        let n = results.len() as f64;
        let mean = results.iter().map(|r| r.0 as f64).sum::<f64>() / n;
        let variance = results.iter().map(|r| (r.0 as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let accuracy = 100.0 * results.iter().filter(|r| r.1).count() as f64 / n;
        let [low, middle, high] = [0.1, 0.5, 0.9].map(|q| results[(q * (n - 1.0)) as usize].0);
        println!(
            "| {alpha} | {mean:.1} ({low} / {middle} / {high}) | {accuracy} % | {mean_there}, {accuracy_there} % |"
        );
        // Two independent samples of this spread differ by less than this 99.7 times in 100.
        let interval = 3.0 * (2.0 * variance / n).sqrt();
        assert!((mean - mean_there).abs() < interval, "α {alpha}: {mean} tokens, {mean_there} ± {interval}");
        let error = 3.0 * (2.0 * accuracy_there * (100.0 - accuracy_there) / n).sqrt();
        assert!((accuracy - accuracy_there).abs() < error, "α {alpha}: {accuracy} %, {accuracy_there} ± {error}");
    }
}
