//! Finding runs: by prefixes for whoever reads, by exact name or id for whoever acts.
//!
//! Invariants: an id is of one run. A name is of one live run of each user, and cannot be spelled like the beginning of an id. Where
//! a name means several live runs, which only those see who see several users' runs, none of them is chosen. A live run comes before ended ones.

use super::{LiveRun, Registry, guarded::GuardedRun, store::EndedRun};
use failsafe_core::{RunId, input::Run};
use std::sync::Arc;

/// Why a run could not be found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FindError {
    /// None has that id or name.
    #[error("no run `{0}`; `failsafectl list --all` shows them")]
    None(String),
    /// None has exactly that id or name, but some begin so.
    #[error("no run is named `{wanted}`: a command that acts takes an exact name or id. Names that begin so: {}", .near.join(", "))]
    NotExact {
        /// What was asked for.
        wanted: String,
        /// Those that begin so.
        near: Vec<String>,
    },
    /// More than one is meant.
    #[error("`{wanted}` is ambiguous: {}. Name one by its id, or as OWNER_UID/NAME", .found.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// Those that it may mean.
        found: Vec<String>,
    },
}

/// A run as it is found by id, name or prefix.
#[derive(Debug, Clone)]
pub enum FoundRun {
    /// It lives.
    Live(Arc<LiveRun>),
    /// It lives, bounded by the kernel and judged by nobody.
    Guarded(Arc<GuardedRun>),
    /// It ended.
    Ended(Arc<EndedRun>),
}

impl FoundRun {
    /// As registered.
    pub fn run(&self) -> &Run {
        match self {
            FoundRun::Live(live) => live.known(),
            FoundRun::Guarded(guarded) => &guarded.run,
            FoundRun::Ended(ended) => &ended.run,
        }
    }

    fn shown(&self) -> String {
        let run = self.run();
        format!("{} ({}, uid {})", run.name, run.id, run.owner_uid)
    }
}

impl Registry {
    /// For whoever reads: as [`Registry::find_exact`], else by an unambiguous prefix of an id or a name.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find(&self, wanted: &str, visible: impl Fn(&Run) -> bool) -> Result<FoundRun, FindError> {
        let groups = self.groups(visible);
        match exact(wanted, &groups) {
            Err(FindError::NotExact { .. }) => {}
            found => return found,
        }
        for group in groups {
            let mut begin: Vec<FoundRun> = group.into_iter().filter(|found| begins(found.run(), wanted)).collect();
            match begin.len() {
                0 => {}
                1 => return Ok(begin.remove(0)),
                _ => return Err(ambiguous(wanted, &begin)),
            }
        }
        Err(FindError::None(wanted.into()))
    }

    /// For whoever acts: the run with exactly this id or name among those that are `visible`. `UID/NAME` is the run of that name
    /// of that user.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find_exact(&self, wanted: &str, visible: impl Fn(&Run) -> bool) -> Result<FoundRun, FindError> {
        exact(wanted, &self.groups(visible))
    }

    /// The run of that id.
    pub fn of_id(&self, id: RunId) -> Option<FoundRun> {
        // First: a run that is taken up meanwhile is in both.
        let guarded = self.guarded_of(id).map(FoundRun::Guarded);
        let live = self.get(id).map(FoundRun::Live);
        // Last: a run that ends meanwhile is in both.
        let ended = || self.ended_of(id).map(FoundRun::Ended);
        live.or(guarded).or_else(ended)
    }

    /// The live runs, and the ended ones, the latest first.
    fn groups(&self, visible: impl Fn(&Run) -> bool) -> [Vec<FoundRun>; 2] {
        // The ended ones later: a run that ends meanwhile is in both.
        let (live, guarded) = self.live_and_guarded();
        let live = live.into_iter().map(FoundRun::Live).chain(guarded.into_iter().map(FoundRun::Guarded));
        let live = live.filter(|found| visible(found.run())).collect();
        let ended = self.ended().into_iter().rev().map(FoundRun::Ended);
        [live, ended.filter(|found| visible(found.run())).collect()]
    }
}

fn exact(wanted: &str, groups: &[Vec<FoundRun>; 2]) -> Result<FoundRun, FindError> {
    if wanted.is_empty() {
        return Err(FindError::None(wanted.into()));
    }
    let by_id = groups.iter().flatten().find(|found| found.run().id.to_string() == wanted);
    if let Some(found) = by_id {
        return Ok(found.clone());
    }
    let named = |run: &Run| match wanted.split_once('/') {
        Some((uid, name)) => run.name == name && run.owner_uid.to_string() == uid,
        None => run.name == wanted,
    };
    let [live, ended] = groups;
    let live: Vec<FoundRun> = live.iter().filter(|found| named(found.run())).cloned().collect();
    match live.as_slice() {
        [one] => return Ok(one.clone()),
        [] => {}
        _ => return Err(ambiguous(wanted, &live)),
    }
    if let Some(latest) = ended.iter().find(|found| named(found.run())) {
        return Ok(latest.clone());
    }
    let near: Vec<String> =
        groups.iter().flatten().filter(|found| begins(found.run(), wanted)).take(8).map(FoundRun::shown).collect();
    if near.is_empty() {
        Err(FindError::None(wanted.into()))
    } else {
        Err(FindError::NotExact { wanted: wanted.into(), near })
    }
}

fn ambiguous(wanted: &str, found: &[FoundRun]) -> FindError {
    FindError::Ambiguous { wanted: wanted.into(), found: found.iter().map(FoundRun::shown).collect() }
}

fn begins(run: &Run, wanted: &str) -> bool {
    run.id.to_string().starts_with(wanted) || run.name.starts_with(wanted)
}

/// Whether a name could be read as the beginning of a run's id. Ids begin with the time in milliseconds (UUIDv7), of which the first
/// digit is 0 until the year 2527; so nothing has to be known of the runs that there are, which may be others'.
pub fn is_like_an_id(name: &str) -> bool {
    let digits = name.bytes().filter(u8::is_ascii_hexdigit).count();
    let spelled = name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    spelled && digits > 0 && (digits >= 8 || name.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_to_be_the_beginning_of_an_id() {
        let id = uuid::Uuid::now_v7().to_string();
        for length in 1..=id.len() {
            assert!(is_like_an_id(&id[..length]), "{}", &id[..length]);
            assert!(is_like_an_id(&id[..length].to_uppercase()));
        }
        for id in ["deadbeef", "DEADBEEF", "12345678", "ca-fe-ba-be"] {
            assert!(is_like_an_id(id), "{id}");
        }
        for name in ["job-20", "train", "cafe", "1", "20261128T12", "bert-0123456789", "t", "-", "a.b"] {
            assert!(!is_like_an_id(name), "{name}");
        }
    }
}
