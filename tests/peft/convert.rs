//! PEFT folders to GGUF and back.

use super::folder::Folder;
use super::{ADAPTERS, adapter, data, fixture, logits, model, nmse};
use cotvalve::gguf::{Gguf, Value};
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Adapter, Conversion, Source};
use serde_json::json;
use std::path::Path;

fn source(path: &Path) -> Source {
    Source::open(path, &model().1, true).unwrap()
}

fn to_gguf(from: &Path, ty: TensorType, out: &Path) -> Conversion {
    source(from).write_gguf(&model().1, ty, out).unwrap()
}

fn to_peft(from: &Path, ty: TensorType, out: &Path) -> Conversion {
    source(from).write_peft(&model().1, ty, out).unwrap()
}

/// What is applied, in bits: name, shape and values of each matrix, and the scale.
type Applied = Vec<(String, Vec<usize>, Vec<u32>, u32)>;

fn applied(adapter: &Adapter) -> Applied {
    let mut all = Vec::new();
    for pair in adapter.pairs() {
        for tensor in [&pair.a, &pair.b] {
            let values = cotvalve::quant::to_f32(tensor).iter().map(|v| v.to_bits()).collect();
            all.push((tensor.name.clone(), tensor.dims.clone(), values, pair.scale.to_bits()));
        }
    }
    all.sort();
    all
}

#[test]
fn there_and_back_the_same_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    for name in ADAPTERS {
        let [gguf, back, again] = ["a.gguf", "back", "b.gguf"].map(|file| folder.path().join(name).join(file));
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let there = to_gguf(&data(name), TensorType::F32, &gguf);
        // One alpha is kept, and the values with it; patterns are multiplied into B.
        assert_eq!(there.alpha.is_none(), name == "patterns", "{name}: {there:?}");
        if name != "patterns" {
            assert_eq!(applied(&adapter(&gguf)), applied(&adapter(&data(name))), "{name}");
            // What is cached under the one counts for the other, if the type is the same.
            let same = adapter(&gguf).content_hash() == adapter(&data(name)).content_hash();
            assert_eq!(same, !["half", "layers"].contains(&name), "{name}");
        }
        to_peft(&gguf, TensorType::F32, &back);
        assert_eq!(applied(&adapter(&back)), applied(&adapter(&gguf)), "{name}");
        to_gguf(&back, TensorType::F32, &again);
        assert!(std::fs::read(&again).unwrap() == std::fs::read(&gguf).unwrap(), "{name}");
    }
}

#[test]
fn a_converted_folder_computes_the_same() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), fixture());
    let run = |path: &Path| logits(&data("model.gguf"), &[(path, 1.0)], &fixture.ids);
    for name in ADAPTERS {
        let gguf = folder.path().join(format!("{name}.gguf"));
        to_gguf(&data(name), TensorType::F32, &gguf);
        let (ours, theirs) = (run(&gguf), run(&data(name)));
        if name == "patterns" {
            let error = nmse(ours.iter(), theirs.iter());
            assert!(error < 1e-12, "{name}: NMSE {error:e}");
        } else {
            assert!(ours == theirs, "{name}");
        }
    }
}

#[test]
fn every_type_is_written() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), fixture());
    let truth = logits(&data("model.gguf"), &[(&data("plain"), 1.0)], &fixture.ids);
    for (ty, most) in [(TensorType::F16, 1e-6), (TensorType::BF16, 1e-4), (TensorType::Q8_0, 1e-4)] {
        let out = folder.path().join(format!("{ty}.gguf"));
        let done = to_gguf(&data("plain"), ty, &out);
        // B has rows of 4 values, and A of down rows of 48, which are no whole blocks.
        assert_eq!(done.unblocked.len(), if ty == TensorType::Q8_0 { 16 } else { 0 });
        let error = nmse(logits(&data("model.gguf"), &[(&out, 1.0)], &fixture.ids).iter(), truth.iter());
        assert!(error < most && error > 0.0, "{ty}: NMSE {error:e}");
        if ty != TensorType::Q8_0 {
            let back = folder.path().join(format!("{ty}"));
            to_peft(&out, ty, &back);
            assert_eq!(applied(&adapter(&back)), applied(&adapter(&out)));
        }
    }
    let refused = source(&data("plain")).write_gguf(&model().1, TensorType::Q4_0, &folder.path().join("x.gguf"));
    assert!(refused.unwrap_err().to_string().starts_with("type: q4_0"));
    let refused = source(&data("plain")).write_peft(&model().1, TensorType::Q8_0, &folder.path().join("x"));
    assert!(refused.unwrap_err().to_string().starts_with("type: q8_0"));
    assert!(!folder.path().join("x.gguf").exists() && !folder.path().join("x").exists());
}

