//! `valve inspect` as a user runs it.

#![cfg(feature = "cli")]

mod support;

use cotvalve::gguf::write::Writer;
use cotvalve::tensor::TensorType;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::gguf_fixture::{tiny_adapter, tiny_llama, vocabulary};

fn inspect(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valve"));
    command.arg("inspect").arg(file);
    command
}

/// Writes `bytes` into a folder that lives as long as the first result.
fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.gguf");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn text(bytes: &[u8]) -> String {
    let (_folder, path) = file(bytes);
    let Output { status, stdout, stderr } = inspect(&path).output().unwrap();
    assert!(status.success() && stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn as_json(bytes: &[u8]) -> Json {
    let (_folder, path) = file(bytes);
    let output = inspect(&path).arg("--json").output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn has(listing: &str, line: &str) {
    assert!(listing.lines().any(|l| l.split_whitespace().eq(line.split_whitespace())), "no {line:?} in\n{listing}");
}

#[test]
fn a_model_is_listed() {
    let listing = text(&tiny_llama(1, TensorType::BF16));
    has(&listing, "llama.block_count = 2");
    has(&listing, "llama.attention.layer_norm_rms_epsilon = 0.00001");
    has(&listing, "blk.1.ffn_down.weight bf16 [96, 64] 12.00 KiB");
    has(&listing, "output_norm.weight f32 [64] 256 B");
    has(&listing, "f32 5 tensors 1.25 KiB");
    let tokens = listing.lines().find(|l| l.contains("tokenizer.ggml.tokens")).unwrap();
    assert!(tokens.ends_with(&format!(", ...] ({} string)", vocabulary().len())), "{tokens}");
}

#[test]
fn json_is_complete_but_for_long_arrays() {
    let all = as_json(&tiny_llama(1, TensorType::BF16));
    assert_eq!(all["metadata"]["llama.embedding_length"], json!(64));
    assert_eq!(all["metadata"]["llama.attention.layer_norm_rms_epsilon"], json!(1e-5));
    assert_eq!(all["metadata"]["tokenizer.ggml.merges"].as_array().unwrap().len(), 20);
    let tokens = &all["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!((&tokens["len"], &tokens["type"]), (&json!(vocabulary().len()), &json!("string")));
    assert_eq!(tokens["head"], json!(vocabulary()[..64]));
    assert_eq!(all["tensors"][0]["name"], "token_embd.weight");
    assert_eq!(all["tensors"][0]["dims"], json!([64, vocabulary().len()]));
    assert_eq!(all["totals"]["f32"], json!({ "tensors": 5, "bytes": 5 * 64 * 4 }));
    assert_eq!(all.get("adapter"), None);
}

#[test]
fn an_adapter_shows_rank_scale_targets_and_valve_keys() {
    let adapter = tiny_adapter(1, 4, TensorType::F32, &["blk.0.attn_q.weight", "token_embd.weight"]);
    let listing = text(&adapter);
    has(&listing, "alpha 8");
    has(&listing, "rank 4: 2 targets, effective scale 2 times the user's");
    has(&listing, "token_embd.weight (rank 4)");
    has(&listing, "valve.curve.alpha = [0, 0.5, 1] (3 f32)");
    let all = as_json(&adapter);
    assert_eq!(all["adapter"]["targets"][1], json!({ "tensor": "token_embd.weight", "rank": 4, "scale": 2.0 }));
}

#[test]
fn an_adapter_without_alpha_has_the_users_scale() {
    let mut writer = Writer::new();
    writer.set("general.type", "adapter").unwrap();
    writer.tensor("t.weight.lora_a", 0, &[8, 2], vec![0; 64]).unwrap();
    writer.tensor("t.weight.lora_b", 0, &[2, 8], vec![0; 64]).unwrap();
    writer.tensor("u.weight.lora_a", 0, &[8, 2], vec![0; 64]).unwrap();
    let bytes = writer.to_bytes().unwrap();
    let listing = text(&bytes);
    has(&listing, "alpha 0 or missing: the scale is the user's alone");
    has(&listing, "rank 2: 1 targets, effective scale 1 times the user's");
    has(&listing, "u.weight.lora_a (not half of a pair)");
    assert_eq!(as_json(&bytes)["adapter"]["others"], json!(["u.weight.lora_a"]));
}

#[test]
fn names_from_the_file_cannot_steer_the_terminal() {
    let mut writer = Writer::new();
    writer.set("key\u{1b}[2J", "value\u{1b}[2J\n").unwrap();
    writer.tensor("name\u{1b}[2J", 24, &[1], vec![0]).unwrap();
    assert!(!text(&writer.to_bytes().unwrap()).contains('\u{1b}'));
}

#[test]
fn a_damaged_file_is_one_line_on_stderr_and_exit_code_1() {
    let (_folder, path) = file(b"GGUF\x03\0\0\0");
    let Output { status, stdout, stderr } = inspect(&path).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.len(), message.lines().count()), (Some(1), 0, 1));
    assert!(message.starts_with(&format!("valve: {}: ends inside", path.display())), "{message}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (_folder, path) = file(&tiny_llama(1, TensorType::BF16));
    let mut child = inspect(&path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
