//! The C interface: `src/capi.h` says what the Rust side does, and a C program, linked with the libraries as a user
//! would build them, gets what it says.

#[path = "capi/compile.rs"]
mod compile;
#[path = "capi/header.rs"]
mod header;
mod support;

use compile::{Language, Link, Program};
use cotvalve::gguf::write::Writer;
use cotvalve::tensor::TensorType;
use std::path::Path;
use support::gguf_fixture::{tiny_adapter, tiny_llama};

const TARGETS: [&str; 2] = ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"];

/// The files that the C program opens: good ones, and those that must be refused.
fn write_files(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let model = tiny_llama(3, TensorType::F32);
    write("model.gguf", &model);
    write("adapter.gguf", &tiny_adapter(5, 4, TensorType::F32, &TARGETS));
    write("cut.gguf", &model[..model.len() / 2]);
    write("noise.gguf", &[0x5a; 1000]);
    let mut other = Writer::new();
    other.set("general.architecture", "mamba").unwrap();
    write("mamba.gguf", &other.to_bytes().unwrap());
}

/// Runs the C program, built like this; it must make so many checks, and none may fail.
fn check(language: Language, link: Link, sanitize: bool) {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    let program = Program { language, link, sanitize };
    let output = program.build(folder.path()).arg(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{program:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let checks = text.lines().last().and_then(|line| line.strip_suffix(" checks, 0 failures"));
    assert!(checks.and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n > 500), "{program:?}: {text}");
}

#[test]
fn a_c_program_gets_what_the_header_says() {
    check(Language::C, Link::Shared, false);
    check(Language::C, Link::Static, false);
}

#[test]
fn the_header_is_cxx_too() {
    check(Language::Cxx, Link::Shared, false);
}

#[test]
fn sanitizers_find_nothing() {
    if compile::sanitizes() {
        check(Language::C, Link::Shared, true);
    }
}

#[test]
fn the_example_answers() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    let file = |name: &str| folder.path().join(name);
    let output = compile::example(folder.path())
        .args(["model.gguf", "adapter.gguf", "adapter.gguf"].map(file))
        .args(["0.5", "and the thing"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.len() > 1, "no answer");
    let output = compile::example(folder.path()).args(["none.gguf", "", "", "0", ""]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("none.gguf"), "{error}");
}
