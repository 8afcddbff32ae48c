//! Everything that enters the core. Time, feedback and operators come by the same door as signals.

use crate::{
    actor::{Actor, read_both_forms},
    decision::{Action, Mode, Outcome},
    policy::PolicyDigest,
    signal::{Kind, Real, Series, Signal, Source},
    subject::{GpuId, RunId},
    time::{MonoTime, Span},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One input of the core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A sensor saw something.
    Signal(Signal),
    /// Time has passed.
    Tick(MonoTime),
    /// An action's outcome.
    Outcome(Outcome),
    /// A run was registered and pinned to a policy.
    RunStarted(Run),
    /// The GPUs of a run are now these.
    RunGpus {
        /// The run.
        run: RunId,
        /// Its GPUs.
        gpus: BTreeSet<GpuId>,
        /// Since when.
        at: MonoTime,
    },
    /// The run's cgroup emptied, or is gone.
    RunEnded {
        /// The run.
        run: RunId,
        /// When that was seen.
        at: MonoTime,
    },
    /// An authenticated operator's command.
    Control(Control),
    /// A sensor is blind, or was.
    Gap(Gap),
    /// One signal of a GPU cannot be read, or is read again, while the sensor sees others.
    Unread(Unread),
    /// A metric that a rule needs is missing, or is reported again.
    Silent(Silent),
    /// Several metrics that rules of one run need are missing since the same time.
    Missing(Missing),
    /// From here on the run is bounded as its policy says, or only watched. Before its start: from its start on.
    Mode {
        /// The run.
        run: RunId,
        /// Carried out, or only recorded. What an operator commands is carried out in both.
        mode: Mode,
        /// Since when.
        at: MonoTime,
    },
    /// Numbers of the run's manifest. Of each the first counts for the life of the run: who sets a manifest may be the run itself, which
    /// must not move its bounds.
    Manifest {
        /// The run.
        run: RunId,
        /// By section and name: `hyperparameters.target_loss`.
        values: BTreeMap<String, Real>,
        /// When it was set.
        at: MonoTime,
    },
    /// A series of the run's metrics has ended: its process has.
    SeriesEnded {
        /// The run.
        run: RunId,
        /// The series.
        series: Series,
        /// When that was seen.
        at: MonoTime,
    },
    /// The daemon, or the whole node, stood still. Nothing could be seen in this time, so it is no silence of any run.
    Paused {
        /// When it went on.
        at: MonoTime,
        /// For how long it had stood still.
        length: Span,
    },
}

impl Input {
    /// The instant of the input.
    pub fn at(&self) -> MonoTime {
        match self {
            Input::Signal(signal) => signal.at,
            Input::Tick(at) | Input::RunGpus { at, .. } | Input::RunEnded { at, .. } => *at,
            Input::Outcome(outcome) => outcome.at,
            Input::RunStarted(run) => run.registered,
            Input::Control(control) => control.at,
            Input::Gap(gap) => gap.at,
            Input::Unread(unread) => unread.at,
            Input::Silent(silent) => silent.at,
            Input::Missing(missing) => missing.at,
            Input::SeriesEnded { at, .. }
            | Input::Mode { at, .. }
            | Input::Manifest { at, .. }
            | Input::Paused { at, .. } => *at,
        }
    }
}

/// How a containment stood when the daemon last knew, for runs adopted at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Contained {
    /// Frozen.
    pub frozen: bool,
    /// Egress latch on.
    pub blocked: bool,
    /// Frozen without a decision on record: its record was lost with an earlier daemon, or somebody else froze it.
    #[serde(default)]
    pub unexplained: bool,
}

/// A run as it is registered. The identity is (boot id, cgroup id), taken at registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Its name, unique among live runs.
    pub name: String,
    /// Labels of the caller's.
    pub labels: BTreeMap<String, String>,
    /// The user it runs as.
    pub owner_uid: u32,
    /// Its cgroup's path below the cgroup2 mount.
    pub cgroup: String,
    /// Its cgroup's id.
    pub cgroup_id: u64,
    /// The boot it was registered in (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The policy it is judged by for its whole life.
    pub policy: PolicyDigest,
    /// GPUs declared at registration.
    pub gpus: BTreeSet<GpuId>,
    /// Of those in MIG mode, the MIG devices that were declared, by UUID; a GPU that is not here was declared whole.
    #[serde(default)]
    pub mig: BTreeMap<GpuId, BTreeSet<String>>,
    /// When it was registered, or taken up by this daemon.
    pub registered: MonoTime,
    /// When it was first registered, nanoseconds since the Unix epoch. For people; nothing is judged by it.
    pub registered_wall_ns: i64,
    /// Decisions already made about it (a restarted daemon counts on from here).
    pub decisions: u32,
    /// Incidents already opened.
    pub incidents: u32,
    /// How it was contained when adopted; all false for a new run.
    pub contained: Contained,
}

