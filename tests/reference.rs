//! The f64 reference against llama.cpp's logits from F32 weights, on the model that `COTVALVE_TEST_MODEL` names and the
//! adapter that `COTVALVE_TEST_ADAPTER` names (tests/data/llama-cpp says which files).

#[path = "support/reference.rs"]
mod reference;

use cotvalve::gguf::Gguf;
use cotvalve::quant;
use reference::{Delta, Hyper, Reference};
use serde::Deserialize;
use std::path::Path;

/// Positions computed, a quarter of the fixture's: some seconds in a release build.
const POSITIONS: usize = 128;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
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

fn open(variable: &str) -> Option<Gguf> {
    let path = std::env::var_os(variable)?;
    Some(Gguf::open(Path::new(&path)).unwrap())
}

fn data<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llama-cpp").join(name);
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

fn assert_matches(logits: &[Vec<f64>], case: &Case) {
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
        assert!((total - row.logsumexp).abs() < 1e-4, "position {}: {total}", row.position);
    }
    assert!(compared >= 16 * 28, "only {compared} logits compared");
    assert!(error / power < 1e-10, "α {:?}: NMSE {:e}", case.alpha, error / power);
    for (position, ours) in logits.iter().enumerate().filter(|(i, _)| case.margin[*i] > 1e-3) {
        let best = (0..ours.len()).max_by(|a, b| ours[*a].total_cmp(&ours[*b])).unwrap();
        assert_eq!(best, case.top1[position], "α {:?}, position {position}", case.alpha);
    }
}

#[test]
fn reference_computes_what_llama_cpp_computes() {
    let Some(model) = open("COTVALVE_TEST_MODEL") else {
        println!("skipped: COTVALVE_TEST_MODEL names no model");
        return;
    };
    let adapter = open("COTVALVE_TEST_ADAPTER");
    let tokens: Vec<u32> = data("ids-512.json");
    let fixture: Fixture = data("logits.json");
    for case in fixture.cases.iter().filter(|c| c.alpha.is_none_or(|alpha| alpha < 0.0 || alpha == 1.7)) {
        let deltas = match (case.alpha, &adapter) {
            (None, _) => Vec::new(),
            (Some(alpha), Some(adapter)) => deltas(adapter, alpha),
            (Some(_), None) => continue,
        };
        let reference = Reference::from_gguf_tensors(hyper(&model), |name: &str| values(&model, name), deltas);
        assert_matches(&reference.logits(&tokens[..POSITIONS]), case);
    }
}
