//! Values as Python writes them.

use minijinja::Value;
use minijinja::value::ValueKind;
use std::fmt::Write;

/// A float: the shortest digits that read back the same, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(x: f64) -> String {
    if !x.is_finite() || x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}").to_lowercase();
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// `str(value)`, which of containers is `repr`.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Number if !value.is_integer() => f64::try_from(value.clone()).map_or(value.to_string(), float),
        ValueKind::Seq | ValueKind::Map => {
            let mut out = String::new();
            repr(value, &mut out);
            out
        }
        _ => value.to_string(),
    }
}

fn repr(value: &Value, out: &mut String) {
    let Some(items) = matches!(value.kind(), ValueKind::Seq | ValueKind::Map).then(|| value.try_iter().ok()).flatten()
    else {
        // Writing to a string does not fail.
        return match value.kind() {
            ValueKind::String => drop(write!(out, "{value:?}")),
            _ => *out += &text(value),
        };
    };
    let map = value.kind() == ValueKind::Map;
    let (open, close) = match value.downcast_object_ref::<minijinja::value::Tuple>() {
        Some(_) => ('(', ')'),
        None if map => ('{', '}'),
        None => ('[', ']'),
    };
    out.push(open);
    let mut count = 0;
    for item in items {
        if count > 0 {
            *out += ", ";
        }
        repr(&item, out);
        if map {
            *out += ": ";
            repr(&value.get_item(&item).unwrap_or_default(), out);
        }
        count += 1;
    }
    if open == '(' && count == 1 {
        out.push(',');
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats() {
        for (x, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (-1e16, "-1e+16"),
            (2.5e300, "2.5e+300"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float(x), text);
        }
    }
}
