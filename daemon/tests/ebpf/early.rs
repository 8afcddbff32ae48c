//! Cgroups that the kernel binds when they are made: what is learnt, counted and stopped in them, and what becomes of their slots.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use failsafe_core::discover::{Automaton, Labels, Rule, Rules};
use failsafe_core::policy::parse::parse;
use failsafe_core::{Mode, Policy, RunId};
use failsafed::guard::kernel::{Compiled, Home, Kernel, KernelError, Placed, Retirement};
use failsafed::guard::{Config, Ebpf, Holder};

use super::agent::Agent;
use super::bench::{TestCgroup, cgroup2, config_of, ready, soon};
use super::names::Server;
use super::rules::state_of;
use super::skip::skip;

/// The automaton for the cgroups `jobs/job-*` in `root`.
fn automaton(root: &TestCgroup) -> Automaton {
    let rule = Rule {
        name: "jobs".into(),
        patterns: vec!["jobs/job-*".parse().unwrap()],
        policy: "p".into(),
        shadow: None,
        mode: Mode::Enforce,
        labels: Labels::new(),
    };
    let below = root.path.strip_prefix(cgroup2().unwrap()).unwrap();
    Rules::new(vec![rule]).unwrap().automaton(below.to_str().unwrap()).unwrap()
}

/// A daemon's kernel side, which binds nothing yet.
fn daemon(instance: &str, root: &TestCgroup) -> Kernel {
    let early_states = u32::try_from(automaton(root).states.len()).unwrap();
    let ebpf = Ebpf::load(&Config { early_states, ..config_of(instance) }).unwrap();
    ebpf.pin_dir().unwrap();
    Kernel::new(Ok(ebpf))
}

/// A daemon that has the kernel bind the cgroups `jobs/job-*` in `root`.
fn armed(instance: &str, root: &TestCgroup, policy: &Policy, slots: u32) -> Kernel {
    let kernel = daemon(instance, root);
    let level = u8::try_from(root.level() + 2).unwrap();
    kernel.arm_early(&automaton(root), &root.path, BTreeSet::from([level])).unwrap();
    kernel.set_early(0, Some(kernel.compile(policy).unwrap())).unwrap();
    kernel.offer_early(slots).unwrap();
    kernel
}

fn policy(sections: &str) -> Policy {
    parse("p.toml", &format!("[policy]\nname = \"p\"\nowner = \"tests\"\n{sections}")).unwrap()
}

/// Stops at a call that every kernel lets a program see before it does anything.
fn stops() -> Policy {
    policy(
        "[[rule]]\nid = \"memory\"\nrationale = \"x\"\neffect = \"stop\"\n\
         when = { event = \"syscall\", name = [\"memfd_create\"] }\nactions = [\"freeze\"]\n",
    )
}

/// Where the generations of an instance are pinned.
fn pins_of(instance: &str) -> PathBuf {
    let (bpffs, name) = instance.rsplit_once('/').unwrap();
    Path::new(bpffs).join("failsafe").join(name)
}

/// Nothing may be reached but a name server and, at one port, a name.
fn by_name(server: &str, port: u16) -> Policy {
    policy(&format!(
        "[egress]\nmode = \"enforce\"\ndns_servers = [\"{server}\"]\n\
         allow = [{{ cidr = \"{server}/32\", ports = [53] }}, {{ host = \"example.org\", ports = [{port}] }}]\n"
    ))
}

fn add(kernel: &Kernel, n: u128, cgroup: &TestCgroup, policy: &Policy) -> Result<Placed, KernelError> {
    add_compiled(kernel, n, cgroup, kernel.compile(policy).unwrap())
}

fn add_compiled(kernel: &Kernel, n: u128, cgroup: &TestCgroup, compiled: Compiled) -> Result<Placed, KernelError> {
    let level = usize::try_from(cgroup.level()).unwrap();
    let home = Home { cgroup: &cgroup.path, cgroup_id: cgroup.id, level, holder: Holder::Administrator };
    kernel.add(RunId(uuid::Uuid::from_u128(n)), compiled, home, None)
}

