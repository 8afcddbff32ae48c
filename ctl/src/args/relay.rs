//! `relay`.

use clap::Args as ClapArgs;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// `relay`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl relay --otlp --detach\n  \
                        failsafectl relay --otlp 127.0.0.1:4317 --otlp 127.0.0.1:4318 --statsd 127.0.0.1:8125")]
#[command(group = clap::ArgGroup::new("ports").required(true).multiple(true).args(["otlp", "statsd"]))]
pub struct RelayArgs {
    /// Take OTLP (gRPC and HTTP) at this loopback address [default without ADDRESS: localhost:4317, which is 127.0.0.1 and ::1].
    /// May be repeated.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "localhost:4317", value_parser = loopback)]
    pub otlp: Vec<Loopback>,
    /// Take statsd over UDP at this loopback address [default without ADDRESS: localhost:8125, which is 127.0.0.1 and ::1]. May be
    /// repeated.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "localhost:8125", value_parser = loopback)]
    pub statsd: Vec<Loopback>,
    /// The gateway's socket for OTLP.
    #[arg(long, env = "FAILSAFE_OTLP_SOCKET", default_value = "/run/failsafe-gateway/otlp.sock", value_name = "PATH")]
    pub otlp_socket: PathBuf,
    /// The gateway's socket for statsd.
    #[arg(
        long,
        env = "FAILSAFE_STATSD_SOCKET",
        default_value = "/run/failsafe-gateway/statsd.sock",
        value_name = "PATH"
    )]
    pub statsd_socket: PathBuf,
    /// Return when the ports are open: a process that is no child of the caller relays until the caller ends.
    #[arg(long)]
    pub detach: bool,
    /// That process; used by `--detach` itself. Standard input is a descriptor of the process to end with (pidfd).
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub beside: bool,
}

/// Where a port is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// At one address.
    At(SocketAddr),
    /// At both addresses that `localhost` may stand for: a library can take either.
    Localhost(u16),
}

impl Loopback {
    /// The addresses, each with whether this host may lack it.
    pub fn addresses(self) -> Vec<(SocketAddr, bool)> {
        match self {
            Loopback::At(address) => vec![(address, false)],
            Loopback::Localhost(port) => {
                vec![((Ipv4Addr::LOCALHOST, port).into(), false), ((Ipv6Addr::LOCALHOST, port).into(), true)]
            }
        }
    }
}

fn loopback(text: &str) -> Result<Loopback, String> {
    let expected = || format!("`{text}`, expected a loopback address with a port, such as 127.0.0.1:4317");
    if let Some(port) = text.strip_prefix("localhost:") {
        return port.parse().map(Loopback::Localhost).map_err(|_| expected());
    }
    let address: SocketAddr = text.parse().map_err(|_| expected())?;
    if address.ip().is_loopback() { Ok(Loopback::At(address)) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use crate::args::{Args, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let args = Args::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::Relay(relay) = args.command else { panic!("not relay") };
        let text = |all: &[super::Loopback]| {
            all.iter().flat_map(|one| one.addresses()).map(|(address, _)| address.to_string()).collect()
        };
        Ok((text(&relay.otlp), text(&relay.statsd)))
    }

    #[test]
    fn a_port_is_the_usual_one_unless_it_is_named_and_always_of_this_host() {
        let usual = parse("failsafectl relay --otlp --statsd").unwrap();
        let both = |port| vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
        assert_eq!(usual, (both(4317), both(8125)));
        let named = parse("failsafectl relay --otlp 127.0.0.1:1 --otlp [::1]:2 --statsd localhost:3").unwrap();
        assert_eq!(named, (vec!["127.0.0.1:1".into(), "[::1]:2".into()], both(3)));
        for bad in
            ["failsafectl relay", "failsafectl relay --otlp 0.0.0.0:4317", "failsafectl relay --statsd localhost:x"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
