//! Token for token with llama.cpp on the vocabulary of a real SmolLM2 file, named by `COTVALVE_TEST_MODEL`.

use cotvalve::model::Model;
use cotvalve::tokenizer::Decoder;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
struct Ids {
    plain: Vec<u32>,
    /// With special tokens parsed, where that differs.
    special: Option<Vec<u32>>,
}

fn lines<T: for<'de> Deserialize<'de>>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn model() -> Option<Arc<Model>> {
    let Some(path) = std::env::var_os("COTVALVE_TEST_MODEL") else {
        println!("skipped: COTVALVE_TEST_MODEL names no model");
        return None;
    };
    Some(Model::open(path).unwrap())
}

#[test]
fn ids_equal_llama_cpp() {
    let Some(model) = model() else { return };
    let tokenizer = model.tokenizer();
    let texts: Vec<String> = lines(include_str!("data/tokenizer/lines.jsonl"));
    let expected: Vec<Ids> = lines(include_str!("data/tokenizer/smollm2-ids.jsonl"));
    assert_eq!((texts.len(), expected.len()), (2000, 2000));
    for (number, (text, ids)) in texts.iter().zip(&expected).enumerate() {
        let plain = tokenizer.encode(text, false, false).unwrap();
        assert_eq!(plain, ids.plain, "line {}: {text:?}", number + 1);
        let special = tokenizer.encode(text, true, false).unwrap();
        assert_eq!(&special, ids.special.as_ref().unwrap_or(&ids.plain), "line {}, special: {text:?}", number + 1);
    }
}

#[test]
fn ends_equal_llama_cpp() {
    let Some(model) = model() else { return };
    let tokenizer = model.tokenizer();
    let ends: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.is_end(*id)).collect();
    assert_eq!(ends, [0, 2, 4], "<|endoftext|>, <|im_end|>, <reponame>");
}

/// Text comes back whole but for the bytes this vocabulary has no token for.
#[test]
fn texts_come_back() {
    let Some(model) = model() else { return };
    let tokenizer = model.tokenizer();
    let mut whole = 0;
    for text in lines::<String>(include_str!("data/tokenizer/lines.jsonl")) {
        let ids = tokenizer.encode(&text, false, false).unwrap();
        let mut decoder = Decoder::new();
        let streamed: String = ids.iter().map(|id| decoder.push(tokenizer.token_bytes(*id).unwrap())).collect();
        let streamed = streamed + &decoder.flush();
        assert_eq!(streamed, tokenizer.decode(&ids).unwrap());
        let absent = |byte: &u8| matches!(byte, 0x04 | 0x06 | 0x13 | 0x14 | 0x16 | 0x1D | 0xF1 | 0xF2);
        if !text.as_bytes().iter().any(absent) {
            assert_eq!(streamed, text);
            whole += 1;
        }
    }
    assert!(whole > 1800, "{whole} of 2,000 lines have a token for each byte");
}

/// The template that the chat tests render is the one of the file.
#[test]
fn chat_template_is_the_tested_one() {
    let Some(model) = model() else { return };
    let template = model.gguf().str("tokenizer.chat_template").unwrap();
    assert_eq!(template, Some(include_str!("data/chat/smollm2.jinja")));
}
