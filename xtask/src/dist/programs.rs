//! The programs that are shipped. A release is linked by zig, which has the symbols of every glibc: so it runs on systems that
//! are older than this one. The debug build is this machine's own.

use super::glibc;
use crate::shell;
use anyhow::{Context, Result};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The programs.
pub const NAMES: [&str; 3] = ["failsafed", "failsafectl", "failsafe-gateway"];
/// From PyPI. cargo-zigbuild calls zig as the linker.
const ZIG: [&str; 2] = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"];
/// The name of a file with debug symbols is taken from the build id, which zig does not make by default.
const BUILD_ID: &str = "-C link-arg=-Wl,--build-id=sha1";

/// Built programs.
pub struct Programs {
    /// They are the debug build.
    pub debug: bool,
    /// A target folder of their own: they lie in `release` there.
    pub stage: PathBuf,
}

impl Programs {
    /// Builds them.
    ///
    /// # Errors
    /// The build failed, or zig cannot be had.
    pub fn build(debug: bool) -> Result<Programs> {
        let packages = NAMES.iter().flat_map(|name| ["-p", name]);
        if debug {
            shell::run(shell::cargo().args(["build", "--locked"]).args(packages))?;
            return Programs::staged(debug, &shell::built(false));
        }
        let (major, minor) = glibc::OLDEST;
        let mut command = shell::cargo();
        command.args(["zigbuild", "--locked", "--release", "--target", &format!("{}.{major}.{minor}", target())]);
        command.args(packages).env("PATH", with_zig()?).env("RUSTFLAGS", BUILD_ID);
        shell::run(&mut command)?;
        Programs::staged(debug, &shell::built(false).with_file_name(target()).join("release"))
    }

    fn staged(debug: bool, built: &Path) -> Result<Programs> {
        let stage = shell::built(false).with_file_name("xtask").join("dist");
        if stage.exists() {
            fs::remove_dir_all(&stage).with_context(|| format!("emptying {}", stage.display()))?;
        }
        let programs = Programs { debug, stage };
        fs::create_dir_all(programs.folder()).with_context(|| format!("making {}", programs.folder().display()))?;
        for name in NAMES {
            let (from, to) = (built.join(name), programs.path(name));
            fs::copy(&from, &to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        }
        Ok(programs)
    }

    /// The folder that they lie in.
    pub fn folder(&self) -> PathBuf {
        self.stage.join("release")
    }

    /// One of [`NAMES`].
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

/// Rust's name of this machine's kind.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// PATH with cargo-zigbuild and zig in front, in a virtual environment of their own.
fn with_zig() -> Result<OsString> {
    let venv = shell::built(false).with_file_name("xtask").join("zig");
    let done = venv.join(format!("{}.done", ZIG.join("+")));
    if !done.is_file() {
        eprintln!("dist: installing {} from PyPI into {}", ZIG.join(" and "), venv.display());
        shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        shell::run(Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "-q"]).args(ZIG))?;
        fs::write(&done, "")?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(std::iter::once(venv.join("bin")).chain(std::env::split_paths(&path)))?)
}
