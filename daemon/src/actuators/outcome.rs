//! From what an actuator read back to what an [`Outcome`](failsafe_core::Outcome) says of it.

use super::cgroup::freeze::Started;
use super::cgroup::{Culprit, FreezeOutcome, KillOutcome, Recapture, RunSnapshot, ThawOutcome};
use crate::platform::{Cgroup, CgroupError, clock};
use failsafe_core::{
    decision::{Observation, Proof, Verdict},
    record::{ProcessFacts, Snapshot},
};

/// An outcome before it has its decision's numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// How far it got.
    pub verdict: Verdict,
    /// What was read back.
    pub proofs: Vec<Proof>,
    /// When the last proof was read, `CLOCK_MONOTONIC` ns; `None`: now.
    pub at_ns: Option<u64>,
}

impl Report {
    /// Done and read back.
    pub fn proved(proofs: Vec<Proof>) -> Report {
        Report { verdict: Verdict::Proved, proofs, at_ns: None }
    }

    /// Not done.
    pub fn failed(cause: impl Into<String>) -> Report {
        Report { verdict: Verdict::Failed(cause.into()), proofs: Vec::new(), at_ns: None }
    }

    /// A freeze that gave way to a later thaw.
    pub fn superseded() -> Report {
        Report::partial(vec!["a later decision thawed the run before the freeze was proved".to_owned()])
    }

    fn partial(missing: Vec<String>) -> Report {
        Report { verdict: Verdict::Partial(missing), proofs: Vec::new(), at_ns: None }
    }
}

fn proof(fact: &str, seen: impl Into<String>) -> Proof {
    Proof { fact: fact.into(), seen: seen.into() }
}

fn culprit(c: &Culprit) -> String {
    let at = c.wchan.as_deref().map(|w| format!(" in {w}")).unwrap_or_default();
    let held = c.freezer.as_deref().map(|path| format!(", held by the cgroup v1 freezer {path}: thaw that first"));
    format!("pid {} tid {} ({}) is in state {}{at}{}", c.pid, c.tid, c.comm, c.state, held.unwrap_or_default())
}

fn culprits(list: &[Culprit], what: &str) -> Vec<String> {
    if list.is_empty() {
        vec![format!("{what}, and no thread could be named")]
    } else {
        list.iter().map(culprit).collect()
    }
}

pub(crate) fn freeze(outcome: &FreezeOutcome) -> Report {
    match outcome {
        FreezeOutcome::Frozen { at_ns, processes, levels, unswept: None, .. } => Report {
            verdict: Verdict::Proved,
            proofs: vec![
                proof("cgroup.events", "populated 1, frozen 1"),
                proof("cgroup.freeze", format!("1 on each of {levels} level(s), {processes} process(es)")),
            ],
            at_ns: Some(*at_ns),
        },
        FreezeOutcome::Frozen { at_ns, levels, unswept: Some(why), .. } => Report {
            verdict: Verdict::Proved,
            proofs: vec![
                proof("cgroup.events", "populated 1, frozen 1"),
                proof(
                    "cgroup.freeze",
                    format!("1 on the root, which holds all below it, and {levels} level(s) in all"),
                ),
                proof("note", format!("not every level below the root has its own cgroup.freeze=1: {why}")),
            ],
            at_ns: Some(*at_ns),
        },
        FreezeOutcome::Empty => Report::proved(vec![proof("cgroup.events", "populated 0: nobody is left to freeze")]),
        FreezeOutcome::Vanished => Report::proved(vec![proof("cgroup", "removed: nobody is left to freeze")]),
        FreezeOutcome::Partial { culprits: list, .. } => {
            Report::partial(culprits(list, "cgroup.events reads frozen 0"))
        }
        FreezeOutcome::Failed { cause, .. } => Report::failed(cause),
    }
}

/// Of a freeze that is written and that nobody waits for: what the kernel says of it now.
pub(crate) fn freeze_at_once(cgroup: &Cgroup, started: Result<Started, CgroupError>, why: &str) -> Report {
    let seen = started.and_then(|_| cgroup.events());
    match seen {
        Ok(seen) if !seen.populated => freeze(&FreezeOutcome::Empty),
        Ok(seen) if seen.frozen => Report {
            verdict: Verdict::Proved,
            proofs: vec![
                proof("cgroup.events", "populated 1, frozen 1"),
                proof("note", format!("levels below the root and processes were not counted: {why}")),
            ],
            at_ns: Some(clock::monotonic_ns()),
        },
        Ok(_) => Report::partial(vec![format!(
            "cgroup.freeze is 1, cgroup.events reads frozen 0 yet, and nobody waits for it: {why}"
        )]),
        Err(error) => freeze(&FreezeOutcome::from_error(&error)),
    }
}

