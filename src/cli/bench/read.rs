//! Reads results, ours and llama-bench's, in every format that [`super::format`] writes.

use super::format::field_of;
use super::record::{Kind, Record, kind};
use cotvalve::error::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// The results in a file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] if it is in none of the formats, or holds no results.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
    let malformed = |what| Error::Malformed { path: path.into(), what };
    let records = parse(&text).map_err(malformed)?;
    if records.is_empty() {
        return Err(malformed("it holds no results".into()));
    }
    Ok(records)
}

/// The results in `text`, with the fields that the format keeps; a table keeps sizes and speeds rounded.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(text: &str) -> std::result::Result<Vec<Record>, String> {
    let text = text.trim_start();
    let json = |e: serde_json::Error| format!("JSON: {e}");
    let records = if text.starts_with('[') {
        serde_json::from_str(text).map_err(json)?
    } else if text.starts_with('{') {
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(serde_json::from_str)
            .collect::<serde_json::Result<_>>()
            .map_err(json)?
    } else if text.starts_with('|') {
        table(text)?
    } else if text.starts_with("CREATE TABLE") || text.starts_with("INSERT INTO") {
        sql(text)?
    } else {
        csv(text)?
    };
    if let Some(i) = records.iter().position(|record: &Record| !is_result(record)) {
        return Err(format!("entry {} is no result of a benchmark", i + 1));
    }
    Ok(records)
}

/// What tells a test and its speed.
fn is_result(record: &Record) -> bool {
    ["n_prompt", "n_gen", "avg_ts"].iter().all(|name| record.get(*name).is_some_and(Value::is_number))
}

/// A field from its text.
fn value(name: &str, text: &str) -> std::result::Result<Value, String> {
    let wrong = || format!("{name}: {text:?}");
    match kind(name) {
        Some(Kind::Count) => text.parse::<i64>().map(|n| json!(n)).map_err(|_| wrong()),
        Some(Kind::Real) => text.parse::<f64>().map(|x| json!(x)).map_err(|_| wrong()),
        Some(Kind::Flag) if text == "0" || text == "1" => Ok(json!(text == "1")),
        Some(Kind::Flag) => Err(wrong()),
        Some(Kind::Text) | None => Ok(json!(text)),
    }
}

/// A record of fields and their texts.
fn record(names: &[String], texts: &[String]) -> std::result::Result<Record, String> {
    if names.len() != texts.len() {
        return Err(format!("{} values for {} fields", texts.len(), names.len()));
    }
    names.iter().zip(texts).map(|(name, text)| Ok((name.clone(), value(name, text)?))).collect()
}

fn csv(text: &str) -> std::result::Result<Vec<Record>, String> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).map(|line| split(line, '"'));
    let names = lines.next().unwrap_or_else(|| Ok(Vec::new()))?;
    lines.map(|line| record(&names, &line?)).collect()
}

fn sql(text: &str) -> std::result::Result<Vec<Record>, String> {
    let inserts = text.lines().filter(|line| line.starts_with("INSERT INTO"));
    let insert = |line: &str| {
        let (_, rest) = line.split_once('(').ok_or("an INSERT without columns")?;
        let (names, rest) = rest.split_once(')').ok_or("an INSERT without columns")?;
        let (_, values) = rest.split_once('(').ok_or("an INSERT without values")?;
        let values = values.trim_end().trim_end_matches(';').strip_suffix(')').ok_or("an INSERT without an end")?;
        record(&split(names, '\'')?, &split(values, '\'')?)
    };
    inserts.map(insert).collect()
}

/// The items of a comma list; in quotes a comma is text, and a doubled quote is one.
fn split(line: &str, quote: char) -> std::result::Result<Vec<String>, String> {
    let (mut items, mut item, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == quote && quoted && chars.next_if_eq(&quote).is_some() {
            item.push(quote);
        } else if c == quote {
            quoted = !quoted;
        } else if c == ',' && !quoted {
            items.push(std::mem::take(&mut item));
        } else if quoted || !c.is_whitespace() {
            item.push(c);
        }
    }
    items.push(item);
    if quoted { Err(format!("a quote is not closed: {line}")) } else { Ok(items) }
}

fn table(text: &str) -> std::result::Result<Vec<Record>, String> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().to_string()).collect()
    };
    // Other lines stand after the table.
    let mut rows = text.lines().filter(|line| line.starts_with('|')).map(cells);
    let titles = rows.next().unwrap_or_default();
    let rule = rows.next().unwrap_or_default();
    if rule.iter().any(|cell| !cell.trim_matches(['-', ':']).is_empty()) {
        return Err("the second line of the table is no rule".into());
    }
    rows.map(|row| {
        if row.len() != titles.len() {
            return Err(format!("{} cells under {} titles", row.len(), titles.len()));
        }
        let mut record = Record::new();
        for (title, text) in titles.iter().zip(&row) {
            shown(&mut record, title, text).ok_or_else(|| format!("{title}: {text:?}"))?;
        }
        Ok(record)
    })
    .collect()
}

/// Adds what a cell of a table says.
fn shown(record: &mut Record, title: &str, text: &str) -> Option<()> {
    let mut put = |name: &str, value: Value| drop(record.insert(name.into(), value));
    let scaled = |text: &str| {
        let (number, unit) = text.split_once(' ')?;
        let unit = match unit {
            "MiB" => 1048576.0,
            "GiB" => 1073741824.0,
            "M" => 1e6,
            "B" => 1e9,
            _ => return None,
        };
        Some((number.parse::<f64>().ok()? * unit).round() as u64)
    };
    match field_of(title) {
        Some("avg_ts") => {
            let (mean, deviation) = text.split_once(" ± ")?;
            put("avg_ts", json!(mean.parse::<f64>().ok()?));
            put("stddev_ts", json!(deviation.parse::<f64>().ok()?));
        }
        Some("test") => {
            let (prompt, generated, depth) = test(text)?;
            put("n_prompt", json!(prompt));
            put("n_gen", json!(generated));
            put("n_depth", json!(depth));
        }
        Some(name @ ("model_size" | "model_n_params")) => put(name, json!(scaled(text)?)),
        Some(name) => put(name, value(name, text).ok()?),
        None => put(title, json!(text)),
    }
    Some(())
}

/// Prompt, generated tokens and depth of a test's name.
fn test(name: &str) -> Option<(usize, usize, usize)> {
    let (name, depth) = match name.split_once(" @ d") {
        Some((name, depth)) => (name, depth.parse().ok()?),
        None => (name, 0),
    };
    let count = |text: &str, kind: &str| text.strip_prefix(kind)?.parse::<usize>().ok();
    match name.split_once('+') {
        Some((prompt, generated)) => Some((count(prompt, "pp")?, count(generated, "tg")?, depth)),
        None => count(name, "pp").map(|n| (n, 0, depth)).or_else(|| count(name, "tg").map(|n| (0, n, depth))),
    }
}
