//! Discovery over the real kernel, step by step: the test is the thread, and answers for the pipeline.

use super::*;
use crate::{
    config::{Config, DiscoverRules},
    guard::{self, Ebpf, kernel::Kernel},
    log::{Bounds, Budget, LogOwner},
    pipeline::{Message, QUEUE, queue},
    platform::CgroupRoot,
    runs::{
        Registry,
        canaries::{Canaries, Decided, Kept, New},
        store::Store,
    },
    skip::skip,
    watchers::discover::Parts,
};
use failsafe_core::{
    Actor, Input,
    canary::{LABEL as CANARY, Terms},
    discover::{Labels, Rule, Rules},
    policy::parse::parse,
    time::Span,
};
use failsafe_journal::storage::Retention;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

#[test]
fn released_cgroups_get_a_bounded_number_of_entries_and_the_next_one_counts_the_others() {
    let (mut releases, begin) = (Releases::default(), Instant::now());
    let counted: Vec<_> = (0..25).map(|_| releases.count(begin)).collect();
    assert_eq!(counted.iter().filter(|one| **one == Some(0)).count(), 10);
    assert!(counted[10..].iter().all(Option::is_none));
    assert_eq!(releases.count(begin + MINUTE), Some(15));
    assert_eq!(releases.count(begin + MINUTE), Some(0));
}

/// A daemon that discovers the cgroups `jobs/job-*` in a folder of the test's own.
struct Bench {
    discovery: Discovery,
    registry: Arc<Registry>,
    root: PathBuf,
    policies: tempfile::TempDir,
    /// The gaps that were reported.
    gaps: Arc<Mutex<Vec<String>>>,
    _log: LogOwner,
    _state: tempfile::TempDir,
}

