//! The fields of [`Sampling`] by the names that flags and commands use: llama.cpp's.

use super::settings::{Grammar, Sampling};
use crate::error::{Error, Result};
use std::str::FromStr;

/// Any JSON object.
const ANY_OBJECT: &str = r#"{"type":"object"}"#;
/// What empties a list.
const NONE: &str = "none";

/// A field of [`Sampling`] that can be set by text.
#[derive(Clone, Copy)]
pub struct Field {
    /// Its long flag, without dashes.
    pub name: &'static str,
    /// Its one-letter flag.
    pub short: Option<char>,
    /// Another long flag.
    pub alias: Option<&'static str>,
    /// What its value is called; a field without is turned on by its bare name.
    pub value: Option<&'static str>,
    /// Setting it again adds to it.
    pub list: bool,
    /// One line of help.
    pub about: &'static str,
    get: fn(&Sampling) -> String,
    set: fn(&mut Sampling, &str) -> Result<()>,
}

impl Field {
    /// Its value in `sampling`, as text that [`Sampling::set`] takes; that of a list is for display.
    pub fn get(&self, sampling: &Sampling) -> String {
        (self.get)(sampling)
    }

    /// Sets it without checking its range.
    ///
    /// # Errors
    /// [`Error::Argument`] for text that is no value of this field.
    pub fn parse(&self, sampling: &mut Sampling, text: &str) -> Result<()> {
        (self.set)(sampling, text)
    }

    fn is_called(&self, name: &str) -> bool {
        let letter = self.short.is_some_and(|short| name.chars().eq([short]));
        letter || self.name == name || self.alias == Some(name)
    }
}

impl Sampling {
    /// Every field that can be set by text, in the order of the stages.
    pub fn fields() -> &'static [Field] {
        FIELDS
    }

    /// Sets the field with the flag `name` (`top-k`, `temp`, `l`) to what `text` says. A list gets `text` added;
    /// `none` empties it, and the grammar. The settings stay as they are if the result would not pass
    /// [`Sampling::check`].
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that no field has, or a value out of range.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let Some(field) = FIELDS.iter().find(|field| field.is_called(name)) else {
            return Err(Error::argument("sampling", format!("there is no field {name:?}")));
        };
        let mut changed = self.clone();
        field.parse(&mut changed, text)?;
        changed.check()?;
        *self = changed;
        Ok(())
    }
}

const fn field(
    name: &'static str,
    value: &'static str,
    about: &'static str,
    get: fn(&Sampling) -> String,
    set: fn(&mut Sampling, &str) -> Result<()>,
) -> Field {
    Field { name, short: None, alias: None, value: Some(value), list: false, about, get, set }
}

/// A field that holds a number.
macro_rules! number {
    ($name:literal, $value:literal, $field:ident, $about:literal) => {
        field(
            $name,
            $value,
            $about,
            |s| s.$field.to_string(),
            |s, text| {
                s.$field = parse($name, text)?;
                Ok(())
            },
        )
    };
}

/// A field that holds texts.
macro_rules! texts {
    ($name:literal, $field:ident, $about:literal) => {
        Field {
            list: true,
            ..field(
                $name,
                "TEXT",
                $about,
                |s| format!("{:?}", s.$field),
                |s, text| {
                    add(&mut s.$field, text, &Sampling::default().$field);
                    Ok(())
                },
            )
        }
    };
}

