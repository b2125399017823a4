//! Which room may use which: `crate::`, `cotvalve::` and `super::` paths point down.

use super::source::{Source, closing, words};

/// Rooms by level; a room may use those of its own level and below.
///
/// `tokenizer` and `chat` hold the state of no sequence: they turn text into ids and messages into text, and know
/// no model. So they stand with the formats, and a model file may have a tokenizer and a template.
const LEVELS: [&[&str]; 7] = [
    &["error", "map", "rng"],
    &["gguf", "quant", "tensor", "tokenizer", "chat"],
    &["backend", "cpu", "cuda"],
    &["model", "valve"],
    &["kv", "sampler"],
    &["engine", "train", "eval"],
    &["main", "cli", "server", "capi"],
];

/// Pairs of one level where the first must not use the second.
const APART: [(&str, &str); 9] = [
    ("backend", "cpu"),
    ("backend", "cuda"),
    ("cpu", "cuda"),
    ("cuda", "cpu"),
    ("train", "engine"),
    ("engine", "train"),
    ("train", "eval"),
    ("engine", "eval"),
    ("capi", "server"),
];

/// The level of a room.
fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// The module path of a file in `src`, without its inline modules.
fn module(path: &str) -> Vec<&str> {
    let path = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop_if(|last| *last == "mod");
    parts
}

/// What in a file of `src` points up.
pub fn check(source: &Source) -> Vec<String> {
    let module = module(&source.path);
    // The root names every room.
    if module == ["lib"] {
        return Vec::new();
    }
    let own = module[0];
    let Some(from) = level(own) else {
        return vec![format!("{}: the room {own} has no level in tests/tidy/layers.rs", source.path)];
    };
    let mut found = Vec::new();
    for (at, room) in uses(source, &module) {
        let place = format!("{}:{}", source.path, source.line(at));
        match level(&room) {
            None => found.push(format!("{place}: {room} is no room with a level")),
            Some(to) if to > from => found.push(format!("{place}: {own} (level {from}) uses {room} (level {to})")),
            Some(to) if APART.contains(&(own, &*room)) => {
                found.push(format!("{place}: {own} (level {from}) uses its neighbour {room} (level {to})"));
            }
            Some(_) => {}
        }
    }
    found
}

/// The rooms that paths of a file name, and where.
fn uses(source: &Source, module: &[&str]) -> Vec<(usize, String)> {
    let code = &source.code;
    let mut found = Vec::new();
    for root in ["crate", "cotvalve"] {
        for at in words(code, root) {
            if let Some(rest) = code[at + root.len()..].trim_start().strip_prefix("::") {
                found.extend(first_names(rest).into_iter().map(|room| (at, room)));
            }
        }
    }
    for at in words(code, "super") {
        // The first of a chain counts the chain.
        if code[..at].trim_end().ends_with("super::") {
            continue;
        }
        let (mut rest, mut steps) = (&code[at..], 0);
        while let Some(next) = rest.trim_start().strip_prefix("super").map(str::trim_start) {
            let Some(next) = next.strip_prefix("::") else { break };
            (rest, steps) = (next, steps + 1);
        }
        if steps == module.len() + inline_depth(code, at) {
            // A file that is mounted by `#[path]` stands deeper than its place says: what is no room is its parent's.
            let rooms = first_names(rest).into_iter().filter(|room| level(room).is_some());
            found.extend(rooms.map(|room| (at, room)));
        }
    }
    found
}

/// The names that a path goes on with: one, or those of a group.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let rest = rest.trim_start();
    if !rest.starts_with('{') {
        return vec![name(rest)];
    }
    let group = &rest[1..closing(rest.as_bytes(), 0)];
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (i, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&group[start..i]));
                start = i + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// How many inline modules are open at `at`.
fn inline_depth(code: &str, at: usize) -> usize {
    let opened = words(&code[..at], "mod").filter(|start| {
        let open = code[*start..].find(['{', ';']).map_or(code.len(), |i| start + i);
        code.as_bytes().get(open) == Some(&b'{') && (open..closing(code.as_bytes(), open)).contains(&at)
    });
    opened.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text))
    }

    #[test]
    fn arrows_up_are_found_however_they_are_written() {
        let up = "src/gguf/read.rs:1: gguf (level 1) uses engine (level 5)";
        for text in [
            "use crate::engine::Engine;",
            "use crate::{error::{Error, Result}, engine};",
            "fn f() { crate :: engine::run(); }",
            "use super::super::engine::Engine;",
            "mod inner { use super::super::super::engine::Engine; }",
            "macro_rules! m { () => { $crate::engine::run() } }",
        ] {
            assert_eq!(complaints("src/gguf/read.rs", text), [up], "{text}");
        }
        assert_eq!(complaints("src/kv.rs", "\nuse super::engine;").len(), 1);
    }

    #[test]
    fn arrows_down_and_inside_are_allowed() {
        for text in [
            "use crate::{error::Error, map::Bytes};\nuse super::read::Reader;\npub(crate) fn f() {}",
            "// use crate::engine::Engine;\nconst S: &str = \"crate::engine\";",
            "mod inner { use super::super::engine::Engine; }",
            "use crate::gguf::write::Writer;",
        ] {
            assert_eq!(complaints("src/gguf/read.rs", text), [""; 0], "{text}");
        }
        assert_eq!(complaints("src/lib.rs", "pub mod engine;\npub use crate::engine::Engine;"), [""; 0]);
    }

    #[test]
    fn neighbours_stay_apart_and_every_room_has_a_level() {
        let found = complaints("src/cpu/mod.rs", "use crate::cuda::Cuda;");
        assert_eq!(found, ["src/cpu/mod.rs:1: cpu (level 2) uses its neighbour cuda (level 2)"]);
        assert!(complaints("src/attic.rs", "")[0].contains("attic has no level"));
        assert!(complaints("src/kv.rs", "use crate::attic::Old;")[0].contains("attic is no room"));
    }
}
