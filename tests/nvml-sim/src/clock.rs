//! Scenario time in seconds: the wall clock since the first `nvmlInit`, or the number
//! that a test keeps in a file, so that it steps time without sleeping.

use crate::scenario::ClockSource;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Tells scenario time. Time zero is when it was made.
#[derive(Debug)]
pub(crate) struct Clock {
    zero: Instant,
    /// The last good reading of the file: what holds while the file is unreadable
    /// (as in the moment in which a test rewrites it).
    last: f64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { zero: Instant::now(), last: 0.0 }
    }

    /// Seconds since time zero by `source`.
    pub(crate) fn now(&mut self, source: &ClockSource) -> f64 {
        self.last = match source {
            ClockSource::Wall => self.zero.elapsed().as_secs_f64(),
            ClockSource::File(path) => read_seconds(path).unwrap_or(self.last),
        };
        self.last
    }
}

/// The number of seconds in `path`.
///
/// # Errors
/// Why there is none, with the path.
pub(crate) fn read_seconds(path: &Path) -> Result<f64, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("cannot read the clock file {}: {e}", path.display()))?;
    match text.trim().parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err(format!("the clock file {} holds {text:?}, not seconds", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_time_and_a_torn_one_keeps_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("now");
        let source = ClockSource::File(path.clone());
        let mut clock = Clock::new();
        assert_eq!(clock.now(&source), 0.0, "no file yet");
        fs::write(&path, "4.25\n").unwrap();
        assert_eq!(clock.now(&source), 4.25);
        fs::write(&path, "").unwrap();
        assert_eq!(clock.now(&source), 4.25);
        assert!(read_seconds(&path).unwrap_err().contains("now holds \"\""));
    }
}
