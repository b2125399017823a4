//! `valve run`.

use super::{Folder, feed, succeed};
use crate::support::gguf_fixture::CONTEXT;
use serde_json::{Value, json};
use std::io::Read;
use std::process::Stdio;

fn json(folder: &Folder, args: &[&str]) -> Value {
    let args = [&["--json", "--raw", "--temp", "0", "-p", "the hint"], args].concat();
    serde_json::from_str(&folder.stdout("run", &args)).unwrap()
}

fn count(report: &Value, name: &str) -> usize {
    report["counts"][name].as_u64().unwrap() as usize
}

/// The runs of openings of the only valve, as (α, tokens).
fn runs(report: &Value) -> Vec<(f64, usize)> {
    let valves = report["openings"].as_array().unwrap();
    assert_eq!(valves.len(), 1, "{report}");
    let pair = |run: &Value| (run["alpha"].as_f64().unwrap(), run["tokens"].as_u64().unwrap() as usize);
    valves[0]["used"].as_array().unwrap().iter().map(pair).collect()
}

#[test]
fn the_prompt_comes_from_an_argument_a_file_or_standard_input() {
    let folder = Folder::new();
    let file = folder.write("prompt.txt", "the hint\nand the ring");
    for raw in [&[][..], &["--raw"]] {
        let args = [&["--temp", "0", "-n", "12"], raw].concat();
        let argument = folder.stdout("run", &[&args[..], &["-p", "the hint\nand the ring"]].concat());
        assert!(argument.len() > 1, "{argument:?}");
        assert_eq!(folder.stdout("run", &[&args[..], &["-f", &file]].concat()), argument);
        assert_eq!(succeed(feed(folder.command("run", &args), "the hint\nand the ring")).0, argument);
    }
    let raw = json(&folder, &["-n", "4"]);
    let framed = folder.stdout("run", &["--json", "--temp", "0", "-n", "4", "-p", "the hint"]);
    let framed: Value = serde_json::from_str(&framed).unwrap();
    assert!(count(&framed, "prompt") > count(&raw, "prompt"));
    let system = folder.stdout("run", &["--json", "-n", "4", "-p", "the hint", "-sys", "be on the wing"]);
    let system: Value = serde_json::from_str(&system).unwrap();
    assert!(count(&system, "prompt") > count(&framed, "prompt"));
}

#[test]
fn with_context_shift_an_answer_outgrows_the_context() {
    let folder = Folder::new();
    let report = |args: &[&str]| json(&folder, &[&["-c", "40", "-n", "90"], args].concat());
    let plain = report(&[]);
    assert_eq!(count(&plain, "generated"), 40 - count(&plain, "prompt"));
    for keep in [&[][..], &["--keep", "5"], &["--keep", "-1"]] {
        let shifted = report(&[&["--context-shift"], keep].concat());
        assert_eq!(count(&shifted, "generated"), 90, "{keep:?}");
        let start = count(&plain, "generated");
        assert_eq!(shifted["ids"].as_array().unwrap()[..start], plain["ids"].as_array().unwrap()[..], "{keep:?}");
    }
}

#[test]
fn standard_output_carries_the_text_alone() {
    let folder = Folder::new();
    let report = json(&folder, &["-n", "20"]);
    let text = folder.stdout("run", &["--raw", "--temp", "0", "-p", "the hint", "-n", "20"]);
    assert_eq!(text, format!("{}\n", report["text"].as_str().unwrap()));
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let folder = Folder::new();
    let draw = |seed: &str| folder.stdout("run", &["--temp", "2", "-n", "24", "-p", "the hint", "-s", seed]);
    let texts: Vec<String> = (0..4).map(|seed| draw(&seed.to_string())).collect();
    assert_eq!(draw("0"), texts[0]);
    assert!(texts.iter().any(|text| *text != texts[0]), "{texts:?}");
}

#[test]
fn a_seed_that_was_not_given_is_reported_as_used() {
    let folder = Folder::new();
    let args = ["--json", "--temp", "2", "-n", "24", "-p", "the hint"];
    let first: Value = serde_json::from_str(&folder.stdout("run", &args)).unwrap();
    let seed = first["seed"].to_string();
    let again: Value = serde_json::from_str(&folder.stdout("run", &[&args[..], &["-s", &seed]].concat())).unwrap();
    assert_eq!(first["ids"], again["ids"]);
}

