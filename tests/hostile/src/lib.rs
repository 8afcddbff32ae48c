//! Attacks on what containment needs: one resource is starved at a time, and a victim run that violates its policy must be
//! frozen in time all the same.
//!
//! ```text
//! tests/it/ATTACK.rs ─► withstand: node, victims ─► strike alone ─► the attack holds ─► strike again
//!                                     victim: connects where it may not; judged from outside by its cgroup.events
//! ```
//!
//! A new attack is one file in `tests/it`: it starves its resource, calls `strike`, and gives the resource back.
//!
//! Invariants: the daemon is the product's own, without a hook for tests; the attack is in force before the strike; a time
//! is judged against the same daemon's time without the attack, and generously, since the machine may be busy.

#![forbid(unsafe_code)]

pub mod disk;
