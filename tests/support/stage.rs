//! A stage driven row by row, so that tests decide what stands beside what in a batch.

use super::reference::{Delta, Hyper, Reference};
use cotvalve::backend::{Backend, Batch, Precision, Span};
use cotvalve::cpu::Cpu;
use cotvalve::cpu::simd::Level;
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::{Config, Forward, Logits, Stage, StageSpec, Weights};
use cotvalve::quant::dequantize;
use cotvalve::tensor::{Tensor, TensorType};
use cotvalve::valve::{Adapter, Part};
use std::path::Path;
use std::sync::Arc;

/// Positions of a page, and pages that each sequence owns.
const PAGE: usize = 64;
const PAGES: u32 = 4;
const SEQUENCES: u32 = 16;

/// One row of a batch.
#[derive(Clone, Debug)]
pub struct Row {
    pub sequence: u32,
    pub token: u32,
    pub position: u32,
    /// One an adapter, or one a slot.
    pub openings: Vec<f32>,
}

/// How a stage is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub threads: usize,
    pub level: Level,
    pub precision: Precision,
    pub kv_type: TensorType,
}

impl Default for Setup {
    fn default() -> Self {
        Self { threads: 2, level: Level::detect(), precision: Precision::Int8, kv_type: TensorType::F16 }
    }
}

/// The truth's settings: nothing rounded but to f32.
pub const FLOAT: fn() -> Setup = || Setup { precision: Precision::Float, kv_type: TensorType::F32, ..Setup::default() };

/// A model's layers and the files they came from.
pub struct Runner<B: Backend = Cpu> {
    forward: Forward<B>,
    gguf: Gguf,
    adapters: Vec<Arc<Adapter>>,
    config: Config,
}

pub fn parse(name: &str, bytes: Vec<u8>) -> Gguf {
    Gguf::parse(Path::new(name), Bytes::from(bytes)).unwrap()
}

impl Runner {
    pub fn new(model: Vec<u8>, adapters: &[Vec<u8>], setup: Setup) -> Self {
        let backend = Cpu::at_level(setup.threads, setup.precision, setup.level).unwrap();
        Self::on(backend, model, adapters, setup.kv_type)
    }

    /// Parallel regions run so far.
    pub fn regions(&self) -> u64 {
        self.forward.backend().regions()
    }
}

impl<B: Backend + Send> Runner<B> {
    pub fn on(backend: B, model: Vec<u8>, adapters: &[Vec<u8>], kv_type: TensorType) -> Self {
        let gguf = parse("model.gguf", model);
        let config = Config::read(&gguf).unwrap();
        let weights = Arc::new(Weights::load(&gguf, &config, &backend, &mut |_| true).unwrap());
        let pages = (SEQUENCES * PAGES) as usize;
        let spec = StageSpec { rows: 128, outputs: 128, pages, page_len: PAGE, kv_type };
        let mut forward = Forward::new(backend, config.clone(), weights, spec).unwrap();
        let has_output = gguf.info("output.weight").is_some();
        let read = |b: &Vec<u8>| Adapter::read(&parse("adapter.gguf", b.clone()), &config, has_output).unwrap();
        let adapters: Vec<_> = adapters.iter().map(read).map(Arc::new).collect();
        forward.attach(&adapters).unwrap();
        Self { forward, gguf, adapters, config }
    }

    /// Attaches the same adapters again.
    pub fn reattach(&mut self) {
        self.forward.attach(&self.adapters).unwrap();
    }

    pub fn stage(&mut self) -> &mut Forward<B> {
        &mut self.forward
    }

    /// What each slot turns: an adapter, and which part of it.
    pub fn slots(&self) -> Vec<(usize, Part)> {
        let adapters = self.adapters.iter().enumerate();
        adapters.flat_map(|(i, adapter)| adapter.parts().iter().map(move |part| (i, *part))).collect()
    }

    /// One opening a slot, of one an adapter or one a slot.
    fn by_slot(&self, openings: &[f32]) -> Vec<f32> {
        let slots = self.slots();
        if openings.len() == slots.len() {
            return openings.to_vec();
        }
        assert!(openings.len() == self.adapters.len(), "one opening an adapter or a slot");
        slots.iter().map(|(adapter, _)| openings[*adapter]).collect()
    }

    /// One step; the logits of every row. Rows of a sequence must be neighbours.
    pub fn step(&mut self, rows: &[Row]) -> Vec<Vec<f32>> {
        self.step_for(rows, &(0..rows.len() as u32).collect::<Vec<_>>())
    }

