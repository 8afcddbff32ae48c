//! `run`: starts a command as a run, and stays as its watcher.
//!
//! ```text
//! watcher (this process) ─► child: this program again with --announce
//!                             └► Start (the daemon moves the child into the run's cgroup) ─► announce the run's id
//!                                 ─► become the user ─► exec
//! watcher: follows the run's events, passes signals on, relays the terminal, ends with the command's code
//! ```
//!
//! With `--no-watch` this process is the child. Invariants: everything that can fail without the daemon fails before the run is
//! started; the command never runs as root unless `--user root` says so; between Start and exec nothing is started that is
//! not the command, except the scrapers of `--scrape`, as the user; a command of another user gets no terminal, descriptor or
//! variable of the caller.

mod again;
mod environment;
mod keep_terminal;
mod left;
mod restart;
mod scraper;
mod terminal;
mod user;
mod watch;
mod which;

use super::{Place, manifest, named::Asked, register::warn, without_gpus};
use crate::{
    args::{RunArgs, RunScrape},
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json},
};
use failsafe_proto::v1 as pb;
use nix::errno::Errno;
use std::{
    ffi::{OsStr, OsString},
    io::{ErrorKind, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

pub(super) use again::rerun;
pub(super) use environment::{add as add_variables, close_descriptors};
pub(super) use keep_terminal::keep_terminal;

/// What the child starts and becomes.
struct Starting<'a> {
    request: pb::StartRequest,
    command: Command,
    name: &'a OsStr,
    arguments: &'a [OsString],
    /// Files that the name may mean.
    programs: Vec<PathBuf>,
    user: user::Target,
    /// Where it is executed, where that is not the present folder; then its variables are those of `command` alone.
    directory: Option<&'a Path>,
    /// What is read of the run, as Prometheus reads it.
    scrape: &'a RunScrape,
    /// The watcher's socket.
    announce: Option<&'a str>,
    quiet: bool,
    json: bool,
}

pub(super) fn run(place: &Place<'_>, args: &RunArgs) -> Result<Exit, Fail> {
    let Some((name, arguments)) = args.command.split_first() else {
        return Err(Fail::usage("no command is given"));
    };
    let programs = which::find(name, std::env::var_os("PATH").as_deref())?;
    let user = user::choose(args.user.as_deref(), &user::Caller::this())?;
    let asked = Asked::of(&args.new.policy)?;
    let manifest = args.new.manifest.as_deref().map(manifest::read).transpose()?.unwrap_or_default();
    let mut command = Command::new(name);
    environment::add(&mut command, &args.env)?;
    let warning = asked.policy.as_ref().and_then(|policy| without_gpus(policy, &args.new.gpus));
    if let Some(warning) = warning.filter(|_| args.announce.is_none() && !args.quiet && !args.output.json()) {
        note!("{warning}");
    }
    if args.announce.is_none() {
        scraper::check(place, &args.scrape, &asked)?;
    }
    if !args.no_watch && args.announce.is_none() {
        return watch::watch(place, user.is_other(), args.quiet, args.scrape.is_asked());
    }
    let here = std::env::current_dir().map_err(|error| Fail::because("cannot find the present folder", &error))?;
    let with = restart::With {
        lineage: args.new.lineage.as_deref(),
        words: &args.command,
        directory: &here,
        only: None,
        other: user.is_other(),
    };
    let request = pb::StartRequest {
        name: args.new.name.clone().unwrap_or_default(),
        labels: args.new.labels.iter().cloned().collect(),
        policy_toml: asked.toml.clone(),
        policy_file: asked.file.clone(),
        policy_name: asked.name.clone(),
        gpus: args.new.gpus.clone(),
        repair: args.new.repair,
        manifest,
        owner_uid: Some(user.uid()),
        ..restart::request(&with, &command)?
    };
    let starting = Starting {
        request,
        command,
        name,
        arguments,
        programs,
        user,
        directory: None,
        scrape: &args.scrape,
        announce: args.announce.as_deref(),
        quiet: args.quiet,
        json: args.output.json(),
    };
    launch(place, starting).map_err(|fail| asked.explain(fail))
}

/// Starts the run with this process, and becomes its command.
fn launch(place: &Place<'_>, starting: Starting<'_>) -> Result<Exit, Fail> {
    let Starting { request, mut command, name, arguments, programs, user, directory, scrape, .. } = starting;
    let Starting { announce: watcher, quiet, json, .. } = starting;
    // The event loop and the connection end with this block; what is left of them is close-on-exec.
    let run = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let run = client.runs().start(request).await?.into_inner();
        if json {
            note!("{}", json::run(&run));
        } else if !quiet {
            note!("run {} {} pinned to {} {}", clean(&run.name), run.id, clean(&run.policy_name), run.policy_digest);
            warn(&run);
        }
        if let Some(watcher) = watcher {
            announce(watcher, &run.id);
        }
        restart::begin(place.daemon, &client, &run, json).await?;
        Ok(run)
    })?;
    command.args(arguments).env("FAILSAFE_RUN_ID", &run.id);
    let alone = user.is_other() || directory.is_some();
    for kept in environment::of_run(&mut command, &run, |name| std::env::var_os(name).filter(|_| !alone)) {
        note!("failsafectl: {kept}");
    }
    if user.is_other() {
        // A process of the caller's session could write to the caller's terminal as if it were typed (TIOCSTI). With a terminal
        // of its own the child leads a session already, and this fails.
        let _leads = nix::unistd::setsid();
        environment::close_descriptors()?;
    }
    user.become_it(&mut command)?;
    scraper::start(scrape, &command, alone)?;
    if let Some(directory) = directory {
        // With the rights of the user.
        let failed = |error| Fail::because(format!("cannot enter {}", clean(&directory.display().to_string())), &error);
        std::env::set_current_dir(directory).map_err(failed)?;
    }
    Err(execute(&command, name, &programs, alone))
}

/// Becomes the first of the programs that this user may execute, as `execvp(3)` does: one may lie in a folder of the caller that the
/// user cannot enter. Returns why it is none.
fn execute(command: &Command, name: &OsStr, programs: &[PathBuf], clear: bool) -> Fail {
    let mut refused = None;
    for program in programs {
        let mut attempt = Command::new(program);
        if clear {
            attempt.env_clear();
        }
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => attempt.env(key, value),
                None => attempt.env_remove(key),
            };
        }
        let error = attempt.arg0(name).args(command.get_args()).exec();
        let go_on =
            matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EACCES | Errno::ENOENT | Errno::ENOTDIR));
        let exit = match error.kind() {
            ErrorKind::NotFound => Exit::NoCommand,
            _ => Exit::NotExecutable,
        };
        let fail = Fail { exit, ..Fail::because(format!("cannot execute {}", program.display()), &error) };
        if !go_on {
            return fail;
        }
        // What was refused explains more than what is gone.
        refused =
            refused.filter(|first: &Fail| first.exit == Exit::NotExecutable || exit == Exit::NoCommand).or(Some(fail));
    }
    refused.unwrap_or_else(|| Fail::new(Exit::NoCommand, format!("{}: command not found", name.to_string_lossy())))
}

/// Sends the run's id to the watcher. Without a watcher the run goes on: it is bounded all the same.
fn announce(watcher: &str, id: &str) {
    let sent = SocketAddr::from_abstract_name(watcher)
        .and_then(|address| UnixStream::connect_addr(&address))
        .and_then(|mut stream| stream.write_all(id.as_bytes()));
    if let Err(error) = sent {
        note!("failsafectl: the watcher of run {id} cannot be reached: {error}");
    }
}
