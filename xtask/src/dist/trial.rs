//! The package in a Debian 12 root: installed, used, installed again, removed, purged. The root has no running systemd.

use super::generated::SHELLS;
use crate::{shell, vm};
use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

const CONFIG: &str = "/etc/failsafe/failsafed.toml";
/// There is no BPF file system in the root.
const DROP_IN: (&str, &str) = ("/etc/failsafe/failsafed.d/50-trial.toml", "bpffs = \"\"\n");

/// Tries the package.
///
/// # Errors
/// A step went wrong; the error names it.
pub fn run(package: &Path) -> Result<()> {
    if !geteuid().is_root() {
        bail!("only root can install the package into a root of its own; run `sudo cargo xtask dist --try`");
    }
    let work = tempfile::tempdir().context("making a folder for the root")?;
    let root = Root(work.path().join("root"));
    fs::create_dir(&root.0).context("making a folder for the root")?;
    shell::run(Command::new("tar").arg("-xf").arg(vm::debian()?).arg("-C").arg(&root.0))?;
    fs::copy(package, root.0.join("failsafe.deb")).context("copying the package into the root")?;

    let step = |name: &str| println!("trial: {name}");
    step("install");
    root.dpkg(&["--install", "/failsafe.deb"])?;
    root.files()?;
    step("use");
    root.programs()?;
    step("install again over a changed configuration");
    let changed = root.text(CONFIG)? + "sample_interval_ms = 2000\n";
    fs::write(root.at(CONFIG), &changed)?;
    root.dpkg(&["--force-confdef", "--force-confold", "--install", "/failsafe.deb"])?;
    ensure!(root.text(CONFIG)? == changed, "the second installation changed {CONFIG}");
    step("remove");
    root.dpkg(&["--remove", "failsafe"])?;
    ensure!(!root.at("/usr/bin/failsafed").exists(), "failsafed is still there after the removal");
    for kept in [CONFIG, "/var/lib/failsafe", DROP_IN.0] {
        ensure!(root.at(kept).exists(), "the removal took {kept}");
    }
    step("purge");
    root.dpkg(&["--purge", "failsafe"])?;
    for gone in [CONFIG, "/var/lib/failsafe", "/run/failsafe", "/sys/fs/bpf/failsafe", "/usr/share/failsafe"] {
        ensure!(!root.at(gone).exists(), "{gone} is still there after the purge");
    }
    ensure!(root.at(DROP_IN.0).exists(), "the purge took a file of the administrator's");
    Ok(())
}

/// A Debian root.
struct Root(PathBuf);

