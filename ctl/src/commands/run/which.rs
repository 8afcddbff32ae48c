//! Finding the command before a run is registered for it, so that a typing error leaves no run behind.

use crate::exit::{Exit, Fail};
use std::{
    ffi::OsStr,
    io::ErrorKind,
    path::{Path, PathBuf},
};
use which::{NonFatalError, WhichConfig};

/// The programs that `name` may mean, as `execvp(3)` has it: the first that may be executed by whoever the command runs as. At least one.
pub(super) fn find(name: &OsStr, path: Option<&OsStr>) -> Result<Vec<PathBuf>, Fail> {
    let shown = name.to_string_lossy();
    let is_path = shown.contains('/');
    // `which` passes over a folder in silence.
    let mut not_executable = is_path && Path::new(name).exists();
    let found = WhichConfig::new()
        .binary_name(name.to_owned())
        .custom_path_list(path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin")).to_owned())
        .nonfatal_error_handler(|error| {
            let NonFatalError::Io(error) = error else { return };
            not_executable |= error.kind() == ErrorKind::PermissionDenied;
        })
        .all_results()
        .map(|found| found.collect::<Vec<PathBuf>>());
    match found {
        // The path that was given stays as it is: the command finds it in `argv[0]`.
        Ok(found) if is_path && !found.is_empty() => Ok(vec![PathBuf::from(name)]),
        Ok(found) if !found.is_empty() => Ok(found),
        _ if not_executable => Err(Fail::new(Exit::NotExecutable, format!("{shown}: not executable"))),
        _ => Err(Fail::new(Exit::NoCommand, format!("{shown}: command not found"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_program_that_stands_later_in_the_path_is_found_too() {
        let dir = tempfile::tempdir().unwrap();
        let all = ["a", "b"].map(|name| dir.path().join(name));
        for folder in &all {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("tool"), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(folder.join("tool"), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = std::env::join_paths(&all).unwrap();
        assert_eq!(find(OsStr::new("tool"), Some(&path)).unwrap(), all.map(|folder| folder.join("tool")));
    }

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
        assert_eq!(find("good").unwrap(), std::slice::from_ref(&good));
        assert_eq!(find(good.to_str().unwrap()).unwrap(), std::slice::from_ref(&good));
        assert_eq!(find("plain").unwrap_err().exit, Exit::NotExecutable);
        assert_eq!(find(dir.path().to_str().unwrap()).unwrap_err().exit, Exit::NotExecutable);
        assert_eq!(find("no-such").unwrap_err().exit, Exit::NoCommand);
        assert_eq!(find("").unwrap_err().exit, Exit::NoCommand);
    }
}
