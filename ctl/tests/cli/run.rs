//! `run` and `register`.

use crate::{
    fixtures::*,
    support::{Answers, Fake, err, out},
};
use failsafe_proto::v1 as pb;

#[test]
fn run_becomes_its_command_and_is_the_process_that_the_daemon_moves() {
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    std::fs::write(fake.path("p.toml"), POLICY).unwrap();
    let mut command = fake.command();
    command.args(["run", "--no-watch", "-p", "p.toml", "--name", "n", "--label", "a=b", "--gpu", "0"]);
    if nix::unistd::geteuid().is_root() {
        command.args(["--user", "root"]);
    }
    // The command's own pid is that of the process that asked; nothing of the connection is left open in it. The shell closes its
    // end of the pipe while ls looks, which ls may complain about.
    command.args([
        "--",
        "sh",
        "-c",
        "echo $$ $FAILSAFE_RUN_ID; ls -l /proc/$$/fd 2>/dev/null | grep -c socket: ; exit 7",
    ]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", err(&output));
    let lines: Vec<String> = out(&output).lines().map(str::to_owned).collect();
    let asked = fake.asked.lock().unwrap();
    let (request, pid) = asked.start.as_ref().unwrap();
    assert_eq!(lines, [format!("{pid} {RUN}"), "0".into()]);
    assert_eq!(err(&output), format!("run trainer\\u{{1b}}[2J {RUN} pinned to p sha256:ab\n"));
    assert_eq!((request.name.as_str(), request.labels["a"].as_str(), request.gpus[0].as_str()), ("n", "b", "0"));
    assert_eq!((request.policy_toml.as_str(), request.owner_uid), (POLICY, Some(nix::unistd::geteuid().as_raw())));
}

#[test]
fn rules_on_gpus_of_a_run_without_a_gpu_are_warned_about() {
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    let rule = "[[rule]]\nid = \"hot\"\nrationale = \"x\"\nwhen = { signal = \"gpu.temperature\", above = \"90 C\" }\n\
                actions = [\"notify\"]\n";
    std::fs::write(fake.path("p.toml"), format!("{POLICY}{rule}")).unwrap();
    let register = |more: &str| err(&fake.ctl(&format!("register -p p.toml --pid 1{more}")));
    let warning = "warning: the run declares no GPU, so nothing can trip its rules on GPUs (hot): add --gpu";
    assert!(register("").contains(warning), "{}", register(""));
    assert_eq!((register(" --gpu 0"), register(" -o json")), (String::new(), String::new()));
    let run = |more: &str| {
        let mut command = fake.command();
        command.args(["run", "-p", "p.toml"]).args(more.split_whitespace());
        if nix::unistd::geteuid().is_root() {
            command.args(["--user", "root"]);
        }
        err(&command.args(["--", "true"]).output().unwrap())
    };
    assert_eq!(run("").matches(warning).count(), 1, "{}", run(""));
    assert!(!run("--gpu 0").contains(warning) && !run("-q").contains(warning));
}

#[test]
fn run_gives_up_root_for_good() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can become another user");
    }
    let Some(nobody) = nix::unistd::User::from_name("nobody").unwrap() else {
        return eprintln!("SKIPPED: there is no user nobody");
    };
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    std::fs::write(fake.path("p.toml"), POLICY).unwrap();
    let sees = "grep -E '^(Uid|Gid|Groups):' /proc/self/status; echo $USER";
    for (args, sudo) in [(&["--user", "nobody"][..], None), (&[], Some(nobody.uid))] {
        let mut command = fake.command();
        command.args(["run", "--no-watch", "-q", "-p", "p.toml"]).args(args).args(["--", "sh", "-c", sees]);
        if let Some(uid) = sudo {
            command.env("SUDO_UID", uid.to_string()).env("SUDO_GID", nobody.gid.to_string());
        }
        let output = command.output().unwrap();
        let (uid, gid) = (nobody.uid, nobody.gid);
        let expected = format!("Uid: {uid} {uid} {uid} {uid} Gid: {gid} {gid} {gid} {gid} Groups: {gid} nobody");
        assert_eq!(out(&output).split_whitespace().collect::<Vec<_>>().join(" "), expected, "{}", err(&output));
        assert_eq!(err(&output), "");
        assert_eq!(fake.asked.lock().unwrap().start.as_ref().unwrap().0.owner_uid, Some(uid.as_raw()));
    }
    let output = fake.ctl("run -p p.toml -- true");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("--user root"), "{}", err(&output));
}

/// Root, and a user to become; without them the test is skipped.
fn root_and_nobody() -> Option<()> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return None;
    }
    if nix::unistd::User::from_name("nobody").unwrap().is_none() {
        eprintln!("SKIPPED: there is no user nobody");
        return None;
    }
    Some(())
}

