//! Adapters merged into the model.

use super::{adapter, data, fixture, logits, model, nmse};
use cotvalve::error::{Error, Result};
use cotvalve::gguf::Gguf;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{MergeOptions, Merged, merge};
use std::path::Path;

fn merge_to(adapters: &[(&str, f32)], ty: TensorType, threads: usize, out: &Path) -> Result<Merged> {
    let adapters: Vec<_> = adapters.iter().map(|(name, alpha)| (adapter(&data(name)), *alpha)).collect();
    merge(&model().0, &adapters, MergeOptions { ty, threads }, out, &mut |_| true)
}

#[test]
fn a_merged_model_computes_what_the_open_valve_does() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), fixture());
    let out = folder.path().join("merged.gguf");
    for (ty, most) in [(TensorType::F32, 1e-11), (TensorType::F16, 1e-5), (TensorType::Q8_0, 1e-2)] {
        for alpha in [-0.5, 0.3, 1.0, 1.7] {
            let done = merge_to(&[("patterns", alpha), ("head", -alpha)], ty, 1, &out);
            if ty == TensorType::Q8_0 {
                // Rows of down have 48 values, one block and a half.
                assert!(done.unwrap_err().to_string().contains("ffn_down"));
                continue;
            }
            assert_eq!(done.unwrap(), Merged { merged: 15, copied: 6 });
            let (patterns, head) = (data("patterns"), data("head"));
            let open = [(patterns.as_path(), alpha), (head.as_path(), -alpha)];
            let error =
                nmse(logits(&out, &[], &fixture.ids).iter(), logits(&data("model.gguf"), &open, &fixture.ids).iter());
            println!("{ty}, α {alpha}: NMSE {error:.2e}");
            assert!(error < most, "{ty}, α {alpha}: NMSE {error:e}");
        }
    }
}

#[test]
fn quantized_weights_take_a_delta_too() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), fixture());
    let out = folder.path().join("merged.gguf");
    let rslora = data("rslora");
    let open = logits(&data("model.gguf"), &[(&data("half"), 0.3)], &fixture.ids);
    for (ty, most) in [(TensorType::Q8_0, 1e-3), (TensorType::Q4_1, 5e-2), (TensorType::Q4_0, 5e-2)] {
        merge_to(&[("half", 0.3)], ty, 1, &out).unwrap();
        assert_eq!(Gguf::open(&out).unwrap().info("blk.1.attn_k.weight").unwrap().ty.id, ty as u32);
        let error = nmse(logits(&out, &[], &fixture.ids).iter(), open.iter());
        assert!(error < most && error > 0.0, "{ty}: NMSE {error:e}");
        // A model with such weights is a base again.
        let base = Gguf::open(&out).unwrap();
        let options = MergeOptions { ty: TensorType::F32, threads: 1 };
        let again = folder.path().join("again.gguf");
        merge(&base, &[(adapter(&rslora), 1.0)], options, &again, &mut |_| true).unwrap();
        let error =
            nmse(logits(&again, &[], &fixture.ids).iter(), logits(&out, &[(&rslora, 1.0)], &fixture.ids).iter());
        assert!(error < 1e-11, "{ty}: NMSE {error:e}");
    }
}

#[test]
fn closed_it_is_the_base_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.gguf");
    for alpha in [0.0, -0.0] {
        let done = merge_to(&[("plain", alpha)], TensorType::F16, 1, &out).unwrap();
        assert_eq!(done, Merged { merged: 0, copied: 21 });
        let (merged, base) = (Gguf::open(&out).unwrap(), model().0);
        assert_eq!(merged.metadata(), base.metadata());
        for (ours, theirs) in merged.tensors().iter().zip(base.tensors()) {
            assert_eq!((&ours.name, ours.ty, &ours.dims), (&theirs.name, theirs.ty, &theirs.dims));
            assert!(ours.data[..] == theirs.data[..], "{}", ours.name);
        }
    }
}

#[test]
fn what_is_not_touched_and_the_metadata_stay() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.gguf");
    merge_to(&[("rslora", 1.0)], TensorType::F16, 1, &out).unwrap();
    let (merged, base) = (Gguf::open(&out).unwrap(), model().0);
    for (key, value) in base.metadata() {
        assert_eq!(merged.get(key), Some(value), "{key}");
    }
    assert_eq!(merged.u32("general.file_type").unwrap(), Some(1));
    for ours in merged.tensors() {
        let touched = ["attn_q", "attn_v", "ffn_down"].iter().any(|part| ours.name.contains(part));
        let theirs = base.info(&ours.name).unwrap();
        assert_eq!(ours.data[..] != theirs.data[..], touched, "{}", ours.name);
        assert_eq!(ours.ty.name, if touched { "f16" } else { "f32" });
    }
}

#[test]
fn threads_do_not_change_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let [one, three] = ["one.gguf", "three.gguf"].map(|name| folder.path().join(name));
    merge_to(&[("plain", 0.7), ("rslora", 0.2)], TensorType::F16, 1, &one).unwrap();
    merge_to(&[("plain", 0.7), ("rslora", 0.2)], TensorType::F16, 3, &three).unwrap();
    assert!(std::fs::read(one).unwrap() == std::fs::read(three).unwrap());
}

#[test]
fn refused_or_stopped_it_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.gguf");
    std::fs::write(&out, "before").unwrap();
    for alpha in [f32::NAN, f32::INFINITY] {
        let error = merge_to(&[("plain", alpha)], TensorType::F16, 1, &out).unwrap_err();
        assert!(error.to_string().starts_with("alpha: "), "{error}");
    }
    let error = merge_to(&[("plain", 1e30)], TensorType::F16, 1, &out).unwrap_err().to_string();
    assert!(error.contains("range of f16") && error.contains(".weight"), "{error}");
    assert!(merge_to(&[("plain", 1.0)], TensorType::F16, 0, &out).is_err());
    let options = MergeOptions { ty: TensorType::F32, threads: 1 };
    let mut heard = Vec::new();
    let mut stop = |done: f32| {
        heard.push(done);
        done < 0.4
    };
    let stopped = merge(&model().0, &[(adapter(&data("plain")), 1.0)], options, &out, &mut stop);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(heard.len() > 1 && heard.is_sorted() && *heard.last().unwrap() >= 0.4, "{heard:?}");
    assert_eq!(std::fs::read(&out).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
