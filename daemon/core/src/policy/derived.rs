//! Where the states begin that `gpu.derived.*` tells, and how long their windows are.
//!
//! Part of the policy: a run is judged by those of the policy it is pinned to, and a replay, which has the policy, computes the
//! same. Default values are left out of the digest: a policy without `[derived]` has the digest of versions
//! that did not have this section.

use crate::time::Span;
use serde::{Deserialize, Serialize};

/// The numbers of the detectors. Shares are thousandths of a percent.
///
/// A new field needs `skip_serializing_if` for its default: otherwise the digest of each policy with a `[derived]` changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Derived {
    /// Busy from this utilisation on, at low power below this share of the limit.
    pub spinning: Load,
    /// Idle up to this utilisation, at high power above this share of the limit.
    pub idle_power: Load,
    /// Utilisation stands still up to the first, and from the second on.
    pub stalled: Pinned,
    /// At work from this utilisation on, held down below this share of the greatest clock.
    pub clock_held: Held,
    /// Over how long the warming up is taken.
    pub thermal_slope: Span,
    /// Over how long memory errors are counted.
    pub ecc_rate: Span,
    /// Over how long the growth of memory is taken.
    pub memory_slope: Span,
    /// Over how long utilisation is averaged.
    pub straggler: Span,
}

/// Utilisation and power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Of the time.
    pub utilization: i64,
    /// Of the enforced limit.
    pub power: i64,
}

/// Where utilisation stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// At nothing up to this.
    pub low: i64,
    /// At everything from this on.
    pub high: i64,
}

/// Utilisation and clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Of the time.
    pub utilization: i64,
    /// Of the greatest clock.
    pub clock: i64,
}

impl Default for Derived {
    fn default() -> Derived {
        let (minute, ten_minutes) = (Span::from_secs(60), Span::from_secs(600));
        Derived {
            spinning: Load { utilization: 95_000, power: 35_000 },
            idle_power: Load { utilization: 5_000, power: 50_000 },
            stalled: Pinned { low: 1_000, high: 99_000 },
            clock_held: Held { utilization: 50_000, clock: 70_000 },
            thermal_slope: minute,
            ecc_rate: ten_minutes,
            memory_slope: ten_minutes,
            straggler: minute,
        }
    }
}

impl Derived {
    /// Whether all is as without a word of it.
    pub(super) fn is_default(&self) -> bool {
        *self == Derived::default()
    }
}
