//! The engine and the f64 reference against llama.cpp's logits from F32 weights (tests/data/llama-cpp says how those
//! were made), and against each other, on the real model that `COTVALVE_TEST_MODEL` names, a file
//! SmolLM2-135M-Instruct.Q4_1.gguf.

#[path = "support/reference.rs"]
mod reference;

use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions, Generation, Session};
use cotvalve::gguf::Gguf;
use cotvalve::model::Model;
use cotvalve::quant;
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Dial, Scope};
use reference::{Delta, Hyper, Reference};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Positions of the f64 reference, a quarter of the fixture's: some seconds in a release build.
const POSITIONS: usize = 128;
/// Tokens generated after each of the 20 prompts, without and with the adapter. The fixture has 64 for both, which
/// `benches/peer/truth.py` compares; half of them bound this test's time.
const GREEDY: usize = 64;
const GREEDY_ADAPTED: usize = 32;
/// Below this margin between llama.cpp's two best logits another engine may rightly choose differently.
const MARGIN: f64 = 1e-3;

#[derive(Deserialize)]
struct Fixture<C> {
    cases: Vec<C>,
}

#[derive(Deserialize)]
struct Case {
    alpha: Option<f64>,
    top1: Vec<usize>,
    margin: Vec<f64>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    position: usize,
    logsumexp: f64,
    tokens: Vec<usize>,
    logits: Vec<f64>,
}

#[derive(Deserialize)]
struct GreedyCase {
    alpha: Option<f64>,
    outputs: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    ids: Vec<u32>,
    margins: Vec<f64>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The model's path; without one the test is skipped with a word.
fn model_path() -> Option<PathBuf> {
    let path = std::env::var_os("COTVALVE_TEST_MODEL").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: COTVALVE_TEST_MODEL is not set");
    }
    path
}

fn adapter_path() -> PathBuf {
    root().join("models/smollm2-valve-mix.gguf")
}

fn data<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = root().join("tests/data/llama-cpp").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn values(file: &Gguf, name: &str) -> Option<Vec<f64>> {
    let tensor = file.tensor(name).unwrap()?;
    let mut values = vec![0.0f32; tensor.cols() * tensor.rows()];
    quant::dequantize(tensor.ty, &tensor.data, &mut values);
    Some(values.into_iter().map(f64::from).collect())
}

fn hyper(model: &Gguf) -> Hyper {
    let count = |key: &str| model.require(key, Gguf::u32).unwrap() as usize;
    let real = |key: &str| f64::from(model.require(key, Gguf::f32).unwrap());
    let n_head = count("llama.attention.head_count");
    Hyper {
        n_layer: count("llama.block_count"),
        n_head,
        n_kv_head: count("llama.attention.head_count_kv"),
        head_dim: count("llama.embedding_length") / n_head,
        rope_base: real("llama.rope.freq_base"),
        rope_dims: count("llama.rope.dimension_count"),
        eps: real("llama.attention.layer_norm_rms_epsilon"),
        rope_factors: values(model, "rope_freqs.weight"),
    }
}

fn deltas(adapter: &Gguf, alpha: f64) -> Vec<Delta> {
    let lora_alpha = f64::from(adapter.require("adapter.lora.alpha", Gguf::f32).unwrap());
    let names = adapter.tensors().iter().filter_map(|t| t.name.strip_suffix(".lora_a").map(|base| (base, t.dims[1])));
    names
        .map(|(base, rank)| Delta {
            name: base.into(),
            a: values(adapter, &format!("{base}.lora_a")).unwrap(),
            b: values(adapter, &format!("{base}.lora_b")).unwrap(),
            scale: if lora_alpha == 0.0 { alpha } else { alpha * lora_alpha / rank as f64 },
        })
        .collect()
}

