//! `valve quantize`: a model in fewer bits. Words and choices are llama-quantize's.

use super::merge::check_free;
use super::override_kv;
use clap::Args;
use cotvalve::engine::EngineOptions;
use cotvalve::error::{Error, Result};
use cotvalve::gguf::{Gguf, StoredType, Value};
use cotvalve::model::quantize::{FileType, Importance, Item, Job, Named, PlanOptions, QuantizeOptions, Sizes, stored};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Args)]
pub struct Quantize {
    /// The model to read; the one to write, ggml-model-TYPE.gguf beside it if not given; the type by name or number
    /// (Q4_K_M, Q8_0, F16, COPY, ...); threads
    #[arg(value_name = "IN [OUT] TYPE [N]", required = true, num_args = 2..=4)]
    words: Vec<String>,
    /// Threads
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// Importance matrix of llama-imatrix: errors in columns that meet large activations count more
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Use the matrix for weights with this in their names only; repeatable
    #[arg(long, value_name = "PART", conflicts_with = "exclude_weights")]
    include_weights: Vec<String>,
    /// Do not use it for weights with this in their names; repeatable
    #[arg(long, value_name = "PART")]
    exclude_weights: Vec<String>,
    /// The same type for every matrix instead of a mix
    #[arg(long)]
    pure: bool,
    /// Leave output.weight as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// Type of output.weight
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    output_tensor_type: Option<&'static StoredType>,
    /// Type of token_embd.weight
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    token_embedding_type: Option<&'static StoredType>,
    /// Type of the tensors whose names have a match for a regular expression; repeatable, the first match counts
    #[arg(long, value_name = "NAME=TYPE")]
    tensor_type: Vec<String>,
    /// File with more of these, between spaces or line ends
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Option<PathBuf>,
    /// Quantize also what is quantized, at a loss
    #[arg(long)]
    allow_requantize: bool,
    /// Write as many files as the model has
    #[arg(long)]
    keep_split: bool,
    /// Metadata of the model that is written; TYPE is int, float, bool or str; repeatable
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    override_kv: Vec<String>,
    /// Say which type each tensor would get, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write over what is there
    #[arg(long)]
    force: bool,
}

/// What the words without a flag ask for.
#[derive(Debug, PartialEq)]
struct Words {
    input: PathBuf,
    output: PathBuf,
    file_type: FileType,
    copy: bool,
    threads: Option<usize>,
}

impl Words {
    fn read(words: &[String]) -> Result<Self> {
        let bad = |reason: String| Error::Argument { name: "quantize", reason };
        let input = PathBuf::from(&words[0]);
        let (output, ty, rest) = match (file_type(&words[1]), &words[1..]) {
            (Some(_), [ty, rest @ ..]) => (None, ty, rest),
            (None, [output, ty, rest @ ..]) => (Some(PathBuf::from(output)), ty, rest),
            _ => return Err(bad(format!("{:?} is no type", words[1]))),
        };
        let (file_type, copy) = file_type(ty).ok_or_else(|| bad(format!("{ty:?} is no type")))?;
        let threads = match rest {
            [] => None,
            [n] => Some(n.parse().map_err(|_| bad(format!("{n:?} is no number of threads")))?),
            _ => return Err(bad(format!("too many words: {rest:?}"))),
        };
        let name = if ty.parse::<u32>().is_ok() { file_type.name().to_owned() } else { ty.to_ascii_uppercase() };
        let output = output.unwrap_or_else(|| input.with_file_name(format!("ggml-model-{name}.gguf")));
        Ok(Self { input, output, file_type, copy, threads })
    }
}

/// A file type, and whether all tensors are only copied.
fn file_type(text: &str) -> Option<(FileType, bool)> {
    if text.eq_ignore_ascii_case("COPY") {
        return Some((FileType::F32, true));
    }
    FileType::parse(text).map(|ty| (ty, false))
}

