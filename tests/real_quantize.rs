//! `COTVALVE_TEST_MODEL`, SmolLM2's Q4_1 file, in other types beside the files that llama-quantize makes of it.

use cotvalve::gguf::Gguf;
use cotvalve::model::quantize::{FileType, Job, PlanOptions, QuantizeOptions};
use cotvalve::quant;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// What `benches/peer/quantize_real.py` wrote.
fn fixture() -> Value {
    serde_json::from_str(include_str!("data/llama-cpp/quantize-errors.json")).unwrap()
}

/// Files whose types have an encoder with ggml's bits, so that all their bytes are llama-quantize's.
const SAME: [&str; 5] = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"];

fn quantize(gguf: &Gguf, name: &str, out: &Path) {
    let options = QuantizeOptions {
        plan: PlanOptions::new(FileType::parse(name).unwrap()),
        importance: None,
        allow_requantize: true,
        keep_split: false,
        overrides: Vec::new(),
        threads: 2,
    };
    Job::new(gguf, options).unwrap().write(out, &mut |_, _| true).unwrap();
}

/// Root mean square of what the values of the tensors changed by that got each type.
fn errors(before: &Gguf, after: &Gguf) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    for info in after.tensors().iter().filter(|info| before.info(&info.name).unwrap().ty != info.ty) {
        let values = |gguf: &Gguf| quant::to_f32(&gguf.tensor(&info.name).unwrap().unwrap());
        let square: f64 = values(before).iter().zip(values(after)).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let (sum, count) = sums.entry(info.ty.name.to_uppercase()).or_default();
        *sum += square;
        *count += info.values();
    }
    sums.into_iter().map(|(name, (sum, count))| (name, (sum / count as f64).sqrt())).collect()
}

#[test]
fn types_are_llama_quantizes_and_errors_no_larger() {
    let Ok(path) = std::env::var("COTVALVE_TEST_MODEL") else {
        println!("skipped: COTVALVE_TEST_MODEL names no model");
        return;
    };
    let before = Gguf::open(Path::new(&path)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    for (name, theirs) in fixture()["errors"].as_object().unwrap() {
        quantize(&before, name, &out);
        if SAME.contains(&name.as_str()) {
            let hash: String =
                Sha256::digest(std::fs::read(&out).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, theirs["sha256"].as_str().unwrap(), "{name}");
        }
        let ours = errors(&before, &Gguf::open(&out).unwrap());
        let types = theirs.as_object().unwrap().keys().filter(|key| *key != "sha256");
        assert!(ours.keys().eq(types), "{name}: {ours:?}, not {theirs}");
        for (ty, error) in ours {
            let ratio = error / theirs[&ty].as_f64().unwrap();
            println!("{name}: {ty} errs by {error:.4e}, {ratio:.4} of llama-quantize's");
            assert!(ratio > 0.5 && ratio <= 1.02, "{name}: {ty} errs by {error:e}, {ratio} of llama-quantize's");
        }
    }
}
