//! How the one binary is linked.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=control/build.rs");
    // Nearly all of the binary's 93,000 relocations say only "add where the program was loaded". In the packed form (DT_RELR) they are 25 KB;
    // as records of 24 bytes they are 2.1 MiB, which each start reads and which then stay resident in an idle cluster.
    if libc_knows_packed_relocations() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether this machine's libc loads such a binary: glibc since 2.36. Elsewhere, and for another machine, the records stay as they are.
#[allow(clippy::disallowed_methods)] // the environment is cargo's way to name the target
fn libc_knows_packed_relocations() -> bool {
    let glibc = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux")
        && env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    if !glibc || env::var("HOST") != env::var("TARGET") {
        return false;
    }
    let Ok(output) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    let Some((major, minor)) = text.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.')) else {
        return false;
    };
    let number = |text: &str| text.split('.').next().and_then(|text| text.parse::<u32>().ok());
    number(major).zip(number(minor)).is_some_and(|version| version >= (2, 36))
}
