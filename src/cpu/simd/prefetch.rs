//! Memory that is asked for before it is read.

/// Asks for the cache line at `p`, which may be any address, to come to the second-level cache: a Zen 4 core asks for
/// more lines at a time there than in the first level, and reads eight rows side by side 1.7 times as fast.
#[inline(always)]
pub fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults.
    unsafe {
        use std::arch::x86_64::*;
        _mm_prefetch::<_MM_HINT_T1>(p.cast())
    }
}

/// Asks for the cache line at `p`, which may be any address, to come to the first-level cache, to be written.
#[inline(always)]
pub fn prefetch_to_write(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; a processor that does not know it takes it for no operation.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) p, options(nostack, preserves_flags, readonly))
    }
}
