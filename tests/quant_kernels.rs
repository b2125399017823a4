//! Every kernel at every level of this machine has the bits of the scalar truth.

use cotvalve::cpu::simd::{Kernels, Level, Rows, Scratch, Shrunk, Strided, Tiles};
use cotvalve::quant::act::{self, Acts};
use cotvalve::quant::{self, encode};
use cotvalve::tensor::TensorType;
use half::f16;

/// Every type of blocks, and where its blocks have F16 scales.
const QUANTIZED: [(TensorType, &[usize]); 13] = [
    (TensorType::Q4_0, &[0]),
    (TensorType::Q4_1, &[0, 2]),
    (TensorType::Q5_0, &[0]),
    (TensorType::Q5_1, &[0, 2]),
    (TensorType::Q8_0, &[0]),
    (TensorType::Q2K, &[80, 82]),
    (TensorType::Q3K, &[108]),
    (TensorType::Q4K, &[0, 2]),
    (TensorType::Q5K, &[0, 2]),
    (TensorType::Q6K, &[208]),
    (TensorType::Iq4Nl, &[0]),
    (TensorType::Iq4Xs, &[0]),
    (TensorType::Mxfp4, &[]),
];

fn scales_of(ty: TensorType) -> &'static [usize] {
    QUANTIZED.iter().find(|(t, _)| *t == ty).unwrap().1
}

/// `blocks` blocks of 32 values, in whole blocks of the type.
fn columns(ty: TensorType, blocks: usize) -> usize {
    (32 * blocks).next_multiple_of(ty.block_len())
}

/// A xorshift generator: tests need the same numbers on every machine, nothing more.
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in −1..1, times a power of two that varies.
    fn float(&mut self) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        unit * f32::powi(2.0, (self.bits() % 12) as i32 - 6)
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Blocks of random bytes with finite F16 scales, subnormal and zero ones among them, or powers from subnormal ones
    /// to such as leave sums finite: every quant occurs, −128 included.
    fn weights(&mut self, ty: TensorType, values: usize) -> Vec<u8> {
        if !ty.is_quantized() {
            let mut bytes = vec![0; ty.row_bytes(values).unwrap()];
            encode(ty, &self.floats(values), &mut bytes);
            return bytes;
        }
        let mut bytes: Vec<u8> = (0..ty.row_bytes(values).unwrap()).map(|_| (self.bits() >> 32) as u8).collect();
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            for at in scales_of(ty) {
                let scale = match self.bits() >> 32 & 15 {
                    0 => f16::from_bits(self.bits() as u16 & 0x83ff),
                    1 => f16::MAX,
                    2 => f16::NEG_ZERO,
                    _ => f16::from_f32(self.float()),
                };
                block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            if ty == TensorType::Mxfp4 {
                block[0] =
                    [0, 1, 2, 147].get((self.bits() >> 32 & 15) as usize).copied().unwrap_or(107 + block[0] % 40);
            }
        }
        bytes
    }

    fn acts(&mut self, rows: usize, cols: usize) -> Acts {
        let mut acts = Acts::new(rows, cols);
        for (i, row) in acts.rows_mut().enumerate() {
            let mut x = self.floats(cols);
            match i % 5 {
                1 => x.fill(0.0),
                2 => x.iter_mut().for_each(|v| *v *= 1e37),
                3 => x[cols - 32..].fill(-1.0),
                _ => {}
            }
            act::quantize(&x, row);
        }
        acts
    }
}

/// Equal bits, where every NaN is the same.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// The levels this machine has.
fn levels() -> impl Iterator<Item = &'static Kernels> {
    Level::ALL.into_iter().filter(|level| *level <= Level::detect()).map(Kernels::at)
}

