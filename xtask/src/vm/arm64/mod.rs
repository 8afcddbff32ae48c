//! A machine with an arm64 kernel, which loads every program of the eBPF object and attaches it. No test program runs there, as
//! there is no compiler for any: `probe.py` asks the kernel, by libbpf, out of an initramfs that is all its root.

#[path = "../../../../ebpf/clang.rs"]
mod clang;

use super::table::{Column, Program};
use super::{Kernel, Report, machine};
use crate::setup::Package;
use crate::shell;
use anyhow::{Context, Result, anyhow};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What it takes beside the other machines' tools.
pub const TOOLS: [Package; 1] = [Package {
    name: "qemu-system-arm",
    what_for: "the virtual machine with an arm64 kernel",
    present: || shell::which("qemu-system-aarch64").is_some(),
}];

const INIT: &str = include_str!("init.sh");
const PROBE: &str = include_str!("probe.py");
const PACKAGES: &str = "busybox-static,python3-minimal,libpython3.11-stdlib,libbpf1,libffi8";
/// The one test, by the name under which it is told when it cannot run.
const TEST: &str = "every_program_is_loaded_and_attached";
const KERNEL_LINE: &str = "console=ttyAMA0 quiet panic=-1 lsm=landlock,lockdown,yama,apparmor,bpf mitigations=off";

/// A machine, not yet started.
pub struct Machine {
    root: PathBuf,
    folder: PathBuf,
    limit: Duration,
}

impl Machine {
    /// Fetches its root, where it is not yet there; `Err` says why it cannot be had.
    ///
    /// # Errors
    /// Debian's packages for arm64 cannot be had.
    pub fn make(cache: &Path, limit: Duration) -> Result<Machine> {
        // Of the same version as the other machine's, whose packages apt knows here.
        let release = Kernel::V6_12Arm64.release()?.replace("amd64", "arm64");
        let root = cache.join("kernels").join(&release);
        if !root.is_dir() {
            let unfinished = root.with_extension("unfinished");
            let _ = fs::remove_dir_all(&unfinished);
            fs::create_dir_all(cache.join("kernels")).context("making a folder for kernels")?;
            let mut command = Command::new("mmdebstrap");
            command.args(["--quiet", "--architectures=arm64", "--variant=extract"]);
            command.arg(format!("--include=linux-image-{release},{PACKAGES}")).arg(super::image::SUITE);
            shell::run(command.arg(&unfinished))?;
            fs::rename(&unfinished, &root).with_context(|| format!("moving the root to {}", root.display()))?;
        }
        Ok(Machine { root, folder: cache.join(Kernel::V6_12Arm64.name()), limit })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be made or started. Whatever goes wrong inside is in the report.
    pub fn run(&self) -> Result<Report> {
        let begin = Instant::now();
        let _ = fs::remove_dir_all(&self.folder);
        fs::create_dir_all(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        let initramfs = self.initramfs()?;
        let boot = shell::read(Command::new("find").arg(self.root.join("boot")).args(["-name", "vmlinuz-*"]))?;
        let boot = boot.lines().next().context("the package has no kernel")?;
        let mut command = machine::kept("qemu-system-aarch64", self.limit);
        // A processor without pointer authentication, which takes longer to emulate than all else.
        command.args(["-machine", "virt", "-accel", "tcg,thread=single", "-cpu", "cortex-a72", "-m", "1536"]);
        command.arg("-kernel").arg(boot).arg("-initrd").arg(&initramfs).args(["-append", KERNEL_LINE]);
        let (status, said) = machine::watched(&mut command, Kernel::V6_12Arm64, &self.folder)?;
        fs::remove_file(&initramfs).with_context(|| format!("removing {}", initramfs.display()))?;
        let found = found(&said).and_then(|column| match machine::was_killed(status) {
            true => Err(anyhow!("did not end within {} s and was killed", self.limit.as_secs())),
            false => Ok(column),
        });
        let found = found.map_err(|why| format!("{why:#}; it last said:\n{}", machine::last(&said)));
        Ok(Report::of_probe(Kernel::V6_12Arm64, found, begin.elapsed()))
    }

    fn initramfs(&self) -> Result<PathBuf> {
        let work = tempfile::tempdir_in(&self.folder).context("making a folder for the initramfs")?;
        let here = |name: &str| work.path().join(name);
        for folder in ["proc", "sys", "dev"] {
            fs::create_dir(here(folder)).context("making the initramfs")?;
        }
        let script =
            "tar -C \"$1\" -c --exclude=./usr/share --exclude='./*/modules' bin lib usr etc | tar -x -C \"$2\"";
        shell::run(Command::new("sh").args(["-c", script, "sh"]).arg(&self.root).arg(work.path()))?;
        fs::write(here("probe.py"), PROBE).and_then(|()| fs::write(here("init"), INIT)).context("the initramfs")?;
        fs::set_permissions(here("init"), fs::Permissions::from_mode(0o755)).context("the initramfs")?;
        let ebpf = shell::root().join("ebpf");
        let (source, include) = (ebpf.join("src/failsafe.bpf.c"), ebpf.join("include"));
        clang::compile("aarch64", &source, &[&include], &here("failsafe.bpf.o")).map_err(|why| anyhow!(why))?;
        let initramfs = self.folder.join("initramfs");
        let script = "cd \"$1\" && find . | cpio -o -H newc --quiet > \"$2\"";
        shell::run(Command::new("sh").args(["-c", script, "sh"]).arg(work.path()).arg(&initramfs))?;
        Ok(initramfs)
    }
}

/// A report that says why there is no machine.
pub fn missing(why: &anyhow::Error) -> Report {
    Report::skipped(Kernel::V6_12Arm64, TEST, format!("{why:#}"))
}

/// What `probe.py` said. A call that is watched by its own function must be loaded where the kernel has that function; of the
/// other programs the table says what is expected.
fn found(said: &[String]) -> Result<Column> {
    let after = |word: &'static str| said.iter().filter_map(move |line| line.strip_prefix(word));
    let release = after("RELEASE ").next().context("it did not come as far as its first line")?.to_owned();
    let programs = Program::all(after("PROBE "))?;
    anyhow::ensure!(!programs.is_empty(), "probe.py named no program");
    let lost: Vec<&str> =
        programs.iter().filter(|p| p.watches_a_call() && p.was_refused()).map(Program::name).collect();
    anyhow::ensure!(lost.is_empty(), "refused: {}", lost.join(", "));
    Ok(Column { release, programs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(state: &str) -> Vec<String> {
        let line = format!(r#"PROBE {{"name":"fs_sys_bpf","hook":"fentry/__arm64_sys_bpf","state":"{state}"}}"#);
        ["libbpf: something", "RELEASE 6.12.1-arm64", &line].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_watched_call_that_is_refused_is_a_fault_and_one_the_kernel_lacks_is_none() {
        assert_eq!(found(&said("loaded")).unwrap().programs.len(), 1);
        assert_eq!(found(&said("unused")).unwrap().release, "6.12.1-arm64");
        assert_eq!(found(&said("refused")).unwrap_err().to_string(), "refused: fs_sys_bpf");
    }

    #[test]
    fn a_machine_without_output_is_a_fault() {
        assert!(found(&said("loaded")[..2]).unwrap_err().to_string().contains("no program"));
        assert!(found(&[]).unwrap_err().to_string().contains("first line"));
    }
}
