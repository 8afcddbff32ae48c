//! clang for whoever compiles the programs: this crate's build script, and by path that of the test's object (`tests/parity`) and
//! who compiles them for another machine (a test of this crate, `cargo xtask vm`).
//!
//! Any clang from 14 on does; the object is CO-RE, so the kernel of the build machine does not matter. DWARF is
//! stripped where `llvm-strip` is at hand (BTF stays), which makes the object some ten times smaller.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

const REMEDY: &str = "install clang (apt-get install clang libbpf-dev) or run cargo xtask setup";

/// Compiles one source, which finds its headers in the folders `include`, to an object for kernels of `arch`, a Rust target's.
///
/// # Errors
/// In words: no clang, no headers of libbpf, a target that the programs are not written for, or what clang says.
pub fn compile(arch: &str, source: &Path, include: &[&Path], object: &Path) -> Result<(), String> {
    let arch = match arch {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => {
            return Err(format!("no eBPF programs for {other}: x86_64 and aarch64 only"));
        }
    };
    let clang = env::var_os("CLANG").unwrap_or_else(|| OsString::from("clang"));
    let mut cmd = Command::new(&clang);
    cmd.args(["-target", "bpf", "-O2", "-g", "-mcpu=v3", "-Wall", "-Werror"]).arg(format!("-D__TARGET_ARCH_{arch}"));
    for folder in include {
        cmd.arg("-I").arg(folder);
    }
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
