//! `scrape`.

use super::duration;
use clap::Args as ClapArgs;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// `scrape`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl run --policy p.toml -- sh -c \\\n    \
                  'failsafectl scrape 127.0.0.1:9400/metrics & exec python train.py'")]
pub struct ScrapeArgs {
    /// What to read: a port of the run on this host, with a path.
    #[arg(value_name = "ADDRESS[/PATH]", value_parser = endpoint)]
    pub endpoint: Endpoint,
    /// Time between two reads.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub every: Duration,
    /// Report only this metric; `NAME*` for all that begin with NAME. Can be given several times.
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Read once, and say what was reported.
    #[arg(long)]
    pub once: bool,
    /// The series that the values belong to. Without it, this process is the series.
    #[arg(long, env = "RANK", value_name = "LABEL")]
    pub rank: Option<String>,
    /// The daemon's socket for metrics; the stream socket is beside it, with `.stream` behind its name.
    #[arg(long, env = "FAILSAFE_METRICS_SOCKET", default_value = "/run/failsafe/metrics.sock")]
    pub metrics_socket: PathBuf,
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A loopback address.
    pub address: SocketAddr,
    /// The path, which begins with `/`.
    pub path: String,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = address.replacen("localhost:", "127.0.0.1:", 1);
    let address: SocketAddr =
        address.parse().map_err(|_| "expected an address with a port, such as 127.0.0.1:9400/metrics".to_owned())?;
    if !address.ip().is_loopback() {
        return Err("expected an address of this host: 127.0.0.1 or [::1]".to_owned());
    }
    let path = if path.is_empty() { "/metrics" } else { path };
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("expected a path without spaces and control characters".to_owned());
    }
    Ok(Endpoint { address, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_port_of_this_host_with_a_path() {
        for (text, address, path) in [
            ("127.0.0.1:9400", "127.0.0.1:9400", "/metrics"),
            ("http://localhost:9400/m?a=b", "127.0.0.1:9400", "/m?a=b"),
            ("[::1]:9400/x", "[::1]:9400", "/x"),
        ] {
            assert_eq!(endpoint(text), Ok(Endpoint { address: address.parse().unwrap(), path: path.into() }), "{text}");
        }
        for bad in ["", "9400", "10.0.0.1:9400", "https://127.0.0.1:9400", "127.0.0.1:9400/a b", "example.org:1/"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
