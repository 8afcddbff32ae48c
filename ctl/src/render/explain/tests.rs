//! The page of an incident, against its snapshots.

use super::*;
use crate::incidents::briefs;
use crate::testing::{Log, RUN, asked, contained, control, decision, incident, outcome, run_id, violation};
use failsafe_core::{
    decision::{Cause, Mode, Observation, Upkeep, Verdict},
    event::{DriftSince, Event, FactorClass},
    input::Command,
    policy::Effect,
    record::{OwnerBy, Record, RuleText},
    signal::{Kind, Value},
    subject::Subject,
    time::MonoTime,
};

fn with<T>(log: &Log, may_act: bool, show: impl FnOnce(&Page<'_>) -> T) -> T {
    let incident = Incident::gather(incident(), &log.entries).unwrap();
    let others = briefs(&log.entries);
    show(&Page {
        incident: &incident,
        others: &others,
        may: May { thaw: may_act, kill: may_act },
        blocked: false,
        zone: &TimeZone::UTC,
        paint: Paint::plain(),
    })
}

fn shown(log: &Log) -> String {
    with(log, true, |page| page.full())
}

fn screen(log: &Log) -> String {
    with(log, true, |page| page.screen())
}

#[test]
fn one_screen_shows_what_why_state_and_what_next() {
    let mut log = contained();
    // A later incident of the run, and many zero-valued signals in the evidence.
    let mut later = decision(2, 80_000_000, asked("no longer needed"), vec![Action::Kill], vec![]);
    if let Record::Decision { decision, .. } = &mut later {
        decision.incident.n = 2;
    }
    log.add(80_000_000, later);
    let page = screen(&log);
    insta::assert_snapshot!(page);
    assert!(page.lines().count() <= 30, "more than one screen");
    assert!(!page.contains("metric.loss"), "signals are for --full");
}

#[test]
fn the_owner_that_became_known_after_the_start_is_on_the_page() {
    let mut log = Log::started_for(u32::MAX);
    log.add(5_000_040, violation());
    assert!(screen(&log).contains("of user unknown\n") && shown(&log).contains("user      unknown"), "{}", shown(&log));
    log.add(6_000_000, Record::RunOwner { run: run_id(), owner_uid: 65_534, by: OwnerBy::Processes });
    assert!(screen(&log).contains("of user 65534\n"), "{}", screen(&log));
    assert!(shown(&log).contains("user      65534"), "{}", shown(&log));
}

/// A decision of failsafed itself, with what the policy has about it and the cause in words.
fn of_failsafed(what: Upkeep, words: &str, values: Vec<Observation>) -> Record {
    let mut record = decision(1, 5_000_000, Cause::Upkeep { what }, vec![Action::Freeze], values);
    if let Record::Decision { rule, blind, .. } = &mut record {
        *rule = Some(RuleText {
            rationale: "The policy has on_x = \"freeze\": it is frozen.".into(),
            owner: "on-call@example.org".into(),
            playbook: Some("docs/playbooks/sensor-blind.md".into()),
            policy: "train v1".into(),
            effect: Effect::Observe,
        });
        *blind = Some(words.into());
    }
    record
}

#[test]
fn a_decision_of_failsafed_itself_names_policy_why_owner_and_playbook() {
    let mut log = Log::started();
    log.add(5_000_040, of_failsafed(Upkeep::Blind, "no value of metric.loss", vec![]));
    let page = screen(&log);
    for part in [
        "a sensor that the policy needs went blind: no",
        "value of metric.loss.",
        "The policy has on_x = \"freeze\": it is frozen.",
        "owner on-call@example.org, severity critical, confidence high, policy train v1",
        "docs/playbooks/sensor-blind.md",
        "the playbook: read it first",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = shown(&log);
    assert!(page.contains("Why failsafed decided this") && !page.contains("rule's playbook"), "{page}");
    assert!(page.contains("The owner of policy train v1 is on-call@example.org."), "{page}");
}

#[test]
fn a_held_restart_is_explained_with_all_its_differences_each_once() {
    let event = |path: &str| Event::Drift {
        path: path.into(),
        old: Some("1".into()),
        new: Some("2".into()),
        class: FactorClass::Result,
        since: DriftSince::Predecessor,
    };
    let seen = Observation {
        seq: 9,
        at: MonoTime(5_000_000_000),
        subject: Subject::Run(run_id()),
        kind: Kind::Event,
        value: Value::Event(event("run/command")),
        repeats: 0,
    };
    let words = format!("{}; {}", event("run/command"), event("run/env/OMP_NUM_THREADS"));
    let mut log = Log::started();
    log.add(5_000_040, of_failsafed(Upkeep::Drift, &words, vec![seen]));
    let page = screen(&log);
    let times = |what: &str| page.matches(what).count();
    assert_eq!((times("run/command is"), times("run/env/OMP_NUM_THREADS is")), (1, 1), "{page}");
}

#[test]
fn one_screen_is_enough_for_much() {
    let mut log = Log::started();
    let mut record = violation();
    if let Record::Decision { decision, rule, .. } = &mut record {
        let seen = decision.values[0].clone();
        decision.values = vec![seen; 40];
        rule.as_mut().unwrap().rationale = "because of this ".repeat(200);
    }
    log.add(5_000_040, record);
    for n in 2..40 {
        log.add(6_000_000 * u64::from(n), decision(n, 6_000_000, asked("again"), vec![Action::Freeze], vec![]));
    }
    for n in 40..60 {
        let mut record = decision(n, 300_000_000, asked("again"), vec![Action::Freeze], vec![]);
        if let Record::Decision { decision, .. } = &mut record {
            decision.incident.n = n;
        }
        log.add(300_000_000 + u64::from(n), record);
    }
    let page = screen(&log);
    assert!(page.lines().count() <= 40, "{page}");
    assert!(page.contains("and 38 more values") && page.contains("36 decisions in between"), "{page}");
    assert!(page.contains("and 18 incidents later"), "{page}");
}

#[test]
fn what_is_not_proved_is_on_one_line() {
    let mut log = Log::started();
    let missing = "GPU-5afe0000-0000-4000-8000-000000000000: no sample since the freeze shows it idle";
    log.add(5_000_040, violation());
    log.add(5_000_120, outcome(1, 5_000_090, Action::Block, Verdict::Proved, &[]));
    log.add(5_000_200, outcome(1, 5_000_190, Action::Freeze, Verdict::Partial(vec![missing.into()]), &[]));
    assert!(screen(&log).contains(missing), "{}", screen(&log));
}

#[test]
fn advice_is_what_the_reader_may_do() {
    let owner = with(&contained(), false, |page| page.screen());
    let ask = "ask root or the administrators' group to thaw or kill it";
    assert!(
        owner.contains(ask) && !owner.contains("failsafectl kill") && !owner.contains("failsafectl thaw"),
        "{owner}"
    );
    let admin = screen(&contained());
    assert!(admin.contains("\n  failsafectl thaw") && !admin.contains("ask root"), "{admin}");
}

#[test]
fn a_contained_violation() {
    insta::assert_snapshot!(shown(&contained()));
}

#[test]
fn a_containment_that_is_not_proved() {
    let mut log = Log::started();
    let missing = vec!["pid 4242 (nvme-wait) is in uninterruptible sleep".to_owned()];
    log.add(5_000_040, violation())
        .add(5_000_120, outcome(1, 5_000_090, Action::Block, Verdict::Failed("map update: ENOMEM".into()), &[]))
        .add(
            7_000_300,
            outcome(1, 7_000_200, Action::Freeze, Verdict::Partial(missing), &[("cgroup.events frozen", "0")]),
        );
    insta::assert_snapshot!(shown(&log));
}

#[test]
fn an_operators_freeze_and_thaw() {
    let mut log = Log::started();
    let because = |log: &mut Log, n, us, seq, command, reason: &str, actions| {
        log.add(us, control(us, seq, command, reason));
        let mut record = decision(n, us, asked(reason), actions, vec![]);
        if let Record::Decision { decision, .. } = &mut record {
            decision.because = vec![seq];
        }
        log.add(us + 20, record);
    };
    because(&mut log, 1, 5_000_000, 31, Command::Freeze, "looks wrong", vec![Action::Freeze, Action::Notify]);
    log.add(5_000_200, outcome(1, 5_000_150, Action::Freeze, Verdict::Proved, &[("cgroup.events frozen", "1")]));
    because(&mut log, 2, 65_000_000, 99, Command::Thaw, "was a false alarm", vec![Action::Thaw, Action::Notify]);
    log.add(65_000_200, outcome(2, 65_000_150, Action::Thaw, Verdict::Proved, &[("cgroup.events frozen", "0")]));
    log.add(
        90_000_000,
        Record::RunEnded {
            run: crate::testing::run_id(),
            name: "trainer".into(),
            recording: None,
            suppressed: Vec::new(),
            unwatched: None,
            frozen_ns: None,
        },
    );
    insta::assert_snapshot!(shown(&log));
}

#[test]
fn failsafes_own_upkeep_without_an_outcome() {
    let mut log = Log::started();
    let cause = Cause::Upkeep { what: Upkeep::ForeignThaw };
    log.add(5_000_040, decision(1, 5_000_000, cause, vec![Action::Freeze, Action::Notify], vec![]));
    let page = shown(&log);
    assert!(page.contains("was to be frozen by failsafed itself: somebody else thawed the contained run."), "{page}");
    assert!(page.contains("NOT KNOWN: the log has no outcome of freeze yet."), "{page}");
    assert!(page.contains("no outcome in the log: it is unknown whether the action was completed"), "{page}");
    assert!(page.contains(&format!("failsafectl freeze {RUN} --reason TEXT")), "{page}");
    assert!(!page.contains("Why this rule exists"), "{page}");
}

#[test]
fn a_freeze_for_blindness_names_what_was_not_seen() {
    let mut log = Log::started();
    let cause = Cause::Upkeep { what: Upkeep::Blind };
    let mut record = decision(1, 5_000_000, cause, vec![Action::Freeze, Action::Notify], vec![]);
    if let Record::Decision { blind, .. } = &mut record {
        *blind = Some("ebpf sensor: the ring was full (12 events lost)".into());
    }
    log.add(5_000_040, record);
    for page in [shown(&log), screen(&log)] {
        let page: Vec<&str> = page.split_whitespace().collect();
        let page = page.join(" ");
        assert!(page.contains("a sensor that the policy needs went blind: ebpf sensor: the ring was full"), "{page}");
        assert!(page.contains("(12 events lost)."), "{page}");
    }
}

#[test]
fn a_rule_that_only_observes() {
    let mut log = Log::started();
    let mut record = violation();
    if let Record::Decision { decision, .. } = &mut record {
        decision.mode = Mode::Observe;
    }
    log.add(5_000_040, record);
    let page = shown(&log);
    assert!(page.contains("would have been cut off from the network and frozen"), "{page}");
    assert!(page.contains("Nothing was done: it was only observed."), "{page}");
    assert!(!page.contains("What these actions do not reach"), "{page}");
    assert!(!page.contains("failsafectl thaw"), "{page}");
}

#[test]
fn a_later_proof_mends_a_failure() {
    let mut log = Log::started();
    log.add(5_000_040, violation());
    log.add(5_000_100, outcome(1, 5_000_090, Action::Block, Verdict::Proved, &[]));
    log.add(5_000_200, outcome(1, 5_000_190, Action::Freeze, Verdict::Failed("EBUSY".into()), &[]));
    let gather = |log: &Log| Incident::gather(incident(), &log.entries).unwrap().standing;
    assert_eq!(gather(&log), IncidentState::Failed(vec!["freeze: EBUSY".into()]));
    let cause = Cause::Upkeep { what: Upkeep::Retry };
    log.add(5_000_300, decision(2, 5_000_190, cause, vec![Action::Freeze, Action::Notify], vec![]));
    assert_eq!(gather(&log), IncidentState::Pending(vec![Action::Freeze]));
    log.add(5_000_400, outcome(2, 5_000_390, Action::Freeze, Verdict::Proved, &[]));
    assert_eq!(gather(&log), IncidentState::Contained(vec![Action::Block, Action::Freeze]));
}

#[test]
fn no_page_carries_control_characters() {
    let page = shown(&contained());
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()), "{page:?}");
    assert!(page.contains("py\\u{1b}[2J"), "{page}");
}

