//! The log's folder: the file being written, the sealed segments before it, the head, and space held back for a full disk.
//!
//! Sealing, in the order that a crash may stop it at:
//! 1. index and summary of the segment, and its record in the catalog, are written and synced (left without their segment they do not
//!    count, and are written again);
//! 2. the next file is written as `audit.log.next` and synced (left over, it is removed);
//! 3. `audit.log` becomes `N.segment` by a rename (then there is no `audit.log`: the next start begins it);
//! 4. `audit.log.next` becomes `audit.log`.

mod repair;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use self::repair::{listed, newest_again, sound, write_derived};
use super::file::{FileError, move_aside, sync_dir};
use super::{CatalogState, FileStorage, LOG_FILE, ReadAt, SealedLeaf, Storage, bounded};
use crate::entry::Hash;
use crate::frame::{HEADER_BYTES, header_at};
use crate::head::{Head, HeadFile};
use crate::removal::{self, AtStart};
use crate::segments::catalog_file::CatalogFile;
use crate::segments::{self, Brief, Catalog, REMOVED_FILE, Removed, SEGMENT_BYTES, Summary, catalog, segment_path};
use crate::tree::leaves::Leaves;
use crate::tree::{SignedTree, Tree, edge, signed};
use crate::walk::Chain;
use failsafe_tlog::{Keys, leaf_hash};
use nix::fcntl::OFlag;

/// The file that is to become the next `audit.log`.
const NEXT_FILE: &str = "audit.log.next";
/// Preallocated space, given up piece by piece when the disk is full, so that decisions can still be recorded.
pub const RESERVE_FILE: &str = "reserve";
/// Size of the reserve, in bytes.
pub const RESERVE_BYTES: u64 = 8 << 20;
/// How much of the reserve is given up at once.
const RESERVE_STEP: u64 = 256 << 10;
/// Most texts about segments that retention reports, until the next start.
const MOST_REPORTED: usize = 1_000;
/// Mode of the log's files.
pub const MODE: u32 = 0o640;

/// How a folder is kept.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Size at which a file is sealed, in bytes.
    pub segment_bytes: u64,
    /// Files outside the folder that hold the log's head. The first is read at the next start, the others where it is missing.
    pub heads: Vec<PathBuf>,
    /// Why the log is one that `heads` do not know, such as one that begins after a tampered log was set aside. It is a finding.
    pub fresh: Option<String>,
    /// Space to hold back, in bytes.
    pub reserve_bytes: u64,
    /// How much of the log is kept.
    pub retention: Retention,
    /// The file outside the folder that holds the latest signed checkpoint, and the keys that may have signed it.
    pub checkpoint: Option<(PathBuf, Keys)>,
}

/// How much of a log is kept: what is beyond is removed from its beginning, in whole segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Most bytes of all segments.
    pub max_bytes: u64,
    /// How old the last entry of a segment gets, in nanoseconds.
    pub max_age_ns: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_bytes: u64::MAX, max_age_ns: u64::MAX }
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            heads: Vec::new(),
            fresh: None,
            reserve_bytes: RESERVE_BYTES,
            retention: Retention::default(),
            checkpoint: None,
        }
    }
}

/// A log's folder, opened for writing.
#[derive(Debug)]
pub struct LogFolder {
    dir: PathBuf,
    active: FileStorage,
    layout: Layout,
    start: Chain,
    last_summary: Hash,
    last_wall_ns: Option<u64>,
    heads: Vec<HeadFile>,
    noted: Vec<Head>,
    /// The first file with the head is missing.
    head_missing: bool,
    findings: Vec<String>,
    reserve: Option<File>,
    /// What was removed from the log's beginning. Not what the file has: it may have been replaced meanwhile.
    removed: Option<Removed>,
    /// An entry of the log states it.
    removed_is_stated: bool,
    /// `removed.json` does not count, and is to be put aside.
    refused: bool,
    signed: Option<SignedTree>,
    aside_due: bool,
    leaves: Option<Leaves>,
    /// The file of the catalog; `None`: no segment is sealed, or not all of them can be relied on.
    catalog: Option<CatalogFile>,
    catalog_state: CatalogState,
    /// The catalog has no room for all segments.
    is_too_large: bool,
    /// What retention found amiss and is to be reported, and all that was reported.
    noticed: Vec<String>,
    reported: BTreeSet<String>,
}

