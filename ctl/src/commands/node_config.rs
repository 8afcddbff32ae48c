//! The texts of a daemon's configuration, read as `failsafed` reads them (`daemon/src/config/files.rs`): the file, then its drop-ins.

use super::file_name;
use crate::exit::{Exit, Fail};
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

/// The file `NAME.toml`, and `*.toml` in the folder `NAME.d` beside it in the order of their names: each with its name and its text.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn read(file: &Path) -> Result<Vec<(String, String)>, Fail> {
    let all = std::iter::once(file.to_owned()).chain(drop_ins(file)?);
    let one = |path: PathBuf| {
        let text = text(&path).map_err(|error| Fail::because(format!("cannot read {}", file_name(&path)), &error))?;
        Ok((file_name(&path), text))
    };
    all.map(one).collect()
}

fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, Fail> {
    let folder = file.with_extension("d");
    let wrong = |error: std::io::Error| Fail::because(format!("cannot read {}", file_name(&folder)), &error);
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
            let why = format!("{} has more than {DROP_INS} drop-ins", file_name(&folder));
            return Err(Fail::new(Exit::Error, why));
        }
    }
    found.sort();
    Ok(found)
}

fn text(path: &Path) -> std::io::Result<String> {
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