#[test]
fn a_circle_of_parents_ends() {
    let mut log = Log::started();
    let mut evidence = crate::testing::evidence();
    if let Record::Evidence { snapshot, .. } = &mut evidence {
        for (i, process) in snapshot.processes.iter_mut().enumerate() {
            process.ppid = [4243, 4242, 4243, 4244, 4300][i];
        }
        snapshot.complete = false;
        snapshot.signals.retain(|s| s.kind != Kind::EgressBytes);
    }
    log.add(5_000_040, violation()).add(5_000_100, evidence);
    let page = shown(&log);
    for pid in [4200, 4242, 4243, 4244, 4300] {
        assert_eq!(page.matches(&format!("{pid} ")).count().min(1), 1, "{pid}\n{page}");
    }
    assert!(page.contains("there were more"), "{page}");
}

#[test]
fn json_has_the_entries_as_the_log_has_them() {
    let log = contained();
    let value = crate::render::json::incident(&Incident::gather(incident(), &log.entries).unwrap());
    assert_eq!(value["standing"], "contained");
    assert_eq!(value["standing_detail"], serde_json::json!(["block", "freeze"]));
    assert_eq!(value["entries"].as_array().unwrap().len(), 4);
    let entry: serde_json::Value = serde_json::from_slice(&log.entries[1].bytes).unwrap();
    assert_eq!(value["entries"][0], entry);
    assert_eq!(value["at_ns"], crate::testing::EPOCH + 5_000_000_000);
}