fn check_int8(ty: TensorType, data: &[u8], cols: usize, x: &Acts) {
    let w = Rows { ty, data, cols };
    let (m, n) = (x.rows(), w.rows());
    let mut scratch = Scratch::default();
    for kernels in levels() {
        let mut y = vec![f32::MIN; m * n];
        kernels.linear_int8(&w, x, &mut Strided::new(&mut y, m, n), &mut scratch);
        for i in 0..m {
            for r in 0..n {
                let (got, want) = (y[i * n + r], quant::dot_int8(ty, w.row(r), x.row(i)));
                let level = kernels.level();
                assert!(same(got, want), "{ty} [{n}, {cols}] row {r} × row {i} of {m}, {level:?}: {got} != {want}");
            }
        }
    }
}

#[test]
fn int8_has_the_bits_of_the_truth_for_every_shape() {
    let mut numbers = Numbers(1);
    for (ty, _) in QUANTIZED {
        for cols in [1, 2, 18, 48].map(|blocks| columns(ty, blocks)) {
            for n in [1, 7, 8, 9, 15, 16, 17, 31, 40] {
                let data = numbers.weights(ty, n * cols);
                for m in [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33] {
                    let x = numbers.acts(m, cols);
                    check_int8(ty, &data, cols, &x);
                }
            }
        }
    }
}

#[test]
fn int8_many_rows_pass_the_cache_in_chunks() {
    let mut numbers = Numbers(2);
    for (ty, _) in QUANTIZED {
        // The second is a row that no chunk holds.
        for (cols, m) in [(8192, 77), (458_752, 4)] {
            let data = numbers.weights(ty, 17 * cols);
            let x = numbers.acts(m, cols);
            check_int8(ty, &data, cols, &x);
        }
    }
}

#[test]
fn int8_extreme_quants_meet_extreme_activations() {
    for (ty, _) in QUANTIZED {
        let (size, cols) = (ty.block_bytes(), columns(ty, 2));
        for fill in [0x00, 0x80, 0x7f, 0x81, 0xff, 0x0f, 0xf0] {
            let mut data = vec![fill; 24 * cols / ty.block_len() * size];
            for block in data.chunks_exact_mut(size) {
                scales_of(ty).iter().for_each(|at| block[*at..at + 2].copy_from_slice(&[0x00, 0x3c]));
            }
            for sign in [1.0, -1.0] {
                for m in [1, 6, 18] {
                    let mut x = Acts::new(m, cols);
                    x.rows_mut().for_each(|row| act::quantize(&vec![sign; cols], row));
                    check_int8(ty, &data, cols, &x);
                }
            }
        }
    }
}

