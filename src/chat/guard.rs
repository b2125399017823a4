//! What minijinja's fuel does not see: values that are small in memory and large on paper.
//!
//! A list that holds one list twice, which holds another twice, and so on, has few parts and takes exponential time
//! and memory to write out or compare. So every operator, filter, test and method that looks into a value has it
//! weighed first, each part as often as it would be met, and paid for.

use super::python;
use minijinja::value::{Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, tests};

/// Most parts of a value that is looked into, and how deep they may lie in each other.
const PARTS_MAX: usize = 100_000;
const DEPTH_MAX: usize = 256;
/// Bytes of text for a unit of fuel, as minijinja has it.
const BYTES_A_FUEL: usize = 64;
/// Items of a list for a unit of fuel, where lists are copied.
const ITEMS_A_FUEL: usize = 8;
/// Filters of no use in a chat template, which would have to be guarded.
const REMOVED: [&str; 9] = ["batch", "chain", "format", "groupby", "pprint", "slice", "unique", "urlencode", "zip"];
/// Filters that look into values, and the names of the same with all values weighed first.
const GUARDED: [(&str, &str); 25] = [
    ("abs", "abs!"),
    ("capitalize", "capitalize!"),
    ("dictsort", "dictsort!"),
    ("e", "e!"),
    ("escape", "escape!"),
    ("float", "float!"),
    ("indent", "indent!"),
    ("int", "int!"),
    ("lines", "lines!"),
    ("lower", "lower!"),
    ("map", "map!"),
    ("max", "max!"),
    ("min", "min!"),
    ("reject", "reject!"),
    ("rejectattr", "rejectattr!"),
    ("replace", "replace!"),
    ("round", "round!"),
    ("select", "select!"),
    ("selectattr", "selectattr!"),
    ("sort", "sort!"),
    ("split", "split!"),
    ("sum", "sum!"),
    ("title", "title!"),
    ("trim", "trim!"),
    ("upper", "upper!"),
];

/// The functions that stand for `a + b` and `a ~ b`: of their texts minijinja charges what they return, and no more.
pub(super) const ADD: &str = "+";
pub(super) const CONCAT: &str = "~";
/// The filters that stand for `a[b]`, `{a: b}` and what `for` goes over. No template can name any of these.
pub(super) const ITEM: &str = "[]";
pub(super) const MAP: &str = "{}";
pub(super) const LOOP: &str = "for";

/// The guarded filter to call in place of one.
pub(super) fn guarded(filter: &str) -> Option<&'static str> {
    GUARDED.iter().find(|(name, _)| *name == filter).map(|(_, guarded)| *guarded)
}

/// Guards what looks into values.
pub(super) fn install(environment: &mut Environment<'static>) {
    for filter in REMOVED {
        environment.remove_filter(filter);
    }
    environment.remove_global("debug");
    environment.set_formatter(|out, state, value| {
        weigh(state, value)?;
        Ok(out.write_str(&python::text(value))?)
    });
    environment.add_filter("string", |state: &State, value: Value| -> Result<Value, Error> {
        weigh(state, &value)?;
        Ok(if value.kind() == ValueKind::String { value } else { Value::from(python::text(&value)) })
    });
    environment.add_filter("join", join);
    environment.add_function(ADD, add);
    environment.add_function(CONCAT, concat);
    environment.add_filter(ITEM, item);
    environment.add_filter(MAP, map);
    environment
        .add_filter(LOOP, |value: Value| if value.is_none() { Err(unsupported("none is no list")) } else { Ok(value) });
    for (name, guarded) in GUARDED {
        environment.add_filter(guarded, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args: Vec<Value> = args.0.into_iter().map(Value::from).collect();
            args.iter().try_for_each(|value| weigh(state, value))?;
            state.apply_filter(name, &args)
        });
    }
    install_tests(environment);
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

fn install_tests(environment: &mut Environment<'static>) {
    type Test = fn(&Value, &Value) -> bool;
    let compared: [(&[&str], Test); 6] = [
        (&["==", "eq", "equalto", "sameas"], tests::is_eq),
        (&["!=", "ne"], tests::is_ne),
        (&["<", "lt", "lessthan"], tests::is_lt),
        (&["<=", "le"], tests::is_le),
        (&[">", "gt", "greaterthan"], tests::is_gt),
        (&[">=", "ge"], tests::is_ge),
    ];
    for (names, test) in compared {
        for name in names {
            environment.add_test(*name, move |state: &State, a: &Value, b: &Value| -> Result<bool, Error> {
                // A comparison ends with the shorter of the two, so what is no container costs nothing.
                if is_container(a) && is_container(b) {
                    weigh(state, a)?;
                    weigh(state, b)?;
                }
                Ok(test(a, b))
            });
        }
    }
    environment.add_test("in", is_in);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    for (name, test) in [("startingwith", true), ("endingwith", false)] {
        environment.add_test(name, move |text: &Value, other: &Value| match (text.as_str(), other.as_str()) {
            (Some(text), Some(other)) => {
                if test {
                    text.starts_with(other)
                } else {
                    text.ends_with(other)
                }
            }
            _ => false,
        });
    }
}

