//! Compiles `src/*.bpf.c` to eBPF objects with clang.

mod clang;

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
    let out = PathBuf::from(clang::var("OUT_DIR")?);
    clang::compile(Path::new("src/failsafe.bpf.c"), &[Path::new("include")], &out.join("failsafe.bpf.o"))
}
