//! A message: what it says, and which targets get it. Every kind of target writes it in its own form.

use crate::config::{About, Route};
use failsafe_core::decision::{Mode, Severity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A message about an incident or about health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Identifies the message: it stays the same when the message is sent again.
    pub id: String,
    /// What it is about.
    pub about: About,
    /// The incident, or the part: messages with the same key are about the same.
    pub key: String,
    /// The node.
    pub node: String,
    /// How bad it is.
    pub severity: Severity,
    /// How bad it was in the first message with this key.
    pub first_severity: Severity,
    /// Whether it was carried out.
    pub mode: Mode,
    /// How it stands: that of the incident or the level of the part.
    pub standing: String,
    /// Nothing is left to do: the incident was thawed or its run ended, or the part is healthy.
    pub resolved: bool,
    /// There were messages with this key before.
    pub update: bool,
    /// Only for targets that keep alerts open: others have nothing to learn from it.
    pub closes_only: bool,
    /// When it began, nanoseconds since the epoch.
    pub began_ns: i64,
    /// When what it says was found, nanoseconds since the epoch.
    pub at_ns: i64,
    /// All of it in one line.
    pub summary: String,
    /// The run, where it is about one.
    pub run: Option<RunFacts>,
    /// The rule, where one made the first decision.
    pub rule: Option<String>,
    /// Why the rule exists.
    pub rationale: Option<String>,
    /// The condition that was met, or what else was the cause.
    pub condition: String,
    /// The values that were seen.
    pub values: Vec<String>,
    /// What was done, and what is proved of it.
    pub done: Vec<String>,
    /// Whom to call.
    pub contact: String,
    /// What to do, as the rule says it.
    pub playbook: Option<String>,
    /// The next command.
    pub next: String,
}

/// A run, as far as messages and routes need it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its owner; none: not known.
    pub owner_uid: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Name and version of its policy.
    pub policy: String,
    /// Nothing but its id is known: the log does not have its beginning any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

impl Message {
    /// Whether a target with these routes gets it. What is not known of a run matches: a message is rather sent than lost.
    pub fn goes_by(&self, routes: &[Route]) -> bool {
        self.about == About::Test || routes.is_empty() || routes.iter().any(|route| self.matches(route))
    }

    fn matches(&self, route: &Route) -> bool {
        let Route { severity, owners, labels, about, mode } = route;
        let of_run = match &self.run {
            None => owners.is_empty() && labels.is_empty(),
            Some(RunFacts { unknown: true, .. }) => true,
            Some(RunFacts { owner_uid, labels: has, .. }) => {
                (owners.is_empty() || owner_uid.is_none_or(|uid| owners.contains(&uid)))
                    && labels.iter().all(|(key, value)| has.get(key) == Some(value))
            }
        };
        of_run
            && severity.is_none_or(|least| self.severity >= least)
            && mode.is_none_or(|mode| self.mode == mode)
            && (about.is_empty() || about.contains(&self.about))
    }

    /// A message that says that it is a test.
    pub fn test(node: &str, contact: &str, now_ns: i64) -> Message {
        Message {
            id: format!("test/{now_ns}"),
            about: About::Test,
            key: "test".into(),
            node: node.into(),
            severity: Severity::Info,
            first_severity: Severity::Info,
            mode: Mode::Observe,
            standing: "noted".into(),
            resolved: false,
            update: false,
            closes_only: false,
            began_ns: now_ns,
            at_ns: now_ns,
            summary: format!("{node}: this is a test of the notifications of failsafe; nothing happened"),
            run: None,
            rule: None,
            rationale: None,
            condition: "somebody called failsafe-gateway notify test".into(),
            values: Vec::new(),
            done: Vec::new(),
            contact: contact.into(),
            playbook: None,
            next: "failsafectl node status".into(),
        }
    }

    /// Whose share of the queue it takes: the owner of the run, or the node.
    pub fn owner(&self) -> Option<u32> {
        self.run.as_ref().and_then(|run| run.owner_uid)
    }
}

/// Nanoseconds since the epoch as RFC 3339.
pub fn time(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| ns.to_string(), |time| time.to_string())
}

/// The name of a severity.
pub fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A message about a frozen run.
    pub fn frozen() -> Message {
        Message {
            about: About::Incident,
            key: "inc-5f0c9a1b2c3d-1".into(),
            severity: Severity::Critical,
            first_severity: Severity::Critical,
            mode: Mode::Enforce,
            standing: "contained".into(),
            run: Some(RunFacts {
                id: "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".into(),
                name: "trainer".into(),
                owner_uid: Some(1000),
                labels: [("team".to_owned(), "llm".to_owned())].into(),
                policy: "strict".into(),
                unknown: false,
            }),
            rule: Some("no-egress".into()),
            next: "failsafectl explain inc-5f0c9a1b2c3d-1".into(),
            ..Message::test("node7", "llm-oncall", 1_800_000_000_000_000_000)
        }
    }

    fn route(text: &str) -> Route {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_route_matches_when_all_that_it_sets_matches() {
        let message = frozen();
        for (text, matches) in [
            ("", true),
            ("severity = \"critical\"", true),
            ("owners = [1000]\nlabels = { team = \"llm\" }", true),
            ("owners = [1001, 1000]", true),
            ("owners = [1001]", false),
            ("labels = { team = \"vision\" }", false),
            ("labels = { team = \"llm\", stage = \"prod\" }", false),
            ("about = [\"health\"]", false),
            ("mode = \"observe\"", false),
        ] {
            assert_eq!(message.goes_by(&[route(text)]), matches, "{text}");
        }
        assert!(message.goes_by(&[]), "without routes, all messages");
        assert!(message.goes_by(&[route("owners = [1]"), route("about = [\"incident\"]")]), "one route is enough");
        let lesser = Message { severity: Severity::Warning, ..message.clone() };
        assert!(!lesser.goes_by(&[route("severity = \"critical\"")]));
        let health = Message { about: About::Health, run: None, ..message.clone() };
        assert!(!health.goes_by(&[route("owners = [1000]")]));
        // Of a run of which nothing is known, the message is rather sent than lost.
        let unknown = Message { run: Some(RunFacts { unknown: true, ..RunFacts::default() }), ..message.clone() };
        assert!(unknown.goes_by(&[route("owners = [1]\nlabels = { team = \"x\" }")]));
        // The same of an owner that is not known. The labels of the run are known.
        let run = message.run.clone().map(|run| RunFacts { owner_uid: None, ..run });
        let nobodys = Message { run, ..message };
        assert!(nobodys.goes_by(&[route("owners = [1]\nlabels = { team = \"llm\" }")]));
        assert!(!nobodys.goes_by(&[route("owners = [1]\nlabels = { team = \"x\" }")]));
    }
}
