//! Leaves the tables for unwinding out of the profile `small` on Linux, whose program aborts instead.
//! They would be a seventh of it.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=small.ld");
    let is = |name, value| env::var(name).is_ok_and(|found| found == value);
    let is_linux = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    // Cargo names neither the profile nor its way to panic. Only `small` has this level.
    if is_linux && is("OPT_LEVEL", "z") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{folder}/small.ld");
    }
}