/// What an operator may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Freeze the run.
    Freeze,
    /// Thaw it and lift its egress latch.
    Thaw,
    /// Kill it.
    Kill,
}

impl From<Command> for Action {
    fn from(command: Command) -> Action {
        match command {
            Command::Freeze => Action::Freeze,
            Command::Thaw => Action::Thaw,
            Command::Kill => Action::Kill,
        }
    }
}

/// An authenticated operator's command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Control {
    /// The input's number.
    pub seq: u64,
    /// When it was accepted.
    pub at: MonoTime,
    /// The run.
    pub run: RunId,
    /// What is asked.
    pub command: Command,
    /// Who asked.
    pub actor: Actor,
    /// Role under which it was allowed: `admin` or `owner`.
    pub role: String,
    /// Why.
    pub reason: String,
}

read_both_forms!(Control);

/// A sensor did not see, or lost, something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The input's number.
    pub seq: u64,
    /// When it was noticed.
    pub at: MonoTime,
    /// The blind sensor.
    pub source: Source,
    /// The run concerned; `None`: all.
    pub run: Option<RunId>,
    /// The GPU concerned; `None`: all that the sensor covers.
    pub gpu: Option<GpuId>,
    /// What was not seen, in words.
    pub what: String,
    /// How many events are known to be lost.
    pub lost: u64,
    /// False when the sensor sees again.
    pub blind: bool,
}

/// A signal of a GPU keeps failing, or is read again. It may be told more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The input's number.
    pub seq: u64,
    /// When it was noticed.
    pub at: MonoTime,
    /// The sensor.
    pub source: Source,
    /// The GPU.
    pub gpu: GpuId,
    /// The signal.
    pub kind: Kind,
    /// Why it cannot be read; `None` when it is read again.
    pub why: Option<String>,
}

impl Unread {
    /// The same as a gap, for the record.
    pub fn gap(&self) -> Gap {
        let (seq, at, source, kind) = (self.seq, self.at, self.source, &self.kind);
        let what = match &self.why {
            Some(why) => format!("{kind} cannot be read: {why}"),
            None => format!("{kind} is read again"),
        };
        Gap { seq, at, source, run: None, gpu: Some(self.gpu.clone()), what, lost: 0, blind: self.why.is_some() }
    }
}

/// A metric of a run that its rules need is missing, or is reported again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silent {
    /// The input's number.
    pub seq: u64,
    /// When it was noticed.
    pub at: MonoTime,
    /// The run.
    pub run: RunId,
    /// The metric's name.
    pub metric: String,
    /// The rules that need it: the first [`NAMED`], and how many more there are.
    pub rules: Vec<String>,
    /// Why it counts as missing; `None` when it is reported again.
    pub why: Option<String>,
}

impl Silent {
    /// The same as a gap, for the record.
    pub fn gap(&self) -> Gap {
        let rules = self.rules.join(", ");
        let what = match &self.why {
            Some(why) => format!("rule(s) {rules} cannot judge metric.{}: {why}", self.metric),
            None => format!("metric.{} is reported again: rule(s) {rules} judge it", self.metric),
        };
        let (seq, at, run) = (self.seq, self.at, Some(self.run));
        Gap { seq, at, source: Source::App, run, gpu: None, what, lost: 0, blind: self.why.is_some() }
    }
}

/// Rules and metrics that a text about several of them names. The rest is a number: any user can write a policy of a thousand.
pub const NAMED: usize = 8;

/// The first [`NAMED`] of these texts, and how many more there are.
pub fn named<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut texts = texts.into_iter();
    let mut out: Vec<String> = texts.by_ref().take(NAMED).map(Into::into).collect();
    let more = texts.count();
    if more > 0 {
        out.push(format!("and {more} more"));
    }
    out
}

/// Metrics of a run that its rules need, and that are all found missing at the same time. The engine decides once for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The input's number.
    pub seq: u64,
    /// When it was noticed.
    pub at: MonoTime,
    /// The run.
    pub run: RunId,
    /// Why each metric counts as missing, by its name.
    pub metrics: BTreeMap<String, String>,
    /// The rules that need them: the first [`NAMED`], and how many more there are.
    pub rules: Vec<String>,
}

impl Missing {
    /// The metrics with their reasons, in words.
    pub fn text(&self) -> String {
        named(self.metrics.iter().map(|(metric, why)| format!("metric.{metric} ({why})"))).join(", ")
    }

    /// The same as a gap, for the record.
    pub fn gap(&self) -> Gap {
        let what = format!("rule(s) {} cannot judge {}", self.rules.join(", "), self.text());
        let (seq, at, run) = (self.seq, self.at, Some(self.run));
        Gap { seq, at, source: Source::App, run, gpu: None, what, lost: 0, blind: true }
    }
}
