//! Who gets the candidate, what is counted, and what a restart and a full disk leave.

use super::*;
use failsafe_core::{Actor, canary::Terms, policy::parse::parse};
use std::{fs, os::unix::fs::PermissionsExt};

fn policy(name: &str) -> Policy {
    parse("p", &format!("[policy]\nname = \"{name}\"\nowner = \"o\"\n")).unwrap()
}

fn decided(at_ns: i64) -> Decided {
    Decided { actor: Actor::Daemon, reason: "test".into(), at_ns }
}

/// A canary of a name, on half of the runs.
fn new(name: &str, at_ns: i64) -> Kept {
    let terms = Terms {
        share_ppm: 500_000,
        runs_at_least: 2,
        hold: Span::from_secs(10),
        promote_if: vec!["excess <= 0".parse().unwrap()],
        withdraw_if: vec!["excess > 2".parse().unwrap()],
    };
    let control = policy("old").digest();
    Kept::begin(New { name: name.into(), control, terms, secret: [7; 32], begun: decided(at_ns) }, &policy("new"))
}

fn recorded(_: &Kept) -> Result<(), String> {
    Ok(())
}

fn started(state: &Path) -> Canaries {
    let canaries = Canaries::open(state);
    canaries.start(new("trainer", 1_000_000), policy("new"), recorded).unwrap();
    canaries
}

/// How many of 200 runs get the candidate.
fn drawn(canaries: &Canaries) -> usize {
    let old = policy("old").digest();
    let candidate = |n: &usize| canaries.draw("trainer", old, &["1000", &n.to_string()])?.candidate;
    (0..200).filter_map(|n| candidate(&n)).inspect(|policy| assert_eq!(policy.name, "new")).count()
}

fn run(n: u32) -> RunId {
    format!("00000000-0000-0000-0000-{n:012}").parse().unwrap()
}

#[test]
fn a_share_of_the_runs_gets_the_candidate_also_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let canaries = started(state.path());
    let share = drawn(&canaries);
    assert!((60..140).contains(&share), "{share}: the secret is fixed, so this holds always or never");
    let again = Canaries::open(state.path());
    assert_eq!((drawn(&again), again.problem()), (share, None), "the same runs are drawn");
    let file = state.path().join("canaries/trainer.state.json");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "the secret is in it");
    let label = again.draw("trainer", policy("old").digest(), &["1", "1"]).unwrap().label;
    assert!(label.starts_with("trainer@1 "), "{label}");
    assert!(again.draw("other", policy("old").digest(), &["1", "1"]).is_none());
    assert!(again.draw("trainer", policy("changed").digest(), &["1", "1"]).is_none(), "the file was replaced");
}

#[test]
fn a_promoted_candidate_is_that_of_all_runs_and_a_withdrawn_one_of_none() {
    let state = tempfile::tempdir().unwrap();
    let canaries = started(state.path());
    assert!(canaries.promoted("trainer", policy("old").digest()).is_none());
    canaries.promote("trainer", decided(2), recorded).unwrap();
    assert_eq!(drawn(&canaries), 200);
    let again = Canaries::open(state.path());
    assert_eq!(drawn(&again), 200, "a restart keeps it");
    assert!(again.promoted("trainer", policy("old").digest()).is_some());
    assert!(again.promoted("trainer", policy("changed").digest()).is_none());
    assert!(matches!(again.promote("trainer", decided(3), recorded), Err(NotDone::Stage { .. })));
    assert!(matches!(again.start(new("trainer", 4), policy("new"), recorded), Err(NotDone::Stage { .. })));
    let (kept, unstored) = again.withdraw("trainer", Stage::Withdrawn, decided(5)).unwrap();
    assert_eq!((kept.stage, unstored, drawn(&again)), (Stage::Withdrawn, None, 0));
    let third = Canaries::open(state.path());
    assert_eq!((drawn(&third), third.all()[0].decided.clone()), (0, Some(decided(5))));
    assert!(matches!(third.withdraw("trainer", Stage::Withdrawn, decided(6)), Err(NotDone::Stage { .. })));
    assert!(matches!(third.withdraw("other", Stage::Withdrawn, decided(6)), Err(NotDone::None(_))));
    third.start(new("trainer", 7_000_000), policy("new"), recorded).expect("one that is over is replaced");
    assert!(drawn(&third) > 0);
}