/// Compares with the fixture: the listed logits and the log of the sum by `nmse_max`, the best id at every position
/// whose margin is not small.
fn assert_matches(logits: &[Vec<f64>], case: &Case, nmse_max: f64) {
    let (mut error, mut power, mut compared) = (0.0, 0.0, 0);
    for row in case.rows.iter().filter(|r| r.position < logits.len()) {
        let ours = &logits[row.position];
        for (token, want) in row.tokens.iter().zip(&row.logits) {
            error += (ours[*token] - want).powi(2);
            power += want.powi(2);
            compared += 1;
        }
        let max = ours.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
        let total = max + ours.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
        assert!((total - row.logsumexp).abs() < 1e-3, "position {}: {total}", row.position);
    }
    assert!(compared >= 16 * 28, "only {compared} logits compared");
    assert!(error / power < nmse_max, "α {:?}: NMSE {:e}", case.alpha, error / power);
    for (position, ours) in logits.iter().enumerate().filter(|(i, _)| case.margin[*i] > MARGIN) {
        let best = (0..ours.len()).max_by(|a, b| ours[*a].total_cmp(&ours[*b])).unwrap();
        assert_eq!(best, case.top1[position], "α {:?}, position {position}", case.alpha);
    }
    println!("α {:?}: NMSE {:.2e} over {compared} logits, {} best ids", case.alpha, error / power, logits.len());
}

/// In f64, at the α of `case`.
fn reference_logits(model: &Gguf, adapter: &Gguf, alpha: Option<f64>, tokens: &[u32]) -> Vec<Vec<f64>> {
    let deltas = alpha.map_or_else(Vec::new, |alpha| deltas(adapter, alpha));
    Reference::from_gguf_tensors(hyper(model), |name: &str| values(model, name), deltas).logits(tokens)
}

#[test]
fn the_reference_computes_what_llama_cpp_computes() {
    let Some(path) = model_path() else { return };
    let (model, adapter) = (Gguf::open(&path).unwrap(), Gguf::open(&adapter_path()).unwrap());
    let tokens: Vec<u32> = data("ids-512.json");
    let fixture: Fixture<Case> = data("logits.json");
    for case in fixture.cases.iter().filter(|c| c.alpha.is_none_or(|alpha| alpha < 0.0 || alpha == 1.7)) {
        assert_matches(&reference_logits(&model, &adapter, case.alpha, &tokens[..POSITIONS]), case, 1e-10);
    }
}

/// The truth's settings: Float precision, f32 keys and values.
fn float_engine(path: &Path, sessions: usize) -> Engine {
    let model: Arc<Model> = Model::open(path).unwrap();
    let (precision, kv_type) = (Precision::Float, TensorType::F32);
    let options = EngineOptions { context: 640, sessions, precision, kv_type, ..EngineOptions::default() };
    Engine::new(model, &options).unwrap()
}

fn scored(session: &mut Session, tokens: &[u32]) -> Vec<Vec<f64>> {
    let mut logits = Vec::new();
    session.prompt(tokens).unwrap();
    let each = |_, row: &[f32]| {
        logits.push(row.iter().map(|v| f64::from(*v)).collect());
        Ok(())
    };
    session.score(each).unwrap();
    logits
}

#[test]
fn the_engine_computes_what_llama_cpp_computes() {
    let Some(path) = model_path() else { return };
    let tokens: Vec<u32> = data("ids-512.json");
    let fixture: Fixture<Case> = data("logits.json");
    for case in &fixture.cases {
        // An engine of its own: a closed valve finds in the cache what was computed without one.
        let engine = float_engine(&path, 1);
        let valve = engine.attach(adapter_path()).unwrap();
        let mut session = engine.session();
        let alpha = case.alpha.unwrap_or(0.0) as f32;
        session.set(&valve, Dial::constant(alpha).unwrap(), Scope::All).unwrap();
        assert_matches(&scored(&mut session, &tokens), case, 1e-6);
    }
}

