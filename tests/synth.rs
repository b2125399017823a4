//! Models of random weights: what the C++ program writes, that they can be computed with, and `valve synth`.

mod support;

use cotvalve::backend::Precision;
use cotvalve::engine::{Engine, EngineOptions, Session};
use cotvalve::gguf::write::Writer;
use cotvalve::gguf::{Gguf, StoredType};
use cotvalve::map::Bytes;
use cotvalve::model::Model;
use cotvalve::model::quantize::FileType;
use cotvalve::model::synth::{Recipe, Shape, adapter, linears};
use cotvalve::sampler::Sampling;
use cotvalve::tensor::TensorType;
use cotvalve::valve::{Dial, Scope};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use support::cxx::compiler;

fn recipe(size: &str, ty: &str) -> Recipe {
    let (shape, file_type) = (Shape::named(size).unwrap(), FileType::parse(ty).unwrap());
    Recipe { shape, file_type, pure: false, seed: 3, context: None }
}

/// The C++ program, compiled into `folder`; `None` where there is no compiler.
fn twin(folder: &Path) -> Option<PathBuf> {
    let Some(compiler) = compiler() else {
        println!("no C++ compiler answers; skipped");
        return None;
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/synth/synth.cpp");
    let program = folder.join("synth");
    let flags = ["-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror"];
    let output = Command::new(compiler).args(flags).arg(source).arg("-o").arg(&program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

fn bytes(writer: Writer<'_>, path: &Path) -> Vec<u8> {
    writer.write(path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn the_cxx_program_writes_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = twin(folder.path()) else { return };
    let (ours, theirs) = (folder.path().join("ours.gguf"), folder.path().join("theirs.gguf"));
    let run = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).arg("--out").arg(&theirs).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(&theirs).unwrap()
    };
    let mut types = HashSet::new();
    for file_type in FileType::ALL {
        for pure in [false, true] {
            let recipe = Recipe { pure, file_type, ..recipe("tiny", "f16") };
            let Ok(writer) = recipe.model() else { continue };
            types.insert(file_type.base().name);
            let pure = if pure { &["--pure"][..] } else { &[] };
            let arguments = [&["--size", "tiny", "--type", file_type.name(), "--seed", "3"], pure].concat();
            assert!(bytes(writer, &ours) == run(&arguments), "{file_type:?} {pure:?}");
        }
    }
    let computed: Vec<_> = TensorType::ALL.map(TensorType::name).into_iter().filter(|ty| !types.contains(ty)).collect();
    assert_eq!(computed, [""; 0], "types with kernels that no model was drawn in");
    // Rows of 576 are no super-blocks, so that other types stand in; 30 layers show the mix.
    let model = run(&["--size", "135m", "--type", "q4_k_m", "--seed", "3", "--rank", "8", "--ctx", "100"]);
    let recipe = Recipe { context: Some(100), ..recipe("135M", "q4_k_m") };
    assert!(bytes(recipe.model().unwrap(), &ours) == model);
    let beside = std::fs::read(folder.path().join("theirs-rank8.gguf")).unwrap();
    assert!(bytes(recipe.adapter(8).unwrap(), &ours) == beside);
    for rank in ["1", "5", "128"] {
        let adapter = run(&["--size", "tiny", "--rank", rank, "--adapter-only", "--seed", "18446744073709551615"]);
        let recipe = Recipe { seed: u64::MAX, ..self::recipe("tiny", "f16") };
        assert!(bytes(recipe.adapter(rank.parse().unwrap()).unwrap(), &ours) == adapter, "{rank}");
    }
}

/// The types of large models' tensors, without their data.
#[test]
fn the_cxx_program_chooses_the_types_of_every_shape() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = twin(folder.path()) else { return };
    for shape in Shape::ALL {
        for file_type in FileType::ALL {
            let recipe = Recipe { shape, file_type, pure: false, seed: 0, context: None };
            let Ok(writer) = recipe.model() else { continue };
            let header = Command::new(&program)
                .args(["--size", shape.name, "--type", file_type.name(), "--header-only", "--out"])
                .arg(folder.path().join("header"))
                .output()
                .unwrap();
            assert!(header.status.success());
            let theirs = std::fs::read(folder.path().join("header")).unwrap();
            let mut start = Start { bytes: Vec::new(), wanted: theirs.len() };
            // It stops where the header ends.
            let _ = writer.write_to(Path::new("memory"), &mut start);
            assert!(start.bytes == theirs, "{} {file_type:?}", shape.name);
        }
    }
}

/// Takes the first `wanted` bytes, and refuses the rest.
struct Start {
    bytes: Vec<u8>,
    wanted: usize,
}

impl std::io::Write for Start {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = (self.wanted - self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        if room == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(room) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn open(bytes: Vec<u8>) -> Arc<Model> {
    Model::new(Gguf::parse(Path::new("synth.gguf"), Bytes::from(bytes)).unwrap()).unwrap()
}

fn greedy(session: &mut Session) -> Vec<u32> {
    let prompt = session.engine().model().tokenizer().encode("once upon a time", true, true).unwrap();
    session.prompt(&prompt).unwrap();
    let sampling = Sampling { temperature: 0.0, ignore_eos: true, ..Sampling::default() };
    session.generate(&sampling, 32).unwrap().map(|event| event.unwrap().token).collect()
}

#[test]
fn every_type_computes_text_that_moves_and_a_valve_that_turns_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    recipe("tiny", "f16").adapter(4).unwrap().write(&path).unwrap();
    for ty in TensorType::ALL {
        let recipe = Recipe { pure: true, file_type: FileType::uniform(ty), ..recipe("tiny", "f16") };
        let model = open(recipe.model().unwrap().to_bytes().unwrap());
        assert_eq!(model.gguf().info("blk.1.ffn_down.weight").unwrap().ty, StoredType::from_id(ty as u32).unwrap());
        for precision in [Precision::Int8, Precision::Float] {
            let options = EngineOptions { threads: 1, context: 64, precision, ..EngineOptions::default() };
            let engine = Engine::new(model.clone(), &options).unwrap();
            let (valve, mut session) = (engine.attach(&path).unwrap(), engine.session());
            let closed = greedy(&mut session);
            assert!(closed.iter().collect::<HashSet<_>>().len() > 8, "{ty}: {closed:?}");
            session.set(&valve, Dial::Constant(1.0), Scope::All).unwrap();
            assert_ne!(greedy(&mut session), closed, "{ty}");
        }
    }
}

#[test]
fn logits_are_finite_and_spread() {
    let model = open(recipe("tiny", "q4_k_m").model().unwrap().to_bytes().unwrap());
    let engine = Engine::new(model, &EngineOptions { threads: 1, context: 64, ..EngineOptions::default() }).unwrap();
    let mut session = engine.session();
    session.prompt(&(3..35).collect::<Vec<u32>>()).unwrap();
    session
        .score(|_, logits| {
            let n = logits.len() as f32;
            let mean = logits.iter().sum::<f32>() / n;
            let deviation = (logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n).sqrt();
            assert!((1.0..8.0).contains(&deviation) && mean.abs() < deviation, "{mean} {deviation}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_adapter_fits_a_file_by_its_shapes() {
    let recipe = recipe("tiny", "q8_0");
    let model = open(recipe.model().unwrap().to_bytes().unwrap());
    let linears = linears(model.gguf()).unwrap();
    assert_eq!(linears, (0..2).flat_map(|layer| recipe.shape.linears(layer)).collect::<Vec<_>>());
    let ours = adapter(&linears, 3, recipe.seed).unwrap().to_bytes().unwrap();
    assert!(ours == recipe.adapter(3).unwrap().to_bytes().unwrap());
    for rank in [0, 129] {
        let error = adapter(&linears, rank, 0).err().unwrap().to_string();
        assert!(error.starts_with(&format!("rank: {rank}: ")) && error.contains("1 to"), "{error}");
    }
    let bare = Gguf::parse(Path::new("adapter.gguf"), Bytes::from(ours)).unwrap();
    assert!(cotvalve::model::synth::linears(&bare).unwrap_err().to_string().starts_with("adapter.gguf: no matrix"));
}

#[cfg(feature = "cli")]
mod program {
    use super::*;
    use tempfile::TempDir;

    fn valve(folder: &TempDir, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_valve")).current_dir(folder).args(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(stderr) }
    }

    fn read(folder: &TempDir, name: &str) -> Vec<u8> {
        std::fs::read(folder.path().join(name)).unwrap()
    }

    #[test]
    fn a_model_and_its_adapter_are_written_and_run() {
        let folder = tempfile::tempdir().unwrap();
        let small = ["synth", "--size", "tiny", "--type", "q4_0"];
        valve(&folder, &[&small[..], &["--rank", "4", "--seed", "3"]].concat()).unwrap();
        let (model, adapter) = ("synth-tiny-q4_0.gguf", "synth-tiny-q4_0-rank4.gguf");
        assert!(read(&folder, model) == recipe("tiny", "q4_0").model().unwrap().to_bytes().unwrap());
        valve(
            &folder,
            &["synth", "--adapter-only", "--model", model, "--rank", "4", "--seed", "3", "--out", "only.gguf"],
        )
        .unwrap();
        assert!(read(&folder, "only.gguf") == read(&folder, adapter));
        let run = |alpha: &str| {
            let opened = ["--valve", adapter, "--alpha", alpha];
            let plain = ["run", "-m", model, "-p", "the other day", "-n", "12", "--temp", "0", "-t", "1"];
            valve(&folder, &[&plain[..], &opened].concat()).unwrap()
        };
        assert_ne!(run("0"), run("1"));
        let refused = valve(&folder, &small).unwrap_err();
        assert!(refused.contains(model) && refused.contains("--force"), "{refused}");
        valve(&folder, &[&small[..], &["--force", "--ctx", "77"]].concat()).unwrap();
        let rewritten = open(read(&folder, model));
        assert_eq!(rewritten.config().context, 77);
    }

    #[test]
    fn what_cannot_be_made_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for (arguments, named) in [
            (&["--size", "2B"][..], "135M, 1B, 3B, 8B, 32B"),
            (&["--size", "tiny", "--type", "q9"], "--type"),
            (&["--size", "tiny", "--type", "iq1_s"], "is not among the types that are drawn"),
            (&["--size", "tiny", "--rank", "0"], "rank"),
            (&["--size", "tiny", "--ctx", "0"], "--ctx"),
            (&["--adapter-only"], "--rank"),
            (&["--model", "m.gguf"], "--adapter-only"),
            (&["--adapter-only", "--rank", "2", "--model", "missing.gguf"], "missing.gguf"),
        ] {
            let error = valve(&folder, &[&["synth"], arguments].concat()).unwrap_err();
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}
