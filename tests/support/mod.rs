//! What several test programs share.

// Each test program compiles all of this and uses a part.
#![allow(dead_code)]

pub mod alloc;
pub mod alphabet;
pub mod cxx;
pub mod gguf_fixture;
pub mod hostile;
pub mod peer_ids;
pub mod reference;
pub mod sampling;
pub mod session;
pub mod shaped;
pub mod stage;
pub mod touch;

/// Pseudorandom numbers that are the same on every machine (SplitMix64).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An index below `n`, which is small against 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in 0 (not included) to 1 (included).
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Normally distributed around `mean` (Box and Muller).
    pub fn normal(&mut self, mean: f32, deviation: f32) -> f32 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        mean + deviation * (radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }
}
