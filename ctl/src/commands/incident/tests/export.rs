//! What is exported from a state folder that lacks something, and where to.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_file_is_for_its_owner_and_never_replaced_without_being_asked() {
    let node = Node::new(LOSSES, Life::Ended);
    let exported = node.export();
    assert_eq!(fs::metadata(exported.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let again = node.export_to(&exported.file()).unwrap_err();
    assert!(again.message.contains("exists"), "{again}");
    // The same incident gives the same file, but for the time.
    let other = node.export();
    let without_time = |exported: &Exported| {
        let mut parts = exported.parts();
        parts.retain(|name, _| !matches!(name, Name::Manifest | Name::Sums));
        parts
    };
    assert_eq!(without_time(&exported), without_time(&other));
}

#[test]
fn the_file_of_a_run_that_lives_does_not_claim_that_the_recording_is_sealed() {
    let exported = Node::new(LOSSES, Life::Lives).export();
    assert_eq!(exported.exit, Exit::Done);
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::Proved, "{page}");
    assert!(page.contains("the log has no hash of it (the run lives)"), "{page}");
}

#[test]
fn what_is_missing_is_named_and_lowers_the_verdict() {
    let lacks = |change: &dyn Fn(&Node), expected: &str| {
        let node = Node::new(LOSSES, Life::Ended);
        change(&node);
        let exported = node.export();
        assert_eq!(exported.exit, Exit::Partial, "{expected}");
        let (verdict, page) = exported.verify(Some(&keys(1)));
        let is_checkpoint = expected.contains("checkpoint");
        assert_eq!(verdict, if is_checkpoint { Verdict::NotProved } else { Verdict::InPart }, "{page}");
        assert!(page.split_whitespace().collect::<Vec<_>>().join(" ").contains(expected), "{expected}: {page}");
    };
    lacks(&|node| fs::remove_file(node.recording()).unwrap(), "0000.fsrec is not in the file");
    lacks(&|node| fs::remove_file(node.path("log.checkpoint")).unwrap(), "there is no signed checkpoint");
    let without_policy = |node: &Node| {
        fs::remove_dir_all(node.path("policies")).unwrap();
        fs::remove_file(node.recording()).unwrap();
    };
    lacks(&without_policy, "policy it is not in the file");
    // The recording has the policy, too.
    let node = Node::new(LOSSES, Life::Ended);
    fs::remove_dir_all(node.path("policies")).unwrap();
    assert_eq!(node.export().exit, Exit::Done);
    // Entries behind the checkpoint.
    let node = Node::new(LOSSES, Life::Ended);
    let checkpoint = fs::read(node.path("log.checkpoint")).unwrap();
    let late = testing::control(1, 1, failsafe_core::input::Command::Thaw, "x");
    let late = [
        Record::RunEnded {
            run: testing::run_id(),
            name: "trainer".into(),
            recording: None,
            suppressed: Vec::new(),
            unwatched: None,
            frozen_ns: None,
        },
        late,
    ];
    node.log(&late, 1);
    fs::write(node.path("log.checkpoint"), checkpoint).unwrap();
    let exported = node.export();
    assert_eq!(exported.exit, Exit::Partial);
    let (_, page) = exported.verify(Some(&keys(1)));
    assert!(page.contains("1 entry without a proof"), "{page}");
}

#[test]
fn a_recording_that_was_changed_on_the_node_is_exported_as_what_it_is() {
    let node = Node::new(LOSSES, Life::Ended);
    fs::remove_file(node.recording()).unwrap();
    node.record(&lived(&[2.0, 13.0, 3.0]), Life::Ended);
    let exported = node.export();
    assert_eq!(exported.exit, Exit::Tampered);
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!(verdict, Verdict::NotValid, "{page}");
    assert!(page.contains("is not the one in the audit log"), "{page}");
}

#[test]
fn an_engine_that_is_newer_than_this_program_is_no_sign_of_a_change() {
    let node = Node::new(&[2.0, 12.0, 3.0], Life::Lives);
    let frames: Vec<Recorded> = lived(LOSSES);
    fs::remove_file(node.recording()).unwrap();
    let header = serde_json::json!({
        "format": "failsafe-recording", "version": 1, "engine": ENGINE + 1, "part": 0, "run": run(),
        "policy": parse("p", POLICY).unwrap(), "host": { "hostname": "n1" }
    });
    let mut recorder = Recorder::create(&node.recording(), &header, 1 << 20).unwrap();
    // An input that this engine would decide about.
    for frame in frames.iter().map(|frame| match frame {
        Recorded::Input(Input::Signal(signal)) if signal.seq == 1 => {
            Recorded::Input(Input::Signal(Signal { value: Value::Real(Real(11.0)), ..signal.clone() }))
        }
        other => other.clone(),
    }) {
        recorder.record(1, &frame).unwrap();
    }
    drop(recorder);
    let exported = node.export();
    let (verdict, page) = exported.verify(Some(&keys(1)));
    assert_eq!((verdict, exported.exit), (Verdict::InPart, Exit::Partial), "{page}");
    let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("the difference is no sign of a change") && !text.contains("NOT VALID"), "{page}");
}

#[test]
fn snapshots_are_left_out_first_where_an_incident_is_too_large() {
    let entries = testing::contained().entries;
    let id = testing::incident();
    let bytes: u64 = entries.iter().map(|entry| entry.bytes.len() as u64).sum();
    let within = |most, bytes| gather::within_limits(id, entries.clone(), most, bytes);
    assert_eq!(within(5, bytes).unwrap().1, [0_u64; 0]);
    for (most, bytes) in [(4, bytes), (5, bytes - 1)] {
        let (kept, left_out) = within(most, bytes).unwrap();
        assert_eq!((kept.len(), left_out), (4, vec![4]));
    }
    let fail = within(3, bytes).unwrap_err();
    assert!(fail.message.contains("4 entries beside its snapshots; a file can have 3 entries"), "{fail}");
}
