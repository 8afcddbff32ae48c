//! `[audit_log]`: how much of the audit log is kept, and how much of it each user gets.

use super::{check::Wrong, gpu_rates::Pace};
use crate::log::{Bounds, Budget, Vouch, default_name, wrong_name};
use crate::signing::SigningKeys;
use failsafe_journal::storage::Retention;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

/// Sizes and ages of the audit log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditLog {
    /// What is written about the runs of one user in a day, in MiB; as much again for interventions.
    pub per_user_mib_per_day: u64,
    /// ... of all users but root.
    pub total_mib_per_day: u64,
    /// Largest size of the whole log, in MiB.
    pub keep_mib: u64,
    /// Greatest age of an entry, in days.
    pub keep_days: u64,
    /// How often the log's tree is signed, if there are new entries.
    pub checkpoint: Pace,
    /// A heartbeat entry is written after this time without an entry.
    pub heartbeat: Pace,
    /// The name of a new log in checkpoints, and of the key that signs them; by default from the name of the host.
    pub origin: Option<String>,
}

impl Default for AuditLog {
    fn default() -> AuditLog {
        AuditLog {
            per_user_mib_per_day: 64,
            total_mib_per_day: 1_024,
            keep_mib: 8_192,
            keep_days: 365,
            checkpoint: Pace(Duration::from_secs(60)),
            heartbeat: Pace(Duration::from_secs(300)),
            origin: None,
        }
    }
}

impl AuditLog {
    /// What is out of its range.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Wrong::outside([
            ("audit_log.per_user_mib_per_day", self.per_user_mib_per_day, 1..=65_536),
            ("audit_log.total_mib_per_day", self.total_mib_per_day, self.per_user_mib_per_day..=1_048_576),
            ("audit_log.keep_mib", self.keep_mib, 64..=16_777_216),
            ("audit_log.keep_days", self.keep_days, 1..=36_500),
        ]);
        // A shorter time would fill the disk of an idle node.
        let paces = [("audit_log.checkpoint", self.checkpoint), ("audit_log.heartbeat", self.heartbeat)];
        let short = paces.into_iter().filter(|(_, pace)| pace.0 < Duration::from_secs(1));
        let origin = self.origin.as_deref().and_then(wrong_name);
        wrong.extend(origin.map(|why| Wrong::new("audit_log.origin", why.to_owned())));
        wrong.extend(short.map(|(field, pace)| Wrong::new(field, format!("expected 1s to 1h, not {:?}", pace.0))));
        wrong
    }

    /// How checkpoints are signed, and how often a silent log has a heartbeat.
    pub fn vouch(&self, keys: &Arc<SigningKeys>) -> Vouch {
        let name = self.origin.clone().unwrap_or_else(|| default_name(keys));
        Vouch { keys: keys.clone(), name, checkpoint: self.checkpoint.0, heartbeat: self.heartbeat.0 }
    }

    /// As the log takes it.
    pub fn bounds(&self) -> Bounds {
        let day = 86_400 * 1_000_000_000;
        let retention = Retention { max_bytes: self.keep_mib << 20, max_age_ns: self.keep_days.saturating_mul(day) };
        let budget = Budget { per_user: self.per_user_mib_per_day << 20, total: self.total_mib_per_day << 20 };
        Bounds { retention, budget }
    }
}
