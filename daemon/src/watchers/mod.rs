//! Threads that look at runs by themselves, and tell the pipeline what they see: the sampler of counters and cgroup files, the guard
//! that keeps freezes and latches in force, the thread that takes up runs that are guarded, the thread that makes runs of cgroups
//! that the configuration describes, the one that compares the audit log with the counter of the TPM, the one that lists incidents, and those that follow and state what runs compute with.

pub mod canary;
pub mod discover;
pub mod drift;
pub mod drill;
pub mod hold;
pub mod incidents;
pub mod keep;
pub mod mode;
pub mod rollback;
pub mod sampler;
pub mod shadows;
pub mod statements;
