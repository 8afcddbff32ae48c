//! The page of an incident. One screen shows what happened, why, the state and what to do next; the full page adds the
//! timeline, the proofs, the evidence and what was not reached.

mod evidence;
mod next;
pub mod notes;
mod sections;
mod sentences;

pub use sentences::{confidence, headline, in_brief, in_few_words, in_words, severity};

use super::{Paint, clean, count, decision, fill, table, time};
use crate::{
    incident::{Decided, Incident, IncidentState},
    incidents::Brief,
};
use failsafe_core::decision::{Action, Cause};
use jiff::tz::TimeZone;
use sections::{done, facts, leaks, owner, saw, timeline, why};
use sentences::standing;
use std::fmt::Write;

/// The width of paragraphs.
const WIDTH: usize = 100;

/// What the page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// The incident.
    pub incident: &'a Incident<'a>,
    /// All incidents of its run that are known, in the order in which they began.
    pub others: &'a [Brief<'a>],
    /// What the reader may do about the run.
    pub may: May,
    /// The kernel denies what leaves the run, by a decision or by the latch of a stop rule.
    pub blocked: bool,
    /// The reader's time zone.
    pub zone: &'a TimeZone,
    /// Colours.
    pub paint: Paint,
}

/// What the reader may do about a run. Its owner may not kill it, and may thaw only what nobody else froze.
#[derive(Debug, Clone, Copy, Default)]
pub struct May {
    /// Whether the reader may thaw it.
    pub thaw: bool,
    /// Whether the reader may kill it.
    pub kill: bool,
}

/// Lines of the rationale that one screen has room for.
const RATIONALE: usize = 3;
/// Values, later decisions and other incidents that one screen has room for, of each.
const ROWS: usize = 2;

