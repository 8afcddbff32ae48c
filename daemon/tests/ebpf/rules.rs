//! Rules that the kernel carries out: refused in the call where a hook is there, seen where it is not.

use std::fs;
use std::path::{Path, PathBuf};

use failsafe_ebpf::abi::{latch, point};
use failsafed::sensors::ebpf::hosts::{BudgetRule, HostRule, WatchedName};
use failsafed::sensors::ebpf::rules::{Dead, Effect, ExecList, PathPattern, PathRule, Rules, Use, effects};
use failsafed::sensors::ebpf::{FileKind, Memory, NetOp, Op, OpWhat, Protected, WatchedCall, Way, What};

use super::agent::Agent;
use super::bench::{Bench, OPEN_NET, TestRun, enforce, ready, soon};

fn on(path: &str, prefix: bool, usage: Use, effect: Effect) -> PathRule {
    PathRule { pattern: PathPattern { path: path.to_owned(), prefix }, usage, effect }
}

fn next_op(bench: &mut Bench, wanted: impl Fn(&OpWhat) -> bool) -> Op {
    let events = bench.until(|e| matches!(&e.what, What::Op(op) if wanted(&op.what)));
    match events.last().map(|e| &e.what) {
        Some(What::Op(op)) => op.clone(),
        other => panic!("{other:?}"),
    }
}

/// A folder of the test's own, by its real path.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

fn state_of(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1[..1].to_owned()
}

#[test]
fn a_device_is_refused_by_its_number_on_every_kernel() {
    let Some(mut bench) = ready("device") else { return };
    let rules = Rules {
        paths: vec![on("/dev/zero", false, Use::Read, Effect::Deny), on("/dev/ful", true, Use::Write, Effect::Deny)],
        ..Rules::default()
    };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("read /dev/zero"), "EPERM");
    assert_eq!(agent.ask("append /dev/full"), "EPERM");
    assert_eq!(agent.ask("read /dev/full"), "ok");
    assert_eq!(agent.ask("append /dev/null"), "ok");
    let mut outside = Agent::start_outside();
    assert_eq!(outside.ask("read /dev/zero"), "ok");
    let seen = |bench: &mut Bench| next_op(bench, |w| matches!(w, OpWhat::Device { .. } | OpWhat::Open { .. }));
    let op = seen(&mut bench);
    assert!(op.denied, "{op:?}");
    assert_eq!(bench.counters(&run).denied_ops, 2);
}

#[test]
fn a_path_is_what_the_kernel_makes_of_it() {
    let Some(mut bench) = ready("paths") else { return };
    if !bench.has_lsm("file_open") {
        return;
    }
    let (_keep, dir) = folder();
    let at = |name: &str| dir.join(name).display().to_string();
    fs::create_dir(dir.join("secrets")).unwrap();
    for name in ["secret", "open", "secrets/a", "secretly"] {
        fs::write(dir.join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink(dir.join("secret"), dir.join("link")).unwrap();
    fs::hard_link(dir.join("secret"), dir.join("hard")).unwrap();
    let rules = Rules {
        paths: vec![
            on(&at("secret"), false, Use::Read, Effect::Deny),
            on(&format!("{}/", at("secrets")), true, Use::Write, Effect::Deny),
        ],
        ..Rules::default()
    };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    let dots = format!("{}/secrets/../secret", dir.display());
    for path in [&at("secret"), &at("link"), &at("hard"), &dots] {
        assert_eq!(agent.ask(&format!("read {path}")), "EPERM", "{path}");
    }
    let named = |bench: &mut Bench, path: &str| {
        let op = next_op(bench, |w| matches!(w, OpWhat::Open { .. }));
        assert_eq!(op.what, OpWhat::Open { path: at(path), write: path == "secrets/a" });
        assert_eq!((op.denied, op.via), (true, Way::Lsm));
        run.names_of(op.entry)
    };
    // One file, told once: whatever name was used leads to the rule's.
    assert_eq!(named(&mut bench, "secret"), [at("secret")]);
    assert_eq!(agent.ask(&format!("append {}", at("secrets/a"))), "EPERM");
    assert_eq!(named(&mut bench, "secrets/a"), [at("secrets/")]);
    for path in ["open", "secretly", "secrets/a"] {
        assert_eq!(agent.ask(&format!("read {}", at(path))), "ok", "{path}");
    }
    // What the twin says of the names that need no resolving is what the kernel did.
    for (path, refused) in [("secret", true), ("open", false), ("secretly", false), ("secrets/a", false)] {
        assert_eq!(effects(&rules, &at(path)).read >= 2, refused, "{path}");
    }
}

#[test]
fn without_lsm_opens_are_seen_as_they_were_asked_for() {
    let Some(mut bench) = ready("entries") else { return };
    if bench.ebpf.is_loaded("fs_lsm_file_open") {
        return;
    }
    let (_keep, dir) = folder();
    let secret = dir.join("secret").display().to_string();
    fs::write(&secret, "x").unwrap();
    let rules = Rules {
        paths: vec![on(&secret, false, Use::Read, Effect::Deny)],
        deny: 1 << point::MEM_ANONYMOUS,
        ..Rules::default()
    };
    bench.ebpf.require_syscalls(0, true).unwrap();
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("read {secret}")), "ok", "nothing can refuse it here");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Open { .. }));
    assert_eq!(op.what, OpWhat::Open { path: secret, write: false });
    assert_eq!((op.denied, op.via), (false, Way::SysEnter));
    assert_eq!(agent.ask("mapexec anonymous"), "ok");
    let op = next_op(&mut bench, |w| *w == OpWhat::Memory(Memory::Anonymous));
    assert_eq!((op.denied, op.via), (false, Way::SysEnter));
    bench.ebpf.require_syscalls(0, false).unwrap();
}

