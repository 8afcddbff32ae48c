//! How a restart differs from the run that it continues, in words, for the entry of the decision to hold it: the engine decides at the
//! first difference, and whoever thaws the run has to see all.

use failsafe_core::{
    Input, Value,
    event::{DriftSince, Event},
    visible::shortened,
};

/// Differences that are named.
const NAMED: usize = 8;
/// Most bytes of one.
const BYTES: usize = 240;

/// Those of inputs that came together; `None`: there are none.
pub(super) fn of(inputs: &[Input]) -> Option<String> {
    let all = || inputs.iter().filter_map(difference);
    let named: Vec<String> = all().take(NAMED).map(|event| shortened(event.to_string(), BYTES)).collect();
    let more = all().count().saturating_sub(NAMED);
    let more = if more > 0 { format!("; and {more} more: failsafectl events --kind drift") } else { String::new() };
    (!named.is_empty()).then(|| format!("{}{more}", named.join("; ")))
}

fn difference(input: &Input) -> Option<&Event> {
    let Input::Signal(signal) = input else { return None };
    match &signal.value {
        Value::Event(event @ Event::Drift { since: DriftSince::Predecessor, .. }) => Some(event),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::translate::guarded;
    use failsafe_core::{MonoTime, event::FactorClass};

    fn inputs(n: usize, since: DriftSince) -> Vec<Input> {
        let run = failsafe_core::RunId(uuid::Uuid::from_u128(1));
        let event = |n: usize| Event::Drift {
            path: format!("run/env/V{n}"),
            old: Some("1".into()),
            new: Some("x".repeat(1_000)),
            class: FactorClass::Result,
            since,
        };
        (0..n).map(|n| guarded(run, event(n))).collect()
    }

    #[test]
    fn all_differences_of_a_restart_are_named_up_to_a_bound() {
        let text = of(&inputs(2, DriftSince::Predecessor)).unwrap();
        assert!(text.contains("run/env/V0") && text.contains("; run/env/V1") && !text.contains("more"), "{text}");
        let text = of(&inputs(20, DriftSince::Predecessor)).unwrap();
        assert!(text.contains("run/env/V7") && !text.contains("run/env/V8"), "{text}");
        assert!(text.ends_with("; and 12 more: failsafectl events --kind drift") && text.len() < 2_200, "{text}");
    }

    #[test]
    fn a_change_in_the_life_of_a_run_is_no_difference_of_a_restart() {
        let mut all = inputs(1, DriftSince::Earlier);
        all.push(Input::Tick(MonoTime(1)));
        assert_eq!(of(&all), None);
    }
}
