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
    command.args(["run", "-p", "p.toml", "--name", "n", "--label", "a=b", "--gpu", "0"]);
    if nix::unistd::geteuid().is_root() {
        command.args(["--user", "root"]);
    }
    // The command's own pid is that of the process that asked; nothing of the connection is left open in it.
    command.args(["--", "sh", "-c", "echo $$ $FAILSAFE_RUN_ID; ls -l /proc/$$/fd | grep -c socket: ; exit 7"]);
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
        command.args(["run", "-q", "-p", "p.toml"]).args(args).args(["--", "sh", "-c", sees]);
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
