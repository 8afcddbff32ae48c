//! `relay`.

use clap::Args as ClapArgs;
use std::{net::SocketAddr, path::PathBuf};

/// `relay`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl relay --otlp --detach\n  \
                        failsafectl relay --otlp 127.0.0.1:4317 --otlp 127.0.0.1:4318 --statsd 127.0.0.1:8125")]
#[command(group = clap::ArgGroup::new("ports").required(true).multiple(true).args(["otlp", "statsd"]))]
pub struct RelayArgs {
    /// Take OTLP (gRPC and HTTP) at this loopback address [default without ADDRESS: 127.0.0.1:4317]. May be repeated.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:4317", value_parser = loopback)]
    pub otlp: Vec<SocketAddr>,
    /// Take statsd over UDP at this loopback address [default without ADDRESS: 127.0.0.1:8125]. May be repeated.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:8125", value_parser = loopback)]
    pub statsd: Vec<SocketAddr>,
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

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let expected = || format!("`{text}`, expected a loopback address with a port, such as 127.0.0.1:4317");
    let address: SocketAddr = text.replacen("localhost:", "127.0.0.1:", 1).parse().map_err(|_| expected())?;
    if address.ip().is_loopback() { Ok(address) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use crate::args::{Args, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let args = Args::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::Relay(relay) = args.command else { panic!("not relay") };
        let text = |all: &[std::net::SocketAddr]| all.iter().map(ToString::to_string).collect();
        Ok((text(&relay.otlp), text(&relay.statsd)))
    }

    #[test]
    fn a_port_is_the_usual_one_unless_it_is_named_and_always_of_this_host() {
        let usual = parse("failsafectl relay --otlp --statsd").unwrap();
        assert_eq!(usual, (vec!["127.0.0.1:4317".into()], vec!["127.0.0.1:8125".into()]));
        let named = parse("failsafectl relay --otlp localhost:1 --otlp [::1]:2").unwrap();
        assert_eq!(named, (vec!["127.0.0.1:1".into(), "[::1]:2".into()], vec![]));
        for bad in ["failsafectl relay", "failsafectl relay --otlp 0.0.0.0:4317", "failsafectl relay --statsd 8125"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
