//! A run: its processes, what they have loaded, and what of their environment can change results.
//!
//! Invariants: the run is hostile. Processes come and go, rename, delete and replace what they have mapped, and make `/proc` as
//! large as they can, and the number of one that was listed may be a foreign process's a moment later. So each is read through one
//! descriptor, after it was seen to belong to the run; one that is gone is skipped; every list has a limit, and a limit that is
//! reached makes its group unavailable, with the reason. Values of environment variables that are not in the table of factors are never kept.

mod beginning;
mod environment;
mod folder;
mod libraries;
mod process;

pub use beginning::Beginning;

use super::{GpuFacts, Roots, gpu};
use crate::{
    platform::{Cgroup, CgroupError, Members, cgroup::Unopened},
    redact::Redactor,
};
use failsafe_attest::{Fact, Json, Missing, Table};
use failsafe_core::{GpuId, input::Run};
use process::Process;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Limits of one fingerprint of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Processes that are read.
    pub processes: usize,
    /// Bytes of a process's memory map.
    pub map: u64,
    /// Bytes of all memory maps together.
    pub maps: u64,
    /// Different libraries.
    pub libraries: usize,
    /// Bytes of the libraries' paths, and of the values of environment variables.
    pub texts: usize,
    /// Bytes of a file without a build-id that are hashed.
    pub hashed_file: u64,
    /// Bytes of all of them together.
    pub hashed: u64,
    /// Time for all of it.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            processes: 256,
            map: 16 << 20,
            maps: 64 << 20,
            libraries: 4_096,
            texts: 2 << 20,
            hashed_file: 256 << 20,
            hashed: 1 << 30,
            time: Duration::from_secs(8),
        }
    }
}

/// How often a run is read in which processes come and go.
const ATTEMPTS: u32 = 4;

/// What a run's readers are given by the daemon.
pub struct RunFacts {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its user.
    pub owner_uid: u32,
    /// The digest of its policy.
    pub policy: String,
    /// Its GPUs, each with the MIG devices that it was given in place of the whole.
    pub gpus: Vec<(GpuId, Vec<String>)>,
    /// Its cgroup, which the reader's thread opens.
    pub cgroup: Unopened,
    /// Environment variables that are read.
    pub environment: BTreeSet<String>,
}

impl RunFacts {
    /// Of a run whose processes are in `cgroup`. `table` names the environment variables.
    pub fn of(run: &Run, cgroup: Unopened, table: &Table) -> RunFacts {
        let slices = |gpu| run.mig.get(gpu).into_iter().flatten().cloned().collect();
        RunFacts {
            id: run.id.to_string(),
            name: run.name.clone(),
            owner_uid: run.owner_uid,
            policy: run.policy.to_string(),
            gpus: run.gpus.iter().map(|gpu| (gpu.clone(), slices(gpu))).collect(),
            cgroup,
            environment: table.environment().map(str::to_owned).collect(),
        }
    }
}

/// Reads a run, fact by fact. `give` gets each as soon as it is known.
pub(super) fn read(roots: &Roots, about: &RunFacts, gpus: &GpuFacts, redact: &Redactor, give: &mut dyn FnMut(Fact)) {
    let limits = Limits::default();
    let end = Instant::now() + limits.time;
    for (path, value) in [
        ("run/id", Json::from(about.id.as_str())),
        ("run/name", Json::from(about.name.as_str())),
        ("run/owner", Json::Text(format!("uid {}", about.owner_uid))),
        ("run/policy", Json::from(about.policy.as_str())),
    ] {
        give(Fact::measured(path, "the registration of the run", Ok(value)));
    }
    gpu::run(gpus, &about.gpus).into_iter().for_each(&mut *give);
    let unlisted =
        |error: CgroupError| Missing::unavailable(format!("the processes cannot be listed: {}", error.chain()));
    let cgroup = match about.cgroup.open() {
        Ok(cgroup) => cgroup,
        Err(error) => return without(&unlisted(error), give),
    };
    let list = || cgroup.procs_until(end).map_err(unlisted);
    let read_once = |members: &Members| {
        let cut = (!members.complete).then(|| "the cgroups of the run could not all be listed in time".to_owned());
        let mut facts = Vec::new();
        of_processes(roots, &members.ids, cut, (about, &cgroup), (limits, end), redact, &mut |fact| facts.push(fact));
        facts
    };
    settled(list, read_once, end).into_iter().for_each(give);
}

