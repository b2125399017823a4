//! Answers under a schema or a grammar, drawn from random logits: whatever the model says, the answer follows it.

#![cfg(feature = "grammar")]

mod support;

use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::sampler::{Grammar, Grammars, Sampler, Sampling};
use cotvalve::tensor::TensorType;
use cotvalve::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use support::Random;
use support::gguf_fixture::tiny_llama;

/// Tokens of an answer; one that needs more is not looked at.
const LIMIT: usize = 400;

/// A vocabulary of all bytes and some pairs, and what its samplers share.
struct Bench {
    model: Arc<Model>,
    grammars: Grammars,
}

impl Bench {
    fn new() -> Self {
        let gguf = Gguf::parse(Path::new("tiny.gguf"), Bytes::from(tiny_llama(3, TensorType::F16))).unwrap();
        Self { model: Model::new(gguf).unwrap(), grammars: Grammars::default() }
    }

    fn tokenizer(&self) -> &Tokenizer {
        self.model.tokenizer()
    }

    /// An answer to random logits; none if it does not end.
    fn answer(&self, sampling: &Sampling, seed: u64) -> Option<String> {
        let sampling = Sampling { seed, temperature: 1.0, top_k: 0, ..sampling.clone() };
        let mut sampler = Sampler::new(&sampling, self.tokenizer(), &self.grammars).unwrap();
        let mut random = Random(seed ^ 0x5eed);
        let mut timeline = Vec::new();
        let mut logits = vec![0.0; self.tokenizer().vocab_size()];
        while timeline.len() < LIMIT {
            logits.iter_mut().for_each(|l| *l = random.normal(0.0, 2.0));
            let token = sampler.next(&logits, &timeline).unwrap().token;
            if self.tokenizer().is_end(token) {
                let bytes = timeline.iter().flat_map(|t| self.tokenizer().token_bytes(*t).unwrap().to_vec());
                return Some(String::from_utf8(bytes.collect()).expect("an answer is text"));
            }
            timeline.push(token);
        }
        None
    }

    fn answers(&self, grammar: Grammar, count: u64) -> Vec<String> {
        let sampling = Sampling { grammar: Some(grammar), ..Sampling::default() };
        (0..count).filter_map(|seed| self.answer(&sampling, seed)).collect()
    }

    fn complaint(&self, grammar: Grammar) -> String {
        let sampling = Sampling { grammar: Some(grammar), ..Sampling::default() };
        Sampler::new(&sampling, self.tokenizer(), &self.grammars).expect_err("it must be refused").to_string()
    }
}

/// Whether a document is as its schema says.
type Check = fn(&Value) -> bool;

fn schemas() -> Vec<(Value, Check)> {
    let person = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 6 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "tags": { "type": "array", "items": { "enum": ["a", "bb"] }, "minItems": 1, "maxItems": 3 },
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    });
    let tree = json!({
        "$defs": { "node": {
            "type": "object",
            "properties": {
                "v": { "type": "boolean" },
                "next": { "anyOf": [{ "$ref": "#/$defs/node" }, { "type": "null" }] },
            },
            "required": ["v", "next"],
            "additionalProperties": false,
        } },
        "$ref": "#/$defs/node",
    });
    vec![
        (json!({ "enum": ["red", "green", 7, null] }), |v| {
            [json!("red"), json!("green"), json!(7), json!(null)].contains(v)
        }),
        (json!({ "const": { "a": [1, "x"] } }), |v| *v == json!({ "a": [1, "x"] })),
        (json!({ "type": "boolean" }), Value::is_boolean),
        (json!({ "type": "integer", "minimum": -5, "maximum": 5 }), |v| {
            v.as_i64().is_some_and(|n| (-5..=5).contains(&n))
        }),
        (json!({ "type": "string", "pattern": "^[ab]{2,4}$" }), |v| {
            v.as_str().is_some_and(|s| (2..=4).contains(&s.len()) && s.bytes().all(|b| b == b'a' || b == b'b'))
        }),
        (person, |v| {
            let tags = v["tags"].as_array().unwrap();
            let known = tags.iter().all(|t| *t == json!("a") || *t == json!("bb"));
            v.as_object().unwrap().len() == 3
                && v["name"].as_str().unwrap().chars().count() <= 6
                && v["age"].as_u64().unwrap() <= 150
                && known
                && (1..=3).contains(&tags.len())
        }),
        (tree, |v| {
            let mut node = v;
            while node.is_object() {
                if !node["v"].is_boolean() || node.as_object().unwrap().len() != 2 {
                    return false;
                }
                node = &node["next"];
            }
            node.is_null()
        }),
        (
            json!({
                "type": "array",
                "items": { "type": "array", "items": { "type": "null" }, "maxItems": 2 },
                "maxItems": 2,
            }),
            |v| {
                let rows = v.as_array().unwrap();
                rows.len() <= 2 && rows.iter().all(|r| r.as_array().unwrap().iter().all(Value::is_null))
            },
        ),
    ]
}

