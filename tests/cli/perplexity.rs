//! `valve perplexity`.

use super::bad_input::{misuse, refuse};
use super::{Folder, succeed};
use serde_json::Value;

/// Chunks of this many tokens.
const CONTEXT: &str = "16";

impl Folder {
    /// A text of some chunks.
    fn text(&self) -> String {
        self.write("text.txt", "the hint and\n the ring, then the hint again in the thing\n".repeat(10))
    }

    /// `valve perplexity -c 16 ARGS --json`, read; a base brings its own chunks.
    fn measured(&self, args: &[&str]) -> Value {
        let context: &[&str] = if args.contains(&"--kl-divergence") { &[] } else { &["-c", CONTEXT] };
        serde_json::from_str(&self.stdout("perplexity", &[context, &["--json"], args].concat())).unwrap()
    }
}

fn value(found: &Value, name: &str) -> f64 {
    found[name]["value"].as_f64().unwrap_or_else(|| panic!("{name} in {found}"))
}

#[test]
fn what_is_said_is_what_json_holds() {
    let folder = Folder::new();
    let text = folder.text();
    let args = ["-f", &text, "--chunks", "3"];
    let json = folder.measured(&args);
    let running: Vec<f64> = serde_json::from_value(json["running_ppl"].clone()).unwrap();
    assert_eq!((running.len(), &json["chunks"], &json["n_ctx"]), (3, &3.into(), &16.into()));
    // The second half of a chunk is scored, but for its last position.
    assert_eq!(json["scored"], 3 * 7);
    assert!((value(&json, "nll").exp() / value(&json, "ppl") - 1.0).abs() < 1e-12 && running[2] == value(&json, "ppl"));
    let (ppl, error) = (value(&json, "ppl"), json["ppl"]["error"].as_f64().unwrap());
    let chunks: String = (1..).zip(&running).map(|(chunk, ppl)| format!("[{chunk}]{ppl:.4},")).collect();
    let end = format!("Final estimate: PPL = {ppl:.4} +/- {error:.5}\n");
    let said = |more: &[&str]| folder.stdout("perplexity", &[&["-c", CONTEXT], &args[..], more].concat());
    assert_eq!(said(&[]), format!("{chunks}\n{end}"));
    let lines = said(&["--ppl-output-type", "1"]);
    let columns: Vec<Vec<&str>> = lines.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.lines().last(), end.lines().last());
    for (i, ppl) in running.iter().enumerate() {
        assert_eq!(columns[i][..2], [(16 * i).to_string(), format!("{ppl:.4}")], "{lines}");
    }
    let strided = folder.measured(&["-f", &text, "--ppl-stride", "8"]);
    assert_eq!((&strided["stride"], &strided["n_ctx"]), (&8.into(), &256.into()));
}

#[test]
fn a_base_is_kept_and_measured_against() {
    let folder = Folder::new();
    let (text, base, valve) = (folder.text(), folder.path("base"), folder.path("a.gguf"));
    let save = ["-c", CONTEXT, "-f", &text, "--kl-divergence-base", &base];
    let said = folder.stdout("perplexity", &save);
    let bytes = std::fs::read(&base).unwrap();
    refuse(folder.command("perplexity", &save), &[&base, "--force"]);
    assert_eq!(folder.stdout("perplexity", &[&save[..], &["--force"]].concat()), said);
    assert!(std::fs::read(&base).unwrap() == bytes);
    // The text and the size of a chunk come from the file.
    let beside = ["--kl-divergence", "--save-logits", &base];
    let json = folder.measured(&beside);
    assert_eq!(
        (&json["n_ctx"], json["running"].as_array().unwrap().len()),
        (&16.into(), json["chunks"].as_u64().unwrap() as usize)
    );
    assert!(value(&json, "kld").abs() < 1e-4 && value(&json, "same_top") > 0.9, "{json}");
    let open = folder.measured(&[&beside[..], &["--valve", &valve, "--alpha", "1", "--chunks", "2"]].concat());
    assert!(value(&open, "kld") > 10.0 * value(&json, "kld").abs() && open["chunks"] == 2, "{open}");
    let said = folder.stdout("perplexity", &beside);
    for words in ["Same top p\n   1 ", "Mean PPL(Q)", "Mean    KLD:", "Median  KLD:", "RMS Δp    :", "Same top p: "] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(said.contains(&format!("Mean    KLD: {:10.6} ±", value(&json, "kld"))), "{said}");
}

