//! What ordinary jobs need around them: a name server, and the shipped policies with the destinations of the test on their lists.
//!
//! ```text
//! policies/*.toml ─► policy::for_test ─► failsafectl run ─► jobs/all.sh: one line `JOB name ok` or `JOB name FAILED` for each job
//!                        names::Server ◄── questions of the jobs
//! ```
//! A job here violates nothing. Where one is stopped, or a rule makes a decision about it, the policy or the kernel's programs are wrong.

#![forbid(unsafe_code)]

pub mod names;
pub mod policy;
