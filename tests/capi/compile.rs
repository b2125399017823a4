//! Builds the libraries by cargo, as the header says, and C programs with the machine's compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Language {
    C,
    Cxx,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    Shared,
    Static,
}

/// How the program of `tests/c` is built.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    pub language: Language,
    pub link: Link,
    /// With the address sanitizer, its leak check, and the one for undefined behaviour.
    pub sanitize: bool,
}

const SANITIZE: [&str; 3] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"];
/// What the standard library of Rust wants of the system's.
const SYSTEM_LIBRARIES: [&str; 4] = ["-lpthread", "-ldl", "-lm", "-lgcc_s"];

/// The folder of the libraries, which are built when first asked for, in this program's own profile.
static LIBRARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let status = Command::new(env!("CARGO"))
        .args(["rustc", "--locked", "--lib", "--no-default-features", "--features", "capi"])
        .args(["--crate-type", "cdylib,staticlib", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "cargo did not build the libraries");
    target.join(if cfg!(debug_assertions) { "debug" } else { "release" })
});

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The machine's compiler, with every warning an error.
fn compiler(language: Language) -> Command {
    let (variable, usual, arguments) = match language {
        Language::C => ("CC", "cc", ["-x", "c", "-std=c11"]),
        Language::Cxx => ("CXX", "c++", ["-x", "c++", "-std=c++11"]),
    };
    let mut command = Command::new(std::env::var_os(variable).unwrap_or_else(|| usual.into()));
    command.args(arguments).args(["-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-I"]).arg(root("src"));
    command
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Compiles `source` without linking: what the compiler checks is all that is wanted.
pub fn accepts(language: Language, source: &Path) {
    let mut command = compiler(language);
    command.arg("-fsyntax-only").arg(source);
    run(command);
}

/// Whether the compiler has the sanitizers, and they run here; says so where not.
pub fn sanitizes() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("empty.c"), folder.path().join("empty"));
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let mut command = compiler(Language::C);
    let built = command.args(SANITIZE).arg(source).arg("-o").arg(&program).output();
    let runs =
        built.is_ok_and(|o| o.status.success()) && Command::new(program).output().is_ok_and(|o| o.status.success());
    if !runs {
        println!("the C compiler has no sanitizers that run here; skipped");
    }
    runs
}

/// Links what `command` compiles to `program`.
fn link(mut command: Command, how: Link, program: &Path) -> Command {
    let libraries = &*LIBRARIES;
    command.args(["-x", "none"]);
    match how {
        Link::Shared => command.arg("-L").arg(libraries).arg("-lcotvalve"),
        Link::Static => command.arg(libraries.join("libcotvalve.a")).args(SYSTEM_LIBRARIES),
    };
    command.arg("-lpthread").arg("-o").arg(program);
    run(command);
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", libraries).env("DYLD_LIBRARY_PATH", libraries);
    command
}

impl Program {
    /// Builds it in `folder`.
    pub fn build(self, folder: &Path) -> Command {
        let mut command = compiler(self.language);
        if self.sanitize {
            command.args(SANITIZE);
        }
        command.args(["main.c", "misuse.c", "threads.c"].map(|name| root("tests/c").join(name)));
        link(command, self.link, &folder.join("main"))
    }
}

/// Builds examples/answer.c in `folder`.
pub fn example(folder: &Path) -> Command {
    let mut command = compiler(Language::C);
    command.arg(root("examples/answer.c"));
    link(command, Link::Shared, &folder.join("answer"))
}
