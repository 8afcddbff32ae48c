//! The account of what a run sent: the kernel's counters, its budgets, and the destinations of its events.

use super::{LiveRun, Registry, switch::SeenModes};
use crate::sensors::ebpf::RunCounters;
use failsafe_core::{
    Mode, Policy,
    egress::{Account, Attempts, BudgetUse, Connections},
    record::Totals,
};
use std::sync::PoisonError;

impl Registry {
    /// The account of a live run, now. Takes the kernel's lock: not on a thread that freezes.
    pub fn account(&self, live: &LiveRun) -> Account {
        let totals = self.kernel.totals(live.slot, live.epoch).map(|counted| RunCounters::from(counted).totals());
        let count = live.policy.egress.as_ref().map_or(0, |egress| egress.budgets.len());
        let used = self.kernel.budgets_used(live.slot, live.epoch, count);
        let (destinations, others) = live.tally.lock().unwrap_or_else(PoisonError::into_inner).lines();
        let seen = self.seen_modes(live);
        let mut account = of_policy(&live.policy, used.as_deref(), Some(seen));
        (account.totals, account.destinations, account.others) = (totals, destinations, others);
        account.gaps = gaps(&account, (live.part > 0).then_some(seen), count > 0 && used.is_none());
        account
    }
}

/// The account of a run of which only the totals are known.
pub fn of_totals(policy: Option<&Policy>, totals: Option<Totals>, why: &str) -> Account {
    let mut account = match policy {
        Some(policy) => of_policy(policy, None, None),
        None => Account {
            mode: "not known".to_owned(),
            totals: None,
            budgets: Vec::new(),
            connections: Connections::NotCounted,
            destinations: Vec::new(),
            others: Attempts::default(),
            gaps: Vec::new(),
        },
    };
    account.budgets.clear();
    account.totals = totals;
    account.gaps = vec![format!("destinations and budgets are not known: {why}")];
    account.gaps.extend(gaps(&account, None, false));
    account
}

/// In which mode the kernel had the allow-list. `seen`: the modes in which it had the run, where that is known.
fn mode_of(policy: &Policy, seen: Option<SeenModes>) -> &'static str {
    match (policy.egress.as_ref().map(|egress| egress.mode), seen) {
        (None, _) => "none",
        (Some(Mode::Observe), _) => "observe",
        (Some(Mode::Enforce), None) => "not known",
        (Some(Mode::Enforce), Some(SeenModes { observed: false, .. })) => "enforce",
        (Some(Mode::Enforce), Some(SeenModes { enforced: false, .. })) => "observe",
        (Some(Mode::Enforce), Some(_)) => "changed",
    }
}

fn of_policy(policy: &Policy, used: Option<&[(u64, u64)]>, seen: Option<SeenModes>) -> Account {
    let budgets = policy.egress.iter().flat_map(|egress| &egress.budgets).zip(used.unwrap_or_default());
    let budgets = budgets.map(|(budget, (bytes, dropped))| BudgetUse {
        name: budget.name.clone(),
        to: budget.to.iter().map(ToString::to_string).collect(),
        limit: budget.bytes,
        rate: budget.rate,
        bytes: *bytes,
        dropped: *dropped,
    });
    let counted = failsafe_matchers::compile::watch(policy).connect;
    Account {
        mode: mode_of(policy, seen).to_owned(),
        totals: None,
        budgets: budgets.collect(),
        connections: if counted { Connections::Counted } else { Connections::NotCounted },
        destinations: Vec::new(),
        others: Attempts::default(),
        gaps: Vec::new(),
    }
}

