//! `replay`: a recording through the same engine, and whether the decisions are the same.

mod compare;
mod recording;

use super::{Place, export, file_name, read_policy};
use crate::{
    args::ReplayArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{json, print},
};
use compare::{Report, What};
use failsafe_core::{Policy, replay::replay as feed};
use recording::Recording;
use std::path::{Path, PathBuf};

pub(super) fn replay(place: &Place<'_>, args: &ReplayArgs) -> Result<Exit, Fail> {
    let other = args.policy.as_deref().map(read_policy).transpose()?.map(|(_, policy)| policy);
    let under = args.policy.as_deref().map(file_name);
    let report = match local(&args.what) {
        Some(file) => judge(&file, other, under)?,
        None => {
            let folder = Scratch::create()?;
            let file = folder.0.join("run.fsrec");
            block_on(async {
                let client = Client::connect(place.socket).await?;
                export::fetch(&client, &args.what, &file).await
            })?;
            judge(&file, other, under)?
        }
    };
    print(&if args.output.json() { json::text(&report.json()) } else { report.text() })?;
    Ok(report.exit())
}

/// The file that is meant, unless a run is.
fn local(what: &str) -> Option<PathBuf> {
    let path = PathBuf::from(what);
    (path.is_file() || what.contains('/') || what.ends_with(".fsrec")).then_some(path)
}

fn judge(file: &Path, other: Option<Policy>, under: Option<String>) -> Result<Report, Fail> {
    let mut recording = Recording::open(file)?;
    let recorded_policy = recording.policy().clone();
    let what = match (&other, under) {
        (Some(policy), Some(file)) => What::Other { file, digest: policy.digest().to_string() },
        _ => What::Same,
    };
    let replay = feed(other.unwrap_or(recorded_policy), &mut recording)?;
    Ok(Report::new(what, &recording, replay))
}

/// A folder of our own for a fetched recording; it goes with us.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Scratch, Fail> {
        let failed = |error: nix::Error| Fail::because("cannot make a temporary folder", &error);
        nix::unistd::mkdtemp(&std::env::temp_dir().join("failsafectl-XXXXXX")).map(Scratch).map_err(failed)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
