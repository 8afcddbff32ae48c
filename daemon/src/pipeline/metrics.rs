//! From the metrics sockets to inputs of the core.
//!
//! Metrics wait in a mailbox of their own: however many come, one message of the pipeline's queue stands for them, and what
//! it stands for is taken in within a millisecond, so that they do not delay a containment.

use super::{Sender, mailbox::Poster};
use crate::{
    config::{Config, Gateway},
    platform::{clock, users},
    runs::Registry,
    sensors::metrics::{Metric, MetricsError, MetricsEvent, MetricsSocket, Needed, Reporting, Running, Runs},
};
use failsafe_core::{
    Input, Kind, MonoTime, RunId, Signal, Subject, Value,
    input::Gap,
    signal::{Claimed, Real, Source},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Metrics that may wait for the pipeline.
const ROOM: usize = 128;

/// Binds the sockets and starts their reader.
///
/// # Errors
/// [`MetricsError`] when one cannot be bound, or the thread could not be made.
pub fn start(config: &Config, registry: &Arc<Registry>, pipeline: &Sender) -> anyhow::Result<Running> {
    let path = &config.metrics_socket;
    let socket = MetricsSocket::bind(path)?;
    let mut poster = Poster::with_room(pipeline.clone(), ROOM);
    let runs = OfRegistry { registry: registry.clone(), needed: Mutex::default(), relay: Relay::new(&config.gateway) };
    let running = socket.spawn(runs, move |event| {
        if let Some(input) = input(event) {
            poster.post(input);
        }
    });
    running.map_err(|source| MetricsError::Socket { op: "start reading", path: path.to_owned(), source }.into())
}

/// The live runs of the registry.
struct OfRegistry {
    registry: Arc<Registry>,
    /// The metrics that each run's rules need.
    needed: Mutex<BTreeMap<RunId, Arc<Needed>>>,
    relay: Option<Relay>,
}

/// By what the gateway is known, where it may hand on metrics.
struct Relay {
    uid: u32,
    cgroup: PathBuf,
}

impl Relay {
    fn new(config: &Gateway) -> Option<Relay> {
        if !config.receive || config.user.is_empty() {
            return None;
        }
        match users::user_id(&config.user) {
            Ok(Some(uid)) if uid != 0 => Some(Relay { uid, cgroup: config.cgroup.clone() }),
            found => {
                let user = &config.user;
                tracing::warn!(
                    user,
                    ?found,
                    "gateway.user: there is no such user, or it is root: it may hand on no metrics"
                );
                None
            }
        }
    }
}

impl Runs for OfRegistry {
    fn of_cgroup(&self, cgroup: &Path) -> Option<Reporting> {
        let live = self.registry.of_cgroup(cgroup)?;
        let run = live.run.id;
        let mut kept = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = kept.entry(run).or_insert_with(|| Arc::new(Needed::of(&live.policy)));
        Some(Reporting { run, needed: needed.clone() })
    }

    fn lives(&self, run: RunId) -> bool {
        let lives = self.registry.get(run).is_some();
        if !lives {
            self.needed.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
        }
        lives
    }

    fn another_is_roots(&self, run: RunId) -> bool {
        self.registry.live().iter().any(|live| live.run.id != run && live.known().owner_uid == 0)
    }

    fn relays(&self, uid: u32, cgroup: &Path) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.uid == uid && cgroup.starts_with(&relay.cgroup))
    }
}

/// `None` for what concerns no run: anybody on the node may write to the sockets.
fn input(event: MetricsEvent) -> Option<Input> {
    match event {
        MetricsEvent::Metric { run, metric: Metric { mono_ns, name, value, step, series, repeats } } => {
            Some(Input::Signal(Signal {
                seq: 0,
                at: MonoTime(mono_ns),
                source: Source::App,
                subject: Subject::Run(run),
                kind: Kind::Metric(name),
                value: Value::Claimed(Claimed { value: Real(value), step, series }),
                repeats,
            }))
        }
        MetricsEvent::SeriesEnded { run, series, mono_ns } => {
            Some(Input::SeriesEnded { run, series, at: MonoTime(mono_ns) })
        }
        MetricsEvent::Lost { run, why, count } => {
            let at = MonoTime(clock::monotonic_ns());
            let what = format!("values of the run's metrics are lost: {why}");
            let (source, run) = (Source::App, Some(run));
            Some(Input::Gap(Gap { seq: 0, at, source, run, gpu: None, what, lost: count, blind: false }))
        }
        MetricsEvent::Garbage { count } => {
            tracing::warn!(count, "lines on the metrics sockets were no metrics, or of no run");
            None
        }
    }
}
