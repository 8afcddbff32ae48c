//! Waiting in tests: the one loop that looks again and again, and how long it does. Included by path.
//!
//! The limit of a test is multiplied by `FAILSAFE_TEST_PATIENCE`. An emulated processor (`cargo xtask vm`) is many times
//! slower, and a limit that holds there would hide a hang here.

use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Looks until `get` finds something. `None`: it did not within the limit of this machine.
///
/// # Errors
/// Those of `get`, at once.
pub fn poll<T, E>(limit: Duration, mut get: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    let deadline = Instant::now() + patience(limit);
    loop {
        let found = get()?;
        if found.is_some() || Instant::now() >= deadline {
            return Ok(found);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The limit on this machine.
pub fn patience(limit: Duration) -> Duration {
    let factor = std::env::var("FAILSAFE_TEST_PATIENCE").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    limit * factor
}
