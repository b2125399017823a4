//! The tree keeps its own rules: layers, rooms for `unsafe`, sizes, and words that do not belong.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use source::Source;
use std::fs;
use std::path::Path;

/// Folders that are walked; files at the top are read too.
const FOLDERS: [&str; 8] = ["src", "tests", "benches", "examples", "kernels", "vendor", "models", ".ci"];
/// Folders that hold what a build or a program made.
const MADE: [&str; 4] = ["target", "cache", "__pycache__", "node_modules"];

/// Every text file of the tree: its path from the root, and what it says.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    let entries = fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.is_file() && p.file_name() != Some(".git".as_ref())).for_each(|p| read(root, &p, &mut texts));
    FOLDERS.iter().map(|f| root.join(f)).filter(|f| f.is_dir()).for_each(|f| walk(root, &f, &mut texts));
    texts.sort();
    texts
}

fn walk(root: &Path, folder: &Path, texts: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            read(root, &path, texts);
        } else if !MADE.iter().any(|made| path.ends_with(made)) {
            walk(root, &path, texts);
        }
    }
}

/// Adds a file unless it is binary.
fn read(root: &Path, path: &Path, texts: &mut Vec<(String, String)>) {
    let bytes = fs::read(path).unwrap();
    if !bytes.contains(&0)
        && let Ok(text) = String::from_utf8(bytes)
    {
        texts.push((path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"), text));
    }
}

/// The files of the tree in a language with functions and comments.
fn sources() -> Vec<Source> {
    let is_source = |path: &str| [".rs", ".cu", ".cuh", ".c", ".cpp", ".h"].iter().any(|end| path.ends_with(end));
    let texts = texts().into_iter().filter(|(path, _)| is_source(path));
    texts.map(|(path, text)| Source::new(&path, &text)).collect()
}

/// Fails with every complaint.
fn expect_none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn the_walk_finds_the_tree() {
    let paths: Vec<String> = texts().into_iter().map(|(path, _)| path).collect();
    for path in ["Cargo.toml", "src/lib.rs", "src/cpu/simd/mod.rs", "tests/tidy/rules.rs", "vendor/ggml-sys/build.rs"] {
        assert!(paths.iter().any(|p| p == path), "{path} is not among {paths:?}");
    }
    assert!(!paths.iter().any(|p| p.contains("target/")));
}

#[test]
fn layers_point_down() {
    let rooms = |s: &&Source| s.path.starts_with("src/") && s.path.ends_with(".rs");
    expect_none(sources().iter().filter(rooms).flat_map(layers::check));
}

#[test]
fn unsafe_code_stays_in_its_rooms_and_says_why_it_is_sound() {
    expect_none(sources().iter().flat_map(rules::unsafe_code));
}

#[test]
fn files_and_functions_are_short() {
    expect_none(sources().iter().flat_map(rules::sizes));
}

#[test]
fn nothing_is_left_undone() {
    expect_none(sources().iter().flat_map(rules::left_undone));
}

#[test]
fn no_text_names_a_registry_or_a_place_on_someones_machine() {
    expect_none(texts().iter().flat_map(|(path, text)| rules::foreign_places(path, text)));
}
