//! For the kernel tests of the eBPF sensor: cgroups, mounts, and the event pump.
//!
//! Everything cleans up when dropped: processes are killed, cgroups removed, the test's own bpffs unmounted.

#[path = "../../../tests/patience.rs"]
mod patience_of;

use std::convert::Infallible;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::skip::skip;
use failsafe_matchers::egress::{EgressMode, EgressPolicy, EgressRule, Protocol};
use failsafe_matchers::keys::{Inode, Names};
use failsafe_matchers::rules::Rules;
use failsafe_matchers::watch::Delivery;
use failsafe_matchers::watch::Watch;
use failsafed::guard::{Config, Ebpf, Error, Holder, RunAttachment, RunSpec};
use failsafed::sensors::ebpf::{Event, EventReader, LOOKS_EVERY, RunCounters};
use nix::sys::eventfd::EventFd;
use patience_of::{patience, poll};

/// No bound on the network.
pub const OPEN_NET: &EgressPolicy = &EgressPolicy { mode: EgressMode::Off, rules: Vec::new(), judge_replies: false };

const PATIENCE: Duration = Duration::from_secs(20);

/// A loaded sensor with its event pump, and what it needs to clean up.
pub struct Bench {
    pub ebpf: Ebpf,
    config: Config,
    name: String,
    _bpffs: Bpffs,
    pump: Option<Pump>,
    received: u64,
    taken_ns: u64,
    next_slot: u32,
    paused: Option<MutexGuard<'static, ()>>,
    gate: &'static Mutex<()>,
}

/// A run under test.
pub struct TestRun {
    pub slot: u32,
    pub epoch: u32,
    pub cgroup: TestCgroup,
    names: Names,
}

impl TestRun {
    /// How its rules call a file.
    pub fn names_of(&self, entry: Option<Inode>) -> Vec<String> {
        entry.and_then(|inode| self.names.get(&inode)).into_iter().flatten().cloned().collect()
    }
}

struct Pump {
    events: Receiver<(u64, Event)>,
    stop: Arc<EventFd>,
    thread: std::thread::JoinHandle<()>,
}

pub fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let found = poll(PATIENCE, || Ok::<_, Infallible>(holds().then_some(())));
    assert!(found.is_ok_and(|found| found.is_some()), "{what} did not come");
}

pub fn ready(name: &str) -> Option<Bench> {
    ready_with(name, 1 << 20)
}

/// As on a kernel that grants no LSM hooks.
pub fn ready_without_lsm(name: &str) -> Option<Bench> {
    ready_as(name, LOOKS_EVERY, Config { ring_bytes: 1 << 20, lsm: false, ..Config::default() })
}

/// `None`, with the reason printed, on a machine that cannot run these tests.
pub fn ready_with(name: &str, ring_bytes: u32) -> Option<Bench> {
    ready_looking(name, ring_bytes, LOOKS_EVERY)
}

/// The same, with a reader that looks for what may wait only so often.
pub fn ready_looking(name: &str, ring_bytes: u32, looks_every: Duration) -> Option<Bench> {
    ready_as(name, looks_every, Config { ring_bytes, ..Config::default() })
}

pub fn ready_as(name: &str, looks_every: Duration, config: Config) -> Option<Bench> {
    let name = format!("{name}-{}", std::process::id());
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return None;
    }
    if cgroup2().is_none() {
        skip("no cgroup v2 is mounted");
        return None;
    }
    let bpffs = Bpffs::mount(&name);
    let config = Config { max_runs: 64, bpffs: Some(bpffs.0.path().to_owned()), instance: name.clone(), ..config };
    let gate: &'static Mutex<()> = Box::leak(Box::new(Mutex::new(())));
    let mut ebpf = Ebpf::load(&config).unwrap();
    let pump = Pump::start(&mut ebpf, gate, looks_every);
    Some(Bench {
        ebpf,
        config,
        name,
        _bpffs: bpffs,
        pump: Some(pump),
        received: 0,
        taken_ns: 0,
        next_slot: 0,
        paused: None,
        gate,
    })
}

