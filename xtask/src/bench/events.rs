//! The highest rate of events at which none is lost, and at twice that rate whether the loss is accounted to the last one.
//!
//! The run sends datagrams to forbidden places at a steady rate. Four counts are compared, from the calls made to what the
//! engine judged:
//!
//! ```text
//!  sent        the workload's own count of its calls
//!  counted     the kernel program's counter (`events`)
//!  lost        what the ring had no room for (`events_lost`)
//!  seen        trips of the rule on these events: decisions, and the trips that each says were held back before it
//! ```
//! Nothing is lost silently if `sent = counted = seen + lost`.

use super::{
    Args,
    report::Report,
    run::{Run, policy},
    statistics::median,
};
use crate::{
    daemon::{Daemon, Options},
    interrupt, shell,
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    path::Path,
    time::{Duration, Instant},
};

const POLICY: &str = r#"
[policy]
name = "bench-events"
owner = "bench@example.org"
[egress]
allow = [{ cidr = "127.0.0.1/32" }]
[[rule]]
id = "forbidden"
rationale = "counts what the engine judges"
when = { event = "send", verdict = "denied" }
actions = ["notify"]
cooldown = "1s"
"#;
/// The rule's cooldown, and a little more.
const COOLDOWN: Duration = Duration::from_millis(1_050);
/// The first rate tried, events a second, and the factor between tries.
const FIRST: f64 = 10_000.0;
const STEP: f64 = 1.5;
/// Between the highest rate without loss and the lowest with loss at most this factor is left.
const FINE: f64 = 1.1;
const SECONDS: f64 = 2.0;
/// A recording has its end mark this long after the run's end.
const FLUSHED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of one burst.
#[derive(Debug, Clone, Copy)]
struct Burst {
    rate: f64,
    sent: u64,
    counted: u64,
    lost: u64,
    seen: u64,
}

impl Burst {
    fn accounted(&self) -> bool {
        self.sent == self.counted && self.sent == self.seen + self.lost
    }
}

/// Measures.
///
/// # Errors
/// The daemon or a run failed.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("events", args.trials, args.debug);
    report.condition("burst_s", SECONDS);
    report.condition("event", "a refused connect of a UDP socket, each to another address");
    let folder = tempfile::tempdir().context("making a folder")?;
    let policy = policy(folder.path(), POLICY)?;
    let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 100, nvml: None };
    let daemon = Daemon::start(&options, folder)?;
    let mut bench = Bench { daemon, policy: &policy, runs: 0, unaccounted: 0, cut: 0 };

    let (highest, limited) = bench.highest(args.trials)?;
    report.condition("highest_rate_is_limited_by", if limited { "the sender" } else { "loss" });
    let free: Vec<f64> = highest.iter().map(|burst| burst.rate).collect();
    report.figure("highest_rate_without_loss_events_per_s", median(&free));
    let double: Vec<Burst> = (0..args.trials).map(|_| bench.burst(2.0 * median(&free))).collect::<Result<_>>()?;
    let of = |value: fn(&Burst) -> u64| double.iter().map(value).sum::<u64>();
    let rates: Vec<f64> = double.iter().map(|burst| burst.rate).collect();
    report.figure("twice_that_rate_as_sent_events_per_s", median(&rates));
    report.figure("at_twice_that_rate_sent_events", of(|b| b.sent));
    report.figure("at_twice_that_rate_counted_in_kernel_events", of(|b| b.counted));
    report.figure("at_twice_that_rate_seen_events", of(|b| b.seen));
    report.figure("at_twice_that_rate_counted_lost_events", of(|b| b.lost));
    let off = of(|b| b.sent.abs_diff(b.seen + b.lost) + b.sent.abs_diff(b.counted));
    report.figure("at_twice_that_rate_unaccounted_events", off);
    report.figure("bursts", bench.runs);
    report.figure("recordings_cut_short_bursts", bench.cut);
    report.ratio("bursts not accounted exactly", bench.unaccounted as f64, Some(0.0));
    Ok(report)
}

struct Bench<'a> {
    daemon: Daemon,
    policy: &'a Path,
    runs: u64,
    unaccounted: u64,
    cut: u64,
}

