//! Few activation rows: weights are read as they lie.

use super::super::format::Format;
use super::super::isa::Isa;
use super::super::view::{Rows, Strided};
use super::{ask_after, excess, groups, half_scales, load_quants, pair, weigh};
use crate::quant::act::{ActRow, BLOCK};

/// `dot` less the excess of the weights over the halves of a block that `halves` names, whose activations' sums are the
/// pair in each lane of `sums`.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn less_excess<I: Isa, F: Format>(dot: I::Ints, sums: I::Ints, halves: [bool; 2]) -> I::Ints {
    let excess = excess::<I, F>() as i16;
    if excess == 0 {
        return dot;
    }
    let by = pair(halves.map(|half| if half { -excess } else { 0 }));
    // SAFETY: as the caller vouches.
    unsafe { I::add_dot_i16(dot, sums, I::splat_i32(by)) }
}

/// Σ (q_w − excess)·q_x of a part, a row in each lane.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn dot_part<I: Isa, F: Format>(quants: [[I::Bytes; 2]; 4], x: [I::Bytes; 2], sums: I::Ints) -> I::Ints {
    // SAFETY: as the caller vouches.
    unsafe {
        let dot = I::sum_lanes([
            I::dot_pair::<F>(quants[0], x),
            I::dot_pair::<F>(quants[1], x),
            I::dot_pair::<F>(quants[2], x),
            I::dot_pair::<F>(quants[3], x),
        ]);
        less_excess::<I, F>(dot, sums, [true; 2])
    }
}

/// The same of both halves, each times its scale, summed.
///
/// # Safety
/// As [`Isa`] says.
#[inline(always)]
unsafe fn dot_halves<I: Isa, F: Format>(
    quants: [[I::Bytes; 2]; 4],
    x: [I::Bytes; 2],
    sums: I::Ints,
    scales: [I::Ints; 2],
) -> I::Ints {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut halves = [I::splat_i32(0); 2];
        for h in 0..2 {
            let dot = I::sum_lanes([
                I::dot::<F>(quants[0][h], x[h]),
                I::dot::<F>(quants[1][h], x[h]),
                I::dot::<F>(quants[2][h], x[h]),
                I::dot::<F>(quants[3][h], x[h]),
            ]);
            halves[h] = less_excess::<I, F>(dot, sums, [h == 0, h == 1]);
        }
        weigh::<I, F>(halves, scales)
    }
}

/// What the parts of a group's blocks at `p` read and add to.
struct Group<I: Isa, F: Format> {
    p: *const u8,
    stride: usize,
    head: F::Head<I>,
}

/// Adds part `part` of a group's blocks, which is part `b` of its rows, times that of each activation row.
///
/// # Safety
/// As [`few`]; the group's blocks exist, and part `b` of the activations.
#[inline(always)]
unsafe fn add_part<I: Isa, F: Format, const M: usize>(
    acc: &mut [I::Floats; M],
    group: &Group<I, F>,
    x: &[ActRow<'_>; M],
    b: usize,
    part: usize,
) {
    let Group { p, stride, head } = *group;
    // SAFETY: as the caller vouches.
    unsafe {
        let quants = load_quants::<I, F>(p, stride, part);
        let [scale, minimum] = F::scales::<I>(head, part);
        for i in 0..M {
            let at = x[i].quants.as_ptr().add(b * BLOCK);
            let halves = [I::splat_16(at), I::splat_16(at.add(16))];
            let d = I::splat_f32(*x[i].scales.get_unchecked(b));
            let sums = I::splat_i32(pair(*x[i].sums.get_unchecked(b)));
            let dot = if F::HALVES {
                dot_halves::<I, F>(quants, halves, sums, half_scales::<I, F>(head, part))
            } else {
                dot_part::<I, F>(quants, halves, sums)
            };
            acc[i] = I::fma(I::to_f32(dot), I::mul(scale, d), acc[i]);
            if F::MINIMUM && F::HALVES {
                let taken = I::dot_i16(F::minimums::<I>(head, part), sums);
                acc[i] = I::fma(I::to_f32(taken), I::mul(minimum, d), acc[i]);
            } else if F::MINIMUM {
                let sum = I::to_f32(I::dot_i16(sums, I::splat_i32(pair([1; 2]))));
                acc[i] = I::fma(minimum, I::mul(sum, d), acc[i]);
            }
        }
    }
}

/// All rows of `w` times `M` activation rows, `w` read once.
///
/// # Safety
/// As [`linear_of`]; `w` has at least `LANES` rows, `y` has `M` rows.
#[inline(always)]
pub(in crate::cpu::simd) unsafe fn few<I: Isa, F: Format, const M: usize>(
    w: &Rows<'_>,
    x: [ActRow<'_>; M],
    y: &mut Strided<'_>,
) {
    const { assert!(F::PARTS == 1 || F::PARTS == 8) };
    let (stride, blocks) = (w.row_bytes(), w.cols / (BLOCK * F::PARTS));
    let ld = y.ld();
    let y = y.as_mut_ptr();
    for group in groups::<I>(w.rows()) {
        // SAFETY: rows group..group + LANES exist in `w` and in the columns of `y`; block b exists in them
        // and in the activations; the rest as the caller vouches.
        unsafe {
            let start = w.data.as_ptr().add(group * stride);
            let mut acc = [I::splat_f32(0.0); M];
            for block in 0..blocks {
                let p = start.add(block * F::BYTES);
                let (at, b) = (Group::<I, F> { p, stride, head: F::head::<I>(p, stride) }, block * F::PARTS);
                ask_after::<I, F>(start, stride, block);
                add_part(&mut acc, &at, &x, b, 0);
                if F::PARTS == 8 {
                    // Written out: with constants, shifts are immediate and parts share what they load.
                    add_part(&mut acc, &at, &x, b + 1, 1);
                    add_part(&mut acc, &at, &x, b + 2, 2);
                    add_part(&mut acc, &at, &x, b + 3, 3);
                    add_part(&mut acc, &at, &x, b + 4, 4);
                    add_part(&mut acc, &at, &x, b + 5, 5);
                    add_part(&mut acc, &at, &x, b + 6, 6);
                    add_part(&mut acc, &at, &x, b + 7, 7);
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                I::store_f32(y.add(i * ld + group), *acc);
            }
        }
    }
}