impl Bench {
    pub fn cgroup(&self, name: &str) -> TestCgroup {
        TestCgroup::create(&cgroup2().unwrap().join(format!("failsafe-test-{}-{name}", self.name)))
    }

    pub fn add(&mut self, name: &str, egress: &EgressPolicy) -> TestRun {
        self.add_watching(name, egress, 0)
    }

    pub fn add_watching(&mut self, name: &str, egress: &EgressPolicy, syscalls: u64) -> TestRun {
        let cgroup = self.cgroup(name);
        self.adopt_watching(cgroup, egress, syscalls)
    }

    pub fn adopt(&mut self, cgroup: TestCgroup, egress: &EgressPolicy) -> TestRun {
        self.adopt_watching(cgroup, egress, 0)
    }

    fn adopt_watching(&mut self, cgroup: TestCgroup, egress: &EgressPolicy, syscalls: u64) -> TestRun {
        let slot = self.next_slot;
        self.next_slot += 1;
        let rules = Rules { watch: syscalls, ..Rules::default() };
        let attached = self.ebpf.add_run(&RunSpec { rules: &rules, ..spec(&cgroup, slot, egress) }).unwrap();
        assert_eq!(attached.missing, Vec::<&str>::new());
        TestRun { slot, epoch: attached.epoch, cgroup, names: attached.names }
    }

    /// As most runs are: of network calls only refusals are told.
    pub fn add_quiet(&mut self, name: &str, egress: &EgressPolicy) -> TestRun {
        let (cgroup, slot) = (self.cgroup(name), self.next_slot);
        self.next_slot += 1;
        let watch = Watch { exec: Delivery::Later, life: Delivery::Later, ..Watch::NOTHING };
        let attached = self.ebpf.add_run(&RunSpec { watch, ..spec(&cgroup, slot, egress) }).unwrap();
        TestRun { slot, epoch: attached.epoch, cgroup, names: attached.names }
    }

    pub fn add_ruled(&mut self, name: &str, egress: &EgressPolicy, rules: &Rules) -> TestRun {
        let cgroup = self.cgroup(name);
        self.adopt_ruled(cgroup, egress, rules)
    }

    pub fn adopt_ruled(&mut self, cgroup: TestCgroup, egress: &EgressPolicy, rules: &Rules) -> TestRun {
        let slot = self.next_slot;
        self.next_slot += 1;
        let attached = self.ebpf.add_run(&RunSpec { rules, ..spec(&cgroup, slot, egress) }).unwrap();
        assert_eq!(attached.missing, Vec::<&str>::new());
        TestRun { slot, epoch: attached.epoch, cgroup, names: attached.names }
    }

    /// Whether an LSM program is loaded; where it is not, the test says so and is skipped.
    pub fn has_lsm(&self, hook: &str) -> bool {
        let there = self.ebpf.is_loaded(&format!("fs_lsm_{hook}"));
        if !there {
            skip(&format!("this kernel refuses lsm/{hook}"));
        }
        there
    }

    pub fn try_add_of(
        &mut self,
        holder: Holder,
        cgroup: &TestCgroup,
        slot: u32,
        egress: &EgressPolicy,
    ) -> Result<(), Error> {
        self.ebpf.add_run(&RunSpec { holder, ..spec(cgroup, slot, egress) }).map(drop)
    }

    pub fn try_add(&mut self, cgroup: &TestCgroup, slot: u32, egress: &EgressPolicy) -> Result<RunAttachment, Error> {
        self.ebpf.add_run(&spec(cgroup, slot, egress))
    }

    pub fn counters(&self, run: &TestRun) -> RunCounters {
        self.counters_of(run.slot).unwrap()
    }

    /// `None`: nothing lives in the slot.
    pub fn counters_of(&self, slot: u32) -> Option<RunCounters> {
        self.ebpf.read_counters().unwrap().into_iter().find(|c| c.slot == slot).map(RunCounters::from)
    }

