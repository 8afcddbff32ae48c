//! `cargo xtask vm`: the kernel-facing tests on Debian's own kernels, in virtual machines: what the host's kernel lacks (LSM,
//! fentry, kprobes, unified cgroup v2, systemd as PID 1) is there.
//!
//! ```text
//!  kernel  (Debian package, unpacked) ──┐
//!  image   (mmdebstrap, modules, unit) ─┼─► machine (QEMU) ─► console, and a tar on its third disk ─► report
//!  payload (test binaries, sources) ────┘
//! ```
//! Kernels and root images are kept under `target/xtask/vm`, by version; nothing is installed but the tools of [`TOOLS`].
//! A machine never writes to an image: its writes go to a file that QEMU drops.

mod arm64;
mod image;
mod install;
mod kernel;
mod machine;
mod payload;
mod report;
mod table;

use crate::setup::{self, Package};
use crate::shell;
use crate::test::tally::Tally;
use anyhow::{Context, Result, bail};
pub use kernel::Kernel;
use nix::unistd::geteuid;
use payload::Payload;
pub use report::Report;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use table::settle;

/// Which kernels and tests.
#[derive(clap::Args)]
pub struct Args {
    /// One kernel only; without it all, at once
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// Write the table of docs/kernel-support.md from what all the kernels took, instead of only comparing; without TESTS,
    /// one test alone is run
    #[arg(long, conflicts_with = "kernel")]
    table: bool,
    /// Minutes that a machine may take, its start and all tests together
    #[arg(long, default_value_t = LIMIT_MIN, value_name = "MINUTES")]
    limit: u64,
    /// Install the Debian package in a machine instead: contain a run, upgrade, reload, reboot, remove, purge
    #[arg(long, conflicts_with_all = ["kernel", "table", "tests"])]
    install: bool,
    /// Arguments for `nextest run` in place of the usual tests, e.g. `-- egress`, `-- -p bypass` or `-- -E 'binary(ebpf_kernel)'`
    #[arg(last = true)]
    tests: Vec<String>,
}

/// Minutes, see [`Args`].
const LIMIT_MIN: u64 = 30;

/// The tests that are run: those whose result depends on what only these kernels grant. The emulated processor is some twenty
/// times slower than the host's: what the host's kernel shows as well is left to it, and of the bypass suite there is the
/// subject that LSM decides most of. `-- TESTS` runs any others.
const TESTS: &str = "(package(failsafed) & binary(ebpf_kernel) & test(/^rules::|^files::|^network::|^calls::|every_program|watched_calls|exec_has|a_denied_destination|^early::a_denied_file/) - \
                     test(/budget|a_rate_drops|a_device_is|^outlive|an_answer_over_tcp|what_is_reported_once/)) | \
                     (package(failsafed) & binary(/^cgroup/)) | binary_id(failsafe-ebpf::layout) | binary_id(integration::systemd) | \
                     (package(bypass) & test(files_that_may))";

/// Its result is what the table says.
const PROBE_TEST: &str = "binary(ebpf_kernel) & test(every_program_is_accounted_for)";

const MMDEBSTRAP: Package =
    Package { name: "mmdebstrap", what_for: "makes a Debian root", present: || shell::which("mmdebstrap").is_some() };

const TOOLS: [Package; 7] = [
    Package {
        name: "qemu-system-x86",
        what_for: "the virtual machine",
        present: || shell::which("qemu-system-x86_64").is_some(),
    },
    MMDEBSTRAP,
    Package { name: "e2fsprogs", what_for: "makes its disks", present: || shell::which("mkfs.ext4").is_some() },
    Package { name: "busybox-static", what_for: "its first steps", present: || shell::which("busybox").is_some() },
    Package { name: "cpio", what_for: "packs its initramfs", present: || shell::which("cpio").is_some() },
    Package { name: "xz-utils", what_for: "unpacks kernel modules", present: || shell::which("xz").is_some() },
    Package { name: "kmod", what_for: "indexes kernel modules", present: || shell::which("depmod").is_some() },
];

