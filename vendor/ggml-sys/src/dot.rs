//! Dots of a quantized row with activations, as llama.cpp's CPU backend forms them.

use crate::{Blocks, Error, bindings as c, row_bytes};
use std::ffi::{c_int, c_void};

type Dot = unsafe extern "C" fn(c_int, *mut f32, usize, *const c_void, usize, *const c_void, usize, c_int);
type Encode = unsafe extern "C" fn(*const f32, *mut c_void, i64);

/// The dot of weight type `id`, and the activation type it takes with its encoder.
fn dot_of(id: u32) -> Option<(Dot, u32, Encode)> {
    let q8_0 = |dot: Dot| (dot, c::GGML_TYPE_Q8_0, c::quantize_row_q8_0 as Encode);
    let q8_1 = |dot: Dot| (dot, c::GGML_TYPE_Q8_1, c::quantize_row_q8_1 as Encode);
    let q8_k = |dot: Dot| (dot, c::GGML_TYPE_Q8_K, c::quantize_row_q8_K as Encode);
    Some(match id {
        c::GGML_TYPE_Q4_0 => q8_0(c::ggml_vec_dot_q4_0_q8_0),
        c::GGML_TYPE_Q4_1 => q8_1(c::ggml_vec_dot_q4_1_q8_1),
        c::GGML_TYPE_Q5_0 => q8_0(c::ggml_vec_dot_q5_0_q8_0),
        c::GGML_TYPE_Q5_1 => q8_1(c::ggml_vec_dot_q5_1_q8_1),
        c::GGML_TYPE_Q8_0 => q8_0(c::ggml_vec_dot_q8_0_q8_0),
        c::GGML_TYPE_MXFP4 => q8_0(c::ggml_vec_dot_mxfp4_q8_0),
        c::GGML_TYPE_IQ4_NL => q8_0(c::ggml_vec_dot_iq4_nl_q8_0),
        c::GGML_TYPE_Q2_K => q8_k(c::ggml_vec_dot_q2_K_q8_K),
        c::GGML_TYPE_Q3_K => q8_k(c::ggml_vec_dot_q3_K_q8_K),
        c::GGML_TYPE_Q4_K => q8_k(c::ggml_vec_dot_q4_K_q8_K),
        c::GGML_TYPE_Q5_K => q8_k(c::ggml_vec_dot_q5_K_q8_K),
        c::GGML_TYPE_Q6_K => q8_k(c::ggml_vec_dot_q6_K_q8_K),
        c::GGML_TYPE_IQ4_XS => q8_k(c::ggml_vec_dot_iq4_xs_q8_K),
        c::GGML_TYPE_IQ3_S => q8_k(c::ggml_vec_dot_iq3_s_q8_K),
        c::GGML_TYPE_IQ3_XXS => q8_k(c::ggml_vec_dot_iq3_xxs_q8_K),
        c::GGML_TYPE_IQ2_S => q8_k(c::ggml_vec_dot_iq2_s_q8_K),
        c::GGML_TYPE_IQ2_XS => q8_k(c::ggml_vec_dot_iq2_xs_q8_K),
        c::GGML_TYPE_IQ2_XXS => q8_k(c::ggml_vec_dot_iq2_xxs_q8_K),
        _ => return None,
    })
}

/// `row`, of type `id`, times `x`, which is first quantized to the activation type that llama.cpp pairs with `id`.
pub fn vec_dot(id: u32, row: &[u8], x: &[f32]) -> Result<f32, Error> {
    let (dot, act_id, encode) = dot_of(id).ok_or(Error::Type(id))?;
    let n = c_int::try_from(x.len()).map_err(|_| Error::Length(x.len()))?;
    if row.len() != row_bytes(id, x.len())? {
        return Err(Error::Length(row.len()));
    }
    let mut acts = Blocks::zeroed(row_bytes(act_id, x.len())?);
    if !x.iter().all(|v| v.is_finite()) {
        return Err(Error::NotFinite);
    }
    let row = Blocks::copy_of(row);
    let mut sum = 0.0;
    // SAFETY: x is whole blocks of both types (row_bytes has checked it), acts has room for its encoding, row holds as
    // many values, both are aligned, and with one row (nrc = 1) ggml ignores the strides.
    unsafe {
        encode(x.as_ptr(), acts.words.as_mut_ptr().cast(), i64::from(n));
        dot(n, &mut sum, 0, row.words.as_ptr().cast(), 0, acts.words.as_ptr().cast(), 0, 1);
    }
    Ok(sum)
}
