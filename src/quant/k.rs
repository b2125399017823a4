//! What the K formats share: super-blocks of 256 values, 6-bit scales and minimums, and the search for them.
//!
//! A super-block has sub-blocks whose scales are small integers times an F16 of the super-block, so that scales
//! cost little and still fit their values. The encoders here look for the scales by least squares over a range of
//! candidates, weighing errors as ggml's do without an importance matrix; they do not write ggml's bytes, and err
//! no more (`tests/ggml_oracle.rs`).

use super::BLOCK;
use super::act::ActRow;
use super::float::{put_scale, scale};

/// Values in a super-block.
pub(super) const SUPER: usize = 256;
/// Sub-blocks of 32 values in it.
pub(super) const SUBS: usize = SUPER / BLOCK;
/// Bytes of eight scales and eight minimums of 6 bits.
pub(super) const SCALES_BYTES: usize = 12;
/// The largest of those.
const LARGEST: u8 = 63;
/// Candidates for a scale beside the plain one, and the distance between them in levels.
const CANDIDATES: usize = 20;
const CANDIDATE_STEP: f32 = 0.1;

/// The 6-bit scale and minimum of sub-block `j`. The first four of both lie in the low bits of bytes 0..4 and 4..8;
/// the others have their low nibbles in bytes 8..12 and their two high bits above the first ones'.
#[inline(always)]
pub(super) fn scale_and_minimum(packed: &[u8; SCALES_BYTES], j: usize) -> (u8, u8) {
    if j < 4 {
        return (packed[j] & 63, packed[j + 4] & 63);
    }
    let low = packed[j + 4];
    ((low & 15) | packed[j - 4] >> 6 << 4, (low >> 4) | packed[j] >> 6 << 4)
}

/// The inverse of [`scale_and_minimum`], for all eight.
fn pack(scales: [u8; SUBS], minimums: [u8; SUBS]) -> [u8; SCALES_BYTES] {
    let mut packed = [0; SCALES_BYTES];
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = minimums[j] | minimums[j + 4] >> 4 << 6;
        packed[j + 8] = (scales[j + 4] & 15) | (minimums[j + 4] & 15) << 4;
    }
    packed
}

/// The affine step of sub-block `j` of a block that starts `{ f16 d; f16 dmin; u8 scales[12] }`: value = s·q − m.
#[inline(always)]
pub(super) fn step(block: &[u8], j: usize) -> (f32, f32) {
    let (s, m) = scale_and_minimum(block[4..].first_chunk().expect("12 bytes"), j);
    (scale(block) * f32::from(s), scale(&block[2..]) * f32::from(m))
}

/// s·q − m for every value, where `quants` gives those of sub-block j of a block of `BYTES` bytes.
#[inline(always)]
pub(super) fn dequantize<const BYTES: usize>(
    src: &[u8],
    dst: &mut [f32],
    quants: impl Fn(&[u8; BYTES], usize) -> [u8; BLOCK],
) {
    for (block, out) in src.as_chunks::<BYTES>().0.iter().zip(dst.as_chunks_mut::<SUPER>().0) {
        for (j, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let (s, m) = step(block, j);
            let quants = quants(block, j);
            for i in 0..BLOCK {
                out[i] = f32::from(quants[i]) * s - m;
            }
        }
    }
}

/// acc = fma(Σ q_w·q_x, s·d_x, acc), then acc = fma(−m, d_x·Σ q_x, acc), sub-blocks ascending, where `quants` gives
/// those of sub-block j of a block of `BYTES` bytes.
pub(super) fn dot<const BYTES: usize>(
    row: &[u8],
    x: ActRow<'_>,
    quants: impl Fn(&[u8; BYTES], usize) -> [u8; BLOCK],
) -> f32 {
    x.blocks().enumerate().fold(0.0, |acc, (i, x)| {
        let block = &row.as_chunks::<BYTES>().0[i / SUBS];
        let (s, m) = step(block, i % SUBS);
        let sum = super::dot_block(&quants(block, i % SUBS), x.quants);
        let acc = (sum as f32).mul_add(s * x.scale, acc);
        (-m).mul_add(x.scale * x.sum() as f32, acc)
    })
}

