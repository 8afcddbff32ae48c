//! The file system of the state folder is full: no record, run file or recording can be written.

use crate::{Judge, judge::all};
use anyhow::{Context, Result};
use integration::Tmpfs;
use std::{fs::File, io::Write};

const KIB: u32 = 8 << 10;

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn full_disk(judge: &mut dyn Judge) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("failsafe-hostile-full-").tempdir().context("making a folder")?;
    let disk = Tmpfs::mount(&folder.path().join("mounted"), KIB)?;
    let state = disk.path().join("state");
    judge.withstand("full-disk", &format!("state_dir = {:?}\n", state.display().to_string()), &mut |node, strike| {
        node.use_state_dir(&state);
        let mut filler = File::create(disk.path().join("filler")).context("making the file that fills the disk")?;
        // Ends with ENOSPC; the last writes are small, so that nothing is left.
        for size in [64 << 10, 512, 1] {
            while filler.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
        let struck = all(node, strike);
        filler.set_len(0).context("making room again")?;
        struck
    })
}
