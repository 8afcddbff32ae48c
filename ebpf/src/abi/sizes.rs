//! Sizes and limits that both sides know.

/// Number of slots for runs.
pub const MAX_RUNS: u32 = 1024;

/// Port entries that one prefix of an allow-list can hold.
pub const MAX_PORTS: usize = 16;

/// Room for a path, in bytes.
pub const PATH_MAX: usize = 256;

/// Room for the head of an argument vector, in bytes.
pub const ARGV_MAX: usize = 256;

/// Room for the resolved path of what is executed, in bytes.
pub const FILE_MAX: usize = 512;

/// Length of `comm`, in bytes, with its NUL.
pub const COMM_LEN: usize = 16;

/// Bytes of a path that rules are matched on.
pub const RULE_PATH: usize = 248;

/// Host names in the allow-list of a run.
pub const MAX_HOSTS: usize = 16;

/// Destination classes of a run; class 0 is unused.
pub const MAX_BUDGETS: usize = 8;

/// Levels of the cgroup hierarchy, its root included, at which a run may have its root.
pub const LEVELS: usize = 64;

/// Classes of bytes in the paths of cgroups that are bound at their creation.
pub const EARLY_CLASSES: usize = 64;

/// Rules of discovery.
pub const EARLY_RULES: usize = 64;

/// Cgroups that can be bound and not yet registered.
pub const EARLY_SLOTS: u32 = 64;

/// Bytes of a path of a cgroup that is bound at its creation.
pub const EARLY_PATH: usize = 512;
