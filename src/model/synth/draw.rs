//! Tensors of random values, drawn as they are stored.
//!
//! A tensor's bytes depend on the seed, its name, type and shape, and on nothing else; only integers are computed, so
//! that they are the same on every machine. Quants are random bits. A block's scale has a random sign and six random
//! bits of mantissa, so that values have a mean of zero in the formats too whose quants have not.

use crate::error::{Error, Result};
use crate::gguf::StoredType;
use crate::rng::Rng;

/// Bytes that are made at a time, about.
const CHUNK_BYTES: usize = 1 << 20;

/// How the values of a type are drawn.
#[derive(Clone, Copy)]
enum Kind {
    /// Uniform floats: a sign, `spare` bits whose trailing zeros lower the exponent, `mantissa` bits.
    Float { bytes: usize, mantissa: u32, spare: u32, bias: i32 },
    /// Blocks of quants with the F16 scale at `d`, and, where there is one, a minimum that is the scale times 2^shift
    /// at `d` + 2; `subs` says what scales of parts need.
    Block { d: usize, minimum: Minimum, subs: Subs },
    /// MXFP4: a byte of exponent, then quants.
    Exponent,
}

/// What makes the mean of quants that are not signed zero.
#[derive(Clone, Copy)]
enum Minimum {
    None,
    /// value = d·q + m: m = −d·2^shift.
    Added(u32),
    /// value = d·q − m: m = d·2^shift.
    Taken(u32),
}

/// Scales of the parts of a block beside random bits.
#[derive(Clone, Copy, PartialEq)]
enum Subs {
    Random,
    /// Q2_K: each byte of the first 16 is a scale and a minimum, which are the same.
    Nibbles,
    /// Q4_K, Q5_K: eight scales of 32..64 and the same minimums in 12 bytes from byte 4.
    Six,
}

/// The way of a type, and three times the mean square of its values where a scale's exponent is 0.
///
/// Scales have a mean square of 7/3. Signed quants of b bits have (4^b − 1) / 12 + 1/4; part scales of Q6_K, Q3_K and
/// IQ4_XS are signed too, those of Q4_K and Q5_K are 32..64 (2341), those of Q2_K 0..16 (77.5). The tables of IQ4_NL
/// (4548) and MXFP4 (34.25) have theirs.
fn way(ty: &StoredType) -> Option<(Kind, u64)> {
    let block = |d, minimum, subs| Kind::Block { d, minimum, subs };
    let plain = |d| block(d, Minimum::None, Subs::Random);
    Some(match ty.name {
        "f32" => (Kind::Float { bytes: 4, mantissa: 23, spare: 8, bias: 127 }, 4),
        "f16" => (Kind::Float { bytes: 2, mantissa: 10, spare: 5, bias: 15 }, 4),
        "bf16" => (Kind::Float { bytes: 2, mantissa: 7, spare: 8, bias: 127 }, 4),
        "q4_0" => (plain(0), 150),
        "q4_1" => (block(0, Minimum::Added(3), Subs::Random), 150),
        "q5_0" => (plain(0), 598),
        "q5_1" => (block(0, Minimum::Added(4), Subs::Random), 598),
        "q8_0" => (plain(0), 38_230),
        "q2_K" => (block(80, Minimum::Taken(1), Subs::Nibbles), 813),
        "q3_K" => (plain(108), 13_150),
        "q4_K" => (block(0, Minimum::Taken(3), Subs::Six), 352_000),
        "q5_K" => (block(0, Minimum::Taken(4), Subs::Six), 1_400_000),
        "q6_K" => (plain(208), 13_060_000),
        "iq4_nl" => (plain(0), 31_836),
        "iq4_xs" => (plain(0), 10_870_000),
        "mxfp4" => (Kind::Exponent, 257),
        _ => return None,
    })
}

/// Whether tensors of type `ty` can be drawn.
pub(super) fn is_drawn(ty: &StoredType) -> bool {
    way(ty).is_some()
}

