//! The fields of a result: llama-bench's, by its names and in its order, then ours.

use super::machine;
use super::product::Case;
use super::run::{Measured, Rig};
use serde_json::{Map, Value, json};

/// How a field is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Text,
    Flag,
    Count,
    Real,
}

use Kind::{Count, Flag, Real, Text};

/// llama-bench's, before the samples.
pub const THEIRS: [(&str, Kind); 41] = [
    ("build_commit", Text),
    ("build_number", Count),
    ("cpu_info", Text),
    ("gpu_info", Text),
    ("backends", Text),
    ("model_filename", Text),
    ("model_type", Text),
    ("model_size", Count),
    ("model_n_params", Count),
    ("n_batch", Count),
    ("n_ubatch", Count),
    ("n_threads", Count),
    ("cpu_mask", Text),
    ("cpu_strict", Flag),
    ("poll", Count),
    ("type_k", Text),
    ("type_v", Text),
    ("n_gpu_layers", Count),
    ("n_cpu_moe", Count),
    ("split_mode", Text),
    ("main_gpu", Count),
    ("no_kv_offload", Flag),
    ("flash_attn", Count),
    ("devices", Text),
    ("tensor_split", Text),
    ("tensor_buft_overrides", Text),
    ("load_mode", Text),
    ("lazy_mode", Text),
    ("embeddings", Flag),
    ("no_op_offload", Count),
    ("no_host", Flag),
    ("fit_target", Count),
    ("fit_min_ctx", Count),
    ("n_prompt", Count),
    ("n_gen", Count),
    ("n_depth", Count),
    ("test_time", Text),
    ("avg_ns", Count),
    ("stddev_ns", Count),
    ("avg_ts", Real),
    ("stddev_ts", Real),
];

/// Ours. `rank` is the largest of the adapter, 0 without one; `alpha` is written as it is typed.
pub const OURS: [(&str, Kind); 9] = [
    ("valve", Text),
    ("rank", Count),
    ("alpha", Text),
    ("batch", Count),
    ("gb_per_s", Real),
    ("pct_of_peak", Real),
    ("gops", Real),
    ("pct_of_int8_peak", Real),
    ("hash", Text),
];

/// The name that stands for no valve.
pub const NO_VALVE: &str = "none";

/// How the field `name` is written, if it is one.
pub fn kind(name: &str) -> Option<Kind> {
    THEIRS.iter().chain(&OURS).find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// A result: every field of [`THEIRS`], `samples_ns`, `samples_ts`, then [`OURS`].
pub type Record = Map<String, Value>;

/// Mean, and standard deviation of a sample (0 of a single one).
pub fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    if samples.is_empty() {
        return (0.0, 0.0);
    }
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
    (mean, if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// What a test came to, against what `threads` threads can do at most: bytes and int8 operations a second.
pub fn record(rig: &Rig, case: &Case, measured: &Measured, limits: (f64, f64)) -> Record {
    let mut record = theirs(rig, case);
    let tokens = (case.batch * (case.prompt + case.generated)) as f64;
    let ns: Vec<f64> = measured.samples_ns.iter().map(|ns| *ns as f64).collect();
    let speeds: Vec<f64> = ns.iter().map(|ns| tokens * 1e9 / ns).collect();
    let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (mean_and_deviation(&ns), mean_and_deviation(&speeds));
    let seconds = avg_ns / 1e9;
    let rate = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
    let (read, computed) = (rate(measured.work.bytes), rate(measured.work.operations));
    let percent = |rate: f64, limit: f64| if limit > 0.0 { 100.0 * rate / limit } else { 0.0 };
    let adapter = rig.valve().map(|valve| valve.adapter());
    let valve = adapter.map_or(NO_VALVE.into(), |adapter| adapter.path().display().to_string());
    let rank = adapter.and_then(|adapter| adapter.pairs().iter().map(|pair| pair.a.rows()).max()).unwrap_or(0);
    let values = [
        ("test_time", json!(cotvalve::chat::utc_now())),
        ("avg_ns", json!(avg_ns as u64)),
        ("stddev_ns", json!(stddev_ns as u64)),
        ("avg_ts", json!(avg_ts)),
        ("stddev_ts", json!(stddev_ts)),
        ("samples_ns", json!(measured.samples_ns)),
        ("samples_ts", json!(speeds)),
        ("valve", json!(valve)),
        ("rank", json!(rank)),
        ("alpha", json!(case.opening.to_string())),
        ("batch", json!(case.batch)),
        ("gb_per_s", json!(read / 1e9)),
        ("pct_of_peak", json!(percent(read, limits.0))),
        ("gops", json!(computed / 1e9)),
        ("pct_of_int8_peak", json!(percent(computed, limits.1))),
        ("hash", json!(measured.hash)),
    ];
    record.extend(values.map(|(name, value)| (name.to_string(), value)));
    record
}

/// llama-bench's fields up to the test's lengths. What this engine has no choice of has llama-bench's word for what
/// it does: attention is always fused, no layer is on a GPU, files are mapped.
fn theirs(rig: &Rig, case: &Case) -> Record {
    let (setup, gguf) = (&case.setup, rig.model().gguf());
    let values = [
        ("build_commit", json!(concat!("cotvalve-", env!("CARGO_PKG_VERSION")))),
        ("build_number", json!(0)),
        ("cpu_info", json!(machine::cpu_name())),
        ("gpu_info", json!("")),
        ("backends", json!("CPU")),
        ("model_filename", json!(setup.model.display().to_string())),
        ("model_type", json!(machine::model_type(gguf))),
        ("model_size", json!(machine::bytes(gguf))),
        ("model_n_params", json!(machine::values(gguf))),
        ("n_batch", json!(setup.n_batch)),
        ("n_ubatch", json!(setup.n_ubatch)),
        ("n_threads", json!(setup.threads)),
        ("cpu_mask", json!("0x0")),
        ("cpu_strict", json!(false)),
        ("poll", json!(0)),
        ("type_k", json!(setup.kv_type.name())),
        ("type_v", json!(setup.kv_type.name())),
        ("n_gpu_layers", json!(0)),
        ("n_cpu_moe", json!(0)),
        ("split_mode", json!("none")),
        ("main_gpu", json!(0)),
        ("no_kv_offload", json!(false)),
        ("flash_attn", json!(1)),
        ("devices", json!("none")),
        ("tensor_split", json!("0.00")),
        ("tensor_buft_overrides", json!("none")),
        ("load_mode", json!("mmap")),
        ("lazy_mode", json!("off")),
        ("embeddings", json!(false)),
        ("no_op_offload", json!(0)),
        ("no_host", json!(false)),
        ("fit_target", json!(0)),
        ("fit_min_ctx", json!(0)),
        ("n_prompt", json!(case.prompt)),
        ("n_gen", json!(case.generated)),
        ("n_depth", json!(case.depth)),
    ];
    values.map(|(name, value)| (name.to_string(), value)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[]), (0.0, 0.0));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, f64::sqrt(2.0)));
    }
}
