//! What is observed of the rule of an expected decision that did not come in time.

use super::{Bench, START};
use crate::{
    file::{Expect, Who},
    seconds,
};
use failsafe_core::{Kind, Subject, time::Span};

impl Bench<'_> {
    /// Keeps what is seen of the rules whose expected decision did not come in time.
    pub(super) fn over(&mut self, at: Span, all: bool) {
        for (n, expect) in self.case.expect.iter().enumerate() {
            if (all || expect.until < at) && !self.ran.seen.contains_key(&n) {
                let seen = self.observations(expect);
                self.ran.seen.insert(n, seen);
            }
        }
    }

    fn observations(&self, expect: &Expect) -> Vec<String> {
        let Who::Rule(id, place) = &expect.who else { return Vec::new() };
        let Some(rule) = self.policy.rules.get(*place) else { return Vec::new() };
        let metrics = rule.when.metrics();
        let concerns = |kind: &Kind| {
            rule.when.signals().contains(&kind) || matches!(kind, Kind::Metric(name) if metrics.contains(name.as_str()))
        };
        let mut lines = vec![format!("the rule matches when {}", rule.condition())];
        for last in self.state.last_signals(self.run).into_iter().filter(|last| concerns(&last.kind)) {
            let of = match &last.subject {
                Subject::Gpu(gpu) => format!(" of {gpu}"),
                _ => String::new(),
            };
            lines.push(format!("{}{of} = {} at {}", last.kind, last.show(), seconds(last.at.since(START))));
        }
        if lines.len() == 1 && !rule.when.signals().is_empty() {
            lines.push("no value of its signals came".to_owned());
        }
        if self.frozen() {
            lines.push("the run is frozen, so that it reports nothing".to_owned());
        }
        let view = self.state.rules(&self.policies, self.run, self.now);
        let prefix = [format!("rule {id}: "), format!("rule {id} (")];
        let mine = |line: &&String| prefix.iter().any(|prefix| line.starts_with(prefix));
        for (what, list) in [("blind", &view.blind), ("unknown", &view.unknown), ("disarmed", &view.disarmed)] {
            lines.extend(list.iter().filter(mine).map(|line| format!("{what}: {line}")));
        }
        lines
    }
}