/// The stream of the tensor `name`, which no other tensor's depends on.
fn stream(seed: u64, name: &str) -> Rng {
    // FNV-1a.
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    Rng::new(Rng::new(seed ^ hash).next_u64())
}

/// The bytes of a matrix of type `ty` and shape `dims` (fastest first), in pieces. An output has 2^(gain − 1) to 2^gain
/// times the root mean square of its inputs.
///
/// # Errors
/// [`Error::Argument`] for a type that is not drawn, and for rows that are no whole blocks.
pub(super) fn matrix(
    ty: &'static StoredType,
    dims: [usize; 2],
    gain: i32,
    (seed, name): (u64, &str),
) -> Result<impl Iterator<Item = Result<Vec<u8>>> + use<>> {
    let refused = |reason: String| Error::argument("type", format!("{name}: {reason}"));
    let (kind, square) = way(ty).ok_or_else(|| refused(format!("{ty} is not among the types that are drawn")))?;
    let bytes = ty.tensor_bytes(&dims).map_err(refused)?;
    let exponent = gain - halvings(square.saturating_mul(dims[0] as u64));
    let mut rng = stream(seed, name);
    let block = ty.block_bytes;
    let step = CHUNK_BYTES / (8 * block) * 8 * block;
    Ok((0..bytes).step_by(step).map(move |start| {
        let mut chunk = vec![0; step.min(bytes - start)];
        match kind {
            Kind::Float { .. } => floats(kind, exponent, &mut rng, &mut chunk),
            _ => chunk.chunks_exact_mut(block).for_each(|block| draw_block(kind, exponent, &mut rng, block)),
        }
        Ok(chunk)
    }))
}

/// `n` norm weights: F32 from 1 up to 1.25.
pub(super) fn norm(n: usize, (seed, name): (u64, &str)) -> Vec<u8> {
    let mut rng = stream(seed, name);
    (0..n).flat_map(|_| (0x3f80_0000 | rng.next_u64() as u32 & 0x001f_ffff).to_le_bytes()).collect()
}

/// The least k with 3·4^k ≥ `triple`: how often values are halved so that the sum of their squares is at most 1.
fn halvings(triple: u64) -> i32 {
    (0..).find(|k| 3_u128 << (2 * k) >= u128::from(triple)).expect("3·4^32 is more than any u64")
}

fn floats(kind: Kind, exponent: i32, rng: &mut Rng, chunk: &mut [u8]) {
    let Kind::Float { bytes, mantissa, spare, bias } = kind else { return };
    for word in chunk.chunks_mut(8) {
        let mut bits = rng.next_u64();
        for value in word.chunks_exact_mut(bytes) {
            let drawn = bits as u32 & (u32::MAX >> (32 - 8 * bytes));
            value.copy_from_slice(&float(drawn, mantissa, spare, bias + exponent).to_le_bytes()[..bytes]);
            bits >>= 8 * bytes;
        }
    }
}

/// A float of random bits whose exponent field is `exponent` less the trailing zeros of the `spare` bits.
fn float(bits: u32, mantissa: u32, spare: u32, exponent: i32) -> u32 {
    let low = (bits >> mantissa & ((1 << spare) - 1) | 1 << spare).trailing_zeros();
    let sign = bits >> (mantissa + spare) << (mantissa + spare);
    sign | ((exponent - low as i32).max(1) as u32) << mantissa | bits & ((1 << mantissa) - 1)
}

fn draw_block(kind: Kind, exponent: i32, rng: &mut Rng, block: &mut [u8]) {
    let head = rng.next_u64();
    for word in block.chunks_mut(8) {
        word.copy_from_slice(&rng.next_u64().to_le_bytes()[..word.len()]);
    }
    let (d, minimum, subs) = match kind {
        Kind::Block { d, minimum, subs } => (d, minimum, subs),
        // The format's table has doubled values, so that a byte of 128 stands for 1.
        _ => return block[0] = (128 + exponent + (head & 1) as i32).clamp(0, 254) as u8,
    };
    let mut put = |at: usize, bits: u16| block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    put(d, scale(head, exponent));
    match minimum {
        Minimum::None => {}
        Minimum::Added(shift) => put(d + 2, scale(head, exponent + shift as i32) ^ 0x8000),
        Minimum::Taken(shift) => put(d + 2, scale(head, exponent + shift as i32)),
    }
    match subs {
        Subs::Random => {}
        Subs::Nibbles => block[..16].iter_mut().for_each(|b| *b = (*b & 15) * 17),
        Subs::Six => six_bits(head >> 7, &mut block[4..16]),
    }
}

