//! What building and testing needs of the machine: looked for first, installed or mounted only where missing, and said.

use crate::shell;
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;
use std::path::Path;
use std::process::Command;

/// A package of Debian's.
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// Why it is wanted.
    pub what_for: &'static str,
    /// Whether what it brings is there.
    pub present: fn() -> bool,
}

const PACKAGES: [Package; 5] = [
    Package { name: "clang", what_for: "compiles the eBPF programs", present: || shell::which("clang").is_some() },
    Package {
        name: "libbpf-dev",
        what_for: "headers of the eBPF programs",
        present: || Path::new("/usr/include/bpf/bpf_helpers.h").is_file(),
    },
    Package { name: "build-essential", what_for: "links Rust programs", present: || shell::which("cc").is_some() },
    Package {
        name: "rsync",
        what_for: "one of the ordinary jobs (tests/ordinary)",
        present: || shell::which("rsync").is_some(),
    },
    Package {
        name: "openssh-client",
        what_for: "one of the ordinary jobs (tests/ordinary)",
        present: || shell::which("ssh").is_some(),
    },
];

/// What `bench overhead` measures beside. Nothing else needs them.
const COMPARISONS: [Package; 3] = [
    Package {
        name: "bpftrace",
        what_for: "the same watch in bpftrace, to measure beside",
        present: || shell::which("bpftrace").is_some(),
    },
    Package {
        name: "bpftool",
        what_for: "programs that do nothing, to measure what the kernel itself costs",
        present: || shell::which("bpftool").is_some(),
    },
    Package {
        name: "auditd",
        what_for: "the same watch as audit rules, to measure beside; its service starts where services do",
        present: || shell::which("auditctl").is_some() && shell::which("auditd").is_some(),
    },
];

/// What counts the instructions of the engine.
const COUNTING: [Package; 1] = [Package {
    name: "valgrind",
    what_for: "callgrind counts the instructions for one evaluation of a rule",
    present: || shell::which("valgrind").is_some(),
}];

/// What checks the metrics, the alert rules, the dashboard and the notifications. Without it these tests are skipped, and say so.
const MONITORING: [Package; 2] = [
    Package {
        name: "prometheus",
        what_for: "promtool checks the metrics and the alert rules; its service starts where services do",
        present: || shell::which("promtool").is_some(),
    },
    Package {
        name: "prometheus-alertmanager",
        what_for: "notifications are sent to it; its service starts where services do",
        present: || shell::which("prometheus-alertmanager").is_some(),
    },
];

/// Slurm, of which jobs are put under a policy. Without it that test is skipped, and says so.
const SCHEDULERS: [Package; 4] = [
    Package { name: "munge", what_for: "authenticates Slurm's daemons", present: || shell::which("munged").is_some() },
    Package { name: "slurmctld", what_for: "Slurm's controller", present: || shell::which("slurmctld").is_some() },
    Package { name: "slurmd", what_for: "runs Slurm's jobs", present: || shell::which("slurmd").is_some() },
    Package { name: "slurm-client", what_for: "submits jobs", present: || shell::which("sbatch").is_some() },
];

/// Podman, of which containers are put under a policy, and what checks shell scripts. Without them these tests are skipped, and say so.
const CONTAINERS: [Package; 5] = [
    Package { name: "podman", what_for: "runs containers", present: || shell::which("podman").is_some() },
    Package { name: "crun", what_for: "makes Podman's containers", present: || shell::which("crun").is_some() },
    Package {
        name: "conmon",
        what_for: "looks after Podman's containers",
        present: || shell::which("conmon").is_some(),
    },
    Package {
        name: "busybox-static",
        what_for: "the programs of a container",
        present: || shell::which("busybox").is_some(),
    },
    Package {
        name: "shellcheck",
        what_for: "checks the scripts for Slurm and Kubernetes",
        present: || shell::which("shellcheck").is_some(),
    },
];

