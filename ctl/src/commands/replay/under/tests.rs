//! Recorded runs under another policy.

use super::*;
use crate::commands::replay::tests::{LOSSES, POLICY, policy, recorded, write};
use failsafe_core::{
    GpuId, MonoTime, Signal, Subject, Value,
    event::{Event, Verdict},
    policy::parse::parse,
    signal::{Real, Source},
};

fn under(text: &str, losses: &[f64]) -> (Compared, String) {
    let (run, entries) = recorded(losses);
    let file = write(&run, &entries, true);
    let other = parse("new.toml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let (mut all, run) = of_file("recording", &file.path, &other, &ProgressBar::hidden()).unwrap();
    assert_eq!(all.len(), 1);
    let shown = replayed::text("new.toml", &other, &all, &[run]);
    (all.remove(0), shown)
}

fn bound(bound: &str) -> String {
    POLICY.replace("10.0", bound)
}

#[test]
fn the_same_rules_decide_the_same_and_everything_is_recorded() {
    let (one, shown) = under(&bound("11.0"), LOSSES);
    assert!(!one.differs() && one.is_whole(), "{shown}");
    assert!(shown.contains("1 recording: 2 same, 0 added, 0 removed, 0 earlier, 0 later; 0 not recorded"), "{shown}");
}

#[test]
fn decisions_are_added_removed_earlier_or_later() {
    let (one, shown) = under(&bound("14.0"), LOSSES);
    assert!(one.differs() && shown.contains("removed       +"), "{shown}");
    let (_, shown) = under(&bound("2.5"), &[1.0, 3.0, 12.0, 12.0]);
    assert!(shown.contains("earlier       +") && shown.contains("(-"), "{shown}");
    let (_, shown) = under(&bound("20.0"), &[1.0, 12.0, 30.0, 30.0]);
    assert!(shown.contains("later         +") && shown.contains("(+"), "{shown}");
    let renamed = bound("10.0").replace("\"diverged\"", "\"exploded\"");
    let (_, shown) = under(&renamed, LOSSES);
    assert!(shown.contains("added         +") && shown.contains("removed       +"), "{shown}");
}

#[test]
fn what_the_recording_does_not_contain_is_not_recorded_and_not_no_decision() {
    let more = "[[rule]]\nid = \"secrets\"\nrationale = \"x\"\nwhen = { event = \"open\", path = \"/etc/shadow\" }\nactions = [\"freeze\"]\n\
                [[rule]]\nid = \"kl\"\nrationale = \"x\"\nwhen = { signal = \"metric.kl\", above = 5 }\nactions = [\"notify\"]\n\
                [[rule]]\nid = \"flood\"\nrationale = \"x\"\nwhen = { signal = \"process.count\", above = 5 }\nactions = [\"notify\"]\n";
    let (one, shown) = under(&format!("{POLICY}{more}"), LOSSES);
    assert!(!one.is_whole());
    for line in [
        "rule secrets: event open, path = /etc/shadow: the recorded policy has no rule on such events, so they are not reported",
        "rule kl: metric.kl: the run did not report it",
        "rule flood: process.count: the recording has no value of it",
        "what is not recorded may have happened",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert!(!shown.contains("diverged: metric.loss"), "{shown}");
}

#[test]
fn a_recording_that_is_cut_off_does_not_answer_for_what_came_after() {
    let (run, entries) = recorded(LOSSES);
    let file = write(&run, &entries, false);
    let mut bytes = std::fs::read(&file.path).unwrap();
    bytes.truncate(bytes.len() - 3);
    std::fs::write(&file.path, bytes).unwrap();
    let other = policy("11.0");
    let (all, run) = of_file("recording", &file.path, &other, &ProgressBar::hidden()).unwrap();
    assert!(!all[0].is_whole());
    let value = replayed::json("new.toml", &other, &all, &[run]);
    assert_eq!((value["whole"].as_bool(), value["recordings"][0]["same"].as_u64()), (Some(false), Some(1)), "{value}");
}

/// A run that forks, judged by this policy.
fn forked(text: &str) -> (Compared, String) {
    let (run, mut entries) = recorded(LOSSES);
    let fork = |n: u64| {
        let (subject, kind, source) = (Subject::Run(run.id), Kind::Event, Source::Ebpf);
        let value = Value::Event(Event::Fork { child: 9, verdict: Verdict::Allowed });
        Recorded::Input(Input::Signal(Signal { seq: n, at: MonoTime(1), source, subject, kind, value, repeats: 0 }))
    };
    entries.splice(1..1, (100..103).map(fork));
    let file = write(&run, &entries, true);
    let other = parse("new.toml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let (mut all, run) = of_file("recording", &file.path, &other, &ProgressBar::hidden()).unwrap();
    let shown = replayed::text("new.toml", &other, &all, &[run]);
    (all.remove(0), shown)
}

#[test]
fn a_run_that_forks_is_recorded_whole_where_nothing_judges_its_forks_otherwise() {
    for text in [POLICY.to_owned(), bound("11.0")] {
        let (one, shown) = forked(&text);
        assert!(!one.differs() && one.is_whole(), "{shown}");
    }
    let more = |rest: &str| format!("{POLICY}{rest}");
    let rule = "[[rule]]\nid = \"forks\"\nrationale = \"x\"\nwhen = { event = \"fork\", verdict = \"denied\" }\nactions = [\"notify\"]\n";
    for text in [more("[limits]\nprocesses = 5\n"), more(rule)] {
        let (one, shown) = forked(&text);
        assert!(!one.is_whole() && shown.contains("3 verdicts, kept as recorded: fork"), "{shown}");
    }
}

/// A run with this many GPUs, judged by this policy: the text, and the JSON of what is computed.
fn computed(gpus: usize, text: &str, losses: &[f64]) -> (String, serde_json::Value) {
    let (mut run, mut entries) = recorded(losses);
    run.gpus = (0..gpus).map(|n| GpuId(format!("GPU-{n}"))).collect();
    if let Some(Recorded::Input(Input::RunStarted(started))) = entries.first_mut() {
        started.gpus.clone_from(&run.gpus);
    }
    let file = write(&run, &entries, true);
    let other = parse("new.toml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let (all, run) = of_file("recording", &file.path, &other, &ProgressBar::hidden()).unwrap();
    let runs = [run];
    let mut value = replayed::json("new.toml", &other, &all, &runs);
    (replayed::text("new.toml", &other, &all, &runs), value["compute"].take())
}

#[test]
fn a_stop_that_comes_earlier_or_later_saves_or_loses_gpu_seconds() {
    let (shown, value) = computed(2, &bound("2.5"), &[1.0, 3.0, 12.0, 12.0]);
    assert!(shown.contains("+2.000 s  stopped earlier by 1.000 s of 2 GPUs: 2.0 GPU-seconds\n"), "{shown}");
    assert!(shown.contains("compute: 2.0 GPU-seconds saved by earlier stops, 0.0 lost by later ones\n"), "{shown}");
    assert_eq!((value["saved_gpu_seconds"].as_f64(), value["lost_gpu_seconds"].as_f64()), (Some(2.0), Some(0.0)));
    let (shown, value) = computed(2, &bound("20.0"), &[1.0, 12.0, 30.0, 30.0]);
    assert!(shown.contains("+2.000 s  stopped later by 1.000 s of 2 GPUs: 2.0 GPU-seconds\n"), "{shown}");
    assert_eq!((value["saved_gpu_seconds"].as_f64(), value["lost_gpu_seconds"].as_f64()), (Some(0.0), Some(2.0)));
    let (shown, value) = computed(2, &bound("11.0"), LOSSES);
    assert!(shown.contains("compute: 0.0 GPU-seconds saved by earlier stops, 0.0 lost"), "{shown}");
    assert_eq!(value["runs"][0]["differences"].as_array().map(Vec::len), Some(0), "{value}");
}

#[test]
fn a_stop_of_one_policy_only_is_neither_saved_nor_lost() {
    let (shown, value) = computed(4, &bound("2.5"), &[1.0, 3.0, 4.0, 4.0]);
    let line = "+2.000 s  would have stopped 2.000 s of 4 GPUs, until the recording ends: 8.0 GPU-seconds\n";
    assert!(shown.contains(line), "{shown}");
    assert!(shown.contains("8.0 GPU-seconds stopped by the new policy only: saved if the stop is right"), "{shown}");
    let sums = ["saved", "lost", "added", "removed"].map(|name| value[format!("{name}_gpu_seconds")].as_f64());
    assert_eq!(sums, [Some(0.0), Some(0.0), Some(8.0), Some(0.0)], "{value}");
    assert_eq!(value["runs"][0]["differences"][0]["until"], "recording-ended");

    let notify = POLICY.replace("\"freeze\"", "\"notify\"");
    let (shown, value) = computed(4, &notify, &[1.0, 12.0, 12.0]);
    assert!(shown.contains("+2.000 s  would not have stopped 1.000 s of 4 GPUs, until the recording ends"), "{shown}");
    assert!(shown.contains("1 run would have gone on after the end of the recording"), "{shown}");
    assert_eq!(
        (value["removed_gpu_seconds"].as_f64(), value["runs_that_go_on_after_end"].as_u64()),
        (Some(4.0), Some(1))
    );
}

#[test]
fn a_run_without_gpus_has_seconds_and_no_gpu_seconds() {
    let (shown, value) = computed(0, &bound("2.5"), &[1.0, 3.0, 12.0, 12.0]);
    assert!(shown.contains("stopped earlier by 1.000 s of a run without GPUs: 0.0 GPU-seconds\n"), "{shown}");
    assert_eq!(value["runs"][0]["differences"][0]["seconds"].as_f64(), Some(1.0), "{value}");
}

#[test]
fn a_number_of_the_manifest_is_taken_from_the_recording_and_not_recorded_where_it_is_missing() {
    let text = POLICY.replace("above = 10.0", "above = { manifest = \"config.most\" }");
    let (one, shown) = under(&text, LOSSES);
    assert!(!one.is_whole());
    let line = "rule diverged: config.most of the run's manifest: the recording has no such number";
    assert!(shown.contains(line) && shown.contains("removed"), "{shown}");

    let (run, mut entries) = recorded(&[1.0, 12.0, 12.0]);
    let values = [("config.most".to_owned(), Real(10.0))].into();
    entries.insert(1, Recorded::Input(Input::Manifest { run: run.id, values, at: MonoTime(1) }));
    let file = write(&run, &entries, true);
    let other = parse("new.toml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let (all, run) = of_file("recording", &file.path, &other, &ProgressBar::hidden()).unwrap();
    let shown = replayed::text("new.toml", &other, &all, &[run]);
    assert!(!all[0].differs() && all[0].is_whole(), "the bound is the same 10: {shown}");
}
