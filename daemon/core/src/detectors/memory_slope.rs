//! GPU memory that only ever grows: bytes an hour; 0 as soon as some was given back.

use super::{Detector, Sample, window::Window};
use crate::{signal::Kind, time::Span};

const HOUR: Span = Span::from_secs(3_600);

#[derive(Debug, Clone)]
pub(super) struct MemorySlope {
    window: Window,
    last: Option<i64>,
}

impl MemorySlope {
    pub(super) fn new(over: Span) -> MemorySlope {
        MemorySlope { window: Window::new(over), last: None }
    }
}

impl Detector for MemorySlope {
    fn take(&mut self, seen: &Sample<'_>) -> Option<i64> {
        let memory = seen.of(&Kind::GpuMemory)?;
        let gave_back = self.last.replace(memory).is_some_and(|before| memory < before);
        if gave_back {
            self.window.clear();
        }
        self.window.push(memory, seen.at);
        if gave_back { Some(0) } else { self.window.slope(HOUR) }
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}