static FIELDS: &[Field] = &[
    Field {
        short: Some('s'),
        ..field("seed", "N", "Same seed, same text; -1 draws one from the clock", |s| s.seed.to_string(), set_seed)
    },
    Field {
        alias: Some("temperature"),
        ..number!("temp", "T", temperature, "Temperature; 0 takes the likeliest token")
    },
    number!("dynatemp-range", "T", dynatemp_range, "How far the temperature follows the entropy; 0 keeps it fixed"),
    number!("dynatemp-exp", "X", dynatemp_exponent, "Power of the entropy by which it does"),
    number!("top-k", "K", top_k, "Keep the K likeliest tokens; 0 keeps all"),
    number!("top-p", "P", top_p, "Keep the fewest tokens whose probabilities reach P; 1 keeps all"),
    number!("min-p", "P", min_p, "Keep tokens at least P times as likely as the likeliest"),
    Field {
        alias: Some("typical-p"),
        ..number!(
            "typical",
            "P",
            typical_p,
            "Keep the tokens of most typical surprise, up to probability P; 1 keeps all"
        )
    },
    Field {
        alias: Some("top-n-sigma"),
        ..number!(
            "top-nsigma",
            "N",
            top_n_sigma,
            "Keep logits within N standard deviations of the highest; -1 keeps all"
        )
    },
    number!("min-keep", "N", min_keep, "Tokens that the filters leave at least"),
    number!("xtc-probability", "P", xtc_probability, "How often XTC takes out the likeliest tokens"),
    number!("xtc-threshold", "P", xtc_threshold, "What XTC counts as likely; above 0.5 it does nothing"),
    number!("repeat-penalty", "X", repeat_penalty, "Penalty on recent tokens; 1 is none"),
    number!("repeat-last-n", "N", repeat_last_n, "Tokens that count as recent, prompt and answer"),
    number!("frequency-penalty", "X", frequency_penalty, "Penalty on recent tokens, for each time they occur"),
    number!("presence-penalty", "X", presence_penalty, "Penalty on recent tokens, once"),
    number!("dry-multiplier", "X", dry_multiplier, "Strength of DRY, the penalty on repetitions; 0 is none"),
    number!("dry-base", "X", dry_base, "How DRY grows with the length of a repetition"),
    number!("dry-allowed-length", "N", dry_allowed_length, "Tokens that may be repeated at no cost"),
    number!("dry-penalty-last-n", "N", dry_last_n, "Tokens that are searched for repetitions"),
    texts!(
        "dry-sequence-breaker",
        dry_breakers,
        "Text at which a repetition starts anew; repeatable, `none` for no such text"
    ),
    number!("mirostat", "N", mirostat, "2 for Mirostat 2.0, which takes the place of the filters and penalties"),
    number!("mirostat-ent", "X", mirostat_tau, "Surprise that Mirostat aims at, in bits"),
    number!("mirostat-lr", "X", mirostat_eta, "Learning rate of Mirostat"),
    Field {
        short: Some('l'),
        list: true,
        ..field(
            "logit-bias",
            "TOKEN(+|-)BIAS",
            "Add to a token's logit: `11+1.5`, `11-inf` forbids; repeatable",
            |s| format!("{:?}", s.logit_bias),
            set_bias,
        )
    },
    Field {
        value: None,
        ..field(
            "ignore-eos",
            "",
            "Never draw a token that ends the answer",
            |s| s.ignore_eos.to_string(),
            |s, text| {
                s.ignore_eos = parse("ignore-eos", text)?;
                Ok(())
            },
        )
    },
    Field {
        short: Some('r'),
        alias: Some("stop"),
        ..texts!("reverse-prompt", stop, "Text that ends the answer before it; repeatable")
    },
    field(
        "logprobs",
        "N",
        "Report log-probabilities, and the N likeliest tokens",
        |s| s.logprobs.map_or(NONE.into(), |n| n.to_string()),
        |s, text| {
            s.logprobs = if text == NONE { None } else { Some(parse("logprobs", text)?) };
            Ok(())
        },
    ),
    Field {
        short: Some('j'),
        ..field("json-schema", "SCHEMA", "Answer with JSON that the schema describes", schema, |s, text| {
            set_grammar(s, text, Grammar::JsonSchema)
        })
    },
    field(
        "grammar",
        "GRAMMAR",
        "Answer with what a GBNF grammar describes, or a Lark one behind `%llguidance`",
        grammar,
        |s, text| {
            let lark = text.trim_start().starts_with("%llguidance");
            set_grammar(s, text, if lark { Grammar::Lark } else { Grammar::Gbnf })
        },
    ),
    field("response-format", "FORMAT", "json: answer with a JSON object; text: with anything", format, |s, text| {
        match text {
            "json" | "json_object" => set_grammar(s, ANY_OBJECT, Grammar::JsonSchema),
            "text" => set_grammar(s, NONE, Grammar::JsonSchema),
            other => Err(Error::argument("response-format", format!("{other:?} is neither json nor text"))),
        }
    }),
    field(
        "grammar-after",
        "TEXT",
        "Let schema or grammar hold only after this text, such as `</think>`",
        |s| s.grammar_after.clone(),
        |s, text| {
            s.grammar_after = if text == NONE { String::new() } else { text.into() };
            Ok(())
        },
    ),
];

fn parse<T: FromStr>(name: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::argument(name, format!("{text:?} is no value of its kind")))
}

/// Adds a text to a list, in place of what the list holds by default.
fn add(list: &mut Vec<String>, text: &str, default: &[String]) {
    if text == NONE || *list == default {
        list.clear();
    }
    if text != NONE {
        list.push(text.into());
    }
}

