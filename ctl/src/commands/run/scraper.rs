//! The scrapers of `--scrape`: processes of the run, started by `scrape --detach` when the run exists and this process has become its
//! user. They end with the command.
//!
//! A scraper connects and is executed under the policy of the run. What the policy would do with these two calls is asked before the
//! run is started, with the matchers of `policy would`: a run must not be stopped by its own scraper.

use crate::{
    args::{Endpoint, RunScrape},
    client::{Client, block_on},
    commands::{Place, named::Asked, scrape},
    exit::{Exit, Fail},
    render::clean,
};
use failsafe_core::{
    Policy,
    policy::parse::{self, Checked},
};
use failsafe_matchers::{
    egress::TCP,
    would::{Answer, Call, Destination, Would, would},
};
use failsafe_proto::v1 as pb;
use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// Most ports of a run.
const MOST: usize = 16;
/// Variables that a scraper reads.
const VARIABLES: [&str; 2] = ["FAILSAFE_METRICS_SOCKET", "RANK"];

/// Refuses what the policy of a new run refuses.
pub(super) fn check(place: &Place<'_>, wanted: &RunScrape, asked: &Asked) -> Result<(), Fail> {
    check_by(wanted, || match &asked.policy {
        Some(policy) => Some(policy.clone()),
        // The daemon reports what is wrong with a policy of the node that cannot be read here.
        None => named(place, &asked.name),
    })
}

/// Refuses what the policy of an ended run refuses, which the run is started again with.
pub(super) fn check_again(wanted: &RunScrape, of: &pb::RerunPlan) -> Result<(), Fail> {
    if wanted.is_asked() && of.policy.is_empty() {
        return Err(Fail::usage("--scrape: failsafed does not say which policy the run has: remove --scrape"));
    }
    let mut unread = None;
    check_by(wanted, || serde_json::from_slice(&of.policy).map_err(|error| unread = Some(error)).ok())?;
    match unread {
        None => Ok(()),
        Some(error) => Err(Fail::because("--scrape: the policy of the run cannot be read", &error)),
    }
}

/// Without a policy, only the number is bounded.
fn check_by(wanted: &RunScrape, policy: impl FnOnce() -> Option<Policy>) -> Result<(), Fail> {
    if wanted.endpoints.len() > MOST {
        return Err(Fail::usage(format!("--scrape is given {} times (limit {MOST})", wanted.endpoints.len())));
    }
    if !wanted.is_asked() {
        return Ok(());
    }
    let Some(policy) = &policy() else { return Ok(()) };
    let itself = super::watch::itself()?;
    let refused =
        |what: String, why: String, advice: String| Err(Fail::usage(format!("--scrape: {what}: {why}")).advise(advice));
    if let Some(why) = objection(&would(policy, &Call::Exec(itself.display().to_string()))) {
        let what = format!("the policy does not let the run execute {}", itself.display());
        return refused(what, why, format!("add {} to [exec], or remove --scrape", itself.display()));
    }
    for endpoint in &wanted.endpoints {
        let Endpoint { address, .. } = endpoint;
        let call = Call::Connect { to: Destination::Address(address.ip()), port: address.port(), protocol: TCP };
        if let Some(why) = objection(&would(policy, &call)) {
            return refused(format!("the policy refuses {endpoint} to the run"), why, scrape::allowed(endpoint));
        }
    }
    Ok(())
}

/// Why a call is not to be made under the policy.
fn objection(would: &Would<'_>) -> Option<String> {
    let by = || would.by.iter().map(|by| clean(by)).collect::<Vec<_>>().join(", ");
    match would.answer {
        Answer::Denied => Some(format!("denied by {}", by())),
        Answer::Stopped => Some(format!("denied, and the run is stopped, by {}", by())),
        Answer::WouldDeny => Some(format!("recorded as what would be denied, by {}", by())),
        Answer::Allowed | Answer::Depends(_) => {
            let contains =
                would.matches.iter().find(|(rule, enough)| *enough && rule.actions.iter().any(|it| it.contains()));
            contains.map(|(rule, _)| format!("rule {} acts on it", clean(&rule.id)))
        }
    }
}

