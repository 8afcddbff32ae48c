//! The file that `export` writes: one recording as it is, several as a tar archive with a list at its end.
//!
//! The size of a recording is known only at its end, so its header is written when the next one begins.

use super::Sent;
use crate::bundle::archive::{BLOCK, header};
use crate::commands::replay::found::{LIST, List, Unreadable, name};
use failsafe_proto::v1 as pb;
use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

/// Writes what the daemon sends.
pub(in crate::commands) struct Writer<'a> {
    file: &'a File,
    bytes: u64,
    /// How many recordings the run has; an earlier daemon sends the latest only, and does not say.
    of: u32,
    /// Where the header of the recording belongs that is written now, and its number.
    open: Option<(u64, u32)>,
    unreadable: Vec<Unreadable>,
}

impl<'a> Writer<'a> {
    pub(in crate::commands) fn new(file: &'a File) -> Writer<'a> {
        Writer { file, bytes: 0, of: 0, open: None, unreadable: Vec::new() }
    }

    /// A recording begins, or cannot be read.
    pub(in crate::commands) fn begin(&mut self, part: pb::RecordingPart) -> io::Result<()> {
        let pb::RecordingPart { number, of, problem, missing } = part;
        self.of = self.of.max(of);
        self.close()?;
        if !problem.is_empty() {
            self.unreadable.push(Unreadable { number, problem, missing });
        } else if self.is_archive() {
            self.open = Some((self.bytes, number));
            self.write(&[0; BLOCK])?;
        }
        Ok(())
    }

    pub(in crate::commands) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.bytes += data.len() as u64;
        Ok(())
    }

    /// Writes the end.
    pub(in crate::commands) fn finish(mut self, run: &str) -> io::Result<Sent> {
        self.close()?;
        if self.is_archive() {
            let list = List { run: run.to_owned(), recordings: self.of, unreadable: self.unreadable.clone() };
            let list = serde_json::to_vec(&list)?;
            self.write(header(LIST, list.len() as u64)?.as_bytes())?;
            self.write(&list)?;
            self.pad()?;
            self.write(&[0; 2 * BLOCK])?;
        }
        Ok(Sent { bytes: self.bytes, recordings: self.of, unreadable: self.unreadable })
    }

    fn is_archive(&self) -> bool {
        self.of > 1
    }

    fn close(&mut self) -> io::Result<()> {
        let Some((at, number)) = self.open.take() else { return Ok(()) };
        let size = self.bytes - at - BLOCK as u64;
        self.pad()?;
        self.file.write_all_at(header(&name(number), size)?.as_bytes(), at)
    }

    fn pad(&mut self) -> io::Result<()> {
        let over = usize::try_from(self.bytes % BLOCK as u64).map_err(io::Error::other)?;
        if over > 0 { self.write(&[0; BLOCK][over..]) } else { Ok(()) }
    }
}
