//! `--override-kv KEY=TYPE:VALUE`: what a user knows better than a model file.

use cotvalve::error::{Error, Result};
use cotvalve::gguf::{Gguf, Value};
use std::path::Path;

/// Opens a GGUF file and sets the keys that `overrides` name in what was read of it.
///
/// # Errors
/// [`Error::Argument`] for an override that is none, and what [`Gguf::open`] gives.
pub fn open(path: &Path, overrides: &[String]) -> Result<Gguf> {
    let overrides = overrides.iter().map(|text| parse(text)).collect::<Result<Vec<_>>>()?;
    let mut gguf = Gguf::open(path)?;
    for (key, value) in overrides {
        gguf.set(key, value);
    }
    Ok(gguf)
}

/// Reads `KEY=TYPE:VALUE`; llama.cpp's types are int, float, bool and str.
pub fn parse(text: &str) -> Result<(&str, Value)> {
    let refused = || {
        let reason = format!("{text:?} is not of the form KEY=TYPE:VALUE, TYPE being int, float, bool or str");
        Error::Argument { name: "--override-kv", reason }
    };
    let (key, typed) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(refused)?;
    let (kind, value) = typed.split_once(':').ok_or_else(refused)?;
    let value = match kind {
        "int" => value.parse().ok().map(Value::I64),
        "float" => value.parse().ok().map(Value::F64),
        "bool" => value.parse().ok().map(Value::Bool),
        "str" => Some(Value::Str(value.to_owned())),
        _ => None,
    };
    Ok((key, value.ok_or_else(refused)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type() {
        assert_eq!(parse("a.b=int:-7").unwrap(), ("a.b", Value::I64(-7)));
        assert_eq!(parse("a=float:0.5").unwrap(), ("a", Value::F64(0.5)));
        assert_eq!(parse("a=bool:true").unwrap(), ("a", Value::Bool(true)));
        assert_eq!(parse("a=str:x:y=z").unwrap(), ("a", Value::Str("x:y=z".into())));
        assert_eq!(parse("a=str:").unwrap(), ("a", Value::Str(String::new())));
    }

    #[test]
    fn what_is_none_is_refused_by_name() {
        for text in ["", "a", "a=", "a=x", "=int:1", "a=int:x", "a=int:", "a=bool:1", "a=u8:1", "a=float:one"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("--override-kv") && error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
