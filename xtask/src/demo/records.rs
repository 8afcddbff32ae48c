//! The audit log as it grows: `failsafectl events --follow`, each record printed on the timeline when it comes.

use super::screen::Screen;
use crate::daemon::Daemon;
use crate::interrupt::wait_for;
use anyhow::{Context, Result, anyhow};
use failsafe_core::MonoTime;
use failsafe_core::decision::{Action, Cause, Decision, Outcome, Verdict};
use failsafe_core::record::Record;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

/// How long a record may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A subscription to the log.
pub struct Watch {
    child: Child,
    records: Receiver<(MonoTime, Record)>,
}

impl Watch {
    /// Subscribes, from the log's first entry on.
    ///
    /// # Errors
    /// `failsafectl` cannot be started.
    pub fn start(daemon: &Daemon) -> Result<Watch> {
        let mut command = daemon.ctl(["events", "--follow", "-o", "json"]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting `failsafectl events`")?;
        let out = child.stdout.take().context("the events' output")?;
        let (sender, records) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            // A record of a kind that this build does not know is not the demo's.
            for record in lines.filter_map(|line| parse(&line)) {
                if sender.send(record).is_err() {
                    break;
                }
            }
        });
        Ok(Watch { child, records })
    }

    /// Prints records until `wanted` finds what it looks for in one.
    ///
    /// # Errors
    /// It does not come in time, or the subscription ended.
    pub fn until<T>(&self, screen: &Screen, what: &str, mut wanted: impl FnMut(&Record) -> Option<T>) -> Result<T> {
        wait_for(what, PATIENCE, || match self.records.try_recv() {
            Ok((at, record)) => {
                show(screen, at, &record);
                Ok(wanted(&record))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(anyhow!("`failsafectl events --follow` ended")),
        })
    }

    /// Waits until the run of that name is registered.
    ///
    /// # Errors
    /// As [`until`](Self::until).
    pub fn started(&self, screen: &Screen, name: &str) -> Result<()> {
        self.until(screen, &format!("the registration of {name}"), |record| match record {
            Record::RunStarted { run, .. } => (run.name == name).then_some(()),
            _ => None,
        })
    }

    /// Waits until the run of that name has ended.
    ///
    /// # Errors
    /// As [`until`](Self::until).
    pub fn ended(&self, screen: &Screen, run: &str) -> Result<()> {
        self.until(screen, &format!("the end of {run}"), |record| match record {
            Record::RunEnded { name, .. } => (name == run).then_some(()),
            _ => None,
        })
    }

    /// Waits for the decision of `rule` to freeze a run.
    ///
    /// # Errors
    /// As [`until`](Self::until).
    pub fn freeze_by(&self, screen: &Screen, rules: &[&str]) -> Result<Decision> {
        self.until(screen, &format!("a freeze by rule {}", rules.join(" or ")), |record| match record {
            Record::Decision { decision, .. } => {
                let Cause::Rule { rule, .. } = &decision.cause else { return None };
                (rules.contains(&rule.as_str()) && decision.actions.contains(&Action::Freeze)).then(|| decision.clone())
            }
            _ => None,
        })
    }

    /// Waits for the outcomes of all that `decision` does to the run; returns that of `action`.
    ///
    /// # Errors
    /// As [`until`](Self::until), or `action` was not decided.
    pub fn outcomes(&self, screen: &Screen, decision: &Decision, action: Action) -> Result<Outcome> {
        let mut awaited = decision.actions.clone();
        let mut found = None;
        self.until(screen, &format!("the outcomes of {}", cause(decision)), |record| {
            if let Record::Outcome(outcome) = record
                && outcome.decision == decision.id
            {
                awaited.retain(|a| *a != outcome.action);
                if outcome.action == action {
                    found = Some(outcome.clone());
                }
            }
            awaited.is_empty().then_some(())
        })?;
        found.with_context(|| format!("{action} was not decided"))
    }

    /// Waits until `action` of `decision`, partial before, is proved.
    ///
    /// # Errors
    /// As [`until`](Self::until).
    pub fn proved(&self, screen: &Screen, decision: &Decision, action: Action) -> Result<()> {
        self.until(screen, &format!("the proof of {action}"), |record| match record {
            Record::Outcome(outcome) if outcome.decision == decision.id && outcome.action == action => {
                (outcome.verdict == Verdict::Proved).then_some(())
            }
            _ => None,
        })
    }

    /// Waits for the operator's own decision to do `action`, and for its outcomes.
    ///
    /// # Errors
    /// As [`until`](Self::until).
    pub fn operator(&self, screen: &Screen, action: Action) -> Result<Outcome> {
        let decision = self.until(screen, "the operator's decision", |record| match record {
            Record::Decision { decision, .. } => {
                let theirs = matches!(decision.cause, Cause::Operator(_)) && decision.actions.contains(&action);
                theirs.then(|| decision.clone())
            }
            _ => None,
        })?;
        self.outcomes(screen, &decision, action)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of `failsafectl events -o json`: the log's entry, whose body is the record.
fn parse(line: &str) -> Option<(MonoTime, Record)> {
    let mut entry: Value = serde_json::from_str(line).ok()?;
    let record = serde_json::from_value(entry["body"].take()).ok()?;
    Some((MonoTime(entry["mono_ns"].as_u64()?), record))
}

fn show(screen: &Screen, at: MonoTime, record: &Record) {
    match record {
        Record::Decision { decision, .. } => {
            let actions: Vec<String> = decision.actions.iter().map(Action::to_string).collect();
            screen.at(decision.at, format_args!("{} -> {}", cause(decision), actions.join(", ")));
        }
        Record::Outcome(outcome) => {
            let verdict = match &outcome.verdict {
                Verdict::Proved => "proved".to_owned(),
                Verdict::Partial(missing) => format!("PARTIAL: {}", missing.join("; ")),
                Verdict::Failed(why) => format!("FAILED: {why}"),
            };
            screen.at(outcome.at, format_args!("{}: {verdict}, {} after its cause", outcome.action, outcome.took));
        }
        Record::RunStarted { run, policy_name, .. } => {
            screen.at(run.registered, format_args!("run {} is registered, pinned to {policy_name}", run.name));
        }
        Record::RunEnded { name, .. } => screen.at(at, format_args!("run {name} has ended")),
        Record::Gap(gap) => {
            let state = if gap.blind { "is blind" } else { "reports" };
            screen.at(gap.at, format_args!("sensor {} {state}: {}", gap.source, gap.what));
        }
        _ => {}
    }
}

fn cause(decision: &Decision) -> String {
    match &decision.cause {
        Cause::Rule { rule, condition, .. } => {
            let seen: Vec<String> = decision.values.iter().map(|seen| seen.show()).collect();
            format!("rule {rule} ({condition}) saw {}", seen.join(", "))
        }
        Cause::Operator(request) => format!("operator, {}, because \"{}\"", request.actor, request.reason),
        Cause::Upkeep { what } => format!("upkeep of the containment: {what}"),
    }
}