/// Reads the processes again where one came or went meanwhile: it may have loaded what none of those has that were read.
fn settled(
    mut list: impl FnMut() -> Result<Members, Missing>,
    mut read_once: impl FnMut(&Members) -> Vec<Fact>,
    end: Instant,
) -> Vec<Fact> {
    let missing = |missing: &Missing| {
        let mut facts = Vec::new();
        without(missing, &mut |fact| facts.push(fact));
        facts
    };
    let mut members = match list() {
        Ok(members) => members,
        Err(why) => return missing(&why),
    };
    let mut attempt = 1;
    loop {
        let mut facts = read_once(&members);
        let again = match list() {
            Ok(again) => again,
            Err(why) => return missing(&why),
        };
        let ids = |members: &Members| members.ids.iter().copied().collect::<BTreeSet<u32>>();
        if ids(&members) == ids(&again) {
            return facts;
        }
        if attempt == ATTEMPTS || Instant::now() >= end {
            let why = format!("processes came and went each of the {attempt} times that the run was read");
            let of_all = |fact: &&mut Fact| !fact.path.starts_with("run/library/");
            facts.iter_mut().filter(of_all).for_each(|fact| fact.value = Err(Missing::unavailable(&why)));
            return facts;
        }
        (members, attempt) = (again, attempt + 1);
    }
}

/// The facts that need processes, where there is none.
fn without(missing: &Missing, give: &mut dyn FnMut(Fact)) {
    for path in ["run/processes", "run/command", "run/executable", "run/cpu/count", "run/cpu/list", "run/memory-nodes"]
    {
        give(Fact::measured(path, "/proc", Err(missing.clone())));
    }
    for path in ["run/env", "run/library"] {
        give(Fact::measured(path, "/proc", Err(missing.clone())));
    }
}

fn of_processes(
    roots: &Roots,
    pids: &[u32],
    cut: Option<String>,
    (about, cgroup): (&RunFacts, &Cgroup),
    (limits, end): (Limits, Instant),
    redact: &Redactor,
    give: &mut dyn FnMut(Fact),
) {
    let most = limits.processes;
    let mut cut = cut;
    let mut processes = Vec::new();
    for pid in pids.iter().take(most) {
        match Process::open(&roots.proc, *pid, &|path| cgroup.contains(path)) {
            Ok(process) => processes.extend(process),
            Err(missing) => {
                cut.get_or_insert(missing.reason);
            }
        }
    }
    let too_many = (pids.len() > most).then(|| format!("the run has {} processes, {most} are read", pids.len()));
    let cut = cut.or(too_many);
    if processes.is_empty() {
        let why = cut.unwrap_or_else(|| "the run has no process whose memory can be read".to_owned());
        without(&Missing::unavailable(why), give);
        return;
    }
    let number = Json::Int(i64::try_from(pids.len()).unwrap_or(0));
    give(Fact::measured("run/processes", "cgroup.procs", Ok(number)));
    let cut = cut.as_deref();
    process::facts(&processes, cut, redact).into_iter().for_each(&mut *give);
    environment::facts(&processes, &about.environment, limits.texts, cut, redact).into_iter().for_each(&mut *give);
    libraries::facts(&processes, cut, (limits, end), give);
}

/// One value where all processes have the same; a list where they differ.
fn common(values: BTreeSet<Json>) -> Json {
    let mut all: Vec<Json> = values.into_iter().collect();
    if all.len() == 1 { all.remove(0) } else { Json::List(all) }
}

#[cfg(test)]
mod tests;
