//! Written files read back equal; what cannot be written is refused; nothing is left behind on an error.

use cotvalve::error::Error;
use cotvalve::gguf::write::{Data, Writer};
use cotvalve::gguf::{Array, Gguf, Strings, Value};
use cotvalve::map::Bytes;
use std::fs;
use std::path::Path;

fn parse(bytes: Vec<u8>) -> Gguf {
    Gguf::parse(Path::new("test.gguf"), Bytes::from(bytes)).unwrap()
}

/// All 13 types, at their edges, and arrays of all 12, also empty.
fn values() -> Vec<Value> {
    let strings: Strings = ["", "Ġthe", "日本", "\0"].iter().collect();
    vec![
        u8::MAX.into(),
        i8::MIN.into(),
        u16::MAX.into(),
        i16::MIN.into(),
        u32::MAX.into(),
        i32::MIN.into(),
        u64::MAX.into(),
        i64::MIN.into(),
        f32::MIN_POSITIVE.into(),
        f32::NEG_INFINITY.into(),
        f64::MAX.into(),
        true.into(),
        false.into(),
        "".into(),
        "多 bytes".into(),
        vec![0_u8, u8::MAX].into(),
        vec![i8::MIN, i8::MAX].into(),
        vec![0_u16, u16::MAX].into(),
        vec![i16::MIN, i16::MAX].into(),
        vec![0_u32, u32::MAX].into(),
        vec![i32::MIN, i32::MAX].into(),
        vec![0_u64, u64::MAX].into(),
        vec![i64::MIN, i64::MAX].into(),
        vec![-0.0_f32, f32::EPSILON].into(),
        vec![f64::MIN, 1.5].into(),
        vec![true, false, true].into(),
        strings.into(),
        Strings::default().into(),
        Value::Array(Array::F64(Vec::new())),
    ]
}

#[test]
fn all_value_types_survive_a_round_trip() {
    let mut writer = Writer::new();
    for (i, value) in values().into_iter().enumerate() {
        writer.set(&format!("key {i}"), value).unwrap();
    }
    let gguf = parse(writer.to_bytes().unwrap());
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.metadata().len(), values().len());
    for (i, (key, value)) in gguf.metadata().iter().enumerate() {
        assert_eq!((key, value), (&format!("key {i}"), &values()[i]));
    }
}

#[test]
fn floats_keep_their_bits() {
    let bits = [0x7fc0_0001_u32, 0xffc0_1234, 0x7f80_0001, 0x8000_0000, 1];
    let mut writer = Writer::new();
    writer.set("all", bits.map(f32::from_bits).to_vec()).unwrap();
    let gguf = parse(writer.to_bytes().unwrap());
    let back = gguf.f32s("all").unwrap().unwrap();
    assert!(back.iter().map(|v| v.to_bits()).eq(bits));
}

/// Tensors of all three sources and many sizes, at `alignment`.
fn tensors_at(alignment: u32) -> Gguf {
    let bytes = |n: usize| -> Vec<u8> { (0..n).map(|i| (i * 7 + n) as u8).collect() };
    let lent = bytes(33);
    let mut writer = Writer::new();
    writer.set("general.alignment", alignment).unwrap();
    writer.tensor("lent", 24, &[11, 3], lent.as_slice()).unwrap();
    writer.tensor("owned", 0, &[2, 1, 4], bytes(32)).unwrap();
    writer.tensor("mapped", 3, &[32, 2], Bytes::from(bytes(40))).unwrap();
    let pieces = bytes(100).chunks(7).map(|c| Ok(c.to_vec())).collect::<Vec<_>>();
    writer.tensor("chunks", 24, &[100], Data::Chunks(Box::new(pieces.into_iter()))).unwrap();
    writer.tensor("quantized", 12, &[512], bytes(288)).unwrap();
    let gguf = parse(writer.to_bytes().unwrap());
    for (info, n) in gguf.tensors().iter().zip([33, 32, 40, 100, 288]) {
        assert_eq!(info.data[..], bytes(n), "{}", info.name);
        assert!(info.offset.is_multiple_of(alignment.into()));
    }
    gguf
}

#[test]
fn tensors_survive_a_round_trip_at_any_alignment() {
    for alignment in [8, 32, 64, 4096] {
        let gguf = tensors_at(alignment);
        assert_eq!(gguf.alignment(), alignment as usize);
        assert_eq!(gguf.tensors().len(), 5);
        assert_eq!(gguf.info("owned").unwrap().dims, [2, 1, 4]);
        assert_eq!(gguf.info("quantized").unwrap().ty.name, "q4_K");
    }
}

