//! The end of what earlier daemons' programs bound when it was made, and nobody registered.
//!
//! Invariant: processes that a rule has stopped continue only when nothing bounds their cgroup any more.

use super::{Registry, stopped::continue_stopped};
use crate::guard::kernel::Retirement;
use std::sync::PoisonError;

impl Registry {
    /// Discovery has looked at everything, or there is none: the programs of earlier daemons bind no more new cgroups, and let those go that
    /// they bound and nobody registered. What fails is tried again by [`Registry::retire_early_again`].
    pub fn retire_early(&self) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Their rings are read where the runs in them are taken up.
        let Retirement { released, problem } = self.kernel.retire_early();
        for (cgroup_id, stopped) in released {
            let continued = continue_stopped(self.root.mount(), cgroup_id, &stopped);
            tracing::info!(cgroup_id, continued, "an earlier daemon's programs let a cgroup go that nobody registered");
        }
        let mut unretired = self.unretired.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = problem.as_ref().filter(|_| *unretired != problem) {
            tracing::warn!(why, "programs of an earlier daemon go on bounding cgroups that nobody registered");
        }
        *unretired = problem;
    }

    /// Tries again what failed of [`Registry::retire_early`].
    pub fn retire_early_again(&self) {
        if self.unretired().is_some() {
            self.retire_early();
        }
    }

    /// Why programs of earlier daemons still bind cgroups that nobody registered; `None`: none does, or discovery has not looked yet.
    pub fn unretired(&self) -> Option<String> {
        self.unretired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
