//! Limits, what is dropped, and that nothing outlives a run.

use super::*;
use crate::{
    log::{Bounds, Budget, LogOwner},
    testing,
};
use failsafe_core::{Input, MonoTime, policy::parse::parse};
use failsafe_journal::storage::Retention;

fn policy(name: &str) -> Arc<Policy> {
    Arc::new(parse("p", &format!("[policy]\nname = \"{name}\"\nowner = \"o\"\n")).unwrap())
}

fn asked(run: u32, policy_name: &str, by: By) -> Asked {
    let enforced = policy("in-force");
    let run = testing::run(&format!("00000000-0000-0000-0000-{run:012}"), 1000, enforced.digest());
    let policy = policy(policy_name);
    Asked { run, enforced, digest: policy.digest(), policy, by, reserved: false, actor: Actor::Daemon }
}

fn user(uid: u32) -> By {
    By::User(uid)
}

/// A log, and the folder that it is in.
fn log() -> (LogOwner, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let bounds = Bounds { retention: Retention::default(), budget: Budget { per_user: 1 << 20, total: 1 << 24 } };
    let (owner, _) = LogOwner::open(state.path(), &state.path().join("second"), "boot", bounds, None).unwrap();
    (owner, state)
}

fn rule() -> By {
    By::Rule("slurm".into())
}

fn of_admin(asked: Asked) -> Asked {
    Asked { reserved: true, ..asked }
}

#[test]
fn a_run_a_user_and_the_node_have_a_limit_and_a_dropped_place_is_free() {
    let list = List::default();
    let mut places: Vec<Place> = (0..3).map(|n| list.take(&asked(1, &format!("p{n}"), user(7))).unwrap()).collect();
    assert_eq!(list.take(&asked(1, "more", user(8))).unwrap_err(), Refused::Run(3));
    assert_eq!(list.take(&asked(1, "p0", user(8))).unwrap_err(), Refused::Twice);
    assert_eq!(list.take(&asked(1, "in-force", user(8))).unwrap_err(), Refused::InForce);
    places.push(list.take(&asked(1, "p0", rule())).expect("a user takes no place of a rule by asking for its policy"));
    assert_eq!(list.take(&of_admin(asked(1, "more", user(0)))).unwrap_err(), Refused::Run(PER_RUN));
    for n in 3..PER_USER {
        places.push(list.take(&asked(n as u32 + 10, "p", user(7))).unwrap());
    }
    assert_eq!(list.take(&asked(99, "p", user(7))).unwrap_err(), Refused::User(7));
    places.push(list.take(&asked(99, "p", rule())).unwrap());
    assert!(list.has_of_rule("00000000-0000-0000-0000-000000000099".parse().unwrap(), "slurm"));
    places.clear();
    assert_eq!(list.len(), 0);
}

#[test]
fn users_leave_places_to_rules_and_both_leave_some_to_administrators() {
    let list = List::default();
    let mut places = Vec::new();
    let mut run = 0..;
    let mut next = |name: &str, by: By| asked(run.next().unwrap(), name, by);
    while let Ok(place) = list.take(&next("p", user(places.len() as u32 / PER_USER as u32 + 1_000))) {
        places.push(place);
    }
    assert_eq!(list.take(&next("p", user(1))).unwrap_err(), Refused::Users);
    assert_eq!(places.len(), 64);
    while let Ok(place) = list.take(&next("p", rule())) {
        places.push(place);
    }
    assert_eq!(places.len(), 112);
    assert_eq!(list.take(&next("p", rule())).unwrap_err(), Refused::Node(112));
    while let Ok(place) = list.take(&of_admin(next("p", user(0)))) {
        places.push(place);
    }
    assert_eq!(places.len(), PER_NODE);
}

#[test]
fn a_run_without_its_rules_shadow_is_reported_once_and_counted_until_it_has_one() {
    let list = List::default();
    let (one, other) = (asked(1, "p", rule()), asked(2, "p", rule()));
    let full = Refused::Node(112);
    assert!(list.leave_out("slurm", one.run.id, &full), "it is new");
    assert!(!list.leave_out("slurm", one.run.id, &full), "a later pass reports nothing new");
    assert!(list.leave_out("slurm", one.run.id, &Refused::Run(PER_RUN)), "another reason is new");
    assert!(list.leave_out("slurm", other.run.id, &full));
    let counts = || list.left_out().first().map(|left| (left.live, left.ended));
    assert_eq!(counts(), Some((2, 0)));
    let _place = list.take(&one).unwrap();
    assert_eq!(counts(), Some((1, 0)), "it has its shadow");
    list.retain_left_out(|run| run != other.run.id);
    assert_eq!(counts(), Some((0, 1)), "one ended without");
}