/// An F16 of random sign, `exponent` and six bits of mantissa; below the normal numbers bits that find no place are
/// lost.
fn scale(head: u64, exponent: i32) -> u16 {
    let (sign, mantissa) = ((head as u16 & 1) << 15, (head as u16 >> 1 & 63) << 4);
    let field = exponent + 15;
    sign | match field {
        1.. => (field.min(30) as u16) << 10 | mantissa,
        _ => (1 << 10 | mantissa).checked_shr((1 - field) as u32).unwrap_or(0),
    }
}

/// Eight scales of 32..64 of five bits of `bits` each, which are the minimums too, as Q4_K packs them.
fn six_bits(bits: u64, packed: &mut [u8]) {
    let scale = |j: usize| 32 | (bits >> (5 * j)) as u8 & 31;
    for j in 0..4 {
        let (low, high) = (scale(j), scale(j + 4));
        packed[j] = low | high >> 4 << 6;
        packed[j + 4] = packed[j];
        packed[j + 8] = (high & 15) * 17;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant;
    use crate::tensor::TensorType;

    fn drawn(ty: TensorType, dims: [usize; 2], gain: i32) -> Vec<u8> {
        let ty = StoredType::from_id(ty as u32).unwrap();
        matrix(ty, dims, gain, (7, "w")).unwrap().flat_map(Result::unwrap).collect()
    }

    #[test]
    fn every_type_has_the_scale_that_was_asked_for_and_no_mean() {
        for ty in TensorType::ALL {
            for (cols, gain) in [(256, 1), (8192, 0), (27_648, 2)] {
                let bytes = drawn(ty, [cols, 64], gain);
                let mut values = vec![0.0; 64 * cols];
                quant::dequantize(ty, &bytes, &mut values);
                let n = values.len() as f64;
                let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
                let output = (square * cols as f64).sqrt() / f64::from(gain).exp2();
                assert!((0.45..1.05).contains(&output), "{ty} {cols}: {output}");
                assert!(mean.abs() < 0.05 * square.sqrt(), "{ty} {cols}: {mean}");
            }
        }
    }

    #[test]
    fn scales_are_those_of_the_format() {
        let value = |bits| half::f16::from_bits(bits).to_f32();
        assert_eq!(value(scale(0, 0)), 1.0);
        assert_eq!(value(scale(1 | 32 << 1, 2)), -6.0);
        assert_eq!(value(scale(32 << 1, -18)), 1.5 * 2.0_f32.powi(-18));
        assert_eq!(scale(u64::MAX, -60), 0x8000);
    }

    #[test]
    fn one_tensor_does_not_depend_on_another() {
        let words = |seed, name| -> Vec<u64> {
            (0..4)
                .map({
                    let mut rng = stream(seed, name);
                    move |_| rng.next_u64()
                })
                .collect()
        };
        assert_eq!(words(1, "a"), words(1, "a"));
        assert_ne!(words(1, "a"), words(1, "b"));
        assert_ne!(words(1, "a"), words(2, "a"));
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let refused = |name: &str, dims| {
            let ty = StoredType::all().iter().find(|ty| ty.name == name).unwrap();
            matrix(ty, dims, 0, (0, "w")).err().unwrap().to_string()
        };
        assert!(refused("iq1_s", [256, 2]).contains("iq1_s is not among"));
        assert!(refused("q4_K", [576, 2]).contains("rows of 576"));
    }
}
