//! Which messages follow from which entries.

use super::*;
use failsafe_core::{
    MonoTime, Proof, RunId,
    decision::{Action, Cause, Confidence, Decision, DecisionId, IncidentId, Outcome, Upkeep},
    health::{Change, Level, Target},
    input::{Contained, Run},
    policy::PolicyDigest,
    record::{Limited, OwnerBy, RuleText},
    time::Span,
};

const S: i64 = 1_000_000_000;
const START: i64 = 1_800_000_000 * S;

/// A node.
pub fn sender() -> Sender {
    Sender { node: "node7".into(), contact: String::new() }
}

fn run_id(n: u32) -> RunId {
    format!("01936f2e-7b1c-7e50-8000-5f0c9a1b{n:04x}").parse().unwrap()
}

/// A run of this owner starts.
pub fn started(n: u32, uid: u32) -> Record {
    let run = Run {
        id: run_id(n),
        name: format!("run\u{1b}{n}"),
        labels: [("team".to_owned(), "llm".to_owned())].into(),
        owner_uid: uid,
        cgroup: "a".into(),
        cgroup_id: 1,
        boot_id: "boot".into(),
        policy: PolicyDigest([1; 32]),
        gpus: Default::default(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Contained::default(),
    };
    Record::RunStarted { run, policy_name: "strict v1".into(), broken: Vec::new(), repair: Vec::new() }
}

/// A run ends.
pub fn ended(n: u32) -> Record {
    let (recording, unwatched, frozen_ns) = (None, None, None);
    Record::RunEnded { run: run_id(n), name: String::new(), recording, suppressed: Vec::new(), unwatched, frozen_ns }
}

/// A rule of the run decides this.
pub fn decision(n: u32, number: u32, incident: u32, actions: &[Action]) -> Record {
    let rule = RuleText {
        rationale: "why".into(),
        owner: "llm-oncall".into(),
        playbook: Some("egress".into()),
        policy: "strict v1".into(),
        effect: Default::default(),
    };
    let cause = Cause::Rule { rule: "no-egress".into(), condition: "connect is denied".into(), suppressed: 0 };
    let decision = Decision {
        id: DecisionId { run: run_id(n), n: number },
        incident: IncidentId::new(run_id(n), incident),
        at: MonoTime(0),
        cause,
        actions: actions.to_vec(),
        because: Vec::new(),
        values: Vec::new(),
        confidence: Confidence::High,
        severity: Severity::Warning,
        mode: Mode::Enforce,
        policy: PolicyDigest([1; 32]),
    };
    Record::Decision { decision, rule: Some(rule), blind: None, drill: false }
}

/// What came of an action.
pub fn outcome(n: u32, number: u32, incident: u32, action: Action, verdict: Verdict) -> Record {
    Record::Outcome(Outcome {
        decision: DecisionId { run: run_id(n), n: number },
        incident: IncidentId::new(run_id(n), incident),
        action,
        verdict,
        proofs: vec![Proof { fact: "cgroup.events".into(), seen: "frozen 1".into() }],
        at: MonoTime(0),
        took: Span(0),
    })
}

fn health(target: Target, to: Level) -> Record {
    Record::Health(Change {
        revision: 1,
        target,
        from: Level::Healthy,
        to,
        added: Vec::new(),
        removed: Vec::new(),
        by: Some("user 0 (admin): test".into()),
        actor: None,
        event: None,
        at_ns: START,
    })
}

/// A book, and what it says at each entry.
#[derive(Default)]
struct Told {
    book: Book,
    now: i64,
    said: Vec<Message>,
}

impl Told {
    fn add(&mut self, record: Record) -> &mut Told {
        self.now += 1_000_000;
        let wall_ns = START + self.now;
        self.book.apply(&Entry { wall_ns, mono_ns: 0, record: &record });
        self.said.extend(self.book.take(wall_ns, &sender()));
        self
    }

    fn after(&mut self, ns: i64) -> &mut Told {
        self.now += ns;
        self.said.extend(self.book.take(START + self.now, &sender()));
        self
    }

    /// Standing, whether it resolves, and whether it updates, of each message since the last call.
    fn said(&mut self) -> Vec<(String, bool, bool)> {
        std::mem::take(&mut self.said).into_iter().map(|it| (it.standing, it.resolved, it.update)).collect()
    }
}

fn said(standing: &str, resolved: bool, update: bool) -> (String, bool, bool) {
    (standing.to_owned(), resolved, update)
}

#[test]
fn an_incident_gives_one_message_when_it_is_proved_and_one_for_each_change_of_its_standing() {
    let mut told = Told::default();
    told.add(started(1, 1000)).add(decision(1, 1, 1, &[Action::Freeze, Action::Notify]));
    assert_eq!(told.said(), [], "the proof is waited for");
    told.add(outcome(1, 1, 1, Action::Freeze, Verdict::Proved));
    let first = told.said[0].clone();
    assert_eq!(told.said(), [said("contained", false, false)]);
    assert_eq!(first.summary, "node7: run run\\u{1b}1: rule no-egress: freeze in force and proved");
    assert_eq!(first.done, ["freeze: proved (cgroup.events: frozen 1)"]);
    assert_eq!((first.contact.as_str(), first.playbook.as_deref()), ("llm-oncall", Some("egress")));
    assert_eq!(first.next, format!("failsafectl explain {}", first.key));
    assert_eq!(first.run.as_ref().unwrap().owner_uid, Some(1000));
    // The same standing again is no news.
    told.add(decision(1, 2, 1, &[Action::Freeze]));
    told.add(outcome(1, 2, 1, Action::Freeze, Verdict::Proved)).after(STEPPED);
    assert_eq!(told.said(), []);
    told.add(decision(1, 3, 1, &[Action::Kill]));
    told.add(outcome(1, 3, 1, Action::Kill, Verdict::Failed("EPERM".into()))).after(UNPROVED);
    assert_eq!(told.said(), [said("failed", false, true)]);
    told.add(ended(1));
    assert_eq!(told.said(), [said("ended", true, true)]);
    assert_eq!(told.book.open.len() + told.book.runs.len(), 0, "nothing of it is kept");
}

#[test]
fn what_is_not_proved_in_time_is_announced_as_such_and_then_as_proved() {
    let mut told = Told::default();
    told.add(started(1, 1000)).add(decision(1, 1, 1, &[Action::Freeze])).after(UNPROVED - 2_000_000);
    assert_eq!(told.said(), []);
    told.after(2_000_000);
    assert_eq!(told.said(), [said("pending", false, false)]);
    told.add(outcome(1, 1, 1, Action::Freeze, Verdict::Partial(vec!["GPU busy".into()]))).after(UNPROVED);
    assert_eq!(told.said(), [said("partial", false, true)]);
    told.add(outcome(1, 1, 1, Action::Freeze, Verdict::Proved));
    assert_eq!(told.said(), [said("contained", false, true)]);
}

#[test]
fn a_thaw_ends_an_incident_and_an_incident_that_ends_at_once_is_announced_first() {
    let mut told = Told::default();
    told.add(started(1, 1000)).add(decision(1, 1, 1, &[Action::Freeze]));
    told.add(outcome(1, 1, 1, Action::Freeze, Verdict::Proved)).add(decision(1, 2, 1, &[Action::Thaw]));
    told.add(outcome(1, 2, 1, Action::Thaw, Verdict::Proved));
    assert_eq!(told.said(), [said("contained", false, false), said("thawed", true, true)]);
    told.add(decision(1, 3, 2, &[Action::Notify])).add(ended(1));
    assert_eq!(told.said(), [said("noted", false, false), said("ended", true, true)]);
    // The run ends before the freeze is proved.
    told.add(started(2, 1000)).add(decision(2, 1, 1, &[Action::Freeze])).add(ended(2));
    assert_eq!(told.said(), [said("pending", false, false), said("ended", true, true)]);
}

#[test]
fn the_end_of_what_was_only_noted_is_for_targets_that_keep_alerts() {
    let mut told = Told::default();
    told.add(started(1, 1000)).add(decision(1, 1, 1, &[Action::Notify])).add(ended(1));
    assert_eq!(told.said.iter().map(|it| it.closes_only).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_same_entries_give_the_same_messages_after_a_restart() {
    let entries = || {
        vec![
            started(1, 1000),
            decision(1, 1, 1, &[Action::Freeze]),
            outcome(1, 1, 1, Action::Freeze, Verdict::Proved),
            decision(1, 2, 1, &[Action::Thaw]),
            outcome(1, 2, 1, Action::Thaw, Verdict::Proved),
        ]
    };
    let mut whole = Told::default();
    for record in entries() {
        whole.add(record);
    }
    for cut in 0..=entries().len() {
        let mut told = Told::default();
        for (at, record) in entries().into_iter().enumerate() {
            if at == cut {
                let stored = serde_json::to_vec(&told.book).unwrap();
                told.book = serde_json::from_slice(&stored).unwrap();
            }
            told.add(record);
        }
        assert_eq!(told.said, whole.said, "cut at {cut}");
    }
    let ids: std::collections::BTreeSet<&str> = whole.said.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(ids.len(), whole.said.len(), "each message has an id of its own");
}

#[test]
fn what_was_open_before_the_first_start_is_not_announced_but_its_run_is_known() {
    let mut told = Told::default();
    told.add(started(1, 1000)).add(decision(1, 1, 1, &[Action::Freeze])).add(health(Target::Node, Level::Unhealthy));
    told.said();
    told.book.begin();
    told.add(outcome(1, 1, 1, Action::Freeze, Verdict::Proved)).after(STEPPED);
    assert_eq!(told.said(), []);
    told.add(decision(1, 2, 2, &[Action::Notify]));
    assert_eq!(told.said[0].run.as_ref().unwrap().owner_uid, Some(1000));
    told.said();
    told.add(health(Target::Node, Level::Healthy));
    assert_eq!(told.said(), [said("healthy", true, true)], "that it is well again is news");
}

#[test]
fn a_message_about_a_discovered_run_has_the_owner_that_became_known_after_its_start() {
    let mut told = Told::default();
    let owner = |told: &Told| told.said.last().unwrap().run.as_ref().unwrap().owner_uid;
    told.add(started(1, NO_UID)).add(decision(1, 1, 1, &[Action::Notify]));
    assert_eq!(owner(&told), None, "no user has the id that stands for an owner who is not known");
    told.add(Record::RunOwner { run: run_id(1), owner_uid: 65534, by: OwnerBy::Processes });
    told.add(decision(1, 2, 2, &[Action::Notify]));
    assert_eq!(owner(&told), Some(65534));
}

#[test]
fn a_message_about_a_decision_of_failsafed_itself_has_contact_playbook_and_the_whole_cause() {
    let mut record = decision(1, 1, 1, &[Action::Notify]);
    let differences = "x".repeat(400);
    if let Record::Decision { decision, rule, blind, .. } = &mut record {
        decision.cause = Cause::Upkeep { what: Upkeep::Drift };
        rule.as_mut().unwrap().owner = "policy-owner".into();
        *blind = Some(differences.clone());
    }
    let mut told = Told::default();
    told.add(started(1, 1000)).add(record);
    let message = told.said.last().unwrap();
    assert_eq!((message.rule.as_deref(), message.contact.as_str()), (None, "policy-owner"));
    assert_eq!((message.playbook.as_deref(), message.rationale.as_deref()), (Some("egress"), Some("why")));
    assert_eq!(message.condition, format!("failsafe: drift: {differences}"));
    assert!(message.summary.ends_with("...: nothing is contained"), "what was done is there too: {}", message.summary);
}

#[test]
fn health_is_announced_when_the_level_changes_and_a_part_that_is_soon_well_again_is_not() {
    let mut told = Told::default();
    told.add(health(Target::Node, Level::Unknown)).add(health(Target::Node, Level::Healthy)).after(UNSETTLED);
    assert_eq!(told.said(), [], "a restart of the daemon");
    told.add(health(Target::Node, Level::Degraded)).after(UNSETTLED);
    told.add(health(Target::Node, Level::Degraded)).after(UNSETTLED);
    told.add(health(Target::Node, Level::Unhealthy));
    assert_eq!(told.said[1].severity, Severity::Critical);
    assert_eq!(told.said(), [said("degraded", false, false), said("unhealthy", false, true)]);
    told.add(health(Target::Node, Level::Healthy));
    let end = told.said[0].clone();
    assert_eq!(told.said(), [said("healthy", true, true)]);
    assert_eq!((end.severity, end.first_severity), (Severity::Critical, Severity::Warning), "as the alarm was routed");
}

#[test]
fn a_clock_that_is_set_back_holds_no_message_back() {
    let mut told = Told::default();
    told.add(started(1, 1000)).add(decision(1, 1, 1, &[Action::Freeze]));
    told.after(-3_600 * S);
    assert_eq!(told.said(), [said("pending", false, false)]);
}

#[test]
fn decisions_that_the_log_only_sums_up_are_announced_once_for_each_run() {
    let mut told = Told::default();
    let limited = || {
        let run = Some(run_id(1));
        Record::Limited(Limited { uid: 1000, run, entries: 9, last_decision: 4, ..Limited::default() })
    };
    told.add(started(1, 1000)).add(limited()).add(limited());
    assert_eq!(told.said[0].severity, Severity::Critical);
    assert!(told.said[0].condition.contains("user 1000 has spent the budget"), "{}", told.said[0].condition);
    assert_eq!(told.said(), [said("noted", false, false)]);
    told.add(ended(1));
    assert_eq!(told.said(), [said("ended", true, true)]);
}

#[test]
fn a_summary_that_is_written_after_the_end_of_its_run_is_announced_and_closed() {
    let summary = |run| Record::Limited(Limited { uid: 1000, run, entries: 9, last_decision: 4, ..Limited::default() });
    let mut told = Told::default();
    told.add(started(1, 1000)).add(ended(1)).add(summary(Some(run_id(1))));
    assert_eq!(told.said(), [said("noted", false, false), said("ended", true, true)]);
    // With an incident of the run that is still open when the run ends.
    told.add(started(2, 1000)).add(decision(2, 1, 1, &[Action::Freeze])).add(ended(2)).add(summary(Some(run_id(2))));
    told.after(60 * S);
    told.said();
    // And about no run.
    told.add(summary(None));
    assert_eq!(told.said(), [said("noted", false, false), said("ended", true, true)]);
    assert_eq!((told.book.open.len(), told.book.runs.len()), (0, 0), "nothing stays open");
}

#[test]
fn incidents_beyond_the_bound_are_forgotten_of_the_run_that_has_the_most() {
    let mut told = Told::default();
    told.add(decision(2, 1, 1, &[Action::Freeze])).add(outcome(2, 1, 1, Action::Freeze, Verdict::Proved));
    for n in 1..=u32::try_from(OPEN).unwrap() + 10 {
        told.add(decision(1, n, n, &[Action::Notify]));
    }
    assert_eq!((told.book.open.len(), told.book.forgotten), (OPEN, 11));
    assert_eq!(told.said.len(), OPEN + 11, "each one was announced");
    told.said();
    told.add(ended(2));
    assert_eq!(told.said(), [said("ended", true, true)]);
}

#[test]
fn a_stop_that_is_a_drill_gives_no_message() {
    let mut told = Told::default();
    let Record::Decision { decision, rule, blind, .. } = decision(1, 1, 1, &[Action::Freeze]) else { panic!() };
    told.add(started(1, 0)).add(Record::Decision { decision, rule, blind, drill: true });
    told.add(outcome(1, 1, 1, Action::Freeze, Verdict::Proved)).after(UNPROVED);
    assert_eq!((told.said(), told.book.open.len()), (vec![], 0));
}

#[test]
fn the_book_is_bounded_in_bytes() {
    let mut told = Told::default();
    let long = "x".repeat(2 * TEXT);
    told.add(started(2, 1000)).add(decision(2, 1, 1, &[Action::Freeze]));
    for n in 1..=1_200 {
        let Record::Decision { mut decision, rule, .. } = decision(1, n, n, &[Action::Freeze]) else { panic!() };
        let mut rule = rule.unwrap();
        (rule.rationale, rule.owner, rule.playbook) = (long.clone(), long.clone(), Some(long.clone()));
        decision.cause = Cause::Rule { rule: long.clone(), condition: long.clone(), suppressed: 0 };
        told.add(Record::Decision { decision, rule: Some(rule), blind: None, drill: false });
        let missing = std::iter::repeat_n(long.clone(), 3).collect();
        told.add(outcome(1, n, n, Action::Freeze, Verdict::Partial(missing)));
        told.said.clear();
    }
    assert!(told.book.open.bytes() <= OPEN_BYTES, "{}", told.book.open.bytes());
    assert!(told.book.forgotten > 0 && told.book.open.len() > 500, "{}", told.book.open.len());
    assert!(serde_json::to_vec(&told.book).unwrap().len() < 2 * OPEN_BYTES);
    assert_eq!(told.book.take_gone().len(), usize::try_from(told.book.forgotten).unwrap());
    // The other run lost nothing.
    told.after(UNPROVED).said.clear();
    told.add(ended(2));
    assert_eq!(told.said(), [said("ended", true, true)]);
}

#[test]
fn runs_that_never_end_in_the_log_are_forgotten_when_there_are_too_many() {
    let mut told = Told::default();
    told.add(started(1, 1000)).add(decision(1, 1, 1, &[Action::Notify]));
    for n in 2..=u32::try_from(RUNS).unwrap() + 1 {
        told.add(started(n, 1000));
    }
    assert_eq!(told.book.runs.len(), RUNS + 1 - ROOM);
    assert!(told.book.runs.get(&run_id(1).to_string()).is_some(), "it has an open incident");
    assert!(told.book.runs.get(&run_id(2).to_string()).is_none());
    let newest = run_id(u32::try_from(RUNS).unwrap() + 1).to_string();
    assert!(told.book.runs.get(&newest).is_some());
    // Long labels are bounded as well.
    for n in 1..=3_000 {
        let Record::RunStarted { mut run, policy_name, .. } = started(n, 1000) else { panic!() };
        run.labels = (0..32).map(|label| (format!("{label:0128}"), "v".repeat(128))).collect();
        told.add(Record::RunStarted { run, policy_name, broken: Vec::new(), repair: Vec::new() });
    }
    assert!(told.book.runs.bytes() <= RUN_BYTES, "{}", told.book.runs.bytes());
}

#[test]
fn the_run_of_an_incident_that_ended_before_the_first_start_is_not_kept() {
    let mut told = Told::default();
    told.book.apply(&Entry { wall_ns: 1, mono_ns: 0, record: &started(1, 1000) });
    told.book.apply(&Entry { wall_ns: 2, mono_ns: 0, record: &decision(1, 1, 1, &[Action::Notify]) });
    told.book.apply(&Entry { wall_ns: 3, mono_ns: 0, record: &ended(1) });
    told.book.begin();
    assert_eq!((told.book.open.len(), told.book.runs.len()), (0, 0));
}

#[test]
fn the_standing_is_that_of_all_decisions_although_only_the_last_step_of_each_action_is_kept() {
    let mut told = Told::default();
    told.add(started(1, 1000));
    for n in (1..=600).step_by(3) {
        told.add(decision(1, n, 1, &[Action::Kill])).add(outcome(1, n, 1, Action::Kill, Verdict::Failed("a".into())));
        told.add(decision(1, n + 1, 1, &[Action::Freeze]));
        told.add(outcome(1, n + 1, 1, Action::Freeze, Verdict::Proved)).after(UNPROVED);
    }
    assert_eq!(told.said(), [said("failed", false, false)]);
    told.add(decision(1, 601, 1, &[Action::Kill])).add(outcome(1, 601, 1, Action::Kill, Verdict::Proved));
    assert_eq!(told.said(), [said("contained", false, true)]);
    assert!(told.book.open.bytes() < 4_096);
}