#[test]
fn every_answer_is_a_document_of_its_schema() {
    let bench = Bench::new();
    for (schema, check) in schemas() {
        let answers = bench.answers(Grammar::JsonSchema(schema.to_string()), 60);
        assert!(answers.len() >= 50, "{} answers to {schema} ended", answers.len());
        for answer in &answers {
            let document = serde_json::from_str(answer).unwrap_or_else(|e| panic!("{answer:?} of {schema}: {e}"));
            assert!(check(&document), "{answer:?} of {schema}");
        }
    }
}

#[test]
fn a_json_object_may_hold_anything() {
    let bench = Bench::new();
    let mut sampling = Sampling::default();
    sampling.set("response-format", "json").unwrap();
    let answers: Vec<String> = (0..40).filter_map(|seed| bench.answer(&sampling, seed)).collect();
    // JSON bounds no number; serde_json does.
    let read = |answer: &String| match serde_json::from_str(answer) {
        Err(error) if error.to_string().starts_with("number out of range") => None,
        document => Some(document.unwrap()),
    };
    let documents: Vec<Value> = answers.iter().filter_map(read).collect();
    assert!(documents.len() > 10 && documents.iter().all(Value::is_object), "{answers:?}");
    assert!(documents.iter().any(|d| !d.as_object().unwrap().is_empty()));
}

#[test]
fn greedy_follows_a_grammar_and_other_stages_act_within_it() {
    let bench = Bench::new();
    let grammar = Some(Grammar::JsonSchema(json!({ "enum": ["a", "b"] }).to_string()));
    let mut logits = vec![0.0; bench.tokenizer().vocab_size()];
    let id = |text: &str| bench.tokenizer().encode(text, false, false).unwrap()[0];
    logits[id("z") as usize] = 50.0;
    logits[id("b") as usize] = 20.0;
    let run = |sampling: Sampling| {
        let mut sampler = Sampler::new(&sampling, bench.tokenizer(), &bench.grammars).unwrap();
        let mut timeline = Vec::new();
        while timeline.last().is_none_or(|t| !bench.tokenizer().is_end(*t)) {
            timeline.push(sampler.next(&logits, &timeline).unwrap().token);
        }
        timeline.pop();
        bench.tokenizer().decode(&timeline).unwrap()
    };
    assert_eq!(run(Sampling { grammar: grammar.clone(), ..Sampling::greedy() }), "\"b\"");
    assert_eq!(run(Sampling { grammar: grammar.clone(), top_k: 1, ..Sampling::default() }), "\"b\"");
    let bias = vec![(id("b"), f32::NEG_INFINITY)];
    assert_eq!(run(Sampling { grammar, logit_bias: bias, ..Sampling::greedy() }), "\"a\"");
}

