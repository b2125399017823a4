//! Bindings to ggml's quantization, with a safe face: what a block means to llama.cpp.
//!
//! Types are named by their ids (`ggml_type`), as GGUF files store them. The code is ggml's scalar reference; it is an
//! oracle for tests and a converter, not a fast path.

#[allow(dead_code, non_camel_case_types, non_snake_case, non_upper_case_globals)]
mod bindings;
mod dot;

use bindings as c;
use std::ffi::CStr;
use std::fmt;

pub use dot::vec_dot;

/// Why ggml was not called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// ggml has no conversion, encoder or dot for this type id.
    Type(u32),
    /// This many bytes or values are not a whole number of blocks, or two lengths do not belong together.
    Length(usize),
    /// Encoders take finite values only.
    NotFinite,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(id) => write!(f, "ggml cannot do this with type {id}"),
            Self::Length(n) => write!(f, "length {n} does not fit the type's blocks"),
            Self::NotFinite => f.write_str("a value to be quantized is not finite"),
        }
    }
}

impl std::error::Error for Error {}

/// What ggml knows about a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeTraits {
    pub name: &'static str,
    /// Values in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    pub is_quantized: bool,
}

/// The release of ggml that was compiled.
pub fn version() -> &'static str {
    // SAFETY: ggml_version returns a string literal.
    unsafe { CStr::from_ptr(c::ggml_version()) }.to_str().unwrap_or_default()
}

fn raw_traits(id: u32) -> Option<&'static c::ggml_type_traits> {
    if id >= c::GGML_TYPE_COUNT {
        return None;
    }
    // SAFETY: ids below GGML_TYPE_COUNT index ggml's static table of traits.
    let traits = unsafe { &*c::ggml_get_type_traits(id) };
    // Retired ids leave holes in the table.
    (traits.blck_size > 0 && traits.type_size > 0 && !traits.type_name.is_null()).then_some(traits)
}

/// The traits of type `id`, or `None` for an unknown or retired id.
pub fn type_traits(id: u32) -> Option<TypeTraits> {
    let traits = raw_traits(id)?;
    // SAFETY: raw_traits has checked that the name is there; it is a string literal.
    let name = unsafe { CStr::from_ptr(traits.type_name) }.to_str().ok()?;
    let block_len = usize::try_from(traits.blck_size).ok()?;
    Some(TypeTraits { name, block_len, block_bytes: traits.type_size, is_quantized: traits.is_quantized })
}

/// Bytes of `n` values of type `id`.
fn row_bytes(id: u32, n: usize) -> Result<usize, Error> {
    let traits = type_traits(id).ok_or(Error::Type(id))?;
    let whole = n.is_multiple_of(traits.block_len);
    whole.then(|| (n / traits.block_len).checked_mul(traits.block_bytes)).flatten().ok_or(Error::Length(n))
}

/// Bytes at the alignment of any block type.
struct Blocks {
    words: Vec<u64>,
    bytes: usize,
}

impl Blocks {
    fn zeroed(bytes: usize) -> Self {
        Self { words: vec![0; bytes.div_ceil(8)], bytes }
    }

    fn copy_of(bytes: &[u8]) -> Self {
        let mut blocks = Self::zeroed(bytes.len());
        // SAFETY: words holds at least bytes.len() bytes, and a fresh allocation does not overlap the argument.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), blocks.words.as_mut_ptr().cast(), bytes.len()) };
        blocks
    }

    fn to_vec(&self) -> Vec<u8> {
        self.words.iter().flat_map(|w| w.to_ne_bytes()).take(self.bytes).collect()
    }
}

/// The values of `bytes`, whole blocks of type `id`.
pub fn dequantize(id: u32, bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let traits = type_traits(id).ok_or(Error::Type(id))?;
    if !bytes.len().is_multiple_of(traits.block_bytes) {
        return Err(Error::Length(bytes.len()));
    }
    if id == c::GGML_TYPE_F32 {
        return Ok(bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect());
    }
    let to_float = raw_traits(id).and_then(|t| t.to_float).ok_or(Error::Type(id))?;
    let n = bytes.len() / traits.block_bytes * traits.block_len;
    let blocks = Blocks::copy_of(bytes);
    let mut values = vec![0.0; n];
    // SAFETY: blocks is aligned and holds n values' blocks; values has room for n; the table's function for this type
    // reads and writes exactly that.
    unsafe { to_float(blocks.words.as_ptr().cast(), values.as_mut_ptr(), n as i64) };
    Ok(values)
}

/// Whether [`dequantize`] takes type `id`.
pub fn has_decoder(id: u32) -> bool {
    id == c::GGML_TYPE_F32 || raw_traits(id).is_some_and(|t| t.to_float.is_some())
}

/// Whether [`quantize_weighted`] takes type `id`, for some with an importance matrix only.
pub fn has_encoder(id: u32) -> bool {
    let float = matches!(id, c::GGML_TYPE_F32 | c::GGML_TYPE_F16 | c::GGML_TYPE_BF16);
    // ggml_quantize_chunk aborts for other types; Q8_1 and Q8_K only ever hold activations.
    let activations = matches!(id, c::GGML_TYPE_Q8_1 | c::GGML_TYPE_Q8_K);
    float || !activations && raw_traits(id).is_some_and(|t| t.is_quantized && t.to_float.is_some())
}

/// `values` as one row of type `id`, by ggml's reference encoder without importance matrix.
pub fn quantize(id: u32, values: &[f32]) -> Result<Vec<u8>, Error> {
    quantize_weighted(id, values, None)
}

/// `values` as one row of type `id`, where `importance` has what an error in each column counts. May be called by
/// several threads at once: ggml fills the tables of a type under a lock.
pub fn quantize_weighted(id: u32, values: &[f32], importance: Option<&[f32]>) -> Result<Vec<u8>, Error> {
    let bytes = row_bytes(id, values.len())?;
    // SAFETY: a pure function of the id.
    if !has_encoder(id) || importance.is_none() && unsafe { c::ggml_quantize_requires_imatrix(id) } {
        return Err(Error::Type(id));
    }
    if importance.is_some_and(|weights| weights.len() != values.len()) {
        return Err(Error::Length(values.len()));
    }
    if !values.iter().chain(importance.unwrap_or_default()).all(|v| v.is_finite()) {
        return Err(Error::NotFinite);
    }
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let mut blocks = Blocks::zeroed(bytes);
    let dst = blocks.words.as_mut_ptr().cast();
    let weights = importance.map_or(std::ptr::null(), <[f32]>::as_ptr);
    // SAFETY: the type has an encoder, and weights where it needs them; values is one row of whole blocks, weights null
    // or as long; dst is aligned and has room for it.
    let written = unsafe { c::ggml_quantize_chunk(id, values.as_ptr(), dst, 0, 1, values.len() as i64, weights) };
    assert_eq!(written, bytes, "ggml wrote a row of another size");
    Ok(blocks.to_vec())
}
