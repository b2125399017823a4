//! Results as llama-bench writes them, in each of its formats.

use super::product::{Case, test_name};
use super::record::{Kind, NO_VALVE, OURS, Record, THEIRS, kind};
use serde_json::Value;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Md,
    Csv,
    Json,
    Jsonl,
    Sql,
    None,
}

/// A column of the table: the field it shows, its title, and its least width; text is to the left.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Column {
    field: &'static str,
    title: &'static str,
    width: usize,
    left: bool,
}

const fn right(field: &'static str, title: &'static str, width: usize) -> Column {
    Column { field, title, width, left: false }
}

const fn left(field: &'static str, title: &'static str, width: usize) -> Column {
    Column { field, title, width, left: true }
}

/// Every column there can be, in order; llama-bench's have its titles.
const COLUMNS: [Column; 20] = [
    left("model_type", "model", 16),
    right("model_size", "size", 10),
    right("model_n_params", "params", 8),
    left("backends", "backend", 7),
    right("n_threads", "threads", 7),
    right("n_batch", "n_batch", 7),
    right("n_ubatch", "n_ubatch", 8),
    right("type_k", "type_k", 6),
    right("type_v", "type_v", 6),
    right("test", "test", 5),
    right("avg_ts", "t/s", 16),
    left("valve", "valve", 5),
    right("rank", "rank", 4),
    right("alpha", "alpha", 5),
    right("batch", "batch", 5),
    right("gb_per_s", "GB/s", 6),
    right("pct_of_peak", "% peak", 6),
    right("gops", "Gop/s", 6),
    right("pct_of_int8_peak", "% int8", 6),
    left("hash", "hash", 12),
];

/// The field that the column `title` of a table shows, if it shows one as it is.
pub fn field_of(title: &str) -> Option<&'static str> {
    COLUMNS.iter().find(|column| column.title == title).map(|column| column.field)
}

/// Writes results in one format: a header, each result when it is there, and a footer.
pub struct Printer {
    format: Format,
    columns: Vec<Column>,
    /// Whether no result has been written.
    first: bool,
}

impl Printer {
    /// For the results of `cases`, which say what columns a table needs: as in llama-bench those that are shown
    /// always, and those of a flag that was used.
    pub fn new(format: Format, cases: &[Case]) -> Self {
        let any = |test: &dyn Fn(&Case) -> bool| cases.iter().any(test);
        let valves = any(&|case| case.setup.valve.is_some());
        let mut columns = COLUMNS.to_vec();
        columns.retain(|column| match column.field {
            "n_batch" => any(&|case| case.setup.n_batch != super::DEFAULT_BATCH),
            "n_ubatch" => any(&|case| case.setup.n_ubatch != super::DEFAULT_UBATCH),
            "type_k" | "type_v" => any(&|case| case.setup.kv_type != super::DEFAULT_KV),
            "valve" | "rank" | "alpha" => valves,
            "batch" => any(&|case| case.batch != 1),
            _ => true,
        });
        for column in &mut columns {
            let longest = |text: &dyn Fn(&Case) -> String| cases.iter().map(|c| text(c).chars().count()).max();
            let needed = match column.field {
                "test" => longest(&Case::name),
                "alpha" => longest(&|case| case.opening.to_string()),
                "valve" => longest(&|case| case.setup.valve.as_deref().map_or(NO_VALVE.into(), stem)),
                _ => None,
            };
            column.width = column.width.max(needed.unwrap_or(0));
        }
        Self { format, columns, first: true }
    }

    pub fn header(&self) -> String {
        let fields = || THEIRS.iter().chain(&OURS);
        match self.format {
            Format::Md => {
                let titles = self.row(|column| column.title.into());
                let line = self.row(|column| {
                    let dashes = "-".repeat(column.width - 1);
                    format!("{dashes}{}", if column.left { '-' } else { ':' })
                });
                titles + &line
            }
            Format::Csv => fields().map(|(name, _)| *name).collect::<Vec<_>>().join(",") + "\n",
            Format::Json => "[\n".into(),
            Format::Sql => {
                let columns: Vec<String> =
                    fields().map(|(name, kind)| format!("  {name} {}", sql_type(*kind))).collect();
                format!("CREATE TABLE IF NOT EXISTS llama_bench (\n{}\n);\n\n", columns.join(",\n"))
            }
            Format::Jsonl | Format::None => String::new(),
        }
    }