/// Shadows of which the thread begins to work when the returned end is dropped.
fn held() -> (Shadows, Feed, std::sync::mpsc::Sender<()>, (LogOwner, tempfile::TempDir)) {
    let (owner, state) = log();
    let (queue, receiver) = mpsc::channel();
    let (list, dropped) = (List::default(), Arc::new(AtomicU64::new(0)));
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let judge = judge::Judge::new(owner.log());
    let feed = Feed::spawn(queue.clone(), dropped.clone(), move |stop| {
        let _dropped = held.recv();
        judge.work(&receiver, &stop);
    });
    let folder = state.path().join("shadows");
    (
        Shadows { list, delayed: Default::default(), queue, dropped, folder, files: Arc::default() },
        feed.unwrap(),
        hold,
        (owner, state),
    )
}

fn begin(shadows: &Shadows, feed: &mut Feed, asked: Asked) {
    let (order, _wait) = shadows.add(asked).unwrap();
    let ShadowChange::Begin(beginning) = order else { panic!() };
    feed.begin(beginning, Now::default());
}

/// What everybody's shadows found.
fn report(shadows: &Shadows, run: Option<RunId>) -> Result<oneshot::Receiver<Vec<Group>>, Refused> {
    shadows.report(run, |_| true, ())
}

fn tick(n: usize) -> Input {
    Input::Tick(MonoTime(n as u64))
}

#[test]
fn what_a_slow_shadow_cannot_take_is_dropped_counted_and_reported() {
    let (shadows, mut feed, hold, _log) = held();
    let slow = asked(1, "p", user(7));
    let (run, other) = (slow.run.id, asked(2, "p", user(7)));
    let other_run = other.run.id;
    feed.entry(run, &tick(0), &[], || false);
    begin(&shadows, &mut feed, slow);
    begin(&shadows, &mut feed, other);
    (0..feed::PER_RUN + 5).for_each(|n| feed.entry(run, &tick(n), &[], || false));
    feed.entry(other_run, &tick(0), &[], || false);
    assert_eq!(shadows.counts(), (2, 5));
    feed.run_ended(run);
    drop(hold);
    let groups = report(&shadows, None).unwrap().blocking_recv().unwrap();
    assert_eq!(groups.len(), 1, "both are of the same two policies");
    let tally = &groups[0].tally;
    assert_eq!((tally.dropped, tally.inputs, tally.runs), (5, feed::PER_RUN as u64 + 1, 2));
    assert!(!tally.is_complete());
    assert_eq!(groups[0].live, 1);
    let live = report(&shadows, Some(other_run)).unwrap().blocking_recv().unwrap();
    assert!(live[0].tally.is_complete(), "one run's flood drops nothing of another");
    assert_eq!(shadows.list().len(), 1, "the place of the ended run is free");
}

#[test]
fn after_the_last_shadow_of_a_run_nothing_is_handed_on() {
    let (shadows, mut feed, hold, _log) = held();
    let asked = asked(1, "p", user(7));
    let run = asked.run.id;
    begin(&shadows, &mut feed, asked.clone());
    let (order, ended) = shadows.remove(&shadows.list()[0], Actor::Daemon);
    let ShadowChange::End(ending) = order else { panic!() };
    feed.end(ending);
    drop(hold);
    assert_eq!(ended.blocking_recv().unwrap().live, 0);
    // The answer to a report comes after all before it.
    let _settled = report(&shadows, None).unwrap().blocking_recv();
    feed.entry(run, &tick(1), &[], || false);
    assert!(shadows.list().is_empty());
    begin(&shadows, &mut feed, asked);
    feed.entry(run, &tick(2), &[], || false);
    feed.hand_on();
    let groups = report(&shadows, Some(run)).unwrap().blocking_recv().unwrap();
    assert_eq!(groups[0].tally.inputs, 1, "it begins anew");
}

