//! PEFT folders: read as transformers and peft compute them, converted to GGUF and back, merged into the model.
//! `tests/data/peft/make.py` made the folders and the logits.

#[path = "peft/bad_config.rs"]
mod bad_config;
#[path = "peft/bad_tensors.rs"]
mod bad_tensors;
#[path = "peft/convert.rs"]
mod convert;
#[path = "peft/folder.rs"]
mod folder;
#[path = "peft/merge.rs"]
mod merge;
#[path = "peft/peer.rs"]
mod peer;

use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions};
use cotvalve::gguf::Gguf;
use cotvalve::model::{Config, Model};
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Adapter, Dial, Scope};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Adapters in the folder of fixtures.
const ADAPTERS: [&str; 6] = ["plain", "rslora", "patterns", "head", "half", "layers"];

#[derive(Deserialize)]
struct Fixture {
    ids: Vec<u32>,
    positions: Vec<usize>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    adapters: Vec<String>,
    alpha: f32,
    merged: bool,
    logits: Vec<Vec<f64>>,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/peft").join(name)
}

fn fixture() -> Fixture {
    serde_json::from_str(&std::fs::read_to_string(data("logits.json")).unwrap()).unwrap()
}

/// The model's file and shape; it has an output of its own.
fn model() -> (Gguf, Config) {
    let gguf = Gguf::open(&data("model.gguf")).unwrap();
    let config = Config::read(&gguf).unwrap();
    (gguf, config)
}

fn adapter(path: &Path) -> Adapter {
    Adapter::open(path, &model().1, true).unwrap()
}

/// Logits of every position in Float precision, with every adapter at its α.
fn logits(model: &Path, adapters: &[(&Path, f32)], ids: &[u32]) -> Vec<Vec<f32>> {
    let (precision, kv_type) = (Precision::Float, TensorType::F32);
    let options = EngineOptions { threads: 1, precision, kv_type, ..EngineOptions::default() };
    let engine = Engine::new(Model::open(model).unwrap(), &options).unwrap();
    let mut session = engine.session();
    let valves: Vec<_> = adapters.iter().map(|(path, alpha)| (engine.attach(path).unwrap(), *alpha)).collect();
    for (valve, alpha) in &valves {
        session.set(valve, Dial::constant(*alpha).unwrap(), Scope::All).unwrap();
    }
    session.prompt(ids).unwrap();
    let mut rows = Vec::new();
    session
        .score(|_, row| {
            rows.push(row.to_vec());
            Ok(())
        })
        .unwrap();
    rows
}

/// Σ (x − y)² / Σ y²
fn nmse<'a, Y: Into<f64> + Copy + 'a>(
    x: impl Iterator<Item = &'a Vec<f32>>,
    y: impl Iterator<Item = &'a Vec<Y>>,
) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for (x, y) in x.zip(y) {
        assert_eq!(x.len(), y.len());
        for (x, y) in x.iter().zip(y) {
            let y: f64 = (*y).into();
            error += (f64::from(*x) - y).powi(2);
            power += y * y;
        }
    }
    error / power
}

#[test]
fn logits_are_those_of_transformers_and_peft() {
    let fixture = fixture();
    let mut seen: Vec<&str> = Vec::new();
    for case in &fixture.cases {
        let folders: Vec<PathBuf> = case.adapters.iter().map(|name| data(name)).collect();
        let adapters: Vec<(&Path, f32)> = folders.iter().map(|f| (f.as_path(), case.alpha)).collect();
        let ours = logits(&data("model.gguf"), &adapters, &fixture.ids);
        assert_eq!(case.logits.len(), fixture.positions.len());
        let error = nmse(fixture.positions.iter().map(|p| &ours[*p]), case.logits.iter());
        println!("{:?} at {} (merged: {}): NMSE {error:.2e}", case.adapters, case.alpha, case.merged);
        assert!(error <= 1e-9, "{:?} at {}: NMSE {error:e}", case.adapters, case.alpha);
        seen.extend(case.adapters.iter().map(String::as_str));
    }
    assert!(ADAPTERS.iter().all(|name| seen.contains(name)), "{seen:?}");
    // The bound would be worth nothing if the adapters hardly mattered.
    let (base, open) = (&fixture.cases[0].logits, &fixture.cases[3].logits);
    let distance: f64 = base.iter().flatten().zip(open.iter().flatten()).map(|(x, y)| (x - y).powi(2)).sum();
    assert!(distance / base.iter().flatten().map(|x| x * x).sum::<f64>() > 1e-3);
}

#[test]
fn scales_follow_the_config() {
    let scale = |folder: &str, tensor: &str| {
        let adapter = adapter(&data(folder));
        adapter.pairs().iter().find(|p| p.site.name() == tensor).unwrap().scale
    };
    assert_eq!(scale("plain", "blk.1.ffn_up.weight"), 2.0);
    assert_eq!(scale("rslora", "blk.0.attn_q.weight"), (5.0 / 3.0_f64.sqrt()) as f32);
    assert_eq!(scale("patterns", "blk.0.attn_q.weight"), 3.5);
    assert_eq!(scale("patterns", "blk.1.attn_k.weight"), (4.0 / 3.0_f64) as f32);
    assert_eq!(scale("patterns", "blk.0.attn_v.weight"), 2.0);
    assert_eq!(scale("patterns", "blk.1.attn_v.weight"), 0.75);
    // Both patterns match; the first in the file counts.
    assert_eq!(scale("patterns", "blk.1.ffn_up.weight"), (4.0 / 7.0_f64) as f32);
    assert_eq!(scale("patterns", "blk.1.ffn_gate.weight"), (4.0 / 5.0_f64) as f32);
}

#[test]
fn what_is_not_applied_is_named() {
    let head = adapter(&data("head"));
    assert_eq!(head.ignored(), ["base_model.model.lm_head.base_layer.weight"]);
    assert!(ADAPTERS.iter().filter(|name| **name != "head").all(|name| adapter(&data(name)).ignored().is_empty()));
}
