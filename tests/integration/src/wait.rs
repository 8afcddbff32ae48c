//! Waiting for what has to come true, always with a deadline.

use crate::patience::patience;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// How long anything may take before the test fails, on a processor that is not emulated. Far above what is normal: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// Waits until `holds`.
///
/// # Errors
/// It does not within [`PATIENCE`], or it fails.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for_some(what, || Ok(holds()?.then_some(())))
}

/// Waits until `get` gives something, and returns it.
///
/// # Errors
/// It does not within [`PATIENCE`], or it fails.
pub fn wait_for_some<T>(what: &str, mut get: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = patience(PATIENCE);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(got) = get().with_context(|| format!("waiting until {what}"))? {
            return Ok(got);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain until {what}", limit.as_secs());
        }
        std::thread::sleep(POLL);
    }
}

/// Whether it becomes true in time; for clean-up, which has nobody to tell of an error.
pub fn soon(mut holds: impl FnMut() -> bool) -> bool {
    wait_for("", || Ok(holds())).is_ok()
}
