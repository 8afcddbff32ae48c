//! Runs: of this process, of processes that vanish, and of more than are read.

use super::*;
use failsafe_attest::Status;
use std::fs;

/// The fields of `/proc/PID/stat` behind the resident memory.
const REST: &str = " 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0";

fn of(roots: &Roots, pids: &[u32], limits: Limits) -> Vec<Fact> {
    let proc = ProcFs::new(&roots.proc);
    let processes: Vec<Process> =
        pids.iter().take(limits.processes).filter_map(|pid| Process::read(&proc, *pid).unwrap()).collect();
    let cut = (pids.len() > limits.processes).then(|| "too many".to_owned());
    let mut facts = Vec::new();
    let mut give = |fact| facts.push(fact);
    if processes.is_empty() {
        without(&Missing::unavailable("none"), &mut give);
        return facts;
    }
    let names = ["OMP_NUM_THREADS", "PATH_THAT_IS_NOT_SET"].map(str::to_owned).into();
    process::facts(&processes, &Redactor::default()).into_iter().for_each(&mut give);
    let env = environment::facts(&proc, &processes, &names, cut.as_deref(), &Redactor::default());
    env.into_iter().for_each(&mut give);
    libraries::facts(&proc, &processes, cut, (limits, Instant::now() + limits.time), &mut give);
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
        let folder = dir.path().join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        let stat = format!("{pid} (t) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 1{REST}\n");
        let status = format!("Cpus_allowed_list:\t{cpus}\nMems_allowed_list:\t0\n");
        let environ = format!("A=b\0OMP_NUM_THREADS={threads}\0");
        for (name, text) in [("stat", stat), ("status", status), ("environ", environ), ("maps", String::new())] {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::write(folder.join("cmdline"), format!("train\0--rank\0{pid}\0")).unwrap();
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
    for path in ["run/library", "run/env", "run/env/OMP_NUM_THREADS"] {
        assert_eq!(value(&cut, path).unwrap_err().reason, "too many", "{path}");
    }
}
