//! Models split over several files, as `gguf-split` names and numbers them.

use super::{Gguf, Shard, quoted, read};
use crate::error::{Error, Result};
use crate::map::Bytes;
use std::path::{Path, PathBuf};

/// Number of this shard, from 0.
const NUMBER_KEY: &str = "split.no";
/// Number of shards.
pub(super) const COUNT_KEY: &str = "split.count";
/// Number of tensors in all shards together.
const TENSORS_KEY: &str = "split.tensors.count";

/// What `NAME-00001-of-00003.gguf` says: the name, this shard's number from 1, and the number of shards.
#[derive(Debug, PartialEq)]
struct Pattern<'a> {
    name: &'a str,
    number: u32,
    count: u32,
}

impl<'a> Pattern<'a> {
    fn of(file_name: &'a str) -> Option<Self> {
        let (rest, count) = file_name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (name, number) = rest.rsplit_once('-')?;
        let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(number) || !digits(count) {
            return None;
        }
        Some(Self { name, number: number.parse().ok()?, count: count.parse().ok()? })
    }

    fn path(&self, beside: &Path, number: u32) -> PathBuf {
        beside.with_file_name(format!("{}-{number:05}-of-{:05}.gguf", self.name, self.count))
    }
}

pub(super) fn open(path: &Path) -> Result<Gguf> {
    let first = Gguf::single(path, Bytes::map(path)?)?;
    let pattern = path.file_name().and_then(|name| name.to_str()).and_then(Pattern::of);
    let count = first.u32(COUNT_KEY)?.unwrap_or(1);
    let pattern = match pattern {
        None if count > 1 => {
            let what = format!("is one shard of {count}, and is not named like NAME-00001-of-{count:05}.gguf");
            return Err(Error::malformed(path, what));
        }
        None => return Ok(first),
        Some(pattern) if pattern.count <= 1 && count <= 1 => return Ok(first),
        Some(pattern) => pattern,
    };
    if pattern.number != 1 {
        let first = pattern.path(path, 1);
        return Err(Error::unsupported(
            path,
            format!("opening a shard that is not the first; open {}", first.display()),
        ));
    }
    check_numbers(&first, &pattern, 1)?;
    join(first, &pattern)
}

/// Adds all other shards to `first`.
fn join(mut first: Gguf, pattern: &Pattern) -> Result<Gguf> {
    let promised = first.require(TENSORS_KEY, Gguf::u64)?;
    for number in 2..=pattern.count {
        let path = pattern.path(&first.path, number);
        let bytes = Bytes::map(&path)?;
        let read::Part { version, metadata, tensors } = read::part(&path, &bytes, first.shards.len())?;
        let keys = metadata.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
        let names = Default::default();
        let shard = Gguf { path, version, metadata, keys, tensors, names, shards: Vec::new() };
        check_numbers(&shard, pattern, number)?;
        if shard.u64(TENSORS_KEY)?.is_some_and(|n| n != promised) {
            return Err(Error::malformed(&shard.path, format!("{TENSORS_KEY} differs from the first shard's")));
        }
        for tensor in shard.tensors {
            if first.names.insert(tensor.name.clone(), first.tensors.len()).is_some() {
                let what = format!("tensor {} is also in another shard", quoted(&tensor.name));
                return Err(Error::malformed(&shard.path, what));
            }
            first.tensors.push(tensor);
        }
        first.shards.push(Shard { path: shard.path, bytes });
    }
    if first.tensors.len() as u64 != promised {
        let what = format!("{TENSORS_KEY} is {promised}, but the shards have {} tensors", first.tensors.len());
        return Err(Error::malformed(&first.path, what));
    }
    Ok(first)
}

/// Checks that the shard's own numbers are those of its name; `number` counts from 1.
fn check_numbers(shard: &Gguf, pattern: &Pattern, number: u32) -> Result<()> {
    for (key, wanted) in [(NUMBER_KEY, number - 1), (COUNT_KEY, pattern.count)] {
        let found = shard.require(key, Gguf::u32)?;
        if found != wanted {
            let what = format!("{key} is {found}, but by the file's name it would be {wanted}");
            return Err(Error::malformed(&shard.path, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_are_recognized() {
        let found = Pattern::of("my-of-model-Q4_0-00002-of-00013.gguf");
        assert_eq!(found, Some(Pattern { name: "my-of-model-Q4_0", number: 2, count: 13 }));
        for name in
            ["model.gguf", "a-1-of-3.gguf", "a-00001-of-00003.bin", "a-+0001-of-00003.gguf", "00001-of-00002.gguf"]
        {
            assert_eq!(Pattern::of(name), None, "{name}");
        }
    }
}
