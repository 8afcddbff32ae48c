//! How fast a GPU warms up: degrees a minute. A fan that failed shows before any threshold is reached.

use super::{Detector, Sample, window::Window};
use crate::{signal::Kind, time::Span};

const MINUTE: Span = Span::from_secs(60);

#[derive(Debug, Clone)]
pub(super) struct ThermalSlope(Window);

impl ThermalSlope {
    pub(super) fn new(over: Span) -> ThermalSlope {
        ThermalSlope(Window::new(over))
    }
}

impl Detector for ThermalSlope {
    fn take(&mut self, seen: &Sample<'_>) -> Option<i64> {
        self.0.push(seen.of(&Kind::GpuTemperature)?, seen.at);
        self.0.slope(MINUTE)
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}
