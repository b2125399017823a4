//! `--compare A B`: what moved between two results, per test.

use super::product::test_name;
use super::read::read;
use super::record::{NO_VALVE, Record};
use cotvalve::error::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;

/// A change counts if it is so many standard errors of the difference of the means: by chance one test in some
/// fifty, with five repetitions.
const NOISE: f64 = 3.0;

/// What a test is known by, in order: title, field, and what a result without the field means by that.
const SETTINGS: [(&str, &str, &str); 8] = [
    ("threads", "n_threads", ""),
    ("n_batch", "n_batch", "2048"),
    ("n_ubatch", "n_ubatch", "512"),
    ("type_k", "type_k", "f16"),
    ("type_v", "type_v", "f16"),
    ("valve", "valve", NO_VALVE),
    ("alpha", "alpha", "0"),
    ("batch", "batch", "1"),
];

/// A test's speed.
#[derive(Clone, Debug)]
struct Test {
    /// Test, model, then [`SETTINGS`].
    key: Vec<String>,
    /// Tokens a second: mean, standard deviation, and the number of repetitions, where it is known.
    mean: f64,
    deviation: f64,
    repetitions: Option<usize>,
    hash: Option<String>,
}

/// The comparison, in words, and what of it a limit is put on.
pub struct Comparison {
    pub text: String,
    /// Tests of the first that the second does not have.
    missing: usize,
    /// B's mean over A's of the tests that both have.
    ratios: Vec<f64>,
}

impl Comparison {
    /// Compares the results in two files.
    ///
    /// # Errors
    /// Those of [`read`].
    pub fn of(a: &Path, b: &Path) -> Result<Self> {
        Ok(compare(&read(a)?, &read(b)?))
    }

    /// # Errors
    /// [`Error::Argument`] if a test is missing or its ratio is below `least`.
    pub fn check(&self, least: f64) -> Result<()> {
        let below = self.ratios.iter().filter(|ratio| **ratio < least).count();
        if below + self.missing == 0 {
            return Ok(());
        }
        let reason = format!("{below} of {} tests are below {least}, {} are missing", self.ratios.len(), self.missing);
        Err(Error::Argument { name: "fail-below", reason })
    }
}

