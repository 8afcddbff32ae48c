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
mod ima;
mod infiniband;
mod kernel;
mod nvidia;
mod own_gpus;
mod run;
mod seal;
mod stated;
mod worker;

pub use gpu::GpuFacts;
pub use own_gpus::OwnGpus;
pub use run::{Beginning, RunFacts};
pub use seal::{Sealing, tpm_facts_of};
pub use stated::{StatedOf, hide_identity, stated};
pub use worker::{Asked, DEADLINE, Worker};

use crate::{node::NodeView, redact::Redactor};
use failsafe_attest::{Fact, Json};
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

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
    /// Whether the list of IMA is read, which is expensive: only for those who get identity factors.
    pub with_ima: bool,
}

impl NodeFacts {
    /// What is known now. `disabled`: the configuration does not look at NVML.
    pub fn of(node: &NodeView, disabled: bool, boot_id: &str) -> NodeFacts {
        let hostname = nix::sys::utsname::uname().map(|uname| uname.nodename().to_string_lossy().into_owned());
        NodeFacts {
            gpus: GpuFacts::of(node, disabled),
            hostname: hostname.unwrap_or_default(),
            boot_id: boot_id.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ebpf_object: ebpf_object().to_owned(),
            with_ima: false,
        }
    }
}

/// `sha256:HEX` of the eBPF object.
fn ebpf_object() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| format!("sha256:{}", hex::encode(Sha256::digest(failsafe_ebpf::OBJECT))))
}

/// The facts of a node.
fn node(roots: &Roots, about: &NodeFacts, redact: &Redactor, list: &ima::Remembered) -> Vec<Fact> {
    let mut facts = cpu::read(&roots.proc, &roots.sys);
    facts.extend(kernel::read(&roots.proc, &roots.sys, redact));
    facts.extend(dmi::read(&roots.sys));
    facts.extend(ima::read(&roots.sys, about.with_ima.then_some(list)));
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
