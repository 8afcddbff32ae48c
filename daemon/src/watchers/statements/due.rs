//! Which statement is due, and whose turn it is. Looks at runs; reads nothing.

use super::{Account, At, INCIDENTS, Which};
use crate::{
    attest::DEADLINE,
    runs::{LiveRun, store::Store},
};
use failsafe_core::{RunId, input::Run};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// The programs of a run count as loaded when none was executed for this long.
const SETTLED: Duration = Duration::from_secs(1);
/// The statement of the start waits no longer than this for them.
const FIRST: Duration = Duration::from_secs(10);
/// The account of an ended run is waited for at most this long.
const ACCOUNT: Duration = Duration::from_secs(30);

/// A run, and which of its statements are made.
#[derive(Debug)]
pub(super) struct Followed {
    run: Run,
    since: Instant,
    /// Programs that it has started, and when that was last seen to change.
    execs: (u64, Instant),
    /// Its command was executed.
    began: bool,
    start: bool,
    /// Incidents, and those of which a statement was made or tried.
    incidents: (u32, u32),
    /// Since when it has ended.
    ended: Option<Instant>,
    account: Option<Account>,
    done: bool,
}

/// A statement that is to be made.
#[derive(Debug)]
pub(super) struct Due {
    pub run: Run,
    pub which: Which,
    pub account: Option<Account>,
    /// Why there will be none.
    pub not: Option<String>,
}

impl Followed {
    /// A run that was not followed yet; what is stored of it already is not made again.
    pub fn new(run: &LiveRun, store: &Store) -> Followed {
        let (id, now, incidents) = (run.run.id, Instant::now(), run.status().incidents);
        let kept = (1..=incidents.min(INCIDENTS)).take_while(|n| Which::Incident(*n).is_kept(store, id)).count();
        let kept = if incidents > INCIDENTS { incidents } else { u32::try_from(kept).unwrap_or(0) };
        Followed {
            run: run.known().clone(),
            since: now,
            execs: (0, now),
            began: !run.made,
            start: Which::Start.is_kept(store, id),
            incidents: (incidents, kept),
            ended: None,
            account: None,
            done: false,
        }
    }

    /// A run of which only the statement of the end is missing.
    pub fn of_ended(run: Run, account: Account) -> Followed {
        let now = Instant::now();
        Followed {
            run,
            since: now,
            execs: (0, now),
            began: true,
            start: true,
            incidents: (0, 0),
            ended: Some(now),
            account: Some(account),
            done: false,
        }
    }

    /// Looks at a live run. `sees`: programs are counted.
    pub fn look(&mut self, run: &LiveRun, sees: bool) {
        // The owner of a discovered run can become known after its start.
        self.run.owner_uid = run.known().owner_uid;
        let (execs, incidents) = {
            let status = run.status();
            (status.counted.execs, status.incidents)
        };
        if execs != self.execs.0 {
            self.execs = (execs, Instant::now());
        }
        // A run that was just made has the process of failsafectl, until that executes the command.
        self.began |= run.is_entered() && (execs > 0 || !sees);
        self.incidents.0 = self.incidents.0.max(incidents);
    }

    /// The run has ended.
    pub fn ended(mut self) -> Followed {
        self.ended = Some(Instant::now());
        self
    }

    /// Takes the account of an ended run, once there is one.
    pub fn accounted(&mut self, take: impl Fn(RunId) -> Option<Account>) {
        if self.account.is_none() {
            self.account = take(self.run.id);
        }
    }

    /// Whether nothing of an ended run is missing.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// What is to be made next; it counts as tried when it is taken.
    pub fn due(&mut self) -> Option<Candidate<'_>> {
        let now = Instant::now();
        let settled = now >= self.execs.1 + SETTLED || now >= self.since + FIRST;
        let which = match self.ended {
            _ if self.incidents.1 < self.incidents.0 => Which::Incident(self.incidents.1 + 1),
            None if !self.start && self.began && settled => Which::Start,
            Some(_) if !self.start => Which::Start,
            Some(at) if self.account.is_some() || now >= at + ACCOUNT => Which::End,
            _ => return None,
        };
        Some(Candidate { followed: self, which })
    }
}

/// One of the statements that are due.
pub(super) struct Candidate<'a> {
    followed: &'a mut Followed,
    which: Which,
}

impl Candidate<'_> {
    fn take(self) -> Due {
        let Candidate { followed, which } = self;
        let not = match which {
            Which::Start if followed.ended.is_some() => {
                Some("the run ended before its programs were loaded".to_owned())
            }
            Which::Incident(n) if n > INCIDENTS => {
                Some(format!("only the first {INCIDENTS} incidents of a run have a statement"))
            }
            Which::End if followed.account.is_none() => Some("the counters of the run were not read".to_owned()),
            _ => None,
        };
        match which.at() {
            At::Start => followed.start = true,
            // One entry for all beyond the limit.
            At::Incident if not.is_some() => followed.incidents.1 = u32::MAX,
            At::Incident => followed.incidents.1 += 1,
            At::End => followed.done = true,
        }
        let account = if which == Which::End { followed.account.take() } else { None };
        Due { run: followed.run.clone(), which, account, not }
    }
}

