//! How the valves are turned: the flags, `/alpha`, and what they come to.

use super::dial::{PartDials, describe_part, named, parse_dial, parse_parts};
use super::options::Loaded;
use clap::Args;
use cotvalve::engine::{Session, Valve};
use cotvalve::error::{Error, Result};
use cotvalve::valve::{Dial, Group, Scope, Setting};

#[derive(Args)]
pub struct AlphaArgs {
    /// Opening of the valves: a number (0 = base model, 1 = as trained), steps `TOKEN=ALPHA,...`, or a line
    /// `FROM..TO@TOKENS`
    #[arg(long, value_name = "ALPHA", default_value = "0", allow_hyphen_values = true)]
    alpha: String,
    /// Opening of their attention parts: as --alpha, or `LAYERS:ALPHA,...` for some layers (5, or 0-9)
    #[arg(long, value_name = "ALPHA", allow_hyphen_values = true)]
    alpha_attn: Vec<String>,
    /// Opening of their MLP parts, likewise
    #[arg(long, value_name = "ALPHA", allow_hyphen_values = true)]
    alpha_mlp: Vec<String>,
    /// Opening of both in some layers: `LAYERS:ALPHA,...`; goes before the two above
    #[arg(long, value_name = "LAYERS:ALPHA")]
    alpha_layers: Vec<String>,
}

impl AlphaArgs {
    /// The dial of all, and those of parts.
    pub fn parse(&self) -> Result<(Dial, PartDials)> {
        let mut parts = Vec::new();
        for (name, group, texts) in [
            ("alpha-attn", Some(Group::Attention), &self.alpha_attn),
            ("alpha-mlp", Some(Group::Mlp), &self.alpha_mlp),
            ("alpha-layers", None, &self.alpha_layers),
        ] {
            for text in texts {
                parts.extend(parse_parts(name, group, text)?);
            }
        }
        Ok((parse_dial("alpha", &self.alpha)?, parts))
    }
}

/// The flag that sets dials of `group`.
fn flag(group: Option<Group>) -> &'static str {
    match group {
        Some(Group::Attention) => "alpha-attn",
        Some(Group::Mlp) => "alpha-mlp",
        Some(Group::Head) => "alpha",
        None => "alpha-layers",
    }
}

/// A valve's name in `/alpha`: its file's, without folders and extension.
fn name(valve: &Valve) -> String {
    valve.adapter().path().file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

impl Loaded {
    /// Turns the valves as `text` says, once [`Loaded::turn`] is called: `DIAL` for all of them, `attn DIAL`,
    /// `mlp DIAL` or `layers 0-9:DIAL` for parts, `NAME DIAL` for one valve; several joined by `;`. `DIAL` alone
    /// takes back what was set for parts and single valves before.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the flag that would be wrong; all then stands as before.
    pub fn set_alpha(&mut self, text: &str) -> Result<()> {
        let before = (self.dial.clone(), self.parts.clone(), self.own.clone());
        let set = text.split(';').try_for_each(|text| self.set_one(text.trim())).and_then(|()| self.check_parts());
        if set.is_err() {
            (self.dial, self.parts, self.own) = before;
        }
        set
    }

    fn set_one(&mut self, text: &str) -> Result<()> {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or(("", text));
        let group = match word {
            "attn" => Some(Group::Attention),
            "mlp" => Some(Group::Mlp),
            "layers" => None,
            _ => return self.set_valves(text),
        };
        for (selector, dial) in parse_parts(flag(group), group, rest)? {
            self.parts.retain(|(other, _)| *other != selector);
            self.parts.push((selector, dial));
        }
        Ok(())
    }

    /// `NAME DIAL`, or `DIAL`. A name may hold blanks, as a file's may.
    fn set_valves(&mut self, text: &str) -> Result<()> {
        let dial_of =
            |valve: &Valve| text.strip_prefix(&name(valve)).filter(|rest| rest.starts_with(char::is_whitespace));
        let named = self.valves.iter().enumerate().find_map(|(i, valve)| Some((i, dial_of(valve)?)));
        match named {
            Some((i, dial)) => self.own[i] = Some(parse_dial("alpha", dial)?),
            None => {
                (self.dial, self.parts) = (parse_dial("alpha", text)?, Vec::new());
                self.own.fill(None);
            }
        }
        Ok(())
    }

    /// Whether every dial of a part turns something.
    pub fn check_parts(&self) -> Result<()> {
        let layers = self.engine.model().config().layers;
        for (selector, _) in &self.parts {
            let name = flag(selector.group);
            selector.check(layers).map_err(|e| named(name, e))?;
            let mut parts = self.valves.iter().flat_map(|valve| valve.adapter().parts());
            if !parts.any(|part| selector.selects(*part)) {
                return Err(Error::Argument { name, reason: "no valve has such a part".into() });
            }
        }
        Ok(())
    }

    /// How the valves stand, in the words of [`Loaded::set_alpha`].
    pub fn alpha(&self) -> String {
        let parts = self.parts.iter().map(|(selector, dial)| describe_part(selector, dial));
        let own = self.valves.iter().zip(&self.own);
        let own = own.filter_map(|(valve, dial)| Some(format!("{} {}", name(valve), dial.as_ref()?)));
        let all: Vec<String> = [self.dial.to_string()].into_iter().chain(parts).chain(own).collect();
        all.join("; ")
    }

    /// A session with every dial set.
    pub fn session(&self) -> Result<Session> {
        let mut session = self.engine.session();
        session.set_overflow(self.overflow)?;
        for (lora, scale) in &self.loras {
            session.set(lora, Dial::constant(*scale)?, Scope::All)?;
        }
        self.turn(&mut session)?;
        Ok(session)
    }

    /// Sets the valves' dials to where they stand now.
    pub fn turn(&self, session: &mut Session) -> Result<()> {
        self.valves.iter().zip(&self.own).try_for_each(|(valve, own)| {
            let dial = own.as_ref().unwrap_or(&self.dial).clone();
            session.set_with(valve, Setting { dial, scope: self.scope, parts: self.parts.clone() })
        })
    }
}
