//! An error at every step of start, adoption and end: afterwards nothing is half there, and a run that lives is judged or guarded.

use super::{
    Registry,
    disk::{Disk, Files},
    start::{Place, Wanted},
    store::{Folder, Store},
};
use crate::{
    guard::kernel::Kernel,
    log::{Log, LogOwner},
    platform::CgroupRoot,
    testing::wanted,
};
use failsafe_core::{
    RunId,
    discover::LABEL,
    record::{Record, Totals},
};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};
use std::{
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
            LogOwner::open(self.state.path(), &head, BOOT, crate::config::AuditLog::default().bounds(), None).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        (Registry::new(CgroupRoot::find().unwrap(), Kernel::new(Err("a test's".into())), store), log)
    }

    fn make(&self, registry: &Registry) -> Result<Arc<super::LiveRun>, super::start::StartError> {
        registry.make(wanted("faulty"), Place::Below(self.parent.clone()), BOOT)
    }

    /// A run with a process in it, under a daemon that has died since.
    fn run(&mut self) -> RunId {
        self.run_with(&[], true)
    }

    /// The same with these labels. Unless it `is_listed`, its beginning is not in the log.
    fn run_with(&mut self, labels: &[&str], is_listed: bool) -> RunId {
        let (registry, log) = self.daemon(Arc::new(Files));
        let labels = labels.iter().map(|label| ((*label).to_owned(), "x".to_owned())).collect();
        let wanted = Wanted { labels, ..wanted("faulty") };
        let live = registry.make(wanted, Place::Below(self.parent.clone()), BOOT).unwrap();
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        live.cgroup.attach(child.id()).unwrap();
        live.enter();
        self.child = Some(child);
        // The pipeline's part.
        let (run, policy_name) = (live.run.clone(), "p".to_owned());
        let record = Record::RunStarted { run, policy_name, broken: Vec::new(), repair: Vec::new() };
        if is_listed {
            log.log().record(&record, Some(live.run.id), None);
        }
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

/// Its owner had spent the budget of the log: nobody changed anything. Of other runs it is a sign of tampering.
#[test]
fn a_discovered_run_whose_beginning_was_summed_up_is_adopted_without_a_finding() {
    for (labels, findings) in [(&[LABEL][..], 0), (&[], 1)] {
        let Some(mut bench) = Bench::new(&format!("unlisted-{findings}")) else { return };
        let run = bench.run_with(labels, false);
        let (registry, log) = bench.daemon(Arc::new(Files));
        let pass = registry.adopt(&log.log(), BOOT);
        assert!(registry.get(run).is_some());
        assert_eq!(pass.changed.len(), findings, "{:?}", pass.changed);
        log.close();
    }
}

/// An alert on a rate would fire at each restart.
#[test]
fn what_an_adopted_run_did_before_its_adoption_is_in_no_count() {
    let Some(mut bench) = Bench::new("counted") else { return };
    let run = bench.run();
    let (registry, log) = bench.daemon(Arc::new(Files));
    assert_eq!(registry.adopt(&log.log(), BOOT).adopted.len(), 1);
    let totals = Totals { denied_calls: 50, ..Totals::default() };
    log.log().record(&Record::RunTotals { run, name: "faulty".into(), totals }, Some(run), None);
    assert_eq!(log.log().tallying().with(|tally| tally.settle(|_| false)), Totals::default());
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
    assert!(matches!(registry.store().folder(id), Folder::Kept(kept) if kept.ended_ns.is_some()));
    assert!(ends_on_record(&log.log()) <= 1);
    assert_eq!(bench.cgroups(), 0);
    log.close();
}

/// The places of all numbers in a JSON text, and those of null.
fn numbers(value: &Value, at: &str, into: &mut Vec<String>) {
    match value {
        Value::Number(_) | Value::Null => into.push(at.to_owned()),
        Value::Array(all) => all.iter().enumerate().for_each(|(n, one)| numbers(one, &format!("{at}/{n}"), into)),
        Value::Object(all) => all.iter().for_each(|(name, one)| numbers(one, &format!("{at}/{name}"), into)),
        _ => {}
    }
}

fn any_number() -> impl Strategy<Value = Value> {
    let edges = [0, 1, u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::MAX - 1, u64::MAX].map(|n| json!(n));
    let low = [-1, i64::MIN, i64::MAX].map(|n| json!(n));
    prop_oneof![
        4 => proptest::sample::select([edges.as_slice(), low.as_slice()].concat()),
        1 => any::<u64>().prop_map(|n| json!(n)),
        1 => any::<i64>().prop_map(|n| json!(n)),
        1 => any::<u32>().prop_map(|n| json!(n)),
        1 => proptest::num::f64::NORMAL.prop_map(|n| json!(n)),
    ]
}

#[test]
fn a_run_json_with_any_numbers_stops_no_start_and_loses_no_run() {
    let Some(mut bench) = Bench::new("numbers") else { return };
    let id = bench.run();
    let file = bench.state.path().join("runs").join(id.to_string()).join("run.json");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    kept["totals"] = serde_json::to_value(failsafe_core::record::Totals::default()).unwrap();
    kept["unwatched"] = json!({ "last_seen_ns": 1, "noticed_ns": 2, "found": "its cgroup is gone" });
    let mut places = Vec::new();
    numbers(&kept, "", &mut places);
    assert!(places.len() > 20 && places.iter().any(|place| place == "/part"), "{places:?}");
    let (_, with) = bench.daemon(Arc::new(Files));
    let elsewhere = tempfile::tempdir().unwrap();
    let head = elsewhere.path().join("head");
    let (without, _) =
        LogOwner::open(elsewhere.path(), &head, BOOT, crate::config::AuditLog::default().bounds(), None).unwrap();
    let start = |log: &Log| {
        let store = Store::on(bench.state.path(), Arc::new(Files)).unwrap();
        let registry = Registry::new(CgroupRoot::find().unwrap(), Kernel::new(Err("a test's".into())), store);
        let _pass = registry.adopt(log, BOOT);
        let (live, held) = (registry.get(id).is_some(), registry.guarded().iter().any(|run| run.run.id == id));
        if live {
            registry.retain(&crate::config::Recordings::default(), log, i64::MAX).unwrap();
        }
        for ended in registry.ended() {
            assert!(ended.run.id == id || ended.unverified.is_some());
        }
        (live, held)
    };
    let edits = proptest::collection::vec((0..places.len(), any_number()), 1..4);
    // Each number at its edges alone, then several together.
    let edges = [json!(u32::MAX), json!(u64::MAX), json!(i64::MIN)];
    let alone = places.iter().enumerate().flat_map(|(n, _)| edges.iter().map(move |edge| vec![(n, edge.clone())]));
    let check = |edits: Vec<(usize, Value)>| {
        let mut edited = kept.clone();
        for (n, value) in &edits {
            *edited.pointer_mut(&places[*n]).unwrap() = value.clone();
        }
        let written = |edited: &Value| std::fs::write(&file, serde_json::to_vec(edited).unwrap()).unwrap();
        written(&edited);
        let (live, held) = start(&with.log());
        let named: Vec<&str> = edits.iter().map(|(n, _)| places[*n].as_str()).collect();
        assert!(live != held, "{named:?}: live {live}, guarded {held}: {edited}");
        // Without a log nothing is there to compare it with: the start goes on all the same.
        written(&edited);
        start(&without.log());
    };
    alone.for_each(check);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(64));
    runner
        .run(&edits, |edits| {
            check(edits);
            Ok(())
        })
        .unwrap();
    with.close();
    without.close();
}

/// A folder of a run may hold anything: a pipe must not have the start wait, nor a file without end fill the memory.
#[test]
fn a_run_json_that_is_no_regular_file_stops_no_start() {
    let Some(mut bench) = Bench::new("pipe") else { return };
    let id = bench.run();
    let file = bench.state.path().join("runs").join(id.to_string()).join("run.json");
    type Make = fn(&Path);
    let places: [(&str, Make); 4] = [
        ("pipe", |file| nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("link", |file| std::os::unix::fs::symlink("/dev/zero", file).unwrap()),
        ("folder", |file| std::fs::create_dir(file).unwrap()),
        ("huge", |file| std::fs::File::create(file).unwrap().set_len(1 << 36).unwrap()),
    ];
    for (what, make) in places {
        let _gone = std::fs::remove_file(&file);
        make(&file);
        let (registry, log) = bench.daemon(Arc::new(Files));
        registry.adopt(&log.log(), BOOT);
        let (live, held) = (registry.get(id).is_some(), registry.guarded().iter().any(|run| run.run.id == id));
        assert!(live != held, "{what}: live {live}, guarded {held}");
        log.close();
        let _gone = std::fs::remove_dir(&file);
    }
}
