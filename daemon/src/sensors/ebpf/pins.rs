//! What outlives the daemon: links and a few maps, pinned in bpffs.
//!
//! ```text
//! <bpffs>/failsafe/<instance>/g<N>_v<ABI>/
//!     map_runs  map_latches  map_counters  map_drops  map_events  map_stopped
//!     map_budgets  map_tallies  map_leavers  map_strays
//!     map_socks  map_learnt  map_last_table     the same maps in every generation
//!     link_<slot>_<cgroup id>_<program>    link_host_<program>
//! ```
//! A pinned link keeps its program, and that its maps, in force when the daemon is gone. Each start makes a new
//! generation `N + 1`, attaches it to the runs that live on, and only then removes the older ones
//! ([`super::Ebpf::adopt_finish`]): both are attached for a moment, and a call passes only if both let it.
//! Pinned maps are read by [`super::left`]; those of [`SHARED_MAPS`] are taken over as they are. The ABI version in the path says
//! whether either is possible.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError};
use failsafe_ebpf::abi;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Error;
use super::left::{LeftEvents, PreviousRun, forget_runs, pinned, read_foreign, read_generation, read_ring, read_run};

/// Maps whose content a later daemon may want.
pub(super) const PINNED_MAPS: [&str; 10] =
    ["runs", "latches", "counters", "drops", "events", "stopped", "budgets", "tallies", "leavers", "strays"];

/// Maps that a later daemon's programs go on with, see `ebpf/src/carry.h`: all of them or none.
pub(super) const SHARED_MAPS: [&str; 3] = ["socks", "learnt", "last_table"];

/// The directory of one generation, and its siblings.
#[derive(Debug)]
pub(super) struct Pins {
    instance: PathBuf,
    generation: u64,
    dir: PathBuf,
}

impl Pins {
    /// Makes the directory of a new generation.
    pub fn create(bpffs: &Path, instance: &str) -> Result<Self, Error> {
        let fail = |path: &Path, operation, source| Error::Pin { path: path.to_owned(), operation, source };
        match statfs(bpffs) {
            Ok(s) if s.filesystem_type() == BPF_FS_MAGIC => {}
            Ok(_) => {
                return Err(fail(bpffs, "use as a bpf file system", io::ErrorKind::Unsupported.into()));
            }
            Err(e) => return Err(fail(bpffs, "statfs", e.into())),
        }
        let instance = bpffs.join("failsafe").join(instance);
        fs::create_dir_all(&instance).map_err(|e| fail(&instance, "create", e))?;
        let generation = generations(&instance)
            .map_err(|e| fail(&instance, "list", e))?
            .iter()
            .map(|(n, _)| n + 1)
            .max()
            .unwrap_or(1);
        let dir = instance.join(format!("g{generation}_v{}", abi::VERSION));
        fs::create_dir(&dir).map_err(|e| fail(&dir, "create", e))?;
        Ok(Self { instance, generation, dir })
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.dir.join(format!("map_{name}"))
    }

    pub fn link(&self, slot: u32, root_id: u64, program: &str) -> PathBuf {
        self.dir.join(format!("link_{slot}_{root_id}_{program}"))
    }

    pub fn host_link(&self, program: &str) -> PathBuf {
        self.dir.join(format!("link_host_{program}"))
    }

