//! The sampler beside llama.cpp's: what its chain keeps of random candidates, and how likely it finds them.
//!
//! `tests/data/llama-cpp/sampling.json` is written by `benches/peer/sampling.py`.

mod support;

use cotvalve::sampler::{Grammars, Sampler, Sampling};
use cotvalve::tokenizer::{Tokenizer, Vocab};
use serde_json::Value;
use std::collections::BTreeMap;
use support::Random;
use support::sampling::{number, open, settings};

/// Probabilities are sums of hundreds of f32 on both sides.
const TOLERANCE: f64 = 1e-5;

fn tokenizer(n: usize) -> Tokenizer {
    let tokens: Vec<String> = (0..n).map(|i| format!("t{i}")).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    Tokenizer::new(&Vocab { model: "gpt2", pre: "gpt-2", tokens: &tokens, ..Vocab::default() }).unwrap()
}

/// Logits and timeline of a case, as the script makes them.
fn input(case: &Value) -> (Vec<f32>, Vec<u32>) {
    let mut random = Random(number(case, "seed") as u64);
    let scale = number(case, "scale");
    let logit = |random: &mut Random| (((random.bits() >> 44) as f64 / 65536.0 - 8.0) * scale) as f32;
    let logits = (0..number(case, "tokens") as usize).map(|_| logit(&mut random)).collect();
    let kinds = number(case, "kinds") as usize;
    let timeline = (0..number(case, "timeline") as usize).map(|_| random.below(kinds) as u32).collect();
    (logits, timeline)
}

#[test]
fn every_stage_keeps_what_llama_cpp_keeps() {
    let data: Value = serde_json::from_str(include_str!("data/llama-cpp/sampling.json")).unwrap();
    let tokenizers: BTreeMap<usize, Tokenizer> = [5, 50, 400, 3000].map(|n| (n, tokenizer(n))).into();
    let cases = data["cases"].as_array().unwrap();
    let mut partial = 0;
    for case in cases {
        let (logits, timeline) = input(case);
        let sampling = settings(&case["settings"], open());
        let mut sampler = Sampler::new(&sampling, &tokenizers[&logits.len()], &Grammars::default()).unwrap();
        sampler.next(&logits, &timeline).unwrap();
        let mut kept: Vec<(u32, f32)> = sampler.kept().filter(|(_, p)| *p > 1e-30).collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let ids = || kept.iter().map(|(id, _)| u64::from(*id));
        let found = [kept.len() as u64, ids().sum(), ids().map(|id| id * id).sum()];
        let wanted = ["kept", "sum", "squares"].map(|name| case[name].as_u64().unwrap());
        assert_eq!(found, wanted, "{case}");
        for top in case["top"].as_array().unwrap() {
            let (id, p) = (top[0].as_u64().unwrap() as u32, top[1].as_f64().unwrap());
            let ours = f64::from(kept.iter().find(|(other, _)| *other == id).unwrap().1);
            assert!((ours - p).abs() < TOLERANCE, "{id}: {ours} for {p} in {case}");
        }
        partial += usize::from(kept.len() > 1 && kept.len() < logits.len());
    }
    assert!(cases.len() > 200 && partial > 100, "{partial} of {}", cases.len());
}

/// Whole sorts, whole sums: the truth that partial selection must not change.
#[test]
fn partial_selection_keeps_what_a_whole_sort_keeps() {
    let mut random = Random(1);
    for _ in 0..200 {
        let n = 300 + random.below(3000);
        // Few values, so that many are equal.
        let logits: Vec<f32> = (0..n).map(|_| random.below(400) as f32 / 50.0).collect();
        let (top_k, top_p) = ([0, 1, 40, 500][random.below(4)], [0.3, 0.9, 0.999, 1.0][random.below(4)]);
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        order.truncate(if top_k == 0 { n } else { top_k });
        let weight = |id: &u32| f64::from((logits[*id as usize] - logits[order[0] as usize]).exp());
        let total: f64 = order.iter().map(weight).sum();
        let mut sum = 0.0;
        let enough = order.iter().position(|id| {
            sum += weight(id) / total;
            sum >= f64::from(top_p)
        });
        let count = if top_p < 1.0 { enough.map_or(order.len(), |i| i + 1) } else { order.len() };
        let mut wanted = order[..count].to_vec();
        let sampling = Sampling { top_k, top_p, ..open() };
        let mut sampler = Sampler::new(&sampling, &tokenizer(n), &Grammars::default()).unwrap();
        sampler.next(&logits, &[]).unwrap();
        let mut kept: Vec<u32> = sampler.kept().map(|(id, _)| id).collect();
        wanted.sort_unstable();
        kept.sort_unstable();
        // Sums in f32 may cross the limit one token earlier or later.
        assert!(kept.len().abs_diff(wanted.len()) <= usize::from(top_p < 1.0), "{} {}", kept.len(), wanted.len());
        let differ = kept.iter().filter(|id| wanted.binary_search(id).is_err()).count();
        assert!(differ <= kept.len().abs_diff(wanted.len()), "{sampling:?}");
    }
}
