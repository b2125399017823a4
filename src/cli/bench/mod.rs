//! `valve bench`: speed by llama-bench's flags, tests and formats, with a valve.
//!
//! The library half measures and knows no format ([`product`], [`run`], [`work`], [`limits`]); the other half writes
//! and reads results ([`record`], [`mod@format`], [`read`], [`compare`]).

mod compare;
mod format;
mod limits;
mod lists;
mod machine;
mod product;
mod read;
mod record;
mod run;
#[cfg(test)]
mod tests;
mod work;

use self::compare::Comparison;
use self::format::{Format, Printer};
use self::limits::Limits;
use self::lists::{Opening, counts, openings, pairs};
use self::product::{Case, Lists, ValveChoice};
use self::run::{Measured, Rig, Schedule, Stopper};
use super::options::DEFAULT_MODEL;
use super::pull;
use clap::Args;
use cotvalve::engine::EngineOptions;
use cotvalve::error::{Error, Result};
use cotvalve::model::Model;
use cotvalve::tensor::TensorType;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// llama-bench's, which a table need not show.
const DEFAULT_BATCH: usize = 2048;
const DEFAULT_UBATCH: usize = 512;
const DEFAULT_KV: TensorType = TensorType::F16;

/// Measure speed, as llama-bench does
///
/// Every flag of a test takes a comma list and can be repeated; numbers also as FIRST-LAST, FIRST-LAST+STEP or
/// FIRST-LAST*FACTOR. The product of all of them is run. Without -m and --valve the default model is measured without
/// its valve, with it closed (what attaching costs) and open.
///
/// gb_per_s counts the weights, the open valve and the keys and values that each step reads; gops every multiply and
/// add. Both stand beside what this machine can do at most. The hash is that of the bits of the last logits of each
/// sequence, of tokens that depend on the lengths alone: the same model, valve, alpha, cache type, batch and lengths
/// have the same hash on every machine, whatever the threads, batch sizes and instruction set.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Bench {
    #[command(flatten)]
    tests: TestArgs,
    /// Times that each test is repeated
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    repetitions: usize,
    /// What is printed to standard output
    #[arg(short, long, value_enum, default_value = "md")]
    output: Format,
    /// What is printed to standard error
    #[arg(long, visible_alias = "oe", value_enum, default_value = "none")]
    output_err: Format,
    /// Seconds to wait before each test
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    delay: u64,
    /// Skip the run before the repetitions; the hash is then made after them
    #[arg(long)]
    no_warmup: bool,
    /// Say on standard error what is being run
    #[arg(long)]
    progress: bool,
    /// Measure what this machine can do at most again, though it is known
    #[arg(long)]
    measure_limits: bool,
    /// Compare two results, ours or llama-bench's, in any of the formats; nothing is measured
    #[arg(long, value_names = ["A", "B"], num_args = 2)]
    compare: Vec<PathBuf>,
    /// With --compare: fail if the speed of a test in B is less than RATIO times that in A, or is missing
    #[arg(long, value_name = "RATIO", requires = "compare")]
    fail_below: Option<f64>,
}

