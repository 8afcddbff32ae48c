//! What the process at the other end of a connection was found to be, and for how long a read may rely on it.
//!
//! Invariants: only reads that are answered alike to all who may read rely on it; whoever asks has seen for this request that the
//! process is alive and that nobody else has sent on its connection; a process of which the kernel says something else than when
//! it was looked at is looked at again.

use crate::platform::pidfd::Glance;
use failsafe_core::{RunId, actor::LocalPeer};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tonic::Status;

/// Supplementary groups, and cgroups of single threads, do not show in a [`Glance`]: they are read again after this long.
const HOLDS: Duration = Duration::from_secs(1);

/// A process that makes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The process.
    pub process: LocalPeer,
    /// Whether it is root or of the administrators' group, and in no run.
    pub admin: bool,
    /// The run that it is in.
    pub inside: Option<RunId>,
    /// Whether it is the gateway.
    pub gateway: bool,
    /// Whether it is the gateway, and may read the audit log.
    pub notifies: bool,
}

/// The maker of a connection, as it was last looked at.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Option<Looked>>);

#[derive(Debug)]
struct Looked {
    glance: Option<Glance>,
    at: Instant,
    caller: Arc<Caller>,
}

impl Recent {
    /// What the process is, of which the kernel says `glance` at `now`.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn caller(
        &self,
        glance: Option<Glance>,
        now: Instant,
        look: impl FnOnce() -> Result<Caller, Status>,
    ) -> Result<Arc<Caller>, Status> {
        let mut looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*looked
            && last.glance == glance
            && now.saturating_duration_since(last.at) < HOLDS
        {
            return Ok(last.caller.clone());
        }
        // Where it fails, nothing is known any more.
        *looked = None;
        let caller = Arc::new(look()?);
        // As of before the look: what changed during it shows in the next glance.
        *looked = Some(Looked { glance, at: now, caller: caller.clone() });
        Ok(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const HERE: Glance = Glance { uid: 7, gid: 8, cgroup_id: 9 };

    fn caller(admin: bool) -> Caller {
        let process = LocalPeer { uid: 7, gid: Some(8), pid: Some(1), start_ticks: Some(2), cgroup: None };
        Caller { process, admin, inside: None, gateway: false, notifies: false }
    }

    #[test]
    fn a_process_that_changed_or_was_not_looked_at_for_a_second_is_looked_at_again() {
        let (recent, looks, start) = (Recent::default(), Cell::new(0), Instant::now());
        let ask = |glance, after: u64| {
            let look = || {
                looks.set(looks.get() + 1);
                Ok(caller(true))
            };
            recent.caller(glance, start + Duration::from_millis(after), look).map(drop).unwrap();
            looks.get()
        };
        assert_eq!([ask(Some(HERE), 0), ask(Some(HERE), 999)], [1, 1]);
        assert_eq!(ask(Some(HERE), 1_000), 2, "for its groups");
        assert_eq!(ask(Some(Glance { cgroup_id: 10, ..HERE }), 1_001), 3, "it was moved");
        assert_eq!(ask(Some(Glance { uid: 0, cgroup_id: 10, ..HERE }), 1_001), 4, "it has another user");
        assert_eq!(ask(None, 1_002), 5);
        assert_eq!([ask(None, 2_001), ask(None, 2_002)], [5, 6], "a kernel without glances: for a second only");
    }

    #[test]
    fn a_look_that_fails_leaves_nothing_to_rely_on() {
        let (recent, now) = (Recent::default(), Instant::now());
        let later = now + HOLDS;
        assert!(recent.caller(Some(HERE), now, || Ok(caller(true))).is_ok_and(|found| found.admin));
        assert!(
            recent
                .caller(Some(HERE), later, || Err(failsafe_proto::ErrorReason::CallerUnknown.status("ended")))
                .is_err()
        );
        assert!(recent.caller(Some(HERE), now, || Ok(caller(false))).is_ok_and(|found| !found.admin));
    }
}
