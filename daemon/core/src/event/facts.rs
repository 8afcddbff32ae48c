//! The small closed answers that events hold: which call, what the kernel did with it, and how surely it was seen.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A network call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NetOp {
    /// `connect(2)`.
    Connect,
    /// `sendto(2)`, `sendmsg(2)` with an address, or a packet seen leaving.
    Send,
    /// `bind(2)`.
    Bind,
    /// `listen(2)`.
    Listen,
    /// `socket(2)` of a family or type that an allow-list cannot bound.
    Socket,
}

/// How a watched system call was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Via {
    /// fentry on the call's own function.
    Fentry,
    /// The `sys_enter` tracepoint: the fallback, arguments unreliable.
    SysEnter,
    /// An LSM hook on the call's way, where it was refused; the arguments are not at hand there.
    Lsm,
}

/// A GPU instance of a GPU in MIG mode.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slice {
    /// Its id on the GPU, as `nvmlEventData_t.gpuInstanceId` and the kernel's `GPU-I` give it.
    pub gpu_instance: u32,
    /// The compute instance in it, where one is meant.
    pub compute_instance: Option<u32>,
    /// The MIG devices that these were when it was told, by UUID; empty where that was not known.
    pub devices: BTreeSet<String>,
}

impl std::fmt::Display for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GPU instance {}", self.gpu_instance)?;
        self.compute_instance.map_or(Ok(()), |compute| write!(f, ", compute instance {compute}"))
    }
}

/// Declares an enum of names that policies write.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$inner])* $variant,)* }

        impl $name {
            /// Every one, in the order of the documentation.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// Every name that policies may write.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// The name that policies write.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

named! {
    /// What NVML says has happened on a GPU (`nvmlEventType*`), beside XIDs.
    #[derive(Hash)]
    GpuEvent {
        /// An ECC error was corrected.
        SingleBitEcc "single-bit-ecc",
        /// An ECC error could not be corrected.
        DoubleBitEcc "double-bit-ecc",
        /// The performance state has changed.
        PerformanceState "performance-state",
        /// A clock has changed.
        Clock "clock",
        /// The power source has changed.
        PowerSource "power-source",
        /// MIG was switched on or off, or its devices have changed.
        MigConfig "mig-config",
        /// Many ECC errors were corrected in a short time.
        SingleBitEccStorm "single-bit-ecc-storm",
        /// A row or page of memory was taken out of use.
        DramRetirement "dram-retirement",
        /// A row or page of memory could not be taken out of use.
        DramRetirementFailure "dram-retirement-failure",
        /// Poisoned data was met, and contained.
        Poison "poison",
        /// Poisoned data was met, and not contained.
        FatalPoison "fatal-poison",
        /// The GPU cannot be used.
        Unavailable "unavailable",
        /// What must be done with the GPU has changed (`gpu.recovery_action`).
        RecoveryAction "recovery-action",
    }
}

impl GpuEvent {
    /// Whether it comes with ordinary work: clocks and states change all the time.
    pub fn is_ordinary(self) -> bool {
        matches!(self, GpuEvent::Clock | GpuEvent::PerformanceState)
    }
}

named! {
    /// What the kernel did with it.
    Verdict {
        /// Let through.
        Allowed "allowed",
        /// Refused in the kernel by the policy: EPERM to the caller, or the packet dropped.
        Denied "denied",
        /// Out of bounds, let through because the policy only observes.
        WouldDeny "would-deny",
        /// A UDP or ping socket was connected to an address outside the list. It passed, because a connect of such a socket sends
        /// nothing; what the socket sends is judged. Only a rule that asks for this verdict matches.
        Probe "probe",
        /// Refused because the run is latched, by a `block` or a stop rule. The policy itself lets it through.
        Latched "denied-by-latch",
        /// Refused because no daemon was seen for `dead_after`, as `on_dead_daemon` asks. The policy itself lets it through.
        DeadDaemon "denied-by-dead-daemon",
    }
}

named! {
    /// How surely an event says what happened, and what a rule on it can do.
    #[derive(Hash)]
    Assurance {
        /// The hook that saw it also refused it, on the values that the kernel itself used.
        BlockedInKernel "blocked-in-kernel",
        /// Seen with the kernel's own values; it was not stopped in the call.
        Observed "observed",
        /// Seen at the entry of the call: another thread may change what its arguments point to before they are used.
        ObservedUnreliable "observed, arguments unreliable",
    }
}

named! {
    /// What kind of file was executed.
    ExecKind {
        /// A file that has a name.
        File "file",
        /// Memory without a name (`memfd_create(2)`).
        Memfd "memfd",
        /// A file whose last name was removed.
        Deleted "deleted",
        /// A script, for which the kernel started the interpreter of its first line.
        Script "script",
    }
}

named! {
    /// What a file was opened for.
    Access {
        /// Reading only.
        Read "read",
        /// Writing, or both.
        Write "write",
    }
}

named! {
    /// How a process gained privilege.
    Gain {
        /// It changed to a user id that it did not have, or ran a set-user-id program.
        Setuid "setuid",
        /// It gained a capability.
        Capability "capability",
        /// It made a user namespace, in which it has all capabilities.
        Userns "userns",
    }
}

named! {
    /// Which memory became executable.
    MemoryKind {
        /// Anonymous memory.
        Anonymous "anonymous",
        /// Memory of a memfd.
        Memfd "memfd",
        /// Memory that is writable at the same time.
        WriteExec "write-exec",
    }
}

named! {
    /// What a change of a factor can change.
    FactorClass {
        /// Computed results.
        Result "result",
        /// Speed, not results.
        Performance "performance",
    }
}

named! {
    /// What a factor's value is compared with.
    DriftSince {
        /// An earlier reading of the same run.
        Earlier "earlier",
        /// The last reading of the run that this one continues.
        Predecessor "predecessor",
    }
}

/// Address families by name (`AF_*` of `linux/socket.h`).
const FAMILIES: [(&str, u16); 12] = [
    ("unix", 1),
    ("inet", 2),
    ("inet6", 10),
    ("netlink", 16),
    ("packet", 17),
    ("rds", 21),
    ("can", 29),
    ("tipc", 30),
    ("bluetooth", 31),
    ("alg", 38),
    ("vsock", 40),
    ("xdp", 44),
];

/// The number of a family's name.
pub fn family(name: &str) -> Option<u16> {
    FAMILIES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Every family name that policies may write.
pub fn family_names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

/// The family's name, or its number as text.
pub fn family_name(number: u16) -> String {
    let known = FAMILIES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("family {number}"), |(name, _)| (*name).to_owned())
}
