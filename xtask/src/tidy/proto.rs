//! The gRPC interface: `buf lint`, and `buf breaking` against the interface of the last release (`proto/baseline.binpb`).

use super::Findings;
use crate::shell;
use anyhow::Result;
use std::{path::PathBuf, process::Command};

/// The npm package that brings the program, and the version that the rules are of.
const PACKAGE: &str = "@bufbuild/buf";
const VERSION: &str = "1.75.0";

/// Runs both checks; without buf and npm neither runs, which is printed.
pub fn check(findings: &mut Findings) -> Result<()> {
    let Some(buf) = buf() else {
        println!("tidy: buf lint and buf breaking were NOT run: buf is not on this machine, and npm did not bring it");
        return Ok(());
    };
    for arguments in [&["lint", "proto"][..], &["breaking", "proto", "--against", "proto/baseline.binpb"]] {
        let out = Command::new(&buf).args(arguments).current_dir(shell::root()).output()?;
        let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let lines = said.lines().map(str::to_owned);
        findings.wrong.extend(lines);
        if !out.status.success() && said.is_empty() {
            findings.wrong.push(format!("buf {}: {}", arguments.join(" "), out.status));
        }
    }
    Ok(())
}

/// The program: of this machine, or brought by npm into the target folder.
fn buf() -> Option<PathBuf> {
    if let Some(found) = shell::which("buf") {
        return Some(found);
    }
    let folder = shell::built(false).with_file_name("xtask").join(format!("buf-{VERSION}"));
    let program = folder.join("node_modules/.bin/buf");
    if program.exists() {
        return Some(program);
    }
    let npm = shell::which("npm")?;
    let mut install = Command::new(npm);
    install.args(["install", "--silent", "--no-save", "--no-audit", "--no-fund", "--prefix"]);
    match shell::run(install.arg(&folder).arg(format!("{PACKAGE}@{VERSION}"))) {
        Ok(()) => Some(program),
        Err(error) => {
            println!("tidy: {error:#}");
            None
        }
    }
}
