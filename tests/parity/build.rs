//! Compiles `src/parity.bpf.c`, which takes in the sources of the daemon's own object.

#[path = "../../ebpf/clang.rs"]
mod clang;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("parity: {e}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let ebpf = Path::new("../../ebpf");
    let (include, sources) = (ebpf.join("include"), ebpf.join("src"));
    for folder in [&include, &sources, &PathBuf::from("src")] {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    println!("cargo:rerun-if-changed={}", ebpf.join("clang.rs").display());
    println!("cargo:rerun-if-env-changed=CLANG");
    let var = |name| env::var(name).map_err(|e| format!("{name}: {e}"));
    let object = PathBuf::from(var("OUT_DIR")?).join("parity.bpf.o");
    clang::compile(&var("CARGO_CFG_TARGET_ARCH")?, Path::new("src/parity.bpf.c"), &[&include, &sources], &object)
}
