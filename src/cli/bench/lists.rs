//! Values as llama-bench's flags take them: comma lists and ranges, and openings of a valve.

use cotvalve::error::{Error, Result};
use cotvalve::valve::Dial;
use std::fmt;

/// Values that one flag may come to: a range that was typed with a digit too many ends before memory does.
const MAX_VALUES: usize = 100_000;

fn bad(name: &'static str, reason: impl Into<String>) -> Error {
    Error::Argument { name, reason: reason.into() }
}

/// The counts in `texts`, each a comma list of `first`, `first-last`, `first-last+step` or `first-last*factor`.
pub fn counts(name: &'static str, texts: &[String]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for item in texts.iter().flat_map(|text| text.split(',')) {
        let wrong = || bad(name, format!("{item:?} is not N, FIRST-LAST, FIRST-LAST+STEP or FIRST-LAST*FACTOR"));
        let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
        let Some((first, rest)) = item.split_once('-') else {
            found.push(number(item)?);
            continue;
        };
        let (last, factor, step) = match (rest.split_once('+'), rest.split_once('*')) {
            (Some((last, step)), _) => (last, 1, number(step)?),
            (_, Some((last, factor))) => (last, number(factor)?, 0),
            _ => (rest, 1, 1),
        };
        let (mut value, last) = (number(first)?, number(last)?);
        while value <= last {
            found.push(value);
            let next = value.checked_mul(factor).and_then(|v| v.checked_add(step));
            value = next.filter(|next| *next > value).ok_or_else(wrong)?;
            limit(name, found.len())?;
        }
    }
    Ok(found)
}

fn limit(name: &'static str, values: usize) -> Result<()> {
    if values < MAX_VALUES { Ok(()) } else { Err(bad(name, format!("more than {MAX_VALUES} values"))) }
}

/// Pairs `PP,TG`, one a text.
pub fn pairs(name: &'static str, texts: &[String]) -> Result<Vec<(usize, usize)>> {
    let pair = |text: &String| {
        let (prompt, generated) = text.split_once(',')?;
        Some((prompt.parse().ok()?, generated.parse().ok()?))
    };
    texts.iter().map(|text| pair(text).ok_or_else(|| bad(name, format!("{text:?} is not PP,TG")))).collect()
}

/// The openings in `texts`, each a comma list of [`Opening`]s or ranges of α.
pub fn openings(name: &'static str, texts: &[String]) -> Result<Vec<Opening>> {
    let mut found = Vec::new();
    for item in texts.iter().flat_map(|text| text.split(',')) {
        match Opening::parse(item) {
            Some(opening) => found.push(opening),
            None => found.extend(range(name, item)?.into_iter().map(Opening::constant)),
        }
    }
    Ok(found)
}

/// `FIRST-LAST+STEP` or `FIRST-LAST*FACTOR`. Every value is counted from the first, so that none drifts.
fn range(name: &'static str, item: &str) -> Result<Vec<f32>> {
    let wrong = || {
        let forms = "A, A/B/... (rows in turn), A..B (along the test), FIRST-LAST+STEP or FIRST-LAST*FACTOR";
        bad(name, format!("{item:?} is not {forms}"))
    };
    let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
    // The first dash may be a sign.
    let dashes = item.match_indices('-').map(|(at, _)| at).filter(|at| *at > 0);
    let split = |at: usize| {
        let (first, rest) = (number(&item[..at])?, &item[at + 1..]);
        let (last, by) = rest.split_once(['+', '*'])?;
        Some((first, number(last)?, rest.contains('*'), number(by)?))
    };
    let (first, last, multiply, by) = dashes.into_iter().find_map(split).ok_or_else(wrong)?;
    let grows = if multiply { first > 0.0 && by > 1.0 } else { by > 0.0 };
    if !grows {
        return Err(wrong());
    }
    // A step that misses the last value by rounding alone reaches it.
    let (slack, mut found) = (1e-9 * last.abs().max(1.0), Vec::new());
    loop {
        let n = found.len() as i32;
        let value = if multiply { first * by.powi(n) } else { first + f64::from(n) * by };
        if value > last + slack {
            return Ok(found);
        }
        found.push(value as f32);
        limit(name, found.len())?;
    }
}

/// α of one row of a batch: a line from `from` at the first token to `to` at the last.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    from: f32,
    to: f32,
}

/// How a test turns its valve: `A`; `A..B`, another α at every token; or several of them joined by `/`, which the
/// sequences of a batch take in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    lines: Vec<Line>,
}

