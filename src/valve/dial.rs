//! Dials: what α a valve has at each token.

use crate::error::{Error, Result};

/// How α runs along a sequence. A dial only proposes: what was used is recorded with the sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Dial {
    /// One α for every token.
    Constant(f32),
    /// `(since, α)`: α holds from token `since` of the scope on, until the next step; `since` ascends.
    /// Before the first step α is 0.
    Steps(Vec<(u32, f32)>),
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

    /// What [`Dial::constant`] and [`Dial::steps`] ask for; a session asks again, as the variants are public.
    ///
    /// # Errors
    /// Those of the two.
    pub fn check(&self) -> Result<()> {
        let steps = match self {
            Self::Constant(alpha) => return finite(*alpha),
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
}

/// A dial and its scope: all that decides the opening of one slot at one token.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Setting {
    pub dial: Dial,
    pub scope: Scope,
}

impl Setting {
    /// α at `position` of a sequence whose generated tokens start at `generated_from`.
    pub fn opening(&self, position: u32, generated_from: u32) -> f32 {
        let origin = match self.scope {
            Scope::All => 0,
            Scope::Generation => generated_from,
        };
        position.checked_sub(origin).map_or(0.0, |since| self.dial.at(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn generation_scope_starts_at_the_first_generated_token() {
        let setting = Setting { dial: Dial::steps(vec![(0, 1.0), (2, 2.0)]).unwrap(), scope: Scope::Generation };
        let seen: Vec<f32> = (0..6).map(|p| setting.opening(p, 3)).collect();
        assert_eq!(seen, [0.0, 0.0, 0.0, 1.0, 1.0, 2.0]);
    }
}
