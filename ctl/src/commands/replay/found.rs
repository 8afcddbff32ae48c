//! Where the recordings of a run are: in one file, in an archive that `export` wrote, or in the run's folder.
//!
//! Each daemon that judges a run begins a recording, numbered from 0. A number without a recording is reported as missing here,
//! so that nobody takes the others for all.

use crate::exit::{Exit, Fail};
use failsafe_journal::{
    recorder::MAGIC,
    storage::{ReadAt, bounded::open_regular},
};
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

/// Name of the archive's list of recordings. It is the last file of the archive.
pub(in crate::commands) const LIST: &str = "recordings.json";

/// The list of recordings in an archive.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands) struct List {
    /// The id of the run.
    pub run: String,
    /// How many recordings the run has. Their numbers begin at 0.
    pub recordings: u32,
    /// Those that could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// A recording that `export` could not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::commands) struct Unreadable {
    /// Its number.
    pub number: u32,
    /// Why.
    pub problem: String,
    /// Whether its file does not exist.
    pub missing: bool,
}

/// The name of a recording's file in the run's folder and in an archive.
pub(in crate::commands) fn name(number: u32) -> String {
    format!("{number:04}.fsrec")
}

fn number(name: &str) -> Option<u32> {
    name.strip_suffix(".fsrec")?.parse().ok()
}

/// The recordings of a run.
#[derive(Debug)]
pub(in crate::commands) struct RunRecordings {
    /// In order.
    pub sources: Vec<Source>,
    pub lost: Vec<Lost>,
    /// Whether these are meant to be all recordings of the run, and not one file.
    pub all: bool,
}

/// A recording that can be read.
#[derive(Debug)]
pub(in crate::commands) struct Source {
    pub name: String,
    /// By its name; `None`: somebody named the file.
    pub number: Option<u32>,
    pub bytes: Section,
}

/// A recording that cannot be compared.
#[derive(Debug, Clone)]
pub(in crate::commands) struct Lost {
    pub name: String,
    pub number: Option<u32>,
    pub why: String,
    /// Whether there is no such file.
    pub missing: bool,
    /// What this is for the exit code.
    pub exit: Exit,
}

/// Opens a file that is to be regular. A pipe would wait for a writer.
fn open(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().read(true), OFlag::empty())
}

impl RunRecordings {
    /// What is at `path`.
    pub(in crate::commands) fn at(path: &Path) -> Result<RunRecordings, Fail> {
        let failed = |error: io::Error| Fail::because(format!("cannot read {}", path.display()), &error);
        if path.is_dir() {
            return RunRecordings::in_folder(path);
        }
        let file = open(path).map_err(failed)?;
        let mut begin = [0; 512];
        let read = file.read_at(&mut begin, 0).map_err(failed)?;
        let is_archive = read == begin.len() && !begin.starts_with(&MAGIC) && begin[257..].starts_with(b"ustar");
        if is_archive {
            return RunRecordings::in_archive(path, file);
        }
        let bytes = Section::whole(file).map_err(failed)?;
        let source = Source { name: path.display().to_string(), number: None, bytes };
        Ok(RunRecordings { sources: vec![source], lost: Vec::new(), all: false })
    }

