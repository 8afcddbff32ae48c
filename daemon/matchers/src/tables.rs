//! A policy in the form that the kernel's maps take.

use std::collections::BTreeMap;

use failsafe_ebpf::abi;

use crate::egress::{EgressError, EgressPolicy, EgressRule, Folded, fold};
use crate::fold::FoldedRules;
use crate::hosts::{BudgetRule, FoldedHosts, fold_hosts};
use crate::rules::{Effect, Rules};

/// What the run may reach, as errors call it.
pub const ALLOW: &str = "egress allow-list";

/// What is in the maps under the run's table.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// The allow-list.
    pub egress: Folded,
    /// Paths, files, devices and socket families.
    pub rules: FoldedRules,
    /// Names of hosts, and the name servers.
    pub hosts: FoldedHosts,
    /// What rules say of addresses, by [`abi::table`].
    pub beside: BTreeMap<u32, Folded>,
    /// Budgets, in the order of their classes.
    pub budgets: Vec<BudgetRule>,
}

impl Tables {
    /// From a policy's allow-list and rules; `folded` is the part of them that is on files and devices.
    ///
    /// # Errors
    /// A list that does not fit.
    pub fn new(egress: &EgressPolicy, rules: &Rules, folded: FoldedRules) -> Result<Tables, EgressError> {
        Ok(Tables {
            egress: fold(&egress.rules).map_err(EgressError::of(ALLOW))?,
            rules: folded,
            beside: beside(rules)?,
            hosts: fold_hosts(&rules.hosts, &rules.names, &rules.dns_servers).map_err(EgressError::of(ALLOW))?,
            budgets: rules.budgets.clone(),
        })
    }
}

/// The lists of what rules say of addresses; an empty one is left out.
///
/// # Errors
/// A list that does not fit.
pub fn beside(rules: &Rules) -> Result<BTreeMap<u32, Folded>, EgressError> {
    let from = |all: &[(EgressRule, Effect)], least| -> Vec<EgressRule> {
        all.iter().filter(|(_, effect)| *effect >= least).map(|(rule, _)| rule.clone()).collect()
    };
    let lists = [
        (abi::table::NET_DENIED, "rules on connect and send", rules.net_denied.clone()),
        (abi::table::NET_STOPS, "rules on connect and send", rules.net_stops.clone()),
        (abi::table::BIND_DENIED, "rules on bind", from(&rules.bind, Effect::Deny)),
        (abi::table::BIND_STOPS, "rules on bind", from(&rules.bind, Effect::Stop)),
        (abi::table::LISTEN_TOLD, "rules on listen", from(&rules.listen, Effect::Observe)),
        (abi::table::LISTEN_DENIED, "rules on listen", from(&rules.listen, Effect::Deny)),
        (abi::table::LISTEN_STOPS, "rules on listen", from(&rules.listen, Effect::Stop)),
    ];
    let given = lists.into_iter().filter(|(_, _, list)| !list.is_empty());
    given.map(|(table, of, list)| Ok((table, fold(&list).map_err(EgressError::of(of))?))).collect()
}
