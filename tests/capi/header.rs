//! The header, which is written by hand, against the Rust side: functions, structures, numbers.

use super::compile::{Language, accepts};
use cotvalve::capi::{ChatMessage, Draw, Options, Status};
use std::fmt::Write;
use std::mem::offset_of;
use std::path::Path;

const HEADER: &str = include_str!("../../src/capi.h");
const RUST: &str = include_str!("../../src/capi/mod.rs");

/// Rust's names of types, and C's.
const TYPES: [(&str, &str); 18] = [
    ("*const c_char", "const char *"),
    ("*mut *const c_char", "const char **"),
    ("*mut *mut OpenEngine", "valve_engine **"),
    ("*mut *mut OpenSession", "valve_session **"),
    ("*mut OpenEngine", "valve_engine *"),
    ("*mut OpenSession", "valve_session *"),
    ("*const Options", "const valve_options *"),
    ("*mut Options", "valve_options *"),
    ("*const Draw", "const valve_sampling *"),
    ("*mut Draw", "valve_sampling *"),
    ("*const ChatMessage", "const valve_message *"),
    ("*const u32", "const uint32_t *"),
    ("*mut u32", "uint32_t *"),
    ("*mut f32", "float *"),
    ("*mut usize", "size_t *"),
    ("usize", "size_t"),
    ("f32", "float"),
    ("u32", "uint32_t"),
];

fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The header without comments and what is for the preprocessor, on one line.
fn declarations() -> String {
    let mut text = String::new();
    for part in HEADER.split("/*").enumerate() {
        text += match part {
            (0, code) => code,
            (_, rest) => rest.split_once("*/").unwrap().1,
        };
    }
    spaced(&text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join(" "))
}

/// The functions of the header, as C writes them, sorted.
fn functions_of_c() -> Vec<String> {
    let text = declarations();
    let statements = text.split(';').map(spaced);
    let is_function = |s: &String| s.contains("valve_") && s.ends_with(')') && !s.starts_with("typedef");
    // The opening of `extern "C"` stands before the first.
    let mut found: Vec<String> =
        statements.filter(is_function).map(|s| s.trim_start_matches("extern \"C\" { ").into()).collect();
    found.sort();
    found
}

/// One parameter or result, in C's words.
fn in_c(rust: &str, name: &str) -> String {
    let special = match (rust, name) {
        ("*mut i32", "status") => Some("valve_status *"),
        ("i32", "parse_special") => Some("int32_t"),
        ("Status", "") => Some("valve_status"),
        _ => None,
    };
    let c = special.or_else(|| TYPES.iter().find(|(r, _)| *r == rust).map(|(_, c)| *c));
    let c = c.unwrap_or_else(|| panic!("{rust} {name} has no C type in this test"));
    if c.ends_with('*') || name.is_empty() { format!("{c}{name}") } else { format!("{c} {name}") }
}

/// The functions of the Rust side, in C's words, sorted.
fn functions_of_rust() -> Vec<String> {
    let mut found = Vec::new();
    for part in RUST.split("extern \"C\" fn ").skip(1) {
        let (name, rest) = part.split_once('(').unwrap();
        let (parameters, rest) = rest.split_once(')').unwrap();
        let result = rest.split_once("-> ").unwrap().1.split_once(" {").unwrap().0;
        let parameters = spaced(parameters);
        let parameters: Vec<String> = parameters
            .split(", ")
            .filter_map(|p| p.trim_end_matches(',').split_once(": "))
            .map(|(name, ty)| in_c(ty, name))
            .collect();
        let parameters = if parameters.is_empty() { "void".into() } else { parameters.join(", ") };
        let result = in_c(result, "");
        let space = if result.ends_with('*') { "" } else { " " };
        found.push(format!("{result}{space}{name}({parameters})"));
    }
    found.sort();
    found
}

#[test]
fn functions_are_the_same_on_both_sides() {
    let (c, rust) = (functions_of_c(), functions_of_rust());
    assert!(c.len() >= 18, "{c:?}");
    assert_eq!(c, rust);
    assert_eq!(RUST.matches("#[unsafe(no_mangle)]").count(), c.len(), "every function is exported");
    // The two that hand out a text have nothing that could fail.
    assert_eq!(RUST.matches("guard(||").count(), c.len() - 2, "a function runs without the guard");
}

/// One assertion a field: where Rust has it, and how large.
macro_rules! layout {
    ($out:expr, $rust:ty, $c:literal, [$($field:ident),*]) => {
        $(
            let size = field_size(|s: &$rust| &raw const s.$field);
            writeln!($out, "SAME(offsetof({}, {}), {});", $c, stringify!($field), offset_of!($rust, $field)).unwrap();
            writeln!($out, "SAME(sizeof((({} *)0)->{}), {size});", $c, stringify!($field)).unwrap();
        )*
        writeln!($out, "SAME(sizeof({}), {});", $c, size_of::<$rust>()).unwrap();
        let fields = [$(stringify!($field)),*];
        assert_eq!(fields_of($c), fields, "{}", $c);
    };
}

fn field_size<S, F>(_: impl Fn(&S) -> *const F) -> usize {
    size_of::<F>()
}

/// The names of a structure's fields in the header.
fn fields_of(structure: &str) -> Vec<String> {
    let text = declarations();
    let body = text.split_once(&format!("typedef struct {structure} {{")).unwrap().1.split_once('}').unwrap().0;
    let name = |field: &str| field.rsplit([' ', '*']).next().unwrap().to_owned();
    body.split(';').map(str::trim).filter(|field| !field.is_empty()).map(name).collect()
}

#[test]
fn structures_and_numbers_are_the_same_on_both_sides() {
    let mut source =
        String::from("#include \"capi.h\"\n#ifdef __cplusplus\n#define SAME(a, b) static_assert((a) == (b), #a)\n");
    source += "#else\n#define SAME(a, b) _Static_assert((a) == (b), #a)\n#endif\n";
    layout!(
        source,
        Options,
        "valve_options",
        [size, threads, context, sessions, batch, kv_type, precision, progress, user]
    );
    layout!(
        source,
        Draw,
        "valve_sampling",
        [
            size,
            seed,
            temperature,
            top_k,
            top_p,
            min_p,
            typical_p,
            top_n_sigma,
            repeat_penalty,
            repeat_last_n,
            frequency_penalty,
            presence_penalty,
            stop,
            stop_count,
            json_schema
        ]
    );
    layout!(source, ChatMessage, "valve_message", [role, content]);
    writeln!(source, "SAME(sizeof(valve_status), {});", size_of::<Status>()).unwrap();
    for status in Status::ALL {
        // ContextFull is VALVE_ERROR_CONTEXT_FULL.
        let mut name = String::from(if status == Status::Ok { "VALVE" } else { "VALVE_ERROR" });
        for letter in format!("{status:?}").chars() {
            name.extend(letter.is_uppercase().then_some('_'));
            name.extend(letter.to_uppercase());
        }
        writeln!(source, "SAME({name}, {});", status as i32).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layout.c");
    std::fs::write(&path, source).unwrap();
    accepts(Language::C, Path::new(&path));
    accepts(Language::Cxx, Path::new(&path));
}