#[test]
fn openings_are_measured_against_the_closed_valve() {
    let folder = Folder::new();
    let (text, valve) = (folder.text(), folder.path("a.gguf"));
    let with = |more: &[&str]| folder.measured(&[&["-f", &text, "--valve", &valve], more].concat());
    let sweep = with(&["--alphas", "0,-0.5,1"]);
    let alphas = sweep["alphas"].as_array().unwrap();
    assert_eq!(alphas.len(), 3);
    for (found, alpha) in alphas.iter().zip(["0", "-0.5", "1"]) {
        assert_eq!(found["alpha"].as_f64(), alpha.parse().ok());
        assert_eq!(value(found, "ppl"), value(&with(&[&format!("--alpha={alpha}")]), "ppl"), "{alpha}");
        assert_eq!(value(found, "base_ppl"), value(&with(&[]), "ppl"));
        assert_eq!(value(found, "kld") > 0.0, alpha != "0");
    }
    let half = &with(&["--alphas", "1", "--scope", "generation"])["alphas"][0];
    assert!(value(half, "kld") > 0.0 && value(half, "kld") != value(&alphas[2], "kld"));
    let table = folder.stdout("perplexity", &["-c", CONTEXT, "-f", &text, "--valve", &valve, "--alphas", "0,1"]);
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows.len() == 4 && rows[2].starts_with("| 0 | ") && rows[3].starts_with("| 1 | "), "{table}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let folder = Folder::new();
    let (text, base) = (folder.text(), folder.path("base"));
    let (missing, valve) = (folder.path("missing"), folder.path("a.gguf"));
    folder.stdout("perplexity", &["-c", CONTEXT, "-f", &text, "--save-logits", &base]);
    let other = folder.write("other", &std::fs::read(&base).unwrap()[..100]);
    let cases: [(&[&str], &[&str]); 11] = [
        (&["-f", &missing], &[&missing]),
        (&["-f", &text], &["file: ", "512"]),
        (&["-f", &text, "-c", "2"], &["ctx-size: "]),
        (&["-f", &text, "-c", "16", "--chunks", "0"], &["chunks: "]),
        (&["-f", &text, "-c", "16", "--chunks", "-2"], &["chunks: -2"]),
        (&["-f", &text, "-c", "16", "--ppl-stride", "256"], &["ppl-stride: "]),
        (&["-f", &text, "-c", "16", "--ppl-stride", "4", "--save-logits", &missing], &["save-logits: "]),
        (&["-f", &text, "-c", "16", "--alphas", "0,1"], &["alphas: "]),
        (&["-f", &text, "-c", "16", "--valve", &valve, "--scope", "think"], &["scope: ", "think"]),
        (&["--kl-divergence", "--save-logits", &missing], &[&missing]),
        (&["--kl-divergence", "--save-logits", &other], &[&other]),
    ];
    for (args, names) in cases {
        refuse(folder.command("perplexity", args), names);
    }
    let cases: [(&[&str], &str); 5] = [
        (&[], "--file"),
        (&["-f", &text, "--kl-divergence"], "--save-logits"),
        (&["-f", &text, "--ppl-output-type", "2"], "--ppl-output-type"),
        (&["-f", &text, "--valve", &valve, "--alphas", "1", "--alpha", "1"], "--alpha"),
        (&["-f", &text, "--valve", &valve, "--alphas", "x"], "--alphas"),
    ];
    for (args, name) in cases {
        misuse(folder.command("perplexity", args), &[name]);
    }
    assert_eq!(succeed(folder.command("perplexity", &["-c", CONTEXT, "-f", &text]).output().unwrap()).1, "");
}
