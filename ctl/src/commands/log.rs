//! `log`: the audit log as a transparency log, offline: verification, checkpoints and proofs. A daemon is asked only where its files
//! cannot be read ([`daemon`]).

mod archive;
mod checkpoint;
mod consistency;
mod daemon;
pub(super) mod keys;
mod policy;
mod prove;
mod verify;
mod witness;

use super::Place;
use crate::{
    args::{LogCommand, LogOut},
    exit::{Exit, Fail},
    render::{clean, print},
};
use std::{fs, io::Read, path::Path};

pub(super) fn log(place: &Place<'_>, what: &LogCommand) -> Result<Exit, Fail> {
    match what {
        LogCommand::Verify { file, archive, checkpoint, keys, policy, output } => {
            let trust = policy::Trust::of(keys.as_deref(), policy.as_deref());
            match archive {
                Some(dir) => verify::archive(place, dir, checkpoint, &trust, *output),
                None => verify::verify(place, file.as_deref(), checkpoint, &trust, *output),
            }
        }
        LogCommand::Archive(args) => archive::archive(place, args),
        LogCommand::Checkpoint { out, keys, from_daemon } => {
            checkpoint::checkpoint(place, out, keys.as_deref(), *from_daemon)
        }
        LogCommand::Consistency(args) => consistency::consistency(place, args),
        LogCommand::Prove { entry, checkpoint, out, from_daemon } => {
            prove::prove(place, *entry, checkpoint.as_deref(), out, *from_daemon)
        }
        LogCommand::VerifyProof { file, keys, policy, json } => {
            prove::verify(place, file, &policy::Trust::of(keys.as_deref(), policy.as_deref()), *json)
        }
        LogCommand::Witness { what } => witness::witness(place, what),
    }
}

/// The bytes of a file, of which `limit` is the largest size that makes sense.
pub(super) fn read(path: &Path, what: &str, limit: usize) -> Result<Vec<u8>, Fail> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| {
        Fail::because(format!("cannot read the {what} {}", clean(&path.display().to_string())), &error)
    })?;
    match bytes.len() > limit {
        true => Err(Fail::new(Exit::Error, format!("{} has more than {limit} bytes: it is no {what}", path.display()))),
        false => Ok(bytes),
    }
}

/// Writes `bytes` to the file that was named, or `text` to the terminal.
fn put(out: &LogOut, bytes: &[u8], text: &str) -> Result<(), Fail> {
    match &out.output {
        Some(file) => {
            super::file::save(file, out.force, bytes)?;
            print(&format!("{} ({} bytes)\n", clean(&file.display().to_string()), bytes.len()))?;
        }
        None => print(text)?,
    }
    Ok(())
}
