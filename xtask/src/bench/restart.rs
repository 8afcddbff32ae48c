//! The daemon is killed where it stands and started again, many times, under a run that never stops trying to reach a
//! forbidden place. What arrives there is counted at the place itself: nothing may.
//!
//! ```text
//!  kill -9 ─► start ─► the new generation guards ─► the old one is gone ─► the daemon answers
//!  └──────────────── guarded by what the dead daemon left pinned ┘
//! ```

use super::{
    Args,
    report::Report,
    run::{Run, policy},
    sink::Sink,
    statistics::at,
};
use crate::{
    daemon::{Daemon, Options},
    interrupt,
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

const RESTARTS: usize = 100;
const POLICY: &str = r#"
[policy]
name = "bench-restart"
owner = "bench@example.org"
[egress]
allow = [{ cidr = "127.0.0.1/32" }]
"#;
const ALLOWED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const FORBIDDEN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const PATIENCE: Duration = Duration::from_secs(20);

/// Times of the restarts, milliseconds since the kill.
#[derive(Default)]
struct Times {
    guarded: Vec<f64>,
    alone: Vec<f64>,
    answers: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// The daemon or the run failed.
pub fn run(args: &Args) -> Result<Report> {
    let restarts = args.trials.max(RESTARTS);
    let mut report = Report::new("restart", restarts, args.debug);
    let (forbidden, allowed) = (Sink::at(FORBIDDEN)?, Sink::at(ALLOWED)?);
    // A sink that counts nothing proves nothing.
    forbidden.check()?;
    allowed.check()?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let policy = policy(folder.path(), POLICY)?;
    let counters = folder.path().join("counters");
    let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let mut daemon = Daemon::start(&options, folder)?;
    let program = daemon.program("intruder");
    let (to, fine) = (forbidden.address().to_string(), allowed.address().to_string());
    let file = counters.display().to_string();
    let arguments = ["--forbidden", &to, "--allowed", &fine, "--counters", &file];
    let mut run = Run::start(&daemon, &policy, "intruder", &program, &arguments)?;
    run.line()?;

    let (mut times, mut unwatched) = (Times::default(), 0);
    for restart in 1..=restarts {
        if restart % 10 == 0 {
            eprintln!("restart: {restart} of {restarts}");
        }
        unwatched += once(&mut daemon, &counters, &mut times)?;
        if run.described(&daemon)?["name"] != "intruder" {
            bail!("the run was not taken up again");
        }
    }
    let counted = read(&counters)?;
    drop(run);
    for (name, values) in
        [("guarded_by_the_new", &times.guarded), ("old_gone", &times.alone), ("answers", &times.answers)]
    {
        report.figure(&format!("kill_to_{name}_p50_ms"), at(values, 50.0));
        report.figure(&format!("kill_to_{name}_p99_ms"), at(values, 99.0));
    }
    report.figure("forbidden_calls_tried", counted[0]);
    report.figure("forbidden_calls_tried_between_kill_and_new_guard", unwatched);
    report.figure("allowed_calls_tried", counted[2]);
    report.figure("allowed_datagrams_arrived", allowed.arrived());
    report.ratio("forbidden packets and connections that arrived", forbidden.arrived() as f64, Some(0.0));
    report.ratio("forbidden calls that were not refused", counted[1] as f64, Some(0.0));
    report.ratio("allowed calls that were refused", counted[3] as f64, Some(0.0));
    Ok(report)
}

/// One restart; returns how many forbidden calls were tried before the new generation guarded.
fn once(daemon: &mut Daemon, counters: &Path, times: &mut Times) -> Result<u64> {
    let before = guards(daemon.bpffs())?;
    let (old, wanted) = before.last_key_value().context("nothing is pinned: nobody guards while no daemon lives")?;
    let tried = read(counters)?[0];
    let began = Instant::now();
    let since = |began: Instant| began.elapsed().as_secs_f64() * 1e3;
    daemon.crash()?;
    interrupt::wait_for("the new generation's guards", PATIENCE, || {
        let now = guards(daemon.bpffs())?;
        Ok(now.last_key_value().is_some_and(|(new, links)| new > old && links >= wanted).then_some(()))
    })?;
    times.guarded.push(since(began));
    let tried = read(counters)?[0] - tried;
    interrupt::wait_for("the old generation's end", PATIENCE, || {
        Ok((!guards(daemon.bpffs())?.contains_key(old)).then_some(()))
    })?;
    times.alone.push(since(began));
    daemon.wait_until_it_answers()?;
    times.answers.push(since(began));
    Ok(tried)
}

/// Pinned links of each generation, by its number.
fn guards(bpffs: &Path) -> Result<BTreeMap<u64, usize>> {
    let mut found = BTreeMap::new();
    for instance in folders(&bpffs.join("failsafe"))? {
        for generation in folders(&instance)? {
            let name = generation.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = name.strip_prefix('g').and_then(|rest| rest.split('_').next()?.parse().ok());
            let number = number.with_context(|| format!("{} is no generation", generation.display()))?;
            // One that is being removed is no longer one that guards.
            let links = fs::read_dir(&generation).into_iter().flatten().flatten();
            let links = links.filter(|entry| entry.file_name().to_string_lossy().starts_with("link_")).count();
            found.insert(number, links);
        }
    }
    Ok(found)
}

fn folders(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| format!("listing {}", path.display()))?;
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.map(|entry| entry.path()).collect())
}

/// The intruder's counters: forbidden calls tried, and passed; allowed calls tried, and refused.
fn read(file: &Path) -> Result<[u64; 4]> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let words: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    words.get(..4).and_then(|words| words.try_into().ok()).context("the file of counters is short")
}
