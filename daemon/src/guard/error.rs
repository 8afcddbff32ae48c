//! What can go wrong between the daemon and its programs.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;

use failsafe_matchers::egress::EgressError;

/// What can go wrong between the daemon and its programs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's type information is missing or unreadable (`CONFIG_DEBUG_INFO_BTF`).
    #[error("cannot read the kernel's types from /sys/kernel/btf/vmlinux")]
    Btf(#[source] aya_obj::btf::BtfError),
    /// The object as a whole was refused, for lack of privilege mostly.
    #[error("cannot load the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// A map operation failed.
    #[error("cannot access the eBPF map {map}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// The cause.
        #[source]
        source: MapError,
    },
    /// The object lacks a map or program that this daemon knows.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// A program could not be attached.
    #[error("cannot attach {program} to {target}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// What to.
        target: String,
        /// The cause.
        #[source]
        source: Box<ProgramError>,
    },
    /// A file or directory of the run could not be used.
    #[error("cannot {operation} {}", path.display())]
    Cgroup {
        /// The path.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something in bpffs failed.
    #[error("cannot {operation} {}", path.display())]
    Pin {
        /// The path.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The run's owner may not use that much of the kernel's tables.
    #[error(transparent)]
    Quota(#[from] super::kernel_quota::QuotaError),
    /// The policy cannot be expressed in the kernel's tables.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The rules of the policy name more files than may be looked at.
    #[error(transparent)]
    Files(#[from] super::files::TooManyFiles),
    /// Enforcement was asked for, and the kernel refused programs that it needs.
    #[error("egress cannot be enforced: the kernel refused {}", missing.join(", "))]
    CannotEnforce {
        /// The programs.
        missing: Vec<&'static str>,
    },
    /// The kernel refused a program that is loaded on request.
    #[error("the kernel refused {program}: {why}")]
    Refused {
        /// The program.
        program: &'static str,
        /// The kernel's reason.
        why: String,
    },
    /// The slot is out of range or taken, or not taken where it should be.
    #[error("slot {0} is out of range, already taken, or not in use")]
    Slot(u32),
    /// A latch reads back otherwise than it was written.
    #[error("the latch of slot {0} reads back otherwise than written")]
    Latch(u32),
    /// A second descriptor of a map.
    #[error("cannot duplicate the descriptor of map {map}")]
    Handle {
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Runs inside one another would be counted and reported twice.
    #[error("{} lies inside, or around, the run at {}", path.display(), other.display())]
    Nested {
        /// The cgroup asked for.
        path: PathBuf,
        /// The run in the way.
        other: PathBuf,
    },
    /// The run's cgroup is the whole host, or lies deeper than the kernel side follows.
    #[error(
        "{} is at level {level} of the cgroup hierarchy: the cgroup of a run is at level 1 to {}",
        path.display(), failsafe_ebpf::abi::LEVELS - 1
    )]
    Level {
        /// The cgroup.
        path: PathBuf,
        /// Its level; that of the root of the hierarchy is 0.
        level: u32,
    },
    /// Watched system calls can be seen in no way that this kernel offers.
    #[error("no way to watch system calls: fentry: {fentry}; sys_enter: {sys_enter}")]
    NoSyscalls {
        /// Why not fentry.
        fentry: String,
        /// Why not `sys_enter`.
        sys_enter: String,
    },
}

impl Error {
    pub(super) fn map(map: &'static str) -> impl Fn(MapError) -> Self + Copy {
        move |source| Self::Map { map, source }
    }
}

/// An error with its causes, on one line, and without the verifier's log but for its last lines.
pub(super) fn chain(e: &(dyn std::error::Error + 'static)) -> String {
    let mut out = match e.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            let tail: Vec<&str> = log.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            return format!("{io_error}: {}", tail.join(" | "));
        }
        _ => e.to_string(),
    };
    let mut source = e.source();
    while let Some(s) = source {
        let text = s.to_string();
        if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
        source = s.source();
    }
    out
}
