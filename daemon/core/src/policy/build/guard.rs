//! What the kernel is to do on its own: only what it can match and keep is accepted.

use super::Builder;
use crate::{
    decision::Mode,
    event::{EventKind, Field, FieldValue},
    policy::{
        Condition, Effect, Egress, EventMatch, ExecList, FieldMatch, Limits, MAX_PATH, Pattern, Rule,
        diagnostic::quote,
        raw::{RawExec, RawHead, RawLimits, RawRule},
    },
    time::Span,
};
use std::{collections::BTreeSet, ops::Range};
use toml::Spanned;

/// How long the daemon must not have been seen unless the policy says otherwise.
const DEAD_AFTER: Span = Span::from_secs(30);
/// The daemon's heart beats once a second; less than three beats would punish a busy host.
const DEAD_AFTER_MIN: Span = Span::from_secs(3);

impl Builder<'_> {
    /// The effect that a rule has, where the kernel can give it that.
    pub(super) fn effect(&mut self, raw: &RawRule, when: Option<&Condition>) -> Option<Effect> {
        let text = raw.effect.as_ref()?;
        let Some(effect) = Effect::ALL.into_iter().find(|effect| effect.name() == text.get_ref()) else {
            let usable: Vec<&str> =
                Effect::ALL.into_iter().filter(|effect| usable(*effect, when)).map(Effect::name).collect();
            let help = self.suggest(text.get_ref(), usable.iter().copied());
            self.error(text.span(), format!("{} is not one of {}", quote(text.get_ref()), usable.join(", ")), help);
            return None;
        };
        if effect == Effect::Observe {
            return Some(effect);
        }
        let (span, name) = (text.span(), effect.name());
        if raw.mode == Mode::Observe {
            let message = format!("`mode = \"observe\"` contradicts `effect = \"{name}\"`");
            self.error(span.clone(), message, Some("leave one of the two out".into()));
        }
        match when {
            None => {}
            Some(Condition::Event(wanted)) => self.event_effect(raw, wanted, effect, span),
            Some(Condition::Threshold { .. } | Condition::NotFinite { .. }) => {
                let message = format!("effect \"{name}\" is for events, a signal is judged by the daemon");
                self.error(span, message, None);
            }
            Some(Condition::Tree(_)) => {
                let message = format!(
                    "effect \"{name}\" is for a rule on one event: the kernel judges each call by itself, a condition of \
                     several parts is judged by the daemon"
                );
                let help = "write a second rule on the event alone, with the effect".to_owned();
                self.error(span, message, Some(help));
            }
        }
        Some(effect)
    }

    fn event_effect(&mut self, raw: &RawRule, wanted: &EventMatch, effect: Effect, span: Range<usize>) {
        let (kind, name) = (wanted.kind.name(), effect.name());
        let Some(matched) = matched(wanted.kind) else {
            let kinds: Vec<&str> =
                EventKind::ALL.iter().filter(|kind| matched(**kind).is_some()).map(|kind| kind.name()).collect();
            let message =
                format!("the kernel cannot refuse `{kind}`, expected effect \"{name}\" on one of {}", kinds.join(", "));
            self.error(span, message, None);
            return;
        };
        self.ports_of(wanted, span.clone());
        if matches!(wanted.kind, EventKind::Connect | EventKind::Send) {
            self.egress_effect(wanted, effect, span);
            return;
        }
        if wanted.kind == EventKind::Budget && effect == Effect::Deny {
            let message = "`[[egress.budget]]` itself denies what is beyond it, expected effect \"stop\"";
            self.error(span.clone(), message, None);
        }
        if matches!(wanted.kind, EventKind::Bind | EventKind::Listen) {
            self.known_protocols(wanted, span.clone());
        }
        if wanted.kind == EventKind::Socket && wanted.given(Field::Family).is_none() {
            let message = "expected `family`: a rule without one would refuse every socket";
            self.error(span.clone(), message, None);
        }
        if wanted.kind == EventKind::Exec
            && let Some(kinds) = wanted.given(Field::Kind)
        {
            if wanted.given(Field::Path).is_some() {
                let message = "the kernel matches `path` or `kind`, not both: write two rules";
                self.error(span.clone(), message, None);
            }
            if kinds.contains(&Pattern::Exact("file".into())) {
                let message = "the kernel cannot refuse all of kind `file`";
                self.error(span.clone(), message, Some("list in `[exec] allow` what the run may execute".into()));
            }
        }
        let written = raw.when.iter().flat_map(|when| &when.fields);
        for FieldMatch { field, any_of } in &wanted.fields {
            let place = written
                .clone()
                .find(|(name, _)| *name == field.name())
                .map_or_else(|| span.clone(), |(_, value)| value.span());
            if !matched.contains(field) {
                let field = field.name();
                let message = format!("the kernel cannot match `{field}`; leave it out or use effect = \"observe\"");
                self.error(place, message, None);
            } else if *field == Field::Path {
                for pattern in any_of {
                    self.kernel_path(pattern, place.clone());
                }
            }
        }
    }

    /// A rule that stops the run by a budget speaks of one that the kernel keeps.
    pub(super) fn budget_stop(&mut self, rule: &Rule, egress: Option<&Egress>, span: Range<usize>) {
        let Some(wanted) = rule.when.event() else { return };
        if wanted.kind != EventKind::Budget || rule.effect != Effect::Stop {
            return;
        }
        let budgets = egress.map_or(&[][..], |egress| &egress.budgets);
        let meant = |name: &str| {
            wanted.given(Field::Budget).is_none_or(|any_of| any_of.iter().any(|p| p.fits(FieldValue::Text(name))))
        };
        if !budgets.iter().any(|budget| meant(&budget.name)) {
            self.error(span, "effect \"stop\" on no `[[egress.budget]]` of this policy", None);
        } else if egress.is_some_and(|egress| egress.mode == Mode::Observe) {
            let message = "effect \"stop\" contradicts `mode = \"observe\"` of `[egress]`";
            self.error(span, message, Some("nothing is beyond a budget that is only observed".into()));
        }
    }

    /// A rule denies destinations, or says that every refusal of the allow-list stops the run.
    fn egress_effect(&mut self, wanted: &EventMatch, effect: Effect, span: Range<usize>) {
        let kind = wanted.kind.name();
        let denied = Pattern::Exact("denied".into());
        let only_denied =
            matches!(&wanted.fields[..], [FieldMatch { field: Field::Verdict, any_of }] if *any_of == [denied]);
        let destination = |m: &FieldMatch| matches!(m.field, Field::Address | Field::Port | Field::Protocol);
        match effect {
            Effect::Stop if only_denied => {}
            _ if !wanted.fields.is_empty() && wanted.fields.iter().all(destination) => {
                self.known_protocols(wanted, span);
            }
            _ => {
                let name = effect.name();
                let message = format!(
                    "effect \"{name}\" on `{kind}` expects one of `address`, `port` and `protocol`, and no \
                     other field"
                );
                let help = "list in `[egress] allow` where the run may send; with `verdict = \"denied\"` alone, effect \
                            \"stop\" makes every refusal of that list stop the run";
                self.error(span, message, Some(help.into()));
            }
        }
    }

    fn ports_of(&mut self, wanted: &EventMatch, span: Range<usize>) {
        let numbers = |field| wanted.given(field).into_iter().flatten();
        let port = |p: &Pattern| if let Pattern::Number(n) = p { u16::try_from(*n).ok() } else { None };
        let ports = numbers(Field::Port).filter_map(port).map(|port| (port, port)).collect();
        self.room_for(ports, numbers(Field::Protocol).count(), span);
    }

    fn known_protocols(&mut self, wanted: &EventMatch, span: Range<usize>) {
        let known = |p: &Pattern| matches!(p, Pattern::Number(6 | 17));
        if !wanted.given(Field::Protocol).unwrap_or_default().iter().all(known) {
            self.error(span, "expected a `protocol` of tcp, udp or both", None);
        }
    }

    fn kernel_path(&mut self, pattern: &Pattern, span: Range<usize>) {
        let path = match pattern {
            Pattern::Exact(path) | Pattern::Prefix(path) => path,
            other => {
                let message = format!(
                    "{}: the kernel compares whole paths and beginnings, expected for example /usr/bin/*",
                    quote(&other.to_string())
                );
                self.error(span, message, None);
                return;
            }
        };
        if !path.starts_with('/') {
            self.error(span, format!("{}, expected a path that begins with `/`", quote(&pattern.to_string())), None);
        } else if path.len() > MAX_PATH {
            let message = format!("the path has {} bytes, expected at most {MAX_PATH}", path.len());
            self.error(span, message, None);
        } else if path.contains("//") || path.contains("/../") || path.contains("/./") || path.ends_with("/..") {
            let message = format!(
                "{} matches nothing: the kernel compares resolved paths, without `.` and `..`",
                quote(&pattern.to_string())
            );
            self.error(span, message, None);
        }
    }

    pub(super) fn exec_list(&mut self, raw: &RawExec) -> ExecList {
        let mut allow = Vec::new();
        let mut listed = BTreeSet::new();
        for text in &raw.allow {
            let pattern = super::when::text_pattern(text.get_ref());
            self.kernel_path(&pattern, text.span());
            if !listed.insert(text.get_ref()) {
                self.error(text.span(), format!("{} is listed twice", quote(text.get_ref())), None);
            }
            allow.push(pattern);
        }
        ExecList { mode: raw.mode, allow }
    }

    pub(super) fn limits(&mut self, raw: &RawLimits) -> Limits {
        let RawLimits { processes, forks_per_second, span, unreadable } = raw;
        if processes.is_none() && forks_per_second.is_none() && !unreadable {
            self.error(span.clone(), "expected `processes`, `forks_per_second` or both", None);
        }
        let processes = processes.as_ref().and_then(|limit| self.limit(limit));
        let forks_per_second = forks_per_second.as_ref().and_then(|limit| self.limit(limit));
        Limits { processes, forks_per_second }
    }

    fn limit(&mut self, raw: &Spanned<i64>) -> Option<u32> {
        let limit = u32::try_from(*raw.get_ref()).ok().filter(|limit| *limit > 0);
        if limit.is_none() {
            let message = format!("`{}`, expected a number from 1 to {}", raw.get_ref(), u32::MAX);
            self.error(raw.span(), message, None);
        }
        limit
    }

    pub(super) fn dead_after(&mut self, head: &RawHead) -> Span {
        let Some(text) = &head.dead_after else { return DEAD_AFTER };
        if !head.has_on_dead_daemon {
            let help = "add on_dead_daemon = \"deny-egress\" or \"deny-all\"".to_owned();
            self.error(text.span(), "`dead_after` has no effect without `on_dead_daemon`", Some(help));
        }
        let Some(span) = self.duration(text) else { return DEAD_AFTER };
        if span < DEAD_AFTER_MIN {
            let message = format!("{} is too short, expected at least {DEAD_AFTER_MIN}", quote(text.get_ref()));
            self.error(text.span(), message, None);
        }
        span
    }
}