    pub fn result(&mut self, record: &Record) -> String {
        let first = std::mem::replace(&mut self.first, false);
        let fields = || THEIRS.iter().chain(&OURS);
        match self.format {
            Format::Md => self.row(|column| cell(column.field, record)),
            Format::Csv => {
                let quoted = fields().map(|(name, _)| format!("\"{}\"", plain(record, name).replace('"', "\"\"")));
                quoted.collect::<Vec<_>>().join(",") + "\n"
            }
            Format::Json => {
                let lines: Vec<String> = json_fields(record).map(|field| format!("    {field}")).collect();
                format!("{}  {{\n{}\n  }}", if first { "" } else { ",\n" }, lines.join(",\n"))
            }
            Format::Jsonl => format!("{{{}}}\n", json_fields(record).collect::<Vec<_>>().join(", ")),
            Format::Sql => {
                let names: Vec<&str> = fields().map(|(name, _)| *name).collect();
                let quoted = names.iter().map(|name| format!("'{}'", plain(record, name).replace('\'', "''")));
                let values = quoted.collect::<Vec<_>>().join(", ");
                format!("INSERT INTO llama_bench ({}) VALUES ({values});\n", names.join(", "))
            }
            Format::None => String::new(),
        }
    }

    pub fn footer(&self) -> String {
        match self.format {
            Format::Json if self.first => "]\n".into(),
            Format::Json => "\n]\n".into(),
            Format::Md => concat!("\nbuild: cotvalve ", env!("CARGO_PKG_VERSION"), "\n").into(),
            _ => String::new(),
        }
    }

    fn row(&self, text: impl Fn(&Column) -> String) -> String {
        let cell = |column: &Column| {
            let (text, width) = (text(column), column.width);
            if column.left { format!(" {text:<width$} |") } else { format!(" {text:>width$} |") }
        };
        format!("|{}\n", self.columns.iter().map(cell).collect::<String>())
    }
}

fn sql_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::Flag | Kind::Count => "INTEGER",
        Kind::Real => "REAL",
    }
}

/// `"name": value` of every field.
fn json_fields(record: &Record) -> impl Iterator<Item = String> {
    record.iter().map(|(name, value)| {
        let value = match value {
            Value::Array(items) => format!("[ {} ]", items.iter().map(json_value).collect::<Vec<_>>().join(", ")),
            value => json_value(value),
        };
        format!("\"{name}\": {value}")
    })
}

fn json_value(value: &Value) -> String {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(real) => format!("{real:.6}"),
        None => value.to_string(),
    }
}

/// A field as CSV and SQL have it: flags as 0 and 1, as in llama-bench.
fn plain(record: &Record, name: &str) -> String {
    match record.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => u8::from(*flag).to_string(),
        Some(value) => json_value(value),
    }
}

/// A field as the table has it.
fn cell(field: &str, record: &Record) -> String {
    let number = |name: &str| record.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let scaled = |value: f64, units: [(f64, &str); 2]| {
        let (unit, name) = if value < units[1].0 { units[0] } else { units[1] };
        format!("{:.2} {name}", value / unit)
    };
    match field {
        "model_size" => scaled(number(field), [(1048576.0, "MiB"), (1073741824.0, "GiB")]),
        "model_n_params" => scaled(number(field), [(1e6, "M"), (1e9, "B")]),
        "test" => {
            let count = |name| number(name) as usize;
            test_name(count("n_prompt"), count("n_gen"), count("n_depth"))
        }
        "avg_ts" => format!("{:.2} ± {:.2}", number(field), number("stddev_ts")),
        "valve" => match plain(record, field) {
            none if none == NO_VALVE => none,
            path => stem(Path::new(&path)),
        },
        _ if kind(field) == Some(Kind::Real) => format!("{:.1}", number(field)),
        _ => plain(record, field),
    }
}

/// A file's name, without folders and extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
