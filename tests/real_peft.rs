//! The bundled adapter by way of a PEFT folder, and merged, on the real model that `COTVALVE_TEST_MODEL` names.

use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions};
use cotvalve::gguf::Gguf;
use cotvalve::model::{Config, Model};
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Dial, MergeOptions, Scope, Source, merge};
use std::path::{Path, PathBuf};

const ALPHA: f32 = 0.6;

/// The model's path; without one the test is skipped with a word.
fn model_path() -> Option<PathBuf> {
    let path = std::env::var_os("COTVALVE_TEST_MODEL").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: COTVALVE_TEST_MODEL is not set");
    }
    path
}

/// Logits of 24 positions in Float precision.
fn logits(model: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let (precision, kv_type) = (Precision::Float, TensorType::F32);
    let options = EngineOptions { context: 64, precision, kv_type, ..EngineOptions::default() };
    let engine = Engine::new(Model::open(model).unwrap(), &options).unwrap();
    let mut session = engine.session();
    if let Some(path) = adapter {
        let valve = engine.attach(path).unwrap();
        session.set(&valve, Dial::constant(ALPHA).unwrap(), Scope::All).unwrap();
    }
    let tokens: Vec<u32> = (0..24).map(|i| 300 + 517 * i).collect();
    session.prompt(&tokens).unwrap();
    let mut all = Vec::new();
    let each = |_, row: &[f32]| {
        all.extend_from_slice(row);
        Ok(())
    };
    session.score(each).unwrap();
    all
}

#[test]
fn by_way_of_peft_and_merged_it_computes_the_same() {
    let Some(path) = model_path() else { return };
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/smollm2-valve-mix.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let config = Config::read(&gguf).unwrap();
    let has_output = gguf.info("output.weight").is_some();
    let folder = tempfile::tempdir().unwrap();
    let [peft, back, merged] = ["peft", "back.gguf", "merged.gguf"].map(|name| folder.path().join(name));

    let source = Source::open(&adapter, &config, has_output).unwrap();
    source.write_peft(&config, TensorType::F16, &peft).unwrap();
    let from_peft = Source::open(&peft, &config, has_output).unwrap();
    assert_eq!(from_peft.adapter().content_hash(), source.adapter().content_hash());
    from_peft.write_gguf(&config, TensorType::F16, &back).unwrap();
    let (before, after) = (Gguf::open(&adapter).unwrap(), Gguf::open(&back).unwrap());
    for (key, value) in before.metadata().iter().filter(|(key, _)| key.starts_with("valve.")) {
        assert_eq!(after.get(key), Some(value), "{key}");
    }
    let open = logits(&path, Some(&adapter));
    assert!(logits(&path, Some(&peft)) == open);

    let options = MergeOptions { ty: TensorType::F16, threads: 2 };
    merge(&gguf, &[(source.adapter().clone(), ALPHA)], options, &merged, &mut |_| true).unwrap();
    let pairs = logits(&merged, None).into_iter().zip(open);
    let (error, power) = pairs.fold((0.0, 0.0), |(error, power), (x, y)| {
        (error + (f64::from(x) - f64::from(y)).powi(2), power + f64::from(y).powi(2))
    });
    println!("merged as f16, α {ALPHA}: NMSE {:.2e}", error / power);
    assert!(error / power <= 1e-5, "NMSE {:e}", error / power);
}
