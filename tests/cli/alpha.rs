//! Dials of parts and of single valves, as flags.

use super::{Folder, succeed};
use serde_json::{Value, json};

/// The report of a run of 9 tokens.
fn report(folder: &Folder, args: &[&str]) -> Value {
    let args = [&["--json", "--raw", "--temp", "0", "-n", "9", "-p", "the hint"], args].concat();
    serde_json::from_str(&folder.stdout("run", &args)).unwrap()
}

/// The first opening of each part of valve `i`: (layer, group, α).
fn parts(report: &Value, i: usize) -> Vec<(u64, String, f64)> {
    let part = |part: &Value| {
        let group = part["group"].as_str().unwrap().to_owned();
        (part["layer"].as_u64().unwrap(), group, part["used"][0]["alpha"].as_f64().unwrap())
    };
    report["openings"][i]["parts"].as_array().unwrap_or_else(|| panic!("{report}")).iter().map(part).collect()
}

/// α of attention and MLP in layers 0 and 1.
fn openings(attn: [f64; 2], mlp: [f64; 2]) -> Vec<(u64, String, f64)> {
    let layer = |l: usize| [(l as u64, "attn".into(), attn[l]), (l as u64, "mlp".into(), mlp[l])];
    [layer(0), layer(1)].concat()
}

#[test]
fn groups_and_layers_have_dials_of_their_own() {
    let folder = Folder::new();
    let a = folder.path("a.gguf");
    let at = |alpha: &str, args: &[&str]| report(&folder, &[&["--valve", &a, "--alpha", alpha], args].concat());
    let with = |args: &[&str]| at("1", args);
    assert_eq!(parts(&with(&["--alpha-attn", "-0.5"]), 0), openings([-0.5; 2], [1.0; 2]));
    assert_eq!(parts(&with(&["--alpha-mlp", "0"]), 0), openings([1.0; 2], [0.0; 2]));
    assert_eq!(parts(&with(&["--alpha-layers", "1:0.25"]), 0), openings([1.0, 0.25], [1.0, 0.25]));
    let all = ["--alpha-layers", "1:0.25", "--alpha-attn", "0:0.5,1:0.75", "--alpha-mlp", "2"];
    assert_eq!(parts(&with(&all), 0), openings([0.5, 0.25], [2.0, 0.25]), "layers win");
    // What parts come to is what one dial would have done, or none.
    let uniform = with(&[]);
    assert_eq!(at("0", &["--alpha-layers", "0-1:1"])["ids"], uniform["ids"]);
    let split = at("0", &["--alpha-attn", "1", "--alpha-mlp", "1"]);
    assert_eq!((&split["ids"], &split["openings"]), (&uniform["ids"], &uniform["openings"]));
}

#[test]
fn a_line_runs_over_the_generation() {
    let folder = Folder::new();
    let a = folder.path("a.gguf");
    let report = report(&folder, &["--valve", &a, "--scope", "generation", "--alpha", "-0.5..0.5@4"]);
    let used = report["openings"][0]["used"].as_array().unwrap();
    let alphas: Vec<f64> = used.iter().map(|run| run["alpha"].as_f64().unwrap()).collect();
    // Closed for the prompt and where the line passes through 0.
    assert_eq!(alphas, [0.0, -0.5, -0.25, 0.0, 0.25, 0.5]);
    assert_eq!(used[5]["tokens"], json!(4), "8 tokens of the generation are computed");
}

#[test]
fn each_valve_may_have_its_own_dial() {
    let folder = Folder::new();
    let [a, b] = [folder.path("a.gguf"), folder.path("b.gguf")];
    let own = |file: &str, dial: &str| format!("{file}:{dial}");
    let report = report(&folder, &["--valve", &own(&a, "0.5"), "--valve", &b, "--alpha", "-1"]);
    let alpha = |i: usize| &report["openings"][i]["used"][0]["alpha"];
    assert_eq!((alpha(0), alpha(1)), (&json!(0.5), &json!(-1.0)));
    let text = folder.greedy(&["--valve", &own(&a, "0.5"), "--valve", &b, "--alpha", "0.25"]);
    assert_eq!(text, folder.greedy(&["--lora", &own(&a, "0.5"), "--lora", &own(&b, "0.25")]));
}

#[test]
fn the_chat_turns_parts_and_single_valves() {
    let folder = Folder::new();
    let [a, b] = [folder.path("a.gguf"), folder.path("b.gguf")];
    let lines = "/alpha 0..1@64\n/alpha attn 0.5; layers 0-1:2\n/alpha b -1\n/alpha layers 0-2:1\n\
                 /alpha layers 1\n/alpha\n/alpha 0\n";
    let command = folder.command("chat", &["--valve", &a, "--valve", &b]);
    let (_, stderr) = succeed(super::feed(command, lines));
    let said: Vec<&str> = stderr.lines().skip(1).map(|line| line.trim_start_matches("> ")).collect();
    assert_eq!(said[0], "alpha 0..1@64");
    assert_eq!(said[1], "alpha 0..1@64; attn 0.5; layers 0-1:2");
    assert_eq!(said[2], "alpha 0..1@64; attn 0.5; layers 0-1:2; b -1");
    assert_eq!(said[3], "valve: alpha-layers: 2 is past the model's last, 1");
    assert!(said[4].starts_with("valve: alpha-layers: \"1\" is not"), "{}", said[4]);
    assert_eq!(said[5], said[2], "what failed turned nothing");
    assert_eq!(said[6], "alpha 0", "one dial for all takes the others back");
}
