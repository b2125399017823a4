//! Token for token with llama.cpp on real vocabularies: SmolLM2's file, named by `COTVALVE_TEST_MODEL`, and those in
//! the sources of llama.cpp, whose folder `models` is named by `COTVALVE_TEST_VOCABS`.

mod support;

use cotvalve::gguf::{Gguf, Value};
use cotvalve::model::{Model, tokenizer};
use cotvalve::tokenizer::{Decoder, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::peer_ids::{Case, Peer, Texts};

fn model() -> Option<Arc<Model>> {
    let Some(path) = std::env::var_os("COTVALVE_TEST_MODEL") else {
        println!("skipped: COTVALVE_TEST_MODEL names no model");
        return None;
    };
    Some(Model::open(path).unwrap())
}

fn vocabularies() -> Option<PathBuf> {
    let Some(path) = std::env::var_os("COTVALVE_TEST_VOCABS") else {
        println!("skipped: COTVALVE_TEST_VOCABS names no folder of ggml-vocab-*.gguf");
        return None;
    };
    Some(path.into())
}

#[test]
fn smollm2_equals_llama_cpp() {
    let Some(model) = model() else { return };
    let peer = Peer::read();
    let case = peer.cases.iter().find(|case| case.vocab == "smollm2").unwrap();
    let mut table = String::new();
    let problems = peer.compare(case, model.tokenizer(), Texts::Equal, &mut table);
    println!("{table}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Vocabularies whose texts llama.cpp cleans.
const CLEANED: [&str; 9] =
    ["aquila", "falcon", "gemma-4", "gpt-2", "gpt-neox", "llama-bpe", "mpt", "refact", "starcoder"];

fn open(folder: &Path, case: &Case) -> Tokenizer {
    let mut gguf = Gguf::open(&folder.join(format!("ggml-vocab-{}.gguf", case.vocab))).unwrap();
    if let Some(pre) = &case.pre {
        gguf.set("tokenizer.ggml.pre", Value::Str(pre.clone()));
    }
    tokenizer(&gguf).unwrap()
}

/// Compares all cases that `wanted` picks; at most five problems of each are told.
fn compare(wanted: impl Fn(&Case) -> bool) -> usize {
    let Some(folder) = vocabularies() else { return 0 };
    let peer = Peer::read();
    let (mut table, mut problems) = (String::new(), Vec::new());
    let cases: Vec<_> = peer.cases.iter().filter(|case| wanted(case)).collect();
    for case in &cases {
        let cleaned = case.pre.is_some() || CLEANED.contains(&&*case.vocab);
        let texts = if cleaned { Texts::Cleaned } else { Texts::Equal };
        problems.extend(peer.compare(case, &open(&folder, case), texts, &mut table).into_iter().take(5));
    }
    println!("{table}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    cases.len()
}

#[test]
fn real_vocabularies_equal_llama_cpp() {
    let cases = compare(|case| case.pre.is_none() && case.vocab != "smollm2");
    assert!(matches!(cases, 0 | 17), "{cases} vocabularies");
}

/// Llama 3's vocabulary cut by each rule.
#[test]
fn pre_tokenizers_equal_llama_cpp() {
    let cases = compare(|case| case.pre.is_some() && case.vocab == "llama-bpe");
    assert!(matches!(cases, 0 | 28), "{cases} rules");
}

#[test]
fn other_kinds_are_refused_by_name() {
    let Some(folder) = vocabularies() else { return };
    for (file, kind) in [("bert-bge", "\"bert\" (WordPiece)"), ("nomic-bert-moe", "\"t5\" (Unigram)")] {
        let gguf = Gguf::open(&folder.join(format!("ggml-vocab-{file}.gguf"))).unwrap();
        let error = tokenizer(&gguf).err().unwrap().to_string();
        assert!(error.contains(kind), "{error}");
    }
}

/// Text comes back whole but for the bytes this vocabulary has no token for.
#[test]
fn texts_come_back() {
    let Some(model) = model() else { return };
    let tokenizer = model.tokenizer();
    let mut whole = 0;
    let lines = Peer::read().lines;
    for text in &lines {
        let ids = tokenizer.encode(text, false, false).unwrap();
        let mut decoder = Decoder::new();
        let streamed: String = ids.iter().map(|id| decoder.push(tokenizer.token_bytes(*id).unwrap())).collect();
        let streamed = streamed + &decoder.flush();
        assert_eq!(streamed, tokenizer.decode(&ids).unwrap());
        let absent = |byte: &u8| matches!(byte, 0x04 | 0x06 | 0x13 | 0x14 | 0x16 | 0x1D | 0xF1 | 0xF2);
        if !text.as_bytes().iter().any(absent) {
            assert_eq!(&streamed, text);
            whole += 1;
        }
    }
    assert!(whole > 2200, "{whole} of {} lines have a token for each byte", lines.len());
}

/// The template that the chat tests render is the one of the file.
#[test]
fn chat_template_is_the_tested_one() {
    let Some(model) = model() else { return };
    let template = model.gguf().str("tokenizer.chat_template").unwrap();
    assert_eq!(template, Some(include_str!("data/chat/smollm2.jinja")));
}
