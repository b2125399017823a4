//! What the program says of input that it can not use.

use super::{Folder, succeed, valve};
use std::process::{Command, Output};

/// Runs a command that must fail and say why on one line that holds `names`.
pub fn refuse(mut command: Command, names: &[&str]) {
    let output = command.output().unwrap();
    let stderr = complaint(&output);
    assert_eq!(output.status.code(), Some(1), "{command:?}: {stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("valve: "), "{command:?}: {stderr}");
    names.iter().for_each(|name| assert!(stderr.contains(name), "{command:?}: {stderr:?} does not name {name}"));
}

/// Runs a command whose flags the parser must refuse.
pub fn misuse(mut command: Command, names: &[&str]) {
    let output = command.output().unwrap();
    let stderr = complaint(&output);
    assert_eq!(output.status.code(), Some(2), "{command:?}: {stderr}");
    names.iter().for_each(|name| assert!(stderr.contains(name), "{command:?}: {stderr:?} does not name {name}"));
}

fn complaint(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(output.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&output.stdout));
    stderr
}

#[test]
fn files_that_are_not_there_are_named() {
    let folder = Folder::new();
    let missing = folder.path("missing");
    for subcommand in ["run", "chat", "logits", "tokenize", "bench-serve"] {
        let file = ["logits", "-f", "x", "--out", "y"];
        let args = if subcommand == "logits" { &file[..] } else { &[subcommand] };
        refuse(valve(&[args, &["-m", &missing]].concat()), &[&missing]);
    }
    refuse(valve(&["inspect", &missing]), &[&missing]);
    for flag in ["--lora", "--valve", "-f"] {
        refuse(folder.command("run", &[flag, &missing]), &[&missing]);
    }
    refuse(folder.command("tokenize", &["-f", &missing]), &[&missing]);
    let out = folder.path("x.npy");
    refuse(folder.command("logits", &["-f", &missing, "--out", &out]), &[&missing]);
    refuse(folder.command("logits", &["--ids", &missing, "--out", &out]), &[&missing]);
    let ids = folder.write("ids.json", "[5, 6]");
    let nowhere = folder.path("missing/x.npy");
    refuse(folder.command("logits", &["--ids", &ids, "--out", &nowhere]), &[&nowhere]);
}

#[test]
fn a_keep_that_leaves_no_room_is_named() {
    let folder = Folder::new();
    for keep in ["32", "-2"] {
        refuse(folder.command("run", &["-p", "x", "-c", "32", "--context-shift", "--keep", keep]), &["keep: ", keep]);
    }
}

#[test]
fn files_of_another_kind_are_named() {
    let folder = Folder::new();
    let [model, adapter] = [folder.path("model.gguf"), folder.path("a.gguf")];
    let text = folder.write("text.gguf", "It was the best of times, it was the worst of times.");
    let empty = folder.write("empty.gguf", "");
    for bad in [&text, &empty, &adapter, &folder.path("")] {
        refuse(valve(&["run", "-p", "x", "-m", bad]), &[bad]);
        refuse(valve(&["tokenize", "x", "-m", bad]), &[bad]);
    }
    for bad in [&text, &empty, &model] {
        refuse(folder.command("run", &["-p", "x", "--valve", bad]), &[bad]);
        refuse(folder.command("run", &["-p", "x", "--lora", bad]), &[bad]);
    }
    refuse(valve(&["inspect", &text]), &[&text]);
    let half = &std::fs::read(&model).unwrap()[..40_000];
    let half = folder.write("half.gguf", half);
    refuse(valve(&["run", "-p", "x", "-m", &half]), &[&half]);
    let latin = folder.write("latin.txt", [b'a', 0xe9, b'b']);
    refuse(folder.command("run", &["-f", &latin]), &[&latin]);
    let mut from_stdin = folder.command("run", &[]);
    from_stdin.stdin(std::fs::File::open(&latin).unwrap());
    refuse(from_stdin, &["standard input"]);
}

