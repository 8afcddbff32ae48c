//! The files of the configuration: the one that is named, and the drop-ins beside it.

use super::ConfigError;
use std::{
    ffi::OsStr,
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

/// Largest size of one file.
const BYTES: u64 = 1 << 20;
/// Largest number of drop-ins.
const DROP_INS: usize = 256;

/// A file that was read.
pub(super) struct Text {
    pub path: PathBuf,
    pub text: String,
}

/// Reads the file, which may be missing where it is `optional`, and then its drop-ins in the order of their names.
///
/// # Errors
/// Every file that cannot be read.
pub(super) fn read(file: &Path, optional: bool) -> Result<Vec<Text>, Vec<ConfigError>> {
    let drop_ins = drop_ins(file).map_err(|error| vec![error])?;
    let all = std::iter::once((file.to_owned(), optional)).chain(drop_ins.into_iter().map(|path| (path, false)));
    let (mut texts, mut errors) = (Vec::new(), Vec::new());
    for (path, may_be_missing) in all {
        match one(&path) {
            Ok(text) => texts.push(Text { path, text }),
            Err(error) if may_be_missing && error.kind() == ErrorKind::NotFound => {}
            Err(source) => errors.push(ConfigError::Read { path, source }),
        }
    }
    if errors.is_empty() { Ok(texts) } else { Err(errors) }
}

/// The drop-ins of `NAME.toml`: `*.toml` in the folder `NAME.d` beside it.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = file.with_extension("d");
    let wrong = |source| ConfigError::Read { path: folder.clone(), source };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(wrong)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension() == Some(OsStr::new("toml")) {
            found.push(path);
        }
        if found.len() > DROP_INS {
            return Err(wrong(std::io::Error::other(format!("more than {DROP_INS} drop-ins"))));
        }
    }
    found.sort();
    Ok(found)
}

fn one(path: &Path) -> std::io::Result<String> {
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("expected a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES {
        return Err(std::io::Error::other(format!("expected at most {BYTES} bytes")));
    }
    Ok(text)
}