/// `cargo xtask vm`.
///
/// # Errors
/// Set-up failed, or a test did.
pub fn command(args: &Args) -> Result<()> {
    setup::run()?;
    if args.install {
        return install::run(Duration::from_secs(args.limit * 60));
    }
    shell::run(shell::cargo().args(["build", "--workspace", "--locked"]))?;
    let kernels = args.kernel.map_or_else(|| Kernel::ALL.to_vec(), |kernel| vec![kernel]);
    let tests = match (args.tests.as_slice(), args.table) {
        ([], true) => ["-E", PROBE_TEST].map(str::to_owned).to_vec(),
        ([], false) => usual(),
        (tests, _) => tests.to_vec(),
    };
    let reports = run(&kernels, &tests, Duration::from_secs(args.limit * 60))?;
    reports.iter().for_each(Report::show);
    let settled = settle(&reports, args.table);
    let tally = reports.iter().fold(Tally::default(), |sum, report| sum + report.tally);
    println!("\n{tally}");
    if tally.failed > 0 {
        bail!("{} test(s) failed", tally.failed);
    }
    settled
}

/// Chooses the usual tests.
fn usual() -> Vec<String> {
    ["-E", TESTS].map(str::to_owned).to_vec()
}

/// Why no machine can be had here, if so.
pub fn impossible() -> Option<String> {
    if !geteuid().is_root() {
        return Some("the machine's disks are made as root".to_owned());
    }
    if !cfg!(target_arch = "x86_64") {
        return Some("the test programs are not for x86_64, which the machine is".to_owned());
    }
    shell::which("apt-get")
        .is_none()
        .then(|| "kernels and root come from Debian's packages, and this has no apt".to_owned())
}

/// Boots the usual kernels with the usual tests.
///
/// # Errors
/// As [`run`].
pub fn run_usual() -> Result<Vec<Report>> {
    run(&Kernel::ALL, &usual(), Duration::from_secs(LIMIT_MIN * 60))
}

/// Boots the kernels, all at once, and runs the tests in each. The workspace must have been built.
///
/// # Errors
/// A machine cannot be made. One that ends badly is a report with a failure.
fn run(kernels: &[Kernel], tests: &[String], limit: Duration) -> Result<Vec<Report>> {
    if let Some(why) = impossible() {
        bail!("{why}");
    }
    setup::packages(&TOOLS)?;
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let tested: Vec<Kernel> = kernels.iter().copied().filter(|kernel| kernel.runs_tests()).collect();
    let machines = if tested.is_empty() {
        Vec::new()
    } else {
        let payload = Payload::make(&folder, tests)?;
        tested.iter().map(|kernel| machine(*kernel, &payload, &folder, limit)).collect::<Result<Vec<_>>>()?
    };
    let asked = kernels.iter().any(|kernel| !kernel.runs_tests());
    let asked = asked.then(|| setup::packages(&arm64::TOOLS).and_then(|()| arm64::Machine::make(&folder, limit)));
    std::thread::scope(|scope| {
        let mut running: Vec<_> = machines.iter().map(|machine| scope.spawn(|| machine.run())).collect();
        if let Some(asked) = &asked {
            running
                .push(scope.spawn(|| asked.as_ref().map_or_else(|why| Ok(arm64::missing(why)), arm64::Machine::run)));
        }
        running.into_iter().map(|run| run.join().unwrap_or_else(|_| bail!("a machine's thread ended"))).collect()
    })
}

fn machine(kernel: Kernel, payload: &Payload, folder: &Path, limit: Duration) -> Result<machine::Machine> {
    let unpacked = kernel.unpacked(folder)?;
    let image = image::root(&unpacked, folder)?;
    let initramfs = image::initramfs(&unpacked)?;
    Ok(machine::Machine {
        kernel,
        image,
        initramfs,
        boot: unpacked.boot()?,
        payload: payload.disk.clone(),
        folder: folder.join(kernel.name()),
        limit,
        keeps: false,
        starts: machine::TESTS_ONLY,
    })
}

/// A minimal Debian 12 with systemd, as a tar.
///
/// # Errors
/// It cannot be made.
pub fn debian() -> Result<PathBuf> {
    setup::packages(&[MMDEBSTRAP])?;
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    image::debian(&folder)
}

/// Where everything of the machines lies.
fn folder() -> PathBuf {
    shell::built(false).with_file_name("xtask").join("vm")
}
