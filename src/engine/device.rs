//! Which device a model runs on, and its stage there.

use super::EngineOptions;
use crate::backend::{Backend, Precision};
use crate::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::error::{Error, Result};
use crate::model::{Config, Forward, Model, Stage, StageSpec, Weights};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    #[default]
    Cpu,
    /// A CUDA device by its number, from 0.
    Cuda(usize),
    /// The first CUDA device if there is one that the model runs on and fits, else the processor.
    Auto,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(Self::Cuda(ordinal)),
                _ => Err(format!("{text:?} is none of cpu, cuda, cuda:N and auto")),
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Auto => f.write_str("auto"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// What hears the fraction of the weights that is loaded, and says whether to go on.
type Progress<'a> = &'a mut dyn FnMut(f32) -> bool;

/// A model on its device.
pub(super) struct Placed {
    pub stage: Box<dyn Stage>,
    /// The device's name.
    pub device: String,
    /// Why it is not the one that was hoped for.
    pub fallback: Option<String>,
}

impl Placed {
    /// Loads the weights where `options` say.
    pub fn new(model: &Model, options: &EngineOptions, spec: StageSpec, progress: Progress<'_>) -> Result<Self> {
        let fallback = match options.device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => return on_cuda(ordinal, model, options, spec, progress),
            Device::Auto => match on_cuda(0, model, options, spec, progress) {
                Err(e @ Error::Device { .. }) => Some(e.to_string()),
                placed => return placed,
            },
        };
        let stage = stage(Cpu::new(options.threads, options.precision)?, model, spec, progress)?;
        Ok(Self { stage, device: "cpu".into(), fallback })
    }
}

fn stage<B: Backend + Send + 'static>(
    backend: B,
    model: &Model,
    spec: StageSpec,
    progress: Progress<'_>,
) -> Result<Box<dyn Stage>> {
    let weights = Arc::new(Weights::load(model.gguf(), model.config(), &backend, progress)?);
    Ok(Box::new(Forward::new(backend, model.config().clone(), weights, spec)?))
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: usize, _: &Model, _: &EngineOptions, _: StageSpec, _: Progress<'_>) -> Result<Placed> {
    Err(Error::Device { device: "cuda".into(), what: "this build is without it".into() })
}

#[cfg(feature = "cuda")]
fn on_cuda(
    ordinal: usize,
    model: &Model,
    options: &EngineOptions,
    spec: StageSpec,
    progress: Progress<'_>,
) -> Result<Placed> {
    if options.precision == Precision::Float {
        return Err(Error::Device { device: "cuda".into(), what: "float precision is not supported".into() });
    }
    let cuda = Cuda::open(ordinal)?;
    let device = cuda.device().name().to_string();
    Memory::of(model, &spec).check(&device, cuda.device().free_bytes()?)?;
    Ok(Placed { stage: stage(cuda, model, spec, progress)?, device, fallback: None })
}

/// Bytes that a stage takes on a device with memory of its own.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
struct Memory {
    weights: u64,
    cache: u64,
    activations: u64,
}

/// What stays free for the driver, and for scratch that grows with the context.
const RESERVE: u64 = 256 << 20;

#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
impl Memory {
    fn of(model: &Model, spec: &StageSpec) -> Self {
        let weights = model.gguf().tensors().iter().map(|t| t.data.len() as u64).sum();
        let Config { heads, embed, ffn, vocab, layers, .. } = model.config();
        let product = |factors: &[usize]| factors.iter().fold(1u64, |n, f| n.saturating_mul(*f as u64));
        let row = spec.kv_type.row_bytes(heads.head_dim).unwrap_or(0);
        let cache = product(&[row, heads.kv_heads, 2, *layers, spec.page_len, spec.pages]);
        let wide = (*ffn).max(heads.heads * heads.head_dim);
        let columns = 2 * embed + 2 * heads.kv_heads * heads.head_dim + 4 * wide;
        let activations = product(&[4, spec.rows, columns]).saturating_add(product(&[4, spec.outputs, *vocab]));
        Self { weights, cache, activations }
    }

    /// That all of it fits `free` bytes of `device`.
    fn check(&self, device: &str, free: u64) -> Result<()> {
        let needed = [self.weights, self.cache, self.activations, RESERVE].into_iter().fold(0, u64::saturating_add);
        let Some(missing) = needed.checked_sub(free).filter(|missing| *missing > 0) else { return Ok(()) };
        let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
        let what = format!(
            "{} are missing: {} are free, and weights take {}, the cache {}, activations {}. A shorter context or a \
             q8_0 cache takes less",
            gib(missing),
            gib(free),
            gib(self.weights),
            gib(self.cache),
            gib(self.activations + RESERVE)
        );
        Err(Error::Device { device: device.into(), what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_read() {
        for (text, device) in [("cpu", Device::Cpu), ("auto", Device::Auto), ("cuda:3", Device::Cuda(3))] {
            assert_eq!((text.parse(), device.to_string()), (Ok(device), text.to_string()));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda0", "CUDA"] {
            assert!(bad.parse::<Device>().is_err_and(|e| e.contains(bad)), "{bad}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said_with_how_much_is_missing() {
        let memory = Memory { weights: 4 << 30, cache: 1 << 30, activations: 0 };
        memory.check("card", (5 << 30) + RESERVE).unwrap();
        let error = memory.check("card", (4 << 30) + RESERVE).unwrap_err().to_string();
        assert!(error.starts_with("card: 1.00 GiB are missing: 4.25 GiB are free"), "{error}");
        assert!(error.contains("weights take 4.00 GiB, the cache 1.00 GiB"), "{error}");
        let huge = Memory { weights: u64::MAX, cache: u64::MAX, activations: 0 };
        assert!(huge.check("card", 1).is_err());
    }
}
