//! Dials and adapters as they are typed.

use cotvalve::error::{Error, Result};
use cotvalve::valve::{Dial, Group, Selector};
use std::ops::Range;
use std::path::PathBuf;

/// Dials of parts, in the order in which they were typed: where two name a part, the later one turns it.
pub type PartDials = Vec<(Selector, Dial)>;

/// A dial that was typed as the argument `name`.
pub fn parse_dial(name: &'static str, text: &str) -> Result<Dial> {
    text.parse().map_err(|e| named(name, e))
}

/// The same error of the argument `name`.
pub fn named(name: &'static str, error: Error) -> Error {
    match error {
        Error::Argument { reason, .. } => Error::Argument { name, reason },
        other => other,
    }
}

/// `DIAL`, for all of `group`, or `LAYERS:DIAL,...`, where LAYERS is `5` or `0-9`. Without a group there must be
/// layers. A step dial's own commas may stand in the list: what has no colon goes on from the dial before it.
pub fn parse_parts(name: &'static str, group: Option<Group>, text: &str) -> Result<PartDials> {
    if !text.contains(':') {
        if group.is_none() {
            let reason = format!("{text:?} is not LAYERS:ALPHA,..., where LAYERS is 5 or 0-9");
            return Err(Error::Argument { name, reason });
        }
        return Ok(vec![(Selector { group, layers: None }, parse_dial(name, text)?)]);
    }
    let mut entries: Vec<String> = Vec::new();
    for piece in text.split(',') {
        match entries.last_mut().filter(|_| !piece.contains(':')) {
            Some(last) => *last = format!("{last},{piece}"),
            None => entries.push(piece.into()),
        }
    }
    let entry = |entry: &String| {
        let (layers, dial) = entry.split_once(':').unwrap_or(("", entry));
        let layers = Some(parse_layers(name, layers)?);
        Ok((Selector { group, layers }, parse_dial(name, dial)?))
    };
    entries.iter().map(entry).collect()
}

/// `5`, or `0-9`: both ends are meant.
fn parse_layers(name: &'static str, text: &str) -> Result<Range<usize>> {
    let bad = || Error::Argument { name, reason: format!("{text:?} is neither a layer nor a range like 0-9") };
    let number = |s: &str| s.trim().parse::<usize>().map_err(|_| bad());
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    let end = last.checked_add(1).filter(|_| first <= last).ok_or_else(bad)?;
    Ok(first..end)
}

/// What [`parse_parts`] reads, with the word that says which parts.
pub fn describe_part(selector: &Selector, dial: &Dial) -> String {
    let group = selector.group.map_or("layers".into(), |group| group.to_string());
    match &selector.layers {
        Some(layers) if layers.len() == 1 => format!("{group} {}:{dial}", layers.start),
        Some(layers) => format!("{group} {}-{}:{dial}", layers.start, layers.end - 1),
        None => format!("{group} {dial}"),
    }
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

/// `FILE` or `FILE:DIAL`; a colon whose tail is no dial belongs to the file's name.
pub fn parse_valve(text: &str) -> (PathBuf, Option<Dial>) {
    match text.rsplit_once(':').and_then(|(file, dial)| Some((file, dial.parse().ok()?))) {
        Some((file, dial)) => (file.into(), Some(dial)),
        None => (text.into(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loras_and_valves_parse() {
        assert_eq!(parse_lora("a.gguf").unwrap(), ("a.gguf".into(), 1.0));
        assert_eq!(parse_lora("a.gguf:0.5").unwrap(), ("a.gguf".into(), 0.5));
        assert_eq!(parse_lora("c:/a.gguf").unwrap(), ("c:/a.gguf".into(), 1.0));
        assert!(parse_lora("a.gguf:inf").is_err());
        assert_eq!(parse_valve("c:/a.gguf"), ("c:/a.gguf".into(), None));
        assert_eq!(parse_valve("a.gguf:0.5"), ("a.gguf".into(), Some(Dial::Constant(0.5))));
        let line = Dial::Linear { from: 0.0, to: 1.0, over: 50 };
        assert_eq!(parse_valve("c:/a.gguf:0..1@50"), ("c:/a.gguf".into(), Some(line)));
    }

    #[test]
    fn parts_parse_and_read_back() {
        let part = |group, layers, alpha| (Selector { group, layers }, Dial::Constant(alpha));
        let attn = Some(Group::Attention);
        assert_eq!(parse_parts("alpha-attn", attn, "0.5").unwrap(), [part(attn, None, 0.5)]);
        let layers = parse_parts("alpha-layers", None, "0-9:0.2, 12:-1").unwrap();
        assert_eq!(layers, [part(None, Some(0..10), 0.2), part(None, Some(12..13), -1.0)]);
        assert_eq!(describe_part(&layers[0].0, &layers[0].1), "layers 0-9:0.2");
        assert_eq!(describe_part(&layers[1].0, &layers[1].1), "layers 12:-1");
        let steps = parse_parts("alpha-mlp", Some(Group::Mlp), "0-1:0=0.2,64=0.9,2-3:1").unwrap();
        assert_eq!(steps[0].1, Dial::Steps(vec![(0, 0.2), (64, 0.9)]));
        assert_eq!(describe_part(&steps[0].0, &steps[0].1), "mlp 0-1:0=0.2,64=0.9");
        assert_eq!(steps[1], part(Some(Group::Mlp), Some(2..4), 1.0));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_flag() {
        for bad in
            ["0.5", "", ":", "0-9:", "9-0:1", "a-b:1", "0-9:x", "-3:1", "0-9:nan", "0-18446744073709551615:1", "1,0:1"]
        {
            let error = parse_parts("alpha-layers", None, bad).unwrap_err().to_string();
            assert!(error.starts_with("alpha-layers: "), "{bad}: {error}");
        }
        let error = parse_parts("alpha-mlp", Some(Group::Mlp), "x").unwrap_err().to_string();
        assert!(error.starts_with("alpha-mlp: "), "{error}");
        assert!(parse_dial("alpha", "1..2").unwrap_err().to_string().starts_with("alpha: "));
    }
}
