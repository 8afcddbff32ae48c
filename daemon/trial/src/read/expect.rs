//! What a test expects.

use super::Reader;
use crate::{
    file::{Expect, MAX_LENGTH, Who, place},
    names::EXPECT,
};
use failsafe_core::{
    decision::{Action, Upkeep},
    policy::{
        MODES,
        diagnostic::{did_you_mean, quote},
        fields::{Fields, Known},
    },
    time::Span,
};
use std::{collections::BTreeSet, ops::Range};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

const UPKEEP: &[(&str, Upkeep)] = &[
    ("escape", Upkeep::Escape),
    ("foreign-thaw", Upkeep::ForeignThaw),
    ("latched", Upkeep::Latched),
    ("blind", Upkeep::Blind),
    ("drift", Upkeep::Drift),
];

impl Reader<'_> {
    /// `expect = "none"`, or tables.
    pub(super) fn expected(&mut self, fields: &mut Fields<'_>) -> Option<Vec<Expect>> {
        if let Some(value) = fields.value("expect")
            && let DeValue::String(text) = value.get_ref()
        {
            if text.as_ref() == "none" {
                return Some(Vec::new());
            }
            let message = format!("expected \"none\" or tables written [[test.expect]], found {}", quote(text));
            self.wrong.error(value.span(), message, None);
            return None;
        }
        let tables = fields.tables(self.wrong, "expect", "[[test.expect]], or expect = \"none\"");
        tables.into_iter().map(|(table, span)| self.one(table, span)).collect::<Vec<_>>().into_iter().collect()
    }

    fn one(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Option<Expect> {
        let mut fields = Fields::of_table(self.wrong, table, span.clone(), &Known::new("[[test.expect]]", EXPECT));
        let who = self.who(&mut fields);
        let time = self.time(&mut fields);
        let actions = fields.texts(self.wrong, "actions", "[\"freeze\", \"notify\"]").map(|list| self.actions(&list));
        let mode = fields.choice(self.wrong, "mode", MODES);
        let count = fields.whole_number(self.wrong, "count").map(|count| {
            let number = u64::try_from(*count.get_ref()).ok().filter(|n| *n > 0);
            if number.is_none() {
                self.wrong.error(count.span(), "expected a number from 1", None);
            }
            number
        });
        let (from, until) = time?;
        let line = self.line(&fields.span);
        let actions = match actions {
            Some(actions) => Some(actions?),
            None => None,
        };
        Some(Expect { line, who: who?, from, until, actions, mode, count: count.unwrap_or(Some(1))? })
    }

    fn who(&mut self, fields: &mut Fields<'_>) -> Option<Who> {
        let rule = fields.text(self.wrong, "rule");
        let upkeep = fields.choice(self.wrong, "upkeep", UPKEEP);
        match (rule, upkeep) {
            (Some(rule), None) => self.rule(&rule),
            (None, Some(upkeep)) => Some(Who::Upkeep(upkeep)),
            (None, None) if fields.has("rule") || fields.has("upkeep") => None,
            _ => {
                let message = "expected exactly one of `rule` and `upkeep`: who decides";
                self.wrong.error(fields.span.clone(), message, None);
                None
            }
        }
    }

    fn rule(&mut self, id: &Spanned<String>) -> Option<Who> {
        let found = place(self.policy, id.get_ref());
        if found.is_none() {
            let ids = || self.policy.rules.iter().map(|rule| rule.id.as_str());
            let help = did_you_mean(id.get_ref(), ids())
                .unwrap_or_else(|| format!("its rules are {}", ids().collect::<Vec<_>>().join(", ")));
            let message = format!("policy {} has no rule {}", self.policy.name, quote(id.get_ref()));
            self.wrong.error(id.span(), message, Some(help));
        }
        found.map(|place| Who::Rule(id.get_ref().clone(), place))
    }

    /// `at`, `between` or `by`; without them, at any time.
    fn time(&mut self, fields: &mut Fields<'_>) -> Option<(Span, Span)> {
        let at = fields.duration(self.wrong, "at");
        let by = fields.duration(self.wrong, "by");
        let between = fields.texts(self.wrong, "between", "[\"60s\", \"65s\"]");
        let given = [at.is_some(), by.is_some(), between.is_some()].iter().filter(|given| **given).count();
        if given > 1 {
            let message = "expected one of `at`, `between` and `by`";
            self.wrong.error(fields.span.clone(), message, None);
            return None;
        }
        if let Some(at) = at {
            return self.duration(&at).map(|at| (at, at));
        }
        if let Some(by) = by {
            return self.duration(&by).map(|by| (Span(0), by));
        }
        let Some(between) = between else {
            let unreadable = ["at", "by", "between"].iter().any(|name| fields.has(name));
            return (!unreadable).then_some((Span(0), MAX_LENGTH));
        };
        let [from, until] = between.get_ref().as_slice() else {
            self.wrong.error(between.span(), "expected two times, such as [\"60s\", \"65s\"]", None);
            return None;
        };
        let (from, until) = (self.duration(from)?, self.duration(until)?);
        if from > until {
            self.wrong.error(between.span(), "expected the earlier time first", None);
            return None;
        }
        Some((from, until))
    }

    fn actions(&mut self, list: &Spanned<Vec<Spanned<String>>>) -> Option<BTreeSet<Action>> {
        let names = || Action::IN_POLICY.iter().map(|action| action.name());
        let mut found = Some(BTreeSet::new());
        for text in list.get_ref() {
            let action = match text.get_ref().as_str() {
                "recapture" => Some(Action::Recapture { pid: 0 }),
                name => Action::IN_POLICY.into_iter().find(|action| action.name() == name),
            };
            match (action, &mut found) {
                (Some(action), Some(found)) => drop(found.insert(action)),
                (Some(_), None) => {}
                (None, _) => {
                    let message = format!(
                        "unknown action {}, expected one of {}",
                        quote(text.get_ref()),
                        names().collect::<Vec<_>>().join(", ")
                    );
                    self.wrong.error(text.span(), message, did_you_mean(text.get_ref(), names()));
                    found = None;
                }
            }
        }
        found
    }
}