#[test]
fn without_lsm_a_program_is_known_by_another_name_and_stops_the_run_by_its_own() {
    let Some(mut bench) = ready("aliases") else { return };
    if bench.ebpf.is_loaded("fs_lsm_bprm_check_security") {
        return;
    }
    let (_keep, dir) = folder();
    let at = |name: &str| dir.join(name).display().to_string();
    fs::create_dir(dir.join("tools")).unwrap();
    for name in ["forbidden", "fatal", "tools/a"] {
        fs::copy("/bin/true", dir.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(dir.join("forbidden"), dir.join("link")).unwrap();
    fs::hard_link(dir.join("tools/a"), dir.join("hard")).unwrap();
    let rules = Rules {
        paths: vec![
            on(&at("forbidden"), false, Use::Exec, Effect::Deny),
            on(&at("fatal"), false, Use::Exec, Effect::Stop),
            on(&at("tools/a"), false, Use::Exec, Effect::Deny),
        ],
        ..Rules::default()
    };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    for (used, known_as) in [("link", "forbidden"), ("hard", "tools/a")] {
        assert_eq!(agent.ask(&format!("exec {}", at(used))), "ok", "nothing can refuse it here");
        let op = next_op(&mut bench, |w| matches!(w, OpWhat::Exec { .. }));
        assert_eq!(op.what, OpWhat::Exec { path: at(used), kind: FileKind::Named });
        assert_eq!((op.denied, op.via, run.names_of(op.entry)), (false, Way::Tracepoint, vec![at(known_as)]));
    }
    // By the name of the rule its exec tells it, and nothing twice.
    assert_eq!(agent.ask(&format!("exec {}", at("forbidden"))), "ok");
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), 0);
    agent.tell(&format!("exec {}", at("fatal")));
    let events = bench.until(|e| matches!(&e.what, What::Exec { path, .. } if *path == at("fatal")));
    assert!(!events.iter().any(|e| matches!(&e.what, What::Op(_))), "{events:?}");
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS | latch::STOP);
    let stopped = events.last().unwrap().subject.pid;
    soon("the program to stand still", || state_of(stopped) == "T");
    released(&mut bench, &run, stopped);
}

#[test]
fn programs_run_by_list_name_and_kind() {
    let Some(mut bench) = ready("programs") else { return };
    if !bench.has_lsm("bprm_check_security") {
        return;
    }
    let (_keep, dir) = folder();
    let copy = dir.join("true");
    fs::copy("/bin/true", &copy).unwrap();
    let script = dir.join("script");
    fs::write(&script, "#!/bin/true\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let real = |path: &str| Path::new(path).canonicalize().unwrap().display().to_string();
    let list = |paths: &[String]| ExecList {
        others: Effect::Deny,
        allow: paths.iter().map(|p| PathPattern { path: p.clone(), prefix: false }).collect(),
    };
    let this = std::env::current_exe().unwrap().canonicalize().unwrap().display().to_string();
    let allow = list(&[real("/bin/sh"), real("/bin/true"), this.clone()]);
    let rules = Rules { exec: Some(allow), deny: 1 << point::EXEC_MEMFD | 1 << point::EXEC_SCRIPT, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("exec /bin/true"), "ok");
    assert_eq!(agent.ask(&format!("exec {}", copy.display())), "EPERM");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Exec { .. }));
    assert_eq!(op.what, OpWhat::Exec { path: copy.display().to_string(), kind: FileKind::Named });
    assert_eq!(agent.ask("execmemfd"), "EPERM");
    next_op(&mut bench, |w| matches!(w, OpWhat::Exec { kind: FileKind::Memfd, .. }));
    assert_eq!(agent.ask(&format!("exec {}", script.display())), "EPERM");

    // The loader is a program too: what it would map is refused by the same rule.
    let loader =
        ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].into_iter().find(|p| Path::new(p).exists());
    let loader = loader.unwrap();
    let denied =
        Rules { paths: vec![on(&copy.display().to_string(), false, Use::Exec, Effect::Deny)], ..Rules::default() };
    let other = bench.add_ruled("b", OPEN_NET, &denied);
    let mut agent = Agent::start(&other.cgroup);
    agent.ask(&format!("exec {loader} {}", copy.display()));
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Map { .. }));
    assert!(op.denied);
}

