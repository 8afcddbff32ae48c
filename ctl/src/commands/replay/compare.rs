//! How the decisions of a replay compare with those recorded.

use super::{audit::Audit, recording::Recording};
use crate::{
    exit::Exit,
    render::{clean, event, time},
};
use failsafe_core::{
    decision::{Action, Cause, Decision, Mode},
    replay::{Change, ENGINE, Replay, changes_since},
    time::MonoTime,
};
use failsafe_journal::RecordingEnd;
use serde_json::{Value, json};
use std::fmt::Write;

/// Under which policy the replay was.
#[derive(Debug)]
pub(super) enum What {
    /// The recorded one: decisions have to be the same bit for bit.
    Same,
    /// Another: decisions are compared by cause, actions and time.
    Other { file: String, digest: String },
}

/// What is reported.
#[derive(Debug)]
pub(super) struct Report {
    what: What,
    run_id: String,
    run_name: String,
    policy: String,
    began: MonoTime,
    end: RecordingEnd,
    left_out: bool,
    replay: Replay,
    differs_at: Option<usize>,
    /// The engine that decided.
    engine: u32,
    /// What this engine decides otherwise than that one, as far as it concerns the run.
    changes: Vec<&'static Change>,
    audit: Audit,
}

impl Report {
    pub(super) fn new(what: What, recording: &Recording, replay: Replay, audit: Audit) -> Report {
        let differs_at = match what {
            What::Same => replay.differs_at,
            What::Other { .. } => first_difference(&replay),
        };
        let run = recording.run();
        let changes = match what {
            What::Same => changes_since(recording.engine(), run, recording.policy()),
            What::Other { .. } => Vec::new(),
        };
        Report {
            what,
            run_id: run.id.to_string(),
            run_name: clean(&run.name),
            policy: run.policy.to_string(),
            began: run.registered,
            end: recording.end(),
            left_out: recording.left_out(),
            replay,
            differs_at,
            engine: recording.engine(),
            changes,
            audit,
        }
    }

    /// Whether an earlier engine may have decided otherwise from the same inputs.
    fn explained(&self) -> bool {
        self.engine > ENGINE || !self.changes.is_empty()
    }

    pub(super) fn exit(&self) -> Exit {
        match (self.differs_at, &self.end) {
            _ if !self.audit.problems.is_empty() => Exit::Tampered,
            (Some(_), _) if self.explained() => Exit::Partial,
            (Some(_), _) => Exit::Error,
            (None, _) if self.audit.missing => Exit::Partial,
            (None, RecordingEnd::Finished | RecordingEnd::Open) => Exit::Done,
            (None, _) => Exit::Partial,
        }
    }

    pub(super) fn text(&self) -> String {
        let Replay { inputs, recorded, replayed, .. } = &self.replay;
        let left_out = if self.left_out { "; the last is left out, its decisions may be missing" } else { "" };
        let mut out = format!(
            "run        {} {}\npolicy     {}\nrecording  {}\ninputs     {inputs}{left_out}\ndecisions  {} recorded, {} {}\n",
            self.run_name,
            self.run_id,
            self.policy,
            self.end_text(),
            recorded.len(),
            replayed.len(),
            if matches!(self.what, What::Same) { "replayed" } else { "under the other policy" },
        );
        if let What::Other { file, digest } = &self.what {
            let _ = writeln!(out, "other      {} {digest}", clean(file));
        }
        let _ = writeln!(out, "audit log  {}", self.audit.text());
        out.push('\n');
        self.problems(&mut out);
        match (&self.what, self.differs_at) {
            (What::Same, None) if !self.audit.problems.is_empty() => {
                out.push_str("the replay gives the decisions that are in the recording\n");
            }
            (What::Same, None) => out.push_str("identical\n"),
            (What::Same, Some(at)) => {
                let _ = writeln!(out, "DIFFERS at decision {}", at + 1);
                for (name, list) in [("recorded", recorded), ("replayed", replayed)] {
                    let text = list.get(at).map_or_else(|| "nothing more".to_owned(), |d| self.line(d));
                    let _ = writeln!(out, "  {name}  {text}");
                }
                if let (Some(a), Some(b)) = (recorded.get(at), replayed.get(at)) {
                    let _ = writeln!(out, "  in        {}", fields(a, b).join(", "));
                }
                self.engines(&mut out);
            }
            (What::Other { .. }, differs) => {
                out.push_str(match differs {
                    None => "the same decisions\n",
                    Some(_) => "other decisions (- recorded only, + under the other policy only):\n",
                });
                self.both(&mut out);
                if differs.is_some() {
                    out.push_str(
                        "after the first difference, the inputs are those of the run as it was really contained\n",
                    );
                }
            }
        }
        out
    }

    /// Why another engine decided otherwise.
    fn engines(&self, out: &mut String) {
        let decided = self.engine;
        if decided == ENGINE {
            return;
        }
        let _ = writeln!(out, "\nengine {decided} made the recorded decisions, this program has engine {ENGINE}");
        if decided > ENGINE {
            out.push_str("use the failsafectl of the failsafed that wrote the recording; the difference is no sign of a change\n");
        } else if self.changes.is_empty() {
            out.push_str("no known change of the engine explains the difference\n");
        } else {
            out.push_str("these changes of the engine can explain the difference; it is no sign that the recording was changed:\n");
            for change in &self.changes {
                let _ = writeln!(out, "  engine {}: {}", change.engine, change.what);
            }
        }
    }

