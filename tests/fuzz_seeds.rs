//! The fuzzers' bodies without a fuzzer: over the stored seeds, the inputs of past faults, and some thousands of
//! damaged copies, the same on every machine. `tests/fuzz/run` is the real thing.

#[path = "fuzz/bodies.rs"]
mod bodies;
#[path = "fuzz/seeds.rs"]
mod seeds;
mod support;

use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::tensor::TensorType;
use std::fs;
use std::path::{Path, PathBuf};
use support::Random;

/// Damaged copies of seeds that each body gets.
const DAMAGED: usize = 4000;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target)
}

/// The stored inputs of a target, by name.
fn stored(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut found: Vec<_> = entries.map(|path| (name(&path), fs::read(&path).unwrap())).collect();
    found.sort();
    found
}

/// The words of a target's dictionary, where it has one.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/dictionaries/{target}"));
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let words = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    words.map(|word| word.replace("\\\"", "\"").into_bytes()).collect()
}

/// A copy with one to four changes: bits, extremes, a piece lost, doubled or taken from `other`, a word put in.
fn damage(data: &[u8], other: &[u8], words: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        let piece = at..(at + random.below(16)).min(data.len());
        match random.below(6) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => drop(data.drain(piece)),
            3 => {
                let copy = data[piece].to_vec();
                data.splice(at..at, copy);
            }
            4 if !other.is_empty() => {
                let from = random.below(other.len());
                let to = (from + random.below(64)).min(other.len());
                data.splice(at..at, other[from..to].iter().copied());
            }
            5 if !words.is_empty() => drop(data.splice(at..at, words[random.below(words.len())].iter().copied())),
            _ => data.truncate(at),
        }
    }
    data
}

/// Runs a body on all that is stored for its target and on damaged copies of it.
fn smoke(target: &str, body: impl Fn(&[u8])) {
    let (inputs, words, mut random) = (stored(target), dictionary(target), Random(0xf055));
    assert!(!inputs.is_empty(), "{target} has no seeds");
    for (name, data) in &inputs {
        println!("{target}/{name}");
        body(data);
    }
    for case in 0..DAMAGED {
        let (name, data) = &inputs[case % inputs.len()];
        let other = &inputs[random.below(inputs.len())].1;
        let damaged = damage(data, other, &words, &mut random);
        let body = std::panic::AssertUnwindSafe(|| body(&damaged));
        assert!(std::panic::catch_unwind(body).is_ok(), "case {case}, from {name}: {damaged:02x?}");
    }
}

#[test]
fn models() {
    smoke("model", bodies::model);
}

#[test]
fn adapters() {
    smoke("adapter", bodies::adapter);
}

#[test]
fn tokenizers() {
    smoke("tokenizer", bodies::tokenizer);
}

#[test]
fn templates() {
    smoke("template", bodies::template);
}

/// The seeds are what `seeds.rs` makes; `COTVALVE_WRITE_SEEDS=1` stores them.
#[test]
fn seeds_are_as_stored() {
    for (target, name, data) in seeds::all() {
        let path = folder(target).join(name);
        if std::env::var_os("COTVALVE_WRITE_SEEDS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &data).unwrap();
        }
        assert!(fs::read(&path).is_ok_and(|stored| stored == data), "{} differs", path.display());
    }
}

/// A fuzzer that starts from what is refused at the door gets nowhere.
#[test]
fn seeds_of_files_are_sound() {
    let base = Model::new(Gguf::parse(Path::new("base.gguf"), Bytes::from(seeds::model(TensorType::Q4_1))).unwrap());
    let base = base.unwrap();
    for (target, name, data) in seeds::all() {
        let used = match target {
            "model" => bodies::use_model(Bytes::from(data)),
            "adapter" => bodies::use_adapter(&base, Bytes::from(data)),
            _ => continue,
        };
        assert!(used.is_ok(), "{target}/{name}: {used:?}");
    }
}
