//! Rows of any element type as `f32` and back: by our own code, or by ggml's where that is compiled in.

use crate::error::{Error, Result};
use crate::gguf::StoredType;
use crate::quant;
use crate::tensor::TensorType;

/// Whose code reads or writes a type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Codec {
    Own(TensorType),
    #[cfg(feature = "ggml")]
    Ggml(&'static StoredType),
}

impl Codec {
    /// What reads rows of `ty`.
    ///
    /// # Errors
    /// [`Error::Argument`] where nothing in this build does.
    pub fn reading(ty: &'static StoredType) -> Result<Self> {
        TensorType::from_id(ty.id).map_or_else(|| Self::foreign(ty, "read"), |ty| Ok(Self::Own(ty)))
    }

    /// What writes rows of `ty`. Errors are those of [`Codec::reading`].
    pub fn writing(ty: &'static StoredType) -> Result<Self> {
        TensorType::from_id(ty.id).map_or_else(|| Self::foreign(ty, "write"), |ty| Ok(Self::Own(ty)))
    }

    #[cfg(feature = "ggml")]
    fn foreign(ty: &'static StoredType, verb: &str) -> Result<Self> {
        let can = if verb == "read" { ggml_sys::has_decoder(ty.id) } else { ggml_sys::has_encoder(ty.id) };
        can.then_some(Self::Ggml(ty)).ok_or_else(|| Error::argument("type", format!("nothing here can {verb} {ty}")))
    }

    #[cfg(not(feature = "ggml"))]
    fn foreign(ty: &'static StoredType, verb: &str) -> Result<Self> {
        let reason = format!("to {verb} {ty} takes ggml's code: build with --features ggml");
        Err(Error::argument("type", reason))
    }

    /// The values of a row.
    pub fn decode(&self, row: &[u8], values: &mut [f32]) -> Result<()> {
        match *self {
            Self::Own(ty) => quant::dequantize(ty, row, values),
            #[cfg(feature = "ggml")]
            Self::Ggml(ty) => values.copy_from_slice(&ggml_sys::dequantize(ty.id, row).map_err(|e| refused(ty, e))?),
        }
        Ok(())
    }

    /// Writes a row of the tensor called `name`.
    ///
    /// # Errors
    /// [`Error::Argument`] for values that the type cannot hold.
    pub fn encode(&self, name: &str, values: &[f32], importance: Option<&[f32]>, row: &mut [u8]) -> Result<()> {
        match *self {
            Self::Own(ty) => quant::encode_checked(name, ty, values, importance, row),
            #[cfg(feature = "ggml")]
            Self::Ggml(ty) => {
                quant::check_finite(name, true, ty.name, values)?;
                let bytes = ggml_sys::quantize_weighted(ty.id, values, importance).map_err(|e| refused(ty, e))?;
                row.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }
}

#[cfg(feature = "ggml")]
fn refused(ty: &StoredType, error: ggml_sys::Error) -> Error {
    Error::argument("type", format!("{ty}: {error}"))
}
