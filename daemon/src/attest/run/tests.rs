//! Runs: of this process, of processes that vanish, and of more than are read.

use super::*;
use failsafe_attest::Status;
use std::{fs, path::Path};

/// The fields of `/proc/PID/stat` behind the resident memory.
const REST: &str = " 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0";

fn of(roots: &Roots, pids: &[u32], limits: Limits) -> Vec<Fact> {
    let open = |pid: &u32| Process::open(&roots.proc, *pid, &|_| true).unwrap();
    let processes: Vec<Process> = pids.iter().take(limits.processes).filter_map(open).collect();
    let cut = (pids.len() > limits.processes).then_some("too many");
    facts_of(&processes, cut, limits)
}

fn facts_of(processes: &[Process], cut: Option<&str>, limits: Limits) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut give = |fact| facts.push(fact);
    if processes.is_empty() {
        without(&Missing::unavailable("none"), &mut give);
        return facts;
    }
    let names = ["OMP_NUM_THREADS", "PATH_THAT_IS_NOT_SET"].map(str::to_owned).into();
    process::facts(processes, cut, &Redactor::default()).into_iter().for_each(&mut give);
    let env = environment::facts(processes, &names, limits.texts, cut, &Redactor::default());
    env.into_iter().for_each(&mut give);
    libraries::facts(processes, cut, (limits, Instant::now() + limits.time), &mut give);
    facts
}

fn value(facts: &[Fact], path: &str) -> Result<Json, Missing> {
    facts.iter().find(|fact| fact.path == path).unwrap_or_else(|| panic!("no {path}")).value.clone()
}

#[test]
fn a_real_process_has_its_libraries_its_command_and_its_named_variables() {
    let child = std::process::Command::new("sleep").arg("60").env("OMP_NUM_THREADS", "3").spawn();
    let mut child = child.unwrap();
    // While it is being executed, its arguments are those of this program, or none yet.
    while !fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().starts_with(b"sleep\0") {
        std::thread::yield_now();
    }
    let facts = of(&Roots::default(), &[child.id()], Limits::default());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(value(&facts, "run/command"), Ok(Json::List(vec![Json::from("sleep"), Json::from("60")])));
    assert_eq!(value(&facts, "run/env/OMP_NUM_THREADS"), Ok(Json::from("3")));
    assert_eq!(value(&facts, "run/env/PATH_THAT_IS_NOT_SET"), Ok(Json::Null));
    assert!(!facts.iter().any(|fact| fact.path == "run/env/PATH"), "only named variables");
    assert!(matches!(value(&facts, "run/cpu/count"), Ok(Json::Int(1..))), "{facts:?}");
    // Without the rights to read another process, each of these says so.
    for path in ["run/executable", "run/library"] {
        match value(&facts, path) {
            Ok(value) => assert!(
                value.text().is_some_and(|text| text.contains("id:") || text == "complete" || text.contains("sha256:"))
            ),
            Err(missing) => assert!(!missing.reason.is_empty()),
        }
    }
}

#[test]
fn a_run_without_processes_knows_nothing_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots { proc: dir.path().to_owned(), sys: dir.path().to_owned() };
    let facts = of(&roots, &[1, 2, 3], Limits::default());
    for path in ["run/library", "run/env", "run/command", "run/cpu/count"] {
        assert_eq!(value(&facts, path).unwrap_err().status, Status::Unavailable, "{path}");
    }
}

#[test]
fn processes_that_differ_are_a_list_and_those_that_are_not_read_make_the_groups_unknown() {
    let dir = tempfile::tempdir().unwrap();
    for (pid, start, threads, cpus) in [(7, 5, "1", "0-3"), (8, 4, "2", "4-7"), (9, 6, "2", "0")] {
        put(dir.path(), pid, 'S', (start, 1));
        write(dir.path(), pid, "status", format!("Cpus_allowed_list:\t{cpus}\nMems_allowed_list:\t0\n"));
        write(dir.path(), pid, "environ", format!("A=b\0OMP_NUM_THREADS={threads}\0"));
        write(dir.path(), pid, "cmdline", format!("train\0--rank\0{pid}\0"));
    }
    let roots = Roots { proc: dir.path().to_owned(), sys: dir.path().to_owned() };
    let facts = of(&roots, &[7, 8], Limits::default());
    let list = |all: &[&str]| Ok(Json::List(all.iter().map(|one| Json::from(*one)).collect()));
    assert_eq!(value(&facts, "run/command"), list(&["train", "--rank", "8"]), "of the oldest");
    assert_eq!(value(&facts, "run/env/OMP_NUM_THREADS"), list(&["1", "2"]));
    assert_eq!(value(&facts, "run/cpu/count"), Ok(Json::Int(4)));
    assert_eq!(value(&facts, "run/cpu/list"), list(&["0-3", "4-7"]));
    assert_eq!(value(&facts, "run/memory-nodes"), Ok(Json::from("0")));
    let cut = of(&roots, &[7, 8, 9], Limits { processes: 2, ..Limits::default() });
    for path in ["run/library", "run/env", "run/env/OMP_NUM_THREADS", "run/command", "run/cpu/count", "run/executable"]
    {
        assert_eq!(value(&cut, path).unwrap_err().reason, "too many", "{path}");
    }
}

