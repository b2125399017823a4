//! How dials, scopes and sampling read as text, and are set from it.

use super::super::options::{Loaded, ScopeArg};
use clap::ValueEnum;
use cotvalve::engine::Session;
use cotvalve::error::{Error, Result};
use cotvalve::sampler::Sampling;
use cotvalve::valve::Scope;

/// How the valves stand, as it would be typed.
pub fn openings(loaded: &Loaded) -> String {
    if loaded.valves.is_empty() { "- (no valve attached)".into() } else { loaded.alpha() }
}

/// Every scope with its name.
pub fn scopes() -> impl Iterator<Item = (String, Scope)> {
    let named = |arg: &ScopeArg| Some((arg.to_possible_value()?.get_name().to_owned(), arg.scope()));
    ScopeArg::value_variants().iter().filter_map(named)
}

pub fn scope(scope: Scope) -> String {
    scopes().find(|(_, known)| *known == scope).map_or_else(String::new, |(name, _)| name)
}

/// # Errors
/// [`Error::Argument`] for what is no scope's name.
pub fn parse_scope(name: &str) -> Result<Scope> {
    scopes().find(|(known, _)| known == name).map(|(_, scope)| scope).ok_or_else(|| {
        let known = scopes().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
        Error::Argument { name: "scope", reason: format!("{name:?} is none of {known}") }
    })
}

/// Turns the valves to what was typed; if one cannot be turned, all stay as they were.
///
/// # Errors
/// Those of [`Loaded::set_alpha`] and [`Loaded::turn`].
pub fn turn(loaded: &mut Loaded, session: &mut Session, alpha: Option<&str>, scope: Scope) -> Result<()> {
    let before = (loaded.alpha(), loaded.scope);
    alpha.map_or(Ok(()), |text| loaded.set_alpha(text))?;
    loaded.scope = scope;
    let turned = loaded.turn(session);
    if turned.is_err() {
        loaded.set_alpha(&before.0)?;
        loaded.scope = before.1;
        loaded.turn(session)?;
    }
    turned
}

/// Names of the sampling fields.
pub const FIELDS: [&str; 5] = ["temp", "top-k", "top-p", "min-p", "seed"];

pub fn field(sampling: &Sampling, name: &str) -> String {
    match name {
        "temp" => sampling.temperature.to_string(),
        "top-k" => sampling.top_k.to_string(),
        "top-p" => sampling.top_p.to_string(),
        "min-p" => sampling.min_p.to_string(),
        _ => sampling.seed.to_string(),
    }
}

/// Sets a sampling field.
///
/// # Errors
/// [`Error::Argument`] for another name, or a value that it does not take.
pub fn set_field(sampling: &mut Sampling, name: &str, value: &str) -> Result<()> {
    let bad = || Error::Argument { name: "set", reason: format!("{name} does not take {value:?}") };
    let float = || value.parse::<f32>().map_err(|_| bad());
    let mut changed = sampling.clone();
    match name {
        "temp" => changed.temperature = float()?,
        "top-k" => changed.top_k = value.parse().map_err(|_| bad())?,
        "top-p" => changed.top_p = float()?,
        "min-p" => changed.min_p = float()?,
        "seed" => changed.seed = value.parse().map_err(|_| bad())?,
        _ => {
            let known = FIELDS.join(", ");
            return Err(Error::Argument { name: "set", reason: format!("{name:?} is none of {known}") });
        }
    }
    changed.check()?;
    *sampling = changed;
    Ok(())
}
