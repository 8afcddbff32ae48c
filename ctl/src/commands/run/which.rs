//! Finding the command before a run is registered for it, so that a typing error leaves no run behind.

use crate::exit::{Exit, Fail};
use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The program that `name` means, as `execvp(3)` has it.
pub(super) fn find(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, Fail> {
    let shown = name.to_string_lossy();
    let refused = || Fail::new(Exit::NotExecutable, format!("{shown}: not executable"));
    let missing = || Fail::new(Exit::NoCommand, format!("{shown}: command not found"));
    if name.is_empty() {
        return Err(missing());
    }
    if shown.contains('/') {
        return match kind(Path::new(name)) {
            Some(true) => Ok(PathBuf::from(name)),
            Some(false) => Err(refused()),
            None => Err(missing()),
        };
    }
    let mut seen = false;
    for folder in std::env::split_paths(path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"))) {
        match kind(&folder.join(name)) {
            Some(true) => return Ok(folder.join(name)),
            Some(false) => seen = true,
            None => {}
        }
    }
    Err(if seen { refused() } else { missing() })
}

/// Whether it is an executable file; `None` where there is nothing.
fn kind(path: &Path) -> Option<bool> {
    let meta = std::fs::metadata(path).ok()?;
    Some(meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_shells_find_them() {
        let dir = tempfile::tempdir().unwrap();
        let (good, plain) = (dir.path().join("good"), dir.path().join("plain"));
        std::fs::write(&good, "#!/bin/sh\n").unwrap();
        std::fs::write(&plain, "x").unwrap();
        std::fs::set_permissions(&good, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
        let path = std::env::join_paths([Path::new("/nonexistent"), dir.path()]).unwrap();
        let find = |name: &str| find(OsStr::new(name), Some(&path));
        assert_eq!(find("good").unwrap(), good);
        assert_eq!(find(good.to_str().unwrap()).unwrap(), good);
        assert_eq!(find("plain").unwrap_err().exit, Exit::NotExecutable);
        assert_eq!(find(dir.path().to_str().unwrap()).unwrap_err().exit, Exit::NotExecutable);
        assert_eq!(find("no-such").unwrap_err().exit, Exit::NoCommand);
        assert_eq!(find("").unwrap_err().exit, Exit::NoCommand);
    }
}
