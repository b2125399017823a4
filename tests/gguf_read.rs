//! Reading valid files: what is in them, getters, shards, a real model.

mod support;

use cotvalve::error::{Error, Result};
use cotvalve::gguf::write::Writer;
use cotvalve::gguf::{Gguf, Value};
use cotvalve::map::Bytes;
use cotvalve::tensor::TensorType;
use std::fs;
use std::path::{Path, PathBuf};
use support::gguf_fixture::{self as fixture, TinyLlama, encode_float, tiny_adapter, tiny_llama};
use support::touch::touch;

fn parse(bytes: Vec<u8>) -> Gguf {
    Gguf::parse(Path::new("test.gguf"), Bytes::from(bytes)).unwrap()
}

#[test]
fn a_tiny_model_is_read_whole() {
    let gguf = parse(tiny_llama(7, TensorType::F16));
    assert_eq!(gguf.require("general.architecture", Gguf::str).unwrap(), "llama");
    assert_eq!(gguf.require("llama.block_count", Gguf::u32).unwrap(), 2);
    assert_eq!(gguf.f32("llama.attention.layer_norm_rms_epsilon").unwrap(), Some(1e-5));
    assert_eq!(gguf.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
    let tokens = gguf.require("tokenizer.ggml.tokens", Gguf::strings).unwrap();
    assert!(tokens.iter().eq(fixture::vocabulary().iter().map(String::as_str)));
    assert_eq!(gguf.i32s("tokenizer.ggml.token_type").unwrap().unwrap().len(), tokens.len());
    assert_eq!(gguf.tensors().len(), 2 + 9 * fixture::LAYERS);
    for info in gguf.tensors() {
        let tensor = gguf.tensor(&info.name).unwrap().unwrap();
        assert_eq!(tensor.dims, fixture::dims(&info.name));
        assert_eq!(tensor.ty, if info.name.ends_with("norm.weight") { TensorType::F32 } else { TensorType::F16 });
        assert!(tensor.data.as_ptr().addr().is_multiple_of(32));
    }
    assert!(gguf.tensor("output.weight").unwrap().is_none());
    touch(&gguf);
}

#[test]
fn fixture_tokens_are_unique_and_merges_are_of_tokens() {
    let gguf = parse(tiny_llama(7, TensorType::F16));
    let tokens: Vec<&str> = gguf.strings("tokenizer.ggml.tokens").unwrap().unwrap().iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        assert!(!tokens[..i].contains(token), "{token:?} occurs twice");
    }
    for merge in gguf.strings("tokenizer.ggml.merges").unwrap().unwrap().iter() {
        let (a, b) = merge.split_once(' ').unwrap();
        assert!([a, b, &format!("{a}{b}")].iter().all(|t| tokens.contains(t)), "{merge}");
    }
}

#[test]
fn fixture_options_add_their_tensors() {
    let with = |separate_output, rope_freqs| {
        let ty = TensorType::F32;
        parse(TinyLlama { seed: 1, ty, separate_output, rope_freqs, encode: &encode_float }.bytes())
    };
    assert!(with(true, false).tensor("output.weight").unwrap().is_some());
    assert_eq!(with(false, true).tensor("rope_freqs.weight").unwrap().unwrap().dims, [8]);
    assert_eq!(with(false, false).info("output.weight").map(|t| &t.name), None);
}

#[test]
fn a_tiny_adapter_is_read_whole() {
    let gguf = parse(tiny_adapter(1, 4, TensorType::F32, &["blk.1.attn_k.weight", "token_embd.weight"]));
    assert_eq!(gguf.f32("adapter.lora.alpha").unwrap(), Some(8.0));
    let dims = |name: &str| gguf.info(name).unwrap().dims.clone();
    assert_eq!(dims("blk.1.attn_k.weight.lora_a"), [64, 4]);
    assert_eq!(dims("blk.1.attn_k.weight.lora_b"), [4, 32]);
    assert_eq!(dims("token_embd.weight.lora_a"), [4, fixture::vocabulary().len()]);
    assert_eq!(dims("token_embd.weight.lora_b"), [4, 64]);
}

