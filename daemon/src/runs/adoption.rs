//! What becomes of a run that an earlier daemon left: decided from facts alone, so that it can be tested for all of them.
//!
//! ```text
//! run.json, audit log, pins, cgroup, policy copy ─► Facts ─► decide ─► Plan
//! ```
//! Invariant: what is bounded is let go only when its end is proved. Everything else that keeps a run from being judged leaves it
//! guarded: what the kernel enforces of it stays, and people see why.

use failsafe_core::record::Unwatched;

/// What the state folder has of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Its `run.json`.
    Read,
    /// A `run.json` that cannot be read, or a folder that has other files and no `run.json`.
    Unreadable(String),
    /// Nothing.
    Missing,
}

/// What the audit log has of the run's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// Nothing.
    Absent,
    /// A record; where there is a `run.json`, the two agree.
    Present,
    /// A record, and `run.json` has something else.
    Differs(String),
}

/// What earlier daemons' programs hold of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pins {
    /// Nothing.
    None,
    /// It is bounded by them.
    Held,
    /// They cannot be read.
    Unreadable(String),
}

/// How its cgroup stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Somebody lives in it.
    Populated,
    /// Nobody does.
    Empty,
    /// Nobody does, and the run goes on: its cgroup was discovered, and others put processes into it.
    Refillable,
    /// There is no cgroup of its id.
    Gone,
    /// That cannot be read.
    Unreadable(String),
    /// Nothing tells which cgroup it has.
    Unknown,
}

/// All that is known of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// In the state folder.
    pub kept: Kept,
    /// In the audit log.
    pub logged: Logged,
    /// The audit log has its end.
    pub ended: bool,
    /// It is of an earlier boot, by the record that counts.
    pub earlier_boot: bool,
    /// In the kernel.
    pub pins: Pins,
    /// Its cgroup.
    pub place: Place,
    /// The copy of the policy that it is pinned to; the reason where it is not intact.
    pub policy: Result<(), String>,
}

/// The record that a run is taken up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `run.json`.
    Kept,
    /// The record of its start in the audit log.
    Logged,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Its end is proved: let it go, and record that.
    End(String),
    /// Attach it anew and judge it.
    Judge {
        /// By what.
        by: Source,
        /// What is to be reported besides.
        remark: Option<String>,
    },
    /// It stays as the kernel has it, and is listed as guarded.
    Guard(String),
}

/// Decides.
#[must_use]
pub fn decide(facts: &Facts) -> Plan {
    let held = match &facts.pins {
        Pins::Unreadable(why) => return Plan::Guard(format!("the pins of an earlier daemon cannot be read: {why}")),
        pins => *pins == Pins::Held,
    };
    if facts.earlier_boot && !held {
        return Plan::End(Unwatched::EARLIER_BOOT.into());
    }
    match &facts.place {
        Place::Empty => return Plan::End("its cgroup is empty".into()),
        Place::Gone => return Plan::End("its cgroup is gone".into()),
        Place::Unreadable(why) => return Plan::Guard(format!("its cgroup cannot be read: {why}")),
        Place::Unknown => {
            return match (&facts.kept, held) {
                (Kept::Missing, false) => Plan::End("nothing is left of it".into()),
                (kept, _) => Plan::Guard(format!("{}, and nothing else names its cgroup", unread(kept))),
            };
        }
        Place::Populated if facts.ended && !held => return Plan::End("its end is in the audit log".into()),
        Place::Populated if facts.ended => {
            return Plan::Guard("its end is in the audit log, but processes live in its cgroup".into());
        }
        Place::Refillable if facts.ended => return Plan::End("its end is in the audit log".into()),
        Place::Populated | Place::Refillable => {}
    }
    let (by, remark) = match (&facts.kept, &facts.logged) {
        (Kept::Read, Logged::Present) => (Source::Kept, None),
        (Kept::Read, Logged::Absent) => {
            (Source::Kept, Some("the audit log has no record of its start to compare run.json with".to_owned()))
        }
        (Kept::Read, Logged::Differs(what)) => {
            (Source::Logged, Some(format!("run.json was changed ({what}): the audit log's record counts")))
        }
        (kept, Logged::Present | Logged::Differs(_)) => {
            (Source::Logged, Some(format!("{}: the audit log's record counts", unread(kept))))
        }
        (kept, Logged::Absent) => {
            return Plan::Guard(format!("{}, and the audit log has no record of its start", unread(kept)));
        }
    };
    match &facts.policy {
        Ok(()) => Plan::Judge { by, remark },
        Err(why) => Plan::Guard(match remark {
            Some(remark) => format!("{remark}; its policy cannot be read: {why}"),
            None => format!("its policy cannot be read: {why}"),
        }),
    }
}

