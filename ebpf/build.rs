//! Compiles `src/*.bpf.c` to eBPF objects with clang.

mod clang;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("failsafe-ebpf: {e}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=include");
    println!("cargo:rerun-if-env-changed=CLANG");
    let var = |name| env::var(name).map_err(|e| format!("{name}: {e}"));
    let object = PathBuf::from(var("OUT_DIR")?).join("failsafe.bpf.o");
    let arch = var("CARGO_CFG_TARGET_ARCH")?;
    clang::compile(&arch, Path::new("src/failsafe.bpf.c"), &[Path::new("include")], &object)
}
