//! `tojson` as transformers defines it: Python's `json.dumps(value, ensure_ascii=False, indent=…)`.

use super::guard;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Widest indentation.
const INDENT_MAX: usize = 16;

/// The filter `tojson(value, indent=…)`.
pub(super) fn tojson(state: &State, value: Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    guard::weigh(state, &value)?;
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    // Accepted for what it says here already.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > INDENT_MAX) {
        return Err(refused(format!("an indentation above {INDENT_MAX}")));
    }
    let mut writer = Writer { state, indent, out: String::new() };
    writer.value(&value, 0)?;
    Ok(Value::from(writer.out))
}

fn refused(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("cannot serialize to JSON: {what}"))
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    indent: Option<usize>,
    out: String,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let from = self.out.len();
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => self.out += "null",
            ValueKind::Bool | ValueKind::Number => self.out += &value.to_string().to_lowercase(),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Map => self.items('{', '}', value, depth, |writer, key| {
                writer.string(&key.to_string())?;
                writer.out += ": ";
                writer.value(&value.get_item(key)?, depth + 1)
            })?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.items('[', ']', value, depth, |writer, item| writer.value(item, depth + 1))?;
            }
            kind => return Err(refused(format!("a value of kind {kind}"))),
        }
        self.state.consume_fuel(1 + (self.out.len() - from) as u64 / 64)
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        // Python escapes what JSON demands, and DEL it leaves alone: as serde_json does.
        self.out += &serde_json::to_string(text).map_err(|error| refused(error.to_string()))?;
        Ok(())
    }

    fn items(
        &mut self,
        open: char,
        close: char,
        value: &Value,
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut empty = true;
        for item in value.try_iter()? {
            if !empty {
                self.out += if self.indent.is_some() { "," } else { ", " };
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