/// ggml wants each tensor to start where the padding of its predecessor ends, and the last to be padded too.
#[test]
fn tensors_are_laid_out_as_ggml_wants_them() {
    let mut writer = Writer::new();
    writer.tensor("a", 24, &[33], vec![1; 33]).unwrap();
    writer.tensor("b", 24, &[1], vec![2]).unwrap();
    let file = writer.to_bytes().unwrap();
    let infos = 4 + 4 + 8 + 8 + 2 * (8 + 1 + 4 + 8 + 4 + 8_usize);
    let data = infos.next_multiple_of(32);
    assert_eq!(file.len(), data + 64 + 32);
    assert_eq!(file[data..data + 33], [1; 33]);
    assert_eq!(file[data + 33..data + 64], [0; 31]);
    assert_eq!(file[data + 64], 2);
    assert_eq!(parse(file).tensors()[1].offset, 64);
}

#[test]
fn setting_a_key_again_replaces_its_value() {
    let mut writer = Writer::new();
    writer.set("a", 1_u32).unwrap();
    writer.set("b", 2_u32).unwrap();
    writer.set("a", "one").unwrap();
    let gguf = parse(writer.to_bytes().unwrap());
    assert_eq!(gguf.metadata(), [("a".to_owned(), "one".into()), ("b".to_owned(), 2_u32.into())]);
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let mut writer = Writer::new();
    let mut refused = |name: &str, ty, dims: &[usize], bytes: usize, what: &str| {
        let error = writer.tensor(name, ty, dims, vec![0; bytes]).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }) && error.to_string().contains(what), "{error}");
    };
    refused("", 24, &[1], 1, "0 bytes");
    refused(&"t".repeat(64), 24, &[1], 1, "64 bytes");
    refused("t", 99, &[1], 1, "unknown type 99");
    refused("t", 24, &[], 1, "0 dimensions");
    refused("t", 24, &[1, 0], 1, "empty dimension");
    refused("t", 3, &[33], 20, "not whole q4_1 blocks of 32");
    refused("t", 0, &[usize::MAX / 2], 1, "overflows");
    refused("t", 0, &[2], 7, "7 bytes were given, 8 are needed");
    writer.tensor("t", 24, &[1], vec![0]).unwrap();
    assert!(writer.tensor("t", 24, &[1], vec![0]).unwrap_err().to_string().contains("already"));
    assert!(writer.set("", 1_u32).is_err());
    assert!(writer.set(&"k".repeat(65_536), 1_u32).is_err());
    for bad in [Value::U32(0), Value::U32(48), Value::U32(1 << 20), Value::from("32")] {
        assert!(writer.set("general.alignment", bad).is_err());
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn one_tensor(chunks: Vec<cotvalve::error::Result<Vec<u8>>>) -> Writer<'static> {
    let mut writer = Writer::new();
    writer.tensor("t", 24, &[4], Data::Chunks(Box::new(chunks.into_iter()))).unwrap();
    writer
}

#[test]
fn a_file_is_replaced_whole_and_no_temporary_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    fs::write(&path, "old").unwrap();
    one_tensor(vec![Ok(vec![1, 2]), Ok(vec![3, 4])]).write(&path).unwrap();
    assert_eq!(names_in(folder.path()), ["out.gguf"]);
    assert_eq!(Gguf::open(&path).unwrap().info("t").unwrap().data[..], [1, 2, 3, 4]);
}

#[test]
fn an_error_while_writing_keeps_the_old_file_and_removes_the_temporary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    fs::write(&path, "old").unwrap();
    for (chunks, what) in [
        (vec![Ok(vec![1, 2, 3])], "3 bytes were given, 4 are needed"),
        (vec![Ok(vec![1, 2, 3]), Ok(vec![4, 5])], "5 bytes were given, 4 are needed"),
        (vec![Ok(vec![1]), Err(Error::Cancelled)], "cancelled"),
    ] {
        let error = one_tensor(chunks).write(&path).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(names_in(folder.path()), ["out.gguf"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}

#[test]
fn a_path_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = Writer::new().write(&folder.path().join("none/out.gguf")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // A folder of that name: the rename fails, and the temporary goes.
    fs::create_dir(folder.path().join("taken")).unwrap();
    assert!(Writer::new().write(&folder.path().join("taken")).is_err());
    assert_eq!(names_in(folder.path()), ["taken"]);
}
