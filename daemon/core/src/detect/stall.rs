//! No step for a time: values may come, but they are all of one step. Where the run reports no steps, a value that differs from the
//! last one is progress.

use super::{Detect, Detector, Finding, Param, Range, Sample, Spec, no_check};
use crate::time::{MonoTime, Span};

pub(super) const SPEC: Spec = Spec {
    name: "stall",
    finds: "has made no step: its step, or its value where it has no step, did not change",
    params: &[Param {
        name: "after",
        what: "the time without a step",
        range: Range::Time { default: None, least: Span::from_secs(1), most: Span::from_secs(7 * 86_400) },
    }],
    waits: true,
    check: no_check,
    bytes: |_| 0,
    start,
};

#[derive(Debug, Clone)]
struct Stall {
    after: Span,
    moved: MonoTime,
    last: Option<Progress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Step(u64),
    Value(u64),
}

fn start(detect: &Detect, at: MonoTime) -> Box<dyn Detector> {
    Box::new(Stall { after: detect.time("after"), moved: at, last: None })
}

impl Detector for Stall {
    fn take(&mut self, Sample { value, at, step }: Sample) -> Option<Finding> {
        let now = step.map_or(Progress::Value(value.to_bits()), Progress::Step);
        if self.last.replace(now) != Some(now) {
            self.moved = self.moved.max(at);
        }
        self.wait(at)
    }

    fn wait(&self, now: MonoTime) -> Option<Finding> {
        let still = now.since(self.moved);
        Some(Finding { found: still >= self.after, score: still.0 as f64 / 1e9 })
    }

    fn skip(&mut self, now: MonoTime, length: Span) {
        self.moved = self.moved.skip(length, now);
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}
