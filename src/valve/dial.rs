//! Dials: what α a valve has at each token.

use super::parts::{Part, Selector};
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// How α runs along a sequence. A dial only proposes: what was used is recorded with the sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Dial {
    /// One α for every token.
    Constant(f32),
    /// `(since, α)`: α holds from token `since` of the scope on, until the next step; `since` ascends.
    /// Before the first step α is 0.
    Steps(Vec<(u32, f32)>),
    /// From α = `from` at the scope's first token in a straight line to `to`, reached `over` tokens later; it stays
    /// there.
    Linear { from: f32, to: f32, over: u32 },
}

impl Dial {
    /// A dial that stands still.
    ///
    /// # Errors
    /// [`Error::Argument`] for NaN or infinity. Any other α is allowed: 0 is the base model, 1 the adapter as
    /// trained, above 1 extrapolates, below 0 turns the other way.
    pub fn constant(alpha: f32) -> Result<Self> {
        let dial = Self::Constant(alpha);
        dial.check()?;
        Ok(dial)
    }

    /// A dial that moves in steps.
    ///
    /// # Errors
    /// [`Error::Argument`] if `steps` is empty, does not ascend, or holds NaN or infinity.
    pub fn steps(steps: Vec<(u32, f32)>) -> Result<Self> {
        let dial = Self::Steps(steps);
        dial.check()?;
        Ok(dial)
    }

    /// A dial that moves in a straight line.
    ///
    /// # Errors
    /// [`Error::Argument`] for NaN or infinity, or if `over` is 0.
    pub fn linear(from: f32, to: f32, over: u32) -> Result<Self> {
        let dial = Self::Linear { from, to, over };
        dial.check()?;
        Ok(dial)
    }

    /// What [`Dial::constant`] and its sisters ask for; a session asks again, as the variants are public.
    ///
    /// # Errors
    /// Those of the three.
    pub fn check(&self) -> Result<()> {
        let steps = match self {
            Self::Constant(alpha) => return finite(*alpha),
            Self::Linear { over: 0, .. } => {
                return Err(Error::argument("alpha", "a linear dial moves over at least one token"));
            }
            Self::Linear { from, to, .. } => return finite(*from).and_then(|()| finite(*to)),
            Self::Steps(steps) => steps,
        };
        if steps.is_empty() {
            return Err(Error::argument("alpha", "a step dial needs at least one step"));
        }
        if !steps.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Error::argument("alpha", "the steps of a dial must ascend"));
        }
        steps.iter().try_for_each(|(_, alpha)| finite(*alpha))
    }

    /// α for the token `since_origin` tokens after the start of the scope.
    pub fn at(&self, since_origin: u32) -> f32 {
        match self {
            Self::Constant(alpha) => *alpha,
            Self::Linear { to, over, .. } if since_origin >= *over => *to,
            Self::Linear { from, to, over } => {
                let passed = since_origin as f32 / *over as f32;
                // Not `from + passed · (to − from)`, whose difference may overflow.
                from * (1.0 - passed) + to * passed
            }
            Self::Steps(steps) => {
                let passed = steps.partition_point(|(since, _)| *since <= since_origin);
                passed.checked_sub(1).map_or(0.0, |i| steps[i].1)
            }
        }
    }
}

impl Default for Dial {
    /// Closed: the base model.
    fn default() -> Self {
        Self::Constant(0.0)
    }
}

/// As it is typed: `0.5`, `0=0.2,64=0.9` (α from these tokens of the scope on), `0.2..0.9@200` (in a straight line
/// over 200 tokens).
impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(alpha) => write!(f, "{alpha}"),
            Self::Linear { from, to, over } => write!(f, "{from}..{to}@{over}"),
            Self::Steps(steps) => {
                let step = |(i, (since, alpha)): (usize, &(u32, f32))| {
                    write!(f, "{}{since}={alpha}", if i == 0 { "" } else { "," })
                };
                steps.iter().enumerate().try_for_each(step)
            }
        }
    }
}

impl FromStr for Dial {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let reason = format!("{text:?} is no number, and neither TOKEN=ALPHA,... nor FROM..TO@TOKENS");
            Error::argument("alpha", reason)
        };
        let alpha = |s: &str| s.trim().parse::<f32>().map_err(|_| bad());
        let tokens = |s: &str| s.trim().parse::<u32>().map_err(|_| bad());
        if let Some((line, over)) = text.split_once('@') {
            let (from, to) = line.split_once("..").ok_or_else(bad)?;
            return Self::linear(alpha(from)?, alpha(to)?, tokens(over)?);
        }
        if !text.contains('=') {
            return Self::constant(alpha(text)?);
        }
        let step = |part: &str| {
            let (since, at) = part.split_once('=').ok_or_else(bad)?;
            Ok((tokens(since)?, alpha(at)?))
        };
        Self::steps(text.split(',').map(step).collect::<Result<_>>()?)
    }
}

