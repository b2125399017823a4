//! DRY's breakers on a real vocabulary, as llama.cpp finds them; `COTVALVE_TEST_MODEL` is SmolLM2-135M-Instruct.

mod support;

use cotvalve::model::Model;
use cotvalve::sampler::{Grammars, Sampler, Sampling};
use serde_json::Value;
use std::collections::BTreeMap;
use support::sampling::open;

#[test]
fn breakers_stop_repetitions_where_llama_cpp_stops_them() {
    let Some(path) = std::env::var_os("COTVALVE_TEST_MODEL") else {
        eprintln!("skipped: COTVALVE_TEST_MODEL names no model");
        return;
    };
    let model = Model::open(&path).unwrap();
    let data: Value = serde_json::from_str(include_str!("data/llama-cpp/sampling.json")).unwrap();
    let logits = vec![0.0; model.tokenizer().vocab_size()];
    let mut penalized = 0;
    for case in data["breakers"].as_array().unwrap() {
        let sampling = Sampling {
            dry_multiplier: 0.8,
            dry_last_n: 256,
            dry_allowed_length: case["allowed_length"].as_u64().unwrap() as usize,
            dry_breakers: serde_json::from_value(case["breakers"].clone()).unwrap(),
            ..open()
        };
        let timeline: Vec<u32> = serde_json::from_value(case["timeline"].clone()).unwrap();
        let wanted: BTreeMap<u32, f32> =
            serde_json::from_value::<Vec<(u32, f32)>>(case["penalized"].clone()).unwrap().into_iter().collect();
        let mut sampler = Sampler::new(&sampling, model.tokenizer(), &Grammars::default()).unwrap();
        sampler.next(&logits, &timeline).unwrap();
        let whole = sampler.kept().map(|(_, p)| p).fold(0.0, f32::max);
        // The script leaves out what is too unlikely to be told from nothing.
        let found: BTreeMap<u32, f32> =
            sampler.kept().map(|(id, p)| (id, p / whole)).filter(|(_, p)| *p < 0.999).collect();
        for (id, p) in &wanted {
            assert!((found[id] - p).abs() <= 2e-4 * p, "{id}: {} for {p} in {case}", found[id]);
        }
        assert!(found.iter().all(|(id, p)| wanted.contains_key(id) || *p < 1e-24), "{found:?} in {case}");
        penalized += wanted.len();
    }
    assert!(penalized > 20, "{penalized}");
}
