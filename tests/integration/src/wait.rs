//! Waiting for what has to come true, always with a deadline.

use crate::patience::{patience, poll};
use anyhow::{Context, Result};
use std::time::Duration;

/// How long anything may take before the test fails, on a processor that is not emulated. Far above what is normal: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two questions to the daemon.
const ASKED_AGAIN: Duration = Duration::from_millis(20);

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
    let found = poll(PATIENCE, || get().with_context(|| format!("waiting until {what}")))?;
    found.with_context(|| format!("waited {} s in vain until {what}", patience(PATIENCE).as_secs()))
}

/// The same for what is asked over an asynchronous connection.
///
/// # Errors
/// It does not within [`PATIENCE`], or it fails.
pub async fn wait_for_answer<T>(what: &str, mut get: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let asking = async {
        loop {
            if let Some(got) = get().await.with_context(|| format!("waiting until {what}"))? {
                return Ok(got);
            }
            tokio::time::sleep(ASKED_AGAIN).await;
        }
    };
    let answered = tokio::time::timeout(patience(PATIENCE), asking).await;
    answered.with_context(|| format!("waited {} s in vain until {what}", patience(PATIENCE).as_secs()))?
}

/// Whether it becomes true in time; for clean-up, which has nobody to tell of an error.
pub fn soon(mut holds: impl FnMut() -> bool) -> bool {
    wait_for("", || Ok(holds())).is_ok()
}
