//! `[notify]`: to whom notifications are sent, and which ones.

use failsafe_core::decision::{Mode, Severity};
use failsafe_files::Wrong;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Targets at most.
const TARGETS: usize = 32;

/// `[notify]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// The folder of the queue; empty: that of systemd (`StateDirectory=`), or `/var/lib/failsafe-gateway`.
    pub state_dir: PathBuf,
    /// The name of the node in messages; empty: its host name.
    pub node: String,
    /// Whom to call where no rule names an owner.
    pub contact: String,
    /// Where messages are sent, by name.
    pub target: BTreeMap<String, Target>,
}

/// A kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// HTTP POST of a CloudEvent.
    Webhook,
    /// Alertmanager, `/api/v2/alerts`.
    Alertmanager,
    /// PagerDuty, Events API v2.
    Pagerduty,
    /// A program.
    Exec,
    /// The journal of systemd.
    Journald,
}

/// `[notify.target.NAME]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: Option<Kind>,
    /// Where to send to, over HTTP.
    pub url: String,
    /// The file with its secret: absolute, or the name of a systemd credential.
    pub secret_file: PathBuf,
    /// Certificates of the authorities that its server is signed by, PEM; empty: those of the system.
    pub ca_file: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The socket of the journal.
    pub socket: PathBuf,
    /// Longest time of one attempt, in seconds.
    pub timeout_s: u64,
    /// A message is tried for as long, in hours.
    pub keep_h: u64,
    /// Messages that wait at most.
    pub queue_entries: u64,
    /// Their size at most, in KiB.
    pub queue_kib: u64,
    /// Which messages it gets: those that one of them matches; none: all.
    pub route: Vec<Route>,
}

impl Default for Target {
    fn default() -> Target {
        Target {
            kind: None,
            url: String::new(),
            secret_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            command: Vec::new(),
            socket: "/run/systemd/journal/socket".into(),
            timeout_s: 10,
            keep_h: 24,
            queue_entries: 1_000,
            queue_kib: 4_096,
            route: Vec::new(),
        }
    }
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// An incident of a run.
    Incident,
    /// The health of the node or of a GPU.
    Health,
    /// A test of the target.
    Test,
}

/// `[[notify.target.NAME.route]]`: all that is set must match.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// The least severity.
    pub severity: Option<Severity>,
    /// User ids of owners of runs, one of which must be the run's.
    pub owners: Vec<u32>,
    /// Labels that the run must have.
    pub labels: BTreeMap<String, String>,
    /// What it is about.
    pub about: Vec<About>,
    /// What was carried out, or what was only observed.
    pub mode: Option<Mode>,
}

impl Target {
    /// Longest time of one attempt.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }

    /// The values that are wrong, as fields of `[notify.target.NAME]`.
    fn wrong(&self, name: &str) -> Vec<Wrong> {
        let field = |key: &str| format!("notify.target.{name}.{key}");
        let mut wrong = Wrong::outside([
            (field("timeout_s"), self.timeout_s, 1..=300),
            (field("keep_h"), self.keep_h, 1..=720),
            (field("queue_entries"), self.queue_entries, 1..=10_000),
            (field("queue_kib"), self.queue_kib, 64..=16_384),
        ]);
        let Some(kind) = self.kind else {
            let message = "type: expected `webhook`, `alertmanager`, `pagerduty`, `exec` or `journald`";
            wrong.push(Wrong::new(format!("notify.target.{name}"), message));
            return wrong;
        };
        let over_http = matches!(kind, Kind::Webhook | Kind::Alertmanager | Kind::Pagerduty);
        let set = |path: &Path| !path.as_os_str().is_empty();
        let kinds = "only targets of type";
        for (key, is_set, fits, of) in [
            ("url", !self.url.is_empty(), over_http, "webhook, alertmanager and pagerduty"),
            ("secret_file", set(&self.secret_file), over_http, "webhook, alertmanager and pagerduty"),
            ("ca_file", set(&self.ca_file), over_http, "webhook, alertmanager and pagerduty"),
            ("command", !self.command.is_empty(), kind == Kind::Exec, "exec"),
            ("socket", self.socket != Target::default().socket, kind == Kind::Journald, "journald"),
        ] {
            if is_set && !fits {
                wrong.push(Wrong::new(field(key), format!("{kinds} {of} have it")));
            }
        }
        if over_http && (kind != Kind::Pagerduty || !self.url.is_empty()) {
            let secret = set(&self.secret_file);
            if let Err(message) = crate::notify::http::Url::parse(&self.url, secret || kind == Kind::Pagerduty) {
                wrong.push(Wrong::new(field("url"), message));
            }
        }
        if kind == Kind::Pagerduty && !set(&self.secret_file) {
            wrong.push(Wrong::new(field("secret_file"), "expected the file with the routing key (integration key)"));
        }
        if kind == Kind::Exec && self.command.first().is_none_or(|program| !program.starts_with('/')) {
            wrong.push(Wrong::new(
                field("command"),
                "expected a list: the absolute path of a program, and its arguments",
            ));
        }
        for (key, path) in [("ca_file", &self.ca_file), ("socket", &self.socket)] {
            if set(path) && !path.is_absolute() {
                wrong.push(Wrong::new(field(key), format!("expected an absolute path, not `{}`", path.display())));
            }
        }
        let parts = self.secret_file.components().count();
        if set(&self.secret_file) && !self.secret_file.is_absolute() && parts != 1 {
            let message = "expected an absolute path, or the name of a systemd credential";
            wrong.push(Wrong::new(field("secret_file"), message));
        }
        if self.route.iter().any(|route| route.about.contains(&About::Test)) {
            wrong.push(Wrong::new(
                field("route"),
                "about: expected `incident` or `health`; a test is sent without a route",
            ));
        }
        wrong
    }
}

