//! Instruction-set levels, chosen at run time.

use crate::error::{Error, Result};
use std::sync::OnceLock;

/// The environment variable that lowers the level: `scalar`, `avx2`, `avx512` or `amx`.
pub const LEVEL_VARIABLE: &str = "COTVALVE_SIMD";

/// A set of instructions; a later one includes those before it. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every machine of the target has.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The AVX2 set with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The AVX-512 set with AMX's products of 8-bit integers, on Linux, which has to lend the registers.
    Amx,
}

impl Level {
    /// Every level, lowest first.
    pub const ALL: [Level; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx];

    /// The highest level this machine has.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Level> = OnceLock::new();
        *DETECTED.get_or_init(detect)
    }

    /// The highest level this machine has, lowered (never raised) by [`LEVEL_VARIABLE`].
    ///
    /// # Errors
    /// [`Error::Argument`] if the variable holds anything but the name of a level.
    pub fn from_env() -> Result<Self> {
        match std::env::var_os(LEVEL_VARIABLE) {
            Some(value) => Self::detect().lowered_to(&value.to_string_lossy()),
            None => Ok(Self::detect()),
        }
    }

    /// The lower of this level and the one called `name`.
    fn lowered_to(self, name: &str) -> Result<Self> {
        let named = Self::ALL.into_iter().find(|level| level.name() == name);
        let reason = || format!("{name:?} is not one of scalar, avx2, avx512, amx");
        named.map(|level| level.min(self)).ok_or_else(|| Error::argument(LEVEL_VARIABLE, reason()))
    }

    /// The highest level of vector code that it and this machine have.
    pub(crate) fn vectors(self) -> Self {
        self.min(Self::detect()).min(Self::Avx512)
    }

    /// The name that [`LEVEL_VARIABLE`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("avx2") && has!("fma") && has!("f16c")) {
        return Level::Scalar;
    }
    let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    match wide && has!("avx512vnni") {
        true if super::amx::lent() => Level::Amx,
        true => Level::Avx512,
        false => Level::Avx2,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Scalar
}

/// Defines functions whose bodies are compiled once for each level. Each gets `level: Level` as an additional
/// first argument and runs the version of that level, or of the highest one of this machine if that is lower.
///
/// Plain loops over arrays become vector code of the level, with the same bits at every level: the compiler
/// neither reorders nor fuses floating-point operations, so write `mul_add` where fusing is wanted. Whatever a
/// body calls in a loop has to be `#[inline(always)]`; closures are not, so write loops instead: what is not
/// inlined runs as scalar code, with a library call for each `mul_add`.
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name(level: $crate::cpu::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            match level.vectors() {
                // SAFETY: this machine has the features of the level, as `detect` found.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    )*};
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lowers_the_level_and_never_raises_it() {
        assert_eq!(Level::Avx512.lowered_to("avx2").unwrap(), Level::Avx2);
        assert_eq!(Level::Avx2.lowered_to("avx512").unwrap(), Level::Avx2);
        assert_eq!(Level::Amx.lowered_to("scalar").unwrap(), Level::Scalar);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_the_variable() {
        let message = Level::Avx512.lowered_to("sse9").unwrap_err().to_string();
        assert_eq!(message, "COTVALVE_SIMD: \"sse9\" is not one of scalar, avx2, avx512, amx");
    }

    multiversion! {
        /// A sum in lanes, as norms and dots are written.
        #[inline(never)]
        fn sum_of_squares(x: &[f32]) -> f32 {
            let mut lanes = [0.0f32; 16];
            for x in x.as_chunks::<16>().0 {
                for l in 0..16 {
                    lanes[l] = x[l].mul_add(x[l], lanes[l]);
                }
            }
            lanes.iter().sum()
        }
    }

    #[test]
    fn a_function_has_the_same_bits_at_every_level() {
        let x: Vec<f32> = (0..1600).map(|i| (i as f32).sin()).collect();
        let want = sum_of_squares(Level::Scalar, &x);
        for level in Level::ALL {
            assert_eq!(sum_of_squares(level, &x).to_bits(), want.to_bits(), "{level:?}");
        }
    }
}
