//! Metadata by key and type.

use super::{Array, Gguf, Strings, Value, quoted};
use crate::error::{Error, Result};
use std::borrow::Cow;

/// Getters give `None` where the key is missing, and `Malformed`, naming the key, where its value has
/// another type or is out of range. [`Gguf::require`] turns a missing key into an error.
impl Gguf {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|&i| &self.metadata[i].1)
    }

    /// The value of `key`, which must be there: `gguf.require("llama.block_count", Gguf::u32)?`.
    pub fn require<'a, T>(&'a self, key: &str, get: impl FnOnce(&'a Self, &str) -> Result<Option<T>>) -> Result<T> {
        get(self, key)?.ok_or_else(|| Error::malformed(self.path(), format!("the key {} is missing", quoted(key))))
    }

    /// An integer of any type that is in range for `u32`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.integer(key, "an integer from 0 to 4294967295")
    }

    /// An integer of any type that is in range for `i32`.
    pub fn i32(&self, key: &str) -> Result<Option<i32>> {
        self.integer(key, "an integer from -2147483648 to 2147483647")
    }

    /// An integer of any type that is not negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.integer(key, "an integer that is not negative")
    }

    /// A number of either float type, rounded to `f32`; may be infinite or NaN if the file says so.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a float", |value| match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            Value::Str(v) => Some(v.as_str()),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Str(v)) => Some(v),
            _ => None,
        })
    }

    /// An array of integers of any type that are all in range for `u32`.
    pub fn u32s(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>> {
        self.typed(key, "an array of integers from 0 to 4294967295", |value| match value {
            Value::Array(Array::U32(v)) => Some(Cow::Borrowed(v.as_slice())),
            Value::Array(v) => v.integers().map(Cow::Owned),
            _ => None,
        })
    }

    /// An array of integers of any type that are all in range for `i32`, for example token types.
    pub fn i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>> {
        self.typed(key, "an array of integers from -2147483648 to 2147483647", |value| match value {
            Value::Array(Array::I32(v)) => Some(Cow::Borrowed(v.as_slice())),
            Value::Array(v) => v.integers().map(Cow::Owned),
            _ => None,
        })
    }

    /// An array of floats of either type, rounded to `f32`.
    pub fn f32s(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>> {
        self.typed(key, "an array of floats", |value| match value {
            Value::Array(Array::F32(v)) => Some(Cow::Borrowed(v.as_slice())),
            Value::Array(Array::F64(v)) => Some(v.iter().map(|&x| x as f32).collect()),
            _ => None,
        })
    }

    fn integer<N: TryFrom<i128>>(&self, key: &str, wanted: &str) -> Result<Option<N>> {
        self.typed(key, wanted, |value| N::try_from(value.integer()?).ok())
    }

    fn typed<'a, T>(&'a self, key: &str, wanted: &str, get: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match get(value) {
            Some(v) => Ok(Some(v)),
            None => Err(Error::malformed(self.path(), format!("key {}: {wanted} is wanted, not {value}", quoted(key)))),
        }
    }
}
