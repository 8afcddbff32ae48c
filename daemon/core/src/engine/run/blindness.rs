//! What of a run is not seen: sensors that are blind, signals that cannot be read, and metrics that nobody reports.

use crate::{
    engine::{STALE_AFTER, sampled},
    input::{Unread, named},
    policy::{Condition, Policy},
    signal::{Kind, Signal, Source},
    subject::{GpuId, Subject},
    time::{MonoTime, Span},
};
use std::collections::{BTreeMap, BTreeSet};

/// A sensor; with a GPU, only what it reads of that GPU.
pub(super) type Sensor = (Source, Option<GpuId>);

/// Owned by its run.
#[derive(Debug, Clone)]
pub(super) struct Blindness {
    /// The sensors that the policy needs.
    needs: BTreeSet<Source>,
    /// When each sampled sensor last had a value.
    heard: BTreeMap<Source, MonoTime>,
    /// Sensors that are blind.
    pub(super) sensors: BTreeSet<Sensor>,
    /// Signals that cannot be read, with the reason.
    pub(super) unread: BTreeMap<(GpuId, Kind), String>,
    /// Metrics that rules need and nobody reports, with the reason.
    pub(super) silent: BTreeMap<String, String>,
}

impl Blindness {
    /// Of a run that has just begun: nothing is missing yet.
    pub(super) fn new(policy: &Policy) -> Blindness {
        Blindness {
            needs: policy.needs(),
            heard: BTreeMap::new(),
            sensors: BTreeSet::new(),
            unread: BTreeMap::new(),
            silent: BTreeMap::new(),
        }
    }

    /// Whether something is not seen of a run with these GPUs.
    pub(super) fn is_any(&self, has_gpu: impl Fn(&GpuId) -> bool) -> bool {
        let sensor = self.sensors.iter().any(|(_, gpu)| gpu.as_ref().is_none_or(&has_gpu));
        sensor || !self.unread.is_empty() || !self.silent.is_empty()
    }

    /// A value has come: its sensor sees.
    pub(super) fn hear(&mut self, signal: &Signal) {
        // An event shows that its hook works, not that the counters are read.
        if sampled(signal.source) && signal.kind != Kind::Event {
            self.heard.insert(signal.source, signal.at);
            self.sensors.remove(&(signal.source, None));
            if let (Subject::Gpu(gpu), false) = (&signal.subject, self.sensors.is_empty()) {
                self.sensors.remove(&(signal.source, Some(gpu.clone())));
            }
        }
    }

    /// The sensors stood still for this long: they had no time to have a value.
    pub(super) fn paused(&mut self, registered: MonoTime, at: MonoTime, length: Span) {
        for source in self.needs.iter().copied().filter(|source| sampled(*source)) {
            let heard = self.heard.entry(source).or_insert(registered);
            *heard = heard.skip(length, at);
        }
    }

    /// Sampled sensors that the policy needs and that have had no value for too long.
    pub(super) fn stale(&self, registered: MonoTime, has_gpus: bool, now: MonoTime) -> Vec<Source> {
        let stale = |source: &Source| {
            let heard = self.heard.get(source).copied().unwrap_or(registered);
            let expected = *source != Source::Nvml || has_gpus;
            sampled(*source) && expected && now.since(heard) > STALE_AFTER
        };
        self.needs.iter().copied().filter(stale).collect()
    }

    /// A sensor is blind. Whether that is new, and the policy needs it.
    pub(super) fn goes_blind(&mut self, sensor: Sensor) -> bool {
        self.needs.contains(&sensor.0) && self.sensors.insert(sensor)
    }

    /// A signal cannot be read. Whether that is new, and not covered by a sensor that is blind.
    pub(super) fn cannot_read(&mut self, unread: &Unread, why: &str) -> bool {
        let blind = self.sensors.contains(&(unread.source, None))
            || self.sensors.contains(&(unread.source, Some(unread.gpu.clone())));
        !blind && self.unread.insert((unread.gpu.clone(), unread.kind.clone()), why.to_owned()).is_none()
    }

    /// Whether anything is not seen, also of GPUs that the run no longer has.
    pub(super) fn is_anything(&self) -> bool {
        !(self.sensors.is_empty() && self.unread.is_empty() && self.silent.is_empty())
    }

    /// All that is not seen, one line each; of metrics the first [`NAMED`].
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut out = self.lines(|_| true, |_| true);
        out.extend(named(self.silent.values()));
        out
    }

    /// What a condition needs and is not seen, one line each; of metrics the first [`NAMED`].
    pub(super) fn reasons_of(&self, condition: &Condition) -> Vec<String> {
        let (sources, reads) = (condition.sources(), condition.reads());
        let mut out = self.lines(|source| sources.contains(source), |kind| reads.contains(&kind));
        if !self.silent.is_empty() {
            out.extend(named(condition.metrics().iter().filter_map(|name| self.silent.get(*name))));
        }
        out
    }

    /// Whether something that a condition needs is not seen.
    pub(super) fn hides(&self, condition: &Condition) -> bool {
        let is_silent = || condition.metrics().iter().any(|name| self.silent.contains_key(*name));
        let sensor = || {
            let sources = condition.sources();
            self.sensors.iter().any(|(of, _)| sources.contains(of))
        };
        let unread = || {
            let reads = condition.reads();
            self.unread.keys().any(|(_, of)| reads.contains(&of))
        };
        (!self.silent.is_empty() && is_silent())
            || (!self.sensors.is_empty() && sensor())
            || (!self.unread.is_empty() && unread())
    }

    fn lines(&self, source: impl Fn(&Source) -> bool, kind: impl Fn(&Kind) -> bool) -> Vec<String> {
        let sensors = self.sensors.iter().filter(|(of, _)| source(of)).map(|(source, gpu)| match gpu {
            Some(gpu) => format!("the {source} sensor does not see {gpu}"),
            None => format!("the {source} sensor is blind"),
        });
        let unread = self.unread.iter().filter(|((_, of), _)| kind(of));
        let unread = unread.map(|((gpu, kind), why)| format!("{kind} of {gpu} cannot be read: {why}"));
        sensors.chain(unread).collect()
    }
}
