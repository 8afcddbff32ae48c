//! Events: what processes of a run do, and nobody else's.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use failsafe_core::event::CUT;
use failsafe_matchers::calls::WatchedCall;
use failsafe_matchers::egress::EgressPolicy;
use failsafed::guard::ProgramState;
use failsafed::sensors::ebpf::{NetOp, What};

use super::agent::{Agent, memfd};
use super::bench::{enforce, memory_limit, ready, ready_looking, ready_with, soon};

#[test]
fn every_program_is_accounted_for() {
    let Some(bench) = ready("probe") else { return };
    for p in bench.ebpf.programs() {
        println!("{:14} {:28} {:?} {:?} {}", p.name, p.hook, p.state, p.verified_insns, p.detail);
        // Every kernel with the cgroup hooks asked for below is newer than the count.
        let counted = p.verified_insns.is_some_and(|n| n > 0);
        assert_eq!(counted && !p.load_time.is_zero(), p.state == ProgramState::Loaded, "{p:?}");
    }
    assert_eq!(bench.ebpf.missing_guards(), Vec::<&str>::new());
    for name in ["fs_exec", "fs_fork", "fs_exit", "fs_move", "fs_sys_enter", "fs_sock_ops", "fs_ingress"] {
        assert!(bench.ebpf.is_loaded(name), "{name}");
    }
}

#[test]
fn what_may_wait_wakes_nobody_and_comes_with_what_may_not() {
    let Some(mut bench) = ready_looking("waits", 1 << 20, Duration::from_secs(3_600)) else { return };
    let run = bench.add_quiet("a", &enforce(&[("127.0.0.1/32", 9)]));
    let mut agent = Agent::start(&run.cgroup);
    // The reader may still be awake from what came before.
    soon("a reader that sleeps", || {
        assert_eq!(agent.ask("exec /bin/true"), "ok");
        bench.arrived().is_empty()
    });
    for _ in 0..20 {
        assert_eq!(agent.ask("exec /bin/true"), "ok");
    }
    assert_eq!(bench.arrived(), [], "nobody was to be woken");
    assert_eq!(agent.ask("udp 203.0.113.7:9"), "EPERM");
    let events = bench.until(|e| matches!(e.what, What::Net(_)));
    let exits = events.iter().filter(|e| matches!(e.what, What::Exit { status: 0 })).count();
    assert!(exits >= 20, "{exits}: {events:#?}");
}

#[test]
fn the_last_exit_of_a_run_does_not_wait() {
    let Some(mut bench) = ready_looking("last-exit", 1 << 20, Duration::from_secs(3_600)) else { return };
    let run = bench.add_quiet("a", &EgressPolicy::default());
    let mut child = run.cgroup.spawn("/bin/sh", &["-c", "/bin/true; exit 3"]);
    let pid = child.id();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    bench.until(|e| e.subject.pid == pid && matches!(e.what, What::Exit { .. }));
}

