//! Discovery: makes runs of the cgroups that `[[discover]]` of the configuration describes.
//!
//! ```text
//! start, every rescan, overflow ─► folders: list all ─┐
//! kernel: a folder was made ─────► folders: look in ──┴─► rules ─► consider ─► registry ─► pipeline: judged from here on
//!                                                                     └─► why not: view, audit log
//! ```
//! A cgroup is registered when the kernel has reported it: its first processes may run before that, and the run's record says so.
//!
//! Invariants: only cgroups are registered of which nobody but root chose the path; one owner has at most `runs_per_owner` discovered
//! runs, all owners together `runs`; what does not get a run is counted and shown; a policy that becomes unreadable stays in use as it
//! was read before.

mod admins;
mod canary;
mod early;
mod folders;
pub mod gpus;
mod policies;
mod register;
mod shadows;
pub mod view;

use crate::{
    config::Config,
    log::Log,
    pipeline::{Message, Sender},
    platform::clock,
    runs::{LiveRun, NO_UID, Registry, owner},
    shadows::Shadows,
    watchers::keep::NodeState,
};
use admins::Admins;
use failsafe_core::{
    Policy,
    discover::{Explained, Rules, is_discovered},
    input::Gap,
    record::Record,
    signal::Source,
    time::MonoTime,
};
use folders::Folders;
use nix::poll::{PollFd, PollFlags, poll};
use policies::Policies;
use register::{Kind, Refused};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use view::{MOST_LISTED, MatchedCgroup, RuleView, Shared, View};

/// How long the thread waits for a report before it looks at the stop flag.
const WAIT_MS: u8 = 200;
/// The same while the run of a cgroup that was removed ends, and another one at its path waits for that.
const AGAIN_MS: u8 = 20;
/// Most cgroups that are tried again so soon.
const MOST_AGAIN: usize = 4_096;
/// How often owners that are not known are looked for.
const OWNERS: Duration = Duration::from_secs(1);
/// From this age on a run of root's processes only is root's.
const SETTLED: Duration = Duration::from_secs(10);
/// The audit log has at most one entry in this time about cgroups that are not registered.
const NOTED: Duration = Duration::from_secs(60);
/// The code of the node's reason of health while discovery does not work.
pub const CODE: &str = "discovery";

/// Why this node does not pin a policy; `None`: it does.
pub type Refusal = Box<dyn Fn(&Policy) -> Option<String> + Send>;

/// Why policies that the rules name cannot be used as their files are now. Whether this node can enforce them is not checked.
pub fn unusable_policies(config: &Config) -> Vec<String> {
    let mut policies = Policies::new(config.policy_dir.clone(), &config.discover.0);
    let accepted: Refusal = Box::new(|_| None);
    policies.read(&config.discover.0, &accepted);
    policies.errors().collect()
}

/// What the thread needs of the daemon.
pub struct Parts {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// The way into the pipeline.
    pub pipeline: Sender,
    /// This boot's id.
    pub boot_id: String,
    /// Whether a policy may be used here.
    pub refusal: Refusal,
    /// What people see.
    pub view: Arc<Shared>,
    /// Policies that are judged beside those of the rules.
    pub shadows: Shadows,
}

/// The thread.
pub struct Discovery {
    parts: Parts,
    rules: Arc<Rules>,
    limits: crate::config::Discovery,
    /// Where the paths of patterns begin: below the mount, and as a folder.
    root: PathBuf,
    policies: Policies,
    admins: Admins,
    /// Matching cgroups, by their path below the root.
    found: BTreeMap<String, MatchedCgroup>,
    /// Those beyond [`MOST_LISTED`] that have no run, by reason.
    unlisted: BTreeMap<String, u64>,
    /// To be tried again at once.
    again: BTreeSet<String>,
    /// Those without a run when the last pass began.
    open_before: BTreeSet<String>,
    /// In a pass, not at a report.
    passing: bool,
    missing: Missing,
    overflows: u64,
    problem: Option<String>,
    state: NodeState,
    noted: Option<(Instant, Missing)>,
    began: bool,
    early: early::Early,
    finder: gpus::alive::Watch,
}

