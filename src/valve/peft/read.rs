//! A PEFT folder as an adapter.

use super::config::PeftConfig;
use super::json::{Object, Ordered};
use super::names::{self, Order, PREFIX};
use super::{NOTES_FILE, TENSOR_FILE};
use crate::error::{Error, Result};
use crate::gguf::{Array, Strings, Value, ValueType};
use crate::map::Bytes;
use crate::model::{Config, Site};
use crate::tensor::{Tensor, TensorType};
use crate::valve::load::{Adapter, Pair, shape};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

/// Names that one message lists.
const MOST_NAMED: usize = 8;

/// Reads a folder and checks every pair against the model's shapes. Rows of q and k are brought into the model
/// file's order; the tensors are copies.
///
/// # Errors
/// Those of [`PeftConfig::read`] and [`Adapter::open`]. All tensors of the file are applied, but for copies of the
/// base model's embedding and head, or it is refused and the message names those that would not be.
pub(in crate::valve) fn open(folder: &Path, config: &Config, has_output: bool) -> Result<Adapter> {
    let peft = PeftConfig::read(folder)?;
    let path = folder.join(TENSOR_FILE);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        let what = "adapter_model.bin is a pickle, which can run code; save the adapter as safetensors";
        return Err(Error::unsupported(folder, what));
    }
    let bytes = Bytes::map(&path)?;
    let tensors = parse(&path, &bytes)?;
    let mut halves: BTreeMap<&str, [Option<&TensorView<'_>>; 2]> = BTreeMap::new();
    let mut copies = Vec::new();
    for (name, view) in &tensors {
        match half_of(name) {
            Some((module, half)) => halves.entry(module).or_default()[half] = Some(view),
            None if is_copy(name, view, config) => copies.push(name.clone()),
            None => return Err(refused(&path, &tensors, config)),
        }
    }
    let mut pairs = Vec::with_capacity(halves.len());
    for (module, found) in halves {
        let [Some(a), Some(b)] = found else {
            let missing = if found[0].is_some() { "lora_B" } else { "lora_A" };
            return Err(Error::adapter(path, format!("{PREFIX}{module}.{missing}.weight is missing")));
        };
        pairs.push(Reader { path: &path, peft: &peft, config, has_output }.pair(module, a, b)?);
    }
    if pairs.is_empty() {
        return Err(Error::adapter(path, "it holds nothing that could be applied to this model"));
    }
    Ok(Adapter::of(folder, pairs, copies))
}

