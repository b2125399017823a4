//! AMX: square sums of products of 8-bit integers, in registers of their own.
//!
//! The compiler has no stable names for the instructions, so they are written out. Nothing else uses the registers:
//! [`Squares`] lays them out, and they hold nothing when it is gone, so that the system has none to save.

use super::LINE;
use std::arch::asm;

/// Rows and columns of a square.
pub(super) const SIDE: usize = 16;
/// Rows of half a square.
pub(super) const HALF: usize = 8;
/// Products in a round of [`products`].
const PRODUCTS: usize = 4;

/// Whether this machine has the instructions and the system lends this process the registers, which it does for the
/// asking.
#[cfg(target_os = "linux")]
pub(super) fn lent() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    /// AMX-TILE and AMX-INT8 in EDX of leaf 7.
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    let found = std::arch::x86_64::__cpuid_count(7, 0).edx & FEATURES == FEATURES;
    // SAFETY: the call takes two numbers and changes what the process may use, nothing that it has.
    found && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn lent() -> bool {
    false
}

/// What LDTILECFG reads: the rows of each register and the bytes of a row.
#[repr(C, align(64))]
struct Layout {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The registers of this thread, laid out: 0 and 1 for sums, 2 for as many rows of activations, 3 for weights; 4 and 5
/// as 0 and 2, for half as many rows.
pub(super) struct Squares(());

impl Squares {
    /// For products over `depth` values, a multiple of 4 up to 64.
    ///
    /// # Safety
    /// [`lent`] has said so.
    pub(super) unsafe fn new(depth: usize) -> Self {
        let mut layout =
            Layout { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [LINE as u16; 16], rows: [0; 16] };
        for x in [2, 5] {
            layout.row_bytes[x] = depth as u16;
        }
        layout.row_bytes[6..].fill(0);
        for (rows, of) in layout.rows.iter_mut().zip([SIDE, SIDE, SIDE, depth / 4, HALF, HALF]) {
            *rows = of as u8;
        }
        // SAFETY: as the caller vouches; the layout is one the instruction takes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const layout, options(nostack, preserves_flags, readonly)) };
        Self(())
    }

    /// Σ x·w over the depth, `[R, SIDE]`, for `R` rows of x, `ld` bytes apart, and weights as `[depth / 4]` rows of
    /// quads, one for each of SIDE columns; both signed. `R` is SIDE or HALF.
    ///
    /// # Safety
    /// `x` and `w` can be read for that, `sums` written.
    #[inline(always)]
    pub(super) unsafe fn product<const R: usize>(&self, x: *const u8, ld: usize, w: *const u8, sums: *mut i32) {
        const { assert!(R == SIDE || R == HALF) };
        // SAFETY: `new` laid the registers out for it; as the caller vouches.
        unsafe {
            asm!(
                "tilezero tmm{c}",
                "tileloadd tmm{a}, [{x} + {ld}*1]",
                "tileloadd tmm3, [{w} + {line}*1]",
                "tdpbssd tmm{c}, tmm{a}, tmm3",
                "tilestored [{sums} + {line}*1], tmm{c}",
                c = const if R == SIDE { 0 } else { 4 },
                a = const if R == SIDE { 2 } else { 5 },
                x = in(reg) x,
                ld = in(reg) ld,
                w = in(reg) w,
                line = in(reg) LINE,
                sums = in(reg) sums,
                out("tmm0") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                options(nostack, preserves_flags),
            );
        }
    }
}

impl Drop for Squares {
    fn drop(&mut self) {
        // SAFETY: that the registers were laid out says that the instruction is there.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// [`super::limits::products`]: sums squares of products of 3 and 1 over a block's 32 values.
///
/// # Safety
/// [`lent`] has said so.
pub(super) unsafe fn products(seed: i32, rounds: usize) -> (i32, f64) {
    const DEPTH: usize = 32;
    let (x, w) = ([1u8; SIDE * DEPTH], [3u8; SIDE * DEPTH]);
    let mut sums = [[0i32; SIDE * SIDE]; 2];
    let [first, second] = &mut sums;
    // SAFETY: as the caller vouches; the registers are laid out for rows of as many bytes as the arrays have.
    unsafe {
        let _squares = Squares::new(DEPTH);
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tileloadd tmm2, [{x} + {depth}*1]",
            "tileloadd tmm3, [{w} + {line}*1]",
            x = in(reg) &raw const x,
            w = in(reg) &raw const w,
            depth = in(reg) DEPTH,
            line = in(reg) LINE,
            options(nostack, preserves_flags),
        );
        for _ in 0..rounds * PRODUCTS / 2 {
            asm!("tdpbssd tmm0, tmm2, tmm3", "tdpbssd tmm1, tmm2, tmm3", options(nostack, nomem, preserves_flags));
        }
        asm!(
            "tilestored [{first} + {line}*1], tmm0",
            "tilestored [{second} + {line}*1], tmm1",
            first = in(reg) first,
            second = in(reg) second,
            line = in(reg) LINE,
            options(nostack, preserves_flags),
        );
    }
    let total = sums.as_flattened().iter().fold(seed, |a, b| a.wrapping_add(*b));
    (total, (2 * SIDE * SIDE * DEPTH * PRODUCTS * rounds) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const R: usize>(depth: usize) {
        let mut rng = crate::rng::Rng::new(depth as u64);
        let mut bytes = |n: usize| (0..n).map(|_| rng.next_u64() as u8).collect::<Vec<_>>();
        let ld = depth + 5;
        let (x, w) = (bytes(R * ld), bytes(SIDE * depth));
        let mut sums = [i32::MIN; SIDE * SIDE];
        // SAFETY: `lent` was asked; the buffers have the sizes.
        unsafe { Squares::new(depth).product::<R>(x.as_ptr(), ld, w.as_ptr(), sums.as_mut_ptr()) };
        for (i, sum) in sums.iter().enumerate() {
            let (r, c) = (i / SIDE, i % SIDE);
            let product = |k: usize| i32::from(x[r * ld + k] as i8) * i32::from(w[k / 4 * LINE + 4 * c + k % 4] as i8);
            let want = if r < R { (0..depth).map(product).sum() } else { i32::MIN };
            assert_eq!(*sum, want, "[{r}, {c}] of {R} rows over {depth}");
        }
    }

    #[test]
    fn squares_hold_the_sums_of_signed_products() {
        if lent() {
            for depth in [4, 16, 32, 64] {
                check::<SIDE>(depth);
                check::<HALF>(depth);
            }
        }
    }
}
