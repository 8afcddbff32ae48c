//! `export`: the recording of a run as one file, which `replay` reads anywhere.

use super::Place;
use crate::{
    args::ExportArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{json, print, table},
};
use failsafe_proto::v1 as pb;
use serde_json::json;
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

pub(super) fn export(place: &Place<'_>, args: &ExportArgs) -> Result<Exit, Fail> {
    let bytes = block_on(async {
        let client = Client::connect(place.socket).await?;
        fetch(&client, &args.run, &args.output).await
    })?;
    if args.json {
        print(&json::text(&json!({ "run": args.run, "file": args.output, "bytes": bytes })))?;
    } else {
        print(&format!("{} ({})\n", args.output.display(), table::bytes(bytes)))?;
    }
    Ok(Exit::Done)
}

/// Writes the recording of `run` to `to`; a file that is there is replaced only by a whole one.
pub(super) async fn fetch(client: &Client, run: &str, to: &Path) -> Result<u64, Fail> {
    let mut stream = client.runs().export(pb::ExportRequest { run: run.to_owned() }).await?.into_inner();
    let part = Part::create(to)?;
    let mut bytes = 0;
    while let Some(chunk) = stream.message().await? {
        part.write(&chunk.data)?;
        bytes += chunk.data.len() as u64;
    }
    part.finish(to)?;
    Ok(bytes)
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
        let file = File::create_new(&path)
            .map_err(|error| Fail::because(format!("cannot create {}", path.display()), &error))?;
        Ok(Part { path, file, whole: false })
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Fail> {
        (&self.file)
            .write_all(bytes)
            .map_err(|error| Fail::because(format!("cannot write {}", self.path.display()), &error))
    }

    fn finish(mut self, to: &Path) -> Result<(), Fail> {
        let done = self.file.sync_all().and_then(|()| std::fs::rename(&self.path, to));
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