    /// Pins the [`SHARED_MAPS`] of the last generation that has them here too, for the loader to find. `false`: there are none.
    ///
    /// # Errors
    /// They are there and cannot be taken over; none is pinned here then.
    pub fn inherit(&self) -> Result<bool, MapError> {
        for (_, dir) in self.readable().unwrap_or_default() {
            let open = SHARED_MAPS.iter().map(|name| pinned(&dir, name));
            let Ok(maps) = open.collect::<Result<Vec<_>, _>>() else { continue };
            let pin = |(name, map): (&&str, &MapData)| {
                map.pin(self.map(name)).map_err(|error| MapError::PinError { name: Some((*name).into()), error })
            };
            if let Err(error) = SHARED_MAPS.iter().zip(&maps).try_for_each(pin) {
                for name in SHARED_MAPS {
                    // Those that were pinned before the one that failed.
                    let _ = fs::remove_file(self.map(name));
                }
                return Err(error);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// What earlier generations guard, one entry a run; little of those of another ABI, see [`PreviousRun::foreign`].
    ///
    /// # Errors
    /// bpffs could not be read.
    pub fn previous(&self) -> Result<Vec<PreviousRun>, Error> {
        let mut out: Vec<PreviousRun> = Vec::new();
        let readable = self.readable()?.into_iter();
        let runs = readable.flat_map(|(generation, dir)| read_generation(generation, &dir).unwrap_or_default());
        for run in runs.chain(self.foreign()?) {
            match out.iter_mut().find(|seen| seen.root_id == run.root_id) {
                Some(seen) => seen.join(run),
                None => out.push(run),
            }
        }
        Ok(out)
    }

    /// The same for the run of that root, as it is at this moment.
    pub fn previous_of(&self, root_id: u64) -> Option<PreviousRun> {
        let readable = self.readable().unwrap_or_default().into_iter();
        let runs = readable.filter_map(|(generation, dir)| read_run(generation, &dir, root_id).ok().flatten());
        let foreign = self.foreign().unwrap_or_default().into_iter().filter(|run| run.root_id == root_id);
        runs.chain(foreign).reduce(|mut newest, older| {
            newest.join(older);
            newest
        })
    }

    /// The rings of earlier generations, of the same ABI.
    pub fn left_events(&self) -> Vec<LeftEvents> {
        let readable = self.readable().unwrap_or_default().into_iter();
        readable.filter_map(|(generation, dir)| read_ring(generation, &dir).ok()).collect()
    }

    /// Removes every other generation; what only they kept attached is detached. The kernel does that at a time of its own, programs of
    /// the whole host seconds later: until then those of this ABI know no run and let everything pass.
    pub fn remove_others(&self) -> Result<usize, Error> {
        for (_, dir) in self.readable()? {
            if let Err(error) = forget_runs(&dir) {
                tracing::warn!(%error, "an earlier daemon's programs judge until the kernel has let go of them");
            }
        }
        let others = self.others()?;
        for (_, dir) in &others {
            remove(dir)?;
        }
        Ok(others.len())
    }

    /// Removes this generation, and the instance's directory if it was the last.
    pub fn remove_own(&self) -> Result<(), Error> {
        remove(&self.dir)?;
        for dir in [Some(self.instance.as_path()), self.instance.parent()].into_iter().flatten() {
            // Not empty: another generation or instance lives there.
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }

    /// Other generations of this ABI, the newest first.
    fn readable(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let mut all = self.others()?;
        all.retain(|(n, dir)| dir.ends_with(format!("g{n}_v{}", abi::VERSION)));
        all.sort_by_key(|(n, _)| Reverse(*n));
        Ok(all)
    }

    /// The runs of generations of another ABI.
    fn foreign(&self) -> Result<Vec<PreviousRun>, Error> {
        let of = |(generation, dir): (u64, PathBuf)| {
            let version = dir.to_str()?.rsplit_once("_v")?.1.parse().ok()?;
            (version != abi::VERSION).then(|| read_foreign(generation, version, &dir))
        };
        Ok(self.others()?.into_iter().filter_map(of).flatten().collect())
    }

    fn others(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let all = generations(&self.instance).map_err(|source| Error::Pin {
            path: self.instance.clone(),
            operation: "list",
            source,
        })?;
        Ok(all.into_iter().filter(|(n, _)| *n != self.generation).collect())
    }
}

fn generations(instance: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(instance)? {
        let entry = entry?;
        let name = entry.file_name();
        let n = name
            .to_str()
            .and_then(|s| s.strip_prefix('g'))
            .and_then(|s| s.split('_').next())
            .and_then(|s| s.parse().ok());
        if let Some(n) = n {
            out.push((n, entry.path()));
        }
    }
    Ok(out)
}

fn remove(dir: &Path) -> Result<(), Error> {
    let fail = |path: &Path, source| Error::Pin { path: path.to_owned(), operation: "remove", source };
    let entries = fs::read_dir(dir).map_err(|e| fail(dir, e))?;
    for entry in entries {
        let path = entry.map_err(|e| fail(dir, e))?.path();
        fs::remove_file(&path).map_err(|e| fail(&path, e))?;
    }
    fs::remove_dir(dir).map_err(|e| fail(dir, e))
}
