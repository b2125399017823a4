//! Kernels by type and level. `cargo bench --bench kernels -- <filter>`, or `-- --test` to run each once.
//!
//! `matvec` reports GiB/s of weights from memory beyond the caches; `matmul`, by rows of activations, and
//! `float_matmul` report elements/s where an element is one of the 2·m·n·k operations. After both of the former a
//! table says how much that is of what one thread of the machine can do. `-- order` compares the order in which the
//! kernels add, which gives a row the same bits everywhere, with a free one, and prints a table.

mod support;

use cotvalve::cpu::simd::{Kernels, Level, Rows, Scratch, Strided};
use cotvalve::quant::act::Acts;
use cotvalve::tensor::TensorType;
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use support::{Limit, Rates, criterion, is_smoke, levels};

fn quantized() -> impl Iterator<Item = TensorType> {
    TensorType::ALL.into_iter().filter(|ty| ty.is_quantized())
}

/// Those that the free order knows.
const ORDERED: [TensorType; 3] = [TensorType::Q4_0, TensorType::Q4_1, TensorType::Q8_0];

/// Weights of arbitrary bits whose scales are finite: 0x2c2c is 0.065 as F16, and 0x2c is 2^-83 as E8M0.
fn weights(ty: TensorType, rows: usize, cols: usize) -> Vec<u8> {
    let size = rows * ty.row_bytes(cols).expect("whole blocks");
    let mut bytes: Vec<u8> = (0..size).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        let scales = match ty {
            TensorType::Q2K => 80..84,
            TensorType::Q3K => 108..110,
            TensorType::Q6K => 208..210,
            TensorType::F32 | TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4K | TensorType::Q5K => 0..4,
            _ => 0..2,
        };
        block[scales].fill(0x2c);
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

fn matvec(c: &mut Criterion) {
    let (cols, mut scratch, mut rates) = (1536, Scratch::default(), Rates::default());
    let set = if is_smoke() { 1 << 18 } else { 96 << 20 };
    let mut group = c.benchmark_group("matvec");
    for ty in quantized() {
        let rows = set / ty.row_bytes(cols).expect("whole blocks") / 16 * 16;
        let data = weights(ty, rows, cols);
        group.throughput(Throughput::Bytes(data.len() as u64));
        for kernels in levels() {
            let (x, mut y) = (acts(kernels, 1, cols), vec![0.0; rows]);
            let w = Rows { ty, data: &data, cols };
            let work = (data.len(), Limit::Reading(data.len()));
            rates.bench(&mut group, &format!("{ty}/{}", kernels.level().name()), work, || {
                kernels.linear_int8(&w, &x, &mut Strided::new(&mut y, 1, rows), &mut scratch);
            });
        }
    }
    group.finish();
    rates.print();
}

fn matmul(c: &mut Criterion) {
    let (mut scratch, mut rates) = (Scratch::default(), Rates::default());
    let (rows, cols) = if is_smoke() { (64, 256) } else { (1536, 768) };
    let mut group = c.benchmark_group("matmul");
    for ty in quantized() {
        let data = weights(ty, rows, cols);
        for (m, kernels) in [1, 2, 4, 8, 16, 64, 512].into_iter().flat_map(|m| levels().map(move |l| (m, l))) {
            let operations = 2 * m * rows * cols;
            group.throughput(Throughput::Elements(operations as u64));
            let (x, mut y) = (acts(kernels, m, cols), vec![0.0; m * rows]);
            let w = Rows { ty, data: &data, cols };
            let work = (operations, Limit::Int8(kernels.level()));
            rates.bench(&mut group, &format!("{ty}/m{m}/{}", kernels.level().name()), work, || {
                kernels.linear_int8(&w, &x, &mut Strided::new(&mut y, m, rows), &mut scratch);
            });
        }
    }
    group.finish();
    rates.print();
}

fn float(c: &mut Criterion) {
    let mut scratch = Scratch::default();
    for (name, m, rows, cols) in [("float_matvec", 1, 16384, 1536), ("float_matmul", 64, 768, 768)] {
        let rows = if is_smoke() { 64 } else { rows };
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

/// A matvec whose rows are summed in eight partial `f32` sums, in the manner of llama.cpp: what the order of
/// the kernels is measured against. It reads each row from start to end.
#[cfg(target_arch = "x86_64")]
mod free_order {
    use cotvalve::cpu::simd::Rows;
    use cotvalve::quant::act::ActRow;
    use cotvalve::tensor::TensorType;
    use std::arch::x86_64::*;

    /// y\[r\] = row r of `w` · `x`, up to rounding.
    ///
    /// # Safety
    /// The machine has the features below; `w`, `x` and `y` fit each other.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub unsafe fn matvec(w: &Rows<'_>, x: ActRow<'_>, y: &mut [f32]) {
        let bytes = w.row_bytes();
        for (rows, y) in w.data.chunks_exact(2 * bytes).zip(y.as_chunks_mut().0) {
            let rows = [&rows[..bytes], &rows[bytes..]];
            // SAFETY: as the caller vouches.
            *y = unsafe {
                match w.ty {
                    TensorType::Q4_0 => dots::<18, 2>(rows, x),
                    TensorType::Q4_1 => dots::<20, 4>(rows, x),
                    TensorType::Q8_0 => dots::<34, 2>(rows, x),
                    _ => unreachable!("quantized types only"),
                }
            };
        }
    }

    /// Two rows at a time, so that their sums do not wait for each other, with the kernels' prefetch.
    ///
    /// # Safety
    /// As [`matvec`]; blocks of `BYTES` bytes with quants at `QUANTS`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn dots<const BYTES: usize, const QUANTS: usize>(rows: [&[u8]; 2], x: ActRow<'_>) -> [f32; 2] {
        let (mut sums, mut minimums) = ([_mm256_setzero_ps(); 2], [0.0; 2]);
        for b in 0..x.scales.len() {
            for line in 0..(2 * BYTES).div_ceil(64) {
                let ahead = rows[0].as_ptr().wrapping_add((8 << 10) + 2 * b * BYTES + 64 * line);
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            }
            for r in 0..2 {
                // SAFETY: every load is inside block b, which exists in the rows and in the activations.
                unsafe {
                    let block = rows[r].as_ptr().add(b * BYTES);
                    let acts = _mm256_loadu_si256(x.quants.as_ptr().add(32 * b).cast());
                    let d = *x.scales.get_unchecked(b);
                    let products = if BYTES == 20 {
                        let offset = d * x.sums.get_unchecked(b).iter().map(|sum| i32::from(*sum)).sum::<i32>() as f32;
                        minimums[r] = scale(block.add(2)).mul_add(offset, minimums[r]);
                        _mm256_dpbusd_epi32(_mm256_setzero_si256(), nibbles(block.add(QUANTS)), acts)
                    } else {
                        let weights = match BYTES {
                            18 => _mm256_sub_epi8(nibbles(block.add(QUANTS)), _mm256_set1_epi8(8)),
                            _ => _mm256_loadu_si256(block.add(QUANTS).cast()),
                        };
                        let acts = _mm256_sign_epi8(acts, weights);
                        _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_abs_epi8(weights), acts)
                    };
                    let scale = _mm256_set1_ps(scale(block) * d);
                    sums[r] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products), sums[r]);
                }
            }
        }
        [sum(sums[0]) + minimums[0], sum(sums[1]) + minimums[1]]
    }

    /// The F16 value at `p`.
    ///
    /// # Safety
    /// Two bytes at `p` can be read; the machine has F16C.
    #[inline]
    #[target_feature(enable = "f16c")]
    unsafe fn scale(p: *const u8) -> f32 {
        // SAFETY: as the caller vouches.
        let bits = unsafe { p.cast::<u16>().read_unaligned() };
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
    }

    /// The low nibbles of the 16 bytes at `p`, then the high ones.
    ///
    /// # Safety
    /// 16 bytes at `p` can be read; the machine has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn nibbles(p: *const u8) -> __m256i {
        // SAFETY: as the caller vouches.
        let packed = unsafe { _mm_loadu_si128(p.cast()) };
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed), _mm256_set1_epi8(15))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sum(v: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// Times the kernels' order against the free one, in turns, and prints the best of each: other
/// programs on the machine only ever take time.
#[cfg(target_arch = "x86_64")]
fn order(rounds: usize) {
    use std::time::Instant;
    let kernels = Kernels::at(Level::Avx512);
    if kernels.level() != Level::Avx512 {
        println!("this machine has no AVX-512 VNNI");
        return;
    }
    let mut scratch = Scratch::default();
    println!("| type | shape | fixed, GB/s | free, GB/s | fixed / free |\n|---|---|---|---|---|");
    for (rows, cols) in [(576, 1536), (49152, 576)] {
        for ty in ORDERED {
            let data = weights(ty, rows, cols);
            let (w, x) = (Rows { ty, data: &data, cols }, acts(kernels, 1, cols));
            let (mut fixed, mut free) = (vec![0.0; rows], vec![0.0; rows]);
            let repeats = (4 << 20) / data.len() + 1;
            let mut times = Vec::new();
            for _ in 0..rounds {
                let start = Instant::now();
                for _ in 0..repeats {
                    kernels.linear_int8(&w, &x, &mut Strided::new(&mut fixed, 1, rows), &mut scratch);
                }
                let middle = Instant::now();
                for _ in 0..repeats {
                    // SAFETY: the level was checked above; the shapes fit.
                    unsafe { free_order::matvec(&w, black_box(x.row(0)), &mut free) };
                }
                times.push(((middle - start).as_secs_f64(), middle.elapsed().as_secs_f64()));
            }
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * a.abs().max(1.0);
            assert!(fixed.iter().zip(&free).all(close), "the two orders compute the same");
            let bytes = (data.len() * repeats) as f64 / 1e9;
            let best = |times: &mut dyn Iterator<Item = f64>| bytes / times.fold(f64::INFINITY, f64::min);
            let (a, b) = (best(&mut times.iter().map(|t| t.0)), best(&mut times.iter().map(|t| t.1)));
            println!("| {ty} | {rows}×{cols} | {a:.1} | {b:.1} | {:.2} |", a / b);
        }
    }
}

fn main() {
    #[cfg(target_arch = "x86_64")]
    if std::env::args().any(|arg| arg == "order") {
        return order(101);
    }
    let mut c = criterion(300);
    matvec(&mut c);
    matmul(&mut c);
    float(&mut c);
    small(&mut c);
    c.final_summary();
}
