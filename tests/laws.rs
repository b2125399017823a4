//! The laws of α (see the crate's documentation), each against a small model.

#[path = "laws/cache.rs"]
mod cache;
#[path = "laws/parts.rs"]
mod parts;
mod support;

use cotvalve::cpu::simd::Level;
use cotvalve::error::Error;
use cotvalve::gguf::write::Writer;
use cotvalve::model::Config;
use cotvalve::quant::encode;
use cotvalve::tensor::TensorType;
use cotvalve::valve::Adapter;
use support::gguf_fixture::{TinyLlama, tiny_adapter, tiny_adapter_encoded};
use support::stage::{FLOAT, Row, Runner, Setup, bits, nmse, parse, text_rows};

const TYPES: [TensorType; 4] = [TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0, TensorType::F32];
const EVERYWHERE: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

fn encoded(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0; values.len() / ty.block_len() * ty.block_bytes()];
    encode(ty, values, &mut out);
    out
}

fn model(ty: TensorType) -> Vec<u8> {
    TinyLlama { seed: 7, ty, separate_output: false, rope_freqs: false, encode: &encoded }.bytes()
}

fn targets() -> Vec<String> {
    (0..2).flat_map(|l| EVERYWHERE.map(|w| format!("blk.{l}.{w}.weight"))).collect()
}

fn adapter(seed: u64, rank: usize, ty: TensorType) -> Vec<u8> {
    let targets = targets();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    tiny_adapter_encoded(seed, rank, ty, &targets, &encoded)
}

/// An adapter whose A·x is infinite for almost any x.
fn overflowing() -> Vec<u8> {
    let targets = targets();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let huge = |ty, values: &[f32]| encoded(ty, &values.iter().map(|v| v.signum() * 3e38).collect::<Vec<_>>());
    tiny_adapter_encoded(5, 4, TensorType::F32, &targets, &huge)
}

fn tokens(n: u32, seed: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + seed * 101) % 279).collect()
}

/// Rows of several texts, interleaved chunk by chunk: (sequence, tokens, openings).
fn mixed(runner: &mut Runner, texts: &[(u32, Vec<u32>, Vec<f32>)], chunk: usize) -> Vec<Vec<Vec<f32>>> {
    let rows: Vec<Vec<Row>> = texts.iter().map(|(s, t, o)| text_rows(*s, t, o)).collect();
    let mut out = vec![Vec::new(); texts.len()];
    let longest = rows.iter().map(Vec::len).max().unwrap();
    for start in (0..longest).step_by(chunk) {
        let part = |rows: &Vec<Row>| rows[start.min(rows.len())..(start + chunk).min(rows.len())].to_vec();
        let parts: Vec<Vec<Row>> = rows.iter().map(part).collect();
        let mut logits = runner.step(&parts.concat()).into_iter();
        for (out, part) in out.iter_mut().zip(&parts) {
            out.extend(logits.by_ref().take(part.len()));
        }
    }
    out
}

#[test]
fn law_1_a_closed_row_has_the_bits_of_the_base() {
    for ty in TYPES {
        let text = tokens(20, 1);
        let base = bits(&Runner::new(model(ty), &[], Setup::default()).text(0, &text, &[], 5));
        let adapters = [adapter(1, 8, TensorType::F16), overflowing()];
        let mut runner = Runner::new(model(ty), &adapters, Setup::default());
        let texts = [
            (0, text.clone(), vec![0.0, 0.0]),
            (1, text.clone(), vec![1.0, 0.0]),
            (2, text.clone(), vec![-0.0, -0.0]),
            (3, text.clone(), vec![0.3, 1.0]),
        ];
        for chunk in [1, 5, 20] {
            let out = mixed(&mut runner, &texts, chunk);
            assert!(bits(&out[0]) == base && bits(&out[2]) == base, "{ty}, chunks of {chunk}");
            assert!(bits(&out[1]) != base, "{ty}: an open valve must change something");
            assert!(out[3].iter().flatten().any(|v| !v.is_finite()), "{ty}: the second adapter does overflow");
        }
    }
}

#[test]
fn law_3_alpha_means_the_dial() {
    // scale = lora_alpha / rank = 2: at α the delta is 2α · B A, as PEFT merges it and llama.cpp applies it.
    for ty in [TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0] {
        let rank = if ty == TensorType::Q8_0 { 32 } else { 5 };
        let mut runner = Runner::new(model(TensorType::F32), &[adapter(3, rank, ty)], FLOAT());
        let text = tokens(24, 4);
        for alpha in [-0.5, 0.0, 0.3, 1.0, 1.7] {
            let error = nmse(&runner.text(0, &text, &[alpha], 24), &runner.reference(&text, &[alpha]));
            assert!(error < 1e-9, "{ty} at {alpha}: NMSE {error:e}");
        }
        let wrong = nmse(&runner.text(0, &text, &[0.9], 24), &runner.reference(&text, &[1.0]));
        assert!(wrong > 1e-6, "the measure must see a tenth of α: {wrong:e}");
    }
}

#[test]
fn law_3_a_missing_lora_alpha_is_the_scale_alone() {
    let config = Config::read(&parse("m", model(TensorType::F32))).unwrap();
    for (alpha, scale) in [(None, 1.0), (Some(0.0), 1.0), (Some(12.0), 4.0)] {
        let file = parse("a", rewritten(&tiny_adapter(1, 3, TensorType::F32, &["blk.0.attn_q.weight"]), alpha, &[]));
        let read = Adapter::read(&file, &config, false).unwrap();
        assert_eq!(read.pairs()[0].scale, scale, "{alpha:?}");
    }
}