    /// One step; the logits of the rows `outputs`.
    pub fn step_for(&mut self, rows: &[Row], outputs: &[u32]) -> Vec<Vec<f32>> {
        let mut logits = Logits::every();
        self.step_into(rows, outputs, &mut logits);
        logits.all.chunks_exact(self.config.vocab).map(<[f32]>::to_vec).collect()
    }

    /// One step; what `logits` asks for of the rows `outputs`.
    pub fn step_into(&mut self, rows: &[Row], outputs: &[u32], logits: &mut Logits) {
        let tokens: Vec<u32> = rows.iter().map(|r| r.token).collect();
        let positions: Vec<u32> = rows.iter().map(|r| r.position).collect();
        let slots = self.slots().len();
        let openings: Vec<f32> = rows.iter().flat_map(|r| self.by_slot(&r.openings)).collect();
        let (mut spans, mut pages, mut start) = (Vec::new(), Vec::new(), 0);
        for run in rows.chunk_by(|a, b| a.sequence == b.sequence) {
            let table = pages.len() as u32..pages.len() as u32 + PAGES;
            pages.extend((0..PAGES).map(|p| run[0].sequence * PAGES + p));
            spans.push(Span { rows: start..start + run.len() as u32, table });
            start += run.len() as u32;
        }
        let (spans, pages) = (&spans[..], &pages[..]);
        let (tokens, positions, openings) = (&tokens[..], &positions[..], &openings[..]);
        let batch = Batch { tokens, positions, spans, pages, openings, slots, outputs };
        self.forward.step(&batch, logits).unwrap();
    }

    /// A whole text in steps of at most `chunk` rows, with the same openings at every row.
    pub fn text(&mut self, sequence: u32, tokens: &[u32], openings: &[f32], chunk: usize) -> Vec<Vec<f32>> {
        let rows = text_rows(sequence, tokens, openings);
        rows.chunks(chunk).flat_map(|rows| self.step(rows)).collect()
    }

    /// The same in f64, by formulas that share no code with the engine.
    pub fn reference(&self, tokens: &[u32], openings: &[f32]) -> Vec<Vec<f64>> {
        let Config { heads, .. } = &self.config;
        let key = |name: &str| self.gguf.f32(&format!("llama.{name}")).unwrap();
        let factors = self.gguf.tensor("rope_freqs.weight").unwrap().map(|t| values(&t));
        let hyper = Hyper {
            n_layer: self.config.layers,
            n_head: heads.heads,
            n_kv_head: heads.kv_heads,
            head_dim: heads.head_dim,
            rope_base: key("rope.freq_base").unwrap().into(),
            rope_dims: self.gguf.u32("llama.rope.dimension_count").unwrap().unwrap() as usize,
            eps: key("attention.layer_norm_rms_epsilon").unwrap().into(),
            rope_factors: factors,
        };
        let tensor = |name: &str| self.gguf.tensor(name).unwrap().map(|t| values(&t));
        let mut deltas = Vec::new();
        for ((adapter, part), alpha) in self.slots().into_iter().zip(self.by_slot(openings)) {
            for pair in self.adapters[adapter].pairs().iter().filter(|pair| Part::of(pair.site) == part) {
                let name = pair.a.name.strip_suffix(".lora_a").unwrap().to_string();
                let scale = f64::from(alpha) * f64::from(pair.scale);
                deltas.push(Delta { name, a: values(&pair.a), b: values(&pair.b), scale });
            }
        }
        Reference::from_gguf_tensors(hyper, tensor, deltas).logits(tokens)
    }
}

/// Every token at its position, with the same openings.
pub fn text_rows(sequence: u32, tokens: &[u32], openings: &[f32]) -> Vec<Row> {
    let row = |(position, token): (u32, &u32)| Row { sequence, token: *token, position, openings: openings.to_vec() };
    (0..).zip(tokens).map(row).collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let mut out = vec![0.0; tensor.cols()];
    let rows = tensor.data.chunks_exact(tensor.row_bytes());
    rows.flat_map(|row| {
        dequantize(tensor.ty, row, &mut out);
        out.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()
    })
    .collect()
}

/// Normalized mean squared error: Σ (x − y)² / Σ y².
pub fn nmse(x: &[Vec<f32>], y: &[Vec<f64>]) -> f64 {
    let pairs = || x.iter().flatten().zip(y.iter().flatten());
    let error: f64 = pairs().map(|(x, y)| (f64::from(*x) - y).powi(2)).sum();
    error / pairs().map(|(_, y)| y.powi(2)).sum::<f64>()
}

/// The bits of every logit: what "equal" means in the laws.
pub fn bits(logits: &[Vec<f32>]) -> Vec<Vec<u32>> {
    logits.iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
}
