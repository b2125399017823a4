//! Block formats against ggml's own code: what a file's bytes mean, and which bytes an encoder writes, bit for bit.
#![cfg(feature = "ggml")]

use cotvalve::quant::{self, act};
use cotvalve::tensor::TensorType;

/// Types whose encoder is ggml's to the bit.
const SIMPLE: [TensorType; 5] =
    [TensorType::Q4_0, TensorType::Q4_1, TensorType::Q5_0, TensorType::Q5_1, TensorType::Q8_0];
/// Types of super-blocks, whose encoder is our own.
const SUPER: [TensorType; 5] = [TensorType::Q2K, TensorType::Q3K, TensorType::Q4K, TensorType::Q5K, TensorType::Q6K];
/// Types of levels by table, whose encoder is our own too.
const TABLE: [TensorType; 3] = [TensorType::Iq4Nl, TensorType::Iq4Xs, TensorType::Mxfp4];

/// A xorshift generator: random bytes, and floats of the kinds that weights come in.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.next() >> 32) as u8).collect()
    }

    /// Uniform in −1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn dequantize(ty: TensorType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
    quant::dequantize(ty, bytes, &mut values);
    values
}

fn encode(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap()];
    quant::encode(ty, values, &mut bytes);
    bytes
}

fn assert_same_values(ty: TensorType, bytes: &[u8]) {
    let (ours, theirs) = (dequantize(ty, bytes), ggml_sys::dequantize(ty as u32, bytes).unwrap());
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{ty} value {i}: {a:e}, ggml has {b:e}");
    }
}

