//! `log consistency`: a checkpoint that the log extends, and each way in which it does not.

use crate::{
    log::State,
    support::{err, out},
};
use std::fs;

/// A log that grew behind `old`, with the proof in `proof`.
fn grown() -> State {
    let state = State::new("text", 40);
    state.ok("log checkpoint -o old");
    state.write("more", 40);
    state.ok("log checkpoint -o new");
    state
}

/// The exit code, and what was printed.
fn ends(state: &State, line: &str) -> (Option<i32>, String) {
    let output = state.ctl(line);
    (output.status.code(), format!("{}{}", out(&output), err(&output)))
}

#[test]
fn the_extension_of_a_checkpoint_is_proved_with_the_log_and_then_without_it() {
    let state = grown();
    let text = state.ok("log consistency old");
    assert!(text.contains("old: extended: ") && text.contains("use --keys FILE"), "{text}");
    let text = state.ok("log consistency old new --keys log.keys -o proof");
    assert!(text.contains("proof    proof, ") && !text.contains("use --keys FILE"), "{text}");
    assert!(state.fails("log consistency old -o proof").contains("exists"));
    let json: serde_json::Value = serde_json::from_str(&state.ok("log consistency old --json")).unwrap();
    assert_eq!(
        (json["verdict"].as_str(), json["old"]["entries"].as_u64() < json["new"]["entries"].as_u64()),
        (Some("extended"), true)
    );

    for folder in ["audit", "log.checkpoint", "head.json"] {
        fs::rename(state.path(folder), state.path(&format!("{folder}.gone"))).unwrap();
    }
    state.ok("log consistency old --proof proof");
    assert!(state.fails("log consistency old").contains("log.checkpoint"));
    assert!(state.fails("log consistency old new").contains("read the audit log"));
    // Every byte of the proof counts.
    let good = fs::read(state.path("proof")).unwrap();
    for at in (0..good.len()).step_by(23) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(state.path("bad"), bad).unwrap();
        assert_ne!(ends(&state, "log consistency old --proof bad").0, Some(0), "byte {at}");
    }
}

#[test]
fn a_fork_a_shortened_log_and_an_old_checkpoint_have_their_own_exit_codes() {
    let state = grown();
    // An old checkpoint that is presented as new: by its name, as the latest one, and in a proof.
    let stale = ends(&state, "log consistency new old");
    assert!(stale.0 == Some(27) && stale.1.contains("AN OLD CHECKPOINT IS PRESENTED AS NEW"), "{stale:?}");
    state.ok("log consistency old old -o same");
    let stale = ends(&state, "log consistency new --proof same");
    assert!(stale.0 == Some(27) && stale.1.contains("AN OLD CHECKPOINT IS PRESENTED AS NEW"), "{stale:?}");
    let latest = fs::read(state.path("log.checkpoint")).unwrap();
    fs::copy(state.path("old"), state.path("log.checkpoint")).unwrap();
    assert_eq!(ends(&state, "log consistency new").0, Some(27));
    fs::write(state.path("log.checkpoint"), latest).unwrap();

    // Entries at the end are missing.
    let log = state.path("audit/audit.log");
    let whole = fs::read(&log).unwrap();
    fs::write(&log, &whole[..whole.len() - 10]).unwrap();
    let short = ends(&state, "log consistency old");
    assert!(short.0 == Some(26) && short.1.contains("SHORTENED") && short.1.contains("newer checkpoint"), "{short:?}");
    let json: serde_json::Value = serde_json::from_str(&ends(&state, "log consistency old --json").1).unwrap();
    assert_eq!(json["verdict"], "shortened");
    fs::write(&log, whole).unwrap();

    // Another log under another origin, and another one under the same.
    let other = State::new("other", 60);
    fs::copy(other.path("log.checkpoint"), state.path("foreign")).unwrap();
    let forked = ends(&state, "log consistency foreign");
    assert!(forked.0 == Some(25) && forked.1.contains("ANOTHER LOG"), "{forked:?}");
    let fork = state.fork("old", 7);
    fs::write(state.path("forked"), fork).unwrap();
    let forked = ends(&state, "log consistency forked");
    assert!(forked.0 == Some(25) && forked.1.contains("NOT EXTENDED: FORKED"), "{forked:?}");
    state.ok("log consistency old new -o proof --force");
    let forked = ends(&state, "log consistency forked --proof proof");
    assert!(forked.0 == Some(25) && forked.1.contains("FORKED, OR THE PROOF WAS CHANGED"), "{forked:?}");

    // A checkpoint by nobody who is known is no finding about the log.
    fs::write(state.path("other.keys"), fs::read(other.path("log.keys")).unwrap()).unwrap();
    fs::write(state.path("bad"), fs::read_to_string(state.path("old")).unwrap().replacen("failsafe ", "failsafe A", 1))
        .unwrap();
    assert_eq!(ends(&state, "log consistency bad").0, Some(1));
    assert_eq!(ends(&state, "log consistency old --proof proof --keys nothing").0, Some(1));
    assert_eq!(ends(&state, "log consistency old new --proof proof").0, Some(2));
}