#[test]
fn a_command_of_another_user_gets_no_variable_and_no_descriptor_of_the_caller() {
    let Some(()) = root_and_nobody() else { return };
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    std::fs::write(fake.path("p.toml"), POLICY).unwrap();
    for watch in [&[][..], &["--no-watch"]] {
        // A shell opens descriptor 7, which failsafectl inherits.
        let mut shell = fake.command_of("sh");
        let ctl = env!("CARGO_BIN_EXE_failsafectl");
        let script = "exec \"$0\" run \"$@\" -q -p p.toml --user nobody --env GIVEN=1 --env TAKEN -- \
                      sh -c 'env; ls /proc/self/fd | tr \"\\n\" \" \"; ps -o sid= -p $$; echo $$' 7</etc/hostname";
        shell.args(["-c", script, ctl]).args(watch);
        shell.env("AWS_SECRET_ACCESS_KEY", "hidden").env("LD_LIBRARY_PATH", "/x").env("TAKEN", "2");
        let output = shell.output().unwrap();
        let text = out(&output);
        assert!(output.status.success(), "{text}{}", err(&output));
        assert!(!text.contains("hidden") && !text.contains("LD_LIBRARY_PATH"), "{text}");
        assert!(text.contains("GIVEN=1\n") && text.contains("TAKEN=2\n") && text.contains("USER=nobody\n"), "{text}");
        // `ls` has the folder itself open as 3.
        assert!(text.contains("\n0 1 2 3 "), "{watch:?}: {text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[words.len() - 2], words[words.len() - 1], "it leads a session of its own: {text}");
    }
    let unknown = fake.ctl("run -p p.toml --user nobody --env NO_SUCH_VARIABLE -- true");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(err(&unknown).contains("the environment has no variable"), "{}", err(&unknown));
}

#[test]
fn a_command_of_another_user_has_a_terminal_of_its_own() {
    let Some(()) = root_and_nobody() else { return };
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    std::fs::write(fake.path("p.toml"), POLICY).unwrap();
    let ctl = env!("CARGO_BIN_EXE_failsafectl");
    // `script` gives failsafectl a terminal, whose name `tty` prints first.
    let line = format!(
        "tty; {ctl} run -q -p p.toml --user nobody -- sh -c 'tty; exit 7'; echo code $?; stty -a | grep -o -- -icanon"
    );
    let output = fake.command_of("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    let text = out(&output);
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().map(str::to_owned);
    let terminals: Vec<String> = text.split("/dev/pts/").skip(1).filter_map(number).collect();
    assert_eq!(terminals.len(), 2, "{text}{}", err(&output));
    assert_ne!(terminals[0], terminals[1], "{text}");
    assert!(text.contains("code 7"), "the command's code is passed on: {text}");
    assert!(!text.contains("-icanon"), "the terminal is no longer raw: {text}");
}

#[test]
fn the_watcher_passes_signals_on_and_ends_as_the_command() {
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    std::fs::write(fake.path("p.toml"), POLICY).unwrap();
    let me = nix::unistd::geteuid().to_string();
    let mut command = fake.command();
    command.args([
        "run",
        "-q",
        "-p",
        "p.toml",
        "--user",
        &me,
        "--",
        "sh",
        "-c",
        "trap 'kill $!; exit 9' TERM; echo ready; sleep 60 & wait",
    ]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut ready).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let mut command = fake.command();
    command.args(["run", "-q", "-p", "p.toml", "--user", &me, "--", "sh", "-c", "kill -9 $$"]);
    let killed = command.output().unwrap();
    assert_eq!(killed.status.code(), Some(128 + 9), "{}", err(&killed));
}

#[test]
fn what_can_fail_before_the_run_leaves_no_run() {
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    std::fs::write(fake.path("p.toml"), POLICY).unwrap();
    std::fs::write(fake.path("bad.toml"), POLICY.replace("owner", "onwer")).unwrap();
    std::fs::write(fake.path("data"), "x").unwrap();
    let me = nix::unistd::geteuid();
    for (line, code, says) in [
        ("-p p.toml -- no-such-command", 127, "command not found"),
        ("-p p.toml -- ./data", 126, "not executable"),
        ("-p none.toml -- true", 1, "cannot read policy none.toml"),
        ("-p bad.toml -- true", 2, "did you mean `owner`?"),
    ] {
        let output = fake.ctl(&format!("run --user {me} {line}"));
        assert_eq!(output.status.code(), Some(code), "{line}: {}", err(&output));
        assert!(err(&output).contains(says), "{line}: {}", err(&output));
    }
    assert_eq!(fake.ctl("run --user no-such-user -p p.toml -- true").status.code(), Some(2));
    assert!(fake.asked.lock().unwrap().start.is_none());
}

#[test]
fn register_names_its_target() {
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    std::fs::write(fake.path("p.toml"), POLICY).unwrap();
    let output = fake.ctl("register -p p.toml --pid 42 -o json");
    assert_eq!(json(&output)["id"], RUN);
    let asked = fake.asked.lock().unwrap().register.clone().unwrap();
    assert_eq!(asked.target, Some(pb::register_request::Target::Pid(42)));
}
