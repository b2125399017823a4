//! A model of random weights in the shape of SmolLM2 135M: decode, prefill, decode with a valve by rank, and how long
//! it takes from a file to the first logits. All threads of the machine; an element is a token.

mod support;

use cotvalve::engine::{Engine, EngineOptions, Session};
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::model::quantize::FileType;
use cotvalve::rng::Rng;
use cotvalve::valve::{Adapter, Dial, Scope};
use criterion::{Criterion, Throughput};
use std::path::Path;
use std::sync::Arc;
use support::{criterion, is_smoke, model, recipe};

const TYPES: [FileType; 3] = [FileType::Q4_0, FileType::Q4_1, FileType::Q8_0];
/// Tokens of a decode run after the first, and of a prompt.
const DECODED: usize = 15;
const PROMPT: usize = 512;

fn engine(model: Arc<Model>) -> Engine {
    Engine::new(model, &EngineOptions { context: PROMPT, ..EngineOptions::default() }).unwrap()
}

/// A timeline of which nothing is in the cache yet: no two start alike.
fn fresh(rng: &mut Rng, last: &mut u32, n: usize, vocab: usize) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..n).map(|_| rng.below(vocab) as u32).collect();
    *last = (*last + 1) % vocab as u32;
    tokens[0] = *last;
    tokens
}

/// Benches timelines of `prompt` tokens at once and `decoded` one by one.
fn bench(c: &mut Criterion, name: &str, session: &mut Session, [prompt, decoded]: [usize; 2]) {
    let (vocab, mut rng, mut last) = (session.engine().model().config().vocab, Rng::new(1), 0);
    let mut group = c.benchmark_group("model");
    group.throughput(Throughput::Elements((prompt + decoded) as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            let tokens = fresh(&mut rng, &mut last, prompt + decoded, vocab);
            assert_eq!(session.prompt(&tokens[..prompt]).unwrap(), 0, "a prompt that nothing is known of");
            session.extend(&tokens[prompt..]).unwrap();
        });
    });
}

fn valves(c: &mut Criterion) {
    let model = model(FileType::Q4_0);
    let has_output = model.has_output();
    for rank in [4, 16, 64] {
        let bytes = Bytes::from(recipe(FileType::Q4_0).adapter(rank).unwrap().to_bytes().unwrap());
        let file = Gguf::parse(Path::new("adapter.gguf"), bytes).unwrap();
        let engine = engine(model.clone());
        let adapter = Adapter::read(&file, model.config(), has_output).unwrap();
        let valve = engine.attach_adapter(adapter).unwrap();
        for (state, alpha) in [("closed", 0.0), ("open", 1.0)] {
            let mut session = engine.session();
            session.set(&valve, Dial::constant(alpha).unwrap(), Scope::All).unwrap();
            bench(c, &format!("decode/rank{rank}/{state}"), &mut session, [1, DECODED]);
        }
    }
}

fn load(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    recipe(FileType::Q4_0).model().unwrap().write(&path).unwrap();
    let mut group = c.benchmark_group("model");
    group.bench_function("load", |b| {
        b.iter(|| {
            let mut session = engine(Model::open(&path).unwrap()).session();
            session.prompt(&[1]).unwrap();
            let mut finite = false;
            let each = |_, logits: &[f32]| {
                finite = logits.iter().all(|x| x.is_finite());
                Ok(())
            };
            session.score(each).unwrap();
            assert!(finite);
        });
    });
}

fn main() {
    let mut c = criterion(2000);
    let prompt = if is_smoke() { 16 } else { PROMPT };
    for file_type in TYPES {
        let engine = engine(model(file_type));
        let name = file_type.name().to_lowercase();
        bench(&mut c, &format!("decode/{name}"), &mut engine.session(), [1, DECODED]);
        bench(&mut c, &format!("prefill/{name}"), &mut engine.session(), [prompt, 0]);
    }
    valves(&mut c);
    load(&mut c);
    c.final_summary();
}
