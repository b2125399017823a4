//! Runs every CUDA kernel on the CPU, against a scalar truth, in both orders of lanes: kernels/README.md says how.
//!
//! Needs a C++ compiler: `$CXX`, else `c++`, `g++` or `clang++`.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// The first C++ compiler that answers.
fn compiler() -> OsString {
    let named = std::env::var_os("CXX").into_iter();
    let usual = ["c++", "g++", "clang++"].into_iter().map(OsString::from);
    let answers = |c: &OsString| Command::new(c).arg("--version").output().is_ok_and(|o| o.status.success());
    named.chain(usual).find(answers).expect("no C++ compiler answers: install one or set CXX")
}

/// Builds the harness with the emulation into `folder` and returns its path.
fn build(folder: &Path) -> std::path::PathBuf {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let program = folder.join("harness");
    let output = Command::new(compiler())
        .args(["-x", "c++", "-std=c++17", "-O2", "-fno-strict-aliasing", "-ffp-contract=off", "-w", "-include"])
        .args([kernels.join("emulation/cuda_host.h"), kernels.join("harness/main.cu")])
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

fn check(program: &Path, reverse: bool) {
    let mut command = Command::new(program);
    command.arg("check").env_remove("CUDA_EMU_REV");
    if reverse {
        command.env("CUDA_EMU_REV", "1");
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "reverse {reverse}: {text}{}", String::from_utf8_lossy(&output.stderr));
    // A run that compared nothing would succeed too.
    let comparisons = text.split(" comparisons, 0 failures").next().and_then(|n| n.trim().parse::<u64>().ok());
    assert!(comparisons.is_some_and(|n| n > 100_000), "reverse {reverse}: {text}");
}

#[test]
fn kernels_meet_the_scalar_truth_in_both_lane_orders() {
    if !cfg!(target_arch = "x86_64") {
        println!("the emulation switches fibers with x86-64 instructions; skipped");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = build(folder.path());
    check(&program, false);
    check(&program, true);
}
