//! Metadata values.

use std::fmt;

/// A metadata value: one of GGUF's 13 types.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type. GGUF could nest arrays; no file does, and the reader refuses it.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Str(Strings),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// The type of a metadata value; the discriminants are the file's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// For messages and listings: `u32`, `string`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// Evaluates `$body` with `$items` bound to the items of any array but one of strings.
macro_rules! with_items {
    ($array:expr, $items:ident => $body:expr, $strings:ident => $other:expr) => {
        match $array {
            Array::U8($items) => $body,
            Array::I8($items) => $body,
            Array::U16($items) => $body,
            Array::I16($items) => $body,
            Array::U32($items) => $body,
            Array::I32($items) => $body,
            Array::F32($items) => $body,
            Array::Bool($items) => $body,
            Array::U64($items) => $body,
            Array::I64($items) => $body,
            Array::F64($items) => $body,
            Array::Str($strings) => $other,
        }
    };
}

impl Value {
    /// The value's type.
    pub fn ty(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value of any of the integer types.
    pub(super) fn integer(&self) -> Option<i128> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::I8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::U64(v) => Some(v.into()),
            Self::I64(v) => Some(v.into()),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::Str(_) | Self::Array(_) => None,
        }
    }
}

impl Array {
    /// Number of items.
    pub fn len(&self) -> usize {
        with_items!(self, v => v.len(), s => s.len())
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Item `i` as a value of its own.
    pub fn get(&self, i: usize) -> Option<Value> {
        with_items!(self, v => v.get(i).map(|&x| x.into()), s => s.get(i).map(Value::from))
    }

    /// The items' type.
    pub fn item_ty(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The items as integers of type `N`, or `None` if one is not an integer or out of range.
    pub(super) fn integers<N: TryFrom<i128>>(&self) -> Option<Vec<N>> {
        (0..self.len()).map(|i| N::try_from(self.get(i)?.integer()?).ok()).collect()
    }
}

/// For messages: the type, and the value where it is short.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = self.ty().name();
        match self {
            Self::Str(s) => write!(f, "the {ty} {}", super::quoted(s)),
            Self::Array(a) => write!(f, "an array of {} {}", a.len(), a.item_ty().name()),
            Self::F32(v) => write!(f, "the {ty} {v}"),
            Self::F64(v) => write!(f, "the {ty} {v}"),
            Self::Bool(v) => write!(f, "the {ty} {v}"),
            other => write!(f, "the {ty} {}", other.integer().unwrap_or_default()),
        }
    }
}

/// An array of strings in one piece of memory: vocabularies have up to some 250 000 of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Strings {
    /// All strings, one after the other.
    text: String,
    /// Where string `i` ends in `text`; it starts where its predecessor ends.
    ends: Vec<usize>,
}

impl Strings {
    /// Cuts `text` at the ascending offsets `ends`, or says which string is not valid UTF-8.
    ///
    /// The text is validated as a whole, which is fast; a cut inside a character then means that the
    /// strings on both of its sides are not valid.
    pub(super) fn cut(text: Vec<u8>, ends: Vec<usize>) -> Result<Self, usize> {
        let at = |offset: usize| ends.partition_point(|&end| end <= offset);
        let text = String::from_utf8(text).map_err(|e| at(e.utf8_error().valid_up_to()))?;
        match ends.iter().position(|&end| !text.is_char_boundary(end)) {
            Some(i) => Err(i),
            None => Ok(Self { text, ends }),
        }
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `i`, or `None` past the end.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.text[std::mem::replace(&mut start, end)..end])
    }

    /// Adds a string at the end.
    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Self::default();
        strings.into_iter().for_each(|s| all.push(s.as_ref()));
        all
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Str(v.into())
    }
}

macro_rules! value_from {
    ($($variant:ident $single:ty),*) => { $(
        impl From<$single> for Value {
            fn from(v: $single) -> Self {
                Self::$variant(v)
            }
        }
    )* };
}
value_from!(U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, F32 f32, Bool bool);
value_from!(U64 u64, I64 i64, F64 f64, Str String, Array Array);

macro_rules! array_from {
    ($($variant:ident $items:ty),*) => { $(
        impl From<$items> for Value {
            fn from(v: $items) -> Self {
                Self::Array(Array::$variant(v))
            }
        }
    )* };
}
array_from!(U8 Vec<u8>, I8 Vec<i8>, U16 Vec<u16>, I16 Vec<i16>, U32 Vec<u32>, I32 Vec<i32>, F32 Vec<f32>);
array_from!(Bool Vec<bool>, U64 Vec<u64>, I64 Vec<i64>, F64 Vec<f64>, Str Strings);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_give_back_what_was_put_in() {
        let want = ["", "a", "", "Ġthe", "日本", ""];
        let strings: Strings = want.iter().collect();
        assert_eq!(strings.len(), 6);
        assert!(strings.iter().eq(want));
        assert!((0..6).all(|i| strings.get(i) == Some(want[i])));
        assert_eq!(strings.get(6), None);
    }

    #[test]
    fn a_character_cut_in_two_is_refused() {
        let text = "aé".as_bytes().to_vec();
        assert!(Strings::cut(text.clone(), vec![1, 3]).is_ok());
        assert_eq!(Strings::cut(text, vec![1, 2, 3]), Err(1));
    }

    #[test]
    fn the_string_that_is_not_utf8_is_named() {
        assert_eq!(Strings::cut(b"ab\xffc".to_vec(), vec![0, 2, 4]), Err(2));
        assert_eq!(Strings::cut(b"ab\xc3".to_vec(), vec![2, 3]), Err(1));
    }
}