/// Matching cgroups that had no policy. All but `now` only grow: users can make and remove cgroups between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Missing {
    now: u64,
    refused: u64,
    gone: u64,
}

impl Discovery {
    /// The thread's state. Nothing is looked at yet.
    pub fn new(parts: Parts, config: &Config) -> Discovery {
        let rules = Arc::new(config.discover.0.clone());
        let policies = Policies::new(config.policy_dir.clone(), &rules);
        Discovery {
            parts,
            rules,
            limits: config.discovery.clone(),
            root: config.discovery.root.clone(),
            policies,
            admins: Admins::new(config.admin_group.clone()),
            found: BTreeMap::new(),
            unlisted: BTreeMap::new(),
            again: BTreeSet::new(),
            open_before: BTreeSet::new(),
            passing: false,
            missing: Missing::default(),
            overflows: 0,
            problem: None,
            state: NodeState::new(CODE),
            noted: None,
            began: false,
            early: early::Early::default(),
            finder: gpus::alive::Watch::default(),
        }
    }

    /// Works until `stop`.
    pub fn work(mut self, stop: &AtomicBool) {
        let mount = self.parts.registry.root().mount().join(&self.root);
        let mut folders = match Folders::new(mount, usize::try_from(self.limits.watches).unwrap_or(usize::MAX)) {
            Ok(folders) => folders,
            Err(error) => {
                return self.fail(stop, format!("new cgroups are not reported: inotify: {}", error.desc()));
            }
        };
        let (mut next, mut owners) = (Instant::now(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                self.pass(&mut folders);
                self.arm();
                next = Instant::now() + self.limits.rescan();
            }
            if owners.elapsed() >= OWNERS {
                owners = Instant::now();
                self.learn_owners();
                self.note();
                self.check_finder();
            }
            let mut changed = self.tend_early(false);
            if self.is_early_overdue() {
                next = Instant::now();
                continue;
            }
            for path in std::mem::take(&mut self.again) {
                changed |= self.consider(&path);
            }
            let mut fds = [PollFd::new(folders.fd(), PollFlags::POLLIN)];
            let wait = if self.again.is_empty() { WAIT_MS } else { AGAIN_MS };
            let ready = poll(&mut fds, wait).unwrap_or(0) > 0;
            let reported = if ready { folders.reported() } else { Default::default() };
            if reported.overflow {
                self.overflows += 1;
                next = Instant::now();
            }
            for made in reported.made {
                let mut seen = Vec::new();
                folders.take_in(&made, &self.rules, &mut |path| seen.push(path.to_owned()));
                for path in seen {
                    changed |= self.consider(&path);
                }
            }
            if changed {
                self.publish(&folders);
            }
        }
    }

    /// Without reports nothing is discovered: the thread stays, so that the daemon does, and people see why.
    fn fail(mut self, stop: &AtomicBool, why: String) {
        tracing::error!(why, "discovery does not work");
        self.parts.registry.retire_early();
        self.problem = Some(why.clone());
        self.parts.view.view().problem = Some(why.clone());
        while !stop.load(Ordering::Relaxed) {
            self.report(Some(why.clone()));
            std::thread::park_timeout(Duration::from_millis(WAIT_MS.into()));
        }
    }