impl LogFolder {
    /// Opens the folder; makes it, finishes a sealing that was interrupted, and makes missing summaries again.
    ///
    /// # Errors
    /// [`FileError`], with path and operation.
    pub fn open(dir: &Path, layout: Layout) -> Result<Self, FileError> {
        fs::create_dir_all(dir).map_err(FileError::at("create directory", dir))?;
        let mut findings: Vec<String> = layout.fresh.iter().cloned().collect();
        for file in [LOG_FILE, NEXT_FILE].map(|name| dir.join(name)) {
            if file.symlink_metadata().is_ok() && !file.metadata().is_ok_and(|found| found.is_file()) {
                let aside = move_aside(&file).map_err(FileError::at("rename", &file))?;
                findings.push(format!("{} was not a regular file; it is {} now", file.display(), aside.display()));
            }
        }
        remove(&dir.join(NEXT_FILE))?;
        let AtStart { removed, stated, refused, finding } = AtStart::read(dir);
        findings.extend(finding);
        let (catalog, catalog_file) = listed(dir, removed, &mut findings);
        let catalog_link = catalog_file.as_ref().map(|file| file.link);
        let catalog_state = CatalogState {
            link: catalog_link,
            is_stated: catalog_link == catalog::statement_of(dir).map(|(_, link)| link),
            made_again: None,
        };
        let (signed, aside_due) = match &layout.checkpoint {
            // A new log is not the one that was signed.
            Some((latest, _)) if layout.fresh.is_some() => (None, signed::exist(dir, latest)),
            Some((latest, keys)) => {
                let last = signed::last(dir, latest, keys, &mut findings);
                let unreadable = last.is_none() && !keys.is_empty() && signed::exist(dir, latest);
                (last, unreadable)
            }
            None => (None, false),
        };
        // A folder whose last summary cannot be made is not continued: the file's own header counts.
        let start = catalog.end();
        let active = dir.join(LOG_FILE);
        let start = match start {
            Some(start) => start,
            None => header_start(&active).unwrap_or_default(),
        };
        if !active.exists() && start != Chain::default() {
            write_new(&active, &header_at(&start))?;
            sync_dir(dir)?;
        }
        let active = FileStorage::open(dir)?;
        let (mut noted, mut head_missing) = (Vec::new(), false);
        for (at, path) in layout.heads.iter().enumerate().filter(|_| layout.fresh.is_none()) {
            match HeadFile::read(path) {
                Ok(Some(head)) => noted.push(head),
                // The others may lie where nothing outlives a boot.
                Ok(None) => head_missing |= at == 0,
                Err(why) => findings.push(format!("the audit log cannot be compared with its head: {why}")),
            }
        }
        let heads = layout.heads.iter().filter_map(|path| match HeadFile::open(path) {
            Ok(head) => Some(head),
            Err(error) => {
                findings.push(format!("the log's head is not stored in {}: {error}", path.display()));
                None
            }
        });
        let mut heads: Vec<HeadFile> = heads.collect();
        if start == Chain::default() && active.len().is_ok_and(|bytes| bytes <= HEADER_BYTES as u64) {
            // A daemon that dies before its first entry leaves an empty log, which is not one that was emptied.
            heads.iter_mut().for_each(HeadFile::begin);
        }
        let mut folder = Self {
            dir: dir.to_owned(),
            active,
            start,
            last_summary: catalog.last_hash(),
            last_wall_ns: catalog.segments.last().and_then(|known| Some(known.summary.as_ref()?.last_wall_ns)),
            heads,
            noted,
            head_missing,
            findings,
            reserve: None,
            removed: catalog.removed,
            removed_is_stated: stated,
            refused,
            signed,
            aside_due,
            leaves: None,
            catalog: catalog_file,
            catalog_state,
            is_too_large: false,
            noticed: Vec::new(),
            reported: BTreeSet::new(),
            layout,
        };
        folder.hold_reserve();
        Ok(folder)
    }