/// A rule's decision with these actions on this value.
fn tripped(actions: Vec<Action>, kind: Kind, value: failsafe_core::Value, condition: &str) -> Record {
    let mut record = violation();
    if let Record::Decision { decision, .. } = &mut record {
        decision.actions = actions;
        (decision.values[0].kind, decision.values[0].value) = (kind, value);
        if let Cause::Rule { condition: text, .. } = &mut decision.cause {
            condition.clone_into(text);
        }
    }
    record
}

#[test]
fn a_cordon_is_shown_with_its_outcome_and_with_what_undoes_it() {
    let value = failsafe_core::Value::Integer(7);
    for (verdict, says) in [
        (Some(Verdict::Proved), "The node was cordoned: no new run is started there."),
        (Some(Verdict::Failed("disk".into())), "CORDON FAILED: cordon-node: disk."),
        (None, "NOT KNOWN: the log has no outcome of cordon-node yet."),
    ] {
        let mut log = Log::started();
        let actions = vec![Action::CordonNode, Action::Notify];
        log.add(5_000_040, tripped(actions, Kind::Memory, value.clone(), "memory.used above 1 MiB"));
        if let Some(verdict) = verdict {
            log.add(5_000_100, outcome(1, 5_000_090, Action::CordonNode, verdict, &[]));
        }
        for page in [screen(&log), shown(&log)] {
            assert!(page.contains(says), "{says}\n{page}");
            assert!(page.contains("failsafectl node uncordon --reason TEXT"), "{page}");
            assert!(page.contains("Run trainer was reported and the node cordoned"), "{page}");
            assert!(!page.contains("people were notified"), "{page}");
        }
    }
}