    /// Looks at everything.
    fn pass(&mut self, folders: &mut Folders) {
        self.policies.read(&self.rules, &self.parts.refusal);
        let open = std::mem::take(&mut self.found).into_iter().filter(|(_, found)| found.is_open());
        self.open_before = open.map(|(path, _)| path).collect();
        self.unlisted.clear();
        self.passing = true;
        let mut seen = Vec::new();
        let whole = folders.pass(&self.rules, &mut |path| seen.push(path.to_owned()));
        for path in seen {
            self.consider(&path);
        }
        (self.began, self.passing) = (true, false);
        self.release_overdue(whole);
        self.tend_early(true);
        self.forget_left_out();
        let mut problems: Vec<String> = self.policies.errors().collect();
        if self.open() > 0 {
            // Without a number: users make cgroups, and each text is an entry of the log.
            problems.push("cgroups match a rule and have no run: `failsafectl discover list` shows them".into());
        }
        if !whole {
            problems.push("there are more cgroups than one pass looks at: some have no run".into());
        }
        if folders.unwatched > 0 {
            problems.push(format!(
                "{} folders are not watched (limit `discovery.watches` {}): cgroups in them are found every {} s only",
                folders.unwatched, self.limits.watches, self.limits.rescan_s
            ));
        }
        problems.extend(self.early_problems());
        self.problem = (!problems.is_empty()).then(|| problems.join("; "));
        self.report(self.problem.clone());
        self.publish(folders);
        self.note();
    }

    /// Makes a run of a cgroup that matches. Whether anything was found of it.
    fn consider(&mut self, path: &str) -> bool {
        let rules = Arc::clone(&self.rules);
        let existed = !self.began;
        let folder = self.parts.registry.root().mount().join(&self.root).join(path);
        // Of the cgroup that is judged, and not of one that takes its place meanwhile.
        let id = fs::metadata(&folder).ok().map(|folder| folder.ino());
        let (rule, state) = match rules.explain(path) {
            Explained::Match(matched) => (matched.rule.name.clone(), self.register(path, &matched, existed)),
            Explained::Supervisor { rule, why } => {
                (rule.to_owned(), Err(Refused { why: why.into(), kind: Kind::Overruled }))
            }
            Explained::None(_) => return false,
        };
        let kind = state.as_ref().err().map(|refused| refused.kind);
        if let (Err(refused), Some(id)) = (&state, id) {
            match refused.kind {
                // It is about to be registered, and stays bound until then.
                Kind::Again => self.is_not_overdue(id),
                _ => self.release(id, &refused.why),
            }
        }
        if kind.is_some() && !folder.is_dir() {
            self.found.remove(path);
            // Whether a process was in it is not known.
            self.missing.gone += u64::from(kind == Some(Kind::Open));
            return false;
        }
        if kind == Some(Kind::Again) && self.again.len() < MOST_AGAIN {
            self.again.insert(path.to_owned());
        }
        let known = self.open_before.contains(path) || self.found.get(path).is_some_and(MatchedCgroup::is_open);
        let of_path = self.root.join(path).display().to_string();
        let state = state.map_err(|refused| refused.why);
        let found = MatchedCgroup { path: of_path, rule, state, overruled: kind == Some(Kind::Overruled) };
        let listed = self.found.contains_key(path) || self.found.len() < MOST_LISTED || found.state.is_ok();
        if kind == Some(Kind::Open) && (if listed { !known } else { !self.passing }) {
            self.missing.refused += 1;
            let why = found.state.as_ref().err();
            tracing::warn!(path, rule = found.rule, why, "a cgroup that matches has no run");
        }
        match &found.state {
            Err(_) if !listed && found.overruled => {}
            Err(why) if !listed => *self.unlisted.entry(why.clone()).or_default() += 1,
            _ => drop(self.found.insert(path.to_owned(), found)),
        }
        // Reasons name paths: their number is bounded like that of the list.
        while self.unlisted.len() > MOST_LISTED {
            self.unlisted.pop_last();
        }
        true
    }

    /// How many cgroups should have a run now, and have none.
    fn open(&self) -> u64 {
        self.found.values().filter(|found| found.is_open()).count() as u64 + self.unlisted.values().sum::<u64>()
    }