#[test]
fn a_stopped_daemon_judges_no_backlog_and_the_places_are_free() {
    let (shadows, mut feed, hold, _log) = held();
    let asked = asked(1, "p", user(7));
    let run = asked.run.id;
    begin(&shadows, &mut feed, asked);
    (0..100).for_each(|n| feed.entry(run, &tick(n), &[], || false));
    drop(hold);
    drop(feed);
    assert!(shadows.list().is_empty());
    assert_eq!(report(&shadows, None).unwrap_err(), Refused::Ended);
}

#[test]
fn a_report_that_nobody_waits_for_is_not_computed_and_keeps_its_turn_until_it_is_passed() {
    let (shadows, mut feed, hold, _log) = held();
    begin(&shadows, &mut feed, asked(1, "p", user(7)));
    let (looked, turn) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
    for _ in 0..3 {
        let looked = looked.clone();
        let sees = move |_: &By| looked.fetch_add(1, Ordering::Relaxed) == 0;
        drop(shadows.report(None, sees, turn.clone()).unwrap());
    }
    assert_eq!(Arc::strong_count(&turn), 4, "whoever leaves keeps the turn while the report is in the queue");
    drop(hold);
    assert_eq!(report(&shadows, None).unwrap().blocking_recv().unwrap().len(), 1);
    assert_eq!((looked.load(Ordering::Relaxed), Arc::strong_count(&turn)), (0, 1));
}

#[test]
fn a_report_has_what_the_caller_sees_only() {
    let (shadows, mut feed, hold, _log) = held();
    drop(hold);
    let ended = asked(3, "p", user(8));
    let gone = ended.run.id;
    for one in [asked(1, "p", user(7)), asked(2, "p", rule()), ended, asked(4, "p", user(8))] {
        begin(&shadows, &mut feed, one);
    }
    feed.run_ended(gone);
    let seen = |by: By| {
        let groups = shadows.report(None, move |of| *of == by, ()).unwrap().blocking_recv().unwrap();
        groups.iter().map(|group| (group.by.clone(), group.tally.runs, group.live)).collect::<Vec<_>>()
    };
    assert_eq!(seen(user(7)), [(user(7), 1, 1)]);
    assert_eq!(seen(user(8)), [(user(8), 2, 1)]);
    assert_eq!(seen(rule()), [(rule(), 1, 1)]);
    assert_eq!(seen(user(9)), []);
}

#[test]
fn entries_that_come_between_the_end_of_a_shadow_and_the_beginning_of_the_next_give_their_room_back() {
    let (shadows, mut feed, hold, _log) = held();
    let asked = asked(1, "p", user(7));
    let run = asked.run.id;
    begin(&shadows, &mut feed, asked.clone());
    let (order, _ended) = shadows.remove(&shadows.list()[0], Actor::Daemon);
    let ShadowChange::End(ending) = order else { panic!() };
    feed.end(ending);
    (0..100).for_each(|n| feed.entry(run, &tick(n), &[], || false));
    let other = Asked { policy: policy("q"), digest: policy("q").digest(), ..asked };
    begin(&shadows, &mut feed, other);
    drop(hold);
    report(&shadows, None).unwrap().blocking_recv().unwrap();
    (0..feed::PER_RUN).for_each(|n| feed.entry(run, &tick(n), &[], || false));
    feed.hand_on();
    report(&shadows, None).unwrap().blocking_recv().unwrap();
    assert_eq!((feed.room(run), shadows.counts().1), (Some(feed::PER_RUN), 0));
}

/// Keeps a shadow that has its place.
fn kept_place(shadows: &Shadows, asked: &Asked) -> (ShadowChange, oneshot::Receiver<Result<(), Refused>>) {
    let place = shadows.add(asked.clone()).unwrap();
    shadows.keep(asked).unwrap();
    place
}

#[test]
fn a_shadow_that_a_user_asked_for_is_kept_until_it_is_removed_or_its_run_is_over() {
    let (shadows, _feed, hold, _log) = held();
    drop(hold);
    let (one, other) = (asked(1, "p", user(7)), of_admin(asked(2, "p", user(0))));
    let places: Vec<_> = [&one, &other, &asked(3, "p", rule())].map(|asked| kept_place(&shadows, asked)).into();
    let (stored, wrong) = shadows.stored();
    let found: Vec<_> = stored.iter().map(|one| (one.run, one.uid, one.reserved, one.policy.digest())).collect();
    let kept = |asked: &Asked, uid, reserved| (asked.run.id, uid, reserved, asked.digest);
    assert_eq!((found, wrong), (vec![kept(&one, 7, false), kept(&other, 0, true)], vec![]), "rules make theirs again");
    let listed = shadows.list().into_iter().find(|listed| listed.run == other.run.id).unwrap();
    shadows.forget(&listed).unwrap();
    assert_eq!(shadows.stored().0.len(), 1);
    drop(places);
    shadows.tidy(|run| run == one.run.id);
    assert_eq!(shadows.stored().0.len(), 1);
    shadows.tidy(|_| false);
    assert!(shadows.stored().0.is_empty());
}

