//! What is written down about the machine and the model beside a speed.

use cotvalve::gguf::Gguf;
use std::collections::BTreeMap;

/// The processor's name, as the system gives it; the architecture where it gives none.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.filter(|name| !name.is_empty()).unwrap_or(std::env::consts::ARCH).into()
}

/// Architecture, size and the type that most bytes are of, such as `llama 135M Q4_1`.
pub fn model_type(gguf: &Gguf) -> String {
    let text = |key| gguf.str(key).ok().flatten();
    let architecture = text("general.architecture").unwrap_or("?");
    let size = text("general.size_label").map_or_else(|| size_label(values(gguf)), String::from);
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    gguf.tensors().iter().for_each(|tensor| *bytes.entry(tensor.ty.name).or_default() += tensor.data.len());
    let ty = bytes.iter().max_by_key(|(_, bytes)| **bytes).map_or("?", |(name, _)| *name);
    format!("{architecture} {size} {}", ty.to_uppercase())
}

/// Values in all tensors.
pub fn values(gguf: &Gguf) -> usize {
    gguf.tensors().iter().map(|tensor| tensor.values()).sum()
}

/// Bytes of all tensors.
pub fn bytes(gguf: &Gguf) -> usize {
    gguf.tensors().iter().map(|tensor| tensor.data.len()).sum()
}

/// `135M`, `1.2B`.
fn size_label(values: usize) -> String {
    let of = |unit: f64| {
        let n = values as f64 / unit;
        if n < 10.0 { format!("{n:.1}") } else { format!("{n:.0}") }
    };
    if values < 1_000_000 {
        of(1e3) + "K"
    } else if values < 1_000_000_000 {
        of(1e6) + "M"
    } else {
        of(1e9) + "B"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size_label(134_515_008), "135M");
        assert_eq!(size_label(1_235_814_432), "1.2B");
        assert_eq!(size_label(98_304), "98K");
        assert!(!cpu_name().is_empty());
    }
}
