//! A file with a secret. It is read each time, so that it can be replaced; what is in it is not logged or shown.

use anyhow::{Context, Result, ensure};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Largest secret, in bytes.
const SECRET: u64 = 4_096;

/// The file, or the name of a credential of systemd.
pub struct Secret(PathBuf);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Nothing is read yet.
    pub fn at(path: PathBuf) -> Secret {
        Secret(path)
    }

    /// What is in it now.
    ///
    /// # Errors
    /// It cannot be read, or is empty.
    pub fn read(&self) -> Result<Vec<u8>> {
        let path = self.path()?;
        let text = failsafe_files::bounded(&path, SECRET);
        let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
        let text = text.trim_ascii().to_vec();
        ensure!(!text.is_empty(), "{}: it is empty", path.display());
        Ok(text)
    }

    fn path(&self) -> Result<PathBuf> {
        if self.0.is_absolute() {
            return Ok(self.0.clone());
        }
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY").with_context(|| {
            let name = self.0.display();
            format!(
                "{name} is the name of a systemd credential, and there are none: expected LoadCredential={name}:PATH"
            )
        })?;
        Ok(Path::new(&folder).join(&self.0))
    }
}
