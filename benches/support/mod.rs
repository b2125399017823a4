//! What several benches share: how long they measure, and rates beside what the machine can do at most.

// Each bench compiles all of this and uses a part.
#![allow(dead_code)]

use cotvalve::cpu::limits::{int8_peak_at, read_bandwidth};
use cotvalve::cpu::simd::{Kernels, Level};
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::model::quantize::FileType;
use cotvalve::model::synth::{Recipe, Shape};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether each bench only runs once (`-- --test`): sizes are small then.
pub fn is_smoke() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// Measures each for `milliseconds`, ten samples.
pub fn criterion(milliseconds: u64) -> Criterion {
    let measured = Duration::from_millis(milliseconds);
    Criterion::default()
        .sample_size(10)
        .warm_up_time(measured / 3)
        .measurement_time(measured)
        .without_plots()
        .configure_from_args()
}

/// The levels of this machine, but not the scalar one: it is there to be right.
pub fn levels() -> impl Iterator<Item = &'static Kernels> {
    [Level::Avx2, Level::Avx512, Level::Amx].into_iter().filter(|level| *level <= Level::detect()).map(Kernels::at)
}

/// What a rate is held against.
#[derive(Clone, Copy)]
pub enum Limit {
    /// Bytes a second of one thread from a set of as many bytes.
    Reading(usize),
    /// Multiplies and adds of 8-bit integers a second of one thread, at a level.
    Int8(Level),
}

/// The best rates of a group, printed with the part of the limit that they reach.
#[derive(Default)]
pub struct Rates {
    lines: Vec<(String, f64, Limit)>,
}

impl Rates {
    /// Benches `f`, which reads or computes `work` bytes or operations.
    pub fn bench(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &str,
        (work, limit): (usize, Limit),
        mut f: impl FnMut(),
    ) {
        let mut best = f64::INFINITY;
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let start = Instant::now();
                (0..rounds).for_each(|_| f());
                let elapsed = start.elapsed();
                best = best.min(elapsed.as_secs_f64() / rounds as f64);
                elapsed
            });
        });
        // A filter may have left it out.
        if best.is_finite() {
            self.lines.push((name.to_owned(), work as f64 / best, limit));
        }
    }

    /// The limits are measured here, so that they and the rates meet the same machine.
    pub fn print(self) {
        if is_smoke() || self.lines.is_empty() {
            return;
        }
        let mut known: Vec<(Limit, f64)> = Vec::new();
        println!("\n| bench | best | limit | % |\n|---|---|---|---|");
        for (name, rate, limit) in self.lines {
            let same = known.iter().find(|(other, _)| limit.is(*other)).map(|(_, most)| *most);
            let most = same.unwrap_or_else(|| limit.measure());
            known.push((limit, most));
            let unit = match limit {
                Limit::Reading(_) => "GB/s",
                Limit::Int8(_) => "GOP/s",
            };
            println!("| {name} | {:.1} {unit} | {:.1} | {:.0} |", rate / 1e9, most / 1e9, 100.0 * rate / most);
        }
        println!();
    }
}

impl Limit {
    fn measure(self) -> f64 {
        match self {
            Self::Reading(bytes) => read_bandwidth(1, bytes),
            Self::Int8(level) => int8_peak_at(1, level),
        }
    }

    fn is(self, other: Self) -> bool {
        match (self, other) {
            // Sets of about one size are in the same cache, or in none.
            (Self::Reading(a), Self::Reading(b)) => a.abs_diff(b) <= a / 8,
            (Self::Int8(a), Self::Int8(b)) => a == b,
            _ => false,
        }
    }
}

/// A model of random weights in memory: the shape of SmolLM2 135M, in smoke mode a tiny one.
pub fn model(file_type: FileType) -> Arc<Model> {
    let bytes = Bytes::from(recipe(file_type).model().unwrap().to_bytes().unwrap());
    Model::new(Gguf::parse(Path::new("synth.gguf"), bytes).unwrap()).unwrap()
}

/// How that model is made.
pub fn recipe(file_type: FileType) -> Recipe {
    let shape = Shape::named(if is_smoke() { "tiny" } else { "135M" }).unwrap();
    Recipe { shape, file_type, pure: true, seed: 0, context: None }
}
