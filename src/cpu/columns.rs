//! Keys of a page: rows of the cache's type, stored as columns.
//!
//! A page holds the same value of every key side by side, so that scores have positions in lanes. A Q8_0 block keeps
//! its shape turned by a quarter: the scales of all keys, then value by value the quants of all keys. So a page is
//! widened with the scales in lanes too, and read from start to end.

use super::simd::Kernels;
use crate::tensor::TensorType;

/// How a row of a type is cut: blocks of `block` bytes, each a head of `head` bytes and values of `value` bytes.
struct Cut {
    block: usize,
    head: usize,
    value: usize,
}

impl Cut {
    fn of(ty: TensorType, row_bytes: usize) -> Self {
        match ty {
            TensorType::Q8_0 => Self { block: ty.block_bytes(), head: 2, value: 1 },
            // All values are alike: one block.
            _ => Self { block: row_bytes, head: 0, value: ty.block_bytes() },
        }
    }
}

/// Makes `row` the key `column` of a page of `columns` keys.
pub fn put(ty: TensorType, row: &[u8], column: usize, columns: usize, page: &mut [u8]) {
    let Cut { block, head, value } = Cut::of(ty, row.len());
    for (block, page) in row.chunks_exact(block).zip(page.chunks_exact_mut(block * columns)) {
        let (heads, page) = page.split_at_mut(head * columns);
        heads[head * column..][..head].copy_from_slice(&block[..head]);
        match value {
            1 => put_values::<1>(&block[head..], column, columns, page),
            2 => put_values::<2>(&block[head..], column, columns, page),
            _ => put_values::<4>(&block[head..], column, columns, page),
        }
    }
}

/// The values of a block, `SIZE` bytes each.
fn put_values<const SIZE: usize>(values: &[u8], column: usize, columns: usize, page: &mut [u8]) {
    for (value, page) in values.as_chunks::<SIZE>().0.iter().zip(page.chunks_exact_mut(SIZE * columns)) {
        page.as_chunks_mut::<SIZE>().0[column] = *value;
    }
}

/// The reverse of [`put`].
pub fn take(ty: TensorType, page: &[u8], column: usize, columns: usize, row: &mut [u8]) {
    let Cut { block, head, value } = Cut::of(ty, row.len());
    for (block, page) in row.chunks_exact_mut(block).zip(page.chunks_exact(block * columns)) {
        let (heads, page) = page.split_at(head * columns);
        block[..head].copy_from_slice(&heads[head * column..][..head]);
        for (out, page) in block[head..].chunks_exact_mut(value).zip(page.chunks_exact(value * columns)) {
            out.copy_from_slice(&page[value * column..][..value]);
        }
    }
}

/// A page of `columns` keys in f32: `[values, columns]`.
pub fn widen(kernels: &Kernels, ty: TensorType, page: &[u8], columns: usize, out: &mut [f32]) {
    match ty {
        TensorType::Q8_0 => kernels.widen_columns(page, columns, out),
        _ => kernels.widen(ty, page, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Level;
    use crate::quant;

    #[test]
    fn columns_hold_the_rows_that_were_put_at_every_level() {
        let mut rng = crate::rng::Rng::new(9);
        for ty in [TensorType::F32, TensorType::F16, TensorType::Q8_0] {
            for (values, columns) in [(64, 64), (32, 7), (96, 70), (128, 1)] {
                let row_bytes = ty.row_bytes(values).unwrap();
                let mut page = vec![0; row_bytes * columns];
                let mut truth = vec![0.0; values * columns];
                for column in 0..columns {
                    let key: Vec<f32> = (0..values).map(|_| rng.normal() * 3.0).collect();
                    let mut row = vec![0; row_bytes];
                    quant::encode(ty, &key, &mut row);
                    put(ty, &row, column, columns, &mut page);
                    let (mut back, mut wide) = (vec![0; row_bytes], vec![0.0; values]);
                    take(ty, &page, column, columns, &mut back);
                    assert_eq!(back, row, "{ty}");
                    quant::dequantize(ty, &row, &mut wide);
                    wide.iter().enumerate().for_each(|(i, v)| truth[i * columns + column] = *v);
                }
                for level in Level::ALL {
                    let mut out = vec![9.0; values * columns];
                    widen(Kernels::at(level), ty, &page, columns, &mut out);
                    assert_eq!(out, truth, "{ty} at {}, {values} x {columns}", level.name());
                }
            }
        }
    }
}