#[test]
fn values_out_of_range_are_refused() {
    let folder = Folder::plain();
    let (header, mut data) = folder.tensors();
    let a = &header["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"];
    let at = a["data_offsets"][0].as_u64().unwrap() as usize;
    data[at..at + 4].copy_from_slice(&1e20_f32.to_le_bytes());
    folder.write_tensors(&header.to_string(), &data);
    let out = folder.file("a.gguf");
    let refused = source(folder.path()).write_gguf(&model().1, TensorType::F16, &out).unwrap_err().to_string();
    assert!(refused.contains("100000000000000000000") && refused.contains("range of f16"), "{refused}");
    assert!(!out.exists());
    to_gguf(folder.path(), TensorType::BF16, &out);
    data[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    folder.write_tensors(&header.to_string(), &data);
    let refused = source(folder.path()).write_gguf(&model().1, TensorType::Q8_0, &folder.file("b.gguf"));
    assert!(refused.unwrap_err().to_string().contains("q8_0 cannot hold the NaN"));
}

#[test]
fn our_metadata_and_the_base_s_name_survive() {
    let folder = Folder::plain();
    folder.set("base_model_name_or_path", json!("someone/tiny"));
    let [gguf, back, again] = ["a.gguf", "back", "b.gguf"].map(|file| folder.file(file));
    to_gguf(folder.path(), TensorType::F32, &gguf);
    let notes: [(&str, Value); 6] = [
        ("valve.direction", "shorter".into()),
        ("valve.curve.alpha", vec![0.0_f32, 0.1, 1.0, f32::INFINITY].into()),
        ("valve.steps", 1200_u32.into()),
        ("valve.loss", 0.3_f32.into()),
        ("valve.hash", u64::MAX.into()),
        ("valve.done", true.into()),
    ];
    let read = Gguf::open(&gguf).unwrap();
    let mut writer = cotvalve::gguf::write::Writer::new();
    writer.set_all(&read).unwrap();
    notes.iter().for_each(|(key, value)| writer.set(key, value.clone()).unwrap());
    for t in read.tensors() {
        writer.tensor(&t.name, t.ty.id, &t.dims, t.data.clone()).unwrap();
    }
    writer.write(&gguf).unwrap();
    to_peft(&gguf, TensorType::F32, &back);
    let config = std::fs::read_to_string(back.join("adapter_config.json")).unwrap();
    assert!(config.contains("\"someone/tiny\"") && config.contains("\"lora_alpha\": 8,"), "{config}");
    to_gguf(&back, TensorType::F32, &again);
    let read = Gguf::open(&again).unwrap();
    for (key, value) in &notes {
        assert_eq!(read.get(key), Some(value), "{key}");
    }
    assert_eq!(read.str("general.base_model.0.name").unwrap(), Some("someone/tiny"));
    // An adapter without notes that is written there takes the old ones away.
    to_peft(&data("rslora"), TensorType::F32, &back);
    assert!(!back.join("valve.json").exists());
}

#[test]
fn notes_that_lie_are_named() {
    let cases = [
        (r#"{"valve.a": 1}"#, "valve.a: "),
        (r#"{"valve.a": {"u8": 256}}"#, "valve.a: "),
        (r#"{"valve.a": {"f32[]": [1, "x"]}}"#, "valve.a: "),
        (r#"{"valve.a": {"u9": 1}}"#, "valve.a: "),
        (r#"{"valve.a": {"u8": 1, "u16": 1}}"#, "valve.a: "),
        (r#"{"valve.a": {"string": "x"}, "valve.a": {"string": "x"}}"#, "occurs twice"),
        ("nonsense", "valve.json"),
    ];
    for (text, words) in cases {
        let folder = Folder::plain();
        std::fs::write(folder.file("valve.json"), text).unwrap();
        let message = Source::open(folder.path(), &model().1, true).err().unwrap().to_string();
        assert!(message.contains("valve.json") && message.contains(words), "{text}: {message}");
    }
    // What decides how the file is read is not taken from there.
    let folder = Folder::plain();
    let text = r#"{"general.architecture": {"string": "gpt"}, "adapter.lora.alpha": {"f32": 99}}"#;
    std::fs::write(folder.file("valve.json"), text).unwrap();
    to_gguf(folder.path(), TensorType::F32, &folder.file("a.gguf"));
    assert_eq!(applied(&adapter(&folder.file("a.gguf"))), applied(&adapter(&data("plain"))));
}
