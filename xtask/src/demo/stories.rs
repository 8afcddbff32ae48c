//! The three runs that go wrong.

use super::Stage;
use super::run::Run;
use crate::interrupt::check;
use anyhow::{Context, Result, bail};
use failsafe_core::Action;
use failsafe_core::decision::{Decision, Outcome, Verdict};
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

/// What is left of a story.
pub struct StoryResult {
    /// The run's name.
    pub run: String,
    /// Its incident.
    pub incident: String,
}

/// An address of this host that is not on the policy's allow-list: no packet of the demo ever leaves the machine, and yet
/// only the block keeps the weights from their thief.
const THIEF: &str = "127.0.0.66:0";

/// A trainer tries to send its weights away.
///
/// # Errors
/// It was not blocked, not frozen, or the weights arrived.
pub fn exfiltration(stage: &Stage) -> Result<StoryResult> {
    let screen = &stage.screen;
    screen.title("1 of 3: a trainer tries to send its weights to an address that its policy does not allow");
    let thief = TcpListener::bind(THIEF).context("listening as the thief")?;
    thief.set_nonblocking(true).context("listening as the thief")?;
    let to = thief.local_addr().context("the thief's address")?.to_string();
    screen.say(format_args!("a thief listens on {to}"));
    let mut run = Run::start(stage, "exfiltration", &[], &["--steps", "0", "--exfiltrate-at", "40", "--to", &to])?;
    let (decision, _) = frozen(stage, &run, &["weights-leave"])?;
    match thief.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            screen.more("nobody connected to the thief: the kernel refused the call, before any packet");
        }
        Err(error) => return Err(error).context("asking for the thief's connections"),
        Ok(_) => bail!("the weights reached the thief"),
    }
    let reason = "weights were being sent away: evidence is kept, the run must not go on";
    operator(stage, Action::Kill, &run, reason)?;
    run.wait()?;
    stage.watch.ended(screen, &run.name)?;
    Ok(StoryResult { run: run.name.clone(), incident: decision.incident.to_string() })
}

/// A loss diverges; the operator puts the learning rate right and lets the run go on.
///
/// # Errors
/// It was not frozen, or did not go on.
pub fn divergence(stage: &Stage) -> Result<StoryResult> {
    let screen = &stage.screen;
    screen.title("2 of 3: a trainer's loss diverges; the operator mends its learning rate and lets it go on");
    let rate = stage.daemon.folder().join("learning-rate");
    fs::write(&rate, "0.05").context("writing the learning rate")?;
    let (rate, socket) = (rate.display().to_string(), stage.daemon.metrics_socket().display().to_string());
    let trainer = ["--steps", "120", "--lr-file", &rate, "--report", &socket];
    let mut run = Run::start(stage, "loss-divergence", &[], &trainer)?;
    run.reach(40)?;
    screen.say(format_args!("{}; now somebody sets the learning rate to 5", run.last_line()));
    fs::write(&rate, "5").context("writing the learning rate")?;
    let (decision, _) = frozen(stage, &run, &["loss-exploded", "loss-not-finite"])?;
    screen.more(format_args!("its last word: {}", run.last_line()));
    let at = run.step();
    fs::write(&rate, "0.05").context("writing the learning rate")?;
    operator(stage, Action::Thaw, &run, "learning rate is back at 0.05; the trainer returns to its best weights")?;
    run.reach(at + 10)?;
    screen.say(format_args!("it goes on: {}", run.last_line()));
    run.wait()?;
    screen.say(format_args!("the trainer ends by itself: {}", run.last_line()));
    stage.watch.ended(screen, &run.name)?;
    Ok(StoryResult { run: run.name.clone(), incident: decision.incident.to_string() })
}

/// A GPU overheats.
///
/// # Errors
/// The run was not frozen.
pub fn overheating(stage: &Stage) -> Result<StoryResult> {
    let screen = &stage.screen;
    let how = if stage.nvml.starts_with("simulated") { "simulated NVML" } else { stage.nvml.as_str() };
    screen.title(format_args!("3 of 3: a GPU overheats ({how})"));
    let mut run = Run::start(stage, "gpu-overheating", &["--gpu", "0"], &["--steps", "0"])?;
    stage.gpu.set_process(run.pid())?;
    run.reach(20)?;
    screen.say(format_args!("its cooling fails: the card goes from 62 C to 94 C within a second ({how})"));
    for tenth in 1..=10 {
        check()?;
        stage.gpu.set_clock(10.0 + f64::from(tenth))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let decision = stage.watch.freeze_by(screen, &["too-hot"])?;
    let outcome = stage.watch.outcomes(screen, &decision, Action::Freeze)?;
    screen.more(format_args!("the trainer stands at step {}", run.stands_still()?));
    if outcome.verdict != Verdict::Proved {
        screen.say("what was queued on the card comes to its end");
        stage.gpu.set_clock(40.0)?;
        stage.watch.proved(screen, &decision, Action::Freeze)?;
    }
    operator(stage, Action::Kill, &run, "card goes to repair")?;
    run.wait()?;
    stage.watch.ended(screen, &run.name)?;
    Ok(StoryResult { run: run.name.clone(), incident: decision.incident.to_string() })
}

/// Waits until one of `rules` has frozen the run, and sees for itself that the trainer stands still.
fn frozen(stage: &Stage, run: &Run, rules: &[&str]) -> Result<(Decision, Outcome)> {
    let decision = stage.watch.freeze_by(&stage.screen, rules)?;
    let outcome = stage.watch.outcomes(&stage.screen, &decision, Action::Freeze)?;
    if outcome.verdict != Verdict::Proved {
        bail!("the freeze of {} was not proved: {:?}", run.name, outcome.verdict);
    }
    stage.screen.more(format_args!("the trainer stands at step {}", run.stands_still()?));
    Ok((decision, outcome))
}

/// The operator's command, with the reason that it must have.
fn operator(stage: &Stage, command: Action, run: &Run, reason: &str) -> Result<()> {
    stage.screen.say(format_args!("$ failsafectl {command} {} --reason '{reason}'", run.name));
    let said = crate::shell::read(&mut stage.daemon.ctl([command.name(), &run.name, "--reason", reason]))?;
    stage.screen.quote(&said);
    stage.watch.operator(&stage.screen, command)?;
    Ok(())
}
