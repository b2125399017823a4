//! Damaged and malicious GGUF files get an error that says what is wrong. Each attack has a test named after it.

mod support;

use cotvalve::error::Error;
use cotvalve::gguf::{Gguf, StoredType};
use cotvalve::map::Bytes;
use cotvalve::tensor::TensorType;
use std::path::Path;
use support::gguf_fixture::{tiny_adapter, tiny_llama};
use support::hostile::{byte_flips, every_truncation, parse_and_touch};
use support::touch::touch;

const ADAPTER_TARGETS: [&str; 3] = ["blk.0.attn_q.weight", "blk.1.ffn_down.weight", "token_embd.weight"];

#[test]
fn every_truncation_of_a_model_is_refused() {
    let outcome = every_truncation(tiny_llama(1, TensorType::BF16), parse_and_touch);
    assert!(outcome.cases > 100_000, "{outcome:?}");
    // The last tensor is as long as its alignment, so there is no padding that could be missed.
    assert_eq!(outcome.refused, outcome.cases);
}

#[test]
fn every_truncation_of_an_adapter_is_refused() {
    let outcome = every_truncation(tiny_adapter(2, 4, TensorType::F32, &ADAPTER_TARGETS), parse_and_touch);
    assert!(outcome.cases > 5_000, "{outcome:?}");
    assert_eq!(outcome.refused, outcome.cases);
}

#[test]
fn ten_thousand_byte_flips_of_a_model_do_not_panic() {
    let outcome = byte_flips(&tiny_llama(3, TensorType::BF16), 0xc07, 10_000, parse_and_touch);
    println!("{outcome:?}");
    // Some damage leaves a valid file (a letter of a token, a value), most must not.
    assert!(outcome.refused > 4_000 && outcome.refused < 9_000, "{outcome:?}");
}

#[test]
fn ten_thousand_byte_flips_of_an_adapter_do_not_panic() {
    let file = tiny_adapter(4, 8, TensorType::F16, &ADAPTER_TARGETS);
    let outcome = byte_flips(&file, 0xada, 10_000, parse_and_touch);
    println!("{outcome:?}");
    assert!(outcome.refused > 4_000 && outcome.refused < 9_500, "{outcome:?}");
}

/// Puts a file together field by field, so that it can lie anywhere.
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, n_tensors: u64, n_entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_entries)
    }

    /// Version 3 with one metadata entry, of which only the key is there.
    fn entry(key: &str) -> Self {
        Self::new(3, 0, 1).str(key)
    }

    /// Version 3 with one tensor of shape [64, 2] and its data.
    fn tensor(name: &str, dims: &[u64], ty: u32, offset: u64, data: usize) -> Self {
        Self::new(3, 1, 0).info(name, dims, ty, offset).data(data)
    }

    fn info(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let raw = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &d| raw.u64(d)).u32(ty).u64(offset)
    }

    fn data(mut self, len: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self
    }

    fn u8(self, v: u8) -> Self {
        self.raw(&[v])
    }

    fn u32(self, v: u32) -> Self {
        self.raw(&v.to_le_bytes())
    }

    fn u64(self, v: u64) -> Self {
        self.raw(&v.to_le_bytes())
    }

    fn str(self, v: &str) -> Self {
        self.u64(v.len() as u64).raw(v.as_bytes())
    }

    fn raw(mut self, v: &[u8]) -> Self {
        self.0.extend_from_slice(v);
        self
    }

    fn parse(self) -> Result<Gguf, Error> {
        Gguf::parse(Path::new("attack.gguf"), Bytes::from(self.0))
    }

    /// The file is malformed, and the message names the file and contains `what`.
    #[track_caller]
    fn expect_malformed(self, what: &str) {
        let error = self.parse().expect_err(what);
        let message = error.to_string();
        assert!(matches!(error, Error::Malformed { .. }), "{message}");
        assert!(message.starts_with("attack.gguf: ") && message.contains(what), "{message:?} lacks {what:?}");
    }

    #[track_caller]
    fn expect_unsupported(self, what: &str) {
        let error = self.parse().expect_err(what);
        let message = error.to_string();
        assert!(matches!(error, Error::Unsupported { .. }), "{message}");
        assert!(message.contains(what), "{message:?} lacks {what:?}");
    }

    #[track_caller]
    fn expect_fine(self) -> Gguf {
        let gguf = self.parse().unwrap();
        touch(&gguf);
        gguf
    }
}

const STR: u32 = 8;
const ARRAY: u32 = 9;

#[test]
fn not_a_gguf_file() {
    Raw(Vec::new()).expect_malformed("ends inside \"the magic bytes\"");
    Raw(b"GGU".to_vec()).expect_malformed("ends inside \"the magic bytes\"");
    Raw(b"GGML\x03\0\0\0".to_vec()).expect_malformed("not a GGUF file");
    Raw(b"PK\x03\x04zip file".to_vec()).expect_malformed("not a GGUF file");
}

