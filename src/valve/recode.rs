//! Values in another element type, with a word where they do not fit it.

use crate::error::{Error, Result};
use crate::quant;
use crate::tensor::{Tensor, TensorType};

/// `values` as `ty`.
///
/// # Errors
/// [`Error::Argument`] naming tensor and type, where a finite value becomes infinite, and for a value that is not
/// finite where blocks cannot hold it.
///
/// # Panics
/// If they are not whole blocks of `ty`.
pub(super) fn encode(name: &str, ty: TensorType, values: &[f32]) -> Result<Vec<u8>> {
    if ty.is_quantized()
        && let Some(value) = values.iter().find(|v| !v.is_finite())
    {
        return Err(Error::argument("type", format!("{ty} cannot hold the {value} in {name}")));
    }
    let mut bytes = vec![0; values.len() / ty.block_len() * ty.block_bytes()];
    quant::encode(ty, values, &mut bytes);
    // In f32 everything fits, and bf16 rounds to infinity only at the very end of its range.
    if ty != TensorType::F32 {
        let mut back = vec![0.0; values.len()];
        quant::dequantize(ty, &bytes, &mut back);
        if let Some((value, _)) = values.iter().zip(&back).find(|(v, b)| v.is_finite() && !b.is_finite()) {
            return Err(Error::argument("type", format!("{value} in {name} is out of the range of {ty}; take f32")));
        }
    }
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
