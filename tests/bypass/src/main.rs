//! `bypass NAME [--to ...]`: makes one attempt and says how it ended.

use anyhow::{Result, bail};
use bypass::attempts::{self, Scene};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Makes one attempt to get round a run's bounds, and says how it ended")]
struct Args {
    /// The attempt; without one, all are listed
    attempt: Option<String>,
    #[command(flatten)]
    scene: Scene,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(name) = args.attempt else {
        attempts::all().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let Some((_, attempt)) = attempts::all().find(|(known, _)| *known == name) else {
        bail!("no attempt `{name}`; without a name, all are listed");
    };
    attempts::say(&attempt(&args.scene));
    Ok(())
}
