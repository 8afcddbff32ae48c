//! What watching costs: loops of ordinary work, with no daemon, beside a daemon without runs, outside any run while one lives,
//! and inside a run with 50 rules. Beside it, the same watch by bpftrace and by audit.
//!
//! ```text
//!  a trial:  no daemon, again │ daemon, no run │ outside, in the run, ... with what is allowed told, ... with a call watched
//!            │ in a cgroup, outside and in one with programs that do nothing │ bpftrace │ audit
//! ```
//! The places are visited in turns, those to be compared right after one another. A bound is held against the fastest
//! batch of all visits, since a disturbance only ever adds; the medians, which carry the machine's noise, stand beside it,
//! and the second visit without a daemon shows how much noise that is.

use super::{
    Args,
    beside::{Audit, Bpftrace, Cgroup},
    floor::Floor,
    loops::{LOOPS, Loop, Times},
    neighbours,
    report::Report,
    run::{Run, policy},
};
use crate::{
    daemon::{Daemon, Options},
    setup, shell,
};
use anyhow::{Context, Result};
use std::{path::Path, process::Command, thread, time::Duration};

/// Nobody outside a run may lose more than this where hooks are per cgroup.
const OUTSIDE: f64 = 1.01;
/// Nor a run itself more than this.
const IN_RUN: f64 = 1.05;
/// Once the run lives, its start is given this long to settle.
const SETTLE: Duration = Duration::from_millis(300);

/// Measures.
///
/// # Errors
/// The daemon or a loop failed. That bpftrace or audit cannot be had is a condition, not an error.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("overhead", args.trials, args.debug);
    setup::comparisons();
    let mut times = Times::default();
    let programs = shell::built(!args.debug);
    let (mut others, mut links) = (Others::default(), Vec::new());
    for trial in 1..=args.trials {
        eprintln!("overhead: trial {trial} of {}", args.trials);
        let before = neighbours::cgroup_links();
        for work in LOOPS {
            times.visit(work, "no_daemon", &mut plain(&programs, work)?)?;
            times.visit(work, "no_daemon_again", &mut plain(&programs, work)?)?;
        }
        links.push(before.max(neighbours::cgroup_links()));
        with_daemon(args, &mut times, &mut report)?;
        others.floor(&programs, &mut times);
        others.bpftrace(&programs, &mut times);
        others.audit(&programs, &mut times);
    }
    others.tell(&mut report);
    report.condition("rules_of_the_run", 50);
    // The fastest batch without a daemon is a clean one if one of the trials was.
    report.condition("cgroup_links_of_others_beside_no_daemon_in_each_trial", links);
    tell(&times, &mut report);
    Ok(report)
}

fn with_daemon(args: &Args, times: &mut Times, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let network = policy(folder.path(), &fifty_rules("", OUTSIDE_THE_LIST))?;
    let written = |name: &str, text: String| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).context("writing the policy").map(|()| file)
    };
    let telling = written("telling.toml", fifty_rules("", "127.0.0."))?;
    let watching = written("watching.toml", fifty_rules("[syscalls]\nwatch = [\"memfd_create\"]\n", OUTSIDE_THE_LIST))?;
    let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let daemon = Daemon::start(&options, folder)?;
    let programs = shell::built(!args.debug);
    for work in LOOPS {
        times.visit(work, "daemon_no_run", &mut plain(&programs, work)?)?;
    }
    // The slow way into the kernel that a watched call may bring is measured on bare calls only.
    for (policy, loops, outside, inside) in [
        (&network, &LOOPS[..], "outside", "in_run"),
        (&telling, &LOOPS[2..], "outside_told", "in_run_told"),
        (&watching, &LOOPS[..2], "outside_call_watched", "in_run_call_watched"),
    ] {
        // A run that lasts, so that the hooks stay attached while others are measured.
        let held = Run::start(&daemon, policy, outside, Path::new("sleep"), &["600"])?;
        report.condition(&format!("syscalls_via_{outside}"), held.described(&daemon)?["syscalls_via"].clone());
        thread::sleep(SETTLE);
        for work in loops {
            times.visit(*work, outside, &mut plain(&programs, *work)?)?;
            times.visit(*work, inside, &mut in_run(&daemon, policy, *work)?)?;
        }
    }
    Ok(())
}

fn plain(programs: &Path, work: Loop) -> Result<Command> {
    let (program, args) = work.argv.split_first().context("an empty loop")?;
    let mut command = Command::new(programs.join(program));
    command.args(args);
    Ok(command)
}

fn in_run(daemon: &Daemon, policy: &Path, work: Loop) -> Result<Command> {
    let (program, args) = work.argv.split_first().context("an empty loop")?;
    let mut command = daemon.ctl(["run", "--no-watch"]);
    command
        .arg("--policy")
        .arg(policy)
        .args(["--user", "root", "--quiet", "--"])
        .arg(daemon.program(program))
        .args(args);
    Ok(command)
}

/// Where the rules on sends look: what the list lets nobody reach, so that allowed calls are not told.
const OUTSIDE_THE_LIST: &str = "198.51.100.";

