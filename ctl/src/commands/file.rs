//! A file that a command writes: only its owner may read it, it is there whole or not at all, and no link is followed.

use crate::{
    exit::{Exit, Fail},
    render::clean,
};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Whether a file may be written there.
///
/// # Errors
/// It is there and `force` is not given, or it is no regular file.
pub(super) fn free(to: &Path, force: bool) -> Result<(), Fail> {
    let shown = clean(&to.display().to_string());
    match to.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(found) if found.file_type().is_file() && force => Ok(()),
        Ok(found) if found.file_type().is_file() => {
            Err(Fail::new(Exit::Error, format!("{shown} exists"))
                .advise("name another file, or replace it with --force"))
        }
        Ok(found) => {
            let what = if found.is_symlink() { "a symbolic link" } else { "no file" };
            Err(Fail::new(Exit::Error, format!("{shown} is {what}: it is not replaced")).advise("name another file"))
        }
    }
}

/// Writes these bytes to a file, whole or not at all.
///
/// # Errors
/// As [`free`], or the file cannot be written.
pub(super) fn save(to: &Path, force: bool, bytes: &[u8]) -> Result<(), Fail> {
    free(to, force)?;
    let mut part = Part::create(to)?;
    let written = part.file.write_all(bytes);
    written.map_err(|error| Fail::because(format!("cannot write {}", part.path.display()), &error))?;
    part.finish(to, force)
}

/// A file in the making; it is removed again unless it is finished.
pub(super) struct Part {
    pub path: PathBuf,
    pub file: File,
    whole: bool,
}

impl Part {
    pub fn create(to: &Path) -> Result<Part, Fail> {
        let mut path = to.as_os_str().to_owned();
        path.push(format!(".part{}", std::process::id()));
        let path = PathBuf::from(path);
        // What is asked of the daemon may be read by its owner and administrators only, and so may its copy.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Fail::because(format!("cannot create {}", path.display()), &error))?;
        Ok(Part { path, file, whole: false })
    }

    pub fn finish(mut self, to: &Path, force: bool) -> Result<(), Fail> {
        free(to, force)?;
        let flags = if force { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        let renamed = || Ok(renameat2(AT_FDCWD, &self.path, AT_FDCWD, to, flags)?);
        let done = self.file.sync_all().and_then(|()| renamed());
        done.map_err(|error| Fail::because(format!("cannot write {}", to.display()), &error))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.whole {
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}