impl Page<'_> {
    /// One screen: what happened, why, how it stands, what to do next.
    pub fn screen(&self) -> String {
        let Page { incident, zone, paint, .. } = self;
        let mut out = format!("{}\n", paint.head(&format!("Incident {} of run {}", incident.id, incident.run_name())));
        self.section(&mut out, "What happened", self.happened());
        self.section(&mut out, "Why", self.why_in_short());
        // In one line: what is not proved is searched for as it stands in the log.
        let mut state = format!("  {}\n", tinted(incident, *paint, &standing(incident, zone)));
        state.push_str(&self.beside());
        state.push_str(&self.later());
        self.section(&mut out, "State", state);
        self.section(&mut out, "Other incidents of the run", self.siblings());
        self.section(&mut out, "What to do next", self.next(false));
        out
    }

    /// All that is known of it.
    pub fn full(&self) -> String {
        let Page { incident, zone, paint, .. } = self;
        let mut out = String::new();
        let _ = writeln!(out, "{}", paint.head(&format!("Incident {}", incident.id)));
        for line in fill(&headline(incident), WIDTH) {
            let _ = writeln!(out, "{line}");
        }
        let _ = writeln!(out, "{}", tinted(incident, *paint, &standing(incident, zone)));
        let _ = writeln!(out, "{}", self.beside());
        out.push_str(&facts(incident, zone));
        self.section(&mut out, "What was seen", saw(incident));
        let is_of_rule = matches!(incident.opened_by().decision.cause, Cause::Rule { .. });
        let why_title = if is_of_rule { "Why this rule exists" } else { "Why failsafed decided this" };
        self.section(&mut out, why_title, why(incident));
        self.section(&mut out, "What happened, when", timeline(incident, zone));
        self.section(&mut out, "What was done, and what is proved", done(incident, *paint));
        self.section(&mut out, "Evidence", evidence::of(incident));
        self.section(&mut out, "What these actions do not reach", leaks(incident));
        self.section(&mut out, "Other incidents of the run", self.siblings());
        self.section(&mut out, "What to do next", self.next(true));
        out
    }

    fn section(&self, out: &mut String, title: &str, body: String) {
        if !body.is_empty() {
            let _ = write!(out, "\n{}\n{body}", self.paint.head(title));
        }
    }

    /// What is in force beside the containment that was decided, and what was not denied.
    fn beside(&self) -> String {
        let incident = self.incident;
        let not_denied = notes::not_denied(incident.opened_by()).map(|what| self.paint.bad(&what));
        let mut lines: Vec<String> = not_denied.into_iter().chain(notes::cordons(incident)).collect();
        let decided = incident.containments().contains(&Action::Block);
        if self.blocked && incident.ended.is_none() && !decided {
            lines.push("The run is also blocked in the kernel by the latch of a stop rule, until a thaw.".to_owned());
        }
        lines.iter().map(|line| format!("  {line}\n")).collect()
    }

    fn happened(&self) -> String {
        let Page { incident, zone, .. } = self;
        let Decided { decision, blind, .. } = incident.opened_by();
        let mut out: String = fill(&headline(incident), WIDTH - 2).iter().map(|line| format!("  {line}\n")).collect();
        // How a restart differs is in the first sentence already.
        let is_said = |seen: &String| blind.is_some_and(|said| clean(said).contains(seen.as_str()));
        let mut seen: Vec<String> =
            decision.values.iter().take(ROWS).map(decision::observation).filter(|seen| !is_said(seen)).collect();
        if let Some(more @ 1..) = decision.values.len().checked_sub(ROWS) {
            seen.push(format!("and {}", count(more, "more value", "more values")));
        }
        let mut rows = vec![("at", time::exact(incident.zero().1, zone))];
        rows.extend(seen.into_iter().map(|text| ("seen", text)));
        if let Cause::Rule { suppressed: suppressed @ 1.., .. } = &decision.cause {
            rows.push(("before", format!("{suppressed} times within the rule's cooldown")));
        }
        let owner = owner(incident).map(|owner| format!(" of user {owner}")).unwrap_or_default();
        rows.push(("run", format!("{}{owner}", incident.run_id)));
        out.push_str(&table::pairs("  ", rows));
        out
    }

    fn why_in_short(&self) -> String {
        let Decided { decision, rule, .. } = self.incident.opened_by();
        let mut out = String::new();
        if let Cause::Rule { rule, condition, .. } = &decision.cause {
            for line in fill(&format!("rule {rule}: {condition}"), WIDTH - 2) {
                let _ = writeln!(out, "  {line}");
            }
        }
        let Some(rule) = rule else { return out };
        let lines = fill(&rule.rationale, WIDTH - 2);
        for line in lines.iter().take(RATIONALE) {
            let _ = writeln!(out, "  {line}");
        }
        if lines.len() > RATIONALE {
            let _ = writeln!(out, "  ... (--full shows all of it)");
        }
        let (severity, confidence) = (severity(decision.severity), confidence(decision.confidence));
        let _ = writeln!(
            out,
            "  owner {}, severity {severity}, confidence {confidence}, policy {}",
            rule.owner, rule.policy
        );
        out
    }

    /// What was decided in the incident after it began.
    fn later(&self) -> String {
        let Page { incident, zone, .. } = self;
        let later = &incident.decisions[1..];
        let line = |decided: &Decided<'_>| {
            let at = time::wall(i128::from(decided.entry.wall_ns), zone);
            let (actions, why) = (decision::actions(&decided.decision.actions), decision::because(decided.decision));
            format!("  {at}  {actions} because {why}\n")
        };
        let left_out = later.len().saturating_sub(ROWS);
        let mut out = String::new();
        if left_out > 0 {
            let _ = writeln!(out, "  {} in between (--full shows them)", count(left_out, "decision", "decisions"));
        }
        // The last ones show the state.
        out.extend(later[left_out..].iter().map(line));
        out
    }

    fn siblings(&self) -> String {
        let Some(mine) = self.others.iter().position(|other| other.id == self.incident.id) else {
            return String::new();
        };
        let line = |other: &Brief<'_>| {
            let at = time::wall(other.began(), self.zone);
            format!("  {}  {at}  {}\n", other.id, in_brief(other))
        };
        let (earlier, later) = (&self.others[..mine], &self.others[mine + 1..]);
        let mut out = String::new();
        if let more @ 1.. = earlier.len().saturating_sub(1) {
            let _ = writeln!(
                out,
                "  {} before; `failsafectl incidents --run {}` lists them",
                count(more, "incident", "incidents"),
                super::clean(&self.incident.run_name())
            );
        }
        out.extend(earlier.last().map(line));
        out.extend(later.iter().take(ROWS).map(line));
        if let more @ 1.. = later.len().saturating_sub(ROWS) {
            let _ = writeln!(out, "  and {} later", count(more, "incident", "incidents"));
        }
        out
    }
}

fn tinted(incident: &Incident<'_>, paint: Paint, text: &str) -> String {
    match &incident.standing {
        IncidentState::Noted => paint.warn(text),
        IncidentState::Contained(_) | IncidentState::Thawed => paint.good(text),
        IncidentState::Pending(_) | IncidentState::Partial(_) | IncidentState::Failed(_) => paint.bad(text),
    }
}

#[cfg(test)]
mod tests;
