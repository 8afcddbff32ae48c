//! Compiles `src/*.bpf.c` to eBPF objects with clang.
//!
//! Any clang from 14 on does; the object is CO-RE, so the kernel of the build machine does not matter. DWARF is
//! stripped where `llvm-strip` is at hand (BTF stays), which makes the object some ten times smaller.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const REMEDY: &str = "install clang (apt-get install clang libbpf-dev) or run cargo xtask setup";

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
    let out = PathBuf::from(var("OUT_DIR")?);
    let arch = match var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => {
            return Err(format!("no eBPF programs for {other}: x86_64 and aarch64 only"));
        }
    };
    let clang = env::var_os("CLANG").unwrap_or_else(|| OsString::from("clang"));
    compile(&clang, arch, Path::new("src/failsafe.bpf.c"), &out.join("failsafe.bpf.o"))
}

fn compile(clang: &OsString, arch: &str, source: &Path, object: &Path) -> Result<(), String> {
    let mut cmd = Command::new(clang);
    cmd.args(["-target", "bpf", "-O2", "-g", "-mcpu=v3", "-Wall", "-Werror"])
        .arg(format!("-D__TARGET_ARCH_{arch}"))
        .args(["-I", "include"]);
    // linux/types.h wants asm/types.h, which Debian keeps under the host's triplet; its content is the same for all.
    for triplet in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        let dir = Path::new("/usr/include").join(triplet);
        if dir.is_dir() {
            cmd.arg("-idirafter").arg(dir);
        }
    }
    cmd.arg("-c").arg(source).arg("-o").arg(object);
    let out = cmd.output().map_err(|e| format!("cannot run {}: {e}; {REMEDY}", clang.display()))?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        let hint = if stderr.contains("bpf/bpf_helpers.h") || stderr.contains("target 'bpf'") {
            format!("; {REMEDY}")
        } else {
            String::new()
        };
        return Err(format!("{} on {}: {}{hint}\n{stderr}", clang.display(), source.display(), out.status));
    }
    strip(object);
    Ok(())
}

/// Best effort: an unstripped object works as well.
fn strip(object: &Path) {
    for tool in ["llvm-strip", "llvm-strip-14", "llvm-strip-16", "llvm-strip-19"] {
        if Command::new(tool).arg("-g").arg(object).status().is_ok_and(|s| s.success()) {
            return;
        }
    }
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}
