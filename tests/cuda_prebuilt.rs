//! The committed kernels are those of the committed sources.
#![cfg(feature = "cuda")]

use std::path::{Path, PathBuf};

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Adds `name` and the project files it includes to `files`, each once, in the order they are first met.
fn closure(name: &str, files: &mut Vec<String>) {
    if files.iter().any(|f| f == name) {
        return;
    }
    files.push(name.into());
    let text = std::fs::read_to_string(kernels().join(name)).unwrap();
    for line in text.lines() {
        let include = line.strip_prefix("#include \"").and_then(|rest| rest.split('"').next());
        include.into_iter().for_each(|file| closure(file, files));
    }
}

/// As `source_hash` of kernels/build.
fn source_hash(name: &str) -> u64 {
    let mut files = vec!["build".to_string()];
    closure(name, &mut files);
    let mut data = Vec::new();
    for file in &files {
        data.extend_from_slice(file.as_bytes());
        data.push(0);
        data.extend(std::fs::read(kernels().join(file)).unwrap());
        data.push(0);
    }
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn every_kernel_file_has_a_bundle_made_of_its_present_sources() {
    let mut names: Vec<_> = std::fs::read_dir(kernels()).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    assert!(names.len() >= 3, "kernels/*.cu are missing");
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bundle = kernels().join("prebuilt").join(name.replace(".cu", ".bundle"));
        let bytes = std::fs::read(&bundle).unwrap_or_else(|e| panic!("{}: {e}; run kernels/build", bundle.display()));
        let stored = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        assert_eq!(stored, source_hash(name), "the sources of {name} have moved on: run kernels/build and commit");
    }
}