impl Bench<'_> {
    /// Bursts at the highest rate at which `trials` of them lost nothing; and whether the sender could do no more.
    fn highest(&mut self, trials: usize) -> Result<(Vec<Burst>, bool)> {
        let (mut good, mut bad, mut limited) = (0.0, f64::INFINITY, false);
        let mut rate = FIRST;
        while bad / good > FINE {
            let burst = self.burst(rate)?;
            if burst.lost > 0 {
                bad = rate;
            } else {
                good = burst.rate;
                // A sender that is behind by a tenth cannot make more.
                limited = burst.rate < 0.9 * rate;
                if limited {
                    break;
                }
            }
            if bad < FIRST {
                bail!("events are lost even at {bad:.0} a second");
            }
            rate = match (good, bad.is_finite()) {
                (0.0, _) => bad / 2.0,
                (good, false) => good * STEP,
                (good, true) => (good * bad).sqrt(),
            };
        }
        // One burst without loss may be luck.
        loop {
            let mut bursts = Vec::new();
            while bursts.len() < trials {
                let burst = self.burst(good)?;
                if burst.lost > 0 {
                    break;
                }
                bursts.push(burst);
            }
            if bursts.len() == trials {
                return Ok((bursts, limited));
            }
            (good, limited) = (good / FINE, false);
        }
    }

    /// One burst in a run of its own.
    fn burst(&mut self, rate: f64) -> Result<Burst> {
        interrupt::check()?;
        self.runs += 1;
        let name = format!("burst-{}", self.runs);
        let program = self.daemon.program("burst");
        let mut run = Run::start(&self.daemon, self.policy, &name, &program, &[])?;
        run.line()?;
        let (before, _) = self.settled(&run)?;
        let line = self.send(&mut run, &format!("{rate} {SECONDS}"))?;
        let mut sent = number(&line, "sent")?;
        let (mut counted, mut lost) = self.settled(&run)?;
        let mut seen = self.seen(&name)?;
        // Trips that are held back are told with the next decision: events one by one bring it about, each after the
        // cooldown. Two looks with the same difference say that the queue is empty and nothing more will come.
        let mut missing = None;
        while sent != seen + lost && missing != Some(sent - seen.min(sent)) {
            missing = Some(sent - seen.min(sent));
            std::thread::sleep(COOLDOWN);
            sent += number(&self.send(&mut run, "1000 0.001")?, "sent")?;
            (counted, lost) = self.settled(&run)?;
            seen = self.seen(&name)?;
        }
        run.end()?;
        let rate = line["rate_per_s"].as_f64().context("the burst has no rate")?;
        let burst = Burst { rate, sent, counted: counted - before, lost, seen };
        let whole = self.recorded_whole(&name)?;
        let verdict = if burst.accounted() { "accounted" } else { "NOT ACCOUNTED" };
        let recording = if whole { "" } else { ", its recording was cut short" };
        eprintln!("events: {rate:.0}/s: sent {sent}, lost {lost}, seen {seen}: {verdict}{recording}");
        self.cut += u64::from(!whole);
        self.unaccounted += u64::from(!burst.accounted());
        Ok(burst)
    }

    fn send(&self, run: &mut Run, what: &str) -> Result<Value> {
        run.tell(what)?;
        let text = run.line()?;
        let line: Value = serde_json::from_str(&text).with_context(|| format!("reading {text}"))?;
        if line["sent"] != line["refused"] {
            bail!("not every connect was refused: {text}");
        }
        Ok(line)
    }

    /// Events counted and lost, once two samples in a row say the same.
    fn settled(&self, run: &Run) -> Result<(u64, u64)> {
        let mut last = None;
        interrupt::wait_for("counters that stand still", PATIENCE, || {
            let now = run.described(&self.daemon)?;
            let now = (number(&now, "events")?, number(&now, "events_lost")?);
            let same = last.replace(now) == Some(now);
            // Longer than a sample takes to come round.
            std::thread::sleep(Duration::from_millis(250));
            Ok(same.then_some(now))
        })
    }

    /// Whether the recording of a run that ends is complete: then it is replayed, and must give the same decisions. One
    /// that was cut short never gets its end mark.
    fn recorded_whole(&self, run: &str) -> Result<bool> {
        interrupt::wait_for("the run's end", PATIENCE, || {
            Ok(self.daemon.json(["describe", run])?["ended_ns"].as_i64().is_some_and(|at| at > 0).then_some(()))
        })?;
        // The end is written behind what the recording still has to write.
        let deadline = Instant::now() + FLUSHED;
        loop {
            interrupt::check()?;
            let replay = self.daemon.json(["replay", run])?;
            match replay["recording_end"].as_str().context("replay shows no end of the recording")? {
                "finished" => return Ok(true),
                "open" if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
                _ => return Ok(false),
            }
        }
    }

    /// Trips of the rule, by the audit log.
    fn seen(&self, run: &str) -> Result<u64> {
        let text = shell::read(self.daemon.ctl(["events", "--run", run]).args(["-o", "json"]))?;
        let mut seen = 0;
        for line in text.lines() {
            let entry: Value = serde_json::from_str(line).context("reading an entry of the log")?;
            let cause = &entry["body"]["decision"]["cause"]["Rule"];
            if entry["kind"] == "decision" && cause["rule"] == "forbidden" {
                seen += 1 + number(cause, "suppressed")?;
            }
        }
        Ok(seen)
    }
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name].as_u64().with_context(|| format!("no number `{name}` in {value}"))
}
