//! `export`: the recordings of a run as one file, which `replay` reads anywhere.

pub(super) mod archive;

use super::{
    Place, events,
    file::{Part, free},
    replay::found::{Unreadable, name},
};
use crate::{
    args::ExportArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json, print, table},
};
use archive::Writer;
use failsafe_proto::v1 as pb;
use serde_json::json;
use std::path::Path;

pub(super) fn export(place: &Place<'_>, args: &ExportArgs) -> Result<Exit, Fail> {
    let sent = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let run = events::get(&client, &args.run).await?.id;
        fetch(&client, &run, &args.output, args.force).await
    })?;
    for Unreadable { number, problem, .. } in &sent.unreadable {
        note!("failsafectl: {} of the run cannot be read: {}", name(*number), clean(problem));
    }
    if args.json {
        let Sent { bytes, recordings, unreadable } = &sent;
        print(&json::text(&json!({
            "run": args.run, "file": args.output, "bytes": bytes, "recordings": recordings, "unreadable": unreadable
        })))?;
    } else {
        let several = match sent.recordings {
            0 | 1 => String::new(),
            n => format!(", {} of {n} recordings", n as usize - sent.unreadable.len()),
        };
        let output = clean(&args.output.display().to_string());
        print(&format!("{output} ({}{several})\n", table::bytes(sent.bytes)))?;
    }
    Ok(if sent.unreadable.is_empty() { Exit::Done } else { Exit::Partial })
}

/// What the daemon sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub bytes: u64,
    /// How many recordings the run has.
    recordings: u32,
    unreadable: Vec<Unreadable>,
}

/// Writes the recordings of `run` to `to`, which only its owner may read: the only one as it is, several as an archive. A file that
/// is there is replaced with `force` alone, and only by a whole one; a symbolic link is never followed or replaced.
pub(super) async fn fetch(client: &Client, run: &str, to: &Path, force: bool) -> Result<Sent, Fail> {
    free(to, force)?;
    let request = pb::ExportRequest { run: run.to_owned(), all: true };
    let mut stream = client.runs().export(request).await?.into_inner();
    let part = Part::create(to)?;
    let failed = |error: std::io::Error| Fail::because(format!("cannot write {}", part.path.display()), &error);
    let mut writer = Writer::new(&part.file);
    while let Some(pb::Chunk { data, part }) = stream.message().await? {
        if let Some(part) = part {
            writer.begin(part).map_err(failed)?;
        }
        writer.write(&data).map_err(failed)?;
    }
    let sent = writer.finish(run).map_err(failed)?;
    if let ([problem], 0 | 1) = (sent.unreadable.as_slice(), sent.recordings) {
        return Err(Fail::new(Exit::Error, format!("the recording cannot be read: {}", clean(&problem.problem))));
    }
    part.finish(to, force)?;
    Ok(sent)
}
