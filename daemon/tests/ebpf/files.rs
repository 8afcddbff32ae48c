//! Rules on files, programs, devices and memory: refused in the call where a hook is there, seen where it is not.

use std::fs;
use std::path::Path;

use failsafe_ebpf::abi::{latch, point};
use failsafe_matchers::rules::{Effect, ExecList, PathPattern, Rules, Use, effects};
use failsafed::guard::Sights;
use failsafed::sensors::ebpf::{FileKind, Memory, OpWhat, Way, What};

use super::agent::Agent;
use super::bench::{Bench, OPEN_NET, ready, ready_without_lsm, soon};
use super::rules::{folder, next_op, on, released, state_of};

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
    let Some(mut bench) = ready_without_lsm("entries") else { return };
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
    assert_eq!(op.what, OpWhat::Open { path: secret.clone(), write: false });
    assert_eq!((op.denied, op.via), (false, Way::SysEnter));
    // io_uring opens without a call.
    let rings = bench.add_ruled("rings", OPEN_NET, &rules);
    bench.ebpf.require_sights(Sights::of(&rules)).unwrap();
    assert_eq!(Agent::start(&rings.cgroup).ask(&format!("ringopen {secret}")), "ok");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Open { .. }));
    assert_eq!(op.what, OpWhat::Open { path: secret, write: false });
    assert_eq!((op.denied, op.via), (false, Way::Tracepoint));
    assert_eq!(agent.ask("mapexec anonymous"), "ok");
    let op = next_op(&mut bench, |w| *w == OpWhat::Memory(Memory::Anonymous));
    assert_eq!((op.denied, op.via), (false, Way::SysEnter));
    bench.ebpf.require_syscalls(0, false).unwrap();
}

#[test]
fn without_lsm_a_program_is_known_by_another_name_and_stops_the_run_by_its_own() {
    let Some(mut bench) = ready_without_lsm("aliases") else { return };
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
    assert_eq!(agent.ask(&format!("exec {}", at("hard"))), "ok", "nothing can refuse it here");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Exec { .. }));
    assert_eq!(op.what, OpWhat::Exec { path: at("hard"), kind: FileKind::Named });
    assert_eq!((op.denied, op.via, run.names_of(op.entry)), (false, Way::Tracepoint, vec![at("tools/a")]));
    // By the name of the rule, or a link to it, its exec tells it, and nothing twice.
    for used in ["link", "forbidden"] {
        assert_eq!(agent.ask(&format!("exec {}", at(used))), "ok");
        let events = bench.until(|e| matches!(&e.what, What::Exec { file, .. } if *file == at("forbidden")));
        assert!(!events.iter().any(|e| matches!(&e.what, What::Op(_))), "{used}: {events:?}");
    }
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), 0);
    // By a link that came later, too.
    std::os::unix::fs::symlink(dir.join("fatal"), dir.join("late")).unwrap();
    agent.tell(&format!("exec {}", at("late")));
    let events = bench.until(|e| matches!(&e.what, What::Exec { file, .. } if *file == at("fatal")));
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
fn an_exec_that_a_rule_observes_is_reported_and_counted_once() {
    let Some(mut bench) = ready("observed") else { return };
    if !bench.has_lsm("bprm_check_security") {
        return;
    }
    let (_keep, dir) = folder();
    let at = |name: &str| dir.join(name).display().to_string();
    fs::copy("/bin/true", dir.join("watched")).unwrap();
    std::os::unix::fs::symlink(dir.join("watched"), dir.join("link")).unwrap();
    fs::hard_link(dir.join("watched"), dir.join("hard")).unwrap();
    fs::write(dir.join("script"), "#!/bin/true\n").unwrap();
    fs::set_permissions(dir.join("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(dir.join("script"), dir.join("alias")).unwrap();
    // By the path of one rule, the hard link is also the file of the other.
    let observed = |name: &str| on(&at(name), false, Use::Exec, Effect::Observe);
    let paths = vec![observed("watched"), observed("script"), observed("hard")];
    let rules = Rules { paths, exec_once: true, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    let own = agent.pid();
    let mut all = 0;
    for (used, known_as) in [
        ("watched", vec!["hard", "watched"]),
        ("link", vec!["hard", "watched"]),
        ("hard", vec!["hard", "watched"]),
        ("script", vec!["script"]),
    ] {
        assert_eq!(agent.ask(&format!("exec {}", at(used))), "ok");
        let events = bench.until(|e| matches!(&e.what, What::Exec { .. }) && e.subject.pid != own);
        assert!(!events.iter().any(|e| matches!(&e.what, What::Op(_))), "{used}: {events:?}");
        let Some(What::Exec { path, entry, .. }) = events.into_iter().next_back().map(|e| e.what) else { panic!() };
        let known_as: Vec<String> = known_as.into_iter().map(at).collect();
        assert_eq!((path, run.names_of(entry)), (at(used), known_as), "{used}");
        all += 1;
        assert_eq!(bench.counters(&run).observed_ops, all, "{used}");
    }
    // The exec of a script has no resolved path of the script itself: by another name the hook reports it.
    assert_eq!(agent.ask(&format!("exec {}", at("alias"))), "ok");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Exec { .. }));
    assert_eq!(op.what, OpWhat::Exec { path: at("script"), kind: FileKind::Named });
    assert_eq!((op.denied, run.names_of(op.entry)), (false, vec![at("script")]));
    assert_eq!(bench.counters(&run).observed_ops, all + 1);
    // A rule that asks for the verdict of what is only observed gets it.
    let told = bench.add_ruled("b", OPEN_NET, &Rules { exec_once: false, ..rules });
    assert_eq!(Agent::start(&told.cgroup).ask(&format!("exec {}", at("watched"))), "ok");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Exec { .. }));
    assert_eq!((op.what, op.denied), (OpWhat::Exec { path: at("watched"), kind: FileKind::Named }, false));
    assert_eq!(bench.counters(&told).observed_ops, 1);
}

