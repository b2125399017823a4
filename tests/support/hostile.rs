//! Damages valid files in every way we can think of and runs a case on each result. A case may return an
//! error or succeed; it must not panic.

use super::Random;
use super::touch::touch;
use cotvalve::gguf::Gguf;
use cotvalve::map::Bytes;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// How many damaged files there were, and how many of them were refused.
#[derive(Debug, Default)]
pub struct Outcome {
    pub cases: usize,
    pub refused: usize,
}

impl Outcome {
    /// Runs one case; says which one if it panics.
    fn add<E>(&mut self, bytes: Bytes, what: &str, case: &impl Fn(Bytes) -> Result<(), E>) {
        self.cases += 1;
        match catch_unwind(AssertUnwindSafe(|| case(bytes))) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.refused += 1,
            Err(_) => panic!("the case panicked on {what}"),
        }
    }
}

/// Runs `case` on the first 0, 1, 2, ... bytes of `file`, without the whole file.
pub fn every_truncation<E>(file: Vec<u8>, case: impl Fn(Bytes) -> Result<(), E>) -> Outcome {
    let mut outcome = Outcome::default();
    let file = Bytes::from(file);
    for len in 0..file.len() {
        outcome.add(file.slice(0..len).unwrap(), &format!("a truncation to {len} bytes"), &case);
    }
    outcome
}

/// Runs `case` on `cases` damaged copies of the valid GGUF file `file`: of ten, five have a field of the
/// header, metadata or tensor infos set to an extreme, four have 1 to 4 random bytes changed there, and
/// one has a byte of the tensors changed.
pub fn byte_flips<E>(file: &[u8], seed: u64, cases: usize, case: impl Fn(Bytes) -> Result<(), E>) -> Outcome {
    let Layout { fields, data } = Layout::of(file);
    let mut random = Random(seed);
    let mut outcome = Outcome::default();
    for i in 0..cases {
        let mut damaged = file.to_vec();
        let what = match i % 10 {
            0..5 => {
                let field = fields[random.below(fields.len())].clone();
                let extreme = extreme(&file[field.clone()], &mut random);
                damaged[field.clone()].copy_from_slice(&extreme);
                format!("case {i}: {extreme:?} at {field:?}")
            }
            5..9 => {
                let places: Vec<usize> = (0..=random.below(4)).map(|_| random.below(data)).collect();
                places.iter().for_each(|&at| damaged[at] ^= 1 + random.below(255) as u8);
                format!("case {i}: bytes changed at {places:?}")
            }
            _ => {
                let at = data + random.below(file.len() - data);
                damaged[at] ^= 1 + random.below(255) as u8;
                format!("case {i}: byte changed at {at}")
            }
        };
        outcome.add(Bytes::from(damaged), &what, &case);
    }
    outcome
}

/// A value at the edge of what an integer field of this width can say, or beside what it says now.
fn extreme(now: &[u8], random: &mut Random) -> Vec<u8> {
    let mut wide = [0; 8];
    wide[..now.len()].copy_from_slice(now);
    let value = u64::from_le_bytes(wide);
    let choices = [
        0,
        1,
        u32::MAX.into(),
        u64::MAX,
        i64::MIN as u64,
        i64::MAX as u64,
        i32::MIN as u32 as u64,
        1 << 40,
        value.wrapping_add(1),
        value.wrapping_sub(1),
        value.wrapping_mul(2),
    ];
    choices[random.below(choices.len())].to_le_bytes()[..now.len()].to_vec()
}

/// Parses a file and looks at everything in it: each value through each getter, each byte of each tensor.
pub fn parse_and_touch(bytes: Bytes) -> cotvalve::error::Result<()> {
    let gguf = Gguf::parse(Path::new("hostile.gguf"), bytes)?;
    touch(&gguf);
    Ok(())
}

/// Where a valid file keeps its numbers: a second, trusting reader, so that the damage does not depend on
/// the code under test.
struct Layout {
    /// Counts, lengths, type ids, dimensions, offsets and single values.
    fields: Vec<Range<usize>>,
    /// Where the tensors' descriptions end.
    data: usize,
}

struct Walk<'a> {
    file: &'a [u8],
    at: usize,
    fields: Vec<Range<usize>>,
}

impl Layout {
    fn of(file: &[u8]) -> Self {
        let mut walk = Walk { file, at: 4, fields: Vec::new() };
        walk.field(4);
        let n_tensors = walk.field(8);
        let n_entries = walk.field(8);
        for _ in 0..n_entries {
            walk.string(true);
            let ty = walk.field(4);
            walk.value(ty);
        }
        for _ in 0..n_tensors {
            walk.string(true);
            let n_dims = walk.field(4);
            // Dimensions, type, offset.
            for width in std::iter::repeat_n(8, n_dims as usize).chain([4, 8]) {
                walk.field(width);
            }
        }
        Self { fields: walk.fields, data: walk.at }
    }
}

impl Walk<'_> {
    fn skip(&mut self, width: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(&self.file[self.at..self.at + width]);
        self.at += width;
        u64::from_le_bytes(wide)
    }

    fn field(&mut self, width: usize) -> u64 {
        self.fields.push(self.at..self.at + width);
        self.skip(width)
    }

    fn string(&mut self, is_field: bool) {
        let len = if is_field { self.field(8) } else { self.skip(8) };
        self.at += len as usize;
    }

    fn value(&mut self, ty: u64) {
        match ty {
            8 => self.string(true),
            9 => {
                let ty = self.field(4);
                let n = self.field(8);
                // The first items stand for all, or vocabularies would draw all the damage.
                for i in 0..n {
                    if ty == 8 {
                        self.string(i < 4);
                    } else {
                        self.skip(width(ty));
                    }
                }
            }
            ty => {
                self.field(width(ty));
            }
        }
    }
}

fn width(ty: u64) -> usize {
    match ty {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        other => panic!("no width for the type {other}"),
    }
}
