//! Described inputs as a node would pass them on to the engine, or hold them back.

use super::{Bench, of_rule};
use crate::{events::with, file::What};
use failsafe_core::{
    Actor, Input, Kind, MonoTime, Subject, Value,
    actor::LocalPeer,
    event::{Event, EventKind},
    input::{Control, Gap, Unread},
    policy::condition::event_source,
    signal::{Signal, Source},
    subject::GpuId,
    time::Span,
};

/// As the samplers of the daemon: an unchanged value is passed on again after this.
const REPEAT_AFTER: Span = Span::from_secs(4);

impl Bench<'_> {
    pub(super) fn value(&mut self, kind: &Kind, gpus: &[GpuId], value: Value) {
        let source = kind.source();
        let stands_still = matches!(kind, Kind::Metric(_)) && self.frozen();
        if self.ended || stands_still || self.blind.contains_key(&source) {
            self.ran.held_back += 1;
            return;
        }
        if let Kind::Metric(name) = kind {
            if let Some(again) = self.silence.heard(self.run, name, self.now) {
                self.step(&Input::Silent(again));
            }
            self.signal(source, Subject::Run(self.run), kind.clone(), value);
            return;
        }
        let of = if gpus.is_empty() { vec![None] } else { gpus.iter().cloned().map(Some).collect() };
        for gpu in of {
            let key = (kind.clone(), gpu.clone());
            if gpu.as_ref().is_some_and(|gpu| self.unread.contains_key(&(kind.clone(), gpu.clone()))) {
                self.ran.held_back += 1;
                continue;
            }
            let told = self.told.get(&key);
            if told.is_some_and(|(last, at)| *last == value && self.now.since(*at) < REPEAT_AFTER) {
                continue;
            }
            self.told.insert(key, (value.clone(), self.now));
            let subject = gpu.map_or(Subject::Run(self.run), Subject::Gpu);
            self.signal(source, subject, kind.clone(), value.clone());
        }
    }

    pub(super) fn other(&mut self, line: usize, what: &What) {
        if self.ended {
            self.ran.held_back += 1;
            return;
        }
        match what {
            What::Values { .. } => {}
            What::Event { event, verdict, assurance, process, gpus } => {
                let kind = event.kind();
                let own = event_source(kind) == Source::Ebpf && !matches!(kind, EventKind::Leave);
                if own && self.frozen() || self.blind.contains_key(&event_source(kind)) {
                    self.ran.held_back += 1;
                    return;
                }
                let latched = self.state.run(self.run).is_some_and(|view| view.blocked);
                let judged = match verdict {
                    Some(verdict) => Ok(with(event.clone(), *verdict, *assurance)),
                    None => self.kernel.judge(event, latched),
                };
                let event = match judged {
                    Ok(event) => event,
                    Err(why) => {
                        let wrong = (line, format!("event {event}: {why}"));
                        if !self.ran.broken.contains(&wrong) {
                            self.ran.broken.push(wrong);
                        }
                        return;
                    }
                };
                let process = || Subject::Process { run: self.run, process: process.clone() };
                let subjects = match (&event, gpus.as_slice()) {
                    (Event::Xid { .. } | Event::Gpu { .. }, gpus) => gpus.iter().cloned().map(Subject::Gpu).collect(),
                    (Event::ForeignThaw { .. } | Event::Latched | Event::Drift { .. }, _) => {
                        vec![Subject::Run(self.run)]
                    }
                    _ => vec![process()],
                };
                for subject in subjects {
                    self.signal(event_source(kind), subject, Kind::Event, Value::Event(event.clone()));
                }
            }
            What::Blind(source, lasts) => {
                self.blind.insert(*source, MonoTime(self.now.0.saturating_add(lasts.0)));
                self.gap(*source, true, 0, "the sensor is blind");
            }
            What::Lost(source) => self.gap(*source, false, 1, "an event was lost"),
            What::Unread(kind, gpus, lasts) => {
                for gpu in gpus {
                    let until = MonoTime(self.now.0.saturating_add(lasts.0));
                    self.unread.insert((kind.clone(), gpu.clone()), until);
                    self.read_again(kind.clone(), gpu.clone(), Some("the test states it"));
                }
            }
            What::Operator(command) => {
                let (seq, at) = (self.number(), self.now);
                let peer = LocalPeer { uid: 0, gid: None, pid: None, start_ticks: None, cgroup: None };
                let (actor, role, reason) = (Actor::Local(peer), "admin".to_owned(), "the test".to_owned());
                self.step(&Input::Control(Control { seq, at, run: self.run, command: *command, actor, role, reason }));
            }
            What::Manifest(values) => {
                self.step(&Input::Manifest { run: self.run, values: values.clone(), at: self.now });
            }
            What::Mode(mode) => self.step(&Input::Mode { run: self.run, mode: *mode, at: self.now }),
            What::Ends(series) => {
                self.step(&Input::SeriesEnded { run: self.run, series: series.clone(), at: self.now });
            }
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn gap(&mut self, source: Source, blind: bool, lost: u64, what: &str) {
        let (seq, at) = (self.number(), self.now);
        let what = what.to_owned();
        self.step(&Input::Gap(Gap { seq, at, source, run: None, gpu: None, what, lost, blind }));
    }

    pub(super) fn read_again(&mut self, kind: Kind, gpu: GpuId, why: Option<&str>) {
        let (seq, at, source, why) = (self.number(), self.now, Source::Nvml, why.map(str::to_owned));
        self.step(&Input::Unread(Unread { seq, at, source, gpu, kind, why }));
    }

    pub(super) fn signal(&mut self, source: Source, subject: Subject, kind: Kind, value: Value) {
        let (seq, at) = (self.number(), self.now);
        let signal = Signal { seq, at, source, subject, kind, value, repeats: 0 };
        let before = self.ran.decisions.len();
        let judged: Vec<bool> = self.policy.rules.iter().map(|rule| judges(rule, &signal)).collect();
        self.step(&Input::Signal(signal));
        for (rule, coverage) in judged.iter().zip(&mut self.ran.coverage.rules) {
            let matched =
                self.ran.decisions.iter().skip(before).any(|decision| of_rule(decision) == Some(&coverage.id));
            if *rule && !matched {
                coverage.quiet += 1;
            }
        }
    }
}

/// Whether the rule judges the signal.
fn judges(rule: &failsafe_core::policy::Rule, signal: &Signal) -> bool {
    match &signal.value {
        Value::Event(event) => rule.when.events().iter().any(|wanted| wanted.kind == event.kind()),
        _ => match &signal.kind {
            Kind::Metric(name) => rule.when.metrics().contains(name.as_str()),
            kind => rule.when.signals().iter().any(|own| *own == kind || own.made_of().contains(kind)),
        },
    }
}
