//! A flood of opens that a rule names: with LSM the hook on opens reports each, without it the entry of the call. Equal events within a
//! second are one, so it goes round many files.

use crate::{Judge, judge::all};
use anyhow::{Context, Result};
use integration::{Launch, program, wait_for};
use std::{fs, path::PathBuf};

/// More than the kernel remembers of what it reported less than a second ago.
const FILES: usize = 10_000;
/// Events that the daemon has counted before the strike, and more of them come meanwhile.
const EVENTS: u64 = 2_000;

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn opens(judge: &mut dyn Judge) -> Result<()> {
    judge.withstand("opens", "", &mut |node, strike| {
        let folder = Folder::make()?;
        let policy = format!(
            "[policy]\nname = \"flood\"\nowner = \"tests\"\n[[rule]]\nid = \"watched\"\nrationale = \"x\"\n\
             when = {{ event = \"open\", path = \"{}/*\" }}\nactions = [\"notify\"]\n",
            folder.0.display()
        );
        let opener = [program("opener")?.into_os_string(), folder.0.clone().into_os_string()];
        let run = Launch::new("flood", &policy).user("root").start(node, opener)?;
        let counted = || -> Result<u64> { node.run("flood")?["events"].as_u64().context("no count of events") };
        wait_for("the flood is under way", || Ok(counted()? >= EVENTS))?;
        let before = counted()?;
        let struck = all(node, strike);
        let after = counted()?;
        eprintln!("events during the strike: {}", after - before);
        wait_for("the flood goes on after the strike", || Ok(counted()? > after))?;
        drop(run);
        struck
    })
}

/// The files. Without LSM the beginning of the name, behind its first five bytes, tells one from another: so it is short.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Folder> {
        let folder = Folder(PathBuf::from(format!("/tmp/fo{}", std::process::id())));
        fs::create_dir(&folder.0).with_context(|| format!("making {}", folder.0.display()))?;
        for n in 0..FILES {
            fs::write(folder.0.join(format!("{n}")), "").context("making a file")?;
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("left {}: {error}", self.0.display());
        }
    }
}
