//! Waiting for a condition, with a deadline. Included by path where nothing else of this folder is needed.

#[path = "../../../tests/patience.rs"]
pub mod patience_of;

use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// Waits until it `holds`, 20 seconds at most on a processor that is not emulated.
///
/// # Errors
/// It does not in time, or it fails.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience_of::patience(Duration::from_secs(20));
    while !holds()? {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
