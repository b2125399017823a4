//! Runs every CUDA kernel on the CPU, against a scalar truth, in both orders of lanes: kernels/README.md says how.

mod cuda_cxx;
mod support {
    pub mod cxx;
}

use std::path::Path;
use std::process::Command;

fn check(program: &Path, reverse: bool) {
    let mut command = Command::new(program);
    command.arg("small").env_remove("CUDA_EMU_REV");
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
    if !cuda_cxx::emulates() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = cuda_cxx::compile("harness/main.cu", &folder.path().join("harness"), &[]);
    check(&program, false);
    check(&program, true);
}
