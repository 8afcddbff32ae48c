//! Verification of a whole log, offline or beside a running daemon.
//!
//! What it proves: nothing was changed, removed, inserted or moved *within* the log since it was written, but for segments that
//! retention removed at its beginning. Entries missing at the end show by the head that the daemon keeps outside the log, if
//! that is given, and by signed checkpoints ([`Claim`]). A log that was rewritten as a whole, with head, key and checkpoints, shows
//! only by a checkpoint or a head hash that was copied to another machine before.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::entry::{Entry, Hash};
use crate::frame::{Bad, MAGIC, Scanner};
use crate::head::Head;
use crate::removal;
use crate::segments::{Removed, digest, index_path, sealed, summary_path};
use crate::statement;
use crate::storage::file::FileError;
use crate::storage::{FileStorage, LOG_FILE, ReadAt, bounded};
use crate::view::View;
use crate::walk::{Chain, Ending, Problem, Walker};

mod catalog;
mod tree;

use tree::Compared;
pub use tree::{Claim, TreeReport};

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Index of the first entry that was read: not 0 where earlier segments were removed, or are not part of the file.
    pub first: u64,
    /// Number of entries of the whole log up to the last valid one.
    pub entries: u64,
    /// Size of what was read, in bytes.
    pub bytes: u64,
    /// Sealed segments that were read.
    pub segments: usize,
    /// What retention removed before them.
    pub removed: Option<Removed>,
    /// Leaf hash of the last valid entry; zeros if there is none.
    pub head_hash: Hash,
    /// The tree over the entries, where the log's folder was verified.
    pub tree: Option<TreeReport>,
    /// What daemons found amiss with the log at their start, as its entries state: it is intact, but not all that was written.
    pub findings: Vec<Finding>,
    /// The judgement.
    pub verdict: Verdict,
}

impl Report {
    fn failed(verdict: Verdict) -> Report {
        Report {
            first: 0,
            entries: 0,
            bytes: 0,
            segments: 0,
            removed: None,
            head_hash: [0; 32],
            tree: None,
            findings: Vec::new(),
            verdict,
        }
    }

    /// Whether every byte is accounted for.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.verdict == Verdict::Ok
    }
}

/// What an entry states about the log itself: entries are missing before it, or were replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The entry.
    pub index: u64,
    /// When, nanoseconds since the epoch.
    pub wall_ns: u64,
    /// What was found, in words.
    pub what: String,
}

/// Most findings that are kept, the first ones.
const FINDINGS: usize = 1_000;

impl Finding {
    fn note(found: &mut Vec<Finding>, entry: &Entry) {
        if let Some(what) = statement::finding(entry).filter(|_| found.len() < FINDINGS) {
            found.push(Finding { index: entry.index, wall_ns: entry.wall_ns, what: what.to_owned() });
        }
    }
}

/// The judgement on a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte belongs to a valid entry.
    Ok,
    /// The last entry is incomplete, as a crash leaves it. The next start of the daemon cuts it off and says so.
    Torn {
        /// Where the tail begins.
        offset: u64,
        /// The index that the entry there would have.
        index: u64,
        /// Size of the tail.
        bytes: u64,
        /// What is wrong with it.
        reason: Bad,
    },
    /// Something that no crash leaves behind.
    Tampered(Problem),
    /// A sealed segment, or what is kept of removed ones, is not as it was written; in words.
    Segment(String),
    /// It ends before the head that was kept outside it or before a checkpoint, or with another entry.
    Shortened(String),
    /// It does not contain what a checkpoint was signed for: an entry was replaced, or the log is another one; in words.
    Forked(String),
    /// It is intact, but retention removed what a checkpoint that was named is of, so that nothing shows that it is the log of the
    /// checkpoint; in words.
    NotCompared(String),
    /// The log itself is intact, but it states that a checkpoint was signed which is neither beside it nor in a later one; in words.
    CheckpointLost(String),
    /// The log itself is intact, but its head, which is kept outside it, is missing or damaged; in words.
    HeadLost(String),
    /// There is no entry in it.
    Empty,
    /// It is not an audit log at all; in words, with what it is where that shows.
    NotALog(&'static str),
}

/// Verifies the log in the folder `dir`: every sealed segment, and `audit.log`.
///
/// # Errors
/// [`VerifyError`]: the log could not be read, which says nothing about it.
pub fn verify(dir: &Path) -> Result<Report, VerifyError> {
    verify_folder(dir, None)
}

/// [`verify`], and compares the end of the log with `head`. Read it before: a log in use grows.
///
/// # Errors
/// As for [`verify`].
pub fn verify_folder(dir: &Path, head: Option<Head>) -> Result<Report, VerifyError> {
    verify_claims(dir, head, &[])
}

