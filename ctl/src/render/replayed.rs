//! The result of `policy replay`: decisions under another policy, beside those recorded.

mod compute;

pub use compute::OfRun;

use super::{clean, count, decision, time};
use failsafe_core::{
    MonoTime, Policy,
    decision::{Action, Cause, Decision, Mode},
    replay::Replay,
};
use serde_json::{Value, json as object};
use std::{collections::BTreeMap, fmt::Write};

/// Lines of one kind that the text shows for one recording.
const SHOWN: usize = 20;

/// What a recording cannot answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The rule of the other policy.
    pub rule: Option<String>,
    /// What is not recorded.
    pub what: String,
}

/// One recording under another policy.
pub struct Compared {
    file: String,
    run: String,
    id: String,
    policy: String,
    began: MonoTime,
    inputs: u64,
    same: usize,
    added: Vec<Decision>,
    removed: Vec<Decision>,
    /// The recorded one, and the same at another time.
    moved: Vec<(Decision, Decision)>,
    /// What the recording cannot answer.
    pub lacks: Vec<Lack>,
}

/// What makes two decisions the same, but for their time.
type Key = (String, Vec<Action>, Mode);

fn key(decision: &Decision) -> Key {
    let why = match &decision.cause {
        Cause::Rule { rule, .. } => format!("rule {rule}"),
        Cause::Operator(request) => format!("operator {} {}", request.actor, request.reason),
        Cause::Upkeep { what } => format!("upkeep {what}"),
    };
    (why, decision.actions.clone(), decision.mode)
}

impl Compared {
    /// Compares the decisions of a replay. `names`: the file, the run's name and its id.
    pub fn new(
        names: (String, String, String),
        recorded: &Policy,
        began: MonoTime,
        replay: Replay,
        lacks: Vec<Lack>,
    ) -> Compared {
        let (file, run, id) = names;
        let mut by_key: BTreeMap<Key, (Vec<Decision>, Vec<Decision>)> = BTreeMap::new();
        for decision in replay.recorded {
            by_key.entry(key(&decision)).or_default().0.push(decision);
        }
        for decision in replay.replayed {
            by_key.entry(key(&decision)).or_default().1.push(decision);
        }
        let (mut same, mut added, mut removed, mut moved) = (0, Vec::new(), Vec::new(), Vec::new());
        for (mut old, mut new) in by_key.into_values() {
            // Those at the same time are the same; what is left is paired in order.
            old.retain(|decision| match new.iter().position(|other| other.at == decision.at) {
                Some(at) => {
                    new.remove(at);
                    same += 1;
                    false
                }
                None => true,
            });
            let pairs = old.len().min(new.len());
            moved.extend(old.drain(..pairs).zip(new.drain(..pairs)));
            removed.extend(old);
            added.extend(new);
        }
        added.sort_by_key(|decision| decision.at);
        removed.sort_by_key(|decision| decision.at);
        moved.sort_by_key(|(old, _)| old.at);
        let policy = format!("{} {}", recorded.name, recorded.digest());
        Compared { file, run, id, policy, began, inputs: replay.inputs, same, added, removed, moved, lacks }
    }

    /// Whether the other policy decides otherwise.
    pub fn differs(&self) -> bool {
        !(self.added.is_empty() && self.removed.is_empty() && self.moved.is_empty())
    }

    /// Whether the recording answers all that the other policy asks.
    pub fn is_whole(&self) -> bool {
        self.lacks.is_empty()
    }

    fn earlier(&self) -> impl Iterator<Item = &(Decision, Decision)> {
        self.moved.iter().filter(|(old, new)| new.at < old.at)
    }

    fn later(&self) -> impl Iterator<Item = &(Decision, Decision)> {
        self.moved.iter().filter(|(old, new)| new.at > old.at)
    }

    fn at(&self, decision: &Decision) -> String {
        time::delta(i128::from(decision.at.0) - i128::from(self.began.0))
    }

    fn line(&self, decision: &Decision) -> String {
        let would = if decision.mode == Mode::Observe { "would " } else { "" };
        format!(
            "{}  {would}{} because {}",
            self.at(decision),
            decision::actions(&decision.actions),
            decision::because(decision)
        )
    }

