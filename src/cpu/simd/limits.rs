//! Loops that do nothing but read, or nothing but multiply: what [`crate::cpu::limits`] times.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{Level, multiversion};

/// Values in a round of [`sum`].
pub const STEP: usize = 32;

multiversion! {
    /// The wrapping sum of `values`, in so many sums that a load never waits for an addition. They are read in
    /// `streams` parts side by side, each of whole rounds: a prefetcher follows each stream only so far ahead.
    pub fn sum(values: &[u64], streams: usize) -> u64 {
        let part = values.len() / streams;
        let mut sums = [0u64; STEP];
        for start in (0..part).step_by(STEP) {
            for stream in 0..streams {
                let values = &values[stream * part + start..][..STEP];
                for i in 0..STEP {
                    sums[i] = sums[i].wrapping_add(values[i]);
                }
            }
        }
        let mut total = 0u64;
        for sum in sums {
            total = total.wrapping_add(sum);
        }
        total
    }
}

/// Multiplies and sums 8-bit integers in registers for `rounds` rounds, in the fastest way that the Int8 kernels
/// of the level do. `seed` is where the sums start. Returns what came of it, and how many operations it was.
pub fn products(level: Level, seed: i32, rounds: usize) -> (i32, f64) {
    match level.min(Level::detect()) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the system has lent the registers, as `detect` found.
        Level::Amx => unsafe { amx::products(seed, rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this machine has the features of the level, as `detect` found.
        Level::Avx512 => unsafe { vectors::avx512(seed, rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { vectors::avx2(seed, rounds) },
        _ => plain(seed, rounds),
    }
}

/// As the truth in [`crate::quant`] does: a loop over bytes, compiled for what every machine has.
fn plain(seed: i32, rounds: usize) -> (i32, f64) {
    const LEN: usize = 256;
    let (w, x) = ([seed as u8; LEN], [3i8; LEN]);
    let mut sum = seed;
    for _ in 0..rounds {
        let (w, x) = std::hint::black_box((&w, &x));
        for (w, x) in w.iter().zip(x) {
            sum = sum.wrapping_add(i32::from(*w) * i32::from(*x));
        }
    }
    (sum, (2 * LEN * rounds) as f64)
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use std::arch::asm;
    use std::arch::x86_64::*;

    /// Sums that do not wait for each other: more than any processor needs to hide an instruction's latency.
    const SUMS: usize = 12;
    /// Quads that the AVX2 kernels sum in 16 bits before they widen.
    const QUADS: usize = 8;

    /// Sixteen lanes of four products each, added to what is there, by one instruction.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn avx512(seed: i32, rounds: usize) -> (i32, f64) {
        let (w, x) = (_mm512_set1_epi8(3), _mm512_set1_epi8(1));
        let mut sums = [_mm512_set1_epi32(seed); SUMS];
        for _ in 0..rounds * QUADS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, w, x);
            }
        }
        let total = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b));
        (_mm512_reduce_add_epi32(total), (2 * 64 * SUMS * QUADS * rounds) as f64)
    }

    /// Products of nibbles, added in pairs, then in 16 bits over eight quads, then in 32.
    #[target_feature(enable = "avx2")]
    pub fn avx2(seed: i32, rounds: usize) -> (i32, f64) {
        let (mut w, x, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi8(1), _mm256_set1_epi16(1));
        let mut total = _mm256_set1_epi32(seed);
        for _ in 0..rounds {
            let mut sums = [_mm256_setzero_si256(); SUMS];
            for _ in 0..QUADS {
                for sum in &mut sums {
                    // A product of what does not change would be taken out of the loop.
                    // SAFETY: no instruction at all.
                    unsafe { asm!("/* {0} */", inout(ymm_reg) w, options(nomem, nostack, preserves_flags)) };
                    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(w, x));
                }
            }
            for sum in sums {
                total = _mm256_add_epi32(total, _mm256_madd_epi16(sum, ones));
            }
        }
        let four = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256::<1>(total));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
        (_mm_cvtsi128_si32(one), (2 * 32 * SUMS * QUADS * rounds) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read() {
        let values: Vec<u64> = (0..8 * STEP as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let want = values.iter().fold(0u64, |a, b| a.wrapping_add(*b));
        for streams in [1, 2, 4, 8] {
            assert!(Level::ALL.iter().all(|level| sum(*level, &values, streams) == want), "{streams}");
        }
    }

    #[test]
    fn every_operation_that_is_counted_is_done() {
        for level in Level::ALL {
            // Each product adds 3, and two operations are a product.
            let (start, _) = products(level, 0, 0);
            let (seeded, _) = products(level, 1, 0);
            let (end, operations) = products(level, 1, 5);
            assert_eq!(start, 0, "{level:?}");
            assert_eq!(f64::from(end - seeded), 3.0 * operations / 2.0, "{level:?}");
        }
    }
}
