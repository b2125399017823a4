//! What llama.cpp computes from the files that we write; `benches/peer/adapters.py --write` asked it.

use super::{adapter, data, fixture, logits, model, nmse};
use cotvalve::tensor::TensorType;
use cotvalve::valve::{MergeOptions, Source, merge};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::Path;

#[derive(Deserialize)]
struct Peer {
    merged: Case,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    adapter: String,
    alpha: f32,
    /// Of the file that llama.cpp was given.
    sha256: String,
    logits: Vec<Vec<f64>>,
}

fn peer() -> Peer {
    serde_json::from_str(&std::fs::read_to_string(data("llama-cpp.json")).unwrap()).unwrap()
}

fn sha256(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The logits we compute from a file that is to the byte what llama.cpp was given, against its own.
fn assert_same(case: &Case, ours: &[Vec<f32>]) {
    let error = nmse(fixture().positions.iter().map(|p| &ours[*p]), case.logits.iter());
    assert!(error <= 1e-9, "{} at {}: NMSE {error:e}", case.adapter, case.alpha);
}

#[test]
fn llama_cpp_computes_the_same_from_converted_folders() {
    let (folder, ids) = (tempfile::tempdir().unwrap(), fixture().ids);
    let cases = peer().cases;
    assert!(super::ADAPTERS.iter().all(|name| cases.iter().any(|case| case.adapter == *name)));
    for case in &cases {
        let file = folder.path().join(format!("{}.gguf", case.adapter));
        let source = Source::open(&data(&case.adapter), &model().1, true).unwrap();
        source.write_gguf(&model().1, TensorType::F32, &file).unwrap();
        assert_eq!(sha256(&file), case.sha256, "{}: llama.cpp was asked about another file", case.adapter);
        assert_same(case, &logits(&data("model.gguf"), &[(&file, case.alpha)], &ids));
    }
}

#[test]
fn llama_cpp_computes_the_same_from_a_merged_model() {
    let (folder, case) = (tempfile::tempdir().unwrap(), peer().merged);
    let out = folder.path().join("merged.gguf");
    let options = MergeOptions { ty: TensorType::F32, threads: 1 };
    merge(&model().0, &[(adapter(&data(&case.adapter)), case.alpha)], options, &out, &mut |_| true).unwrap();
    assert_eq!(sha256(&out), case.sha256, "llama.cpp was asked about another file");
    assert_same(&case, &logits(&out, &[], &fixture().ids));
}
