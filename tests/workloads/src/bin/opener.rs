//! Opens the files of a folder for reading, one after another and without a pause, until it is killed. What comes of an open does not
//! matter to it: a policy may refuse it.

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;
use std::{
    fs::{self, File},
    path::PathBuf,
};
use workloads::say;

#[derive(Parser)]
#[command(about = "Opens every file of a folder again and again")]
struct Args {
    /// The folder
    folder: PathBuf,
}

fn main() -> Result<()> {
    let folder = Args::parse().folder;
    let listed = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
    let files: Vec<PathBuf> = listed.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    anyhow::ensure!(!files.is_empty(), "{} holds no file", folder.display());
    say(json!({ "ready": true, "files": files.len() }));
    loop {
        for file in &files {
            let _refused = File::open(file);
        }
    }
}
