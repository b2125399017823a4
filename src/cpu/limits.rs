//! What the machine can do at most: the rates against which speeds are read.

use super::pool::Pool;
use super::simd::{Level, limits};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Samples of a measurement, of which the best counts: other programs on the machine only ever take time.
const SAMPLES: usize = 9;
/// Bytes that a sample reads at least: some milliseconds.
const SAMPLE_BYTES: usize = 128 << 20;
/// Streams in which a thread reads. Which number of them is the fastest depends on the machine's prefetchers.
const STREAMS: [usize; 4] = [1, 2, 4, 8];
/// Values that each thread gets a multiple of: whole rounds of every stream.
const STEP: usize = limits::STEP * STREAMS[STREAMS.len() - 1];
/// Rounds of a sample of operations: some milliseconds with vectors, some more without.
const ROUNDS: usize = 1 << 14;

/// Bytes a second that `threads` threads read together (one if that is 0), each its own part of a set of
/// `set_bytes` bytes in huge pages, again and again: the best of several samples. A set that fits a cache measures
/// that cache, one much larger than all caches the memory. 0 if the system does not start so many threads or has no
/// memory for the set.
pub fn read_bandwidth(threads: usize, set_bytes: usize) -> f64 {
    let threads = threads.max(1);
    let part = (set_bytes / threads / 8 / STEP).max(1) * STEP;
    let bytes = 8 * part * threads;
    let Some(set) = huge_pages(bytes) else { return 0.0 };
    let set: &[u64] = bytemuck::cast_slice(&set);
    let passes = SAMPLE_BYTES.div_ceil(bytes);
    let level = in_force();
    let mut best = f64::INFINITY;
    for streams in STREAMS {
        let once = |thread: usize| {
            let part = &set[thread * part..][..part];
            (0..passes).fold(0, |sum: u64, _| sum.wrapping_add(limits::sum(level, std::hint::black_box(part), streams)))
        };
        best = best.min(best_seconds(threads, &once));
    }
    (bytes * passes) as f64 / best
}

/// Memory of its own of `bytes` bytes, none of them zero, in huge pages where the system has them.
fn huge_pages(bytes: usize) -> Option<memmap2::MmapMut> {
    let mut set = memmap2::MmapMut::map_anon(bytes).ok()?;
    // Refused, it is measured in small pages.
    #[cfg(target_os = "linux")]
    let _ = set.advise(memmap2::Advice::HugePage);
    set.fill(1);
    Some(set)
}

/// Operations a second on 8-bit integers of `threads` threads together (one if that is 0), a multiply and an add
/// counting two, at the level in force: the best of several samples. 0 if the system does not start so many threads.
pub fn int8_peak(threads: usize) -> f64 {
    int8_peak_at(threads, in_force())
}

/// The same at `level`, or at the machine's if that is lower.
pub fn int8_peak_at(threads: usize, level: Level) -> f64 {
    let threads = threads.max(1);
    let operations = limits::products(level, 0, ROUNDS).1;
    let once = |thread: usize| limits::products(level, thread as i32, ROUNDS).0 as u64;
    operations * threads as f64 / best_seconds(threads, &once)
}

/// The level that `COTVALVE_SIMD` asks for; the machine's where it names none, which the backend refuses.
fn in_force() -> Level {
    Level::from_env().unwrap_or_else(|_| Level::detect())
}

/// The least time that `threads` threads, started together, took to do `once` each; infinite if they cannot be
/// started. The results are used, so that the work is not left out.
fn best_seconds(threads: usize, once: &(dyn Fn(usize) -> u64 + Sync)) -> f64 {
    let Ok(mut pool) = Pool::new(threads) else { return f64::INFINITY };
    let (sum, mut best) = (AtomicU64::new(0), f64::INFINITY);
    for _ in 0..SAMPLES {
        let come = AtomicUsize::new(0);
        let start = Instant::now();
        pool.run(&|thread| {
            // A region does not wait for threads that come late, and here all of them are measured.
            come.fetch_add(1, Ordering::SeqCst);
            while come.load(Ordering::SeqCst) < threads {
                std::hint::spin_loop();
            }
            sum.fetch_add(once(thread), Ordering::Relaxed);
        });
        best = f64::min(best, start.elapsed().as_secs_f64());
    }
    std::hint::black_box(sum.into_inner());
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_positive_and_a_cache_is_no_slower_than_memory() {
        let [cache, memory] = [16 << 10, 64 << 20].map(|bytes| read_bandwidth(1, bytes));
        assert!(memory.is_finite() && memory > 1e8, "{memory}");
        // Another program may take the processor while the first is measured, but hardly in each sample.
        assert!(cache.is_finite() && cache > 0.5 * memory, "{cache} {memory}");
    }

    #[test]
    fn wider_vectors_multiply_faster() {
        let peaks = Level::ALL.map(|level| int8_peak_at(1, level));
        assert!(peaks.iter().all(|p| p.is_finite() && *p > 1e7), "{peaks:?}");
        if Level::detect() >= Level::Avx2 {
            assert!(peaks[1] > peaks[0] && peaks[2] > peaks[0], "{peaks:?}");
        }
    }

    #[test]
    fn no_thread_counts_as_one_and_several_are_all_awaited() {
        let seen = AtomicU64::new(0);
        let seconds = best_seconds(3, &|thread| {
            seen.fetch_or(1 << thread, Ordering::Relaxed);
            0
        });
        assert_eq!(seen.into_inner(), 0b111);
        assert!(seconds < f64::INFINITY && read_bandwidth(0, 0) > 0.0);
    }
}