#[test]
fn executable_memory_is_refused_by_kind() {
    let Some(mut bench) = ready("memory") else { return };
    if !bench.has_lsm("mmap_file") {
        return;
    }
    let rules = Rules { deny: 1 << point::MEM_WRITE_EXEC, watch: 1 << point::MEM_ANONYMOUS, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("mapexec both"), "EPERM");
    assert!(next_op(&mut bench, |w| *w == OpWhat::Memory(Memory::WriteExec)).denied);
    assert_eq!(agent.ask("mapexec anonymous"), "ok");
    assert!(!next_op(&mut bench, |w| *w == OpWhat::Memory(Memory::Anonymous)).denied);
}

fn released(bench: &mut Bench, run: &TestRun, pid: u32) {
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
fn a_refused_connect_can_stop_the_run() {
    let Some(mut bench) = ready("netstop") else { return };
    let rules = Rules { stop: 1 << point::NET, ..Rules::default() };
    let run = bench.add_ruled("a", &enforce(&[]), &rules);
    let mut agent = Agent::start(&run.cgroup);
    agent.tell("tcp 127.0.0.1:9");
    bench.until(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Connect && n.port == 9));
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS | latch::STOP);
    if bench.ebpf.is_loaded("fs_lsm_socket_connect") {
        soon("the caller's stop", || state_of(agent.pid()) == "T");
        released(&mut bench, &run, agent.pid());
    }
    assert_eq!(agent.answer(), "EPERM");
}

#[test]
fn without_a_daemon_the_kernel_does_what_the_policy_says() {
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
    bench.until(|e| matches!(&e.what, What::Net(n) if n.dead));
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
    for mut ring in left {
        assert!(ring.runs.iter().any(|r| r.root_id == held.id), "{:?}", ring.runs);
        ring.reader.drain(&mut |event| seen.push(event));
    }
    assert!(seen.iter().any(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Connect && n.port == 9)));
    assert!(seen.iter().any(|e| matches!(&e.what, What::Exec { path, .. } if path == "/bin/true")));
}

#[test]
fn processes_beyond_the_limit_are_refused_or_told() {
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
fn odd_socket_families_are_refused_where_the_network_is_bounded() {
    let Some(mut bench) = ready("families") else { return };
    if !bench.has_lsm("socket_create") {
        return;
    }
    let run = bench.add("a", &enforce(&[]));
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("family {}", libc::AF_PACKET)), "EPERM");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Socket { family: 17, .. }));
    assert!(op.denied);
    let free = bench.add_ruled("b", OPEN_NET, &Rules { families: vec![(16, Effect::Deny)], ..Rules::default() });
    let mut agent = Agent::start(&free.cgroup);
    assert_eq!(agent.ask(&format!("family {}", libc::AF_PACKET)), "ok");
    assert_eq!(agent.ask(&format!("family {}", libc::AF_NETLINK)), "EPERM");
}

#[test]
fn ports_to_listen_on_and_bind_are_refused_by_number() {
    let Some(mut bench) = ready("ports") else { return };
    let rules = Rules { bind: vec![(None, Effect::Deny)], ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("bind"), "EPERM");
    if !bench.has_lsm("socket_listen") {
        return;
    }
    let listen = bench.add_ruled("b", OPEN_NET, &Rules { listen: vec![(None, Effect::Deny)], ..Rules::default() });
    let mut agent = Agent::start(&listen.cgroup);
    assert_eq!(agent.ask("listen"), "EPERM");
    assert!(next_op(&mut bench, |w| matches!(w, OpWhat::Listen { .. })).denied);
}