#[test]
fn other_versions_and_byte_orders() {
    Raw::new(0, 0, 0).expect_unsupported("GGUF version 0");
    Raw::new(1, 0, 0).expect_unsupported("GGUF version 1");
    Raw::new(4, 0, 0).expect_unsupported("GGUF version 4");
    Raw::new(u32::MAX, 0, 0).expect_unsupported("GGUF version 4294967295");
    Raw::new(3_u32.swap_bytes(), 0, 0).expect_unsupported("big-endian GGUF (version 3)");
    assert_eq!(Raw::new(2, 0, 0).expect_fine().version(), 2);
    assert_eq!(Raw::new(3, 0, 0).expect_fine().version(), 3);
}

/// The way of CVE-2024-21836 (llama.cpp): a count that is believed before it is compared with the file.
#[test]
fn tensor_count_beyond_the_file() {
    for n in [1, 2, 1 << 32, i64::MAX as u64, i64::MIN as u64, u64::MAX] {
        Raw::new(3, n, 0).expect_malformed("the number of tensors");
    }
}

/// The way of CVE-2024-23605 (llama.cpp).
#[test]
fn metadata_count_beyond_the_file() {
    for n in [1, 2, 1 << 32, i64::MAX as u64, i64::MIN as u64, u64::MAX] {
        Raw::new(3, 0, n).expect_malformed("the number of metadata entries");
    }
}

#[test]
fn metadata_count_that_takes_tensors_for_metadata() {
    Raw::new(3, 1, 2).info("t", &[1], 0, 0).data(4).expect_malformed("");
}

#[test]
fn key_length_beyond_the_file() {
    for n in [50, 1 << 32, i64::MIN as u64, u64::MAX] {
        Raw::new(3, 0, 1).u64(n).raw(&[b'k'; 20]).expect_malformed("\"metadata key 0\": the count");
    }
}

#[test]
fn key_too_long_empty_or_not_text() {
    Raw::entry(&"k".repeat(65_536)).u32(0).u8(1).expect_malformed("at most 65535");
    Raw::entry(&"k".repeat(65_535)).u32(0).u8(1).expect_fine();
    Raw::entry("").u32(0).raw(&[1; 8]).expect_malformed("key 0 is empty");
    Raw::new(3, 0, 1).u64(2).raw(b"\xff\xfe").u32(0).raw(&[1; 8]).expect_malformed("not valid UTF-8");
}

#[test]
fn duplicate_keys() {
    Raw::new(3, 0, 2).str("k").u32(0).u8(1).str("k").u32(0).u8(1).expect_malformed("\"k\" occurs twice");
    Raw::new(3, 0, 2).str("k").u32(0).u8(1).str("l").u32(0).u8(1).expect_fine();
}

/// The way of CVE-2024-23496 (llama.cpp): a length near 2^64 that wraps around when one is added.
#[test]
fn string_length_beyond_the_file() {
    for n in [5, 1 << 31, 1 << 32, i64::MIN as u64, u64::MAX - 7, u64::MAX] {
        Raw::entry("k").u32(STR).u64(n).raw(b"text").expect_malformed("\"k\": the count");
    }
    assert_eq!(Raw::entry("k").u32(STR).str("text").expect_fine().str("k").unwrap(), Some("text"));
}

#[test]
fn string_that_is_not_text() {
    Raw::entry("k").u32(STR).u64(2).raw(b"\xc3\x28").expect_malformed("\"k\" is not valid UTF-8");
}

#[test]
fn array_length_beyond_the_file() {
    for ty in 0..=12 {
        for n in [1 << 20, 1 << 40, i64::MIN as u64, u64::MAX] {
            if ty != ARRAY {
                Raw::entry("k").u32(ARRAY).u32(ty).u64(n).raw(&[0; 64]).expect_malformed("\"k\": the count");
            }
        }
    }
}

/// The way of CVE-2024-21825 (llama.cpp): the length times the size of an item wraps around.
#[test]
fn array_whose_size_in_bytes_overflows() {
    for (ty, bytes) in [(2, 2), (4, 4), (6, 4), (8, 8), (10, 8), (12, 8)] {
        let n = (u64::MAX / bytes) + 1;
        Raw::entry("k").u32(ARRAY).u32(ty).u64(n).raw(&[0; 64]).expect_malformed("\"k\": the count");
    }
}

#[test]
fn string_in_an_array_beyond_the_file() {
    let head = || Raw::entry("k").u32(ARRAY).u32(STR).u64(2).str("ok");
    head().u64(u64::MAX).expect_malformed("\"k\": the count");
    head().u64(4).raw(b"abc").expect_malformed("\"k\": the count");
    head().raw(&[0; 7]).expect_malformed("ends inside \"k\"");
    assert_eq!(head().str("too").expect_fine().strings("k").unwrap().unwrap().get(1), Some("too"));
}