/// Whether a rule with this condition may have the effect; `None`: its condition is not known.
fn usable(effect: Effect, when: Option<&Condition>) -> bool {
    match when {
        None => true,
        Some(Condition::Event(wanted)) => {
            effect == Effect::Observe
                || matched(wanted.kind).is_some() && (effect == Effect::Stop || wanted.kind != EventKind::Budget)
        }
        Some(Condition::Threshold { .. } | Condition::NotFinite { .. } | Condition::Tree(_)) => {
            effect == Effect::Observe
        }
    }
}

/// The fields that the kernel matches itself; `None`: it cannot refuse this kind.
fn matched(kind: EventKind) -> Option<&'static [Field]> {
    Some(match kind {
        EventKind::Exec => &[Field::Path, Field::Kind],
        EventKind::Open => &[Field::Path, Field::Access],
        EventKind::Connect | EventKind::Send => &[Field::Verdict],
        EventKind::Bind | EventKind::Listen => &[Field::Address, Field::Port, Field::Protocol],
        EventKind::Socket => &[Field::Family],
        EventKind::Syscall => &[Field::Name],
        EventKind::Privilege => &[Field::Gain],
        EventKind::ExecMemory => &[Field::Kind],
        EventKind::Fork => &[],
        EventKind::Budget => &[Field::Budget],
        _ => return None,
    })
}
