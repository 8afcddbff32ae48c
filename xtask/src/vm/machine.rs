//! One virtual machine, from its start to its end: what it says goes to this terminal line by line and to a file, and what it
//! brings back is on its third disk. A machine that does not end is killed, and the report says so.

use super::{Kernel, Report};
use crate::shell;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// For what comes back; the file is sparse.
const RESULTS_MIB: u64 = 256;

/// A machine, not yet started.
pub struct Machine {
    /// Which kernel.
    pub kernel: Kernel,
    /// The kernel's file.
    pub boot: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The root disk.
    pub image: PathBuf,
    /// The disk with the tests.
    pub payload: PathBuf,
    /// Where results are kept.
    pub folder: PathBuf,
    /// How long it may take, its start and all tests together.
    pub limit: Duration,
    /// Whether the root disk keeps what is written to it.
    pub keeps: bool,
    /// What systemd starts: words of the kernel's command line.
    pub starts: &'static str,
}

/// Only the tests, and what they need.
pub const TESTS_ONLY: &str = "systemd.unit=failsafe-vm.target";

impl Machine {
    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started, or its results cannot be read. Whatever goes wrong inside is in the report.
    pub fn run(&self) -> Result<Report> {
        let begin = Instant::now();
        let (results, problem) = self.to_its_end("nextest.txt")?;
        Report::read(self.kernel, &results, problem, begin.elapsed())
    }

    /// Runs it to its end; the folder of its results, where this file is expected, and what went wrong with the machine itself.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn to_its_end(&self, expected: &str) -> Result<(PathBuf, Option<String>)> {
        let _ = fs::remove_dir_all(&self.folder);
        let results = self.folder.join("results");
        fs::create_dir_all(&results).with_context(|| format!("making {}", results.display()))?;
        let disk = self.folder.join("results.tar");
        let made = File::create(&disk).and_then(|file| file.set_len(RESULTS_MIB << 20));
        made.with_context(|| format!("making {}", disk.display()))?;

        let (status, said) = watched(&mut self.qemu(&disk), self.kernel, &self.folder)?;
        let last = last(&said);
        let unpacked = shell::read(Command::new("tar").arg("-xf").arg(&disk).arg("-C").arg(&results));
        let _ = fs::remove_file(&disk);
        let problem = if was_killed(status) {
            Some(format!("did not end within {} s and was killed; it last said:\n{last}", self.limit.as_secs()))
        } else if unpacked.is_err() || !results.join(expected).is_file() {
            Some(format!("ended ({status}) without results; it last said:\n{last}"))
        } else {
            None
        };
        Ok((results, problem))
    }

    fn qemu(&self, results: &Path) -> Command {
        let mut command = kept("qemu-system-x86_64", self.limit);
        // Both processors in one thread: with one each, QEMU before 8.1 may run code it translated while the other processor
        // was changing it, and a kernel that switches its static keys then dies of a breakpoint that nobody set. The two
        // machines share the host's processors anyway.
        command.args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=single",
            "-cpu",
            "max,la57=off",
            "-smp",
            "2",
            "-m",
            "3072",
        ]);
        command
            .arg("-kernel")
            .arg(&self.boot)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", &format!("{KERNEL_LINE} {}", self.starts)]);
        for (disk, throw_away) in [(self.image.as_path(), !self.keeps), (&self.payload, true), (results, false)] {
            let snapshot = if throw_away { "on" } else { "off" };
            let path = disk.display();
            command.args(["-drive", &format!("file={path},format=raw,if=virtio,cache=unsafe,snapshot={snapshot}")]);
        }
        command
    }
}

/// A machine without devices that nobody asked for, its console on standard output. `timeout` stays its keeper even where xtask
/// itself is killed.
pub fn kept(qemu: &str, limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &limit.as_secs().to_string(), qemu]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command
}

/// Whether [`kept`] killed it.
pub fn was_killed(status: ExitStatus) -> bool {
    matches!(status.code(), Some(124 | 137))
}

/// Runs it to its end; passes the console on, keeps it as `console.log` in the folder, and returns it.
///
/// # Errors
/// It cannot be started or listened to.
pub fn watched(command: &mut Command, kernel: Kernel, folder: &Path) -> Result<(ExitStatus, Vec<String>)> {
    let shown = shell::shown(command);
    eprintln!("$ {shown}");
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("starting `{shown}`"))?;
    let console = child.stdout.take().context("the machine's console")?;
    let mut log = File::create(folder.join("console.log")).context("making the console's log")?;
    let mut said = Vec::new();
    for line in BufReader::new(console).split(b'\n') {
        let line = line.context("reading the machine's console")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        writeln!(log, "{line}").context("writing the console's log")?;
        println!("{:>5} | {line}", kernel.name());
        said.push(line.to_owned());
    }
    Ok((child.wait().context("waiting for the machine")?, said))
}

/// The last lines of a console.
pub fn last(said: &[String]) -> String {
    said[said.len().saturating_sub(30)..].join("\n")
}

/// The LSMs that Debian boots with, and BPF's; pressure figures; no mitigations, which only cost time here.
const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 lsm=landlock,lockdown,yama,apparmor,bpf psi=1 mitigations=off no_timer_check \
                           systemd.show_status=false systemd.log_color=false";