fn tensor_type(text: &str) -> std::result::Result<&'static StoredType, String> {
    stored(text).ok_or_else(|| "no type of tensors".to_owned())
}

impl Quantize {
    pub fn run(self) -> Result<()> {
        let words = Words::read(&self.words)?;
        let (gguf, overrides) = self.open(&words.input)?;
        let importance = self.importance()?;
        let options = QuantizeOptions {
            plan: self.plan(&words)?,
            importance: importance.as_ref(),
            allow_requantize: self.allow_requantize,
            keep_split: self.keep_split,
            overrides,
            threads: self.threads.or(words.threads).unwrap_or(EngineOptions::default().threads),
        };
        let job = Job::new(&gguf, options)?;
        if self.dry_run {
            return dry_run(&job, importance.is_some());
        }
        job.files(&words.output).iter().try_for_each(|file| check_free(file, self.force))?;
        let progress = Progress::new(&job, importance.as_ref());
        job.write(&words.output, &mut |item, read| progress.hear(item, read))?;
        super::print(&summary(job.items().len(), &job.sizes()))
    }

    /// Opens the model with what is known better, and gives that as it will be written.
    fn open(&self, path: &Path) -> Result<(Gguf, Vec<(String, Value)>)> {
        let mut overrides = Vec::new();
        for text in &self.override_kv {
            let (key, value) = override_kv::parse(text)?;
            let too_large = |n: i64| {
                let reason = format!("{n} in {text:?} is out of the range of 32 bits");
                Error::Argument { name: "--override-kv", reason }
            };
            let value = match value {
                // llama-quantize knows no other integers: keys of models are of this type.
                Value::I64(n) => Value::U32(u32::try_from(n.unsigned_abs()).map_err(|_| too_large(n))?),
                Value::F64(v) => Value::F32(v as f32),
                value => value,
            };
            overrides.push((key.to_owned(), value));
        }
        let mut gguf = Gguf::open(path)?;
        overrides.iter().for_each(|(key, value)| gguf.set(key, value.clone()));
        Ok((gguf, overrides))
    }

    fn importance(&self) -> Result<Option<Importance>> {
        let Some(path) = &self.imatrix else { return Ok(None) };
        let mut importance = Importance::open(path)?;
        importance.retain(&self.include_weights, &self.exclude_weights);
        Ok(Some(importance))
    }

    fn plan(&self, words: &Words) -> Result<PlanOptions> {
        let mut named = self.tensor_type.clone();
        if let Some(path) = &self.tensor_type_file {
            let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.clone(), source })?;
            named.extend(text.split_whitespace().map(str::to_owned));
        }
        Ok(PlanOptions {
            copy: words.copy,
            pure: self.pure,
            leave_output: self.leave_output_tensor,
            output: self.output_tensor_type,
            embedding: self.token_embedding_type,
            named: named.iter().map(|text| Named::parse(text)).collect::<Result<_>>()?,
            ..PlanOptions::new(words.file_type)
        })
    }
}

