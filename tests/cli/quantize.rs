//! `valve quantize`.

use super::{Folder, succeed, valve};
use cotvalve::gguf::Gguf;
use std::path::Path;

fn refused(args: &[&str]) -> String {
    let output = valve(&[&["quantize"], args].concat()).output().unwrap();
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_quantized_model_answers_and_says_what_it_became() {
    let folder = Folder::new();
    let (model, out) = (folder.path("model.gguf"), folder.path("small.gguf"));
    let quantize = |args: &[&str]| succeed(valve(&[&["quantize"], args].concat()).output().unwrap());
    let (listed, _) = quantize(&["--dry-run", &model, "q4_k_m"]);
    assert!(listed.contains("[   1/  20] output_norm.weight"), "{listed}");
    assert!(
        listed.contains("(q5_0, whose rows are no blocks of q4_K)") && listed.contains("quant size  ="),
        "{listed}"
    );
    assert!(!Path::new(&folder.path("ggml-model-Q4_K_M.gguf")).exists());
    let (said, progress) = quantize(&[&model, &out, "q8_0", "2"]);
    assert!(said.contains("BPW"), "{said}");
    assert_eq!(progress.lines().count(), 20, "{progress}");
    let small = Gguf::open(Path::new(&out)).unwrap();
    assert!(small.tensors().iter().all(|t| t.ty.name == if t.dims.len() == 1 { "f32" } else { "q8_0" }));
    let run = ["run", "-m", &out, "--raw", "--temp", "0", "-n", "4", "-p", "the ring"];
    assert!(!succeed(valve(&run).output().unwrap()).0.is_empty());
    quantize(&[&model, "q4_0"]);
    assert!(Path::new(&folder.path("ggml-model-Q4_0.gguf")).exists());
    assert!(refused(&[&model, &out, "q4_0"]).contains("--force writes over it"));
    quantize(&["--force", "--override-kv", "general.name=str:tiny", &model, &out, "q4_0"]);
    assert_eq!(Gguf::open(Path::new(&out)).unwrap().str("general.name").unwrap(), Some("tiny"));
}

#[test]
fn words_that_make_no_sense_are_named() {
    let folder = Folder::new();
    let model = folder.path("model.gguf");
    let text = folder.write("text.txt", "no matrix");
    for (args, wanted) in [
        (&[&*model, "q9"][..], "\"q9\" is no type"),
        (&[&model], "2 values required"),
        (&["missing.gguf", "q4_0"], "missing.gguf"),
        (&[&model, "q4_0", "--imatrix", &text], "text.txt"),
        (&[&model, "q4_0", "--tensor-type", "attn_(=q8_0"], "--tensor-type"),
        (&[&model, "q4_0", "--output-tensor-type", "q9"], "no type of tensors"),
        (&[&model, "q4_0", "--override-kv", "a=int:5000000000"], "out of the range of 32 bits"),
        (&["--include-weights", "a", "--exclude-weights", "b", &model, "q4_0"], "cannot be used with"),
        (&[&model, &model, "q4_0", "--force"], "is the model that is read"),
    ] {
        let error = refused(args);
        assert!(error.contains(wanted), "{args:?}: {error}");
    }
}