/// An egress list and 50 rules of the kinds that a real policy has; none trips on what the loops do. Those on sends and allowed
/// connects are on addresses that begin with `sends`.
fn fifty_rules(head: &str, sends: &str) -> String {
    let mut text =
        String::from("[policy]\nname = \"fifty-rules\"\nowner = \"bench@example.org\"\n[egress]\nallow = [\n");
    for net in ["127.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "192.168.7.0/24", "172.16.0.0/12", "fd00:7::/32"] {
        text.push_str(&format!("  {{ cidr = \"{net}\" }},\n"));
    }
    text.push_str(&format!("]\n{head}"));
    let whens = (0..10).flat_map(|n| {
        [
            format!("{{ event = \"exec\", path = \"/opt/forbidden-{n}/*\" }}"),
            format!("{{ event = \"exec\", argv = \"*--forbidden-{n}*\" }}"),
            format!("{{ event = \"connect\", address = \"{sends}{n}/32\", port = {} }}", 3_000 + n),
            format!("{{ event = \"send\", address = \"{sends}{n}/32\", port = {} }}", 4_000 + n),
            format!("{{ signal = \"memory.used\", above = \"{} TiB\" }}", n + 1),
        ]
    });
    for (n, when) in whens.enumerate() {
        text.push_str(&format!(
            "[[rule]]\nid = \"rule-{n}\"\nrationale = \"one of fifty\"\nwhen = {when}\nactions = [\"notify\"]\n"
        ));
    }
    text
}

/// The other ways to watch, as far as they can be had.
#[derive(Default)]
struct Others {
    floor: Counts,
    bpftrace: Counts,
    audit: Counts,
}

/// Why it could not be measured; what it printed and lost.
#[derive(Default)]
struct Counts {
    refused: Option<String>,
    printed: u64,
    lost: u64,
}

impl Others {
    fn floor(&mut self, programs: &Path, times: &mut Times) {
        if self.floor.refused.is_none()
            && let Err(error) = beside_floor(programs, times)
        {
            eprintln!("overhead: programs that do nothing: {error:#}");
            self.floor.refused = Some(format!("{error:#}"));
        }
    }

    fn bpftrace(&mut self, programs: &Path, times: &mut Times) {
        if self.bpftrace.refused.is_none()
            && let Err(error) = beside_bpftrace(&mut self.bpftrace, programs, times)
        {
            eprintln!("overhead: bpftrace: {error:#}");
            self.bpftrace.refused = Some(format!("{error:#}"));
        }
    }

    fn audit(&mut self, programs: &Path, times: &mut Times) {
        if self.audit.refused.is_none()
            && let Err(error) = beside_audit(&mut self.audit, programs, times)
        {
            eprintln!("overhead: audit: {error:#}");
            self.audit.refused = Some(format!("{error:#}"));
        }
    }

    fn tell(&self, report: &mut Report) {
        for (name, counts) in [("floor", &self.floor), ("bpftrace", &self.bpftrace), ("audit", &self.audit)] {
            match &counts.refused {
                Some(why) => report.condition(name, format!("not measured: {why}")),
                None => report.condition(name, "measured"),
            }
        }
        report.figure("bpftrace_printed_events", self.bpftrace.printed);
        report.figure("bpftrace_lost_events", self.bpftrace.lost);
        report.figure("audit_lost_events", self.audit.lost);
    }
}

fn beside_floor(programs: &Path, times: &mut Times) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let plain_cgroup = Cgroup::create()?;
    for work in LOOPS {
        let (program, args) = work.argv.split_first().context("an empty loop")?;
        times.visit(work, "in_cgroup", &mut plain_cgroup.command(&programs.join(program), args))?;
    }
    drop(plain_cgroup);
    let floor = Floor::start(folder.path())?;
    for work in LOOPS {
        let (program, args) = work.argv.split_first().context("an empty loop")?;
        times.visit(work, "outside_floor", &mut plain(programs, work)?)?;
        times.visit(work, "in_floor", &mut floor.cgroup.command(&programs.join(program), args))?;
    }
    Ok(())
}

fn beside_bpftrace(counts: &mut Counts, programs: &Path, times: &mut Times) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let cgroup = Cgroup::create()?;
    let watch = Bpftrace::start(&cgroup, folder.path())?;
    for work in LOOPS {
        let (program, args) = work.argv.split_first().context("an empty loop")?;
        times.visit(work, "outside_bpftrace", &mut plain(programs, work)?)?;
        times.visit(work, "in_bpftrace", &mut cgroup.command(&programs.join(program), args))?;
    }
    let (printed, lost) = watch.end()?;
    counts.printed += printed;
    counts.lost += lost;
    Ok(())
}

fn beside_audit(counts: &mut Counts, programs: &Path, times: &mut Times) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let audit = Audit::start(folder.path())?;
    let before = audit.lost()?;
    for work in LOOPS {
        times.visit(work, "audit", &mut plain(programs, work)?)?;
    }
    counts.lost += audit.lost()?.saturating_sub(before);
    Ok(())
}

fn tell(times: &Times, report: &mut Report) {
    for work in LOOPS {
        for place in times.places(work) {
            report.figure(&format!("{}_{place}_fastest_ns", work.name), times.fastest(work, place));
            report.figure(&format!("{}_{place}_median_ns", work.name), times.median(work, place));
        }
        for place in times.places(work).into_iter().filter(|place| *place != "no_daemon") {
            let bound = match place {
                "daemon_no_run" | "outside" => Some(OUTSIDE),
                "in_run" => Some(IN_RUN),
                _ => None,
            };
            let fastest = times.fastest(work, place) / times.fastest(work, "no_daemon");
            report.ratio(&format!("{}: {place} / no daemon, fastest", work.name), fastest, bound);
            let median = times.median(work, place) / times.median(work, "no_daemon");
            report.ratio(&format!("{}: {place} / no daemon, median", work.name), median, None);
        }
        for (place, floor, bound) in [("outside", "outside_floor", OUTSIDE), ("in_run", "in_floor", IN_RUN)] {
            let fastest = times.fastest(work, place) / times.fastest(work, floor);
            if fastest.is_finite() {
                report.ratio(&format!("{}: {place} / {floor}, fastest", work.name), fastest, Some(bound));
            }
        }
    }
}
