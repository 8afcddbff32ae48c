//! What a test writes to a file that stands for the kernel's log.

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

/// The time of a record that is written now, in microseconds since the boot, as `/dev/kmsg` states it. A record with an
/// early time would be old on a machine that was booted long ago: health forgets some reasons after a day.
///
/// # Errors
/// The clock could not be read.
pub fn kernel_time_us() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000 + u64::try_from(now.tv_nsec())? / 1_000)
}