#[test]
fn without_lsm_an_exec_names_every_rule_that_knows_its_file() {
    let Some(mut bench) = ready_without_lsm("twonames") else { return };
    let (_keep, dir) = folder();
    let at = |name: &str| dir.join(name).display().to_string();
    fs::copy("/bin/true", dir.join("tool")).unwrap();
    fs::hard_link(dir.join("tool"), dir.join("other")).unwrap();
    let observed = |name: &str| on(&at(name), false, Use::Exec, Effect::Observe);
    let rules = Rules { paths: vec![observed("tool"), observed("other")], exec_once: true, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    let own = agent.pid();
    assert_eq!(agent.ask(&format!("exec {}", at("other"))), "ok");
    let events = bench.until(|e| matches!(&e.what, What::Exec { .. }) && e.subject.pid != own);
    assert!(!events.iter().any(|e| matches!(&e.what, What::Op(_))), "{events:?}");
    let Some(What::Exec { entry, .. }) = events.into_iter().next_back().map(|e| e.what) else { panic!() };
    assert_eq!(run.names_of(entry), [at("other"), at("tool")]);
}

#[test]
fn executable_memory_is_refused_by_kind() {
    let Some(mut bench) = ready("memory") else { return };
    if !bench.has_lsm("mmap_file") {
        return;
    }
    let deny = 1 << point::MEM_WRITE_EXEC | 1 << point::MEM_MEMFD;
    let rules = Rules { deny, watch: 1 << point::MEM_ANONYMOUS, ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("mapexec both"), "EPERM");
    assert!(next_op(&mut bench, |w| *w == OpWhat::Memory(Memory::WriteExec)).denied);
    assert_eq!(agent.ask("mapexec anonymous"), "ok");
    assert!(!next_op(&mut bench, |w| *w == OpWhat::Memory(Memory::Anonymous)).denied);
    assert_eq!(agent.ask("mapexec memfd"), "EPERM");
    assert!(next_op(&mut bench, |w| *w == OpWhat::Memory(Memory::Memfd)).denied);
}

/// Each in the call, with the run latched and the caller standing still.
#[test]
fn a_stop_rule_on_files_programs_and_memory_takes_hold_in_the_call() {
    let Some(mut bench) = ready("filestop") else { return };
    if !bench.has_lsm("file_open") {
        return;
    }
    let (_keep, dir) = folder();
    let at = |name: &str| dir.join(name).display().to_string();
    fs::write(dir.join("secret"), "x").unwrap();
    fs::copy("/bin/true", dir.join("fatal")).unwrap();
    let rules = Rules {
        paths: vec![
            on(&at("secret"), false, Use::Read, Effect::Stop),
            on(&at("fatal"), false, Use::Exec, Effect::Stop),
        ],
        deny: 1 << point::MEM_ANONYMOUS,
        stop: 1 << point::MEM_ANONYMOUS,
        ..Rules::default()
    };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    for (call, is) in [
        (format!("read {}", at("secret")), "open"),
        (format!("exec {}", at("fatal")), "exec"),
        ("mapexec anonymous".to_owned(), "memory"),
    ] {
        let mut agent = Agent::start(&run.cgroup);
        agent.tell(&call);
        let wanted = |what: &OpWhat| match is {
            "open" => matches!(what, OpWhat::Open { .. }),
            "exec" => matches!(what, OpWhat::Exec { .. }),
            _ => *what == OpWhat::Memory(Memory::Anonymous),
        };
        let events = bench.until(|e| matches!(&e.what, What::Op(op) if wanted(&op.what)));
        assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS | latch::STOP, "{call}");
        let caller = events.last().unwrap().subject.pid;
        soon("the caller's stop", || state_of(caller) == "T");
        released(&mut bench, &run, caller);
        assert_eq!(agent.answer(), "EPERM", "{call}");
    }
}
