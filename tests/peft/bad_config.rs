//! `adapter_config.json` that asks for what is not done, or lies.

use super::folder::Folder;
use serde_json::{Value, json};

const FILE: &str = "adapter_config.json";

/// The message names the file and has all of `words`.
fn refused(field: &str, value: Value, words: &[&str]) {
    let folder = Folder::plain();
    folder.set(field, value.clone());
    let message = folder.refusal(FILE);
    assert!(words.iter().all(|word| message.contains(word)), "{field} = {value}: {message}");
}

#[test]
fn what_changes_the_base_is_refused_with_the_reason() {
    refused("use_dora", json!(true), &["use_dora: ", "rescales"]);
    for start in ["pissa", "pissa_niter_16", "corda", "olora", "loftq", "lora_ga", "something"] {
        refused("init_lora_weights", json!(start), &["init_lora_weights: ", start, "path_initial_model"]);
    }
    refused("modules_to_save", json!(["lm_head"]), &["modules_to_save: "]);
    refused("bias", json!("all"), &["bias: ", "trained biases"]);
    refused("bias", json!("lora_only"), &["bias: "]);
    refused("lora_bias", json!(true), &["lora_bias: "]);
    refused("layer_replication", json!([[0, 2], [1, 2]]), &["layer_replication: "]);
    refused("trainable_token_indices", json!([1]), &["trainable_token_indices: "]);
}

#[test]
fn other_methods_are_refused() {
    for kind in ["VERA", "LOHA", "IA3", "ADALORA", "lora"] {
        refused("peft_type", json!(kind), &["peft_type: ", kind, "only \"LORA\""]);
    }
    refused("fan_in_fan_out", json!(true), &["fan_in_fan_out: "]);
    refused("megatron_config", json!({ "tensor_model_parallel_size": 1 }), &["megatron_config: "]);
    refused("alora_invocation_tokens", json!([1, 2]), &["alora_invocation_tokens: "]);
    refused("target_parameters", json!(["experts"]), &["target_parameters: "]);
    refused("layers_pattern", json!("h"), &["layers_pattern: "]);
    refused("use_something", json!(true), &["use_something: ", "does not know"]);
    refused("something_config", json!({ "a": 1 }), &["something_config: ", "does not know"]);
}

#[test]
fn what_changes_nothing_is_taken() {
    let starts = ["gaussian", "eva", "orthogonal"].map(|start| ("init_lora_weights", json!(start)));
    let off = [
        ("init_lora_weights", json!(false)),
        ("loftq_config", json!({})),
        ("eva_config", json!({ "rho": 2.0 })),
        ("use_qalora", json!(false)),
        ("qalora_group_size", json!(16)),
        ("megatron_core", json!("megatron.core")),
        ("layers_pattern", json!(["layers"])),
        ("modules_to_save", json!([])),
        ("target_modules", json!("all-linear")),
        ("target_modules", Value::Null),
    ];
    for (field, value) in starts.into_iter().chain(off) {
        let folder = Folder::plain();
        folder.set(field, value.clone());
        assert_eq!(folder.open().unwrap_or_else(|e| panic!("{field} = {value}: {e}")).pairs().len(), 14);
    }
}

#[test]
fn fields_that_lie_are_named() {
    refused("r", json!(0), &["r: ", "0 is not between"]);
    refused("r", json!(-4), &["r: ", "-4"]);
    refused("r", json!(1u64 << 40), &["r: "]);
    refused("r", json!(4.5), &["r: "]);
    refused("r", json!("4"), &["r: "]);
    refused("r", Value::Null, &["r: ", "missing"]);
    refused("lora_alpha", json!(0), &["lora_alpha: ", "does nothing"]);
    refused("lora_alpha", json!(1e300), &["lora_alpha: ", "out of range"]);
    refused("lora_alpha", json!(1e-60), &["lora_alpha: ", "no usable scale"]);
    refused("lora_alpha", json!([8]), &["lora_alpha: "]);
    refused("rank_pattern", json!({ "q_proj": 0 }), &["rank_pattern: q_proj: "]);
    refused("alpha_pattern", json!({ "q_proj": 0 }), &["alpha_pattern: q_proj: ", "does nothing"]);
    refused("alpha_pattern", json!([1]), &["alpha_pattern: "]);
    refused("rank_pattern", json!({ "(": 1 }), &["rank_pattern: (: "]);
    refused("rank_pattern", json!({ "(?=q)q_proj": 1 }), &["rank_pattern: (?=q)q_proj: "]);
    refused("rank_pattern", json!({ "((a{99}){99}){99}": 1 }), &["rank_pattern: ", "size limit"]);
    refused("target_modules", json!("("), &["target_modules: "]);
    refused("target_modules", json!(7), &["target_modules: "]);
    refused("use_rslora", json!("yes"), &["use_rslora: "]);
    let many: serde_json::Map<String, Value> = (0..5000).map(|i| (format!("m{i}"), json!(1))).collect();
    refused("rank_pattern", many.into(), &["rank_pattern: 5000 patterns"]);
}

/// Text of a config in which `field` has the value `raw`, which need not be JSON.
fn raw(field: &str, raw: &str) -> String {
    let folder = Folder::plain();
    folder.set(field, json!("PLACE"));
    folder.config().to_string().replace("\"PLACE\"", raw)
}

#[test]
fn text_that_is_no_json_is_refused() {
    let twice = r#"{"peft_type": "LORA", "r": 4, "r": 8, "lora_alpha": 8}"#;
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let cases = [
        (String::new(), "EOF"),
        ("[]".into(), "an object"),
        ("{".into(), "EOF"),
        (raw("lora_alpha", "NaN"), "expected value"),
        (raw("lora_alpha", "Infinity"), "expected value"),
        (raw("lora_alpha", "1e999"), "lora_alpha: number out of range"),
        (raw("r", "99999999999999999999999999"), "r: "),
        (raw("rank_pattern", r#"{"q_proj": 1, "q_proj": 2}"#), "\"q_proj\" occurs twice"),
        (raw("target_modules", &deep), "target_modules: "),
        (twice.into(), "\"r\" occurs twice"),
        (r#"{"r": 4, "lora_alpha": 8}"#.into(), "peft_type: this field is missing"),
        (r#"{"peft_type": "LORA", "r": 4}"#.into(), "lora_alpha: this field is missing"),
        (" ".repeat((1 << 20) + 1), "at most 1048576"),
    ];
    for (text, words) in cases {
        let folder = Folder::plain();
        folder.write_config(&text);
        let message = folder.refusal(FILE);
        assert!(message.contains(words), "{words:?} is not in {message}");
    }
}

#[test]
fn cut_short_at_every_byte_it_is_refused() {
    let folder = Folder::plain();
    let text = folder.config().to_string();
    for end in 0..text.len() {
        folder.write_config(&text[..end]);
        folder.refusal(FILE);
    }
}

#[test]
fn without_a_config_a_folder_is_no_adapter() {
    let folder = Folder::plain();
    std::fs::remove_file(folder.file(FILE)).unwrap();
    folder.refusal(FILE);
    std::fs::create_dir(folder.file(FILE)).unwrap();
    assert!(folder.refusal(FILE).contains("not a regular file"));
}
