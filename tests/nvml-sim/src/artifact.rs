//! Where cargo put the cdylib, for tests that must load it.

use std::path::PathBuf;
use std::{env, io};

/// The path of the built `libnvidia_ml.so`, looked for beside the running
/// executable and in the two folders above it (`target/PROFILE/deps`,
/// `target/PROFILE`). A package that has this crate among its dev-dependencies
/// finds it there, because cargo builds every crate type of the library.
///
/// # Errors
/// The executable's own path is unknown, or no folder holds the library.
pub fn library_path() -> io::Result<PathBuf> {
    let executable = env::current_exe()?;
    executable
        .ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join("libnvidia_ml.so"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no libnvidia_ml.so near {}; build nvml-sim first", executable.display()),
            )
        })
}
