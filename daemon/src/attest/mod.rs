//! Readers of the fingerprint: what a node and a run compute with, as facts of `failsafe-attest`.
//!
//! ```text
//! worker (one thread a request) ─► node readers ─► run readers ─► facts, one by one ─► whoever asked, until a deadline
//! ```
//!
//! Invariants: every read is bounded in size, and every reader takes a root path; nothing is read on a thread of the freeze
//! path; NVML is not called: what its sampler last saw is used; what could not be read is a fact without a value, with the reason.

mod cpu;
mod dmi;
mod elf;
mod files;
mod gpu;
mod infiniband;
mod kernel;
mod nvidia;
mod run;
mod worker;

pub use gpu::GpuFacts;
pub use run::RunFacts;
pub use worker::{Asked, DEADLINE, Worker};

use crate::redact::Redactor;
use failsafe_attest::{Fact, Json};
use std::path::{Path, PathBuf};

/// Where the kernel's file systems are.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Roots {
        Roots { proc: "/proc".into(), sys: "/sys".into() }
    }
}

/// What a node's readers are given by the daemon.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// What the GPUs' sensors last saw.
    pub gpus: GpuFacts,
    /// The node's name.
    pub hostname: String,
    /// This boot.
    pub boot_id: String,
    /// The daemon's version.
    pub version: String,
    /// `sha256:HEX` of the eBPF object.
    pub ebpf_object: String,
}

/// The facts of a node.
pub fn node(roots: &Roots, about: &NodeFacts, redact: &Redactor) -> Vec<Fact> {
    let mut facts = cpu::read(&roots.proc, &roots.sys);
    facts.extend(kernel::read(&roots.proc, &roots.sys, redact));
    facts.extend(dmi::read(&roots.sys));
    facts.extend(infiniband::read(&roots.sys));
    facts.extend(nvidia::read(&roots.sys));
    facts.extend(gpu::node(&about.gpus, &roots.sys));
    let own = [
        ("node/hostname", "uname", &about.hostname),
        ("node/boot-id", "/proc/sys/kernel/random/boot_id", &about.boot_id),
        ("node/failsafe/version", "failsafed", &about.version),
        ("node/failsafe/ebpf-object", "failsafed", &about.ebpf_object),
    ];
    facts.extend(own.map(|(path, source, value)| Fact::measured(path, source, Ok(Json::from(value.as_str())))));
    facts
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
