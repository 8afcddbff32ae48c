//! The gateway's configuration: one TOML file and its drop-ins, read and checked whole before anything is served.

use serde::Deserialize;
use std::{
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Where the configuration lies unless `--config` names another file.
pub const DEFAULT_PATH: &str = "/etc/failsafe/gateway.toml";

/// The configuration. An unknown field is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The control socket of failsafed.
    pub socket: PathBuf,
    /// How metrics are served; none: they are not.
    pub metrics: Option<Metrics>,
    /// How remote clients are served; none: they are not.
    pub remote: Option<Remote>,
}

/// `[remote]`: how remote clients are served, by TLS with client certificates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// Where.
    pub address: SocketAddr,
    /// The certificate of this node with its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates of the authorities that clients are signed by, PEM.
    pub client_ca: PathBuf,
    /// Connections at once.
    #[serde(default = "connections")]
    pub connections: u64,
    /// Connections of one identity at once.
    #[serde(default = "connections_per_identity")]
    pub connections_per_identity: u64,
    /// Requests of one identity at once.
    #[serde(default = "requests_per_identity")]
    pub requests_per_identity: u64,
    /// Seconds between two looks at the certificate files.
    #[serde(default = "reload_s")]
    pub reload_s: u64,
}

fn connections() -> u64 {
    64
}

fn connections_per_identity() -> u64 {
    4
}

fn requests_per_identity() -> u64 {
    8
}

fn reload_s() -> u64 {
    60
}

impl Default for Config {
    fn default() -> Config {
        Config { socket: "/run/failsafe/failsafed.sock".into(), metrics: None, remote: None }
    }
}

/// `[metrics]`: how metrics are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where.
    pub address: SocketAddr,
    /// Connections at once; further ones are closed.
    pub connections: u64,
    /// How long one connection may take, in seconds.
    pub timeout_s: u64,
    /// Runs that have series of their own.
    pub runs: u64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { address: SocketAddr::from(([127, 0, 0, 1], 9742)), connections: 16, timeout_s: 10, runs: 200 }
    }
}

/// Everything that is wrong with the configuration.
#[derive(Debug)]
pub struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads the file and its drop-ins.
    ///
    /// # Errors
    /// [`Mistakes`], with file, line and field.
    pub fn load(path: &Path) -> Result<Config, Mistakes> {
        let unread = |errors: Vec<failsafe_files::Unread>| {
            Mistakes(errors.iter().map(|e| format!("{}: cannot be read: {}", e.path.display(), e.source)).collect())
        };
        let texts = failsafe_files::read(path, false).map_err(unread)?;
        let (mut merged, mut mistakes) = (toml::Table::new(), Vec::new());
        for text in &texts {
            let file = text.path.display();
            let read = toml::from_str::<Config>(&text.text).map(|config| config.wrong());
            match (read, text.text.parse::<toml::Table>()) {
                (Ok(wrong), Ok(table)) => {
                    mistakes.extend(wrong.into_iter().map(|what| format!("{file}: {what}")));
                    over(&mut merged, table);
                }
                (Err(error), _) | (_, Err(error)) => mistakes.push(at(&text.path, &text.text, &error)),
            }
        }
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes));
        }
        merged.try_into().map_err(|error| Mistakes(vec![format!("{}: {}", path.display(), error.message())]))
    }

    /// What is out of its range.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if !self.socket.is_absolute() {
            wrong.push(format!("socket: expected an absolute path, not `{}`", self.socket.display()));
        }
        let mut ranges: Vec<(&str, u64, RangeInclusive<u64>)> = Vec::new();
        if let Some(metrics) = &self.metrics {
            ranges.extend([
                ("metrics.connections", metrics.connections, 1..=1_024),
                ("metrics.timeout_s", metrics.timeout_s, 1..=60),
                ("metrics.runs", metrics.runs, 0..=1_000),
            ]);
        }
        if let Some(remote) = &self.remote {
            ranges.extend([
                ("remote.connections", remote.connections, 1..=100),
                ("remote.connections_per_identity", remote.connections_per_identity, 1..=1_024),
                ("remote.requests_per_identity", remote.requests_per_identity, 1..=64),
                ("remote.reload_s", remote.reload_s, 1..=3_600),
            ]);
        }
        let outside = ranges.into_iter().filter(|(_, value, range)| !range.contains(value));
        wrong.extend(outside.map(|(field, value, range)| {
            format!("{field}: expected {} to {}, not {value}", range.start(), range.end())
        }));
        wrong
    }
}

/// A mistake with its line.
fn at(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.get(..start).unwrap_or(text).matches('\n').count() + 1;
    format!("{}:{line}: {}", path.display(), error.message().replace('\n', " "))
}

/// Puts `table` over `merged`: tables are joined, everything else is replaced.
fn over(merged: &mut toml::Table, table: toml::Table) {
    for (key, value) in table {
        match (merged.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => over(old, new),
            (_, value) => drop(merged.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("gateway.d")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let path = dir.path().join("gateway.toml");
        Config::load(&path).map_err(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn drop_ins_replace_single_keys_of_a_table() {
        let files = [
            ("gateway.toml", "[metrics]\nconnections = 3\nruns = 5\n"),
            ("gateway.d/10.toml", "[metrics]\nruns = 7\n"),
        ];
        let metrics = load(&files).unwrap().metrics.unwrap();
        assert_eq!((metrics.connections, metrics.runs, metrics.address.port()), (3, 7, 9742));
        assert!(metrics.address.ip().is_loopback());
    }

    #[test]
    fn nothing_is_served_unless_it_is_configured() {
        assert!(load(&[("gateway.toml", "")]).unwrap().metrics.is_none());
    }

    #[test]
    fn every_mistake_names_its_file_line_and_field() {
        let files = [("gateway.toml", "socket = \"a\"\n"), ("gateway.d/10.toml", "\n[metrics]\nadress = \"x\"\n")];
        let error = load(&files).unwrap_err();
        assert!(error.contains("gateway.toml: socket: expected an absolute path, not `a`"), "{error}");
        assert!(error.contains("gateway.d/10.toml:3: unknown field `adress`"), "{error}");
        let error = load(&[("gateway.toml", "[metrics]\nconnections = 0\n")]).unwrap_err();
        assert_eq!(error, "gateway.toml: metrics.connections: expected 1 to 1024, not 0");
        assert!(load(&[]).unwrap_err().contains("gateway.toml: cannot be read"));
    }
}
