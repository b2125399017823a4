//! From the second decode step on, forward pass and sampling ask for no memory, on any thread.

mod support;

use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions};
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::quant;
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Adapter, Dial, Group, Scope, Selector, Setting};
use std::path::Path;
use std::sync::Arc;
use support::alloc::Counting;
use support::gguf_fixture::{TinyLlama, tiny_adapter, wide_heads, with_metadata};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Long enough for eight pages of the cache, so that tables grow past any small first size.
const CONTEXT: usize = 512;
const TARGETS: [&str; 4] =
    ["blk.0.attn_q.weight", "blk.1.attn_v.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_down.weight"];

/// How tokens are drawn.
#[derive(Clone, Copy, Debug)]
enum Chain {
    Greedy,
    Default,
    /// Every stage but Mirostat, which takes the place of most.
    Full,
    Mirostat,
}

impl Chain {
    fn sampling(self) -> Sampling {
        match self {
            Self::Greedy => Sampling::greedy(),
            Self::Default => Sampling::default(),
            Self::Full => Sampling {
                dynatemp_range: 0.2,
                top_k: 0,
                typical_p: 0.99,
                top_n_sigma: 2.0,
                xtc_probability: 0.5,
                repeat_penalty: 1.1,
                dry_multiplier: 0.5,
                logit_bias: vec![(9, 1.0)],
                ..Sampling::default()
            },
            Self::Mirostat => Sampling { mirostat: 2, ..Sampling::default() },
        }
    }
}

/// One way to decode.
#[derive(Debug)]
struct Setup {
    ty: TensorType,
    kv_type: TensorType,
    threads: usize,
    valve: bool,
    chain: Chain,
    prompt: u32,
}

fn model(ty: TensorType) -> Arc<Model> {
    let encode = |ty: TensorType, values: &[f32]| {
        let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap()];
        quant::encode(ty, values, &mut bytes);
        bytes
    };
    let file = TinyLlama { seed: 11, ty, separate_output: false, rope_freqs: false, encode: &encode }.bytes();
    // A template with tags, so that what is drawn is searched for them.
    let file = with_metadata(wide_heads(&file), &[("tokenizer.chat_template", "<think>".into())]);
    Model::new(Gguf::parse(Path::new("tiny.gguf"), Bytes::from(file)).unwrap()).unwrap()
}

fn engine(setup: &Setup) -> Engine {
    let options = EngineOptions {
        threads: setup.threads,
        context: CONTEXT,
        batch: 32,
        precision: Precision::Int8,
        kv_type: setup.kv_type,
        ..EngineOptions::default()
    };
    Engine::new(model(setup.ty), &options).unwrap()
}

/// Decodes to the end of the context and returns the first step, from the second on, that asked for memory, with
/// how often it did.
fn first_allocation(setup: &Setup) -> Option<(usize, usize)> {
    let engine = engine(setup);
    let mut session = engine.session();
    if setup.valve {
        let file = tiny_adapter(12, 4, TensorType::F16, &TARGETS);
        let gguf = Gguf::parse(Path::new("adapter.gguf"), Bytes::from(file)).unwrap();
        let adapter = Adapter::read(&gguf, engine.model().config(), false).unwrap();
        let valve = engine.attach_adapter(adapter).unwrap();
        session = engine.session();
        let part = (Selector::group(Group::Mlp), Dial::constant(0.5).unwrap());
        let dial = Dial::constant(0.75).unwrap();
        session.set_with(&valve, Setting { dial, scope: Scope::All, parts: vec![part] }).unwrap();
    }
    let mut timeline: Vec<u32> = (0..setup.prompt).map(|i| 3 + i * 7 % 250).collect();
    let sampling = setup.chain.sampling();
    let mut left = CONTEXT - timeline.len();
    let mut found = None;
    // The tiny model may draw an end token; the timeline then goes on in another generation.
    while left > 0 {
        session.prompt(&timeline).unwrap();
        let mut generation = session.generate(&sampling, left).unwrap();
        let mut step = 0;
        loop {
            let before = ALLOCATOR.requests();
            engine.advance([&mut generation]).unwrap();
            let requests = ALLOCATOR.requests() - before;
            // Step 0 is the prompt, 1 the first decode.
            if step >= 2 && requests > 0 && found.is_none() {
                found = Some((step, requests));
            }
            let Some(event) = generation.next() else { break };
            let event = event.unwrap();
            (step, left) = (step + 1, left - 1);
            if event.stop.is_some() {
                break;
            }
        }
        drop(generation);
        timeline = session.tokens();
    }
    found
}

/// A program of its own: the allocations of a test harness, in another thread, would be counted too.
fn main() {
    let mut steps = 0;
    for (ty, kv_type) in [(TensorType::Q4_1, TensorType::F16), (TensorType::F16, TensorType::Q8_0)] {
        for (threads, valve, chain, prompt) in [
            (1, false, Chain::Greedy, 5),
            (1, true, Chain::Default, 60),
            (2, false, Chain::Full, 5),
            (2, true, Chain::Greedy, 60),
            (2, true, Chain::Mirostat, 1),
        ] {
            let setup = Setup { ty, kv_type, threads, valve, chain, prompt };
            assert_eq!(first_allocation(&setup), None, "{setup:?}: (step, requests)");
            steps += CONTEXT - prompt as usize;
        }
    }
    assert!(steps > 4_000);
    println!("test decoding_allocates_nothing ... ok\n\ntest result: ok. 1 passed; 0 failed");
}
