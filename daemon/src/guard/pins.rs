//! What outlives the daemon: links and a few maps, pinned in bpffs.
//!
//! ```text
//! <bpffs>/failsafe/<instance>/g<N>_v<ABI>/
//!     map_runs  map_latches  map_counters  map_drops  map_events  map_stopped
//!     map_budgets  map_tallies  map_leavers  map_strays
//!     map_socks  map_asks  map_learnt  map_last_table     the same maps in every generation
//!     link_<slot>_<cgroup id>_<program>    link_host_<program>
//! ```
//! A pinned link keeps its program, and that its maps, in force when the daemon is gone. Each start makes a new
//! generation `N + 1`, attaches it to the runs that live on, and only then removes what older ones have of these
//! ([`super::ebpf::Ebpf::release_previous`]): both are attached for a moment, and a call passes only if both let it. A run that could not be
//! taken up stays bound by its old generation, over any number of starts.
//! Pinned maps are read by [`super::left`]; those of [`SHARED_MAPS`] are taken over as they are. The ABI version in the path says
//! whether either is possible.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError};
use failsafe_ebpf::abi;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::Error;
use super::left::{LeftEvents, PreviousRun, forget_runs, pinned, read_foreign, read_generation, read_ring, read_run};

/// Maps whose content a later daemon may want.
pub(super) const PINNED_MAPS: [&str; 10] =
    ["runs", "latches", "counters", "drops", "events", "stopped", "budgets", "tallies", "leavers", "strays"];

/// Maps that a later daemon's programs go on with, see `ebpf/src/carry.h`: all of them or none.
pub(super) const SHARED_MAPS: [&str; 4] = ["socks", "asks", "learnt", "last_table"];

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
        let instance = bpffs.join(super::pin_folder::OWN).join(instance);
        fs::create_dir_all(&instance).map_err(|e| fail(&instance, "create", e))?;
        let generation = generations(&instance)
            .map_err(|e| fail(&instance, "list", e))?
            .iter()
            .filter_map(|(n, _)| n.checked_add(1))
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

    /// What earlier generations guard, one entry a run; little of those of another ABI, see [`PreviousRun::foreign`]. A generation with
    /// maps that cannot be read is taken for one of another ABI: its programs bound its runs all the same.
    ///
    /// # Errors
    /// bpffs could not be read.
    pub fn previous(&self) -> Result<Vec<PreviousRun>, Error> {
        let mut out: Vec<PreviousRun> = Vec::new();
        let readable = self.readable()?.into_iter();
        let runs = readable.flat_map(|(generation, dir)| {
            read_generation(generation, &dir).unwrap_or_else(|error| {
                tracing::warn!(%error, dir = %dir.display(), "the maps of an earlier daemon cannot be read: its runs are known by their pins");
                read_foreign(generation, abi::VERSION, &dir)
            })
        });
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
        let runs = readable.filter_map(|(generation, dir)| {
            read_run(generation, &dir, root_id).unwrap_or_else(|_| {
                read_foreign(generation, abi::VERSION, &dir).into_iter().find(|run| run.root_id == root_id)
            })
        });
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

    /// Removes what other generations have of runs with roots that are not in `keep`, and every generation that has none of `keep`
    /// whole. What only they kept attached is detached. The kernel does that at a time of its own, programs of the whole host seconds
    /// later: until then those of this ABI know no such run and let everything pass. Returns the number of generations removed.
    ///
    /// # Errors
    /// The first pin that could not be removed; the others were.
    pub fn release_others(&self, keep: &BTreeSet<u64>) -> Result<usize, Error> {
        let (mut removed, mut result) = (0, Ok(()));
        for (generation, dir) in self.others()? {
            // One that cannot be removed does not keep the others.
            match self.release(generation, &dir, keep) {
                Ok(whole) => removed += usize::from(whole),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.map(|()| removed)
    }

    /// The same for one generation. True: nothing of it is left.
    fn release(&self, generation: u64, dir: &Path, keep: &BTreeSet<u64>) -> Result<bool, Error> {
        let forgotten = match self.is_readable(generation, dir) {
            true => forget_runs(dir, |root| !keep.contains(&root)),
            false => Ok(()),
        };
        if self.roots(generation, dir)?.iter().any(|root| keep.contains(root)) {
            remove_links(dir, keep)?;
            // The programs that judge the runs which are kept judge the others too while the map has these.
            return forgotten.map(|()| false).map_err(Error::map("runs"));
        }
        if let Err(error) = forgotten {
            tracing::warn!(%error, "an earlier daemon's programs judge until the kernel has let go of them");
        }
        remove(dir).map(|()| true)
    }

    /// The roots of the runs that a generation bounds: those with pinned links, and those in its map.
    fn roots(&self, generation: u64, dir: &Path) -> Result<BTreeSet<u64>, Error> {
        let names = list(dir)?;
        let mut roots: BTreeSet<u64> = names.iter().filter_map(|path| root_of(path)).collect();
        if self.is_readable(generation, dir) {
            roots.extend(read_generation(generation, dir).unwrap_or_default().into_iter().map(|run| run.root_id));
        }
        Ok(roots)
    }

    fn is_readable(&self, generation: u64, dir: &Path) -> bool {
        dir.ends_with(format!("g{generation}_v{}", abi::VERSION))
    }

    /// Removes a program of the host from all other generations.
    ///
    /// # Errors
    /// The first pin that cannot be removed: the program stays attached there.
    pub fn remove_host_link_of_others(&self, program: &str) -> Result<(), Error> {
        let mut result = Ok(());
        for (_, dir) in self.others()? {
            let pin = dir.join(format!("link_host_{program}"));
            result = result.and(match fs::remove_file(&pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail_to_remove(&pin, error)),
                _ => Ok(()),
            });
        }
        result
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
        all.retain(|(n, dir)| self.is_readable(*n, dir));
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

fn fail_to_remove(path: &Path, source: io::Error) -> Error {
    Error::Pin { path: path.to_owned(), operation: "remove", source }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |source| Error::Pin { path: dir.to_owned(), operation: "list", source };
    fs::read_dir(dir).map_err(fail)?.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}

/// The root of the run that a pinned link is of; `None`: it is a map's, or of the whole host.
fn root_of(path: &Path) -> Option<u64> {
    let mut words = path.file_name()?.to_str()?.strip_prefix("link_")?.splitn(3, '_');
    let _slot: u32 = words.next()?.parse().ok()?;
    words.next()?.parse().ok()
}

/// Removes the links of runs that are not to be kept.
fn remove_links(dir: &Path, keep: &BTreeSet<u64>) -> Result<(), Error> {
    let mut result = Ok(());
    for path in list(dir)? {
        if root_of(&path).is_some_and(|root| !keep.contains(&root)) {
            result = result.and(fs::remove_file(&path).map_err(|e| fail_to_remove(&path, e)));
        }
    }
    result
}

fn remove(dir: &Path) -> Result<(), Error> {
    for path in list(dir)? {
        fs::remove_file(&path).map_err(|e| fail_to_remove(&path, e))?;
    }
    fs::remove_dir(dir).map_err(|e| fail_to_remove(dir, e))
}
