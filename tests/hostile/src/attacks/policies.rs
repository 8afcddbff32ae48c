//! Runs of an ordinary user under the largest policies that are accepted: rules on metrics that nobody reports, rules on events that
//! come all the time, and rules on a metric that is reported all the time.

use crate::{Judge, judge::all};
use anyhow::{Context, Result};
use integration::{Launch, program, wait_for};

/// Rules and metrics of a policy at most: `failsafe_core::policy::{MAX_RULES, MAX_METRICS}`.
const RULES: usize = 1_024;
const METRICS: usize = 256;
/// Events that the daemon has counted before the strike.
const EVENTS: u64 = 2_000;

/// A policy of [`RULES`] rules with this condition; `${m}` stands for one of [`METRICS`] numbers.
fn policy(name: &str, when: &str, more: &str) -> String {
    let head = format!(
        "[policy]\nname = \"{name}\"\nowner = \"tests\"\non_blind = \"continue\"\n[[template]]\nname = \"t\"\n\
         parameters = [\"i\", \"m\"]\n[[template.rule]]\nid = \"r${{i}}\"\nrationale = \"x\"\nwhen = {{ {when} }}\n\
         actions = [\"notify\", \"snapshot\"]\n{more}"
    );
    let used = |n: usize| format!("[[use]]\ntemplate = \"t\"\nwith = {{ i = \"{n}\", m = \"{}\" }}\n", n % METRICS);
    head + &(0..RULES).map(used).collect::<String>()
}

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn policies(judge: &mut dyn Judge) -> Result<()> {
    judge.withstand("policies", "", &mut |node, strike| {
        let silent = policy("silent", "signal = \"metric.m${m}\", above = 1, grace = \"2s\"", "");
        let events = policy("events", "event = \"exec\"", "cooldown = \"1s\"\n");
        let metrics = policy("metrics", "signal = \"metric.loss\", above = 1e30, grace = \"1h\"", "");
        let executes = Launch::new("executes", &events).start(node, ["sh", "-c", "while :; do /bin/true; done"])?;
        let trainer = format!("exec {} --steps 0 --step-ms 0 >/dev/null", program("trainer")?.display());
        let reports = Launch::new("reports", &metrics).start(node, ["sh", "-c", &trainer])?;
        let counted = || -> Result<u64> { node.run("executes")?["events"].as_u64().context("no count of events") };
        wait_for("the events come", || Ok(counted()? >= EVENTS))?;
        let waits: Vec<_> = (0..4)
            .map(|n| Launch::new(&format!("waits-{n}"), &silent).start(node, ["sleep", "600"]))
            .collect::<Result<_>>()?;
        node.wait_for_event("its metrics are missing", |entry| {
            entry["body"]["decision"]["cause"]["Upkeep"]["what"] == "blind"
        })?;
        let struck = all(node, strike);
        let before = counted()?;
        wait_for("the events go on after the strike", || Ok(counted()? > before))?;
        let log = node.events()?;
        let of = |run: &str| log.iter().filter(|e| e["run"] == run && e["body"]["type"] == "decision").count();
        let (loud, blind): (usize, Vec<usize>) = (of(executes.id()), waits.iter().map(|run| of(run.id())).collect());
        eprintln!("{} events, {loud} decisions about them; decisions on blindness: {blind:?}", counted()?);
        drop((executes, reports, waits));
        struck
    })
}
