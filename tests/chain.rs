//! A model in portions is the whole model, bit for bit.

mod support;

use cotvalve::backend::{Batch, Precision, Span};
use cotvalve::cpu::Cpu;
use cotvalve::model::{Chain, Config, Forward, Logits, Part, Portion, Stage, StageSpec, Weights};
use cotvalve::tensor::TensorType;
use cotvalve::valve::Adapter;
use std::sync::Arc;
use support::gguf_fixture::VOCAB;
use support::shaped::{Shape, shaped, shaped_adapter};
use support::stage::parse;

const SHAPE: Shape = Shape { layers: 5, heads: 4, kv_heads: 2, head_dim: 16, rotated: 16, embed: 64, ffn: 96 };
const SPEC: StageSpec = StageSpec { rows: 16, outputs: 16, pages: 4, page_len: 8, kv_type: TensorType::F16 };
/// Parts of the adapter.
const SLOTS: usize = 10;

fn cpu() -> Cpu {
    Cpu::new(2, Precision::Int8).unwrap()
}

/// The model whole, and cut after its first and third layers; both with an adapter.
fn both() -> (Box<dyn Stage>, Chain) {
    let gguf = parse("model.gguf", shaped(&SHAPE, TensorType::Q8_0));
    let config = Config::read(&gguf).unwrap();
    let part = |portion: Portion| -> Box<dyn Part> {
        let weights = Weights::load_portion(&gguf, &config, &cpu(), &portion, &mut |_| true).unwrap();
        Box::new(Forward::of_portion(cpu(), config.clone(), Arc::new(weights), portion, SPEC).unwrap())
    };
    let mut whole: Box<dyn Stage> = part(Portion::all(SHAPE.layers));
    let portions = [(0, 1), (1, 3), (3, 5)];
    let cut = portions.map(|(start, end)| Portion { embed: start == 0, layers: start..end, head: end == 5 });
    let layer = 2 * SHAPE.kv_heads * TensorType::F16.row_bytes(SHAPE.head_dim).unwrap();
    let mut chain = Chain::new(cut.into_iter().map(part).collect(), SHAPE.embed, layer);
    let adapter = parse("adapter.gguf", shaped_adapter(&SHAPE, 1, 4, TensorType::F16, 0.1));
    let adapters = [Arc::new(Adapter::read(&adapter, &config, false).unwrap())];
    assert_eq!(adapters[0].parts().len(), SLOTS);
    whole.attach(&adapters).unwrap();
    chain.attach(&adapters).unwrap();
    (whole, chain)
}

/// Rows at positions `first..first + n` of the one sequence, whose pages are 2 and 1; the logits of some of them.
fn step(stage: &mut dyn Stage, first: u32, n: u32, outputs: &[u32], pages: &[u32]) -> Vec<u32> {
    let positions: Vec<u32> = (first..first + n).collect();
    let tokens: Vec<u32> = positions.iter().map(|p| (p * 7 + 3) % VOCAB as u32).collect();
    let openings: Vec<f32> = positions.iter().flat_map(|p| [*p as f32 / 8.0; SLOTS]).collect();
    let spans = [Span { rows: 0..n, table: 0..2 }];
    let (tokens, positions, openings) = (&tokens[..], &positions[..], &openings[..]);
    let batch = Batch { tokens, positions, spans: &spans, pages, openings, slots: SLOTS, outputs };
    let mut logits = Logits::every();
    stage.step(&batch, &mut logits).unwrap();
    logits.all.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn logits_are_those_of_the_whole_model() {
    let (mut whole, mut chain) = both();
    for (first, n, outputs) in [(0, 9, &[0, 8][..]), (9, 1, &[0]), (10, 4, &[]), (14, 2, &[0, 1])] {
        let want = step(&mut *whole, first, n, outputs, &[2, 1]);
        assert_eq!(step(&mut chain, first, n, outputs, &[2, 1]), want, "positions from {first}");
    }
}

#[test]
fn pages_are_those_of_the_whole_model() {
    let (mut whole, mut chain) = both();
    step(&mut *whole, 0, 9, &[], &[2, 1]);
    step(&mut chain, 0, 9, &[], &[2, 1]);
    let bytes = 8 * SHAPE.layers * 2 * SHAPE.kv_heads * TensorType::F16.row_bytes(SHAPE.head_dim).unwrap();
    let read = |stage: &mut dyn Stage, page| {
        let mut out = vec![0; bytes];
        stage.read_page(page, &mut out).unwrap();
        out
    };
    let page = read(&mut *whole, 2);
    assert_eq!(read(&mut chain, 2), page);
    chain.write_page(0, &page).unwrap();
    chain.copy_page(1, 3).unwrap();
    assert_eq!(read(&mut chain, 0), page);
    let want = step(&mut *whole, 9, 1, &[0], &[2, 1]);
    assert_eq!(step(&mut chain, 9, 1, &[0], &[0, 3]), want, "from the pages written and copied");
}
