//! One module for each command: ask, then render.

mod attest;
mod canary;
mod cleanup;
mod completion;
mod control;
mod describe;
mod discover;
mod doctor;
mod drill;
mod egress;
mod events;
mod explain;
mod export;
mod fan_out;
mod file;
mod freeze_all;
mod gpu;
mod health;
mod incident;
mod incidents;
mod list;
mod log;
mod manifest;
mod missing;
mod mode;
mod named;
mod node;
mod offline;
mod policy;
mod register;
mod relay;
mod replay;
mod report;
mod run;
mod scrape;
mod shadow;
mod stats;

use crate::{
    args::{
        Args, AttestCommand, AttestKeyCommand, Command, DiscoverCommand, DrillCommand, Get, GpuCommand,
        IncidentCommand, ManifestCommand, ModeCommand, NodeCommand, PolicyCommand, Reach,
    },
    client::Target,
    exit::{Exit, Fail},
    render::print,
};
use failsafe_core::{event::EventKind, policy::Rule};
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use std::{path::Path, process::ExitCode};

/// Who is asked, and where things are on this node.
#[derive(Debug)]
pub struct Place<'a> {
    /// The daemon that is asked.
    pub daemon: &'a Target,
    /// The daemon's state folder.
    pub state_dir: &'a Path,
    /// The caller's time zone.
    pub zone: TimeZone,
}

/// Does what the command line asks.
///
/// # Errors
/// [`Fail`], with the exit code.
pub fn dispatch(args: Args) -> Result<ExitCode, Fail> {
    let reach = args.command.reach();
    let option = if args.nodes.hosts.is_some() { "--hosts" } else { "--host" };
    if args.nodes.hosts.is_some() || args.nodes.host.is_some() {
        match reach {
            Reach::Here(why) => {
                return Err(Fail::usage(format!("{option}: another node cannot be asked for this command: {why}")));
            }
            Reach::OneNode if args.nodes.hosts.is_some() => {
                return Err(Fail::usage(
                    "--hosts: the output of this command cannot be joined; ask one node with --host",
                ));
            }
            Reach::OneNode | Reach::Nodes => {}
        }
    }
    if let Some(nodes) = &args.nodes.hosts {
        return Ok(fan_out::fan_out(nodes, &args.nodes)?.into());
    }
    let node = args.nodes.node();
    let target = node.map_or(Target::Socket(args.socket), Target::Node);
    let place = &Place { daemon: &target, state_dir: &args.state_dir, zone: TimeZone::system() };
    let done = command(place, args.command).map(ExitCode::from);
    done.map_err(|fail| target.explain(fail))
}

