//! Every element type that a GGUF tensor can have, also those this engine does not compute with, so that
//! any file can be listed, checked and copied.

use std::fmt;

/// A tensor element type as stored: its id in the file, its name, and the size of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredType {
    /// `ggml_type`.
    pub id: u32,
    /// The name GGUF tools print, for example `q4_1`.
    pub name: &'static str,
    /// Values in a block; a row is a whole number of blocks.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

/// Source: the block structs of ggml (`ggml-common.h`) and its `ggml_type` enumeration. The ids that are
/// missing (4, 5, 31 to 33, 36 to 38) were withdrawn from the format.
const TABLE: [StoredType; 35] = [
    stored(0, "f32", 1, 4),
    stored(1, "f16", 1, 2),
    stored(2, "q4_0", 32, 18),
    stored(3, "q4_1", 32, 20),
    stored(6, "q5_0", 32, 22),
    stored(7, "q5_1", 32, 24),
    stored(8, "q8_0", 32, 34),
    stored(9, "q8_1", 32, 36),
    stored(10, "q2_K", 256, 84),
    stored(11, "q3_K", 256, 110),
    stored(12, "q4_K", 256, 144),
    stored(13, "q5_K", 256, 176),
    stored(14, "q6_K", 256, 210),
    stored(15, "q8_K", 256, 292),
    stored(16, "iq2_xxs", 256, 66),
    stored(17, "iq2_xs", 256, 74),
    stored(18, "iq3_xxs", 256, 98),
    stored(19, "iq1_s", 256, 50),
    stored(20, "iq4_nl", 32, 18),
    stored(21, "iq3_s", 256, 110),
    stored(22, "iq2_s", 256, 82),
    stored(23, "iq4_xs", 256, 136),
    stored(24, "i8", 1, 1),
    stored(25, "i16", 1, 2),
    stored(26, "i32", 1, 4),
    stored(27, "i64", 1, 8),
    stored(28, "f64", 1, 8),
    stored(29, "iq1_m", 256, 56),
    stored(30, "bf16", 1, 2),
    stored(34, "tq1_0", 256, 54),
    stored(35, "tq2_0", 256, 66),
    stored(39, "mxfp4", 32, 17),
    stored(40, "nvfp4", 64, 36),
    stored(41, "q1_0", 128, 18),
    stored(42, "q2_0", 64, 18),
];

const fn stored(id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> StoredType {
    StoredType { id, name, block_len, block_bytes }
}

impl StoredType {
    /// Every known type, in the order of their ids.
    pub fn all() -> &'static [StoredType] {
        &TABLE
    }

    /// The type with id `id`, or `None` if the format has no such type.
    pub fn from_id(id: u32) -> Option<&'static StoredType> {
        TABLE.iter().find(|t| t.id == id)
    }

    /// Bytes of a tensor of shape `dims` (fastest first), or the reason why there can be no such tensor.
    pub fn tensor_bytes(&self, dims: &[usize]) -> Result<usize, String> {
        if dims.is_empty() || dims.len() > super::MAX_DIMS {
            return Err(format!("has {} dimensions, 1 to {} are possible", dims.len(), super::MAX_DIMS));
        }
        if dims.contains(&0) {
            return Err(format!("has an empty dimension in its shape {dims:?}"));
        }
        if !dims[0].is_multiple_of(self.block_len) {
            return Err(format!(
                "has rows of {} values, not whole {} blocks of {}",
                dims[0], self.name, self.block_len
            ));
        }
        let values = dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        let blocks = values.filter(|&n| i64::try_from(n).is_ok()).map(|n| n / self.block_len);
        blocks
            .and_then(|n| n.checked_mul(self.block_bytes))
            .ok_or_else(|| format!("has a shape {dims:?} that overflows"))
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorType;

    #[test]
    fn the_types_we_compute_with_are_in_the_table() {
        for ty in TensorType::ALL {
            let want = stored(ty as u32, ty.name(), ty.block_len(), ty.block_bytes());
            assert_eq!(StoredType::from_id(ty as u32), Some(&want));
        }
    }

    #[test]
    fn ids_and_names_are_unique() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].id < pair[1].id);
        }
        for (i, a) in TABLE.iter().enumerate() {
            assert!(TABLE[i + 1..].iter().all(|b| a.name != b.name), "{a}");
        }
    }

    #[test]
    fn tensor_bytes_checks_the_shape() {
        let q4_1 = StoredType::from_id(3).unwrap();
        assert_eq!(q4_1.tensor_bytes(&[64, 3]), Ok(120));
        assert_eq!(q4_1.tensor_bytes(&[32, 2, 3, 4]), Ok(480));
        for bad in [&[][..], &[48], &[0, 4], &[32, 0], &[32, 1, 1, 1, 1], &[usize::MAX & !31, 2], &[1 << 40, 1 << 40]] {
            assert!(q4_1.tensor_bytes(bad).is_err(), "{bad:?}");
        }
    }
}