#[test]
fn getters_convert_where_nothing_is_lost_and_name_the_key_otherwise() {
    let mut writer = Writer::new();
    let mut set = |key: &str, value: Value| writer.set(key, value).unwrap();
    set("byte", 200_u8.into());
    set("negative", (-1_i64).into());
    set("large", (1_u64 << 32).into());
    set("double", 0.5_f64.into());
    set("text", "hi".into());
    set("shorts", vec![1_i16, 2].into());
    set("mixed", vec![1_i16, -2].into());
    set("doubles", vec![0.25_f64].into());
    let gguf = parse(writer.to_bytes().unwrap());
    assert_eq!(gguf.u32("byte").unwrap(), Some(200));
    assert_eq!(gguf.i32("negative").unwrap(), Some(-1));
    assert_eq!(gguf.u64("large").unwrap(), Some(1 << 32));
    assert_eq!(gguf.f32("double").unwrap(), Some(0.5));
    assert_eq!(gguf.u32s("shorts").unwrap().unwrap()[..], [1, 2]);
    assert_eq!(gguf.i32s("mixed").unwrap().unwrap()[..], [1, -2]);
    assert_eq!(gguf.f32s("doubles").unwrap().unwrap()[..], [0.25]);
    assert_eq!(gguf.u32("none").unwrap(), None);
    let message = |error: Error| error.to_string();
    let wanted = "an integer from 0 to 4294967295 is wanted, not";
    assert_eq!(
        message(gguf.u32("large").unwrap_err()),
        format!("test.gguf: key \"large\": {wanted} the u64 4294967296")
    );
    assert_eq!(message(gguf.u32("text").unwrap_err()), format!("test.gguf: key \"text\": {wanted} the string \"hi\""));
    assert!(message(gguf.u32s("mixed").unwrap_err()).ends_with("not an array of 2 i16"));
    for error in [gguf.bool("byte").err(), gguf.str("byte").err(), gguf.strings("text").err(), gguf.f32("byte").err()] {
        assert!(matches!(error, Some(Error::Malformed { .. })));
    }
    let missing = message(gguf.require("none", Gguf::u32).unwrap_err());
    assert_eq!(missing, "test.gguf: the key \"none\" is missing");
}

/// Writes shard `i` of `n` into `folder`, with one tensor of its own; `change` may spoil it.
fn shard(folder: &Path, i: u16, n: u16, change: impl FnOnce(&mut Writer) -> Result<()>) -> PathBuf {
    let path = folder.join(format!("m-{:05}-of-{n:05}.gguf", i + 1));
    let mut writer = Writer::new();
    writer.set("general.name", format!("shard {i}")).unwrap();
    writer.set("split.no", i).unwrap();
    writer.set("split.count", n).unwrap();
    writer.set("split.tensors.count", i32::from(n)).unwrap();
    writer.tensor(&format!("t{i}"), 24, &[3], vec![i as u8; 3]).unwrap();
    change(&mut writer).unwrap();
    writer.write(&path).unwrap();
    path
}

fn three_shards(folder: &Path) -> PathBuf {
    let paths = [0, 1, 2].map(|i| shard(folder, i, 3, |_| Ok(())));
    paths[0].clone()
}

#[track_caller]
fn refused(path: &Path, what: &str) {
    let error = Gguf::open(path).expect_err(what).to_string();
    assert!(error.contains(what), "{error:?} lacks {what:?}");
}