#[test]
fn what_cannot_be_read_gives_nobody_the_candidate_and_is_reported() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("canaries");
    drop(started(state.path()));
    let file = folder.join("trainer.state.json");
    let good = fs::read(&file).unwrap();
    let candidate = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let candidate = candidate.into_iter().find(|path| path.to_str().unwrap().ends_with(".policy.json")).unwrap();
    let of_other = String::from_utf8(good.clone()).unwrap().replace("\"name\":\"trainer\"", "\"name\":\"other\"");
    let never = String::from_utf8(good.clone()).unwrap().replace("excess > 2", "excess <= 2");
    for bytes in [b"{".as_slice(), of_other.as_bytes(), never.as_bytes()] {
        fs::write(&file, bytes).unwrap();
        let canaries = Canaries::open(state.path());
        assert!(canaries.problem().unwrap().contains("trainer.state.json"), "{:?}", canaries.problem());
        assert_eq!(drawn(&canaries), 0);
    }
    fs::write(&file, &good).unwrap();
    fs::write(&candidate, serde_json::to_vec(&policy("forged")).unwrap()).unwrap();
    let canaries = Canaries::open(state.path());
    assert!(canaries.problem().unwrap().contains("another digest"));
    assert_eq!(drawn(&canaries), 0);
    canaries.start(new("trainer", 9_000_000), policy("new"), recorded).expect("a new one replaces what cannot be read");
    assert!(canaries.problem().is_none() && drawn(&canaries) > 0);
}