    /// Takes or fills up the reserve. A disk without room for it is no error: there is only less for later.
    fn hold_reserve(&mut self) {
        if self.layout.reserve_bytes == 0 {
            return;
        }
        let path = self.dir.join(RESERVE_FILE);
        let is_other = |found: fs::Metadata| !found.is_file();
        if path.symlink_metadata().is_ok_and(is_other) {
            // Nothing is in it that anybody could miss.
            let _folder = fs::remove_file(&path);
        }
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        let file = bounded::open_regular(&path, &options, OFlag::O_NOFOLLOW);
        self.reserve = file.ok().inspect(|file| {
            let len = i64::try_from(self.layout.reserve_bytes).unwrap_or(i64::MAX);
            let _full = nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, len);
        });
    }

    /// Gives up a piece of the reserve. False: there is none.
    fn use_reserve(&self) -> bool {
        let Some(file) = &self.reserve else { return false };
        let held = file.metadata().map_or(0, |found| found.len());
        held > 0 && file.set_len(held.saturating_sub(RESERVE_STEP)).is_ok()
    }

    /// The catalog's file with one more segment, and why it was made again, if it was. `None`: not all segments can be relied on, or it
    /// cannot be written. A log without a catalog is only slower to read.
    fn listed_with(&mut self, last: &Brief) -> (Option<CatalogFile>, Option<String>) {
        let why = match self.catalog.as_ref().map(|file| file.with(last)) {
            Some(Ok(file)) => return (Some(file), None),
            Some(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                self.is_too_large = true;
                return (None, None);
            }
            Some(Err(error)) => Some(format!("the catalog cannot be continued: {error}")),
            // To read all summaries again takes too long.
            None if self.is_too_large => return (None, None),
            None => None,
        };
        // Somebody may have changed what the catalog is made of, and removed the catalog for that.
        let mut catalog = Catalog::of_summaries(&self.dir, self.removed.clone());
        let mut problem = catalog.problems.first().cloned();
        if problem.is_some() && newest_again(&self.dir, &catalog, self.last_summary) {
            catalog = Catalog::of_summaries(&self.dir, self.removed.clone());
            problem = problem.map(|problem| format!("{problem}; it was made again"));
        }
        let briefs = catalog.briefs().filter(|_| catalog.last_hash() == self.last_summary);
        let briefs = briefs.map(|briefs| briefs.into_iter().chain([last]).collect::<Vec<_>>());
        let later =
            briefs.is_none().then(|| "there is no catalog until the next start repairs the summaries".to_owned());
        let why: Vec<String> = [why, problem, later].into_iter().flatten().collect();
        let file = briefs.map(|briefs| CatalogFile::make(&self.dir, &briefs));
        let full = |error: &io::Error| error.kind() == io::ErrorKind::FileTooLarge;
        self.is_too_large = file.as_ref().is_some_and(|made| made.as_ref().is_err_and(full));
        let file = file.and_then(Result::ok);
        (file, Some(why.join("; ")).filter(|why| !why.is_empty()))
    }

    /// Reports something once.
    fn notice(&mut self, what: String) {
        if self.reported.len() < MOST_REPORTED && self.reported.insert(what.clone()) {
            self.noticed.push(what);
        }
    }

    /// Why retention removes the first of the sealed segments, if it does; the log has `bytes` bytes.
    fn due(&self, brief: &Brief, bytes: u64, now_ns: u64, by_age: bool, signed: u64) -> Option<String> {
        let Retention { max_bytes, max_age_ns } = self.layout.retention;
        let age = now_ns.saturating_sub(brief.last_wall_ns);
        let unsigned = self.layout.checkpoint.is_some() && brief.end().next_index > signed;
        if bytes > max_bytes {
            let unsigned = match unsigned {
                true => format!("; no checkpoint was signed of entries from {signed} on"),
                false => String::new(),
            };
            return Some(format!("the log has more than {max_bytes} bytes{unsigned}"));
        }
        (by_age && age > max_age_ns && !unsigned).then(|| format!("older than {} s", max_age_ns / 1_000_000_000))
    }
}

impl ReadAt for LogFolder {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.active.read_at(offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        self.active.len()
    }
}