/// What the tests of TPM quotes need. Without it they are skipped, and say so.
const TPM: [Package; 3] = [
    Package { name: "swtpm", what_for: "a software TPM for tests", present: || shell::which("swtpm").is_some() },
    Package {
        name: "tpm2-tools",
        what_for: "tpm2_checkquote verifies quotes in tests",
        present: || shell::which("tpm2_checkquote").is_some(),
    },
    Package {
        name: "libtss2-tcti-swtpm0",
        what_for: "tpm2-tools reach the software TPM",
        present: || shell::which("tpm2_checkquote").is_some() && has_tcti(),
    },
];

/// Whether tpm2-tools can reach a software TPM.
fn has_tcti() -> bool {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    folders.iter().any(|folder| Path::new(folder).join("libtss2-tcti-swtpm.so.0").exists())
}

/// Where the BPF file system is expected.
const BPFFS: &str = "/sys/fs/bpf";

/// What to set up.
#[derive(clap::Args)]
pub struct Args {
    /// cargo-deny too, which only `.ci/run` needs
    #[arg(long)]
    deny: bool,
}

/// `cargo xtask setup`.
///
/// # Errors
/// As [`run`].
pub fn command(args: &Args) -> Result<()> {
    run()?;
    if args.deny {
        cargo_tool("cargo-deny", "checks licences, bans and sources")?;
    }
    Ok(())
}

/// What the tests of the simulated NVML are held against: NVIDIA's header, and clients that nobody wrote for it. Without
/// Python or its registry they are missing, and the tests that need them are skipped and say so.
pub fn nvml_references() {
    let target = shell::built(false).with_file_name("");
    let (header, clients) = (target.join("nvml-header"), target.join("nvml-clients"));
    let script = "set -e; d=$(mktemp -d); trap 'rm -rf \"$d\"' EXIT; \
        python3 -m pip download -q --no-deps -d \"$d\" nvidia-nvml-dev-cu12==12.9.79; \
        python3 -m zipfile -e \"$d\"/*.whl \"$d\"; mkdir -p \"$1\"; mv \"$d\"/nvidia/nvml_dev/include/nvml.h \"$1\"";
    if !header.join("nvml.h").is_file() {
        eprintln!("setup: fetching NVIDIA's nvml.h from PyPI, to hold the simulated NVML against it");
        attempt(Command::new("sh").args(["-c", script, "sh"]).arg(&header));
    }
    if !clients.join("bin/nvitop").is_file() {
        eprintln!("setup: making a virtual environment with nvidia-ml-py, nvitop and gpustat, which must run on it");
        let script = "python3 -m venv \"$1\" && \"$1\"/bin/python -m pip install -q nvidia-ml-py nvitop gpustat";
        attempt(Command::new("sh").args(["-c", script, "sh"]).arg(&clients));
    }
}

/// What the manifests for Kubernetes are held against. Without Python or its registry that test is skipped, and says so.
pub fn kubernetes() {
    let folder = shell::built(false).with_file_name("").join("kubernetes-validate");
    if !folder.join("bin/kubernetes-validate").is_file() {
        eprintln!(
            "setup: making a virtual environment with kubernetes-validate, which checks the manifests for Kubernetes"
        );
        let script = "python3 -m venv \"$1\" && \"$1\"/bin/python -m pip install -q kubernetes-validate==1.37.0";
        attempt(Command::new("sh").args(["-c", script, "sh"]).arg(&folder));
    }
}

/// What checks the types of the Python client. Without Python or its registry that test is skipped, and says so.
pub fn mypy() {
    let folder = shell::built(false).with_file_name("").join("mypy");
    if !folder.join("bin/mypy").is_file() {
        eprintln!("setup: making a virtual environment with mypy, which checks the types of the Python client");
        let script = "python3 -m venv \"$1\" && \"$1\"/bin/python -m pip install -q mypy";
        attempt(Command::new("sh").args(["-c", script, "sh"]).arg(&folder));
    }
}

fn attempt(command: &mut Command) {
    if let Err(error) = shell::run(command) {
        eprintln!("setup: that failed ({error:#}): the tests that need it are skipped, and say so");
    }
}

/// What the overhead of failsafe is measured beside. Where it cannot be had, the bench says so in its conditions.
pub fn comparisons() {
    if let Err(error) = packages(&COMPARISONS) {
        eprintln!("setup: {error:#}: it is not measured beside, and the bench says so");
    }
}

