//! Why a decision on blindness was made, in words, for its entry of the log: the engine's decision names no sensor.

use failsafe_core::{Decision, Input, PolicySet, State};

/// What is not seen, and the rules that do not judge for that reason.
pub fn cause(state: &State, policies: &PolicySet, decision: &Decision, input: &Input) -> String {
    let run = decision.id.run;
    let mut text = match input {
        Input::Gap(gap) => {
            let of = gap.gpu.as_ref().map(|gpu| format!(" of {gpu}")).unwrap_or_default();
            let lost = if gap.lost > 0 { format!(" ({} events lost)", gap.lost) } else { String::new() };
            format!("{} sensor{of}: {}{lost}", gap.source, gap.what)
        }
        Input::Unread(unread) => {
            let why = unread.why.as_deref().unwrap_or("no reason is known");
            format!("{} of {} cannot be read: {why}", unread.kind, unread.gpu)
        }
        Input::Silent(silent) => silent.why.clone().unwrap_or_else(|| format!("metric.{} is missing", silent.metric)),
        Input::Missing(missing) => missing.text(),
        Input::Tick(_) => format!("no value came for 10 s: {}", state.blind(run).join(", ")),
        _ => state.blind(run).join(", "),
    };
    let (rules, all) = state.blind_rules(policies, run);
    if !rules.is_empty() {
        let more = all.saturating_sub(rules.len());
        let more = if more > 0 { format!("; and {more} more rules") } else { String::new() };
        // The reason of a rule that is the same is not repeated.
        let same = format!(": {text}");
        let named: Vec<&str> = rules.iter().map(|rule| rule.strip_suffix(&same).unwrap_or(rule)).collect();
        text = format!("{text}; not judged: {}{more}", named.join("; "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::{
        GpuId, MonoTime,
        decision::{Cause, Upkeep},
        input::{Gap, Silent, Unread},
        policy::parse::parse,
        signal::{Kind, Source},
        step,
    };
    use std::sync::Arc;

    const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"o\"\non_blind = \"freeze\"\n\
        [[rule]]\nid = \"out\"\nrationale = \"x\"\nwhen = { event = \"connect\", verdict = \"denied\" }\nactions = [\"notify\"]\n\
        [[rule]]\nid = \"hot\"\nrationale = \"x\"\nwhen = { signal = \"gpu.temperature\", above = \"90 C\" }\nactions = [\"notify\"]\n\
        [[rule]]\nid = \"loss\"\nrationale = \"x\"\nwhen = { signal = \"metric.loss\", above = 5 }\nactions = [\"notify\"]\n";

    /// The text of the decision that the input leads to.
    fn cause_text(input: impl FnOnce(failsafe_core::RunId) -> Input) -> String {
        let policy = parse("p", POLICY).unwrap();
        let run = crate::testing::run("01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d", 1000, policy.digest());
        let run = failsafe_core::input::Run { gpus: [GpuId("GPU-0".into())].into(), ..run };
        let id = run.id;
        let policies = PolicySet::from([(policy.digest(), Arc::new(policy))]);
        let mut state = State::default();
        assert!(step(&policies, &mut state, &Input::RunStarted(run)).is_empty());
        let input = input(id);
        let decisions = step(&policies, &mut state, &input);
        let blind = decisions.iter().find(|d| matches!(d.cause, Cause::Upkeep { what: Upkeep::Blind })).unwrap();
        cause(&state, &policies, blind, &input)
    }

    #[test]
    fn a_decision_on_blindness_names_what_is_not_seen_and_the_rules_without_it() {
        let at = MonoTime(1);
        let gap = |what: &str, lost| {
            let what = what.to_owned();
            cause_text(|_| {
                Input::Gap(Gap { seq: 0, at, source: Source::Ebpf, run: None, gpu: None, what, lost, blind: true })
            })
        };
        let probe = gap("the program fs_connect4 is not attached", 0);
        assert!(
            probe.starts_with("ebpf sensor: the program fs_connect4 is not attached; not judged: rule out: "),
            "{probe}"
        );
        assert!(!probe.contains("hot"), "{probe}");
        assert!(gap("events were lost", 12).contains("events were lost (12 events lost)"));

        let (source, gpu, kind) = (Source::Nvml, GpuId("GPU-0".into()), Kind::GpuTemperature);
        let unread =
            cause_text(|_| Input::Unread(Unread { seq: 0, at, source, gpu, kind, why: Some("NVML: timeout".into()) }));
        assert!(unread.starts_with("gpu.temperature of GPU-0 cannot be read: NVML: timeout"), "{unread}");

        let why = Some("no value of metric.loss for 5 min".to_owned());
        let silent = cause_text(|run| {
            Input::Silent(Silent { seq: 0, at, run, metric: "loss".into(), rules: vec!["loss".into()], why })
        });
        assert_eq!(silent, "no value of metric.loss for 5 min; not judged: rule loss", "the reason is there once");

        let stale = cause_text(|_| Input::Tick(MonoTime(60_000_000_000)));
        assert!(stale.starts_with("no value came for 10 s: the ebpf sensor is blind"), "{stale}");
    }
}
