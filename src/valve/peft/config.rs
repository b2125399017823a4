//! `adapter_config.json`: the scale of each module, and what makes an adapter more than low-rank terms.

use super::CONFIG_FILE;
use super::json::{Object, Ordered, number, parse};
use crate::error::{Error, Result};
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::path::{Path, PathBuf};

/// Largest rank that is read.
const MAX_RANK: u32 = 1 << 16;
/// Patterns of one field: more than any model has modules.
const MAX_PATTERNS: usize = 4096;
/// Bytes that a compiled pattern may take.
const MAX_PATTERN_BYTES: usize = 1 << 16;

/// What the file says of the low-rank terms.
pub(super) struct PeftConfig {
    pub path: PathBuf,
    rank: u32,
    alpha: f64,
    /// The scale is α/√r, not α/r.
    rslora: bool,
    ranks: Patterns<u32>,
    alphas: Patterns<f64>,
    targets: Targets,
    excluded: Targets,
    layers: Option<Vec<usize>>,
    pub base_model: Option<String>,
}

impl PeftConfig {
    /// Reads the file of a folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`], naming the field, for values that no PEFT writes;
    /// [`Error::Unsupported`], naming the field and why, for an adapter that is more than low-rank terms.
    pub fn read(folder: &Path) -> Result<Self> {
        let object = Object::read(folder.join(CONFIG_FILE))?;
        refuse(&object)?;
        let Some(rank) = object.get("r")? else {
            return Err(Error::malformed(object.path, "r: this field is missing"));
        };
        let Some(alpha) = object.number("lora_alpha")? else {
            return Err(Error::malformed(object.path, "lora_alpha: this field is missing"));
        };
        check_rank(&object.path, "r", rank)?;
        check_alpha(&object.path, "lora_alpha", alpha)?;
        let ranks = Patterns::read(&object, "rank_pattern", |path, key, value| {
            let rank = parse(path, key, value)?;
            check_rank(path, key, rank).map(|()| rank)
        })?;
        let alphas = Patterns::read(&object, "alpha_pattern", |path, key, value| {
            let alpha = number(path, key, value)?;
            check_alpha(path, key, alpha).map(|()| alpha)
        })?;
        Ok(Self {
            rank,
            alpha,
            rslora: object.get("use_rslora")?.unwrap_or(false),
            ranks,
            alphas,
            targets: Targets::read(&object, "target_modules")?,
            excluded: Targets::read(&object, "exclude_modules")?,
            layers: object.get::<OneOrMore<usize>>("layers_to_transform")?.map(OneOrMore::list),
            base_model: object.get("base_model_name_or_path")?.filter(|name: &String| !name.is_empty()),
            path: object.path,
        })
    }

    /// The rank a module's matrices must have.
    pub fn rank(&self, module: &str) -> u32 {
        self.ranks.of(module).unwrap_or(self.rank)
    }

    /// By what a module's B·A is multiplied: α/r, or α/√r.
    ///
    /// # Errors
    /// [`Error::Malformed`] if no finite `f32` other than 0 is near it.
    pub fn scale(&self, module: &str) -> Result<f32> {
        let (alpha, rank) = (self.alphas.of(module).unwrap_or(self.alpha), f64::from(self.rank(module)));
        let scale = (alpha / if self.rslora { rank.sqrt() } else { rank }) as f32;
        if scale.is_finite() && scale != 0.0 {
            return Ok(scale);
        }
        Err(Error::malformed(&self.path, format!("lora_alpha: {alpha} at rank {rank} gives {module} no usable scale")))
    }

    /// Whether PEFT would put an adapter on this module, which is in `layer`.
    pub fn covers(&self, module: &str, layer: Option<usize>) -> bool {
        let in_layers = self.layers.as_ref().is_none_or(|layers| layer.is_some_and(|l| layers.contains(&l)));
        let target = match &self.targets {
            Targets::Unsaid => true,
            Targets::AllLinear => layer.is_some(),
            Targets::Pattern(pattern) => pattern.is_match(module.as_bytes()),
            // A whole path counts in every layer.
            Targets::Names(names) => names.iter().any(|n| n == module) || in_layers && ends_with_any(module, names),
        };
        let excluded = match &self.excluded {
            Targets::Unsaid | Targets::AllLinear => false,
            Targets::Pattern(pattern) => pattern.is_match(module.as_bytes()),
            Targets::Names(names) => names.iter().any(|n| n == module) || ends_with_any(module, names),
        };
        target && !excluded
    }
}

fn ends_with_any(module: &str, names: &[String]) -> bool {
    names.iter().any(|name| module.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')))
}

fn check_rank(path: &Path, key: &str, rank: u32) -> Result<()> {
    if (1..=MAX_RANK).contains(&rank) {
        return Ok(());
    }
    Err(Error::malformed(path, format!("{key}: the rank {rank} is not between 1 and {MAX_RANK}")))
}

fn check_alpha(path: &Path, key: &str, alpha: f64) -> Result<()> {
    if alpha == 0.0 {
        return Err(Error::malformed(path, format!("{key}: 0 makes an adapter that does nothing")));
    }
    if (alpha as f32).is_finite() {
        return Ok(());
    }
    Err(Error::malformed(path, format!("{key}: {alpha} is out of range")))
}

/// A value, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn list(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::More(values) => values,
        }
    }
}

/// Values for the modules whose path, or the end of it after a dot, matches; the first match counts.
struct Patterns<T>(Vec<(String, Regex, T)>);