#[test]
fn a_kept_shadow_with_another_content_is_reported_and_the_others_are_used() {
    let (shadows, _feed, hold, _log) = held();
    drop(hold);
    assert_eq!(shadows.stored(), (Vec::new(), Vec::new()), "there is no folder yet");
    let (good, bad) = (asked(1, "p", user(7)), asked(2, "p", user(7)));
    let _places = [kept_place(&shadows, &good), kept_place(&shadows, &bad)];
    let files: Vec<PathBuf> = std::fs::read_dir(&shadows.folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let of = |asked: &Asked| {
        let run = asked.run.id.to_string();
        files.iter().find(|path| path.to_str().unwrap().contains(&run)).unwrap().clone()
    };
    for bytes in [b"{".to_vec(), std::fs::read(of(&good)).unwrap(), vec![b' '; 2 << 20]] {
        std::fs::write(of(&bad), bytes).unwrap();
        let (stored, wrong) = shadows.stored();
        assert_eq!((stored.len(), wrong.len()), (1, 1), "{wrong:?}");
        assert!(stored[0].run == good.run.id && wrong[0].contains(&bad.run.id.to_string()), "{wrong:?}");
    }
}

/// The order of `add`: place, pipeline, file. Somebody removes the shadow before its file is written.
#[test]
fn a_shadow_that_is_removed_while_it_is_added_leaves_no_file() {
    let (shadows, mut feed, hold, _log) = held();
    let one = asked(1, "p", user(7));
    begin(&shadows, &mut feed, one.clone());
    shadows.forget(&shadows.list()[0]).unwrap();
    shadows.keep(&one).unwrap();
    assert!(shadows.stored().0.is_empty(), "its end is under way");
    let (ShadowChange::End(ending), ended) = shadows.remove(&shadows.list()[0], Actor::Daemon) else { panic!() };
    feed.end(ending);
    drop(hold);
    ended.blocking_recv().unwrap();
    assert!(shadows.list().is_empty());
    shadows.keep(&one).unwrap();
    assert!(shadows.stored().0.is_empty(), "it has ended");
    begin(&shadows, &mut feed, one.clone());
    shadows.keep(&one).unwrap();
    assert_eq!(shadows.stored().0.len(), 1, "one that is added later stays");
}

/// What an earlier daemon kept of this.
fn pending(shadows: &Shadows, asked: &Asked) -> Pending {
    let By::User(uid) = asked.by else { panic!() };
    let (policy, actor) = ((*asked.policy).clone(), asked.actor.clone());
    Pending::new(Stored { run: asked.run.id, policy, uid, reserved: asked.reserved, actor }, shadows)
}

fn live(asked: &Asked) -> RunLookup {
    RunLookup::Live(Box::new(asked.run.clone()), asked.enforced.clone())
}

#[test]
fn a_run_that_is_taken_up_between_the_two_looks_is_not_over() {
    let one = asked(1, "p", user(7));
    let looks = std::cell::Cell::new(0);
    // It is guarded at the first look, and live at the second.
    let look = || looks.replace(looks.get() + 1);
    let found =
        RunLookup::of(|| look() == 0, || (look() == 1).then(|| (Box::new(one.run.clone()), one.enforced.clone())));
    assert!(matches!(found, RunLookup::Live(..)));
}

#[test]
fn a_shadow_of_an_earlier_daemon_that_finds_no_place_is_reported_once_and_judges_when_one_is_free() {
    let (shadows, mut feed, hold, _log) = held();
    drop(hold);
    let one = asked(1, "p", user(7));
    let others: Vec<_> = (0..3).map(|n| shadows.add(asked(1, &format!("p{n}"), user(8))).unwrap()).collect();
    let mut pending = pending(&shadows, &one);
    let none = |_: ShadowChange| panic!("there is no place");
    assert_eq!(pending.attempt(RunLookup::Guarded, &shadows, none), Attempt::Waits);
    assert_eq!(pending.attempt(live(&one), &shadows, none), Attempt::Refused(Refused::Run(3)));
    assert_eq!(pending.attempt(live(&one), &shadows, none), Attempt::Waits, "the same reason is no news");
    drop(others);
    let mut order = None;
    assert_eq!(pending.attempt(live(&one), &shadows, |begins| order = Some(begins)), Attempt::Waits);
    let Some(ShadowChange::Begin(beginning)) = order else { panic!() };
    feed.begin(beginning, Now::default());
    report(&shadows, None).unwrap().blocking_recv().unwrap();
    assert_eq!(pending.attempt(live(&one), &shadows, none), Attempt::Judges);
}

#[test]
fn a_shadow_of_an_earlier_daemon_is_tried_again_where_the_pipeline_does_not_have_its_run_yet() {
    let (shadows, _feed, _hold, _log) = held();
    let one = asked(1, "p", user(7));
    let mut pending = pending(&shadows, &one);
    for _ in 0..2 {
        let mut order = None;
        assert_eq!(pending.attempt(live(&one), &shadows, |begins| order = Some(begins)), Attempt::Waits);
        let Some(ShadowChange::Begin(beginning)) = order else { panic!("it is tried again") };
        beginning.refuse();
        assert_eq!(pending.attempt(live(&one), &shadows, |_| panic!("the answer comes first")), Attempt::Waits);
    }
    assert_eq!(pending.attempt(RunLookup::Over, &shadows, drop), Attempt::Over);
}

#[test]
fn a_shadow_of_an_earlier_daemon_is_given_up_for_what_does_not_change() {
    let (shadows, _feed, _hold, _log) = held();
    let one = asked(1, "in-force", user(7));
    assert_eq!(pending(&shadows, &one).attempt(live(&one), &shadows, drop), Attempt::GivenUp(Refused::InForce));
    let again = asked(1, "p", user(8));
    let _place = shadows.add(again).unwrap();
    let one = asked(1, "p", user(7));
    assert_eq!(pending(&shadows, &one).attempt(live(&one), &shadows, drop), Attempt::Judges, "somebody has it judged");
}

fn reasons(shadows: &Shadows) -> Vec<String> {
    shadows.delayed().into_iter().map(|one| one.why).collect()
}

#[test]
fn a_shadow_that_does_not_judge_again_is_listed_with_the_reason_until_it_judges() {
    let (shadows, mut feed, hold, _log) = held();
    drop(hold);
    let one = asked(1, "p", user(7));
    let others: Vec<_> = (0..3).map(|n| shadows.add(asked(1, &format!("p{n}"), user(8))).unwrap()).collect();
    let mut pending = pending(&shadows, &one);
    assert_eq!(reasons(&shadows), ["its run is being taken up"]);
    let none = |_: ShadowChange| panic!("there is no place");
    pending.attempt(RunLookup::Guarded, &shadows, none);
    assert_eq!(reasons(&shadows), ["its run is guarded: it is not judged"]);
    pending.attempt(live(&one), &shadows, none);
    assert_eq!(reasons(&shadows), [Refused::Run(3).to_string()]);
    drop(others);
    let mut order = None;
    pending.attempt(live(&one), &shadows, |begins| order = Some(begins));
    assert!(reasons(&shadows).is_empty() && shadows.list().len() == 1, "it has its place, and is listed once");
    let Some(ShadowChange::Begin(beginning)) = order else { panic!() };
    feed.begin(beginning, Now::default());
    report(&shadows, None).unwrap().blocking_recv().unwrap();
    assert_eq!(pending.attempt(live(&one), &shadows, none), Attempt::Judges);
    assert!(reasons(&shadows).is_empty() && shadows.delayed.all().is_empty());
}

#[test]
fn a_delayed_shadow_that_is_given_up_leaves_no_file_and_takes_no_place() {
    let (shadows, _feed, _hold, _log) = held();
    let one = asked(1, "p", user(7));
    drop(kept_place(&shadows, &one));
    let mut pending = pending(&shadows, &one);
    shadows.give_up(&shadows.delayed()[0]).unwrap();
    assert!(shadows.stored().0.is_empty());
    let none = |_: ShadowChange| panic!("it is removed");
    assert_eq!(pending.attempt(live(&one), &shadows, none), Attempt::Removed);
    assert!(shadows.list().is_empty() && shadows.delayed().is_empty());
}