/// The tensors of a file, by name.
fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(String, TensorView<'a>)>> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| Error::malformed(path, e.to_string()))?;
    // The crate has checked the length of the header, but would take the last of two tensors of one name.
    let (length, rest) = bytes.split_first_chunk::<8>().expect("it has a header");
    let distinct = serde_json::from_slice::<Ordered<IgnoredAny>>(&rest[..u64::from_le_bytes(*length) as usize]);
    distinct.map_err(|e| Error::malformed(path, format!("header: {e}")))?;
    let mut tensors = tensors.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

/// Module and half (A is 0) of a low-rank matrix.
fn half_of(name: &str) -> Option<(&str, usize)> {
    let module = name.strip_prefix(PREFIX)?;
    let a = module.strip_suffix(".lora_A.weight").map(|module| (module, 0));
    a.or_else(|| module.strip_suffix(".lora_B.weight").map(|module| (module, 1)))
}

/// Whether a tensor is one that PEFT saves with an adapter on the head or the embedding though it is frozen: the base
/// model's own, as long as the vocabulary is the base model's.
fn is_copy(name: &str, view: &TensorView<'_>, config: &Config) -> bool {
    const COPIES: [&str; 3] = ["model.embed_tokens.weight", "lm_head.weight", "lm_head.base_layer.weight"];
    let module = name.strip_prefix(PREFIX).unwrap_or_default();
    COPIES.contains(&module) && view.shape() == [config.vocab, config.embed]
}

/// Why the tensors that are no half of a pair cannot be applied, all named.
fn refused(path: &Path, tensors: &[(String, TensorView<'_>)], config: &Config) -> Error {
    let is_other = |(name, view): &&(String, TensorView<'_>)| half_of(name).is_none() && !is_copy(name, view, config);
    let others = || tensors.iter().filter(is_other).map(|(name, _)| name.as_str());
    let first = others().next().unwrap_or_default();
    let why = if first.contains("lora_magnitude_vector") {
        "DoRA rescales the base model's rows; `merge_and_unload` in PEFT"
    } else if first.contains("lora_embedding_") {
        "it changes embeddings"
    } else if first.contains("embed_tokens") || first.contains("lm_head") {
        "another vocabulary than the model's"
    } else if first.ends_with(".bias") {
        "trained biases; `merge_and_unload` in PEFT"
    } else if first.contains("norm") {
        "norms saved whole; `merge_and_unload` in PEFT"
    } else if first.contains("modules_to_save") || first.contains("base_layer") {
        "a module saved whole; `merge_and_unload` in PEFT"
    } else {
        "no low-rank matrix of PEFT's (base_model.model.….lora_A.weight or .lora_B.weight)"
    };
    let count = others().count();
    let names: Vec<&str> = others().take(MOST_NAMED).collect();
    let more = if count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() };
    Error::unsupported(path, format!("{first:?}: {why}; not applied would be {names:?}{more}"))
}

struct Reader<'a> {
    path: &'a Path,
    peft: &'a PeftConfig,
    config: &'a Config,
    has_output: bool,
}

impl Reader<'_> {
    fn pair(&self, module: &str, a: &TensorView<'_>, b: &TensorView<'_>) -> Result<Pair> {
        let fail = |what: String| Err(Error::adapter(self.path, format!("{PREFIX}{module}: {what}")));
        let site = names::site(module, self.config.layers).filter(|s| s.layer.is_some() || self.has_output);
        let Some(site) = site else {
            let tied = if module == "lm_head" { ": its output is tied to the embedding" } else { "" };
            return fail(format!("the model has no such projection to add to{tied}"));
        };
        if !self.peft.covers(module, site.layer) {
            return fail(format!("{} does not name it as a target, so PEFT would ignore it", self.peft.path.display()));
        }
        let rank = self.peft.rank(module) as usize;
        let [n_in, n_out] = shape(site, self.config);
        if a.shape() != [rank, n_in] || b.shape() != [n_out, rank] {
            let (a, b) = (a.shape(), b.shape());
            return fail(format!("A {a:?} and B {b:?} do not fit rank {rank} on a weight [{n_out}, {n_in}]"));
        }
        let a = self.tensor(module, site, "lora_a", a, a.data())?;
        let head_dim = self.config.heads.head_dim;
        let b = if !names::permuted(site, self.config) {
            self.tensor(module, site, "lora_b", b, b.data())?
        } else if head_dim.is_multiple_of(2) {
            let rows = names::reorder(b.data(), b.data().len() / n_out, head_dim, Order::ToGguf);
            self.tensor(module, site, "lora_b", b, &rows)?
        } else {
            return fail(format!("heads of {head_dim} values have no halves to reorder"));
        };
        Ok(Pair { site, a, b, scale: self.peft.scale(module)? })
    }

    /// A copy, named as in a GGUF adapter.
    fn tensor(&self, module: &str, site: Site, half: &str, view: &TensorView<'_>, data: &[u8]) -> Result<Tensor> {
        let ty = match view.dtype() {
            Dtype::F32 => TensorType::F32,
            Dtype::F16 => TensorType::F16,
            Dtype::BF16 => TensorType::BF16,
            other => {
                let what = format!("{PREFIX}{module}: tensors of type {other:?}; F32, F16 and BF16 are");
                return Err(Error::unsupported(self.path, what));
            }
        };
        let dims = view.shape().iter().rev().copied().collect();
        Ok(Tensor { name: format!("{}.{half}", site.name()), ty, dims, data: Bytes::from(data.to_vec()) })
    }
}

/// GGUF metadata that goes with an adapter and says nothing of its terms.
pub(in crate::valve) type Notes = Vec<(String, Value)>;

/// The notes of a folder: what `valve.json` keeps, and the base model's name.
///
/// # Errors
/// [`Error::Malformed`], naming file and key.
pub(in crate::valve) fn notes(folder: &Path) -> Result<Notes> {
    let mut notes = Notes::new();
    if folder.join(NOTES_FILE).exists() {
        let object = Object::read(folder.join(NOTES_FILE))?;
        for (key, value) in object.entries() {
            let typed: Ordered<&RawValue> = super::json::parse(&object.path, key, value)?;
            let value = match &typed.0[..] {
                [(ty, value)] => note(ty, value),
                _ => None,
            };
            let Some(value) = value else {
                let what = format!("{key}: an object {{TYPE: VALUE}} of a GGUF type is wanted");
                return Err(Error::malformed(&object.path, what));
            };
            notes.push((key.into(), value));
        }
    }
    if !notes.iter().any(|(key, _)| key.starts_with("general.base_model."))
        && let Some(name) = PeftConfig::read(folder)?.base_model
    {
        notes.push(("general.base_model.count".into(), 1_u32.into()));
        notes.push(("general.base_model.0.name".into(), name.into()));
    }
    Ok(notes)
}

/// A value of the type called `ty`, which is an array's where it ends in `[]`.
fn note(ty: &str, value: &RawValue) -> Option<Value> {
    let (item, many) = ty.strip_suffix("[]").map_or((ty, false), |item| (item, true));
    if item == ValueType::Str.name() {
        if many {
            let list: Vec<String> = serde_json::from_str(value.get()).ok()?;
            return Some(Value::Array(Array::Str(list.iter().collect::<Strings>())));
        }
        return serde_json::from_str::<String>(value.get()).ok().map(Value::from);
    }
    match item {
        "u8" => numbers::<u8>(many, value),
        "i8" => numbers::<i8>(many, value),
        "u16" => numbers::<u16>(many, value),
        "i16" => numbers::<i16>(many, value),
        "u32" => numbers::<u32>(many, value),
        "i32" => numbers::<i32>(many, value),
        "u64" => numbers::<u64>(many, value),
        "i64" => numbers::<i64>(many, value),
        "f32" => numbers::<f32>(many, value),
        "f64" => numbers::<f64>(many, value),
        "bool" => numbers::<bool>(many, value),
        _ => None,
    }
}

/// Numbers are taken as their text says, in quotes or not: JSON has no word for infinity.
fn numbers<T: FromStr>(many: bool, value: &RawValue) -> Option<Value>
where
    Value: From<T> + From<Vec<T>>,
{
    let one = |value: &RawValue| value.get().trim_matches('"').parse::<T>().ok();
    if !many {
        return one(value).map(Value::from);
    }
    let items: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
    items.into_iter().map(one).collect::<Option<Vec<T>>>().map(Value::from)
}
