//! Rules on single files.

use super::source::{Language, Source, words};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_COLUMNS: usize = 120;
/// How far above an `unsafe` its reason may stand.
const REASON_LINES: usize = 6;

/// Where `unsafe` may stand.
const UNSAFE_ROOMS: [&str; 8] = [
    "src/map.rs",
    "src/cpu/pool.rs",
    "src/cpu/simd/",
    "src/cuda/",
    "src/capi",
    "vendor/ggml-sys/",
    // The bench of the kernels has a rival in intrinsics, to show what their fixed order of sums costs.
    "benches/kernels.rs",
    // `GlobalAlloc` is an unsafe trait, and counting allocations needs it.
    "tests/support/alloc.rs",
];

/// `unsafe` outside its rooms, or without a reason.
///
/// A block or an impl has a comment with SAFETY in it, on its line or in the lines above. A function may have it
/// in its documentation, or, where a trait documents it, right below, at the block that passes the duty on. What
/// a program generated from a header promises nothing of its own.
pub fn unsafe_code(source: &Source) -> Vec<String> {
    let made = source.comments.starts_with("/* automatically generated");
    if source.language != Language::Rust || made {
        return Vec::new();
    }
    let allowed = UNSAFE_ROOMS.iter().any(|room| source.path.starts_with(room));
    let comments: Vec<&str> = source.comments.lines().collect();
    let mut found = Vec::new();
    for at in source.words("unsafe") {
        let line = source.line(at);
        let place = format!("{}:{line}", source.path);
        if !allowed {
            found.push(format!("{place}: no room for unsafe"));
        }
        let rest = source.code[at + "unsafe".len()..].trim_start();
        let function = rest.strip_prefix("extern").map_or(rest, |r| r.trim_start()).strip_prefix("fn");
        // The type of a pointer to a function, or a signature that the trait documents.
        let bodiless = || rest.find(['{', ';']).is_some_and(|end| rest[end..].starts_with(';'));
        if function.is_some_and(|rest| rest.trim_start().starts_with('(') || bodiless()) {
            continue;
        }
        let below = if function.is_some() { comments.len().min(line + 2) } else { line };
        let near = &comments[line.saturating_sub(REASON_LINES + 1)..below];
        if !near.iter().any(|c| c.contains("SAFETY") || c.contains("# Safety")) {
            found.push(format!("{place}: unsafe without a SAFETY comment"));
        }
    }
    found
}

/// Files, functions and lines that are too long.
pub fn sizes(source: &Source) -> Vec<String> {
    let path = &source.path;
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    if lines > MAX_FILE_LINES {
        found.push(format!("{path}: {lines} lines of at most {MAX_FILE_LINES}"));
    }
    for (line, text) in (1..).zip(source.text.lines()) {
        let columns = text.chars().count();
        if columns > MAX_COLUMNS {
            found.push(format!("{path}:{line}: {columns} columns of at most {MAX_COLUMNS}"));
        }
    }
    for f in source.functions().iter().filter(|f| f.lines > MAX_FUNCTION_LINES) {
        found.push(format!("{path}:{}: {} has {} lines of at most {MAX_FUNCTION_LINES}", f.line, f.name, f.lines));
    }
    found
}

/// Notes of work to be done, macros that stand for it, and tests that are skipped without a reason.
pub fn left_undone(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |at: usize, what: &str| found.push(format!("{}:{}: {what}", source.path, source.line(at)));
    for note in ["TODO", "FIXME", "XXX"] {
        words(&source.comments, note).for_each(|at| add(at, note));
        source.words(note).for_each(|at| add(at, note));
    }
    for name in ["unimplemented", "todo", "dbg"] {
        let calls = source.words(name).filter(|at| source.code[at + name.len()..].starts_with('!'));
        calls.for_each(|at| add(at, &format!("{name}!")));
    }
    for at in source.words("ignore") {
        let (before, after) = (source.code[..at].trim_end(), source.code[at + "ignore".len()..].trim_start());
        if before.ends_with("#[") && after.starts_with(']') {
            add(at, "an ignored test without a reason");
        }
    }
    found
}