    /// Events up to the first that `wanted` says yes to, which is the last returned.
    pub fn until(&mut self, mut wanted: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + patience(PATIENCE);
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((at, event)) = self.pump.as_ref().unwrap().events.recv_timeout(left) else {
                panic!("the event did not come; these did: {seen:#?}");
            };
            self.received += 1;
            self.taken_ns = at;
            let hit = wanted(&event);
            seen.push(event);
            if hit {
                return seen;
            }
        }
    }

    /// When the callback got the last event that [`Bench::until`] returned; `CLOCK_MONOTONIC`.
    pub fn taken_ns(&self) -> u64 {
        self.taken_ns
    }

    /// What has been read by now.
    pub fn arrived(&mut self) -> Vec<Event> {
        let seen: Vec<Event> = self.pump.as_ref().unwrap().events.try_iter().map(|(_, event)| event).collect();
        self.received += seen.len() as u64;
        seen
    }

    /// All events that the kernel says it wrote.
    pub fn drain(&mut self) -> Vec<Event> {
        let written = |b: &Self| {
            b.ebpf.read_counters().unwrap().into_iter().map(RunCounters::from).map(|c| c.events - c.lost).sum::<u64>()
        };
        let deadline = Instant::now() + patience(PATIENCE);
        let mut seen = Vec::new();
        while self.received < written(self) {
            assert!(Instant::now() < deadline, "{} events of {} came", self.received, written(self));
            if let Ok((_, e)) = self.pump.as_ref().unwrap().events.recv_timeout(Duration::from_millis(50)) {
                self.received += 1;
                seen.push(e);
            }
        }
        seen
    }

    /// Every number was delivered or is counted as lost.
    pub fn assert_no_gap(&mut self, run: &TestRun) {
        self.drain();
        assert_eq!(self.counters(run).lost, 0);
    }

    /// The consumer stops taking events.
    pub fn pause(&mut self) {
        self.paused = Some(self.gate.lock().unwrap());
    }

    pub fn resume(&mut self) {
        self.paused = None;
    }

    /// Names another instance in this test's bpffs.
    pub fn instance(&self, name: &str) -> String {
        format!("{}/{}-{name}", self.config.bpffs.as_ref().unwrap().display(), self.name)
    }

    /// Starts over as the daemon of another instance.
    pub fn reload(&mut self, instance: &str) {
        self.pump.take().unwrap().stop();
        self.ebpf = Ebpf::load(&config_of(instance)).unwrap();
        self.pump = Some(Pump::start(&mut self.ebpf, self.gate, LOOKS_EVERY));
        self.received = 0;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.paused = None;
        if let Some(pump) = self.pump.take() {
            pump.stop();
        }
    }
}

impl Pump {
    fn start(ebpf: &mut Ebpf, gate: &'static Mutex<()>, looks_every: Duration) -> Self {
        let reader = EventReader::of(ebpf.take_ring().unwrap()).looking_every(looks_every);
        let stop = Arc::new(EventFd::new().unwrap());
        let (send, events) = channel();
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let undecoded = reader.run(until.as_fd(), |e| {
                let now = now_ns();
                drop(gate.lock());
                let _ = send.send((now, e));
            });
            assert_eq!(undecoded.unwrap(), 0);
        });
        Self { events, stop, thread }
    }

    fn stop(self) {
        self.stop.write(1).unwrap();
        self.thread.join().unwrap();
    }
}

pub fn enforce(list: &[(&str, u16)]) -> EgressPolicy {
    EgressPolicy {
        mode: EgressMode::Enforce,
        rules: list.iter().map(|(net, port)| allow(net, *port, None)).collect(),
        judge_replies: false,
    }
}

/// All ports and protocols of a network.
pub fn allow_all(net: &str) -> EgressRule {
    EgressRule { net: net.parse().unwrap(), ports: Vec::new(), protocol: None }
}

