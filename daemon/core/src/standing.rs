//! How an incident stands, from its decisions and their outcomes. failsafectl shows it, and the gateway sends a message when it
//! changes.

use crate::decision::{Action, Decision, Mode, Verdict};

/// How an incident stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncidentState {
    /// Nothing was to be contained: people were notified, or it was only observed.
    Noted,
    /// Decided; the outcome of these actions is not in the log.
    Pending(Vec<Action>),
    /// These actions are proved and stand.
    Contained(Vec<Action>),
    /// Something was not proved, with what.
    Partial(Vec<String>),
    /// Something failed, with why; and what else is not proved.
    Failed(Vec<String>),
    /// Thawed by an operator, and proved so.
    Thawed,
}

/// The actions of a decision that its incident stands on: those that contain, and a thaw. What is only observed has none.
pub fn steps(decision: &Decision) -> impl Iterator<Item = Action> {
    let carried_out = decision.mode == Mode::Enforce;
    decision.actions.iter().copied().filter(move |it| carried_out && (it.contains() || *it == Action::Thaw))
}

impl IncidentState {
    /// After these steps, in the order of their decisions, each with its last verdict. The last step of each action counts: a freeze
    /// that failed and was then proved is proved.
    pub fn after<'a>(steps: impl IntoIterator<Item = (Action, Option<&'a Verdict>)>) -> IncidentState {
        let mut last: Vec<(Action, Option<&Verdict>)> = Vec::new();
        for (action, verdict) in steps {
            if action == Action::Thaw && verdict == Some(&Verdict::Proved) {
                last.clear();
            }
            last.retain(|(known, _)| *known != action);
            last.push((action, verdict));
        }
        let of = |wanted: fn(&Verdict) -> Vec<String>| -> Vec<String> {
            let said = |(action, verdict): &(Action, Option<&Verdict>)| -> Vec<String> {
                verdict.map(wanted).unwrap_or_default().iter().map(|text| format!("{action}: {text}")).collect()
            };
            last.iter().flat_map(said).collect()
        };
        let failed = of(|v| if let Verdict::Failed(why) = v { vec![why.clone()] } else { Vec::new() });
        let partial = of(|v| if let Verdict::Partial(missing) = v { missing.clone() } else { Vec::new() });
        let pending: Vec<Action> = last.iter().filter(|(_, v)| v.is_none()).map(|(a, _)| *a).collect();
        if last.is_empty() {
            IncidentState::Noted
        } else if !failed.is_empty() {
            IncidentState::Failed([failed, partial].concat())
        } else if !partial.is_empty() {
            IncidentState::Partial(partial)
        } else if !pending.is_empty() {
            IncidentState::Pending(pending)
        } else if last.iter().all(|(a, _)| *a == Action::Thaw) {
            IncidentState::Thawed
        } else {
            IncidentState::Contained(last.iter().map(|(a, _)| *a).collect())
        }
    }

    /// The name in JSON and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            IncidentState::Noted => "noted",
            IncidentState::Pending(_) => "pending",
            IncidentState::Contained(_) => "contained",
            IncidentState::Partial(_) => "partial",
            IncidentState::Failed(_) => "failed",
            IncidentState::Thawed => "thawed",
        }
    }
}
