//! `scrape`, and the options of `run` that start it.

use super::duration;
use clap::Args as ClapArgs;
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// `scrape`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl scrape 127.0.0.1:9400/metrics --once --json\n  \
                  failsafectl scrape 127.0.0.1:9400 --detach")]
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
    /// Read once, and print what was reported.
    #[arg(long)]
    pub once: bool,
    /// Return at once: a process that is no child of the caller reads the port until the caller ends.
    #[arg(long, conflicts_with = "once")]
    pub detach: bool,
    /// That process; used by `--detach` itself. Standard input is a descriptor of the process to end with (pidfd).
    #[arg(long, hide = true, conflicts_with_all = ["once", "detach"])]
    pub beside: bool,
    /// Print for each read one line of JSON: what was read, what was sent, and the daemon's answer.
    #[arg(long, conflicts_with_all = ["detach", "beside"])]
    pub json: bool,
    /// The series that the values belong to. Without it, this process is the series.
    #[arg(long, env = "RANK", value_name = "LABEL")]
    pub rank: Option<String>,
    /// The daemon's socket for metrics; the stream socket is beside it, with `.stream` behind its name.
    #[arg(long, env = "FAILSAFE_METRICS_SOCKET", default_value = "/run/failsafe/metrics.sock")]
    pub metrics_socket: PathBuf,
}

/// The options of `run` and `rerun` for a scraper in the run.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunScrape {
    /// Read this port of the run as Prometheus does, and report its values as metrics of the run. May be repeated.
    #[arg(long = "scrape", id = "scrape", value_name = "PORT[/PATH]", value_parser = port)]
    pub endpoints: Vec<Endpoint>,
    /// With --scrape: time between two reads.
    #[arg(long, requires = "scrape", default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub every: Duration,
    /// With --scrape: report only this metric; `NAME*` for all that begin with NAME. May be repeated.
    #[arg(long, requires = "scrape", value_name = "NAME")]
    pub only: Vec<String>,
}

impl RunScrape {
    /// Whether a port is to be read.
    pub fn is_asked(&self) -> bool {
        !self.endpoints.is_empty()
    }
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A loopback address.
    pub address: SocketAddr,
    /// The path, which begins with `/`.
    pub path: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
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
    if address.port() == 0 {
        return Err("expected a port from 1 to 65535".to_owned());
    }
    let path = if path.is_empty() { "/metrics" } else { path };
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("expected a path without spaces and control characters".to_owned());
    }
    Ok(Endpoint { address, path: path.to_owned() })
}

/// A port of 127.0.0.1, or an address as `scrape` takes it.
fn port(text: &str) -> Result<Endpoint, String> {
    let (number, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    match number.parse::<u16>() {
        Ok(number) => endpoint(&format!("{}{path}", SocketAddr::from((Ipv4Addr::LOCALHOST, number)))),
        Err(_) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err("expected PORT or PORT/PATH, such as 9400/metrics, with a port from 1 to 65535".to_owned())
        }
        Err(_) => endpoint(text),
    }
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
            let expected = Endpoint { address: address.parse().unwrap(), path: path.into() };
            assert_eq!(endpoint(text), Ok(expected.clone()), "{text}");
            assert_eq!(port(text), Ok(expected.clone()), "{text}");
            assert_eq!(endpoint(&expected.to_string()), Ok(expected), "{text}");
        }
        for bad in ["", "9400", "10.0.0.1:9400", "https://127.0.0.1:9400", "127.0.0.1:9400/a b", "example.org:1/"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_alone_is_one_of_127_0_0_1() {
        let at = |text: &str| port(text).map(|endpoint| endpoint.to_string());
        assert_eq!(at("9400"), Ok("http://127.0.0.1:9400/metrics".to_owned()));
        assert_eq!(at("9400/a/b"), Ok("http://127.0.0.1:9400/a/b".to_owned()));
        for bad in ["", "/metrics", "0", "65536", "99999999/m", "94x0", "10.0.0.1:9400", "9400/a b"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }
}
