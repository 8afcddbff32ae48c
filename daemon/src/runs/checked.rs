//! Ended runs as they are shown: what `run.json` has of a run, checked against the audit log.
//!
//! Whoever can write to the state folder can change a `run.json`; the log is chained by hashes. Where the log has the beginning and the
//! end of a run, its values are shown. Where it does not, or the two differ, the run is shown as not verified, with the reason.

use super::{
    EndedRun, NO_UID,
    past::{Ending, Past, differs, without_version},
    store::{Folder, KeptRun},
};
use failsafe_core::RunId;

/// The end is marked a moment after it is recorded.
const TOGETHER_NS: u64 = 60_000_000_000;

/// An ended run of the store, and whether its identity was found changed. `None`: nothing is known of its end.
pub(super) fn ended(id: RunId, folder: &Folder, past: &Past) -> Option<(EndedRun, bool)> {
    match (folder, &past.start, &past.end) {
        (Folder::Kept(kept), Some(start), Some(end)) => {
            kept.ended_ns?;
            let identity = differs(&kept.run, start);
            let changed = identity.is_some();
            let different = identity
                .or_else(|| of_its_end(kept, past, end))
                .map(|what| format!("run.json differs from the audit log ({what}): what the audit log has is shown"));
            let unverified = different.or_else(|| {
                let counted = past.totals.is_none() && kept.totals.is_some();
                counted.then(|| no_record_of("counters"))
            });
            let mut ended = of_log(past, end, &kept.policy_name)?;
            if ended.run.owner_uid == NO_UID {
                // A log of an earlier version does not have an owner that became known later.
                ended.run.owner_uid = kept.run.owner_uid;
            }
            Some((EndedRun { totals: past.totals.or(kept.totals), unverified, ..ended }, changed))
        }
        (Folder::Kept(kept), start, _) => {
            let what = if start.is_none() { "start" } else { "end" };
            let unverified = Some(no_record_of(what));
            let containment = kept.containment();
            let KeptRun { run, part, ended_ns, policy_name, decisions, totals, unwatched, .. } = kept.as_ref().clone();
            let (ended_ns, frozen_ns) = (ended_ns?, None);
            let ended = EndedRun {
                run,
                policy_name,
                ended_ns,
                unwatched,
                decisions,
                part,
                totals,
                frozen_ns,
                containment,
                unverified,
            };
            Some((ended, false))
        }
        (Folder::Unreadable(why), Some(_), Some(end)) => {
            tracing::warn!(run = %id, why, "the run.json of an ended run cannot be read");
            let ended = of_log(past, end, "")?;
            let unverified = Some(format!("its run.json cannot be read ({why}): what the audit log has is shown"));
            Some((EndedRun { unverified, ..ended }, true))
        }
        _ => None,
    }
}

/// Why a run is not verified of which the log lacks something.
pub(super) fn no_record_of(what: &str) -> String {
    format!("the audit log has no record of its {what} to compare run.json with")
}

fn of_log(past: &Past, end: &Ending, kept_name: &str) -> Option<EndedRun> {
    let logged = past.policy_name.as_deref().map(without_version);
    Some(EndedRun {
        run: past.start.clone()?,
        policy_name: logged.unwrap_or_else(|| kept_name.to_owned()),
        ended_ns: end.at_ns,
        unwatched: end.unwatched.clone(),
        decisions: past.decisions,
        part: end.part.unwrap_or(past.part),
        totals: past.totals,
        frozen_ns: end.frozen_ns,
        containment: past.containment.clone(),
        unverified: None,
    })
}