impl<T: Copy> Patterns<T> {
    fn read(object: &Object, field: &str, value: impl Fn(&Path, &str, &RawValue) -> Result<T>) -> Result<Self> {
        let Ordered(entries) = object.get::<Ordered<&RawValue>>(field)?.unwrap_or(Ordered(Vec::new()));
        if entries.len() > MAX_PATTERNS {
            let what = format!("{field}: {} patterns, at most {MAX_PATTERNS} are read", entries.len());
            return Err(Error::malformed(&object.path, what));
        }
        let each = |(key, raw): (String, &RawValue)| {
            let name = format!("{field}: {key}");
            let pattern = compile(&object.path, &name, &format!(r"^(?:.*\.)?(?:{key})$"))?;
            let value = value(&object.path, &name, raw)?;
            Ok((key, pattern, value))
        };
        entries.into_iter().map(each).collect::<Result<_>>().map(Self)
    }

    fn of(&self, module: &str) -> Option<T> {
        let matched = self.0.iter().find(|(_, pattern, _)| pattern.is_match(module.as_bytes()));
        let exact = || self.0.iter().find(|(key, _, _)| key == module);
        matched.or_else(exact).map(|(_, _, value)| *value)
    }
}

fn compile(path: &Path, name: &str, pattern: &str) -> Result<Regex> {
    // Module paths are ASCII; tables of Unicode classes would only make patterns large.
    RegexBuilder::new(pattern).unicode(false).size_limit(MAX_PATTERN_BYTES).build().map_err(|e| {
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim();
        Error::unsupported(path, format!("{name}: this pattern cannot be used: {reason}"))
    })
}

/// Which modules a field names.
enum Targets {
    Unsaid,
    AllLinear,
    Pattern(Regex),
    Names(Vec<String>),
}

impl Targets {
    fn read(object: &Object, field: &str) -> Result<Self> {
        Ok(match object.get::<OneOrMore<String>>(field)? {
            None => Self::Unsaid,
            Some(OneOrMore::More(names)) => Self::Names(names),
            Some(OneOrMore::One(word)) if word.eq_ignore_ascii_case("all-linear") => Self::AllLinear,
            Some(OneOrMore::One(text)) => Self::Pattern(compile(&object.path, field, &format!("^(?:{text})$"))?),
        })
    }
}

/// Ways to start that leave the base model's weights as they are.
const SOUND_STARTS: [&str; 5] = ["true", "false", "\"gaussian\"", "\"eva\"", "\"orthogonal\""];

/// Fields that, unless null, empty or false, make more of an adapter than low-rank terms on linear layers.
const REFUSED: [(&str, &str); 14] = [
    ("use_dora", "DoRA rescales the base model's rows; `merge_and_unload` in PEFT, or train without it"),
    ("modules_to_save", "modules saved whole replace the base model's"),
    ("fan_in_fan_out", "transposed weights; no model of this architecture has them"),
    ("megatron_config", "Megatron's parallel layers"),
    ("layer_replication", "it makes a model of more layers than the base"),
    ("alora_invocation_tokens", "activated LoRA acts only after certain tokens"),
    ("trainable_token_indices", "it changes embeddings"),
    ("target_parameters", "terms on parameters that are no linear layers"),
    ("lora_bias", "trained biases"),
    ("use_qalora", "QA-LoRA pools the inputs of A"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("arrow_config", "Arrow routes between several adapters"),
    ("corda_config", "CorDA's start changes the base model's weights"),
    ("lora_ga_config", "LoRA-GA's start changes the base model's weights"),
];

/// Fields of PEFT's that name a variant as [`REFUSED`] ones do, and change nothing that is saved.
const HARMLESS: [&str; 5] = ["use_rslora", "loftq_config", "eva_config", "runtime_config", "use_cache"];

/// Whether a value switches nothing on.
fn is_off(value: &RawValue) -> bool {
    let text: String = value.get().split_whitespace().collect();
    matches!(text.as_str(), "null" | "false" | "{}" | "[]" | "\"\"")
}

/// Refuses what is more than low-rank terms beside the base model's own weights.
fn refuse(object: &Object) -> Result<()> {
    let refused = |field: &str, why: &str| Err(Error::unsupported(&object.path, format!("{field}: {why}")));
    match object.get::<String>("peft_type")? {
        Some(kind) if kind == "LORA" => {}
        Some(kind) => return refused("peft_type", &format!("{kind:?}; only \"LORA\" is read")),
        None => return Err(Error::malformed(&object.path, "peft_type: this field is missing")),
    }
    for (field, value) in object.entries().filter(|(_, value)| !is_off(value)) {
        if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == field) {
            return refused(field, why);
        }
        let variant = field.starts_with("use_") && value.get() == "true" || field.ends_with("_config");
        if variant && !HARMLESS.contains(&field) {
            return refused(field, "a variant of LoRA that this engine does not know");
        }
        match field {
            "bias" if value.get() != "\"none\"" => return refused(field, "trained biases replace the base model's"),
            "init_lora_weights" if !SOUND_STARTS.contains(&value.get()) => {
                let why = "this start changes the base model's weights; save the adapter in PEFT with \
                           `path_initial_model_for_weight_conversion`, which makes a plain LoRA of it";
                return refused(field, &format!("{}: {why}", value.get()));
            }
            "layers_pattern" => {
                let names = parse::<OneOrMore<String>>(&object.path, field, value)?.list();
                if names.iter().any(|name| name != "layers") {
                    return refused(field, "layers are called \"layers\" in this architecture");
                }
            }
            _ => {}
        }
    }
    Ok(())
}
