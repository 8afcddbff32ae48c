//! Rules that the kernel carries out: stopping a run, what holds without a daemon, limits, privileges, failsafe's own things.

use std::fs;
use std::path::{Path, PathBuf};

use failsafe_ebpf::abi::{latch, point};
use failsafe_matchers::calls::WatchedCall;
use failsafe_matchers::rules::{Dead, Effect, PathPattern, PathRule, Rules, Use};
use failsafed::guard::Sights;
use failsafed::sensors::ebpf::{EventReader, Gain, Held, NetOp, Op, OpWhat, Protected, Way, What};

use super::agent::Agent;
use super::bench::{Bench, OPEN_NET, TestRun, ready, ready_without_lsm, soon};
use super::skip::skip;

pub fn on(path: &str, prefix: bool, usage: Use, effect: Effect) -> PathRule {
    PathRule { pattern: PathPattern { path: path.to_owned(), prefix }, usage, effect }
}

pub fn next_op(bench: &mut Bench, wanted: impl Fn(&OpWhat) -> bool) -> Op {
    let events = bench.until(|e| matches!(&e.what, What::Op(op) if wanted(&op.what)));
    match events.last().map(|e| &e.what) {
        Some(What::Op(op)) => op.clone(),
        other => panic!("{other:?}"),
    }
}

/// A folder of the test's own, by its real path.
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

pub fn state_of(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1[..1].to_owned()
}

pub fn released(bench: &mut Bench, run: &TestRun, pid: u32) {
    bench.ebpf.lift_stop(run.slot, false).unwrap();
    let stopped = bench.ebpf.take_stopped(run.slot).unwrap();
    assert!(stopped.contains(&pid), "{stopped:?}");
    for pid in stopped {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    }
}

#[test]
fn a_stop_rule_latches_the_run_in_the_call_and_stops_the_caller() {
    let Some(mut bench) = ready("stop") else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // A call that every kernel lets a program see before it does anything.
    let call = WatchedCall::from_name("memfd_create").unwrap().mask();
    bench.ebpf.require_syscalls(call, false).unwrap();
    let rules = Rules { watch: call, deny: call, stop: call, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let (mut agent, mut other) = (Agent::start(&run.cgroup), Agent::start(&run.cgroup));
    assert_eq!(other.ask(&format!("tcp 127.0.0.1:{port}")), "ok");
    agent.tell("memfd");
    bench.until(|e| matches!(&e.what, What::Syscall { call, .. } if call.name() == "memfd_create"));
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS | latch::STOP);
    soon("the caller's stop", || state_of(agent.pid()) == "T");
    // All of the run is latched, not only the one that did it.
    assert_eq!(other.ask(&format!("tcp 127.0.0.1:{port}")), "EPERM");
    if bench.ebpf.is_loaded("fs_lsm_file_open") {
        assert_eq!(other.ask("read /etc/hostname"), "EPERM");
        assert_eq!(other.ask("exec /bin/true"), "EPERM");
    }
    released(&mut bench, &run, agent.pid());
    assert_eq!(agent.answer(), "ok");
    assert_eq!(other.ask(&format!("tcp 127.0.0.1:{port}")), "ok");
    assert_eq!(other.ask("exec /bin/true"), "ok");
    bench.ebpf.require_syscalls(0, false).unwrap();
}

#[test]
fn without_a_daemon_the_kernel_enforces_the_policy() {
    let Some(mut bench) = ready("dead") else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dead = |all| Rules { dead: Some(Dead { after_ns: 200_000_000, all }), ..Rules::default() };
    let egress = bench.add_ruled("a", OPEN_NET, &dead(false));
    let keep = bench.add_ruled("b", OPEN_NET, &Rules::default());
    let (mut bounded, mut kept) = (Agent::start(&egress.cgroup), Agent::start(&keep.cgroup));
    // The one that may not even execute is there before its run: no pace of the machine is fast enough for it else.
    let cgroup = bench.cgroup("c");
    let mut whole = Agent::start(&cgroup);
    let _all = bench.adopt_ruled(cgroup, OPEN_NET, &dead(true));
    let connect = format!("tcp 127.0.0.1:{port}");
    // No beat comes: whatever the machine's pace, at some moment it is refused, and stays so.
    soon("the refusal", || bounded.ask(&connect) == "EPERM");
    bench.until(|e| matches!(&e.what, What::Net(n) if n.held == Some(Held::DeadDaemon)));
    assert_eq!(kept.ask(&connect), "ok");
    soon("the refusal", || whole.ask(&connect) == "EPERM");
    if bench.ebpf.is_loaded("fs_lsm_file_open") {
        assert_eq!(whole.ask("read /etc/hostname"), "EPERM");
        assert_eq!(bounded.ask("read /etc/hostname"), "ok");
    }
    // A daemon that is back is seen at once. It must not fall silent again before the answer: try until both fit.
    soon("the end of it", || {
        bench.ebpf.beat().unwrap();
        bounded.ask(&connect) == "ok"
    });
}