fn finite(alpha: f32) -> Result<()> {
    if alpha.is_finite() { Ok(()) } else { Err(Error::argument("alpha", format!("{alpha} is not a finite number"))) }
}

/// Which tokens a valve acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    /// Every token, the prompt's too.
    #[default]
    All,
    /// From the first generated token on; the prompt's keys and values are then the base model's.
    Generation,
    /// From the token that completes the tag which opens a thought, generated or at the end of the prompt, to the
    /// token that completes the tag which closes it, both included.
    Think,
}

/// Where the scopes of a sequence start, in positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Origins {
    /// The first generated token.
    pub generation: u32,
    /// From the first token of the thought up to the first after it; nothing lies between if there is none.
    pub thought: (u32, u32),
}

/// How a valve is turned: a dial for all of it, dials for parts, and their scope.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Setting {
    /// Turns every part that no selector names.
    pub dial: Dial,
    pub scope: Scope,
    /// Dials of parts; where two name a part, the later one turns it.
    pub parts: Vec<(Selector, Dial)>,
}

impl Setting {
    /// One dial for all parts.
    pub fn uniform(dial: Dial, scope: Scope) -> Self {
        Self { dial, scope, parts: Vec::new() }
    }

    /// Whether a model of `layers` layers can be turned so.
    ///
    /// # Errors
    /// Those of [`Dial::check`] and [`Selector::check`].
    pub fn check(&self, layers: usize) -> Result<()> {
        self.dial.check()?;
        self.parts.iter().try_for_each(|(selector, dial)| selector.check(layers).and_then(|()| dial.check()))
    }

    /// Which dial turns each of `parts`: an index into what [`Setting::openings`] gives.
    pub fn choices(&self, parts: &[Part]) -> Vec<usize> {
        let choice = |part: &Part| self.parts.iter().rposition(|(s, _)| s.selects(*part)).map_or(0, |i| i + 1);
        parts.iter().map(choice).collect()
    }

