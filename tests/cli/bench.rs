//! `valve bench`.

use super::{Folder, succeed, valve};
use serde_json::{Map, Value};
use std::process::{Command, Output};

type Record = Map<String, Value>;

/// `valve bench -m MODEL -t 1 -r 2 ARGS`, with limits kept in the folder.
fn command(folder: &Folder, args: &[&str]) -> Command {
    let mut command = folder.command("bench", &[&["-r", "2"], args].concat());
    command.env("XDG_CACHE_HOME", folder.path("cache"));
    command
}

fn results(folder: &Folder, args: &[&str]) -> Vec<Record> {
    let (text, _) = succeed(command(folder, &[args, &["-o", "json"]].concat()).output().unwrap());
    serde_json::from_str(&text).unwrap()
}

fn hashes(folder: &Folder, args: &[&str]) -> Vec<String> {
    results(folder, args).iter().map(|record| record["hash"].as_str().unwrap().to_string()).collect()
}

/// Standard error of a program that failed.
fn failure(output: Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_product_of_all_lists_is_run_in_order() {
    let folder = Folder::new();
    let args = ["-p", "8,12", "-n", "2-4*2", "-pg", "5,3", "-d", "0,7", "-t", "2", "-ub", "8"];
    let records = results(&folder, &args);
    let tests: Vec<_> =
        records.iter().map(|r| ["n_threads", "n_depth", "n_prompt", "n_gen"].map(|f| r[f].clone())).collect();
    let tests: Vec<[u64; 4]> = tests.iter().map(|t| t.clone().map(|n| n.as_u64().unwrap())).collect();
    let of = |threads, depth| {
        [
            [threads, depth, 8, 0],
            [threads, depth, 12, 0],
            [threads, depth, 0, 2],
            [threads, depth, 0, 4],
            [threads, depth, 5, 3],
        ]
    };
    assert_eq!(tests, [of(1, 0), of(1, 7), of(2, 0), of(2, 7)].concat());
    for record in &records {
        let positive = |field: &str| record[field].as_f64().unwrap() > 0.0;
        assert!(["avg_ns", "avg_ts", "gb_per_s", "pct_of_peak", "gops", "pct_of_int8_peak"].into_iter().all(positive));
        assert_eq!(record["samples_ns"].as_array().unwrap().len(), 2);
        let tokens = record["n_prompt"].as_f64().unwrap() + record["n_gen"].as_f64().unwrap();
        let speed = |i: usize| tokens * 1e9 / record["samples_ns"][i].as_f64().unwrap();
        let mean = (speed(0) + speed(1)) / 2.0;
        assert!((record["avg_ts"].as_f64().unwrap() / mean - 1.0).abs() < 1e-6);
        assert_eq!((&record["valve"], &record["n_ubatch"]), (&"none".into(), &8.into()));
    }
}

#[test]
fn the_fields_start_with_llama_benchs() {
    let folder = Folder::new();
    let theirs: Vec<Record> = serde_json::from_str(include_str!("../data/llama-bench/results.json")).unwrap();
    let ours = results(&folder, &["-p", "4", "-n", "0"]);
    let added = ["valve", "rank", "alpha", "batch", "gb_per_s", "pct_of_peak", "gops", "pct_of_int8_peak", "hash"];
    assert_eq!(
        ours[0].keys().collect::<Vec<_>>(),
        theirs[0].keys().chain(&added.map(String::from)).collect::<Vec<_>>()
    );
    for (name, value) in &theirs[0] {
        assert_eq!(std::mem::discriminant(value), std::mem::discriminant(&ours[0][name]), "{name}");
    }
}

#[test]
fn the_hash_is_that_of_what_is_computed() {
    let folder = Folder::new();
    let valve = folder.path("a.gguf");
    let base = hashes(&folder, &["-p", "9", "-n", "9", "-pg", "4,5"]);
    assert_eq!(base[0].len(), 12);
    assert!(base.iter().all(|hash| *hash == base[0]), "a prompt and decoding give the same logits: {base:?}");
    let one = |args: &[&str]| hashes(&folder, &[&["-p", "9", "-n", "0"], args].concat())[0].clone();
    let all = |hashes: Vec<String>| hashes.into_iter().all(|hash| hash == base[0]);
    assert!(all(hashes(&folder, &["-p", "0", "-n", "6", "-d", "3", "--no-warmup"])), "the depth is a part of it");
    assert!(all(vec![one(&["-t", "2"]), one(&["-ub", "2"]), one(&["-b", "4"])]), "how it is computed is not");
    assert!(all(vec![one(&["--valve", &valve, "--alpha", "0"]), one(&["--valve", &format!("none,{valve}:0")])]));
    let mut scalar = command(&folder, &["-p", "9", "-n", "0", "-o", "json"]);
    let (text, _) = succeed(scalar.env("COTVALVE_SIMD", "scalar").output().unwrap());
    assert!(text.contains(&base[0]), "{text}");
    let others = [
        one(&["--valve", &valve, "--alpha", "1"]),
        one(&["--valve", &valve, "--alpha", "0.5"]),
        one(&["--valve", &valve, "--alpha", "0..1"]),
        one(&["--valve", &valve, "--alpha", "0/1", "--batch", "2"]),
        one(&["--valve", &valve, "--alpha", "1/0", "--batch", "2"]),
        one(&["--batch", "2"]),
        one(&["-ctk", "f32"]),
        hashes(&folder, &["-p", "10", "-n", "0"])[0].clone(),
        base[0].clone(),
    ];
    for (i, hash) in others.iter().enumerate() {
        assert!(!others[..i].contains(hash), "{i}: {others:?}");
    }
    assert_eq!(one(&["--valve", &valve, "--alpha", "1", "--alpha-each-token"]), others[2]);
}

#[test]
fn openings_are_swept_for_each_valve() {
    let folder = Folder::new();
    let [a, b] = ["a.gguf", "b.gguf"].map(|name| folder.path(name));
    let valves = format!("none,{a},{b}:0.25");
    let args = ["-p", "4", "-n", "2", "--valve", &valves, "--alpha", "0-1+0.5,0/1", "--batch", "1,2"];
    let output = succeed(command(&folder, &[&args[..], &["-o", "jsonl", "-oe", "md"]].concat()).output().unwrap());
    let records: Vec<Record> = output.0.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let settings: Vec<_> = records
        .iter()
        .filter(|record| record["n_gen"] == 2)
        .map(|record| {
            let name = record["valve"].as_str().unwrap().rsplit('/').next().unwrap();
            format!("{name} {} {}", record["alpha"].as_str().unwrap(), record["batch"])
        })
        .collect();
    let a = ["0 1", "0 2", "0.5 1", "0.5 2", "1 1", "1 2", "0/1 2"].map(|rest| format!("a.gguf {rest}"));
    let want =
        [&["none 0 1", "none 0 2"].map(String::from)[..], &a, &["b.gguf 0.25 1", "b.gguf 0.25 2"].map(String::from)];
    assert_eq!(settings, want.concat());
    assert!(records.iter().all(|record| record["rank"] == if record["valve"] == "none" { 0 } else { 4 }));
    assert!(output.1.starts_with("valve: --alpha 0/1 is for 2 sequences or more: not run with --batch 1\n| model"));
    assert_eq!(output.1.lines().filter(|line| line.starts_with('|')).count(), 2 + records.len());
}

#[test]
fn results_are_compared_across_formats_and_programs() {
    let folder = Folder::new();
    let results = |format: &str, args: &[&str]| {
        let args = [&["-p", "4,6", "-n", "2", "-o", format], args].concat();
        folder.write(&format!("results.{format}"), succeed(command(&folder, &args).output().unwrap()).0)
    };
    let compare =
        |a: &str, b: &str, more: &[&str]| valve(&[&["bench", "--compare", a, b], more].concat()).output().unwrap();
    let first = results("json", &[]);
    for format in ["csv", "jsonl", "sql", "md"] {
        let (said, _) = succeed(compare(&first, &results(format, &[]), &[]));
        assert_eq!(said.lines().filter(|line| line.contains(" same |")).count(), 3, "{format}: {said}");
        assert!(!said.contains("only in"), "{format}: {said}");
    }
    let (said, _) = succeed(compare(&first, &results("csv", &["-d", "0,3", "--valve", &folder.path("a.gguf")]), &[]));
    assert!(said.contains("only in A: pp4") && said.contains("only in B: tg2 @ d3"), "{said}");
    let theirs = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/llama-bench/results.");
    for format in ["csv", "json", "jsonl", "sql", "md"] {
        let (said, _) = succeed(compare(&format!("{theirs}json"), &format!("{theirs}{format}"), &[]));
        assert!(said.contains("| tg4 @ d8 ") && !said.contains("only in"), "{format}: {said}");
    }
    assert!(compare(&first, &first, &["--fail-below", "1"]).status.success());
    let said = failure(compare(&first, &first, &["--fail-below", "1.01"]));
    assert_eq!(said, "valve: fail-below: 3 of 3 tests are below 1.01, 0 are missing\n");
    let said = failure(compare(&first, &folder.path("none.json"), &[]));
    assert!(said.contains("none.json"), "{said}");
    let said = failure(compare(&first, &folder.path("model.gguf"), &[]));
    assert!(said.contains("model.gguf") && said.lines().count() == 1, "{said}");
}

#[test]
fn limits_are_kept_between_runs() {
    let folder = Folder::new();
    let file = folder.path("cache/cotvalve/limits.json");
    let percent = |args: &[&str]| {
        let record = results(&folder, &[&["-p", "0", "-n", "4"], args].concat()).remove(0);
        record["pct_of_peak"].as_f64().unwrap() / record["gb_per_s"].as_f64().unwrap()
    };
    percent(&[]);
    let mut kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    kept[0]["read_bandwidth"] = 1e9.into();
    std::fs::write(&file, kept.to_string()).unwrap();
    // At 1 GB/s every GB/s is all of it. The figures have six digits after the point.
    assert!((percent(&[]) - 100.0).abs() < 1e-2);
    assert!(percent(&["--measure-limits"]) < 99.0);
}

#[test]
fn what_cannot_be_run_is_said_in_one_line() {
    let folder = Folder::new();
    let cases = [
        (vec!["-p", "x"], "n-prompt: \"x\""),
        (vec!["-n", "1-4+0"], "n-gen: "),
        (vec!["-pg", "4"], "pg: \"4\""),
        (vec!["-d", "1-"], "n-depth: \"1-\""),
        (vec!["-ub", "0"], "batch: must be at least 1"),
        (vec!["-t", "0"], "threads: "),
        (vec!["-r", "0"], "repetitions: "),
        (vec!["--batch", "0"], "batch: "),
        (vec!["--alpha", "nan"], "alpha: \"nan\""),
        (vec!["-ctk", "q4_0"], "cache-type-k: \"q4_0\""),
        (vec!["-ngl", "x"], "n-gpu-layers: \"x\""),
        (vec!["-fa", "2"], "flash-attn: \"2\""),
        (vec!["-p", "0", "-n", "0"], "tests: there are none"),
        (vec!["--valve", "none.gguf"], "none.gguf"),
        (vec!["--valve", "model.gguf:x"], "model.gguf:x"),
    ];
    for (args, words) in cases {
        // Of a flag that is a list, another one adds to it.
        let mut command = valve(&["bench", "-m", &folder.path("model.gguf")]);
        let output = command.args(&args).env("XDG_CACHE_HOME", folder.path("cache")).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        let said = failure(output);
        assert!(said.contains(words) && said.lines().count() == 1, "{args:?}: {said}");
    }
    let args = ["-p", "4", "-n", "0", "-ngl", "99", "-fa", "0,1", "-ctk", "f16,f32", "-ctv", "f16", "--output", "csv"];
    let (stdout, stderr) = succeed(command(&folder, &args).output().unwrap());
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    for words in ["-ngl 99", "-fa 0", "-ctk f32"] {
        assert_eq!(stderr.lines().filter(|line| line.contains(words)).count(), 1, "{words} in {stderr}");
    }
}
