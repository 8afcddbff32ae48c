//! Memory errors an hour, corrected and uncorrected together.

use super::{Detector, Sample, window::Window};
use crate::{signal::Kind, time::Span};

const HOUR: Span = Span::from_secs(3_600);

#[derive(Debug, Clone)]
pub(super) struct EccRate {
    window: Window,
    total: i64,
}

impl EccRate {
    pub(super) fn new(over: Span) -> EccRate {
        EccRate { window: Window::new(over), total: 0 }
    }
}

impl Detector for EccRate {
    fn take(&mut self, seen: &Sample<'_>) -> Option<i64> {
        if !matches!(seen.kind, Kind::GpuEccCorrected | Kind::GpuEccUncorrected) {
            return None;
        }
        let part = |kind: &Kind| seen.last(kind).unwrap_or(0);
        // Both have been seen, or the second would look like a burst when it first comes.
        let both = seen.last(&Kind::GpuEccCorrected).is_some() && seen.last(&Kind::GpuEccUncorrected).is_some();
        let total = part(&Kind::GpuEccCorrected).saturating_add(part(&Kind::GpuEccUncorrected));
        if !both || total < self.total {
            // Not known, or the driver was loaded anew.
            self.window.clear();
        }
        self.total = total;
        if !both {
            return None;
        }
        self.window.push(total, seen.at);
        self.window.slope(HOUR)
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}
