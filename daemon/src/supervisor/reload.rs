//! SIGHUP: the configuration is read again. What can change while the daemon runs is applied, what needs a restart is named,
//! and a configuration with a mistake changes nothing.
//!
//! ```text
//! SIGHUP (blocked in every thread) ─► reload: read, check ─► apply ─► log line: applied, needs a restart
//! ```

use crate::{
    api::Context,
    config::{Config, Drift, Keys, Live, Recordings},
};
use nix::sys::signal::{SigSet, Signal};
use std::{path::PathBuf, sync::Weak};

/// What a reload applies; each with all that is below it. docs/configuration.md lists the same.
const APPLIED: [&str; 9] = [
    "gateway.roles",
    "drift.period_s",
    "drift.cpu_percent",
    "recordings.total_mib",
    "recordings.root_mib",
    "recordings.runs_per_user",
    "recordings.days",
    "limits.streams",
    "limits.requests",
];

/// The parts that a reload replaces.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub drift: Live<Drift>,
    pub recordings: Live<Recordings>,
}

impl Parts {
    pub(super) fn new(config: &Config) -> Parts {
        Parts { drift: Live::new(config.drift), recordings: Live::new(config.recordings) }
    }
}

/// Where the configuration came from, and which keys it sets.
#[derive(Debug)]
pub struct Origin {
    /// The file that was named.
    pub file: Option<PathBuf>,
    /// What is set.
    pub keys: Keys,
}

/// Blocks SIGHUP in this thread and those that it starts: one of them waits for it. Without this, one that comes early would
/// end the daemon.
///
/// # Errors
/// The kernel refuses.
pub fn hold_hangup() -> nix::Result<()> {
    hangup().thread_block()
}

fn hangup() -> SigSet {
    SigSet::from_iter([Signal::SIGHUP])
}

/// Reloads at each SIGHUP, until the daemon is gone.
pub(super) fn work(mut origin: Origin, parts: &Parts, context: &Weak<Context>) {
    while hangup().wait().is_ok() {
        let Some(context) = context.upgrade() else { return };
        match Config::load_all(origin.file.as_deref()) {
            Ok((config, keys, catalogues)) => {
                context.authority.set_roles(catalogues.roles);
                let (applied, restart) = sorted(origin.keys.changed(&keys));
                apply(&config, parts, &context);
                origin.keys = keys;
                let (applied, restart) = (applied.join(", "), restart.join(", "));
                tracing::info!(
                    applied,
                    needs_a_restart = restart,
                    "the configuration is reloaded, with the roles of the gateway"
                );
            }
            Err(mistakes) => tracing::error!(%mistakes, "the configuration has mistakes: the present one stays in use"),
        }
    }
}

/// Those that are applied, and those that need a restart.
fn sorted(changed: Vec<String>) -> (Vec<String>, Vec<String>) {
    let applied = |key: &String| {
        APPLIED.iter().any(|one| key.strip_prefix(one).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    changed.into_iter().partition(applied)
}

fn apply(config: &Config, parts: &Parts, context: &Context) {
    let disabled = parts.drift.get().disabled;
    parts.drift.set(Drift { disabled, ..config.drift });
    // The recordings of live runs have the same limit, and their thread keeps it.
    let per_user_mib = parts.recordings.get().per_user_mib;
    parts.recordings.set(Recordings { per_user_mib, ..config.recordings });
    context.lanes.apply(&config.limits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_by_whether_a_reload_applies_them() {
        let changed = ["drift.disabled", "drift.period_s", "limits.streams.total", "limits.streams_of", "ring_kib"];
        let (applied, restart) = sorted(changed.map(str::to_owned).to_vec());
        assert_eq!(applied, ["drift.period_s", "limits.streams.total"]);
        assert_eq!(restart, ["drift.disabled", "limits.streams_of", "ring_kib"]);
    }

    #[test]
    fn what_a_reload_applies_is_what_the_reference_names() {
        let reference = include_str!("../../../docs/configuration.md");
        let rows = reference.lines().filter(|line| line.ends_with("| reload |"));
        let named: Vec<&str> = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
        let mut applied = APPLIED.to_vec();
        let mut sorted = named.clone();
        applied.sort_unstable();
        sorted.sort_unstable();
        assert_eq!(sorted, applied);
    }
}
