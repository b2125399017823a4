//! The safe face: known values, whole rows only, and no abort for a type ggml cannot convert.

use ggml_sys::{Error, dequantize, quantize, quantize_weighted, type_traits, vec_dot, version};

const Q4_0: u32 = 2;
const Q8_0: u32 = 8;
const Q8_1: u32 = 9;
const Q4_K: u32 = 12;
const IQ2_XXS: u32 = 16;

#[test]
fn a_q4_0_block_reads_as_the_format_says() {
    let mut block = [0u8; 18];
    block[..2].copy_from_slice(&0x3C00u16.to_le_bytes()); // scale 1
    block[2] = 0x5F; // value 0 is 15 - 8, value 16 is 5 - 8
    let values = dequantize(Q4_0, &block).unwrap();
    assert_eq!((values.len(), values[0], values[16], values[1]), (32, 7.0, -3.0, -8.0));
}

#[test]
fn rows_return_within_half_a_step_and_dots_agree() {
    let x: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.7).collect();
    for id in [Q8_0, Q4_K] {
        let row = quantize(id, &x).unwrap();
        let back = dequantize(id, &row).unwrap();
        let worst = x.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < if id == Q8_0 { 0.004 } else { 0.1 }, "{id}: {worst}");
        let exact: f64 = back.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let dot = f64::from(vec_dot(id, &row, &x).unwrap());
        assert!((dot - exact).abs() < 0.01 * exact, "{id}: {dot} {exact}");
    }
}

#[test]
fn what_ggml_would_abort_on_is_an_error() {
    assert_eq!(version(), "0.26.0");
    assert_eq!(type_traits(4), None, "a retired id");
    assert_eq!(type_traits(u32::MAX), None);
    assert_eq!(dequantize(Q4_0, &[0; 17]), Err(Error::Length(17)));
    assert_eq!(quantize(Q4_0, &[0.0; 31]), Err(Error::Length(31)));
    assert_eq!(quantize(Q8_1, &[0.0; 32]), Err(Error::Type(Q8_1)));
    assert_eq!(quantize(IQ2_XXS, &[0.0; 256]), Err(Error::Type(IQ2_XXS)));
    assert_eq!(quantize(Q4_0, &[f32::NAN; 32]), Err(Error::NotFinite));
    assert_eq!(quantize_weighted(Q4_0, &[0.0; 32], Some(&[1.0; 31])), Err(Error::Length(32)));
    assert_eq!(quantize_weighted(Q4_0, &[0.0; 32], Some(&[f32::INFINITY; 32])), Err(Error::NotFinite));
    assert_eq!(vec_dot(Q4_0, &[0; 18], &[0.0; 64]), Err(Error::Length(18)));
}

#[test]
fn types_that_need_an_importance_matrix_take_one_on_several_threads() {
    let x: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
    let encode = || quantize_weighted(IQ2_XXS, &x, Some(&[1.0; 512])).unwrap();
    let rows: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(encode)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(rows[0].len(), 132);
    assert!(rows.iter().all(|row| *row == rows[0]));
}

#[test]
fn every_type_id_answers_without_an_abort() {
    let x: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut encoders = 0;
    for id in 0..64 {
        let Some(traits) = type_traits(id) else {
            assert_eq!(quantize(id, &x), Err(Error::Type(id)));
            continue;
        };
        if let Ok(row) = quantize(id, &x) {
            encoders += 1;
            assert_eq!(row.len(), 512 / traits.block_len * traits.block_bytes, "{}", traits.name);
            let back = dequantize(id, &row).unwrap();
            let error: f32 = x.iter().zip(&back).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / 256.0;
            assert!(error < 0.5, "{}: {error}", traits.name);
        }
    }
    assert!(encoders >= 20, "{encoders} encoders");
}
