//! A valve adds no parallel region: the shrink and the expand ride with their projection.

mod support;

use cotvalve::backend::{Batch, Precision, Span};
use cotvalve::cpu::Cpu;
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::{Forward, Logits, Model, Stage, StageSpec, Weights};
use cotvalve::tensor::TensorType;
use cotvalve::valve::Adapter;
use std::path::Path;
use std::sync::Arc;
use support::gguf_fixture::{LAYERS, tiny_adapter, tiny_llama};

const THREADS: usize = 2;
const ROWS: usize = 4;
/// Attention and MLP of every layer.
const SLOTS: usize = 2 * LAYERS;

fn parse(file: Vec<u8>) -> Gguf {
    Gguf::parse(Path::new("made.gguf"), Bytes::from(file)).unwrap()
}

/// A model whose every projection carries a low-rank term, if `valve`.
fn forward(valve: bool) -> Forward<Cpu> {
    let model = Model::new(parse(tiny_llama(5, TensorType::F16))).unwrap();
    let backend = Cpu::new(THREADS, Precision::Int8).unwrap();
    let weights = Weights::load(model.gguf(), model.config(), &backend, &mut |_| true).unwrap();
    let spec = StageSpec { rows: ROWS, outputs: ROWS, pages: 1, page_len: 64, kv_type: TensorType::F16 };
    let mut forward = Forward::new(backend, model.config().clone(), Arc::new(weights), spec).unwrap();
    if valve {
        let parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        let targets = (0..LAYERS).flat_map(|l| parts.map(|part| format!("blk.{l}.{part}.weight")));
        let targets: Vec<String> = targets.collect();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let file = parse(tiny_adapter(6, 4, TensorType::F16, &targets));
        let adapter = Adapter::read(&file, model.config(), model.has_output()).unwrap();
        assert_eq!(adapter.pairs().len(), parts.len() * LAYERS);
        forward.attach(&[Arc::new(adapter)]).unwrap();
    }
    forward
}

/// Regions of a step of `rows` rows, and its logits.
fn step(forward: &mut Forward<Cpu>, first: u32, rows: u32, openings: &[f32]) -> (u64, Vec<f32>) {
    let tokens: Vec<u32> = (first..first + rows).map(|t| 5 + t).collect();
    let positions: Vec<u32> = (first..first + rows).collect();
    let batch = Batch {
        tokens: &tokens,
        positions: &positions,
        spans: &[Span { rows: 0..rows, table: 0..1 }],
        pages: &[0],
        openings,
        slots: openings.len() / rows as usize,
        outputs: &[rows - 1],
    };
    let mut logits = Logits::every();
    let before = forward.backend().regions();
    forward.step(&batch, &mut logits).unwrap();
    (forward.backend().regions() - before, logits.all)
}

/// One row: qkv, attention, output, gate/up and down of each layer, and the head.
const DECODE: u64 = 5 * LAYERS as u64 + 1;
/// More rows: beside those five, each layer shares out by row the input of qkv, the rotation, the sum after the
/// output, the input of gate/up, the input of down (the activation), and the sum after that. In the last layer one row
/// is left for the latter four, and the head.
const PREFILL: u64 = (5 + 6) * LAYERS as u64 - 4 + 1;

#[test]
fn a_valve_adds_no_region_to_a_decode_step() {
    let (mut base, mut valved) = (forward(false), forward(true));
    for position in 0..3 {
        let (closed, without) = step(&mut base, position, 1, &[]);
        let (opened, with) = step(&mut valved, position, 1, &[1.0; SLOTS]);
        assert_eq!((closed, opened), (DECODE, DECODE));
        assert_ne!(without, with, "the valve has no effect");
    }
}

#[test]
fn a_valve_adds_no_region_to_a_prefill() {
    let (mut base, mut valved) = (forward(false), forward(true));
    let (closed, without) = step(&mut base, 0, ROWS as u32, &[]);
    let (opened, with) = step(&mut valved, 0, ROWS as u32, &[1.0; ROWS * SLOTS]);
    assert_eq!((closed, opened), (PREFILL, PREFILL));
    assert_ne!(without, with, "the valve has no effect");
}

#[test]
fn a_closed_valve_adds_none_either() {
    let mut valved = forward(true);
    assert_eq!(step(&mut valved, 0, 1, &[0.0; SLOTS]).0, DECODE);
    assert_eq!(step(&mut valved, 1, ROWS as u32 - 1, &[0.0; (ROWS - 1) * SLOTS]).0, PREFILL);
}
