//! Containment of a run through its cgroup: freeze, thaw, kill, recapture, and what is seen on the way.
//!
//! Owns no state: each call acts on the [`Cgroup`](crate::platform::Cgroup) it is given and reports what it read
//! back. Plain blocking functions for a worker thread; every wait ends at a deadline the caller passes in.
//!
//! ```text
//! start (write every level) -> verify (read cgroup.events directly) -> outcome
//!                                  guard, later: still so? -> freeze again
//! ```
//!
//! Invariants:
//! - an outcome claims only what was read back from the kernel after the last write;
//! - `cgroup.events` is read, never polled: its notification is held back by up to 10 ms;
//! - a cgroup that vanishes is an outcome of its own, as is one with nobody in it;
//! - what could not be contained is named, thread by thread.

mod culprits;
pub mod dry_run;
pub mod freeze;
pub mod guard;
pub mod kill;
pub mod recapture;
pub mod snapshot;
pub mod thaw;
mod wait;

pub use culprits::Culprit;
pub use dry_run::{Affected, DryRun, dry_run};
pub use freeze::{FreezeOutcome, freeze};
pub use guard::{Hold, is_still_frozen};
pub use kill::{KillMethod, KillOutcome, kill};
pub use recapture::{Recapture, recapture};
pub use snapshot::{ProcessSnapshot, RunSnapshot, snapshot};
pub use thaw::{ThawOutcome, thaw, thaw_unless};