/// [`verify_folder`], and compares the tree of the log with `claims`. Read them before, too.
///
/// # Errors
/// As for [`verify`].
pub fn verify_claims(dir: &Path, head: Option<Head>, claims: &[Claim]) -> Result<Report, VerifyError> {
    // A log in use may remove segments meanwhile, with the entry that stated the removal before.
    let mut looks = 3;
    loop {
        let removed = removal::read(dir);
        let report = verify_behind(dir, removed.clone(), head, claims, true)?;
        looks -= 1;
        if looks == 0 || removal::read(dir) == removed {
            return Ok(report);
        }
    }
}

/// [`verify_claims`], of the sealed segments alone: those of an archive.
///
/// # Errors
/// As for [`verify`].
pub fn verify_archive(dir: &Path, claims: &[Claim]) -> Result<Report, VerifyError> {
    verify_behind(dir, removal::read(dir), None, claims, false)
}

/// [`verify_claims`], of what is left behind what was `removed`. Without the last file, only sealed segments are read.
fn verify_behind(
    dir: &Path,
    removed: Result<Option<Removed>, String>,
    head: Option<Head>,
    claims: &[Claim],
    last_file: bool,
) -> Result<Report, VerifyError> {
    let removed = match removed {
        Ok(removed) => removed,
        Err(why) => return Ok(Report::failed(Verdict::Segment(why))),
    };
    // The entry that states it can be behind the last segment of an archive.
    let mut unstated = removed.clone().filter(|_| last_file);
    let begin = removed.as_ref().map_or_else(Chain::default, Removed::end);
    let mut previous = removed.as_ref().map_or([0; 32], |removed| removed.last_summary);
    let mut chain = begin;
    let mut report = Report { first: begin.next_index, removed, ..Report::failed(Verdict::Ok) };
    let mut head_seen = head.filter(|head| head.entries > 0).is_none();
    let mut differs = None;
    let mut compared = Compared::new(dir, &begin, claims);
    let mut findings = Vec::new();
    let mut look = |view: &View<'_>| {
        let entry = view.entry_of(statement::may_be_in);
        if let Some(entry) = &entry {
            Finding::note(&mut findings, entry);
            unstated.take_if(|removed| removal::states(entry, removed));
        }
        compared.push(view.leaf_hash, entry.as_ref().and_then(statement::signed));
        let entry = view;
        if let Some(head) = head.filter(|head| head.entries == entry.index + 1) {
            head_seen = true;
            differs = (head.hash != entry.leaf_hash).then(|| hex::encode(entry.leaf_hash));
        }
    };
    let mut listed = catalog::Expected::default();
    for first in sealed(dir).into_iter().filter(|first| *first >= begin.next_index) {
        match digest::digest_seen(dir, first, Some(chain), previous, &mut look) {
            Ok((summary, index)) => {
                let same = |path: PathBuf, bytes: &[u8]| {
                    bounded::read(&path, bytes.len() as u64).is_ok_and(|found| found == bytes)
                };
                report.bytes += summary.bytes;
                report.segments += 1;
                if !same(summary_path(dir, first), &summary.encode()) || !same(index_path(dir, first), &index) {
                    report.verdict = Verdict::Segment(format!(
                        "summary or index of the segment that begins at entry {first} does not match its entries, which are \
                         valid; failsafed does not rely on it, and makes it again when it needs it"
                    ));
                }
                listed.push(&summary);
                (chain, previous) = (summary.end(), summary.hash());
                (report.entries, report.head_hash) = (chain.next_index, chain.head);
            }
            Err(why) => return Ok(Report { verdict: Verdict::Segment(why), ..report }),
        }
    }
    let last = match last_file {
        true => {
            let path = dir.join(LOG_FILE);
            let storage = FileStorage::open_read_only(&path).map_err(VerifyError::Open)?;
            let read = |source| VerifyError::Read { path: path.clone(), source };
            walk(Walker::continuing(storage, chain), look).map_err(read)?
        }
        false => {
            let verdict = if report.segments > 0 { Verdict::Ok } else { Verdict::Empty };
            Report { entries: chain.next_index, head_hash: chain.head, ..Report::failed(verdict) }
        }
    };
    if last_file && report.verdict == Verdict::Ok {
        report.verdict = listed.differs(dir, &begin).map_or(Verdict::Ok, Verdict::Segment);
    }
    let (tree, fork) = compared.finish();
    let verdict = match (last.verdict, report.verdict) {
        (Verdict::Empty, before) if last.entries > 0 => before,
        (Verdict::Ok, before) => before,
        (found, _) => found,
    };
    let verdict = match (unstated, verdict) {
        (Some(removed), Verdict::Ok | Verdict::Torn { .. } | Verdict::Empty) => {
            Verdict::Segment(removal::unstated(&removed))
        }
        (_, verdict) => verdict,
    };
    let report = Report {
        entries: last.entries.max(chain.next_index),
        bytes: report.bytes + last.bytes,
        head_hash: if last.entries > 0 { last.head_hash } else { report.head_hash },
        tree: Some(tree),
        findings,
        verdict,
        ..report
    };
    let ends = |what: String, head: Head| {
        let text = format!(
            "{what}, but the head kept outside the log is {} entries, {}",
            head.entries,
            hex::encode(head.hash)
        );
        Report { verdict: Verdict::Shortened(text), ..report.clone() }
    };
    let (fork, unseen) = match fork {
        Some(Verdict::NotCompared(why)) => (None, Some(Verdict::NotCompared(why))),
        fork => (fork, None),
    };
    if let (Some(fork), Verdict::Ok | Verdict::Torn { .. } | Verdict::Segment(_)) = (fork, &report.verdict) {
        return Ok(Report { verdict: fork, ..report });
    }
    let report = match (head, &differs) {
        // What was changed within the log hides its end, and is the more exact finding.
        _ if matches!(report.verdict, Verdict::Tampered(_)) => report,
        (Some(head), Some(found)) => ends(format!("entry {} has hash {found}", head.entries.saturating_sub(1)), head),
        (Some(head), None) if !head_seen && head.entries > begin.next_index => {
            ends(format!("the log has {} entries", report.entries), head)
        }
        _ => report,
    };
    Ok(match unseen {
        Some(verdict) if report.is_ok() => Report { verdict, ..report },
        _ => report,
    })
}