/// The tables of a provisional run are those of its rule, and no registered run has them.
#[test]
fn a_name_that_a_provisional_run_has_learnt_holds_when_earlier_programs_are_released() {
    let Some(bench) = ready("early-learnt") else { return };
    let listener = TcpListener::bind("127.78.4.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Server::start("127.53.14.1:53", "127.78.4.1".parse().unwrap());
    let root = bench.cgroup("root");
    let jobs = root.child("jobs");
    let kernel = armed(&bench.instance("daemons"), &root, &by_name("127.53.14.1", port), 2);
    let job = jobs.child("job-1");
    assert!(kernel.provisional(job.id).is_some());
    let mut agent = Agent::start(&job);
    let connect = format!("tcp 127.78.4.1:{port}");
    assert_eq!(agent.ask(&connect), "EPERM");
    assert_eq!(agent.ask(&format!("resolve example.org {}", server.address)), "ok");
    assert_eq!(agent.ask(&connect), "ok");
    kernel.release_previous(&BTreeSet::new());
    assert_eq!(agent.ask(&connect), "ok");
    assert_eq!(agent.ask("tcp 127.78.4.1:9"), "EPERM", "another port");
}

/// The programs of the daemon before stay attached for the guarded run, and bind until discovery has looked at everything.
#[test]
fn what_earlier_programs_bind_after_the_adoption_is_released_and_a_guarded_run_stays_bounded() {
    let Some(bench) = ready("early-late") else { return };
    let listener = TcpListener::bind("127.78.5.1:0").unwrap();
    let connect = format!("tcp {}", listener.local_addr().unwrap());
    let (root, instance) = (bench.cgroup("root"), bench.instance("daemons"));
    let jobs = root.child("jobs");
    let nothing = policy("[egress]\nmode = \"enforce\"\nallow = []\n");
    let first = armed(&instance, &root, &nothing, 4);
    let guarded = bench.cgroup("guarded");
    add(&first, 1, &guarded, &nothing).unwrap();
    let mut held = Agent::start(&guarded);
    drop(first);
    let second = daemon(&instance, &root);
    let previous = second.previous().unwrap();
    assert_eq!(previous.iter().map(|run| run.root_id).collect::<Vec<_>>(), [guarded.id]);
    let keep = BTreeSet::from([guarded.id]);
    second.release_previous(&keep);
    let late = jobs.child("job-late");
    let mut agent = Agent::start(&late);
    assert_eq!(agent.ask(&connect), "EPERM", "the first daemon's programs bind it");
    let done = Retirement { released: vec![(late.id, Vec::new())], problem: None };
    assert_eq!(second.retire_early(), done);
    assert_eq!(agent.ask(&connect), "ok");
    // The kernel may detach them later than that. What they bind until then is not kept, however often runs are taken up.
    let later = jobs.child("job-later");
    second.previous().unwrap();
    assert!(!second.is_left(later.id));
    second.release_previous(&keep);
    assert_eq!(Agent::start(&later).ask(&connect), "ok");
    assert_eq!(held.ask(&connect), "EPERM", "the guarded run");
}

#[test]
fn a_cgroup_whose_release_fails_stays_bounded_with_its_stopped_processes_until_a_later_try() {
    let Some(bench) = ready("early-again") else { return };
    let (root, instance) = (bench.cgroup("root"), bench.instance("daemons"));
    let jobs = root.child("jobs");
    let first = armed(&instance, &root, &stops(), 2);
    let job = jobs.child("job-1");
    let mut agent = Agent::start(&job);
    agent.tell("memfd");
    soon("the caller's stop", || state_of(agent.pid()) == "T");
    drop(first);
    let second = daemon(&instance, &root);
    second.previous().unwrap();
    // Its pins cannot be listed: as an error of bpffs.
    let pins = pins_of(&instance);
    let away = PathBuf::from(format!("{}-away", pins.display()));
    fs::rename(&pins, &away).unwrap();
    let failed = second.retire_early();
    assert!(failed.released.is_empty() && failed.problem.is_some(), "{failed:?}");
    assert!(second.is_left(job.id), "it is bounded");
    fs::rename(&away, &pins).unwrap();
    assert_eq!(second.retire_early(), Retirement { released: vec![(job.id, vec![agent.pid()])], problem: None });
    assert!(!second.is_left(job.id));
}

#[test]
fn a_generation_that_cannot_be_removed_does_not_keep_the_cgroups_of_another_bounded() {
    let Some(bench) = ready("early-broken") else { return };
    let listener = TcpListener::bind("127.78.6.1:0").unwrap();
    let connect = format!("tcp {}", listener.local_addr().unwrap());
    let (root, instance) = (bench.cgroup("root"), bench.instance("daemons"));
    let jobs = root.child("jobs");
    let first = armed(&instance, &root, &policy("[egress]\nmode = \"enforce\"\nallow = []\n"), 2);
    let job = jobs.child("job-1");
    let mut agent = Agent::start(&job);
    assert_eq!(agent.ask(&connect), "EPERM");
    drop(first);
    let pins = pins_of(&instance);
    // Before and after those of the first daemon, in whatever order they are listed.
    let broken = ["g1000_v1", "g0_v1"].map(|name| pins.join(name));
    let second = daemon(&instance, &root);
    for link in &broken {
        std::os::unix::fs::symlink("nowhere", link).unwrap();
    }
    second.previous().unwrap();
    let done = second.retire_early();
    assert!(done.problem.is_some_and(|why| why.contains("_v1")));
    assert_eq!(done.released.len(), 1);
    assert_eq!(agent.ask(&connect), "ok");
    broken.iter().for_each(|link| fs::remove_file(link).unwrap());
    assert_eq!(second.retire_early(), Retirement::default());
}

#[test]
fn a_slot_has_one_run_although_its_cgroup_is_registered_twice_at_once() {
    let Some(bench) = ready("early-twice") else { return };
    let root = bench.cgroup("root");
    let jobs = root.child("jobs");
    let plain = policy("");
    let kernel = armed(&bench.instance("daemons"), &root, &plain, 2);
    for n in 0..20 {
        let job = jobs.child(&format!("job-{n}"));
        let (slot, epoch) = kernel.provisional(job.id).unwrap();
        let barrier = Barrier::new(4);
        let register = &|which: u128| {
            // Looks at files: done before, so that all come to the slot at the same time.
            let compiled = kernel.compile(&plain).unwrap();
            barrier.wait();
            add_compiled(&kernel, which, &job, compiled)
        };
        let all = std::thread::scope(|scope| {
            let all: Vec<_> = (1..=4).map(|which| scope.spawn(move || register(which))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        let placed: Vec<_> = all.into_iter().filter_map(Result::ok).collect();
        assert_eq!(placed, [Placed { slot, epoch }]);
        let other = bench.cgroup(&format!("other-{n}"));
        let second = add(&kernel, 5, &other, &plain).unwrap();
        assert_ne!(second.slot, slot);
        kernel.remove(second.slot);
        kernel.remove(slot);
        kernel.offer_early(2).unwrap();
    }
}

#[test]
fn cgroups_beyond_the_offered_slots_are_counted_and_bound_when_they_are_registered() {
    let Some(bench) = ready("early-slots") else { return };
    let listener = TcpListener::bind("127.78.6.1:0").unwrap();
    let connect = format!("tcp {}", listener.local_addr().unwrap());
    let root = bench.cgroup("root");
    let jobs = root.child("jobs");
    let nothing = policy("[egress]\nmode = \"enforce\"\nallow = []\n");
    let kernel = armed(&bench.instance("daemons"), &root, &nothing, 2);
    let made: Vec<TestCgroup> = (0..4).map(|n| jobs.child(&format!("job-{n}"))).collect();
    let bound: Vec<bool> = made.iter().map(|job| kernel.provisional(job.id).is_some()).collect();
    assert_eq!(bound, [true, true, false, false]);
    let counts = kernel.early_counts();
    assert_eq!((counts.bound, counts.exhausted, counts.failed), (2, 2, 0));
    let mut agents: Vec<Agent> = made.iter().map(Agent::start).collect();
    let asked: Vec<String> = agents.iter_mut().map(|agent| agent.ask(&connect)).collect();
    assert_eq!(asked, ["EPERM", "EPERM", "ok", "ok"]);
    // No slot is free, and a registration finds one all the same.
    add(&kernel, 1, &made[2], &nothing).unwrap();
    assert_eq!(agents[2].ask(&connect), "EPERM");
    // A slot that was released is offered again.
    assert!(kernel.release_early(made[0].id).unwrap().is_some());
    assert_eq!(agents[0].ask(&connect), "ok");
    kernel.offer_early(2).unwrap();
    let next = jobs.child("job-next");
    assert!(kernel.provisional(next.id).is_some());
    let again = jobs.child("job-again");
    assert!(kernel.provisional(again.id).is_none(), "one slot was released");
}

/// Whoever lets the run go continues them: no other daemon or user knows of them.
#[test]
fn the_processes_that_a_rule_stopped_in_a_provisional_run_are_named_when_it_is_released() {
    let Some(bench) = ready("early-stopped") else { return };
    let root = bench.cgroup("root");
    let jobs = root.child("jobs");
    let kernel = armed(&bench.instance("daemons"), &root, &stops(), 2);
    let job = jobs.child("job-1");
    let mut agent = Agent::start(&job);
    agent.tell("memfd");
    soon("the caller's stop", || state_of(agent.pid()) == "T");
    let (_, stopped) = kernel.release_early(job.id).unwrap().unwrap();
    assert_eq!(stopped, [agent.pid()]);
}

/// A container has a network namespace of its own, and the entry that the kernel makes has the host's.
#[test]
fn a_container_that_an_earlier_daemons_programs_bound_learns_names_once_it_is_registered() {
    let Some(bench) = ready("early-netns") else { return };
    let (root, instance) = (bench.cgroup("root"), bench.instance("daemons"));
    let jobs = root.child("jobs");
    let policy = by_name("127.53.16.1", 4_433);
    let first = armed(&instance, &root, &policy, 2);
    let job = jobs.child("job-1");
    let mut agent = Agent::start_as(&job, &["unshare", "--net"]);
    assert_eq!(agent.ask("loopback"), "ok");
    drop(first);
    let second = daemon(&instance, &root);
    second.previous().unwrap();
    assert!(second.is_left(job.id));
    add(&second, 1, &job, &policy).unwrap();
    second.retire_early();
    let mut server = Agent::start_outside_as(&["nsenter", "--target", &agent.pid().to_string(), "--net"]);
    assert_eq!(server.ask("serve 127.53.16.1:53 127.78.7.1"), "ok");
    assert_eq!(agent.ask("tcp 127.78.7.1:4433"), "EPERM");
    assert_eq!(agent.ask("resolve example.org 127.53.16.1:53"), "ok");
    // Nobody listens there.
    assert_eq!(agent.ask("tcp 127.78.7.1:4433"), "ECONNREFUSED");
}

#[test]
fn a_budget_holds_from_the_registration_of_a_run_that_the_kernel_bound() {
    let Some(bench) = ready("early-budget") else { return };
    let peer = std::net::UdpSocket::bind("127.78.9.1:0").unwrap();
    let send = format!("udp {}", peer.local_addr().unwrap());
    let budget = policy(
        "[egress]\nmode = \"enforce\"\nallow = [{ cidr = \"127.78.9.0/24\" }]\n\
         [[egress.budget]]\nname = \"peer\"\nto = [\"127.78.9.0/24\"]\nbytes = \"100 B\"\n",
    );
    let root = bench.cgroup("root");
    let jobs = root.child("jobs");
    let kernel = armed(&bench.instance("daemons"), &root, &budget, 2);
    let job = jobs.child("job-1");
    let mut agent = Agent::start(&job);
    (0..10).for_each(|_| drop(agent.ask(&send)));
    let Placed { slot, epoch } = add(&kernel, 1, &job, &budget).unwrap();
    let used = || kernel.budgets_used(slot, epoch, 1).unwrap()[0];
    assert_eq!(used(), (0, 0), "what was sent before counts for no budget");
    // 5 bytes of payload and 28 of headers each: the fourth is too much.
    let asked: Vec<String> = (0..5).map(|_| agent.ask(&send)).collect();
    assert_eq!(asked, ["ok", "ok", "ok", "EPERM", "EPERM"]);
    assert_eq!(used(), (99, 2));
}

/// Only a kernel that grants LSM hooks refuses it; and the tracepoint is needed that binds.
#[test]
fn a_denied_file_is_refused_in_a_cgroup_that_is_not_registered_yet() {
    let Some(bench) = ready("early-files") else { return };
    if !bench.has_lsm("file_open") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().canonicalize().unwrap().join("secret");
    std::fs::write(&file, "x").unwrap();
    let (root, instance) = (bench.cgroup("root"), bench.instance("daemons"));
    let jobs = root.child("jobs");
    let denies = policy(&format!(
        "[[rule]]\nid = \"secret\"\nrationale = \"x\"\neffect = \"deny\"\nwhen = {{ event = \"open\", path = [\"{}\"] }}\n\
         actions = [\"notify\"]\n",
        file.display()
    ));
    let kernel = daemon(&instance, &root);
    let level = u8::try_from(root.level() + 2).unwrap();
    if let Err(why) = kernel.arm_early(&automaton(&root), &root.path, BTreeSet::from([level])) {
        return skip(&format!("this kernel does not bind cgroups when they are made: {why}"));
    }
    kernel.set_early(0, Some(kernel.compile(&denies).unwrap())).unwrap();
    kernel.offer_early(2).unwrap();
    let (job, other) = (jobs.child("job-1"), jobs.child("other"));
    assert!(kernel.provisional(job.id).is_some());
    let read = format!("read {}", file.display());
    assert_eq!(Agent::start(&other).ask(&read), "ok");
    assert_eq!(Agent::start(&job).ask(&read), "EPERM");
    // The registration changes nothing of that.
    add(&kernel, 1, &job, &denies).unwrap();
    assert_eq!(Agent::start(&job).ask(&read), "EPERM");
}
