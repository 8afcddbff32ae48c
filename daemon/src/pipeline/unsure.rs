//! Rules that cannot be evaluated because a path or argv was cut. Each is reported as a gap.
//!
//! Owns when each rule of each run was reported last. Invariants: the first such event of a rule is reported at once, then at most one in
//! [`EVERY`], with the number of those between; a rule with `effect = "stop"` is none of these, as it stops the run.

use failsafe_core::{
    MonoTime, Policy, RunId, Signal, Subject, Value,
    event::Event,
    input::Gap,
    policy::{Effect, EventMatch, Fit},
    time::Span,
};
use std::collections::BTreeMap;

/// Between two reports of a rule.
const EVERY: Span = Span::from_secs(10);

/// When it was reported, and how many came since.
#[derive(Debug, Clone, Copy)]
struct Reported {
    at: MonoTime,
    since: u64,
}

/// What was reported.
#[derive(Debug, Default)]
pub struct Unsure {
    rules: BTreeMap<(RunId, String), Reported>,
}

impl Unsure {
    /// The gaps that an event of the run makes.
    pub fn gaps(&mut self, run: RunId, policy: &Policy, signal: &Signal) -> Vec<Gap> {
        let Value::Event(event) = &signal.value else { return Vec::new() };
        if !event.is_cut() {
            return Vec::new();
        }
        let process = if let Subject::Process { process, .. } = &signal.subject { Some(process) } else { None };
        let unknown = policy.rules.iter().filter(|rule| {
            let unknown = |wanted: &&EventMatch| wanted.fit(event, process) == Fit::Unknown;
            rule.effect != Effect::Stop && rule.when.events().iter().any(unknown)
        });
        unknown.filter_map(|rule| self.gap(run, &rule.id, event, signal)).collect()
    }

    fn gap(&mut self, run: RunId, rule: &str, event: &Event, signal: &Signal) -> Option<Gap> {
        let key = (run, rule.to_owned());
        let more = match self.rules.get_mut(&key) {
            Some(reported) if signal.at.since(reported.at) < EVERY => {
                reported.since += 1;
                return None;
            }
            reported => reported.map_or(0, |reported| reported.since),
        };
        self.rules.insert(key, Reported { at: signal.at, since: 0 });
        let who = match &signal.subject {
            Subject::Process { process, .. } => format!("process {} ({})", process.pid, process.comm),
            _ => "a process".into(),
        };
        let more = if more > 0 { format!("; {more} more like it since the last report") } else { String::new() };
        let what = format!(
            "rule {rule} cannot be judged on the {} of {who}: its path or arguments are longer than what is read of them{more}",
            event.kind().name()
        );
        let (at, source, run) = (signal.at, signal.source, Some(run));
        Some(Gap { seq: 0, at, source, run, gpu: None, what, lost: 0, blind: false })
    }

    /// The run has ended.
    pub fn ended(&mut self, run: RunId) {
        self.rules.retain(|(of, _), _| *of != run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::{
        Kind,
        event::{Assurance, CUT, ExecKind, Verdict},
        policy::parse::parse,
        signal::Source,
    };

    fn exec(argv: &str, at: u64) -> Signal {
        let (verdict, assurance) = (Verdict::Allowed, Assurance::Observed);
        let (path, argv) = ("/bin/sh".into(), argv.into());
        let event = Event::Exec { path, known_as: Vec::new(), argv, kind: ExecKind::File, verdict, assurance };
        Signal {
            seq: 0,
            at: MonoTime(at * 1_000_000_000),
            source: Source::Ebpf,
            subject: Subject::Run(RunId(uuid::Uuid::nil())),
            kind: Kind::Event,
            value: Value::Event(event),
            repeats: 0,
        }
    }

    #[test]
    fn a_rule_that_a_cut_argv_may_match_is_reported_at_once_and_then_seldom() {
        let text = "[policy]\nname = \"p\"\nowner = \"o\"\n\
                    [[rule]]\nid = \"exfil\"\nrationale = \"r\"\nwhen = { event = \"exec\", argv = \"*exfil*\" }\nactions = [\"freeze\"]\n\
                    [[rule]]\nid = \"end\"\nrationale = \"r\"\nwhen = { event = \"exec\", argv = \"*--end\" }\nactions = [\"freeze\"]\n";
        let policy = parse("p", text).unwrap();
        let run = RunId(uuid::Uuid::nil());
        let mut unsure = Unsure::default();
        let mut gaps = |argv: String, at| unsure.gaps(run, &policy, &exec(&argv, at));
        assert!(gaps("sh -c true".into(), 1).is_empty());
        let cut = || format!("sh -c xxxx{CUT}xxxx --done");
        let first = gaps(cut(), 2);
        assert_eq!(first.len(), 1, "the end is known: {first:?}");
        assert!(first[0].what.starts_with("rule exfil cannot be judged on the exec of "), "{}", first[0].what);
        assert!(gaps(cut(), 3).is_empty() && gaps(cut(), 4).is_empty());
        let again = gaps(cut(), 13);
        assert!(again[0].what.ends_with("; 2 more like it since the last report"), "{}", again[0].what);
        assert!(gaps(format!("sh exfil {CUT} x"), 40).is_empty(), "it matches, and is decided");
    }
}
