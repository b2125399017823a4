//! Which device a model runs on, and its stage there.

use super::EngineOptions;
use crate::backend::Backend;
#[cfg(feature = "cuda")]
use crate::backend::Precision;
use crate::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::model::Chain;
use crate::model::{Config, Forward, Model, Part, Portion, Stage, StageSpec, Weights};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where a model runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    #[default]
    Cpu,
    /// CUDA devices by their numbers, from 0; several share the layers.
    Cuda(Vec<usize>),
    /// The first CUDA device if there is one that the model runs on and fits, else the processor.
    Auto,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda(vec![0])),
            _ => {
                let ordinals = text.strip_prefix("cuda:").map(|list| list.split(',').map(str::parse).collect());
                match ordinals {
                    Some(Ok(ordinals)) => Ok(Self::Cuda(ordinals)),
                    _ => Err(format!("{text:?} is none of cpu, cuda, cuda:N, cuda:N,N and auto")),
                }
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Auto => f.write_str("auto"),
            Self::Cuda(ordinals) => {
                let ordinals: Vec<String> = ordinals.iter().map(ToString::to_string).collect();
                write!(f, "cuda:{}", ordinals.join(","))
            }
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
        let fallback = match &options.device {
            _ if options.gpu_layers == Some(0) => None,
            Device::Cpu => None,
            Device::Cuda(ordinals) => return on_cuda(ordinals, model, options, spec, progress),
            Device::Auto => match on_cuda(&[0], model, options, spec, progress) {
                Err(e @ Error::Device { .. }) => Some(e.to_string()),
                placed => return placed,
            },
        };
        let stage = part(cpu(options)?, model, Portion::all(model.config().layers), spec, progress)?;
        Ok(Self { stage, device: "cpu".into(), fallback })
    }
}

fn cpu(options: &EngineOptions) -> Result<Cpu> {
    Cpu::new(options.threads, options.precision)
}

fn part<B: Backend + Send + 'static>(
    backend: B,
    model: &Model,
    portion: Portion,
    spec: StageSpec,
    progress: Progress<'_>,
) -> Result<Box<dyn Part>> {
    let (gguf, config) = (model.gguf(), model.config());
    let weights = Arc::new(Weights::load_portion(gguf, config, &backend, &portion, progress)?);
    Ok(Box::new(Forward::of_portion(backend, config.clone(), weights, portion, spec)?))
}

/// The layers that each device gets, in order: the first `cpu` are the processor's, `gpus` devices share the others.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
fn portions(layers: usize, cpu: usize, gpus: usize) -> Vec<Portion> {
    let mut sizes = vec![cpu];
    let gpus = gpus.min(layers - cpu);
    sizes.extend((0..gpus).map(|i| (layers - cpu) * (i + 1) / gpus - (layers - cpu) * i / gpus));
    let mut start = 0;
    let portion = |size: usize| {
        start += size;
        Portion { embed: start == size, layers: start - size..start, head: start == layers }
    };
    sizes.into_iter().filter(|size| *size > 0).map(portion).collect()
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &[usize], _: &Model, _: &EngineOptions, _: StageSpec, _: Progress<'_>) -> Result<Placed> {
    Err(Error::Device { device: "cuda".into(), what: "this build is without it".into() })
}

#[cfg(feature = "cuda")]
fn on_cuda(
    ordinals: &[usize],
    model: &Model,
    options: &EngineOptions,
    spec: StageSpec,
    progress: Progress<'_>,
) -> Result<Placed> {
    if options.precision == Precision::Float {
        return Err(Error::Device { device: "cuda".into(), what: "float precision is not supported".into() });
    }
    let layers = model.config().layers;
    let on_cpu = layers - options.gpu_layers.unwrap_or(layers).min(layers);
    let mut portions = portions(layers, on_cpu, ordinals.len());
    let (mut parts, mut names) = (Vec::new(), Vec::new());
    // A portion's share of the loading is its share of the layers.
    let mut overall = |portion: &Portion, done: f32| {
        progress((portion.layers.start as f32 + done * portion.layers.len() as f32) / layers as f32)
    };
    if on_cpu > 0 {
        names.push("cpu".to_string());
        let portion = portions.remove(0);
        parts.push(part(cpu(options)?, model, portion.clone(), spec, &mut |done| overall(&portion, done))?);
    }
    for (ordinal, portion) in ordinals.iter().zip(portions) {
        let cuda = Cuda::open(*ordinal)?;
        let device = cuda.device().name().to_string();
        Memory::of(model, &portion, &spec).check(&device, cuda.device().free_bytes()?)?;
        parts.push(part(cuda, model, portion.clone(), spec, &mut |done| overall(&portion, done))?);
        names.push(device);
    }
    let config = model.config();
    let layer = spec.kv_type.row_bytes(config.heads.head_dim).unwrap_or(0) * config.heads.kv_heads * 2;
    let stage: Box<dyn Stage> = match parts.len() {
        1 => parts.remove(0),
        _ => Box::new(Chain::new(parts, config.embed, layer)),
    };
    Ok(Placed { stage, device: names.join(" + "), fallback: None })
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
    fn of(model: &Model, portion: &Portion, spec: &StageSpec) -> Self {
        let tied = portion.head && !model.has_output();
        let here = |name: &str| portion.has(name) || tied && name == "token_embd.weight";
        let tensors = model.gguf().tensors().iter().filter(|t| here(&t.name));
        let weights = tensors.map(|t| t.data.len() as u64).sum();
        let Config { heads, embed, ffn, vocab, .. } = model.config();
        let product = |factors: &[usize]| factors.iter().fold(1u64, |n, f| n.saturating_mul(*f as u64));
        let row = spec.kv_type.row_bytes(heads.head_dim).unwrap_or(0);
        let cache = product(&[row, heads.kv_heads, 2, portion.layers.len(), spec.page_len, spec.pages]);
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
        for (text, device) in [("cpu", Device::Cpu), ("auto", Device::Auto), ("cuda:3,0", Device::Cuda(vec![3, 0]))] {
            assert_eq!((text.parse(), device.to_string()), (Ok(device.clone()), text.to_string()));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(vec![0])));
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:1,", "cuda0", "CUDA"] {
            assert!(bad.parse::<Device>().is_err_and(|e| e.contains(bad)), "{bad}");
        }
    }

    #[test]
    fn every_layer_is_on_one_device_and_the_ends_are_with_the_first_and_the_last() {
        let layers = |cpu, gpus| -> Vec<_> { portions(7, cpu, gpus).into_iter().map(|p| p.layers).collect() };
        assert_eq!(layers(3, 1), [0..3, 3..7]);
        assert_eq!(layers(2, 2), [0..2, 2..4, 4..7]);
        assert_eq!(layers(6, 3), [0..6, 6..7]);
        for (cpu, gpus) in [(0, 1), (0, 3), (3, 2)] {
            let portions = portions(7, cpu, gpus);
            assert!(portions.iter().enumerate().all(|(i, p)| p.embed == (i == 0)));
            assert!(portions.iter().rev().enumerate().all(|(i, p)| p.head == (i == 0)));
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