    /// Puts into `out` the α at `position` of every dial: [`Setting::dial`] first, then those of the parts.
    /// Never −0.
    pub fn openings(&self, position: u32, origins: Origins, out: &mut Vec<f32>) {
        let origin = match self.scope {
            Scope::All => 0,
            Scope::Generation => origins.generation,
            Scope::Think => origins.thought.0,
        };
        let over = self.scope == Scope::Think && position >= origins.thought.1;
        let since = position.checked_sub(origin).filter(|_| !over);
        let dials = std::iter::once(&self.dial).chain(self.parts.iter().map(|(_, dial)| dial));
        out.clear();
        out.extend(dials.map(|dial| since.map_or(0.0, |since| dial.at(since)) + 0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valve::Group;

    #[test]
    fn refuses_what_is_not_finite() {
        for alpha in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(Dial::constant(alpha).unwrap_err().to_string().starts_with("alpha: "));
            assert!(Dial::steps(vec![(0, 1.0), (5, alpha)]).is_err());
        }
        assert!(Dial::constant(-3.5).is_ok());
    }

    #[test]
    fn steps_hold_until_the_next() {
        let dial = Dial::steps(vec![(2, 0.5), (5, -1.0)]).unwrap();
        let seen: Vec<f32> = (0..7).map(|t| dial.at(t)).collect();
        assert_eq!(seen, [0.0, 0.0, 0.5, 0.5, 0.5, -1.0, -1.0]);
        assert!(Dial::steps(vec![(5, 0.5), (5, 1.0)]).is_err());
        assert!(Dial::steps(vec![]).is_err());
    }

    #[test]
    fn a_line_is_walked_from_end_to_end_and_never_left() {
        let dial = Dial::linear(0.25, -0.75, 4).unwrap();
        let seen: Vec<f32> = (0..7).map(|t| dial.at(t)).collect();
        assert_eq!(seen, [0.25, 0.0, -0.25, -0.5, -0.75, -0.75, -0.75]);
        let steep = Dial::linear(f32::MIN, f32::MAX, 2).unwrap();
        assert_eq!([steep.at(0), steep.at(1), steep.at(u32::MAX)], [f32::MIN, 0.0, f32::MAX]);
        let flat = Dial::linear(0.1, 0.1, 3).unwrap();
        assert!((0..5).all(|t| (flat.at(t) - 0.1).abs() < 1e-8));
        for bad in [(0.0, 1.0, 0), (f32::NAN, 1.0, 5), (0.0, f32::INFINITY, 5)] {
            assert!(Dial::linear(bad.0, bad.1, bad.2).unwrap_err().to_string().starts_with("alpha: "));
        }
    }

    #[test]
    fn dials_read_as_they_are_typed() {
        for (text, dial) in [
            ("0.5", Dial::Constant(0.5)),
            ("-1", Dial::Constant(-1.0)),
            ("0=0.25,64=1", Dial::Steps(vec![(0, 0.25), (64, 1.0)])),
            ("-0.5..0.9@200", Dial::Linear { from: -0.5, to: 0.9, over: 200 }),
        ] {
            assert_eq!(text.parse::<Dial>().unwrap(), dial);
            assert_eq!(dial.to_string(), text);
        }
        assert_eq!("0=0.25, 64=1".parse::<Dial>().unwrap(), Dial::Steps(vec![(0, 0.25), (64, 1.0)]));
        let bad = [
            "",
            "x",
            "nan",
            "inf",
            "1=",
            "5=0.1,2=0.3",
            "a=1",
            "0..1",
            "0..1@0",
            "0..@5",
            "@",
            "..@",
            "0..1@-5",
            "1@5",
        ];
        for bad in bad {
            assert!(bad.parse::<Dial>().unwrap_err().to_string().starts_with("alpha: "), "{bad}");
        }
    }

    /// α of all dials at `position` of a sequence that generates from position 3 on.
    fn openings(setting: &Setting, position: u32) -> Vec<f32> {
        let mut out = vec![9.0];
        setting.openings(position, Origins { generation: 3, thought: (2, 5) }, &mut out);
        out
    }

    #[test]
    fn generation_scope_starts_at_the_first_generated_token() {
        let setting = Setting::uniform(Dial::steps(vec![(0, 1.0), (2, 2.0)]).unwrap(), Scope::Generation);
        let seen: Vec<f32> = (0..6).flat_map(|p| openings(&setting, p)).collect();
        assert_eq!(seen, [0.0, 0.0, 0.0, 1.0, 1.0, 2.0]);
    }

    #[test]
    fn think_scope_ends_with_the_thought() {
        let setting = Setting::uniform(Dial::steps(vec![(0, 1.0), (2, 2.0)]).unwrap(), Scope::Think);
        let seen: Vec<f32> = (0..7).flat_map(|p| openings(&setting, p)).collect();
        assert_eq!(seen, [0.0, 0.0, 1.0, 1.0, 2.0, 0.0, 0.0]);
        let mut out = Vec::new();
        (0..3).for_each(|p| {
            setting.openings(p, Origins::default(), &mut out);
            assert_eq!(out, [0.0], "no thought");
        });
    }

    #[test]
    fn the_last_selector_that_names_a_part_turns_it() {
        let setting = Setting {
            dial: Dial::Constant(-0.0),
            scope: Scope::All,
            parts: vec![
                (Selector::group(Group::Mlp), Dial::steps(vec![(1, 0.5)]).unwrap()),
                (Selector::layers(1..3), Dial::Constant(2.0)),
            ],
        };
        let part = |layer, group| Part { layer, group };
        let parts = [
            part(Some(0), Group::Attention),
            part(Some(0), Group::Mlp),
            part(Some(1), Group::Attention),
            part(Some(2), Group::Mlp),
            part(None, Group::Head),
        ];
        assert_eq!(setting.choices(&parts), [0, 1, 2, 2, 0]);
        assert_eq!(openings(&setting, 0), [0.0, 0.0, 2.0]);
        assert_eq!(openings(&setting, 1), [0.0, 0.5, 2.0]);
        assert!(openings(&setting, 0)[0].is_sign_positive(), "−0 is 0");
    }

    #[test]
    fn every_dial_and_selector_of_a_setting_is_checked() {
        let with = |selector, alpha| Setting { parts: vec![(selector, Dial::Constant(alpha))], ..Setting::default() };
        assert!(with(Selector::layers(0..2), 1.0).check(2).is_ok());
        assert!(with(Selector::layers(0..3), 1.0).check(2).is_err());
        assert!(with(Selector::default(), f32::NAN).check(2).is_err());
        assert!(Setting::uniform(Dial::Constant(f32::NAN), Scope::All).check(2).is_err());
    }
}
