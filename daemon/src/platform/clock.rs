//! The clocks the daemon reads, in the units the rest of it uses.
//!
//! Owns nothing. `CLOCK_MONOTONIC` is what `bpf_ktime_get_ns` reports, so times of kernel events and times read
//! here can be subtracted; it stops while the machine is suspended and starts anew at each boot, which is why a
//! stored time is only meaningful beside its boot id.

use std::path::Path;

use nix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// Nanoseconds of `CLOCK_MONOTONIC`: the time base of kernel events and of every decision.
#[must_use]
pub fn monotonic_ns() -> u64 {
    // clock_gettime fails only for an unknown clock or a bad pointer; neither can be here.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        u64::try_from(t.tv_sec())
            .unwrap_or(0)
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(t.tv_nsec()).unwrap_or(0))
    })
}

/// Nanoseconds of `CLOCK_BOOTTIME`: since the boot, with the time that the machine was suspended. Nobody can set it.
#[must_use]
pub fn boottime_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| {
        u64::try_from(t.tv_sec())
            .unwrap_or(0)
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(t.tv_nsec()).unwrap_or(0))
    })
}

/// Nanoseconds since 1970-01-01 UTC (`CLOCK_REALTIME`); for people and records, never for measuring.
#[must_use]
pub fn wall_ns() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME)
        .map_or(0, |t| t.tv_sec().saturating_mul(1_000_000_000).saturating_add(t.tv_nsec()))
}

/// Why the boot id could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BootIdError {
    /// The file could not be read.
    #[error("reading boot id from {path}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The file does not hold a UUID.
    #[error("parsing boot id from {path}")]
    Parse {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        #[source]
        source: uuid::Error,
    },
}

/// The random id of this boot, from `<proc>/sys/kernel/random/boot_id`. With a cgroup id it names a run's cgroup
/// for all time.
///
/// # Errors
/// When the file is missing or is not a UUID.
pub fn boot_id(proc_root: &Path) -> Result<Uuid, BootIdError> {
    let path = proc_root.join("sys/kernel/random/boot_id");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(BootIdError::Read { path, source }),
    };
    Uuid::parse_str(text.trim()).map_err(|source| BootIdError::Parse { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_follows_proc_uptime() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let now = monotonic_ns() as f64 / 1e9;
        // Uptime is CLOCK_BOOTTIME: equal unless the machine slept.
        assert!(now <= uptime + 1.0, "monotonic {now} uptime {uptime}");
        assert!(now > 1.0);
        assert!(wall_ns() > 1_700_000_000_000_000_000, "the wall clock is before 2023");
    }

    #[test]
    fn boot_id_is_stable_and_bad_ones_are_refused() {
        let a = boot_id(Path::new("/proc")).unwrap();
        assert_eq!(a, boot_id(Path::new("/proc")).unwrap());
        assert!(!a.is_nil());

        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(boot_id(dir.path()), Err(BootIdError::Read { .. })));
        std::fs::create_dir_all(dir.path().join("sys/kernel/random")).unwrap();
        std::fs::write(dir.path().join("sys/kernel/random/boot_id"), "not a uuid").unwrap();
        assert!(matches!(boot_id(dir.path()), Err(BootIdError::Parse { .. })));
    }
}
