//! What `Export` sends: the recordings of a run, one after another.
//!
//! Each daemon that judges a run begins a recording. Whoever replays the run needs all of them, and must see which of them cannot
//! be read. So each recording is announced, and a problem with one does not end the stream.

use super::follow::{Batch, Bounds, Source};
use failsafe_proto::{ErrorReason, v1};
use std::{collections::VecDeque, fs::File, io, path::PathBuf};
use tonic::Status;

/// Recordings that are read to their ends. At most one of them is open.
pub(super) struct Recordings {
    rest: VecDeque<(u32, PathBuf)>,
    of: u32,
    open: Option<(u32, File)>,
    /// Whether each is announced. Otherwise a problem ends the stream.
    announce: bool,
}

impl Recordings {
    /// Begins with the first of `paths`.
    ///
    /// # Errors
    /// None of them can be opened.
    pub(super) fn open(paths: VecDeque<(u32, PathBuf)>, announce: bool) -> io::Result<Recordings> {
        let mut last = Err(io::ErrorKind::NotFound.into());
        for (_, path) in &paths {
            last = File::open(path);
            if last.is_ok() {
                break;
            }
        }
        last?;
        let of = paths.back().map_or(0, |(number, _)| number + 1);
        Ok(Recordings { rest: paths, of, open: None, announce })
    }

    fn part(&self, number: u32, problem: Option<io::Error>) -> Result<Batch<v1::Chunk>, Status> {
        let missing = problem.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
        let problem = problem.map(|error| error.to_string()).unwrap_or_default();
        if !self.announce {
            return match problem.is_empty() {
                true => Ok(Batch { items: Vec::new(), more: true }),
                false => Err(ErrorReason::DataDamaged.status(format!("the recording cannot be read: {problem}"))),
            };
        }
        let part = v1::RecordingPart { number, of: self.of, problem, missing };
        Ok(Batch { items: vec![v1::Chunk { data: Vec::new(), part: Some(part) }], more: true })
    }
}

impl Source for Recordings {
    type Item = v1::Chunk;

    fn next(&mut self, bounds: &Bounds) -> Result<Batch<v1::Chunk>, Status> {
        let Some((number, file)) = &mut self.open else {
            let Some((number, path)) = self.rest.pop_front() else {
                return Ok(Batch { items: Vec::new(), more: false });
            };
            let opened = File::open(path);
            let problem = match opened {
                Ok(file) => {
                    self.open = Some((number, file));
                    None
                }
                Err(error) => Some(error),
            };
            return self.part(number, problem);
        };
        let mut data = vec![0; bounds.bytes()];
        match io::Read::read(file, &mut data) {
            Ok(0) => {
                self.open = None;
                Ok(Batch { items: Vec::new(), more: true })
            }
            Ok(n) => {
                data.truncate(n);
                Ok(Batch { items: vec![v1::Chunk { data, part: None }], more: true })
            }
            Err(error) => {
                let number = *number;
                self.open = None;
                self.part(number, Some(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(recordings: &mut Recordings) -> Vec<v1::Chunk> {
        let mut all = Vec::new();
        loop {
            let batch = recordings.next(&Bounds::new()).unwrap();
            all.extend(batch.items);
            if !batch.more {
                return all;
            }
        }
    }

    #[test]
    fn a_recording_that_cannot_be_read_is_announced_and_the_others_are_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = |number: u32| folder.path().join(number.to_string());
        let paths = |numbers: std::ops::Range<u32>| numbers.map(|number| (number, path(number))).collect();
        assert!(Recordings::open(paths(0..3), true).is_err(), "there is none");
        std::fs::write(path(1), "one").unwrap();
        // Reading a folder fails after it was opened.
        std::fs::create_dir(path(2)).unwrap();
        std::fs::write(path(3), "three").unwrap();
        let chunks = sent(&mut Recordings::open(paths(0..4), true).unwrap());
        let parts: Vec<(u32, bool)> =
            chunks.iter().filter_map(|c| c.part.as_ref()).map(|part| (part.number, part.problem.is_empty())).collect();
        assert_eq!(parts, [(0, false), (1, true), (2, true), (2, false), (3, true)]);
        assert!(chunks.iter().filter_map(|c| c.part.as_ref()).all(|part| part.of == 4));
        let data: Vec<&[u8]> = chunks.iter().filter(|c| c.part.is_none()).map(|c| c.data.as_slice()).collect();
        assert_eq!(data, [&b"one"[..], b"three"]);
        let chunks = sent(&mut Recordings::open(paths(3..4), false).unwrap());
        assert!(chunks.iter().all(|chunk| chunk.part.is_none()), "an earlier failsafectl does not expect it");
        let mut unreadable = Recordings::open(paths(2..3), false).unwrap();
        assert!(unreadable.next(&Bounds::new()).is_ok_and(|batch| batch.more));
        assert!(unreadable.next(&Bounds::new()).is_err(), "it ended as if it were whole");
    }
}