    fn moved_line(&self, (old, new): &(Decision, Decision)) -> String {
        let by = time::delta(i128::from(new.at.0) - i128::from(old.at.0));
        format!("{} instead of {} ({by}): {}", self.at(new), self.at(old), key(new).0)
    }
}

/// For people.
pub fn text(file: &str, policy: &Policy, all: &[Compared], runs: &[OfRun]) -> String {
    let mut out = format!("policy     {} {} ({})\n", policy.name, policy.digest(), clean(file));
    for one in all {
        let _ = writeln!(out, "\nrecording  {}  run {} {}", clean(&one.file), clean(&one.run), one.id);
        let _ = writeln!(out, "  judged by     {}", clean(&one.policy));
        let _ = writeln!(out, "  inputs        {}", one.inputs);
        let _ = writeln!(out, "  same          {}", count(one.same, "decision", "decisions"));
        let mut section = |name: &str, lines: Vec<String>| {
            for (n, line) in lines.iter().take(SHOWN).enumerate() {
                let _ = writeln!(out, "  {:<12}  {}", if n == 0 { name } else { "" }, clean(line));
            }
            if lines.len() > SHOWN {
                let _ = writeln!(out, "  {:<12}  and {} more, see -o json", "", lines.len() - SHOWN);
            }
        };
        section("added", one.added.iter().map(|decision| one.line(decision)).collect());
        section("removed", one.removed.iter().map(|decision| one.line(decision)).collect());
        section("earlier", one.earlier().map(|pair| one.moved_line(pair)).collect());
        section("later", one.later().map(|pair| one.moved_line(pair)).collect());
        let lack = |lack: &Lack| match &lack.rule {
            Some(rule) => format!("rule {rule}: {}", lack.what),
            None => lack.what.clone(),
        };
        section("not recorded", one.lacks.iter().map(lack).collect());
    }
    let sum = |of: fn(&Compared) -> usize| all.iter().map(of).sum::<usize>();
    let _ = writeln!(
        out,
        "\n{}: {} same, {} added, {} removed, {} earlier, {} later; {} not recorded",
        count(all.len(), "recording", "recordings"),
        sum(|one| one.same),
        sum(|one| one.added.len()),
        sum(|one| one.removed.len()),
        sum(|one| one.earlier().count()),
        sum(|one| one.later().count()),
        sum(|one| one.lacks.len()),
    );
    out.push_str(&compute::text(runs));
    if all.iter().any(Compared::differs) {
        out.push_str("after the first difference, the inputs are those of the run as it was really contained\n");
    }
    if all.iter().any(|one| !one.is_whole()) {
        out.push_str("what is not recorded may have happened: the other policy could decide more than is shown\n");
    }
    out
}

/// For programs.
pub fn json(file: &str, policy: &Policy, all: &[Compared], runs: &[OfRun]) -> Value {
    let one = |one: &Compared| {
        let moved = |pairs: Vec<&(Decision, Decision)>| {
            let pair = |(old, new): &(Decision, Decision)| object!({ "recorded": old, "replayed": new });
            pairs.into_iter().map(pair).collect::<Vec<_>>()
        };
        let lack = |lack: &Lack| object!({ "rule": lack.rule, "what": lack.what });
        object!({
            "recording": one.file,
            "run_id": one.id,
            "run_name": one.run,
            "recorded_policy": one.policy,
            "inputs": one.inputs,
            "same": one.same,
            "added": one.added,
            "removed": one.removed,
            "earlier": moved(one.earlier().collect()),
            "later": moved(one.later().collect()),
            "not_recorded": one.lacks.iter().map(lack).collect::<Vec<_>>(),
        })
    };
    object!({
        "file": file,
        "policy": policy.name,
        "digest": policy.digest().to_string(),
        "differs": all.iter().any(Compared::differs),
        "whole": all.iter().all(Compared::is_whole),
        "compute": compute::json(runs),
        "recordings": all.iter().map(one).collect::<Vec<_>>(),
    })
}