#[test]
fn process_life_is_seen_in_the_run_and_below_it_and_nowhere_else() {
    let Some(mut bench) = ready("life") else { return };
    let run = bench.add("a", &EgressPolicy::default());
    // Made after the run was added.
    let below = run.cgroup.child("below");
    let outside = std::process::Command::new("/bin/true").status().unwrap();
    assert!(outside.success());

    for cgroup in [&run.cgroup, &below] {
        let mut child = cgroup.spawn("/bin/sh", &["-c", "exec /bin/sleep 0 # argument"]);
        let pid = child.id();
        assert!(child.wait().unwrap().success());
        let events = bench.until(|e| e.subject.pid == pid && matches!(e.what, What::Exit { status: 0 }));
        let of_child: Vec<_> = events.iter().filter(|e| e.subject.pid == pid).collect();
        let execs: Vec<_> = of_child
            .iter()
            .filter_map(|e| match &e.what {
                What::Exec { path, argv, .. } => Some((path.as_str(), argv.join(" "))),
                _ => None,
            })
            .collect();
        assert_eq!(
            execs,
            [
                ("/bin/sh", "/bin/sh -c exec /bin/sleep 0 # argument".to_owned()),
                ("/bin/sleep", "/bin/sleep 0".to_owned())
            ]
        );
        assert!(of_child.iter().all(|e| e.subject.ppid == std::process::id()));
        assert!(of_child.iter().skip(1).all(|e| e.subject.cgroup_id == cgroup.id));
        assert!(events.iter().all(|e| e.slot == run.slot && e.epoch == run.epoch));
    }

    // A forked grandchild, and the way it ends.
    let mut child = run.cgroup.spawn("/bin/sh", &["-c", "/bin/sh -c 'kill -9 $$'; exit 3"]);
    let pid = child.id();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let events = bench.until(|e| e.subject.pid == pid && matches!(e.what, What::Exit { .. }));
    let (grandchild, start) = events
        .iter()
        .find_map(|e| match e.what {
            What::Fork { child_pid, child_start_boottime_ns, .. } if e.subject.pid == pid => {
                Some((child_pid, child_start_boottime_ns))
            }
            _ => None,
        })
        .expect("a fork event");
    let end = events.iter().find(|e| e.subject.pid == grandchild && matches!(e.what, What::Exit { .. })).unwrap();
    assert_eq!(end.subject.start_boottime_ns, start);
    assert!(matches!(end.what, What::Exit { status: 9 }));
    let last = events.last().unwrap();
    assert!(
        matches!(last.what, What::Exit { status } if std::process::ExitStatus::from_raw(status.cast_signed()).code() == Some(3))
    );
    bench.assert_no_gap(&run);
}

#[test]
fn an_exec_has_the_kind_of_its_file() {
    let Some(mut bench) = ready("exec") else { return };
    let run = bench.add("a", &EgressPolicy::default());
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut agent = Agent::start(&run.cgroup);
    let long = "x".repeat(300);
    assert_eq!(agent.ask(&format!("exec {} {long}", script.display())), "ok");
    assert_eq!(agent.ask("execmemfd"), "ok");
    let events = bench.until(|e| matches!(&e.what, What::Exec { unlinked: true, .. }));
    let scripted = events
        .iter()
        .find_map(|e| match &e.what {
            What::Exec { path, argv, script: true, file, unlinked: false, .. } => Some((path, argv, file)),
            _ => None,
        })
        .unwrap();
    assert_eq!(scripted.0.as_str(), script.to_str().unwrap());
    // What runs is the interpreter.
    let real = |path: &str| Path::new(path).canonicalize().unwrap().display().to_string();
    assert_eq!(*scripted.2, real("/bin/sh"));
    assert_eq!(scripted.1[..], ["/bin/sh", script.to_str().unwrap(), &long], "all of it, 300 bytes or not");
    let memfd = events.last().map(|e| &e.what);
    assert!(matches!(memfd, Some(What::Exec { file, .. }) if file == "/memfd:true"), "{memfd:?}");
}

/// By `.`, a link, a relative name, a descriptor, over a mount or at the end of a long path: what is executed is one file.
#[test]
fn an_exec_has_the_path_of_its_file_whatever_name_was_given() {
    let Some(mut bench) = ready("exec-file") else { return };
    let run = bench.add("a", &EgressPolicy::default());
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    let deep = ["d".repeat(200), "e".repeat(200), "f".repeat(200)].iter().fold(base.clone(), |at, name| at.join(name));
    std::fs::create_dir_all(&deep).unwrap();
    let (evil, far) = (base.join("evil"), deep.join("evil"));
    for copy in [&evil, &far] {
        std::fs::copy("/bin/true", copy).unwrap();
    }
    std::os::unix::fs::symlink(&evil, base.join("link")).unwrap();
    let mut agent = Agent::start(&run.cgroup);
    let own = agent.pid();
    let mut file_of = |command: &str| {
        assert_eq!(agent.ask(command), "ok", "{command}");
        let events = bench.until(|e| matches!(&e.what, What::Exec { .. }) && e.subject.pid != own);
        match events.into_iter().next_back().map(|e| e.what) {
            Some(What::Exec { file, path, .. }) => (file, path),
            other => panic!("{command}: {other:?}"),
        }
    };
    let named = base.display();
    for given in [format!("{named}/././evil"), format!("{named}/link"), format!("{named}/evil")] {
        assert_eq!(file_of(&format!("exec {given}")), (evil.display().to_string(), given.clone()), "{given}");
    }
    let (file, given) = file_of(&format!("execin {named} ./evil"));
    assert_eq!((file, given.as_str()), (evil.display().to_string(), "./evil"));
    let (file, _) = file_of(&format!("execfd {named}/evil"));
    assert_eq!(file, evil.display().to_string());
    // Of one that is longer than its place the end is kept, and it is marked.
    let (file, given) = file_of(&format!("exec {}", far.display()));
    assert!(file.starts_with(CUT) && file.ends_with("fff/evil") && file.len() == 512, "{file}");
    assert!(given.ends_with(CUT) && far.display().to_string().starts_with(given.trim_end_matches(CUT)), "{given}");
    // Another file system's mount is on the way up.
    assert_eq!(
        file_of("execin / /proc/self/root/bin/true").0,
        Path::new("/bin/true").canonicalize().unwrap().display().to_string()
    );
}