impl Bench {
    /// `None` where this machine cannot do it.
    fn new(name: &str) -> Option<Bench> {
        let Ok(root) = CgroupRoot::find() else {
            skip("no cgroup v2 is mounted");
            return None;
        };
        if !nix::unistd::geteuid().is_root() {
            skip("needs root");
            return None;
        }
        let below = PathBuf::from(format!("failsafe-discovery-{}-{name}", std::process::id()));
        let folder = root.create(&below.join("jobs")).unwrap().path().to_owned();
        let rule = Rule {
            name: "jobs".into(),
            patterns: vec!["jobs/job-*".parse().unwrap()],
            policy: "p".into(),
            shadow: None,
            mode: Mode::Enforce,
            labels: Labels::new(),
        };
        let rules = Rules::new(vec![rule]).unwrap();
        let (state, policies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut config = Config {
            state_dir: state.path().to_owned(),
            policy_dir: policies.path().to_owned(),
            discover: DiscoverRules(rules.clone()),
            ..Config::default()
        };
        (config.discovery.root, config.discovery.early_slots) = (below.clone(), 4);
        let early_states = rules.automaton(below.to_str().unwrap()).unwrap().states.len();
        let ebpf = Ebpf::load(&guard::Config {
            ring_bytes: 1 << 16,
            max_runs: 16,
            bpffs: None,
            instance: format!("discovery-{name}"),
            early_states: u32::try_from(early_states).unwrap(),
            ..guard::Config::default()
        });
        let registry = Registry::new(root, Kernel::new(Ok(ebpf.unwrap())), Store::open(state.path()).unwrap());
        let registry = Arc::new(registry.with_canaries(Canaries::open(state.path())));
        let bounds = Bounds { retention: Retention::default(), budget: Budget { per_user: 1 << 20, total: 1 << 24 } };
        let (log, _) = LogOwner::open(state.path(), &state.path().join("second"), "boot", bounds, None).unwrap();
        let (pipeline, messages) = queue::channel(QUEUE);
        let gaps = Arc::new(Mutex::new(Vec::new()));
        let noted = gaps.clone();
        // Ends with the last sender.
        std::thread::spawn(move || {
            while let Ok(message) = messages.recv() {
                match message {
                    Message::Started { done, .. } | Message::Judged(done) => drop(done.send(())),
                    Message::Input(Input::Gap(gap)) => noted.lock().unwrap().push(gap.what),
                    _ => {}
                }
            }
        });
        let parts = Parts {
            registry: registry.clone(),
            log: log.log(),
            pipeline,
            boot_id: "boot".into(),
            refusal: Box::new(|_| None),
            view: Arc::default(),
            shadows: crate::shadows::Shadows::spawn(&log.log(), state.path()).unwrap().0,
        };
        let discovery = Discovery::new(parts, &config);
        let mut bench = Bench { discovery, registry, root: folder, policies, gaps, _log: log, _state: state };
        bench.write_policy("first");
        bench.discovery.arm();
        bench.discovery.tend_early(true);
        Some(bench)
    }

    fn write_policy(&mut self, owner: &str) {
        let text = format!("[policy]\nname = \"p\"\nowner = \"{owner}\"\n");
        fs::write(self.policies.path().join("p.toml"), text).unwrap();
        let rules = self.discovery.rules.clone();
        self.discovery.policies.read(&rules, &self.discovery.parts.refusal);
    }

    /// Begins a canary that gives each run the candidate.
    fn start_canary(&self) {
        let (_, control) = self.discovery.policies.with_digest("p").unwrap();
        let terms = Terms {
            share_ppm: 1_000_000,
            runs_at_least: 1,
            hold: Span(0),
            promote_if: Vec::new(),
            withdraw_if: Vec::new(),
        };
        let begun = Decided { actor: Actor::Daemon, reason: "a test's".into(), at_ns: 1_000_000 };
        let candidate = parse("p", "[policy]\nname = \"p\"\nversion = 2\nowner = \"next\"\n").unwrap();
        let kept = Kept::begin(New { name: "p".into(), control, terms, secret: [7; 32], begun }, &candidate);
        self.registry.canaries().start(kept, candidate, |_| Ok(())).unwrap();
    }

    /// Makes a cgroup, which the kernel binds.
    fn make(&self, name: &str) -> u64 {
        let path = self.root.join(name);
        fs::create_dir(&path).unwrap();
        let id = fs::metadata(&path).unwrap().ino();
        assert!(self.is_provisional(id));
        id
    }

    fn is_provisional(&self, id: u64) -> bool {
        self.registry.kernel().provisional(id).is_some()
    }

    /// The gaps so far. What was sent before is among them: the messages are taken in order.
    fn gaps(&self) -> Vec<String> {
        let (done, taken) = tokio::sync::oneshot::channel();
        self.discovery.send(Message::Judged(done));
        taken.blocking_recv().unwrap();
        self.gaps.lock().unwrap().clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        for folder in self.root.ancestors().take(2) {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Its run is about to be made, as soon as the run that had its place is gone.
#[test]
fn a_cgroup_that_was_made_again_at_its_path_stays_bound_until_it_is_registered() {
    let Some(mut bench) = Bench::new("again") else { return };
    bench.make("job-1");
    assert!(bench.discovery.consider("jobs/job-1"));
    assert_eq!(bench.registry.live().len(), 1);
    fs::remove_dir(bench.root.join("job-1")).unwrap();
    let id = bench.make("job-1");
    bench.discovery.early.overdue.insert(id);
    bench.discovery.consider("jobs/job-1");
    bench.discovery.release_overdue(true);
    assert!(bench.is_provisional(id));
}

#[test]
fn only_a_pass_over_all_cgroups_releases_what_it_did_not_find() {
    let Some(mut bench) = Bench::new("whole") else { return };
    let id = bench.make("job-1");
    bench.discovery.early.overdue.insert(id);
    bench.discovery.release_overdue(false);
    assert!(bench.is_provisional(id));
    bench.discovery.early.overdue.insert(id);
    bench.discovery.release_overdue(true);
    assert!(!bench.is_provisional(id));
}

#[test]
fn a_cgroup_that_was_bound_by_an_earlier_policy_is_registered_with_a_gap() {
    let Some(mut bench) = Bench::new("policy") else { return };
    bench.make("job-1");
    bench.write_policy("second");
    bench.discovery.consider("jobs/job-1");
    assert_eq!(bench.registry.live().len(), 1);
    let gaps = bench.gaps();
    assert!(matches!(&gaps[..], [gap] if gap.contains("earlier policy")), "{gaps:?}");
    bench.discovery.tend_early(true);
    bench.make("job-2");
    bench.discovery.consider("jobs/job-2");
    assert_eq!((bench.registry.live().len(), bench.gaps().len()), (2, 1));
}

/// Its policy was in force from its first process on, and the log says nothing else.
#[test]
fn a_cgroup_that_gets_no_run_is_released_by_its_own_number() {
    let Some(mut bench) = Bench::new("released") else { return };
    bench.discovery.limits.runs_per_owner = 0;
    let (refused, other) = (bench.make("job-1"), bench.make("job-2"));
    bench.discovery.consider("jobs/job-1");
    assert!(bench.registry.live().is_empty());
    assert_eq!((bench.is_provisional(refused), bench.is_provisional(other)), (false, true));
}

#[test]
fn a_run_has_the_policy_in_force_when_the_candidate_of_its_canary_cannot_be_attached() {
    let Some(mut bench) = Bench::new("canary") else { return };
    bench.start_canary();
    bench.make("job-1");
    bench.registry.kernel().refuses_once.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.discovery.consider("jobs/job-1");
    let live = bench.registry.live();
    let [run] = live.as_slice() else { panic!("{live:?}") };
    assert_eq!((run.policy.owner.as_str(), run.run.labels.get(CANARY)), ("first", None));
    let gaps = bench.gaps();
    assert!(
        gaps.iter().any(|gap| gap.contains("not by the candidate p v2") && gap.contains("a test has it fail")),
        "{gaps:?}"
    );
    bench.make("job-2");
    bench.discovery.consider("jobs/job-2");
    let candidates = bench.registry.live().into_iter().filter(|run| run.policy.owner == "next");
    assert_eq!(candidates.map(|run| run.run.labels[CANARY].clone()).collect::<Vec<_>>(), ["p@1 candidate"]);
}