/// Between the list of processes and their reading, a number can become that of a process of somebody else.
#[test]
fn a_process_of_another_cgroup_is_not_read_and_a_reused_number_leads_to_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), 7, 'S', (5, 1));
    write(dir.path(), 7, "environ", "OMP_NUM_THREADS=own\0");
    write(dir.path(), 7, "cmdline", "own\0");
    let belongs = |path: &Path| path.starts_with("/run");
    let processes: Vec<Process> = Process::open(dir.path(), 7, &belongs).unwrap().into_iter().collect();
    assert_eq!(processes.len(), 1);
    fs::rename(dir.path().join("7"), dir.path().join("ended")).unwrap();
    put(dir.path(), 7, 'S', (9, 1));
    write(dir.path(), 7, "environ", "OMP_NUM_THREADS=foreign\0");
    write(dir.path(), 7, "cmdline", "foreign\0");
    let facts = facts_of(&processes, None, Limits::default());
    assert_eq!(value(&facts, "run/command"), Ok(Json::List(vec![Json::from("own")])));
    assert_eq!(value(&facts, "run/env/OMP_NUM_THREADS"), Ok(Json::from("own")));
    write(dir.path(), 7, "cgroup", "0::/runs-of-others\n");
    assert!(Process::open(dir.path(), 7, &belongs).unwrap().is_none());
    write(dir.path(), 7, "cgroup", "");
    assert!(Process::open(dir.path(), 7, &belongs).unwrap_err().reason.contains("no cgroup"));
}

#[test]
fn a_process_whose_main_thread_has_ended_makes_what_is_read_unknown_and_a_zombie_does_not() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), 7, 'Z', (5, 2));
    put(dir.path(), 8, 'Z', (5, 1));
    let of = |pid| Process::open(dir.path(), pid, &|_| true);
    let why = of(7).unwrap_err().reason;
    assert!(why.contains("main thread of process 7 has ended; its other threads cannot be read"), "{why}");
    assert!(of(8).unwrap().is_none());

    // It ends while it is read.
    put(dir.path(), 9, 'S', (5, 2));
    for (name, text) in [("status", "Cpus_allowed_list:\t0\nMems_allowed_list:\t0\n"), ("cmdline", "t\0")] {
        write(dir.path(), 9, name, text);
    }
    let process = of(9).unwrap().unwrap();
    write(dir.path(), 9, "environ", "");
    write(dir.path(), 9, "statm", "0 0 0 0 0 0 0\n");
    let facts = facts_of(&[process], None, Limits::default());
    for path in ["run/library", "run/env", "run/env/OMP_NUM_THREADS"] {
        assert!(value(&facts, path).unwrap_err().reason.contains("main thread of process 9"), "{path}");
    }
}

#[test]
fn an_empty_environment_is_one_and_that_of_a_process_that_ended_is_none() {
    let dir = tempfile::tempdir().unwrap();
    for pid in [7, 8] {
        put(dir.path(), pid, 'S', (5, 1));
    }
    write(dir.path(), 8, "environ", "OMP_NUM_THREADS=4\0");
    let roots = Roots { proc: dir.path().to_owned(), sys: dir.path().to_owned() };
    let facts = of(&roots, &[7, 8], Limits::default());
    assert_eq!(value(&facts, "run/env/OMP_NUM_THREADS"), Ok(Json::List(vec![Json::Null, Json::from("4")])));
    let processes = [7, 8].map(|pid| Process::open(dir.path(), pid, &|_| true).unwrap().unwrap());
    write(dir.path(), 7, "statm", "0 0 0 0 0 0 0\n");
    let facts = facts_of(&processes, None, Limits::default());
    assert_eq!(value(&facts, "run/env/OMP_NUM_THREADS"), Ok(Json::from("4")));
}

