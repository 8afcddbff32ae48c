//! An error at every step of start, adoption and end: afterwards nothing is half there, and a run that lives is judged or guarded.

use super::{
    Registry,
    disk::{Disk, Files},
    kernel::Kernel,
    start::{Place, Wanted},
    store::Store,
};
use crate::{
    log::{Log, LogOwner},
    platform::CgroupRoot,
};
use failsafe_core::{RunId, policy::parse::parse, record::Record};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

const BOOT: &str = "11111111-2222-4333-8444-555555555555";

/// A disk that has no room from its `fails_at`th step on, counted from 1.
#[derive(Debug, Default)]
struct Full {
    steps: AtomicUsize,
    fails_at: usize,
}

impl Full {
    fn step(&self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if self.fails_at > 0 && step >= self.fails_at { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for Full {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.step()?;
        Files.read(path)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        Files.write(path, bytes)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.step()?;
        Files.list(folder)
    }
    fn make(&self, folder: &Path) -> io::Result<()> {
        self.step()?;
        Files.make(folder)
    }
    // A full disk lets things be removed.
    fn remove(&self, folder: &Path) -> io::Result<()> {
        Files.remove(folder)
    }
}

/// A state folder, a part of the cgroup hierarchy, and processes.
struct Bench {
    state: tempfile::TempDir,
    parent: PathBuf,
    child: Option<Child>,
}

impl Bench {
    /// `None` where there is no cgroup2, or it may not be changed.
    fn new(name: &str) -> Option<Bench> {
        let parent = PathBuf::from(format!("failsafe-faults-{}-{name}", std::process::id()));
        let bench = Bench { state: tempfile::tempdir().unwrap(), parent, child: None };
        match CgroupRoot::find().and_then(|root| root.create(&bench.parent)) {
            Ok(_) => Some(bench),
            Err(error) => {
                eprintln!("skipped: {}", error.chain());
                None
            }
        }
    }

    /// A daemon's registry, and its audit log.
    fn daemon(&self, disk: Arc<dyn Disk>) -> (Registry, LogOwner) {
        let store = Store::on(self.state.path(), disk).unwrap();
        let head = self.state.path().join("second-head.json");
        let (log, findings) =
            LogOwner::open(self.state.path(), &head, BOOT, crate::config::AuditLog::default().bounds()).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        (Registry::new(CgroupRoot::find().unwrap(), Kernel::new(Err("a test's".into())), store), log)
    }

    fn make(&self, registry: &Registry) -> Result<Arc<super::LiveRun>, super::start::StartError> {
        let wanted = Wanted {
            name: "faulty".into(),
            labels: BTreeMap::new(),
            policy: parse("p", "[policy]\nname = \"p\"\nowner = \"o\"\n").unwrap(),
            gpus: BTreeSet::new(),
            mig: BTreeMap::new(),
            owner_uid: 0,
            unlimited: true,
        };
        registry.make(wanted, Place::Below(self.parent.clone()), BOOT)
    }

    /// A run with a process in it, under a daemon that has died since.
    fn run(&mut self) -> RunId {
        let (registry, log) = self.daemon(Arc::new(Files));
        let live = self.make(&registry).unwrap();
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        live.cgroup.attach(child.id()).unwrap();
        live.enter();
        self.child = Some(child);
        // The pipeline's part.
        let (run, policy_name) = (live.run.clone(), "p".to_owned());
        let record = Record::RunStarted { run, policy_name, broken: Vec::new(), repair: Vec::new() };
        log.log().record(&record, Some(live.run.id), None);
        log.close();
        live.run.id
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn cgroups(&self) -> usize {
        let root = CgroupRoot::find().unwrap();
        root.open_path(&self.parent).unwrap().descendants().unwrap().len()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Ok(cgroup) = CgroupRoot::find().and_then(|root| root.open_path(&self.parent)) {
            let _ = cgroup.remove_tree();
        }
    }
}

fn ends_on_record(log: &Log) -> usize {
    let reader = failsafe_journal::LogReader::open(log.path()).unwrap();
    reader.map_while(Result::ok).filter(|entry| entry.body["type"] == "run-ended").count()
}

#[test]
fn a_start_that_fails_at_any_step_leaves_nothing() {
    let Some(bench) = Bench::new("start") else { return };
    let mut failed = 0;
    for fails_at in 1.. {
        let (registry, log) = bench.daemon(Arc::new(Files));
        let registry = Registry {
            store: Store::on(bench.state.path(), Arc::new(Full { fails_at, ..Full::default() })).unwrap(),
            ..registry
        };
        let made = bench.make(&registry);
        if let Ok(live) = made {
            // No step failed: all were tried.
            assert!(live.vacate().unwrap());
            log.close();
            break;
        }
        failed += 1;
        assert!(registry.live().is_empty() && registry.guarded().is_empty(), "step {fails_at}");
        assert_eq!(bench.cgroups(), 0, "step {fails_at}");
        assert_eq!(std::fs::read_dir(bench.state.path().join("runs")).unwrap().count(), 0, "step {fails_at}");
        log.close();
    }
    assert!(failed >= 3, "{failed} steps");
    let (registry, _log) = bench.daemon(Arc::new(Files));
    registry.kernel().refuses.store(true, Ordering::Relaxed);
    assert!(bench.make(&registry).is_err());
    assert_eq!(bench.cgroups(), 0);
}

#[test]
fn a_run_is_judged_or_guarded_whatever_step_of_its_adoption_fails_and_judged_when_it_is_tried_again() {
    let Some(mut bench) = Bench::new("adopt") else { return };
    let id = bench.run();
    let (mut guarded, mut fails_at) = (0, 1);
    loop {
        let (registry, log) = bench.daemon(Arc::new(Files));
        let registry = Registry {
            store: Store::on(bench.state.path(), Arc::new(Full { fails_at, ..Full::default() })).unwrap(),
            ..registry
        };
        let pass = registry.adopt(&log.log(), BOOT);
        let (live, held) = (registry.get(id).is_some(), registry.guarded().iter().any(|run| run.run.id == id));
        assert!(live != held, "step {fails_at}: live {live}, guarded {held}");
        assert_eq!(pass.adopted.len(), usize::from(live));
        let registry = Registry { store: Store::on(bench.state.path(), Arc::new(Files)).unwrap(), ..registry };
        if held {
            guarded += 1;
            assert!(registry.guarded_note().is_some());
            let again = registry.adopt_again(&log.log(), BOOT);
            assert_eq!(again.adopted.len(), 1, "step {fails_at}: {:?}", registry.guarded());
            assert!(registry.guarded().is_empty() && registry.get(id).is_some());
        }
        assert_eq!(ends_on_record(&log.log()), 0, "step {fails_at}");
        log.close();
        if live {
            break;
        }
        fails_at += 1;
    }
    assert!(guarded >= 4, "{guarded} steps");
    let (registry, log) = bench.daemon(Arc::new(Files));
    registry.kernel().refuses.store(true, Ordering::Relaxed);
    registry.adopt(&log.log(), BOOT);
    assert!(registry.guarded().iter().any(|run| run.run.id == id && run.why.contains("a test has it fail")));
    registry.kernel().refuses.store(false, Ordering::Relaxed);
    assert_eq!(registry.adopt_again(&log.log(), BOOT).adopted.len(), 1);
    log.close();
}

#[test]
fn an_end_that_cannot_be_written_is_written_later_and_recorded_once() {
    let Some(mut bench) = Bench::new("end") else { return };
    let id = bench.run();
    bench.kill();
    // While no daemon runs, at each step.
    for fails_at in 1..12 {
        let (registry, log) = bench.daemon(Arc::new(Files));
        let registry = Registry {
            store: Store::on(bench.state.path(), Arc::new(Full { fails_at, ..Full::default() })).unwrap(),
            ..registry
        };
        registry.adopt(&log.log(), BOOT);
        assert!(registry.live().is_empty(), "step {fails_at}");
        log.close();
    }
    let (registry, log) = bench.daemon(Arc::new(Files));
    registry.adopt(&log.log(), BOOT);
    registry.mark_ends();
    assert!(registry.live().is_empty() && registry.guarded().is_empty());
    assert!(registry.store().ended().iter().any(|ended| ended.run.id == id));
    assert!(ends_on_record(&log.log()) <= 1);
    assert_eq!(bench.cgroups(), 0);
    log.close();
}