fn set_seed(sampling: &mut Sampling, text: &str) -> Result<()> {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |t| u64::from(t.subsec_nanos()) ^ t.as_secs());
    sampling.seed = if text == "-1" { clock() } else { parse("seed", text)? };
    Ok(())
}

fn set_bias(sampling: &mut Sampling, text: &str) -> Result<()> {
    if text == NONE {
        sampling.logit_bias.clear();
        return Ok(());
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (token, bias) = text.split_at(digits);
    let signed = bias.starts_with(['+', '-']);
    match (token.parse(), bias.parse()) {
        (Ok(token), Ok(bias)) if signed => sampling.logit_bias.push((token, bias)),
        _ => return Err(Error::argument("logit-bias", format!("{text:?} is not of the form 11+1.5 or 11-1.5"))),
    }
    Ok(())
}

fn set_grammar(sampling: &mut Sampling, text: &str, kind: fn(String) -> Grammar) -> Result<()> {
    sampling.grammar = (text != NONE).then(|| kind(text.into()));
    Ok(())
}

fn schema(sampling: &Sampling) -> String {
    match &sampling.grammar {
        Some(Grammar::JsonSchema(text)) => text.clone(),
        _ => NONE.into(),
    }
}

fn grammar(sampling: &Sampling) -> String {
    match &sampling.grammar {
        Some(Grammar::Gbnf(text) | Grammar::Lark(text)) => text.clone(),
        _ => NONE.into(),
    }
}

fn format(sampling: &Sampling) -> String {
    if schema(sampling) == NONE { "text".into() } else { "json".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_takes_what_it_shows() {
        let default = Sampling::default();
        for field in Sampling::fields().iter().filter(|field| !field.list) {
            let mut sampling = default.clone();
            let shown = field.get(&default);
            sampling.set(field.name, &shown).unwrap_or_else(|e| panic!("{} {shown:?}: {e}", field.name));
            assert_eq!(sampling, default, "{}", field.name);
        }
    }

    #[test]
    fn names_are_flags_and_lists_grow() {
        let mut s = Sampling::default();
        for (name, text) in [("temperature", "0.5"), ("top-k", "7"), ("l", "11-inf"), ("logit-bias", "3+1.5")] {
            s.set(name, text).unwrap();
        }
        for (name, text) in [("r", "\n\n"), ("stop", "END"), ("ignore-eos", "true"), ("typical-p", "0.9")] {
            s.set(name, text).unwrap();
        }
        s.set("dry-sequence-breaker", ".").unwrap();
        assert_eq!((s.temperature, s.top_k, s.ignore_eos, s.typical_p), (0.5, 7, true, 0.9));
        assert_eq!(s.logit_bias, [(11, f32::NEG_INFINITY), (3, 1.5)]);
        assert_eq!((s.stop.len(), &s.dry_breakers[..]), (2, &[".".to_string()][..]));
        s.set("stop", "none").unwrap();
        assert!(s.stop.is_empty());
        let show = |s: &Sampling| {
            ["json-schema", "grammar", "response-format"]
                .map(|name| Sampling::fields().iter().find(|field| field.name == name).unwrap().get(s))
        };
        let mut s = Sampling::default();
        s.set("j", "{}").unwrap();
        assert_eq!(show(&s), ["{}", "none", "json"]);
        s.set("grammar", "root ::= \"a\"").unwrap();
        assert_eq!(show(&s), ["none", "root ::= \"a\"", "text"]);
    }

    #[test]
    fn a_value_out_of_range_changes_nothing() {
        let mut s = Sampling::default();
        for (name, text, complaint) in [
            ("top-p", "1.5", "top_p: 1.5 is not between 0 and 1"),
            ("top-k", "-1", "top-k: \"-1\" is no value of its kind"),
            ("temp", "nan", "temperature: NaN is not between 0 and 1000000"),
            ("mirostat", "1", "mirostat: 1 is neither 0 nor 2"),
            ("logit-bias", "11", "logit-bias: \"11\" is not of the form 11+1.5 or 11-1.5"),
            ("logit-bias", "11+nan", "logit_bias: that of token 11 is no number"),
            ("stop", "", "stop: a text of 0 bytes; 1 to 1024 are allowed"),
            ("top-j", "1", "sampling: there is no field \"top-j\""),
        ] {
            assert_eq!(s.set(name, text).unwrap_err().to_string(), complaint);
        }
        assert_eq!(s, Sampling::default());
    }
}
