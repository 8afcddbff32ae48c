//! Signals of one GPU that cannot be read: since when, and what of that the core gets.
//!
//! Pure. One failure is none: a call may fail once. A signal that has failed at least twice, for [`KEEPS_FAILING`], is unread,
//! which is sent again now and then, since a run may have come to the GPU meanwhile, and once more when it is read again.

use crate::sensors::{
    nvml::{Current, Sample},
    repeat::REPEAT_AFTER,
};
use failsafe_core::{GpuId, Kind, MonoTime, time::Span};
use std::collections::BTreeMap;

/// How long a signal fails before it is unread.
const KEEPS_FAILING: Span = Span::from_secs(10);

/// What fails.
#[derive(Default)]
pub(in crate::pipeline) struct Failing(BTreeMap<Kind, Failed>);

struct Failed {
    since: MonoTime,
    times: u32,
    why: String,
    /// It had a value before.
    was_read: bool,
    reported: Option<MonoTime>,
}

/// A signal that is unread, with the reason; without one it is read again.
pub(in crate::pipeline) type Change = (Kind, Option<String>);

impl Failing {
    /// Takes a sample of NVML, before `current` does; what is to be sent.
    pub(super) fn take(&mut self, current: &Current, sample: &Sample) -> Vec<Change> {
        // Where nothing at all is read, the GPU is blind as a whole, which is reported by itself; not so of a MIG device.
        if sample.readings.is_empty() && !GpuId(sample.gpu.clone()).is_mig() {
            return Vec::new();
        }
        // XIDs are no signal with a value; the kernel's log has them too.
        let failing = sample.failing.iter().filter_map(|(name, why)| Some((Kind::parse(name)?, why.as_str())));
        let was_read = |kind: &Kind| current.values.contains_key(kind);
        let answered = |kind: &Kind| {
            sample.readings.iter().any(|(read, _)| read == kind)
                || sample.unsupported.iter().any(|name| *name == kind.to_string())
        };
        self.judge(MonoTime(sample.mono_ns), failing, was_read, answered)
    }

    /// Takes what fails now, with the reasons. `was_read`: the signal had a value before; `answered`: it has one now, or is not supported.
    pub(in crate::pipeline) fn judge<'s>(
        &mut self,
        at: MonoTime,
        failing: impl Iterator<Item = (Kind, &'s str)>,
        was_read: impl Fn(&Kind) -> bool,
        answered: impl Fn(&Kind) -> bool,
    ) -> Vec<Change> {
        for (kind, why) in failing {
            let was_read = was_read(&kind);
            let new = || Failed { since: at, times: 0, why: String::new(), was_read, reported: None };
            let failed = self.0.entry(kind).or_insert_with(new);
            failed.times = failed.times.saturating_add(1);
            why.clone_into(&mut failed.why);
        }
        let mut out = Vec::new();
        self.0.retain(|kind, failed| {
            let over = answered(kind);
            if over && failed.reported.is_some() {
                out.push((kind.clone(), None));
            }
            !over
        });
        let repeat = Span(u64::try_from(REPEAT_AFTER.as_nanos()).unwrap_or(u64::MAX));
        for (kind, failed) in &mut self.0 {
            let due = failed.reported.is_none_or(|last| at.since(last) >= repeat);
            if failed.times > 1 && at.since(failed.since) >= KEEPS_FAILING && due {
                failed.reported = Some(at);
                out.push((kind.clone(), Some(failed.why.clone())));
            }
        }
        out
    }

    /// What no rule can watch now: what keeps failing, and what was never read.
    pub(super) fn unwatched(&self) -> BTreeMap<Kind, String> {
        let unwatched = self.0.iter().filter(|(_, failed)| failed.reported.is_some() || !failed.was_read);
        unwatched.map(|(kind, failed)| (kind.clone(), failed.why.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(s: u64, temperature: bool) -> Sample {
        let mut readings = vec![(Kind::GpuUtilization, 0)];
        let mut failing = Vec::new();
        if temperature {
            readings.push((Kind::GpuTemperature, 60_000));
        } else {
            failing.push(("gpu.temperature".to_owned(), "unknown".to_owned()));
        }
        Sample { mono_ns: s * 1_000_000_000, readings, failing, ..Sample::default() }
    }

    #[test]
    fn a_signal_is_unread_once_it_keeps_failing_and_until_it_is_read() {
        let (mut failing, mut current) = (Failing::default(), Current::default());
        let mut at = |s, reads| {
            let sample = sample(s, reads);
            let inputs = failing.take(&current, &sample);
            current.take(&sample);
            (inputs, failing.unwatched().len())
        };
        assert_eq!(at(0, true), (vec![], 0));
        assert_eq!(at(1, false), (vec![], 0), "a call may fail once");
        assert_eq!(at(10, false), (vec![], 0), "not for long enough");
        let unread = (Kind::GpuTemperature, Some("unknown".to_owned()));
        assert_eq!(at(11, false), (vec![unread.clone()], 1));
        assert_eq!(at(12, false), (vec![], 1), "reported once");
        assert_eq!(at(15, false), (vec![unread], 1), "and again for runs that came later");
        assert_eq!(at(16, true), (vec![(Kind::GpuTemperature, None)], 0));
        assert_eq!(at(17, true), (vec![], 0));
    }

    #[test]
    fn of_a_gpu_of_which_nothing_is_read_blindness_is_reported_and_of_a_mig_device_what_it_lacks() {
        let reported = |gpu: &str| {
            let mut failing = Failing::default();
            let silent = |s| Sample { gpu: gpu.into(), readings: Vec::new(), ..sample(s, false) };
            failing.take(&Current::default(), &silent(0));
            failing.take(&Current::default(), &silent(11)).len()
        };
        assert_eq!((reported("GPU-1"), reported("MIG-1")), (0, 1));
    }

    #[test]
    fn what_was_never_read_is_unwatched_at_once() {
        let mut failing = Failing::default();
        failing.take(&Current::default(), &sample(0, false));
        assert_eq!(failing.unwatched().keys().collect::<Vec<_>>(), [&Kind::GpuTemperature]);
    }

    #[test]
    fn one_long_pause_after_one_failure_is_no_proof() {
        let (mut failing, current) = (Failing::default(), Current::default());
        failing.take(&current, &sample(0, false));
        let other = Sample { failing: Vec::new(), ..sample(60, false) };
        assert_eq!(failing.take(&current, &other), vec![], "it was not asked for again");
    }
}
