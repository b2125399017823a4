//! The C++ compiler of this machine.

use std::ffi::OsString;
use std::process::Command;

/// The first that answers: `$CXX`, else the usual names.
pub fn compiler() -> Option<OsString> {
    let named = std::env::var_os("CXX").into_iter();
    let usual = ["c++", "g++", "clang++"].into_iter().map(OsString::from);
    let answers = |c: &OsString| Command::new(c).arg("--version").output().is_ok_and(|o| o.status.success());
    named.chain(usual).find(answers)
}
