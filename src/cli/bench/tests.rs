//! One reader for our results and llama-bench's, in every format.

use super::format::{Format, Printer};
use super::lists::Opening;
use super::product::{Case, Setup, test_name};
use super::read::parse;
use super::record::{Kind, OURS, Record, THEIRS};
use serde_json::{Value, json};

/// What the real llama-bench printed: `tests/data/llama-bench/README.md` says how.
const MD: &str = include_str!("../../../tests/data/llama-bench/results.md");
const CSV: &str = include_str!("../../../tests/data/llama-bench/results.csv");
const JSON: &str = include_str!("../../../tests/data/llama-bench/results.json");
const JSONL: &str = include_str!("../../../tests/data/llama-bench/results.jsonl");
const SQL: &str = include_str!("../../../tests/data/llama-bench/results.sql");

const TESTS: [&str; 6] = ["pp16", "tg4", "pp16+tg4", "pp16 @ d8", "tg4 @ d8", "pp16+tg4 @ d8"];

fn names(records: &[Record]) -> Vec<String> {
    let count = |record: &Record, field| record[field].as_u64().unwrap() as usize;
    records.iter().map(|r| test_name(count(r, "n_prompt"), count(r, "n_gen"), count(r, "n_depth"))).collect()
}

/// llama-bench's results with fields of ours, the hard ones of them with what a format has to quote.
fn ours() -> Vec<Record> {
    let mut records = parse(JSON).unwrap();
    for (i, record) in records.iter_mut().enumerate() {
        record.insert("model_filename".into(), json!("a \"b\", it's (c)|d.gguf"));
        for (name, kind) in OURS {
            let value = match kind {
                Kind::Text => json!(format!("{name}-{i}")),
                Kind::Count | Kind::Flag => json!(i),
                Kind::Real => json!(i as f64 + 0.25),
            };
            record.insert(name.into(), value);
        }
    }
    records
}

/// A case whose table has every column that a flag can add.
fn cases() -> Vec<Case> {
    let (n_batch, n_ubatch, kv_type) = (64, 32, cotvalve::tensor::TensorType::F32);
    let setup = Setup { model: "m".into(), valve: Some("v".into()), n_batch, n_ubatch, kv_type, threads: 1 };
    let case = |depth, prompt, generated| {
        let opening = Opening::parse("0/0.5/1").unwrap();
        Case { setup: setup.clone(), opening, batch: 3, depth, prompt, generated }
    };
    vec![case(0, 16, 0), case(8, 16, 4)]
}

fn print(format: Format, records: &[Record], cases: &[Case]) -> String {
    let mut printer = Printer::new(format, cases);
    let results: String = records.iter().map(|record| printer.result(record)).collect();
    printer.header() + &results + &printer.footer()
}

#[test]
fn every_format_of_llama_bench_is_read() {
    for (format, text) in [("md", MD), ("csv", CSV), ("json", JSON), ("jsonl", JSONL), ("sql", SQL)] {
        let records = parse(text).unwrap();
        assert_eq!(names(&records), TESTS, "{format}");
        for record in &records {
            assert!(
                record["avg_ts"].as_f64().unwrap() > 1.0 && record["stddev_ts"].as_f64().unwrap() > 0.0,
                "{format}"
            );
            assert_eq!((&record["n_threads"], &record["backends"]), (&json!(1), &json!("CPU")), "{format}");
            assert_eq!(record["model_type"], "llama 256M Q4_1", "{format}");
            let size = record["model_size"].as_f64().unwrap();
            assert!((size / 96_576_768.0 - 1.0).abs() < 1e-4, "{format}: {size}");
        }
    }
}

#[test]
fn the_fields_are_llama_benchs_in_its_order_and_types() {
    let fields: Vec<&str> = THEIRS.iter().map(|(name, _)| *name).collect();
    assert_eq!(CSV.lines().next().unwrap().split(',').collect::<Vec<_>>(), fields);
    let samples = ["samples_ns", "samples_ts"];
    for record in [parse(JSON).unwrap(), parse(JSONL).unwrap()].concat() {
        assert!(record.keys().eq(fields.iter().chain(&samples)));
        for (name, kind) in THEIRS {
            let value = &record[name];
            let right = match kind {
                Kind::Text => value.is_string(),
                Kind::Flag => value.is_boolean(),
                Kind::Count => value.is_i64(),
                Kind::Real => value.is_f64(),
            };
            assert!(right, "{name}: {value}");
        }
    }
    let types = |sql: &str| sql.lines().filter(|l| l.starts_with("  ")).map(|l| l.replace(',', "")).collect::<Vec<_>>();
    let mine = types(&print(Format::Sql, &[], &cases()));
    assert_eq!(types(SQL), mine[..fields.len()]);
    assert_eq!(mine.len(), fields.len() + OURS.len());
}