/// `restarted`: an earlier daemon had the run, and what is known of its modes.
fn gaps(account: &Account, restarted: Option<SeenModes>, budgets_unread: bool) -> Vec<String> {
    let mut gaps = Vec::new();
    match account.totals {
        None => gaps.push("the kernel's counters could not be read".to_owned()),
        Some(totals) => {
            if totals.events_lost > 0 {
                gaps.push(format!("{} events were lost: attempts among them are not counted", totals.events_lost));
            }
            if totals.untracked > 0 {
                gaps.push(format!("{} processes were not tracked", totals.untracked));
            }
        }
    }
    if let Some(seen) = restarted {
        let what = match seen.unknown {
            true => "attempts by destination, packets beyond budgets and the mode are those since then",
            false => "attempts by destination and packets beyond budgets are those since then",
        };
        gaps.push(format!("the daemon was restarted: {what}"));
    }
    if budgets_unread {
        gaps.push("the budgets could not be read".to_owned());
    }
    if account.connections == Connections::NotCounted {
        let why = "allowed connections are not counted by destination: no rule of the policy watches `connect`";
        gaps.push(why.to_owned());
    }
    gaps.push("bytes are counted by budget and in all, not by destination".to_owned());
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        let head = "[policy]\nname = \"p\"\nowner = \"o\"\n";
        failsafe_core::policy::parse::parse("p", &format!("{head}{text}")).unwrap()
    }

    #[test]
    fn an_allow_list_that_was_only_observed_is_never_called_enforced() {
        let closed = policy("[egress]\nmode = \"enforce\"\nallow = [{ cidr = \"10.0.0.0/8\" }]\n");
        let mode = |policy, enforced, observed| mode_of(policy, Some(SeenModes { enforced, observed, unknown: false }));
        assert_eq!(mode(&closed, true, false), "enforce");
        assert_eq!(mode(&closed, false, true), "observe");
        assert_eq!(mode(&closed, true, true), "changed");
        assert_eq!(mode(&policy(""), false, true), "none");
        assert_eq!(of_totals(Some(&closed), None, "x").mode, "not known");
    }

    #[test]
    fn the_account_names_the_budgets_of_the_policy_and_what_is_not_counted() {
        let text = "[egress]\nmode = \"enforce\"\nallow = [{ cidr = \"10.0.0.0/8\" }]\n\
                    [[egress.budget]]\nname = \"store\"\nto = [\"10.0.0.0/8\"]\nbytes = \"1 MiB\"\n";
        let enforced = SeenModes { enforced: true, ..SeenModes::default() };
        let account = of_policy(&policy(text), Some(&[(700, 3)]), Some(enforced));
        assert_eq!((account.mode.as_str(), account.connections), ("enforce", Connections::NotCounted));
        let [budget] = &account.budgets[..] else { panic!("{account:?}") };
        assert_eq!(
            (budget.name.as_str(), budget.limit, budget.bytes, budget.dropped),
            ("store", Some(1 << 20), 700, 3)
        );
        let unknown = SeenModes { unknown: true, ..enforced };
        let mode_gap = |seen| gaps(&account, seen, false).iter().any(|gap| gap.contains("and the mode are those"));
        assert_eq!([Some(unknown), Some(enforced), None].map(mode_gap), [true, false, false]);
        let shown = gaps(&account, Some(unknown), false).join("; ");
        for gap in ["counters could not be read", "restarted", "no rule of the policy watches `connect`"] {
            assert!(shown.contains(gap), "{shown}");
        }
    }

    #[test]
    fn allowed_connections_count_where_a_rule_watches_them() {
        let rule = "[[rule]]\nid = \"c\"\nrationale = \"r\"\nowner = \"o\"\nwhen = { event = \"connect\" }\nactions = [\"notify\"]\n";
        let account = of_policy(&policy(rule), None, None);
        assert_eq!((account.mode.as_str(), account.connections), ("none", Connections::Counted));
        assert!(!gaps(&account, None, false).join(";").contains("no rule"));
        let lost = Totals { events_lost: 7, ..Totals::default() };
        let account = of_totals(None, Some(lost), "no daemon watched the end");
        assert!(account.gaps[0].contains("no daemon watched") && account.gaps[1].contains("7 events were lost"));
    }
}