#[test]
fn of_long_arguments_the_beginning_and_the_end_are_there_and_the_rest_is_marked() {
    let Some(mut bench) = ready("argv") else { return };
    let run = bench.add("a", &EgressPolicy::default());
    let mut agent = Agent::start(&run.cgroup);
    let own = agent.pid();
    for long in [10, 200, 230, 255, 300, 480, 500, 600, 4_000] {
        let given = format!("/bin/true {} middle {} --exfil", "x".repeat(long / 2), "y".repeat(long - long / 2));
        assert_eq!(agent.ask(&format!("exec {given}")), "ok");
        let events = bench.until(|e| matches!(&e.what, What::Exec { .. }) && e.subject.pid != own);
        let Some(What::Exec { argv, .. }) = events.into_iter().next_back().map(|e| e.what) else { panic!() };
        let argv = argv.join(" ");
        match argv.split_once(CUT) {
            None => assert_eq!(argv, given, "{long}"),
            Some((head, tail)) => {
                assert!(given.len() + 1 > 512, "{long}: cut without need");
                assert!(given.starts_with(head) && given.ends_with(tail), "{long}: {argv:?}");
                assert!(head.len() >= 255 && tail.len() >= 254 && tail.ends_with(" --exfil"), "{long}: {argv:?}");
            }
        }
    }
}

#[test]
fn watched_calls_are_seen_through_every_abi_and_only_in_the_run() {
    let Some(mut bench) = ready("calls") else { return };
    let mask = ["memfd_create", "unshare", "ptrace"].iter().map(|n| WatchedCall::from_name(n).unwrap().mask()).sum();
    let run = bench.add_watching("a", &EgressPolicy::default(), mask);
    let quiet = bench.add_watching("b", &EgressPolicy::default(), 0);
    println!(
        "via {:?}; fentry refused: {:?}",
        bench.ebpf.require_syscalls(mask, false).unwrap(),
        bench.ebpf.fentry_refusal()
    );
    let mut agent = Agent::start(&run.cgroup);
    let mut other = Agent::start(&quiet.cgroup);
    assert_eq!(other.ask("memfd"), "ok");
    memfd();
    for command in ["memfd", "unshare", "ptrace", "call32 356", "keyctl"] {
        agent.ask(command);
    }
    agent.ask("unshare");
    let events = bench.until({
        let mut seen = 0;
        move |e| {
            seen += usize::from(matches!(&e.what, What::Syscall { call, .. } if call.name() == "unshare"));
            seen == 2
        }
    });
    let calls: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.what {
            What::Syscall { call, compat, args, .. } => Some((e.slot, call.name(), *compat, args[0])),
            _ => None,
        })
        .collect();
    let compat = cfg!(target_arch = "x86_64") && calls.len() == 5;
    assert!(calls.iter().all(|c| c.0 == run.slot), "{calls:?}");
    let names: Vec<_> = calls.iter().map(|c| (c.1, c.2)).collect();
    let mut expected = vec![("memfd_create", false), ("unshare", false), ("ptrace", false)];
    if compat {
        expected.push(("memfd_create", true));
    } else {
        println!("skipped: this kernel runs no 32-bit calls");
    }
    expected.push(("unshare", false));
    assert_eq!(names, expected);
    assert_eq!(calls[1].3, u64::from(libc_clone_files()));

    bench.ebpf.require_syscalls(0, false).unwrap();
    // The kernel lets go of a link some time after its pin is removed.
    soon("the end of it", || {
        agent.ask("memfd");
        agent.ask("bind");
        let rest = bench.until(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Bind));
        !rest.iter().any(|e| matches!(e.what, What::Syscall { .. }))
    });
}