impl Storage for LogFolder {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.active.append(bytes) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.use_reserve() => self.active.append(bytes),
            other => other,
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.active.sync()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.active.truncate(len)
    }

    fn start(&self) -> Chain {
        self.start
    }

    fn seal_at(&self) -> Option<u64> {
        Some(self.layout.segment_bytes)
    }

    fn seal(&mut self, builder: &segments::Builder, end: Chain, bytes: u64) -> io::Result<Summary> {
        let first = self.start.next_index;
        let (summary, index) = Summary::of(builder, self.start, end, bytes, self.last_summary);
        write_derived(&self.dir, &summary, &index)?;
        let last = Brief::of_summary(&summary);
        let (listed, made_again) = self.listed_with(&last);
        let next = self.dir.join(NEXT_FILE);
        let other = |e: FileError| e.source;
        remove(&next).map_err(other)?;
        write_new(&next, &header_at(&end)).map_err(other)?;
        let opened = FileStorage::open_append(&next).map_err(other)?;
        let active = self.dir.join(LOG_FILE);
        fs::rename(&active, segment_path(&self.dir, first))?;
        // From here on the old file is sealed, whatever fails: appending goes to the new one, by whichever name.
        (self.active, self.start, self.last_summary) = (opened, end, last.hash);
        self.catalog_state = CatalogState { link: listed.as_ref().map(|file| file.link), is_stated: false, made_again };
        self.catalog = listed;
        fs::rename(&next, &active)?;
        sync_dir(&self.dir).map_err(other)?;
        self.hold_reserve();
        Ok(summary)
    }

    fn removable(
        &mut self,
        now_ns: u64,
        by_age: bool,
        signed: u64,
        live: &dyn Fn(&Summary) -> bool,
    ) -> Option<(Removed, Vec<Summary>)> {
        let active = self.active.len().unwrap_or(0);
        // By the catalog, which an entry of the log vouches for, or by all summaries.
        let catalog = Catalog::behind(&self.dir, self.removed.clone());
        // What does not fit is evidence.
        if let Some(problem) = catalog.problems.first() {
            self.notice(stuck(problem));
            return None;
        }
        let (mut bytes, mut segments, mut why) = (catalog.bytes() + active, Vec::new(), String::new());
        let mut noticed = Vec::new();
        for brief in catalog.segments.iter().map_while(|known| known.summary.as_ref()) {
            let Some(reason) = self.due(brief, bytes, now_ns, by_age, signed) else { break };
            let summary = match sound(&self.dir, brief, &mut noticed) {
                Ok(summary) if !live(&summary) => summary,
                Ok(_) => break,
                Err(why) => {
                    noticed.push(stuck(&why));
                    break;
                }
            };
            (why, bytes) = (reason, bytes.saturating_sub(summary.bytes));
            segments.push(summary);
        }
        noticed.into_iter().for_each(|what| self.notice(what));
        let last = segments.last()?;
        let before = catalog.removed.map_or(0, |removed| removed.segments);
        let removed = Removed {
            segments: before + segments.len() as u64,
            entries: last.end().next_index,
            head: last.head,
            last_summary: last.hash(),
            wall_ns: now_ns,
            why,
            entry: None,
        };
        Some((removed, segments))
    }

    fn noticed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.noticed)
    }

    fn last_wall_ns(&self) -> Option<u64> {
        self.last_wall_ns
    }

    fn remove(&mut self, removed: &Removed) -> io::Result<()> {
        let text = serde_json::to_vec(removed).map_err(io::Error::other)?;
        replace_synced(&self.dir.join(REMOVED_FILE), &text, MODE)?;
        let from = self.begin();
        (self.removed, self.removed_is_stated) = (Some(removed.clone()), true);
        if let Some(catalog) = &mut self.catalog {
            // Only a longer file, until the next removal.
            let _later = catalog.forget(removed.entries);
        }
        // What is before that is left of an earlier removal, and is for the next start.
        removal::remove_files(&self.dir, from, removed.entries)
    }

    fn opened(&mut self, sound: bool) -> io::Result<()> {
        if std::mem::take(&mut self.refused) {
            return removal::put_aside(&self.dir);
        }
        match &self.removed {
            Some(removed) if sound && self.removed_is_stated => removal::finish(&self.dir, removed),
            _ => Ok(()),
        }
    }

    fn note_head(&mut self, head: Head) {
        for file in &mut self.heads {
            file.write(&head);
        }
    }

    fn noted_heads(&self) -> &[Head] {
        &self.noted
    }

    fn head_lost(&self, stated: u64) -> Option<String> {
        let path = self.layout.heads.first().filter(|_| self.head_missing)?;
        let latest = self.layout.checkpoint.as_ref().map(|(latest, _)| latest);
        let known = match (self.noted.first(), latest) {
            (Some(head), _) => format!("another copy of it is of {} entries", head.entries),
            (None, Some(latest)) if signed::exist(&self.dir, latest) => "the log has checkpoints".to_owned(),
            (None, _) if stated > 0 => format!("the log states that {stated} entries were signed"),
            (None, _) => return None,
        };
        Some(format!("the head of the audit log, {}, is missing, though {known}: it was removed", path.display()))
    }

    fn findings(&self) -> &[String] {
        &self.findings
    }

    fn begin(&self) -> u64 {
        self.removed.as_ref().map_or(0, |removed| removed.entries)
    }

    fn tree_before(&self, at_most: u64) -> Result<Tree, String> {
        edge::nearest(&self.dir, self.removed.as_ref(), at_most)
    }

    fn sealed_leaf(&mut self, at: u64) -> io::Result<Option<SealedLeaf>> {
        if self.leaves.as_ref().is_none_or(|leaves| leaves.next_index() != at) {
            self.leaves = Some(Leaves::new(&self.dir, at));
        }
        let Some(leaves) = &mut self.leaves else { return Ok(None) };
        let Some(bytes) = leaves.next_entry()? else { return Ok(None) };
        let at_border = leaves.at_border();
        Ok(Some(SealedLeaf { leaf: leaf_hash(&bytes), bytes: bytes.len() as u64, at_border }))
    }

    fn keep_tree(&mut self, tree: &Tree) -> io::Result<()> {
        if tree.entries() == 0 {
            return Ok(());
        }
        let path = edge::edge_path(&self.dir, tree.entries());
        let bytes = edge::encode(tree);
        if bounded::read(&path, bytes.len() as u64).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        replace_synced(&path, &bytes, MODE)
    }

    fn signed(&self) -> Option<&SignedTree> {
        self.signed.as_ref()
    }

    fn unlike_stated(&self, stated: u64) -> Option<String> {
        let (latest, _) = self.layout.checkpoint.as_ref().filter(|_| self.layout.fresh.is_none())?;
        signed::unlike_stated(latest, self.signed.as_ref(), stated)
    }

    fn keep_checkpoint(&mut self, note: &[u8], border: Option<u64>) -> io::Result<()> {
        let (latest, _) = self.layout.checkpoint.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        signed::keep(&self.dir, latest, note, border)
    }

    fn aside_due(&self) -> bool {
        self.aside_due
    }

    fn put_signed_aside(&mut self, wall_ns: u64) -> io::Result<()> {
        let latest = self.layout.checkpoint.as_ref().map(|(latest, _)| latest.as_path());
        let put = || signed::put_aside(&self.dir, latest, wall_ns);
        match put() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.use_reserve() => put()?,
            other => other?,
        }
        (self.signed, self.aside_due) = (None, false);
        Ok(())
    }

    fn catalog(&self) -> CatalogState {
        self.catalog_state.clone()
    }

    fn hash_at(&self, index: u64) -> Option<Hash> {
        let summaries =
            Catalog::behind(&self.dir, self.removed.clone()).segments.into_iter().filter_map(|known| known.summary);
        let summary = summaries.into_iter().find(|s| s.first <= index && index < s.end().next_index)?;
        if index + 1 == summary.end().next_index {
            return Some(summary.head);
        }
        let reader = crate::LogReader::open(&segment_path(&self.dir, summary.first)).ok()?;
        Some(reader.from_index(index).ok()?.next()?.ok()?.leaf_hash)
    }
}

/// Why retention cannot go on.
fn stuck(why: &str) -> String {
    format!("the removal of old segments of the audit log cannot go on: {why}")
}

fn header_start(active: &Path) -> Option<Chain> {
    crate::frame::Scanner::new(FileStorage::open_read_only(active).ok()?).begin().ok()?
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(FileError::at("write", path))
}

/// Replaces a file by a whole one with this mode, which is there after a power cut too.
///
/// # Errors
/// Those of the medium; then the file before is still there, or the new one.
pub fn replace_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_as(path, bytes, mode)?;
    path.parent().map_or(Ok(()), |folder| sync_dir(folder).map_err(|error| error.source))
}

/// Replaces a file by a whole one. It survives a power cut when its folder was synced.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(path, bytes, MODE)
}

fn replace_as(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    // What a crash left behind; never a link to follow.
    remove(&part).map_err(|error| error.source)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}