#[test]
fn string_in_an_array_that_is_not_text() {
    let array = |n| Raw::entry("k").u32(ARRAY).u32(STR).u64(n).str("ok");
    array(2).u64(1).raw(b"\xff").expect_malformed("string 1 is not valid UTF-8");
    // A character cut in two: valid only if the strings are joined.
    array(3).u64(1).raw(b"\xc3").u64(1).raw(b"\xa9").expect_malformed("string 1 is not valid UTF-8");
}

/// A reader that recurses would go as deep as the file likes, and overflow its stack.
#[test]
fn nested_arrays() {
    Raw::entry("k").u32(ARRAY).u32(ARRAY).u64(1).u32(0).u64(1).u8(1).expect_unsupported("\"k\" is an array of arrays");
    let deep = (0..100_000).fold(Raw::entry("k").u32(ARRAY), |raw, _| raw.u32(ARRAY).u64(1));
    deep.expect_unsupported("\"k\" is an array of arrays");
}

#[test]
fn unknown_value_types() {
    for ty in [13, 255, u32::MAX] {
        Raw::entry("k").u32(ty).u64(0).expect_malformed(&format!("\"k\" has the unknown type {ty}"));
        Raw::entry("k").u32(ARRAY).u32(ty).u64(0).expect_malformed(&format!("array of the unknown type {ty}"));
    }
}

#[test]
fn bools_other_than_0_and_1() {
    for bad in [2, 255] {
        Raw::entry("k").u32(7).u8(bad).expect_malformed(&format!("{bad} is not a bool"));
        Raw::entry("k").u32(ARRAY).u32(7).u64(3).raw(&[0, 1, bad]).expect_malformed("an item is not a bool");
    }
    assert_eq!(Raw::entry("k").u32(7).u8(1).expect_fine().bool("k").unwrap(), Some(true));
}

#[test]
fn alignments_out_of_range() {
    let file = |n: u32| Raw::entry("general.alignment").u32(4).u32(n);
    for bad in [0, 1, 3, 4, 24, 33, 1 << 17, 1 << 31, u32::MAX] {
        file(bad).expect_malformed("general.alignment is");
    }
    for good in [8, 32, 64, 65_536] {
        assert_eq!(file(good).expect_fine().alignment(), good as usize);
    }
    Raw::entry("general.alignment").u32(5).raw(&(-32_i32).to_le_bytes()).expect_malformed("general.alignment is");
    Raw::entry("general.alignment").u32(STR).str("32").expect_malformed("general.alignment is the string \"32\"");
}

#[test]
fn tensor_names_too_long_or_not_text() {
    Raw::tensor(&"t".repeat(65), &[8], 0, 0, 32).expect_malformed("has 65 bytes, at most 64");
    Raw::tensor(&"t".repeat(64), &[8], 0, 0, 32).expect_fine();
    Raw::new(3, 1, 0).u64(u64::MAX).raw(&[b't'; 99]).expect_malformed("the name of tensor 0");
    Raw::new(3, 1, 0).u64(1).raw(b"\xff").raw(&[0; 99]).expect_malformed("not valid UTF-8");
}

#[test]
fn duplicate_tensor_names() {
    let first = || Raw::new(3, 2, 0).info("t", &[8], 0, 0);
    first().info("t", &[8], 0, 32).data(64).expect_malformed("\"t\" occurs twice");
    first().info("u", &[8], 0, 32).data(64).expect_fine();
}

/// The way of CVE-2024-21802 (llama.cpp): more dimensions than the array that takes them has room for.
#[test]
fn dimension_counts_out_of_range() {
    Raw::tensor("t", &[], 0, 0, 99).expect_malformed("\"t\" has 0 dimensions");
    Raw::tensor("t", &[1; 5], 0, 0, 99).expect_malformed("\"t\" has 5 dimensions");
    for n in [5, 1 << 16, u32::MAX] {
        Raw::new(3, 1, 0).str("t").u32(n).raw(&[1; 99]).expect_malformed("dimensions, 1 to 4");
    }
    Raw::tensor("t", &[2, 2, 2, 2], 0, 0, 64).expect_fine();
}

#[test]
fn empty_dimensions() {
    Raw::tensor("t", &[0], 0, 0, 99).expect_malformed("\"t\" has an empty dimension");
    Raw::tensor("t", &[32, 0, 2], 0, 0, 99).expect_malformed("\"t\" has an empty dimension");
}

