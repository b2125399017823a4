//! `valve logits`, `tokenize` and `inspect`.

use super::{Folder, feed, succeed, valve};
use crate::support::gguf_fixture::vocabulary;
use serde_json::Value;

const TEXT: &str = "the hint and\n the ring";

fn ids(folder: &Folder) -> Vec<usize> {
    let tokens: Value = serde_json::from_str(&folder.stdout("tokenize", &["--json", TEXT])).unwrap();
    tokens.as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap() as usize).collect()
}

/// The header's text and the data of a NumPy 1.0 file.
fn parse_npy(bytes: &[u8]) -> (String, Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (values, rest) = bytes[end..].as_chunks::<4>();
    assert!(end.is_multiple_of(64) && rest.is_empty());
    (String::from_utf8(bytes[10..end].to_vec()).unwrap(), values.iter().map(|v| f32::from_le_bytes(*v)).collect())
}

#[test]
fn logits_are_a_numpy_file_of_all_positions() {
    let folder = Folder::new();
    let ids = ids(&folder);
    let write = |flag: &str, file: &str, out: &str, more: &[&str]| {
        let out = folder.path(out);
        let stdout = folder.stdout("logits", &[&[flag, file, "--out", &out], more].concat());
        assert_eq!(stdout, "");
        std::fs::read(out).unwrap()
    };
    let text = folder.write("text.txt", TEXT);
    let from_text = write("-f", &text, "text.npy", &[]);
    let (header, values) = parse_npy(&from_text);
    let (rows, vocab) = (ids.len(), vocabulary().len());
    assert!(header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"), "{header}");
    assert!(header.contains(&format!("'shape': ({rows}, {vocab})")), "{header}");
    assert_eq!(values.len(), rows * vocab);
    assert!(values.iter().all(|v| v.is_finite()));
    let ids_file = folder.write("ids.json", format!("{ids:?}"));
    assert!(write("--ids", &ids_file, "ids.npy", &[]) == from_text);
    // A prefix's logits do not depend on what follows it.
    let prefix = folder.write("prefix.json", format!("{:?}", &ids[..3]));
    assert!(parse_npy(&write("--ids", &prefix, "prefix.npy", &[])).1 == values[..3 * vocab]);
    let valve = folder.path("a.gguf");
    assert!(write("-f", &text, "closed.npy", &["--valve", &valve]) == from_text);
    assert!(write("-f", &text, "open.npy", &["--valve", &valve, "--alpha", "1"]) != from_text);
}

#[test]
fn tokens_are_shown_one_a_line_or_as_json() {
    let folder = Folder::new();
    let vocabulary = vocabulary();
    let id = |piece: &str| vocabulary.iter().position(|p| p == piece).unwrap();
    let expected = [(id("the"), "the"), (id("Ċ"), "\n"), (id("Ġthe"), " the")];
    let lines: Vec<String> = expected.iter().map(|(id, piece)| format!("{id}\t{}\n", piece.escape_debug())).collect();
    let text = "the\n the";
    assert_eq!(folder.stdout("tokenize", &[text]), lines.concat());
    let file = folder.write("text.txt", text);
    assert_eq!(folder.stdout("tokenize", &["-f", &file]), lines.concat());
    assert_eq!(succeed(feed(folder.command("tokenize", &[]), text)).0, lines.concat());
    let json: Value = serde_json::from_str(&folder.stdout("tokenize", &["--json", text])).unwrap();
    let expected = expected.map(|(id, piece)| serde_json::json!({ "id": id, "piece": piece }));
    assert_eq!(json, Value::from(expected.to_vec()));
    assert_eq!(folder.stdout("tokenize", &["--special", "<|im_end|>"]), "2\t<|im_end|>\n");
    assert!(folder.stdout("tokenize", &["<|im_end|>"]).lines().count() > 1);
}

#[test]
fn models_and_adapters_can_be_inspected() {
    let folder = Folder::new();
    let inspect = |args: &[&str]| succeed(valve(&[&["inspect"], args].concat()).output().unwrap()).0;
    let [model, adapter] = [folder.path("model.gguf"), folder.path("a.gguf")];
    let text = inspect(&[&model]);
    assert!(text.starts_with(&model) && text.contains("blk.1.ffn_down.weight"), "{text}");
    assert!(text.contains("tiny llama") && !text.contains("\nadapter"), "{text}");
    let json: Value = serde_json::from_str(&inspect(&["--json", &model])).unwrap();
    assert_eq!(json["metadata"]["llama.block_count"], 2);
    assert_eq!(json["totals"]["f16"]["tensors"], 15);
    let text = inspect(&[&adapter]);
    assert!(text.contains("rank 4: 14 targets, effective scale 2 times the user's"), "{text}");
    let json: Value = serde_json::from_str(&inspect(&["--json", &adapter])).unwrap();
    assert_eq!(json["adapter"]["targets"].as_array().unwrap().len(), 14);
    assert_eq!(json["metadata"]["valve.direction"], "shorter");
}

/// What a file says of its vocabulary can be overridden, and a name that is not known says how.
#[test]
fn keys_of_a_model_are_overridden() {
    let folder = Folder::new();
    let pre = |name: &str| format!("tokenizer.ggml.pre=str:{name}");
    let tokens = |pre: &str| folder.stdout("tokenize", &["'S", "--override-kv", pre]).lines().count();
    assert_eq!(tokens(&pre("smollm")), 2);
    let output = folder.command("tokenize", &["x", "--override-kv", &pre("martian")]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("martian") && stderr.contains("--override-kv tokenizer.ggml.pre=str:NAME"), "{stderr}");
    let eos = |id: u32| format!("tokenizer.ggml.eos_token_id=int:{id}");
    let run =
        |id| folder.command("run", &["--temp", "0", "-n", "1", "-p", "x", "--override-kv", &eos(id)]).output().unwrap();
    assert_eq!(run(2).status.code(), Some(0));
    let stderr = String::from_utf8(run(99_999).stderr).unwrap();
    assert!(stderr.contains("eos token 99999"), "{stderr}");
    let refused = folder.command("tokenize", &["x", "--override-kv", "novalue"]).output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("\"novalue\""));
}
