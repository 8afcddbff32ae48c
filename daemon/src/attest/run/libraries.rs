//! What the processes of a run have loaded: every file that is mapped for execution, by its build-id, else by its SHA-256.
//!
//! The mapped file is opened through `/proc/PID/map_files`, which leads to the file itself even if its name was deleted or is
//! another file's by now. That needs CAP_CHECKPOINT_RESTORE; without it the file is opened by its name, and counts only if it
//! has the device and inode of the mapping.
//!
//! Invariants: a file is opened for reading only after it was seen to be a regular file, through a handle that cannot change;
//! all limits hold over the whole run. A build-id names a build; it does not prove that the bytes were not altered later.

use super::{
    Limits, common,
    folder::{Folder, is_gone, regular},
    process::{Process, oldest},
};
use crate::attest::{elf, files};
use failsafe_attest::{Fact, Json, Missing, factor::segment};
use nix::sys::stat::{major, minor};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Instant,
};

const NOT_BY_NAME: &str =
    "its name does not lead to the mapped file, which itself can only be read with CAP_CHECKPOINT_RESTORE";

/// A file that is mapped for execution.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mapped {
    /// Major and minor number of its device.
    device: (u64, u64),
    inode: u64,
    /// As the process sees it, without the mark of a deleted file.
    path: PathBuf,
}

/// One of the files of a name.
struct Library {
    value: Result<Json, Missing>,
    path: String,
}

/// Gives a fact for each library and then one for the group, which is unavailable if something was left out.
pub(super) fn facts(
    processes: &[Process],
    cut: Option<&str>,
    (limits, end): (Limits, Instant),
    give: &mut dyn FnMut(Fact),
) {
    let left_out = cut.map(str::to_owned);
    let mut maps = Maps { limits, left: limits.maps, paths: 0, cut: left_out, problem: None, found: BTreeMap::new() };
    for process in processes {
        maps.take(process);
    }
    let Maps { cut: mut left_out, problem, found, .. } = maps;
    let mut reader = Reader { limits, end, hashed: 0 };
    let executable = match (cut, oldest(processes)) {
        // The oldest may be one that could not be read.
        (Some(why), _) => Err(Missing::unavailable(why)),
        (None, None) => Err(Missing::unavailable("there is no process")),
        (None, Some(oldest)) => reader.executable(oldest),
    };
    give(Fact::measured("run/executable", "/proc/PID/exe of the oldest process", executable));
    let mut by_name: BTreeMap<String, Vec<Library>> = BTreeMap::new();
    for (mapped, places) in &found {
        let value = reader.open(mapped, places).and_then(|file| reader.identify(file, &mapped.path));
        let name = mapped.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        by_name.entry(segment(&name)).or_default().push(Library { value, path: mapped.path.display().to_string() });
        if Instant::now() >= end {
            left_out.get_or_insert_with(|| format!("the libraries could not be read within {:?}", limits.time));
        }
    }
    for (name, all) in by_name {
        let places: BTreeSet<&str> = all.iter().map(|library| library.path.as_str()).collect();
        let source = places.into_iter().take(4).collect::<Vec<_>>().join(", ");
        let values: Result<BTreeSet<Json>, Missing> = all.iter().map(|library| library.value.clone()).collect();
        give(Fact::measured(format!("run/library/{name}"), source, values.map(common)));
    }
    let group = match (left_out, problem) {
        (Some(why), _) => Err(Missing::unavailable(why)),
        (None, Some(missing)) => Err(missing),
        (None, None) => Ok(Json::from("complete")),
    };
    give(Fact::measured("run/library", "/proc/PID/maps", group));
}

impl Mapped {
    fn is(&self, about: &std::fs::Metadata) -> bool {
        (major(about.dev()), minor(about.dev())) == self.device && about.ino() == self.inode
    }
}

/// Reads memory maps within limits.
struct Maps<'a> {
    limits: Limits,
    /// Bytes that may still be read.
    left: u64,
    /// Bytes of the paths that are kept.
    paths: usize,
    /// Why something is left out.
    cut: Option<String>,
    problem: Option<Missing>,
    /// The files, each with some of its mappings: process and range of addresses.
    found: BTreeMap<Mapped, Vec<(&'a Process, String)>>,
}

impl<'a> Maps<'a> {
    fn take(&mut self, process: &'a Process) {
        let pid = process.id.pid;
        let most = self.limits.map.min(self.left);
        let read = match process.folder.bytes("maps", most) {
            // It ended, or only its main thread did.
            Ok(bytes) if bytes.is_empty() => process.ended().map(|_| bytes),
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            read => read.map_err(|error| process.folder.missing("maps", &error)),
        };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(missing) => {
                self.problem.get_or_insert(missing);
                return;
            }
        };
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if bytes.len() as u64 > most {
            let why =
                format!("the memory map of process {pid} is larger than the {most} bytes that are left of the limit");
            self.cut.get_or_insert(why);
        }
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some((range, mapped)) = parse(line) else { continue };
            if let Some(places) = self.found.get_mut(&mapped) {
                // A few, as the first process may be gone when the file is read.
                if places.len() < 4 && places.iter().all(|(of, _)| of.id != process.id) {
                    places.push((process, range));
                }
                continue;
            }
            let Limits { libraries, texts, .. } = self.limits;
            let bytes = self.paths + mapped.path.as_os_str().len();
            if self.found.len() >= libraries {
                let why = format!("the run has more than {libraries} different files mapped for execution");
                self.cut.get_or_insert(why);
            } else if bytes > texts {
                let why =
                    format!("the paths of the files mapped for execution have more than {texts} bytes, the limit");
                self.cut.get_or_insert(why);
            } else {
                self.paths = bytes;
                self.found.insert(mapped, vec![(process, range)]);
            }
        }
    }
}

