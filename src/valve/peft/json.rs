//! JSON objects as their file has them: in order, with no key twice.

use crate::error::{Error, Result};
use crate::map::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// Bytes of a JSON file beside an adapter: one with a pattern for every module of a large model has some 100 KB.
const MAX_BYTES: usize = 1 << 20;

/// The entries of an object in the order of the file.
#[derive(Debug)]
pub(super) struct Ordered<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = Ordered<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let (mut entries, mut keys) = (Vec::new(), HashSet::new());
        while let Some((key, value)) = map.next_entry::<String, T>()? {
            if !keys.insert(key.clone()) {
                return Err(A::Error::custom(format!("the key {key:?} occurs twice")));
            }
            entries.push((key, value));
        }
        Ok(Ordered(entries))
    }
}

/// A JSON file that holds one object.
pub(super) struct Object {
    pub path: PathBuf,
    entries: Vec<(String, Box<RawValue>)>,
}

impl Object {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for a file that is too large or not a JSON object with distinct keys.
    pub fn read(path: PathBuf) -> Result<Self> {
        let bytes = Bytes::map(&path)?;
        if bytes.len() > MAX_BYTES {
            return Err(Error::malformed(path, format!("has {} bytes, at most {MAX_BYTES} are read", bytes.len())));
        }
        match serde_json::from_slice::<Ordered<Box<RawValue>>>(&bytes) {
            Ok(Ordered(entries)) => Ok(Self { path, entries }),
            Err(e) => Err(Error::malformed(path, format!("is not a JSON object as it should be: {e}"))),
        }
    }

    /// Every key and the text of its value.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), &**value))
    }

    /// The value of `key`; `None` where it is missing or null.
    ///
    /// # Errors
    /// [`Error::Malformed`], naming file and key, for a value of another kind.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some((_, value)) = self.entries().find(|(k, _)| *k == key) else { return Ok(None) };
        parse(&self.path, key, value)
    }

    /// [`Object::get`] of a number, the `f64` nearest to what the file says.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get::<&RawValue>(key)?.map(|value| number(&self.path, key, value)).transpose()
    }
}

/// A value of `key` as `T`.
pub(super) fn parse<'a, T: Deserialize<'a>>(path: &Path, key: &str, value: &'a RawValue) -> Result<T> {
    serde_json::from_str(value.get()).map_err(|e| Error::malformed(path, format!("{key}: {e}")))
}

/// A number, the `f64` nearest to its text; serde_json's own may be a neighbour of that.
pub(super) fn number(path: &Path, key: &str, value: &RawValue) -> Result<f64> {
    let near: f64 = parse(path, key, value)?;
    Ok(value.get().trim().parse().unwrap_or(near))
}
