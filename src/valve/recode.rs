//! Values in another element type, with a word where they do not fit it.

use crate::error::Result;
use crate::quant;
use crate::tensor::{Tensor, TensorType};

/// `values` as `ty`.
///
/// # Errors
/// Those of [`quant::encode_checked`].
///
/// # Panics
/// If they are not whole blocks of `ty`.
pub(super) fn encode(name: &str, ty: TensorType, values: &[f32]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; values.len() / ty.block_len() * ty.block_bytes()];
    quant::encode_checked(name, ty, values, None, &mut bytes)?;
    Ok(bytes)
}

/// The bytes of `tensor · scale` as `ty`; those it has where nothing changes.
///
/// # Errors
/// Those of [`encode`].
pub(super) fn scaled(tensor: &Tensor, scale: f32, ty: TensorType) -> Result<Vec<u8>> {
    if tensor.ty == ty && scale == 1.0 {
        return Ok(tensor.data.to_vec());
    }
    let mut values = quant::to_f32(tensor);
    if scale != 1.0 {
        values.iter_mut().for_each(|v| *v *= scale);
    }
    encode(&tensor.name, ty, &values)
}
