//! `bypass NAME [--to ...]`: makes one attempt and says how it ended.

use anyhow::{Result, bail};
use bypass::attempts::{self, Scene};
use clap::Parser;
use std::{path::PathBuf, thread, time::Duration};

#[derive(Parser)]
#[command(about = "Makes one attempt to get round a run's bounds, and says how it ended")]
struct Args {
    /// The attempt; without one, all are listed
    attempt: Option<String>,
    /// The script, where the kernel starts this program as its interpreter
    script: Option<PathBuf>,
    /// Wait until this file is there
    #[arg(long)]
    after: Option<PathBuf>,
    /// Live on afterwards, so that what becomes of the run can be seen
    #[arg(long)]
    linger: bool,
    #[command(flatten)]
    scene: Scene,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(name) = args.attempt else {
        attempts::all().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let Some((_, attempt)) = attempts::all().chain([attempts::mark()]).find(|(known, _)| *known == name) else {
        bail!("no attempt `{name}`; without a name, all are listed");
    };
    while args.after.as_ref().is_some_and(|file| !file.exists()) {
        thread::sleep(Duration::from_millis(1));
    }
    let ended = attempt(&args.scene);
    attempts::say(&ended);
    if args.linger {
        loop {
            nix::unistd::pause();
        }
    }
    if ended.is_ok() { Ok(()) } else { std::process::exit(1) }
}
