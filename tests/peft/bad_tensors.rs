//! `adapter_model.safetensors` that lies, does not fit, or holds more than low-rank terms.

use super::folder::Folder;
use super::{data, model};
use cotvalve::rng::Rng;
use cotvalve::valve::Adapter;
use serde_json::json;

const FILE: &str = "adapter_model.safetensors";
const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// The message after a change of the header has all of `words`.
fn refused(change: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>), words: &[&str]) {
    let folder = Folder::plain();
    let (mut header, mut data) = folder.tensors();
    change(&mut header, &mut data);
    folder.write_tensors(&header.to_string(), &data);
    let message = folder.refusal(FILE);
    assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
}

fn a() -> String {
    format!("{Q}.lora_A.weight")
}

#[test]
fn headers_that_lie_are_refused() {
    refused(|h, _| h[&a()]["data_offsets"] = json!([0, 1u64 << 40]), &["offset"]);
    refused(|h, _| h[&a()]["data_offsets"] = json!([512, 0]), &["offset"]);
    refused(|h, _| h[&a()]["data_offsets"] = json!([-1, 512]), &["-1"]);
    refused(|h, _| h[&a()]["shape"] = json!([u64::MAX, u64::MAX]), &["overflow"]);
    refused(|h, _| h[&a()]["shape"] = json!([4, 31]), &[]);
    refused(|h, _| h[&a()]["dtype"] = json!("F17"), &["F17"]);
    refused(|_, data| data.truncate(data.len() - 1), &["not fully covered"]);
    refused(|_, data| data.push(0), &["not fully covered"]);
    refused(|h, _| *h = json!([]), &[]);
}

#[test]
fn the_length_of_the_header_is_not_believed() {
    for length in [0, 7, 1 << 20, u64::MAX, i64::MAX as u64, 99_000_000] {
        let folder = Folder::plain();
        let mut bytes = std::fs::read(folder.file(FILE)).unwrap();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        std::fs::write(folder.file(FILE), bytes).unwrap();
        folder.refusal(FILE);
    }
}

#[test]
fn cut_short_anywhere_it_is_refused() {
    let folder = Folder::plain();
    let bytes = std::fs::read(folder.file(FILE)).unwrap();
    for end in (0..bytes.len()).step_by(13) {
        std::fs::write(folder.file(FILE), &bytes[..end]).unwrap();
        folder.refusal(FILE);
    }
}

/// A changed byte gives an error or another adapter, never a panic.
#[test]
fn changed_bytes_do_no_harm() {
    let mut rng = Rng::new(5);
    let mut refused = 0;
    for file in [FILE, "adapter_config.json"] {
        let folder = Folder::plain();
        let bytes = std::fs::read(folder.file(file)).unwrap();
        // The header of the tensors has some 3 KB.
        let end = bytes.len().min(3000);
        for _ in 0..500 {
            let mut changed = bytes.clone();
            for _ in 0..=rng.below(3) {
                changed[rng.below(end)] = b"\0 \"0195-e{}[],:x\xff"[rng.below(17)];
            }
            std::fs::write(folder.file(file), changed).unwrap();
            refused += usize::from(folder.open().is_err());
        }
    }
    assert!((500..1000).contains(&refused), "{refused}");
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let folder = Folder::plain();
    let (header, data) = folder.tensors();
    let entry = format!("{:?}:{}", a(), header[&a()]);
    let text = header.to_string();
    assert!(text.contains(&entry), "{text}");
    folder.write_tensors(&text.replacen(&entry, &format!("{entry},{entry}"), 1), &data);
    assert!(folder.refusal(FILE).contains("occurs twice"));
}

#[test]
fn deep_headers_are_refused() {
    let folder = Folder::plain();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    folder.write_tensors(&deep, &[]);
    folder.refusal(FILE);
}

#[test]
fn shapes_and_ranks_must_fit() {
    let flat = |h: &mut serde_json::Value, _: &mut Vec<u8>| h[&a()]["shape"] = json!([128]);
    refused(flat, &[Q, "[128]", "rank 4", "[32, 32]"]);
    let turned = |h: &mut serde_json::Value, _: &mut Vec<u8>| h[&a()]["shape"] = json!([32, 4]);
    refused(turned, &[Q, "[32, 4]"]);
    let folder = Folder::plain();
    folder.set("r", json!(8));
    assert!(folder.refusal(FILE).contains("do not fit rank 8"));
    folder.set("r", json!(4));
    folder.set("rank_pattern", json!({ "k_proj": 2 }));
    assert!(folder.refusal(FILE).contains("do not fit rank 2"));
}

