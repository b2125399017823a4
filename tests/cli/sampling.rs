//! Flags that say how tokens are drawn.

use super::bad_input::{misuse, refuse};
use super::{Folder, valve};
use serde_json::{Value, json};

fn run(folder: &Folder, args: &[&str]) -> Value {
    let args = [&["--json", "--raw", "-p", "the hint", "-s", "1"], args].concat();
    serde_json::from_str(&folder.stdout("run", &args)).unwrap()
}

#[test]
fn a_reverse_prompt_ends_the_answer_before_it() {
    let folder = Folder::new();
    let whole = run(&folder, &["--temp", "0", "-n", "30"]);
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(5).take(2).collect();
    let cut = run(&folder, &["--temp", "0", "-n", "30", "-r", "never", "-r", &stop]);
    assert_eq!(cut["stop"], "text");
    assert_eq!(cut["text"], text[..text.find(&stop).unwrap()]);
    let plain =
        folder.stdout("run", &["--raw", "-p", "the hint", "--temp", "0", "-n", "30", "--reverse-prompt", &stop]);
    assert_eq!(plain, format!("{}\n", cut["text"].as_str().unwrap()));
}

#[test]
fn log_probabilities_are_in_the_report() {
    let folder = Folder::new();
    let report = run(&folder, &["--temp", "0", "-n", "6", "--logprobs", "2"]);
    let tokens = report["logprobs"].as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    for (token, id) in tokens.iter().zip(report["ids"].as_array().unwrap()) {
        assert_eq!(&token["id"], id);
        let top = token["top_logprobs"].as_array().unwrap();
        // Greedy draws the likeliest.
        assert_eq!((top.len(), &top[0]["id"], &top[0]["logprob"]), (2, id, &token["logprob"]));
        assert!(token["logprob"].as_f64().unwrap() < 0.0 && token["token"].is_string());
    }
    assert!(run(&folder, &["-n", "6"]).get("logprobs").is_none());
}

#[test]
fn biases_and_penalties_change_what_is_drawn() {
    let folder = Folder::new();
    let greedy = ["--temp", "0", "-n", "8"];
    let with = |args: &[&str]| run(&folder, &[&greedy, args].concat())["ids"].clone();
    let plain = with(&[]);
    let first = plain[0].to_string();
    assert_ne!(with(&["-l", &format!("{first}-inf")])[0], plain[0]);
    assert_eq!(with(&["--logit-bias", "77+1000", "--ignore-eos"]), json!([77, 77, 77, 77, 77, 77, 77, 77]));
    let distinct = with(&["--logit-bias", "77+30", "--presence-penalty", "100", "--repeat-last-n", "8"]);
    assert_eq!((distinct[0].clone(), distinct[1] == distinct[0]), (json!(77), false));
    assert_eq!(with(&["--repeat-penalty", "1", "--dry-multiplier", "0", "--mirostat", "0"]), plain);
}

#[cfg(feature = "grammar")]
#[test]
fn answers_follow_a_schema_or_a_grammar() {
    let folder = Folder::new();
    let schema =
        r#"{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}"#;
    let file = folder.write("schema.json", schema);
    let at = format!("@{file}");
    for args in [["-j", schema], ["--json-schema", &at], ["-jf", &file]] {
        let report = run(&folder, &[&args[..], &["-n", "100"]].concat());
        let document: Value = serde_json::from_str(report["text"].as_str().unwrap()).unwrap();
        assert!(document["ok"].is_boolean() && report["stop"] == "end", "{report}");
    }
    let gbnf = folder.write("x.gbnf", "root ::= \"x\"{3}\n");
    for args in [["--grammar", "root ::= \"xxx\""], ["--grammar-file", &gbnf]] {
        assert_eq!(run(&folder, &args)["text"], "xxx");
    }
    let object = run(&folder, &["--response-format", "json", "-n", "3"]);
    assert!(object["text"].as_str().unwrap().starts_with('{'), "{object}");
}

#[test]
fn bad_values_are_named() {
    let folder = Folder::new();
    let run = |args: &[&str]| folder.command("run", &[&["-p", "the hint"], args].concat());
    refuse(run(&["--mirostat", "1"]), &["mirostat", "1"]);
    refuse(run(&["--repeat-penalty", "0"]), &["repeat_penalty", "0"]);
    refuse(run(&["--xtc-probability", "2"]), &["xtc_probability", "2"]);
    refuse(run(&["--dry-base", "0.5"]), &["dry_base", "0.5"]);
    refuse(run(&["-l", "99999+1"]), &["logit_bias", "99999"]);
    refuse(run(&["-r", ""]), &["stop"]);
    if cfg!(feature = "grammar") {
        refuse(run(&["-j", "{"]), &["json_schema", "EOF"]);
        refuse(run(&["--grammar", "root ::= x"]), &["grammar", "x"]);
    } else {
        refuse(run(&["-j", "{}"]), &["grammar"]);
    }
    misuse(run(&["-l", "77"]), &["logit-bias", "77"]);
    misuse(run(&["--top-k", "-1"]), &["top-k", "-1"]);
    misuse(run(&["--response-format", "xml"]), &["response-format", "xml"]);
    let missing = folder.path("missing");
    misuse(run(&["--json-schema-file", &missing]), &[&missing]);
    misuse(run(&["-j", &format!("@{missing}")]), &[&missing]);
    misuse(run(&["-j", "{}", "--json-schema-file", &missing]), &["--json-schema"]);
}

#[test]
fn the_help_lists_every_field() {
    let output = valve(&["run", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for field in cotvalve::sampler::Sampling::fields() {
        assert!(help.contains(&format!("--{}", field.name)) && help.contains(field.about), "{}", field.name);
    }
}
