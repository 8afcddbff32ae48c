//! What is given to systemd is taken by systemd: the unit, the group, the folders.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The unit's worst allowed score by `systemd-analyze security`: what is left is what it needs, each line of it explained
/// in the unit. Raise it only with a reason there.
const EXPOSURE: &str = "33";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(name).canonicalize().unwrap()
}

/// Whether `program` is here; says that `test` is skipped if it is not.
fn has(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !found {
        skip(test, &format!("{program} is not on this machine"));
    }
    found
}

fn skip(test: &str, why: &str) {
    let line = format!("SKIP xtask::systemd {test}: {why}\n");
    eprint!("{line}");
    if let Some(log) = std::env::var_os("FAILSAFE_SKIP_LOG") {
        OpenOptions::new().create(true).append(true).open(log).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Runs it; what it printed, when it succeeded.
fn run(command: &mut Command) -> Result<String, String> {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(text) } else { Err(text) }
}

/// The unit in a folder of its own, started from a program that exists here: where packages put failsafed is not on this
/// machine.
fn unit(folder: &Path) -> PathBuf {
    let text = fs::read_to_string(shipped("failsafed.service")).unwrap();
    let started = "ExecStart=/usr/bin/failsafed ";
    assert_eq!(text.matches(started).count(), 1);
    let unit = folder.join("failsafed.service");
    fs::write(&unit, text.replace("/usr/bin/failsafed ", "/bin/true ")).unwrap();
    unit
}

#[test]
fn unit_is_valid() {
    if !has("systemd-analyze", "unit_is_valid") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = unit(folder.path());
    let verify = || Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let out = verify();
    // A setting that it does not know is only a warning to systemd: here it is a mistake.
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && !said.contains("failsafed.service"), "{said}");
    // The check itself sees a mistake.
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(&unit, text.replace("KillMode=process", "KillMode=proces")).unwrap();
    assert!(String::from_utf8_lossy(&verify().stderr).contains("proces"));
}

#[test]
fn unit_is_as_tight_as_it_was_made() {
    if !has("systemd-analyze", "unit_is_as_tight_as_it_was_made") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = unit(folder.path());
    let security = |threshold: &str| {
        let threshold = format!("--threshold={threshold}");
        run(Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager", &threshold]).arg(&unit))
    };
    security(EXPOSURE).unwrap();
    assert!(security("10").is_err(), "the threshold is heeded");
    // What must stay open for the daemon to work at all.
    let text = fs::read_to_string(&unit).unwrap();
    for needed in
        ["ProtectControlGroups=no", "ReadWritePaths=-/sys/fs/bpf/failsafe", "KillMode=process", "WatchdogSec="]
    {
        assert!(text.lines().any(|line| line.starts_with(needed)), "{needed}");
    }
    // Seen on systemd 252: with it openat2 fails with ENOSYS, and no run can be started.
    assert!(!text.lines().any(|line| line.starts_with("RestrictSUIDSGID=")));
    assert!(!text.lines().any(|line| line.starts_with("CapabilityBoundingSet=") && line.contains("SYS_ADMIN")));
}

#[test]
fn group_and_folders_are_made() {
    let test = "group_and_folders_are_made";
    if !has("systemd-sysusers", test) || !has("systemd-tmpfiles", test) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        skip(test, "only root may give folders to a group");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let at = format!("--root={}", root.path().display());
    run(Command::new("systemd-sysusers").arg(&at).arg(shipped("sysusers.d/failsafe.conf"))).unwrap();
    let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
    assert!(groups.lines().any(|line| line.starts_with("failsafe:")), "{groups}");
    run(Command::new("systemd-tmpfiles").args(["--create", &at]).arg(shipped("tmpfiles.d/failsafe.conf"))).unwrap();
    for (folder, mode) in [("run/failsafe", 0o755), ("var/lib/failsafe", 0o750), ("sys/fs/bpf/failsafe", 0o700)] {
        let made = fs::metadata(root.path().join(folder)).unwrap();
        assert_eq!(made.permissions().mode() & 0o7777, mode, "{folder}");
    }
}

#[test]
fn default_configuration_is_good_and_documents_real_fields() {
    // target/PROFILE/deps/this-test: the daemon lies one folder up, once it was built.
    let here = std::env::current_exe().unwrap();
    let daemon = here.ancestors().nth(2).unwrap().join("failsafed");
    if !daemon.is_file() {
        skip(
            "default_configuration_is_good_and_documents_real_fields",
            "failsafed is not built; `cargo xtask test` does",
        );
        return;
    }
    let check = |file: &Path| run(Command::new(&daemon).arg("--config").arg(file).arg("--check"));
    let file = shipped("failsafed.toml");
    check(&file).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    // The files that it may name are shipped: they need not be installed for its fields to be tried.
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let roles = folder.path().join("roles.toml");
    fs::write(&roles, "[[identity]]\nsan = \"dns:scheduler.example.org\"\nrole = \"viewer\"\n").unwrap();
    let text = text.replace("/etc/failsafe/roles.toml", &roles.display().to_string());
    let text = text.replace("/etc/failsafe", &policies);
    let set: Vec<&str> =
        text.lines().map(|line| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line)).collect();
    let all = folder.path().join("all.toml");
    fs::write(&all, set.join("\n")).unwrap();
    check(&all).unwrap();
    fs::write(&all, set.join("\n").replace("ring_kib", "ring_kb")).unwrap();
    assert!(check(&all).is_err(), "an unknown field is refused");
}
