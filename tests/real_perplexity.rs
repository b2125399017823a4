//! The program's perplexity and divergence against llama-perplexity's (tests/data/llama-cpp says how those were made),
//! on the real model that `COTVALVE_TEST_MODEL` names, a file SmolLM2-135M-Instruct.Q4_1.gguf.

#![cfg(feature = "cli")]

use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How far an estimate may lie from llama.cpp's on weights as F32: its text has four digits after the point.
const EXACT: f64 = 1e-4;
/// And on the quantized file, where both round activations, each in its way; after every chunk, of which the first has
/// 256 tokens, and after all.
const RUNNING: f64 = 5e-3;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
    divergence: Divergence,
}

#[derive(Deserialize)]
struct Case {
    /// `f32` are the file's weights, multiplied exactly; `q4_1` are the file's by the fast way.
    weights: String,
    flags: Vec<String>,
    running: Vec<f64>,
    error: Option<f64>,
}

/// Of the quantized file from its weights as F32.
#[derive(Deserialize)]
struct Divergence {
    flags: Vec<String>,
    /// What is said of each chunk as the weights as F32 are measured.
    base_running: Vec<f64>,
    base_ppl: f64,
    ppl: f64,
    kld: f64,
    kld_error: f64,
    p_diff_rms: f64,
    same_top: f64,
}

fn data(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

fn fixture() -> Fixture {
    serde_json::from_str(&data("llama-cpp/perplexity.json")).unwrap()
}

/// A folder with the text that the fixture is of, on a machine with the model.
struct Setting {
    model: PathBuf,
    folder: tempfile::TempDir,
}

impl Setting {
    /// Without a model the test is skipped with a word.
    fn new() -> Option<Self> {
        let Some(model) = std::env::var_os("COTVALVE_TEST_MODEL") else {
            eprintln!("skipped: COTVALVE_TEST_MODEL is not set");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let problems = data("gsm8k-slice.jsonl");
        let problems = problems.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let text =
            problems.map(|p| format!("{}\n{}\n\n", p["question"].as_str().unwrap(), p["answer"].as_str().unwrap()));
        std::fs::write(folder.path().join("text"), text.collect::<String>()).unwrap();
        Some(Self { model: model.into(), folder })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// What `valve perplexity --json` finds.
    fn measure(&self, exact: bool, flags: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valve"));
        command.args(["perplexity", "--json", "-m"]).arg(&self.model).args(flags);
        if exact {
            command.args(["--precision", "float", "-ctk", "f32"]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// The estimates after each chunk.
fn assert_running(found: &Value, theirs: &[f64], bound: f64, what: &str) {
    let ours: Vec<f64> = serde_json::from_value(found["running_ppl"].clone()).unwrap();
    println!("{what}: {ours:.4?}, llama.cpp {theirs:.4?}");
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (chunk, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!((ours / theirs - 1.0).abs() < bound, "{what}, chunk {}: {ours} and {theirs}", chunk + 1);
    }
}

#[test]
fn estimates_are_llama_perplexitys() {
    let Some(setting) = Setting::new() else { return };
    let text = setting.path("text");
    for Case { weights, flags, running, error } in fixture().cases {
        let exact = weights == "f32";
        let found = setting.measure(exact, &[&["-f", &text], &strs(&flags)[..]].concat());
        assert_running(&found, &running, if exact { EXACT } else { RUNNING }, &format!("{weights} {flags:?}"));
        let change = |theirs: f64| (found["ppl"]["error"].as_f64().unwrap() / theirs - 1.0).abs();
        assert!(error.is_none_or(|theirs| change(theirs) < 1e-2), "{weights} {flags:?}: {error:?}");
    }
}

#[test]
fn divergence_is_llama_perplexitys() {
    let Some(setting) = Setting::new() else { return };
    let (text, base, theirs) = (setting.path("text"), setting.path("base"), fixture().divergence);
    let exact = setting.measure(true, &[&["-f", &text, "--save-logits", &base], &strs(&theirs.flags)[..]].concat());
    assert_running(&exact, &theirs.base_running, EXACT, "the base");
    let found = setting.measure(false, &["--kl-divergence", "--kl-divergence-base", &base]);
    let ours = |name: &str| found[name]["value"].as_f64().unwrap();
    println!("KLD {} {}, same top {} {}", ours("kld"), theirs.kld, ours("same_top"), theirs.same_top);
    // The base is the same function, coded in the same 16 bits.
    assert!((ours("base_ppl") / theirs.base_ppl - 1.0).abs() < EXACT, "{found}");
    assert!((ours("ppl") / theirs.ppl - 1.0).abs() < RUNNING, "{found}");
    // Ours rounds other activations, so the errors are others of about the same size.
    assert!((ours("kld") - theirs.kld).abs() < 4.0 * theirs.kld_error, "{found}");
    assert!((ours("p_diff_rms") / theirs.p_diff_rms - 1.0).abs() < 0.25, "{found}");
    assert!((ours("same_top") - theirs.same_top).abs() < 0.02, "{found}");
}