#[test]
fn flags_out_of_range_are_named() {
    let folder = Folder::new();
    let adapter = folder.path("a.gguf");
    let run = |args: &[&str]| folder.command("run", &[&["-p", "the hint"], args].concat());
    for alpha in ["nan", "inf", "x", "", "1=", "4=0.1,2=0.3"] {
        refuse(run(&["--valve", &adapter, "--alpha", alpha]), &["alpha"]);
    }
    for (flag, dial) in [("alpha-attn", "x"), ("alpha-mlp", "0..1@0"), ("alpha-layers", "1"), ("alpha-layers", "0-2:1")]
    {
        refuse(run(&["--valve", &adapter, &format!("--{flag}"), dial]), &[flag]);
    }
    refuse(run(&["--alpha-mlp", "1"]), &["alpha-mlp", "no valve"]);
    refuse(run(&["--lora", &format!("{adapter}:nan")]), &["lora"]);
    refuse(run(&["--temp", "-1"]), &["temperature", "-1"]);
    refuse(run(&["--temp", "nan"]), &["temperature", "NaN"]);
    refuse(run(&["--top-p", "1.5"]), &["top_p", "1.5"]);
    refuse(run(&["--min-p", "-0.5"]), &["min_p", "-0.5"]);
    refuse(run(&["-b", "0"]), &["batch"]);
    refuse(run(&["-c", "2"]), &["context", "2"]);
    refuse(run(&["-c", "1000000000000000000"]), &["context", "1000000000000000000"]);
    refuse(folder.command("run", &["--raw", "-p", ""]), &["prompt"]);
    misuse(run(&["--temp", "hot"]), &["--temp", "hot"]);
    misuse(run(&["-c", "-1"]), &["-1"]);
    misuse(run(&["--scope", "none"]), &["--scope", "none"]);
    misuse(run(&["-f", "x"]), &["--prompt", "--file"]);
    misuse(run(&["--no-such-flag"]), &["--no-such-flag"]);
    misuse(valve(&["sing"]), &["sing"]);
}

#[test]
fn a_context_that_the_prompt_fills_is_an_error() {
    let folder = Folder::new();
    // Seven bytes that no merge joins.
    let full = folder.command("run", &["--raw", "-p", "zqzqzqz", "-c", "7"]);
    refuse(full, &["context", "8", "7"]);
}

#[test]
fn threads_and_levels_that_do_not_exist_are_refused() {
    let folder = Folder::new();
    let mut none = valve(&["run", "-p", "x", "-t", "0", "-m"]);
    none.arg(folder.path("model.gguf"));
    refuse(none, &["threads"]);
    let mut level = folder.command("run", &["-p", "x"]);
    level.env("COTVALVE_SIMD", "sse9");
    refuse(level, &["COTVALVE_SIMD", "sse9"]);
}

#[test]
fn files_of_ids_are_checked() {
    let folder = Folder::new();
    let out = folder.path("x.npy");
    for bad in ["", "[", "{}", "[1, -1]", "[1.5]", "[\"a\"]", "[5, 99999]", "[5, 4294967296]", "[]"] {
        let ids = folder.write("ids.json", bad);
        refuse(folder.command("logits", &["--ids", &ids, "--out", &out]), &[&ids]);
        assert!(!std::path::Path::new(&out).exists(), "{bad}");
    }
    misuse(folder.command("logits", &["--out", &out]), &["--ids", "--file"]);
    misuse(folder.command("logits", &["-f", "x", "--ids", "y", "--out", &out]), &["--ids", "--file"]);
}

#[test]
fn a_device_that_cannot_run_the_model_is_named_and_auto_takes_the_processor_and_says_so_once() {
    let folder = Folder::new();
    misuse(folder.command("run", &["--device", "gpu"]), &["--device", "\"gpu\"", "cuda:N"]);
    refuse(folder.command("run", &["--device", "cuda:99"]), &["cuda"]);
    let on = |device| ["--device", device, "--temp", "0", "-n", "16", "-p", "the hint"];
    let (auto, said) = succeed(folder.command("run", &on("auto")).output().unwrap());
    assert_eq!(auto, folder.stdout("run", &on("cpu")));
    assert_eq!(said.matches("running on the CPU").count(), 1, "{said}");
    let alone = ["-ngl", "99", "--temp", "0", "-n", "16", "-p", "the hint"];
    let (text, said) = succeed(folder.command("run", &alone).output().unwrap());
    assert_eq!((text, said.matches("--n-gpu-layers").count()), (auto, 1), "{said}");
}
