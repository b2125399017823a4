//! Attention by context: a decode step's one row and a prompt's 512, over caches of F16 and Q8_0. Llama 3.2 1B's heads,
//! one thread; a decode step in as many layers as keep long contexts out of the processor's caches, as in a model.
//!
//! An element is one of the 4·rows·heads·head_dim·positions operations of the scores and the sums.

mod support;

use cotvalve::backend::{Backend, Batch, CacheSpec, Heads, Linear, PageId, Precision, Rope, RopeLayout, Span};
use cotvalve::cpu::Cpu;
use cotvalve::rng::Rng;
use cotvalve::tensor::TensorType;
use criterion::{Criterion, Throughput};
use support::{criterion, is_smoke};

const HEADS: Heads = Heads { heads: 32, kv_heads: 8, head_dim: 64, scale: 0.125 };
/// Positions of a page, and rows of a prompt's step.
const PAGE_LEN: usize = 64;
const STEP: usize = 512;

/// A sequence in the cache.
struct Sequence {
    cpu: Cpu,
    layers: usize,
    cache: <Cpu as Backend>::Cache,
    rope: Rope,
    table: Vec<PageId>,
    values: Vec<f32>,
    /// q, k, v and y.
    bufs: [<Cpu as Linear>::Buf; 4],
}

impl Sequence {
    fn new(ty: TensorType, context: usize, layers: usize) -> Self {
        let cpu = Cpu::new(1, Precision::Int8).unwrap();
        let pages = context.div_ceil(PAGE_LEN);
        let Heads { heads, kv_heads, head_dim, .. } = HEADS;
        let spec = CacheSpec { layers, kv_heads, head_dim, pages, page_len: PAGE_LEN, ty };
        let cache = cpu.cache(&spec).unwrap();
        let buf = |heads: usize| cpu.buf(STEP.min(context), heads * head_dim).unwrap();
        let bufs = [buf(heads), buf(kv_heads), buf(kv_heads), buf(heads)];
        let mut rng = Rng::new(1);
        let values = (0..STEP * heads * head_dim).map(|_| rng.normal()).collect();
        let rope = Rope { layout: RopeLayout::Interleaved, inv_freq: vec![0.01; head_dim / 2] };
        let mut sequence = Self { cpu, layers, cache, rope, table: (0..pages as PageId).collect(), values, bufs };
        for start in (0..context).step_by(STEP) {
            sequence.step(start, STEP.min(context - start));
        }
        sequence
    }

    /// Makes `rows` rows from position `start` on the step's, and stores keys and values for them.
    fn step(&mut self, start: usize, rows: usize) {
        let positions: Vec<u32> = (start as u32..(start + rows) as u32).collect();
        let span = Span { rows: 0..rows as u32, table: 0..self.table.len() as u32 };
        let tokens = vec![0; rows];
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            spans: &[span],
            pages: &self.table,
            openings: &[],
            slots: 0,
            outputs: &[],
        };
        self.cpu.begin(&batch).unwrap();
        let [q, k, v, _] = &mut self.bufs;
        for (buf, heads) in [(&mut *q, HEADS.heads), (&mut *k, HEADS.kv_heads), (&mut *v, HEADS.kv_heads)] {
            self.cpu.upload(buf, &self.values[..rows * heads * HEADS.head_dim]).unwrap();
        }
        for layer in 0..self.layers {
            self.cpu.rope_store([&mut *q, &mut *k, &mut *v], None, &mut self.cache, layer, &self.rope, &HEADS).unwrap();
        }
    }

    fn attend(&mut self) {
        let [q, _, _, y] = &mut self.bufs;
        for layer in 0..self.layers {
            self.cpu.attend(y, q, &self.cache, layer, &HEADS).unwrap();
        }
    }
}

fn main() {
    let mut c: Criterion = criterion(1000);
    let contexts: &[usize] = if is_smoke() { &[64, 128] } else { &[64, 1024, 4096, 8192] };
    for (name, most, layers) in [("decode", 1, 8), ("prefill", STEP, 1)] {
        let mut group = c.benchmark_group(format!("attention/{name}"));
        for ty in [TensorType::F16, TensorType::Q8_0] {
            for &context in contexts {
                let rows = most.min(context);
                let mut sequence = Sequence::new(ty, context, layers);
                sequence.step(context - rows, rows);
                // Row i of a step of n rows reads context − n + 1 + i positions.
                let positions = rows * (2 * context - rows + 1) / 2;
                let operations = 4 * layers * HEADS.heads * HEADS.head_dim * positions;
                group.throughput(Throughput::Elements(operations as u64));
                group.bench_function(format!("{ty}/{context}"), |b| b.iter(|| sequence.attend()));
            }
        }
    }
    c.final_summary();
}
