//! The floor: a cgroup with programs that do nothing at the hooks that failsafe takes, loaded and attached by bpftool.

use super::beside::Cgroup;
use crate::shell;
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const SOURCE: &str = include_str!("floor.bpf.c");
/// Each program's name, and what bpftool calls its hook.
const HOOKS: [(&str, &str); 10] = [
    ("inet4_connect", "cgroup_inet4_connect"),
    ("inet6_connect", "cgroup_inet6_connect"),
    ("udp4_sendmsg", "cgroup_udp4_sendmsg"),
    ("udp6_sendmsg", "cgroup_udp6_sendmsg"),
    ("inet4_bind", "cgroup_inet4_bind"),
    ("inet6_bind", "cgroup_inet6_bind"),
    ("inet_sock_create", "cgroup_inet_sock_create"),
    ("inet_egress", "cgroup_inet_egress"),
    ("inet_ingress", "cgroup_inet_ingress"),
    ("sock_ops", "cgroup_sock_ops"),
];

fn bpftool() -> Command {
    Command::new(shell::which("bpftool").unwrap_or_else(|| "bpftool".into()))
}

/// The programs, pinned; the cgroup's own end takes them off it.
pub struct Floor {
    /// Where they are attached.
    pub cgroup: Cgroup,
    pins: PathBuf,
}

impl Floor {
    /// Compiles, loads and attaches them; `folder` takes the object.
    ///
    /// # Errors
    /// clang or bpftool is missing, or the kernel says no.
    pub fn start(folder: &Path) -> Result<Floor> {
        let (source, object) = (folder.join("floor.bpf.c"), folder.join("floor.bpf.o"));
        fs::write(&source, SOURCE).context("writing the programs")?;
        let headers = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        shell::read(
            Command::new("clang")
                .args(["-O2", "-g", "-target", "bpf", &headers, "-c"])
                .arg(&source)
                .arg("-o")
                .arg(&object),
        )?;
        let pins = Path::new("/sys/fs/bpf").join(format!("failsafe-bench-floor-{}", std::process::id()));
        let floor = Floor { cgroup: Cgroup::create()?, pins };
        shell::read(bpftool().args(["prog", "loadall"]).args([&object, &floor.pins]))?;
        for (program, hook) in HOOKS {
            let (cgroup, program) = (floor.cgroup.path(), floor.pins.join(program));
            shell::read(
                bpftool().args(["cgroup", "attach"]).arg(cgroup).args([hook, "pinned"]).arg(program).arg("multi"),
            )?;
        }
        Ok(floor)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.pins).is_err() && self.pins.exists() {
            eprintln!("bench: {} could not be removed", self.pins.display());
        }
    }
}