#[test]
fn what_is_written_is_read_again() {
    let records = ours();
    for format in [Format::Json, Format::Jsonl] {
        let read = parse(&print(format, &records, &cases())).unwrap();
        assert_eq!(read, records, "{format:?}");
    }
    let mut without_samples = records.clone();
    for record in &mut without_samples {
        record.retain(|name, _| !name.starts_with("samples"));
    }
    for format in [Format::Csv, Format::Sql] {
        assert_eq!(parse(&print(format, &records, &cases())).unwrap(), without_samples, "{format:?}");
    }
}

#[test]
fn a_table_says_the_same_in_fewer_digits() {
    let mut records = ours();
    records.iter_mut().for_each(|record| drop(record.insert("valve".into(), json!("/folder/v.gguf"))));
    let text = print(Format::Md, &records, &cases());
    let read = parse(&text).unwrap();
    assert_eq!(names(&read), TESTS);
    for (read, record) in read.iter().zip(&records) {
        assert_eq!(read.len(), 11 + 1 + 2 + OURS.len(), "{text}");
        for (name, value) in read {
            match value.as_f64() {
                Some(x) => assert!((x - record[name].as_f64().unwrap()).abs() < 0.06 + 1e-4 * x, "{name}: {x}"),
                None if name == "valve" => assert_eq!(value, "v"),
                None => assert_eq!(*value, record[name], "{name}"),
            }
        }
    }
    let widths: Vec<usize> = text.lines().take(8).map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
}

#[test]
fn the_columns_of_a_table_are_llama_benchs_then_ours() {
    let mut plain = cases()[..1].to_vec();
    plain[0].setup =
        Setup { n_batch: 2048, n_ubatch: 512, kv_type: super::DEFAULT_KV, valve: None, ..plain[0].setup.clone() };
    plain[0].batch = 1;
    let titles = |text: &str| text.lines().next().unwrap().split('|').map(|t| t.trim().to_string()).collect::<Vec<_>>();
    let (mine, theirs) = (titles(&print(Format::Md, &[], &plain)), titles(MD));
    assert_eq!(mine[..theirs.len() - 1], theirs[..theirs.len() - 1]);
    assert_eq!(mine[theirs.len() - 1..], ["GB/s", "% peak", "Gop/s", "% int8", "hash", ""]);
}

#[test]
fn what_is_no_result_is_refused() {
    let cut = |text: &str, end: &str| text[..text.rfind(end).unwrap()].to_string();
    let cases = [
        (cut(JSON, "]"), "JSON"),
        (cut(JSONL, "]"), "JSON"),
        (cut(CSV, "\""), "a quote is not closed"),
        (cut(CSV, ","), "40 values for 41 fields"),
        (cut(SQL, ")"), "without an end"),
        (MD.replace("| CPU        |", "|"), "cells under"),
        (MD.replace("tg4", "tgx"), "test: \"tgx\""),
        (MD.replace(" ± ", " "), "t/s: "),
        (CSV.replace("\"16\"", "\"x\""), "n_prompt: \"x\""),
        ("[{\"a\": 1}]".into(), "entry 1 is no result"),
        ("GGUF".into(), ""),
        (String::new(), ""),
    ];
    for (text, words) in cases {
        match parse(&text) {
            Err(error) => assert!(error.contains(words), "{words:?} in {error}"),
            Ok(records) => assert!(words.is_empty() && records.is_empty(), "{words:?}: {text}"),
        }
    }
}

#[test]
fn a_run_without_results_is_whole() {
    assert_eq!(serde_json::from_str::<Value>(&print(Format::Json, &[], &cases())).unwrap(), json!([]));
}