fn libc_clone_files() -> u32 {
    nix::sched::CloneFlags::CLONE_FILES.bits().cast_unsigned()
}

/// The reader says that it sleeps, and looks once more; whoever has an event wakes it. Between the two nothing may fall.
#[test]
fn no_event_is_left_lying_while_the_reader_goes_to_sleep() {
    let Some(mut bench) = ready_looking("sleepless", 1 << 20, Duration::from_secs(3_600)) else { return };
    let run = bench.add("a", &enforce(&[]));
    let mut agent = Agent::start(&run.cgroup);
    let (rounds, many) = (200, 200);
    for round in 0..rounds {
        let last = Ipv4Addr::from(0x0a00_0000 + (round + 1) * many - 1);
        agent.tell(&format!("scatter {} {many}", round * many));
        bench.until(|e| matches!(&e.what, What::Net(net) if net.addr == last));
        assert_eq!(agent.answer(), "ok");
    }
}

#[test]
fn leaving_and_joining_are_seen_with_the_mover() {
    let Some(mut bench) = ready("leave") else { return };
    let run = bench.add("a", &EgressPolicy::default());
    let below = run.cgroup.child("below");
    let refuge = bench.cgroup("refuge");
    let mut agent = Agent::start(&run.cgroup);
    let pid = agent.pid();
    // Within the run: not an event.
    below.admit(pid);
    // Out, by its own hand.
    assert_eq!(agent.ask(&format!("moveto {}", refuge.path.display())), "ok");
    let events = bench.until(|e| matches!(e.what, What::Leave(_)));
    assert!(
        !events.iter().any(|e| matches!(e.what, What::Join(_)) && e.at_ns > events[0].at_ns && e.subject.pid == pid)
    );
    let What::Leave(m) = &events.last().unwrap().what else { unreachable!() };
    assert_eq!((m.from_cgroup_id, m.to_cgroup_id, m.mover_pid, m.by_run), (below.id, refuge.id, pid, false));
    assert_eq!(events.last().unwrap().subject.pid, pid);
    // Back, by ours.
    run.cgroup.admit(pid);
    let events = bench.until(|e| matches!(e.what, What::Join(_)) && e.subject.pid == pid);
    let What::Join(m) = &events.last().unwrap().what else { unreachable!() };
    assert_eq!((m.to_cgroup_id, m.mover_pid, m.by_run), (run.cgroup.id, std::process::id(), false));
    // Born outside.
    assert_eq!(agent.ask(&format!("cloneto {}", refuge.path.display())), "ok");
    let events = bench.until(|e| matches!(e.what, What::Leave(_)));
    let What::Leave(m) = &events.last().unwrap().what else { unreachable!() };
    assert_eq!((m.from_cgroup_id, m.to_cgroup_id, m.mover_pid), (run.cgroup.id, refuge.id, pid));
    assert!(m.by_clone && m.by_run && events.last().unwrap().subject.ppid == pid);
    // A process that was there before the run was registered is known too.
    let old = bench.cgroup("old");
    let early = Agent::start(&old);
    let adopted = bench.adopt(old, &EgressPolicy::default());
    refuge.admit(early.pid());
    let events = bench.until(|e| matches!(e.what, What::Leave(_)));
    assert_eq!((events.last().unwrap().slot, events.last().unwrap().subject.pid), (adopted.slot, early.pid()));
}

