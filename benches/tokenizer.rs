//! Tokens of stored text: problems in English, and lines that are hard to cut. Bytes of text a second; a vocabulary of
//! SmolLM2's size, made by rule.

mod support;

use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::quantize::FileType;
use cotvalve::model::synth::{Recipe, Shape};
use cotvalve::model::tokenizer;
use criterion::Throughput;
use std::hint::black_box;
use std::path::Path;

fn main() {
    let shape = Shape { vocab: 49_152, ..Shape::named("tiny").unwrap() };
    let recipe = Recipe { shape, file_type: FileType::Q4_0, pure: true, seed: 0, context: None };
    let bytes = Bytes::from(recipe.model().unwrap().to_bytes().unwrap());
    let gguf = Gguf::parse(Path::new("synth.gguf"), bytes).unwrap();
    let tokenizer = tokenizer(&gguf).unwrap();
    let mut c = support::criterion(1000);
    let mut group = c.benchmark_group("tokenizer");
    for (name, file) in [("english", "gsm8k-slice.jsonl"), ("hard", "tokenizer/lines.jsonl")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let ids = tokenizer.encode(&text, false, false).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("encode/{name}"), |b| {
            b.iter(|| tokenizer.encode(black_box(&text), false, false).unwrap());
        });
        group.bench_function(format!("decode/{name}"), |b| b.iter(|| tokenizer.decode(black_box(&ids)).unwrap()));
    }
    group.finish();
    let mut group = c.benchmark_group("tokenizer");
    group.bench_function("load", |b| b.iter(|| cotvalve::model::tokenizer(black_box(&gguf)).unwrap()));
    group.finish();
    c.final_summary();
}
