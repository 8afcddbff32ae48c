//! The files of an archive: compared with what they must have, written where they are missing, never changed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::ArchiveError;
use crate::storage::bounded::open_regular;

/// Entries are for administrators, and so is their copy.
pub const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It may be missing.
    Compare,
    /// It is written if it is missing.
    Write,
    /// It must be there.
    Require,
}

/// The files of one archive.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    mode: Mode,
    /// Files that were written.
    pub written: usize,
    /// Their size.
    pub bytes: u64,
}

impl Files {
    pub fn new(root: &Path, mode: Mode) -> Files {
        Files { root: root.to_owned(), mode, written: 0, bytes: 0 }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A file with this content.
    pub fn put(&mut self, path: &Path, content: &[u8]) -> Result<(), ArchiveError> {
        self.put_from(path, || Ok(content))
    }

    /// A file with the content of another one.
    pub fn copy(&mut self, from: &Path, path: &Path) -> Result<(), ArchiveError> {
        if from == path {
            return Ok(());
        }
        let open =
            || open_regular(from, OpenOptions::new().read(true), OFlag::O_NOFOLLOW).map_err(ArchiveError::at(from));
        self.put_from(path, open)
    }

    fn put_from<R: Read>(
        &mut self,
        path: &Path,
        content: impl Fn() -> Result<R, ArchiveError>,
    ) -> Result<(), ArchiveError> {
        match open_regular(path, OpenOptions::new().read(true), OFlag::O_NOFOLLOW) {
            Ok(there) => match same(BufReader::new(there), content()?).map_err(ArchiveError::at(path))? {
                true => Ok(()),
                false => Err(ArchiveError::Differs(path.to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.mode {
                Mode::Compare => Ok(()),
                Mode::Require => Err(ArchiveError::Missing(path.to_owned())),
                Mode::Write => self.create(path, content()?).map_err(ArchiveError::at(path)),
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(ArchiveError::Differs(path.to_owned())),
            Err(error) => Err(ArchiveError::at(path)(error)),
        }
    }

    fn create(&mut self, path: &Path, mut content: impl Read) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        // What an interrupted run left behind.
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&part)?;
        self.bytes += io::copy(&mut content, &mut file)?;
        file.flush()?;
        fs::rename(&part, path)?;
        self.written += 1;
        Ok(())
    }

    /// Has everything on disk: thousands of small files are not synced one by one.
    pub fn sync(&self) -> Result<(), ArchiveError> {
        let synced = File::open(&self.root).and_then(|root| Ok(nix::unistd::syncfs(root)?));
        synced.map_err(ArchiveError::at(&self.root))
    }
}

/// Whether the rest of both is the same.
fn same(mut one: impl Read, mut other: impl Read) -> io::Result<bool> {
    const PIECE: u64 = 64 << 10;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        one.by_ref().take(PIECE).read_to_end(&mut left)?;
        other.by_ref().take(PIECE).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}
