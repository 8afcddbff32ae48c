//! One incident, put together from the entries of its run: what opened it, what was decided and done, how it stands.
//! Pure: entries in, facts out; [`crate::render::explain`] makes the page.

use crate::entry::{Body, Logged};
pub use failsafe_core::standing::IncidentState;
use failsafe_core::{
    decision::{Action, Decision, IncidentId, Mode, Outcome, Verdict},
    input::Run,
    record::{Record, RuleText, Snapshot, Unwatched},
    standing,
    time::MonoTime,
};

/// The owner of a run of which it is not known: no user has this id.
const NO_UID: u32 = u32::MAX;

/// An incident.
#[derive(Debug)]
pub struct Incident<'a> {
    /// Its id.
    pub id: IncidentId,
    /// The run's id.
    pub run_id: String,
    /// The run as it was registered, where the log still has that.
    pub run: Option<&'a Run>,
    /// The owner of the run, also one that became known after the start; `None`: not known.
    pub owner_uid: Option<u32>,
    /// Name and version of the policy that it is pinned to.
    pub policy_name: Option<&'a str>,
    /// The decisions, the one that opened it first. Never empty.
    pub decisions: Vec<Decided<'a>>,
    /// All entries about it, in the order of the log.
    pub entries: Vec<&'a Logged>,
    /// When the run ended, if it did.
    pub ended: Option<&'a Logged>,
    /// How it stands at the end of the log.
    pub standing: IncidentState,
}

/// A decision with what came of it.
#[derive(Debug)]
pub struct Decided<'a> {
    /// Its entry.
    pub entry: &'a Logged,
    /// The decision.
    pub decision: &'a Decision,
    /// The rule's text, where a rule made it; what the policy has about it, where failsafed made it of itself.
    pub rule: Option<&'a RuleText>,
    /// What was not seen, where blindness made it; how a restart differs, where it is held.
    pub blind: Option<&'a str>,
    /// Its outcomes, in order.
    pub outcomes: Vec<(&'a Logged, &'a Outcome)>,
    /// Its evidence.
    pub evidence: Option<(&'a Logged, &'a Snapshot)>,
}

impl Decided<'_> {
    /// The instant of the input that caused it, and its wall time. Values that led to it can be much older: of an absent signal the last
    /// one that came, of a condition of several parts those that still held.
    pub fn began(&self) -> (MonoTime, i128) {
        let at = self.decision.at;
        (at, self.entry.wall_of(at))
    }
}

impl<'a> Incident<'a> {
    /// Gathers what the entries of the run say about the incident; `None` when they know none of that id.
    pub fn gather(id: IncidentId, entries: &'a [Logged]) -> Option<Incident<'a>> {
        let mut decisions: Vec<Decided<'a>> = Vec::new();
        for entry in entries {
            match entry.record() {
                Some(Record::Decision { decision, rule, blind, .. }) if decision.incident == id => {
                    let (rule, blind) = (rule.as_ref(), blind.as_deref());
                    decisions.push(Decided { entry, decision, rule, blind, outcomes: Vec::new(), evidence: None });
                }
                Some(Record::Outcome(outcome)) if outcome.incident == id => {
                    if let Some(decided) = decisions.iter_mut().find(|d| d.decision.id == outcome.decision) {
                        decided.outcomes.push((entry, outcome));
                    }
                }
                Some(Record::Evidence { decision, snapshot }) => {
                    let same_run = |d: &&mut Decided<'_>| d.entry.run == entry.run && d.decision.id.n == *decision;
                    if let Some(decided) = decisions.iter_mut().find(same_run) {
                        decided.evidence = Some((entry, snapshot));
                    }
                }
                _ => {}
            }
        }
        let run_id = decisions.first()?.decision.id.run;
        let (mut run, mut policy_name, mut ended, mut learnt) = (None, None, None, None);
        for entry in entries {
            match entry.record() {
                Some(Record::RunStarted { run: started, policy_name: name, .. }) if started.id == run_id => {
                    (run, policy_name) = (Some(started), Some(name.as_str()));
                }
                Some(Record::RunAdopted { run: adopted, .. }) if adopted.id == run_id && run.is_none() => {
                    run = Some(adopted);
                }
                Some(Record::RunOwner { run, owner_uid, .. }) if *run == run_id => learnt = Some(*owner_uid),
                Some(Record::RunEnded { run, .. }) if *run == run_id => ended = Some(entry),
                _ => {}
            }
        }
        let entries = entries.iter().filter(|e| belongs(e, id, &decisions)).collect();
        let standing = standing(&decisions);
        let owner_uid = run.map(|run: &Run| run.owner_uid).filter(|uid| *uid != NO_UID).or(learnt);
        let run_id = run_id.to_string();
        Some(Incident { id, run_id, run, owner_uid, policy_name, decisions, entries, ended, standing })
    }

    /// The decision that opened it.
    pub fn opened_by(&self) -> &Decided<'a> {
        &self.decisions[0]
    }

    /// The instant of the violating signal, and its wall time.
    pub fn zero(&self) -> (MonoTime, i128) {
        self.opened_by().began()
    }

    /// What was carried out and contains, each once, in order.
    pub fn containments(&self) -> Vec<Action> {
        let mut out: Vec<Action> = Vec::new();
        for action in
            self.decisions.iter().filter(|d| d.decision.mode == Mode::Enforce).flat_map(|d| &d.decision.actions)
        {
            if action.contains() && !out.contains(action) {
                out.push(*action);
            }
        }
        out
    }

    /// Between which times the run ended, where no daemon watched that.
    pub fn unwatched(&self) -> Option<&'a Unwatched> {
        match self.ended?.record()? {
            Record::RunEnded { unwatched, .. } => unwatched.as_ref(),
            _ => None,
        }
    }

    /// The run's name, or what of its id tells it apart.
    pub fn run_name(&self) -> String {
        self.run.map_or_else(|| crate::text::short(&self.run_id), |run| run.name.clone())
    }
}

fn belongs(entry: &Logged, id: IncidentId, decisions: &[Decided<'_>]) -> bool {
    let run = decisions[0].entry.run.as_ref();
    match &entry.body {
        Body::Known(record) => match &**record {
            Record::Control(control) => {
                entry.run.as_ref() == run && decisions.iter().any(|d| d.decision.because.contains(&control.seq))
            }
            Record::Decision { decision, .. } => decision.incident == id,
            Record::Outcome(outcome) => outcome.incident == id,
            Record::Evidence { decision, .. } => {
                entry.run.as_ref() == run && decisions.iter().any(|d| d.decision.id.n == *decision)
            }
            _ => false,
        },
        Body::Other(_) => entry.incident.as_deref() == Some(id.to_string().as_str()),
    }
}

/// How the incident of these decisions stands.
pub(crate) fn standing(decisions: &[Decided<'_>]) -> IncidentState {
    fn last<'d>(decided: &'d Decided<'_>, action: Action) -> Option<&'d Verdict> {
        let of_action = decided.outcomes.iter().rev().find(|(_, outcome)| outcome.action == action);
        of_action.map(|(_, outcome)| &outcome.verdict)
    }
    let all = decisions.iter().flat_map(|decided| {
        let steps = standing::steps(decided.decision);
        steps.map(move |action| (action, last(decided, action))).collect::<Vec<_>>()
    });
    IncidentState::after(all)
}
