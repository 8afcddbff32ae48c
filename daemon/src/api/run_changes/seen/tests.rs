//! How the list changes, and looks that overlap.

use super::*;

fn looked(n: u128, state: v1::RunState) -> Looked {
    let id = RunId(uuid::Uuid::from_u128(n));
    let run = v1::Run { id: id.to_string(), ..run(state, &[]) };
    Looked { id, owner_uid: Some(1), labels: BTreeMap::new(), run }
}

fn view() -> View {
    View { runs: Changes::after(0), removed: VecDeque::new(), begun: true }
}

fn last(view: &View, n: u128) -> Option<RunChange> {
    view.runs.get(RunId(uuid::Uuid::from_u128(n))).map(|seen| seen.change)
}

#[test]
fn a_run_that_comes_back_after_its_removal_is_not_forgotten_with_the_removed_ones() {
    let mut view = view();
    let back = looked(1, v1::RunState::Running);
    assert!(view.saw(back.clone(), 1), "it is new");
    view.gone(back.id, 2);
    assert_eq!(last(&view, 1), Some(RunChange::Removed));
    assert!(view.saw(back, 3));
    assert_eq!(last(&view, 1), Some(RunChange::Started));
    for n in 2..=2 + REMOVED as u128 {
        view.saw(looked(n, v1::RunState::Ended), 4);
        view.gone(RunId(uuid::Uuid::from_u128(n)), 4);
    }
    assert_eq!((last(&view, 1), last(&view, 2)), (Some(RunChange::Started), None), "the oldest removed one is");
}

#[test]
fn what_an_earlier_look_saw_does_not_replace_what_a_later_one_saw() {
    let mut view = view();
    view.saw(looked(1, v1::RunState::Ended), 2);
    view.saw(looked(1, v1::RunState::Running), 1);
    view.gone(RunId(uuid::Uuid::from_u128(1)), 1);
    assert!(view.put_all(Vec::new(), 1).is_empty());
    assert_eq!(last(&view, 1), Some(RunChange::Ended));
    view.put_all(Vec::new(), 3);
    assert_eq!(last(&view, 1), Some(RunChange::Removed));
}

/// Runs of which the first one is looked at for as long as the test wants.
struct Slow {
    touched: Mutex<BTreeSet<RunId>>,
    looks: std::sync::Barrier,
    woken: AtomicUsize,
}

impl Runs for Slow {
    fn take(&self) -> Look {
        Look::At(std::mem::take(&mut *self.touched.lock().unwrap()))
    }

    fn one(&self, id: RunId) -> Option<Looked> {
        if id.0.as_u128() == 1 {
            self.looks.wait();
            self.looks.wait();
        }
        Some(looked(id.0.as_u128(), v1::RunState::Running))
    }

    fn all(&self) -> Vec<Looked> {
        Vec::new()
    }

    fn again(&self, _: RunId) {}

    fn wake(&self) {
        self.woken.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn nobody_waits_for_the_look_of_another_and_all_are_woken_after_it() {
    let changes = RunChanges::new(0);
    changes.view().begun = true;
    let touched = Mutex::new([looked(1, v1::RunState::Running).id].into());
    let slow = Slow { touched, looks: std::sync::Barrier::new(2), woken: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| drop(changes.look_at(&slow)));
        slow.looks.wait();
        slow.touched.lock().unwrap().insert(looked(2, v1::RunState::Running).id);
        let view = changes.look_at(&slow);
        assert_eq!((last(&view, 1), last(&view, 2)), (None, Some(RunChange::Started)));
        drop(view);
        let before = slow.woken.load(Ordering::SeqCst);
        slow.looks.wait();
        first.join().unwrap();
        assert!(slow.woken.load(Ordering::SeqCst) > before, "it does not have the first run yet");
    });
    assert_eq!(last(&changes.view(), 1), Some(RunChange::Started));
}

fn run(state: v1::RunState, steps: &[(&str, bool, v1::Verdict)]) -> v1::Run {
    let step = |(measure, desired, verdict): &(&str, bool, v1::Verdict)| v1::ContainmentStep {
        measure: (*measure).to_owned(),
        desired: *desired,
        verdict: *verdict as i32,
        at_ns: 7,
        ..Default::default()
    };
    v1::Run { state: state as i32, containment: steps.iter().map(step).collect(), ..Default::default() }
}

#[test]
fn a_revision_is_exact_as_a_double_and_later_than_those_of_an_earlier_daemon() {
    // 2200-01-01.
    let revision = first(7_258_118_400_000_000_000);
    assert!(revision < 1 << 53, "{revision}");
    assert!(first(1_796_054_162_482_910_211) > first(1_796_054_161_482_910_211) + 999_999);
    assert_eq!(first(-1), 0);
}

#[test]
fn a_change_of_the_list_is_named_by_what_happened() {
    use v1::{RunState, Verdict::*};
    let running = run(RunState::Running, &[]);
    let frozen = run(RunState::Frozen, &[("freeze", true, Proved)]);
    for (before, now, is) in [
        (&running, &running, None),
        (&running, &v1::Run { events: 5, processes: 2, ..running.clone() }, None),
        (&running, &run(RunState::Partial, &[("freeze", true, Pending)]), Some(RunChange::Contained)),
        (&run(RunState::Partial, &[("freeze", true, Pending)]), &frozen, Some(RunChange::Contained)),
        (&frozen, &run(RunState::Partial, &[("freeze", false, Pending)]), Some(RunChange::State)),
        (&frozen, &running, Some(RunChange::State)),
        (&running, &v1::Run { observed: true, ..running.clone() }, Some(RunChange::State)),
        (&running, &v1::Run { blocked: true, ..running.clone() }, Some(RunChange::Contained)),
        (&frozen, &run(RunState::Ended, &[("freeze", true, Proved)]), Some(RunChange::Ended)),
        (&run(RunState::Ended, &[("freeze", true, Proved)]), &run(RunState::Ended, &[]), None),
    ] {
        assert_eq!(change(before, now), is, "{now:?}");
    }
}
