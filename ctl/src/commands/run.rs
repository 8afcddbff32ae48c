//! `run`: registers this very process as a run, then becomes the command.
//!
//! ```text
//! find COMMAND ─► choose the user ─► Start (the daemon moves this process into the run's cgroup) ─► become the user ─► exec
//! ```
//!
//! Invariant: everything that can fail without the daemon fails before the run is registered; the command never runs as root
//! unless `--user root` says so; between Start and exec nothing is started that is not the command.

mod user;
mod which;

use super::{Place, file_name, read_policy};
use crate::{
    args::RunArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json},
};
use failsafe_proto::v1 as pb;
use std::{io::ErrorKind, os::unix::process::CommandExt, process::Command};

pub(super) fn run(place: &Place<'_>, args: &RunArgs) -> Result<Exit, Fail> {
    let Some((name, arguments)) = args.command.split_first() else {
        return Err(Fail::usage("no command is given"));
    };
    let program = which::find(name, std::env::var_os("PATH").as_deref())?;
    let user = user::choose(args.user.as_deref(), &user::Caller::this())?;
    let (policy_toml, _) = read_policy(&args.new.policy)?;
    let request = pb::StartRequest {
        name: args.new.name.clone().unwrap_or_default(),
        labels: args.new.labels.iter().cloned().collect(),
        policy_toml,
        policy_file: file_name(&args.new.policy),
        gpus: args.new.gpus.clone(),
        repair: args.new.repair,
        owner_uid: Some(user.uid()),
    };
    // The event loop and the connection end with this block; what is left of them is close-on-exec.
    let run = block_on(async {
        let client = Client::connect(place.socket).await?;
        Ok(client.runs().start(request).await?.into_inner())
    })?;
    if args.output.json() {
        eprintln!("{}", json::run(&run));
    } else if !args.quiet {
        eprintln!("run {} {} pinned to {} {}", clean(&run.name), run.id, clean(&run.policy_name), run.policy_digest);
    }
    let mut command = Command::new(&program);
    command.arg0(name).args(arguments).env("FAILSAFE_RUN_ID", &run.id);
    user.become_it(&mut command)?;
    let error = command.exec();
    let exit = match error.kind() {
        ErrorKind::NotFound => Exit::NoCommand,
        _ => Exit::NotExecutable,
    };
    Err(Fail { exit, ..Fail::because(format!("cannot execute {}", program.display()), &error) })
}