    fn problems(&self, out: &mut String) {
        if self.audit.problems.is_empty() {
            return;
        }
        out.push_str("THE RECORDING DOES NOT MATCH THE AUDIT LOG:\n");
        for problem in &self.audit.problems {
            let _ = writeln!(out, "  {}", clean(problem));
        }
        out.push_str(
            "  keep both, compare them with copies made earlier, and check the log with `failsafectl log verify`\n\n",
        );
    }

    pub(super) fn json(&self) -> Value {
        let other = match &self.what {
            What::Same => Value::Null,
            What::Other { file, digest } => json!({ "file": file, "digest": digest }),
        };
        let (end, detail) = match &self.end {
            RecordingEnd::Finished => ("finished", Value::Null),
            RecordingEnd::Open => ("open", Value::Null),
            RecordingEnd::Stopped(stopped) => ("stopped", json!(stopped)),
            RecordingEnd::Torn { offset, bytes } => ("torn", json!({ "offset": offset, "bytes": bytes })),
            RecordingEnd::Damaged => ("damaged", Value::Null),
        };
        json!({
            "run_id": self.run_id,
            "run_name": self.run_name,
            "policy_digest": self.policy,
            "other_policy": other,
            "recording_end": end,
            "recording_end_detail": detail,
            "last_input_left_out": self.left_out,
            "inputs": self.replay.inputs,
            "identical": self.differs_at.is_none(),
            "differs_at": self.differs_at,
            "engine": self.engine,
            "engine_changes": self.changes.iter().map(|change| change.what).collect::<Vec<_>>(),
            "audit_log": self.audit.json(),
            "recorded": self.replay.recorded,
            "replayed": self.replay.replayed,
        })
    }

    fn end_text(&self) -> String {
        match &self.end {
            RecordingEnd::Finished => "complete".to_owned(),
            RecordingEnd::Open => "open: the run still lives, or the daemon ended without finishing it".to_owned(),
            RecordingEnd::Stopped(stopped) => {
                format!("TRUNCATED after {} entries: {:?}", stopped.frames, stopped.reason)
            }
            RecordingEnd::Torn { offset, bytes } => {
                format!("INCOMPLETE: the last {bytes} bytes, from byte {offset}, are not a complete entry")
            }
            RecordingEnd::Damaged => "DAMAGED".to_owned(),
        }
    }

    fn line(&self, decision: &Decision) -> String {
        let would = if decision.mode == Mode::Observe { "would " } else { "" };
        let at = time::delta(i128::from(decision.at.0) - i128::from(self.began.0));
        let (actions, because) = (event::actions(&decision.actions), event::because(decision));
        clean(&format!("{at}  {would}{actions} because {because}"))
    }

    /// Both lists as one, by time: what is in both, in the recording only, under the other policy only.
    fn both(&self, out: &mut String) {
        let (mut old, mut new) = (self.replay.recorded.iter().peekable(), self.replay.replayed.iter().peekable());
        loop {
            let (mark, decision) = match (old.peek(), new.peek()) {
                (Some(a), Some(b)) if key(a) == key(b) => {
                    new.next();
                    (' ', old.next())
                }
                (Some(a), Some(b)) if b.at < a.at => ('+', new.next()),
                (Some(_), _) => ('-', old.next()),
                (None, Some(_)) => ('+', new.next()),
                (None, None) => break,
            };
            if let Some(decision) = decision {
                let _ = writeln!(out, "{mark} {}", self.line(decision));
            }
        }
    }
}

/// What counts when policies differ: when, why, what, and whether it is carried out.
fn key(decision: &Decision) -> (MonoTime, String, &[Action], Mode) {
    let why = match &decision.cause {
        Cause::Rule { rule, .. } => format!("rule {rule}"),
        Cause::Operator { uid, reason, .. } => format!("operator {uid} {reason}"),
        Cause::Upkeep { what } => format!("upkeep {what}"),
    };
    (decision.at, why, &decision.actions, decision.mode)
}

fn first_difference(replay: &Replay) -> Option<usize> {
    let Replay { recorded, replayed, .. } = replay;
    let same = recorded.iter().zip(replayed).take_while(|(a, b)| key(a) == key(b)).count();
    (same < recorded.len() || same < replayed.len()).then_some(same)
}

fn fields(a: &Decision, b: &Decision) -> Vec<&'static str> {
    [
        ("id", a.id != b.id),
        ("incident", a.incident != b.incident),
        ("time", a.at != b.at),
        ("cause", a.cause != b.cause),
        ("actions", a.actions != b.actions),
        ("inputs", a.because != b.because),
        ("values", a.values != b.values),
        ("confidence", a.confidence != b.confidence),
        ("severity", a.severity != b.severity),
        ("mode", a.mode != b.mode),
        ("policy digest", a.policy != b.policy),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}
