//! Detectors that judge the values of one signal as they come: `detect` in a test of a condition. Pure data in, one finding out.
//!
//! ```text
//! Detect (of the policy) ─ start ─► Detector (of one series) ─ take(value) ─► Finding: found or not, with a score
//! ```
//!
//! One file for each method, with its [`Spec`]: its name, what it finds, its parameters with their ranges, and how it starts. The
//! list is [`ALL`]; the policy's parser, `policy explain` and the documents' test read it, so that a new method is one file and one
//! line here.
//!
//! Invariants: a detector allocates only when it starts; the memory of each is known before ([`Detect::bytes`]); values that are not
//! finite are not given to it; it uses only arithmetic that is the same on every machine, so that a replay finds the same. Who changes
//! what a detector finds changes what the engine decides: see [`crate::replay::ENGINE`].

mod adwin;
mod burn_rate;
mod collapse;
mod cusum;
mod ewma_band;
mod identical;
mod ks;
mod leak;
mod page_hinkley;
mod param;
mod plateau;
mod points;
mod psi;
mod quantile;
mod rate;
mod ring;
mod robust_z;
mod stall;
mod stored;

pub use param::{Given, Param, Range};

use crate::{
    time::{MonoTime, Span},
    unit::Unit,
};
use std::{collections::BTreeMap, fmt};

/// Every method, in the order of the reference.
pub const ALL: &[&Spec] = &[
    &robust_z::SPEC,
    &ewma_band::SPEC,
    &cusum::SPEC,
    &page_hinkley::SPEC,
    &adwin::SPEC,
    &ks::SPEC,
    &psi::SPEC,
    &collapse::SPEC,
    &plateau::SPEC,
    &identical::SPEC,
    &stall::SPEC,
    &quantile::SPEC,
    &burn_rate::SPEC,
    &leak::SPEC,
    &rate::SPEC,
];

/// The memory that the detectors of one policy may need for each series.
pub const MAX_BYTES: usize = 256 * 1024;

/// A method.
pub struct Spec {
    /// Its name in policies.
    pub name: &'static str,
    /// What it finds, after "the signal": "is far from ...".
    pub finds: &'static str,
    /// Its parameters, in the order of the reference.
    pub params: &'static [Param],
    /// It waits for something that does not come: it is judged as time passes, too.
    pub waits: bool,
    /// Checks what the ranges of single parameters cannot: the parameter and what is expected of it.
    check: fn(&Detect) -> Result<(), (&'static str, String)>,
    /// The memory of one started detector beside its own fields.
    bytes: fn(&Detect) -> usize,
    start: fn(&Detect, MonoTime) -> Box<dyn Detector>,
}

/// A method with its parameters, as a policy has it. Holds only what its [`Spec`] allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detect {
    method: &'static str,
    given: BTreeMap<&'static str, Given>,
}

/// One value of a signal.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Finite.
    pub value: f64,
    /// When it came.
    pub at: MonoTime,
    /// The step of the training, where the run reported one.
    pub step: Option<u64>,
}

/// What a detector found in the value that came last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// Whether it holds.
    pub found: bool,
    /// What is compared with the limit.
    pub score: f64,
}

/// The state of one method over one series.
pub trait Detector: fmt::Debug + Send + Sync {
    /// Takes a value. `None`: it has not seen enough to judge.
    fn take(&mut self, sample: Sample) -> Option<Finding>;
    /// What it finds because time has passed; only of one that waits.
    fn wait(&self, _now: MonoTime) -> Option<Finding> {
        None
    }
    /// Nothing could come for this long until now: the time does not count.
    fn skip(&mut self, _now: MonoTime, _length: Span) {}
    /// Finds what it found as part of that earlier engine. Called once, before the first value.
    fn decide_as(&mut self, _engine: u32) {}
    /// For a copy of the state.
    fn copy(&self) -> Box<dyn Detector>;
}

/// A started detector.
#[derive(Debug)]
pub struct Started(Box<dyn Detector>);

impl Clone for Started {
    fn clone(&self) -> Started {
        Started(self.0.copy())
    }
}

impl std::ops::Deref for Started {
    type Target = dyn Detector;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl std::ops::DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

/// The method of that name.
pub fn method(name: &str) -> Option<&'static Spec> {
    ALL.iter().copied().find(|spec| spec.name == name)
}

impl Spec {
    /// The parameter of that name.
    pub fn param(&self, name: &str) -> Option<&'static Param> {
        self.params.iter().find(|param| param.name == name)
    }
}

impl Detect {
    /// The method with these parameters; those that are not given have their default.
    ///
    /// # Errors
    /// A parameter and what is expected of it. An empty name stands for the method.
    pub fn new(spec: &'static Spec, given: BTreeMap<&'static str, Given>) -> Result<Detect, (&'static str, String)> {
        let mut detect = Detect { method: spec.name, given };
        for param in spec.params {
            match detect.given.get(param.name) {
                Some(given) => param.check(given).map_err(|expected| (param.name, expected))?,
                None => {
                    let default = param.default();
                    let default = default.ok_or_else(|| (param.name, param.expected()))?;
                    detect.given.insert(param.name, default);
                }
            }
        }
        if let Some(name) = detect.given.keys().find(|name| spec.param(name).is_none()) {
            return Err((name, format!("no parameter of {}", spec.name)));
        }
        (spec.check)(&detect)?;
        Ok(detect)
    }

    /// Its method.
    pub fn spec(&self) -> &'static Spec {
        // A value of this type has the name of a method.
        method(self.method).unwrap_or(&robust_z::SPEC)
    }

    /// The memory that it needs for each series, in bytes.
    pub fn bytes(&self) -> usize {
        // Its fields, and what the heap adds.
        512 + (self.spec().bytes)(self)
    }

    /// Starts it for one series.
    pub fn start(&self, at: MonoTime) -> Started {
        Started((self.spec().start)(self, at))
    }

    /// Its parameters in words, as a policy has them; `unit` is that of the signal.
    pub fn params(&self, unit: Unit) -> String {
        let shown = self.spec().params.iter().filter_map(|param| {
            let given = self.given.get(param.name)?;
            Some(format!("{} {}", param.name, given.show(unit)))
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    fn number(&self, name: &str) -> f64 {
        match self.given.get(name) {
            Some(Given::Number(real)) => real.0,
            Some(Given::Integer(value)) => *value as f64,
            _ => 0.0,
        }
    }

    fn count(&self, name: &str) -> usize {
        let Some(Given::Count(count)) = self.given.get(name) else { return 0 };
        usize::try_from(*count).unwrap_or(usize::MAX)
    }

    fn time(&self, name: &str) -> Span {
        if let Some(Given::Time(span)) = self.given.get(name) { *span } else { Span(0) }
    }

    fn choice(&self, name: &str) -> &str {
        if let Some(Given::Choice(choice)) = self.given.get(name) { choice } else { "" }
    }

    fn side(&self) -> Side {
        match self.choice("side") {
            "above" => Side::Above,
            "below" => Side::Below,
            _ => Side::Both,
        }
    }
}

/// On which side of what is usual a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Above,
    Below,
    Both,
}

impl Side {
    const NAMES: &'static [&'static str] = &["above", "below", "both"];

    /// How far a deviation lies on this side; negative on the other.
    fn of(self, deviation: f64) -> f64 {
        match self {
            Side::Above => deviation,
            Side::Below => -deviation,
            Side::Both => deviation.abs(),
        }
    }
}

/// Nothing to check beside the ranges.
fn no_check(_: &Detect) -> Result<(), (&'static str, String)> {
    Ok(())
}

#[cfg(test)]
mod tests;