    /// Looks for owners that are not known yet. Each one that is found is on record: what the next daemon, messages and pages have of a
    /// run is what the audit log has.
    fn learn_owners(&self) {
        for live in self.discovered().filter(|live| live.known().owner_uid == NO_UID && live.ended().is_none()) {
            let age = clock::monotonic_ns().saturating_sub(live.run.registered.0);
            let container = live.run.labels.contains_key("container");
            let Some((owner_uid, by)) = owner::found(&live.cgroup, Duration::from_nanos(age) >= SETTLED, container)
            else {
                continue;
            };
            // Before the entry is written: whoever reads it may read the others of the run too.
            if live.belongs_to(owner_uid) {
                let run = live.run.id;
                self.parts.log.record(&Record::RunOwner { run, owner_uid, by }, Some(run), None);
                self.parts.registry.touched().note(run);
            }
        }
    }

    fn discovered(&self) -> impl Iterator<Item = Arc<LiveRun>> {
        self.parts.registry.live().into_iter().filter(|live| is_discovered(&live.run.labels))
    }

    /// One entry of the audit log about all cgroups that have no run, not one for each: users make cgroups.
    fn note(&mut self) {
        let missing = Missing { now: self.open(), ..self.missing };
        let due = match self.noted {
            None => missing != Missing::default(),
            Some((at, before)) => before != missing && at.elapsed() >= NOTED,
        };
        if !due {
            return;
        }
        let Missing { now, refused, gone } = missing;
        let first = self.found.values().find(|found| found.is_open());
        let first =
            first.and_then(|found| Some(format!("; the first one is {}: {}", found.path, found.state.as_ref().err()?)));
        let what = format!(
            "{now} cgroups match a rule of discovery and have no run, so no policy is in force there; since the daemon started, \
             {refused} cgroups got no run, and {gone} were removed before they could get one{}; `failsafectl discover list` \
             shows those that exist",
            first.unwrap_or_default()
        );
        let at = MonoTime(clock::monotonic_ns());
        let gap = Gap { seq: 0, at, source: Source::Guard, run: None, gpu: None, what, lost: 0, blind: false };
        self.parts.log.record(&Record::Gap(gap), None, None);
        self.noted = Some((Instant::now(), missing));
    }

    /// Reports that the thread which finds the GPUs of runs does not work.
    fn check_finder(&mut self) {
        let (gap, message) = self.finder.look(self.parts.view.finder(), Instant::now());
        if let Some(gap) = gap {
            tracing::error!(what = gap.what, "gap");
            self.parts.log.record(&Record::Gap(gap), None, None);
        }
        message.into_iter().for_each(|message| self.send(message));
    }

    fn publish(&self, folders: &Folders) {
        let rules = (0..).zip(self.rules.iter()).map(|(number, rule)| {
            let own = || self.found.values().filter(|found| found.rule == rule.name);
            RuleView {
                name: rule.name.clone(),
                patterns: rule.patterns.iter().map(ToString::to_string).collect(),
                policy: rule.policy.clone(),
                mode: rule.mode,
                error: self.policies.error(&rule.policy),
                registered: own().filter(|found| found.state.is_ok()).count() as u64,
                refused: own().filter(|found| found.is_open()).count() as u64,
                early: self.is_early(number),
            }
        });
        let view = View {
            rules: rules.collect(),
            found: self.found.values().cloned().collect(),
            unlisted: self.unlisted.clone(),
            watched: (folders.len() as u64, self.limits.watches.into()),
            overflows: self.overflows,
            early: self.early_view(),
            problem: self.problem.clone(),
        };
        *self.parts.view.view() = view;
    }

    /// Has the node's health show this problem, or that there is none.
    fn report(&mut self, problem: Option<String>) {
        if let Some(message) = self.state.update(problem) {
            self.send(message);
        }
    }

    fn send(&self, message: Message) {
        // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
        let _closed = self.parts.pipeline.send(message);
    }
}
