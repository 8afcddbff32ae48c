//! Where the states begin that `gpu.derived.*` tells.

use super::Builder;
use crate::{
    policy::{
        Derived,
        diagnostic::quote,
        raw::{Literal, RawDerived},
    },
    time::Span,
    unit::{self, Unit},
};
use toml::Spanned;

/// A window shorter than a few samples says nothing; longer than a day, nothing in time.
const SHORTEST: Span = Span::from_secs(10);
const LONGEST: Span = Span::from_secs(86_400);

impl Builder<'_> {
    pub(super) fn derived(&mut self, raw: &RawDerived) -> Derived {
        let mut derived = Derived::default();
        for (name, into) in [
            (("spinning", "utilization"), &mut derived.spinning.utilization),
            (("spinning", "power"), &mut derived.spinning.power),
            (("idle_power", "utilization"), &mut derived.idle_power.utilization),
            (("idle_power", "power"), &mut derived.idle_power.power),
            (("clock_held", "utilization"), &mut derived.clock_held.utilization),
            (("clock_held", "clock"), &mut derived.clock_held.clock),
            (("stalled", "low"), &mut derived.stalled.low),
            (("stalled", "high"), &mut derived.stalled.high),
        ] {
            if let Some(given) = raw.shares.get(&name) {
                self.share(given, into);
            }
        }
        if let Some(stalled) = raw.stalled.clone().filter(|_| derived.stalled.low >= derived.stalled.high) {
            let show = |share| Unit::MilliPercent.show(share);
            let (low, high) = (show(derived.stalled.low), show(derived.stalled.high));
            self.error(stalled, format!("low is {low} and high {high}, expected low below high"), None);
        }
        for (name, into) in [
            ("thermal_slope", &mut derived.thermal_slope),
            ("ecc_rate", &mut derived.ecc_rate),
            ("memory_slope", &mut derived.memory_slope),
            ("straggler", &mut derived.straggler),
        ] {
            if let Some(given) = raw.overs.get(name) {
                self.over(given, into);
            }
        }
        derived
    }

    fn share(&mut self, given: &Spanned<Literal>, into: &mut i64) {
        let (value, shown) = match given.get_ref() {
            Literal::Text(text) => (unit::parse(text, Unit::MilliPercent).ok(), quote(text)),
            Literal::Integer(n) => (None, format!("`{n}`")),
            Literal::Float(n) => (None, format!("`{n}`")),
        };
        match value {
            Some((value @ 0..=100_000, false)) => *into = value,
            _ => {
                let message = format!("{shown}, expected a share from \"0 %\" to \"100 %\"");
                self.error(given.span(), message, None);
            }
        }
    }

    fn over(&mut self, text: &Spanned<String>, into: &mut Span) {
        let Some(span) = self.duration(text) else { return };
        if (SHORTEST..=LONGEST).contains(&span) {
            *into = span;
        } else {
            let message = format!("{}, expected a duration from {SHORTEST} to {LONGEST}", quote(text.get_ref()));
            self.error(text.span(), message, None);
        }
    }
}