#[test]
fn a_command_that_is_not_utf8_and_values_beyond_the_limit_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), 7, 'S', (5, 1));
    write(dir.path(), 7, "cmdline", b"train\0\xff\0");
    write(dir.path(), 7, "environ", "OMP_NUM_THREADS=12345\0");
    let roots = Roots { proc: dir.path().to_owned(), sys: dir.path().to_owned() };
    let facts = of(&roots, &[7], Limits { texts: 4, ..Limits::default() });
    assert_eq!(value(&facts, "run/command").unwrap_err().reason, "an argument is not UTF-8");
    assert!(value(&facts, "run/env/OMP_NUM_THREADS").unwrap_err().reason.contains("more than 4 bytes"));
}

/// A process with nothing but a state: when it started, and its number of threads.
fn put(proc: &Path, pid: u32, state: char, (start, threads): (u32, u32)) {
    fs::create_dir_all(proc.join(pid.to_string())).unwrap();
    let stat = format!("{pid} (t) {state} 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 {start} 0 1{REST}\n");
    write(proc, pid, "stat", stat);
    for (name, text) in [("statm", "1 1 0 0 0 0 0\n"), ("cgroup", "0::/run\n"), ("environ", ""), ("maps", "")] {
        write(proc, pid, name, text);
    }
}

fn write(proc: &Path, pid: u32, name: &str, text: impl AsRef<[u8]>) {
    fs::write(proc.join(pid.to_string()).join(name), text).unwrap();
}

#[test]
fn a_run_in_which_processes_come_and_go_is_read_again_and_never_called_complete() {
    let library = |n: u32| Fact::measured(format!("run/library/lib{n}.so"), "maps", Ok(Json::from("id")));
    let read = |lists: &[&[u32]]| {
        let mut lists = lists.iter();
        let list = || Ok(Members { ids: lists.next().unwrap().to_vec(), complete: true });
        let mut number = 0;
        let read_once = |_: &Members| {
            number += 1;
            vec![library(number), Fact::measured("run/library", "maps", Ok(Json::from("complete")))]
        };
        settled(list, read_once, Instant::now() + Duration::from_secs(60))
    };
    let quiet = read(&[&[1, 2], &[2, 1]]);
    assert_eq!(value(&quiet, "run/library"), Ok(Json::from("complete")));
    assert!(value(&quiet, "run/library/lib1.so").is_ok());
    let settles = read(&[&[1, 2], &[1, 3], &[1, 4], &[1, 4]]);
    assert_eq!(value(&settles, "run/library"), Ok(Json::from("complete")));
    assert!(value(&settles, "run/library/lib3.so").is_ok(), "the last reading counts");
    let hops = read(&[&[1, 2], &[1, 3], &[1, 4], &[1, 5], &[1, 6]]);
    assert!(value(&hops, "run/library").unwrap_err().reason.contains("came and went each of the 4 times"));
    assert!(value(&hops, "run/library/lib4.so").is_ok(), "what was seen stays");
}

#[test]
fn an_environment_that_a_title_was_written_over_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let environ = |bytes: &[u8]| {
        let folder = dir.path().join("7");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("stat"), format!("7 (x) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 1{REST}\n")).unwrap();
        for (name, text) in [("statm", "9 9 9 0 0 0 0"), ("cgroup", "0::/a\n"), ("status", "Cpus_allowed_list:\t0\n")] {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::write(folder.join("environ"), bytes).unwrap();
        let process = Process::open(dir.path(), 7, &|_| true).unwrap().unwrap();
        let names = ["OMP_NUM_THREADS".to_owned()].into();
        let facts = environment::facts(&[process], &names, 1_000, None, &Redactor::default());
        value(&facts, "run/env/OMP_NUM_THREADS")
    };
    assert_eq!(environ(b"A=1\0OMP_NUM_THREADS=8\0"), Ok(Json::from("8")));
    assert_eq!(environ(b"A=1\0"), Ok(Json::Null));
    for title in [b"trainer: step 7\0\0\0\0".as_slice(), b"er: step 7\0OMP_NUM_THREADS=8\0", b"\0\0\0\0A=1\0"] {
        assert!(environ(title).unwrap_err().reason.contains("has overwritten"), "{title:?}");
    }
}
