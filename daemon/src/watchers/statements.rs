//! Makes and stores a signed statement about each run: at its start, at its first incidents, and at its end.
//!
//! ```text
//! first programs loaded, an incident, the end ─► due ─► one at a time, users in turn ─► read ─► sign ─► file ─► audit log
//! ```
//! Owns what is due. Invariants: nobody waits for this thread, which gives way to all others; the number of statements of a run is
//! bounded ([`INCIDENTS`]); each one, made or not, is in the log; what it says of processes that have ended is from the last stored
//! statement, with the time of that reading. One user's runs that do not answer cost other users one deadline a turn at most.

mod due;
mod earlier;

use crate::{
    attest::{NodeFacts, RunFacts, Sealing, StatedOf, Worker, hide_identity},
    log::{Log, claims::claims},
    node::NodeView,
    platform::{cgroup::Unopened, clock, sched},
    runs::{
        Registry,
        statements::{INCIDENTS, Which},
    },
    signing::SigningKeys,
    tpm::NodeTpm,
};
use due::{Due, Followed, Turns};
use failsafe_attest::{Fact, Manifest, Missing, Moment, Scope, Statement, Table};
use failsafe_core::{
    RunId,
    drill::is_drill,
    egress::Account,
    input::Run,
    record::{At, Record},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often the thread looks what is due.
const LOOK: Duration = Duration::from_millis(100);

/// The thread.
pub struct Statements {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// The node's keys.
    pub keys: Arc<SigningKeys>,
    /// The node's TPM.
    pub tpm: Arc<NodeTpm>,
    /// What the sensors see of the node.
    pub node: Arc<Mutex<NodeView>>,
    /// The readers.
    pub worker: Arc<Worker>,
    /// The classes of factors.
    pub table: Table,
    /// NVML is not looked at.
    pub nvml_disabled: bool,
    /// This boot's id.
    pub boot_id: String,
}

/// What came of a statement.
enum Made {
    /// It is stored: its digest and size.
    Kept(String, u64),
    /// Why there is none.
    Not(String),
    /// The daemon stops. The next one makes it.
    Stopping,
}

impl Statements {
    /// Works until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        sched::background();
        let (mut runs, mut turns) = (BTreeMap::<RunId, Followed>::new(), Turns::default());
        let mut ended = self.earlier();
        while !stop.load(Ordering::Relaxed) {
            let (live, sees) = (self.registry.live(), self.registry.kernel().blind().is_none());
            for run in &live {
                let followed = runs.entry(run.run.id).or_insert_with(|| Followed::new(run, self.registry.store()));
                followed.look(run, sees);
            }
            let live: BTreeSet<RunId> = live.iter().map(|run| run.run.id).collect();
            let gone = runs.extract_if(.., |id, _| !live.contains(id));
            ended.extend(gone.map(|(_, followed)| followed.ended()));
            for run in &mut ended {
                run.accounted(|id| self.registry.take_account(id));
            }
            let of_live = runs.values_mut().filter_map(|run| run.due());
            let of_ended = ended.iter_mut().filter_map(Followed::due);
            match turns.next(of_live.chain(of_ended)) {
                Some(due) => self.serve(&due, &mut turns, stop),
                None => std::thread::park_timeout(LOOK),
            }
            ended.retain(|run| !run.is_done());
        }
    }

    /// Makes a statement and records what came of it.
    fn serve(&self, due: &Due, turns: &mut Turns, stop: &AtomicBool) {
        let (run, which) = (&due.run, due.which);
        if is_drill(&run.labels) {
            // What it computes with is the daemon itself; its result is an entry of the log.
            return;
        }
        let made = match &due.not {
            Some(why) => Made::Not(why.clone()),
            None => self.make(due, turns, stop),
        };
        let (digest, bytes, problem) = match made {
            Made::Kept(digest, bytes) => (Some(digest), bytes, None),
            Made::Not(why) => {
                tracing::warn!(run = %run.id, at = which.at().name(), why, "there is no statement about the run");
                (None, 0, Some(why))
            }
            Made::Stopping => return,
        };
        let (incident, name, at) = (which.incident(run.id), run.name.clone(), which.at());
        let record = Record::Statement { run: run.id, name, at, incident, digest, bytes, problem };
        self.log.record(&record, Some(run.id), incident);
    }

    fn make(&self, due: &Due, turns: &mut Turns, stop: &AtomicBool) -> Made {
        let (run, which) = (&due.run, due.which);
        let signer = match self.keys.signer() {
            Ok(signer) => signer,
            Err(error) => return Made::Not(error.to_string()),
        };
        let Some((mut facts, read_ns)) = self.facts(due, turns, stop) else { return Made::Stopping };
        if !gets_identity(run) {
            hide_identity(&mut facts, &self.table);
        }
        let manifest = match claims(self.log.path(), run.id) {
            Ok(claims) => claims.manifest.map(|(manifest, _)| manifest),
            Err(why) => {
                let missing = Missing::unavailable(format!("the audit log cannot be read: {why}"));
                facts.push(Fact::claimed("run/manifest", "audit log", Err(missing)));
                None
            }
        };
        facts.extend(manifest.iter().flat_map(Manifest::facts));
        let moment = Moment {
            at: which.at(),
            incident: which.incident(run.id).map(|incident| incident.to_string()).unwrap_or_default(),
            run: run.id.to_string(),
            name: run.name.clone(),
            read_ns: read_ns.map(|ns| ns.to_string()).unwrap_or_default(),
        };
        let regime = manifest.and_then(|manifest| manifest.regime);
        let of = StatedOf { scope: Scope::Run, regime, taken_ns: clock::wall_ns() };
        let account = (which == Which::End).then(|| due.account.clone()).flatten();
        let sealing = Sealing { signer: &signer, tpm: &self.tpm, table: &self.table, of, nonce: &[] };
        let finish = |statement: Statement| statement.at(moment.clone(), account.clone());
        let envelope = match sealing.seal(facts, finish) {
            Ok(envelope) => envelope.into_bytes(),
            Err(error) => return Made::Not(error.to_string()),
        };
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&envelope)));
        match which.keep(self.registry.store(), run.id, &envelope) {
            Ok(()) => Made::Kept(digest, envelope.len() as u64),
            Err(error) => Made::Not(format!("it cannot be stored: {error}")),
        }
    }

    /// The facts of node and run, and when those of the run were read. `None`: the daemon stops.
    fn facts(&self, due: &Due, turns: &mut Turns, stop: &AtomicBool) -> Option<(Vec<Fact>, Option<i64>)> {
        let (run, now) = (&due.run, clock::wall_ns());
        let cgroup = if due.which == Which::End { None } else { self.cgroup(run.id) };
        let why = match (&cgroup, turns.hangs(run.owner_uid)) {
            (Some(_), false) => None,
            (Some(_), true) => Some("an earlier reading of a run of this user has not ended"),
            (None, _) => Some("its processes had ended"),
        };
        let of_run = cgroup.filter(|_| why.is_none()).map(|cgroup| RunFacts::of(run, cgroup, &self.table));
        let reads = of_run.is_some();
        let mut facts = self.read(run, of_run, turns.permit(run.owner_uid, reads), stop)?;
        let is_read = |facts: &[Fact]| facts.iter().any(|fact| fact.path == "run/processes" && fact.value.is_ok());
        if reads && is_read(&facts) {
            return Some((facts, Some(now)));
        }
        facts.retain(|fact| fact.path.starts_with("node/"));
        let before = self.before(run.id, due.which);
        let read_ns = before.as_ref().map(|(_, read_ns)| *read_ns);
        match before {
            Some((of_run, _)) => facts.extend(of_run),
            None => facts.extend(never_read(run, why.unwrap_or("its processes were ending"))),
        }
        Some((facts, read_ns))
    }

    fn read(&self, of: &Run, of_run: Option<RunFacts>, permit: Arc<()>, stop: &AtomicBool) -> Option<Vec<Fact>> {
        let about = {
            let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
            NodeFacts::of(&node, self.nvml_disabled, &self.boot_id)
        };
        let about = NodeFacts { with_ima: gets_identity(of), ..about };
        match self.worker.start(about, of_run, permit) {
            Ok(asked) => asked.facts_until(stop),
            Err(error) => {
                let missing = Missing::unavailable(format!("no thread for the readers: {error}"));
                Some(vec![Fact::measured("node", "failsafed", Err(missing))])
            }
        }
    }

    fn cgroup(&self, run: RunId) -> Option<Unopened> {
        Some(self.registry.get(run)?.cgroup.unopened())
    }
}

/// Whether the statements of a run have what identifies the node.
fn gets_identity(run: &Run) -> bool {
    run.owner_uid == 0
}

/// What is stated of a run that was never read.
fn never_read(run: &Run, why: &str) -> Vec<Fact> {
    let text = |path: &str, value: String| Fact::measured(path, "failsafed", Ok(value.into()));
    let mut facts = vec![
        text("run/id", run.id.to_string()),
        text("run/name", run.name.clone()),
        text("run/owner", format!("uid {}", run.owner_uid)),
        text("run/policy", run.policy.to_string()),
    ];
    let groups = ["run/library", "run/env", "run/command", "run/executable", "run/processes"];
    let missing = || Err(Missing::unavailable(format!("the run was never read: {why}")));
    facts.extend(groups.map(|group| Fact::measured(group, "failsafed", missing())));
    facts
}