/// Hosts of package registries, and absolute paths of one machine.
pub fn foreign_places(path: &str, text: &str) -> Vec<String> {
    // A lock file names its registry; this file would name all.
    if path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let hosts = ["crates.%", "pypi.%", "pythonhosted.%", "npmjs.%", "debian.%"];
    let ends = ["io", "org", "com"];
    let mut found = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        for host in hosts {
            let is_host = |end: &&&str| words(text, &host.replace('%', end)).next().is_some();
            if let Some(end) = ends.iter().find(is_host) {
                found.push(format!("{path}:{line}: the registry {}", host.replace('%', end)));
            }
        }
        for folder in ["work", "home", "root", "Users"] {
            let folder = format!("/{folder}/");
            let inside = |c: char| c.is_alphanumeric() || "._-~)}>*".contains(c);
            if text.match_indices(&folder).any(|(at, _)| !text[..at].ends_with(inside)) {
                found.push(format!("{path}:{line}: a path under {folder}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(path: &str, text: &str) -> Source {
        Source::new(path, text)
    }

    #[test]
    fn strings_comments_and_characters_are_not_code() {
        let text = r####"
            // unsafe {
            /* unsafe /* nested */ unsafe { */
            const A: &str = "unsafe { \" unsafe";
            const B: &[u8] = br##"unsafe "# { "##;
            const C: [char; 3] = ['{', '\'', '"'];
            fn f<'a>(x: &'a str) -> &'a str { 'l: loop { break 'l } x }
        "####;
        let source = rust("src/kv.rs", text);
        assert_eq!(source.words("unsafe").count(), 0);
        assert_eq!(source.code.matches('{').count(), source.code.matches('}').count());
        assert_eq!(source.functions().len(), 1);
        let cuda = Source::new("kernels/a.cu", "int f(int x) {\n  char c = '{'; int n = 1'000'000; /* { */\n}\n");
        assert_eq!(cuda.functions().iter().map(|f| f.lines).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn unsafe_outside_its_rooms_is_found() {
        let text = "// SAFETY: checked.\nfn f() { unsafe { g() } }";
        assert_eq!(unsafe_code(&rust("src/kv.rs", text)), ["src/kv.rs:2: no room for unsafe"]);
        assert_eq!(unsafe_code(&rust("src/map.rs", text)), [""; 0]);
    }

    #[test]
    fn unsafe_without_a_reason_is_found() {
        let far = format!("// SAFETY: checked.{}unsafe impl Send for T {{}}", "\n".repeat(7));
        let string = "const S: &str = \"SAFETY: none\"; fn f() { unsafe { g() } }";
        let bare = "macro_rules! m { () => { unsafe { g() } } }";
        let function = "unsafe fn f() {\n\n\n    // SAFETY: too late.\n}";
        for text in [&far, string, bare, function] {
            assert_eq!(unsafe_code(&rust("src/map.rs", text)).len(), 1, "{text}");
        }
        let documented = "/// # Safety\n/// Never.\npub unsafe fn f() {}";
        let passed_on = "unsafe fn f() {\n    // SAFETY: as the caller vouches.\n}";
        let pointer = "struct S { f: unsafe fn(u8) }";
        let signature = "trait T { unsafe fn f(p: *const u8) -> u8; }";
        let generated = "/* automatically generated by rust-bindgen */ unsafe extern \"C\" { fn f(); }";
        for text in [documented, passed_on, pointer, signature, generated] {
            assert_eq!(unsafe_code(&rust("src/map.rs", text)), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_is_too_long_is_found() {
        let body = |n: usize| format!("fn f(x: [u8; 2]) -> T where T: U {{{}}}\n", "\n".repeat(n));
        assert_eq!(sizes(&rust("a.rs", &body(69))), [""; 0]);
        assert_eq!(sizes(&rust("a.rs", &body(70))), ["a.rs:1: f has 71 lines of at most 70"]);
        let in_macro = format!("macro_rules! m {{ ($n:ident) => {{ {} }} }}", body(70).replace(" f(", " $n("));
        assert_eq!(sizes(&rust("a.rs", &in_macro)).len(), 1);
        let cuda = format!("__global__ void f(int n) {{{}}}\n", "\n".repeat(70));
        assert_eq!(sizes(&Source::new("a.cu", &cuda)).len(), 1);
        assert_eq!(sizes(&rust("a.rs", &"\n".repeat(501))), ["a.rs: 501 lines of at most 500"]);
        assert_eq!(sizes(&rust("a.rs", &"α".repeat(120))), [""; 0]);
        assert_eq!(sizes(&rust("a.rs", &"x".repeat(121))).len(), 1);
    }

    #[test]
    fn what_is_left_undone_is_found() {
        let note = ["TO", "DO"].concat();
        let skipped = ["#[ig", "nore]\nfn f() {}"].concat();
        for text in [&*format!("// {note}: later"), "fn f() { todo!() }", "fn f() { dbg!(1); }", &skipped] {
            assert_eq!(left_undone(&rust("a.rs", text)).len(), 1, "{text}");
        }
        for text in ["#[ignore = \"needs a model\"]", "fn todo() {}", "/// TODOS", "let s = \"todo!\";"] {
            assert_eq!(left_undone(&rust("a.rs", text)), [""; 0], "{text}");
        }
    }

    #[test]
    fn foreign_places_are_found() {
        let place = |folder: &str| format!("cat /{folder}/someone/file");
        let host = |name: &str, end: &str| format!("https://static.{name}.{end}/x");
        for text in [place("home"), place("root"), host("crates", "io"), host("npmjs", "org")] {
            assert_eq!(foreign_places("a.md", &text).len(), 1, "{text}");
        }
        for text in ["src/work/a", "~/home/", "${HOME}/root/x", "https://example.com/work/"] {
            assert_eq!(foreign_places("a.md", text), [""; 0], "{text}");
        }
        assert_eq!(foreign_places("Cargo.lock", &host("crates", "io")), [""; 0]);
    }
}
