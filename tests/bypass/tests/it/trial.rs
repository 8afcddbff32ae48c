//! One attempt in one run, and what was seen of it from outside the run.

use crate::report::Report;
use anyhow::{Context, Result, bail, ensure};
use bypass::table::{Come, Row};
use integration::{Launch, Node, frozen, program, wait_for};
use serde_json::Value;

/// No bounds at all: for the control, which shows that the attempt works on this kernel.
pub const PLAIN: &str = "[policy]\nname = \"none\"\nowner = \"tests\"\n";

/// What a subject brings.
pub trait Stage {
    /// The policy that ought to stop the attempt.
    fn policy(&mut self, row: &Row) -> Result<String>;

    /// Makes ready what the attempt needs outside, and says what it is to be told.
    fn prepare(&mut self, row: &Row, user: &str) -> Result<Vec<String>>;

    /// Does what has to be done outside while the attempt goes on.
    fn meanwhile(&mut self, _: &Row, _: &Inside) -> Result<()> {
        Ok(())
    }

    /// What was seen of it outside, in a few words; called once, after the run has ended or was frozen.
    fn happened(&mut self, row: &Row) -> Result<Option<String>>;
}

/// The run that makes the attempt.
pub struct Inside {
    run: integration::Started,
}

impl Inside {
    /// The run.
    pub fn run(&self) -> &integration::Started {
        &self.run
    }
}

/// What became of one attempt.
#[derive(Debug)]
struct Seen {
    answer: String,
    happened: Option<String>,
    frozen: bool,
    brought_back: bool,
    denied: bool,
}

/// Whether LSM programs are loaded on this node.
pub fn lsm(node: &Node) -> Result<bool> {
    let doctor = node.ctl(["doctor", "-o", "json"])?.json()?;
    let checks = doctor["checks"].as_array().context("the doctor's checks")?;
    let works = |c: &Value| c["area"] == "ebpf" && c["state"] == "works";
    Ok(checks.iter().any(|c| works(c) && c["name"].as_str().is_some_and(|n| n.contains("(lsm"))))
}

/// Makes every attempt of the rows, as each user, and judges all of them before it fails.
pub fn judge(node: &Node, subject: &str, rows: &[Row], stage: &mut impl Stage) -> Result<()> {
    let lsm = lsm(node)?;
    let mut report = Report::new(subject, lsm);
    for row in rows {
        for user in row.who.users() {
            let expected = if lsm { row.lsm } else { row.cgroup };
            let judged = once(node, row, user, stage).with_context(|| format!("{} as {user}", row.attempt));
            report.add(row, user, expected, judged);
        }
    }
    report.close()
}

/// `None`: this kernel has not got what the attempt needs, in its own words.
fn once(node: &Node, row: &Row, user: &str, stage: &mut impl Stage) -> Result<(Result<Come, String>, String)> {
    let control = act(node, row, user, "control", PLAIN, stage)?;
    if control.happened.is_none() {
        ensure!(absent(&control.answer), "the control did not get through either: {control:?}");
        return Ok((Err(control.answer), String::new()));
    }
    let policy = stage.policy(row)?;
    let seen = act(node, row, user, "bound", &policy, stage)?;
    let words =
        format!("{}{}", seen.answer, seen.happened.as_ref().map(|h| format!("; seen: {h}")).unwrap_or_default());
    let come = match (&seen.happened, seen.frozen || seen.brought_back) {
        (None, _) if seen.denied || seen.frozen => Come::Blocked,
        (None, _) => bail!("it was not seen outside, but nothing says that it was refused: {seen:?}"),
        (Some(_), true) => Come::Contained,
        (Some(_), false) => Come::Leak(""),
    };
    Ok((Ok(come), words))
}

/// Answers by which a kernel says that it has no such thing.
fn absent(answer: &str) -> bool {
    const ANSWERS: [&str; 7] =
        ["EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EAFNOSUPPORT", "ENOPROTOOPT", "ENOSYS", "EOPNOTSUPP", "ENODEV"];
    answer.split(' ').next().is_some_and(|errno| ANSWERS.contains(&errno))
}

fn act(node: &Node, row: &Row, user: &str, role: &str, policy: &str, stage: &mut impl Stage) -> Result<Seen> {
    let name = format!("{}-{user}-{role}", row.attempt);
    let mut command = vec![program("bypass")?.display().to_string(), row.attempt.to_owned()];
    command.extend(stage.prepare(row, user)?);
    let run = Launch::new(&name, policy).user(user).start(node, command)?;
    let mut inside = Inside { run };
    stage.meanwhile(row, &inside)?;
    let over = wait_for("the attempt is over", || {
        Ok(inside.run.output().contains("ANSWER ") || !inside.run.cgroup().exists() || frozen(inside.run.cgroup())?)
    });
    over.with_context(|| format!("it said: {}{}", inside.run.output(), inside.run.errors()))?;
    let said = inside.run.output();
    let answer = said.lines().find_map(|line| line.strip_prefix("ANSWER ")).unwrap_or("no answer").to_owned();
    if answer != "no answer" && !is_frozen(&inside) {
        inside.run.ends()?;
    }
    let happened = stage.happened(row)?;
    let frozen = is_frozen(&inside);
    let events = node.events()?;
    let of_run = || events.iter().filter(|e| e["run"] == inside.run.id());
    let brought_back =
        of_run().any(|e| e["body"]["action"]["recapture"].is_object() && e["body"]["verdict"] == "proved");
    let decided = of_run().any(|e| e["kind"] == "decision");
    let seen = Seen { denied: refused(&answer), frozen: frozen && decided, brought_back, happened, answer };
    if frozen {
        node.ctl(["kill", &name, "--reason", "the attempt is over"])?.expect(0)?;
    }
    Ok(seen)
}

fn is_frozen(inside: &Inside) -> bool {
    frozen(inside.run.cgroup()).unwrap_or(false)
}

/// The call itself was refused by who may.
fn refused(answer: &str) -> bool {
    answer.starts_with("EPERM ") || answer.starts_with("EACCES ")
}
