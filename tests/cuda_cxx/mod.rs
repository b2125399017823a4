//! Compiles the CUDA kernels for the CPU: kernels/README.md says how that works.

use crate::support::cxx;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether the emulation runs here; says so where it does not.
pub fn emulates() -> bool {
    let here = cfg!(all(target_arch = "x86_64", target_os = "linux"));
    if !here {
        println!("the CUDA emulation needs x86-64 Linux; skipped");
    }
    here
}

/// Compiles `source` of kernels/ with the emulation before it to `out`.
pub fn compile(source: &str, out: &Path, flags: &[&str]) -> PathBuf {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let output = Command::new(cxx::compiler().expect("no C++ compiler answers: install one or set CXX"))
        .args(["-x", "c++", "-std=c++17", "-O2", "-fno-strict-aliasing", "-ffp-contract=off", "-w"])
        .args(flags)
        .arg("-include")
        .args([kernels.join("emulation/cuda_host.h"), kernels.join(source)])
        .arg("-o")
        .arg(out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out.into()
}
