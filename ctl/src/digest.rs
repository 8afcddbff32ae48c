//! The digest of a file or a folder, with the caller's own rights.
//!
//! ```text
//! file    sha256 of its bytes                               sha256sum FILE
//! folder  sha256 of the lines `HEX  ./PATH` of its files,   find -L . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum
//!         sorted by the bytes of PATH
//! ```

use crate::{exit::Fail, render::clean};
use failsafe_journal::storage::bounded::open_regular;
use indicatif::{ProgressBar, ProgressStyle};
use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256};
use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};
use walkdir::WalkDir;

/// Read at once.
const CHUNK: usize = 1 << 20;

/// What was hashed.
#[derive(Debug, PartialEq, Eq)]
pub struct Digest {
    /// `sha256:HEX`.
    pub text: String,
    /// Number of files.
    pub files: usize,
    /// Their size, in bytes.
    pub bytes: u64,
}

/// Hashes a file, or all files of a folder; links are followed. A terminal shows the progress.
///
/// # Errors
/// Something cannot be read, is neither a file nor a folder, or was changed meanwhile.
pub fn of(path: &Path) -> Result<Digest, Fail> {
    let failed = |path: &Path, error: &io::Error| {
        Fail::because(format!("cannot read {}", clean(&path.display().to_string())), error)
    };
    let about = path.metadata().map_err(|error| failed(path, &error))?;
    let files = if about.is_dir() { listed(path)? } else { vec![(path.to_owned(), String::new(), about.len())] };
    let total = files.iter().map(|(_, _, bytes)| bytes).sum();
    // It draws nothing where stderr is no terminal.
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message("hashing");
    let (mut lines, mut alone, mut bytes) = (Sha256::new(), String::new(), 0);
    for (file, name, expected) in &files {
        let (hex, read) = hash(file, &bar).map_err(|error| failed(file, &error))?;
        if read != *expected {
            let message = format!("{} was changed while it was read", clean(&file.display().to_string()));
            return Err(Fail::new(crate::exit::Exit::Error, message).advise("hash it again when nothing writes to it"));
        }
        bytes += read;
        lines.update(format!("{hex}  ./{name}\n"));
        alone = hex;
    }
    bar.finish_and_clear();
    let hex = if about.is_dir() { hex::encode(lines.finalize()) } else { alone };
    Ok(Digest { text: format!("sha256:{hex}"), files: files.len(), bytes })
}

/// The files below a folder: each with its path inside it and its size, sorted by the bytes of the path.
fn listed(folder: &Path) -> Result<Vec<(PathBuf, String, u64)>, Fail> {
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true) {
        let entry = entry.map_err(|error| Fail::because("cannot list the folder", &error))?;
        let kind = entry.file_type();
        if kind.is_dir() {
            continue;
        }
        let shown = clean(&entry.path().display().to_string());
        let wrong = |why: &str| Fail::usage(format!("{shown} {why}"));
        if !kind.is_file() {
            return Err(wrong("is neither a file nor a folder"));
        }
        let inside = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let name = inside.to_str().filter(|name| !name.contains(['\n', '\\']));
        let name = name.ok_or_else(|| wrong("has a name with a line end, a backslash or bytes that are not UTF-8"))?;
        let bytes = entry.metadata().map_err(|error| Fail::because(format!("cannot read {shown}"), &error))?.len();
        files.push((entry.path().to_owned(), name.to_owned(), bytes));
    }
    files.sort_by(|(_, a, _), (_, b, _)| a.as_bytes().cmp(b.as_bytes()));
    Ok(files)
}

fn hash(file: &Path, bar: &ProgressBar) -> io::Result<(String, u64)> {
    let (mut hasher, mut read, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    // A pipe would wait for a writer.
    let mut file = open_regular(file, OpenOptions::new().read(true), OFlag::empty())?;
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((hex::encode(hasher.finalize()), read)),
            Ok(n) => {
                hasher.update(&chunk[..n]);
                read += n as u64;
                bar.inc(n as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A path as it is announced: absolute, as text.
///
/// # Errors
/// It does not exist, or is not UTF-8.
pub fn absolute(path: &Path) -> Result<String, Fail> {
    let shown = || clean(&path.display().to_string());
    let whole = path.canonicalize().map_err(|error| Fail::because(format!("cannot read {}", shown()), &error))?;
    String::from_utf8(whole.as_os_str().as_bytes().to_vec())
        .map_err(|_| Fail::usage(format!("{}: the path is not UTF-8", shown())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, process::Command};

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let (done, wait) = std::sync::mpsc::channel();
        // Were it opened as other files are, this thread would wait for ever.
        std::thread::spawn(move || done.send(hash(&pipe, &ProgressBar::hidden()).is_err()));
        assert_eq!(wait.recv_timeout(std::time::Duration::from_secs(10)), Ok(true));
    }

    #[test]
    fn digests_are_those_that_sha256sum_makes() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("b/c")).unwrap();
        for (name, text) in [("b/c/one", "1"), ("b-x", "2"), ("B", ""), ("ü z", "3")] {
            fs::write(data.join(name), text).unwrap();
        }
        symlink("c/one", data.join("b/link")).unwrap();
        let shell = |script: &str| {
            let made = Command::new("sh").current_dir(&data).args(["-ec", script]).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            format!("sha256:{}", String::from_utf8(made.stdout).unwrap().split_whitespace().next().unwrap())
        };
        let all = of(&data).unwrap();
        let expected = shell("find -L . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum");
        assert_eq!(all, Digest { text: expected, files: 5, bytes: 4 });
        assert_eq!(of(&data.join("b-x")).unwrap().text, shell("sha256sum b-x"));
        symlink("..", data.join("b/loop")).unwrap();
        assert!(of(&data).unwrap_err().message.contains("cannot list the folder"));
        assert!(of(&data.join("none")).unwrap_err().message.contains("cannot read"));
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(of(dir.path()).is_err(), "a pipe is never opened");
    }
}