#[test]
fn the_engine_computes_what_the_reference_computes() {
    let Some(path) = model_path() else { return };
    let engine = float_engine(&path, 1);
    let (model, adapter) = (Gguf::open(&path).unwrap(), Gguf::open(&adapter_path()).unwrap());
    let tokens: Vec<u32> = data("ids-512.json");
    let mut session = engine.session();
    let valve = engine.attach(adapter_path()).unwrap();
    for alpha in [0.0, 1.7] {
        session.set(&valve, Dial::constant(alpha).unwrap(), Scope::All).unwrap();
        let ours = scored(&mut session, &tokens[..POSITIONS]);
        let truth = reference_logits(&model, &adapter, Some(f64::from(alpha)), &tokens[..POSITIONS]);
        let pairs = || ours.iter().flatten().zip(truth.iter().flatten());
        let error: f64 = pairs().map(|(x, y)| (x - y).powi(2)).sum();
        let nmse = error / pairs().map(|(_, y)| y.powi(2)).sum::<f64>();
        println!("α {alpha}: NMSE {nmse:.2e} against f64");
        assert!(nmse < 1e-9, "α {alpha}: NMSE {nmse:e}");
    }
}

/// What each session draws greedily after its prompt, all side by side; ours stop at the end of an answer.
fn greedy_ids(engine: &Engine, sessions: &mut [Session], limit: usize) -> Vec<Vec<u32>> {
    let start = |session| Session::generate(session, &Sampling::greedy(), limit).unwrap();
    let mut generations: Vec<Generation> = sessions.iter_mut().map(start).collect();
    let mut ids = vec![Vec::new(); generations.len()];
    for _ in 0..limit {
        engine.advance(generations.iter_mut()).unwrap();
        for (generation, ids) in generations.iter_mut().zip(&mut ids) {
            ids.extend(generation.next().map(|event| event.unwrap().token));
        }
    }
    ids
}

/// Compares with the fixture up to llama.cpp's first small margin, or to the end of our answer. `base` has llama.cpp's
/// ids without adapter: at an opening most answers must leave them within what is compared, or no dial was tested.
fn assert_greedy(ids: &[Vec<u32>], case: &GreedyCase, base: &GreedyCase, limit: usize) {
    assert_eq!(ids.len(), case.outputs.len());
    let (mut total, mut apart) = (0, 0);
    for (i, (ours, theirs)) in ids.iter().zip(&case.outputs).enumerate() {
        let sure = theirs.margins.iter().take(limit).position(|m| *m < MARGIN).unwrap_or(limit);
        let compared = sure.min(ours.len());
        let same = compared > 0 && ours[..compared] == theirs.ids[..compared];
        assert!(same, "α {:?}, prompt {i}: {ours:?} is not {:?}", case.alpha, &theirs.ids[..sure]);
        total += compared;
        apart += usize::from(ours[..compared] != base.outputs[i].ids[..compared]);
    }
    println!("α {:?}: {total} of {} ids compared, {apart} answers leave the base's", case.alpha, limit * ids.len());
    assert!(total * 2 > limit * ids.len(), "α {:?}: only {total} ids compared", case.alpha);
    assert_eq!(apart > ids.len() / 2, case.alpha.is_some(), "α {:?}: {apart} answers leave the base's", case.alpha);
}

#[test]
fn greedy_text_is_llama_cpps() {
    let Some(path) = model_path() else { return };
    let prompts = std::fs::read_to_string(root().join("tests/data/llama-cpp/prompts.jsonl")).unwrap();
    let prompts: Vec<Vec<u32>> = prompts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fixture: Fixture<GreedyCase> = data("greedy.json");
    let alphas: Vec<Option<f64>> = fixture.cases.iter().map(|c| c.alpha).collect();
    assert_eq!(alphas, [None, Some(-0.5), Some(0.3), Some(1.0), Some(1.7)]);
    let engine = float_engine(&path, prompts.len());
    let valve = engine.attach(adapter_path()).unwrap();
    let mut sessions: Vec<Session> = prompts.iter().map(|_| engine.session()).collect();
    for case in &fixture.cases {
        let limit = if case.alpha.is_some() { GREEDY_ADAPTED } else { GREEDY };
        for (session, prompt) in sessions.iter_mut().zip(&prompts) {
            let dial = Dial::constant(case.alpha.unwrap_or(0.0) as f32).unwrap();
            session.set(&valve, dial, Scope::All).unwrap();
            assert_eq!(session.prompt(prompt).unwrap(), 0, "a cache of another opening was kept");
        }
        let ids = greedy_ids(&engine, &mut sessions, limit);
        assert_greedy(&ids, case, &fixture.cases[0], limit);
    }
}
