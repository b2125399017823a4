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

/// Fields of one grammar: to set one of them takes away what another has set.
const GRAMMARS: [&str; 3] = ["json-schema", "grammar", "response-format"];

/// Sampling fields that one line of text says all about, as (name, value): neither lists nor grammars.
pub fn plain_fields(sampling: &Sampling) -> impl Iterator<Item = (String, String)> {
    let plain = Sampling::fields().iter().filter(|field| !field.list && !GRAMMARS.contains(&field.name));
    plain.map(|field| (field.name.to_owned(), field.get(sampling)))
}

/// Sets what `NAME VALUE` says, or turns `NAME` on.
///
/// # Errors
/// Those of [`Sampling::set`].
pub fn set_field(sampling: &mut Sampling, text: &str) -> Result<()> {
    let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let is_switch = Sampling::fields().iter().any(|field| field.name == name && field.value.is_none());
    sampling.set(name, if is_switch && value.is_empty() { "true" } else { value.trim() })
}