#[test]
fn a_thaw_that_does_not_last_or_disarms_the_rule_is_marked() {
    let contain = |record: Record| {
        let mut log = Log::started();
        log.add(5_000_040, record);
        log.add(5_000_200, outcome(1, 5_000_190, Action::Freeze, Verdict::Proved, &[]));
        screen(&log)
    };
    let freeze = || vec![Action::Freeze, Action::Notify];
    let sent = |condition| contain(tripped(freeze(), Kind::EgressBytes, failsafe_core::Value::Integer(9), condition));
    let total = sent("net.egress_bytes above 5 B");
    assert!(total.contains("WITHOUT THE RULE") && total.contains("net.egress_bytes never falls"), "{total}");
    let rate = sent("net.egress_bytes/s above 5 B/s");
    assert!(rate.contains("let the run continue") && !rate.contains("never falls"), "{rate}");
    let event = failsafe_core::event::Event::Budget {
        budget: "store".into(),
        address: [10, 0, 0, 1].into(),
        bytes: 1 << 20,
        verdict: failsafe_core::event::Verdict::Denied,
    };
    let spent = contain(tripped(freeze(), Kind::Event, failsafe_core::Value::Event(event), "event budget"));
    assert!(spent.contains("The budget `store` stays used up after a thaw"), "{spent}");
    assert!(spent.contains("read it first"), "{spent}");
}