#[test]
fn what_a_stray_makes_is_seen_until_the_stray_is_back() {
    let Some(mut bench) = ready("stray") else { return };
    let run = bench.add("a", &EgressPolicy::default());
    let refuge = bench.cgroup("refuge");
    let mut agent = Agent::start(&run.cgroup);
    let pid = agent.pid();
    assert_eq!(agent.ask(&format!("moveto {}", refuge.path.display())), "ok");
    bench.until(|e| matches!(e.what, What::Leave(_)));
    // Made outside, by one that is in no run any more.
    assert_eq!(agent.ask("exec /bin/true"), "ok");
    let events = bench.until(|e| matches!(e.what, What::Leave(_)));
    let last = events.last().unwrap();
    let What::Leave(m) = &last.what else { unreachable!() };
    assert_eq!((last.slot, last.subject.ppid, m.to_cgroup_id, m.mover_pid), (run.slot, pid, refuge.id, pid));
    assert!(m.by_clone && m.by_run && last.subject.pid != pid);
    // Whom the host's owner moved out is none.
    run.cgroup.admit(pid);
    bench.until(|e| matches!(e.what, What::Join(_)));
    refuge.admit(pid);
    bench.until(|e| matches!(e.what, What::Leave(_)));
    assert_eq!(agent.ask("exec /bin/true"), "ok");
    run.cgroup.admit(pid);
    let events = bench.until(|e| matches!(e.what, What::Join(_)));
    assert!(!events.iter().any(|e| matches!(e.what, What::Leave(_))), "{events:?}");
}

#[test]
fn an_oom_kill_names_its_victim() {
    let Some(mut bench) = ready("oom") else { return };
    let run = bench.add("a", &EgressPolicy::default());
    let Some(limit) = memory_limit(&run.cgroup, 24 << 20) else {
        println!("skipped: no memory controller to limit");
        return;
    };
    let mut agent = Agent::start(&run.cgroup);
    if let Some(v1) = &limit {
        v1.admit(agent.pid());
    }
    let pid = agent.pid();
    agent.tell("eat");
    let events = bench.until(|e| matches!(e.what, What::Exit { .. }) && e.subject.pid == pid);
    let oom = events.iter().find(|e| e.what == What::Oom).expect("an OOM event");
    assert_eq!((oom.subject.pid, oom.subject.cgroup_id), (pid, run.cgroup.id));
    drop(agent);
}

#[test]
fn a_run_that_floods_the_ring_leaves_room_for_the_events_of_another() {
    let Some(mut bench) = ready_with("share", 262_144) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (loud, quiet) = (bench.add("loud", &enforce(&[])), bench.add("quiet", &enforce(&[])));
    let (mut floods, mut agent) = (Agent::start(&loud.cgroup), Agent::start(&quiet.cgroup));
    bench.drain();
    bench.pause();
    let storm = format!("storm {} 127.0.0.1:{}", 10_000, listener.local_addr().unwrap().port());
    assert_eq!(floods.ask(&storm), "ok");
    agent.ask("bind");
    let (lost, kept) = (bench.counters(&loud).lost, bench.counters(&quiet).lost);
    bench.resume();
    assert!(lost > 0 && kept == 0, "{lost} {kept}");
    assert!(bench.drain().iter().any(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Bind)));
}

#[test]
fn what_the_ring_cannot_hold_is_counted_exactly() {
    let Some(mut bench) = ready_with("overflow", 4096) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let run = bench.add("a", &enforce(&[]));
    let mut agent = Agent::start(&run.cgroup);
    bench.drain();
    let before = bench.counters(&run);
    bench.pause();
    assert_eq!(agent.ask(&format!("storm {} 127.0.0.1:{}", 500, listener.local_addr().unwrap().port())), "ok");
    let after = bench.counters(&run);
    bench.resume();
    let seen = u64::try_from(bench.drain().len()).unwrap();
    assert_eq!(after.events - before.events, 500);
    assert!(after.lost > before.lost, "{after:?}");
    assert_eq!(seen + after.lost - before.lost, 500);
    assert_eq!(bench.ebpf.read_drops().unwrap(), [(run.slot, run.epoch, after.lost)]);
    // The next event's number shows the hole by itself.
    agent.ask("bind");
    let next = bench.until(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Bind));
    assert_eq!(next.last().unwrap().seq, after.events);
}