pub fn allow(net: &str, port: u16, protocol: Option<Protocol>) -> EgressRule {
    EgressRule { net: net.parse().unwrap(), ports: vec![port..=port], protocol }
}

/// Nothing but the egress list.
pub static NO_RULES: Rules = Rules {
    watch: 0,
    deny: 0,
    stop: 0,
    exec_once: false,
    observing: false,
    paths: Vec::new(),
    exec: None,
    families: Vec::new(),
    listen: Vec::new(),
    bind: Vec::new(),
    dead: None,
    max_procs: 0,
    max_forks: 0,
    protect: false,
    hosts: Vec::new(),
    net_denied: Vec::new(),
    net_stops: Vec::new(),
    names: Vec::new(),
    dns_servers: Vec::new(),
    budgets: Vec::new(),
};

pub fn spec<'a>(cgroup: &'a TestCgroup, slot: u32, egress: &'a EgressPolicy) -> RunSpec<'a> {
    RunSpec {
        slot,
        cgroup: &cgroup.path,
        cgroup_id: cgroup.id,
        level: cgroup.level(),
        egress,
        rules: &NO_RULES,
        watch: Watch::default(),
        holder: Holder::Administrator,
        learnt: &[],
        latch: 0,
        adopt: false,
    }
}

pub fn config_of(instance: &str) -> Config {
    let (bpffs, name) = instance.rsplit_once('/').unwrap();
    Config {
        ring_bytes: 1 << 16,
        max_runs: 64,
        bpffs: Some(bpffs.into()),
        instance: name.to_owned(),
        lsm: true,
        ..Config::default()
    }
}

/// Where cgroup v2 is mounted.
pub fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4)).map(PathBuf::from)
}

/// A cgroup that is emptied and removed, with all below it, when dropped.
pub struct TestCgroup {
    pub path: PathBuf,
    pub id: u64,
}

impl TestCgroup {
    fn create(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        Self { path: path.to_owned(), id: fs::metadata(path).unwrap().ino() }
    }

    pub fn child(&self, name: &str) -> Self {
        Self::create(&self.path.join(name))
    }

    pub fn level(&self) -> u32 {
        let below = self.path.strip_prefix(cgroup2().unwrap()).unwrap();
        u32::try_from(below.components().count()).unwrap()
    }

    pub fn admit(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Starts a program in it; the shell that moves itself there becomes the program.
    pub fn command(&self, program: &str) -> Command {
        let mut c = Command::new("/bin/sh");
        c.args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.path).arg(program);
        c
    }

    pub fn spawn(&self, program: &str, args: &[&str]) -> Child {
        self.command(program).args(args).spawn().unwrap()
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let deadline = Instant::now() + patience(PATIENCE);
        while remove_tree(&self.path).is_err() && self.path.exists() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for e in fs::read_dir(dir)?.flatten().filter(|e| e.path().is_dir()) {
        remove_tree(&e.path())?;
    }
    fs::remove_dir(dir)
}

/// Limits the memory of what is in the run: `None` where no controller can. On v1 the limit is a cgroup to be joined.
pub fn memory_limit(run: &TestCgroup, bytes: u64) -> Option<Option<TestCgroup>> {
    if fs::write(run.path.join("memory.max"), bytes.to_string()).is_ok() {
        let _ = fs::write(run.path.join("memory.swap.max"), "0");
        return Some(None);
    }
    let v1 = Path::new("/sys/fs/cgroup/memory");
    if !v1.join("memory.limit_in_bytes").exists() {
        return None;
    }
    let cgroup = TestCgroup::create(&v1.join(run.path.file_name().unwrap()));
    fs::write(cgroup.path.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
    Some(Some(cgroup))
}

/// A BPF file system of the test's own, in a folder that no earlier test of the same number can have left.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("failsafe-bpffs-{name}-")).tempdir().unwrap();
        nix::mount::mount(Some("bpf"), dir.path(), Some("bpf"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
        Self(dir)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Resident memory of this process.
pub fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn now_ns() -> u64 {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(t.tv_sec()).unwrap() * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap()
}
