//! `export`: the recording of a run as one file, which `replay` reads anywhere.

use super::{Place, events};
use crate::{
    args::ExportArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json, print, table},
};
use failsafe_proto::v1 as pb;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

pub(super) fn export(place: &Place<'_>, args: &ExportArgs) -> Result<Exit, Fail> {
    let bytes = block_on(async {
        let client = Client::connect(place.socket).await?;
        let run = events::run_of(&client, &args.run).await?;
        fetch(&client, &run, &args.output, args.force).await
    })?;
    if args.json {
        print(&json::text(&json!({ "run": args.run, "file": args.output, "bytes": bytes })))?;
    } else {
        print(&format!("{} ({})\n", args.output.display(), table::bytes(bytes)))?;
    }
    Ok(Exit::Done)
}

/// Writes the recording of `run` to `to`, which only its owner may read. A file that is there is replaced with `force` alone, and only
/// by a whole one; a symbolic link is never followed or replaced.
pub(super) async fn fetch(client: &Client, run: &str, to: &Path, force: bool) -> Result<u64, Fail> {
    free(to, force)?;
    let mut stream = client.runs().export(pb::ExportRequest { run: run.to_owned() }).await?.into_inner();
    let part = Part::create(to)?;
    let mut bytes = 0;
    while let Some(chunk) = stream.message().await? {
        part.write(&chunk.data)?;
        bytes += chunk.data.len() as u64;
    }
    part.finish(to, force)?;
    Ok(bytes)
}

fn free(to: &Path, force: bool) -> Result<(), Fail> {
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

/// A file in the making; it is removed again unless it is finished.
struct Part {
    path: PathBuf,
    file: File,
    whole: bool,
}

impl Part {
    fn create(to: &Path) -> Result<Part, Fail> {
        let mut path = to.as_os_str().to_owned();
        path.push(format!(".part{}", std::process::id()));
        let path = PathBuf::from(path);
        // The recording of a run may be read by its owner and administrators only, and so may its copy.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Fail::because(format!("cannot create {}", path.display()), &error))?;
        Ok(Part { path, file, whole: false })
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Fail> {
        (&self.file)
            .write_all(bytes)
            .map_err(|error| Fail::because(format!("cannot write {}", self.path.display()), &error))
    }

    fn finish(mut self, to: &Path, force: bool) -> Result<(), Fail> {
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
