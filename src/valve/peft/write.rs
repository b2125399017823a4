//! An adapter as a PEFT folder.

use super::names::{self, Order, PREFIX};
use super::read::Notes;
use super::{CONFIG_FILE, NOTES_FILE, TENSOR_FILE};
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::gguf::write::PartFile;
use crate::model::{Config, Site};
use crate::tensor::TensorType;
use crate::valve::load::Pair;
use crate::valve::recode;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

/// The pairs of an adapter, at least one.
pub(in crate::valve) struct Terms<'a> {
    pub pairs: &'a [Pair],
    /// The `lora_alpha` that gives every pair its scale, where there is one.
    pub alpha: Option<f32>,
}

/// Writes the folder `out`, which is made if it is not there. Each file is written under another name and renamed,
/// the config last: without it a folder is no adapter.
///
/// # Errors
/// [`Error::Argument`] for a type that safetensors adapters are not in, or values out of its range; [`Error::Io`].
pub(in crate::valve) fn write(
    terms: &Terms<'_>,
    notes: &Notes,
    config: &Config,
    ty: TensorType,
    out: &Path,
) -> Result<()> {
    let tensors = tensors(terms.pairs, config, ty)?;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    write_file(&out.join(TENSOR_FILE), &tensors)?;
    let notes_path = out.join(NOTES_FILE);
    if notes.is_empty() {
        // One that is left from another adapter would be taken for this one's.
        match std::fs::remove_file(&notes_path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&notes_path, e)),
            _ => {}
        }
    } else {
        write_file(&notes_path, pretty(&notes_json(notes)).as_bytes())?;
    }
    write_file(&out.join(CONFIG_FILE), pretty(&config_json(terms, notes, config)).as_bytes())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut part = PartFile::create(path)?;
    part.out.write_all(bytes).map_err(|e| Error::io(path, e))?;
    part.finish()
}

fn pretty(json: &Json) -> String {
    format!("{json:#}\n")
}

/// The safetensors file: A and B of every pair, rows of q and k in PEFT's order.
fn tensors(pairs: &[Pair], config: &Config, ty: TensorType) -> Result<Vec<u8>> {
    let dtype = match ty {
        TensorType::F32 => Dtype::F32,
        TensorType::F16 => Dtype::F16,
        TensorType::BF16 => Dtype::BF16,
        _ => return Err(Error::argument("type", format!("{ty}; PEFT adapters are f32, f16 or bf16"))),
    };
    let mut encoded = Vec::with_capacity(2 * pairs.len());
    for pair in pairs {
        let module = names::module(pair.site);
        for (tensor, half) in [(&pair.a, "lora_A"), (&pair.b, "lora_B")] {
            let mut bytes = recode::scaled(tensor, 1.0, ty)?;
            if half == "lora_B" && names::permuted(pair.site, config) {
                let head_dim = config.heads.head_dim;
                if !head_dim.is_multiple_of(2) {
                    let why = format!("{module}: heads of {head_dim} values have no halves to reorder");
                    return Err(Error::argument("model", why));
                }
                bytes = names::reorder(&bytes, bytes.len() / tensor.rows(), head_dim, Order::ToPeft);
            }
            encoded.push((format!("{PREFIX}{module}.{half}.weight"), vec![tensor.rows(), tensor.cols()], bytes));
        }
    }
    let wrong = |e: safetensors::SafeTensorError| Error::argument("adapter", e.to_string());
    let views = encoded.iter().map(|(name, shape, bytes)| {
        TensorView::new(dtype, shape.clone(), bytes).map(|view| (name.as_str(), view)).map_err(wrong)
    });
    safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None).map_err(wrong)
}

/// The value that most pairs have, and the modules with another.
fn common<T: PartialEq + Copy>(pairs: &[Pair], of: impl Fn(&Pair) -> T) -> (T, Vec<(String, T)>) {
    let count = |value: T| pairs.iter().filter(|pair| of(pair) == value).count();
    let most = pairs.iter().map(&of).max_by_key(|value| count(*value)).expect("an adapter has pairs");
    let others = pairs.iter().filter(|pair| of(pair) != most).map(|pair| (names::module(pair.site), of(pair)));
    (most, others.collect())
}

fn config_json(terms: &Terms<'_>, notes: &Notes, config: &Config) -> Json {
    let pairs = terms.pairs;
    let rank = |pair: &Pair| pair.b.cols();
    let alpha = |pair: &Pair| terms.alpha.map_or(f64::from(pair.scale) * rank(pair) as f64, f64::from);
    let (r, ranks) = common(pairs, rank);
    let (lora_alpha, alphas) = common(pairs, alpha);
    let pattern = |entries: Vec<(String, Json)>| Json::Object(Map::from_iter(entries));
    let ranks = ranks.into_iter().map(|(module, rank)| (module, json!(rank))).collect();
    let alphas = alphas.into_iter().map(|(module, alpha)| (module, number(alpha))).collect();
    let base = notes.iter().find(|(key, _)| key == "general.base_model.0.name").map(|(_, value)| value);
    let base = match base {
        Some(Value::Str(name)) => json!(name),
        _ => Json::Null,
    };
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
        "r": r, "lora_alpha": number(lora_alpha), "rank_pattern": pattern(ranks), "alpha_pattern": pattern(alphas),
        "target_modules": targets(pairs, config), "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false,
        "init_lora_weights": true, "inference_mode": true, "use_rslora": false, "use_dora": false,
        "modules_to_save": null, "layers_to_transform": null, "layers_pattern": null,
    })
}

/// A whole number as one: older releases of PEFT want an integer.
fn number(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) }
}

/// The last part of every module's path where all layers have the same modules, else whole paths.
fn targets(pairs: &[Pair], config: &Config) -> BTreeSet<String> {
    let mut layers: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for site in pairs.iter().map(|pair| pair.site) {
        if let Some(layer) = site.layer {
            layers.entry(layer).or_default().insert(names::short(site));
        }
    }
    let same = layers.values().all(|set| Some(set) == layers.values().next());
    let whole = !same || !layers.is_empty() && layers.len() < config.layers;
    let name = |site: Site| match names::short(site).rsplit('.').next() {
        Some(last) if !whole => last.to_owned(),
        _ => names::module(site),
    };
    pairs.iter().map(|pair| name(pair.site)).collect()
}

/// Each value with its type: `{"valve.curve.alpha": {"f32[]": [0, 0.5, 1]}}`.
fn notes_json(notes: &Notes) -> Json {
    let typed = |value: &Value| match value {
        Value::Array(array) => {
            let items: Vec<Json> = (0..array.len()).filter_map(|i| array.get(i)).map(|v| plain(&v)).collect();
            json!({ format!("{}[]", array.item_ty().name()): items })
        }
        value => json!({ value.ty().name(): plain(value) }),
    };
    Json::Object(notes.iter().map(|(key, value)| (key.clone(), typed(value))).collect())
}

/// A single value; floats in their shortest decimal, in quotes where JSON has no word for them.
fn plain(value: &Value) -> Json {
    let text = match value {
        Value::Str(v) => return json!(v),
        Value::Bool(v) => return json!(v),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::U64(v) => return json!(v),
        Value::I64(v) => return json!(v),
        Value::U8(v) => return json!(v),
        Value::I8(v) => return json!(v),
        Value::U16(v) => return json!(v),
        Value::I16(v) => return json!(v),
        Value::U32(v) => return json!(v),
        Value::I32(v) => return json!(v),
        Value::Array(_) => return Json::Null,
    };
    match text.parse::<f64>() {
        Ok(shortest) if shortest.is_finite() => json!(shortest),
        _ => json!(text),
    }
}