    fn in_folder(path: &Path) -> Result<RunRecordings, Fail> {
        let failed = |error: io::Error| Fail::because(format!("cannot read {}", path.display()), &error);
        let mut sections = BTreeMap::new();
        for entry in path.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Some(number) = entry.file_name().to_str().and_then(number) {
                sections.insert(number, open(&entry.path()).and_then(Section::whole));
            }
        }
        let of = sections.last_key_value().map_or(0, |(last, _)| last + 1);
        if of == 0 {
            return Err(Fail::new(Exit::Error, format!("{} has no recordings (NNNN.fsrec)", path.display())));
        }
        Ok(RunRecordings::numbered(of, sections))
    }

    fn in_archive(path: &Path, file: File) -> Result<RunRecordings, Fail> {
        let failed = |error: io::Error| Fail::because(format!("cannot read the archive {}", path.display()), &error);
        let file = Arc::new(file);
        let len = file.metadata().map_err(failed)?.len();
        let mut sections = BTreeMap::new();
        let mut list = None;
        let mut archive = tar::Archive::new(&*file);
        for entry in archive.entries_with_seek().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let begin = entry.raw_file_position();
            let size = entry.header().entry_size().map_err(failed)?.min(len.saturating_sub(begin));
            let section = Section { file: file.clone(), begin, len: size };
            let named = entry.path().ok().and_then(|path| path.to_str().map(str::to_owned)).unwrap_or_default();
            if !entry.header().entry_type().is_file() {
                continue;
            }
            if named == LIST {
                list = serde_json::from_slice::<List>(&section.read(1 << 20).map_err(failed)?).ok();
            } else if let Some(number) = number(&named)
                && sections.insert(number, Ok(section)).is_some()
            {
                let message = format!("{}: it has {named} twice", path.display());
                return Err(Fail::new(Exit::Tampered, message));
            }
        }
        let last = sections.last_key_value().map_or(0, |(last, _)| last + 1);
        let of = list.as_ref().map_or(last, |list| list.recordings.max(last));
        if of > sections.len() as u32 + 100_000 {
            return Err(Fail::new(Exit::Error, format!("{}: {of} recordings are not possible", path.display())));
        }
        let unreadable = list.as_ref().map_or_else(Vec::new, |list| list.unreadable.clone());
        for Unreadable { number, problem, missing } in unreadable {
            let kind = if missing { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
            sections.insert(number, Err(io::Error::new(kind, problem)));
        }
        let mut found = RunRecordings::numbered(of, sections);
        if list.is_none() {
            let why =
                "the end of the archive is missing, so it is not known how many recordings the run has".to_owned();
            found.lost.push(Lost { name: LIST.to_owned(), number: None, why, missing: false, exit: Exit::Partial });
        }
        Ok(found)
    }

    fn numbered(of: u32, mut sections: BTreeMap<u32, io::Result<Section>>) -> RunRecordings {
        let mut found = RunRecordings { sources: Vec::new(), lost: Vec::new(), all: true };
        for n in 0..of {
            let name = name(n);
            match sections.remove(&n).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())) {
                Ok(bytes) => found.sources.push(Source { name, number: Some(n), bytes }),
                Err(error) => {
                    let missing = error.kind() == io::ErrorKind::NotFound;
                    let why = if missing { "there is no such file".to_owned() } else { error.to_string() };
                    found.lost.push(Lost { name, number: Some(n), why, missing, exit: Exit::Partial });
                }
            }
        }
        found
    }
}

/// Bytes of a file. Its size is that at the beginning: what a daemon adds later is not read.
#[derive(Debug, Clone)]
pub(in crate::commands) struct Section {
    file: Arc<File>,
    begin: u64,
    len: u64,
}

impl Section {
    pub(in crate::commands) fn whole(file: File) -> io::Result<Section> {
        let len = file.metadata()?.len();
        Ok(Section { file: Arc::new(file), begin: 0, len })
    }

    /// A part of it, which must lie in it.
    pub(in crate::commands) fn part(&self, begin: u64, len: u64) -> Section {
        let begin = begin.min(self.len);
        Section { file: self.file.clone(), begin: self.begin + begin, len: len.min(self.len - begin) }
    }

    /// Its bytes, `most` of them at most.
    pub(in crate::commands) fn read(&self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len.min(most)).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, self.begin)?;
        Ok(bytes)
    }
}

impl ReadAt for Section {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.len.saturating_sub(offset).min(buf.len() as u64);
        let buf = usize::try_from(rest).ok().and_then(|rest| buf.get_mut(..rest)).unwrap_or_default();
        if buf.is_empty() { Ok(0) } else { self.file.read_at(buf, self.begin + offset) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}