#[test]
fn int8_infinite_scales_and_nan_activations_stay_in_their_rows() {
    let (ty, cols, mut numbers) = (TensorType::Q8_0, 64, Numbers(3));
    let mut data = numbers.weights(ty, 20 * cols);
    let row_bytes = ty.row_bytes(cols).unwrap();
    data[3 * row_bytes..][..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
    data[18 * row_bytes..][..2].copy_from_slice(&f16::NAN.to_le_bytes());
    for m in [1, 3, 9, 20] {
        let mut x = numbers.acts(m, cols);
        let mut bad = numbers.floats(cols);
        bad[40] = f32::NAN;
        act::quantize(&bad, x.rows_mut().next().unwrap());
        check_int8(ty, &data, cols, &x);
    }
}

#[test]
fn int8_powers_of_every_exponent() {
    let (ty, cols, mut numbers) = (TensorType::Mxfp4, 32, Numbers(8));
    let mut data = numbers.weights(ty, 256 * cols);
    data.chunks_exact_mut(ty.block_bytes()).zip(0..=u8::MAX).for_each(|(block, e)| block[0] = e);
    for m in [1, 5, 17] {
        check_int8(ty, &data, cols, &numbers.acts(m, cols));
    }
}

#[test]
fn int8_rows_do_not_depend_on_the_rows_beside_them() {
    let (m, mut numbers, mut scratch) = (21, Numbers(4), Scratch::default());
    for (ty, _) in QUANTIZED {
        let cols = columns(ty, 18);
        let data = numbers.weights(ty, 40 * cols);
        let w = Rows { ty, data: &data, cols };
        let x: Vec<Vec<f32>> = (0..m).map(|_| numbers.floats(cols)).collect();
        let mut all = Acts::new(m, cols);
        all.rows_mut().zip(&x).for_each(|(row, x)| act::quantize(x, row));
        for kernels in levels() {
            let mut together = vec![0.0; m * 40];
            let mut view = Strided::new(&mut together, m, 40);
            // Threads would take parts of the weight's rows like this.
            for range in [0..9, 9..32, 32..40] {
                kernels.linear_int8(&w.slice(range.clone()), &all, &mut view.columns(range), &mut scratch);
            }
            for (i, x) in x.iter().enumerate() {
                let (mut one, mut alone) = (Acts::new(1, cols), vec![0.0; 40]);
                act::quantize(x, one.rows_mut().next().unwrap());
                kernels.linear_int8(&w, &one, &mut Strided::new(&mut alone, 1, 40), &mut scratch);
                assert_eq!(alone, together[i * 40..][..40], "{ty} row {i}, {:?}", kernels.level());
            }
        }
    }
}

#[test]
fn quantized_activations_have_the_bits_of_the_truth() {
    let mut numbers = Numbers(5);
    for special in [0.0, -0.0, 1e-45, 3e-37, f32::MAX, f32::INFINITY, f32::NAN] {
        for round in 0..50 {
            let mut x = numbers.floats(96);
            if round % 2 == 0 {
                // Halves of the step: ties.
                x.iter_mut().for_each(|v| *v = (*v * 8.0).round() / 2.0);
                x[40] = 63.5;
            }
            x[round % 32] = special;
            let mut want = Acts::new(1, 96);
            act::quantize(&x, want.rows_mut().next().unwrap());
            for kernels in levels() {
                let mut got = Acts::new(1, 96);
                kernels.quantize(&x, got.rows_mut().next().unwrap());
                assert_eq!(got.row(0).quants, want.row(0).quants);
                assert_eq!(got.row(0).sums, want.row(0).sums);
                assert!(got.row(0).scales.iter().zip(want.row(0).scales).all(|(a, b)| same(*a, *b)));
            }
        }
    }
}

#[test]
fn float_has_the_bits_of_the_truth_for_every_shape() {
    let (mut numbers, mut scratch) = (Numbers(6), Scratch::default());
    for ty in TensorType::ALL {
        for cols in [1, 15, 16, 17, 32, 64, 100, 576, 768].into_iter().filter(|c| c % ty.block_len() == 0) {
            for (n, m) in [(1, 1), (3, 2), (4, 3), (9, 4), (17, 7), (40, 1)] {
                let (data, x) = (numbers.weights(ty, n * cols), numbers.floats(m * cols));
                let w = Rows { ty, data: &data, cols };
                for kernels in levels() {
                    let mut y = vec![f32::MIN; m * n];
                    kernels.linear_float(&w, &x, &mut Strided::new(&mut y, m, n), &mut scratch);
                    for (at, got) in y.into_iter().enumerate() {
                        let want = quant::dot_float(ty, w.row(at % n), &x[at / n * cols..][..cols]);
                        let level = kernels.level();
                        assert!(same(got, want), "{ty} [{n}, {cols}] output {at}, {level:?}: {got} != {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn expand_adds_rank_by_rank() {
    let mut numbers = Numbers(7);
    for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
        for (rank, cols, first, len) in [(1, 5, 0, 5), (4, 200, 33, 160), (16, 576, 100, 129), (3, 64, 64, 0)] {
            let (data, u, start) = (numbers.weights(ty, rank * cols), numbers.floats(rank), numbers.floats(len));
            let b = Rows { ty, data: &data, cols };
            let mut want = start.clone();
            for (j, u) in u.iter().enumerate() {
                let mut row = vec![0.0; cols];
                quant::dequantize(ty, b.row(j), &mut row);
                want.iter_mut().zip(&row[first..]).for_each(|(y, w)| *y = u.mul_add(*w, *y));
            }
            for kernels in levels() {
                let mut y = start.clone();
                kernels.expand(&mut y, &b, first, &u);
                assert_eq!(y, want, "{ty} rank {rank}, {:?}", kernels.level());
            }
        }
    }
}

/// B `[n_out, rank]` as f32 values, and in tiles of type `ty`.
fn tiled(numbers: &mut Numbers, ty: TensorType, n_out: usize, rank: usize) -> (Vec<f32>, Vec<u8>) {
    let data = numbers.weights(ty, n_out * rank);
    let (mut values, mut tiles) = (vec![0.0; n_out * rank], Vec::new());
    quant::dequantize(ty, &data, &mut values);
    for first in (0..n_out).step_by(Tiles::WIDTH) {
        for j in 0..rank {
            let row: Vec<f32> =
                (first..first + Tiles::WIDTH).map(|o| if o < n_out { values[o * rank + j] } else { 0.0 }).collect();
            let mut bytes = vec![0; Tiles::WIDTH * ty.block_bytes()];
            encode(ty, &row, &mut bytes);
            tiles.extend(bytes);
        }
    }
    (values, tiles)
}

#[test]
fn expand_rows_has_the_bits_of_the_truth_in_open_rows_and_leaves_the_others() {
    let mut numbers = Numbers(8);
    for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
        for (n_out, rank, first, len) in [(5, 1, 0, 5), (200, 4, 32, 160), (576, 16, 96, 145), (64, 7, 48, 16)] {
            let (values, tiles) = tiled(&mut numbers, ty, n_out, rank);
            let b = Tiles { ty, data: &tiles, rank };
            for open in [&[][..], &[0], &[2, 3, 5], &[0, 1, 2, 3, 4, 5, 6]] {
                let (m, ld) = (7, rank + 3);
                let (u, start) = (numbers.floats(m * ld), numbers.floats(m * len));
                let mut want = start.clone();
                for i in open {
                    for (o, y) in want[i * len..][..len].iter_mut().enumerate() {
                        (0..rank).for_each(|j| *y = u[i * ld + j].mul_add(values[(first + o) * rank + j], *y));
                    }
                }
                for kernels in levels() {
                    let mut y = start.clone();
                    let u = Shrunk { values: &u, ld, rank };
                    kernels.expand_rows(&mut Strided::new(&mut y, m, len), open, &b, first, &u);
                    assert_eq!(y, want, "{ty} rank {rank}, rows {open:?}, {:?}", kernels.level());
                }
            }
        }
    }
}

#[test]
fn no_rows_write_nothing() {
    let mut scratch = Scratch::default();
    for kernels in levels() {
        let none = Rows { ty: TensorType::Q8_0, data: &[], cols: 32 };
        let one = Rows { data: &[0; 34], ..none };
        for (w, m) in [(none, 3), (one, 0)] {
            kernels.linear_int8(&w, &Acts::new(m, 32), &mut Strided::new(&mut [], m, w.rows()), &mut scratch);
            kernels.linear_float(&w, &vec![0.0; 32 * m], &mut Strided::new(&mut [], m, w.rows()), &mut scratch);
        }
    }
}

#[test]
#[should_panic(expected = "a weight of 64 columns against activations of 32")]
fn shapes_that_do_not_fit_are_refused() {
    let w = Rows { ty: TensorType::Q4_0, data: &[0; 36], cols: 64 };
    let mut y = [0.0];
    Kernels::at(Level::Scalar).linear_int8(
        &w,
        &Acts::new(1, 32),
        &mut Strided::new(&mut y, 1, 1),
        &mut Scratch::default(),
    );
}