#[test]
fn gbnf_describes_what_it_says() {
    let bench = Bench::new();
    let cases: [(&str, &[&str]); 7] = [
        // A lexeme as long as it can be would make "abd" impossible, or the x.
        ("root ::= \"a\" \"b\" \"c\" | \"ab\" \"d\"", &["abc", "abd"]),
        ("root ::= [a-b]{0,2} \"b\"", &["b", "ab", "bb", "aab", "abb", "bab", "bbb"]),
        ("# two rules\nroot ::= (\"x\" |\n  y-1) # or\ny-1 ::= \"\\x41\" \"\\\\\"?\n", &["x", "A", "A\\"]),
        ("root ::= | \"\\u00e9\"", &["", "é"]),
        ("root ::= [^\\x00-\\x60b-\\U0010FFFF]{2}", &["aa"]),
        ("root ::= \"a\"{2} | \"b\"{1,2}", &["aa", "b", "bb"]),
        ("root ::= a | \"-\"\na ::= \"[\" a \"]\" | \"\"", &["-", "", "[]", "[[]]", "[[[]]]", "[[[[]]]]"]),
    ];
    for (grammar, wanted) in cases {
        let answers: BTreeSet<String> = bench.answers(Grammar::Gbnf(grammar.into()), 80).into_iter().collect();
        let wanted: BTreeSet<String> = wanted.iter().map(|s| s.to_string()).collect();
        let few: BTreeSet<String> = answers.iter().filter(|a| a.len() <= 8).cloned().collect();
        assert!(few.is_subset(&wanted), "{answers:?} of {grammar}");
        assert!(few.len() == wanted.len() || few.len() >= 4, "{answers:?} of {grammar}");
    }
}

#[test]
fn lark_grammars_begin_with_their_mark() {
    let bench = Bench::new();
    let mut sampling = Sampling::default();
    sampling.set("grammar", "%llguidance {}\nstart: (\"yes\" | \"no\") /[!?]/").unwrap();
    let answers: BTreeSet<String> = (0..40).filter_map(|seed| bench.answer(&sampling, seed)).collect();
    assert_eq!(answers.iter().map(String::as_str).collect::<Vec<_>>(), ["no!", "no?", "yes!", "yes?"]);
}

#[test]
fn a_grammar_waits_for_the_end_of_a_thought() {
    let bench = Bench::new();
    let grammar = Some(Grammar::JsonSchema(json!({ "enum": [1, 2] }).to_string()));
    let sampling = Sampling { grammar, grammar_after: "e".into(), ..Sampling::default() };
    let mut found = 0;
    for seed in 0..20 {
        // Random bytes are seldom text.
        let sampling = Sampling { seed, ..sampling.clone() };
        let mut sampler = Sampler::new(&sampling, bench.tokenizer(), &bench.grammars).unwrap();
        let mut random = Random(seed);
        let mut answer = Vec::new();
        for _ in 0..LIMIT {
            let logits: Vec<f32> = (0..bench.tokenizer().vocab_size()).map(|_| random.normal(0.0, 2.0)).collect();
            let token = sampler.next(&logits, &[]).unwrap().token;
            if bench.tokenizer().is_end(token) {
                let thought = answer.iter().position(|b| *b == b'e').unwrap();
                assert!([&b"1"[..], b"2"].iter().any(|end| answer.ends_with(end)), "{answer:?}");
                assert!(answer.len() - thought < 12, "{answer:?}");
                found += 1;
                break;
            }
            answer.extend_from_slice(bench.tokenizer().token_bytes(token).unwrap());
        }
    }
    assert!(found > 5, "{found}");
}