/// Verifies a log file by its path, also one that was set aside or copied. A segment is verified from its first entry on.
///
/// # Errors
/// As for [`verify`].
pub fn verify_file(path: &Path) -> Result<Report, VerifyError> {
    let storage = FileStorage::open_read_only(path).map_err(VerifyError::Open)?;
    verify_source(storage).map_err(|source| VerifyError::Read { path: path.to_owned(), source })
}

/// Verifies a log file wherever its bytes are.
///
/// # Errors
/// Only those of reading.
pub fn verify_source(source: impl ReadAt) -> io::Result<Report> {
    let mut findings = Vec::new();
    let report = walk(Walker::new(source), |view| {
        if let Some(entry) = view.entry_of(statement::may_be_in) {
            Finding::note(&mut findings, &entry);
        }
    })?;
    Ok(Report { findings, ..report })
}

fn walk(mut walker: Walker<impl ReadAt>, mut look: impl FnMut(&View<'_>)) -> io::Result<Report> {
    if let Some(what) = other_file(walker.source())? {
        return Ok(Report { bytes: walker.source().len()?, ..Report::failed(Verdict::NotALog(what)) });
    }
    let mut first = None;
    // A torn tail of a log in use may be a write in progress: look again, a few times, from there.
    let mut looks = 5;
    let ending = loop {
        let ending = walker.run(|_, view| {
            first.get_or_insert(view.index);
            look(view);
        })?;
        let Ending::Torn { offset, bytes, .. } = ending else { break ending };
        looks -= 1;
        if looks == 0 {
            break ending;
        }
        std::thread::sleep(Duration::from_millis(2));
        if walker.source().len()? == offset + bytes {
            break ending;
        }
    };
    let chain = walker.chain();
    let verdict = match ending {
        Ending::Clean if first.is_none() => Verdict::Empty,
        Ending::Clean => Verdict::Ok,
        Ending::Torn { offset, bytes, why } => Verdict::Torn { offset, index: chain.next_index, bytes, reason: why },
        Ending::Tampered(problem) => Verdict::Tampered(problem),
    };
    let bytes = walker.source().len()?;
    let first = first.unwrap_or(chain.next_index);
    Ok(Report { first, entries: chain.next_index, bytes, head_hash: chain.head, ..Report::failed(verdict) })
}

/// What a file is that neither begins like a log nor has an entry's frame in it.
fn other_file(source: &impl ReadAt) -> io::Result<Option<&'static str>> {
    let mut beginning = [0; 16];
    let read = source.read_at(0, &mut beginning)?;
    let beginning = &beginning[..read];
    let shared = beginning.len().min(MAGIC.len());
    if beginning[..shared] == MAGIC[..shared] || beginning.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let mut scanner = Scanner::new(By(source));
    if scanner.find_frame_behind()?.is_some() {
        return Ok(None);
    }
    Ok(Some(match beginning {
        [b'{', ..] => "it is JSON text, as `failsafectl events -o json` prints it",
        bytes if bytes.starts_with(&crate::recorder::MAGIC) => "it is the recording of a run",
        _ => "it does not begin like one, and no entry is in it",
    }))
}

struct By<'a, S>(&'a S);

impl<S: ReadAt> ReadAt for By<'_, S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

/// A log that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It could not be opened.
    #[error("open audit log to verify it")]
    Open(#[source] FileError),
    /// It could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The log file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