/// Whose turn it is, and whose runs do not answer.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// When a statement for a run of each user was last begun.
    served: BTreeMap<u32, Instant>,
    /// Held by the last reading of a run of each user, until it ends.
    reading: BTreeMap<u32, (Weak<()>, Instant)>,
}

/// Users that are remembered; beyond it all have the same turn again.
const USERS: usize = 4_096;

impl Turns {
    /// The one of the user who has waited longest.
    pub fn next<'a>(&mut self, all: impl Iterator<Item = Candidate<'a>>) -> Option<Due> {
        let waited = |candidate: &Candidate<'_>| self.served.get(&candidate.followed.run.owner_uid).copied();
        let due = all.min_by_key(waited)?.take();
        if self.served.len() >= USERS {
            self.served.clear();
        }
        self.served.insert(due.run.owner_uid, Instant::now());
        Some(due)
    }

    /// Whether a reading of a run of this user was given up and has not ended.
    pub fn hangs(&self, uid: u32) -> bool {
        let late = |(reading, began): &(Weak<()>, Instant)| reading.strong_count() > 0 && began.elapsed() >= DEADLINE;
        self.reading.get(&uid).is_some_and(late)
    }

    /// To be held by a reading, of a run of this user where `reads`.
    pub fn permit(&mut self, uid: u32, reads: bool) -> Arc<()> {
        let permit = Arc::new(());
        if reads {
            self.reading.retain(|_, (reading, _)| reading.strong_count() > 0);
            self.reading.insert(uid, (Arc::downgrade(&permit), Instant::now()));
        }
        permit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;
    use failsafe_core::PolicyDigest;

    const ID: &str = "00000000-0000-4000-8000-000000000001";

    fn followed(uid: u32) -> Followed {
        let account = crate::runs::account::of_totals(None, None, "a test");
        let run = run(ID, uid, PolicyDigest([1; 32]));
        Followed { ended: None, account: None, start: false, began: false, ..Followed::of_ended(run, account) }
    }

    fn taken(followed: &mut Followed) -> Option<(Which, Option<String>)> {
        let due = followed.due()?.take();
        Some((due.which, due.not))
    }

    #[test]
    fn a_run_has_a_statement_of_its_start_when_its_programs_are_loaded_and_one_of_each_incident() {
        let mut run = followed(1);
        assert_eq!(taken(&mut run), None, "its command was not executed yet");
        run.began = true;
        assert_eq!(taken(&mut run), None, "its programs are being loaded");
        run.execs.1 = Instant::now().checked_sub(SETTLED).unwrap();
        run.incidents.0 = 2;
        assert_eq!(taken(&mut run), Some((Which::Incident(1), None)));
        assert_eq!(taken(&mut run), Some((Which::Incident(2), None)));
        assert_eq!(taken(&mut run), Some((Which::Start, None)));
        assert_eq!(taken(&mut run), None);
    }

    #[test]
    fn incidents_beyond_the_limit_have_one_entry_for_all() {
        let mut run = followed(1);
        run.incidents = (INCIDENTS + 50, INCIDENTS);
        let (which, not) = taken(&mut run).unwrap();
        assert!(which == Which::Incident(INCIDENTS + 1) && not.unwrap().contains("only the first 16"));
        assert_eq!(taken(&mut run), None);
    }

    #[test]
    fn an_ended_run_waits_for_its_account_and_records_that_it_has_no_statement_of_its_start() {
        let mut run = followed(1).ended();
        assert!(matches!(taken(&mut run), Some((Which::Start, Some(_)))));
        assert!(taken(&mut run).is_none() && !run.is_done());
        run.accounted(|_| Some(crate::runs::account::of_totals(None, None, "a test")));
        assert_eq!(taken(&mut run), Some((Which::End, None)));
        assert!(run.is_done());
        let mut late = followed(1).ended();
        late.start = true;
        late.ended = Instant::now().checked_sub(ACCOUNT);
        assert!(matches!(taken(&mut late), Some((Which::End, Some(_)))));
    }

    #[test]
    fn users_take_turns_and_a_reading_that_hangs_is_the_users_own() {
        let mut turns = Turns::default();
        let (mut many, mut one) =
            ([followed(1).ended(), followed(1).ended(), followed(1).ended()], followed(2).ended());
        let mut served = Vec::new();
        for _ in 0..3 {
            let all = many.iter_mut().chain([&mut one]).filter_map(Followed::due);
            served.push(turns.next(all).unwrap().run.owner_uid);
        }
        assert_eq!(served, [1, 2, 1]);
        let held = turns.permit(1, true);
        assert!(!turns.hangs(1), "it may still end in time");
        turns.reading.get_mut(&1).unwrap().1 = Instant::now().checked_sub(DEADLINE).unwrap();
        assert!(turns.hangs(1) && !turns.hangs(2));
        drop(held);
        assert!(!turns.hangs(1));
    }
}