#[test]
fn a_disk_that_takes_nothing_refuses_a_beginning_and_a_promotion_but_no_withdrawal() {
    let state = tempfile::tempdir().unwrap();
    let canaries = started(state.path());
    let share = drawn(&canaries);
    let (folder, away) = (state.path().join("canaries"), state.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    fs::write(&folder, "").unwrap();
    assert!(matches!(canaries.promote("trainer", decided(2), recorded), Err(NotDone::Store(_))));
    assert_eq!(drawn(&canaries), share, "it runs as before");
    assert!(matches!(canaries.start(new("other", 3), policy("new"), recorded), Err(NotDone::Store(_))));
    assert_eq!(canaries.all().len(), 1);
    let (_, unstored) = canaries.withdraw("trainer", Stage::Withdrawn, decided(4)).unwrap();
    assert!(unstored.is_some() && canaries.problem().is_some());
    assert_eq!(drawn(&canaries), 0, "it takes effect all the same");
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    canaries.store();
    assert_eq!(canaries.problem(), None, "it was tried again");
    assert_eq!(Canaries::open(state.path()).all()[0].stage, Stage::Withdrawn);
}

#[test]
fn canaries_that_are_over_make_room_and_their_files_are_removed() {
    let state = tempfile::tempdir().unwrap();
    let canaries = Canaries::open(state.path());
    for n in 0..MOST {
        canaries.start(new(&format!("p{n}"), n as i64), policy("new"), recorded).unwrap();
    }
    assert!(matches!(canaries.start(new("more", 99), policy("new"), recorded), Err(NotDone::Most)));
    canaries.withdraw("p3", Stage::Withdrawn, decided(100)).unwrap();
    let newer = parse("p", "[policy]\nname = \"newer\"\nowner = \"o\"\n").unwrap();
    let mut more = new("more", 101);
    more.candidate = newer.digest();
    canaries.start(more, newer, recorded).unwrap();
    let files = || fs::read_dir(state.path().join("canaries")).unwrap().count();
    assert_eq!((canaries.all().len(), files()), (MOST, MOST + 2), "two candidates are used");
    canaries.withdraw("more", Stage::Withdrawn, decided(102)).unwrap();
    canaries.start(new("last", 103), policy("new"), recorded).unwrap();
    assert_eq!(files(), MOST + 1, "the candidate of none is gone");
    assert_eq!(Canaries::open(state.path()).all().len(), MOST);
}

#[test]
fn runs_are_counted_once_and_what_an_earlier_daemon_saw_stays() {
    let mut kept = new("trainer", 1);
    assert!(kept.saw(run(1), Side::Candidate, true, false));
    assert!(kept.saw(run(2), Side::Control, false, false));
    assert!(!kept.saw(run(1), Side::Candidate, true, false), "nothing new");
    let text = serde_json::to_vec(&kept).unwrap();
    let mut again: Kept = serde_json::from_slice(&text).unwrap();
    assert_eq!(again, kept);
    assert!(!again.saw(run(1), Side::Candidate, false, false), "it was contained before");
    let counts = |kept: &Kept| {
        let arms = kept.arms();
        [arms.candidate, arms.control].map(|arm| [arm.runs, arm.ended, arm.contained])
    };
    assert_eq!((counts(&again), again.live()), ([[1, 0, 1], [1, 0, 0]], (1, 1)));
    assert!(again.saw(run(1), Side::Candidate, false, true));
    assert!(again.retain(|_| false) && !again.retain(|_| false), "the other ended while no daemon ran");
    assert_eq!((counts(&again), again.live()), ([[1, 1, 1], [1, 1, 0]], (0, 0)));
}

#[test]
fn the_time_for_which_criteria_hold_begins_anew_when_they_do_not() {
    let mut kept = new("trainer", 1);
    kept.saw(run(1), Side::Control, false, false);
    (0..4).for_each(|_| kept.holds_for(Span::from_secs(3)));
    assert_eq!(kept.held, Span::from_secs(12));
    assert!((2..4).all(|n| kept.saw(run(n), Side::Candidate, false, true)));
    assert!(matches!(kept.terms.judge(&kept.arms(), kept.held), Finding::Promote(_)));
    kept.saw(run(9), Side::Candidate, true, false);
    kept.holds_for(Span::from_secs(3));
    assert_eq!(kept.held, Span(0));
}

/// The log with the entries of these.
fn logged(entries: &[&Kept]) -> LoggedOrders {
    let mut logged = LoggedOrders::default();
    entries.iter().for_each(|kept| logged.orders.take(&kept.record()));
    logged
}

#[test]
fn a_canary_gives_the_candidate_to_no_more_runs_than_the_audit_log_has_it() {
    let state = tempfile::tempdir().unwrap();
    let share = drawn(&started(state.path()));
    let file = state.path().join("canaries/trainer.state.json");
    let running = new("trainer", 1_000_000);
    let (mut promoted, mut withdrawn) = (running.clone(), running.clone());
    promoted.decide(Stage::Promoted, decided(2));
    withdrawn.decide(Stage::Withdrawn, decided(3));
    let all = 200;
    for (of_file, of_log, gets) in [
        (&running, &running, share),
        (&running, &promoted, share),
        (&running, &withdrawn, 0),
        (&promoted, &running, share),
        (&promoted, &promoted, all),
        (&promoted, &withdrawn, 0),
        (&withdrawn, &running, 0),
        (&withdrawn, &promoted, 0),
    ] {
        fs::write(&file, serde_json::to_vec(of_file).unwrap()).unwrap();
        let canaries = Canaries::open(state.path());
        let (differs, records) = canaries.borne_out_by(&logged(&[of_log]));
        let case = format!("{} {}", of_file.stage, of_log.stage);
        assert_eq!(drawn(&canaries), gets, "{case}");
        let same = of_file.stage == of_log.stage;
        assert_eq!((differs.is_empty(), records.is_empty()), (same, same), "{case}: {differs:?}");
        // What is recorded and stored then bears it out.
        canaries.store();
        let mut log = logged(&[of_log]);
        records.iter().for_each(|record| log.orders.take(record));
        let again = Canaries::open(state.path());
        assert_eq!((again.borne_out_by(&log), drawn(&again)), ((Vec::new(), Vec::new()), gets), "{case}");
    }
}

#[test]
fn a_canary_that_the_audit_log_does_not_have_gives_nobody_the_candidate() {
    let state = tempfile::tempdir().unwrap();
    drop(started(state.path()));
    let kept = new("trainer", 1_000_000);
    let changes: [fn(&mut Kept); 5] = [
        |kept| kept.id.push('0'),
        |kept| kept.control = policy("other").digest(),
        |kept| kept.candidate = policy("other").digest(),
        |kept| kept.secret = [8; 32],
        |kept| kept.terms.share_ppm = 1,
    ];
    for change in changes {
        let mut other = kept.clone();
        change(&mut other);
        let canaries = Canaries::open(state.path());
        let (differs, _) = canaries.borne_out_by(&logged(&[&other]));
        assert!(differs[0].contains("another than in its last entry in the audit log"), "{differs:?}");
        assert_eq!((drawn(&canaries), canaries.problem().is_some()), (0, true));
    }
    let canaries = Canaries::open(state.path());
    assert!(canaries.borne_out_by(&logged(&[])).0[0].contains("it is not in the audit log"));
    assert_eq!(drawn(&canaries), 0);
    let canaries = Canaries::open(state.path());
    let (differs, records) = canaries.borne_out_by(&LoggedOrders { may_lack: true, ..logged(&[]) });
    assert!(differs[0].contains("accepted although") && records.len() == 1 && drawn(&canaries) > 0);
    // The files were removed.
    let canaries = Canaries::open(&state.path().join("none"));
    let (differs, records) = canaries.borne_out_by(&logged(&[&kept]));
    assert!(differs[0].contains("its file is missing"), "{differs:?}");
    let mut log = logged(&[&kept]);
    records.iter().for_each(|record| log.orders.take(record));
    assert_eq!(canaries.borne_out_by(&log), (Vec::new(), Vec::new()), "it is reported once");
}

#[test]
fn what_cannot_be_recorded_neither_begins_nor_is_promoted() {
    let state = tempfile::tempdir().unwrap();
    let refused = |_: &Kept| Err("the log is full".to_owned());
    let canaries = Canaries::open(state.path());
    assert!(matches!(canaries.start(new("trainer", 1), policy("new"), refused), Err(NotDone::Store(_))));
    assert_eq!((drawn(&canaries), Canaries::open(state.path()).all()), (0, Vec::new()));
    let canaries = started(state.path());
    let share = drawn(&canaries);
    assert!(matches!(canaries.promote("trainer", decided(2), refused), Err(NotDone::Store(_))));
    assert_eq!((drawn(&canaries), drawn(&Canaries::open(state.path()))), (share, share));
}
