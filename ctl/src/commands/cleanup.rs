//! `doctor --cleanup`: removes what a daemon that is gone left in force, for a node that is to be without failsafe.
//!
//! Invariants: nothing is removed while a daemon holds the state folder's lock, nor outside the BPF file system, nor of another state
//! folder; what a link points to is left alone. The bounds of a run with processes stay, unless that run is named: nobody lifts them by
//! tidying up.

mod bounded;

pub(super) use bounded::{cgroup2_mounts, hierarchy};

use super::Place;
use crate::{
    args::DoctorArgs,
    exit::{Exit, Fail},
    render::{json, print},
};
use bounded::{Bounded, populated, root_of};
use failsafe_journal::{LockError, StateLock, instance};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

pub(super) fn cleanup(place: &Place<'_>, args: &DoctorArgs) -> Result<Exit, Fail> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Fail::new(Exit::Denied, "only root may remove what is in force in the kernel"));
    }
    // Held until all is removed: a daemon that starts meanwhile would pin anew below our hands.
    let _lock = if args.dry_run { None } else { Some(lock(place.state_dir)?) };
    let bpffs = &args.bpffs;
    match statfs(bpffs.as_path()) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {}
        Ok(_) => return Err(Fail::new(Exit::Error, format!("{} is not a BPF file system", bpffs.display()))),
        Err(error) => return Err(Fail::because(format!("cannot look at {}", bpffs.display()), &error)),
    }
    let all = bpffs.join("failsafe");
    let instance = all.join(instance::name(place.state_dir));
    let found =
        found(&instance).map_err(|error| Fail::because(format!("cannot list {}", instance.display()), &error))?;
    let alive = populated(&found.iter().filter_map(|path| root_of(path)).collect(), place.state_dir)?;
    if let Some(unknown) = args.release.iter().find(|named| !alive.iter().any(|run| run.is_named(named))) {
        let message = format!("no run with processes is enforced here as {unknown:?}; nothing was removed");
        let known: Vec<String> = alive.iter().map(Bounded::reference).collect();
        return Err(match known.is_empty() {
            true => Fail::new(Exit::NotFound, message),
            false => Fail::new(Exit::NotFound, message).advise(format!("there are: {}", known.join(", "))),
        });
    }
    let kept: Vec<Bounded> =
        alive.into_iter().filter(|run| !args.release.iter().any(|named| run.is_named(named))).collect();
    let found = removable(&instance, found, &kept.iter().map(|run| run.root).collect());
    if !args.dry_run {
        for path in &found {
            remove(path).map_err(|error| Fail::because(format!("cannot remove {}", path.display()), &error))?;
        }
        // Another instance may live beside this one.
        let _kept = fs::remove_dir(all);
    }
    print(&if args.output.json() {
        let paths: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
        let kept: Vec<_> = kept
            .iter()
            .map(|run| json!({ "run_id": run.run_id, "name": run.name, "cgroup": run.cgroup.display().to_string() }))
            .collect();
        json::text(
            &json!({ "instance": instance.display().to_string(), "removed": paths, "kept": kept, "dry_run": args.dry_run }),
        )
    } else {
        page(&instance, &found, &kept, args.dry_run)
    })?;
    Ok(if kept.is_empty() { Exit::Done } else { Exit::Partial })
}

/// What may go while these cgroups stay bounded. A generation of pins with a link of one of them keeps its maps and the programs of the
/// whole host: they are a part of what bounds it.
fn removable(instance: &Path, found: Vec<PathBuf>, keep: &BTreeSet<u64>) -> Vec<PathBuf> {
    let is_kept = |path: &Path| root_of(path).is_some_and(|root| keep.contains(&root));
    let generation =
        |path: &Path| path.strip_prefix(instance).ok()?.components().next().map(|name| instance.join(name));
    let held: BTreeSet<PathBuf> =
        found.iter().filter(|path| is_kept(path)).filter_map(|path| generation(path)).collect();
    let goes = |path: &PathBuf| match generation(path) {
        Some(of) if held.contains(&of) => root_of(path).is_some_and(|root| !keep.contains(&root)),
        Some(_) => true,
        None => held.is_empty(),
    };
    found.into_iter().filter(goes).collect()
}

fn lock(state_dir: &Path) -> Result<StateLock, Fail> {
    StateLock::acquire(state_dir).map_err(|error| match &error {
        LockError::Held { .. } => Fail::new(Exit::Error, format!("a daemon runs: {error}"))
            .advise("stop it first; a daemon that stops with no runs left removes everything itself"),
        LockError::Io { .. } => Fail::because("cannot make sure that no daemon runs", &error)
            .advise("give the state folder of the daemon with --state-dir"),
    })
}

/// Everything of the instance, what is inside before what holds it, and itself last.
fn found(instance: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    match fs::symlink_metadata(instance) {
        Ok(_) => collect(instance, &mut out)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(out)
}

fn collect(path: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        for entry in entries {
            collect(&entry, out)?;
        }
    }
    out.push(path.to_owned());
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let is_dir = fs::symlink_metadata(path)?.is_dir();
    if is_dir { fs::remove_dir(path) } else { fs::remove_file(path) }
}

fn page(instance: &Path, found: &[PathBuf], kept: &[Bounded], dry_run: bool) -> String {
    if found.is_empty() && kept.is_empty() {
        return format!("nothing is pinned in {}\n", instance.display());
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut out = String::new();
    for path in found {
        let _ = writeln!(out, "{verb} {}", path.display());
    }
    for run in kept {
        let _ = writeln!(out, "kept the enforcement of {}", run.shown());
        let _ = writeln!(out, "  to remove them as well: --release {}", run.reference());
    }
    out
}