/// Encodes a super-block whose quants are 0..=`levels`: writes its head, returns the quants.
pub(super) fn encode(x: &[f32; SUPER], levels: u8, head: &mut [u8]) -> [u8; SUPER] {
    let subs: &[[f32; BLOCK]] = x.as_chunks().0;
    let mut fits = [(0.0, 0.0); SUBS];
    fits.iter_mut().zip(subs).for_each(|(fit, x)| *fit = fit_affine(x, levels));
    let largest = |part: fn(&(f32, f32)) -> f32| fits.iter().map(part).fold(0.0, f32::max);
    let (d, dmin) = (largest(|f| f.0) / f32::from(LARGEST), largest(|f| f.1) / f32::from(LARGEST));
    let index = |v: f32, d: f32| if d > 0.0 { (v / d).round().min(f32::from(LARGEST)) as u8 } else { 0 };
    put_scale(d, head);
    put_scale(dmin, &mut head[2..]);
    head[4..4 + SCALES_BYTES].copy_from_slice(&pack(fits.map(|f| index(f.0, d)), fits.map(|f| index(f.1, dmin))));
    let mut quants = [0; SUPER];
    for (j, (x, quants)) in subs.iter().zip(quants.as_chunks_mut::<BLOCK>().0).enumerate() {
        let (s, m) = step(head, j);
        if s > 0.0 {
            *quants = x.map(|v| ((v + m) / s).round().clamp(0.0, f32::from(levels)) as u8);
        }
    }
    quants
}

/// `(s, m)` for x ≈ s·q − m with q in 0..=`levels` and s, m ≥ 0.
fn fit_affine(x: &[f32; BLOCK], levels: u8) -> (f32, f32) {
    let levels = f32::from(levels);
    let square: f32 = x.iter().map(|v| v * v).sum();
    let mean = (square / BLOCK as f32).sqrt();
    let low = x.iter().fold(0.0f32, |m, v| m.min(*v));
    let high = x.iter().fold(f32::MIN, |m, v| m.max(*v));
    if high <= low {
        return (0.0, -low);
    }
    let mut best = (f32::INFINITY, 0.0, -low);
    for candidate in 0..=CANDIDATES {
        // From one level fewer to one more than the plain spread of the values over the levels.
        let inverse = (levels + CANDIDATE_STEP * candidate as f32 - 1.0) / (high - low);
        let quants = x.map(|v| ((v - low) * inverse).round().clamp(0.0, levels));
        let (s, m) = solve_affine(x, &quants, mean);
        let error = |(v, q): (&f32, &f32)| (mean + v.abs()) * (s * q - m - v).powi(2);
        let error: f32 = x.iter().zip(&quants).map(error).sum();
        if error < best.0 {
            best = (error, s, m);
        }
    }
    (best.1, best.2)
}

/// The weighted least squares of s·q − m − x over m ≥ 0, with weights `mean` + |x|.
fn solve_affine(x: &[f32; BLOCK], quants: &[f32; BLOCK], mean: f32) -> (f32, f32) {
    let (mut w, mut wq, mut wqq, mut wx, mut wqx) = (0.0f32, 0.0, 0.0, 0.0, 0.0);
    for (x, q) in x.iter().zip(quants) {
        let weight = mean + x.abs();
        w += weight;
        wq += weight * q;
        wqq += weight * q * q;
        wx += weight * x;
        wqx += weight * q * x;
    }
    let determinant = w * wqq - wq * wq;
    let (s, m) = if determinant > 0.0 {
        ((w * wqx - wq * wx) / determinant, (wq * wqx - wqq * wx) / determinant)
    } else {
        (0.0, -wx / w)
    };
    let (s, m) = if m < 0.0 { (wqx / wqq, 0.0) } else { (s, m) };
    if s.is_finite() && s >= 0.0 { (s, m) } else { (0.0, m.max(0.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        let scales = [63, 0, 17, 42, 63, 1, 32, 15];
        let minimums = [5, 63, 0, 16, 48, 63, 7, 33];
        let packed = pack(scales, minimums);
        for j in 0..SUBS {
            assert_eq!(scale_and_minimum(&packed, j), (scales[j], minimums[j]));
        }
    }

    #[test]
    fn what_lies_on_levels_is_fitted_exactly() {
        let x: [f32; BLOCK] = std::array::from_fn(|i| 0.5 * (i % 16) as f32 - 2.0);
        let (s, m) = fit_affine(&x, 15);
        assert!((s - 0.5).abs() < 1e-4 && (m - 2.0).abs() < 1e-3, "{s} {m}");
        // Nothing below zero, so nothing to take off but what a fit may gain by it.
        let (s, m) = fit_affine(&x.map(|v| v + 3.0), 15);
        assert!((0.0..0.3).contains(&m) && s > 0.5, "{s} {m}");
        assert_eq!(fit_affine(&[0.0; BLOCK], 15), (0.0, 0.0));
        assert_eq!(fit_affine(&[-1.5; BLOCK], 15).1, 1.5);
    }
}
