//! Where the states begin that `gpu.derived.*` tells.

use super::Builder;
use crate::{
    policy::{
        Derived,
        raw::{Literal, RawDerived, RawOver},
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
        if let Some(spinning) = &raw.spinning {
            self.share("spinning.utilization", spinning.utilization.as_ref(), &mut derived.spinning.utilization);
            self.share("spinning.power", spinning.power.as_ref(), &mut derived.spinning.power);
        }
        if let Some(idle) = &raw.idle_power {
            self.share("idle_power.utilization", idle.utilization.as_ref(), &mut derived.idle_power.utilization);
            self.share("idle_power.power", idle.power.as_ref(), &mut derived.idle_power.power);
        }
        if let Some(held) = &raw.clock_held {
            self.share("clock_held.utilization", held.utilization.as_ref(), &mut derived.clock_held.utilization);
            self.share("clock_held.clock", held.clock.as_ref(), &mut derived.clock_held.clock);
        }
        if let Some(stalled) = &raw.stalled {
            let both = stalled.get_ref();
            self.share("stalled.low", both.low.as_ref(), &mut derived.stalled.low);
            self.share("stalled.high", both.high.as_ref(), &mut derived.stalled.high);
            if derived.stalled.low >= derived.stalled.high {
                let (low, high) = (derived.stalled.low, derived.stalled.high);
                let show = |share| Unit::MilliPercent.show(share);
                let message =
                    format!("derived.stalled: low is {} and high {}, expected low below high", show(low), show(high));
                self.error(stalled.span(), message, None);
            }
        }
        self.over("thermal_slope", raw.thermal_slope.as_ref(), &mut derived.thermal_slope);
        self.over("ecc_rate", raw.ecc_rate.as_ref(), &mut derived.ecc_rate);
        self.over("memory_slope", raw.memory_slope.as_ref(), &mut derived.memory_slope);
        self.over("straggler", raw.straggler.as_ref(), &mut derived.straggler);
        derived
    }

    fn share(&mut self, field: &str, given: Option<&Spanned<Literal>>, into: &mut i64) {
        let Some(given) = given else { return };
        let (value, shown) = match given.get_ref() {
            Literal::Text(text) => (unit::parse(text, Unit::MilliPercent).ok(), text.clone()),
            Literal::Integer(n) => (None, n.to_string()),
            Literal::Float(n) => (None, n.to_string()),
        };
        match value {
            Some((value @ 0..=100_000, false)) => *into = value,
            _ => {
                let message = format!("derived.{field}: `{shown}`, expected a share from \"0 %\" to \"100 %\"");
                self.error(given.span(), message, None);
            }
        }
    }

    fn over(&mut self, field: &str, given: Option<&RawOver>, into: &mut Span) {
        let Some(text) = given.map(|given| &given.over) else { return };
        let Some(span) = self.duration(&format!("derived.{field}.over"), text) else { return };
        if (SHORTEST..=LONGEST).contains(&span) {
            *into = span;
        } else {
            let message =
                format!("derived.{field}.over: `{}`, expected a time from {SHORTEST} to {LONGEST}", text.get_ref());
            self.error(text.span(), message, None);
        }
    }
}
