//! What is shipped and made of the sources: manual pages and completions, which the programs themselves write, and the Python
//! client's wheel. They lie in `dist` beside the staged programs, where the package takes them from.

use super::programs::Programs;
use crate::shell;
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The name of the file with the completion of a program.
type FileName = fn(&str) -> String;

/// The shells that completions are made for, with the name that each one looks for.
pub const SHELLS: [(&str, FileName); 3] = [
    ("bash", |program| program.to_owned()),
    ("zsh", |program| format!("_{program}")),
    ("fish", |program| format!("{program}.fish")),
];

/// Makes them all; the wheel.
///
/// # Errors
/// A program, Python or the file system refuses.
pub fn make(programs: &Programs) -> Result<PathBuf> {
    let folder = programs.folder().join("dist");
    let (daemon, client) = (programs.path("failsafed"), programs.path("failsafectl"));
    let gateway = programs.path("failsafe-gateway");
    let pages = below(&folder, "man1")?;
    shell::read(Command::new(&client).arg("man").arg(&pages))?;
    for (program, page) in [(&daemon, "failsafed.8"), (&gateway, "failsafe-gateway.8")] {
        write(&below(&folder, "man8")?.join(page), &shell::read(Command::new(program).arg("man"))?)?;
    }
    for (name, file) in SHELLS {
        let scripts = below(&folder, name)?;
        for program in [&daemon, &client, &gateway] {
            let called = program.file_name().unwrap_or_default().to_string_lossy();
            let script = shell::read(Command::new(program).args(["completion", name]))?;
            write(&scripts.join(file(&called)), &script)?;
        }
    }
    wheel(&below(&folder, "python")?)
}

/// The wheel of `clients/python`, from a copy: its build leaves files beside the sources.
fn wheel(to: &Path) -> Result<PathBuf> {
    let work = tempfile::tempdir().context("making a folder for the Python client")?;
    let copy = work.path().join("python");
    shell::run(Command::new("cp").arg("-r").arg(shell::root().join("clients/python")).arg(&copy))?;
    let mut pip = Command::new("python3");
    shell::run(pip.args(["-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir"]).arg(to).arg(&copy))?;
    let made = fs::read_dir(to)?.collect::<Result<Vec<_>, _>>()?;
    ensure!(made.len() == 1, "expected one wheel in {}, not {}", to.display(), made.len());
    Ok(made[0].path())
}

fn below(folder: &Path, name: &str) -> Result<PathBuf> {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

fn write(file: &Path, text: &str) -> Result<()> {
    ensure!(!text.trim().is_empty(), "{} would be empty", file.display());
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}
