//! Kinds of events and their fields, by the names that policies write.

use super::facts::{Access, Assurance, DriftSince, ExecKind, FactorClass, Gain, GpuEvent, MemoryKind, Verdict};
use serde::{Deserialize, Serialize};

/// Declares the kinds with their names and the fields that a rule may match.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident $name:literal [$($field:ident),*];)*) => {
        /// The kind of an event, by the name that policies write.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum EventKind { $($(#[$doc])* $variant,)* }

        impl EventKind {
            /// Every kind, in the order of the documentation.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$variant),*];

            /// The kind with this name.
            pub fn named(name: &str) -> Option<EventKind> {
                EventKind::ALL.iter().copied().find(|kind| kind.name() == name)
            }

            /// The name that policies write.
            pub fn name(self) -> &'static str {
                match self { $(EventKind::$variant => $name,)* }
            }

            /// The fields that a rule on this kind may match.
            pub fn fields(self) -> &'static [Field] {
                match self { $(EventKind::$variant => &[$(Field::$field),*],)* }
            }
        }
    };
}

kinds! {
    /// A program was executed.
    Exec "exec" [Path, Kind, Argv, Verdict, Assurance, Comm, Uid];
    /// A process was made.
    Fork "fork" [Verdict, Comm, Uid];
    /// A process ended.
    Exit "exit" [Status, Comm, Uid];
    /// A file or device was opened.
    Open "open" [Path, Access, Verdict, Assurance, Comm, Uid];
    /// A connection was made or tried.
    Connect "connect" [Address, Port, Protocol, Family, Verdict, Assurance, Comm, Uid];
    /// A datagram or packet was sent or tried.
    Send "send" [Address, Port, Protocol, Family, Verdict, Assurance, Comm, Uid];
    /// A local address was taken.
    Bind "bind" [Address, Port, Protocol, Family, Verdict, Assurance, Comm, Uid];
    /// A socket waits for connections.
    Listen "listen" [Address, Port, Protocol, Family, Verdict, Assurance, Comm, Uid];
    /// A socket was made.
    Socket "socket" [Family, Protocol, Verdict, Assurance, Comm, Uid];
    /// A watched system call.
    Syscall "syscall" [Name, Verdict, Assurance, Comm, Uid];
    /// A process gained privilege.
    Privilege "privilege" [Gain, Verdict, Assurance, Comm, Uid];
    /// Memory without a file of its own became executable.
    ExecMemory "exec-memory" [Kind, Verdict, Assurance, Comm, Uid];
    /// The run reached for failsafe itself.
    Protect "protect" [What, Verdict, Assurance, Comm, Uid];
    /// A byte budget of the egress list is used up.
    Budget "budget" [Budget, Address, Verdict];
    /// A name was resolved, as the answer on its way to the run said.
    Dns "dns" [Name, Address];
    /// The OOM killer chose a process of the run.
    Oom "oom" [Comm, Uid];
    /// A process left the run's cgroup.
    Leave "leave" [Comm, Uid];
    /// A contained run was thawed by somebody else.
    ForeignThaw "foreign-thaw" [];
    /// A factor of the run's fingerprint has another value.
    Drift "drift" [Path, Class, Since];
    /// The kernel latched the run by a stop rule, and the event of it was lost.
    Latched "latched" [];
    /// A process of another run, or of none, on a GPU of the run.
    ForeignGpuProcess "foreign-gpu-process" [Comm, Uid];
    /// An XID error of a GPU.
    Xid "xid" [Code];
    /// Something else happened on a GPU, as NVML says.
    GpuEvent "gpu-event" [What];
}

/// Declares the fields with their names.
macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// A field of an event, by the name that policies write.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Field { $($(#[$doc])* $variant,)* }

        impl Field {
            /// The name that policies write.
            pub fn name(self) -> &'static str {
                match self { $(Field::$variant => $name,)* }
            }
        }
    };
}

fields! {
    /// Of an exec or an open; the name of a factor.
    Path "path";
    /// Of an exec.
    Argv "argv";
    /// Name of the process.
    Comm "comm";
    /// User of the process.
    Uid "uid";
    /// Of a network call, a budget or a DNS answer.
    Address "address";
    /// Of a network call.
    Port "port";
    /// `tcp`, `udp` or a number.
    Protocol "protocol";
    /// Address family by name or number.
    Family "family";
    /// What the kernel did with it.
    Verdict "verdict";
    /// How surely it was seen.
    Assurance "assurance";
    /// Of a system call or a DNS answer.
    Name "name";
    /// What was executed, or became executable.
    Kind "kind";
    /// What a file was opened for.
    Access "access";
    /// How privilege was gained.
    Gain "gain";
    /// What of failsafe was reached for, or what happened on a GPU.
    What "what";
    /// Name of a budget.
    Budget "budget";
    /// Of an XID.
    Code "code";
    /// Of an exit.
    Status "status";
    /// What a changed factor can change.
    Class "class";
    /// What a changed factor is compared with.
    Since "since";
}

impl EventKind {
    /// The names that a field of a closed set may have; none: it has no such set.
    pub fn closed_names(self, field: Field) -> &'static [&'static str] {
        match (field, self) {
            (Field::Verdict, _) => Verdict::NAMES,
            (Field::Assurance, _) => Assurance::NAMES,
            (Field::Kind, EventKind::ExecMemory) => MemoryKind::NAMES,
            (Field::Kind, _) => ExecKind::NAMES,
            (Field::Access, _) => Access::NAMES,
            (Field::Gain, _) => Gain::NAMES,
            (Field::Class, _) => FactorClass::NAMES,
            (Field::Since, _) => DriftSince::NAMES,
            (Field::What, EventKind::GpuEvent) => GpuEvent::NAMES,
            _ => &[],
        }
    }
}
