//! The gateway's configuration: one TOML file and its drop-ins, read and checked whole before anything is served.

mod metrics;
mod notify;
mod receive;

pub use failsafe_files::Wrong;
pub use metrics::{Metrics, Protocol};
pub use notify::{About, Kind, Notify, Route, Target};
pub use receive::Receive;

use failsafe_core::policy::diagnostic::Diagnostics;
use serde::Deserialize;
use std::{
    fmt,
    net::SocketAddr,
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
    /// To whom notifications are sent; none: nobody.
    pub notify: Option<Notify>,
    /// How metrics of runs are received; none: they are not.
    pub receive: Option<Receive>,
}

/// `[remote]`: how remote clients are served, by TLS with client certificates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Remote {
    /// Where. It must be set.
    pub address: Option<SocketAddr>,
    /// The certificate of this node with its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates of the authorities that clients are signed by, PEM.
    pub client_ca: PathBuf,
    /// Connections at once.
    pub connections: u64,
    /// Connections of one identity at once.
    pub connections_per_identity: u64,
    /// Requests of one identity at once.
    pub requests_per_identity: u64,
    /// Seconds between two looks at the certificate files.
    pub reload_s: u64,
}

impl Default for Remote {
    fn default() -> Remote {
        Remote {
            address: None,
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: PathBuf::new(),
            connections: 64,
            connections_per_identity: 4,
            requests_per_identity: 8,
            reload_s: 60,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            socket: "/run/failsafe/failsafed.sock".into(),
            metrics: None,
            remote: None,
            notify: None,
            receive: None,
        }
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
    /// [`Mistakes`]: all of them, with file, line and field.
    pub fn load(path: &Path) -> Result<Config, Mistakes> {
        Config::load_with(path, |_| Vec::new())
    }

    /// The same; `more` finds further mistakes where no value is wrong.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(path: &Path, more: impl Fn(&Config) -> Vec<Wrong>) -> Result<Config, Mistakes> {
        let unread = |errors: Vec<failsafe_files::Unread>| {
            Mistakes(errors.iter().map(|e| format!("{}: cannot be read: {}", e.path.display(), e.source)).collect())
        };
        let texts = failsafe_files::read(path, false).map_err(unread)?;
        let wrong = |list: Vec<Diagnostics>| Mistakes(list.iter().map(ToString::to_string).collect());
        let merged = failsafe_files::merged(&texts, |config: &Config| {
            let wrong = config.wrong();
            if wrong.is_empty() { more(config) } else { wrong }
        });
        merged.map(|(config, _)| config).map_err(wrong)
    }

    /// What is missing or out of its range.
    fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if !self.socket.is_absolute() {
            let message = format!("expected an absolute path, not `{}`", self.socket.display());
            wrong.push(Wrong::new("socket", message));
        }
        wrong.extend(self.metrics.iter().flat_map(Metrics::wrong));
        if let Some(remote) = &self.remote {
            if remote.address.is_none() {
                wrong.push(Wrong::new("remote", "address: expected an address with a port, such as \"10.1.2.3:7443\""));
            }
            for (key, path) in
                [("certificate", &remote.certificate), ("key", &remote.key), ("client_ca", &remote.client_ca)]
            {
                if path.as_os_str().is_empty() {
                    wrong.push(Wrong::new("remote", format!("{key}: expected the path of a file in PEM")));
                }
            }
            wrong.extend(Wrong::outside([
                ("remote.connections", remote.connections, 1..=100),
                ("remote.connections_per_identity", remote.connections_per_identity, 1..=1_024),
                ("remote.requests_per_identity", remote.requests_per_identity, 1..=64),
                ("remote.reload_s", remote.reload_s, 1..=3_600),
            ]));
        }
        wrong.extend(self.notify.iter().flat_map(Notify::wrong));
        wrong.extend(self.receive.iter().flat_map(Receive::wrong));
        wrong
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
        let files = [
            ("gateway.toml", "sock = \"a\"\n[remote]\naddress = \"x\"\nconnections = \"many\"\n"),
            ("gateway.d/10.toml", "\n[metrics]\nadress = \"x\"\n"),
        ];
        let error = load(&files).unwrap_err();
        for expected in [
            "gateway.toml:1:1: sock: unknown field `sock`",
            "did you mean `socket`?",
            "gateway.toml:3:11: remote.address: ",
            "gateway.toml:4:15: remote.connections: expected a whole number",
            "gateway.d/10.toml:3:1: metrics.adress: unknown field `adress`",
        ] {
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let files = [("gateway.toml", "socket = \"a\"\n[remote]\n[metrics]\nconnections = 0\n[notify.target.a]\n")];
        let error = load(&files).unwrap_err();
        for expected in [
            "gateway.toml:1:10: socket: expected an absolute path, not `a`",
            "gateway.toml:2:2: remote: address: expected an address with a port",
            "gateway.toml:2:2: remote: client_ca: expected the path of a file in PEM",
            "gateway.toml:4:15: metrics.connections: expected 1 to 1024, not 0",
            "gateway.toml:5:16: notify.target.a: type: expected",
        ] {
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert!(load(&[]).unwrap_err().contains("gateway.toml: cannot be read"));
    }

    /// The keys of a table, as its error message lists them.
    fn keys(table: &str) -> Vec<String> {
        let error = toml::from_str::<Config>(&format!("{table}\nno_such_key = 1\n")).unwrap_err();
        let expected = error.message().split("expected one of").nth(1).unwrap().to_owned();
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_reference_has_every_key_and_no_other() {
        let tables = [
            ("", ""),
            ("[metrics]", "metrics."),
            ("[remote]", "remote."),
            ("[notify]", "notify."),
            ("[notify.target.NAME]", "notify.target.NAME."),
            ("[[notify.target.NAME.route]]", "notify.target.NAME.route."),
            ("[receive]", "receive."),
        ];
        let of = |(table, prefix): (&str, &str)| {
            let keys = keys(table).into_iter().map(|key| format!("{prefix}{key}")).collect::<Vec<_>>();
            keys.into_iter()
                .filter(|key| !["metrics", "remote", "notify", "receive"].contains(&key.as_str()))
                .collect::<Vec<_>>()
        };
        let mut all: Vec<String> = tables.into_iter().flat_map(of).collect();
        all.retain(|key| key != "notify.target" && key != "notify.target.NAME.route");
        let text = std::fs::read_to_string("../docs/gateway-configuration.md").unwrap();
        let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
        let mut named: Vec<String> = text.lines().filter_map(row).collect();
        all.sort();
        named.sort();
        assert_eq!(named, all);
    }

    #[test]
    fn the_shipped_file_is_valid_with_its_comments_as_settings() {
        let shipped = std::fs::read_to_string("../systemd/gateway.toml").unwrap();
        let setting =
            |line: &str| line.strip_prefix('#').filter(|it| !it.starts_with(' ') && !it.is_empty()).map(str::to_owned);
        let text: Vec<String> = shipped.lines().filter_map(setting).collect();
        load(&[("gateway.toml", &text.join("\n"))]).unwrap();
    }
}
