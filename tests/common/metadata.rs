//! The metadata of a GGUF file, read apart from the library, so that a test of it does not rest on its own reader.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The values of a GGUF file that are strings or integers, or lists of them, by key.
pub struct Metadata {
    strings: HashMap<String, Vec<String>>,
    integers: HashMap<String, Vec<i32>>,
}

impl Metadata {
    /// Reads a file that is known to be sound; panics otherwise.
    pub fn read(path: &Path) -> Self {
        let mut input = BufReader::new(File::open(path).unwrap());
        assert_eq!(bytes::<4>(&mut input), *b"GGUF");
        assert_eq!(u32(&mut input), 3, "version");
        u64(&mut input);
        let mut file = Self { strings: HashMap::new(), integers: HashMap::new() };
        for _ in 0..u64(&mut input) {
            let key = string(&mut input);
            let mut kind = u32(&mut input);
            let mut count = 1;
            if kind == 9 {
                kind = u32(&mut input);
                count = u64(&mut input);
            }
            for _ in 0..count {
                match kind {
                    8 => file.strings.entry(key.clone()).or_default().push(string(&mut input)),
                    4 | 5 => file.integers.entry(key.clone()).or_default().push(u32(&mut input) as i32),
                    0 | 1 | 7 => drop(bytes::<1>(&mut input)),
                    2 | 3 => drop(bytes::<2>(&mut input)),
                    6 => drop(bytes::<4>(&mut input)),
                    10..=12 => drop(bytes::<8>(&mut input)),
                    _ => panic!("{key} has type {kind}"),
                }
            }
        }
        file
    }

    /// A list of strings.
    pub fn strings(&self, key: &str) -> Vec<&str> {
        self.strings[key].iter().map(|s| &**s).collect()
    }

    /// One string.
    pub fn string(&self, key: &str) -> &str {
        &self.strings[key][0]
    }

    /// A list of integers; one integer is a list of one.
    pub fn integers(&self, key: &str) -> Vec<i32> {
        self.integers[key].clone()
    }
}

fn bytes<const N: usize>(input: &mut impl Read) -> [u8; N] {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).unwrap();
    bytes
}

fn u32(input: &mut impl Read) -> u32 {
    u32::from_le_bytes(bytes(input))
}

fn u64(input: &mut impl Read) -> u64 {
    u64::from_le_bytes(bytes(input))
}

fn string(input: &mut impl Read) -> String {
    let len = u64(input);
    let mut text = Vec::new();
    input.take(len).read_to_end(&mut text).unwrap();
    assert_eq!(text.len() as u64, len);
    String::from_utf8(text).unwrap()
}
