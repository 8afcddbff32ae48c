//! What to do next: commands, with what each does.

use super::{Page, WIDTH, notes};
use crate::{incident::IncidentState, render::fill};
use failsafe_core::decision::Cause;

impl Page<'_> {
    pub(super) fn next(&self, full: bool) -> String {
        let incident = self.incident;
        let run = &incident.run_id;
        let mut lines: Vec<(String, &str)> = Vec::new();
        if let Some(playbook) = incident.opened_by().rule.and_then(|rule| rule.playbook.clone()) {
            let of_rule = matches!(incident.opened_by().decision.cause, Cause::Rule { .. });
            let what = if of_rule { "the rule's playbook: read it first" } else { "the playbook: read it first" };
            lines.push((playbook, what));
        }
        let live = incident.ended.is_none();
        let contained = !matches!(incident.standing, IncidentState::Noted | IncidentState::Thawed);
        let unproved = matches!(
            incident.standing,
            IncidentState::Partial(_) | IncidentState::Failed(_) | IncidentState::Pending(_)
        );
        if live && unproved {
            lines.push((format!("failsafectl freeze {run} --reason TEXT"), "try again what is not proved"));
        }
        let after = notes::after_thaw(incident.opened_by().decision);
        if live && contained {
            if self.may.thaw {
                let thaw = match &after {
                    Some(notes::AfterThaw::FrozenAgain(_)) => "DOES NOT HELP: see below",
                    Some(notes::AfterThaw::Disarmed(_)) => "let the run continue WITHOUT THE RULE: see below",
                    None => "let the run continue (removes freeze, latch and block)",
                };
                lines.push((format!("failsafectl thaw {run} --reason TEXT"), thaw));
                if self.may.kill {
                    lines.push((format!("failsafectl kill {run} --reason TEXT"), "end it"));
                }
            } else {
                let ask = "ask root or the administrators' group to thaw or kill it";
                lines.push((ask.to_owned(), "you may not"));
            }
        }
        for undo in notes::undo_cordons(incident) {
            lines.push((undo, "place new runs there again"));
        }
        lines.push((format!("failsafectl describe {run}"), "how the run stands now"));
        if full {
            lines.push((format!("failsafectl replay {run}"), "the same inputs give the same decisions"));
            lines.push((format!("failsafectl replay {run} --policy FILE"), "what another policy would have decided"));
            lines.push((format!("failsafectl events --incident {}", incident.id), "every entry about it"));
            lines.push(("failsafectl log verify".to_owned(), "verify that the audit log was not changed"));
        } else {
            lines.push((
                format!("failsafectl explain {} --full", incident.id),
                "timeline, proofs, processes, last signals",
            ));
        }
        let width = lines.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
        let mut out: String = lines.iter().map(|(left, right)| format!("  {left:width$}  {right}\n")).collect();
        if let Some(after) = after.filter(|_| live && contained) {
            out.extend(fill(after.text(), WIDTH - 2).iter().map(|line| format!("  {line}\n")));
        }
        out
    }
}
