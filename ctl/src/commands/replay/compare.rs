//! How the decisions of a replay compare with those recorded.

mod summary;

use super::{
    audit::Audit,
    found::Lost,
    replayed::{Replayed, end_json, end_text},
    verdicts::Counts,
};
use crate::{
    exit::Exit,
    render::{clean, decision, time},
};
use failsafe_core::{
    decision::{Action, Cause, Decision, Mode},
    input::Run,
    replay::{ENGINE, Replay},
    time::MonoTime,
};
use failsafe_journal::RecordingEnd;
use serde_json::{Value, json};
use std::fmt::Write;

/// Decisions without cover that the text names.
const SHOWN: usize = 20;

/// Under which policy the replay was.
#[derive(Debug)]
pub(super) enum What {
    /// The recorded one: decisions have to be the same bit for bit.
    Same,
    /// Another: decisions are compared by cause, actions and time.
    Other { file: String, digest: String },
}

/// The result of a replay.
#[derive(Debug)]
pub(in crate::commands) struct Report {
    what: What,
    /// Of another policy.
    verdicts: Option<Counts>,
    run_id: String,
    run_name: String,
    policy: String,
    began: MonoTime,
    /// In order; at least one.
    recordings: Vec<Replayed>,
    lost: Vec<Lost>,
    /// Whether these are meant to be all recordings of the run.
    all: bool,
    /// All recordings together.
    replay: Replay,
    differs_at: Option<usize>,
    /// The recording of the first difference.
    differs_in: Option<usize>,
    problems: Vec<String>,
    not_covered: Vec<String>,
    audit: Audit,
}

impl Report {
    pub(super) fn new(
        (what, verdicts): (What, Option<Counts>),
        run: &Run,
        found: (Vec<Replayed>, Vec<Lost>, bool),
        audit: Audit,
    ) -> Report {
        let (recordings, lost, all) = found;
        let mut replay = Replay { inputs: 0, recorded: Vec::new(), replayed: Vec::new(), differs_at: None };
        let mut differs_in = None;
        for (at, one) in recordings.iter().enumerate() {
            if let (Some(differs), None) = (one.replay.differs_at, differs_in) {
                // Before the first difference, both lists have the same length.
                replay.differs_at = Some(replay.recorded.len() + differs);
                differs_in = Some(at);
            }
            replay.inputs += one.replay.inputs;
            replay.recorded.extend_from_slice(&one.replay.recorded);
            replay.replayed.extend_from_slice(&one.replay.replayed);
        }
        let differs_at = match what {
            What::Same => replay.differs_at,
            What::Other { .. } => first_difference(&replay),
        };
        let changed = lost.iter().filter(|lost| lost.exit == Exit::Tampered);
        let problems = changed.map(|lost| lost.why.clone()).chain(audit.problems.iter().cloned()).collect();
        let left_out = recordings.iter().filter_map(|one| Some((&one.name, one.left_out.as_deref()?)));
        let left_out = left_out.flat_map(|(name, decisions)| decisions.iter().map(move |n| (name, n)));
        let left_out = left_out.map(|(name, n)| {
            format!(
                "{name}: decision {n}, because the recording ends before it is certain that its input caused no other"
            )
        });
        let not_covered = audit.not_covered.iter().cloned().chain(left_out).collect();
        Report {
            what,
            verdicts,
            run_id: run.id.to_string(),
            run_name: clean(&run.name),
            policy: run.policy.to_string(),
            began: run.registered,
            recordings,
            lost,
            all,
            replay,
            differs_at,
            differs_in,
            problems,
            not_covered,
            audit,
        }
    }

    /// Whether a later look at a live run may show more.
    pub(super) fn is_behind(&self) -> bool {
        let last = self.recordings.last().and_then(|one| one.left_out.as_ref());
        self.audit.behind || last.is_some_and(|decisions| !decisions.is_empty())
    }

