//! `--host` and `--hosts`: the nodes that are asked instead of this one, and how they are reached.

use super::Command;
use crate::remote::{Address, DEFAULT_PORT, Files, Node};
use clap::Args as ClapArgs;
use std::{path::PathBuf, time::Duration};

/// Options of every command that can be answered by another node.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Other nodes")]
pub struct NodesArgs {
    /// Ask this node by its gateway: NAME, NAME:PORT, IPV4 or [IPV6]:PORT.
    #[arg(long, global = true, value_name = "NODE", conflicts_with = "hosts", value_parser = Address::parse)]
    pub host: Option<Address>,
    /// Ask several nodes: names with ranges such as login1,n[01-16], or @FILE with such names on each line.
    #[arg(long, global = true, value_name = "NODES")]
    pub hosts: Option<String>,
    /// Nodes that --hosts asks at the same time.
    #[arg(long, global = true, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    #[arg(hide_short_help = true)]
    pub fanout: u16,
    /// How long --hosts waits for one node, from 1ms to 1h. A node that takes longer counts as exit code 5.
    #[arg(long, global = true, value_name = "TIME", default_value = "2m", value_parser = super::duration)]
    #[arg(hide_short_help = true)]
    pub node_timeout: Duration,
    /// Port of the gateway, where the name of a node has none.
    #[arg(long, global = true, value_name = "PORT", env = "FAILSAFE_GATEWAY_PORT", default_value_t = DEFAULT_PORT)]
    #[arg(hide_short_help = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub gateway_port: u16,
    /// Certificate of the authority that signs the nodes, PEM. Default: ca.crt in ~/.config/failsafe.
    #[arg(long, global = true, value_name = "FILE", env = "FAILSAFE_TLS_CA", hide_short_help = true)]
    pub tls_ca: Option<PathBuf>,
    /// Certificate of the caller, PEM. Default: client.crt in ~/.config/failsafe.
    #[arg(long, global = true, value_name = "FILE", env = "FAILSAFE_TLS_CERT", hide_short_help = true)]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate, PEM. Default: client.key in ~/.config/failsafe.
    #[arg(long, global = true, value_name = "FILE", env = "FAILSAFE_TLS_KEY", hide_short_help = true)]
    pub tls_key: Option<PathBuf>,
}

impl NodesArgs {
    /// The node of `--host`.
    pub fn node(&self) -> Option<Node> {
        let address = self.host.clone()?;
        let files = Files::new(self.tls_ca.clone(), self.tls_cert.clone(), self.tls_key.clone());
        Some(Node { address: address.or_port(self.gateway_port), files })
    }
}

/// Where a command can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By any number of nodes.
    Nodes,
    /// By one node: its output does not end by itself.
    OneNode,
    /// On the node only, for this reason.
    Here(&'static str),
}

const FILES: Reach = Reach::Here("it reads files of the node");
const NO_NODE: Reach = Reach::Here("it asks no node");
const LOCAL: Reach = Reach::Here("a node answers it to local callers only");
const COMMANDS: Reach = Reach::Here("it works with processes or files of this node");

impl Command {
    /// Where the command can be answered. Whether the caller may is decided by the node.
    pub fn reach(&self) -> Reach {
        use super::PolicyCommand;
        use super::{
            AttestCommand, DiscoverCommand, DrillCommand, Get, GpuCommand, IncidentCommand, LogCommand,
            ManifestCommand, NodeCommand,
        };
        let source = |source: &super::Source| if source.offline() { FILES } else { Reach::Nodes };
        let watch = |once: bool| if once { Reach::Nodes } else { Reach::OneNode };
        match self {
            Command::List(args) | Command::Get { what: Get::Runs(args) } => watch(!args.watch),
            Command::Describe(_) | Command::Egress(_) => Reach::Nodes,
            Command::Drill { what: DrillCommand::Status(_) } => Reach::Nodes,
            Command::Drill { .. } => LOCAL,
            Command::Freeze(_) | Command::Thaw(_) | Command::Kill(_) | Command::Mode { .. } => Reach::Nodes,
            Command::Events(args) if args.follow => Reach::OneNode,
            Command::Events(args) => source(&args.source),
            Command::Explain(args) => source(&args.source),
            Command::Incidents(args) => source(&args.source),
            Command::Stats(args) => source(&args.source),
            Command::Node { what: NodeCommand::Watch(args) } | Command::Gpu { what: GpuCommand::Watch(args) } => {
                watch(args.once)
            }
            Command::Gpu { what: GpuCommand::Top(_) } => Reach::OneNode,
            Command::Node { .. } | Command::Gpu { .. } => Reach::Nodes,
            Command::Policy { what: PolicyCommand::List(_) | PolicyCommand::Show { .. } } => LOCAL,
            Command::Policy { what: PolicyCommand::Check(args) } if args.node => LOCAL,
            Command::Policy { what: PolicyCommand::Shadow { .. } | PolicyCommand::Canary { .. } } => LOCAL,
            Command::Policy { .. } => NO_NODE,
            Command::Discover { what: DiscoverCommand::List(_) } => LOCAL,
            Command::Discover { what: DiscoverCommand::Test(_) } => FILES,
            Command::Attest { what: AttestCommand::Node(_) | AttestCommand::Run(_) | AttestCommand::Key { .. } } => {
                LOCAL
            }
            Command::Attest { .. } => NO_NODE,
            Command::Manifest { what: ManifestCommand::Show(_) } => LOCAL,
            Command::Incident { what: IncidentCommand::List(_) | IncidentCommand::Show(_) } => Reach::Nodes,
            Command::Incident { what: IncidentCommand::Watch(args) } => watch(args.once),
            Command::Incident { what: IncidentCommand::Verify(_) } | Command::Completion { .. } => NO_NODE,
            Command::Man { .. } | Command::KeepTerminal => NO_NODE,
            Command::Log {
                what: LogCommand::Checkpoint { .. } | LogCommand::Consistency(_) | LogCommand::Prove { .. },
            } => Reach::OneNode,
            Command::Incident { what: IncidentCommand::Export(_) } | Command::Log { .. } | Command::Doctor(_) => FILES,
            Command::Replay(_) | Command::Export(_) => FILES,
            Command::Run(_) | Command::Rerun(_) | Command::Register(_) => COMMANDS,
            Command::Report(_) | Command::Scrape(_) | Command::Relay(_) => COMMANDS,
            Command::Manifest { .. } | Command::Checkpoint(_) => COMMANDS,
        }
    }
}
