//! What a file's weights are as a whole: `general.file_type` and its names.

use crate::gguf::StoredType;
use crate::tensor::TensorType;

/// The type or mix of types of a model's weights.
///
/// Source of ids and names: `llama_ftype` and llama-quantize's list. Ids that are missing were withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum FileType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q8_0 = 7,
    Q5_0 = 8,
    Q5_1 = 9,
    Q2K = 10,
    Q3KS = 11,
    Q3KM = 12,
    Q3KL = 13,
    Q4KS = 14,
    Q4KM = 15,
    Q5KS = 16,
    Q5KM = 17,
    Q6K = 18,
    Iq2Xxs = 19,
    Iq2Xs = 20,
    Q2KS = 21,
    Iq3Xs = 22,
    Iq3Xxs = 23,
    Iq1S = 24,
    Iq4Nl = 25,
    Iq3S = 26,
    Iq3M = 27,
    Iq2S = 28,
    Iq2M = 29,
    Iq4Xs = 30,
    Iq1M = 31,
    BF16 = 32,
    Tq1_0 = 36,
    Tq2_0 = 37,
    Mxfp4Moe = 38,
    Q1_0 = 40,
    Q2_0 = 41,
}

impl FileType {
    /// Every file type, in the order of their ids.
    pub const ALL: [FileType; 35] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q8_0,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3KS,
        Self::Q3KM,
        Self::Q3KL,
        Self::Q4KS,
        Self::Q4KM,
        Self::Q5KS,
        Self::Q5KM,
        Self::Q6K,
        Self::Iq2Xxs,
        Self::Iq2Xs,
        Self::Q2KS,
        Self::Iq3Xs,
        Self::Iq3Xxs,
        Self::Iq1S,
        Self::Iq4Nl,
        Self::Iq3S,
        Self::Iq3M,
        Self::Iq2S,
        Self::Iq2M,
        Self::Iq4Xs,
        Self::Iq1M,
        Self::BF16,
        Self::Tq1_0,
        Self::Tq2_0,
        Self::Mxfp4Moe,
        Self::Q1_0,
        Self::Q2_0,
    ];

    /// `general.file_type`.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The name llama-quantize prints, for example `Q4_K_M`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2K => "Q2_K",
            Self::Q3KS => "Q3_K_S",
            Self::Q3KM => "Q3_K_M",
            Self::Q3KL => "Q3_K_L",
            Self::Q4KS => "Q4_K_S",
            Self::Q4KM => "Q4_K_M",
            Self::Q5KS => "Q5_K_S",
            Self::Q5KM => "Q5_K_M",
            Self::Q6K => "Q6_K",
            Self::Iq2Xxs => "IQ2_XXS",
            Self::Iq2Xs => "IQ2_XS",
            Self::Q2KS => "Q2_K_S",
            Self::Iq3Xs => "IQ3_XS",
            Self::Iq3Xxs => "IQ3_XXS",
            Self::Iq1S => "IQ1_S",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq3S => "IQ3_S",
            Self::Iq3M => "IQ3_M",
            Self::Iq2S => "IQ2_S",
            Self::Iq2M => "IQ2_M",
            Self::Iq4Xs => "IQ4_XS",
            Self::Iq1M => "IQ1_M",
            Self::BF16 => "BF16",
            Self::Tq1_0 => "TQ1_0",
            Self::Tq2_0 => "TQ2_0",
            Self::Mxfp4Moe => "MXFP4_MOE",
            Self::Q1_0 => "Q1_0",
            Self::Q2_0 => "Q2_0",
        }
    }

    /// The name of the tensor type most weights get, as [`StoredType`] has it.
    const fn base_name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q8_0 => "q8_0",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q2K | Self::Q2KS => "q2_K",
            Self::Q3KS | Self::Q3KM | Self::Q3KL => "q3_K",
            Self::Q4KS | Self::Q4KM => "q4_K",
            Self::Q5KS | Self::Q5KM => "q5_K",
            Self::Q6K => "q6_K",
            Self::Iq2Xxs => "iq2_xxs",
            Self::Iq2Xs | Self::Iq2S => "iq2_xs",
            Self::Iq3Xxs => "iq3_xxs",
            Self::Iq1S => "iq1_s",
            Self::Iq4Nl => "iq4_nl",
            Self::Iq3Xs | Self::Iq3S | Self::Iq3M => "iq3_s",
            Self::Iq2M => "iq2_s",
            Self::Iq4Xs => "iq4_xs",
            Self::Iq1M => "iq1_m",
            Self::BF16 => "bf16",
            Self::Tq1_0 => "tq1_0",
            Self::Tq2_0 => "tq2_0",
            Self::Mxfp4Moe => "mxfp4",
            Self::Q1_0 => "q1_0",
            Self::Q2_0 => "q2_0",
        }
    }

    /// The tensor type that most weights get.
    pub fn base(self) -> &'static StoredType {
        stored(self.base_name()).expect("a type of the format")
    }

    /// The file type of this name, in upper or lower case, or number, as llama-quantize takes it: `Q4_K` is
    /// `Q4_K_M`.
    pub fn parse(text: &str) -> Option<Self> {
        let alias = match &*text.to_ascii_uppercase() {
            "Q3_K" => Some(Self::Q3KM),
            "Q4_K" => Some(Self::Q4KM),
            "Q5_K" => Some(Self::Q5KM),
            _ => None,
        };
        let number: Option<u32> = text.parse().ok();
        alias.or_else(|| Self::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(text) || Some(t.id()) == number))
    }

    /// The file type of a model whose matrices all have type `ty`: of several mixes, the first.
    pub fn uniform(ty: TensorType) -> Self {
        Self::ALL.into_iter().find(|t| t.base().id == ty as u32).expect("every type has a file type")
    }
}

/// The tensor type of this name, in upper or lower case.
pub fn stored(name: &str) -> Option<&'static StoredType> {
    StoredType::all().iter().find(|ty| ty.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        for ty in FileType::ALL {
            assert_eq!(FileType::parse(ty.name()), Some(ty));
            assert_eq!(FileType::parse(&ty.name().to_lowercase()), Some(ty));
            assert_eq!(FileType::parse(&ty.id().to_string()), Some(ty));
            assert!(ty.base().block_len > 0);
        }
        assert_eq!(FileType::parse("q4_k"), Some(FileType::Q4KM));
        for text in ["", "Q4", "33", "-1", "q4_0 ", "q8_1"] {
            assert_eq!(FileType::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_type_we_compute_with_has_a_file_type() {
        assert_eq!(FileType::uniform(TensorType::Q4K), FileType::Q4KS);
        assert_eq!(FileType::uniform(TensorType::Q8_0).id(), 7);
        for ty in TensorType::ALL {
            assert_eq!(FileType::uniform(ty).base().id, ty as u32);
        }
    }
}
