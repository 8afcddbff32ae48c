//! The thread that reads a fingerprint, and how long it is waited for.
//!
//! Reading a hostile process can block without end: its memory map may be locked, its libraries may lie on a file system that
//! it serves itself. So each request has a thread of its own, which gives each fact as soon as it has it. Whoever asked waits
//! until a deadline and then uses what is there; what is missing is unavailable. A thread that hangs keeps its part of its
//! user's limit until it ends, so that it cannot be piled up. It has no descriptor of the daemon's, so that it cannot keep the
//! next daemon from starting.

use super::{GpuFacts, NodeFacts, Roots, RunFacts, ima::Remembered, node, run};
use crate::{platform::apart, redact::Redactor};
use failsafe_attest::{Fact, Missing};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, error::TryRecvError, unbounded_channel},
    time::{Instant, timeout_at},
};

/// How long the facts are waited for.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How often a thread that blocks looks for facts.
const LOOKS_EVERY: Duration = Duration::from_millis(5);

/// Groups of which a statement has one fact in any case.
const NODE_GROUPS: [&str; 2] = ["node/gpu", "node/infiniband"];
const RUN_GROUPS: [&str; 8] = [
    "run/library",
    "run/env",
    "run/gpu",
    "run/command",
    "run/executable",
    "run/cpu/count",
    "run/cpu/list",
    "run/memory-nodes",
];

/// What readers are given.
pub struct Worker {
    /// Where the kernel's file systems are.
    pub roots: Roots,
    /// What is a secret.
    pub redact: Redactor,
    list: Remembered,
}

/// Facts that are being read.
pub struct Asked {
    facts: UnboundedReceiver<Fact>,
    deadline: Instant,
    groups: Vec<&'static str>,
}

impl Worker {
    /// For this node, with nothing read yet.
    pub fn new(redact: Redactor) -> Worker {
        Worker { roots: Roots::default(), redact, list: Remembered::default() }
    }

    /// Starts reading a node, and a run on it. `permit` is held until the reading thread ends.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn start(
        self: &Arc<Worker>,
        about: NodeFacts,
        of_run: Option<RunFacts>,
        permit: impl Send + 'static,
    ) -> std::io::Result<Asked> {
        let (give, facts) = unbounded_channel();
        let (read, passed) = mpsc::channel();
        let mut groups = NODE_GROUPS.to_vec();
        groups.extend(of_run.iter().flat_map(|_| RUN_GROUPS));
        // A runtime is woken through a descriptor, which the reading thread does not have. So it gives facts, and drops the permit,
        // through this thread.
        let pass_on = move || {
            let _held_until_the_end = permit;
            // Nobody waits any more: the rest is read for nothing, but within its limits.
            passed.into_iter().for_each(|fact| drop(give.send(fact)));
        };
        thread::Builder::new().name("attest-facts".into()).spawn(pass_on)?;
        let worker = self.clone();
        apart::spawn("attest", move || {
            let mut give = |fact| drop(read.send(fact));
            node(&worker.roots, &about, &worker.redact, &worker.list).into_iter().for_each(&mut give);
            if let Some(of_run) = of_run {
                let gpus: &GpuFacts = &about.gpus;
                run::read(&worker.roots, &of_run, gpus, &worker.redact, &mut give);
            }
        })?;
        Ok(Asked { facts, deadline: Instant::now() + DEADLINE, groups })
    }
}

impl Asked {
    /// The facts, all of them or as many as there are at the deadline.
    pub async fn facts(mut self) -> Vec<Fact> {
        let mut all = Vec::new();
        let in_time = loop {
            match timeout_at(self.deadline, self.facts.recv()).await {
                Ok(Some(fact)) => all.push(fact),
                // The thread has ended. (A panic of it ends the daemon in release builds; where panics unwind, the groups are missing.)
                Ok(None) => break true,
                Err(_late) => break false,
            }
        };
        self.whole(all, in_time)
    }

    /// The same on a thread that may block. `None`: `stop` was set meanwhile.
    pub fn facts_until(mut self, stop: &AtomicBool) -> Option<Vec<Fact>> {
        let mut all = Vec::new();
        let deadline = self.deadline.into_std();
        loop {
            match self.facts.try_recv() {
                Ok(fact) => all.push(fact),
                Err(TryRecvError::Disconnected) => return Some(self.whole(all, true)),
                Err(TryRecvError::Empty) if std::time::Instant::now() >= deadline => {
                    return Some(self.whole(all, false));
                }
                Err(TryRecvError::Empty) if stop.load(Ordering::Relaxed) => return None,
                Err(TryRecvError::Empty) => thread::sleep(LOOKS_EVERY),
            }
        }
    }

    fn whole(self, mut all: Vec<Fact>, in_time: bool) -> Vec<Fact> {
        let why = match in_time {
            true => "the reader failed".to_owned(),
            false => format!(
                "reading did not end within {} s: a process or a file system does not answer",
                DEADLINE.as_secs()
            ),
        };
        let there: BTreeSet<&str> = all.iter().map(|fact| fact.path.as_str()).collect();
        let missing: Vec<&str> = self.groups.iter().copied().filter(|group| !there.contains(group)).collect();
        all.extend(missing.into_iter().map(|path| Fact::measured(path, "failsafed", Err(Missing::unavailable(&why)))));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_attest::Status;

    #[test]
    fn what_does_not_come_in_time_is_unavailable() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let (give, facts) = unbounded_channel();
        runtime.unwrap().block_on(async {
            give.send(Fact::measured("node/gpu", "a test", Ok(failsafe_attest::Json::Int(0)))).unwrap();
            let asked = Asked { facts, deadline: Instant::now(), groups: vec!["node/gpu", "run/library"] };
            let facts = asked.facts().await;
            let late = facts.iter().find(|fact| fact.path == "run/library").unwrap().value.clone().unwrap_err();
            assert!(late.status == Status::Unavailable && late.reason.contains("within 10 s"), "{late:?}");
            assert_eq!(facts.len(), 2);
        });
    }

    #[test]
    fn a_node_is_read_here_and_the_permit_is_released() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let about = NodeFacts {
            gpus: GpuFacts::default(),
            hostname: "h".into(),
            boot_id: "b".into(),
            version: "1".into(),
            ebpf_object: "sha256:x".into(),
            with_ima: false,
        };
        let worker = Arc::new(Worker::new(Redactor::default()));
        let permit = Arc::new(());
        let asked = worker.start(about, None, permit.clone()).unwrap();
        let facts = runtime.block_on(asked.facts());
        let release = facts.iter().find(|fact| fact.path == "node/kernel/release").unwrap();
        assert!(release.value.is_ok(), "{release:?}");
        assert!(facts.iter().any(|fact| fact.path == "node/hostname"));
        while Arc::strong_count(&permit) > 1 {
            thread::yield_now();
        }
    }
}
