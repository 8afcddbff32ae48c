//! Whether the pipeline's thread stood still: the daemon was stopped, the node was, or the thread hung.

use failsafe_core::{MonoTime, time::Span};

/// A thread that has not come by for this long stood still. It comes by at least once a second, and longer than the time after which
/// the heart stops ([`super::pulse::STUCK`]).
const PAUSE: Span = Span::from_secs(4);

/// When the thread last came by.
#[derive(Debug, Default)]
pub(super) struct Progress(Option<MonoTime>);

impl Progress {
    /// The thread comes by: for how long it had stood still, where it had.
    pub(super) fn pause(&mut self, now: MonoTime) -> Option<Span> {
        let last = self.0.replace(now)?;
        Some(now.since(last)).filter(|length| *length >= PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_comes_by_every_second_has_not_stood_still() {
        let mut progress = Progress::default();
        let at = |s: u64| MonoTime(s * 1_000_000_000);
        assert_eq!(progress.pause(at(100)), None, "it has just begun");
        assert_eq!((101..110).find_map(|s| progress.pause(at(s))), None);
        assert_eq!(progress.pause(at(140)), Some(Span::from_secs(31)));
        assert_eq!(progress.pause(at(141)), None);
    }
}
