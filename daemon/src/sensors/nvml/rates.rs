//! How often each group of readings, and each signal with a rate of its own, is read.

use crate::config::{Every, Rated};
use failsafe_core::signal::Kind;
use std::{collections::BTreeMap, time::Duration};

/// How often each group is asked for, and single signals; the first group with every pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    /// The group [`Rated::Second`].
    pub second: Duration,
    /// The group [`Rated::Slow`].
    pub slow: Duration,
    /// The group [`Rated::Rare`].
    pub rare: Duration,
    /// Signals with a rate of their own, in place of their group's.
    pub own: BTreeMap<Kind, Duration>,
    /// What is due within this is read now: passes wander a little.
    pub slack: Duration,
}

impl Rates {
    /// For samples this far apart, and slow groups at least this far, unless `every` says otherwise. Nothing is read more often
    /// than samples are taken.
    pub fn new(interval: Duration, slow: Duration, every: &Every) -> Rates {
        let given = |rated: &Rated| every.get(rated).map(|pace| interval.max(*pace));
        let own = every.iter().filter_map(|(rated, pace)| match rated {
            Rated::Signal(kind) => Some((kind.clone(), interval.max(*pace))),
            _ => None,
        });
        let second = interval.max(Duration::from_secs(1).min(slow));
        let slow = slow.max(interval);
        Rates {
            second: given(&Rated::Second).unwrap_or(second),
            slow: given(&Rated::Slow).unwrap_or(slow),
            rare: given(&Rated::Rare).unwrap_or(slow * 12),
            own: own.collect(),
            slack: interval / 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn slow_groups_are_never_faster_than_the_samples() {
        let of = |interval, slow| Rates::new(ms(interval), ms(slow), &Every::new());
        assert_eq!(
            (of(100, 5_000).second, of(100, 5_000).slow, of(100, 5_000).rare),
            (ms(1_000), ms(5_000), ms(60_000))
        );
        assert_eq!((of(10_000, 5_000).second, of(10_000, 5_000).slow), (ms(10_000), ms(10_000)));
        assert_eq!((of(50, 100).second, of(50, 100).slow), (ms(100), ms(100)), "tests make everything fast");
    }

    #[test]
    fn what_is_given_holds_and_nothing_is_read_between_samples() {
        let signal = |name| Rated::parse(name).unwrap();
        let every = Every::from([
            (Rated::Slow, ms(2_000)),
            (signal("gpu.power"), ms(10)),
            (signal("gpu.ecc_uncorrected"), ms(1_000)),
        ]);
        let rates = Rates::new(ms(500), ms(5_000), &every);
        assert_eq!((rates.second, rates.slow, rates.rare), (ms(1_000), ms(2_000), ms(60_000)));
        assert_eq!(rates.own, [(Kind::GpuPower, ms(500)), (Kind::GpuEccUncorrected, ms(1_000))].into());
    }
}
