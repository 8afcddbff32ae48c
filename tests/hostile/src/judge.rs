//! What attacks are judged by: victims that violate their policy, before an attack and while it holds.

use anyhow::{Context, Result, bail, ensure};
use integration::{Launch, Node, Started, frozen, patience, program};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    time::{ClockId, clock_gettime},
    unistd::{Pid, mkfifo},
};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    time::{Duration, Instant},
};

/// A violation that freezes nobody within this time, on this machine, is a failure.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at the victim's cgroup. The looks take part of a processor, so they are not made without a pause.
const LOOK: Duration = Duration::from_micros(50);

const POLICY: &str = "[policy]\nname = \"victim\"\nowner = \"tests\"\n[egress]\nallow = [{ cidr = \"127.0.0.1/32\" }]\n\
                      [[rule]]\nid = \"forbidden\"\nrationale = \"it is tried\"\n\
                      when = { event = \"connect\", verdict = \"denied\" }\nactions = [\"freeze\"]\n";
const FORBIDDEN: &str = "tcp 127.0.0.9:4444\n";

/// Strikes at some victims. True while the judge wants to strike again under the same attack.
pub type Strike<'a> = dyn FnMut(&Node) -> Result<bool> + 'a;

/// An attack on a node. It starves its resource, strikes for as long as the judge wants, and gives the resource back.
pub type Act<'a> = dyn FnMut(&mut Node, &mut Strike<'_>) -> Result<()> + 'a;

/// Strikes until the judge has had enough, under an attack that lasts by itself.
///
/// # Errors
/// Those of a strike.
pub fn all(node: &Node, strike: &mut Strike<'_>) -> Result<()> {
    while strike(node)? {}
    Ok(())
}

/// Strikes at victims before and during an attack.
pub trait Judge {
    /// Starts a node with these settings (see `integration::on_node`), strikes, and strikes again while `act` holds the attack.
    ///
    /// # Errors
    /// A victim was not frozen in time, or the attack could not be made.
    fn withstand(&mut self, attack: &str, settings: &str, act: &mut Act<'_>) -> Result<()>;
}

/// A run that violates its policy when it is ordered to.
#[derive(Debug)]
pub struct Victim {
    run: Started,
    order: File,
    answered: usize,
}

impl Victim {
    /// Starts one of so many processes; all but the first compute without a pause.
    ///
    /// # Errors
    /// The run cannot be started.
    pub fn start(node: &Node, name: &str, processes: usize) -> Result<Victim> {
        let fifo = node.file(&format!("{name}.fifo"));
        mkfifo(&fifo, Mode::from_bits_truncate(0o600)).context("making a fifo")?;
        let violator = program("violator")?;
        let command =
            format!("exec {} --ask --busy --stamp --processes {processes} < {}", violator.display(), fifo.display());
        let run = Launch::new(name, POLICY).user("root").start(node, ["sh", "-c", &command])?;
        // Opening waits until the victim reads.
        let order = OpenOptions::new().write(true).open(&fifo).context("opening the fifo")?;
        let victim = Victim { run, order, answered: 0 };
        integration::wait_for("the victim has all its processes", || {
            Ok(integration::members(victim.run.cgroup())?.len() == processes)
        })?;
        Ok(victim)
    }

    /// Its run.
    pub fn run(&self) -> &Started {
        &self.run
    }

    /// Stops or continues all its processes, so that they take no processor from another victim.
    ///
    /// # Errors
    /// A process cannot be signalled.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        for pid in integration::members(self.run.cgroup())? {
            kill(Pid::from_raw(i32::try_from(pid)?), signal).with_context(|| format!("signalling {pid}"))?;
        }
        Ok(())
    }

    /// Orders one violation. From the order until the kernel says that the whole run is frozen.
    ///
    /// # Errors
    /// It is not frozen.
    pub fn strike(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.violate()?;
        Ok(began.elapsed())
    }

    /// The same, from the begin of the forbidden call, and thawed afterwards.
    ///
    /// # Errors
    /// It is not frozen, or cannot be thawed.
    pub fn strike_and_thaw(&mut self, node: &Node) -> Result<Duration> {
        let frozen_at = self.violate()?;
        self.thaw(node)?;
        let began = self.answer()?;
        Ok(frozen_at.saturating_sub(began))
    }

    /// When it was seen frozen, `CLOCK_MONOTONIC`.
    fn violate(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.order.write_all(FORBIDDEN.as_bytes()).context("ordering the violation")?;
        let limit = patience(PATIENCE);
        while !frozen(self.run.cgroup())? {
            ensure!(began.elapsed() < limit, "{} was not frozen within {} s", self.run.name(), limit.as_secs());
            std::thread::sleep(LOOK);
        }
        Ok(clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the clock")?.into())
    }

    fn thaw(&self, node: &Node) -> Result<()> {
        // Once the daemon has the proof of the freeze: a thaw before that meets the freeze that is still verified.
        integration::wait_for(
            "the daemon has proved the freeze",
            || Ok(node.run(self.run.id())?["state"] == "frozen"),
        )?;
        node.ctl(["thaw", self.run.id(), "--reason", "next trial", "--timeout", "20s"])?.expect(0)?;
        integration::wait_for("the victim goes on", || Ok(!frozen(self.run.cgroup())?))
    }

    /// When the next of its connects began. It answers `EPERM TOOK_NS BEGAN_NS`.
    fn answer(&mut self) -> Result<Duration> {
        let nth = self.answered;
        let line = integration::wait_for_some("the victim answers", || {
            let output = self.run.output();
            let whole = output.matches('\n').count();
            Ok(output.lines().take(whole).nth(nth).map(str::to_owned))
        })?;
        self.answered += 1;
        let words: Vec<&str> = line.split(' ').collect();
        let [errno, _, began] = words.as_slice() else { bail!("the victim answers {line:?}") };
        ensure!(*errno == "EPERM", "the victim answers {line:?}");
        Ok(Duration::from_nanos(began.parse().with_context(|| format!("no time in {line:?}"))?))
    }

    /// One bare freeze and thaw of its cgroup, past the daemon: the least that a freeze takes here.
    ///
    /// # Errors
    /// The cgroup's files cannot be read or written.
    pub fn floor(&self) -> Result<Duration> {
        let file = self.run.cgroup().join("cgroup.freeze");
        let write = |value: &str| std::fs::write(&file, value).with_context(|| format!("writing {}", file.display()));
        let began = Instant::now();
        write("1")?;
        while !frozen(self.run.cgroup())? {
            ensure!(began.elapsed() < patience(PATIENCE), "a bare write does not freeze the victim");
            std::thread::sleep(LOOK);
        }
        let took = began.elapsed();
        write("0")?;
        integration::wait_for("the victim goes on", || Ok(!frozen(self.run.cgroup())?))?;
        Ok(took)
    }
}