impl Opening {
    pub fn constant(alpha: f32) -> Self {
        Self { lines: vec![Line { from: alpha, to: alpha }] }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<f32>().ok().filter(|alpha| alpha.is_finite());
        let line = |text: &str| match text.split_once("..") {
            Some((from, to)) => Some(Line { from: number(from)?, to: number(to)? }),
            None => number(text).map(|alpha| Line { from: alpha, to: alpha }),
        };
        Some(Self { lines: text.split('/').map(line).collect::<Option<_>>()? })
    }

    /// Where an α stands still, it goes from 0 to there.
    pub fn each_token(self) -> Self {
        let moved = |line: Line| if line.from == line.to { Line { from: 0.0, to: line.to } } else { line };
        Self { lines: self.lines.into_iter().map(moved).collect() }
    }

    /// How many sequences of a batch differ.
    pub fn rows(&self) -> usize {
        self.lines.len()
    }

    /// The dial of a sequence that will have `tokens` tokens.
    ///
    /// # Errors
    /// Those of the dials.
    pub fn dial(&self, sequence: usize, tokens: usize) -> Result<Dial> {
        let Line { from, to } = self.lines[sequence % self.lines.len()];
        if from == to {
            return Dial::constant(from);
        }
        Dial::linear(from, to, u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX).max(1))
    }
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Line { from, to }) in self.lines.iter().enumerate() {
            f.write_str(if i > 0 { "/" } else { "" })?;
            if from == to { write!(f, "{from}")? } else { write!(f, "{from}..{to}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<usize>> {
        counts("n-prompt", &[text.into()])
    }

    #[test]
    fn counts_are_lists_and_ranges() {
        assert_eq!(list("512").unwrap(), [512]);
        assert_eq!(list("1,8-10,128").unwrap(), [1, 8, 9, 10, 128]);
        assert_eq!(list("1-10+4").unwrap(), [1, 5, 9]);
        assert_eq!(list("64-512*2").unwrap(), [64, 128, 256, 512]);
        assert_eq!(counts("threads", &["1,2".into(), "4".into()]).unwrap(), [1, 2, 4], "repeated");
        assert_eq!(list("9-8").unwrap(), [0; 0]);
        for bad in ["", "a", "1,", "-1", "1-2+0", "1-2*1", "0-4*2", "1-", "1-2+", "0-1000000000", "1-2-3"] {
            assert!(list(bad).unwrap_err().to_string().starts_with("n-prompt: "), "{bad}");
        }
    }

    #[test]
    fn pairs_are_two_counts() {
        assert_eq!(pairs("pg", &["512,128".into(), "1,2".into()]).unwrap(), [(512, 128), (1, 2)]);
        for bad in ["512", "1,2,3", "a,b", ","] {
            assert!(pairs("pg", &[bad.into()]).unwrap_err().to_string().starts_with("pg: "), "{bad}");
        }
    }

    #[test]
    fn openings_are_swept_mixed_and_moved() {
        let of = |text: &str| openings("alpha", &[text.into()]);
        let shown = |text| of(text).unwrap().iter().map(Opening::to_string).collect::<Vec<_>>();
        assert_eq!(shown("0,-0.5,1"), ["0", "-0.5", "1"]);
        assert_eq!(shown("0-1+0.25"), ["0", "0.25", "0.5", "0.75", "1"]);
        assert_eq!(shown("0-1+0.1").len(), 11, "no value is lost to rounding");
        assert_eq!(shown("-1-1+1"), ["-1", "0", "1"]);
        assert_eq!(shown("-2--1+0.5"), ["-2", "-1.5", "-1"]);
        assert_eq!(shown("0.25-1*2"), ["0.25", "0.5", "1"]);
        assert_eq!(shown("0/0.3/1,0..1"), ["0/0.3/1", "0..1"]);
        for bad in ["", "x", "nan", "inf", "0-1", "0-1+0", "0-1*2", "1-2*1", "0/", "1..", "0-1+1e-9"] {
            assert!(of(bad).unwrap_err().to_string().starts_with("alpha: "), "{bad}");
        }
    }

    #[test]
    fn sequences_take_the_lines_in_turn() {
        let mixed = Opening::parse("0/0.5..1").unwrap();
        assert_eq!(mixed.dial(2, 9).unwrap(), Dial::Constant(0.0));
        assert_eq!(mixed.dial(3, 9).unwrap(), Dial::Linear { from: 0.5, to: 1.0, over: 8 });
        assert_eq!(Opening::constant(2.0).each_token().to_string(), "0..2");
        assert_eq!(Opening::parse("0..1").unwrap().dial(0, 1).unwrap(), Dial::Linear { from: 0.0, to: 1.0, over: 1 });
    }
}