/// `start-end perms offset major:minor inode path`. `None`: it is no file, or not mapped for execution.
fn parse(line: &[u8]) -> Option<(String, Mapped)> {
    let mut rest = line;
    let mut word = || {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        let length = rest[start..].iter().position(|byte| *byte == b' ').unwrap_or(rest.len() - start);
        let word = &rest[start..start + length];
        rest = &rest[start + length..];
        std::str::from_utf8(word).ok()
    };
    let (range, permissions, _offset, device, inode) = (word()?, word()?, word()?, word()?, word()?);
    let start = rest.iter().position(|byte| *byte != b' ')?;
    let path = &rest[start..];
    let (high, low) = device.split_once(':')?;
    let inode: u64 = inode.parse().ok().filter(|inode| *inode != 0)?;
    if permissions.as_bytes().get(2) != Some(&b'x') || path.first() != Some(&b'/') {
        return None;
    }
    // `maps` pads an address to eight digits, the names in `map_files` are not padded.
    let (from, to) = range.split_once('-')?;
    let range = format!("{:x}-{:x}", u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let device = (u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?);
    Some((range, Mapped { device, inode, path: PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())) }))
}

/// Reads files within limits.
struct Reader {
    limits: Limits,
    end: Instant,
    /// Bytes that were hashed.
    hashed: u64,
}

impl Reader {
    /// The program of a process: the link leads to the file that was executed, whatever its name leads to by now.
    fn executable(&mut self, process: &Process) -> Result<Json, Missing> {
        let file = process.folder.handle("exe").and_then(|handle| regular(&handle));
        let file = file.map_err(|error| process.folder.missing("exe", &error))?;
        self.identify(file, Path::new("/proc/PID/exe"))
    }

    /// Its build-id, else its digest.
    fn identify(&mut self, file: File, path: &Path) -> Result<Json, Missing> {
        match elf::build_id(&file).map_err(|error| files::missing(path, &error))? {
            Some(id) => Ok(Json::Text(id)),
            None => self.hash(file, path),
        }
    }

    /// The mapped file itself.
    fn open(&self, mapped: &Mapped, places: &[(&Process, String)]) -> Result<File, Missing> {
        let mut why = Missing::unavailable("every process that has it mapped has ended");
        for (process, range) in places {
            if Instant::now() >= self.end {
                return Err(Missing::unavailable(format!("it was not read within {:?}", self.limits.time)));
            }
            let (folder, link) = (&process.folder, format!("map_files/{range}"));
            let opened = match folder.handle(&link).and_then(|handle| regular(&handle)) {
                // Not allowed: by its name, as that process sees it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => by_name(folder, mapped),
                opened => opened.map_err(|error| folder.missing(&link, &error)),
            };
            match opened {
                Ok(file) => return Ok(file),
                Err(missing) => why = missing,
            }
        }
        Err(why)
    }

    fn hash(&mut self, mut file: File, path: &Path) -> Result<Json, Missing> {
        let (mut hash, mut buffer, mut length) = (Sha256::new(), vec![0; 256 << 10], 0_u64);
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => return Ok(Json::Text(format!("sha256:{}", hex::encode(hash.finalize())))),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(files::missing(path, &error)),
            };
            hash.update(&buffer[..read]);
            length += read as u64;
            self.hashed += read as u64;
            let Limits { hashed_file, hashed, time, .. } = self.limits;
            if length > hashed_file {
                return Err(Missing::unavailable(format!("it has no build-id and more than {hashed_file} bytes")));
            }
            if self.hashed > hashed {
                let why = format!("it has no build-id, and the {hashed} bytes that are hashed for a run are used up");
                return Err(Missing::unavailable(why));
            }
            if Instant::now() >= self.end {
                return Err(Missing::unavailable(format!("it was not hashed within {time:?}")));
            }
        }
    }
}

/// Without the right to follow `map_files`. Nothing is opened for reading that is not the mapped file, and every failure has the
/// same text: the daemon may search folders that the owner of the run may not.
fn by_name(folder: &Folder, mapped: &Mapped) -> Result<File, Missing> {
    let opened = folder.handle_of(&mapped.path).ok().filter(|handle| handle.metadata().is_ok_and(|it| mapped.is(&it)));
    opened.and_then(|handle| regular(&handle).ok()).ok_or_else(|| Missing::unavailable(NOT_BY_NAME))
}

#[cfg(test)]
mod tests;
