//! `valve convert` and `valve merge`.

use super::{Folder, succeed, valve};

/// Standard error of a program that succeeded without a word on standard output.
fn quiet(args: &[&str]) -> String {
    let (stdout, stderr) = succeed(valve(args).output().unwrap());
    assert_eq!(stdout, "");
    stderr
}

/// Standard error of a program that failed.
fn fail(args: &[&str]) -> String {
    let output = valve(args).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_peft_folder_answers_as_the_adapter_it_came_from() {
    let folder = Folder::new();
    let [model, adapter, peft, back] = ["model.gguf", "a.gguf", "peft", "back.gguf"].map(|name| folder.path(name));
    let said = quiet(&["convert", "-m", &model, "--type", "f16", &adapter, &peft]);
    assert!(said.contains("14 pairs, lora_alpha 8"), "{said}");
    quiet(&["convert", "-m", &model, "--type", "f16", &peft, &back]);
    let answer = |valve: &str| folder.greedy(&["--valve", valve, "--alpha", "1"]);
    assert_eq!(answer(&peft), answer(&adapter));
    assert_eq!(answer(&back), answer(&adapter));
    assert_ne!(answer(&peft), folder.greedy(&[]));
    let scaled = |lora: String| folder.greedy(&["--lora", &lora]);
    assert_eq!(scaled(format!("{peft}:0.5")), scaled(format!("{adapter}:0.5")));
}

#[test]
fn a_merged_model_answers_as_with_the_valve() {
    let folder = Folder::new();
    let [model, adapter, merged] = ["model.gguf", "a.gguf", "merged.gguf"].map(|name| folder.path(name));
    let said = quiet(&["merge", "-m", &model, "--valve", &format!("{adapter}:0.5"), "--type", "f32", &merged]);
    assert!(said.contains("14 tensors merged as f32, 6 as they were"), "{said}");
    let run = |model: &str, more: &[&str]| {
        let args = ["run", "-m", model, "-t", "1", "--precision", "float", "--temp", "0", "-n", "16", "-p", "the hint"];
        succeed(valve(&[&args, more].concat()).output().unwrap()).0
    };
    assert_eq!(run(&merged, &[]), run(&model, &["--valve", &adapter, "--alpha", "0.5"]));
}

#[test]
fn nothing_is_written_over_unasked() {
    let folder = Folder::new();
    let [model, adapter, out] = ["model.gguf", "a.gguf", "b.gguf"].map(|name| folder.path(name));
    let convert = ["convert", "-m", &model, &adapter, &out];
    let merge = ["merge", "-m", &model, "--valve", &adapter, &out];
    for args in [&convert[..], &merge] {
        let before = std::fs::read(&out).unwrap();
        assert!(fail(args).contains("--force writes over it"));
        assert!(std::fs::read(&out).unwrap() == before);
        quiet(&[args, &["--force"]].concat());
        assert!(std::fs::read(&out).unwrap() != before);
    }
}

#[test]
fn what_cannot_be_converted_is_said_in_one_line() {
    let folder = Folder::new();
    let [model, adapter, out] = ["model.gguf", "a.gguf", "out"].map(|name| folder.path(name));
    std::fs::create_dir(folder.path("empty")).unwrap();
    let cases = [
        (vec!["convert", "-m", &model, &model, &out], "general.type"),
        (vec!["convert", "-m", &adapter, &adapter, &out], "embedding_length"),
        (vec!["convert", "-m", &model, "--type", "q8_0", &adapter, &out], "type: q8_0"),
        (vec!["merge", "-m", &model, "--valve", "none.gguf", &out], "none.gguf"),
    ];
    for (args, words) in cases {
        let said = fail(&args);
        assert!(said.contains(words) && said.lines().count() == 1, "{words:?} in {said}");
        assert!(!std::fs::exists(&out).unwrap());
    }
    let said = fail(&["convert", "-m", &model, &folder.path("empty"), &out]);
    assert!(said.contains("adapter_config.json"), "{said}");
}