#[test]
fn the_report_says_what_was_done() {
    let folder = Folder::new();
    let report = json(&folder, &["-n", "9", "-s", "7"]);
    assert_eq!(report["ids"].as_array().unwrap().len(), 9);
    assert_eq!(count(&report, "generated"), 9);
    assert_eq!(count(&report, "cached"), 0);
    let tokens: Value = serde_json::from_str(&folder.stdout("tokenize", &["--json", "the hint"])).unwrap();
    assert_eq!(count(&report, "prompt"), tokens.as_array().unwrap().len());
    assert_eq!((&report["seed"], &report["stop"]), (&json!(7), &json!("limit")));
    assert_eq!(report["model"], json!(folder.path("model.gguf")));
    assert_eq!(report["openings"], json!([]));
    let timings = report["timings"].as_object().unwrap();
    for name in ["load_ms", "prompt_ms", "prompt_per_second", "predicted_ms", "predicted_per_second"] {
        assert!(timings[name].as_f64().unwrap() > 0.0, "{name}: {timings:?}");
    }
}

#[test]
fn no_tokens_are_generated_where_none_are_wanted() {
    let folder = Folder::new();
    assert_eq!(folder.stdout("run", &["-p", "the hint", "-n", "0"]), "\n");
    let report = json(&folder, &["-n", "0"]);
    assert_eq!((&report["text"], &report["ids"]), (&json!(""), &json!([])));
    // A prompt that fills the context leaves room for none.
    let full = count(&report, "prompt").to_string();
    assert_eq!(json(&folder, &["-n", "0", "-c", &full])["ids"], json!([]));
}

#[test]
fn an_answer_without_a_limit_ends_with_the_context() {
    let folder = Folder::new();
    let report = json(&folder, &["-c", "40"]);
    assert_eq!(count(&report, "prompt") + count(&report, "generated"), 40, "{report}");
    // 0 is the model's own context.
    let report = json(&folder, &["-c", "0"]);
    assert_eq!(count(&report, "prompt") + count(&report, "generated"), CONTEXT, "{report}");
}

#[test]
fn the_report_shows_a_constant_opening() {
    let folder = Folder::new();
    let valve = folder.path("a.gguf");
    let report = json(&folder, &["-n", "9", "--valve", &valve, "--alpha", "-0.7"]);
    // The last token drawn was not computed.
    assert_eq!(runs(&report), [(-0.7, count(&report, "prompt") + 8)]);
    assert_eq!(report["openings"][0]["valve"], json!(valve));
}

#[test]
fn the_report_shows_steps_of_every_token() {
    let folder = Folder::new();
    let report = json(&folder, &["-n", "9", "--valve", &folder.path("a.gguf"), "--alpha", "0=0.2,4=0.9"]);
    assert_eq!(runs(&report), [(0.2, 4), (0.9, count(&report, "prompt") + 8 - 4)]);
}

#[test]
fn the_report_shows_steps_of_the_generation() {
    let folder = Folder::new();
    let args = ["-n", "9", "--scope", "generation", "--alpha", "0=0.2,4=0.9", "--valve"];
    let report = json(&folder, &[&args[..], &[&folder.path("a.gguf")]].concat());
    assert_eq!(runs(&report), [(0.0, count(&report, "prompt")), (0.2, 4), (0.9, 4)]);
}

#[test]
fn a_closed_valve_gives_the_text_of_none() {
    let folder = Folder::new();
    let [a, b] = [folder.path("a.gguf"), folder.path("b.gguf")];
    let plain = folder.greedy(&[]);
    assert_eq!(folder.greedy(&["--valve", &a]), plain);
    assert_eq!(folder.greedy(&["--valve", &a, "--valve", &b, "--alpha", "0"]), plain);
    assert_eq!(folder.greedy(&["--lora", &format!("{a}:0")]), plain);
    assert_ne!(folder.greedy(&["--valve", &a, "--alpha", "1"]), plain);
}

#[test]
fn an_adapter_at_a_scale_is_a_valve_at_that_opening() {
    let folder = Folder::new();
    let [a, b] = [folder.path("a.gguf"), folder.path("b.gguf")];
    let scaled = |file: &str, scale: &str| format!("{file}:{scale}");
    let half = folder.greedy(&["--lora", &scaled(&a, "0.5")]);
    assert_eq!(half, folder.greedy(&["--valve", &a, "--alpha", "0.5"]));
    let one = folder.greedy(&["--lora", &a]);
    assert_eq!(one, folder.greedy(&["--valve", &a, "--alpha", "1"]));
    let both = folder.greedy(&["--lora", &scaled(&a, "0.5"), "--lora", &scaled(&b, "0.5")]);
    assert_eq!(both, folder.greedy(&["--valve", &a, "--valve", &b, "--alpha", "0.5"]));
    assert!(half != one && half != both);
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let folder = Folder::new();
    let leave = |subcommand, args: &[&str], read: usize| {
        let mut child = folder.command(subcommand, args).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut vec![0; read]).unwrap();
        let (_, stderr) = succeed(child.wait_with_output().unwrap());
        assert_eq!(stderr, "", "{subcommand} {args:?}");
    };
    leave("run", &["--temp", "0", "-p", "the hint", "-n", "2000"], 1);
    leave("run", &["--temp", "0", "-p", "the hint", "-n", "400", "--json"], 0);
    leave("tokenize", &["the hint"], 0);
}