#[test]
fn malformed_grammars_are_named() {
    let bench = Bench::new();
    for (schema, part) in [
        ("", "EOF"),
        ("{\"type\":", "EOF"),
        ("{\"type\":\"thing\"}", "thing"),
        ("{\"$ref\":\"#/nowhere\"}", "nowhere"),
        ("{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "minimum"),
        ("{\"pattern\":\"(\"}", ""),
    ] {
        let complaint = bench.complaint(Grammar::JsonSchema(schema.into()));
        assert!(complaint.starts_with("json_schema: ") && complaint.contains(part), "{schema}: {complaint}");
    }
    for (grammar, part) in [
        ("", "no rule \"root\""),
        ("root = \"a\"", "line 1: ::= is missing after root"),
        ("root ::= \"a\"\nroot ::= \"b\"", "two rules \"root\""),
        ("root ::= other", "no rule \"other\""),
        ("root ::= (\"a\"", "line 1: ) is missing"),
        ("root ::= \"a", "no end"),
        ("root ::= [b-a]", "empty"),
        ("root ::= \"a\"{3,2}", "no count"),
        ("root ::= \"a\"{99999999}", "no count"),
        ("root ::= <think>", "tokens can not be named"),
        ("root ::= \"\\q\"", "no escape"),
        ("root ::= \"\\uD800\"", "hexadecimal"),
        ("\n\nroot ::= ]", "line 3"),
    ] {
        let complaint = bench.complaint(Grammar::Gbnf(grammar.into()));
        assert!(complaint.starts_with("grammar: ") && complaint.contains(part), "{grammar}: {complaint}");
    }
    assert!(bench.complaint(Grammar::Lark("start: nothing".into())).contains("nothing"));
    let ignore =
        Sampling { ignore_eos: true, grammar: Some(Grammar::Gbnf("root ::= \"a\"".into())), ..Sampling::default() };
    assert!(ignore.check().unwrap_err().to_string().starts_with("ignore_eos: "));
}

#[test]
fn schemas_60_000_deep_are_refused() {
    let bench = Bench::new();
    let deep = 60_000;
    let nested = |open: &str, middle: &str, close: &str| open.repeat(deep) + middle + &close.repeat(deep);
    let hostile = [
        Grammar::JsonSchema(nested("[", "", "]")),
        Grammar::JsonSchema(nested("{\"items\":", "{}", "}")),
        Grammar::JsonSchema(nested("{\"anyOf\":[", "{}", "]}")),
        Grammar::Lark(format!("start: {}", nested("(", "\"a\"", ")"))),
        Grammar::Lark(format!("start: /{}/", nested("(", "a", ")"))),
        Grammar::Gbnf(format!("root ::= {}", nested("(", "\"a\"", ")"))),
        Grammar::JsonSchema(" ".repeat(1 << 21)),
        Grammar::JsonSchema(json!({ "type": "string", "pattern": nested("(", "a", ")") }).to_string()),
    ];
    for grammar in hostile {
        let start = std::time::Instant::now();
        let complaint = bench.complaint(grammar);
        assert!(complaint.len() < 400 && start.elapsed().as_secs() < 20, "{complaint}");
    }
}

/// A sampler and a token, or an error; neither takes long.
fn survives(bench: &Bench, grammar: Grammar) {
    let sampling = Sampling { grammar: Some(grammar), ..Sampling::greedy() };
    let start = std::time::Instant::now();
    let made = Sampler::new(&sampling, bench.tokenizer(), &bench.grammars);
    let made_s = start.elapsed().as_secs_f64();
    let drawn = made.and_then(|mut sampler| sampler.next(&vec![0.0; bench.tokenizer().vocab_size()], &[]));
    println!("{made_s:.2} s to read, {:.2} s in all: {drawn:?}", start.elapsed().as_secs_f64());
    assert!(start.elapsed().as_secs() < 60);
}

#[test]
fn patterns_that_ask_for_billions_end() {
    let bench = Bench::new();
    let pattern = |text: &str| Grammar::JsonSchema(json!({ "type": "string", "pattern": text }).to_string());
    survives(&bench, pattern("(a{1,1000}){1,1000}{1,1000}"));
    survives(&bench, pattern("^(a|a)*(a|b|ab)*(.*x){20}$"));
    survives(&bench, Grammar::Gbnf(format!("root ::= {}", "(".repeat(90) + "\"a\"" + &"){0,10000}".repeat(90))));
    survives(&bench, Grammar::Gbnf("root ::= root root | \"a\" | \"\"".into()));
    survives(&bench, Grammar::JsonSchema(json!({ "type": "array", "minItems": 1_u64 << 40 }).to_string()));
}

/// Each rule or definition names the next: long, but not deep.
#[test]
fn chains_of_names_do_not_crash() {
    let bench = Bench::new();
    let count = 5_000;
    let rules: String = (0..count).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect();
    survives(&bench, Grammar::Gbnf(format!("root ::= r0\n{rules}r{count} ::= \"a\"\n")));
    let defs: serde_json::Map<String, Value> =
        (0..count).map(|i| (i.to_string(), json!({ "$ref": format!("#/$defs/{}", (i + 1) % count) }))).collect();
    survives(&bench, Grammar::JsonSchema(json!({ "$defs": defs, "$ref": "#/$defs/0" }).to_string()));
    let lists: String = (0..count).map(|i| format!("r{i}: \"a\" r{}\n", i + 1)).collect();
    survives(&bench, Grammar::Lark(format!("start: r0\n{lists}r{count}: \"a\"\n")));
}