fn unread(kept: &Kept) -> String {
    match kept {
        Kept::Read => "run.json does not say enough".into(),
        Kept::Unreadable(why) => format!("its run.json cannot be read ({why})"),
        Kept::Missing => "its folder in the state folder is gone".into(),
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Facts> {
        let why = || "an error".to_owned();
        let mut all = Vec::new();
        for kept in [Kept::Read, Kept::Unreadable(why()), Kept::Missing] {
            for logged in [Logged::Absent, Logged::Present, Logged::Differs(why())] {
                for pins in [Pins::None, Pins::Held, Pins::Unreadable(why())] {
                    let places = [
                        Place::Populated,
                        Place::Empty,
                        Place::Refillable,
                        Place::Gone,
                        Place::Unreadable(why()),
                        Place::Unknown,
                    ];
                    for place in places {
                        for policy in [Ok(()), Err(why())] {
                            for (ended, earlier_boot) in [(false, false), (false, true), (true, false), (true, true)] {
                                let (kept, logged, pins) = (kept.clone(), logged.clone(), pins.clone());
                                let (place, policy) = (place.clone(), policy.clone());
                                all.push(Facts { kept, logged, ended, earlier_boot, pins, place, policy });
                            }
                        }
                    }
                }
            }
        }
        all
    }

    /// A run is let go only by a proof: nobody is in its cgroup, it is of another boot, or its end is on record and nothing bounds it.
    #[test]
    fn a_bounded_run_is_let_go_only_when_its_cgroup_is_proved_empty() {
        for facts in all() {
            let bounded = facts.pins != Pins::None;
            let empty = matches!(facts.place, Place::Empty | Place::Refillable | Place::Gone);
            if let Plan::End(why) = decide(&facts) {
                assert!(!bounded || empty, "{facts:?} was let go: {why}");
                let elsewhere = facts.earlier_boot || facts.ended;
                let nothing = facts.place == Place::Unknown && facts.kept == Kept::Missing;
                assert!(empty || elsewhere || nothing, "{facts:?} was let go: {why}");
            }
        }
    }

    #[test]
    fn an_error_is_never_an_end() {
        for facts in all() {
            let unreadable = matches!(facts.place, Place::Unreadable(_)) || matches!(facts.pins, Pins::Unreadable(_));
            if unreadable && !facts.earlier_boot {
                assert!(matches!(decide(&facts), Plan::Guard(_)), "{facts:?}");
            }
        }
    }

    #[test]
    fn a_run_is_judged_only_by_a_record_and_an_intact_policy_and_the_log_counts_before_run_json() {
        let mut judged = 0;
        for facts in all() {
            if let Plan::Judge { by, remark } = decide(&facts) {
                judged += 1;
                assert!(
                    matches!(facts.place, Place::Populated | Place::Refillable) && facts.policy.is_ok(),
                    "{facts:?}"
                );
                match by {
                    Source::Kept => assert!(facts.kept == Kept::Read && !matches!(facts.logged, Logged::Differs(_))),
                    Source::Logged => assert!(facts.logged != Logged::Absent && remark.is_some(), "{facts:?}"),
                }
                let agree = facts.kept == Kept::Read && facts.logged == Logged::Present;
                assert_eq!(remark.is_none(), agree, "{facts:?}");
            }
        }
        assert!(judged > 0);
    }
}