fn assert_same_bytes(ty: TensorType, values: &[f32]) {
    let (ours, theirs) = (encode(ty, values), ggml_sys::quantize(ty as u32, values).unwrap());
    let blocks = ours.chunks(ty.block_bytes()).zip(theirs.chunks(ty.block_bytes()));
    for ((a, b), x) in blocks.zip(values.chunks(ty.block_len())) {
        assert_eq!(a, b, "{ty}: ours and ggml's block of {x:?}");
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn types_are_ggmls() {
    for ty in TensorType::ALL {
        let theirs = ggml_sys::type_traits(ty as u32).unwrap();
        assert_eq!((theirs.name, theirs.block_len, theirs.block_bytes), (ty.name(), ty.block_len(), ty.block_bytes()));
        assert_eq!(theirs.is_quantized, ty.is_quantized());
    }
}

#[test]
fn random_bytes_dequantize_to_the_same_bits() {
    let mut random = Random(1);
    for ty in TensorType::ALL {
        for _ in 0..64 {
            assert_same_values(ty, &random.bytes(ty.row_bytes(2048).unwrap()));
        }
    }
}

#[test]
fn every_f16_scale_and_every_16_bit_float_reads_the_same() {
    let mut random = Random(2);
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    assert_same_values(TensorType::F16, &halves);
    assert_same_values(TensorType::BF16, &halves);
    for ty in SIMPLE.into_iter().chain([TensorType::Iq4Nl, TensorType::Iq4Xs]) {
        let mut row = random.bytes(ty.block_bytes() << 16);
        for (block, scale) in row.chunks_mut(ty.block_bytes()).zip(0..=u16::MAX) {
            block[..2].copy_from_slice(&scale.to_le_bytes());
        }
        assert_same_values(ty, &row);
    }
    let mut row = random.bytes(TensorType::Q4_1.block_bytes() << 16);
    for (block, min) in row.chunks_mut(20).zip(0..=u16::MAX) {
        block[2..4].copy_from_slice(&min.to_le_bytes());
    }
    assert_same_values(TensorType::Q4_1, &row);
    let ty = TensorType::Mxfp4;
    let mut row = random.bytes(ty.block_bytes() << 8);
    row.chunks_mut(ty.block_bytes()).zip(0..=u8::MAX).for_each(|(block, e)| block[0] = e);
    assert_same_values(ty, &row);
}

#[test]
fn ggmls_own_blocks_dequantize_to_the_same_bits() {
    let mut random = Random(9);
    let mut blocks = corners(&mut random);
    blocks.extend((0..64).map(|_| (0..256).map(|_| random.unit().powi(3)).collect()));
    for ty in SUPER.into_iter().chain(TABLE) {
        for block in &blocks {
            let values: Vec<f32> = block.iter().cycle().take(256).copied().collect();
            if is_defined(ty, &values) {
                assert_same_values(ty, &ggml_sys::quantize(ty as u32, &values).unwrap());
            }
        }
    }
}

/// Blocks that meet an encoder's corners: ties, one sign, one outlier, zeros of both signs, constants, tiny and huge.
fn corners(random: &mut Random) -> Vec<Vec<f32>> {
    let mut blocks: Vec<Vec<f32>> = vec![vec![0.0; 32], vec![-0.0; 32]];
    for value in [1.0, -1.0, 0.3, 65504.0, 1e-8, 1e-40, -1e-40, 1e30, f32::MIN_POSITIVE] {
        blocks.push(vec![value; 32]);
        blocks.push((0..32).map(|i| if i == 7 { value } else { 0.0 }).collect());
        blocks.push((0..32).map(|i| if i % 2 == 0 { value } else { -value }).collect());
    }
    for n in [7.0, 7.5, 8.0, 15.0, 127.0, 254.0] {
        // Multiples of half a step, with the ends in either order: every rounding is a tie.
        blocks.push((0..32).map(|i| (i as f32 - 16.0) / n).collect());
        blocks.push((0..32).map(|i| (16.0 - i as f32) / n).collect());
        blocks.push((0..32).map(|i| (i as f32 + 0.5) / n).collect());
    }
    for exponent in -44..37 {
        let scale = 10f64.powi(exponent);
        blocks.push((0..32).map(|_| (f64::from(random.unit()) * scale) as f32).collect());
        blocks.push((0..32).map(|_| (f64::from(random.unit().abs() + 1.0) * scale) as f32).collect());
    }
    blocks
}

/// Where the step is so small that its inverse is infinite, ggml converts NaN or infinity to an integer, which C leaves
/// undefined: nothing to agree on.
fn is_defined(ty: TensorType, block: &[f32]) -> bool {
    let peak = block.iter().fold(0f32, |m, v| m.max(v.abs()));
    !ty.is_quantized() || peak == 0.0 || peak > 1e-36
}

#[test]
fn encoders_write_the_same_bytes() {
    let mut random = Random(3);
    let blocks = corners(&mut random);
    for ty in TensorType::ALL.into_iter().filter(|ty| !SUPER.contains(ty) && !TABLE.contains(ty)) {
        blocks.iter().filter(|block| is_defined(ty, block)).for_each(|block| assert_same_bytes(ty, block));
        for _ in 0..256 {
            let cubes: Vec<f32> = (0..2048).map(|_| random.unit().powi(3)).collect();
            assert_same_bytes(ty, &cubes);
        }
    }
}

#[test]
fn finite_floats_of_every_kind_shorten_to_the_same_bits() {
    let mut random = Random(4);
    let values: Vec<f32> =
        (0..1 << 20).map(|_| f32::from_bits(random.next() as u32)).filter(|v| v.is_finite()).collect();
    assert_same_bytes(TensorType::F16, &values);
    assert_same_bytes(TensorType::BF16, &values);
}

/// Root mean square of the dots' errors against dequantized weights times unrounded activations: ours, then ggml's.
fn dot_errors(ty: TensorType, random: &mut Random, n: usize, rows: usize) -> (f64, f64) {
    let (mut ours, mut theirs) = (0.0, 0.0);
    for _ in 0..rows {
        let w: Vec<f32> = (0..n).map(|_| random.unit()).collect();
        let x: Vec<f32> = (0..n).map(|_| random.unit() * 3.0).collect();
        let row = encode(ty, &w);
        let exact: f64 = dequantize(ty, &row).iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        let mut acts = act::Acts::new(1, n);
        act::quantize(&x, acts.rows_mut().next().unwrap());
        ours += (f64::from(quant::dot_int8(ty, &row, acts.row(0))) - exact).powi(2);
        theirs += (f64::from(ggml_sys::vec_dot(ty as u32, &row, &x).unwrap()) - exact).powi(2);
    }
    ((ours / rows as f64).sqrt(), (theirs / rows as f64).sqrt())
}

#[test]
fn int8_dots_err_no_more_than_ggmls() {
    let mut random = Random(5);
    for ty in SIMPLE.into_iter().chain(SUPER).chain(TABLE) {
        for n in [32, 576, 1536].into_iter().filter(|n| n % ty.block_len() == 0) {
            let (ours, theirs) = dot_errors(ty, &mut random, n, 400);
            assert!(ours > 0.0 && ours <= 1.05 * theirs, "{ty}, {n} values: error {ours:e}, ggml's {theirs:e}");
        }
    }
}

/// Weights of several shapes: even, the bell of trained weights, few large, and far from zero with outliers.
fn weights_of_kind(kind: usize, random: &mut Random, n: usize) -> Vec<f32> {
    let value = |i: usize| match kind {
        0 => random.unit(),
        1 => (0..8).map(|_| random.unit()).sum::<f32>() * 0.02,
        2 => random.unit().powi(5),
        _ => random.unit().abs() + if i % 97 == 0 { 3.0 } else { 0.1 },
    };
    (0..n).map(value).collect()
}

/// Root mean square of what rounding `values` to `ty` does, by our encoder and by ggml's.
fn rounding_errors(ty: TensorType, values: &[f32]) -> (f64, f64) {
    let error = |bytes: &[u8]| {
        let errors = dequantize(ty, bytes).into_iter().zip(values).map(|(a, b)| f64::from(a - b).powi(2));
        (errors.sum::<f64>() / values.len() as f64).sqrt()
    };
    (error(&encode(ty, values)), error(&ggml_sys::quantize(ty as u32, values).unwrap()))
}

#[test]
fn our_encoders_err_no_more_than_ggmls() {
    let mut random = Random(6);
    for ty in SUPER.into_iter().chain(TABLE) {
        for kind in 0..4 {
            let values = weights_of_kind(kind, &mut random, 1 << 17);
            let (ours, theirs) = rounding_errors(ty, &values);
            println!("{ty} kind {kind}: {ours:.3e}, ggml {theirs:.3e}, ratio {:.4}", ours / theirs);
            assert!(ours > 0.0 && ours <= 1.02 * theirs, "{ty} kind {kind}: error {ours:e}, ggml's {theirs:e}");
        }
    }
}

#[test]
fn corner_values_come_back_finite() {
    let mut random = Random(7);
    for block in corners(&mut random) {
        let values: Vec<f32> = block.iter().cycle().take(256).copied().collect();
        let peak = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        for ty in SUPER.into_iter().chain(TABLE).filter(|_| peak < 1e4) {
            for (a, b) in dequantize(ty, &encode(ty, &values)).into_iter().zip(&values) {
                // Half a step of the widest spread, or what is above the largest level of Q3_K. A super-block's F16
                // step has nothing left for values far below 1e-3.
                let share = match ty {
                    TensorType::Q2K => 0.4,
                    TensorType::Q3K => 0.26,
                    TensorType::Mxfp4 => 0.2,
                    _ => 0.13,
                };
                assert!((a - b).abs() <= share * peak + 1e-4, "{ty}: {b:e} became {a:e} in {block:?}");
            }
        }
    }
}

/// Root mean square error of a row by the importance of its columns: ours, then ggml's. The first pair counts what an
/// encoder is asked for, the importance; the second what ggml's encoders minimize, importance · √(mean x² + x²).
fn weighted_errors(ty: TensorType, values: &[f32], importance: &[f32]) -> [(f64, f64); 2] {
    let mut ours = vec![0; ty.row_bytes(values.len()).unwrap()];
    quant::encode_weighted(ty, values, Some(importance), &mut ours);
    let theirs = ggml_sys::quantize_weighted(ty as u32, values, Some(importance)).unwrap();
    let (ours, theirs) = (dequantize(ty, &ours), dequantize(ty, &theirs));
    let mean = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
    [false, true].map(|large| {
        let error = |back: &[f32]| {
            let each = back.iter().zip(values).zip(importance).map(|((b, x), w)| {
                let weight = if large { w * (mean + x * x).sqrt() } else { *w };
                f64::from(weight) * f64::from(b - x).powi(2)
            });
            each.sum::<f64>()
        };
        (error(&ours), error(&theirs))
    })
}

/// Types that have a use for an importance matrix.
fn weighted() -> impl Iterator<Item = TensorType> {
    let without = [TensorType::Q8_0, TensorType::Mxfp4];
    TensorType::ALL.into_iter().filter(move |ty| ty.is_quantized() && !without.contains(ty))
}

#[test]
fn weighted_encoders_err_no_more_than_ggmls() {
    let mut random = Random(8);
    for ty in weighted() {
        for kind in 0..4 {
            // As measured matrices are: all positive, over some powers of ten, a few columns far above the others.
            let importance: Vec<f32> = (0..2048).map(|_| 10f32.powf(1.5 * random.unit() - 2.0)).collect();
            let mut sums = [(0.0, 0.0); 2];
            for _ in 0..64 {
                let values = weights_of_kind(kind, &mut random, 2048);
                let errors = weighted_errors(ty, &values, &importance);
                sums.iter_mut().zip(errors).for_each(|(sum, e)| *sum = (sum.0 + e.0, sum.1 + e.1));
            }
            let [by_importance, by_both] = sums.map(|(ours, theirs): (f64, f64)| (ours / theirs).sqrt());
            println!("{ty} kind {kind}: ratio {by_importance:.4} by importance, {by_both:.4} by ggml's weights");
            let least = if ty == TensorType::Q6K { by_importance } else { by_both };
            assert!(least > 0.0 && least <= 1.02, "{ty} kind {kind}: {by_importance} {by_both}");
        }
    }
}
