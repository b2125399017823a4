//! Sampling settings as the fixtures of llama.cpp's samplers store them.

use cotvalve::sampler::Sampling;
use serde_json::Value;

/// Settings under which no stage does anything.
pub fn open() -> Sampling {
    let dry_breakers = Vec::new();
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, dry_breakers, ..Sampling::default() }
}

pub fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// `base` with the fields that `changed` names.
pub fn settings(changed: &Value, base: Sampling) -> Sampling {
    let mut s = base;
    for (name, value) in changed.as_object().unwrap() {
        let float = value.as_f64().unwrap_or_default() as f32;
        match name.as_str() {
            "temperature" => s.temperature = float,
            "dynatemp_range" => s.dynatemp_range = float,
            "dynatemp_exponent" => s.dynatemp_exponent = float,
            "top_k" => s.top_k = float as usize,
            "top_p" => s.top_p = float,
            "min_p" => s.min_p = float,
            "typical_p" => s.typical_p = float,
            "top_n_sigma" => s.top_n_sigma = float,
            "min_keep" => s.min_keep = float as usize,
            "xtc_probability" => s.xtc_probability = float,
            "xtc_threshold" => s.xtc_threshold = float,
            "repeat_penalty" => s.repeat_penalty = float,
            "repeat_last_n" => s.repeat_last_n = float as usize,
            "frequency_penalty" => s.frequency_penalty = float,
            "presence_penalty" => s.presence_penalty = float,
            "dry_multiplier" => s.dry_multiplier = float,
            "dry_base" => s.dry_base = float,
            "dry_allowed_length" => s.dry_allowed_length = float as usize,
            "dry_last_n" => s.dry_last_n = float as usize,
            "mirostat" => s.mirostat = float as u8,
            "mirostat_tau" => s.mirostat_tau = float,
            "logit_bias" => s.logit_bias = serde_json::from_value(value.clone()).unwrap(),
            other => panic!("the fixture has a field {other}"),
        }
    }
    s
}