pub(crate) fn thaw(outcome: &ThawOutcome, unlatched: Result<(), String>) -> Report {
    let mut report = match outcome {
        ThawOutcome::Thawed { at_ns, levels, .. } => Report {
            verdict: Verdict::Proved,
            proofs: vec![proof("cgroup.events", format!("frozen 0 on {levels} level(s)"))],
            at_ns: Some(*at_ns),
        },
        ThawOutcome::Vanished => Report::proved(vec![proof("cgroup", "removed: nobody is left to thaw")]),
        ThawOutcome::Superseded => Report::partial(vec!["a later decision froze the run again".to_owned()]),
        ThawOutcome::HeldByAncestor { path } => {
            Report::partial(vec![format!("{} above the run is frozen by someone else", path.display())])
        }
        ThawOutcome::Partial { levels, .. } => {
            Report::partial(levels.iter().map(|l| format!("{} still reads frozen 1", l.display())).collect())
        }
        ThawOutcome::Failed { cause, .. } => Report::failed(cause),
    };
    match unlatched {
        Ok(()) => report.proofs.push(proof("egress latch", "off")),
        Err(error) => {
            let missing = format!("egress latch: {error}");
            report.verdict = match report.verdict {
                Verdict::Proved => Verdict::Partial(vec![missing]),
                Verdict::Partial(mut list) => {
                    list.push(missing);
                    Verdict::Partial(list)
                }
                failed @ Verdict::Failed(_) => failed,
            };
        }
    }
    report
}

pub(crate) fn kill(outcome: &KillOutcome) -> Report {
    match outcome {
        KillOutcome::Killed { at_ns, method, .. } => Report {
            verdict: Verdict::Proved,
            proofs: vec![proof("cgroup.events", format!("populated 0, after {method:?}"))],
            at_ns: Some(*at_ns),
        },
        KillOutcome::AlreadyEmpty => Report::proved(vec![proof("cgroup.events", "populated 0 before the kill")]),
        KillOutcome::Vanished => Report::proved(vec![proof("cgroup", "removed: nobody is left to kill")]),
        KillOutcome::Partial { survivors, trouble, .. } => {
            let mut missing = culprits(survivors, "cgroup.events reads populated 1");
            missing.extend(trouble.clone());
            Report::partial(missing)
        }
        KillOutcome::Failed { cause, .. } => Report::failed(cause),
    }
}

/// `at_ns` is when it was read back: the latch is in force long before the freeze beside it is verified.
pub(crate) fn block(done: Result<(), String>, at_ns: u64) -> Report {
    let report = match done {
        Ok(()) => Report::proved(vec![proof("egress latch", "on, read back from the kernel's map")]),
        Err(error) => Report::failed(error),
    };
    Report { at_ns: Some(at_ns), ..report }
}

/// Whoever follows the events, or reads the daemon's own log, has been told by the decision itself.
pub(crate) fn notify() -> Report {
    Report::proved(vec![proof("event stream", "the decision's record was queued for everybody who follows it")])
}

pub(crate) fn recapture(outcome: &Result<Recapture, CgroupError>) -> Report {
    match outcome {
        Ok(Recapture::Returned { from, to }) => {
            Report::proved(vec![proof("cgroup", format!("moved from {} to {}", from.display(), to.display()))])
        }
        Ok(Recapture::Inside) => Report::proved(vec![proof("cgroup", "it is in the run")]),
        Ok(Recapture::Gone) => Report::proved(vec![proof("process", "it has ended")]),
        Ok(Recapture::Misplaced { stranger, .. }) => Report::failed(format!(
            "pid {} was reused during the move: another process was moved into the run",
            stranger.pid
        )),
        Err(error) => Report::failed(error.chain()),
    }
}

pub(crate) fn snapshot(tree: &RunSnapshot) -> Report {
    let proofs = vec![proof("processes", format!("{} recorded in {} us", tree.processes.len(), tree.took_usec))];
    if tree.complete {
        Report::proved(proofs)
    } else {
        let missing = vec!["the time budget ended before every process was read".into()];
        Report { verdict: Verdict::Partial(missing), proofs, at_ns: None }
    }
}

pub(crate) fn evidence(tree: RunSnapshot, signals: Vec<Observation>, frozen: bool) -> Snapshot {
    let processes = tree.processes.into_iter().map(|p| ProcessFacts {
        pid: p.pid,
        ppid: p.ppid,
        start_ticks: p.start_time,
        uid: p.uid,
        comm: p.comm,
        argv: p.argv.unwrap_or_default().join(" "),
        state: p.state,
        rss_bytes: p.rss_bytes,
        cpu_us: p.cpu_usec,
    });
    Snapshot { processes: processes.collect(), complete: tree.complete, signals, frozen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latch_that_stays_on_makes_a_thaw_partial() {
        let thawed = ThawOutcome::Thawed { at_ns: 1, took: Default::default(), levels: 1 };
        assert_eq!(thaw(&thawed, Ok(())).verdict, Verdict::Proved);
        assert_eq!(thaw(&thawed, Err("no".into())).verdict, Verdict::Partial(vec!["egress latch: no".into()]));
    }

    #[test]
    fn a_latch_is_reported_with_the_time_at_which_it_was_read_back() {
        assert_eq!((block(Ok(()), 7).verdict, block(Ok(()), 7).at_ns), (Verdict::Proved, Some(7)));
        assert_eq!(block(Err("no".into()), 8).at_ns, Some(8));
    }

    #[test]
    fn an_unnamed_holdout_is_still_partial() {
        let stuck = FreezeOutcome::Partial { culprits: vec![], took: Default::default() };
        let Verdict::Partial(missing) = freeze(&stuck).verdict else { panic!("not partial") };
        assert_eq!(missing.len(), 1);
    }
}