/// The way of CVE-2026-33298 (llama.cpp): a product of dimensions wraps around, and a huge tensor seems small.
#[test]
fn products_of_dimensions_that_overflow() {
    for dims in [
        &[1 << 32, 1 << 32][..],
        &[u64::MAX, 1],
        &[i64::MIN as u64],
        &[1 << 62, 4],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
        &[u64::MAX, u64::MAX, u64::MAX, u64::MAX],
        &[(1 << 62) + 1, 4, 1, 1],
    ] {
        Raw::tensor("t", dims, 0, 0, 1 << 10).expect_malformed("overflows");
    }
    // 2^62 values of one byte fit an integer, and not the file.
    Raw::tensor("t", &[1 << 62], 24, 0, 1 << 10).expect_malformed("the data section has 1024");
}

#[test]
fn rows_that_are_not_whole_blocks() {
    for ty in StoredType::all().iter().filter(|ty| ty.block_len > 1) {
        let n = ty.block_len as u64;
        for cols in [1, n / 2, n - 1, n + 1, n + n / 2] {
            Raw::tensor("t", &[cols, n], ty.id, 0, 1 << 20).expect_malformed("not whole");
        }
        Raw::tensor("t", &[2 * n, 3], ty.id, 0, 6 * ty.block_bytes).expect_fine();
        Raw::tensor("t", &[2 * n, 3], ty.id, 0, 6 * ty.block_bytes - 1).expect_malformed("the data section has");
    }
}

#[test]
fn unknown_tensor_types() {
    for ty in [4, 5, 31, 33, 36, 38, 43, 255, i32::MIN as u32, u32::MAX] {
        Raw::tensor("t", &[256], ty, 0, 1 << 10).expect_malformed(&format!("\"t\" has the unknown type {ty}"));
    }
}

#[test]
fn types_we_cannot_compute_with_are_listed_and_refused_by_name() {
    let gguf = Raw::tensor("t", &[256, 2], 19, 0, 100).expect_fine();
    assert_eq!(gguf.info("t").unwrap().ty.name, "iq1_s");
    let error = gguf.tensor("t").unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
    assert_eq!(error.to_string(), "attack.gguf: not supported: tensor \"t\" has the type iq1_s");
}

#[test]
fn offsets_that_are_not_aligned() {
    for offset in [1, 16, 31, 33] {
        Raw::tensor("t", &[8], 0, offset, 99).expect_malformed("not a multiple of the alignment 32");
    }
}

/// The way of CVE-2026-7482 (Ollama): a tensor that is larger than its file, and is read all the same.
#[test]
fn tensors_outside_the_file() {
    for offset in [32, 64, 1 << 32, i64::MIN as u64, !31, !31 - 64] {
        Raw::tensor("t", &[8], 0, offset, 32).expect_malformed("the data section has 32");
    }
    Raw::tensor("t", &[8], 0, 0, 31).expect_malformed("has 32 bytes at offset 0; the data section has 31");
    Raw::tensor("t", &[8], 0, 0, 32).expect_fine();
}

/// The way of CVE-2025-53630 (llama.cpp): each size is possible, and only their sum wraps around.
#[test]
fn tensor_sizes_whose_sum_overflows() {
    let info = |raw: Raw, name| raw.info(name, &[1 << 62], 24, 0);
    let all = ["a", "b", "c", "d"].into_iter().fold(Raw::new(3, 4, 0), info);
    all.data(1 << 10).expect_malformed("the data section has 1024");
    // The end of the second tensor wraps around to the end of the first.
    let second = Raw::new(3, 2, 0).info("a", &[32], 24, 0).info("b", &[1 << 62], 24, 3 << 62);
    second.data(32).expect_malformed("\"b\" has");
}

#[test]
fn file_that_ends_before_its_data_section() {
    Raw::new(3, 1, 0).info("t", &[8], 0, 0).expect_malformed("the data section has 0");
    Raw::new(3, 1, 0).info("t", &[8], 0, 0).raw(&[0]).expect_malformed("the data section has 0");
}

/// Files from elsewhere share weights this way; every tensor is still inside the file.
#[test]
fn overlapping_tensors_are_allowed() {
    Raw::new(3, 2, 0).info("t", &[8], 0, 0).info("u", &[4, 2], 0, 0).data(32).expect_fine();
}

#[test]
fn one_shard_alone_in_memory() {
    Raw::entry("split.count").u32(2).raw(&3_u16.to_le_bytes()).expect_unsupported("one shard of 3");
    Raw::entry("split.count").u32(2).raw(&1_u16.to_le_bytes()).expect_fine();
    Raw::entry("split.count").u32(STR).str("three").expect_malformed("\"split.count\": an integer");
}

#[test]
fn messages_do_not_carry_control_characters_or_long_names() {
    let key = "\u{1b}[2J\n".to_owned() + &"x".repeat(60_000);
    let error = Raw::entry(&key).u32(99).parse().unwrap_err().to_string();
    assert!(!error.contains(['\u{1b}', '\n']) && error.len() < 250, "{error:?}");
}