#[test]
fn a_call_that_the_kernel_could_not_deny_is_shown_as_succeeded() {
    use failsafe_core::{
        event::{Assurance, Event, ExecKind, Verdict as Did},
        policy::Effect,
    };
    let page = |effect, verdict, assurance| {
        let event = Event::Exec {
            kind: ExecKind::File,
            path: "/usr/bin/curl".into(),
            known_as: Vec::new(),
            argv: "curl x".into(),
            verdict,
            assurance,
        };
        let mut record = tripped(vec![Action::Notify], Kind::Event, failsafe_core::Value::Event(event), "event exec");
        if let Record::Decision { rule: Some(rule), .. } = &mut record {
            rule.effect = effect;
        }
        let mut log = Log::started();
        log.add(5_000_040, record);
        screen(&log)
    };
    let sure = Assurance::Observed;
    let succeeded = "THE CALL SUCCEEDED: this kernel cannot deny it (exec";
    assert!(page(Effect::Deny, Did::Allowed, sure).contains(succeeded));
    assert!(page(Effect::Deny, Did::WouldDeny, sure).contains(succeeded));
    assert!(!page(Effect::Deny, Did::Denied, sure).contains("SUCCEEDED"));
    assert!(!page(Effect::Observe, Did::Allowed, sure).contains("SUCCEEDED"));
    // What is seen at its entry can still fail: no such file, no permission, a device that a program on the cgroup refuses.
    let entry = page(Effect::Deny, Did::WouldDeny, Assurance::ObservedUnreliable);
    assert!(entry.contains("NOT DENIED AT ITS ENTRY; WHETHER THE CALL SUCCEEDED IS NOT KNOWN: this kernel"), "{entry}");
    assert!(!entry.contains(succeeded));
}

#[test]
fn whether_a_network_call_that_was_not_denied_succeeded_is_not_known() {
    let mut log = Log::started();
    let mut record = violation();
    if let Record::Decision { decision, .. } = &mut record {
        decision.mode = failsafe_core::Mode::Observe;
        for seen in &mut decision.values {
            if let failsafe_core::Value::Event(failsafe_core::event::Event::Net { verdict, .. }) = &mut seen.value {
                *verdict = failsafe_core::event::Verdict::WouldDeny;
            }
        }
    }
    log.add(5_000_040, record);
    let page = screen(&log);
    let expected = "NOT DENIED; WHETHER THE CALL SUCCEEDED IS NOT KNOWN: it was only observed (connect to";
    assert!(page.contains(expected), "{page}");
}

#[test]
fn the_latch_of_a_stop_rule_is_a_part_of_the_state() {
    let mut log = Log::started();
    let mut record = violation();
    if let Record::Decision { decision, .. } = &mut record {
        decision.actions = vec![Action::Freeze, Action::Notify];
    }
    log.add(5_000_040, record);
    log.add(5_000_200, outcome(1, 5_000_190, Action::Freeze, Verdict::Proved, &[]));
    let page = |blocked| with(&log, true, |page| Page { blocked, ..*page }.screen());
    assert!(page(true).contains("In force and verified: freeze."), "{}", page(true));
    assert!(page(true).contains("also blocked in the kernel by the latch of a stop rule"), "{}", page(true));
    assert!(!page(false).contains("latch of a stop rule"));
}