/// What the tests of TPM quotes need.
pub fn tpm() {
    if let Err(error) = packages(&TPM) {
        eprintln!("setup: {error:#}: the tests that need it are skipped, and say so");
    }
}

/// What checks what is served to Prometheus.
pub fn monitoring() {
    if let Err(error) = packages(&MONITORING) {
        eprintln!("setup: {error:#}: the tests that need it are skipped, and say so");
    }
}

/// What counts instructions. Without it they are not counted, and the skip is listed.
pub fn counting() {
    if let Err(error) = packages(&COUNTING) {
        eprintln!("setup: {error:#}: the instructions for one evaluation are not counted");
    }
}

/// Schedulers. Their services have no configuration and do not start, except munge.
pub fn schedulers() {
    if let Err(error) = packages(&SCHEDULERS) {
        eprintln!("setup: {error:#}: the tests that need it are skipped, and say so");
    }
}

/// Containers. Podman's service is not started by its installation.
pub fn containers() {
    if let Err(error) = packages(&CONTAINERS) {
        eprintln!("setup: {error:#}: the tests that need it are skipped, and say so");
    }
}

/// Installs and mounts what is missing.
///
/// # Errors
/// Something is missing and cannot be had here: the error says what to do.
pub fn run() -> Result<()> {
    packages(&PACKAGES)?;
    cargo_tool("cargo-nextest", "runs the tests")?;
    bpffs()?;
    if shell::which("bpftool").is_none() {
        eprintln!(
            "setup: bpftool is not here; nothing needs it, but it shows what is loaded (apt-get install bpftool)"
        );
    }
    eprintln!("setup: ready");
    Ok(())
}

/// Installs those that are missing.
///
/// # Errors
/// They cannot be had here: the error says what to do.
pub fn packages(packages: &[Package]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|package| !(package.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    for Package { name, what_for, .. } in &missing {
        eprintln!("setup: {name} is missing ({what_for})");
    }
    let install = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if shell::which("apt-get").is_none() {
        bail!("install {} with this system's package manager, then run again", names.join(", "));
    }
    if !geteuid().is_root() {
        bail!("run `sudo {install}`, then run again");
    }
    eprintln!("setup: installing {}", names.join(", "));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let fetch =
        |command: &mut Command| shell::run(command.args(["install", "-y", "--no-install-recommends"]).args(&names));
    // Lists that are there may be fresh enough; fetching them costs seconds.
    if fetch(&mut apt()).is_err() {
        shell::run(apt().arg("update"))?;
        fetch(&mut apt())?;
    }
    match missing.iter().find(|package| !(package.present)()) {
        Some(Package { name, what_for, .. }) => bail!("{name} ({what_for}) is still not found after its installation"),
        None => Ok(()),
    }
}

/// Builds a cargo command from crates.io where it is missing.
///
/// # Errors
/// The build fails.
pub fn cargo_tool(name: &str, what_for: &str) -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin").join(name));
    if shell::which(name).is_some() || home.is_some_and(|file| file.is_file()) {
        return Ok(());
    }
    eprintln!("setup: {name} is missing ({what_for}); building it from crates.io, which takes minutes");
    shell::run(shell::cargo().args(["install", "--locked", name]))
}

fn bpffs() -> Result<()> {
    let mounts = procfs::mounts().context("reading the mounts")?;
    if !mounts.iter().any(|mount| mount.fs_vfstype == "cgroup2") {
        eprintln!("setup: no cgroup2 is mounted: tests that need it will be skipped, and say so");
    }
    if mounts.iter().any(|mount| mount.fs_vfstype == "bpf" && mount.fs_file == BPFFS) {
        return Ok(());
    }
    if !geteuid().is_root() {
        eprintln!(
            "setup: {BPFFS} is not mounted and this is not root: tests that pin programs will be skipped, and say so"
        );
        return Ok(());
    }
    eprintln!("setup: mounting the BPF file system on {BPFFS}");
    let mounted = std::fs::create_dir_all(BPFFS)
        .and_then(|()| mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(Into::into));
    if let Err(error) = mounted {
        eprintln!("setup: mounting {BPFFS} failed ({error}): tests that pin programs will be skipped, and say so");
    }
    Ok(())
}