#[test]
fn what_happens_without_a_daemon_is_read_by_the_next() {
    let Some(mut bench) = ready("left") else { return };
    let held = bench.cgroup("held");
    let blocked = bench.cgroup("blocked");
    let instance = bench.instance("dies");
    let mut first = Agent::start_outside();
    assert_eq!(first.ask(&format!("guard {instance} {} {}", held.path.display(), blocked.path.display())), "ok");
    let mut inside = Agent::start(&held);
    first.kill();
    assert_eq!(inside.ask("tcp 127.0.0.1:9"), "EPERM");
    assert_eq!(inside.ask("exec /bin/true"), "ok");
    bench.reload(&instance);
    let left = bench.ebpf.left_events();
    bench.ebpf.adopt_finish().unwrap();
    let mut seen = Vec::new();
    for ring in left {
        assert!(ring.runs.iter().any(|r| r.root_id == held.id), "{:?}", ring.runs);
        EventReader::of(ring.ring).drain(&mut |event| seen.push(event));
    }
    assert!(seen.iter().any(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Connect && n.port == 9)));
    assert!(seen.iter().any(|e| matches!(&e.what, What::Exec { path, .. } if path == "/bin/true")));
}

#[test]
fn processes_beyond_the_limit_are_refused_or_reported() {
    let Some(mut bench) = ready("limit") else { return };
    let rules = Rules { max_procs: 2, deny: 1 << point::FORK, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut first = Agent::start(&run.cgroup);
    let _second = Agent::start(&run.cgroup);
    let refused = bench.ebpf.is_loaded("fs_lsm_task_alloc");
    assert_eq!(first.ask("exec /bin/true"), if refused { "EPERM" } else { "ok" });
    let op = next_op(&mut bench, |w| *w == OpWhat::Fork);
    assert_eq!((op.denied, op.via), (refused, if refused { Way::Lsm } else { Way::Tracepoint }));
}

#[test]
fn failsafe_is_out_of_a_runs_reach() {
    let Some(mut bench) = ready("protect") else { return };
    if !bench.has_lsm("task_kill") {
        return;
    }
    let run = bench.add_ruled("a", OPEN_NET, &Rules { protect: true, ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    let mine = std::process::id();
    let below = run.cgroup.path.join("below");
    fs::create_dir(&below).unwrap();
    let pins = bench.ebpf.pin_dir().unwrap().to_owned();
    let pin = fs::read_dir(&pins).unwrap().next().unwrap().unwrap().path();
    let refused = [
        (format!("signal {mine}"), Protected::Signal),
        (format!("attach {mine}"), Protected::Trace),
        ("bpf".into(), Protected::Bpf),
        (format!("append {}/cgroup.freeze", run.cgroup.path.display()), Protected::Cgroup),
        (format!("append {}/cgroup.procs", run.cgroup.path.parent().unwrap().display()), Protected::Cgroup),
        (format!("append {}", pin.display()), Protected::Bpffs),
    ];
    for (command, what) in refused {
        assert_eq!(agent.ask(&command), "EPERM", "{command}");
        assert!(next_op(&mut bench, |w| *w == OpWhat::Protect(what)).denied);
    }
    // Below its own root it may do as it likes: a container's init does.
    assert_eq!(agent.ask(&format!("append {}/cgroup.procs", below.display())), "ok");
    let mut child = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("attach {}", child.pid())), "ok");
    assert_eq!(child.ask("hello"), "hello");
    // The end of a process that is traced is its tracer's to know before its parent's.
    agent.kill();
    fs::remove_dir(&below).unwrap();
}

#[test]
fn processes_that_are_made_too_fast_are_refused_or_reported() {
    let Some(mut bench) = ready("fast") else { return };
    let rules = Rules { max_forks: 3, deny: 1 << point::FORK, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    let refused = bench.ebpf.is_loaded("fs_lsm_task_alloc");
    let answer = if refused { "EPERM" } else { "ok" };
    soon("more than three in one second", || {
        let answers: Vec<String> = (0..6).map(|_| agent.ask("exec /bin/true")).collect();
        let counted = bench.counters(&run);
        answers.iter().any(|said| said == answer) && counted.denied_ops + counted.observed_ops > 0
    });
    assert_eq!(next_op(&mut bench, |w| *w == OpWhat::Fork).denied, refused);
    // In the next second it may again.
    soon("its turn", || agent.ask("exec /bin/true") == "ok");
}

#[test]
fn a_gain_of_privilege_is_refused_by_its_kind() {
    let Some(mut bench) = ready("gains") else { return };
    if !bench.has_lsm("task_fix_setuid") {
        return;
    }
    let (_keep, dir) = folder();
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mighty = dir.join("mighty");
    fs::copy("/bin/true", &mighty).unwrap();
    give_capability(&mighty);
    for (n, (call, bit, gain)) in [
        ("regain".to_owned(), point::PRIV_SETUID, Gain::Setuid),
        (format!("execas 65534 {}", mighty.display()), point::PRIV_CAPABILITY, Gain::Capability),
    ]
    .into_iter()
    .enumerate()
    {
        let free = bench.add_ruled(&format!("free{n}"), OPEN_NET, &Rules::default());
        assert_eq!(Agent::start(&free.cgroup).ask(&call), "ok", "{call}: nothing forbids it");
        let bound = Rules { deny: 1 << bit, ..Rules::default() };
        let run = bench.add_ruled(&format!("bound{n}"), OPEN_NET, &bound);
        assert_eq!(Agent::start(&run.cgroup).ask(&call), "EPERM", "{call}");
        assert!(next_op(&mut bench, |w| *w == OpWhat::Privilege(gain)).denied);
    }
}

#[test]
fn without_lsm_what_an_exec_gains_is_reported_and_stops() {
    let Some(mut bench) = ready_without_lsm("gainseen") else { return };
    if !bench.ebpf.is_loaded("fs_gain_exec") && !bench.ebpf.is_loaded("fs_gain_creds") {
        return skip("this kernel has neither tp_btf/sched_prepare_exec nor fentry");
    }
    let (_keep, dir) = folder();
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mighty = dir.join("mighty");
    fs::copy("/bin/true", &mighty).unwrap();
    give_capability(&mighty);
    let gain = |op: &OpWhat| matches!(op, OpWhat::Privilege(_));
    let rules = Rules { watch: 1 << point::PRIV_CAPABILITY, ..Rules::default() };
    let seen = bench.add_ruled("seen", OPEN_NET, &rules);
    bench.ebpf.require_sights(Sights::of(&rules)).unwrap();
    let mut agent = Agent::start(&seen.cgroup);
    assert_eq!(agent.ask("execas 65534 /bin/true"), "ok");
    assert_eq!(agent.ask(&format!("execas 65534 {}", mighty.display())), "ok");
    let op = next_op(&mut bench, gain);
    assert_eq!((op.what, op.denied, op.via), (OpWhat::Privilege(Gain::Capability), false, Way::Tracepoint));
    assert_eq!(bench.ebpf.latch(seen.slot).unwrap(), 0);

    let rules = Rules { stop: 1 << point::PRIV_CAPABILITY, ..Rules::default() };
    let bound = bench.add_ruled("bound", OPEN_NET, &rules);
    let mut agent = Agent::start(&bound.cgroup);
    agent.tell(&format!("execas 65534 {}", mighty.display()));
    let events = bench.until(|e| matches!(&e.what, What::Op(op) if gain(&op.what)));
    let child = events.last().unwrap().subject.pid;
    soon("the caller's stop", || state_of(child) == "T");
    assert_ne!(bench.ebpf.latch(bound.slot).unwrap(), 0);
    released(&mut bench, &bound, child);
    assert_eq!(agent.answer(), "ok");

    bench.ebpf.require_sights(Sights::default()).unwrap();
    assert_eq!(agent.ask(&format!("execas 65534 {}", mighty.display())), "ok");
    let told = bench.drain().iter().any(|e| matches!(&e.what, What::Op(op) if gain(&op.what)));
    assert!(!told, "nobody is told of what no rule needs");
}

#[test]
fn without_lsm_root_that_a_call_gains_is_reported_at_its_entry() {
    let Some(mut bench) = ready_without_lsm("rootseen") else { return };
    let rules = Rules { watch: 1 << point::PRIV_SETUID, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    bench.ebpf.require_sights(Sights::of(&rules)).unwrap();
    bench.ebpf.require_syscalls(0, true).unwrap();
    let mut agent = Agent::start(&run.cgroup);
    // To become nobody is no gain.
    assert_eq!(agent.ask("execas 65534 /bin/true"), "ok");
    let gain = |op: &OpWhat| matches!(op, OpWhat::Privilege(_));
    let told = bench
        .until(|e| matches!(e.what, What::Exec { .. }))
        .iter()
        .any(|e| matches!(&e.what, What::Op(op) if gain(&op.what)));
    assert!(!told, "nothing was gained");
    assert_eq!(agent.ask("regain"), "ok");
    let op = next_op(&mut bench, gain);
    assert_eq!((op.what, op.denied, op.via), (OpWhat::Privilege(Gain::Setuid), false, Way::SysEnter));
}

/// `CAP_NET_RAW`, effective, for whoever runs it: `struct vfs_cap_data`, revision 2.
fn give_capability(program: &Path) {
    let path = std::ffi::CString::new(program.to_str().unwrap()).unwrap();
    let mut data = [0_u8; 20];
    data[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    data[4..8].copy_from_slice(&(1_u32 << 13).to_le_bytes());
    // SAFETY: both names end with a zero byte; the value has the length given.
    let done =
        unsafe { libc::setxattr(path.as_ptr(), c"security.capability".as_ptr(), data.as_ptr().cast(), data.len(), 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
