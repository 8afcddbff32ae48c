//! Values that are out of their range, or do not go together.

use super::Config;
pub(crate) use failsafe_files::Wrong;
use std::path::Path;

impl Config {
    /// All values that are wrong.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for (field, value) in [
            ("state_dir", &self.state_dir),
            ("socket", &self.socket),
            ("metrics_socket", &self.metrics_socket),
            ("policy_dir", &self.policy_dir),
        ] {
            if !value.is_absolute() {
                wrong.push(Wrong::new(field, format!("expected an absolute path, not `{}`", value.display())));
            }
        }
        let root = |path: &Path| path.strip_prefix("/").unwrap_or(path).as_os_str().is_empty();
        if self.start_from.iter().any(|path| root(path)) {
            let message = "expected cgroups such as `/system.slice/jupyter.service`, not the root";
            wrong.push(Wrong::new("start_from", message));
        }
        if self.cgroup_parent.is_absolute() || self.cgroup_parent.components().count() == 0 {
            let message = "expected a path relative to the cgroup2 mount, such as `failsafe`";
            wrong.push(Wrong::new("cgroup_parent", message));
        }
        wrong.extend(Wrong::outside([
            ("sample_interval_ms", self.sample_interval_ms, 50..=60_000),
            ("action_deadline_ms", self.action_deadline_ms, 100..=60_000),
        ]));
        if !self.ring_kib.is_power_of_two() || !(4..=65_536).contains(&self.ring_kib) {
            let message = format!("expected a power of two from 4 to 65536, not {}", self.ring_kib);
            wrong.push(Wrong::new("ring_kib", message));
        }
        wrong.extend(self.kernel_tables.wrong().map(|message| Wrong::new("kernel_tables", message)));
        wrong.extend(self.audit_log.wrong());
        wrong.extend(self.limits.wrong());
        wrong.extend(self.recordings.wrong());
        wrong.extend(self.drift.wrong());
        wrong.extend(self.drill.wrong());
        wrong.extend(self.tpm.wrong());
        wrong.extend(self.gateway.wrong());
        wrong.extend(self.discovery.wrong());
        let too_fast = self.nvml.every.iter().filter(|(_, pace)| pace.0 < self.sample_interval());
        wrong.extend(too_fast.map(|(rated, _)| {
            let interval = self.sample_interval_ms;
            let message = format!("expected at least sample_interval_ms, which is {interval}");
            Wrong::new(format!("nvml.every.{rated}"), message)
        }));
        wrong
    }
}
