//! The page of an incident. One screen says what happened, why, how it stands and what to do next; the full page adds the
//! timeline, the proofs, the evidence and what was not reached.

mod evidence;
pub mod notes;

use super::{Paint, actors, count, decision, event, fill, table, time, users};
use crate::{
    incident::{Decided, Incident, IncidentState},
    incidents::Brief,
};
use failsafe_core::{
    decision::{Action, Cause, Confidence, Decision, Mode, Outcome, Severity, Verdict},
    record::Record,
    subject::Subject,
};
use jiff::tz::TimeZone;
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
    /// Whether the reader may thaw and kill the run; its owner may not.
    pub may_act: bool,
    /// The kernel denies what leaves the run, by a decision or by the latch of a stop rule.
    pub blocked: bool,
    /// The reader's time zone.
    pub zone: &'a TimeZone,
    /// Colours.
    pub paint: Paint,
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
        self.section(&mut out, "Why this rule exists", why(incident));
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
        let Decided { decision, .. } = incident.opened_by();
        let mut out: String = fill(&headline(incident), WIDTH - 2).iter().map(|line| format!("  {line}\n")).collect();
        let mut seen: Vec<String> = decision.values.iter().take(ROWS).map(decision::seen).collect();
        if let Some(more @ 1..) = decision.values.len().checked_sub(ROWS) {
            seen.push(format!("and {}", count(more, "more value", "more values")));
        }
        let mut rows = vec![("at", time::exact(incident.zero().1, zone))];
        rows.extend(seen.into_iter().map(|text| ("seen", text)));
        if let Cause::Rule { suppressed: suppressed @ 1.., .. } = &decision.cause {
            rows.push(("before", format!("{suppressed} times within the rule's cooldown")));
        }
        let owner = incident.run.map(|run| format!(" of user {}", users::shown(run.owner_uid))).unwrap_or_default();
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
        // The last ones say how it stands.
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

    fn next(&self, full: bool) -> String {
        let incident = self.incident;
        let run = &incident.run_id;
        let mut lines: Vec<(String, &str)> = Vec::new();
        if let Some(playbook) = incident.opened_by().rule.and_then(|rule| rule.playbook.clone()) {
            lines.push((playbook, "the rule's playbook: read it first"));
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
            if self.may_act {
                let thaw = match &after {
                    Some(notes::AfterThaw::FrozenAgain(_)) => "DOES NOT HELP: see below",
                    Some(notes::AfterThaw::Disarmed(_)) => "let the run continue WITHOUT THE RULE: see below",
                    None => "let the run continue (removes freeze, latch and block)",
                };
                lines.push((format!("failsafectl thaw {run} --reason TEXT"), thaw));
                lines.push((format!("failsafectl kill {run} --reason TEXT"), "end it"));
            } else {
                let ask = "ask root or the administrators' group to thaw or kill it";
                lines.push((ask.to_owned(), "the owner of a run may not"));
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

/// An incident in a few words: what was done first, and because of what.
pub fn in_brief(brief: &Brief<'_>) -> String {
    in_few_words(brief.opened_by().decision)
}

/// A decision in a few words.
pub fn in_few_words(decision: &Decision) -> String {
    let would = if decision.mode == Mode::Observe { "would " } else { "" };
    let why = match &decision.cause {
        Cause::Rule { rule, .. } => format!("rule {rule}"),
        Cause::Operator(request) => format!("{}: {}", actors::requester(request), request.reason),
        Cause::Upkeep { what } => decision::upkeep(*what).to_owned(),
    };
    format!("{would}{}: {why}", decision::actions(&decision.actions))
}

fn tinted(incident: &Incident<'_>, paint: Paint, text: &str) -> String {
    match &incident.standing {
        IncidentState::Noted => paint.warn(text),
        IncidentState::Contained(_) | IncidentState::Thawed => paint.good(text),
        IncidentState::Pending(_) | IncidentState::Partial(_) | IncidentState::Failed(_) => paint.bad(text),
    }
}

/// The first sentence.
pub fn headline(incident: &Incident<'_>) -> String {
    let Decided { decision, rule, blind, .. } = incident.opened_by();
    let run = incident.run_name();
    let acts: Vec<&str> = decision.actions.iter().filter(|a| a.contains()).map(|a| past(*a)).collect();
    let mut acts = if acts.is_empty() { "reported".to_owned() } else { acts.join(" and ") };
    for action in decision.actions.iter().filter(|a| matches!(a, Action::CordonGpu | Action::CordonNode)) {
        let _ = write!(acts, " and {}", past(*action));
    }
    let was = match (&incident.standing, decision.mode) {
        (_, Mode::Observe) => "would have been",
        (IncidentState::Pending(_) | IncidentState::Failed(_), _) => "was to be",
        _ => "was",
    };
    match &decision.cause {
        Cause::Rule { rule: id, .. } => {
            let policy = rule.map(|r| format!(" of policy {}", r.policy)).unwrap_or_default();
            format!("Run {run} {was} {acts}, because rule {id}{policy} tripped.")
        }
        Cause::Operator(request) => {
            let (by, reason) = (actors::requester(request), &request.reason);
            match decision.actions.first() {
                Some(Action::Thaw) => format!("Run {run} was thawed by {by}: {reason}."),
                _ => format!("Run {run} {was} {acts} by {by}: {reason}."),
            }
        }
        Cause::Upkeep { what } => {
            let blind = blind.map(|what| format!(": {}", super::clean(what))).unwrap_or_default();
            format!("Run {run} {was} {acts} by failsafed itself: {}{blind}.", decision::upkeep(*what))
        }
    }
}

fn past(action: Action) -> &'static str {
    match action {
        Action::CordonGpu => "its GPU cordoned",
        Action::CordonNode => "the node cordoned",
        Action::Notify => "reported",
        Action::Snapshot => "recorded",
        Action::Block => "cut off from the network",
        Action::Freeze => "frozen",
        Action::Kill => "killed",
        Action::Thaw => "thawed",
        Action::Recapture { .. } => "an escaped process was moved back into its cgroup",
    }
}

fn standing(incident: &Incident<'_>, zone: &TimeZone) -> String {
    let text = in_words(&incident.standing, incident.opened_by().decision.mode);
    match incident.ended {
        Some(ended) => match incident.unwatched() {
            None => format!("{text} The run ended at {}.", time::wall(i128::from(ended.wall_ns), zone)),
            Some(between) => {
                let before = time::wall(i128::from(between.noticed_ns), zone);
                let seen = between.last_seen_ns.map(|seen| time::wall(i128::from(seen), zone));
                let after = seen.map(|seen| format!(" and after {seen}")).unwrap_or_default();
                format!("{text} The run ended before {before}{after}; no daemon watched the end.")
            }
        },
        None => text,
    }
}

/// How an incident stands, as a sentence.
pub fn in_words(standing: &IncidentState, mode: Mode) -> String {
    match standing {
        IncidentState::Noted if mode == Mode::Observe => "Nothing was done: it was only observed.".to_owned(),
        IncidentState::Noted => {
            "Nothing was contained: the decision is in the audit log and its event stream.".to_owned()
        }
        IncidentState::Pending(actions) => {
            format!("NOT KNOWN: the log has no outcome of {} yet.", decision::actions(actions))
        }
        IncidentState::Contained(actions) => format!("In force and verified: {}.", decision::actions(actions)),
        IncidentState::Partial(missing) => format!("PARTIAL, not proved: {}.", missing.join("; ")),
        IncidentState::Failed(why) => format!("FAILED: {}.", why.join("; ")),
        IncidentState::Thawed => "Thawed; verified.".to_owned(),
    }
}

fn facts(incident: &Incident<'_>, zone: &TimeZone) -> String {
    let Decided { decision, rule, .. } = incident.opened_by();
    let run = incident.run;
    let rule_line = match &decision.cause {
        Cause::Rule { rule, condition, .. } => format!("{rule}: {condition}"),
        _ => String::new(),
    };
    let name = rule.map(|r| r.policy.as_str()).or(incident.policy_name).unwrap_or_default();
    let labels: Vec<String> = run.iter().flat_map(|r| &r.labels).map(|(k, v)| format!("{k}={v}")).collect();
    let gpus: Vec<String> = run.iter().flat_map(|r| &r.gpus).map(ToString::to_string).collect();
    table::pairs(
        "  ",
        [
            ("run", format!("{} {}", incident.run_name(), incident.run_id)),
            ("user", run.map(|r| users::shown(r.owner_uid)).unwrap_or_default()),
            ("labels", labels.join(", ")),
            ("cgroup", run.map(|r| r.cgroup.clone()).unwrap_or_default()),
            ("GPUs", gpus.join(", ")),
            ("rule", rule_line),
            ("severity", format!("{}, confidence {}", severity(decision.severity), confidence(decision.confidence))),
            ("policy", format!("{name} {}", decision.policy).trim().to_owned()),
            ("at", time::exact(incident.zero().1, zone)),
        ],
    )
}

fn saw(incident: &Incident<'_>) -> String {
    let decision = incident.opened_by().decision;
    let mut out = String::new();
    for seen in &decision.values {
        let _ = writeln!(out, "  {}", decision::seen(seen));
        if let Subject::Process { process, .. } = &seen.subject {
            let _ = writeln!(
                out,
                "    pid {} ({}), parent {}, user {}",
                process.pid,
                process.comm,
                process.ppid,
                users::shown(process.uid)
            );
        }
    }
    if let Cause::Rule { suppressed, .. } = &decision.cause
        && *suppressed > 0
    {
        let _ = writeln!(out, "  the same happened {suppressed} times before, within the rule's cooldown");
    }
    if let Cause::Operator(request) = &decision.cause {
        let (role, reason) = (&request.role, &request.reason);
        let _ = writeln!(out, "  {}, allowed as {role}, gave the reason: {reason}", actors::named(&request.actor));
        if let Some(process) = actors::process(&request.actor) {
            let _ = writeln!(out, "    {process}");
        }
    }
    out
}

fn why(incident: &Incident<'_>) -> String {
    let Some(rule) = incident.opened_by().rule else { return String::new() };
    let mut out: String = fill(&rule.rationale, WIDTH - 2).iter().map(|line| format!("  {line}\n")).collect();
    let _ = writeln!(out, "  Its owner is {}.", rule.owner);
    out
}

fn timeline(incident: &Incident<'_>, zone: &TimeZone) -> String {
    let (zero, zero_wall) = incident.zero();
    let boot = &incident.opened_by().entry.boot_id;
    let mut rows: Vec<(i128, String)> = Vec::new();
    for seen in &incident.opened_by().decision.values {
        rows.push((zero_wall + i128::from(seen.at.0) - i128::from(zero.0), format!("seen: {}", decision::seen(seen))));
    }
    for entry in incident.entries.iter().copied().chain(incident.ended) {
        // Within the boot the monotonic clock is right even where the wall clock jumped.
        let wall = |mono: u64| {
            if entry.boot_id == *boot {
                zero_wall + i128::from(mono) - i128::from(zero.0)
            } else {
                i128::from(entry.wall_ns)
            }
        };
        let at = match entry.record() {
            Some(Record::Outcome(outcome)) => outcome.at.0,
            Some(Record::Control(control)) => control.at.0,
            _ => entry.mono_ns,
        };
        let text = match entry.record() {
            Some(Record::Decision { decision, .. }) => {
                let would = if decision.mode == Mode::Observe { "would " } else { "" };
                let why = if decision.id == incident.opened_by().decision.id {
                    String::new()
                } else {
                    format!(" because {}", decision::because(decision))
                };
                format!("decided #{}: {would}{}{why}", decision.id.n, decision::actions(&decision.actions))
            }
            _ => event::summary(entry),
        };
        rows.push((wall(at), text));
    }
    // Outcomes are written when they come in; what they tell of was earlier.
    rows.sort_by_key(|(wall, _)| *wall);
    let line = |(wall, text): &(i128, String)| {
        format!("  {}  {:>12}  {text}\n", time::exact(*wall, zone), time::delta(wall - zero_wall))
    };
    rows.iter().map(line).collect()
}

fn done(incident: &Incident<'_>, paint: Paint) -> String {
    let mut out = String::new();
    for Decided { decision, outcomes, evidence, .. } in &incident.decisions {
        let _ = writeln!(out, "  decision #{}: {}", decision.id.n, decision::actions(&decision.actions));
        for action in &decision.actions {
            let mine: Vec<&Outcome> = outcomes.iter().map(|(_, o)| *o).filter(|o| o.action == *action).collect();
            if mine.is_empty() {
                let text = match (decision.mode, action) {
                    (Mode::Observe, _) => paint.dim("not carried out: it was only observed"),
                    (Mode::Enforce, Action::Snapshot) if evidence.is_some() => "kept: see the evidence".to_owned(),
                    (Mode::Enforce, Action::Notify | Action::Snapshot) => paint.dim("no outcome recorded"),
                    (Mode::Enforce, _) => {
                        paint.bad("no outcome in the log: it is unknown whether the action was completed")
                    }
                };
                let _ = writeln!(out, "    {:<10} {text}", action.to_string());
            }
            for outcome in mine {
                let (verdict, label, missing) = match &outcome.verdict {
                    Verdict::Proved => (paint.good("proved"), "", Vec::new()),
                    Verdict::Partial(missing) => (paint.bad("PARTIAL"), "not proved", missing.iter().collect()),
                    Verdict::Failed(why) => (paint.bad("FAILED"), "because", vec![why]),
                };
                let _ = writeln!(out, "    {:<10} {verdict} {} after its cause", action.to_string(), outcome.took);
                for text in missing {
                    let _ = writeln!(out, "      {label}: {text}");
                }
                for proof in &outcome.proofs {
                    let _ = writeln!(out, "      read back: {}: {}", proof.fact, proof.seen);
                }
            }
        }
    }
    out
}

fn leaks(incident: &Incident<'_>) -> String {
    let line = |action: Action| move |leak: &&str| format!("  {action}: {leak}\n");
    incident.containments().iter().flat_map(|action| action.known_leaks().iter().map(line(*action))).collect()
}

/// The word for it.
pub fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// The word for it.
pub fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

#[cfg(test)]
mod tests;