/// What the tests are the product of.
#[derive(Args)]
struct TestArgs {
    /// Model files (GGUF)
    #[arg(short, long, value_name = "FILE")]
    model: Vec<String>,
    /// Tokens of a prompt; 0 for no such test
    #[arg(short = 'p', long, value_name = "N", default_value = "512")]
    n_prompt: Vec<String>,
    /// Tokens decoded one by one; 0 for no such test
    #[arg(short, long, value_name = "N", default_value = "128")]
    n_gen: Vec<String>,
    /// A prompt, and tokens decoded after it
    #[arg(long = "pg", value_name = "PP,TG")]
    prompt_gen: Vec<String>,
    /// Tokens that are in the cache before
    #[arg(short = 'd', long, value_name = "N", default_value = "0")]
    n_depth: Vec<String>,
    /// Prompt tokens handed over at once; a step computes the lesser of this and -ub
    #[arg(short, long, value_name = "N", default_value = "2048")]
    batch_size: Vec<String>,
    /// Prompt tokens computed at once
    #[arg(long, visible_alias = "ub", value_name = "N", default_value = "512")]
    ubatch_size: Vec<String>,
    /// Types of cached keys: f16, f32, q8_0. Values are of the same: -ctv alone sets both
    #[arg(long, visible_alias = "ctk", value_name = "TYPE")]
    cache_type_k: Vec<String>,
    /// Types of cached values: pairs that differ are left out, which is said
    #[arg(long, visible_alias = "ctv", value_name = "TYPE")]
    cache_type_v: Vec<String>,
    /// Threads; all if not given
    #[arg(short, long, value_name = "N")]
    threads: Vec<String>,
    /// Layers on a GPU: 0 and -1 are taken; for more it is said that the processor computes all
    #[arg(long, visible_alias = "ngl", value_name = "N", allow_hyphen_values = true)]
    n_gpu_layers: Vec<String>,
    /// Fused attention: on, auto, 1, -1; for off it is said that it always is
    #[arg(long, visible_alias = "fa", value_name = "on|off|auto", allow_hyphen_values = true)]
    flash_attn: Vec<String>,
    /// Adapters, one at a time, or `none`; with an ALPHA of its own one is not swept
    #[arg(long, value_name = "FILE[:ALPHA]")]
    valve: Vec<String>,
    /// Openings, each a number, A/B/... (the sequences of a batch in turn) or A..B (another at every token)
    #[arg(long, value_name = "ALPHA", default_value = "0,1", allow_hyphen_values = true)]
    alpha: Vec<String>,
    /// Every number A of --alpha means 0..A: another at every token
    #[arg(long)]
    alpha_each_token: bool,
    /// Sequences computed at once; t/s counts the tokens of all
    #[arg(long, value_name = "N", default_value = "1")]
    batch: Vec<String>,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        if let [a, b] = &self.compare[..] {
            let comparison = Comparison::of(a, b)?;
            super::print(&comparison.text)?;
            return self.fail_below.map_or(Ok(()), |least| comparison.check(least));
        }
        if self.repetitions == 0 {
            return Err(Error::Argument { name: "repetitions", reason: "must be at least 1".into() });
        }
        let (cases, left_out) = self.tests.lists()?.cases();
        left_out.iter().for_each(|reason| eprintln!("valve: {reason}"));
        if cases.is_empty() {
            return Err(Error::Argument { name: "tests", reason: "there are none to run".into() });
        }
        let stopper = Stopper::default();
        let handle = stopper.clone();
        super::on_interrupt(move || handle.stop());
        let mut output = Output::new(&self, &cases)?;
        let mut limits = Limits::open(self.measure_limits)?;
        self.measure(&cases, &stopper, &mut limits, &mut output)?;
        output.finish()
    }

    /// Runs every test, one load of the weights after the other.
    fn measure(&self, cases: &[Case], stopper: &Stopper, limits: &mut Limits, output: &mut Output) -> Result<()> {
        let delay = Duration::from_secs(self.delay);
        let schedule = Schedule { repetitions: self.repetitions, delay, warmup: !self.no_warmup };
        let (mut model, mut number): (Option<Arc<Model>>, usize) = (None, 0);
        for group in cases.chunk_by(|a, b| a.setup == b.setup) {
            let setup = &group[0].setup;
            let open = match model.take().filter(|open| open.path() == setup.model) {
                Some(open) => open,
                None => Model::open(&setup.model)?,
            };
            let mut rig = Rig::new(open.clone(), setup, group, stopper)?;
            model = Some(open);
            for case in group {
                number += 1;
                let mut say = |what: &str| {
                    if self.progress {
                        eprintln!("valve bench: test {number}/{}: {}: {what}", cases.len(), case.name());
                    }
                };
                let measured = rig.measure(case, schedule, &mut say)?;
                output.result(&rig, case, &measured, limits)?;
                if stopper.is_stopped() {
                    let complete = number - usize::from(measured.samples_ns.len() < self.repetitions);
                    eprintln!("valve: stopped: {complete} of {} tests are complete", cases.len());
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Where results go: standard output and standard error.
struct Output {
    out: Printer,
    err: Printer,
}

impl Output {
    fn new(bench: &Bench, cases: &[Case]) -> Result<Self> {
        let output = Self { out: Printer::new(bench.output, cases), err: Printer::new(bench.output_err, cases) };
        super::print(&output.out.header())?;
        eprint!("{}", output.err.header());
        Ok(output)
    }

    /// Writes what a test came to, if any of it was run.
    fn result(&mut self, rig: &Rig, case: &Case, measured: &Measured, limits: &mut Limits) -> Result<()> {
        if measured.samples_ns.is_empty() {
            return Ok(());
        }
        let limits = limits.at(case.setup.threads, measured.weight_bytes);
        let record = record::record(rig, case, measured, limits);
        eprint!("{}", self.err.result(&record));
        super::print(&self.out.result(&record))
    }

    fn finish(&self) -> Result<()> {
        eprint!("{}", self.err.footer());
        super::print(&self.out.footer())
    }
}

impl TestArgs {
    fn lists(&self) -> Result<Lists> {
        self.say_what_has_no_effect()?;
        let (models, valves) = self.files()?;
        let mut alphas = openings("alpha", &self.alpha)?;
        if self.alpha_each_token {
            alphas = alphas.into_iter().map(Opening::each_token).collect();
        }
        let threads = match &self.threads[..] {
            [] => vec![EngineOptions::default().threads],
            texts => counts("threads", texts)?,
        };
        Ok(Lists {
            models,
            valves,
            openings: alphas,
            n_batch: counts("batch-size", &self.batch_size)?,
            n_ubatch: counts("ubatch-size", &self.ubatch_size)?,
            kv_types: self.kv_types()?,
            threads,
            batches: positive("batch", counts("batch", &self.batch)?)?,
            depths: counts("n-depth", &self.n_depth)?,
            prompts: counts("n-prompt", &self.n_prompt)?,
            generated: counts("n-gen", &self.n_gen)?,
            pairs: pairs("pg", &self.prompt_gen)?,
        })
    }

    /// Models and valves; the default model's if none is named.
    fn files(&self) -> Result<(Vec<PathBuf>, Vec<Option<ValveChoice>>)> {
        let mut models: Vec<PathBuf> = self.model.iter().flat_map(|text| file_list(text)).map(PathBuf::from).collect();
        let mut valves = Vec::new();
        for text in self.valve.iter().flat_map(|text| file_list(text)) {
            valves.push((text != record::NO_VALVE).then(|| valve_choice(text)));
        }
        if models.is_empty() {
            let pulled = pull::ensure(DEFAULT_MODEL, false)?;
            models.push(pulled.path);
            if valves.is_empty() {
                let bundled = pulled.valves.into_iter().map(|path| Some(ValveChoice { path, opening: None }));
                valves = std::iter::once(None).chain(bundled).collect();
            }
        }
        if valves.is_empty() {
            valves.push(None);
        }
        Ok((models, valves))
    }

    /// Keys' and values' types where they agree, which is all that there is.
    fn kv_types(&self) -> Result<Vec<TensorType>> {
        let (keys, values) =
            (kv_types("cache-type-k", &self.cache_type_k)?, kv_types("cache-type-v", &self.cache_type_v)?);
        let both = match (&keys[..], &values[..]) {
            ([], []) => vec![DEFAULT_KV],
            (one, []) | ([], one) => one.to_vec(),
            (keys, values) => {
                for key in keys {
                    for value in values.iter().filter(|value| *value != key) {
                        eprintln!("valve: keys and values are of one type: -ctk {key} is not run with -ctv {value}");
                    }
                }
                keys.iter().copied().filter(|key| values.contains(key)).collect()
            }
        };
        match both.is_empty() {
            true => Err(Error::Argument { name: "cache-type-k", reason: "no type is one of cache-type-v too".into() }),
            false => Ok(both),
        }
    }

    /// llama-bench's flags that a script may have and that change nothing here.
    fn say_what_has_no_effect(&self) -> Result<()> {
        for text in self.n_gpu_layers.iter().flat_map(|text| text.split(',')) {
            let wrong = |_| Error::Argument { name: "n-gpu-layers", reason: format!("{text:?} is not a number") };
            if text.parse::<i32>().map_err(wrong)? > 0 {
                eprintln!("valve: -ngl {text}: the processor computes all layers; they are measured once, as -ngl 0");
            }
        }
        for text in self.flash_attn.iter().flat_map(|text| text.split(',')) {
            match text {
                "on" | "auto" | "1" | "-1" => {}
                "off" | "0" => {
                    eprintln!("valve: -fa {text}: attention is always fused; it is measured once, as -fa on")
                }
                _ => {
                    let reason = format!("{text:?} is not on, off or auto");
                    return Err(Error::Argument { name: "flash-attn", reason });
                }
            }
        }
        Ok(())
    }
}

fn positive(name: &'static str, counts: Vec<usize>) -> Result<Vec<usize>> {
    if counts.contains(&0) { Err(Error::Argument { name, reason: "must be at least 1".into() }) } else { Ok(counts) }
}

/// A comma list of files; a file whose name has a comma is one.
fn file_list(text: &str) -> Vec<&str> {
    if Path::new(text).exists() { vec![text] } else { text.split(',').collect() }
}

/// `FILE` or `FILE:ALPHA`; a colon whose tail is no opening belongs to the file's name.
fn valve_choice(text: &str) -> ValveChoice {
    let split = text.rsplit_once(':').and_then(|(file, alpha)| Some((file, Opening::parse(alpha)?)));
    match split {
        Some((file, opening)) => ValveChoice { path: file.into(), opening: Some(opening) },
        None => ValveChoice { path: text.into(), opening: None },
    }
}

fn kv_types(name: &'static str, texts: &[String]) -> Result<Vec<TensorType>> {
    let ty = |text: &str| {
        let known = [TensorType::F16, TensorType::F32, TensorType::Q8_0].into_iter().find(|ty| ty.name() == text);
        known.ok_or_else(|| Error::Argument { name, reason: format!("{text:?} is not f16, f32 or q8_0") })
    };
    texts.iter().flat_map(|text| text.split(',')).map(ty).collect()
}