/// In what `run.json` has another end than the log.
fn of_its_end(kept: &KeptRun, past: &Past, end: &Ending) -> Option<String> {
    let apart = kept.ended_ns.is_none_or(|ns| ns.abs_diff(end.at_ns) > TOGETHER_NS);
    let part = end.part.unwrap_or(past.part);
    if apart {
        Some(format!("end: run.json has {} ns, the audit log has {} ns", kept.ended_ns.unwrap_or_default(), end.at_ns))
    } else if kept.decisions != past.decisions {
        Some(format!("decisions: run.json has {}, the audit log has {}", kept.decisions, past.decisions))
    } else if kept.part != part {
        Some(format!("recording: run.json has {}, the audit log has {part}", kept.part))
    } else if past.totals.is_some_and(|totals| kept.totals.is_some_and(|kept| kept != totals)) {
        Some("counters: run.json has others than the audit log".into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use failsafe_core::{Containment, PolicyDigest, record::Totals};

    const ID: &str = "00000000-0000-4000-8000-000000000001";

    fn kept() -> KeptRun {
        KeptRun {
            run: testing::run(ID, 1_000, PolicyDigest([1; 32])),
            made: false,
            part: 2,
            ended_ns: Some(1_000),
            policy_name: "p".into(),
            decisions: 3,
            totals: Some(Totals { egress_bytes: 5, ..Totals::default() }),
            unwatched: None,
            containment: Containment::default(),
        }
    }

    fn past() -> Past {
        Past {
            start: Some(kept().run),
            policy_name: Some("p v1".into()),
            part: 2,
            end: Some(Ending { at_ns: 900, unwatched: None, part: Some(2), frozen_ns: Some(7) }),
            decisions: 3,
            totals: kept().totals,
            ..Past::default()
        }
    }

    fn shown(kept: KeptRun, past: &Past) -> EndedRun {
        ended(ID.parse().unwrap(), &Folder::Kept(Box::new(kept)), past).unwrap().0
    }

    #[test]
    fn an_ended_run_is_verified_where_run_json_is_as_the_log_has_it() {
        let run = shown(kept(), &past());
        assert_eq!((run.unverified, run.ended_ns, run.decisions, run.part), (None, 900, 3, 2));
        assert_eq!(run.policy_name, "p");
    }

    #[test]
    fn what_run_json_has_of_an_ended_run_against_the_log_is_named_and_not_believed() {
        type Change = fn(&mut KeptRun);
        let changes: [(&str, Change); 5] = [
            ("user", |kept| kept.run.owner_uid = 0),
            ("end:", |kept| kept.ended_ns = Some(i64::MAX)),
            ("decisions", |kept| kept.decisions = u32::MAX),
            ("recording", |kept| kept.part = u32::MAX),
            ("counters", |kept| kept.totals = Some(Totals::default())),
        ];
        for (what, change) in changes {
            let mut edited = kept();
            change(&mut edited);
            let run = shown(edited, &past());
            assert!(run.unverified.as_ref().is_some_and(|why| why.contains(what)), "{what}: {:?}", run.unverified);
            assert_eq!((run.run.owner_uid, run.ended_ns, run.decisions, run.part), (1_000, 900, 3, 2), "{what}");
            assert_eq!(run.totals, kept().totals, "{what}");
        }
    }

    /// `run.json` and the log of a discovered run, with these owners.
    fn of_owners(kept_uid: u32, logged: u32) -> (EndedRun, bool) {
        let (mut kept, mut past) = (kept(), past());
        kept.run.labels.insert(failsafe_core::discover::LABEL.into(), "slurm".into());
        kept.run.owner_uid = kept_uid;
        past.start = Some(failsafe_core::input::Run { owner_uid: logged, ..kept.run.clone() });
        ended(ID.parse().unwrap(), &Folder::Kept(Box::new(kept)), &past).unwrap()
    }

    #[test]
    fn the_owner_of_a_discovered_run_that_became_known_later_is_no_change_of_its_record() {
        // The log of an earlier version has no owner; run.json has none where the daemon was killed before the end.
        for (kept, logged) in [(65_534, NO_UID), (NO_UID, 65_534), (65_534, 65_534)] {
            let (run, changed) = of_owners(kept, logged);
            assert_eq!((run.unverified, changed, run.run.owner_uid), (None, false, 65_534), "{kept} {logged}");
        }
        let (run, changed) = of_owners(1_000, 65_534);
        assert!(changed && run.unverified.is_some_and(|why| why.contains("user")) && run.run.owner_uid == 65_534);
        // Who starts a run is known from its start on.
        let mut edited = kept();
        edited.run.owner_uid = NO_UID;
        assert!(shown(edited, &past()).unverified.is_some_and(|why| why.contains("user")));
    }

    #[test]
    fn an_ended_run_that_the_log_does_not_have_is_shown_as_not_verified() {
        for (what, past) in [("start", Past::default()), ("end", Past { end: None, ..past() })] {
            let run = shown(kept(), &past);
            assert!(run.unverified.is_some_and(|why| why.contains(what)), "{what}");
            assert_eq!(run.ended_ns, 1_000, "what run.json has is shown");
        }
        let run = shown(kept(), &Past { totals: None, ..past() });
        assert!(run.unverified.is_some_and(|why| why.contains("counters")));
    }

    #[test]
    fn an_ended_run_with_a_damaged_run_json_is_shown_as_the_log_has_it() {
        let folder = Folder::Unreadable("EOF".into());
        let (run, changed) = ended(ID.parse().unwrap(), &folder, &past()).unwrap();
        assert!(changed && run.unverified.is_some_and(|why| why.contains("EOF")) && run.decisions == 3);
    }
}
