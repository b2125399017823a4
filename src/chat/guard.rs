//! What minijinja's fuel does not see: values that are small in memory and large on paper.
//!
//! A list that holds one list twice, which holds another twice, and so on, has few parts and takes exponential time
//! and memory to write out. Such values are weighed, each part as often as it would be written, before a filter or
//! method writes them. What remains: an operator (`~`, `==`, `in`) on such a value is out of reach here.

use super::python;
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// Most parts of a value that is written out.
const PARTS_MAX: usize = 100_000;
/// Filters of no use in a chat template, which would have to be guarded.
const REMOVED: [&str; 9] = ["batch", "chain", "format", "groupby", "pprint", "slice", "unique", "urlencode", "zip"];

/// Guards the operations that write values out.
pub(super) fn install(environment: &mut Environment<'static>) {
    for filter in REMOVED {
        environment.remove_filter(filter);
    }
    environment.set_formatter(|out, state, value| {
        weigh(state, value)?;
        Ok(out.write_str(&python::text(value))?)
    });
    environment.add_filter("string", |state: &State, value: Value| -> Result<Value, Error> {
        weigh(state, &value)?;
        Ok(if value.kind() == ValueKind::String { value } else { Value::from(python::text(&value)) })
    });
    environment.add_filter("join", join);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.set_unknown_method_callback(|state, value, method, args| {
        for value in args.iter().chain([value]) {
            weigh(state, value)?;
        }
        if method == "format" && value.as_str().is_some_and(has_large_number) {
            return Err(too_large());
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
    });
}

/// An error if `value` has more parts than may be written; pays for each.
pub(super) fn weigh(state: &State, value: &Value) -> Result<(), Error> {
    if !is_container(value) {
        return Ok(());
    }
    let mut parts = 0;
    let mut open = vec![value.clone()];
    while let Some(value) = open.pop() {
        for part in value.try_iter()? {
            parts += 1;
            if parts > PARTS_MAX {
                return Err(too_large());
            }
            if value.kind() == ValueKind::Map {
                open.extend(value.get_item(&part).ok().filter(is_container));
            }
            open.extend(Some(part).filter(is_container));
        }
    }
    state.consume_fuel(parts as u64)
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

fn too_large() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value is too large to be written")
}

/// Whether `format` was given a width of five digits or more.
fn has_large_number(text: &str) -> bool {
    text.as_bytes().windows(5).any(|digits| digits.iter().all(u8::is_ascii_digit))
}

/// Jinja's `join(sequence, separator, attribute)`.
fn join(state: &State, items: Value, options: Rest<Value>) -> Result<String, Error> {
    weigh(state, &items)?;
    let separator = options.first().map_or(String::new(), Value::to_string);
    let mut text = String::new();
    for (number, item) in items.try_iter()?.enumerate() {
        let item = match options.get(1) {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        let from = text.len();
        if number > 0 {
            text += &separator;
        }
        text += &python::text(&item);
        state.consume_fuel(1 + (text.len() - from) as u64 / 64)?;
    }
    Ok(text)
}
