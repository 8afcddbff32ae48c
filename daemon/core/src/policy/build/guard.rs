//! What the kernel is to do on its own: only what it can match and keep is accepted.

use super::Builder;
use crate::{
    decision::Mode,
    event::{EventKind, Field, FieldValue},
    policy::{
        Condition, Effect, Egress, EventMatch, ExecList, FieldMatch, Limits, MAX_PATH, Pattern, Rule,
        raw::{RawExec, RawHead, RawLimits, RawRule},
    },
    time::Span,
};
use std::ops::Range;
use toml::Spanned;

/// How long the daemon must not have been seen unless the policy says otherwise.
const DEAD_AFTER: Span = Span::from_secs(30);
/// The daemon's heart beats once a second; less than three beats would punish a busy host.
const DEAD_AFTER_MIN: Span = Span::from_secs(3);

impl Builder<'_> {
    /// Whether the kernel can give a rule its effect.
    pub(super) fn effect(&mut self, rule: &str, raw: &RawRule, when: Option<&Condition>) {
        let Some(effect) = raw.effect.as_ref().filter(|effect| *effect.get_ref() != Effect::Observe) else { return };
        let (span, name) = (effect.span(), effect.get_ref().name());
        if raw.mode == Mode::Observe {
            let message = format!("rule `{rule}`: `mode = \"observe\"` contradicts `effect = \"{name}\"`");
            self.error(span.clone(), message, Some("leave one of the two out".into()));
        }
        match when {
            None => {}
            Some(Condition::Event(wanted)) => self.event_effect(rule, raw, wanted, *effect.get_ref(), span),
            Some(_) => {
                let message =
                    format!("rule `{rule}`: effect \"{name}\" is for events, a signal is judged by the daemon");
                self.error(span, message, None);
            }
        }
    }

    fn event_effect(&mut self, rule: &str, raw: &RawRule, wanted: &EventMatch, effect: Effect, span: Range<usize>) {
        let (kind, name) = (wanted.kind.name(), effect.name());
        let Some(matched) = matched(wanted.kind) else {
            let kinds: Vec<&str> =
                EventKind::ALL.iter().filter(|kind| matched(**kind).is_some()).map(|kind| kind.name()).collect();
            let message = format!(
                "rule `{rule}`: the kernel cannot refuse `{kind}`, expected effect \"{name}\" on one of {}",
                kinds.join(", ")
            );
            self.error(span, message, None);
            return;
        };
        self.ports_of(rule, wanted, span.clone());
        if matches!(wanted.kind, EventKind::Connect | EventKind::Send) {
            self.egress_effect(rule, wanted, effect, span);
            return;
        }
        if wanted.kind == EventKind::Budget && effect == Effect::Deny {
            let message =
                format!("rule `{rule}`: `[[egress.budget]]` itself denies what is beyond it, expected effect \"stop\"");
            self.error(span.clone(), message, None);
        }
        if matches!(wanted.kind, EventKind::Bind | EventKind::Listen) {
            self.known_protocols(rule, wanted, span.clone());
        }
        if wanted.kind == EventKind::Socket && wanted.given(Field::Family).is_none() {
            let message = format!("rule `{rule}`: expected `family`: a rule without one would refuse every socket");
            self.error(span.clone(), message, None);
        }
        if wanted.kind == EventKind::Exec
            && let Some(kinds) = wanted.given(Field::Kind)
        {
            if wanted.given(Field::Path).is_some() {
                let message = format!("rule `{rule}`: the kernel matches `path` or `kind`, not both: write two rules");
                self.error(span.clone(), message, None);
            }
            if kinds.contains(&Pattern::Exact("file".into())) {
                let message = format!("rule `{rule}`: the kernel cannot refuse all of kind `file`");
                self.error(span.clone(), message, Some("list in `[exec] allow` what the run may execute".into()));
            }
        }
        let when = raw.when.get_ref();
        for FieldMatch { field, any_of } in &wanted.fields {
            let place = super::when::event_fields(when)
                .find(|(name, _)| *name == field.name())
                .map_or(raw.when.span(), |(_, value)| value.span());
            if !matched.contains(field) {
                let field = field.name();
                let message = format!(
                    "rule `{rule}`: the kernel cannot match `{field}`; leave it out or use effect = \"observe\""
                );
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
        let Condition::Event(wanted) = &rule.when else { return };
        if wanted.kind != EventKind::Budget || rule.effect != Effect::Stop {
            return;
        }
        let budgets = egress.map_or(&[][..], |egress| &egress.budgets);
        let meant = |name: &str| {
            wanted.given(Field::Budget).is_none_or(|any_of| any_of.iter().any(|p| p.fits(FieldValue::Text(name))))
        };
        if !budgets.iter().any(|budget| meant(&budget.name)) {
            self.error(
                span,
                format!("rule `{}`: effect \"stop\" on no `[[egress.budget]]` of this policy", rule.id),
                None,
            );
        } else if egress.is_some_and(|egress| egress.mode == Mode::Observe) {
            let message = format!("rule `{}`: effect \"stop\" contradicts `mode = \"observe\"` of `[egress]`", rule.id);
            self.error(span, message, Some("nothing is beyond a budget that is only observed".into()));
        }
    }

    /// A rule denies destinations, or says that every refusal of the allow-list stops the run.
    fn egress_effect(&mut self, rule: &str, wanted: &EventMatch, effect: Effect, span: Range<usize>) {
        let kind = wanted.kind.name();
        let denied = Pattern::Exact("denied".into());
        let only_denied =
            matches!(&wanted.fields[..], [FieldMatch { field: Field::Verdict, any_of }] if *any_of == [denied]);
        let destination = |m: &FieldMatch| matches!(m.field, Field::Address | Field::Port | Field::Protocol);
        match effect {
            Effect::Stop if only_denied => {}
            _ if !wanted.fields.is_empty() && wanted.fields.iter().all(destination) => {
                self.known_protocols(rule, wanted, span);
            }
            _ => {
                let name = effect.name();
                let message = format!(
                    "rule `{rule}`: effect \"{name}\" on `{kind}` expects one of `address`, `port` and `protocol`, and no \
                     other field"
                );
                let help = "list in `[egress] allow` where the run may send; with `verdict = \"denied\"` alone, effect \
                            \"stop\" makes every refusal of that list stop the run";
                self.error(span, message, Some(help.into()));
            }
        }
    }

    fn ports_of(&mut self, rule: &str, wanted: &EventMatch, span: Range<usize>) {
        let numbers = |field| wanted.given(field).into_iter().flatten();
        let port = |p: &Pattern| if let Pattern::Number(n) = p { u16::try_from(*n).ok() } else { None };
        let ports = numbers(Field::Port).filter_map(port).map(|port| (port, port)).collect();
        self.room_for(&format!("rule `{rule}`"), ports, numbers(Field::Protocol).count(), span);
    }

    fn known_protocols(&mut self, rule: &str, wanted: &EventMatch, span: Range<usize>) {
        let known = |p: &Pattern| matches!(p, Pattern::Number(6 | 17));
        if !wanted.given(Field::Protocol).unwrap_or_default().iter().all(known) {
            self.error(span, format!("rule `{rule}`: expected a `protocol` of tcp, udp or both"), None);
        }
    }

    fn kernel_path(&mut self, pattern: &Pattern, span: Range<usize>) {
        let path = match pattern {
            Pattern::Exact(path) | Pattern::Prefix(path) => path,
            other => {
                let message =
                    format!("`{other}`: the kernel compares whole paths and beginnings, expected e.g. /usr/bin/*");
                self.error(span, message, None);
                return;
            }
        };
        if !path.starts_with('/') {
            self.error(span, format!("`{pattern}`: expected a path that begins with `/`"), None);
        } else if path.len() > MAX_PATH {
            let message = format!("the path has {} bytes, expected at most {MAX_PATH}", path.len());
            self.error(span, message, None);
        } else if path.contains("//") || path.contains("/../") || path.contains("/./") || path.ends_with("/..") {
            let message =
                format!("`{pattern}` matches nothing: the kernel compares resolved paths, without `.` and `..`");
            self.error(span, message, None);
        }
    }

    pub(super) fn exec_list(&mut self, raw: &RawExec) -> ExecList {
        let mut allow = Vec::new();
        for text in &raw.allow {
            let pattern = super::when::text_pattern(text.get_ref());
            self.kernel_path(&pattern, text.span());
            if allow.contains(&pattern) {
                self.error(text.span(), format!("`{pattern}` is listed twice"), None);
            }
            allow.push(pattern);
        }
        ExecList { mode: raw.mode, allow }
    }

    pub(super) fn limits(&mut self, raw: &Spanned<RawLimits>) -> Limits {
        let RawLimits { processes, forks_per_second } = raw.get_ref();
        if processes.is_none() && forks_per_second.is_none() {
            self.error(raw.span(), "limits: expected `processes`, `forks_per_second` or both", None);
        }
        let processes = processes.as_ref().and_then(|limit| self.limit("processes", limit));
        let forks_per_second = forks_per_second.as_ref().and_then(|limit| self.limit("forks_per_second", limit));
        Limits { processes, forks_per_second }
    }

    fn limit(&mut self, field: &str, raw: &Spanned<i64>) -> Option<u32> {
        let limit = u32::try_from(*raw.get_ref()).ok().filter(|limit| *limit > 0);
        if limit.is_none() {
            self.error(raw.span(), format!("{field}: expected a number from 1 to {}", u32::MAX), None);
        }
        limit
    }

    pub(super) fn dead_after(&mut self, head: &RawHead) -> Span {
        let Some(text) = &head.dead_after else { return DEAD_AFTER };
        if head.on_dead_daemon.is_none() {
            let help = "on_dead_daemon = \"deny-egress\" or \"deny-all\"".to_owned();
            self.error(text.span(), "dead_after says nothing without `on_dead_daemon`", Some(help));
        }
        let Some(span) = self.duration("dead_after", text) else { return DEAD_AFTER };
        if span < DEAD_AFTER_MIN {
            self.error(
                text.span(),
                format!("dead_after: {span} is too short, expected at least {DEAD_AFTER_MIN}"),
                None,
            );
        }
        span
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
