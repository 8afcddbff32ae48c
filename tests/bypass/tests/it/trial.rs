//! One attempt, made outside every run (the control) and in a run, and what was seen of it from outside.

use crate::{
    inside::Inside,
    report::{Judged, Report},
};
use anyhow::{Context, Result, bail, ensure};
use bypass::table::{Come, Row};
use integration::{Node, frozen, wait_for};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long a deed that nothing should stop is watched: so that a leak that was closed is seen to be.
const WATCHED: Duration = Duration::from_millis(500);

/// What the attempt is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To show that it works on this kernel: outside every run, where failsafe bounds nothing.
    Control,
    /// To be stopped: in a run, under the policy that ought to do it.
    Bound,
}

/// What a subject brings.
pub trait Stage {
    /// The policy that ought to stop the attempt; `lsm`: LSM programs are there to do it.
    fn policy(&mut self, row: &Row, lsm: bool) -> Result<String>;

    /// Makes ready what the attempt needs outside, and says what it is to be told.
    fn prepare(&mut self, node: &Node, row: &Row, user: &str) -> Result<Vec<String>>;

    /// Does what has to be done outside while the attempt goes on.
    fn meanwhile(&mut self, _: &Row, _: &Inside) -> Result<()> {
        Ok(())
    }

    /// What was seen of it outside, in a few words.
    fn happened(&mut self, node: &Node, row: &Row, run: &Inside) -> Result<Option<String>>;

    /// Whether something of the run is still where no bounds hold.
    fn at_large(&self) -> Result<bool> {
        Ok(false)
    }

    /// The whole run is frozen, or what left it was brought back, by a decision on record, and nothing is at large.
    fn stopped(&self, node: &Node, run: &Inside) -> Result<bool> {
        let events = run.events(node)?;
        let proved = events.iter().filter(|e| e["body"]["verdict"] == "proved");
        let is_frozen = frozen(run.cgroup()).unwrap_or(false);
        let mut actions = proved.map(|e| &e["body"]["action"]);
        let done = actions.any(|action| action["recapture"].is_object() || (action == "freeze" && is_frozen));
        Ok(done && !self.at_large()?)
    }

    /// Whether a decision is on record on something that the kernel refused.
    fn denied(&self, node: &Node, run: &Inside) -> Result<bool> {
        let refused = |seen: &Value| seen["value"]["Event"].to_string().contains(r#""verdict":"Denied""#);
        let is = |e: &Value| e["body"]["decision"]["values"].as_array().is_some_and(|seen| seen.iter().any(refused));
        Ok(run.events(node)?.iter().any(is))
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
    /// A decision is on record on something that the kernel refused.
    denied: bool,
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
    for (place, row) in rows.iter().enumerate() {
        for user in chosen(row.who.users(), place, half()?) {
            let expected = row.expected(lsm);
            let judged = compare(expected, row.attempt.contains("race"), |role| act(node, row, user, role, lsm, stage));
            report.add(row, user, expected, judged.with_context(|| format!("{} as {user}", row.attempt)));
        }
    }
    report.close()
}

/// `FAILSAFE_BYPASS_HALF`, 0 or 1: each attempt is made as one user only, on another machine as the other one.
fn half() -> Result<Option<usize>> {
    match std::env::var("FAILSAFE_BYPASS_HALF").as_deref() {
        Err(_) => Ok(None),
        Ok("0") => Ok(Some(0)),
        Ok("1") => Ok(Some(1)),
        Ok(other) => bail!("FAILSAFE_BYPASS_HALF is `{other}`: expected 0 or 1"),
    }
}

/// The users as whom the attempt at this place of the table is made. Both halves together make it as each of them.
fn chosen(users: &[&'static str], place: usize, half: Option<usize>) -> Vec<&'static str> {
    match half {
        Some(half) if users.len() > 1 => users.iter().copied().skip((place + half) % 2).step_by(2).collect(),
        _ => users.to_vec(),
    }
}

#[test]
fn two_halves_make_each_attempt_as_each_user_once() {
    for place in 0..4 {
        for users in [vec!["root"], vec!["root", "nobody"]] {
            let halves = [0, 1].map(|half| chosen(&users, place, Some(half)));
            assert!(halves.iter().all(|half| half.len() == 1), "{place} {users:?}: {halves:?}");
            let together: std::collections::BTreeSet<_> = halves.into_iter().flatten().collect();
            assert_eq!(together, users.iter().copied().collect());
            assert_eq!(chosen(&users, place, None), users);
        }
    }
}

/// Makes the attempt twice and says what it came to.
pub fn compare(expected: Come, race: bool, mut act: impl FnMut(Role) -> Result<Seen>) -> Result<Judged> {
    // A race that was not won says nothing: not that it was refused, nor that it got through.
    let lost = |seen: &Seen| {
        race && seen.happened.is_none() && !seen.stopped && !refused(&seen.answer) && !absent(&seen.answer)
    };
    let control = act(Role::Control)?;
    if lost(&control) {
        return Ok(Judged::Absent("the race was not won without bounds either".to_owned()));
    }
    if control.happened.is_none() {
        ensure!(absent(&control.answer), "the control did not get through either: {control:?}");
        return Ok(Judged::Absent(control.answer));
    }
    let seen = act(Role::Bound)?;
    if lost(&seen) {
        return Ok(Judged::Absent("the race was not won in the run".to_owned()));
    }
    let words =
        format!("{}{}", seen.answer, seen.happened.as_ref().map(|h| format!("; seen: {h}")).unwrap_or_default());
    let come = match (&seen.happened, seen.stopped) {
        // Frozen, or brought back, before it came so far.
        (None, true) if expected == Come::Contained => Come::Contained,
        // Frozen for what was refused, the attempt may not have come to say so.
        (None, _) if refused(&seen.answer) || seen.denied => Come::Blocked,
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
    let told = stage.prepare(node, row, user)?;
    let run = match role {
        Role::Control => Inside::no_run(node, row.attempt, user, &told)?,
        Role::Bound => Inside::run(node, row.attempt, user, &told, &stage.policy(row, lsm)?)?,
    };
    let seen = watch(node, row, role, lsm, stage, &run);
    drop(run);
    stage.tidy(node)?;
    seen
}

fn watch(node: &Node, row: &Row, role: Role, lsm: bool, stage: &mut impl Stage, run: &Inside) -> Result<Seen> {
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
    let denied = role == Role::Bound && stage.denied(node, run)?;
    let happened = stage.happened(node, row, run)?;
    let said = run.output();
    let answer = said.lines().find_map(|line| line.strip_prefix("ANSWER ")).unwrap_or("no answer").to_owned();
    Ok(Seen { answer, happened, stopped, denied })
}