    /// Whether all that was decided is compared.
    fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.not_covered.is_empty() && !self.audit.missing
    }

    /// Whether an earlier engine may have decided otherwise from the same inputs, where decisions differ.
    fn explained(&self) -> bool {
        matches!(self.what, What::Same)
            && self.recordings.iter().filter(|one| one.replay.differs_at.is_some()).all(Replayed::explained)
    }

    pub(super) fn exit(&self) -> Exit {
        let ends = |one: &Replayed| matches!(one.end, RecordingEnd::Finished | RecordingEnd::Open);
        match self.differs_at {
            _ if !self.problems.is_empty() => Exit::Tampered,
            Some(_) if self.explained() => Exit::Partial,
            Some(_) => Exit::Error,
            None if !self.is_whole() || !self.recordings.iter().all(ends) => Exit::Partial,
            // The caller wants this log to be compared.
            None if self.audit.named && self.audit.skipped.is_some() => Exit::Partial,
            None => Exit::Done,
        }
    }

    pub(super) fn text(&self) -> String {
        let Replay { inputs, recorded, replayed, .. } = &self.replay;
        let mut out = format!("run        {} {}\npolicy     {}\n", self.run_name, self.run_id, self.policy);
        self.list(&mut out);
        let left_out = if self.recordings.iter().any(|one| one.left_out.is_some()) {
            "; the last is left out, its decisions may be missing"
        } else {
            ""
        };
        let _ = write!(
            out,
            "inputs     {inputs}{left_out}\ndecisions  {} recorded, {} {}\n",
            recorded.len(),
            replayed.len(),
            if matches!(self.what, What::Same) { "replayed" } else { "under the other policy" },
        );
        if let What::Other { file, digest } = &self.what {
            let _ = writeln!(out, "other      {} {digest}", clean(file));
        }
        out.push_str(&self.verdicts.as_ref().map(Counts::text).unwrap_or_default());
        let _ = writeln!(out, "audit log  {}", self.audit.text());
        out.push('\n');
        self.changed(&mut out);
        match (&self.what, self.differs_at) {
            (What::Same, None) if !self.problems.is_empty() => {
                out.push_str("the replay gives the decisions that are in the recording\n");
            }
            (What::Same, None) if self.is_whole() => out.push_str("identical\n"),
            (What::Same, None) => {
                out.push_str("identical as far as the recording goes; NOT ALL DECISIONS ARE COVERED\n")
            }
            (What::Same, Some(at)) => {
                let of = self.differs_in.and_then(|at| self.recordings.get(at)).filter(|_| self.has_several());
                let of = of.map(|one| format!(", in {}", clean(&one.name))).unwrap_or_default();
                let _ = writeln!(out, "DIFFERS at decision {}{of}", at + 1);
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
        self.uncovered(&mut out);
        out
    }

    fn has_several(&self) -> bool {
        self.recordings.len() + self.lost.len() > 1
    }

    /// The recordings, and how each ends.
    fn list(&self, out: &mut String) {
        if let ([one], false) = (self.recordings.as_slice(), self.has_several()) {
            let _ = writeln!(out, "recording  {}", end_text(&one.end));
            return;
        }
        let _ = writeln!(
            out,
            "recording  {} of {} recordings of the run",
            self.recordings.len(),
            self.recordings.len() + self.lost.len()
        );
        let read = self.recordings.iter().map(|one| (one.number, &one.name, end_text(&one.end)));
        let lost = self.lost.iter().map(|lost| (lost.number, &lost.name, format!("NOT READ: {}", lost.why)));
        let mut all: Vec<_> = read.chain(lost).collect();
        all.sort_by_key(|(number, ..)| number.unwrap_or(u32::MAX));
        for (_, name, text) in all {
            let _ = writeln!(out, "           {}  {}", clean(name), clean(&text));
        }
    }

    /// What no recording covers.
    fn uncovered(&self, out: &mut String) {
        if self.not_covered.is_empty() {
            return;
        }
        out.push_str("\nnot covered by the replay:\n");
        for text in self.not_covered.iter().take(SHOWN) {
            let _ = writeln!(out, "  {}", clean(text));
        }
        if self.not_covered.len() > SHOWN {
            let _ = writeln!(out, "  and {} more, see --json", self.not_covered.len() - SHOWN);
        }
        if !self.all {
            out.push_str(
                "to replay all recordings of a run, name the run, its folder, or a file that `export` wrote\n",
            );
        }
    }

    /// Why another engine decided otherwise.
    fn engines(&self, out: &mut String) {
        let Some(one) = self.differs_in.and_then(|at| self.recordings.get(at)) else { return };
        let decided = one.engine;
        if decided == ENGINE {
            return;
        }
        let _ = writeln!(out, "\nengine {decided} made the recorded decisions, this program has engine {ENGINE}");
        if decided > ENGINE {
            out.push_str("use the failsafectl of the failsafed that wrote the recording; the difference is no sign of a change\n");
        } else if one.changes.is_empty() {
            out.push_str("no known change of the engine explains the difference\n");
        } else {
            out.push_str("these changes of the engine can explain the difference; it is no sign that the recording was changed:\n");
            for change in &one.changes {
                let _ = writeln!(out, "  engine {}: {}", change.engine, change.what);
            }
        }
    }

    fn changed(&self, out: &mut String) {
        if self.problems.is_empty() {
            return;
        }
        out.push_str("THE RECORDING DOES NOT MATCH THE AUDIT LOG:\n");
        for problem in &self.problems {
            let _ = writeln!(out, "  {}", clean(problem));
        }
        out.push_str(
            "  keep both, compare them with copies made earlier, and check the log with `failsafectl log verify`\n\n",
        );
    }

    pub(in crate::commands) fn json(&self) -> Value {
        let other = match &self.what {
            What::Same => Value::Null,
            What::Other { file, digest } => json!({ "file": file, "digest": digest }),
        };
        let last = self.recordings.last();
        let (end, detail) = last.map_or(("damaged", Value::Null), |last| end_json(&last.end));
        // The recording of the first difference explains it; without a difference, the last one stands for all.
        let engine = self.differs_in.and_then(|at| self.recordings.get(at)).or(last);
        let lost = self.lost.iter().map(
            |lost| json!({ "name": lost.name, "number": lost.number, "problem": lost.why, "missing": lost.missing }),
        );
        let recordings: Vec<Value> = self.recordings.iter().map(Replayed::json).chain(lost).collect();
        json!({
            "run_id": self.run_id,
            "run_name": self.run_name,
            "policy_digest": self.policy,
            "other_policy": other,
            "verdicts": self.verdicts.as_ref().map(Counts::json),
            "recordings": recordings,
            "recording_end": end,
            "recording_end_detail": detail,
            "last_input_left_out": self.recordings.iter().any(|one| one.left_out.is_some()),
            "inputs": self.replay.inputs,
            "identical": self.differs_at.is_none() && self.is_whole(),
            "differs_at": self.differs_at,
            "not_covered": self.not_covered,
            "problems": self.problems,
            "engine": engine.map(|one| one.engine),
            "engine_changes": engine.map(|one| one.changes.iter().map(|change| change.what).collect::<Vec<_>>()),
            "audit_log": self.audit.json(),
            "recorded": self.replay.recorded,
            "replayed": self.replay.replayed,
        })
    }

    fn line(&self, decision: &Decision) -> String {
        let would = if decision.mode == Mode::Observe { "would " } else { "" };
        let at = time::delta(i128::from(decision.at.0) - i128::from(self.began.0));
        let (actions, because) = (decision::actions(&decision.actions), decision::because(decision));
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
        Cause::Operator(request) => format!("operator {} {}", request.actor, request.reason),
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
