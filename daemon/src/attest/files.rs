//! Bounded reads of small files, as values of facts.

use failsafe_attest::{Json, Missing};
use nix::fcntl::OFlag;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Largest small file that is read, bytes. `/proc/cpuinfo` of 512 processors has less than 1 MiB.
const MOST: u64 = 4 << 20;

/// The bytes of a small file; `None`: there is no such file. A FIFO or a device is not waited for.
pub(super) fn bytes(path: &Path) -> Result<Option<Vec<u8>>, Missing> {
    bounded(path, MOST)
}

/// The same with another limit.
pub(super) fn bounded(path: &Path, most: u64) -> Result<Option<Vec<u8>>, Missing> {
    let fail = |error: &io::Error| missing(path, error);
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(&error)),
    };
    if !file.metadata().map_err(|error| fail(&error))?.is_file() {
        return Err(Missing::unavailable(format!("{} is not a regular file", path.display())));
    }
    let mut out = Vec::new();
    let read = file.take(most + 1).read_to_end(&mut out).map_err(|error| fail(&error))?;
    if read as u64 > most {
        return Err(Missing::unavailable(format!("{} has more than {most} bytes, the limit", path.display())));
    }
    Ok(Some(out))
}

/// Opens for reading without waiting for a writer and without becoming the terminal's.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// The trimmed text of a file; absent where there is none.
pub(super) fn text(path: &Path) -> Result<Json, Missing> {
    let bytes = bytes(path)?;
    Ok(bytes.map_or(Json::Null, |bytes| Json::from(String::from_utf8_lossy(&bytes).trim())))
}

/// The names in a folder, sorted; `None`: there is no such folder.
pub(super) fn names(folder: &Path) -> Result<Option<Vec<String>>, Missing> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(missing(folder, &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| missing(folder, &error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(Some(names))
}

/// Why a file gives no value.
pub(super) fn missing(path: &Path, error: &io::Error) -> Missing {
    let reason = format!("cannot read {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Missing::denied(reason),
        _ => Missing::unavailable(reason),
    }
}

/// Writes files below a folder, for tests of readers.
#[cfg(test)]
pub(super) fn fixture(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// The value of a path among facts, for tests of readers.
#[cfg(test)]
pub(super) fn value(facts: &[failsafe_attest::Fact], path: &str) -> Result<Json, Missing> {
    facts.iter().find(|fact| fact.path == path).unwrap_or_else(|| panic!("no fact {path}")).value.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_attest::Status;

    #[test]
    fn a_fifo_is_not_waited_for_and_a_large_file_is_not_read_in_part() {
        let dir = fixture(&[("small", " x \n"), ("large", "12345")]);
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(text(&dir.path().join("small")), Ok(Json::from("x")));
        assert_eq!(text(&dir.path().join("none")), Ok(Json::Null));
        let fifo = text(&dir.path().join("fifo")).unwrap_err();
        assert!(fifo.status == Status::Unavailable && fifo.reason.contains("not a regular file"), "{fifo:?}");
        let large = bounded(&dir.path().join("large"), 4).unwrap_err();
        assert!(large.reason.contains("more than 4 bytes"), "{large:?}");
        assert_eq!(names(&dir.path().join("none")), Ok(None));
        assert_eq!(names(dir.path()), Ok(Some(vec!["fifo".to_owned(), "large".to_owned(), "small".to_owned()])));
        assert!(names(&dir.path().join("small")).is_err());
    }
}
