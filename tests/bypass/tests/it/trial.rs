//! One attempt in one run, and what was seen of it from outside the run.

use crate::report::{Judged, Report};
use anyhow::{Context, Result, bail, ensure};
use bypass::table::{Come, Row};
use integration::{Launch, Node, Started, frozen, program, wait_for};
use serde_json::Value;
use std::{
    fs,
    time::{Duration, Instant},
};

/// No bounds at all: for the control, which shows that the attempt works on this kernel.
pub const PLAIN: &str = "[policy]\nname = \"none\"\nowner = \"tests\"\non_escape = \"observe\"\n";

/// How long a deed that nothing should stop is watched: so that a leak that was closed is seen to be.
const WATCHED: Duration = Duration::from_millis(500);

/// The run is there to be stopped (bound), or to show that the attempt works (control).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Without bounds.
    Control,
    /// Under the policy that ought to stop it.
    Bound,
}

/// What a subject brings.
pub trait Stage {
    /// The policy that ought to stop the attempt; `lsm`: LSM programs are there to do it.
    fn policy(&mut self, row: &Row, lsm: bool) -> Result<String>;

    /// Makes ready what the attempt needs outside, and says what it is to be told.
    fn prepare(&mut self, node: &Node, row: &Row, user: &str) -> Result<Vec<String>>;

    /// Does what has to be done outside while the attempt goes on.
    fn meanwhile(&mut self, _: &Row, _: &Started) -> Result<()> {
        Ok(())
    }

    /// What was seen of it outside, in a few words.
    fn happened(&mut self, node: &Node, row: &Row, run: &Started) -> Result<Option<String>>;

    /// Whether something of the run is still where no bounds hold.
    fn at_large(&self) -> Result<bool> {
        Ok(false)
    }

    /// The whole run is frozen, or what left it was brought back, by a decision on record, and nothing is at large.
    fn stopped(&self, node: &Node, run: &Started) -> Result<bool> {
        let events = node.events()?;
        let proved = events.iter().filter(|e| e["run"] == run.id() && e["body"]["verdict"] == "proved");
        let is_frozen = frozen(run.cgroup()).unwrap_or(false);
        let mut actions = proved.map(|e| &e["body"]["action"]);
        let done = actions.any(|action| action["recapture"].is_object() || (action == "freeze" && is_frozen));
        Ok(done && !self.at_large()?)
    }

    /// Puts right what the attempt did; called after each.
    fn tidy(&mut self, _: &mut Node) -> Result<()> {
        Ok(())
    }
}

/// What became of one attempt.
#[derive(Debug)]
pub struct Seen {
    answer: String,
    happened: Option<String>,
    stopped: bool,
}

/// Whether LSM programs are loaded on this node.
pub fn lsm(node: &Node) -> Result<bool> {
    let doctor = node.ctl(["doctor", "-o", "json"])?.json()?;
    let checks = doctor["checks"].as_array().context("the doctor's checks")?;
    let works = |c: &Value| c["area"] == "ebpf" && c["state"] == "works";
    Ok(checks.iter().any(|c| works(c) && c["name"].as_str().is_some_and(|n| n.contains("(lsm"))))
}

/// Makes every attempt of the rows on this node, as each user, and judges all of them before it fails.
pub fn judge(node: &mut Node, subject: &str, rows: &[Row], stage: &mut impl Stage) -> Result<()> {
    let lsm = lsm(node)?;
    let mut report = Report::new(subject, lsm);
    for row in rows {
        for user in row.who.users() {
            let expected = row.expected(lsm);
            let judged = compare(|role| act(node, row, user, role, lsm, stage));
            report.add(row, user, expected, judged.with_context(|| format!("{} as {user}", row.attempt)));
        }
    }
    report.close()
}

/// Makes the attempt twice and says what it came to.
pub fn compare(mut act: impl FnMut(Role) -> Result<Seen>) -> Result<Judged> {
    let control = act(Role::Control)?;
    if control.happened.is_none() {
        ensure!(absent(&control.answer), "the control did not get through either: {control:?}");
        return Ok(Judged::Absent(control.answer));
    }
    let seen = act(Role::Bound)?;
    let words =
        format!("{}{}", seen.answer, seen.happened.as_ref().map(|h| format!("; seen: {h}")).unwrap_or_default());
    let come = match (&seen.happened, seen.stopped) {
        (None, _) if refused(&seen.answer) => Come::Blocked,
        // Frozen before it came so far.
        (None, true) => Come::Contained,
        (None, _) => bail!("it was not seen outside, but nothing says that it was refused: {seen:?}"),
        (Some(_), true) => Come::Contained,
        (Some(_), false) => Come::Leak(""),
    };
    Ok(Judged::Came(come, words))
}

/// Answers by which a kernel says that it has no such thing.
fn absent(answer: &str) -> bool {
    const ANSWERS: [&str; 7] =
        ["EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EAFNOSUPPORT", "ENOPROTOOPT", "ENOSYS", "EOPNOTSUPP", "ENODEV"];
    answer.split(' ').next().is_some_and(|errno| ANSWERS.contains(&errno))
}

/// The call itself was refused.
fn refused(answer: &str) -> bool {
    answer.starts_with("EPERM ") || answer.starts_with("EACCES ")
}

/// Makes the attempt once.
pub fn act(node: &mut Node, row: &Row, user: &str, role: Role, lsm: bool, stage: &mut impl Stage) -> Result<Seen> {
    let name = format!("{}-{user}-{role:?}", row.attempt);
    let mut command = vec![program("bypass")?.display().to_string(), row.attempt.to_owned(), "--linger".to_owned()];
    command.extend(stage.prepare(node, row, user)?);
    let policy = if role == Role::Control { PLAIN.to_owned() } else { stage.policy(row, lsm)? };
    // It waits until the run is known: after that it may leave no daemon to ask.
    let go = node.file(&format!("{name}.go"));
    command.extend(["--after".to_owned(), go.display().to_string()]);
    let run = Launch::new(&name, &policy).user(user).start(node, command)?;
    fs::write(&go, "").context("letting it begin")?;
    let seen = watch(node, row, role, lsm, stage, &run);
    // The attempt lingers, wherever it has got to.
    let _ = fs::write(run.cgroup().join("cgroup.kill"), "1");
    drop(run);
    stage.tidy(node)?;
    seen
}

fn watch(node: &Node, row: &Row, role: Role, lsm: bool, stage: &mut impl Stage, run: &Started) -> Result<Seen> {
    stage.meanwhile(row, run)?;
    let is_frozen = || frozen(run.cgroup()).unwrap_or(false);
    let over = wait_for("the attempt is over", || Ok(run.output().contains("ANSWER ") || is_frozen()));
    over.with_context(|| format!("it said: {}{}", run.output(), run.errors()))?;
    let stopped = match (role, row.expected(lsm)) {
        (Role::Control, _) | (_, Come::Blocked) => false,
        (_, Come::Contained) => wait_for("the run is stopped", || stage.stopped(node, run)).is_ok(),
        (_, Come::Leak(_)) => {
            let end = Instant::now() + WATCHED;
            let mut stopped_yet = false;
            while !stopped_yet && Instant::now() < end {
                stopped_yet = stage.stopped(node, run)?;
            }
            stopped_yet
        }
    };
    let stopped = stopped || (role == Role::Bound && stage.stopped(node, run)?);
    let happened = stage.happened(node, row, run)?;
    let said = run.output();
    let answer = said.lines().find_map(|line| line.strip_prefix("ANSWER ")).unwrap_or("no answer").to_owned();
    Ok(Seen { answer, happened, stopped })
}
