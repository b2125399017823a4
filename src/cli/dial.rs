//! Dials and adapters as they are typed.

use cotvalve::error::{Error, Result};
use cotvalve::valve::Dial;
use std::path::PathBuf;

/// `0.5`, or `0=0.2,64=0.9`: α from these tokens of the scope on.
pub fn parse_dial(text: &str) -> Result<Dial> {
    let bad = || Error::Argument { name: "alpha", reason: format!("{text:?} is neither a number nor TOKEN=ALPHA,...") };
    let number = |s: &str| s.trim().parse::<f32>().map_err(|_| bad());
    if !text.contains('=') {
        return Dial::constant(number(text)?);
    }
    let step = |part: &str| {
        let (since, alpha) = part.split_once('=').ok_or_else(bad)?;
        Ok((since.trim().parse().map_err(|_| bad())?, number(alpha)?))
    };
    Dial::steps(text.split(',').map(step).collect::<Result<_>>()?)
}

/// `FILE` or `FILE:SCALE`; a colon whose tail is no number belongs to the file's name.
pub fn parse_lora(text: &str) -> Result<(PathBuf, f32)> {
    let split = text.rsplit_once(':').and_then(|(file, scale)| Some((file, scale.parse::<f32>().ok()?)));
    let (file, scale) = split.unwrap_or((text, 1.0));
    if !scale.is_finite() {
        return Err(Error::Argument { name: "lora", reason: format!("the scale in {text:?} is not finite") });
    }
    Ok((file.into(), scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_parse() {
        assert_eq!(parse_dial("0.5").unwrap(), Dial::Constant(0.5));
        assert_eq!(parse_dial("-1").unwrap(), Dial::Constant(-1.0));
        assert_eq!(parse_dial("0=0.25, 64=1").unwrap(), Dial::Steps(vec![(0, 0.25), (64, 1.0)]));
        for bad in ["", "x", "nan", "inf", "1=", "5=0.1,2=0.3", "a=1"] {
            assert!(parse_dial(bad).unwrap_err().to_string().starts_with("alpha: "), "{bad}");
        }
    }

    #[test]
    fn loras_parse() {
        assert_eq!(parse_lora("a.gguf").unwrap(), ("a.gguf".into(), 1.0));
        assert_eq!(parse_lora("a.gguf:0.5").unwrap(), ("a.gguf".into(), 0.5));
        assert_eq!(parse_lora("c:/a.gguf").unwrap(), ("c:/a.gguf".into(), 1.0));
        assert!(parse_lora("a.gguf:inf").is_err());
    }
}