fn text(record: &Record, field: &str) -> Option<String> {
    match record.get(field)? {
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

/// The last part of a path, whichever system wrote it.
fn file_name(path: &str) -> String {
    path.rsplit(['/', '\\']).next().unwrap_or(path).into()
}

/// The tests of a file. `by_file`: models are known by their files, else by their types. A test that is there
/// several times is told by its place.
fn tests(records: &[Record], by_file: bool) -> Vec<Test> {
    let (mut tests, mut seen) = (Vec::new(), HashMap::new());
    for record in records {
        let number = |field: &str| record.get(field).and_then(Value::as_f64).unwrap_or(0.0);
        let count = |field: &str| number(field) as usize;
        let model = text(record, if by_file { "model_filename" } else { "model_type" }).unwrap_or_default();
        let mut key = vec![test_name(count("n_prompt"), count("n_gen"), count("n_depth")), file_name(&model)];
        key.extend(SETTINGS.map(|(_, field, default)| {
            let value = text(record, field).unwrap_or(default.into());
            if field == "valve" { file_name(&value).trim_end_matches(".gguf").into() } else { value }
        }));
        let times = seen.entry(key.clone()).or_insert(0_usize);
        *times += 1;
        if *times > 1 {
            let _ = write!(key[0], " ({times})");
        }
        let samples = record.get("samples_ns").and_then(Value::as_array).map(Vec::len);
        let hash = text(record, "hash").filter(|hash| !hash.is_empty());
        let (mean, deviation) = (number("avg_ts"), number("stddev_ts"));
        tests.push(Test { key, mean, deviation, repetitions: samples, hash });
    }
    tests
}

/// Whether the means differ by more than chance, `None` where the spread is not known.
fn moved(a: &Test, b: &Test) -> Option<bool> {
    let variance = |test: &Test| {
        let known = test.repetitions.map_or(test.deviation > 0.0, |n| n > 1);
        known.then(|| test.deviation.powi(2) / test.repetitions.unwrap_or(1) as f64)
    };
    Some((b.mean - a.mean).abs() > NOISE * (variance(a)? + variance(b)?).sqrt())
}

fn compare(a: &[Record], b: &[Record]) -> Comparison {
    let by_file = a.iter().chain(b).all(|record| record.contains_key("model_filename"));
    let (in_a, in_b) = (tests(a, by_file), tests(b, by_file));
    // What is the same everywhere need not be said of each.
    let varies = |i: usize| in_a.iter().chain(&in_b).map(|test| &test.key[i]).collect::<BTreeSet<_>>().len() > 1;
    let shown: Vec<usize> = (0..SETTINGS.len() + 2).filter(|i| *i == 0 || varies(*i)).collect();
    let pairs: Vec<(&Test, &Test)> =
        in_a.iter().filter_map(|a| Some((a, in_b.iter().find(|b| b.key == a.key)?))).collect();
    let mut rows = vec![shown.iter().map(|i| title(*i).to_string()).collect::<Vec<_>>()];
    rows[0].extend(["A t/s", "B t/s", "B/A", "moved", "hash"].map(String::from));
    for (a, b) in &pairs {
        let mut row: Vec<String> = shown.iter().map(|i| a.key[*i].clone()).collect();
        row.extend([a, b].map(|test| format!("{:.2} ± {:.2}", test.mean, test.deviation)));
        row.push(format!("{:.3}", b.mean / a.mean));
        row.push(
            match moved(a, b) {
                Some(true) if b.mean > a.mean => "faster",
                Some(true) => "slower",
                Some(false) => "-",
                None => "?",
            }
            .into(),
        );
        row.push(
            match (&a.hash, &b.hash) {
                (Some(a), Some(b)) if a == b => "same",
                (Some(_), Some(_)) => "DIFFERS",
                _ => "-",
            }
            .into(),
        );
        rows.push(row);
    }
    let mut text = table(&rows);
    let absent = |from: &[Test], other: &[Test]| -> Vec<String> {
        let lacks = from.iter().filter(|test| other.iter().all(|other| other.key != test.key));
        lacks.map(|test| shown.iter().map(|i| test.key[*i].as_str()).collect::<Vec<_>>().join(", ")).collect()
    };
    let (missing, extra) = (absent(&in_a, &in_b), absent(&in_b, &in_a));
    missing.iter().for_each(|test| text += &format!("only in A: {test}\n"));
    extra.iter().for_each(|test| text += &format!("only in B: {test}\n"));
    text += &differences(a, b);
    Comparison { text, missing: missing.len(), ratios: pairs.iter().map(|(a, b)| b.mean / a.mean).collect() }
}

fn title(i: usize) -> &'static str {
    match i {
        0 => "test",
        1 => "model",
        i => SETTINGS[i - 2].0,
    }
}

/// Machines and builds, where they are not the same.
fn differences(a: &[Record], b: &[Record]) -> String {
    let mut said = String::new();
    for (what, field) in [("machines", "cpu_info"), ("builds", "build_commit")] {
        let all = |records: &[Record]| {
            let texts: BTreeSet<String> = records.iter().filter_map(|record| text(record, field)).collect();
            texts.into_iter().collect::<Vec<_>>().join(", ")
        };
        let (a, b) = (all(a), all(b));
        if a != b {
            let _ = writeln!(said, "different {what}: A {a:?}, B {b:?}");
        }
    }
    said
}

/// Rows of cells, the first of them titles; the first column to the left.
fn table(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!(" {cell:<width$} |"),
            _ => format!(" {cell:>width$} |"),
        });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = |(i, width): (usize, &usize)| format!(" {}{} |", "-".repeat(width - 1), if i == 0 { '-' } else { ':' });
    let rule = format!("|{}\n", widths.iter().enumerate().map(rule).collect::<String>());
    let lines: Vec<String> = rows.iter().map(line).collect();
    lines[0].clone() + &rule + &lines[1..].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(test: (usize, usize), speeds: &[f64], more: &[(&str, Value)]) -> Record {
        let (mean, deviation) = super::super::record::mean_and_deviation(speeds);
        let fields = [
            ("model_filename", json!("/a/m.gguf")),
            ("cpu_info", json!("one")),
            ("n_prompt", json!(test.0)),
            ("n_gen", json!(test.1)),
            ("avg_ts", json!(mean)),
            ("stddev_ts", json!(deviation)),
            ("samples_ns", json!(speeds)),
        ];
        fields.iter().chain(more).map(|(name, value)| (name.to_string(), value.clone())).collect()
    }

    #[test]
    fn what_moved_beyond_the_noise_is_marked() {
        let a = [
            record((512, 0), &[100.0, 102.0, 98.0], &[]),
            record((0, 128), &[50.0, 50.1, 49.9], &[("hash", json!("aa"))]),
            record((0, 64), &[50.0], &[]),
            record((0, 32), &[50.0, 51.0], &[]),
        ];
        let b = [
            record((0, 128), &[40.0, 40.1, 39.9], &[("hash", json!("bb")), ("cpu_info", json!("two"))]),
            record((512, 0), &[101.0, 103.0, 99.0], &[]),
            record((0, 64), &[60.0], &[]),
            record((0, 16), &[60.0], &[]),
        ];
        let comparison = compare(&a, &b);
        let lines = comparison.text.lines();
        let row = |test: &str| lines.clone().find(|line| line.starts_with(&format!("| {test} "))).unwrap();
        assert!(row("pp512").contains("1.010") && !row("pp512").contains("faster"), "within the noise");
        assert!(row("tg128").contains("0.800") && row("tg128").contains("slower") && row("tg128").contains("DIFFERS"));
        assert!(row("tg64").contains("1.200") && row("tg64").contains('?'), "one sample has no spread");
        assert!(comparison.text.contains("only in A: tg32\n") && comparison.text.contains("only in B: tg16\n"));
        assert!(comparison.text.contains("different machines: A \"one\", B \"one, two\""));
        assert_eq!(comparison.missing, 1);
        let refusal = comparison.check(0.9).unwrap_err().to_string();
        assert_eq!(refusal, "fail-below: 1 of 3 tests are below 0.9, 1 are missing");
        assert!(compare(&a, &a).check(1.0).is_ok());
    }

    #[test]
    fn tests_are_told_apart_by_their_settings() {
        let set = |threads: u32, alpha: &str| [("n_threads", json!(threads)), ("alpha", json!(alpha))];
        let with = |speed: f64, threads, alpha| record((8, 0), &[speed, speed], &set(threads, alpha));
        let a = [with(1.0, 1, "0"), with(2.0, 2, "0"), with(4.0, 2, "1"), with(8.0, 2, "1")];
        let b = [a[1].clone(), a[0].clone(), a[2].clone(), a[3].clone()];
        let comparison = compare(&a, &b);
        assert_eq!((comparison.missing, &comparison.ratios[..]), (0, &[1.0; 4][..]), "{}", comparison.text);
        assert!(comparison.text.starts_with("| test    | threads | alpha | "), "{}", comparison.text);
        // What llama-bench does not write is what it has no choice of.
        let plain = [record((8, 0), &[1.0, 1.0], &[("n_threads", json!(1))])];
        assert_eq!(compare(&plain, &a[..1]).ratios, [1.0]);
    }
}
