//! Attacks on what containment needs: one resource is starved at a time, and a victim run that violates its policy must be
//! frozen in time all the same.
//!
//! ```text
//! attacks::ATTACK ─► Judge::withstand: node, victims ─► strike alone ─► the attack holds ─► strike again
//!                                       victim: connects where it may not; judged from outside by its cgroup.events
//!   tests/it          a few strikes, a generous limit: the release gate
//!   bin/hostile-bench series of strikes at 1, 16 and 64 busy processes: `cargo xtask bench hostile`
//! ```
//!
//! A new attack is one file in `attacks`: it starves its resource, calls `strike`, and gives the resource back.
//!
//! Invariants: the daemon is the product's own, without a hook for tests; the attack is in force before the strike; a time
//! is judged against the same daemon's time without the attack, and generously, since the machine may be busy.

#![forbid(unsafe_code)]

pub mod attacks;
mod disk;
mod judge;

pub use judge::{Act, Judge, Strike, Victim};
