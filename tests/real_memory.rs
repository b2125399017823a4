//! The resident memory of the program on the real model that `COTVALVE_TEST_MODEL` names: the file, the cache, and
//! little more. Linux alone tells a process's peak.

#![cfg(all(feature = "cli", target_os = "linux"))]

use cotvalve::gguf::Gguf;
use cotvalve::model::Model;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

const CONTEXT: usize = 1024;
/// What the program may take above the file and the cache.
const REST: usize = 60_000_000;

/// Bytes of the keys and values of `CONTEXT` tokens in f16.
fn cache_bytes(model: &Model) -> usize {
    let config = model.config();
    config.layers * 2 * config.heads.kv_heads * config.heads.head_dim * CONTEXT * 2
}

/// The most memory that a process had resident so far, in bytes; `None` if it has ended.
fn peak(pid: u32) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().unwrap() * 1024)
}

/// The model's file, if one is named.
fn model() -> Option<String> {
    let path = std::env::var("COTVALVE_TEST_MODEL").ok();
    if path.is_none() {
        println!("skipped: COTVALVE_TEST_MODEL names no model");
    }
    path
}

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valve"));
    command.args(args).args(["-t", "2", "-c", &CONTEXT.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Fails if a peak is more than the file, the cache and the rest.
fn check(path: &str, what: &str, peak: usize) {
    let file = std::fs::metadata(path).unwrap().len() as usize;
    let cache = cache_bytes(&Model::new(Gguf::open(path.as_ref()).unwrap()).unwrap());
    let above = peak as i64 - (file + cache) as i64;
    println!("{what}: peak {peak} bytes; file {file}, cache {cache}, {above} above them");
    // A peak below the file would mean that its pages were not counted: then this measures nothing.
    assert!(peak > file, "{what}: {peak}");
    assert!(peak <= file + cache + REST, "{what}: {peak} of at most {}", file + cache + REST);
}

#[test]
fn a_server_takes_the_file_the_cache_and_little_more() {
    let Some(path) = model() else { return };
    let mut child = start(&["bench-serve", "-m", &path]);
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for request in ["pp 512", "tg 32"] {
        writeln!(stdin, "{request}").unwrap();
        let rate = answers.next().unwrap().unwrap();
        assert!(rate.parse::<f64>().unwrap() > 0.0, "{request}: {rate}");
        check(&path, request, peak(child.id()).unwrap());
    }
    writeln!(stdin, "quit").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_answer_takes_the_file_the_cache_and_little_more() {
    let Some(path) = model() else { return };
    let mut child = start(&["run", "-m", &path, "--raw", "-n", "64", "--temp", "0", "-p", "Once upon a time"]);
    let mut last = None;
    // The text comes token by token, so the last sample is at most a token old.
    for byte in BufReader::new(child.stdout.take().unwrap()).bytes() {
        byte.unwrap();
        last = peak(child.id()).or(last);
    }
    assert!(child.wait().unwrap().success());
    check(&path, "run", last.unwrap());
}