#[test]
fn law_4_openings_are_per_row_and_slot_in_one_pass_over_the_weights() {
    let adapters = [adapter(1, 8, TensorType::F16), adapter(2, 4, TensorType::F16)];
    let text = tokens(12, 5);
    let openings = [[0.0, 0.0], [1.0, 0.0], [0.0, -0.5], [0.25, 2.0]];
    let mut runner = Runner::new(model(TensorType::Q4_0), &adapters, Setup::default());
    let alone: Vec<_> = openings.iter().map(|o| bits(&runner.text(7, &text, o, 12))).collect();
    let before = runner.regions();
    let texts: Vec<_> = (0..4).map(|i| (i, text.clone(), openings[i as usize].to_vec())).collect();
    let together = mixed(&mut runner, &texts, 1);
    let regions_mixed = runner.regions() - before;
    together.iter().zip(&alone).for_each(|(t, a)| assert!(bits(t) == *a));
    let same: Vec<_> = (0..4).map(|i| (i, text.clone(), vec![1.0, 1.0])).collect();
    let before = runner.regions();
    mixed(&mut runner, &same, 1);
    assert_eq!(regions_mixed, runner.regions() - before, "mixed openings take no further regions");
}

#[test]
fn rows_whose_logits_are_not_wanted_change_nothing() {
    let adapters = [adapter(1, 8, TensorType::F16)];
    let mut runner = Runner::new(model(TensorType::Q4_0), &adapters, Setup::default());
    let (mut rows, texts) = (Vec::new(), [tokens(40, 8), tokens(30, 9)]);
    for (sequence, text) in texts.iter().enumerate() {
        rows.extend(text_rows(sequence as u32, text, &[0.0]));
    }
    rows.iter_mut().enumerate().for_each(|(i, row)| row.openings[0] = [0.0, 1.0, -0.5][i % 3]);
    let all = runner.step(&rows);
    for outputs in [&[69][..], &[39, 69], &[0, 2, 3, 17, 39, 40, 41, 55, 69], &[]] {
        let wanted: Vec<_> = outputs.iter().map(|i| all[*i as usize].clone()).collect();
        assert!(bits(&runner.step_for(&rows, outputs)) == bits(&wanted), "{outputs:?}");
        // What the cache has got from such a step is what any step leaves.
        let row = Row { sequence: 1, token: 3, position: 30, openings: vec![1.0] };
        let next = runner.step(std::slice::from_ref(&row));
        runner.step(&rows);
        assert!(bits(&next) == bits(&runner.step(&[row])), "after {outputs:?}");
    }
}

#[test]
fn law_6_a_turn_acts_from_the_next_row_and_keeps_the_cache() {
    let adapters = [adapter(1, 8, TensorType::F16)];
    let text = tokens(30, 6);
    let mut rows = text_rows(0, &text, &[0.0]);
    rows[12..].iter_mut().for_each(|r| r.openings[0] = 0.75);
    let mut runner = Runner::new(model(TensorType::Q4_0), &adapters, Setup::default());
    let turned: Vec<_> = rows.chunks(4).flat_map(|r| runner.step(r)).collect();
    let closed = runner.text(1, &text, &[0.0], 30);
    let open = runner.text(2, &text, &[0.75], 30);
    assert!(bits(&turned[..12]) == bits(&closed[..12]), "before the turn it is the closed model");
    assert!((12..30).all(|i| turned[i] != closed[i] && turned[i] != open[i]), "after it the chain is mixed");
}

/// The adapter `file` with another `lora_alpha` and with tensors added.
fn rewritten(file: &[u8], alpha: Option<f32>, extra: &[&str]) -> Vec<u8> {
    let gguf = parse("a", file.to_vec());
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter().filter(|(k, _)| k != "adapter.lora.alpha") {
        writer.set(key, value.clone()).unwrap();
    }
    if let Some(alpha) = alpha {
        writer.set("adapter.lora.alpha", alpha).unwrap();
    }
    for t in gguf.tensors() {
        writer.tensor(&t.name, t.ty.id, &t.dims, t.data.to_vec()).unwrap();
    }
    for name in extra {
        writer.tensor(name, TensorType::F32 as u32, &[64], vec![0; 256]).unwrap();
    }
    writer.to_bytes().unwrap()
}

#[test]
fn law_7_nothing_silent() {
    let config = Config::read(&parse("m", model(TensorType::F32))).unwrap();
    let good = tiny_adapter(1, 3, TensorType::F32, &["blk.0.attn_q.weight", "blk.1.ffn_down.weight"]);
    let read = |bytes: Vec<u8>| Adapter::read(&parse("the.gguf", bytes), &config, false);
    let with = |extra: &str| read(rewritten(&good, Some(3.0), &[extra]));
    assert_eq!(with("blk.0.attn_norm.weight").unwrap().ignored(), ["blk.0.attn_norm.weight"]);
    assert_eq!(with("blk.0.attn_norm.weight").unwrap().pairs().len(), 2);
    let refused = [
        ("blk.0.attn_k.weight.lora_a", "lora_b is missing"),
        ("blk.2.attn_q.weight.lora_a", "lora_b is missing"),
        ("something.else", "neither .lora_a nor .lora_b"),
    ];
    for (extra, why) in refused {
        let error = with(extra).unwrap_err();
        assert!(matches!(error, Error::Adapter { .. }) && error.to_string().contains(why), "{error}");
    }
    for (target, why) in [("output.weight", "no such projection"), ("token_embd.weight", "no such projection")] {
        let error = read(tiny_adapter(1, 3, TensorType::F32, &[target])).unwrap_err().to_string();
        assert!(error.contains(target) && error.contains(why), "{error}");
    }
    let empty = read(tiny_adapter(1, 3, TensorType::F32, &[])).unwrap_err().to_string();
    assert!(empty.contains("nothing that could be applied"), "{empty}");
}