#[test]
fn types_without_a_meaning_here_are_named() {
    let as_type = |name: &'static str, shape: [usize; 2]| {
        move |h: &mut serde_json::Value, _: &mut Vec<u8>| {
            h[&a()]["dtype"] = json!(name);
            h[&a()]["shape"] = json!(shape);
        }
    };
    refused(as_type("I32", [4, 32]), &[Q, "I32"]);
    refused(as_type("F64", [2, 32]), &[Q]);
}

#[test]
fn what_is_no_low_rank_term_is_refused_by_name() {
    let cases = [
        (format!("{Q}.lora_magnitude_vector"), "DoRA"),
        (format!("{Q}.bias"), "trained biases"),
        (format!("{Q}.lora_B.bias"), "trained biases"),
        ("base_model.model.model.embed_tokens.lora_embedding_A".into(), "embeddings"),
        ("base_model.model.model.norm.weight".into(), "norms saved whole"),
        ("base_model.model.model.layers.0.input_layernorm.weight".into(), "norms saved whole"),
        (format!("{Q}.base_layer.weight"), "saved whole"),
        ("base_model.model.lm_head.weight".into(), "another vocabulary"),
        ("base_model.model.model.embed_tokens.weight".into(), "another vocabulary"),
        (format!("{Q}.lora_A.default.weight"), "no low-rank matrix of PEFT's"),
        ("vera_lambda_b".into(), "no low-rank matrix of PEFT's"),
    ];
    for (name, why) in cases {
        let folder = Folder::plain();
        folder.add(&name, &[4]);
        let message = folder.refusal(FILE);
        assert!(message.contains(&name) && message.contains(why), "{name}: {message}");
    }
    let folder = Folder::plain();
    (0..10).for_each(|i| folder.add(&format!("extra{i}"), &[1]));
    let message = folder.refusal(FILE);
    assert!((0..8).all(|i| message.contains(&format!("extra{i}"))) && message.contains("and 2 more"), "{message}");
}

#[test]
fn halves_and_strangers_are_refused() {
    let folder = Folder::plain();
    folder.add("base_model.model.lm_head.lora_A.weight", &[4, 32]);
    assert!(folder.refusal(FILE).contains("lm_head.lora_B.weight is missing"));
    for module in ["model.layers.2.self_attn.q_proj", "model.layers.0.self_attn.qkv_proj", "score"] {
        let folder = Folder::plain();
        folder.set("target_modules", serde_json::Value::Null);
        folder.add(&format!("base_model.model.{module}.lora_A.weight"), &[4, 32]);
        folder.add(&format!("base_model.model.{module}.lora_B.weight"), &[32, 4]);
        let message = folder.refusal(FILE);
        assert!(message.contains(module) && message.contains("no such projection"), "{message}");
    }
}

#[test]
fn what_peft_would_leave_alone_is_not_applied_in_silence() {
    let cases = [
        ("target_modules", json!(["q_proj"])),
        ("target_modules", json!("model.layers.0.*")),
        ("exclude_modules", json!(["up_proj"])),
        ("exclude_modules", json!(".*mlp.*")),
        ("layers_to_transform", json!([1])),
        ("layers_to_transform", json!(0)),
    ];
    for (field, value) in cases {
        let folder = Folder::plain();
        folder.set(field, value.clone());
        let message = folder.refusal(FILE);
        assert!(message.contains("PEFT would ignore it"), "{field} = {value}: {message}");
    }
}

#[test]
fn a_pickle_is_refused() {
    let folder = Folder::plain();
    std::fs::rename(folder.file(FILE), folder.file("adapter_model.bin")).unwrap();
    let message = folder.open().unwrap_err().to_string();
    assert!(message.contains("adapter_model.bin is a pickle"), "{message}");
    std::fs::remove_file(folder.file("adapter_model.bin")).unwrap();
    folder.refusal(FILE);
}

#[test]
fn a_tied_head_takes_no_adapter() {
    let message = Adapter::open(&data("head"), &model().1, false).unwrap_err().to_string();
    assert!(message.contains("lm_head") && message.contains("tied to the embedding"), "{message}");
}

#[test]
fn an_empty_adapter_is_an_error() {
    let folder = Folder::plain();
    folder.write_tensors("{}", &[]);
    assert!(folder.refusal(FILE).contains("holds nothing"));
}