/// An error if `value` has more parts than may be looked into; pays for each, and for the bytes of its texts.
pub(super) fn weigh(state: &State, value: &Value) -> Result<(), Error> {
    if !is_container(value) {
        return Ok(());
    }
    let mut parts = 0;
    let mut open = vec![(value.clone(), 0)];
    while let Some((value, depth)) = open.pop() {
        if depth > DEPTH_MAX {
            return Err(too_large());
        }
        for part in value.try_iter()? {
            parts += 1;
            if parts > PARTS_MAX {
                return Err(too_large());
            }
            let field = if value.kind() == ValueKind::Map { value.get_item(&part).ok() } else { None };
            for part in field.into_iter().chain([part]) {
                match part.as_str() {
                    Some(text) if text.len() >= BYTES_A_FUEL => pay_for_bytes(state, text.len())?,
                    None if is_container(&part) => open.push((part, depth + 1)),
                    _ => {}
                }
            }
        }
    }
    state.consume_fuel(parts as u64)
}

fn pay_for_bytes(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_A_FUEL) as u64)
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

/// `a + b`. A sum of lists is a list, as in Python, and not a chain of all that was added.
fn add(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => {
            // Both were paid for when they were made, so their sum is no leap.
            return Ok(Value::from([a, b].concat()));
        }
        (None, None) if list(a) && list(b) => {
            let mut items = Vec::new();
            for item in a.try_iter()?.chain(b.try_iter()?) {
                if items.len() % ITEMS_A_FUEL == 0 {
                    state.consume_fuel(1)?;
                }
                items.push(item);
            }
            let tuples = [a, b].iter().all(|value| value.downcast_object_ref::<Tuple>().is_some());
            return Ok(if tuples { Value::from(Tuple::new(items)) } else { Value::from(items) });
        }
        _ => {}
    }
    let numbers = a.kind() == ValueKind::Number && b.kind() == ValueKind::Number;
    let sum = match numbers.then(|| (i128::try_from(a.clone()), i128::try_from(b.clone()))) {
        Some((Ok(x), Ok(y))) if a.is_integer() && b.is_integer() => x.checked_add(y).map(Value::from),
        Some(_) => Some(Value::from(f64::try_from(a.clone())? + f64::try_from(b.clone())?)),
        None => None,
    };
    sum.ok_or_else(|| unsupported(&format!("unsupported types for +: {} and {}", a.kind(), b.kind())))
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_owned())
}

/// `a ~ b`
fn concat(state: &State, a: &Value, b: &Value) -> Result<String, Error> {
    let mut text = String::new();
    for value in [a, b] {
        weigh(state, value)?;
        match value.as_str() {
            Some(part) => text += part,
            None => text += &python::text(value),
        }
    }
    Ok(text)
}

/// `value[key]`; a key is not looked into.
fn item(state: &State, value: &Value, key: &Value) -> Result<Value, Error> {
    if is_container(key) {
        return Err(no_key(key));
    }
    if let (ValueKind::Iterable, Some(index)) = (value.kind(), key.as_i64()) {
        let passed = value.len().map_or(index.unsigned_abs(), |len| index.unsigned_abs().min(len as u64));
        state.consume_fuel(passed)?;
    }
    value.get_item(key)
}

/// `{key: value, …}` of keys and values in turn.
fn map(parts: Rest<Value>) -> Result<Value, Error> {
    match parts.iter().step_by(2).find(|key| is_container(key)) {
        Some(key) => Err(no_key(key)),
        None => Ok(Value::from_pairs(parts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())))),
    }
}

fn no_key(key: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a {} is no key", key.kind()))
}

/// `value in container`; as in Python, nothing is in a value that is no container.
fn is_in(state: &State, value: &Value, container: &Value) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        let Some(part) = value.as_str() else {
            let what = format!("a {} is not in a string", value.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        };
        pay_for_bytes(state, text.len())?;
        return Ok(text.contains(part));
    }
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::Map if is_container(value) => Err(no_key(value)),
        ValueKind::Map => Ok(container.as_object().is_some_and(|map| map.get_value(value).is_some())),
        ValueKind::Seq | ValueKind::Iterable => {
            for item in container.try_iter()? {
                if is_container(value) {
                    weigh(state, value)?;
                }
                state.consume_fuel(1)?;
                if item == *value {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("a {kind} contains nothing"))),
    }
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
