//! Values in another element type, with a word where they do not fit it.

use crate::error::{Error, Result};
use crate::tensor::TensorType;

/// `values` of the tensor called `name` as `ty`; one row where there is an `importance`.
///
/// # Errors
/// [`Error::Argument`] naming tensor and type, where a finite value becomes infinite, and for a value that is not
/// finite where blocks cannot hold it.
///
/// # Panics
/// Where [`super::encode_weighted`] does.
pub(crate) fn encode_checked(
    name: &str,
    ty: TensorType,
    values: &[f32],
    importance: Option<&[f32]>,
    bytes: &mut [u8],
) -> Result<()> {
    check_finite(name, ty.is_quantized(), ty.name(), values)?;
    super::encode_weighted(ty, values, importance, bytes);
    // In f32 everything fits, and bf16 rounds to infinity only at the very end of its range.
    if ty != TensorType::F32 {
        let mut back = vec![0.0; values.len()];
        super::dequantize(ty, bytes, &mut back);
        if let Some((value, _)) = values.iter().zip(&back).find(|(v, b)| v.is_finite() && !b.is_finite()) {
            return Err(Error::argument("type", format!("{value} in {name} is out of the range of {ty}; take f32")));
        }
    }
    Ok(())
}

/// Refuses values that are not finite where `ty` has blocks.
///
/// # Errors
/// [`Error::Argument`] naming tensor and type.
pub(crate) fn check_finite(name: &str, is_quantized: bool, ty: &str, values: &[f32]) -> Result<()> {
    match values.iter().find(|v| !v.is_finite()) {
        Some(value) if is_quantized => Err(Error::argument("type", format!("{ty} cannot hold the {value} in {name}"))),
        _ => Ok(()),
    }
}
