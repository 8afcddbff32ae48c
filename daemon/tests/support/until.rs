//! Waiting for a condition, with a deadline. Included by path where nothing else of this folder is needed.

#[path = "../../../tests/patience.rs"]
pub mod patience_of;

use anyhow::{Context, Result};
use std::time::Duration;

/// Waits until it `holds`, 20 seconds at most on a processor that is not emulated.
///
/// # Errors
/// It does not in time, or it fails.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let found = patience_of::poll(Duration::from_secs(20), || Ok::<_, anyhow::Error>(holds()?.then_some(())))?;
    found.with_context(|| format!("waited in vain until {what}"))
}
