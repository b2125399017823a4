//! `tojson` as transformers defines it: Python's `json.dumps(value, ensure_ascii=False, indent=…)`.

use super::{guard, python};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use serde_json::Value as Json;

/// Widest indentation.
const INDENT_MAX: usize = 16;
/// Longest separators together, in bytes.
const SEPARATORS_MAX: usize = 16;

/// A JSON value as a template sees it.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            _ => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(key, field)| (key.as_str(), value(field)))),
    }
}

/// The filter `tojson(value, ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(state: &State, value: Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    guard::weigh(state, &value)?;
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    if indent.is_some_and(|indent| indent > INDENT_MAX) {
        return Err(refused(format!("an indentation above {INDENT_MAX}")));
    }
    let separators: Option<Vec<String>> = options.get("separators")?;
    let [comma, colon] = match separators.as_deref() {
        None => [if indent.is_some() { "," } else { ", " }, ": "],
        Some([comma, colon]) if comma.len() + colon.len() <= SEPARATORS_MAX => [comma.as_str(), colon.as_str()],
        Some(_) => return Err(refused("separators are two short strings".into())),
    };
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Writer { state, indent, comma, colon, ascii, sorted, out: String::new() };
    writer.value(&value, 0)?;
    Ok(Value::from(writer.out))
}

/// A float, with JavaScript's names for what JSON does not know.
fn number(x: f64) -> String {
    match x {
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        _ if x.is_nan() => "NaN".into(),
        _ => python::float(x),
    }
}

fn refused(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("cannot serialize to JSON: {what}"))
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    indent: Option<usize>,
    comma: &'a str,
    colon: &'a str,
    /// Whether what is not ASCII is escaped.
    ascii: bool,
    /// Whether the keys of a map are sorted.
    sorted: bool,
    out: String,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let from = self.out.len();
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => self.out += "null",
            ValueKind::Bool => self.out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number if value.is_integer() => self.out += &value.to_string(),
            ValueKind::Number => self.out += &number(f64::try_from(value.clone())?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort_by_key(Value::to_string);
                }
                self.items(['{', '}'], keys, depth, |writer, key| {
                    writer.string(&key.to_string())?;
                    writer.out += writer.colon;
                    writer.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            ValueKind::Seq => {
                self.items(['[', ']'], value.try_iter()?, depth, |writer, item| writer.value(item, depth + 1))?;
            }
            // As in Python, what a filter leaves is a generator until `list` makes a list of it.
            ValueKind::Iterable => return Err(refused("an iterator".into())),
            kind => return Err(refused(format!("a value of kind {kind}"))),
        }
        self.state.consume_fuel(1 + (self.out.len() - from) as u64 / 64)
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        // Python escapes what JSON demands, and DEL it leaves alone: as serde_json does.
        let quoted = serde_json::to_string(text).map_err(|error| refused(error.to_string()))?;
        if !self.ascii || quoted.is_ascii() {
            self.out += &quoted;
            return Ok(());
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                self.out += &format!("\\u{unit:04x}");
            }
        }
        Ok(())
    }

    fn items(
        &mut self,
        [open, close]: [char; 2],
        items: impl IntoIterator<Item = Value>,
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                self.out += self.comma;
            }
            empty = false;
            self.new_line(depth + 1);
            write(self, &item)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}
