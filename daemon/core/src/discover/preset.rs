//! Patterns of schedulers and container engines that are shipped.
//!
//! Each ends at a cgroup that has the processes of one job, step, container or unit and not those of its supervisor.

use super::pattern::Pattern;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A shipped list of patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Slurm with cgroup v2: the processes of a step.
    Slurm,
    /// Kubernetes, systemd and cgroupfs drivers: a container.
    Kubernetes,
    /// Docker: a container.
    Docker,
    /// Podman as root: a container.
    Podman,
    /// Transient units of the system manager that `systemd-run` named.
    SystemdRun,
    /// The slice of a user: all that runs in sessions of the user.
    UserSlices,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 6] =
        [Preset::Slurm, Preset::Kubernetes, Preset::Docker, Preset::Podman, Preset::SystemdRun, Preset::UserSlices];

    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Slurm => "slurm",
            Preset::Kubernetes => "kubernetes",
            Preset::Docker => "docker",
            Preset::Podman => "podman",
            Preset::SystemdRun => "systemd-run",
            Preset::UserSlices => "user-slices",
        }
    }

    /// Its patterns, in the order in which they are tried.
    pub fn texts(self) -> &'static [&'static str] {
        match self {
            // With several slurmd on a node, the scope begins with the name of the node. Slurm 26.05 has an SLUID for `job_J`.
            Preset::Slurm => &[
                "system.slice/slurmstepd.scope/job_{job:number}/step_{step}/user",
                "system.slice/{node}_slurmstepd.scope/job_{job:number}/step_{step}/user",
                "system.slice/slurmstepd.scope/{job}/step_{step}/user",
                "system.slice/{node}_slurmstepd.scope/{job}/step_{step}/user",
            ],
            // The runtime is named: `crio-conmon-ID.scope` is a supervisor's.
            Preset::Kubernetes => &[
                "kubepods.slice/kubepods-pod{pod:uuid}.slice/cri-containerd-{container:id}.scope",
                "kubepods.slice/kubepods-pod{pod:uuid}.slice/crio-{container:id}.scope",
                "kubepods.slice/kubepods-pod{pod:uuid}.slice/docker-{container:id}.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod:uuid}.slice/cri-containerd-{container:id}.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod:uuid}.slice/crio-{container:id}.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod:uuid}.slice/docker-{container:id}.scope",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{pod:uuid}.slice/cri-containerd-{container:id}.scope",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{pod:uuid}.slice/crio-{container:id}.scope",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{pod:uuid}.slice/docker-{container:id}.scope",
                "kubepods/pod{pod:uuid}/{container:id}",
                "kubepods/pod{pod:uuid}/crio-{container:id}",
                "kubepods/burstable/pod{pod:uuid}/{container:id}",
                "kubepods/burstable/pod{pod:uuid}/crio-{container:id}",
                "kubepods/besteffort/pod{pod:uuid}/{container:id}",
                "kubepods/besteffort/pod{pod:uuid}/crio-{container:id}",
            ],
            Preset::Docker => &["system.slice/docker-{container:id}.scope", "docker/{container:id}"],
            Preset::Podman => &[
                "machine.slice/libpod-{container:id}.scope",
                "machine.slice/machine-libpod_pod_{pod:id}.slice/libpod-{container:id}.scope",
                "system.slice/{unit}.service/libpod-payload-{container:id}",
                // Without systemd: `--cgroup-manager=cgroupfs`.
                "libpod_parent/libpod-{container:id}",
                "libpod_parent/{pod:id}/libpod-{container:id}",
            ],
            Preset::SystemdRun => &[
                "system.slice/run-u{unit:number}.service",
                "system.slice/run-u{unit:number}.scope",
                "system.slice/run-p{pid:number}-i{unit:number}.service",
                "system.slice/run-p{pid:number}-i{unit:number}.scope",
                "system.slice/run-r{unit:uuid}.service",
                "system.slice/run-r{unit:uuid}.scope",
            ],
            Preset::UserSlices => &["user.slice/user-{uid:number}.slice"],
        }
    }

    /// The same, parsed.
    ///
    /// # Errors
    /// A pattern is wrong; a test shows that none is.
    pub fn patterns(self) -> Result<Vec<Pattern>, String> {
        self.texts().iter().map(|text| text.parse()).collect()
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