fn command(place: &Place<'_>, command: Command) -> Result<Exit, Fail> {
    match command {
        Command::Run(args) => run::run(place, &args),
        Command::Rerun(args) => run::rerun(place, &args),
        Command::Register(args) => register::register(place, &args),
        Command::List(args) | Command::Get { what: Get::Runs(args) } => list::list(place, &args),
        Command::Describe(args) => describe::describe(place, &args),
        Command::Freeze(args) => match &args.run {
            Some(run) => control::control(place, pb::Command::Freeze, &args.of(run)),
            None => freeze_all::freeze_all(place, &args),
        },
        Command::Egress(args) => egress::egress(place, &args),
        Command::Thaw(args) => control::control(place, pb::Command::Thaw, &args),
        Command::Kill(args) => control::control(place, pb::Command::Kill, &args),
        Command::Events(args) => events::events(place, &args),
        Command::Explain(args) => explain::explain(place, &args),
        Command::Incidents(args) => incidents::incidents(place, &args),
        Command::Incident { what: IncidentCommand::List(args) } => incident::live::list(place, &args),
        Command::Incident { what: IncidentCommand::Show(args) } => incident::live::show(place, &args),
        Command::Incident { what: IncidentCommand::Watch(args) } => incident::live::watch(place, &args),
        Command::Incident { what: IncidentCommand::Export(args) } => incident::export(place, &args),
        Command::Incident { what: IncidentCommand::Verify(args) } => incident::verify(place, &args),
        Command::Policy { what } => match what {
            PolicyCommand::Check(args) => policy::check(place, &args),
            PolicyCommand::Explain(args) => policy::explain::explain(&args),
            PolicyCommand::Would(args) => policy::would::would(&args),
            PolicyCommand::Test(args) => policy::test::test(&args),
            PolicyCommand::Replay(args) => replay::under::replay(place, &args),
            PolicyCommand::Resolve { file } => policy::resolve::resolve_file(&file),
            PolicyCommand::Schema => policy::schema(),
            PolicyCommand::Canary { what } => canary::canary(place, what),
            PolicyCommand::Shadow { what } => shadow::shadow(place, what),
            PolicyCommand::List(output) => named::list(place, output),
            PolicyCommand::Show { name, output } => named::show(place, &name, output),
        },
        Command::Discover { what: DiscoverCommand::Test(args) } => discover::test(place, &args),
        Command::Discover { what: DiscoverCommand::List(output) } => discover::list(place, output),
        Command::Replay(args) => replay::replay(place, &args),
        Command::Export(args) => export::export(place, &args),
        Command::Report(args) => report::report(&args),
        Command::Scrape(args) => scrape::scrape(&args),
        Command::Relay(args) => relay::relay(&args),
        Command::Mode { what } => match what {
            ModeCommand::Show(output) => mode::show(place, output),
            ModeCommand::Observe { length, reason, output } => mode::set(place, Some(length), &reason, output),
            ModeCommand::Enforce { reason, output } => mode::set(place, None, &reason, output),
        },
        Command::Stats(args) => stats::stats(place, &args),
        Command::Node { what } => match what {
            NodeCommand::Status(output) => node::status(place, output),
            NodeCommand::Usage(output) => node::usage(place, output),
            NodeCommand::Health(args) => health::health(place, &args),
            NodeCommand::Capacity(output) => health::capacity(place, output),
            NodeCommand::Placeable(args) => health::placeable(place, &args),
            NodeCommand::Watch(args) => health::watch(place, &args, false),
            NodeCommand::Cordon(args) => health::order(place, health::HealthSubcommand::Cordon, "", &args),
            NodeCommand::Uncordon(args) => health::order(place, health::HealthSubcommand::Uncordon, "", &args),
            NodeCommand::ResetHealth(args) => health::order(place, health::HealthSubcommand::Reset, "", &args),
        },
        Command::Gpu { what } => match what {
            GpuCommand::List(output) => gpu::list(place, output),
            GpuCommand::Describe { gpu, output } => gpu::describe(place, &gpu, output),
            GpuCommand::Watch(args) => health::watch(place, &args, true),
            GpuCommand::Top(args) => gpu::top(place, &args),
            GpuCommand::Cordon(args) => health::order(place, health::HealthSubcommand::Cordon, &args.gpu, &args.order),
            GpuCommand::Uncordon(args) => {
                health::order(place, health::HealthSubcommand::Uncordon, &args.gpu, &args.order)
            }
            GpuCommand::ResetHealth(args) => {
                health::order(place, health::HealthSubcommand::Reset, &args.gpu, &args.order)
            }
            GpuCommand::Forget(args) => health::order(place, health::HealthSubcommand::Forget, &args.gpu, &args.order),
            GpuCommand::Reset(args) => gpu::reset(place, &args),
        },
        Command::Drill { what: DrillCommand::Now { reason, output } } => drill::now(place, &reason, output),
        Command::Drill { what: DrillCommand::Status(output) } => drill::status(place, output),
        Command::Doctor(args) if args.cleanup => cleanup::cleanup(place, &args),
        Command::Doctor(args) => doctor::doctor(place, args.output),
        Command::Attest { what } => match what {
            AttestCommand::Node(args) => attest::node(place, &args),
            AttestCommand::Run(args) => attest::run(place, &args),
            AttestCommand::Verify(args) => attest::verify(place, &args),
            AttestCommand::Diff(args) => attest::diff(place, &args),
            AttestCommand::Common(args) => attest::reference::common(&args),
            AttestCommand::Expect(args) => attest::reference::expect(&args),
            AttestCommand::Preflight(args) => attest::preflight::preflight(&args),
            AttestCommand::Key { what: AttestKeyCommand::Show(output) } => attest::key::show(place, output),
            AttestCommand::Key { what: AttestKeyCommand::Activate(args) } => attest::key::activate(place, &args),
            AttestCommand::Key { what: AttestKeyCommand::Rotate(args) } => attest::key::rotate(place, &args),
        },
        Command::Log { what } => log::log(place, &what),
        Command::Manifest { what } => match what {
            ManifestCommand::Set(args) => manifest::set(place, &args),
            ManifestCommand::Show(args) => manifest::show(place, &args),
            ManifestCommand::Hash(args) => manifest::hash(&args),
        },
        Command::Checkpoint(args) => manifest::checkpoint(place, &args),
        Command::Completion { shell } => completion::completion(shell),
        Command::KeepTerminal => run::keep_terminal(),
        Command::Man { folder } => completion::man(&folder),
    }
}

/// Reads a policy's text for the daemon, which checks it again; what is wrong with it is said here, without asking.
fn read_policy(path: &Path) -> Result<(String, failsafe_core::Policy), Fail> {
    // The run's command has stdin.
    let path = if path.as_os_str() == "-" { Path::new("./-") } else { path };
    let whole = policy::resolve::read(path)?
        .map_err(|errors| Fail::new(Exit::Usage, format!("the policy is not valid\n{errors}")))?;
    Ok((whole.text, whole.checked.policy))
}

/// A warning about rules on GPUs of a run that declares none: nothing can trip them.
fn without_gpus(policy: &failsafe_core::Policy, gpus: &[String]) -> Option<String> {
    let foreign = |rule: &Rule| rule.when.event().is_some_and(|event| event.kind == EventKind::ForeignGpuProcess);
    let needs_a_gpu = |rule: &&Rule| rule.when.is_of_gpus() && !foreign(rule);
    let rules: Vec<&str> = policy.rules.iter().filter(needs_a_gpu).map(|rule| rule.id.as_str()).collect();
    (gpus.is_empty() && !rules.is_empty()).then(|| {
        format!(
            "failsafectl: warning: the run declares no GPU, so nothing can trip its rules on GPUs ({}): add --gpu",
            rules.join(", ")
        )
    })
}

/// The name of a policy's file for messages.
fn file_name(path: &Path) -> String {
    path.display().to_string()
}
