//! How long a test waits for what has to come true: its own limit, times what `FAILSAFE_TEST_PATIENCE` says. An emulated
//! processor (`cargo xtask vm`) is many times slower, and a limit that holds there would hide a hang here. Included by path.

use std::time::Duration;

/// The limit on this machine.
pub fn patience(limit: Duration) -> Duration {
    let factor = std::env::var("FAILSAFE_TEST_PATIENCE").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    limit * factor
}