#[test]
fn shards_are_opened_together() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&three_shards(folder.path())).unwrap();
    assert_eq!(gguf.shards().len(), 3);
    assert_eq!(gguf.str("general.name").unwrap(), Some("shard 0"));
    for i in 0..3 {
        let tensors = gguf.shard_tensors(i);
        assert_eq!(tensors.len(), 1);
        assert_eq!((tensors[0].shard, &tensors[0].data[..]), (i, &[i as u8; 3][..]));
        assert_eq!(gguf.info(&format!("t{i}")).unwrap().shard, i);
    }
    assert!(gguf.shard_tensors(3).is_empty());
    gguf.check_lengths().unwrap();
}

#[test]
fn shards_joined_into_one_file_lose_their_split_keys() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&three_shards(folder.path())).unwrap();
    let mut writer = Writer::new();
    writer.set_all(&gguf).unwrap();
    for t in gguf.tensors() {
        writer.tensor(&t.name, t.ty.id, &t.dims, t.data.clone()).unwrap();
    }
    let joined = parse(writer.to_bytes().unwrap());
    assert_eq!(joined.tensors().len(), 3);
    assert_eq!(joined.metadata().len(), 1);
}

#[test]
fn a_shard_that_is_not_the_first_names_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = three_shards(folder.path());
    refused(&folder.path().join("m-00002-of-00003.gguf"), &format!("open {}", first.display()));
}

#[test]
fn a_missing_shard_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let first = three_shards(folder.path());
    fs::remove_file(folder.path().join("m-00003-of-00003.gguf")).unwrap();
    refused(&first, "m-00003-of-00003.gguf: ");
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, first) = (folder.path(), three_shards(folder.path()));
    shard(folder, 1, 3, |w| w.set("split.no", 2_u16));
    refused(&first, "split.no is 2, but by the file's name it would be 1");
    shard(folder, 1, 3, |w| w.set("split.count", 4_u16));
    refused(&first, "split.count is 4, but by the file's name it would be 3");
    shard(folder, 1, 3, |w| w.set("split.tensors.count", 5));
    refused(&first, "split.tensors.count differs");
    shard(folder, 1, 3, |w| w.tensor("t0", 24, &[1], vec![0]));
    refused(&first, "tensor \"t0\" is also in another shard");
    shard(folder, 1, 3, |w| w.tensor("extra", 24, &[1], vec![0]));
    refused(&first, "split.tensors.count is 3, but the shards have 4 tensors");
    shard(folder, 1, 3, |_| Ok(()));
    Gguf::open(&first).unwrap();
}

#[test]
fn a_renamed_shard_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("model.gguf");
    fs::rename(three_shards(folder.path()), &renamed).unwrap();
    refused(&renamed, "is one shard of 3");
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("x-00001-of-00002.gguf");
    fs::write(&renamed, tiny_llama(1, TensorType::BF16)).unwrap();
    refused(&renamed, "the key \"split.no\" is missing");
}

/// Opens the SmolLM2 file that `COTVALVE_TEST_MODEL` names and rewrites it.
#[test]
fn a_real_model_rewritten_has_the_same_tensors() {
    let Some(path) = std::env::var_os("COTVALVE_TEST_MODEL") else {
        println!("skipped: COTVALVE_TEST_MODEL names no model");
        return;
    };
    let start = std::time::Instant::now();
    let gguf = Gguf::open(Path::new(&path)).unwrap();
    println!("opened in {:.2?}", start.elapsed());
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.gguf");
    let mut writer = Writer::new();
    writer.set_all(&gguf).unwrap();
    for t in gguf.tensors() {
        writer.tensor(&t.name, t.ty.id, &t.dims, t.data.clone()).unwrap();
    }
    writer.write(&copy).unwrap();
    let copy = Gguf::open(&copy).unwrap();
    assert!(gguf.metadata() == copy.metadata());
    assert_eq!(gguf.tensors().len(), copy.tensors().len());
    for (a, b) in gguf.tensors().iter().zip(copy.tensors()) {
        assert_eq!((&a.name, a.ty, &a.dims), (&b.name, b.ty, &b.dims));
        assert!(a.data[..] == b.data[..], "{}", a.name);
    }
}