impl Root {
    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.at(path)).with_context(|| format!("reading {path} in the root"))
    }

    fn command(&self, program: &str) -> Command {
        // systemd-tmpfiles needs /proc. Its mount ends with the command.
        let mut command = Command::new("unshare");
        let proc = format!("--mount-proc={}", self.at("/proc").display());
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", &proc, "chroot"])
            .arg(&self.0)
            .arg(program)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    fn dpkg(&self, args: &[&str]) -> Result<()> {
        shell::run(self.command("dpkg").args(args))
    }

    /// What dpkg and the unit say of files is true.
    fn files(&self) -> Result<()> {
        let verified = shell::read(self.command("dpkg").args(["--verify", "failsafe"]))?;
        ensure!(verified.is_empty(), "files differ from the package: {verified}");
        for path in shell::read(self.command("dpkg").args(["--listfiles", "failsafe"]))?.lines() {
            let found = fs::symlink_metadata(self.at(path)).with_context(|| format!("{path} was not installed"))?;
            let mode = found.permissions().mode() & 0o7777;
            let expected = if found.is_dir() || super::is_executable(path) { 0o755 } else { 0o644 };
            ensure!(mode == expected, "{path} has mode {mode:o}, expected {expected:o}");
            ensure!((found.uid(), found.gid()) == (0, 0), "{path} does not belong to root");
        }
        for (path, mode) in [("/var/lib/failsafe", 0o750), ("/run/failsafe", 0o755)] {
            let found = fs::metadata(self.at(path)).with_context(|| format!("{path} was not made"))?.permissions();
            ensure!(found.mode() & 0o7777 == mode, "{path} has mode {:o}, expected {mode:o}", found.mode() & 0o7777);
        }
        ensure!(
            self.text("/etc/group")?.lines().any(|line| line.starts_with("failsafe:")),
            "there is no group failsafe"
        );
        for path in executed(&self.text("/usr/lib/systemd/system/failsafed.service")?) {
            ensure!(self.at(path).is_file(), "the unit starts {path}, which is not installed");
        }
        let enabled = self.at("/etc/systemd/system/multi-user.target.wants/failsafed.service");
        ensure!(fs::symlink_metadata(enabled).is_ok(), "the service is not enabled");
        for path in executed(&self.text("/usr/lib/systemd/system/failsafe-gateway.service")?) {
            ensure!(self.at(path).is_file(), "the unit of the gateway starts {path}, which is not installed");
        }
        let gateway = self.at("/etc/systemd/system/multi-user.target.wants/failsafe-gateway.service");
        ensure!(fs::symlink_metadata(gateway).is_err(), "the gateway is enabled: it must be off by default");
        ensure!(
            self.text("/etc/passwd")?.lines().any(|line| line.starts_with("failsafe-gateway:")),
            "there is no user failsafe-gateway"
        );
        for page in ["man8/failsafed.8", "man8/failsafe-gateway.8", "man1/failsafectl.1", "man1/failsafectl-freeze.1"] {
            let path = format!("/usr/share/man/{page}");
            ensure!(self.at(&path).exists() || self.at(&format!("{path}.gz")).exists(), "there is no {path}");
        }
        let folders = ["bash-completion/completions", "zsh/vendor-completions", "fish/vendor_completions.d"];
        for ((_, file), folder) in SHELLS.into_iter().zip(folders) {
            for program in super::programs::NAMES {
                let path = format!("/usr/share/{folder}/{}", file(program));
                ensure!(self.at(&path).is_file(), "there is no {path}");
            }
        }
        Ok(())
    }

    /// The programs start, and take what is shipped for them.
    fn programs(&self) -> Result<()> {
        for program in super::programs::NAMES {
            let version = shell::read(self.command(program).arg("--version"))?;
            let expected = format!("{program} {}", env!("CARGO_PKG_VERSION"));
            ensure!(version.trim() == expected, "`{program} --version` prints `{}`", version.trim());
        }
        fs::write(self.at(DROP_IN.0), DROP_IN.1).context("writing a drop-in")?;
        shell::run(self.command("failsafed").args(["--config", CONFIG, "--check"]))?;
        shell::run(self.command("failsafe-gateway").arg("--check"))?;
        fs::write(self.at(DROP_IN.0), "ring_kb = 1\n").context("writing a drop-in")?;
        ensure!(
            shell::read(self.command("failsafed").args(["--config", CONFIG, "--check"])).is_err(),
            "a mistake passes"
        );
        fs::write(self.at(DROP_IN.0), DROP_IN.1).context("writing a drop-in")?;
        for policy in ["exfiltration", "lockdown", "trainer-baseline"] {
            let file = format!("/usr/share/failsafe/policies/{policy}.toml");
            shell::read(self.command("failsafectl").args(["policy", "check", &file]))?;
        }
        let python =
            "import sys, glob; sys.path[:0] = glob.glob('/usr/share/failsafe/python/*.whl'); import failsafe_metrics";
        shell::read(self.command("python3").args(["-c", python])).map(|_| ())
    }
}

/// The programs that a unit starts.
fn executed(unit: &str) -> impl Iterator<Item = &str> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix("Exec")?.split_once('='));
    lines.filter_map(|(_, words)| words.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_a_unit_are_found_in_every_exec_line() {
        let unit =
            "[Service]\n# ExecStart=/no\nExecStart=/usr/bin/a --b\nExecReload=/bin/kill -HUP $MAINPID\nUser=root\n";
        assert_eq!(executed(unit).collect::<Vec<_>>(), ["/usr/bin/a", "/bin/kill"]);
    }
}
