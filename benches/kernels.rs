//! Kernels by type and level. `cargo bench --bench kernels -- <filter>`, or `-- --test` to run each once.
//!
//! `matvec` reports GiB/s of weights from memory beyond the caches; `matmul` and `float_matmul` report
//! elements/s where an element is one of the 2·m·n·k operations.

use cotvalve::cpu::simd::{Kernels, Level, Rows, Scratch, Strided};
use cotvalve::quant::act::Acts;
use cotvalve::tensor::TensorType;
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use std::time::Duration;

const QUANTIZED: [TensorType; 3] = [TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0];

/// Weights of arbitrary bits whose F16 scales are finite: 0x2c2c is 0.065.
fn weights(ty: TensorType, rows: usize, cols: usize) -> Vec<u8> {
    let size = rows * ty.row_bytes(cols).expect("whole blocks");
    let mut bytes: Vec<u8> = (0..size).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        let head = if ty == TensorType::F32 { 4 } else { 2 };
        block[..head].fill(0x2c);
        if ty == TensorType::Q4_1 {
            block[2..4].fill(0x2c);
        }
    }
    bytes
}

fn activations(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i.wrapping_mul(2654435761) >> 7 & 1023) as f32 / 512.0 - 1.0).collect()
}

fn acts(kernels: &Kernels, m: usize, cols: usize) -> Acts {
    let (x, mut acts) = (activations(m * cols), Acts::new(m, cols));
    acts.rows_mut().zip(x.chunks_exact(cols)).for_each(|(row, x)| kernels.quantize(x, row));
    acts
}

/// The levels of this machine, but not the scalar one: it is there to be right.
fn levels() -> impl Iterator<Item = &'static Kernels> {
    [Level::Avx2, Level::Avx512].into_iter().filter(|level| *level <= Level::detect()).map(Kernels::at)
}

fn matvec(c: &mut Criterion) {
    let (cols, mut scratch) = (1536, Scratch::default());
    let mut group = c.benchmark_group("matvec");
    for ty in QUANTIZED {
        let rows = (96 << 20) / ty.row_bytes(cols).expect("whole blocks") / 16 * 16;
        let data = weights(ty, rows, cols);
        group.throughput(Throughput::Bytes(data.len() as u64));
        for kernels in levels() {
            for m in [1, 2, 3, 4, 8] {
                let (x, mut y) = (acts(kernels, m, cols), vec![0.0; m * rows]);
                let w = Rows { ty, data: &data, cols };
                let id = BenchmarkId::new(format!("{ty}/m{m}"), kernels.level().name());
                group.bench_function(id, |b| {
                    b.iter(|| kernels.linear_int8(&w, &x, &mut Strided::new(&mut y, m, rows), &mut scratch));
                });
            }
        }
    }
}

fn matmul(c: &mut Criterion) {
    let (m, mut scratch) = (512, Scratch::default());
    let mut group = c.benchmark_group("matmul");
    for (rows, cols) in [(1536, 576), (576, 1536)] {
        group.throughput(Throughput::Elements((2 * m * rows * cols) as u64));
        for ty in QUANTIZED {
            let data = weights(ty, rows, cols);
            for kernels in levels() {
                let (x, mut y) = (acts(kernels, m, cols), vec![0.0; m * rows]);
                let w = Rows { ty, data: &data, cols };
                let id = BenchmarkId::new(format!("{ty}/{rows}x{cols}"), kernels.level().name());
                group.bench_function(id, |b| {
                    b.iter(|| kernels.linear_int8(&w, &x, &mut Strided::new(&mut y, m, rows), &mut scratch));
                });
            }
        }
    }
}

fn float(c: &mut Criterion) {
    let mut scratch = Scratch::default();
    for (name, m, rows, cols) in [("float_matvec", 1, 16384, 1536), ("float_matmul", 64, 576, 576)] {
        let mut group = c.benchmark_group(name);
        for ty in TensorType::ALL {
            let data = weights(ty, rows, cols);
            group.throughput(match m {
                1 => Throughput::Bytes(data.len() as u64),
                _ => Throughput::Elements((2 * m * rows * cols) as u64),
            });
            let (x, mut y) = (activations(m * cols), vec![0.0; m * rows]);
            for kernels in levels() {
                let w = Rows { ty, data: &data, cols };
                group.bench_function(BenchmarkId::new(ty.name(), kernels.level().name()), |b| {
                    b.iter(|| kernels.linear_float(&w, &x, &mut Strided::new(&mut y, m, rows), &mut scratch));
                });
            }
        }
    }
}

fn small(c: &mut Criterion) {
    let (cols, rank) = (1536, 16);
    let mut group = c.benchmark_group("quantize");
    group.throughput(Throughput::Elements(cols as u64));
    for kernels in levels() {
        let (x, mut out) = (activations(cols), Acts::new(1, cols));
        group.bench_function(kernels.level().name(), |b| {
            b.iter(|| out.rows_mut().for_each(|row| kernels.quantize(black_box(&x), row)));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("expand");
    group.throughput(Throughput::Elements((2 * rank * cols) as u64));
    for ty in [TensorType::F32, TensorType::F16] {
        let (data, u, mut y) = (weights(ty, rank, cols), activations(rank), vec![0.0; cols]);
        for kernels in levels() {
            let b_transposed = Rows { ty, data: &data, cols };
            group.bench_function(BenchmarkId::new(ty.name(), kernels.level().name()), |b| {
                b.iter(|| kernels.expand(&mut y, black_box(&b_transposed), 0, &u));
            });
        }
    }
}

fn main() {
    let quick = Criterion::default().sample_size(10);
    let quick = quick.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    let mut c = quick.configure_from_args();
    matvec(&mut c);
    matmul(&mut c);
    float(&mut c);
    small(&mut c);
    c.final_summary();
}