#[test]
fn a_budget_of_bytes_ends_in_drops_and_the_rest_of_the_list_goes_on() {
    let Some(mut bench) = ready("budget") else { return };
    let mut list = enforce(&[]);
    list.rules = vec![super::bench::allow_all("127.0.0.0/8")];
    // 5 bytes of payload and 28 of headers each: the fourth is too much.
    let budget = BudgetRule { to: vec!["127.88.0.0/16".parse().unwrap()], bytes: 100, rate: 0 };
    let run = bench.add_ruled("a", &list, &Rules { budgets: vec![budget], ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    let sent: Vec<String> = (0..5).map(|_| agent.ask("udp 127.88.0.1:9")).collect();
    assert_eq!(sent, ["ok", "ok", "ok", "EPERM", "EPERM"]);
    assert_eq!(agent.ask("udp 127.89.0.1:9"), "ok");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Budget { .. }));
    assert!(op.denied);
    assert_eq!(op.what, OpWhat::Budget { class: 1, spent: 99, address: "127.88.0.1".parse().unwrap() });
    assert_eq!(bench.counters(&run).budget_drops, 2);
    // The next daemon's programs go on from there.
    bench.ebpf.restore(run.slot, 0, &[], &[0, 50]).unwrap();
    assert_eq!(agent.ask("udp 127.88.0.1:9"), "EPERM");
}

#[test]
fn a_rate_drops_what_is_too_fast_and_lets_the_rest_through() {
    let Some(mut bench) = ready("rate") else { return };
    let mut list = enforce(&[]);
    list.rules = vec![super::bench::allow_all("127.0.0.0/8")];
    let budget = BudgetRule { to: vec!["127.0.0.0/8".parse().unwrap()], bytes: 0, rate: 3300 };
    let run = bench.add_ruled("a", &list, &Rules { budgets: vec![budget], ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    // 33 bytes each, 100 a second: a burst of a tenth of a second passes, then each must wait for its turn.
    soon("a drop", || agent.ask("udp 127.0.0.1:9") == "EPERM");
    soon("its turn", || agent.ask("udp 127.0.0.1:9") == "ok");
    assert!(bench.counters(&run).budget_drops > 0);
}

#[test]
fn a_host_is_reached_at_the_addresses_its_name_server_gives() {
    let Some(mut bench) = ready("dns") else { return };
    let listener = std::net::TcpListener::bind("127.77.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = super::names::Server::start("127.53.7.1:53", "127.77.0.1".parse().unwrap());
    let liar = super::names::Server::start("127.53.7.2:53", "127.77.0.1".parse().unwrap());
    let list = enforce(&[("127.53.7.1/32", 53), ("127.53.7.2/32", 53)]);
    let rules = Rules {
        hosts: vec![HostRule { name: "example.org".into(), below: true, ports: vec![port..=port], protocol: None }],
        names: vec![WatchedName::Suffix(".bad".into()), WatchedName::Exact("told.example.org".into())],
        dns_servers: vec!["127.53.7.1".parse().unwrap()],
        ..Rules::default()
    };
    let run = bench.add_ruled("a", &list, &rules);
    let mut agent = Agent::start(&run.cgroup);
    let connect = format!("tcp 127.77.0.1:{port}");
    assert_eq!(agent.ask(&connect), "EPERM");
    // Neither another's answer counts, nor one for a name that is not listed.
    for (name, from) in [("a.example.org", &liar), ("example.com", &server), ("badexample.org", &server)] {
        assert_eq!(agent.ask(&format!("resolve {name} {}", from.address)), "ok");
        assert_eq!(agent.ask(&connect), "EPERM", "{name} by {}", from.address);
    }
    assert_eq!(agent.ask(&format!("resolve Data.EXAMPLE.org {}", server.address)), "ok");
    assert_eq!(agent.ask(&connect), "ok");
    assert_eq!(agent.ask("tcp 127.77.0.1:9"), "EPERM", "its ports only");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Dns { .. }));
    let answered = |name: &str| OpWhat::Dns { name: name.into(), address: "127.77.0.1".parse().unwrap() };
    assert_eq!(op.what, answered("data.example.org"));
    // What a rule wants told is told whether it may be reached or not, and one name does not hide another at the same address.
    for name in ["c2.bad", "c3.bad", "told.example.org"] {
        assert_eq!(agent.ask(&format!("resolve {name} {}", server.address)), "ok");
        assert_eq!(next_op(&mut bench, |w| matches!(w, OpWhat::Dns { .. })).what, answered(name));
    }
}
