//! Compiles ggml's quantization from the sources in cargo's registry.
//!
//! Only the scalar code is built, without contraction of `a * b + c`, for any CPU: as an oracle it must give the same
//! bits everywhere.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The registry package that carries ggml, pinned in Cargo.toml.
const PACKAGE: &str = "llama-cpp-sys-2-0.1.161";
const VERSION: &str = "0.26.0";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let ggml = sources();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let version = format!("#define GGML_VERSION \"{VERSION}\"\n#define GGML_COMMIT \"{PACKAGE}\"\n");
    fs::write(out.join("ggml-version.h"), version).expect("OUT_DIR is writable");

    let src = ggml.join("src");
    let paths = |names: &[&str]| names.iter().map(|n| src.join(n)).collect::<Vec<_>>();
    let c = ["ggml.c", "ggml-alloc.c", "ggml-quants.c", "ggml-cpu/quants.c"];
    let cpp = ["ggml-backend.cpp", "ggml-backend-meta.cpp", "ggml-threading.cpp"];
    let mut objects = compiler(&ggml, &out).std("c11").files(paths(&c)).compile_intermediates();
    objects.extend(compiler(&ggml, &out).cpp(true).std("c++17").files(paths(&cpp)).compile_intermediates());
    cc::Build::new().cpp(true).objects(objects).compile("ggml");

    #[cfg(feature = "bindgen")]
    bindings(&ggml);
}

fn sources() -> PathBuf {
    println!("cargo:rerun-if-env-changed=GGML_SRC_DIR");
    if let Some(dir) = env::var_os("GGML_SRC_DIR") {
        return dir.into();
    }
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let registries = cargo.and_then(|home| fs::read_dir(home.join("registry/src")).ok());
    let packages =
        registries.into_iter().flatten().flatten().map(|dir| dir.path().join(PACKAGE).join("llama.cpp/ggml"));
    let found = packages.into_iter().find(|dir| dir.join("src/ggml.c").is_file());
    found.unwrap_or_else(|| {
        panic!("{PACKAGE} is not unpacked: run `cargo fetch`, or set GGML_SRC_DIR to ggml's folder (include/, src/)")
    })
}

fn compiler(ggml: &Path, out: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build.include(out).include(ggml.join("include")).include(ggml.join("src")).include(ggml.join("src/ggml-cpu"));
    build.define("_GNU_SOURCE", None).define("NDEBUG", None).define("GGML_CPU_GENERIC", None);
    // The table this stands for would have to be filled before the first dot.
    build.define("GGML_CPU_FP16_TO_FP32(x)", "GGML_COMPUTE_FP16_TO_FP32(x)");
    build.opt_level(2).warnings(false).flag_if_supported("-ffp-contract=off");
    build
}

#[cfg(feature = "bindgen")]
fn bindings(ggml: &Path) {
    let functions = "ggml_(get_type_traits|quantize_chunk|quantize_requires_imatrix|version)\
                     |ggml_vec_dot_[a-zA-Z0-9_]+_q8_[01K]|quantize_row_q8_[01K]";
    bindgen::Builder::default()
        .header(ggml.join("src/ggml-cpu/quants.h").display().to_string())
        .clang_args(["include", "src"].map(|dir| format!("-I{}", ggml.join(dir).display())))
        .allowlist_function(functions)
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate_comments(false)
        .generate()
        .expect("ggml's headers parse")
        .write_to_file("src/bindings.rs")
        .expect("src is writable");
}