/// A policy of the node, if this caller may see it.
fn named(place: &Place<'_>, name: &str) -> Option<Policy> {
    let asked = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.policies().show(pb::ShowPolicyRequest { name: name.to_owned() }).await?.into_inner())
    });
    let Checked { policy, .. } = parse::check(name, &asked.ok()?.toml).ok()?;
    Some(policy)
}

/// Starts them. This process is one of the run already, and has the rights of its user. `alone`: nothing of the environment passes to
/// the command.
pub(super) fn start(wanted: &RunScrape, command: &Command, alone: bool) -> Result<(), Fail> {
    for endpoint in &wanted.endpoints {
        let mut scraper = Command::new(scrape::ITSELF);
        scraper.arg0("failsafectl");
        if alone {
            scraper.env_clear();
        }
        for (name, value) in command.get_envs().filter(|(name, _)| VARIABLES.iter().any(|known| name == known)) {
            match value {
                Some(value) => scraper.env(name, value),
                None => scraper.env_remove(name),
            };
        }
        scraper.args(["scrape", &endpoint.to_string(), "--detach", "--every"]);
        scraper.arg(format!("{}ms", wanted.every.as_millis()));
        scraper.args(wanted.only.iter().flat_map(|name| ["--name", name]));
        let status = scraper.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status =
            status.map_err(|error| Fail::because(format!("cannot start the scraper of {endpoint}"), &error))?;
        if !status.success() {
            // It printed why.
            return Err(Fail::new(
                Exit::Error,
                format!("the scraper of {endpoint} did not start: the command is not started"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(sections: &str) -> Policy {
        let text = format!("[policy]\nname = \"p\"\nowner = \"o\"\n{sections}");
        parse::check("p", &text).unwrap().policy
    }

    fn connect(policy: &Policy) -> Option<String> {
        let to = Destination::Address("127.0.0.1".parse().unwrap());
        objection(&would(policy, &Call::Connect { to, port: 9400, protocol: TCP }))
    }

    #[test]
    fn a_port_that_the_policy_refuses_or_acts_on_is_an_objection() {
        assert_eq!(connect(&policy("")), None);
        let allow = "[egress]\nallow = [{ cidr = \"127.0.0.1/32\", ports = [9400], protocol = \"tcp\" }]\n";
        assert_eq!(connect(&policy(allow)), None);
        let other = "[egress]\nallow = [{ cidr = \"10.0.0.0/8\", ports = [443], protocol = \"tcp\" }]\n";
        assert_eq!(connect(&policy(other)), Some("denied by [egress]".to_owned()));
        let observes = other.replace("[egress]", "[egress]\nmode = \"observe\"");
        assert!(connect(&policy(&observes)).unwrap().starts_with("recorded"));
        let rule = |actions: &str| {
            format!(
                "[[rule]]\nid = \"calls\"\nrationale = \"r\"\nwhen = {{ event = \"connect\" }}\nactions = [{actions}]\n"
            )
        };
        assert_eq!(connect(&policy(&rule("\"notify\""))), None);
        assert_eq!(connect(&policy(&rule("\"freeze\", \"notify\""))), Some("rule calls acts on it".to_owned()));
    }

    #[test]
    fn a_list_of_programs_without_failsafectl_is_an_objection() {
        let exec = |path: &str| {
            let policy = policy("[exec]\nallow = [\"/usr/bin/python3\"]\n");
            objection(&would(&policy, &Call::Exec(path.to_owned())))
        };
        assert_eq!(exec("/usr/bin/python3"), None);
        assert_eq!(exec("/usr/bin/failsafectl"), Some("denied by [exec]".to_owned()));
    }
}