impl Notify {
    /// The values that are wrong.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if !self.state_dir.as_os_str().is_empty() && !self.state_dir.is_absolute() {
            let message = format!("expected an absolute path, not `{}`", self.state_dir.display());
            wrong.push(Wrong::new("notify.state_dir", message));
        }
        for (key, text) in [("notify.node", &self.node), ("notify.contact", &self.contact)] {
            if text.len() > 256 {
                wrong.push(Wrong::new(key, "expected at most 256 bytes"));
            }
        }
        if self.target.len() > TARGETS {
            wrong.push(Wrong::new("notify.target", format!("expected at most {TARGETS} targets")));
        }
        for (name, target) in &self.target {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
                let message = "name: expected 1 to 64 letters, digits, `-` and `_`";
                wrong.push(Wrong::new(format!("notify.target.{name}"), message));
            }
            wrong.extend(target.wrong(name));
        }
        wrong
    }

    /// The folder of the queue.
    pub fn folder(&self) -> PathBuf {
        if !self.state_dir.as_os_str().is_empty() {
            return self.state_dir.clone();
        }
        let of_systemd = std::env::var_os("STATE_DIRECTORY").filter(|folder| !folder.is_empty());
        of_systemd.map_or_else(|| "/var/lib/failsafe-gateway".into(), PathBuf::from)
    }

    /// The name of the node.
    pub fn node_name(&self) -> String {
        if !self.node.is_empty() {
            return self.node.clone();
        }
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        name.unwrap_or_else(|| "unknown".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Vec<String> {
        let notify: Notify = toml::from_str(text).unwrap();
        notify.wrong().into_iter().map(|it| format!("{}: {}", it.field, it.message)).collect()
    }

    #[test]
    fn every_wrong_value_of_a_target_is_found() {
        assert_eq!(wrong("[target.a]\ntype = \"webhook\"\nurl = \"https://a.example.org/\""), Vec::<String>::new());
        let all = wrong(
            "contact = \"a\"\nstate_dir = \"b\"\n[target.\"a b\"]\ntype = \"journald\"\nurl = \"https://a/\"\n\
             [target.c]\n[target.d]\ntype = \"exec\"\ncommand = [\"sh\"]\ntimeout_s = 0\nqueue_entries = 0\n\
             [target.e]\ntype = \"pagerduty\"\nurl = \"http://a.example.org/\"\n\
             [target.f]\ntype = \"alertmanager\"\nurl = \"http://a:9093\"\nsecret_file = \"a/b\"\nca_file = \"c\"",
        );
        for expected in [
            "notify.state_dir: expected an absolute path",
            "notify.target.a b: name: expected",
            "notify.target.a b.url: only targets of type webhook, alertmanager and pagerduty have it",
            "notify.target.c: type: expected",
            "notify.target.d.command: expected a list",
            "notify.target.d.timeout_s: expected 1 to 300, not 0",
            "notify.target.d.queue_entries: expected 1 to 10000, not 0",
            "notify.target.e.url: expected https",
            "notify.target.e.secret_file: expected the file with the routing key",
            "notify.target.f.url: expected https",
            "notify.target.f.secret_file: expected an absolute path, or the name",
            "notify.target.f.ca_file: expected an absolute path",
        ] {
            assert!(all.iter().any(|it| it.starts_with(expected)), "{expected}: {all:#?}");
        }
        assert_eq!(all.len(), 12, "{all:#?}");
    }
}
