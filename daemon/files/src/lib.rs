//! The files of a configuration: the one that is named, and the drop-ins beside it, and what they are merged to. failsafed and
//! failsafe-gateway read their configurations with this, and failsafectl the daemon's where it answers without it. Also the places
//! of their sockets.
//!
//! Invariant: what is read is bounded in number and size, and only regular files are read.

#![forbid(unsafe_code)]

mod merge;
pub mod socket;

pub use merge::{Wrong, alone, merged};

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

/// Largest size of one file.
const BYTES: u64 = 1 << 20;
/// Largest number of drop-ins.
const DROP_INS: usize = 256;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The file.
    pub path: PathBuf,
    /// What it contains.
    pub text: String,
}

/// A file or folder that cannot be read.
#[derive(Debug)]
pub struct Unread {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Reads the file `NAME.toml`, which may be missing where it is `optional`, and then `*.toml` in the folder `NAME.d`
/// beside it in the order of their names. Names that begin with a dot are passed over.
///
/// # Errors
/// Every file that cannot be read.
pub fn read(file: &Path, optional: bool) -> Result<Vec<Text>, Vec<Unread>> {
    let drop_ins = drop_ins(file).map_err(|error| vec![error])?;
    let all = std::iter::once((file.to_owned(), optional)).chain(drop_ins.into_iter().map(|path| (path, false)));
    let (mut texts, mut errors) = (Vec::new(), Vec::new());
    for (path, may_be_missing) in all {
        match one(&path) {
            Ok(text) => texts.push(Text { path, text }),
            Err(error) if may_be_missing && error.kind() == ErrorKind::NotFound => {}
            Err(source) => errors.push(Unread { path, source }),
        }
    }
    if errors.is_empty() { Ok(texts) } else { Err(errors) }
}

fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, Unread> {
    let folder = file.with_extension("d");
    let wrong = |source| Unread { path: folder.clone(), source };
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
            return Err(wrong(io::Error::other(format!("more than {DROP_INS} drop-ins"))));
        }
    }
    found.sort();
    Ok(found)
}

fn one(path: &Path) -> io::Result<String> {
    String::from_utf8(bounded(path, BYTES)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8"))
}

/// Reads a regular file of at most so many bytes.
///
/// # Errors
/// It cannot be read, is not a regular file, or is larger.
pub fn bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("expected a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("expected at most {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_follow_the_file_in_the_order_of_their_names_and_hidden_files_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("n.toml"), dir.path().join("n.d"));
        std::fs::create_dir(&folder).unwrap();
        for name in ["20.toml", "10.toml", ".00.toml", "30.conf"] {
            std::fs::write(folder.join(name), name).unwrap();
        }
        let texts = |optional| read(&file, optional).unwrap().into_iter().map(|it| it.text).collect::<Vec<_>>();
        assert_eq!(texts(true), ["10.toml", "20.toml"]);
        std::fs::write(&file, "first").unwrap();
        assert_eq!(texts(false), ["first", "10.toml", "20.toml"]);
    }

    #[test]
    fn every_file_that_cannot_be_read_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("n.toml"), dir.path().join("n.d"));
        std::fs::create_dir_all(folder.join("10.toml")).unwrap();
        std::fs::File::create(folder.join("20.toml")).unwrap().set_len(BYTES + 1).unwrap();
        let errors = read(&file, false).unwrap_err();
        let shown: Vec<_> = errors.iter().map(|error| (error.path.clone(), error.source.to_string())).collect();
        assert_eq!(shown[0].0, file);
        assert_eq!(shown[1], (folder.join("10.toml"), "expected a regular file".to_owned()));
        assert_eq!(shown[2], (folder.join("20.toml"), format!("expected at most {BYTES} bytes")));
        (0..=DROP_INS).for_each(|n| std::fs::write(folder.join(format!("x{n}.toml")), "").unwrap());
        let errors = read(&file, true).unwrap_err();
        assert_eq!((errors.len(), &errors[0].path), (1, &folder));
    }
}