fn dry_run(job: &Job<'_>, weighted: bool) -> Result<()> {
    let count = job.items().len();
    for (at, item) in job.items().iter().enumerate() {
        super::print(&format!("{}{}\n", head(at, count, item), sizes(item)))?;
    }
    super::print(&summary(count, &job.sizes()))?;
    if let Some(item) = job.without_importance().filter(|_| !weighted) {
        super::print(&format!("{} as {} takes an importance matrix\n", item.info.name, item.planned.ty))?;
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// `[   1/ 272] NAME - [cols, rows], type = f16, `
fn head(at: usize, count: usize, item: &Item<'_>) -> String {
    let info = item.info;
    let dims = info.dims.iter().map(|d| format!("{d:5}")).collect::<Vec<_>>().join(", ");
    format!("[{:4}/{count:4}] {:36} - [{dims}], type = {:>6}, ", at + 1, info.name, info.ty.name)
}

fn sizes(item: &Item<'_>) -> String {
    let before = mib(item.info.data.len() as u64);
    if item.is_copied() {
        return format!("size = {before:8.3} MiB");
    }
    let wanted = item.planned.instead_of.map_or(String::new(), |ty| format!(", whose rows are no blocks of {ty}"));
    format!("size = {before:8.2} MiB -> {:8.2} MiB ({}{wanted})", mib(item.bytes as u64), item.planned.ty)
}

fn summary(count: usize, sizes: &Sizes) -> String {
    let line = |what: &str, bytes: u64| {
        format!("{what} size  = {:8.2} MiB ({:.2} BPW)\n", mib(bytes), bytes as f64 * 8.0 / sizes.values.max(1) as f64)
    };
    let mut text = line("model", sizes.bytes_before) + &line("quant", sizes.bytes_after);
    if sizes.fallbacks > 0 {
        text += &format!("{} of {count} tensors have rows that are no blocks of their type\n", sizes.fallbacks);
    }
    text
}

/// A line a tensor on standard error, and in a terminal how far it is.
struct Progress<'a> {
    job: &'a Job<'a>,
    importance: Option<&'a Importance>,
    shown: bool,
    stop: Arc<AtomicBool>,
}

impl<'a> Progress<'a> {
    /// Ctrl-C stops the work, and no half file is left.
    fn new(job: &'a Job<'a>, importance: Option<&'a Importance>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        super::on_interrupt(move || seen.store(true, Ordering::SeqCst));
        Self { job, importance, shown: std::io::stderr().is_terminal(), stop }
    }

    fn hear(&self, item: &Item<'_>, read: usize) -> bool {
        let items = self.job.items();
        let at = items.iter().position(|other| std::ptr::eq(other.info, item.info)).unwrap_or(0);
        let (head, total) = (head(at, items.len(), item), item.info.data.len());
        if read < total {
            if self.shown {
                eprint!("\r{head}{:3} %", read as u128 * 100 / total as u128);
            }
        } else {
            let (start, end) = if self.shown { ("\r", "\x1b[K") } else { ("", "") };
            eprintln!("{start}{head}{}{end}", sizes(item));
            self.say_unweighted(item);
        }
        !self.stop.load(Ordering::SeqCst)
    }

    /// Names a weight that the importance matrix has nothing for.
    fn say_unweighted(&self, item: &Item<'_>) {
        let Some(importance) = self.importance else { return };
        let quantized = !item.is_copied() && item.planned.ty.block_len > 1;
        if quantized && importance.of(&item.info.name, &item.info.dims).is_ok_and(|found| found.is_none()) {
            eprintln!("valve: {}: no importance of {}", importance.path().display(), item.info.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Words> {
        Words::read(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_read_as_llama_quantize_reads_them() {
        let words = read("a/in.gguf out.gguf q4_k_m 3").unwrap();
        assert_eq!((words.file_type, words.threads, words.copy), (FileType::Q4KM, Some(3), false));
        assert_eq!(words.output, Path::new("out.gguf"));
        let words = read("a/in.gguf 15").unwrap();
        assert_eq!((words.file_type, words.threads), (FileType::Q4KM, None));
        assert_eq!(words.output, Path::new("a/ggml-model-Q4_K_M.gguf"));
        assert_eq!(read("in.gguf q4_k").unwrap().output, Path::new("ggml-model-Q4_K.gguf"));
        assert!(read("in.gguf copy").unwrap().copy);
    }

    #[test]
    fn words_that_are_none_are_refused_by_name() {
        for (text, wanted) in [
            ("in.gguf out.gguf", "\"out.gguf\" is no type"),
            ("in.gguf out.gguf q9", "\"q9\" is no type"),
            ("in.gguf q4_0 two", "\"two\" is no number of threads"),
            ("in.gguf q4_0 2 3", "too many words"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
