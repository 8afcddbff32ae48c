//! Is a contained run still contained? Asked periodically and after a restart.
//!
//! Writes nothing. On a foreign thaw, the caller freezes again and records both.

use std::path::PathBuf;

use crate::platform::cgroup::CgroupError;
use crate::platform::{Cgroup, ProcFs, ProcessId};

/// What a run that should be frozen looks like now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Every level is told to freeze and the kernel says all of it is.
    Frozen,
    /// Nobody is in it (any more).
    Empty,
    /// Some level is not told to freeze: another's thaw, or a level made by another since. If `running`, tasks run.
    Loose {
        /// The levels, the root first.
        levels: Vec<PathBuf>,
        /// Whether the kernel says that not all of the tree is frozen.
        running: bool,
    },
    /// Every level is told to freeze, but the kernel does not say that all of it is: a task on its way to the trap,
    /// or one that cannot reach it.
    Settling,
    /// The cgroup was removed.
    Vanished,
}

/// A process of the run that was found outside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escaped {
    /// Which.
    pub who: ProcessId,
    /// The cgroup path it lives in now.
    pub to: PathBuf,
}

/// Looks at every level once.
///
/// # Errors
/// When the kernel refuses a read; a removed cgroup is an answer, not an error.
pub fn is_still_frozen(cgroup: &Cgroup) -> Result<Hold, CgroupError> {
    match look(cgroup) {
        Err(e) if e.is_vanished() => Ok(Hold::Vanished),
        other => other,
    }
}

fn look(cgroup: &Cgroup) -> Result<Hold, CgroupError> {
    let mut levels = Vec::new();
    if !cgroup.freeze_requested()? {
        levels.push(cgroup.path().to_owned());
    }
    let _all = cgroup.walk(None, |level| {
        if !level.freeze_requested()? {
            levels.push(level.path().to_owned());
        }
        Ok(())
    })?;
    let events = cgroup.events()?;
    Ok(if !levels.is_empty() {
        // A loose level of an empty run matters too: the next process in it would run.
        Hold::Loose { levels, running: events.populated && !events.frozen }
    } else if !events.populated {
        Hold::Empty
    } else if events.frozen {
        Hold::Frozen
    } else {
        Hold::Settling
    })
}

/// Of the processes known to belong to the run, those that live outside it now. Ended ones, and strangers that got
/// their number, are left out.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn escaped(cgroup: &Cgroup, known: &[ProcessId]) -> Result<Vec<Escaped>, CgroupError> {
    let proc = ProcFs::default();
    let mut out = Vec::new();
    for who in known {
        let Some(stat) = proc.stat(who.pid)? else { continue };
        // A zombie is shown at the root once its cgroup is left: it can do nothing.
        if stat.id != *who || matches!(stat.state, 'Z' | 'X') {
            continue;
        }
        let Some(to) = proc.cgroup(who.pid)? else { continue };
        // Read again: the number may have passed on between the two reads.
        if !cgroup.contains(&to) && proc.identity(who.pid)? == Some(*who) {
            out.push(Escaped { who: *who, to });
        }
    }
    Ok(out)
}
